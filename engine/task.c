/* The life of one task: it waits for its inputs, forms its key, asks the cache, runs if it must,
 * and wakes those that wait for it. */
#include <string.h>

#include "engine/action.h"
#include "engine/build_state.h"
#include "engine/label.h"

/* ---- waiting and waking ---- */

void lq_task_wake(struct lq_build *build, struct lq_task *task)
{
    task->queue_next = NULL;
    *build->woken_end = task;
    build->woken_end = &task->queue_next;
}

bool lq_task_wait(struct lq_build *build, struct lq_task *task, struct lq_waiter **waiters)
{
    struct lq_waiter *waiter = lq_arena_get(&build->arena, sizeof *waiter);
    if (waiter == NULL) {
        return false;
    }
    waiter->task = task;
    waiter->next = *waiters;
    *waiters = waiter;
    task->waiting_on++;
    return true;
}

void lq_task_wake_all(struct lq_build *build, struct lq_waiter **waiters, bool doomed)
{
    /* The list is last in, first out; wake in the order in which they came. */
    struct lq_waiter *ordered = NULL;
    while (*waiters != NULL) {
        struct lq_waiter *waiter = *waiters;
        *waiters = waiter->next;
        waiter->next = ordered;
        ordered = waiter;
    }
    for (; ordered != NULL; ordered = ordered->next) {
        struct lq_task *task = ordered->task;
        task->doomed = task->doomed || doomed;
        task->waiting_on--;
        if (task->waiting_on == 0) {
            lq_task_wake(build, task);
        }
    }
}

/* ---- results ---- */

static void emit_finished(struct lq_build *build, struct lq_task *task, double seconds)
{
    struct lq_event event = {
        .kind = LQ_EVENT_STEP_FINISHED,
        .step = task->number,
        .artifact = task->node->artifact->name,
        .rule = task->node->artifact->rule->kind,
        .op = task->spec.op,
        .label = task->spec.label,
        .outcome = task->outcome,
        .seconds = seconds,
        .status = task->state == LQ_TASK_FAILED ? task->job.status : LQ_OK,
        .text = task->state == LQ_TASK_FAILED ? task->job.err.message : NULL,
    };
    lq_build_event(build, &event);
}

static uint64_t *counter(struct lq_build *build, enum lq_outcome outcome)
{
    switch (outcome) {
    case LQ_OUTCOME_RAN:
        return &build->result->ran;
    case LQ_OUTCOME_FAILED:
        return &build->result->failed;
    case LQ_OUTCOME_WOULD_RUN:
        return &build->result->would_run;
    default:
        return &build->result->cached;
    }
}

static void count_outcome(struct lq_build *build, struct lq_task *task, enum lq_outcome outcome)
{
    if (task->counted) {
        (*counter(build, task->outcome))--;
    }
    task->outcome = outcome;
    task->counted = true;
    (*counter(build, outcome))++;
}

void lq_task_uncount(struct lq_build *build, struct lq_task *task)
{
    if (task->counted) {
        (*counter(build, task->outcome))--;
        task->counted = false;
    }
    build->result->steps--;
}

struct lq_task_output *lq_task_input(const struct lq_task *task, size_t input)
{
    const struct lq_ref *ref = &task->spec.inputs[input].ref;
    if (ref->kind != LQ_REF_STEP) {
        return NULL;
    }
    struct lq_task *producer = task->node->tasks[ref->index];
    for (size_t i = 0; i < producer->spec.output_count; i++) {
        if (strcmp(producer->outputs[i].name, ref->name) == 0) {
            return &producer->outputs[i];
        }
    }
    return NULL;
}

/* Transient outputs go as soon as nobody will read them any more. */
static void give_back_inputs(struct lq_build *build, struct lq_task *task)
{
    if (task->read_inputs) {
        return;
    }
    task->read_inputs = true;
    for (size_t i = 0; i < task->spec.input_count; i++) {
        struct lq_task_output *output = lq_task_input(task, i);
        if (output == NULL) {
            continue;
        }
        output->readers_left--;
        if (output->transient && output->readers_left == 0 && !build->options->dry_run) {
            lq_transient_drop(build, output);
        }
    }
}

static void finish(struct lq_build *build, struct lq_task *task, enum lq_outcome outcome,
                   double seconds)
{
    task->state = LQ_TASK_DONE;
    task->must_run = false;
    build->cost_left -= task->eta_cost;
    task->would_run = outcome == LQ_OUTCOME_WOULD_RUN;
    task->node->would_run = task->node->would_run || task->would_run;
    count_outcome(build, task, outcome);
    lq_timing_note(build, task, outcome == LQ_OUTCOME_RAN ? seconds : 0.0);
    emit_finished(build, task, seconds);
    if (!task->would_run) {
        if (!build->options->dry_run) {
            lq_transient_claim(build, task);
        }
        give_back_inputs(build, task);
    }
    lq_task_wake_all(build, &task->waiters, false);
    lq_node_task_over(build, task->node);
}

static void give_up(struct lq_build *build, struct lq_task *task, enum lq_task_state state)
{
    task->state = state;
    task->node->broken = true;
    build->cost_left -= task->eta_cost;
    if (state == LQ_TASK_FAILED) {
        count_outcome(build, task, LQ_OUTCOME_FAILED);
        emit_finished(build, task, task->job.seconds);
        lq_build_fail(build, task->node, task, task->job.status, &task->job.err);
    }
    lq_task_wake_all(build, &task->waiters, true);
    lq_node_task_over(build, task->node);
}

static void fail_with(struct lq_build *build, struct lq_task *task, enum lq_status status)
{
    task->job.status = status;
    give_up(build, task, LQ_TASK_FAILED);
}

/* ---- keys and look-up ---- */

static bool input_would_run(const struct lq_build *build, const struct lq_task *task)
{
    for (size_t i = 0; i < task->spec.input_count; i++) {
        const struct lq_ref *ref = &task->spec.inputs[i].ref;
        if ((ref->kind == LQ_REF_STEP && task->node->tasks[ref->index]->would_run) ||
            (ref->kind == LQ_REF_ARTIFACT && lq_plan_node(build, ref->artifact)->would_run)) {
            return true;
        }
    }
    return false;
}

static const struct lq_digest *input_digest(const struct lq_build *build,
                                            const struct lq_task *task, size_t input)
{
    const struct lq_ref *ref = &task->spec.inputs[input].ref;
    switch (ref->kind) {
    case LQ_REF_STEP:
        return &lq_task_input(task, input)->digest;
    case LQ_REF_ARTIFACT:
        return &lq_plan_output(lq_plan_node(build, ref->artifact), ref->name)->digest;
    case LQ_REF_SOURCE:
        return &lq_plan_node(build, ref->artifact)->sources[ref->index]->digest;
    default:
        return &ref->digest;
    }
}

static bool make_key(struct lq_build *build, struct lq_task *task)
{
    const struct lq_step *spec = &task->spec;
    struct lq_manifest manifest;
    lq_manifest_init(&manifest, "step");
    lq_manifest_add_uint(&manifest, "version", spec->op, spec->version);
    for (size_t i = 0; i < spec->param_count; i++) {
        lq_manifest_add(&manifest, "param", spec->params[i].name, spec->params[i].value);
    }
    for (size_t i = 0; i < spec->input_count; i++) {
        const struct lq_ref *ref = &spec->inputs[i].ref;
        const struct lq_task_output *output = lq_task_input(task, i);
        struct lq_digest digest = *input_digest(build, task, i);
        if (output != NULL && output->transient) {
            lq_transient_name(task->node->tasks[ref->index], ref->name, &digest);
        }
        lq_manifest_add_digest(&manifest, "input", spec->inputs[i].name, &digest);
    }
    for (size_t i = 0; i < spec->output_count; i++) {
        lq_manifest_add(&manifest, "output", spec->outputs[i].name,
                        spec->outputs[i].transient ? "transient" : "kept");
    }
    struct lq_digest key;
    bool made = lq_manifest_key(&manifest, &key);
    task->manifest =
        made ? lq_arena_dup(&build->arena, manifest.text.data, manifest.text.size_bytes) : NULL;
    lq_manifest_fini(&manifest);
    if (task->manifest == NULL) {
        return false;
    }
    if (!task->keyed || !lq_digest_equal(&task->key, &key)) {
        task->key = key;
        size_t bucket = ((size_t)key.bytes[0] << 8 | key.bytes[1]) % LQ_BUILD_KEY_BUCKETS;
        if (!task->keyed) {
            task->key_next = build->by_key[bucket];
            build->by_key[bucket] = task;
        }
        task->keyed = true;
    }
    return true;
}

/* A task of this build with the same key that is on its way; the result will be shared. */
static struct lq_task *find_leader(const struct lq_build *build, const struct lq_task *task)
{
    size_t bucket = ((size_t)task->key.bytes[0] << 8 | task->key.bytes[1]) % LQ_BUILD_KEY_BUCKETS;
    for (struct lq_task *other = build->by_key[bucket]; other != NULL; other = other->key_next) {
        bool under_way = other->state == LQ_TASK_READY || other->state == LQ_TASK_LOCKED ||
                         other->state == LQ_TASK_RUNNING || other->state == LQ_TASK_ASKING;
        if (other != task && under_way && lq_digest_equal(&other->key, &task->key)) {
            return other;
        }
    }
    return NULL;
}

static bool ran_in_this_build(const struct lq_build *build, const struct lq_task *task)
{
    size_t bucket = ((size_t)task->key.bytes[0] << 8 | task->key.bytes[1]) % LQ_BUILD_KEY_BUCKETS;
    for (struct lq_task *other = build->by_key[bucket]; other != NULL; other = other->key_next) {
        if (other != task && other->state == LQ_TASK_DONE && other->outcome == LQ_OUTCOME_RAN &&
            lq_digest_equal(&other->key, &task->key)) {
            return true;
        }
    }
    return false;
}

enum lookup { LOOKUP_HIT, LOOKUP_MISS, LOOKUP_OUTPUT_GONE };

static enum lookup look_up(struct lq_build *build, struct lq_task *task)
{
    struct lq_action_record record = {0};
    bool found = false;
    struct lq_error err;
    if (lq_action_get(build->cache, &task->key, &build->arena, &record, &found, &err) != LQ_OK) {
        lq_build_warn(build, err.message);
        return LOOKUP_MISS;
    }
    if (!found || record.output_count != task->spec.output_count) {
        return LOOKUP_MISS;
    }
    for (size_t i = 0; i < record.output_count; i++) {
        struct lq_task_output *output = &task->outputs[i];
        const struct lq_action_output *stored = &record.outputs[i];
        uint64_t size_bytes = 0;
        if (strcmp(output->name, stored->name) != 0) {
            return LOOKUP_MISS;
        }
        if (!output->transient && !lq_blob_exists(build->cache, &stored->digest, &size_bytes)) {
            if (build->options->explain) {
                (void)lq_blob_place_get(build->cache, &stored->digest, &build->arena,
                                        &task->lost_path, NULL);
            }
            return LOOKUP_OUTPUT_GONE;
        }
        output->digest = stored->digest;
        output->size_bytes = stored->size_bytes;
    }
    task->verdict = record.verdict;
    task->verdict_text = record.verdict_text;
    task->numerics = record.numerics;
    return LOOKUP_HIT;
}

/* The step, or artifact, that must be made anew before this task's key can be known. */
static const char *awaited_input(const struct lq_build *build, const struct lq_task *task)
{
    for (size_t i = 0; i < task->spec.input_count; i++) {
        const struct lq_ref *ref = &task->spec.inputs[i].ref;
        if (ref->kind == LQ_REF_STEP && task->node->tasks[ref->index]->would_run) {
            return task->node->tasks[ref->index]->spec.label;
        }
        if (ref->kind == LQ_REF_ARTIFACT && lq_plan_node(build, ref->artifact)->would_run) {
            return ref->artifact->name;
        }
    }
    return NULL;
}

/* The manifest that the step was last built with; NULL when there is none. */
static char *manifest_before(struct lq_build *build, const struct lq_task *task)
{
    char *before = NULL;
    struct lq_error err;
    char *label =
        lq_label_make(&build->arena, task->node->artifact, task->spec.op, task->spec.label);
    return label == NULL ||
                   lq_history_get(build->cache, label, &build->arena, &before, &err) != LQ_OK
               ? NULL
               : before;
}

static void set_reason(struct lq_build *build, struct lq_task *task, enum lookup lookup)
{
    if (!build->options->explain) {
        return;
    }
    struct lq_buffer text;
    lq_buffer_init(&text);
    const char *awaited = awaited_input(build, task);
    if (build->options->force) {
        lq_buffer_append_string(&text, "forced\n");
    } else if (awaited != NULL) {
        lq_buffer_printf(&text, "it reads %s, which is to be made anew\n", awaited);
    } else if (task->must_run) {
        lq_buffer_append_string(&text, "an output of it is needed again\n");
    } else if (lookup == LOOKUP_OUTPUT_GONE && task->lost_path != NULL) {
        lq_buffer_printf(&text, "its file %s was changed or removed\n", task->lost_path);
    } else if (lookup == LOOKUP_OUTPUT_GONE) {
        lq_buffer_append_string(&text, "its output is no longer in the cache\n");
    } else {
        char *before = manifest_before(build, task);
        lq_manifest_explain(before, task->manifest, &text);
        if (text.size_bytes == 0) {
            lq_buffer_append_string(&text, "its result is no longer in the cache\n");
        }
        if (before != NULL) {
            lq_digest_of(before, strlen(before), &task->key_before);
        }
    }
    task->reason = lq_arena_dup_string(&build->arena, lq_buffer_text(&text));
    lq_buffer_fini(&text);
}

static void make_ready(struct lq_build *build, struct lq_task *task, enum lookup lookup)
{
    set_reason(build, task, lookup);
    if (build->options->dry_run) {
        struct lq_event event = {.kind = LQ_EVENT_STEP_STARTED,
                                 .step = task->number,
                                 .artifact = task->node->artifact->name,
                                 .rule = task->node->artifact->rule->kind,
                                 .op = task->spec.op,
                                 .label = task->spec.label,
                                 .explain = task->reason,
                                 .key = task->keyed ? &task->key : NULL,
                                 .key_before = &task->key_before,
                                 .outcome = LQ_OUTCOME_WOULD_RUN};
        lq_build_event(build, &event);
        finish(build, task, LQ_OUTCOME_WOULD_RUN, 0);
        return;
    }
    if (build->options->fetch_only) {
        fail_with(build, task,
                  lq_error_set(&task->job.err, LQ_ECACHE,
                               "neither the cache nor a remote has the result of %s %s",
                               task->spec.op, task->spec.label));
        return;
    }
    task->state = LQ_TASK_READY;
    if (!lq_ready_push(build, task)) {
        fail_with(build, task, lq_error_nomem(&task->job.err, "the ready queue"));
    }
}

/* All inputs have digests. */
static void decide(struct lq_build *build, struct lq_task *task)
{
    if (input_would_run(build, task)) {
        make_ready(build, task, LOOKUP_MISS);
        return;
    }
    if (!make_key(build, task)) {
        fail_with(build, task, lq_error_nomem(&task->job.err, "a manifest"));
        return;
    }
    struct lq_task *leader = find_leader(build, task);
    if (leader != NULL) {
        task->state = LQ_TASK_FOLLOWING;
        if (!lq_task_wait(build, task, &leader->waiters)) {
            fail_with(build, task, lq_error_nomem(&task->job.err, "a step"));
        }
        return;
    }
    enum lookup lookup = LOOKUP_MISS;
    if (!task->must_run && (!build->options->force || ran_in_this_build(build, task))) {
        lookup = look_up(build, task);
    }
    if (lookup == LOOKUP_HIT) {
        if (build->options->visit != NULL) {
            build->options->visit(build->options->visit_user, &task->key);
        }
        finish(build, task, LQ_OUTCOME_CACHED, 0);
        return;
    }
    if (!task->must_run && !task->asked && lq_share_can_ask(build)) {
        task->asked = true;
        task->state = LQ_TASK_ASKING;
        if (lq_share_ask_task(build, task)) {
            return;
        }
    }
    make_ready(build, task, lookup);
}

void lq_task_asked(struct lq_build *build, struct lq_job *job)
{
    struct lq_task *task = job->task;
    task->state = LQ_TASK_WAITING;
    enum lookup lookup = look_up(build, task);
    if (lookup == LOOKUP_HIT) {
        finish(build, task, job->got ? LQ_OUTCOME_FETCHED : LQ_OUTCOME_SHARED, job->seconds);
    } else {
        make_ready(build, task, lookup);
    }
}

bool lq_task_next_woken(struct lq_build *build)
{
    struct lq_task *task = build->woken;
    if (task == NULL) {
        return false;
    }
    build->woken = task->queue_next;
    if (build->woken == NULL) {
        build->woken_end = &build->woken;
    }
    if (task->doomed) {
        give_up(build, task, LQ_TASK_SKIPPED);
    } else {
        decide(build, task);
    }
    return true;
}

void lq_task_start(struct lq_build *build, struct lq_task *task)
{
    for (size_t i = 0; i < task->spec.input_count; i++) {
        const struct lq_ref *ref = &task->spec.inputs[i].ref;
        if (ref->kind == LQ_REF_STEP &&
            !lq_task_wait(build, task, &task->node->tasks[ref->index]->waiters)) {
            task->doomed = true;
        }
    }
    if (task->waiting_on == 0) {
        lq_task_wake(build, task);
    }
}

/* ---- running ---- */

/* Puts a finished task back to work, because an output it no longer has is needed. */
static void revive(struct lq_build *build, struct lq_task *task)
{
    task->must_run = true;
    task->revivals++;
    task->node->tasks_left++;
    build->cost_left += task->eta_cost;
    if (task->read_inputs) {
        task->read_inputs = false;
        for (size_t i = 0; i < task->spec.input_count; i++) {
            struct lq_task_output *output = lq_task_input(task, i);
            if (output != NULL) {
                output->readers_left++;
                lq_transient_reclaim(build, output);
            }
        }
    }
    make_ready(build, task, LOOKUP_OUTPUT_GONE);
}

static bool input_is_lost(const struct lq_build *build, const struct lq_task *task, size_t input)
{
    const struct lq_ref *ref = &task->spec.inputs[input].ref;
    bool derived = ref->kind == LQ_REF_STEP || ref->kind == LQ_REF_ARTIFACT;
    return derived && !lq_node_has_content(build, input_digest(build, task, input));
}

/* LQ_ECACHE when a step whose output is lost has been put to work again too often. */
static enum lq_status check_revivals(const struct lq_build *build, const struct lq_task *task,
                                     struct lq_error *err)
{
    for (size_t i = 0; i < task->spec.input_count; i++) {
        const struct lq_ref *ref = &task->spec.inputs[i].ref;
        const struct lq_task *producer =
            ref->kind == LQ_REF_STEP ? task->node->tasks[ref->index] : NULL;
        if (producer != NULL && producer->state == LQ_TASK_DONE &&
            producer->revivals >= LQ_BUILD_ATTEMPTS_MAX && input_is_lost(build, task, i)) {
            return lq_error_set(err, LQ_ECACHE,
                                "output '%s' of step %s %s can not be kept in the cache: it was "
                                "made again %d times and is gone once more; check the disk, or use "
                                "another --cache-dir",
                                ref->name, producer->spec.op, producer->spec.label,
                                LQ_BUILD_ATTEMPTS_MAX);
        }
    }
    return LQ_OK;
}

/* Whoever makes an input that can not be read now is put to work again, and the task waits for it.
 * *available: all can be read. */
static enum lq_status find_inputs(struct lq_build *build, struct lq_task *task, bool *available,
                                  struct lq_error *err)
{
    enum lq_status status = check_revivals(build, task, err);
    *available = status == LQ_OK;
    for (size_t i = 0; i < task->spec.input_count && status == LQ_OK; i++) {
        const struct lq_ref *ref = &task->spec.inputs[i].ref;
        if (!input_is_lost(build, task, i)) {
            continue;
        }
        *available = false;
        if (ref->kind == LQ_REF_STEP) {
            struct lq_task *producer = task->node->tasks[ref->index];
            (void)lq_task_wait(build, task, &producer->waiters);
            if (producer->state == LQ_TASK_DONE) {
                revive(build, producer);
            }
        } else {
            lq_node_remake(build, lq_plan_node(build, ref->artifact), task);
        }
    }
    return status;
}

static void start(struct lq_build *build, struct lq_task *task)
{
    enum lq_status status = lq_run_create(build, task, &task->job.err);
    if (status == LQ_OK) {
        for (const struct lq_waiter *waiter = task->waiters; waiter != NULL;
             waiter = waiter->next) {
            lq_run_collect_expected(build, task->run, waiter->task);
        }
        task->job.kind = LQ_JOB_RUN;
        task->job.task = task;
        task->job.lost = false;
        task->state = LQ_TASK_RUNNING;
        lq_schedule_claim(build, task);
        status = lq_build_submit(build, &task->job, lq_run_perform);
        if (status != LQ_OK) {
            lq_schedule_release(build, task);
            lq_run_destroy(task->run);
            task->run = NULL;
        }
    }
    if (status != LQ_OK) {
        lq_cache_unlock(build->cache, &task->key);
        fail_with(build, task, status);
        return;
    }
    struct lq_event event = {.kind = LQ_EVENT_STEP_STARTED,
                             .step = task->number,
                             .artifact = task->node->artifact->name,
                             .rule = task->node->artifact->rule->kind,
                             .op = task->spec.op,
                             .label = task->spec.label,
                             .explain = task->reason};
    lq_build_event(build, &event);
    /* The next layer's weights come while this one computes. */
    for (const struct lq_waiter *waiter = task->waiters; waiter != NULL; waiter = waiter->next) {
        lq_run_read_ahead(build, waiter->task);
    }
}

/* Takes the lock of the task's key. With the lock, the cache is asked again: another process may
 * have built it between our look-up and now. */
static void lock_and_start(struct lq_build *build, struct lq_task *task)
{
    bool acquired = false;
    struct lq_error err;
    enum lq_status status = lq_cache_lock_try(build->cache, &task->key, &acquired, &err);
    if (status != LQ_OK) {
        task->job.err = err;
        fail_with(build, task, status);
        return;
    }
    if (!acquired) {
        if (task->state != LQ_TASK_LOCKED) {
            struct lq_event event = {.kind = LQ_EVENT_WAITING,
                                     .step = task->number,
                                     .artifact = task->node->artifact->name,
                                     .op = task->spec.op,
                                     .label = task->spec.label};
            lq_build_event(build, &event);
        }
        task->state = LQ_TASK_LOCKED;
        task->queue_next = build->locked;
        build->locked = task;
        return;
    }
    if (!task->must_run && !build->options->force && look_up(build, task) == LOOKUP_HIT) {
        lq_cache_unlock(build->cache, &task->key);
        finish(build, task, LQ_OUTCOME_SHARED, 0);
        return;
    }
    bool available = false;
    status = find_inputs(build, task, &available, &task->job.err);
    if (available) {
        start(build, task);
        return;
    }
    lq_cache_unlock(build->cache, &task->key);
    task->state = LQ_TASK_WAITING;
    if (status != LQ_OK) {
        fail_with(build, task, status);
    }
}

void lq_task_run_ready(struct lq_build *build)
{
    while (!build->stopping && build->jobs_under_way < build->executor->slot_count) {
        struct lq_task *task = lq_ready_pop(build);
        if (task == NULL) {
            return;
        }
        lock_and_start(build, task);
    }
}

void lq_task_retry_locked(struct lq_build *build)
{
    while (build->locked != NULL) {
        struct lq_task *task = build->locked;
        build->locked = task->queue_next;
        if (!lq_ready_push(build, task)) {
            fail_with(build, task, lq_error_nomem(&task->job.err, "the ready queue"));
        }
    }
}

void lq_task_check_outputs(struct lq_build *build, const struct lq_task *task)
{
    for (size_t i = 0; i < task->spec.output_count; i++) {
        if (!task->outputs[i].transient) {
            lq_node_check_content(build, &task->outputs[i].digest);
        }
    }
}

static void check_inputs(struct lq_build *build, const struct lq_task *task)
{
    for (size_t i = 0; i < task->spec.input_count; i++) {
        enum lq_ref_kind kind = task->spec.inputs[i].ref.kind;
        if (kind == LQ_REF_STEP || kind == LQ_REF_ARTIFACT) {
            lq_node_check_content(build, input_digest(build, task, i));
        }
    }
}

void lq_task_ran(struct lq_build *build, struct lq_job *job)
{
    struct lq_task *task = job->task;
    lq_schedule_release(build, task);
    lq_cache_unlock(build->cache, &task->key);
    if (job->status == LQ_OK) {
        const char *text = NULL;
        task->verdict = lq_run_get_verdict(task->run, &text);
        task->verdict_text = lq_arena_dup_string(&build->arena, text);
        task->numerics = lq_run_get_numerics(task->run);
        build->cost_ran += task->eta_cost;
        build->seconds_ran += job->seconds;
        lq_run_take_held(task->run);
        lq_run_keep_files(task->run);
    }
    lq_run_destroy(task->run);
    task->run = NULL;
    task->attempts++;
    if (job->status == LQ_OK) {
        task->node->ran = true;
        lq_share_send(build, &task->key);
        finish(build, task, LQ_OUTCOME_RAN, job->seconds);
    } else if (job->lost && task->attempts < LQ_BUILD_ATTEMPTS_MAX) {
        /* The altered blob is gone from the cache by now: look at the inputs again. */
        task->state = LQ_TASK_WAITING;
        lq_held_bury(build);
        check_inputs(build, task);
        bool available = false;
        enum lq_status status = find_inputs(build, task, &available, &job->err);
        if (available) {
            make_ready(build, task, LOOKUP_MISS);
        } else if (status != LQ_OK) {
            fail_with(build, task, status);
        }
    } else if (job->status == LQ_ECANCELLED && lq_build_cancelled(build)) {
        give_up(build, task, LQ_TASK_SKIPPED); /* it did not fail: it was told to stop */
    } else {
        give_up(build, task, LQ_TASK_FAILED);
    }
}
