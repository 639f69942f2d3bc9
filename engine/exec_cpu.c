#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "engine/base/pool.h"
#include "engine/executor.h"

struct exec_cpu {
    struct lq_executor base; /* first: the two are converted into each other */
    struct lq_pool *pool;
    pthread_mutex_t mutex;
    pthread_cond_t finished;
    struct lq_work *first;
    struct lq_work **last;
};

struct ticket {
    struct exec_cpu *exec;
    struct lq_work *work;
};

static void perform_ticket(void *user)
{
    struct ticket *ticket = user;
    struct exec_cpu *exec = ticket->exec;
    struct lq_work *work = ticket->work;
    free(ticket);
    work->perform(work);
    (void)pthread_mutex_lock(&exec->mutex);
    work->next = NULL;
    *exec->last = work;
    exec->last = &work->next;
    (void)pthread_cond_signal(&exec->finished);
    (void)pthread_mutex_unlock(&exec->mutex);
}

static enum lq_status submit_on(struct lq_executor *executor, struct lq_pool *pool,
                                struct lq_work *work, struct lq_error *err)
{
    struct exec_cpu *exec = (struct exec_cpu *)(void *)executor;
    struct ticket *ticket = malloc(sizeof *ticket);
    if (ticket == NULL) {
        return lq_error_nomem(err, "a piece of work");
    }
    *ticket = (struct ticket){.exec = exec, .work = work};
    if (!lq_pool_submit(pool, perform_ticket, ticket)) {
        free(ticket);
        return lq_error_nomem(err, "a piece of work");
    }
    return LQ_OK;
}

static enum lq_status submit(struct lq_executor *executor, struct lq_work *work,
                             struct lq_error *err)
{
    struct exec_cpu *exec = (struct exec_cpu *)(void *)executor;
    return submit_on(executor, exec->pool, work, err);
}

static void deadline_after(unsigned wait_ms, struct timespec *deadline)
{
    (void)clock_gettime(CLOCK_MONOTONIC, deadline);
    deadline->tv_sec += (time_t)(wait_ms / 1000);
    deadline->tv_nsec += (long)(wait_ms % 1000) * 1000000;
    if (deadline->tv_nsec >= 1000000000) {
        deadline->tv_sec++;
        deadline->tv_nsec -= 1000000000;
    }
}

static struct lq_work *poll_finished(struct lq_executor *executor, unsigned wait_ms)
{
    struct exec_cpu *exec = (struct exec_cpu *)(void *)executor;
    struct timespec deadline;
    deadline_after(wait_ms, &deadline);
    (void)pthread_mutex_lock(&exec->mutex);
    int waited = 0;
    while (exec->first == NULL && waited != ETIMEDOUT) {
        waited = pthread_cond_timedwait(&exec->finished, &exec->mutex, &deadline);
    }
    struct lq_work *work = exec->first;
    if (work != NULL) {
        exec->first = work->next;
        if (exec->first == NULL) {
            exec->last = &exec->first;
        }
    }
    (void)pthread_mutex_unlock(&exec->mutex);
    return work;
}

enum lq_status lq_exec_cpu_create(struct lq_executor **out, struct lq_pool *pool,
                                  struct lq_error *err)
{
    *out = NULL;
    struct exec_cpu *exec = calloc(1, sizeof *exec);
    if (exec == NULL) {
        return lq_error_nomem(err, "the executor");
    }
    exec->base.slot_count = lq_pool_thread_count(pool);
    exec->base.submit = submit;
    exec->base.submit_on = submit_on;
    exec->base.poll = poll_finished;
    exec->pool = pool;
    exec->last = &exec->first;
    pthread_condattr_t attributes;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&exec->finished, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    (void)pthread_mutex_init(&exec->mutex, NULL);
    *out = &exec->base;
    return LQ_OK;
}

void lq_exec_cpu_destroy(struct lq_executor *executor)
{
    if (executor != NULL) {
        struct exec_cpu *exec = (struct exec_cpu *)(void *)executor;
        (void)pthread_cond_destroy(&exec->finished);
        (void)pthread_mutex_destroy(&exec->mutex);
        free(exec);
    }
}
