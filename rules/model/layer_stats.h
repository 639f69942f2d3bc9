/* What one layer of a calibration run leaves behind: for each input of its matrices the sum of
 * squares per column, in double, and the number of rows in the sums; for the inputs of experts both
 * for every expert. The bytes, little-endian: u32 magic "LQST", u32 version 2, u32 sample_count,
 * u32 sequence_length, u32 columns of each input (0: the layer does not have it), u32 matrices of
 * each input, then for each input its counts as u64 and its sums as f64. Thread rule: pure, per
 * object. Limits: LQ_SAMPLES_MAX, LQ_SEQUENCE_MAX, LQ_MODEL_DIM_MAX, LQ_MODEL_EXPERTS_MAX. */
#ifndef LQ_RULES_MODEL_LAYER_STATS_H
#define LQ_RULES_MODEL_LAYER_STATS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/buffer.h"
#include "engine/base/error.h"
#include "rules/model/forward.h"

struct lq_layer_stats {
    uint32_t sample_count;
    uint32_t sequence_length;
    uint32_t cols[LQ_LAYER_INPUT_COUNT];
    uint32_t mats[LQ_LAYER_INPUT_COUNT];
    uint64_t *counts[LQ_LAYER_INPUT_COUNT]; /* [mats] rows */
    double *sums[LQ_LAYER_INPUT_COUNT];     /* [mats x cols] */
};

/* Columns and matrices of every input, as the model has them. */
void lq_layer_stats_shape(struct lq_layer_stats *stats, const struct lq_hparams *hparams);
/* Room for counts and sums, from the arena; the shape must be set. */
enum lq_status lq_layer_stats_alloc(struct lq_layer_stats *stats, struct lq_arena *arena,
                                    struct lq_error *err);
enum lq_status lq_layer_stats_format(const struct lq_layer_stats *stats, struct lq_buffer *out,
                                     struct lq_error *err);
/* LQ_EFORMAT for malformed bytes; LQ_EIMPORTANCE for sums that are negative or not finite. */
enum lq_status lq_layer_stats_parse(const void *data, uint64_t size_bytes, struct lq_arena *arena,
                                    struct lq_layer_stats *out, struct lq_error *err);

#endif
