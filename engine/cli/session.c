#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/cache.h"
#include "engine/base/fs.h"
#include "engine/base/jobserver.h"
#include "engine/base/pool.h"
#include "engine/cli/build_log.h"
#include "engine/cli/command.h"
#include "engine/cli/remote_session.h"

enum lq_status lq_cli_load_recipe(struct lq_cli *cli, struct lq_recipe **out, struct lq_error *err)
{
    if (!lq_path_exists(cli->recipe_path)) {
        return lq_error_set(err, LQ_ERECIPE,
                            "%s: no such recipe; name one with --file, or see 'lqbuild help'",
                            cli->recipe_path);
    }
    return lq_recipe_load(out, cli->recipe_path, cli->program->registry, cli->defines,
                          cli->define_count, err);
}

/* ---- cache ---- */

/* There is no way back into the program from here: LMDB's own state is unknown. */
void lq_cli_cache_is_damaged(const char *message)
{
    static const char begin[] = "lqbuild: error: ";
    ssize_t ignored = write(STDERR_FILENO, begin, sizeof begin - 1);
    ignored = write(STDERR_FILENO, message, strlen(message));
    ignored = write(STDERR_FILENO, "\n", 1);
    (void)ignored;
    _exit(lq_status_exit_code(LQ_ECACHE));
}

static void warn_cache(void *user, const char *message)
{
    lq_cli_warn(user, message);
}

enum lq_status lq_cli_open_cache(struct lq_cli *cli, struct lq_error *err)
{
    if (cli->cache != NULL) {
        return LQ_OK;
    }
    char *dir = NULL;
    enum lq_status status = lq_cache_default_dir(cli->cache_dir, &cli->arena, &dir, err);
    if (status != LQ_OK) {
        return status;
    }
    struct lq_cache_options options = {
        .dir = dir, .warn = warn_cache, .warn_user = cli, .fatal = lq_cli_cache_is_damaged};
    cli->cache_folder = dir;
    return lq_cache_open(&cli->cache, &options, err);
}

void lq_cli_close_cache(struct lq_cli *cli)
{
    lq_cache_close(cli->cache);
    cli->cache = NULL;
}

/* ---- signals ---- */

static atomic_bool cancel_flag;

/* The first signal lets running steps stop in good order; the second does what it always does. */
static void handle_signal(int number)
{
    if (atomic_exchange(&cancel_flag, true)) {
        (void)signal(number, SIG_DFL);
        (void)raise(number);
    }
}

static struct sigaction actions_before[2];

atomic_bool *lq_cli_catch_signals(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handle_signal;
    (void)sigemptyset(&action.sa_mask);
    atomic_store(&cancel_flag, false);
    (void)sigaction(SIGINT, &action, &actions_before[0]);
    (void)sigaction(SIGTERM, &action, &actions_before[1]);
    return &cancel_flag;
}

void lq_cli_release_signals(void)
{
    (void)sigaction(SIGINT, &actions_before[0], NULL);
    (void)sigaction(SIGTERM, &actions_before[1], NULL);
}

/* ---- events ---- */

/* Whoever wrote no recipe has used the command line wrongly. */
enum lq_status lq_cli_plain_status(enum lq_status status)
{
    return status == LQ_ERECIPE ? LQ_EUSAGE : status;
}

struct event_filter {
    const struct lq_cli_build *build;
    struct lq_progress *progress;
    struct lq_recorder *recorder; /* may be NULL */
};

/* Keeps the messages of a recipe that the user never wrote, without its positions and lines. */
void lq_cli_hide_positions(const char *name, const char *text, char *out, size_t out_bytes)
{
    size_t used = 0;
    size_t name_length = strlen(name);
    bool found = false;
    out[0] = '\0';
    for (const char *line = text; *line != '\0';) {
        size_t span = strcspn(line, "\n");
        if (strncmp(line, name, name_length) == 0 && line[name_length] == ':') {
            size_t skip = name_length + strspn(line + name_length, ":0123456789");
            skip += line[skip] == ' ';
            int added = snprintf(out + used, out_bytes - used, "%s%.*s", found ? "; " : "",
                                 (int)(span - skip), line + skip);
            used += added < 0 || (size_t)added >= out_bytes - used ? 0 : (size_t)added;
            found = true;
        }
        line += span;
        line += *line == '\n';
    }
    if (!found) {
        (void)snprintf(out, out_bytes, "%s", text);
    }
}

static void filter_event(void *user, const struct lq_event *event)
{
    struct event_filter *filter = user;
    if (filter->recorder != NULL) {
        lq_recorder_event(filter->recorder, event);
    }
    char text[LQ_ERROR_BYTES];
    struct lq_event copy = *event;
    if (filter->build->watch != NULL) {
        filter->build->watch(filter->build->user, event);
        if (event->kind != LQ_EVENT_WARNING && event->kind != LQ_EVENT_ERROR) {
            return;
        }
    }
    if (event->kind == LQ_EVENT_SUMMARY_TEXT && filter->build->hide_summary) {
        return;
    }
    bool message = event->kind == LQ_EVENT_ERROR || event->kind == LQ_EVENT_WARNING;
    if (message && filter->build->hidden_name != NULL && event->text != NULL) {
        lq_cli_hide_positions(filter->build->hidden_name, event->text, text, sizeof text);
        copy.text = text;
        copy.artifact = NULL;
        copy.status = lq_cli_plain_status(event->status);
    }
    lq_progress_event(filter->progress, &copy);
}

/* ---- the build ---- */

static enum lq_status run_build(struct lq_cli *cli, const struct lq_cli_build *build,
                                struct lq_progress *progress, struct lq_recorder *recorder,
                                struct lq_build_result *result, struct lq_error *err)
{
    struct lq_pool *pool = NULL;
    enum lq_status status = lq_cli_open_cache(cli, err);
    if (status == LQ_OK) {
        status = lq_pool_create(&pool, cli->jobs, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    /* Under make or ninja the jobs are shared, unless the user says how many are ours. */
    struct lq_jobserver *jobserver =
        lq_args_has(&cli->args, "jobs") ? NULL : lq_jobserver_open(getenv("MAKEFLAGS"));
    lq_pool_share(pool, jobserver);
    struct lq_remote *remote = NULL;
    status = build->scratch ? LQ_OK : lq_cli_open_remote(cli, &cancel_flag, &remote, err);
    if (status != LQ_OK) {
        lq_pool_destroy(pool);
        lq_jobserver_close(jobserver);
        return status;
    }
    struct event_filter filter = {.build = build, .progress = progress, .recorder = recorder};
    struct lq_build_options options = {
        .targets = build->targets,
        .target_count = build->target_count,
        .keep_going = cli->keep_going,
        .dry_run = cli->dry_run,
        .force = cli->force,
        .place_nothing = build->scratch,
        .explain = cli->explain,
        .snapshot = build->snapshot,
        .remote = remote,
        .fetch_only = build->fetch_only,
        .cancel = &cancel_flag,
        .on_event = filter_event,
        .event_user = &filter,
    };
    (void)lq_cli_catch_signals();
    status = lq_build_run(build->recipe, cli->program->registry, cli->cache, pool, &options, result,
                          err);
    lq_cli_release_signals();
    lq_remote_close(remote);
    lq_pool_destroy(pool);
    if (!build->scratch) {
        lq_cli_collect_garbage(cli);
    }
    lq_jobserver_close(jobserver);
    return status;
}

/* Shows the first error, unless an event has shown it already. */
static void show_failure(struct lq_cli *cli, const struct lq_cli_build *build,
                         const struct lq_progress *progress, const struct lq_error *err)
{
    /* With --format json people have read it on stderr, and programs want it on stdout. */
    bool wants_object = !cli->json && lq_cli_prints_json(cli);
    if (cli->error_shown || (lq_progress_error_count(progress) > 0 && !wants_object)) {
        cli->error_shown = true;
        return;
    }
    struct lq_error shown = *err;
    if (build->hidden_name != NULL) {
        lq_cli_hide_positions(build->hidden_name, err->message, shown.message,
                              sizeof shown.message);
        shown.status = lq_cli_plain_status(err->status);
    }
    lq_cli_show_error(cli, &shown);
}

static void record_build(struct lq_cli *cli, const struct lq_cli_build *build,
                         const struct lq_recorder *recorder, const struct lq_build_result *result,
                         const char *trace, enum lq_status status)
{
    struct lq_error err;
    if (recorder == NULL) {
        return;
    }
    if (cli->cache != NULL && !cli->dry_run && !build->scratch) {
        lq_recorder_append_log(recorder, cli->cache_folder, cli, build, result, status);
    }
    if (trace != NULL && lq_recorder_write_trace(recorder, trace, &err) != LQ_OK) {
        lq_cli_warn(cli, err.message);
    }
}

static enum lq_status create_progress(const struct lq_cli *cli, struct lq_progress **out,
                                      struct lq_error *err)
{
    struct lq_progress_options options = {
        .mode = cli->progress_mode,
        .out = stdout,
        .err = stderr,
        .color = cli->color_err,
        .verbose = cli->verbose,
        .dry_run = cli->dry_run,
    };
    return lq_progress_create(out, &options, err);
}

enum lq_status lq_cli_build_current(struct lq_cli *cli, const struct lq_build_result *result,
                                    struct lq_error *err)
{
    struct lq_progress *progress = NULL;
    enum lq_status status = create_progress(cli, &progress, err);
    if (status == LQ_OK) {
        const struct lq_cli_build build = {.targets = cli->args.operands,
                                           .target_count = cli->args.operand_count};
        struct lq_recorder *recorder = lq_recorder_create(false);
        record_build(cli, &build, recorder, result, NULL, LQ_OK);
        lq_recorder_destroy(recorder);
        lq_progress_finish(progress, result);
        cli->summary_shown = true;
        lq_progress_destroy(progress);
    }
    return status;
}

enum lq_status lq_cli_build(struct lq_cli *cli, const struct lq_cli_build *build,
                            struct lq_build_result *result, struct lq_error *err)
{
    struct lq_build_result own_result = {.steps = 0};
    struct lq_build_result *filled = result == NULL ? &own_result : result;
    struct lq_progress *progress = NULL;
    *filled = (struct lq_build_result){.steps = 0};
    enum lq_status status = create_progress(cli, &progress, err);
    if (status != LQ_OK) {
        return status;
    }
    const char *trace = lq_args_get(&cli->args, "trace");
    struct lq_recorder *recorder = lq_recorder_create(trace != NULL);
    status = run_build(cli, build, progress, recorder, filled, err);
    record_build(cli, build, recorder, filled, trace, status);
    lq_recorder_destroy(recorder);
    lq_progress_pause(progress);
    if (status == LQ_OK && build->before_summary != NULL && !cli->dry_run) {
        status = build->before_summary(build->user, err);
    }
    if (status != LQ_OK) {
        show_failure(cli, build, progress, err);
    }
    if (build->watch == NULL) {
        lq_progress_finish(progress, filled);
        cli->summary_shown = true;
    }
    lq_progress_destroy(progress);
    return status;
}

void lq_cli_close_events(struct lq_cli *cli)
{
    struct lq_progress *progress = NULL;
    struct lq_progress_options options = {
        .mode = LQ_PROGRESS_JSON, .out = stdout, .err = stderr, .dry_run = cli->dry_run};
    const struct lq_build_result nothing = {.steps = 0};
    if (cli->json && cli->command->builds && !cli->summary_shown &&
        lq_progress_create(&progress, &options, NULL) == LQ_OK) {
        lq_progress_finish(progress, &nothing);
        lq_progress_destroy(progress);
        cli->summary_shown = true;
    }
}
