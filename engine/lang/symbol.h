/* The names of a recipe. Every name is kept once, so that names compare by pointer and everything
 * that is known under a name is found without a search: the `let`, the loop variable in scope, the
 * artifact, the rule, the output path. The table is a hash table that keeps the order of first
 * mention, which is the order of every walk over it. Memory comes from the recipe's arena. Thread
 * rule: one thread while loading; lookups by any thread after that. */
#ifndef LQ_ENGINE_LANG_SYMBOL_H
#define LQ_ENGINE_LANG_SYMBOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"

struct lq_let;
struct lq_schema;
struct lq_value;

struct lq_symbol {
    const char *text;
    uint32_t length;
    uint32_t hash;
    struct lq_let *let;           /* the `let` at the top level */
    const struct lq_value *local; /* loop variable or `let` of a loop that is in scope */
    const struct lq_schema *schema;
    bool schema_known; /* then a NULL schema means that no rule has this name */
    /* 1 + index of the artifact of this name, and of the one that puts its output at this path */
    uint32_t artifact;
    uint32_t output;
};

struct lq_symbols {
    struct lq_arena *arena;
    struct lq_symbol **all; /* in order of first mention */
    uint32_t count;
    uint32_t capacity; /* of `all` */
    uint32_t *slots;   /* 1 + index into `all`, 0 for free */
    uint32_t slot_mask;
};

/* False when memory is out. */
bool lq_symbols_init(struct lq_symbols *symbols, struct lq_arena *arena);
/* The symbol of a name, made when it is new. NULL when memory is out. */
struct lq_symbol *lq_symbols_get(struct lq_symbols *symbols, const char *text, size_t length);
/* The symbol of a name, or NULL. */
struct lq_symbol *lq_symbols_find(const struct lq_symbols *symbols, const char *text,
                                  size_t length);

/* A name that `accept` takes and that `text` was probably meant to be, or NULL. */
const char *lq_symbols_nearest(const struct lq_symbols *symbols, const char *text,
                               bool (*accept)(const struct lq_symbol *symbol));
/* Filters for it: a `let` or variable in scope; an artifact; one of them; artifact or output. */
bool lq_symbol_is_variable(const struct lq_symbol *symbol);
bool lq_symbol_is_artifact(const struct lq_symbol *symbol);
bool lq_symbol_is_name(const struct lq_symbol *symbol);
bool lq_symbol_is_target(const struct lq_symbol *symbol);

#endif
