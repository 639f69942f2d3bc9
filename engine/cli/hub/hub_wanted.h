/* What a recipe names of the Hugging Face hub and the hub's cache does not have, or not all of.
 * Names are as the recipe writes them, each once. Thread rule: as hub_cache.h. */
#ifndef LQ_ENGINE_CLI_HUB_HUB_WANTED_H
#define LQ_ENGINE_CLI_HUB_HUB_WANTED_H

#include "engine/lang/recipe.h"

struct lq_hub_wanted {
    const char **names;
    size_t count;
    size_t there_count; /* names that are whole */
};

/* LQ_ENOMEM, or what is wrong with a name. */
enum lq_status lq_hub_find_wanted(const struct lq_recipe *recipe, struct lq_arena *arena,
                                  struct lq_hub_wanted *out, struct lq_error *err);

#endif
