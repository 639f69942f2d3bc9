/* A cache for fuzz targets that need a real one: made once in a folder of its own, with a small
 * map, removed when the process ends. For tests only; one thread. */
#ifndef LQ_TESTS_FUZZ_CACHE_H
#define LQ_TESTS_FUZZ_CACHE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/cache_internal.h"

static char fuzz_folder[64];
static struct lq_cache *fuzz_cache;

static inline void fuzz_cache_remove(void)
{
    char command[128];
    lq_cache_close(fuzz_cache);
    (void)snprintf(command, sizeof command, "rm -rf '%s'", fuzz_folder);
    if (system(command) != 0) {
        (void)fprintf(stderr, "%s stays\n", fuzz_folder);
    }
}

static inline struct lq_cache *fuzz_cache_get(void)
{
    if (fuzz_cache != NULL) {
        return fuzz_cache;
    }
    struct lq_error err = {0};
    bool in_memory = access("/dev/shm", W_OK) == 0;
    (void)snprintf(fuzz_folder, sizeof fuzz_folder, "%s/lqfuzz-XXXXXX",
                   in_memory ? "/dev/shm" : "/tmp");
    const struct lq_cache_options options = {.dir = fuzz_folder};
    if (mkdtemp(fuzz_folder) == NULL ||
        lq_cache_open_sized(&fuzz_cache, &options, 1024 * 1024, &err) != LQ_OK) {
        (void)fprintf(stderr, "%s: %s\n", fuzz_folder, err.message);
        abort();
    }
    (void)atexit(fuzz_cache_remove);
    return fuzz_cache;
}

/* Everything but the format number goes, without looking at any of it. */
static inline enum lq_status fuzz_empty_change(struct lq_txn *txn, void *user, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    (void)user;
    for (int db = LQ_DB_META + 1; db < LQ_DB_COUNT && status == LQ_OK; db++) {
        status = lq_txn_empty(txn, (enum lq_db)db, err);
    }
    return status;
}

static inline void fuzz_cache_empty(void)
{
    struct lq_error err = {0};
    if (lq_store_flush(fuzz_cache->store, &err) != LQ_OK ||
        lq_store_write(fuzz_cache->store, 0, 4096, fuzz_empty_change, NULL, &err) != LQ_OK) {
        (void)fprintf(stderr, "%s\n", err.message);
        abort();
    }
}

#endif
