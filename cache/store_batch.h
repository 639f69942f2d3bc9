/* Group commit: threads queue their changes, one of them leads, runs what is queued in one
 * transaction, and wakes the others. While it waits for the disk the next batch gathers, so that
 * many threads that publish small things share one flush. When a batch fails, each of its changes
 * runs alone, so that nobody pays for a neighbour.
 *
 * A change can also be begun and ended later: a thread of the batch, started for the first of them,
 * leads when nobody else does. Thread rule: run, begin and end from any thread. */
#ifndef LQ_CACHE_STORE_BATCH_H
#define LQ_CACHE_STORE_BATCH_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include "cache/store_lmdb.h"

struct lq_op {
    lq_store_change change;
    void *user;
    unsigned flags; /* enum lq_store_flags */
    size_t size_bytes;
    enum lq_status status;
    struct lq_error err;
    bool done;
    struct lq_op *next;
};

struct lq_batch {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct lq_op *first;
    struct lq_op **last; /* where the next one is hung */
    bool leading;
    pthread_cond_t queued; /* for the thread that leads what was only begun */
    pthread_t helper;
    bool has_helper, stopping;
    /* Runs a list of changes in one transaction; an error goes to the first of the list. */
    enum lq_status (*run)(struct lq_store *store, struct lq_op *list);
    struct lq_store *store;
};

void lq_batch_init(struct lq_batch *batch, struct lq_store *store,
                   enum lq_status (*run)(struct lq_store *store, struct lq_op *list));
/* Every change has ended. */
void lq_batch_fini(struct lq_batch *batch);
/* Returns when `op` is done; its status and error are in it. */
void lq_batch_run(struct lq_batch *batch, struct lq_op *op);
/* `op` and what it points to are the batch's until lq_batch_end. */
void lq_batch_begin(struct lq_batch *batch, struct lq_op *op);
/* The same, but nobody is woken: it goes with the next one, or begins with lq_batch_end. */
void lq_batch_begin_patient(struct lq_batch *batch, struct lq_op *op);
void lq_batch_end(struct lq_batch *batch, struct lq_op *op);

#endif
