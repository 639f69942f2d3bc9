#include "cache/cache.h"
#include "engine/base/json.h"
#include "engine/base/text.h"
#include "engine/cli/commands.h"

static void put_uint(struct lq_json_writer *writer, const char *key, uint64_t value)
{
    lq_json_key(writer, key);
    lq_json_uint(writer, value);
}

static void write_stats(struct lq_buffer *out, const char *dir, const struct lq_cache_stats *stats)
{
    struct lq_json_writer writer;
    lq_json_writer_init(&writer, out, false);
    lq_json_begin_object(&writer);
    lq_json_put_string(&writer, "dir", dir);
    put_uint(&writer, "blobs", stats->blob_count);
    put_uint(&writer, "blob_bytes", stats->blob_bytes);
    put_uint(&writer, "joined", stats->joined_count);
    put_uint(&writer, "joined_bytes", stats->joined_bytes);
    put_uint(&writer, "actions", stats->action_count);
    put_uint(&writer, "files", stats->file_count);
    put_uint(&writer, "history", stats->history_count);
    put_uint(&writer, "disk_bytes", stats->disk_bytes);
    lq_json_end_object(&writer);
    lq_buffer_append_char(out, '\n');
}

static void print_stats(struct lq_buffer *out, const char *dir, const struct lq_cache_stats *stats)
{
    char size[32];
    lq_buffer_printf(out, "folder          %s\n", dir);
    lq_buffer_printf(out, "on disk         %s\n",
                     lq_text_size(stats->disk_bytes, size, sizeof size));
    lq_buffer_printf(out, "blobs           %llu, %s\n", (unsigned long long)stats->blob_count,
                     lq_text_size(stats->blob_bytes, size, sizeof size));
    lq_buffer_printf(out, "joined blobs    %llu, %s, stored by their parts\n",
                     (unsigned long long)stats->joined_count,
                     lq_text_size(stats->joined_bytes, size, sizeof size));
    lq_buffer_printf(out, "actions         %llu\n", (unsigned long long)stats->action_count);
    lq_buffer_printf(out, "known files     %llu\n", (unsigned long long)stats->file_count);
    lq_buffer_printf(out, "histories       %llu\n", (unsigned long long)stats->history_count);
}

enum lq_status lq_command_cache_stats(struct lq_cli *cli, struct lq_error *err)
{
    struct lq_cache_stats stats;
    char *dir = NULL;
    enum lq_status status = lq_cache_default_dir(cli->cache_dir, &cli->arena, &dir, err);
    if (status == LQ_OK) {
        status = lq_cli_open_cache(cli, err);
    }
    if (status == LQ_OK) {
        status = lq_cache_stats_get(cli->cache, &stats, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    struct lq_buffer out;
    lq_buffer_init(&out);
    if (cli->json) {
        write_stats(&out, dir, &stats);
    } else {
        print_stats(&out, dir, &stats);
    }
    lq_cli_print(&out);
    lq_buffer_fini(&out);
    return LQ_OK;
}
