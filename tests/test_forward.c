#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "rules/model/moments.h"
#include "tests/tiny_llama.h"

/* Against a double-precision reference. Each of the 6 layers adds two products whose sums of up to
 * 768 terms carry a relative error near sqrt(768) * 2^-24 = 1.7e-6; on logits up to 20 twelve of
 * them make 4e-4 if all point the same way. */
#define LOGIT_TOLERANCE 4e-4
/* Sums of squares over 40 tokens: twice the relative error of an activation, 12 * 1.7e-6. */
#define SQUARES_TOLERANCE 4e-5

enum { GOLDEN_TOKENS = 40 };

static struct tiny_llama tiny;
static struct lq_error err;
static struct lq_buffer golden;

static void set_up(void)
{
    lq_error_clear(&err);
    lq_buffer_init(&golden);
    tiny_open(&tiny);
}

static void tear_down(void)
{
    lq_buffer_fini(&golden);
    tiny_close(&tiny);
}

TestSuite(forward, .init = set_up, .fini = tear_down);

static const void *read_golden(const char *name, size_t size_bytes)
{
    char path[512];
    snprintf(path, sizeof path, "%s/tests/golden/tiny-llama/%s", LQ_SOURCE_DIR, name);
    lq_buffer_clear(&golden);
    cr_assert_eq(lq_file_read(path, 1 << 20, &golden, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(golden.size_bytes, size_bytes, "%s", name);
    return golden.data;
}

struct engine {
    struct lq_pool *pool;
    struct lq_device *device;
    struct lq_forward *forward;
};

static struct lq_forward_env make_env(struct engine *engine)
{
    struct lq_forward_env env = {
        .device = engine->device,
        .pool = engine->pool,
        .weights = {tiny_get, &tiny},
        .nonfinite_status = LQ_EIMPORTANCE,
    };
    return env;
}

static void engine_open(struct engine *engine, unsigned threads, uint32_t sequence,
                        enum lq_cpu_blas blas)
{
    cr_assert_eq(lq_pool_create(&engine->pool, threads, &err), LQ_OK);
    engine->device = lq_device_cpu_create(lq_forward_parallel(engine->pool), blas);
    cr_assert_not_null(engine->device);
    struct lq_forward_env env = make_env(engine);
    cr_assert_eq(lq_forward_create(&engine->forward, &tiny.hparams, &env, sequence, &err), LQ_OK,
                 "%s", err.message);
}

static void engine_close(struct engine *engine)
{
    lq_forward_destroy(engine->forward);
    engine->device->ops->destroy(engine->device);
    lq_pool_destroy(engine->pool);
}

/* Hidden states after all layers; sums of the last layer's inputs stay in the object. */
static void run_layers(struct engine *engine, const int32_t *tokens, size_t samples,
                       size_t sequence, float *hidden)
{
    struct lq_forward *forward = engine->forward;
    cr_assert_eq(lq_forward_embed(forward, tokens, samples * sequence, hidden, &err), LQ_OK, "%s",
                 err.message);
    size_t batch = lq_forward_batch_samples(forward);
    for (uint32_t layer = 0; layer < tiny.hparams.layer_count; layer++) {
        cr_assert_eq(lq_forward_load_layer(forward, layer, &err), LQ_OK, "%s", err.message);
        for (size_t s = 0; s < samples; s += batch) {
            size_t count = samples - s < batch ? samples - s : batch;
            cr_assert_eq(lq_forward_layer(forward, hidden + s * sequence * tiny.hparams.width,
                                          count, true, false, &err),
                         LQ_OK, "%s", err.message);
        }
    }
}

static void check_golden(enum lq_cpu_blas blas)
{
    int32_t tokens[GOLDEN_TOKENS];
    memcpy(tokens, read_golden("forward-tokens.i32", sizeof tokens), sizeof tokens);
    struct engine engine;
    engine_open(&engine, 2, GOLDEN_TOKENS, blas);
    float *hidden = malloc(GOLDEN_TOKENS * 256 * sizeof *hidden);
    run_layers(&engine, tokens, 1, GOLDEN_TOKENS, hidden);

    const double *squares = read_golden("forward-squares-blk5.f64", (256 * 3 + 768) * 8);
    for (int input = 0; input < LQ_LAYER_INPUT_COUNT; input++) {
        double sums[768];
        cr_assert_eq(lq_forward_sums(engine.forward, input, sums, &err), LQ_OK, "%s", err.message);
        size_t cols = lq_layer_input_cols(&tiny.hparams, input);
        for (size_t j = 0; j < cols; j++) {
            cr_expect_float_eq(sums[j], squares[j], SQUARES_TOLERANCE * squares[j] + 1e-9,
                               "input %d column %zu: %g, expected %g", input, j, sums[j],
                               squares[j]);
        }
        squares += cols;
    }

    cr_assert_eq(lq_forward_load_output(engine.forward, &err), LQ_OK, "%s", err.message);
    float *logits = malloc(4096 * sizeof *logits);
    cr_assert_eq(lq_forward_logits(engine.forward, hidden + 39 * 256, 1, logits, &err), LQ_OK);
    const float *expected = read_golden("forward-logits.f32", 4096 * 4);
    for (size_t j = 0; j < 4096; j++) {
        cr_expect_float_eq(logits[j], expected[j], LOGIT_TOLERANCE, "logit %zu", j);
    }
    double nll[GOLDEN_TOKENS];
    cr_assert_eq(lq_forward_score(engine.forward, hidden, tokens + 1, 39, nll, &err), LQ_OK);
    const double *nll_expected = read_golden("forward-nll.f64", 39 * 8);
    for (size_t i = 0; i < 39; i++) {
        cr_expect_float_eq(nll[i], nll_expected[i], LOGIT_TOLERANCE, "position %zu", i);
    }
    free(logits);
    free(hidden);
    engine_close(&engine);
}

Test(forward, agrees_with_the_reference_on_openblas_or_without)
{
    check_golden(LQ_CPU_BLAS_AUTO);
}

Test(forward, agrees_with_the_reference_on_own_loops)
{
    check_golden(LQ_CPU_BLAS_OWN);
}

/* 100 samples of 33 tokens: more than one batch, and lengths that divide nothing. */
Test(forward, bits_do_not_depend_on_threads)
{
    enum { SAMPLES = 100, SEQUENCE = 33, ROWS = SAMPLES * SEQUENCE };
    int32_t *tokens = malloc(ROWS * sizeof *tokens);
    for (size_t i = 0; i < ROWS; i++) {
        tokens[i] = (int32_t)(i * 2654435761u % 4096u);
    }
    float *hidden[2];
    double sums[2][LQ_LAYER_INPUT_COUNT][768];
    double *nll[2];
    memset(sums, 0, sizeof sums);
    for (unsigned run = 0; run < 2; run++) {
        struct engine engine;
        engine_open(&engine, run + 1, SEQUENCE, LQ_CPU_BLAS_AUTO);
        hidden[run] = malloc(ROWS * 256 * sizeof(float));
        nll[run] = malloc(ROWS * sizeof(double));
        run_layers(&engine, tokens, SAMPLES, SEQUENCE, hidden[run]);
        for (int input = 0; input < LQ_LAYER_INPUT_COUNT; input++) {
            cr_assert_eq(lq_forward_sums(engine.forward, input, sums[run][input], &err), LQ_OK);
        }
        cr_assert_eq(lq_forward_load_output(engine.forward, &err), LQ_OK);
        cr_assert_eq(lq_forward_score(engine.forward, hidden[run], tokens, ROWS, nll[run], &err),
                     LQ_OK);
        engine_close(&engine);
    }
    cr_expect_eq(memcmp(hidden[0], hidden[1], ROWS * 256 * sizeof(float)), 0);
    cr_expect_eq(memcmp(sums[0], sums[1], sizeof sums[0]), 0);
    cr_expect_eq(memcmp(nll[0], nll[1], ROWS * sizeof(double)), 0);
    for (unsigned run = 0; run < 2; run++) {
        free(hidden[run]);
        free(nll[run]);
    }
    free(tokens);
}

/* The rows that a perplexity needs, of 130 samples; more than one batch in any case. */
enum { MANY = 130, LENGTH = 17, FIRST = 8, WANTED = 8 };

struct passed {
    float hidden[(size_t)MANY * LENGTH * 256];
    float rows[(size_t)MANY * WANTED * 256];
    double nll[MANY * WANTED];
};

/* All layers but for the last one's rows; matrices in the device's own order or not. */
static void pass_rows(struct passed *out, enum lq_cpu_blas blas, bool only_products)
{
    struct engine engine;
    int32_t tokens[MANY * LENGTH];
    for (int i = 0; i < MANY * LENGTH; i++) {
        tokens[i] = i * 97 % 4096;
    }
    engine_open(&engine, 2, LENGTH, blas);
    lq_forward_destroy(engine.forward);
    struct lq_forward_env env = make_env(&engine);
    env.only_products = only_products;
    cr_assert_eq(lq_forward_create(&engine.forward, &tiny.hparams, &env, LENGTH, &err), LQ_OK);
    run_layers(&engine, tokens, MANY, LENGTH, out->hidden);
    cr_assert_eq(lq_forward_load_layer(engine.forward, 5, &err), LQ_OK, "%s", err.message);
    size_t batch = lq_forward_batch_samples(engine.forward);
    float *copy = malloc(sizeof out->hidden);
    memcpy(copy, out->hidden, sizeof out->hidden);
    for (size_t s = 0; s < MANY; s += batch) {
        size_t count = MANY - s < batch ? MANY - s : batch;
        const struct lq_forward_place place = {.host = copy + s * LENGTH * 256};
        cr_assert_eq(lq_forward_layer_rows(engine.forward, &place, count, FIRST, WANTED, &err),
                     LQ_OK, "%s", err.message);
        memcpy(out->rows + s * WANTED * 256, copy + s * LENGTH * 256,
               count * WANTED * 256 * sizeof(float));
        cr_assert_eq(lq_forward_layer(engine.forward, out->hidden + s * LENGTH * 256, count, false,
                                      false, &err),
                     LQ_OK, "%s", err.message);
    }
    const struct lq_forward_place bad = {.host = copy};
    cr_expect_eq(lq_forward_layer_rows(engine.forward, &bad, 1, FIRST, FIRST + 1, &err),
                 LQ_EINTERNAL);
    cr_assert_eq(lq_forward_load_output(engine.forward, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_forward_score(engine.forward, out->rows, tokens, MANY * WANTED, out->nll, &err),
                 LQ_OK, "%s", err.message);
    free(copy);
    engine_close(&engine);
}

Test(forward, bits_depend_neither_on_the_order_of_matrices_nor_on_rows_that_are_left_out)
{
    static const enum lq_cpu_blas paths[] = {LQ_CPU_BLAS_AUTO, LQ_CPU_BLAS_SHORT};
    struct passed *passed = malloc(2 * sizeof *passed);
    for (size_t p = 0; p < sizeof paths / sizeof paths[0]; p++) {
        struct lq_device *device = lq_device_cpu_create(lq_forward_parallel(NULL), paths[p]);
        bool is_ours = device->ops->arrange != NULL;
        device->ops->destroy(device);
        if (!is_ours) {
            continue; /* with OpenBLAS bits depend on the shape of a product */
        }
        pass_rows(&passed[0], paths[p], false);
        pass_rows(&passed[1], paths[p], true);
        cr_assert_eq(memcmp(passed[0].hidden, passed[1].hidden, sizeof passed->hidden), 0);
        cr_assert_eq(memcmp(passed[0].rows, passed[1].rows, sizeof passed->rows), 0);
        cr_assert_eq(memcmp(passed[0].nll, passed[1].nll, sizeof passed->nll), 0);
        for (size_t s = 0; s < MANY; s++) {
            cr_assert_eq(memcmp(passed[0].rows + s * WANTED * 256,
                                passed[0].hidden + (s * LENGTH + FIRST) * 256,
                                (size_t)WANTED * 256 * sizeof(float)),
                         0, "sample %zu", s);
        }
    }
    free(passed);
}

static void fill_hidden(float *hidden, size_t count, float factor)
{
    for (size_t i = 0; i < count; i++) {
        hidden[i] = (float)(i % 7) * factor;
    }
}

static void add_moments(void *user, enum lq_layer_input input, size_t col, const float *values,
                        size_t count)
{
    (void)input;
    (void)col;
    lq_moments_add(user, NULL, values, count);
}

/* A layer in parts: the same rows, and each shows what flows into the matrices that it ends at. */
Test(forward, parts_of_a_layer_make_the_layer)
{
    enum { SAMPLES = 32, TOKENS = 16 };
    static const enum lq_forward_stage stages[] = {LQ_STAGE_ATTN, LQ_STAGE_ATTN_OUTPUT,
                                                   LQ_STAGE_FFN, LQ_STAGE_FFN_DOWN, LQ_STAGE_END};
    static float whole[SAMPLES * TOKENS * 256];
    static float parts[SAMPLES * TOKENS * 256];
    struct engine engine;
    engine_open(&engine, 2, TOKENS, LQ_CPU_BLAS_AUTO);
    fill_hidden(whole, SAMPLES * TOKENS * 256, 1.0F);
    memcpy(parts, whole, sizeof parts);
    cr_assert_eq(lq_forward_load_layer(engine.forward, 2, &err), LQ_OK);
    cr_assert_eq(lq_forward_layer(engine.forward, whole, SAMPLES, true, false, &err), LQ_OK);
    for (size_t s = 0; s < 5; s++) {
        struct lq_forward *part = NULL;
        struct lq_forward_env env = make_env(&engine);
        double squares[768];
        struct lq_moments moments;
        enum lq_layer_input input = lq_forward_stage_input(stages[s]);
        bool is_end = stages[s] == LQ_STAGE_END;
        size_t cols = is_end ? 0 : lq_layer_input_cols(&tiny.hparams, input);
        cr_assert_eq(lq_moments_init(&moments, cols, &err), LQ_OK);
        env.watch = add_moments;
        env.watch_user = &moments;
        env.stage = stages[s];
        env.only_products = true;
        cr_assert_eq(lq_forward_create(&part, &tiny.hparams, &env, TOKENS, &err), LQ_OK);
        cr_assert_eq(lq_forward_load_layer(part, 2, &err), LQ_OK, "%s", err.message);
        cr_assert_eq(lq_forward_layer(part, parts, SAMPLES, true, false, &err), LQ_OK, "%s",
                     err.message);
        cr_expect_eq(input == LQ_LAYER_INPUT_COUNT, is_end);
        if (cols != 0) {
            cr_assert_eq(lq_moments_finish(&moments, NULL, &err), LQ_OK);
            cr_assert_eq(lq_forward_sums(engine.forward, input, squares, &err), LQ_OK);
            cr_expect_eq(moments.row_count, SAMPLES * TOKENS);
        }
        for (size_t j = 0; j < cols; j++) {
            /* 512 products summed up in floats. */
            cr_expect_float_eq((double)moments.sums[j * cols + j], squares[j], squares[j] * 1e-5);
        }
        lq_moments_fini(&moments);
        lq_forward_destroy(part);
    }
    cr_expect_eq(memcmp(whole, parts, sizeof parts), 0);
    engine_close(&engine);
}

/* Each sample sees only itself: its hidden states are those it has alone. */
Test(forward, samples_do_not_see_each_other)
{
    enum { SEQUENCE = 20 };
    int32_t tokens[2 * SEQUENCE];
    for (int i = 0; i < 2 * SEQUENCE; i++) {
        tokens[i] = i * 97 % 4096;
    }
    struct engine engine;
    engine_open(&engine, 1, SEQUENCE, LQ_CPU_BLAS_OWN);
    float *both = malloc(2 * SEQUENCE * 256 * sizeof *both);
    float *alone = malloc(SEQUENCE * 256 * sizeof *alone);
    run_layers(&engine, tokens, 2, SEQUENCE, both);
    run_layers(&engine, tokens + SEQUENCE, 1, SEQUENCE, alone);
    for (size_t i = 0; i < SEQUENCE * 256; i++) {
        cr_assert_float_eq(both[SEQUENCE * 256 + i], alone[i], 1e-4);
    }
    free(both);
    free(alone);
    engine_close(&engine);
}

static enum lq_status get_poisoned(void *user, const char *name,
                                   const struct lq_model_tensor **tensor, const void **data,
                                   struct lq_error *error)
{
    static unsigned char copy[768 * 256 * 2];
    enum lq_status status = tiny_get(&tiny, name, tensor, data, error);
    if (status == LQ_OK && strcmp(name, user) == 0) {
        memcpy(copy, *data, (*tensor)->size_bytes);
        copy[(*tensor)->size_bytes - 2] = 0x80; /* bf16 infinity, 0x7f80 */
        copy[(*tensor)->size_bytes - 1] = 0x7f;
        *data = copy;
    }
    return status;
}

Test(forward, infinite_weights_are_named)
{
    static char name[] = "blk.1.ffn_up.weight";
    struct engine engine;
    engine_open(&engine, 1, 8, LQ_CPU_BLAS_OWN);
    lq_forward_destroy(engine.forward);
    struct lq_forward_env env = make_env(&engine);
    env.weights.get = get_poisoned;
    env.weights.user = name;
    cr_assert_eq(lq_forward_create(&engine.forward, &tiny.hparams, &env, 8, &err), LQ_OK);
    cr_expect_eq(lq_forward_load_layer(engine.forward, 0, &err), LQ_OK);
    cr_expect_eq(lq_forward_load_layer(engine.forward, 1, &err), LQ_EIMPORTANCE);
    cr_expect(strstr(err.message, name) != NULL, "%s", err.message);
    engine_close(&engine);
}

Test(forward, infinite_activations_are_named)
{
    struct engine engine;
    engine_open(&engine, 1, 4, LQ_CPU_BLAS_OWN);
    float hidden[4 * 256] = {0};
    double sums[768];
    hidden[300] = INFINITY;
    cr_assert_eq(lq_forward_load_layer(engine.forward, 2, &err), LQ_OK);
    cr_expect_eq(lq_forward_layer(engine.forward, hidden, 1, true, false, &err), LQ_EIMPORTANCE);
    cr_expect(strstr(err.message, "layer 2") != NULL, "%s", err.message);
    cr_expect_eq(lq_forward_sums(engine.forward, LQ_INPUT_ATTN, sums, &err), LQ_EIMPORTANCE);
    cr_expect(strstr(err.message, "blk.2.attn_q.weight") != NULL, "%s", err.message);
    engine_close(&engine);
}

static bool always(void *user)
{
    (void)user;
    return true;
}

/* A row that is left out has no query where the device picks them, but it has a key. Queries that
 * an earlier batch left in memory are not looked at. */
Test(forward, infinite_activations_of_rows_that_are_left_out_are_named)
{
    enum { SEQUENCE = 8, HALF = SEQUENCE / 2, ELEMS = SEQUENCE * 256 };
    struct engine engine;
    float hidden[ELEMS];
    const struct lq_forward_place place = {.host = hidden};
    engine_open(&engine, 1, SEQUENCE, LQ_CPU_BLAS_AUTO);
    bool picks = engine.device->ops->picks_queries;
    cr_assert_eq(lq_forward_load_layer(engine.forward, 5, &err), LQ_OK, "%s", err.message);
    fill_hidden(hidden, ELEMS, INFINITY);
    cr_expect_eq(lq_forward_layer(engine.forward, hidden, 1, false, false, &err), LQ_EIMPORTANCE);
    fill_hidden(hidden, ELEMS, 0.25f);
    hidden[256] = INFINITY;
    cr_expect_eq(lq_forward_layer_rows(engine.forward, &place, 1, HALF, HALF - 1, &err),
                 LQ_EIMPORTANCE);
    const char *place_name = picks ? "behind 'blk.5.attn_k" : "behind 'blk.5.attn_q";
    cr_expect_not_null(strstr(err.message, place_name), "%s", err.message);
    fill_hidden(hidden, ELEMS, 0.25f);
    cr_expect_eq(lq_forward_layer_rows(engine.forward, &place, 1, HALF, HALF - 1, &err), LQ_OK,
                 "%s", err.message);
    engine_close(&engine);
}

Test(forward, cancellation_ends_a_layer_and_a_score)
{
    struct engine engine;
    engine_open(&engine, 1, 4, LQ_CPU_BLAS_OWN);
    lq_forward_destroy(engine.forward);
    struct lq_forward_env env = make_env(&engine);
    env.cancelled = always;
    cr_assert_eq(lq_forward_create(&engine.forward, &tiny.hparams, &env, 4, &err), LQ_OK);
    float hidden[4 * 256] = {0};
    int32_t targets[4] = {0};
    double nll[4];
    cr_assert_eq(lq_forward_load_layer(engine.forward, 0, &err), LQ_OK);
    cr_expect_eq(lq_forward_layer(engine.forward, hidden, 1, true, false, &err), LQ_ECANCELLED);
    cr_assert_eq(lq_forward_load_output(engine.forward, &err), LQ_OK);
    cr_expect_eq(lq_forward_score(engine.forward, hidden, targets, 4, nll, &err), LQ_ECANCELLED);
    engine_close(&engine);
}

Test(forward, absurd_sequences_are_refused)
{
    struct engine engine;
    engine_open(&engine, 1, 1, LQ_CPU_BLAS_OWN);
    struct lq_forward_env env = make_env(&engine);
    struct lq_forward *none = NULL;
    cr_expect_eq(lq_forward_create(&none, &tiny.hparams, &env, 0, &err), LQ_ECALIBRATION);
    cr_expect_eq(lq_forward_create(&none, &tiny.hparams, &env, 0xffffffffu, &err), LQ_ECALIBRATION);
    cr_expect_null(none);
    engine_close(&engine);
}
