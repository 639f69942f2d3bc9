/* `lqbuild log`: the last builds of this cache, from the log that every build adds a line to. */
#include <stdlib.h>
#include <string.h>

#include "cache/cache.h"
#include "engine/base/fs.h"
#include "engine/base/json.h"
#include "engine/base/text.h"
#include "engine/cli/build_log.h"
#include "engine/cli/commands.h"

/* The start of the last `count` whole lines. */
static size_t find_start(const struct lq_buffer *text, uint64_t count)
{
    size_t at = text->size_bytes;
    while (at > 0) {
        size_t line = at - 1; /* behind it stands the line's end */
        while (line > 0 && text->data[line - 1] != '\n') {
            line--;
        }
        if (count == 0) {
            break;
        }
        count--;
        at = line;
    }
    return at;
}

static double number_of(const cJSON *entry, const char *key)
{
    const cJSON *value = lq_json_find(entry, key);
    return cJSON_IsNumber(value) ? value->valuedouble : 0.0;
}

static const char *string_of(const cJSON *entry, const char *key)
{
    const cJSON *value = lq_json_find(entry, key);
    return cJSON_IsString(value) ? value->valuestring : "";
}

static void print_entry(const cJSON *entry, bool verbose, struct lq_buffer *out)
{
    char duration[32];
    double steps = number_of(entry, "steps");
    double hit_rate = steps > 0.0 ? 100.0 * number_of(entry, "cached") / steps : 100.0;
    lq_buffer_printf(out, "%-20s %6.0f %6.0f %6.0f %4.0f%% %8s  %s", string_of(entry, "time"),
                     number_of(entry, "ran"), number_of(entry, "cached"),
                     number_of(entry, "failed"), hit_rate,
                     lq_text_duration(number_of(entry, "seconds"), duration, sizeof duration),
                     string_of(entry, "command"));
    const cJSON *targets = lq_json_find(entry, "targets");
    for (const cJSON *item = cJSON_IsArray(targets) ? targets->child : NULL; item != NULL;
         item = item->next) {
        lq_buffer_printf(out, " %s", cJSON_IsString(item) ? item->valuestring : "");
    }
    if (strcmp(string_of(entry, "status"), "Ok") != 0) {
        lq_buffer_printf(out, " (%s)", string_of(entry, "status"));
    }
    lq_buffer_append_char(out, '\n');
    if (verbose && string_of(entry, "critical_path")[0] != '\0') {
        lq_buffer_printf(
            out, "    %8s  longest chain: %s\n",
            lq_text_duration(number_of(entry, "critical_seconds"), duration, sizeof duration),
            string_of(entry, "critical_path"));
    }
    const cJSON *slowest = lq_json_find(entry, "slowest");
    for (const cJSON *item = verbose && cJSON_IsArray(slowest) ? slowest->child : NULL;
         item != NULL; item = item->next) {
        lq_buffer_printf(out, "    %8s  %s\n",
                         lq_text_duration(number_of(item, "seconds"), duration, sizeof duration),
                         string_of(item, "step"));
    }
}

/* Lines that are no entry, after a full disk for example, are passed over. */
static void print_log(const struct lq_cli *cli, const struct lq_buffer *text, uint64_t count,
                      struct lq_buffer *out)
{
    const char *at = (const char *)text->data + find_start(text, count);
    const char *end = (const char *)text->data + text->size_bytes;
    if (!cli->json) {
        lq_buffer_append_string(out,
                                "WHEN                    RAN CACHED FAILED  HIT     TIME  WHAT\n");
    }
    while (at < end) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t length = stop == NULL ? (size_t)(end - at) : (size_t)(stop - at);
        cJSON *entry = NULL;
        if (lq_json_parse(at, length, "builds.jsonl", LQ_EFORMAT, &entry, NULL) == LQ_OK &&
            cJSON_IsObject(entry)) {
            if (cli->json) {
                lq_buffer_append(out, at, length);
                lq_buffer_append_char(out, '\n');
            } else {
                print_entry(entry, cli->verbose, out);
            }
        }
        cJSON_Delete(entry);
        at += length + 1;
    }
}

enum lq_status lq_command_log(struct lq_cli *cli, struct lq_error *err)
{
    uint64_t count = 20;
    char *dir = NULL;
    struct lq_buffer text;
    struct lq_buffer out;
    enum lq_status status = lq_args_uint(&cli->args, "last", 1, 1000000, &count, err);
    if (status == LQ_OK) {
        status = lq_cache_default_dir(cli->cache_dir, &cli->arena, &dir, err);
    }
    const char *path = dir == NULL ? NULL : lq_path_join(&cli->arena, dir, "builds.jsonl");
    if (status != LQ_OK || path == NULL) {
        return status != LQ_OK ? status : lq_error_nomem(err, "the log");
    }
    lq_buffer_init(&text);
    lq_buffer_init(&out);
    if (lq_path_exists(path)) {
        status = lq_file_read(path, (uint64_t)2 * LQ_BUILD_LOG_BYTES_MAX, &text, err);
    }
    if (status == LQ_OK && text.size_bytes > 0) {
        print_log(cli, &text, count, &out);
        status = out.failed ? lq_error_nomem(err, "the log") : LQ_OK;
    } else if (status == LQ_OK && !cli->json) {
        lq_buffer_printf(&out, "no builds yet with the cache %s\n", dir);
    }
    if (status == LQ_OK) {
        lq_cli_print(&out);
    }
    lq_buffer_fini(&out);
    lq_buffer_fini(&text);
    return status;
}
