/* A picture of the whole cache in memory, for choosing what to remove and for listing: results, the
 * blobs they refer to, the parts of concatenations, descriptions of files. Taken in one read
 * transaction; plain numbers afterwards. Owned by whoever read it. Thread rule: one thread. Limits:
 * 2^32 - 1 blobs and references. */
#ifndef LQ_CACHE_INDEX_H
#define LQ_CACHE_INDEX_H

#include "cache/cache_internal.h"
#include "engine/base/arena.h"
#include "engine/base/buffer.h"

struct lq_index_blob {
    struct lq_digest digest;
    uint64_t stored_bytes; /* what goes when it goes: parts of concatenations not counted */
    uint64_t used;
    uint32_t refs;                   /* results, concatenations and descriptions that name it */
    uint32_t part_first, part_count; /* in links */
    bool pinned;
    bool dead; /* to be removed */
};

struct lq_index_action {
    struct lq_digest key;
    const char *label; /* "" or in the arena */
    uint64_t used;     /* also by results that contain its outputs */
    uint64_t size_bytes;
    uint32_t output_first, output_count; /* in links */
    bool pinned;
    bool unknown_use; /* no time was noted */
};

/* A file whose digest names a stored description. */
struct lq_index_file {
    size_t key_offset, key_bytes; /* in file_keys */
    uint32_t blob;
    uint64_t used;
    bool unknown_use;
};

struct lq_index {
    struct lq_arena arena;
    struct lq_index_blob *blobs; /* by digest */
    struct lq_index_action *actions;
    struct lq_index_file *files;
    uint32_t *links;             /* numbers of blobs */
    struct lq_digest *histories; /* old ones */
    size_t blob_count, blob_capacity;
    size_t action_count, action_capacity;
    size_t file_count, file_capacity;
    size_t link_count, link_capacity;
    size_t history_count, history_capacity;
    struct lq_buffer file_keys;
    struct lq_buffer stale_files; /* u32 length and key, each */
    uint64_t stale_file_count;
};

enum { LQ_INDEX_NONE = UINT32_MAX };

/* `now` is the time of what has none. Histories not written since `history_limit` are collected. */
enum lq_status lq_index_read(struct lq_index *index, struct lq_cache *cache, uint64_t now,
                             uint64_t history_limit, struct lq_error *err);
void lq_index_fini(struct lq_index *index);
/* The number of a blob; LQ_INDEX_NONE when it is not stored. */
uint32_t lq_index_find_blob(const struct lq_index *index, const struct lq_digest *digest);

/* True when `label` is `prefix` or lies below it. */
bool lq_index_label_below(const char *label, const char *prefix);

/* pins.c: marks what pins name. */
enum lq_status lq_index_apply_pins(struct lq_index *index, struct lq_txn *txn,
                                   struct lq_error *err);

#endif
