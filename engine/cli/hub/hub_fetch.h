/* Brings what one name of the hub stands for into the cache of the hub's tools. First all contents
 * arrive, several files at a time, then the snapshot gets its links, then the branch its commit: a
 * branch never leads to a model that is not whole. Thread rule: one call at a time. */
#ifndef LQ_ENGINE_CLI_HUB_HUB_FETCH_H
#define LQ_ENGINE_CLI_HUB_HUB_FETCH_H

#include "engine/cli/hub/hub_choose.h"
#include "engine/cli/hub/hub_progress.h"

struct lq_hub_fetch {
    struct lq_hub *hub;
    const char *cache; /* folder of the hub's tools */
    const struct lq_hub_name *name;
    struct lq_hub_progress *progress;
    atomic_bool *cancel;
    bool dry_run; /* asks, and writes nothing */
    bool check;   /* reads what is there, and loads again what is not what it should be */
    /* What came of it. */
    char commit[LQ_HUB_COMMIT_BYTES];
    const char *path; /* the snapshot, or the file in it */
    struct lq_hub_choice choice;
    uint64_t missing_bytes; /* of the choice, what was not there */
    uint64_t loaded_bytes;  /* came over the network */
};

/* Errors: those of hub_choose.h and hub_blob.h; LQ_EIO also for a disk without room. */
enum lq_status lq_hub_fetch(struct lq_hub_fetch *fetch, struct lq_arena *arena,
                            struct lq_error *err);

#endif
