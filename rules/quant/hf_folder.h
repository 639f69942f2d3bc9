/* A quantized model as a Hugging Face folder has it: what the rules that write one share
 * (smoothquant, gptq, awq). The folder's files are outputs of the artifact:
 *
 *   "main"    model.safetensors: a header, then the tensors in the order in which they were added,
 *             each the output of a step, or bytes of the source. Putting it together copies
 *             nothing: the cache refers to what is there.
 *   "config"  config.json of the source with another "quantization_config".
 *
 * A rule begins a file, adds tensors (usually: goes through the tensor index and gives every tensor
 * that it quantizes under new names, and every other one with lq_hf_folder_add_source), and ends
 * it. That adds one step and binds "main".
 *
 * Rows stay where the checkpoint has them: a step that quantizes a matrix must set permute_heads of
 * its copy of the tensor to 0 before it reads rows (tensor_index.h), or the heads of q and k come
 * out in the order of GGUF. Ownership: all memory is of the expand arena; names and shapes are
 * copied, references must live as the engine says. Thread rule: the expanding thread. Limits: as
 * many tensors as were announced; the header's size is that of safetensors_write.h. */
#ifndef LQ_RULES_QUANT_HF_FOLDER_H
#define LQ_RULES_QUANT_HF_FOLDER_H

#include <stddef.h>

#include "engine/base/error.h"
#include "engine/base/json.h"
#include "engine/rule.h"
#include "rules/format/safetensors_write.h"
#include "rules/model/tensor_index.h"

struct lq_hf_folder;

/* Begins a file of weights of at most `tensor_max` tensors. */
enum lq_status lq_hf_folder_begin(struct lq_expand *expand, const struct lq_artifact *model,
                                  size_t tensor_max, struct lq_hf_folder **out,
                                  struct lq_error *err);
/* Adds a tensor whose bytes come from `ref`. The step that puts the file together checks that there
 * are entry->size_bytes of them. */
enum lq_status lq_hf_folder_add(struct lq_hf_folder *folder,
                                const struct lq_safetensors_entry *entry, const struct lq_ref *ref,
                                struct lq_error *err);
/* Adds a tensor as the source has it: name, type and shape, with bytes from `ref`; where that is
 * NULL, the source's own. A tensor that is made of config.json's values is left out. */
enum lq_status lq_hf_folder_add_source(struct lq_hf_folder *folder,
                                       const struct lq_model_tensor *tensor,
                                       const struct lq_ref *ref, struct lq_error *err);
/* Adds the step `op` ("smoothquant.assemble") that writes the file, and binds "main" to it. */
enum lq_status lq_hf_folder_end(struct lq_hf_folder *folder, const char *op, unsigned version,
                                struct lq_error *err);

/* Binds "config" to config.json of the model with this "quantization_config", which is taken, even
 * on failure; NULL stands for no memory. LQ_EUNSUPPORTED when the model has no config.json. */
enum lq_status lq_hf_folder_bind_config(struct lq_expand *expand, const struct lq_artifact *model,
                                        cJSON *quantization, struct lq_error *err);
/* The same for a format whose scales are halves: config.json says that the model is one of halves,
 * too, because its readers compute with them. */
enum lq_status lq_hf_folder_bind_half_config(struct lq_expand *expand,
                                             const struct lq_artifact *model, cJSON *quantization,
                                             struct lq_error *err);
/* Binds an output to a JSON document, printed as config.json is; takes it likewise. */
enum lq_status lq_hf_folder_bind_json(struct lq_expand *expand, const char *output, cJSON *document,
                                      struct lq_error *err);

/* The source's name of a tensor with another ending: for "….q_proj.weight" and ".qweight"
 * "….q_proj.qweight"; a name that does not end in ".weight" gets the ending behind it. NULL when
 * memory is out. */
const char *lq_hf_folder_name(struct lq_arena *arena, const struct lq_model_tensor *tensor,
                              const char *ending);
/* LQ_EUNSUPPORTED unless the tensor is one of a Hugging Face folder, of floats, and one matrix (or
 * norm) as it stands there. `method` is how messages name what is done, "SmoothQuant"; `verb` what
 * it does to a tensor, "smooth". */
enum lq_status lq_hf_folder_check(const struct lq_expand *expand, const struct lq_artifact *model,
                                  const struct lq_model_tensor *tensor, const char *method,
                                  const char *verb, struct lq_error *err);

#endif
