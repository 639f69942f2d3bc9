/* The steps that look for super weights by activation spikes (spikes.h): one for each layer, with
 * the first samples of the calibration's samples (about 2048 tokens), for a spike does not depend
 * on the text. Output "spikes": LQ_SPIKE_BYTES for each, largest output first. Hidden states
 * between layers are transient outputs in the format of calibrate.h. Thread rule: runs on the
 * expansion's thread. Limits: those of spikes.h. */
#ifndef LQ_RULES_MODEL_SPIKE_STEPS_H
#define LQ_RULES_MODEL_SPIKE_STEPS_H

#include <stddef.h>

#include "engine/base/error.h"
#include "engine/rule.h"
#include "rules/model/spikes.h"
#include "rules/model/tensor_index.h"

struct lq_spike_plan {
    const struct lq_artifact *model;
    const struct lq_artifact *calibration;
    double threshold;
    /* Results, one for each layer: the step, and the tensor that it searches. */
    size_t layer_count;
    size_t *steps;
    struct lq_model_tensor *tensors;
};

enum lq_status lq_spike_layers(struct lq_expand *expand, struct lq_spike_plan *plan,
                               struct lq_error *err);
struct lq_spike lq_spike_read(const void *bytes);

#endif
