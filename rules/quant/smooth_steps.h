/* The steps of SmoothQuant: for each layer one that finds the scales of the columns behind its two
 * norms, and replaces these; for each matrix one that rounds it to 8 bits; and one that says what
 * the activations were like, which scales were chosen and what is hard to round. Thread rule: steps
 * are added on the expanding thread. Limits: those of hparams.h. */
#ifndef LQ_RULES_QUANT_SMOOTH_STEPS_H
#define LQ_RULES_QUANT_SMOOTH_STEPS_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/rule.h"
#include "rules/model/hparams.h"
#include "rules/model/tensor_index.h"

/* What all steps are about; lives in the expand arena. */
struct lq_smooth_job {
    struct lq_expand *expand;
    const struct lq_artifact *model;
    const struct lq_artifact *calibration;
    struct lq_tensor_index index;
    struct lq_hparams hparams;
    const size_t *ranges; /* the step with the output "ranges" of each layer */
    double alpha;
    const char *alpha_text;
    size_t *scales;  /* the step of each layer: outputs "attn_norm", "ffn_norm" and "scales" */
    size_t *tensors; /* the step of each tensor of the index that is rounded, else SIZE_MAX: outputs
                        "data", "scale" and "error" */
};

/* Reads the model, and adds all steps but the report. Errors: LQ_EUNSUPPORTED for models whose
 * norms or matrices are of another kind. */
enum lq_status lq_smooth_add_steps(struct lq_smooth_job *job, struct lq_error *err);
/* Adds the step with the outputs "scales" (JSON) and "summary" (text). */
enum lq_status lq_smooth_add_report(const struct lq_smooth_job *job, size_t *step,
                                    struct lq_error *err);
/* The norm that `name` is, 0 or 1, and its layer; false for other tensors. */
bool lq_smooth_find_norm(const struct lq_smooth_job *job, const char *name, uint32_t *layer,
                         const char **output);

#endif
