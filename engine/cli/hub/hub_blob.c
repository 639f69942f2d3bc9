#define _GNU_SOURCE
#include "engine/cli/hub/hub_blob.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/digest.h"
#include "engine/base/fs.h"
#include "engine/base/sha1.h"

enum { READ_BYTES = 1 << 20, LOCK_MODE = 0664, FILE_MODE = 0666, POLL_MS = 50 };

/* ---- digests ---- */

/* SHA-256 of the content, or what git calls a file: SHA-1 of "blob SIZE", a NUL and the content. */
struct checker {
    const struct lq_hub_file *file;
    struct lq_hasher *large;
    struct lq_sha1 *small;
};

static void checker_restart(struct checker *checker)
{
    char head[40];
    if (checker->file->is_large) {
        struct lq_digest ignored;
        lq_hasher_finish(checker->large, &ignored);
        return;
    }
    char ignored[LQ_SHA1_HEX_BYTES];
    int length =
        snprintf(head, sizeof head, "blob %llu", (unsigned long long)checker->file->size_bytes);
    (void)lq_sha1_finish(checker->small, ignored);
    lq_sha1_update(checker->small, head, (size_t)length + 1);
}

static enum lq_status checker_init(struct checker *checker, const struct lq_hub_file *file,
                                   struct lq_error *err)
{
    *checker = (struct checker){.file = file};
    if (file->is_large) {
        checker->large = lq_hasher_create();
    } else {
        checker->small = lq_sha1_create();
    }
    if (checker->large == NULL && checker->small == NULL) {
        return lq_error_nomem(err, "a digest");
    }
    checker_restart(checker);
    return LQ_OK;
}

static void checker_fini(struct checker *checker)
{
    lq_hasher_destroy(checker->large);
    lq_sha1_destroy(checker->small);
}

static void checker_add(struct checker *checker, const void *data, size_t size_bytes)
{
    if (checker->file->is_large) {
        lq_hasher_update(checker->large, data, size_bytes);
    } else {
        lq_sha1_update(checker->small, data, size_bytes);
    }
}

/* The digest of all that was added goes to `hex`. */
static bool checker_agrees(struct checker *checker, char hex[LQ_HUB_ID_BYTES])
{
    struct lq_digest digest;
    if (checker->file->is_large) {
        lq_hasher_finish(checker->large, &digest);
        (void)lq_digest_to_hex(&digest, hex);
    } else {
        (void)lq_sha1_finish(checker->small, hex);
    }
    return strcmp(hex, checker->file->id) == 0;
}

/* ---- places ---- */

const char *lq_hub_blob_path(const char *folder, const struct lq_hub_file *file,
                             struct lq_arena *arena)
{
    return lq_arena_printf(arena, "%s/blobs/%s", folder, file->id);
}

bool lq_hub_blob_is_there(const char *folder, const struct lq_hub_file *file,
                          struct lq_arena *arena)
{
    struct lq_file_sig sig;
    bool exists = false;
    const char *path = lq_hub_blob_path(folder, file, arena);
    return path != NULL && lq_file_sig_get(path, &sig, &exists, NULL) == LQ_OK && exists &&
           sig.size_bytes == file->size_bytes;
}

uint64_t lq_hub_blob_begun(const char *folder, const struct lq_hub_file *file,
                           struct lq_arena *arena)
{
    struct lq_file_sig sig;
    bool exists = false;
    const char *path = lq_arena_printf(arena, "%s/blobs/%s.incomplete", folder, file->id);
    bool found = path != NULL && lq_file_sig_get(path, &sig, &exists, NULL) == LQ_OK && exists;
    return found && sig.size_bytes <= file->size_bytes ? sig.size_bytes : 0;
}

/* ---- the lock ---- */

static enum lq_status stopped(struct lq_error *err)
{
    return lq_error_set(err, LQ_ECANCELLED, "stopped; the same command goes on from here");
}

/* Some tools remove lock files: a lock on a file that has no name any more keeps nobody out. */
static bool is_still_named(int fd, const char *path)
{
    struct stat held;
    struct stat named;
    return fstat(fd, &held) == 0 && stat(path, &named) == 0 && held.st_dev == named.st_dev &&
           held.st_ino == named.st_ino;
}

static enum lq_status lock(const struct lq_hub_blob *blob, const char *path, int *out,
                           struct lq_error *err)
{
    const struct lq_hub_watch *watch = blob->watch;
    bool said = false;
    for (;;) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, LOCK_MODE);
        if (fd < 0) {
            return lq_error_errno(err, LQ_EIO, "%s: cannot be opened", path);
        }
        while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
            struct timespec wait = {.tv_nsec = (long)POLL_MS * 1000000};
            if (errno != EWOULDBLOCK && errno != EINTR) {
                enum lq_status status = lq_error_errno(err, LQ_EIO, "%s: cannot be locked", path);
                (void)close(fd);
                return status;
            }
            if (watch->stopped(watch->user)) {
                (void)close(fd);
                return stopped(err);
            }
            if (!said) {
                watch->waits(watch->user, blob->file->path);
                said = true;
            }
            (void)nanosleep(&wait, NULL);
        }
        if (is_still_named(fd, path)) {
            *out = fd;
            return LQ_OK;
        }
        (void)close(fd);
    }
}

/* ---- one download ---- */

struct download {
    struct lq_hub_blob *blob;
    struct checker checker;
    const char *path; /* of the incomplete file */
    int fd;
    uint64_t size_bytes; /* of it */
};

/* Reads the bytes that are there for the digest. *count: how many, which is at most `size_max`. */
static enum lq_status add_existing(struct download *download, int fd, uint64_t size_max,
                                   uint64_t *count, struct lq_error *err)
{
    const struct lq_hub_watch *watch = download->blob->watch;
    unsigned char *bytes = malloc(READ_BYTES);
    enum lq_status status = bytes == NULL ? lq_error_nomem(err, "a file") : LQ_OK;
    *count = 0;
    while (status == LQ_OK && *count < size_max) {
        uint64_t left = size_max - *count;
        ssize_t got =
            pread(fd, bytes, left < READ_BYTES ? (size_t)left : READ_BYTES, (off_t)*count);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            status = got == 0 ? LQ_OK
                              : lq_error_errno(err, LQ_EIO, "%s: cannot be read", download->path);
            break;
        }
        checker_add(&download->checker, bytes, (size_t)got);
        *count += (uint64_t)got;
        status = watch->stopped(watch->user) ? stopped(err) : LQ_OK;
    }
    free(bytes);
    return status;
}

static bool take(void *user, const void *data, size_t size_bytes, struct lq_error *err)
{
    struct download *download = user;
    const struct lq_hub_watch *watch = download->blob->watch;
    if (watch->stopped(watch->user)) {
        (void)stopped(err);
        return false;
    }
    /* Each at its own place, so that another process at the same file would write the same. */
    for (size_t done = 0; done < size_bytes;) {
        ssize_t put = pwrite(download->fd, (const char *)data + done, size_bytes - done,
                             (off_t)(download->size_bytes + done));
        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put <= 0) {
            (void)lq_error_errno(err, LQ_EIO, "%s: cannot be written", download->path);
            return false;
        }
        done += (size_t)put;
    }
    checker_add(&download->checker, data, size_bytes);
    download->size_bytes += size_bytes;
    download->blob->loaded_bytes += size_bytes;
    watch->moved(watch->user, (int64_t)size_bytes);
    return true;
}

static bool is_stopped(void *user)
{
    const struct lq_hub_watch *watch = ((struct download *)user)->blob->watch;
    return watch->stopped(watch->user);
}

/* Throws away what is there. */
static enum lq_status restart(void *user, struct lq_error *err)
{
    struct download *download = user;
    const struct lq_hub_watch *watch = download->blob->watch;
    if (ftruncate(download->fd, 0) != 0) {
        return lq_error_errno(err, LQ_EIO, "%s: cannot be emptied", download->path);
    }
    watch->moved(watch->user, -(int64_t)download->size_bytes);
    download->size_bytes = 0;
    checker_restart(&download->checker);
    return LQ_OK;
}

/* Goes on behind what an earlier process has left. */
static enum lq_status go_on(struct download *download, struct lq_error *err)
{
    const struct lq_hub_watch *watch = download->blob->watch;
    struct stat st;
    if (fstat(download->fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        return lq_error_set(err, LQ_EIO, "%s: is no regular file; remove it", download->path);
    }
    if ((uint64_t)st.st_size > download->blob->file->size_bytes) {
        return restart(download, err);
    }
    enum lq_status status =
        add_existing(download, download->fd, (uint64_t)st.st_size, &download->size_bytes, err);
    watch->moved(watch->user, (int64_t)download->size_bytes);
    return status;
}

/* The file is whole: now it gets its name. */
static enum lq_status publish(const struct download *download, const char *to, struct lq_error *err)
{
    char folder[4096];
    (void)snprintf(folder, sizeof folder, "%s/blobs", download->blob->folder);
    if (fsync(download->fd) != 0) {
        return lq_error_errno(err, LQ_EIO, "%s: cannot be written to the disk", download->path);
    }
    if (rename(download->path, to) != 0) {
        return lq_error_errno(err, LQ_EIO, "%s: cannot be renamed to %s", download->path, to);
    }
    return lq_folder_sync(folder, err);
}

/* Loads what is missing and looks at the whole. *agrees: it is what the hub announced. */
static enum lq_status load(struct download *download, bool *agrees, char hex[LQ_HUB_ID_BYTES],
                           struct lq_error *err)
{
    const struct lq_hub_blob *blob = download->blob;
    struct lq_hub_sink sink = {.received = download->size_bytes,
                               .take = take,
                               .stopped = is_stopped,
                               .restart = restart,
                               .user = download};
    enum lq_status status =
        lq_hub_read(blob->hub, blob->name, blob->commit, blob->file, &sink, err);
    *agrees = status == LQ_OK && checker_agrees(&download->checker, hex);
    return status;
}

static enum lq_status run(struct download *download, const char *to, struct lq_error *err)
{
    char hex[LQ_HUB_ID_BYTES] = "";
    bool agrees = false;
    const struct lq_hub_file *file = download->blob->file;
    enum lq_status status = go_on(download, err);
    bool resumed = download->size_bytes > 0;
    if (status == LQ_OK) {
        status = load(download, &agrees, hex, err);
    }
    /* After a power cut the beginning need not be what was written. */
    if (status == LQ_OK && !agrees && resumed) {
        status = restart(download, err);
        status = status == LQ_OK ? load(download, &agrees, hex, err) : status;
    }
    if (status != LQ_OK) {
        return status;
    }
    if (!agrees) {
        (void)unlink(download->path);
        download->blob->watch->moved(download->blob->watch->user, -(int64_t)download->size_bytes);
        return lq_error_set(err, LQ_EFORMAT,
                            "%s: %s came damaged and was removed: its %s is %s, expected %s",
                            download->blob->name->repository, file->path,
                            file->is_large ? "SHA-256" : "git SHA-1", hex, file->id);
    }
    return publish(download, to, err);
}

/* Whether the file at `to` has its digest. */
static enum lq_status check_existing(struct download *download, const char *to, bool *agrees,
                                     struct lq_error *err)
{
    char hex[LQ_HUB_ID_BYTES];
    uint64_t count = 0;
    int fd = open(to, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return lq_error_errno(err, LQ_EIO, "%s: cannot be opened", to);
    }
    enum lq_status status =
        add_existing(download, fd, download->blob->file->size_bytes, &count, err);
    (void)close(fd);
    *agrees = checker_agrees(&download->checker, hex);
    checker_restart(&download->checker);
    return status;
}

/* With the lock held. */
static enum lq_status get(struct download *download, const char *to, bool is_there,
                          struct lq_error *err)
{
    struct lq_hub_blob *blob = download->blob;
    bool agrees = is_there;
    enum lq_status status = LQ_OK;
    if (is_there && blob->check) {
        status = check_existing(download, to, &agrees, err);
    }
    if (status != LQ_OK || agrees) {
        blob->watch->moved(blob->watch->user, agrees ? (int64_t)blob->file->size_bytes : 0);
        return status;
    }
    download->fd = open(download->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, FILE_MODE);
    if (download->fd < 0) {
        return lq_error_errno(err, LQ_EIO, "%s: cannot be opened", download->path);
    }
    status = run(download, to, err);
    (void)close(download->fd);
    return status;
}

enum lq_status lq_hub_blob_get(struct lq_hub_blob *blob, struct lq_error *err)
{
    struct lq_arena arena;
    int lock_fd = -1;
    lq_arena_init(&arena);
    const char *to = lq_hub_blob_path(blob->folder, blob->file, &arena);
    const char *lock_path = lq_arena_printf(&arena, "%s/%s.lock", blob->locks, blob->file->id);
    struct download download = {
        .blob = blob,
        .path = lq_arena_printf(&arena, "%s/blobs/%s.incomplete", blob->folder, blob->file->id),
    };
    bool has_memory = to != NULL && lock_path != NULL && download.path != NULL;
    enum lq_status status = has_memory ? LQ_OK : lq_error_nomem(err, "a path");
    if (status == LQ_OK) {
        status = checker_init(&download.checker, blob->file, err);
    }
    if (status == LQ_OK) {
        status = lock(blob, lock_path, &lock_fd, err);
    }
    if (status == LQ_OK) {
        /* Another process may have been faster. */
        bool is_there = lq_hub_blob_is_there(blob->folder, blob->file, &arena);
        status = get(&download, to, is_there, err);
        (void)close(lock_fd);
    }
    checker_fini(&download.checker);
    lq_arena_fini(&arena);
    return status;
}
