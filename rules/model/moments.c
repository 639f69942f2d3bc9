#include "rules/model/moments.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/checked.h"
#include "engine/base/limits.h"
#include "engine/base/reader.h"
#include "kernels/matmul.h"

#define MOMENTS_MAGIC 0x4d4d514cu

enum {
    MOMENTS_VERSION = 1,
    BLOCK_COLS = 128, /* columns of the sums that one task adds to */
    TURN_ROWS = 32,   /* columns and rows that are turned at a time */
};

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

enum lq_status lq_moments_init(struct lq_moments *moments, size_t col_count, struct lq_error *err)
{
    size_t squares = 0;
    *moments = (struct lq_moments){.col_count = col_count};
    if (col_count == 0) {
        return LQ_OK;
    }
    if (col_count > LQ_MODEL_DIM_MAX || !lq_mul_size(col_count, col_count, &squares)) {
        return lq_error_nomem(err, "moments of activations");
    }
    moments->sizes = calloc(col_count, sizeof *moments->sizes);
    moments->sums = calloc(squares, sizeof *moments->sums);
    moments->rows = malloc(col_count * LQ_MOMENT_ROWS * sizeof *moments->rows);
    moments->turned = malloc(col_count * LQ_MOMENT_ROWS * sizeof *moments->turned);
    bool has_room = moments->sizes != NULL && moments->sums != NULL && moments->rows != NULL &&
                    moments->turned != NULL;
    if (!has_room) {
        lq_moments_fini(moments);
    }
    return has_room ? LQ_OK : lq_error_nomem(err, "moments of activations");
}

void lq_moments_fini(struct lq_moments *moments)
{
    free(moments->sizes);
    free(moments->sums);
    free(moments->rows);
    free(moments->turned);
    *moments = (struct lq_moments){.col_count = 0};
}

uint64_t lq_moments_memory(uint64_t col_count)
{
    return col_count <= LQ_MODEL_DIM_MAX
               ? (col_count * col_count + col_count * 2 * LQ_MOMENT_ROWS) * sizeof(float)
               : 0;
}

/* ---- adding ---- */

static void turn_columns(void *user, size_t index)
{
    const struct lq_moments *moments = user;
    size_t cols = moments->col_count;
    size_t first = index * TURN_ROWS;
    size_t end = min_size(first + TURN_ROWS, cols);
    for (size_t row = 0; row < LQ_MOMENT_ROWS; row += TURN_ROWS) {
        for (size_t j = first; j < end; j++) {
            for (size_t r = row; r < row + TURN_ROWS; r++) {
                moments->turned[j * LQ_MOMENT_ROWS + r] = moments->rows[r * cols + j];
            }
        }
    }
    for (size_t j = first; j < end; j++) {
        const float *column = moments->turned + j * LQ_MOMENT_ROWS;
        for (size_t r = 0; r < LQ_MOMENT_ROWS; r++) {
            moments->sizes[j] += fabs((double)column[r]);
        }
    }
}

/* Columns of the sums, down to the diagonal. */
static void add_columns(void *user, size_t index)
{
    const struct lq_moments *moments = user;
    size_t cols = moments->col_count;
    size_t first = index * BLOCK_COLS;
    size_t count = min_size(BLOCK_COLS, cols - first);
    const struct lq_sgemm_args args = {.m = first + count,
                                       .n = count,
                                       .k = LQ_MOMENT_ROWS,
                                       .alpha = 1.0F,
                                       .a = moments->turned,
                                       .lda = LQ_MOMENT_ROWS,
                                       .b = moments->turned + first * LQ_MOMENT_ROWS,
                                       .ldb = LQ_MOMENT_ROWS,
                                       .beta = 1.0F,
                                       .c = moments->sums + first,
                                       .ldc = cols};
    lq_matmul_sgemm()(true, &args);
}

/* `rows` is full, or has zeros behind its values. */
static void add_rows(struct lq_moments *moments, struct lq_pool *pool)
{
    size_t cols = moments->col_count;
    lq_pool_for(pool, (cols + TURN_ROWS - 1) / TURN_ROWS, turn_columns, moments);
    lq_pool_for(pool, (cols + BLOCK_COLS - 1) / BLOCK_COLS, add_columns, moments);
    moments->row_count += moments->value_count / cols;
    moments->value_count = 0;
}

void lq_moments_add(struct lq_moments *moments, struct lq_pool *pool, const float *values,
                    size_t count)
{
    size_t room = moments->col_count * LQ_MOMENT_ROWS;
    while (room > 0 && count > 0) {
        size_t step = min_size(room - moments->value_count, count);
        memcpy(moments->rows + moments->value_count, values, step * sizeof *values);
        moments->value_count += step;
        values += step;
        count -= step;
        if (moments->value_count == room) {
            add_rows(moments, pool);
        }
    }
}

enum lq_status lq_moments_finish(struct lq_moments *moments, struct lq_pool *pool,
                                 struct lq_error *err)
{
    size_t cols = moments->col_count;
    if (moments->value_count > 0) {
        memset(moments->rows + moments->value_count, 0,
               (cols * LQ_MOMENT_ROWS - moments->value_count) * sizeof *moments->rows);
        add_rows(moments, pool);
    }
    /* By Cauchy and Schwarz no sum is larger than the largest of these. */
    for (size_t j = 0; j < cols; j++) {
        float square = moments->sums[j * cols + j];
        if (!isfinite(square)) {
            return lq_error_set(err, LQ_EIMPORTANCE,
                                "the squares of column %zu of a layer's input add up to %g; "
                                "activations of this model are too large to be measured",
                                j, (double)square);
        }
    }
    return LQ_OK;
}

/* ---- bytes ---- */

enum lq_status lq_moments_write(const struct lq_moments *moments, lq_moments_write_fn write,
                                void *user, struct lq_error *err)
{
    struct lq_buffer bytes;
    size_t cols = moments->col_count;
    enum lq_status status = LQ_OK;
    lq_buffer_init(&bytes);
    lq_buffer_append_u32(&bytes, MOMENTS_MAGIC);
    lq_buffer_append_u32(&bytes, MOMENTS_VERSION);
    lq_buffer_append_u64(&bytes, cols);
    lq_buffer_append_u64(&bytes, moments->row_count);
    for (size_t j = 0; j < cols; j++) {
        uint64_t bits = 0;
        memcpy(&bits, &moments->sizes[j], sizeof bits);
        lq_buffer_append_u64(&bytes, bits);
    }
    for (size_t i = 0; status == LQ_OK && i <= cols; i++) {
        status = bytes.failed ? lq_error_nomem(err, "moments of activations")
                              : write(user, bytes.data, bytes.size_bytes, err);
        lq_buffer_clear(&bytes);
        for (size_t j = i; j < cols; j++) {
            lq_buffer_append_f32(&bytes, moments->sums[i * cols + j]);
        }
    }
    lq_buffer_fini(&bytes);
    return status;
}

static enum lq_status malformed(uint64_t size_bytes, struct lq_error *err)
{
    return lq_error_set(err, LQ_EFORMAT, "%llu bytes are no moments of activations",
                        (unsigned long long)size_bytes);
}

static bool read_values(struct lq_reader *reader, struct lq_mean_moments *out)
{
    size_t cols = out->col_count;
    double rows = (double)out->row_count;
    bool good = true;
    for (size_t j = 0; j < cols; j++) {
        double size = lq_read_f64(reader);
        good = good && isfinite(size) && size >= 0.0;
        out->sizes[j] = (float)(size / rows);
    }
    for (size_t i = 0; good && i < cols; i++) {
        for (size_t j = i; j < cols; j++) {
            float mean = (float)((double)lq_read_f32(reader) / rows);
            good = good && isfinite(mean) && (i != j || mean >= 0.0F);
            out->means[i * cols + j] = mean;
            out->means[j * cols + i] = mean;
        }
    }
    return good && !reader->failed;
}

enum lq_status lq_mean_moments_parse(const void *data, uint64_t size_bytes,
                                     struct lq_mean_moments *out, struct lq_error *err)
{
    struct lq_reader reader;
    lq_reader_init(&reader, data, size_bytes);
    *out = (struct lq_mean_moments){.col_count = 0};
    bool good = lq_read_u32(&reader) == MOMENTS_MAGIC && lq_read_u32(&reader) == MOMENTS_VERSION;
    uint64_t cols = lq_read_u64(&reader);
    out->row_count = lq_read_u64(&reader);
    if (!good || reader.failed || cols == 0 || cols > LQ_MODEL_DIM_MAX || out->row_count == 0 ||
        lq_reader_left(&reader) != cols * sizeof(double) + cols * (cols + 1) / 2 * sizeof(float)) {
        return malformed(size_bytes, err);
    }
    out->col_count = (size_t)cols;
    out->sizes = malloc(out->col_count * sizeof *out->sizes);
    out->means = malloc(out->col_count * out->col_count * sizeof *out->means);
    enum lq_status status = LQ_OK;
    if (out->sizes == NULL || out->means == NULL) {
        status = lq_error_nomem(err, "moments of activations");
    } else if (!read_values(&reader, out)) {
        status = malformed(size_bytes, err);
    }
    if (status != LQ_OK) {
        lq_mean_moments_fini(out);
    }
    return status;
}

void lq_mean_moments_fini(struct lq_mean_moments *moments)
{
    free(moments->sizes);
    free(moments->means);
    *moments = (struct lq_mean_moments){.col_count = 0};
}
