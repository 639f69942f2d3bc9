/* Walks through the items of a recipe as its loops say. It is done twice: `declare` finds the name
 * and rule of every artifact, `define` evaluates their attributes, when every name is known and may
 * be referred to. Both take the same way, so the n-th artifact of one is the n-th of the other.
 * Thread rule: one thread. Limits: LQ_RECIPE_ARTIFACTS_MAX, and those of the evaluator. */
#ifndef LQ_ENGINE_LANG_UNROLL_H
#define LQ_ENGINE_LANG_UNROLL_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/lang/schema_check.h"

struct lq_unroll_entry {
    struct lq_symbol *symbol; /* NULL when the declaration is wrong */
    const struct lq_schema *schema;
    struct lq_position position;
};

struct lq_unroll {
    struct lq_evaluator *evaluator;
    struct lq_schema_check *check;
    const struct lq_item *items;
    bool defining;
    struct lq_unroll_entry *entries; /* on the heap */
    size_t entry_count;
    size_t entry_capacity;
    struct lq_artifact *artifacts; /* entry_count of them, made between the two walks */
    size_t next;
    const struct lq_artifact **defaults; /* on the heap */
    size_t default_count;
    bool *is_default; /* of each artifact, on the heap */
};

void lq_unroll_init(struct lq_unroll *unroll, struct lq_schema_check *check,
                    const struct lq_item *items);
void lq_unroll_fini(struct lq_unroll *unroll);
/* Makes every top-level `let` known by its name. Call it first. */
void lq_unroll_register_lets(struct lq_unroll *unroll);
/* Each adds diagnostics for what is wrong. Between them the caller may set values of lets. */
void lq_unroll_declare(struct lq_unroll *unroll);
void lq_unroll_define(struct lq_unroll *unroll, const struct lq_recipe_store *store);

#endif
