/* The thread pool: N threads, one queue of tasks, and a loop that any task may split over them. A
 * caller that waits inside lq_pool_for works on its own loop meanwhile, so nesting never deadlocks
 * and never runs more than N threads. Results must not depend on which thread does what: cut work
 * into fixed pieces and reduce them in a fixed order. Thread rule: all functions may be called from
 * any thread; create and destroy from one. Limit: LQ_THREADS_MAX. */
#ifndef LQ_BASE_POOL_H
#define LQ_BASE_POOL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "engine/base/error.h"

struct lq_jobserver;
struct lq_pool;

/* A pool of `thread_count` worker threads (at least 1), which start with the first piece of work.
 * Signals are blocked in the workers. */
enum lq_status lq_pool_create(struct lq_pool **pool, unsigned thread_count, struct lq_error *err);
/* From now on every thread but one needs a token of the jobserver to work; borrowed until the pool
 * is destroyed. Call it before the first piece of work. */
void lq_pool_share(struct lq_pool *pool, struct lq_jobserver *jobserver);
/* Waits for running tasks; tasks that have not started are dropped. */
void lq_pool_destroy(struct lq_pool *pool);
unsigned lq_pool_thread_count(const struct lq_pool *pool);
/* Queues `run(user)`; false when memory is out or no thread can be started. */
bool lq_pool_submit(struct lq_pool *pool, void (*run)(void *user), void *user);
/* Calls body(user, i) for every i in [0, count), on up to N threads, and returns when all are done.
 * `pool` may be NULL: then a plain loop. */
void lq_pool_for(struct lq_pool *pool, size_t count, void (*body)(void *user, size_t index),
                 void *user);
/* CPUs this process may use (sched_getaffinity), at least 1. */
unsigned lq_cpu_count(void);

#endif
