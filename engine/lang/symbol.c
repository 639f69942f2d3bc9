#include "engine/lang/symbol.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/text.h"

enum { FIRST_SLOTS = 256 };

static uint32_t hash_text(const char *text, size_t length)
{
    /* FNV-1a, 64 bit, folded: http://www.isthe.com/chongo/tech/comp/fnv/ */
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < length; i++) {
        hash = (hash ^ (unsigned char)text[i]) * 1099511628211u;
    }
    return (uint32_t)(hash ^ (hash >> 32));
}

bool lq_symbols_init(struct lq_symbols *symbols, struct lq_arena *arena)
{
    memset(symbols, 0, sizeof *symbols);
    symbols->arena = arena;
    symbols->capacity = FIRST_SLOTS / 2;
    symbols->slot_mask = FIRST_SLOTS - 1;
    symbols->slots = lq_arena_get_array(arena, FIRST_SLOTS, sizeof *symbols->slots);
    symbols->all = lq_arena_get_array(arena, symbols->capacity, sizeof(struct lq_symbol *));
    return symbols->slots != NULL && symbols->all != NULL;
}

/* The slot that has the name, or the free one where it belongs. */
static uint32_t *find_slot(const struct lq_symbols *symbols, const char *text, size_t length,
                           uint32_t hash)
{
    for (uint32_t i = hash;; i++) {
        uint32_t *slot = &symbols->slots[i & symbols->slot_mask];
        if (*slot == 0) {
            return slot;
        }
        const struct lq_symbol *symbol = symbols->all[*slot - 1];
        if (symbol->hash == hash && symbol->length == length &&
            memcmp(symbol->text, text, length) == 0) {
            return slot;
        }
    }
}

/* The old tables stay behind in the arena: together they are as large as the new ones. */
static bool grow(struct lq_symbols *symbols)
{
    if (symbols->capacity > UINT32_MAX / 8) {
        return false;
    }
    uint32_t capacity = symbols->capacity * 2;
    struct lq_symbol **all = lq_arena_get_array(symbols->arena, capacity, sizeof *all);
    uint32_t *slots = lq_arena_get_array(symbols->arena, (size_t)capacity * 2, sizeof *slots);
    if (all == NULL || slots == NULL) {
        return false;
    }
    memcpy(all, symbols->all, symbols->count * sizeof(struct lq_symbol *));
    symbols->all = all;
    symbols->slots = slots;
    symbols->capacity = capacity;
    symbols->slot_mask = capacity * 2 - 1;
    for (uint32_t i = 0; i < symbols->count; i++) {
        const struct lq_symbol *symbol = all[i];
        *find_slot(symbols, symbol->text, symbol->length, symbol->hash) = i + 1;
    }
    return true;
}

struct lq_symbol *lq_symbols_get(struct lq_symbols *symbols, const char *text, size_t length)
{
    uint32_t hash = hash_text(text, length);
    uint32_t *slot = find_slot(symbols, text, length, hash);
    if (*slot != 0) {
        return symbols->all[*slot - 1];
    }
    if (symbols->count == symbols->capacity) {
        if (!grow(symbols)) {
            return NULL;
        }
        slot = find_slot(symbols, text, length, hash);
    }
    struct lq_symbol *symbol = lq_arena_get(symbols->arena, sizeof *symbol);
    char *copy = lq_arena_dup(symbols->arena, text, length);
    if (symbol == NULL || copy == NULL || length > UINT32_MAX) {
        return NULL;
    }
    symbol->text = copy;
    symbol->length = (uint32_t)length;
    symbol->hash = hash;
    symbols->all[symbols->count++] = symbol;
    *slot = symbols->count;
    return symbol;
}

struct lq_symbol *lq_symbols_find(const struct lq_symbols *symbols, const char *text, size_t length)
{
    uint32_t slot = *find_slot(symbols, text, length, hash_text(text, length));
    return slot == 0 ? NULL : symbols->all[slot - 1];
}

const char *lq_symbols_nearest(const struct lq_symbols *symbols, const char *text,
                               bool (*accept)(const struct lq_symbol *symbol))
{
    const char **candidates = calloc(symbols->count + 1u, sizeof *candidates);
    if (candidates == NULL) {
        return NULL;
    }
    /* Lengths that differ by more than a third are no typing error: a cheap filter first. */
    size_t length = strlen(text);
    size_t count = 0;
    for (uint32_t i = 0; i < symbols->count; i++) {
        const struct lq_symbol *symbol = symbols->all[i];
        size_t difference =
            symbol->length > length ? symbol->length - length : length - symbol->length;
        if (difference <= length / 3 + 2 && accept(symbol)) {
            candidates[count++] = symbol->text;
        }
    }
    const char *nearest = lq_text_nearest(text, candidates, count);
    free(candidates);
    return nearest;
}

bool lq_symbol_is_variable(const struct lq_symbol *symbol)
{
    return symbol->let != NULL || symbol->local != NULL;
}

bool lq_symbol_is_artifact(const struct lq_symbol *symbol)
{
    return symbol->artifact != 0;
}

bool lq_symbol_is_name(const struct lq_symbol *symbol)
{
    return lq_symbol_is_variable(symbol) || lq_symbol_is_artifact(symbol);
}

bool lq_symbol_is_target(const struct lq_symbol *symbol)
{
    return symbol->artifact != 0 || symbol->output != 0;
}
