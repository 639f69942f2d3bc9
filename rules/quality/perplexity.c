#include "rules/quality/perplexity.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/base/limits.h"

enum {
    CONTEXT_DEFAULT = 512, /* of llama.cpp's perplexity tool */
    BATCH_ROWS = 2048,     /* scored positions at a time; no bit of a result depends on it */
};

uint32_t lq_perplexity_context(uint32_t context_length, uint32_t asked)
{
    if (asked != 0) {
        return asked;
    }
    return context_length < CONTEXT_DEFAULT ? context_length : CONTEXT_DEFAULT;
}

/* ---- result ---- */

void lq_perplexity_put(const struct lq_perplexity *perplexity, struct lq_json_writer *writer)
{
    lq_json_put_number(writer, "ppl", perplexity->ppl);
    lq_json_put_number(writer, "plus_minus", perplexity->plus_minus);
    lq_json_put_number(writer, "nll", perplexity->nll);
    lq_json_put_int(writer, "tokens", (int64_t)perplexity->tokens);
    lq_json_put_int(writer, "chunks", (int64_t)perplexity->chunks);
    lq_json_put_int(writer, "context", (int64_t)perplexity->context);
}

void lq_perplexity_format(const struct lq_perplexity *perplexity, struct lq_buffer *out)
{
    struct lq_json_writer writer;
    lq_json_writer_init(&writer, out, false);
    lq_json_begin_object(&writer);
    lq_perplexity_put(perplexity, &writer);
    lq_json_end_object(&writer);
}

enum lq_status lq_perplexity_get(const struct lq_json_scope *scope, const cJSON *object,
                                 struct lq_perplexity *out, struct lq_error *err)
{
    int64_t tokens = 0;
    int64_t chunks = 0;
    int64_t context = 0;
    enum lq_status status = lq_json_get_number(scope, object, "ppl", &out->ppl, NULL, err);
    if (status == LQ_OK) {
        status = lq_json_get_number(scope, object, "plus_minus", &out->plus_minus, NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_number(scope, object, "nll", &out->nll, NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_int(scope, object, "tokens", 1, (int64_t)1 << 53, &tokens, NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_int(scope, object, "chunks", 1, LQ_SAMPLES_MAX, &chunks, NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_int(scope, object, "context", 1, LQ_SEQUENCE_MAX, &context, NULL, err);
    }
    out->tokens = (uint64_t)tokens;
    out->chunks = (uint32_t)chunks;
    out->context = (uint32_t)context;
    return status;
}

enum lq_status lq_perplexity_parse(const void *data, uint64_t size_bytes, struct lq_perplexity *out,
                                   struct lq_error *err)
{
    static const struct lq_json_scope scope = {"perplexity result", LQ_EFORMAT};
    cJSON *root = NULL;
    enum lq_status status =
        lq_json_parse(data, (size_t)size_bytes, scope.where, scope.status, &root, err);
    if (status == LQ_OK) {
        status = lq_perplexity_get(&scope, root, out, err);
    }
    cJSON_Delete(root);
    return status;
}

/* ---- measurement ---- */

uint32_t lq_perplexity_scored(uint32_t context)
{
    return context < 2 ? 0 : context - 1 - context / 2;
}

enum lq_status lq_perplexity_check(const struct lq_tokens *tokens, struct lq_error *err)
{
    if (tokens->sample_count < 2 || tokens->sequence_length < 4) {
        return lq_error_set(
            err, LQ_ECALIBRATION,
            "the text gives %u chunks of %u tokens, expected at least 2 chunks of at "
            "least 4; take a longer text or a smaller context",
            (unsigned)tokens->sample_count, (unsigned)tokens->sequence_length);
    }
    return LQ_OK;
}

size_t lq_perplexity_batch_samples(const struct lq_tokens *tokens)
{
    uint32_t scored = lq_perplexity_scored(tokens->sequence_length);
    size_t samples = scored >= BATCH_ROWS ? 1 : BATCH_ROWS / scored;
    return samples < tokens->sample_count ? samples : tokens->sample_count;
}

struct measurement {
    const struct lq_perplexity_source *source;
    struct lq_device_team team; /* of lanes */
    size_t scored;              /* positions of a sample that are scored */
    float *rows;                /* of one round: hidden states of scored positions, side by side */
    int32_t *targets;
    double *nll;
    double sum;
    double sum_squares;
    size_t first; /* sample of the round */
};

static enum lq_status score_batch(void *user, size_t lane, size_t first_sample, size_t samples,
                                  float *rows, struct lq_error *err)
{
    struct measurement *m = user;
    const struct lq_perplexity_source *source = m->source;
    size_t sequence = source->tokens->sequence_length;
    size_t at = (first_sample - m->first) * m->scored;
    for (size_t s = 0; s < samples; s++) {
        memcpy(m->targets + at + s * m->scored,
               source->tokens->tokens + (first_sample + s) * sequence + sequence / 2 + 1,
               m->scored * sizeof *m->targets);
    }
    return source->score(source->user, lane, first_sample * m->scored, samples * m->scored, rows,
                         m->targets + at, m->nll + at, err);
}

static enum lq_status score_round(struct measurement *m, size_t samples, struct lq_error *err)
{
    const struct lq_perplexity_source *source = m->source;
    size_t count = samples * m->scored;
    enum lq_status status = source->read(source->user, m->first, samples, m->rows, err);
    if (status == LQ_OK) {
        status = lq_device_team_run(&m->team, m->first, samples, m->rows, err);
    }
    for (size_t i = 0; status == LQ_OK && i < count; i++) {
        if (!isfinite(m->nll[i])) {
            return lq_error_set(
                err, LQ_EFAIL,
                "the model's logits are NaN or infinite in chunk %zu; its layers are not, so "
                "the output norm or the output matrix holds values that are too large",
                m->first + i / m->scored);
        }
        m->sum += m->nll[i];
        m->sum_squares += m->nll[i] * m->nll[i];
    }
    return status;
}

static enum lq_status measure_all(struct measurement *m, struct lq_error *err)
{
    const struct lq_perplexity_source *source = m->source;
    size_t samples = source->tokens->sample_count;
    size_t round = m->team.batch_samples * m->team.member_count;
    size_t rows = (round < samples ? round : samples) * m->scored;
    m->rows = calloc(rows, source->width * sizeof *m->rows);
    m->targets = calloc(rows, sizeof *m->targets);
    m->nll = calloc(rows, sizeof *m->nll);
    if (m->rows == NULL || m->targets == NULL || m->nll == NULL) {
        return lq_error_nomem(err, "hidden states");
    }
    enum lq_status status = LQ_OK;
    for (m->first = 0; status == LQ_OK && m->first < samples; m->first += round) {
        size_t count = samples - m->first < round ? samples - m->first : round;
        status = score_round(m, count, err);
        if (source->report != NULL) {
            uint64_t sequence = source->tokens->sequence_length;
            source->report(source->user, (m->first + count) * sequence, samples * sequence);
        }
    }
    return status;
}

enum lq_status lq_perplexity_measure(const struct lq_perplexity_source *source,
                                     struct lq_perplexity *out, struct lq_error *err)
{
    const struct lq_tokens *tokens = source->tokens;
    enum lq_status status = lq_perplexity_check(tokens, err);
    if (status != LQ_OK) {
        return status;
    }
    struct measurement m = {.source = source,
                            .scored = lq_perplexity_scored(tokens->sequence_length)};
    m.team = (struct lq_device_team){.pool = source->pool,
                                     .member_count = source->lanes == 0 ? 1 : source->lanes,
                                     .batch_samples = lq_perplexity_batch_samples(tokens),
                                     .sample_values = m.scored * source->width,
                                     .body = score_batch,
                                     .user = &m};
    status = measure_all(&m, err);
    free(m.rows);
    free(m.targets);
    free(m.nll);
    if (status != LQ_OK) {
        return status;
    }
    uint64_t count = (uint64_t)tokens->sample_count * m.scored;
    double mean = m.sum / (double)count;
    double variance = m.sum_squares / (double)count - mean * mean;
    out->nll = mean;
    out->ppl = exp(mean);
    out->plus_minus = variance > 0.0 ? out->ppl * sqrt(variance / (double)(count - 1)) : 0.0;
    out->tokens = count;
    out->chunks = tokens->sample_count;
    out->context = tokens->sequence_length;
    if (!isfinite(out->ppl)) {
        return lq_error_set(err, LQ_EFAIL, "the perplexity is beyond all bounds: mean nll %g",
                            mean);
    }
    return LQ_OK;
}
