#include "rules/quality/continuation.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/reader.h"
#include "rules/quality/probe.h"

#define MAGIC 0x5443514cu /* "LQCT" */

int32_t *lq_continuation_written(const struct lq_continuation *texts, size_t index)
{
    return texts->tokens + index * texts->sequence + texts->prompt_counts[index];
}

size_t lq_continuation_written_count(const struct lq_continuation *texts, size_t index)
{
    const int32_t *tokens = lq_continuation_written(texts, index);
    size_t count = 0;
    while (count < texts->length && (count == 0 || tokens[count - 1] != texts->eos)) {
        count++;
    }
    return count;
}

double lq_continuation_mean_log_prob(const struct lq_continuation *texts, size_t index)
{
    size_t count = lq_continuation_written_count(texts, index);
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        sum += texts->log_probs[index * texts->length + i];
    }
    return sum / (double)count;
}

/* ---- memory and bytes ---- */

static enum lq_status get_memory(struct lq_continuation *texts, struct lq_error *err)
{
    texts->prompt_counts = calloc(texts->count, sizeof *texts->prompt_counts);
    texts->tokens = calloc((size_t)texts->count * texts->sequence, sizeof *texts->tokens);
    texts->log_probs = calloc((size_t)texts->count * texts->length, sizeof *texts->log_probs);
    return texts->prompt_counts == NULL || texts->tokens == NULL || texts->log_probs == NULL
               ? lq_error_nomem(err, "prompts")
               : LQ_OK;
}

void lq_continuation_fini(struct lq_continuation *texts)
{
    free(texts->prompt_counts);
    free(texts->tokens);
    free(texts->log_probs);
    *texts = (struct lq_continuation){0};
}

enum lq_status lq_continuation_init(struct lq_continuation *out, const struct lq_vocab *vocab,
                                    const struct lq_token_list *prompts, size_t count,
                                    uint32_t length, size_t first_number, struct lq_error *err)
{
    size_t longest = 0;
    *out = (struct lq_continuation){.count = (uint32_t)count,
                                    .length = length,
                                    .vocab_size = (uint32_t)lq_vocab_size(vocab),
                                    .eos = lq_vocab_eos(vocab)};
    for (size_t i = 0; i < count; i++) {
        if (prompts[i].count == 0) {
            return lq_error_set(err, LQ_ECALIBRATION,
                                "prompt %zu has no tokens; give every prompt some text",
                                first_number + i);
        }
        longest = prompts[i].count > longest ? prompts[i].count : longest;
    }
    if (longest + length > LQ_SEQUENCE_MAX) {
        return lq_error_set(err, LQ_ECALIBRATION, "a prompt has %zu tokens, the limit is %d",
                            longest, LQ_SEQUENCE_MAX - LQ_CONTINUATION_MAX);
    }
    out->sequence = (uint32_t)longest + length;
    enum lq_status status = get_memory(out, err);
    for (size_t i = 0; status == LQ_OK && i < count; i++) {
        out->prompt_counts[i] = (uint32_t)prompts[i].count;
        memcpy(out->tokens + i * out->sequence, prompts[i].ids,
               prompts[i].count * sizeof *prompts[i].ids);
    }
    return status;
}

void lq_continuation_format(const struct lq_continuation *texts, struct lq_buffer *out)
{
    lq_buffer_append_u32(out, MAGIC);
    lq_buffer_append_u32(out, texts->count);
    lq_buffer_append_u32(out, texts->length);
    lq_buffer_append_u32(out, texts->sequence);
    lq_buffer_append_u32(out, texts->vocab_size);
    lq_buffer_append_u32(out, (uint32_t)texts->eos);
    lq_buffer_append_u32(out, texts->settled);
    for (size_t i = 0; i < texts->count; i++) {
        lq_buffer_append_u32(out, texts->prompt_counts[i]);
        for (size_t k = 0; k < texts->sequence; k++) {
            lq_buffer_append_u32(out, (uint32_t)texts->tokens[i * texts->sequence + k]);
        }
        for (size_t k = 0; k < texts->length; k++) {
            uint64_t bits = 0;
            memcpy(&bits, &texts->log_probs[i * texts->length + k], sizeof bits);
            lq_buffer_append_u64(out, bits);
        }
    }
}

/* Everything in front of the texts. */
static enum lq_status parse_header(struct lq_reader *reader, struct lq_continuation *out,
                                   struct lq_error *err)
{
    uint32_t magic = lq_read_u32(reader);
    *out = (struct lq_continuation){.count = lq_read_u32(reader)};
    out->length = lq_read_u32(reader);
    out->sequence = lq_read_u32(reader);
    out->vocab_size = lq_read_u32(reader);
    out->eos = lq_read_i32(reader);
    uint32_t settled = lq_read_u32(reader);
    out->settled = settled == 1;
    bool fits = !reader->failed && magic == MAGIC && settled <= 1 && out->count > 0 &&
                out->count <= LQ_PROMPTS_MAX && out->length > 0 &&
                out->length <= LQ_CONTINUATION_MAX && out->sequence > out->length &&
                out->sequence <= LQ_SEQUENCE_MAX && out->vocab_size <= LQ_VOCAB_MAX;
    uint64_t text_bytes = 4 + (uint64_t)out->sequence * 4 + (uint64_t)out->length * 8;
    if (!fits || lq_reader_left(reader) != out->count * text_bytes) {
        return lq_error_set(err, LQ_EFORMAT,
                            "continuations: %llu bytes do not hold what they say they hold",
                            (unsigned long long)reader->size_bytes);
    }
    return LQ_OK;
}

enum lq_status lq_continuation_parse(struct lq_continuation *out, const void *data,
                                     uint64_t size_bytes, struct lq_error *err)
{
    struct lq_reader reader;
    lq_reader_init(&reader, data, size_bytes);
    enum lq_status status = parse_header(&reader, out, err);
    if (status == LQ_OK) {
        status = get_memory(out, err);
    }
    for (size_t i = 0; status == LQ_OK && i < out->count; i++) {
        uint32_t count = lq_read_u32(&reader);
        if (count == 0 || count > out->sequence - out->length) {
            return lq_error_set(err, LQ_EFORMAT,
                                "continuations: prompt %zu has %u tokens, expected 1 to %u", i + 1,
                                (unsigned)count, (unsigned)(out->sequence - out->length));
        }
        out->prompt_counts[i] = count;
        for (size_t k = 0; k < out->sequence; k++) {
            out->tokens[i * out->sequence + k] = lq_read_i32(&reader);
        }
        for (size_t k = 0; k < out->length; k++) {
            double log_prob = lq_read_f64(&reader);
            if (!isfinite(log_prob)) {
                return lq_error_set(err, LQ_EFORMAT,
                                    "continuations: a log-probability of prompt %zu is not finite",
                                    i + 1);
            }
            out->log_probs[i * out->length + k] = log_prob;
        }
    }
    return status;
}

/* ---- a model reads and writes ---- */

enum lq_status lq_pen_open(struct lq_pen *pen, struct lq_run *run, struct lq_model_reader *reader,
                           const struct lq_forward_run *forward_run,
                           const struct lq_continuation *texts, struct lq_error *err)
{
    size_t total = (size_t)texts->count * texts->length;
    struct lq_forward_env env =
        lq_forward_run_env(forward_run, lq_model_reader_weights(reader), LQ_EFAIL);
    *pen = (struct lq_pen){.run = run, .reader = reader};
    env.only_products = true;
    if (reader->hparams.vocab_size < texts->vocab_size) {
        return lq_error_set(
            err, LQ_EFORMAT,
            "the model has %u tokens in its vocabulary and the original's tokenizer "
            "%u: it cannot read the same text",
            (unsigned)reader->hparams.vocab_size, (unsigned)texts->vocab_size);
    }
    pen->probes = calloc(total, sizeof *pen->probes);
    pen->results = calloc(total, sizeof *pen->results);
    if (pen->probes == NULL || pen->results == NULL) {
        return lq_error_nomem(err, "continuations");
    }
    return lq_forward_create(&pen->forward, &reader->hparams, &env, texts->sequence, err);
}

void lq_pen_close(struct lq_pen *pen)
{
    lq_forward_destroy(pen->forward);
    free(pen->probes);
    free(pen->results);
}

static enum lq_status check_tokens(const struct lq_pen *pen, const struct lq_continuation *texts,
                                   struct lq_error *err)
{
    uint32_t vocab_size = pen->reader->hparams.vocab_size;
    for (size_t i = 0; i < (size_t)texts->count * texts->sequence; i++) {
        if (texts->tokens[i] < 0 || (uint32_t)texts->tokens[i] >= vocab_size) {
            return lq_error_set(err, LQ_EFORMAT,
                                "a continuation has token %d, and the model that reads it knows %u",
                                (int)texts->tokens[i], (unsigned)vocab_size);
        }
    }
    return LQ_OK;
}

enum lq_status lq_pen_read(struct lq_pen *pen, struct lq_continuation *texts, struct lq_error *err)
{
    size_t total = (size_t)texts->count * texts->length;
    enum lq_status status = check_tokens(pen, texts, err);
    for (size_t i = 0; i < total; i++) {
        size_t text = i / texts->length;
        size_t place = i % texts->length;
        pen->probes[i] = (struct lq_probe){
            .sample = text,
            .position = texts->prompt_counts[text] + (uint32_t)place - 1,
            .target = lq_continuation_written(texts, text)[place],
        };
    }
    if (status == LQ_OK) {
        status =
            lq_probe_run(pen->forward, &pen->reader->hparams, lq_run_pool(pen->run), texts->tokens,
                         texts->count, texts->sequence, pen->probes, total, pen->results, err);
    }
    for (size_t i = 0; status == LQ_OK && i < total; i++) {
        texts->log_probs[i] = pen->results[i].log_prob;
    }
    return status;
}

enum lq_status lq_pen_write(struct lq_pen *pen, struct lq_continuation *texts, struct lq_error *err)
{
    enum lq_status status = lq_pen_read(pen, texts, err);
    if (status != LQ_OK) {
        return status;
    }
    texts->settled = true;
    for (size_t i = 0; i < (size_t)texts->count * texts->length; i++) {
        int32_t *token = &lq_continuation_written(texts, i / texts->length)[i % texts->length];
        texts->settled = texts->settled && *token == pen->results[i].top;
        *token = pen->results[i].top;
    }
    return LQ_OK;
}
