/* Looking after a cache: what is in it, what must stay, what may go. Everything here works while
 * builds of this and other processes run: what a running build has looked at or made, and what a
 * pin names, is never removed; anything else that goes is a miss for whoever wanted it. Results own
 * nothing but what their comments say. Thread rule: any thread, one collector at a time over all
 * processes. Limits: 2^32 - 1 blobs and outputs; about 100 bytes of memory for each blob and
 * result.
 */
#ifndef LQ_CACHE_UPKEEP_H
#define LQ_CACHE_UPKEEP_H

#include "cache/cache.h"

enum {
    LQ_GC_HISTORY_DAYS = 180, /* explanations of what nobody has built for so long are dropped */
    LQ_GC_FILES_MAX = 1000000 /* known files beyond that go, oldest first */
};

struct lq_gc_options {
    uint64_t size_bytes_max; /* least recently used results go until so much is left; 0: no limit */
    uint64_t age_seconds_max; /* results not used for so long go; 0: no limit */
    uint64_t time_ms_max;     /* for removing; 0: no limit */
    bool dry_run;             /* counts only */
    bool wait;                /* for another collector; else *busy */
};

struct lq_gc_result {
    bool busy; /* another collector is at work, or a build that can not say what it needs */
    bool finished;
    uint64_t before_bytes, after_bytes; /* of the data file, free pages not counted; after:
                                           estimated from what went */
    uint64_t actions_removed, actions_kept;
    uint64_t blobs_removed, blob_bytes_removed;
    uint64_t files_removed, histories_removed;
    uint64_t needed_actions; /* over the limit, but pinned or needed by a running build */
};

/* First what nothing refers to, then results, least recently used first, with the blobs that only
 * they refer to; also known files that were replaced, and old histories. A kill in between leaves
 * garbage for the next time, nothing else. */
enum lq_status lq_cache_gc(struct lq_cache *cache, const struct lq_gc_options *options,
                           struct lq_gc_result *out, struct lq_error *err);
/* The bytes of the data file that are in use: what size_bytes_max limits. */
enum lq_status lq_cache_live_bytes(struct lq_cache *cache, uint64_t *size_bytes,
                                   struct lq_error *err);
/* Gives free pages back to the file system if this process has written anything; collecting does
 * so itself. */
void lq_cache_trim(struct lq_cache *cache, uint64_t time_ms_max);
/* What the data file takes on the disk, without asking it anything. */
uint64_t lq_cache_disk_bytes(const struct lq_cache *cache);

/* A pin keeps the newest results of an artifact (its label, see engine/label.h, and everything
 * labelled below it), or a result or blob with this digest. Pinning again changes nothing. */
enum lq_status lq_cache_pin_label(struct lq_cache *cache, const char *label, struct lq_error *err);
enum lq_status lq_cache_pin_digest(struct lq_cache *cache, const struct lq_digest *digest,
                                   struct lq_error *err);
enum lq_status lq_cache_unpin_label(struct lq_cache *cache, const char *label, bool *found,
                                    struct lq_error *err);
enum lq_status lq_cache_unpin_digest(struct lq_cache *cache, const struct lq_digest *digest,
                                     bool *found, struct lq_error *err);

/* One result, for listing. */
struct lq_cache_entry {
    const struct lq_digest *key;
    const char *label; /* "" when a newer result has its label */
    uint64_t size_bytes;
    uint64_t used_seconds; /* since 1970; 0: not known */
    uint64_t output_count;
    bool pinned;
};
/* Calls `visit` for every result, least recently used first; strings live during the call. */
enum lq_status lq_cache_list(struct lq_cache *cache,
                             void (*visit)(void *user, const struct lq_cache_entry *entry),
                             void *user, struct lq_error *err);

/* Removes the results of a label and below, or the one with this key; the blobs go when nothing
 * else refers to them and no running build needs them. */
enum lq_status lq_cache_remove_label(struct lq_cache *cache, const char *label,
                                     struct lq_gc_result *out, struct lq_error *err);
enum lq_status lq_cache_remove_key(struct lq_cache *cache, const struct lq_digest *key,
                                   struct lq_gc_result *out, struct lq_error *err);

/* Rewrites the data file without its free pages: the numbers are its lengths. Nobody else may have
 * the cache open: LQ_ECACHE. A kill leaves the old file or the new one. Needs room for the copy. */
enum lq_status lq_cache_compact(const struct lq_cache_options *options, uint64_t *before_bytes,
                                uint64_t *after_bytes, struct lq_error *err);

#endif
