/* The arithmetic of AWQ: against a program of its own (docs/provenance.md), and on columns and
 * groups of all kinds. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "kernels/kernels.h"
#include "rules/model/moments.h"
#include "rules/quant/awq.h"

enum { ROWS = 24, COLS = 64, GROUP = 32, SAMPLES = 300, GROUPS = COLS / GROUP };

static struct lq_error err;
static uint32_t seed;

/* The numbers that the other program draws, too. */
static double draw(void)
{
    seed = seed * 1103515245U + 12345U;
    return (double)(seed >> 16 & 0x7FFF) / 16384.0 - 1.0;
}

static struct {
    float inputs[SAMPLES][COLS];
    float weights[ROWS][COLS];
    float sizes[COLS]; /* of weights in their groups */
    struct lq_mean_moments moments;
} golden;

static enum lq_status append(void *user, const void *data, size_t size_bytes,
                             struct lq_error *error)
{
    (void)error;
    lq_buffer_append(user, data, size_bytes);
    return LQ_OK;
}

static void init(void)
{
    double sizes[COLS] = {0};
    seed = 12345;
    for (size_t i = 0; i < SAMPLES; i++) {
        double first = 0.0;
        for (size_t j = 0; j < COLS; j++) {
            double size = 0.25 + (j % 13 == 5 ? 8.0 : (double)(j % 7) / 4.0);
            double value = draw();
            first = j == 0 ? value : first;
            golden.inputs[i][j] = (float)(value * size + 0.25 * first);
        }
    }
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t j = 0; j < COLS; j++) {
            golden.weights[r][j] = (float)(draw() * (0.5 + (double)(j % 5) / 8.0));
        }
        lq_awq_add_sizes(golden.weights[r], COLS, GROUP, sizes);
    }
    for (size_t j = 0; j < COLS; j++) {
        golden.sizes[j] = (float)(sizes[j] / ROWS);
    }
    struct lq_moments moments;
    struct lq_buffer bytes;
    lq_buffer_init(&bytes);
    cr_assert_eq(lq_moments_init(&moments, COLS, &err), LQ_OK);
    lq_moments_add(&moments, NULL, golden.inputs[0], SAMPLES * COLS);
    cr_assert_eq(lq_moments_finish(&moments, NULL, &err), LQ_OK);
    cr_assert_eq(lq_moments_write(&moments, append, &bytes, &err), LQ_OK);
    lq_moments_fini(&moments);
    cr_assert_eq(lq_mean_moments_parse(bytes.data, bytes.size_bytes, &golden.moments, &err), LQ_OK);
    lq_buffer_fini(&bytes);
}

static void fini(void)
{
    lq_mean_moments_fini(&golden.moments);
}

TestSuite(awq, .init = init, .fini = fini);

static double loss_of(const float errors[ROWS][COLS])
{
    double losses[ROWS] = {0};
    double sum = 0.0;
    float *scratch = malloc(lq_awq_loss_scratch(ROWS) * sizeof *scratch);
    lq_awq_add_losses(golden.moments.means, COLS, COLS, errors[0], ROWS, scratch, losses);
    for (size_t r = 0; r < ROWS; r++) {
        sum += losses[r];
    }
    free(scratch);
    return sum;
}

/* Sums of 64 x 64 products in floats, against doubles. */
#define NEAR 2e-5

static void expect_trials(bool symmetric, const double *losses)
{
    const struct lq_awq_grid grid = {GROUP, symmetric, LQ_DTYPE_F16};
    for (size_t t = 0; t < LQ_AWQ_TRIALS; t++) {
        float scales[COLS];
        float errors[ROWS][COLS];
        size_t bad = 0;
        lq_awq_scales(t, golden.moments.sizes, golden.sizes, COLS, scales);
        for (size_t r = 0; r < ROWS; r++) {
            cr_assert(lq_awq_errors(&grid, golden.weights[r], scales, COLS, errors[r], &bad));
        }
        cr_expect_float_eq(loss_of(errors) / losses[t], 1.0, 100.0 * NEAR, "trial %zu: %g", t,
                           loss_of(errors));
    }
}

/* A level of difference in one weight of 1536 would show. */
Test(awq, losses_of_all_trials_are_those_of_the_definition)
{
    static const double uneven[] = {3.084264, 2.611543, 2.366802, 1.755109, 1.712991, 1.774107,
                                    1.709905, 1.602495, 1.665445, 1.711923, 1.731892, 1.916673,
                                    2.007999, 2.331644, 2.601407, 3.136883, 3.447762, 3.891454,
                                    4.711887, 6.195539, 7.002195};
    static const double even[] = {4.05268,  3.34218,  2.865928, 2.848594, 2.948004, 2.887754,
                                  3.165412, 3.260188, 3.39378,  3.684382, 3.888787, 4.29149,
                                  4.473479, 5.115653, 5.814401, 6.658664, 7.98495,  9.854842,
                                  10.51216, 12.21878, 14.00079};
    static const float wanted[] = {0.6511502F, 0.6222537F, 0.6859097F,
                                   0.6762972F, 0.8148703F, 2.590174F};
    float scales[COLS];
    cr_expect_float_eq(loss_of(golden.weights) / 614.033093, 1.0, NEAR);
    lq_awq_scales(11, golden.moments.sizes, golden.sizes, COLS, scales);
    for (size_t j = 0; j < LQ_COUNT_OF(wanted); j++) {
        cr_expect_float_eq(scales[j] / wanted[j], 1.0F, NEAR);
    }
    expect_trials(false, uneven);
    expect_trials(true, even);
}

static uint32_t hash_words(const uint32_t *words, size_t count)
{
    uint32_t hash = 0;
    for (size_t i = 0; i < count; i++) {
        hash = hash * 31 + words[i];
    }
    return hash;
}

/* All rows, strip by strip; returns the loss. */
static double round_all(const struct lq_awq_grid *grid, bool cut, const float *scales,
                        struct lq_group groups[ROWS][GROUPS], uint8_t levels[ROWS][COLS])
{
    float scaled[ROWS][COLS];
    float errors[ROWS][COLS];
    float *scratch = malloc(lq_awq_strip_scratch(GROUP) * sizeof *scratch);
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t j = 0; j < COLS; j++) {
            scaled[r][j] = golden.weights[r][j] * scales[j];
        }
    }
    for (size_t r = 0; r < ROWS; r += LQ_AWQ_STRIP_ROWS) {
        struct lq_awq_strip strip = {
            .rows = scaled[r],
            .scales = scales,
            .row_count = ROWS - r < LQ_AWQ_STRIP_ROWS ? ROWS - r : (size_t)LQ_AWQ_STRIP_ROWS,
            .cols = COLS,
            .cut = cut,
            .means = golden.moments.means,
            .groups = groups[r],
            .levels = levels[r]};
        cr_assert(lq_awq_round_strip(grid, &strip, scratch));
    }
    free(scratch);
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t g = 0; g < GROUPS; g++) {
            lq_group_values(&levels[r][g * GROUP], GROUP, groups[r][g], &errors[r][g * GROUP]);
        }
        for (size_t j = 0; j < COLS; j++) {
            errors[r][j] = errors[r][j] / scales[j] - golden.weights[r][j];
        }
    }
    return loss_of(errors);
}

Test(awq, cuts_and_words_are_those_of_the_definition)
{
    static const struct {
        bool symmetric;
        uint32_t first[ROWS / 8];
        uint32_t last[ROWS / 8];
        uint32_t hash;
        uint32_t zeros[GROUPS * ROWS / 8];
        double loss;
    } wanted[] = {{false,
                   {0x7666A5A6U, 0xB6A999B3U, 0x68725CC3U},
                   {0xC795CA97U, 0xB7896534U, 0x66A658DAU},
                   0x97F1DD02U,
                   {0x9885B598U, 0xA679AAA5U, 0x97557BB4U, 0xA6A7896AU, 0xB9A96556U, 0x45B668ABU},
                   1.850504},
                  {true,
                   {0x76697896U, 0x98B87796U, 0x59A66998U},
                   {0xA976C9B6U, 0x86788866U, 0xA97878A7U},
                   0x3176B95BU,
                   {0x88888888U, 0x88888888U, 0x88888888U, 0x88888888U, 0x88888888U, 0x88888888U},
                   3.297523}};
    float scales[COLS];
    lq_awq_scales(11, golden.moments.sizes, golden.sizes, COLS, scales);
    for (size_t w = 0; w < LQ_COUNT_OF(wanted); w++) {
        const struct lq_awq_grid grid = {GROUP, wanted[w].symmetric, LQ_DTYPE_F16};
        struct lq_group groups[ROWS][GROUPS];
        uint8_t levels[ROWS][COLS];
        uint8_t zeros[ROWS * GROUPS];
        uint32_t words[COLS * ROWS / 8];
        double loss = round_all(&grid, true, scales, groups, levels);
        cr_expect_float_eq(loss / wanted[w].loss, 1.0, 100.0 * NEAR, "%.7g", loss);
        cr_expect_lt(loss, round_all(&grid, false, scales, groups, levels));
        (void)round_all(&grid, true, scales, groups, levels);
        lq_nibbles_pack(LQ_NIBBLES_ACROSS_TURNED, lq_nibbles_awq, levels[0], ROWS, COLS, words);
        cr_expect(memcmp(words, wanted[w].first, sizeof wanted[w].first) == 0);
        cr_expect(memcmp(words + (COLS - 1) * ROWS / 8, wanted[w].last, sizeof wanted[w].last) ==
                  0);
        cr_expect_eq(hash_words(words, LQ_COUNT_OF(words)), wanted[w].hash);
        for (size_t i = 0; i < ROWS * GROUPS; i++) {
            zeros[i] = groups[i / GROUPS][i % GROUPS].zero;
        }
        lq_nibbles_pack(LQ_NIBBLES_ACROSS_TURNED, lq_nibbles_awq, zeros, ROWS, GROUPS, words);
        cr_expect(memcmp(words, wanted[w].zeros, sizeof wanted[w].zeros) == 0);
    }
}

/* More columns than a panel, and fewer rows of the moments than their stride. */
Test(awq, losses_of_wide_rows)
{
    enum { WIDE = 600, STRIDE = 700, COUNT = 3 };
    static float means[WIDE * STRIDE];
    static float errors[COUNT][WIDE];
    double losses[COUNT] = {1.0, 2.0, 3.0};
    for (size_t i = 0; i < WIDE; i++) {
        for (size_t j = 0; j <= i; j++) {
            means[i * STRIDE + j] = (float)draw();
            means[j * STRIDE + i] = means[i * STRIDE + j];
        }
    }
    for (size_t j = 0; j < COUNT * WIDE; j++) {
        errors[j / WIDE][j % WIDE] = (float)draw();
    }
    float *scratch = malloc(lq_awq_loss_scratch(COUNT) * sizeof *scratch);
    lq_awq_add_losses(means, STRIDE, WIDE, errors[0], COUNT, scratch, losses);
    free(scratch);
    for (size_t r = 0; r < COUNT; r++) {
        double sum = (double)r + 1.0;
        double size = 0.0;
        for (size_t i = 0; i < WIDE; i++) {
            for (size_t j = 0; j < WIDE; j++) {
                double part =
                    (double)errors[r][i] * (double)means[i * STRIDE + j] * (double)errors[r][j];
                sum += part;
                size += fabs(part);
            }
        }
        cr_expect_float_eq(losses[r], sum, size * 1e-6);
    }
}

Test(awq, fronts_are_divided_without_loss)
{
    static const enum lq_dtype types[] = {LQ_DTYPE_BF16, LQ_DTYPE_F16, LQ_DTYPE_F32};
    for (size_t t = 0; t < LQ_COUNT_OF(types); t++) {
        for (size_t j = 0; j < 500; j++) {
            float value = lq_group_round_scale((float)(draw() * 3.0), types[t]);
            float scale = (float)exp(draw() * 4.0);
            float was = scale;
            float divided = 0.0F;
            lq_awq_settle(&value, types[t], 1, &scale, &divided);
            cr_expect_eq(lq_group_round_scale(divided, types[t]), divided);
            cr_expect_float_eq(divided * scale, value, fabsf(value) * 1.2e-7F);
            cr_expect_float_eq(scale / was, 1.0F, 0.0042F, "%g %g", (double)scale, (double)was);
        }
    }
    /* 0 stays 0; what would vanish, or become infinite, stays as it is. */
    float scales[] = {2.0F, 1e30F, 1e-30F, 4.0F};
    static const float values[] = {0.0F, 1e-6F, 1e4F, -8.0F};
    float divided[4];
    lq_awq_settle(values, LQ_DTYPE_F16, 4, scales, divided);
    cr_expect(scales[0] == 2.0F && divided[0] == 0.0F);
    cr_expect(scales[1] == 1.0F && divided[1] == values[1]);
    cr_expect(scales[2] == 1.0F && divided[2] == values[2]);
    cr_expect(scales[3] == 4.0F && divided[3] == -2.0F);
}

Test(awq, columns_of_which_nothing_is_known)
{
    static const float inputs[] = {0.0F, 1.0F, 4.0F, NAN, INFINITY, 1e-38F};
    static const float weights[] = {1.0F, 0.0F, 0.5F, 1.0F, 1.0F, 1.0F};
    float scales[6];
    for (size_t t = 0; t < LQ_AWQ_TRIALS; t++) {
        lq_awq_scales(t, inputs, weights, 6, scales);
        for (size_t j = 0; j < 6; j++) {
            cr_expect(isfinite(scales[j]) && scales[j] > 0.0F, "trial %zu column %zu: %g", t, j,
                      (double)scales[j]);
        }
        cr_expect(scales[0] == 1.0F && scales[1] == 1.0F && scales[3] == 1.0F);
        cr_expect(t > 0 || (scales[2] == 1.0F && scales[5] == 1.0F));
    }
    static const float nothing[4] = {0};
    lq_awq_scales(7, nothing, nothing, 4, scales);
    cr_expect(scales[0] == 1.0F && scales[3] == 1.0F);
    cr_expect_eq(lq_awq_ratio(0), 0.0);
    cr_expect_eq(lq_awq_ratio(LQ_AWQ_TRIALS - 1), 0.95);
}

Test(awq, weights_beyond_halves_are_named)
{
    const struct lq_awq_grid grid = {GROUP, false, LQ_DTYPE_F16};
    const struct lq_awq_grid wide = {GROUP, false, LQ_DTYPE_F32};
    float row[COLS] = {0};
    float errors[COLS];
    size_t bad = 0;
    row[40] = 2e6F;
    cr_expect_not(lq_awq_errors(&grid, row, NULL, COLS, errors, &bad));
    cr_expect_eq(bad, GROUP);
    cr_expect(lq_awq_errors(&wide, row, NULL, COLS, errors, &bad));
    struct lq_group groups[GROUPS];
    uint8_t levels[COLS];
    float *scratch = malloc(lq_awq_strip_scratch(GROUP) * sizeof *scratch);
    struct lq_awq_strip strip = {.rows = row,
                                 .row_count = 1,
                                 .cols = COLS,
                                 .cut = true,
                                 .means = golden.moments.means,
                                 .groups = groups,
                                 .levels = levels};
    bool good = lq_awq_round_strip(&grid, &strip, scratch);
    cr_expect(good || strip.bad_col == GROUP);
    strip.cut = false;
    cr_expect_not(lq_awq_round_strip(&grid, &strip, scratch));
    cr_expect_eq(strip.bad_col, GROUP);
    free(scratch);
}
