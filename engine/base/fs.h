/* The file system: read-only maps, atomic replacement, file signatures, paths. Messages always name
 * the path. Thread rule: functions are thread-safe; a map or an atomic file belongs to its owner. A
 * file that is truncated by somebody else while mapped raises SIGBUS: sources are re-checked with
 * lq_file_sig after use, and lqbuild never truncates what it has mapped. */
#ifndef LQ_BASE_FS_H
#define LQ_BASE_FS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/buffer.h"
#include "engine/base/error.h"

/* What tells an unchanged file from a changed one without reading it. */
struct lq_file_sig {
    uint64_t device;
    uint64_t inode;
    uint64_t size_bytes;
    int64_t mtime_ns;
    int64_t ctime_ns;
};

bool lq_file_sig_equal(const struct lq_file_sig *a, const struct lq_file_sig *b);
/* stat(). *exists false for a missing file (then LQ_OK). Anything but a regular file: LQ_EIO. */
enum lq_status lq_file_sig_get(const char *path, struct lq_file_sig *sig, bool *exists,
                               struct lq_error *err);
/* fstat() of an open file; false for anything but a regular file. */
bool lq_file_sig_of(int fd, struct lq_file_sig *sig);
/* True when the file's time stamps are so fresh that a later write could leave them unchanged. */
bool lq_file_sig_is_fresh(const struct lq_file_sig *sig);

/* A whole file mapped read-only. An empty file gives data "" and size 0. */
struct lq_map {
    const unsigned char *data;
    uint64_t size_bytes;
    bool is_file; /* false for a copy in memory that stands for a map */
};
/* Errors: `missing_status` when the file does not exist, LQ_EIO for the rest. */
enum lq_status lq_map_open(struct lq_map *map, const char *path, enum lq_status missing_status,
                           struct lq_error *err);
void lq_map_close(struct lq_map *map);
/* Takes a part of the map out of this process's memory; it comes back when it is read again. A part
 * that does not lie in a mapped file stays as it is. */
void lq_map_release(const struct lq_map *map, uint64_t offset, uint64_t size_bytes);
/* The same for the whole pages within some bytes of any map of a file that is only read. */
void lq_pages_release(const void *data, size_t size_bytes);
/* Advice: a part of the map will be read soon, so its pages are fetched in the background; of a
 * large part the first ones alone, as many as the system reads ahead at a time. May wait for the
 * disk. */
void lq_map_expect(const struct lq_map *map, uint64_t offset, uint64_t size_bytes);

/* Reads a whole file of at most `size_max` bytes into the buffer. */
enum lq_status lq_file_read(const char *path, uint64_t size_max, struct lq_buffer *out,
                            struct lq_error *err);

/* Atomic replacement: bytes go to a temporary file in the same folder; commit does fsync, rename
 * and fsync of the folder; abort removes it. Missing parent folders are made. A crash leaves either
 * the old file or the new one, and at most a stale ".lqtmp" file, which the next write to the same
 * path removes. What stands at the path and is no regular file is refused. */
struct lq_atomic_file;
enum lq_status lq_atomic_file_begin(struct lq_atomic_file **out, const char *path,
                                    struct lq_error *err);
enum lq_status lq_atomic_file_write(struct lq_atomic_file *file, const void *data,
                                    size_t size_bytes, struct lq_error *err);
/* Before anything is written: the file is large, so its bytes go to the disk while the caller goes
 * on (file_stream.h). */
enum lq_status lq_atomic_file_stream(struct lq_atomic_file *file, struct lq_error *err);
/* The signature of what is written so far; false when it cannot be had. */
bool lq_atomic_file_sig(const struct lq_atomic_file *file, struct lq_file_sig *sig);
/* Frees `file` whether it succeeds or not. `sig` may be NULL. */
enum lq_status lq_atomic_file_commit(struct lq_atomic_file *file, struct lq_file_sig *sig,
                                     struct lq_error *err);
void lq_atomic_file_abort(struct lq_atomic_file *file);
/* All of the above for bytes in memory. */
enum lq_status lq_file_write(const char *path, const void *data, size_t size_bytes,
                             struct lq_error *err);

/* Names that were made, changed or removed in a folder are on the disk when it returns. LQ_EIO. */
enum lq_status lq_folder_sync(const char *path, struct lq_error *err);
/* mkdir -p. */
enum lq_status lq_make_dirs(const char *path, struct lq_error *err);
bool lq_path_is_dir(const char *path);
bool lq_path_exists(const char *path);
/* "base/name", or name alone when it is absolute or base is "" or ".". */
char *lq_path_join(struct lq_arena *arena, const char *base, const char *name);
/* The folder part ("." when there is none) and the last part of a path. */
char *lq_path_dir(struct lq_arena *arena, const char *path);
const char *lq_path_base(const char *path);
/* The extension with its dot, lower-case or not as it stands; "" when there is none. */
const char *lq_path_extension(const char *path);

/* Monotonic nanoseconds, for durations only. */
uint64_t lq_clock_ns(void);

#endif
