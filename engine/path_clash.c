/* Refuses a build whose outputs would replace files that it reads: sources, the recipe and what it
 * includes, or each other. Paths are compared where they really lead, since "./a", "b/../a" and a
 * way through a linked folder all name one file. */
#define _DEFAULT_SOURCE /* realpath */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "engine/build_state.h"

struct clash_place {
    const char *real;
    const char *path; /* as the recipe has it */
    const struct lq_artifact *artifact;
};

struct clash_list {
    struct clash_place *items;
    size_t count;
    struct lq_arena *arena;
};

/* Where a file of this path would lie: its folder without links, and its last part. Folders that do
 * not exist yet are taken as they are written. NULL when memory is out. */
static const char *real_place(struct lq_arena *arena, const char *path)
{
    const char *dir = lq_path_dir(arena, path);
    const char *base = lq_path_base(path);
    if (dir == NULL) {
        return NULL;
    }
    char *resolved = realpath(dir, NULL);
    const char *parent = NULL;
    if (resolved != NULL) {
        parent = lq_arena_dup_string(arena, resolved);
        free(resolved);
    } else if (strcmp(dir, path) == 0 || strlen(path) >= (size_t)PATH_MAX) {
        return lq_arena_dup_string(arena, path);
    } else {
        parent = real_place(arena, dir);
    }
    if (parent == NULL || base[0] == '\0' || strcmp(base, ".") == 0) {
        return parent;
    }
    return strcmp(base, "..") == 0 ? lq_path_dir(arena, parent) : lq_path_join(arena, parent, base);
}

static int compare_places(const void *a, const void *b)
{
    const struct clash_place *left = a;
    const struct clash_place *right = b;
    int order = strcmp(left->real, right->real);
    if (order != 0) {
        return order;
    }
    return left->artifact->index < right->artifact->index ? -1 : 1;
}

static int compare_to_place(const void *key, const void *item)
{
    return strcmp(key, ((const struct clash_place *)item)->real);
}

static const struct clash_place *find_place(const struct clash_list *list, const char *real)
{
    return bsearch(real, list->items, list->count, sizeof *list->items, compare_to_place);
}

static enum lq_status refuse(const struct clash_place *place, const char *path,
                             struct lq_error *err)
{
    return lq_attr_error(place->artifact, NULL, err, LQ_ERECIPE,
                         "'%s' would overwrite '%s', which this build reads", place->artifact->name,
                         path);
}

/* `path` is read: neither the place where it stands nor what it links to may be written. */
static enum lq_status check_read(const struct clash_list *list, const char *path,
                                 struct lq_error *err)
{
    const char *here = real_place(list->arena, path);
    if (here == NULL) {
        return lq_error_nomem(err, "the build graph");
    }
    const struct clash_place *place = find_place(list, here);
    if (place == NULL) {
        char *target = realpath(path, NULL);
        place = target == NULL ? NULL : find_place(list, target);
        free(target);
    }
    return place == NULL ? LQ_OK : refuse(place, path, err);
}

static enum lq_status collect(const struct lq_build *build, struct clash_list *list,
                              struct lq_error *err)
{
    for (size_t i = 0; i < build->node_count; i++) {
        const struct lq_node *node = &build->nodes[i];
        for (size_t k = 0; node->state != LQ_NODE_UNWANTED && k < node->place_count; k++) {
            struct clash_place *place = &list->items[list->count];
            *place = (struct clash_place){.real = real_place(list->arena, node->places[k].path),
                                          .path = node->places[k].path,
                                          .artifact = node->artifact};
            if (place->real == NULL) {
                return lq_error_nomem(err, "the build graph");
            }
            list->count++;
        }
    }
    qsort(list->items, list->count, sizeof *list->items, compare_places);
    for (size_t i = 1; i < list->count; i++) {
        const struct clash_place *one = &list->items[i - 1];
        const struct clash_place *other = &list->items[i];
        if (strcmp(one->real, other->real) == 0) {
            return lq_attr_error(other->artifact, NULL, err, LQ_ERECIPE,
                                 "'%s' and '%s' are one file, written by '%s' and '%s'; give each "
                                 "its own path",
                                 one->path, other->path, one->artifact->name,
                                 other->artifact->name);
        }
    }
    return LQ_OK;
}

static enum lq_status check_all(const struct lq_build *build, struct clash_list *list,
                                struct lq_error *err)
{
    enum lq_status status = collect(build, list, err);
    for (const struct lq_source *source = build->sources; source != NULL && status == LQ_OK;
         source = source->next) {
        status = check_read(list, source->path, err);
    }
    for (size_t i = 0; status == LQ_OK; i++) {
        const char *file = lq_recipe_file(build->recipe, i);
        if (file == NULL) {
            break;
        }
        status = check_read(list, file, err);
    }
    return status;
}

enum lq_status lq_plan_check_paths(const struct lq_build *build, struct lq_error *err)
{
    size_t room = 0;
    for (size_t i = 0; i < build->node_count; i++) {
        room += build->nodes[i].place_count;
    }
    if (room == 0) {
        return LQ_OK;
    }
    struct lq_arena arena;
    lq_arena_init(&arena);
    struct clash_list list = {.arena = &arena};
    list.items = lq_arena_get_array(&arena, room, sizeof *list.items);
    enum lq_status status =
        list.items == NULL ? lq_error_nomem(err, "the build graph") : check_all(build, &list, err);
    lq_arena_fini(&arena);
    return status;
}
