/* Compacting: a copy without free pages takes the place of the data file. Only one process may have
 * the cache open meanwhile, because LMDB knows its file by a descriptor: the presence lock sees to
 * it, and whoever wants to open the cache waits. */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cache/cache_internal.h"
#include "cache/store_file.h"
#include "cache/upkeep.h"

enum { PATH_BYTES = 4096 };

struct places {
    char data[PATH_BYTES];
    char folder[PATH_BYTES]; /* where the copy is made */
    char copy[PATH_BYTES];
};

static enum lq_status name_places(struct places *places, const char *dir, struct lq_error *err)
{
    int longest = snprintf(places->copy, sizeof places->copy, "%s/compact.tmp/data.mdb", dir);
    if (longest < 0 || (size_t)longest >= sizeof places->copy) {
        return lq_error_set(err, LQ_ECACHE, "cache folder %s: its name is too long", dir);
    }
    (void)snprintf(places->folder, sizeof places->folder, "%s/compact.tmp", dir);
    (void)snprintf(places->data, sizeof places->data, "%s/data.mdb", dir);
    return LQ_OK;
}

static void remove_copy(const struct places *places)
{
    (void)unlink(places->copy);
    (void)rmdir(places->folder);
}

static enum lq_status sync_path(const char *path, struct lq_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return lq_error_errno(err, LQ_EIO, "%s: cannot open", path);
    }
    enum lq_status status =
        fsync(fd) == 0 ? LQ_OK : lq_error_errno(err, LQ_EIO, "%s: cannot write", path);
    (void)close(fd);
    return status;
}

static enum lq_status check_room(const char *dir, uint64_t wanted, struct lq_error *err)
{
    struct statvfs system;
    if (statvfs(dir, &system) == 0 &&
        (uint64_t)system.f_bavail * (uint64_t)system.f_frsize < wanted) {
        return lq_error_set(err, LQ_EIO,
                            "cache folder %s: compacting needs %llu MB of free space for the copy; "
                            "free some, or remove entries with 'lqbuild cache gc'",
                            dir, (unsigned long long)(wanted >> 20) + 1);
    }
    return LQ_OK;
}

static enum lq_status write_copy(struct lq_store *store, const char *dir,
                                 const struct places *places, struct lq_error *err)
{
    uint64_t live_bytes = 0;
    enum lq_status status = lq_store_live_bytes(store, &live_bytes, err);
    status = status == LQ_OK ? check_room(dir, live_bytes, err) : status;
    if (status != LQ_OK) {
        return status;
    }
    remove_copy(places); /* of one that was killed */
    if (mkdir(places->folder, 0775) != 0 && errno != EEXIST) {
        return lq_error_errno(err, LQ_EIO, "%s: cannot create", places->folder);
    }
    status = lq_store_copy(store, places->folder, err);
    return status == LQ_OK ? sync_path(places->copy, err) : status;
}

static enum lq_status replace(const char *dir, const struct places *places, struct lq_error *err)
{
    if (rename(places->copy, places->data) != 0) {
        return lq_error_errno(err, LQ_EIO, "%s: cannot replace", places->data);
    }
    return sync_path(dir, err);
}

static enum lq_status compact_alone(const struct lq_cache_options *options,
                                    const struct places *places, uint64_t *before_bytes,
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
    *before_bytes = stat(places->data, &st) == 0 ? (uint64_t)st.st_size : 0;
    status = write_copy(store, options->dir, places, err);
    lq_store_close(store);
    status = status == LQ_OK ? replace(options->dir, places, err) : status;
    remove_copy(places);
    *after_bytes = stat(places->data, &st) == 0 ? (uint64_t)st.st_size : 0;
    return status;
}

enum lq_status lq_cache_compact(const struct lq_cache_options *options, uint64_t *before_bytes,
                                uint64_t *after_bytes, struct lq_error *err)
{
    struct lq_locks *locks = NULL;
    struct places places;
    bool alone = false;
    *before_bytes = 0;
    *after_bytes = 0;
    enum lq_status status = lq_store_check_folder(options->dir, err);
    status = status == LQ_OK ? name_places(&places, options->dir, err) : status;
    status = status == LQ_OK ? lq_locks_open(&locks, options->dir, err) : status;
    status = status == LQ_OK ? lq_locks_try_alone(locks, &alone, err) : status;
    if (status == LQ_OK && !alone) {
        status = lq_error_set(err, LQ_ECACHE,
                              "cache folder %s: another lqbuild has it open; wait for it, then "
                              "compact",
                              options->dir);
    }
    if (status == LQ_OK) {
        status = compact_alone(options, &places, before_bytes, after_bytes, err);
    }
    lq_locks_close(locks);
    return status;
}
