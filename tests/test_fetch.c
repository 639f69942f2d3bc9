/* `lqbuild fetch` against a hub of the test's own: what arrives, what is refused, what is left when
 * it is broken off, and that builds find it. */
#define _GNU_SOURCE
#include "tests/e2e.h"
#include "tests/hub_server.h"

#define CACHED "home/hub/models--org--tiny"
#define SNAPSHOT CACHED "/snapshots/" HUB_COMMIT

static void init(void)
{
    e2e_init();
    cr_assert_eq(system("mkdir -p hub/models/org hub/datasets/org/words/a && "
                        "cp -RL model hub/models/org/tiny && "
                        "printf 'one\\ntwo\\n' > hub/datasets/org/words/a/words.txt"),
                 0);
    hub_start();
}

static void fini(void)
{
    hub_stop();
    e2e_fini();
}

TestSuite(fetch, .init = init, .fini = fini, .timeout = 120);

static void expect_said(int code, const char *arguments, const char *text)
{
    cr_expect_eq(e2e_run("%s", arguments), code, "%s: %s", arguments, e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), text), "%s: '%s' is not in: %s", arguments, text,
                       e2e_stderr());
}

/* How many files (not folders) a shell line of `find` names. */
static int count_files(const char *where)
{
    char command[512];
    snprintf(command, sizeof command, "find %s 2>/dev/null | wc -l", where);
    FILE *stream = popen(command, "r");
    int count = -1;
    cr_assert_eq(fscanf(stream, "%d", &count), 1);
    pclose(stream);
    return count;
}

/* Nothing under a final name: no blob, no snapshot, no branch. */
static void expect_nothing_visible(void)
{
    cr_expect_eq(count_files("home/hub -path '*/blobs/*' -not -name '*.incomplete' -name '*' "
                             "-size +200k"),
                 0);
    cr_expect_eq(count_files("home/hub -path '*/snapshots/*' -not -type d"), 0);
    cr_expect_eq(count_files("home/hub -path '*/refs/*'"), 0);
    cr_expect_eq(e2e_run("tokenize --ids org/tiny"), 3);
}

static double result_number(const char *key)
{
    char mark[64];
    snprintf(mark, sizeof mark, "\"%s\":", key);
    const char *at = strstr(e2e_stdout(), "\"event\":\"result\"");
    at = at == NULL ? NULL : strstr(at, mark);
    cr_assert_not_null(at, "no %s in: %s%s", key, e2e_stdout(), e2e_stderr());
    return strtod(at + strlen(mark), NULL);
}

static void expect_whole(void)
{
    e2e_expect_same_file(SNAPSHOT "/model.safetensors", "model/model.safetensors");
    e2e_expect_same_file(SNAPSHOT "/tokenizer.json", "model/tokenizer.json");
    e2e_expect_same_file(SNAPSHOT "/config.json", "model/config.json");
    cr_expect_eq(count_files("home/hub -name '*.incomplete'"), 0);
}

Test(fetch, a_model_arrives_as_the_hubs_own_tools_leave_it)
{
    struct stat st;
    char text[128];
    cr_assert_eq(e2e_run("fetch org/tiny --json"), 0, "%s%s", e2e_stdout(), e2e_stderr());
    cr_expect_eq(result_number("loaded_bytes"), result_number("size_bytes"));
    expect_whole();
    cr_expect_neq(access(SNAPSHOT "/README.md", F_OK), 0, "only what lqbuild reads");
    /* Links by digest, relative, and a branch without a line end. */
    ssize_t length = readlink(SNAPSHOT "/model.safetensors", text, sizeof text - 1);
    cr_assert_gt(length, 0);
    text[length] = '\0';
    cr_expect_eq(strspn(text + 12, "0123456789abcdef"), 64, "%s", text);
    cr_expect_eq(strncmp(text, "../../blobs/", 12), 0, "%s", text);
    length = readlink(SNAPSHOT "/config.json", text, sizeof text);
    cr_expect_eq(length, 12 + 40);
    cr_assert_eq(stat(CACHED "/refs/main", &st), 0);
    cr_expect_eq(st.st_size, 40);
    cr_expect_eq(atomic_load(&hub->leaks), 0);
    /* It is found by its name, without a network. */
    hub_be(HUB_FAILS);
    cr_assert_eq(e2e_run("quantize org/tiny gguf -q Q8_0"), 0, "%s", e2e_stderr());
    cr_assert_eq(e2e_run("quantize model gguf -q Q8_0 -o plain.gguf"), 0, "%s", e2e_stderr());
    e2e_expect_same_file("tiny-Q8_0.gguf", "plain.gguf");
}

Test(fetch, what_is_there_is_not_loaded_again)
{
    cr_assert_eq(e2e_run("fetch org/tiny"), 0, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stdout(), "org/tiny (01234567): 5 files, 11.1 MiB in "), "%s",
                       e2e_stdout());
    int files = atomic_load(&hub->files);
    cr_assert_eq(e2e_run("fetch hf:org/tiny@main org/tiny"), 0, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stdout(), "were all there"), "%s", e2e_stdout());
    cr_expect_eq(atomic_load(&hub->files), files);
    /* A link that leads nowhere, and content of another size, are put right. */
    cr_assert_eq(system("ln -sf ../../blobs/none " SNAPSHOT "/config.json && "
                        "printf x > $(readlink -f " SNAPSHOT "/tokenizer.json)"),
                 0);
    cr_assert_eq(e2e_run("fetch org/tiny -q"), 0, "%s", e2e_stderr());
    cr_expect_str_eq(e2e_stdout(), "");
    cr_expect_eq(atomic_load(&hub->files), files + 1);
    expect_whole();
    /* Content that was changed is found by reading it. */
    cr_assert_eq(system("printf x | dd of=$(readlink -f " SNAPSHOT
                        "/model.safetensors) conv=notrunc bs=1 seek=99 2>/dev/null"),
                 0);
    cr_assert_eq(e2e_run("fetch org/tiny"), 0);
    cr_assert_eq(e2e_run("fetch org/tiny --force --json"), 0, "%s", e2e_stderr());
    cr_expect_eq(result_number("loaded_bytes"), 11547040, "%s", e2e_stdout());
    expect_whole();
}

Test(fetch, equal_files_are_loaded_once)
{
    cr_assert_eq(system("cd hub/models/org/tiny && cp config.json generation_config.json"), 0);
    cr_assert_eq(e2e_run("fetch org/tiny"), 0, "%s", e2e_stderr());
    cr_expect_eq(atomic_load(&hub->files), 4);
    cr_expect_null(strstr(e2e_stderr(), "waiting"), "%s", e2e_stderr());
    e2e_expect_same_file(SNAPSHOT "/generation_config.json", "model/config.json");
    expect_whole();
}

Test(fetch, a_dry_run_leaves_nothing)
{
    cr_assert_eq(e2e_run("-n fetch org/tiny"), 0, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stdout(), "11.0 MiB  model.safetensors\n"), "%s", e2e_stdout());
    cr_expect_not_null(strstr(e2e_stdout(), "would load 11.1 MiB of 11.1 MiB\n"), "%s",
                       e2e_stdout());
    cr_expect_neq(access("home", F_OK), 0);
}

Test(fetch, a_recipe_gets_what_it_names)
{
    e2e_write("recipe.lq", "model base { source = \"hf:org/tiny\" }\n"
                           "model again { source = \"org/tiny\" }\n"
                           "model here { source = \"model\" }\n"
                           "text words { path = \"hf:datasets/org/words/a/words.txt\" }\n"
                           "gguf g { model = base  level = \"Q8_0\"  path = \"g.gguf\" }\n");
    expect_said(3, "g", "`lqbuild fetch hf:org/tiny`");
    expect_said(15, "words", "`lqbuild fetch hf:datasets/org/words/a/words.txt`");
    cr_assert_eq(e2e_run("fetch"), 0, "%s", e2e_stderr());
    cr_assert_eq(e2e_run(""), 0, "%s", e2e_stderr());
    int requests = atomic_load(&hub->requests);
    cr_assert_eq(e2e_run("fetch"), 0, "%s", e2e_stderr());
    cr_expect_eq(atomic_load(&hub->requests), requests, "the hub is not asked");
    cr_expect_not_null(strstr(e2e_stderr(), "nothing to download"), "%s", e2e_stderr());
    /* A snapshot that another tool left with some files only. */
    cr_assert_eq(unlink(SNAPSHOT "/tokenizer.json"), 0);
    expect_said(3, "g", "nor tokenizer.model; `lqbuild fetch hf:org/tiny` gets what is missing");
    cr_assert_eq(e2e_run("fetch"), 0, "%s", e2e_stderr());
    expect_whole();
    expect_said(7, "fetch -f none.lq", "no such recipe");
}

Test(fetch, shards_are_those_of_the_index)
{
    cr_assert_eq(system("cd hub/models/org/tiny && mv model.safetensors "
                        "model-00001-of-00001.safetensors && cp tokenizer.json other.safetensors"),
                 0);
    e2e_write("hub/models/org/tiny/model.safetensors.index.json",
              "{\"weight_map\":{\"a\":\"model-00001-of-00001.safetensors\"}}");
    cr_assert_eq(e2e_run("fetch org/tiny"), 0, "%s", e2e_stderr());
    e2e_expect_same_file(SNAPSHOT "/model-00001-of-00001.safetensors", "model/model.safetensors");
    cr_expect_neq(access(SNAPSHOT "/other.safetensors", F_OK), 0);
    e2e_write("hub/models/org/tiny/model.safetensors.index.json",
              "{\"weight_map\":{\"a\":\"model-00001-of-00002.safetensors\"}}");
    expect_said(3, "fetch org/tiny", "names model-00001-of-00002.safetensors, which is not there");
    e2e_write("hub/models/org/tiny/model.safetensors.index.json",
              "{\"weight_map\":{\"a\":\"../../model.safetensors\"}}");
    expect_said(9, "fetch org/tiny", "expected a plain file name");
}

Test(fetch, what_lqbuild_cannot_use_is_said_before_it_is_loaded)
{
    cr_assert_eq(system("cd hub/models/org && mkdir g sub && "
                        "printf GGUF > g/g-Q4_K_M.gguf && printf GGUF > g/g-Q8_0.gguf && "
                        "cp -R tiny notok && rm notok/tokenizer.json && "
                        "cp -R tiny noconf && rm noconf/config.json && "
                        "cp -R tiny bin && mv bin/model.safetensors bin/pytorch_model.bin"),
                 0);
    expect_said(3, "fetch org/g",
                "no safetensors weights, but 2 GGUF files; name one, as in "
                "`lqbuild fetch org/g/g-Q4_K_M.gguf`");
    expect_said(3, "fetch org/notok", "neither tokenizer.json nor tokenizer.model");
    expect_said(3, "fetch org/noconf", "no config.json");
    expect_said(3, "fetch org/bin", "has neither model.safetensors nor");
    cr_expect_neq(access("home", F_OK), 0);
    cr_assert_eq(e2e_run("fetch org/g/g-Q8_0.gguf"), 0, "%s", e2e_stderr());
    cr_expect_eq(access("home/hub/models--org--g/snapshots/" HUB_COMMIT "/g-Q8_0.gguf", F_OK), 0);
    expect_said(3, "fetch org/g/x.gguf", "has no file 'x.gguf' (revision main)");
    expect_said(3, "fetch org/g/x/x.gguf", "has no 'x' in it");
}

Test(fetch, a_file_of_a_data_set_arrives_with_its_folder)
{
    cr_assert_eq(e2e_run("fetch datasets/org/words@" HUB_COMMIT "/a/words.txt --json"), 0, "%s",
                 e2e_stderr());
    cr_expect_eq(result_number("loaded_bytes"), 8);
    cr_expect_eq(access("home/hub/datasets--org--words/snapshots/" HUB_COMMIT "/a/words.txt", R_OK),
                 0);
    cr_expect_neq(access("home/hub/datasets--org--words/refs", F_OK), 0, "a commit has no branch");
    expect_said(15, "fetch hf:datasets/org/words/b.txt", "has no file 'b.txt'");
    expect_said(15, "fetch hf:datasets/org/none/b.txt", "there is no such data set");
}

Test(fetch, a_cut_connection_goes_on_where_it_ended)
{
    hub_be(HUB_CUTS);
    cr_assert_eq(e2e_run("fetch org/tiny --json"), 0, "%s%s", e2e_stdout(), e2e_stderr());
    cr_expect_eq(result_number("loaded_bytes"), result_number("size_bytes"), "nothing twice");
    cr_expect_eq(atomic_load(&hub->ranges), 11, "%d", atomic_load(&hub->ranges));
    expect_whole();
}

/* Bytes that are there of a file on its way, the largest. */
static long begun_bytes(void)
{
    long bytes = 0;
    FILE *stream = popen("find home/hub -name '*.incomplete' -printf '%s\\n' 2>/dev/null | "
                         "sort -n | tail -n 1",
                         "r");
    bytes = fscanf(stream, "%ld", &bytes) == 1 ? bytes : 0;
    pclose(stream);
    return bytes;
}

/* Starts a fetch, waits until another megabyte of the weights is there, and ends it with a signal.
 */
static int break_off(int signal_number)
{
    long wanted = begun_bytes() + (1 << 20);
    pid_t child = e2e_start("fetch org/tiny", "killed");
    for (int i = 0; i < 400 && begun_bytes() < wanted; i++) {
        server_pause(25);
    }
    cr_expect_eq(kill(child, signal_number), 0);
    int code = e2e_wait(child);
    e2e_collect("killed");
    return code;
}

Test(fetch, a_killed_process_leaves_a_beginning)
{
    hub_be(HUB_STALLS);
    cr_expect_eq(break_off(SIGKILL), 128 + SIGKILL, "%s", e2e_stderr());
    expect_nothing_visible();
    cr_expect_eq(break_off(SIGTERM), 130, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), "goes on from here"), "%s", e2e_stderr());
    expect_nothing_visible();
    hub_be(HUB_GOOD);
    int ranges = atomic_load(&hub->ranges);
    cr_assert_eq(e2e_run("fetch org/tiny --json"), 0, "%s", e2e_stderr());
    cr_expect_leq(result_number("loaded_bytes"), result_number("size_bytes") - 2 * (1 << 20));
    cr_expect_gt(atomic_load(&hub->ranges), ranges);
    expect_whole();
}

Test(fetch, a_server_without_ranges_begins_anew)
{
    hub_be(HUB_STALLS);
    (void)break_off(SIGKILL);
    hub_be(HUB_NO_RANGES);
    cr_assert_eq(e2e_run("fetch org/tiny --json"), 0, "%s", e2e_stderr());
    cr_expect_geq(result_number("loaded_bytes"), 11547040);
    expect_whole();
}

Test(fetch, another_part_than_asked_for_is_not_taken)
{
    hub_be(HUB_STALLS);
    (void)break_off(SIGKILL);
    hub_be(HUB_WRONG_RANGE);
    cr_assert_eq(e2e_run("fetch org/tiny --json"), 0, "%s", e2e_stderr());
    expect_whole();
}

Test(fetch, a_damaged_beginning_is_thrown_away)
{
    hub_be(HUB_STALLS);
    (void)break_off(SIGKILL);
    hub_be(HUB_GOOD);
    cr_assert_eq(system("printf x | dd of=$(ls -S " CACHED
                        "/blobs/*.incomplete | head -n 1) conv=notrunc bs=1 "
                        "seek=99 2>/dev/null"),
                 0);
    cr_assert_eq(e2e_run("fetch org/tiny --json"), 0, "%s", e2e_stderr());
    cr_expect_gt(result_number("loaded_bytes"), 11547040, "the rest, then the whole");
    expect_whole();
    /* One that is too long, and one that is whole but was not named yet. */
    cr_assert_eq(system("cd " CACHED "/blobs && f=$(ls | awk 'length > 60') && "
                        "cp $f x && printf x >> x && mv x $f.incomplete && rm $f"),
                 0);
    cr_assert_eq(e2e_run("fetch org/tiny"), 0, "%s", e2e_stderr());
    expect_whole();
    cr_assert_eq(
        system("cd " CACHED "/blobs && f=$(ls | awk 'length > 60') && mv $f $f.incomplete"), 0);
    cr_assert_eq(e2e_run("fetch org/tiny --json"), 0, "%s", e2e_stderr());
    cr_expect_eq(result_number("loaded_bytes"), 0);
    expect_whole();
}

Test(fetch, wrong_bytes_are_removed)
{
    hub_be(HUB_ALTERS);
    expect_said(9, "fetch org/tiny",
                "model.safetensors came damaged and was removed: its SHA-256 is ");
    expect_nothing_visible();
    cr_expect_eq(begun_bytes() > 200000, 0, "%ld", begun_bytes());
    hub_be(HUB_LENGTHENS);
    expect_said(9, "fetch org/tiny", "sent more than it announced");
    expect_nothing_visible();
    hub_be(HUB_SHORTENS);
    expect_said(9, "fetch org/tiny", "is 11547040 bytes long, but ");
    expect_nothing_visible();
    hub_be(HUB_GOOD);
    cr_assert_eq(e2e_run("fetch org/tiny"), 0, "%s", e2e_stderr());
    expect_whole();
}

Test(fetch, credentials_go_to_the_hub_alone)
{
    hub_be(HUB_TOKEN_ONLY);
    expect_said(4, "fetch org/tiny", "there is no such model at http://127.0.0.1:");
    expect_said(4, "fetch org/tiny", "set HF_TOKEN to a token that may read it");
    setenv("HF_TOKEN", "wrong", 1);
    expect_said(4, "fetch org/tiny", "does not give it for the token that was sent (status 401)");
    /* The token is nowhere to be read. */
    cr_expect_null(strstr(e2e_stderr(), "wrong"), "%s", e2e_stderr());
    setenv("HF_TOKEN", " " HUB_TOKEN "\n", 1);
    cr_assert_eq(e2e_run("fetch org/tiny"), 0, "%s", e2e_stderr());
    expect_whole();
    cr_expect_gt(atomic_load(&hub->tokens), 4);
    cr_expect_eq(atomic_load(&hub->leaks), 0, "the CDN got the token");
    /* From files. */
    unsetenv("HF_TOKEN");
    e2e_write("home/token", HUB_TOKEN "\n");
    cr_expect_eq(e2e_run("fetch org/tiny"), 0, "%s", e2e_stderr());
    cr_assert_eq(rename("home/token", "secret"), 0);
    setenv("HF_TOKEN_PATH", "secret", 1);
    cr_expect_eq(e2e_run("fetch org/tiny"), 0, "%s", e2e_stderr());
    setenv("HF_TOKEN", "a b", 1);
    expect_said(2, "fetch org/tiny", "HF_TOKEN holds what is no token");
}

Test(fetch, terms_have_to_be_accepted)
{
    hub_be(HUB_GATED);
    expect_said(4, "fetch org/tiny",
                "org/tiny: the terms of this model have to be accepted first; do so at "
                "http://127.0.0.1:");
    cr_expect_not_null(strstr(e2e_stderr(), "/org/tiny, and set HF_TOKEN"), "%s", e2e_stderr());
    expect_nothing_visible();
    setenv("HF_TOKEN", HUB_TOKEN, 1);
    expect_said(4, "fetch org/tiny", "by the account of the token that was sent");
    cr_expect_eq(e2e_run("fetch org/tiny --json"), 4);
    cr_expect_not_null(strstr(e2e_stdout(), "\"AuthenticationRequired\""), "%s", e2e_stdout());
}

Test(fetch, what_is_not_there_is_named)
{
    expect_said(3, "fetch org/none", "org/none: there is no such model at http://127.0.0.1:");
    expect_said(3, "fetch org/tiny@v2", "has no revision 'v2' of it");
    expect_said(2, "fetch org/tiny/x.txt", "is no name of the hub");
    expect_said(2, "fetch ../x", "is no name of the hub");
    expect_said(2, "fetch datasets/org/words", "expected org/name, org/name@revision,");
}

Test(fetch, servers_that_stumble_are_asked_again)
{
    hub_be(HUB_BUSY);
    atomic_store(&hub->busy_left, 2);
    time_t begin = time(NULL);
    cr_assert_eq(e2e_run("fetch org/tiny"), 0, "%s", e2e_stderr());
    cr_expect_geq(time(NULL) - begin, 2, "Retry-After was 1 s, twice");
    expect_whole();
    hub_be(HUB_FAILS);
    expect_said(1, "fetch org/tiny", "answered 503; what has arrived is kept, so try again");
    setenv("HF_ENDPOINT", "http://127.0.0.1:1", 1);
    expect_said(1, "fetch org/tiny", "org/tiny: cannot load from http://127.0.0.1:1: ");
}

Test(fetch, a_server_that_falls_silent_is_left)
{
    setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1", 1);
    hub_be(HUB_STALLS);
    /* A megabyte, a second of silence, the next megabyte: slow, but it goes on. */
    cr_assert_eq(truncate("hub/models/org/tiny/model.safetensors", 3000000), 0);
    cr_assert_eq(e2e_run("fetch org/tiny"), 0, "%s", e2e_stderr());
    cr_expect_geq(atomic_load(&hub->ranges), 2);
}

Test(fetch, lists_come_in_pages)
{
    hub_be(HUB_PAGES);
    cr_assert_eq(e2e_run("fetch org/tiny"), 0, "%s", e2e_stderr());
    expect_whole();
    hub_be(HUB_LOOPS);
    expect_said(9, "fetch datasets/org/words/a/words.txt", "its list of files has no end");
    hub_be(HUB_FLOODS);
    expect_said(9, "fetch org/tiny", "sent more than it announced");
}

Test(fetch, lists_are_not_believed)
{
    static const struct {
        const char *listing;
        const char *said;
    } bad[] = {
        {"", "invalid JSON at byte 0"},
        {"{}", "is no JSON list"},
        {"[1]", "has what is no object"},
        {"[{\"type\":\"file\",\"path\":\"../x\"}]", "names '../x', which is no path within it"},
        {"[{\"type\":\"file\",\"path\":\"/etc/x\"}]", "names '/etc/x'"},
        {"[{\"type\":\"file\",\"path\":\"a//x\"}]", "names 'a//x'"},
        {"[{\"type\":\"file\",\"path\":\"a\\\\x\"}]", "which is no path within it"},
        {"[{\"type\":\"file\",\"path\":\"\\u001b[2Jx\"}]", "names '?[2Jx'"},
        {"[{\"type\":\"file\",\"path\":\"config.json\"}]", "config.json: missing field 'size'"},
        {"[{\"type\":\"file\",\"path\":\"x\",\"size\":-1,\"oid\":\"\"}]", "x: field 'size'"},
        {"[{\"type\":\"file\",\"path\":\"x\",\"size\":1e300,\"oid\":\"\"}]", "x: field 'size'"},
        {"[{\"type\":\"file\",\"path\":\"x\",\"size\":1,\"oid\":\"../../x\"}]",
         "oid is '../../x', expected 40 hex digits"},
        {"[{\"type\":\"file\",\"path\":\"x\",\"size\":1,\"oid\":\"\",\"lfs\":{\"oid\":\"ab\","
         "\"size\":1}}]",
         "oid is 'ab', expected 64 hex digits"},
        {"[{\"type\":\"file\",\"path\":\"x\",\"size\":1,\"oid\":\"\",\"lfs\":{\"size\":2,\"oid\":"
         "\"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"}}]",
         "has 1 and 2 bytes"},
    };
    hub_be(HUB_LISTING);
    for (size_t i = 0; i < LQ_COUNT_OF(bad); i++) {
        e2e_write("listing.json", "%s", bad[i].listing);
        expect_said(9, "fetch org/tiny", bad[i].said);
    }
    hub_be(HUB_COMMITS);
    e2e_write("commit.json", "{\"sha\":\"../../../x\"}");
    expect_said(9, "fetch org/tiny", "sha is '../../../x', expected 40 hex digits");
    e2e_write("commit.json", "{}");
    expect_said(9, "fetch org/tiny", "missing field 'sha'");
    cr_expect_neq(access("home", F_OK), 0, "nothing was written");
    hub_be(HUB_TO_A_FILE);
    expect_said(1, "fetch org/tiny", "redirects to where it is not followed");
    expect_nothing_visible();
}

Test(fetch, a_model_that_is_larger_than_the_disk_is_not_begun)
{
    hub_be(HUB_LISTING);
    e2e_write("listing.json",
              "[{\"type\":\"file\",\"path\":\"config.json\",\"size\":1,\"oid\":\"" HUB_COMMIT "\"},"
              "{\"type\":\"file\",\"path\":\"tokenizer.json\",\"size\":1,\"oid\":\"" HUB_COMMIT
              "\"},{\"type\":\"file\",\"path\":\"model.safetensors\",\"size\":70000000000000,"
              "\"oid\":\"" HUB_COMMIT "\"}]");
    expect_said(6, "fetch org/tiny", "needs 63.7 TiB, but only ");
    cr_expect_eq(atomic_load(&hub->files), 0);
}

Test(fetch, two_at_once_load_everything_once)
{
    atomic_store(&hub->slow_ms, 200);
    pid_t a = e2e_start("fetch org/tiny", "a");
    for (int i = 0; i < 400 && begun_bytes() < 200000; i++) {
        server_pause(25);
    }
    pid_t b = e2e_start("fetch org/tiny", "b");
    for (int i = 0; i < 400; i++) {
        server_pause(25);
        if (access("err.b", F_OK) != 0) {
            continue; /* its shell has not begun */
        }
        e2e_collect("b");
        if (strstr(e2e_stderr(), "waiting for another process, which downloads model.safe")) {
            break;
        }
    }
    cr_expect_not_null(strstr(e2e_stderr(), "waiting for another process"), "%s", e2e_stderr());
    atomic_store(&hub->slow_ms, 0);
    cr_expect_eq(e2e_wait(a), 0);
    cr_expect_eq(e2e_wait(b), 0);
    cr_expect_eq(atomic_load(&hub->files), 5);
    expect_whole();
}

/* A signal ends waiting for a better time, too. */
Test(fetch, a_signal_ends_waiting)
{
    hub_be(HUB_BUSY);
    atomic_store(&hub->busy_left, 1000);
    pid_t child = e2e_start("fetch org/tiny", "waits");
    for (int i = 0; i < 400 && atomic_load(&hub->requests) == 0; i++) {
        server_pause(25);
    }
    cr_expect_eq(kill(child, SIGINT), 0);
    cr_expect_eq(e2e_wait(child), 130);
}

Test(fetch, events_say_how_far_it_is)
{
    atomic_store(&hub->slow_ms, 12);
    cr_assert_eq(e2e_run("fetch org/tiny --json"), 0, "%s", e2e_stderr());
    cr_expect_geq(e2e_count_events("fetch-progress", "\"total\":11654504,\"unit\":\"bytes\","), 1,
                  "%s", e2e_stdout());
    cr_expect_geq(e2e_count_events("fetch-progress", "\"seconds_left\":"), 1, "%s", e2e_stdout());
    cr_expect_str_eq(e2e_stderr(), "");
    cr_assert_eq(e2e_run("fetch org/tiny --format json"), 0, "%s", e2e_stderr());
    cJSON *json = cJSON_Parse(e2e_stdout());
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(json, "fetched");
    cr_assert_eq(cJSON_GetArraySize(list), 1, "%s", e2e_stdout());
    const cJSON *files = cJSON_GetObjectItemCaseSensitive(list->child, "files");
    cr_expect_eq(cJSON_GetArraySize(files), 5, "%s", e2e_stdout());
    cJSON_Delete(json);
}

Test(fetch, the_environment_says_no)
{
    setenv("HF_HUB_OFFLINE", "true", 1);
    expect_said(1, "fetch org/tiny", "HF_HUB_OFFLINE is set, so org/tiny is not downloaded");
    setenv("HF_HUB_OFFLINE", "0", 1);
    setenv("HF_ENDPOINT", "ftp://x", 1);
    expect_said(2, "fetch org/tiny", "HF_ENDPOINT is 'ftp://x', expected the URL of a hub");
    unsetenv("HF_ENDPOINT");
    setenv("HF_HUB_DOWNLOAD_TIMEOUT", "soon", 1);
    expect_said(2, "fetch org/tiny", "HF_HUB_DOWNLOAD_TIMEOUT is 'soon'");
    unsetenv("HF_HUB_DOWNLOAD_TIMEOUT");
    unsetenv("HF_HOME");
    unsetenv("HOME");
    unsetenv("XDG_CACHE_HOME");
    expect_said(2, "fetch org/tiny", "there is no folder to download to");
    cr_expect_eq(atomic_load(&hub->requests), 0);
}
