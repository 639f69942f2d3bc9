/* Sharing jobs with make: never more threads at work than tokens allow, every token given back,
 * and the real make, which counts its tokens when it ends. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/jobserver.h"
#include "engine/base/pool.h"

static void pause_ms(long ms)
{
    struct timespec pause = {.tv_sec = 0, .tv_nsec = ms * 1000 * 1000};
    nanosleep(&pause, NULL);
}

struct gauge {
    atomic_int now;
    atomic_int most;
    atomic_int done;
    struct lq_pool *pool;
};

static void measure(struct gauge *gauge)
{
    int now = atomic_fetch_add(&gauge->now, 1) + 1;
    int most = atomic_load(&gauge->most);
    while (now > most && !atomic_compare_exchange_weak(&gauge->most, &most, now)) {
    }
    pause_ms(3);
    atomic_fetch_sub(&gauge->now, 1);
    atomic_fetch_add(&gauge->done, 1);
}

static void measure_index(void *user, size_t index)
{
    (void)index;
    measure(user);
}

static void run_loop(void *user)
{
    struct gauge *gauge = user;
    lq_pool_for(gauge->pool, 10, measure_index, gauge);
}

/* 60 pieces of work in loops inside tasks; the most that ran at once. */
static int work(const char *makeflags, unsigned threads)
{
    struct lq_jobserver *jobserver = lq_jobserver_open(makeflags);
    cr_assert_not_null(jobserver, "%s", makeflags);
    struct gauge gauge = {.now = 0};
    cr_assert_eq(lq_pool_create(&gauge.pool, threads, NULL), LQ_OK);
    lq_pool_share(gauge.pool, jobserver);
    for (int i = 0; i < 6; i++) {
        cr_assert(lq_pool_submit(gauge.pool, run_loop, &gauge));
    }
    for (int i = 0; i < 10000 && atomic_load(&gauge.done) < 60; i++) {
        pause_ms(1);
    }
    cr_assert_eq(atomic_load(&gauge.done), 60);
    lq_pool_destroy(gauge.pool);
    lq_jobserver_close(jobserver);
    return atomic_load(&gauge.most);
}

static void expect_tokens(int fd, const char *expected)
{
    char got[16] = {0};
    cr_assert_eq(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    ssize_t count = read(fd, got, sizeof got - 1);
    count = count < 0 ? 0 : count; /* nothing there */
    cr_assert_eq(count, (ssize_t)strlen(expected), "%zd tokens came back, expected %zu", count,
                 strlen(expected));
}

Test(jobserver, pipe_limits_threads_and_gets_its_tokens_back)
{
    int ends[2];
    char flags[96];
    cr_assert_eq(pipe(ends), 0);
    cr_assert_eq(write(ends[1], "+a", 2), 2);
    snprintf(flags, sizeof flags, "-j3 --jobserver-auth=%d,%d -- X=1", ends[0], ends[1]);
    int most = work(flags, 8);
    cr_assert_eq(most, 3, "%d ran at once", most);
    expect_tokens(ends[0], "+a");
}

Test(jobserver, no_token_leaves_one_thread)
{
    int ends[2];
    char flags[96];
    cr_assert_eq(pipe(ends), 0);
    snprintf(flags, sizeof flags, " --jobserver-fds=%d,%d -j", ends[0], ends[1]);
    cr_assert_eq(work(flags, 4), 1);
    expect_tokens(ends[0], "");
}

Test(jobserver, fifo)
{
    char dir[] = "/tmp/lq_jobserver_XXXXXX";
    char path[64];
    char flags[128];
    cr_assert_not_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/fifo", dir);
    cr_assert_eq(mkfifo(path, 0600), 0);
    int fd = open(path, O_RDWR);
    cr_assert_eq(write(fd, "+", 1), 1);
    snprintf(flags, sizeof flags, "n -j2 --jobserver-auth=3,4 --jobserver-auth=fifo:%s", path);
    cr_assert_eq(work(flags, 4), 2);
    expect_tokens(fd, "+");
    unlink(path);
    rmdir(dir);
}

Test(jobserver, nothing_to_share)
{
    static const char *const flags[] = {
        "",
        "-k",
        "--jobserver-auth=",
        "--jobserver-auth=fifo:",
        "--jobserver-auth=fifo:/nothere/fifo",
        "--jobserver-auth=901,902",
        "--jobserver-auth=-2,-2",
        "--jobserver-auth=99999999999999999999,4",
        "--jobserver-auth=3",
    };
    cr_assert_null(lq_jobserver_open(NULL));
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        cr_assert_null(lq_jobserver_open(flags[i]), "%s", flags[i]);
    }
}
