#define _XOPEN_SOURCE 700 /* mkdtemp, nftw */
#include "engine/cli/check_rebuild.h"

#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/cache.h"
#include "cache/upkeep.h"
#include "engine/base/json.h"
#include "engine/cli/graph.h"

struct comparison {
    struct lq_cli *cli;
    struct lq_cache *before;
    struct lq_cache *after;
    struct lq_buffer out;
    uint64_t equal;
    uint64_t different;
    uint64_t unmatched; /* made from something that is different itself */
    char first[256];    /* the first step that differs */
    enum lq_status status;
};

/* "gguf.tensor blk.0.attn_q.weight": without folder and artifact. */
static const char *step_name(struct comparison *comparison, const char *label)
{
    const char *at = strchr(label, '|');
    at = at == NULL ? label : at + 1;
    char *copy = lq_arena_dup_string(&comparison->cli->arena, at);
    for (char *c = copy; c != NULL && *c != '\0'; c++) {
        *c = *c == '|' ? ' ' : *c;
    }
    return copy == NULL ? "a step" : copy;
}

/* The first byte that differs; the shorter size when one is the beginning of the other. */
static uint64_t first_difference(struct comparison *comparison, const struct lq_digest *a,
                                 const struct lq_digest *b)
{
    enum { PIECE_BYTES = 1 << 16 };
    static unsigned char pieces[2][PIECE_BYTES];
    struct lq_blob_reader *readers[2] = {NULL, NULL};
    struct lq_error err;
    uint64_t at = 0;
    bool fine = lq_blob_open(comparison->before, a, false, &readers[0], &err) == LQ_OK &&
                lq_blob_open(comparison->after, b, false, &readers[1], &err) == LQ_OK &&
                readers[0] != NULL && readers[1] != NULL;
    uint64_t end = fine ? lq_blob_size(readers[0]) : 0;
    end = fine && lq_blob_size(readers[1]) < end ? lq_blob_size(readers[1]) : end;
    while (fine && at < end) {
        size_t size = end - at < PIECE_BYTES ? (size_t)(end - at) : (size_t)PIECE_BYTES;
        fine = lq_blob_read(readers[0], at, pieces[0], size, &err) == LQ_OK &&
               lq_blob_read(readers[1], at, pieces[1], size, &err) == LQ_OK;
        size_t i = 0;
        while (fine && i < size && pieces[0][i] == pieces[1][i]) {
            i++;
        }
        at += i;
        if (i < size) {
            break;
        }
    }
    for (size_t i = 0; i < 2; i++) {
        if (readers[i] != NULL) {
            lq_blob_close(readers[i]);
        }
    }
    return at;
}

static void tell_difference(struct comparison *comparison, const char *step,
                            const struct lq_action_output *before,
                            const struct lq_action_output *after)
{
    char old_hex[LQ_DIGEST_HEX_BYTES];
    char new_hex[LQ_DIGEST_HEX_BYTES];
    uint64_t at = first_difference(comparison, &before->digest, &after->digest);
    (void)lq_digest_to_hex(&before->digest, old_hex);
    (void)lq_digest_to_hex(&after->digest, new_hex);
    if (comparison->cli->json) {
        struct lq_json_writer writer;
        lq_json_writer_init(&writer, &comparison->out, false);
        lq_json_begin_object(&writer);
        lq_json_put_string(&writer, "event", "different");
        lq_json_put_string(&writer, "step", step);
        lq_json_put_string(&writer, "output", before->name);
        lq_json_put_string(&writer, "before", old_hex);
        lq_json_put_string(&writer, "after", new_hex);
        lq_json_key(&writer, "first_byte");
        lq_json_uint(&writer, at);
        lq_json_end_object(&writer);
        lq_buffer_append_char(&comparison->out, '\n');
        return;
    }
    lq_buffer_printf(&comparison->out,
                     "different: %s, output %s: %.12s, %llu bytes -> %.12s, %llu bytes; first at "
                     "byte %llu\n",
                     step, before->name, old_hex, (unsigned long long)before->size_bytes, new_hex,
                     (unsigned long long)after->size_bytes, (unsigned long long)at);
}

/* A result of the second build beside the one that the first has under the same key. */
static void compare(void *user, const struct lq_cache_entry *entry)
{
    struct comparison *comparison = user;
    struct lq_action_record before = {0};
    struct lq_action_record after = {0};
    bool found[2] = {false, false};
    struct lq_arena *arena = &comparison->cli->arena;
    struct lq_error err;
    if (lq_action_get(comparison->after, entry->key, arena, &after, &found[0], &err) != LQ_OK ||
        lq_action_get(comparison->before, entry->key, arena, &before, &found[1], &err) != LQ_OK ||
        !found[0] || !found[1] || before.output_count != after.output_count) {
        comparison->unmatched++;
        return;
    }
    bool equal = true;
    const char *step = step_name(comparison, entry->label);
    for (size_t i = 0; i < before.output_count; i++) {
        if (!lq_digest_equal(&before.outputs[i].digest, &after.outputs[i].digest)) {
            equal = false;
            tell_difference(comparison, step, &before.outputs[i], &after.outputs[i]);
        }
    }
    comparison->equal += equal ? 1 : 0;
    comparison->different += equal ? 0 : 1;
    if (!equal && comparison->first[0] == '\0') {
        (void)snprintf(comparison->first, sizeof comparison->first, "%s", step);
    }
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *place)
{
    (void)st;
    (void)kind;
    (void)place;
    return remove(path);
}

static enum lq_status judge(struct comparison *comparison, const char *target, struct lq_error *err)
{
    enum lq_status status = lq_cache_list(comparison->after, compare, comparison, err);
    if (status != LQ_OK) {
        return status;
    }
    lq_cli_print(&comparison->out);
    lq_buffer_clear(&comparison->out);
    unsigned long long different = comparison->different;
    unsigned long long all = comparison->equal + comparison->different + comparison->unmatched;
    if (comparison->different > 0 || comparison->unmatched > 0) {
        return lq_error_set(err, LQ_EFAIL,
                            "'%s' is not reproducible: of %llu results %llu are different and "
                            "%llu are made from different ones; look at %s first",
                            target, all, different, (unsigned long long)comparison->unmatched,
                            comparison->first[0] == '\0' ? "the steps that the first build lacks"
                                                         : comparison->first);
    }
    if (comparison->cli->json) {
        lq_buffer_printf(&comparison->out, "{\"event\":\"reproducible\",\"results\":%llu}\n", all);
    } else if (!comparison->cli->quiet) {
        lq_buffer_printf(&comparison->out, "%s: all %llu results are the same, byte by byte\n",
                         target, all);
    }
    lq_cli_print(&comparison->out);
    return LQ_OK;
}

/* The second build, with a cache in `folder`, and the comparison. */
static enum lq_status rebuild(struct lq_cli *cli, const struct lq_cli_build *build,
                              const char *folder, struct lq_error *err)
{
    struct lq_cache_options options = {.dir = folder};
    struct comparison comparison = {.cli = cli, .before = cli->cache};
    enum lq_status status = lq_cache_open(&comparison.after, &options, err);
    if (status != LQ_OK) {
        return status;
    }
    lq_buffer_init(&comparison.out);
    cli->cache = comparison.after;
    status = lq_cli_build(cli, build, NULL, err);
    cli->cache = comparison.before;
    if (status == LQ_OK) {
        status = judge(&comparison, build->targets[0], err);
    }
    lq_cache_close(comparison.after);
    lq_buffer_fini(&comparison.out);
    return status;
}

enum lq_status lq_cli_check_rebuild(struct lq_cli *cli, const char *target, struct lq_error *err)
{
    struct lq_recipe *recipe = NULL;
    const struct lq_artifact *artifact = NULL;
    enum lq_status status = lq_cli_load_recipe(cli, &recipe, err);
    if (status == LQ_OK) {
        status = lq_graph_find_target(recipe, target, &artifact, err);
    }
    struct lq_cli_build build = {
        .recipe = recipe, .targets = &target, .target_count = 1, .hide_summary = true};
    if (status == LQ_OK) {
        status = lq_cli_build(cli, &build, NULL, err);
    }
    if (status == LQ_OK) {
        const char *temporary = getenv("TMPDIR");
        char *folder =
            lq_arena_printf(&cli->arena, "%s/lqbuild-check-XXXXXX",
                            temporary == NULL || temporary[0] == '\0' ? "/tmp" : temporary);
        if (folder == NULL || mkdtemp(folder) == NULL) {
            status = lq_error_errno(err, LQ_EIO, "cannot make a folder for the second build");
        } else {
            build.scratch = true;
            status = rebuild(cli, &build, folder, err);
            (void)nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
        }
    }
    lq_recipe_destroy(recipe);
    return status;
}
