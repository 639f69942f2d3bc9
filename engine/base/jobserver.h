/* The jobserver of make and ninja, from the client's side: a pipe of tokens that the programs of
 * one build share, so that together they run as many jobs as the user asked for. A process may
 * always run one job; every further one needs a token, which is given back as it was taken. Found
 * through MAKEFLAGS: --jobserver-auth=fifo:PATH, or =R,W with two inherited descriptors. Ownership:
 * the caller's, by open and close; close gives back what is still held. Thread rule: take and give
 * from any thread. Limit: LQ_THREADS_MAX tokens at once. A process that is killed keeps its tokens:
 * the protocol knows no remedy. */
#ifndef LQ_BASE_JOBSERVER_H
#define LQ_BASE_JOBSERVER_H

#include <stdbool.h>

struct lq_jobserver;

/* NULL when `makeflags` (may be NULL) names no jobserver that can be used, or memory is out. */
struct lq_jobserver *lq_jobserver_open(const char *makeflags);
/* Takes a token, waiting up to `wait_ms` for one. */
bool lq_jobserver_take(struct lq_jobserver *jobserver, int wait_ms);
/* Gives one back; one must be held. */
void lq_jobserver_give(struct lq_jobserver *jobserver);
void lq_jobserver_close(struct lq_jobserver *jobserver);

#endif
