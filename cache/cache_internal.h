/* What the files of cache/ share: the cache object, and operations on blob records inside
 * transactions. Nothing outside cache/ includes this, except tests that need a small map. Thread
 * rule: as in cache.h. */
#ifndef LQ_CACHE_CACHE_INTERNAL_H
#define LQ_CACHE_CACHE_INTERNAL_H

#include <pthread.h>

#include "cache/cache.h"
#include "cache/hash_aside.h"
#include "cache/locks.h"
#include "cache/marks.h"
#include "cache/record.h"
#include "cache/store_lmdb.h"
#include "cache/uses.h"

enum {
    /* Whole pages, less the 16 bytes LMDB puts before a run of pages. */
    LQ_CHUNK_BYTES = 1024 * 1024 - 16,
    /* Chunks a writer collects before it flushes them, in one transaction. */
    LQ_FLUSH_CHUNKS = 8,
    /* Chunks deleted in one transaction: the write lock is never held for long. */
    LQ_SWEEP_CHUNKS = 256,
    /* Blobs up to this size live inside their record. */
    LQ_SMALL_BYTES_MAX = 64 * 1024,
    LQ_CHUNK_KEY_BYTES = 12,
    LQ_ID_KEY_BYTES = 8,
};

struct lq_cache {
    struct lq_store *store;
    struct lq_locks *locks;
    char *dir;
    void (*warn)(void *user, const char *message);
    void *warn_user;
    struct lq_marks *marks;
    struct lq_uses *uses;
    struct lq_hash_aside hashing;
    pthread_mutex_t mutex; /* guards files_flushed_ns */
    uint64_t files_flushed_ns;
};

/* lq_cache_open with a first map size, for tests; 0 is the default. */
enum lq_status lq_cache_open_sized(struct lq_cache **out, const struct lq_cache_options *options,
                                   uint64_t map_bytes, struct lq_error *err);
void lq_cache_warn(struct lq_cache *cache, const char *format, ...) LQ_PRINTF(2, 3);

/* Big-endian, so that LMDB keeps the chunks of a blob together and in order. */
void lq_chunk_key(uint64_t id, uint32_t index, unsigned char key[LQ_CHUNK_KEY_BYTES]);
void lq_id_key(uint64_t id, unsigned char key[LQ_ID_KEY_BYTES]);
uint64_t lq_id_from_key(const void *key);

/* The record of a digest. What does not decode counts as absent, after a warning (a NULL cache
 * gives none). The record borrows from the transaction. */
enum lq_status lq_blob_find(struct lq_cache *cache, struct lq_txn *txn,
                            const struct lq_digest *digest, struct lq_blob_record *record,
                            bool *found, struct lq_error *err);
/* The same, and every part of a concatenation has a record of the right size, or the file that a
 * placed blob lies in is as it was. */
enum lq_status lq_blob_find_whole(struct lq_cache *cache, struct lq_txn *txn,
                                  const struct lq_digest *digest, struct lq_blob_record *record,
                                  bool *found, struct lq_error *err);
/* True for the kinds that a concatenation may refer to. */
bool lq_blob_can_be_part(const struct lq_blob_record *record);
/* Takes the next number for a blob's chunks. Numbers are never used again. */
enum lq_status lq_blob_next_id(struct lq_txn *txn, uint64_t *id, struct lq_error *err);
/* One more removal: see lq_cache_removals. */
enum lq_status lq_blob_count_removal(struct lq_txn *txn, struct lq_error *err);
/* Marks the chunks of `id` as belonging to an unfinished writer with `token`, or with token 0 as
 * garbage. */
enum lq_status lq_blob_mark_pending(struct lq_txn *txn, uint64_t id, uint64_t token,
                                    struct lq_error *err);
/* Adds `by` (1 or -1) to the number of concatenations that refer to a blob. */
enum lq_status lq_blob_refer(struct lq_txn *txn, const struct lq_digest *digest, int by,
                             struct lq_error *err);
enum lq_status lq_blob_ref_count(struct lq_txn *txn, const struct lq_digest *digest,
                                 uint64_t *count, struct lq_error *err);
/* Removes a record and what it counts. Its chunks become garbage under *garbage_id (0: none), for
 * lq_blob_sweep. */
enum lq_status lq_blob_forget(struct lq_txn *txn, const struct lq_digest *digest,
                              const struct lq_blob_record *record, uint64_t *garbage_id,
                              struct lq_error *err);
/* Deletes the chunks of an id, some per transaction, and its pending record. */
enum lq_status lq_blob_sweep(struct lq_store *store, uint64_t id, struct lq_error *err);
/* Sweeps what killed writers left. */
enum lq_status lq_blob_sweep_dead(struct lq_cache *cache, struct lq_error *err);

/* Checks the content of a blob and removes it, after a warning, when it is wrong: with it a part
 * that is wrong itself. *intact is false when it is missing, too. */
enum lq_status lq_blob_check(struct lq_cache *cache, const struct lq_digest *digest, bool *intact,
                             struct lq_error *err);

/* True for content that lies in a file outside of the cache. */
bool lq_blob_is_placed(const struct lq_blob_reader *reader);
/* True when the stored record is a concatenation. */
bool lq_blob_is_joined(struct lq_cache *cache, const struct lq_digest *digest);
/* The parts of an open blob, inline ones with a zero digest; the caller frees them. */
enum lq_status lq_blob_parts_get(const struct lq_blob_reader *reader, struct lq_blob_part **parts,
                                 uint32_t *count, struct lq_error *err);

#endif
