/* The store between processes: step locks, writers that are killed at any moment, two that publish
 * the same, leftovers that are swept. Children are forked before anybody opens the cache, and each
 * opens its own. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/cache_helpers.h"

struct child {
    pid_t pid;
    int to[2];   /* the parent writes */
    int from[2]; /* the child writes */
};

static void say(int fd)
{
    char byte = 'x';
    if (write(fd, &byte, 1) != 1) {
        _exit(90);
    }
}

static void hear(int fd)
{
    char byte;
    if (read(fd, &byte, 1) != 1) {
        _exit(91);
    }
}

/* Runs `body` in a child; it ends with _exit there. */
static void start(struct child *child, struct test_cache *t,
                  void (*body)(struct child *child, struct test_cache *t, uint64_t seed),
                  uint64_t seed)
{
    cr_assert_eq(pipe(child->to), 0);
    cr_assert_eq(pipe(child->from), 0);
    child->pid = fork();
    cr_assert_geq(child->pid, 0);
    if (child->pid == 0) {
        body(child, t, seed);
        _exit(0);
    }
}

static void finish(struct child *child, int signal_number)
{
    int status = 0;
    if (signal_number != 0) {
        cr_assert_eq(kill(child->pid, signal_number), 0);
    }
    cr_assert_eq(waitpid(child->pid, &status, 0), child->pid);
    if (signal_number == 0) {
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %d", status);
    } else {
        /* A child that ended by itself found something wrong. */
        cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == signal_number, "status %d", status);
    }
    for (int i = 0; i < 2; i++) {
        (void)close(child->to[i]);
        (void)close(child->from[i]);
    }
}

static struct lq_digest digest_number(uint64_t number)
{
    struct lq_digest digest;
    lq_digest_of(&number, sizeof number, &digest);
    return digest;
}

/* ---- locks ---- */

static void hold_lock(struct child *child, struct test_cache *t, uint64_t seed)
{
    struct lq_digest key = digest_number(seed);
    bool acquired = false;
    if (test_cache_try(t) != LQ_OK ||
        lq_cache_lock_try(t->cache, &key, &acquired, &t->err) != LQ_OK || !acquired) {
        _exit(1);
    }
    say(child->from[1]);
    hear(child->to[0]);
    lq_cache_unlock(t->cache, &key);
    say(child->from[1]);
    hear(child->to[0]);
    if (lq_cache_lock_try(t->cache, &key, &acquired, &t->err) != LQ_OK || !acquired) {
        _exit(2);
    }
    say(child->from[1]);
    (void)pause();
}

Test(cache_process, a_step_lock_keeps_others_out_and_dies_with_its_process)
{
    struct test_cache t;
    struct child child;
    bool acquired = true;
    struct lq_digest key = digest_number(1);
    struct lq_digest other = digest_number(2);
    test_cache_folder(&t);
    start(&child, &t, hold_lock, 1);
    hear(child.from[0]);
    cr_assert_eq(test_cache_try(&t), LQ_OK, "%s", t.err.message);
    cr_assert_eq(lq_cache_lock_try(t.cache, &key, &acquired, &t.err), LQ_OK);
    cr_assert_not(acquired);
    cr_assert_eq(lq_cache_lock_try(t.cache, &other, &acquired, &t.err), LQ_OK);
    cr_assert(acquired);
    lq_cache_unlock(t.cache, &other);
    cr_assert_eq(lq_cache_clear(t.cache, &t.err), LQ_ECACHE);
    cr_assert(strstr(t.err.message, "a build is at work") != NULL, "%s", t.err.message);
    say(child.to[1]);
    hear(child.from[0]);
    cr_assert_eq(lq_cache_lock_try(t.cache, &key, &acquired, &t.err), LQ_OK);
    cr_assert(acquired);
    lq_cache_unlock(t.cache, &key);
    say(child.to[1]);
    hear(child.from[0]);
    cr_assert_eq(lq_cache_lock_try(t.cache, &key, &acquired, &t.err), LQ_OK);
    cr_assert_not(acquired);
    finish(&child, SIGKILL);
    cr_assert_eq(lq_cache_lock_try(t.cache, &key, &acquired, &t.err), LQ_OK);
    cr_assert(acquired);
    lq_cache_unlock(t.cache, &key);
    cr_assert_eq(lq_cache_clear(t.cache, &t.err), LQ_OK, "%s", t.err.message);
    test_cache_close(&t);
}

/* ---- unfinished writers ---- */

static void write_half(struct child *child, struct test_cache *t, uint64_t seed)
{
    struct bytes data = random_bytes(30 * (size_t)LQ_CHUNK_BYTES, seed);
    struct lq_blob_writer *writer = NULL;
    struct lq_digest digest;
    if (test_cache_try(t) != LQ_OK || lq_blob_begin(t->cache, &writer, &t->err) != LQ_OK ||
        lq_blob_write(writer, data.data, data.size, &t->err) != LQ_OK) {
        _exit(1);
    }
    say(child->from[1]);
    hear(child->to[0]);
    if (lq_blob_commit(writer, &digest, NULL, &t->err) != LQ_OK) {
        _exit(2);
    }
    lq_cache_close(t->cache);
}

Test(cache_process, chunks_of_a_live_writer_stay_and_of_a_dead_one_go)
{
    struct test_cache t;
    struct child lives;
    struct child dies;
    test_cache_folder(&t);
    start(&lives, &t, write_half, 1);
    start(&dies, &t, write_half, 2);
    hear(lives.from[0]);
    hear(dies.from[0]);
    cr_assert_eq(test_cache_try(&t), LQ_OK, "%s", t.err.message);
    cr_assert_eq(record_count(&t, LQ_DB_PENDING), 2);
    uint64_t both = chunk_count(&t);
    test_cache_reopen(&t);
    cr_assert_eq(chunk_count(&t), both);
    finish(&dies, SIGKILL);
    test_cache_reopen(&t);
    cr_assert_eq(record_count(&t, LQ_DB_PENDING), 1);
    cr_assert_eq(chunk_count(&t), both / 2);
    say(lives.to[1]);
    finish(&lives, 0);
    expect_no_pending(&t);
    expect_verify(&t, 1, 0);
    struct bytes data = random_bytes(30 * (size_t)LQ_CHUNK_BYTES, 1);
    struct lq_digest digest;
    lq_digest_of(data.data, data.size, &digest);
    expect_blob(&t, &digest, &data);
    free(data.data);
    test_cache_close(&t);
}

/* ---- readers that are killed ---- */

static void read_and_wait(struct child *child, struct test_cache *t, uint64_t seed)
{
    struct lq_txn txn;
    (void)seed;
    if (test_cache_try(t) != LQ_OK ||
        lq_store_read_begin(t->cache->store, &txn, &t->err) != LQ_OK) {
        _exit(1);
    }
    say(child->from[1]);
    (void)pause();
}

Test(cache_process, a_killed_reader_does_not_make_the_file_grow)
{
    struct test_cache t;
    struct child child;
    test_cache_folder(&t);
    start(&child, &t, read_and_wait, 0);
    hear(child.from[0]);
    cr_assert_eq(test_cache_try(&t), LQ_OK, "%s", t.err.message);
    finish(&child, SIGKILL);
    uint64_t most = 0;
    for (uint64_t i = 0; i < 400; i++) {
        struct bytes data = random_bytes(1000000, i);
        struct lq_digest digest = put_bytes(&t, &data);
        cr_assert_eq(lq_blob_drop(t.cache, &digest, &t.err), LQ_OK);
        free(data.data);
    }
    most = lq_store_disk_bytes(t.cache->store);
    printf("400 MB written, %llu bytes on disk\n", (unsigned long long)most);
    cr_assert_lt(most, 100u * 1024 * 1024);
    test_cache_close(&t);
}

static void publish_same(struct child *child, struct test_cache *t, uint64_t seed)
{
    if (test_cache_try(t) != LQ_OK) {
        _exit(1);
    }
    (void)seed;
    say(child->from[1]);
    hear(child->to[0]);
    for (uint64_t i = 0; i < 20; i++) {
        struct bytes data = random_bytes(60000 + (size_t)i * 700000, i);
        struct lq_digest digest;
        struct lq_action_record record = {0};
        if (lq_blob_put(t->cache, data.data, data.size, &digest, &t->err) != LQ_OK ||
            lq_action_put(t->cache, &digest, &record, "same", "same", &t->err) != LQ_OK) {
            _exit(2);
        }
        free(data.data);
    }
    lq_cache_close(t->cache);
}

Test(cache_process, several_publish_the_same)
{
    struct test_cache t;
    struct child children[3];
    test_cache_folder(&t);
    for (int i = 0; i < 3; i++) {
        start(&children[i], &t, publish_same, 0);
    }
    for (int i = 0; i < 3; i++) {
        hear(children[i].from[0]);
    }
    for (int i = 0; i < 3; i++) {
        say(children[i].to[1]);
    }
    for (int i = 0; i < 3; i++) {
        finish(&children[i], 0);
    }
    cr_assert_eq(test_cache_try(&t), LQ_OK, "%s", t.err.message);
    expect_no_pending(&t);
    expect_verify(&t, 20, 0);
    test_cache_close(&t);
}

/* ---- kill -9 at any moment ---- */

static bool publish_step(struct test_cache *t, uint64_t *seed, uint64_t number)
{
    struct lq_cache *cache = t->cache;
    struct lq_digest digests[3];
    uint64_t kind = next_random(seed) % 4;
    size_t max = kind == 0   ? 2000
                 : kind == 1 ? 300000
                 : kind == 2 ? 3 * (size_t)LQ_CHUNK_BYTES
                             : 20 * (size_t)LQ_CHUNK_BYTES;
    for (int i = 0; i < 2; i++) {
        struct bytes data =
            random_bytes((size_t)(next_random(seed) % (i == 0 ? 5000 : max)), next_random(seed));
        bool ok = lq_blob_put(cache, data.data, data.size, &digests[i], &t->err) == LQ_OK;
        free(data.data);
        if (!ok) {
            return false;
        }
    }
    struct lq_blob_writer *writer = NULL;
    if (lq_blob_begin(cache, &writer, &t->err) != LQ_OK ||
        lq_blob_write(writer, &number, sizeof number, &t->err) != LQ_OK ||
        lq_blob_write_blob(writer, &digests[0], &t->err) != LQ_OK ||
        lq_blob_write_blob(writer, &digests[1], &t->err) != LQ_OK ||
        lq_blob_commit(writer, &digests[2], NULL, &t->err) != LQ_OK) {
        return false;
    }
    struct lq_action_output outputs[3] = {{.name = "a", .digest = digests[0]},
                                          {.name = "b", .digest = digests[1]},
                                          {.name = "c", .digest = digests[2]}};
    /* Every third step is a transient one: its outputs go again. */
    bool transient = number % 3 == 2;
    for (int i = 0; i < 3; i++) {
        outputs[i].transient = transient;
    }
    struct lq_action_record record = {.outputs = outputs, .output_count = 3, .step_count = number};
    if (lq_action_put(cache, &digests[2], &record, "label", "manifest", &t->err) != LQ_OK) {
        return false;
    }
    for (int i = 2; i >= 0 && transient; i--) {
        if (lq_blob_drop(cache, &digests[i], &t->err) != LQ_OK) {
            return false;
        }
    }
    return true;
}

static void publish_forever(struct child *child, struct test_cache *t, uint64_t seed)
{
    t->map_bytes = 1024 * 1024;
    say(child->from[1]);
    if (test_cache_try(t) != LQ_OK) {
        (void)fprintf(stderr, "child: %s\n", t->err.message);
        _exit(1);
    }
    for (uint64_t i = 0;; i++) {
        if (!publish_step(t, &seed, i)) {
            (void)fprintf(stderr, "child: %s\n", t->err.message);
            _exit(2);
        }
    }
}

/* What a record promises is there. Returns the number of records. */
static unsigned expect_actions_whole(struct test_cache *t)
{
    struct lq_arena arena;
    struct lq_digest key;
    bool found = true;
    unsigned count = 0;
    lq_arena_init(&arena);
    memset(&key, 0, sizeof key);
    for (;;) {
        struct lq_txn txn;
        struct lq_bytes raw = {key.bytes, count == 0 ? 0 : LQ_DIGEST_BYTES};
        struct lq_bytes found_key;
        struct lq_bytes value;
        cr_assert_eq(lq_store_read_begin(t->cache->store, &txn, &t->err), LQ_OK);
        cr_assert_eq(
            lq_txn_next(&txn, LQ_DB_ACTIONS, &raw, count > 0, &found_key, &value, &found, &t->err),
            LQ_OK);
        if (found) {
            memcpy(key.bytes, found_key.data, LQ_DIGEST_BYTES);
        }
        lq_store_read_end(&txn);
        if (!found) {
            break;
        }
        struct lq_action_record record;
        cr_assert_eq(lq_action_get(t->cache, &key, &arena, &record, &found, &t->err), LQ_OK);
        cr_assert(found, "%s", t->last_warning);
        for (size_t i = 0; i < record.output_count; i++) {
            cr_assert(record.outputs[i].transient ||
                          lq_blob_exists(t->cache, &record.outputs[i].digest, NULL),
                      "output %s of a record is missing", record.outputs[i].name);
        }
        count++;
    }
    lq_arena_fini(&arena);
    return count;
}

Test(cache_process, killed_writers_leave_a_sound_store, .timeout = 240)
{
    struct test_cache t;
    uint64_t seed = (uint64_t)time(NULL);
    printf("seed %llu\n", (unsigned long long)seed);
    test_cache_folder(&t);
    unsigned records = 0;
    for (int round = 0; round < 25; round++) {
        struct child children[2];
        for (int i = 0; i < 2; i++) {
            start(&children[i], &t, publish_forever, next_random(&seed));
        }
        for (int i = 0; i < 2; i++) {
            hear(children[i].from[0]);
        }
        for (int i = 0; i < 2; i++) {
            struct timespec wait = {0, (long)(next_random(&seed) % 60000000)};
            (void)nanosleep(&wait, NULL);
            finish(&children[i], SIGKILL);
        }
        cr_assert_eq(test_cache_try(&t), LQ_OK, "round %d: %s", round, t.err.message);
        expect_no_pending(&t);
        /* On a busy machine children may be killed before they get to publish anything. */
        records += expect_actions_whole(&t);
        if (round % 6 == 5) {
            uint64_t checked = 0;
            uint64_t removed = 0;
            cr_assert_eq(lq_cache_verify(t.cache, &checked, &removed, &t.err), LQ_OK);
            cr_assert_eq(removed, 0, "%s", t.last_warning);
            cr_assert_eq(t.warnings, 0, "%s", t.last_warning);
            cr_assert_eq(lq_cache_clear(t.cache, &t.err), LQ_OK, "%s", t.err.message);
            cr_assert_eq(chunk_count(&t), 0);
        }
        lq_cache_close(t.cache);
        t.cache = NULL;
    }
    cr_assert_gt(records, 0, "no child published anything");
    test_cache_close(&t);
}
