#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "tests/e2e.h"

/* What people see when a tokenizer, its model and a text do not go together. */

TestSuite(e2e_tokenizer, .init = e2e_init, .fini = e2e_fini, .timeout = 300);

/* Expects the exit code of the last run, and every fragment (up to NULL) in stderr. */
static void expect_words(int got, int code, const char *first, ...)
{
    va_list args;
    cr_expect_eq(got, code, "%d instead of %d: %s", got, code, e2e_stderr());
    va_start(args, first);
    for (const char *part = first; part != NULL; part = va_arg(args, const char *)) {
        cr_expect_not_null(strstr(e2e_stderr(), part), "'%s' is not in: %s", part, e2e_stderr());
    }
    va_end(args);
}

/* "own": a copy of the model without its tokenizer and with another number of rows. */
static void make_own(const char *rows)
{
    char command[256];
    (void)snprintf(command, sizeof command,
                   "rm -rf own && mkdir own && cp -L model/model.safetensors own/ && "
                   "sed 's/\"vocab_size\": 4096/\"vocab_size\": %s/' model/config.json "
                   "> own/config.json",
                   rows);
    cr_assert_eq(system(command), 0);
    e2e_write("own.lq", "model base { source = \"own\" }\n"
                        "gguf g { model = base  level = \"Q8_0\"  path = \"out/g.gguf\" }\n");
}

Test(e2e_tokenizer, a_text_that_is_too_short_says_how_much_is_there_and_needed)
{
    e2e_copy_text("calibration.txt", "wiki.txt", 9000);
    e2e_write("recipe.lq",
              "model base { source = \"model\" }\ntext wiki { path = \"wiki.txt\" }\n"
              "calibration c { model = base  text = wiki  samples = 128  sequence = 64 }\n"
              "imatrix im { model = base  calibration = c  path = \"im.gguf\" }\n");
    expect_words(e2e_run("--progress plain"), 15, "the text has ", " tokens, but 8192 are ",
                 "(128 samples of 64)", "give more text", NULL);
}

Test(e2e_tokenizer, a_tokenizer_of_another_size_than_the_embedding)
{
    make_own("4000");
    cr_assert_eq(system("cp -L model/tokenizer.json own/"), 0);
    expect_words(e2e_run("-f own.lq --progress plain"), 9, "embed_tokens", "4096x256", "4000x256",
                 NULL);
    make_own("4096");
    cr_assert_eq(system("sed 's/\"id\": 4095/\"id\": 4100/' model/tokenizer.json "
                        "> own/tokenizer.json"),
                 0);
    expect_words(e2e_run("-f own.lq --progress plain"), 9, "tokenizer.json: token ", "has id 4100",
                 "vocab_size 4096", "different models", NULL);
}

Test(e2e_tokenizer, kinds_that_gguf_cannot_say_are_named)
{
    make_own("4096");
    expect_words(e2e_run("-f own.lq --progress plain"), 3, "tokenizer.json nor tokenizer.model",
                 NULL);
    e2e_write("own/tokenizer.json",
              "{\"model\": {\"type\": \"WordPiece\", \"vocab\": {\"a\": 0}}}\n");
    expect_words(e2e_run("-f own.lq --progress plain"), 17, "tokenizer.json: ", "'WordPiece'",
                 NULL);
    e2e_write("own/tokenizer.json", "{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [\"a a\"]}, "
                                    "\"normalizer\": {\"type\": \"BertNormalizer\"}, "
                                    "\"pre_tokenizer\": {\"type\": \"ByteLevel\", "
                                    "\"add_prefix_space\": false}}\n");
    expect_words(e2e_run("-f own.lq --progress plain"), 17, "tokenizer.json: ", "'BertNormalizer'",
                 NULL);
}

Test(e2e_tokenizer, an_unknown_pre_tokenizer_stops_what_needs_tokens_and_nothing_else)
{
    cr_assert_eq(e2e_run("quantize model gguf -q F16 -o m.gguf"), 0, "%s", e2e_stderr());
    cr_assert_eq(system("LC_ALL=C sed -i 's/llama-bpe/llama-xyz/;s/smaug-bpe/llama-xyz/' m.gguf"),
                 0);
    e2e_copy_text("calibration.txt", "wiki.txt", 90000);
    e2e_write("recipe.lq",
              "model base { source = \"m.gguf\" }\ntext wiki { path = \"wiki.txt\" }\n"
              "calibration c { model = base  text = wiki  samples = 128  sequence = 16 }\n"
              "imatrix im { model = base  calibration = c  path = \"im.gguf\" }\n"
              "gguf g { model = base  level = \"Q8_0\"  path = \"g.gguf\" }\n");
    expect_words(e2e_run("--progress plain im"), 17, "unknown pre-tokenizer 'llama-xyz'",
                 "known are: llama-bpe ", NULL);
    cr_expect_eq(e2e_run("--progress plain g"), 0, "%s", e2e_stderr());
}
