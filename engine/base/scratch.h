/* Folders for the time of one job, under TMPDIR or /tmp. A process that is killed leaves its own
 * behind; the next one that makes a folder removes those whose maker is gone. A maker holds a lock
 * on its folder, which ends with it; folders younger than a minute are left alone, because between
 * making one and locking it there is a moment. Only folders of the same user are touched.
 * Thread rule: thread-safe, one thread a folder. */
#ifndef LQ_BASE_SCRATCH_H
#define LQ_BASE_SCRATCH_H

#include "engine/base/error.h"

struct lq_scratch {
    char path[4096];
    int lock_fd; /* not inherited by other programs */
};

enum lq_status lq_scratch_make(struct lq_scratch *scratch, struct lq_error *err);
/* With all that is in it. */
void lq_scratch_remove(struct lq_scratch *scratch);

#endif
