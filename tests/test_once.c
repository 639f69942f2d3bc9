/* Large outputs are written once, to their place, and the cache keeps no copy: the same bytes, the
 * same promises. The limit from which on they count as large is lowered for small models. */
#define _GNU_SOURCE
#include <time.h>

#include "tests/e2e.h"

static const char recipe_text[] =
    "model base { source = \"%s\" }\n"
    "text t { path = \"text.txt\" }\n"
    "gguf f16 { model = base  level = \"F16\"  path = \"out/f16.gguf\" }\n"
    "gguf q8 { model = base  level = \"Q8_0\"  path = \"out/q8.gguf\" }\n"
    "gguf q4 { model = base  level = \"Q4_0\"  path = \"out/q4.gguf\" }\n"
    "report r { original = base  quantized = [q8]  text = t  context = 64  chunks = 3\n"
    "           path = \"out/r.qreport\" }\n"
    "default f16, q8, q4\n";

static void make_project(const char *folder, const char *model)
{
    char name[64];
    cr_assert_eq(mkdir(folder, 0777), 0);
    snprintf(name, sizeof name, "%s/text.txt", folder);
    e2e_copy_text("calibration.txt", name, 6000);
    snprintf(name, sizeof name, "%s/recipe.lq", folder);
    e2e_write(name, recipe_text, model);
}

/* "ref" has what a build that writes everything twice makes. */
static void prepare(void)
{
    e2e_init();
    make_project("ref", "../model");
    make_project("a", "../model");
    cr_assert_eq(e2e_run("-q -C ref --cache-dir cache-ref"), 0, "%s", e2e_stderr());
    setenv("LQBUILD_TEST_LARGE_BYTES", "100000", 1);
}

TestSuite(once, .init = prepare, .fini = e2e_fini, .timeout = 120);

static void expect_outputs(const char *folder)
{
    static const char *const files[] = {"f16.gguf", "q8.gguf", "q4.gguf"};
    for (size_t i = 0; i < LQ_COUNT_OF(files); i++) {
        char made[64];
        char wanted[64];
        snprintf(made, sizeof made, "%s/out/%s", folder, files[i]);
        snprintf(wanted, sizeof wanted, "ref/out/%s", files[i]);
        e2e_expect_same_file(made, wanted);
    }
}

static void expect_ran(const char *arguments, double ran)
{
    cr_assert_eq(e2e_run("--json %s", arguments), 0, "%s%s", e2e_stdout(), e2e_stderr());
    cr_expect_eq(e2e_summary("ran"), ran, "%s: %g ran", arguments, e2e_summary("ran"));
}

static double stat_of(const char *cache, const char *key)
{
    cr_assert_eq(e2e_run("cache --json stats --cache-dir %s", cache), 0, "%s", e2e_stderr());
    cJSON *json = cJSON_Parse(e2e_stdout());
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    cr_assert(cJSON_IsNumber(item), "%s", e2e_stdout());
    double value = item->valuedouble;
    cJSON_Delete(json);
    return value;
}

Test(once, same_bytes_and_no_second_copy)
{
    cr_assert_eq(e2e_run("--json -C a"), 0, "%s%s", e2e_stdout(), e2e_stderr());
    expect_outputs("a");
    expect_ran("-C a", 0);
    cr_expect_eq(stat_of("a/cache", "placed"), 2);
    cr_expect_lt(stat_of("a/cache", "blob_bytes"), stat_of("ref/cache-ref", "blob_bytes") / 2);
    cr_assert_eq(e2e_run("cache verify --cache-dir a/cache"), 0, "%s", e2e_stderr());
    cr_assert_eq(e2e_run("cache gc --cache-dir a/cache"), 0, "%s", e2e_stderr());
    expect_ran("-C a", 0);
    cr_expect_eq(system("ls -A a/out | grep -q lqtmp"), 256, "a temporary file stays");
}

Test(once, a_changed_file_is_made_again_by_one_step_and_the_reason_is_told)
{
    static const char *const changes[] = {
        "printf x | dd of=a/out/q8.gguf bs=1 seek=9000 conv=notrunc status=none",
        "truncate -s 1000 a/out/q8.gguf",
        "rm a/out/q8.gguf",
        "cp a/out/q8.gguf a/x && mv a/x a/out/q8.gguf",
        "cp ref/out/q4.gguf a/out/q8.gguf",
    };
    cr_assert_eq(e2e_run("-q -C a"), 0, "%s", e2e_stderr());
    for (size_t i = 0; i < LQ_COUNT_OF(changes); i++) {
        cr_assert_eq(system(changes[i]), 0);
        cr_assert_eq(e2e_run("-C a explain q8"), 0, "%s", e2e_stderr());
        cr_expect_not_null(strstr(e2e_stdout(), "a/out/q8.gguf was changed or removed"), "%s: %s",
                           changes[i], e2e_stdout());
        expect_ran("-C a", 1);
        expect_outputs("a");
        expect_ran("-C a", 0);
    }
    /* One with the right content is taken as it is, once it has been hashed or made: no warning. */
    cr_expect_eq(e2e_count_events("warning", ""), 0, "%s", e2e_stdout());
}

Test(once, a_report_reads_the_file_and_makes_it_again_when_it_is_gone)
{
    cr_assert_eq(e2e_run("-q -C ref --cache-dir cache-ref r"), 0, "%s", e2e_stderr());
    cr_assert_eq(e2e_run("-q -C a"), 0, "%s", e2e_stderr());
    cr_assert_eq(e2e_run("--json -C a r"), 0, "%s%s", e2e_stdout(), e2e_stderr());
    cr_expect_eq(e2e_count_lines("step-finished", "gguf.", "\"ran\""), 0, "%s", e2e_stdout());
    e2e_expect_same_file("a/out/r.qreport", "ref/out/r.qreport");
    expect_ran("-C a r", 0);
    /* Without the file the report alone stays good; another report needs the file again. */
    cr_assert_eq(unlink("a/out/q8.gguf"), 0);
    cr_assert_eq(system("sed -i 's/chunks = 3/chunks = 2/' ref/recipe.lq a/recipe.lq"), 0);
    unsetenv("LQBUILD_TEST_LARGE_BYTES");
    cr_assert_eq(e2e_run("-q -C ref --cache-dir cache-ref r"), 0, "%s", e2e_stderr());
    setenv("LQBUILD_TEST_LARGE_BYTES", "100000", 1);
    cr_assert_eq(e2e_run("--json -C a r"), 0, "%s%s", e2e_stdout(), e2e_stderr());
    cr_expect_eq(e2e_count_lines("step-finished", "gguf.assemble", "\"ran\""), 1, "%s",
                 e2e_stdout());
    e2e_expect_same_file("a/out/r.qreport", "ref/out/r.qreport");
}

Test(once, a_second_place_is_filled_from_the_first)
{
    make_project("b", "../model");
    setenv("LQBUILD_CACHE_DIR", "../cache", 1);
    cr_assert_eq(e2e_run("-q -C a"), 0, "%s", e2e_stderr());
    expect_ran("-C b", 0);
    expect_outputs("b");
    /* The cache knows the first one. When that is gone the step runs for both. */
    cr_assert_eq(unlink("a/out/q8.gguf"), 0);
    cr_assert_eq(unlink("b/out/q8.gguf"), 0);
    expect_ran("-C b", 1);
    expect_ran("-C a", 0);
    expect_outputs("a");
    expect_outputs("b");
}

/* A build that places nothing, or has no place, keeps the content in the cache as ever. */
Test(once, without_a_place_the_cache_has_it)
{
    cr_assert_eq(system("sed -i 's|path = \"out/q8.gguf\"||' a/recipe.lq"), 0);
    cr_assert_eq(e2e_run("-q -C a q8"), 0, "%s", e2e_stderr());
    cr_expect_eq(stat_of("a/cache", "placed"), 0);
    cr_assert_eq(e2e_run("-C a check --rebuild q8"), 0, "%s%s", e2e_stdout(), e2e_stderr());
    cr_assert_eq(system("cp ref/recipe.lq a/recipe.lq"), 0);
    expect_ran("-C a q8", 0);
    e2e_expect_same_file("a/out/q8.gguf", "ref/out/q8.gguf");
    cr_assert_eq(e2e_run("-q -C a"), 0, "%s", e2e_stderr());
    cr_assert_eq(e2e_run("-C a check --rebuild f16"), 0, "%s%s", e2e_stdout(), e2e_stderr());
    cr_assert_eq(unlink("a/out/f16.gguf"), 0);
    cr_assert_eq(e2e_run("-C a check --rebuild f16"), 0, "%s%s", e2e_stdout(), e2e_stderr());
}

/* The signature of a file that was just written could be that of a later write, too, so there is
 * time between the name and the record. */
Test(once, a_kill_between_the_name_and_the_record_leaves_no_record)
{
    unsigned hits = 0;
    for (int i = 0; i < 8; i++) {
        cr_assert_eq(system("rm -rf a/cache a/out"), 0);
        pid_t child = e2e_start("-q -j1 -C a q8", "run");
        for (int wait = 0; wait < 20000 && access("a/out/q8.gguf", F_OK) != 0; wait++) {
            const struct timespec pause = {.tv_nsec = 500 * 1000};
            nanosleep(&pause, NULL);
        }
        kill(child, SIGKILL);
        bool killed = e2e_wait(child) == 128 + SIGKILL;
        hits += killed && stat_of("a/cache", "placed") == 0 ? 1 : 0;
        e2e_expect_same_file("a/out/q8.gguf", "ref/out/q8.gguf");
        cr_assert_eq(e2e_run("-q -C a"), 0, "%s", e2e_stderr());
        expect_outputs("a");
        expect_ran("-C a", 0);
        cr_assert_eq(e2e_run("cache verify --cache-dir a/cache"), 0, "%s", e2e_stderr());
        if (hits == 2) {
            break;
        }
    }
    cr_expect_geq(hits, 1, "no kill came in time");
}

Test(once, kills_at_any_moment_leave_nothing_wrong)
{
    uint64_t seed = (uint64_t)time(NULL);
    fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
    for (int i = 0; i < 12; i++) {
        pid_t child = e2e_start("-q -C a f16 q8", "run");
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        const struct timespec pause = {.tv_nsec = (long)(1 + (seed >> 33) % 250) * 1000000};
        nanosleep(&pause, NULL);
        kill(child, SIGKILL);
        (void)e2e_wait(child);
        if (i % 3 == 2) {
            cr_assert_eq(e2e_run("-q -C a"), 0, "%s", e2e_stderr());
            expect_outputs("a");
            expect_ran("-C a", 0);
            cr_expect_eq(system("ls -A a/out | grep -q lqtmp"), 256, "a temporary file stays");
            cr_assert_eq(system(i % 2 == 0 ? "rm -rf a/cache" : "rm -rf a/out"), 0);
        }
    }
}

/* ---- sharing ---- */

Test(once, a_bundle_has_the_bytes_of_the_file)
{
    make_project("b", "../model");
    cr_assert_eq(e2e_run("-q -C a"), 0, "%s", e2e_stderr());
    cr_assert_eq(e2e_run("-C a cache export -o ../bundle f16 q8 q4"), 0, "%s%s", e2e_stdout(),
                 e2e_stderr());
    cr_assert_eq(e2e_run("-C b --trust-unsigned cache import ../bundle"), 0, "%s%s", e2e_stdout(),
                 e2e_stderr());
    expect_ran("-C b", 0);
    expect_outputs("b");
    /* What was fetched is the cache's own. */
    cr_assert_eq(system("rm -r b/out"), 0);
    expect_ran("-C b", 0);
    expect_outputs("b");
    /* Without the file there is nothing to export. */
    cr_assert_eq(unlink("a/out/q8.gguf"), 0);
    cr_expect_neq(e2e_run("-C a cache export -o ../second q8"), 0, "%s", e2e_stdout());
    cr_expect_not_null(strstr(e2e_stderr(), "build first"), "%s", e2e_stderr());
}

/* ---- what cannot be ---- */

Test(once, a_place_that_cannot_be_written_is_an_error)
{
    cr_assert_eq(mkdir("a/out", 0777), 0);
    cr_assert_eq(mkdir("a/out/q8.gguf", 0777), 0);
    cr_expect_eq(e2e_run("-q -C a q8"), 6, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), "is a folder"), "%s", e2e_stderr());
    cr_assert_eq(rmdir("a/out/q8.gguf"), 0);
    /* The work is not lost. */
    expect_ran("-C a q8", 0);
    e2e_expect_same_file("a/out/q8.gguf", "ref/out/q8.gguf");
}

/* Tensors that take long to encode keep their steps; the others are made while assembling. */
Test(once, costly_tensors_are_cached_one_by_one)
{
    cr_assert_eq(system("sed -i 's|level = \"Q8_0\"|level = \"Q8_0\" tensors = "
                        "{ \"blk.0.*.weight\" = \"Q4_0\" }|' a/recipe.lq ref/recipe.lq"),
                 0);
    unsetenv("LQBUILD_TEST_LARGE_BYTES");
    cr_assert_eq(e2e_run("-q -C ref --cache-dir cache-ref q8"), 0, "%s", e2e_stderr());
    setenv("LQBUILD_TEST_LARGE_BYTES", "100000", 1);
    cr_assert_eq(e2e_run("--json -C a q8"), 0, "%s", e2e_stderr());
    unsigned tensors = e2e_count_lines("step-finished", "gguf.tensor", "\"ran\"");
    cr_expect(tensors > 3 && tensors < 12, "%u", tensors);
    e2e_expect_same_file("a/out/q8.gguf", "ref/out/q8.gguf");
    cr_assert_eq(unlink("a/out/q8.gguf"), 0);
    expect_ran("-C a q8", 1);
    e2e_expect_same_file("a/out/q8.gguf", "ref/out/q8.gguf");
}
