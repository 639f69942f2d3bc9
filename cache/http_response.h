/* What a server answers, judged while it arrives: status lines, the few headers that matter, and
 * the body, which goes to memory or into a blob of the cache. Lines and bytes come from
 * http_curl.c, or from a fuzzer. Nothing the server says is believed: sizes have limits, a body for
 * a digest is hashed on its way, and a body longer than expected ends the transfer. A body may also
 * go to a function of the caller's, and be the rest of a file that was asked for from some byte on.
 * Thread rule: one response belongs to one thread. Limits: LQ_HTTP_NEXT_BYTES. */
#ifndef LQ_CACHE_HTTP_RESPONSE_H
#define LQ_CACHE_HTTP_RESPONSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/cache.h"
#include "engine/base/buffer.h"

enum lq_http_outcome {
    LQ_HTTP_OK,        /* 2xx, and the body is what was expected */
    LQ_HTTP_MISSING,   /* 404, 410, and 204 for a GET */
    LQ_HTTP_DENIED,    /* 401, 403 */
    LQ_HTTP_REFUSED,   /* any other 3xx or 4xx: asking again does not help */
    LQ_HTTP_BROKEN,    /* 5xx, 429, a connection that fails, an answer that is no HTTP */
    LQ_HTTP_TRUNCATED, /* the body ended early */
    LQ_HTTP_ALTERED,   /* the body is not what its digest says, or too long */
    LQ_HTTP_TIMEOUT,
    LQ_HTTP_CANCELLED,
    LQ_HTTP_LOCAL, /* our own disk or memory: see the error */
};

enum { LQ_HTTP_NEXT_BYTES = 2048, LQ_HTTP_CODE_BYTES = 48 };

/* Takes the next piece of a body. False, with the reason in err, ends the transfer. */
typedef bool (*lq_http_take_fn)(void *user, const void *data, size_t size_bytes,
                                struct lq_error *err);

struct lq_http_response {
    /* What the caller wants. */
    bool wants_body;
    uint64_t size_max;              /* of a body in memory or for `take` */
    const struct lq_digest *digest; /* into a blob: what it must be; NULL: into `body` */
    uint64_t size_bytes;            /* into a blob: its size */
    struct lq_cache *cache;         /* into a blob */
    lq_http_take_fn take;           /* instead of `body`; may be NULL */
    void *take_user;
    uint64_t range_from; /* only the bytes from here on are asked for */
    /* What came. */
    unsigned status; /* of the newest block of headers; 0: none yet */
    bool has_length;
    uint64_t content_length;
    bool encoded;          /* Content-Encoding is set: the length is not that of the body */
    bool takes_zstd;       /* it said so, in this answer or an earlier one */
    bool range_fits;       /* the answer is a part, and begins at range_from */
    bool lacks_range;      /* a part was asked for, and something else came: LQ_HTTP_REFUSED */
    unsigned wait_seconds; /* before asking again; 0: it does not say */
    char code[LQ_HTTP_CODE_BYTES]; /* X-Error-Code, as the Hugging Face hub says what is wrong */
    char next[LQ_HTTP_NEXT_BYTES]; /* the URL of the next page of a list; "": the last page */
    uint64_t received;
    struct lq_buffer body;
    struct lq_blob_writer *writer;
    bool over_limit;
    bool failed; /* locally; `err` says how */
    struct lq_error err;
};

void lq_http_response_begin(struct lq_http_response *response);
void lq_http_response_fini(struct lq_http_response *response);
/* One header line, with or without its line end. False ends the transfer. */
bool lq_http_response_header(struct lq_http_response *response, const char *line, size_t length);
/* The next bytes of the body, decoded. False ends the transfer. */
bool lq_http_response_body(struct lq_http_response *response, const void *data, size_t size_bytes);
/* Judges the whole; publishes the blob if it is right. `complete`: the transfer ended in good
 * order. */
enum lq_http_outcome lq_http_response_end(struct lq_http_response *response, bool complete);

#endif
