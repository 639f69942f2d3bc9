#include "rules/model/forward_parts.h"

#include <stdlib.h>

#include "kernels/kernels.h"

struct embed_job {
    const struct lq_model_tensor *tensor;
    const void *data;
    const int32_t *tokens;
    size_t count;
    float *hidden;
    float scale;
    enum lq_status *status; /* one per tile */
};

enum { EMBED_ROWS = 64 };

static void embed_tile(void *user, size_t index)
{
    struct embed_job *job = user;
    size_t cols = (size_t)job->tensor->ne[0];
    size_t end = (index + 1) * EMBED_ROWS < job->count ? (index + 1) * EMBED_ROWS : job->count;
    for (size_t i = index * EMBED_ROWS; i < end && job->status[index] == LQ_OK; i++) {
        float *row = job->hidden + i * cols;
        job->status[index] =
            lq_model_tensor_rows(job->tensor, job->data, (uint64_t)job->tokens[i], 1, row, NULL);
        if (job->status[index] == LQ_OK && lq_kernels()->find_nonfinite(row, cols) != cols) {
            job->status[index] = LQ_EFAIL;
        }
        for (size_t j = 0; j < cols && job->scale != 1.0f; j++) {
            row[j] *= job->scale;
        }
    }
}

enum lq_status lq_forward_embed(struct lq_forward *forward, const int32_t *tokens, size_t count,
                                float *hidden, struct lq_error *err)
{
    static const char name[] = "token_embd.weight";
    struct embed_job job = {.tokens = tokens,
                            .count = count,
                            .hidden = hidden,
                            .scale = (float)forward->hparams.embedding_scale};
    const struct lq_weight_source *source = &forward->env.weights;
    enum lq_status status = source->get(source->user, name, &job.tensor, &job.data, err);
    if (status != LQ_OK) {
        return status;
    }
    if (job.tensor->ne[0] != forward->hparams.width ||
        job.tensor->ne[1] != forward->hparams.vocab_size) {
        return lq_error_set(err, LQ_EFORMAT, "the tensor '%s' does not have the model's shape",
                            name);
    }
    size_t tiles = (count + EMBED_ROWS - 1) / EMBED_ROWS;
    job.status = calloc(tiles + 1, sizeof *job.status);
    if (job.status == NULL) {
        return lq_error_nomem(err, "embeddings");
    }
    lq_pool_for(forward->env.pool, tiles, embed_tile, &job);
    for (size_t i = 0; status == LQ_OK && i < tiles; i++) {
        if (job.status[i] == LQ_EFAIL) {
            status = lq_error_set(err, forward->env.nonfinite_status,
                                  "the tensor '%s' holds NaN or infinity", name);
        } else if (job.status[i] != LQ_OK) {
            status = lq_model_tensor_rows(job.tensor, job.data, 0, 1, hidden, err);
        }
    }
    free(job.status);
    return status;
}
