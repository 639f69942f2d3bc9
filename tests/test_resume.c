/* A calibration or evaluation that is killed again and again goes on at the layer where it was, and
 * ends with the bytes of one that was left alone. */
#include <time.h>

#include "e2e.h"

enum { LAYERS = 12, KILLS_MAX = 40 };

static void init(void)
{
    char command[512];
    e2e_init();
    e2e_copy_text("calibration.txt", "words.txt", 120000);
    snprintf(command, sizeof command,
             "%s/tests/make_model --layers %d --width 128 --ffn 256 tiny model.gguf", LQ_BINARY_DIR,
             LAYERS);
    cr_assert_eq(system(command), 0, "%s", command);
    e2e_write("recipe.lq",
              "model base { source = \"model.gguf\" }\n"
              "text words { path = \"words.txt\" }\n"
              "calibration calib { model = base  text = words  samples = 128\n"
              "                    sequence = 64 }\n"
              "imatrix im { model = base  calibration = calib  path = \"im.gguf\" }\n"
              "calibration few { model = base  text = words  samples = 128\n"
              "                  sequence = 16 }\n"
              "imatrix fisher { model = base  calibration = few  method = \"fisher\"\n"
              "                 path = \"fisher.gguf\" }\n"
              "gguf q4 { model = base  level = \"Q4_0\"  path = \"q4.gguf\" }\n"
              "gguf q8 { model = base  level = \"Q8_0\"  path = \"q8.gguf\" }\n"
              "report r { original = base  quantized = [q4, q8]  text = words  context = 64\n"
              "           chunks = 128  path = \"r.qreport\" }\n");
}

TestSuite(resume, .init = init, .fini = e2e_fini, .timeout = 600);

static void wait_ms(unsigned ms)
{
    struct timespec pause = {ms / 1000, (long)(ms % 1000) * 1000000};
    nanosleep(&pause, NULL);
}

struct kills {
    unsigned kills;
    unsigned started;  /* steps of layers */
    unsigned finished; /* those that ran to their end */
};

/* Builds `target` again and again, each time killed somewhere, until a build ends by itself. Counts
 * the steps whose operation begins with `op`. */
static struct kills kill_until_done(const char *target, const char *op)
{
    struct kills result = {0};
    char options[64];
    char event[64];
    uint64_t seed = (uint64_t)time(NULL);
    fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
    snprintf(options, sizeof options, "--json %s", target);
    snprintf(event, sizeof event, "\"op\":\"%s", op);
    for (;;) {
        pid_t child = e2e_start(options, "run");
        if (result.kills < KILLS_MAX) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            wait_ms(20 + (unsigned)(seed >> 33) % 100);
            kill(child, SIGKILL);
        }
        int code = e2e_wait(child);
        e2e_collect("run");
        result.started += e2e_count_events("step-started", event);
        result.finished +=
            e2e_count_lines("\"event\":\"step-finished\"", event, "\"outcome\":\"ran\"");
        if (code == 0) {
            break;
        }
        cr_assert_eq(code, 128 + SIGKILL, "%s%s", e2e_stdout(), e2e_stderr());
        result.kills++;
    }
    fprintf(stderr, "%u kills, %u layers started, %u finished\n", result.kills, result.started,
            result.finished);
    return result;
}

Test(resume, killed_calibration_repeats_at_most_the_layer_it_was_in)
{
    cr_assert_eq(e2e_run("-q --cache-dir whole im"), 0, "%s", e2e_stderr());
    cr_assert_eq(rename("im.gguf", "whole.gguf"), 0);
    cr_assert_eq(e2e_run("-q calib"), 0, "%s", e2e_stderr());
    struct kills kills = kill_until_done("im", "imatrix.layer");
    cr_expect_geq(kills.kills, 2);
    cr_expect_leq(kills.started, LAYERS + kills.kills);
    cr_expect_leq(kills.finished, LAYERS);
    e2e_expect_same_file("im.gguf", "whole.gguf");
}

/* Through the layers, then the loss, then the layers again from the last to the first, then the
 * file and the ranks. */
Test(resume, killed_gradients_repeat_at_most_the_layer_they_were_in)
{
    enum { STEPS = 2 * LAYERS + 3 };
    cr_assert_eq(e2e_run("-q --cache-dir whole fisher"), 0, "%s", e2e_stderr());
    cr_assert_eq(rename("fisher.gguf", "whole.gguf"), 0);
    cr_assert_eq(e2e_run("-q few"), 0, "%s", e2e_stderr());
    struct kills kills = kill_until_done("fisher", "imatrix.");
    cr_expect_geq(kills.kills, 2);
    cr_expect_leq(kills.started, STEPS + kills.kills);
    cr_expect_leq(kills.finished, STEPS);
    e2e_expect_same_file("fisher.gguf", "whole.gguf");
}

/* The original and two others, each a layer at a time. */
Test(resume, killed_evaluation_repeats_at_most_the_layer_it_was_in)
{
    cr_assert_eq(e2e_run("-q --cache-dir whole r"), 0, "%s", e2e_stderr());
    cr_assert_eq(rename("r.qreport", "whole.qreport"), 0);
    cr_assert_eq(e2e_run("-q q4 q8"), 0, "%s", e2e_stderr());
    struct kills kills = kill_until_done("r", "quality.layer");
    cr_expect_geq(kills.kills, 2);
    cr_expect_leq(kills.started, 3 * LAYERS + kills.kills);
    cr_expect_leq(kills.finished, 3 * LAYERS);
    e2e_expect_same_file("r.qreport", "whole.qreport");
}

/* Tasks go batch by batch, continuations pass by pass. */
Test(resume, killed_tasks_and_coherence_repeat_at_most_one_batch_or_pass)
{
    struct lq_buffer tasks;
    lq_buffer_init(&tasks);
    for (unsigned i = 0; i < 900; i++) {
        lq_buffer_append_string(&tasks, "{\"context\":\"");
        for (unsigned k = 0; k < 1 + i * 7 % 11; k++) {
            lq_buffer_printf(&tasks, "%u words ", i + k);
        }
        lq_buffer_printf(&tasks, "\",\"choices\":[\"left %u\",\"right\"],\"answer\":0}\n", i);
    }
    e2e_write("tasks.jsonl", "%s", lq_buffer_text(&tasks));
    lq_buffer_fini(&tasks);
    cr_assert_eq(system(LQ_BINARY_DIR "/tests/make_model --layers 3 --width 64 --ffn 64 tiny "
                                      "small.gguf"),
                 0);
    e2e_write("recipe.lq", "model base { source = \"small.gguf\" }\n"
                           "text words { path = \"words.txt\" }\n"
                           "gguf q8 { model = base  level = \"Q8_0\"  path = \"q8.gguf\" }\n"
                           "tasks known { path = \"tasks.jsonl\" }\n"
                           "report r { original = base  quantized = [q8]  text = words  "
                           "context = 16  chunks = 2  tasks = [known]  coherence = true  "
                           "continuation = 8  path = \"r.qreport\" }\n");
    cr_assert_eq(e2e_run("--json --cache-dir whole r"), 0, "%s", e2e_stdout());
    unsigned steps = e2e_count_events("step-started", "\"op\":\"quality.");
    cr_expect_geq(e2e_count_events("step-started", "quality.answers"), 6);
    cr_expect_gt(e2e_count_events("step-started", "quality.continue"), 10);
    cr_assert_eq(rename("r.qreport", "whole.qreport"), 0);
    cr_assert_eq(e2e_run("-q q8"), 0, "%s", e2e_stderr());
    /* With more threads two steps can be under way: tasks and continuations need not wait for each
     * other. */
    struct kills kills = kill_until_done("-j1 r", "quality.");
    cr_expect_geq(kills.kills, 2);
    cr_expect_leq(kills.started, steps + kills.kills);
    cr_expect_leq(kills.finished, steps);
    e2e_expect_same_file("r.qreport", "whole.qreport");
}

/* Cancellation is asked for between tiles of work: it does not wait for a layer. */
Test(resume, interrupt_ends_soon_and_the_next_run_goes_on)
{
    cr_assert_eq(e2e_run("-q --cache-dir whole im"), 0, "%s", e2e_stderr());
    cr_assert_eq(rename("im.gguf", "whole.gguf"), 0);
    pid_t child = e2e_start("--json im", "run");
    wait_ms(150);
    kill(child, SIGINT);
    int code = e2e_wait(child);
    cr_expect(code == 130 || code == 0, "%d", code);
    cr_assert_eq(e2e_run("-q im"), 0, "%s", e2e_stderr());
    e2e_expect_same_file("im.gguf", "whole.gguf");
}
