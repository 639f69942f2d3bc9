/* A large file written from its first byte to its last while its writer goes on computing: a thread
 * of the stream takes full buffers to the disk. It goes past the system's file cache where the file
 * system allows (O_DIRECT): what was just made is not read again at once, and filling the cache
 * with it costs more than the disk does and drives out what is. Ownership: the descriptor is
 * borrowed until the stream is closed, and its position is not used. Thread rule: one writer at a
 * time. Limits: two buffers of LQ_FILE_STREAM_BYTES. */
#ifndef LQ_BASE_FILE_STREAM_H
#define LQ_BASE_FILE_STREAM_H

#include <stddef.h>

#include "engine/base/error.h"

enum { LQ_FILE_STREAM_BYTES = 4 * 1024 * 1024 };

struct lq_file_stream;

/* `fd` is an empty file open for writing; `path` is for messages and lives as long as the stream.
 * LQ_ENOMEM. */
enum lq_status lq_file_stream_open(struct lq_file_stream **out, int fd, const char *path,
                                   struct lq_error *err);
/* Copies the bytes, and waits while both buffers are on their way. LQ_EIO: an earlier one could not
 * be written. */
enum lq_status lq_file_stream_write(struct lq_file_stream *stream, const void *data,
                                    size_t size_bytes, struct lq_error *err);
/* Waits until the file has every byte, and frees the stream whether it succeeds or not. LQ_EIO. */
enum lq_status lq_file_stream_close(struct lq_file_stream *stream, struct lq_error *err);

#endif
