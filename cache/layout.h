/* Layouts: how a blob is cut into objects for a remote or a bundle. A blob that is a concatenation
 * is cut where its parts are, so that a part which is there already is not sent again; whatever is
 * longer than LQ_OBJECT_BYTES_MAX is cut into objects of that size. Small neighbours (below
 * LQ_LAYOUT_PART_BYTES_MIN) share an object. A blob in one piece needs no layout.
 *
 *   lqbuild layout 1
 *   size <bytes of the blob>
 *   object <hex> <size>              the next bytes
 *   split <hex> <size> <count>       a part of its own: all of the next `count` objects
 *
 * What comes from outside is checked when it is decoded (sums, counts) and when the blob is put
 * together (digest). Thread rule: a layout is read-only after it is made. Limits:
 * LQ_LAYOUT_BYTES_MAX, LQ_BLOB_PARTS_MAX. */
#ifndef LQ_CACHE_LAYOUT_H
#define LQ_CACHE_LAYOUT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/cache.h"
#include "engine/base/buffer.h"

enum { LQ_LAYOUT_PART_BYTES_MIN = 64 * 1024 };

struct lq_layout_piece {
    struct lq_digest digest;
    uint64_t offset; /* in the blob */
    uint64_t size_bytes;
    uint32_t object_count; /* a split part: how many objects follow; 0: this is an object */
};

struct lq_layout {
    uint64_t size_bytes;
    struct lq_layout_piece *pieces;
    size_t piece_count;
    size_t capacity;
};

void lq_layout_fini(struct lq_layout *layout);
/* Cuts a stored blob. A layout without pieces means one object, the blob itself. Errors: LQ_ECACHE
 * when the blob is missing or damaged, LQ_ENOMEM. */
enum lq_status lq_layout_make(struct lq_cache *cache, const struct lq_digest *digest,
                              struct lq_layout *out, struct lq_error *err);
void lq_layout_encode(const struct lq_layout *layout, struct lq_buffer *out);
/* *why is NULL when it is well-formed; LQ_ENOMEM is the only error. */
enum lq_status lq_layout_decode(const void *text, size_t size_bytes, struct lq_layout *out,
                                const char **why, struct lq_error *err);
/* Puts a blob together from objects and parts that are in the cache. *good false when something is
 * missing or the result is not `digest`. LQ_ECANCELLED when `cancel`, which may be NULL, becomes
 * true: a layout may name one object millions of times, and every byte is hashed. */
enum lq_status lq_layout_assemble(struct lq_cache *cache, const struct lq_layout *layout,
                                  const struct lq_digest *digest, const atomic_bool *cancel,
                                  bool *good, struct lq_error *err);

#endif
