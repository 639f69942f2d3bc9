/* A small Hugging Face hub for tests: it serves hub/models/ORG/NAME and hub/datasets/ORG/NAME of
 * the current folder as repositories with one branch, main. Small files come from the hub itself,
 * files that end in .safetensors or .gguf from a second server under another host name, as with a
 * CDN. The test changes its mood while it runs, and counts. Header only; needs http_server.h's
 * server. */
#ifndef LQ_TESTS_HUB_SERVER_H
#define LQ_TESTS_HUB_SERVER_H

#include <dirent.h>

#include "engine/base/digest.h"
#include "engine/base/fs.h"
#include "engine/base/sha1.h"
#include "engine/base/text.h"
#include "tests/http_server.h"

#define HUB_COMMIT "0123456789abcdef0123456789abcdef01234567"
#define HUB_TOKEN "hf_sesame"

enum hub_mood {
    HUB_GOOD,
    HUB_CUTS,        /* the CDN ends connections after 1 MB of a body */
    HUB_STALLS,      /* the CDN sends 1 MB and then nothing more */
    HUB_NO_RANGES,   /* the CDN always sends everything */
    HUB_WRONG_RANGE, /* the CDN sends another part than was asked for */
    HUB_ALTERS,      /* the CDN flips one bit of every body */
    HUB_SHORTENS,    /* the CDN leaves out the last byte, in good order */
    HUB_LENGTHENS,   /* ... adds one */
    HUB_GATED,       /* 401 for files, as long as the terms are not accepted */
    HUB_TOKEN_ONLY,  /* 401 without the token */
    HUB_BUSY,        /* 429 with Retry-After to the first requests */
    HUB_FAILS,       /* 503 */
    HUB_TO_A_FILE,   /* redirects files to file:///etc/passwd */
    HUB_PAGES,       /* lists two files a page */
    HUB_LOOPS,       /* lists whose next page is the same one */
    HUB_FLOODS,      /* a list without an end */
    HUB_LISTING,     /* lists what stands in listing.json */
    HUB_COMMITS,     /* says what stands in commit.json about a revision */
};

struct hub_shared {
    atomic_int mood;
    atomic_int requests;
    atomic_int files;  /* answers with content of a file */
    atomic_int ranges; /* of these, parts */
    atomic_int tokens; /* requests with the token, to the hub itself */
    atomic_int leaks;  /* requests with any authorization, to the CDN */
    atomic_int busy_left;
    atomic_int slow_ms; /* between pieces of a body */
};

static struct hub_shared *hub;
static struct test_server hub_server;
static struct test_server hub_cdn;

/* In one piece: a second one would wait until the first is acknowledged. */
static void hub_reply(int fd, int status, const char *headers, const char *body)
{
    struct lq_buffer text;
    lq_buffer_init(&text);
    lq_buffer_printf(&text, "HTTP/1.1 %d X\r\nContent-Length: %zu\r\n%s\r\n%s", status,
                     strlen(body), headers, body);
    server_say(fd, text.data, text.size_bytes);
    lq_buffer_fini(&text);
}

static bool hub_is_large(const char *name)
{
    return lq_text_ends_with(name, ".safetensors") || lq_text_ends_with(name, ".gguf");
}

/* ---- lists ---- */

static void hub_describe(const char *path, const char *name, struct lq_buffer *out)
{
    struct lq_map map;
    struct lq_error err;
    char hex[LQ_DIGEST_HEX_BYTES];
    cr_assert_eq(lq_map_open(&map, path, LQ_EIO, &err), LQ_OK, "%s", err.message);
    struct lq_sha1 *sha1 = lq_sha1_create();
    char head[40];
    size_t length =
        (size_t)snprintf(head, sizeof head, "blob %llu", (unsigned long long)map.size_bytes) + 1;
    lq_sha1_update(sha1, head, length);
    lq_sha1_update(sha1, map.data, (size_t)map.size_bytes);
    lq_buffer_printf(out, "{\"type\":\"file\",\"oid\":\"%s\",\"size\":%llu,\"path\":\"%s\"",
                     lq_sha1_finish(sha1, hex), (unsigned long long)map.size_bytes, name);
    lq_sha1_destroy(sha1);
    if (hub_is_large(name)) {
        struct lq_digest digest;
        lq_digest_of(map.data, (size_t)map.size_bytes, &digest);
        lq_buffer_printf(out, ",\"lfs\":{\"oid\":\"%s\",\"size\":%llu,\"pointerSize\":133}",
                         lq_digest_to_hex(&digest, hex), (unsigned long long)map.size_bytes);
    }
    lq_buffer_append_string(out, "}");
    lq_map_close(&map);
}

static int hub_compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Entries from number `first` on, at most `count`; *more when there are others. */
static void hub_list(const char *folder, const char *below, size_t first, size_t count,
                     struct lq_buffer *out, bool *more)
{
    char *names[256];
    size_t name_count = 0;
    DIR *dir = opendir(folder);
    cr_assert_not_null(dir);
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
        if (entry->d_name[0] != '.') {
            names[name_count++] = strdup(entry->d_name);
        }
    }
    closedir(dir);
    qsort(names, name_count, sizeof *names, hub_compare);
    lq_buffer_append_string(out, "[");
    for (size_t i = first; i < name_count && i - first < count; i++) {
        char path[2048];
        char name[1024];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        snprintf(name, sizeof name, "%s%s%s", below, below[0] == '\0' ? "" : "/", names[i]);
        lq_buffer_append_string(out, i > first ? "," : "");
        if (lq_path_is_dir(path)) {
            lq_buffer_printf(
                out, "{\"type\":\"directory\",\"oid\":\"00\",\"size\":0,\"path\":\"%s\"}", name);
        } else {
            hub_describe(path, name, out);
        }
    }
    lq_buffer_append_string(out, "]");
    *more = name_count > first && name_count - first > count;
    for (size_t i = 0; i < name_count; i++) {
        free(names[i]);
    }
}

static void hub_reply_with_file(int fd, const char *name)
{
    struct lq_buffer text;
    lq_buffer_init(&text);
    cr_assert_eq(lq_file_read(name, 1 << 24, &text, NULL), LQ_OK);
    hub_reply(fd, 200, "", lq_buffer_text(&text));
    lq_buffer_fini(&text);
}

static bool hub_reply_list(int fd, const char *folder, const char *below, const char *query,
                           enum hub_mood mood)
{
    struct lq_buffer out;
    bool more = false;
    char link[256] = "";
    size_t first = strncmp(query, "cursor=", 7) == 0 ? strtoul(query + 7, NULL, 10) : 0;
    if (mood == HUB_LISTING) {
        hub_reply_with_file(fd, "listing.json");
        return true;
    }
    if (mood == HUB_FLOODS) {
        server_say(fd, "HTTP/1.1 200 OK\r\n\r\n[", 20);
        for (int i = 0; i < 45000; i++) {
            server_say(fd,
                       "{\"type\":\"directory\",\"oid\":\"00\",\"size\":0,\"path\":\"x\"},"
                       "{\"type\":\"directory\",\"oid\":\"00\",\"size\":0,\"path\":\"x\"},"
                       "{\"type\":\"directory\",\"oid\":\"00\",\"size\":0,\"path\":\"x\"},"
                       "{\"type\":\"directory\",\"oid\":\"00\",\"size\":0,\"path\":\"x\"},"
                       "{\"type\":\"directory\",\"oid\":\"00\",\"size\":0,\"path\":\"x\"},"
                       "{\"type\":\"directory\",\"oid\":\"00\",\"size\":0,\"path\":\"x\"},"
                       "{\"type\":\"directory\",\"oid\":\"00\",\"size\":0,\"path\":\"x\"},"
                       "{\"type\":\"directory\",\"oid\":\"00\",\"size\":0,\"path\":\"x\"},",
                       8 * 52);
        }
        return false;
    }
    lq_buffer_init(&out);
    hub_list(folder, below, first, mood == HUB_PAGES ? 2 : 1000, &out, &more);
    if (more || mood == HUB_LOOPS) {
        /* Under a name that nobody should ever ask: only the query counts. */
        snprintf(link, sizeof link,
                 "Link: <https://hub.invalid/elsewhere?cursor=%zu&limit=2>; rel=\"next\"\r\n",
                 mood == HUB_LOOPS ? (size_t)0 : first + 2);
    }
    hub_reply(fd, 200, link, lq_buffer_text(&out));
    lq_buffer_fini(&out);
    return true;
}

/* ---- files ---- */

static void hub_say_slowly(int fd, const char *bytes, size_t size)
{
    enum { PIECE_BYTES = 1 << 16 };
    for (size_t at = 0; at < size; at += PIECE_BYTES) {
        int pause = atomic_load(&hub->slow_ms);
        server_say(fd, bytes + at, size - at < PIECE_BYTES ? size - at : PIECE_BYTES);
        if (pause > 0) {
            server_pause(pause);
        }
    }
}

static bool hub_reply_file(int fd, const char *path, const char *headers, enum hub_mood mood)
{
    enum { CUT_BYTES = 1 << 20 };
    struct lq_map map;
    char head[256];
    const char *range = strcasestr(headers, "\r\nrange: bytes=");
    uint64_t first = range == NULL || mood == HUB_NO_RANGES ? 0 : strtoull(range + 15, NULL, 10);
    if (lq_map_open(&map, path, LQ_EIO, NULL) != LQ_OK || first > map.size_bytes) {
        hub_reply(fd, 404, "X-Error-Code: EntryNotFound\r\n", "none");
        return true;
    }
    size_t size = (size_t)(map.size_bytes - first);
    char *bytes = malloc(size + 1);
    memcpy(bytes, map.data + first, size);
    bytes[size] = 'x';
    if (mood == HUB_ALTERS && size > 0) {
        bytes[size / 2] ^= 4;
    }
    size_t told = size - (mood == HUB_SHORTENS) + (mood == HUB_LENGTHENS);
    size_t sent = (mood == HUB_CUTS || mood == HUB_STALLS) && size > CUT_BYTES ? CUT_BYTES : told;
    snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", told);
    if (first > 0) {
        atomic_fetch_add(&hub->ranges, 1);
        snprintf(head, sizeof head,
                 "HTTP/1.1 206 Part\r\nContent-Length: %zu\r\n"
                 "Content-Range: bytes %llu-%llu/%llu\r\n\r\n",
                 told, (unsigned long long)(first + (mood == HUB_WRONG_RANGE)),
                 (unsigned long long)map.size_bytes - 1, (unsigned long long)map.size_bytes);
    }
    atomic_fetch_add(&hub->files, 1);
    server_say(fd, head, strlen(head));
    hub_say_slowly(fd, bytes, sent);
    free(bytes);
    lq_map_close(&map);
    if (mood == HUB_STALLS && sent < told) {
        server_pause(20000);
    }
    return sent == told;
}

static bool hub_cdn_answer(struct test_server *server, int fd, char *request)
{
    char *path = strchr(request, ' ') + 1;
    char *headers = path + strcspn(path, " ");
    *headers++ = '\0';
    if (strcasestr(headers, "\r\nauthorization:") != NULL ||
        strcasestr(headers, HUB_TOKEN) != NULL) {
        atomic_fetch_add(&hub->leaks, 1);
    }
    (void)server;
    return hub_reply_file(fd, path + 1, headers, (enum hub_mood)atomic_load(&hub->mood));
}

static bool hub_resolve(int fd, const char *path, const char *headers, enum hub_mood mood)
{
    char line[1400];
    if (mood == HUB_GATED) {
        hub_reply(fd, 401, "X-Error-Code: GatedRepo\r\n", "terms");
        return true;
    }
    if (access(path, F_OK) != 0) {
        hub_reply(fd, 404, "X-Error-Code: EntryNotFound\r\n", "none");
        return true;
    }
    if (!hub_is_large(path)) {
        return hub_reply_file(fd, path, headers, mood == HUB_NO_RANGES ? mood : HUB_GOOD);
    }
    if (mood == HUB_TO_A_FILE) {
        hub_reply(fd, 302, "Location: file:///etc/passwd\r\n", "");
        return true;
    }
    snprintf(line, sizeof line, "Location: http://localhost:%d/%s\r\nX-Linked-Size: 1\r\n",
             hub_cdn.port, path);
    hub_reply(fd, 302, line, "");
    return true;
}

/* ---- the hub ---- */

/* "/api/models/ORG/NAME/WHAT/REVISION/REST?QUERY", "/ORG/NAME/resolve/...", "/datasets/ORG/...". */
struct hub_request {
    bool is_api;
    char repository[600]; /* "hub/models/ORG/NAME" */
    char what[32];
    char revision[128];
    char rest[512];
    char query[256];
};

static bool hub_parse(const char *path, struct hub_request *out)
{
    char organisation[128] = "";
    char name[128] = "";
    *out = (struct hub_request){.is_api = strncmp(path, "/api/", 5) == 0};
    path += out->is_api ? 4 : 0;
    bool is_dataset = strncmp(path, "/datasets/", 10) == 0;
    path += is_dataset ? 9 : out->is_api ? 7 : 0;
    sscanf(path, "/%127[^/]/%127[^/]/%31[^/]/%127[^/?]/%511[^?]", organisation, name, out->what,
           out->revision, out->rest);
    const char *query = strchr(path, '?');
    snprintf(out->query, sizeof out->query, "%s", query == NULL ? "" : query + 1);
    snprintf(out->repository, sizeof out->repository, "hub/%s/%s/%s",
             is_dataset ? "datasets" : "models", organisation, name);
    return strstr(path, "..") == NULL && lq_path_is_dir(out->repository);
}

static bool hub_refuses(int fd, enum hub_mood mood, bool has_token)
{
    if (mood == HUB_BUSY && atomic_fetch_sub(&hub->busy_left, 1) > 0) {
        hub_reply(fd, 429, "Retry-After: 1\r\n", "busy");
        return true;
    }
    if (mood == HUB_FAILS) {
        hub_reply(fd, 503, "", "oh");
        return true;
    }
    if (mood == HUB_TOKEN_ONLY && !has_token) {
        hub_reply(fd, 401, "X-Error-Code: RepoNotFound\r\n", "who");
        return true;
    }
    return false;
}

static bool hub_answer(struct test_server *server, int fd, char *request)
{
    enum hub_mood mood = (enum hub_mood)atomic_load(&hub->mood);
    struct hub_request asked;
    char path[1200];
    char *url = strchr(request, ' ') + 1;
    char *headers = url + strcspn(url, " ");
    *headers++ = '\0';
    bool has_token = strcasestr(headers, "authorization: bearer " HUB_TOKEN "\r\n") != NULL;
    (void)server;
    atomic_fetch_add(&hub->requests, 1);
    atomic_fetch_add(&hub->tokens, has_token);
    if (hub_refuses(fd, mood, has_token)) {
        return true;
    }
    if (!hub_parse(url, &asked)) {
        hub_reply(fd, 404, "X-Error-Code: RepoNotFound\r\n", "none");
        return true;
    }
    snprintf(path, sizeof path, "%s%s%s", asked.repository, asked.rest[0] == '\0' ? "" : "/",
             asked.rest);
    if (strcmp(asked.revision, "main") != 0 && strcmp(asked.revision, HUB_COMMIT) != 0) {
        hub_reply(fd, 404, "X-Error-Code: RevisionNotFound\r\n", "none");
    } else if (strcmp(asked.what, "revision") == 0) {
        if (mood == HUB_COMMITS) {
            hub_reply_with_file(fd, "commit.json");
        } else {
            hub_reply(fd, 200, "", "{\"id\":\"x\",\"sha\":\"" HUB_COMMIT "\"}");
        }
    } else if (strcmp(asked.what, "tree") == 0) {
        if (!lq_path_is_dir(path)) {
            hub_reply(fd, 404, "X-Error-Code: EntryNotFound\r\n", "none");
            return true;
        }
        return hub_reply_list(fd, path, asked.rest, asked.query, mood);
    } else {
        return hub_resolve(fd, path, headers, mood);
    }
    return true;
}

/* The environment then leads to it, without a token. */
static void hub_start(void)
{
    char endpoint[64];
    hub = mmap(NULL, sizeof *hub, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(hub, MAP_FAILED);
    server_start_as(&hub_cdn, ".", hub_cdn_answer);
    server_start_as(&hub_server, ".", hub_answer);
    snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%d/", hub_server.port);
    setenv("HF_ENDPOINT", endpoint, 1);
    setenv("HF_HOME", "home", 1);
    static const char *const unset[] = {"HF_HUB_CACHE",
                                        "HUGGINGFACE_HUB_CACHE",
                                        "HF_TOKEN",
                                        "HF_TOKEN_PATH",
                                        "HF_HUB_OFFLINE",
                                        "TRANSFORMERS_OFFLINE",
                                        "HF_HUB_DOWNLOAD_TIMEOUT",
                                        "SSL_CERT_FILE",
                                        "http_proxy",
                                        "https_proxy",
                                        "ALL_PROXY",
                                        "all_proxy"};
    for (size_t i = 0; i < sizeof unset / sizeof *unset; i++) {
        unsetenv(unset[i]);
    }
}

static void hub_stop(void)
{
    server_stop(&hub_server);
    server_stop(&hub_cdn);
    munmap(hub, sizeof *hub);
}

static void hub_be(enum hub_mood mood)
{
    atomic_store(&hub->mood, (int)mood);
}

#endif
