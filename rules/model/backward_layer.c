#include "rules/model/backward_parts.h"

/* ---- matrices ---- */

/* The gradient that `count` rows from `row` on give a matrix, from what came out of it and what
 * went in, and its scores. `expert` is 0 for a weight of one matrix; sums are the `group`-th ones.
 */
static void score_rows(struct lq_backward *backward, enum lq_layer_weight weight, size_t expert,
                       size_t group, const float *out_grad, const float *in, size_t row,
                       size_t count)
{
    struct lq_forward *forward = backward->forward;
    uint64_t cols = 0;
    uint64_t rows = 0;
    lq_layer_weight_shape(&forward->hparams, weight, &cols, &rows);
    const struct lq_score_shape shape = {(size_t)rows, (size_t)cols,
                                         backward->options.method == LQ_GRADIENT_FISHER};
    size_t at = backward->lane * backward->lane_elems[weight] + expert * shape.rows * shape.cols;
    float *scores = backward->scores[weight];
    forward->ops->matmul_outer(forward->device, out_grad + row * shape.rows, in + row * shape.cols,
                               backward->weight_grad, count, shape.rows, shape.cols);
    const float *matrix = lq_layer_weight_is_expert(weight)
                              ? lq_forward_expert(forward, weight, expert)
                              : forward->weights[weight];
    if (matrix != NULL) {
        forward->ops->add_scores(forward->device, backward->weight_grad, matrix, &shape,
                                 backward->sums[weight] + group * shape.cols,
                                 scores == NULL ? NULL : scores + at);
    }
}

static void score_weight(struct lq_backward *backward, enum lq_layer_weight weight,
                         const float *out_grad, const float *in, size_t sample_count)
{
    size_t skipped = backward->options.skip_first ? 1 : 0;
    for (size_t s = 0; s < sample_count && !lq_forward_is_cancelled(backward->forward); s++) {
        score_rows(backward, weight, 0, backward->options.apart ? s : 0, out_grad, in,
                   s * backward->sequence + skipped, backward->sequence - skipped);
    }
}

/* The same for every expert, over its own slots. Those of one sample follow each other. */
static void score_experts(struct lq_backward *backward, enum lq_layer_weight weight,
                          const float *out_grad, const float *in)
{
    const struct lq_forward *forward = backward->forward;
    size_t sequence = backward->sequence;
    for (size_t e = 0; e < forward->hparams.expert_count; e++) {
        size_t slot = (size_t)forward->starts[e];
        size_t end = (size_t)forward->starts[e + 1];
        while (slot < end && !lq_forward_is_cancelled(forward)) {
            size_t row = (size_t)forward->sources[slot];
            size_t next_sample = (row / sequence + 1) * sequence;
            slot += backward->options.skip_first && row % sequence == 0 ? 1 : 0;
            size_t first = slot;
            while (slot < end && (size_t)forward->sources[slot] < next_sample) {
                slot++;
            }
            if (slot > first) {
                score_rows(backward, weight, e, e, out_grad, in, first, slot - first);
                backward->expert_samples[e] += weight == LQ_WEIGHT_FFN_DOWN_EXPS ? 1 : 0;
            }
        }
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

/* The same for every expert, from rows of slots to rows of slots. */
static void pull_experts_back(struct lq_backward *backward, enum lq_layer_weight weight,
                              const float *out_grad, float *in_grad)
{
    struct lq_forward *forward = backward->forward;
    uint64_t cols = 0;
    uint64_t out_cols = 0;
    lq_layer_weight_shape(&forward->hparams, weight, &cols, &out_cols);
    for (size_t e = 0; e < forward->hparams.expert_count; e++) {
        size_t start = (size_t)forward->starts[e];
        size_t rows = (size_t)forward->starts[e + 1] - start;
        const float *matrix = rows == 0 ? NULL : lq_forward_expert(forward, weight, e);
        if (matrix != NULL && !lq_forward_is_cancelled(forward)) {
            forward->ops->matmul_plain(forward->device, out_grad + start * out_cols, matrix,
                                       in_grad + start * cols, rows, (size_t)cols,
                                       (size_t)out_cols);
        }
    }
}

/* branch += out_grad * weight. */
static void add_pulled(struct lq_backward *backward, enum lq_layer_weight weight,
                       const float *out_grad, size_t rows)
{
    struct lq_forward *forward = backward->forward;
    pull_back(backward, weight, out_grad, backward->part, rows);
    forward->ops->add(forward->device, backward->branch, backward->part,
                      rows * forward->hparams.width);
}

/* ---- norms ---- */

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

/* The gradient of what a part of the layer gave before its post norm, which took x; the stream's
 * own without such a norm. */
static const float *undo_post_norm(struct lq_backward *backward, const float *x,
                                   enum lq_layer_weight norm, size_t rows)
{
    struct lq_forward *forward = backward->forward;
    if (forward->weights[norm] == NULL) {
        return backward->grad;
    }
    forward->ops->rms_norm_back(forward->device, x, forward->weights[norm], backward->grad,
                                backward->branch, rows, forward->hparams.width,
                                (float)forward->hparams.norm_eps);
    return backward->branch;
}

/* ---- the feed-forward part ---- */

/* From the gradients of act(gate) * up in act_grad to those of gate and up, which stand where gate
 * and up did. */
static void deactivate(struct lq_backward *backward, size_t rows)
{
    struct lq_forward *forward = backward->forward;
    bool gelu = forward->hparams.activation == LQ_ACTIVATION_GELU_TANH;
    (gelu ? forward->ops->gelu_mul_back
          : forward->ops->silu_mul_back)(forward->device, backward->tape.gate, forward->up,
                                         backward->act_grad, rows * forward->hparams.ffn_width);
}

static void run_dense_back(struct lq_backward *backward, const float *out_grad, size_t samples)
{
    struct lq_forward *forward = backward->forward;
    size_t rows = samples * backward->sequence;
    const float *gate_grad = backward->tape.gate;
    const float *up_grad = forward->up;
    score_weight(backward, LQ_WEIGHT_FFN_DOWN, out_grad, forward->gate, samples);
    pull_back(backward, LQ_WEIGHT_FFN_DOWN, out_grad, backward->act_grad, rows);
    deactivate(backward, rows);
    norm_again(backward, backward->tape.middle, LQ_WEIGHT_FFN_NORM, rows);
    score_weight(backward, LQ_WEIGHT_FFN_GATE, gate_grad, forward->normed, samples);
    score_weight(backward, LQ_WEIGHT_FFN_UP, up_grad, forward->normed, samples);
    pull_back(backward, LQ_WEIGHT_FFN_GATE, gate_grad, backward->branch, rows);
    add_pulled(backward, LQ_WEIGHT_FFN_UP, up_grad, rows);
}

/* What a token's slots give is weighed by the router and added up, so each slot gets the token's
 * gradient times its weight, and the router that of the weights. */
static void run_experts_back(struct lq_backward *backward, const float *out_grad, size_t samples)
{
    struct lq_forward *forward = backward->forward;
    const struct lq_hparams *hparams = &forward->hparams;
    const struct lq_device_ops *ops = forward->ops;
    struct lq_device *device = forward->device;
    struct lq_route sum = forward->route;
    size_t rows = samples * backward->sequence;
    size_t used = hparams->expert_used;
    size_t slots = rows * used;
    float *slot_grad = backward->slot_grad;
    ops->gather_rows(device, out_grad, forward->route.sources, slot_grad, slots, hparams->width);
    pull_experts_back(backward, LQ_WEIGHT_FFN_DOWN_EXPS, slot_grad, backward->act_grad);
    ops->route_back(device, forward->gate, backward->act_grad, &forward->route,
                    backward->router_grad, rows, hparams->expert_count, used, hparams->ffn_width);
    ops->weigh_rows(device, slot_grad, &forward->route, rows, used, hparams->width);
    ops->weigh_rows(device, backward->act_grad, &forward->route, rows, used, hparams->ffn_width);
    score_experts(backward, LQ_WEIGHT_FFN_DOWN_EXPS, slot_grad, forward->gate);
    deactivate(backward, slots);
    norm_again(backward, backward->tape.middle, LQ_WEIGHT_FFN_NORM, rows);
    ops->gather_rows(device, forward->normed, forward->route.sources, forward->slot_rows, slots,
                     hparams->width);
    score_experts(backward, LQ_WEIGHT_FFN_GATE_EXPS, backward->tape.gate, forward->slot_rows);
    score_experts(backward, LQ_WEIGHT_FFN_UP_EXPS, forward->up, forward->slot_rows);
    score_weight(backward, LQ_WEIGHT_FFN_ROUTER, backward->router_grad, forward->normed, samples);
    pull_experts_back(backward, LQ_WEIGHT_FFN_GATE_EXPS, backward->tape.gate, slot_grad);
    pull_experts_back(backward, LQ_WEIGHT_FFN_UP_EXPS, forward->up, forward->slot_rows);
    ops->add(device, slot_grad, forward->slot_rows, slots * hparams->width);
    sum.weights = NULL;
    ops->combine_rows(device, slot_grad, &sum, backward->branch, rows, used, hparams->width);
    add_pulled(backward, LQ_WEIGHT_FFN_ROUTER, backward->router_grad, rows);
}

static void run_ffn_back(struct lq_backward *backward, size_t samples)
{
    struct lq_forward *forward = backward->forward;
    size_t rows = samples * backward->sequence;
    if (forward->weights[LQ_WEIGHT_FFN_POST_NORM] != NULL) {
        lq_forward_make_down(forward, rows);
    }
    if (lq_forward_is_cancelled(forward)) {
        return;
    }
    const float *out_grad =
        undo_post_norm(backward, forward->normed, LQ_WEIGHT_FFN_POST_NORM, rows);
    if (forward->hparams.expert_count == 0) {
        run_dense_back(backward, out_grad, samples);
    } else {
        run_experts_back(backward, out_grad, samples);
    }
    if (!lq_forward_is_cancelled(forward)) {
        join_stream(backward, backward->tape.middle, LQ_WEIGHT_FFN_NORM, rows);
    }
}

/* ---- attention ---- */

/* The gradients of heads before positions and norms; `x` is what the norm took. */
static void turn_heads_back(struct lq_backward *backward, float *grad, const float *x,
                            enum lq_layer_weight norm, size_t head_count, size_t rows)
{
    struct lq_forward *forward = backward->forward;
    const struct lq_hparams *hparams = &forward->hparams;
    bool windowed = lq_hparams_is_windowed(hparams, forward->layer);
    forward->ops->rope(forward->device, grad, windowed ? backward->rope_windowed : backward->rope,
                       rows, backward->sequence, head_count, hparams->head_dim,
                       hparams->rope_dim / 2, hparams->rope_halves);
    if (forward->weights[norm] != NULL) {
        forward->ops->rms_norm_back(forward->device, x, forward->weights[norm], grad, grad,
                                    rows * head_count, hparams->head_dim, (float)hparams->norm_eps);
    }
}

static void run_scores_back(struct lq_backward *backward, size_t samples)
{
    struct lq_forward *forward = backward->forward;
    const struct lq_hparams *hparams = &forward->hparams;
    size_t rows = samples * backward->sequence;
    const struct lq_attention_shape shape = lq_forward_attention_shape(forward, samples);
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
    turn_heads_back(backward, backward->q_grad, backward->tape.q, LQ_WEIGHT_ATTN_Q_NORM,
                    hparams->head_count, rows);
    turn_heads_back(backward, backward->k_grad, backward->tape.k, LQ_WEIGHT_ATTN_K_NORM,
                    hparams->kv_head_count, rows);
}

static void run_attention_back(struct lq_backward *backward, size_t samples)
{
    struct lq_forward *forward = backward->forward;
    size_t rows = samples * backward->sequence;
    const float *out_grad =
        undo_post_norm(backward, backward->tape.attn_out, LQ_WEIGHT_ATTN_POST_NORM, rows);
    score_weight(backward, LQ_WEIGHT_ATTN_OUTPUT, out_grad, forward->attended, samples);
    pull_back(backward, LQ_WEIGHT_ATTN_OUTPUT, out_grad, backward->attended_grad, rows);
    run_scores_back(backward, samples);
    norm_again(backward, backward->in, LQ_WEIGHT_ATTN_NORM, rows);
    score_weight(backward, LQ_WEIGHT_ATTN_Q, backward->q_grad, forward->normed, samples);
    score_weight(backward, LQ_WEIGHT_ATTN_K, backward->k_grad, forward->normed, samples);
    score_weight(backward, LQ_WEIGHT_ATTN_V, backward->v_grad, forward->normed, samples);
    pull_back(backward, LQ_WEIGHT_ATTN_Q, backward->q_grad, backward->branch, rows);
    add_pulled(backward, LQ_WEIGHT_ATTN_K, backward->k_grad, rows);
    add_pulled(backward, LQ_WEIGHT_ATTN_V, backward->v_grad, rows);
    if (!lq_forward_is_cancelled(forward)) {
        join_stream(backward, backward->in, LQ_WEIGHT_ATTN_NORM, rows);
    }
}

/* ---- the layer ---- */

void lq_backward_run_layer(struct lq_backward *backward, size_t sample_count)
{
    struct lq_forward *forward = backward->forward;
    size_t elems = sample_count * backward->sequence * forward->hparams.width;
    forward->ops->copy(forward->device, backward->part, backward->in, elems);
    backward->newest_samples = sample_count;
    forward->tape = backward->tape;
    lq_forward_run_layer(forward, backward->part, sample_count, false, true);
    forward->tape = (struct lq_forward_tape){0};
    if (!lq_forward_is_cancelled(forward)) {
        run_ffn_back(backward, sample_count);
        run_attention_back(backward, sample_count);
    }
}
