#include "engine/base/buffer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void lq_buffer_init(struct lq_buffer *buffer)
{
    memset(buffer, 0, sizeof *buffer);
}

void lq_buffer_fini(struct lq_buffer *buffer)
{
    free(buffer->data);
    memset(buffer, 0, sizeof *buffer);
}

void lq_buffer_clear(struct lq_buffer *buffer)
{
    buffer->size_bytes = 0;
    buffer->failed = false;
    if (buffer->data != NULL) {
        buffer->data[0] = 0;
    }
}

static bool reserve(struct lq_buffer *buffer, size_t more)
{
    if (buffer->failed) {
        return false;
    }
    if (more >= SIZE_MAX - buffer->size_bytes) {
        buffer->failed = true;
        return false;
    }
    size_t need = buffer->size_bytes + more + 1;
    if (need <= buffer->capacity_bytes) {
        return true;
    }
    size_t capacity = buffer->capacity_bytes < 256 ? 256 : buffer->capacity_bytes;
    while (capacity < need) {
        capacity = capacity > SIZE_MAX / 2 ? need : capacity * 2;
    }
    unsigned char *data = realloc(buffer->data, capacity);
    if (data == NULL) {
        buffer->failed = true;
        return false;
    }
    buffer->data = data;
    buffer->capacity_bytes = capacity;
    return true;
}

void *lq_buffer_extend(struct lq_buffer *buffer, size_t size_bytes)
{
    if (!reserve(buffer, size_bytes)) {
        return NULL;
    }
    unsigned char *place = buffer->data + buffer->size_bytes;
    memset(place, 0, size_bytes + 1);
    buffer->size_bytes += size_bytes;
    return place;
}

void lq_buffer_append(struct lq_buffer *buffer, const void *data, size_t size_bytes)
{
    if (size_bytes != 0 && reserve(buffer, size_bytes)) {
        memcpy(buffer->data + buffer->size_bytes, data, size_bytes);
        buffer->size_bytes += size_bytes;
        buffer->data[buffer->size_bytes] = 0;
    }
}

void lq_buffer_append_string(struct lq_buffer *buffer, const char *text)
{
    lq_buffer_append(buffer, text, strlen(text));
}

void lq_buffer_append_char(struct lq_buffer *buffer, char c)
{
    lq_buffer_append(buffer, &c, 1);
}

void lq_buffer_printf(struct lq_buffer *buffer, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    va_list again;
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length < 0) {
        buffer->failed = true;
    } else if (reserve(buffer, (size_t)length)) {
        (void)vsnprintf((char *)buffer->data + buffer->size_bytes, (size_t)length + 1, format,
                        again);
        buffer->size_bytes += (size_t)length;
    }
    va_end(again);
}

static void append_le(struct lq_buffer *buffer, uint64_t value, size_t size_bytes)
{
    unsigned char bytes[8];
    for (size_t i = 0; i < size_bytes; i++) {
        bytes[i] = (unsigned char)(value >> (8 * i));
    }
    lq_buffer_append(buffer, bytes, size_bytes);
}

void lq_buffer_append_u8(struct lq_buffer *buffer, uint8_t value)
{
    append_le(buffer, value, 1);
}

void lq_buffer_append_u16(struct lq_buffer *buffer, uint16_t value)
{
    append_le(buffer, value, 2);
}

void lq_buffer_append_u32(struct lq_buffer *buffer, uint32_t value)
{
    append_le(buffer, value, 4);
}

void lq_buffer_append_u64(struct lq_buffer *buffer, uint64_t value)
{
    append_le(buffer, value, 8);
}

void lq_buffer_append_f32(struct lq_buffer *buffer, float value)
{
    uint32_t bits = 0;
    memcpy(&bits, &value, sizeof bits);
    append_le(buffer, bits, 4);
}

void lq_buffer_pad(struct lq_buffer *buffer, size_t alignment)
{
    size_t rest = buffer->size_bytes & (alignment - 1);
    if (rest != 0) {
        (void)lq_buffer_extend(buffer, alignment - rest);
    }
}

const char *lq_buffer_text(const struct lq_buffer *buffer)
{
    return buffer->data == NULL ? "" : (const char *)buffer->data;
}
