/* Importance matrices: one sum of squared activations per input column of each weight. Three file
 * formats are read, told apart by their content: llama.cpp's GGUF imatrix, the IMAT format of
 * docs/formats.md, and llama.cpp's legacy .dat. GGUF and IMAT and .dat are written. Names are full
 * GGUF tensor names ("blk.0.attn_q.weight"). Thread rule: per object. Limits: limits.h. */
#ifndef LQ_RULES_FORMAT_IMATRIX_H
#define LQ_RULES_FORMAT_IMATRIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/buffer.h"
#include "engine/base/digest.h"
#include "engine/base/error.h"

enum lq_importance_method {
    LQ_IMPORTANCE_ACTIVATION = 0,
    LQ_IMPORTANCE_GRADIENT = 1,
    LQ_IMPORTANCE_FISHER = 2,
};

struct lq_imatrix_entry {
    const char *name;
    size_t col_count;   /* input columns of the weight */
    size_t mat_count;   /* experts; 1 for a plain weight */
    size_t count_count; /* 1 or mat_count */
    float *sums;        /* mat_count x col_count: sum of x_j^2 over tokens */
    float *counts;      /* count_count: tokens that were summed */
};

struct lq_imatrix {
    struct lq_imatrix_entry *entries; /* sorted by name */
    size_t entry_count;
    const char *const *datasets;
    size_t dataset_count;
    uint32_t chunk_count; /* samples */
    uint32_t chunk_size;  /* tokens in a sample */
    enum lq_importance_method method;
};

enum lq_imatrix_format { LQ_IMATRIX_GGUF, LQ_IMATRIX_IMAT, LQ_IMATRIX_DAT };

/* Any of the three formats; malformed input gives LQ_EIMATRIX. All memory from the arena.
 * Non-finite or negative values are refused. */
enum lq_status lq_imatrix_parse(const void *data, uint64_t size_bytes, const char *where,
                                struct lq_arena *arena, struct lq_imatrix *out,
                                enum lq_imatrix_format *format, struct lq_error *err);
enum lq_status lq_imatrix_format(const struct lq_imatrix *imatrix, enum lq_imatrix_format format,
                                 struct lq_buffer *out, struct lq_error *err);
const struct lq_imatrix_entry *lq_imatrix_find(const struct lq_imatrix *imatrix, const char *name);
/* Mean values per column of expert `mat` into out[col_count]: sum / count, or 1.0 for every column
 * when the count is 0, as llama-quantize does. */
void lq_imatrix_means(const struct lq_imatrix_entry *entry, size_t mat, float *out);
/* What masks and GGUF files call it: the SHA-256 of its GGUF form, in hex. */
enum lq_status lq_imatrix_id(const struct lq_imatrix *imatrix, char hex[LQ_DIGEST_HEX_BYTES],
                             struct lq_error *err);
/* ".gguf" GGUF, ".dat" legacy, everything else IMAT. */
enum lq_imatrix_format lq_imatrix_format_of_path(const char *path);

#endif
