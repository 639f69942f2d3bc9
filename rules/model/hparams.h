/* Hyperparameters of a transformer: everything the forward pass needs to know besides the weights,
 * read from GGUF keys and checked against limits and against the shapes of the tensors. They
 * describe a layer completely: which weights it has, which of its layers see a window only, how
 * positions turn, what is capped and scaled; nobody behind this header asks for the name of an
 * architecture (arch.h has the table of those). The canonical text is a parameter of steps, so that
 * a step does not depend on the rest of a model's keys. Thread rule: plain values. Limits:
 * LQ_MODEL_LAYERS_MAX, LQ_MODEL_DIM_MAX, LQ_MODEL_EXPERTS_MAX, LQ_VOCAB_MAX, LQ_SEQUENCE_MAX. */
#ifndef LQ_RULES_MODEL_HPARAMS_H
#define LQ_RULES_MODEL_HPARAMS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/buffer.h"
#include "engine/base/error.h"
#include "rules/format/gguf.h"
#include "rules/model/tensor_index.h"

/* How positions beyond the training length are brought back into it. */
enum lq_rope_scaling {
    LQ_ROPE_PLAIN,    /* also with rope_freqs.weight (llama3) */
    LQ_ROPE_LINEAR,   /* positions are divided by rope_scale */
    LQ_ROPE_YARN,     /* Peng and others, "YaRN", 2023 */
    LQ_ROPE_LONGROPE, /* rope_factors_short.weight or, beyond rope_original_context, _long */
};

enum lq_activation {
    LQ_ACTIVATION_SILU,
    LQ_ACTIVATION_GELU_TANH,
};

struct lq_hparams {
    uint32_t layer_count;
    uint32_t width;     /* embedding_length */
    uint32_t ffn_width; /* feed_forward_length, of one expert if there are any */
    uint32_t head_count;
    uint32_t kv_head_count; /* divides head_count */
    uint32_t head_dim;
    uint32_t rope_dim; /* values of a head that turn; even, at most head_dim */
    uint32_t vocab_size;
    uint32_t context_length;
    uint32_t weights;       /* bit 1 << w for every enum lq_layer_weight that each layer has */
    uint32_t expert_count;  /* 0: one dense feed-forward part */
    uint32_t expert_used;   /* experts of a token, at most expert_count */
    uint32_t window;        /* keys that a windowed layer sees, its own included; 0: no windows */
    uint32_t window_period; /* every window_period-th layer sees all keys; 0: all have the window */
    uint32_t activation;    /* enum lq_activation */
    uint32_t rope_scaling;  /* enum lq_rope_scaling */
    uint32_t rope_original_context; /* yarn and longrope: the training length */
    double norm_eps;
    double rope_freq_base;
    double rope_scale;       /* linear and yarn: the factor; 1 for none */
    double rope_attn_factor; /* cosines and sines are multiplied by it (yarn: before its own) */
    double rope_beta_fast;   /* yarn */
    double rope_beta_slow;   /* yarn */
    double rope_local_base;  /* frequency base of windowed layers if rope_local */
    double embedding_scale;  /* embeddings are multiplied by it */
    double attention_scale;  /* scores are multiplied by it */
    double attention_cap;    /* scores become cap * tanh(score / cap); 0: not */
    double logit_cap;        /* and so do logits */
    bool router_over_all;    /* experts weigh what a softmax over all of them gives, not over those
                              * of the token */
    bool rope_halves;        /* pairs are (i, i + rope_dim / 2) and not (2i, 2i + 1) */
    bool rope_local;         /* windowed layers turn by rope_local_base, without scaling */
    bool rope_factors;       /* rope_freqs.weight divides the frequencies */
    bool tied_output;        /* no output.weight: the embedding serves */
};

/* The weights that a layer may have. Order and numbers are part of no file. */
enum lq_layer_weight {
    LQ_WEIGHT_ATTN_NORM,
    LQ_WEIGHT_ATTN_Q,
    LQ_WEIGHT_ATTN_K,
    LQ_WEIGHT_ATTN_V,
    LQ_WEIGHT_ATTN_OUTPUT,
    LQ_WEIGHT_FFN_NORM,
    LQ_WEIGHT_FFN_GATE,
    LQ_WEIGHT_FFN_UP,
    LQ_WEIGHT_FFN_DOWN,
    LQ_WEIGHT_ATTN_QKV,    /* instead of Q, K and V: their rows, one after the other */
    LQ_WEIGHT_FFN_GATE_UP, /* instead of GATE and UP: the rows of the gate, then of up */
    LQ_WEIGHT_ATTN_Q_BIAS, /* biases are added to the product of their matrix */
    LQ_WEIGHT_ATTN_K_BIAS,
    LQ_WEIGHT_ATTN_V_BIAS,
    LQ_WEIGHT_ATTN_QKV_BIAS,
    LQ_WEIGHT_ATTN_OUTPUT_BIAS,
    LQ_WEIGHT_FFN_GATE_BIAS,
    LQ_WEIGHT_FFN_UP_BIAS,
    LQ_WEIGHT_FFN_DOWN_BIAS,
    LQ_WEIGHT_ATTN_Q_NORM,    /* norm of each head of q, before positions */
    LQ_WEIGHT_ATTN_K_NORM,    /* and of k */
    LQ_WEIGHT_ATTN_POST_NORM, /* norm of what attention adds to the stream */
    LQ_WEIGHT_FFN_POST_NORM,  /* and of what the feed-forward part adds */
    LQ_WEIGHT_FFN_ROUTER,     /* instead of GATE, UP and DOWN: the router and the experts */
    LQ_WEIGHT_FFN_GATE_EXPS,
    LQ_WEIGHT_FFN_UP_EXPS,
    LQ_WEIGHT_FFN_DOWN_EXPS,
    LQ_LAYER_WEIGHT_COUNT,
};

#define LQ_WEIGHT_BIT(weight) ((uint32_t)1 << (weight))

enum { LQ_WEIGHT_NAME_BYTES = 64 };

static inline bool lq_hparams_has(const struct lq_hparams *hparams, enum lq_layer_weight weight)
{
    return (hparams->weights & LQ_WEIGHT_BIT(weight)) != 0;
}

/* The distinct inputs of a layer's matrices. */
enum lq_layer_input {
    LQ_INPUT_ATTN,          /* attn_norm output: attn_q, attn_k, attn_v or attn_qkv */
    LQ_INPUT_ATTN_OUTPUT,   /* attention output: attn_output */
    LQ_INPUT_FFN,           /* ffn_norm output: ffn_gate, ffn_up or the router */
    LQ_INPUT_FFN_DOWN,      /* act(gate) * up: ffn_down */
    LQ_INPUT_FFN_EXPS,      /* ffn_norm output by expert: ffn_gate_exps, ffn_up_exps */
    LQ_INPUT_FFN_DOWN_EXPS, /* act(gate) * up by expert: ffn_down_exps */
    LQ_LAYER_INPUT_COUNT,
};

/* "attn_q", "attn_q.bias": unique within the weights of one model. */
const char *lq_layer_weight_name(enum lq_layer_weight weight);
/* "blk.3.attn_q.weight" into name[LQ_WEIGHT_NAME_BYTES]; returns it. */
char *lq_layer_weight_path(uint32_t layer, enum lq_layer_weight weight, char *name);
/* The shape that the weight must have: input columns, and output rows (1 for norms and biases) of
 * one of lq_layer_weight_mats matrices. */
void lq_layer_weight_shape(const struct lq_hparams *hparams, enum lq_layer_weight weight,
                           uint64_t *cols, uint64_t *rows);
/* True for the matrices that each expert has one of. */
bool lq_layer_weight_is_expert(enum lq_layer_weight weight);
/* expert_count for the weights of experts, else 1. */
uint64_t lq_layer_weight_mats(const struct lq_hparams *hparams, enum lq_layer_weight weight);
/* The input of a weight; LQ_LAYER_INPUT_COUNT for norms and biases. */
enum lq_layer_input lq_layer_weight_input(enum lq_layer_weight weight);
/* True for a matrix that each layer has. */
bool lq_hparams_has_matrix(const struct lq_hparams *hparams, enum lq_layer_weight weight);
/* Columns of an input for each of its matrices; 0 when the layers of the model do not have it. */
size_t lq_layer_input_cols(const struct lq_hparams *hparams, enum lq_layer_input input);
/* expert_count for the inputs of experts, else 1. */
size_t lq_layer_input_mats(const struct lq_hparams *hparams, enum lq_layer_input input);
/* True for a layer whose attention sees hparams->window keys only. */
bool lq_hparams_is_windowed(const struct lq_hparams *hparams, uint32_t layer);

/* Reads the keys of `meta` and checks every tensor of `index`. `where` starts messages. Errors:
 * LQ_EUNSUPPORTED for another architecture or a feature that the forward pass lacks, `status` for
 * keys and shapes that contradict each other. */
enum lq_status lq_hparams_read(const struct lq_gguf *meta, const struct lq_tensor_index *index,
                               const char *where, enum lq_status status, struct lq_hparams *out,
                               struct lq_error *err);
/* The index of a GGUF file's tensors: source 0, no digests, strings borrowed from `gguf`. */
enum lq_status lq_hparams_index_gguf(const struct lq_gguf *gguf, struct lq_arena *arena,
                                     struct lq_tensor_index *out, struct lq_error *err);

/* One line of canonical JSON, and back. */
void lq_hparams_format(const struct lq_hparams *hparams, struct lq_buffer *out);
enum lq_status lq_hparams_parse(const char *text, struct lq_hparams *out, struct lq_error *err);

#endif
