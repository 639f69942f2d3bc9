/* The steps that make a GGUF file when the types of its tensors are decided: one for each tensor
 * that takes long to encode, and one that assembles. In a large file whose bytes mostly cost less
 * to make than to read back from a disk (copies, floats, Q8_0 of floats) the step that assembles
 * makes them itself, in the order of the file, so that they are written once. Thread rule: as
 * lq_expand. Limits: those of the model's index. */
#ifndef LQ_RULES_QUANT_GGUF_STEPS_H
#define LQ_RULES_QUANT_GGUF_STEPS_H

#include "engine/rule.h"
#include "rules/format/imatrix.h"
#include "rules/format/mask.h"
#include "rules/model/tensor_index.h"

/* Everything it points at lives in the expand arena. */
struct lq_gguf_job {
    struct lq_expand *expand;
    const char *label;
    const struct lq_artifact *model;
    const struct lq_tensor_index *index;
    const enum lq_dtype *types;       /* one for each tensor of the index */
    const struct lq_imatrix *imatrix; /* NULL: none */
    const struct lq_mask *mask;       /* of protected weights; NULL: none */
    struct lq_ref header;
};

/* *main is the file. Errors: LQ_EIMATRIX (an importance does not fit its tensor), LQ_ENOMEM. */
enum lq_status lq_gguf_add_steps(const struct lq_gguf_job *job, struct lq_ref *main,
                                 struct lq_error *err);

#endif
