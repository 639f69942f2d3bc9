/* safetensors files and their shard index: bounded readers. A file is a little-endian u64 header
 * length, a JSON object (name -> dtype, shape, data_offsets; "__metadata__" is skipped) and the
 * data, which the tensors must cover exactly: no gap, no overlap, nothing behind. The data itself
 * is not touched. Everything returned is copied into the arena, so the input may go away. Format
 * facts: docs/formats.md. Limits: limits.h. Thread rule: pure, per object. */
#ifndef LQ_RULES_FORMAT_SAFETENSORS_H
#define LQ_RULES_FORMAT_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/error.h"
#include "engine/base/limits.h"
#include "kernels/dtype.h"

struct lq_safetensor {
    const char *name;
    const char *dtype_name; /* as the file says: "BF16", "F8_E4M3" */
    bool has_dtype;         /* false when `dtype` has no number for it (U8, BOOL, F8_E4M3, ...) */
    enum lq_dtype dtype;
    uint32_t dim_count;
    uint64_t shape[LQ_SAFETENSORS_DIMS_MAX]; /* as stored: the last one varies fastest */
    uint64_t offset;                         /* from the start of the file */
    uint64_t size_bytes;
};

struct lq_safetensors {
    struct lq_safetensor *tensors; /* in the order of their data */
    size_t tensor_count;
    uint64_t data_offset;       /* 8 + the header's length */
    const uint32_t *name_order; /* numbers of the tensors sorted by name, for lookups */
};

/* Parses the header out of the first `size_bytes` bytes of a file of `file_bytes` bytes (the same
 * for a whole file). `where` names the file in messages; malformed input gives `status`. When the
 * header is longer than `size_bytes`, *need_more is the number of bytes that it takes and the
 * result is LQ_OK with *out untouched; otherwise *need_more is 0. need_more may be NULL: then a
 * short piece is an error. */
enum lq_status lq_safetensors_parse(const void *data, uint64_t size_bytes, uint64_t file_bytes,
                                    const char *where, enum lq_status status,
                                    struct lq_arena *arena, struct lq_safetensors *out,
                                    uint64_t *need_more, struct lq_error *err);
/* NULL when there is none. */
const struct lq_safetensor *lq_safetensors_find(const struct lq_safetensors *file,
                                                const char *name);

/* model.safetensors.index.json: which file holds which tensor. */
struct lq_shard_entry {
    const char *tensor;
    size_t file; /* number in `files` */
};

struct lq_shard_index {
    const char *const *files; /* plain file names, sorted, each once */
    size_t file_count;
    struct lq_shard_entry *entries; /* sorted by tensor name */
    size_t entry_count;
};

/* File names must be plain "*.safetensors" names without folders. */
enum lq_status lq_shard_index_parse(const void *data, uint64_t size_bytes, const char *where,
                                    enum lq_status status, struct lq_arena *arena,
                                    struct lq_shard_index *out, struct lq_error *err);
/* The number of the file that holds the tensor; SIZE_MAX when none does. */
size_t lq_shard_index_find(const struct lq_shard_index *index, const char *tensor);

#endif
