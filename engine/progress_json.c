#include <stdio.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/fs.h"
#include "engine/base/json.h"
#include "engine/progress_sink.h"

/* One object a line, flushed at once, so that a reader can follow. */

static const uint64_t progress_ns = 100 * 1000 * 1000;

static const char *event_name(enum lq_event_kind kind)
{
    switch (kind) {
    case LQ_EVENT_PLAN:
        return "plan";
    case LQ_EVENT_STEP_STARTED:
        return "step-started";
    case LQ_EVENT_STEP_PROGRESS:
        return "step-progress";
    case LQ_EVENT_STEP_FINISHED:
        return "step-finished";
    case LQ_EVENT_ARTIFACT_DONE:
        return "artifact";
    case LQ_EVENT_SOURCE_HASHED:
        return "source-hashed";
    case LQ_EVENT_WARNING:
        return "warning";
    case LQ_EVENT_ERROR:
        return "error";
    case LQ_EVENT_SUMMARY_TEXT:
        return "summary-text";
    case LQ_EVENT_WAITING:
        return "waiting";
    case LQ_EVENT_CRITICAL_PATH:
        return "critical-path";
    case LQ_EVENT_ARTIFACT_CHANGED:
        return "artifact-changed";
    }
    return "unknown";
}

static const char *outcome_name(enum lq_outcome outcome)
{
    switch (outcome) {
    case LQ_OUTCOME_RAN:
        return "ran";
    case LQ_OUTCOME_CACHED:
        return "cached";
    case LQ_OUTCOME_FAILED:
        return "failed";
    case LQ_OUTCOME_SHARED:
        return "shared";
    case LQ_OUTCOME_WOULD_RUN:
        return "would-run";
    case LQ_OUTCOME_FETCHED:
        return "fetched";
    }
    return "unknown";
}

static void put_uint(struct lq_json_writer *writer, const char *key, uint64_t value)
{
    lq_json_key(writer, key);
    lq_json_uint(writer, value);
}

static void put_text(struct lq_json_writer *writer, const char *key, const char *text)
{
    if (text != NULL) {
        lq_json_put_string(writer, key, text);
    }
}

static void write_error(struct lq_json_writer *writer, const struct lq_event *event)
{
    const char *text = event->text == NULL ? "" : event->text;
    const char *suggestion = NULL;
    size_t length = lq_progress_split_suggestion(text, &suggestion);
    lq_json_put_string(writer, "status", "error");
    lq_json_put_int(writer, "error_code", lq_status_exit_code(event->status));
    lq_json_put_string(writer, "error_type", lq_status_type(event->status));
    lq_json_key(writer, "message");
    lq_json_string_sized(writer, text, length);
    put_text(writer, "suggestion", suggestion);
}

static void write_rate(struct lq_json_writer *writer, const struct lq_progress *progress,
                       const struct lq_event *event)
{
    for (size_t i = 0; i < progress->running_count; i++) {
        const struct lq_running_step *step = &progress->running[i];
        double rate = lq_progress_rate(step);
        if (step->step == event->step && rate > 0.0) {
            lq_json_put_number(writer, "per_second", rate);
            lq_json_put_number(writer, "seconds_left", lq_progress_time_left(step));
        }
    }
}

static void write_event(struct lq_json_writer *writer, const struct lq_progress *progress,
                        const struct lq_event *event)
{
    bool of_step = event->kind == LQ_EVENT_STEP_STARTED || event->kind == LQ_EVENT_STEP_PROGRESS ||
                   event->kind == LQ_EVENT_STEP_FINISHED;
    if (of_step) {
        put_uint(writer, "step", event->step);
    }
    put_text(writer, "artifact", event->artifact);
    put_text(writer, "kind", event->rule);
    put_text(writer, "op", event->op);
    put_text(writer, "label", event->label);
    put_text(writer, "path", event->path);
    put_text(writer, "explain", event->explain);
    if (event->kind == LQ_EVENT_ERROR) {
        write_error(writer, event);
    } else {
        put_text(writer, "text", event->text);
    }
    if (event->kind == LQ_EVENT_STEP_PROGRESS) {
        put_uint(writer, "done", event->done);
        put_uint(writer, "total", event->total);
        put_text(writer, "unit", event->unit);
        write_rate(writer, progress, event);
    }
    if (event->kind == LQ_EVENT_CRITICAL_PATH) {
        lq_json_put_number(writer, "seconds", event->seconds);
    }
    if (event->kind == LQ_EVENT_STEP_FINISHED) {
        lq_json_put_string(writer, "outcome", outcome_name(event->outcome));
        lq_json_put_number(writer, "seconds", event->seconds);
    }
    if (event->steps_total > 0) {
        put_uint(writer, "steps_total", event->steps_total);
        put_uint(writer, "steps_finished", event->steps_finished);
    }
}

static void print_line(const struct lq_progress *progress, struct lq_buffer *buffer)
{
    lq_buffer_append_char(buffer, '\n');
    if (!buffer->failed) {
        (void)fwrite(buffer->data, 1, buffer->size_bytes, progress->options.out);
        (void)fflush(progress->options.out);
    }
}

void lq_progress_json_event(struct lq_progress *progress, const struct lq_event *event)
{
    if (event->kind == LQ_EVENT_STEP_PROGRESS) {
        uint64_t now = lq_clock_ns();
        if (now - progress->drawn_ns < progress_ns) {
            return;
        }
        progress->drawn_ns = now;
    }
    struct lq_buffer buffer;
    struct lq_json_writer writer;
    lq_buffer_init(&buffer);
    lq_json_writer_init(&writer, &buffer, false);
    lq_json_begin_object(&writer);
    lq_json_put_string(&writer, "event", event_name(event->kind));
    write_event(&writer, progress, event);
    lq_json_end_object(&writer);
    print_line(progress, &buffer);
    lq_buffer_fini(&buffer);
}

static void write_remote(struct lq_json_writer *writer, const struct lq_remote_counts *counts)
{
    lq_json_key(writer, "remote");
    lq_json_begin_object(writer);
    put_uint(writer, "hits", counts->hits);
    put_uint(writer, "misses", counts->misses);
    put_uint(writer, "timeouts", counts->timeouts);
    put_uint(writer, "untrusted", counts->untrusted);
    put_uint(writer, "bad_signatures", counts->bad_signatures);
    put_uint(writer, "altered", counts->altered);
    put_uint(writer, "errors", counts->errors);
    put_uint(writer, "uploads", counts->uploads);
    put_uint(writer, "upload_errors", counts->upload_errors);
    put_uint(writer, "requests", counts->requests);
    put_uint(writer, "bytes_received", counts->bytes_received);
    put_uint(writer, "bytes_sent", counts->bytes_sent);
    lq_json_end_object(writer);
}

void lq_progress_json_finish(struct lq_progress *progress, const struct lq_build_result *result)
{
    struct lq_buffer buffer;
    struct lq_json_writer writer;
    lq_buffer_init(&buffer);
    lq_json_writer_init(&writer, &buffer, false);
    lq_json_begin_object(&writer);
    lq_json_put_string(&writer, "event", "summary");
    put_uint(&writer, "steps", result->steps);
    put_uint(&writer, "ran", result->ran);
    put_uint(&writer, "cached", result->cached);
    put_uint(&writer, "failed", result->failed);
    if (progress->options.dry_run) {
        put_uint(&writer, "would_run", result->would_run);
    }
    if (result->has_remote) {
        write_remote(&writer, &result->remote);
    }
    lq_json_put_number(&writer, "wall_seconds", result->wall_seconds);
    if (result->peak_memory_bytes > 0) {
        put_uint(&writer, "peak_memory_bytes", result->peak_memory_bytes);
    }
    lq_json_end_object(&writer);
    print_line(progress, &buffer);
    lq_buffer_fini(&buffer);
}
