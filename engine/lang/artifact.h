/* Reading an artifact of a loaded recipe. The getters that rules use are declared in engine/rule.h
 * and defined in artifact.c; this header is for the rest of engine/lang. Thread rule: pure. */
#ifndef LQ_ENGINE_LANG_ARTIFACT_H
#define LQ_ENGINE_LANG_ARTIFACT_H

#include "engine/lang/recipe.h"

/* The value of an attribute by its schema name, also when it is NONE; NULL when the rule has no
 * such attribute. */
const struct lq_value *lq_artifact_slot(const struct lq_artifact *artifact, const char *name);

#endif
