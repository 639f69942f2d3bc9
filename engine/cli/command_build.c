#include <string.h>

#include "cache/cache.h"
#include "engine/base/fs.h"
#include "engine/cli/commands.h"
#include "engine/snapshot.h"

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

/* Only a build that would say nothing but its summary can be cut short. */
static bool make_snapshot_key(const struct lq_cli *cli, struct lq_digest *key)
{
    const struct lq_snapshot_request request = {
        .recipe_path = cli->recipe_path,
        .defines = cli->defines,
        .define_count = cli->define_count,
        .targets = cli->args.operands,
        .target_count = cli->args.operand_count,
        .registry = cli->program->registry,
        .version = cli->program->version,
    };
    return !cli->dry_run && !cli->force && !cli->explain && !cli->verbose && !cli->json &&
           !lq_args_has(&cli->args, "trace") && lq_snapshot_key(&request, key);
}

/* *current: nothing has changed since the snapshot, and the summary has been shown. */
static enum lq_status try_snapshot(struct lq_cli *cli, const struct lq_digest *key, bool *current,
                                   struct lq_error *err)
{
    struct lq_build_result result;
    uint64_t start = lq_clock_ns();
    enum lq_status status = lq_cli_open_cache(cli, err);
    status = status == LQ_OK ? lq_snapshot_check(cli->cache, key, current, &result, err) : status;
    if (status == LQ_OK && *current) {
        result.wall_seconds = (double)(lq_clock_ns() - start) * 1e-9;
        status = lq_cli_build_current(cli, &result, err);
    }
    return status;
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
    struct lq_digest key;
    bool current = false;
    bool quiet = make_snapshot_key(cli, &key);
    /* A recipe that can not be read is reported before a cache that can not be opened. */
    if (quiet && lq_path_exists(cli->recipe_path)) {
        struct lq_error ignored;
        if (try_snapshot(cli, &key, &current, &ignored) == LQ_OK && current) {
            return LQ_OK;
        }
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
            .snapshot = quiet ? &key : NULL,
        };
        status = lq_cli_build(cli, &build, NULL, err);
    }
    lq_recipe_destroy(recipe);
    return status;
}
