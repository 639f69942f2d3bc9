/* What the rules that work tensor by tensor share: reading a model's index and keys and an
 * importance matrix while expanding, and describing a tensor in the parameters of a step.
 * Everything lives in the expand arena. Thread rule: as lq_expand. Limits: those of the readers. */
#ifndef LQ_RULES_QUANT_TENSOR_INPUTS_H
#define LQ_RULES_QUANT_TENSOR_INPUTS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/rule.h"
#include "rules/format/gguf.h"
#include "rules/format/imatrix.h"
#include "rules/model/tensor_index.h"

/* The outputs "tensors" and "meta" of a model. `meta` may be NULL. */
enum lq_status lq_inputs_read_model(struct lq_expand *expand, const struct lq_artifact *model,
                                    struct lq_tensor_index *index, struct lq_gguf *meta,
                                    struct lq_error *err);
/* The output "gguf" of an imatrix. `data` and `size_bytes` (its bytes) may be NULL. */
enum lq_status lq_inputs_read_imatrix(struct lq_expand *expand, const struct lq_artifact *artifact,
                                      struct lq_imatrix *imatrix, struct lq_error *err);

/* Mean squared activations of a tensor's input columns: mat_count x ne[0] values. NULL when the
 * matrix has no entry for it. LQ_EIMATRIX when the entry does not fit the tensor. */
struct lq_importance {
    const float *values;
    size_t mat_count;
};
enum lq_status lq_inputs_importance(const struct lq_imatrix *imatrix,
                                    const struct lq_model_tensor *tensor, struct lq_arena *arena,
                                    struct lq_importance *out, struct lq_error *err);
/* The importance of the columns of what makes the logits (output.weight, or the embedding where
 * that is the output too), for matrices without such an entry, as llama.cpp's are: its input is
 * RMS-normalised and multiplied by output_norm.weight, so the mean square of column j is about
 * w_j^2. Adds a step that squares the norm; *ref is its output. *found is false, and nothing
 * happens, for other tensors and models without a norm. */
enum lq_status lq_inputs_output_importance(struct lq_expand *expand,
                                           const struct lq_artifact *model,
                                           const struct lq_tensor_index *index,
                                           const struct lq_model_tensor *tensor, struct lq_ref *ref,
                                           bool *found, struct lq_error *err);
/* The bytes of an importance as an input of a step. */
struct lq_ref lq_inputs_importance_ref(const struct lq_importance *importance,
                                       const struct lq_model_tensor *tensor);
/* "dtype", "ne", "permute" (only when rows are reordered) and "add" (only when 1 is added): what
 * the meaning of a tensor's bytes depends on. `params` has room for LQ_TENSOR_PARAMS_MAX; the
 * number used goes to *count. */
enum { LQ_TENSOR_PARAMS_MAX = 5 };
enum lq_status lq_inputs_tensor_params(const struct lq_model_tensor *tensor, struct lq_arena *arena,
                                       struct lq_step_param *params, size_t *count,
                                       struct lq_error *err);

/* Loads the importance that is an input of a step; values NULL when the step has no such input. */
enum lq_status lq_run_load_importance(struct lq_run *run, const char *input,
                                      const struct lq_model_tensor *tensor,
                                      struct lq_importance *out, struct lq_error *err);
/* lq_run_cancelled for callbacks. */
bool lq_run_cancelled_user(void *run);

#endif
