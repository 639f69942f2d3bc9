/* config.json of a Hugging Face model directory, and the GGUF keys that say the same. Known are
 * LlamaForCausalLM, and MistralForCausalLM without a sliding window; any other architecture, and
 * any option that changes the maths in a way we do not compute, is refused by name. Numbers are
 * checked against limits.h and against each other. Thread rule: pure. */
#ifndef LQ_RULES_MODEL_HF_CONFIG_H
#define LQ_RULES_MODEL_HF_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/json.h"
#include "rules/format/gguf.h"

struct lq_hf_config {
    const char *name; /* last part of "_name_or_path", or NULL; borrowed from the document */
    uint32_t hidden_size;
    uint32_t layer_count;
    uint32_t head_count;
    uint32_t head_count_kv;
    uint32_t head_dim;
    uint32_t feed_forward;
    uint32_t context_length;
    uint32_t vocab_size;
    double norm_epsilon;
    double rope_theta;
    double rope_factor; /* linear scaling: positions are divided by it; 1 for none */
    bool tied_embeddings;
};

enum lq_status lq_hf_config_read(const cJSON *config, struct lq_hf_config *out,
                                 struct lq_error *err);
/* Puts general.* and llama.* keys. `parameter_count` makes the size label. */
void lq_hf_config_put(const struct lq_hf_config *config, uint64_t parameter_count,
                      struct lq_gguf_writer *writer);

#endif
