#include <stdlib.h>
#include <string.h>

#include "cache/cache_internal.h"
#include "cache/store_file.h"

/* ---- walking over blobs ---- */

/* The next digest after *digest (from the start when `first`), and its record without what it
 * borrows. One short transaction a step, so that a walk over everything pins nothing. */
struct walk {
    struct lq_digest digest;
    struct lq_blob_record record;
    bool decoded;
    bool started;
};

static enum lq_status walk_next(struct lq_cache *cache, struct lq_txn *txn, struct walk *walk,
                                bool *found, struct lq_error *err)
{
    struct lq_bytes key = {walk->digest.bytes, walk->started ? LQ_DIGEST_BYTES : 0};
    struct lq_bytes found_key;
    struct lq_bytes value;
    enum lq_status status =
        lq_txn_next(txn, LQ_DB_BLOBS, &key, walk->started, &found_key, &value, found, err);
    if (status != LQ_OK || !*found) {
        return status;
    }
    if (found_key.size_bytes != LQ_DIGEST_BYTES) {
        return lq_store_damaged(err, cache->dir, "the name of a blob is no digest");
    }
    const char *why = NULL;
    walk->started = true;
    memcpy(walk->digest.bytes, found_key.data, LQ_DIGEST_BYTES);
    walk->decoded =
        lq_blob_record_decode(&walk->digest, value.data, value.size_bytes, &walk->record, &why);
    walk->record.parts = NULL;
    walk->record.data = NULL;
    walk->record.path = NULL;
    return LQ_OK;
}

/* ---- stats ---- */

static enum lq_status count_blobs(struct lq_cache *cache, struct lq_txn *txn,
                                  struct lq_cache_stats *out, struct lq_error *err)
{
    struct walk walk = {.started = false};
    bool found = true;
    enum lq_status status = LQ_OK;
    while (status == LQ_OK) {
        status = walk_next(cache, txn, &walk, &found, err);
        if (status != LQ_OK || !found) {
            break;
        }
        if (walk.decoded && walk.record.kind == LQ_BLOB_JOINED) {
            out->joined_count++;
            out->joined_bytes += walk.record.size_bytes;
        } else if (walk.decoded && walk.record.kind == LQ_BLOB_PLACED) {
            out->placed_count++;
            out->placed_bytes += walk.record.size_bytes;
        } else if (walk.decoded) {
            out->blob_count++;
            out->blob_bytes += walk.record.size_bytes;
        }
    }
    return status;
}

enum lq_status lq_cache_stats_get(struct lq_cache *cache, struct lq_cache_stats *out,
                                  struct lq_error *err)
{
    struct lq_txn txn;
    memset(out, 0, sizeof *out);
    enum lq_status status = lq_store_flush(cache->store, err);
    status = status == LQ_OK ? lq_store_read_begin(cache->store, &txn, err) : status;
    if (status != LQ_OK) {
        return status;
    }
    status = count_blobs(cache, &txn, out, err);
    const struct {
        enum lq_db db;
        uint64_t *count;
    } counts[] = {{LQ_DB_ACTIONS, &out->action_count},
                  {LQ_DB_FILES, &out->file_count},
                  {LQ_DB_HISTORY, &out->history_count}};
    for (size_t i = 0; i < LQ_COUNT_OF(counts) && status == LQ_OK; i++) {
        status = lq_txn_count(&txn, counts[i].db, counts[i].count, err);
    }
    lq_store_read_end(&txn);
    out->disk_bytes = lq_store_disk_bytes(cache->store);
    return status;
}

/* ---- verify: records and contents ---- */

static enum lq_status delete_undecodable(struct lq_txn *txn, void *user, struct lq_error *err)
{
    const struct lq_digest *digest = user;
    struct lq_blob_record record;
    bool found = false;
    enum lq_status status = lq_blob_find(NULL, txn, digest, &record, &found, err);
    if (status == LQ_OK && !found) {
        status = lq_blob_count_removal(txn, err);
    }
    if (status != LQ_OK || found) {
        return status;
    }
    return lq_txn_del(txn, LQ_DB_BLOBS, &(struct lq_bytes){digest->bytes, LQ_DIGEST_BYTES}, NULL,
                      err);
}

static enum lq_status delete_incomplete(struct lq_txn *txn, void *user, struct lq_error *err)
{
    const struct lq_digest *digest = user;
    struct lq_blob_record record;
    bool found = false;
    uint64_t garbage_id = 0;
    enum lq_status status = lq_blob_find_whole(NULL, txn, digest, &record, &found, err);
    if (status == LQ_OK && !found) {
        status = lq_blob_find(NULL, txn, digest, &record, &found, err);
        if (status == LQ_OK && found) {
            /* Chunks that become garbage are marked; the caller sweeps all garbage. */
            status = lq_blob_forget(txn, digest, &record, &garbage_id, err);
        }
    }
    return status;
}

static enum lq_status verify_one(struct lq_cache *cache, struct walk *walk, bool *intact,
                                 struct lq_error *err)
{
    char hex[LQ_DIGEST_HEX_BYTES];
    *intact = false;
    if (!walk->decoded) {
        lq_cache_warn(cache, "the record of blob %.12s was altered; it is removed",
                      lq_digest_to_hex(&walk->digest, hex));
        return lq_store_write(cache->store, 0, 4096, delete_undecodable, &walk->digest, err);
    }
    bool exists = lq_blob_exists(cache, &walk->digest, NULL);
    if (!exists && walk->record.kind == LQ_BLOB_PLACED) {
        /* What users do with their files is no damage. */
        *intact = true;
        return lq_store_write(cache->store, 0, 4096, delete_incomplete, &walk->digest, err);
    }
    if (!exists) {
        lq_cache_warn(cache, "a part of blob %.12s is missing; the blob is removed",
                      lq_digest_to_hex(&walk->digest, hex));
        return lq_store_write(cache->store, 0, 4096, delete_incomplete, &walk->digest, err);
    }
    return lq_blob_check(cache, &walk->digest, intact, err);
}

/* Plain blobs first: a concatenation is judged when its parts are known to be right. */
static enum lq_status verify_blobs(struct lq_cache *cache, bool joined, uint64_t *checked,
                                   uint64_t *removed, struct lq_error *err)
{
    struct walk walk = {.started = false};
    for (;;) {
        struct lq_txn txn;
        bool found = false;
        enum lq_status status = lq_store_read_begin(cache->store, &txn, err);
        if (status != LQ_OK) {
            return status;
        }
        status = walk_next(cache, &txn, &walk, &found, err);
        lq_store_read_end(&txn);
        if (status != LQ_OK || !found) {
            return status;
        }
        bool is_joined = walk.decoded && walk.record.kind == LQ_BLOB_JOINED;
        if (is_joined != joined) {
            continue;
        }
        bool intact = false;
        status = verify_one(cache, &walk, &intact, err);
        if (status != LQ_OK) {
            return status;
        }
        *checked += 1;
        *removed += intact ? 0 : 1;
    }
}

/* ---- verify: chunks that belong to nobody ---- */

struct ids {
    uint64_t *list;
    size_t count, capacity;
};

static bool add_id(struct ids *ids, uint64_t id)
{
    if (ids->count == ids->capacity) {
        size_t capacity = ids->capacity == 0 ? 64 : 2 * ids->capacity;
        uint64_t *grown = realloc(ids->list, capacity * sizeof *grown);
        if (grown == NULL) {
            return false;
        }
        ids->list = grown;
        ids->capacity = capacity;
    }
    ids->list[ids->count++] = id;
    return true;
}

static int compare_ids(const void *a, const void *b)
{
    const uint64_t *left = a;
    const uint64_t *right = b;
    return *left < *right ? -1 : *left > *right;
}

static bool has_id(const struct ids *ids, uint64_t id)
{
    return ids->count > 0 && bsearch(&id, ids->list, ids->count, sizeof id, compare_ids) != NULL;
}

/* Ids that a blob owns or a writer is filling. */
static enum lq_status collect_owned(struct lq_cache *cache, struct lq_txn *txn, struct ids *owned,
                                    struct lq_error *err)
{
    struct walk walk = {.started = false};
    bool found = true;
    bool room = true;
    enum lq_status status = LQ_OK;
    while (status == LQ_OK && found && room) {
        status = walk_next(cache, txn, &walk, &found, err);
        if (status == LQ_OK && found && walk.decoded && walk.record.id != 0) {
            room = add_id(owned, walk.record.id);
        }
    }
    /* What has another size is no id, and no reason to miss those behind it. */
    unsigned char at[LQ_STORE_KEY_BYTES_MAX] = {0};
    size_t at_bytes = 0;
    found = true;
    while (status == LQ_OK && found && room) {
        struct lq_bytes key = {at, at_bytes};
        struct lq_bytes found_key;
        struct lq_bytes value;
        status =
            lq_txn_next(txn, LQ_DB_PENDING, &key, at_bytes > 0, &found_key, &value, &found, err);
        found = found && found_key.size_bytes <= sizeof at;
        if (status == LQ_OK && found) {
            at_bytes = found_key.size_bytes;
            memcpy(at, found_key.data, at_bytes);
            room = at_bytes != LQ_ID_KEY_BYTES || add_id(owned, lq_id_from_key(at));
        }
    }
    if (status == LQ_OK && !room) {
        return lq_error_nomem(err, "the list of blobs");
    }
    if (owned->count > 0) {
        qsort(owned->list, owned->count, sizeof *owned->list, compare_ids);
    }
    return status;
}

/* Ids in the table of chunks that are not in `owned`. */
static enum lq_status collect_unowned(struct lq_txn *txn, const struct ids *owned,
                                      struct ids *orphans, struct lq_error *err)
{
    uint64_t id = 0;
    for (;;) {
        unsigned char raw[LQ_CHUNK_KEY_BYTES];
        lq_chunk_key(id, 0, raw);
        struct lq_bytes key = {raw, sizeof raw};
        struct lq_bytes found_key;
        struct lq_bytes value;
        bool found = false;
        enum lq_status status =
            lq_txn_next(txn, LQ_DB_CHUNKS, &key, false, &found_key, &value, &found, err);
        if (status != LQ_OK || !found || found_key.size_bytes != LQ_CHUNK_KEY_BYTES) {
            return status;
        }
        uint64_t seen = lq_id_from_key(found_key.data);
        if (!has_id(owned, seen) && !add_id(orphans, seen)) {
            return lq_error_nomem(err, "the list of blobs");
        }
        if (seen == UINT64_MAX) {
            return LQ_OK;
        }
        id = seen + 1;
    }
}

static enum lq_status sweep_orphans(struct lq_cache *cache, struct lq_error *err)
{
    struct ids owned = {0};
    struct ids orphans = {0};
    struct lq_txn txn;
    enum lq_status status = lq_store_read_begin(cache->store, &txn, err);
    if (status == LQ_OK) {
        /* Both in one snapshot; ids are never used again: what is an orphan now stays one. */
        status = collect_owned(cache, &txn, &owned, err);
        status = status == LQ_OK ? collect_unowned(&txn, &owned, &orphans, err) : status;
        lq_store_read_end(&txn);
    }
    for (size_t i = 0; i < orphans.count && status == LQ_OK; i++) {
        status = lq_blob_sweep(cache->store, orphans.list[i], err);
    }
    if (status == LQ_OK && orphans.count > 0) {
        lq_cache_warn(cache, "chunks of %zu blobs without a record are removed", orphans.count);
    }
    free(owned.list);
    free(orphans.list);
    return status;
}

enum lq_status lq_cache_verify(struct lq_cache *cache, uint64_t *checked, uint64_t *removed,
                               struct lq_error *err)
{
    *checked = 0;
    *removed = 0;
    enum lq_status status = lq_store_check(cache->store, err);
    status = status == LQ_OK ? lq_store_flush(cache->store, err) : status;
    status = status == LQ_OK ? verify_blobs(cache, false, checked, removed, err) : status;
    status = status == LQ_OK ? verify_blobs(cache, true, checked, removed, err) : status;
    status = status == LQ_OK ? lq_blob_sweep_dead(cache, err) : status;
    return status == LQ_OK ? sweep_orphans(cache, err) : status;
}

/* ---- clear ---- */

/* Every table of names becomes empty, and every id that has chunks becomes garbage: from then on
 * nothing is found, also after a crash. The chunks go in transactions of their own. */
static enum lq_status clear_change(struct lq_txn *txn, void *user, struct lq_error *err)
{
    static const enum lq_db named[] = {LQ_DB_BLOBS,   LQ_DB_REFS,  LQ_DB_ACTIONS, LQ_DB_HISTORY,
                                       LQ_DB_PENDING, LQ_DB_FILES, LQ_DB_USES};
    struct ids none = {0};
    struct ids all = {0};
    (void)user;
    enum lq_status status = lq_blob_count_removal(txn, err);
    for (size_t i = 0; i < LQ_COUNT_OF(named) && status == LQ_OK; i++) {
        status = lq_txn_empty(txn, named[i], err);
    }
    status = status == LQ_OK ? collect_unowned(txn, &none, &all, err) : status;
    for (size_t i = 0; i < all.count && status == LQ_OK; i++) {
        status = lq_blob_mark_pending(txn, all.list[i], 0, err);
    }
    free(all.list);
    return status;
}

enum lq_status lq_cache_clear(struct lq_cache *cache, struct lq_error *err)
{
    int handle = -1;
    bool acquired = false;
    enum lq_status status = lq_locks_try_all(cache->locks, &handle, &acquired, err);
    if (status == LQ_OK && !acquired) {
        return lq_error_set(err, LQ_ECACHE,
                            "cache folder %s: a build is at work in it; wait for it or stop it "
                            "before the cache is cleared",
                            cache->dir);
    }
    status = status == LQ_OK ? lq_store_flush(cache->store, err) : status;
    if (status == LQ_OK) {
        status = lq_store_write(cache->store, 0, 64 * 1024, clear_change, NULL, err);
    }
    status = status == LQ_OK ? lq_blob_sweep_dead(cache, err) : status;
    if (status == LQ_OK) {
        (void)lq_store_trim(cache->store, 0, NULL);
    }
    lq_locks_release_all(handle);
    return status;
}
