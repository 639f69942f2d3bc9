/* The header of a safetensors file: names, types, shapes and places. The data follow in the same
 * order without gaps; the writer of the file appends them. Thread rule: pure. */
#ifndef LQ_RULES_FORMAT_SAFETENSORS_WRITE_H
#define LQ_RULES_FORMAT_SAFETENSORS_WRITE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/buffer.h"
#include "engine/base/error.h"

struct lq_safetensors_entry {
    const char *name;
    const char *dtype; /* "I8", "BF16", ... */
    uint32_t dim_count;
    uint64_t shape[4]; /* the last one varies fastest */
    uint64_t size_bytes;
};

/* Appends the length and the JSON, filled up with blanks to a multiple of 8. LQ_ENOMEM when the
 * sizes overflow, too. */
enum lq_status lq_safetensors_header(const struct lq_safetensors_entry *entries, size_t count,
                                     struct lq_buffer *out, struct lq_error *err);

#endif
