/* Putting another data file in the place of a cache's own. Only one process may have the cache open
 * meanwhile, because LMDB knows its file by a descriptor: the presence lock sees to it, and whoever
 * wants to open the cache waits. The new file is made in a folder of its own inside the cache's; a
 * kill at any moment leaves the old file or the new one, and at most that folder, which the next
 * one removes. Thread rule: one thread at a time. Limit: names of folders below 4000 bytes. */
#ifndef LQ_CACHE_REPLACE_H
#define LQ_CACHE_REPLACE_H

#include <stdint.h>

#include "cache/locks.h"
#include "engine/base/error.h"

enum { LQ_REPLACE_PATH_BYTES = 4096 };

struct lq_replace {
    const char *dir;  /* borrowed */
    const char *verb; /* "compact" or "repair" */
    struct lq_locks *locks;
    char data[LQ_REPLACE_PATH_BYTES];
    char folder[LQ_REPLACE_PATH_BYTES]; /* where the new data.mdb is made */
    char copy[LQ_REPLACE_PATH_BYTES];
};

/* Locks everybody else out: LQ_ECACHE while another object has the cache open. Whether it succeeds
 * or not, lq_replace_end follows. */
enum lq_status lq_replace_begin(struct lq_replace *replace, const char *dir, const char *verb,
                                struct lq_error *err);
/* Makes the folder, empty, after looking whether the disk has room for so many bytes. */
enum lq_status lq_replace_make_folder(struct lq_replace *replace, uint64_t size_bytes,
                                      struct lq_error *err);
/* The file in the folder takes the place of the cache's, durably. */
enum lq_status lq_replace_commit(struct lq_replace *replace, struct lq_error *err);
/* Removes the folder and lets others in. */
void lq_replace_end(struct lq_replace *replace);

/* Removes what others left that were killed. The caller has the cache open, so that nobody is at
 * work there. */
void lq_replace_remove_leftovers(const char *dir);

#endif
