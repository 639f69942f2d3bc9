/* Tensors that a GGUF file takes over from its source byte by byte: no encoder looks at them, so a
 * step does, and a file with a NaN in it is refused instead of being made. Thread rule: steps are
 * added on the expanding thread. Limits: 1 MiB of a tensor at a time in each thread. */
#ifndef LQ_RULES_QUANT_COPIED_TENSORS_H
#define LQ_RULES_QUANT_COPIED_TENSORS_H

#include <stddef.h>

#include "engine/rule.h"
#include "rules/model/tensor_index.h"

struct lq_copied_tensor {
    const struct lq_model_tensor *tensor;
    struct lq_ref data;
};

/* Adds the step "gguf.check" for `count` tensors, at least one, which live in the expand arena; who
 * needs them checked takes *ref as an input. The step fails with LQ_EFORMAT when a value, or the
 * scale of a block, is NaN or infinite. */
enum lq_status lq_copied_add_check(struct lq_expand *expand, const struct lq_copied_tensor *tensors,
                                   size_t count, struct lq_ref *ref, struct lq_error *err);

#endif
