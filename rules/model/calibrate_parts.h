/* What the expansions behind importance matrices and masks share, and what their steps share when
 * they run: a layer's inputs and parameters, its weights, and rows of hidden states as inputs and
 * outputs. Internal to calibrate*.c, gradient*.c, spike_steps.c and stage_steps.c. Thread rule:
 * what an expansion makes is immutable once expanded; the rest belongs to the step that runs.
 * Limits: none of its own. */
#ifndef LQ_RULES_MODEL_CALIBRATE_PARTS_H
#define LQ_RULES_MODEL_CALIBRATE_PARTS_H

#include <stdbool.h>

#include "engine/rule.h"
#include "rules/format/imatrix.h"
#include "rules/model/backward.h"
#include "rules/model/calibrate.h"
#include "rules/model/device_states.h"
#include "rules/model/device_team.h"
#include "rules/model/hparams.h"
#include "rules/model/tensor_index.h"
#include "rules/model/tokens.h"

/* ---- expanding ---- */

enum {
    /* The weights of a layer, then the rotary factors (if any), then the embedding (layer 0). */
    LQ_CALIBRATE_TENSORS_MAX = LQ_LAYER_WEIGHT_COUNT + 4,
    LQ_CALIBRATE_PARAMS_MAX = LQ_CALIBRATE_TENSORS_MAX + 7,
    LQ_CALIBRATE_INPUTS_MAX = LQ_CALIBRATE_TENSORS_MAX + 3, /* and those of experts */
};

/* The state of a layer's step. Everything here is also in the step's parameters. */
struct lq_calibrate_layer {
    struct lq_hparams hparams;
    uint32_t layer; /* the number of layers for what stands behind the last one */
    bool whole;     /* the last layer gives hidden states as well */
    bool skip_first;
    bool hidden_bf16;                   /* what goes to the next layer */
    bool ranges;                        /* also writes the output "ranges" */
    bool moments;                       /* and those with moments */
    struct lq_gradient_options options; /* backward steps */
    double threshold;                   /* of spikes */
    struct lq_model_tensor tensors[LQ_CALIBRATE_TENSORS_MAX];
    /* The step input that holds each; tensors in pieces have one for each, "<name>.<number>". */
    const char *inputs[LQ_CALIBRATE_TENSORS_MAX];
    size_t tensor_count;
};

struct lq_calibrate_expansion {
    struct lq_expand *expand;
    const struct lq_calibrate_request *request;
    struct lq_tensor_index index;
    struct lq_hparams hparams;
    const char *hparams_text;
    uint64_t cost; /* of a layer's forward step */
};

/* A step in the making; there is room for a few more inputs and parameters. */
struct lq_calibrate_plan {
    struct lq_calibrate_layer *state;
    struct lq_step_input *inputs; /* of the arena */
    size_t input_count;
    struct lq_step_param params[LQ_CALIBRATE_PARAMS_MAX];
    size_t param_count;
};

/* Index, hyperparameters and cost of request->model; `expand` and `request` must be set. */
enum lq_status lq_calibrate_read_model(struct lq_calibrate_expansion *expansion,
                                       struct lq_error *err);
/* Hyperparameters, the layer's number and the rotary factors. */
enum lq_status lq_calibrate_plan_begin(struct lq_calibrate_expansion *expansion, uint32_t layer,
                                       struct lq_calibrate_plan *plan, struct lq_error *err);
/* One more tensor, as the input `input_name`. Type, shape and row order are not in the tensor's
 * bytes, so they become parameters. */
enum lq_status lq_calibrate_plan_tensor(struct lq_calibrate_expansion *expansion,
                                        struct lq_calibrate_plan *plan, const char *tensor_name,
                                        const char *input_name, struct lq_error *err);
/* All of that for the weights of a layer; for layer 0 also the embedding and the tokens. */
enum lq_status lq_calibrate_plan_layer(struct lq_calibrate_expansion *expansion, uint32_t layer,
                                       struct lq_calibrate_plan *plan, struct lq_error *err);
/* `memory` for the samples of the calibration, as far as they are known. */
uint64_t lq_calibrate_guess_memory(const struct lq_calibrate_expansion *expansion,
                                   uint64_t (*memory)(const struct lq_hparams *hparams,
                                                      uint32_t sequence));
/* Reads the model and adds the steps of the forward pass; (*layers)[i] is the step of layer i, with
 * the outputs "stats" and "hidden"; the last one has hidden states only if `whole`. */
enum lq_status lq_calibrate_forward(struct lq_calibrate_expansion *expansion, bool whole,
                                    size_t **layers, struct lq_error *err);

struct lq_calibrate_assembly {
    const char *op;
    unsigned version;
    lq_run_fn run;
    const char *method; /* NULL: no parameter of that name */
};

/* The step that makes the file from the outputs "stats" of the layers' steps. */
enum lq_status lq_calibrate_add_assemble(struct lq_calibrate_expansion *expansion,
                                         const struct lq_calibrate_assembly *assembly,
                                         const size_t *layers, size_t *step, struct lq_error *err);

/* The step that joins the outputs "ranks" of the layers' steps into the artifact's output of that
 * name. */
enum lq_status lq_gradient_join_ranks(struct lq_calibrate_expansion *expansion,
                                      const size_t *layers, struct lq_error *err);

/* ---- running ---- */

/* A step's samples. */
struct lq_calibrate_io {
    struct lq_run *run;
    const struct lq_calibrate_layer *layer;
    uint32_t sample_count;
    uint32_t sequence_length;
    bool reads_bf16;         /* the input "hidden" is; gradients never are */
    struct lq_tokens tokens; /* once opened */
};

/* Where the weights of a step come from; `io` must outlive it. */
struct lq_weight_source lq_calibrate_weights(struct lq_calibrate_io *io);
/* Loads the input "tokens" and takes its shape. */
enum lq_status lq_calibrate_open_tokens(struct lq_calibrate_io *io, struct lq_error *err);
/* Takes the shape of an input in the format of hidden states, or checks that it has the shape that
 * was taken before, and its size. */
enum lq_status lq_calibrate_open_rows(struct lq_calibrate_io *io, const char *input,
                                      struct lq_error *err);
enum lq_status lq_calibrate_read_rows(const struct lq_calibrate_io *io, const char *input,
                                      size_t first_sample, size_t sample_count, float *rows,
                                      struct lq_error *err);
/* Sees to it that the output "hidden" stays on the devices (which comes back), or in memory, or
 * goes to the cache. */
struct lq_device_states *lq_calibrate_hold(const struct lq_calibrate_io *io,
                                           struct lq_forward_run *forward_run,
                                           const struct lq_device_team *team);
/* Begins an output in that format, and appends rows to it. */
enum lq_status lq_calibrate_write_header(const struct lq_calibrate_io *io, const char *output,
                                         struct lq_error *err);
enum lq_status lq_calibrate_write_rows(const struct lq_calibrate_io *io, const char *output,
                                       const float *rows, size_t row_count, struct lq_error *err);

/* Experts that no token of the calibration went to have nothing to say about their columns. */
struct lq_calibrate_idle {
    uint64_t count;
    uint64_t total;
    uint32_t layer; /* of the newest */
    char text[256]; /* "layer 0: 3, 5; layer 2: 1", as far as there is room */
};

void lq_calibrate_count_idle(struct lq_calibrate_idle *idle, uint32_t layer, const uint64_t *counts,
                             size_t count);
/* Warns of idle experts, sorts the entries and writes the outputs "main" and "gguf". */
enum lq_status lq_calibrate_finish(struct lq_run *run, struct lq_imatrix *imatrix,
                                   const struct lq_calibrate_idle *idle, struct lq_error *err);

enum lq_status lq_calibrate_run_layer(struct lq_run *run, struct lq_error *err);
enum lq_status lq_calibrate_run_assemble(struct lq_run *run, struct lq_error *err);
enum lq_status lq_calibrate_run_load(struct lq_run *run, struct lq_error *err);
enum lq_status lq_gradient_run_loss(struct lq_run *run, struct lq_error *err);
enum lq_status lq_gradient_run_layer(struct lq_run *run, struct lq_error *err);
enum lq_status lq_gradient_run_assemble(struct lq_run *run, struct lq_error *err);

#endif
