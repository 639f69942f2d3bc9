/* Super-weight masks: which elements of which tensors are worth protecting. Sparse: sorted
 * positions, with their scores if wanted. A file is a JSON header that people can read and a
 * compact binary section (docs/formats.md). The identifier is derived from the content, so equal
 * masks are equal files. Parsed memory comes from the arena. Malformed input gives LQ_EFORMAT.
 * Limits: LQ_MASK_POSITIONS_MAX positions. Thread rule: per object. */
#ifndef LQ_RULES_FORMAT_MASK_H
#define LQ_RULES_FORMAT_MASK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/buffer.h"
#include "engine/base/error.h"
#include "rules/format/uuid.h"

struct lq_mask_tensor {
    const char *name; /* GGUF name */
    uint64_t row_count;
    uint64_t col_count;        /* ne[0] of the tensor; row_count is the product of the others */
    const uint64_t *positions; /* row * col_count + column, ascending, each once */
    const float *scores;       /* one for each position, or NULL; not negative */
    size_t position_count;     /* at least 1 */
    /* The positions among them that were found by activation spikes: ascending, each once. */
    const uint64_t *spikes;
    size_t spike_count;
};

struct lq_mask {
    char mask_id[LQ_UUID_BYTES];    /* filled in when read; ignored when written */
    const char *source_matrix_id;   /* what it was made from: a digest or a UUID; "" is unknown */
    double coverage;                /* wanted fraction of weights, in (0, LQ_MASK_COVERAGE_MAX] */
    uint32_t protection_precision;  /* 8 or 16 bits */
    struct lq_mask_tensor *tensors; /* sorted by name; either all have scores or none */
    size_t tensor_count;
    uint64_t total_protected; /* the sum of position counts; computed when written */
};

#define LQ_MASK_COVERAGE_MAX 0.01

enum lq_status lq_mask_parse(const void *data, uint64_t size_bytes, const char *where,
                             struct lq_arena *arena, struct lq_mask *out, struct lq_error *err);
enum lq_status lq_mask_format(const struct lq_mask *mask, struct lq_buffer *out,
                              struct lq_error *err);
/* True when the bytes start like a mask. */
bool lq_mask_is(const void *data, uint64_t size_bytes);
const struct lq_mask_tensor *lq_mask_find(const struct lq_mask *mask, const char *name);

#endif
