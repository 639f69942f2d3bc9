/* A set of digests: a hash table with open addressing that grows and never shrinks. Starts as all
 * zeros. Thread rule: one thread at a time. */
#ifndef LQ_CACHE_DIGEST_SET_H
#define LQ_CACHE_DIGEST_SET_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/digest.h"

struct lq_digest_set {
    struct lq_digest *slots; /* all-zero: free */
    size_t count;
    size_t capacity;
};

bool lq_digest_set_has(const struct lq_digest_set *set, const struct lq_digest *digest);
/* False when memory is out. *added (may be NULL): it was not in the set. */
bool lq_digest_set_add(struct lq_digest_set *set, const struct lq_digest *digest, bool *added);
void lq_digest_set_fini(struct lq_digest_set *set);

#endif
