/* The list of postponed records: small records that wait in memory until a transaction takes them
 * along. It owns copies of keys and values. Every record has a serial number, so that a
 * transaction can put those up to a number and have them forgotten when it is committed, while
 * others arrive. Thread rule: the owner locks. Limits: LQ_STORE_LATER_BYTES of values,
 * LQ_STORE_LATER_COUNT records. */
#ifndef LQ_CACHE_STORE_LATER_H
#define LQ_CACHE_STORE_LATER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/store_lmdb.h"

struct lq_later {
    enum lq_db db;
    bool keep_old; /* a record that is stored already stays */
    uint64_t serial;
    struct lq_bytes key, value; /* in `memory` */
    unsigned char *memory;
};

struct lq_later_list {
    struct lq_later *items;
    size_t count, capacity, value_bytes;
    uint64_t serial; /* of the newest */
};

void lq_later_fini(struct lq_later_list *list);
bool lq_later_has_room(const struct lq_later_list *list, size_t value_bytes);
/* NULL when there is none. Borrowed until the next change of the list. */
const struct lq_later *lq_later_find(const struct lq_later_list *list, enum lq_db db,
                                     const struct lq_bytes *key);
/* A record with the same key is replaced, or stays with `keep_old`. False when memory is out. */
bool lq_later_add(struct lq_later_list *list, enum lq_db db, const struct lq_bytes *key,
                  const struct lq_bytes *value, bool keep_old);
/* Removes what has a serial up to `serial`. */
void lq_later_forget(struct lq_later_list *list, uint64_t serial);

#endif
