#include "cache/history.h"

#include <string.h>

#include "cache/cache_internal.h"
#include "cache/uses.h"
#include "engine/base/limits.h"
#include "engine/base/reader.h"

enum lq_status lq_history_record_init(struct lq_history_record *record, const char *label,
                                      const char *manifest, struct lq_error *err)
{
    memset(record, 0, sizeof *record);
    lq_buffer_init(&record->value);
    if (label == NULL) {
        return LQ_OK;
    }
    size_t label_bytes = strlen(label);
    size_t manifest_bytes = manifest == NULL ? 0 : strlen(manifest);
    if (label_bytes > LQ_MANIFEST_BYTES_MAX || manifest_bytes > LQ_MANIFEST_BYTES_MAX) {
        return lq_error_set(err, LQ_EINTERNAL,
                            "cache: a manifest has %zu bytes, expected at most %d", manifest_bytes,
                            (int)LQ_MANIFEST_BYTES_MAX);
    }
    lq_digest_of(label, label_bytes, &record->key);
    lq_buffer_append_u32(&record->value, (uint32_t)label_bytes);
    lq_buffer_append(&record->value, label, label_bytes);
    lq_buffer_append(&record->value, manifest, manifest_bytes);
    lq_record_seal(LQ_RECORD_HISTORY, record->key.bytes, LQ_DIGEST_BYTES, &record->value);
    return record->value.failed ? lq_error_nomem(err, "a history record") : LQ_OK;
}

void lq_history_record_fini(struct lq_history_record *record)
{
    lq_buffer_fini(&record->value);
}

static enum lq_status is_stored(struct lq_txn *txn, const struct lq_history_record *record,
                                bool *same, struct lq_error *err)
{
    struct lq_bytes key = {record->key.bytes, LQ_DIGEST_BYTES};
    struct lq_bytes value;
    enum lq_status status = lq_txn_get(txn, LQ_DB_HISTORY, &key, &value, same, err);
    *same = *same && value.size_bytes == record->value.size_bytes &&
            memcmp(value.data, record->value.data, value.size_bytes) == 0;
    return status;
}

enum lq_status lq_history_write(struct lq_txn *txn, const struct lq_history_record *record,
                                struct lq_error *err)
{
    bool same = false;
    if (record->value.size_bytes == 0) {
        return LQ_OK;
    }
    enum lq_status status = is_stored(txn, record, &same, err);
    if (status != LQ_OK || same) {
        return status;
    }
    struct lq_bytes key = {record->key.bytes, LQ_DIGEST_BYTES};
    struct lq_bytes value = {record->value.data, record->value.size_bytes};
    status = lq_txn_put(txn, LQ_DB_HISTORY, &key, &value, err);
    return status == LQ_OK ? lq_use_put(txn, LQ_USE_HISTORY, &record->key, lq_uses_now(), err)
                           : status;
}

static enum lq_status write_change(struct lq_txn *txn, void *user, struct lq_error *err)
{
    return lq_history_write(txn, user, err);
}

enum lq_status lq_history_put(struct lq_cache *cache, const char *label, const char *manifest,
                              struct lq_error *err)
{
    struct lq_history_record record;
    struct lq_txn txn;
    bool same = false;
    enum lq_status status = lq_history_record_init(&record, label, manifest, err);
    if (status == LQ_OK) {
        /* Looking first: a no-op build must not wait for the one write transaction there is. */
        status = lq_store_read_begin(cache->store, &txn, err);
        if (status == LQ_OK) {
            status = is_stored(&txn, &record, &same, err);
            lq_store_read_end(&txn);
        }
    }
    if (status == LQ_OK && !same) {
        status =
            lq_store_write(cache->store, 0, record.value.size_bytes, write_change, &record, err);
    }
    lq_history_record_fini(&record);
    return status;
}

/* The manifest inside a record; *why says what is wrong with it. */
static enum lq_status decode(const struct lq_digest *key, const char *label,
                             const struct lq_bytes *value, struct lq_arena *arena, char **manifest,
                             const char **why, struct lq_error *err)
{
    size_t payload_bytes = 0;
    *why = "it was altered";
    if (!lq_record_unseal(LQ_RECORD_HISTORY, key->bytes, LQ_DIGEST_BYTES, value->data,
                          value->size_bytes, &payload_bytes)) {
        return LQ_OK;
    }
    struct lq_reader reader;
    lq_reader_init(&reader, value->data, payload_bytes);
    uint32_t label_bytes = lq_read_u32(&reader);
    const void *stored = lq_read_bytes(&reader, label_bytes);
    if (reader.failed || label_bytes != strlen(label) || memcmp(stored, label, label_bytes) != 0) {
        *why = "it belongs to another label";
        return LQ_OK;
    }
    size_t left = (size_t)lq_reader_left(&reader);
    const void *bytes = lq_read_bytes(&reader, left);
    *why = NULL;
    *manifest = lq_arena_dup(arena, left == 0 ? "" : bytes, left);
    return *manifest == NULL ? lq_error_nomem(err, "a manifest") : LQ_OK;
}

enum lq_status lq_history_get(struct lq_cache *cache, const char *label, struct lq_arena *arena,
                              char **manifest, struct lq_error *err)
{
    struct lq_digest digest;
    struct lq_txn txn;
    struct lq_bytes value;
    bool found = false;
    const char *why = NULL;
    *manifest = NULL;
    lq_digest_of(label, strlen(label), &digest);
    enum lq_status status = lq_store_read_begin(cache->store, &txn, err);
    if (status != LQ_OK) {
        return status;
    }
    struct lq_bytes key = {digest.bytes, LQ_DIGEST_BYTES};
    status = lq_txn_get(&txn, LQ_DB_HISTORY, &key, &value, &found, err);
    if (status == LQ_OK && found) {
        status = decode(&digest, label, &value, arena, manifest, &why, err);
    }
    lq_store_read_end(&txn);
    if (status == LQ_OK && why != NULL) {
        lq_cache_warn(cache, "the history of '%.200s' is unusable: %s; it counts as missing", label,
                      why);
    }
    return status;
}
