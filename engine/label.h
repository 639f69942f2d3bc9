/* Labels: the names under which histories of steps are kept, and pins and listings know results.
 * "folder|artifact" for an artifact, "folder|artifact|operation|step" for a step; the folder is
 * where the recipe really lies, so that recipes of two projects do not meet. Thread rule: pure. */
#ifndef LQ_ENGINE_LABEL_H
#define LQ_ENGINE_LABEL_H

#include "engine/base/arena.h"

struct lq_artifact;

/* `op` and `step` NULL: the artifact's own. NULL when memory is out. */
char *lq_label_make(struct lq_arena *arena, const struct lq_artifact *artifact, const char *op,
                    const char *step);

#endif
