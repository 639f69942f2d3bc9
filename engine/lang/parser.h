/* Makes a syntax tree of recipe text. After an error it goes on at the next item, so that one run
 * shows several mistakes. Included files are read and parsed where they are named, each once; a
 * cycle is an error that shows the path. Thread rule: one thread. Limits: LQ_RECIPE_DEPTH_MAX for
 * expressions, for loops and for includes, LQ_NAME_BYTES_MAX for names. */
#ifndef LQ_ENGINE_LANG_PARSER_H
#define LQ_ENGINE_LANG_PARSER_H

#include <stdbool.h>

#include "engine/lang/diagnostic.h"
#include "engine/lang/recipe_ast.h"
#include "engine/lang/recipe_source.h"
#include "engine/lang/symbol.h"

struct lq_parse_options {
    struct lq_arena *arena;
    struct lq_diagnostics *diagnostics;
    struct lq_symbols *symbols;
    struct lq_recipe_sources *sources; /* NULL: included files are not opened */
};

/* Parses a whole text. Returns its items, NULL when there are none; whether it went well is told by
 * the diagnostics. */
struct lq_item *lq_parse_items(const struct lq_parse_options *options,
                               struct lq_recipe_source *source);
/* Parses a text that is one expression. NULL after an error. */
struct lq_expr *lq_parse_expression(const struct lq_parse_options *options,
                                    struct lq_recipe_source *source);

#endif
