/* Parts of files that are read ahead: the whole of a large one comes into the page cache, and what
 * is left is given up at once. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/fs.h"
#include "engine/read_ahead.h"

enum { SIZE_BYTES = 48 << 20 };

static char folder[64];
static struct lq_map map;
static struct lq_error err;

static size_t pages_in_cache(void)
{
    size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    size_t count = SIZE_BYTES / page_bytes;
    unsigned char *there = malloc(count);
    size_t sum = 0;
    cr_assert_eq(mincore((void *)(uintptr_t)map.data, SIZE_BYTES, there), 0);
    for (size_t i = 0; i < count; i++) {
        sum += there[i] & 1;
    }
    free(there);
    return sum;
}

static void drop_pages(void)
{
    int fd = open("big", O_RDONLY);
    cr_assert_geq(fd, 0);
    cr_assert_eq(fsync(fd), 0);
    cr_assert_eq(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    (void)close(fd);
    if (pages_in_cache() != 0) {
        cr_skip_test("this file system keeps its pages");
    }
}

static void init(void)
{
    unsigned char *bytes = calloc(1, SIZE_BYTES);
    strcpy(folder, "/tmp/lqbuild-ahead-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    cr_assert_eq(chdir(folder), 0);
    memset(bytes, 7, SIZE_BYTES);
    cr_assert_eq(lq_file_write("big", bytes, SIZE_BYTES, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_map_open(&map, "big", LQ_EIO, &err), LQ_OK, "%s", err.message);
    free(bytes);
}

static void fini(void)
{
    char command[96];
    lq_map_close(&map);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    cr_assert_eq(chdir("/"), 0);
    cr_assert_eq(system(command), 0);
}

TestSuite(read_ahead, .init = init, .fini = fini, .timeout = 60);

Test(read_ahead, every_page_of_a_large_part_is_fetched)
{
    const struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};
    const uint64_t part_bytes = SIZE_BYTES / 2;
    size_t pages = SIZE_BYTES / (size_t)sysconf(_SC_PAGESIZE);
    struct lq_read_ahead ahead;
    drop_pages();
    lq_read_ahead_init(&ahead);
    lq_read_ahead_add(&ahead, &map, 0, part_bytes - 1000);
    lq_read_ahead_add(&ahead, &map, part_bytes - 1000, part_bytes + 1000);
    for (int i = 0; i < 3000 && pages_in_cache() < pages; i++) {
        (void)nanosleep(&pause, NULL);
    }
    cr_expect_eq(pages_in_cache(), pages);
    lq_read_ahead_fini(&ahead);
}

Test(read_ahead, what_is_left_is_given_up)
{
    struct lq_read_ahead ahead;
    lq_read_ahead_init(&ahead);
    lq_read_ahead_fini(&ahead);
    lq_read_ahead_init(&ahead);
    for (int i = 0; i < 1000; i++) {
        lq_read_ahead_add(&ahead, &map, 0, SIZE_BYTES);
    }
    lq_read_ahead_fini(&ahead);
}
