/* The recipes that ship with the program. `include "lqbuild:ladder.lq"` names one of them, wherever
 * the program is installed. Looked for, in this order: $LQBUILD_RECIPES_DIR, share/lqbuild/recipes
 * beside the folder of the program, and recipes beside it (a build that was not installed). Memory
 * lives in the arena. Thread rule: one thread; reads the environment. Limit: PATH_MAX for the path
 * of the program. */
#ifndef LQ_ENGINE_LANG_RECIPE_LIBRARY_H
#define LQ_ENGINE_LANG_RECIPE_LIBRARY_H

#include "engine/base/arena.h"
#include "engine/base/error.h"

/* The path of a file that an include names: in the library behind "lqbuild:", else relative to
 * `dir`. LQ_ERECIPE when the library has no such file, or the name leads out of it. */
enum lq_status lq_recipe_library_resolve(struct lq_arena *arena, const char *dir,
                                         const char *written, const char **path,
                                         struct lq_error *err);

#endif
