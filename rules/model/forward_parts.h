/* What the files of the forward pass share: the object and the helpers around its device memory.
 * forward.c owns the object's life, forward_load.c the weights of a layer (read, decode, check),
 * forward_embed.c the embedding, forward_rope.c the rotary positions, forward_experts.c the
 * experts of a layer, forward_round.c inputs of 8 bits, forward_layer.c its graph, forward_stage.c
 * what is special about parts of it, forward_output.c the final norm, logits and scores. Internal
 * to forward*.c and backward*.c. Thread rule: that of forward.h. Limits: those of hparams.h. */
#ifndef LQ_RULES_MODEL_FORWARD_PARTS_H
#define LQ_RULES_MODEL_FORWARD_PARTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rules/model/forward.h"

/* What a layer keeps for its backward pass, in device memory: values that later operations
 * overwrite. NULL: not kept. */
struct lq_forward_tape {
    float *middle;   /* the stream between attention and feed-forward part */
    float *gate;     /* before the activation */
    float *q;        /* before the norm of heads */
    float *k;        /* likewise */
    float *attn_out; /* what attention adds to the stream, before a post norm */
};

struct lq_forward {
    struct lq_hparams hparams;
    struct lq_forward_env env;
    const struct lq_device_ops *ops;
    struct lq_device *device;
    size_t sequence;
    size_t batch_samples;
    size_t batch_rows;
    size_t logit_rows;
    uint32_t layer;
    bool has_layer;
    bool arranges; /* matrices of layers and of the output lie in the device's own order */
    /* Device memory. Weights that the model has are owned; ATTN_Q, _K and _V of a fused ATTN_QKV
     * (and so on) point into it, so nobody but the loader asks whether weights are fused. NULL:
     * neither. Experts are not here: lq_forward_expert. */
    float *weights[LQ_LAYER_WEIGHT_COUNT];
    float *output_norm;
    float *output;
    float *logits;
    int32_t *targets;
    double *nll;
    struct lq_logits_difference *differences; /* where the device can compare logits */
    double *sums[LQ_LAYER_INPUT_COUNT];       /* [matrices x columns] */
    float *rope;                              /* positions of layers that see all keys */
    float *rope_windowed;                     /* and of windowed ones; may be the same */
    float *x;                                 /* only where the host's memory is not the device's */
    double *columns; /* likewise: sums that tell whether all values are finite */
    /* Whether the input of a weight is rounded to 8 bits, as the newest tensors that were loaded
     * say; and memory for what is rounded, taken when it is first needed. */
    bool rounds[LQ_LAYER_WEIGHT_COUNT];
    bool output_rounds;
    bool newest_rounds;
    float *rounded;
    float *normed;
    float *q;
    float *k;
    float *v;
    float *attended;
    float *gate;
    float *up;
    /* Experts only: a row has expert_used slots. */
    float *router;
    float *slot_rows; /* inputs of experts, then their outputs */
    struct lq_route route;
    float **experts;       /* decoded ones that are kept: [LQ_EXPERT_WEIGHTS x expert_count] */
    bool *experts_ready;   /* hold what the loaded layer has */
    uint64_t expert_bytes; /* that are still to spend on keeping */
    float *expert;         /* the newest one that is not kept */
    size_t expert_slot;    /* which one that is; SIZE_MAX: none */
    int32_t *starts;       /* host memory: slots of each expert in the newest batch */
    int32_t *sources;      /* host memory: the row of each slot */
    /* Host memory: rows whose squares were added, of the layer and of each expert. */
    uint64_t row_count;
    uint64_t *expert_rows;
    struct lq_forward_tape tape;
    struct lq_error failure; /* of reading an expert in the middle of a layer: it sticks */
};

/* Kinds of weights that experts have: gate, up and down. */
enum { LQ_EXPERT_WEIGHTS = 3 };

/* Values of a row of queries, and of keys or values. */
size_t lq_forward_q_width(const struct lq_hparams *hparams);
size_t lq_forward_kv_width(const struct lq_hparams *hparams);
/* Rows that the feed-forward part works on: one for each expert of a token. */
uint64_t lq_forward_slots(const struct lq_hparams *hparams, uint64_t rows);

/* Failures of device memory and of reading experts stick, and are asked for later. */
enum lq_status lq_forward_check_device(const struct lq_forward *forward, struct lq_error *err);
void *lq_forward_take(struct lq_forward *forward, uint64_t count, size_t element_bytes);
void lq_forward_give(struct lq_forward *forward, void *memory);
/* Give up the loaded layer; the loaded output matrix. */
void lq_forward_give_layer(struct lq_forward *forward);
void lq_forward_give_output(struct lq_forward *forward);

/* True also after a failure: there is no use in going on. */
bool lq_forward_is_cancelled(const struct lq_forward *forward);
/* LQ_ECANCELLED, or the failure that made going on useless. */
enum lq_status lq_forward_check_cancelled(const struct lq_forward *forward, struct lq_error *err);

/* Of the loaded layer. */
struct lq_attention_shape lq_forward_attention_shape(const struct lq_forward *forward,
                                                     size_t samples);
/* Products with one left side, in device memory. */
void lq_forward_multiply(struct lq_forward *forward, const float *a, size_t rows, size_t in_cols,
                         const struct lq_product *products, size_t count, bool arranged);
/* What a product reads: x itself, or its rows rounded, which are good until the next call. */
const float *lq_forward_rounded(struct lq_forward *forward, bool rounds, const float *x,
                                size_t rows, size_t cols);
/* The graph of the loaded layer on rows in device memory, in place; see lq_forward_layer. */
void lq_forward_run_layer(struct lq_forward *forward, float *x, size_t sample_count, bool collect,
                          bool inputs_only);
/* What the feed-forward part adds, from `gate` to `normed`, before a post norm. */
void lq_forward_make_down(struct lq_forward *forward, size_t rows);
/* The rest of the layer after a run with inputs_only, for rows that it was run on. */
void lq_forward_run_down(struct lq_forward *forward, float *x, size_t rows);
/* Logits of at most logit_rows rows of host memory, in forward->logits. */
enum lq_status lq_forward_make_logits(struct lq_forward *forward, const float *hidden, size_t rows,
                                      struct lq_error *err);

/* Decodes a whole tensor into host memory, in parallel, and refuses NaN and infinity. */
enum lq_status lq_forward_decode(const struct lq_forward *forward,
                                 const struct lq_model_tensor *tensor, const void *data, float *out,
                                 struct lq_error *err);
/* Whether a weight of a layer lies as the device's `arrange` left it. */
bool lq_forward_is_arranged(const struct lq_forward *forward, enum lq_layer_weight weight);
/* As lq_forward_load_weight, into that order; only where forward->arranges. */
enum lq_status lq_forward_load_arranged(struct lq_forward *forward, const char *name, uint64_t cols,
                                        uint64_t rows, float *to, struct lq_error *err);
/* Reads a tensor of the given shape into device memory `to`. */
enum lq_status lq_forward_load_weight(struct lq_forward *forward, const char *name, uint64_t cols,
                                      uint64_t rows, float *to, struct lq_error *err);
/* Memory for `slots` rows of experts, and for experts themselves. */
enum lq_status lq_forward_take_experts(struct lq_forward *forward, uint64_t slots,
                                       struct lq_error *err);
void lq_forward_give_experts(struct lq_forward *forward);
/* Give up the experts that were kept. */
void lq_forward_drop_experts(struct lq_forward *forward);
/* The experts of another layer are wanted from now on. */
void lq_forward_reset_experts(struct lq_forward *forward);
/* The matrix of expert `expert` of the loaded layer, one of LQ_WEIGHT_FFN_GATE_EXPS, _UP_EXPS and
 * _DOWN_EXPS, in device memory; good until the next call. Read and decoded now unless it was kept.
 * NULL after a failure, which sticks. */
const float *lq_forward_expert(struct lq_forward *forward, enum lq_layer_weight weight,
                               size_t expert);
/* The same, to be changed: it is kept until another layer is loaded. */
float *lq_forward_keep_expert(struct lq_forward *forward, enum lq_layer_weight weight,
                              size_t expert);
/* Bytes of lq_forward_memory that do not hold weights or logits, for batches of `rows`. */
uint64_t lq_forward_scratch(const struct lq_hparams *hparams, uint64_t rows);
/* Rows of a batch of samples on a device that does not say otherwise. */
uint64_t lq_forward_usual_rows(uint32_t sequence);
/* Device memory that something with batches of `rows` takes at its peak. */
typedef uint64_t (*lq_forward_bytes_fn)(const struct lq_hparams *hparams,
                                        const struct lq_forward_env *env, uint64_t rows);
uint64_t lq_forward_pass_bytes(const struct lq_hparams *hparams, const struct lq_forward_env *env,
                               uint64_t rows);
/* As lq_forward_create, for something around a pass whose batches must fit into env.memory_bytes as
 * well: LQ_ENOMEM when one sample does not. */
enum lq_status lq_forward_create_within(struct lq_forward **out, const struct lq_hparams *hparams,
                                        const struct lq_forward_env *env, uint32_t sequence,
                                        lq_forward_bytes_fn bytes, struct lq_error *err);
/* Floats of memory that experts take at the most, kept ones and the newest. */
uint64_t lq_forward_expert_elems(const struct lq_hparams *hparams, uint64_t expert_bytes);
/* Reads one of the `mats` matrices of a tensor into device memory `to`. */
enum lq_status lq_forward_load_matrix(struct lq_forward *forward, const char *name, uint64_t cols,
                                      uint64_t rows, uint64_t mats, uint64_t matrix, float *to,
                                      struct lq_error *err);
/* The rotary table of a layer, [sequence x rope_dim / 2 x 2]. */
const float *lq_forward_rope_of(const struct lq_forward *forward, uint32_t layer);
/* The rotary tables of all positions, at the object's creation. */
enum lq_status lq_forward_make_rope(struct lq_forward *forward, struct lq_error *err);

#endif
