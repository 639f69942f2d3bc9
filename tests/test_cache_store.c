/* The store and what surrounds it: folders that are none, files that were damaged, disks that are
 * full, maps that grow, threads that collide. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <errno.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/fs.h"
#include "tests/cache_helpers.h"

static struct lq_digest digest_number(uint64_t number)
{
    struct lq_digest digest;
    lq_digest_of(&number, sizeof number, &digest);
    return digest;
}

/* ---- folders ---- */

static void expect_refused(struct test_cache *t, enum lq_status status, const char *text)
{
    enum lq_status got = test_cache_try(t);
    cr_assert_null(t->cache);
    cr_assert_eq(got, status, "%d: %s", (int)got, t->err.message);
    cr_assert(strstr(t->err.message, text) != NULL, "'%s' is not in: %s", text, t->err.message);
    cr_assert(strstr(t->err.message, t->dir) != NULL, "%s", t->err.message);
    cr_assert(strchr(t->err.message, '\n') == NULL, "%s", t->err.message);
}

Test(cache_folder, is_made_with_its_parents)
{
    struct test_cache t;
    test_cache_folder(&t);
    char base[256];
    memcpy(base, t.dir, sizeof base);
    strcat(t.dir, "/a/b");
    cr_assert_eq(test_cache_try(&t), LQ_OK, "%s", t.err.message);
    lq_cache_close(t.cache);
    test_remove_folder(base);
}

Test(cache_folder, a_file_is_refused)
{
    struct test_cache t;
    test_cache_folder(&t);
    char base[256];
    memcpy(base, t.dir, sizeof base);
    strcat(t.dir, "/file");
    cr_assert_eq(lq_file_write(t.dir, "x", 1, &t.err), LQ_OK);
    expect_refused(&t, LQ_ECACHE, "not a folder");
    strcat(t.dir, "/below");
    expect_refused(&t, LQ_ECACHE, "--cache-dir");
    test_remove_folder(base);
}

Test(cache_folder, without_permission_is_refused)
{
    struct test_cache t;
    test_cache_folder(&t);
    if (geteuid() == 0) {
        /* Root may write everywhere: become nobody. */
        cr_assert_eq(seteuid(65534), 0);
    } else {
        cr_assert_eq(chmod(t.dir, 0500), 0);
    }
    expect_refused(&t, LQ_ECACHE, "Permission denied");
    if (getuid() == 0) {
        cr_assert_eq(seteuid(0), 0);
    }
    (void)chmod(t.dir, 0700);
    test_remove_folder(t.dir);
}

Test(cache_folder, open_twice_in_one_process_is_refused)
{
    struct test_cache t;
    struct test_cache again;
    test_cache_open(&t, 0);
    memset(&again, 0, sizeof again);
    memcpy(again.dir, t.dir, sizeof t.dir);
    expect_refused(&again, LQ_ECACHE, "open already");
    struct bytes data = random_bytes(100000, 1);
    struct lq_digest digest = put_bytes(&t, &data);
    test_cache_reopen(&t);
    expect_blob(&t, &digest, &data);
    free(data.data);
    test_cache_close(&t);
}

/* ---- data files ---- */

static void write_data(struct test_cache *t, const void *data, size_t size)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/data.mdb", t->dir);
    cr_assert_eq(lq_file_write(path, data, size, &t->err), LQ_OK, "%s", t->err.message);
}

Test(cache_data, garbage_is_refused)
{
    struct test_cache t;
    test_cache_folder(&t);
    static const size_t sizes[] = {1, 15, 100, 151, 4096, 8192, 100000};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct bytes noise = random_bytes(sizes[i], i);
        write_data(&t, noise.data, noise.size);
        expect_refused(&t, LQ_ECACHE, "data.mdb");
        memset(noise.data, 0, noise.size);
        write_data(&t, noise.data, noise.size);
        expect_refused(&t, LQ_ECACHE, "data.mdb");
        free(noise.data);
    }
    test_remove_folder(t.dir);
}

/* Nobody ever writes to the pipe: whoever waits for that is ended by the alarm. */
Test(cache_data, a_pipe_is_refused_and_not_waited_for)
{
    struct test_cache t;
    test_cache_folder(&t);
    char path[512];
    (void)snprintf(path, sizeof path, "%s/data.mdb", t.dir);
    cr_assert_eq(mkfifo(path, 0600), 0);
    (void)alarm(20);
    expect_refused(&t, LQ_ECACHE, "not a regular file");
    test_remove_folder(t.dir);
}

Test(cache_data, damaged_headers_are_refused)
{
    struct test_cache t;
    struct bytes content;
    test_cache_open(&t, 0);
    struct bytes data = random_bytes(300000, 2);
    (void)put_bytes(&t, &data);
    lq_cache_close(t.cache);
    (void)close(open_data(&t, &content));
    /* magic, version and page size of either meta page; see cache/store_file.h */
    static const size_t places[] = {10, 16, 20, 40, 41, 4096 + 10, 4096 + 16, 4096 + 40};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        content.data[places[i]] ^= 0x0C;
        write_data(&t, content.data, content.size);
        expect_refused(&t, LQ_ECACHE, "data.mdb");
        content.data[places[i]] ^= 0x0C;
    }
    write_data(&t, content.data, content.size);
    cr_assert_eq(test_cache_try(&t), LQ_OK, "%s", t.err.message);
    expect_verify(&t, 1, 0);
    free(content.data);
    free(data.data);
    test_cache_close(&t);
}

/* A cut file opens, or says that it is damaged; in no case does it crash, and what opens heals. */
Test(cache_data, cut_anywhere_never_crashes)
{
    struct test_cache t;
    struct bytes content;
    test_cache_open(&t, 0);
    struct lq_digest digests[40];
    struct bytes data = random_bytes(200000, 3);
    for (int i = 0; i < 40; i++) {
        struct lq_action_record record = {0};
        data.data[0] = (unsigned char)i;
        digests[i] = put_bytes(&t, &data);
        cr_assert_eq(lq_action_put(t.cache, &digests[i], &record, "label", "manifest", &t.err),
                     LQ_OK);
    }
    lq_cache_close(t.cache);
    (void)close(open_data(&t, &content));
    int opened = 0;
    int refused = 0;
    for (size_t pages = 0; pages <= content.size / 4096; pages += pages < 8 ? 1 : 13) {
        for (size_t extra = 0; extra < 4096; extra += 4095) {
            size_t size = pages * 4096 + extra;
            if (size == 0 || size > content.size) {
                continue;
            }
            write_data(&t, content.data, size);
            if (test_cache_try(&t) != LQ_OK) {
                cr_assert_eq(t.err.status, LQ_ECACHE, "%s", t.err.message);
                cr_assert(strstr(t.err.message, "cache repair") != NULL, "%s", t.err.message);
                refused++;
                continue;
            }
            uint64_t checked = 0;
            uint64_t removed = 0;
            cr_assert_eq(lq_cache_verify(t.cache, &checked, &removed, &t.err), LQ_OK, "%s",
                         t.err.message);
            data.data[0] = 99;
            struct lq_digest digest = put_bytes(&t, &data);
            expect_blob(&t, &digest, &data);
            lq_cache_close(t.cache);
            t.cache = NULL;
            opened++;
        }
    }
    printf("%d opened, %d refused\n", opened, refused);
    cr_assert_gt(opened, 0);
    cr_assert_gt(refused, 0);
    free(content.data);
    free(data.data);
    test_cache_close(&t);
}

static void make_other(struct test_cache *t, const char *db, const char *key, const void *value,
                       size_t value_bytes)
{
    MDB_env *env = NULL;
    MDB_txn *txn = NULL;
    MDB_dbi dbi = 0;
    MDB_val raw_key = {strlen(key), (void *)(uintptr_t)key};
    MDB_val raw = {value_bytes, (void *)(uintptr_t)value};
    cr_assert_eq(mdb_env_create(&env), 0);
    cr_assert_eq(mdb_env_set_maxdbs(env, 4), 0);
    cr_assert_eq(mdb_env_open(env, t->dir, 0, 0664), 0);
    cr_assert_eq(mdb_txn_begin(env, NULL, 0, &txn), 0);
    cr_assert_eq(mdb_dbi_open(txn, db, MDB_CREATE, &dbi), 0);
    cr_assert_eq(mdb_put(txn, dbi, &raw_key, &raw, 0), 0);
    cr_assert_eq(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
}

Test(cache_data, of_another_program_is_refused)
{
    struct test_cache t;
    test_cache_folder(&t);
    make_other(&t, NULL, "key", "value", 5);
    expect_refused(&t, LQ_ECACHE, "another program");
    test_remove_folder(t.dir);
    test_cache_folder(&t);
    make_other(&t, "meta", "key", "value", 5);
    expect_refused(&t, LQ_ECACHE, "another program");
    test_remove_folder(t.dir);
}

Test(cache_data, other_formats_are_refused_with_both_numbers)
{
    struct test_cache t;
    test_cache_folder(&t);
    make_other(&t, "meta", "format", "\x02\x00\x00\x00", 4);
    expect_refused(&t, LQ_ECACHE, "it has format 2 and this lqbuild supports format 1");
    cr_assert(strstr(t.err.message, "upgrade lqbuild") != NULL);
    make_other(&t, "meta", "format", "\x01", 1);
    expect_refused(&t, LQ_ECACHE, "damaged");
    test_remove_folder(t.dir);
}

/* ---- the map ---- */

Test(cache_map, grows_while_readers_read)
{
    struct test_cache t;
    test_cache_open(&t, 1024 * 1024);
    struct bytes data = random_bytes(40 * (size_t)LQ_CHUNK_BYTES, 4);
    struct bytes first = random_bytes(200000, 5);
    struct lq_digest first_digest = put_bytes(&t, &first);
    struct lq_blob_reader *reader = NULL;
    unsigned char out[1000];
    cr_assert_eq(lq_blob_open(t.cache, &first_digest, true, &reader, &t.err), LQ_OK);
    cr_assert_lt(lq_store_map_bytes(t.cache->store), data.size);
    struct lq_digest digest = put_bytes(&t, &data);
    cr_assert_gt(lq_store_map_bytes(t.cache->store), data.size);
    cr_assert_eq(lq_blob_read(reader, 100, out, sizeof out, &t.err), LQ_OK);
    cr_assert_eq(memcmp(out, first.data + 100, sizeof out), 0);
    lq_blob_close(reader);
    expect_blob(&t, &digest, &data);
    test_cache_reopen(&t);
    expect_blob(&t, &digest, &data);
    free(first.data);
    free(data.data);
    test_cache_close(&t);
}

Test(cache_map, grown_by_another_process_is_taken_over)
{
    struct test_cache t;
    int ready[2];
    int done[2];
    char byte = 'x';
    test_cache_folder(&t);
    t.map_bytes = 1024 * 1024;
    cr_assert_eq(pipe(ready), 0);
    cr_assert_eq(pipe(done), 0);
    struct bytes data = random_bytes(40 * (size_t)LQ_CHUNK_BYTES, 6);
    pid_t child = fork();
    if (child == 0) {
        if (read(ready[0], &byte, 1) != 1 || test_cache_try(&t) != LQ_OK) {
            _exit(1);
        }
        struct lq_digest digest;
        enum lq_status status = lq_blob_put(t.cache, data.data, data.size, &digest, &t.err);
        lq_cache_close(t.cache);
        _exit(status == LQ_OK && write(done[1], &byte, 1) == 1 ? 0 : 2);
    }
    cr_assert_eq(test_cache_try(&t), LQ_OK);
    struct bytes small = random_bytes(100000, 7);
    struct lq_digest small_digest = put_bytes(&t, &small);
    struct lq_digest digest;
    lq_digest_of(data.data, data.size, &digest);
    cr_assert_eq(write(ready[1], &byte, 1), 1);
    cr_assert_eq(read(done[0], &byte, 1), 1);
    expect_blob(&t, &digest, &data);
    expect_blob(&t, &small_digest, &small);
    small.data[0] ^= 1;
    small_digest = put_bytes(&t, &small);
    expect_blob(&t, &small_digest, &small);
    int status = 0;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert_eq(status, 0);
    free(data.data);
    free(small.data);
    test_cache_close(&t);
}

Test(cache_map, file_does_not_grow_over_rounds_of_rewriting)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    struct lq_cache_stats stats;
    uint64_t seed = 11;
    uint64_t early = 0;
    uint64_t live = 0;
    for (int round = 0; round < 50; round++) {
        struct lq_digest digests[4];
        live = 0;
        for (int i = 0; i < 4; i++) {
            size_t size = 100000 + (size_t)(next_random(&seed) % (3 * (uint64_t)LQ_CHUNK_BYTES));
            struct bytes data = random_bytes(size, next_random(&seed));
            digests[i] = put_bytes(&t, &data);
            live += size;
            free(data.data);
        }
        for (int i = 0; i < 4; i++) {
            cr_assert_eq(lq_blob_drop(t.cache, &digests[i], &t.err), LQ_OK);
        }
        cr_assert_eq(lq_cache_stats_get(t.cache, &stats, &t.err), LQ_OK);
        early = round == 9 ? stats.disk_bytes : early;
    }
    printf("after 10 rounds %llu bytes, after 50 %llu, about %llu live\n",
           (unsigned long long)early, (unsigned long long)stats.disk_bytes,
           (unsigned long long)live);
    cr_assert_eq(stats.blob_count, 0);
    cr_assert_lt(stats.disk_bytes, 2 * early);
    cr_assert_lt(stats.disk_bytes, 64u * 1024 * 1024);
    test_cache_close(&t);
}

/* ---- free pages ---- */

/* The first chunk that the transaction sees. */
static struct lq_bytes first_chunk(struct test_cache *t, struct lq_txn *txn)
{
    struct lq_bytes key = {NULL, 0};
    struct lq_bytes found_key;
    struct lq_bytes value;
    bool found = false;
    cr_assert_eq(lq_txn_next(txn, LQ_DB_CHUNKS, &key, false, &found_key, &value, &found, &t->err),
                 LQ_OK);
    cr_assert(found);
    return value;
}

static bool has_holes(const struct test_cache *t)
{
    char path[300];
    (void)snprintf(path, sizeof path, "%s/holes", t->dir);
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    cr_assert(fd >= 0);
    bool can = ftruncate(fd, 4096) == 0 &&
               fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0;
    (void)close(fd);
    (void)unlink(path);
    return can;
}

Test(cache_trim, gives_free_pages_back_beside_a_reader)
{
    enum { COUNT = 8, KEPT = 3 };
    struct test_cache t;
    test_cache_open(&t, 0);
    if (!has_holes(&t)) {
        test_cache_close(&t);
        cr_skip_test("this file system has no holes");
    }
    struct lq_digest digests[COUNT];
    for (uint64_t i = 0; i < COUNT; i++) {
        struct bytes data = random_bytes(3 * LQ_CHUNK_BYTES + 1000, i);
        digests[i] = put_bytes(&t, &data);
        free(data.data);
    }
    struct bytes first = random_bytes(3 * LQ_CHUNK_BYTES + 1000, 0);
    struct lq_store *store = t.cache->store;
    uint64_t before = lq_store_disk_bytes(store);
    struct lq_txn reader;
    cr_assert_eq(lq_store_read_begin(store, &reader, &t.err), LQ_OK);
    struct lq_bytes chunk = first_chunk(&t, &reader);
    for (int i = 0; i < COUNT; i++) {
        if (i != KEPT) {
            cr_assert_eq(lq_blob_drop(t.cache, &digests[i], &t.err), LQ_OK);
        }
    }
    cr_assert_eq(lq_store_trim(store, 0, &t.err), LQ_OK, "%s", t.err.message);
    cr_assert_eq(memcmp(chunk.data, first.data, LQ_CHUNK_BYTES), 0, "a reader sees a hole");
    cr_assert_gt(lq_store_disk_bytes(store), before / 2, "the reader keeps nothing");
    lq_store_read_end(&reader);
    cr_assert_eq(lq_store_trim(store, 0, &t.err), LQ_OK, "%s", t.err.message);
    uint64_t after = lq_store_disk_bytes(store);
    uint64_t live = 0;
    cr_assert_eq(lq_store_live_bytes(store, &live, &t.err), LQ_OK);
    printf("%llu bytes on the disk, then %llu, %llu in use\n", (unsigned long long)before,
           (unsigned long long)after, (unsigned long long)live);
    cr_assert_leq(after, live + live / 20 + 256 * 1024);
    /* What is left is whole, and holes are filled again. */
    expect_verify(&t, 1, 0);
    cr_assert(lq_blob_exists(t.cache, &digests[KEPT], NULL));
    for (int i = 0; i < 2; i++) {
        struct lq_digest digest = put_bytes(&t, &first);
        expect_blob(&t, &digest, &first);
        cr_assert_leq(lq_store_disk_bytes(store), before);
        lq_cache_close(t.cache);
        cr_assert_eq(test_cache_try(&t), LQ_OK, "%s", t.err.message);
        store = t.cache->store;
    }
    expect_verify(&t, 2, 0);
    free(first.data);
    test_cache_close(&t);
}

/* ---- a full disk ---- */

Test(cache_disk, full_is_an_error_and_the_store_goes_on)
{
    struct test_cache t;
    test_cache_folder(&t);
    if (mount("tmpfs", t.dir, "tmpfs", 0, "size=24m") != 0) {
        printf("SKIP: mounting a small tmpfs is not permitted: %s\n", strerror(errno));
        test_remove_folder(t.dir);
        cr_skip_test("mounting a small tmpfs is not permitted");
    }
    cr_assert_eq(test_cache_try(&t), LQ_OK, "%s", t.err.message);
    struct bytes kept = random_bytes(3 * (size_t)LQ_CHUNK_BYTES, 8);
    struct bytes large = random_bytes(40 * (size_t)LQ_CHUNK_BYTES, 9);
    struct bytes middle = random_bytes(8 * (size_t)LQ_CHUNK_BYTES, 10);
    struct lq_digest kept_digest = put_bytes(&t, &kept);
    for (int round = 0; round < 5; round++) {
        struct lq_digest digest;
        cr_assert_eq(lq_blob_put(t.cache, large.data, large.size, &digest, &t.err), LQ_EIO, "%s",
                     t.err.message);
        cr_assert(strstr(t.err.message, "no space left on device") != NULL, "%s", t.err.message);
        cr_assert(strstr(t.err.message, t.dir) != NULL);
        expect_blob(&t, &kept_digest, &kept);
        cr_assert_eq(chunk_count(&t), 3);
        expect_no_pending(&t);
        digest = put_bytes(&t, &middle);
        expect_blob(&t, &digest, &middle);
        cr_assert_eq(lq_blob_drop(t.cache, &digest, &t.err), LQ_OK, "%s", t.err.message);
        if (round == 2) {
            test_cache_reopen(&t);
        }
    }
    expect_verify(&t, 1, 0);
    struct lq_action_record record = {0};
    struct lq_digest key = digest_number(1);
    cr_assert_eq(lq_action_put(t.cache, &key, &record, "label", "manifest", &t.err), LQ_OK, "%s",
                 t.err.message);
    lq_cache_close(t.cache);
    cr_assert_eq(umount(t.dir), 0);
    test_remove_folder(t.dir);
    free(kept.data);
    free(large.data);
    free(middle.data);
}

Test(cache_disk, full_before_opening_is_an_error)
{
    struct test_cache t;
    test_cache_folder(&t);
    if (mount("tmpfs", t.dir, "tmpfs", 0, "size=1m") != 0) {
        printf("SKIP: mounting a small tmpfs is not permitted: %s\n", strerror(errno));
        test_remove_folder(t.dir);
        cr_skip_test("mounting a small tmpfs is not permitted");
    }
    char path[512];
    (void)snprintf(path, sizeof path, "%s/filler", t.dir);
    FILE *filler = fopen(path, "w");
    cr_assert_not_null(filler);
    while (fputc('x', filler) != EOF && fflush(filler) == 0) {
        static char block[4095];
        (void)fwrite(block, 1, sizeof block, filler);
    }
    (void)fclose(filler);
    enum lq_status status = test_cache_try(&t);
    cr_assert_eq(status, LQ_EIO, "%s", t.err.message);
    cr_assert(strstr(t.err.message, "no space left") != NULL, "%s", t.err.message);
    cr_assert_eq(remove(path), 0);
    cr_assert_eq(test_cache_try(&t), LQ_OK, "%s", t.err.message);
    lq_cache_close(t.cache);
    cr_assert_eq(umount(t.dir), 0);
    test_remove_folder(t.dir);
}

/* ---- threads ---- */

enum { thread_count = 8, thread_rounds = 25 };

struct worker {
    struct test_cache *t;
    unsigned number;
    unsigned failures;
};

/* Every thread stores blobs that others store too, reads them, joins, drops its own, and keeps
 * records. */
static void *work(void *user)
{
    struct worker *worker = user;
    struct lq_cache *cache = worker->t->cache;
    struct lq_error err = {0};
    struct lq_arena arena;
    lq_arena_init(&arena);
    for (unsigned round = 0; round < thread_rounds; round++) {
        struct bytes shared = random_bytes(150000 + round * 9000, round);
        struct bytes own = random_bytes(1000 + round, 1000 * (worker->number + 1) + round);
        struct lq_digest shared_digest = {0};
        struct lq_digest own_digest = {0};
        struct lq_digest joined_digest = {0};
        struct lq_blob_writer *writer = NULL;
        struct lq_blob_reader *reader = NULL;
        unsigned char *got = malloc(shared.size + own.size);
        bool ok = lq_blob_put(cache, shared.data, shared.size, &shared_digest, &err) == LQ_OK &&
                  lq_blob_put(cache, own.data, own.size, &own_digest, &err) == LQ_OK &&
                  lq_blob_begin(cache, &writer, &err) == LQ_OK &&
                  lq_blob_write_blob(writer, &own_digest, &err) == LQ_OK &&
                  lq_blob_write_blob(writer, &shared_digest, &err) == LQ_OK &&
                  lq_blob_commit(writer, &joined_digest, NULL, &err) == LQ_OK &&
                  lq_blob_open(cache, &joined_digest, true, &reader, &err) == LQ_OK &&
                  reader != NULL &&
                  lq_blob_read(reader, 0, got, shared.size + own.size, &err) == LQ_OK &&
                  memcmp(got, own.data, own.size) == 0 &&
                  memcmp(got + own.size, shared.data, shared.size) == 0;
        lq_blob_close(reader);
        struct lq_action_output output = {.name = "out", .digest = joined_digest};
        struct lq_action_record record = {.outputs = &output, .output_count = 1};
        struct lq_action_record back;
        struct lq_file_sig sig = {worker->number, round, 3, 4, 5};
        struct lq_digest known;
        bool found = false;
        ok = ok && lq_action_put(cache, &own_digest, &record, "label", "manifest", &err) == LQ_OK &&
             lq_action_get(cache, &own_digest, &arena, &back, &found, &err) == LQ_OK && found &&
             lq_file_digest_put(cache, &sig, "plain", &own_digest, &err) == LQ_OK &&
             lq_file_digest_get(cache, &sig, "plain", &known) &&
             lq_digest_equal(&known, &own_digest);
        if (ok && round % 2 == 0) {
            ok = lq_blob_drop(cache, &joined_digest, &err) == LQ_OK &&
                 lq_blob_drop(cache, &own_digest, &err) == LQ_OK &&
                 !lq_blob_exists(cache, &own_digest, NULL);
        }
        if (!ok) {
            printf("thread %u round %u: %s\n", worker->number, round, err.message);
            worker->failures++;
        }
        free(got);
        free(shared.data);
        free(own.data);
    }
    lq_arena_fini(&arena);
    return NULL;
}

struct numbered {
    unsigned char number;
    bool refused;
};

static enum lq_status put_number(struct lq_txn *txn, void *user, struct lq_error *err)
{
    const struct numbered *numbered = user;
    struct lq_bytes bytes = {&numbered->number, 1};
    if (numbered->refused) {
        return lq_error_set(err, LQ_ECACHE, "number %d is refused", numbered->number);
    }
    return lq_txn_put(txn, LQ_DB_PINS, &bytes, &bytes, err);
}

/* Changes that were begun are done in order, without anybody waiting; one that fails spares its
 * neighbours, and says so where it ends. */
Test(cache_threads, changes_begin_and_end_apart)
{
    enum { COUNT = 20, REFUSED = 7 };
    struct test_cache t;
    struct numbered numbers[COUNT];
    struct lq_store_writing *writings[COUNT];
    test_cache_open(&t, 0);
    struct lq_store *store = t.cache->store;
    for (unsigned char i = 0; i < COUNT; i++) {
        numbers[i] = (struct numbered){.number = i, .refused = i == REFUSED};
        cr_assert_eq(lq_store_write_begin(store, LQ_STORE_UNNAMED, 100, put_number, &numbers[i],
                                          &writings[i], &t.err),
                     LQ_OK);
    }
    struct numbered last = {.number = COUNT};
    cr_assert_eq(lq_store_write(store, 0, 100, put_number, &last, &t.err), LQ_OK);
    for (unsigned i = 0; i < COUNT; i++) {
        enum lq_status status = lq_store_write_end(store, writings[i], &t.err);
        cr_assert_eq(status, i == REFUSED ? LQ_ECACHE : LQ_OK, "%u: %s", i, t.err.message);
    }
    cr_assert(strstr(t.err.message, "number 7 is refused") != NULL, "%s", t.err.message);
    struct lq_txn txn;
    cr_assert_eq(lq_store_read_begin(store, &txn, &t.err), LQ_OK);
    for (unsigned char i = 0; i <= COUNT; i++) {
        struct lq_bytes value;
        bool found = false;
        cr_assert_eq(
            lq_txn_get(&txn, LQ_DB_PINS, &(struct lq_bytes){&i, 1}, &value, &found, &t.err), LQ_OK);
        cr_assert_eq(found, i != REFUSED, "%u", i);
    }
    lq_store_read_end(&txn);
    test_cache_close(&t);
}

Test(cache_threads, share_one_store, .timeout = 240)
{
    struct test_cache t;
    struct worker workers[thread_count];
    pthread_t threads[thread_count];
    /* A small map: it grows in the middle of everything. */
    test_cache_open(&t, 256 * 1024);
    for (unsigned i = 0; i < thread_count; i++) {
        workers[i] = (struct worker){.t = &t, .number = i};
        cr_assert_eq(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < thread_count; i++) {
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
        cr_assert_eq(workers[i].failures, 0);
    }
    struct lq_cache_stats stats;
    cr_assert_eq(lq_cache_stats_get(t.cache, &stats, &t.err), LQ_OK);
    unsigned kept = thread_count * (thread_rounds / 2);
    cr_assert_eq(stats.blob_count, thread_rounds + kept, "%llu",
                 (unsigned long long)stats.blob_count);
    cr_assert_eq(stats.joined_count, kept);
    cr_assert_eq(stats.action_count, thread_count * thread_rounds);
    cr_assert_eq(stats.file_count, thread_count * thread_rounds);
    cr_assert_eq(stats.history_count, 1);
    expect_verify(&t, thread_rounds + 2 * kept, 0);
    expect_no_pending(&t);
    cr_assert_eq(t.warnings, 0, "%s", t.last_warning);
    test_cache_close(&t);
}
