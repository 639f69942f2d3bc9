#include "rules/model/forward_parts.h"

#include <math.h>

#include "kernels/kernels.h"

static void multiply(struct lq_forward *forward, const float *x, enum lq_layer_weight weight,
                     float *out, size_t rows)
{
    uint64_t cols = 0;
    uint64_t out_cols = 0;
    if (lq_forward_is_cancelled(forward)) {
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

/* `to` is a field of the tape, or NULL without one. */
static void keep(struct lq_forward *forward, float *to, const float *from, size_t count)
{
    if (to != NULL && !lq_forward_is_cancelled(forward)) {
        forward->ops->copy(forward->device, to, from, count);
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
    if (lq_forward_is_cancelled(forward)) {
        return;
    }
    ops->rope(device, forward->q, forward->rope, rows, forward->sequence, hparams->head_count,
              hparams->head_dim, pairs);
    ops->rope(device, forward->k, forward->rope, rows, forward->sequence, hparams->kv_head_count,
              hparams->head_dim, pairs);
    ops->attention(device, forward->q, forward->k, forward->v, forward->attended, &shape);
    collect_input(forward, collect, LQ_INPUT_ATTN_OUTPUT, forward->attended, rows);
    multiply(forward, forward->attended, LQ_WEIGHT_ATTN_OUTPUT, forward->normed, rows);
    if (!lq_forward_is_cancelled(forward)) {
        ops->add(device, x, forward->normed, rows * hparams->width);
    }
}

static void run_ffn(struct lq_forward *forward, float *x, size_t rows, bool collect,
                    bool inputs_only)
{
    const struct lq_hparams *hparams = &forward->hparams;
    const struct lq_device_ops *ops = forward->ops;
    struct lq_device *device = forward->device;
    if (lq_forward_is_cancelled(forward)) {
        return;
    }
    keep(forward, forward->tape == NULL ? NULL : forward->tape->middle, x, rows * hparams->width);
    ops->rms_norm(device, x, forward->weights[LQ_WEIGHT_FFN_NORM], forward->normed, rows,
                  hparams->width, (float)hparams->norm_eps);
    collect_input(forward, collect, LQ_INPUT_FFN, forward->normed, rows);
    multiply(forward, forward->normed, LQ_WEIGHT_FFN_GATE, forward->gate, rows);
    multiply(forward, forward->normed, LQ_WEIGHT_FFN_UP, forward->up, rows);
    if (lq_forward_is_cancelled(forward)) {
        return;
    }
    keep(forward, forward->tape == NULL ? NULL : forward->tape->gate, forward->gate,
         rows * hparams->ffn_width);
    ops->silu_mul(device, forward->gate, forward->up, rows * hparams->ffn_width);
    collect_input(forward, collect, LQ_INPUT_FFN_DOWN, forward->gate, rows);
    if (inputs_only) {
        return;
    }
    multiply(forward, forward->gate, LQ_WEIGHT_FFN_DOWN, forward->normed, rows);
    if (!lq_forward_is_cancelled(forward)) {
        ops->add(device, x, forward->normed, rows * hparams->width);
    }
}

void lq_forward_run_layer(struct lq_forward *forward, float *x, size_t sample_count, bool collect,
                          bool inputs_only)
{
    run_attention(forward, x, sample_count, collect);
    run_ffn(forward, x, sample_count * forward->sequence, collect, inputs_only);
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
    lq_forward_run_layer(forward, x, sample_count, collect, inputs_only);
    if (lq_forward_is_cancelled(forward)) {
        return lq_error_set(err, LQ_ECANCELLED, "cancelled");
    }
    enum lq_status status = lq_forward_check_device(forward, err);
    if (status != LQ_OK || inputs_only) {
        return status;
    }
    if (!ops->host_visible) {
        ops->download(forward->device, hidden, x, elems * sizeof(float));
        status = lq_forward_check_device(forward, err);
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
    enum lq_status status = lq_forward_check_device(forward, err);
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
