#include "cache/store_batch.h"

#include "engine/base/thread.h"

static const size_t batch_bytes_max = 32 * 1024 * 1024;

void lq_batch_init(struct lq_batch *batch, struct lq_store *store,
                   enum lq_status (*run)(struct lq_store *store, struct lq_op *list))
{
    (void)pthread_mutex_init(&batch->mutex, NULL);
    (void)pthread_cond_init(&batch->changed, NULL);
    (void)pthread_cond_init(&batch->queued, NULL);
    batch->first = NULL;
    batch->last = &batch->first;
    batch->leading = false;
    batch->has_helper = false;
    batch->stopping = false;
    batch->run = run;
    batch->store = store;
}

void lq_batch_fini(struct lq_batch *batch)
{
    (void)pthread_mutex_lock(&batch->mutex);
    batch->stopping = true;
    (void)pthread_cond_signal(&batch->queued);
    (void)pthread_mutex_unlock(&batch->mutex);
    if (batch->has_helper) {
        (void)pthread_join(batch->helper, NULL);
    }
    (void)pthread_mutex_destroy(&batch->mutex);
    (void)pthread_cond_destroy(&batch->changed);
    (void)pthread_cond_destroy(&batch->queued);
}

/* The head of the queue, as much of it as one transaction should hold. */
static struct lq_op *take(struct lq_batch *batch)
{
    struct lq_op *list = batch->first;
    struct lq_op *end = list;
    size_t size_bytes = end->size_bytes;
    while (end->next != NULL && size_bytes < batch_bytes_max &&
           end->next->size_bytes <= batch_bytes_max - size_bytes) {
        end = end->next;
        size_bytes += end->size_bytes;
    }
    batch->first = end->next;
    if (batch->first == NULL) {
        batch->last = &batch->first;
    }
    end->next = NULL;
    return list;
}

static void run_list(struct lq_batch *batch, struct lq_op *list)
{
    enum lq_status status = batch->run(batch->store, list);
    if (status == LQ_OK || list->next == NULL) {
        list->status = status;
        return;
    }
    for (struct lq_op *op = list; op != NULL;) {
        struct lq_op *next = op->next;
        op->next = NULL;
        lq_error_clear(&op->err);
        op->status = batch->run(batch->store, op);
        op->next = next;
        op = next;
    }
}

/* Runs what is queued. Called and returns with the mutex held. */
static void lead(struct lq_batch *batch)
{
    batch->leading = true;
    struct lq_op *list = take(batch);
    (void)pthread_mutex_unlock(&batch->mutex);
    run_list(batch, list);
    (void)pthread_mutex_lock(&batch->mutex);
    /* The memory of a change is its owner's, who may go when the mutex is free. */
    for (struct lq_op *op = list; op != NULL;) {
        struct lq_op *next = op->next;
        op->done = true;
        op = next;
    }
    batch->leading = false;
    (void)pthread_cond_broadcast(&batch->changed);
    if (batch->has_helper && batch->first != NULL) {
        (void)pthread_cond_signal(&batch->queued);
    }
}

static void *help(void *user)
{
    struct lq_batch *batch = user;
    (void)pthread_mutex_lock(&batch->mutex);
    while (!batch->stopping) {
        if (batch->first != NULL && !batch->leading) {
            lead(batch);
        } else {
            (void)pthread_cond_wait(&batch->queued, &batch->mutex);
        }
    }
    (void)pthread_mutex_unlock(&batch->mutex);
    return NULL;
}

static void queue(struct lq_batch *batch, struct lq_op *op)
{
    op->done = false;
    op->status = LQ_OK;
    op->next = NULL;
    lq_error_clear(&op->err);
    *batch->last = op;
    batch->last = &op->next;
}

/* Called and returns with the mutex held. */
static void finish(struct lq_batch *batch, struct lq_op *op)
{
    while (!op->done) {
        if (batch->leading) {
            (void)pthread_cond_wait(&batch->changed, &batch->mutex);
        } else {
            lead(batch);
        }
    }
}

void lq_batch_run(struct lq_batch *batch, struct lq_op *op)
{
    (void)pthread_mutex_lock(&batch->mutex);
    queue(batch, op);
    finish(batch, op);
    (void)pthread_mutex_unlock(&batch->mutex);
}

void lq_batch_begin(struct lq_batch *batch, struct lq_op *op)
{
    (void)pthread_mutex_lock(&batch->mutex);
    queue(batch, op);
    if (!batch->has_helper) {
        /* Without it lq_batch_end leads. */
        batch->has_helper = lq_thread_start(&batch->helper, help, batch);
    }
    (void)pthread_cond_signal(&batch->queued);
    (void)pthread_mutex_unlock(&batch->mutex);
}

void lq_batch_begin_patient(struct lq_batch *batch, struct lq_op *op)
{
    (void)pthread_mutex_lock(&batch->mutex);
    queue(batch, op);
    (void)pthread_mutex_unlock(&batch->mutex);
}

void lq_batch_end(struct lq_batch *batch, struct lq_op *op)
{
    (void)pthread_mutex_lock(&batch->mutex);
    finish(batch, op);
    (void)pthread_mutex_unlock(&batch->mutex);
}
