#define _XOPEN_SOURCE 700
#include "engine/cli/inspect_folder.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/limits.h"
#include "engine/base/text.h"
#include "engine/cli/quick_recipe.h"
#include "rules/format/inspect.h"

/* What is mapped: config.json, then the weights. */
struct folder {
    struct lq_map maps[LQ_INSPECT_FILES_MAX + 1];
    struct lq_inspect_file files[LQ_INSPECT_FILES_MAX + 1];
    size_t count;
};

static enum lq_status open_file(struct lq_cli *cli, struct folder *folder, const char *path,
                                struct lq_error *err)
{
    if (folder->count > LQ_INSPECT_FILES_MAX) {
        return lq_error_set(err, LQ_EMODEL, "%s: the folder has more than %d safetensors files",
                            path, LQ_INSPECT_FILES_MAX);
    }
    struct lq_map *map = &folder->maps[folder->count];
    enum lq_status status =
        path == NULL ? lq_error_nomem(err, "a path") : lq_map_open(map, path, LQ_EMODEL, err);
    if (status == LQ_OK) {
        const char *name = lq_arena_dup_string(&cli->arena, path);
        folder->files[folder->count++] =
            (struct lq_inspect_file){name == NULL ? "a file" : name, map->data, map->size_bytes};
    }
    return status;
}

static int compare_names(const void *left, const void *right)
{
    return strcmp(*(const char *const *)left, *(const char *const *)right);
}

/* Names of the folder's safetensors files in a fixed order. */
static enum lq_status list_weights(struct lq_cli *cli, const char *path, const char **names,
                                   size_t *count, struct lq_error *err)
{
    DIR *dir = opendir(path);
    *count = 0;
    if (dir == NULL) {
        return lq_error_errno(err, LQ_EMODEL, "%s: cannot list the folder", path);
    }
    enum lq_status status = LQ_OK;
    for (struct dirent *entry = readdir(dir); entry != NULL && status == LQ_OK;
         entry = readdir(dir)) {
        if (!lq_text_ends_with(entry->d_name, ".safetensors")) {
            continue;
        }
        if (*count == LQ_INSPECT_FILES_MAX) {
            status = lq_error_set(err, LQ_EMODEL, "%s: has more than %d safetensors files", path,
                                  LQ_INSPECT_FILES_MAX);
        } else {
            names[*count] = lq_path_join(&cli->arena, path, entry->d_name);
            status = names[*count] == NULL ? lq_error_nomem(err, "a path") : LQ_OK;
            *count += 1;
        }
    }
    (void)closedir(dir);
    if (status == LQ_OK) {
        qsort(names, *count, sizeof *names, compare_names);
    }
    return status;
}

enum lq_status lq_inspect_folder_files(struct lq_cli *cli, const char *name, const char *path,
                                       struct lq_buffer *out, struct lq_error *err)
{
    size_t name_count = 0;
    struct folder *folder = lq_arena_get(&cli->arena, sizeof *folder);
    const char **names = lq_arena_get_array(&cli->arena, LQ_INSPECT_FILES_MAX, sizeof *names);
    if (folder == NULL || names == NULL) {
        return lq_error_nomem(err, "a folder");
    }
    *folder = (struct folder){.count = 0};
    const char *config = lq_path_join(&cli->arena, path, "config.json");
    if (config != NULL && !lq_path_exists(config)) {
        return lq_error_set(err, LQ_EMODEL,
                            "%s: is a folder without config.json, so no model; give the folder of "
                            "a Hugging Face model, or a file",
                            name);
    }
    enum lq_status status = open_file(cli, folder, config, err);
    if (status == LQ_OK) {
        status = list_weights(cli, path, names, &name_count, err);
    }
    for (size_t i = 0; status == LQ_OK && i < name_count; i++) {
        status = open_file(cli, folder, names[i], err);
    }
    if (status == LQ_OK) {
        status = lq_inspect_folder(name, &folder->files[0], &folder->files[1], folder->count - 1,
                                   lq_quick_wants_json(cli), out, err);
    }
    for (size_t i = 0; i < folder->count; i++) {
        lq_map_close(&folder->maps[i]);
    }
    return status;
}
