/* The bounded reader: the one way to take numbers and strings out of foreign bytes. It walks over
 * memory that the caller keeps alive, reads little-endian by value (never a cast), and its error is
 * sticky: after the first read beyond the end every read gives zero and `failed` stays true, so a
 * parser checks once per record. `offset` is where the reader stands, for messages. Thread rule:
 * one thread at a time. */
#ifndef LQ_BASE_READER_H
#define LQ_BASE_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct lq_reader {
    const unsigned char *data;
    uint64_t size_bytes;
    uint64_t offset;
    bool failed;
};

void lq_reader_init(struct lq_reader *reader, const void *data, uint64_t size_bytes);
uint64_t lq_reader_left(const struct lq_reader *reader);
uint8_t lq_read_u8(struct lq_reader *reader);
uint16_t lq_read_u16(struct lq_reader *reader);
uint32_t lq_read_u32(struct lq_reader *reader);
uint64_t lq_read_u64(struct lq_reader *reader);
int32_t lq_read_i32(struct lq_reader *reader);
int64_t lq_read_i64(struct lq_reader *reader);
float lq_read_f32(struct lq_reader *reader);
double lq_read_f64(struct lq_reader *reader);
/* The next `size_bytes` bytes, borrowed from the caller's memory; NULL when there are fewer. */
const void *lq_read_bytes(struct lq_reader *reader, uint64_t size_bytes);
void lq_read_skip(struct lq_reader *reader, uint64_t size_bytes);
/* Skips to the next multiple of `alignment` (a power of two). */
void lq_read_align(struct lq_reader *reader, uint64_t alignment);

#endif
