#include "engine/lang/recipe_library.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/compiler.h"
#include "engine/base/fs.h"
#include "engine/base/text.h"

#define LIBRARY_PREFIX "lqbuild:"

/* The folder of the running program; NULL when it cannot be told. */
static const char *program_dir(struct lq_arena *arena)
{
    char path[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length <= 0) {
        return NULL;
    }
    path[length] = '\0';
    return lq_path_dir(arena, path);
}

static bool stays_inside(const char *name)
{
    if (name[0] == '\0' || name[0] == '/') {
        return false;
    }
    for (const char *part = name; part != NULL; part = strchr(part, '/')) {
        part += part[0] == '/' ? 1 : 0;
        if (strncmp(part, "..", 2) == 0 && (part[2] == '/' || part[2] == '\0')) {
            return false;
        }
    }
    return true;
}

static enum lq_status find_in_library(struct lq_arena *arena, const char *name, const char **path,
                                      struct lq_error *err)
{
    const char *beside = program_dir(arena);
    const char *dirs[3] = {getenv("LQBUILD_RECIPES_DIR")};
    if (beside != NULL) {
        dirs[1] = lq_arena_printf(arena, "%s/../share/lqbuild/recipes", beside);
        dirs[2] = lq_arena_printf(arena, "%s/../recipes", beside);
        if (dirs[1] == NULL || dirs[2] == NULL) {
            return lq_error_nomem(err, "the path of a recipe");
        }
    }
    for (size_t i = 0; i < LQ_COUNT_OF(dirs); i++) {
        if (dirs[i] == NULL || dirs[i][0] == '\0') {
            continue;
        }
        *path = lq_path_join(arena, dirs[i], name);
        if (*path == NULL) {
            return lq_error_nomem(err, "the path of a recipe");
        }
        if (lq_path_exists(*path)) {
            return LQ_OK;
        }
    }
    return lq_error_set(err, LQ_ERECIPE,
                        "'" LIBRARY_PREFIX "%s': the recipes that ship with lqbuild have no such "
                        "file; they are looked for in LQBUILD_RECIPES_DIR and in "
                        "../share/lqbuild/recipes beside the program",
                        name);
}

enum lq_status lq_recipe_library_resolve(struct lq_arena *arena, const char *dir,
                                         const char *written, const char **path,
                                         struct lq_error *err)
{
    *path = NULL;
    if (lq_text_starts_with(written, LIBRARY_PREFIX)) {
        const char *name = written + sizeof LIBRARY_PREFIX - 1;
        return stays_inside(name)
                   ? find_in_library(arena, name, path, err)
                   : lq_error_set(err, LQ_ERECIPE,
                                  "'%s': expected the name of a recipe behind '" LIBRARY_PREFIX
                                  "', for example '" LIBRARY_PREFIX "ladder.lq'",
                                  written);
    }
    *path = lq_path_join(arena, dir, written);
    return *path == NULL ? lq_error_nomem(err, "the path of a recipe") : LQ_OK;
}
