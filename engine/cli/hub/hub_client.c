#include "engine/cli/hub/hub_client.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cache/http.h"
#include "engine/base/limits.h"
#include "engine/base/text.h"

enum {
    ATTEMPTS_MAX = 5, /* that bring nothing, one after the other */
    PAUSE_MS_MIN = 250,
    WAIT_SECONDS_MAX = 120, /* a server that wants more is told to people instead */
};

/* ---- connections ---- */

struct connection {
    struct lq_http *http;
    struct connection *next;
};

struct lq_hub {
    struct lq_hub_options options;
    pthread_mutex_t mutex;
    struct connection *idle;
};

enum lq_status lq_hub_open(struct lq_hub **out, const struct lq_hub_options *options,
                           struct lq_error *err)
{
    *out = calloc(1, sizeof **out);
    if (*out == NULL) {
        return lq_error_nomem(err, "a connection");
    }
    (*out)->options = *options;
    (void)pthread_mutex_init(&(*out)->mutex, NULL);
    return LQ_OK;
}

void lq_hub_close(struct lq_hub *hub)
{
    if (hub == NULL) {
        return;
    }
    while (hub->idle != NULL) {
        struct connection *connection = hub->idle;
        hub->idle = connection->next;
        lq_http_close(connection->http);
        free(connection);
    }
    (void)pthread_mutex_destroy(&hub->mutex);
    free(hub);
}

static enum lq_status take_connection(struct lq_hub *hub, struct connection **out,
                                      struct lq_error *err)
{
    (void)pthread_mutex_lock(&hub->mutex);
    *out = hub->idle;
    if (*out != NULL) {
        hub->idle = (*out)->next;
    }
    (void)pthread_mutex_unlock(&hub->mutex);
    if (*out != NULL) {
        return LQ_OK;
    }
    *out = calloc(1, sizeof **out);
    if (*out == NULL) {
        return lq_error_nomem(err, "a connection");
    }
    enum lq_status status = lq_http_open(&(*out)->http, err);
    if (status != LQ_OK) {
        free(*out);
        *out = NULL;
    }
    return status;
}

static void give_connection(struct lq_hub *hub, struct connection *connection)
{
    (void)pthread_mutex_lock(&hub->mutex);
    connection->next = hub->idle;
    hub->idle = connection;
    (void)pthread_mutex_unlock(&hub->mutex);
}

/* ---- what failed ---- */

/* What a request is about, for messages. */
struct subject {
    const struct lq_hub_name *name;
    const char *path; /* of a file or folder; NULL: the repository as a whole */
};

static enum lq_status set_denied(const struct lq_hub *hub, const struct subject *subject,
                                 const struct lq_http_response *response, struct lq_error *err)
{
    const char *repository = subject->name->repository;
    const char *kind = subject->name->is_dataset ? "data set" : "model";
    const char *folder = subject->name->is_dataset ? "datasets/" : "";
    bool has_token = hub->options.token != NULL;
    if (strcmp(response->code, "GatedRepo") == 0) {
        return lq_error_set(err, LQ_EAUTH,
                            "%s: the terms of this %s have to be accepted first%s; do so at "
                            "%s/%s%s%s",
                            repository, kind,
                            has_token ? ", by the account of the token that was sent" : "",
                            hub->options.endpoint, folder, repository,
                            has_token ? "" : ", and set HF_TOKEN to a token of that account");
    }
    if (has_token) {
        return lq_error_set(err, LQ_EAUTH,
                            "%s: %s does not give it for the token that was sent (status %u); "
                            "check HF_TOKEN, and whether its account may read this %s",
                            repository, hub->options.endpoint, response->status, kind);
    }
    return lq_error_set(err, LQ_EAUTH,
                        "%s: there is no such %s at %s, or it is private (status %u); check the "
                        "name, or set HF_TOKEN to a token that may read it",
                        repository, kind, hub->options.endpoint, response->status);
}

static enum lq_status set_missing(const struct lq_hub *hub, const struct subject *subject,
                                  const struct lq_http_response *response, struct lq_error *err)
{
    const struct lq_hub_name *name = subject->name;
    enum lq_status status = name->is_dataset ? LQ_ECALIBRATION : LQ_EMODEL;
    if (strcmp(response->code, "RevisionNotFound") == 0) {
        return lq_error_set(err, status, "%s: %s has no revision '%s' of it", name->repository,
                            hub->options.endpoint, name->revision);
    }
    if (subject->path != NULL && subject->path[0] != '\0') {
        return lq_error_set(err, status, "%s: %s has no '%s' in it (revision %s)", name->repository,
                            hub->options.endpoint, subject->path, name->revision);
    }
    return lq_error_set(err, status, "%s: there is no such %s at %s; check its name",
                        name->repository, name->is_dataset ? "data set" : "model",
                        hub->options.endpoint);
}

/* Turns an outcome into a status with its sentence. */
static enum lq_status explain(const struct lq_hub *hub, const struct subject *subject,
                              enum lq_http_outcome outcome, const struct lq_http_response *response,
                              struct lq_error *err)
{
    const char *repository = subject->name->repository;
    const char *endpoint = hub->options.endpoint;
    switch (outcome) {
    case LQ_HTTP_OK:
        return LQ_OK;
    case LQ_HTTP_MISSING:
        return set_missing(hub, subject, response, err);
    case LQ_HTTP_DENIED:
        return set_denied(hub, subject, response, err);
    case LQ_HTTP_LOCAL:
        return lq_error_set(err, response->err.status == LQ_OK ? LQ_ENOMEM : response->err.status,
                            "%s", response->err.message);
    case LQ_HTTP_CANCELLED:
        return lq_error_set(err, LQ_ECANCELLED, "stopped; the same command goes on from here");
    case LQ_HTTP_ALTERED:
        return lq_error_set(err, LQ_EFORMAT, "%s: %s sent more than it announced", repository,
                            endpoint);
    case LQ_HTTP_REFUSED:
        return lq_error_set(err, LQ_EFAIL, "%s: %s %s", repository, endpoint,
                            response->err.message);
    default:
        break;
    }
    if (response->wait_seconds > WAIT_SECONDS_MAX) {
        return lq_error_set(err, LQ_EFAIL, "%s: %s asks to be left alone for %u s", repository,
                            endpoint, response->wait_seconds);
    }
    return lq_error_set(err, LQ_EFAIL,
                        "%s: cannot load from %s: %s; what has arrived is kept, so try again",
                        repository, endpoint, response->err.message);
}

/* ---- one request, repeated ---- */

static bool is_stopped(const struct lq_hub *hub, const struct lq_hub_sink *sink)
{
    return atomic_load(hub->options.cancel) ||
           (sink != NULL && sink->stopped != NULL && sink->stopped(sink->user));
}

static void pause_ms(const struct lq_hub *hub, const struct lq_hub_sink *sink, unsigned wait_ms)
{
    enum { STEP_MS = 50 };
    for (unsigned waited = 0; waited < wait_ms && !is_stopped(hub, sink); waited += STEP_MS) {
        struct timespec step = {.tv_nsec = (long)STEP_MS * 1000000};
        (void)nanosleep(&step, NULL);
    }
}

static bool may_pass(enum lq_http_outcome outcome, const struct lq_http_response *response)
{
    return (outcome == LQ_HTTP_BROKEN || outcome == LQ_HTTP_TRUNCATED ||
            outcome == LQ_HTTP_TIMEOUT) &&
           response->wait_seconds <= WAIT_SECONDS_MAX;
}

/* What is left of a body has been asked for with response->range_from; `sink` may be NULL. */
static enum lq_status ask(struct lq_hub *hub, const struct subject *subject, const char *url,
                          struct lq_http_response *response, const struct lq_hub_sink *sink,
                          uint64_t size_bytes, struct lq_error *err)
{
    struct connection *connection = NULL;
    enum lq_http_outcome outcome = LQ_HTTP_LOCAL;
    const struct lq_http_request request = {
        .method = LQ_HTTP_GET,
        .url = url,
        .token = hub->options.token,
        .ca_file = hub->options.ca_file,
        .timeout_seconds = hub->options.timeout_seconds,
        .cancel = hub->options.cancel,
    };
    enum lq_status status = take_connection(hub, &connection, err);
    if (status != LQ_OK) {
        return status;
    }
    for (unsigned attempt = 0; attempt < ATTEMPTS_MAX;) {
        uint64_t before = sink == NULL ? 0 : sink->received;
        if (sink != NULL) {
            response->range_from = before;
            response->size_max = size_bytes - before;
        }
        outcome = lq_http_perform(connection->http, &request, response);
        /* A part that breaks off is progress, when one can go on from there. */
        attempt = sink != NULL && sink->received > before ? 0 : attempt + 1;
        if (!may_pass(outcome, response) || is_stopped(hub, sink) ||
            (sink != NULL && sink->received == size_bytes)) {
            break;
        }
        if (attempt < ATTEMPTS_MAX) {
            unsigned shift = attempt == 0 ? 0 : attempt - 1;
            pause_ms(hub, sink,
                     response->wait_seconds > 0 ? response->wait_seconds * 1000
                                                : (unsigned)PAUSE_MS_MIN << shift);
        }
    }
    give_connection(hub, connection);
    /* However the connection ended. */
    if (sink != NULL && sink->received == size_bytes && may_pass(outcome, response)) {
        outcome = LQ_HTTP_OK;
    }
    /* Whatever went wrong before, it is over because somebody wanted that. */
    if (outcome != LQ_HTTP_OK && is_stopped(hub, sink)) {
        outcome = LQ_HTTP_CANCELLED;
    }
    return explain(hub, subject, outcome, response, err);
}

/* ---- URLs ---- */

static void append_escaped(struct lq_buffer *url, const char *path)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                "0123456789-._~/";
    for (; *path != '\0'; path++) {
        if (strchr(plain, *path) != NULL) {
            lq_buffer_append_char(url, *path);
        } else {
            lq_buffer_printf(url, "%%%02X", (unsigned)(unsigned char)*path);
        }
    }
}

/* "ENDPOINT/api/models/org/name/WHAT/REVISION". */
static void begin_api_url(const struct lq_hub *hub, const struct lq_hub_name *name,
                          const char *what, const char *revision, struct lq_buffer *url)
{
    lq_buffer_init(url);
    lq_buffer_printf(url, "%s/api/%s/%s/%s/%s", hub->options.endpoint,
                     name->is_dataset ? "datasets" : "models", name->repository, what, revision);
}

/* Asks for a document that fits into memory. */
static enum lq_status ask_document(struct lq_hub *hub, const struct subject *subject,
                                   const struct lq_buffer *url, struct lq_http_response *response,
                                   struct lq_error *err)
{
    *response = (struct lq_http_response){.size_max = LQ_HUB_PAGE_BYTES_MAX};
    return url->failed ? lq_error_nomem(err, "a URL")
                       : ask(hub, subject, lq_buffer_text(url), response, NULL, 0, err);
}

enum lq_status lq_hub_find_commit(struct lq_hub *hub, const struct lq_hub_name *name,
                                  char commit[LQ_HUB_COMMIT_BYTES], struct lq_error *err)
{
    struct lq_buffer url;
    struct lq_http_response response;
    const struct subject subject = {.name = name};
    if (lq_hub_is_commit(name->revision)) {
        memcpy(commit, name->revision, LQ_HUB_COMMIT_BYTES);
        return LQ_OK;
    }
    /* Nothing else of the long answer is wanted; a server that does not know this ignores it. */
    begin_api_url(hub, name, "revision", name->revision, &url);
    lq_buffer_append_string(&url, "?expand=sha");
    enum lq_status status = ask_document(hub, &subject, &url, &response, err);
    if (status == LQ_OK) {
        status = lq_hub_commit_parse(lq_buffer_text(&response.body), response.body.size_bytes,
                                     lq_buffer_text(&url), commit, err);
    }
    lq_http_response_fini(&response);
    lq_buffer_fini(&url);
    return status;
}

enum lq_status lq_hub_list(struct lq_hub *hub, const struct lq_hub_name *name, const char *commit,
                           const char *folder, struct lq_arena *arena,
                           struct lq_hub_listing *listing, struct lq_error *err)
{
    struct lq_buffer url;
    struct lq_http_response response;
    const struct subject subject = {name, folder};
    enum lq_status status = LQ_OK;
    bool more = true;
    begin_api_url(hub, name, "tree", commit, &url);
    if (folder[0] != '\0') {
        lq_buffer_append_char(&url, '/');
        append_escaped(&url, folder);
    }
    size_t base_length = url.size_bytes;
    for (int page = 0; more && status == LQ_OK; page++) {
        status = ask_document(hub, &subject, &url, &response, err);
        if (status == LQ_OK) {
            status = lq_hub_listing_add(listing, lq_buffer_text(&response.body),
                                        response.body.size_bytes, lq_buffer_text(&url), arena, err);
        }
        more = response.next[0] != '\0';
        const char *query = more ? lq_hub_page_query(response.next) : NULL;
        if (status == LQ_OK && more && (query == NULL || page + 1 == LQ_HUB_PAGES_MAX)) {
            status = lq_error_set(err, LQ_EFORMAT, "%s: its list of files %s", name->repository,
                                  query == NULL ? "continues where no URL leads" : "has no end");
        }
        if (status == LQ_OK && more) {
            url.size_bytes = base_length;
            lq_buffer_printf(&url, "?%s", query);
        }
        lq_http_response_fini(&response);
    }
    lq_buffer_fini(&url);
    return status;
}

/* ---- files ---- */

static bool take_counted(void *user, const void *data, size_t size_bytes, struct lq_error *err)
{
    struct lq_hub_sink *sink = user;
    if (!sink->take(sink->user, data, size_bytes, err)) {
        return false;
    }
    sink->received += size_bytes;
    return true;
}

enum lq_status lq_hub_read(struct lq_hub *hub, const struct lq_hub_name *name, const char *commit,
                           const struct lq_hub_file *file, struct lq_hub_sink *sink,
                           struct lq_error *err)
{
    struct lq_buffer url;
    const struct subject subject = {name, file->path};
    lq_buffer_init(&url);
    lq_buffer_printf(&url, "%s/%s%s/resolve/%s/", hub->options.endpoint,
                     name->is_dataset ? "datasets/" : "", name->repository, commit);
    append_escaped(&url, file->path);
    enum lq_status status = url.failed ? lq_error_nomem(err, "a URL") : LQ_OK;
    /* Twice at most: a server that cannot send parts sends the whole. */
    for (int round = 0; round < 2 && status == LQ_OK && sink->received < file->size_bytes;
         round++) {
        struct lq_http_response response = {.take = take_counted, .take_user = sink};
        status = ask(hub, &subject, lq_buffer_text(&url), &response, sink, file->size_bytes, err);
        if (status != LQ_OK && response.lacks_range && round == 0) {
            lq_error_clear(err);
            sink->received = 0;
            status = sink->restart(sink->user, err);
        }
        lq_http_response_fini(&response);
    }
    if (status == LQ_OK && sink->received < file->size_bytes) {
        status = lq_error_set(err, LQ_EFORMAT, "%s: %s is %llu bytes long, but %s sends only %llu",
                              name->repository, file->path, (unsigned long long)file->size_bytes,
                              hub->options.endpoint, (unsigned long long)sink->received);
    }
    lq_buffer_fini(&url);
    return status;
}
