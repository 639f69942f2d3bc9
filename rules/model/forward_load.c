#include "rules/model/forward_parts.h"

#include <stdlib.h>

#include "kernels/kernels.h"

enum { DECODE_ELEMS = 64 * 1024 }; /* elements of a decoding task */

/* ---- weights ---- */

struct decode_job {
    const struct lq_model_tensor *tensor;
    const void *data;
    uint64_t rows;
    uint64_t tile_rows;
    float *out;
    enum lq_status *status; /* one per tile */
};

static void decode_tile(void *user, size_t index)
{
    struct decode_job *job = user;
    uint64_t row = index * job->tile_rows;
    uint64_t count = job->rows - row < job->tile_rows ? job->rows - row : job->tile_rows;
    size_t cols = (size_t)job->tensor->ne[0];
    float *out = job->out + row * cols;
    job->status[index] = lq_model_tensor_rows(job->tensor, job->data, row, count, out, NULL);
    size_t elems = (size_t)count * cols;
    if (job->status[index] == LQ_OK && lq_kernels()->find_nonfinite(out, elems) != elems) {
        job->status[index] = LQ_EFAIL;
    }
}

enum lq_status lq_forward_decode(const struct lq_forward *forward,
                                 const struct lq_model_tensor *tensor, const void *data, float *out,
                                 struct lq_error *err)
{
    uint64_t rows = tensor->ne[1];
    struct decode_job job = {.tensor = tensor, .data = data, .rows = rows, .out = out};
    job.tile_rows = tensor->ne[0] >= DECODE_ELEMS ? 1 : DECODE_ELEMS / tensor->ne[0];
    size_t tiles = (size_t)((rows + job.tile_rows - 1) / job.tile_rows);
    job.status = calloc(tiles, sizeof *job.status);
    if (job.status == NULL) {
        return lq_error_nomem(err, "decoding weights");
    }
    lq_pool_for(forward->env.pool, tiles, decode_tile, &job);
    enum lq_status status = LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < tiles; i++) {
        if (job.status[i] == LQ_EFAIL) {
            status =
                lq_error_set(err, forward->env.nonfinite_status,
                             "the tensor '%s' holds NaN or infinity; the model file is damaged "
                             "or was made from a damaged one",
                             tensor->name);
        } else if (job.status[i] != LQ_OK) {
            /* Once more, for the message. */
            status = lq_model_tensor_rows(tensor, data, i * job.tile_rows, 1, out, err);
        }
    }
    free(job.status);
    return status;
}

enum lq_status lq_forward_load_weight(struct lq_forward *forward, const char *name, uint64_t cols,
                                      uint64_t rows, float *to, struct lq_error *err)
{
    const struct lq_model_tensor *tensor = NULL;
    const void *data = NULL;
    const struct lq_weight_source *source = &forward->env.weights;
    enum lq_status status = source->get(source->user, name, &tensor, &data, err);
    if (status != LQ_OK) {
        return status;
    }
    if (tensor->ne[0] != cols || tensor->ne[1] != rows || tensor->ne[2] != 1 ||
        tensor->ne[3] != 1) {
        return lq_error_set(
            err, LQ_EFORMAT,
            "the tensor '%s' has %llu columns and %llu rows, expected %llu and %llu", name,
            (unsigned long long)tensor->ne[0], (unsigned long long)tensor->ne[1],
            (unsigned long long)cols, (unsigned long long)rows);
    }
    if (forward->ops->host_visible) {
        return lq_forward_decode(forward, tensor, data, to, err);
    }
    size_t size_bytes = (size_t)(cols * rows) * sizeof(float);
    float *staging = malloc(size_bytes);
    if (staging == NULL) {
        return lq_error_nomem(err, "decoding weights");
    }
    status = lq_forward_decode(forward, tensor, data, staging, err);
    if (status == LQ_OK) {
        forward->ops->upload(forward->device, to, staging, size_bytes);
        status = lq_forward_check_device(forward, err);
    }
    free(staging);
    return status;
}

/* ---- one layer ---- */

enum lq_status lq_forward_load_layer(struct lq_forward *forward, uint32_t layer,
                                     struct lq_error *err)
{
    lq_forward_give_output(forward);
    forward->layer = layer;
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        char name[LQ_WEIGHT_NAME_BYTES];
        uint64_t cols = 0;
        uint64_t rows = 0;
        lq_layer_weight_shape(&forward->hparams, (enum lq_layer_weight)w, &cols, &rows);
        lq_layer_weight_path(layer, (enum lq_layer_weight)w, name);
        if (forward->weights[w] == NULL) {
            forward->weights[w] = lq_forward_take(forward, cols * rows, sizeof(float));
        }
        enum lq_status status = lq_forward_check_device(forward, err);
        if (status == LQ_OK) {
            status = lq_forward_load_weight(forward, name, cols, rows, forward->weights[w], err);
        }
        if (status != LQ_OK) {
            return status;
        }
    }
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        size_t cols = lq_layer_input_cols(&forward->hparams, (enum lq_layer_input)i);
        forward->ops->zero(forward->device, forward->sums[i], cols * sizeof(double));
    }
    return lq_forward_check_device(forward, err);
}
