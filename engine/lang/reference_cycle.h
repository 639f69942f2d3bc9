/* Finds artifacts that refer to themselves in a circle. Each circle is reported once, as a path
 * that starts at the artifact declared first. Linear in the number of references, without
 * recursion. Thread rule: one thread. */
#ifndef LQ_ENGINE_LANG_REFERENCE_CYCLE_H
#define LQ_ENGINE_LANG_REFERENCE_CYCLE_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/lang/diagnostic.h"
#include "engine/lang/recipe.h"

bool lq_reference_cycle_check(const struct lq_artifact *artifacts, size_t count,
                              struct lq_diagnostics *diagnostics);

#endif
