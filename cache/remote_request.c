/* One request to one site: a connection, repetitions with growing pauses, and what its failure
 * means. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cache/remote_internal.h"

static struct lq_connection *take_connection(struct lq_remote *remote, struct lq_error *err)
{
    (void)pthread_mutex_lock(&remote->mutex);
    struct lq_connection *connection = remote->idle;
    if (connection != NULL) {
        remote->idle = connection->next;
    }
    (void)pthread_mutex_unlock(&remote->mutex);
    if (connection != NULL) {
        return connection;
    }
    connection = calloc(1, sizeof *connection);
    if (connection == NULL) {
        (void)lq_error_nomem(err, "a connection");
        return NULL;
    }
    if (lq_http_open(&connection->http, err) != LQ_OK) {
        free(connection);
        return NULL;
    }
    return connection;
}

static void give_connection(struct lq_remote *remote, struct lq_connection *connection)
{
    (void)pthread_mutex_lock(&remote->mutex);
    connection->next = remote->idle;
    remote->idle = connection;
    (void)pthread_mutex_unlock(&remote->mutex);
}

static void pause_ms(const struct lq_remote *remote, unsigned wait_ms)
{
    enum { STEP_MS = 50 };
    for (unsigned waited = 0; waited < wait_ms && !lq_remote_cancelled(remote); waited += STEP_MS) {
        struct timespec step = {.tv_nsec = (long)STEP_MS * 1000000};
        (void)nanosleep(&step, NULL);
    }
}

static void switch_off(struct lq_remote *remote, struct lq_site *site, bool reads, const char *why)
{
    bool was_off = atomic_exchange(&site->writes_off, true);
    if (reads) {
        was_off = atomic_exchange(&site->reads_off, true);
    }
    if (!was_off && remote->options.warn != NULL) {
        char message[LQ_ERROR_BYTES];
        (void)snprintf(message, sizeof message, "%s (%s): %.1000s; %s from now on",
                       site->options.name, site->shown, why,
                       reads ? "it is not asked any more" : "nothing is sent to it");
        remote->options.warn(remote->options.warn_user, message);
    }
}

static void add_trouble(struct lq_remote *remote, struct lq_site *site, unsigned by,
                        const char *why)
{
    if (atomic_fetch_add(&site->trouble, by) + by >= LQ_REMOTE_TROUBLE_MAX) {
        switch_off(remote, site, true, why);
    }
}

/* Counts and warns; the request will not be repeated. */
static void note_failure(struct lq_remote *remote, struct lq_site *site,
                         enum lq_http_outcome outcome, bool sends,
                         const struct lq_http_response *response)
{
    struct lq_remote_counts *counts = &remote->counts;
    const char *why = response->err.message;
    switch (outcome) {
    case LQ_HTTP_TIMEOUT:
        lq_remote_count(remote, &counts->timeouts, 1);
        lq_remote_warn(remote, site, LQ_WARN_TIMEOUT, "no answer in time: %s", why);
        add_trouble(remote, site, 2, why);
        break;
    case LQ_HTTP_BROKEN:
        lq_remote_count(remote, &counts->errors, 1);
        lq_remote_warn(remote, site, LQ_WARN_ERROR, "%s", why);
        add_trouble(remote, site, 1, why);
        break;
    case LQ_HTTP_TRUNCATED:
    case LQ_HTTP_ALTERED:
        lq_remote_count(remote, &counts->altered, 1);
        lq_remote_warn(remote, site, LQ_WARN_ALTERED, "it %s; the answer is not used", why);
        add_trouble(remote, site, 1, why);
        break;
    case LQ_HTTP_DENIED:
        lq_remote_count(remote, sends ? &counts->upload_errors : &counts->errors, 1);
        switch_off(remote, site, !sends,
                   response->status == 401 ? "it wants credentials that it did not get or know "
                                             "(status 401)"
                                           : "it does not allow that (status 403)");
        break;
    case LQ_HTTP_REFUSED:
        lq_remote_count(remote, sends ? &counts->upload_errors : &counts->errors, 1);
        if (sends && (response->status == 405 || response->status == 501)) {
            switch_off(remote, site, false, "it does not take uploads");
        } else {
            lq_remote_warn(remote, site, sends ? LQ_WARN_UPLOAD : LQ_WARN_ERROR, "%s", why);
            add_trouble(remote, site, sends ? 0 : 1, why);
        }
        break;
    case LQ_HTTP_LOCAL:
        lq_remote_count(remote, &counts->errors, 1);
        lq_remote_warn(remote, site, LQ_WARN_ERROR, "%s", why);
        break;
    default:
        break;
    }
}

static bool may_help(enum lq_http_outcome outcome)
{
    return outcome == LQ_HTTP_BROKEN || outcome == LQ_HTTP_TRUNCATED;
}

enum lq_http_outcome lq_site_request(struct lq_remote *remote, struct lq_site *site,
                                     struct lq_http_request *request,
                                     struct lq_http_response *response, const char *folder,
                                     const struct lq_digest *digest)
{
    bool sends = request->method == LQ_HTTP_PUT;
    enum lq_http_outcome outcome = LQ_HTTP_LOCAL;
    char hex[LQ_DIGEST_HEX_BYTES];
    size_t url_bytes = strlen(site->base) + strlen(folder) + LQ_DIGEST_HEX_BYTES + 2;
    char *url = malloc(url_bytes);
    struct lq_connection *connection = url == NULL ? NULL : take_connection(remote, &response->err);
    if (connection == NULL) {
        free(url);
        switch_off(remote, site, true, url == NULL ? "memory is out" : response->err.message);
        return LQ_HTTP_LOCAL;
    }
    (void)snprintf(url, url_bytes, "%s/%s/%s", site->base, folder, lq_digest_to_hex(digest, hex));
    request->url = url;
    request->token = site->options.token;
    request->ca_file = site->options.ca_file;
    request->timeout_seconds = site->options.timeout_seconds;
    request->cancel = remote->options.cancel;
    request->takes_zstd = site->options.compression != LQ_COMPRESS_NONE;
    for (unsigned attempt = 0;;) {
        outcome = lq_http_perform(connection->http, request, response);
        lq_remote_count(remote, &remote->counts.requests, 1);
        lq_remote_count(remote, &remote->counts.bytes_received, response->received);
        attempt++;
        if (!may_help(outcome) || attempt == LQ_REMOTE_ATTEMPTS_MAX ||
            lq_remote_cancelled(remote) || atomic_load(&site->reads_off)) {
            break;
        }
        pause_ms(remote, (unsigned)LQ_REMOTE_BACKOFF_MS << (2 * (attempt - 1)));
    }
    if (response->takes_zstd && site->options.compression == LQ_COMPRESS_AUTO) {
        atomic_store(&site->takes_zstd, true);
    }
    if (outcome == LQ_HTTP_OK || outcome == LQ_HTTP_MISSING) {
        atomic_store(&site->trouble, 0);
    } else {
        note_failure(remote, site, outcome, sends, response);
    }
    if (sends && outcome == LQ_HTTP_OK) {
        lq_remote_count(remote, &remote->counts.bytes_sent, request->size_bytes);
    }
    give_connection(remote, connection);
    free(url);
    return outcome;
}
