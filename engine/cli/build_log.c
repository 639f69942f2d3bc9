#define _DEFAULT_SOURCE /* flock */
#include "engine/cli/build_log.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/fs.h"
#include "engine/base/json.h"

enum { SLOWEST = 5, TARGETS_SHOWN = 16 };

struct span {
    char *name; /* "gguf.tensor blk.0.attn_q.weight" */
    const char *category;
    uint64_t start_ns;    /* since the build began */
    uint64_t duration_ns; /* 0: a moment */
    uint64_t read_bytes;  /* of the process, so far */
    uint64_t write_bytes;
    bool failed;
};

struct slow_step {
    char name[160];
    double seconds;
};

struct lq_recorder {
    bool keep_spans;
    uint64_t began_ns;
    struct span *spans;
    size_t span_count;
    size_t span_room;
    struct slow_step slowest[SLOWEST];
    double busy_seconds;  /* of all steps together */
    double chain_seconds; /* of the longest chain of steps */
    char *chain;          /* "a > b > c" */
};

struct lq_recorder *lq_recorder_create(bool keep_spans)
{
    struct lq_recorder *recorder = calloc(1, sizeof *recorder);
    if (recorder != NULL) {
        recorder->keep_spans = keep_spans;
        recorder->began_ns = lq_clock_ns();
    }
    return recorder;
}

void lq_recorder_destroy(struct lq_recorder *recorder)
{
    for (size_t i = 0; recorder != NULL && i < recorder->span_count; i++) {
        free(recorder->spans[i].name);
    }
    if (recorder != NULL) {
        free(recorder->spans);
        free(recorder->chain);
    }
    free(recorder);
}

/* What the process has read from and written to disks; zeros where the kernel does not say. */
static void read_io(uint64_t *read_bytes, uint64_t *write_bytes)
{
    *read_bytes = 0;
    *write_bytes = 0;
    FILE *stream = fopen("/proc/self/io", "re");
    char line[96];
    while (stream != NULL && fgets(line, sizeof line, stream) != NULL) {
        unsigned long long value = 0;
        if (sscanf(line, "read_bytes: %20llu", &value) == 1) {
            *read_bytes = value;
        } else if (sscanf(line, "write_bytes: %20llu", &value) == 1) {
            *write_bytes = value;
        }
    }
    if (stream != NULL) {
        (void)fclose(stream);
    }
}

static void keep_span(struct lq_recorder *recorder, const char *category, const char *op,
                      const char *label, double seconds, bool failed)
{
    if (recorder->span_count == recorder->span_room) {
        size_t room = recorder->span_room == 0 ? 256 : recorder->span_room * 2;
        struct span *spans = realloc(recorder->spans, room * sizeof *spans);
        if (spans == NULL) {
            return;
        }
        recorder->spans = spans;
        recorder->span_room = room;
    }
    uint64_t now = lq_clock_ns() - recorder->began_ns;
    uint64_t duration = seconds > 0.0 ? (uint64_t)(seconds * 1e9) : 0;
    size_t length = strlen(op) + strlen(label) + 2;
    struct span *span = &recorder->spans[recorder->span_count];
    *span = (struct span){.category = category,
                          .start_ns = now > duration ? now - duration : 0,
                          .duration_ns = duration,
                          .failed = failed};
    read_io(&span->read_bytes, &span->write_bytes);
    span->name = malloc(length);
    if (span->name != NULL) {
        (void)snprintf(span->name, length, "%s%s%s", op, label[0] == '\0' ? "" : " ", label);
        recorder->span_count++;
    }
}

static void keep_slowest(struct lq_recorder *recorder, const struct lq_event *event)
{
    size_t at = SLOWEST;
    while (at > 0 && recorder->slowest[at - 1].seconds < event->seconds) {
        at--;
    }
    if (at == SLOWEST) {
        return;
    }
    memmove(&recorder->slowest[at + 1], &recorder->slowest[at],
            (SLOWEST - 1 - at) * sizeof recorder->slowest[0]);
    recorder->slowest[at].seconds = event->seconds;
    (void)snprintf(recorder->slowest[at].name, sizeof recorder->slowest[at].name, "%s %s",
                   event->op == NULL ? "" : event->op, event->label == NULL ? "" : event->label);
}

void lq_recorder_event(struct lq_recorder *recorder, const struct lq_event *event)
{
    const char *op = event->op == NULL ? "" : event->op;
    const char *label = event->label == NULL ? "" : event->label;
    bool ran = event->kind == LQ_EVENT_STEP_FINISHED &&
               (event->outcome == LQ_OUTCOME_RAN || event->outcome == LQ_OUTCOME_FAILED);
    if (ran) {
        recorder->busy_seconds += event->seconds;
        keep_slowest(recorder, event);
    }
    if (event->kind == LQ_EVENT_CRITICAL_PATH && event->text != NULL) {
        free(recorder->chain);
        recorder->chain = malloc(strlen(event->text) + 1);
        recorder->chain_seconds = event->seconds;
        if (recorder->chain != NULL) {
            memcpy(recorder->chain, event->text, strlen(event->text) + 1);
        }
    }
    if (!recorder->keep_spans) {
        return;
    }
    if (ran) {
        keep_span(recorder, "step", op, label, event->seconds, event->outcome == LQ_OUTCOME_FAILED);
    } else if (event->kind == LQ_EVENT_STEP_FINISHED) {
        keep_span(recorder, "cached", op, label, 0.0, false);
    } else if (event->kind == LQ_EVENT_SOURCE_HASHED) {
        keep_span(recorder, "hashed", "hashed", label, 0.0, false);
    } else if (event->kind == LQ_EVENT_ARTIFACT_DONE && event->artifact != NULL) {
        keep_span(recorder, "artifact", "done", event->artifact, 0.0, false);
    }
}

/* ------------------------------------------------------------------ trace ---- */

static int compare_starts(const void *a, const void *b)
{
    const struct span *left = *(const struct span *const *)a;
    const struct span *right = *(const struct span *const *)b;
    return left->start_ns != right->start_ns ? (left->start_ns < right->start_ns ? -1 : 1)
           : left < right                    ? -1
                                             : 1;
}

static void begin_event(struct lq_json_writer *writer, const char *name, const char *phase,
                        uint64_t start_ns, size_t lane)
{
    lq_json_begin_object(writer);
    lq_json_put_string(writer, "name", name);
    lq_json_put_string(writer, "ph", phase);
    lq_json_put_number(writer, "ts", (double)start_ns / 1000.0);
    lq_json_put_int(writer, "pid", 1);
    lq_json_put_int(writer, "tid", (int64_t)lane);
}

static void write_span(struct lq_json_writer *writer, const struct span *span, size_t lane)
{
    begin_event(writer, span->name, span->duration_ns > 0 ? "X" : "i", span->start_ns, lane);
    lq_json_put_string(writer, "cat", span->category);
    if (span->duration_ns > 0) {
        lq_json_put_number(writer, "dur", (double)span->duration_ns / 1000.0);
    } else {
        lq_json_put_string(writer, "s", "p");
    }
    if (span->failed) {
        lq_json_put_string(writer, "cname", "terrible");
    }
    lq_json_end_object(writer);
    begin_event(writer, "disk", "C", span->start_ns + span->duration_ns, 0);
    lq_json_key(writer, "args");
    lq_json_begin_object(writer);
    lq_json_put_number(writer, "read MB", (double)span->read_bytes / 1e6);
    lq_json_put_number(writer, "written MB", (double)span->write_bytes / 1e6);
    lq_json_end_object(writer);
    lq_json_end_object(writer);
}

/* Steps that overlap stand in lanes of their own: the first that is free. */
static void write_spans(struct lq_json_writer *writer, const struct span **order, size_t count,
                        uint64_t *lane_ends)
{
    size_t lane_count = 0;
    for (size_t i = 0; i < count; i++) {
        size_t lane = 0;
        if (order[i]->duration_ns > 0) {
            while (lane < lane_count && lane_ends[lane] > order[i]->start_ns) {
                lane++;
            }
            lane_count += lane == lane_count ? 1 : 0;
            lane_ends[lane] = order[i]->start_ns + order[i]->duration_ns;
        }
        write_span(writer, order[i], lane + 1);
    }
}

enum lq_status lq_recorder_write_trace(const struct lq_recorder *recorder, const char *path,
                                       struct lq_error *err)
{
    size_t count = recorder->span_count;
    const struct span **order = calloc(count + 1, sizeof(struct span *));
    uint64_t *lane_ends = calloc(count + 1, sizeof *lane_ends);
    struct lq_buffer out;
    struct lq_json_writer writer;
    lq_buffer_init(&out);
    enum lq_status status =
        order == NULL || lane_ends == NULL ? lq_error_nomem(err, "the trace") : LQ_OK;
    if (status == LQ_OK) {
        for (size_t i = 0; i < count; i++) {
            order[i] = &recorder->spans[i];
        }
        qsort(order, count, sizeof(struct span *), compare_starts);
        lq_json_writer_init(&writer, &out, false);
        lq_json_begin_object(&writer);
        lq_json_put_string(&writer, "displayTimeUnit", "ms");
        lq_json_key(&writer, "traceEvents");
        lq_json_begin_array(&writer);
        write_spans(&writer, order, count, lane_ends);
        lq_json_end_array(&writer);
        lq_json_end_object(&writer);
        lq_buffer_append_char(&out, '\n');
        status = out.failed ? lq_error_nomem(err, "the trace")
                            : lq_file_write(path, out.data, out.size_bytes, err);
    }
    lq_buffer_fini(&out);
    free(lane_ends);
    free(order);
    return status;
}

/* -------------------------------------------------------------------- log ---- */

static void write_entry(const struct lq_recorder *recorder, const struct lq_cli *cli,
                        const struct lq_cli_build *build, const struct lq_build_result *result,
                        enum lq_status status, struct lq_buffer *out)
{
    struct lq_json_writer writer;
    struct tm utc;
    char text[32] = "";
    time_t now = time(NULL);
    if (gmtime_r(&now, &utc) != NULL) {
        (void)strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
    }
    lq_json_writer_init(&writer, out, false);
    lq_json_begin_object(&writer);
    lq_json_put_string(&writer, "time", text);
    lq_json_put_string(&writer, "command", cli->command->name);
    char *resolved = build->hidden_name == NULL ? realpath(cli->recipe_path, NULL) : NULL;
    if (resolved != NULL) {
        lq_json_put_string(&writer, "recipe", resolved);
    }
    free(resolved);
    lq_json_key(&writer, "targets");
    lq_json_begin_array(&writer);
    for (size_t i = 0; build->hidden_name == NULL && i < build->target_count && i < TARGETS_SHOWN;
         i++) {
        lq_json_string(&writer, build->targets[i]);
    }
    lq_json_end_array(&writer);
    lq_json_put_string(&writer, "status", lq_status_type(status));
    lq_json_put_int(&writer, "steps", (int64_t)result->steps);
    lq_json_put_int(&writer, "ran", (int64_t)result->ran);
    lq_json_put_int(&writer, "cached", (int64_t)result->cached);
    lq_json_put_int(&writer, "failed", (int64_t)result->failed);
    lq_json_put_number(&writer, "seconds", result->wall_seconds);
    lq_json_put_number(&writer, "busy_seconds", recorder->busy_seconds);
    if (recorder->chain != NULL) {
        lq_json_put_number(&writer, "critical_seconds", recorder->chain_seconds);
        lq_json_put_string(&writer, "critical_path", recorder->chain);
    }
    lq_json_key(&writer, "slowest");
    lq_json_begin_array(&writer);
    for (size_t i = 0; i < SLOWEST && recorder->slowest[i].seconds > 0.0; i++) {
        lq_json_begin_object(&writer);
        lq_json_put_string(&writer, "step", recorder->slowest[i].name);
        lq_json_put_number(&writer, "seconds", recorder->slowest[i].seconds);
        lq_json_end_object(&writer);
    }
    lq_json_end_array(&writer);
    lq_json_end_object(&writer);
    lq_buffer_append_char(out, '\n');
}

/* Drops the older half, at a line end. The lock on the file is held. */
static void shorten(int fd, off_t size)
{
    size_t keep = (size_t)size / 2;
    char *text = malloc(keep);
    ssize_t got = text == NULL ? -1 : pread(fd, text, keep, size - (off_t)keep);
    const char *start = got == (ssize_t)keep ? memchr(text, '\n', keep) : NULL;
    if (start != NULL && ftruncate(fd, 0) == 0) {
        size_t left = keep - (size_t)(start + 1 - text);
        (void)!write(fd, start + 1, left);
    }
    free(text);
}

void lq_recorder_append_log(const struct lq_recorder *recorder, const char *dir,
                            const struct lq_cli *cli, const struct lq_cli_build *build,
                            const struct lq_build_result *result, enum lq_status status)
{
    char path[4096];
    struct lq_buffer line;
    int length = snprintf(path, sizeof path, "%s/builds.jsonl", dir);
    int fd = length > 0 && (size_t)length < sizeof path
                 ? open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0666)
                 : -1;
    if (fd < 0) {
        return;
    }
    lq_buffer_init(&line);
    write_entry(recorder, cli, build, result, status, &line);
    if (!line.failed && flock(fd, LOCK_EX) == 0) {
        off_t size = lseek(fd, 0, SEEK_END);
        if (size > LQ_BUILD_LOG_BYTES_MAX) {
            shorten(fd, size);
        }
        (void)!write(fd, line.data, line.size_bytes);
    }
    lq_buffer_fini(&line);
    (void)close(fd);
}
