/* The tiles of matrix products for checkkern: every table that this CPU can run against the
 * definitions in matmul.h and matmul_short.h, bit for bit, on shapes with edges on all sides.
 * Header only. */
#ifndef LQ_TESTS_CHECKKERN_PRODUCTS_H
#define LQ_TESTS_CHECKKERN_PRODUCTS_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/matmul.h"
#include "kernels/matmul_short.h"

/* Rows x columns x depth: whole tiles of every level, and edges of one more or less. */
static const size_t product_sizes[][3] = {
    {1, 1, 1}, {6, 16, 128}, {12, 32, 256}, {13, 33, 257}, {5, 100, 300}, {97, 31, 129}, {2, 3, 0}};

static float *product_values(size_t count, double (*normal)(void))
{
    float *values = malloc((count + 1) * sizeof *values);
    for (size_t i = 0; values != NULL && i < count; i++) {
        /* Outliers, as activations have them. */
        values[i] = (float)(normal() * (i % 61 == 7 ? 100.0 : 1.0));
    }
    if (values == NULL) {
        exit(1);
    }
    return values;
}

/* Fused chains of LQ_MATMUL_DEPTH factors, added up in their order. */
static float product_reference(const float *a, const float *b, size_t k)
{
    float c = 0.0f;
    for (size_t k0 = 0; k0 < k; k0 += LQ_MATMUL_DEPTH) {
        size_t end = k0 + LQ_MATMUL_DEPTH < k ? k0 + LQ_MATMUL_DEPTH : k;
        float sum = 0.0f;
        for (size_t i = k0; i < end; i++) {
            sum = fmaf(a[i], b[i], sum);
        }
        c = k0 == 0 ? sum : c + sum;
    }
    return c;
}

static float short_block_reference(const float *x, size_t length, int *values)
{
    float max = 0.0f;
    for (size_t i = 0; i < length; i++) {
        max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
    }
    for (size_t i = 0; i < length; i++) {
        values[i] = max < LQ_SHORT_TINY ? 0 : (int)nearbyintf(x[i] * ((float)LQ_SHORT_MAX / max));
    }
    return max < LQ_SHORT_TINY ? 0.0f : max / (float)LQ_SHORT_MAX;
}

static float short_reference(const float *a, const float *b, size_t k)
{
    float c = 0.0f;
    for (size_t k0 = 0; k0 < k; k0 += LQ_SHORT_BLOCK) {
        size_t length = k - k0 < LQ_SHORT_BLOCK ? k - k0 : LQ_SHORT_BLOCK;
        int left[LQ_SHORT_BLOCK];
        int right[LQ_SHORT_BLOCK];
        float scale = short_block_reference(a + k0, length, left) *
                      short_block_reference(b + k0, length, right);
        int sum = 0;
        for (size_t i = 0; i < length; i++) {
            sum += left[i] * right[i];
        }
        c = k0 == 0 ? (float)sum * scale : fmaf((float)sum, scale, c);
    }
    return c;
}

static void multiply_floats(const struct lq_matmul_tiles *tiles, const float *a, const float *b,
                            float *c, const size_t size[3])
{
    const struct lq_sgemm_args args = {.m = size[0],
                                       .n = size[1],
                                       .k = size[2],
                                       .alpha = 1.0f,
                                       .a = a,
                                       .lda = size[2],
                                       .b = b,
                                       .ldb = size[2],
                                       .c = c,
                                       .ldc = size[1]};
    size_t panels = (size[1] + tiles->panel_cols - 1) / tiles->panel_cols;
    float *packed = malloc((panels * tiles->panel_cols * size[2] + 1) * sizeof *packed);
    for (size_t panel = 0; packed != NULL && panel < panels; panel++) {
        size_t col = panel * tiles->panel_cols;
        tiles->pack_panel(true, &args, col, packed + col * size[2]);
    }
    if (packed != NULL) {
        tiles->multiply(false, &args, packed);
    }
    free(packed);
}

static struct lq_short_strip pack_shorts(const struct lq_short_tiles *tiles, const float *x,
                                         size_t rows, size_t k, size_t strip_rows)
{
    size_t packed_rows = (rows + strip_rows - 1) / strip_rows * strip_rows;
    struct lq_short_strip strips = {
        malloc((packed_rows * lq_short_values(k) + 1) * sizeof(int16_t)),
        malloc((packed_rows * lq_short_blocks(k) + 1) * sizeof(float))};
    for (size_t row = 0; strips.values != NULL && strips.scales != NULL && row < rows;
         row += strip_rows) {
        struct lq_short_strip strip = {strips.values + row * lq_short_values(k),
                                       strips.scales + row * lq_short_blocks(k)};
        tiles->pack(x + row * k, k, rows - row < strip_rows ? rows - row : strip_rows, k,
                    strip_rows, strip);
    }
    return strips;
}

static void multiply_shorts(const struct lq_short_tiles *tiles, const float *a, const float *b,
                            float *c, const size_t size[3])
{
    struct lq_short_args args = {.rows = size[0],
                                 .cols = size[1],
                                 .k = size[2],
                                 .a = pack_shorts(tiles, a, size[0], size[2], tiles->a_rows),
                                 .b = pack_shorts(tiles, b, size[1], size[2], tiles->b_rows),
                                 .b_value_step = lq_short_values(size[2]) * tiles->b_rows,
                                 .b_scale_step = lq_short_blocks(size[2]) * tiles->b_rows,
                                 .c = c,
                                 .ldc = size[1]};
    tiles->multiply(&args);
    free(args.a.values);
    free(args.a.scales);
    free(args.b.values);
    free(args.b.scales);
}

/* One table; exactly one of the two is not NULL. The number of products that differ. */
static int check_products_of(const char *name, const struct lq_matmul_tiles *floats,
                             const struct lq_short_tiles *shorts, double (*normal)(void))
{
    int differences = 0;
    for (size_t s = 0; s < sizeof product_sizes / sizeof product_sizes[0]; s++) {
        const size_t *size = product_sizes[s];
        float *a = product_values(size[0] * size[2], normal);
        float *b = product_values(size[1] * size[2], normal);
        float *c = product_values(size[0] * size[1], normal);
        size_t wrong = 0;
        if (floats != NULL) {
            multiply_floats(floats, a, b, c, size);
        } else {
            multiply_shorts(shorts, a, b, c, size);
        }
        for (size_t i = 0; i < size[0] * size[1]; i++) {
            const float *row = a + i / size[1] * size[2];
            const float *col = b + i % size[1] * size[2];
            float expected = floats != NULL ? product_reference(row, col, size[2])
                                            : short_reference(row, col, size[2]);
            wrong += memcmp(&expected, &c[i], sizeof expected) == 0 ? 0 : 1;
        }
        if (wrong != 0) {
            fprintf(stderr, "checkkern: product %s: %zu values of %zu x %zu x %zu differ\n", name,
                    wrong, size[0], size[1], size[2]);
            differences++;
        }
        free(a);
        free(b);
        free(c);
    }
    printf("%s: %zu products\n", name, sizeof product_sizes / sizeof product_sizes[0]);
    return differences;
}

/* Every table of one level. */
static int check_products(enum lq_cpu_level level, double (*normal)(void))
{
    int differences = 0;
#if defined(__x86_64__)
    if (level == LQ_CPU_AVX2) {
        differences += check_products_of("avx2 f32", &lq_matmul_tiles_avx2, NULL, normal);
        differences += check_products_of("avx2 i16", NULL, &lq_short_tiles_avx2, normal);
    }
    if (level == LQ_CPU_AVX512) {
        differences += check_products_of("avx512 f32", &lq_matmul_tiles_avx512, NULL, normal);
        differences += check_products_of("avx512 i16", NULL, &lq_short_tiles_avx512, normal);
        if (__builtin_cpu_supports("avx512vnni")) {
            differences += check_products_of("avx512 vnni", NULL, &lq_short_tiles_vnni, normal);
        } else {
            printf("SKIP avx512 vnni: this CPU does not have it\n");
        }
    }
#else
    (void)level;
    (void)normal;
#endif
    return differences;
}

#endif
