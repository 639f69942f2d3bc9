#include "engine/cli/cache_target.h"

#include <string.h>

#include "engine/base/json.h"
#include "engine/label.h"

enum { PREFIX_MIN = 8 };

struct search {
    const char *prefix;
    struct lq_digest digest;
    size_t count;
};

static void compare_entry(void *user, const struct lq_cache_entry *entry)
{
    struct search *search = user;
    char hex[LQ_DIGEST_HEX_BYTES];
    if (strncmp(lq_digest_to_hex(entry->key, hex), search->prefix, strlen(search->prefix)) == 0) {
        search->digest = *entry->key;
        search->count++;
    }
}

static enum lq_status find_prefix(struct lq_cli *cli, const char *word, struct lq_cache_target *out,
                                  struct lq_error *err)
{
    struct search search = {.prefix = word};
    enum lq_status status = lq_cache_list(cli->cache, compare_entry, &search, err);
    if (status == LQ_OK && search.count != 1) {
        return lq_error_set(err, LQ_EUSAGE,
                            "the keys of %zu results begin with '%s'; see "
                            "'lqbuild cache ls'",
                            search.count, word);
    }
    out->digest = search.digest;
    return status;
}

enum lq_status lq_cache_target_find(struct lq_cli *cli, const char *word,
                                    struct lq_cache_target *out, struct lq_error *err)
{
    size_t length = strlen(word);
    *out = (struct lq_cache_target){.label = NULL};
    if (lq_digest_from_hex(word, length, &out->digest)) {
        return LQ_OK;
    }
    struct lq_recipe *recipe = NULL;
    bool hex = length >= PREFIX_MIN && strspn(word, "0123456789abcdef") == length;
    enum lq_status status = lq_cli_load_recipe(cli, &recipe, err);
    if (status != LQ_OK) {
        return hex ? find_prefix(cli, word, out, err) : status;
    }
    const struct lq_artifact *artifact = lq_recipe_find(recipe, word);
    const char *nearest = artifact == NULL ? lq_recipe_suggest(recipe, word) : NULL;
    if (artifact != NULL) {
        out->label = lq_label_make(&cli->arena, artifact, NULL, NULL);
        status = out->label == NULL ? lq_error_nomem(err, word) : LQ_OK;
    } else if (hex) {
        status = find_prefix(cli, word, out, err);
    } else if (nearest != NULL) {
        status =
            lq_error_set(err, LQ_EUSAGE, "unknown target '%s'; did you mean '%s'?", word, nearest);
    } else {
        status = lq_error_set(err, LQ_EUSAGE,
                              "unknown target '%s'; 'lqbuild cache ls' lists what there is", word);
    }
    lq_recipe_destroy(recipe);
    return status;
}

void lq_cache_write_result(struct lq_buffer *out, const struct lq_gc_result *result)
{
    const struct {
        const char *name;
        uint64_t value;
    } fields[] = {
        {"results_removed", result->actions_removed},
        {"results_kept", result->actions_kept},
        {"results_needed", result->needed_actions},
        {"blobs_removed", result->blobs_removed},
        {"blob_bytes_removed", result->blob_bytes_removed},
        {"files_removed", result->files_removed},
        {"histories_removed", result->histories_removed},
        {"before_bytes", result->before_bytes},
        {"after_bytes", result->after_bytes},
    };
    struct lq_json_writer writer;
    lq_json_writer_init(&writer, out, false);
    lq_json_begin_object(&writer);
    for (size_t i = 0; i < LQ_COUNT_OF(fields); i++) {
        lq_json_key(&writer, fields[i].name);
        lq_json_uint(&writer, fields[i].value);
    }
    lq_json_key(&writer, "finished");
    lq_json_bool(&writer, result->finished);
    lq_json_end_object(&writer);
    lq_buffer_append_char(out, '\n');
}
