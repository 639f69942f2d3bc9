/* `lqbuild cache verify`, `cache repair` and `cache compact`. */
#include "cache/repair.h"
#include "cache/upkeep.h"
#include "engine/base/json.h"
#include "engine/base/text.h"
#include "engine/cli/commands.h"

static void warn(void *user, const char *message)
{
    lq_cli_warn(user, message);
}

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

static void append_counts(struct lq_buffer *out, const char *before, uint64_t results,
                          uint64_t blobs)
{
    lq_buffer_printf(out, "%s%llu result%s and %llu blob%s", before, (unsigned long long)results,
                     results == 1 ? "" : "s", (unsigned long long)blobs, blobs == 1 ? "" : "s");
}

static void print_repaired(const struct lq_repair_result *result, struct lq_buffer *out)
{
    char size[32];
    const struct lq_cache_stats *saved = &result->saved;
    if (result->sound) {
        lq_buffer_append_string(out, "data.mdb is sound, nothing to repair; 'lqbuild cache verify' "
                                     "checks what is in it\n");
        return;
    }
    append_counts(out, "saved ", saved->action_count,
                  saved->blob_count + saved->joined_count + saved->placed_count);
    lq_buffer_printf(out, ", %s; ", lq_text_size(saved->blob_bytes, size, sizeof size));
    if (!result->lost_known) {
        lq_buffer_append_string(out, "what was lost cannot be counted any more\n");
    } else if (result->results_lost + result->blobs_lost == 0) {
        lq_buffer_append_string(out, "nothing was lost\n");
    } else {
        append_counts(out, "", result->results_lost, result->blobs_lost);
        lq_buffer_append_string(out, " were lost and are built again when they are needed\n");
    }
}

static void write_repaired(const struct lq_repair_result *result, struct lq_buffer *out)
{
    const struct {
        const char *name;
        uint64_t value;
    } fields[] = {
        {"results_saved", result->saved.action_count},
        {"blobs_saved",
         result->saved.blob_count + result->saved.joined_count + result->saved.placed_count},
        {"blob_bytes_saved", result->saved.blob_bytes},
        {"results_lost", result->results_lost},
        {"blobs_lost", result->blobs_lost},
        {"before_bytes", result->before_bytes},
        {"after_bytes", result->after_bytes},
    };
    struct lq_json_writer writer;
    lq_json_writer_init(&writer, out, false);
    lq_json_begin_object(&writer);
    lq_json_key(&writer, "sound");
    lq_json_bool(&writer, result->sound);
    lq_json_key(&writer, "lost_known");
    lq_json_bool(&writer, result->sound || result->lost_known);
    for (size_t i = 0; i < LQ_COUNT_OF(fields); i++) {
        lq_json_key(&writer, fields[i].name);
        lq_json_uint(&writer, fields[i].value);
    }
    lq_json_end_object(&writer);
    lq_buffer_append_char(out, '\n');
}

/* For commands that open the folder in their own way. */
static enum lq_status folder_options(struct lq_cli *cli, struct lq_cache_options *options,
                                     struct lq_error *err)
{
    char *dir = NULL;
    enum lq_status status = lq_cache_default_dir(cli->cache_dir, &cli->arena, &dir, err);
    *options = (struct lq_cache_options){
        .dir = dir, .warn = warn, .warn_user = cli, .fatal = lq_cli_cache_is_damaged};
    return status;
}

enum lq_status lq_command_cache_repair(struct lq_cli *cli, struct lq_error *err)
{
    struct lq_cache_options options;
    struct lq_repair_result result;
    enum lq_status status = folder_options(cli, &options, err);
    status = status == LQ_OK ? lq_cache_repair(&options, &result, err) : status;
    if (status != LQ_OK) {
        return status;
    }
    struct lq_buffer out;
    lq_buffer_init(&out);
    if (cli->json) {
        write_repaired(&result, &out);
    } else {
        print_repaired(&result, &out);
    }
    lq_cli_print(&out);
    lq_buffer_fini(&out);
    return LQ_OK;
}

enum lq_status lq_command_cache_compact(struct lq_cli *cli, struct lq_error *err)
{
    struct lq_cache_options options;
    uint64_t before = 0;
    uint64_t after = 0;
    enum lq_status status = folder_options(cli, &options, err);
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
