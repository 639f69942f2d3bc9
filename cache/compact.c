/* Compacting: a copy without free pages takes the place of the data file. */
#include <sys/stat.h>

#include "cache/cache_internal.h"
#include "cache/replace.h"
#include "cache/upkeep.h"

static enum lq_status write_copy(struct lq_store *store, struct lq_replace *replace,
                                 struct lq_error *err)
{
    uint64_t live_bytes = 0;
    enum lq_status status = lq_store_live_bytes(store, &live_bytes, err);
    status = status == LQ_OK ? lq_replace_make_folder(replace, live_bytes, err) : status;
    return status == LQ_OK ? lq_store_copy(store, replace->folder, err) : status;
}

static enum lq_status compact_alone(const struct lq_cache_options *options,
                                    struct lq_replace *replace, uint64_t *before_bytes,
                                    uint64_t *after_bytes, struct lq_error *err)
{
    struct lq_store *store = NULL;
    struct stat st;
    struct lq_store_options store_options = {.dir = options->dir,
                                             .warn = options->warn,
                                             .warn_user = options->warn_user,
                                             .fatal = options->fatal};
    enum lq_status status = lq_store_open(&store, &store_options, err);
    if (status != LQ_OK) {
        return status;
    }
    *before_bytes = stat(replace->data, &st) == 0 ? (uint64_t)st.st_size : 0;
    status = write_copy(store, replace, err);
    lq_store_close(store);
    status = status == LQ_OK ? lq_replace_commit(replace, err) : status;
    *after_bytes = stat(replace->data, &st) == 0 ? (uint64_t)st.st_size : 0;
    return status;
}

enum lq_status lq_cache_compact(const struct lq_cache_options *options, uint64_t *before_bytes,
                                uint64_t *after_bytes, struct lq_error *err)
{
    struct lq_replace replace;
    *before_bytes = 0;
    *after_bytes = 0;
    enum lq_status status = lq_replace_begin(&replace, options->dir, "compact", err);
    if (status == LQ_OK) {
        status = compact_alone(options, &replace, before_bytes, after_bytes, err);
    }
    lq_replace_end(&replace);
    return status;
}
