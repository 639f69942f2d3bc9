/* The step "quality.tensors": every tensor of a quantized model against the original's. Its output
 * "main" is a partial .qreport with one model that has sizes, effective bits per weight, coverage
 * of protected weights and one layer for each tensor that is quantized; perplexities are missing.
 * Thread rule: called on the expanding thread. */
#ifndef LQ_RULES_QUALITY_TENSORS_STEP_H
#define LQ_RULES_QUALITY_TENSORS_STEP_H

#include <stddef.h>

#include "engine/rule.h"

/* `original` is of kind "model", `quantized` what model_reader.h takes. At run time: LQ_EFORMAT
 * when the two are not the same model. */
enum lq_status lq_tensors_add_step(struct lq_expand *expand, const struct lq_artifact *original,
                                   const struct lq_artifact *quantized, size_t *index,
                                   struct lq_error *err);

#endif
