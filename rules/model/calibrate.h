/* The steps behind an importance matrix: one step per layer that streams every sample through it
 * and sums the squares of its inputs, one that assembles the file, and one that takes a finished
 * file instead. Hidden states between layers are transient outputs (hidden_states.h). The inputs of
 * a step are its own tensors and the hidden state before it, so a changed tensor repeats its layer
 * and those behind it. Thread rule: runs on the expansion's thread. Limits: those of tokens.h and
 * hparams.h. */
#ifndef LQ_RULES_MODEL_CALIBRATE_H
#define LQ_RULES_MODEL_CALIBRATE_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/error.h"
#include "engine/rule.h"
#include "rules/format/imatrix.h"
#include "rules/model/hparams.h"
#include "rules/model/tensor_index.h"

struct lq_calibrate_request {
    const struct lq_artifact *model;
    const struct lq_artifact *calibration; /* only for lq_calibrate_layers */
    enum lq_imatrix_format format;         /* of the output "main"; "gguf" is always GGUF */
    enum lq_importance_method method;
    bool hidden_bf16; /* hidden states between layers are bf16, not f32 */
    bool skip_first;  /* leave the first token of each sample out */
    bool ranges;      /* the layers' steps have an output "ranges" besides (layer_ranges.h) */
    bool moments;     /* and one for each input of their matrices (moments.h) */
};

/* Adds the steps that compute it; *step is the one with the outputs "main" and "gguf".
 * LQ_EUNSUPPORTED for a model that the forward pass does not know. */
enum lq_status lq_calibrate_layers(struct lq_expand *expand,
                                   const struct lq_calibrate_request *request, size_t *step,
                                   struct lq_error *err);
/* Adds only the steps of the layers, for their ranges or moments: layers[i] is the step of layer i.
 * The model's index and hyperparameters come back as well. */
enum lq_status lq_calibrate_ranges(struct lq_expand *expand,
                                   const struct lq_calibrate_request *request,
                                   struct lq_tensor_index *index, struct lq_hparams *hparams,
                                   const size_t **layers, struct lq_error *err);
/* The output with the moments of an input; NULL for inputs of experts, which have none. */
const char *lq_calibrate_moments_output(enum lq_layer_input input);
/* Adds the step that loads source 0 of `artifact`, any of the three formats, and checks that it
 * fits the model: LQ_EIMATRIX at run time when it does not. */
enum lq_status lq_calibrate_load(struct lq_expand *expand,
                                 const struct lq_calibrate_request *request,
                                 const struct lq_artifact *artifact, size_t *step,
                                 struct lq_error *err);

#endif
