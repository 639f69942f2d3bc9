/* Which tensors the layer names of a profile mean. A name is the exact GGUF name of a tensor
 * ("blk.0.ffn_down.weight"), its Hugging Face name ("model.layers.0.mlp.down_proj.weight"), the
 * beginning of either up to a dot ("blk.0", "model.layers.0.self_attn"), or a pattern with '*' and
 * '?'. The most specific name wins: exact, then the longest beginning, then a pattern; among equals
 * the later entry. Thread rule: pure. Limits: those of the formats. */
#ifndef LQ_RULES_PROFILE_RESOLVE_H
#define LQ_RULES_PROFILE_RESOLVE_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/error.h"
#include "kernels/dtype.h"
#include "rules/format/dqprofile.h"
#include "rules/model/tensor_index.h"

enum { LQ_PROFILE_HF_NAME_BYTES = 256 };

/* layers[i] is the number of the profile's entry that decides about tensor i, or SIZE_MAX. Errors:
 * LQ_EPROFILE for an entry that matches no tensor, with a suggestion; LQ_EUNSUPPORTED for one that
 * asks for GPTQ or AWQ. Entries about tensors that
 * are never quantized, such as norms, are accepted and have no effect. */
enum lq_status lq_profile_resolve(const struct lq_dqprofile *profile, const char *where,
                                  const struct lq_tensor_index *index, size_t *layers,
                                  struct lq_error *err);
/* The type that an entry asks for: its exact type, or the K-type of its bit width (16 F16, 8 Q8_0,
 * 6 Q6_K, ..., 2 Q2_K, 1.5 IQ1_S). */
enum lq_dtype lq_profile_layer_type(const struct lq_dqprofile_layer *layer);
/* The allowed bit width that stands for a type: Q4_K 4, IQ1_S 1.5, F16 16, ... */
double lq_profile_bit_width(enum lq_dtype dtype);
/* The Hugging Face name of a GGUF tensor of a llama-like model into `out`; false when it has none.
 */
bool lq_profile_hf_name(const char *gguf_name, char out[LQ_PROFILE_HF_NAME_BYTES]);

#endif
