/* The steps behind an importance matrix by gradients. Forward as in calibrate.h, with the hidden
 * states behind the last layer as well; then the loss; then one step for each layer, from the last
 * to the first, that makes the layer's activations again from its input and passes the gradient on;
 * then the file. Hidden states and gradients between layers are transient outputs in the format of
 * calibrate.h, and a killed run goes on at the newest of them.
 *
 * A layer's step also leaves the best weights of each of its matrices by their own scores, for
 * masks; all lists together are the artifact's output "ranks" (gradient_ranks.c). Thread rule: runs
 * on the expansion's thread. Limits: those of tokens.h and hparams.h. */
#ifndef LQ_RULES_MODEL_GRADIENT_H
#define LQ_RULES_MODEL_GRADIENT_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/rule.h"
#include "rules/model/calibrate.h"

/* How many weights of a tensor keep their scores: a thousandth, at least 4096, at most all. */
uint64_t lq_gradient_rank_count(uint64_t elems);
/* Adds a step whose output "candidates" is one tensor's list, as in super_weights.h, best first. */
enum lq_status lq_gradient_pick_ranks(struct lq_expand *expand, const struct lq_artifact *imatrix,
                                      const char *tensor_name, size_t *step, struct lq_error *err);
/* Adds the steps and binds the output "ranks"; *step is the one with "main" and "gguf". */
enum lq_status lq_gradient_layers(struct lq_expand *expand,
                                  const struct lq_calibrate_request *request, size_t *step,
                                  struct lq_error *err);

#endif
