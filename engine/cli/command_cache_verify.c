/* `lqbuild cache verify` and `cache compact`. */
#include "cache/upkeep.h"
#include "engine/base/text.h"
#include "engine/cli/commands.h"

static void print_verified(const struct lq_cli *cli, uint64_t checked, uint64_t removed)
{
    struct lq_buffer out;
    lq_buffer_init(&out);
    if (cli->json) {
        lq_buffer_printf(&out, "{\"checked\":%llu,\"removed\":%llu}\n", (unsigned long long)checked,
                         (unsigned long long)removed);
    } else {
        lq_buffer_printf(&out, "%llu entries checked, %llu were damaged and are removed\n",
                         (unsigned long long)checked, (unsigned long long)removed);
    }
    lq_cli_print(&out);
    lq_buffer_fini(&out);
}

enum lq_status lq_command_cache_verify(struct lq_cli *cli, struct lq_error *err)
{
    uint64_t checked = 0;
    uint64_t removed = 0;
    enum lq_status status = lq_cli_open_cache(cli, err);
    status = status == LQ_OK ? lq_cache_verify(cli->cache, &checked, &removed, err) : status;
    if (status != LQ_OK) {
        return status;
    }
    print_verified(cli, checked, removed);
    /* The next build makes again what is gone; whoever asked wants to know that the disk lies. */
    return removed == 0 ? LQ_OK
                        : lq_error_set(err, LQ_ECACHE,
                                       "%llu entries of the cache were damaged and are removed; "
                                       "check the disk, then build again",
                                       (unsigned long long)removed);
}

static void warn_compact(void *user, const char *message)
{
    lq_cli_warn(user, message);
}

enum lq_status lq_command_cache_compact(struct lq_cli *cli, struct lq_error *err)
{
    struct lq_cache_options options = {
        .warn = warn_compact, .warn_user = cli, .fatal = lq_cli_cache_is_damaged};
    char *dir = NULL;
    uint64_t before = 0;
    uint64_t after = 0;
    enum lq_status status = lq_cache_default_dir(cli->cache_dir, &cli->arena, &dir, err);
    options.dir = dir;
    status = status == LQ_OK ? lq_cache_compact(&options, &before, &after, err) : status;
    if (status != LQ_OK) {
        return status;
    }
    struct lq_buffer out;
    char old[32];
    char new[32];
    lq_buffer_init(&out);
    if (cli->json) {
        lq_buffer_printf(&out, "{\"before_bytes\":%llu,\"after_bytes\":%llu}\n",
                         (unsigned long long)before, (unsigned long long)after);
    } else {
        lq_buffer_printf(&out, "data.mdb: %s, was %s\n", lq_text_size(after, new, sizeof new),
                         lq_text_size(before, old, sizeof old));
    }
    lq_cli_print(&out);
    lq_buffer_fini(&out);
    return LQ_OK;
}
