/* The Hugging Face side of the architectures: which class of config.json is which architecture of
 * arch.h, and one table of names that says which tensor of a checkpoint is which weight of a layer.
 * Shapes are those of hparams.h. Thread rule: constant data. Limits: none. */
#ifndef LQ_RULES_MODEL_HF_ARCH_H
#define LQ_RULES_MODEL_HF_ARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rules/model/hparams.h"

/* One bit for every way of naming tensors. */
enum lq_hf_family {
    LQ_HF_LLAMA = 1,
    LQ_HF_MIXTRAL = 2,
    LQ_HF_QWEN2 = 4,
    LQ_HF_QWEN3 = 8,
    LQ_HF_QWEN3_MOE = 16,
    LQ_HF_PHI3 = 32,
    LQ_HF_GEMMA2 = 64,
    LQ_HF_GEMMA3 = 128,
};

struct lq_hf_arch {
    const char *class_name; /* "Qwen3ForCausalLM", in "architectures" */
    const char *gguf;       /* "qwen3" */
    const char *title;      /* for general.name */
    enum lq_hf_family family;
    bool permutes;      /* q and k are stored in halves and wanted in pairs */
    bool norms_add_one; /* norms multiply by 1 + weight */
    bool always_window; /* sliding_window counts without use_sliding_window */
    bool tied;          /* when tie_word_embeddings is missing */
    const char *activation;
};

/* A tensor of a layer, behind "model.layers.<n>.". "%u" in a name is the number of an expert. */
struct lq_hf_row {
    const char *hf;
    enum lq_layer_weight weight;
    unsigned families;
};

extern const struct lq_hf_arch lq_hf_archs[];
extern const size_t lq_hf_arch_count;
extern const struct lq_hf_row lq_hf_rows[];
extern const size_t lq_hf_row_count;

#endif
