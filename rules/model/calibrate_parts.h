/* What the expansion of a calibration hands to its steps. Internal to calibrate*.c. Thread rule:
 * immutable once expanded. Limits: none of its own. */
#ifndef LQ_RULES_MODEL_CALIBRATE_PARTS_H
#define LQ_RULES_MODEL_CALIBRATE_PARTS_H

#include "engine/rule.h"
#include "rules/model/hparams.h"
#include "rules/model/tensor_index.h"

/* The weights of a layer, then the rotary factors (if any), then the embedding (layer 0). */
enum { LQ_CALIBRATE_TENSORS_MAX = LQ_LAYER_WEIGHT_COUNT + 4 };

/* The state of a layer's step. Everything here is also in the step's parameters. */
struct lq_calibrate_layer {
    struct lq_hparams hparams;
    uint32_t layer;
    struct lq_model_tensor tensors[LQ_CALIBRATE_TENSORS_MAX];
    const char *inputs[LQ_CALIBRATE_TENSORS_MAX]; /* the step input that holds each */
    size_t tensor_count;
};

enum lq_status lq_calibrate_run_layer(struct lq_run *run, struct lq_error *err);
enum lq_status lq_calibrate_run_assemble(struct lq_run *run, struct lq_error *err);
enum lq_status lq_calibrate_run_load(struct lq_run *run, struct lq_error *err);

#endif
