#define CURL_DISABLE_TYPECHECK
#include <curl/curl.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/http.h"
#include "engine/base/fs.h"

/* ---- the library ---- */

static struct {
    CURLcode (*global_init)(long flags);
    curl_version_info_data *(*version_info)(CURLversion version);
    CURL *(*init)(void);
    void (*cleanup)(CURL *curl);
    void (*reset)(CURL *curl);
    CURLcode (*setopt)(CURL *curl, CURLoption option, ...);
    CURLcode (*perform)(CURL *curl);
    const char *(*strerror)(CURLcode code);
    struct curl_slist *(*slist_append)(struct curl_slist *list, const char *text);
    void (*slist_free_all)(struct curl_slist *list);
    bool loaded;
    bool decodes_zstd;
    char why[256];
} lib;

static pthread_once_t lib_once = PTHREAD_ONCE_INIT;

/* POSIX lets a function pointer be stored through a data pointer. */
static bool find(void *handle, const char *name, void *place)
{
    void *symbol = dlsym(handle, name);
    memcpy(place, &symbol, sizeof symbol);
    return symbol != NULL;
}

static void load_library(void)
{
    void *handle = dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        (void)snprintf(lib.why, sizeof lib.why, "%s", dlerror());
        return;
    }
    bool found = find(handle, "curl_global_init", &lib.global_init) &&
                 find(handle, "curl_version_info", &lib.version_info) &&
                 find(handle, "curl_easy_init", &lib.init) &&
                 find(handle, "curl_easy_cleanup", &lib.cleanup) &&
                 find(handle, "curl_easy_reset", &lib.reset) &&
                 find(handle, "curl_easy_setopt", &lib.setopt) &&
                 find(handle, "curl_easy_perform", &lib.perform) &&
                 find(handle, "curl_easy_strerror", &lib.strerror) &&
                 find(handle, "curl_slist_append", &lib.slist_append) &&
                 find(handle, "curl_slist_free_all", &lib.slist_free_all);
    if (!found || lib.global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        (void)snprintf(lib.why, sizeof lib.why, "libcurl.so.4 cannot be used");
        return;
    }
    const curl_version_info_data *info = lib.version_info(CURLVERSION_NOW);
    lib.decodes_zstd = (info->features & CURL_VERSION_ZSTD) != 0;
    lib.loaded = true;
}

struct lq_http {
    CURL *curl;
    const struct lq_http_request *request;
    struct lq_http_response *response;
    uint64_t sent;
    uint64_t window_ns; /* when we last looked whether anything moves, and what had moved then */
    uint64_t window_bytes;
    bool stalled;
    char message[CURL_ERROR_SIZE];
};

enum lq_status lq_http_open(struct lq_http **out, struct lq_error *err)
{
    *out = NULL;
    (void)pthread_once(&lib_once, load_library);
    if (!lib.loaded) {
        return lq_error_set(err, LQ_EUNSUPPORTED, "%s; install the package libcurl4", lib.why);
    }
    struct lq_http *http = calloc(1, sizeof *http);
    if (http != NULL) {
        http->curl = lib.init();
    }
    if (http == NULL || http->curl == NULL) {
        free(http);
        return lq_error_nomem(err, "a connection");
    }
    *out = http;
    return LQ_OK;
}

void lq_http_close(struct lq_http *http)
{
    if (http != NULL) {
        lib.cleanup(http->curl);
        free(http);
    }
}

/* ---- what curl calls ---- */

static size_t take_header(char *data, size_t size, size_t count, void *user)
{
    struct lq_http *http = user;
    return lq_http_response_header(http->response, data, size * count) ? size * count : 0;
}

static size_t take_body(char *data, size_t size, size_t count, void *user)
{
    struct lq_http *http = user;
    return lq_http_response_body(http->response, data, size * count) ? size * count : 0;
}

static size_t give_body(char *data, size_t size, size_t count, void *user)
{
    struct lq_http *http = user;
    const struct lq_http_request *request = http->request;
    uint64_t left = request->size_bytes - http->sent;
    size_t step = left < size * count ? (size_t)left : size * count;
    if (request->reader == NULL) {
        memcpy(data, (const char *)request->data + http->sent, step);
    } else if (step > 0 && lq_blob_read(request->reader, request->offset + http->sent, data, step,
                                        &http->response->err) != LQ_OK) {
        http->response->failed = true;
        return CURL_READFUNC_ABORT;
    }
    http->sent += step;
    return step;
}

/* curl rewinds when a kept connection turns out to be dead. */
static int rewind_body(void *user, curl_off_t offset, int origin)
{
    struct lq_http *http = user;
    if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > http->request->size_bytes) {
        return CURL_SEEKFUNC_FAIL;
    }
    http->sent = (uint64_t)offset;
    return CURL_SEEKFUNC_OK;
}

/* A server that moves less than 256 bytes a second hangs. curl's own limit looks at averages that a
 * burst at the beginning keeps up for long. */
static bool is_stalled(struct lq_http *http, uint64_t bytes)
{
    uint64_t now = lq_clock_ns();
    if (now - http->window_ns < http->request->timeout_seconds * (uint64_t)1000000000) {
        return false;
    }
    http->stalled = bytes - http->window_bytes < http->request->timeout_seconds * (uint64_t)256;
    http->window_ns = now;
    http->window_bytes = bytes;
    return http->stalled;
}

static int watch(void *user, curl_off_t download_total, curl_off_t downloaded,
                 curl_off_t upload_total, curl_off_t uploaded)
{
    struct lq_http *http = user;
    (void)download_total;
    (void)upload_total;
    bool cancelled = http->request->cancel != NULL && atomic_load(http->request->cancel);
    return cancelled || is_stalled(http, (uint64_t)downloaded + (uint64_t)uploaded) ? 1 : 0;
}

/* ---- one request ---- */

static void set_common(struct lq_http *http)
{
    const struct lq_http_request *request = http->request;
    CURL *curl = http->curl;
    const char *netrc = getenv("NETRC");
    bool encrypted = strncmp(request->url, "https:", 6) == 0;
    bool follows = request->method != LQ_HTTP_PUT;
    long connect_ms = (long)request->timeout_seconds * 500;
    lib.setopt(curl, CURLOPT_URL, request->url);
    lib.setopt(curl, CURLOPT_NOSIGNAL, 1L);
    lib.setopt(curl, CURLOPT_ERRORBUFFER, http->message);
    lib.setopt(curl, CURLOPT_USERAGENT, "lqbuild");
    lib.setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    lib.setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, encrypted ? "https" : "http,https");
    lib.setopt(curl, CURLOPT_FOLLOWLOCATION, follows ? 1L : 0L);
    lib.setopt(curl, CURLOPT_MAXREDIRS, 5L);
    lib.setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, connect_ms);
    if (request->ca_file != NULL) {
        lib.setopt(curl, CURLOPT_CAINFO, request->ca_file);
        lib.setopt(curl, CURLOPT_CAPATH, (const char *)NULL);
    }
    lib.setopt(curl, CURLOPT_NETRC, (long)CURL_NETRC_OPTIONAL);
    if (netrc != NULL && netrc[0] != '\0') {
        lib.setopt(curl, CURLOPT_NETRC_FILE, netrc);
    }
    if (request->token != NULL) {
        lib.setopt(curl, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
        lib.setopt(curl, CURLOPT_HTTPAUTH, (long)CURLAUTH_BEARER);
        lib.setopt(curl, CURLOPT_XOAUTH2_BEARER, request->token);
    }
    lib.setopt(curl, CURLOPT_HEADERFUNCTION, take_header);
    lib.setopt(curl, CURLOPT_HEADERDATA, http);
    lib.setopt(curl, CURLOPT_WRITEFUNCTION, take_body);
    lib.setopt(curl, CURLOPT_WRITEDATA, http);
    lib.setopt(curl, CURLOPT_XFERINFOFUNCTION, watch);
    lib.setopt(curl, CURLOPT_XFERINFODATA, http);
    lib.setopt(curl, CURLOPT_NOPROGRESS, 0L);
}

static struct curl_slist *set_method(struct lq_http *http)
{
    const struct lq_http_request *request = http->request;
    CURL *curl = http->curl;
    char line[64];
    struct curl_slist *headers = NULL;
    if (request->method == LQ_HTTP_HEAD) {
        lib.setopt(curl, CURLOPT_NOBODY, 1L);
    }
    if (request->method == LQ_HTTP_GET && http->response->range_from > 0) {
        (void)snprintf(line, sizeof line, "%llu-", (unsigned long long)http->response->range_from);
        lib.setopt(curl, CURLOPT_RANGE, line);
    }
    if (request->method == LQ_HTTP_GET && request->takes_zstd && lib.decodes_zstd) {
        lib.setopt(curl, CURLOPT_ACCEPT_ENCODING, "zstd");
    }
    if (request->method == LQ_HTTP_PUT) {
        lib.setopt(curl, CURLOPT_UPLOAD, 1L);
        lib.setopt(curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)request->size_bytes);
        lib.setopt(curl, CURLOPT_READFUNCTION, give_body);
        lib.setopt(curl, CURLOPT_READDATA, http);
        lib.setopt(curl, CURLOPT_SEEKFUNCTION, rewind_body);
        lib.setopt(curl, CURLOPT_SEEKDATA, http);
        /* An answer to "Expect: 100-continue" costs a round trip, and many servers never give it.
         */
        headers = lib.slist_append(headers, "Expect:");
        headers = lib.slist_append(headers, "Content-Type: application/octet-stream");
        if (request->plain_bytes > 0) {
            (void)snprintf(line, sizeof line, "X-Digest-SizeBytes: %llu",
                           (unsigned long long)request->plain_bytes);
            headers = lib.slist_append(headers, "Content-Encoding: zstd");
            headers = lib.slist_append(headers, line);
        }
        lib.setopt(curl, CURLOPT_HTTPHEADER, headers);
    }
    return headers;
}

static enum lq_http_outcome judge(struct lq_http *http, CURLcode code)
{
    struct lq_http_response *response = http->response;
    switch (code) {
    case CURLE_OK:
        return lq_http_response_end(response, true);
    case CURLE_OPERATION_TIMEDOUT:
        return LQ_HTTP_TIMEOUT;
    case CURLE_ABORTED_BY_CALLBACK:
        return response->failed ? LQ_HTTP_LOCAL
               : http->stalled  ? LQ_HTTP_TIMEOUT
                                : LQ_HTTP_CANCELLED;
    case CURLE_PARTIAL_FILE:
    case CURLE_WRITE_ERROR:
        return lq_http_response_end(response, false);
    case CURLE_OUT_OF_MEMORY:
        return LQ_HTTP_LOCAL;
    case CURLE_TOO_MANY_REDIRECTS:
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
        return LQ_HTTP_REFUSED;
    default:
        return LQ_HTTP_BROKEN;
    }
}

static void explain(struct lq_http *http, CURLcode code, enum lq_http_outcome outcome)
{
    struct lq_http_response *response = http->response;
    if (response->failed) {
        return;
    }
    if (outcome == LQ_HTTP_ALTERED) {
        (void)lq_error_set(&response->err, LQ_EFORMAT, "sent bytes that do not have their digest");
    } else if (outcome == LQ_HTTP_TRUNCATED) {
        (void)lq_error_set(&response->err, LQ_EFORMAT, "stopped in the middle of an answer");
    } else if (code == CURLE_UNSUPPORTED_PROTOCOL) {
        (void)lq_error_set(&response->err, LQ_EFAIL, "redirects to where it is not followed: %s",
                           http->message);
    } else if (http->stalled) {
        (void)lq_error_set(&response->err, LQ_EFAIL, "nothing moved for %u s",
                           http->request->timeout_seconds);
    } else if (code != CURLE_OK && code != CURLE_WRITE_ERROR && code != CURLE_PARTIAL_FILE) {
        (void)lq_error_set(&response->err, LQ_EFAIL, "%s",
                           http->message[0] != '\0' ? http->message : lib.strerror(code));
    } else {
        (void)lq_error_set(&response->err, LQ_EFAIL, "answered %u", response->status);
    }
}

enum lq_http_outcome lq_http_perform(struct lq_http *http, const struct lq_http_request *request,
                                     struct lq_http_response *response)
{
    http->request = request;
    http->response = response;
    http->sent = 0;
    http->stalled = false;
    http->window_ns = lq_clock_ns();
    http->window_bytes = 0;
    http->message[0] = '\0';
    lq_http_response_begin(response);
    response->wants_body = request->method == LQ_HTTP_GET;
    lib.reset(http->curl);
    set_common(http);
    struct curl_slist *headers = set_method(http);
    CURLcode code = lib.perform(http->curl);
    enum lq_http_outcome outcome = judge(http, code);
    if (outcome != LQ_HTTP_OK && outcome != LQ_HTTP_MISSING) {
        explain(http, code, outcome);
    }
    lib.slist_free_all(headers);
    return outcome;
}
