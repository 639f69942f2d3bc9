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
