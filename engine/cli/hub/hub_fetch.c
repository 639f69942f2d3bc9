#define _GNU_SOURCE
#include "engine/cli/hub/hub_fetch.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "engine/base/fs.h"
#include "engine/base/limits.h"
#include "engine/base/pool.h"
#include "engine/base/text.h"
#include "engine/cli/hub/hub_blob.h"

/* More connections do not make a download faster, and servers count them. */
enum { CONNECTIONS = 4 };

/* Files of equal content, which stand beside each other by their size, are loaded once. */
static bool is_repeated(const struct lq_hub_choice *choice, size_t index)
{
    const struct lq_hub_file *file = choice->files[index];
    for (size_t i = index; i > 0 && choice->files[i - 1]->size_bytes == file->size_bytes; i--) {
        if (strcmp(choice->files[i - 1]->id, file->id) == 0) {
            return true;
        }
    }
    return false;
}

/* ---- contents ---- */

struct loading {
    struct lq_hub_fetch *fetch;
    const char *folder; /* of the repository in the cache */
    const char *locks;
    pthread_mutex_t mutex; /* what stands below */
    enum lq_status status;
    struct lq_error err;
    atomic_bool failed;
};

static void moved(void *user, int64_t bytes)
{
    struct loading *loading = user;
    lq_hub_progress_move(loading->fetch->progress, bytes);
}

static void waits(void *user, const char *path)
{
    struct loading *loading = user;
    char text[LQ_HUB_PATH_BYTES_MAX + 64];
    (void)snprintf(text, sizeof text, "waiting for another process, which downloads %s", path);
    lq_hub_progress_note(loading->fetch->progress, text);
}

static bool is_stopped(void *user)
{
    struct loading *loading = user;
    return atomic_load(&loading->failed) || atomic_load(loading->fetch->cancel);
}

static void load_one(void *user, size_t index)
{
    struct loading *loading = user;
    struct lq_hub_fetch *fetch = loading->fetch;
    struct lq_error err;
    const struct lq_hub_watch watch = {
        .moved = moved, .waits = waits, .stopped = is_stopped, .user = loading};
    struct lq_hub_blob blob = {
        .hub = fetch->hub,
        .name = fetch->name,
        .commit = fetch->commit,
        .file = fetch->choice.files[index],
        .folder = loading->folder,
        .locks = loading->locks,
        .check = fetch->check,
        .watch = &watch,
    };
    if (is_repeated(&fetch->choice, index)) {
        moved(loading, (int64_t)blob.file->size_bytes);
        return;
    }
    if (is_stopped(loading)) {
        return;
    }
    lq_error_clear(&err);
    enum lq_status status = lq_hub_blob_get(&blob, &err);
    if (status == LQ_OK && blob.loaded_bytes > 0) {
        lq_hub_progress_file_done(fetch->progress, blob.file->path, blob.file->size_bytes);
    }
    (void)pthread_mutex_lock(&loading->mutex);
    fetch->loaded_bytes += blob.loaded_bytes;
    /* The first failure stops the others, which is not worth telling. */
    if (status != LQ_OK && loading->status == LQ_OK) {
        loading->status = status;
        loading->err = err;
        atomic_store(&loading->failed, true);
    }
    (void)pthread_mutex_unlock(&loading->mutex);
}

static enum lq_status load_all(struct lq_hub_fetch *fetch, const char *folder, const char *locks,
                               struct lq_error *err)
{
    struct lq_pool *pool = NULL;
    struct loading loading = {.fetch = fetch, .folder = folder, .locks = locks};
    size_t count = fetch->choice.count;
    enum lq_status status =
        lq_pool_create(&pool, count < CONNECTIONS ? (unsigned)count : CONNECTIONS, err);
    if (status != LQ_OK) {
        return status;
    }
    (void)pthread_mutex_init(&loading.mutex, NULL);
    atomic_init(&loading.failed, false);
    lq_hub_progress_begin(fetch->progress, fetch->name->repository, fetch->choice.size_bytes,
                          fetch->choice.size_bytes - fetch->missing_bytes);
    lq_pool_for(pool, count, load_one, &loading);
    lq_hub_progress_end(fetch->progress);
    lq_pool_destroy(pool);
    (void)pthread_mutex_destroy(&loading.mutex);
    if (loading.status != LQ_OK) {
        return lq_error_set(err, loading.status, "%s", loading.err.message);
    }
    return atomic_load(fetch->cancel)
               ? lq_error_set(err, LQ_ECANCELLED, "stopped; the same command goes on from here")
               : LQ_OK;
}

/* ---- room ---- */

static void count_missing(struct lq_hub_fetch *fetch, const char *folder, struct lq_arena *arena)
{
    fetch->missing_bytes = 0;
    for (size_t i = 0; i < fetch->choice.count; i++) {
        const struct lq_hub_file *file = fetch->choice.files[i];
        if (!is_repeated(&fetch->choice, i) && !lq_hub_blob_is_there(folder, file, arena)) {
            fetch->missing_bytes += file->size_bytes - lq_hub_blob_begun(folder, file, arena);
        }
    }
}

static enum lq_status check_room(const struct lq_hub_fetch *fetch, const char *folder,
                                 struct lq_error *err)
{
    struct statvfs disk;
    char wanted[32];
    char room[32];
    if (statvfs(folder, &disk) != 0) {
        return lq_error_errno(err, LQ_EIO, "%s: cannot be looked at", folder);
    }
    uint64_t free_bytes = (uint64_t)disk.f_bavail * (uint64_t)disk.f_frsize;
    if (fetch->missing_bytes <= free_bytes) {
        return LQ_OK;
    }
    return lq_error_set(err, LQ_EIO,
                        "%s: needs %s, but only %s are free in %s; make room, or name another "
                        "folder in HF_HUB_CACHE",
                        fetch->name->repository,
                        lq_text_size(fetch->missing_bytes, wanted, sizeof wanted),
                        lq_text_size(free_bytes, room, sizeof room), fetch->cache);
}

/* ---- names ---- */

/* "../../blobs/ID" and one "../" more for each folder that the file is in. */
static const char *link_text(const struct lq_hub_file *file, struct lq_arena *arena)
{
    const char *up = "../../";
    for (const char *at = strchr(file->path, '/'); at != NULL && up != NULL;
         at = strchr(at + 1, '/')) {
        up = lq_arena_printf(arena, "../%s", up);
    }
    return up == NULL ? NULL : lq_arena_printf(arena, "%sblobs/%s", up, file->id);
}

static bool leads_to(const char *path, const char *text)
{
    char found[LQ_BLOB_PATH_BYTES_MAX + 1];
    ssize_t length = readlink(path, found, sizeof found);
    return length > 0 && (size_t)length == strlen(text) && memcmp(found, text, (size_t)length) == 0;
}

/* A copy of the file itself, as tools make where there are no links. */
static bool is_copy(const char *path, const struct lq_hub_file *file)
{
    struct stat st;
    return lstat(path, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == file->size_bytes;
}

static enum lq_status link_one(const char *snapshot, const struct lq_hub_file *file,
                               struct lq_arena *arena, struct lq_error *err)
{
    const char *path = lq_path_join(arena, snapshot, file->path);
    const char *text = link_text(file, arena);
    const char *parent = path == NULL ? NULL : lq_path_dir(arena, path);
    const char *beside =
        path == NULL ? NULL : lq_arena_printf(arena, "%s.%ld", path, (long)getpid());
    if (parent == NULL || text == NULL || beside == NULL) {
        return lq_error_nomem(err, "a path");
    }
    enum lq_status status = lq_make_dirs(parent, err);
    if (status != LQ_OK || leads_to(path, text) || is_copy(path, file)) {
        return status;
    }
    if (symlink(text, path) == 0 || leads_to(path, text)) {
        return lq_folder_sync(parent, err);
    }
    /* What stands there leads elsewhere, or nowhere. */
    if (errno == EEXIST && symlink(text, beside) == 0) {
        if (rename(beside, path) == 0) {
            return lq_folder_sync(parent, err);
        }
        status = lq_error_errno(err, LQ_EIO, "%s: cannot be replaced", path);
        (void)unlink(beside);
        return status;
    }
    return lq_error_errno(err, LQ_EIO, "%s: cannot be made", path);
}

/* The configuration comes last: without it a folder is no model. */
static enum lq_status link_all(const struct lq_hub_fetch *fetch, const char *snapshot,
                               struct lq_arena *arena, struct lq_error *err)
{
    static const char last[] = "config.json";
    const struct lq_hub_choice *choice = &fetch->choice;
    enum lq_status status = LQ_OK;
    for (int turn = 0; turn < 2; turn++) {
        for (size_t i = 0; i < choice->count && status == LQ_OK; i++) {
            bool is_last = strcmp(choice->files[i]->path, last) == 0;
            status =
                is_last == (turn == 1) ? link_one(snapshot, choice->files[i], arena, err) : LQ_OK;
        }
    }
    const char *parent = lq_path_dir(arena, snapshot);
    if (status == LQ_OK && parent != NULL) {
        status = lq_folder_sync(parent, err);
    }
    return status;
}

/* The branch or tag leads to the commit from now on. A file that says so already is left alone:
 * builds look at whether it changed. */
static enum lq_status set_revision(const struct lq_hub_fetch *fetch, const char *folder,
                                   struct lq_arena *arena, struct lq_error *err)
{
    struct lq_buffer old;
    const char *revision = fetch->name->revision;
    const char *path = lq_arena_printf(arena, "%s/refs/%s", folder, revision);
    if (path == NULL) {
        return lq_error_nomem(err, "a path");
    }
    if (strcmp(revision, fetch->commit) == 0) {
        return LQ_OK;
    }
    lq_buffer_init(&old);
    bool is_same = lq_path_exists(path) &&
                   lq_file_read(path, LQ_HUB_COMMIT_BYTES - 1, &old, NULL) == LQ_OK &&
                   strcmp(lq_buffer_text(&old), fetch->commit) == 0;
    lq_buffer_fini(&old);
    return is_same ? LQ_OK : lq_file_write(path, fetch->commit, strlen(fetch->commit), err);
}

/* ---- the whole ---- */

static enum lq_status bring(struct lq_hub_fetch *fetch, const char *folder, const char *snapshot,
                            struct lq_arena *arena, struct lq_error *err)
{
    const char *blobs = lq_path_join(arena, folder, "blobs");
    const char *locks = lq_arena_printf(arena, "%s/.locks/%s", fetch->cache, lq_path_base(folder));
    if (blobs == NULL || locks == NULL) {
        return lq_error_nomem(err, "a path");
    }
    enum lq_status status = lq_make_dirs(blobs, err);
    if (status == LQ_OK) {
        status = lq_make_dirs(locks, err);
    }
    if (status == LQ_OK) {
        status = check_room(fetch, folder, err);
    }
    if (status == LQ_OK) {
        status = load_all(fetch, folder, locks, err);
    }
    if (status == LQ_OK) {
        status = link_all(fetch, snapshot, arena, err);
    }
    return status == LQ_OK ? set_revision(fetch, folder, arena, err) : status;
}

enum lq_status lq_hub_fetch(struct lq_hub_fetch *fetch, struct lq_arena *arena,
                            struct lq_error *err)
{
    const struct lq_hub_name *name = fetch->name;
    const char *base = lq_hub_repository_folder(name, arena);
    const char *folder = base == NULL ? NULL : lq_path_join(arena, fetch->cache, base);
    if (folder == NULL) {
        return lq_error_nomem(err, "a path");
    }
    enum lq_status status = lq_hub_find_commit(fetch->hub, name, fetch->commit, err);
    if (status == LQ_OK) {
        status = lq_hub_choose(fetch->hub, name, fetch->commit, arena, &fetch->choice, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    const char *snapshot = lq_arena_printf(arena, "%s/snapshots/%s", folder, fetch->commit);
    fetch->path = snapshot == NULL || name->file == NULL
                      ? snapshot
                      : lq_path_join(arena, snapshot, name->file);
    if (fetch->path == NULL) {
        return lq_error_nomem(err, "a path");
    }
    count_missing(fetch, folder, arena);
    return fetch->dry_run ? LQ_OK : bring(fetch, folder, snapshot, arena, err);
}
