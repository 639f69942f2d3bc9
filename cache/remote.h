/* Remote caches: results of other people and machines, over HTTP or HTTPS. Any server that stores
 * what is PUT below /ac/ and /cas/ will do: nginx with WebDAV, bazel-remote, and the like.
 * docs/sharing.md is for users, docs/cache-format.md has the layout.
 *
 * A failure of a remote is never a failure of the build: it is a miss, told apart and counted, and
 * the first one of each kind is a warning. A remote that does not answer any more is not asked any
 * more. A result is taken only if somebody trusted has signed it together with the key it was asked
 * for under, and every byte is checked against its digest on its way into the local cache. Nothing
 * about failed look-ups is remembered on disk.
 *
 * Calls block while the network works: make them on the pools that lq_remote_pool gives. Thread
 * rule: every function but open and close may be called from any thread. Limits: LQ_REMOTES_MAX,
 * LQ_RESULT_BYTES_MAX, LQ_LAYOUT_BYTES_MAX. */
#ifndef LQ_CACHE_REMOTE_H
#define LQ_CACHE_REMOTE_H

#include <stdatomic.h>

#include "cache/cache.h"
#include "cache/sign.h"

struct lq_pool;
struct lq_remote;

enum lq_compression { LQ_COMPRESS_AUTO, LQ_COMPRESS_ZSTD, LQ_COMPRESS_NONE };

/* One server. Texts must outlive the remote. */
struct lq_remote_site {
    const char *name;
    const char *url;     /* http(s)://[user:password@]host[:port][/path] */
    const char *token;   /* NULL: none */
    const char *ca_file; /* PEM: certificates that may vouch for the server; NULL: the system's */
    bool writes;
    bool trust_unsigned;
    unsigned timeout_seconds;
    unsigned connections;
    enum lq_compression compression;
    struct lq_keyring keyring; /* whose results are taken from it */
};

struct lq_remote_options {
    struct lq_cache *cache;
    const struct lq_remote_site *sites; /* in the order in which they are asked */
    size_t site_count;
    const struct lq_secret_key
        *sign_key;       /* NULL: results are sent only where unsigned ones count */
    atomic_bool *cancel; /* may be NULL */
    void (*warn)(void *user, const char *message); /* from any thread */
    void *warn_user;
};

struct lq_remote_counts {
    uint64_t hits;
    uint64_t misses;
    uint64_t timeouts;
    uint64_t untrusted;      /* not signed, or by somebody we do not know */
    uint64_t bad_signatures; /* signed wrongly, or for another key */
    uint64_t altered;        /* bytes that do not have their digest, cut off or malformed answers */
    uint64_t errors;         /* everything else */
    uint64_t uploads;        /* results sent */
    uint64_t upload_errors;
    uint64_t requests;
    uint64_t bytes_received; /* bodies, after decompression */
    uint64_t bytes_sent;
};

/* Opens no connection yet. Errors: LQ_EUSAGE for a URL that cannot be one, LQ_ENOMEM. */
enum lq_status lq_remote_open(struct lq_remote **out, const struct lq_remote_options *options,
                              struct lq_error *err);
/* Waits for work on its pools. */
void lq_remote_close(struct lq_remote *remote);
/* Threads for look-ups and downloads, or for uploads. */
struct lq_pool *lq_remote_pool(struct lq_remote *remote, bool uploads);
/* False when every site is off by now. */
bool lq_remote_can_get(struct lq_remote *remote);
bool lq_remote_can_put(struct lq_remote *remote);
void lq_remote_counts_get(struct lq_remote *remote, struct lq_remote_counts *out);

enum lq_remote_want {
    LQ_REMOTE_RECORD, /* the record alone */
    LQ_REMOTE_ALL,    /* and the content of every output that is not transient */
    LQ_REMOTE_LISTED, /* and the content of the outputs whose digests are listed */
};
/* Looks a result up and puts the record, after all content that is wanted, into the local cache.
 * Content that is there already is not fetched. False for a miss of any kind. */
bool lq_remote_get(struct lq_remote *remote, const struct lq_digest *key, enum lq_remote_want want,
                   const struct lq_digest *listed, size_t listed_count);
/* Sends the local result of a key to every site that takes it: objects first, the record last.
 * Outputs without local content are named but not sent. False when some site did not take it. */
bool lq_remote_put(struct lq_remote *remote, const struct lq_digest *key);

#endif
