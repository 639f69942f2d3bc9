#include "cache/record.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/checked.h"
#include "engine/base/limits.h"
#include "engine/base/reader.h"

enum {
    action_version = 1,
    output_bytes_min = 2 + 1 + LQ_DIGEST_BYTES + 8 + 1,
    part_bytes = LQ_DIGEST_BYTES + 8,
    output_transient = 1,
};

/* ---- seals ---- */

/* The content of a small blob is left out: its own digest guards it, and asking whether a blob
 * exists must not cost a read of it. */
static size_t sealed_bytes(enum lq_record_kind kind, const void *payload, size_t payload_bytes)
{
    enum { SMALL_HEAD_BYTES = 1 + 8 };
    bool small = kind == LQ_RECORD_BLOB && payload_bytes > SMALL_HEAD_BYTES &&
                 *(const unsigned char *)payload == LQ_BLOB_SMALL;
    return small ? SMALL_HEAD_BYTES : payload_bytes;
}

/* Without memory of its own: a record that cannot be checked would count as altered. */
static void make_seal(enum lq_record_kind kind, const void *key, size_t key_bytes,
                      const void *payload, size_t payload_bytes, struct lq_digest *seal)
{
    unsigned char letter = (unsigned char)kind;
    const struct lq_digest_piece pieces[] = {
        {&letter, 1}, {key, key_bytes}, {payload, sealed_bytes(kind, payload, payload_bytes)}};
    lq_digest_of_pieces(pieces, sizeof pieces / sizeof pieces[0], seal);
}

void lq_record_seal(enum lq_record_kind kind, const void *key, size_t key_bytes,
                    struct lq_buffer *buffer)
{
    struct lq_digest seal;
    make_seal(kind, key, key_bytes, lq_buffer_text(buffer), buffer->size_bytes, &seal);
    lq_buffer_append(buffer, seal.bytes, LQ_SEAL_BYTES);
}

bool lq_record_unseal(enum lq_record_kind kind, const void *key, size_t key_bytes,
                      const void *record, size_t record_bytes, size_t *payload_bytes)
{
    struct lq_digest seal;
    if (record_bytes < LQ_SEAL_BYTES) {
        return false;
    }
    *payload_bytes = record_bytes - LQ_SEAL_BYTES;
    make_seal(kind, key, key_bytes, record, *payload_bytes, &seal);
    return memcmp(seal.bytes, (const unsigned char *)record + *payload_bytes, LQ_SEAL_BYTES) == 0;
}

/* ---- blobs ---- */

static void encode_place(const struct lq_blob_record *record, struct lq_buffer *out)
{
    lq_buffer_append_u64(out, record->sig.device);
    lq_buffer_append_u64(out, record->sig.inode);
    lq_buffer_append_u64(out, (uint64_t)record->sig.mtime_ns);
    lq_buffer_append_u64(out, (uint64_t)record->sig.ctime_ns);
    lq_buffer_append_u32(out, record->path_bytes);
    lq_buffer_append(out, record->path, record->path_bytes);
}

void lq_blob_record_encode(const struct lq_digest *digest, const struct lq_blob_record *record,
                           const struct lq_blob_part *parts, struct lq_buffer *out)
{
    lq_buffer_append_u8(out, (uint8_t)record->kind);
    lq_buffer_append_u64(out, record->size_bytes);
    if (record->kind == LQ_BLOB_SMALL) {
        lq_buffer_append(out, record->data, (size_t)record->size_bytes);
    } else if (record->kind == LQ_BLOB_PLACED) {
        encode_place(record, out);
    } else {
        lq_buffer_append_u64(out, record->id);
        lq_buffer_append_u64(out, record->stored_bytes);
        lq_buffer_append_u32(out, record->chunk_bytes);
    }
    if (record->kind == LQ_BLOB_JOINED) {
        lq_buffer_append_u32(out, record->part_count);
        for (uint32_t i = 0; i < record->part_count; i++) {
            lq_buffer_append(out, parts[i].digest.bytes, LQ_DIGEST_BYTES);
            lq_buffer_append_u64(out, parts[i].size_bytes);
        }
    }
    lq_record_seal(LQ_RECORD_BLOB, digest->bytes, LQ_DIGEST_BYTES, out);
}

void lq_blob_record_part(const struct lq_blob_record *record, uint32_t index,
                         struct lq_blob_part *part)
{
    struct lq_reader reader;
    lq_reader_init(&reader, (const unsigned char *)record->parts + (size_t)index * part_bytes,
                   part_bytes);
    memcpy(part->digest.bytes, lq_read_bytes(&reader, LQ_DIGEST_BYTES), LQ_DIGEST_BYTES);
    part->size_bytes = lq_read_u64(&reader);
}

enum lq_status lq_blob_record_parts(const struct lq_blob_record *record,
                                    struct lq_blob_part **parts, struct lq_error *err)
{
    *parts = NULL;
    if (record->part_count == 0) {
        return LQ_OK;
    }
    *parts = calloc(record->part_count, sizeof **parts);
    if (*parts == NULL) {
        return lq_error_nomem(err, "the parts of a blob");
    }
    for (uint32_t i = 0; i < record->part_count; i++) {
        lq_blob_record_part(record, i, &(*parts)[i]);
    }
    return LQ_OK;
}

size_t lq_blob_record_chunk(const struct lq_blob_record *record, uint32_t index)
{
    uint64_t before = (uint64_t)index * record->chunk_bytes;
    uint64_t left = record->stored_bytes > before ? record->stored_bytes - before : 0;
    return left < record->chunk_bytes ? (size_t)left : record->chunk_bytes;
}

/* The parts must add up: all of them to the size, the inline ones to what is stored. */
static const char *check_parts(const struct lq_blob_record *record)
{
    uint64_t size_bytes = 0;
    uint64_t inline_bytes = 0;
    for (uint32_t i = 0; i < record->part_count; i++) {
        struct lq_blob_part part;
        lq_blob_record_part(record, i, &part);
        if (!lq_add_u64(size_bytes, part.size_bytes, &size_bytes)) {
            return "its parts are larger than 2^64 bytes";
        }
        inline_bytes += lq_digest_is_zero(&part.digest) ? part.size_bytes : 0;
    }
    return size_bytes == record->size_bytes && inline_bytes == record->stored_bytes
               ? NULL
               : "its parts do not add up to its size";
}

static const char *decode_stored(struct lq_reader *reader, struct lq_blob_record *out)
{
    out->id = lq_read_u64(reader);
    out->stored_bytes = lq_read_u64(reader);
    out->chunk_bytes = lq_read_u32(reader);
    if (reader->failed) {
        return "it is truncated";
    }
    if (out->chunk_bytes == 0 || (out->id == 0) != (out->stored_bytes == 0)) {
        return "its chunks make no sense";
    }
    uint64_t count =
        out->stored_bytes / out->chunk_bytes + (out->stored_bytes % out->chunk_bytes != 0 ? 1 : 0);
    if (count > UINT32_MAX) {
        return "it has too many chunks";
    }
    out->chunk_count = (uint32_t)count;
    return NULL;
}

static const char *decode_place(struct lq_reader *reader, struct lq_blob_record *out)
{
    out->sig.device = lq_read_u64(reader);
    out->sig.inode = lq_read_u64(reader);
    out->sig.size_bytes = out->size_bytes;
    out->sig.mtime_ns = (int64_t)lq_read_u64(reader);
    out->sig.ctime_ns = (int64_t)lq_read_u64(reader);
    out->path_bytes = lq_read_u32(reader);
    if (!reader->failed && out->path_bytes > LQ_BLOB_PATH_BYTES_MAX) {
        return "the path in it is too long";
    }
    out->path = lq_read_bytes(reader, out->path_bytes);
    if (reader->failed || lq_reader_left(reader) != 0) {
        return "its length is wrong";
    }
    return out->path_bytes < 2 || out->path[0] != '/' ||
                   memchr(out->path, 0, out->path_bytes) != NULL
               ? "the path in it is none"
               : NULL;
}

static const char *decode_blob(struct lq_reader *reader, struct lq_blob_record *out)
{
    uint8_t kind = lq_read_u8(reader);
    out->size_bytes = lq_read_u64(reader);
    if (kind < LQ_BLOB_CHUNKS || kind > LQ_BLOB_PLACED) {
        return "its kind is unknown";
    }
    out->kind = (enum lq_blob_kind)kind;
    if (out->kind == LQ_BLOB_SMALL) {
        out->data = lq_read_bytes(reader, out->size_bytes);
        return reader->failed || lq_reader_left(reader) != 0 ? "its content has another size"
                                                             : NULL;
    }
    if (out->kind == LQ_BLOB_PLACED) {
        return decode_place(reader, out);
    }
    const char *why = decode_stored(reader, out);
    if (why == NULL && out->kind == LQ_BLOB_CHUNKS) {
        why =
            out->stored_bytes == out->size_bytes && out->size_bytes > 0 ? NULL : "its sizes differ";
    } else if (why == NULL) {
        out->part_count = lq_read_u32(reader);
        if (out->part_count > LQ_BLOB_PARTS_MAX) {
            return "it has too many parts";
        }
        out->parts = lq_read_bytes(reader, (uint64_t)out->part_count * part_bytes);
        why = reader->failed ? "it is truncated" : check_parts(out);
    }
    return why == NULL && (reader->failed || lq_reader_left(reader) != 0) ? "its length is wrong"
                                                                          : why;
}

bool lq_blob_record_decode(const struct lq_digest *digest, const void *bytes, size_t size_bytes,
                           struct lq_blob_record *out, const char **why)
{
    size_t payload_bytes = 0;
    memset(out, 0, sizeof *out);
    if (!lq_record_unseal(LQ_RECORD_BLOB, digest->bytes, LQ_DIGEST_BYTES, bytes, size_bytes,
                          &payload_bytes)) {
        *why = "it was altered";
        return false;
    }
    struct lq_reader reader;
    lq_reader_init(&reader, bytes, payload_bytes);
    *why = decode_blob(&reader, out);
    return *why == NULL;
}

/* ---- actions ---- */

static enum lq_status encode_text(struct lq_buffer *out, const char *text, const char *what,
                                  size_t max, struct lq_error *err)
{
    size_t length = text == NULL ? 0 : strlen(text);
    if (length > max) {
        return lq_error_set(err, LQ_EINTERNAL,
                            "cache: an action's %s has %zu bytes, expected at most %zu", what,
                            length, max);
    }
    lq_buffer_append_u32(out, (uint32_t)length);
    lq_buffer_append(out, text, length);
    return LQ_OK;
}

static enum lq_status encode_output(struct lq_buffer *out, const struct lq_action_output *output,
                                    struct lq_error *err)
{
    size_t length = output->name == NULL ? 0 : strlen(output->name);
    if (length == 0 || length > LQ_NAME_BYTES_MAX) {
        return lq_error_set(err, LQ_EINTERNAL,
                            "cache: the name of an output has %zu bytes, expected 1 to %d", length,
                            (int)LQ_NAME_BYTES_MAX);
    }
    lq_buffer_append_u16(out, (uint16_t)length);
    lq_buffer_append(out, output->name, length);
    lq_buffer_append(out, output->digest.bytes, LQ_DIGEST_BYTES);
    lq_buffer_append_u64(out, output->size_bytes);
    lq_buffer_append_u8(out, output->transient ? output_transient : 0);
    return LQ_OK;
}

enum lq_status lq_action_record_encode(const struct lq_digest *key,
                                       const struct lq_action_record *record, struct lq_buffer *out,
                                       struct lq_error *err)
{
    if (record->output_count > LQ_STEP_OUTPUTS_MAX) {
        return lq_error_set(err, LQ_EINTERNAL,
                            "cache: an action has %zu outputs, expected at most %d",
                            record->output_count, (int)LQ_STEP_OUTPUTS_MAX);
    }
    lq_buffer_append_u8(out, action_version);
    lq_buffer_append_u16(out, (uint16_t)lq_status_exit_code(record->verdict));
    enum lq_status status =
        encode_text(out, record->verdict_text, "verdict", LQ_VERDICT_BYTES_MAX, err);
    if (status == LQ_OK) {
        status = encode_text(out, record->numerics, "numerics", LQ_NAME_BYTES_MAX, err);
    }
    lq_buffer_append_u64(out, record->duration_us);
    lq_buffer_append_u64(out, record->step_count);
    lq_buffer_append_u16(out, (uint16_t)record->output_count);
    for (size_t i = 0; i < record->output_count && status == LQ_OK; i++) {
        status = encode_output(out, &record->outputs[i], err);
    }
    lq_record_seal(LQ_RECORD_ACTION, key->bytes, LQ_DIGEST_BYTES, out);
    return status == LQ_OK && out->failed ? lq_error_nomem(err, "an action record") : status;
}

/* Decoding collects the first reason in `why`; memory that ran out shows in `nomem`. */
struct decoding {
    struct lq_reader reader;
    struct lq_arena *arena;
    const char *why;
    bool nomem;
};

static const char *decode_text(struct decoding *d, uint64_t length, uint64_t min, uint64_t max)
{
    if (length < min || length > max) {
        d->why = "a text in it has a wrong length";
        return "";
    }
    const void *bytes = lq_read_bytes(&d->reader, length);
    if (d->reader.failed) {
        d->why = "it is truncated";
        return "";
    }
    if (length > 0 && memchr(bytes, 0, (size_t)length) != NULL) {
        d->why = "a text in it has a NUL byte";
        return "";
    }
    const char *text = lq_arena_dup(d->arena, length == 0 ? "" : bytes, (size_t)length);
    d->nomem = d->nomem || text == NULL;
    return text == NULL ? "" : text;
}

static bool decode_verdict(uint16_t exit_code, enum lq_status *out)
{
    for (int i = 0; i < LQ_STATUS_COUNT; i++) {
        if (lq_status_exit_code((enum lq_status)i) == exit_code) {
            *out = (enum lq_status)i;
            return true;
        }
    }
    return false;
}

static void decode_outputs(struct decoding *d, struct lq_action_record *out)
{
    size_t count = lq_read_u16(&d->reader);
    if (d->reader.failed || count > LQ_STEP_OUTPUTS_MAX ||
        lq_reader_left(&d->reader) < (uint64_t)count * output_bytes_min) {
        d->why = "it has a wrong number of outputs";
        return;
    }
    out->outputs = lq_arena_get_array(d->arena, count > 0 ? count : 1, sizeof *out->outputs);
    if (out->outputs == NULL) {
        d->nomem = true;
        return;
    }
    out->output_count = count;
    for (size_t i = 0; i < count && d->why == NULL && !d->nomem; i++) {
        struct lq_action_output *output = &out->outputs[i];
        output->name = decode_text(d, lq_read_u16(&d->reader), 1, LQ_NAME_BYTES_MAX);
        const void *digest = lq_read_bytes(&d->reader, LQ_DIGEST_BYTES);
        output->size_bytes = lq_read_u64(&d->reader);
        uint8_t flags = lq_read_u8(&d->reader);
        output->transient = flags == output_transient;
        if (d->reader.failed || flags > output_transient) {
            d->why = "an output in it is malformed";
        } else {
            memcpy(output->digest.bytes, digest, LQ_DIGEST_BYTES);
        }
    }
}

enum lq_status lq_action_record_decode(const struct lq_digest *key, const void *bytes,
                                       size_t size_bytes, struct lq_arena *arena,
                                       struct lq_action_record *out, const char **why,
                                       struct lq_error *err)
{
    size_t payload_bytes = 0;
    memset(out, 0, sizeof *out);
    *why = NULL;
    if (!lq_record_unseal(LQ_RECORD_ACTION, key->bytes, LQ_DIGEST_BYTES, bytes, size_bytes,
                          &payload_bytes)) {
        *why = "it was altered";
        return LQ_OK;
    }
    struct decoding d = {.arena = arena};
    lq_reader_init(&d.reader, bytes, payload_bytes);
    if (lq_read_u8(&d.reader) != action_version) {
        *why = "its version is unknown";
        return LQ_OK;
    }
    if (!decode_verdict(lq_read_u16(&d.reader), &out->verdict)) {
        *why = "its verdict is unknown";
        return LQ_OK;
    }
    out->verdict_text = decode_text(&d, lq_read_u32(&d.reader), 0, LQ_VERDICT_BYTES_MAX);
    out->numerics =
        d.why == NULL ? decode_text(&d, lq_read_u32(&d.reader), 0, LQ_NAME_BYTES_MAX) : "";
    if (d.why == NULL && !d.nomem) {
        out->duration_us = lq_read_u64(&d.reader);
        out->step_count = lq_read_u64(&d.reader);
        decode_outputs(&d, out);
    }
    if (d.why == NULL && !d.nomem && lq_reader_left(&d.reader) != 0) {
        d.why = "its length is wrong";
    }
    *why = d.why;
    return d.nomem ? lq_error_nomem(err, "an action record") : LQ_OK;
}
