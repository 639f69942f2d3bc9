#include "rules/model/arch.h"

#include <string.h>

#include "engine/base/compiler.h"

#define Q_K_NORMS (LQ_WEIGHT_BIT(LQ_WEIGHT_ATTN_Q_NORM) | LQ_WEIGHT_BIT(LQ_WEIGHT_ATTN_K_NORM))
#define Q_K_V_BIASES                                                                               \
    (LQ_WEIGHT_BIT(LQ_WEIGHT_ATTN_Q_BIAS) | LQ_WEIGHT_BIT(LQ_WEIGHT_ATTN_K_BIAS) |                 \
     LQ_WEIGHT_BIT(LQ_WEIGHT_ATTN_V_BIAS))
#define OTHER_BIASES                                                                               \
    (LQ_WEIGHT_BIT(LQ_WEIGHT_ATTN_OUTPUT_BIAS) | LQ_WEIGHT_BIT(LQ_WEIGHT_FFN_GATE_BIAS) |          \
     LQ_WEIGHT_BIT(LQ_WEIGHT_FFN_UP_BIAS) | LQ_WEIGHT_BIT(LQ_WEIGHT_FFN_DOWN_BIAS))
#define POST_NORMS                                                                                 \
    (LQ_WEIGHT_BIT(LQ_WEIGHT_ATTN_POST_NORM) | LQ_WEIGHT_BIT(LQ_WEIGHT_FFN_POST_NORM))

/* Facts: the models' papers and cards, config.json of the published models, and what llama.cpp
 * reads from GGUF files. */
static const struct lq_arch archs[] = {
    /* Llama 1 to 3, Mistral and, with experts, Mixtral. */
    {.name = "llama", .optional = Q_K_V_BIASES | OTHER_BIASES, .experts = true},
    {.name = "qwen2", .required = Q_K_V_BIASES, .rope_halves = true},
    {.name = "qwen3", .required = Q_K_NORMS, .rope_halves = true},
    {.name = "qwen3moe", .required = Q_K_NORMS, .rope_halves = true, .experts = true},
    {.name = "phi3",
     .optional = LQ_WEIGHT_BIT(LQ_WEIGHT_ATTN_QKV) | LQ_WEIGHT_BIT(LQ_WEIGHT_FFN_GATE_UP),
     .rope_halves = true},
    {.name = "gemma2",
     .required = POST_NORMS,
     .window = 4096,
     .window_period = 2,
     .activation = LQ_ACTIVATION_GELU_TANH,
     .rope_halves = true,
     .scale_embedding = true,
     .caps = true,
     .large_layers = 46},
    {.name = "gemma3",
     .required = POST_NORMS | Q_K_NORMS,
     .window_period = 6,
     .activation = LQ_ACTIVATION_GELU_TANH,
     .rope_halves = true,
     .rope_local = true,
     .scale_embedding = true,
     .caps = true,
     .large_layers = 62},
};

const struct lq_arch *lq_arch_find(const char *name)
{
    for (size_t i = 0; i < LQ_COUNT_OF(archs); i++) {
        if (strcmp(archs[i].name, name) == 0) {
            return &archs[i];
        }
    }
    return NULL;
}

const char *lq_arch_names(void)
{
    return "llama, qwen2, qwen3, qwen3moe, phi3, gemma2 and gemma3";
}
