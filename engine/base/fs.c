#define _GNU_SOURCE
#include "engine/base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/file_stream.h"

/* Time stamps move in steps of a kernel tick, 10 ms at the slowest; twice that is safe. */
static const int64_t fresh_ns = 20 * 1000 * 1000;

static int64_t timespec_ns(struct timespec time)
{
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void fill_sig(const struct stat *st, struct lq_file_sig *sig)
{
    sig->device = (uint64_t)st->st_dev;
    sig->inode = (uint64_t)st->st_ino;
    sig->size_bytes = (uint64_t)st->st_size;
    sig->mtime_ns = timespec_ns(st->st_mtim);
    sig->ctime_ns = timespec_ns(st->st_ctim);
}

bool lq_file_sig_equal(const struct lq_file_sig *a, const struct lq_file_sig *b)
{
    return a->device == b->device && a->inode == b->inode && a->size_bytes == b->size_bytes &&
           a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns;
}

static enum lq_status refuse_kind(const char *path, mode_t mode, struct lq_error *err)
{
    return lq_error_set(
        err, LQ_EIO,
        S_ISDIR(mode) ? "%s: is a folder, expected a file" : "%s: expected a regular file", path);
}

enum lq_status lq_file_sig_get(const char *path, struct lq_file_sig *sig, bool *exists,
                               struct lq_error *err)
{
    struct stat st;
    *exists = false;
    memset(sig, 0, sizeof *sig);
    if (stat(path, &st) != 0) {
        if (errno == ENOENT || errno == ENOTDIR) {
            return LQ_OK;
        }
        return lq_error_errno(err, LQ_EIO, "%s: cannot stat", path);
    }
    if (!S_ISREG(st.st_mode)) {
        return refuse_kind(path, st.st_mode, err);
    }
    fill_sig(&st, sig);
    *exists = true;
    return LQ_OK;
}

bool lq_file_sig_of(int fd, struct lq_file_sig *sig)
{
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        return false;
    }
    fill_sig(&st, sig);
    return true;
}

bool lq_file_sig_is_fresh(const struct lq_file_sig *sig)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    int64_t newest = sig->mtime_ns > sig->ctime_ns ? sig->mtime_ns : sig->ctime_ns;
    return timespec_ns(now) - newest < fresh_ns;
}

enum lq_status lq_map_open(struct lq_map *map, const char *path, enum lq_status missing_status,
                           struct lq_error *err)
{
    map->data = (const unsigned char *)"";
    map->size_bytes = 0;
    map->is_file = false;
    /* Not to wait for someone to write into a pipe. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return lq_error_errno(err, errno == ENOENT ? missing_status : LQ_EIO, "%s: cannot open",
                              path);
    }
    struct stat st;
    enum lq_status status = LQ_OK;
    if (fstat(fd, &st) != 0) {
        status = lq_error_errno(err, LQ_EIO, "%s: cannot stat", path);
    } else if (!S_ISREG(st.st_mode)) {
        status = refuse_kind(path, st.st_mode, err);
    } else if (st.st_size > 0) {
        void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            status = lq_error_errno(err, LQ_EIO, "%s: cannot map", path);
        } else {
            map->data = data;
            map->size_bytes = (uint64_t)st.st_size;
            map->is_file = true;
        }
    }
    (void)close(fd);
    return status;
}

void lq_map_close(struct lq_map *map)
{
    if (map->size_bytes != 0) {
        (void)munmap((void *)(uintptr_t)map->data, (size_t)map->size_bytes);
    }
    *map = (struct lq_map){.data = (const unsigned char *)""};
}

void lq_pages_release(const void *data, size_t size_bytes)
{
    uintptr_t page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
    /* Whole pages only: what lies beside the part may be in use. */
    uintptr_t first = ((uintptr_t)data + page_bytes - 1) / page_bytes * page_bytes;
    uintptr_t end = ((uintptr_t)data + size_bytes) / page_bytes * page_bytes;
    if (first < end) {
        (void)madvise((void *)first, end - first, MADV_DONTNEED);
    }
}

void lq_map_release(const struct lq_map *map, uint64_t offset, uint64_t size_bytes)
{
    if (map->is_file && offset <= map->size_bytes && size_bytes <= map->size_bytes - offset) {
        lq_pages_release(map->data + offset, (size_t)size_bytes);
    }
}

void lq_map_expect(const struct lq_map *map, uint64_t offset, uint64_t size_bytes)
{
    uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
    if (map->is_file && offset <= map->size_bytes && size_bytes <= map->size_bytes - offset) {
        uint64_t first = offset / page_bytes * page_bytes;
        (void)madvise((void *)(uintptr_t)(map->data + first), (size_t)(offset + size_bytes - first),
                      MADV_WILLNEED);
    }
}

enum lq_status lq_file_read(const char *path, uint64_t size_max, struct lq_buffer *out,
                            struct lq_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return lq_error_errno(err, LQ_EIO, "%s: cannot open", path);
    }
    enum lq_status status = LQ_OK;
    unsigned char chunk[16384];
    uint64_t total = 0;
    for (;;) {
        ssize_t got = read(fd, chunk, sizeof chunk);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            status = lq_error_errno(err, LQ_EIO, "%s: cannot read", path);
            break;
        }
        if (got == 0) {
            break;
        }
        total += (uint64_t)got;
        if (total > size_max) {
            status = lq_error_set(err, LQ_EIO, "%s: larger than the limit of %llu bytes", path,
                                  (unsigned long long)size_max);
            break;
        }
        lq_buffer_append(out, chunk, (size_t)got);
    }
    (void)close(fd);
    if (status == LQ_OK && out->failed) {
        status = lq_error_nomem(err, path);
    }
    return status;
}

static const char temporary_mark[] = ".lqtmp.";
enum {
    NUMBER_CHARS = 8, /* of a temporary file's name */
    NUMBERS_LOOKED_AT = 4,
    NUMBERS_MAX = 1024,
    NAME_BYTES_MAX = 255,
};

struct lq_atomic_file {
    int fd;
    struct lq_file_stream *stream; /* NULL: the caller writes itself */
    char *path;
    char *temporary;
};

static void free_atomic(struct lq_atomic_file *file)
{
    if (file->fd >= 0) {
        (void)close(file->fd);
    }
    free(file->path);
    free(file->temporary);
    free(file);
}

static enum lq_status make_parent(const char *path, struct lq_error *err)
{
    struct lq_arena arena;
    lq_arena_init(&arena);
    char *dir = lq_path_dir(&arena, path);
    enum lq_status status = dir == NULL ? lq_error_nomem(err, path) : lq_make_dirs(dir, err);
    lq_arena_fini(&arena);
    return status;
}

/* Whatever stands at the path is replaced, so it must be a file: not a folder, device or pipe. */
static enum lq_status check_replaceable(const char *path, struct lq_error *err)
{
    struct stat st;
    if (stat(path, &st) != 0 || S_ISREG(st.st_mode)) {
        return LQ_OK;
    }
    return lq_error_set(err, LQ_EIO, "%s: is a %s, expected a file name", path,
                        S_ISDIR(st.st_mode) ? "folder" : "device or pipe");
}

/* Room for the name of the temporary file of `path` with any number. A name may be as long as file
 * systems allow: then its end is left out. */
static char *temporary_name(const char *path)
{
    const char *base = lq_path_base(path);
    size_t folder = (size_t)(base - path);
    size_t kept = strlen(base);
    size_t room = NAME_BYTES_MAX - NUMBER_CHARS - strlen(temporary_mark);
    kept = kept < room ? kept : room;
    size_t size = folder + kept + sizeof temporary_mark + NUMBER_CHARS;
    char *name = malloc(size);
    if (name != NULL) {
        (void)snprintf(name, size, "%.*s%s%0*d", (int)(folder + kept), path, temporary_mark,
                       NUMBER_CHARS, 0);
    }
    return name;
}

static void set_number(char *name, int number)
{
    (void)snprintf(name + strlen(name) - NUMBER_CHARS, NUMBER_CHARS + 1, "%0*d", NUMBER_CHARS,
                   number);
}

/* True when something has the name. What nobody holds a lock on was left by a killed process and
 * is removed, unless the name has gone to another file before it was locked. */
static bool remove_if_dead(const char *name)
{
    struct stat opened;
    struct stat named;
    int fd = open(name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) {
        return errno != ENOENT;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 && fstat(fd, &opened) == 0 && lstat(name, &named) == 0 &&
        opened.st_ino == named.st_ino && opened.st_dev == named.st_dev) {
        (void)unlink(name);
    }
    (void)close(fd);
    return true;
}

/* Names are counted, so that what killed processes left is found without reading the folder, which
 * may hold very many files. */
static void remove_leftovers(char *name)
{
    bool found = true;
    for (int number = 1; number <= NUMBERS_MAX && (found || number <= NUMBERS_LOOKED_AT);
         number++) {
        set_number(name, number);
        found = remove_if_dead(name);
    }
}

/* Creates the temporary file and locks it. One that another process took for a leftover before it
 * was locked has no name any more; then the next try has. */
static enum lq_status open_temporary(struct lq_atomic_file *file, struct lq_error *err)
{
    file->temporary = temporary_name(file->path);
    if (file->temporary == NULL) {
        return lq_error_nomem(err, file->path);
    }
    remove_leftovers(file->temporary);
    for (int number = 1; number <= NUMBERS_MAX; number++) {
        set_number(file->temporary, number);
        /* The umask applies by itself: it can not be asked for without changing it for all. */
        file->fd = open(file->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (file->fd < 0 && errno != EEXIST) {
            return lq_error_errno(err, LQ_EIO, "%s: cannot create", file->path);
        }
        struct stat st;
        if (file->fd >= 0 && flock(file->fd, LOCK_EX) == 0 && fstat(file->fd, &st) == 0 &&
            st.st_nlink == 0) {
            (void)close(file->fd);
            file->fd = -1;
        }
        if (file->fd >= 0) {
            return LQ_OK;
        }
    }
    return lq_error_set(err, LQ_EIO, "%s: cannot create: its temporary file does not stay",
                        file->path);
}

enum lq_status lq_atomic_file_begin(struct lq_atomic_file **out, const char *path,
                                    struct lq_error *err)
{
    *out = NULL;
    enum lq_status status = make_parent(path, err);
    if (status == LQ_OK) {
        status = check_replaceable(path, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    struct lq_atomic_file *file = calloc(1, sizeof *file);
    if (file == NULL) {
        return lq_error_nomem(err, path);
    }
    file->fd = -1;
    file->path = strdup(path);
    status = file->path == NULL ? lq_error_nomem(err, path) : open_temporary(file, err);
    if (status != LQ_OK) {
        free_atomic(file);
        return status;
    }
    *out = file;
    return LQ_OK;
}

enum lq_status lq_atomic_file_write(struct lq_atomic_file *file, const void *data,
                                    size_t size_bytes, struct lq_error *err)
{
    const unsigned char *bytes = data;
    if (file->stream != NULL) {
        return lq_file_stream_write(file->stream, data, size_bytes, err);
    }
    while (size_bytes > 0) {
        ssize_t wrote = write(file->fd, bytes, size_bytes);
        if (wrote < 0 && errno == EINTR) {
            continue;
        }
        if (wrote < 0) {
            return lq_error_errno(err, LQ_EIO, "%s: cannot write", file->path);
        }
        bytes += wrote;
        size_bytes -= (size_t)wrote;
    }
    return LQ_OK;
}

enum lq_status lq_atomic_file_stream(struct lq_atomic_file *file, struct lq_error *err)
{
    return lq_file_stream_open(&file->stream, file->fd, file->path, err);
}

bool lq_atomic_file_sig(const struct lq_atomic_file *file, struct lq_file_sig *sig)
{
    return lq_file_sig_of(file->fd, sig);
}

static enum lq_status end_stream(struct lq_atomic_file *file, struct lq_error *err)
{
    struct lq_file_stream *stream = file->stream;
    file->stream = NULL;
    return stream == NULL ? LQ_OK : lq_file_stream_close(stream, err);
}

enum lq_status lq_folder_sync(const char *path, struct lq_error *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool good = fd >= 0 && fsync(fd) == 0;
    enum lq_status status =
        good ? LQ_OK : lq_error_errno(err, LQ_EIO, "%s: cannot be written to the disk", path);
    if (fd >= 0) {
        (void)close(fd);
    }
    return status;
}

static void sync_parent(const char *path)
{
    struct lq_arena arena;
    lq_arena_init(&arena);
    char *dir = lq_path_dir(&arena, path);
    int fd = dir == NULL ? -1 : open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd);
        (void)close(fd);
    }
    lq_arena_fini(&arena);
}

enum lq_status lq_atomic_file_commit(struct lq_atomic_file *file, struct lq_file_sig *sig,
                                     struct lq_error *err)
{
    struct stat st;
    if (end_stream(file, err) != LQ_OK) {
        lq_atomic_file_abort(file);
        return LQ_EIO;
    }
    if (fsync(file->fd) != 0 || rename(file->temporary, file->path) != 0 ||
        fstat(file->fd, &st) != 0) {
        enum lq_status status = lq_error_errno(err, LQ_EIO, "%s: cannot write", file->path);
        lq_atomic_file_abort(file);
        return status;
    }
    sync_parent(file->path);
    if (sig != NULL) {
        fill_sig(&st, sig);
    }
    free_atomic(file);
    return LQ_OK;
}

void lq_atomic_file_abort(struct lq_atomic_file *file)
{
    if (file != NULL) {
        (void)end_stream(file, NULL);
        (void)unlink(file->temporary);
        free_atomic(file);
    }
}

enum lq_status lq_file_write(const char *path, const void *data, size_t size_bytes,
                             struct lq_error *err)
{
    struct lq_atomic_file *file = NULL;
    enum lq_status status = lq_atomic_file_begin(&file, path, err);
    if (status != LQ_OK) {
        return status;
    }
    status = lq_atomic_file_write(file, data, size_bytes, err);
    if (status != LQ_OK) {
        lq_atomic_file_abort(file);
        return status;
    }
    return lq_atomic_file_commit(file, NULL, err);
}

enum lq_status lq_make_dirs(const char *path, struct lq_error *err)
{
    if (path[0] == '\0' || lq_path_is_dir(path)) {
        return LQ_OK;
    }
    char *copy = strdup(path);
    if (copy == NULL) {
        return lq_error_nomem(err, path);
    }
    enum lq_status status = LQ_OK;
    for (char *slash = copy + 1; status == LQ_OK; slash++) {
        if (*slash == '/' || *slash == '\0') {
            char saved = *slash;
            *slash = '\0';
            if (mkdir(copy, 0777) != 0 && (errno != EEXIST || !lq_path_is_dir(copy))) {
                status = lq_error_errno(err, LQ_EIO, "%s: cannot create folder", copy);
            }
            *slash = saved;
            if (saved == '\0') {
                break;
            }
        }
    }
    free(copy);
    return status;
}

bool lq_path_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool lq_path_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

char *lq_path_join(struct lq_arena *arena, const char *base, const char *name)
{
    if (name[0] == '/' || base[0] == '\0' || strcmp(base, ".") == 0) {
        return lq_arena_dup_string(arena, name);
    }
    const char *separator = base[strlen(base) - 1] == '/' ? "" : "/";
    return lq_arena_printf(arena, "%s%s%s", base, separator, name);
}

char *lq_path_dir(struct lq_arena *arena, const char *path)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL) {
        return lq_arena_dup_string(arena, ".");
    }
    return lq_arena_dup(arena, path, slash == path ? 1 : (size_t)(slash - path));
}

const char *lq_path_base(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

const char *lq_path_extension(const char *path)
{
    const char *base = lq_path_base(path);
    const char *dot = strrchr(base, '.');
    return dot == NULL || dot == base ? "" : dot;
}

uint64_t lq_clock_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
