#include <string.h>

#include "cache/blob_writer.h"
#include "engine/base/limits.h"

static bool is_small(const struct lq_blob_writer *writer)
{
    return !writer->has_refs && writer->land == NULL && writer->size_bytes <= LQ_SMALL_BYTES_MAX;
}

static enum lq_status put_record(struct lq_txn *txn, struct lq_writer_commit *commit, uint64_t id,
                                 struct lq_error *err)
{
    struct lq_blob_writer *writer = commit->writer;
    struct lq_blob_record record = {
        .kind = writer->land != NULL ? LQ_BLOB_PLACED
                : writer->has_refs   ? LQ_BLOB_JOINED
                : is_small(writer)   ? LQ_BLOB_SMALL
                                     : LQ_BLOB_CHUNKS,
        .size_bytes = writer->size_bytes,
        .id = id,
        .stored_bytes = writer->stored_bytes,
        .chunk_bytes = LQ_CHUNK_BYTES,
        .part_count = writer->part_count,
        .data = writer->buffer,
        .path = commit->path,
        .path_bytes = commit->path == NULL ? 0 : (uint32_t)strlen(commit->path),
        .sig = commit->sig,
    };
    struct lq_buffer buffer;
    lq_buffer_init(&buffer);
    lq_blob_record_encode(&commit->digest, &record, writer->parts, &buffer);
    enum lq_status status = buffer.failed ? lq_error_nomem(err, "a blob record") : LQ_OK;
    if (status == LQ_OK) {
        struct lq_bytes key = {commit->digest.bytes, LQ_DIGEST_BYTES};
        struct lq_bytes value = {buffer.data, buffer.size_bytes};
        status = lq_txn_put(txn, LQ_DB_BLOBS, &key, &value, err);
    }
    lq_buffer_fini(&buffer);
    return status == LQ_OK && writer->is_transient
               ? lq_use_put(txn, LQ_USE_TRANSIENT, &commit->digest, lq_uses_now(), err)
               : status;
}

/* Chunks that wait in memory. A small blob is in its record. */
static enum lq_status put_chunks(struct lq_txn *txn, const struct lq_blob_writer *writer,
                                 uint64_t *id, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    if (is_small(writer)) {
        return LQ_OK;
    }
    if (*id == 0 && writer->stored_bytes > 0) {
        status = lq_blob_next_id(txn, id, err);
    }
    return status == LQ_OK ? lq_writer_put_chunks(txn, *id, writer->flushed_count, writer->buffer,
                                                  writer->buffered_bytes, err)
                           : status;
}

/* The blob is there already, and this writer's chunks are garbage. What is written to be kept
 * stays, whoever wrote it first. */
static enum lq_status keep_old(struct lq_txn *txn, const struct lq_writer_commit *commit,
                               uint64_t id, struct lq_error *err)
{
    enum lq_status status = commit->writer->is_transient
                                ? LQ_OK
                                : lq_use_remove(txn, LQ_USE_TRANSIENT, &commit->digest, err);
    return status == LQ_OK && id != 0 ? lq_blob_mark_pending(txn, id, 0, err) : status;
}

/* Every part must still be there, and is kept from now on. */
static enum lq_status refer_parts(struct lq_txn *txn, struct lq_blob_writer *writer,
                                  struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    for (uint32_t i = 0; i < writer->part_count && status == LQ_OK && writer->has_refs; i++) {
        const struct lq_blob_part *part = &writer->parts[i];
        struct lq_blob_record record;
        bool found = false;
        if (lq_digest_is_zero(&part->digest)) {
            continue;
        }
        status = lq_blob_find(NULL, txn, &part->digest, &record, &found, err);
        bool fits = found && lq_blob_can_be_part(&record) && record.size_bytes == part->size_bytes;
        if (status == LQ_OK && !fits) {
            char hex[LQ_DIGEST_HEX_BYTES];
            return lq_error_set(err, LQ_ECACHE,
                                "cache folder %s: blob %s, a part of another, was removed "
                                "meanwhile; build again",
                                writer->cache->dir, lq_digest_to_hex(&part->digest, hex));
        }
        status = status == LQ_OK ? lq_blob_refer(txn, &part->digest, 1, err) : status;
    }
    return status;
}

static enum lq_status commit_change(struct lq_txn *txn, void *user, struct lq_error *err)
{
    struct lq_writer_commit *commit = user;
    struct lq_blob_writer *writer = commit->writer;
    struct lq_blob_record old;
    uint64_t id = writer->id;
    commit->garbage_id = 0;
    commit->duplicate = false;
    enum lq_status status = LQ_OK;
    if (id != 0) {
        status = lq_writer_check_pending(txn, writer->cache, id, err);
    }
    if (status == LQ_OK) {
        status = lq_blob_find_whole(NULL, txn, &commit->digest, &old, &commit->duplicate, err);
    }
    if (status != LQ_OK || commit->duplicate) {
        return status == LQ_OK ? keep_old(txn, commit, id, err) : status;
    }
    bool broken = false;
    status = lq_blob_find(NULL, txn, &commit->digest, &old, &broken, err);
    if (status == LQ_OK && broken) {
        status = lq_blob_forget(txn, &commit->digest, &old, &commit->garbage_id, err);
    }
    status = status == LQ_OK ? put_chunks(txn, writer, &id, err) : status;
    if (status == LQ_OK && writer->id != 0) {
        unsigned char raw[LQ_ID_KEY_BYTES];
        lq_id_key(id, raw);
        status = lq_txn_del(txn, LQ_DB_PENDING, &(struct lq_bytes){raw, sizeof raw}, NULL, err);
    }
    status = status == LQ_OK ? refer_parts(txn, writer, err) : status;
    return status == LQ_OK ? put_record(txn, commit, id, err) : status;
}

static enum lq_status commit_large(struct lq_blob_writer *writer, const struct lq_digest *digest,
                                   struct lq_error *err)
{
    /* A small blob that waits in memory and is to be kept comes before a transient one. */
    bool with_later = writer->has_refs || writer->is_transient;
    unsigned flags = LQ_STORE_PATIENT | (with_later ? LQ_STORE_WITH_LATER : 0u);
    writer->commit.writer = writer;
    writer->commit.digest = *digest;
    return lq_store_write_begin(writer->cache->store, flags, writer->buffered_bytes + 64 * 1024,
                                commit_change, &writer->commit, &writer->commit.writing, err);
}

/* Waits for the record. */
enum lq_status lq_writer_commit_wait(struct lq_blob_writer *writer, struct lq_error *err)
{
    struct lq_writer_commit *commit = &writer->commit;
    struct lq_store *store = writer->cache->store;
    if (commit->writing == NULL) {
        return LQ_OK;
    }
    enum lq_status status = lq_store_write_end(store, commit->writing, err);
    commit->writing = NULL;
    if (status != LQ_OK) {
        return status;
    }
    /* What is garbage is marked as such: if sweeping fails, the next open does it. */
    if (commit->duplicate && writer->id != 0) {
        (void)lq_blob_sweep(store, writer->id, NULL);
    }
    if (commit->garbage_id != 0) {
        (void)lq_blob_sweep(store, commit->garbage_id, NULL);
    }
    writer->id = 0;
    return LQ_OK;
}

/* *stored: the blob is there to stay. *changes: a record is there that lacks parts, or is
 * transient. */
static enum lq_status find_old(struct lq_blob_writer *writer, const struct lq_digest *digest,
                               bool *stored, bool *changes, struct lq_error *err)
{
    struct lq_txn txn;
    struct lq_blob_record record;
    uint64_t transient_since = 0;
    enum lq_status status = lq_store_read_begin(writer->cache->store, &txn, err);
    if (status != LQ_OK) {
        return status;
    }
    status = lq_blob_find_whole(NULL, &txn, digest, &record, stored, err);
    if (status == LQ_OK && *stored) {
        status = lq_use_get(&txn, LQ_USE_TRANSIENT, digest, &transient_since, err);
        *stored = transient_since == 0;
    }
    if (status == LQ_OK && !*stored) {
        status = lq_blob_find(NULL, &txn, digest, &record, changes, err);
    }
    lq_store_read_end(&txn);
    return status;
}

/* Small blobs wait in memory for the action that they belong to. */
static enum lq_status commit_small(struct lq_blob_writer *writer, const struct lq_digest *digest,
                                   struct lq_error *err)
{
    struct lq_bytes key = {digest->bytes, LQ_DIGEST_BYTES};
    bool changes = false;
    bool stored = lq_store_has_later(writer->cache->store, LQ_DB_BLOBS, &key, NULL, 0);
    enum lq_status status = stored ? LQ_OK : find_old(writer, digest, &stored, &changes, err);
    if (status != LQ_OK || stored) {
        return status;
    }
    if (changes) {
        /* What the old record counts, or says, must be undone, in a transaction. */
        return commit_large(writer, digest, err);
    }
    struct lq_blob_record record = {
        .kind = LQ_BLOB_SMALL,
        .size_bytes = writer->size_bytes,
        .data = writer->buffer,
    };
    struct lq_buffer buffer;
    lq_buffer_init(&buffer);
    lq_blob_record_encode(digest, &record, NULL, &buffer);
    status = buffer.failed ? lq_error_nomem(err, "a blob record") : LQ_OK;
    if (status == LQ_OK) {
        struct lq_bytes value = {buffer.data, buffer.size_bytes};
        status = lq_store_later(writer->cache->store, LQ_DB_BLOBS, &key, &value, false, err);
    }
    lq_buffer_fini(&buffer);
    return status;
}

/* The file gets its name. What is told of it is believed as far as a record can hold it. */
static enum lq_status land(struct lq_blob_writer *writer, const struct lq_digest *digest,
                           struct lq_error *err)
{
    struct lq_writer_commit *commit = &writer->commit;
    if (writer->land == NULL) {
        return LQ_OK;
    }
    writer->buffered_bytes = 0; /* the taker has them */
    enum lq_status status =
        writer->land(writer->copy_user, digest, &commit->path, &commit->sig, err);
    if (status != LQ_OK) {
        return status;
    }
    if (commit->path[0] != '/' || strlen(commit->path) > LQ_BLOB_PATH_BYTES_MAX ||
        commit->sig.size_bytes != writer->size_bytes) {
        return lq_error_set(err, LQ_EIO, "%s: changed while it was written; build again",
                            commit->path);
    }
    return LQ_OK;
}

/* Begins to publish under its digest; with `expected` only if that is the digest. */
static enum lq_status commit_begin(struct lq_blob_writer *writer, const struct lq_digest *expected,
                                   struct lq_digest *own, struct lq_error *err)
{
    enum lq_status status = lq_writer_usable(writer, err);
    status = status == LQ_OK ? lq_writer_settle(writer, err) : status;
    status = status == LQ_OK ? lq_writer_flush_end(writer, err) : status;
    if (status != LQ_OK) {
        return status;
    }
    lq_hasher_finish(writer->hasher, own);
    if (expected != NULL && !lq_digest_equal(expected, own)) {
        return LQ_OK;
    }
    /* Before it is looked for: an old copy that is found must stay. */
    lq_marks_add(writer->cache->marks, own);
    status = land(writer, own, err);
    if (status != LQ_OK) {
        return status;
    }
    return is_small(writer) && !writer->is_transient ? commit_small(writer, own, err)
                                                     : commit_large(writer, own, err);
}

enum lq_status lq_blob_commit_begin(struct lq_blob_writer *writer, struct lq_digest *digest,
                                    uint64_t *size_bytes, struct lq_error *err)
{
    *size_bytes = writer->size_bytes;
    return commit_begin(writer, NULL, digest, err);
}

enum lq_status lq_blob_commit_end(struct lq_blob_writer *writer, struct lq_error *err)
{
    enum lq_status status = lq_writer_commit_wait(writer, err);
    lq_blob_abort(writer);
    return status;
}

enum lq_status lq_blob_commit(struct lq_blob_writer *writer, struct lq_digest *digest,
                              uint64_t *size_bytes, struct lq_error *err)
{
    struct lq_digest own;
    enum lq_status status = commit_begin(writer, NULL, &own, err);
    status = status == LQ_OK ? lq_writer_commit_wait(writer, err) : status;
    if (status == LQ_OK && digest != NULL) {
        *digest = own;
    }
    if (status == LQ_OK && size_bytes != NULL) {
        *size_bytes = writer->size_bytes;
    }
    lq_blob_abort(writer);
    return status;
}

enum lq_status lq_blob_commit_as(struct lq_blob_writer *writer, const struct lq_digest *expected,
                                 bool *same, struct lq_error *err)
{
    struct lq_digest own;
    enum lq_status status = commit_begin(writer, expected, &own, err);
    status = status == LQ_OK ? lq_writer_commit_wait(writer, err) : status;
    *same = status == LQ_OK && lq_digest_equal(expected, &own);
    lq_blob_abort(writer);
    return status;
}
