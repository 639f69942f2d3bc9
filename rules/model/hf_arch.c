#include "rules/model/hf_arch.h"

#include "engine/base/compiler.h"

#define LLAMA LQ_HF_LLAMA
#define MIXTRAL LQ_HF_MIXTRAL
#define QWEN2 LQ_HF_QWEN2
#define QWEN3 LQ_HF_QWEN3
#define QWEN3_MOE LQ_HF_QWEN3_MOE
#define PHI3 LQ_HF_PHI3
#define GEMMA (LQ_HF_GEMMA2 | LQ_HF_GEMMA3)
#define ALL (LLAMA | MIXTRAL | QWEN2 | QWEN3 | QWEN3_MOE | PHI3 | GEMMA)

const struct lq_hf_arch lq_hf_archs[] = {
    {.class_name = "LlamaForCausalLM",
     .gguf = "llama",
     .title = "Llama",
     .family = LQ_HF_LLAMA,
     .permutes = true,
     .activation = "silu"},
    {.class_name = "MistralForCausalLM",
     .gguf = "llama",
     .title = "Mistral",
     .family = LQ_HF_LLAMA,
     .permutes = true,
     .always_window = true,
     .activation = "silu"},
    {.class_name = "MixtralForCausalLM",
     .gguf = "llama",
     .title = "Mixtral",
     .family = LQ_HF_MIXTRAL,
     .permutes = true,
     .always_window = true,
     .activation = "silu"},
    {.class_name = "Qwen2ForCausalLM",
     .gguf = "qwen2",
     .title = "Qwen2",
     .family = LQ_HF_QWEN2,
     .activation = "silu"},
    {.class_name = "Qwen3ForCausalLM",
     .gguf = "qwen3",
     .title = "Qwen3",
     .family = LQ_HF_QWEN3,
     .activation = "silu"},
    {.class_name = "Qwen3MoeForCausalLM",
     .gguf = "qwen3moe",
     .title = "Qwen3 MoE",
     .family = LQ_HF_QWEN3_MOE,
     .activation = "silu"},
    {.class_name = "Phi3ForCausalLM",
     .gguf = "phi3",
     .title = "Phi 3",
     .family = LQ_HF_PHI3,
     .always_window = true,
     .activation = "silu"},
    {.class_name = "Gemma2ForCausalLM",
     .gguf = "gemma2",
     .title = "Gemma 2",
     .family = LQ_HF_GEMMA2,
     .norms_add_one = true,
     .always_window = true,
     .tied = true,
     .activation = "gelu_pytorch_tanh"},
    {.class_name = "Gemma3ForCausalLM",
     .gguf = "gemma3",
     .title = "Gemma 3",
     .family = LQ_HF_GEMMA3,
     .norms_add_one = true,
     .always_window = true,
     .tied = true,
     .activation = "gelu_pytorch_tanh"},
};
const size_t lq_hf_arch_count = LQ_COUNT_OF(lq_hf_archs);

/* The order is the order of tensors in a file. */
const struct lq_hf_row lq_hf_rows[] = {
    {"input_layernorm.weight", LQ_WEIGHT_ATTN_NORM, ALL},
    {"self_attn.q_proj.weight", LQ_WEIGHT_ATTN_Q, ALL & ~PHI3},
    {"self_attn.k_proj.weight", LQ_WEIGHT_ATTN_K, ALL & ~PHI3},
    {"self_attn.v_proj.weight", LQ_WEIGHT_ATTN_V, ALL & ~PHI3},
    {"self_attn.qkv_proj.weight", LQ_WEIGHT_ATTN_QKV, PHI3},
    {"self_attn.q_proj.bias", LQ_WEIGHT_ATTN_Q_BIAS, QWEN2},
    {"self_attn.k_proj.bias", LQ_WEIGHT_ATTN_K_BIAS, QWEN2},
    {"self_attn.v_proj.bias", LQ_WEIGHT_ATTN_V_BIAS, QWEN2},
    {"self_attn.q_norm.weight", LQ_WEIGHT_ATTN_Q_NORM, QWEN3 | QWEN3_MOE | LQ_HF_GEMMA3},
    {"self_attn.k_norm.weight", LQ_WEIGHT_ATTN_K_NORM, QWEN3 | QWEN3_MOE | LQ_HF_GEMMA3},
    {"self_attn.o_proj.weight", LQ_WEIGHT_ATTN_OUTPUT, ALL},
    {"post_attention_layernorm.weight", LQ_WEIGHT_FFN_NORM, ALL & ~GEMMA},
    {"post_attention_layernorm.weight", LQ_WEIGHT_ATTN_POST_NORM, GEMMA},
    {"pre_feedforward_layernorm.weight", LQ_WEIGHT_FFN_NORM, GEMMA},
    {"mlp.gate_proj.weight", LQ_WEIGHT_FFN_GATE, LLAMA | QWEN2 | QWEN3 | GEMMA},
    {"mlp.up_proj.weight", LQ_WEIGHT_FFN_UP, LLAMA | QWEN2 | QWEN3 | GEMMA},
    {"mlp.gate_up_proj.weight", LQ_WEIGHT_FFN_GATE_UP, PHI3},
    {"mlp.down_proj.weight", LQ_WEIGHT_FFN_DOWN, LLAMA | QWEN2 | QWEN3 | PHI3 | GEMMA},
    {"post_feedforward_layernorm.weight", LQ_WEIGHT_FFN_POST_NORM, GEMMA},
    {"block_sparse_moe.gate.weight", LQ_WEIGHT_FFN_ROUTER, MIXTRAL},
    {"block_sparse_moe.experts.%u.w1.weight", LQ_WEIGHT_FFN_GATE_EXPS, MIXTRAL},
    {"block_sparse_moe.experts.%u.w3.weight", LQ_WEIGHT_FFN_UP_EXPS, MIXTRAL},
    {"block_sparse_moe.experts.%u.w2.weight", LQ_WEIGHT_FFN_DOWN_EXPS, MIXTRAL},
    {"mlp.gate.weight", LQ_WEIGHT_FFN_ROUTER, QWEN3_MOE},
    {"mlp.experts.%u.gate_proj.weight", LQ_WEIGHT_FFN_GATE_EXPS, QWEN3_MOE},
    {"mlp.experts.%u.up_proj.weight", LQ_WEIGHT_FFN_UP_EXPS, QWEN3_MOE},
    {"mlp.experts.%u.down_proj.weight", LQ_WEIGHT_FFN_DOWN_EXPS, QWEN3_MOE},
};
const size_t lq_hf_row_count = LQ_COUNT_OF(lq_hf_rows);
