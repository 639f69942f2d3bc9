#include "rules/model/spikes.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/kernels.h"
#include "rules/model/forward_parts.h"

/* The part of an output that one product must make up to be its cause: several weights of a row may
 * share a spike (Llama-13B has two). */
#define SPIKE_SHARE_MIN 0.25

struct search {
    struct lq_forward *forward;
    size_t rows; /* of activations and outputs: rows of the batch, or slots of experts */
    size_t in_cols;
    size_t out_cols;
    float *out;    /* device memory */
    float *values; /* host memory: outputs, then one row of activations */
};

enum lq_layer_weight lq_spikes_weight(const struct lq_hparams *hparams)
{
    return hparams->expert_count == 0 ? LQ_WEIGHT_FFN_DOWN : LQ_WEIGHT_FFN_DOWN_EXPS;
}

/* The expert that a row belongs to, and the first row behind its rows. */
static size_t expert_of(const struct search *search, size_t row, size_t *end)
{
    const struct lq_forward *forward = search->forward;
    size_t expert = 0;
    *end = search->rows;
    if (forward->hparams.expert_count == 0) {
        return 0;
    }
    while ((size_t)forward->starts[expert + 1] <= row) {
        expert++;
    }
    *end = (size_t)forward->starts[expert + 1];
    return expert;
}

/* The matrix of an expert, or the only one; NULL after a failure, which sticks. */
static const float *matrix_of(const struct search *search, size_t expert)
{
    struct lq_forward *forward = search->forward;
    enum lq_layer_weight weight = lq_spikes_weight(&forward->hparams);
    return forward->hparams.expert_count == 0 ? forward->weights[weight]
                                              : lq_forward_expert(forward, weight, expert);
}

static void make_outputs(const struct search *search)
{
    struct lq_forward *forward = search->forward;
    size_t end = 0;
    for (size_t row = 0; row < search->rows; row = end) {
        const float *matrix = matrix_of(search, expert_of(search, row, &end));
        if (matrix == NULL || lq_forward_is_cancelled(forward)) {
            return;
        }
        forward->ops->matmul(forward->device, forward->gate + row * search->in_cols, matrix,
                             search->out + row * search->out_cols, end - row, search->out_cols,
                             search->in_cols);
    }
}

static size_t largest(const float *values, size_t count)
{
    size_t best = 0;
    for (size_t i = 1; i < count; i++) {
        best = fabsf(values[i]) > fabsf(values[best]) ? i : best;
    }
    return best;
}

/* The weight behind the largest output; false when it is none. */
static bool find_spike(const struct search *search, double threshold, struct lq_spike *spike)
{
    struct lq_forward *forward = search->forward;
    size_t count = search->rows * search->out_cols;
    forward->ops->download(forward->device, search->values, search->out, count * sizeof(float));
    size_t at = largest(search->values, count);
    float output = search->values[at];
    size_t row = at / search->out_cols;
    size_t channel = at % search->out_cols;
    forward->ops->download(forward->device, search->values, forward->gate + row * search->in_cols,
                           search->in_cols * sizeof(float));
    size_t col = largest(search->values, search->in_cols);
    float input = search->values[col];
    size_t end = 0;
    size_t expert = expert_of(search, row, &end);
    uint64_t position = ((uint64_t)expert * search->out_cols + channel) * search->in_cols + col;
    const float *matrix = matrix_of(search, expert);
    if (matrix == NULL) {
        return false;
    }
    float value = 0.0f;
    forward->ops->download(forward->device, &value, matrix + channel * search->in_cols + col,
                           sizeof value);
    double share = (double)input * (double)value / (double)output;
    uint32_t token =
        (uint32_t)(forward->hparams.expert_count == 0 ? row : (size_t)forward->sources[row]);
    *spike = (struct lq_spike){position, value, input, output, token};
    return fabs((double)output) > threshold && fabs((double)input) > threshold &&
           share >= SPIKE_SHARE_MIN;
}

static void clear_weight(const struct search *search, uint64_t position)
{
    static const float zero = 0.0f;
    struct lq_forward *forward = search->forward;
    enum lq_layer_weight kind = lq_spikes_weight(&forward->hparams);
    size_t elems = search->in_cols * search->out_cols;
    float *matrix = forward->hparams.expert_count == 0
                        ? forward->weights[kind]
                        : lq_forward_keep_expert(forward, kind, (size_t)(position / elems));
    if (matrix != NULL) {
        forward->ops->upload(forward->device, matrix + position % elems, &zero, sizeof zero);
    }
}

static enum lq_status search_layer(struct search *search, double threshold,
                                   struct lq_spike spikes[LQ_SPIKES_MAX], size_t *count,
                                   struct lq_error *err)
{
    struct lq_forward *forward = search->forward;
    *count = 0;
    while (*count < LQ_SPIKES_MAX) {
        make_outputs(search);
        if (lq_forward_is_cancelled(forward)) {
            return lq_forward_check_cancelled(forward, err);
        }
        bool found = find_spike(search, threshold, &spikes[*count]);
        enum lq_status status = lq_forward_check_device(forward, err);
        if (status != LQ_OK || !found) {
            return status;
        }
        clear_weight(search, spikes[*count].position);
        (*count)++;
    }
    return lq_forward_check_device(forward, err);
}

enum lq_status lq_spikes_pass(struct lq_forward *forward, float *hidden, size_t sample_count,
                              double threshold, struct lq_spike spikes[LQ_SPIKES_MAX],
                              size_t *count, struct lq_error *err)
{
    const struct lq_hparams *hparams = &forward->hparams;
    size_t rows = sample_count * forward->sequence;
    size_t elems = rows * hparams->width;
    struct search search = {
        .forward = forward,
        .rows = rows * (hparams->expert_count == 0 ? 1 : hparams->expert_used),
        .in_cols = hparams->ffn_width,
        .out_cols = hparams->width,
    };
    size_t room = search.rows * search.out_cols;
    room = room < search.in_cols ? search.in_cols : room;
    search.out = lq_forward_take(forward, room, sizeof(float));
    search.values = malloc(room * sizeof(float));
    float *x = lq_forward_take(forward, elems, sizeof(float));
    enum lq_status status = search.values == NULL ? lq_error_nomem(err, "outputs of a layer")
                                                  : lq_forward_check_device(forward, err);
    if (status == LQ_OK) {
        forward->ops->upload(forward->device, x, hidden, elems * sizeof(float));
        lq_forward_run_layer(forward, x, sample_count, false, true);
        status = search_layer(&search, threshold, spikes, count, err);
    }
    if (status == LQ_OK) {
        lq_forward_run_down(forward, x, rows);
        forward->ops->download(forward->device, hidden, x, elems * sizeof(float));
        status = lq_forward_check_device(forward, err);
    }
    if (status == LQ_OK && lq_kernels()->find_nonfinite(hidden, elems) != elems) {
        status = lq_error_set(err, forward->env.nonfinite_status,
                              "layer %u gives activations that are NaN or infinite",
                              (unsigned)forward->layer);
    }
    lq_forward_give(forward, search.out);
    lq_forward_give(forward, x);
    free(search.values);
    return status;
}
