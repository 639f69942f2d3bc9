/* Models by their names on the Hugging Face hub, found in the cache that its own tools keep: a
 * cache of the test's own, in the documented layout, with links into blobs/. */
#include "e2e.h"

#define COMMIT "0123456789abcdef0123456789abcdef01234567"
#define OTHER "89abcdef0123456789abcdef0123456789abcdef"
#define HUB "home/hub/models--org--tiny.1"

static void put_revision(const char *commit, const char *ref)
{
    char command[1024];
    (void)snprintf(
        command, sizeof command,
        "mkdir -p " HUB "/refs " HUB "/blobs " HUB "/snapshots/%s && cd " HUB
        " && for f in $(ls ../../../model/); do cp -L ../../../model/$f blobs/$f-%.4s && "
        "ln -s ../../blobs/$f-%.4s snapshots/%s/$f; done && printf %s >refs/%s",
        commit, commit, commit, commit, commit, ref);
    cr_assert_eq(system(command), 0);
}

static void init(void)
{
    e2e_init();
    cr_assert_eq(setenv("HF_HOME", "home", 1), 0);
    cr_assert_eq(unsetenv("HF_HUB_CACHE"), 0);
    cr_assert_eq(unsetenv("HUGGINGFACE_HUB_CACHE"), 0);
    put_revision(COMMIT, "main");
}

TestSuite(hub_cache, .init = init, .fini = e2e_fini, .timeout = 300);

static void expect_said(int code, const char *arguments, const char *text)
{
    cr_expect_eq(e2e_run("%s", arguments), code, "%s: %s", arguments, e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), text), "%s: '%s' is not in: %s", arguments, text,
                       e2e_stderr());
}

Test(hub_cache, commands_take_a_name)
{
    cr_expect_eq(e2e_run("tokenize --ids org/tiny.1"), 0, "%s", e2e_stderr());
    cr_expect_eq(e2e_run("tokenize --ids hf:org/tiny.1@" COMMIT), 0, "%s", e2e_stderr());
    cr_assert_eq(e2e_run("quantize org/tiny.1 gguf -q Q8_0 --json"), 0, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stdout(), "\"compression_ratio\""), "%s", e2e_stdout());
    cr_assert_eq(e2e_run("quantize model gguf -q Q8_0 -o plain.gguf"), 0, "%s", e2e_stderr());
    e2e_expect_same_file("tiny.1-Q8_0.gguf", "plain.gguf");
    cr_assert_eq(e2e_run("quantize hf:org/tiny.1@main gguf -q Q6_K"), 0, "%s", e2e_stderr());
    cr_expect_eq(access("tiny.1-Q6_K.gguf", F_OK), 0);
    cr_expect_eq(e2e_run("quality compare org/tiny.1 plain.gguf --metrics size,bpw"), 0, "%s",
                 e2e_stderr());
    cr_expect_eq(e2e_run("inspect org/tiny.1 hf:org/tiny.1"), 0, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stdout(), "LlamaForCausalLM"), "%s", e2e_stdout());
    expect_said(3, "inspect hf:org/tiny.2", "`lqbuild fetch hf:org/tiny.2`");
    cr_expect_eq(e2e_run("init org/tiny.1"), 0, "%s", e2e_stderr());
    cr_expect_eq(e2e_run("check"), 0, "%s", e2e_stderr());
}

Test(hub_cache, a_recipe_follows_the_branch)
{
    e2e_write("recipe.lq", "model base { source = \"hf:org/tiny.1\" }\n"
                           "gguf g { model = base  level = \"Q8_0\"  path = \"g.gguf\" }\n");
    cr_assert_eq(e2e_run("--json"), 0, "%s", e2e_stderr());
    cr_expect_gt(e2e_summary("ran"), 0);
    cr_assert_eq(e2e_run("--json"), 0, "%s", e2e_stderr());
    cr_expect_eq(e2e_summary("ran"), 0);
    /* Another commit of the same content, then one that is not there. */
    put_revision(OTHER, "main");
    cr_assert_eq(e2e_run("--json"), 0, "%s", e2e_stderr());
    cr_expect_eq(e2e_summary("ran"), 0);
    cr_assert_eq(system("printf ffff >" HUB "/refs/main"), 0);
    expect_said(3, "", "`lqbuild fetch hf:org/tiny.1`");
    cr_assert_eq(system("printf '../x' >" HUB "/refs/main"), 0);
    expect_said(3, "", "does not hold the name of a commit");
}

Test(hub_cache, a_folder_of_that_name_wins)
{
    cr_assert_eq(system("mkdir -p org/tiny.1"), 0);
    expect_said(3, "quantize org/tiny.1 gguf -q Q8_0", "has neither model.safetensors");
    cr_expect_eq(e2e_run("tokenize --ids hf:org/tiny.1"), 0, "%s", e2e_stderr());
}

Test(hub_cache, what_is_not_there_says_how_to_get_it)
{
    expect_said(3, "analyze org/none --calibration-data x.txt",
                "model 'org/none' is neither a file or folder nor in the Hugging Face cache "
                "home/hub; download it with `lqbuild fetch org/none`");
    expect_said(3, "analyze hf:gpt2@v1 --calibration-data x.txt", "`lqbuild fetch hf:gpt2@v1`");
    expect_said(2, "analyze hf:../x --calibration-data x.txt", "'hf:../x' is no name of a model");
    expect_said(2, "analyze hf:org/tiny.1@../main --calibration-data x.txt", "no name of a model");
    expect_said(3, "analyze folder --calibration-data x.txt", "folder: no such model");
    expect_said(3, "analyze a/b.gguf --calibration-data x.txt", "a/b.gguf: no such model");
    e2e_write("recipe.lq", "model base { source = \"hf:a/b/c\" }\n");
    expect_said(7, "base", "recipe.lq:1:23: ");
    e2e_write("recipe.lq", "model base { source = \"org/none\" }\n");
    expect_said(3, "base", "recipe.lq:1:23: model 'org/none' is neither");
}

Test(hub_cache, a_gguf_file_may_be_named_within_a_repository)
{
    cr_assert_eq(e2e_run("quantize model gguf -q F16 -o tiny.gguf"), 0, "%s", e2e_stderr());
    cr_assert_eq(system("mv tiny.gguf " HUB "/blobs/g && mkdir " HUB "/snapshots/" COMMIT
                        "/sub && ln -s ../../../blobs/g " HUB "/snapshots/" COMMIT
                        "/sub/tiny-F16.gguf"),
                 0);
    cr_expect_eq(e2e_run("inspect hf:org/tiny.1/sub/tiny-F16.gguf"), 0, "%s", e2e_stderr());
    cr_assert_eq(e2e_run("quantize hf:org/tiny.1@main/sub/tiny-F16.gguf gguf -q Q8_0"), 0, "%s",
                 e2e_stderr());
    cr_expect_eq(access("tiny-F16-Q8_0.gguf", F_OK), 0, "%s", e2e_stdout());
    e2e_write("recipe.lq", "model base { source = \"hf:org/tiny.1/sub/tiny-F16.gguf\" }\n"
                           "gguf g { model = base  level = \"Q4_0\"  path = \"g.gguf\" }\n");
    cr_assert_eq(e2e_run("--json"), 0, "%s", e2e_stdout());
    cr_assert_eq(e2e_run("--json"), 0, "%s", e2e_stdout());
    cr_expect_eq(e2e_summary("ran"), 0);
    /* The branch moves to a commit that lacks the file. */
    put_revision(OTHER, "main");
    expect_said(3, "", "`lqbuild fetch hf:org/tiny.1/sub/tiny-F16.gguf`");
    expect_said(2, "tokenize hf:org/tiny.1/../x.gguf", "hf:org/name/file.gguf");
    expect_said(2, "tokenize hf:tiny.1/x.gguf/", "hf:org/name/file.gguf");
    expect_said(2, "tokenize hf:org/tiny.1/model.safetensors", "hf:org/name/file.gguf");
}

Test(hub_cache, the_environment_says_where)
{
    cr_assert_eq(rename("home/hub", "hub"), 0);
    expect_said(3, "tokenize --ids org/tiny.1", "home/hub");
    cr_assert_eq(setenv("HF_HUB_CACHE", "hub", 1), 0);
    cr_expect_eq(e2e_run("tokenize --ids org/tiny.1"), 0, "%s", e2e_stderr());
    cr_assert_eq(unsetenv("HF_HUB_CACHE"), 0);
    cr_assert_eq(unsetenv("HF_HOME"), 0);
    cr_assert_eq(unsetenv("XDG_CACHE_HOME"), 0);
    cr_assert_eq(unsetenv("HOME"), 0);
    expect_said(3, "tokenize --ids org/tiny.1", "HOME is not set");
}

#define DATA "home/hub/datasets--org--words"

Test(hub_cache, a_text_may_be_a_file_of_a_data_set)
{
    e2e_copy_text("eval.txt", "words.txt", 20000);
    cr_assert_eq(system("mkdir -p " DATA "/refs " DATA "/blobs " DATA "/snapshots/" COMMIT
                        "/a " DATA "/snapshots/" OTHER " && cp words.txt " DATA
                        "/blobs/w && ln -s ../../../blobs/w " DATA "/snapshots/" COMMIT
                        "/a/words.txt && printf " COMMIT " >" DATA "/refs/main"),
                 0);
    static const char command[] =
        "quality compare model model --calibration-samples 2 --progress none --calibration-data ";
    cr_assert_eq(e2e_run("%s words.txt --json", command), 0, "%s", e2e_stderr());
    cr_assert_eq(e2e_run("%s hf:datasets/org/words/a/words.txt --json", command), 0, "%s",
                 e2e_stderr());
    cr_expect_eq(e2e_summary("ran"), 0, "the same text under another name");
    cr_expect_eq(e2e_run("%s hf:datasets/org/words@" COMMIT "/a/words.txt", command), 0, "%s",
                 e2e_stderr());
    char arguments[256];
    static const struct {
        const char *name;
        int code;
        const char *said;
    } bad[] = {
        {"hf:datasets/org/words/b.txt", 15, "`lqbuild fetch hf:datasets/org/words/b.txt`"},
        {"hf:datasets/org/words@v2/a/words.txt", 15,
         "`lqbuild fetch hf:datasets/org/words@v2/a/words.txt`"},
        {"hf:datasets/org/none/b.txt", 15, "home/hub"},
        {"hf:org/words/a/words.txt", 2, "expected hf:datasets/org/name/file.txt"},
        {"hf:datasets/org/words", 2, "expected hf:datasets/"},
        {"hf:datasets/org/words/", 2, "expected hf:datasets/"},
        {"hf:datasets/org/words/../refs/main", 2, "expected hf:datasets/"},
        {"hf:datasets/../words/a.txt", 2, "expected hf:datasets/"},
        {"hf:datasets/org/words/a", 15, "is a folder"},
        {"hf:datasets/org/words/x.parquet", 15, "'.parquet' files are not read"},
        {"wikitext-2", 15, "says how to get WikiText-2"},
    };
    for (size_t i = 0; i < LQ_COUNT_OF(bad); i++) {
        (void)snprintf(arguments, sizeof arguments, "%s %s", command, bad[i].name);
        expect_said(bad[i].code, arguments, bad[i].said);
    }
    /* The branch moves to a commit that lacks the file. */
    cr_assert_eq(system("printf " OTHER " >" DATA "/refs/main"), 0);
    (void)snprintf(arguments, sizeof arguments, "%s hf:datasets/org/words/a/words.txt", command);
    expect_said(15, arguments, "`lqbuild fetch hf:datasets/org/words/a/words.txt`");
    cr_assert_eq(system("printf '../x' >" DATA "/refs/main"), 0);
    expect_said(15, arguments, "does not hold the name of a commit");
}
