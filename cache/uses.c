#include "cache/uses.h"

#include "cache/cache.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct lq_uses {
    pthread_mutex_t mutex;
    unsigned char (*keys)[LQ_USE_KEY_BYTES];
    size_t count, capacity;
};

uint64_t lq_uses_now(void)
{
    const char *fixed = getenv("LQBUILD_TEST_NOW");
    if (fixed != NULL && fixed[0] != '\0') {
        return strtoull(fixed, NULL, 10);
    }
    time_t now = time(NULL);
    return now > 0 ? (uint64_t)now : 0;
}

uint64_t lq_cache_now(void)
{
    return lq_uses_now();
}

struct lq_uses *lq_uses_create(void)
{
    struct lq_uses *uses = calloc(1, sizeof *uses);
    if (uses != NULL) {
        (void)pthread_mutex_init(&uses->mutex, NULL);
    }
    return uses;
}

void lq_uses_destroy(struct lq_uses *uses)
{
    if (uses != NULL) {
        (void)pthread_mutex_destroy(&uses->mutex);
        free(uses->keys);
        free(uses);
    }
}

void lq_use_key(enum lq_use_kind kind, const struct lq_digest *key,
                unsigned char out[LQ_USE_KEY_BYTES])
{
    out[0] = (unsigned char)kind;
    memcpy(out + 1, key->bytes, LQ_DIGEST_BYTES);
}

static bool reserve(struct lq_uses *uses)
{
    if (uses->count < uses->capacity) {
        return true;
    }
    size_t capacity = uses->capacity == 0 ? 64 : 2 * uses->capacity;
    unsigned char(*grown)[LQ_USE_KEY_BYTES] = realloc(uses->keys, capacity * sizeof *grown);
    if (grown == NULL) {
        return false;
    }
    uses->keys = grown;
    uses->capacity = capacity;
    return true;
}

void lq_uses_add(struct lq_uses *uses, enum lq_use_kind kind, const struct lq_digest *key)
{
    (void)pthread_mutex_lock(&uses->mutex);
    if (reserve(uses)) {
        lq_use_key(kind, key, uses->keys[uses->count++]);
    }
    (void)pthread_mutex_unlock(&uses->mutex);
}

static enum lq_status get_raw(struct lq_txn *txn, const unsigned char *raw, uint64_t *seconds,
                              struct lq_error *err)
{
    struct lq_bytes value;
    bool found = false;
    *seconds = 0;
    enum lq_status status =
        lq_txn_get(txn, LQ_DB_USES, &(struct lq_bytes){raw, LQ_USE_KEY_BYTES}, &value, &found, err);
    if (status == LQ_OK && found && value.size_bytes == sizeof *seconds) {
        const unsigned char *bytes = value.data;
        for (int i = 7; i >= 0; i--) {
            *seconds = *seconds << 8 | bytes[i];
        }
    }
    return status;
}

static enum lq_status put_raw(struct lq_txn *txn, const unsigned char *raw, uint64_t seconds,
                              struct lq_error *err)
{
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++) {
        bytes[i] = (unsigned char)(seconds >> (8 * i));
    }
    return lq_txn_put(txn, LQ_DB_USES, &(struct lq_bytes){raw, LQ_USE_KEY_BYTES},
                      &(struct lq_bytes){bytes, sizeof bytes}, err);
}

enum lq_status lq_use_put(struct lq_txn *txn, enum lq_use_kind kind, const struct lq_digest *key,
                          uint64_t seconds, struct lq_error *err)
{
    unsigned char raw[LQ_USE_KEY_BYTES];
    lq_use_key(kind, key, raw);
    return put_raw(txn, raw, seconds, err);
}

enum lq_status lq_use_remove(struct lq_txn *txn, enum lq_use_kind kind, const struct lq_digest *key,
                             struct lq_error *err)
{
    unsigned char raw[LQ_USE_KEY_BYTES];
    lq_use_key(kind, key, raw);
    return lq_txn_del(txn, LQ_DB_USES, &(struct lq_bytes){raw, sizeof raw}, NULL, err);
}

enum lq_status lq_use_get(struct lq_txn *txn, enum lq_use_kind kind, const struct lq_digest *key,
                          uint64_t *seconds, struct lq_error *err)
{
    unsigned char raw[LQ_USE_KEY_BYTES];
    lq_use_key(kind, key, raw);
    return get_raw(txn, raw, seconds, err);
}

/* ---- writing ---- */

static int compare_keys(const void *a, const void *b)
{
    return memcmp(a, b, LQ_USE_KEY_BYTES);
}

/* Keeps the keys whose last note is too old. Sorted keys meet the pages of the table in order. */
static enum lq_status keep_old(struct lq_uses *uses, struct lq_store *store, uint64_t now,
                               struct lq_error *err)
{
    struct lq_txn txn;
    enum lq_status status = lq_store_read_begin(store, &txn, err);
    if (status != LQ_OK) {
        return status;
    }
    size_t kept = 0;
    for (size_t i = 0; i < uses->count && status == LQ_OK; i++) {
        uint64_t seconds = 0;
        if (kept > 0 && memcmp(uses->keys[kept - 1], uses->keys[i], LQ_USE_KEY_BYTES) == 0) {
            continue;
        }
        status = get_raw(&txn, uses->keys[i], &seconds, err);
        /* A time of the future comes from a wrong clock. */
        if (status == LQ_OK && (seconds > now || now - seconds >= LQ_USE_GRAIN_SECONDS)) {
            memmove(uses->keys[kept++], uses->keys[i], LQ_USE_KEY_BYTES);
        }
    }
    lq_store_read_end(&txn);
    uses->count = kept;
    return status;
}

struct writing {
    const struct lq_uses *uses;
    uint64_t now;
};

static enum lq_status write_change(struct lq_txn *txn, void *user, struct lq_error *err)
{
    const struct writing *writing = user;
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < writing->uses->count && status == LQ_OK; i++) {
        status = put_raw(txn, writing->uses->keys[i], writing->now, err);
    }
    return status;
}

/* Takes the keys away, so that other threads note theirs meanwhile. The mutex of *taken is not
 * used. */
static void take_keys(struct lq_uses *uses, struct lq_uses *taken)
{
    (void)pthread_mutex_lock(&uses->mutex);
    taken->keys = uses->keys;
    taken->count = uses->count;
    taken->capacity = uses->capacity;
    uses->keys = NULL;
    uses->count = 0;
    uses->capacity = 0;
    (void)pthread_mutex_unlock(&uses->mutex);
}

enum lq_status lq_uses_flush(struct lq_uses *uses, struct lq_store *store, struct lq_error *err)
{
    struct lq_uses taken;
    struct writing writing = {.uses = &taken, .now = lq_uses_now()};
    enum lq_status status = LQ_OK;
    take_keys(uses, &taken);
    if (taken.count > 0) {
        qsort(taken.keys, taken.count, sizeof *taken.keys, compare_keys);
        status = keep_old(&taken, store, writing.now, err);
    }
    if (status == LQ_OK && taken.count > 0) {
        status =
            lq_store_write(store, 0, taken.count * LQ_USE_KEY_BYTES, write_change, &writing, err);
    }
    free(taken.keys);
    return status;
}
