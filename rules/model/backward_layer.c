#include "rules/model/backward_parts.h"

/* The gradient of a matrix, sample by sample: from what came out of it and what went in. */
static void score_weight(struct lq_backward *backward, enum lq_layer_weight weight,
                         const float *out_grad, const float *in, size_t sample_count)
{
    struct lq_forward *forward = backward->forward;
    uint64_t cols = 0;
    uint64_t rows = 0;
    lq_layer_weight_shape(&forward->hparams, weight, &cols, &rows);
    const struct lq_score_shape shape = {(size_t)rows, (size_t)cols,
                                         backward->options.method == LQ_GRADIENT_FISHER};
    size_t skipped = backward->options.skip_first ? 1 : 0;
    for (size_t s = 0; s < sample_count && !lq_forward_is_cancelled(forward); s++) {
        size_t row = s * backward->sequence + skipped;
        forward->ops->matmul_outer(forward->device, out_grad + row * shape.rows,
                                   in + row * shape.cols, backward->weight_grad,
                                   backward->sequence - skipped, shape.rows, shape.cols);
        forward->ops->add_scores(forward->device, backward->weight_grad, forward->weights[weight],
                                 &shape, backward->sums[weight], backward->scores[weight]);
    }
}

/* in_grad = out_grad * weight: from the rows that a matrix gave to the rows that it took. */
static void pull_back(struct lq_backward *backward, enum lq_layer_weight weight,
                      const float *out_grad, float *in_grad, size_t rows)
{
    struct lq_forward *forward = backward->forward;
    uint64_t cols = 0;
    uint64_t out_cols = 0;
    lq_layer_weight_shape(&forward->hparams, weight, &cols, &out_cols);
    if (!lq_forward_is_cancelled(forward)) {
        forward->ops->matmul_plain(forward->device, out_grad, forward->weights[weight], in_grad,
                                   rows, (size_t)cols, (size_t)out_cols);
    }
}

static void add_pulled(struct lq_backward *backward, enum lq_layer_weight weight,
                       const float *out_grad, size_t rows)
{
    struct lq_forward *forward = backward->forward;
    pull_back(backward, weight, out_grad, backward->part, rows);
    forward->ops->add(forward->device, backward->branch, backward->part,
                      rows * forward->hparams.width);
}

/* Makes the norm's output again, for the gradients of the matrices that took it. */
static void norm_again(struct lq_backward *backward, const float *x, enum lq_layer_weight norm,
                       size_t rows)
{
    struct lq_forward *forward = backward->forward;
    forward->ops->rms_norm(forward->device, x, forward->weights[norm], forward->normed, rows,
                           forward->hparams.width, (float)forward->hparams.norm_eps);
}

/* The stream's gradient takes in what the norm in front of a branch passes on. */
static void join_stream(struct lq_backward *backward, const float *x, enum lq_layer_weight norm,
                        size_t rows)
{
    struct lq_forward *forward = backward->forward;
    size_t width = forward->hparams.width;
    forward->ops->rms_norm_back(forward->device, x, forward->weights[norm], backward->branch,
                                backward->branch, rows, width, (float)forward->hparams.norm_eps);
    forward->ops->add(forward->device, backward->grad, backward->branch, rows * width);
}

static void run_ffn_back(struct lq_backward *backward, size_t samples)
{
    struct lq_forward *forward = backward->forward;
    size_t rows = samples * backward->sequence;
    float *gate_grad = backward->tape.gate;
    float *up_grad = forward->up;
    score_weight(backward, LQ_WEIGHT_FFN_DOWN, backward->grad, forward->gate, samples);
    pull_back(backward, LQ_WEIGHT_FFN_DOWN, backward->grad, backward->act_grad, rows);
    forward->ops->silu_mul_back(forward->device, gate_grad, up_grad, backward->act_grad,
                                rows * forward->hparams.ffn_width);
    norm_again(backward, backward->tape.middle, LQ_WEIGHT_FFN_NORM, rows);
    score_weight(backward, LQ_WEIGHT_FFN_GATE, gate_grad, forward->normed, samples);
    score_weight(backward, LQ_WEIGHT_FFN_UP, up_grad, forward->normed, samples);
    pull_back(backward, LQ_WEIGHT_FFN_GATE, gate_grad, backward->branch, rows);
    add_pulled(backward, LQ_WEIGHT_FFN_UP, up_grad, rows);
    join_stream(backward, backward->tape.middle, LQ_WEIGHT_FFN_NORM, rows);
}

static void run_scores_back(struct lq_backward *backward, size_t samples)
{
    struct lq_forward *forward = backward->forward;
    const struct lq_hparams *hparams = &forward->hparams;
    size_t rows = samples * backward->sequence;
    const struct lq_attention_shape shape = {.sample_count = samples,
                                             .sequence = backward->sequence,
                                             .head_count = hparams->head_count,
                                             .kv_head_count = hparams->kv_head_count,
                                             .head_dim = hparams->head_dim};
    const struct lq_attention_grad grad = {
        .q = forward->q,
        .k = forward->k,
        .v = forward->v,
        .out = forward->attended,
        .out_grad = backward->attended_grad,
        .q_grad = backward->q_grad,
        .k_grad = backward->k_grad,
        .v_grad = backward->v_grad,
    };
    if (lq_forward_is_cancelled(forward)) {
        return;
    }
    forward->ops->attention_back(forward->device, &grad, &shape);
    forward->ops->rope(forward->device, backward->q_grad, backward->rope, rows, backward->sequence,
                       hparams->head_count, hparams->head_dim, hparams->rope_dim / 2,
                       hparams->rope_halves);
    forward->ops->rope(forward->device, backward->k_grad, backward->rope, rows, backward->sequence,
                       hparams->kv_head_count, hparams->head_dim, hparams->rope_dim / 2,
                       hparams->rope_halves);
}

static void run_attention_back(struct lq_backward *backward, size_t samples)
{
    struct lq_forward *forward = backward->forward;
    size_t rows = samples * backward->sequence;
    score_weight(backward, LQ_WEIGHT_ATTN_OUTPUT, backward->grad, forward->attended, samples);
    pull_back(backward, LQ_WEIGHT_ATTN_OUTPUT, backward->grad, backward->attended_grad, rows);
    run_scores_back(backward, samples);
    norm_again(backward, backward->in, LQ_WEIGHT_ATTN_NORM, rows);
    score_weight(backward, LQ_WEIGHT_ATTN_Q, backward->q_grad, forward->normed, samples);
    score_weight(backward, LQ_WEIGHT_ATTN_K, backward->k_grad, forward->normed, samples);
    score_weight(backward, LQ_WEIGHT_ATTN_V, backward->v_grad, forward->normed, samples);
    pull_back(backward, LQ_WEIGHT_ATTN_Q, backward->q_grad, backward->branch, rows);
    add_pulled(backward, LQ_WEIGHT_ATTN_K, backward->k_grad, rows);
    add_pulled(backward, LQ_WEIGHT_ATTN_V, backward->v_grad, rows);
    join_stream(backward, backward->in, LQ_WEIGHT_ATTN_NORM, rows);
}

void lq_backward_run_layer(struct lq_backward *backward, size_t sample_count)
{
    struct lq_forward *forward = backward->forward;
    size_t elems = sample_count * backward->sequence * forward->hparams.width;
    forward->ops->copy(forward->device, backward->part, backward->in, elems);
    forward->tape = &backward->tape;
    lq_forward_run_layer(forward, backward->part, sample_count, false, true);
    forward->tape = NULL;
    run_ffn_back(backward, sample_count);
    run_attention_back(backward, sample_count);
}
