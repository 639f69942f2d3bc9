#define _DEFAULT_SOURCE /* realpath */
#include "engine/label.h"

#include <stdlib.h>

#include "engine/lang/recipe.h"

char *lq_label_make(struct lq_arena *arena, const struct lq_artifact *artifact, const char *op,
                    const char *step)
{
    char *real = realpath(artifact->dir, NULL);
    const char *dir = real == NULL ? artifact->dir : real;
    char *label = op == NULL ? lq_arena_printf(arena, "%s|%s", dir, artifact->name)
                             : lq_arena_printf(arena, "%s|%s|%s|%s", dir, artifact->name, op, step);
    free(real);
    return label;
}
