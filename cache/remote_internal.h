/* What the files of the remote cache share; private to cache/remote*.c. Ownership and thread rule
 * as in remote.h. */
#ifndef LQ_CACHE_REMOTE_INTERNAL_H
#define LQ_CACHE_REMOTE_INTERNAL_H

#include <pthread.h>

#include "cache/digest_set.h"
#include "cache/http.h"
#include "cache/remote.h"

enum {
    LQ_REMOTE_ATTEMPTS_MAX = 3,
    LQ_REMOTE_BACKOFF_MS = 100, /* doubled and more after each attempt */
    /* A site is left alone after this much trouble in a row; waiting in vain counts double. */
    LQ_REMOTE_TROUBLE_MAX = 4,
    /* Below this size asking first costs as much as sending. */
    LQ_REMOTE_HEAD_BYTES_MIN = 16 * 1024,
};

enum lq_remote_warning {
    LQ_WARN_UNTRUSTED,
    LQ_WARN_SIGNATURE,
    LQ_WARN_ALTERED,
    LQ_WARN_TIMEOUT,
    LQ_WARN_ERROR,
    LQ_WARN_UPLOAD,
    LQ_WARN_KINDS,
};

struct lq_site {
    struct lq_remote_site options;
    char *base;  /* the URL without a slash at its end */
    char *shown; /* without user and password */
    atomic_bool reads_off;
    atomic_bool writes_off;
    atomic_bool takes_zstd;
    atomic_uint trouble;
    atomic_bool warned[LQ_WARN_KINDS];
    pthread_mutex_t mutex; /* the sets */
    struct lq_digest_set has;
    struct lq_digest_set bad; /* served wrong bytes: to be sent again whatever it says */
};

struct lq_connection {
    struct lq_http *http;
    struct lq_connection *next;
};

struct lq_remote {
    struct lq_remote_options options;
    struct lq_site *sites;
    size_t site_count;
    struct lq_pool *downloads;
    struct lq_pool *uploads;
    pthread_mutex_t mutex; /* counts, idle connections */
    struct lq_remote_counts counts;
    struct lq_connection *idle;
};

/* ---- remote.c ---- */

/* Adds to one of the counts: lq_remote_count(remote, &remote->counts.hits, 1). */
void lq_remote_count(struct lq_remote *remote, uint64_t *count, uint64_t by);
/* Shows the first warning of a kind for a site. */
void lq_remote_warn(struct lq_remote *remote, struct lq_site *site, enum lq_remote_warning kind,
                    const char *format, ...) LQ_PRINTF(4, 5);
bool lq_remote_cancelled(const struct lq_remote *remote);
bool lq_site_knows(struct lq_site *site, struct lq_digest_set *set, const struct lq_digest *digest);
void lq_site_learn(struct lq_site *site, struct lq_digest_set *set, const struct lq_digest *digest);

/* ---- remote_request.c ---- */

/* A request with its repetitions. What goes wrong is counted and warned about here; `what` names
 * the thing for messages. The response is the caller's to end. */
enum lq_http_outcome lq_site_request(struct lq_remote *remote, struct lq_site *site,
                                     struct lq_http_request *request,
                                     struct lq_http_response *response, const char *folder,
                                     const struct lq_digest *digest);

#endif
