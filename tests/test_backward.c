#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "rules/model/backward.h"
#include "tests/tiny_llama.h"

/* Against automatic differentiation in double precision (tests/golden/grad). A gradient goes
 * through the whole model twice, each of 6 layers with 2 x 2 sums whose relative error is
 * near 1.7e-6 (see test_forward.c): 24 * 1.7e-6 = 4e-5, and as much again for the losses'
 * cancelling terms. */
#define GOLDEN_TOLERANCE 1e-4
/* Against differences of the loss in float arithmetic: a loss near 12 is exact to about 1e-6, and
 * the difference between the two sides of a step is chosen near 1e-2. */
#define DIFFERENCE_TOLERANCE 2e-3

enum { SAMPLES = 3, SEQUENCE = 24, ROWS = SAMPLES * SEQUENCE, WIDTH = 256, LAYERS = 6 };

static struct tiny_llama tiny;
static struct lq_error err;
static int32_t tokens[ROWS];

static void set_up(void)
{
    lq_error_clear(&err);
    tiny_open(&tiny);
    for (size_t i = 0; i < ROWS; i++) {
        tokens[i] = (int32_t)(i * 2654435761u % 4096u);
    }
}

static void tear_down(void)
{
    tiny_close(&tiny);
}

TestSuite(backward, .init = set_up, .fini = tear_down);

/* A weight source that hands out one tensor changed. */
struct changed {
    struct lq_model_tensor tensor;
    void *data; /* NULL: nothing is changed */
};

static struct changed changed;

static enum lq_status get_changed(void *user, const char *name,
                                  const struct lq_model_tensor **tensor, const void **data,
                                  struct lq_error *error)
{
    if (changed.data != NULL && strcmp(name, changed.tensor.name) == 0) {
        *tensor = &changed.tensor;
        *data = changed.data;
        return LQ_OK;
    }
    return tiny_get(user, name, tensor, data, error);
}

/* Everything that a pass over all layers leaves behind. */
struct pass {
    struct lq_pool *pool;
    struct lq_device *device;
    size_t batch_rows; /* 0: what is usual */
    float *hidden[LAYERS + 1];
    float *grad;
    double nll;
    double sums[LAYERS][LQ_LAYER_WEIGHT_COUNT][768];
    float *scores[LAYERS][LQ_LAYER_WEIGHT_COUNT];
};

static struct lq_forward_env make_env(struct pass *pass)
{
    return (struct lq_forward_env){.device = pass->device,
                                   .pool = pass->pool,
                                   .weights = {get_changed, &tiny},
                                   .batch_rows = pass->batch_rows,
                                   .nonfinite_status = LQ_EIMPORTANCE};
}

static void go_forward(struct pass *pass, const int32_t *ids, size_t samples, size_t sequence)
{
    struct lq_forward *forward = NULL;
    struct lq_forward_env env = make_env(pass);
    size_t rows = samples * sequence;
    cr_assert_eq(lq_forward_create(&forward, &tiny.hparams, &env, (uint32_t)sequence, &err), LQ_OK,
                 "%s", err.message);
    size_t batch = lq_forward_batch_samples(forward);
    for (int l = 0; l <= LAYERS; l++) {
        pass->hidden[l] = malloc(rows * WIDTH * sizeof(float));
    }
    cr_assert_eq(lq_forward_embed(forward, ids, rows, pass->hidden[0], &err), LQ_OK);
    for (uint32_t l = 0; l < LAYERS; l++) {
        memcpy(pass->hidden[l + 1], pass->hidden[l], rows * WIDTH * sizeof(float));
        cr_assert_eq(lq_forward_load_layer(forward, l, &err), LQ_OK, "%s", err.message);
        for (size_t s = 0; s < samples; s += batch) {
            size_t count = samples - s < batch ? samples - s : batch;
            cr_assert_eq(lq_forward_layer(forward, pass->hidden[l + 1] + s * sequence * WIDTH,
                                          count, false, false, &err),
                         LQ_OK, "%s", err.message);
        }
    }
    int32_t *targets = malloc(rows * sizeof *targets);
    double *nll = malloc(rows * sizeof *nll);
    for (size_t i = 0; i < rows; i++) {
        targets[i] = (i + 1) % sequence == 0 ? 0 : ids[i + 1];
    }
    cr_assert_eq(lq_forward_load_output(forward, &err), LQ_OK);
    cr_assert_eq(lq_forward_score(forward, pass->hidden[LAYERS], targets, rows, nll, &err), LQ_OK);
    for (size_t i = 0; i < rows; i++) {
        pass->nll += (i + 1) % sequence == 0 ? 0.0 : nll[i] / (double)(sequence - 1);
    }
    free(targets);
    free(nll);
    lq_forward_destroy(forward);
}

static enum lq_status go_back(struct pass *pass, const int32_t *ids, size_t samples,
                              size_t sequence, const struct lq_gradient_options *options)
{
    struct lq_backward *backward = NULL;
    struct lq_forward_env env = make_env(pass);
    enum lq_status status =
        lq_backward_create(&backward, &tiny.hparams, &env, (uint32_t)sequence, options, &err);
    cr_assert_eq(status, LQ_OK, "%s", err.message);
    size_t batch = lq_backward_batch_samples(backward);
    pass->grad = malloc(samples * sequence * WIDTH * sizeof(float));
    status = lq_backward_load_output(backward, &err);
    for (size_t s = 0; status == LQ_OK && s < samples; s += batch) {
        size_t at = s * sequence;
        status = lq_backward_output(backward, pass->hidden[LAYERS] + at * WIDTH, ids + at,
                                    samples - s < batch ? samples - s : batch,
                                    pass->grad + at * WIDTH, &err);
    }
    for (uint32_t l = LAYERS; status == LQ_OK && l-- > 0;) {
        status = lq_backward_load_layer(backward, l, &err);
        for (size_t s = 0; status == LQ_OK && s < samples; s += batch) {
            size_t at = s * sequence * WIDTH;
            status = lq_backward_layer(backward, pass->hidden[l] + at, pass->grad + at,
                                       samples - s < batch ? samples - s : batch, &err);
        }
        for (int w = 0; status == LQ_OK && w < LQ_LAYER_WEIGHT_COUNT; w++) {
            if (!lq_hparams_has(&tiny.hparams, w) ||
                lq_layer_weight_input(w) == LQ_LAYER_INPUT_COUNT) {
                continue;
            }
            const float *scores = NULL;
            uint64_t cols = 0;
            uint64_t rows = 0;
            lq_layer_weight_shape(&tiny.hparams, w, &cols, &rows);
            status = lq_backward_sums(backward, w, pass->sums[l][w], &err);
            if (status == LQ_OK && options->scores) {
                cr_assert_eq(lq_backward_scores(backward, w, &scores, &err), LQ_OK);
                pass->scores[l][w] = malloc(cols * rows * sizeof(float));
                memcpy(pass->scores[l][w], scores, cols * rows * sizeof(float));
            }
        }
    }
    lq_backward_destroy(backward);
    return status;
}

static void pass_open(struct pass *pass, unsigned threads)
{
    memset(pass, 0, sizeof *pass);
    cr_assert_eq(lq_pool_create(&pass->pool, threads, &err), LQ_OK);
    pass->device = lq_device_cpu_create(lq_forward_parallel(pass->pool), LQ_CPU_BLAS_AUTO);
    cr_assert_not_null(pass->device);
}

static void pass_close(struct pass *pass)
{
    for (int l = 0; l < LAYERS; l++) {
        for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
            free(pass->scores[l][w]);
        }
    }
    for (int l = 0; l <= LAYERS; l++) {
        free(pass->hidden[l]);
    }
    free(pass->grad);
    pass->device->ops->destroy(pass->device);
    lq_pool_destroy(pass->pool);
}

static void *read_golden(const char *name, size_t size_bytes)
{
    char path[512];
    struct lq_buffer bytes;
    lq_buffer_init(&bytes);
    snprintf(path, sizeof path, "%s/tests/golden/grad/%s", LQ_SOURCE_DIR, name);
    cr_assert_eq(lq_file_read(path, 1 << 20, &bytes, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(bytes.size_bytes, size_bytes, "%s", name);
    void *copy = malloc(size_bytes);
    memcpy(copy, bytes.data, size_bytes);
    lq_buffer_fini(&bytes);
    return copy;
}

static void check_golden(enum lq_gradient_method method, const char *name)
{
    static const enum lq_layer_weight order[] = {
        LQ_WEIGHT_ATTN_Q,   LQ_WEIGHT_ATTN_K, LQ_WEIGHT_ATTN_V,  LQ_WEIGHT_ATTN_OUTPUT,
        LQ_WEIGHT_FFN_GATE, LQ_WEIGHT_FFN_UP, LQ_WEIGHT_FFN_DOWN};
    static struct pass pass;
    pass_open(&pass, 2);
    go_forward(&pass, tokens, SAMPLES, SEQUENCE);
    double *losses = read_golden("losses.f64", SAMPLES * sizeof *losses);
    cr_expect_float_eq(pass.nll, losses[0] + losses[1] + losses[2], 1e-4);
    struct lq_gradient_options options = {.method = method, .scores = true};
    cr_assert_eq(go_back(&pass, tokens, SAMPLES, SEQUENCE, &options), LQ_OK, "%s", err.message);

    float *golden = read_golden(name, 2 * (6 * 256 + 768) * sizeof *golden);
    const float *expected = golden;
    double worst = 0.0;
    for (int l = 0; l < LAYERS; l += LAYERS - 1) {
        for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
            size_t cols = order[i] == LQ_WEIGHT_FFN_DOWN ? 768 : 256;
            for (size_t j = 0; j < cols; j++) {
                double want = (double)expected[j];
                double off = fabs(pass.sums[l][order[i]][j] - want) / want;
                worst = off > worst ? off : worst;
                cr_expect_float_eq(pass.sums[l][order[i]][j], want, GOLDEN_TOLERANCE * want,
                                   "layer %d weight %d column %zu: %g, expected %g", l, order[i], j,
                                   pass.sums[l][order[i]][j], want);
            }
            expected += cols;
        }
    }
    if (method == LQ_GRADIENT_PRODUCT) {
        float *scores = read_golden("scores-blk3-attn_v.f32", 1024 * sizeof *scores);
        for (size_t i = 0; i < 1024; i++) {
            cr_expect_float_eq(pass.scores[3][LQ_WEIGHT_ATTN_V][i], scores[i],
                               GOLDEN_TOLERANCE * scores[i] + 1e-9, "score %zu: %g, expected %g", i,
                               pass.scores[3][LQ_WEIGHT_ATTN_V][i], scores[i]);
        }
        free(scores);
    }
    if (getenv("LQ_TEST_SHOW") != NULL) {
        printf("%s: largest relative difference %g\n", name, worst);
    }
    free(losses);
    free(golden);
    pass_close(&pass);
}

Test(backward, products_agree_with_automatic_differentiation)
{
    check_golden(LQ_GRADIENT_PRODUCT, "product.f32");
}

Test(backward, squares_agree_with_automatic_differentiation)
{
    check_golden(LQ_GRADIENT_FISHER, "fisher.f32");
}

/* The layer's matrix as floats, in the order of the index, with `by` added to one weight. */
static void change_weight(uint32_t layer, enum lq_layer_weight weight, size_t at, double by)
{
    char name[LQ_WEIGHT_NAME_BYTES];
    lq_layer_weight_path(layer, weight, name);
    const struct lq_model_tensor *tensor = lq_tensor_index_find(&tiny.index, name);
    size_t elems = (size_t)(tensor->ne[0] * tensor->ne[1]);
    float *values = malloc(elems * sizeof *values);
    cr_assert_eq(lq_model_tensor_rows(tensor, tiny.map.data + tensor->offset, 0, tensor->ne[1],
                                      values, &err),
                 LQ_OK);
    values[at] = (float)((double)values[at] + by);
    changed.tensor = *tensor;
    changed.tensor.dtype = LQ_DTYPE_F32;
    changed.tensor.size_bytes = elems * sizeof *values;
    changed.tensor.permute_heads = 0;
    changed.data = values;
}

static double loss_with(uint32_t layer, enum lq_layer_weight weight, size_t at, double by)
{
    struct pass pass;
    change_weight(layer, weight, at, by);
    pass_open(&pass, 2);
    go_forward(&pass, tokens, 1, SEQUENCE);
    double loss = pass.nll;
    pass_close(&pass);
    free(changed.data);
    changed.data = NULL;
    return loss;
}

/* For a weight of every matrix, in several layers: the one with the largest gradient, so that a
 * step moves the loss by much more than its rounding. */
Test(backward, agrees_with_differences_of_the_loss)
{
    static struct pass pass;
    pass_open(&pass, 2);
    go_forward(&pass, tokens, 1, SEQUENCE);
    struct lq_gradient_options options = {.method = LQ_GRADIENT_PRODUCT, .scores = true};
    cr_assert_eq(go_back(&pass, tokens, 1, SEQUENCE, &options), LQ_OK, "%s", err.message);
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        if (!lq_hparams_has(&tiny.hparams, w) || lq_layer_weight_input(w) == LQ_LAYER_INPUT_COUNT) {
            continue;
        }
        uint32_t layer = (uint32_t)w % LAYERS;
        uint64_t cols = 0;
        uint64_t rows = 0;
        lq_layer_weight_shape(&tiny.hparams, w, &cols, &rows);
        const float *scores = pass.scores[layer][w];
        size_t best = 0;
        for (size_t i = 0; i < cols * rows; i++) {
            best = scores[i] > scores[best] ? i : best;
        }
        change_weight(layer, w, best, 0.0);
        double value = fabs((double)((float *)changed.data)[best]);
        free(changed.data);
        double gradient = (double)scores[best] / value;
        double step = 2e-3 / gradient;
        step = step > 0.05 ? 0.05 : step;
        /* Two step sizes cancel the error of third order (Richardson). */
        double far =
            (loss_with(layer, w, best, step) - loss_with(layer, w, best, -step)) / 2 / step;
        step /= 2;
        double near =
            (loss_with(layer, w, best, step) - loss_with(layer, w, best, -step)) / 2 / step;
        double expected = fabs((4.0 * near - far) / 3.0);
        cr_expect_float_eq(gradient, expected, DIFFERENCE_TOLERANCE * expected,
                           "layer %u weight %d: gradient %g, differences give %g", layer, w,
                           gradient, expected);
        if (getenv("LQ_TEST_SHOW") != NULL) {
            printf("layer %u weight %d: %.6g %.6g (%.2g)\n", layer, w, gradient, expected,
                   gradient / expected - 1.0);
        }
    }
    pass_close(&pass);
}

/* 80 samples of 33 tokens: more than one batch, and lengths that divide nothing. */
static void compare_passes(const unsigned threads[2], const size_t batch_rows[2])
{
    enum { MANY = 80, LENGTH = 33 };
    static struct pass passes[2];
    int32_t *ids = malloc(MANY * LENGTH * sizeof *ids);
    for (size_t i = 0; i < MANY * LENGTH; i++) {
        ids[i] = (int32_t)(i * 2654435761u % 4096u);
    }
    for (unsigned i = 0; i < 2; i++) {
        struct lq_gradient_options options = {.method = LQ_GRADIENT_FISHER, .scores = true};
        pass_open(&passes[i], threads[i]);
        passes[i].batch_rows = batch_rows[i];
        go_forward(&passes[i], ids, MANY, LENGTH);
        cr_assert_eq(go_back(&passes[i], ids, MANY, LENGTH, &options), LQ_OK, "%s", err.message);
    }
    cr_expect_eq(memcmp(passes[0].sums, passes[1].sums, sizeof passes[0].sums), 0);
    cr_expect_eq(memcmp(passes[0].grad, passes[1].grad, MANY * LENGTH * WIDTH * sizeof(float)), 0);
    cr_expect_eq(memcmp(passes[0].scores[2][LQ_WEIGHT_FFN_DOWN],
                        passes[1].scores[2][LQ_WEIGHT_FFN_DOWN], 768 * 256 * sizeof(float)),
                 0);
    pass_close(&passes[0]);
    pass_close(&passes[1]);
    free(ids);
}

Test(backward, bits_do_not_depend_on_threads)
{
    compare_passes((unsigned[]){1, 3}, (size_t[]){0, 0});
}

Test(backward, bits_do_not_depend_on_batches_where_products_are_our_tiles)
{
    struct lq_device *device = lq_device_cpu_create(lq_forward_parallel(NULL), LQ_CPU_BLAS_AUTO);
    bool is_ours = device->ops->arrange != NULL;
    device->ops->destroy(device);
    if (!is_ours) {
        cr_skip_test("with OpenBLAS bits depend on the shape of a product");
    }
    compare_passes((unsigned[]){2, 2}, (size_t[]){200, 2048});
}

/* The gradient of the sample's mean without the first token's rows: changed sums, same stream. */
Test(backward, the_first_token_can_be_left_out)
{
    static struct pass with;
    static struct pass without;
    struct lq_gradient_options options = {.method = LQ_GRADIENT_PRODUCT};
    pass_open(&with, 1);
    go_forward(&with, tokens, 1, SEQUENCE);
    cr_assert_eq(go_back(&with, tokens, 1, SEQUENCE, &options), LQ_OK);
    options.skip_first = true;
    pass_open(&without, 1);
    go_forward(&without, tokens, 1, SEQUENCE);
    cr_assert_eq(go_back(&without, tokens, 1, SEQUENCE, &options), LQ_OK);
    cr_expect_eq(memcmp(with.grad, without.grad, SEQUENCE * WIDTH * sizeof(float)), 0);
    cr_expect_neq(memcmp(with.sums, without.sums, sizeof with.sums), 0);
    pass_close(&with);
    pass_close(&without);
}

Test(backward, one_token_has_no_next)
{
    struct pass pass;
    struct lq_backward *backward = NULL;
    struct lq_gradient_options options = {.method = LQ_GRADIENT_FISHER};
    pass_open(&pass, 1);
    struct lq_forward_env env = make_env(&pass);
    cr_expect_eq(lq_backward_create(&backward, &tiny.hparams, &env, 1, &options, &err),
                 LQ_ECALIBRATION);
    cr_expect_null(backward);
    cr_expect_not_null(strstr(err.message, "at least 2 tokens"), "%s", err.message);
    pass_close(&pass);
}

Test(backward, gradients_that_are_not_finite_name_the_tensor)
{
    struct pass pass;
    struct lq_backward *backward = NULL;
    struct lq_gradient_options options = {.method = LQ_GRADIENT_FISHER};
    pass_open(&pass, 1);
    go_forward(&pass, tokens, 1, SEQUENCE);
    struct lq_forward_env env = make_env(&pass);
    cr_assert_eq(lq_backward_create(&backward, &tiny.hparams, &env, SEQUENCE, &options, &err),
                 LQ_OK);
    cr_assert_eq(lq_backward_load_layer(backward, 3, &err), LQ_OK);
    float *grad = calloc(SEQUENCE * WIDTH, sizeof *grad);
    grad[5 * WIDTH + 7] = INFINITY;
    cr_expect_eq(lq_backward_layer(backward, pass.hidden[3], grad, 1, &err), LQ_EIMPORTANCE);
    cr_expect_not_null(strstr(err.message, "'blk.3.ffn_down.weight'"), "%s", err.message);
    lq_backward_destroy(backward);
    free(grad);
    pass_close(&pass);
}
