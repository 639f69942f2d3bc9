/* Users who share results through an nginx that the test starts: what test_remote and
 * test_remote_secure have in common. User A has built everything and sent it; user B has another
 * folder and an empty cache. Header only; each test runs in its own process. */
#ifndef LQ_TESTS_REMOTE_USERS_H
#define LQ_TESTS_REMOTE_USERS_H

#include "tests/e2e.h"
#include "tests/http_server.h"

static const char recipe[] =
    "model base { source = \"../model\" }\n"
    "text t { path = \"text.txt\" }\n"
    "calibration c { model = base  text = t  samples = 128  sequence = 4 }\n"
    "imatrix im { model = base  calibration = c  path = \"im.gguf\" }\n"
    "gguf small { model = base  imatrix = im  level = \"Q4_K_M\"\n"
    "             path = \"out/small.gguf\" }\n"
    "default small\n";

static char root[128]; /* what the servers serve */
static int nginx_port;
static pid_t nginx_process;

static bool nginx_is_here(void)
{
    return system("command -v nginx >/dev/null 2>&1 || test -x /usr/sbin/nginx") == 0;
}

static void wait_for_port(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (int i = 0; i < 200; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        int connected = connect(fd, (struct sockaddr *)&address, sizeof address);
        close(fd);
        if (connected == 0) {
            return;
        }
        server_pause(25);
    }
    cr_assert_fail("nginx does not listen on port %d", port);
}

/* `server` are lines of the server's block, such as certificates. */
static void start_nginx(const char *flags, const char *server)
{
    close(server_listen(&nginx_port)); /* a port that is free now */
    cr_assert_eq(mkdir("nginx", 0777), 0);
    cr_assert_eq(mkdir("nginx/root", 0777), 0);
    snprintf(root, sizeof root, "%s/nginx/root", e2e_folder);
    e2e_write("nginx/nginx.conf",
              "daemon off; master_process off; pid %s/nginx/pid; error_log %s/nginx/error.log;\n"
              "events { worker_connections 64; }\n"
              "http { access_log off; client_body_temp_path %s/nginx/tmp;\n"
              "  client_max_body_size 0;\n"
              "  server { listen 127.0.0.1:%d %s;\n%s"
              "    location / { root %s; dav_methods PUT; create_full_put_path on; } } }\n",
              e2e_folder, e2e_folder, e2e_folder, nginx_port, flags, server, root);
    nginx_process = fork();
    cr_assert_geq(nginx_process, 0);
    if (nginx_process == 0) {
        char config[160];
        snprintf(config, sizeof config, "%s/nginx/nginx.conf", e2e_folder);
        int null = open("/dev/null", O_RDWR);
        dup2(null, 1);
        dup2(null, 2);
        setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
        execlp("nginx", "nginx", "-p", e2e_folder, "-c", config, (char *)NULL);
        _exit(127);
    }
    wait_for_port(nginx_port);
}

static void stop_nginx(void)
{
    kill(nginx_process, SIGTERM);
    waitpid(nginx_process, NULL, 0);
}

static void make_user(const char *user)
{
    char name[64];
    cr_assert_eq(mkdir(user, 0777), 0);
    snprintf(name, sizeof name, "%s/text.txt", user);
    e2e_copy_text("calibration.txt", name, 3000);
    snprintf(name, sizeof name, "%s/recipe.lq", user);
    e2e_write(name, "%s", recipe);
}

/* Keys and settings of a user lie in a folder of their own. */
static void be(const char *user)
{
    char config[128];
    snprintf(config, sizeof config, "%s/config-%s", e2e_folder, user);
    setenv("XDG_CONFIG_HOME", config, 1);
    setenv("LQBUILD_CACHE_DIR", "cache", 1);
}

/* Before a test: nothing of the real user's settings counts. */
static void begin_sharing(void)
{
    e2e_init();
    unsetenv("LQBUILD_SECRET_KEY");
    unsetenv("LQBUILD_REMOTE");
    unsetenv("http_proxy");
    unsetenv("https_proxy");
    unsetenv("ALL_PROXY");
    if (!nginx_is_here()) {
        cr_skip_test("nginx is not installed");
    }
}

static char alice_key[256];

/* Alice, in her folder "a", builds everything and sends it to a remote, given as options; then it
 * is Bob's turn, who trusts her. */
static void alice_builds(const char *remote)
{
    be("alice");
    cr_assert_eq(e2e_run("key generate alice"), 0, "%s", e2e_stderr());
    snprintf(alice_key, sizeof alice_key, "%.*s", (int)strcspn(e2e_stdout(), " \n"), e2e_stdout());
    cr_assert_eq(e2e_run("-C a --json %s", remote), 0, "%s%s", e2e_stdout(), e2e_stderr());
    cr_assert_gt(e2e_summary("ran"), 10);
    be("bob");
    cr_assert_eq(e2e_run("key trust '%s'", alice_key), 0, "%s", e2e_stderr());
}

static void end_sharing(void)
{
    if (nginx_process > 0) {
        stop_nginx();
    }
    e2e_fini();
}

/* A number inside the summary's "remote" object. */
static LQ_UNUSED double remote_count(const char *key)
{
    char mark[64];
    const char *object = strstr(e2e_stdout(), "\"remote\":{");
    cr_assert_not_null(object, "no remote in: %s", e2e_stdout());
    snprintf(mark, sizeof mark, "\"%s\":", key);
    const char *at = strstr(object, mark);
    cr_assert_not_null(at, "no %s in: %s", key, object);
    return atof(at + strlen(mark));
}

static LQ_UNUSED void expect_outputs(const char *user)
{
    char name[64];
    snprintf(name, sizeof name, "%s/out/small.gguf", user);
    e2e_expect_same_file("a/out/small.gguf", name);
}

#endif
