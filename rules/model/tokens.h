/* Token sets: a text cut into samples of equal length, as the calibration rule writes them (its
 * output "main") and as the imatrix and perplexity steps read them. The bytes, little-endian: u32
 * magic "LQTK", u32 version 1, u32 sample_count, u32 sequence_length, u32 bos (0xffffffff: the
 * vocabulary adds none), u32 zero, then sample_count x sequence_length i32 token ids. The first
 * token of every sample has already been replaced by BOS where there is one. Thread rule: pure, per
 * object. Limits: LQ_SAMPLES_MAX, LQ_SEQUENCE_MAX, ids below LQ_VOCAB_MAX. */
#ifndef LQ_RULES_MODEL_TOKENS_H
#define LQ_RULES_MODEL_TOKENS_H

#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/buffer.h"
#include "engine/base/error.h"

#define LQ_TOKENS_MAGIC 0x4b54514cu
#define LQ_TOKENS_NO_BOS 0xffffffffu
enum { LQ_TOKENS_VERSION = 1, LQ_TOKENS_HEADER_BYTES = 24 };

struct lq_tokens {
    uint32_t sample_count;
    uint32_t sequence_length;
    uint32_t bos;          /* LQ_TOKENS_NO_BOS when the vocabulary adds none */
    const int32_t *tokens; /* sample_count x sequence_length */
};

/* Copies the ids into the arena. Malformed bytes, no sample, or an id that is negative or not below
 * `vocab_size` (0: not checked) give LQ_ECALIBRATION. `where` starts every message. */
enum lq_status lq_tokens_parse(const void *data, uint64_t size_bytes, const char *where,
                               uint64_t vocab_size, struct lq_arena *arena, struct lq_tokens *out,
                               struct lq_error *err);
/* Appends the bytes. Counts outside the limits or zero give LQ_ECALIBRATION. */
enum lq_status lq_tokens_format(const struct lq_tokens *tokens, struct lq_buffer *out,
                                struct lq_error *err);

#endif
