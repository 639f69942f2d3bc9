#include "rules/model/token_table.h"

#include <stdlib.h>
#include <string.h>

/* An odd 64-bit constant with well mixed bits (the golden ratio), for multiplicative hashing. */
#define HASH_FACTOR 0x9e3779b97f4a7c15ull

uint64_t lq_token_hash(const char *data, size_t length)
{
    uint64_t hash = (uint64_t)length * HASH_FACTOR;
    while (length >= 8) {
        uint64_t word = 0;
        memcpy(&word, data, 8);
        hash = (hash ^ word) * HASH_FACTOR;
        hash ^= hash >> 29;
        data += 8;
        length -= 8;
    }
    if (length > 0) {
        uint64_t word = 0;
        memcpy(&word, data, length);
        hash = (hash ^ word) * HASH_FACTOR;
    }
    /* The low bits of a product depend on the low bits only; callers mask, so mix once more. */
    hash = (hash ^ hash >> 32) * HASH_FACTOR;
    return hash ^ hash >> 32;
}

/* The power of two that keeps the table at most half full; 0 when it does not fit. */
static size_t slot_count_for(size_t capacity)
{
    if (capacity > SIZE_MAX / 64) {
        return 0;
    }
    size_t slots = 16;
    while (slots < capacity * 2) {
        slots *= 2;
    }
    return slots;
}

bool lq_token_table_init(struct lq_token_table *table, size_t capacity)
{
    memset(table, 0, sizeof *table);
    size_t slot_count = slot_count_for(capacity);
    if (slot_count == 0) {
        return false;
    }
    table->slots = malloc(slot_count * sizeof *table->slots);
    table->strings = calloc(capacity + 1, sizeof *table->strings);
    if (table->slots == NULL || table->strings == NULL) {
        lq_token_table_fini(table);
        return false;
    }
    for (size_t i = 0; i < slot_count; i++) {
        table->slots[i] = (struct lq_token_slot){.hash = 0, .id = -1};
    }
    table->slot_mask = slot_count - 1;
    table->capacity = capacity;
    return true;
}

void lq_token_table_fini(struct lq_token_table *table)
{
    free(table->slots);
    free(table->strings);
    memset(table, 0, sizeof *table);
}

/* The slot that holds the string, or the empty slot where it belongs. */
static size_t find_slot(const struct lq_token_table *table, const char *data, size_t length,
                        uint64_t hash)
{
    size_t slot = (size_t)hash & table->slot_mask;
    while (table->slots[slot].id >= 0) {
        if (table->slots[slot].hash == (uint32_t)hash) {
            const struct lq_token_bytes *string = &table->strings[table->slots[slot].id];
            if (string->length == length && memcmp(string->data, data, length) == 0) {
                break;
            }
        }
        slot = (slot + 1) & table->slot_mask;
    }
    return slot;
}

int32_t lq_token_table_find(const struct lq_token_table *table, const char *data, size_t length)
{
    return table->slots[find_slot(table, data, length, lq_token_hash(data, length))].id;
}

int32_t lq_token_table_add(struct lq_token_table *table, const char *data, size_t length,
                           bool visible, int32_t *existing)
{
    *existing = -1;
    if (table->count >= table->capacity) {
        return -1;
    }
    int32_t id = (int32_t)table->count;
    table->strings[id] = (struct lq_token_bytes){.data = data, .length = length};
    table->count++;
    if (visible) {
        uint64_t hash = lq_token_hash(data, length);
        size_t slot = find_slot(table, data, length, hash);
        if (table->slots[slot].id >= 0) {
            *existing = table->slots[slot].id;
        } else {
            table->slots[slot] = (struct lq_token_slot){.hash = (uint32_t)hash, .id = id};
        }
    }
    return id;
}

bool lq_pair_table_init(struct lq_pair_table *table, size_t capacity)
{
    memset(table, 0, sizeof *table);
    size_t slot_count = slot_count_for(capacity);
    if (slot_count == 0) {
        return false;
    }
    table->slots = malloc(slot_count * sizeof *table->slots);
    if (table->slots == NULL) {
        return false;
    }
    for (size_t i = 0; i < slot_count; i++) {
        table->slots[i].key = UINT64_MAX;
    }
    table->slot_mask = slot_count - 1;
    return true;
}

void lq_pair_table_fini(struct lq_pair_table *table)
{
    free(table->slots);
    memset(table, 0, sizeof *table);
}

static size_t find_pair_slot(const struct lq_pair_table *table, uint64_t key)
{
    uint64_t hash = key * HASH_FACTOR;
    size_t slot = (size_t)(hash >> 32) & table->slot_mask;
    while (table->slots[slot].key != UINT64_MAX && table->slots[slot].key != key) {
        slot = (slot + 1) & table->slot_mask;
    }
    return slot;
}

static uint64_t pair_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

void lq_pair_table_add(struct lq_pair_table *table, int32_t left, int32_t right, uint32_t rank,
                       int32_t merged)
{
    uint64_t key = pair_key(left, right);
    size_t slot = find_pair_slot(table, key);
    if (table->slots[slot].key == UINT64_MAX) {
        table->slots[slot] = (struct lq_token_pair){.key = key, .rank = rank, .merged = merged};
    }
}

const struct lq_token_pair *lq_pair_table_find(const struct lq_pair_table *table, int32_t left,
                                               int32_t right)
{
    if (left < 0 || right < 0) {
        return NULL;
    }
    size_t slot = find_pair_slot(table, pair_key(left, right));
    return table->slots[slot].key == UINT64_MAX ? NULL : &table->slots[slot];
}
