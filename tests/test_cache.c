/* The store within one process: blobs, actions, files, history, locks. Concatenations and altered
 * content are in test_cache_joined.c, folders, disks and the map in test_cache_store.c. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "cache/cache_internal.h"
#include "cache/store_private.h"
#include "tests/cache_helpers.h"

/* ---- blobs ---- */

Test(cache_blob, stores_sizes_around_every_boundary)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    static const size_t sizes[] = {0,
                                   1,
                                   15,
                                   4096,
                                   LQ_SMALL_BYTES_MAX - 1,
                                   LQ_SMALL_BYTES_MAX,
                                   LQ_SMALL_BYTES_MAX + 1,
                                   LQ_CHUNK_BYTES - 1,
                                   LQ_CHUNK_BYTES,
                                   LQ_CHUNK_BYTES + 1,
                                   2 * LQ_CHUNK_BYTES,
                                   3 * LQ_CHUNK_BYTES + 7,
                                   (size_t)LQ_FLUSH_CHUNKS * LQ_CHUNK_BYTES - 1,
                                   (size_t)LQ_FLUSH_CHUNKS * LQ_CHUNK_BYTES,
                                   (size_t)LQ_FLUSH_CHUNKS * LQ_CHUNK_BYTES + 1,
                                   (size_t)2 * LQ_FLUSH_CHUNKS * LQ_CHUNK_BYTES,
                                   (size_t)2 * LQ_FLUSH_CHUNKS * LQ_CHUNK_BYTES + 5};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct bytes data = random_bytes(sizes[i], 1 + i);
        struct lq_digest digest;
        struct lq_digest expected;
        lq_digest_of(data.data, data.size, &expected);
        cr_assert_eq(lq_blob_put(t.cache, data.data, data.size, &digest, &t.err), LQ_OK, "%s",
                     t.err.message);
        cr_assert(lq_digest_equal(&digest, &expected));
        expect_blob(&t, &digest, &data);
        free(data.data);
    }
    expect_verify(&t, sizeof sizes / sizeof sizes[0], 0);
    expect_no_pending(&t);
    test_cache_close(&t);
}

Test(cache_blob, is_the_same_however_it_is_cut)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    uint64_t seed = 20240229;
    printf("seed %llu\n", (unsigned long long)seed);
    for (int round = 0; round < 12; round++) {
        struct lq_blob_writer *writer = NULL;
        size_t total = (size_t)(next_random(&seed) % (12 * (uint64_t)LQ_CHUNK_BYTES));
        struct bytes data = random_bytes(total, next_random(&seed));
        cr_assert_eq(lq_blob_begin(t.cache, &writer, &t.err), LQ_OK);
        for (size_t done = 0; done < total;) {
            uint64_t limit = round % 3 == 0 ? 70000 : 3 * (uint64_t)LQ_CHUNK_BYTES;
            limit = round % 4 == 3 ? 11 * (uint64_t)LQ_CHUNK_BYTES : limit;
            size_t step = (size_t)(next_random(&seed) % limit);
            step = step > total - done ? total - done : step;
            cr_assert_eq(lq_blob_write(writer, data.data + done, step, &t.err), LQ_OK);
            done += step;
        }
        struct lq_digest digest;
        struct lq_digest expected;
        uint64_t size = 0;
        cr_assert_eq(lq_blob_commit(writer, &digest, &size, &t.err), LQ_OK, "%s", t.err.message);
        lq_digest_of(data.data, total, &expected);
        cr_assert(lq_digest_equal(&digest, &expected));
        cr_assert_eq(size, total);
        expect_blob(&t, &digest, &data);
        free(data.data);
    }
    expect_no_pending(&t);
    test_cache_close(&t);
}

Test(cache_blob, survives_closing_and_opening)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    struct bytes small = random_bytes(100, 1);
    struct bytes large = random_bytes(3 * (size_t)LQ_CHUNK_BYTES, 2);
    struct lq_digest small_digest = put_bytes(&t, &small);
    struct lq_digest large_digest = put_bytes(&t, &large);
    test_cache_reopen(&t);
    expect_blob(&t, &small_digest, &small);
    expect_blob(&t, &large_digest, &large);
    free(small.data);
    free(large.data);
    test_cache_close(&t);
}

Test(cache_blob, stored_twice_is_stored_once)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    struct bytes data = random_bytes(20 * (size_t)LQ_CHUNK_BYTES, 3);
    struct lq_digest first = put_bytes(&t, &data);
    struct lq_digest second = put_bytes(&t, &data);
    cr_assert(lq_digest_equal(&first, &second));
    struct lq_cache_stats stats;
    cr_assert_eq(lq_cache_stats_get(t.cache, &stats, &t.err), LQ_OK);
    cr_assert_eq(stats.blob_count, 1);
    cr_assert_eq(stats.blob_bytes, data.size);
    cr_assert_eq(chunk_count(&t), 20);
    expect_no_pending(&t);
    free(data.data);
    test_cache_close(&t);
}

static struct lq_blob_writer *begin_commit(struct test_cache *t, const struct bytes *data,
                                           struct lq_digest *digest)
{
    struct lq_blob_writer *writer = NULL;
    uint64_t size = 0;
    cr_assert_eq(lq_blob_begin(t->cache, &writer, &t->err), LQ_OK);
    cr_assert_eq(lq_blob_write(writer, data->data, data->size, &t->err), LQ_OK);
    cr_assert_eq(lq_blob_commit_begin(writer, digest, &size, &t->err), LQ_OK);
    cr_assert_eq(size, data->size);
    return writer;
}

Test(cache_blob, is_committed_with_the_action_that_names_it)
{
    static const size_t sizes[] = {100, 3 * (size_t)LQ_CHUNK_BYTES + 5,
                                   70 * (size_t)LQ_CHUNK_BYTES};
    struct test_cache t;
    test_cache_open(&t, 0);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct bytes data = random_bytes(sizes[i], 800 + i);
        struct bytes other = random_bytes(sizes[i] + 1, 900 + i);
        struct lq_digest digest, second;
        struct lq_blob_writer *writer = begin_commit(&t, &data, &digest);
        struct lq_action_output output = {"out", digest, data.size, false};
        const struct lq_action_record record = {
            .outputs = &output, .output_count = 1, .numerics = "", .step_count = 1};
        uint64_t commits = atomic_load(&t.cache->store->commits);
        cr_assert_eq(lq_action_put(t.cache, &digest, &record, NULL, NULL, &t.err), LQ_OK);
        cr_expect_eq(atomic_load(&t.cache->store->commits), commits + 1);
        cr_expect(lq_blob_exists(t.cache, &digest, NULL));
        cr_assert_eq(lq_blob_commit_end(writer, &t.err), LQ_OK);
        cr_expect_eq(atomic_load(&t.cache->store->commits), commits + 1, "a second transaction");
        /* Without an action the end does it; so does giving up, which may leave it there. */
        writer = begin_commit(&t, &other, &second);
        cr_assert_eq(lq_blob_commit_end(writer, &t.err), LQ_OK);
        expect_blob(&t, &second, &other);
        lq_blob_abort(begin_commit(&t, &other, &second));
        test_cache_reopen(&t);
        expect_blob(&t, &digest, &data);
        expect_blob(&t, &second, &other);
        expect_no_pending(&t);
        free(data.data);
        free(other.data);
    }
    test_cache_close(&t);
}

Test(cache_blob, aborted_leaves_nothing)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    struct bytes data = random_bytes(30 * (size_t)LQ_CHUNK_BYTES, 4);
    struct lq_blob_writer *writer = NULL;
    cr_assert_eq(lq_blob_begin(t.cache, &writer, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_write(writer, data.data, data.size, &t.err), LQ_OK);
    cr_assert_gt(chunk_count(&t), 0);
    lq_blob_abort(writer);
    cr_assert_eq(chunk_count(&t), 0);
    expect_no_pending(&t);
    lq_blob_abort(NULL);
    free(data.data);
    test_cache_close(&t);
}

Test(cache_blob, reads_outside_are_refused)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    struct bytes data = random_bytes(1000, 5);
    struct lq_digest digest = put_bytes(&t, &data);
    struct lq_blob_reader *reader = NULL;
    unsigned char out[1001];
    cr_assert_eq(lq_blob_open(t.cache, &digest, false, &reader, &t.err), LQ_OK);
    cr_assert_not_null(reader);
    cr_assert_eq(lq_blob_read(reader, 0, out, 1001, &t.err), LQ_ECACHE);
    cr_assert_eq(lq_blob_read(reader, 1000, out, 1, &t.err), LQ_ECACHE);
    cr_assert_eq(lq_blob_read(reader, UINT64_MAX, out, 2, &t.err), LQ_ECACHE);
    cr_assert_eq(lq_blob_read(reader, 1000, out, 0, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_read(reader, 999, out, 1, &t.err), LQ_OK);
    cr_assert_eq(out[0], data.data[999]);
    lq_blob_close(reader);
    free(data.data);
    test_cache_close(&t);
}

Test(cache_blob, missing_is_a_miss_with_a_warning)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    struct lq_digest digest;
    struct lq_blob_reader *reader = NULL;
    uint64_t size = 7;
    lq_digest_of("nothing", 7, &digest);
    cr_assert_eq(lq_blob_open(t.cache, &digest, true, &reader, &t.err), LQ_OK);
    cr_assert_null(reader);
    cr_assert_eq(t.warnings, 1);
    cr_assert(strstr(t.last_warning, "missing") != NULL, "%s", t.last_warning);
    cr_assert_not(lq_blob_exists(t.cache, &digest, &size));
    cr_assert_eq(size, 0);
    cr_assert_eq(lq_blob_drop(t.cache, &digest, &t.err), LQ_OK);
    test_cache_close(&t);
}

Test(cache_blob, dropped_while_open_fails_and_does_not_lie)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    struct bytes data = random_bytes(20 * (size_t)LQ_CHUNK_BYTES, 6);
    struct lq_digest digest = put_bytes(&t, &data);
    struct lq_blob_reader *reader = NULL;
    unsigned char out[100];
    cr_assert_eq(lq_blob_open(t.cache, &digest, true, &reader, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_drop(t.cache, &digest, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_read(reader, 5, out, 100, &t.err), LQ_ECACHE);
    cr_assert(strstr(t.err.message, "removed") != NULL);
    /* Stored again it has other chunks: the old reader still must not go on. */
    (void)put_bytes(&t, &data);
    cr_assert_eq(lq_blob_read(reader, 5, out, 100, &t.err), LQ_ECACHE);
    lq_blob_close(reader);
    expect_blob(&t, &digest, &data);
    free(data.data);
    test_cache_close(&t);
}

/* ---- blobs of transient outputs ---- */

static struct lq_digest put_transient(struct test_cache *t, const struct bytes *data)
{
    struct lq_blob_writer *writer = NULL;
    struct lq_digest digest;
    uint64_t size = 0;
    cr_assert_eq(lq_blob_begin(t->cache, &writer, &t->err), LQ_OK);
    lq_blob_set_transient(writer);
    cr_assert_eq(lq_blob_write(writer, data->data, data->size, &t->err), LQ_OK);
    cr_assert_eq(lq_blob_commit(writer, &digest, &size, &t->err), LQ_OK, "%s", t->err.message);
    return digest;
}

static void put_action_with(struct test_cache *t, const struct lq_digest *digest, bool transient)
{
    struct lq_action_output output = {"out", *digest, 1, transient};
    const struct lq_action_record record = {.outputs = &output, .output_count = 1};
    struct lq_digest key;
    lq_digest_of(&transient, sizeof transient, &key);
    cr_assert_eq(lq_action_put(t->cache, &key, &record, NULL, NULL, &t->err), LQ_OK);
}

static bool stays(struct test_cache *t, const struct lq_digest *digest)
{
    cr_assert_eq(lq_blob_drop_transient(t->cache, digest, &t->err), LQ_OK, "%s", t->err.message);
    return lq_blob_exists(t->cache, digest, NULL);
}

/* One that is in its record, one in a chunk, one in several. */
static const size_t transient_sizes[] = {16, 1000, 70 * 1000, 3 * (size_t)LQ_CHUNK_BYTES + 5};

Test(cache_transient, goes_when_nothing_else_has_its_content)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    for (unsigned i = 0; i < LQ_COUNT_OF(transient_sizes); i++) {
        struct bytes data = random_bytes(transient_sizes[i], 60 + i);
        struct lq_digest digest = put_transient(&t, &data);
        put_action_with(&t, &digest, true);
        expect_blob(&t, &digest, &data);
        (void)put_transient(&t, &data); /* of two steps at once */
        cr_expect_not(stays(&t, &digest), "%zu bytes", data.size);
        /* Kept now, it is not what it was. */
        (void)put_bytes(&t, &data);
        cr_expect(stays(&t, &digest), "%zu bytes", data.size);
        free(data.data);
    }
    test_cache_close(&t);
}

Test(cache_transient, what_was_kept_before_stays)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    for (unsigned i = 0; i < LQ_COUNT_OF(transient_sizes); i++) {
        struct bytes data = random_bytes(transient_sizes[i], 70 + i);
        struct lq_digest digest = put_bytes(&t, &data);
        (void)put_transient(&t, &data); /* the small ones before the first is on the disk */
        cr_expect(stays(&t, &digest), "%zu bytes", data.size);
        expect_blob(&t, &digest, &data);
        free(data.data);
    }
    test_cache_close(&t);
}

Test(cache_transient, what_is_kept_afterwards_stays)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    for (unsigned i = 0; i < LQ_COUNT_OF(transient_sizes); i++) {
        struct bytes data = random_bytes(transient_sizes[i], 80 + i);
        struct bytes named = random_bytes(transient_sizes[i], 90 + i);
        struct lq_digest digest = put_transient(&t, &data);
        struct lq_digest named_digest = put_transient(&t, &named);
        (void)put_bytes(&t, &data);
        put_action_with(&t, &named_digest, false); /* found, so not written again */
        cr_expect(stays(&t, &digest), "%zu bytes", data.size);
        cr_expect(stays(&t, &named_digest), "%zu bytes", named.size);
        expect_blob(&t, &named_digest, &named);
        free(data.data);
        free(named.data);
    }
    test_cache_close(&t);
}

Test(cache_transient, is_known_as_such_by_the_next_process)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    struct bytes left = random_bytes(5000, 100);
    struct bytes kept = random_bytes(5000, 101);
    struct lq_digest left_digest = put_transient(&t, &left);
    struct lq_digest kept_digest = put_transient(&t, &kept);
    (void)put_bytes(&t, &kept);
    test_cache_reopen(&t);
    cr_expect_not(stays(&t, &left_digest));
    cr_expect(stays(&t, &kept_digest));
    free(left.data);
    free(kept.data);
    test_cache_close(&t);
}

/* ---- actions, history, files ---- */

static struct lq_digest digest_number(uint64_t number)
{
    struct lq_digest digest;
    lq_digest_of(&number, sizeof number, &digest);
    return digest;
}

Test(cache_action, record_comes_back_as_it_was)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    struct lq_arena arena;
    lq_arena_init(&arena);
    struct lq_action_output outputs[2] = {
        {.name = "gguf", .digest = digest_number(1), .size_bytes = UINT64_MAX, .transient = true},
        {.name = "log \xc3\xa4", .digest = digest_number(2), .size_bytes = 0, .transient = false}};
    struct lq_action_record record = {.outputs = outputs,
                                      .output_count = 2,
                                      .verdict = LQ_EQUALITY,
                                      .verdict_text = "perplexity rose by 12 %",
                                      .numerics = "cpu-f32",
                                      .duration_us = 123456789,
                                      .step_count = 7};
    struct lq_digest key = digest_number(3);
    struct lq_action_record got;
    bool found = true;
    char *manifest = NULL;
    cr_assert_eq(lq_action_get(t.cache, &key, &arena, &got, &found, &t.err), LQ_OK);
    cr_assert_not(found);
    cr_assert_eq(lq_action_put(t.cache, &key, &record, "q4 /layer 3", "rule q4\n", &t.err), LQ_OK,
                 "%s", t.err.message);
    test_cache_reopen(&t);
    cr_assert_eq(lq_action_get(t.cache, &key, &arena, &got, &found, &t.err), LQ_OK);
    cr_assert(found);
    cr_assert_eq(got.output_count, 2);
    for (int i = 0; i < 2; i++) {
        cr_assert_str_eq(got.outputs[i].name, outputs[i].name);
        cr_assert(lq_digest_equal(&got.outputs[i].digest, &outputs[i].digest));
        cr_assert_eq(got.outputs[i].size_bytes, outputs[i].size_bytes);
        cr_assert_eq(got.outputs[i].transient, outputs[i].transient);
    }
    cr_assert_eq(got.verdict, LQ_EQUALITY);
    cr_assert_str_eq(got.verdict_text, record.verdict_text);
    cr_assert_str_eq(got.numerics, "cpu-f32");
    cr_assert_eq(got.duration_us, 123456789);
    cr_assert_eq(got.step_count, 7);
    cr_assert_eq(lq_history_get(t.cache, "q4 /layer 3", &arena, &manifest, &t.err), LQ_OK);
    cr_assert_str_eq(manifest, "rule q4\n");
    cr_assert_eq(lq_action_remove(t.cache, &key, &t.err), LQ_OK);
    cr_assert_eq(lq_action_remove(t.cache, &key, &t.err), LQ_OK);
    cr_assert_eq(lq_action_get(t.cache, &key, &arena, &got, &found, &t.err), LQ_OK);
    cr_assert_not(found);
    lq_arena_fini(&arena);
    test_cache_close(&t);
}

Test(cache_action, empty_record_and_null_texts)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    struct lq_arena arena;
    lq_arena_init(&arena);
    struct lq_action_record record = {0};
    struct lq_action_record got;
    struct lq_digest key = digest_number(4);
    bool found = false;
    cr_assert_eq(lq_action_put(t.cache, &key, &record, NULL, NULL, &t.err), LQ_OK);
    cr_assert_eq(lq_action_get(t.cache, &key, &arena, &got, &found, &t.err), LQ_OK);
    cr_assert(found);
    cr_assert_eq(got.output_count, 0);
    cr_assert_str_eq(got.verdict_text, "");
    cr_assert_str_eq(got.numerics, "");
    struct lq_cache_stats stats;
    cr_assert_eq(lq_cache_stats_get(t.cache, &stats, &t.err), LQ_OK);
    cr_assert_eq(stats.action_count, 1);
    cr_assert_eq(stats.history_count, 0);
    lq_arena_fini(&arena);
    test_cache_close(&t);
}

Test(cache_action, over_the_limits_is_refused)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    struct lq_action_output outputs[LQ_STEP_OUTPUTS_MAX + 1];
    memset(outputs, 0, sizeof outputs);
    for (int i = 0; i <= LQ_STEP_OUTPUTS_MAX; i++) {
        outputs[i].name = "x";
    }
    struct lq_action_record record = {.outputs = outputs, .output_count = LQ_STEP_OUTPUTS_MAX + 1};
    struct lq_digest key = digest_number(5);
    cr_assert_eq(lq_action_put(t.cache, &key, &record, NULL, NULL, &t.err), LQ_EINTERNAL);
    record.output_count = LQ_STEP_OUTPUTS_MAX;
    cr_assert_eq(lq_action_put(t.cache, &key, &record, NULL, NULL, &t.err), LQ_OK);
    char name[LQ_NAME_BYTES_MAX + 2];
    memset(name, 'n', sizeof name);
    name[sizeof name - 1] = '\0';
    outputs[0].name = name;
    cr_assert_eq(lq_action_put(t.cache, &key, &record, NULL, NULL, &t.err), LQ_EINTERNAL);
    outputs[0].name = "";
    cr_assert_eq(lq_action_put(t.cache, &key, &record, NULL, NULL, &t.err), LQ_EINTERNAL);
    test_cache_close(&t);
}

Test(cache_action, altered_record_is_a_miss_with_a_warning)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    struct lq_arena arena;
    lq_arena_init(&arena);
    struct lq_action_output output = {.name = "find-this-output-name", .size_bytes = 5};
    struct lq_action_record record = {.outputs = &output, .output_count = 1};
    struct lq_action_record got;
    struct lq_digest key = digest_number(6);
    bool found = true;
    cr_assert_eq(lq_action_put(t.cache, &key, &record, "label-find", "manifest-find-this", &t.err),
                 LQ_OK);
    flip_in_file(&t, (const unsigned char *)"find-this-output-name", 21, 2);
    cr_assert_eq(lq_action_get(t.cache, &key, &arena, &got, &found, &t.err), LQ_OK);
    cr_assert_not(found);
    cr_assert_eq(t.warnings, 1);
    flip_in_file(&t, (const unsigned char *)"manifest-find-this", 18, 2);
    char *manifest = NULL;
    cr_assert_eq(lq_history_get(t.cache, "label-find", &arena, &manifest, &t.err), LQ_OK);
    cr_assert_null(manifest);
    cr_assert_eq(t.warnings, 2);
    lq_arena_fini(&arena);
    test_cache_close(&t);
}

Test(cache_history, keeps_the_last_manifest)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    struct lq_arena arena;
    lq_arena_init(&arena);
    char *manifest = (char *)"x";
    size_t long_bytes = 2000000;
    char *text = malloc(long_bytes + 1);
    memset(text, 'm', long_bytes);
    text[long_bytes] = '\0';
    cr_assert_eq(lq_history_get(t.cache, "a", &arena, &manifest, &t.err), LQ_OK);
    cr_assert_null(manifest);
    cr_assert_eq(lq_history_put(t.cache, "a", "one", &t.err), LQ_OK);
    cr_assert_eq(lq_history_put(t.cache, "a", "one", &t.err), LQ_OK);
    cr_assert_eq(lq_history_put(t.cache, "b", "", &t.err), LQ_OK);
    cr_assert_eq(lq_history_get(t.cache, "a", &arena, &manifest, &t.err), LQ_OK);
    cr_assert_str_eq(manifest, "one");
    cr_assert_eq(lq_history_get(t.cache, "b", &arena, &manifest, &t.err), LQ_OK);
    cr_assert_str_eq(manifest, "");
    cr_assert_eq(lq_history_put(t.cache, text, text, &t.err), LQ_OK);
    cr_assert_eq(lq_history_get(t.cache, text, &arena, &manifest, &t.err), LQ_OK);
    cr_assert_str_eq(manifest, text);
    free(text);
    lq_arena_fini(&arena);
    test_cache_close(&t);
}

Test(cache_file, digest_is_known_for_exactly_one_signature)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    struct lq_file_sig sig = {1, 2, 3, -4, 5};
    struct lq_digest digest = digest_number(7);
    struct lq_digest got;
    cr_assert_not(lq_file_digest_get(t.cache, &sig, "plain", &got));
    cr_assert_eq(lq_file_digest_put(t.cache, &sig, "plain", &digest, &t.err), LQ_OK);
    for (int round = 0; round < 2; round++) {
        cr_assert(lq_file_digest_get(t.cache, &sig, "plain", &got));
        cr_assert(lq_digest_equal(&digest, &got));
        cr_assert_not(lq_file_digest_get(t.cache, &sig, "plai", &got));
        cr_assert_not(lq_file_digest_get(t.cache, &sig, "tensors-1", &got));
        struct lq_file_sig others[5] = {sig, sig, sig, sig, sig};
        others[0].device++;
        others[1].inode++;
        others[2].size_bytes++;
        others[3].mtime_ns++;
        others[4].ctime_ns++;
        for (int i = 0; i < 5; i++) {
            cr_assert_not(lq_file_digest_get(t.cache, &others[i], "plain", &got));
        }
        test_cache_reopen(&t);
    }
    struct lq_digest second = digest_number(8);
    cr_assert_eq(lq_file_digest_put(t.cache, &sig, "plain", &second, &t.err), LQ_OK);
    cr_assert(lq_file_digest_get(t.cache, &sig, "plain", &got));
    cr_assert(lq_digest_equal(&second, &got));
    char kind[LQ_NAME_BYTES_MAX + 2];
    memset(kind, 'k', sizeof kind);
    kind[sizeof kind - 1] = '\0';
    cr_assert_eq(lq_file_digest_put(t.cache, &sig, kind, &digest, &t.err), LQ_EINTERNAL);
    cr_assert_not(lq_file_digest_get(t.cache, &sig, kind, &got));
    test_cache_close(&t);
}

/* ---- locks, default folder ---- */

Test(cache_lock, twice_in_one_process_does_not_hang)
{
    struct test_cache t;
    test_cache_open(&t, 0);
    struct lq_digest key = digest_number(10);
    struct lq_digest other = digest_number(11);
    bool acquired = false;
    for (int round = 0; round < 3; round++) {
        cr_assert_eq(lq_cache_lock_try(t.cache, &key, &acquired, &t.err), LQ_OK);
        cr_assert(acquired);
        cr_assert_eq(lq_cache_lock_try(t.cache, &key, &acquired, &t.err), LQ_OK);
        cr_assert_not(acquired);
        cr_assert_eq(lq_cache_lock_try(t.cache, &other, &acquired, &t.err), LQ_OK);
        cr_assert(acquired);
        lq_cache_unlock(t.cache, &other);
        lq_cache_unlock(t.cache, &key);
        lq_cache_unlock(t.cache, &key);
    }
    test_cache_close(&t);
}

static void expect_default(const char *option, const char *expected)
{
    struct lq_arena arena;
    struct lq_error err = {0};
    char *out = NULL;
    lq_arena_init(&arena);
    enum lq_status status = lq_cache_default_dir(option, &arena, &out, &err);
    cr_assert_eq(status, expected == NULL ? LQ_ECACHE : LQ_OK);
    if (expected != NULL) {
        cr_assert_str_eq(out, expected);
    }
    lq_arena_fini(&arena);
}

Test(cache_default_dir, follows_the_order)
{
    setenv("LQBUILD_CACHE_DIR", "/own", 1);
    setenv("XDG_CACHE_HOME", "/xdg", 1);
    setenv("HOME", "/home/me", 1);
    expect_default("/option", "/option");
    expect_default(NULL, "/own");
    expect_default("", "/own");
    setenv("LQBUILD_CACHE_DIR", "", 1);
    expect_default(NULL, "/xdg/lqbuild");
    setenv("XDG_CACHE_HOME", "relative", 1);
    expect_default(NULL, "/home/me/.cache/lqbuild");
    unsetenv("XDG_CACHE_HOME");
    expect_default(NULL, "/home/me/.cache/lqbuild");
    unsetenv("HOME");
    expect_default(NULL, NULL);
}
