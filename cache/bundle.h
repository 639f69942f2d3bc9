/* Bundles: results and everything they need in one file, to hand over without a server. The head is
 * text and says what follows; it is signed as a whole. docs/cache-format.md has the layout.
 *
 *   "LQBUNDL1", u64 size of the head
 *   head:  lqbuild bundle 1
 *          results <count>       the results, as in result.h, without signatures of their own
 *          blobs <count>         for each: "blob <hex> <bytes>" and its layout, as in layout.h
 *          objects <count>       for each: "object <hex> <size>"
 *          signature <name> <base64>
 *   the objects' bytes, in that order
 *
 * Reading streams, believes nothing, and makes results visible only when everything else is there.
 * Thread rule: as for the cache. Limits: LQ_BUNDLE_HEAD_BYTES_MAX, LQ_BUNDLE_ENTRIES_MAX. */
#ifndef LQ_CACHE_BUNDLE_H
#define LQ_CACHE_BUNDLE_H

#include <stdio.h>

#include "cache/cache.h"
#include "cache/sign.h"

struct lq_bundle_counts {
    uint64_t results;
    uint64_t objects;
    uint64_t size_bytes;
    char signer[LQ_KEY_NAME_BYTES]; /* "": not signed */
};

/* Writes the results of the keys; a key twice counts once. `key` NULL: unsigned. LQ_ECACHE when a
 * result is not in the cache. */
enum lq_status lq_bundle_write(struct lq_cache *cache, const struct lq_digest *keys, size_t count,
                               const struct lq_secret_key *key, const char *path,
                               struct lq_bundle_counts *counts, struct lq_error *err);
/* Takes a bundle into the cache. Errors: LQ_EFORMAT (damaged: says what), LQ_EAUTH (not signed by
 * somebody in the ring; with `trust_unsigned` only a wrong signature), LQ_EIO. */
enum lq_status lq_bundle_read(struct lq_cache *cache, const char *path,
                              const struct lq_keyring *ring, bool trust_unsigned,
                              struct lq_bundle_counts *counts, struct lq_error *err);
/* The same from a stream; `path` is for messages. */
enum lq_status lq_bundle_read_stream(struct lq_cache *cache, FILE *stream, const char *path,
                                     const struct lq_keyring *ring, bool trust_unsigned,
                                     struct lq_bundle_counts *counts, struct lq_error *err);

#endif
