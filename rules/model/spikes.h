/* Super weights by activation spikes (Yu and others, "The Super Weight in Large Language Models",
 * arXiv 2411.07191): a weight of ffn_down that turns a very large activation into a very large
 * output at the same token. In the layer at hand the largest output is sought; its row is the
 * output's channel, its column that of the largest input at the same token. The weight is one if
 * both are above the threshold and their product makes up at least a quarter of the output. It is
 * then held out (set to zero), the outputs are made again, and the search goes on until nothing is
 * left above the threshold. The layer's result is that without the weights held out, so that layers
 * behind it show their own spikes and not echoes. Written against the parts of the forward pass.
 * Thread rule: that of forward.h. Limits: LQ_SPIKES_MAX for each layer. */
#ifndef LQ_RULES_MODEL_SPIKES_H
#define LQ_RULES_MODEL_SPIKES_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "rules/model/forward.h"

enum { LQ_SPIKES_MAX = 64, LQ_SPIKE_BYTES = 24 };

/* As bytes, little-endian: u64 position, f32 weight, input and output, u32 token. */
struct lq_spike {
    uint64_t position; /* in the tensor: row * columns + column; experts follow each other */
    float weight;
    float input;    /* the largest activation at the token */
    float output;   /* the output that it gives with all weights that were not held out yet */
    uint32_t token; /* its number within the batch */
};

/* The tensor of a layer that is searched: ffn_down, or ffn_down_exps. */
enum lq_layer_weight lq_spikes_weight(const struct lq_hparams *hparams);
/* Passes one batch through the loaded layer, in place, and finds its spikes, largest output first.
 * The layer must be loaded anew before it is used again: its weights have changed. */
enum lq_status lq_spikes_pass(struct lq_forward *forward, float *hidden, size_t sample_count,
                              double threshold, struct lq_spike spikes[LQ_SPIKES_MAX],
                              size_t *count, struct lq_error *err);

#endif
