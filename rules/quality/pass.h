/* One model's pass over a text, a step for each layer, "quality.layer": each streams every sample
 * through its layer and leaves hidden states for the next one (rules/model/hidden_states.h), so a
 * killed evaluation goes on at the layer where it was, a step holds one layer's weights and one
 * batch, and the next step's weights are on their way while it computes. Behind the last layer only
 * positions that are scored are left. A step also keeps a few rows of its output, by which layers
 * of two models are compared. Steps of the same model on the same text are shared. Thread rule:
 * functions that take an expansion run on its thread. Limits: those of tokens.h. */
#ifndef LQ_RULES_QUALITY_PASS_H
#define LQ_RULES_QUALITY_PASS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/rule.h"
#include "rules/model/forward.h"
#include "rules/model/forward_run.h"
#include "rules/model/hidden_states.h"
#include "rules/model/tokens.h"
#include "rules/quality/model_reader.h"

/* Rows of a layer that are kept, at most: scored positions of the first samples, those of
 * lq_forward_first_samples. */
enum { LQ_KEPT_ROWS_MAX = 512 };

struct lq_pass {
    struct lq_model_view view;
    struct lq_ref tokens;
    uint32_t sequence; /* tokens of a chunk, as far as known */
    uint64_t layer_memory_bytes;
    size_t *steps; /* of each layer: outputs "hidden" and "kept" (rows of f32) */
};

struct lq_pass_options {
    struct lq_ref tokens; /* a token set, as in tokens.h */
    uint32_t sequence;    /* its length, to guess memory from; 0: not known, the usual one */
    bool hidden_bf16;
};

/* Adds the steps of all layers. At run time LQ_ECALIBRATION for fewer than two chunks or foreign
 * tokens, LQ_EFAIL for values that are not finite. LQ_EUNSUPPORTED for a model that the forward
 * pass lacks. */
enum lq_status lq_pass_add(struct lq_pass *pass, struct lq_expand *expand,
                           const struct lq_artifact *model, const struct lq_pass_options *options,
                           struct lq_error *err);

/* Inputs and parameters that lq_pass_inputs_add takes at most. */
enum { LQ_PASS_INPUTS_MAX = 8 };
/* What a step needs that makes logits: the hidden states, as the input <prefix>"hidden", and the
 * output matrix. */
enum lq_status lq_pass_inputs_add(struct lq_model_inputs *out, struct lq_expand *expand,
                                  const struct lq_pass *pass, const char *prefix,
                                  struct lq_model_part *part, struct lq_error *err);

/* A step that reads what is behind the last layer. */
struct lq_pass_end {
    struct lq_run *run;
    struct lq_model_reader reader;
    struct lq_forward *forward; /* its output is loaded */
    struct lq_hidden_shape hidden;
    char input[32]; /* that holds the hidden states */
};

/* `device` is that of the run's which makes logits, `sequence` that of the tokens. LQ_EFORMAT for a
 * malformed model. */
enum lq_status lq_pass_end_open(struct lq_pass_end *end, struct lq_run *run, const char *prefix,
                                const struct lq_model_part *part,
                                const struct lq_forward_run *forward_run, size_t device,
                                uint32_t sequence, struct lq_error *err);
void lq_pass_end_close(struct lq_pass_end *end);
/* Hidden states of all scored positions of some samples. */
enum lq_status lq_pass_end_read(struct lq_pass_end *end, size_t first_sample, size_t sample_count,
                                float *rows, struct lq_error *err);

/* Loads and checks the input "tokens". */
enum lq_status lq_pass_load_tokens(struct lq_run *run, uint32_t vocab_size,
                                   struct lq_tokens *tokens, struct lq_error *err);

#endif
