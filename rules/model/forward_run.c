#include "rules/model/forward_run.h"

#include <stdatomic.h>

static bool run_cancelled(void *user)
{
    return lq_run_cancelled(user);
}

enum lq_status lq_forward_run_open(struct lq_forward_run *out, struct lq_run *run,
                                   struct lq_error *err)
{
    out->run = run;
    struct lq_parallel parallel = lq_forward_parallel(lq_run_pool(run));
    parallel.cancelled = run_cancelled;
    parallel.cancelled_user = run;
    out->device = lq_device_cpu_create(parallel, lq_device_cpu_preferred());
    if (out->device == NULL) {
        return lq_error_nomem(err, "the device");
    }
    lq_run_numerics(run, out->device->ops->numerics);
    return LQ_OK;
}

void lq_forward_run_close(struct lq_forward_run *forward_run)
{
    /* A model has many layers, and each is a step: the same sentence once is enough. */
    static atomic_flag said = ATOMIC_FLAG_INIT;
    if (forward_run->device == NULL) {
        return;
    }
    const char *notice = forward_run->device->ops->notice(forward_run->device);
    if (notice != NULL && !atomic_flag_test_and_set(&said)) {
        lq_run_warn(forward_run->run, "%s", notice);
    }
    forward_run->device->ops->destroy(forward_run->device);
    forward_run->device = NULL;
}

struct lq_forward_env lq_forward_run_env(const struct lq_forward_run *forward_run,
                                         struct lq_weight_source weights,
                                         enum lq_status nonfinite_status)
{
    struct lq_forward_env env = {
        .device = forward_run->device,
        .pool = lq_run_pool(forward_run->run),
        .weights = weights,
        .cancelled = run_cancelled,
        .cancelled_user = forward_run->run,
        .nonfinite_status = nonfinite_status,
    };
    return env;
}
