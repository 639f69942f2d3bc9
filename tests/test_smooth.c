#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "rules/format/safetensors.h"
#include "rules/format/safetensors_write.h"
#include "rules/model/layer_ranges.h"
#include "rules/quant/smooth.h"

static struct lq_error err;
static struct lq_arena arena;

static void init(void)
{
    lq_arena_init(&arena);
}

static void fini(void)
{
    lq_arena_fini(&arena);
}

TestSuite(smooth, .init = init, .fini = fini);

enum { COLS = 6 };

Test(smooth, scales_follow_the_paper_and_lose_nothing_in_the_norm)
{
    static const float inputs[COLS] = {4.0F, 100.0F, 0.01F, 1.0F, 3.0F, 7.0F};
    static const float weights[COLS] = {1.0F, 0.25F, 2.0F, 1.0F, 0.5F, 0.1F};
    static const float norm[COLS] = {1.0F, -0.5F, 0.75F, 1.5F, 0.125F, 2.0F};
    static const enum lq_dtype types[] = {LQ_DTYPE_F32, LQ_DTYPE_BF16, LQ_DTYPE_F16};
    for (size_t t = 0; t < 3; t++) {
        for (double alpha = 0.0; alpha <= 1.0; alpha += 0.25) {
            float scales[COLS];
            float smoothed[COLS];
            cr_assert_eq(lq_smooth_scales(alpha, inputs, weights, norm, types[t], COLS, "n", scales,
                                          smoothed, &err),
                         LQ_OK, "%s", err.message);
            for (size_t j = 0; j < COLS; j++) {
                double wanted =
                    pow((double)inputs[j], alpha) / pow((double)weights[j], 1.0 - alpha);
                /* Half a unit of the norm's last place: 2^-9 for bf16. */
                cr_expect_float_eq((double)scales[j] / wanted, 1.0, 0.002, "%g %g",
                                   (double)scales[j], wanted);
                cr_expect_float_eq(smoothed[j] * scales[j], norm[j], fabs(norm[j]) * 1e-6);
                float again = t == 1   ? lq_bf16_to_f32(lq_f32_to_bf16(smoothed[j]))
                              : t == 2 ? lq_f16_to_f32(lq_f32_to_f16(smoothed[j]))
                                       : smoothed[j];
                cr_expect_eq(again, smoothed[j], "the norm's type has it");
            }
        }
    }
}

Test(smooth, columns_without_a_scale)
{
    static const float inputs[COLS] = {0.0F, 1.0F, 1.0F, 1e-30F, 1.0F, 1.0F};
    static const float weights[COLS] = {1.0F, 0.0F, 1.0F, 1e30F, 1.0F, 1.0F};
    static const float norm[COLS] = {1.0F, 1.0F, 0.0F, 1.0F, -1.0F, 1.0F};
    float scales[COLS];
    float smoothed[COLS];
    cr_assert_eq(lq_smooth_scales(0.5, inputs, weights, norm, LQ_DTYPE_BF16, COLS, "n", scales,
                                  smoothed, &err),
                 LQ_OK);
    for (size_t j = 0; j < 3; j++) {
        cr_expect_eq(scales[j], 1.0F);
        cr_expect_eq(smoothed[j], norm[j]);
    }
    cr_expect(scales[3] >= 0.99e-5F, "%g", (double)scales[3]);
    cr_expect_eq(scales[4], 1.0F);
    static const float bad[] = {NAN, INFINITY};
    for (size_t b = 0; b < 2; b++) {
        for (size_t which = 0; which < 3; which++) {
            float in[1] = {which == 0 ? bad[b] : 1.0F};
            float we[1] = {which == 1 ? bad[b] : 1.0F};
            float no[1] = {which == 2 ? bad[b] : 1.0F};
            cr_expect_eq(
                lq_smooth_scales(0.5, in, we, no, LQ_DTYPE_F32, 1, "n", scales, smoothed, &err),
                LQ_ESMOOTH);
        }
    }
    /* A norm that half precision cannot hold any more. */
    float small[1] = {1e-20F};
    float one[1] = {60000.0F};
    cr_expect_eq(
        lq_smooth_scales(1.0, small, one, one, LQ_DTYPE_F16, 1, "blk", scales, smoothed, &err),
        LQ_ESMOOTH);
    cr_expect_not_null(strstr(err.message, "'blk'"), "%s", err.message);
}

Test(smooth, rows_are_rounded_to_the_nearest_level)
{
    enum { COUNT = 1000 };
    float row[COUNT];
    float scales[COUNT];
    int8_t out[COUNT];
    srand(7);
    for (size_t j = 0; j < COUNT; j++) {
        row[j] = (float)(rand() % 2001 - 1000) / 500.0F;
        scales[j] = 0.5F + (float)(rand() % 100) / 50.0F;
    }
    for (int with = 0; with < 2; with++) {
        double error = 0.0;
        double square = 0.0;
        float scale = lq_smooth_round_row(row, with ? scales : NULL, COUNT, out, &error, &square);
        int largest = 0;
        for (size_t j = 0; j < COUNT; j++) {
            float value = with ? row[j] * scales[j] : row[j];
            cr_expect_float_eq((float)out[j] * scale, value, scale * 0.5001F);
            largest = abs(out[j]) > largest ? abs(out[j]) : largest;
        }
        cr_expect_eq(largest, 127);
        cr_expect_lt(error / square, 1e-4);
    }
    memset(row, 0, sizeof row);
    double error = 0.0;
    double square = 0.0;
    cr_expect_eq(lq_smooth_round_row(row, NULL, COUNT, out, &error, &square), 1.0F);
    cr_expect_eq(out[COUNT - 1], 0);
    row[3] = 1e-44F; /* so small that its scale is zero */
    cr_expect_eq(lq_smooth_round_row(row, NULL, COUNT, out, &error, &square), 1.0F);
    cr_expect_eq(lq_smooth_noise(1.0, 0.0), 0.0);
}

static void make_ranges(struct lq_layer_ranges *ranges)
{
    memset(ranges, 0, sizeof *ranges);
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        struct lq_input_range *range = &ranges->inputs[i];
        range->col_count = i == 0 ? 3 : 0;
        range->min = lq_arena_get_array(&arena, 4, sizeof(float));
        range->max = lq_arena_get_array(&arena, 4, sizeof(float));
        range->sum = lq_arena_get_array(&arena, 4, sizeof(double));
        range->squares = lq_arena_get_array(&arena, 4, sizeof(double));
        for (int j = 0; j < 3; j++) {
            range->min[j] = INFINITY;
            range->max[j] = -INFINITY;
        }
    }
}

Test(smooth, ranges_are_the_same_however_they_are_cut)
{
    static const float values[] = {1, -2, 3, 4, 5, -60, 0.5F, 7, 8};
    for (size_t cut = 0; cut <= 9; cut++) {
        struct lq_layer_ranges ranges;
        make_ranges(&ranges);
        lq_layer_ranges_add(&ranges, LQ_INPUT_ATTN, 0, values, cut);
        lq_layer_ranges_add(&ranges, LQ_INPUT_ATTN, cut % 3, values + cut, 9 - cut);
        const struct lq_input_range *range = &ranges.inputs[LQ_INPUT_ATTN];
        cr_expect_eq(range->row_count, 3);
        cr_expect_eq(range->outlier_count, 3);
        cr_expect_eq(range->min[2], -60.0F);
        cr_expect_eq(range->max[1], 7.0F);
        cr_expect_eq(range->sum[0], 5.5);
        cr_expect_eq(range->squares[1], 4.0 + 25.0 + 49.0);
        cr_expect_eq(lq_input_range_size(range, 2), 60.0F);
    }
}

Test(smooth, ranges_come_back_and_damage_is_refused)
{
    static const float values[] = {1, -2, 3};
    struct lq_layer_ranges ranges;
    struct lq_layer_ranges back;
    struct lq_buffer bytes;
    make_ranges(&ranges);
    lq_layer_ranges_add(&ranges, LQ_INPUT_ATTN, 0, values, 3);
    lq_buffer_init(&bytes);
    cr_assert_eq(lq_layer_ranges_format(&ranges, &bytes, &err), LQ_OK);
    cr_assert_eq(lq_layer_ranges_parse(bytes.data, bytes.size_bytes, &arena, &back, &err), LQ_OK,
                 "%s", err.message);
    cr_expect_eq(back.inputs[0].max[2], 3.0F);
    cr_expect_eq(back.inputs[0].row_count, 1);
    for (size_t size = 0; size < bytes.size_bytes; size++) {
        cr_expect_eq(lq_layer_ranges_parse(bytes.data, size, &arena, &back, &err), LQ_EFORMAT);
    }
    unsigned char *data = (unsigned char *)bytes.data;
    memset(data + 8, 0xFF, 4); /* columns */
    cr_expect_eq(lq_layer_ranges_parse(data, bytes.size_bytes, &arena, &back, &err), LQ_EFORMAT);
    data[0] ^= 1;
    cr_expect_eq(lq_layer_ranges_parse(data, bytes.size_bytes, &arena, &back, &err), LQ_EFORMAT);
    lq_buffer_fini(&bytes);
}

Test(smooth, headers_are_what_the_reader_reads)
{
    static const struct lq_safetensors_entry entries[] = {
        {"a.weight", "I8", 2, {3, 5}, 15},
        {"a.weight_scale", "F32", 2, {3, 1}, 12},
        {"norm \"x\"", "BF16", 1, {4}, 8},
    };
    struct lq_buffer bytes;
    struct lq_safetensors file;
    lq_buffer_init(&bytes);
    cr_assert_eq(lq_safetensors_header(entries, 3, &bytes, &err), LQ_OK);
    cr_expect_eq(bytes.size_bytes % 8, 0);
    (void)lq_buffer_extend(&bytes, 35);
    cr_assert_eq(lq_safetensors_parse(bytes.data, bytes.size_bytes, bytes.size_bytes, "f",
                                      LQ_EFORMAT, &arena, &file, NULL, &err),
                 LQ_OK, "%s", err.message);
    cr_expect_eq(file.tensor_count, 3);
    const struct lq_safetensor *norm = lq_safetensors_find(&file, "norm \"x\"");
    cr_assert_not_null(norm);
    cr_expect_eq(norm->size_bytes, 8);
    cr_expect_eq(norm->shape[0], 4);
    lq_buffer_fini(&bytes);
    struct lq_safetensors_entry huge[] = {entries[0], entries[1]};
    huge[0].size_bytes = UINT64_MAX;
    lq_buffer_init(&bytes);
    cr_expect_eq(lq_safetensors_header(huge, 2, &bytes, &err), LQ_ENOMEM);
    lq_buffer_fini(&bytes);
}
