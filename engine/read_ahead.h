/* Reads parts of files ahead, beside whatever else is going on: one thread asks the system for the
 * pages of one part after the other, in small pieces, because the system answers a single request
 * for a large part with its first pages alone, and a request waits while the disk is busy. Nothing
 * is copied, and nothing depends on it but time. Ownership: maps are borrowed until fini. Thread
 * rule: init and fini on one thread, add on any. Limits: none. */
#ifndef LQ_ENGINE_READ_AHEAD_H
#define LQ_ENGINE_READ_AHEAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/fs.h"

struct lq_ahead_part;

struct lq_read_ahead {
    pthread_mutex_t mutex;
    pthread_cond_t added;
    struct lq_ahead_part *first;
    struct lq_ahead_part **last;
    pthread_t thread;
    bool has_thread, stopping;
};

void lq_read_ahead_init(struct lq_read_ahead *ahead);
/* Gives up what has not been read. */
void lq_read_ahead_fini(struct lq_read_ahead *ahead);
/* Behind what was added before. The part lies within the map. */
void lq_read_ahead_add(struct lq_read_ahead *ahead, const struct lq_map *map, uint64_t offset,
                       uint64_t size_bytes);

#endif
