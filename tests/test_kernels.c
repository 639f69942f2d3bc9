#include <criterion/criterion.h>

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

#define GOLDEN LQ_SOURCE_DIR "/tests/golden/ggml/"
#define GOLDEN_ROWS 4
#define GOLDEN_COLS 512
#define GOLDEN_ELEMS (GOLDEN_ROWS * GOLDEN_COLS)

static void *read_golden(const char *name, size_t size_bytes)
{
    char path[512];
    snprintf(path, sizeof path, "%s%s", GOLDEN, name);
    FILE *file = fopen(path, "rb");
    cr_assert_not_null(file, "cannot open %s", path);
    void *data = malloc(size_bytes + 1);
    size_t got = fread(data, 1, size_bytes + 1, file);
    cr_assert_eq(got, size_bytes, "%s: %zu bytes, expected %zu", path, got, size_bytes);
    fclose(file);
    return data;
}

struct golden_case {
    char name[12];
    enum lq_dtype dtype;
    bool has_importance;
    double rmse;
    double wrmse;
};

/* Reads index.tsv; the types there are in lower case but for the K. */
static size_t read_index(struct golden_case *cases, size_t case_max)
{
    FILE *file = fopen(GOLDEN "index.tsv", "r");
    cr_assert_not_null(file);
    char line[256];
    size_t count = 0;
    cr_assert_not_null(fgets(line, sizeof line, file));
    while (fgets(line, sizeof line, file) != NULL) {
        struct golden_case *one = &cases[count];
        unsigned elems, bytes, rows, cols;
        char flag[8];
        cr_assert_eq(sscanf(line, "%11s %u %u %u %u %7s %lf %lf", one->name, &elems, &bytes, &rows,
                            &cols, flag, &one->rmse, &one->wrmse),
                     8);
        char upper[12] = "";
        for (size_t i = 0; one->name[i] != 0; i++) {
            upper[i] = (char)toupper((unsigned char)one->name[i]);
        }
        cr_assert(lq_dtype_find(upper, &one->dtype), "%s", upper);
        const struct lq_dtype_info *info = lq_dtype_info(one->dtype);
        cr_assert_eq(info->block_elems, elems);
        cr_assert_eq(info->block_bytes, bytes);
        one->has_importance = strcmp(flag, "yes") == 0;
        cr_assert_lt(++count, case_max);
    }
    fclose(file);
    return count;
}

Test(kernels, decode_is_bit_exact_on_golden_blocks)
{
    struct golden_case cases[64];
    size_t case_count = read_index(cases, 64);
    cr_assert_geq(case_count, 40);
    size_t checked = 0;
    for (size_t i = 0; i < case_count; i++) {
        lq_decode_fn decode = lq_kernels()->decode[cases[i].dtype];
        if (decode == NULL) {
            continue;
        }
        const char *kind = cases[i].has_importance ? "imatrix" : "plain";
        char name[4096];
        snprintf(name, sizeof name, "%s.%s.q", cases[i].name, kind);
        void *blocks = read_golden(name, lq_dtype_row_bytes(cases[i].dtype, GOLDEN_ELEMS));
        snprintf(name, sizeof name, "%s.%s.f32", cases[i].name, kind);
        float *expected = read_golden(name, GOLDEN_ELEMS * sizeof(float));
        float *got = malloc(GOLDEN_ELEMS * sizeof(float));
        decode(blocks, got, GOLDEN_ELEMS);
        for (size_t j = 0; j < GOLDEN_ELEMS; j++) {
            cr_assert_eq(memcmp(&got[j], &expected[j], 4), 0, "%s element %zu: %.9g, expected %.9g",
                         name, j, (double)got[j], (double)expected[j]);
        }
        free(blocks);
        free(expected);
        free(got);
        checked++;
    }
    cr_assert_eq(checked, case_count);
}

static double weighted_rmse(const float *a, const float *b, const float *weights, size_t row_count,
                            size_t col_count)
{
    double sum = 0.0;
    double weight_sum = 0.0;
    for (size_t i = 0; i < row_count * col_count; i++) {
        double weight = weights == NULL ? 1.0 : (double)weights[i % col_count];
        double error = (double)a[i] - (double)b[i];
        sum += weight * error * error;
        weight_sum += weight;
    }
    return sqrt(sum / weight_sum);
}

/* The weighted error that an encoder was asked to minimise is at most the golden one: with
 * importance the weighted column of index.tsv, without it the plain one. */
Test(kernels, encode_error_is_at_most_the_golden_error)
{
    struct golden_case cases[64];
    size_t case_count = read_index(cases, 64);
    float *weights = read_golden("weights.f32", GOLDEN_ELEMS * sizeof(float));
    float *importance = read_golden("importance.f32", GOLDEN_COLS * sizeof(float));
    size_t checked = 0;
    for (size_t i = 0; i < case_count; i++) {
        enum lq_dtype dtype = cases[i].dtype;
        lq_encode_fn encode = lq_kernels()->encode[dtype];
        if (encode == NULL) {
            continue;
        }
        size_t row_bytes = lq_dtype_row_bytes(dtype, GOLDEN_COLS);
        unsigned char *blocks = malloc(row_bytes * GOLDEN_ROWS);
        float *decoded = malloc(GOLDEN_ELEMS * sizeof(float));
        const float *weight = cases[i].has_importance ? importance : NULL;
        for (size_t row = 0; row < GOLDEN_ROWS; row++) {
            encode(weights + row * GOLDEN_COLS, blocks + row * row_bytes, GOLDEN_COLS, weight);
        }
        lq_kernels()->decode[dtype](blocks, decoded, GOLDEN_ELEMS);
        double error = weighted_rmse(weights, decoded, weight, GOLDEN_ROWS, GOLDEN_COLS);
        double limit = cases[i].has_importance ? cases[i].wrmse : cases[i].rmse;
        /* index.tsv has seven digits. */
        cr_expect_leq(error, limit * (1 + 1e-6), "%s %s: %.6e, golden %.6e", cases[i].name,
                      weight == NULL ? "plain" : "imatrix", error, limit);
        free(blocks);
        free(decoded);
        checked++;
    }
    free(weights);
    free(importance);
    cr_assert_eq(checked, case_count);
}

/* The value of a half from its definition. */
static double half_value(uint16_t half)
{
    double sign = half & 0x8000 ? -1.0 : 1.0;
    int exponent = half >> 10 & 31;
    int mantissa = half & 1023;
    if (exponent == 31) {
        return mantissa != 0 ? NAN : sign * INFINITY;
    }
    return sign * (exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25));
}

Test(kernels, every_half_converts_exactly_and_back)
{
    for (uint32_t i = 0; i < 65536; i++) {
        uint16_t half = (uint16_t)i;
        float value = lq_f16_to_f32(half);
        double expected = half_value(half);
        if (isnan(expected)) {
            cr_assert(isnan(value), "%04x", i);
            cr_assert(isnan(lq_f16_to_f32(lq_f32_to_f16(value))));
            continue;
        }
        cr_assert_eq((double)value, expected, "%04x", i);
        cr_assert_eq(signbit(value) != 0, half >> 15);
        cr_assert_eq(lq_f32_to_f16(value), half, "%04x", i);
    }
}

/* Nearest integer multiple of the half's ulp by the C library; ties to even is its default mode. */
static double nearest_half(double value)
{
    int exponent;
    frexp(value, &exponent);
    exponent = exponent < -13 ? -13 : exponent;
    double rounded = ldexp(nearbyint(ldexp(value, 11 - exponent)), exponent - 11);
    return fabs(rounded) > 65504.0 ? copysign(INFINITY, value) : rounded;
}

Test(kernels, floats_round_to_the_nearest_half_and_bf16)
{
    /* Each 4093rd float, with its neighbours of low bits 0, 1 and all ones for the ties. */
    static const uint32_t low_bits[] = {0x0, 0x1, 0x0fff, 0x1000, 0x1001, 0x1fff, 0x8000};
    for (uint64_t i = 0; i < 0x100000000u; i += 4093) {
        for (size_t k = 0; k < sizeof low_bits / sizeof *low_bits; k++) {
            uint32_t bits = ((uint32_t)i & ~0xffffu) | ((uint32_t)i & 0xe000u) | low_bits[k];
            float value;
            memcpy(&value, &bits, 4);
            if (isnan(value)) {
                cr_assert(isnan(lq_f16_to_f32(lq_f32_to_f16(value))));
                cr_assert(isnan(lq_bf16_to_f32(lq_f32_to_bf16(value))));
                continue;
            }
            uint16_t half = lq_f32_to_f16(value);
            cr_assert_eq((double)lq_f16_to_f32(half), nearest_half((double)value), "%08x", bits);
#if defined(__FLT16_MAX__)
            _Float16 native = (_Float16)value;
            uint16_t native_bits;
            memcpy(&native_bits, &native, 2);
            cr_assert_eq(half, native_bits, "%08x", bits);
#endif
            float back = lq_bf16_to_f32(lq_f32_to_bf16(value));
            int exponent;
            frexp((double)value, &exponent);
            exponent = exponent < -125 ? -125 : exponent;
            double expected = ldexp(nearbyint(ldexp((double)value, 8 - exponent)), exponent - 8);
            if (fabs(expected) >= 0x1p128) {
                cr_assert(isinf(back), "%08x", bits);
            } else {
                cr_assert_eq((double)back, expected, "%08x", bits);
            }
        }
    }
}

Test(kernels, type_table_knows_names_sizes_and_gaps)
{
    enum lq_dtype dtype;
    cr_assert(lq_dtype_find("Q4_K", &dtype));
    cr_assert_eq(dtype, LQ_DTYPE_Q4_K);
    cr_assert_not(lq_dtype_find("q4_k", &dtype));
    cr_assert_not(lq_dtype_find("Q8_1", &dtype));
    cr_assert_null(lq_dtype_info(9));
    cr_assert_null(lq_dtype_info(43));
    cr_assert_null(lq_dtype_info(UINT32_MAX));
    cr_assert_str_eq(lq_dtype_name(4), "?");
    cr_assert_eq(lq_dtype_bpw(LQ_DTYPE_Q4_K), 4.5);
    cr_assert_eq(lq_dtype_row_bytes(LQ_DTYPE_Q6_K, 1024), 840);
}

static uint64_t random_state;

static double random_unit(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(random_state >> 11) + 0.5) * 0x1p-53;
}

static float random_normal(void)
{
    double radius = sqrt(-2.0 * log(random_unit()));
    return (float)(radius * cos(6.283185307179586 * random_unit()));
}

#define ROW_COLS 1024

struct coded_row {
    float row[ROW_COLS];
    float importance[ROW_COLS];
    float decoded[ROW_COLS];
    unsigned char blocks[ROW_COLS * 4];
};

static bool type_is_block(int dtype)
{
    return lq_kernels()->encode[dtype] != NULL && lq_dtype_info((uint32_t)dtype)->block_elems > 1;
}

static void code_row(struct coded_row *c, int dtype, bool has_importance)
{
    lq_kernels()->encode[dtype](c->row, c->blocks, ROW_COLS, has_importance ? c->importance : NULL);
    lq_kernels()->decode[dtype](c->blocks, c->decoded, ROW_COLS);
    size_t bad = lq_kernels()->find_nonfinite(c->decoded, ROW_COLS);
    cr_assert_eq(bad, ROW_COLS, "%s gives a non-finite value at %zu",
                 lq_dtype_name((uint32_t)dtype), bad);
}

/* How far from 0.7 or 0 a block of zeros and one 0.7 may decode: half precision where 0 and the
 * largest code are levels; otherwise the level next to 0, or the gap at a coarse scale. Below 0:
 * one bit, which cannot hold both. */
static float lone_value_slack(int dtype)
{
    switch (dtype) {
    case LQ_DTYPE_Q1_0:
        return -1.0f;
    case LQ_DTYPE_IQ4_NL:
    case LQ_DTYPE_IQ4_XS:
        return 0.7f / 113.0f;
    case LQ_DTYPE_MXFP4:
    case LQ_DTYPE_NVFP4:
        return 0.7f / 8.0f;
    /* No point has zeros: the lowest level beside the highest, 12 in the grid of IQ3_XXS. */
    case LQ_DTYPE_IQ3_S:
        return 0.7f / 15.0f;
    case LQ_DTYPE_IQ3_XXS:
        return 0.7f * 12.0f / 62.0f;
    case LQ_DTYPE_IQ2_S:
    case LQ_DTYPE_IQ2_XS:
        return 0.7f * 8.0f / 43.0f;
    /* 31 zeros at level 8 share the scale: least squares gives 43^2 / (43^2 + 31 * 8^2) = 0.48 of
     * the value, leaving the share 0.52 of the square sum, and the stretch 1 / (1 - 0.75 * 0.52).
     */
    case LQ_DTYPE_IQ2_XXS:
        return 0.7f * (1.0f - 0.787f);
    case LQ_DTYPE_IQ1_S:
    case LQ_DTYPE_IQ1_M:
        return 0.7f / 9.0f;
    default:
        return 0.7f * 0x1p-9f;
    }
}

/* Zeros stay zero, and a single value in a block of zeros survives. */
Test(kernels, zeros_stay_zero_and_a_lone_value_survives)
{
    static struct coded_row c;
    for (int dtype = 0; dtype < LQ_DTYPE_COUNT; dtype++) {
        if (!type_is_block(dtype)) {
            continue;
        }
        const char *name = lq_dtype_name((uint32_t)dtype);
        memset(c.row, 0, sizeof c.row);
        code_row(&c, dtype, false);
        for (size_t i = 0; i < ROW_COLS; i++) {
            cr_assert_eq(c.decoded[i], 0.0f, "%s", name);
        }
        float slack = lone_value_slack(dtype);
        for (int sign = -1; sign <= 1 && slack > 0.0f; sign += 2) {
            c.row[300] = 0.7f * (float)sign;
            code_row(&c, dtype, false);
            for (size_t i = 0; i < ROW_COLS; i++) {
                cr_expect_float_eq(c.decoded[i], c.row[i], slack, "%s [%zu] %g", name, i,
                                   (double)c.decoded[i]);
            }
        }
    }
}

/* Share of the weighted square sum that a row may lose. No code of b bits per weight can lose less
 * than 2^-2b of Gaussian values (rate-distortion); block codes are allowed four times that in
 * amplitude there, eight times on Laplace values, whose peaks cost codes, and never more than nine
 * tenths, with outliers ten times the rest too. */
static double share_bound(int dtype, int kind)
{
    double bound = exp2((kind == 0 ? 4.0 : 6.0) - 2.0 * lq_dtype_bpw((uint32_t)dtype));
    return kind == 2 ? 0.9 : fmin(bound, 0.6);
}

Test(kernels, the_error_is_bounded_by_the_bits_on_every_shape_of_values)
{
    static struct coded_row c;
    random_state = 11;
    for (int dtype = 0; dtype < LQ_DTYPE_COUNT; dtype++) {
        for (int kind = 0; type_is_block(dtype) && kind < 6; kind++) {
            double error = 0.0, square = 0.0;
            for (size_t i = 0; i < ROW_COLS; i++) {
                double normal = sqrt(-2.0 * log(random_unit() + 1e-12)) *
                                cos(6.283185307179586 * random_unit());
                double laplace = log(random_unit() + 1e-9) * (random_unit() < 0.5 ? -1.0 : 1.0);
                double outlier = normal * (i % 100 == 7 ? 10.0 : 1.0);
                c.row[i] = (float)(0.02 * (kind % 3 == 0   ? normal
                                           : kind % 3 == 1 ? laplace
                                                           : outlier));
                c.importance[i] = (float)exp(random_unit() * 2.0);
            }
            code_row(&c, dtype, kind >= 3);
            for (size_t i = 0; i < ROW_COLS; i++) {
                double w = kind >= 3 ? (double)c.importance[i] : 1.0;
                double gap = (double)c.row[i] - (double)c.decoded[i];
                error += w * gap * gap;
                square += w * (double)c.row[i] * (double)c.row[i];
            }
            cr_expect_leq(error, share_bound(dtype, kind % 3) * square, "%s on %d: %g of %g",
                          lq_dtype_name((uint32_t)dtype), kind, error / square,
                          share_bound(dtype, kind % 3));
        }
    }
}

/* Scales beyond the largest half are clamped to it, tiny ones vanish: never an infinity, never an
 * overshoot. */
Test(kernels, extreme_magnitudes_stay_finite_and_bounded)
{
    static struct coded_row c;
    random_state = 5;
    for (int dtype = 0; dtype < LQ_DTYPE_COUNT; dtype++) {
        if (!type_is_block(dtype)) {
            continue;
        }
        for (int power = -149; power < 128; power += 4) {
            float peak = 0.0f;
            for (size_t i = 0; i < ROW_COLS; i++) {
                float value = (float)ldexp(random_unit() * 2.0 - 1.0, power);
                c.row[i] = value;
                c.importance[i] = (float)ldexp(random_unit(), (int)(i % 200) - 100);
                peak = fmaxf(peak, fabsf(value));
            }
            for (int has = 0; has < 2; has++) {
                code_row(&c, dtype, has != 0);
                for (size_t i = 0; i < ROW_COLS; i++) {
                    cr_assert_leq(fabsf(c.decoded[i]), 2.0f * peak, "%s power %d: %g of %g",
                                  lq_dtype_name((uint32_t)dtype), power, (double)c.decoded[i],
                                  (double)peak);
                }
            }
        }
    }
}

/* No information in the weights is the same as equal weights, to the bit. */
Test(kernels, importance_of_zero_counts_as_uniform)
{
    static struct coded_row c;
    static unsigned char plain[sizeof c.blocks];
    random_state = 6;
    for (int dtype = 0; dtype < LQ_DTYPE_COUNT; dtype++) {
        if (!type_is_block(dtype)) {
            continue;
        }
        for (size_t i = 0; i < ROW_COLS; i++) {
            c.row[i] = random_normal();
            c.importance[i] = 0.0f;
        }
        size_t size_bytes = lq_dtype_row_bytes((enum lq_dtype)dtype, ROW_COLS);
        code_row(&c, dtype, false);
        memcpy(plain, c.blocks, size_bytes);
        code_row(&c, dtype, true);
        cr_expect_eq(memcmp(plain, c.blocks, size_bytes), 0, "%s", lq_dtype_name((uint32_t)dtype));
        for (size_t i = 0; i < ROW_COLS; i++) {
            c.importance[i] = 64.0f;
        }
        code_row(&c, dtype, true);
        cr_expect_eq(memcmp(plain, c.blocks, size_bytes), 0, "%s", lq_dtype_name((uint32_t)dtype));
    }
}

/* A weight with a million times the importance of its neighbours, an outlier as super weights are,
 * comes out within two half-precision ulps (2^-10 of it) in every type whose scale is a half. */
Test(kernels, a_dominating_weight_is_kept_almost_exactly)
{
    static struct coded_row c;
    random_state = 7;
    for (int dtype = 0; dtype < LQ_DTYPE_COUNT; dtype++) {
        if (!type_is_block(dtype)) {
            continue;
        }
        for (int draw = 0; draw < 50; draw++) {
            for (size_t i = 0; i < ROW_COLS; i++) {
                c.row[i] = 0.02f * random_normal();
                c.importance[i] = expf(random_normal());
            }
            size_t at = (size_t)(random_unit() * ROW_COLS);
            c.row[at] = draw % 2 == 0 ? 0.4f : -0.4f;
            c.importance[at] = 1e6f;
            code_row(&c, dtype, true);
            /* Scales of one bit or four bits of precision leave no more than the level itself. */
            bool coarse = dtype == LQ_DTYPE_MXFP4 || dtype == LQ_DTYPE_NVFP4;
            float slack = 0.4f * (coarse ? 0x1p-3f : 0x1p-10f);
            cr_expect_leq(fabsf(c.decoded[at] - c.row[at]), slack, "%s draw %d: %g",
                          lq_dtype_name((uint32_t)dtype), draw, (double)c.decoded[at]);
        }
    }
}

Test(kernels, nonfinite_values_are_found_wherever_they_are)
{
    float values[100];
    for (size_t count = 0; count <= 100; count++) {
        for (size_t i = 0; i < count; i++) {
            values[i] = i % 2 == 0 ? 3.4e38f : -1e-45f;
        }
        cr_assert_eq(lq_kernels()->find_nonfinite(values, count), count);
        for (size_t i = 0; i < count; i++) {
            float saved = values[i];
            values[i] = i % 2 == 0 ? NAN : -INFINITY;
            cr_assert_eq(lq_kernels()->find_nonfinite(values, count), i);
            values[i] = saved;
        }
    }
}

Test(kernels, squares_are_added_column_by_column)
{
    float rows[3 * 67];
    float sums[67];
    for (size_t j = 0; j < 67; j++) {
        sums[j] = (float)j;
        rows[j] = 1.0f;
        rows[67 + j] = (float)j;
        rows[134 + j] = -2.0f;
    }
    lq_kernels()->add_squares(rows, 3, 67, sums);
    for (size_t j = 0; j < 67; j++) {
        cr_assert_eq(sums[j], (float)(j + 1 + j * j + 4));
    }
}

Test(kernels, init_lowers_the_level_and_never_raises_it)
{
    lq_kernels_init(LQ_CPU_REF);
    cr_assert_eq(lq_kernels()->level, LQ_CPU_REF);
    cr_assert_eq(lq_kernels(), lq_kernels_at(LQ_CPU_REF));
    lq_kernels_init(LQ_CPU_AVX512);
    cr_assert_eq(lq_kernels()->level, lq_cpu_level_best());
    cr_assert_str_eq(lq_cpu_level_name(LQ_CPU_REF), "ref");
}
