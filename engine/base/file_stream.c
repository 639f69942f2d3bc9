#define _GNU_SOURCE
#include "engine/base/file_stream.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/thread.h"

/* Direct writes want memory, offset and size in whole blocks of the disk; pages are always that. */
enum { ALIGN_BYTES = 4096, BUFFERS = 2 };

struct buffer {
    unsigned char *bytes;
    size_t size_bytes;
    bool full; /* belongs to the thread */
};

struct lq_file_stream {
    int fd;
    const char *path;
    uint64_t offset; /* of the next buffer that is written; the thread's */
    struct buffer buffers[BUFFERS];
    size_t filling; /* the buffer that takes bytes */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    pthread_t thread;
    bool has_thread;
    bool closing;
    enum lq_status status;
    struct lq_error err;
};

static void set_direct(int fd, bool direct)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags >= 0) {
        /* Where it is refused the file system has no such thing. */
        (void)fcntl(fd, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT);
    }
}

/* The last bytes of a file are not a whole block, and some file systems want larger ones: then the
 * rest goes the usual way. */
static enum lq_status write_buffer(struct lq_file_stream *stream, const struct buffer *buffer,
                                   struct lq_error *err)
{
    size_t done = 0;
    if (buffer->size_bytes % ALIGN_BYTES != 0) {
        set_direct(stream->fd, false);
    }
    while (done < buffer->size_bytes) {
        ssize_t wrote = pwrite(stream->fd, buffer->bytes + done, buffer->size_bytes - done,
                               (off_t)(stream->offset + done));
        if (wrote < 0 && errno == EINVAL && (fcntl(stream->fd, F_GETFL) & O_DIRECT) != 0) {
            set_direct(stream->fd, false);
        } else if (wrote < 0 && errno != EINTR) {
            return lq_error_errno(err, LQ_EIO, "%s: cannot write", stream->path);
        } else if (wrote > 0) {
            done += (size_t)wrote;
        }
    }
    /* What went into the file cache begins its way to the disk; otherwise there is nothing to do.
     */
    (void)sync_file_range(stream->fd, (off_t)stream->offset, (off_t)done, SYNC_FILE_RANGE_WRITE);
    stream->offset += done;
    return LQ_OK;
}

/* Called and returns with the mutex held. */
static void take_to_disk(struct lq_file_stream *stream, struct buffer *buffer)
{
    struct lq_error err = {0};
    enum lq_status status = stream->status;
    (void)pthread_mutex_unlock(&stream->mutex);
    if (status == LQ_OK) {
        status = write_buffer(stream, buffer, &err);
    }
    (void)pthread_mutex_lock(&stream->mutex);
    if (status != LQ_OK && stream->status == LQ_OK) {
        stream->status = status;
        stream->err = err;
    }
    buffer->size_bytes = 0;
    buffer->full = false;
    (void)pthread_cond_broadcast(&stream->changed);
}

static void *run_thread(void *user)
{
    struct lq_file_stream *stream = user;
    (void)pthread_mutex_lock(&stream->mutex);
    for (size_t next = 0;; next = (next + 1) % BUFFERS) {
        while (!stream->buffers[next].full && !stream->closing) {
            (void)pthread_cond_wait(&stream->changed, &stream->mutex);
        }
        if (!stream->buffers[next].full) {
            break;
        }
        take_to_disk(stream, &stream->buffers[next]);
    }
    (void)pthread_mutex_unlock(&stream->mutex);
    return NULL;
}

static void free_stream(struct lq_file_stream *stream)
{
    (void)pthread_mutex_destroy(&stream->mutex);
    (void)pthread_cond_destroy(&stream->changed);
    for (size_t i = 0; i < BUFFERS; i++) {
        free(stream->buffers[i].bytes);
    }
    free(stream);
}

enum lq_status lq_file_stream_open(struct lq_file_stream **out, int fd, const char *path,
                                   struct lq_error *err)
{
    *out = NULL;
    struct lq_file_stream *stream = calloc(1, sizeof *stream);
    if (stream == NULL) {
        return lq_error_nomem(err, path);
    }
    (void)pthread_mutex_init(&stream->mutex, NULL);
    (void)pthread_cond_init(&stream->changed, NULL);
    stream->fd = fd;
    stream->path = path;
    for (size_t i = 0; i < BUFFERS; i++) {
        stream->buffers[i].bytes = aligned_alloc(ALIGN_BYTES, LQ_FILE_STREAM_BYTES);
        if (stream->buffers[i].bytes == NULL) {
            free_stream(stream);
            return lq_error_nomem(err, path);
        }
    }
    set_direct(fd, true);
    /* Without it its work is done by the writer. */
    stream->has_thread = lq_thread_start(&stream->thread, run_thread, stream);
    *out = stream;
    return LQ_OK;
}

/* The buffer that is being filled goes to the thread. The mutex is held. */
static void send_buffer(struct lq_file_stream *stream)
{
    struct buffer *buffer = &stream->buffers[stream->filling];
    buffer->full = true;
    stream->filling = (stream->filling + 1) % BUFFERS;
    (void)pthread_cond_broadcast(&stream->changed);
    if (!stream->has_thread) {
        take_to_disk(stream, buffer);
    }
}

/* The next buffer that takes bytes, NULL after an error. */
static struct buffer *wait_for_room(struct lq_file_stream *stream, struct lq_error *err)
{
    (void)pthread_mutex_lock(&stream->mutex);
    if (stream->buffers[stream->filling].size_bytes == LQ_FILE_STREAM_BYTES) {
        send_buffer(stream);
    }
    struct buffer *buffer = &stream->buffers[stream->filling];
    while (buffer->full) {
        (void)pthread_cond_wait(&stream->changed, &stream->mutex);
    }
    if (stream->status != LQ_OK) {
        buffer = NULL;
        if (err != NULL) {
            *err = stream->err;
        }
    }
    (void)pthread_mutex_unlock(&stream->mutex);
    return buffer;
}

enum lq_status lq_file_stream_write(struct lq_file_stream *stream, const void *data,
                                    size_t size_bytes, struct lq_error *err)
{
    const unsigned char *bytes = data;
    while (size_bytes > 0) {
        struct buffer *buffer = &stream->buffers[stream->filling];
        if (buffer->size_bytes == LQ_FILE_STREAM_BYTES || buffer->size_bytes == 0) {
            buffer = wait_for_room(stream, err);
        }
        if (buffer == NULL) {
            return LQ_EIO;
        }
        size_t room = LQ_FILE_STREAM_BYTES - buffer->size_bytes;
        size_t step = size_bytes < room ? size_bytes : room;
        memcpy(buffer->bytes + buffer->size_bytes, bytes, step);
        buffer->size_bytes += step;
        bytes += step;
        size_bytes -= step;
    }
    return LQ_OK;
}

enum lq_status lq_file_stream_close(struct lq_file_stream *stream, struct lq_error *err)
{
    (void)pthread_mutex_lock(&stream->mutex);
    struct buffer *last = &stream->buffers[stream->filling];
    if (!last->full && last->size_bytes > 0) {
        send_buffer(stream);
    }
    stream->closing = true;
    (void)pthread_cond_broadcast(&stream->changed);
    (void)pthread_mutex_unlock(&stream->mutex);
    if (stream->has_thread) {
        (void)pthread_join(stream->thread, NULL);
    }
    set_direct(stream->fd, false);
    enum lq_status status = stream->status;
    if (status != LQ_OK && err != NULL) {
        *err = stream->err;
    }
    free_stream(stream);
    return status;
}
