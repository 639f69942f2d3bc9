#include <stdlib.h>
#include <string.h>

#include "cache/blob_writer.h"
#include "engine/base/compiler.h"
#include "engine/base/limits.h"

static const size_t flush_bytes = (size_t)LQ_FLUSH_CHUNKS * LQ_CHUNK_BYTES;
static const size_t first_buffer_bytes = 16 * 1024;

static void free_writer(struct lq_blob_writer *writer)
{
    lq_hasher_destroy(writer->hasher);
    free(writer->buffer);
    free(writer->other);
    free(writer->parts);
    free(writer);
}

enum lq_status lq_blob_begin(struct lq_cache *cache, struct lq_blob_writer **out,
                             struct lq_error *err)
{
    struct lq_blob_writer *writer = calloc(1, sizeof *writer);
    *out = NULL;
    if (writer == NULL) {
        return lq_error_nomem(err, "a blob writer");
    }
    writer->cache = cache;
    writer->hasher = lq_hasher_create();
    if (writer->hasher == NULL) {
        free_writer(writer);
        return lq_error_nomem(err, "a blob writer");
    }
    *out = writer;
    return LQ_OK;
}

void lq_blob_use_pool(struct lq_blob_writer *writer, struct lq_pool *pool)
{
    writer->pool = pool;
}

void lq_blob_set_transient(struct lq_blob_writer *writer)
{
    writer->is_transient = true;
}

void lq_blob_tee(struct lq_blob_writer *writer, lq_blob_take copy, void *user)
{
    writer->copy = copy;
    writer->copy_user = user;
}

void lq_blob_keep_outside(struct lq_blob_writer *writer, lq_blob_take keep, lq_blob_land land,
                          void *user)
{
    lq_blob_tee(writer, keep, user);
    writer->land = land;
}

/* ---- chunks ---- */

/* The chunks of an earlier flush are ours as long as the pending record has our token. */
enum lq_status lq_writer_check_pending(struct lq_txn *txn, struct lq_cache *cache, uint64_t id,
                                       struct lq_error *err)
{
    unsigned char raw[LQ_ID_KEY_BYTES];
    lq_id_key(id, raw);
    struct lq_bytes key = {raw, sizeof raw};
    struct lq_bytes value;
    bool found = false;
    enum lq_status status = lq_txn_get(txn, LQ_DB_PENDING, &key, &value, &found, err);
    /* Clearing leaves the id as garbage of nobody. */
    if (status == LQ_OK && (!found || value.size_bytes != LQ_ID_KEY_BYTES ||
                            lq_id_from_key(value.data) != lq_locks_token(cache->locks))) {
        return lq_error_set(err, LQ_ECACHE,
                            "cache folder %s: it was cleared while a blob was written; build again",
                            cache->dir);
    }
    return status;
}

enum lq_status lq_writer_put_chunks(struct lq_txn *txn, uint64_t id, uint32_t index,
                                    const unsigned char *data, size_t size_bytes,
                                    struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    while (size_bytes > 0 && status == LQ_OK) {
        size_t chunk_bytes = size_bytes < LQ_CHUNK_BYTES ? size_bytes : LQ_CHUNK_BYTES;
        unsigned char raw[LQ_CHUNK_KEY_BYTES];
        lq_chunk_key(id, index, raw);
        struct lq_bytes key = {raw, sizeof raw};
        struct lq_bytes value = {data, chunk_bytes};
        status = lq_txn_put(txn, LQ_DB_CHUNKS, &key, &value, err);
        data += chunk_bytes;
        size_bytes -= chunk_bytes;
        index++;
    }
    return status;
}

static enum lq_status flush_change(struct lq_txn *txn, void *user, struct lq_error *err)
{
    struct lq_writer_flush *flush = user;
    struct lq_blob_writer *writer = flush->writer;
    enum lq_status status = LQ_OK;
    flush->id = writer->id;
    if (flush->id != 0) {
        status = lq_writer_check_pending(txn, writer->cache, flush->id, err);
    } else {
        status = lq_blob_next_id(txn, &flush->id, err);
        if (status == LQ_OK) {
            status =
                lq_blob_mark_pending(txn, flush->id, lq_locks_token(writer->cache->locks), err);
        }
    }
    return status == LQ_OK ? lq_writer_put_chunks(txn, flush->id, writer->flushed_count,
                                                  flush->data, flush->size_bytes, err)
                           : status;
}

/* Waits for the chunks that are on their way. */
enum lq_status lq_writer_flush_end(struct lq_blob_writer *writer, struct lq_error *err)
{
    struct lq_writer_flush *flush = &writer->flush;
    if (flush->writing == NULL) {
        return LQ_OK;
    }
    enum lq_status status = lq_store_write_end(writer->cache->store, flush->writing, err);
    flush->writing = NULL;
    if (status == LQ_OK) {
        writer->id = flush->id;
        writer->flushed_count += (uint32_t)(flush->size_bytes / LQ_CHUNK_BYTES);
    }
    return status;
}

/* Sends chunks on their way, after those before them. `size_bytes` is a multiple of the chunk
 * size. */
static enum lq_status flush_begin(struct lq_blob_writer *writer, const unsigned char *data,
                                  size_t size_bytes, bool borrowed, struct lq_error *err)
{
    enum lq_status status = lq_writer_flush_end(writer, err);
    if (status != LQ_OK || writer->land != NULL) {
        return status;
    }
    uint32_t count = (uint32_t)(size_bytes / LQ_CHUNK_BYTES);
    if (writer->flushed_count > UINT32_MAX - 1 - count) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            "cache folder %s: a blob is larger than 2^32 chunks",
                            writer->cache->dir);
    }
    writer->flush = (struct lq_writer_flush){
        .writer = writer, .data = data, .size_bytes = size_bytes, .borrowed = borrowed};
    return lq_store_write_begin(writer->cache->store, LQ_STORE_UNNAMED, size_bytes, flush_change,
                                &writer->flush, &writer->flush.writing, err);
}

static bool grow_buffer(struct lq_blob_writer *writer, size_t wanted)
{
    if (wanted <= writer->buffer_capacity) {
        return true;
    }
    size_t capacity = writer->buffer_capacity == 0 ? first_buffer_bytes : writer->buffer_capacity;
    if (writer->other != NULL) {
        capacity = flush_bytes; /* a large blob: no more steps */
    }
    while (capacity < wanted) {
        capacity *= 2;
    }
    capacity = capacity > flush_bytes ? flush_bytes : capacity;
    unsigned char *grown = realloc(writer->buffer, capacity);
    if (grown == NULL) {
        return false;
    }
    writer->buffer = grown;
    writer->buffer_capacity = capacity;
    return true;
}

/* Waits for the hash of the last full buffer. */
void lq_writer_hash_end(struct lq_blob_writer *writer)
{
    lq_hash_aside_end(&writer->cache->hashing, &writer->hashing);
}

/* Bytes are hashed and copied when they leave the buffer, not with each small write. The buffer
 * may be filled again when hash_end has returned. */
static enum lq_status settle_begin(struct lq_blob_writer *writer, struct lq_error *err)
{
    size_t size_bytes = writer->fresh_bytes;
    if (size_bytes == 0) {
        return LQ_OK; /* perhaps there is no buffer */
    }
    const unsigned char *data = writer->buffer + writer->buffered_bytes - size_bytes;
    writer->fresh_bytes = 0;
    lq_writer_hash_end(writer);
    writer->hashing =
        (struct lq_hash_job){.hasher = writer->hasher, .data = data, .size_bytes = size_bytes};
    if (size_bytes == flush_bytes) {
        lq_hash_aside_begin(&writer->cache->hashing, &writer->hashing);
    } else {
        lq_hasher_update(writer->hasher, data, size_bytes);
    }
    return writer->copy == NULL ? LQ_OK : writer->copy(writer->copy_user, data, size_bytes, err);
}

enum lq_status lq_writer_settle(struct lq_blob_writer *writer, struct lq_error *err)
{
    enum lq_status status = settle_begin(writer, err);
    lq_writer_hash_end(writer);
    return status;
}

/* A full buffer goes on its way while the other one is filled. */
static enum lq_status turn_buffers(struct lq_blob_writer *writer, struct lq_error *err)
{
    enum lq_status status = settle_begin(writer, err);
    if (status == LQ_OK) {
        status = flush_begin(writer, writer->buffer, flush_bytes, false, err);
    }
    unsigned char *empty = writer->other;
    writer->other = writer->buffer;
    writer->buffer = empty;
    writer->buffer_capacity = empty == NULL ? 0 : flush_bytes;
    writer->buffered_bytes = 0;
    return status;
}

/* Whole chunks straight from the caller; never all, so that the last flush is the one that
 * publishes. They are hashed beside the write. */
static enum lq_status pass_on(struct lq_blob_writer *writer, const unsigned char *data,
                              size_t size_bytes, struct lq_error *err)
{
    lq_writer_hash_end(writer);
    writer->hashing =
        (struct lq_hash_job){.hasher = writer->hasher, .data = data, .size_bytes = size_bytes};
    lq_hash_aside_begin(&writer->cache->hashing, &writer->hashing);
    enum lq_status status =
        writer->copy == NULL ? LQ_OK : writer->copy(writer->copy_user, data, size_bytes, err);
    status = status == LQ_OK ? flush_begin(writer, data, size_bytes, true, err) : status;
    lq_writer_hash_end(writer);
    return status;
}

static enum lq_status store_bytes(struct lq_blob_writer *writer, const unsigned char *data,
                                  size_t size_bytes, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    while (size_bytes > 0 && status == LQ_OK) {
        size_t taken = 0;
        if (writer->buffered_bytes == 0 && size_bytes > flush_bytes) {
            taken = flush_bytes;
            status = pass_on(writer, data, taken, err);
        } else {
            size_t room = flush_bytes - writer->buffered_bytes;
            taken = size_bytes < room ? size_bytes : room;
            if (taken == 0) {
                status = turn_buffers(writer, err);
            } else if (!grow_buffer(writer, writer->buffered_bytes + taken)) {
                status = lq_error_nomem(err, "the buffer of a blob writer");
            } else {
                memcpy(writer->buffer + writer->buffered_bytes, data, taken);
                writer->buffered_bytes += taken;
                writer->fresh_bytes += taken;
            }
        }
        data += taken;
        size_bytes -= taken;
        writer->stored_bytes += writer->land == NULL ? taken : 0;
    }
    if (writer->flush.writing != NULL && writer->flush.borrowed) {
        enum lq_status ended = lq_writer_flush_end(writer, status == LQ_OK ? err : NULL);
        status = status == LQ_OK ? ended : status;
    }
    return status;
}

/* ---- parts ---- */

/* The next bytes are part of `digest`, or inline when it is NULL. Neighbouring inline bytes are one
 * part. */
static enum lq_status add_part(struct lq_blob_writer *writer, const struct lq_digest *digest,
                               uint64_t size_bytes, struct lq_error *err)
{
    struct lq_blob_part *last =
        writer->part_count == 0 ? NULL : &writer->parts[writer->part_count - 1];
    if (digest == NULL && last != NULL && lq_digest_is_zero(&last->digest)) {
        last->size_bytes += size_bytes;
        return LQ_OK;
    }
    if (writer->part_count == LQ_BLOB_PARTS_MAX) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            "cache folder %s: a concatenation has more than %d parts",
                            writer->cache->dir, (int)LQ_BLOB_PARTS_MAX);
    }
    if (writer->part_count == writer->part_capacity) {
        uint32_t capacity = writer->part_capacity == 0 ? 4 : 2 * writer->part_capacity;
        struct lq_blob_part *grown = realloc(writer->parts, capacity * sizeof *grown);
        if (grown == NULL) {
            return lq_error_nomem(err, "the parts of a blob");
        }
        writer->parts = grown;
        writer->part_capacity = capacity;
    }
    struct lq_blob_part *part = &writer->parts[writer->part_count++];
    memset(part, 0, sizeof *part);
    part->size_bytes = size_bytes;
    if (digest != NULL) {
        part->digest = *digest;
        writer->has_refs = true;
    }
    return LQ_OK;
}

enum lq_status lq_writer_usable(const struct lq_blob_writer *writer, struct lq_error *err)
{
    return writer->failed ? lq_error_set(err, LQ_ECACHE,
                                         "cache folder %s: writing a blob goes on after it failed",
                                         writer->cache->dir)
                          : LQ_OK;
}

enum lq_status lq_blob_write(struct lq_blob_writer *writer, const void *data, size_t size_bytes,
                             struct lq_error *err)
{
    enum lq_status status = lq_writer_usable(writer, err);
    if (status != LQ_OK || size_bytes == 0) {
        return status;
    }
    status = add_part(writer, NULL, size_bytes, err);
    if (status == LQ_OK) {
        writer->size_bytes += size_bytes;
        status = store_bytes(writer, data, size_bytes, err);
    }
    writer->failed = status != LQ_OK;
    return status;
}

/* Reads a whole part, and hashes it twice: for the concatenation, and to see that it is what its
 * digest says. */
static enum lq_status hash_part(struct lq_blob_writer *writer, const struct lq_digest *part,
                                struct lq_blob_reader *reader, struct lq_error *err)
{
    struct lq_hasher *own = lq_hasher_create();
    struct lq_hasher *const hashers[] = {writer->hasher, own};
    enum lq_status status = own == NULL
                                ? lq_error_nomem(err, "a part of a blob")
                                : lq_blob_walk(reader, writer->pool, hashers, LQ_COUNT_OF(hashers),
                                               writer->copy, writer->copy_user, err);
    if (status == LQ_OK) {
        struct lq_digest digest;
        lq_hasher_finish(own, &digest);
        if (!lq_digest_equal(&digest, part)) {
            bool intact = false;
            char hex[LQ_DIGEST_HEX_BYTES];
            /* Removes it, with a warning. */
            (void)lq_blob_check(writer->cache, part, &intact, NULL);
            status = lq_error_set(err, LQ_ECACHE,
                                  "cache folder %s: blob %s was altered and is removed; build "
                                  "again",
                                  writer->cache->dir, lq_digest_to_hex(part, hex));
        }
    }
    lq_hasher_destroy(own);
    return status;
}

static enum lq_status copy_inline(struct lq_blob_writer *writer, struct lq_blob_reader *reader,
                                  uint64_t offset, uint64_t size_bytes, unsigned char *bytes,
                                  struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    for (uint64_t done = 0; done < size_bytes && status == LQ_OK;) {
        uint64_t left = size_bytes - done;
        size_t step = left < LQ_CHUNK_BYTES ? (size_t)left : LQ_CHUNK_BYTES;
        status = lq_blob_read(reader, offset + done, bytes, step, err);
        status = status == LQ_OK ? lq_blob_write(writer, bytes, step, err) : status;
        done += step;
    }
    return status;
}

static enum lq_status take_bytes(void *user, const void *data, size_t size_bytes,
                                 struct lq_error *err)
{
    return lq_blob_write(user, data, size_bytes, err);
}

/* A part that is a concatenation itself is taken apart, so that a record never refers to a record
 * that refers: its inline pieces are copied, its parts are referred to. */
static enum lq_status write_joined(struct lq_blob_writer *writer, struct lq_blob_reader *reader,
                                   struct lq_error *err)
{
    struct lq_blob_part *parts = NULL;
    uint32_t count = 0;
    enum lq_status status = lq_blob_parts_get(reader, &parts, &count, err);
    unsigned char *bytes = malloc(LQ_CHUNK_BYTES);
    if (status == LQ_OK && bytes == NULL) {
        status = lq_error_nomem(err, "a part of a blob");
    }
    uint64_t offset = 0;
    for (uint32_t i = 0; i < count && status == LQ_OK; i++) {
        status = lq_digest_is_zero(&parts[i].digest)
                     ? copy_inline(writer, reader, offset, parts[i].size_bytes, bytes, err)
                     : lq_blob_write_blob(writer, &parts[i].digest, err);
        offset += parts[i].size_bytes;
    }
    free(bytes);
    free(parts);
    return status;
}

/* A file outside of the cache may go: its content is copied, not referred to. */
static enum lq_status copy_placed(struct lq_blob_writer *writer, const struct lq_digest *part,
                                  struct lq_blob_reader *reader, struct lq_error *err)
{
    bool intact = false;
    enum lq_status status = lq_blob_check(writer->cache, part, &intact, err);
    if (status == LQ_OK && !intact) {
        char hex[LQ_DIGEST_HEX_BYTES];
        status = lq_error_set(
            err, LQ_ECACHE, "cache folder %s: blob %s, a part of another, is missing; build again",
            writer->cache->dir, lq_digest_to_hex(part, hex));
    }
    return status == LQ_OK ? lq_blob_each(reader, take_bytes, writer, err) : status;
}

enum lq_status lq_blob_write_blob(struct lq_blob_writer *writer, const struct lq_digest *part,
                                  struct lq_error *err)
{
    enum lq_status status = lq_writer_usable(writer, err);
    if (status != LQ_OK) {
        return status;
    }
    struct lq_blob_reader *reader = NULL;
    /* A concatenation is checked as a whole before it is taken apart. */
    bool joined = lq_blob_is_joined(writer->cache, part);
    status = lq_blob_open(writer->cache, part, joined, &reader, err);
    bool placed = reader != NULL && lq_blob_is_placed(reader);
    if (status == LQ_OK && reader == NULL) {
        char hex[LQ_DIGEST_HEX_BYTES];
        status = lq_error_set(
            err, LQ_ECACHE, "cache folder %s: blob %s, a part of another, is missing; build again",
            writer->cache->dir, lq_digest_to_hex(part, hex));
    } else if (status == LQ_OK && joined) {
        status = write_joined(writer, reader, err);
    } else if (status == LQ_OK && placed && writer->land == NULL) {
        status = copy_placed(writer, part, reader, err);
    } else if (status == LQ_OK && lq_blob_size(reader) > 0) {
        status = lq_writer_settle(writer, err);
        status = status == LQ_OK ? hash_part(writer, part, reader, err) : status;
        if (status == LQ_OK) {
            status =
                add_part(writer, writer->land == NULL ? part : NULL, lq_blob_size(reader), err);
            writer->size_bytes += lq_blob_size(reader);
        }
    }
    lq_blob_close(reader);
    writer->failed = status != LQ_OK;
    return status;
}

/* ---- aborting, and all at once ---- */

void lq_blob_abort(struct lq_blob_writer *writer)
{
    if (writer == NULL) {
        return;
    }
    lq_writer_hash_end(writer);
    (void)lq_writer_flush_end(writer, NULL);
    (void)lq_writer_commit_wait(writer, NULL);
    if (writer->id != 0) {
        (void)lq_blob_sweep(writer->cache->store, writer->id, NULL);
    }
    free_writer(writer);
}

enum lq_status lq_blob_put(struct lq_cache *cache, const void *data, size_t size_bytes,
                           struct lq_digest *digest, struct lq_error *err)
{
    struct lq_blob_writer *writer = NULL;
    enum lq_status status = lq_blob_begin(cache, &writer, err);
    if (status != LQ_OK) {
        return status;
    }
    status = lq_blob_write(writer, data, size_bytes, err);
    if (status != LQ_OK) {
        lq_blob_abort(writer);
        return status;
    }
    return lq_blob_commit(writer, digest, NULL, err);
}
