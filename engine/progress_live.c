#define _DEFAULT_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "engine/base/fs.h"
#include "engine/base/text.h"
#include "engine/progress_sink.h"

enum { LINE_BYTES = 512, WIDTH_DEFAULT = 80 };

/* Ten drawings a second are smooth for the eye and cost nothing. */
static const uint64_t redraw_ns = 100 * 1000 * 1000;

static unsigned line_width(const struct lq_progress *progress)
{
    struct winsize size;
    memset(&size, 0, sizeof size);
    if (progress->options.width_max > 0) {
        return progress->options.width_max;
    }
    if (ioctl(fileno(progress->options.err), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
        return size.ws_col;
    }
    return WIDTH_DEFAULT;
}

/* Cuts UTF-8 text to `columns` characters, so that the line never wraps; a cut shows as "..". */
static void fit(char *line, size_t columns)
{
    size_t seen = 0;
    char *cut = line;
    char *at = line;
    for (; *at != '\0'; at++) {
        if (((unsigned char)*at & 0xC0) == 0x80) {
            continue;
        }
        if (seen + 2 == columns) {
            cut = at;
        }
        if (seen == columns) {
            break;
        }
        seen++;
    }
    if (*at != '\0' && columns > 2) {
        memcpy(cut, "..", 3);
    } else if (*at != '\0') {
        *at = '\0';
    }
}

static void append(char *line, size_t *used, const char *text)
{
    int added = snprintf(line + *used, LINE_BYTES - *used, "%s", text);
    size_t room = LINE_BYTES - 1 - *used;
    *used += added < 0 ? 0 : (size_t)added > room ? room : (size_t)added;
}

/* The right part: rate and time left. */
static void format_tail(const struct lq_progress *progress, char *out, size_t out_bytes)
{
    char rate[32] = "";
    char left[32] = "";
    char duration[32] = "";
    double elapsed = (double)(lq_clock_ns() - progress->started_ns) * 1e-9;
    if (elapsed > 1.0 && progress->ran_count > 0) {
        (void)snprintf(rate, sizeof rate, "  %.1f steps/s", (double)progress->ran_count / elapsed);
    }
    if (progress->eta_seconds >= 1.0) {
        (void)lq_text_duration(progress->eta_seconds, duration, sizeof duration);
        (void)snprintf(left, sizeof left, "  ETA %.24s", duration);
    }
    (void)snprintf(out, out_bytes, "%s%s", rate, left);
}

/* " (512/8192 tokens, 210/s, 37 s left)". */
static void append_units(char *line, size_t *used, const struct lq_running_step *step)
{
    char part[80];
    char duration[32] = "";
    double rate = lq_progress_rate(step);
    double left = lq_progress_time_left(step);
    (void)snprintf(part, sizeof part, " (%llu/%llu %s", (unsigned long long)step->done,
                   (unsigned long long)step->total, step->unit);
    append(line, used, part);
    if (rate > 0.0) {
        (void)snprintf(part, sizeof part, rate < 10.0 ? ", %.1f/s" : ", %.0f/s", rate);
        append(line, used, part);
    }
    if (left >= 1.0) {
        (void)snprintf(part, sizeof part, ", %.24s left",
                       lq_text_duration(left, duration, sizeof duration));
        append(line, used, part);
    }
    append(line, used, ")");
}

static void format_line(const struct lq_progress *progress, size_t columns, char line[LINE_BYTES])
{
    char head[64];
    char tail[80];
    size_t used = 0;
    uint64_t total = progress->steps_total;
    uint64_t percent = total == 0 ? 0 : progress->steps_finished * 100 / total;
    (void)snprintf(head, sizeof head, "[%llu/%llu] %llu%% ",
                   (unsigned long long)progress->steps_finished, (unsigned long long)total,
                   (unsigned long long)percent);
    format_tail(progress, tail, sizeof tail);
    append(line, &used, head);
    if (progress->running_count > 0) {
        const struct lq_running_step *step = &progress->running[0];
        append(line, &used, step->label);
        if (step->total > 0) {
            append_units(line, &used, step);
        }
    }
    size_t tail_length = strlen(tail);
    if (columns > tail_length + 20) {
        fit(line, columns - tail_length);
        used = strlen(line);
        append(line, &used, tail);
    } else {
        fit(line, columns);
    }
}

static void draw(struct lq_progress *progress)
{
    uint64_t now = lq_clock_ns();
    if (progress->line_shown && now - progress->drawn_ns < redraw_ns) {
        return;
    }
    char line[LINE_BYTES] = "";
    unsigned width = line_width(progress);
    /* The last column stays free: writing there makes some terminals wrap. */
    format_line(progress, width > 1 ? width - 1 : 1, line);
    (void)fprintf(progress->options.err, "\r%s\x1b[K", line);
    (void)fflush(progress->options.err);
    progress->line_shown = true;
    progress->drawn_ns = now;
}

void lq_progress_live_pause(struct lq_progress *progress)
{
    if (progress->line_shown) {
        (void)fputs("\r\x1b[K", progress->options.err);
        (void)fflush(progress->options.err);
        progress->line_shown = false;
    }
}

void lq_progress_live_event(struct lq_progress *progress, const struct lq_event *event)
{
    if (lq_progress_is_lasting(progress, event)) {
        lq_progress_live_pause(progress);
        lq_progress_print_lasting(progress, event);
    }
    /* A build that finds everything in the cache never draws: there is nothing to watch. */
    if (progress->running_count > 0) {
        draw(progress);
    }
}

void lq_progress_live_finish(struct lq_progress *progress, const struct lq_build_result *result)
{
    lq_progress_live_pause(progress);
    lq_progress_print_result(progress, result);
}
