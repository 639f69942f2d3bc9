#include "cache/hash_aside.h"

#include "engine/base/thread.h"

void lq_hash_aside_init(struct lq_hash_aside *aside)
{
    (void)pthread_mutex_init(&aside->mutex, NULL);
    (void)pthread_cond_init(&aside->queued, NULL);
    (void)pthread_cond_init(&aside->done, NULL);
    aside->job = NULL;
    aside->has_thread = false;
    aside->stopping = false;
}

void lq_hash_aside_fini(struct lq_hash_aside *aside)
{
    (void)pthread_mutex_lock(&aside->mutex);
    aside->stopping = true;
    (void)pthread_cond_signal(&aside->queued);
    (void)pthread_mutex_unlock(&aside->mutex);
    if (aside->has_thread) {
        (void)pthread_join(aside->thread, NULL);
    }
    (void)pthread_mutex_destroy(&aside->mutex);
    (void)pthread_cond_destroy(&aside->queued);
    (void)pthread_cond_destroy(&aside->done);
}

/* Runs the queued job. Called and returns with the mutex held. */
static void run_job(struct lq_hash_aside *aside)
{
    struct lq_hash_job *job = aside->job;
    job->state = LQ_HASH_RUNNING;
    (void)pthread_mutex_unlock(&aside->mutex);
    lq_hasher_update(job->hasher, job->data, job->size_bytes);
    (void)pthread_mutex_lock(&aside->mutex);
    job->state = LQ_HASH_NONE;
    aside->job = NULL;
    (void)pthread_cond_broadcast(&aside->done);
}

static void *hash_jobs(void *user)
{
    struct lq_hash_aside *aside = user;
    (void)pthread_mutex_lock(&aside->mutex);
    while (!aside->stopping) {
        if (aside->job != NULL && aside->job->state == LQ_HASH_QUEUED) {
            run_job(aside);
        } else {
            (void)pthread_cond_wait(&aside->queued, &aside->mutex);
        }
    }
    (void)pthread_mutex_unlock(&aside->mutex);
    return NULL;
}

void lq_hash_aside_begin(struct lq_hash_aside *aside, struct lq_hash_job *job)
{
    (void)pthread_mutex_lock(&aside->mutex);
    bool taken = aside->job != NULL;
    if (!taken && !aside->has_thread) {
        aside->has_thread = lq_thread_start(&aside->thread, hash_jobs, aside);
    }
    taken = taken || !aside->has_thread;
    if (!taken) {
        job->state = LQ_HASH_QUEUED;
        aside->job = job;
        (void)pthread_cond_signal(&aside->queued);
    }
    (void)pthread_mutex_unlock(&aside->mutex);
    if (taken) {
        lq_hasher_update(job->hasher, job->data, job->size_bytes);
    }
}

void lq_hash_aside_end(struct lq_hash_aside *aside, struct lq_hash_job *job)
{
    (void)pthread_mutex_lock(&aside->mutex);
    if (job->state == LQ_HASH_QUEUED) {
        run_job(aside);
    }
    while (job->state != LQ_HASH_NONE) {
        (void)pthread_cond_wait(&aside->done, &aside->mutex);
    }
    (void)pthread_mutex_unlock(&aside->mutex);
}
