#include "cache/store_batch.h"

static const size_t batch_bytes_max = 32 * 1024 * 1024;

void lq_batch_init(struct lq_batch *batch, struct lq_store *store,
                   enum lq_status (*run)(struct lq_store *store, struct lq_op *list))
{
    (void)pthread_mutex_init(&batch->mutex, NULL);
    (void)pthread_cond_init(&batch->changed, NULL);
    batch->first = NULL;
    batch->last = &batch->first;
    batch->leading = false;
    batch->run = run;
    batch->store = store;
}

void lq_batch_fini(struct lq_batch *batch)
{
    (void)pthread_mutex_destroy(&batch->mutex);
    (void)pthread_cond_destroy(&batch->changed);
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

void lq_batch_run(struct lq_batch *batch, struct lq_op *op)
{
    op->done = false;
    op->status = LQ_OK;
    op->next = NULL;
    lq_error_clear(&op->err);
    (void)pthread_mutex_lock(&batch->mutex);
    *batch->last = op;
    batch->last = &op->next;
    while (!op->done) {
        if (batch->leading) {
            (void)pthread_cond_wait(&batch->changed, &batch->mutex);
            continue;
        }
        batch->leading = true;
        struct lq_op *list = take(batch);
        (void)pthread_mutex_unlock(&batch->mutex);
        run_list(batch, list);
        (void)pthread_mutex_lock(&batch->mutex);
        /* The memory of a change is its owner's, who may go when the mutex is free. */
        for (struct lq_op *each = list; each != NULL; each = each->next) {
            each->done = true;
        }
        batch->leading = false;
        (void)pthread_cond_broadcast(&batch->changed);
    }
    (void)pthread_mutex_unlock(&batch->mutex);
}
