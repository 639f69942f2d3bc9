#include <stdlib.h>
#include <string.h>

#include "cache/cache_internal.h"
#include "cache/placed.h"

/* One run of bytes of a blob: all of a plain blob, or one part of a concatenation. */
struct piece {
    uint64_t offset; /* in the blob */
    uint64_t size_bytes;
    bool small;              /* inside the record of `digest` */
    struct lq_digest digest; /* of the part; zero for inline bytes */
    struct lq_blob_record chunks;
    uint64_t chunk_offset; /* where it begins in the chunks */
};

struct lq_blob_reader {
    struct lq_cache *cache;
    struct lq_digest digest;
    uint64_t size_bytes;
    uint64_t id;
    bool joined;
    struct lq_placed *placed; /* the content is a file's; NULL: it is here */
    struct piece *pieces;
    uint32_t piece_count;
};

/* Spans copied in one read transaction. */
enum { spans_max = 16 };

/* ---- opening ---- */

static void set_piece(struct piece *piece, const struct lq_digest *digest,
                      const struct lq_blob_record *record, uint64_t offset, uint64_t size_bytes)
{
    piece->offset = offset;
    piece->size_bytes = size_bytes;
    piece->small = record->kind == LQ_BLOB_SMALL;
    piece->digest = *digest;
    piece->chunks = *record;
    piece->chunks.parts = NULL;
    piece->chunks.data = NULL;
    piece->chunks.path = NULL;
}

static enum lq_status find_pieces(struct lq_txn *txn, struct lq_blob_reader *reader,
                                  const struct lq_blob_record *record, bool *found,
                                  struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    uint64_t offset = 0;
    uint64_t inline_offset = 0;
    for (uint32_t i = 0; i < record->part_count && status == LQ_OK && *found; i++) {
        struct lq_blob_part part;
        struct lq_blob_record inner = *record;
        struct piece *piece = &reader->pieces[i];
        lq_blob_record_part(record, i, &part);
        bool is_inline = lq_digest_is_zero(&part.digest);
        if (!is_inline) {
            status = lq_blob_find(reader->cache, txn, &part.digest, &inner, found, err);
            *found = *found && lq_blob_can_be_part(&inner) && inner.size_bytes == part.size_bytes;
        }
        if (status == LQ_OK && *found) {
            set_piece(piece, &part.digest, &inner, offset, part.size_bytes);
            piece->chunk_offset = is_inline ? inline_offset : 0;
            inline_offset += is_inline ? part.size_bytes : 0;
            offset += part.size_bytes;
        }
    }
    return status;
}

static enum lq_status fill_reader(struct lq_txn *txn, struct lq_blob_reader *reader, bool *found,
                                  struct lq_error *err)
{
    struct lq_blob_record record;
    enum lq_status status = lq_blob_find(reader->cache, txn, &reader->digest, &record, found, err);
    if (status != LQ_OK || !*found) {
        return status;
    }
    reader->size_bytes = record.size_bytes;
    reader->id = record.id;
    reader->joined = record.kind == LQ_BLOB_JOINED;
    reader->piece_count = reader->joined ? record.part_count : 1;
    reader->pieces =
        calloc(reader->piece_count > 0 ? reader->piece_count : 1, sizeof *reader->pieces);
    if (reader->pieces == NULL) {
        return lq_error_nomem(err, "a blob reader");
    }
    if (reader->joined) {
        return find_pieces(txn, reader, &record, found, err);
    }
    set_piece(&reader->pieces[0], &reader->digest, &record, 0, record.size_bytes);
    if (record.kind == LQ_BLOB_PLACED) {
        status = lq_placed_open(&record, &reader->placed, err);
        *found = reader->placed != NULL;
    }
    return status;
}

/* *out is NULL when the blob or one of its parts is missing. */
static enum lq_status open_reader(struct lq_cache *cache, const struct lq_digest *digest,
                                  struct lq_blob_reader **out, struct lq_error *err)
{
    *out = NULL;
    struct lq_bytes key = {digest->bytes, LQ_DIGEST_BYTES};
    enum lq_status status = LQ_OK;
    if (lq_store_has_later(cache->store, LQ_DB_BLOBS, &key, NULL, 0)) {
        status = lq_store_flush(cache->store, err);
    }
    struct lq_blob_reader *reader = calloc(1, sizeof *reader);
    if (reader == NULL) {
        return lq_error_nomem(err, "a blob reader");
    }
    reader->cache = cache;
    reader->digest = *digest;
    bool found = false;
    struct lq_txn txn;
    status = status == LQ_OK ? lq_store_read_begin(cache->store, &txn, err) : status;
    if (status == LQ_OK) {
        status = fill_reader(&txn, reader, &found, err);
        lq_store_read_end(&txn);
    }
    if (status != LQ_OK || !found) {
        lq_blob_close(reader);
        return status;
    }
    *out = reader;
    return LQ_OK;
}

bool lq_blob_is_joined(struct lq_cache *cache, const struct lq_digest *digest)
{
    struct lq_txn txn;
    struct lq_blob_record record;
    bool found = false;
    if (lq_store_read_begin(cache->store, &txn, NULL) != LQ_OK) {
        return false;
    }
    enum lq_status status = lq_blob_find(NULL, &txn, digest, &record, &found, NULL);
    bool joined = status == LQ_OK && found && record.kind == LQ_BLOB_JOINED;
    lq_store_read_end(&txn);
    return joined;
}

enum lq_status lq_blob_parts_get(const struct lq_blob_reader *reader, struct lq_blob_part **parts,
                                 uint32_t *count, struct lq_error *err)
{
    *count = 0;
    *parts = calloc(reader->piece_count > 0 ? reader->piece_count : 1, sizeof **parts);
    if (*parts == NULL) {
        return lq_error_nomem(err, "the parts of a blob");
    }
    *count = reader->piece_count;
    for (uint32_t i = 0; i < reader->piece_count; i++) {
        (*parts)[i].digest = reader->pieces[i].digest;
        (*parts)[i].size_bytes = reader->pieces[i].size_bytes;
    }
    return LQ_OK;
}

void lq_blob_close(struct lq_blob_reader *reader)
{
    if (reader != NULL) {
        lq_placed_close(reader->placed);
        free(reader->pieces);
        free(reader);
    }
}

bool lq_blob_is_placed(const struct lq_blob_reader *reader)
{
    return reader->placed != NULL;
}

uint64_t lq_blob_size(const struct lq_blob_reader *reader)
{
    return reader->size_bytes;
}

/* ---- reading ---- */

/* The last piece that begins at or before `offset`; offsets are below the size of the blob, and
 * empty pieces do not occur. */
static const struct piece *piece_at(const struct lq_blob_reader *reader, uint64_t offset)
{
    uint32_t low = 0;
    uint32_t high = reader->piece_count;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (reader->pieces[middle].offset <= offset) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return &reader->pieces[low];
}

struct span {
    const unsigned char *data; /* lives until the transaction ends; NULL: not there any more */
    size_t size_bytes;
};

static enum lq_status small_span(struct lq_txn *txn, const struct piece *piece, uint64_t skip,
                                 struct span *span, struct lq_error *err)
{
    struct lq_blob_record record;
    bool found = false;
    enum lq_status status = lq_blob_find(NULL, txn, &piece->digest, &record, &found, err);
    bool same = status == LQ_OK && found && record.kind == LQ_BLOB_SMALL &&
                record.size_bytes == piece->size_bytes;
    span->data = same ? record.data + skip : NULL;
    span->size_bytes = (size_t)(piece->size_bytes - skip);
    return status;
}

/* The bytes at `offset` that lie together in one chunk. */
static enum lq_status next_span(struct lq_txn *txn, const struct lq_blob_reader *reader,
                                uint64_t offset, struct span *span, struct lq_error *err)
{
    const struct piece *piece = piece_at(reader, offset);
    uint64_t skip = offset - piece->offset;
    if (piece->small) {
        return small_span(txn, piece, skip, span, err);
    }
    uint64_t at = piece->chunk_offset + skip;
    uint32_t index = (uint32_t)(at / piece->chunks.chunk_bytes);
    size_t inside = (size_t)(at % piece->chunks.chunk_bytes);
    size_t chunk_bytes = lq_blob_record_chunk(&piece->chunks, index);
    unsigned char raw[LQ_CHUNK_KEY_BYTES];
    lq_chunk_key(piece->chunks.id, index, raw);
    struct lq_bytes key = {raw, sizeof raw};
    struct lq_bytes value;
    bool found = false;
    enum lq_status status = lq_txn_get(txn, LQ_DB_CHUNKS, &key, &value, &found, err);
    bool same = status == LQ_OK && found && value.size_bytes == chunk_bytes;
    uint64_t left = piece->size_bytes - skip;
    span->data = same ? (const unsigned char *)value.data + inside : NULL;
    span->size_bytes = chunk_bytes - inside;
    span->size_bytes = left < span->size_bytes ? (size_t)left : span->size_bytes;
    return status;
}

/* Large content is mostly read once: its pages leave the process's memory, not the system's, so
 * that what a build needs does not grow with the cache. Within the transaction of the span. */
static void release_span(const struct span *span, size_t size_bytes)
{
    enum { RELEASE_BYTES_MIN = 64 * 1024 };
    if (size_bytes >= RELEASE_BYTES_MIN) {
        lq_pages_release(span->data, size_bytes);
    }
}

static enum lq_status removed_error(const struct lq_blob_reader *reader, struct lq_error *err)
{
    char hex[LQ_DIGEST_HEX_BYTES];
    return lq_error_set(err, LQ_ECACHE,
                        "cache folder %s: blob %s was removed while it was read; build again",
                        reader->cache->dir, lq_digest_to_hex(&reader->digest, hex));
}

static enum lq_status read_some(struct lq_blob_reader *reader, uint64_t offset, unsigned char *out,
                                size_t size_bytes, size_t *done, struct lq_error *err)
{
    struct lq_txn txn;
    enum lq_status status = lq_store_read_begin(reader->cache->store, &txn, err);
    if (status != LQ_OK) {
        return status;
    }
    for (int i = 0; i < spans_max && *done < size_bytes && status == LQ_OK; i++) {
        struct span span;
        status = next_span(&txn, reader, offset + *done, &span, err);
        if (status == LQ_OK && span.data == NULL) {
            status = removed_error(reader, err);
        } else if (status == LQ_OK) {
            size_t left = size_bytes - *done;
            size_t step = span.size_bytes < left ? span.size_bytes : left;
            memcpy(out + *done, span.data, step);
            release_span(&span, step);
            *done += step;
        }
    }
    lq_store_read_end(&txn);
    return status;
}

static enum lq_status check_range(const struct lq_blob_reader *reader, uint64_t offset,
                                  uint64_t size_bytes, struct lq_error *err)
{
    char hex[LQ_DIGEST_HEX_BYTES];
    if (offset <= reader->size_bytes && size_bytes <= reader->size_bytes - offset) {
        return LQ_OK;
    }
    return lq_error_set(err, LQ_ECACHE,
                        "cache folder %s: blob %s has %llu bytes, but %llu bytes at offset %llu "
                        "were asked for",
                        reader->cache->dir, lq_digest_to_hex(&reader->digest, hex),
                        (unsigned long long)reader->size_bytes, (unsigned long long)size_bytes,
                        (unsigned long long)offset);
}

enum lq_status lq_blob_read(struct lq_blob_reader *reader, uint64_t offset, void *out,
                            size_t size_bytes, struct lq_error *err)
{
    enum lq_status status = check_range(reader, offset, size_bytes, err);
    if (status == LQ_OK && reader->placed != NULL) {
        return lq_placed_read(reader->placed, offset, out, size_bytes, err);
    }
    for (size_t done = 0; done < size_bytes && status == LQ_OK;) {
        status = read_some(reader, offset, out, size_bytes, &done, err);
    }
    return status;
}

/* Pieces of a file are copied: what is mapped would end the process when the file is cut. */
static enum lq_status each_of_file(struct lq_blob_reader *reader, lq_blob_take take, void *user,
                                   struct lq_error *err)
{
    unsigned char *bytes = malloc(LQ_CHUNK_BYTES);
    enum lq_status status = bytes == NULL ? lq_error_nomem(err, "a blob reader") : LQ_OK;
    for (uint64_t offset = 0; offset < reader->size_bytes && status == LQ_OK;) {
        uint64_t left = reader->size_bytes - offset;
        size_t step = left < LQ_CHUNK_BYTES ? (size_t)left : LQ_CHUNK_BYTES;
        status = lq_placed_read(reader->placed, offset, bytes, step, err);
        status = status == LQ_OK ? take(user, bytes, step, err) : status;
        offset += step;
    }
    free(bytes);
    return status;
}

enum lq_status lq_blob_each(struct lq_blob_reader *reader, lq_blob_take take, void *user,
                            struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    if (reader->placed != NULL) {
        return each_of_file(reader, take, user, err);
    }
    for (uint64_t offset = 0; offset < reader->size_bytes && status == LQ_OK;) {
        struct lq_txn txn;
        struct span span = {.data = NULL};
        status = lq_store_read_begin(reader->cache->store, &txn, err);
        if (status != LQ_OK) {
            break;
        }
        status = next_span(&txn, reader, offset, &span, err);
        if (status == LQ_OK && span.data == NULL) {
            status = removed_error(reader, err);
        }
        if (status == LQ_OK) {
            status = take(user, span.data, span.size_bytes, err);
            release_span(&span, span.size_bytes);
            offset += span.size_bytes;
        }
        lq_store_read_end(&txn);
    }
    return status;
}

/* ---- checking ---- */

static enum lq_status hash_span(void *user, const void *data, size_t size_bytes,
                                struct lq_error *err)
{
    (void)err;
    lq_hasher_update(user, data, size_bytes);
    return LQ_OK;
}

/* A file that changes or cannot be read is not whole. */
static enum lq_status hash_file(struct lq_blob_reader *reader, struct lq_hasher *hasher,
                                bool *whole, struct lq_error *err)
{
    enum lq_status status = each_of_file(reader, hash_span, hasher, err);
    *whole = status == LQ_OK;
    return status == LQ_ECACHE ? LQ_OK : status;
}

/* Hashes the content where it lies, one span a transaction. *whole is false when bytes are
 * missing. */
static enum lq_status hash_content(struct lq_blob_reader *reader, struct lq_digest *digest,
                                   bool *whole, struct lq_error *err)
{
    struct lq_hasher *hasher = lq_hasher_create();
    if (hasher == NULL) {
        return lq_error_nomem(err, "a blob check");
    }
    enum lq_status status = LQ_OK;
    *whole = true;
    if (reader->placed != NULL) {
        status = hash_file(reader, hasher, whole, err);
    }
    for (uint64_t offset = 0;
         offset < reader->size_bytes && reader->placed == NULL && *whole && status == LQ_OK;) {
        struct lq_txn txn;
        struct span span;
        status = lq_store_read_begin(reader->cache->store, &txn, err);
        if (status != LQ_OK) {
            break;
        }
        status = next_span(&txn, reader, offset, &span, err);
        *whole = status == LQ_OK && span.data != NULL;
        if (*whole) {
            lq_hasher_update(hasher, span.data, span.size_bytes);
            release_span(&span, span.size_bytes);
            offset += span.size_bytes;
        }
        lq_store_read_end(&txn);
    }
    lq_hasher_finish(hasher, digest);
    lq_hasher_destroy(hasher);
    return status;
}

struct removal {
    const struct lq_blob_reader *reader;
    uint64_t garbage_id;
    bool removed;
};

/* Removes what was read, not what somebody else has put in its place meanwhile. */
static enum lq_status remove_change(struct lq_txn *txn, void *user, struct lq_error *err)
{
    struct removal *removal = user;
    struct lq_blob_record record;
    bool found = false;
    removal->garbage_id = 0;
    removal->removed = false;
    enum lq_status status = lq_blob_find(NULL, txn, &removal->reader->digest, &record, &found, err);
    bool same =
        found && record.id == removal->reader->id &&
        (removal->reader->placed == NULL ? record.kind != LQ_BLOB_PLACED
                                         : lq_placed_is_of(removal->reader->placed, &record));
    if (status != LQ_OK || !same) {
        return status;
    }
    removal->removed = true;
    return lq_blob_forget(txn, &removal->reader->digest, &record, &removal->garbage_id, err);
}

static enum lq_status remove_wrong(struct lq_blob_reader *reader, struct lq_error *err)
{
    struct removal removal = {.reader = reader};
    struct lq_store *store = reader->cache->store;
    char hex[LQ_DIGEST_HEX_BYTES];
    enum lq_status status = lq_store_write(store, 0, 64 * 1024, remove_change, &removal, err);
    if (status == LQ_OK && removal.garbage_id != 0) {
        status = lq_blob_sweep(store, removal.garbage_id, err);
    }
    if (status == LQ_OK && removal.removed) {
        lq_cache_warn(reader->cache,
                      "blob %.12s does not match its digest; it is removed and will be built again",
                      lq_digest_to_hex(&reader->digest, hex));
    }
    return status;
}

static enum lq_status check_reader(struct lq_blob_reader *reader, bool *intact,
                                   struct lq_error *err)
{
    struct lq_digest digest;
    enum lq_status status = hash_content(reader, &digest, intact, err);
    *intact = *intact && status == LQ_OK && lq_digest_equal(&digest, &reader->digest);
    if (status != LQ_OK || *intact) {
        return status;
    }
    for (uint32_t i = 0; i < reader->piece_count && reader->joined && status == LQ_OK; i++) {
        bool part_intact = false;
        if (!lq_digest_is_zero(&reader->pieces[i].digest)) {
            status = lq_blob_check(reader->cache, &reader->pieces[i].digest, &part_intact, err);
        }
    }
    return status == LQ_OK ? remove_wrong(reader, err) : status;
}

enum lq_status lq_blob_check(struct lq_cache *cache, const struct lq_digest *digest, bool *intact,
                             struct lq_error *err)
{
    struct lq_blob_reader *reader = NULL;
    *intact = false;
    enum lq_status status = open_reader(cache, digest, &reader, err);
    if (status == LQ_OK && reader != NULL) {
        status = check_reader(reader, intact, err);
    }
    lq_blob_close(reader);
    return status;
}

enum lq_status lq_blob_open(struct lq_cache *cache, const struct lq_digest *digest, bool verify,
                            struct lq_blob_reader **out, struct lq_error *err)
{
    bool intact = true;
    struct lq_blob_reader *reader = NULL;
    *out = NULL;
    lq_marks_add(cache->marks, digest);
    enum lq_status status = open_reader(cache, digest, &reader, err);
    if (status == LQ_OK && reader == NULL) {
        char hex[LQ_DIGEST_HEX_BYTES];
        lq_cache_warn(cache, "blob %.12s is missing; it will be built again",
                      lq_digest_to_hex(digest, hex));
        return LQ_OK;
    }
    if (status == LQ_OK && verify) {
        status = check_reader(reader, &intact, err);
    }
    if (status != LQ_OK || !intact) {
        lq_blob_close(reader);
        return status;
    }
    *out = reader;
    return LQ_OK;
}
