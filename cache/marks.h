/* Marks: what running processes count on, so that nobody's house-keeping takes it away. Every cache
 * object has a file of its own in the folder "live", named by its token, that it maps: a Bloom
 * filter of digests (Bloom 1970, blocked by pages). Marking is a store to memory; it is never
 * undone, and a digest may look marked without being so, which keeps a little too much. A process
 * that dies leaves its file behind; whoever collects garbage removes files of the dead before it
 * looks. Thread rule: any thread. Limits: on a disk without room for the file the process holds a
 * lock instead, which keeps collectors out. */
#ifndef LQ_CACHE_MARKS_H
#define LQ_CACHE_MARKS_H

#include <stdbool.h>

#include "cache/locks.h"
#include "engine/base/digest.h"

struct lq_marks;

/* NULL when memory is out. The file is made with the first mark. */
struct lq_marks *lq_marks_create(const char *dir, struct lq_locks *locks);
/* Removes the file unless somebody collects garbage right now, who may still need it. */
void lq_marks_destroy(struct lq_marks *marks);
void lq_marks_add(struct lq_marks *marks, const struct lq_digest *digest);

/* All marks of all processes. */
struct lq_mark_set;
/* Removes files of processes that are dead. Only with the lock of the collector. */
void lq_marks_remove_dead(const char *dir, struct lq_locks *locks);
/* Reads the files that are there, of the living and of those who ended since. */
enum lq_status lq_mark_set_read(struct lq_mark_set **out, const char *dir, struct lq_error *err);
void lq_mark_set_destroy(struct lq_mark_set *set);
bool lq_mark_set_has(const struct lq_mark_set *set, const struct lq_digest *digest);

#endif
