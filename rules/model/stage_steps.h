/* The forward pass of a calibration through a model whose matrices are replaced on the way: steps
 * that run a part of a layer (forward.h has the parts) and find the moments (moments.h) of what
 * flows into the next matrices, which whoever replaces these is to know. Each part sees what
 * was replaced before it, in its own layer as well. Hidden states are kept at two places of a
 * layer, in front of it and between attention and feed-forward part, so that q, k and v, and gate
 * and up, are multiplied with twice and everything else once.
 *
 * Usage, layer after layer: for the inputs LQ_INPUT_ATTN, _ATTN_OUTPUT, _FFN and _FFN_DOWN in this
 * order lq_stages_measure, then lq_stages_replace for the matrices of that input; then
 * lq_stages_leave.
 *
 * Outputs of the steps are "moments" and transient rows. The first moments of the model depend on
 * nothing that is replaced and stay in the cache, all others are transient. Ownership: of the
 * expand arena. Thread rule: the expanding thread. Limits: those of hparams.h; no mixtures of
 * experts. */
#ifndef LQ_RULES_MODEL_STAGE_STEPS_H
#define LQ_RULES_MODEL_STAGE_STEPS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/rule.h"
#include "rules/model/hparams.h"
#include "rules/model/tensor_index.h"

struct lq_stages;

/* Reads the model. LQ_EUNSUPPORTED for a mixture of experts and what the forward pass does not
 * know. */
enum lq_status lq_stages_begin(struct lq_expand *expand, const struct lq_artifact *model,
                               const struct lq_artifact *calibration, struct lq_stages **out,
                               struct lq_error *err);
const struct lq_hparams *lq_stages_hparams(const struct lq_stages *stages);
const struct lq_tensor_index *lq_stages_index(const struct lq_stages *stages);
/* Adds the step of the part up to `input`; *step has the output "moments". */
enum lq_status lq_stages_measure(struct lq_stages *stages, uint32_t layer,
                                 enum lq_layer_input input, size_t *step, struct lq_error *err);
/* From now on, in this layer, the matrix is what `ref` gives: floats, in the order that the source
 * has its rows in. */
void lq_stages_replace(struct lq_stages *stages, enum lq_layer_weight weight,
                       const struct lq_ref *ref);
/* Adds the step that ends the layer, unless it is the last one. */
enum lq_status lq_stages_leave(struct lq_stages *stages, uint32_t layer, struct lq_error *err);

#endif
