/* The steps of GPTQ: for each group of matrices with the same input (q, k and v; the attention's
 * output; gate and up; down) one that finds the moments of that input
 * (rules/model/stage_steps.h), and one that quantizes the matrices; the next group sees what the
 * quantized ones give. And one that says what each matrix lost. A change of bits, groups or damping
 * finds the first moments of the model in the cache; all others follow from what was quantized
 * before them. Thread rule: steps are added on the expanding thread. Limits: those of hparams.h;
 * columns and rows that are multiples of 32. */
#ifndef LQ_RULES_QUANT_GPTQ_STEPS_H
#define LQ_RULES_QUANT_GPTQ_STEPS_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/rule.h"
#include "rules/model/stage_steps.h"

/* What became of a tensor. */
struct lq_gptq_matrix {
    size_t step; /* SIZE_MAX: it stays as it is */
    enum lq_layer_weight weight;
    size_t group_size;
};

/* What all steps are about; lives in the expand arena. */
struct lq_gptq_job {
    struct lq_expand *expand;
    const struct lq_artifact *model;
    const struct lq_artifact *calibration;
    unsigned bits;
    int64_t group_size; /* -1: a group is a whole row */
    bool symmetric;
    bool desc_act;
    bool stores_less_one; /* zero points in the file are 1 less: format "gptq" */
    double damp;
    struct lq_stages *stages;
    struct lq_gptq_matrix *matrices; /* one for each tensor of the index */
};

/* The outputs of a matrix: its step has them under "<weight>.<ending>", g_idx under that name. */
enum lq_gptq_output {
    LQ_GPTQ_QWEIGHT,
    LQ_GPTQ_QZEROS,
    LQ_GPTQ_SCALES,
    LQ_GPTQ_G_IDX,
    LQ_GPTQ_LOSS,    /* LQ_GPTQ_LOSS_VALUES doubles */
    LQ_GPTQ_WEIGHTS, /* transient floats: what the next steps multiply with */
};
/* NULL when memory is out. */
const char *lq_gptq_output_name(struct lq_arena *arena, enum lq_layer_weight weight,
                                enum lq_gptq_output output);

/* What a matrix lost. Squares are means over the tokens of the calibration, of the change of the
 * matrix's output, with damping; those of a sample of its rows compare GPTQ with plain rounding. */
enum {
    LQ_GPTQ_LOSS_TOTAL,    /* of all rows */
    LQ_GPTQ_LOSS_SQUARE,   /* of the sampled rows' own output */
    LQ_GPTQ_LOSS_SAMPLE,   /* what they lost */
    LQ_GPTQ_LOSS_ROUNDING, /* what they would have lost by rounding */
    LQ_GPTQ_LOSS_DAMP,     /* the damping that it took */
    LQ_GPTQ_LOSS_DEAD,     /* columns that no token used */
    LQ_GPTQ_LOSS_VALUES,
};

/* Reads the model and adds all steps but the report. Errors: LQ_EUNSUPPORTED for models and
 * matrices that the format cannot hold. */
enum lq_status lq_gptq_add_steps(struct lq_gptq_job *job, struct lq_error *err);
/* Adds the step with the outputs "losses" (JSON) and "summary" (text). */
enum lq_status lq_gptq_add_report(const struct lq_gptq_job *job, size_t *step,
                                  struct lq_error *err);

#endif
