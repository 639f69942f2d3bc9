/* What the steps that run a forward pass share: the device of a step, a GPU where there is one that
 * the user wants, else the CPU, and the environment that ties a pass to it (cancellation, threads,
 * warnings). A step that fails on a GPU, whatever the reason, runs once more from its start on the
 * CPU: what it says then counts. Thread rule: one thread at a time; the objects live as long as the
 * step's run. Limits: none. */
#ifndef LQ_RULES_MODEL_FORWARD_RUN_H
#define LQ_RULES_MODEL_FORWARD_RUN_H

#include "engine/base/error.h"
#include "engine/rule.h"
#include "rules/model/forward.h"

struct lq_forward_run {
    struct lq_run *run;
    struct lq_device *device;
    bool is_gpu;
    size_t memory_bytes; /* that are free on a GPU */
};

/* Finds the device and records its numerics for the step. */
enum lq_status lq_forward_run_open(struct lq_forward_run *out, struct lq_run *run,
                                   struct lq_error *err);
/* A transient output stays in memory when a GPU computes it (lq_run_hold). */
void lq_forward_run_hold(const struct lq_forward_run *forward_run, const char *output);
/* What the steps behind this one will read begins to come to the device: when the weights of this
 * one are there. Not for mixtures, whose experts are read when a token goes to them. */
void lq_forward_run_expect(const struct lq_forward_run *forward_run,
                           const struct lq_hparams *hparams);
/* Passes on what the device has to say to the user, once per process, and gives it back. */
void lq_forward_run_close(struct lq_forward_run *forward_run);
struct lq_forward_env lq_forward_run_env(const struct lq_forward_run *forward_run,
                                         struct lq_weight_source weights,
                                         enum lq_status nonfinite_status);

#endif
