/* Shows how far a download is: a live line on a terminal, a line for each file and every half
 * minute elsewhere, JSON lines on stdout, or nothing. Thread rule: any thread may tell it
 * something; begin and end belong to one. */
#ifndef LQ_ENGINE_CLI_HUB_HUB_PROGRESS_H
#define LQ_ENGINE_CLI_HUB_HUB_PROGRESS_H

#include <pthread.h>

#include "engine/progress.h"

struct lq_hub_progress {
    enum lq_progress_mode mode;
    pthread_mutex_t mutex;
    const char *name;
    uint64_t total_bytes;
    uint64_t done_bytes;
    uint64_t begun_bytes; /* that were there: no part of the rate */
    uint64_t started_ns;
    uint64_t shown_ns;
    bool line_shown;
};

void lq_hub_progress_init(struct lq_hub_progress *progress, enum lq_progress_mode mode);
void lq_hub_progress_fini(struct lq_hub_progress *progress);
/* One name; of its bytes `begun_bytes` are there. `name` is borrowed until the end. */
void lq_hub_progress_begin(struct lq_hub_progress *progress, const char *name, uint64_t total_bytes,
                           uint64_t begun_bytes);
void lq_hub_progress_end(struct lq_hub_progress *progress);
/* Bytes came; negative: they were thrown away. */
void lq_hub_progress_move(struct lq_hub_progress *progress, int64_t bytes);
void lq_hub_progress_file_done(struct lq_hub_progress *progress, const char *path,
                               uint64_t size_bytes);
/* One sentence about what it waits for. */
void lq_hub_progress_note(struct lq_hub_progress *progress, const char *text);

#endif
