/* Executors: where work is performed. The build hands over a piece of work and later takes it back
 * finished. `perform` runs on any thread; submit and poll are called by the build's thread only.
 * The CPU executor uses the thread pool; tests have one that performs work in an order they choose.
 */
#ifndef LQ_ENGINE_EXECUTOR_H
#define LQ_ENGINE_EXECUTOR_H

#include "engine/base/error.h"

struct lq_pool;

struct lq_work {
    void (*perform)(struct lq_work *work);
    void *user;
    struct lq_work *next; /* for the executor's use */
};

struct lq_executor {
    /* Pieces of work that can usefully be under way at once. */
    unsigned slot_count;
    /* LQ_ENOMEM, LQ_EFAIL: then the work was not taken. */
    enum lq_status (*submit)(struct lq_executor *executor, struct lq_work *work,
                             struct lq_error *err);
    /* The same on threads of another pool, for work that waits for a network rather than computes;
     * it takes no slot. May be NULL: then there is only `submit`. */
    enum lq_status (*submit_on)(struct lq_executor *executor, struct lq_pool *pool,
                                struct lq_work *work, struct lq_error *err);
    /* A finished piece of work, waiting up to `wait_ms` for one; NULL when there is none. */
    struct lq_work *(*poll)(struct lq_executor *executor, unsigned wait_ms);
};

/* Performs work on the pool. */
enum lq_status lq_exec_cpu_create(struct lq_executor **out, struct lq_pool *pool,
                                  struct lq_error *err);
/* All work must have been taken back. */
void lq_exec_cpu_destroy(struct lq_executor *executor);

#endif
