/* Transient outputs that stay in memory, what becomes of them when a build ends early, and steps
 * that are run a second time. */
#include <criterion/criterion.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "cache/cache.h"
#include "engine/base/fs.h"
#include "engine/base/pool.h"
#include "engine/build.h"
#include "engine/lang/recipe.h"
#include "tests/fake_rules.h"

enum { LINKS = 8 };

static char folder[64];
static struct lq_cache *cache;
static struct lq_build_result result;
static struct lq_error err;
static struct lq_build_options options;

static void setup(void)
{
    char dir[128];
    char path[128];
    strcpy(folder, "/tmp/lqbuild-test-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(fake_log_path, sizeof fake_log_path, "%s/log", folder);
    snprintf(path, sizeof path, "%s/in.txt", folder);
    cr_assert_eq(lq_file_write(path, "alpha\n", 6, &err), LQ_OK, "%s", err.message);
    snprintf(dir, sizeof dir, "%s/cache", folder);
    cr_assert_eq(lq_cache_open(&cache, &(struct lq_cache_options){.dir = dir}, &err), LQ_OK, "%s",
                 err.message);
    fake_holds = true;
}

static void teardown(void)
{
    char command[128];
    lq_cache_close(cache);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    cr_assert_eq(system(command), 0);
}

TestSuite(held, .init = setup, .fini = teardown, .timeout = 60);

static unsigned count_runs(const char *line)
{
    static struct lq_buffer text;
    unsigned count = 0;
    char path[128];
    snprintf(path, sizeof path, "%s/log", folder);
    lq_buffer_clear(&text);
    cr_assert_eq(lq_file_read(path, 1 << 20, &text, &err), LQ_OK, "%s", err.message);
    for (const char *at = lq_buffer_text(&text); (at = strstr(at, line)) != NULL; at++) {
        count++;
    }
    return count;
}

static enum lq_status build(const char *name)
{
    struct lq_recipe *recipe = NULL;
    struct lq_pool *pool = NULL;
    char text[256];
    snprintf(
        text, sizeof text,
        "file f { path = \"in.txt\" }\nchain %s { input = f  links = %d  path = \"%s.txt\" }\n",
        name, LINKS, name);
    cr_assert_eq(lq_recipe_parse(&recipe, text, strlen(text), "recipe.lq", folder, &fake_registry,
                                 NULL, 0, &err),
                 LQ_OK, "%s", err.message);
    cr_assert_eq(lq_pool_create(&pool, 2, &err), LQ_OK);
    lq_error_clear(&err);
    enum lq_status status =
        lq_build_run(recipe, &fake_registry, cache, pool, &options, &result, &err);
    lq_pool_destroy(pool);
    lq_recipe_destroy(recipe);
    return status;
}

static void must_build(const char *name, uint64_t ran, uint64_t cached)
{
    cr_assert_eq(build(name), LQ_OK, "%s", err.message);
    cr_expect_eq(result.ran, ran, "ran %lu, expected %lu", result.ran, ran);
    cr_expect_eq(result.cached, cached, "cached %lu, expected %lu", result.cached, cached);
}

static void expect_output(const char *name)
{
    static struct lq_buffer text;
    char path[128];
    char expected[LINKS * 8] = "";
    for (int i = 0; i < LINKS; i++) {
        snprintf(expected + strlen(expected), 8, "link%d\n", i);
    }
    snprintf(path, sizeof path, "%s/%s.txt", folder, name);
    lq_buffer_clear(&text);
    cr_assert_eq(lq_file_read(path, 1 << 20, &text, &err), LQ_OK, "%s", err.message);
    cr_expect_str_eq(lq_buffer_text(&text), expected);
}

/* How many of the states are in the cache. */
static unsigned count_states(void)
{
    char state[128] = "alpha\n";
    unsigned count = 0;
    for (int i = 0; i < LINKS; i++) {
        struct lq_digest digest;
        uint64_t size_bytes = 0;
        snprintf(state + strlen(state), 8, "link%d", i);
        lq_digest_of(state, strlen(state), &digest);
        count += lq_blob_exists(cache, &digest, &size_bytes);
    }
    return count;
}

Test(held, keys_do_not_tell_what_was_held)
{
    must_build("c", LINKS + 1, 0);
    expect_output("c");
    cr_expect_eq(count_states(), 0);
    fake_holds = false;
    must_build("d", 0, LINKS + 1);
    expect_output("d");
    options.force = true;
    must_build("d", LINKS + 1, 0);
    options.force = false;
    fake_holds = true;
    must_build("e", 0, LINKS + 1);
}

Test(held, what_was_only_in_memory_is_made_again)
{
    strcpy(fake_fail_label, "link5");
    cr_assert_eq(build("c"), LQ_EIMPORTANCE);
    cr_expect_eq(result.ran, 5);
    cr_expect_eq(count_states(), 0);
    fake_fail_label[0] = '\0';
    must_build("c", LINKS + 1, 0);
    cr_expect_eq(count_runs("link link0"), 2);
    expect_output("c");
}

Test(held, what_is_too_dear_to_lose_is_saved)
{
    options.hold_seconds = 1e-9;
    strcpy(fake_fail_label, "link5");
    cr_assert_eq(build("c"), LQ_EIMPORTANCE);
    cr_expect_eq(count_states(), 1);
    fake_fail_label[0] = '\0';
    must_build("c", LINKS - 4, 5);
    cr_expect_eq(count_runs("link link4"), 1);
    expect_output("c");
}

/* Steps sleep for 30 ms: two are held, the third is saved, unless the machine is slow. */
Test(held, a_saved_state_stays_until_the_next_one_is_saved)
{
    options.hold_seconds = 0.08;
    fake_step_ms = 30;
    strcpy(fake_fail_label, "link7");
    cr_assert_eq(build("c"), LQ_EIMPORTANCE);
    cr_expect_eq(result.ran, 7);
    cr_expect_eq(count_states(), 1, "%u", count_states());
    /* Twice, so that what is made again is lost again. */
    cr_assert_eq(build("c"), LQ_EIMPORTANCE);
    cr_expect_eq(count_states(), 1, "%u", count_states());
    fake_fail_label[0] = '\0';
    cr_assert_eq(build("c"), LQ_OK, "%s", err.message);
    cr_expect_leq(result.ran, 4);
    cr_expect_eq(count_runs("link link0"), 1);
    cr_expect_eq(count_runs("link link1"), 1);
    expect_output("c");
    fake_step_ms = 0;
    fake_holds = false;
    options.force = true;
    must_build("c", LINKS + 1, 0);
    cr_expect_eq(count_states(), 1, "nothing is left behind but the last one");
}

Test(held, without_room_states_go_to_the_cache)
{
    options.memory_bytes_max = 1;
    strcpy(fake_fail_label, "link5");
    cr_assert_eq(build("c"), LQ_EIMPORTANCE);
    cr_expect_eq(count_states(), 1);
    fake_fail_label[0] = '\0';
    must_build("c", LINKS - 4, 5);
    expect_output("c");
}

/* The first link has six bytes to hand on and room for a few more: what it holds moves to the cache
 * in the middle of a step. */
Test(held, a_state_that_outgrows_the_room_moves_to_the_cache)
{
    options.memory_bytes_max = 2 * 14;
    strcpy(fake_fail_label, "link5");
    cr_assert_eq(build("c"), LQ_EIMPORTANCE);
    cr_expect_eq(count_states(), 1);
    fake_fail_label[0] = '\0';
    cr_assert_eq(build("c"), LQ_OK, "%s", err.message);
    expect_output("c");
}

Test(held, a_step_that_may_be_tried_again_starts_with_nothing_written)
{
    strcpy(fake_retry_label, "link2");
    fake_retry_failures = 1;
    for (int holds = 1; holds >= 0; holds--) {
        fake_holds = holds != 0;
        fake_retry_failures = 1;
        options.force = true;
        must_build("c", LINKS + 1, 0);
        expect_output("c");
        cr_expect_str_eq(fake_first_error, "0 failures are left");
    }
    cr_expect_eq(count_runs("link link2"), 4);
}

Test(held, the_second_failure_counts)
{
    strcpy(fake_retry_label, "link2");
    fake_retry_failures = 5;
    cr_assert_eq(build("c"), LQ_EIMPORTANCE);
    cr_expect_str_eq(err.message, "3 failures are left");
    cr_expect_eq(count_runs("link link2"), 2);
}

/* ---- objects ---- */

Test(held, objects_are_handed_on_as_they_are)
{
    fake_objects = true;
    must_build("c", LINKS + 1, 0);
    expect_output("c");
    cr_expect_eq(atomic_load(&fake_objects_taken), LINKS - 1, "all but the first link");
    cr_expect_eq(atomic_load(&fake_objects_alive), 0);
    cr_expect_eq(count_states(), 0);
    fake_objects = false;
    must_build("d", 0, LINKS + 1);
}

Test(held, objects_that_are_too_dear_to_lose_are_read_and_saved)
{
    options.hold_seconds = 1e-9;
    fake_objects = true;
    strcpy(fake_fail_label, "link5");
    cr_assert_eq(build("c"), LQ_EIMPORTANCE);
    cr_expect_eq(count_states(), 1);
    cr_expect_eq(atomic_load(&fake_objects_alive), 0);
    fake_fail_label[0] = '\0';
    must_build("c", LINKS - 4, 5);
    expect_output("c");
}

Test(held, a_lost_object_is_made_again)
{
    fake_objects = true;
    strcpy(fake_lost_label, "link4");
    fake_lost_reads = 1;
    cr_assert_eq(build("c"), LQ_OK, "%s", err.message);
    expect_output("c");
    cr_expect_eq(count_runs("link link0"), 2);
    cr_expect_eq(count_runs("link link4"), 2);
    cr_expect_eq(count_runs("link link5"), 2);
    cr_expect_eq(count_runs("link link6"), 1);
    cr_expect_eq(atomic_load(&fake_objects_alive), 0);
}

Test(held, an_object_that_is_lost_when_it_is_to_be_saved_is_made_again)
{
    options.hold_seconds = 1e-9;
    fake_objects = true;
    strcpy(fake_lost_label, "link4");
    fake_lost_reads = 2; /* when it is saved, and when link5 asks for it */
    cr_assert_eq(build("c"), LQ_OK, "%s", err.message);
    expect_output("c");
    cr_expect_eq(count_runs("link link3"), 1, "it was saved and kept for link4");
    cr_expect_eq(count_runs("link link4"), 2);
    cr_expect_eq(atomic_load(&fake_objects_alive), 0);
}

Test(held, an_object_that_is_lost_again_and_again_is_an_error)
{
    fake_objects = true;
    strcpy(fake_lost_label, "link4");
    fake_lost_reads = 100;
    cr_assert_neq(build("c"), LQ_OK);
    cr_expect_not_null(strstr(err.message, "the object is lost"), "%s", err.message);
    cr_expect_eq(atomic_load(&fake_objects_alive), 0);
}
