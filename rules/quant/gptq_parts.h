/* What the files of GPTQ's steps share: the state of a step that quantizes the matrices of one
 * input. gptq_steps.c adds the steps, gptq_run.c runs them. Internal to these. Ownership: the state
 * is of the expand arena. Thread rule: immutable once expanded. Limits: LQ_GPTQ_MATRICES_MAX. */
#ifndef LQ_RULES_QUANT_GPTQ_PARTS_H
#define LQ_RULES_QUANT_GPTQ_PARTS_H

#include "rules/quant/gptq.h"
#include "rules/quant/gptq_steps.h"

enum { LQ_GPTQ_MATRICES_MAX = 3 }; /* of one input */

/* Everything here is also in the step's parameters. */
struct lq_gptq_group {
    struct lq_gptq_grid grid;
    bool desc_act;
    bool stores_less_one;
    bool keeps_weights; /* somebody behind wants them */
    double damp;
    size_t matrix_count;
    enum lq_layer_weight weights[LQ_GPTQ_MATRICES_MAX];
    struct lq_model_tensor tensors[LQ_GPTQ_MATRICES_MAX]; /* rows as the source has them */
};

enum lq_status lq_gptq_run_group(struct lq_run *run, struct lq_error *err);

#endif
