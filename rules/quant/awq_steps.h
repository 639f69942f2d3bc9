/* The steps of AWQ: for each layer one for every input of its matrices that finds the scales of its
 * columns, and replaces the norm or bias in front; for each matrix one that cuts, rounds and packs
 * it; and one that says which scales were chosen and what is lost. Moments of activations come from
 * the steps of the layers (calibrate.h) and depend on no attribute, so another group size runs the
 * model no more. Thread rule: steps are added on the expanding thread. Limits: those of hparams.h
 * and awq.h. */
#ifndef LQ_RULES_QUANT_AWQ_STEPS_H
#define LQ_RULES_QUANT_AWQ_STEPS_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/rule.h"
#include "rules/model/hparams.h"
#include "rules/model/tensor_index.h"
#include "rules/quant/awq.h"

enum { LQ_AWQ_PART_COUNT = 4 }; /* of a layer: inputs of its matrices */

enum lq_awq_format {
    LQ_AWQ_GEMM,  /* qweight, qzeros, scales */
    LQ_AWQ_PACKED /* compressed-tensors' weight_packed, weight_scale, weight_zero_point */
};

/* What all steps are about; lives in the expand arena. */
struct lq_awq_job {
    struct lq_expand *expand;
    const struct lq_artifact *model;
    const struct lq_artifact *calibration;
    size_t group_size;
    bool symmetric;
    bool cut;
    enum lq_awq_format format;
    struct lq_tensor_index index;
    struct lq_hparams hparams;
    const size_t *layers;   /* the step of each layer, with moments */
    size_t *parts;          /* [layer x LQ_AWQ_PART_COUNT]: the step with the outputs "scales",
                               "trials" and, with something in front, "divided"; SIZE_MAX: none */
    size_t *tensors;        /* the step of each tensor of the index that is rounded, else SIZE_MAX:
                               outputs "weights", "scale", "zeros" and "error" */
    struct lq_ref *divided; /* what replaces a tensor of the index; LQ_REF_NONE: nothing does */
    enum lq_dtype *scale_types; /* of each tensor that is rounded */
};

/* Reads the model, and adds all steps but the report. Errors: LQ_EUNSUPPORTED for models and shapes
 * that AWQ or the format does not have. */
enum lq_status lq_awq_add_steps(struct lq_awq_job *job, struct lq_error *err);
/* Adds the step with the outputs "scales" (JSON) and "summary" (text). */
enum lq_status lq_awq_add_report(const struct lq_awq_job *job, size_t *step, struct lq_error *err);
/* "attention", and so on: how the report names a part. */
const char *lq_awq_part_name(size_t part);

#endif
