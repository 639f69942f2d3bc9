/* Names of tensors: Hugging Face's and GGUF's, both ways, and the tensor index of a model
 * directory. The table is in hf_arch.c; the architecture says whether rows of heads must be
 * reordered (Hugging Face stores the two halves of a head's rotary pairs one after the other, the
 * GGUF files of llama side by side) and whether norms are stored without their 1. Experts that
 * stand one by one in the checkpoint are pieces of one tensor. Thread rule: pure.
 */
#ifndef LQ_RULES_MODEL_HF_NAMES_H
#define LQ_RULES_MODEL_HF_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/error.h"
#include "rules/model/hf_config.h"
#include "rules/model/model_scan.h"
#include "rules/model/tensor_index.h"

enum { LQ_HF_NAME_BYTES = 128 };

/* "blk.3.attn_q.weight" to "model.layers.3.self_attn.q_proj.weight". `out` has LQ_HF_NAME_BYTES.
 * False for names of no architecture. Where
 * architectures differ the plain Llama name wins; experts have no name of their own in GGUF. */
bool lq_hf_name_of_gguf(const char *gguf_name, char *out);
/* The other way; also without ".weight", as profiles name modules. */
bool lq_gguf_name_of_hf(const char *hf_name, char *out);

/* The index of a model whose tensors are in `file_count` scanned safetensors files: GGUF names in a
 * fixed order (embedding, blocks, output norm, output). File numbers become source numbers. Checks
 * that every tensor is there once, none is unknown (rotary inv_freq buffers are ignored), and types
 * and shapes fit the configuration. Memory from the arena, except names of the scanned files, which
 * are borrowed. */
enum lq_status lq_hf_tensor_index(const struct lq_hf_config *config,
                                  const struct lq_scanned_file *files, size_t file_count,
                                  struct lq_arena *arena, struct lq_tensor_index *out,
                                  struct lq_error *err);

#endif
