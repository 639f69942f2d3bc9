#include "rules/model/forward_parts.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "rules/model/packing.h"

enum { DECODE_ELEMS = 64 * 1024 }; /* elements of a decoding task */

/* ---- weights ---- */

struct decode_job {
    const struct lq_model_tensor *tensor;
    const void *data;
    uint64_t rows;
    uint64_t tile_rows;
    float *out;
    const struct lq_device *arranger; /* NULL: values stay in their order */
    enum lq_status *status;           /* one per tile */
};

/* Rows of the tensor as floats at `out`, finite ones. */
static enum lq_status decode_rows(const struct decode_job *job, uint64_t row, uint64_t count,
                                  float *out)
{
    size_t elems = (size_t)(count * job->tensor->ne[0]);
    enum lq_status status = lq_model_tensor_rows(job->tensor, job->data, row, count, out, NULL);
    bool finite = status != LQ_OK || lq_kernels()->find_nonfinite(out, elems) == elems;
    return finite ? status : LQ_EFAIL;
}

static void decode_tile(void *user, size_t index)
{
    struct decode_job *job = user;
    uint64_t row = index * job->tile_rows;
    uint64_t count = job->rows - row < job->tile_rows ? job->rows - row : job->tile_rows;
    size_t cols = (size_t)job->tensor->ne[0];
    float *out = job->out + row * cols;
    if (job->arranger == NULL) {
        job->status[index] = decode_rows(job, row, count, out);
        return;
    }
    float *rows = malloc((size_t)count * cols * sizeof *rows);
    job->status[index] = rows == NULL ? LQ_ENOMEM : decode_rows(job, row, count, rows);
    if (job->status[index] == LQ_OK) {
        job->arranger->ops->arrange(job->arranger, rows, out, (size_t)count, cols);
    }
    free(rows);
}

static enum lq_status refuse_nonfinite(const struct lq_forward *forward,
                                       const struct lq_model_tensor *tensor, struct lq_error *err)
{
    return lq_error_set(err, forward->env.nonfinite_status,
                        "the tensor '%s' holds NaN or infinity; the model file is damaged "
                        "or was made from a damaged one",
                        tensor->name);
}

static enum lq_status decode_tensor(const struct lq_forward *forward,
                                    const struct lq_model_tensor *tensor, const void *data,
                                    bool arranged, float *out, struct lq_error *err)
{
    uint64_t rows = tensor->ne[1] * tensor->ne[2];
    struct decode_job job = {.tensor = tensor,
                             .data = data,
                             .rows = rows,
                             .out = out,
                             .arranger = arranged ? forward->device : NULL};
    uint64_t step = arranged ? forward->ops->arrange_rows : 1;
    job.tile_rows = DECODE_ELEMS / tensor->ne[0] / step * step;
    job.tile_rows = job.tile_rows == 0 ? step : job.tile_rows;
    size_t tiles = (size_t)((rows + job.tile_rows - 1) / job.tile_rows);
    job.status = calloc(tiles, sizeof *job.status);
    if (job.status == NULL) {
        return lq_error_nomem(err, "decoding weights");
    }
    lq_pool_for(forward->env.pool, tiles, decode_tile, &job);
    enum lq_status status = LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < tiles; i++) {
        if (job.status[i] == LQ_EFAIL) {
            status = refuse_nonfinite(forward, tensor, err);
        } else if (job.status[i] == LQ_ENOMEM) {
            status = lq_error_nomem(err, "decoding weights");
        } else if (job.status[i] != LQ_OK) {
            /* Once more, for the message. */
            uint64_t row = i * job.tile_rows;
            uint64_t count = rows - row < job.tile_rows ? rows - row : job.tile_rows;
            status = lq_model_tensor_rows(tensor, data, row, count, out + row * tensor->ne[0], err);
        }
    }
    free(job.status);
    return status;
}

enum lq_status lq_forward_decode(const struct lq_forward *forward,
                                 const struct lq_model_tensor *tensor, const void *data, float *out,
                                 struct lq_error *err)
{
    return decode_tensor(forward, tensor, data, false, out, err);
}

/* The tensor as it must be, and where its matrix `matrix` is. */
static enum lq_status find_matrix(struct lq_forward *forward, const char *name,
                                  const uint64_t shape[3], uint64_t matrix,
                                  struct lq_model_tensor *out, const void **data,
                                  struct lq_error *err)
{
    const struct lq_weight_source *source = &forward->env.weights;
    const struct lq_model_tensor *tensor = NULL;
    bool alone = shape[2] > 1 && source->get_matrix != NULL;
    enum lq_status status = alone
                                ? source->get_matrix(source->user, name, matrix, &tensor, data, err)
                                : source->get(source->user, name, &tensor, data, err);
    if (status != LQ_OK) {
        return status;
    }
    const uint64_t *ne = tensor->ne;
    if (ne[0] != shape[0] || ne[1] != shape[1] || ne[2] != shape[2] || ne[3] != 1) {
        return lq_error_set(err, LQ_EFORMAT,
                            "the tensor '%s' has %llu columns, %llu rows and %llu matrices, "
                            "expected %llu, %llu and %llu",
                            name, (unsigned long long)ne[0], (unsigned long long)ne[1],
                            (unsigned long long)(ne[2] * ne[3]), (unsigned long long)shape[0],
                            (unsigned long long)shape[1], (unsigned long long)shape[2]);
    }
    if (!alone) {
        *data = lq_model_tensor_matrix(tensor, *data, matrix);
    }
    forward->newest_rounds = tensor->packing != NULL && tensor->packing->rounds_inputs;
    *out = *tensor;
    out->ne[2] = 1;
    out->size_bytes /= shape[2];
    return LQ_OK;
}

/* Decoded here, and copied where the device has memory of its own. */
static enum lq_status load_floats(struct lq_forward *forward, const struct lq_model_tensor *tensor,
                                  const void *data, float *to, struct lq_error *err)
{
    size_t size_bytes = (size_t)(tensor->ne[0] * tensor->ne[1]) * sizeof(float);
    if (forward->ops->host_visible) {
        return lq_forward_decode(forward, tensor, data, to, err);
    }
    float *values = malloc(size_bytes);
    if (values == NULL) {
        return lq_error_nomem(err, "decoding weights");
    }
    enum lq_status status = lq_forward_decode(forward, tensor, data, values, err);
    if (status == LQ_OK) {
        forward->ops->upload(forward->device, to, values, size_bytes);
        status = lq_forward_check_device(forward, err);
    }
    free(values);
    return status;
}

/* True when the device can be given the bytes as they are in the file. */
static bool can_load(const struct lq_forward *forward, const struct lq_model_tensor *tensor)
{
    return forward->ops->load != NULL && !tensor->add_one && tensor->packing == NULL &&
           lq_kernels()->decode[tensor->dtype] != NULL &&
           lq_dtype_row_bytes(tensor->dtype, (size_t)tensor->ne[0]) * tensor->ne[1] ==
               tensor->size_bytes;
}

/* What is loaded next may be on the device already. For those who load it: a device takes the next
 * load of this size for it. */
static void claim(struct lq_forward *forward, const struct lq_model_tensor *tensor)
{
    const struct lq_weight_source *source = &forward->env.weights;
    struct lq_digest digest;
    if (forward->ops->claim != NULL && source->digest != NULL &&
        source->digest(source->user, tensor->name, &digest)) {
        forward->ops->claim(forward->device, digest.bytes);
    }
}

/* The same, where rows have another order than in the file: what was copied ahead is in that of the
 * file, so the device puts them in order, when they are decoded. */
static enum lq_status load_to_order(struct lq_forward *forward,
                                    const struct lq_model_tensor *tensor, const void *data,
                                    float *to, struct lq_error *err)
{
    const struct lq_device_ops *ops = forward->ops;
    size_t cols = (size_t)tensor->ne[0];
    size_t rows = (size_t)tensor->ne[1];
    bool finite = true;
    int32_t *order = malloc(rows * sizeof *order);
    float *values = lq_forward_take(forward, rows * cols, sizeof *values);
    int32_t *sources = lq_forward_take(forward, rows, sizeof *sources);
    enum lq_status status = order == NULL ? lq_error_nomem(err, "the rows of a tensor")
                                          : lq_forward_check_device(forward, err);
    if (status == LQ_OK) {
        for (size_t r = 0; r < rows; r++) {
            order[r] = (int32_t)lq_model_tensor_source_row(tensor, r);
        }
        ops->upload(forward->device, sources, order, rows * sizeof *order);
        ops->load(forward->device, tensor->dtype, data, rows, cols, values, &finite);
        ops->gather_rows(forward->device, values, sources, to, rows, cols);
        status = lq_forward_check_device(forward, err);
    }
    lq_forward_give(forward, sources);
    lq_forward_give(forward, values);
    free(order);
    return status == LQ_OK && !finite ? refuse_nonfinite(forward, tensor, err) : status;
}

/* Decoded by the device. */
static enum lq_status load_raw(struct lq_forward *forward, const struct lq_model_tensor *tensor,
                               const void *data, float *to, struct lq_error *err)
{
    size_t cols = (size_t)tensor->ne[0];
    size_t rows = (size_t)tensor->ne[1];
    size_t row_bytes = lq_dtype_row_bytes(tensor->dtype, cols);
    unsigned char *ordered = NULL;
    if (tensor->permute_heads != 0) {
        ordered = malloc(rows * row_bytes);
        if (ordered == NULL) {
            return lq_error_nomem(err, "the rows of a tensor");
        }
        for (size_t r = 0; r < rows; r++) {
            uint64_t from = lq_model_tensor_source_row(tensor, r);
            memcpy(ordered + r * row_bytes, (const unsigned char *)data + from * row_bytes,
                   row_bytes);
        }
        data = ordered;
    }
    bool finite = true;
    forward->ops->load(forward->device, tensor->dtype, data, rows, cols, to, &finite);
    free(ordered);
    enum lq_status status = lq_forward_check_device(forward, err);
    return status == LQ_OK && !finite ? refuse_nonfinite(forward, tensor, err) : status;
}

static enum lq_status load_matrix(struct lq_forward *forward, const char *name,
                                  const uint64_t shape[3], uint64_t matrix, float *to,
                                  struct lq_error *err)
{
    struct lq_model_tensor tensor;
    const void *data = NULL;
    enum lq_status status = find_matrix(forward, name, shape, matrix, &tensor, &data, err);
    if (status != LQ_OK) {
        return status;
    }
    if (!can_load(forward, &tensor)) {
        return load_floats(forward, &tensor, data, to, err);
    }
    if (shape[2] == 1) {
        claim(forward, &tensor);
    }
    return tensor.permute_heads != 0 && forward->ops->claim != NULL
               ? load_to_order(forward, &tensor, data, to, err)
               : load_raw(forward, &tensor, data, to, err);
}

enum lq_status lq_forward_load_matrix(struct lq_forward *forward, const char *name, uint64_t cols,
                                      uint64_t rows, uint64_t mats, uint64_t matrix, float *to,
                                      struct lq_error *err)
{
    /* Several devices read experts as their tokens want them, from a source that lends one. */
    static pthread_mutex_t reading = PTHREAD_MUTEX_INITIALIZER;
    const uint64_t shape[3] = {cols, rows, mats};
    (void)pthread_mutex_lock(&reading);
    enum lq_status status = load_matrix(forward, name, shape, matrix, to, err);
    (void)pthread_mutex_unlock(&reading);
    if (status != LQ_OK && status != LQ_ENOMEM && mats > 1) {
        (void)lq_error_prefix(err, "expert %llu", (unsigned long long)matrix);
    }
    return status;
}

enum lq_status lq_forward_load_weight(struct lq_forward *forward, const char *name, uint64_t cols,
                                      uint64_t rows, float *to, struct lq_error *err)
{
    return lq_forward_load_matrix(forward, name, cols, rows, 1, 0, to, err);
}

enum lq_status lq_forward_load_arranged(struct lq_forward *forward, const char *name, uint64_t cols,
                                        uint64_t rows, float *to, struct lq_error *err)
{
    const uint64_t shape[3] = {cols, rows, 1};
    struct lq_model_tensor tensor;
    const void *data = NULL;
    enum lq_status status = find_matrix(forward, name, shape, 0, &tensor, &data, err);
    return status == LQ_OK ? decode_tensor(forward, &tensor, data, true, to, err) : status;
}

bool lq_forward_is_arranged(const struct lq_forward *forward, enum lq_layer_weight weight)
{
    const struct lq_hparams *hparams = &forward->hparams;
    if (!forward->arranges || lq_layer_weight_is_expert(weight) ||
        lq_layer_weight_input(weight) == LQ_LAYER_INPUT_COUNT) {
        return false;
    }
    /* Parts of fused matrices must begin where the order does. */
    size_t step = forward->ops->arrange_rows;
    switch (weight) {
    case LQ_WEIGHT_ATTN_QKV:
    case LQ_WEIGHT_ATTN_Q:
    case LQ_WEIGHT_ATTN_K:
    case LQ_WEIGHT_ATTN_V:
        return !lq_hparams_has(hparams, LQ_WEIGHT_ATTN_QKV) ||
               (lq_forward_q_width(hparams) % step == 0 &&
                lq_forward_kv_width(hparams) % step == 0);
    case LQ_WEIGHT_FFN_GATE_UP:
    case LQ_WEIGHT_FFN_GATE:
    case LQ_WEIGHT_FFN_UP:
        return !lq_hparams_has(hparams, LQ_WEIGHT_FFN_GATE_UP) || hparams->ffn_width % step == 0;
    default:
        return true;
    }
}

/* ---- one layer ---- */

static enum lq_status load_layer_weight(struct lq_forward *forward, enum lq_layer_weight weight,
                                        struct lq_error *err)
{
    char name[LQ_WEIGHT_NAME_BYTES];
    uint64_t cols = 0;
    uint64_t rows = 0;
    lq_layer_weight_shape(&forward->hparams, weight, &cols, &rows);
    lq_layer_weight_path(forward->layer, weight, name);
    if (forward->weights[weight] == NULL) {
        forward->weights[weight] = lq_forward_take(forward, cols * rows, sizeof(float));
    }
    enum lq_status status = lq_forward_check_device(forward, err);
    if (status != LQ_OK) {
        return status;
    }
    float *to = forward->weights[weight];
    status = lq_forward_is_arranged(forward, weight)
                 ? lq_forward_load_arranged(forward, name, cols, rows, to, err)
                 : lq_forward_load_weight(forward, name, cols, rows, to, err);
    forward->rounds[weight] = forward->newest_rounds;
    return status;
}

/* The parts of fused weights, which are whole rows of them. */
static void point_into_fused(struct lq_forward *forward)
{
    const struct lq_hparams *hparams = &forward->hparams;
    size_t q = lq_forward_q_width(hparams);
    size_t kv = lq_forward_kv_width(hparams);
    float **weights = forward->weights;
    if (weights[LQ_WEIGHT_ATTN_QKV] != NULL) {
        bool rounds = forward->rounds[LQ_WEIGHT_ATTN_QKV];
        forward->rounds[LQ_WEIGHT_ATTN_Q] = rounds;
        forward->rounds[LQ_WEIGHT_ATTN_K] = rounds;
        forward->rounds[LQ_WEIGHT_ATTN_V] = rounds;
        weights[LQ_WEIGHT_ATTN_Q] = weights[LQ_WEIGHT_ATTN_QKV];
        weights[LQ_WEIGHT_ATTN_K] = weights[LQ_WEIGHT_ATTN_Q] + q * hparams->width;
        weights[LQ_WEIGHT_ATTN_V] = weights[LQ_WEIGHT_ATTN_K] + kv * hparams->width;
    }
    if (weights[LQ_WEIGHT_ATTN_QKV_BIAS] != NULL) {
        weights[LQ_WEIGHT_ATTN_Q_BIAS] = weights[LQ_WEIGHT_ATTN_QKV_BIAS];
        weights[LQ_WEIGHT_ATTN_K_BIAS] = weights[LQ_WEIGHT_ATTN_Q_BIAS] + q;
        weights[LQ_WEIGHT_ATTN_V_BIAS] = weights[LQ_WEIGHT_ATTN_K_BIAS] + kv;
    }
    if (weights[LQ_WEIGHT_FFN_GATE_UP] != NULL) {
        size_t elems = (size_t)hparams->ffn_width * hparams->width;
        forward->rounds[LQ_WEIGHT_FFN_GATE] = forward->rounds[LQ_WEIGHT_FFN_GATE_UP];
        forward->rounds[LQ_WEIGHT_FFN_UP] = forward->rounds[LQ_WEIGHT_FFN_GATE_UP];
        weights[LQ_WEIGHT_FFN_GATE] = weights[LQ_WEIGHT_FFN_GATE_UP];
        weights[LQ_WEIGHT_FFN_UP] = weights[LQ_WEIGHT_FFN_GATE_UP] + elems;
    }
}

void lq_forward_restart_sums(struct lq_forward *forward)
{
    const struct lq_hparams *hparams = &forward->hparams;
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        enum lq_layer_input input = (enum lq_layer_input)i;
        size_t count = lq_layer_input_cols(hparams, input) * lq_layer_input_mats(hparams, input);
        forward->ops->zero(forward->device, forward->sums[i], count * sizeof(double));
    }
}

enum lq_status lq_forward_load_layer(struct lq_forward *forward, uint32_t layer,
                                     struct lq_error *err)
{
    const struct lq_hparams *hparams = &forward->hparams;
    lq_forward_give_output(forward);
    forward->layer = layer;
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        enum lq_layer_weight weight = (enum lq_layer_weight)w;
        if (lq_hparams_has(hparams, weight) && !lq_layer_weight_is_expert(weight) &&
            lq_forward_stage_reads(forward->env.stage, weight)) {
            enum lq_status status = load_layer_weight(forward, weight, err);
            if (status != LQ_OK) {
                return status;
            }
        }
    }
    point_into_fused(forward);
    forward->has_layer = true;
    lq_forward_restart_sums(forward);
    forward->row_count = 0;
    lq_forward_reset_experts(forward);
    return lq_forward_check_device(forward, err);
}
