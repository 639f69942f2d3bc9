/* How much an error in each tensor matters to the model's output: the factors that make relative
 * errors of different tensors comparable. The damage of a set of small errors is about the sum of
 * factor x relative squared error (the linearity theorem of HIGGS, arXiv 2411.17525); the factors
 * here are not searched for by running the model but follow from how each tensor reaches the
 * residual stream, computed from signals that are measured anyway (docs/numerics-profile.md derives
 * them and shows how well they predict). Thread rule: pure. Limits: LQ_MODEL_LAYERS_MAX layers. */
#ifndef LQ_RULES_PROFILE_COEFFICIENTS_H
#define LQ_RULES_PROFILE_COEFFICIENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"

struct lq_coefficient_input {
    const char *name;    /* GGUF name */
    uint64_t row_count;  /* ne[1] */
    uint64_t mat_count;  /* ne[2]: experts, 1 for a plain matrix */
    double signal;       /* expected squared output of all rows of all matrices */
    double squares;      /* sum of squared weights */
    bool has_importance; /* the signal was weighed with measured activations */
};

/* What an error of the output matrix weighs beside the same relative error of the residual stream.
 */
#define LQ_COEFFICIENT_OUTPUT 6.0
/* Errors of attn_q, attn_k and a gated ffn_up beside those of what they steer. */
#define LQ_COEFFICIENT_INDIRECT 0.5

/* factors[i] for inputs[i], all finite and not negative. `is_tied`: the embedding is the output.
 * Errors: LQ_EPROFILE for a layer number above the limit, LQ_ENOMEM. */
enum lq_status lq_coefficients(const struct lq_coefficient_input *inputs, size_t count,
                               bool is_tied, double *factors, struct lq_error *err);

#endif
