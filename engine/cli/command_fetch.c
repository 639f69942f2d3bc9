/* `lqbuild fetch`: the one command that downloads. Builds only read what is there, so that they
 * give the same with and without a network. */
#include <stdio.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/json.h"
#include "engine/base/text.h"
#include "engine/cli/commands.h"
#include "engine/cli/hub/hub_fetch.h"
#include "engine/cli/hub/hub_settings.h"
#include "engine/cli/hub/hub_wanted.h"

struct job {
    struct lq_cli *cli;
    struct lq_hub *hub;
    const char *cache;
    const char **words;
    struct lq_hub_name *names;
    struct lq_hub_fetch *fetches;
    size_t count;
    struct lq_hub_progress progress;
    atomic_bool *cancel;
};

/* ---- what was fetched ---- */

/* "org/name: 9 files, 2.1 GiB in PATH". */
static void print_line(const struct job *job, const struct lq_hub_fetch *fetch)
{
    struct lq_buffer out;
    char size[32];
    lq_buffer_init(&out);
    const struct lq_hub_choice *choice = &fetch->choice;
    if (fetch->dry_run) {
        for (size_t i = 0; i < choice->count; i++) {
            lq_buffer_printf(&out, "%10s  %s\n",
                             lq_text_size(choice->files[i]->size_bytes, size, sizeof size),
                             choice->files[i]->path);
        }
        lq_buffer_printf(&out, "%s (%.8s): ", fetch->name->repository, fetch->commit);
        lq_buffer_printf(&out, "would load %s",
                         lq_text_size(fetch->missing_bytes, size, sizeof size));
        lq_buffer_printf(&out, " of %s\n", lq_text_size(choice->size_bytes, size, sizeof size));
    } else {
        lq_buffer_printf(&out, "%s (%.8s): %zu file%s, %s%s in %s\n", fetch->name->repository,
                         fetch->commit, choice->count, choice->count == 1 ? "" : "s",
                         lq_text_size(choice->size_bytes, size, sizeof size),
                         fetch->loaded_bytes == 0 ? ", were all there" : "", fetch->path);
    }
    if (!job->cli->quiet) {
        lq_cli_print(&out);
        (void)fflush(stdout);
    }
    lq_buffer_fini(&out);
}

static void put_uint(struct lq_json_writer *writer, const char *key, uint64_t value)
{
    lq_json_key(writer, key);
    lq_json_uint(writer, value);
}

static void put_fetch(struct lq_json_writer *writer, const struct lq_hub_fetch *fetch)
{
    lq_json_begin_object(writer);
    lq_json_put_string(writer, "name", fetch->name->repository);
    lq_json_put_string(writer, "kind", fetch->name->is_dataset ? "dataset" : "model");
    lq_json_put_string(writer, "revision", fetch->name->revision);
    lq_json_put_string(writer, "commit", fetch->commit);
    lq_json_put_string(writer, "path", fetch->path);
    put_uint(writer, "size_bytes", fetch->choice.size_bytes);
    put_uint(writer, "missing_bytes", fetch->missing_bytes);
    put_uint(writer, "loaded_bytes", fetch->loaded_bytes);
    lq_json_key(writer, "files");
    lq_json_begin_array(writer);
    for (size_t i = 0; i < fetch->choice.count; i++) {
        lq_json_begin_object(writer);
        lq_json_put_string(writer, "path", fetch->choice.files[i]->path);
        put_uint(writer, "size_bytes", fetch->choice.files[i]->size_bytes);
        lq_json_put_string(writer, fetch->choice.files[i]->is_large ? "sha256" : "git_sha1",
                           fetch->choice.files[i]->id);
        lq_json_end_object(writer);
    }
    lq_json_end_array(writer);
    lq_json_end_object(writer);
}

static void print_json(const struct job *job)
{
    struct lq_buffer out;
    struct lq_json_writer writer;
    lq_buffer_init(&out);
    lq_json_writer_init(&writer, &out, !job->cli->json);
    lq_json_begin_object(&writer);
    if (job->cli->json) {
        lq_json_put_string(&writer, "event", "result");
    }
    lq_json_put_string(&writer, "status", "success");
    lq_json_key(&writer, "fetched");
    lq_json_begin_array(&writer);
    for (size_t i = 0; i < job->count; i++) {
        put_fetch(&writer, &job->fetches[i]);
    }
    lq_json_end_array(&writer);
    lq_json_end_object(&writer);
    if (out.size_bytes > 0 && out.data[out.size_bytes - 1] != '\n') {
        lq_buffer_append_char(&out, '\n');
    }
    lq_cli_print(&out);
    lq_buffer_fini(&out);
}

/* ---- what is asked for ---- */

/* Names out of the recipe; none when all of it is there. */
static enum lq_status find_words(struct job *job, struct lq_error *err)
{
    struct lq_cli *cli = job->cli;
    struct lq_recipe *recipe = NULL;
    struct lq_hub_wanted wanted = {.count = 0};
    if (cli->args.operand_count > 0) {
        job->words = cli->args.operands;
        job->count = cli->args.operand_count;
        return LQ_OK;
    }
    enum lq_status status = lq_cli_load_recipe(cli, &recipe, err);
    if (status == LQ_OK) {
        status = lq_hub_find_wanted(recipe, &cli->arena, &wanted, err);
    }
    for (size_t i = 0; i < wanted.count && status == LQ_OK; i++) {
        wanted.names[i] = lq_arena_dup_string(&cli->arena, wanted.names[i]);
        status = wanted.names[i] == NULL ? lq_error_nomem(err, "a name") : LQ_OK;
    }
    lq_recipe_destroy(recipe);
    job->words = wanted.names;
    job->count = wanted.count;
    if (status == LQ_OK && wanted.count == 0 && !cli->quiet && !lq_cli_prints_json(cli)) {
        (void)fprintf(stderr, wanted.there_count > 0
                                  ? "nothing to download: what the recipe names is there\n"
                                  : "nothing to download: the recipe names nothing of the hub\n");
    }
    return status;
}

static enum lq_status parse_words(struct job *job, struct lq_error *err)
{
    job->names = lq_arena_get_array(&job->cli->arena, job->count + 1, sizeof job->names[0]);
    job->fetches = lq_arena_get_array(&job->cli->arena, job->count + 1, sizeof job->fetches[0]);
    if (job->names == NULL || job->fetches == NULL) {
        return lq_error_nomem(err, "a name");
    }
    for (size_t i = 0; i < job->count; i++) {
        if (!lq_hub_name_parse(job->words[i], &job->cli->arena, &job->names[i])) {
            return lq_error_set(err, LQ_EUSAGE,
                                "'%s' is no name of the hub, expected org/name, org/name@revision, "
                                "org/name/file.gguf or datasets/org/name/file",
                                job->words[i]);
        }
    }
    return LQ_OK;
}

static enum lq_status open_hub(struct job *job, struct lq_error *err)
{
    struct lq_hub_settings settings;
    struct lq_arena *arena = &job->cli->arena;
    enum lq_status status = lq_hub_settings_load(&settings, arena, err);
    if (status == LQ_OK && settings.is_offline) {
        return lq_error_set(err, LQ_EFAIL,
                            "HF_HUB_OFFLINE is set, so %s is not downloaded; unset it to do so",
                            job->words[0]);
    }
    if (status == LQ_OK) {
        status = lq_hub_cache_folder(arena, &job->cache, err);
    }
    if (status == LQ_OK && job->cache == NULL) {
        return lq_error_set(err, LQ_EUSAGE,
                            "there is no folder to download to; set HF_HUB_CACHE or HOME");
    }
    const struct lq_hub_options options = {
        .endpoint = settings.endpoint,
        .token = settings.token,
        .ca_file = settings.ca_file,
        .timeout_seconds = settings.timeout_seconds,
        .cancel = job->cancel,
    };
    return status == LQ_OK ? lq_hub_open(&job->hub, &options, err) : status;
}

static enum lq_status fetch_all(struct job *job, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < job->count && status == LQ_OK; i++) {
        struct lq_hub_fetch *fetch = &job->fetches[i];
        *fetch = (struct lq_hub_fetch){
            .hub = job->hub,
            .cache = job->cache,
            .name = &job->names[i],
            .progress = &job->progress,
            .cancel = job->cancel,
            .dry_run = job->cli->dry_run,
            .check = job->cli->force,
        };
        status = lq_hub_fetch(fetch, &job->cli->arena, err);
        if (status == LQ_OK && !lq_cli_prints_json(job->cli)) {
            print_line(job, fetch);
        }
    }
    return status;
}

enum lq_status lq_command_fetch(struct lq_cli *cli, struct lq_error *err)
{
    struct job job = {.cli = cli};
    enum lq_status status = find_words(&job, err);
    if (status == LQ_OK) {
        status = parse_words(&job, err);
    }
    if (status == LQ_OK && job.count > 0) {
        job.cancel = lq_cli_catch_signals();
        lq_hub_progress_init(&job.progress, cli->progress_mode);
        status = open_hub(&job, err);
        if (status == LQ_OK) {
            status = fetch_all(&job, err);
        }
        lq_hub_progress_fini(&job.progress);
        lq_cli_release_signals();
    }
    if (status == LQ_OK && lq_cli_prints_json(cli)) {
        print_json(&job);
    }
    lq_hub_close(job.hub);
    return status;
}
