/* Writes small recipes in memory for commands that take no recipe: every word of the user goes
 * through quoting, so that a path with quotes, braces or spaces means itself. Errors are sticky in
 * the buffer and in `refused`; lq_recipe_text_finish reports them. The caller owns the text. Thread
 * rule: one thread at a time. */
#ifndef LQ_ENGINE_CLI_RECIPE_TEXT_H
#define LQ_ENGINE_CLI_RECIPE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buffer.h"
#include "engine/base/error.h"

struct lq_recipe_text {
    struct lq_buffer buffer;
    bool refused; /* a value held a control character, which a recipe cannot express */
};

void lq_recipe_text_init(struct lq_recipe_text *text);
void lq_recipe_text_fini(struct lq_recipe_text *text);
/* "kind name {" and "}"; a name that is no identifier is quoted. */
void lq_recipe_text_begin(struct lq_recipe_text *text, const char *kind, const char *name);
void lq_recipe_text_end(struct lq_recipe_text *text);
/* attribute = "value", quoted; nothing when `value` is NULL. */
void lq_recipe_text_string(struct lq_recipe_text *text, const char *attribute, const char *value);
/* attribute = ["a", "b"]: strings, or artifacts by name. */
void lq_recipe_text_list(struct lq_recipe_text *text, const char *attribute,
                         const char *const *values, size_t count);
/* attribute = { "key" = "value", ... }, in order. */
void lq_recipe_text_map(struct lq_recipe_text *text, const char *attribute, const char *const *keys,
                        const char *const *values, size_t count);
/* attribute = word, as it stands: references, true and false. */
void lq_recipe_text_word(struct lq_recipe_text *text, const char *attribute, const char *word);
void lq_recipe_text_uint(struct lq_recipe_text *text, const char *attribute, uint64_t value);
void lq_recipe_text_number(struct lq_recipe_text *text, const char *attribute, double value);
enum lq_status lq_recipe_text_finish(const struct lq_recipe_text *text, struct lq_error *err);

#endif
