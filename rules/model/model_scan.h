/* The index of a file with tensors: the source kind "tensors". A safetensors or GGUF file, told
 * apart by its content, is described as canonical JSON: format, digest and size of the header (GGUF
 * only: its keys matter), and for each tensor name, type, shape, place and SHA-256 of its bytes.
 * Tensors are hashed in parallel, one piece each. The digest of the description names the file, so
 * it has no paths and no times. Thread rule: pure. Limits: LQ_MODEL_TENSORS_MAX. */
#ifndef LQ_RULES_MODEL_MODEL_SCAN_H
#define LQ_RULES_MODEL_MODEL_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/digest.h"
#include "engine/base/error.h"
#include "engine/base/limits.h"
#include "engine/rule.h"
#include "kernels/dtype.h"

extern const struct lq_source_kind lq_tensor_source;

struct lq_scanned_tensor {
    const char *name;
    const char *dtype_name; /* "BF16"; of safetensors also types that have no number */
    bool has_dtype;
    enum lq_dtype dtype;
    uint32_t dim_count;
    uint64_t shape[LQ_TENSOR_DIMS_MAX]; /* GGUF order: the first varies fastest, missing are 1 */
    uint64_t offset;                    /* from the start of the file */
    uint64_t size_bytes;
    struct lq_digest digest;
};

struct lq_scanned_file {
    const char *name; /* as the caller gave it, for messages */
    bool is_gguf;
    uint64_t header_bytes; /* GGUF: bytes before the data section */
    struct lq_scanned_tensor *tensors;
    size_t tensor_count;
};

/* The same of the first `size_bytes` bytes of a safetensors file of `file_bytes`, without digests:
 * they are zero. *need_more as in lq_safetensors_parse. */
enum lq_status lq_scanned_file_header(const void *data, uint64_t size_bytes, uint64_t file_bytes,
                                      const char *where, struct lq_arena *arena,
                                      struct lq_scanned_file *out, uint64_t *need_more,
                                      struct lq_error *err);
/* Reads a description back. `where` names the source in messages. */
enum lq_status lq_scanned_file_parse(const void *data, uint64_t size_bytes, const char *where,
                                     struct lq_arena *arena, struct lq_scanned_file *out,
                                     struct lq_error *err);

#endif
