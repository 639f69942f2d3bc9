#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/upkeep.h"
#include "engine/base/json.h"
#include "engine/base/text.h"
#include "engine/cli/commands.h"

static void put_uint(struct lq_json_writer *writer, const char *key, uint64_t value)
{
    lq_json_key(writer, key);
    lq_json_uint(writer, value);
}

/* Results of one operation, such as quantize.tensor. */
struct kind_total {
    char name[64];
    uint64_t count, size_bytes;
};

enum { KINDS_MAX = 64 };

struct kind_totals {
    struct kind_total items[KINDS_MAX];
    size_t count;
    uint64_t pinned;
};

/* The operation is the third field of a step's label. */
static void name_kind(const char *label, char *out, size_t out_bytes)
{
    const char *field = strchr(label, '|');
    const char *op = field == NULL ? NULL : strchr(field + 1, '|');
    if (op != NULL) {
        (void)snprintf(out, out_bytes, "%.*s", (int)strcspn(op + 1, "|"), op + 1);
    } else {
        (void)snprintf(out, out_bytes, "%s", field == NULL ? "replaced" : "artifact");
    }
}

static void add_entry(void *user, const struct lq_cache_entry *entry)
{
    struct kind_totals *totals = user;
    char name[sizeof totals->items[0].name];
    size_t at = 0;
    name_kind(entry->label, name, sizeof name);
    while (at < totals->count && strcmp(totals->items[at].name, name) != 0) {
        at++;
    }
    if (at == KINDS_MAX) {
        return;
    }
    if (at == totals->count) {
        memcpy(totals->items[totals->count++].name, name, sizeof name);
    }
    totals->items[at].count++;
    totals->items[at].size_bytes += entry->size_bytes;
    totals->pinned += entry->pinned ? 1 : 0;
}

static int compare_kinds(const void *a, const void *b)
{
    return strcmp(((const struct kind_total *)a)->name, ((const struct kind_total *)b)->name);
}

static void write_kinds(struct lq_json_writer *writer, const struct kind_totals *totals)
{
    put_uint(writer, "pinned", totals->pinned);
    lq_json_key(writer, "kinds");
    lq_json_begin_object(writer);
    for (size_t i = 0; i < totals->count; i++) {
        lq_json_key(writer, totals->items[i].name);
        lq_json_begin_object(writer);
        put_uint(writer, "results", totals->items[i].count);
        put_uint(writer, "bytes", totals->items[i].size_bytes);
        lq_json_end_object(writer);
    }
    lq_json_end_object(writer);
}

static void print_kinds(struct lq_buffer *out, const struct kind_totals *totals)
{
    char size[32];
    for (size_t i = 0; i < totals->count; i++) {
        lq_buffer_printf(out, "  %-20s %llu, %s\n", totals->items[i].name,
                         (unsigned long long)totals->items[i].count,
                         lq_text_size(totals->items[i].size_bytes, size, sizeof size));
    }
}

static void write_stats(struct lq_buffer *out, const char *dir, const struct lq_cache_stats *stats,
                        uint64_t live_bytes, const struct kind_totals *totals)
{
    struct lq_json_writer writer;
    lq_json_writer_init(&writer, out, false);
    lq_json_begin_object(&writer);
    lq_json_put_string(&writer, "dir", dir);
    put_uint(&writer, "blobs", stats->blob_count);
    put_uint(&writer, "blob_bytes", stats->blob_bytes);
    put_uint(&writer, "joined", stats->joined_count);
    put_uint(&writer, "joined_bytes", stats->joined_bytes);
    put_uint(&writer, "placed", stats->placed_count);
    put_uint(&writer, "placed_bytes", stats->placed_bytes);
    put_uint(&writer, "actions", stats->action_count);
    put_uint(&writer, "files", stats->file_count);
    put_uint(&writer, "history", stats->history_count);
    put_uint(&writer, "disk_bytes", stats->disk_bytes);
    put_uint(&writer, "live_bytes", live_bytes);
    write_kinds(&writer, totals);
    lq_json_end_object(&writer);
    lq_buffer_append_char(out, '\n');
}

static void print_stats(struct lq_buffer *out, const char *dir, const struct lq_cache_stats *stats,
                        uint64_t live_bytes, const struct kind_totals *totals)
{
    char size[32];
    char live[32];
    lq_buffer_printf(out, "folder          %s\n", dir);
    lq_buffer_printf(out, "on disk         %s, %s of it in use\n",
                     lq_text_size(stats->disk_bytes, size, sizeof size),
                     lq_text_size(live_bytes, live, sizeof live));
    lq_buffer_printf(out, "blobs           %llu, %s\n", (unsigned long long)stats->blob_count,
                     lq_text_size(stats->blob_bytes, size, sizeof size));
    lq_buffer_printf(out, "joined blobs    %llu, %s, stored by their parts\n",
                     (unsigned long long)stats->joined_count,
                     lq_text_size(stats->joined_bytes, size, sizeof size));
    if (stats->placed_count > 0) {
        lq_buffer_printf(out, "placed blobs    %llu, %s, in files outside of the cache\n",
                         (unsigned long long)stats->placed_count,
                         lq_text_size(stats->placed_bytes, size, sizeof size));
    }
    lq_buffer_printf(out, "actions         %llu\n", (unsigned long long)stats->action_count);
    lq_buffer_printf(out, "known files     %llu\n", (unsigned long long)stats->file_count);
    lq_buffer_printf(out, "histories       %llu\n", (unsigned long long)stats->history_count);
    lq_buffer_printf(out, "pinned          %llu\n", (unsigned long long)totals->pinned);
    if (totals->count > 0) {
        lq_buffer_append_string(out, "results by kind, with their outputs:\n");
        print_kinds(out, totals);
    }
}

enum lq_status lq_command_cache_stats(struct lq_cli *cli, struct lq_error *err)
{
    struct lq_cache_stats stats;
    struct kind_totals totals = {.count = 0};
    uint64_t live_bytes = 0;
    char *dir = NULL;
    enum lq_status status = lq_cache_default_dir(cli->cache_dir, &cli->arena, &dir, err);
    if (status == LQ_OK) {
        status = lq_cli_open_cache(cli, err);
    }
    if (status == LQ_OK) {
        status = lq_cache_stats_get(cli->cache, &stats, err);
    }
    if (status == LQ_OK) {
        status = lq_cache_live_bytes(cli->cache, &live_bytes, err);
    }
    if (status == LQ_OK) {
        status = lq_cache_list(cli->cache, add_entry, &totals, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    qsort(totals.items, totals.count, sizeof totals.items[0], compare_kinds);
    struct lq_buffer out;
    lq_buffer_init(&out);
    if (cli->json) {
        write_stats(&out, dir, &stats, live_bytes, &totals);
    } else {
        print_stats(&out, dir, &stats, live_bytes, &totals);
    }
    lq_cli_print(&out);
    lq_buffer_fini(&out);
    return LQ_OK;
}
