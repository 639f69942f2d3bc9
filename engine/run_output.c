/* What a running step writes: outputs that are streamed into the cache, and transient ones that
 * stay in memory or on a device. */
#include <stdlib.h>
#include <string.h>

#include "engine/run_parts.h"

static struct lq_run_output *get_output(struct lq_run *run, const char *name, struct lq_error *err)
{
    for (size_t i = 0; i < run->task->spec.output_count; i++) {
        if (strcmp(run->outputs[i].name, name) == 0) {
            return &run->outputs[i];
        }
    }
    (void)lq_error_set(err, LQ_EINTERNAL, "step '%s' has no output '%s'", run->task->spec.op, name);
    return NULL;
}

static enum lq_status begin_output(struct lq_run *run, struct lq_run_output *output,
                                   struct lq_error *err)
{
    enum lq_status status = lq_blob_begin(run->build->cache, &output->writer, err);
    if (status == LQ_OK) {
        lq_blob_use_pool(output->writer, run->build->pool);
        if (run->task->outputs[output - run->outputs].transient) {
            lq_blob_set_transient(output->writer);
        }
        lq_early_begin(&output->early, output->writer);
    }
    return status;
}

static double hold_seconds(const struct lq_build *build)
{
    double seconds = build->options->hold_seconds;
    return seconds > 0.0 ? seconds : LQ_BUILD_HOLD_SECONDS;
}

/* An object that cannot be read is lost, and who reads it finds out; that is no failure here. */
static enum lq_status write_object(struct lq_run_output *output, struct lq_error *err)
{
    enum { PIECE_BYTES = 16 << 20 };
    struct lq_object *object = output->held->object;
    unsigned char *piece = malloc(PIECE_BYTES);
    enum lq_status status = piece == NULL ? lq_error_nomem(err, output->name) : LQ_OK;
    for (uint64_t at = 0; status == LQ_OK && at < object->size_bytes; at += PIECE_BYTES) {
        uint64_t left = object->size_bytes - at;
        size_t size_bytes = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;
        if (object->read(object, at, piece, size_bytes, NULL) != LQ_OK) {
            atomic_store(&output->held->is_lost, true);
            lq_blob_abort(output->writer);
            output->writer = NULL;
            break;
        }
        status = lq_blob_write(output->writer, piece, size_bytes, err);
    }
    free(piece);
    return status;
}

/* What was held so far goes to the cache, and so does what follows. Without a writer afterwards the
 * output is a lost object. */
static enum lq_status open_writer(struct lq_run *run, struct lq_run_output *output,
                                  struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    if (output->writer == NULL) {
        status = begin_output(run, output, err);
    }
    if (status != LQ_OK || output->held == NULL) {
        return status;
    }
    const struct lq_buffer *bytes = &output->held->bytes;
    status = output->held->object != NULL
                 ? write_object(output, err)
                 : lq_blob_write(output->writer, bytes->data, bytes->size_bytes, err);
    if (output->writer != NULL) {
        lq_held_destroy(output->held);
        output->held = NULL;
    }
    return status;
}

/* The output when it can be held and is empty so far; without memory it is written. */
static struct lq_held *begin_held(struct lq_run *run, const char *name)
{
    struct lq_run_output *output = get_output(run, name, NULL);
    size_t index = output == NULL ? 0 : (size_t)(output - run->outputs);
    if (output == NULL || !run->task->outputs[index].transient || output->writer != NULL ||
        output->held != NULL) {
        return NULL;
    }
    output->held = calloc(1, sizeof *output->held);
    if (output->held != NULL) {
        lq_buffer_init(&output->held->bytes);
    }
    return output->held;
}

void lq_run_hold(struct lq_run *run, const char *name)
{
    if (run->hold_bytes_left > 0) {
        (void)begin_held(run, name);
    }
}

bool lq_run_hold_object(struct lq_run *run, const char *name, struct lq_object *object)
{
    struct lq_held *held = begin_held(run, name);
    if (held == NULL) {
        object->destroy(object);
        return false;
    }
    held->object = object;
    return true;
}

/* False when there is no room for it. */
static bool hold(struct lq_run *run, struct lq_held *held, const void *data, size_t size_bytes)
{
    size_t before = held->bytes.size_bytes;
    if (size_bytes > run->hold_bytes_left) {
        return false;
    }
    lq_buffer_append(&held->bytes, data, size_bytes);
    if (held->bytes.failed) {
        held->bytes.failed = false;
        held->bytes.size_bytes = before;
        return false;
    }
    run->hold_bytes_left -= size_bytes;
    return true;
}

enum lq_status lq_run_write(struct lq_run *run, const char *name, const void *data,
                            size_t size_bytes, struct lq_error *err)
{
    struct lq_run_output *output = get_output(run, name, err);
    if (output == NULL || (output->held != NULL && output->held->object != NULL)) {
        return lq_error_set(err, LQ_EINTERNAL, "output '%s' is not there to be written to", name);
    }
    if (output->held != NULL && hold(run, output->held, data, size_bytes)) {
        return LQ_OK;
    }
    enum lq_status status = open_writer(run, output, err);
    return status == LQ_OK ? lq_blob_write(output->writer, data, size_bytes, err) : status;
}

enum lq_status lq_run_write_input(struct lq_run *run, const char *output, const char *name,
                                  struct lq_error *err)
{
    struct lq_run_input *input = lq_run_find_input(run, name);
    struct lq_run_output *to = get_output(run, output, err);
    if (to == NULL || input == NULL) {
        return lq_error_set(err, LQ_EINTERNAL, "step '%s' has no input '%s' or output '%s'",
                            run->task->spec.op, name, output);
    }
    enum lq_status status = open_writer(run, to, err);
    const unsigned char *bytes = NULL;
    if (status == LQ_OK) {
        status = lq_run_direct_bytes(run, input, &bytes, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    if (bytes == NULL && input->held != NULL) {
        const void *loaded = NULL;
        uint64_t size_bytes = 0;
        status = lq_run_input_load(run, name, &loaded, &size_bytes, err);
        bytes = loaded;
    }
    if (status != LQ_OK || bytes != NULL) {
        return status != LQ_OK ? status
                               : lq_blob_write(to->writer, bytes, (size_t)input->size_bytes, err);
    }
    status = lq_blob_write_blob(to->writer, &input->digest, err);
    run->lost = run->lost || status == LQ_ECACHE;
    return status;
}

static void keep_held(const struct lq_task *task, struct lq_held *held, double unsaved_seconds,
                      struct lq_task_output *output)
{
    lq_transient_name(task, output->name, &held->digest);
    held->unsaved_seconds = unsaved_seconds;
    output->digest = held->digest;
    output->size_bytes = held->object != NULL ? held->object->size_bytes : held->bytes.size_bytes;
}

/* Outputs and the record that names them are made durable together. */
enum lq_status lq_run_commit_outputs(struct lq_run *run, double seconds, struct lq_error *err)
{
    struct lq_task *task = run->task;
    double unsaved = run->unsaved_seconds + seconds;
    for (size_t i = 0; i < task->spec.output_count; i++) {
        struct lq_run_output *output = &run->outputs[i];
        enum lq_status status = LQ_OK;
        if (output->held == NULL || unsaved >= hold_seconds(run->build)) {
            status = open_writer(run, output, err);
        }
        if (status == LQ_OK && output->held != NULL) {
            keep_held(task, output->held, unsaved, &task->outputs[i]);
        } else if (status == LQ_OK) {
            status = lq_blob_commit_begin(output->writer, &task->outputs[i].digest,
                                          &task->outputs[i].size_bytes, err);
        }
        if (status != LQ_OK) {
            return status;
        }
    }
    return LQ_OK;
}

enum lq_status lq_run_end_commits(struct lq_run *run, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < run->task->spec.output_count && status == LQ_OK; i++) {
        struct lq_blob_writer *writer = run->outputs[i].writer;
        run->outputs[i].writer = NULL;
        status = writer == NULL ? LQ_OK : lq_blob_commit_end(writer, err);
        /* It was hashed on its way, and is read once more at most. */
        if (writer != NULL && status == LQ_OK && run->task->outputs[i].transient) {
            lq_run_note_checked(run->build, &run->task->outputs[i].digest);
        }
    }
    return status;
}

void lq_run_forget_output(struct lq_run_output *output)
{
    lq_blob_abort(output->writer);
    output->writer = NULL;
    lq_held_destroy(output->held);
    output->held = NULL;
    lq_early_abort(&output->early);
}

void lq_run_keep_files(struct lq_run *run)
{
    for (size_t i = 0; i < run->task->spec.output_count; i++) {
        lq_early_keep(&run->outputs[i].early, &run->task->outputs[i].digest);
    }
}

void lq_run_take_held(struct lq_run *run)
{
    for (size_t i = 0; i < run->task->spec.output_count; i++) {
        if (run->outputs[i].held != NULL && run->task->outputs[i].readers_left > 0) {
            lq_held_add(run->build, run->outputs[i].held);
            run->outputs[i].held = NULL;
        }
    }
}
