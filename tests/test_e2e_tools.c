#include "tests/e2e.h"

/* Commands that read a file and print: tokenize and imatrix. */

TestSuite(e2e_tools, .init = e2e_init, .fini = e2e_fini);

#define TOKENIZER LQ_SOURCE_DIR "/tests/golden/tokenizer/"
#define TINY LQ_SOURCE_DIR "/tests/golden/tiny-llama/"

/* `lqbuild tokenize arguments` with the bytes on stdin. */
static int tokenize(const char *arguments, const char *text, size_t size_bytes)
{
    char command[1024];
    struct lq_error err;
    cr_assert_eq(lq_file_write("text", text, size_bytes, &err), LQ_OK, "%s", err.message);
    snprintf(command, sizeof command, "'%s/lqbuild' tokenize %s <text >out.tokens 2>err.tokens",
             LQ_BINARY_DIR, arguments);
    int code = system(command);
    e2e_collect("tokens");
    return WIFEXITED(code) ? WEXITSTATUS(code) : -1;
}

static void expect_ids(const char *model, const char *text, size_t size_bytes, const char *ids,
                       size_t ids_bytes)
{
    char arguments[512];
    while (ids_bytes > 0 && *ids == ' ') {
        ids++;
        ids_bytes--;
    }
    snprintf(arguments, sizeof arguments, "--no-special --ids " TOKENIZER "%s", model);
    cr_assert_eq(tokenize(arguments, text, size_bytes), 0, "%s", e2e_stderr());
    cr_expect_eq(e2e_out.size_bytes, ids_bytes + 1, "%s: %.*s", model, (int)size_bytes, text);
    cr_expect(memcmp(e2e_stdout(), ids, ids_bytes) == 0, "%s: '%.*s' gives %s, expected %.*s",
              model, (int)size_bytes, text, e2e_stdout(), (int)ids_bytes, ids);
}

static size_t expect_golden(const char *model)
{
    static const char separator[] = "\n__ggml_vocab_test__\n";
    char path[512];
    struct lq_buffer texts;
    struct lq_buffer ids;
    struct lq_error err;
    size_t count = 0;
    lq_buffer_init(&texts);
    lq_buffer_init(&ids);
    snprintf(path, sizeof path, TOKENIZER "%s.inp", model);
    cr_assert_eq(lq_file_read(path, 1 << 20, &texts, &err), LQ_OK, "%s", err.message);
    snprintf(path, sizeof path, TOKENIZER "%s.out", model);
    cr_assert_eq(lq_file_read(path, 1 << 20, &ids, &err), LQ_OK, "%s", err.message);
    const char *text = lq_buffer_text(&texts);
    const char *line = lq_buffer_text(&ids);
    while (text != NULL) {
        const char *end = strstr(text, separator);
        const char *line_end = line + strcspn(line, "\n");
        size_t length = end == NULL ? strlen(text) : (size_t)(end - text);
        expect_ids(model, text, length, line, (size_t)(line_end - line));
        text = end == NULL ? NULL : end + sizeof separator - 1;
        line = line_end + (*line_end == '\n');
        count++;
    }
    lq_buffer_fini(&texts);
    lq_buffer_fini(&ids);
    return count;
}

Test(e2e_tools, tokenize_gives_the_reference_ids)
{
    cr_expect_eq(expect_golden("ggml-vocab-llama-spm.gguf"), 47);
    cr_expect_eq(expect_golden("ggml-vocab-phi-3.gguf"), 47);
    cr_expect_eq(expect_golden("ggml-vocab-gpt-2.gguf"), 47);
    cr_expect_eq(expect_golden("ggml-vocab-deepseek-coder.gguf"), 47);
}

Test(e2e_tools, tokenize_keeps_bytes_that_are_no_text)
{
    static const char text[] = "a\xff\xf0\x9f\xa6\x99\n\\";
    cr_assert_eq(
        tokenize("--no-special " TOKENIZER "ggml-vocab-llama-spm.gguf", text, sizeof text - 1), 0,
        "%s", e2e_stderr());
    cr_expect_str_eq(e2e_stdout(), " a\n\\xff\n\\xf0\n\\x9f\n\\xa6\n\\x99\n\\n\n\\\\\n");
}

Test(e2e_tools, tokenize_reads_folders_and_adds_special_tokens)
{
    cr_assert_eq(tokenize("--ids model", "a", 1), 0, "%s", e2e_stderr());
    cr_expect_str_eq(e2e_stdout(), "4093 64\n");
    cr_assert_eq(tokenize("--ids model/tokenizer.json", "a", 1), 0, "%s", e2e_stderr());
    cr_expect_str_eq(e2e_stdout(), "4093 64\n");
    cr_assert_eq(tokenize("--ids --no-special model", "", 0), 0, "%s", e2e_stderr());
    cr_expect_str_eq(e2e_stdout(), "\n");
    cr_assert_eq(tokenize("--format json model", "a", 1), 0, "%s", e2e_stderr());
    cr_expect_str_eq(e2e_stdout(),
                     "{\"ids\":[4093,64],\"pieces\":[\"<|begin_of_text|>\",\"a\"]}\n");
    cr_expect_eq(tokenize("nowhere", "a", 1), 3);
    cr_assert_eq(mkdir("empty", 0700), 0);
    cr_expect_eq(tokenize("empty", "a", 1), 3);
    e2e_write("broken.gguf", "GGUF");
    cr_expect_eq(tokenize("broken.gguf", "a", 1), 9);
}

Test(e2e_tools, a_folder_may_have_its_tokenizer_as_tokenizer_model)
{
    static const char text[] = "I am a test, na\xc3\xafve  two blanks\n\tx <sep>";
    cr_assert_eq(system("mkdir spm && cp -L model/model.safetensors model/config.json spm/ && "
                        "cp " TOKENIZER "sentencepiece-plain.model spm/tokenizer.model"),
                 0);
    e2e_write("spm/tokenizer_config.json", "{\"bos_token\": \"<s>\", \"eos_token\": \"</s>\"}");
    e2e_copy_text("calibration.txt", "wiki.txt", 20000);
    e2e_write("recipe.lq",
              "model base { source = \"spm\" }\ntext wiki { path = \"wiki.txt\" }\n"
              "calibration c { model = base  text = wiki  samples = 128  sequence = 16 }\n"
              "imatrix im { model = base  calibration = c  path = \"im.gguf\" }\n"
              "gguf g { model = base  imatrix = im  level = \"Q4_K_M\"  path = \"g.gguf\" }\n");
    cr_assert_eq(e2e_run("--progress plain g"), 0, "%s", e2e_stderr());
    char ids[512];
    cr_assert_eq(tokenize("--ids spm", text, sizeof text - 1), 0, "%s", e2e_stderr());
    (void)snprintf(ids, sizeof ids, "%s", e2e_stdout());
    cr_assert_eq(strncmp(ids, "2 ", 2), 0, "%s", ids);
    cr_assert_eq(tokenize("--ids g.gguf", text, sizeof text - 1), 0, "%s", e2e_stderr());
    cr_expect_str_eq(e2e_stdout(), ids);
    cr_assert_eq(tokenize("--ids spm/tokenizer.model", text, sizeof text - 1), 0);
    cr_expect_str_eq(e2e_stdout(), ids);
}

Test(e2e_tools, imatrix_formats_round_trip)
{
    static const char golden[] = TINY "imatrix-calibration-128x256.gguf";
    cr_assert_eq(e2e_run("imatrix convert %s a.imatrix", golden), 0, "%s", e2e_stderr());
    cr_assert_eq(e2e_run("imatrix convert a.imatrix a.dat"), 0, "%s", e2e_stderr());
    cr_assert_eq(e2e_run("imatrix convert a.imatrix a.gguf"), 0, "%s", e2e_stderr());
    e2e_expect_same_file("a.gguf", golden);
    /* What llama-imatrix wrote for the same run in the legacy format. */
    cr_expect_eq(e2e_run("imatrix compare a.dat " TINY "imatrix-calibration-128x256.dat "
                         "--max-relative 1e-6"),
                 0, "%s", e2e_stderr());
    cr_expect_eq(e2e_run("imatrix compare a.dat a.gguf --max-relative 1e-6"), 0, "%s",
                 e2e_stderr());
    e2e_write("no.gguf", "nothing");
    cr_expect_eq(e2e_run("imatrix convert no.gguf b.gguf"), 10);
    cr_expect_eq(e2e_run("imatrix convert missing.gguf b.gguf"), 10);
    cr_expect_not(lq_path_exists("b.gguf"));
}

Test(e2e_tools, imatrix_compare_fails_beyond_the_limit)
{
    static const char a[] = TINY "imatrix-calibration-128x256.gguf";
    static const char b[] = TINY "imatrix-128x256.gguf";
    cr_expect_eq(e2e_run("imatrix compare %s %s", a, b), 0, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stdout(), "blk.5.ffn_up.weight"));
    cr_expect_eq(e2e_run("imatrix compare %s %s --max-relative 0.01", a, b), 1);
    cr_expect_eq(e2e_run("imatrix compare %s %s --max-relative 0.9", a, b), 0);
    cr_expect_eq(e2e_run("imatrix compare %s %s --max-relative -1", a, b), 2);
    cr_expect_eq(e2e_run("imatrix compare %s", a), 2);
}

Test(e2e_tools, imatrix_merge_adds)
{
    static const char a[] = TINY "imatrix-calibration-128x256.gguf";
    cr_assert_eq(e2e_run("imatrix merge %s %s -o twice.gguf --format json", a, a), 0, "%s",
                 e2e_stderr());
    cr_expect_not_null(strstr(e2e_stdout(), "\"samples\": 256"), "%s", e2e_stdout());
    /* Twice the sums over twice the tokens: the same means. */
    cr_expect_eq(e2e_run("imatrix compare %s twice.gguf --max-relative 0", a), 0);
    cr_expect_eq(e2e_run("imatrix merge %s", a), 2);
    cr_expect_eq(e2e_run("imatrix stats twice.gguf"), 0);
    cr_expect_not_null(strstr(e2e_stdout(), "blk.1.attn_q.weight            170.2"), "%s",
                       e2e_stdout());
}
