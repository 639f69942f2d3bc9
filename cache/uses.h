/* When entries were used last, for choosing what to remove first. Uses of one process are noted in
 * memory and written when the cache is closed, in one transaction, and only those whose last note
 * is older than LQ_USE_GRAIN_SECONDS: most builds in which nothing changed write nothing. A time
 * that is lost with a killed process makes an entry look older than it is. Thread rule: any thread.
 */
#ifndef LQ_CACHE_USES_H
#define LQ_CACHE_USES_H

#include <stdbool.h>
#include <stdint.h>

#include "cache/store_lmdb.h"
#include "engine/base/digest.h"

enum {
    LQ_USE_GRAIN_SECONDS = 4 * 3600,
    LQ_USE_KEY_BYTES = 1 + LQ_DIGEST_BYTES,
};

enum lq_use_kind {
    LQ_USE_ACTION = 'a',  /* by action key */
    LQ_USE_BLOB = 'b',    /* by digest: descriptions of sources */
    LQ_USE_HISTORY = 'h', /* by digest of the label */
    /* By digest, and when it was written: a blob that transient outputs alone have. No use, but as
     * short. Gone with the first that keeps it, so an entry that is lost keeps a little too much.
     */
    LQ_USE_TRANSIENT = 't',
};

struct lq_uses;
struct lq_uses *lq_uses_create(void);
void lq_uses_destroy(struct lq_uses *uses);
/* Nothing happens when memory is out. */
void lq_uses_add(struct lq_uses *uses, enum lq_use_kind kind, const struct lq_digest *key);
enum lq_status lq_uses_flush(struct lq_uses *uses, struct lq_store *store, struct lq_error *err);

/* Seconds since 1970. LQBUILD_TEST_NOW replaces the clock, for tests. */
uint64_t lq_uses_now(void);
void lq_use_key(enum lq_use_kind kind, const struct lq_digest *key,
                unsigned char out[LQ_USE_KEY_BYTES]);
/* Notes a time inside a transaction. */
enum lq_status lq_use_put(struct lq_txn *txn, enum lq_use_kind kind, const struct lq_digest *key,
                          uint64_t seconds, struct lq_error *err);
enum lq_status lq_use_remove(struct lq_txn *txn, enum lq_use_kind kind, const struct lq_digest *key,
                             struct lq_error *err);
/* 0: none is known. */
enum lq_status lq_use_get(struct lq_txn *txn, enum lq_use_kind kind, const struct lq_digest *key,
                          uint64_t *seconds, struct lq_error *err);

#endif
