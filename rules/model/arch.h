/* The architectures that the forward pass knows: one row each, by the name in the GGUF key
 * "general.architecture". A row says only what no key of the file says: which weights a layer has
 * and what the maths of the architecture fixes. hparams_read.c turns a row and a file's keys into
 * struct lq_hparams; hf_arch.c has the Hugging Face side. Thread rule: constant data. */
#ifndef LQ_RULES_MODEL_ARCH_H
#define LQ_RULES_MODEL_ARCH_H

#include <stdbool.h>
#include <stdint.h>

#include "rules/model/hparams.h"

struct lq_arch {
    const char *name;       /* also the prefix of the architecture's keys */
    uint32_t required;      /* weights (bits) of every layer besides the common ones */
    uint32_t optional;      /* weights that a layer may have */
    uint32_t window;        /* when the key is missing; 0: no window */
    uint32_t window_period; /* when the key is missing */
    enum lq_activation activation;
    bool rope_halves;
    bool rope_local;       /* windowed layers have a frequency base of their own */
    bool experts;          /* may be a mixture of experts */
    bool scale_embedding;  /* by sqrt(width) */
    bool caps;             /* scores and logits may be capped */
    uint32_t large_layers; /* models of so many layers scale scores by the width of a head's share
                            * of the stream, width / head_count, and not by head_dim; 0: none */
};

/* NULL for an architecture that the forward pass does not know. */
const struct lq_arch *lq_arch_find(const char *name);
/* "llama, qwen2, ...", for messages. */
const char *lq_arch_names(void);

#endif
