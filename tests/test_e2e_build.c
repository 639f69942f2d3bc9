/* The whole chain on the shipped model, from the command line: incremental builds, kills, sharing
 * and reproducibility. The chain is cut small (128 samples of 64 tokens, short texts) where its
 * numbers do not matter. */
#include <time.h>

#include "e2e.h"

static void write_recipe(const char *ffn_type)
{
    e2e_write("mix.dqprofile",
              "{ \"profile_id\": \"00000000-0000-0000-0000-000000000001\", \"profile_name\": "
              "\"mine\", \"strategy\": \"custom\", \"layer_assignments\": [\n"
              "  { \"layer_name\": \"blk.2.ffn_down.weight\", \"bit_width\": %s },\n"
              "  { \"layer_name\": \"model.layers.1.self_attn\", \"bit_width\": 6 },\n"
              "  { \"layer_name\": \"*\", \"bit_width\": 4 } ] }\n",
              ffn_type);
    e2e_write(
        "recipe.lq",
        "model base { source = \"model\" }\n"
        "text words { path = \"words.txt\" }\n"
        "calibration calib { model = base  text = words  samples = 128  sequence = 64 }\n"
        "imatrix im { model = base  calibration = calib  path = \"out/im.gguf\" }\n"
        "mask super { model = base  imatrix = im }\n"
        "profile mix { model = base  imatrix = im  file = \"mix.dqprofile\" }\n"
        "gguf small { model = base  imatrix = im  profile = mix  protect = super\n"
        "             path = \"out/small.gguf\" }\n"
        "gguf plain { model = base  imatrix = im  level = \"Q4_K_M\"  path = \"out/plain.gguf\" }\n"
        "text eval { path = \"eval.txt\" }\n"
        "report q { original = base  quantized = [small, plain]  text = eval\n"
        "           path = \"out/q.qreport\" }\n"
        "default q\n");
}

static void init(void)
{
    e2e_init();
    e2e_copy_text("calibration.txt", "words.txt", 60000);
    e2e_copy_text("eval.txt", "eval.txt", 8000);
    write_recipe("3");
}

TestSuite(e2e_build, .init = init, .fini = e2e_fini, .timeout = 900);

Test(e2e_build, second_run_does_nothing_and_touch_changes_nothing)
{
    cr_assert_eq(e2e_run("--json"), 0, "%s%s", e2e_stdout(), e2e_stderr());
    double steps = e2e_summary("steps");
    cr_expect_gt(steps, 50);
    cr_expect_gt(e2e_summary("ran"), 50);
    cr_assert_eq(e2e_run("--json"), 0);
    cr_expect_eq(e2e_summary("ran"), 0);
    cr_expect_eq(e2e_summary("cached"), steps);
    cr_assert_eq(system("touch words.txt eval.txt mix.dqprofile recipe.lq"), 0);
    cr_assert_eq(system("cp -rL model copy && rm model && mv copy model && touch model/*"), 0);
    cr_assert_eq(e2e_run("--json"), 0);
    cr_expect_eq(e2e_summary("ran"), 0, "%s", e2e_stdout());
    cr_expect_eq(e2e_summary("failed"), 0);
}

Test(e2e_build, one_changed_type_quantizes_one_tensor)
{
    cr_assert_eq(e2e_run("--json small"), 0, "%s%s", e2e_stdout(), e2e_stderr());
    write_recipe("5");
    cr_assert_eq(e2e_run("--json small"), 0, "%s%s", e2e_stdout(), e2e_stderr());
    cr_expect_eq(e2e_count_events("step-started", "gguf.tensor"), 1, "%s", e2e_stdout());
    cr_expect_eq(e2e_count_events("step-started", "blk.2.ffn_down.weight"), 1);
    cr_expect_eq(e2e_count_events("step-started", "gguf.assemble"), 1);
    cr_expect_leq(e2e_summary("ran"), 3, "the profile, the tensor, the assembly: %s", e2e_stdout());
}

Test(e2e_build, another_evaluation_text_reruns_the_report_only)
{
    cr_assert_eq(e2e_run("--json"), 0, "%s%s", e2e_stdout(), e2e_stderr());
    e2e_copy_text("eval.txt", "eval.txt", 12000);
    cr_assert_eq(e2e_run("--json"), 0, "%s%s", e2e_stdout(), e2e_stderr());
    cr_expect_gt(e2e_summary("ran"), 0);
    cr_expect_eq(e2e_count_events("step-started", "\"artifact\":\"q\""),
                 (unsigned)e2e_summary("ran"), "%s", e2e_stdout());
}

Test(e2e_build, explain_names_the_field_that_changed)
{
    cr_assert_eq(e2e_run("small"), 0, "%s", e2e_stderr());
    write_recipe("5");
    cr_assert_eq(e2e_run("--explain --progress plain small"), 0, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), "param type: Q3_K -> Q5_K"), "%s", e2e_stderr());
}

Test(e2e_build, threads_and_runs_give_the_same_bytes)
{
    cr_assert_eq(e2e_run("-j1 --cache-dir cache1"), 0, "%s", e2e_stderr());
    cr_assert_eq(rename("out", "out1"), 0);
    cr_assert_eq(e2e_run("-j2 --cache-dir cache2"), 0, "%s", e2e_stderr());
    e2e_expect_same_file("out/im.gguf", "out1/im.gguf");
    e2e_expect_same_file("out/small.gguf", "out1/small.gguf");
    e2e_expect_same_file("out/plain.gguf", "out1/plain.gguf");
    e2e_expect_same_file("out/q.qreport", "out1/q.qreport");
}

Test(e2e_build, kills_at_any_moment_lose_only_steps_in_flight)
{
    cr_assert_eq(e2e_run("--json --cache-dir whole"), 0, "%s", e2e_stderr());
    unsigned steps = (unsigned)e2e_summary("ran");
    cr_assert_eq(rename("out", "out1"), 0);
    unsigned started = 0;
    unsigned kills = 0;
    int code = 1;
    for (unsigned delay_ms = 40; kills < 10; delay_ms = delay_ms * 13 / 10, kills++) {
        pid_t child = e2e_start("--json", "kill");
        struct timespec pause = {.tv_sec = delay_ms / 1000,
                                 .tv_nsec = (long)(delay_ms % 1000) * 1000000};
        nanosleep(&pause, NULL);
        kill(child, SIGKILL);
        code = e2e_wait(child);
        e2e_collect("kill");
        started += e2e_count_events("step-started", "");
        if (code == 0) {
            break;
        }
    }
    cr_assert_eq(e2e_run("--json"), 0, "%s", e2e_stderr());
    started += e2e_count_events("step-started", "");
    cr_expect_leq(started, steps + 2 * kills, "%u steps started for %u, %u kills", started, steps,
                  kills);
    e2e_expect_same_file("out/im.gguf", "out1/im.gguf");
    e2e_expect_same_file("out/small.gguf", "out1/small.gguf");
    e2e_expect_same_file("out/plain.gguf", "out1/plain.gguf");
    e2e_expect_same_file("out/q.qreport", "out1/q.qreport");
}

Test(e2e_build, two_processes_do_each_step_once)
{
    cr_assert_eq(e2e_run("--json --cache-dir whole"), 0, "%s", e2e_stderr());
    double steps = e2e_summary("ran");
    pid_t a = e2e_start("--json", "a");
    pid_t b = e2e_start("--json", "b");
    int code_a = e2e_wait(a);
    int code_b = e2e_wait(b);
    e2e_collect("b");
    cr_expect_eq(code_b, 0, "exit code %d: %s", code_b, e2e_stderr());
    e2e_collect("a");
    cr_expect_eq(code_a, 0, "exit code %d: %s", code_a, e2e_stderr());
    double ran = e2e_summary("ran");
    cr_expect_eq(e2e_summary("failed"), 0);
    e2e_collect("b");
    ran += e2e_summary("ran");
    cr_expect_eq(ran, steps, "%g steps ran in both, %g in one alone", ran, steps);
}

Test(e2e_build, interrupting_is_clean_and_resumes)
{
    pid_t child = e2e_start("--json", "int");
    struct timespec pause = {.tv_nsec = 300 * 1000000};
    nanosleep(&pause, NULL);
    kill(child, SIGINT);
    int code = e2e_wait(child);
    cr_expect(code == 130 || code == 0, "exit code %d", code);
    cr_expect_eq(system("ls out 2>/dev/null | grep -q lqtmp"), 256);
    cr_assert_eq(e2e_run("--json"), 0, "%s", e2e_stderr());
    cr_assert_eq(e2e_run("--json"), 0);
    cr_expect_eq(e2e_summary("ran"), 0);
}

Test(e2e_build, every_output_of_a_command_is_put_in_place)
{
    e2e_write("count.sh", "#!/bin/sh\nwc -c <\"$1\" >\"$2\"\nhead -n 1 \"$1\" >\"$3\"\n");
    cr_assert_eq(system("chmod +x count.sh"), 0);
    e2e_write("recipe.lq", "text words { path = \"words.txt\" }\n"
                           "command c { run = \"./count.sh $in $out1 $out2\"  inputs = [words]\n"
                           "            outputs = [\"out/size\", \"out/first\"] }\n");
    cr_assert_eq(e2e_run("--json"), 0, "%s%s", e2e_stdout(), e2e_stderr());
    cr_expect_eq(e2e_summary("ran"), 1);
    cr_expect_eq(system("test $(cat out/size) = $(wc -c <words.txt)"), 0);
    cr_expect_eq(system("head -n 1 words.txt | cmp -s - out/first"), 0);
    cr_assert_eq(unlink("out/first"), 0);
    cr_assert_eq(e2e_run("--json out/first"), 0, "%s", e2e_stderr());
    cr_expect_eq(e2e_summary("ran"), 0);
    cr_expect(lq_path_exists("out/first"));
    cr_assert_eq(e2e_run("clean"), 0);
    cr_expect_not(lq_path_exists("out/first"));
    cr_expect_not(lq_path_exists("out/size"));
    e2e_write("count.sh", "#!/bin/sh\necho no >&2\nexit 3\n");
    cr_expect_eq(e2e_run(""), 18);
    cr_expect_not_null(strstr(e2e_stderr(), "no"), "%s", e2e_stderr());
}

Test(e2e_build, shipped_recipes_can_be_included)
{
    static const char *const names[] = {"ladder", "compare"};
    for (size_t i = 0; i < LQ_COUNT_OF(names); i++) {
        e2e_write("recipe.lq",
                  "let source = \"model\"\nlet corpus = \"words.txt\"\nlet out = \"out\"\n"
                  "let held_out = \"eval.txt\"\ninclude \"%s/recipes/%s.lq\"\n",
                  LQ_SOURCE_DIR, names[i]);
        cr_expect_eq(e2e_run("check"), 0, "%s: %s", names[i], e2e_stderr());
        cr_expect_eq(e2e_run("fmt --check %s/recipes/%s.lq", LQ_SOURCE_DIR, names[i]), 0, "%s",
                     e2e_stderr());
    }
    e2e_write(
        "recipe.lq",
        "model base { source = \"model\" }\n"
        "profile p { model = base  file = \"%s/recipes/profiles/attention-high.dqprofile\" }\n"
        "gguf g { model = base  profile = p  path = \"g.gguf\" }\n",
        LQ_SOURCE_DIR);
    cr_expect_eq(e2e_run("--json"), 0, "%s", e2e_stderr());
}

/* Alters one byte in every value of LMDB that fills whole pages, as a bad disk would. Pages of such
 * values say so in their flags (0x04) and how many follow. */
static unsigned alter_every_blob(const char *data_file)
{
    enum { PAGE_BYTES = 4096, HEADER_BYTES = 16, PAGES_MAX = 5000 };
    unsigned altered = 0;
    FILE *file = fopen(data_file, "r+b");
    cr_assert_not_null(file);
    unsigned char header[HEADER_BYTES];
    for (uint64_t page = 0; fseek(file, (long)(page * PAGE_BYTES), SEEK_SET) == 0 &&
                            fread(header, 1, sizeof header, file) == sizeof header;) {
        uint64_t number = 0;
        uint16_t flags = 0;
        uint32_t count = 0;
        memcpy(&number, header, sizeof number);
        memcpy(&flags, header + 10, sizeof flags);
        memcpy(&count, header + 12, sizeof count);
        bool large = number == page && flags == 0x04 && count > 0 && count < PAGES_MAX;
        if (large) {
            int c = fgetc(file);
            cr_assert_eq(fseek(file, -1, SEEK_CUR), 0);
            cr_assert_neq(fputc(c ^ 0x55, file), EOF);
            altered++;
        }
        page += large ? count : 1;
    }
    cr_assert_eq(fclose(file), 0);
    return altered;
}

Test(e2e_build, altered_blobs_are_made_again_and_no_failure)
{
    e2e_write("recipe.lq", "model base { source = \"model\" }\n"
                           "gguf a { model = base  level = \"Q4_0\"  path = \"a.gguf\" }\n"
                           "gguf b { model = base  level = \"Q8_0\"  path = \"b.gguf\" }\n");
    cr_assert_eq(e2e_run("--json"), 0, "%s", e2e_stderr());
    cr_assert_eq(system("mv a.gguf a.keep && mv b.gguf b.keep"), 0);
    cr_expect_gt(alter_every_blob("cache/data.mdb"), 50);
    cr_assert_eq(e2e_run("--json"), 0, "%s", e2e_stdout());
    cr_expect_gt(e2e_count_events("warning", "does not match its digest"), 0);
    e2e_expect_same_file("a.gguf", "a.keep");
    e2e_expect_same_file("b.gguf", "b.keep");
    cr_assert_eq(e2e_run("--json"), 0, "%s", e2e_stdout());
    cr_expect_eq(e2e_summary("ran"), 0);
}
