/* What one layer of a calibration run leaves behind: for each of the four inputs of its matrices
 * the sum of squares per column, in double. The bytes, little-endian: u32 magic "LQST", u32 version
 * 1, u32 sample_count, u32 sequence_length, 4 x u32 columns, then the sums as f64 in the same
 * order. Thread rule: pure, per object. Limits: LQ_SAMPLES_MAX, LQ_SEQUENCE_MAX, LQ_MODEL_DIM_MAX.
 */
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
    double *sums[LQ_LAYER_INPUT_COUNT];
};

/* Room for the sums, from the arena; columns must be set. */
enum lq_status lq_layer_stats_alloc(struct lq_layer_stats *stats, struct lq_arena *arena,
                                    struct lq_error *err);
enum lq_status lq_layer_stats_format(const struct lq_layer_stats *stats, struct lq_buffer *out,
                                     struct lq_error *err);
/* LQ_EFORMAT for malformed bytes; LQ_EIMPORTANCE for sums that are negative or not finite. */
enum lq_status lq_layer_stats_parse(const void *data, uint64_t size_bytes, struct lq_arena *arena,
                                    struct lq_layer_stats *out, struct lq_error *err);

#endif
