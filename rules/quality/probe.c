#include "rules/quality/probe.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/device_rows.h"

enum {
    TILE_ROWS_MIN = 16,
    TILE_BYTES_MAX = 32 * 1024 * 1024, /* of logits */
};

#define GROUP_BYTES_MAX ((uint64_t)1 << 30)

struct probing {
    struct lq_forward *forward;
    const struct lq_hparams *hparams;
    struct lq_pool *pool;
    const int32_t *tokens;
    uint32_t sequence;
    const struct lq_probe *probes;
    struct lq_probe_result *results;
    size_t tile_rows;
    float *hidden; /* of a group of samples */
    float *rows;   /* of a tile of probes */
    float *logits;
};

static enum lq_status pass_layers(struct probing *p, size_t first_sample, size_t samples,
                                  struct lq_error *err)
{
    size_t batch = lq_forward_batch_samples(p->forward);
    size_t sample_elems = (size_t)p->sequence * p->hparams->width;
    enum lq_status status = lq_forward_embed(p->forward, p->tokens + first_sample * p->sequence,
                                             samples * p->sequence, p->hidden, err);
    for (uint32_t layer = 0; status == LQ_OK && layer < p->hparams->layer_count; layer++) {
        status = lq_forward_load_layer(p->forward, layer, err);
        for (size_t s = 0; status == LQ_OK && s < samples; s += batch) {
            size_t count = samples - s < batch ? samples - s : batch;
            status = lq_forward_layer(p->forward, p->hidden + s * sample_elems, count, false, false,
                                      err);
        }
    }
    return status == LQ_OK ? lq_forward_load_output(p->forward, err) : status;
}

struct tile {
    const struct probing *probing;
    size_t first;
};

static void judge_row(void *user, size_t index)
{
    const struct tile *tile = user;
    const struct lq_device_rows *rows = lq_device_rows();
    size_t vocab = tile->probing->hparams->vocab_size;
    const float *logits = tile->probing->logits + index * vocab;
    struct lq_probe_result *result = &tile->probing->results[tile->first + index];
    float max = rows->max(logits, vocab);
    int32_t top = 0;
    while ((size_t)top + 1 < vocab && logits[top] != max) {
        top++;
    }
    result->top = top;
    result->log_prob = (double)logits[tile->probing->probes[tile->first + index].target] -
                       (double)max - log(rows->exp_sum(logits, vocab, max));
}

/* Probes [first, first + count), whose samples are those of the group from `first_sample` on. */
static enum lq_status judge(struct probing *p, size_t first, size_t count, size_t first_sample,
                            struct lq_error *err)
{
    size_t width = p->hparams->width;
    enum lq_status status = LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < count; i += p->tile_rows) {
        struct tile tile = {p, first + i};
        size_t rows = count - i < p->tile_rows ? count - i : p->tile_rows;
        for (size_t r = 0; r < rows; r++) {
            const struct lq_probe *probe = &p->probes[tile.first + r];
            size_t row = (probe->sample - first_sample) * p->sequence + probe->position;
            memcpy(p->rows + r * width, p->hidden + row * width, width * sizeof *p->rows);
        }
        status = lq_forward_logits(p->forward, p->rows, rows, p->logits, err);
        if (status == LQ_OK) {
            lq_pool_for(p->pool, rows, judge_row, &tile);
        }
        for (size_t r = 0; status == LQ_OK && r < rows; r++) {
            if (!isfinite(p->results[tile.first + r].log_prob)) {
                status = lq_error_set(
                    err, LQ_EFAIL,
                    "the model's logits are NaN or infinite in sequence %zu; its layers are "
                    "not, so the output norm or the output matrix holds values that are too "
                    "large",
                    p->probes[tile.first + r].sample);
            }
        }
    }
    return status;
}

static enum lq_status run_groups(struct probing *p, size_t sample_count, size_t probe_count,
                                 struct lq_error *err)
{
    size_t width = p->hparams->width;
    uint64_t sample_bytes = (uint64_t)p->sequence * width * sizeof *p->hidden;
    uint64_t group = GROUP_BYTES_MAX / sample_bytes;
    group = group == 0 ? 1 : group < sample_count ? group : sample_count;
    size_t rows = TILE_BYTES_MAX / (p->hparams->vocab_size * sizeof *p->logits);
    p->tile_rows = rows < TILE_ROWS_MIN ? TILE_ROWS_MIN : rows;
    p->tile_rows = p->tile_rows < probe_count ? p->tile_rows : probe_count;
    p->hidden = calloc((size_t)group, (size_t)sample_bytes);
    p->rows = calloc(p->tile_rows, width * sizeof *p->rows);
    p->logits = calloc(p->tile_rows, p->hparams->vocab_size * sizeof *p->logits);
    if (p->hidden == NULL || p->rows == NULL || p->logits == NULL) {
        return lq_error_nomem(err, "hidden states");
    }
    size_t first = 0;
    enum lq_status status = LQ_OK;
    for (size_t s = 0; status == LQ_OK && s < sample_count; s += (size_t)group) {
        size_t samples = sample_count - s < group ? sample_count - s : (size_t)group;
        size_t count = 0;
        while (first + count < probe_count && p->probes[first + count].sample < s + samples) {
            count++;
        }
        status = pass_layers(p, s, samples, err);
        if (status == LQ_OK) {
            status = judge(p, first, count, s, err);
        }
        first += count;
    }
    return status;
}

enum lq_status lq_probe_run(struct lq_forward *forward, const struct lq_hparams *hparams,
                            struct lq_pool *pool, const int32_t *tokens, size_t sample_count,
                            uint32_t sequence, const struct lq_probe *probes, size_t probe_count,
                            struct lq_probe_result *results, struct lq_error *err)
{
    struct probing probing = {.forward = forward,
                              .hparams = hparams,
                              .pool = pool,
                              .tokens = tokens,
                              .sequence = sequence,
                              .probes = probes,
                              .results = results};
    if (sample_count == 0 || probe_count == 0) {
        return LQ_OK;
    }
    enum lq_status status = run_groups(&probing, sample_count, probe_count, err);
    free(probing.hidden);
    free(probing.rows);
    free(probing.logits);
    return status;
}
