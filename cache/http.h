/* HTTP requests, by libcurl. The library is loaded when the first connection is opened, so that
 * whoever uses no remote does not pay for it, and need not have it. One connection makes one
 * request after another and keeps its sockets open in between. Thread rule: a connection belongs to
 * one thread at a time; open is thread-safe. */
#ifndef LQ_CACHE_HTTP_H
#define LQ_CACHE_HTTP_H

#include <stdatomic.h>

#include "cache/http_response.h"

struct lq_http;

enum lq_http_method { LQ_HTTP_GET, LQ_HTTP_HEAD, LQ_HTTP_PUT };

struct lq_http_request {
    enum lq_http_method method;
    const char *url;
    const char *token;   /* bearer; NULL: what ~/.netrc or the URL says */
    const char *ca_file; /* PEM; NULL: the system's list */
    unsigned timeout_seconds;
    atomic_bool *cancel; /* may be NULL */
    bool takes_zstd;     /* let the server compress what it sends */
    /* PUT: memory, or `size_bytes` of a blob from `offset` on. */
    const void *data;
    struct lq_blob_reader *reader;
    uint64_t offset;
    uint64_t size_bytes;
    uint64_t plain_bytes; /* `data` is zstd of this many bytes; 0: it is not compressed */
};

/* LQ_EUNSUPPORTED when libcurl is not there; LQ_ENOMEM. */
enum lq_status lq_http_open(struct lq_http **out, struct lq_error *err);
void lq_http_close(struct lq_http *http);
/* Performs one request; of a GET only the bytes from response->range_from on. Redirects are
 * followed, five at most, never from https to http, and the token goes to no other host, port or
 * scheme. What went wrong is in response->err for every outcome but OK and MISSING. */
enum lq_http_outcome lq_http_perform(struct lq_http *http, const struct lq_http_request *request,
                                     struct lq_http_response *response);

#endif
