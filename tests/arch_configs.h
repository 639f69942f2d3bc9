/* A tiny config.json of every architecture and of what is special about them, for make_arch.h:
 * sizes that fit block quantization (rows of 256 values where a matrix is to be quantized at IQ2),
 * real field names, ids of make_model_vocab.h. Constant data. */
#ifndef LQ_TESTS_ARCH_CONFIGS_H
#define LQ_TESTS_ARCH_CONFIGS_H

#include <stddef.h>
#include <string.h>

struct arch_config {
    const char *name;
    const char *text;
};

#define ARCH_SIZES(class, width, ffn, layers)                                                      \
    "{\"architectures\": [\"" class "\"], \"hidden_size\": " width ", \"intermediate_size\": " ffn \
                                    ", \"num_hidden_layers\": " layers                             \
                                    ", \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "   \
                                    "\"max_position_embeddings\": 2048,"                           \
                                    " \"vocab_size\": 512, \"rms_norm_eps\": 1e-5, "               \
                                    "\"bos_token_id\": 509, \"eos_token_id\": 510, "
#define ARCH_SILU "\"hidden_act\": \"silu\", \"tie_word_embeddings\": false, "
#define ARCH_GELU                                                                                  \
    "\"hidden_activation\": \"gelu_pytorch_tanh\", \"tie_word_embeddings\": true, \"head_dim\": "  \
    "64, \"query_pre_attn_scalar\": 64, \"sliding_window\": 8, "
#define ARCH_LONG "1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0, 7.5, 8.0, 8.5"
#define ARCH_SHORT                                                                                 \
    "1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.35, 1.4, 1.45, 1.5, 1.55, 1.6, 1.65, 1.7, 1.75"
#define ARCH_LONGROPE(original)                                                                    \
    "\"sliding_window\": null, \"original_max_position_embeddings\": " original                    \
    ", \"rope_theta\": 10000.0, \"rope_scaling\": {\"type\": \"longrope\", \"long_factor\": "      \
    "[" ARCH_LONG ", " ARCH_LONG "], \"short_factor\": [" ARCH_SHORT ", " ARCH_SHORT "]}}"

static const struct arch_config arch_configs[] = {
    {"llama",
     ARCH_SIZES("LlamaForCausalLM", "256", "512", "2") ARCH_SILU "\"rope_theta\": 10000.0}"},
    {"llama3", ARCH_SIZES("LlamaForCausalLM", "256", "512", "2") ARCH_SILU
     "\"rope_theta\": 500000.0, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, "
     "\"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
     "\"original_max_position_embeddings\": 64}}"},
    {"llama-linear", ARCH_SIZES("LlamaForCausalLM", "256", "512", "2") ARCH_SILU
     "\"rope_theta\": 10000.0, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 4.0}}"},
    {"llama-yarn", ARCH_SIZES("LlamaForCausalLM", "256", "512", "2") ARCH_SILU
     "\"rope_theta\": 10000.0, \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0, "
     "\"original_max_position_embeddings\": 512}}"},
    {"mistral", ARCH_SIZES("MistralForCausalLM", "256", "512", "2") ARCH_SILU
     "\"head_dim\": 64, \"rope_theta\": 1000000.0, \"sliding_window\": null}"},
    {"mixtral", ARCH_SIZES("MixtralForCausalLM", "256", "256", "2") ARCH_SILU
     "\"num_local_experts\": 6, \"num_experts_per_tok\": 2, \"rope_theta\": 1000000.0, "
     "\"sliding_window\": null}"},
    {"qwen2",
     ARCH_SIZES(
         "Qwen2ForCausalLM", "256", "512",
         "2") "\"hidden_act\": \"silu\", \"tie_word_embeddings\": true, \"rope_theta\": 1000000.0, "
              "\"use_sliding_window\": false}"},
    {"qwen3",
     ARCH_SIZES(
         "Qwen3ForCausalLM", "256", "512",
         "2") "\"hidden_act\": \"silu\", \"tie_word_embeddings\": true, \"rope_theta\": 1000000.0, "
              "\"head_dim\": 128, \"attention_bias\": false}"},
    {"qwen3moe", ARCH_SIZES("Qwen3MoeForCausalLM", "256", "512", "2") ARCH_SILU
     "\"head_dim\": 64, \"rope_theta\": 1000000.0, \"num_experts\": 8, "
     "\"num_experts_per_tok\": 3, \"moe_intermediate_size\": 256, \"norm_topk_prob\": true, "
     "\"decoder_sparse_step\": 1, \"mlp_only_layers\": []}"},
    {"qwen3moe-share", ARCH_SIZES("Qwen3MoeForCausalLM", "256", "512", "2") ARCH_SILU
     "\"head_dim\": 64, \"rope_theta\": 1000000.0, \"num_experts\": 8, "
     "\"num_experts_per_tok\": 3, \"moe_intermediate_size\": 256, \"norm_topk_prob\": false, "
     "\"decoder_sparse_step\": 1, \"mlp_only_layers\": []}"},
    {"phi3", ARCH_SIZES("Phi3ForCausalLM", "256", "512", "2") ARCH_SILU
     "\"rope_theta\": 10000.0, \"sliding_window\": 2047}"},
    {"phi3-longrope",
     ARCH_SIZES("Phi3ForCausalLM", "256", "512", "2") ARCH_SILU ARCH_LONGROPE("64")},
    {"phi3-shortrope",
     ARCH_SIZES("Phi3ForCausalLM", "256", "512", "2") ARCH_SILU ARCH_LONGROPE("1024")},
    {"gemma2", ARCH_SIZES("Gemma2ForCausalLM", "256", "512", "3") ARCH_GELU
     "\"rope_theta\": 10000.0, \"attn_logit_softcapping\": 50.0, "
     "\"final_logit_softcapping\": 30.0}"},
    {"gemma3", ARCH_SIZES("Gemma3ForCausalLM", "256", "512", "7") ARCH_GELU
     "\"rope_theta\": 1000000.0, \"rope_local_base_freq\": 10000.0, "
     "\"sliding_window_pattern\": 6, \"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": "
     "8.0}}"},
};

enum { ARCH_CONFIG_COUNT = sizeof arch_configs / sizeof arch_configs[0] };

/* NULL when there is none of that name. */
static inline const struct arch_config *arch_config_find(const char *name)
{
    for (size_t i = 0; i < ARCH_CONFIG_COUNT; i++) {
        if (strcmp(arch_configs[i].name, name) == 0) {
            return &arch_configs[i];
        }
    }
    return NULL;
}

#endif
