#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/text.h"
#include "engine/progress_sink.h"

/* Length of a "file:12:8: " at the start of a message, or 0. */
static size_t position_length(const char *message)
{
    size_t line_length = strcspn(message, "\n");
    for (size_t i = 1; i < line_length; i++) {
        if (message[i] != ':') {
            continue;
        }
        size_t line_digits = strspn(message + i + 1, "0123456789");
        const char *after = message + i + 1 + line_digits;
        if (line_digits == 0 || *after != ':') {
            continue;
        }
        size_t column_digits = strspn(after + 1, "0123456789");
        if (column_digits > 0 && strncmp(after + 1 + column_digits, ": ", 2) == 0) {
            return (size_t)(after + 1 + column_digits + 2 - message);
        }
    }
    return 0;
}

size_t lq_progress_split_suggestion(const char *message, const char **suggestion)
{
    size_t length = strlen(message);
    *suggestion = NULL;
    /* A diagnostic shows its source line below: that is one piece. */
    if (memchr(message, '\n', length) != NULL) {
        return length;
    }
    for (size_t i = length; i > 1; i--) {
        if (message[i - 2] == ';' && message[i - 1] == ' ') {
            *suggestion = message + i;
            return i - 2;
        }
    }
    return length;
}

/* Messages quote what stands in files of strangers: a terminal must not obey it. NULL when memory
 * is out. */
static char *copy_printable(const char *message)
{
    size_t left = strlen(message);
    char *copy = malloc(left + 1);
    size_t used = 0;
    while (copy != NULL && left > 0) {
        size_t control = lq_text_control(message, left);
        size_t taken = control > 0 ? control : 1;
        copy[used++] = control > 0 ? '?' : *message;
        message += taken;
        left -= taken;
    }
    if (copy != NULL) {
        copy[used] = '\0';
    }
    return copy;
}

void lq_progress_print_message(FILE *stream, bool color, const char *severity, const char *message)
{
    const char *begin = "";
    if (color) {
        begin = strcmp(severity, "error") == 0 ? "\x1b[1;31m" : "\x1b[1;33m";
    }
    const char *end = color ? "\x1b[0m" : "";
    char *copy = copy_printable(message);
    const char *text = copy == NULL ? "out of memory" : copy;
    if (position_length(message) == 0) {
        (void)fprintf(stream, "lqbuild: %s%s:%s %s\n", begin, severity, end, text);
    } else if (strcmp(severity, "error") == 0) {
        /* A diagnostic of the recipe language is complete as it stands, and may be several. */
        (void)fprintf(stream, "%s\n", text);
    } else {
        (void)fprintf(stream, "%s%s:%s %s\n", begin, severity, end, text);
    }
    free(copy);
}

static void print_explain(FILE *stream, const struct lq_event *event)
{
    bool is_artifact = event->kind == LQ_EVENT_ARTIFACT_CHANGED;
    const char *kind = is_artifact ? event->rule : event->op;
    const char *name = is_artifact ? event->artifact : event->label;
    (void)fprintf(stream, "%s %s\n", kind == NULL ? "" : kind, name == NULL ? "" : name);
    for (const char *at = event->explain; *at != '\0';) {
        size_t span = strcspn(at, "\n");
        (void)fprintf(stream, "    %.*s\n", (int)span, at);
        at += span;
        at += *at == '\n';
    }
}

bool lq_progress_is_lasting(const struct lq_progress *progress, const struct lq_event *event)
{
    bool verbose = progress->options.verbose;
    switch (event->kind) {
    case LQ_EVENT_ARTIFACT_CHANGED:
    case LQ_EVENT_STEP_STARTED:
        return event->explain != NULL;
    case LQ_EVENT_STEP_FINISHED:
        return event->outcome == LQ_OUTCOME_WOULD_RUN ||
               (verbose && event->outcome != LQ_OUTCOME_FAILED);
    case LQ_EVENT_ARTIFACT_DONE:
        return verbose && event->path != NULL;
    case LQ_EVENT_SOURCE_HASHED:
        return verbose;
    case LQ_EVENT_WARNING:
    case LQ_EVENT_ERROR:
    case LQ_EVENT_SUMMARY_TEXT:
        return true;
    case LQ_EVENT_WAITING:
        return true;
    case LQ_EVENT_CRITICAL_PATH:
        return verbose;
    case LQ_EVENT_PLAN:
    case LQ_EVENT_STEP_PROGRESS:
        break;
    }
    return false;
}

static const char *outcome_word(enum lq_outcome outcome)
{
    switch (outcome) {
    case LQ_OUTCOME_RAN:
        return "ran";
    case LQ_OUTCOME_CACHED:
        return "cached";
    case LQ_OUTCOME_FETCHED:
        return "fetched";
    case LQ_OUTCOME_SHARED:
        return "built by another process";
    case LQ_OUTCOME_WOULD_RUN:
        return "would run";
    case LQ_OUTCOME_FAILED:
        break;
    }
    return "failed";
}

/* A failure says which artifact it belongs to, unless it points into the recipe itself. */
static void print_failure(const struct lq_progress *progress, const struct lq_event *event,
                          const char *text)
{
    char whole[LQ_ERROR_BYTES + LQ_PROGRESS_LABEL_BYTES];
    if (event->artifact != NULL && position_length(text) == 0) {
        (void)snprintf(whole, sizeof whole, "%.*s: %s", LQ_PROGRESS_LABEL_BYTES / 2,
                       event->artifact, text);
        text = whole;
    }
    lq_progress_print_message(progress->options.err, progress->options.color, "error", text);
}

static void print_finished(const struct lq_progress *progress, const struct lq_event *event)
{
    char duration[32] = "";
    const char *op = event->op == NULL ? "" : event->op;
    const char *label = event->label == NULL ? "" : event->label;
    FILE *stream = progress->options.err;
    if (event->outcome == LQ_OUTCOME_RAN) {
        (void)fprintf(stream, "[%llu/%llu] %s %s %s\n",
                      (unsigned long long)progress->steps_finished,
                      (unsigned long long)progress->steps_total, op, label,
                      lq_text_duration(event->seconds, duration, sizeof duration));
    } else {
        (void)fprintf(stream, "%s: %s %s\n", outcome_word(event->outcome), op, label);
    }
}

void lq_progress_print_lasting(const struct lq_progress *progress, const struct lq_event *event)
{
    const struct lq_progress_options *options = &progress->options;
    const char *text = event->text == NULL ? "" : event->text;
    switch (event->kind) {
    case LQ_EVENT_ARTIFACT_CHANGED:
    case LQ_EVENT_STEP_STARTED:
        print_explain(options->err, event);
        break;
    case LQ_EVENT_STEP_FINISHED:
        print_finished(progress, event);
        break;
    case LQ_EVENT_ARTIFACT_DONE:
        (void)fprintf(options->err, "%s -> %s\n", event->artifact, event->path);
        break;
    case LQ_EVENT_SOURCE_HASHED:
        (void)fprintf(options->err, "read %s\n", event->label == NULL ? "" : event->label);
        break;
    case LQ_EVENT_WARNING:
        lq_progress_print_message(options->err, options->color, "warning", text);
        break;
    case LQ_EVENT_ERROR:
        print_failure(progress, event, text);
        break;
    case LQ_EVENT_SUMMARY_TEXT:
        (void)fputs(text, options->out);
        if (text[0] != '\0' && text[strlen(text) - 1] != '\n') {
            (void)fputc('\n', options->out);
        }
        (void)fflush(options->out);
        break;
    case LQ_EVENT_WAITING:
        (void)fprintf(options->err, "waiting for another process to finish %s\n",
                      event->label == NULL ? "a step" : event->label);
        break;
    case LQ_EVENT_CRITICAL_PATH:
        (void)fprintf(options->err, "longest chain %.2f s: %s\n", event->seconds, text);
        break;
    case LQ_EVENT_PLAN:
    case LQ_EVENT_STEP_PROGRESS:
        break;
    }
    (void)fflush(options->err);
}

static void print_remote_count(FILE *stream, uint64_t count, const char *one, const char *several)
{
    if (count > 0) {
        (void)fprintf(stream, ", %llu %s", (unsigned long long)count, count == 1 ? one : several);
    }
}

/* What remotes did: failures only when there were any, and each kind by its name. */
static void print_remote(FILE *stream, const struct lq_remote_counts *counts)
{
    char received[32];
    char sent[32];
    if (counts->requests == 0 && counts->errors == 0) {
        return;
    }
    (void)fprintf(stream, "remote: %llu found, %llu not found", (unsigned long long)counts->hits,
                  (unsigned long long)counts->misses);
    print_remote_count(stream, counts->timeouts, "timeout", "timeouts");
    print_remote_count(stream, counts->untrusted, "untrusted", "untrusted");
    print_remote_count(stream, counts->bad_signatures, "bad signature", "bad signatures");
    print_remote_count(stream, counts->altered, "damaged answer", "damaged answers");
    print_remote_count(stream, counts->errors, "error", "errors");
    print_remote_count(stream, counts->uploads, "result sent", "results sent");
    print_remote_count(stream, counts->upload_errors, "refused", "refused");
    (void)fprintf(stream, "; %s received, %s sent\n",
                  lq_text_size(counts->bytes_received, received, sizeof received),
                  lq_text_size(counts->bytes_sent, sent, sizeof sent));
}

void lq_progress_print_result(const struct lq_progress *progress,
                              const struct lq_build_result *result)
{
    FILE *stream = progress->options.err;
    if (result->has_remote) {
        print_remote(progress->options.err, &result->remote);
    }
    const char *plural = result->steps == 1 ? "" : "s";
    if (progress->options.dry_run) {
        (void)fprintf(stream, "%llu step%s: %llu would run, %llu cached\n",
                      (unsigned long long)result->steps, plural,
                      (unsigned long long)result->would_run, (unsigned long long)result->cached);
    } else {
        (void)fprintf(stream, "%llu step%s: %llu ran, %llu cached, %llu failed in %.2f s\n",
                      (unsigned long long)result->steps, plural, (unsigned long long)result->ran,
                      (unsigned long long)result->cached, (unsigned long long)result->failed,
                      result->wall_seconds);
        if (progress->options.verbose && result->peak_memory_bytes > 0) {
            char size[32];
            (void)fprintf(stream, "peak memory besides files: %s\n",
                          lq_text_size(result->peak_memory_bytes, size, sizeof size));
        }
    }
    (void)fflush(stream);
}

void lq_progress_plain_event(struct lq_progress *progress, const struct lq_event *event)
{
    bool finished = event->kind == LQ_EVENT_STEP_FINISHED && event->outcome == LQ_OUTCOME_RAN;
    if (finished || lq_progress_is_lasting(progress, event)) {
        lq_progress_print_lasting(progress, event);
    }
}

void lq_progress_plain_finish(struct lq_progress *progress, const struct lq_build_result *result)
{
    lq_progress_print_result(progress, result);
}
