/* The loop of a build: advance nodes and tasks, start what is ready, take back what is finished. */
#include "engine/build.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/base/pool.h"
#include "engine/build_state.h"

bool lq_build_cancelled(const struct lq_build *build)
{
    return build->options->cancel != NULL && atomic_load(build->options->cancel);
}

static void estimate(struct lq_build *build, struct lq_event *event)
{
    const struct lq_build_result *result = build->result;
    event->steps_total = result->steps;
    event->steps_finished = result->ran + result->cached + result->failed + result->would_run;
    event->eta_seconds = -1;
    if (build->cost_ran > 0 && build->executor != NULL) {
        /* What ran tells how far the guesses are off here and now. */
        double unit = build->seconds_ran / (double)build->cost_ran;
        event->eta_seconds = unit * (double)build->cost_left / (double)build->executor->slot_count;
    }
}

void lq_build_event(struct lq_build *build, struct lq_event *event)
{
    if (build->options->on_event != NULL) {
        estimate(build, event);
        build->options->on_event(build->options->event_user, event);
    }
}

void lq_build_warn(struct lq_build *build, const char *text)
{
    size_t length = strlen(text);
    struct lq_pending_warning *warning = malloc(sizeof *warning + length + 1);
    if (warning == NULL) {
        return;
    }
    memcpy(warning->text, text, length + 1);
    (void)pthread_mutex_lock(&build->mutex);
    warning->next = build->warnings;
    build->warnings = warning;
    (void)pthread_mutex_unlock(&build->mutex);
}

static void show_warnings(struct lq_build *build)
{
    (void)pthread_mutex_lock(&build->mutex);
    struct lq_pending_warning *newest = build->warnings;
    build->warnings = NULL;
    (void)pthread_mutex_unlock(&build->mutex);
    struct lq_pending_warning *oldest = NULL;
    while (newest != NULL) {
        struct lq_pending_warning *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest != NULL) {
        struct lq_event event = {.kind = LQ_EVENT_WARNING, .text = oldest->text};
        lq_build_event(build, &event);
        struct lq_pending_warning *next = oldest->next;
        free(oldest);
        oldest = next;
    }
}

static void report_failure(struct lq_build *build, const struct lq_node *node,
                           const struct lq_task *task, enum lq_status status,
                           const struct lq_error *err)
{
    if (build->first_status == LQ_OK) {
        build->first_status = status;
        build->first_error = *err;
        build->first_error.status = status;
    }
    struct lq_event event = {
        .kind = LQ_EVENT_ERROR,
        .artifact = node->artifact->name,
        .rule = node->artifact->rule->kind,
        .label = task == NULL ? NULL : task->spec.label,
        .op = task == NULL ? NULL : task->spec.op,
        .step = task == NULL ? 0 : task->number,
        .status = status,
        .text = err->message,
    };
    lq_build_event(build, &event);
}

void lq_build_fail(struct lq_build *build, const struct lq_node *node, const struct lq_task *task,
                   enum lq_status status, const struct lq_error *err)
{
    if (status == LQ_ECANCELLED && lq_build_cancelled(build)) {
        build->stopping = true;
        return;
    }
    report_failure(build, node, task, status, err);
    build->failures++;
    if (build->failures > build->options->keep_going) {
        build->stopping = true;
    }
}

void lq_build_fail_later(struct lq_build *build, const struct lq_node *node, enum lq_status status,
                         const struct lq_error *err)
{
    report_failure(build, node, NULL, status, err);
}

enum lq_status lq_build_submit(struct lq_build *build, struct lq_job *job,
                               void (*perform)(struct lq_work *work))
{
    job->build = build;
    job->work.perform = perform;
    job->status = LQ_OK;
    enum lq_status status = build->executor->submit(build->executor, &job->work, &job->err);
    if (status == LQ_OK) {
        build->jobs_under_way++;
    } else {
        job->status = status;
    }
    return status;
}

struct lq_job *lq_build_job(enum lq_job_kind kind)
{
    struct lq_job *job = calloc(1, sizeof *job);
    if (job != NULL) {
        job->kind = kind;
    }
    return job;
}

static void take_back(struct lq_build *build, struct lq_work *work)
{
    struct lq_job *job = (struct lq_job *)(void *)work;
    bool waited =
        job->kind == LQ_JOB_ASK_TASK || job->kind == LQ_JOB_ASK_NODE || job->kind == LQ_JOB_SEND;
    build->waits_under_way -= waited ? 1 : 0;
    build->jobs_under_way -= waited ? 0 : 1;
    lq_remember_take(build, job);
    switch (job->kind) {
    case LQ_JOB_ASK_TASK:
        lq_task_asked(build, job);
        free(job);
        break;
    case LQ_JOB_ASK_NODE:
        lq_node_asked(build, job);
        free(job);
        break;
    case LQ_JOB_SEND:
        free(job);
        break;
    case LQ_JOB_HASH:
        lq_node_hashed(build, job);
        free(job);
        break;
    case LQ_JOB_RUN:
        lq_task_ran(build, job); /* it is a part of the task */
        break;
    default:
        lq_node_placed(build, job);
        free(job);
        break;
    }
}

/* Everything that needs no waiting. */
static void settle(struct lq_build *build)
{
    for (;;) {
        struct lq_node *node = build->node_queue;
        if (node != NULL) {
            build->node_queue = node->queue_next;
            if (build->node_queue == NULL) {
                build->node_queue_end = &build->node_queue;
            }
            if (build->stopping) {
                continue;
            }
            lq_node_advance(build, node);
        } else if (!lq_task_next_woken(build)) {
            return;
        }
    }
}

static void show_progress(struct lq_build *build)
{
    for (size_t i = 0; build->options->on_event != NULL && i < build->node_count; i++) {
        const struct lq_node *node = &build->nodes[i];
        for (size_t k = 0; node->state == LQ_NODE_RUNNING && k < node->task_count; k++) {
            const struct lq_task *task = node->tasks[k];
            if (task->state != LQ_TASK_RUNNING) {
                continue;
            }
            struct lq_event event = {.kind = LQ_EVENT_STEP_PROGRESS,
                                     .step = task->number,
                                     .artifact = node->artifact->name,
                                     .op = task->spec.op,
                                     .label = task->spec.label};
            lq_run_get_progress(task->run, &event.done, &event.total, &event.unit);
            lq_build_event(build, &event);
        }
    }
}

/* Now and then: a look costs some microseconds. */
static void note_memory(struct lq_build *build)
{
    static const uint64_t look_ns = 50 * 1000 * 1000;
    uint64_t now = lq_clock_ns();
    if (now - build->memory_seen_ns < look_ns) {
        return;
    }
    build->memory_seen_ns = now;
    uint64_t bytes = lq_memory_resident();
    if (bytes > build->result->peak_memory_bytes) {
        build->result->peak_memory_bytes = bytes;
    }
}

static void loop(struct lq_build *build)
{
    enum { WAIT_MS = 100, LOCKED_WAIT_MS = 10 };
    for (;;) {
        lq_cache_hold(build->cache);
        settle(build);
        lq_cache_release(build->cache);
        if (lq_build_cancelled(build)) {
            build->stopping = true;
        }
        lq_task_run_ready(build);
        show_warnings(build);
        if (build->node_queue != NULL || build->woken != NULL) {
            continue;
        }
        lq_transient_sweep(build);
        bool idle = build->jobs_under_way == 0 && build->waits_under_way == 0;
        if (idle && (build->locked == NULL || build->stopping)) {
            return;
        }
        unsigned wait_ms = build->locked == NULL ? WAIT_MS : LOCKED_WAIT_MS;
        struct lq_work *work = build->executor->poll(build->executor, wait_ms);
        note_memory(build);
        if (work == NULL) {
            show_progress(build);
        }
        while (work != NULL) {
            take_back(build, work);
            idle = build->jobs_under_way == 0 && build->waits_under_way == 0;
            work = idle ? NULL : build->executor->poll(build->executor, 0);
        }
        lq_task_retry_locked(build);
        lq_remember_settle(build, false);
    }
}

/* Texts that targets show at the end, in the recipe's order. */
static void show_summaries(struct lq_build *build)
{
    for (size_t i = 0; i < build->node_count; i++) {
        const struct lq_node *node = &build->nodes[i];
        const struct lq_node_output *output = lq_plan_output(node, "summary");
        if (!node->target || node->state != LQ_NODE_DONE || node->would_run || output == NULL ||
            !node->artifact->rule->shows_summary) {
            continue;
        }
        struct lq_blob_reader *reader = NULL;
        struct lq_error err;
        if (lq_blob_open(build->cache, &output->digest, true, &reader, &err) != LQ_OK ||
            reader == NULL) {
            continue;
        }
        uint64_t size_bytes = lq_blob_size(reader);
        char *text = lq_arena_get(&build->arena, (size_t)size_bytes + 1);
        if (text != NULL && lq_blob_read(reader, 0, text, (size_t)size_bytes, &err) == LQ_OK) {
            struct lq_event event = {
                .kind = LQ_EVENT_SUMMARY_TEXT, .artifact = node->artifact->name, .text = text};
            lq_build_event(build, &event);
        }
        lq_blob_close(reader);
    }
}

static void release(struct lq_build *build)
{
    show_warnings(build);
    lq_read_ahead_fini(&build->ahead);
    for (struct lq_source *source = build->sources; source != NULL; source = source->next) {
        if (source->copy != NULL) {
            free(source->copy);
        } else if (source->mapped) {
            lq_map_close(&source->map);
        }
    }
    lq_held_free(build);
    for (size_t i = 0; i < build->node_count; i++) {
        lq_place_forget(&build->nodes[i]);
    }
    free(build->ready.items);
    (void)pthread_mutex_destroy(&build->mutex);
    lq_arena_fini(&build->arena);
}

static enum lq_status run_plan(struct lq_build *build, struct lq_error *err)
{
    build->by_key =
        lq_arena_get_array(&build->arena, LQ_BUILD_KEY_BUCKETS, sizeof(struct lq_task *));
    build->sources_by_path =
        lq_arena_get_array(&build->arena, LQ_BUILD_SOURCE_BUCKETS, sizeof(struct lq_source *));
    build->sources_by_digest =
        lq_arena_get_array(&build->arena, LQ_BUILD_SOURCE_BUCKETS, sizeof(struct lq_source *));
    if (build->by_key == NULL || build->sources_by_path == NULL ||
        build->sources_by_digest == NULL) {
        return lq_error_nomem(err, "the build");
    }
    enum lq_status status = build->options->snapshot == NULL
                                ? LQ_OK
                                : lq_cache_removals(build->cache, &build->removals, err);
    status = status == LQ_OK ? lq_plan_create(build, err) : status;
    if (status != LQ_OK) {
        return status;
    }
    loop(build);
    lq_remember_settle(build, true);
    lq_timing_finish(build);
    show_summaries(build);
    if (build->first_status != LQ_OK) {
        if (err != NULL) {
            *err = build->first_error;
        }
        return build->first_status;
    }
    if (lq_build_cancelled(build)) {
        return lq_error_set(err, LQ_ECANCELLED, "cancelled; finished steps are in the cache");
    }
    for (size_t i = 0; i < build->node_count; i++) {
        const struct lq_node *node = &build->nodes[i];
        if (node->state != LQ_NODE_UNWANTED && node->state != LQ_NODE_DONE) {
            return lq_error_set(err, LQ_EINTERNAL, "the build stopped before '%s' was done",
                                node->artifact->name);
        }
    }
    lq_snapshot_save(build);
    return LQ_OK;
}

enum lq_status lq_build_run_on(struct lq_executor *executor, const struct lq_recipe *recipe,
                               struct lq_cache *cache, struct lq_pool *pool,
                               const struct lq_build_options *options,
                               struct lq_build_result *result, struct lq_error *err)
{
    memset(result, 0, sizeof *result);
    struct lq_build *build = calloc(1, sizeof *build);
    if (build == NULL) {
        return lq_error_nomem(err, "the build");
    }
    build->recipe = recipe;
    build->cache = cache;
    build->pool = pool;
    build->executor = executor;
    build->options = options;
    build->result = result;
    build->woken_end = &build->woken;
    build->remember_end = &build->remember;
    build->memory_max =
        options->memory_bytes_max != 0 ? options->memory_bytes_max : lq_schedule_default_memory();
    /* Tests write their small files once only, too. */
    const char *large = getenv("LQBUILD_TEST_LARGE_BYTES");
    build->large_bytes = large == NULL ? LQ_BUILD_LARGE_BYTES : strtoull(large, NULL, 10);
    build->started_ns = lq_clock_ns();
    lq_arena_init(&build->arena);
    (void)pthread_mutex_init(&build->mutex, NULL);
    lq_read_ahead_init(&build->ahead);
    enum lq_status status = run_plan(build, err);
    result->wall_seconds = (double)(lq_clock_ns() - build->started_ns) * 1e-9;
    if (options->remote != NULL) {
        result->has_remote = true;
        lq_remote_counts_get(options->remote, &result->remote);
    }
    release(build);
    free(build);
    return status;
}

enum lq_status lq_build_run(const struct lq_recipe *recipe, const struct lq_registry *registry,
                            struct lq_cache *cache, struct lq_pool *pool,
                            const struct lq_build_options *options, struct lq_build_result *result,
                            struct lq_error *err)
{
    (void)registry; /* rules are already part of the recipe's artifacts */
    struct lq_executor *executor = NULL;
    enum lq_status status = lq_exec_cpu_create(&executor, pool, err);
    if (status != LQ_OK) {
        memset(result, 0, sizeof *result);
        return status;
    }
    status = lq_build_run_on(executor, recipe, cache, pool, options, result, err);
    lq_exec_cpu_destroy(executor);
    return status;
}
