#include "rules/model/forward_run.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/gpu.h"

/* Parts of a GPU's free memory: that are not for batches, and for decoded experts. */
enum { GPU_SPARE_SHARE = 8, GPU_EXPERT_SHARE = 4 };

static bool run_cancelled(void *user)
{
    return lq_run_cancelled(user);
}

/* Says once why models run on the CPU although there is a GPU. */
static void explain_retry(struct lq_run *run)
{
    const struct lq_error *first = lq_run_first_error(run);
    if (first != NULL && first->status == LQ_ENOMEM) {
        lq_gpu_leave_models(first->message);
    }
    const char *notice = lq_gpu_notice();
    if (notice != NULL) {
        lq_run_warn(run, "%s; computing on the CPU", notice);
    }
}

enum lq_status lq_forward_run_open(struct lq_forward_run *out, struct lq_run *run,
                                   struct lq_error *err)
{
    *out = (struct lq_forward_run){.run = run};
    if (lq_run_first_error(run) == NULL) {
        out->device = lq_gpu_take_device(&out->memory_bytes);
    }
    out->is_gpu = out->device != NULL;
    if (out->is_gpu) {
        lq_run_allow_retry(run);
    } else {
        struct lq_parallel parallel = lq_forward_parallel(lq_run_pool(run));
        parallel.cancelled = run_cancelled;
        parallel.cancelled_user = run;
        explain_retry(run);
        out->device = lq_device_cpu_create(parallel, lq_device_cpu_preferred());
    }
    if (out->device == NULL) {
        return lq_error_nomem(err, "the device");
    }
    lq_run_numerics(run, out->device->ops->numerics);
    return LQ_OK;
}

void lq_forward_run_hold(const struct lq_forward_run *forward_run, const char *output)
{
    if (forward_run->is_gpu) {
        lq_run_hold(forward_run->run, output);
    }
}

_Static_assert(sizeof(((struct lq_digest *)NULL)->bytes) == LQ_EXPECTED_KEY_BYTES,
               "what is expected is known by its digest");

static void settle(struct lq_device *device)
{
    if (device->ops->settle != NULL) {
        device->ops->settle(device);
    }
}

void lq_forward_run_take_more(struct lq_forward_run *forward_run, size_t most)
{
    while (forward_run->is_gpu && forward_run->more_count < LQ_FORWARD_MORE_MAX &&
           forward_run->more_count + 1 < most) {
        struct lq_forward_device *next = &forward_run->more[forward_run->more_count];
        next->device = lq_gpu_take_another(&next->memory_bytes);
        if (next->device == NULL) {
            return;
        }
        forward_run->more_count++;
    }
}

static void give_more(struct lq_forward_run *forward_run)
{
    while (forward_run->more_count > 0) {
        struct lq_device *device = forward_run->more[--forward_run->more_count].device;
        settle(device);
        lq_gpu_give_device(device);
    }
}

struct lq_forward_device lq_forward_run_device(const struct lq_forward_run *forward_run, size_t i)
{
    const struct lq_forward_device first = {forward_run->device, forward_run->memory_bytes};
    return i == 0 ? first : forward_run->more[i - 1];
}

void lq_forward_run_expect(const struct lq_forward_run *forward_run,
                           const struct lq_hparams *hparams)
{
    const struct lq_run_expected *list = NULL;
    size_t count = lq_run_expected(forward_run->run, &list);
    if (forward_run->device->ops->expect == NULL || hparams->expert_count != 0) {
        return;
    }
    struct lq_expected *expected = calloc(count + 1, sizeof *expected);
    if (expected == NULL) {
        return; /* only slower */
    }
    for (size_t i = 0; i < count; i++) {
        expected[i].bytes = list[i].data;
        expected[i].size_bytes = (size_t)list[i].size_bytes;
        memcpy(expected[i].key, list[i].digest.bytes, sizeof expected[i].key);
    }
    for (size_t i = 0; i <= forward_run->more_count; i++) {
        struct lq_device *device = lq_forward_run_device(forward_run, i).device;
        device->ops->expect(device, expected, count);
    }
    free(expected);
}

void lq_forward_run_close(struct lq_forward_run *forward_run)
{
    /* A model has many layers, and each is a step: the same sentence once is enough. */
    static atomic_flag said = ATOMIC_FLAG_INIT;
    struct lq_device *device = forward_run->device;
    if (device == NULL) {
        return;
    }
    give_more(forward_run);
    settle(device);
    const char *notice = device->ops->notice(device);
    if (notice != NULL && !atomic_flag_test_and_set(&said)) {
        lq_run_warn(forward_run->run, "%s", notice);
    }
    if (forward_run->is_gpu) {
        lq_gpu_give_device(device);
    } else {
        device->ops->destroy(device);
    }
    forward_run->device = NULL;
}

struct lq_forward_env lq_forward_run_env(const struct lq_forward_run *forward_run,
                                         struct lq_weight_source weights,
                                         enum lq_status nonfinite_status)
{
    return lq_forward_run_env_of(forward_run, 0, weights, nonfinite_status);
}

struct lq_forward_env lq_forward_run_env_of(const struct lq_forward_run *forward_run, size_t device,
                                            struct lq_weight_source weights,
                                            enum lq_status nonfinite_status)
{
    struct lq_forward_device on = lq_forward_run_device(forward_run, device);
    struct lq_forward_env env = {
        .device = on.device,
        .pool = lq_run_pool(forward_run->run),
        .weights = weights,
        .cancelled = run_cancelled,
        .cancelled_user = forward_run->run,
        .nonfinite_status = nonfinite_status,
    };
    if (forward_run->is_gpu) {
        /* Some is left for what the device keeps beside: workspaces, halves of its operands. */
        env.memory_bytes = on.memory_bytes - on.memory_bytes / GPU_SPARE_SHARE;
        env.expert_bytes = on.memory_bytes / GPU_EXPERT_SHARE;
    }
    return env;
}
