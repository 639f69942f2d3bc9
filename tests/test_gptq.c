/* GPTQ of matrices that a small generator makes. The golden numbers are those of a program of its
 * own (numpy in double precision, algorithm 1 of arXiv 2210.17323 column by column, inverse and
 * Cholesky factor by numpy.linalg, scales rounded to half precision); digests are FNV-1a over the
 * numbers, one step for each. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "kernels/factor.h"
#include "kernels/kernels.h"
#include "rules/quant/bit_words.h"
#include "rules/quant/gptq.h"
#include "rules/quant/group_pack.h"

static const struct lq_parallel alone = {.run = NULL};

enum { ROWS = 32, COLS = 160, TOKENS = 200 };

static float unit(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)(*state >> 40) / 8388608.0F - 1.0F;
}

static float weights[ROWS * COLS];
static float means[COLS * COLS];

/* Columns that follow each other are alike, and some are larger than others. */
static void make_data(int dead)
{
    static double products[COLS * COLS];
    uint64_t state = 1;
    memset(products, 0, sizeof products);
    for (size_t t = 0; t < TOKENS; t++) {
        float x[COLS];
        float previous = 0.0F;
        for (size_t j = 0; j < COLS; j++) {
            previous = unit(&state) + 0.75F * previous;
            x[j] = (int)j == dead ? 0.0F : previous * (float)(1 + j % 7);
        }
        for (size_t i = 0; i < COLS * COLS; i++) {
            products[i] += (double)x[i / COLS] * (double)x[i % COLS];
        }
    }
    for (size_t i = 0; i < COLS * COLS; i++) {
        means[i] = (float)(products[i] / TOKENS);
    }
    for (size_t i = 0; i < ROWS * COLS; i++) {
        weights[i] = unit(&state);
    }
}

static uint64_t digest_step(uint64_t digest, uint64_t value)
{
    return (digest ^ value) * 1099511628211u;
}

static const uint64_t digest_begin = 1469598103934665603u;

/* A matrix that was quantized, in the order of its columns in the file. */
struct result {
    float u[COLS * COLS];
    float values[ROWS * COLS];
    uint8_t levels[ROWS * COLS];
    uint8_t natural[ROWS * COLS];
    uint16_t scales[ROWS * COLS / LQ_GPTQ_COLS_STEP];
    uint8_t zeros[ROWS * COLS / LQ_GPTQ_COLS_STEP];
    double losses[ROWS];
    uint32_t order[COLS];
    size_t dead;
    double loss;
};

static void quantize(const struct lq_gptq_grid *grid, bool in_order, struct result *out)
{
    float *scratch = malloc(lq_factor_scratch(COLS) * sizeof *scratch);
    cr_assert_not_null(scratch);
    cr_assert(lq_gptq_order(means, COLS, out->order));
    for (uint32_t j = 0; !in_order && j < COLS; j++) {
        out->order[j] = j;
    }
    out->dead = lq_gptq_hessian(means, COLS, 0.05, in_order ? out->order : NULL, out->u);
    cr_assert_eq(lq_factor_inverse(&alone, out->u, COLS, scratch), COLS);
    for (size_t i = 0; i < ROWS * COLS; i++) {
        out->values[i] = weights[i / COLS * COLS + out->order[i % COLS]];
    }
    struct lq_gptq_strip strip = {.rows = ROWS,
                                  .cols = COLS,
                                  .weights = out->values,
                                  .levels = out->levels,
                                  .scales = out->scales,
                                  .zeros = out->zeros,
                                  .losses = out->losses};
    cr_assert(lq_gptq_quantize(grid, out->u, &strip));
    out->loss = 0.0;
    for (size_t i = 0; i < ROWS * COLS; i++) {
        out->natural[i / COLS * COLS + out->order[i % COLS]] = out->levels[i];
    }
    for (size_t r = 0; r < ROWS; r++) {
        out->loss += out->losses[r];
    }
    free(scratch);
}

static struct result result;

Test(gptq, levels_are_those_of_the_paper)
{
    static const struct {
        struct lq_gptq_grid grid;
        bool in_order;
        int dead;
        uint64_t levels;
        uint64_t zeros;
        uint64_t scales;
        double loss;
    } cases[] = {
        {{4, true, 32},
         false,
         -1,
         0x2e74a6ef68c05ab7u,
         0x99f8d3ea6fa74303u,
         0x79fc50c05fdd5bc6u,
         102.64957},
        {{4, true, COLS},
         false,
         -1,
         0x37708bf35f77bb2fu,
         0x2a0fc2d6cb925d03u,
         0x2b014496ddb3ab87u,
         103.166207},
        {{3, false, 32},
         false,
         -1,
         0x582738256d1ee883u,
         0xa795d3695cfaf383u,
         0x885ef3c4696b2324u,
         449.765177},
        {{8, true, COLS},
         false,
         3,
         0xb4d9c5527594e63cu,
         0xe4d51cbcca840503u,
         0x6dd376ba38f82c8fu,
         0.349032723},
        {{4, true, 32},
         true,
         -1,
         0x80e721b06c861438u,
         0x99f8d3ea6fa74303u,
         0xcf286e71acb58224u,
         80.9253832},
        {{2, false, 32},
         true,
         7,
         0x377becd7e0469dcfu,
         0x1032d9ccd5b2ade1u,
         0x226656d57568304du,
         2297.5885},
    };
    for (size_t c = 0; c < LQ_COUNT_OF(cases); c++) {
        uint64_t levels = digest_begin;
        uint64_t zeros = digest_begin;
        uint64_t scales = digest_begin;
        make_data(cases[c].dead);
        quantize(&cases[c].grid, cases[c].in_order, &result);
        for (size_t i = 0; i < ROWS * COLS; i++) {
            levels = digest_step(levels, result.natural[i]);
        }
        for (size_t i = 0; i < ROWS * COLS / cases[c].grid.group_size; i++) {
            zeros = digest_step(zeros, result.zeros[i]);
            scales = digest_step(scales, result.scales[i]);
        }
        cr_expect_eq(levels, cases[c].levels, "case %zu", c);
        cr_expect_eq(zeros, cases[c].zeros, "case %zu", c);
        cr_expect_eq(scales, cases[c].scales, "case %zu", c);
        /* Sums of thousands of floats of 24 bits. */
        cr_expect_float_eq(result.loss / cases[c].loss, 1.0, 1e-4, "case %zu: %.9g", c,
                           result.loss);
        cr_expect_eq(result.dead, cases[c].dead >= 0 ? 1 : 0);
    }
}

Test(gptq, the_first_rows_digit_by_digit)
{
    static const char *const rows[] = {
        "5eee437c7a435eba3576647fc38ed1a4b57dc9ce7df82fc2fd90db3599eaffd2331693de77511bcfa14792819e"
        "8f46fb8464aba7c3129c2e1f2267379d7b15ae258cb76348de43de9fd482e1368484c9",
        "f529a556461f1dbd62d7b7c4ba145f94aefa2948c09f99199216fd34e41c7a89162f82856d58515bd75e976f9c"
        "42ffd3debb9a2ed8ef639ce81635142f95ad72e2613cff61a7cbe2e53014cf58ea1ebe",
    };
    static const struct lq_gptq_grid grid = {4, true, 32};
    make_data(-1);
    quantize(&grid, false, &result);
    for (size_t r = 0; r < 2; r++) {
        char text[COLS + 1];
        for (size_t j = 0; j < COLS; j++) {
            text[j] = "0123456789abcdef"[result.natural[r * COLS + j]];
        }
        text[COLS] = '\0';
        cr_expect_str_eq(text, rows[r]);
    }
}

/* The loss that falls out on the way is that of the result, and less than that of rounding. */
Test(gptq, losses_are_true_and_below_those_of_rounding)
{
    static const struct lq_gptq_grid grids[] = {
        {2, true, 32}, {3, true, 32}, {4, true, 32}, {4, false, COLS}, {8, false, 32}};
    make_data(-1);
    for (size_t g = 0; g < LQ_COUNT_OF(grids); g++) {
        static float errors[ROWS * COLS];
        static float rounded[ROWS * COLS];
        double measured[ROWS];
        double by_rounding[ROWS];
        quantize(&grids[g], false, &result);
        for (size_t i = 0; i < ROWS * COLS; i++) {
            errors[i] = weights[i] - result.values[i];
        }
        lq_gptq_measure(result.u, COLS, errors, ROWS, measured);
        memcpy(rounded, weights, sizeof rounded);
        struct lq_gptq_strip strip = {.rows = ROWS,
                                      .cols = COLS,
                                      .weights = rounded,
                                      .levels = result.levels,
                                      .scales = result.scales,
                                      .zeros = result.zeros};
        cr_assert(lq_gptq_quantize(&grids[g], NULL, &strip));
        for (size_t i = 0; i < ROWS * COLS; i++) {
            errors[i] = weights[i] - rounded[i];
        }
        lq_gptq_measure(result.u, COLS, errors, ROWS, by_rounding);
        double total = 0.0;
        for (size_t r = 0; r < ROWS; r++) {
            cr_expect_float_eq(measured[r] / result.losses[r], 1.0, 1e-3);
            total += by_rounding[r];
        }
        cr_expect_lt(result.loss, 0.9 * total, "%u bits: %g, rounding %g", grids[g].bits,
                     result.loss, total);
    }
}

Test(gptq, values_are_what_the_stored_numbers_give)
{
    static const struct lq_gptq_grid grid = {3, false, 32};
    make_data(-1);
    quantize(&grid, false, &result);
    for (size_t i = 0; i < ROWS * COLS; i++) {
        size_t at = i / COLS * (COLS / 32) + i % COLS / 32;
        float scale = lq_f16_to_f32(result.scales[at]);
        float value = ((float)result.levels[i] - (float)result.zeros[at]) * scale;
        cr_assert_eq(value, result.values[i]);
        cr_assert_leq(result.levels[i], 7);
    }
}

Test(gptq, matrices_that_are_special)
{
    static const struct lq_gptq_grid grid = {4, true, 32};
    make_data(-1);
    memset(means, 0, sizeof means); /* no token uses any column: plain rounding */
    quantize(&grid, false, &result);
    cr_expect_eq(result.dead, COLS);
    for (size_t g = 0; g < COLS / 32; g++) {
        struct lq_group group;
        uint8_t levels[32];
        cr_assert(lq_group_fit(weights + 32 * g, 32, true, LQ_DTYPE_F16, &group));
        lq_group_round(weights + 32 * g, 32, group, levels);
        cr_expect_arr_eq(levels, result.levels + 32 * g, 32);
    }
    make_data(-1);
    memset(weights, 0, sizeof weights);
    quantize(&grid, false, &result);
    cr_expect_eq(result.loss, 0.0);
    cr_expect_eq(result.levels[5], 8);

    /* Weights beyond half precision have no scale. */
    make_data(-1);
    weights[40] = 3e6F;
    memcpy(result.values, weights, sizeof weights);
    struct lq_gptq_strip strip = {.rows = ROWS,
                                  .cols = COLS,
                                  .weights = result.values,
                                  .levels = result.levels,
                                  .scales = result.scales,
                                  .zeros = result.zeros};
    cr_expect_not(lq_gptq_quantize(&grid, NULL, &strip));
}

Test(gptq, columns_by_falling_use)
{
    uint32_t order[4];
    const float few[16] = {1, 0, 0, 0, 0, 5, 0, 0, 0, 0, 1, 0, 0, 0, 0, 7};
    cr_assert(lq_gptq_order(few, 4, order));
    static const uint32_t wanted[] = {3, 1, 0, 2};
    cr_expect_arr_eq(order, wanted, sizeof wanted);
}

Test(gptq, words_hold_the_numbers_lowest_bits_first)
{
    enum { COUNT = 96 };
    static const unsigned widths[] = {2, 3, 4, 8};
    uint8_t numbers[COUNT];
    uint8_t back[COUNT];
    uint32_t words[2 * COUNT];
    uint64_t state = 9;
    for (size_t w = 0; w < LQ_COUNT_OF(widths); w++) {
        for (size_t i = 0; i < COUNT; i++) {
            (void)unit(&state);
            numbers[i] = (uint8_t)((state >> 33) & ((1U << widths[w]) - 1));
        }
        memset(words, 0xEE, sizeof words);
        lq_bit_words_pack(numbers, 1, COUNT, widths[w], words, 2);
        cr_expect_eq(lq_bit_words(COUNT, widths[w]), COUNT * widths[w] / 32);
        for (size_t bit = 0; bit < COUNT * widths[w]; bit++) {
            unsigned wanted = (unsigned)numbers[bit / widths[w]] >> bit % widths[w] & 1U;
            cr_assert_eq(words[bit / 32 * 2] >> bit % 32 & 1U, wanted);
        }
        cr_expect_eq(words[1], 0xEEEEEEEEu, "words between are left alone");
        cr_expect_eq(words[COUNT * widths[w] / 32 * 2], 0xEEEEEEEEu, "nor is one too many written");
        lq_bit_words_unpack(words, 2, COUNT, widths[w], back, 1);
        cr_expect_arr_eq(numbers, back, COUNT);
    }
    /* The 3-bit layout of GPTQ files: ten numbers and two bits of the eleventh in the first word.
     */
    uint8_t eleven[32] = {0};
    eleven[0] = 5;
    eleven[10] = 6;
    eleven[21] = 5;
    lq_bit_words_pack(eleven, 1, 32, 3, words, 1);
    cr_expect_eq(words[0], 5U | 2U << 30);
    cr_expect_eq(words[1], 1U | 1U << 31);
    cr_expect_eq(words[2], 2U);
}
