#include "cache/actionresult.h"

#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/reader.h"

enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

/* ---- writing ---- */

static void append_varint(struct lq_buffer *out, uint64_t value)
{
    while (value >= 0x80) {
        lq_buffer_append_u8(out, (uint8_t)(value | 0x80));
        value >>= 7;
    }
    lq_buffer_append_u8(out, (uint8_t)value);
}

static size_t varint_bytes(uint64_t value)
{
    size_t count = 1;
    for (; value >= 0x80; value >>= 7) {
        count++;
    }
    return count;
}

static void append_bytes(struct lq_buffer *out, unsigned field, const void *data, size_t size_bytes)
{
    append_varint(out, field << 3 | WIRE_BYTES);
    append_varint(out, size_bytes);
    lq_buffer_append(out, data, size_bytes);
}

void lq_actionresult_add_file(struct lq_buffer *out, const char *path,
                              const struct lq_digest *digest, uint64_t size_bytes)
{
    char hex[LQ_DIGEST_HEX_BYTES];
    size_t path_bytes = strlen(path);
    size_t hex_bytes = sizeof hex - 1;
    /* proto3 leaves a zero out. */
    size_t digest_bytes = 2 + hex_bytes + (size_bytes == 0 ? 0 : 1 + varint_bytes(size_bytes));
    size_t file_bytes =
        1 + varint_bytes(path_bytes) + path_bytes + 1 + varint_bytes(digest_bytes) + digest_bytes;
    append_varint(out, 2 << 3 | WIRE_BYTES);
    append_varint(out, file_bytes);
    append_bytes(out, 1, path, path_bytes);
    append_varint(out, 2 << 3 | WIRE_BYTES);
    append_varint(out, digest_bytes);
    append_bytes(out, 1, lq_digest_to_hex(digest, hex), hex_bytes);
    if (size_bytes != 0) {
        append_varint(out, 2 << 3 | WIRE_VARINT);
        append_varint(out, size_bytes);
    }
}

void lq_actionresult_add_text(struct lq_buffer *out, int exit_code, const void *text,
                              size_t size_bytes)
{
    if (exit_code != 0) {
        append_varint(out, 4 << 3 | WIRE_VARINT);
        append_varint(out, (uint64_t)exit_code);
    }
    append_bytes(out, 5, text, size_bytes);
}

/* ---- reading ---- */

struct field {
    uint64_t number;
    unsigned wire;
    uint64_t value;            /* VARINT, FIXED */
    const unsigned char *data; /* BYTES */
    size_t size_bytes;
};

static uint64_t read_varint(struct lq_reader *reader)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte = lq_read_u8(reader);
        if (reader->failed || (shift == 63 && byte > 1)) {
            break;
        }
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            return value;
        }
    }
    reader->failed = true;
    return 0;
}

/* The next field; false at the end and when it is malformed (then the reader has failed). */
static bool read_field(struct lq_reader *reader, struct field *field)
{
    if (reader->failed || lq_reader_left(reader) == 0) {
        return false;
    }
    uint64_t tag = read_varint(reader);
    *field = (struct field){.number = tag >> 3, .wire = (unsigned)(tag & 7)};
    switch (field->wire) {
    case WIRE_VARINT:
        field->value = read_varint(reader);
        break;
    case WIRE_FIXED64:
        field->value = lq_read_u64(reader);
        break;
    case WIRE_FIXED32:
        field->value = lq_read_u32(reader);
        break;
    case WIRE_BYTES: {
        uint64_t size_bytes = read_varint(reader);
        field->data = lq_read_bytes(reader, size_bytes);
        field->size_bytes = (size_t)size_bytes;
        break;
    }
    default: /* groups are gone since proto3 */
        reader->failed = true;
        break;
    }
    if (field->number == 0 || field->number > 0x1fffffff) {
        reader->failed = true;
    }
    return !reader->failed;
}

/* An OutputFile is only looked at as far as its shape goes. */
static bool is_message(const struct field *file)
{
    struct lq_reader reader;
    struct field field;
    lq_reader_init(&reader, file->data, file->size_bytes);
    while (read_field(&reader, &field)) {
    }
    return !reader.failed;
}

bool lq_actionresult_decode(const void *data, size_t size_bytes, struct lq_actionresult *out,
                            const char **why)
{
    struct lq_reader reader;
    struct field field;
    *out = (struct lq_actionresult){.text = NULL};
    *why = NULL;
    lq_reader_init(&reader, data, size_bytes);
    while (*why == NULL && read_field(&reader, &field)) {
        if (field.number == 2 && field.wire == WIRE_BYTES) {
            out->file_count++;
            if (!is_message(&field)) {
                *why = "an output file is malformed";
            } else if (out->file_count > LQ_RESULT_FILES_MAX) {
                *why = "it names too many files";
            }
        } else if (field.number == 4 && field.wire == WIRE_VARINT) {
            out->exit_code = field.value;
        } else if (field.number == 5 && field.wire == WIRE_BYTES) {
            out->text = (const char *)field.data;
            out->text_bytes = field.size_bytes;
        } else if (field.number == 2 || field.number == 4 || field.number == 5) {
            *why = "a field has the wrong type";
        }
    }
    if (*why == NULL && reader.failed) {
        *why = "it is no protobuf message, or was cut off";
    }
    return *why == NULL;
}
