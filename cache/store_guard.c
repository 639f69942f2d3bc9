#define _GNU_SOURCE
#include "cache/store_guard.h"

#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>

#include "engine/base/compiler.h"

static LQ_THREAD_LOCAL const struct lq_guard *inside;
static LQ_THREAD_LOCAL unsigned depth;

static struct sigaction before_segv;
static struct sigaction before_bus;

static void handle(int number, siginfo_t *info, void *context)
{
    (void)info;
    (void)context;
    if (depth > 0 && inside != NULL && inside->fatal != NULL) {
        inside->fatal(inside->message);
    }
    /* Not ours: the fault happens again, with the handler that was there before. */
    (void)sigaction(number, number == SIGBUS ? &before_bus : &before_segv, NULL);
}

static void install(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO;
    (void)sigemptyset(&action.sa_mask);
    (void)sigaction(SIGSEGV, &action, &before_segv);
    (void)sigaction(SIGBUS, &action, &before_bus);
}

void lq_guard_install(const struct lq_guard *guard)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (guard->fatal != NULL) {
        (void)pthread_once(&once, install);
    }
}

void lq_guard_enter(const struct lq_guard *guard)
{
    inside = guard;
    depth++;
}

void lq_guard_leave(void)
{
    depth--;
}
