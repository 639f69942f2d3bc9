#define _XOPEN_SOURCE 700
#include "cache/replace.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cache/store_file.h"

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    (void)remove(path);
    return 0;
}

static void remove_all(const char *folder)
{
    enum { DESCRIPTORS = 8 };
    (void)nftw(folder, remove_entry, DESCRIPTORS, FTW_DEPTH | FTW_PHYS);
}

static void remove_folder(const struct lq_replace *replace)
{
    if (replace->folder[0] != '\0') {
        remove_all(replace->folder);
    }
}

void lq_replace_remove_leftovers(const char *dir)
{
    static const char *const verbs[] = {"compact", "repair"};
    char folder[LQ_REPLACE_PATH_BYTES];
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
        int length = snprintf(folder, sizeof folder, "%s/%s.tmp", dir, verbs[i]);
        if (length > 0 && (size_t)length < sizeof folder) {
            remove_all(folder);
        }
    }
}

static enum lq_status name_places(struct lq_replace *replace, struct lq_error *err)
{
    int longest = snprintf(replace->copy, sizeof replace->copy, "%s/%s.tmp/data.mdb", replace->dir,
                           replace->verb);
    if (longest < 0 || (size_t)longest >= sizeof replace->copy) {
        return lq_error_set(err, LQ_ECACHE, "cache folder %s: its name is too long", replace->dir);
    }
    (void)snprintf(replace->data, sizeof replace->data, "%s/data.mdb", replace->dir);
    (void)snprintf(replace->folder, sizeof replace->folder, "%s/%s.tmp", replace->dir,
                   replace->verb);
    return LQ_OK;
}

enum lq_status lq_replace_begin(struct lq_replace *replace, const char *dir, const char *verb,
                                struct lq_error *err)
{
    struct stat st;
    bool alone = false;
    memset(replace, 0, sizeof *replace);
    replace->dir = dir;
    replace->verb = verb;
    enum lq_status status = lq_store_check_folder(dir, err);
    status = status == LQ_OK ? lq_locks_open(&replace->locks, dir, err) : status;
    status = status == LQ_OK ? lq_locks_try_alone(replace->locks, &alone, err) : status;
    if (status == LQ_OK && !alone) {
        status = lq_error_set(err, LQ_ECACHE,
                              "cache folder %s: another lqbuild has it open; wait for it, then %s",
                              dir, verb);
    }
    /* Nothing is named, and so nothing removed, before we are alone. */
    status = status == LQ_OK ? name_places(replace, err) : status;
    if (status == LQ_OK && lstat(replace->data, &st) == 0 && S_ISLNK(st.st_mode)) {
        status = lq_error_set(err, LQ_ECACHE,
                              "%s: it is a symbolic link, and a new file would take the place of "
                              "the link; let the folder be the link instead",
                              replace->data);
    }
    return status;
}

enum lq_status lq_replace_make_folder(struct lq_replace *replace, uint64_t size_bytes,
                                      struct lq_error *err)
{
    struct statvfs system;
    remove_folder(replace); /* of one that was killed */
    if (statvfs(replace->dir, &system) == 0 &&
        (uint64_t)system.f_bavail * (uint64_t)system.f_frsize < size_bytes) {
        return lq_error_set(err, LQ_EIO,
                            "cache folder %s: to %s it needs %llu MB of free space for the new "
                            "data.mdb; free some, or use another folder with --cache-dir",
                            replace->dir, replace->verb,
                            (unsigned long long)(size_bytes >> 20) + 1);
    }
    if (mkdir(replace->folder, 0775) != 0) {
        return lq_error_errno(err, LQ_EIO, "%s: cannot create", replace->folder);
    }
    return LQ_OK;
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

enum lq_status lq_replace_commit(struct lq_replace *replace, struct lq_error *err)
{
    enum lq_status status = sync_path(replace->copy, err);
    if (status == LQ_OK && rename(replace->copy, replace->data) != 0) {
        status = lq_error_errno(err, LQ_EIO, "%s: cannot replace", replace->data);
    }
    return status == LQ_OK ? sync_path(replace->dir, err) : status;
}

void lq_replace_end(struct lq_replace *replace)
{
    remove_folder(replace);
    lq_locks_close(replace->locks);
    replace->locks = NULL;
}
