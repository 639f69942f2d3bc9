#include "rules/format/logits_file.h"

#include <math.h>
#include <string.h>

#include "engine/base/checked.h"
#include "engine/base/limits.h"
#include "engine/base/reader.h"
#include "kernels/device_rows.h"

static const char MAGIC[] = "_logits_";

enum { STEPS = 65535, ROW_HEADER_BYTES = 8 };

/* How far below the most likely token a row reaches. */
#define REACH 16.0f

uint64_t lq_logits_row_bytes(uint32_t vocab_size)
{
    return ROW_HEADER_BYTES + 4 * (((uint64_t)vocab_size + 1) / 2);
}

enum lq_status lq_logits_header_read(const void *data, uint64_t size_bytes, uint64_t file_bytes,
                                     const char *where, struct lq_logits_header *out,
                                     struct lq_error *err)
{
    struct lq_reader reader;
    lq_reader_init(&reader, data, size_bytes);
    const void *magic = lq_read_bytes(&reader, sizeof MAGIC - 1);
    if (magic == NULL || memcmp(magic, MAGIC, sizeof MAGIC - 1) != 0) {
        return lq_error_set(err, LQ_EFORMAT, "%s: this is no base logits file of llama-perplexity",
                            where);
    }
    struct lq_logits_header header = {.context = lq_read_u32(&reader),
                                      .vocab_size = lq_read_u32(&reader),
                                      .chunk_count = lq_read_u32(&reader)};
    if (reader.failed || header.context < 4 || header.context > LQ_SEQUENCE_MAX ||
        header.vocab_size == 0 || header.vocab_size > LQ_VOCAB_MAX || header.chunk_count == 0 ||
        header.chunk_count > LQ_SAMPLES_MAX) {
        return lq_error_set(err, LQ_EFORMAT,
                            "%s: says to have %u chunks of %u tokens from a vocabulary of %u, "
                            "expected at most %d, 4 to %d and at most %d",
                            where, (unsigned)header.chunk_count, (unsigned)header.context,
                            (unsigned)header.vocab_size, LQ_SAMPLES_MAX, LQ_SEQUENCE_MAX,
                            LQ_VOCAB_MAX);
    }
    /* The limits keep these below 2^42 and 2^41; only the whole may overflow. */
    uint64_t rows_bytes = 0;
    uint64_t expected = 0;
    header.tokens_bytes = (uint64_t)header.chunk_count * header.context * sizeof(int32_t);
    header.rows_offset = LQ_LOGITS_HEADER_BYTES + header.tokens_bytes;
    header.row_bytes = lq_logits_row_bytes(header.vocab_size);
    header.row_count = (uint64_t)header.chunk_count * (header.context - 1 - header.context / 2);
    if (!lq_mul_u64(header.row_bytes, header.row_count, &rows_bytes) ||
        !lq_add_u64(header.rows_offset, rows_bytes, &expected) || file_bytes < expected) {
        return lq_error_set(err, LQ_EFORMAT,
                            "%s: has %llu bytes, expected %llu for %u chunks of %u tokens; it is "
                            "truncated",
                            where, (unsigned long long)file_bytes, (unsigned long long)expected,
                            (unsigned)header.chunk_count, (unsigned)header.context);
    }
    *out = header;
    return LQ_OK;
}

void lq_logits_header_write(uint32_t context, uint32_t vocab_size, uint32_t chunk_count,
                            const int32_t *tokens, struct lq_buffer *out)
{
    lq_buffer_append_string(out, MAGIC);
    lq_buffer_append_u32(out, context);
    lq_buffer_append_u32(out, vocab_size);
    lq_buffer_append_u32(out, chunk_count);
    for (size_t i = 0; i < (size_t)chunk_count * context; i++) {
        lq_buffer_append_u32(out, (uint32_t)tokens[i]);
    }
}

static void store_u16(unsigned char *out, unsigned value)
{
    out[0] = (unsigned char)value;
    out[1] = (unsigned char)(value >> 8);
}

static void store_f32(unsigned char *out, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    store_u16(out, bits & 0xffff);
    store_u16(out + 2, bits >> 16);
}

void lq_logits_row_encode(const float *logits, uint32_t vocab_size, unsigned char *row)
{
    const struct lq_device_rows *rows = lq_device_rows();
    float max = rows->max(logits, vocab_size);
    float min = max;
    for (uint32_t i = 0; i < vocab_size; i++) {
        min = logits[i] < min ? logits[i] : min;
    }
    min = min > max - REACH ? min : max - REACH;
    double log_sum = log(rows->exp_sum(logits, vocab_size, max));
    float scale = (max - min) / (float)STEPS;
    store_f32(row, scale);
    store_f32(row + 4, (float)((double)min - (double)max - log_sum));
    memset(row + ROW_HEADER_BYTES, 0, (size_t)(lq_logits_row_bytes(vocab_size) - ROW_HEADER_BYTES));
    for (uint32_t i = 0; scale > 0.0f && i < vocab_size; i++) {
        float steps = logits[i] > min ? rintf((logits[i] - min) / scale) : 0.0f;
        unsigned value = steps < (float)STEPS ? (unsigned)steps : STEPS;
        store_u16(row + ROW_HEADER_BYTES + 2 * (size_t)i, value);
    }
}

enum lq_status lq_logits_row_decode(const unsigned char *row, uint32_t vocab_size, float *log_probs,
                                    struct lq_error *err)
{
    /* Rounding may lift a certain token a bit above probability 1. */
    const float most = 1e-3f;
    struct lq_reader reader;
    lq_reader_init(&reader, row, lq_logits_row_bytes(vocab_size));
    float scale = lq_read_f32(&reader);
    float base = lq_read_f32(&reader);
    if (!isfinite(scale) || !isfinite(base) || scale < 0.0f) {
        return lq_error_set(err, LQ_EFORMAT,
                            "a row of the base logits file has scale %g and base %g, expected "
                            "finite numbers, the first not negative",
                            (double)scale, (double)base);
    }
    for (uint32_t i = 0; i < vocab_size; i++) {
        log_probs[i] = base + scale * (float)lq_read_u16(&reader);
        if (!(log_probs[i] <= most)) {
            return lq_error_set(err, LQ_EFORMAT,
                                "a row of the base logits file gives token %u the logarithm of "
                                "probability %g, expected at most 0",
                                (unsigned)i, (double)log_probs[i]);
        }
    }
    return LQ_OK;
}
