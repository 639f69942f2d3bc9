#include <stdlib.h>
#include <string.h>

#include "cache/cache_internal.h"
#include "cache/placed.h"

static const char next_id_key[] = "next-id";
static const char removals_key[] = "removals";

/* ---- keys and numbers ---- */

static void put_big_endian(uint64_t value, unsigned char *out, int count)
{
    for (int i = count - 1; i >= 0; i--) {
        out[i] = (unsigned char)(value & 0xFF);
        value >>= 8;
    }
}

void lq_id_key(uint64_t id, unsigned char key[LQ_ID_KEY_BYTES])
{
    put_big_endian(id, key, LQ_ID_KEY_BYTES);
}

uint64_t lq_id_from_key(const void *key)
{
    const unsigned char *bytes = key;
    uint64_t id = 0;
    for (int i = 0; i < LQ_ID_KEY_BYTES; i++) {
        id = id << 8 | bytes[i];
    }
    return id;
}

void lq_chunk_key(uint64_t id, uint32_t index, unsigned char key[LQ_CHUNK_KEY_BYTES])
{
    put_big_endian(id, key, LQ_ID_KEY_BYTES);
    put_big_endian(index, key + LQ_ID_KEY_BYTES, LQ_CHUNK_KEY_BYTES - LQ_ID_KEY_BYTES);
}

/* Plain counters: 8 bytes, big-endian like the keys; anything else counts as 0. */
static enum lq_status get_number(struct lq_txn *txn, enum lq_db db, const struct lq_bytes *key,
                                 uint64_t *value, struct lq_error *err)
{
    struct lq_bytes bytes;
    bool found = false;
    enum lq_status status = lq_txn_get(txn, db, key, &bytes, &found, err);
    *value = status == LQ_OK && found && bytes.size_bytes == LQ_ID_KEY_BYTES
                 ? lq_id_from_key(bytes.data)
                 : 0;
    return status;
}

static enum lq_status put_number(struct lq_txn *txn, enum lq_db db, const struct lq_bytes *key,
                                 uint64_t value, struct lq_error *err)
{
    unsigned char bytes[LQ_ID_KEY_BYTES];
    lq_id_key(value, bytes);
    return lq_txn_put(txn, db, key, &(struct lq_bytes){bytes, sizeof bytes}, err);
}

/* The counter has no seal: one that is too small must not lead into chunks of others. *used is
 * false when there are none from *id on, as always but then. */
static enum lq_status skip_used(struct lq_txn *txn, uint64_t *id, bool *used, struct lq_error *err)
{
    unsigned char raw[LQ_CHUNK_KEY_BYTES];
    struct lq_bytes found_key;
    struct lq_bytes value;
    lq_chunk_key(*id, 0, raw);
    enum lq_status status = lq_txn_next(txn, LQ_DB_CHUNKS, &(struct lq_bytes){raw, sizeof raw},
                                        false, &found_key, &value, used, err);
    *used = *used && found_key.size_bytes == LQ_CHUNK_KEY_BYTES;
    if (status == LQ_OK && *used) {
        *id = lq_id_from_key(found_key.data) + 1;
    }
    return status == LQ_OK && *id == 0
               ? lq_error_set(err, LQ_ECACHE,
                              "the cache has used up the numbers of chunks; run "
                              "'lqbuild cache verify'")
               : status;
}

enum lq_status lq_blob_next_id(struct lq_txn *txn, uint64_t *id, struct lq_error *err)
{
    struct lq_bytes key = {next_id_key, sizeof next_id_key - 1};
    uint64_t last = 0;
    enum lq_status status = get_number(txn, LQ_DB_META, &key, &last, err);
    *id = last == UINT64_MAX ? 1 : last + 1;
    bool used = true;
    while (status == LQ_OK && used) {
        status = skip_used(txn, id, &used, err);
    }
    return status == LQ_OK ? put_number(txn, LQ_DB_META, &key, *id, err) : status;
}

enum lq_status lq_blob_count_removal(struct lq_txn *txn, struct lq_error *err)
{
    struct lq_bytes key = {removals_key, sizeof removals_key - 1};
    uint64_t count = 0;
    enum lq_status status = get_number(txn, LQ_DB_META, &key, &count, err);
    return status == LQ_OK ? put_number(txn, LQ_DB_META, &key, count + 1, err) : status;
}

enum lq_status lq_cache_removals(struct lq_cache *cache, uint64_t *count, struct lq_error *err)
{
    struct lq_bytes key = {removals_key, sizeof removals_key - 1};
    struct lq_txn txn;
    *count = 0;
    enum lq_status status = lq_store_read_begin(cache->store, &txn, err);
    if (status == LQ_OK) {
        status = get_number(&txn, LQ_DB_META, &key, count, err);
        lq_store_read_end(&txn);
    }
    return status;
}

enum lq_status lq_blob_mark_pending(struct lq_txn *txn, uint64_t id, uint64_t token,
                                    struct lq_error *err)
{
    unsigned char key[LQ_ID_KEY_BYTES];
    lq_id_key(id, key);
    return put_number(txn, LQ_DB_PENDING, &(struct lq_bytes){key, sizeof key}, token, err);
}

enum lq_status lq_blob_ref_count(struct lq_txn *txn, const struct lq_digest *digest,
                                 uint64_t *count, struct lq_error *err)
{
    struct lq_bytes key = {digest->bytes, LQ_DIGEST_BYTES};
    return get_number(txn, LQ_DB_REFS, &key, count, err);
}

enum lq_status lq_blob_refer(struct lq_txn *txn, const struct lq_digest *digest, int by,
                             struct lq_error *err)
{
    struct lq_bytes key = {digest->bytes, LQ_DIGEST_BYTES};
    uint64_t count = 0;
    enum lq_status status = get_number(txn, LQ_DB_REFS, &key, &count, err);
    if (status != LQ_OK) {
        return status;
    }
    if (by < 0 && count <= 1) {
        return lq_txn_del(txn, LQ_DB_REFS, &key, NULL, err);
    }
    return put_number(txn, LQ_DB_REFS, &key, by < 0 ? count - 1 : count + 1, err);
}

/* ---- records ---- */

enum lq_status lq_blob_find(struct lq_cache *cache, struct lq_txn *txn,
                            const struct lq_digest *digest, struct lq_blob_record *record,
                            bool *found, struct lq_error *err)
{
    struct lq_bytes key = {digest->bytes, LQ_DIGEST_BYTES};
    struct lq_bytes value;
    enum lq_status status = lq_txn_get(txn, LQ_DB_BLOBS, &key, &value, found, err);
    if (status != LQ_OK || !*found) {
        return status;
    }
    const char *why = NULL;
    *found = lq_blob_record_decode(digest, value.data, value.size_bytes, record, &why);
    if (!*found && cache != NULL) {
        char hex[LQ_DIGEST_HEX_BYTES];
        lq_cache_warn(cache, "the record of blob %.12s is unusable: %s; it counts as missing",
                      lq_digest_to_hex(digest, hex), why);
    }
    return LQ_OK;
}

enum lq_status lq_blob_find_whole(struct lq_cache *cache, struct lq_txn *txn,
                                  const struct lq_digest *digest, struct lq_blob_record *record,
                                  bool *found, struct lq_error *err)
{
    enum lq_status status = lq_blob_find(cache, txn, digest, record, found, err);
    if (status == LQ_OK && *found && record->kind == LQ_BLOB_PLACED) {
        *found = lq_placed_is_there(record);
    }
    if (status != LQ_OK || !*found || record->kind != LQ_BLOB_JOINED) {
        return status;
    }
    for (uint32_t i = 0; i < record->part_count && status == LQ_OK && *found; i++) {
        struct lq_blob_part part;
        struct lq_blob_record inner;
        lq_blob_record_part(record, i, &part);
        if (lq_digest_is_zero(&part.digest)) {
            continue;
        }
        status = lq_blob_find(cache, txn, &part.digest, &inner, found, err);
        *found = *found && lq_blob_can_be_part(&inner) && inner.size_bytes == part.size_bytes;
    }
    return status;
}

/* What others refer to must not refer itself, nor lie where anybody may change it. */
bool lq_blob_can_be_part(const struct lq_blob_record *record)
{
    return record->kind == LQ_BLOB_CHUNKS || record->kind == LQ_BLOB_SMALL;
}

/* ---- removing ---- */

static enum lq_status delete_chunks(struct lq_txn *txn, uint64_t id, uint32_t count,
                                    struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    for (uint32_t i = 0; i < count && status == LQ_OK; i++) {
        unsigned char key[LQ_CHUNK_KEY_BYTES];
        lq_chunk_key(id, i, key);
        status = lq_txn_del(txn, LQ_DB_CHUNKS, &(struct lq_bytes){key, sizeof key}, NULL, err);
    }
    return status;
}

enum lq_status lq_blob_forget(struct lq_txn *txn, const struct lq_digest *digest,
                              const struct lq_blob_record *record, uint64_t *garbage_id,
                              struct lq_error *err)
{
    *garbage_id = 0;
    uint64_t id = record->id;
    uint32_t chunk_count = record->chunk_count;
    struct lq_blob_part *parts = NULL;
    /* The record borrows memory that the next change may move: copy the parts first. */
    enum lq_status status = lq_blob_record_parts(record, &parts, err);
    for (uint32_t i = 0; i < record->part_count && status == LQ_OK; i++) {
        if (!lq_digest_is_zero(&parts[i].digest)) {
            status = lq_blob_refer(txn, &parts[i].digest, -1, err);
        }
    }
    free(parts);
    struct lq_bytes key = {digest->bytes, LQ_DIGEST_BYTES};
    if (status == LQ_OK) {
        status = lq_txn_del(txn, LQ_DB_BLOBS, &key, NULL, err);
    }
    status = status == LQ_OK ? lq_use_remove(txn, LQ_USE_TRANSIENT, digest, err) : status;
    status = status == LQ_OK ? lq_blob_count_removal(txn, err) : status;
    if (status != LQ_OK || id == 0) {
        return status;
    }
    if (chunk_count <= LQ_FLUSH_CHUNKS) {
        return delete_chunks(txn, id, chunk_count, err);
    }
    *garbage_id = id;
    return lq_blob_mark_pending(txn, id, 0, err);
}

struct sweep {
    uint64_t id;
    bool done;
};

static enum lq_status sweep_some(struct lq_txn *txn, void *user, struct lq_error *err)
{
    struct sweep *sweep = user;
    unsigned char first[LQ_CHUNK_KEY_BYTES];
    lq_chunk_key(sweep->id, 0, first);
    sweep->done = false;
    for (int i = 0; i < LQ_SWEEP_CHUNKS; i++) {
        struct lq_bytes key = {first, sizeof first};
        struct lq_bytes found_key;
        struct lq_bytes value;
        bool found = false;
        enum lq_status status =
            lq_txn_next(txn, LQ_DB_CHUNKS, &key, false, &found_key, &value, &found, err);
        if (status != LQ_OK) {
            return status;
        }
        if (!found || found_key.size_bytes != LQ_CHUNK_KEY_BYTES ||
            lq_id_from_key(found_key.data) != sweep->id) {
            sweep->done = true;
            break;
        }
        unsigned char doomed[LQ_CHUNK_KEY_BYTES];
        memcpy(doomed, found_key.data, sizeof doomed);
        key = (struct lq_bytes){doomed, sizeof doomed};
        status = lq_txn_del(txn, LQ_DB_CHUNKS, &key, NULL, err);
        if (status != LQ_OK) {
            return status;
        }
    }
    if (!sweep->done) {
        return LQ_OK;
    }
    unsigned char id_key[LQ_ID_KEY_BYTES];
    lq_id_key(sweep->id, id_key);
    return lq_txn_del(txn, LQ_DB_PENDING, &(struct lq_bytes){id_key, sizeof id_key}, NULL, err);
}

enum lq_status lq_blob_sweep(struct lq_store *store, uint64_t id, struct lq_error *err)
{
    struct sweep sweep = {.id = id};
    enum lq_status status = LQ_OK;
    while (status == LQ_OK && !sweep.done) {
        status = lq_store_write(store, 0, 64 * 1024, sweep_some, &sweep, err);
    }
    return status;
}

/* The next unfinished id above `id` whose writer is gone; 0 when there is none. */
static enum lq_status next_dead(struct lq_cache *cache, uint64_t *id, struct lq_error *err)
{
    struct lq_txn txn;
    enum lq_status status = lq_store_read_begin(cache->store, &txn, err);
    if (status != LQ_OK) {
        return status;
    }
    uint64_t at = *id;
    *id = 0;
    for (bool found = true; found && *id == 0 && status == LQ_OK;) {
        unsigned char raw[LQ_ID_KEY_BYTES];
        lq_id_key(at, raw);
        struct lq_bytes key = {raw, sizeof raw};
        struct lq_bytes found_key;
        struct lq_bytes value;
        status = lq_txn_next(&txn, LQ_DB_PENDING, &key, true, &found_key, &value, &found, err);
        if (status != LQ_OK || !found || found_key.size_bytes != LQ_ID_KEY_BYTES) {
            break;
        }
        at = lq_id_from_key(found_key.data);
        uint64_t token = value.size_bytes == LQ_ID_KEY_BYTES ? lq_id_from_key(value.data) : 0;
        if (!lq_locks_token_alive(cache->locks, token)) {
            *id = at;
        }
    }
    lq_store_read_end(&txn);
    return status;
}

enum lq_status lq_blob_sweep_dead(struct lq_cache *cache, struct lq_error *err)
{
    uint64_t id = 0;
    for (;;) {
        enum lq_status status = next_dead(cache, &id, err);
        if (status == LQ_OK && id != 0) {
            status = lq_blob_sweep(cache->store, id, err);
        }
        if (status != LQ_OK || id == 0) {
            return status;
        }
    }
}

/* ---- questions and dropping ---- */

/* A blob that waits in memory is written first, so that what follows sees one store. */
static enum lq_status settle(struct lq_cache *cache, const struct lq_digest *digest,
                             struct lq_error *err)
{
    struct lq_bytes key = {digest->bytes, LQ_DIGEST_BYTES};
    return lq_store_has_later(cache->store, LQ_DB_BLOBS, &key, NULL, 0)
               ? lq_store_flush(cache->store, err)
               : LQ_OK;
}

bool lq_blob_exists(struct lq_cache *cache, const struct lq_digest *digest, uint64_t *size_bytes)
{
    lq_marks_add(cache->marks, digest);
    struct lq_txn txn;
    struct lq_error err = {0};
    struct lq_blob_record record;
    bool found = false;
    if (size_bytes != NULL) {
        *size_bytes = 0;
    }
    if (settle(cache, digest, &err) != LQ_OK ||
        lq_store_read_begin(cache->store, &txn, &err) != LQ_OK) {
        return false;
    }
    enum lq_status status = lq_blob_find_whole(cache, &txn, digest, &record, &found, &err);
    found = found && status == LQ_OK;
    if (found && size_bytes != NULL) {
        *size_bytes = record.size_bytes;
    }
    lq_store_read_end(&txn);
    return found;
}

enum lq_status lq_blob_place_get(struct lq_cache *cache, const struct lq_digest *digest,
                                 struct lq_arena *arena, char **path, struct lq_error *err)
{
    struct lq_txn txn;
    struct lq_blob_record record;
    bool found = false;
    *path = NULL;
    enum lq_status status = lq_store_read_begin(cache->store, &txn, err);
    if (status != LQ_OK) {
        return status;
    }
    status = lq_blob_find(NULL, &txn, digest, &record, &found, err);
    if (status == LQ_OK && found && record.kind == LQ_BLOB_PLACED) {
        *path = lq_arena_dup(arena, record.path, record.path_bytes);
        status = *path == NULL ? lq_error_nomem(err, "a path") : LQ_OK;
    }
    lq_store_read_end(&txn);
    return status;
}

struct drop {
    const struct lq_digest *digest;
    bool only_transient;
    uint64_t garbage_id;
};

static enum lq_status drop_change(struct lq_txn *txn, void *user, struct lq_error *err)
{
    struct drop *drop = user;
    struct lq_blob_record record;
    bool found = false;
    uint64_t refs = 0;
    drop->garbage_id = 0;
    enum lq_status status = lq_blob_find(NULL, txn, drop->digest, &record, &found, err);
    if (status == LQ_OK && found) {
        status = lq_blob_ref_count(txn, drop->digest, &refs, err);
    }
    uint64_t transient_since = 1;
    if (status == LQ_OK && drop->only_transient) {
        status = lq_use_get(txn, LQ_USE_TRANSIENT, drop->digest, &transient_since, err);
    }
    if (status != LQ_OK || !found || refs > 0 || transient_since == 0) {
        return status;
    }
    return lq_blob_forget(txn, drop->digest, &record, &drop->garbage_id, err);
}

static enum lq_status drop_blob(struct lq_cache *cache, const struct lq_digest *digest,
                                bool only_transient, struct lq_error *err)
{
    struct drop drop = {.digest = digest, .only_transient = only_transient};
    enum lq_status status = settle(cache, digest, err);
    if (status == LQ_OK) {
        status = lq_store_write(cache->store, 0, 64 * 1024, drop_change, &drop, err);
    }
    if (status == LQ_OK && drop.garbage_id != 0) {
        status = lq_blob_sweep(cache->store, drop.garbage_id, err);
    }
    return status;
}

enum lq_status lq_blob_drop(struct lq_cache *cache, const struct lq_digest *digest,
                            struct lq_error *err)
{
    return drop_blob(cache, digest, false, err);
}

enum lq_status lq_blob_drop_transient(struct lq_cache *cache, const struct lq_digest *digest,
                                      struct lq_error *err)
{
    return drop_blob(cache, digest, true, err);
}
