/* Second moments of activations: against sums in double, however the rows come, and damaged bytes.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "rules/model/moments.h"

static struct lq_error err;

static enum lq_status append(void *user, const void *data, size_t size_bytes,
                             struct lq_error *error)
{
    (void)error;
    lq_buffer_append(user, data, size_bytes);
    return LQ_OK;
}

static void fill(float *values, size_t count)
{
    srand(11);
    for (size_t i = 0; i < count; i++) {
        values[i] = (float)(rand() % 2001 - 900) / 300.0F;
    }
}

/* Pieces of `piece` values; the bytes go to `out`. */
static void measure(const float *values, size_t rows, size_t cols, size_t piece,
                    struct lq_pool *pool, struct lq_buffer *out)
{
    struct lq_moments moments;
    cr_assert_eq(lq_moments_init(&moments, cols, &err), LQ_OK);
    for (size_t at = 0; at < rows * cols; at += piece) {
        size_t left = rows * cols - at;
        lq_moments_add(&moments, pool, values + at, left < piece ? left : piece);
    }
    cr_assert_eq(lq_moments_finish(&moments, pool, &err), LQ_OK, "%s", err.message);
    cr_expect_eq(moments.row_count, rows);
    lq_buffer_init(out);
    cr_assert_eq(lq_moments_write(&moments, append, out, &err), LQ_OK);
    lq_moments_fini(&moments);
}

Test(moments, are_the_means_of_products)
{
    static const size_t shapes[][2] = {{1, 1}, {5, 3}, {256, 40}, {700, 200}, {513, 33}};
    for (size_t s = 0; s < LQ_COUNT_OF(shapes); s++) {
        size_t rows = shapes[s][0];
        size_t cols = shapes[s][1];
        float *values = malloc(rows * cols * sizeof *values);
        struct lq_buffer bytes;
        struct lq_mean_moments means;
        fill(values, rows * cols);
        measure(values, rows, cols, rows * cols, NULL, &bytes);
        cr_assert_eq(lq_mean_moments_parse(bytes.data, bytes.size_bytes, &means, &err), LQ_OK, "%s",
                     err.message);
        cr_assert(means.col_count == cols && means.row_count == rows);
        for (size_t i = 0; i < cols; i++) {
            double size = 0.0;
            for (size_t r = 0; r < rows; r++) {
                size += fabs((double)values[r * cols + i]);
            }
            cr_expect_float_eq((double)means.sizes[i], size / (double)rows, 1e-6 * size);
            for (size_t j = 0; j < cols; j++) {
                double sum = 0.0;
                double both = 0.0;
                for (size_t r = 0; r < rows; r++) {
                    double product = (double)values[r * cols + i] * (double)values[r * cols + j];
                    sum += product;
                    both += fabs(product);
                }
                /* 256 products and as many sums as there are blocks, each rounded once. */
                double most = both / (double)rows * 260.0 * 6e-8 + 1e-30;
                cr_expect_float_eq((double)means.means[i * cols + j], sum / (double)rows, most);
            }
        }
        lq_mean_moments_fini(&means);
        lq_buffer_fini(&bytes);
        free(values);
    }
}

Test(moments, are_the_same_however_they_come)
{
    enum { ROWS = 600, COLS = 300 };
    static float values[ROWS * COLS];
    struct lq_buffer whole;
    struct lq_pool *pool = NULL;
    fill(values, ROWS * COLS);
    measure(values, ROWS, COLS, ROWS * COLS, NULL, &whole);
    cr_assert_eq(lq_pool_create(&pool, 3, &err), LQ_OK);
    static const size_t pieces[] = {1, 7, COLS, 4096, 256 * COLS, 100000};
    for (size_t p = 0; p < LQ_COUNT_OF(pieces); p++) {
        struct lq_buffer bytes;
        measure(values, ROWS, COLS, pieces[p], pool, &bytes);
        cr_assert_eq(bytes.size_bytes, whole.size_bytes);
        cr_expect(memcmp(bytes.data, whole.data, whole.size_bytes) == 0, "%zu", pieces[p]);
        lq_buffer_fini(&bytes);
    }
    lq_pool_destroy(pool);
    lq_buffer_fini(&whole);
}

Test(moments, of_nothing_and_of_too_much)
{
    struct lq_moments moments;
    static const float large[] = {1.0F, 3e19F};
    cr_assert_eq(lq_moments_init(&moments, 0, &err), LQ_OK);
    lq_moments_add(&moments, NULL, large, 2);
    cr_expect_eq(moments.row_count, 0);
    lq_moments_fini(&moments);
    cr_assert_eq(lq_moments_init(&moments, 2, &err), LQ_OK);
    lq_moments_add(&moments, NULL, large, 2);
    cr_expect_eq(lq_moments_finish(&moments, NULL, &err), LQ_EIMPORTANCE);
    cr_expect_not_null(strstr(err.message, "column 1"), "%s", err.message);
    lq_moments_fini(&moments);
    cr_expect_eq(lq_moments_init(&moments, SIZE_MAX / 2, &err), LQ_ENOMEM);
    lq_moments_fini(&moments);
}

Test(moments, damaged_bytes_are_refused)
{
    static const float values[] = {1, -2, 3, 4, 5, 6};
    struct lq_buffer bytes;
    struct lq_mean_moments means;
    measure(values, 2, 3, 6, NULL, &bytes);
    for (size_t size = 0; size < bytes.size_bytes; size++) {
        cr_expect_eq(lq_mean_moments_parse(bytes.data, size, &means, &err), LQ_EFORMAT);
    }
    static const struct {
        size_t at;
        unsigned char value;
    } damages[] = {{0, 0}, {4, 9}, {8, 4}, {15, 0x7F}, {31, 0xFF}, {51, 0xFF}};
    for (size_t d = 0; d < LQ_COUNT_OF(damages); d++) {
        unsigned char was = bytes.data[damages[d].at];
        bytes.data[damages[d].at] = damages[d].value;
        cr_expect_eq(lq_mean_moments_parse(bytes.data, bytes.size_bytes, &means, &err), LQ_EFORMAT,
                     "%zu", d);
        bytes.data[damages[d].at] = was;
    }
    memset(bytes.data + 16, 0, 8); /* no rows */
    cr_expect_eq(lq_mean_moments_parse(bytes.data, bytes.size_bytes, &means, &err), LQ_EFORMAT);
    lq_buffer_fini(&bytes);
}
