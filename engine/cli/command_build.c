#include <string.h>

#include "engine/base/fs.h"
#include "engine/cli/commands.h"

/* A word that is neither a command nor a target: the first word may have been meant as either. */
static enum lq_status refuse_target(const struct lq_recipe *recipe, const char *word, bool first,
                                    struct lq_error *err)
{
    const char *target = recipe == NULL ? NULL : lq_recipe_suggest(recipe, word);
    const char *command = first ? lq_command_nearest(lq_commands, lq_command_count, word) : NULL;
    if (command != NULL && strcmp(command, word) == 0) {
        command = NULL; /* `lqbuild build check`: a target was meant */
    }
    if (command != NULL && target == NULL) {
        return lq_error_set(err, LQ_EUSAGE, "unknown command or target '%s'; did you mean '%s'?",
                            word, command);
    }
    if (target != NULL) {
        return lq_error_set(err, LQ_EUSAGE, "unknown target '%s'; did you mean '%s'?", word,
                            target);
    }
    return lq_error_set(err, LQ_EUSAGE,
                        "unknown target '%s'; 'lqbuild graph' lists the artifacts of the recipe",
                        word);
}

enum lq_status lq_command_build(struct lq_cli *cli, struct lq_error *err)
{
    const struct lq_args *args = &cli->args;
    /* Without a recipe the word was more likely meant as a command. */
    bool misspelt = args->operand_count > 0 && !lq_args_has(args, "file") &&
                    !lq_path_exists(cli->recipe_path) &&
                    lq_command_nearest(lq_commands, lq_command_count, args->operands[0]) != NULL;
    if (misspelt) {
        return refuse_target(NULL, args->operands[0], true, err);
    }
    struct lq_recipe *recipe = NULL;
    enum lq_status status = lq_cli_load_recipe(cli, &recipe, err);
    for (size_t i = 0; status == LQ_OK && i < args->operand_count; i++) {
        if (lq_recipe_find(recipe, args->operands[i]) == NULL) {
            status = refuse_target(recipe, args->operands[i], i == 0, err);
        }
    }
    if (status == LQ_OK) {
        struct lq_cli_build build = {
            .recipe = recipe,
            .targets = args->operands,
            .target_count = args->operand_count,
        };
        status = lq_cli_build(cli, &build, NULL, err);
    }
    lq_recipe_destroy(recipe);
    return status;
}
