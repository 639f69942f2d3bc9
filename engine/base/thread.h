/* Threads that help another one. Signals stay with the threads that were there before: a helper is
 * started with all of them blocked, and the caller's mask is as it was afterwards. Thread rule: any
 * thread may start others. The caller joins what it started. */
#ifndef LQ_BASE_THREAD_H
#define LQ_BASE_THREAD_H

#include <pthread.h>
#include <stdbool.h>

/* False when the system has no thread to give; then the caller does the work itself. */
bool lq_thread_start(pthread_t *thread, void *(*run)(void *user), void *user);

#endif
