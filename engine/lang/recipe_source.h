/* The texts that a recipe is made of: the recipe file, what it includes, and the small texts that
 * come from elsewhere (-D values, defaults of a schema). They are kept as long as the recipe, so
 * that any later message can show the line it is about. Everything lives in the arena of the
 * recipe. Thread rule: one thread while loading, then immutable. Limit: LQ_RECIPE_BYTES_MAX for all
 * texts together. */
#ifndef LQ_ENGINE_LANG_RECIPE_SOURCE_H
#define LQ_ENGINE_LANG_RECIPE_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/error.h"
#include "engine/lang/recipe.h"

struct lq_recipe_source {
    struct lq_recipe_source *next;           /* in the order of reading */
    const struct lq_recipe_source *includer; /* NULL for the recipe itself */
    const char *name;                        /* as messages show it; positions point at it */
    const char *dir;                         /* what its includes are relative to */
    const char *text;                        /* a NUL stands behind it */
    uint32_t size_bytes;
    bool is_file; /* then device and inode say which one */
    bool is_open; /* being parsed: to include it now is a cycle */
    uint64_t device;
    uint64_t inode;
};

struct lq_recipe_sources {
    struct lq_arena *arena;
    struct lq_recipe_source *first;
    struct lq_recipe_source *last;
    uint64_t size_bytes; /* of all texts together */
};

void lq_recipe_sources_init(struct lq_recipe_sources *sources, struct lq_arena *arena);
/* Adds a text; it is copied. */
enum lq_status lq_recipe_sources_add(struct lq_recipe_sources *sources, const char *name,
                                     const char *dir, const char *text, size_t size_bytes,
                                     struct lq_recipe_source **out, struct lq_error *err);
/* Reads a file. When it was read before, *out is that source and *known is true. A missing file is
 * LQ_ERECIPE, another failure LQ_EIO; the message starts with the path. */
enum lq_status lq_recipe_sources_open(struct lq_recipe_sources *sources, const char *path,
                                      struct lq_recipe_source **out, bool *known,
                                      struct lq_error *err);
/* The source whose `name` is `file` (the same pointer), or NULL. */
const struct lq_recipe_source *lq_recipe_sources_find(const struct lq_recipe_sources *sources,
                                                      const char *file);

/* Length of the valid UTF-8 sequence at `text`, 0 when there is none. */
size_t lq_recipe_utf8_length(const char *text, size_t left);
/* Offset of the first byte that is not UTF-8 or is NUL; `size_bytes` when all is well. */
size_t lq_recipe_utf8_check(const char *text, size_t size_bytes);
/* The position of a byte. */
struct lq_position lq_recipe_source_position(const struct lq_recipe_source *source, size_t offset);

#endif
