/* Measures the store: durable writes beside plain sequential writes with fdatasync on the same
 * disk, reads, the size of the file after many rounds of writing and removing, and look-ups among a
 * million results that stand for 200 GB (their outputs are not stored).
 *   bench_cache DIR [RESULTS [PART]]     DIR: an empty folder on the disk to measure; it is filled
 *                                        PART: writes, churn or lookups; else all of them
 * Not a test: it needs minutes and a quiet machine. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/upkeep.h"

enum { MB = 1024 * 1024, WRITE_MB = 256, FLUSH_BYTES = 8 * (MB - 16), ROUNDS = 10 };

static struct lq_cache *cache;
static struct lq_error err;

static void check(enum lq_status status)
{
    if (status != LQ_OK) {
        (void)fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
}

static double seconds_since(uint64_t start)
{
    return (double)(lq_clock_ns() - start) * 1e-9;
}

static void open_cache(const char *dir)
{
    const struct lq_cache_options options = {.dir = dir};
    check(lq_cache_open(&cache, &options, &err));
}

static uint64_t random_state = 1;
static void fill(unsigned char *data, size_t size)
{
    for (size_t i = 0; i + 8 <= size; i += 8) {
        random_state = random_state * 6364136223846793005u + 1442695040888963407u;
        memcpy(data + i, &random_state, 8);
    }
}

/* Appends and flushes 8 MiB at a time, as the store does. */
static double plain_write(const char *dir, const unsigned char *data, size_t size)
{
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/plain", dir);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    uint64_t start = lq_clock_ns();
    for (size_t at = 0; at < size; at += FLUSH_BYTES) {
        size_t step = size - at < FLUSH_BYTES ? size - at : FLUSH_BYTES;
        if (write(fd, data + at, step) != (ssize_t)step || fdatasync(fd) != 0) {
            exit(1);
        }
    }
    double seconds = seconds_since(start);
    (void)close(fd);
    (void)unlink(path);
    return seconds;
}

static enum lq_status count_bytes(void *user, const void *data, size_t size, struct lq_error *error)
{
    uint64_t *sum = user;
    (void)error;
    for (size_t i = 0; i < size; i += 4096) {
        *sum += ((const unsigned char *)data)[i];
    }
    return LQ_OK;
}

/* As steps write: a MiB at a time. */
static void put_streamed(const unsigned char *data, size_t size, struct lq_digest *digest)
{
    struct lq_blob_writer *writer = NULL;
    check(lq_blob_begin(cache, &writer, &err));
    for (size_t at = 0; at < size; at += MB) {
        check(lq_blob_write(writer, data + at, MB, &err));
    }
    check(lq_blob_commit(writer, digest, NULL, &err));
}

static double least(double a, double b)
{
    return a < b ? a : b;
}

static void bench_writes(const char *dir)
{
    size_t size = (size_t)WRITE_MB * MB;
    unsigned char *data = malloc(size);
    double whole = 1e9, streamed = 1e9, plain = 1e9, copied = 1e9, in_place = 1e9;
    struct lq_digest digest;
    for (int round = 0; round < ROUNDS && data != NULL; round++) {
        fill(data, size);
        plain = least(plain, plain_write(dir, data, size));
        uint64_t start = lq_clock_ns();
        check(lq_blob_put(cache, data, size, &digest, &err));
        whole = least(whole, seconds_since(start));
        struct lq_blob_reader *reader = NULL;
        check(lq_blob_open(cache, &digest, false, &reader, &err));
        start = lq_clock_ns();
        check(lq_blob_read(reader, 0, data, size, &err));
        copied = least(copied, seconds_since(start));
        uint64_t sum = 0;
        start = lq_clock_ns();
        check(lq_blob_each(reader, count_bytes, &sum, &err));
        in_place = least(in_place, seconds_since(start));
        lq_blob_close(reader);
        check(lq_blob_drop(cache, &digest, &err));
        plain = least(plain, plain_write(dir, data, size));
        start = lq_clock_ns();
        put_streamed(data, size, &digest);
        streamed = least(streamed, seconds_since(start));
        check(lq_blob_drop(cache, &digest, &err));
    }
    printf("durable writes: plain fdatasync %.0f MB/s; store, whole blobs %.0f MB/s, ratio %.2f; "
           "store, a MiB at a time %.0f MB/s, ratio %.2f\n",
           WRITE_MB / plain, WRITE_MB / whole, plain / whole, WRITE_MB / streamed,
           plain / streamed);
    printf("reads: copied %.0f MB/s, in place (a byte a page) %.0f MB/s\n", WRITE_MB / copied,
           WRITE_MB / in_place);
    free(data);
}

static void put_result(uint64_t number, const struct lq_digest *output, uint64_t size)
{
    struct lq_action_output outputs[] = {{.name = "main", .digest = *output, .size_bytes = size}};
    const struct lq_action_record record = {
        .outputs = outputs, .output_count = 1, .verdict_text = "", .numerics = "", .step_count = 1};
    struct lq_digest key;
    lq_digest_of(&number, sizeof number, &key);
    check(lq_action_put(cache, &key, &record, NULL, NULL, &err));
}

/* Rounds of building, evicting half, and building other things of other sizes, each in a process's
 * life of its own, because what a running build has made is never evicted. */
static void bench_churn(const char *dir)
{
    enum { LIVE = 24, CHURN_ROUNDS = 50 };
    uint64_t numbers[LIVE] = {0};
    unsigned char *data = malloc(8 * MB);
    uint64_t live_bytes = 0;
    for (int round = 0; round < CHURN_ROUNDS && data != NULL; round++) {
        open_cache(dir);
        for (int i = 0; round > 0 && i < LIVE; i++) {
            struct lq_gc_result result;
            struct lq_digest key;
            if ((i + round) % 2 == 0) {
                lq_digest_of(&numbers[i], sizeof numbers[i], &key);
                check(lq_cache_remove_key(cache, &key, &result, &err));
            }
        }
        lq_cache_close(cache);
        open_cache(dir);
        for (int i = 0; i < LIVE; i++) {
            if (round > 0 && (i + round) % 2 != 0) {
                continue;
            }
            struct lq_digest digest;
            size_t size = (size_t)((uint64_t)(i * 7 + round * 3) % 64 + 1) * MB / 8;
            fill(data, size);
            check(lq_blob_put(cache, data, size, &digest, &err));
            numbers[i] = (uint64_t)(round * LIVE + i);
            put_result(numbers[i], &digest, size);
        }
        lq_cache_trim(cache, 2000); /* as at the end of a build */
        if (round < CHURN_ROUNDS - 1) {
            lq_cache_close(cache);
        }
    }
    check(lq_cache_live_bytes(cache, &live_bytes, &err));
    double disk = (double)lq_cache_disk_bytes(cache);
    printf("after 50 rounds: file %.1f MB on the disk, live %.1f MB, ratio %.3f\n", disk / 1e6,
           (double)live_bytes / 1e6, disk / (double)live_bytes);
    free(data);
}

static void bench_lookups(uint64_t count)
{
    struct lq_digest output;
    struct lq_arena arena;
    struct lq_action_record record;
    bool found = false;
    double best = 1e9;
    for (uint64_t i = 0; i < count; i++) {
        lq_digest_of(&i, sizeof i, &output);
        put_result(i, &output, 200 * (uint64_t)1000 * 1000 * 1000 / count);
    }
    for (uint64_t round = 0; round < 20; round++) {
        lq_arena_init(&arena);
        uint64_t start = lq_clock_ns();
        lq_cache_hold(cache);
        for (uint64_t i = 0; i < 1000; i++) {
            uint64_t number = (i * 7919 + round * 104729) % count;
            struct lq_digest key;
            lq_digest_of(&number, sizeof number, &key);
            check(lq_action_get(cache, &key, &arena, &record, &found, &err));
            if (!found) {
                exit(1);
            }
        }
        lq_cache_release(cache);
        double seconds = seconds_since(start);
        best = seconds < best ? seconds : best;
        lq_arena_fini(&arena);
    }
    printf("1000 look-ups among %llu results: %.2f ms\n", (unsigned long long)count, best * 1e3);
}

static bool wants(int argc, char **argv, const char *part, char path[4096])
{
    (void)snprintf(path, 4096, "%s/%s", argv[1], part);
    return argc < 4 || strcmp(argv[3], part) == 0;
}

int main(int argc, char **argv)
{
    char path[4096];
    if (argc < 2) {
        return 2;
    }
    if (wants(argc, argv, "writes", path)) {
        open_cache(path);
        bench_writes(argv[1]);
        lq_cache_close(cache);
    }
    if (wants(argc, argv, "churn", path)) {
        bench_churn(path);
        lq_cache_close(cache);
    }
    if (wants(argc, argv, "lookups", path)) {
        open_cache(path);
        bench_lookups(argc > 2 ? strtoull(argv[2], NULL, 10) : 1000000);
        lq_cache_close(cache);
    }
    return 0;
}
