/* Sharing results with a server that is careful itself: HTTPS, credentials from netrc, zstd. */
#define _GNU_SOURCE
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "engine/base/limits.h"
#include "tests/remote_users.h"

TestSuite(remote_secure, .init = begin_sharing, .fini = end_sharing);

static void add_extension(X509 *certificate, int nid, const char *value)
{
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, nid, value);
    cr_assert_not_null(extension);
    cr_assert_eq(X509_add_ext(certificate, extension, -1), 1);
    X509_EXTENSION_free(extension);
}

/* A certificate of 127.0.0.1 that vouches for itself: NAME.pem, with its key in NAME.key. */
static void make_certificate(const char *name)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = X509_new();
    cr_assert(key != NULL && certificate != NULL);
    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 24 * 3600);
    X509_set_pubkey(certificate, key);
    X509_NAME *subject = X509_get_subject_name(certificate);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(certificate, subject);
    add_extension(certificate, NID_subject_alt_name, "IP:127.0.0.1");
    add_extension(certificate, NID_basic_constraints, "critical,CA:TRUE");
    cr_assert_gt(X509_sign(certificate, key, EVP_sha256()), 0);
    char path[64];
    snprintf(path, sizeof path, "%s.pem", name);
    FILE *stream = fopen(path, "w");
    cr_assert_eq(PEM_write_X509(stream, certificate), 1);
    fclose(stream);
    snprintf(path, sizeof path, "%s.key", name);
    stream = fopen(path, "w");
    cr_assert_eq(PEM_write_PrivateKey(stream, key, NULL, NULL, 0, NULL, NULL), 1);
    fclose(stream);
    X509_free(certificate);
    EVP_PKEY_free(key);
}

/* A user whose lqbuild.toml names the remote. */
static void make_sharer(const char *user, const char *scheme, const char *more)
{
    char name[64];
    make_user(user);
    snprintf(name, sizeof name, "%s/lqbuild.toml", user);
    e2e_write(name, "[remote.r]\nurl = \"%s://127.0.0.1:%d/x\"\n%s", scheme, nginx_port, more);
}

static void bob_builds(const char *scheme, const char *more)
{
    cr_assert_eq(system("rm -rf b"), 0);
    make_sharer("b", scheme, more);
    cr_assert_eq(e2e_run("-C b --json"), 0, "%s%s", e2e_stdout(), e2e_stderr());
    expect_outputs("b");
}

Test(remote_secure, https_asks_who_the_server_is)
{
    char lines[512];
    make_certificate("server");
    make_certificate("other");
    snprintf(lines, sizeof lines,
             "    ssl_certificate %s/server.pem; ssl_certificate_key %s/server.key;\n", e2e_folder,
             e2e_folder);
    start_nginx("ssl", lines);
    make_sharer("a", "https", "ca_file = \"../server.pem\"\n");
    alice_builds("");
    bob_builds("https", "ca_file = \"../server.pem\"\n");
    cr_expect_eq(e2e_summary("ran"), 0, "%s", e2e_stdout());
    /* A server that nobody known vouches for is not talked to, nor asked again and again. */
    const char *const strangers[] = {"", "ca_file = \"../other.pem\"\n"};
    for (size_t i = 0; i < 2; i++) {
        bob_builds("https", strangers[i]);
        cr_expect_gt(e2e_summary("ran"), 10);
        cr_expect_eq(remote_count("hits"), 0);
        cr_expect_eq(remote_count("bytes_received"), 0);
        cr_expect_gt(remote_count("errors"), 0);
        cr_expect_geq(e2e_count_events("warning", "certificate"), 1, "%s", e2e_stdout());
    }
    /* Nor one whose list of certificates is missing. */
    bob_builds("https", "ca_file = \"../nowhere.pem\"\n");
    cr_expect_gt(e2e_summary("ran"), 10);
    cr_expect_geq(e2e_count_events("warning", "nowhere.pem"), 1, "%s", e2e_stdout());
}

/* A hub that knows one small model, whose files it redirects to where nothing is encrypted. */
Test(remote_secure, a_download_does_not_leave_https)
{
    static const char commit[] = "0123456789abcdef0123456789abcdef01234567";
    char lines[1024];
    char endpoint[64];
    char command[512];
    struct test_server plain;
    make_certificate("server");
    server_start(&plain, ".");
    snprintf(lines, sizeof lines,
             "    ssl_certificate %s/server.pem; ssl_certificate_key %s/server.key;\n"
             "    location /org/ { return 302 http://127.0.0.1:%d/x; }\n",
             e2e_folder, e2e_folder, plain.port);
    start_nginx("ssl", lines);
    snprintf(command, sizeof command,
             "mkdir -p %s/api/models/org/x/revision %s/api/models/org/x/tree", root, root);
    cr_assert_eq(system(command), 0);
    snprintf(command, sizeof command, "%s/api/models/org/x/revision/main", root);
    e2e_write(command, "{\"sha\":\"%s\"}", commit);
    snprintf(command, sizeof command, "%s/api/models/org/x/tree/%s", root, commit);
    e2e_write(command,
              "[{\"type\":\"file\",\"path\":\"config.json\",\"size\":2,\"oid\":\"%s\"},"
              "{\"type\":\"file\",\"path\":\"tokenizer.json\",\"size\":2,\"oid\":\"%s\"},"
              "{\"type\":\"file\",\"path\":\"model.safetensors\",\"size\":2,\"oid\":\"%s\"}]",
              commit, commit, commit);
    snprintf(endpoint, sizeof endpoint, "https://127.0.0.1:%d", nginx_port);
    setenv("HF_ENDPOINT", endpoint, 1);
    setenv("HF_HUB_CACHE", "hub", 1);
    setenv("HF_TOKEN", "sesame", 1);
    unsetenv("HF_HUB_OFFLINE");
    unsetenv("SSL_CERT_FILE");
    cr_expect_eq(e2e_run("fetch org/x"), 1, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), "certificate"), "%s", e2e_stderr());
    setenv("SSL_CERT_FILE", "server.pem", 1);
    cr_expect_eq(e2e_run("-n fetch org/x"), 0, "%s", e2e_stderr());
    cr_expect_eq(e2e_run("fetch org/x"), 1, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), "redirects to where it is not followed"), "%s",
                       e2e_stderr());
    cr_expect_eq(atomic_load(&plain.shared->requests), 0);
    server_stop(&plain);
}

Test(remote_secure, netrc_opens_the_door)
{
    char lines[512];
    e2e_write("users", "ann:{PLAIN}sesame\n");
    snprintf(lines, sizeof lines, "    auth_basic x; auth_basic_user_file %s/users;\n", e2e_folder);
    start_nginx("", lines);
    e2e_write("netrc", "machine 127.0.0.1 login ann password sesame\n");
    char netrc[128];
    snprintf(netrc, sizeof netrc, "%s/netrc", e2e_folder);
    setenv("NETRC", netrc, 1);
    make_sharer("a", "http", "");
    alice_builds("");
    bob_builds("http", "");
    cr_expect_eq(e2e_summary("ran"), 0, "%s", e2e_stdout());
    cr_expect_eq(remote_count("errors"), 0);
    /* A token is for servers that want one: it takes the place of netrc. */
    setenv("MY_TOKEN", "sesame", 1);
    bob_builds("http", "token_env = \"MY_TOKEN\"\n");
    cr_expect_eq(remote_count("hits"), 0);
    e2e_write("netrc", "machine 127.0.0.1 login ann password wrong\n");
    bob_builds("http", "");
    cr_expect_gt(e2e_summary("ran"), 10);
    cr_expect_gt(remote_count("errors"), 0);
    cr_expect_geq(e2e_count_events("warning", "credentials"), 1, "%s", e2e_stdout());
    /* Neither name nor password is ever shown. */
    cr_expect_null(strstr(e2e_stdout(), "wrong"));
    cr_expect_null(strstr(e2e_stderr(), "wrong"));
}

Test(remote_secure, zstd_both_ways)
{
    struct test_server server;
    cr_assert_eq(mkdir("store", 0777), 0);
    snprintf(root, sizeof root, "%s/store", e2e_folder);
    server_start(&server, root);
    nginx_port = server.port;
    atomic_store(&server.shared->mood, MOOD_ZSTD);
    make_sharer("a", "http", "compression = \"zstd\"\n");
    alice_builds("");
    int packed = atomic_load(&server.shared->packed);
    if (!server_has_zstd()) {
        server_stop(&server);
        cr_skip_test("libzstd is not installed");
    }
    cr_expect_gt(packed, 0, "nothing was compressed");
    /* The server packs what it sends; what arrives is checked after unpacking. */
    bob_builds("http", "");
    cr_expect_eq(e2e_summary("ran"), 0, "%s", e2e_stdout());
    cr_expect_gt(atomic_load(&server.shared->packed), packed, "nothing arrived compressed");
    packed = atomic_load(&server.shared->packed);
    bob_builds("http", "compression = \"none\"\n");
    cr_expect_eq(e2e_summary("ran"), 0, "%s", e2e_stdout());
    cr_expect_eq(atomic_load(&server.shared->packed), packed);
    /* Few bytes that unpack to many. */
    atomic_store(&server.shared->mood, MOOD_BOMB);
    bob_builds("http", "");
    cr_expect_gt(e2e_summary("ran"), 10);
    cr_expect_eq(remote_count("hits"), 0);
    cr_expect_gt(remote_count("altered"), 0, "%s", e2e_stdout());
    /* Each was given up at the limit of a result, a quarter of what it unpacks to. */
    cr_expect_leq(remote_count("bytes_received"),
                  remote_count("altered") * LQ_RESULT_BYTES_MAX + 1000, "%s", e2e_stdout());
    server_stop(&server);
}
