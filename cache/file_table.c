#include <string.h>

#include "cache/cache_internal.h"
#include "engine/base/limits.h"

/* Digests of small files come in bursts, and losing one costs a second look at a small file: they
 * wait for the next write unless the last one is this long ago. Whoever hashed a large file is
 * beyond it and writes at once. */
static const uint64_t postpone_ns = 200 * 1000 * 1000;

enum { signature_bytes = 5 * 8 };

struct file_key {
    unsigned char bytes[signature_bytes + LQ_NAME_BYTES_MAX];
    size_t size_bytes;
};

static void put_u64(struct file_key *key, uint64_t value)
{
    for (int i = 0; i < 8; i++) {
        key->bytes[key->size_bytes++] = (unsigned char)(value >> (56 - 8 * i));
    }
}

static bool make_key(struct file_key *key, const struct lq_file_sig *sig, const char *kind)
{
    size_t kind_bytes = strlen(kind);
    key->size_bytes = 0;
    if (kind_bytes > LQ_NAME_BYTES_MAX) {
        return false;
    }
    put_u64(key, sig->device);
    put_u64(key, sig->inode);
    put_u64(key, sig->size_bytes);
    put_u64(key, (uint64_t)sig->mtime_ns);
    put_u64(key, (uint64_t)sig->ctime_ns);
    memcpy(key->bytes + key->size_bytes, kind, kind_bytes);
    key->size_bytes += kind_bytes;
    return true;
}

static bool decode(struct lq_cache *cache, const struct file_key *key, const struct lq_bytes *value,
                   struct lq_digest *digest)
{
    size_t payload_bytes = 0;
    if (!lq_record_unseal(LQ_RECORD_FILE, key->bytes, key->size_bytes, value->data,
                          value->size_bytes, &payload_bytes) ||
        payload_bytes != LQ_DIGEST_BYTES) {
        lq_cache_warn(cache, "the digest kept for a file was altered; the file is read again");
        return false;
    }
    memcpy(digest->bytes, value->data, LQ_DIGEST_BYTES);
    return true;
}

/* Other ways of reading than "plain" name a blob that describes the file. */
static void note_description(struct lq_cache *cache, const char *kind,
                             const struct lq_digest *digest)
{
    if (strcmp(kind, "plain") != 0) {
        lq_marks_add(cache->marks, digest);
        lq_uses_add(cache->uses, LQ_USE_BLOB, digest);
    }
}

bool lq_file_digest_get(struct lq_cache *cache, const struct lq_file_sig *sig, const char *kind,
                        struct lq_digest *digest)
{
    struct file_key key;
    if (!make_key(&key, sig, kind)) {
        return false;
    }
    struct lq_bytes raw_key = {key.bytes, key.size_bytes};
    unsigned char waiting[LQ_DIGEST_BYTES + LQ_SEAL_BYTES];
    if (lq_store_has_later(cache->store, LQ_DB_FILES, &raw_key, waiting, sizeof waiting)) {
        return decode(cache, &key, &(struct lq_bytes){waiting, sizeof waiting}, digest);
    }
    struct lq_txn txn;
    struct lq_bytes value;
    bool found = false;
    if (lq_store_read_begin(cache->store, &txn, NULL) != LQ_OK) {
        return false;
    }
    enum lq_status status = lq_txn_get(&txn, LQ_DB_FILES, &raw_key, &value, &found, NULL);
    found = status == LQ_OK && found && decode(cache, &key, &value, digest);
    lq_store_read_end(&txn);
    if (found) {
        note_description(cache, kind, digest);
    }
    return found;
}

enum lq_status lq_file_digest_put(struct lq_cache *cache, const struct lq_file_sig *sig,
                                  const char *kind, const struct lq_digest *digest,
                                  struct lq_error *err)
{
    struct file_key key;
    if (!make_key(&key, sig, kind)) {
        return lq_error_set(err, LQ_EINTERNAL,
                            "cache: a way of reading files has a name of %zu bytes, expected at "
                            "most %d",
                            strlen(kind), (int)LQ_NAME_BYTES_MAX);
    }
    struct lq_buffer value;
    lq_buffer_init(&value);
    lq_buffer_append(&value, digest->bytes, LQ_DIGEST_BYTES);
    lq_record_seal(LQ_RECORD_FILE, key.bytes, key.size_bytes, &value);
    enum lq_status status = value.failed ? lq_error_nomem(err, "a file record") : LQ_OK;
    if (status == LQ_OK) {
        struct lq_bytes raw_key = {key.bytes, key.size_bytes};
        struct lq_bytes raw = {value.data, value.size_bytes};
        status = lq_store_later(cache->store, LQ_DB_FILES, &raw_key, &raw, false, err);
    }
    lq_buffer_fini(&value);
    if (status != LQ_OK) {
        return status;
    }
    note_description(cache, kind, digest);
    uint64_t now = lq_clock_ns();
    (void)pthread_mutex_lock(&cache->mutex);
    bool due = now - cache->files_flushed_ns >= postpone_ns;
    if (due) {
        cache->files_flushed_ns = now;
    }
    (void)pthread_mutex_unlock(&cache->mutex);
    return due ? lq_store_flush(cache->store, err) : LQ_OK;
}
