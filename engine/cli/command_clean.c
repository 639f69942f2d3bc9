#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/cli/commands.h"

/* True when some artifact reads this path: then it is an input, whatever else it is. */
static bool is_read(const struct lq_recipe *recipe, const char *path)
{
    for (size_t a = 0; a < recipe->artifact_count; a++) {
        const struct lq_artifact *artifact = &recipe->artifacts[a];
        for (size_t i = 0; i < artifact->rule->attr_count; i++) {
            const struct lq_value *value = &artifact->values[i];
            bool same = artifact->rule->attrs[i].type == LQ_ATTR_PATH && value->path != NULL &&
                        strcmp(value->path, path) == 0;
            if (same) {
                return true;
            }
        }
    }
    return false;
}

/* Removes one output; only regular files and links, and never a file that the recipe reads. */
static enum lq_status remove_output(const struct lq_cli *cli, const struct lq_recipe *recipe,
                                    const char *path, struct lq_buffer *out, struct lq_error *err)
{
    struct stat st;
    if (lstat(path, &st) != 0) {
        return LQ_OK;
    }
    if ((!S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode)) || is_read(recipe, path)) {
        return LQ_OK;
    }
    if (!cli->dry_run && unlink(path) != 0 && errno != ENOENT) {
        return lq_error_errno(err, LQ_EIO, "%s: cannot remove", path);
    }
    if (!cli->quiet) {
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
