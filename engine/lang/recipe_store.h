/* What a recipe keeps besides its artifacts: the arena that everything lives in, the texts that it
 * was read from (for messages that come later), and its names (for looking up targets). Owned by
 * the recipe. Thread rule: immutable after loading. */
#ifndef LQ_ENGINE_LANG_RECIPE_STORE_H
#define LQ_ENGINE_LANG_RECIPE_STORE_H

#include "engine/base/arena.h"
#include "engine/lang/recipe_source.h"
#include "engine/lang/symbol.h"

struct lq_recipe_store {
    struct lq_arena arena;
    struct lq_recipe_sources sources;
    struct lq_symbols symbols;
};

#endif
