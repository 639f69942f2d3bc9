/* The backward pass of every architecture that forward.h knows: from the loss of each sample to
 * scores of every weight of a layer, one layer at a time, from the last to the first. The loss of a
 * sample is the mean negative log-likelihood of its next tokens, in nats. A layer's activations are
 * not kept from the forward pass but made again from its input, so one layer is resident. Written
 * once against kernels/device.h.
 *
 * For each sample s the gradient g_s of its loss with respect to a weight w is formed, and from it
 *   gradient:  sums[column] += |g_s w| over its rows,   score(w) += |g_s w|
 *   fisher:    sums[column] += g_s^2 over its rows,     score(w) += (g_s w)^2
 * Sums are doubles in the order of samples and rows; scores are floats in the order of samples.
 *
 * The caller keeps hidden states and gradients (rows of `width` floats) and hands them over in
 * batches of whole samples, as for the forward pass. Results depend neither on the number of
 * threads nor on the grouping, under the same rule. Ownership: the object owns everything in it;
 * the environment is borrowed. Thread rule: one thread at a time. Limits: those of forward.h, and
 * samples of at least two tokens. */
#ifndef LQ_RULES_MODEL_BACKWARD_H
#define LQ_RULES_MODEL_BACKWARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "rules/model/forward.h"

enum lq_gradient_method {
    LQ_GRADIENT_PRODUCT, /* |g w| */
    LQ_GRADIENT_FISHER,  /* g^2 */
};

struct lq_gradient_options {
    enum lq_gradient_method method;
    bool skip_first; /* leave the first token of each sample out of weight gradients */
    bool scores;     /* keep a score for every weight, besides the sums of columns */
    /* For several devices, which add up what each has, in an order that does not depend on their
     * number. A weight has so many scores, a power of two; 0: one. */
    size_t lanes;
    bool apart; /* sums are those of each sample of the newest batch; not for experts */
};

struct lq_backward;

enum lq_status lq_backward_create(struct lq_backward **out, const struct lq_hparams *hparams,
                                  const struct lq_forward_env *env, uint32_t sequence,
                                  const struct lq_gradient_options *options, struct lq_error *err);
void lq_backward_destroy(struct lq_backward *backward);
size_t lq_backward_batch_samples(const struct lq_backward *backward);
/* A guess at the memory that an object takes at its peak, besides raw weights. */
uint64_t lq_backward_memory(const struct lq_hparams *hparams, uint32_t sequence);

/* As lq_forward_embed. */
enum lq_status lq_backward_embed(struct lq_backward *backward, const int32_t *tokens, size_t count,
                                 float *hidden, struct lq_error *err);
/* Reads the final norm and the output matrix; a loaded layer is given up. */
enum lq_status lq_backward_load_output(struct lq_backward *backward, struct lq_error *err);
/* grad[i] = the gradient of the loss of row i's sample with respect to hidden[i]; `tokens` are
 * those of the samples. */
enum lq_status lq_backward_output(struct lq_backward *backward, const float *hidden,
                                  const int32_t *tokens, size_t sample_count, float *grad,
                                  struct lq_error *err);
/* Reads the weights of a layer, and sets sums and scores to zero. */
enum lq_status lq_backward_load_layer(struct lq_backward *backward, uint32_t layer,
                                      struct lq_error *err);
/* `hidden` is what the layer took; `grad`, with respect to what it gave, becomes that with respect
 * to what it took. Values that are not finite are errors of env.nonfinite_status. */
enum lq_status lq_backward_layer(struct lq_backward *backward, const float *hidden, float *grad,
                                 size_t sample_count, struct lq_error *err);
/* Batches from now on add to the scores of this lane. */
void lq_backward_use_lane(struct lq_backward *backward, size_t lane);
/* With options.apart: adds the sums of a matrix's columns to those in `sums`, sample by sample of
 * the newest batch. Once a batch for each matrix; errors as those of lq_backward_sums. */
enum lq_status lq_backward_add_sums(struct lq_backward *backward, enum lq_layer_weight weight,
                                    double *sums, struct lq_error *err);
/* The sums of a matrix's columns so far, for experts [matrices x columns]; an error when one is not
 * finite. */
enum lq_status lq_backward_sums(struct lq_backward *backward, enum lq_layer_weight weight,
                                double *sums, struct lq_error *err);
/* How many samples are in a matrix's sums: counts[lq_layer_weight_mats]; for an expert those of
 * which a token reached it. */
void lq_backward_counts(const struct lq_backward *backward, enum lq_layer_weight weight,
                        uint64_t *counts);
/* The scores of a matrix's weights so far; NULL without options.scores. Of `lanes` lanes lane i is
 * the sum of lanes i and i + lanes / 2, and so on with half as many, until one is left. Once for
 * each matrix. Host memory: borrowed until the next call. */
enum lq_status lq_backward_scores(struct lq_backward *backward, enum lq_layer_weight weight,
                                  const float **scores, struct lq_error *err);

#endif
