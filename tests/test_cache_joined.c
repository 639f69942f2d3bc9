/* The store within one process: concatenations, content that was altered behind its back, and
 * clearing all of it. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "cache/cache_internal.h"
#include "engine/base/pool.h"
#include "tests/cache_helpers.h"

/* ---- concatenations ---- */

struct joined {
    struct bytes content;
    struct lq_digest parts[3];
    struct lq_digest digest;
};

/* header, part, part, padding, part, the first part again, trailer */
static void make_joined(struct test_cache *t, struct joined *out, uint64_t seed)
{
    static const size_t part_sizes[3] = {300, 2 * (size_t)LQ_CHUNK_BYTES + 100,
                                         9 * (size_t)LQ_CHUNK_BYTES};
    struct bytes parts[3];
    struct bytes header = random_bytes(5000, seed);
    struct bytes padding = random_bytes(17, seed + 1);
    size_t total = 0;
    for (int i = 0; i < 3; i++) {
        parts[i] = random_bytes(part_sizes[i], seed + 2 + (uint64_t)i);
        out->parts[i] = put_bytes(t, &parts[i]);
        total += part_sizes[i];
    }
    const struct bytes *order[] = {&header,   &parts[0], &parts[1], &padding,
                                   &parts[2], &parts[0], &header};
    out->content.size = total + part_sizes[0] + 2 * header.size + padding.size;
    out->content.data = malloc(out->content.size);
    struct lq_blob_writer *writer = NULL;
    cr_assert_eq(lq_blob_begin(t->cache, &writer, &t->err), LQ_OK);
    size_t at = 0;
    for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
        memcpy(out->content.data + at, order[i]->data, order[i]->size);
        at += order[i]->size;
        enum lq_status status = LQ_OK;
        int part = -1;
        for (int k = 0; k < 3; k++) {
            part = order[i] == &parts[k] ? k : part;
        }
        status = part >= 0 ? lq_blob_write_blob(writer, &out->parts[part], &t->err)
                           : lq_blob_write(writer, order[i]->data, order[i]->size, &t->err);
        cr_assert_eq(status, LQ_OK, "%s", t->err.message);
    }
    cr_assert_eq(at, out->content.size);
    uint64_t size = 0;
    cr_assert_eq(lq_blob_commit(writer, &out->digest, &size, &t->err), LQ_OK, "%s", t->err.message);
    cr_assert_eq(size, out->content.size);
    struct lq_digest expected;
    lq_digest_of(out->content.data, out->content.size, &expected);
    cr_assert(lq_digest_equal(&expected, &out->digest));
    for (int i = 0; i < 3; i++) {
        free(parts[i].data);
    }
    free(header.data);
    free(padding.data);
}

Test(cache_joined, reads_like_one_blob_and_stores_nothing_twice)
{
    struct test_cache t;
    struct joined joined;
    test_cache_open(&t, 0);
    make_joined(&t, &joined, 100);
    expect_blob(&t, &joined.digest, &joined.content);
    struct lq_cache_stats stats;
    cr_assert_eq(lq_cache_stats_get(t.cache, &stats, &t.err), LQ_OK);
    cr_assert_eq(stats.joined_count, 1);
    cr_assert_eq(stats.joined_bytes, joined.content.size);
    cr_assert_eq(stats.blob_count, 3);
    cr_assert_eq(chunk_count(&t), 3 + 9 + 1);
    expect_verify(&t, 4, 0);
    free(joined.content.data);
    test_cache_close(&t);
}

Test(cache_joined, keeps_its_parts_and_lets_them_go)
{
    struct test_cache t;
    struct joined joined;
    test_cache_open(&t, 0);
    make_joined(&t, &joined, 200);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(lq_blob_drop(t.cache, &joined.parts[i], &t.err), LQ_OK);
        cr_assert(lq_blob_exists(t.cache, &joined.parts[i], NULL), "part %d was dropped", i);
    }
    expect_blob(&t, &joined.digest, &joined.content);
    cr_assert_eq(lq_blob_drop(t.cache, &joined.digest, &t.err), LQ_OK);
    cr_assert_not(lq_blob_exists(t.cache, &joined.digest, NULL));
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(lq_blob_drop(t.cache, &joined.parts[i], &t.err), LQ_OK);
        cr_assert_not(lq_blob_exists(t.cache, &joined.parts[i], NULL), "part %d is left", i);
    }
    cr_assert_eq(chunk_count(&t), 0);
    expect_no_pending(&t);
    free(joined.content.data);
    test_cache_close(&t);
}

struct copied {
    struct bytes content;
    size_t size;
    size_t calls;
    enum lq_status answer;
};

static enum lq_status take_copy(void *user, const void *data, size_t size, struct lq_error *err)
{
    struct copied *copied = user;
    copied->calls++;
    if (copied->answer != LQ_OK) {
        return lq_error_set(err, copied->answer, "the copy was told to fail");
    }
    cr_assert_leq(copied->size + size, copied->content.size);
    memcpy(copied->content.data + copied->size, data, size);
    copied->size += size;
    return LQ_OK;
}

static void expect_copy(struct copied *copied, const struct bytes *content)
{
    cr_assert_eq(copied->size, content->size, "%zu bytes instead of %zu", copied->size,
                 content->size);
    cr_assert_arr_eq(copied->content.data, content->data, content->size);
    memset(copied->content.data, 0, copied->content.size);
    copied->size = 0;
    copied->calls = 0;
}

/* Small writes, one that goes to the disk from where it lies, a joined part with small, large and
 * inline pieces, and a trailer; alone and with threads. */
Test(cache_joined, is_copied_while_it_is_made)
{
    struct test_cache t;
    struct joined joined;
    test_cache_open(&t, 0);
    make_joined(&t, &joined, 700);
    struct bytes large = random_bytes(19 * (size_t)LQ_CHUNK_BYTES + 5, 701);
    struct bytes all = {malloc(large.size + joined.content.size + 4000), 0};
    struct copied copied = {.content = {malloc(large.size + joined.content.size + 4000),
                                        large.size + joined.content.size + 4000}};
    for (unsigned threads = 0; threads <= 3; threads += 3) {
        struct lq_pool *pool = NULL;
        if (threads > 0) {
            cr_assert_eq(lq_pool_create(&pool, threads, &t.err), LQ_OK);
        }
        struct lq_blob_writer *writer = NULL;
        struct lq_digest digest;
        cr_assert_eq(lq_blob_begin(t.cache, &writer, &t.err), LQ_OK);
        lq_blob_use_pool(writer, pool);
        lq_blob_tee(writer, take_copy, &copied);
        all.size = 0;
        for (size_t i = 0; i < 2000; i++) {
            unsigned char c = (unsigned char)(i * (7 + threads));
            cr_assert_eq(lq_blob_write(writer, &c, 1, &t.err), LQ_OK);
            all.data[all.size++] = c;
        }
        cr_assert_eq(copied.calls, 0, "a call for a byte");
        cr_assert_eq(lq_blob_write_blob(writer, &joined.digest, &t.err), LQ_OK);
        memcpy(all.data + all.size, joined.content.data, joined.content.size);
        all.size += joined.content.size;
        cr_assert_eq(lq_blob_write(writer, large.data, large.size, &t.err), LQ_OK);
        memcpy(all.data + all.size, large.data, large.size);
        all.size += large.size;
        cr_assert_eq(lq_blob_write(writer, "tail", 4, &t.err), LQ_OK);
        memcpy(all.data + all.size, "tail", 4);
        all.size += 4;
        cr_assert_eq(lq_blob_commit(writer, &digest, NULL, &t.err), LQ_OK, "%s", t.err.message);
        expect_copy(&copied, &all);
        expect_blob(&t, &digest, &all);
        /* And out of the cache. */
        struct lq_blob_reader *reader = NULL;
        struct lq_hasher *hasher = lq_hasher_create();
        struct lq_digest walked;
        cr_assert_eq(lq_blob_open(t.cache, &digest, false, &reader, &t.err), LQ_OK);
        cr_assert_eq(lq_blob_walk(reader, pool, &hasher, 1, take_copy, &copied, &t.err), LQ_OK);
        lq_hasher_finish(hasher, &walked);
        cr_assert(lq_digest_equal(&walked, &digest));
        expect_copy(&copied, &all);
        copied.answer = LQ_EIO;
        cr_assert_eq(lq_blob_walk(reader, pool, &hasher, 1, take_copy, &copied, &t.err), LQ_EIO);
        copied.answer = LQ_OK;
        copied.calls = 0;
        lq_hasher_destroy(hasher);
        lq_blob_close(reader);
        lq_pool_destroy(pool);
    }
    free(all.data);
    free(large.data);
    free(copied.content.data);
    free(joined.content.data);
    test_cache_close(&t);
}

Test(cache_joined, a_copy_that_fails_fails_the_writer)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    struct bytes data = random_bytes(3 * (size_t)LQ_CHUNK_BYTES, 702);
    struct lq_digest part = put_bytes(&t, &data);
    struct copied copied = {.answer = LQ_EIO};
    struct lq_blob_writer *writer = NULL;
    struct lq_digest digest;
    cr_assert_eq(lq_blob_begin(t.cache, &writer, &t.err), LQ_OK);
    lq_blob_tee(writer, take_copy, &copied);
    cr_assert_eq(lq_blob_write_blob(writer, &part, &t.err), LQ_EIO);
    cr_assert_eq(lq_blob_commit(writer, &digest, NULL, &t.err), LQ_ECACHE);
    cr_assert_eq(lq_blob_begin(t.cache, &writer, &t.err), LQ_OK);
    lq_blob_tee(writer, take_copy, &copied);
    cr_assert_eq(lq_blob_write(writer, "few", 3, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_commit(writer, &digest, NULL, &t.err), LQ_EIO);
    expect_no_pending(&t);
    expect_verify(&t, 1, 0);
    free(data.data);
    test_cache_close(&t);
}

Test(cache_joined, of_joined_is_taken_apart)
{
    struct test_cache t;
    struct joined joined;
    test_cache_open(&t, 0);
    make_joined(&t, &joined, 300);
    struct lq_blob_writer *writer = NULL;
    struct lq_digest digest;
    cr_assert_eq(lq_blob_begin(t.cache, &writer, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_write(writer, "head", 4, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_write_blob(writer, &joined.digest, &t.err), LQ_OK, "%s", t.err.message);
    cr_assert_eq(lq_blob_write(writer, "tail", 4, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_commit(writer, &digest, NULL, &t.err), LQ_OK, "%s", t.err.message);
    struct bytes expected = {malloc(joined.content.size + 8), joined.content.size + 8};
    memcpy(expected.data, "head", 4);
    memcpy(expected.data + 4, joined.content.data, joined.content.size);
    memcpy(expected.data + 4 + joined.content.size, "tail", 4);
    expect_blob(&t, &digest, &expected);
    /* The inner one is not referred to, only its parts are. */
    cr_assert_eq(lq_blob_drop(t.cache, &joined.digest, &t.err), LQ_OK);
    cr_assert_not(lq_blob_exists(t.cache, &joined.digest, NULL));
    expect_blob(&t, &digest, &expected);
    free(expected.data);
    free(joined.content.data);
    test_cache_close(&t);
}

Test(cache_joined, empty_parts_and_only_parts)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    struct bytes empty = {NULL, 0};
    struct bytes data = random_bytes(70000, 8);
    struct lq_digest empty_digest = put_bytes(&t, &empty);
    struct lq_digest data_digest = put_bytes(&t, &data);
    struct lq_blob_writer *writer = NULL;
    struct lq_digest digest;
    cr_assert_eq(lq_blob_begin(t.cache, &writer, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_write_blob(writer, &empty_digest, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_commit(writer, &digest, NULL, &t.err), LQ_OK);
    cr_assert(lq_digest_equal(&digest, &empty_digest));
    /* The same content as one that is there: nothing new. */
    cr_assert_eq(lq_blob_begin(t.cache, &writer, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_write_blob(writer, &data_digest, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_commit(writer, &digest, NULL, &t.err), LQ_OK);
    cr_assert(lq_digest_equal(&digest, &data_digest));
    cr_assert_eq(lq_blob_drop(t.cache, &data_digest, &t.err), LQ_OK);
    cr_assert_not(lq_blob_exists(t.cache, &data_digest, NULL));
    /* Twice the same part, nothing inline. */
    (void)put_bytes(&t, &data);
    cr_assert_eq(lq_blob_begin(t.cache, &writer, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_write_blob(writer, &data_digest, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_write_blob(writer, &data_digest, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_commit(writer, &digest, NULL, &t.err), LQ_OK);
    struct bytes twice = {malloc(2 * data.size), 2 * data.size};
    memcpy(twice.data, data.data, data.size);
    memcpy(twice.data + data.size, data.data, data.size);
    expect_blob(&t, &digest, &twice);
    free(twice.data);
    free(data.data);
    test_cache_close(&t);
}

Test(cache_joined, missing_part_fails_the_writer_and_nothing_else)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    struct lq_digest absent;
    struct lq_digest digest;
    struct lq_blob_writer *writer = NULL;
    lq_digest_of("absent", 6, &absent);
    cr_assert_eq(lq_blob_begin(t.cache, &writer, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_write_blob(writer, &absent, &t.err), LQ_ECACHE);
    cr_assert_eq(lq_blob_write(writer, "x", 1, &t.err), LQ_ECACHE);
    cr_assert_eq(lq_blob_commit(writer, &digest, NULL, &t.err), LQ_ECACHE);
    /* A part that goes between writing and publishing. */
    struct bytes data = random_bytes(100000, 9);
    struct lq_digest part = put_bytes(&t, &data);
    cr_assert_eq(lq_blob_begin(t.cache, &writer, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_write(writer, "x", 1, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_write_blob(writer, &part, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_drop(t.cache, &part, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_commit(writer, &digest, NULL, &t.err), LQ_ECACHE);
    cr_assert_eq(chunk_count(&t), 0);
    expect_no_pending(&t);
    free(data.data);
    test_cache_close(&t);
}

/* ---- altered content ---- */

Test(cache_heal, every_flipped_byte_of_a_blob_is_found)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    struct bytes data = random_bytes(10 * (size_t)LQ_CHUNK_BYTES + 333, 10);
    struct lq_digest digest = put_bytes(&t, &data);
    uint64_t seed = 77;
    for (int round = 0; round < 8; round++) {
        size_t at = round == 0   ? 0
                    : round == 1 ? data.size - 1
                                 : (size_t)(next_random(&seed) % data.size);
        size_t window = at + 64 > data.size ? data.size - 64 : at;
        flip_in_file(&t, data.data + window, 64, at - window);
        struct lq_blob_reader *reader = NULL;
        unsigned before = t.warnings;
        cr_assert_eq(lq_blob_open(t.cache, &digest, true, &reader, &t.err), LQ_OK);
        cr_assert_null(reader, "a flip at %zu was not seen", at);
        cr_assert_eq(t.warnings, before + 1);
        cr_assert(strstr(t.last_warning, "does not match") != NULL);
        cr_assert_not(lq_blob_exists(t.cache, &digest, NULL));
        cr_assert_eq(chunk_count(&t), 0);
        (void)put_bytes(&t, &data);
        expect_blob(&t, &digest, &data);
    }
    free(data.data);
    test_cache_close(&t);
}

Test(cache_heal, bad_part_goes_with_the_concatenation)
{
    struct test_cache t;
    struct joined joined;
    test_cache_open(&t, 0);
    make_joined(&t, &joined, 400);
    /* 5000 + 300 bytes before the second part */
    flip_in_file(&t, joined.content.data + 5300 + 1000, 64, 3);
    struct lq_blob_reader *reader = NULL;
    cr_assert_eq(lq_blob_open(t.cache, &joined.digest, true, &reader, &t.err), LQ_OK);
    cr_assert_null(reader);
    cr_assert_not(lq_blob_exists(t.cache, &joined.digest, NULL));
    cr_assert_not(lq_blob_exists(t.cache, &joined.parts[1], NULL));
    cr_assert(lq_blob_exists(t.cache, &joined.parts[0], NULL));
    cr_assert(lq_blob_exists(t.cache, &joined.parts[2], NULL));
    expect_verify(&t, 2, 0);
    free(joined.content.data);
    make_joined(&t, &joined, 400);
    expect_blob(&t, &joined.digest, &joined.content);
    free(joined.content.data);
    test_cache_close(&t);
}

Test(cache_heal, altered_inline_bytes_spare_the_parts)
{
    struct test_cache t;
    struct joined joined;
    test_cache_open(&t, 0);
    make_joined(&t, &joined, 500);
    flip_in_file(&t, joined.content.data + 100, 64, 0);
    struct lq_blob_reader *reader = NULL;
    cr_assert_eq(lq_blob_open(t.cache, &joined.digest, true, &reader, &t.err), LQ_OK);
    cr_assert_null(reader);
    for (int i = 0; i < 3; i++) {
        cr_assert(lq_blob_exists(t.cache, &joined.parts[i], NULL));
        cr_assert_eq(lq_blob_drop(t.cache, &joined.parts[i], &t.err), LQ_OK);
        cr_assert_not(lq_blob_exists(t.cache, &joined.parts[i], NULL));
    }
    free(joined.content.data);
    test_cache_close(&t);
}

Test(cache_heal, verify_counts_and_removes)
{
    struct test_cache t;
    struct joined joined;
    test_cache_open(&t, 0);
    make_joined(&t, &joined, 600);
    struct bytes other = random_bytes(200000, 11);
    struct bytes small = random_bytes(2000, 12);
    struct lq_digest other_digest = put_bytes(&t, &other);
    struct lq_digest small_digest = put_bytes(&t, &small);
    test_cache_reopen(&t);
    flip_in_file(&t, other.data + 77777, 64, 0);
    flip_in_file(&t, small.data + 1000, 64, 63);
    flip_in_file(&t, joined.content.data + 5300 + 5000, 64, 1);
    uint64_t checked = 0;
    uint64_t removed = 0;
    cr_assert_eq(lq_cache_verify(t.cache, &checked, &removed, &t.err), LQ_OK, "%s", t.err.message);
    cr_assert_eq(checked, 6);
    cr_assert_eq(removed, 4, "removed %llu", (unsigned long long)removed);
    cr_assert_not(lq_blob_exists(t.cache, &other_digest, NULL));
    cr_assert_not(lq_blob_exists(t.cache, &small_digest, NULL));
    expect_verify(&t, 2, 0);
    cr_assert_eq(chunk_count(&t), 9);
    free(other.data);
    free(small.data);
    free(joined.content.data);
    test_cache_close(&t);
}

Test(cache_heal, a_wrong_part_is_refused_while_joining)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    struct bytes data = random_bytes(3 * (size_t)LQ_CHUNK_BYTES, 13);
    struct lq_pool *pool = NULL;
    cr_assert_eq(lq_pool_create(&pool, 2, &t.err), LQ_OK);
    for (int round = 0; round < 2; round++) {
        struct lq_digest part = put_bytes(&t, &data);
        flip_in_file(&t, data.data + 2000000, 64, 5);
        struct lq_blob_writer *writer = NULL;
        struct lq_digest digest;
        cr_assert_eq(lq_blob_begin(t.cache, &writer, &t.err), LQ_OK);
        lq_blob_use_pool(writer, round == 0 ? NULL : pool);
        cr_assert_eq(lq_blob_write_blob(writer, &part, &t.err), LQ_ECACHE);
        cr_assert_eq(lq_blob_commit(writer, &digest, NULL, &t.err), LQ_ECACHE);
        cr_assert_not(lq_blob_exists(t.cache, &part, NULL));
    }
    lq_pool_destroy(pool);
    free(data.data);
    test_cache_close(&t);
}
/* ---- clear ---- */

Test(cache_clear, removes_everything_and_stops_writers)
{
    struct test_cache t;
    struct joined joined;
    test_cache_open(&t, 0);
    make_joined(&t, &joined, 700);
    free(joined.content.data);
    struct lq_action_record record = {0};
    struct lq_digest key = {{9}};
    cr_assert_eq(lq_action_put(t.cache, &key, &record, "l", "m", &t.err), LQ_OK);
    struct bytes data = random_bytes(20 * (size_t)LQ_CHUNK_BYTES, 14);
    struct lq_blob_writer *writer = NULL;
    struct lq_digest digest;
    cr_assert_eq(lq_blob_begin(t.cache, &writer, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_write(writer, data.data, data.size, &t.err), LQ_OK);
    bool acquired = false;
    cr_assert_eq(lq_cache_lock_try(t.cache, &key, &acquired, &t.err), LQ_OK);
    cr_assert(acquired);
    cr_assert_eq(lq_cache_clear(t.cache, &t.err), LQ_ECACHE);
    lq_cache_unlock(t.cache, &key);
    cr_assert_eq(lq_cache_clear(t.cache, &t.err), LQ_OK, "%s", t.err.message);
    struct lq_cache_stats stats;
    cr_assert_eq(lq_cache_stats_get(t.cache, &stats, &t.err), LQ_OK);
    cr_assert_eq(stats.blob_count + stats.joined_count + stats.action_count + stats.history_count +
                     stats.file_count,
                 0);
    cr_assert_eq(chunk_count(&t), 0);
    expect_no_pending(&t);
    cr_assert_eq(lq_blob_commit(writer, &digest, NULL, &t.err), LQ_ECACHE);
    cr_assert(strstr(t.err.message, "cleared") != NULL, "%s", t.err.message);
    cr_assert_eq(chunk_count(&t), 0);
    digest = put_bytes(&t, &data);
    expect_blob(&t, &digest, &data);
    free(data.data);
    test_cache_close(&t);
}
