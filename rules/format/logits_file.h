/* llama-perplexity's base file (--save-all-logits, --kl-divergence-base): the tokens of a text and
 * what a model predicts at the scored positions of each chunk. Little-endian: "_logits_", u32
 * context, i32 vocabulary, i32 chunks, chunks x context i32 tokens, then for each of the
 * context - 1 - context / 2 scored positions of each chunk a row of 16-bit numbers: a float scale
 * and a float base (two numbers each), one number per token, and one more if those are odd. The
 * natural logarithm of a token's probability is base + scale * number; the base is at most 16 below
 * the most likely token, so whatever is less likely is as likely as that. Malformed input gives
 * LQ_EFORMAT. Thread rule: pure. Limits: LQ_SEQUENCE_MAX, LQ_VOCAB_MAX, LQ_SAMPLES_MAX. */
#ifndef LQ_RULES_FORMAT_LOGITS_FILE_H
#define LQ_RULES_FORMAT_LOGITS_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/buffer.h"
#include "engine/base/error.h"

enum { LQ_LOGITS_HEADER_BYTES = 20 };

struct lq_logits_header {
    uint32_t context;
    uint32_t vocab_size;
    uint32_t chunk_count;
    uint64_t tokens_bytes; /* behind the header */
    uint64_t rows_offset;
    uint64_t row_bytes;
    uint64_t row_count;
};

/* Reads the first LQ_LOGITS_HEADER_BYTES of a file that has `file_bytes`, and checks that all rows
 * are there. `where` names the file in messages. */
enum lq_status lq_logits_header_read(const void *data, uint64_t size_bytes, uint64_t file_bytes,
                                     const char *where, struct lq_logits_header *out,
                                     struct lq_error *err);
/* Appends header and tokens; chunks as they are in a token set. */
void lq_logits_header_write(uint32_t context, uint32_t vocab_size, uint32_t chunk_count,
                            const int32_t *tokens, struct lq_buffer *out);
uint64_t lq_logits_row_bytes(uint32_t vocab_size);
/* One row, of lq_logits_row_bytes bytes. */
void lq_logits_row_encode(const float *logits, uint32_t vocab_size, unsigned char *row);
/* Logarithms of probabilities. LQ_EFORMAT for a scale or base that is not finite, a negative scale,
 * or probabilities above 1. */
enum lq_status lq_logits_row_decode(const unsigned char *row, uint32_t vocab_size, float *log_probs,
                                    struct lq_error *err);

#endif
