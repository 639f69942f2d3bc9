/* What the backward pass of one layer leaves behind: for each of its matrices the scores of its
 * columns, averaged over rows and summed over samples, and for each expert of a matrix the samples
 * that reached it. The bytes, little-endian: u32 magic "LQWS", u32 version 1, u32 sample_count, u32
 * sequence_length, u32 matrix_count, then for each matrix u32 length and bytes of its name
 * ("attn_q"), u32 experts (1 for a plain matrix), u32 columns, its counts as u64 and its sums as
 * f64. Thread rule: pure, per object. Limits: LQ_SAMPLES_MAX, LQ_SEQUENCE_MAX, LQ_MODEL_DIM_MAX,
 * LQ_MODEL_EXPERTS_MAX. */
#ifndef LQ_RULES_MODEL_WEIGHT_STATS_H
#define LQ_RULES_MODEL_WEIGHT_STATS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/buffer.h"
#include "engine/base/error.h"
#include "rules/model/hparams.h"

struct lq_weight_stats_matrix {
    char name[LQ_WEIGHT_NAME_BYTES];
    uint32_t mats;
    uint32_t cols;
    uint64_t *counts; /* [mats] samples */
    double *sums;     /* [mats x cols] */
};

struct lq_weight_stats {
    uint32_t sample_count;
    uint32_t sequence_length;
    struct lq_weight_stats_matrix matrices[LQ_LAYER_WEIGHT_COUNT];
    size_t matrix_count;
};

/* Adds a matrix with room for its counts and sums, from the arena. */
enum lq_status lq_weight_stats_add(struct lq_weight_stats *stats, const char *name, uint32_t mats,
                                   uint32_t cols, struct lq_arena *arena, struct lq_error *err);
enum lq_status lq_weight_stats_format(const struct lq_weight_stats *stats, struct lq_buffer *out,
                                      struct lq_error *err);
/* LQ_EFORMAT for malformed bytes; LQ_EIMPORTANCE for sums that are negative or not finite. */
enum lq_status lq_weight_stats_parse(const void *data, uint64_t size_bytes, struct lq_arena *arena,
                                     struct lq_weight_stats *out, struct lq_error *err);

#endif
