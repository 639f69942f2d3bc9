#include "engine/base/jobserver.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/limits.h"

struct lq_jobserver {
    int read_fd;
    int write_fd;
    pthread_mutex_t mutex;
    unsigned held;
    unsigned char tokens[LQ_THREADS_MAX];
};

/* A description of our own: the one that is inherited is shared with make and its other children,
 * which must go on blocking. */
static bool open_pair(struct lq_jobserver *jobserver, const char *read_path, const char *write_path)
{
    jobserver->read_fd = open(read_path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    jobserver->write_fd =
        jobserver->read_fd < 0 ? -1 : open(write_path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    return jobserver->write_fd >= 0;
}

static bool open_inherited(struct lq_jobserver *jobserver, int read_fd, int write_fd)
{
    /* make closes the descriptors of commands that it does not take for a make. */
    if (read_fd < 0 || write_fd < 0 || fcntl(read_fd, F_GETFD) < 0 ||
        fcntl(write_fd, F_GETFD) < 0) {
        return false;
    }
    char read_path[64];
    char write_path[64];
    (void)snprintf(read_path, sizeof read_path, "/proc/self/fd/%d", read_fd);
    (void)snprintf(write_path, sizeof write_path, "/proc/self/fd/%d", write_fd);
    return open_pair(jobserver, read_path, write_path);
}

/* The value of the last --jobserver-auth (or its name before make 4.2). */
static const char *find_auth(const char *makeflags)
{
    static const char *const names[] = {"--jobserver-auth=", "--jobserver-fds="};
    const char *found = NULL;
    for (size_t i = 0; found == NULL && i < sizeof names / sizeof names[0]; i++) {
        const char *at = makeflags;
        while ((at = strstr(at, names[i])) != NULL) {
            at += strlen(names[i]);
            found = at;
        }
    }
    return found;
}

static bool open_auth(struct lq_jobserver *jobserver, const char *auth)
{
    int read_fd = -1;
    int write_fd = -1;
    if (strncmp(auth, "fifo:", 5) == 0) {
        char path[PATH_MAX];
        size_t length = strcspn(auth + 5, " ");
        if (length == 0 || length >= sizeof path) {
            return false;
        }
        memcpy(path, auth + 5, length);
        path[length] = '\0';
        return open_pair(jobserver, path, path);
    }
    return sscanf(auth, "%9d,%9d", &read_fd, &write_fd) == 2 &&
           open_inherited(jobserver, read_fd, write_fd);
}

struct lq_jobserver *lq_jobserver_open(const char *makeflags)
{
    const char *auth = makeflags == NULL ? NULL : find_auth(makeflags);
    struct lq_jobserver *jobserver = auth == NULL ? NULL : calloc(1, sizeof *jobserver);
    if (jobserver == NULL) {
        return NULL;
    }
    jobserver->read_fd = -1;
    jobserver->write_fd = -1;
    (void)pthread_mutex_init(&jobserver->mutex, NULL);
    if (!open_auth(jobserver, auth)) {
        lq_jobserver_close(jobserver);
        return NULL;
    }
    return jobserver;
}

static bool take_now(struct lq_jobserver *jobserver)
{
    unsigned char token = 0;
    (void)pthread_mutex_lock(&jobserver->mutex);
    bool taken =
        jobserver->held < LQ_THREADS_MAX && read(jobserver->read_fd, &token, 1) == (ssize_t)1;
    if (taken) {
        jobserver->tokens[jobserver->held++] = token;
    }
    (void)pthread_mutex_unlock(&jobserver->mutex);
    return taken;
}

bool lq_jobserver_take(struct lq_jobserver *jobserver, int wait_ms)
{
    if (take_now(jobserver)) {
        return true;
    }
    struct pollfd ready = {.fd = jobserver->read_fd, .events = POLLIN};
    return wait_ms > 0 && poll(&ready, 1, wait_ms) > 0 && take_now(jobserver);
}

void lq_jobserver_give(struct lq_jobserver *jobserver)
{
    (void)pthread_mutex_lock(&jobserver->mutex);
    if (jobserver->held > 0) {
        unsigned char token = jobserver->tokens[--jobserver->held];
        while (write(jobserver->write_fd, &token, 1) < 0 && errno == EINTR) {
        }
    }
    (void)pthread_mutex_unlock(&jobserver->mutex);
}

void lq_jobserver_close(struct lq_jobserver *jobserver)
{
    if (jobserver == NULL) {
        return;
    }
    while (jobserver->held > 0) {
        lq_jobserver_give(jobserver);
    }
    if (jobserver->read_fd >= 0) {
        (void)close(jobserver->read_fd);
    }
    if (jobserver->write_fd >= 0) {
        (void)close(jobserver->write_fd);
    }
    (void)pthread_mutex_destroy(&jobserver->mutex);
    free(jobserver);
}
