/* Samples that several GPUs take at once. They go in rounds of whole batches: the first batch of a
 * round is the first device's, the next one the second's, and so on. So rows are read and written
 * in the order of samples, a batch is what it is with one device, and whoever adds up what batches
 * give in their order gets the same bits, however many devices there are. Ownership: all is the
 * caller's. Thread rule: a round is begun by one thread; its batches are on threads of the pool,
 * each device in one at a time. Limits: LQ_TEAM_MAX devices. */
#ifndef LQ_RULES_MODEL_DEVICE_TEAM_H
#define LQ_RULES_MODEL_DEVICE_TEAM_H

#include <stddef.h>

#include "engine/base/error.h"
#include "engine/base/pool.h"
#include "rules/model/forward_run.h"

enum { LQ_TEAM_MAX = LQ_FORWARD_MORE_MAX + 1 };

/* What a device does with a batch. `rows` are those of its first sample. */
typedef enum lq_status (*lq_team_fn)(void *user, size_t member, size_t sample, size_t count,
                                     float *rows, struct lq_error *err);

struct lq_device_team {
    struct lq_pool *pool;
    size_t member_count;
    size_t batch_samples;
    size_t sample_values; /* floats of a sample */
    lq_team_fn body;
    void *user;
};

/* One round: batches from `sample` on, at most one for each member. Fails with the error of the
 * first batch that failed. */
enum lq_status lq_device_team_run(const struct lq_device_team *team, size_t sample, size_t count,
                                  float *rows, struct lq_error *err);

/* How many devices a step uses: those that are idle, not more than batches of `batch_samples`, and
 * not more than `most`. Takes them. */
size_t lq_device_team_take(struct lq_forward_run *forward_run, size_t sample_count,
                           size_t batch_samples, size_t most);

#endif
