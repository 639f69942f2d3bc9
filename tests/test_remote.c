/* Sharing results over HTTP: a real nginx, and a server that does everything wrong. User A builds;
 * user B has another folder, other names for it, and an empty cache. */
#define _GNU_SOURCE
#include "tests/remote_users.h"

static void prepare(void)
{
    char remote[64];
    begin_sharing();
    start_nginx("", "");
    snprintf(remote, sizeof remote, "--remote http://127.0.0.1:%d/x/", nginx_port);
    make_user("a");
    alice_builds(remote);
}

TestSuite(remote, .init = prepare, .fini = end_sharing);

Test(remote, another_user_runs_nothing)
{
    make_user("b");
    cr_assert_eq(e2e_run("-C b --json --remote http://127.0.0.1:%d/x", nginx_port), 0, "%s%s",
                 e2e_stdout(), e2e_stderr());
    cr_expect_eq(e2e_summary("ran"), 0);
    cr_expect_eq(remote_count("errors"), 0);
    /* Records of artifacts are enough: no step was asked for. */
    cr_expect_leq(remote_count("requests"), 60, "%g", remote_count("requests"));
    expect_outputs("b");
    e2e_expect_same_file("a/im.gguf", "b/im.gguf");
    /* Without the server it is as if Bob had built it himself. */
    stop_nginx();
    nginx_process = 0;
    cr_assert_eq(e2e_run("-C b --json --remote http://127.0.0.1:%d/x", nginx_port), 0);
    cr_expect_eq(e2e_summary("ran"), 0);
    cr_expect_eq(remote_count("requests"), 0);
}

/* A large output lies in its place only: what is sent is read from there. */
Test(remote, a_file_that_the_cache_has_no_copy_of_is_sent)
{
    static const char recipe_q8[] = "model base { source = \"../model\" }\n"
                                    "gguf q8 { model = base  level = \"Q8_0\"\n"
                                    "          path = \"q8.gguf\" }\n";
    setenv("LQBUILD_TEST_LARGE_BYTES", "100000", 1);
    be("alice");
    e2e_write("a/recipe.lq", recipe_q8);
    cr_assert_eq(e2e_run("-C a --json --remote http://127.0.0.1:%d/x", nginx_port), 0, "%s%s",
                 e2e_stdout(), e2e_stderr());
    cr_expect_eq(remote_count("errors"), 0);
    be("bob");
    make_user("b");
    e2e_write("b/recipe.lq", recipe_q8);
    cr_assert_eq(e2e_run("-C b --json --remote http://127.0.0.1:%d/x", nginx_port), 0, "%s%s",
                 e2e_stdout(), e2e_stderr());
    cr_expect_eq(e2e_summary("ran"), 0, "%s", e2e_stdout());
    cr_expect_eq(remote_count("errors"), 0);
    e2e_expect_same_file("a/q8.gguf", "b/q8.gguf");
    /* What was fetched is the cache's own. */
    cr_assert_eq(unlink("b/q8.gguf"), 0);
    cr_assert_eq(e2e_run("-C b --json"), 0);
    cr_expect_eq(e2e_summary("ran"), 0, "%s", e2e_stdout());
    e2e_expect_same_file("a/q8.gguf", "b/q8.gguf");
}

Test(remote, other_names_and_folders_find_the_same_work)
{
    make_user("b");
    cr_assert_eq(mkdir("b/data", 0777), 0);
    cr_assert_eq(rename("b/text.txt", "b/data/text.txt"), 0);
    e2e_write("b/recipe.lq",
              "model llama { source = \"../model\" }\n"
              "text words { path = \"data/text.txt\" }\n"
              "calibration sample { model = llama  text = words  samples = 128  sequence = 4 }\n"
              "imatrix importance { model = llama  calibration = sample  path = \"mine.gguf\" }\n");
    cr_assert_eq(e2e_run("-C b --json --remote http://127.0.0.1:%d/x importance", nginx_port), 0,
                 "%s%s", e2e_stdout(), e2e_stderr());
    cr_expect_eq(e2e_summary("ran"), 0);
    cr_expect_gt(e2e_count_events("step-finished", "\"fetched\""), 3);
    e2e_expect_same_file("a/im.gguf", "b/mine.gguf");
    /* The name of the text's file is part of an imatrix: only the file is written anew. */
    cr_assert_eq(rename("b/data/text.txt", "b/data/words.txt"), 0);
    cr_assert_eq(system("sed -i s/text.txt/words.txt/ b/recipe.lq; rm -rf b/cache"), 0);
    cr_assert_eq(e2e_run("-C b --json --remote http://127.0.0.1:%d/x importance", nginx_port), 0);
    cr_expect_eq(e2e_summary("ran"), 1, "%s", e2e_stdout());
}

Test(remote, nobody_known_signed_it)
{
    be("carol"); /* who trusts nobody */
    make_user("b");
    cr_assert_eq(e2e_run("-C b --json --remote http://127.0.0.1:%d/x", nginx_port), 0);
    cr_expect_gt(e2e_summary("ran"), 10);
    cr_expect_gt(remote_count("untrusted"), 0);
    cr_expect_eq(e2e_count_events("warning", "signed by 'alice', whom you do not trust"), 1, "%s",
                 e2e_stdout());
    expect_outputs("b");
    /* Without a key of her own she sends nothing. */
    cr_expect_eq(remote_count("bytes_sent"), 0);
    cr_assert_eq(system("rm -rf b/cache"), 0);
    cr_assert_eq(e2e_run("-C b --json --trust-unsigned --remote-mode read --remote "
                         "http://127.0.0.1:%d/x",
                         nginx_port),
                 0);
    cr_expect_eq(e2e_summary("ran"), 0);
}

/* Changes every record on the server with a shell line; $f is the file. */
static void tamper(const char *line)
{
    char command[1024];
    snprintf(command, sizeof command, "cd '%s/x/ac' && for f in *; do %s; done", root, line);
    cr_assert_eq(system(command), 0);
}

Test(remote, a_replayed_record_is_refused)
{
    /* Every key answers with Alice's good, signed result of another key. */
    tamper("last=$f");
    tamper("mv $f $f.old; test -z \"$prev\" || cp $prev.old $f; prev=$f");
    make_user("b");
    cr_assert_eq(e2e_run("-C b --json --remote http://127.0.0.1:%d/x", nginx_port), 0);
    cr_expect_gt(e2e_summary("ran"), 10);
    cr_expect_gt(remote_count("bad_signatures"), 5);
    cr_expect_eq(remote_count("hits"), 0);
    cr_expect_eq(e2e_count_events("warning", "signed for another key"), 1, "%s", e2e_stdout());
    expect_outputs("b");
}

Test(remote, a_forged_record_is_refused)
{
    /* One field is another: the signature no longer fits. */
    tamper("sed -i 's/^duration [0-9]*$/duration 987654321/' $f");
    make_user("b");
    cr_assert_eq(e2e_run("-C b --json --remote http://127.0.0.1:%d/x", nginx_port), 0);
    cr_expect_gt(e2e_summary("ran"), 10);
    cr_expect_gt(remote_count("bad_signatures") + remote_count("altered"), 5);
    cr_expect_eq(remote_count("hits"), 0);
    expect_outputs("b");
}

/* Bob builds against the bad server; how the remote behaved is in the counts. */
static void build_in_mood(struct test_server *server, enum mood mood, const char *more)
{
    atomic_store(&server->shared->mood, mood);
    cr_assert_eq(system("rm -rf b"), 0);
    make_user("b");
    e2e_write("b/lqbuild.toml",
              "[remote.bad]\nurl = \"http://127.0.0.1:%d/x\"\ntimeout = 1\nmode = \"read\"\n%s",
              server->port, more);
    cr_assert_eq(e2e_run("-C b --json"), 0, "mood %d: %s%s", mood, e2e_stdout(), e2e_stderr());
    expect_outputs("b");
}

static void expect_nothing_taken(struct test_server *server, enum mood mood, const char *count,
                                 const char *words)
{
    build_in_mood(server, mood, "");
    cr_expect_gt(e2e_summary("ran"), 10, "mood %d", mood);
    cr_expect_eq(remote_count("hits"), 0, "mood %d", mood);
    cr_expect_gt(remote_count(count), 0, "mood %d: no %s in %s", mood, count, e2e_stdout());
    cr_expect_geq(e2e_count_events("warning", words), 1, "mood %d: %s", mood, e2e_stdout());
}

Test(remote, whatever_the_server_does_the_output_is_right)
{
    struct test_server server;
    server_start(&server, root);
    build_in_mood(&server, MOOD_GOOD, "");
    cr_expect_eq(e2e_summary("ran"), 0);
    expect_nothing_taken(&server, MOOD_HANGS, "timeouts", "no answer in time");
    expect_nothing_taken(&server, MOOD_DRIPS, "timeouts", "no answer in time");
    expect_nothing_taken(&server, MOOD_FAILS, "errors", "answered 500");
    expect_nothing_taken(&server, MOOD_TRUNCATES, "altered", "stopped in the middle");
    build_in_mood(&server, MOOD_ALTERS, "");
    cr_expect_gt(remote_count("altered") + remote_count("bad_signatures"), 3);
    expect_nothing_taken(&server, MOOD_SHORT, "altered", "it");
    expect_nothing_taken(&server, MOOD_LONG, "timeouts", "no answer in time");
    expect_nothing_taken(&server, MOOD_TWO, "altered", "it is not asked any more");
    expect_nothing_taken(&server, MOOD_BABBLES, "errors", "it is not asked any more");
    expect_nothing_taken(&server, MOOD_LOOPS, "errors", "redirects");
    expect_nothing_taken(&server, MOOD_FLOODS, "altered", "it");
    expect_nothing_taken(&server, MOOD_DENIES, "errors", "credentials");
    expect_nothing_taken(&server, MOOD_HEADERS, "errors", "it");
    expect_nothing_taken(&server, MOOD_CONTINUES, "timeouts", "no answer in time");
    build_in_mood(&server, MOOD_TRAILS, "");
    cr_expect_eq(remote_count("hits"), 0);
    build_in_mood(&server, MOOD_MOVED, "");
    cr_expect_eq(e2e_summary("ran"), 0);
    build_in_mood(&server, MOOD_STUMBLES, "");
    cr_expect_gt(remote_count("hits"), 0, "no request was repeated: %s", e2e_stdout());
    server_stop(&server);
}

Test(remote, altered_objects_are_never_used)
{
    struct test_server server;
    server_start(&server, root);
    build_in_mood(&server, MOOD_ALTERS_CAS, "");
    cr_expect_gt(remote_count("altered"), 0);
    cr_expect_geq(e2e_count_events("warning", "do not have their digest"), 1, "%s", e2e_stdout());
    cr_expect_gt(e2e_summary("ran"), 0);
    server_stop(&server);
}

Test(remote, a_server_that_stops_midway_is_left_alone)
{
    struct test_server server;
    server_start(&server, root);
    atomic_store(&server.shared->stop_after, 6);
    build_in_mood(&server, MOOD_STOPS, "");
    cr_expect_gt(remote_count("errors"), 0);
    cr_expect_eq(e2e_count_events("warning", "it is not asked any more"), 1, "%s", e2e_stdout());
    cr_expect_leq(remote_count("requests"), 40, "a dead server was asked %g times",
                  remote_count("requests"));
    server_stop(&server);
}

Test(remote, a_token_opens_the_door)
{
    struct test_server server;
    server_start(&server, root);
    e2e_write("token", "sesame\n");
    build_in_mood(&server, MOOD_TOKEN, "token_file = \"../token\"\n");
    cr_expect_eq(e2e_summary("ran"), 0, "%s", e2e_stdout());
    setenv("MY_TOKEN", "sesame", 1);
    build_in_mood(&server, MOOD_TOKEN, "token_env = \"MY_TOKEN\"\n");
    cr_expect_eq(e2e_summary("ran"), 0, "%s", e2e_stdout());
    setenv("MY_TOKEN", "wrong", 1);
    build_in_mood(&server, MOOD_TOKEN, "token_env = \"MY_TOKEN\"\n");
    cr_expect_gt(e2e_summary("ran"), 0);
    server_stop(&server);
}

Test(remote, the_second_remote_is_asked_when_the_first_has_nothing)
{
    make_user("b");
    cr_assert_eq(e2e_run("-C b --json --remote http://127.0.0.1:%d/empty --remote "
                         "http://127.0.0.1:%d/x --remote-mode read",
                         nginx_port, nginx_port),
                 0);
    cr_expect_eq(e2e_summary("ran"), 0, "%s", e2e_stdout());
    /* A server that nobody runs is a warning. */
    int port = 0;
    close(server_listen(&port));
    cr_assert_eq(system("rm -rf b/cache"), 0);
    cr_assert_eq(e2e_run("-C b --json --remote http://127.0.0.1:%d/x --remote "
                         "http://127.0.0.1:%d/x --remote-mode read",
                         port, nginx_port),
                 0);
    cr_expect_eq(e2e_summary("ran"), 0, "%s", e2e_stdout());
    cr_expect_eq(e2e_count_events("warning", "it is not asked any more"), 1, "%s", e2e_stdout());
}

Test(remote, wrong_settings_are_errors_before_anything_runs)
{
    make_user("b");
    cr_expect_eq(e2e_run("-C b --remote ftp://x/y"), 2);
    cr_expect_eq(e2e_run("-C b --remote 'http://127.0.0.1/a b'"), 2);
    cr_expect_eq(e2e_run("-C b --remote nowhere"), 2);
    cr_expect_not_null(strstr(e2e_stderr(), "no remote is named 'nowhere'"), "%s", e2e_stderr());
    cr_expect_eq(e2e_run("key trust alice:AAAA"), 2);
    cr_expect_eq(e2e_run("key generate ../evil"), 2);
    cr_expect_eq(e2e_run("key generate bob"), 0);
    cr_expect_eq(e2e_run("key generate bob"), 2);
    cr_expect_eq(e2e_run("key list"), 0);
    cr_expect_not_null(strstr(e2e_stdout(), alice_key), "%s", e2e_stdout());
}

Test(remote, push_and_pull)
{
    cr_assert_eq(e2e_run("-C a push --remote http://127.0.0.1:%d/pushed", nginx_port), 1,
                 "bob has no key: nothing can be sent");
    be("alice");
    cr_assert_eq(e2e_run("-C a push --remote http://127.0.0.1:%d/pushed", nginx_port), 0, "%s",
                 e2e_stderr());
    be("bob");
    make_user("b");
    cr_assert_eq(e2e_run("-C b pull --json"), 2, "there is no remote");
    cr_assert_eq(e2e_run("-C b pull --json --remote http://127.0.0.1:%d/nothing", nginx_port), 8);
    cr_assert_eq(e2e_run("-C b pull --json --remote http://127.0.0.1:%d/pushed", nginx_port), 0,
                 "%s", e2e_stdout());
    cr_expect_eq(e2e_summary("ran"), 0);
    expect_outputs("b");
}

Test(remote, bundle_goes_from_hand_to_hand)
{
    be("alice");
    cr_assert_eq(e2e_run("-C a cache export im -o ../im.lqb"), 0, "%s", e2e_stderr());
    make_user("b");
    /* Other names and folders: what counts is the model and the text. */
    cr_assert_eq(mkdir("b/data", 0777), 0);
    cr_assert_eq(rename("b/text.txt", "b/data/text.txt"), 0);
    e2e_write("b/recipe.lq",
              "model llama { source = \"../model\" }\n"
              "text words { path = \"data/text.txt\" }\n"
              "calibration sample { model = llama  text = words  samples = 128  sequence = 4 }\n"
              "imatrix mine { model = llama  calibration = sample  path = \"mine.gguf\" }\n");
    be("carol");
    cr_assert_eq(e2e_run("-C b cache import ../im.lqb"), 4);
    cr_expect_not_null(strstr(e2e_stderr(), "signed by 'alice', whom you do not trust"), "%s",
                       e2e_stderr());
    cr_assert_eq(e2e_run("-C b --json -n mine"), 0);
    cr_expect_gt(e2e_summary("would_run"), 0);
    be("bob");
    cr_assert_eq(e2e_run("-C b cache import ../im.lqb"), 0, "%s", e2e_stderr());
    cr_assert_eq(e2e_run("-C b --json mine"), 0, "%s", e2e_stdout());
    cr_expect_eq(e2e_summary("ran"), 0);
    e2e_expect_same_file("a/im.gguf", "b/mine.gguf");
    cr_expect_eq(e2e_run("-C b cache export mine -o ../mine.lqb"), 0, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), "not signed"), "%s", e2e_stderr());
    cr_expect_eq(e2e_run("-C b cache import ../mine.lqb"), 4);
    cr_expect_eq(e2e_run("-C b --trust-unsigned cache import ../mine.lqb"), 0, "%s", e2e_stderr());
}

Test(remote, bundle_that_is_damaged_leaves_no_results)
{
    be("alice");
    cr_assert_eq(e2e_run("-C a cache export im -o ../im.lqb"), 0, "%s", e2e_stderr());
    be("bob");
    struct lq_map map;
    struct lq_error err;
    cr_assert_eq(lq_map_open(&map, "im.lqb", LQ_EIO, &err), LQ_OK);
    unsigned char *bytes = malloc(map.size_bytes + 1);
    make_user("b");
    uint64_t step = map.size_bytes / 23;
    for (uint64_t at = 0; at < map.size_bytes; at += step) {
        memcpy(bytes, map.data, map.size_bytes);
        bytes[at] ^= 1;
        cr_assert_eq(lq_file_write("bad.lqb", bytes, map.size_bytes, &err), LQ_OK);
        int code = e2e_run("-C b cache import ../bad.lqb");
        cr_expect(code == 9 || code == 4, "byte %llu: %d", (unsigned long long)at, code);
        cr_assert_eq(lq_file_write("bad.lqb", map.data, at, &err), LQ_OK);
        cr_expect_eq(e2e_run("-C b cache import ../bad.lqb"), 9);
    }
    memcpy(bytes, map.data, map.size_bytes);
    bytes[map.size_bytes] = 0;
    cr_assert_eq(lq_file_write("bad.lqb", bytes, map.size_bytes + 1, &err), LQ_OK);
    cr_expect_eq(e2e_run("-C b cache import ../bad.lqb"), 9);
    cr_assert_eq(e2e_run("-C b --json -n im"), 0);
    cr_expect_gt(e2e_summary("would_run"), 0, "a damaged bundle left a result behind");
    free(bytes);
    lq_map_close(&map);
}
