/* The engine on small rules (fake_rules.h): what runs, what does not, and what happens when things
 * are killed, lost, altered or shared. */
#include <criterion/criterion.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "cache/cache.h"
#include "engine/base/pool.h"
#include "engine/build.h"
#include "engine/build_state.h"
#include "engine/lang/recipe.h"
#include "fake_rules.h"

static char folder[64];
static struct lq_cache *cache;
static struct lq_build_result result;
static struct lq_error err;
static char explained[8192];
static unsigned warnings;
static atomic_uint cache_warnings;

static void on_cache_warning(void *user, const char *text)
{
    (void)user;
    (void)text;
    atomic_fetch_add(&cache_warnings, 1);
}

static void open_cache(void)
{
    char dir[128];
    snprintf(dir, sizeof dir, "%s/cache", folder);
    const struct lq_cache_options options = {.dir = dir, .warn = on_cache_warning};
    cr_assert_eq(lq_cache_open(&cache, &options, &err), LQ_OK, "%s", err.message);
}

static void put_file(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    cr_assert_eq(lq_file_write(path, text, strlen(text), &err), LQ_OK, "%s", err.message);
}

static const char *get_file(const char *name)
{
    static struct lq_buffer text;
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    lq_buffer_clear(&text);
    if (lq_file_read(path, 1 << 20, &text, &err) != LQ_OK) {
        return NULL;
    }
    return lq_buffer_text(&text);
}

static unsigned count_runs(const char *line_start)
{
    const char *log = get_file("log");
    unsigned count = 0;
    for (const char *line = log; line != NULL && *line != '\0';) {
        count += strncmp(line, line_start, strlen(line_start)) == 0;
        line = strchr(line, '\n');
        line = line == NULL ? NULL : line + 1;
    }
    return count;
}

static void setup(void)
{
    strcpy(folder, "/tmp/lqbuild-test-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(fake_log_path, sizeof fake_log_path, "%s/log", folder);
    put_file("in.txt", "alpha\nbeta\ngamma\n");
    open_cache();
}

static void teardown(void)
{
    lq_cache_close(cache);
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    cr_assert_eq(system(command), 0);
}

static void on_event(void *user, const struct lq_event *event)
{
    (void)user;
    if (event->kind == LQ_EVENT_STEP_STARTED && event->explain != NULL) {
        strncat(explained, event->label, sizeof explained - strlen(explained) - 1);
        strncat(explained, ": ", sizeof explained - strlen(explained) - 1);
        strncat(explained, event->explain, sizeof explained - strlen(explained) - 1);
    }
    warnings += event->kind == LQ_EVENT_WARNING;
}

static struct lq_build_options base_options(void)
{
    return (struct lq_build_options){.explain = true, .cancel = &fake_cancel, .on_event = on_event};
}

static enum lq_status build_on(struct lq_executor *executor, const char *text, unsigned threads,
                               const struct lq_build_options *options)
{
    struct lq_recipe *recipe = NULL;
    struct lq_pool *pool = NULL;
    explained[0] = '\0';
    atomic_store(&fake_cancel, false);
    cr_assert_eq(lq_recipe_parse(&recipe, text, strlen(text), "recipe.lq", folder, &fake_registry,
                                 NULL, 0, &err),
                 LQ_OK, "%s", err.message);
    cr_assert_eq(lq_pool_create(&pool, threads, &err), LQ_OK);
    lq_error_clear(&err);
    enum lq_status status =
        executor == NULL ? lq_build_run(recipe, &fake_registry, cache, pool, options, &result, &err)
                         : lq_build_run_on(executor, recipe, cache, pool, options, &result, &err);
    lq_pool_destroy(pool);
    lq_recipe_destroy(recipe);
    return status;
}

static enum lq_status build(const char *text)
{
    const struct lq_build_options options = base_options();
    return build_on(NULL, text, 2, &options);
}

static void must_build(const char *text, uint64_t ran, uint64_t cached)
{
    enum lq_status status = build(text);
    cr_assert_eq(status, LQ_OK, "%s", err.message);
    cr_expect_eq(result.ran, ran, "ran %lu, expected %lu", result.ran, ran);
    cr_expect_eq(result.cached, cached, "cached %lu, expected %lu", result.cached, cached);
    cr_expect_eq(result.steps, ran + cached);
}

static const char lines_recipe[] = "file f { path = \"in.txt\" }\n"
                                   "lines l { input = f  path = \"out/l.txt\" }\n";

TestSuite(build, .init = setup, .fini = teardown, .timeout = 60);

Test(build, makes_the_output_then_does_nothing)
{
    must_build(lines_recipe, 4, 0);
    cr_expect_str_eq(get_file("out/l.txt"), "> alpha\n> beta\n> gamma\n");
    must_build(lines_recipe, 0, 4);
    cr_expect_eq(count_runs(""), 4);
}

Test(build, touching_inputs_runs_nothing)
{
    must_build(lines_recipe, 4, 0);
    char path[128];
    snprintf(path, sizeof path, "%s/in.txt", folder);
    const struct timespec times[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
    cr_assert_eq(utimensat(AT_FDCWD, path, times, 0), 0);
    must_build(lines_recipe, 0, 4);
}

Test(build, one_changed_line_runs_one_step_and_the_assembly)
{
    must_build(lines_recipe, 4, 0);
    put_file("in.txt", "alpha\nBETA\ngamma\n");
    must_build(lines_recipe, 2, 2);
    cr_expect_eq(count_runs("line BETA"), 1);
    cr_expect_eq(count_runs("line alpha"), 1);
    cr_expect_str_eq(get_file("out/l.txt"), "> alpha\n> BETA\n> gamma\n");
}

Test(build, a_changed_attribute_is_named_by_the_explanation)
{
    must_build(lines_recipe, 4, 0);
    cr_expect_not_null(strstr(explained, "alpha: no earlier build of it is known"));
    must_build("file f { path = \"in.txt\" }\n"
               "lines l { input = f  mark = \"- \"  path = \"out/l.txt\" }\n",
               4, 0);
    cr_expect_not_null(strstr(explained, "alpha: param mark: >\\s -> -\\s\n"), "%s", explained);
    cr_expect_not_null(strstr(explained, "all: input part0: "), "%s", explained);
}

Test(build, equal_output_cuts_off_what_comes_after)
{
    static const char recipe[] = "file f { path = \"in.txt\" }\n"
                                 "lower s { input = f }\n"
                                 "lines l { input = s  path = \"l.txt\" }\n";
    must_build(recipe, 5, 0);
    put_file("in.txt", "ALPHA\nbeta\ngamma\n");
    must_build(recipe, 1, 4);
    cr_expect_eq(count_runs("lower"), 2);
}

Test(build, equal_steps_of_two_artifacts_run_once)
{
    static const char recipe[] = "file f { path = \"in.txt\" }\n"
                                 "lines a { input = f  path = \"a.txt\" }\n"
                                 "lines b { input = f  path = \"b.txt\" }\n";
    must_build(recipe, 4, 4);
    cr_expect_eq(count_runs("line alpha"), 1);
    cr_expect_str_eq(get_file("b.txt"), "> alpha\n> beta\n> gamma\n");
}

Test(build, a_deleted_output_is_put_back_without_running)
{
    must_build(lines_recipe, 4, 0);
    char path[128];
    snprintf(path, sizeof path, "%s/out/l.txt", folder);
    cr_assert_eq(unlink(path), 0);
    must_build(lines_recipe, 0, 4);
    cr_expect_str_eq(get_file("out/l.txt"), "> alpha\n> beta\n> gamma\n");
}

Test(build, an_output_that_somebody_changed_is_put_back)
{
    must_build(lines_recipe, 4, 0);
    put_file("out/l.txt", "scribble");
    must_build(lines_recipe, 0, 4);
    cr_expect_str_eq(get_file("out/l.txt"), "> alpha\n> beta\n> gamma\n");
}

static const char chain_recipe[] = "file f { path = \"in.txt\" }\n"
                                   "chain c { input = f  links = 5  path = \"c.txt\" }\n";

Test(build, transient_outputs_are_dropped_when_all_is_done)
{
    must_build(chain_recipe, 6, 0);
    struct lq_digest digest;
    uint64_t size_bytes = 0;
    char state[128] = "alpha\nbeta\ngamma\n";
    for (int i = 0; i < 4; i++) {
        char label[16];
        snprintf(label, sizeof label, "link%d", i);
        strcat(state, label);
        lq_digest_of(state, strlen(state), &digest);
        cr_expect_not(lq_blob_exists(cache, &digest, &size_bytes), "state %d is still there", i);
    }
    must_build(chain_recipe, 0, 6);
}

Test(build, a_failed_chain_goes_on_where_it_stopped)
{
    strcpy(fake_fail_label, "link3");
    cr_assert_eq(build(chain_recipe), LQ_EIMPORTANCE);
    cr_expect_eq(result.ran, 3);
    cr_expect_eq(result.failed, 1);
    cr_expect_not_null(strstr(err.message, "told to fail"));
    cr_expect_null(get_file("c.txt"));
    fake_fail_label[0] = '\0';
    must_build(chain_recipe, 3, 3);
    cr_expect_eq(count_runs("link link0"), 1);
    cr_expect_eq(count_runs("link link3"), 2);
}

Test(build, a_cancelled_build_keeps_what_is_finished)
{
    strcpy(fake_cancel_label, "link2");
    cr_assert_eq(build(chain_recipe), LQ_ECANCELLED);
    cr_expect_eq(result.ran, 2);
    cr_expect_eq(result.failed, 0, "stopped is not failed");
    fake_cancel_label[0] = '\0';
    must_build(chain_recipe, 4, 2);
}

Test(build, a_lost_transient_state_is_made_again)
{
    strcpy(fake_fail_label, "link3");
    cr_assert_eq(build(chain_recipe), LQ_EIMPORTANCE);
    fake_fail_label[0] = '\0';
    struct lq_digest digest;
    static const char state[] = "alpha\nbeta\ngamma\nlink0link1link2";
    lq_digest_of(state, strlen(state), &digest);
    cr_assert_eq(lq_blob_drop(cache, &digest, &err), LQ_OK);
    /* Every link before it has lost its state too: the chain is walked back to its start. */
    must_build(chain_recipe, 6, 0);
    cr_expect_eq(count_runs("link link0"), 2);
    cr_expect_str_eq(get_file("c.txt"), "link0\nlink1\nlink2\nlink3\nlink4\n");
}

/* ---- transient outputs whose content others have, too ---- */

static const char loud_text[] = "ALPHA\nBETA\n";
static const char quiet_text[] = "alpha\nbeta\n";

static bool has_blob(const char *text)
{
    struct lq_digest digest;
    uint64_t size_bytes = 0;
    lq_digest_of(text, strlen(text), &digest);
    return lq_blob_exists(cache, &digest, &size_bytes);
}

/* `kinds`: see fake_hops. Every step runs once. */
static void must_hop(const char *kinds, const char *expected)
{
    char text[256];
    snprintf(text, sizeof text,
             "file f { path = \"in.txt\" }\n"
             "hops h { input = f  kinds = \"%s\"  path = \"h.txt\" }\n",
             kinds);
    put_file("in.txt", loud_text);
    must_build(text, strlen(kinds) + 1, 0);
    cr_expect_eq(count_runs(""), strlen(kinds) + 1);
    cr_expect_str_eq(get_file("h.txt"), expected);
    must_build(text, 0, strlen(kinds) + 1);
}

Test(build, a_kept_output_outlives_a_transient_one_with_its_content)
{
    must_hop("tkk", "alpha\nbeta\n\n");
    cr_expect(has_blob(quiet_text));
}

Test(build, an_output_that_was_kept_before_outlives_a_transient_one_with_its_content)
{
    must_hop("kttk", "alpha\nbeta\n\n");
    cr_expect(has_blob(quiet_text));
}

Test(build, transient_outputs_of_equal_content_go_with_their_last_reader)
{
    must_hop("tTtt", "alpha\nbeta\n\nalpha\nbeta\n\n");
    /* The joined output refers to it. */
    cr_expect(has_blob(quiet_text));
}

Test(build, a_kept_output_of_an_earlier_build_outlives_a_transient_one)
{
    static const char kept[] = "file f { path = \"loud.txt\" }\n"
                               "lower s { input = f  path = \"s.txt\" }\n";
    static const char state[] = "alpha\nbeta\ngamma\nlink0"; /* of the chain's first link */
    put_file("loud.txt", "ALPHA\nbeta\ngamma\nLINK0");
    must_build(kept, 1, 0);
    must_build(chain_recipe, 6, 0);
    cr_expect(has_blob(state));
    char path[128];
    snprintf(path, sizeof path, "%s/s.txt", folder);
    cr_assert_eq(unlink(path), 0);
    must_build(kept, 0, 1);
    cr_expect_str_eq(get_file("s.txt"), state);
}

/* Two artifacts at once: what is dropped for the one is written, and read, by the other. */
Test(build, equal_contents_may_come_and_go_at_the_same_time)
{
    static const char recipe[] =
        "file f { path = \"in.txt\" }\n"
        "hops a { input = f  kinds = \"ttkttk\"  mark = \"a\"  path = \"a.txt\" }\n"
        "hops b { input = f  kinds = \"tttktt\"  mark = \"b\"  path = \"b.txt\" }\n"
        "lower c { input = f  path = \"c.txt\" }\n";
    for (int i = 0; i < 40; i++) {
        char loud[64];
        char quiet[64];
        char joined[72];
        snprintf(loud, sizeof loud, "ALPHA %d\n", i);
        snprintf(quiet, sizeof quiet, "alpha %d\n", i);
        snprintf(joined, sizeof joined, "%s\n", quiet);
        put_file("in.txt", loud);
        cr_assert_eq(build(recipe), LQ_OK, "%s", err.message);
        cr_expect_str_eq(get_file("a.txt"), joined);
        cr_expect_str_eq(get_file("b.txt"), joined);
        cr_expect_str_eq(get_file("c.txt"), quiet);
        must_build(recipe, 0, 15);
    }
}

static const char *thrown_away;

/* As soon as a step is done, its output disappears. */
static void throw_away(void *user, const struct lq_event *event)
{
    on_event(user, event);
    if (event->kind == LQ_EVENT_STEP_FINISHED && strcmp(event->label, "link1") == 0) {
        struct lq_digest digest;
        struct lq_error drop_err;
        lq_digest_of(thrown_away, strlen(thrown_away), &digest);
        cr_assert_eq(lq_blob_drop(cache, &digest, &drop_err), LQ_OK);
    }
}

Test(build, an_output_that_is_lost_again_and_again_is_an_error)
{
    struct lq_build_options options = base_options();
    options.on_event = throw_away;
    thrown_away = "alpha\nbeta\ngamma\nlink0link1";
    cr_assert_eq(build_on(NULL, chain_recipe, 2, &options), LQ_ECACHE);
    cr_expect_not_null(strstr(err.message, "output 'state' of step link link1 can not be kept"),
                       "%s", err.message);
    cr_expect_not_null(strstr(err.message, "made again 3 times"), "%s", err.message);
    cr_expect_eq(count_runs("link link1"), 4);
    cr_expect_eq(result.failed, 1);
    /* Nothing is broken for good. */
    cr_assert_eq(build(chain_recipe), LQ_OK, "%s", err.message);
    cr_expect_str_eq(get_file("c.txt"), "link0\nlink1\nlink2\nlink3\nlink4\n");
}

Test(build, a_lost_part_is_made_again)
{
    must_build(lines_recipe, 4, 0);
    put_file("in.txt", "alpha\nbeta\ndelta\n");
    struct lq_digest digest;
    lq_digest_of("> alpha", 7, &digest);
    cr_assert_eq(lq_action_remove(cache, &digest, &err), LQ_OK); /* no such action: no error */
    char path[128];
    snprintf(path, sizeof path, "%s/out/l.txt", folder);
    cr_assert_eq(unlink(path), 0);
    /* The joined output refers to the part, so the cache keeps it. */
    cr_assert_eq(lq_blob_drop(cache, &digest, &err), LQ_OK);
    must_build(lines_recipe, 2, 2);
    cr_expect_str_eq(get_file("out/l.txt"), "> alpha\n> beta\n> delta\n");
}

Test(build, a_lost_output_of_a_cached_artifact_is_made_again)
{
    static const char recipe[] = "file f { path = \"in.txt\" }\n"
                                 "lower s { input = f }\n"
                                 "lower t { input = s  path = \"%s.txt\" }\n";
    char text[256];
    snprintf(text, sizeof text, recipe, "t");
    must_build(text, 1, 1); /* the second finds what the first made */
    struct lq_digest digest;
    lq_digest_of("alpha\nbeta\ngamma\n", 17, &digest);
    cr_assert_eq(lq_blob_drop(cache, &digest, &err), LQ_OK);
    char path[128];
    snprintf(path, sizeof path, "%s/t.txt", folder);
    cr_assert_eq(unlink(path), 0);
    /* The content equals the source, so it is still to be had: nothing has to run. */
    cr_assert_eq(build(text), LQ_OK, "%s", err.message);
    cr_expect_str_eq(get_file("t.txt"), "alpha\nbeta\ngamma\n");
    /* Now without such a source. */
    put_file("in.txt", "ALPHA\nbeta\ngamma\n");
    cr_assert_eq(build(text), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_blob_drop(cache, &digest, &err), LQ_OK);
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(build(text), LQ_OK, "%s", err.message);
    cr_expect_geq(result.ran, 1);
    cr_expect_str_eq(get_file("t.txt"), "alpha\nbeta\ngamma\n");
}

Test(build, a_failure_skips_what_depends_on_it_and_leaves_no_file)
{
    static const char recipe[] = "file f { path = \"in.txt\" }\n"
                                 "lines l { input = f  path = \"l.txt\" }\n"
                                 "lower m { input = l  path = \"m.txt\" }\n"
                                 "chain c { input = f  path = \"c.txt\" }\n";
    struct lq_build_options options = base_options();
    options.keep_going = 100;
    strcpy(fake_fail_label, "beta");
    cr_assert_eq(build_on(NULL, recipe, 2, &options), LQ_EIMPORTANCE);
    cr_expect_eq(result.failed, 1);
    cr_expect_eq(result.ran, 7); /* two lines, the chain of four and its assembly */
    cr_expect_null(get_file("l.txt"));
    cr_expect_null(get_file("m.txt"));
    cr_expect_not_null(get_file("c.txt"));
}

Test(build, a_dry_run_runs_nothing_and_says_what_would)
{
    struct lq_build_options options = base_options();
    options.dry_run = true;
    cr_assert_eq(build_on(NULL, lines_recipe, 2, &options), LQ_OK);
    cr_expect_eq(result.would_run, 4);
    cr_expect_eq(result.ran, 0);
    cr_expect_null(get_file("log"));
    cr_expect_null(get_file("out/l.txt"));
    must_build(lines_recipe, 4, 0);
    cr_assert_eq(build_on(NULL, lines_recipe, 2, &options), LQ_OK);
    cr_expect_eq(result.would_run, 0);
}

Test(build, force_runs_every_step_once)
{
    must_build(lines_recipe, 4, 0);
    struct lq_build_options options = base_options();
    options.force = true;
    cr_assert_eq(build_on(NULL, lines_recipe, 2, &options), LQ_OK);
    cr_expect_eq(result.ran, 4);
    cr_expect_not_null(strstr(explained, "alpha: forced"));
}

Test(build, a_verdict_fails_every_build_and_keeps_the_output)
{
    static const char recipe[] = "file f { path = \"in.txt\" }\n"
                                 "lines l { input = f  verdict = \"bad\"  path = \"l.txt\" }\n";
    cr_assert_eq(build(recipe), LQ_EQUALITY);
    cr_expect_str_eq(err.message, "the text is bad");
    cr_expect_str_eq(get_file("l.txt"), "> alpha\n> beta\n> gamma\n");
    cr_assert_eq(build(recipe), LQ_EQUALITY);
    cr_expect_eq(result.ran, 0);
    cr_expect_str_eq(err.message, "the text is bad");
}

Test(build, a_verdict_does_not_keep_others_from_their_place)
{
    static const char recipe[] = "file f { path = \"in.txt\" }\n"
                                 "lines a { input = f  verdict = \"bad\"  path = \"a.txt\" }\n"
                                 "lower b { input = a  path = \"b.txt\" }\n";
    cr_expect_eq(build(recipe), LQ_EQUALITY);
    cr_expect_str_eq(err.message, "the text is bad");
    cr_expect_str_eq(get_file("b.txt"), "> alpha\n> beta\n> gamma\n");
}

Test(build, a_missing_source_has_its_own_status)
{
    cr_assert_eq(build("file f { path = \"none.txt\" }\n"), LQ_ECALIBRATION);
    cr_expect_not_null(strstr(err.message, "none.txt: no such file"), "%s", err.message);
}

Test(build, an_output_must_not_replace_a_source)
{
    cr_assert_eq(build("file f { path = \"in.txt\" }\nlines a { input = f  path = \"in.txt\" }\n"),
                 LQ_ERECIPE);
    cr_expect_not_null(strstr(err.message, "would overwrite"), "%s", err.message);
}

static void expect_clash(const char *recipe, const char *words)
{
    cr_expect_eq(build(recipe), LQ_ERECIPE, "%s", recipe);
    cr_expect_not_null(strstr(err.message, words), "%s", err.message);
    cr_expect_str_eq(get_file("in.txt"), "alpha\nbeta\ngamma\n");
}

static void put_link(const char *target, const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    cr_assert_eq(symlink(target, path), 0);
}

Test(build, an_output_must_not_replace_a_source_under_another_name)
{
    put_file("sub/keep.txt", "makes the folder");
    put_link("sub", "linked");
    put_link("../in.txt", "sub/again.txt");
    expect_clash("file f { path = \"in.txt\" }\nlines a { input = f  path = \"./in.txt\" }\n",
                 "would overwrite");
    expect_clash("file f { path = \"in.txt\" }\n"
                 "lines a { input = f  path = \"linked/../none/../in.txt\" }\n",
                 "would overwrite");
    expect_clash("file f { path = \"linked/again.txt\" }\n"
                 "lines a { input = f  path = \"in.txt\" }\n",
                 "would overwrite");
    expect_clash("file f { path = \"linked/again.txt\" }\n"
                 "lines a { input = f  path = \"sub/again.txt\" }\n",
                 "would overwrite");
    expect_clash("file f { path = \"in.txt\" }\nlines a { input = f  path = \"sub/x.txt\" }\n"
                 "lines b { input = f  path = \"linked/x.txt\" }\n",
                 "are one file");
}

Test(build, an_unwritable_output_loses_no_work)
{
    put_file("block", "a file where a folder is needed");
    static const char recipe[] = "file f { path = \"in.txt\" }\n"
                                 "lines l { input = f  path = \"block/l.txt\" }\n";
    cr_assert_eq(build(recipe), LQ_EIO);
    cr_expect_eq(result.ran, 4);
    must_build(lines_recipe, 0, 4);
}

/* 17 MB of text, whose lower case goes to two places in one folder. */
static void put_large_file(char letter)
{
    enum { SIZE = 17 * 1000 * 1000 };
    char *text = malloc(SIZE + 1);
    cr_assert_not_null(text);
    memset(text, letter, SIZE);
    text[SIZE] = '\0';
    put_file("in.txt", text);
    free(text);
}

static void expect_large_file(const char *name, char letter)
{
    char path[128];
    struct lq_map map;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    cr_assert_eq(lq_map_open(&map, path, LQ_EIO, &err), LQ_OK, "%s", err.message);
    cr_expect_eq(map.size_bytes, 17 * 1000 * 1000);
    for (uint64_t i = 0; i < map.size_bytes; i++) {
        cr_assert_eq((char)map.data[i], letter, "at %lu", i);
    }
    lq_map_close(&map);
    snprintf(path, sizeof path, "%s/%s.lqtmp.00000001", folder, name);
    cr_expect_neq(access(path, F_OK), 0, "a temporary file is left");
}

Test(build, a_large_output_is_written_while_it_is_made)
{
    static const char recipe[] = "file f { path = \"in.txt\" }\n"
                                 "lower s { input = f  path = \"out/s.txt\" }\n";
    snprintf(fake_watched_path, sizeof fake_watched_path, "%s/out/s.txt.lqtmp.00000001", folder);
    must_build(recipe, 1, 0);
    cr_expect_not(atomic_load(&fake_watched_exists), "a small one is not");
    put_large_file('A');
    must_build(recipe, 1, 0);
    cr_expect(atomic_load(&fake_watched_exists));
    expect_large_file("out/s.txt", 'a');
    must_build(recipe, 0, 1);
    /* Out of the cache; and an equal output of a step that ran is left as it is. */
    put_file("out/s.txt", "scribble");
    must_build(recipe, 0, 1);
    expect_large_file("out/s.txt", 'a');
    put_large_file('a');
    must_build(recipe, 1, 0);
    expect_large_file("out/s.txt", 'a');
}

Test(build, a_large_output_that_can_not_be_written_loses_no_work)
{
    static const char good[] = "file f { path = \"in.txt\" }\n"
                               "lower s { input = f  path = \"s.txt\" }\n";
    static const char bad[] = "file f { path = \"in.txt\" }\n"
                              "lower s { input = f  path = \"block/s.txt\" }\n";
    put_file("block", "a file where a folder is needed");
    put_large_file('A');
    cr_assert_eq(build(bad), LQ_EIO);
    cr_expect_eq(result.ran, 1);
    must_build(good, 0, 1);
    expect_large_file("s.txt", 'a');
}

Test(build, an_unknown_target_is_an_error_with_a_suggestion)
{
    static const char *const targets[] = {"ll"};
    struct lq_build_options options = base_options();
    options.targets = targets;
    options.target_count = 1;
    cr_assert_eq(
        build_on(NULL, "file f { path = \"in.txt\" }\nlines lll { input = f }\n", 1, &options),
        LQ_EUSAGE);
    cr_expect_not_null(strstr(err.message, "unknown target 'll'"), "%s", err.message);
}

Test(build, only_wanted_artifacts_are_built)
{
    static const char *const targets[] = {"l"};
    struct lq_build_options options = base_options();
    options.targets = targets;
    options.target_count = 1;
    cr_assert_eq(build_on(NULL,
                          "file f { path = \"in.txt\" }\nfile g { path = \"none\" }\n"
                          "lines l { input = f }\nlines m { input = g }\n",
                          2, &options),
                 LQ_OK, "%s", err.message);
    cr_expect_eq(result.ran, 4);
}

/* ---- an executor that performs work in an order of its own ---- */

struct fake_executor {
    struct lq_executor base;
    struct lq_work *queued[64];
    unsigned count;
    unsigned order; /* 0 first in, 1 last in, 2 middle */
};

static enum lq_status fake_submit(struct lq_executor *executor, struct lq_work *work,
                                  struct lq_error *error)
{
    (void)error;
    struct fake_executor *fake = (struct fake_executor *)executor;
    fake->queued[fake->count++] = work;
    return LQ_OK;
}

static struct lq_work *fake_poll(struct lq_executor *executor, unsigned wait_ms)
{
    struct fake_executor *fake = (struct fake_executor *)executor;
    if (fake->count == 0 || wait_ms == 0) {
        return NULL;
    }
    unsigned pick = fake->order == 0 ? 0 : fake->order == 1 ? fake->count - 1 : fake->count / 2;
    struct lq_work *work = fake->queued[pick];
    fake->queued[pick] = fake->queued[--fake->count];
    work->perform(work);
    return work;
}

Test(build, the_order_of_completion_does_not_matter)
{
    static const char recipe[] = "file f { path = \"in.txt\" }\n"
                                 "lines l { input = f  path = \"l.txt\" }\n"
                                 "chain c { input = l  path = \"c.txt\" }\n"
                                 "lower m { input = c  path = \"m.txt\" }\n";
    char first[256] = "";
    for (unsigned order = 0; order < 3; order++) {
        struct fake_executor fake = {
            .base = {.slot_count = 8, .submit = fake_submit, .poll = fake_poll}, .order = order};
        struct lq_build_options options = base_options();
        options.force = true;
        cr_assert_eq(build_on(&fake.base, recipe, 1, &options), LQ_OK, "%s", err.message);
        cr_expect_eq(result.ran, 10);
        const char *text = get_file("m.txt");
        cr_assert_not_null(text);
        if (order == 0) {
            snprintf(first, sizeof first, "%s", text);
        }
        cr_expect_str_eq(text, first);
    }
}

/* ---- several processes on one cache ---- */

Test(build, two_processes_do_each_step_once)
{
    lq_cache_close(cache);
    fake_step_ms = 30;
    pid_t children[2];
    for (int i = 0; i < 2; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            open_cache();
            enum lq_status status = build(chain_recipe);
            status = status == LQ_OK ? build(lines_recipe) : status;
            lq_cache_close(cache);
            _exit(status == LQ_OK ? 0 : 1);
        }
    }
    for (int i = 0; i < 2; i++) {
        int status = 0;
        cr_assert_eq(waitpid(children[i], &status, 0), children[i]);
        cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    open_cache();
    cr_expect_eq(count_runs("link "), 5, "%s", get_file("log"));
    cr_expect_eq(count_runs("line "), 3, "%s", get_file("log"));
    cr_expect_eq(count_runs("join "), 2, "%s", get_file("log"));
}

Test(build, killed_builds_go_on_and_give_the_same_bytes)
{
    must_build(chain_recipe, 6, 0);
    char expected[256];
    snprintf(expected, sizeof expected, "%s", get_file("c.txt"));
    lq_cache_close(cache);
    char command[512];
    snprintf(command, sizeof command, "rm -rf '%s/cache' '%s/log' '%s/c.txt'", folder, folder,
             folder);
    cr_assert_eq(system(command), 0);
    fake_step_ms = 10;
    unsigned kills = 0;
    for (unsigned delay_ms = 5; kills < 12; delay_ms += 7, kills++) {
        pid_t child = fork();
        if (child == 0) {
            open_cache();
            enum lq_status status = build(chain_recipe);
            _exit(status == LQ_OK ? 0 : 1);
        }
        struct timespec pause = {.tv_nsec = (long)delay_ms * 1000000};
        nanosleep(&pause, NULL);
        kill(child, SIGKILL);
        int status = 0;
        cr_assert_eq(waitpid(child, &status, 0), child);
    }
    open_cache();
    cr_assert_eq(build(chain_recipe), LQ_OK, "%s", err.message);
    cr_expect_str_eq(get_file("c.txt"), expected);
    /* Each kill costs at most the step in flight. */
    cr_expect_leq(count_runs(""), 6 + kills);
}
