/* Turns expressions into values. A name stands for the loop variable or `let` in scope, else for
 * the artifact of that name: then the value is a REF whose `string` is the name and whose `ref` is
 * NULL until the schema check resolves it. A `let` is evaluated when it is first needed. Values
 * live in the recipe's arena and are shared, never changed. Thread rule: one thread. Limits:
 * LQ_RECIPE_EVALUATIONS_MAX and LQ_RECIPE_VALUE_BYTES_MAX for a whole load, LQ_RECIPE_DEPTH_MAX for
 * lets that wait for each other. */
#ifndef LQ_ENGINE_LANG_EVALUATOR_H
#define LQ_ENGINE_LANG_EVALUATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buffer.h"
#include "engine/lang/diagnostic.h"
#include "engine/lang/recipe_ast.h"

struct lq_evaluator {
    struct lq_arena *arena;
    struct lq_diagnostics *diagnostics;
    struct lq_symbols *symbols;
    struct lq_buffer text; /* scratch */
    uint64_t evaluations;
    uint64_t value_bytes;
    unsigned let_depth;
};

void lq_evaluator_init(struct lq_evaluator *evaluator, struct lq_arena *arena,
                       struct lq_diagnostics *diagnostics, struct lq_symbols *symbols);
void lq_evaluator_fini(struct lq_evaluator *evaluator);
/* The value of an expression; its position is that of the expression. */
bool lq_evaluate(struct lq_evaluator *evaluator, const struct lq_expr *expr, struct lq_value *out);
/* Evaluates a top-level `let` unless that was done. `position` is where it is used. */
bool lq_evaluate_let(struct lq_evaluator *evaluator, struct lq_let *let,
                     const struct lq_position *position);
/* Counts one round of a loop or one expression; false when the limit is reached. */
bool lq_evaluator_count(struct lq_evaluator *evaluator, const struct lq_position *position);
/* Zeroed memory for values, counted; NULL when the limit is reached or memory is out. */
void *lq_evaluator_get(struct lq_evaluator *evaluator, size_t count, size_t element_bytes,
                       const struct lq_position *position);

/* "a string", "a list": for messages. */
const char *lq_value_type_text(enum lq_value_type type);

#endif
