/* Sharing by hand: push and pull for remotes, cache export and import for files. */
#include <stdlib.h>
#include <string.h>

#include "cache/bundle.h"
#include "engine/base/fs.h"
#include "engine/base/json.h"
#include "engine/base/pool.h"
#include "engine/base/text.h"
#include "engine/cli/commands.h"
#include "engine/cli/remote_session.h"

/* ---- the results behind targets ---- */

struct key_list {
    struct lq_digest *keys;
    size_t count;
    size_t capacity;
    bool failed;
};

static void note_key(void *user, const struct lq_digest *key)
{
    struct key_list *list = user;
    if (list->count == list->capacity) {
        size_t capacity = list->capacity == 0 ? 256 : list->capacity * 2;
        struct lq_digest *grown = realloc(list->keys, capacity * sizeof *grown);
        if (grown == NULL) {
            list->failed = true;
            return;
        }
        list->keys = grown;
        list->capacity = capacity;
    }
    list->keys[list->count++] = *key;
}

/* Walks over everything that the targets need; all of it must have been built. */
static enum lq_status list_keys(struct lq_cli *cli, struct key_list *list, struct lq_error *err)
{
    struct lq_recipe *recipe = NULL;
    struct lq_pool *pool = NULL;
    struct lq_build_result result;
    struct lq_build_options options = {
        .targets = cli->args.operands,
        .target_count = cli->args.operand_count,
        .dry_run = true,
        .visit = note_key,
        .visit_user = list,
    };
    enum lq_status status = lq_cli_open_cache(cli, err);
    if (status == LQ_OK) {
        status = lq_cli_load_recipe(cli, &recipe, err);
    }
    if (status == LQ_OK) {
        status = lq_pool_create(&pool, cli->jobs, err);
    }
    if (status == LQ_OK) {
        status =
            lq_build_run(recipe, cli->program->registry, cli->cache, pool, &options, &result, err);
    }
    if (status == LQ_OK && result.would_run > 0) {
        status = lq_error_set(
            err, LQ_ECACHE, "not everything is built: %llu of %llu steps would run; build first",
            (unsigned long long)result.would_run, (unsigned long long)result.steps);
    }
    if (status == LQ_OK && list->failed) {
        status = lq_error_nomem(err, "the list of results");
    }
    lq_pool_destroy(pool);
    lq_recipe_destroy(recipe);
    return status;
}

static void say(struct lq_cli *cli, const char *what, uint64_t results, uint64_t size_bytes,
                const char *path)
{
    struct lq_buffer out;
    char size[32];
    lq_buffer_init(&out);
    if (cli->json) {
        struct lq_json_writer writer;
        lq_json_writer_init(&writer, &out, false);
        lq_json_begin_object(&writer);
        lq_json_put_string(&writer, "done", what);
        lq_json_key(&writer, "results");
        lq_json_uint(&writer, results);
        lq_json_key(&writer, "size_bytes");
        lq_json_uint(&writer, size_bytes);
        lq_json_put_string(&writer, "path", path);
        lq_json_end_object(&writer);
        lq_buffer_append_char(&out, '\n');
    } else {
        lq_buffer_printf(&out, "%s: %llu results, %s %s\n", path, (unsigned long long)results,
                         lq_text_size(size_bytes, size, sizeof size), what);
    }
    lq_cli_print(&out);
    lq_buffer_fini(&out);
}

/* ---- push and pull ---- */

static enum lq_status need_remote(const struct lq_cli *cli, struct lq_error *err)
{
    return cli->settings.remote_count > 0
               ? LQ_OK
               : lq_error_set(err, LQ_EUSAGE,
                              "no remote is configured; give --remote URL, or see "
                              "docs/configuration.md");
}

struct push {
    struct lq_remote *remote;
    const struct key_list *list;
    atomic_size_t sent;
};

static void push_one(void *user, size_t index)
{
    struct push *push = user;
    if (lq_remote_put(push->remote, &push->list->keys[index])) {
        atomic_fetch_add(&push->sent, 1);
    }
}

enum lq_status lq_command_push(struct lq_cli *cli, struct lq_error *err)
{
    struct key_list list = {.keys = NULL};
    struct lq_remote *remote = NULL;
    struct lq_remote_counts counts = {.hits = 0};
    enum lq_status status = need_remote(cli, err);
    if (status == LQ_OK) {
        status = list_keys(cli, &list, err);
    }
    if (status == LQ_OK) {
        status = lq_cli_open_remote(cli, NULL, &remote, err);
    }
    struct push push = {.remote = remote, .list = &list};
    atomic_init(&push.sent, 0);
    if (status == LQ_OK && lq_remote_can_put(remote)) {
        lq_pool_for(lq_remote_pool(remote, true), list.count, push_one, &push);
    }
    if (status == LQ_OK) {
        lq_remote_counts_get(remote, &counts);
        say(cli, "sent", atomic_load(&push.sent), counts.bytes_sent, cli->settings.remotes[0].name);
        if (atomic_load(&push.sent) < list.count) {
            status = lq_error_set(err, LQ_EFAIL, "%zu of %zu results were not sent",
                                  list.count - atomic_load(&push.sent), list.count);
        }
    }
    lq_remote_close(remote);
    free(list.keys);
    return status;
}

enum lq_status lq_command_pull(struct lq_cli *cli, struct lq_error *err)
{
    struct lq_recipe *recipe = NULL;
    enum lq_status status = need_remote(cli, err);
    if (status == LQ_OK) {
        status = lq_cli_load_recipe(cli, &recipe, err);
    }
    if (status == LQ_OK) {
        struct lq_cli_build build = {.recipe = recipe,
                                     .targets = cli->args.operands,
                                     .target_count = cli->args.operand_count,
                                     .fetch_only = true};
        status = lq_cli_build(cli, &build, NULL, err);
    }
    lq_recipe_destroy(recipe);
    return status;
}

/* ---- export and import ---- */

enum lq_status lq_command_cache_export(struct lq_cli *cli, struct lq_error *err)
{
    struct key_list list = {.keys = NULL};
    struct lq_bundle_counts counts;
    struct lq_secret_key key;
    bool found = false;
    const char *path = lq_args_get(&cli->args, "output");
    if (path == NULL) {
        return lq_error_set(err, LQ_EUSAGE, "'lqbuild cache export' needs -o FILE");
    }
    enum lq_status status = lq_cli_sign_key(cli, &key, &found, err);
    if (status == LQ_OK) {
        status = list_keys(cli, &list, err);
    }
    if (status == LQ_OK) {
        status = lq_bundle_write(cli->cache, list.keys, list.count, found ? &key : NULL, path,
                                 &counts, err);
    }
    if (status == LQ_OK && !found) {
        lq_cli_warn(cli, "the bundle is not signed, because there is no key; 'lqbuild key "
                         "generate NAME' makes one");
    }
    if (status == LQ_OK) {
        say(cli, "written", counts.results, counts.size_bytes, path);
    }
    free(list.keys);
    return status;
}

enum lq_status lq_command_cache_import(struct lq_cli *cli, struct lq_error *err)
{
    const char *path = cli->args.operands[0];
    struct lq_bundle_counts counts;
    struct lq_keyring ring;
    enum lq_status status = lq_cli_keyring(cli, &ring, err);
    if (status == LQ_OK) {
        status = lq_cli_open_cache(cli, err);
    }
    if (status == LQ_OK) {
        status =
            lq_bundle_read(cli->cache, path, &ring, cli->settings.trust_unsigned, &counts, err);
    }
    if (status == LQ_OK) {
        say(cli, "read", counts.results, counts.size_bytes, path);
    }
    return status;
}
