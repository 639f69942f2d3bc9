#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "rules/quality/perplexity.h"
#include "tests/tiny_llama.h"

static struct tiny_llama tiny;
static struct lq_error err;
static struct lq_pool *pool;
static struct lq_device *device;
static struct lq_forward *forward;

enum { CONTEXT = 20, CHUNKS = 3 };

static int32_t ids[CHUNKS * CONTEXT];
static struct lq_tokens tokens = {CHUNKS, CONTEXT, LQ_TOKENS_NO_BOS, ids};

static void set_up(void)
{
    lq_error_clear(&err);
    tiny_open(&tiny);
    for (int i = 0; i < CHUNKS * CONTEXT; i++) {
        ids[i] = i * 613 % 4096;
    }
    cr_assert_eq(lq_pool_create(&pool, 2, &err), LQ_OK);
    device = lq_device_cpu_create(lq_forward_parallel(pool), LQ_CPU_BLAS_AUTO);
    struct lq_forward_env env = {
        .device = device, .pool = pool, .weights = {tiny_get, &tiny}, .nonfinite_status = LQ_EFAIL};
    cr_assert_eq(lq_forward_create(&forward, &tiny.hparams, &env, CONTEXT, &err), LQ_OK);
}

static void tear_down(void)
{
    lq_forward_destroy(forward);
    device->ops->destroy(device);
    lq_pool_destroy(pool);
    tiny_close(&tiny);
}

TestSuite(perplexity, .init = set_up, .fini = tear_down);

static void watch_progress(void *user, uint64_t done, uint64_t total)
{
    uint64_t *last = user;
    cr_expect_gt(done, *last);
    cr_expect_leq(done, total);
    *last = done;
}

/* A model in memory, all samples in one batch. */
static float *states;

static void run_layers(void)
{
    states = calloc((size_t)CHUNKS * CONTEXT, 256 * sizeof *states);
    cr_assert_eq(lq_forward_embed(forward, ids, (size_t)CHUNKS * CONTEXT, states, &err), LQ_OK);
    for (uint32_t layer = 0; layer < 6; layer++) {
        cr_assert_eq(lq_forward_load_layer(forward, layer, &err), LQ_OK);
        cr_assert_eq(lq_forward_layer(forward, states, CHUNKS, false, false, &err), LQ_OK);
    }
    cr_assert_eq(lq_forward_load_output(forward, &err), LQ_OK);
}

static enum lq_status read_states(void *user, size_t first_sample, size_t samples, float *rows,
                                  struct lq_error *error)
{
    size_t scored = lq_perplexity_scored(CONTEXT);
    (void)user;
    (void)error;
    for (size_t s = 0; s < samples; s++) {
        memcpy(rows + s * scored * 256, states + ((first_sample + s) * CONTEXT + CONTEXT / 2) * 256,
               scored * 256 * sizeof *rows);
    }
    return LQ_OK;
}

static enum lq_status score_states(void *user, size_t lane, size_t first_row, size_t rows,
                                   const float *hidden, const int32_t *targets, double *nll,
                                   struct lq_error *error)
{
    (void)user;
    (void)lane;
    (void)first_row;
    return lq_forward_score(forward, hidden, targets, rows, nll, error);
}

/* The protocol by hand: positions 10 to 18 of each chunk of 20, each chunk alone. */
Test(perplexity, scores_the_second_half_of_each_chunk)
{
    struct lq_perplexity got;
    uint64_t last = 0;
    struct lq_perplexity_source source = {.tokens = &tokens,
                                          .width = 256,
                                          .read = read_states,
                                          .score = score_states,
                                          .report = watch_progress,
                                          .user = &last};
    run_layers();
    cr_assert_eq(lq_perplexity_measure(&source, &got, &err), LQ_OK, "%s", err.message);
    free(states);
    cr_expect_eq(last, (uint64_t)CHUNKS * CONTEXT);

    static float hidden[CONTEXT * 256];
    double sum = 0.0;
    double squares = 0.0;
    for (int c = 0; c < CHUNKS; c++) {
        double nll[CONTEXT];
        const int32_t *chunk = ids + c * CONTEXT;
        cr_assert_eq(lq_forward_embed(forward, chunk, CONTEXT, hidden, &err), LQ_OK);
        for (uint32_t layer = 0; layer < 6; layer++) {
            cr_assert_eq(lq_forward_load_layer(forward, layer, &err), LQ_OK);
            cr_assert_eq(lq_forward_layer(forward, hidden, 1, false, false, &err), LQ_OK);
        }
        cr_assert_eq(lq_forward_load_output(forward, &err), LQ_OK);
        cr_assert_eq(lq_forward_score(forward, hidden, chunk + 1, CONTEXT - 1, nll, &err), LQ_OK);
        for (int i = CONTEXT / 2; i <= CONTEXT - 2; i++) {
            sum += nll[i];
            squares += nll[i] * nll[i];
        }
    }
    double count = CHUNKS * 9;
    double mean = sum / count;
    cr_expect_eq(got.tokens, CHUNKS * 9);
    cr_expect_eq(got.chunks, CHUNKS);
    cr_expect_eq(got.context, CONTEXT);
    /* Other batch shapes, so other rounding: test_forward.c's tolerance for one score. */
    cr_expect_float_eq(got.nll, mean, 4e-4);
    cr_expect_float_eq(got.ppl, exp(got.nll), 1e-9 * got.ppl);
    double deviation = sqrt((squares / count - mean * mean) / (count - 1.0));
    cr_expect_float_eq(got.plus_minus, got.ppl * deviation, 1e-3 * got.plus_minus);
}

/* Long chunks, a batch each; what is made up for a position depends on its number alone. */
enum { LONG_CHUNKS = 7, LONG_CONTEXT = 4096 };

static size_t bad_chunk; /* from it on nothing is a number */

static enum lq_status read_numbers(void *user, size_t first_sample, size_t samples, float *rows,
                                   struct lq_error *error)
{
    size_t scored = lq_perplexity_scored(LONG_CONTEXT);
    (void)user;
    (void)error;
    for (size_t i = 0; i < samples * scored; i++) {
        rows[i] = (float)(first_sample * scored + i);
    }
    return LQ_OK;
}

static enum lq_status score_numbers(void *user, size_t lane, size_t first_row, size_t rows,
                                    const float *hidden, const int32_t *targets, double *nll,
                                    struct lq_error *error)
{
    size_t *rows_of_lane = user;
    size_t scored = lq_perplexity_scored(LONG_CONTEXT);
    rows_of_lane[lane] += rows;
    for (size_t i = 0; i < rows; i++) {
        if (hidden[i] != (float)(first_row + i) || targets[i] != (int32_t)(first_row / scored)) {
            return lq_error_set(error, LQ_EFAIL, "rows of another batch");
        }
        nll[i] = (first_row + i) / scored >= bad_chunk ? (double)NAN
                                                       : 1.0 + sin((double)(first_row + i));
    }
    return LQ_OK;
}

Test(perplexity, lanes_change_no_bit)
{
    static int32_t long_ids[LONG_CHUNKS * LONG_CONTEXT];
    size_t rows_of_lane[3] = {0};
    struct lq_perplexity results[3];
    struct lq_tokens text = {
        .tokens = long_ids, .sample_count = LONG_CHUNKS, .sequence_length = LONG_CONTEXT};
    struct lq_perplexity_source source = {.tokens = &text,
                                          .width = 1,
                                          .read = read_numbers,
                                          .score = score_numbers,
                                          .user = rows_of_lane};
    for (size_t i = 0; i < LONG_CHUNKS * (size_t)LONG_CONTEXT; i++) {
        long_ids[i] = (int32_t)(i / LONG_CONTEXT);
    }
    bad_chunk = LONG_CHUNKS;
    source.pool = pool;
    for (size_t lanes = 0; lanes < 3; lanes++) {
        source.lanes = lanes == 0 ? 0 : lanes + 1;
        cr_assert_eq(lq_perplexity_measure(&source, &results[lanes], &err), LQ_OK, "%s",
                     err.message);
        cr_expect_arr_eq(&results[lanes], &results[0], sizeof results[0], "%zu lanes",
                         source.lanes);
    }
    /* Chunks 1 to 7 alone, then in pairs, then three at a time. */
    size_t scored = lq_perplexity_scored(LONG_CONTEXT);
    cr_expect_eq(rows_of_lane[0], (7 + 4 + 3) * scored);
    cr_expect_eq(rows_of_lane[1], (3 + 2) * scored);
    cr_expect_eq(rows_of_lane[2], 2 * scored);
    bad_chunk = 4;
    cr_expect_eq(lq_perplexity_measure(&source, &results[0], &err), LQ_EFAIL);
    cr_expect_not_null(strstr(err.message, "in chunk 4;"), "%s", err.message);
}

Test(perplexity, wants_two_chunks_with_something_to_score)
{
    struct lq_tokens few = tokens;
    few.sample_count = 1;
    cr_expect_eq(lq_perplexity_check(&few, &err), LQ_ECALIBRATION);
    few = tokens;
    few.sequence_length = 2;
    cr_expect_eq(lq_perplexity_check(&few, &err), LQ_ECALIBRATION);
}

Test(perplexity, context_is_512_or_the_models)
{
    cr_expect_eq(lq_perplexity_context(256, 0), 256);
    cr_expect_eq(lq_perplexity_context(512, 0), 512);
    cr_expect_eq(lq_perplexity_context(131072, 0), 512);
    cr_expect_eq(lq_perplexity_context(131072, 1024), 1024);
}

Test(perplexity, result_reads_back)
{
    struct lq_perplexity in = {41.839612345678901, 0.63556, 3.7338, 31623, 249, 256};
    struct lq_perplexity out;
    struct lq_buffer text;
    lq_buffer_init(&text);
    lq_perplexity_format(&in, &text);
    cr_assert_eq(lq_perplexity_parse(text.data, text.size_bytes, &out, &err), LQ_OK, "%s",
                 err.message);
    cr_expect_eq(out.ppl, in.ppl);
    cr_expect_eq(out.plus_minus, in.plus_minus);
    cr_expect_eq(out.nll, in.nll);
    cr_expect_eq(out.tokens, in.tokens);
    cr_expect_eq(out.chunks, in.chunks);
    cr_expect_eq(out.context, in.context);
    for (size_t size = 0; size < text.size_bytes; size++) {
        cr_expect_eq(lq_perplexity_parse(text.data, size, &out, &err), LQ_EFORMAT, "%zu", size);
    }
    lq_buffer_fini(&text);
}

Test(perplexity, results_that_are_no_numbers_are_refused)
{
    static const char *const lies[] = {
        "{}",
        "{\"ppl\":null,\"plus_minus\":1,\"nll\":1,\"tokens\":1,\"chunks\":1,\"context\":1}",
        "{\"ppl\":1,\"plus_minus\":1,\"nll\":1,\"tokens\":-1,\"chunks\":1,\"context\":1}",
        "{\"ppl\":1,\"plus_minus\":1,\"nll\":1,\"tokens\":1,\"chunks\":1.5,\"context\":1}",
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        struct lq_perplexity out;
        cr_expect_eq(lq_perplexity_parse(lies[i], strlen(lies[i]), &out, &err), LQ_EFORMAT);
    }
}
