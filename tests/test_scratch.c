/* Folders for one job, and what becomes of those whose maker was killed. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/fs.h"
#include "engine/base/scratch.h"

static char base[] = "/tmp/lqscratch.XXXXXX";

static const char *in_base(const char *name)
{
    static char paths[4][256];
    static unsigned next;
    char *path = paths[next++ % 4];
    (void)snprintf(path, sizeof paths[0], "%s/%s", base, name);
    return path;
}

static void make_old(const char *name)
{
    const struct timespec times[2] = {{.tv_sec = time(NULL) - 3600}, {.tv_sec = time(NULL) - 3600}};
    cr_assert_eq(utimensat(AT_FDCWD, in_base(name), times, 0), 0);
}

static void make_folder(const char *name)
{
    char file[300];
    cr_assert_eq(mkdir(in_base(name), 0700), 0);
    (void)snprintf(file, sizeof file, "%s/sub", in_base(name));
    cr_assert_eq(mkdir(file, 0700), 0);
    strcat(file, "/file");
    cr_assert_eq(lq_file_write(file, "x", 1, NULL), LQ_OK);
}

Test(scratch, removes_what_the_dead_left_and_nothing_else)
{
    struct lq_error err = {0};
    struct lq_scratch scratch;
    cr_assert_not_null(mkdtemp(base));
    cr_assert_eq(setenv("TMPDIR", base, 1), 0);
    static const char *const names[] = {"lqbuild-command-dead", "lqbuild-command-live",
                                        "lqbuild-command-young", "other"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        make_folder(names[i]);
        if (strstr(names[i], "young") == NULL) {
            make_old(names[i]);
        }
    }
    cr_assert_eq(symlink(in_base("other"), in_base("lqbuild-command-link")), 0);
    int live = open(in_base("lqbuild-command-live"), O_RDONLY | O_DIRECTORY);
    cr_assert_eq(flock(live, LOCK_EX), 0);

    cr_assert_eq(lq_scratch_make(&scratch, &err), LQ_OK, "%s", err.message);
    cr_expect_not(lq_path_exists(in_base("lqbuild-command-dead")));
    cr_expect(lq_path_exists(in_base("lqbuild-command-live/sub/file")));
    cr_expect(lq_path_exists(in_base("lqbuild-command-young/sub/file")));
    cr_expect(lq_path_exists(in_base("lqbuild-command-link/sub/file")));
    cr_expect(lq_path_exists(in_base("other/sub/file")));
    cr_expect(lq_path_is_dir(scratch.path));
    cr_expect_eq(strncmp(scratch.path, base, strlen(base)), 0);
    /* Another process would leave it alone however old it is. */
    int again = open(scratch.path, O_RDONLY | O_DIRECTORY);
    cr_expect_neq(flock(again, LOCK_EX | LOCK_NB), 0);
    (void)close(again);
    lq_scratch_remove(&scratch);
    cr_expect_not(lq_path_exists(scratch.path));

    cr_assert_eq(setenv("TMPDIR", in_base("missing"), 1), 0);
    cr_expect_eq(lq_scratch_make(&scratch, &err), LQ_EIO);
    cr_expect(strstr(err.message, "missing") != NULL, "%s", err.message);
    (void)close(live);
    char command[300];
    (void)snprintf(command, sizeof command, "rm -rf '%s'", base);
    cr_expect_eq(system(command), 0);
}
