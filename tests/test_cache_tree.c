/* Pages of trees in the data file that were altered behind the cache's back: whatever bits are
 * flipped there, a process that reads and writes the cache ends by itself, with success or with a
 * sentence, and what it reads is right. Each trial is a process of its own. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/upkeep.h"
#include "engine/base/fs.h"
#include "tests/cache_helpers.h"
#include "tests/tree_pages.h"

enum {
    BLOBS = 300,
    DAMAGED = 8,
    WRONG = 9,
};

static struct bytes content_of(int number)
{
    return random_bytes((size_t)(200 + number * 37 % 9000), (uint64_t)number);
}

static void put_content(struct test_cache *t, int number)
{
    struct bytes data = content_of(number);
    struct lq_digest digest = put_bytes(t, &data);
    struct lq_action_record record = {0};
    cr_assert_eq(lq_action_put(t->cache, &digest, &record, "label", "manifest", &t->err), LQ_OK);
    free(data.data);
}

/* A cache with some history: contents that came, and some that went. */
static struct bytes make_data(struct test_cache *t)
{
    struct bytes data;
    test_cache_open(t, 0);
    for (int i = 0; i < BLOBS; i++) {
        put_content(t, i);
    }
    test_cache_reopen(t); /* what this process has made it needs */
    struct lq_gc_options options = {.size_bytes_max = 500000};
    struct lq_gc_result result;
    cr_assert_eq(lq_cache_gc(t->cache, &options, &result, &t->err), LQ_OK, "%s", t->err.message);
    cr_assert_gt(result.actions_removed, 0);
    for (int i = 0; i < BLOBS; i += 2) {
        put_content(t, i);
    }
    lq_cache_close(t->cache);
    t->cache = NULL;
    (void)close(open_data(t, &data));
    return data;
}

static void end_damaged(const char *message)
{
    (void)message;
    _exit(DAMAGED);
}

/* Reads and writes; the exit code says how it went. */
static int use_cache(struct test_cache *t)
{
    struct lq_cache_options options = {
        .dir = t->dir, .warn = test_warn, .warn_user = t, .fatal = end_damaged};
    enum lq_status status = lq_cache_open_sized(&t->cache, &options, 0, &t->err);
    for (int i = BLOBS; i < BLOBS + 100 && status == LQ_OK; i++) {
        struct bytes data = content_of(i);
        struct lq_digest digest;
        status = lq_blob_put(t->cache, data.data, data.size, &digest, &t->err);
        free(data.data);
    }
    for (int i = 0; i < BLOBS + 100 && status == LQ_OK; i++) {
        struct bytes data = content_of(i);
        unsigned char *got = calloc(data.size, 1);
        struct lq_digest digest;
        struct lq_blob_reader *reader = NULL;
        lq_digest_of(data.data, data.size, &digest);
        if (lq_blob_open(t->cache, &digest, true, &reader, &t->err) == LQ_OK && reader != NULL &&
            lq_blob_read(reader, 0, got, data.size, &t->err) == LQ_OK &&
            memcmp(got, data.data, data.size) != 0) {
            return WRONG;
        }
        lq_blob_close(reader);
        free(got);
        free(data.data);
    }
    struct lq_gc_options gc_options = {.size_bytes_max = 300000};
    struct lq_gc_result result;
    status = status == LQ_OK ? lq_cache_gc(t->cache, &gc_options, &result, &t->err) : status;
    uint64_t checked = 0;
    uint64_t removed = 0;
    status = status == LQ_OK ? lq_cache_verify(t->cache, &checked, &removed, &t->err) : status;
    lq_cache_close(t->cache);
    return status == LQ_OK ? 0 : status == LQ_ECACHE ? DAMAGED : 1;
}

static int compact_cache(struct test_cache *t)
{
    uint64_t before = 0;
    uint64_t after = 0;
    struct lq_cache_options options = {
        .dir = t->dir, .warn = test_warn, .warn_user = t, .fatal = end_damaged};
    enum lq_status status = lq_cache_compact(&options, &before, &after, &t->err);
    return status == LQ_OK ? 0 : status == LQ_ECACHE ? DAMAGED : 1;
}

/* In a process of its own, which gets a minute. */
static int try_use(int (*use)(struct test_cache *t), struct test_cache *t, int *signal_number)
{
    int status = 0;
    (void)fflush(NULL);
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        (void)alarm(60);
        _exit(use(t));
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    *signal_number = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void flip_and_use(int (*use)(struct test_cache *t), int trials)
{
    struct test_cache t;
    struct bytes data = make_data(&t);
    size_t tree_pages[TREE_PAGES_MAX];
    size_t tree_count = find_tree_pages(&data, tree_pages);
    uint64_t state = 7;
    int counts[DAMAGED + 1] = {0};
    char path[512];
    (void)snprintf(path, sizeof path, "%s/data.mdb", t.dir);
    cr_assert_gt(tree_count, 20);
    for (int trial = 0; trial < trials; trial++) {
        struct bytes altered = {malloc(data.size), data.size};
        memcpy(altered.data, data.data, data.size);
        flip_in_pages(&altered, tree_pages, tree_count, &state);
        cr_assert_eq(lq_file_write(path, altered.data, altered.size, &t.err), LQ_OK);
        int signal_number = 0;
        int code = try_use(use, &t, &signal_number);
        cr_assert(code == 0 || code == DAMAGED, "trial %d: exit %d, signal %d", trial, code,
                  signal_number);
        counts[code]++;
        free(altered.data);
    }
    printf("%d went on, %d ended with a sentence\n", counts[0], counts[DAMAGED]);
    cr_assert_gt(counts[0], 0);
    cr_assert_gt(3 * counts[DAMAGED], trials);
    free(data.data);
    test_cache_close(&t);
}

Test(cache_tree, flipped_bits_never_crash)
{
    flip_and_use(use_cache, 150);
}

Test(cache_tree, flipped_bits_never_crash_compacting)
{
    flip_and_use(compact_cache, 60);
}

/* ---- what the check finds ---- */

static size_t find_leaf(struct bytes *data)
{
    size_t pages[TREE_PAGES_MAX];
    /* The last one in use: one of records. */
    for (size_t i = find_tree_pages(data, pages); i > 0; i--) {
        if (lq_page_flags(data->data + pages[i - 1] * PAGE) == LQ_PAGE_LEAF) {
            return pages[i - 1];
        }
    }
    return 0;
}

Test(cache_tree, findings)
{
    struct test_cache t;
    struct bytes data = make_data(&t);
    cr_assert_null(check_trees(&data));
    size_t leaf = find_leaf(&data) * PAGE;
    cr_assert_gt(leaf, 0);
    uint16_t first;
    memcpy(&first, data.data + leaf + 16, sizeof first);
    uint16_t upper;
    memcpy(&upper, data.data + leaf + 14, sizeof upper);
    unsigned char lowest = (unsigned char)(upper & (0u - upper)); /* makes it smaller */
    cr_assert_neq(lowest, 0);
    const struct {
        size_t at;
        unsigned char flip;
        const char *text;
    } cases[] = {
        {leaf, 1, "not what points to it says"},
        {leaf + 10, 3, "not what points to it says"},
        {leaf + 12, 1, "bounds"},
        {leaf + 13, 0x80, "bounds"},
        {leaf + 15, 0x80, "bounds"},
        {leaf + 14, lowest, "as long as its bounds say"},
        {leaf + 16, 1, "does not fit"},
        {leaf + 17, 0x80, "does not fit"},
        {leaf + first + 3, 0x80, "does not fit"},
        {leaf + first + 7, 0x80, "does not fit"},
        {leaf + first + 4, 8, "does not fit"},
        {leaf + first + 4, 2, "where none belongs"},
    };
    /* The first key of a leaf becomes the largest. */
    size_t key = leaf + first + 8;
    unsigned char saved = data.data[key];
    data.data[key] = 0xFF;
    const char *order = check_trees(&data);
    cr_assert(order != NULL && strstr(order, "out of order") != NULL, "%s",
              order == NULL ? "nothing" : order);
    data.data[key] = saved;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        data.data[cases[i].at] ^= cases[i].flip;
        const char *why = check_trees(&data);
        cr_assert(why != NULL && strstr(why, cases[i].text) != NULL, "case %zu: %s", i,
                  why == NULL ? "nothing" : why);
        data.data[cases[i].at] ^= cases[i].flip;
    }
    cr_assert_null(check_trees(&data));
    free(data.data);
    test_cache_close(&t);
}

/* LMDB compares keys as the description of a database says: another way, and nothing is found. */
Test(cache_tree, another_order_of_keys_is_found)
{
    static const size_t places[] = {0, 3, 4, 5}; /* of the description: reserved, flags */
    struct test_cache t;
    struct bytes data = make_data(&t);
    size_t pages[TREE_PAGES_MAX];
    size_t count = find_tree_pages(&data, pages);
    unsigned char *table = NULL;
    for (size_t i = 0; i < count && table == NULL; i++) {
        table = memmem(data.data + pages[i] * PAGE, PAGE, "actions", 7);
    }
    cr_assert_not_null(table);
    unsigned char *const tables[] = {table + 7, data.data + LQ_META_AT + LQ_META_MAIN_AT,
                                     data.data + LQ_META_AT + LQ_META_FREE_AT};
    for (size_t i = 0; i < 3; i++) {
        for (size_t k = 0; k < sizeof places / sizeof places[0]; k++) {
            tables[i][places[k]] ^= 2;
            tables[i][places[k] + (i > 0 ? PAGE : 0)] ^= i > 0 ? 2 : 0;
            const char *why = check_trees(&data);
            cr_expect(why != NULL && strstr(why, "kind") != NULL, "table %zu, place %zu: %s", i,
                      places[k], why == NULL ? "nothing" : why);
            tables[i][places[k]] ^= 2;
            tables[i][places[k] + (i > 0 ? PAGE : 0)] ^= i > 0 ? 2 : 0;
        }
    }
    cr_assert_null(check_trees(&data));
    free(data.data);
    test_cache_close(&t);
}

/* Reading does not meet the list of free pages; the next build that writes would. */
Test(cache_tree, verify_looks_at_trees)
{
    struct test_cache t;
    struct bytes data = make_data(&t);
    uint64_t checked = 0;
    uint64_t removed = 0;
    uint64_t root;
    uint16_t first;
    char path[512];
    unsigned char metas[2][LQ_META_BYTES];
    for (size_t i = 0; i < 2; i++) {
        memcpy(metas[i], data.data + i * PAGE + LQ_META_AT, LQ_META_BYTES);
    }
    size_t newest = lq_tree_snapshot(metas[1]) > lq_tree_snapshot(metas[0]) ? 1 : 0;
    memcpy(&root, metas[newest] + LQ_META_FREE_AT + LQ_TABLE_ROOT_AT, sizeof root);
    cr_assert_lt(root, data.size / PAGE);
    memcpy(&first, data.data + root * PAGE + LQ_PAGE_HEAD_BYTES, sizeof first);
    data.data[root * PAGE + first + 5] ^= 0x40; /* flags of a node */
    (void)snprintf(path, sizeof path, "%s/data.mdb", t.dir);
    cr_assert_eq(lq_file_write(path, data.data, data.size, &t.err), LQ_OK);
    cr_assert_eq(test_cache_try(&t), LQ_OK, "%s", t.err.message);
    cr_assert_eq(lq_cache_verify(t.cache, &checked, &removed, &t.err), LQ_ECACHE);
    cr_assert(strstr(t.err.message, "cache repair") != NULL, "%s", t.err.message);
    free(data.data);
    test_cache_close(&t);
}
