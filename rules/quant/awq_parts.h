/* What the files behind AWQ's steps share: their states and how they run. Internal to awq_*.c.
 * Thread rule: states are immutable once expanded; the rest belongs to the step that runs. Limits:
 * none of its own. */
#ifndef LQ_RULES_QUANT_AWQ_PARTS_H
#define LQ_RULES_QUANT_AWQ_PARTS_H

#include "engine/rule.h"
#include "rules/quant/awq_steps.h"

/* What the step of a part wrote as "trials". */
struct lq_awq_trials {
    double best;                  /* the number of the trial */
    double losses[LQ_AWQ_TRIALS]; /* the mean over the matrices of what is lost of their products'
                                     mean square */
};

/* What the step of a matrix wrote as "error", both relative to mean squares. */
struct lq_awq_error {
    double weights;
    double products; /* for the inputs of the calibration */
};

/* A part's step: the matrices that share the input, the inputs of the step that hold them, and what
 * is in front of them, as far as it is a tensor (a norm, or a bias). */
struct lq_awq_part_state {
    struct lq_awq_grid grid;
    struct lq_model_tensor tensors[LQ_LAYER_WEIGHT_COUNT];
    const char *inputs[LQ_LAYER_WEIGHT_COUNT];
    size_t tensor_count;
    struct lq_model_tensor front;
    bool has_front;
};

/* A matrix's step. */
struct lq_awq_tensor_state {
    struct lq_awq_grid grid;
    struct lq_model_tensor tensor;
    enum lq_awq_format format;
    bool cut;
    uint64_t row_first; /* of the rows that are divided by "row_scales" */
    uint64_t row_count; /* 0: none */
};

/* Floats of a matrix, in the order of rows of the checkpoint. LQ_EFORMAT for NaN and infinity. */
enum lq_status lq_awq_decode(struct lq_run *run, const struct lq_model_tensor *tensor,
                             const void *data, float *rows, struct lq_error *err);
/* The input "moments"; LQ_EINTERNAL when it is for another number of columns. */
struct lq_mean_moments;
enum lq_status lq_awq_load_moments(struct lq_run *run, uint64_t cols, struct lq_mean_moments *out,
                                   struct lq_error *err);

enum lq_status lq_awq_run_part(struct lq_run *run, struct lq_error *err);
enum lq_status lq_awq_run_tensor(struct lq_run *run, struct lq_error *err);

#endif
