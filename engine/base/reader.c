#include "engine/base/reader.h"

#include <string.h>

void lq_reader_init(struct lq_reader *reader, const void *data, uint64_t size_bytes)
{
    reader->data = data;
    reader->size_bytes = size_bytes;
    reader->offset = 0;
    reader->failed = false;
}

uint64_t lq_reader_left(const struct lq_reader *reader)
{
    return reader->size_bytes - reader->offset;
}

const void *lq_read_bytes(struct lq_reader *reader, uint64_t size_bytes)
{
    if (reader->failed || size_bytes > lq_reader_left(reader)) {
        reader->failed = true;
        return NULL;
    }
    /* An empty read of an empty input must not hand out NULL: that would look like a failure. */
    static const unsigned char nothing;
    const void *place = reader->data == NULL ? &nothing : reader->data + reader->offset;
    reader->offset += size_bytes;
    return place;
}

void lq_read_skip(struct lq_reader *reader, uint64_t size_bytes)
{
    (void)lq_read_bytes(reader, size_bytes);
}

void lq_read_align(struct lq_reader *reader, uint64_t alignment)
{
    uint64_t rest = reader->offset & (alignment - 1);
    if (rest != 0) {
        lq_read_skip(reader, alignment - rest);
    }
}

static uint64_t read_le(struct lq_reader *reader, uint64_t size_bytes)
{
    const unsigned char *bytes = lq_read_bytes(reader, size_bytes);
    uint64_t value = 0;
    if (bytes != NULL) {
        for (uint64_t i = 0; i < size_bytes; i++) {
            value |= (uint64_t)bytes[i] << (8 * i);
        }
    }
    return value;
}

uint8_t lq_read_u8(struct lq_reader *reader)
{
    return (uint8_t)read_le(reader, 1);
}

uint16_t lq_read_u16(struct lq_reader *reader)
{
    return (uint16_t)read_le(reader, 2);
}

uint32_t lq_read_u32(struct lq_reader *reader)
{
    return (uint32_t)read_le(reader, 4);
}

uint64_t lq_read_u64(struct lq_reader *reader)
{
    return read_le(reader, 8);
}

int32_t lq_read_i32(struct lq_reader *reader)
{
    return (int32_t)lq_read_u32(reader);
}

int64_t lq_read_i64(struct lq_reader *reader)
{
    return (int64_t)lq_read_u64(reader);
}

float lq_read_f32(struct lq_reader *reader)
{
    uint32_t bits = lq_read_u32(reader);
    float value = 0;
    memcpy(&value, &bits, sizeof value);
    return value;
}

double lq_read_f64(struct lq_reader *reader)
{
    uint64_t bits = lq_read_u64(reader);
    double value = 0;
    memcpy(&value, &bits, sizeof value);
    return value;
}
