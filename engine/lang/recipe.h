/* A recipe after reading: artifacts with evaluated, schema-checked attributes, resolved references
 * and positions for messages. Made by lq_recipe_load from a file or lq_recipe_parse from text (the
 * thin subcommands write a small recipe in memory). Everything lives in one arena that the recipe
 * owns. Thread rule: immutable after loading, then freely shared. Limits: limits.h. */
#ifndef LQ_ENGINE_LANG_RECIPE_H
#define LQ_ENGINE_LANG_RECIPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/rule.h"

struct lq_buffer;
struct lq_recipe_store;

struct lq_position {
    const char *file;
    unsigned line;   /* from 1 */
    unsigned column; /* from 1, in characters */
};

enum lq_value_type {
    LQ_VALUE_NONE,
    LQ_VALUE_STRING,
    LQ_VALUE_NUMBER, /* integers up to 2^53 are exact */
    LQ_VALUE_BOOL,
    LQ_VALUE_REF,  /* resolved artifact */
    LQ_VALUE_LIST, /* items */
    LQ_VALUE_MAP,  /* keys and items */
};

struct lq_value {
    enum lq_value_type type;
    const char *string; /* as written; for a REF the name of the artifact */
    const char *path;   /* PATH and OUT_PATH: `string` joined to the artifact's folder */
    double number;
    bool boolean;
    bool is_default; /* not written in the recipe: it comes from the schema's default_text */
    const struct lq_artifact *ref;
    struct lq_value *items;
    const char *const *keys;
    size_t count;
    struct lq_position position;
};

/* One artifact. `values[i]` belongs to `rule->attrs[i]`; type NONE where it is unset and has no
 * default. PATH and OUT_PATH values hold the text as written; lq_attr_path joins it to `dir`. Only
 * the written text ever reaches a manifest, so results do not depend on where a recipe lies. */
struct lq_artifact {
    const char *name;
    const struct lq_rule *rule;
    const char *dir; /* folder of the recipe file */
    struct lq_position position;
    struct lq_value *values;
    size_t index; /* place in recipe->artifacts */
    /* private to engine/lang */
    const struct lq_recipe_store *store;
};

struct lq_recipe {
    struct lq_artifact *artifacts;
    size_t artifact_count;
    const struct lq_artifact *const
        *defaults; /* `default a, b`; every artifact when there is none */
    size_t default_count;
    /* private to engine/lang */
    struct lq_recipe_store *store;
};

struct lq_define {
    const char *name; /* -D name=value */
    const char
        *value; /* recipe syntax for numbers, true, false and quoted strings; else a string */
};

/* Reads, evaluates and checks. On failure err->message is the whole diagnostic: first line
 * "file:line:col: message; did you mean 'x'?", then the source line, then the caret line. Up to 20
 * errors are reported, separated by newlines, as far as the message has room. A -D that names no
 * `let` is an error. Errors: LQ_ERECIPE (also for a missing recipe file), a schema's range status,
 * LQ_ENOMEM. */
enum lq_status lq_recipe_load(struct lq_recipe **out, const char *path,
                              const struct lq_registry *registry, const struct lq_define *defines,
                              size_t define_count, struct lq_error *err);
/* The same from memory; `name` stands for the file in messages, `dir` is what paths are relative
 * to. */
enum lq_status lq_recipe_parse(struct lq_recipe **out, const char *text, size_t size_bytes,
                               const char *name, const char *dir,
                               const struct lq_registry *registry, const struct lq_define *defines,
                               size_t define_count, struct lq_error *err);
void lq_recipe_destroy(struct lq_recipe *recipe);
/* The files that the recipe was read from, itself first; NULL past the last. */
const char *lq_recipe_file(const struct lq_recipe *recipe, size_t index);
/* By name, or by the output path as written in the recipe; NULL when there is none. */
const struct lq_artifact *lq_recipe_find(const struct lq_recipe *recipe, const char *name);
/* A likely intended name for a target that does not exist, or NULL. */
const char *lq_recipe_suggest(const struct lq_recipe *recipe, const char *name);
/* The attribute's value, NULL when unset. */
const struct lq_value *lq_artifact_value(const struct lq_artifact *artifact, const char *name);

/* Appends the canonical layout of a recipe text; comments are kept; formatting what is formatted
 * changes nothing. LQ_ERECIPE with a diagnostic for a syntax error. */
enum lq_status lq_recipe_format(const char *text, size_t size_bytes, const char *name,
                                struct lq_buffer *out, struct lq_error *err);

#endif
