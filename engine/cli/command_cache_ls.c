/* `lqbuild cache ls`: the results in the cache, least recently used first. */
#define _DEFAULT_SOURCE /* localtime_r */
#include <string.h>
#include <time.h>

#include "cache/upkeep.h"
#include "engine/base/json.h"
#include "engine/base/text.h"
#include "engine/cli/cache_target.h"
#include "engine/cli/commands.h"

struct listing {
    const struct lq_cli *cli;
    const char *below; /* a label; NULL: everything */
    struct lq_buffer out;
};

static bool is_below(const char *label, const char *prefix)
{
    size_t length = strlen(prefix);
    return strncmp(label, prefix, length) == 0 && (label[length] == '\0' || label[length] == '|');
}

static void write_json(struct lq_buffer *out, const struct lq_cache_entry *entry)
{
    char hex[LQ_DIGEST_HEX_BYTES];
    struct lq_json_writer writer;
    lq_json_writer_init(&writer, out, false);
    lq_json_begin_object(&writer);
    lq_json_put_string(&writer, "key", lq_digest_to_hex(entry->key, hex));
    lq_json_put_string(&writer, "label", entry->label);
    lq_json_key(&writer, "size_bytes");
    lq_json_uint(&writer, entry->size_bytes);
    lq_json_key(&writer, "used");
    lq_json_uint(&writer, entry->used_seconds);
    lq_json_key(&writer, "pinned");
    lq_json_bool(&writer, entry->pinned);
    lq_json_end_object(&writer);
    lq_buffer_append_char(out, '\n');
}

/* "tiny quantize.tensor blk.0": the folder goes, blanks separate. */
static void append_label(struct lq_buffer *out, const char *label)
{
    const char *rest = strchr(label, '|');
    if (rest == NULL) {
        lq_buffer_append_string(out, "(replaced by a newer one)");
        return;
    }
    for (rest++; *rest != '\0'; rest++) {
        lq_buffer_append_char(out, *rest == '|' ? ' ' : *rest);
    }
}

static void print_entry(struct lq_buffer *out, const struct lq_cache_entry *entry)
{
    char hex[LQ_DIGEST_HEX_BYTES];
    char size[32];
    char when[32] = "";
    time_t used = (time_t)entry->used_seconds;
    struct tm broken;
    if (localtime_r(&used, &broken) != NULL) {
        (void)strftime(when, sizeof when, "%Y-%m-%d %H:%M", &broken);
    }
    lq_buffer_printf(out, "%.12s  %10s  %s  %s  ", lq_digest_to_hex(entry->key, hex),
                     lq_text_size(entry->size_bytes, size, sizeof size), when,
                     entry->pinned ? "pinned" : "      ");
    append_label(out, entry->label);
    lq_buffer_append_char(out, '\n');
}

static void visit(void *user, const struct lq_cache_entry *entry)
{
    struct listing *listing = user;
    if (listing->below != NULL && !is_below(entry->label, listing->below)) {
        return;
    }
    if (listing->cli->json) {
        write_json(&listing->out, entry);
    } else {
        print_entry(&listing->out, entry);
    }
}

enum lq_status lq_command_cache_ls(struct lq_cli *cli, struct lq_error *err)
{
    struct listing listing = {.cli = cli};
    struct lq_cache_target target = {.label = NULL};
    enum lq_status status = lq_cli_open_cache(cli, err);
    if (status == LQ_OK && cli->args.operand_count > 0) {
        status = lq_cache_target_find(cli, cli->args.operands[0], &target, err);
        listing.below = target.label;
        if (status == LQ_OK && target.label == NULL) {
            status = lq_error_set(err, LQ_EUSAGE, "'%s' is a digest; name an artifact",
                                  cli->args.operands[0]);
        }
    }
    if (status != LQ_OK) {
        return status;
    }
    lq_buffer_init(&listing.out);
    status = lq_cache_list(cli->cache, visit, &listing, err);
    if (status == LQ_OK) {
        lq_cli_print(&listing.out);
    }
    lq_buffer_fini(&listing.out);
    return status;
}
