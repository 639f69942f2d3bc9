/* `lqbuild cache gc` and `cache rm`, and the collection at the end of a build. */
#include <string.h>

#include "cache/upkeep.h"
#include "engine/base/text.h"
#include "engine/cli/cache_target.h"
#include "engine/cli/commands.h"

enum {
    END_OF_BUILD_MS = 2000, /* how long a build may go on collecting when it is done */
    DAY_SECONDS = 24 * 3600,
};

/* "90d", "12h", "30m", "45s" or "7" (days). */
static bool parse_age(const char *text, uint64_t *seconds)
{
    static const struct {
        const char *unit;
        uint64_t seconds;
    } units[] = {{"", DAY_SECONDS}, {"d", DAY_SECONDS}, {"h", 3600}, {"m", 60}, {"s", 1}};
    size_t digits = strspn(text, "0123456789");
    uint64_t number = 0;
    if (digits == 0 || digits > 9) {
        return false;
    }
    for (size_t i = 0; i < digits; i++) {
        number = number * 10 + (uint64_t)(text[i] - '0');
    }
    for (size_t i = 0; i < LQ_COUNT_OF(units); i++) {
        if (strcmp(text + digits, units[i].unit) == 0) {
            *seconds = number * units[i].seconds;
            return true;
        }
    }
    return false;
}

static enum lq_status read_limits(struct lq_cli *cli, struct lq_gc_options *options,
                                  struct lq_error *err)
{
    const char *size = lq_args_get(&cli->args, "max-size");
    const char *age = lq_args_get(&cli->args, "max-age");
    options->size_bytes_max = cli->settings.cache_max_bytes;
    if (size != NULL &&
        (!lq_text_size_parse(size, &options->size_bytes_max) || options->size_bytes_max == 0)) {
        return lq_error_set(err, LQ_EUSAGE,
                            "--max-size expects a size such as 50GB or 500M, got '%s'", size);
    }
    if (age != NULL &&
        (!parse_age(age, &options->age_seconds_max) || options->age_seconds_max == 0)) {
        return lq_error_set(err, LQ_EUSAGE,
                            "--max-age expects an age such as 90d, 12h or 30m, got '%s'", age);
    }
    return LQ_OK;
}

static void print_result(const struct lq_cli *cli, const struct lq_gc_result *result, bool dry_run)
{
    struct lq_buffer out;
    char freed[32];
    char left[32];
    lq_buffer_init(&out);
    if (cli->json) {
        lq_cache_write_result(&out, result);
    } else {
        const char *verb = dry_run ? "would remove" : "removed";
        lq_buffer_printf(&out, "%s %llu results and %llu blobs, %s; %s stay\n", verb,
                         (unsigned long long)result->actions_removed,
                         (unsigned long long)result->blobs_removed,
                         lq_text_size(result->blob_bytes_removed, freed, sizeof freed),
                         lq_text_size(result->after_bytes, left, sizeof left));
        if (result->files_removed + result->histories_removed > 0) {
            lq_buffer_printf(&out, "%s %llu known files that changed and %llu old histories\n",
                             verb, (unsigned long long)result->files_removed,
                             (unsigned long long)result->histories_removed);
        }
        if (result->needed_actions > 0) {
            lq_buffer_printf(&out, "%llu results over the limit are pinned or in use\n",
                             (unsigned long long)result->needed_actions);
        }
    }
    lq_cli_print(&out);
    lq_buffer_fini(&out);
}

static enum lq_status refuse_busy(struct lq_error *err)
{
    return lq_error_set(err, LQ_ECACHE,
                        "another lqbuild collects garbage in this cache; try again later");
}

enum lq_status lq_command_cache_gc(struct lq_cli *cli, struct lq_error *err)
{
    struct lq_gc_options options = {.dry_run = cli->dry_run, .wait = true};
    struct lq_gc_result result;
    enum lq_status status = read_limits(cli, &options, err);
    status = status == LQ_OK ? lq_cli_open_cache(cli, err) : status;
    status = status == LQ_OK ? lq_cache_gc(cli->cache, &options, &result, err) : status;
    if (status == LQ_OK && result.busy) {
        status = refuse_busy(err);
    }
    if (status == LQ_OK) {
        print_result(cli, &result, cli->dry_run);
    }
    return status;
}

enum lq_status lq_command_cache_rm(struct lq_cli *cli, struct lq_error *err)
{
    struct lq_cache_target target;
    struct lq_gc_result result = {.busy = false};
    struct lq_gc_result total = {.busy = false};
    enum lq_status status = lq_cli_open_cache(cli, err);
    for (size_t i = 0; i < cli->args.operand_count && status == LQ_OK; i++) {
        status = lq_cache_target_find(cli, cli->args.operands[i], &target, err);
        if (status == LQ_OK) {
            status = target.label != NULL
                         ? lq_cache_remove_label(cli->cache, target.label, &result, err)
                         : lq_cache_remove_key(cli->cache, &target.digest, &result, err);
        }
        if (status == LQ_OK && result.busy) {
            status = refuse_busy(err);
        }
        total.actions_removed += result.actions_removed;
        total.blobs_removed += result.blobs_removed;
        total.blob_bytes_removed += result.blob_bytes_removed;
        total.needed_actions += result.needed_actions;
        total.before_bytes = i == 0 ? result.before_bytes : total.before_bytes;
        total.after_bytes = result.after_bytes;
        total.finished = result.finished;
    }
    if (status == LQ_OK) {
        print_result(cli, &total, false);
    }
    return status;
}

void lq_cli_collect_garbage(struct lq_cli *cli)
{
    uint64_t live_bytes = 0;
    uint64_t size_max = cli->settings.cache_max_bytes;
    struct lq_error err = {0};
    if (!cli->dry_run) {
        lq_cache_trim(cli->cache, END_OF_BUILD_MS);
    }
    /* A glance at the size of the file is all that most builds pay. */
    if (size_max == 0 || cli->dry_run || lq_cache_disk_bytes(cli->cache) <= size_max ||
        lq_cache_live_bytes(cli->cache, &live_bytes, &err) != LQ_OK || live_bytes <= size_max) {
        return;
    }
    /* A tenth below, so that the next builds need not collect again at once. */
    const struct lq_gc_options options = {.size_bytes_max = size_max - size_max / 10,
                                          .time_ms_max = END_OF_BUILD_MS};
    struct lq_gc_result result;
    if (lq_cache_gc(cli->cache, &options, &result, &err) != LQ_OK) {
        lq_cli_warn(cli, err.message);
    } else if (!result.busy && result.finished && result.after_bytes > size_max) {
        char text[256];
        char need[32];
        char limit[32];
        (void)snprintf(text, sizeof text,
                       "the cache holds %s that this build or pins need, more than cache.max_size "
                       "= %s",
                       lq_text_size(result.after_bytes, need, sizeof need),
                       lq_text_size(size_max, limit, sizeof limit));
        lq_cli_warn(cli, text);
    }
}
