/* House-keeping: what garbage collection removes and what it must not, pins, listings, compacting.
 * Time is what LQBUILD_TEST_NOW says. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/upkeep.h"
#include "tests/cache_helpers.h"

static const uint64_t day = 24 * 3600;
static const uint64_t start = 1800000000;

static void set_now(uint64_t seconds)
{
    char text[32];
    (void)snprintf(text, sizeof text, "%llu", (unsigned long long)seconds);
    cr_assert_eq(setenv("LQBUILD_TEST_NOW", text, 1), 0);
}

/* Ends this object's marks, as the end of a build does. */
static void reopen(struct test_cache *t)
{
    lq_cache_close(t->cache);
    t->cache = NULL;
    cr_assert_eq(test_cache_try(t), LQ_OK, "%s", t->err.message);
}

static struct lq_digest put_random(struct test_cache *t, size_t size, uint64_t seed)
{
    struct bytes bytes = random_bytes(size, seed);
    struct lq_digest digest;
    cr_assert_eq(lq_blob_put(t->cache, bytes.data, size, &digest, &t->err), LQ_OK, "%s",
                 t->err.message);
    free(bytes.data);
    return digest;
}

/* A result as the engine stores it: the key is the digest of the manifest. */
static struct lq_digest put_result(struct test_cache *t, const char *label,
                                   const struct lq_digest *output, uint64_t size)
{
    struct lq_action_output outputs[] = {{.name = "main", .digest = *output, .size_bytes = size}};
    const struct lq_action_record record = {
        .outputs = outputs, .output_count = 1, .verdict_text = "", .numerics = "", .step_count = 1};
    char manifest[256];
    char hex[LQ_DIGEST_HEX_BYTES];
    (void)snprintf(manifest, sizeof manifest, "%s\n%s\n", label, lq_digest_to_hex(output, hex));
    struct lq_digest key;
    lq_digest_of(manifest, strlen(manifest), &key);
    cr_assert_eq(lq_action_put(t->cache, &key, &record, label, manifest, &t->err), LQ_OK, "%s",
                 t->err.message);
    return key;
}

static bool has_result(struct test_cache *t, const struct lq_digest *key)
{
    struct lq_txn txn;
    struct lq_bytes value;
    bool found = false;
    cr_assert_eq(lq_store_read_begin(t->cache->store, &txn, &t->err), LQ_OK);
    cr_assert_eq(lq_txn_get(&txn, LQ_DB_ACTIONS, &(struct lq_bytes){key->bytes, LQ_DIGEST_BYTES},
                            &value, &found, &t->err),
                 LQ_OK);
    lq_store_read_end(&txn);
    return found;
}

static bool has_blob(struct test_cache *t, const struct lq_digest *digest)
{
    struct lq_txn txn;
    struct lq_blob_record record;
    bool found = false;
    cr_assert_eq(lq_store_read_begin(t->cache->store, &txn, &t->err), LQ_OK);
    cr_assert_eq(lq_blob_find(NULL, &txn, digest, &record, &found, &t->err), LQ_OK);
    lq_store_read_end(&txn);
    return found;
}

static struct lq_gc_result collect(struct test_cache *t, uint64_t size_max, uint64_t age_max)
{
    const struct lq_gc_options options = {
        .size_bytes_max = size_max, .age_seconds_max = age_max, .wait = true};
    struct lq_gc_result result;
    cr_assert_eq(lq_cache_gc(t->cache, &options, &result, &t->err), LQ_OK, "%s", t->err.message);
    cr_assert_not(result.busy);
    cr_assert(result.finished);
    return result;
}

static void expect_sound(struct test_cache *t)
{
    uint64_t checked = 0;
    uint64_t removed = 0;
    cr_assert_eq(lq_cache_verify(t->cache, &checked, &removed, &t->err), LQ_OK);
    cr_assert_eq(removed, 0, "%s", t->last_warning);
    cr_assert_eq(t->warnings, 0, "%s", t->last_warning);
}

enum { MB = 1024 * 1024 };

Test(cache_gc, blobs_that_nothing_names_go_first)
{
    struct test_cache t;
    set_now(start);
    test_cache_open(&t, 0);
    struct lq_digest garbage = put_random(&t, 3 * MB, 1);
    struct lq_digest small = put_random(&t, 100, 2);
    struct lq_digest kept = put_random(&t, 2 * MB, 3);
    struct lq_digest key = put_result(&t, "/p|a|op|x", &kept, 2 * MB);
    struct lq_gc_result result = collect(&t, 0, 0);
    cr_assert_eq(result.blobs_removed, 0, "its own process still needs them");
    reopen(&t);
    result = collect(&t, 0, 0);
    cr_assert_eq(result.blobs_removed, 2);
    cr_assert_geq(result.blob_bytes_removed, 3 * MB);
    cr_assert_not(has_blob(&t, &garbage));
    cr_assert_not(has_blob(&t, &small));
    cr_assert(has_blob(&t, &kept));
    cr_assert(has_result(&t, &key));
    expect_sound(&t);
    test_cache_close(&t);
}

Test(cache_gc, least_recently_used_results_go_until_the_budget_is_met)
{
    struct test_cache t;
    struct lq_digest blobs[8];
    struct lq_digest keys[8];
    struct lq_arena arena;
    struct lq_action_record record;
    bool found = false;
    set_now(start);
    test_cache_open(&t, 0);
    lq_arena_init(&arena);
    for (int i = 0; i < 8; i++) {
        char label[32];
        set_now(start + (uint64_t)i * day);
        (void)snprintf(label, sizeof label, "/p|a%d|op|x", i);
        blobs[i] = put_random(&t, 2 * MB, 10 + (uint64_t)i);
        keys[i] = put_result(&t, label, &blobs[i], 2 * MB);
    }
    reopen(&t);
    /* The oldest is used again. */
    set_now(start + 20 * day);
    cr_assert_eq(lq_action_get(t.cache, &keys[0], &arena, &record, &found, &t.err), LQ_OK);
    cr_assert(found);
    reopen(&t);
    set_now(start + 21 * day);
    struct lq_gc_result result = collect(&t, 9 * MB, 0);
    cr_assert_leq(result.after_bytes, 9 * MB);
    cr_assert_eq(result.actions_removed, 4, "%llu", (unsigned long long)result.actions_removed);
    for (int i = 0; i < 8; i++) {
        bool stays = i == 0 || i >= 5;
        cr_assert_eq(has_result(&t, &keys[i]), stays, "result %d", i);
        cr_assert_eq(has_blob(&t, &blobs[i]), stays, "blob %d", i);
    }
    uint64_t live_bytes = 0;
    cr_assert_eq(lq_cache_live_bytes(t.cache, &live_bytes, &t.err), LQ_OK);
    cr_assert_leq(live_bytes, 9 * MB + 256 * 1024, "%llu", (unsigned long long)live_bytes);
    expect_sound(&t);
    lq_arena_fini(&arena);
    test_cache_close(&t);
}

Test(cache_gc, age_and_dry_run)
{
    struct test_cache t;
    set_now(start);
    test_cache_open(&t, 0);
    struct lq_digest old = put_random(&t, MB, 1);
    struct lq_digest old_key = put_result(&t, "/p|a|op|x", &old, MB);
    set_now(start + 50 * day);
    struct lq_digest new = put_random(&t, MB, 2);
    struct lq_digest new_key = put_result(&t, "/p|b|op|x", &new, MB);
    reopen(&t);
    const struct lq_gc_options dry = {.age_seconds_max = 30 * day, .dry_run = true};
    struct lq_gc_result result;
    cr_assert_eq(lq_cache_gc(t.cache, &dry, &result, &t.err), LQ_OK);
    cr_assert_eq(result.actions_removed, 1);
    cr_assert_eq(result.blobs_removed, 1);
    cr_assert(has_result(&t, &old_key) && has_blob(&t, &old));
    result = collect(&t, 0, 30 * day);
    cr_assert_eq(result.actions_removed, 1);
    cr_assert_not(has_result(&t, &old_key) || has_blob(&t, &old));
    cr_assert(has_result(&t, &new_key) && has_blob(&t, &new));
    test_cache_close(&t);
}

Test(cache_gc, parts_of_a_used_concatenation_stay_with_their_results)
{
    struct test_cache t;
    struct lq_blob_writer *writer = NULL;
    struct lq_digest joined;
    uint64_t size = 0;
    set_now(start);
    test_cache_open(&t, 0);
    struct lq_digest part = put_random(&t, 2 * MB, 1);
    struct lq_digest part_key = put_result(&t, "/p|g|quantize|blk", &part, 2 * MB);
    set_now(start + 40 * day);
    cr_assert_eq(lq_blob_begin(t.cache, &writer, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_write(writer, "head", 4, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_write_blob(writer, &part, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_commit(writer, &joined, &size, &t.err), LQ_OK);
    struct lq_digest joined_key = put_result(&t, "/p|g|assemble|", &joined, size);
    reopen(&t);
    set_now(start + 41 * day);
    struct lq_gc_result result = collect(&t, 0, 10 * day);
    cr_assert_eq(result.actions_removed, 0, "the part is used by what was used yesterday");
    cr_assert(has_result(&t, &part_key) && has_blob(&t, &part));
    set_now(start + 80 * day);
    result = collect(&t, 0, 10 * day);
    cr_assert_eq(result.actions_removed, 2);
    cr_assert_eq(result.blobs_removed, 2);
    cr_assert_not(has_blob(&t, &part) || has_blob(&t, &joined) || has_result(&t, &joined_key));
    expect_sound(&t);
    test_cache_close(&t);
}

Test(cache_gc, pins_keep_the_newest_result_of_a_label)
{
    struct test_cache t;
    bool found = false;
    set_now(start);
    test_cache_open(&t, 0);
    struct lq_digest older = put_random(&t, MB, 1);
    struct lq_digest older_key = put_result(&t, "/p|a|op|x", &older, MB);
    struct lq_digest newer = put_random(&t, MB, 2);
    struct lq_digest newer_key = put_result(&t, "/p|a|op|x", &newer, MB);
    struct lq_digest other = put_random(&t, MB, 3);
    struct lq_digest other_key = put_result(&t, "/p|ab|op|x", &other, MB);
    struct lq_digest by_digest = put_random(&t, MB, 4);
    cr_assert_eq(lq_cache_pin_label(t.cache, "/p|a", &t.err), LQ_OK);
    cr_assert_eq(lq_cache_pin_label(t.cache, "/p|a", &t.err), LQ_OK);
    cr_assert_eq(lq_cache_pin_digest(t.cache, &by_digest, &t.err), LQ_OK);
    reopen(&t);
    set_now(start + 100 * day);
    struct lq_gc_result result = collect(&t, 1, day);
    cr_assert_eq(result.needed_actions, 1);
    cr_assert(has_result(&t, &newer_key) && has_blob(&t, &newer) && has_blob(&t, &by_digest));
    cr_assert_not(has_result(&t, &older_key) || has_blob(&t, &older));
    cr_assert_not(has_result(&t, &other_key), "'ab' is not below 'a'");
    cr_assert_eq(lq_cache_unpin_label(t.cache, "/p|a", &found, &t.err), LQ_OK);
    cr_assert(found);
    cr_assert_eq(lq_cache_unpin_label(t.cache, "/p|a", &found, &t.err), LQ_OK);
    cr_assert_not(found);
    (void)collect(&t, 1, day);
    cr_assert_not(has_result(&t, &newer_key) || has_blob(&t, &newer));
    cr_assert(has_blob(&t, &by_digest));
    test_cache_close(&t);
}

/* Looks a result up in another process and keeps running until told. */
static pid_t start_user(struct test_cache *t, const struct lq_digest *key, int ready[2])
{
    cr_assert_eq(pipe(ready), 0);
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        struct lq_arena arena;
        struct lq_action_record record;
        bool found = false;
        lq_arena_init(&arena);
        if (test_cache_try(t) != LQ_OK ||
            lq_action_get(t->cache, key, &arena, &record, &found, &t->err) != LQ_OK || !found ||
            write(ready[1], "x", 1) != 1) {
            _exit(1);
        }
        (void)pause();
        _exit(2);
    }
    return pid;
}

Test(cache_gc, what_another_running_process_has_seen_stays)
{
    struct test_cache t;
    int ready[2];
    char byte;
    set_now(start);
    test_cache_open(&t, 0);
    struct lq_digest seen = put_random(&t, MB, 1);
    struct lq_digest seen_key = put_result(&t, "/p|a|op|x", &seen, MB);
    struct lq_digest unseen = put_random(&t, MB, 2);
    struct lq_digest unseen_key = put_result(&t, "/p|b|op|x", &unseen, MB);
    lq_cache_close(t.cache);
    t.cache = NULL;
    pid_t user = start_user(&t, &seen_key, ready);
    cr_assert_eq(read(ready[0], &byte, 1), 1);
    cr_assert_eq(test_cache_try(&t), LQ_OK);
    set_now(start + 100 * day);
    struct lq_gc_result result = collect(&t, 1, day);
    cr_assert_eq(result.needed_actions, 1);
    cr_assert(has_result(&t, &seen_key) && has_blob(&t, &seen));
    cr_assert_not(has_result(&t, &unseen_key) || has_blob(&t, &unseen));
    cr_assert_eq(kill(user, SIGKILL), 0);
    cr_assert_eq(waitpid(user, NULL, 0), user);
    (void)collect(&t, 1, day);
    cr_assert_not(has_result(&t, &seen_key) || has_blob(&t, &seen), "the dead need nothing");
    expect_sound(&t);
    test_cache_close(&t);
}

Test(cache_gc, only_the_newest_signature_of_a_file_is_kept)
{
    struct test_cache t;
    struct lq_digest digest;
    set_now(start);
    test_cache_open(&t, 0);
    lq_digest_of("x", 1, &digest);
    for (int i = 0; i < 5; i++) {
        struct lq_file_sig sig = {.device = 1,
                                  .inode = i < 4 ? 7 : 8,
                                  .size_bytes = (uint64_t)(10 - i),
                                  .mtime_ns = 5,
                                  .ctime_ns = 100 + i};
        cr_assert_eq(lq_file_digest_put(t.cache, &sig, "plain", &digest, &t.err), LQ_OK);
        cr_assert_eq(lq_file_digest_put(t.cache, &sig, "other", &digest, &t.err), LQ_OK);
    }
    struct lq_gc_result result = collect(&t, 0, 0);
    cr_assert_eq(result.files_removed, 6);
    struct lq_file_sig newest = {
        .device = 1, .inode = 7, .size_bytes = 7, .mtime_ns = 5, .ctime_ns = 103};
    cr_assert(lq_file_digest_get(t.cache, &newest, "plain", &digest));
    cr_assert(lq_file_digest_get(t.cache, &newest, "other", &digest));
    newest.inode = 8;
    newest.size_bytes = 6;
    newest.ctime_ns = 104;
    cr_assert(lq_file_digest_get(t.cache, &newest, "plain", &digest));
    newest.size_bytes = 8;
    newest.ctime_ns = 102;
    newest.inode = 7;
    cr_assert_not(lq_file_digest_get(t.cache, &newest, "plain", &digest));
    test_cache_close(&t);
}

struct seen {
    char labels[512];
    uint64_t bytes;
    unsigned pinned;
};

static void note(void *user, const struct lq_cache_entry *entry)
{
    struct seen *seen = user;
    size_t used = strlen(seen->labels);
    (void)snprintf(seen->labels + used, sizeof seen->labels - used, "%s;", entry->label);
    seen->bytes += entry->size_bytes;
    seen->pinned += entry->pinned ? 1 : 0;
}

Test(cache_gc, listing_and_removing_by_name)
{
    struct test_cache t;
    struct seen seen = {.bytes = 0};
    struct lq_gc_result result;
    set_now(start);
    test_cache_open(&t, 0);
    struct lq_digest one = put_random(&t, MB, 1);
    (void)put_result(&t, "/p|a|op|x", &one, MB);
    set_now(start + day);
    struct lq_digest two = put_random(&t, MB, 2);
    struct lq_digest two_key = put_result(&t, "/p|b", &two, MB);
    cr_assert_eq(lq_cache_pin_label(t.cache, "/p|b", &t.err), LQ_OK);
    reopen(&t);
    cr_assert_eq(lq_cache_list(t.cache, note, &seen, &t.err), LQ_OK);
    cr_assert_str_eq(seen.labels, "/p|a|op|x;/p|b;");
    cr_assert_eq(seen.bytes, 2 * MB);
    cr_assert_eq(seen.pinned, 1);
    cr_assert_eq(lq_cache_remove_label(t.cache, "/p|a", &result, &t.err), LQ_OK);
    cr_assert_eq(result.actions_removed, 1);
    cr_assert_not(has_blob(&t, &one));
    cr_assert_eq(lq_cache_remove_key(t.cache, &two_key, &result, &t.err), LQ_OK);
    cr_assert_eq(result.actions_removed, 0, "pinned");
    cr_assert_eq(result.needed_actions, 1);
    test_cache_close(&t);
}

Test(cache_gc, compacting_gives_back_what_was_removed)
{
    struct test_cache t;
    uint64_t before = 0;
    uint64_t after = 0;
    set_now(start);
    test_cache_open(&t, 0);
    struct lq_digest kept = put_random(&t, MB, 1);
    struct lq_digest key = put_result(&t, "/p|a|op|x", &kept, MB);
    for (uint64_t i = 0; i < 10; i++) {
        (void)put_random(&t, 2 * MB, 100 + i);
    }
    reopen(&t);
    (void)collect(&t, 0, 0);
    const struct lq_cache_options options = {.dir = t.dir, .warn = test_warn, .warn_user = &t};
    cr_assert_eq(lq_cache_compact(&options, &before, &after, &t.err), LQ_ECACHE,
                 "somebody has it open");
    lq_cache_close(t.cache);
    t.cache = NULL;
    cr_assert_eq(lq_cache_compact(&options, &before, &after, &t.err), LQ_OK, "%s", t.err.message);
    cr_assert_gt(before, 20 * MB);
    cr_assert_lt(after, 2 * MB, "%llu", (unsigned long long)after);
    cr_assert_eq(test_cache_try(&t), LQ_OK, "%s", t.err.message);
    cr_assert(has_result(&t, &key) && has_blob(&t, &kept));
    expect_sound(&t);
    test_cache_close(&t);
}

/* ---- what nobody should find in a cache ---- */

enum { CHAIN = 1000000 };

static struct lq_digest digest_number(uint64_t number)
{
    struct lq_digest digest;
    lq_digest_of(&number, sizeof number, &digest);
    return digest;
}

/* Each concatenation refers to the next one, which no writer makes. */
static enum lq_status put_chain(struct lq_txn *txn, void *user, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    (void)user;
    for (uint64_t i = 0; i < CHAIN && status == LQ_OK; i++) {
        struct lq_digest digest = digest_number(i);
        const struct lq_blob_part part = {digest_number(i + 1), 1};
        const struct lq_blob_record record = {
            .kind = LQ_BLOB_JOINED, .size_bytes = 1, .chunk_bytes = 1, .part_count = 1};
        struct lq_buffer value;
        lq_buffer_init(&value);
        lq_blob_record_encode(&digest, &record, &part, &value);
        status = lq_txn_put(txn, LQ_DB_BLOBS, &(struct lq_bytes){digest.bytes, LQ_DIGEST_BYTES},
                            &(struct lq_bytes){value.data, value.size_bytes}, err);
        lq_buffer_fini(&value);
    }
    return status;
}

Test(cache_gc, a_chain_of_concatenations_is_removed)
{
    struct test_cache t;
    set_now(start);
    test_cache_open(&t, 0);
    cr_assert_eq(lq_store_write(t.cache->store, 0, MB, put_chain, NULL, &t.err), LQ_OK);
    reopen(&t);
    struct lq_gc_result result = collect(&t, 0, 0);
    cr_assert_gt(result.blobs_removed, 0);
    cr_assert_eq(record_count(&t, LQ_DB_BLOBS), CHAIN - result.blobs_removed);
    test_cache_close(&t);
}

Test(cache_gc, what_a_killed_compacting_left_goes)
{
    static const char *const names[] = {"compact.tmp", "repair.tmp"};
    struct test_cache t;
    char path[512];
    set_now(start);
    test_cache_open(&t, 0);
    for (size_t i = 0; i < 2; i++) {
        (void)snprintf(path, sizeof path, "%s/%s/live", t.dir, names[i]);
        cr_assert_eq(lq_make_dirs(path, &t.err), LQ_OK);
        (void)snprintf(path, sizeof path, "%s/%s/data.mdb", t.dir, names[i]);
        cr_assert_eq(lq_file_write(path, "half", 4, &t.err), LQ_OK);
    }
    (void)collect(&t, 0, 0);
    for (size_t i = 0; i < 2; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", t.dir, names[i]);
        cr_expect_not(lq_path_exists(path), "%s", path);
    }
    test_cache_close(&t);
}

/* A rename would leave the content where the link pointed, and put the copy on another disk. */
Test(cache_gc, a_linked_data_file_is_not_compacted)
{
    struct test_cache t;
    struct stat st;
    uint64_t before = 0;
    uint64_t after = 0;
    char path[512];
    char elsewhere[512];
    test_cache_open(&t, 0);
    (void)put_random(&t, MB, 1);
    lq_cache_close(t.cache);
    t.cache = NULL;
    (void)snprintf(path, sizeof path, "%s/data.mdb", t.dir);
    (void)snprintf(elsewhere, sizeof elsewhere, "%s/elsewhere", t.dir);
    cr_assert_eq(rename(path, elsewhere), 0);
    cr_assert_eq(symlink(elsewhere, path), 0);
    const struct lq_cache_options options = {.dir = t.dir};
    cr_assert_eq(lq_cache_compact(&options, &before, &after, &t.err), LQ_ECACHE);
    cr_assert(strstr(t.err.message, "symbolic link") != NULL, "%s", t.err.message);
    cr_assert_eq(lstat(path, &st), 0);
    cr_assert(S_ISLNK(st.st_mode));
    cr_assert_eq(test_cache_try(&t), LQ_OK, "%s", t.err.message);
    expect_verify(&t, 1, 0);
    test_cache_close(&t);
}

static enum lq_status change_ids(struct lq_txn *txn, void *user, struct lq_error *err)
{
    unsigned char last[LQ_ID_KEY_BYTES];
    lq_id_key(*(uint64_t *)user, last);
    return lq_txn_put(txn, LQ_DB_META, &(struct lq_bytes){"next-id", 7},
                      &(struct lq_bytes){last, sizeof last}, err);
}

/* The counter has no seal. */
Test(cache_gc, a_damaged_counter_of_ids_costs_nothing)
{
    struct test_cache t;
    struct bytes data[6];
    struct lq_digest digests[6];
    test_cache_open(&t, 0);
    for (size_t i = 0; i < 6; i++) {
        uint64_t last = i == 2 ? 0 : UINT64_MAX;
        data[i] = random_bytes(MB + 5000 * i, i);
        if (i == 2 || i == 4) {
            cr_assert_eq(lq_store_write(t.cache->store, 0, 1, change_ids, &last, &t.err), LQ_OK);
        }
        digests[i] = put_bytes(&t, &data[i]);
    }
    for (size_t i = 0; i < 6; i++) {
        expect_blob(&t, &digests[i], &data[i]);
        free(data[i].data);
    }
    expect_verify(&t, 6, 0);
    test_cache_close(&t);
}

static enum lq_status put_last_chunk(struct lq_txn *txn, void *user, struct lq_error *err)
{
    unsigned char key[LQ_CHUNK_KEY_BYTES];
    (void)user;
    lq_chunk_key(UINT64_MAX, 0, key);
    return lq_txn_put(txn, LQ_DB_CHUNKS, &(struct lq_bytes){key, sizeof key},
                      &(struct lq_bytes){"x", 1}, err);
}

Test(cache_gc, the_last_of_all_ids_is_an_error_until_verify)
{
    struct test_cache t;
    struct lq_digest digest;
    uint64_t checked = 0;
    uint64_t removed = 0;
    test_cache_open(&t, 0);
    struct bytes data = random_bytes(MB, 1);
    cr_assert_eq(lq_store_write(t.cache->store, 0, 1, put_last_chunk, NULL, &t.err), LQ_OK);
    cr_assert_eq(lq_blob_put(t.cache, data.data, data.size, &digest, &t.err), LQ_ECACHE);
    cr_assert(strstr(t.err.message, "cache verify") != NULL, "%s", t.err.message);
    cr_assert_eq(lq_cache_verify(t.cache, &checked, &removed, &t.err), LQ_OK);
    digest = put_bytes(&t, &data);
    expect_blob(&t, &digest, &data);
    free(data.data);
    test_cache_close(&t);
}
