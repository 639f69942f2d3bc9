/* What flows into the matrices of one layer, column by column: the smallest and largest value, the
 * sum and the sum of squares, and how many values are outliers. For SmoothQuant, which moves large
 * columns of activations into the weights. Inputs of experts are left out. The bytes,
 * little-endian: u32 magic "LQRG", u32 version 1, then for each input u32 columns (0: the layer
 * does not have it), u64 rows, u64 outliers, and columns each of f32 minima, f32 maxima, f64 sums
 * and f64 squares. Thread rule: pure, per object. Limits: LQ_MODEL_DIM_MAX. */
#ifndef LQ_RULES_MODEL_LAYER_RANGES_H
#define LQ_RULES_MODEL_LAYER_RANGES_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/buffer.h"
#include "engine/base/error.h"
#include "rules/model/hparams.h"

/* Magnitudes above this are outliers, as in LLM.int8() (Dettmers and others, arXiv 2208.07339). */
#define LQ_OUTLIER_ABOVE 6.0F

struct lq_input_range {
    uint32_t col_count;
    uint64_t row_count;
    uint64_t outlier_count;
    float *min;
    float *max;
    double *sum;
    double *squares;
};

struct lq_layer_ranges {
    struct lq_input_range inputs[LQ_LAYER_INPUT_COUNT];
};

/* Room for a model's inputs, from the arena, with nothing seen yet. */
enum lq_status lq_layer_ranges_init(struct lq_layer_ranges *ranges,
                                    const struct lq_hparams *hparams, struct lq_arena *arena,
                                    struct lq_error *err);
/* Adds values that follow each other, row by row; the first one is in column `col`. */
void lq_layer_ranges_add(struct lq_layer_ranges *ranges, enum lq_layer_input input, size_t col,
                         const float *values, size_t count);
enum lq_status lq_layer_ranges_format(const struct lq_layer_ranges *ranges, struct lq_buffer *out,
                                      struct lq_error *err);
/* LQ_EFORMAT for malformed bytes. */
enum lq_status lq_layer_ranges_parse(const void *data, uint64_t size_bytes, struct lq_arena *arena,
                                     struct lq_layer_ranges *out, struct lq_error *err);
/* The largest magnitude in a column. */
float lq_input_range_size(const struct lq_input_range *range, size_t col);

#endif
