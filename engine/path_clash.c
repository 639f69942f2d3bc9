/* Refuses a build whose outputs would replace files that it reads: sources, the recipe and what it
 * includes, or each other. Paths are compared where they really lead, since "./a", "b/../a" and a
 * way through a linked folder all name one file. */
#define _DEFAULT_SOURCE /* realpath */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/build_state.h"

/* A folder as it is written somewhere, and where it really lies. */
struct clash_dir {
    struct clash_dir *next;
    const char *written;
    size_t written_length;
    const char *real; /* equal folders have the same pointer */
};

enum { DIR_BUCKETS = 1 << 10 };

struct clash_place {
    const char *dir; /* one pointer for one folder */
    const char *base;
    const char *path; /* as the recipe has it */
    const struct lq_artifact *artifact;
};

struct clash_list {
    struct clash_place *items;
    size_t count;
    struct lq_arena *arena;
    struct clash_dir *dirs[DIR_BUCKETS];
};

static size_t bucket_of(const char *text, size_t length)
{
    uint64_t hash = 1469598103934665603u; /* FNV-1a */
    for (size_t i = 0; i < length; i++) {
        hash = (hash ^ (unsigned char)text[i]) * 1099511628211u;
    }
    return (size_t)(hash % DIR_BUCKETS);
}

static struct clash_dir *find_dir(const struct clash_list *list, const char *text, size_t length)
{
    struct clash_dir *dir = list->dirs[bucket_of(text, length)];
    while (dir != NULL &&
           (dir->written_length != length || memcmp(dir->written, text, length) != 0)) {
        dir = dir->next;
    }
    return dir;
}

static struct clash_dir *add_dir(struct clash_list *list, const char *text, size_t length)
{
    struct clash_dir *dir = lq_arena_get(list->arena, sizeof *dir);
    char *copy = lq_arena_dup(list->arena, text, length);
    if (dir == NULL || copy == NULL) {
        return NULL;
    }
    struct clash_dir **bucket = &list->dirs[bucket_of(text, length)];
    *dir = (struct clash_dir){.next = *bucket, .written = copy, .written_length = length};
    *bucket = dir;
    return dir;
}

/* Where a file of this path would lie: its folder without links, and its last part. Folders that do
 * not exist yet are taken as they are written. NULL when memory is out. */
static const char *real_place(struct lq_arena *arena, const char *path)
{
    const char *dir = lq_path_dir(arena, path);
    const char *base = lq_path_base(path);
    if (dir == NULL) {
        return NULL;
    }
    errno = 0;
    char *resolved = realpath(dir, NULL);
    const char *parent = NULL;
    if (resolved == NULL && errno == ENOMEM) {
        return NULL;
    }
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

/* The real folder for the first `length` bytes of a path, one pointer for one folder. */
static const char *intern_dir(struct clash_list *list, const char *text, size_t length)
{
    struct clash_dir *dir = find_dir(list, text, length);
    if (dir != NULL) {
        return dir->real;
    }
    /* A file in it shows where it lies, whether it exists or not. */
    const char *file = lq_arena_printf(list->arena, "%.*s/x", (int)length, text);
    const char *real = file == NULL ? NULL : real_place(list->arena, file);
    dir = real == NULL ? NULL : add_dir(list, text, length);
    if (dir == NULL) {
        return NULL;
    }
    /* Without a working folder "./x" stays "x". */
    size_t real_length = strlen(real) > strlen("/x") ? strlen(real) - strlen("/x") : 0;
    struct clash_dir *same = real_length == length && memcmp(real, text, length) == 0
                                 ? dir
                                 : find_dir(list, real, real_length);
    if (same == NULL) {
        same = add_dir(list, real, real_length);
        if (same == NULL) {
            return NULL;
        }
        same->real = same->written;
    }
    dir->real = same == dir ? dir->written : same->real;
    return dir->real;
}

/* Splits a path into its real folder and its last part; false when memory is out. */
static bool locate(struct clash_list *list, const char *path, struct clash_place *place)
{
    place->path = path;
    place->base = lq_path_base(path);
    bool plain =
        place->base[0] != '\0' && strcmp(place->base, ".") != 0 && strcmp(place->base, "..") != 0;
    if (!plain) {
        const char *real = real_place(list->arena, path);
        return real != NULL && lq_path_base(real)[0] != '\0' && locate(list, real, place);
    }
    size_t length = (size_t)(place->base - path);
    while (length > 1 && path[length - 1] == '/') {
        length--;
    }
    place->dir = length == 0 ? intern_dir(list, ".", 1) : intern_dir(list, path, length);
    return place->dir != NULL;
}

static int order_of(const struct clash_place *left, const struct clash_place *right)
{
    if (left->dir != right->dir) {
        return strcmp(left->dir, right->dir);
    }
    return strcmp(left->base, right->base);
}

static int compare_places(const void *a, const void *b)
{
    const struct clash_place *left = a;
    const struct clash_place *right = b;
    int order = order_of(left, right);
    if (order != 0) {
        return order;
    }
    return left->artifact->index < right->artifact->index ? -1 : 1;
}

static int compare_to_place(const void *key, const void *item)
{
    return order_of(key, item);
}

static const struct clash_place *find_place(const struct clash_list *list,
                                            const struct clash_place *wanted)
{
    return bsearch(wanted, list->items, list->count, sizeof *list->items, compare_to_place);
}

static enum lq_status refuse(const struct clash_place *place, const char *path,
                             struct lq_error *err)
{
    return lq_attr_error(place->artifact, NULL, err, LQ_ERECIPE,
                         "'%s' would overwrite '%s', which this build reads", place->artifact->name,
                         path);
}

/* `path` is read: neither the place where it stands nor what it links to may be written. */
static enum lq_status check_read(struct clash_list *list, const char *path, struct lq_error *err)
{
    struct clash_place here;
    char link[1];
    if (!locate(list, path, &here)) {
        return lq_error_nomem(err, "the build graph");
    }
    const struct clash_place *place = find_place(list, &here);
    if (place == NULL && readlink(path, link, sizeof link) >= 0) {
        char *target = realpath(path, NULL);
        if (target != NULL && locate(list, target, &here)) {
            place = find_place(list, &here);
        }
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
            place->artifact = node->artifact;
            if (!locate(list, node->places[k].path, place)) {
                return lq_error_nomem(err, "the build graph");
            }
            place->path = node->places[k].path;
            list->count++;
        }
    }
    qsort(list->items, list->count, sizeof *list->items, compare_places);
    for (size_t i = 1; i < list->count; i++) {
        const struct clash_place *one = &list->items[i - 1];
        const struct clash_place *other = &list->items[i];
        if (order_of(one, other) == 0) {
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
