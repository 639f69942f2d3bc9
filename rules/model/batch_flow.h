/* Samples that pass through something in batches: while one batch is computed, the rows of the one
 * before it are written and those of the next one are read. Ownership: the description is borrowed
 * for the call, buffers belong to it. Thread rule: `compute` is called by the caller's thread, in
 * order; `read` and `write` each in order, on any thread, at the same time as `compute` for other
 * batches. Limits: memory of three batches. */
#ifndef LQ_RULES_MODEL_BATCH_FLOW_H
#define LQ_RULES_MODEL_BATCH_FLOW_H

#include <stddef.h>

#include "engine/base/error.h"
#include "engine/base/pool.h"

/* Something to do with `count` samples from `sample` on, whose rows are at `rows`. */
typedef enum lq_status (*lq_batch_fn)(void *user, size_t sample, size_t count, float *rows,
                                      struct lq_error *err);

struct lq_batch_flow {
    struct lq_pool *pool; /* may be NULL */
    size_t sample_count;
    size_t batch_samples;
    size_t sample_values; /* floats of a sample */
    lq_batch_fn read;     /* may be NULL */
    lq_batch_fn compute;
    lq_batch_fn write; /* may be NULL */
    void *user;
};

/* Fails with the error of the first batch, and of the first thing done with it, that failed. */
enum lq_status lq_batch_flow_run(const struct lq_batch_flow *flow, struct lq_error *err);

#endif
