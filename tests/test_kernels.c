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
    cr_assert_geq(checked, 20);
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
    cr_assert_geq(checked, 20);
}
