#include "cache/placed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/fs.h"
#include "engine/base/limits.h"

struct lq_placed {
    int fd;
    struct lq_file_sig sig;
    char path[LQ_BLOB_PATH_BYTES_MAX + 1];
};

static void copy_path(const struct lq_blob_record *record, char path[LQ_BLOB_PATH_BYTES_MAX + 1])
{
    memcpy(path, record->path, record->path_bytes);
    path[record->path_bytes] = '\0';
}

static bool has_sig(const char *path, const struct lq_file_sig *sig)
{
    struct lq_file_sig now;
    bool exists = false;
    return lq_file_sig_get(path, &now, &exists, NULL) == LQ_OK && exists &&
           lq_file_sig_equal(&now, sig);
}

bool lq_placed_is_there(const struct lq_blob_record *record)
{
    char path[LQ_BLOB_PATH_BYTES_MAX + 1];
    copy_path(record, path);
    return has_sig(path, &record->sig);
}

/* The open file, too: another one may have come to the path in between. */
static bool is_unchanged(const struct lq_placed *placed)
{
    struct lq_file_sig now;
    return lq_file_sig_of(placed->fd, &now) && lq_file_sig_equal(&now, &placed->sig);
}

enum lq_status lq_placed_open(const struct lq_blob_record *record, struct lq_placed **out,
                              struct lq_error *err)
{
    *out = NULL;
    struct lq_placed *placed = calloc(1, sizeof *placed);
    if (placed == NULL) {
        return lq_error_nomem(err, "a blob reader");
    }
    copy_path(record, placed->path);
    placed->sig = record->sig;
    placed->fd = -1;
    /* A device does something when it is opened, and a pipe waits. */
    if (has_sig(placed->path, &placed->sig)) {
        placed->fd = open(placed->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    }
    if (placed->fd < 0 || !is_unchanged(placed)) {
        lq_placed_close(placed);
        return LQ_OK;
    }
    *out = placed;
    return LQ_OK;
}

bool lq_placed_is_of(const struct lq_placed *placed, const struct lq_blob_record *record)
{
    return record->kind == LQ_BLOB_PLACED && lq_file_sig_equal(&placed->sig, &record->sig) &&
           strlen(placed->path) == record->path_bytes &&
           memcmp(placed->path, record->path, record->path_bytes) == 0;
}

enum lq_status lq_placed_read(const struct lq_placed *placed, uint64_t offset, void *out,
                              size_t size_bytes, struct lq_error *err)
{
    unsigned char *bytes = out;
    size_t done = 0;
    while (done < size_bytes) {
        ssize_t got = pread(placed->fd, bytes + done, size_bytes - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return lq_error_errno(err, LQ_ECACHE, "%s: cannot read", placed->path);
        }
        if (got == 0) {
            break; /* it was cut */
        }
        done += (size_t)got;
    }
    return done == size_bytes && is_unchanged(placed)
               ? LQ_OK
               : lq_error_set(err, LQ_ECACHE, "%s: changed while it was read; build again",
                              placed->path);
}

void lq_placed_close(struct lq_placed *placed)
{
    if (placed != NULL) {
        if (placed->fd >= 0) {
            (void)close(placed->fd);
        }
        free(placed);
    }
}
