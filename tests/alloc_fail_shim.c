/* A library to preload: the allocation number LQ_FAIL_AT of the process (from 1), and with
 * LQ_FAIL_ON also all after it, find no memory. With LQ_FAIL_COUNT the number of allocations is
 * written to that file when the process ends. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

/* glibc's own, under their other names. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);

static atomic_ulong allocations;
static unsigned long fail_at;
static int fail_on;

__attribute__((constructor)) static void read_settings(void)
{
    const char *at = getenv("LQ_FAIL_AT");
    fail_on = getenv("LQ_FAIL_ON") != NULL;
    atomic_store(&allocations, 0);
    fail_at = at == NULL ? 0 : strtoul(at, NULL, 10);
}

__attribute__((destructor)) static void write_count(void)
{
    const char *path = getenv("LQ_FAIL_COUNT");
    unsigned long count = atomic_load(&allocations);
    FILE *file = path == NULL ? NULL : fopen(path, "w");
    if (file != NULL) {
        (void)fprintf(file, "%lu\n", count);
        (void)fclose(file);
    }
}

static int fails(void)
{
    unsigned long number = atomic_fetch_add(&allocations, 1) + 1;
    if (fail_at == 0 || !(number == fail_at || (fail_on && number > fail_at))) {
        return 0;
    }
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size)
{
    return fails() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return fails() ? NULL : __libc_calloc(count, size);
}

void *realloc(void *old, size_t size)
{
    return fails() ? NULL : __libc_realloc(old, size);
}
