/* The thread pool: loops cover every index once, nested loops do not deadlock, threads start late,
 * tasks that never ran are dropped. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdatomic.h>
#include <time.h>

#include "engine/base/limits.h"
#include "engine/base/pool.h"

static int count_threads(void)
{
    DIR *dir = opendir("/proc/self/task");
    cr_assert_not_null(dir);
    int count = 0;
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
        count += entry->d_name[0] != '.';
    }
    closedir(dir);
    return count;
}

static void wait_for(atomic_int *value, int expected)
{
    for (int i = 0; i < 5000 && atomic_load(value) != expected; i++) {
        struct timespec pause = {.tv_sec = 0, .tv_nsec = 1000 * 1000};
        nanosleep(&pause, NULL);
    }
    cr_assert_eq(atomic_load(value), expected);
}

struct cells {
    atomic_int counts[1000];
    struct lq_pool *pool;
    atomic_int inner;
};

static void add_cell(void *user, size_t index)
{
    struct cells *cells = user;
    atomic_fetch_add(&cells->counts[index], 1);
}

static void add_inner(void *user, size_t index)
{
    (void)index;
    atomic_fetch_add(&((struct cells *)user)->inner, 1);
}

static void nest(void *user, size_t index)
{
    (void)index;
    struct cells *cells = user;
    lq_pool_for(cells->pool, 50, add_inner, cells);
}

static void add_one(void *user)
{
    atomic_fetch_add((atomic_int *)user, 1);
}

Test(pool, a_loop_visits_every_index_once)
{
    static struct cells cells;
    struct lq_pool *pool = NULL;
    cr_assert_eq(lq_pool_create(&pool, 3, NULL), LQ_OK);
    lq_pool_for(pool, 1000, add_cell, &cells);
    for (size_t i = 0; i < 1000; i++) {
        cr_assert_eq(atomic_load(&cells.counts[i]), 1, "index %zu", i);
    }
    lq_pool_destroy(pool);
}

Test(pool, nested_loops_finish)
{
    static struct cells cells;
    cr_assert_eq(lq_pool_create(&cells.pool, 2, NULL), LQ_OK);
    lq_pool_for(cells.pool, 40, nest, &cells);
    cr_assert_eq(atomic_load(&cells.inner), 40 * 50);
    lq_pool_destroy(cells.pool);
}

Test(pool, threads_start_with_the_first_work)
{
    struct lq_pool *pool = NULL;
    int before = count_threads();
    cr_assert_eq(lq_pool_create(&pool, 4, NULL), LQ_OK);
    cr_assert_eq(count_threads(), before);
    cr_assert_eq(lq_pool_thread_count(pool), 4);
    atomic_int done = 0;
    cr_assert(lq_pool_submit(pool, add_one, &done));
    wait_for(&done, 1);
    cr_assert_eq(count_threads(), before + 4);
    lq_pool_destroy(pool);
}

Test(pool, an_unused_pool_can_be_destroyed)
{
    struct lq_pool *pool = NULL;
    cr_assert_eq(lq_pool_create(&pool, 4, NULL), LQ_OK);
    lq_pool_destroy(pool);
    lq_pool_destroy(NULL);
}

Test(pool, a_plain_loop_without_a_pool)
{
    static struct cells cells;
    lq_pool_for(NULL, 7, add_cell, &cells);
    cr_assert_eq(atomic_load(&cells.counts[6]), 1);
    cr_assert_eq(lq_pool_thread_count(NULL), 1);
}

Test(pool, absurd_thread_counts_are_refused)
{
    struct lq_pool *pool = NULL;
    struct lq_error err;
    cr_assert_eq(lq_pool_create(&pool, 0, &err), LQ_EUSAGE);
    cr_assert_eq(lq_pool_create(&pool, LQ_THREADS_MAX + 1, &err), LQ_EUSAGE);
    cr_assert_null(pool);
}
