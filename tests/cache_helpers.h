/* Helpers of the cache tests: a cache in a fresh folder, deterministic bytes, and ways to damage
 * the data file behind the cache's back. For tests only, each in one process of its own. */
#ifndef LQ_TESTS_CACHE_HELPERS_H
#define LQ_TESTS_CACHE_HELPERS_H

#include <criterion/criterion.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/cache_internal.h"
#include "engine/base/limits.h"

struct bytes {
    unsigned char *data;
    size_t size;
};

struct test_cache {
    char dir[256];
    struct lq_cache *cache;
    struct lq_error err;
    atomic_uint warnings;
    char last_warning[LQ_ERROR_BYTES];
    uint64_t map_bytes;
};

static inline void test_warn(void *user, const char *message)
{
    struct test_cache *t = user;
    t->warnings++;
    (void)snprintf(t->last_warning, sizeof t->last_warning, "%s", message);
}

/* splitmix64 */
static inline uint64_t next_random(uint64_t *state)
{
    *state += 0x9E3779B97F4A7C15u;
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static inline struct bytes random_bytes(size_t size, uint64_t seed)
{
    struct bytes bytes = {malloc(size + 8), size};
    cr_assert_not_null(bytes.data);
    for (size_t i = 0; i < size; i += 8) {
        uint64_t value = next_random(&seed);
        memcpy(bytes.data + i, &value, 8);
    }
    return bytes;
}

static inline enum lq_status test_cache_try(struct test_cache *t)
{
    struct lq_cache_options options = {.dir = t->dir, .warn = test_warn, .warn_user = t};
    return lq_cache_open_sized(&t->cache, &options, t->map_bytes, &t->err);
}

static inline void test_cache_folder(struct test_cache *t)
{
    memset(t, 0, sizeof *t);
    /* Memory when there is some: thousands of flushes to a disk are minutes. */
    const char *base = getenv("TMPDIR");
    const char *memory = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    (void)snprintf(t->dir, sizeof t->dir, "%s/lqcache.XXXXXX", base == NULL ? memory : base);
    cr_assert_not_null(mkdtemp(t->dir));
}

static inline void test_cache_open(struct test_cache *t, uint64_t map_bytes)
{
    test_cache_folder(t);
    t->map_bytes = map_bytes;
    cr_assert_eq(test_cache_try(t), LQ_OK, "%s", t->err.message);
}

static inline void test_cache_reopen(struct test_cache *t)
{
    lq_cache_close(t->cache);
    t->cache = NULL;
    cr_assert_eq(test_cache_try(t), LQ_OK, "%s", t->err.message);
}

static inline int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static inline void test_remove_folder(const char *dir)
{
    (void)nftw(dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static inline void test_cache_close(struct test_cache *t)
{
    lq_cache_close(t->cache);
    t->cache = NULL;
    test_remove_folder(t->dir);
}

static inline struct lq_digest put_bytes(struct test_cache *t, const struct bytes *bytes)
{
    struct lq_digest digest;
    cr_assert_eq(lq_blob_put(t->cache, bytes->data, bytes->size, &digest, &t->err), LQ_OK, "%s",
                 t->err.message);
    return digest;
}

/* The content, read at once and in odd pieces. */
static inline void expect_blob(struct test_cache *t, const struct lq_digest *digest,
                               const struct bytes *expected)
{
    struct lq_blob_reader *reader = NULL;
    uint64_t size = 0;
    cr_assert(lq_blob_exists(t->cache, digest, &size));
    cr_assert_eq(size, expected->size);
    cr_assert_eq(lq_blob_open(t->cache, digest, true, &reader, &t->err), LQ_OK, "%s",
                 t->err.message);
    cr_assert_not_null(reader, "%s", t->last_warning);
    cr_assert_eq(lq_blob_size(reader), expected->size);
    unsigned char *got = malloc(expected->size + 1);
    cr_assert_eq(lq_blob_read(reader, 0, got, expected->size, &t->err), LQ_OK, "%s",
                 t->err.message);
    cr_assert(expected->size == 0 || memcmp(got, expected->data, expected->size) == 0);
    uint64_t seed = expected->size;
    for (int i = 0; i < 20 && expected->size > 0; i++) {
        size_t from = (size_t)(next_random(&seed) % expected->size);
        size_t step = (size_t)(next_random(&seed) % (expected->size - from + 1));
        step = i % 2 == 0 && step > 3000 ? 3000 : step;
        memset(got, 0, step);
        cr_assert_eq(lq_blob_read(reader, from, got, step, &t->err), LQ_OK);
        cr_assert(step == 0 || memcmp(got, expected->data + from, step) == 0);
    }
    free(got);
    lq_blob_close(reader);
}

static inline uint64_t record_count(struct test_cache *t, enum lq_db db)
{
    struct lq_txn txn;
    uint64_t count = 0;
    cr_assert_eq(lq_store_read_begin(t->cache->store, &txn, &t->err), LQ_OK);
    cr_assert_eq(lq_txn_count(&txn, db, &count, &t->err), LQ_OK);
    lq_store_read_end(&txn);
    return count;
}

static inline uint64_t chunk_count(struct test_cache *t)
{
    return record_count(t, LQ_DB_CHUNKS);
}

static inline void expect_no_pending(struct test_cache *t)
{
    cr_assert_eq(record_count(t, LQ_DB_PENDING), 0);
}

static inline void expect_verify(struct test_cache *t, uint64_t checked, uint64_t removed)
{
    uint64_t got_checked = 0;
    uint64_t got_removed = 0;
    cr_assert_eq(lq_cache_verify(t->cache, &got_checked, &got_removed, &t->err), LQ_OK, "%s",
                 t->err.message);
    cr_assert_eq(got_checked, checked, "checked %llu", (unsigned long long)got_checked);
    cr_assert_eq(got_removed, removed, "removed %llu: %s", (unsigned long long)got_removed,
                 t->last_warning);
}

static inline int open_data(struct test_cache *t, struct bytes *content)
{
    char path[512];
    struct stat st;
    (void)snprintf(path, sizeof path, "%s/data.mdb", t->dir);
    int fd = open(path, O_RDWR);
    cr_assert_geq(fd, 0);
    cr_assert_eq(fstat(fd, &st), 0);
    content->size = (size_t)st.st_size;
    content->data = malloc(content->size);
    cr_assert_eq(pread(fd, content->data, content->size, 0), (ssize_t)content->size);
    return fd;
}

/* Flips one bit of the byte `at` in every place of the data file where `pattern` stands. */
static inline void flip_in_file(struct test_cache *t, const unsigned char *pattern, size_t size,
                                size_t at)
{
    struct bytes content;
    int fd = open_data(t, &content);
    unsigned flipped = 0;
    for (unsigned char *from = content.data; from != NULL;) {
        size_t left = content.size - (size_t)(from - content.data);
        unsigned char *hit = memmem(from, left, pattern, size);
        if (hit != NULL) {
            unsigned char byte = (unsigned char)(hit[at] ^ 0x10);
            off_t offset = (off_t)(hit - content.data) + (off_t)at;
            cr_assert_eq(pwrite(fd, &byte, 1, offset), 1);
            flipped++;
            hit++;
        }
        from = hit;
    }
    cr_assert_gt(flipped, 0, "the pattern is not in the data file");
    free(content.data);
    (void)close(fd);
}

#endif
