/* `lqbuild cache pin` and `unpin`: what garbage collection never removes. */
#include "cache/upkeep.h"
#include "engine/cli/cache_target.h"
#include "engine/cli/commands.h"

static enum lq_status pin_one(struct lq_cli *cli, const char *word, struct lq_error *err)
{
    struct lq_cache_target target;
    enum lq_status status = lq_cache_target_find(cli, word, &target, err);
    if (status != LQ_OK) {
        return status;
    }
    return target.label != NULL ? lq_cache_pin_label(cli->cache, target.label, err)
                                : lq_cache_pin_digest(cli->cache, &target.digest, err);
}

static enum lq_status unpin_one(struct lq_cli *cli, const char *word, struct lq_error *err)
{
    struct lq_cache_target target;
    bool found = false;
    enum lq_status status = lq_cache_target_find(cli, word, &target, err);
    if (status == LQ_OK) {
        status = target.label != NULL
                     ? lq_cache_unpin_label(cli->cache, target.label, &found, err)
                     : lq_cache_unpin_digest(cli->cache, &target.digest, &found, err);
    }
    if (status == LQ_OK && !found) {
        return lq_error_set(err, LQ_EUSAGE, "'%s' is not pinned; see 'lqbuild cache ls'", word);
    }
    return status;
}

static enum lq_status each(struct lq_cli *cli,
                           enum lq_status (*act)(struct lq_cli *, const char *, struct lq_error *),
                           struct lq_error *err)
{
    enum lq_status status = lq_cli_open_cache(cli, err);
    for (size_t i = 0; i < cli->args.operand_count && status == LQ_OK; i++) {
        status = act(cli, cli->args.operands[i], err);
    }
    return status;
}

enum lq_status lq_command_cache_pin(struct lq_cli *cli, struct lq_error *err)
{
    return each(cli, pin_one, err);
}

enum lq_status lq_command_cache_unpin(struct lq_cli *cli, struct lq_error *err)
{
    return each(cli, unpin_one, err);
}
