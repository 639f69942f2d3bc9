/* Bad input: each case gives one clear sentence, its exit code, no partial output, and loses
 * nothing. Exit codes are those of docs/exit-codes.md. */
#define _GNU_SOURCE
#include <sys/mount.h>

#include "e2e.h"

static void init(void)
{
    e2e_init();
    e2e_copy_text("calibration.txt", "words.txt", 60000);
}

TestSuite(e2e_errors, .init = init, .fini = e2e_fini, .timeout = 600);

/* Builds the recipe text; expects the exit code, and every fragment (up to NULL) in stderr. */
static void expect_failure(const char *recipe, int code, const char *first, ...)
{
    e2e_write("recipe.lq", "%s", recipe);
    cr_expect_eq(e2e_run("--progress plain"), code, "expected exit code %d:\n%s\n%s", code, recipe,
                 e2e_stderr());
    va_list args;
    va_start(args, first);
    for (const char *part = first; part != NULL; part = va_arg(args, const char *)) {
        cr_expect_not_null(strstr(e2e_stderr(), part), "'%s' is not in: %s", part, e2e_stderr());
    }
    va_end(args);
    cr_expect_neq(system("ls out 2>/dev/null | grep -q ."), 0, "an output was left behind");
}

Test(e2e_errors, recipe_mistakes_have_position_and_suggestion)
{
    expect_failure("modle base { source = \"model\" }\n", 7, "recipe.lq:1:1: ", "'modle'",
                   "did you mean 'model'", "^", NULL);
    expect_failure("model base { sorce = \"model\" }\n", 7, "recipe.lq:1:14: ", "'sorce'",
                   "did you mean 'source'", NULL);
    expect_failure("model base { source = \"model\" }\n"
                   "gguf g { model = bas  level = \"Q8_0\"  path = \"out/g.gguf\" }\n",
                   7, "recipe.lq:2:18: ", "'bas'", "did you mean 'base'", NULL);
    expect_failure("model base { source = \"model\"\n", 7, "recipe.lq:", NULL);
    expect_failure("model base { source = 12 }\n", 7, "recipe.lq:1:", NULL);
    expect_failure("text t { path = \"words.txt\" }\n"
                   "gguf g { model = t  level = \"Q8_0\"  path = \"out/g.gguf\" }\n",
                   7, "recipe.lq:2:18: ", "text", "model", NULL);
    expect_failure("gguf a { model = base  level = \"Q8_0\"  path = \"out/g.gguf\" \n", 7, NULL,
                   NULL);
}

Test(e2e_errors, missing_files)
{
    expect_failure("model base { source = \"none\" }\n", 3, "none", NULL);
    expect_failure("text t { path = \"none.txt\" }\n", 15, "none.txt", NULL);
    expect_failure("model base { source = \"model\" }\n"
                   "imatrix im { model = base  file = \"none.imatrix\" }\n",
                   10, "none.imatrix", NULL);
    expect_failure("model base { source = \"model\" }\n"
                   "profile p { model = base  file = \"none.dqprofile\" }\n",
                   13, "none.dqprofile", NULL);
    cr_expect_eq(e2e_run("-f none.lq"), 7);
    cr_expect_not_null(strstr(e2e_stderr(), "none.lq"), "%s", e2e_stderr());
}

Test(e2e_errors, ranges)
{
    expect_failure("model base { source = \"model\" }\ntext t { path = \"words.txt\" }\n"
                   "calibration c { model = base  text = t  samples = 2000  sequence = 64 }\n",
                   15, "recipe.lq:3:", "samples", "1024", NULL);
    expect_failure("model base { source = \"model\" }\ntext t { path = \"words.txt\" }\n"
                   "calibration c { model = base  text = t  samples = 128  sequence = 64 }\n"
                   "imatrix im { model = base  calibration = c }\n"
                   "mask m { model = base  imatrix = im  coverage = 0.5 }\n",
                   7, "recipe.lq:5:", "coverage", "0.01", NULL);
    expect_failure("model base { source = \"model\" }\ntext t { path = \"words.txt\" }\n"
                   "calibration c { model = base  text = t  samples = 1024  sequence = 256 }\n",
                   15, "text 't'", "262144", NULL);
    expect_failure("model base { source = \"model\" }\n"
                   "gguf g { model = base  level = \"Q9_K\"  path = \"out/g.gguf\" }\n",
                   7, "Q9_K", NULL);
}

Test(e2e_errors, a_profile_with_an_unknown_layer)
{
    e2e_write("p.dqprofile",
              "{ \"profile_id\": \"p\", \"profile_name\": \"p\", \"strategy\": \"custom\", "
              "\"layer_assignments\": [ { \"layer_name\": \"blk.77.ffn_down\", "
              "\"bit_width\": 4 } ] }\n");
    expect_failure("model base { source = \"model\" }\n"
                   "profile p { model = base  file = \"p.dqprofile\" }\n"
                   "gguf g { model = base  profile = p  path = \"out/g.gguf\" }\n",
                   13, "blk.77.ffn_down", NULL);
    e2e_write("p.dqprofile",
              "{ \"profile_id\": \"p\", \"profile_name\": \"p\", \"strategy\": \"custom\", "
              "\"layer_assignments\": [ { \"layer_name\": \"blk.1\", "
              "\"bit_width\": 7 } ] }\n");
    expect_failure("model base { source = \"model\" }\n"
                   "profile p { model = base  file = \"p.dqprofile\" }\n",
                   13, "p.dqprofile", "bit_width", NULL);
}

Test(e2e_errors, a_profile_that_asks_for_another_method)
{
    static const char *const methods[] = {"gptq", "awq", "k_quants"};
    for (size_t i = 0; i < LQ_COUNT_OF(methods); i++) {
        e2e_write("p.dqprofile",
                  "{ \"profile_id\": \"p\", \"profile_name\": \"p\", \"strategy\": \"custom\", "
                  "\"layer_assignments\": [ { \"layer_name\": \"blk.1.attn_q\", "
                  "\"bit_width\": 4, \"quant_method\": \"%s\" } ] }\n",
                  methods[i]);
        int expected = i < 2 ? 17 : 0;
        cr_expect_eq(e2e_run("profile validate p.dqprofile model"), expected, "%s", e2e_stderr());
        cr_expect_eq(strstr(e2e_stderr(), methods[i]) != NULL, expected != 0, "%s", e2e_stderr());
    }
}

/* A model folder of the test's own, with copies of the small files. */
static void own_model(void)
{
    cr_assert_eq(system("mkdir own && cp -L model/*.json own/ && chmod u+w own/*"), 0);
}

static const char own_recipe[] =
    "model base { source = \"own\" }\n"
    "gguf g { model = base  level = \"Q8_0\"  path = \"out/g.gguf\" }\n";

/* A safetensors file with the given header and `data_bytes` zero bytes. */
static void write_safetensors(const char *header, unsigned long long lie, size_t data_bytes)
{
    struct lq_buffer file;
    struct lq_error err;
    lq_buffer_init(&file);
    lq_buffer_append_u64(&file, strlen(header) + lie);
    lq_buffer_append_string(&file, header);
    (void)lq_buffer_extend(&file, data_bytes);
    cr_assert_eq(lq_file_write("own/model.safetensors", file.data, file.size_bytes, &err), LQ_OK);
    lq_buffer_fini(&file);
}

Test(e2e_errors, lying_safetensors)
{
    own_model();
    expect_failure(own_recipe, 3, "model.safetensors", NULL);
    cr_assert_eq(system("head -c 5 model/model.safetensors >own/model.safetensors"), 0);
    expect_failure(own_recipe, 9, "model.safetensors", NULL);
    cr_assert_eq(system("head -c 900000 model/model.safetensors >own/model.safetensors"), 0);
    expect_failure(own_recipe, 9, "model.safetensors", NULL);
    write_safetensors("{}", 1ull << 62, 0);
    expect_failure(own_recipe, 9, "model.safetensors", NULL);
    write_safetensors("{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,1600]}}", 0, 16);
    expect_failure(own_recipe, 9, "model.safetensors", "a", NULL);
    write_safetensors("{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]},"
                      "\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}",
                      0, 16);
    expect_failure(own_recipe, 9, "model.safetensors", "twice", NULL);
    write_safetensors("{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,16],"
                      "\"data_offsets\":[0,16]}}",
                      0, 16);
    expect_failure(own_recipe, 9, "model.safetensors", NULL);
    write_safetensors("{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", 0, 16);
    expect_failure(own_recipe, 9, NULL, NULL);
}

Test(e2e_errors, lying_gguf)
{
    static const char recipe[] =
        "model base { source = \"m.gguf\" }\n"
        "gguf g { model = base  level = \"Q8_0\"  path = \"out/g.gguf\" }\n";
    expect_failure(recipe, 3, "m.gguf", NULL);
    e2e_write("m.gguf", "GGUF");
    expect_failure(recipe, 9, "m.gguf", NULL);
    e2e_write("m.gguf", "not a model at all, but long enough to hold a header");
    expect_failure(recipe, 9, "m.gguf", NULL);
    struct lq_buffer file;
    struct lq_error err;
    lq_buffer_init(&file);
    lq_buffer_append_string(&file, "GGUF");
    lq_buffer_append_u32(&file, 3);
    lq_buffer_append_u64(&file, 1ull << 60);
    lq_buffer_append_u64(&file, 1ull << 60);
    cr_assert_eq(lq_file_write("m.gguf", file.data, file.size_bytes, &err), LQ_OK);
    lq_buffer_fini(&file);
    expect_failure(recipe, 9, "m.gguf", NULL);
}

Test(e2e_errors, a_tokenizer_without_merges)
{
    own_model();
    cr_assert_eq(system("cp -L model/model.safetensors own/"), 0);
    e2e_write(
        "own/tokenizer.json",
        "{ \"version\": \"1.0\", \"model\": { \"type\": \"BPE\", \"vocab\": { \"a\": 0 } } }\n");
    expect_failure(own_recipe, 9, "tokenizer.json", "merges", NULL);
}

Test(e2e_errors, an_unwritable_output_keeps_the_work)
{
    e2e_write("block", "a file where a folder is needed\n");
    expect_failure("model base { source = \"model\" }\n"
                   "gguf g { model = base  level = \"Q8_0\"  path = \"block/g.gguf\" }\n",
                   6, "block", NULL);
    e2e_write("recipe.lq", "model base { source = \"model\" }\n"
                           "gguf g { model = base  level = \"Q8_0\"  path = \"g.gguf\" }\n");
    cr_assert_eq(e2e_run("--json"), 0, "%s", e2e_stderr());
    cr_expect_eq(e2e_summary("ran"), 0);
}

Test(e2e_errors, a_full_disk_is_said_and_survived)
{
    cr_assert_eq(mkdir("small", 0777), 0);
    if (mount("tmpfs", "small", "tmpfs", 0, "size=3m") != 0) {
        cr_skip_test("mounting a tmpfs needs root");
    }
    e2e_write("recipe.lq", "model base { source = \"model\" }\n"
                           "gguf g { model = base  level = \"Q8_0\"  path = \"small/g.gguf\" }\n");
    int output_full = e2e_run("--progress plain");
    bool output_said = strstr(e2e_stderr(), "No space left") != NULL;
    int leftovers = system("ls small | grep -q .");
    int cache_full = e2e_run("--progress plain --cache-dir small/cache");
    bool cache_said = strcasestr(e2e_stderr(), "no space left") != NULL;
    cr_assert_eq(umount2("small", MNT_DETACH), 0);
    cr_expect_eq(output_full, 6);
    cr_expect(output_said);
    cr_expect_neq(leftovers, 0, "a partial output was left on the full disk");
    cr_expect_eq(cache_full, 6);
    cr_expect(cache_said, "%s", e2e_stderr());
    cr_assert_eq(e2e_run("--json"), 0, "%s", e2e_stderr());
    cr_expect_eq(e2e_summary("ran"), 0, "what was built is not lost");
}

Test(e2e_errors, a_report_that_fails_its_threshold_has_its_own_code)
{
    e2e_copy_text("eval.txt", "eval.txt", 8000);
    e2e_write("recipe.lq",
              "model base { source = \"model\" }\ntext eval { path = \"eval.txt\" }\n"
              "gguf g { model = base  level = \"Q2_K\"  path = \"g.gguf\" }\n"
              "report r { original = base  quantized = [g]  text = eval  fail_above = 0.01%%\n"
              "  path = \"r.qreport\" }\ndefault r\n");
    cr_expect_eq(e2e_run("--json"), 11, "%s%s", e2e_stdout(), e2e_stderr());
    cr_expect(lq_path_exists("r.qreport"));
    cr_expect_eq(e2e_run("--json"), 11);
    cr_expect_eq(e2e_summary("ran"), 0);
}

Test(e2e_errors, usage)
{
    cr_expect_eq(e2e_run("--nonsense"), 2);
    cr_expect_eq(e2e_run("quantise model gguf"), 2, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), "quantize"), "%s", e2e_stderr());
    cr_expect_eq(e2e_run("quantize model"), 2);
    cr_expect_eq(e2e_run("quantize none gguf -q Q8_0"), 3, "%s", e2e_stderr());
    cr_expect_eq(e2e_run("quantize model gguf -q Q8_0 --imatrix none.gguf"), 10, "%s",
                 e2e_stderr());
    cr_expect_eq(e2e_run("quantize model gguf -q dynamic --profile none"), 13, "%s", e2e_stderr());
    cr_expect_neq(system("ls *.gguf 2>/dev/null | grep -q ."), 0);
}
