#include "engine/cli/profile_place.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/text.h"

enum { PROFILES_LISTED_MAX = 1000, NAMES_MAX = 64 };

#define EXTENSION ".dqprofile"

/* NULL: there is none, or memory is out. */
static const char *find_folder(struct lq_cli *cli)
{
    const char *given = getenv("LQBUILD_PROFILE_DIR");
    if (given != NULL && given[0] != '\0') {
        return given;
    }
    return cli->settings.config_dir == NULL
               ? NULL
               : lq_path_join(&cli->arena, cli->settings.config_dir, "profiles");
}

static enum lq_status refuse(const char *name, const char *folder, struct lq_error *err)
{
    size_t count = 0;
    const struct lq_preset *presets = lq_presets(&count);
    const char *names[NAMES_MAX];
    struct lq_buffer list;
    lq_buffer_init(&list);
    for (size_t i = 0; i < count && i < NAMES_MAX; i++) {
        names[i] = presets[i].name;
        lq_buffer_printf(&list, "%s%s", i == 0 ? "" : ", ", presets[i].name);
    }
    const char *nearest = lq_text_nearest(name, names, count < NAMES_MAX ? count : NAMES_MAX);
    enum lq_status status =
        lq_error_set(err, LQ_EPROFILE, "profile '%s' is neither a preset (%s) nor a file%s%s%s%s%s",
                     name, lq_buffer_text(&list), folder == NULL ? "" : ", nor in ",
                     folder == NULL ? "" : folder, nearest == NULL ? "" : "; did you mean '",
                     nearest == NULL ? "" : nearest, nearest == NULL ? "" : "'?");
    lq_buffer_fini(&list);
    return status;
}

enum lq_status lq_profile_place_find(struct lq_cli *cli, const char *name,
                                     const struct lq_preset **preset, const char **path,
                                     struct lq_error *err)
{
    *preset = lq_preset_find(name);
    *path = NULL;
    if (*preset != NULL) {
        return LQ_OK;
    }
    if (lq_path_exists(name)) {
        *path = name;
        return LQ_OK;
    }
    const char *folder = find_folder(cli);
    bool is_name = strchr(name, '/') == NULL && name[0] != '.' && name[0] != '\0';
    const char *found = folder == NULL || !is_name
                            ? NULL
                            : lq_arena_printf(&cli->arena, "%s/%s%s", folder, name,
                                              lq_text_ends_with(name, EXTENSION) ? "" : EXTENSION);
    if (found == NULL || !lq_path_exists(found)) {
        return refuse(name, found != NULL && lq_path_is_dir(folder) ? folder : NULL, err);
    }
    *path = found;
    return LQ_OK;
}

static int compare_paths(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

enum lq_status lq_profile_place_list(struct lq_cli *cli, const char *const **paths, size_t *count,
                                     struct lq_error *err)
{
    const char *folder = find_folder(cli);
    const char **list = lq_arena_get_array(&cli->arena, PROFILES_LISTED_MAX, sizeof *list);
    DIR *dir = folder == NULL ? NULL : opendir(folder);
    enum lq_status status = list == NULL ? lq_error_nomem(err, "the list") : LQ_OK;
    *count = 0;
    *paths = (const char *const *)list;
    for (struct dirent *entry = dir == NULL ? NULL : readdir(dir);
         entry != NULL && status == LQ_OK && *count < PROFILES_LISTED_MAX; entry = readdir(dir)) {
        if (!lq_text_ends_with(entry->d_name, EXTENSION) || entry->d_name[0] == '.') {
            continue;
        }
        list[*count] = lq_path_join(&cli->arena, folder, entry->d_name);
        status = list[*count] == NULL ? lq_error_nomem(err, "the list") : LQ_OK;
        *count += status == LQ_OK ? 1 : 0;
    }
    if (dir != NULL) {
        (void)closedir(dir);
    }
    if (*count > 0) {
        qsort(list, *count, sizeof *list, compare_paths);
    }
    return status;
}
