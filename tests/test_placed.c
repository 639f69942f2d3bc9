/* Blobs that lie in files outside of the cache: there as long as the file is as it was, whatever
 * users do with it, and no more than a miss afterwards. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cache/placed.h"
#include "cache/repair.h"
#include "cache/upkeep.h"
#include "engine/base/compiler.h"
#include "tests/cache_helpers.h"

/* Who keeps the content: a file that is written as the bytes come. */
struct keeper {
    char path[300];
    int fd;
    uint64_t fail_after; /* bytes; 0: never */
    uint64_t size_bytes;
    bool cannot_land;
    struct lq_digest digest; /* that `land` was told */
};

static enum lq_status keep(void *user, const void *data, size_t size_bytes, struct lq_error *err)
{
    struct keeper *keeper = user;
    keeper->size_bytes += size_bytes;
    if (keeper->fail_after != 0 && keeper->size_bytes > keeper->fail_after) {
        return lq_error_set(err, LQ_EIO, "the disk is full");
    }
    cr_assert_eq(write(keeper->fd, data, size_bytes), (ssize_t)size_bytes);
    return LQ_OK;
}

static void let_age(void)
{
    const struct timespec pause = {.tv_nsec = 40 * 1000 * 1000};
    (void)nanosleep(&pause, NULL);
}

static enum lq_status land(void *user, const struct lq_digest *digest, const char **path,
                           struct lq_file_sig *sig, struct lq_error *err)
{
    struct keeper *keeper = user;
    bool exists = false;
    if (keeper->cannot_land) {
        return lq_error_set(err, LQ_EIO, "no such place");
    }
    let_age();
    keeper->digest = *digest;
    *path = keeper->path;
    return lq_file_sig_get(keeper->path, sig, &exists, err);
}

static void open_keeper(struct test_cache *t, struct keeper *keeper, const char *name)
{
    *keeper = (struct keeper){.fd = -1};
    (void)snprintf(keeper->path, sizeof keeper->path, "%s/%s", t->dir, name);
    keeper->fd = open(keeper->path, O_CREAT | O_WRONLY | O_TRUNC, 0666);
    cr_assert_geq(keeper->fd, 0);
}

static struct lq_blob_writer *begin(struct test_cache *t, struct keeper *keeper)
{
    struct lq_blob_writer *writer = NULL;
    cr_assert_eq(lq_blob_begin(t->cache, &writer, &t->err), LQ_OK);
    lq_blob_keep_outside(writer, keep, land, keeper);
    return writer;
}

/* In pieces of many sizes, so that every way through the writer's buffers is taken. */
static void write_pieces(struct test_cache *t, struct lq_blob_writer *writer,
                         const struct bytes *bytes)
{
    static const size_t sizes[] = {1, 65536, 3 << 20, 9 << 20, 17, 20 << 20};
    for (size_t at = 0, i = 0; at < bytes->size; i++) {
        size_t left = bytes->size - at;
        size_t size = sizes[i % LQ_COUNT_OF(sizes)];
        size = size < left ? size : left;
        cr_assert_eq(lq_blob_write(writer, bytes->data + at, size, &t->err), LQ_OK, "%s",
                     t->err.message);
        at += size;
    }
}

static struct lq_digest place(struct test_cache *t, const char *name, const struct bytes *bytes)
{
    struct keeper keeper;
    struct lq_digest digest;
    struct lq_digest expected;
    uint64_t size_bytes = 0;
    open_keeper(t, &keeper, name);
    struct lq_blob_writer *writer = begin(t, &keeper);
    write_pieces(t, writer, bytes);
    cr_assert_eq(lq_blob_commit(writer, &digest, &size_bytes, &t->err), LQ_OK, "%s",
                 t->err.message);
    (void)close(keeper.fd);
    lq_digest_of(bytes->data, bytes->size, &expected);
    cr_expect_eq(size_bytes, bytes->size);
    cr_expect(lq_digest_equal(&digest, &expected));
    cr_expect(lq_digest_equal(&keeper.digest, &expected));
    return digest;
}

static const char *in_folder(struct test_cache *t, const char *name)
{
    static char path[300];
    (void)snprintf(path, sizeof path, "%s/%s", t->dir, name);
    return path;
}

static void expect_missing(struct test_cache *t, const struct lq_digest *digest)
{
    struct lq_blob_reader *reader = NULL;
    uint64_t size_bytes = 0;
    cr_expect(!lq_blob_exists(t->cache, digest, &size_bytes));
    cr_expect_eq(lq_blob_open(t->cache, digest, false, &reader, &t->err), LQ_OK);
    cr_expect_null(reader);
}

Test(placed, content_is_read_from_the_file_and_nothing_is_stored)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    static const size_t sizes[] = {1, 1000, 8 * (size_t)LQ_CHUNK_BYTES, 40000001};
    for (size_t i = 0; i < LQ_COUNT_OF(sizes); i++) {
        struct bytes bytes = random_bytes(sizes[i], i);
        char name[16];
        (void)snprintf(name, sizeof name, "file%zu", i);
        struct lq_digest digest = place(&t, name, &bytes);
        expect_blob(&t, &digest, &bytes);
        test_cache_reopen(&t);
        expect_blob(&t, &digest, &bytes);
        free(bytes.data);
    }
    struct lq_cache_stats stats;
    cr_assert_eq(lq_cache_stats_get(t.cache, &stats, &t.err), LQ_OK);
    cr_expect_eq(stats.placed_count, LQ_COUNT_OF(sizes));
    cr_expect_eq(stats.blob_count, 0);
    cr_expect_eq(chunk_count(&t), 0);
    expect_no_pending(&t);
    expect_verify(&t, LQ_COUNT_OF(sizes), 0);
    cr_expect_eq(t.warnings, 0, "%s", t.last_warning);
    test_cache_close(&t);
}

/* ---- what users do with their files ---- */

static void edit(const char *path)
{
    int fd = open(path, O_WRONLY);
    cr_assert_eq(pwrite(fd, "x", 1, 500), 1);
    (void)close(fd);
}

static void cut(const char *path)
{
    cr_assert_eq(truncate(path, 999), 0);
}

static void grow(const char *path)
{
    cr_assert_eq(truncate(path, 200000), 0);
}

static void drop(const char *path)
{
    cr_assert_eq(unlink(path), 0);
}

static void copy_over(const char *path)
{
    char command[1000];
    (void)snprintf(command, sizeof command, "cp -p '%s' '%s.new' && mv '%s.new' '%s'", path, path,
                   path, path);
    cr_assert_eq(system(command), 0);
}

/* The same bytes, and even the old time of change of the content. */
static void write_back(const char *path)
{
    struct stat st;
    cr_assert_eq(stat(path, &st), 0);
    edit(path);
    const struct timespec times[2] = {st.st_atim, st.st_mtim};
    cr_assert_eq(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void put_folder(const char *path)
{
    drop(path);
    cr_assert_eq(mkdir(path, 0777), 0);
}

static void put_pipe(const char *path)
{
    drop(path);
    cr_assert_eq(mkfifo(path, 0666), 0);
}

static void put_device(const char *path)
{
    drop(path);
    cr_assert_eq(symlink("/dev/zero", path), 0);
}

static void put_loop(const char *path)
{
    drop(path);
    cr_assert_eq(symlink(path, path), 0);
}

static void forbid_folder(const char *path)
{
    drop(path);
    cr_assert_eq(symlink("/proc/1/root/nowhere/at/all", path), 0);
}

Test(placed, a_file_that_is_not_as_it_was_is_a_miss, .timeout = 60)
{
    static void (*const changes[])(const char *path) = {
        edit,       cut,      grow,       drop,     copy_over,    write_back,
        put_folder, put_pipe, put_device, put_loop, forbid_folder};
    struct test_cache t;
    test_cache_open(&t, 0);
    for (size_t i = 0; i < LQ_COUNT_OF(changes); i++) {
        struct bytes bytes = random_bytes(100000, i);
        char name[16];
        char *path = NULL;
        struct lq_arena arena;
        (void)snprintf(name, sizeof name, "file%zu", i);
        struct lq_digest digest = place(&t, name, &bytes);
        expect_blob(&t, &digest, &bytes);
        changes[i](in_folder(&t, name));
        expect_missing(&t, &digest);
        lq_arena_init(&arena);
        cr_assert_eq(lq_blob_place_get(t.cache, &digest, &arena, &path, &t.err), LQ_OK);
        cr_expect_str_eq(path, in_folder(&t, name));
        lq_arena_fini(&arena);
        /* That is no damage, and the record goes. */
        expect_verify(&t, 1, 0);
        cr_expect_eq(record_count(&t, LQ_DB_BLOBS), 0);
        expect_missing(&t, &digest);
        free(bytes.data);
    }
    test_cache_close(&t);
}

static enum lq_status count_bytes(void *user, const void *data, size_t size_bytes,
                                  struct lq_error *err)
{
    (void)data;
    (void)err;
    *(uint64_t *)user += size_bytes;
    return LQ_OK;
}

Test(placed, a_file_that_changes_while_it_is_read_is_an_error_and_no_signal)
{
    static void (*const changes[])(const char *path) = {edit, cut};
    for (size_t i = 0; i < LQ_COUNT_OF(changes); i++) {
        struct test_cache t;
        struct lq_blob_reader *reader = NULL;
        struct lq_blob_writer *writer = NULL;
        test_cache_open(&t, 0);
        struct bytes bytes = random_bytes(3000000, i);
        unsigned char *got = malloc(bytes.size);
        struct lq_digest digest = place(&t, "file", &bytes);
        uint64_t seen = 0;
        cr_assert_eq(lq_blob_open(t.cache, &digest, true, &reader, &t.err), LQ_OK);
        cr_assert_eq(lq_blob_read(reader, 0, got, 100, &t.err), LQ_OK);
        changes[i](in_folder(&t, "file"));
        cr_expect_eq(lq_blob_read(reader, 2000000, got, 1000, &t.err), LQ_ECACHE);
        cr_expect_not_null(strstr(t.err.message, "changed while it was read"), "%s", t.err.message);
        cr_expect_eq(lq_blob_read(reader, 0, got, bytes.size, &t.err), LQ_ECACHE);
        cr_expect_eq(lq_blob_each(reader, count_bytes, &seen, &t.err), LQ_ECACHE);
        cr_expect_eq(seen, 0);
        lq_blob_close(reader);
        cr_assert_eq(lq_blob_begin(t.cache, &writer, &t.err), LQ_OK);
        cr_expect_eq(lq_blob_write_blob(writer, &digest, &t.err), LQ_ECACHE);
        lq_blob_abort(writer);
        free(got);
        free(bytes.data);
        test_cache_close(&t);
    }
}

/* Its bytes could still be read, but losing its last name changes its ctime. */
Test(placed, a_file_that_is_removed_while_it_is_read_is_given_up)
{
    struct test_cache t;
    struct lq_blob_reader *reader = NULL;
    test_cache_open(&t, 0);
    struct bytes bytes = random_bytes(100000, 1);
    struct lq_digest digest = place(&t, "file", &bytes);
    cr_assert_eq(lq_blob_open(t.cache, &digest, true, &reader, &t.err), LQ_OK);
    drop(in_folder(&t, "file"));
    unsigned char got[100];
    cr_expect_eq(lq_blob_read(reader, 0, got, sizeof got, &t.err), LQ_ECACHE);
    lq_blob_close(reader);
    free(bytes.data);
    test_cache_close(&t);
}

/* ---- records that nobody of us wrote ---- */

static void put_record(struct test_cache *t, const struct lq_digest *digest,
                       const struct lq_blob_record *record)
{
    struct lq_buffer buffer;
    lq_buffer_init(&buffer);
    lq_blob_record_encode(digest, record, NULL, &buffer);
    struct lq_bytes key = {digest->bytes, LQ_DIGEST_BYTES};
    struct lq_bytes value = {buffer.data, buffer.size_bytes};
    cr_assert_eq(lq_store_later(t->cache->store, LQ_DB_BLOBS, &key, &value, false, &t->err), LQ_OK);
    cr_assert_eq(lq_store_flush(t->cache->store, &t->err), LQ_OK);
    lq_buffer_fini(&buffer);
}

static struct lq_blob_record record_of(const char *path, size_t path_bytes)
{
    struct lq_blob_record record = {
        .kind = LQ_BLOB_PLACED, .path = path, .path_bytes = (uint32_t)path_bytes};
    struct stat st;
    if (stat(path, &st) == 0) {
        record.sig.device = (uint64_t)st.st_dev;
        record.sig.inode = (uint64_t)st.st_ino;
        record.sig.mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
        record.sig.ctime_ns = (int64_t)st.st_ctim.tv_sec * 1000000000 + st.st_ctim.tv_nsec;
        record.size_bytes = (uint64_t)st.st_size;
    }
    return record;
}

Test(placed, hostile_records_are_misses, .timeout = 60)
{
    static char too_long[LQ_BLOB_PATH_BYTES_MAX + 100];
    struct test_cache t;
    test_cache_open(&t, 0);
    memset(too_long, 'a', sizeof too_long);
    too_long[0] = '/';
    char fifo[300];
    (void)snprintf(fifo, sizeof fifo, "%s", in_folder(&t, "fifo"));
    cr_assert_eq(mkfifo(fifo, 0666), 0);
    static const char with_nul[] = "/tmp\0/x";
    const struct {
        const char *path;
        size_t path_bytes;
        uint64_t size_bytes; /* UINT64_MAX: as it is */
    } records[] = {
        {with_nul, sizeof with_nul - 1, 5},
        {"relative/file", 13, 5},
        {"", 0, 0},
        {"/", 1, 5},
        {too_long, sizeof too_long, 5},
        {too_long, LQ_BLOB_PATH_BYTES_MAX, 5},
        {"/dev/zero", 9, UINT64_MAX},
        {"/dev/zero", 9, (uint64_t)1 << 62},
        {"/tmp", 4, UINT64_MAX},
        {fifo, strlen(fifo), UINT64_MAX},
        {"/etc/passwd", 11, UINT64_MAX - 1},
        {"/proc/self/mem", 14, (uint64_t)1 << 40},
    };
    for (size_t i = 0; i < LQ_COUNT_OF(records); i++) {
        struct lq_digest digest;
        lq_digest_of(&i, sizeof i, &digest);
        struct lq_blob_record record = record_of(records[i].path, records[i].path_bytes);
        if (records[i].size_bytes != UINT64_MAX) {
            record.size_bytes = records[i].size_bytes;
        }
        put_record(&t, &digest, &record);
        expect_missing(&t, &digest);
    }
    uint64_t checked = 0;
    uint64_t removed = 0;
    cr_assert_eq(lq_cache_verify(t.cache, &checked, &removed, &t.err), LQ_OK, "%s", t.err.message);
    cr_expect_eq(record_count(&t, LQ_DB_BLOBS), 0);
    cr_expect_eq(access(fifo, F_OK), 0);
    test_cache_close(&t);
}

/* The signature fits and the content does not: a disk that lost bytes, or a lie. */
Test(placed, wrong_content_is_found_and_forgotten)
{
    struct test_cache t;
    struct lq_blob_reader *reader = NULL;
    struct lq_digest other;
    test_cache_open(&t, 0);
    struct bytes bytes = random_bytes(100000, 1);
    (void)place(&t, "file", &bytes);
    lq_digest_of("other", 5, &other);
    const char *path = in_folder(&t, "file");
    struct lq_blob_record record = record_of(path, strlen(path));
    put_record(&t, &other, &record);
    cr_expect(lq_blob_exists(t.cache, &other, NULL));
    cr_assert_eq(lq_blob_open(t.cache, &other, true, &reader, &t.err), LQ_OK);
    cr_expect_null(reader);
    cr_expect_not_null(strstr(t.last_warning, "does not match its digest"), "%s", t.last_warning);
    cr_expect(!lq_blob_exists(t.cache, &other, NULL));
    put_record(&t, &other, &record);
    expect_verify(&t, 2, 1);
    cr_expect_eq(access(path, F_OK), 0);
    free(bytes.data);
    test_cache_close(&t);
}

/* ---- writing ---- */

Test(placed, a_keeper_that_fails_publishes_nothing)
{
    struct test_cache t;
    struct keeper keeper;
    struct lq_digest digest;
    test_cache_open(&t, 0);
    struct bytes bytes = random_bytes(30000000, 1);
    open_keeper(&t, &keeper, "file");
    keeper.fail_after = 9000000;
    struct lq_blob_writer *writer = begin(&t, &keeper);
    cr_expect_eq(lq_blob_write(writer, bytes.data, bytes.size, &t.err), LQ_EIO);
    cr_expect_str_eq(t.err.message, "the disk is full");
    lq_blob_abort(writer);
    (void)close(keeper.fd);
    open_keeper(&t, &keeper, "file");
    keeper.cannot_land = true;
    writer = begin(&t, &keeper);
    cr_expect_eq(lq_blob_write(writer, bytes.data, bytes.size, &t.err), LQ_OK);
    cr_expect_eq(lq_blob_commit(writer, &digest, NULL, &t.err), LQ_EIO);
    cr_expect_str_eq(t.err.message, "no such place");
    (void)close(keeper.fd);
    /* A file that somebody has written to meanwhile has another size than what was hashed. */
    open_keeper(&t, &keeper, "file");
    writer = begin(&t, &keeper);
    cr_expect_eq(lq_blob_write(writer, bytes.data, bytes.size, &t.err), LQ_OK);
    cr_assert_eq(write(keeper.fd, "more", 4), 4);
    cr_expect_eq(lq_blob_commit(writer, &digest, NULL, &t.err), LQ_EIO);
    (void)close(keeper.fd);
    cr_expect_eq(record_count(&t, LQ_DB_BLOBS), 0);
    cr_expect_eq(chunk_count(&t), 0);
    expect_no_pending(&t);
    free(bytes.data);
    test_cache_close(&t);
}

Test(placed, what_is_stored_already_stays)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    struct bytes bytes = random_bytes(100000, 1);
    struct lq_digest stored = put_bytes(&t, &bytes);
    struct lq_digest digest = place(&t, "file", &bytes);
    cr_expect(lq_digest_equal(&stored, &digest));
    drop(in_folder(&t, "file"));
    expect_blob(&t, &digest, &bytes);
    free(bytes.data);
    test_cache_close(&t);
}

Test(placed, a_second_file_and_chunks_take_the_place_of_one_that_is_gone)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    struct bytes bytes = random_bytes(100000, 1);
    struct lq_digest digest = place(&t, "first", &bytes);
    (void)place(&t, "second", &bytes);
    edit(in_folder(&t, "first"));
    expect_missing(&t, &digest);
    (void)place(&t, "second", &bytes);
    expect_blob(&t, &digest, &bytes);
    cr_expect_eq(record_count(&t, LQ_DB_BLOBS), 1);
    edit(in_folder(&t, "second"));
    expect_missing(&t, &digest);
    (void)put_bytes(&t, &bytes);
    expect_blob(&t, &digest, &bytes);
    cr_expect_eq(record_count(&t, LQ_DB_BLOBS), 1);
    cr_expect_gt(chunk_count(&t), 0);
    free(bytes.data);
    test_cache_close(&t);
}

/* Nothing in the cache may depend on what users do with their files. */
Test(placed, other_blobs_get_copies)
{
    struct test_cache t;
    struct lq_blob_writer *writer = NULL;
    struct lq_digest whole;
    test_cache_open(&t, 0);
    struct bytes bytes = random_bytes(3000000, 1);
    struct lq_digest digest = place(&t, "file", &bytes);
    cr_assert_eq(lq_blob_begin(t.cache, &writer, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_write(writer, bytes.data, 100, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_write_blob(writer, &digest, &t.err), LQ_OK, "%s", t.err.message);
    cr_assert_eq(lq_blob_commit(writer, &whole, NULL, &t.err), LQ_OK);
    drop(in_folder(&t, "file"));
    struct bytes expected = {malloc(bytes.size + 100), bytes.size + 100};
    memcpy(expected.data, bytes.data, 100);
    memcpy(expected.data + 100, bytes.data, bytes.size);
    expect_blob(&t, &whole, &expected);
    cr_expect_eq(record_count(&t, LQ_DB_REFS), 0);
    free(expected.data);
    free(bytes.data);
    test_cache_close(&t);
}

/* And a file takes parts of the cache into itself. */
Test(placed, parts_are_written_to_the_file)
{
    struct test_cache t;
    struct keeper keeper;
    struct lq_digest joined;
    struct lq_digest digest;
    struct lq_blob_writer *writer = NULL;
    test_cache_open(&t, 0);
    struct bytes part = random_bytes(2500000, 1);
    struct lq_digest stored = put_bytes(&t, &part);
    cr_assert_eq(lq_blob_begin(t.cache, &writer, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_write(writer, "ab", 2, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_write_blob(writer, &stored, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_commit(writer, &joined, NULL, &t.err), LQ_OK);
    open_keeper(&t, &keeper, "file");
    writer = begin(&t, &keeper);
    cr_assert_eq(lq_blob_write(writer, "head", 4, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_write_blob(writer, &stored, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_write_blob(writer, &joined, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_commit(writer, &digest, NULL, &t.err), LQ_OK, "%s", t.err.message);
    (void)close(keeper.fd);
    struct bytes expected = {malloc(6 + 2 * part.size), 6 + 2 * part.size};
    memcpy(expected.data, "head", 4);
    memcpy(expected.data + 4, part.data, part.size);
    memcpy(expected.data + 4 + part.size, "ab", 2);
    memcpy(expected.data + 6 + part.size, part.data, part.size);
    expect_blob(&t, &digest, &expected);
    /* The file does not hold them fast. */
    cr_assert_eq(lq_blob_drop(t.cache, &joined, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_drop(t.cache, &stored, &t.err), LQ_OK);
    cr_expect(!lq_blob_exists(t.cache, &stored, NULL));
    expect_blob(&t, &digest, &expected);
    free(expected.data);
    free(part.data);
    test_cache_close(&t);
}

/* ---- looking after it ---- */

static void put_result(struct test_cache *t, const struct lq_digest *digest, uint64_t size_bytes)
{
    struct lq_action_output output = {"main", *digest, size_bytes, false};
    struct lq_action_record record = {.outputs = &output, .output_count = 1};
    cr_assert_eq(lq_action_put(t->cache, digest, &record, "/f|a", "manifest", &t->err), LQ_OK);
}

Test(placed, collecting_garbage_removes_records_and_never_files)
{
    struct test_cache t;
    struct lq_gc_result result;
    const struct lq_gc_options options = {.wait = true};
    test_cache_open(&t, 0);
    struct bytes bytes = random_bytes(2000000, 1);
    struct bytes other = random_bytes(2000000, 2);
    struct lq_digest needed = place(&t, "needed", &bytes);
    struct lq_digest garbage = place(&t, "garbage", &other);
    put_result(&t, &needed, bytes.size);
    test_cache_reopen(&t);
    cr_assert_eq(lq_cache_gc(t.cache, &options, &result, &t.err), LQ_OK, "%s", t.err.message);
    cr_expect_eq(result.blobs_removed, 1);
    cr_expect_lt(result.blob_bytes_removed, 4096, "a file outside takes no room here");
    expect_blob(&t, &needed, &bytes);
    cr_expect(!lq_blob_exists(t.cache, &garbage, NULL));
    cr_assert_eq(lq_cache_clear(t.cache, &t.err), LQ_OK);
    cr_expect_eq(access(in_folder(&t, "needed"), F_OK), 0);
    cr_expect_eq(access(in_folder(&t, "garbage"), F_OK), 0);
    free(bytes.data);
    free(other.data);
    test_cache_close(&t);
}

Test(placed, repair_takes_over_records_of_files_that_are_as_they_were)
{
    struct test_cache t;
    struct lq_repair_result result;
    test_cache_open(&t, 0);
    struct bytes bytes = random_bytes(100000, 1);
    struct bytes other = random_bytes(100000, 2);
    struct bytes stored = random_bytes(3000000, 3);
    struct lq_digest kept = place(&t, "kept", &bytes);
    struct lq_digest changed = place(&t, "changed", &other);
    (void)put_bytes(&t, &stored);
    put_result(&t, &kept, bytes.size);
    edit(in_folder(&t, "changed"));
    lq_cache_close(t.cache);
    t.cache = NULL;
    /* Both header pages go: nothing but the leaves is left to go by. */
    struct bytes content;
    int fd = open_data(&t, &content);
    memset(content.data, 0x55, 8192);
    cr_assert_eq(pwrite(fd, content.data, 8192, 0), 8192);
    (void)close(fd);
    free(content.data);
    const struct lq_cache_options options = {.dir = t.dir};
    cr_assert_eq(lq_cache_repair(&options, &result, &t.err), LQ_OK, "%s", t.err.message);
    cr_expect_eq(result.saved.placed_count, 1);
    cr_assert_eq(test_cache_try(&t), LQ_OK, "%s", t.err.message);
    expect_blob(&t, &kept, &bytes);
    expect_missing(&t, &changed);
    free(bytes.data);
    free(other.data);
    free(stored.data);
    test_cache_close(&t);
}
