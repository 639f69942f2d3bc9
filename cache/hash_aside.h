/* Hashes beside the thread that writes: one thread of the cache, started for the first large blob,
 * takes a full buffer at a time, while its writer fills the next one and the store flushes. One
 * job at a time for the whole cache: who finds it taken hashes on its own thread, so that many
 * writers are never slower than without it. Thread rule: begin and end from any thread; between
 * them the hasher and the data belong to the job. */
#ifndef LQ_CACHE_HASH_ASIDE_H
#define LQ_CACHE_HASH_ASIDE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include "engine/base/digest.h"

enum lq_hash_state { LQ_HASH_NONE, LQ_HASH_QUEUED, LQ_HASH_RUNNING };

struct lq_hash_job {
    struct lq_hasher *hasher;
    const void *data;
    size_t size_bytes;
    enum lq_hash_state state;
};

struct lq_hash_aside {
    pthread_mutex_t mutex;
    pthread_cond_t queued;
    pthread_cond_t done;
    struct lq_hash_job *job; /* NULL: free */
    pthread_t thread;
    bool has_thread, stopping;
};

void lq_hash_aside_init(struct lq_hash_aside *aside);
/* Every job has ended. */
void lq_hash_aside_fini(struct lq_hash_aside *aside);
/* Hashes the job's data, later or at once. */
void lq_hash_aside_begin(struct lq_hash_aside *aside, struct lq_hash_job *job);
/* Returns when the job is done; it may never have begun. */
void lq_hash_aside_end(struct lq_hash_aside *aside, struct lq_hash_job *job);

#endif
