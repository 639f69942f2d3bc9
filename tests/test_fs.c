/* Atomic files: what may be replaced, what a killed process leaves, and who may read the result. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/buffer.h"
#include "engine/base/fs.h"

static char folder[64];
static struct lq_error err;

static void init(void)
{
    strcpy(folder, "/tmp/lqbuild-fs-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    cr_assert_eq(chdir(folder), 0);
}

static void fini(void)
{
    char command[96];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    cr_assert_eq(chdir("/"), 0);
    cr_assert_eq(system(command), 0);
}

TestSuite(fs, .init = init, .fini = fini, .timeout = 60);

Test(fs, only_regular_files_are_replaced)
{
    struct stat st;
    cr_assert_eq(mkfifo("pipe", 0600), 0);
    cr_assert_eq(mkdir("folder", 0700), 0);
    cr_assert_eq(symlink("/dev/null", "null"), 0);
    cr_expect_eq(lq_file_write("pipe", "x", 1, &err), LQ_EIO);
    cr_expect_not_null(strstr(err.message, "pipe: is a device or pipe"), "%s", err.message);
    cr_expect_eq(lq_file_write("folder", "x", 1, &err), LQ_EIO);
    cr_expect_not_null(strstr(err.message, "is a folder"), "%s", err.message);
    cr_expect_eq(lq_file_write("null", "x", 1, &err), LQ_EIO);
    cr_assert_eq(lstat("pipe", &st), 0);
    cr_expect(S_ISFIFO(st.st_mode));
    cr_expect_eq(system("test -z \"$(ls | grep lqtmp)\""), 0);
}

Test(fs, a_pipe_is_no_file_to_map_and_is_not_waited_for)
{
    struct lq_map map;
    cr_assert_eq(mkfifo("pipe", 0600), 0);
    cr_expect_eq(lq_map_open(&map, "pipe", LQ_EIO, &err), LQ_EIO);
    cr_expect_not_null(strstr(err.message, "regular file"), "%s", err.message);
}

Test(fs, leftovers_of_killed_processes_go_and_those_in_use_stay)
{
    cr_assert_eq(lq_file_write("a.lqtmp.00000001", "dead", 4, &err), LQ_OK);
    cr_assert_eq(lq_file_write("a.lqtmp.00000002", "alive", 5, &err), LQ_OK);
    cr_assert_eq(lq_file_write("b.lqtmp.00000003", "of another", 10, &err), LQ_OK);
    cr_assert_eq(lq_file_write("a.lqtmp.notes", "of a person", 11, &err), LQ_OK);
    int fd = open("a.lqtmp.00000002", O_RDONLY);
    cr_assert_geq(fd, 0);
    cr_assert_eq(flock(fd, LOCK_EX), 0);
    cr_assert_eq(lq_file_write("a", "new", 3, &err), LQ_OK, "%s", err.message);
    cr_expect_not(lq_path_exists("a.lqtmp.00000001"));
    cr_expect(lq_path_exists("a.lqtmp.00000002"));
    cr_expect(lq_path_exists("b.lqtmp.00000003"));
    cr_expect(lq_path_exists("a.lqtmp.notes"));
    close(fd);
    /* Many at once leave many. */
    for (int i = 1; i <= 40; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "c.lqtmp.%08d", i);
        cr_assert_eq(lq_file_write(name, "dead", 4, &err), LQ_OK);
    }
    cr_assert_eq(lq_file_write("c", "new", 3, &err), LQ_OK, "%s", err.message);
    cr_expect_eq(system("test -z \"$(ls | grep '^c.lqtmp')\""), 0);
}

Test(fs, a_name_may_be_as_long_as_the_file_system_allows)
{
    char name[300];
    memset(name, 'n', sizeof name);
    memcpy(name, "sub/", 4);
    name[4 + 255] = '\0';
    cr_expect_eq(lq_file_write(name, "x", 1, &err), LQ_OK, "%s", err.message);
    cr_expect(lq_path_exists(name));
    cr_expect_eq(system("test $(ls sub | wc -l) = 1"), 0);
    memset(name, 'n', sizeof name);
    name[256] = '\0';
    cr_expect_eq(lq_file_write(name, "x", 1, &err), LQ_EIO);
}

static void *write_many(void *user)
{
    for (int i = 0; i < 200; i++) {
        char name[32];
        struct lq_error own;
        snprintf(name, sizeof name, "%s%d", (const char *)user, i);
        cr_assert_eq(lq_file_write(name, "x", 1, &own), LQ_OK, "%s", own.message);
    }
    return NULL;
}

Test(fs, the_umask_holds_for_files_written_at_the_same_time)
{
    pthread_t threads[4];
    static char names[4][2] = {"a", "b", "c", "d"};
    (void)umask(027);
    for (size_t i = 0; i < 4; i++) {
        cr_assert_eq(pthread_create(&threads[i], NULL, write_many, names[i]), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
    }
    cr_expect_eq(umask(027), 027);
    cr_expect_eq(system("test -z \"$(find . -type f -not -perm 640)\""), 0);
}

/* KiB of file pages that this process has mapped and touched. */
static long resident_file_kib(void)
{
    char line[128];
    long kib = -1;
    FILE *status = fopen("/proc/self/status", "r");
    cr_assert_not_null(status);
    while (fgets(line, sizeof line, status) != NULL) {
        (void)sscanf(line, "RssFile: %ld kB", &kib);
    }
    fclose(status);
    return kib;
}

static unsigned long sum_of(const struct lq_map *map)
{
    unsigned long sum = 0;
    for (uint64_t i = 0; i < map->size_bytes; i++) {
        sum = sum * 31 + map->data[i];
    }
    return sum;
}

Test(fs, a_released_part_of_a_map_leaves_memory_and_reads_the_same_again)
{
    enum { SIZE_BYTES = 8 << 20 };
    struct lq_map map;
    unsigned char *bytes = malloc(SIZE_BYTES);
    for (size_t i = 0; i < SIZE_BYTES; i++) {
        bytes[i] = (unsigned char)(i * 7 >> 3);
    }
    cr_assert_eq(lq_file_write("big", bytes, SIZE_BYTES, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_map_open(&map, "big", LQ_EIO, &err), LQ_OK, "%s", err.message);
    unsigned long sum = sum_of(&map);
    long before = resident_file_kib();
    lq_map_release(&map, 1000, SIZE_BYTES - 2000);
    cr_expect_lt(resident_file_kib(), before - 7 * 1024);
    cr_expect_eq(sum_of(&map), sum);
    /* Outside the file: nothing happens. */
    lq_map_release(&map, SIZE_BYTES - 10, UINT64_MAX);
    lq_map_release(&map, UINT64_MAX, 4096);
    lq_map_close(&map);
    /* A copy in memory is kept: letting go of its pages would lose it. */
    struct lq_map copy = {.data = bytes, .size_bytes = SIZE_BYTES};
    lq_map_release(&copy, 0, SIZE_BYTES);
    cr_expect_eq(sum_of(&copy), sum);
    free(bytes);
}
