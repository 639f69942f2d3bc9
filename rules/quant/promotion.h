/* What keeping tensors in a higher type costs and gains: GGUF has no side channel for single
 * weights, so a tensor that holds a super weight is kept in the mask's precision as a whole. For
 * each such tensor the step "gguf.promotion" encodes it in the type that it would have had and in
 * the one that it has, and writes one line with both mean squared errors; "gguf.summary" joins the
 * lines behind a first one with the bytes. Thread rule: steps are added on the expanding thread.
 * Limits: memory for the blocks of one tensor. */
#ifndef LQ_RULES_QUANT_PROMOTION_H
#define LQ_RULES_QUANT_PROMOTION_H

#include <stddef.h>

#include "engine/rule.h"
#include "kernels/dtype.h"
#include "rules/model/tensor_index.h"

struct lq_promotion {
    const struct lq_model_tensor *tensor;
    enum lq_dtype from; /* what it would have been */
    enum lq_dtype to;
    size_t spike_count;
    struct lq_ref weights;
    struct lq_ref importance; /* LQ_REF_NONE without an importance matrix */
};

/* Adds the steps and binds their text as the output "summary". Nothing for `count` 0. */
enum lq_status lq_promotion_add_summary(struct lq_expand *expand,
                                        const struct lq_promotion *promotions, size_t count,
                                        struct lq_error *err);

#endif
