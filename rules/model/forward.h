/* The forward pass of a transformer, layer by layer: every sample passes one layer, then the next,
 * so weights are read once and one layer is resident. The caller keeps the hidden states (rows of
 * `width` floats, one per token) and hands them over in batches of whole samples; each sample
 * starts at position 0 and sees only itself. Written once against kernels/device.h. Results depend
 * neither on the number of threads nor on how samples are grouped into calls, as long as every call
 * but the last has lq_forward_batch_samples samples; they may depend on the device. Ownership: the
 * object owns its weights and scratch; the environment is borrowed and must outlive it. Thread
 * rule: one thread at a time; work is spread over the pool. Limits: those of hparams.h. */
#ifndef LQ_RULES_MODEL_FORWARD_H
#define LQ_RULES_MODEL_FORWARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/digest.h"
#include "engine/base/error.h"
#include "engine/base/pool.h"
#include "kernels/device.h"
#include "rules/model/hparams.h"
#include "rules/model/tensor_index.h"

/* Where raw weights come from. `get` finds a tensor by its GGUF name and its whole data; both are
 * borrowed until the next call. `get_matrix` finds one of the ne[2] matrices of a tensor of experts
 * and its data alone; where it is NULL, `get` is asked for the whole. */
struct lq_weight_source {
    enum lq_status (*get)(void *user, const char *name, const struct lq_model_tensor **tensor,
                          const void **data, struct lq_error *err);
    void *user;
    enum lq_status (*get_matrix)(void *user, const char *name, uint64_t matrix,
                                 const struct lq_model_tensor **tensor, const void **data,
                                 struct lq_error *err);
    /* Of a tensor's whole data; false where it is not known. May be NULL. */
    bool (*digest)(void *user, const char *name, struct lq_digest *digest);
};

/* Decoded experts of a layer that are kept from one batch to the next, in bytes. */
#define LQ_FORWARD_EXPERT_BYTES ((uint64_t)512 << 20)

/* A layer, or a part of it: for who replaces its weights one after the other and wants to know what
 * flows into the next ones. Only the weights of the part are read. */
enum lq_forward_stage {
    LQ_STAGE_WHOLE,
    LQ_STAGE_ATTN,        /* up to LQ_INPUT_ATTN; rows stay */
    LQ_STAGE_ATTN_OUTPUT, /* up to LQ_INPUT_ATTN_OUTPUT; rows stay */
    LQ_STAGE_FFN,         /* up to LQ_INPUT_FFN; rows become what attention leaves */
    LQ_STAGE_FFN_DOWN,    /* from there up to LQ_INPUT_FFN_DOWN; rows stay */
    LQ_STAGE_END,         /* from there to the end; rows become the next layer's */
};

struct lq_forward_env {
    struct lq_device *device;
    struct lq_pool *pool; /* decodes weights; may be NULL */
    struct lq_weight_source weights;
    /* Asked between operations; true ends the call with LQ_ECANCELLED. May be NULL. */
    bool (*cancelled)(void *user);
    void *cancelled_user;
    uint64_t expert_bytes; /* replaces LQ_FORWARD_EXPERT_BYTES unless it is 0; no result changes */
    uint64_t memory_bytes; /* of the device, for batches to fit into; 0: no matter */
    size_t batch_rows;     /* replaces what the device wants in a batch unless it is 0 */
    bool only_products; /* matrices are multiplied with and not looked at or changed: they may lie
                         * in the device's own order; no result changes */
    bool skip_first;    /* leave the first token of each sample out of the sums */
    /* Shown what flows into the layer's matrices but those of experts, where it is collected:
     * values that follow each other, the first one in column `col`. May be NULL. */
    void (*watch)(void *user, enum lq_layer_input input, size_t col, const float *values,
                  size_t count);
    void *watch_user;
    enum lq_status nonfinite_status; /* status for NaN or infinity in weights or activations */
    /* Not LQ_STAGE_WHOLE: what a call runs, not for mixtures. Where it collects, the input that it
     * ends at is shown to `watch`, and nothing is summed up. */
    enum lq_forward_stage stage;
};

/* The input that a part of a layer ends at; LQ_LAYER_INPUT_COUNT: none. */
enum lq_layer_input lq_forward_stage_input(enum lq_forward_stage stage);
/* Whether a part of a layer reads a weight, if the model has it. */
bool lq_forward_stage_reads(enum lq_forward_stage stage, enum lq_layer_weight weight);

struct lq_forward;

/* For samples of `sequence` tokens (1 to LQ_SEQUENCE_MAX). Everything is copied but the pointers in
 * `env`. */
enum lq_status lq_forward_create(struct lq_forward **out, const struct lq_hparams *hparams,
                                 const struct lq_forward_env *env, uint32_t sequence,
                                 struct lq_error *err);
void lq_forward_destroy(struct lq_forward *forward);
/* The most samples that one call takes: as many tokens as keep the device busy, at least one
 * sample.
 */
size_t lq_forward_batch_samples(const struct lq_forward *forward);
/* The most that a device wants, whatever memory it has. */
size_t lq_forward_wanted_samples(const struct lq_device *device, uint32_t sequence);
/* The first samples of a text, about LQ_DEVICE_BATCH_ROWS tokens: for what looks at a part of it,
 * the same on every device, and no more than a batch. */
size_t lq_forward_first_samples(uint32_t sequence);
/* A guess at the memory that an object takes at its peak, besides raw weights. */
uint64_t lq_forward_memory(const struct lq_hparams *hparams, uint32_t sequence, bool with_output);
/* The same for one that only sees layers. */
uint64_t lq_forward_layer_memory(const struct lq_hparams *hparams, uint32_t sequence);

/* hidden[i] = the embedding of tokens[i]. Ids must be below vocab_size. */
enum lq_status lq_forward_embed(struct lq_forward *forward, const int32_t *tokens, size_t count,
                                float *hidden, struct lq_error *err);
/* Reads, decodes and checks the weights of a layer, and sets the sums to zero. Experts are read
 * when a token first goes to them, so those that none goes to cost nothing and are not checked. */
enum lq_status lq_forward_load_layer(struct lq_forward *forward, uint32_t layer,
                                     struct lq_error *err);
/* Where the rows of a batch come from and go to: device memory, or host memory where that is NULL.
 */
struct lq_forward_place {
    float *host;
    const float *from;
    float *to;
};
/* As lq_forward_layer, for rows that need not be in host memory. */
enum lq_status lq_forward_layer_at(struct lq_forward *forward, const struct lq_forward_place *place,
                                   size_t sample_count, bool collect, bool inputs_only,
                                   struct lq_error *err);
/* Copies some rows of device memory to the host. */
enum lq_status lq_forward_fetch(struct lq_forward *forward, const float *from, size_t row_count,
                                float *host, struct lq_error *err);
/* Passes samples through the loaded layer, in place. With `collect` the squares of the layer's
 * inputs are added to the sums. With `inputs_only` the layer stops after the last collected input
 * and leaves `hidden` undefined. Values that are not finite are errors of env.nonfinite_status. */
enum lq_status lq_forward_layer(struct lq_forward *forward, float *hidden, size_t sample_count,
                                bool collect, bool inputs_only, struct lq_error *err);
/* The same for the sake of rows [first, first + count) of each sample alone, where count <= first:
 * where rows go begins with these, side by side, and the rest of it is undefined. Nothing is
 * collected. */
enum lq_status lq_forward_layer_rows(struct lq_forward *forward,
                                     const struct lq_forward_place *place, size_t sample_count,
                                     size_t first, size_t count, struct lq_error *err);
/* The sums of one input so far, lq_layer_input_mats x lq_layer_input_cols of them; an error when
 * one is not finite. */
enum lq_status lq_forward_sums(struct lq_forward *forward, enum lq_layer_input input, double *sums,
                               struct lq_error *err);
/* Sums begin at zero again; the rows in them still count. */
void lq_forward_restart_sums(struct lq_forward *forward);
/* How many rows are in the sums of one input: counts[lq_layer_input_mats]. */
void lq_forward_counts(const struct lq_forward *forward, enum lq_layer_input input,
                       uint64_t *counts);
/* Reads the final norm and the output matrix; the layer is given up. */
enum lq_status lq_forward_load_output(struct lq_forward *forward, struct lq_error *err);
/* nll[i] = -log softmax(output(norm(hidden[i])))[targets[i]], for any number of rows; logits exist
 * for one tile of rows at a time. Overwrites nothing. */
enum lq_status lq_forward_score(struct lq_forward *forward, const float *hidden,
                                const int32_t *targets, size_t row_count, double *nll,
                                struct lq_error *err);
/* A model beside the one that it was made of: the same vocabulary, outputs loaded, one device,
 * which can compare. Rows of hidden states of both. */
struct lq_forward_pair {
    struct lq_forward *forward;
    struct lq_forward *original;
    const float *hidden;
    const float *original_hidden;
};
bool lq_forward_can_compare(const struct lq_forward *forward);
/* Any number of rows; both models' logits stay on the device. Overwrites nothing. */
enum lq_status lq_forward_compare(const struct lq_forward_pair *pair, const int32_t *targets,
                                  size_t row_count, struct lq_logits_difference *out,
                                  struct lq_error *err);
/* Logits of rows, for tests and tools: logits[row_count x vocab_size]. */
enum lq_status lq_forward_logits(struct lq_forward *forward, const float *hidden, size_t row_count,
                                 float *logits, struct lq_error *err);

/* A device's way to spread work over our pool. */
struct lq_parallel lq_forward_parallel(struct lq_pool *pool);

#endif
