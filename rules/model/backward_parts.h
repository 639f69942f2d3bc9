/* What the files of the backward pass share. backward.c owns the object's life, the loss and the
 * sums, backward_layer.c the graph of a layer, whatever the architecture. Internal to backward*.c.
 * Thread rule: that of backward.h. Limits: those of backward.h. */
#ifndef LQ_RULES_MODEL_BACKWARD_PARTS_H
#define LQ_RULES_MODEL_BACKWARD_PARTS_H

#include "rules/model/backward.h"
#include "rules/model/forward_parts.h"

struct lq_backward {
    struct lq_gradient_options options;
    struct lq_forward *forward; /* makes activations again; its weights and scratch serve here */
    struct lq_forward_tape tape;
    size_t sequence;
    /* Device memory: what the layer took, gradients of rows, and one weight's gradient. */
    float *in;
    float *grad;   /* of the stream */
    float *branch; /* of what is added to the stream, then of what was taken from it */
    float *part;   /* a summand of the latter */
    float *q_grad;
    float *k_grad;
    float *v_grad;
    float *attended_grad;
    float *act_grad;
    float *slot_grad;   /* experts only: of the rows of slots */
    float *router_grad; /* experts only */
    float *weight_grad; /* of one matrix */
    float *rope;        /* the rotary tables that turn back, as those of forward_parts.h */
    float *rope_windowed;
    /* Those of matrices that the model has are owned. Those of the parts of fused ones point into
     * them, as the forward pass's weights do. */
    double
        *sums[LQ_LAYER_WEIGHT_COUNT]; /* [matrices x columns], of each sample if they are apart */
    float *scores[LQ_LAYER_WEIGHT_COUNT];     /* [lanes x matrices x rows x columns] */
    size_t lane_elems[LQ_LAYER_WEIGHT_COUNT]; /* from one lane to the next */
    size_t lane;
    size_t newest_samples; /* of the newest batch */
    float *host_scores;    /* for devices whose memory is not the host's */
    uint64_t sample_count;
    uint64_t *expert_samples; /* host memory: samples of which a scored token reached the expert */
};

/* The backward twin of a layer: `in` and `grad` are set, `grad` is replaced. */
void lq_backward_run_layer(struct lq_backward *backward, size_t sample_count);

#endif
