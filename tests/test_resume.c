/* A calibration that is killed again and again goes on at the layer where it was, and ends with the
 * bytes of one that was left alone. */
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
              "imatrix im { model = base  calibration = calib  path = \"im.gguf\" }\n");
}

TestSuite(resume, .init = init, .fini = e2e_fini, .timeout = 600);

static void wait_ms(unsigned ms)
{
    struct timespec pause = {ms / 1000, (long)(ms % 1000) * 1000000};
    nanosleep(&pause, NULL);
}

Test(resume, killed_calibration_repeats_at_most_the_layer_it_was_in)
{
    uint64_t seed = (uint64_t)time(NULL);
    unsigned kills = 0;
    unsigned started = 0;
    unsigned finished = 0;
    fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
    cr_assert_eq(e2e_run("-q --cache-dir whole im"), 0, "%s", e2e_stderr());
    cr_assert_eq(rename("im.gguf", "whole.gguf"), 0);
    cr_assert_eq(e2e_run("-q calib"), 0, "%s", e2e_stderr());
    for (;;) {
        pid_t child = e2e_start("--json im", "run");
        if (kills < KILLS_MAX) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            wait_ms(20 + (unsigned)(seed >> 33) % 100);
            kill(child, SIGKILL);
        }
        int code = e2e_wait(child);
        e2e_collect("run");
        started += e2e_count_events("step-started", "imatrix.layer");
        finished += e2e_count_events("step-finished", "\"op\":\"imatrix.layer\"") -
                    e2e_count_events("step-finished", "\"outcome\":\"cached\"");
        if (code == 0) {
            break;
        }
        cr_assert_eq(code, 128 + SIGKILL, "%s%s", e2e_stdout(), e2e_stderr());
        kills++;
    }
    fprintf(stderr, "%u kills, %u layers started, %u finished\n", kills, started, finished);
    cr_expect_geq(kills, 2);
    cr_expect_leq(started, LAYERS + kills);
    cr_expect_leq(finished, LAYERS);
    e2e_expect_same_file("im.gguf", "whole.gguf");
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
