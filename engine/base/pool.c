#define _GNU_SOURCE
#include "engine/base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>

#include "engine/base/compiler.h"
#include "engine/base/jobserver.h"
#include "engine/base/limits.h"
#include "engine/base/thread.h"

/* One loop in progress. It lives on the stack of the caller of lq_pool_for, which leaves only after
 * `active` is zero and no thread can find the loop any more. */
struct loop {
    struct loop *next;
    void (*body)(void *user, size_t index);
    void *user;
    size_t count;
    size_t taken;
    unsigned active;
};

struct task {
    struct task *next;
    void (*run)(void *user);
    void *user;
};

struct lq_pool {
    pthread_mutex_t mutex;
    pthread_cond_t work;
    pthread_cond_t loop_done;
    struct task *first;
    struct task **last;
    struct loop *loops;
    bool stopping;
    atomic_uint news; /* changes, with the mutex held, whenever a waiting thread may go on */
    struct lq_jobserver *jobserver; /* NULL: threads are ours alone */
    unsigned busy;                  /* threads at work; all but one need a token */
    unsigned held;                  /* tokens */
    unsigned thread_count;          /* asked for: never changes */
    unsigned started_count;
    pthread_t threads[];
};

/* A thread asks for news this many times before it sleeps, some thirty microseconds in all:
 * operations of a model follow each other closely, and to wake a thread takes longer. */
enum { ASK_TIMES = 64, PAUSES = 24 };

/* Something changed that threads may wait for. Mutex held. */
static void tell(struct lq_pool *pool, pthread_cond_t *condition)
{
    atomic_fetch_add(&pool->news, 1);
    (void)pthread_cond_broadcast(condition);
}

/* Waits until there may be news. Called and returns with the mutex held. */
static void wait_for_news(struct lq_pool *pool, pthread_cond_t *condition)
{
    unsigned before = atomic_load(&pool->news);
    (void)pthread_mutex_unlock(&pool->mutex);
    for (int i = 0; i < ASK_TIMES && atomic_load(&pool->news) == before; i++) {
        for (int j = 0; j < PAUSES; j++) {
            LQ_SPIN_PAUSE();
        }
    }
    (void)pthread_mutex_lock(&pool->mutex);
    if (atomic_load(&pool->news) == before) {
        (void)pthread_cond_wait(condition, &pool->mutex);
    }
}

/* Takes pieces of one loop until none is left. Called and returns with the mutex held. */
static void work_on_loop(struct lq_pool *pool, struct loop *loop)
{
    loop->active++;
    while (loop->taken < loop->count) {
        size_t index = loop->taken++;
        (void)pthread_mutex_unlock(&pool->mutex);
        loop->body(loop->user, index);
        (void)pthread_mutex_lock(&pool->mutex);
    }
    loop->active--;
    if (loop->active == 0) {
        tell(pool, &pool->loop_done);
    }
}

static struct loop *find_open_loop(const struct lq_pool *pool)
{
    for (struct loop *loop = pool->loops; loop != NULL; loop = loop->next) {
        if (loop->taken < loop->count) {
            return loop;
        }
    }
    return NULL;
}

/* The thread is a worker of some pool, and so counted as busy while it runs a body or a task. */
static _Thread_local bool is_worker;

enum { TOKEN_WAIT_MS = 50 };

/* Leave to work. Without a free token it waits a little and says no: meanwhile the work may be
 * done, or another thread may have stopped, which makes a thread free. Mutex held. */
static bool enter_work(struct lq_pool *pool)
{
    if (pool->jobserver != NULL && pool->busy > 0) {
        (void)pthread_mutex_unlock(&pool->mutex);
        bool taken = lq_jobserver_take(pool->jobserver, TOKEN_WAIT_MS);
        (void)pthread_mutex_lock(&pool->mutex);
        pool->held += taken ? 1 : 0;
        if (!taken && pool->busy > 0) {
            return false;
        }
    }
    pool->busy++;
    return true;
}

/* Gives back what the threads that are left do not need. Mutex held. */
static void leave_work(struct lq_pool *pool)
{
    pool->busy--;
    while (pool->held > 0 && pool->held >= pool->busy) {
        lq_jobserver_give(pool->jobserver);
        pool->held--;
    }
}

/* Called and returns with the mutex held. */
static void run_task(struct lq_pool *pool)
{
    struct task *task = pool->first;
    pool->first = task->next;
    if (pool->first == NULL) {
        pool->last = &pool->first;
    }
    (void)pthread_mutex_unlock(&pool->mutex);
    task->run(task->user);
    free(task);
    (void)pthread_mutex_lock(&pool->mutex);
}

static void *run_worker(void *user)
{
    struct lq_pool *pool = user;
    is_worker = true;
    (void)pthread_mutex_lock(&pool->mutex);
    for (;;) {
        /* Loops first: they are parts of steps that already run, and finishing those frees memory.
         */
        bool is_loop = find_open_loop(pool) != NULL;
        if (!is_loop && pool->stopping) {
            break;
        }
        if (!is_loop && pool->first == NULL) {
            wait_for_news(pool, &pool->work);
            continue;
        }
        if (!enter_work(pool)) {
            continue;
        }
        /* What was there may be gone after the wait for a token. */
        struct loop *loop = find_open_loop(pool);
        if (loop != NULL) {
            work_on_loop(pool, loop);
        } else if (!pool->stopping && pool->first != NULL) {
            run_task(pool);
        }
        leave_work(pool);
    }
    (void)pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

/* Threads start with the first piece of work, because a build that finds everything in the cache
 * must not pay for them. Called with the mutex held; false when there is no thread at all. */
static bool start_threads(struct lq_pool *pool)
{
    if (pool->started_count > 0) {
        return true;
    }
    while (pool->started_count < pool->thread_count &&
           lq_thread_start(&pool->threads[pool->started_count], run_worker, pool)) {
        pool->started_count++;
    }
    return pool->started_count > 0;
}

enum lq_status lq_pool_create(struct lq_pool **out, unsigned thread_count, struct lq_error *err)
{
    *out = NULL;
    if (thread_count == 0 || thread_count > LQ_THREADS_MAX) {
        return lq_error_set(err, LQ_EUSAGE, "%u threads asked for, expected 1 to %d", thread_count,
                            LQ_THREADS_MAX);
    }
    struct lq_pool *pool = calloc(1, sizeof *pool + thread_count * sizeof pool->threads[0]);
    if (pool == NULL) {
        return lq_error_nomem(err, "the thread pool");
    }
    (void)pthread_mutex_init(&pool->mutex, NULL);
    (void)pthread_cond_init(&pool->work, NULL);
    (void)pthread_cond_init(&pool->loop_done, NULL);
    pool->last = &pool->first;
    pool->thread_count = thread_count;
    *out = pool;
    return LQ_OK;
}

void lq_pool_share(struct lq_pool *pool, struct lq_jobserver *jobserver)
{
    pool->jobserver = jobserver;
}

void lq_pool_destroy(struct lq_pool *pool)
{
    if (pool == NULL) {
        return;
    }
    (void)pthread_mutex_lock(&pool->mutex);
    pool->stopping = true;
    tell(pool, &pool->work);
    (void)pthread_mutex_unlock(&pool->mutex);
    for (unsigned i = 0; i < pool->started_count; i++) {
        (void)pthread_join(pool->threads[i], NULL);
    }
    while (pool->first != NULL) {
        struct task *next = pool->first->next;
        free(pool->first);
        pool->first = next;
    }
    (void)pthread_cond_destroy(&pool->loop_done);
    (void)pthread_cond_destroy(&pool->work);
    (void)pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

unsigned lq_pool_thread_count(const struct lq_pool *pool)
{
    return pool == NULL ? 1 : pool->thread_count;
}

bool lq_pool_submit(struct lq_pool *pool, void (*run)(void *user), void *user)
{
    struct task *task = malloc(sizeof *task);
    if (task == NULL) {
        return false;
    }
    *task = (struct task){.next = NULL, .run = run, .user = user};
    (void)pthread_mutex_lock(&pool->mutex);
    bool started = start_threads(pool);
    if (started) {
        *pool->last = task;
        pool->last = &task->next;
        atomic_fetch_add(&pool->news, 1);
        (void)pthread_cond_signal(&pool->work);
    } else {
        free(task);
    }
    (void)pthread_mutex_unlock(&pool->mutex);
    return started;
}

void lq_pool_for(struct lq_pool *pool, size_t count, void (*body)(void *user, size_t index),
                 void *user)
{
    if (pool == NULL || count < 2) {
        for (size_t i = 0; i < count; i++) {
            body(user, i);
        }
        return;
    }
    struct loop loop = {.body = body, .user = user, .count = count};
    (void)pthread_mutex_lock(&pool->mutex);
    /* Without threads the caller does all the pieces itself. */
    (void)start_threads(pool);
    loop.next = pool->loops;
    pool->loops = &loop;
    tell(pool, &pool->work);
    /* A caller from outside is the one thread that needs no token. */
    pool->busy += is_worker ? 0 : 1;
    work_on_loop(pool, &loop);
    while (loop.active > 0) {
        wait_for_news(pool, &pool->loop_done);
    }
    if (!is_worker) {
        leave_work(pool);
    }
    struct loop **place = &pool->loops;
    while (*place != &loop) {
        place = &(*place)->next;
    }
    *place = loop.next;
    (void)pthread_mutex_unlock(&pool->mutex);
}

unsigned lq_cpu_count(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0) {
        return 1;
    }
    int count = CPU_COUNT(&set);
    return count < 1 ? 1 : count > LQ_THREADS_MAX ? (unsigned)LQ_THREADS_MAX : (unsigned)count;
}
