#include "rules/model/forward.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/checked.h"
#include "engine/base/limits.h"
#include "kernels/kernels.h"

/* Tokens of a batch, elements of a decoding task, and bytes of logits at a time. Constants, because
 * batches decide the shape of matrix products and so the last bits of results. */
enum {
    BATCH_ROWS = 2048,
    DECODE_ELEMS = 64 * 1024,
    LOGIT_BYTES_MAX = 64 * 1024 * 1024,
    LOGIT_ROWS_MIN = 16,
};

struct lq_forward {
    struct lq_hparams hparams;
    struct lq_forward_env env;
    const struct lq_device_ops *ops;
    struct lq_device *device;
    size_t sequence;
    size_t batch_samples;
    size_t batch_rows;
    size_t logit_rows;
    uint32_t layer;
    /* Device memory. */
    float *weights[LQ_LAYER_WEIGHT_COUNT];
    float *output_norm;
    float *output;
    float *logits;
    int32_t *targets;
    double *nll;
    double *sums[LQ_LAYER_INPUT_COUNT];
    float *rope;
    float *x; /* only where the host's memory is not the device's */
    float *normed;
    float *q;
    float *k;
    float *v;
    float *attended;
    float *gate;
    float *up;
};

/* ---- shapes ---- */

enum lq_layer_input lq_layer_weight_input(enum lq_layer_weight weight)
{
    switch (weight) {
    case LQ_WEIGHT_ATTN_Q:
    case LQ_WEIGHT_ATTN_K:
    case LQ_WEIGHT_ATTN_V:
        return LQ_INPUT_ATTN;
    case LQ_WEIGHT_ATTN_OUTPUT:
        return LQ_INPUT_ATTN_OUTPUT;
    case LQ_WEIGHT_FFN_GATE:
    case LQ_WEIGHT_FFN_UP:
        return LQ_INPUT_FFN;
    case LQ_WEIGHT_FFN_DOWN:
        return LQ_INPUT_FFN_DOWN;
    default:
        return LQ_LAYER_INPUT_COUNT;
    }
}

static size_t q_width(const struct lq_hparams *hparams)
{
    return (size_t)hparams->head_count * hparams->head_dim;
}

static size_t kv_width(const struct lq_hparams *hparams)
{
    return (size_t)hparams->kv_head_count * hparams->head_dim;
}

size_t lq_layer_input_cols(const struct lq_hparams *hparams, enum lq_layer_input input)
{
    switch (input) {
    case LQ_INPUT_ATTN_OUTPUT:
        return q_width(hparams);
    case LQ_INPUT_FFN_DOWN:
        return hparams->ffn_width;
    default:
        return hparams->width;
    }
}

static size_t samples_of_batch(uint32_t sequence)
{
    return sequence >= BATCH_ROWS ? 1 : BATCH_ROWS / sequence;
}

static size_t rows_of_logits(const struct lq_hparams *hparams, size_t batch_rows)
{
    size_t rows = (size_t)LOGIT_BYTES_MAX / (hparams->vocab_size * sizeof(float));
    rows = rows < LOGIT_ROWS_MIN ? LOGIT_ROWS_MIN : rows;
    return rows < batch_rows ? rows : batch_rows;
}

/* The limits keep each product below 2^60. */
uint64_t lq_forward_memory(const struct lq_hparams *hparams, uint32_t sequence, bool with_output)
{
    uint64_t rows = samples_of_batch(sequence) * (uint64_t)sequence;
    uint64_t scratch = rows * (2 * (uint64_t)hparams->width + 2 * q_width(hparams) +
                               2 * kv_width(hparams) + 2 * (uint64_t)hparams->ffn_width);
    uint64_t layer = 0;
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        uint64_t cols = 0;
        uint64_t out_rows = 0;
        lq_layer_weight_shape(hparams, (enum lq_layer_weight)w, &cols, &out_rows);
        layer += cols * out_rows;
    }
    uint64_t vocab = hparams->vocab_size;
    uint64_t output = vocab * hparams->width + rows_of_logits(hparams, rows) * vocab;
    uint64_t weights = with_output && output > layer ? output : layer;
    return (scratch + weights) * sizeof(float);
}

/* ---- device memory ---- */

static enum lq_status check_device(const struct lq_forward *forward, struct lq_error *err)
{
    const char *failure = forward->ops->failure(forward->device);
    return failure == NULL ? LQ_OK : lq_error_set(err, LQ_ENOMEM, "%s", failure);
}

static void *take(struct lq_forward *forward, uint64_t count, size_t element_bytes)
{
    uint64_t size_bytes = 0;
    if (!lq_mul_u64(count, element_bytes, &size_bytes) || size_bytes > SIZE_MAX) {
        size_bytes = SIZE_MAX; /* no device has it: the failure sticks */
    }
    return forward->ops->alloc(forward->device, (size_t)size_bytes);
}

static void give(struct lq_forward *forward, void *memory)
{
    if (memory != NULL) {
        forward->ops->release(forward->device, memory);
    }
}

static enum lq_status take_scratch(struct lq_forward *forward, struct lq_error *err)
{
    const struct lq_hparams *hparams = &forward->hparams;
    uint64_t rows = forward->batch_rows;
    if (!forward->ops->host_visible) {
        forward->x = take(forward, rows * hparams->width, sizeof(float));
    }
    forward->normed = take(forward, rows * hparams->width, sizeof(float));
    forward->q = take(forward, rows * q_width(hparams), sizeof(float));
    forward->k = take(forward, rows * kv_width(hparams), sizeof(float));
    forward->v = take(forward, rows * kv_width(hparams), sizeof(float));
    forward->attended = take(forward, rows * q_width(hparams), sizeof(float));
    forward->gate = take(forward, rows * hparams->ffn_width, sizeof(float));
    forward->up = take(forward, rows * hparams->ffn_width, sizeof(float));
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        size_t cols = lq_layer_input_cols(hparams, (enum lq_layer_input)i);
        forward->sums[i] = take(forward, cols, sizeof(double));
    }
    return check_device(forward, err);
}

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

/* Decodes a whole tensor into host memory, in parallel, and refuses NaN and infinity. */
static enum lq_status decode(const struct lq_forward *forward, const struct lq_model_tensor *tensor,
                             const void *data, float *out, struct lq_error *err)
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

/* Reads a tensor of the given shape into device memory `to`. */
static enum lq_status load_weight(struct lq_forward *forward, const char *name, uint64_t cols,
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
        return decode(forward, tensor, data, to, err);
    }
    size_t size_bytes = (size_t)(cols * rows) * sizeof(float);
    float *staging = malloc(size_bytes);
    if (staging == NULL) {
        return lq_error_nomem(err, "decoding weights");
    }
    status = decode(forward, tensor, data, staging, err);
    if (status == LQ_OK) {
        forward->ops->upload(forward->device, to, staging, size_bytes);
        status = check_device(forward, err);
    }
    free(staging);
    return status;
}

/* ---- positions ---- */

static enum lq_status read_factors(struct lq_forward *forward, size_t pairs, float *factors,
                                   struct lq_error *err)
{
    for (size_t i = 0; i < pairs; i++) {
        factors[i] = 1.0f;
    }
    if (!forward->hparams.rope_factors) {
        return LQ_OK;
    }
    const struct lq_model_tensor *tensor = NULL;
    const void *data = NULL;
    const struct lq_weight_source *source = &forward->env.weights;
    enum lq_status status = source->get(source->user, "rope_freqs.weight", &tensor, &data, err);
    if (status == LQ_OK && (tensor->ne[0] != pairs || tensor->ne[1] != 1)) {
        status = lq_error_set(err, LQ_EFORMAT,
                              "the tensor 'rope_freqs.weight' has %llu values, expected %zu",
                              (unsigned long long)tensor->ne[0], pairs);
    }
    if (status == LQ_OK) {
        status = decode(forward, tensor, data, factors, err);
    }
    for (size_t i = 0; status == LQ_OK && i < pairs; i++) {
        if (!(factors[i] > 0.0f)) {
            status =
                lq_error_set(err, LQ_EFORMAT, "value %zu of 'rope_freqs.weight' is not above 0", i);
        }
    }
    return status;
}

/* cos and sin of every position and pair, computed in double (Su and others, "RoFormer", 2021). */
static enum lq_status make_rope(struct lq_forward *forward, struct lq_error *err)
{
    const struct lq_hparams *hparams = &forward->hparams;
    size_t pairs = hparams->rope_dim / 2;
    float *factors = malloc(pairs * sizeof *factors);
    float *table = malloc(forward->sequence * pairs * 2 * sizeof *table);
    enum lq_status status = LQ_OK;
    if (factors == NULL || table == NULL) {
        status = lq_error_nomem(err, "rotary positions");
        goto out;
    }
    status = read_factors(forward, pairs, factors, err);
    if (status != LQ_OK) {
        goto out;
    }
    for (size_t i = 0; i < pairs; i++) {
        double frequency =
            pow(hparams->rope_freq_base, -2.0 * (double)i / (double)hparams->rope_dim) /
            (double)factors[i] / hparams->rope_scale;
        for (size_t p = 0; p < forward->sequence; p++) {
            table[(p * pairs + i) * 2] = (float)cos((double)p * frequency);
            table[(p * pairs + i) * 2 + 1] = (float)sin((double)p * frequency);
        }
    }
    size_t size_bytes = forward->sequence * pairs * 2 * sizeof *table;
    forward->rope = take(forward, size_bytes, 1);
    forward->ops->upload(forward->device, forward->rope, table, size_bytes);
    status = check_device(forward, err);
out:
    free(factors);
    free(table);
    return status;
}

/* ---- life ---- */

enum lq_status lq_forward_create(struct lq_forward **out, const struct lq_hparams *hparams,
                                 const struct lq_forward_env *env, uint32_t sequence,
                                 struct lq_error *err)
{
    *out = NULL;
    if (sequence == 0 || sequence > LQ_SEQUENCE_MAX) {
        return lq_error_set(err, LQ_ECALIBRATION, "samples of %u tokens, expected 1 to %d",
                            (unsigned)sequence, LQ_SEQUENCE_MAX);
    }
    struct lq_forward *forward = calloc(1, sizeof *forward);
    if (forward == NULL) {
        return lq_error_nomem(err, "the forward pass");
    }
    forward->hparams = *hparams;
    forward->env = *env;
    forward->device = env->device;
    forward->ops = env->device->ops;
    forward->sequence = sequence;
    forward->batch_samples = samples_of_batch(sequence);
    forward->batch_rows = forward->batch_samples * sequence;
    forward->logit_rows = rows_of_logits(hparams, forward->batch_rows);
    enum lq_status status = take_scratch(forward, err);
    if (status == LQ_OK) {
        status = make_rope(forward, err);
    }
    if (status != LQ_OK) {
        lq_forward_destroy(forward);
        return status;
    }
    *out = forward;
    return LQ_OK;
}

static void give_layer(struct lq_forward *forward)
{
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        give(forward, forward->weights[w]);
        forward->weights[w] = NULL;
    }
}

static void give_output(struct lq_forward *forward)
{
    void *const all[] = {forward->output_norm, forward->output, forward->logits, forward->targets,
                         forward->nll};
    for (size_t i = 0; i < LQ_COUNT_OF(all); i++) {
        give(forward, all[i]);
    }
    forward->output_norm = NULL;
    forward->output = NULL;
    forward->logits = NULL;
    forward->targets = NULL;
    forward->nll = NULL;
}

void lq_forward_destroy(struct lq_forward *forward)
{
    if (forward == NULL) {
        return;
    }
    give_layer(forward);
    give_output(forward);
    void *const all[] = {forward->rope, forward->x,        forward->normed, forward->q, forward->k,
                         forward->v,    forward->attended, forward->gate,   forward->up};
    for (size_t i = 0; i < LQ_COUNT_OF(all); i++) {
        give(forward, all[i]);
    }
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        give(forward, forward->sums[i]);
    }
    free(forward);
}

size_t lq_forward_batch_samples(const struct lq_forward *forward)
{
    return forward->batch_samples;
}

/* ---- embedding ---- */

struct embed_job {
    const struct lq_model_tensor *tensor;
    const void *data;
    const int32_t *tokens;
    size_t count;
    float *hidden;
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
    }
}

enum lq_status lq_forward_embed(struct lq_forward *forward, const int32_t *tokens, size_t count,
                                float *hidden, struct lq_error *err)
{
    static const char name[] = "token_embd.weight";
    struct embed_job job = {.tokens = tokens, .count = count, .hidden = hidden};
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

/* ---- one layer ---- */

enum lq_status lq_forward_load_layer(struct lq_forward *forward, uint32_t layer,
                                     struct lq_error *err)
{
    give_output(forward);
    forward->layer = layer;
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        char name[LQ_WEIGHT_NAME_BYTES];
        uint64_t cols = 0;
        uint64_t rows = 0;
        lq_layer_weight_shape(&forward->hparams, (enum lq_layer_weight)w, &cols, &rows);
        lq_layer_weight_path(layer, (enum lq_layer_weight)w, name);
        if (forward->weights[w] == NULL) {
            forward->weights[w] = take(forward, cols * rows, sizeof(float));
        }
        enum lq_status status = check_device(forward, err);
        if (status == LQ_OK) {
            status = load_weight(forward, name, cols, rows, forward->weights[w], err);
        }
        if (status != LQ_OK) {
            return status;
        }
    }
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        size_t cols = lq_layer_input_cols(&forward->hparams, (enum lq_layer_input)i);
        forward->ops->zero(forward->device, forward->sums[i], cols * sizeof(double));
    }
    return check_device(forward, err);
}

static bool is_cancelled(const struct lq_forward *forward)
{
    return forward->env.cancelled != NULL && forward->env.cancelled(forward->env.cancelled_user);
}

static void multiply(struct lq_forward *forward, const float *x, enum lq_layer_weight weight,
                     float *out, size_t rows)
{
    uint64_t cols = 0;
    uint64_t out_cols = 0;
    if (is_cancelled(forward)) {
        return;
    }
    lq_layer_weight_shape(&forward->hparams, weight, &cols, &out_cols);
    forward->ops->matmul(forward->device, x, forward->weights[weight], out, rows, (size_t)out_cols,
                         (size_t)cols);
}

static void collect_input(struct lq_forward *forward, bool collect, enum lq_layer_input input,
                          const float *x, size_t rows)
{
    if (collect) {
        forward->ops->add_squares(forward->device, x, rows,
                                  lq_layer_input_cols(&forward->hparams, input),
                                  forward->sums[input]);
    }
}

static void run_attention(struct lq_forward *forward, float *x, size_t samples, bool collect)
{
    const struct lq_hparams *hparams = &forward->hparams;
    const struct lq_device_ops *ops = forward->ops;
    struct lq_device *device = forward->device;
    size_t rows = samples * forward->sequence;
    size_t pairs = hparams->rope_dim / 2;
    struct lq_attention_shape shape = {samples, forward->sequence, hparams->head_count,
                                       hparams->kv_head_count, hparams->head_dim};
    ops->rms_norm(device, x, forward->weights[LQ_WEIGHT_ATTN_NORM], forward->normed, rows,
                  hparams->width, (float)hparams->norm_eps);
    collect_input(forward, collect, LQ_INPUT_ATTN, forward->normed, rows);
    multiply(forward, forward->normed, LQ_WEIGHT_ATTN_Q, forward->q, rows);
    multiply(forward, forward->normed, LQ_WEIGHT_ATTN_K, forward->k, rows);
    multiply(forward, forward->normed, LQ_WEIGHT_ATTN_V, forward->v, rows);
    if (is_cancelled(forward)) {
        return;
    }
    ops->rope(device, forward->q, forward->rope, rows, forward->sequence, hparams->head_count,
              hparams->head_dim, pairs);
    ops->rope(device, forward->k, forward->rope, rows, forward->sequence, hparams->kv_head_count,
              hparams->head_dim, pairs);
    ops->attention(device, forward->q, forward->k, forward->v, forward->attended, &shape);
    collect_input(forward, collect, LQ_INPUT_ATTN_OUTPUT, forward->attended, rows);
    multiply(forward, forward->attended, LQ_WEIGHT_ATTN_OUTPUT, forward->normed, rows);
    if (!is_cancelled(forward)) {
        ops->add(device, x, forward->normed, rows * hparams->width);
    }
}

static void run_ffn(struct lq_forward *forward, float *x, size_t rows, bool collect,
                    bool inputs_only)
{
    const struct lq_hparams *hparams = &forward->hparams;
    const struct lq_device_ops *ops = forward->ops;
    struct lq_device *device = forward->device;
    if (is_cancelled(forward)) {
        return;
    }
    ops->rms_norm(device, x, forward->weights[LQ_WEIGHT_FFN_NORM], forward->normed, rows,
                  hparams->width, (float)hparams->norm_eps);
    collect_input(forward, collect, LQ_INPUT_FFN, forward->normed, rows);
    multiply(forward, forward->normed, LQ_WEIGHT_FFN_GATE, forward->gate, rows);
    multiply(forward, forward->normed, LQ_WEIGHT_FFN_UP, forward->up, rows);
    if (is_cancelled(forward)) {
        return;
    }
    ops->silu_mul(device, forward->gate, forward->up, rows * hparams->ffn_width);
    collect_input(forward, collect, LQ_INPUT_FFN_DOWN, forward->gate, rows);
    if (inputs_only) {
        return;
    }
    multiply(forward, forward->gate, LQ_WEIGHT_FFN_DOWN, forward->normed, rows);
    if (!is_cancelled(forward)) {
        ops->add(device, x, forward->normed, rows * hparams->width);
    }
}

enum lq_status lq_forward_layer(struct lq_forward *forward, float *hidden, size_t sample_count,
                                bool collect, bool inputs_only, struct lq_error *err)
{
    if (sample_count > forward->batch_samples || forward->weights[0] == NULL) {
        return lq_error_set(err, LQ_EINTERNAL, "a batch of %zu samples for a layer that takes %zu",
                            sample_count, forward->batch_samples);
    }
    const struct lq_device_ops *ops = forward->ops;
    size_t rows = sample_count * forward->sequence;
    size_t elems = rows * forward->hparams.width;
    float *x = hidden;
    if (!ops->host_visible) {
        x = forward->x;
        ops->upload(forward->device, x, hidden, elems * sizeof(float));
    }
    run_attention(forward, x, sample_count, collect);
    run_ffn(forward, x, rows, collect, inputs_only);
    if (is_cancelled(forward)) {
        return lq_error_set(err, LQ_ECANCELLED, "cancelled");
    }
    enum lq_status status = check_device(forward, err);
    if (status != LQ_OK || inputs_only) {
        return status;
    }
    if (!ops->host_visible) {
        ops->download(forward->device, hidden, x, elems * sizeof(float));
        status = check_device(forward, err);
    }
    if (status == LQ_OK && lq_kernels()->find_nonfinite(hidden, elems) != elems) {
        status = lq_error_set(err, forward->env.nonfinite_status,
                              "layer %u gives activations that are NaN or infinite",
                              (unsigned)forward->layer);
    }
    return status;
}

enum lq_status lq_forward_sums(struct lq_forward *forward, enum lq_layer_input input, double *sums,
                               struct lq_error *err)
{
    static const char *const names[LQ_LAYER_INPUT_COUNT] = {"attn_q", "attn_output", "ffn_gate",
                                                            "ffn_down"};
    size_t cols = lq_layer_input_cols(&forward->hparams, input);
    forward->ops->download(forward->device, sums, forward->sums[input], cols * sizeof(double));
    enum lq_status status = check_device(forward, err);
    for (size_t i = 0; status == LQ_OK && i < cols; i++) {
        if (!isfinite(sums[i])) {
            status =
                lq_error_set(err, forward->env.nonfinite_status,
                             "column %zu of the input of 'blk.%u.%s.weight' is NaN or infinite "
                             "for some token",
                             i, (unsigned)forward->layer, names[input]);
        }
    }
    return status;
}

/* ---- output ---- */

enum lq_status lq_forward_load_output(struct lq_forward *forward, struct lq_error *err)
{
    const struct lq_hparams *hparams = &forward->hparams;
    uint64_t vocab = hparams->vocab_size;
    give_layer(forward);
    give_output(forward);
    forward->output_norm = take(forward, hparams->width, sizeof(float));
    forward->output = take(forward, vocab * hparams->width, sizeof(float));
    forward->logits = take(forward, vocab * forward->logit_rows, sizeof(float));
    forward->targets = take(forward, forward->logit_rows, sizeof(int32_t));
    forward->nll = take(forward, forward->logit_rows, sizeof(double));
    enum lq_status status = check_device(forward, err);
    if (status == LQ_OK) {
        status = load_weight(forward, "output_norm.weight", hparams->width, 1, forward->output_norm,
                             err);
    }
    const char *name = hparams->tied_output ? "token_embd.weight" : "output.weight";
    if (status == LQ_OK) {
        status = load_weight(forward, name, hparams->width, vocab, forward->output, err);
    }
    if (status != LQ_OK) {
        give_output(forward);
    }
    return status;
}

/* Logits of at most logit_rows rows, in device memory. */
static enum lq_status make_logits(struct lq_forward *forward, const float *hidden, size_t rows,
                                  struct lq_error *err)
{
    const struct lq_hparams *hparams = &forward->hparams;
    const struct lq_device_ops *ops = forward->ops;
    if (forward->output == NULL) {
        return lq_error_set(err, LQ_EINTERNAL, "the output matrix is not loaded");
    }
    if (is_cancelled(forward)) {
        return lq_error_set(err, LQ_ECANCELLED, "cancelled");
    }
    const float *x = hidden;
    if (!ops->host_visible) {
        ops->upload(forward->device, forward->x, hidden, rows * hparams->width * sizeof(float));
        x = forward->x;
    }
    ops->rms_norm(forward->device, x, forward->output_norm, forward->normed, rows, hparams->width,
                  (float)hparams->norm_eps);
    ops->matmul(forward->device, forward->normed, forward->output, forward->logits, rows,
                hparams->vocab_size, hparams->width);
    return check_device(forward, err);
}

enum lq_status lq_forward_score(struct lq_forward *forward, const float *hidden,
                                const int32_t *targets, size_t row_count, double *nll,
                                struct lq_error *err)
{
    const struct lq_device_ops *ops = forward->ops;
    for (size_t row = 0; row < row_count; row += forward->logit_rows) {
        size_t left = row_count - row;
        size_t rows = left < forward->logit_rows ? left : forward->logit_rows;
        enum lq_status status =
            make_logits(forward, hidden + row * forward->hparams.width, rows, err);
        if (status != LQ_OK) {
            return status;
        }
        ops->upload(forward->device, forward->targets, targets + row, rows * sizeof(int32_t));
        ops->cross_entropy(forward->device, forward->logits, forward->targets, rows,
                           forward->hparams.vocab_size, forward->nll);
        ops->download(forward->device, nll + row, forward->nll, rows * sizeof(double));
        status = check_device(forward, err);
        if (status != LQ_OK) {
            return status;
        }
    }
    return LQ_OK;
}

enum lq_status lq_forward_logits(struct lq_forward *forward, const float *hidden, size_t row_count,
                                 float *logits, struct lq_error *err)
{
    size_t vocab = forward->hparams.vocab_size;
    for (size_t row = 0; row < row_count; row += forward->logit_rows) {
        size_t left = row_count - row;
        size_t rows = left < forward->logit_rows ? left : forward->logit_rows;
        enum lq_status status =
            make_logits(forward, hidden + row * forward->hparams.width, rows, err);
        if (status != LQ_OK) {
            return status;
        }
        forward->ops->download(forward->device, logits + row * vocab, forward->logits,
                               rows * vocab * sizeof(float));
    }
    return check_device(forward, err);
}

static void run_on_pool(void *context, size_t count, void (*body)(void *user, size_t index),
                        void *user)
{
    lq_pool_for(context, count, body, user);
}

struct lq_parallel lq_forward_parallel(struct lq_pool *pool)
{
    struct lq_parallel parallel = {run_on_pool, pool};
    return parallel;
}
