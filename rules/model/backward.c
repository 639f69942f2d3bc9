#include "rules/model/backward.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/checked.h"
#include "engine/base/compiler.h"
#include "engine/base/limits.h"
#include "kernels/kernels.h"
#include "rules/model/backward_parts.h"

static uint64_t weight_elems(const struct lq_hparams *hparams, enum lq_layer_weight weight)
{
    uint64_t cols = 0;
    uint64_t rows = 0;
    if (!lq_hparams_has(hparams, weight)) {
        return 0;
    }
    lq_layer_weight_shape(hparams, weight, &cols, &rows);
    return cols * rows;
}

/* What the backward pass of a layer knows: plain layers, whose weights are the first nine. */
static enum lq_status check_layers(const struct lq_hparams *hparams, struct lq_error *err)
{
    bool plain = hparams->weights < LQ_WEIGHT_BIT(LQ_WEIGHT_FFN_DOWN + 1) && hparams->window == 0 &&
                 hparams->activation == LQ_ACTIVATION_SILU && hparams->attention_cap == 0.0 &&
                 hparams->logit_cap == 0.0 && !hparams->rope_halves &&
                 hparams->rope_attn_factor == 1.0 && hparams->rope_scaling != LQ_ROPE_YARN;
    return plain ? LQ_OK
                 : lq_error_set(err, LQ_EUNSUPPORTED,
                                "gradients of this architecture are not known, only of plain llama "
                                "layers; the method 'activation' works");
}

static uint64_t largest_matrix(const struct lq_hparams *hparams)
{
    uint64_t largest = 0;
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        uint64_t elems = weight_elems(hparams, (enum lq_layer_weight)w);
        largest = lq_hparams_has_matrix(hparams, (enum lq_layer_weight)w) && elems > largest
                      ? elems
                      : largest;
    }
    return largest;
}

/* ---- life ---- */

uint64_t lq_backward_memory(const struct lq_hparams *hparams, uint32_t sequence)
{
    uint64_t layer = 0;
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        layer += weight_elems(hparams, (enum lq_layer_weight)w);
    }
    /* Scratch at most doubles; every weight has a score, and one matrix a gradient. */
    return 2 * lq_forward_memory(hparams, sequence, true) +
           (layer + largest_matrix(hparams)) * sizeof(float);
}

/* Turning back is turning by the opposite angles. */
static enum lq_status make_rope(struct lq_backward *backward, struct lq_error *err)
{
    struct lq_forward *forward = backward->forward;
    size_t count = forward->sequence * forward->hparams.rope_dim;
    size_t size_bytes = count * sizeof(float);
    float *table = malloc(size_bytes);
    if (table == NULL) {
        return lq_error_nomem(err, "rotary positions");
    }
    forward->ops->download(forward->device, table, forward->rope, size_bytes);
    for (size_t i = 1; i < count; i += 2) {
        table[i] = -table[i];
    }
    backward->rope = lq_forward_take(forward, size_bytes, 1);
    forward->ops->upload(forward->device, backward->rope, table, size_bytes);
    free(table);
    return lq_forward_check_device(forward, err);
}

static enum lq_status take_scratch(struct lq_backward *backward, struct lq_error *err)
{
    struct lq_forward *forward = backward->forward;
    const struct lq_hparams *hparams = &forward->hparams;
    uint64_t rows = forward->batch_rows;
    uint64_t q_width = lq_forward_q_width(hparams);
    uint64_t kv_width = lq_forward_kv_width(hparams);
    struct {
        float **to;
        uint64_t count;
    } const all[] = {
        {&backward->in, rows * hparams->width},
        {&backward->grad, rows * hparams->width},
        {&backward->branch, rows * hparams->width},
        {&backward->part, rows * hparams->width},
        {&backward->q_grad, rows * q_width},
        {&backward->k_grad, rows * kv_width},
        {&backward->v_grad, rows * kv_width},
        {&backward->attended_grad, rows * q_width},
        {&backward->act_grad, rows * hparams->ffn_width},
        {&backward->weight_grad, largest_matrix(hparams)},
        {&backward->tape.middle, rows * hparams->width},
        {&backward->tape.gate, rows * hparams->ffn_width},
    };
    for (size_t i = 0; i < LQ_COUNT_OF(all); i++) {
        *all[i].to = lq_forward_take(forward, all[i].count, sizeof(float));
    }
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        if (lq_hparams_has_matrix(hparams, (enum lq_layer_weight)w)) {
            uint64_t cols = 0;
            uint64_t out_rows = 0;
            lq_layer_weight_shape(hparams, (enum lq_layer_weight)w, &cols, &out_rows);
            backward->sums[w] = lq_forward_take(forward, cols, sizeof(double));
        }
    }
    return lq_forward_check_device(forward, err);
}

enum lq_status lq_backward_create(struct lq_backward **out, const struct lq_hparams *hparams,
                                  const struct lq_forward_env *env, uint32_t sequence,
                                  const struct lq_gradient_options *options, struct lq_error *err)
{
    *out = NULL;
    if (sequence < 2) {
        return lq_error_set(err, LQ_ECALIBRATION,
                            "samples of %u token have no next token to predict; gradients need "
                            "samples of at least 2 tokens",
                            (unsigned)sequence);
    }
    struct lq_backward *backward = calloc(1, sizeof *backward);
    if (backward == NULL) {
        return lq_error_nomem(err, "the backward pass");
    }
    backward->options = *options;
    backward->sequence = sequence;
    enum lq_status status = check_layers(hparams, err);
    if (status == LQ_OK) {
        status = lq_forward_create(&backward->forward, hparams, env, sequence, err);
    }
    if (status == LQ_OK) {
        status = take_scratch(backward, err);
    }
    if (status == LQ_OK) {
        status = make_rope(backward, err);
    }
    if (status != LQ_OK) {
        lq_backward_destroy(backward);
        return status;
    }
    *out = backward;
    return LQ_OK;
}

static void give_scores(struct lq_backward *backward)
{
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        lq_forward_give(backward->forward, backward->scores[w]);
        backward->scores[w] = NULL;
    }
    free(backward->host_scores);
    backward->host_scores = NULL;
}

void lq_backward_destroy(struct lq_backward *backward)
{
    if (backward == NULL) {
        return;
    }
    if (backward->forward != NULL) {
        give_scores(backward);
        void *const all[] = {
            backward->in,        backward->grad,        backward->branch, backward->part,
            backward->q_grad,    backward->k_grad,      backward->v_grad, backward->attended_grad,
            backward->act_grad,  backward->weight_grad, backward->rope,   backward->tape.middle,
            backward->tape.gate,
        };
        for (size_t i = 0; i < LQ_COUNT_OF(all); i++) {
            lq_forward_give(backward->forward, all[i]);
        }
        for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
            lq_forward_give(backward->forward, backward->sums[w]);
        }
    }
    lq_forward_destroy(backward->forward);
    free(backward);
}

size_t lq_backward_batch_samples(const struct lq_backward *backward)
{
    return backward->forward->batch_samples;
}

enum lq_status lq_backward_embed(struct lq_backward *backward, const int32_t *tokens, size_t count,
                                 float *hidden, struct lq_error *err)
{
    return lq_forward_embed(backward->forward, tokens, count, hidden, err);
}

/* ---- the loss ---- */

enum lq_status lq_backward_load_output(struct lq_backward *backward, struct lq_error *err)
{
    give_scores(backward);
    return lq_forward_load_output(backward->forward, err);
}

/* The next token of each row; -1 for the last row of a sample, which has none. */
static void set_targets(const struct lq_backward *backward, const int32_t *tokens, size_t first,
                        size_t count, int32_t *targets)
{
    for (size_t i = 0; i < count; i++) {
        size_t row = first + i;
        targets[i] = (row + 1) % backward->sequence == 0 ? -1 : tokens[row + 1];
    }
}

/* The gradient of at most logit_rows rows of the stream, in backward->grad. */
static enum lq_status pull_rows(struct lq_backward *backward, const float *hidden,
                                const int32_t *targets, size_t rows, struct lq_error *err)
{
    struct lq_forward *forward = backward->forward;
    const struct lq_hparams *hparams = &forward->hparams;
    const struct lq_device_ops *ops = forward->ops;
    struct lq_device *device = forward->device;
    enum lq_status status = lq_forward_make_logits(forward, hidden, rows, err);
    if (status != LQ_OK) {
        return status;
    }
    ops->upload(device, backward->in, hidden, rows * hparams->width * sizeof(float));
    ops->upload(device, forward->targets, targets, rows * sizeof *targets);
    ops->cross_entropy_back(device, forward->logits, forward->targets, rows, hparams->vocab_size,
                            (float)(1.0 / (double)(backward->sequence - 1)));
    ops->matmul_plain(device, forward->logits, forward->output, backward->branch, rows,
                      hparams->width, hparams->vocab_size);
    ops->rms_norm_back(device, backward->in, forward->output_norm, backward->branch, backward->grad,
                       rows, hparams->width, (float)hparams->norm_eps);
    return lq_forward_check_device(forward, err);
}

static enum lq_status check_finite(const struct lq_backward *backward, const float *grad,
                                   size_t elems, const char *where, struct lq_error *err)
{
    if (lq_kernels()->find_nonfinite(grad, elems) == elems) {
        return LQ_OK;
    }
    return lq_error_set(err, backward->forward->env.nonfinite_status,
                        "the gradient behind %s is NaN or infinite for some token", where);
}

enum lq_status lq_backward_output(struct lq_backward *backward, const float *hidden,
                                  const int32_t *tokens, size_t sample_count, float *grad,
                                  struct lq_error *err)
{
    struct lq_forward *forward = backward->forward;
    size_t width = forward->hparams.width;
    size_t row_count = sample_count * backward->sequence;
    int32_t *targets = malloc(forward->logit_rows * sizeof *targets);
    enum lq_status status = targets == NULL ? lq_error_nomem(err, "targets") : LQ_OK;
    for (size_t row = 0; status == LQ_OK && row < row_count; row += forward->logit_rows) {
        size_t left = row_count - row;
        size_t rows = left < forward->logit_rows ? left : forward->logit_rows;
        set_targets(backward, tokens, row, rows, targets);
        status = pull_rows(backward, hidden + row * width, targets, rows, err);
        if (status == LQ_OK) {
            forward->ops->download(forward->device, grad + row * width, backward->grad,
                                   rows * width * sizeof(float));
        }
    }
    free(targets);
    return status == LQ_OK
               ? check_finite(backward, grad, row_count * width, "'output_norm.weight'", err)
               : status;
}

/* ---- a layer ---- */

enum lq_status lq_backward_load_layer(struct lq_backward *backward, uint32_t layer,
                                      struct lq_error *err)
{
    struct lq_forward *forward = backward->forward;
    enum lq_status status = lq_forward_load_layer(forward, layer, err);
    if (status != LQ_OK) {
        return status;
    }
    backward->sample_count = 0;
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        uint64_t elems = weight_elems(&forward->hparams, (enum lq_layer_weight)w);
        if (!lq_hparams_has_matrix(&forward->hparams, (enum lq_layer_weight)w)) {
            continue;
        }
        if (backward->options.scores && backward->scores[w] == NULL) {
            backward->scores[w] = lq_forward_take(forward, elems, sizeof(float));
        }
        if (backward->scores[w] != NULL) {
            forward->ops->zero(forward->device, backward->scores[w], elems * sizeof(float));
        }
        size_t cols =
            lq_layer_input_cols(&forward->hparams, lq_layer_weight_input((enum lq_layer_weight)w));
        forward->ops->zero(forward->device, backward->sums[w], cols * sizeof(double));
    }
    return lq_forward_check_device(forward, err);
}

enum lq_status lq_backward_sums(struct lq_backward *backward, enum lq_layer_weight weight,
                                double *sums, struct lq_error *err)
{
    struct lq_forward *forward = backward->forward;
    size_t cols = lq_layer_input_cols(&forward->hparams, lq_layer_weight_input(weight));
    forward->ops->download(forward->device, sums, backward->sums[weight], cols * sizeof *sums);
    enum lq_status status = lq_forward_check_device(forward, err);
    for (size_t i = 0; status == LQ_OK && i < cols; i++) {
        if (!isfinite(sums[i])) {
            char name[LQ_WEIGHT_NAME_BYTES];
            status = lq_error_set(err, forward->env.nonfinite_status,
                                  "the gradient of '%s' is NaN or infinite in column %zu",
                                  lq_layer_weight_path(forward->layer, weight, name), i);
        }
    }
    return status;
}

/* An error that names the first matrix, in the order of the backward pass, whose gradient is not
 * finite; LQ_OK when all are. */
static enum lq_status name_nonfinite(struct lq_backward *backward, struct lq_error *err)
{
    double *sums = NULL;
    size_t room = 0;
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        size_t cols = lq_layer_input_cols(&backward->forward->hparams, (enum lq_layer_input)i);
        room = cols > room ? cols : room;
    }
    sums = malloc(room * sizeof *sums);
    enum lq_status status = sums == NULL ? lq_error_nomem(err, "sums of gradients") : LQ_OK;
    for (int w = LQ_LAYER_WEIGHT_COUNT; status == LQ_OK && w-- > 0;) {
        if (lq_hparams_has_matrix(&backward->forward->hparams, (enum lq_layer_weight)w)) {
            status = lq_backward_sums(backward, (enum lq_layer_weight)w, sums, err);
        }
    }
    free(sums);
    return status;
}

enum lq_status lq_backward_layer(struct lq_backward *backward, const float *hidden, float *grad,
                                 size_t sample_count, struct lq_error *err)
{
    struct lq_forward *forward = backward->forward;
    if (sample_count > forward->batch_samples || forward->weights[0] == NULL) {
        return lq_error_set(err, LQ_EINTERNAL, "a batch of %zu samples for a layer that takes %zu",
                            sample_count, forward->batch_samples);
    }
    size_t elems = sample_count * backward->sequence * forward->hparams.width;
    forward->ops->upload(forward->device, backward->in, hidden, elems * sizeof(float));
    forward->ops->upload(forward->device, backward->grad, grad, elems * sizeof(float));
    lq_backward_run_layer(backward, sample_count);
    backward->sample_count += sample_count;
    if (lq_forward_is_cancelled(forward)) {
        return lq_error_set(err, LQ_ECANCELLED, "cancelled");
    }
    forward->ops->download(forward->device, grad, backward->grad, elems * sizeof(float));
    enum lq_status status = lq_forward_check_device(forward, err);
    if (status != LQ_OK || lq_kernels()->find_nonfinite(grad, elems) == elems) {
        return status;
    }
    status = name_nonfinite(backward, err);
    char where[32];
    (void)snprintf(where, sizeof where, "layer %u", (unsigned)forward->layer);
    return status == LQ_OK ? check_finite(backward, grad, elems, where, err) : status;
}

void lq_backward_counts(const struct lq_backward *backward, enum lq_layer_weight weight,
                        uint64_t *counts)
{
    for (uint64_t m = 0; m < lq_layer_weight_mats(&backward->forward->hparams, weight); m++) {
        counts[m] = backward->sample_count;
    }
}

enum lq_status lq_backward_scores(struct lq_backward *backward, enum lq_layer_weight weight,
                                  const float **scores, struct lq_error *err)
{
    struct lq_forward *forward = backward->forward;
    *scores = backward->scores[weight];
    if (*scores == NULL || forward->ops->host_visible) {
        return lq_forward_check_device(forward, err);
    }
    if (backward->host_scores == NULL) {
        backward->host_scores =
            malloc((size_t)largest_matrix(&forward->hparams) * sizeof *backward->host_scores);
    }
    if (backward->host_scores == NULL) {
        return lq_error_nomem(err, "scores of weights");
    }
    forward->ops->download(forward->device, backward->host_scores, *scores,
                           (size_t)weight_elems(&forward->hparams, weight) * sizeof(float));
    *scores = backward->host_scores;
    return lq_forward_check_device(forward, err);
}
