/* A layer's step on several GPUs: each has the layer's weights and a range of the samples, whole
 * batches of them, and its hidden states stay on it for the next layer. Sums are fetched batch by
 * batch and added in the order of batches, so that they have the bits that one GPU gives.
 * Ownership: the caller's. Thread rule: that of a run; works on threads of the pool. Limits: not
 * for mixtures, nor where samples have rows that do not count, whose sums have parts smaller than a
 * batch. */
#ifndef LQ_RULES_MODEL_CALIBRATE_TEAM_H
#define LQ_RULES_MODEL_CALIBRATE_TEAM_H

#include "rules/model/calibrate_parts.h"
#include "rules/model/forward_run.h"
#include "rules/model/layer_stats.h"

struct lq_calibrate_team {
    struct lq_calibrate_io *io;
    struct lq_forward_run *forward_run; /* with all its devices */
    bool is_first;
    bool inputs_only;
};

/* Counts and sums of the layer go to `stats`, whose memory is the run's. *done is false where there
 * is not enough for several, or where states do not fit on the devices: then nothing was done. */
enum lq_status lq_calibrate_run_team(const struct lq_calibrate_team *team,
                                     struct lq_layer_stats *stats, bool *done,
                                     struct lq_error *err);

#endif
