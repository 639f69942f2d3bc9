#include "rules/quality/perplexity.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/base/limits.h"

/* Of llama.cpp's perplexity tool. */
enum { CONTEXT_DEFAULT = 512 };

/* Hidden states at a time. Longer texts go through the model in several groups of whole batches,
 * which does not change a bit of the result. */
#define GROUP_BYTES_MAX ((uint64_t)1 << 30)

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

struct measurement {
    struct lq_forward *forward;
    const struct lq_hparams *hparams;
    const struct lq_tokens *tokens;
    struct lq_perplexity_hooks hooks;
    uint64_t done; /* tokens x passes through a layer or the output */
    size_t batch;  /* samples of a batch */
    size_t scored; /* positions of a sample that are scored */
    size_t first;  /* the first of them */
    float *hidden; /* of a group */
    float *rows;   /* of one batch: hidden states of scored positions, side by side */
    int32_t *targets;
    double *nll;
    double sum;
    double sum_squares;
};

static void report_progress(struct measurement *m, size_t samples)
{
    m->done += (uint64_t)samples * m->tokens->sequence_length;
    if (m->hooks.report != NULL) {
        m->hooks.report(m->hooks.user, m->done / (m->hparams->layer_count + 1),
                        (uint64_t)m->tokens->sample_count * m->tokens->sequence_length);
    }
}

static enum lq_status pass_layers(struct measurement *m, size_t first_sample, size_t samples,
                                  struct lq_error *err)
{
    size_t sequence = m->tokens->sequence_length;
    size_t sample_elems = sequence * m->hparams->width;
    enum lq_status status =
        lq_forward_embed(m->forward, m->tokens->tokens + first_sample * sequence,
                         samples * sequence, m->hidden, err);
    for (uint32_t layer = 0; status == LQ_OK && layer < m->hparams->layer_count; layer++) {
        status = lq_forward_load_layer(m->forward, layer, err);
        for (size_t s = 0; status == LQ_OK && s < samples; s += m->batch) {
            size_t count = samples - s < m->batch ? samples - s : m->batch;
            float *hidden = m->hidden + s * sample_elems;
            status = lq_forward_layer(m->forward, hidden, count, false, false, err);
            if (status == LQ_OK && m->hooks.layer != NULL) {
                status = m->hooks.layer(m->hooks.user, layer, first_sample + s, count, hidden, err);
            }
            report_progress(m, count);
        }
    }
    return status;
}

static enum lq_status score_batch(struct measurement *m, const float *hidden, size_t first_sample,
                                  size_t samples, struct lq_error *err)
{
    size_t sequence = m->tokens->sequence_length;
    size_t width = m->hparams->width;
    for (size_t s = 0; s < samples; s++) {
        memcpy(m->rows + s * m->scored * width, hidden + (s * sequence + m->first) * width,
               m->scored * width * sizeof *m->rows);
        memcpy(m->targets + s * m->scored,
               m->tokens->tokens + (first_sample + s) * sequence + m->first + 1,
               m->scored * sizeof *m->targets);
    }
    size_t count = samples * m->scored;
    enum lq_status status =
        m->hooks.score == NULL
            ? lq_forward_score(m->forward, m->rows, m->targets, count, m->nll, err)
            : m->hooks.score(m->hooks.user, first_sample * m->scored, count, m->rows, m->targets,
                             m->nll, err);
    for (size_t i = 0; status == LQ_OK && i < count; i++) {
        if (!isfinite(m->nll[i])) {
            return lq_error_set(err, LQ_EFAIL,
                                "the model's logits are NaN or infinite in chunk %zu",
                                first_sample + i / m->scored);
        }
        m->sum += m->nll[i];
        m->sum_squares += m->nll[i] * m->nll[i];
    }
    return status;
}

static enum lq_status measure_group(struct measurement *m, size_t first_sample, size_t samples,
                                    struct lq_error *err)
{
    enum lq_status status = pass_layers(m, first_sample, samples, err);
    if (status == LQ_OK) {
        status = lq_forward_load_output(m->forward, err);
    }
    size_t sample_elems = (size_t)m->tokens->sequence_length * m->hparams->width;
    for (size_t s = 0; status == LQ_OK && s < samples; s += m->batch) {
        size_t count = samples - s < m->batch ? samples - s : m->batch;
        status = score_batch(m, m->hidden + s * sample_elems, first_sample + s, count, err);
        report_progress(m, count);
    }
    return status;
}

static uint64_t bytes_of_batch(const struct lq_hparams *hparams, size_t batch, uint32_t sequence)
{
    return (uint64_t)batch * sequence * hparams->width * sizeof(float);
}

static size_t samples_of_group(const struct measurement *m)
{
    uint64_t batches =
        GROUP_BYTES_MAX / bytes_of_batch(m->hparams, m->batch, m->tokens->sequence_length);
    uint64_t samples = (batches == 0 ? 1 : batches) * m->batch;
    return samples < m->tokens->sample_count ? (size_t)samples : m->tokens->sample_count;
}

static enum lq_status measure_all(struct measurement *m, struct lq_error *err)
{
    size_t group = samples_of_group(m);
    size_t width = m->hparams->width;
    size_t batch_rows = m->batch * m->scored;
    m->hidden = calloc(group * m->tokens->sequence_length, width * sizeof *m->hidden);
    m->rows = calloc(batch_rows, width * sizeof *m->rows);
    m->targets = calloc(batch_rows, sizeof *m->targets);
    m->nll = calloc(batch_rows, sizeof *m->nll);
    if (m->hidden == NULL || m->rows == NULL || m->targets == NULL || m->nll == NULL) {
        return lq_error_nomem(err, "hidden states; a shorter text needs less");
    }
    enum lq_status status = LQ_OK;
    for (size_t s = 0; status == LQ_OK && s < m->tokens->sample_count; s += group) {
        size_t left = m->tokens->sample_count - s;
        status = measure_group(m, s, left < group ? left : group, err);
    }
    return status;
}

uint32_t lq_perplexity_scored(uint32_t context)
{
    return context < 2 ? 0 : context - 1 - context / 2;
}

enum lq_status lq_perplexity_measure(struct lq_forward *forward, const struct lq_hparams *hparams,
                                     const struct lq_tokens *tokens,
                                     const struct lq_perplexity_hooks *hooks,
                                     struct lq_perplexity *out, struct lq_error *err)
{
    uint32_t context = tokens->sequence_length;
    if (tokens->sample_count < 2 || context < 4) {
        return lq_error_set(
            err, LQ_ECALIBRATION,
            "the text gives %u chunks of %u tokens, expected at least 2 chunks of at "
            "least 4; take a longer text or a smaller context",
            (unsigned)tokens->sample_count, (unsigned)context);
    }
    struct measurement m = {
        .forward = forward,
        .hparams = hparams,
        .tokens = tokens,
        .batch = lq_forward_batch_samples(forward),
        .scored = lq_perplexity_scored(context),
        .first = context / 2,
    };
    if (hooks != NULL) {
        m.hooks = *hooks;
    }
    enum lq_status status = measure_all(&m, err);
    free(m.hidden);
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
    out->context = context;
    if (!isfinite(out->ppl)) {
        return lq_error_set(err, LQ_EFAIL, "the perplexity is beyond all bounds: mean nll %g",
                            mean);
    }
    return LQ_OK;
}
