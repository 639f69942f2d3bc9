/* A tensor's data as bytes, wherever the model keeps them: in a file, in pieces of
 * files, or in the index itself. Steps that name their tensors take a reference; steps that take a
 * model's files whole find the bytes at run time. Thread rule: that of the expansion or the run.
 * Limits: those of tensor_index.h. */
#ifndef LQ_RULES_MODEL_TENSOR_REF_H
#define LQ_RULES_MODEL_TENSOR_REF_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/error.h"
#include "engine/rule.h"
#include "rules/model/tensor_index.h"

/* How messages name the model: by its GGUF file, or by the artifact. */
const char *lq_tensor_model_name(const struct lq_expand *expand, const struct lq_artifact *model);

/* The data as an input of a step. Pieces are joined by a step of their own, whose output lives as
 * long as somebody needs it. LQ_EUNSUPPORTED for what a checkpoint stores quantized: its bytes are
 * not the values. */
enum lq_status lq_tensor_ref(struct lq_expand *expand, const struct lq_artifact *model,
                             const struct lq_model_tensor *tensor, struct lq_ref *ref,
                             struct lq_error *err);

/* The same without joining anything: an input `name`, or one for each piece, "<name>.<number>". */
size_t lq_tensor_input_count(const struct lq_model_tensor *tensor);
enum lq_status lq_tensor_put_inputs(struct lq_expand *expand, const struct lq_artifact *model,
                                    const struct lq_model_tensor *tensor, const char *name,
                                    struct lq_step_input *inputs, size_t *input_count,
                                    struct lq_error *err);
/* At run time the data behind such inputs, or one of the ne[2] matrices, borrowed until the run
 * ends. Pieces can only be had one by one, but the parts of what is stored quantized come together.
 */
enum lq_status lq_tensor_load(struct lq_run *run, const struct lq_model_tensor *tensor,
                              const char *input, const void **data, struct lq_error *err);
enum lq_status lq_tensor_load_matrix(struct lq_run *run, const struct lq_model_tensor *tensor,
                                     const char *input, uint64_t matrix, const void **data,
                                     struct lq_error *err);
/* All of these matrices, for lq_model_tensor_rows_of. */
enum lq_status lq_tensor_load_matrices(struct lq_run *run, const struct lq_model_tensor *tensor,
                                       const char *input, const void *const **matrices,
                                       struct lq_error *err);

/* Sets used[source] for every source file, of `source_count`, that holds a part of the data; false
 * when the tensor names a file that is not there. */
bool lq_tensor_mark_sources(const struct lq_model_tensor *tensor, bool *used, size_t source_count);

/* A whole source file of the model at run time, borrowed until the run ends. */
typedef enum lq_status (*lq_tensor_source_fn)(void *user, size_t source, const void **data,
                                              uint64_t *size_bytes, struct lq_error *err);

/* One of the ne[2] matrices of a tensor at run time: borrowed from the source or the index;
 * `joined` as below, for the parts of what is stored quantized. */
enum lq_status lq_tensor_matrix(const struct lq_model_tensor *tensor, uint64_t matrix,
                                lq_tensor_source_fn get, void *user, void **joined,
                                const void **data, struct lq_error *err);

/* The data at run time: borrowed from the source or the index, or joined in *joined (grown with
 * realloc; the caller frees it), good until the next call. */
enum lq_status lq_tensor_data(const struct lq_model_tensor *tensor, lq_tensor_source_fn get,
                              void *user, void **joined, const void **data, struct lq_error *err);

#endif
