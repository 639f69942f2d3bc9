/* Reading a blob for several purposes at once. A small one in one go; for a large one each hasher
 * walks over the content by itself, because a digest is made from first byte to last. The bytes
 * come from memory either way: they were written a moment ago, or the first walk fetches them. */
#include "cache/cache_internal.h"
#include "engine/base/compiler.h"
#include "engine/base/pool.h"

enum { HASHERS_MAX = 2, LARGE_BYTES = 1024 * 1024 };

struct walk {
    struct lq_blob_reader *reader;
    struct lq_hasher *const *hashers;
    size_t hasher_count;
    lq_blob_take copy; /* may be NULL */
    void *user;
    enum lq_status status;
    struct lq_error err;
};

static enum lq_status take_span(void *user, const void *data, size_t size_bytes,
                                struct lq_error *err)
{
    const struct walk *walk = user;
    for (size_t i = 0; i < walk->hasher_count; i++) {
        lq_hasher_update(walk->hashers[i], data, size_bytes);
    }
    return walk->copy == NULL ? LQ_OK : walk->copy(walk->user, data, size_bytes, err);
}

static void run_walk(void *user, size_t index)
{
    struct walk *walk = (struct walk *)user + index;
    walk->status = lq_blob_each(walk->reader, take_span, walk, &walk->err);
}

enum lq_status lq_blob_walk(struct lq_blob_reader *reader, struct lq_pool *pool,
                            struct lq_hasher *const *hashers, size_t hasher_count,
                            lq_blob_take copy, void *user, struct lq_error *err)
{
    const struct walk whole = {.reader = reader,
                               .hashers = hashers,
                               .hasher_count = hasher_count,
                               .copy = copy,
                               .user = user};
    struct walk walks[HASHERS_MAX] = {whole, whole};
    bool together = hasher_count < HASHERS_MAX || lq_blob_size(reader) < LARGE_BYTES ||
                    lq_pool_thread_count(pool) == 1;
    size_t count = together ? 1 : HASHERS_MAX;
    for (size_t i = 0; i < count && !together; i++) {
        walks[i].hashers = &hashers[i];
        walks[i].hasher_count = 1;
        walks[i].copy = i == 0 ? copy : NULL;
    }
    lq_pool_for(pool, count, run_walk, walks);
    for (size_t i = 0; i < count; i++) {
        if (walks[i].status != LQ_OK) {
            return lq_error_set(err, walks[i].status, "%s", walks[i].err.message);
        }
    }
    return LQ_OK;
}
