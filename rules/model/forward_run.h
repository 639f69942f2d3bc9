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

enum { LQ_FORWARD_MORE_MAX = 15 };

struct lq_forward_device {
    struct lq_device *device;
    size_t memory_bytes; /* that are free on it */
};

struct lq_forward_run {
    struct lq_run *run;
    struct lq_device *device;
    bool is_gpu;
    size_t memory_bytes;                                /* that are free on a GPU */
    struct lq_forward_device more[LQ_FORWARD_MORE_MAX]; /* GPUs besides, where a step wants them */
    size_t more_count;
};

/* Finds the device and records its numerics for the step. */
enum lq_status lq_forward_run_open(struct lq_forward_run *out, struct lq_run *run,
                                   struct lq_error *err);
/* With a GPU: takes others that are idle, too, until there are `most` with the first one. Close
 * gives them back. */
void lq_forward_run_take_more(struct lq_forward_run *forward_run, size_t most);
/* Device 0 is the first one, device i is more[i - 1]. */
struct lq_forward_device lq_forward_run_device(const struct lq_forward_run *forward_run, size_t i);
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
/* For one of several devices. */
struct lq_forward_env lq_forward_run_env_of(const struct lq_forward_run *forward_run, size_t device,
                                            struct lq_weight_source weights,
                                            enum lq_status nonfinite_status);

#endif
