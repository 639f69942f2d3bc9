#include <criterion/criterion.h>
#include <signal.h>

#include "engine/base/thread.h"

static void *read_mask(void *user)
{
    (void)pthread_sigmask(SIG_SETMASK, NULL, user);
    return NULL;
}

Test(thread, takes_no_signals_and_leaves_the_mask_of_who_starts_it)
{
    sigset_t mine;
    sigset_t theirs;
    sigset_t after;
    cr_assert_eq(sigemptyset(&mine), 0);
    cr_assert_eq(sigaddset(&mine, SIGUSR2), 0);
    cr_assert_eq(pthread_sigmask(SIG_SETMASK, &mine, NULL), 0);
    pthread_t thread;
    cr_assert(lq_thread_start(&thread, read_mask, &theirs));
    cr_assert_eq(pthread_join(thread, NULL), 0);
    cr_assert_eq(sigismember(&theirs, SIGINT), 1);
    cr_assert_eq(sigismember(&theirs, SIGTERM), 1);
    cr_assert_eq(sigismember(&theirs, SIGUSR2), 1);
    cr_assert_eq(pthread_sigmask(SIG_SETMASK, NULL, &after), 0);
    cr_assert_eq(sigismember(&after, SIGINT), 0);
    cr_assert_eq(sigismember(&after, SIGUSR2), 1);
}
