#include "rules/model/backward.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/checked.h"
#include "engine/base/compiler.h"
#include "engine/base/limits.h"
#include "kernels/kernels.h"
#include "rules/model/backward_parts.h"

/* Tokens of a batch on a CPU whose products are our own tiles, where batches change no bit: half of
 * the usual number, because weights and their scores already take twice the memory of a layer. */
enum { OWN_BATCH_ROWS = 1024 };

/* Elements of all matrices of a weight; 0 for one that the model does not have. */
static uint64_t weight_elems(const struct lq_hparams *hparams, enum lq_layer_weight weight)
{
    uint64_t cols = 0;
    uint64_t rows = 0;
    if (!lq_hparams_has(hparams, weight)) {
        return 0;
    }
    lq_layer_weight_shape(hparams, weight, &cols, &rows);
    return cols * rows * lq_layer_weight_mats(hparams, weight);
}

/* Elements of the largest matrix, one expert's for experts. */
static uint64_t largest_matrix(const struct lq_hparams *hparams)
{
    uint64_t largest = 0;
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        enum lq_layer_weight weight = (enum lq_layer_weight)w;
        if (lq_hparams_has_matrix(hparams, weight)) {
            uint64_t elems = weight_elems(hparams, weight) / lq_layer_weight_mats(hparams, weight);
            largest = elems > largest ? elems : largest;
        }
    }
    return largest;
}

/* ---- life ---- */

static uint64_t pass_bytes(const struct lq_hparams *hparams, const struct lq_forward_env *env,
                           uint64_t rows)
{
    uint64_t layer = 0;
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        layer += weight_elems(hparams, (enum lq_layer_weight)w);
    }
    uint64_t scratch = lq_forward_scratch(hparams, rows);
    /* Gradients of rows at most double the scratch of the forward pass, the tape adds less than as
     * much again; every weight has a score, and one matrix a gradient. */
    return lq_forward_pass_bytes(hparams, env, rows) + 2 * scratch +
           (layer + largest_matrix(hparams)) * sizeof(float);
}

uint64_t lq_backward_memory(const struct lq_hparams *hparams, uint32_t sequence)
{
    return pass_bytes(hparams, NULL, lq_forward_usual_rows(sequence));
}

/* Turning back is turning by the opposite angles: the table with its sines negated. A factor of
 * cosines and sines stays, for a product's gradient has it too. */
static enum lq_status turn_table(struct lq_backward *backward, const float *from, float **out,
                                 struct lq_error *err)
{
    struct lq_forward *forward = backward->forward;
    size_t count = forward->sequence * forward->hparams.rope_dim;
    size_t size_bytes = count * sizeof(float);
    float *table = malloc(size_bytes);
    if (table == NULL) {
        return lq_error_nomem(err, "rotary positions");
    }
    forward->ops->download(forward->device, table, from, size_bytes);
    for (size_t i = 1; i < count; i += 2) {
        table[i] = -table[i];
    }
    *out = lq_forward_take(forward, size_bytes, 1);
    forward->ops->upload(forward->device, *out, table, size_bytes);
    free(table);
    return lq_forward_check_device(forward, err);
}

static enum lq_status make_rope(struct lq_backward *backward, struct lq_error *err)
{
    const struct lq_forward *forward = backward->forward;
    enum lq_status status = turn_table(backward, forward->rope, &backward->rope, err);
    backward->rope_windowed = backward->rope;
    if (status == LQ_OK && forward->rope_windowed != forward->rope) {
        backward->rope_windowed = NULL;
        status = turn_table(backward, forward->rope_windowed, &backward->rope_windowed, err);
    }
    return status;
}

static size_t lane_count(const struct lq_backward *backward)
{
    return backward->options.lanes == 0 ? 1 : backward->options.lanes;
}

/* Memory for the lanes behind the first. */
static uint64_t lane_bytes(const struct lq_hparams *hparams, size_t lanes)
{
    uint64_t elems = 0;
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        elems += weight_elems(hparams, (enum lq_layer_weight)w);
    }
    return lanes < 2 ? 0 : (lanes - 1) * elems * sizeof(float);
}

/* Sums of a matrix's columns, for each expert; 0 for what is not a matrix of the model. */
static size_t sum_count(const struct lq_hparams *hparams, enum lq_layer_weight weight)
{
    enum lq_layer_input input = lq_layer_weight_input(weight);
    return lq_hparams_has_matrix(hparams, weight)
               ? lq_layer_input_cols(hparams, input) * lq_layer_input_mats(hparams, input)
               : 0;
}

/* Those of all samples of a batch where they are apart. */
static size_t all_sums(const struct lq_backward *backward, enum lq_layer_weight weight)
{
    const struct lq_forward *forward = backward->forward;
    return sum_count(&forward->hparams, weight) *
           (backward->options.apart ? forward->batch_samples : 1);
}

static enum lq_status take_scratch(struct lq_backward *backward, struct lq_error *err)
{
    struct lq_forward *forward = backward->forward;
    const struct lq_hparams *hparams = &forward->hparams;
    uint64_t rows = forward->batch_rows;
    uint64_t slots = lq_forward_slots(hparams, rows);
    uint64_t q_width = lq_forward_q_width(hparams);
    uint64_t kv_width = lq_forward_kv_width(hparams);
    bool head_norms = lq_hparams_has(hparams, LQ_WEIGHT_ATTN_Q_NORM);
    bool post_norm = lq_hparams_has(hparams, LQ_WEIGHT_ATTN_POST_NORM);
    struct {
        float **to;
        uint64_t count; /* 0: not needed */
    } const all[] = {
        {&backward->in, rows * hparams->width},
        {&backward->grad, rows * hparams->width},
        {&backward->branch, rows * hparams->width},
        {&backward->part, rows * hparams->width},
        {&backward->q_grad, rows * q_width},
        {&backward->k_grad, rows * kv_width},
        {&backward->v_grad, rows * kv_width},
        {&backward->attended_grad, rows * q_width},
        {&backward->act_grad, slots * hparams->ffn_width},
        {&backward->slot_grad, hparams->expert_count == 0 ? 0 : slots * hparams->width},
        {&backward->router_grad, rows * hparams->expert_count},
        {&backward->weight_grad, largest_matrix(hparams)},
        {&backward->tape.middle, rows * hparams->width},
        {&backward->tape.gate, slots * hparams->ffn_width},
        {&backward->tape.q, head_norms ? rows * q_width : 0},
        {&backward->tape.k, head_norms ? rows * kv_width : 0},
        {&backward->tape.attn_out, post_norm ? rows * hparams->width : 0},
    };
    for (size_t i = 0; i < LQ_COUNT_OF(all); i++) {
        *all[i].to =
            all[i].count == 0 ? NULL : lq_forward_take(forward, all[i].count, sizeof(float));
    }
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        size_t count = all_sums(backward, (enum lq_layer_weight)w);
        backward->sums[w] = count == 0 ? NULL : lq_forward_take(forward, count, sizeof(double));
    }
    if (hparams->expert_count != 0) {
        backward->expert_samples = calloc(hparams->expert_count, sizeof *backward->expert_samples);
        if (backward->expert_samples == NULL) {
            return lq_error_nomem(err, "experts");
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
    struct lq_forward_env own = *env;
    if (own.batch_rows == 0 && env->device->ops->arrange != NULL) {
        own.batch_rows = OWN_BATCH_ROWS;
    }
    uint64_t lanes = lane_bytes(hparams, options->lanes);
    if (own.memory_bytes != 0) {
        own.memory_bytes = own.memory_bytes > lanes ? own.memory_bytes - lanes : 1;
    }
    enum lq_status status =
        lq_forward_create_within(&backward->forward, hparams, &own, sequence, pass_bytes, err);
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
        if (lq_hparams_has_matrix(&backward->forward->hparams, (enum lq_layer_weight)w)) {
            lq_forward_give(backward->forward, backward->scores[w]);
        }
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
        if (backward->rope_windowed != backward->rope) {
            lq_forward_give(backward->forward, backward->rope_windowed);
        }
        void *const all[] = {
            backward->in,        backward->grad,          backward->branch,
            backward->part,      backward->q_grad,        backward->k_grad,
            backward->v_grad,    backward->attended_grad, backward->act_grad,
            backward->slot_grad, backward->router_grad,   backward->weight_grad,
            backward->rope,      backward->tape.middle,   backward->tape.gate,
            backward->tape.q,    backward->tape.k,        backward->tape.attn_out,
        };
        for (size_t i = 0; i < LQ_COUNT_OF(all); i++) {
            lq_forward_give(backward->forward, all[i]);
        }
        for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
            if (lq_hparams_has_matrix(&backward->forward->hparams, (enum lq_layer_weight)w)) {
                lq_forward_give(backward->forward, backward->sums[w]);
            }
        }
    }
    lq_forward_destroy(backward->forward);
    free(backward->expert_samples);
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
                            (float)(1.0 / (double)(backward->sequence - 1)),
                            (float)hparams->logit_cap);
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

/* Sums and scores of the parts of fused matrices lie where their weights do. */
static void point_into_fused(struct lq_backward *backward)
{
    static const struct {
        enum lq_layer_weight whole;
        enum lq_layer_weight part;
    } parts[] = {
        {LQ_WEIGHT_ATTN_QKV, LQ_WEIGHT_ATTN_Q},    {LQ_WEIGHT_ATTN_QKV, LQ_WEIGHT_ATTN_K},
        {LQ_WEIGHT_ATTN_QKV, LQ_WEIGHT_ATTN_V},    {LQ_WEIGHT_FFN_GATE_UP, LQ_WEIGHT_FFN_GATE},
        {LQ_WEIGHT_FFN_GATE_UP, LQ_WEIGHT_FFN_UP},
    };
    float *const *weights = backward->forward->weights;
    for (size_t i = 0; i < LQ_COUNT_OF(parts); i++) {
        enum lq_layer_weight whole = parts[i].whole;
        enum lq_layer_weight part = parts[i].part;
        if (lq_hparams_has(&backward->forward->hparams, whole)) {
            float *scores = backward->scores[whole];
            backward->sums[part] = backward->sums[whole];
            backward->lane_elems[part] = backward->lane_elems[whole];
            backward->scores[part] =
                scores == NULL ? NULL : scores + (weights[part] - weights[whole]);
        }
    }
}

enum lq_status lq_backward_load_layer(struct lq_backward *backward, uint32_t layer,
                                      struct lq_error *err)
{
    struct lq_forward *forward = backward->forward;
    enum lq_status status = lq_forward_load_layer(forward, layer, err);
    if (status != LQ_OK) {
        return status;
    }
    backward->sample_count = 0;
    backward->lane = 0;
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        uint64_t elems = weight_elems(&forward->hparams, (enum lq_layer_weight)w);
        if (!lq_hparams_has_matrix(&forward->hparams, (enum lq_layer_weight)w)) {
            continue;
        }
        uint64_t all = elems * lane_count(backward);
        backward->lane_elems[w] = (size_t)elems;
        if (backward->options.scores && backward->scores[w] == NULL) {
            backward->scores[w] = lq_forward_take(forward, all, sizeof(float));
        }
        if (backward->scores[w] != NULL) {
            forward->ops->zero(forward->device, backward->scores[w], all * sizeof(float));
        }
        size_t count = all_sums(backward, (enum lq_layer_weight)w);
        forward->ops->zero(forward->device, backward->sums[w], count * sizeof(double));
    }
    if (backward->expert_samples != NULL) {
        memset(backward->expert_samples, 0,
               forward->hparams.expert_count * sizeof *backward->expert_samples);
    }
    point_into_fused(backward);
    return lq_forward_check_device(forward, err);
}

void lq_backward_use_lane(struct lq_backward *backward, size_t lane)
{
    backward->lane = lane;
}

static enum lq_status check_sums(const struct lq_backward *backward, enum lq_layer_weight weight,
                                 const double *sums, size_t count, struct lq_error *err)
{
    const struct lq_forward *forward = backward->forward;
    size_t cols = lq_layer_input_cols(&forward->hparams, lq_layer_weight_input(weight));
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(sums[i])) {
            char name[LQ_WEIGHT_NAME_BYTES];
            return lq_error_set(err, forward->env.nonfinite_status,
                                "the gradient of '%s' is NaN or infinite in column %zu",
                                lq_layer_weight_path(forward->layer, weight, name), i % cols);
        }
    }
    return LQ_OK;
}

static enum lq_status fetch_sums(struct lq_backward *backward, enum lq_layer_weight weight,
                                 double *sums, size_t count, struct lq_error *err)
{
    struct lq_forward *forward = backward->forward;
    forward->ops->download(forward->device, sums, backward->sums[weight], count * sizeof *sums);
    enum lq_status status = lq_forward_check_device(forward, err);
    return status == LQ_OK ? check_sums(backward, weight, sums, count, err) : status;
}

enum lq_status lq_backward_sums(struct lq_backward *backward, enum lq_layer_weight weight,
                                double *sums, struct lq_error *err)
{
    return fetch_sums(backward, weight, sums, sum_count(&backward->forward->hparams, weight), err);
}

enum lq_status lq_backward_add_sums(struct lq_backward *backward, enum lq_layer_weight weight,
                                    double *sums, struct lq_error *err)
{
    struct lq_forward *forward = backward->forward;
    size_t cols = sum_count(&forward->hparams, weight);
    size_t count = cols * backward->newest_samples;
    double *all = malloc(count * sizeof *all + 1);
    if (all == NULL) {
        return lq_error_nomem(err, "sums of gradients");
    }
    enum lq_status status = fetch_sums(backward, weight, all, count, err);
    for (size_t i = 0; status == LQ_OK && i < count; i++) {
        sums[i % cols] += all[i];
    }
    free(all);
    forward->ops->zero(forward->device, backward->sums[weight], count * sizeof *all);
    return status;
}

/* An error that names the first matrix, in the order of the backward pass, whose gradient is not
 * finite; LQ_OK when all are. */
static enum lq_status name_nonfinite(struct lq_backward *backward, struct lq_error *err)
{
    double *sums = NULL;
    size_t room = 0;
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        size_t count = sum_count(&backward->forward->hparams, (enum lq_layer_weight)w);
        room = count > room ? count : room;
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
    enum lq_status status = lq_forward_check_cancelled(forward, err);
    if (status != LQ_OK) {
        return status;
    }
    forward->ops->download(forward->device, grad, backward->grad, elems * sizeof(float));
    status = lq_forward_check_device(forward, err);
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
    uint64_t mats = lq_layer_weight_mats(&backward->forward->hparams, weight);
    bool by_expert = lq_layer_weight_input(weight) == LQ_INPUT_FFN_EXPS ||
                     lq_layer_weight_input(weight) == LQ_INPUT_FFN_DOWN_EXPS;
    for (uint64_t m = 0; m < mats; m++) {
        counts[m] = by_expert ? backward->expert_samples[m] : backward->sample_count;
    }
}

enum lq_status lq_backward_scores(struct lq_backward *backward, enum lq_layer_weight weight,
                                  const float **scores, struct lq_error *err)
{
    struct lq_forward *forward = backward->forward;
    *scores = backward->scores[weight];
    for (size_t half = lane_count(backward) / 2; half > 0 && *scores != NULL; half /= 2) {
        size_t elems = half * backward->lane_elems[weight];
        forward->ops->add(forward->device, backward->scores[weight],
                          backward->scores[weight] + elems, elems);
    }
    if (*scores == NULL || forward->ops->host_visible) {
        return lq_forward_check_device(forward, err);
    }
    size_t size_bytes = (size_t)weight_elems(&forward->hparams, weight) * sizeof(float);
    free(backward->host_scores);
    backward->host_scores = malloc(size_bytes);
    if (backward->host_scores == NULL) {
        return lq_error_nomem(err, "scores of weights");
    }
    forward->ops->download(forward->device, backward->host_scores, *scores, size_bytes);
    *scores = backward->host_scores;
    return lq_forward_check_device(forward, err);
}
