/* Files that a thread writes: every length arrives whole, on a disk and in memory, and an error is
 * told to the writer. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/compiler.h"
#include "engine/base/file_stream.h"
#include "engine/base/fs.h"

static struct lq_error err;

static int open_file(const char *folder, char *path, size_t path_bytes)
{
    snprintf(path, path_bytes, "%s/lqbuild-stream-XXXXXX", folder);
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0, "%s", path);
    return fd;
}

static unsigned char byte_at(size_t i)
{
    return (unsigned char)(i * 2654435761u >> 13);
}

/* Writes in pieces of all lengths from 1 on, and of more than both buffers. */
static enum lq_status write_bytes(struct lq_file_stream *stream, const unsigned char *bytes,
                                  size_t size)
{
    enum lq_status status = LQ_OK;
    size_t piece = 1;
    for (size_t at = 0; at < size && status == LQ_OK;) {
        size_t step = size - at < piece ? size - at : piece;
        status = lq_file_stream_write(stream, bytes + at, step, &err);
        at += step;
        piece = piece * 3 + 1;
    }
    return status;
}

static void check_size(const char *folder, const unsigned char *bytes, size_t size)
{
    char path[128];
    struct lq_file_stream *stream = NULL;
    int fd = open_file(folder, path, sizeof path);
    int flags = fcntl(fd, F_GETFL);
    cr_assert_eq(lq_file_stream_open(&stream, fd, path, &err), LQ_OK);
    cr_assert_eq(write_bytes(stream, bytes, size), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_file_stream_close(stream, &err), LQ_OK, "%s", err.message);
    cr_expect_eq(fcntl(fd, F_GETFL), flags, "the descriptor is not as it was");
    struct lq_map map;
    cr_assert_eq(lq_map_open(&map, path, LQ_EIO, &err), LQ_OK);
    cr_assert_eq(map.size_bytes, size, "%s: %lu bytes instead of %zu", folder, map.size_bytes,
                 size);
    cr_assert(size == 0 || memcmp(map.data, bytes, size) == 0, "%s, %zu bytes", folder, size);
    lq_map_close(&map);
    close(fd);
    unlink(path);
}

Test(file_stream, every_length_arrives, .timeout = 60)
{
    enum { BUFFER = LQ_FILE_STREAM_BYTES, LARGEST = 5 * BUFFER + 77 };
    static const size_t sizes[] = {0,          1,          4095,           4096,
                                   4097,       BUFFER - 1, BUFFER,         BUFFER + 1,
                                   2 * BUFFER, 3 * BUFFER, 3 * BUFFER + 5, LARGEST};
    unsigned char *bytes = malloc(LARGEST);
    cr_assert_not_null(bytes);
    for (size_t i = 0; i < LARGEST; i++) {
        bytes[i] = byte_at(i);
    }
    for (size_t i = 0; i < LQ_COUNT_OF(sizes); i++) {
        check_size("/tmp", bytes, sizes[i]);
        if (access("/dev/shm", W_OK) == 0) {
            check_size("/dev/shm", bytes, sizes[i]);
        }
    }
    free(bytes);
}

Test(file_stream, what_can_not_be_written_is_an_error_at_the_end_at_the_latest, .timeout = 60)
{
    enum { LIMIT = 6 * 1000 * 1000 };
    static const size_t sizes[] = {LIMIT + 1, 5 * LIMIT};
    const struct rlimit limit = {LIMIT, LIMIT};
    unsigned char *bytes = calloc(1, 5 * LIMIT);
    cr_assert_not_null(bytes);
    (void)signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    for (size_t i = 0; i < LQ_COUNT_OF(sizes); i++) {
        char path[128];
        struct lq_file_stream *stream = NULL;
        int fd = open_file("/tmp", path, sizeof path);
        cr_assert_eq(lq_file_stream_open(&stream, fd, path, &err), LQ_OK);
        lq_error_clear(&err);
        enum lq_status written = write_bytes(stream, bytes, sizes[i]);
        enum lq_status closed = lq_file_stream_close(stream, &err);
        cr_expect_eq(closed, LQ_EIO);
        cr_expect(written == LQ_OK || written == LQ_EIO);
        cr_expect_not_null(strstr(err.message, path), "%s", err.message);
        close(fd);
        unlink(path);
    }
    free(bytes);
}

Test(file_stream, an_atomic_file_that_streams_is_whole_or_not_there, .timeout = 60)
{
    enum { SIZE = 9 * 1000 * 1000 };
    char folder[] = "/tmp/lqbuild-stream-XXXXXX";
    char path[128];
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/sub/file", folder);
    unsigned char *bytes = malloc(SIZE);
    for (size_t i = 0; i < SIZE; i++) {
        bytes[i] = byte_at(i);
    }
    struct lq_atomic_file *file = NULL;
    struct lq_file_sig sig;
    cr_assert_eq(lq_atomic_file_begin(&file, path, &err), LQ_OK);
    cr_assert_eq(lq_atomic_file_stream(file, &err), LQ_OK);
    cr_assert_eq(lq_atomic_file_write(file, bytes, SIZE, &err), LQ_OK);
    lq_atomic_file_abort(file);
    cr_expect_neq(access(path, F_OK), 0);
    cr_assert_eq(lq_atomic_file_begin(&file, path, &err), LQ_OK);
    cr_assert_eq(lq_atomic_file_stream(file, &err), LQ_OK);
    cr_assert_eq(lq_atomic_file_write(file, bytes, SIZE / 2, &err), LQ_OK);
    cr_assert_eq(lq_atomic_file_write(file, bytes + SIZE / 2, SIZE - SIZE / 2, &err), LQ_OK);
    cr_assert_eq(lq_atomic_file_commit(file, &sig, &err), LQ_OK, "%s", err.message);
    cr_expect_eq(sig.size_bytes, SIZE);
    struct lq_map map;
    cr_assert_eq(lq_map_open(&map, path, LQ_EIO, &err), LQ_OK);
    cr_assert_eq(map.size_bytes, SIZE);
    cr_expect_eq(memcmp(map.data, bytes, SIZE), 0);
    lq_map_close(&map);
    char command[160];
    snprintf(command, sizeof command, "test \"$(ls %s/sub)\" = file && rm -r %s", folder, folder);
    cr_expect_eq(system(command), 0, "something is left beside the file");
    free(bytes);
}
