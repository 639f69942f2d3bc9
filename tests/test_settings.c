/* Configuration: what the files may say, and who wins. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/fs.h"
#include "engine/base/text.h"
#include "engine/cli/settings.h"

static struct lq_arena arena;
static struct lq_error err;
static struct lq_settings settings;

static void begin(void)
{
    lq_arena_init(&arena);
    lq_error_clear(&err);
    settings = (struct lq_settings){.cache_dir = NULL};
}

static void end(void)
{
    lq_arena_fini(&arena);
}

TestSuite(settings, .init = begin, .fini = end);

static enum lq_status apply(const char *text)
{
    return lq_settings_apply(&settings, text, strlen(text), "c.toml", "/etc/x", &arena, &err);
}

static void expect_refused(const char *text, const char *words)
{
    settings = (struct lq_settings){.cache_dir = NULL};
    cr_expect_eq(apply(text), LQ_EUSAGE, "accepted: %s", text);
    cr_expect_not_null(strstr(err.message, words), "%s\n%s", text, err.message);
}

Test(settings, every_key_is_read)
{
    cr_assert_eq(apply("# comment\n"
                       "[cache]\n"
                       "dir = \"store\" # relative to the file\n"
                       "max_size = \"1.5 GiB\"\n"
                       "[build]\r\n"
                       "jobs = 3\r\n"
                       "[trust]\n"
                       "keys = [\"a:b\",\n  'c:d', # two\n]\n"
                       "sign_with = \"a\"\n"
                       "unsigned = true\n"
                       "[remote.team]\n"
                       "url = \"https://example.org/c\\u0041\"\n"
                       "mode = \"read\"\n"
                       "token_env = \"TOKEN\"\n"
                       "trusted_keys = ['e:f']\n"
                       "timeout = 1_0\n"
                       "[remote.second]\n"
                       "url = 'http://h'"),
                 LQ_OK, "%s", err.message);
    cr_expect_str_eq(settings.cache_dir, "/etc/x/store");
    cr_expect_eq(settings.cache_max_bytes, (uint64_t)3 << 29);
    cr_expect_eq(settings.jobs, 3);
    cr_assert_eq(settings.trusted_key_count, 2);
    cr_expect_str_eq(settings.trusted_keys[1], "c:d");
    cr_expect_str_eq(settings.sign_key, "a");
    cr_expect(settings.trust_unsigned);
    cr_assert_eq(settings.remote_count, 2);
    cr_expect_str_eq(settings.remotes[0].name, "team");
    cr_expect_str_eq(settings.remotes[0].url, "https://example.org/cA");
    cr_expect_str_eq(settings.remotes[0].mode, "read");
    cr_expect_eq(settings.remotes[0].timeout_seconds, 10);
    cr_expect_str_eq(settings.remotes[1].mode, "read-write");
}

Test(settings, mistakes_name_file_line_and_cure)
{
    expect_refused("[cache]\nmaxsize = 1\n",
                   "c.toml:2: unknown key 'maxsize'; did you mean 'max_s");
    expect_refused("\n\n[remot.x]\nurl = 'h'\n", "c.toml:3: unknown table 'remot'");
    expect_refused("[build]\njobs = 0\n", "c.toml:2: 'jobs' expects 1 to 1024, got 0");
    expect_refused("[build]\njobs = -1\n", "got -1");
    expect_refused("[build]\njobs = 1.5\n", "floats");
    expect_refused("[build]\njobs = \"4\"\n", "expects an integer, got a string");
    expect_refused("[build]\njobs = 4 5\n", "expected the end of the line");
    expect_refused("[build]\njobs = 99999999999999999999\n", "64 bits");
    expect_refused("[build]\njobs = 1\njobs = 2\n", "c.toml:3: 'jobs' stands on line 2 too");
    expect_refused("[build]\n[build]\n", "stands on line 1 too");
    expect_refused("jobs = 4\n", "before the first [table]");
    expect_refused("[cache]\ndir = \"a\n", "closing quote");
    expect_refused("[cache]\ndir = \"\\q\"\n", "unknown escape");
    expect_refused("[cache]\ndir = \"\\u0000\"\n", "may stand in a string");
    expect_refused("[cache]\ndir = ''\n", "'dir' is empty");
    expect_refused("[cache]\ndir = '''x'''\n", "multi-line");
    expect_refused("[cache]\ndir = { a = 1 }\n", "inline tables");
    expect_refused("[cache]\na.b = 1\n", "dotted");
    expect_refused("[[cache]]\n", "arrays of tables");
    expect_refused("[cache\n", "expected ']'");
    expect_refused("[cache]\nmax_size = \"much\"\n", "50 GB");
    expect_refused("[trust]\nkeys = \"a\"\n", "array of strings");
    expect_refused("[trust]\nkeys = [1]\n", "expected a string or ']'");
    expect_refused("[trust]\nkeys = [\"a\"", "expected ',' or ']'");
    expect_refused("[trust]\nunsigned = yes\n", "true, false");
    expect_refused("[remote.x]\nmode = 'read'\n", "has no url");
    expect_refused("[remote.x]\nurl = 'h'\nmode = 'write'\n", "one of: read read-write");
    expect_refused("[remote]\nurl = 'h'\n", "[remote.NAME]");
    expect_refused("[remote.\"a b\"]\nurl = 'h'\n", "[remote.NAME]");
    expect_refused("[remote.a.b]\nurl = 'h'\n", "two parts");
}

Test(settings, a_table_with_a_url_drops_what_an_earlier_file_said)
{
    cr_assert_eq(apply("[remote.team]\nurl = 'https://a'\ntoken_env = 'SECRET'\ntimeout = 7\n"),
                 LQ_OK);
    cr_assert_eq(apply("[remote.team]\nmode = 'read'\n"), LQ_OK, "%s", err.message);
    cr_assert_eq(settings.remote_count, 1);
    cr_expect_str_eq(settings.remotes[0].token_env, "SECRET");
    cr_expect_eq(settings.remotes[0].timeout_seconds, 7);
    cr_assert_eq(apply("[remote.team]\nurl = 'https://b'\n"), LQ_OK);
    cr_expect_str_eq(settings.remotes[0].url, "https://b");
    cr_expect_null(settings.remotes[0].token_env, "the token would go to another server");
}

Test(settings, the_project_beats_the_user_and_the_environment_both)
{
    char folder[] = "/tmp/lqbuild-settings-XXXXXX";
    cr_assert_not_null(mkdtemp(folder));
    cr_assert_eq(chdir(folder), 0);
    const char *user = "[build]\njobs = 1\n[cache]\nmax_size = 5\n[remote.u]\nurl='http://u'\n";
    const char *project = "[build]\njobs = 2\n[remote.p]\nurl='http://p'\n";
    cr_assert_eq(lq_file_write("xdg/lqbuild/config.toml", user, strlen(user), &err), LQ_OK);
    cr_assert_eq(lq_file_write("project/lqbuild.toml", project, strlen(project), &err), LQ_OK);
    char xdg[64];
    snprintf(xdg, sizeof xdg, "%s/xdg", folder);
    setenv("XDG_CONFIG_HOME", xdg, 1);
    unsetenv("LQBUILD_CONFIG");
    unsetenv("LQBUILD_JOBS");
    unsetenv("LQBUILD_REMOTE");
    cr_assert_eq(lq_settings_load(&settings, "project", &arena, &err), LQ_OK, "%s", err.message);
    cr_expect_eq(settings.jobs, 2);
    cr_expect_eq(settings.cache_max_bytes, 5);
    cr_assert_eq(settings.remote_count, 2);
    cr_expect_str_eq(settings.remotes[0].name, "u");
    setenv("LQBUILD_JOBS", "3", 1);
    setenv("LQBUILD_REMOTE", "p", 1);
    cr_assert_eq(lq_settings_load(&settings, "project", &arena, &err), LQ_OK, "%s", err.message);
    cr_expect_eq(settings.jobs, 3);
    cr_assert_eq(settings.remote_count, 1);
    cr_expect_str_eq(settings.remotes[0].url, "http://p");
    setenv("LQBUILD_REMOTE", "q", 1);
    cr_expect_eq(lq_settings_load(&settings, "project", &arena, &err), LQ_EUSAGE);
    cr_expect_not_null(strstr(err.message, "no remote is named 'q'"), "%s", err.message);
    char command[96];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    cr_assert_eq(chdir("/"), 0);
    cr_assert_eq(system(command), 0);
}

Test(settings, sizes)
{
    static const struct {
        const char *text;
        uint64_t size_bytes;
    } good[] = {{"0", 0},           {"4096", 4096},  {"50 GB", 50000000000},
                {"1K", 1024},       {"1KiB", 1024},  {"1.5 kb", 1500},
                {"2t", 2ull << 40}, {"0.001 KB", 1}, {"7B", 7}};
    static const char *const bad[] = {
        "",      "GB",    "-1", "1 XB", "1..5", "1.2345", "99999999999999999999", "9999999999 TiB",
        "1 GBB", "1 Gi B"};
    uint64_t size_bytes = 0;
    for (size_t i = 0; i < LQ_COUNT_OF(good); i++) {
        cr_expect(lq_text_size_parse(good[i].text, &size_bytes), "%s", good[i].text);
        cr_expect_eq(size_bytes, good[i].size_bytes, "%s: %llu", good[i].text,
                     (unsigned long long)size_bytes);
    }
    for (size_t i = 0; i < LQ_COUNT_OF(bad); i++) {
        cr_expect_not(lq_text_size_parse(bad[i], &size_bytes), "%s", bad[i]);
    }
}
