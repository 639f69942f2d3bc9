#include "cache/cache.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/cache_internal.h"
#include "cache/store_file.h"

void lq_cache_warn(struct lq_cache *cache, const char *format, ...)
{
    if (cache == NULL || cache->warn == NULL) {
        return;
    }
    char text[LQ_ERROR_BYTES];
    int used = snprintf(text, sizeof text, "cache folder %.1024s: ", cache->dir);
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text + used, sizeof text - (size_t)used, format, args);
    va_end(args);
    cache->warn(cache->warn_user, text);
}

enum lq_status lq_cache_open_sized(struct lq_cache **out, const struct lq_cache_options *options,
                                   uint64_t map_bytes, struct lq_error *err)
{
    *out = NULL;
    struct lq_cache *cache = calloc(1, sizeof *cache);
    if (cache == NULL) {
        return lq_error_nomem(err, "the cache");
    }
    (void)pthread_mutex_init(&cache->mutex, NULL);
    lq_hash_aside_init(&cache->hashing);
    cache->warn = options->warn;
    cache->warn_user = options->warn_user;
    cache->files_flushed_ns = lq_clock_ns();
    struct lq_store_options store_options = {
        .dir = options->dir,
        .map_bytes = map_bytes,
        .warn = options->warn,
        .warn_user = options->warn_user,
        .fatal = options->fatal,
    };
    /* Locks first: the data file may be about to be replaced. */
    enum lq_status status = lq_store_check_folder(options->dir, err);
    if (status == LQ_OK) {
        status = lq_locks_open(&cache->locks, options->dir, err);
    }
    if (status == LQ_OK) {
        status = lq_store_open(&cache->store, &store_options, err);
    }
    if (status == LQ_OK) {
        cache->dir = strdup(options->dir);
        cache->marks = lq_marks_create(options->dir, cache->locks);
        cache->uses = lq_uses_create();
        if (cache->dir == NULL || cache->marks == NULL || cache->uses == NULL) {
            status = lq_error_nomem(err, "the cache");
        }
    }
    if (status == LQ_OK) {
        status = lq_blob_sweep_dead(cache, err);
    }
    if (status != LQ_OK) {
        lq_cache_close(cache);
        return status;
    }
    *out = cache;
    return LQ_OK;
}

enum lq_status lq_cache_open(struct lq_cache **out, const struct lq_cache_options *options,
                             struct lq_error *err)
{
    return lq_cache_open_sized(out, options, 0, err);
}

void lq_cache_close(struct lq_cache *cache)
{
    if (cache == NULL) {
        return;
    }
    if (cache->uses != NULL && cache->marks != NULL) {
        /* A hint only: on a full disk the build is as good without it. */
        (void)lq_uses_flush(cache->uses, cache->store, NULL);
    }
    lq_hash_aside_fini(&cache->hashing);
    lq_store_close(cache->store);
    lq_marks_destroy(cache->marks);
    lq_uses_destroy(cache->uses);
    lq_locks_close(cache->locks);
    (void)pthread_mutex_destroy(&cache->mutex);
    free(cache->dir);
    free(cache);
}

void lq_cache_hold(struct lq_cache *cache)
{
    lq_store_hold(cache->store);
}

void lq_cache_release(struct lq_cache *cache)
{
    lq_store_release(cache->store);
}

enum lq_status lq_cache_default_dir(const char *option, struct lq_arena *arena, char **out,
                                    struct lq_error *err)
{
    const char *own = getenv("LQBUILD_CACHE_DIR");
    const char *xdg = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    *out = NULL;
    if (option != NULL && option[0] != '\0') {
        *out = lq_arena_dup_string(arena, option);
    } else if (own != NULL && own[0] != '\0') {
        *out = lq_arena_dup_string(arena, own);
    } else if (xdg != NULL && xdg[0] == '/') {
        /* The XDG base directory specification: a relative path is invalid and ignored. */
        *out = lq_arena_printf(arena, "%s/lqbuild", xdg);
    } else if (home != NULL && home[0] != '\0') {
        *out = lq_arena_printf(arena, "%s/.cache/lqbuild", home);
    } else {
        return lq_error_set(err, LQ_ECACHE,
                            "no cache folder: HOME is not set; give one with --cache-dir or "
                            "LQBUILD_CACHE_DIR");
    }
    return *out == NULL ? lq_error_nomem(err, "the name of the cache folder") : LQ_OK;
}

enum lq_status lq_cache_lock_try(struct lq_cache *cache, const struct lq_digest *key,
                                 bool *acquired, struct lq_error *err)
{
    return lq_locks_try_step(cache->locks, key, acquired, err);
}

void lq_cache_unlock(struct lq_cache *cache, const struct lq_digest *key)
{
    lq_locks_release_step(cache->locks, key);
}
