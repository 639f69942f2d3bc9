#include "cache/store_later.h"

#include <stdlib.h>
#include <string.h>

void lq_later_fini(struct lq_later_list *list)
{
    lq_later_forget(list, UINT64_MAX);
    free(list->items);
    memset(list, 0, sizeof *list);
}

bool lq_later_has_room(const struct lq_later_list *list, size_t value_bytes)
{
    return list->count < LQ_STORE_LATER_COUNT && value_bytes <= LQ_STORE_LATER_BYTES &&
           list->value_bytes <= LQ_STORE_LATER_BYTES - value_bytes;
}

static size_t find(const struct lq_later_list *list, enum lq_db db, const struct lq_bytes *key)
{
    size_t at = 0;
    for (; at < list->count; at++) {
        const struct lq_later *item = &list->items[at];
        if (item->db == db && item->key.size_bytes == key->size_bytes &&
            memcmp(item->key.data, key->data, key->size_bytes) == 0) {
            break;
        }
    }
    return at;
}

const struct lq_later *lq_later_find(const struct lq_later_list *list, enum lq_db db,
                                     const struct lq_bytes *key)
{
    size_t at = find(list, db, key);
    return at < list->count ? &list->items[at] : NULL;
}

static bool reserve(struct lq_later_list *list)
{
    if (list->count < list->capacity) {
        return true;
    }
    size_t capacity = list->capacity == 0 ? 16 : 2 * list->capacity;
    struct lq_later *grown = realloc(list->items, capacity * sizeof *grown);
    if (grown == NULL) {
        return false;
    }
    list->items = grown;
    list->capacity = capacity;
    return true;
}

bool lq_later_add(struct lq_later_list *list, enum lq_db db, const struct lq_bytes *key,
                  const struct lq_bytes *value, bool keep_old)
{
    size_t at = find(list, db, key);
    if (at < list->count && keep_old) {
        return true;
    }
    unsigned char *memory = malloc(key->size_bytes + value->size_bytes + 1);
    if (memory == NULL || !reserve(list)) {
        free(memory);
        return false;
    }
    memcpy(memory, key->data, key->size_bytes);
    if (value->size_bytes > 0) {
        memcpy(memory + key->size_bytes, value->data, value->size_bytes);
    }
    if (at < list->count) {
        list->value_bytes -= list->items[at].value.size_bytes;
        free(list->items[at].memory);
    } else {
        list->count++;
    }
    list->items[at] = (struct lq_later){
        .db = db,
        .keep_old = keep_old,
        .serial = ++list->serial,
        .key = {memory, key->size_bytes},
        .value = {memory + key->size_bytes, value->size_bytes},
        .memory = memory,
    };
    list->value_bytes += value->size_bytes;
    return true;
}

void lq_later_forget(struct lq_later_list *list, uint64_t serial)
{
    size_t kept = 0;
    for (size_t i = 0; i < list->count; i++) {
        if (list->items[i].serial > serial) {
            list->items[kept++] = list->items[i];
        } else {
            list->value_bytes -= list->items[i].value.size_bytes;
            free(list->items[i].memory);
        }
    }
    list->count = kept;
}
