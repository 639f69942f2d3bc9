#define _GNU_SOURCE
#include "cache/locks.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

static const uint64_t steps_end = (uint64_t)1 << 62;
static const uint64_t token_mask = ((uint64_t)1 << 61) - 1;
static const uint64_t presence_at = ((uint64_t)1 << 62) + ((uint64_t)1 << 61);
static const uint64_t collector_at = ((uint64_t)1 << 62) + ((uint64_t)1 << 61) + 1;

struct lq_locks {
    int fd;
    uint64_t token;
    char *path;
    pthread_mutex_t mutex; /* guards all below */
    uint64_t *held;        /* offsets of the steps this object holds */
    size_t held_count, held_capacity;
};

static uint64_t step_offset(const struct lq_digest *key)
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++) {
        value = value << 8 | key->bytes[i];
    }
    return value >> 2;
}

/* `type` is F_WRLCK, F_RDLCK or F_UNLCK. Returns 0, or errno; EAGAIN when somebody else holds it.
 */
static int set_lock(int fd, short type, uint64_t start, uint64_t length)
{
    struct flock lock = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)start, .l_len = (off_t)length};
    int result;
    do {
        result = fcntl(fd, F_OFD_SETLK, &lock);
    } while (result != 0 && errno == EINTR);
    return result == 0 ? 0 : (errno == EACCES ? EAGAIN : errno);
}

static int open_file(const char *path)
{
    return open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0664);
}

static enum lq_status lock_error(const char *path, int code, struct lq_error *err)
{
    errno = code;
    return lq_error_errno(err, LQ_EIO, "%s: cannot lock", path);
}

static enum lq_status take_token(struct lq_locks *locks, struct lq_error *err)
{
    for (;;) {
        uint64_t random = 0;
        if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random) {
            return lq_error_errno(err, LQ_EIO, "%s: cannot get a random number", locks->path);
        }
        random &= token_mask;
        if (random == 0) {
            continue;
        }
        int code = set_lock(locks->fd, F_WRLCK, steps_end + random, 1);
        if (code == 0) {
            locks->token = random;
            return LQ_OK;
        }
        if (code != EAGAIN) {
            return lock_error(locks->path, code, err);
        }
    }
}

static enum lq_status take_presence(struct lq_locks *locks, struct lq_error *err)
{
    enum { TRIES = 60 * 50 };
    const struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};
    int code = EAGAIN;
    for (int i = 0; i < TRIES && code == EAGAIN; i++) {
        if (i > 0) {
            (void)nanosleep(&pause, NULL);
        }
        code = set_lock(locks->fd, F_RDLCK, presence_at, 1);
    }
    if (code == EAGAIN) {
        return lq_error_set(
            err, LQ_ECACHE,
            "%s: another process compacts or repairs the cache; try again when it is done",
            locks->path);
    }
    return code == 0 ? LQ_OK : lock_error(locks->path, code, err);
}

enum lq_status lq_locks_open(struct lq_locks **out, const char *dir, struct lq_error *err)
{
    *out = NULL;
    struct lq_locks *locks = calloc(1, sizeof *locks);
    size_t path_bytes = strlen(dir) + sizeof "/locks";
    char *path = malloc(path_bytes);
    if (locks == NULL || path == NULL) {
        free(locks);
        free(path);
        return lq_error_nomem(err, dir);
    }
    (void)snprintf(path, path_bytes, "%s/locks", dir);
    locks->path = path;
    locks->fd = open_file(path);
    (void)pthread_mutex_init(&locks->mutex, NULL);
    enum lq_status status = LQ_OK;
    if (locks->fd < 0) {
        status = lq_error_errno(err, errno == ENOSPC ? LQ_EIO : LQ_ECACHE,
                                "%s: cannot open the cache", path);
    } else {
        status = take_presence(locks, err);
    }
    if (status == LQ_OK) {
        status = take_token(locks, err);
    }
    if (status != LQ_OK) {
        lq_locks_close(locks);
        return status;
    }
    *out = locks;
    return LQ_OK;
}

void lq_locks_close(struct lq_locks *locks)
{
    if (locks == NULL) {
        return;
    }
    if (locks->fd >= 0) {
        (void)close(locks->fd);
    }
    (void)pthread_mutex_destroy(&locks->mutex);
    free(locks->held);
    free(locks->path);
    free(locks);
}

uint64_t lq_locks_token(const struct lq_locks *locks)
{
    return locks->token;
}

bool lq_locks_token_alive(struct lq_locks *locks, uint64_t token)
{
    if (token == locks->token) {
        return true;
    }
    if (token == 0 || token > token_mask) {
        return false;
    }
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)(steps_end + token), .l_len = 1};
    /* When in doubt it lives: its chunks can be swept another day. */
    return fcntl(locks->fd, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

static size_t find_held(const struct lq_locks *locks, uint64_t offset)
{
    size_t at = 0;
    while (at < locks->held_count && locks->held[at] != offset) {
        at++;
    }
    return at;
}

static bool reserve_held(struct lq_locks *locks)
{
    if (locks->held_count < locks->held_capacity) {
        return true;
    }
    size_t capacity = locks->held_capacity == 0 ? 16 : 2 * locks->held_capacity;
    uint64_t *grown = realloc(locks->held, capacity * sizeof *grown);
    if (grown == NULL) {
        return false;
    }
    locks->held = grown;
    locks->held_capacity = capacity;
    return true;
}

enum lq_status lq_locks_try_step(struct lq_locks *locks, const struct lq_digest *key,
                                 bool *acquired, struct lq_error *err)
{
    uint64_t offset = step_offset(key);
    int code = 0;
    *acquired = false;
    (void)pthread_mutex_lock(&locks->mutex);
    if (!reserve_held(locks)) {
        code = ENOMEM;
    } else if (find_held(locks, offset) == locks->held_count) {
        code = set_lock(locks->fd, F_WRLCK, offset, 1);
        if (code == 0) {
            locks->held[locks->held_count++] = offset;
            *acquired = true;
        }
    }
    (void)pthread_mutex_unlock(&locks->mutex);
    return code == 0 || code == EAGAIN ? LQ_OK : lock_error(locks->path, code, err);
}

void lq_locks_release_step(struct lq_locks *locks, const struct lq_digest *key)
{
    uint64_t offset = step_offset(key);
    (void)pthread_mutex_lock(&locks->mutex);
    size_t at = find_held(locks, offset);
    if (at < locks->held_count) {
        locks->held[at] = locks->held[--locks->held_count];
        (void)set_lock(locks->fd, F_UNLCK, offset, 1);
    }
    (void)pthread_mutex_unlock(&locks->mutex);
}

/* A write lock through a handle of its own, which also this process's other locks keep out. */
static enum lq_status try_range(struct lq_locks *locks, uint64_t start, uint64_t length,
                                int *handle, bool *acquired, struct lq_error *err)
{
    *acquired = false;
    *handle = open_file(locks->path);
    if (*handle < 0) {
        return lq_error_errno(err, LQ_EIO, "%s: cannot open", locks->path);
    }
    int code = set_lock(*handle, F_WRLCK, start, length);
    if (code != 0) {
        (void)close(*handle);
        *handle = -1;
        return code == EAGAIN ? LQ_OK : lock_error(locks->path, code, err);
    }
    *acquired = true;
    return LQ_OK;
}

enum lq_status lq_locks_try_all(struct lq_locks *locks, int *handle, bool *acquired,
                                struct lq_error *err)
{
    return try_range(locks, 0, steps_end, handle, acquired, err);
}

enum lq_status lq_locks_try_collector(struct lq_locks *locks, int *handle, bool *acquired,
                                      struct lq_error *err)
{
    return try_range(locks, collector_at, 1, handle, acquired, err);
}

bool lq_locks_share_collector(struct lq_locks *locks)
{
    return set_lock(locks->fd, F_RDLCK, collector_at, 1) == 0;
}

enum lq_status lq_locks_try_alone(struct lq_locks *locks, bool *acquired, struct lq_error *err)
{
    int code = set_lock(locks->fd, F_WRLCK, presence_at, 1);
    *acquired = code == 0;
    return code == 0 || code == EAGAIN ? LQ_OK : lock_error(locks->path, code, err);
}

void lq_locks_release_all(int handle)
{
    if (handle >= 0) {
        (void)close(handle);
    }
}
