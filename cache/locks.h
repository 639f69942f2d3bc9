/* Locks between processes: one file, and OFD byte-range locks on it, which the kernel drops with
 * the process that holds them. Offsets below 2^62 are steps, at the first 62 bits of the step's
 * key; above are cache objects, one byte each at a random token, so that others can tell whether
 * the writer of unfinished chunks is still alive. Two keys with the same first 62 bits would only
 * wait for one another. Behind the tokens are two bytes: the presence, shared by every open cache
 * object and taken alone by who replaces the data file, and the collector, taken alone by who
 * collects garbage. Thread rule: any thread. Limits: a local file system. */
#ifndef LQ_CACHE_LOCKS_H
#define LQ_CACHE_LOCKS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/digest.h"
#include "engine/base/error.h"

struct lq_locks;

/* Opens dir/locks, makes it when missing, and takes a token and a share of the presence; waits for
 * a while for whoever replaces the data file. */
enum lq_status lq_locks_open(struct lq_locks **out, const char *dir, struct lq_error *err);
void lq_locks_close(struct lq_locks *locks);
/* Never 0. */
uint64_t lq_locks_token(const struct lq_locks *locks);
/* True when a live cache object, maybe our own, holds the token. */
bool lq_locks_token_alive(struct lq_locks *locks, uint64_t token);
enum lq_status lq_locks_try_step(struct lq_locks *locks, const struct lq_digest *key,
                                 bool *acquired, struct lq_error *err);
void lq_locks_release_step(struct lq_locks *locks, const struct lq_digest *key);
/* Takes every step lock at once through a handle of its own. *acquired is false while anybody, also
 * this process, holds a step. */
enum lq_status lq_locks_try_all(struct lq_locks *locks, int *handle, bool *acquired,
                                struct lq_error *err);
void lq_locks_release_all(int handle);
/* Turns the share of the presence into all of it; not acquired while any other object is open. Ends
 * with lq_locks_close. */
enum lq_status lq_locks_try_alone(struct lq_locks *locks, bool *acquired, struct lq_error *err);
/* Becomes the one that collects garbage, through a handle of its own. */
enum lq_status lq_locks_try_collector(struct lq_locks *locks, int *handle, bool *acquired,
                                      struct lq_error *err);
/* Keeps collectors out until lq_locks_close; false when one is at work. */
bool lq_locks_share_collector(struct lq_locks *locks);

#endif
