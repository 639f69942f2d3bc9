/* Repair of damaged data files: what is proven is saved, what is not is left out, and what was
 * never in the cache does not get in. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/repair.h"
#include "cache/upkeep.h"
#include "tests/cache_helpers.h"
#include "tests/tree_pages.h"

enum { BLOBS = 120, JOINED_PARTS = 3 };

/* Small ones inside records, some with a chunk, one with four. */
static struct bytes content_of(int number)
{
    size_t size = number % 10 == 0 ? 150000 : (size_t)(200 + number * 37 % 9000);
    return random_bytes(number == 7 ? 4 * (size_t)LQ_CHUNK_BYTES - 5 : size, (uint64_t)number);
}

static struct lq_digest digest_of_content(int number)
{
    struct bytes data = content_of(number);
    struct lq_digest digest;
    lq_digest_of(data.data, data.size, &digest);
    free(data.data);
    return digest;
}

static void put_result(struct test_cache *t, int number)
{
    char label[64];
    struct bytes data = content_of(number);
    struct lq_digest digest = put_bytes(t, &data);
    struct lq_action_output output = {"out", digest, data.size, false};
    struct lq_action_record record = {.outputs = &output, .output_count = 1};
    (void)snprintf(label, sizeof label, "/folder|artifact%d", number);
    cr_assert_eq(lq_action_put(t->cache, &digest, &record, label, "a manifest", &t->err), LQ_OK);
    free(data.data);
}

/* A head, blobs 10, 3 and 20, a tail. */
static struct bytes joined_content(void)
{
    static const int numbers[JOINED_PARTS] = {10, 3, 20};
    struct bytes all = {malloc(1000000), 0};
    memset(all.data, 'h', 100);
    all.size = 100;
    for (int i = 0; i < JOINED_PARTS; i++) {
        struct bytes data = content_of(numbers[i]);
        memcpy(all.data + all.size, data.data, data.size);
        all.size += data.size;
        free(data.data);
    }
    memset(all.data + all.size, 't', 70000);
    all.size += 70000;
    return all;
}

static struct lq_digest put_joined(struct test_cache *t)
{
    static const int numbers[JOINED_PARTS] = {10, 3, 20};
    struct bytes all = joined_content();
    struct lq_blob_writer *writer = NULL;
    struct lq_digest digest;
    cr_assert_eq(lq_blob_begin(t->cache, &writer, &t->err), LQ_OK);
    cr_assert_eq(lq_blob_write(writer, all.data, 100, &t->err), LQ_OK);
    for (int i = 0; i < JOINED_PARTS; i++) {
        struct lq_digest part = digest_of_content(numbers[i]);
        cr_assert_eq(lq_blob_write_blob(writer, &part, &t->err), LQ_OK);
    }
    cr_assert_eq(lq_blob_write(writer, all.data + all.size - 70000, 70000, &t->err), LQ_OK);
    cr_assert_eq(lq_blob_commit(writer, &digest, NULL, &t->err), LQ_OK);
    free(all.data);
    return digest;
}

static const struct lq_file_sig signature = {1, 2, 3, 4, 5};

/* A cache with some history: results that came, some that went, and one of everything else. */
static struct bytes make_data(struct test_cache *t)
{
    struct bytes data;
    test_cache_open(t, 0);
    for (int i = 0; i < BLOBS; i++) {
        put_result(t, i);
    }
    test_cache_reopen(t); /* what this process has made it needs */
    struct lq_gc_options options = {.size_bytes_max = 700000};
    struct lq_gc_result result;
    cr_assert_eq(lq_cache_gc(t->cache, &options, &result, &t->err), LQ_OK, "%s", t->err.message);
    cr_assert_gt(result.actions_removed, 0);
    for (int i = 0; i < BLOBS; i++) {
        put_result(t, i);
    }
    struct lq_digest joined = put_joined(t);
    cr_assert_eq(lq_file_digest_put(t->cache, &signature, "plain", &joined, &t->err), LQ_OK);
    cr_assert_eq(lq_store_flush(t->cache->store, &t->err), LQ_OK);
    cr_assert_eq(lq_cache_pin_label(t->cache, "/folder|artifact5", &t->err), LQ_OK);
    /* The last transactions are of no weight: an older header does not know them. */
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(lq_cache_pin_digest(t->cache, &joined, &t->err), LQ_OK);
    }
    lq_cache_close(t->cache);
    t->cache = NULL;
    (void)close(open_data(t, &data));
    return data;
}

static void write_data(struct test_cache *t, const void *data, size_t size)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/data.mdb", t->dir);
    cr_assert_eq(lq_file_write(path, data, size, &t->err), LQ_OK, "%s", t->err.message);
}

static void expect_data(struct test_cache *t, const struct bytes *expected)
{
    struct bytes now;
    (void)close(open_data(t, &now));
    cr_assert_eq(now.size, expected->size);
    cr_assert_eq(memcmp(now.data, expected->data, now.size), 0);
    free(now.data);
}

static enum lq_status repair(struct test_cache *t, struct lq_repair_result *result)
{
    const struct lq_cache_options options = {.dir = t->dir};
    return lq_cache_repair(&options, result, &t->err);
}

static void expect_no_folder(struct test_cache *t)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/repair.tmp", t->dir);
    cr_assert_neq(access(path, F_OK), 0);
}

/* Everything that is there is right. Returns how many results are there with their content. */
static int count_whole(struct test_cache *t)
{
    int whole = 0;
    uint64_t checked = 0;
    uint64_t removed = 0;
    cr_assert_eq(test_cache_try(t), LQ_OK, "%s", t->err.message);
    cr_assert_eq(lq_cache_verify(t->cache, &checked, &removed, &t->err), LQ_OK, "%s",
                 t->err.message);
    cr_assert_eq(removed, 0, "%s", t->last_warning);
    expect_no_pending(t);
    for (int i = 0; i < BLOBS; i++) {
        struct lq_digest digest = digest_of_content(i);
        struct lq_arena arena;
        struct lq_action_record record;
        bool found = false;
        lq_arena_init(&arena);
        cr_assert_eq(lq_action_get(t->cache, &digest, &arena, &record, &found, &t->err), LQ_OK);
        if (found && lq_blob_exists(t->cache, &digest, NULL)) {
            struct bytes data = content_of(i);
            expect_blob(t, &digest, &data);
            free(data.data);
            whole++;
        }
        lq_arena_fini(&arena);
    }
    return whole;
}

static void expect_everything(struct test_cache *t)
{
    struct lq_arena arena;
    struct lq_digest digest;
    char *manifest = NULL;
    bool found = false;
    struct bytes all = joined_content();
    cr_assert_eq(count_whole(t), BLOBS);
    lq_digest_of(all.data, all.size, &digest);
    expect_blob(t, &digest, &all);
    free(all.data);
    cr_assert(lq_file_digest_get(t->cache, &signature, "plain", &digest));
    cr_assert_eq(record_count(t, LQ_DB_REFS), JOINED_PARTS);
    lq_arena_init(&arena);
    cr_assert_eq(lq_history_get(t->cache, "/folder|artifact9", &arena, &manifest, &t->err), LQ_OK);
    cr_assert_str_eq(manifest, "a manifest");
    lq_arena_fini(&arena);
    cr_assert_eq(lq_cache_unpin_label(t->cache, "/folder|artifact5", &found, &t->err), LQ_OK);
    cr_assert(found);
    cr_assert_geq(record_count(t, LQ_DB_USES), BLOBS);
    lq_cache_close(t->cache);
    t->cache = NULL;
}

Test(repair, nothing_is_done_to_what_is_sound)
{
    struct test_cache t;
    struct lq_repair_result result;
    test_cache_folder(&t);
    cr_assert_eq(repair(&t, &result), LQ_OK, "%s", t.err.message);
    cr_assert(result.sound);
    test_remove_folder(t.dir);
    struct bytes data = make_data(&t);
    cr_assert_eq(repair(&t, &result), LQ_OK, "%s", t.err.message);
    cr_assert(result.sound);
    expect_data(&t, &data);
    expect_no_folder(&t);
    free(data.data);
    test_cache_close(&t);
}

Test(repair, lost_headers_lose_nothing)
{
    struct test_cache t;
    struct bytes data = make_data(&t);
    for (unsigned which = 1; which <= 3; which++) {
        struct bytes altered = {malloc(data.size), data.size};
        struct lq_repair_result result;
        memcpy(altered.data, data.data, data.size);
        for (size_t page = 0; page < 2; page++) {
            if ((which & 1u << page) != 0) {
                memset(altered.data + page * PAGE, 0, PAGE);
            }
        }
        write_data(&t, altered.data, altered.size);
        cr_assert_eq(test_cache_try(&t), LQ_ECACHE);
        cr_assert(strstr(t.err.message, "cache repair") != NULL, "%s", t.err.message);
        cr_assert_eq(repair(&t, &result), LQ_OK, "%s", t.err.message);
        cr_assert(!result.sound);
        cr_assert_geq(result.saved.action_count, BLOBS);
        cr_assert_eq(result.lost_known, which != 3);
        cr_assert_eq(result.results_lost, 0);
        cr_assert_eq(result.blobs_lost, 0);
        expect_no_folder(&t);
        expect_everything(&t);
        free(altered.data);
    }
    free(data.data);
    test_cache_close(&t);
}

Test(repair, flipped_bits_cost_no_more_than_their_page, .timeout = 300)
{
    enum { TRIALS = 60 };
    struct test_cache t;
    struct bytes data = make_data(&t);
    size_t pages[TREE_PAGES_MAX];
    size_t page_count = find_tree_pages(&data, pages);
    uint64_t state = 21;
    int whole = 0;
    int repaired = 0;
    cr_assert_gt(page_count, 10);
    for (int trial = 0; trial < TRIALS; trial++) {
        struct bytes altered = {malloc(data.size), data.size};
        struct lq_repair_result result;
        memcpy(altered.data, data.data, data.size);
        flip_in_pages(&altered, pages, page_count, &state);
        write_data(&t, altered.data, altered.size);
        cr_assert_eq(repair(&t, &result), LQ_OK, "trial %d: %s", trial, t.err.message);
        if (!result.sound) {
            whole += count_whole(&t);
            repaired++;
            lq_cache_close(t.cache);
            t.cache = NULL;
        }
        free(altered.data);
    }
    printf("%d repaired, %d of %d results saved\n", repaired, whole, repaired * BLOBS);
    cr_assert_gt(repaired, TRIALS / 3);
    cr_assert_gt(whole, repaired * BLOBS * 9 / 10);
    free(data.data);
    test_cache_close(&t);
}

Test(repair, flipped_content_loses_only_its_blob)
{
    struct test_cache t;
    struct lq_repair_result result;
    struct bytes data = make_data(&t);
    struct bytes content = content_of(30);
    free(data.data);
    flip_in_file(&t, content.data + 1000, 64, 0);
    int fd = open_data(&t, &data);
    memset(data.data, 0, PAGE);
    cr_assert_eq(pwrite(fd, data.data, PAGE, 0), PAGE);
    (void)close(fd);
    cr_assert_eq(repair(&t, &result), LQ_OK, "%s", t.err.message);
    cr_assert_eq(result.blobs_lost, 1);
    cr_assert_eq(result.results_lost, 0);
    cr_assert_eq(count_whole(&t), BLOBS - 1);
    free(content.data);
    free(data.data);
    test_cache_close(&t);
}

Test(repair, cut_files, .timeout = 300)
{
    struct test_cache t;
    struct bytes data = make_data(&t);
    int saved = 0;
    for (size_t size = 1; size < data.size; size += data.size / 23) {
        struct lq_repair_result result;
        struct bytes cut = {data.data, size};
        write_data(&t, cut.data, cut.size);
        enum lq_status status = repair(&t, &result);
        if (status != LQ_OK) {
            cr_assert_eq(status, LQ_ECACHE, "%s", t.err.message);
            cr_assert(strstr(t.err.message, "nothing in it is of a cache") != NULL, "%s",
                      t.err.message);
            expect_data(&t, &cut);
            continue;
        }
        cr_assert(!result.sound);
        saved += count_whole(&t);
        lq_cache_close(t.cache);
        t.cache = NULL;
    }
    cr_assert_gt(saved, BLOBS);
    free(data.data);
    test_cache_close(&t);
}

Test(repair, what_is_no_cache_is_left_alone)
{
    struct test_cache t;
    struct lq_repair_result result;
    test_cache_folder(&t);
    for (size_t size = 1; size < 100000; size = 3 * size + 4096) {
        struct bytes noise = random_bytes(size, size);
        write_data(&t, noise.data, noise.size);
        cr_assert_eq(repair(&t, &result), LQ_ECACHE);
        cr_assert(strstr(t.err.message, "nothing in it is of a cache") != NULL, "%s",
                  t.err.message);
        expect_data(&t, &noise);
        expect_no_folder(&t);
        free(noise.data);
    }
    char path[512];
    (void)snprintf(path, sizeof path, "%s/data.mdb", t.dir);
    cr_assert_eq(remove(path), 0);
    cr_assert_eq(mkfifo(path, 0600), 0);
    cr_assert_eq(repair(&t, &result), LQ_ECACHE);
    cr_assert(strstr(t.err.message, "not a regular file") != NULL, "%s", t.err.message);
    test_remove_folder(t.dir);
}

Test(repair, another_format_is_left_alone)
{
    struct test_cache t;
    struct lq_repair_result result;
    struct bytes data = make_data(&t);
    unsigned char *at = memmem(data.data, data.size, "format\x01\x00\x00\x00", 10);
    for (; at != NULL; at = memmem(at, data.size - (size_t)(at - data.data), "format\x01", 7)) {
        at[6] = 2;
    }
    memset(data.data, 0, PAGE);
    write_data(&t, data.data, data.size);
    cr_assert_eq(repair(&t, &result), LQ_ECACHE);
    cr_assert(strstr(t.err.message, "format 2") != NULL, "%s", t.err.message);
    expect_data(&t, &data);
    free(data.data);
    test_cache_close(&t);
}

Test(repair, never_beside_an_open_cache)
{
    struct test_cache t;
    struct lq_repair_result result;
    test_cache_open(&t, 0);
    cr_assert_eq(repair(&t, &result), LQ_ECACHE);
    cr_assert(strstr(t.err.message, "another lqbuild has it open") != NULL, "%s", t.err.message);
    test_cache_close(&t);
}

Test(repair, leftovers_of_a_killed_one_do_not_matter)
{
    struct test_cache t;
    struct lq_repair_result result;
    char path[600];
    struct bytes data = make_data(&t);
    memset(data.data, 0, PAGE);
    write_data(&t, data.data, data.size);
    (void)snprintf(path, sizeof path, "%s/repair.tmp/live", t.dir);
    cr_assert_eq(lq_make_dirs(path, &t.err), LQ_OK);
    (void)snprintf(path, sizeof path, "%s/repair.tmp/data.mdb", t.dir);
    cr_assert_eq(lq_file_write(path, "rubbish", 7, &t.err), LQ_OK);
    cr_assert_eq(repair(&t, &result), LQ_OK, "%s", t.err.message);
    expect_no_folder(&t);
    expect_everything(&t);
    free(data.data);
    test_cache_close(&t);
}

/* Whoever remembers a number of removals must not find it again: something may be missing. */
Test(repair, removals_get_another_number)
{
    struct test_cache t;
    struct lq_repair_result result;
    uint64_t before = 0;
    uint64_t after = 0;
    struct bytes data = make_data(&t);
    cr_assert_eq(test_cache_try(&t), LQ_OK);
    cr_assert_eq(lq_cache_removals(t.cache, &before, &t.err), LQ_OK);
    lq_cache_close(t.cache);
    memset(data.data, 0, PAGE);
    write_data(&t, data.data, data.size);
    cr_assert_eq(repair(&t, &result), LQ_OK, "%s", t.err.message);
    cr_assert_eq(test_cache_try(&t), LQ_OK);
    cr_assert_eq(lq_cache_removals(t.cache, &after, &t.err), LQ_OK);
    cr_assert_neq(before, after);
    free(data.data);
    test_cache_close(&t);
}

/* ---- content that looks like a page ---- */

/* A leaf with a sealed action record, which nobody put into the cache. */
static void forge_leaf(unsigned char page[PAGE], uint64_t number, const struct lq_digest *key)
{
    struct lq_error err = {0};
    struct lq_buffer value;
    struct lq_action_record record = {.step_count = 1};
    lq_buffer_init(&value);
    cr_assert_eq(lq_action_record_encode(key, &record, &value, &err), LQ_OK);
    size_t size = 8 + LQ_DIGEST_BYTES + value.size_bytes;
    uint16_t upper = (uint16_t)(PAGE - size - size % 2);
    uint16_t head[8] = {0};
    uint16_t node[4] = {(uint16_t)value.size_bytes, 0, 0, LQ_DIGEST_BYTES};
    memset(page, 0, PAGE);
    memcpy(head, &number, sizeof number);
    head[5] = LQ_PAGE_LEAF;
    head[6] = LQ_PAGE_HEAD_BYTES + 2;
    head[7] = upper;
    memcpy(page, head, sizeof head);
    memcpy(page + LQ_PAGE_HEAD_BYTES, &upper, sizeof upper);
    memcpy(page + upper, node, sizeof node);
    memcpy(page + upper + 8, key->bytes, LQ_DIGEST_BYTES);
    memcpy(page + upper + 8 + LQ_DIGEST_BYTES, value.data, value.size_bytes);
    cr_assert_null(lq_page_check(page, PAGE, true));
    lq_buffer_fini(&value);
}

/* The page in which the second page of the content lies. */
static size_t put_alone(struct test_cache *t, const struct bytes *content, struct bytes *data)
{
    test_cache_open(t, 0);
    (void)put_bytes(t, content);
    lq_cache_close(t->cache);
    t->cache = NULL;
    (void)close(open_data(t, data));
    unsigned char *at = memmem(data->data, data->size, content->data, 1000);
    cr_assert_not_null(at);
    return (size_t)(at - data->data) / PAGE + 1;
}

Test(repair, content_that_looks_like_a_leaf_is_content)
{
    struct test_cache t;
    struct bytes data;
    struct lq_arena arena;
    struct lq_action_record record;
    struct lq_digest key = {{1, 2, 3}};
    struct lq_repair_result result;
    bool found = false;
    struct bytes content = random_bytes(100 * PAGE, 5);
    size_t page = put_alone(&t, &content, &data);
    free(data.data);
    test_cache_close(&t);
    /* The same again, with a forged leaf in every page. */
    for (size_t i = 0; i < 98; i++) {
        forge_leaf(content.data + PAGE - LQ_PAGE_HEAD_BYTES + i * PAGE, page + i, &key);
    }
    cr_assert_eq(put_alone(&t, &content, &data), page);
    cr_assert_null(lq_page_check(data.data + page * PAGE, PAGE, true));
    cr_assert_eq(lq_page_number(data.data + page * PAGE), page);
    memset(data.data, 0, (size_t)2 * PAGE);
    write_data(&t, data.data, data.size);
    cr_assert_eq(repair(&t, &result), LQ_OK, "%s", t.err.message);
    cr_assert_eq(result.saved.blob_count, 1);
    cr_assert_eq(test_cache_try(&t), LQ_OK);
    lq_arena_init(&arena);
    cr_assert_eq(lq_action_get(t.cache, &key, &arena, &record, &found, &t.err), LQ_OK);
    cr_assert(!found);
    lq_arena_fini(&arena);
    free(content.data);
    free(data.data);
    test_cache_close(&t);
}
