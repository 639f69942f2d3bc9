#include "rules/quality/tensor_error.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/pool.h"
#include "rules/quant/levels.h"

enum { TILE_ELEMS = 64 * 1024 };

struct part {
    double squares;
    double signal;
    double largest;
    enum lq_status status;
    struct lq_error err;
};

struct comparison {
    const struct lq_model_tensor *original;
    const void *original_data;
    const struct lq_model_tensor *quantized;
    const void *quantized_data;
    uint64_t row_count;
    uint64_t tile_rows;
    struct part *parts;
};

static void sum_part(const float *a, const float *b, size_t count, struct part *part)
{
    for (size_t i = 0; i < count; i++) {
        double value = (double)a[i];
        double difference = value - (double)b[i];
        part->squares += difference * difference;
        part->signal += value * value;
        double size = fabs(difference);
        part->largest = size > part->largest ? size : part->largest;
    }
}

static void compare_tile(void *user, size_t index)
{
    struct comparison *c = user;
    struct part *part = &c->parts[index];
    uint64_t row = index * c->tile_rows;
    uint64_t rows = c->row_count - row < c->tile_rows ? c->row_count - row : c->tile_rows;
    size_t count = (size_t)(rows * c->original->ne[0]);
    float *values = malloc(2 * count * sizeof *values);
    if (values == NULL) {
        part->status = lq_error_nomem(&part->err, "a tile of a tensor");
        return;
    }
    part->status =
        lq_model_tensor_rows(c->original, c->original_data, row, rows, values, &part->err);
    if (part->status == LQ_OK) {
        part->status = lq_model_tensor_rows(c->quantized, c->quantized_data, row, rows,
                                            values + count, &part->err);
    }
    if (part->status == LQ_OK) {
        sum_part(values, values + count, count, part);
    }
    free(values);
}

enum lq_status lq_tensor_error_measure(const struct lq_model_tensor *original,
                                       const void *original_data,
                                       const struct lq_model_tensor *quantized,
                                       const void *quantized_data, struct lq_pool *pool,
                                       struct lq_tensor_error *out, struct lq_error *err)
{
    uint64_t elems = lq_level_tensor_elems(original);
    if (memcmp(original->ne, quantized->ne, sizeof original->ne) != 0 || elems == 0 ||
        elems == UINT64_MAX) {
        return lq_error_set(
            err, LQ_EFORMAT,
            "tensor '%s' is %" PRIu64 " x %" PRIu64 " in the quantized model and %" PRIu64
            " x %" PRIu64 " in the original; they are different models",
            original->name, quantized->ne[0], quantized->ne[1], original->ne[0], original->ne[1]);
    }
    struct comparison c = {.original = original,
                           .original_data = original_data,
                           .quantized = quantized,
                           .quantized_data = quantized_data};
    c.row_count = elems / original->ne[0];
    c.tile_rows = original->ne[0] >= TILE_ELEMS ? 1 : TILE_ELEMS / original->ne[0];
    size_t part_count = (size_t)((c.row_count + c.tile_rows - 1) / c.tile_rows);
    c.parts = calloc(part_count, sizeof *c.parts);
    if (c.parts == NULL) {
        return lq_error_nomem(err, "the errors of a tensor");
    }
    lq_pool_for(pool, part_count, compare_tile, &c);
    *out = (struct lq_tensor_error){.parameter_count = elems};
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < part_count && status == LQ_OK; i++) {
        status = c.parts[i].status;
        if (status != LQ_OK) {
            (void)lq_error_set(err, status, "%s", c.parts[i].err.message);
        }
        out->mse += c.parts[i].squares;
        out->signal += c.parts[i].signal;
        out->max_error = fmax(out->max_error, c.parts[i].largest);
    }
    out->mse /= (double)elems;
    out->signal /= (double)elems;
    free(c.parts);
    return status;
}
