#define _GNU_SOURCE
#include "cache/marks.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    /* 400 000 marks leave one digest in ten looking marked that is not. */
    MARK_BYTES = 256 * 1024,
    PAGE_BYTES = 4096,
    PATH_BYTES = 4096,
};

struct lq_marks {
    struct lq_locks *locks;
    char path[PATH_BYTES];
    char folder[PATH_BYTES];
    pthread_mutex_t mutex; /* guards making the file */
    _Atomic(atomic_uchar *) bits;
    bool tried;
};

struct lq_mark_set {
    unsigned char bits[MARK_BYTES];
};

/* The two bits of a digest, in one page, so that marking touches one. */
static void bits_of(const struct lq_digest *digest, size_t at[2])
{
    const unsigned char *bytes = digest->bytes;
    size_t page = ((size_t)bytes[0] << 8 | bytes[1]) % (MARK_BYTES / PAGE_BYTES);
    for (int i = 0; i < 2; i++) {
        size_t bit = ((size_t)bytes[2 + 2 * i] << 8 | bytes[3 + 2 * i]) % (PAGE_BYTES * 8);
        at[i] = page * PAGE_BYTES * 8 + bit;
    }
}

struct lq_marks *lq_marks_create(const char *dir, struct lq_locks *locks)
{
    struct lq_marks *marks = calloc(1, sizeof *marks);
    if (marks == NULL) {
        return NULL;
    }
    marks->locks = locks;
    (void)pthread_mutex_init(&marks->mutex, NULL);
    (void)snprintf(marks->folder, sizeof marks->folder, "%s/live", dir);
    int length = snprintf(marks->path, sizeof marks->path, "%s/live/%016llx", dir,
                          (unsigned long long)lq_locks_token(locks));
    if (length < 0 || (size_t)length >= sizeof marks->path) {
        marks->tried = true;
        marks->path[0] = '\0';
    }
    return marks;
}

void lq_marks_destroy(struct lq_marks *marks)
{
    if (marks == NULL) {
        return;
    }
    atomic_uchar *bits = atomic_load(&marks->bits);
    if (bits != NULL) {
        (void)munmap((void *)bits, MARK_BYTES);
        if (lq_locks_share_collector(marks->locks)) {
            (void)unlink(marks->path);
        }
    }
    (void)pthread_mutex_destroy(&marks->mutex);
    free(marks);
}

/* Blocks first: a store into a hole of a full disk would be a signal. */
static atomic_uchar *make_file(const struct lq_marks *marks)
{
    (void)mkdir(marks->folder, 0775);
    int fd = open(marks->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0664);
    if (fd < 0) {
        return NULL;
    }
    void *bits = MAP_FAILED;
    if (posix_fallocate(fd, 0, MARK_BYTES) == 0) {
        bits = mmap(NULL, MARK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    (void)close(fd);
    if (bits == MAP_FAILED) {
        (void)unlink(marks->path);
        return NULL;
    }
    return bits;
}

/* Without a file the process holds a lock instead, and nobody collects anything meanwhile. */
static atomic_uchar *get_bits(struct lq_marks *marks)
{
    atomic_uchar *bits = atomic_load(&marks->bits);
    if (bits != NULL) {
        return bits;
    }
    (void)pthread_mutex_lock(&marks->mutex);
    bits = atomic_load(&marks->bits);
    if (bits == NULL && !marks->tried) {
        marks->tried = true;
        bits = make_file(marks);
        atomic_store(&marks->bits, bits);
        if (bits == NULL) {
            (void)lq_locks_share_collector(marks->locks);
        }
    }
    (void)pthread_mutex_unlock(&marks->mutex);
    return bits;
}

void lq_marks_add(struct lq_marks *marks, const struct lq_digest *digest)
{
    atomic_uchar *bits = get_bits(marks);
    size_t at[2];
    if (bits == NULL) {
        return;
    }
    bits_of(digest, at);
    for (int i = 0; i < 2; i++) {
        unsigned char bit = (unsigned char)(1u << (at[i] % 8));
        if ((atomic_load(&bits[at[i] / 8]) & bit) == 0) {
            atomic_fetch_or(&bits[at[i] / 8], bit);
        }
    }
}

/* ---- the collector ---- */

/* Calls `visit` with the path and the token of every file. */
static void each_file(const char *dir, void (*visit)(const char *path, uint64_t token, void *user),
                      void *user)
{
    char path[PATH_BYTES];
    (void)snprintf(path, sizeof path, "%s/live", dir);
    DIR *folder = opendir(path);
    if (folder == NULL) {
        return;
    }
    for (struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        char *end = NULL;
        uint64_t token = strtoull(entry->d_name, &end, 16);
        int length = snprintf(path, sizeof path, "%s/live/%s", dir, entry->d_name);
        if (*end == '\0' && token != 0 && length > 0 && (size_t)length < sizeof path) {
            visit(path, token, user);
        }
    }
    (void)closedir(folder);
}

static void remove_dead(const char *path, uint64_t token, void *user)
{
    if (!lq_locks_token_alive(user, token)) {
        (void)unlink(path);
    }
}

void lq_marks_remove_dead(const char *dir, struct lq_locks *locks)
{
    each_file(dir, remove_dead, locks);
}

struct reading {
    struct lq_mark_set *set;
    bool failed;
};

static void add_file(const char *path, uint64_t token, void *user)
{
    struct reading *reading = user;
    unsigned char piece[PAGE_BYTES];
    (void)token;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        /* Its owner has ended between our two looks, before we began to collect. */
        reading->failed = reading->failed || errno != ENOENT;
        return;
    }
    for (size_t done = 0; done < MARK_BYTES; done += sizeof piece) {
        ssize_t got = pread(fd, piece, sizeof piece, (off_t)done);
        if (got < 0) {
            reading->failed = true;
            break;
        }
        for (size_t i = 0; i < (size_t)got; i++) {
            reading->set->bits[done + i] |= piece[i];
        }
    }
    (void)close(fd);
}

enum lq_status lq_mark_set_read(struct lq_mark_set **out, const char *dir, struct lq_error *err)
{
    struct reading reading = {.set = calloc(1, sizeof(struct lq_mark_set))};
    *out = NULL;
    if (reading.set == NULL) {
        return lq_error_nomem(err, "the marks of running builds");
    }
    each_file(dir, add_file, &reading);
    if (reading.failed) {
        free(reading.set);
        return lq_error_set(err, LQ_EIO,
                            "cache folder %s: cannot read what running builds need (folder live); "
                            "nothing is removed",
                            dir);
    }
    *out = reading.set;
    return LQ_OK;
}

void lq_mark_set_destroy(struct lq_mark_set *set)
{
    free(set);
}

bool lq_mark_set_has(const struct lq_mark_set *set, const struct lq_digest *digest)
{
    size_t at[2];
    bits_of(digest, at);
    return (set->bits[at[0] / 8] >> (at[0] % 8) & 1) != 0 &&
           (set->bits[at[1] / 8] >> (at[1] % 8) & 1) != 0;
}
