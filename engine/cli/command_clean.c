#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/fs.h"
#include "engine/base/json.h"
#include "engine/cli/commands.h"

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* True when `path` is what stands at `read`, or what that links to, or a file of a model in the
 * folder `read`. Other words for the same place do not change that. */
static bool is_part_of(const char *read, const char *path, const struct stat *st,
                       struct lq_arena *arena)
{
    struct stat seen;
    if ((lstat(read, &seen) == 0 && same_file(&seen, st)) ||
        (stat(read, &seen) == 0 && same_file(&seen, st))) {
        return true;
    }
    const char *extension = lq_path_extension(path);
    const char *dir = lq_path_dir(arena, path);
    struct stat folder;
    bool of_model = strcmp(extension, ".json") == 0 || strcmp(extension, ".safetensors") == 0;
    return of_model && dir != NULL && stat(read, &seen) == 0 && S_ISDIR(seen.st_mode) &&
           stat(dir, &folder) == 0 && same_file(&seen, &folder);
}

/* True when the recipe reads this file: then it is an input, whatever else it is. */
static bool is_read(const struct lq_recipe *recipe, const char *path, const struct stat *st,
                    struct lq_arena *arena)
{
    for (size_t i = 0; lq_recipe_file(recipe, i) != NULL; i++) {
        if (is_part_of(lq_recipe_file(recipe, i), path, st, arena)) {
            return true;
        }
    }
    for (size_t a = 0; a < recipe->artifact_count; a++) {
        const struct lq_artifact *artifact = &recipe->artifacts[a];
        for (size_t i = 0; i < artifact->rule->attr_count; i++) {
            const struct lq_value *value = &artifact->values[i];
            if (artifact->rule->attrs[i].type == LQ_ATTR_PATH && value->path != NULL &&
                is_part_of(value->path, path, st, arena)) {
                return true;
            }
        }
    }
    return false;
}

/* Removes one output; only regular files and links, and never a file that the recipe reads. */
static enum lq_status remove_output(struct lq_cli *cli, const struct lq_recipe *recipe,
                                    const char *path, struct lq_buffer *out, struct lq_error *err)
{
    struct stat st;
    if (lstat(path, &st) != 0) {
        return LQ_OK;
    }
    if ((!S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode)) || is_read(recipe, path, &st, &cli->arena)) {
        return LQ_OK;
    }
    if (!cli->dry_run && unlink(path) != 0 && errno != ENOENT) {
        return lq_error_errno(err, LQ_EIO, "%s: cannot remove", path);
    }
    if (cli->json) {
        struct lq_json_writer writer;
        lq_json_writer_init(&writer, out, false);
        lq_json_begin_object(&writer);
        lq_json_put_string(&writer, "event", cli->dry_run ? "would-remove" : "removed");
        lq_json_put_string(&writer, "path", path);
        lq_json_end_object(&writer);
        lq_buffer_append_char(out, '\n');
    } else if (!cli->quiet) {
        lq_buffer_printf(out, "%s %s\n", cli->dry_run ? "would remove" : "removed", path);
    }
    return LQ_OK;
}

static enum lq_status clean_artifact(struct lq_cli *cli, const struct lq_recipe *recipe,
                                     const struct lq_artifact *artifact, struct lq_buffer *out,
                                     struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < artifact->rule->attr_count; i++) {
        const struct lq_value *value = &artifact->values[i];
        enum lq_attr_type type = artifact->rule->attrs[i].type;
        if (type == LQ_ATTR_OUT_PATH && value->path != NULL) {
            status = remove_output(cli, recipe, value->path, out, err);
        }
        for (size_t k = 0; type == LQ_ATTR_OUT_PATH_LIST && status == LQ_OK && k < value->count;
             k++) {
            status = remove_output(cli, recipe, value->items[k].path, out, err);
        }
    }
    return status;
}

enum lq_status lq_command_clean(struct lq_cli *cli, struct lq_error *err)
{
    const struct lq_args *args = &cli->args;
    struct lq_recipe *recipe = NULL;
    struct lq_buffer out;
    lq_buffer_init(&out);
    enum lq_status status = lq_cli_load_recipe(cli, &recipe, err);
    /* All names are looked up before the first file goes. */
    for (size_t i = 0; status == LQ_OK && i < args->operand_count; i++) {
        if (lq_recipe_find(recipe, args->operands[i]) == NULL) {
            const char *nearest = lq_recipe_suggest(recipe, args->operands[i]);
            status = lq_error_set(err, LQ_EUSAGE, "unknown target '%s'%s%s%s", args->operands[i],
                                  nearest == NULL ? "; 'lqbuild graph' lists the artifacts"
                                                  : "; did you mean '",
                                  nearest == NULL ? "" : nearest, nearest == NULL ? "" : "'?");
        }
    }
    for (size_t i = 0; status == LQ_OK && i < args->operand_count; i++) {
        status = clean_artifact(cli, recipe, lq_recipe_find(recipe, args->operands[i]), &out, err);
    }
    for (size_t i = 0; status == LQ_OK && args->operand_count == 0 && i < recipe->artifact_count;
         i++) {
        status = clean_artifact(cli, recipe, &recipe->artifacts[i], &out, err);
    }
    lq_cli_print(&out);
    lq_buffer_fini(&out);
    lq_recipe_destroy(recipe);
    return status;
}
