#define _GNU_SOURCE
#include "engine/base/scratch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/fs.h"

enum {
    OPEN_FOLDERS_MAX = 16,
    YOUNG_SECONDS = 60,
};
static const char prefix[] = "lqbuild-command-";

/* ---- removing ---- */

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *where)
{
    (void)st;
    (void)type;
    (void)where;
    (void)remove(path);
    return 0;
}

/* What can not be removed by walking, such as paths longer than PATH_MAX, is left to a program that
 * is everywhere. */
static void remove_tree(const char *path)
{
    if (nftw(path, remove_entry, OPEN_FOLDERS_MAX, FTW_DEPTH | FTW_PHYS) == 0 &&
        !lq_path_exists(path)) {
        return;
    }
    static char rm[] = "rm";
    static char option[] = "-rf";
    static char end[] = "--";
    char copy[sizeof((struct lq_scratch *)NULL)->path];
    (void)snprintf(copy, sizeof copy, "%s", path);
    char *argv[] = {rm, option, end, copy, NULL};
    char *no_environment[] = {NULL};
    pid_t pid = 0;
    if (posix_spawn(&pid, "/bin/rm", NULL, NULL, argv, no_environment) == 0) {
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
        }
    }
}

/* ---- what killed processes left ---- */

static bool is_left(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && st.st_uid == geteuid() &&
           st.st_mtime < time(NULL) - YOUNG_SECONDS && flock(fd, LOCK_EX | LOCK_NB) == 0;
}

static void sweep(const char *folder)
{
    DIR *dir = opendir(folder);
    struct dirent *entry = NULL;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        char path[sizeof((struct lq_scratch *)NULL)->path];
        if (strncmp(entry->d_name, prefix, sizeof prefix - 1) != 0 ||
            snprintf(path, sizeof path, "%s/%s", folder, entry->d_name) >= (int)sizeof path) {
            continue;
        }
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd >= 0 && is_left(fd)) {
            remove_tree(path);
        }
        if (fd >= 0) {
            (void)close(fd);
        }
    }
    if (dir != NULL) {
        (void)closedir(dir);
    }
}

static const char *base_folder(void)
{
    const char *folder = getenv("TMPDIR");
    return folder == NULL || folder[0] == '\0' ? "/tmp" : folder;
}

static void sweep_once(void)
{
    sweep(base_folder());
}

/* ---- making ---- */

enum lq_status lq_scratch_make(struct lq_scratch *scratch, struct lq_error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, sweep_once);
    int length =
        snprintf(scratch->path, sizeof scratch->path, "%s/%sXXXXXX", base_folder(), prefix);
    errno = length < (int)sizeof scratch->path ? 0 : ENAMETOOLONG;
    if (errno != 0 || mkdtemp(scratch->path) == NULL) {
        return lq_error_errno(err, LQ_EIO, "%s: cannot create", scratch->path);
    }
    scratch->lock_fd = open(scratch->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (scratch->lock_fd >= 0) {
        (void)flock(scratch->lock_fd, LOCK_EX | LOCK_NB);
    }
    return LQ_OK;
}

void lq_scratch_remove(struct lq_scratch *scratch)
{
    remove_tree(scratch->path);
    if (scratch->lock_fd >= 0) {
        (void)close(scratch->lock_fd);
        scratch->lock_fd = -1;
    }
}
