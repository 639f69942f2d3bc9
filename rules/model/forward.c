#include "rules/model/forward_parts.h"

#include <stdlib.h>

#include "engine/base/checked.h"
#include "engine/base/limits.h"

/* Bytes of logits at a time for each LQ_DEVICE_BATCH_ROWS of a batch. Constants, because batches
 * decide the shape of matrix products and so the last bits of results. */
enum {
    LOGIT_BYTES_MAX = 64 * 1024 * 1024,
    LOGIT_ROWS_MIN = 16,
    /* Where matrices lie arranged, nothing is packed for each batch: it may be as small as suits
     * the caches, and logits stay there until their cross entropy is known. */
    ARRANGED_ROWS = 512,
    ARRANGED_LOGIT_ROWS = 96,
};

/* ---- shapes ---- */

size_t lq_forward_q_width(const struct lq_hparams *hparams)
{
    return (size_t)hparams->head_count * hparams->head_dim;
}

size_t lq_forward_kv_width(const struct lq_hparams *hparams)
{
    return (size_t)hparams->kv_head_count * hparams->head_dim;
}

/* Rows that the device wants in a batch; NULL: the usual number. */
static size_t rows_wanted(const struct lq_device *device)
{
    size_t rows = device == NULL ? 0 : device->ops->batch_rows;
    return rows == 0 ? LQ_DEVICE_BATCH_ROWS : rows;
}

static size_t samples_of(uint32_t sequence, size_t rows)
{
    return sequence >= rows ? 1 : rows / sequence;
}

size_t lq_forward_wanted_samples(const struct lq_device *device, uint32_t sequence)
{
    return samples_of(sequence, rows_wanted(device));
}

size_t lq_forward_first_samples(uint32_t sequence)
{
    return samples_of(sequence, LQ_DEVICE_BATCH_ROWS);
}

static size_t rows_of_logits(const struct lq_hparams *hparams, const struct lq_device *device,
                             uint64_t batch_rows)
{
    uint64_t share = rows_wanted(device) / LQ_DEVICE_BATCH_ROWS;
    uint64_t size_bytes = LOGIT_BYTES_MAX * (share == 0 ? 1 : share);
    uint64_t rows = size_bytes / (hparams->vocab_size * sizeof(float));
    rows = rows < LOGIT_ROWS_MIN ? LOGIT_ROWS_MIN : rows;
    return (size_t)(rows < batch_rows ? rows : batch_rows);
}

uint64_t lq_forward_slots(const struct lq_hparams *hparams, uint64_t rows)
{
    return hparams->expert_count == 0 ? rows : rows * hparams->expert_used;
}

/* The limits keep each product below 2^62. */
uint64_t lq_forward_scratch(const struct lq_hparams *hparams, uint64_t rows)
{
    uint64_t slots = lq_forward_slots(hparams, rows);
    uint64_t scratch = rows * (2 * (uint64_t)hparams->width + 2 * lq_forward_q_width(hparams) +
                               2 * lq_forward_kv_width(hparams)) +
                       slots * 2 * hparams->ffn_width;
    if (hparams->expert_count != 0) {
        scratch += slots * hparams->width + rows * hparams->expert_count;
    }
    return scratch * sizeof(float);
}

/* What a pass with batches of `rows` takes; `env` NULL: the usual device and experts. */
static uint64_t pass_bytes(const struct lq_hparams *hparams, const struct lq_forward_env *env,
                           uint64_t rows, bool with_output)
{
    uint64_t layer = 0;
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        enum lq_layer_weight weight = (enum lq_layer_weight)w;
        if (lq_hparams_has(hparams, weight) && !lq_layer_weight_is_expert(weight)) {
            uint64_t cols = 0;
            uint64_t out_rows = 0;
            lq_layer_weight_shape(hparams, weight, &cols, &out_rows);
            layer += cols * out_rows;
        }
    }
    if (hparams->expert_count != 0) {
        layer += lq_forward_expert_elems(hparams, env == NULL ? 0 : env->expert_bytes);
    }
    uint64_t vocab = hparams->vocab_size;
    size_t logit_rows = rows_of_logits(hparams, env == NULL ? NULL : env->device, rows);
    uint64_t output = vocab * hparams->width + logit_rows * vocab;
    uint64_t weights = with_output && output > layer ? output : layer;
    return lq_forward_scratch(hparams, rows) + weights * sizeof(float);
}

uint64_t lq_forward_pass_bytes(const struct lq_hparams *hparams, const struct lq_forward_env *env,
                               uint64_t rows)
{
    return pass_bytes(hparams, env, rows, true);
}

uint64_t lq_forward_usual_rows(uint32_t sequence)
{
    return lq_forward_first_samples(sequence) * (uint64_t)sequence;
}

uint64_t lq_forward_memory(const struct lq_hparams *hparams, uint32_t sequence, bool with_output)
{
    return pass_bytes(hparams, NULL, lq_forward_usual_rows(sequence), with_output);
}

uint64_t lq_forward_layer_memory(const struct lq_hparams *hparams, uint32_t sequence)
{
    return lq_forward_memory(hparams, sequence, false);
}

/* ---- device memory ---- */

enum lq_status lq_forward_check_device(const struct lq_forward *forward, struct lq_error *err)
{
    if (forward->failure.status != LQ_OK) {
        return lq_error_set(err, forward->failure.status, "%s", forward->failure.message);
    }
    const char *failure = forward->ops->failure(forward->device);
    if (failure != NULL && lq_forward_is_cancelled(forward)) {
        return lq_error_set(err, LQ_ECANCELLED, "cancelled");
    }
    return failure == NULL ? LQ_OK : lq_error_set(err, LQ_ENOMEM, "%s", failure);
}

void *lq_forward_take(struct lq_forward *forward, uint64_t count, size_t element_bytes)
{
    uint64_t size_bytes = 0;
    if (!lq_mul_u64(count, element_bytes, &size_bytes) || size_bytes > SIZE_MAX) {
        size_bytes = SIZE_MAX; /* no device has it: the failure sticks */
    }
    return forward->ops->alloc(forward->device, (size_t)size_bytes);
}

void lq_forward_give(struct lq_forward *forward, void *memory)
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
        forward->x = lq_forward_take(forward, rows * hparams->width, sizeof(float));
        forward->columns = lq_forward_take(forward, hparams->width, sizeof(double));
    }
    forward->normed = lq_forward_take(forward, rows * hparams->width, sizeof(float));
    forward->q = lq_forward_take(forward, rows * lq_forward_q_width(hparams), sizeof(float));
    forward->k = lq_forward_take(forward, rows * lq_forward_kv_width(hparams), sizeof(float));
    forward->v = lq_forward_take(forward, rows * lq_forward_kv_width(hparams), sizeof(float));
    forward->attended = lq_forward_take(forward, rows * lq_forward_q_width(hparams), sizeof(float));
    uint64_t slots = lq_forward_slots(hparams, rows);
    forward->gate = lq_forward_take(forward, slots * hparams->ffn_width, sizeof(float));
    forward->up = lq_forward_take(forward, slots * hparams->ffn_width, sizeof(float));
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        enum lq_layer_input input = (enum lq_layer_input)i;
        size_t count = lq_layer_input_cols(hparams, input) * lq_layer_input_mats(hparams, input);
        forward->sums[i] = count == 0 ? NULL : lq_forward_take(forward, count, sizeof(double));
    }
    return hparams->expert_count == 0 ? lq_forward_check_device(forward, err)
                                      : lq_forward_take_experts(forward, slots, err);
}

bool lq_forward_is_cancelled(const struct lq_forward *forward)
{
    return forward->failure.status != LQ_OK ||
           (forward->env.cancelled != NULL && forward->env.cancelled(forward->env.cancelled_user));
}

enum lq_status lq_forward_check_cancelled(const struct lq_forward *forward, struct lq_error *err)
{
    if (!lq_forward_is_cancelled(forward)) {
        return LQ_OK;
    }
    enum lq_status status = lq_forward_check_device(forward, err);
    return status == LQ_OK ? lq_error_set(err, LQ_ECANCELLED, "cancelled") : status;
}

/* ---- life ---- */

/* As many samples as the device wants and has memory for. */
static enum lq_status choose_batch(struct lq_forward *forward, lq_forward_bytes_fn bytes,
                                   struct lq_error *err)
{
    const struct lq_forward_env *env = &forward->env;
    size_t sequence = forward->sequence;
    size_t rows = forward->arranges ? ARRANGED_ROWS : rows_wanted(forward->device);
    rows = env->batch_rows != 0 ? env->batch_rows : rows;
    size_t samples = samples_of((uint32_t)sequence, rows);
    while (env->memory_bytes != 0 &&
           bytes(&forward->hparams, env, samples * sequence) > env->memory_bytes) {
        if (samples == 1) {
            uint64_t needed = bytes(&forward->hparams, env, sequence);
            return lq_error_set(err, LQ_ENOMEM,
                                "a sample of %zu tokens needs %llu MiB of the device's memory, "
                                "and %llu are free",
                                sequence, (unsigned long long)(needed >> 20) + 1,
                                (unsigned long long)(env->memory_bytes >> 20));
        }
        samples /= 2;
    }
    forward->batch_samples = samples;
    forward->batch_rows = samples * sequence;
    size_t logit_rows = forward->arranges && forward->batch_rows > ARRANGED_LOGIT_ROWS
                            ? ARRANGED_LOGIT_ROWS
                            : forward->batch_rows;
    forward->logit_rows = rows_of_logits(&forward->hparams, forward->device, logit_rows);
    return LQ_OK;
}

enum lq_status lq_forward_create(struct lq_forward **out, const struct lq_hparams *hparams,
                                 const struct lq_forward_env *env, uint32_t sequence,
                                 struct lq_error *err)
{
    return lq_forward_create_within(out, hparams, env, sequence, lq_forward_pass_bytes, err);
}

enum lq_status lq_forward_create_within(struct lq_forward **out, const struct lq_hparams *hparams,
                                        const struct lq_forward_env *env, uint32_t sequence,
                                        lq_forward_bytes_fn bytes, struct lq_error *err)
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
    forward->arranges =
        env->only_products && forward->ops->arrange != NULL && forward->ops->host_visible;
    forward->sequence = sequence;
    enum lq_status status = choose_batch(forward, bytes, err);
    if (status == LQ_OK) {
        status = take_scratch(forward, err);
    }
    if (status == LQ_OK) {
        status = lq_forward_make_rope(forward, err);
    }
    if (status != LQ_OK) {
        lq_forward_destroy(forward);
        return status;
    }
    *out = forward;
    return LQ_OK;
}

void lq_forward_give_layer(struct lq_forward *forward)
{
    forward->has_layer = false;
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        if (lq_hparams_has(&forward->hparams, (enum lq_layer_weight)w)) {
            lq_forward_give(forward, forward->weights[w]);
        }
        forward->weights[w] = NULL;
    }
    lq_forward_drop_experts(forward);
}

void lq_forward_give_output(struct lq_forward *forward)
{
    void *const all[] = {forward->output_norm, forward->output, forward->logits,
                         forward->targets,     forward->nll,    forward->differences};
    for (size_t i = 0; i < LQ_COUNT_OF(all); i++) {
        lq_forward_give(forward, all[i]);
    }
    forward->output_norm = NULL;
    forward->output = NULL;
    forward->logits = NULL;
    forward->targets = NULL;
    forward->nll = NULL;
    forward->differences = NULL;
}

void lq_forward_destroy(struct lq_forward *forward)
{
    if (forward == NULL) {
        return;
    }
    lq_forward_give_layer(forward);
    lq_forward_give_output(forward);
    if (forward->rope_windowed != forward->rope) {
        lq_forward_give(forward, forward->rope_windowed);
    }
    void *const all[] = {forward->rope, forward->x,  forward->columns, forward->normed,
                         forward->q,    forward->k,  forward->v,       forward->attended,
                         forward->gate, forward->up, forward->rounded};
    for (size_t i = 0; i < LQ_COUNT_OF(all); i++) {
        lq_forward_give(forward, all[i]);
    }
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        lq_forward_give(forward, forward->sums[i]);
    }
    lq_forward_give_experts(forward);
    free(forward);
}

size_t lq_forward_batch_samples(const struct lq_forward *forward)
{
    return forward->batch_samples;
}

static void run_on_pool(void *context, size_t count, void (*body)(void *user, size_t index),
                        void *user)
{
    lq_pool_for(context, count, body, user);
}

struct lq_parallel lq_forward_parallel(struct lq_pool *pool)
{
    struct lq_parallel parallel = {.run = run_on_pool, .context = pool};
    return parallel;
}
