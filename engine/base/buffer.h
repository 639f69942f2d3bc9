/* A growing byte buffer on the heap, for text and files that are built in memory. Errors are
 * sticky: after a failed allocation appends do nothing and `failed` stays true, so a writer checks
 * once at the end. Thread rule: one thread at a time. The owner calls lq_buffer_fini. */
#ifndef LQ_BASE_BUFFER_H
#define LQ_BASE_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/compiler.h"

struct lq_buffer {
    unsigned char *data; /* always NUL-terminated behind `size_bytes` once anything was appended */
    size_t size_bytes;
    size_t capacity_bytes;
    bool failed;
};

void lq_buffer_init(struct lq_buffer *buffer);
void lq_buffer_fini(struct lq_buffer *buffer);
/* Empties it, keeps the memory, clears `failed`. */
void lq_buffer_clear(struct lq_buffer *buffer);
void lq_buffer_append(struct lq_buffer *buffer, const void *data, size_t size_bytes);
void lq_buffer_append_string(struct lq_buffer *buffer, const char *text);
void lq_buffer_append_char(struct lq_buffer *buffer, char c);
void lq_buffer_printf(struct lq_buffer *buffer, const char *format, ...) LQ_PRINTF(2, 3);
/* Little-endian numbers. */
void lq_buffer_append_u8(struct lq_buffer *buffer, uint8_t value);
void lq_buffer_append_u16(struct lq_buffer *buffer, uint16_t value);
void lq_buffer_append_u32(struct lq_buffer *buffer, uint32_t value);
void lq_buffer_append_u64(struct lq_buffer *buffer, uint64_t value);
void lq_buffer_append_f32(struct lq_buffer *buffer, float value);
/* Zero bytes until the size is a multiple of `alignment` (a power of two). */
void lq_buffer_pad(struct lq_buffer *buffer, size_t alignment);
/* Room for `size_bytes` more at the end, counted as appended and zeroed; NULL on failure. */
void *lq_buffer_extend(struct lq_buffer *buffer, size_t size_bytes);
/* The content as a C string; "" when empty. Borrowed until the next change. */
const char *lq_buffer_text(const struct lq_buffer *buffer);

#endif
