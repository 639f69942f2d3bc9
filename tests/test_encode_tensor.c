/* Encoding whole tensors: same bytes for any number of threads, errors that name the place,
 * protection that works; and measuring what encoding cost. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "engine/base/pool.h"
#include "kernels/kernels.h"
#include "rules/quality/tensor_error.h"
#include "rules/quant/encode_tensor.h"
#include "rules/quant/levels.h"

static uint32_t seed = 7;

static float random_value(void)
{
    float sum = 0;
    for (int i = 0; i < 6; i++) {
        seed = seed * 1664525u + 1013904223u;
        sum += (float)(seed >> 8) / 16777216.0f - 0.5f;
    }
    return sum * 0.05f;
}

static float *random_values(size_t count)
{
    float *values = malloc(count * sizeof *values);
    for (size_t i = 0; i < count; i++) {
        values[i] = random_value();
    }
    return values;
}

static struct lq_model_tensor tensor_of(enum lq_dtype dtype, uint64_t cols, uint64_t rows)
{
    return (struct lq_model_tensor){
        .name = "blk.3.ffn_down.weight", .dtype = dtype, .dim_count = 2, .ne = {cols, rows, 1, 1}};
}

static enum lq_status collect(void *user, const void *data, size_t size_bytes, struct lq_error *err)
{
    (void)err;
    lq_buffer_append(user, data, size_bytes);
    return LQ_OK;
}

static struct lq_encode_job job_of(const struct lq_model_tensor *tensor, const void *data,
                                   enum lq_dtype dtype, struct lq_buffer *out)
{
    return (struct lq_encode_job){.tensor = tensor,
                                  .data = data,
                                  .size_bytes = lq_level_tensor_bytes(tensor, tensor->dtype),
                                  .dtype = dtype,
                                  .user = out,
                                  .write = collect};
}

Test(encode_tensor, bytes_do_not_depend_on_threads)
{
    static const enum lq_dtype types[] = {LQ_DTYPE_F16,  LQ_DTYPE_BF16, LQ_DTYPE_Q8_0,
                                          LQ_DTYPE_Q4_K, LQ_DTYPE_Q6_K, LQ_DTYPE_Q2_K};
    enum { COLS = 512, ROWS = 700 };
    float *values = random_values(COLS * ROWS);
    float *importance = random_values(COLS);
    for (int i = 0; i < COLS; i++) {
        importance[i] = fabsf(importance[i]);
    }
    struct lq_model_tensor tensor = tensor_of(LQ_DTYPE_F32, COLS, ROWS);
    struct lq_pool *pool = NULL;
    struct lq_error err;
    cr_assert_eq(lq_pool_create(&pool, 3, &err), LQ_OK);
    for (size_t t = 0; t < LQ_COUNT_OF(types); t++) {
        struct lq_buffer one, many;
        lq_buffer_init(&one);
        lq_buffer_init(&many);
        struct lq_encode_job job = job_of(&tensor, values, types[t], &one);
        job.importance = importance;
        job.mat_count = 1;
        cr_assert_eq(lq_encode_tensor(&job, &err), LQ_OK, "%s", err.message);
        job.pool = pool;
        job.user = &many;
        cr_assert_eq(lq_encode_tensor(&job, &err), LQ_OK, "%s", err.message);
        cr_expect_eq(one.size_bytes, lq_level_tensor_bytes(&tensor, types[t]));
        cr_assert_eq(one.size_bytes, many.size_bytes);
        cr_expect_arr_eq(one.data, many.data, one.size_bytes, "%s", lq_dtype_name(types[t]));
        lq_buffer_fini(&one);
        lq_buffer_fini(&many);
    }
    lq_pool_destroy(pool);
    free(values);
    free(importance);
}

Test(encode_tensor, places_of_bad_values_are_named)
{
    enum { COLS = 256, ROWS = 600 };
    float *values = random_values(COLS * ROWS);
    struct lq_model_tensor tensor = tensor_of(LQ_DTYPE_F32, COLS, ROWS);
    struct lq_buffer out;
    struct lq_error err;
    lq_buffer_init(&out);
    struct lq_encode_job job = job_of(&tensor, values, LQ_DTYPE_Q4_K, &out);
    values[577 * COLS + 13] = INFINITY;
    cr_expect_eq(lq_encode_tensor(&job, &err), LQ_EFORMAT);
    cr_expect_not_null(strstr(err.message, "'blk.3.ffn_down.weight'"), "%s", err.message);
    cr_expect_not_null(strstr(err.message, "row 577, column 13"), "%s", err.message);
    values[577 * COLS + 13] = 1e30f;
    cr_expect_eq(lq_encode_tensor(&job, &err), LQ_EFORMAT);
    cr_expect_not_null(strstr(err.message, "row 577, column 13"), "%s", err.message);
    cr_expect_not_null(strstr(err.message, "BF16"), "%s", err.message);
    job.dtype = LQ_DTYPE_F16;
    cr_expect_eq(lq_encode_tensor(&job, &err), LQ_EFORMAT);
    cr_expect_not_null(strstr(err.message, "row 577, column 13"), "%s", err.message);
    job.dtype = LQ_DTYPE_BF16;
    cr_expect_eq(lq_encode_tensor(&job, &err), LQ_OK, "%s", err.message);
    lq_buffer_fini(&out);
    free(values);
}

Test(encode_tensor, wrong_jobs_are_refused)
{
    float values[512] = {0};
    struct lq_model_tensor tensor = tensor_of(LQ_DTYPE_F32, 256, 2);
    struct lq_buffer out;
    struct lq_error err;
    lq_buffer_init(&out);
    struct lq_encode_job job = job_of(&tensor, values, LQ_DTYPE_Q4_K, &out);
    job.size_bytes--;
    cr_expect_eq(lq_encode_tensor(&job, &err), LQ_EFORMAT);
    job = job_of(&tensor, values, LQ_DTYPE_I32, &out);
    cr_expect_eq(lq_encode_tensor(&job, &err), LQ_EUNSUPPORTED);
    job = job_of(&tensor, values, LQ_DTYPE_Q4_K, &out);
    uint64_t outside = 512;
    job.positions = &outside;
    job.position_count = 1;
    cr_expect_eq(lq_encode_tensor(&job, &err), LQ_EFORMAT);
    struct lq_model_tensor narrow = tensor_of(LQ_DTYPE_F32, 100, 2);
    job = job_of(&narrow, values, LQ_DTYPE_Q8_0, &out);
    cr_expect_eq(lq_encode_tensor(&job, &err), LQ_EFORMAT);
    cr_expect_eq(out.size_bytes, 0);
    lq_buffer_fini(&out);
}

Test(encode_tensor, zeros_and_denormals_survive)
{
    float values[512] = {0};
    for (int i = 0; i < 256; i++) {
        values[256 + i] = (i % 2 ? 1e-40f : -1e-39f);
    }
    struct lq_model_tensor tensor = tensor_of(LQ_DTYPE_F32, 256, 2);
    for (uint32_t t = 0; t < LQ_DTYPE_COUNT; t++) {
        if (lq_dtype_info(t) == NULL || lq_kernels()->encode[t] == NULL) {
            continue;
        }
        struct lq_buffer out;
        struct lq_error err;
        lq_buffer_init(&out);
        struct lq_encode_job job = job_of(&tensor, values, (enum lq_dtype)t, &out);
        cr_expect_eq(lq_encode_tensor(&job, &err), LQ_OK, "%s: %s", lq_dtype_name(t), err.message);
        lq_buffer_fini(&out);
    }
}

/* Protected weights: their own error, and that of the rest, with and without protection. */
static void encode_with(const struct lq_model_tensor *tensor, const float *values,
                        enum lq_dtype dtype, const float *importance, const uint64_t *positions,
                        size_t position_count, float *decoded)
{
    struct lq_buffer out;
    struct lq_error err;
    lq_buffer_init(&out);
    struct lq_encode_job job = job_of(tensor, values, dtype, &out);
    job.importance = importance;
    job.mat_count = 1;
    job.positions = positions;
    job.position_count = position_count;
    cr_assert_eq(lq_encode_tensor(&job, &err), LQ_OK, "%s", err.message);
    lq_kernels()->decode[dtype](out.data, decoded, tensor->ne[0] * tensor->ne[1]);
    lq_buffer_fini(&out);
}

Test(encode_tensor, protected_weights_are_reproduced_better)
{
    static const enum lq_dtype types[] = {LQ_DTYPE_Q2_K, LQ_DTYPE_Q3_K, LQ_DTYPE_Q4_K,
                                          LQ_DTYPE_Q5_K, LQ_DTYPE_Q6_K, LQ_DTYPE_Q4_0,
                                          LQ_DTYPE_Q8_0};
    enum { COLS = 512, ROWS = 64, COUNT = COLS * ROWS };
    float *values = random_values(COUNT);
    float *importance = random_values(COLS);
    float *decoded = malloc(COUNT * sizeof *decoded);
    uint64_t positions[ROWS];
    for (int i = 0; i < COLS; i++) {
        importance[i] = expf(20.0f * importance[i]);
    }
    for (uint64_t r = 0; r < ROWS; r++) {
        positions[r] = r * COLS + (r * 37) % COLS;
        values[positions[r]] *= 3.0f;
    }
    struct lq_model_tensor tensor = tensor_of(LQ_DTYPE_F32, COLS, ROWS);
    for (size_t t = 0; t < LQ_COUNT_OF(types); t++) {
        double masked[2] = {0};
        double rest[2] = {0};
        for (int with = 0; with < 2; with++) {
            encode_with(&tensor, values, types[t], importance, positions, with ? ROWS : 0, decoded);
            size_t p = 0;
            for (uint64_t i = 0; i < COUNT; i++) {
                double d = (double)values[i] - decoded[i];
                if (p < ROWS && positions[p] == i) {
                    masked[with] += d * d;
                    p++;
                } else {
                    rest[with] += d * d * importance[i % COLS];
                }
            }
        }
        cr_log_info("%s: protected weights %.3g of their error, the rest %.3g",
                    lq_dtype_name(types[t]), masked[1] / masked[0], rest[1] / rest[0]);
        cr_expect_lt(masked[1], 0.5 * masked[0], "%s: %g, was %g", lq_dtype_name(types[t]),
                     masked[1], masked[0]);
        cr_expect_lt(rest[1], 1.5 * rest[0], "%s: %g, was %g", lq_dtype_name(types[t]), rest[1],
                     rest[0]);
    }
    free(values);
    free(importance);
    free(decoded);
}

Test(encode_tensor, importance_changes_every_type_that_is_said_to_use_it)
{
    enum { COLS = 512, ROWS = 16 };
    float *values = random_values(COLS * ROWS);
    float *importance = random_values(COLS);
    for (int i = 0; i < COLS; i++) {
        importance[i] = expf(60.0f * importance[i]);
    }
    struct lq_model_tensor tensor = tensor_of(LQ_DTYPE_F32, COLS, ROWS);
    for (uint32_t t = 0; t < LQ_DTYPE_COUNT; t++) {
        if (lq_dtype_info(t) == NULL || lq_kernels()->encode[t] == NULL) {
            continue;
        }
        struct lq_buffer out[2];
        struct lq_error err;
        for (int with = 0; with < 2; with++) {
            lq_buffer_init(&out[with]);
            struct lq_encode_job job = job_of(&tensor, values, (enum lq_dtype)t, &out[with]);
            job.importance = with ? importance : NULL;
            job.mat_count = 1;
            cr_assert_eq(lq_encode_tensor(&job, &err), LQ_OK, "%s", err.message);
        }
        bool same = memcmp(out[0].data, out[1].data, out[0].size_bytes) == 0;
        cr_expect_eq(same, !lq_encode_uses_importance((enum lq_dtype)t), "%s", lq_dtype_name(t));
        lq_buffer_fini(&out[0]);
        lq_buffer_fini(&out[1]);
    }
    free(values);
    free(importance);
}

Test(encode_tensor, errors_are_measured)
{
    enum { COLS = 256, ROWS = 300 };
    float *values = random_values(COLS * ROWS);
    struct lq_model_tensor original = tensor_of(LQ_DTYPE_F32, COLS, ROWS);
    struct lq_model_tensor quantized = tensor_of(LQ_DTYPE_Q8_0, COLS, ROWS);
    struct lq_buffer out;
    struct lq_error err;
    struct lq_tensor_error error;
    lq_buffer_init(&out);
    struct lq_encode_job job = job_of(&original, values, LQ_DTYPE_Q8_0, &out);
    cr_assert_eq(lq_encode_tensor(&job, &err), LQ_OK);
    cr_assert_eq(
        lq_tensor_error_measure(&original, values, &quantized, out.data, NULL, &error, &err),
        LQ_OK);
    double mse = 0;
    double largest = 0;
    float *decoded = malloc(COLS * ROWS * sizeof *decoded);
    lq_kernels()->decode[LQ_DTYPE_Q8_0](out.data, decoded, COLS * ROWS);
    for (int i = 0; i < COLS * ROWS; i++) {
        double d = (double)values[i] - decoded[i];
        mse += d * d / (COLS * ROWS);
        largest = fmax(largest, fabs(d));
    }
    cr_expect_float_eq(error.mse, mse, 1e-9 * mse);
    cr_expect_eq(error.max_error, largest);
    cr_expect_eq(error.parameter_count, COLS * ROWS);
    cr_assert_eq(lq_tensor_error_measure(&original, values, &original, values, NULL, &error, &err),
                 LQ_OK);
    cr_expect_eq(error.mse, 0.0);
    quantized.ne[1]--;
    cr_expect_eq(
        lq_tensor_error_measure(&original, values, &quantized, out.data, NULL, &error, &err),
        LQ_EFORMAT);
    lq_buffer_fini(&out);
    free(decoded);
    free(values);
}

Test(encode_tensor, scales_that_are_not_finite_are_found)
{
    unsigned char blocks[3 * 210] = {0};
    cr_expect_eq(lq_encode_find_bad_block(LQ_DTYPE_Q6_K, blocks, 3), 3);
    blocks[2 * 210 + 209] = 0x7C;
    cr_expect_eq(lq_encode_find_bad_block(LQ_DTYPE_Q6_K, blocks, 3), 2);
    unsigned char small[2 * 18] = {0};
    small[18 + 1] = 0xFE;
    cr_expect_eq(lq_encode_find_bad_block(LQ_DTYPE_Q4_0, small, 2), 1);
    cr_expect_eq(lq_encode_find_bad_block(LQ_DTYPE_F32, small, 2), 2);
    /* The half 0x7C00 in the top bits of four words; the other bits do not count. */
    unsigned char pieces[2 * 56];
    memset(pieces, 0x0F, sizeof pieces);
    cr_expect_eq(lq_encode_find_bad_block(LQ_DTYPE_IQ1_M, pieces, 2), 2);
    pieces[56 + 53] |= 0xC0;
    pieces[56 + 55] |= 0x70;
    cr_expect_eq(lq_encode_find_bad_block(LQ_DTYPE_IQ1_M, pieces, 2), 1);
    /* 2^(253 - 128) times the level 12 is beyond the largest float. */
    unsigned char powers[2 * 17];
    memset(powers, 0xFF, sizeof powers);
    powers[0] = powers[17] = 252;
    cr_expect_eq(lq_encode_find_bad_block(LQ_DTYPE_MXFP4, powers, 2), 2);
    powers[17] = 253;
    cr_expect_eq(lq_encode_find_bad_block(LQ_DTYPE_MXFP4, powers, 2), 1);
    unsigned char floats[2 * 36];
    memset(floats, 0x7E, sizeof floats);
    cr_expect_eq(lq_encode_find_bad_block(LQ_DTYPE_NVFP4, floats, 2), 2);
    floats[36 + 3] = 0x7F;
    cr_expect_eq(lq_encode_find_bad_block(LQ_DTYPE_NVFP4, floats, 2), 1);
}

/* ---- encoders that go wrong; the table of kernels is replaced by one that has them ---- */

/* Writes nothing at all. */
static void encode_nothing(const float *row, void *blocks, size_t col_count,
                           const float *importance)
{
}

/* Leaves the last block of a row out: what an encoder that miscounts does. */
static enum lq_dtype short_dtype;
static void encode_too_few(const float *row, void *blocks, size_t col_count,
                           const float *importance)
{
    size_t block = lq_dtype_info((uint32_t)short_dtype)->block_elems;
    lq_kernels_at(LQ_CPU_REF)->encode[short_dtype](row, blocks, col_count - block, importance);
}

static enum lq_status encode_by(lq_encode_fn encode, enum lq_dtype dtype, const float *values,
                                struct lq_buffer *out, struct lq_error *err)
{
    struct lq_kernels broken = *lq_kernels();
    struct lq_model_tensor tensor = tensor_of(LQ_DTYPE_F32, 512, 4);
    struct lq_encode_job job = job_of(&tensor, values, dtype, out);
    broken.encode[dtype] = encode;
    lq_kernels_replace(&broken);
    enum lq_status status = lq_encode_tensor(&job, err);
    lq_kernels_replace(NULL);
    return status;
}

Test(encode_tensor, blocks_that_an_encoder_leaves_out_are_found_in_every_type)
{
    float *values = random_values(512 * 4);
    size_t type_count = 0;
    for (uint32_t t = 0; t < LQ_DTYPE_COUNT; t++) {
        if (lq_dtype_info(t) == NULL || lq_kernels()->encode[t] == NULL) {
            continue;
        }
        struct lq_buffer out;
        struct lq_error err;
        enum lq_dtype dtype = (enum lq_dtype)t;
        lq_buffer_init(&out);
        cr_expect_eq(encode_by(encode_nothing, dtype, values, &out, &err), LQ_EINTERNAL, "%s",
                     lq_dtype_name(t));
        cr_expect_not_null(strstr(err.message, "row 0 at column 0"), "%s", err.message);
        short_dtype = dtype;
        cr_expect_eq(encode_by(encode_too_few, dtype, values, &out, &err), LQ_EINTERNAL, "%s",
                     lq_dtype_name(t));
        char place[64];
        snprintf(place, sizeof place, "row 0 at column %u;", 512 - lq_dtype_info(t)->block_elems);
        cr_expect_not_null(strstr(err.message, place), "%s", err.message);
        cr_expect_not_null(strstr(err.message, lq_dtype_name(t)), "%s", err.message);
        cr_expect_eq(out.size_bytes, 0, "%s: %zu bytes", lq_dtype_name(t), out.size_bytes);
        cr_expect_eq(encode_by(lq_kernels()->encode[t], dtype, values, &out, &err), LQ_OK);
        lq_buffer_fini(&out);
        type_count++;
    }
    cr_expect_eq(type_count, 28);
    free(values);
}
