/* Diagnostics: what is wrong, where, the source line and a caret below the place.
 *
 *     recipe.lq:3:1: unknown rule 'imatrx'; did you mean 'imatrix'?
 *         imatrx im { model = base }
 *         ^
 *
 * A load collects up to LQ_DIAGNOSTICS_MAX of them; the status of the first is the status of the
 * load. The same complaint about the same place is kept once, because a loop meets it every round.
 * Long lines are cut around the caret, tabs stay tabs so that the caret stands right, and control
 * characters of the user's text never reach the terminal. Functions of engine/lang that take a
 * `struct lq_diagnostics *` return false after they have added one. Thread rule: one thread. */
#ifndef LQ_ENGINE_LANG_DIAGNOSTIC_H
#define LQ_ENGINE_LANG_DIAGNOSTIC_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "engine/base/error.h"
#include "engine/lang/recipe_source.h"

enum { LQ_DIAGNOSTICS_MAX = 20 };

struct lq_diagnostics {
    const struct lq_recipe_sources *sources;
    struct lq_buffer text;
    enum lq_status status; /* of the first one */
    unsigned count;
    unsigned left_out; /* that the text had no room for */
    bool stop;         /* a limit was hit or there are enough: do no further work */
    struct {
        struct lq_position position;
        const char *format;
    } seen[LQ_DIAGNOSTICS_MAX];
};

void lq_diagnostics_init(struct lq_diagnostics *diagnostics,
                         const struct lq_recipe_sources *sources);
void lq_diagnostics_fini(struct lq_diagnostics *diagnostics);
/* Adds an error at a place. `position` may be NULL: then the message stands alone. */
void lq_diagnostics_add(struct lq_diagnostics *diagnostics, const struct lq_position *position,
                        enum lq_status status, const char *format, ...) LQ_PRINTF(4, 5);
/* The same, and nothing further shall be done. */
void lq_diagnostics_stop(struct lq_diagnostics *diagnostics, const struct lq_position *position,
                         enum lq_status status, const char *format, ...) LQ_PRINTF(4, 5);
/* Adds an error whose text is complete already. */
void lq_diagnostics_add_text(struct lq_diagnostics *diagnostics, enum lq_status status,
                             const char *text);
void lq_diagnostics_nomem(struct lq_diagnostics *diagnostics);
/* LQ_OK when there is none; else everything goes to `err`. */
enum lq_status lq_diagnostics_finish(const struct lq_diagnostics *diagnostics,
                                     struct lq_error *err);

/* Appends one diagnostic as shown above, without a line end behind it. */
void lq_diagnostic_render(struct lq_buffer *out, const struct lq_recipe_sources *sources,
                          const struct lq_position *position, const char *message);

#endif
