/* Hyperparameters of a transformer: the numbers the forward pass needs, read from GGUF keys and
 * checked against limits and against the shapes of the tensors. Only the llama architecture is
 * known so far; everything else is refused with a sentence that says what still works. The
 * canonical text of them is a parameter of steps, so that a step does not depend on the rest of a
 * model's keys. Thread rule: plain values. Limits: LQ_MODEL_LAYERS_MAX, LQ_MODEL_DIM_MAX,
 * LQ_VOCAB_MAX, LQ_SEQUENCE_MAX. */
#ifndef LQ_RULES_MODEL_HPARAMS_H
#define LQ_RULES_MODEL_HPARAMS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/buffer.h"
#include "engine/base/error.h"
#include "rules/format/gguf.h"
#include "rules/model/tensor_index.h"

struct lq_hparams {
    uint32_t layer_count;
    uint32_t width;     /* embedding_length */
    uint32_t ffn_width; /* feed_forward_length */
    uint32_t head_count;
    uint32_t kv_head_count; /* divides head_count */
    uint32_t head_dim;
    uint32_t rope_dim; /* values of a head that turn; even, at most head_dim */
    uint32_t vocab_size;
    uint32_t context_length;
    double norm_eps;
    double rope_freq_base;
    double rope_scale; /* positions are divided by it ("linear" scaling); 1 for none */
    bool tied_output;  /* no output.weight: the embedding serves */
    bool rope_factors; /* rope_freqs.weight divides the frequencies */
};

/* The weights of one layer, in the order in which the forward pass uses them. */
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
    LQ_LAYER_WEIGHT_COUNT,
};

enum { LQ_WEIGHT_NAME_BYTES = 64 };

/* "attn_q". */
const char *lq_layer_weight_name(enum lq_layer_weight weight);
/* "blk.3.attn_q.weight" into name[LQ_WEIGHT_NAME_BYTES]; returns it. */
char *lq_layer_weight_path(uint32_t layer, enum lq_layer_weight weight, char *name);
/* The shape that the weight must have: input columns and output rows (1 for a norm). */
void lq_layer_weight_shape(const struct lq_hparams *hparams, enum lq_layer_weight weight,
                           uint64_t *cols, uint64_t *rows);

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
