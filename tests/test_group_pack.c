/* Weights of 4 bits in groups: words as the formats define them, and groups that follow from what
 * is stored. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "kernels/kernels.h"
#include "rules/quant/group_pack.h"

static void fill_levels(uint8_t *levels, size_t count, unsigned seed)
{
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1103515245U + 12345U;
        levels[i] = (uint8_t)(seed >> 16 & 15);
    }
}

/* The definition of AWQ's layout, word by word: nibble i of word c of a line holds column 8 c +
 * order[i] of the turned matrix. */
Test(group_pack, awq_words_are_interleaved_along_the_outputs)
{
    enum { ROWS = 24, COLS = 5 };
    static const unsigned order[] = {0, 2, 4, 6, 1, 3, 5, 7};
    uint8_t levels[ROWS * COLS];
    uint32_t words[COLS * ROWS / 8];
    fill_levels(levels, sizeof levels, 1);
    cr_assert_eq(lq_nibbles_words(LQ_NIBBLES_ACROSS_TURNED, ROWS, COLS), LQ_COUNT_OF(words));
    lq_nibbles_pack(LQ_NIBBLES_ACROSS_TURNED, lq_nibbles_awq, levels, ROWS, COLS, words);
    for (size_t j = 0; j < COLS; j++) {
        for (size_t c = 0; c < ROWS / 8; c++) {
            for (size_t i = 0; i < 8; i++) {
                cr_expect_eq(words[j * ROWS / 8 + c] >> (4 * i) & 15,
                             levels[(8 * c + order[i]) * COLS + j]);
            }
        }
    }
    /* Eight outputs 0 to 7 of one input: 7 5 3 1 6 4 2 0 from the highest nibble down. */
    static const uint8_t eight[] = {0, 1, 2, 3, 4, 5, 6, 7};
    lq_nibbles_pack(LQ_NIBBLES_ACROSS_TURNED, lq_nibbles_awq, eight, 8, 1, words);
    cr_expect_eq(words[0], 0x75316420U);
}

Test(group_pack, plain_words_are_in_the_order_of_their_levels)
{
    enum { ROWS = 16, COLS = 24 };
    uint8_t levels[ROWS * COLS];
    uint32_t words[ROWS * COLS / 8];
    fill_levels(levels, sizeof levels, 2);
    for (int layout = LQ_NIBBLES_ALONG; layout <= LQ_NIBBLES_ACROSS_TURNED; layout++) {
        lq_nibbles_pack(layout, lq_nibbles_plain, levels, ROWS, COLS, words);
        for (size_t r = 0; r < ROWS; r++) {
            for (size_t c = 0; c < COLS; c++) {
                const size_t places[] = {r * COLS / 8 + c / 8, c / 8 * ROWS + r, r / 8 * COLS + c,
                                         c * ROWS / 8 + r / 8};
                size_t nibble = layout <= LQ_NIBBLES_ALONG_TURNED ? c % 8 : r % 8;
                cr_expect_eq(words[places[layout]] >> (4 * nibble) & 15, levels[r * COLS + c],
                             "layout %d", layout);
            }
        }
    }
}

Test(group_pack, packing_comes_back_whatever_the_shape)
{
    static const size_t shapes[][2] = {{1, 1}, {8, 8}, {7, 9}, {15, 3}, {16, 700}, {3, 1025}};
    for (size_t s = 0; s < LQ_COUNT_OF(shapes); s++) {
        size_t rows = shapes[s][0];
        size_t cols = shapes[s][1];
        for (int layout = LQ_NIBBLES_ALONG; layout <= LQ_NIBBLES_ACROSS_TURNED; layout++) {
            const uint8_t *order = s % 2 == 0 ? lq_nibbles_awq : lq_nibbles_plain;
            size_t count = lq_nibbles_words(layout, rows, cols);
            uint8_t *levels = malloc(rows * cols);
            uint8_t *back = malloc(rows * cols);
            uint32_t *words = malloc(count * sizeof *words);
            fill_levels(levels, rows * cols, (unsigned)s);
            memset(back, 0xFF, rows * cols);
            lq_nibbles_pack(layout, order, levels, rows, cols, words);
            lq_nibbles_unpack(layout, order, words, rows, cols, back);
            cr_expect(memcmp(levels, back, rows * cols) == 0, "layout %d %zux%zu", layout, rows,
                      cols);
            free(levels);
            free(back);
            free(words);
        }
    }
}

static float half_bits(uint16_t bits)
{
    return lq_f16_to_f32(bits);
}

Test(group_pack, scales_are_what_is_stored)
{
    static const enum lq_dtype types[] = {LQ_DTYPE_F16, LQ_DTYPE_BF16, LQ_DTYPE_F32};
    for (size_t t = 0; t < LQ_COUNT_OF(types); t++) {
        for (int symmetric = 0; symmetric < 2; symmetric++) {
            for (unsigned seed = 0; seed < 50; seed++) {
                float values[32];
                uint8_t levels[32];
                float back[32];
                float low = 0.0F;
                float high = 0.0F;
                struct lq_group group;
                srand(seed);
                for (size_t i = 0; i < 32; i++) {
                    values[i] = ((float)(rand() % 20001) - 8000.0F) / 90000.0F;
                    low = fminf(low, values[i]);
                    high = fmaxf(high, values[i]);
                }
                cr_assert(lq_group_fit(values, 32, symmetric, types[t], &group));
                cr_expect_eq(lq_group_round_scale(group.scale, types[t]), group.scale);
                float wanted =
                    symmetric ? fmaxf(-low, high) / 7.5F : (high - low) / LQ_GROUP_LEVEL_MAX;
                cr_expect_float_eq(group.scale / wanted, 1.0F, 0.004F);
                cr_expect(!symmetric || group.zero == 8);
                lq_group_round(values, 32, group, levels);
                lq_group_values(levels, 32, group, back);
                for (size_t i = 0; i < 32; i++) {
                    bool is_last = levels[i] == 0 || levels[i] == 15;
                    /* At either end rounding the scale and the zero point may leave one more. */
                    cr_expect_float_eq(back[i], values[i], group.scale * (is_last ? 1.1F : 0.501F));
                }
            }
        }
    }
}

Test(group_pack, groups_of_all_kinds)
{
    struct lq_group group;
    uint8_t levels[4];
    static const float zeros[4] = {0};
    cr_assert(lq_group_fit(zeros, 4, false, LQ_DTYPE_F16, &group));
    cr_expect(group.scale == 1.0F && group.zero == 0);
    lq_group_round(zeros, 4, group, levels);
    cr_expect_eq(levels[3], 0);
    cr_assert(lq_group_fit(zeros, 4, true, LQ_DTYPE_F16, &group));
    cr_expect(group.scale == 1.0F && group.zero == 8);

    /* All alike: the range reaches to 0, so the value is the last level. */
    static const float same[4] = {0.5F, 0.5F, 0.5F, 0.5F};
    static const float below[4] = {-0.5F, -0.5F, -0.5F, -0.5F};
    float back[4];
    cr_assert(lq_group_fit(same, 4, false, LQ_DTYPE_F16, &group));
    lq_group_round(same, 4, group, levels);
    lq_group_values(levels, 4, group, back);
    cr_expect_float_eq(back[2], 0.5F, 3e-4F);
    cr_assert(lq_group_fit(below, 4, false, LQ_DTYPE_F16, &group));
    cr_expect_eq(group.zero, 15);
    lq_group_round(below, 4, group, levels);
    lq_group_values(levels, 4, group, back);
    cr_expect_float_eq(back[0], -0.5F, 3e-4F);

    /* So small that the scale would be zero, and so large that it would be infinite. */
    static const float tiny[4] = {1e-9F, -1e-9F, 0.0F, 1e-10F};
    cr_assert(lq_group_fit(tiny, 4, false, LQ_DTYPE_F16, &group));
    cr_expect_eq(group.scale, half_bits(1));
    lq_group_round(tiny, 4, group, levels);
    cr_expect_eq(levels[0], group.zero);
    static const float denormal[4] = {1e-45F, -1e-45F, 0.0F, 0.0F};
    cr_assert(lq_group_fit(denormal, 4, true, LQ_DTYPE_BF16, &group));
    cr_expect_gt(group.scale, 0.0F);
    cr_expect_eq(lq_group_round_scale(group.scale, LQ_DTYPE_BF16), group.scale);
    static const float huge[4] = {3e38F, -3e38F, 0.0F, 1.0F};
    cr_expect_not(lq_group_fit(huge, 4, false, LQ_DTYPE_F16, &group));
    cr_assert(lq_group_fit(huge, 4, false, LQ_DTYPE_F32, &group));
    cr_expect(isfinite(group.scale));
    for (size_t at = 0; at < 4; at++) {
        static const float bad[] = {NAN, INFINITY, -INFINITY};
        for (size_t b = 0; b < 3; b++) {
            float values[4] = {1.0F, -2.0F, 0.5F, 0.0F};
            values[at] = bad[b];
            cr_expect_not(lq_group_fit(values, 4, false, LQ_DTYPE_F32, &group), "%zu", at);
            cr_expect_not(lq_group_fit(values, 4, true, LQ_DTYPE_F16, &group), "%zu", at);
        }
    }
}
