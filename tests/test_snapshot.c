/* Snapshots of large builds: taken when nothing changed, and never believed when anything did. The
 * real program works on a recipe of 600 texts and one command in a folder of its own. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cache/cache.h"
#include "engine/snapshot.h"
#include "rules/registry.h"

enum { TEXTS = 600 };

static char folder[64];
static char version[64];

static void put(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    cr_assert_geq(fputs(text, file), 0);
    cr_assert_eq(fclose(file), 0);
}

/* Longer than time stamps are fresh. */
static void let_age(void)
{
    const struct timespec pause = {.tv_nsec = 60 * 1000 * 1000};
    (void)nanosleep(&pause, NULL);
}

static void setup(void)
{
    (void)snprintf(folder, sizeof folder, "/tmp/lqsnapshot.XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    cr_assert_eq(chdir(folder), 0);
    cr_assert_eq(setenv("LQBUILD_CACHE_DIR", "cache", 1), 0);
    FILE *recipe = fopen("recipe.lq", "w");
    cr_assert_not_null(recipe);
    cr_assert_eq(system("mkdir src"), 0);
    for (int i = 0; i < TEXTS; i++) {
        char path[64];
        (void)snprintf(path, sizeof path, "src/t%d.txt", i);
        put(path, path);
        (void)fprintf(recipe, "text t%d { path = \"%s\" }\n", i, path);
    }
    (void)fprintf(recipe, "command c {\n    run = \"cat src/x > $out\"\n    files = [\"src/x\"]\n"
                          "    outputs = [\"out/c\"]\n}\n");
    cr_assert_eq(fclose(recipe), 0);
    put("src/x", "one");
    FILE *pipe = popen(LQ_BINARY_DIR "/lqbuild version", "r");
    cr_assert_not_null(pipe);
    cr_assert_eq(fscanf(pipe, "lqbuild %63s", version), 1);
    (void)pclose(pipe);
}

static void teardown(void)
{
    char command[128];
    (void)snprintf(command, sizeof command, "rm -rf %s", folder);
    cr_assert_eq(chdir("/"), 0);
    cr_assert_eq(system(command), 0);
}

static void build(const char *options)
{
    char command[256];
    (void)snprintf(command, sizeof command, LQ_BINARY_DIR "/lqbuild -q %s", options);
    cr_assert_eq(system(command), 0);
}

static bool has_snapshot(void)
{
    const struct lq_snapshot_request request = {
        .recipe_path = "recipe.lq", .registry = lq_rules_registry(), .version = version};
    const struct lq_cache_options options = {.dir = "cache"};
    struct lq_cache *cache = NULL;
    struct lq_build_result result;
    struct lq_digest key;
    bool current = false;
    cr_assert(lq_snapshot_key(&request, &key));
    cr_assert_eq(lq_cache_open(&cache, &options, NULL), LQ_OK);
    cr_assert_eq(lq_snapshot_check(cache, &key, &current, &result, NULL), LQ_OK);
    lq_cache_close(cache);
    return current;
}

static void expect_output(const char *wanted)
{
    char text[64] = "";
    FILE *file = fopen("out/c", "r");
    cr_assert_not_null(file);
    cr_assert_eq(fread(text, 1, sizeof text - 1, file), strlen(wanted));
    cr_assert_str_eq(text, wanted);
    (void)fclose(file);
}

/* Builds until one found nothing to do. */
static void settle(void)
{
    build("");
    let_age();
    build("");
    cr_assert(has_snapshot());
}

TestSuite(snapshot, .init = setup, .fini = teardown, .timeout = 120);

Test(snapshot, is_taken_when_nothing_changed)
{
    build("");
    cr_assert_not(has_snapshot(), "that build did something");
    let_age();
    build("");
    cr_assert(has_snapshot());
    build("");
    expect_output("one");
    cr_assert(has_snapshot());
}

Test(snapshot, sources_outputs_and_recipe_are_looked_at)
{
    settle();
    put("src/x", "two");
    cr_assert_not(has_snapshot());
    build("");
    expect_output("two");
    let_age();
    build("");
    cr_assert(has_snapshot());
    put("out/c", "bad");
    build("");
    expect_output("two");
    settle();
    cr_assert_eq(unlink("out/c"), 0);
    build("");
    expect_output("two");
    settle();
    cr_assert_eq(system("sed -i 's/cat src.x/echo three/' recipe.lq"), 0);
    build("");
    expect_output("three\n");
}

Test(snapshot, new_files_beside_sources_are_noticed)
{
    settle();
    put("src/new", "");
    cr_assert_not(has_snapshot());
    let_age();
    build("");
    cr_assert(has_snapshot());
}

Test(snapshot, whatever_is_removed_from_the_cache_ends_it)
{
    settle();
    cr_assert_eq(system(LQ_BINARY_DIR "/lqbuild cache rm c > removed"), 0);
    cr_assert_not(has_snapshot());
    settle();
    expect_output("one");
}

Test(snapshot, another_target_or_program_has_its_own)
{
    const struct lq_snapshot_request request = {
        .recipe_path = "recipe.lq", .registry = lq_rules_registry(), .version = version};
    struct lq_snapshot_request other = request;
    const char *target = "c";
    struct lq_digest one;
    struct lq_digest two;
    cr_assert(lq_snapshot_key(&request, &one));
    other.version = "0.0.0-other";
    cr_assert(lq_snapshot_key(&other, &two));
    cr_assert_not(lq_digest_equal(&one, &two));
    other = request;
    other.targets = &target;
    other.target_count = 1;
    cr_assert(lq_snapshot_key(&other, &two));
    cr_assert_not(lq_digest_equal(&one, &two));
}

Test(snapshot, a_build_that_reads_the_environment_has_none)
{
    cr_assert_eq(system("sed -i 's/files = /env = [\"X\"]\\n    files = /' recipe.lq"), 0);
    build("");
    let_age();
    build("");
    cr_assert_not(has_snapshot());
}
