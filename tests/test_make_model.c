/* The generator of synthetic models: its two formats hold the same model, and the same words give
 * the same bytes. */
#include "e2e.h"

static void run_make(const char *words)
{
    char command[512];
    snprintf(command, sizeof command, "%s/tests/make_model %s", LQ_BINARY_DIR, words);
    cr_assert_eq(system(command), 0, "%s", command);
}

static void init(void)
{
    e2e_init();
    e2e_copy_text("calibration.txt", "words.txt", 60000);
    e2e_write("recipe.lq",
              "let from = \"a.gguf\"\n"
              "let to = \"a\"\n"
              "model base { source = from }\n"
              "text words { path = \"words.txt\" }\n"
              "calibration calib { model = base  text = words  samples = 128\n"
              "                    sequence = 32 }\n"
              "imatrix im { model = base  calibration = calib  path = \"{to}.im\" }\n");
}

TestSuite(make_model, .init = init, .fini = e2e_fini, .timeout = 300);

Test(make_model, both_formats_hold_the_same_model)
{
    run_make("tiny a.gguf");
    run_make("tiny b");
    cr_assert_eq(e2e_run("-q im"), 0, "%s", e2e_stderr());
    cr_assert_eq(e2e_run("-q -D from=b -D to=b im"), 0, "%s", e2e_stderr());
    e2e_expect_same_file("a.im", "b.im");
}

Test(make_model, same_words_same_bytes)
{
    run_make("tiny a.gguf");
    run_make("tiny b.gguf");
    run_make("--seed 2 tiny c.gguf");
    cr_expect_eq(system("cmp a.gguf b.gguf"), 0);
    cr_expect_neq(system("cmp -s a.gguf c.gguf"), 0);
    run_make("tiny --layers 1 --width 128 --heads 2 --kv-heads 1 --ffn 100 --vocab 700 d.gguf");
    cr_expect_eq(e2e_run("-q -D from=d.gguf -D to=d im"), 0, "%s", e2e_stderr());
}

Test(make_model, its_importance_matrix_fits_the_model)
{
    run_make("--imatrix a.im.gguf tiny a.gguf");
    run_make("--imatrix b.im.gguf tiny b");
    e2e_expect_same_file("a.im.gguf", "b.im.gguf");
    cr_assert_eq(e2e_run("-q quantize -q IQ2_XS --imatrix a.im.gguf -o q.gguf a.gguf gguf"), 0,
                 "%s", e2e_stderr());
}
