#include "cache/digest_set.h"

#include <stdlib.h>
#include <string.h>

static size_t find_slot(const struct lq_digest_set *set, const struct lq_digest *digest)
{
    uint64_t hash = 0;
    memcpy(&hash, digest->bytes, sizeof hash);
    size_t at = (size_t)hash & (set->capacity - 1);
    while (!lq_digest_is_zero(&set->slots[at]) && !lq_digest_equal(&set->slots[at], digest)) {
        at = (at + 1) & (set->capacity - 1);
    }
    return at;
}

static bool grow_set(struct lq_digest_set *set)
{
    if (set->count * 2 < set->capacity) {
        return true;
    }
    struct lq_digest_set grown = {.capacity = set->capacity == 0 ? 256 : set->capacity * 2};
    grown.slots = calloc(grown.capacity, sizeof *grown.slots);
    if (grown.slots == NULL) {
        return false;
    }
    for (size_t i = 0; i < set->capacity; i++) {
        if (!lq_digest_is_zero(&set->slots[i])) {
            grown.slots[find_slot(&grown, &set->slots[i])] = set->slots[i];
            grown.count++;
        }
    }
    free(set->slots);
    *set = grown;
    return true;
}

bool lq_digest_set_has(const struct lq_digest_set *set, const struct lq_digest *digest)
{
    return set->capacity > 0 && !lq_digest_is_zero(&set->slots[find_slot(set, digest)]);
}

bool lq_digest_set_add(struct lq_digest_set *set, const struct lq_digest *digest, bool *added)
{
    if (!grow_set(set)) {
        return false;
    }
    size_t at = find_slot(set, digest);
    bool is_new = lq_digest_is_zero(&set->slots[at]);
    set->count += is_new;
    set->slots[at] = *digest;
    if (added != NULL) {
        *added = is_new;
    }
    return true;
}

void lq_digest_set_fini(struct lq_digest_set *set)
{
    free(set->slots);
    *set = (struct lq_digest_set){.slots = NULL};
}
