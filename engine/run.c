/* What a running step sees: its parameters, its opened inputs, its outputs. One `struct lq_run` for
 * each run; created and destroyed on the build's thread, used on a worker. */
#include "engine/build.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/pool.h"
#include "engine/label.h"
#include "engine/run_parts.h"

enum {
    CHECKED_BYTES_MIN = 1 << 20, /* smaller blobs are checked whenever they are opened */
    AHEAD_BYTES_MIN = 1 << 20,   /* parts of files worth reading ahead */
};

/* ---- set up and tear down, on the build's thread ---- */

static void resolve_blob(struct lq_build *build, struct lq_run_input *input,
                         const struct lq_digest *digest, uint64_t size_bytes)
{
    uint64_t stored = 0;
    input->digest = *digest;
    input->size_bytes = size_bytes;
    input->held = lq_held_find(build, digest);
    if (input->held != NULL) {
        input->held->users++;
        if (input->held->object == NULL) {
            input->bytes = size_bytes == 0 ? (const void *)"" : input->held->bytes.data;
        }
        return;
    }
    if (!lq_blob_exists(build->cache, digest, &stored)) {
        input->source = lq_source_by_digest(build, digest);
    }
}

static void resolve_input(struct lq_build *build, const struct lq_node *node,
                          const struct lq_step_input *spec, struct lq_run_input *input)
{
    const struct lq_ref *ref = &spec->ref;
    input->name = spec->name;
    switch (ref->kind) {
    case LQ_REF_STEP: {
        const struct lq_task *task = node->tasks[ref->index];
        for (size_t i = 0; i < task->spec.output_count; i++) {
            if (strcmp(task->outputs[i].name, ref->name) == 0) {
                resolve_blob(build, input, &task->outputs[i].digest, task->outputs[i].size_bytes);
            }
        }
        break;
    }
    case LQ_REF_ARTIFACT: {
        const struct lq_node_output *output =
            lq_plan_output(lq_plan_node(build, ref->artifact), ref->name);
        resolve_blob(build, input, &output->digest, output->size_bytes);
        break;
    }
    case LQ_REF_SOURCE:
        input->source = lq_plan_node(build, ref->artifact)->sources[ref->index];
        input->size_bytes = input->source->sig.size_bytes;
        input->digest = input->source->digest;
        break;
    case LQ_REF_SLICE:
        input->source = lq_plan_node(build, ref->artifact)->sources[ref->index];
        input->offset = ref->offset;
        input->size_bytes = ref->size_bytes;
        input->digest = ref->digest;
        break;
    default:
        input->bytes = ref->size_bytes == 0 ? "" : ref->data;
        input->size_bytes = ref->size_bytes;
        input->digest = ref->digest;
        break;
    }
}

/* Half of the memory that nobody has asked for. */
static uint64_t room_to_hold(const struct lq_build *build, const struct lq_task *task)
{
    uint64_t used = build->memory_under_way + build->held_bytes + task->spec.memory_bytes;
    return used < build->memory_max ? (build->memory_max - used) / 2 : 0;
}

enum lq_status lq_run_create(struct lq_build *build, struct lq_task *task, struct lq_error *err)
{
    const struct lq_step *spec = &task->spec;
    struct lq_run *run = calloc(1, sizeof *run);
    if (run == NULL) {
        return lq_error_nomem(err, "a step");
    }
    lq_arena_init(&run->arena);
    run->build = build;
    run->task = task;
    uint64_t read_bytes = 0;
    run->verdict = LQ_OK;
    run->numerics = "exact";
    run->inputs = calloc(spec->input_count + 1, sizeof *run->inputs);
    run->outputs = calloc(spec->output_count + 1, sizeof *run->outputs);
    if (run->inputs == NULL || run->outputs == NULL) {
        free(run->inputs);
        free(run->outputs);
        free(run);
        return lq_error_nomem(err, "a step");
    }
    for (size_t i = 0; i < spec->input_count; i++) {
        (void)pthread_mutex_init(&run->inputs[i].mutex, NULL);
        struct lq_run_input *input = &run->inputs[i];
        resolve_input(build, task->node, &spec->inputs[i], input);
        if (input->held != NULL && input->held->unsaved_seconds > run->unsaved_seconds) {
            run->unsaved_seconds = input->held->unsaved_seconds;
        }
        read_bytes += input->size_bytes;
    }
    run->hold_bytes_left = room_to_hold(build, task);
    for (size_t i = 0; i < spec->output_count; i++) {
        run->outputs[i].name = spec->outputs[i].name;
        lq_early_init(&run->outputs[i].early, build, task, &spec->outputs[i], read_bytes,
                      &run->arena);
    }
    task->run = run;
    return LQ_OK;
}

void lq_run_collect_expected(struct lq_build *build, struct lq_run *run,
                             const struct lq_task *waiter)
{
    const struct lq_step *spec = &waiter->spec;
    struct lq_run_expected *list =
        realloc(run->expected, (run->expected_count + spec->input_count + 1) * sizeof *list);
    if (list == NULL) {
        return;
    }
    run->expected = list;
    for (size_t i = 0; i < spec->input_count; i++) {
        const struct lq_ref *ref = &spec->inputs[i].ref;
        const struct lq_map *map = NULL;
        if (ref->kind != LQ_REF_SLICE || ref->size_bytes < AHEAD_BYTES_MIN) {
            continue;
        }
        struct lq_source *source = lq_plan_node(build, ref->artifact)->sources[ref->index];
        if (lq_source_map(build, source, &map, NULL) == LQ_OK && ref->offset <= map->size_bytes &&
            ref->size_bytes <= map->size_bytes - ref->offset) {
            list[run->expected_count++] =
                (struct lq_run_expected){ref->digest, map->data + ref->offset, ref->size_bytes};
        }
    }
}

void lq_run_read_ahead(struct lq_build *build, const struct lq_task *task)
{
    /* A step that makes a large file reads by and by, and asks itself. */
    for (size_t i = 0; i < task->spec.input_count && task->spec.own_bytes == 0; i++) {
        const struct lq_ref *ref = &task->spec.inputs[i].ref;
        const struct lq_map *map = NULL;
        if (ref->kind == LQ_REF_SLICE && ref->size_bytes >= AHEAD_BYTES_MIN) {
            struct lq_source *source = lq_plan_node(build, ref->artifact)->sources[ref->index];
            if (lq_source_map(build, source, &map, NULL) == LQ_OK &&
                ref->offset <= map->size_bytes &&
                ref->size_bytes <= map->size_bytes - ref->offset) {
                lq_read_ahead_add(&build->ahead, map, ref->offset, ref->size_bytes);
            }
        }
    }
}

void lq_run_destroy(struct lq_run *run)
{
    if (run == NULL) {
        return;
    }
    for (size_t i = 0; i < run->task->spec.input_count; i++) {
        struct lq_run_input *input = &run->inputs[i];
        lq_blob_close(input->reader);
        if (input->source != NULL) {
            lq_source_release(run->build, input->source, input->offset, input->size_bytes);
        }
        if (input->held != NULL) {
            lq_held_release(run->build, input->held);
        }
        free(input->loaded);
        if (input->path != NULL) {
            (void)unlink(input->path);
            free(input->path);
        }
        (void)pthread_mutex_destroy(&input->mutex);
    }
    for (size_t i = 0; i < run->task->spec.output_count; i++) {
        lq_run_forget_output(&run->outputs[i]);
    }
    free(run->inputs);
    free(run->outputs);
    free(run->expected);
    free(run->verdict_text);
    lq_arena_fini(&run->arena);
    free(run);
}

enum lq_status lq_run_get_verdict(const struct lq_run *run, const char **text)
{
    *text = run->verdict_text == NULL ? "" : run->verdict_text;
    return run->verdict;
}

const char *lq_run_get_numerics(const struct lq_run *run)
{
    return run->numerics;
}

void lq_run_get_progress(const struct lq_run *run, uint64_t *done, uint64_t *total,
                         const char **unit)
{
    *done = atomic_load(&run->done);
    *total = atomic_load(&run->total);
    *unit = atomic_load(&run->unit);
}

/* ---- what steps call ---- */

const void *lq_run_state(const struct lq_run *run)
{
    return run->task->spec.state;
}

const char *lq_run_param(const struct lq_run *run, const char *name)
{
    const struct lq_step *spec = &run->task->spec;
    for (size_t i = 0; i < spec->param_count; i++) {
        if (strcmp(spec->params[i].name, name) == 0) {
            return spec->params[i].value;
        }
    }
    return NULL;
}

struct lq_pool *lq_run_pool(const struct lq_run *run)
{
    return run->build->pool;
}

struct lq_arena *lq_run_arena(struct lq_run *run)
{
    return &run->arena;
}

bool lq_run_cancelled(const struct lq_run *run)
{
    return lq_build_cancelled(run->build);
}

void lq_run_progress(struct lq_run *run, uint64_t done, uint64_t total, const char *unit)
{
    atomic_store(&run->done, done);
    atomic_store(&run->total, total);
    atomic_store(&run->unit, unit);
}

void lq_run_warn(struct lq_run *run, const char *format, ...)
{
    char text[LQ_ERROR_BYTES];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    lq_build_warn(run->build, text);
}

void lq_run_verdict(struct lq_run *run, enum lq_status status, const char *format, ...)
{
    char text[LQ_ERROR_BYTES];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    free(run->verdict_text);
    run->verdict_text = strdup(text);
    run->verdict = status;
}

void lq_run_numerics(struct lq_run *run, const char *numerics)
{
    run->numerics = numerics;
}

void lq_run_allow_retry(struct lq_run *run)
{
    run->may_retry = !run->is_retry;
}

const struct lq_error *lq_run_first_error(const struct lq_run *run)
{
    return run->is_retry ? &run->first_error : NULL;
}

struct lq_run_input *lq_run_find_input(const struct lq_run *run, const char *name)
{
    for (size_t i = 0; i < run->task->spec.input_count; i++) {
        if (strcmp(run->inputs[i].name, name) == 0) {
            return &run->inputs[i];
        }
    }
    return NULL;
}

static struct lq_run_input *get_input(const struct lq_run *run, const char *name,
                                      struct lq_error *err)
{
    struct lq_run_input *input = lq_run_find_input(run, name);
    if (input == NULL) {
        (void)lq_error_set(err, LQ_EINTERNAL, "step '%s' has no input '%s'", run->task->spec.op,
                           name);
    }
    return input;
}

bool lq_run_has_input(const struct lq_run *run, const char *name)
{
    return lq_run_find_input(run, name) != NULL;
}

bool lq_run_input_digest(const struct lq_run *run, const char *name, struct lq_digest *digest)
{
    const struct lq_run_input *input = lq_run_find_input(run, name);
    if (input != NULL) {
        *digest = input->digest;
    }
    return input != NULL;
}

size_t lq_run_expected(const struct lq_run *run, const struct lq_run_expected **list)
{
    *list = run->expected;
    return run->expected_count;
}

uint64_t lq_run_input_size(const struct lq_run *run, const char *name)
{
    const struct lq_run_input *input = lq_run_find_input(run, name);
    return input == NULL ? 0 : input->size_bytes;
}

/* Bytes of an input that lies in memory or in a file; NULL (and LQ_OK) for one in the cache. */
enum lq_status lq_run_direct_bytes(struct lq_run *run, const struct lq_run_input *input,
                                   const unsigned char **bytes, struct lq_error *err)
{
    *bytes = input->bytes;
    if (input->source == NULL) {
        return LQ_OK;
    }
    const struct lq_map *map = NULL;
    enum lq_status status = lq_source_map(run->build, input->source, &map, err);
    if (status == LQ_OK &&
        (input->offset > map->size_bytes || input->size_bytes > map->size_bytes - input->offset)) {
        status = lq_error_set(err, LQ_EIO, "%s: shorter than it was; run the build again",
                              input->source->path);
    }
    if (status == LQ_OK) {
        *bytes = map->data + input->offset;
    }
    return status;
}

void lq_run_input_ahead(struct lq_run *run, const char *name)
{
    const struct lq_run_input *input = lq_run_find_input(run, name);
    const struct lq_map *map = NULL;
    if (input != NULL && input->source != NULL && input->size_bytes >= AHEAD_BYTES_MIN &&
        lq_source_map(run->build, input->source, &map, NULL) == LQ_OK) {
        lq_read_ahead_add(&run->build->ahead, map, input->offset, input->size_bytes);
    }
}

void lq_run_input_done(struct lq_run *run, const char *name)
{
    const struct lq_run_input *input = lq_run_find_input(run, name);
    if (input != NULL && input->source != NULL) {
        lq_source_release(run->build, input->source, input->offset, input->size_bytes);
    }
}

/* Many steps may read one big file, a model of many layers: each build checks it once. */
static bool was_checked(struct lq_build *build, const struct lq_digest *digest)
{
    bool found = false;
    (void)pthread_mutex_lock(&build->mutex);
    for (size_t i = 0; i < LQ_BUILD_CHECKED_MAX && i < build->checked_count && !found; i++) {
        found = lq_digest_equal(&build->checked[i], digest);
    }
    (void)pthread_mutex_unlock(&build->mutex);
    return found;
}

void lq_run_note_checked(struct lq_build *build, const struct lq_digest *digest)
{
    (void)pthread_mutex_lock(&build->mutex);
    build->checked[build->checked_count++ % LQ_BUILD_CHECKED_MAX] = *digest;
    (void)pthread_mutex_unlock(&build->mutex);
}

/* Opens the blob at first use; the whole content is checked then. Called with the mutex held. */
static enum lq_status open_reader(struct lq_run *run, struct lq_run_input *input,
                                  struct lq_error *err)
{
    if (input->reader != NULL) {
        return LQ_OK;
    }
    bool is_big = input->size_bytes >= CHECKED_BYTES_MIN;
    bool is_known = is_big && was_checked(run->build, &input->digest);
    enum lq_status status =
        lq_blob_open(run->build->cache, &input->digest, !is_known, &input->reader, err);
    if (status == LQ_OK && input->reader == NULL) {
        run->lost = true;
        status = lq_error_set(err, LQ_ECACHE, "input '%s' is no longer in the cache", input->name);
    } else if (status == LQ_OK && is_big && !is_known) {
        lq_run_note_checked(run->build, &input->digest);
    }
    return status;
}

enum lq_status lq_run_input_read(struct lq_run *run, const char *name, uint64_t offset, void *out,
                                 size_t size_bytes, struct lq_error *err)
{
    struct lq_run_input *input = get_input(run, name, err);
    if (input == NULL) {
        return LQ_EINTERNAL;
    }
    if (offset > input->size_bytes || size_bytes > input->size_bytes - offset) {
        return lq_error_set(
            err, LQ_EFORMAT, "input '%s': %zu bytes at %llu lie outside its %llu bytes", name,
            size_bytes, (unsigned long long)offset, (unsigned long long)input->size_bytes);
    }
    const unsigned char *bytes = NULL;
    enum lq_status status = lq_run_direct_bytes(run, input, &bytes, err);
    if (status != LQ_OK) {
        return status;
    }
    if (bytes != NULL) {
        memcpy(out, bytes + offset, size_bytes);
        return LQ_OK;
    }
    (void)pthread_mutex_lock(&input->mutex);
    if (input->held != NULL) {
        struct lq_object *object = input->held->object;
        status = object->read(object, offset, out, size_bytes, err);
        atomic_store(&input->held->is_lost, status != LQ_OK);
        run->lost = run->lost || status != LQ_OK;
        (void)pthread_mutex_unlock(&input->mutex);
        return status;
    }
    status = open_reader(run, input, err);
    if (status == LQ_OK) {
        status = lq_blob_read(input->reader, offset, out, size_bytes, err);
        run->lost = run->lost || status == LQ_ECACHE;
    }
    (void)pthread_mutex_unlock(&input->mutex);
    return status;
}

enum lq_status lq_run_input_load(struct lq_run *run, const char *name, const void **data,
                                 uint64_t *size_bytes, struct lq_error *err)
{
    *data = NULL;
    *size_bytes = 0;
    struct lq_run_input *input = get_input(run, name, err);
    if (input == NULL) {
        return LQ_EINTERNAL;
    }
    const unsigned char *bytes = NULL;
    enum lq_status status = lq_run_direct_bytes(run, input, &bytes, err);
    if (status != LQ_OK) {
        return status;
    }
    if (bytes == NULL && input->loaded == NULL) {
        void *memory = input->size_bytes >= SIZE_MAX ? NULL : malloc((size_t)input->size_bytes + 1);
        if (memory == NULL) {
            return lq_error_nomem(err, name);
        }
        status = lq_run_input_read(run, name, 0, memory, (size_t)input->size_bytes, err);
        if (status != LQ_OK) {
            free(memory);
            return status;
        }
        input->loaded = memory;
    }
    *data = bytes != NULL ? bytes : input->loaded;
    *size_bytes = input->size_bytes;
    return LQ_OK;
}

struct lq_object *lq_run_input_object(const struct lq_run *run, const char *name)
{
    const struct lq_run_input *input = lq_run_find_input(run, name);
    return input == NULL || input->held == NULL ? NULL : input->held->object;
}

static enum lq_status write_all(int fd, const void *data, size_t size_bytes, const char *path,
                                struct lq_error *err)
{
    const unsigned char *bytes = data;
    while (size_bytes > 0) {
        ssize_t wrote = write(fd, bytes, size_bytes);
        if (wrote < 0) {
            return lq_error_errno(err, LQ_EIO, "%s: cannot write", path);
        }
        bytes += wrote;
        size_bytes -= (size_t)wrote;
    }
    return LQ_OK;
}

enum lq_status lq_run_input_path(struct lq_run *run, const char *name, const char **path,
                                 struct lq_error *err)
{
    enum { PIECE_BYTES = 1 << 20 };
    struct lq_run_input *input = get_input(run, name, err);
    *path = NULL;
    if (input == NULL) {
        return LQ_EINTERNAL;
    }
    if (input->path != NULL) {
        *path = input->path;
        return LQ_OK;
    }
    const char *folder = getenv("TMPDIR");
    char place[4096];
    (void)snprintf(place, sizeof place, "%s/lqbuild-input-XXXXXX",
                   folder == NULL || folder[0] == '\0' ? "/tmp" : folder);
    int fd = mkstemp(place);
    if (fd < 0) {
        return lq_error_errno(err, LQ_EIO, "%s: cannot create", place);
    }
    unsigned char *piece = malloc(PIECE_BYTES);
    enum lq_status status = piece == NULL ? lq_error_nomem(err, name) : LQ_OK;
    for (uint64_t at = 0; status == LQ_OK && at < input->size_bytes; at += PIECE_BYTES) {
        uint64_t left = input->size_bytes - at;
        size_t size_bytes = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;
        status = lq_run_input_read(run, name, at, piece, size_bytes, err);
        if (status == LQ_OK) {
            status = write_all(fd, piece, size_bytes, place, err);
        }
    }
    free(piece);
    (void)close(fd);
    input->path = status == LQ_OK ? strdup(place) : NULL;
    if (input->path == NULL) {
        (void)unlink(place);
        return status == LQ_OK ? lq_error_nomem(err, name) : status;
    }
    *path = input->path;
    return LQ_OK;
}

/* ---- the whole ---- */

/* A file that changed under the step may have given it anything. */
static enum lq_status check_sources(const struct lq_run *run, struct lq_error *err)
{
    const struct lq_source *last = NULL;
    for (size_t i = 0; i < run->task->spec.input_count; i++) {
        const struct lq_source *source = run->inputs[i].source;
        if (source != NULL && source != last) {
            enum lq_status status = lq_source_unchanged(source, err);
            if (status != LQ_OK) {
                return status;
            }
            last = source;
        }
    }
    return LQ_OK;
}

static enum lq_status publish(struct lq_run *run, uint64_t duration_us, struct lq_error *err)
{
    struct lq_task *task = run->task;
    struct lq_action_output outputs[LQ_STEP_OUTPUTS_MAX];
    for (size_t i = 0; i < task->spec.output_count; i++) {
        outputs[i] = (struct lq_action_output){.name = task->outputs[i].name,
                                               .digest = task->outputs[i].digest,
                                               .size_bytes = task->outputs[i].size_bytes,
                                               .transient = task->outputs[i].transient};
    }
    const struct lq_action_record record = {
        .outputs = outputs,
        .output_count = task->spec.output_count,
        .verdict = run->verdict,
        .verdict_text = run->verdict_text == NULL ? "" : run->verdict_text,
        .numerics = run->numerics,
        .duration_us = duration_us,
        .step_count = 1,
    };
    struct lq_build *build = run->build;
    char *label = lq_label_make(&run->arena, task->node->artifact, task->spec.op, task->spec.label);
    if (label == NULL) {
        return lq_error_nomem(err, "a step's label");
    }
    return lq_action_put(build->cache, &task->key, &record, label, task->manifest, err);
}

/* Runs the step, and once more from its start if it asked for that. What was lost or cancelled is
 * the build's to handle. */
static enum lq_status run_step(struct lq_run *run, struct lq_error *err)
{
    enum lq_status status = run->task->spec.run(run, err);
    bool again = status != LQ_OK && status != LQ_ECANCELLED && run->may_retry && !run->lost &&
                 !lq_build_cancelled(run->build);
    if (!again) {
        return status;
    }
    for (size_t i = 0; i < run->task->spec.output_count; i++) {
        lq_run_forget_output(&run->outputs[i]);
    }
    run->is_retry = true;
    run->first_error = *err;
    lq_error_clear(err);
    return run->task->spec.run(run, err);
}

void lq_run_perform(struct lq_work *work)
{
    struct lq_job *job = (struct lq_job *)(void *)work;
    struct lq_run *run = job->task->run;
    struct lq_error *err = &job->err;
    uint64_t start = lq_clock_ns();
    lq_error_clear(err);
    enum lq_status status = run_step(run, err);
    if (status == LQ_OK) {
        status = check_sources(run, err);
    }
    uint64_t duration_ns = lq_clock_ns() - start;
    if (status == LQ_OK) {
        status = lq_run_commit_outputs(run, (double)duration_ns * 1e-9, err);
    }
    if (status == LQ_OK) {
        status = publish(run, duration_ns / 1000, err);
    }
    if (status == LQ_OK) {
        status = lq_run_end_commits(run, err);
    }
    job->status = status;
    job->lost = run->lost;
    job->seconds = (double)duration_ns * 1e-9;
}
