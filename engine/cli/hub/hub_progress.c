#define _DEFAULT_SOURCE
#include "engine/cli/hub/hub_progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "engine/base/fs.h"
#include "engine/base/json.h"
#include "engine/base/text.h"

static const uint64_t draw_ns = 100 * 1000 * 1000;
static const uint64_t event_ns = 1000 * 1000 * 1000;
static const uint64_t line_ns = (uint64_t)30 * 1000 * 1000 * 1000;

enum { LINE_BYTES = 256, SIZE_BYTES = 32, WIDTH_DEFAULT = 80 };

void lq_hub_progress_init(struct lq_hub_progress *progress, enum lq_progress_mode mode)
{
    *progress = (struct lq_hub_progress){.mode = mode};
    (void)pthread_mutex_init(&progress->mutex, NULL);
}

void lq_hub_progress_fini(struct lq_hub_progress *progress)
{
    (void)pthread_mutex_destroy(&progress->mutex);
}

/* ---- figures ---- */

struct figures {
    double per_second; /* 0: too early to say */
    double seconds_left;
};

static struct figures measure(const struct lq_hub_progress *progress, uint64_t now)
{
    struct figures figures = {0};
    double seconds = (double)(now - progress->started_ns) * 1e-9;
    if (seconds < 1.0 || progress->done_bytes <= progress->begun_bytes) {
        return figures;
    }
    figures.per_second = (double)(progress->done_bytes - progress->begun_bytes) / seconds;
    if (progress->total_bytes > progress->done_bytes) {
        figures.seconds_left =
            (double)(progress->total_bytes - progress->done_bytes) / figures.per_second;
    }
    return figures;
}

/* "org/name: 1.2 GiB of 2.4 GiB, 35.1 MiB/s, 35.0 s left". */
static void format_line(const struct lq_hub_progress *progress, uint64_t now, char *out,
                        size_t out_bytes)
{
    char done[SIZE_BYTES];
    char total[SIZE_BYTES];
    char rate[SIZE_BYTES];
    char left[SIZE_BYTES];
    struct figures figures = measure(progress, now);
    int used = snprintf(out, out_bytes, "%.120s: %s of %s", progress->name,
                        lq_text_size(progress->done_bytes, done, sizeof done),
                        lq_text_size(progress->total_bytes, total, sizeof total));
    if (figures.per_second > 0 && used > 0 && (size_t)used < out_bytes) {
        (void)snprintf(out + used, out_bytes - (size_t)used, ", %s/s%s%s%s",
                       lq_text_size((uint64_t)figures.per_second, rate, sizeof rate),
                       figures.seconds_left >= 1 ? ", " : "",
                       figures.seconds_left >= 1
                           ? lq_text_duration(figures.seconds_left, left, sizeof left)
                           : "",
                       figures.seconds_left >= 1 ? " left" : "");
    }
}

/* ---- showing them ---- */

static void erase(struct lq_hub_progress *progress)
{
    if (progress->line_shown) {
        (void)fputs("\r\x1b[K", stderr);
        (void)fflush(stderr);
        progress->line_shown = false;
    }
}

static void draw(struct lq_hub_progress *progress, uint64_t now)
{
    char line[LINE_BYTES];
    struct winsize size;
    memset(&size, 0, sizeof size);
    bool known = ioctl(fileno(stderr), TIOCGWINSZ, &size) == 0 && size.ws_col > 1;
    size_t width = known ? size.ws_col : WIDTH_DEFAULT;
    format_line(progress, now, line, sizeof line);
    /* The last column stays free: writing there makes some terminals wrap. */
    if (strlen(line) >= width) {
        line[width - 1] = '\0';
    }
    (void)fprintf(stderr, "\r%s\x1b[K", line);
    (void)fflush(stderr);
    progress->line_shown = true;
}

static void print_event(const struct lq_hub_progress *progress, uint64_t now)
{
    struct lq_buffer out;
    struct lq_json_writer writer;
    struct figures figures = measure(progress, now);
    lq_buffer_init(&out);
    lq_json_writer_init(&writer, &out, false);
    lq_json_begin_object(&writer);
    lq_json_put_string(&writer, "event", "fetch-progress");
    lq_json_put_string(&writer, "name", progress->name);
    lq_json_key(&writer, "done");
    lq_json_uint(&writer, progress->done_bytes);
    lq_json_key(&writer, "total");
    lq_json_uint(&writer, progress->total_bytes);
    lq_json_put_string(&writer, "unit", "bytes");
    if (figures.per_second > 0) {
        lq_json_put_number(&writer, "per_second", figures.per_second);
        lq_json_put_number(&writer, "seconds_left", figures.seconds_left);
    }
    lq_json_end_object(&writer);
    lq_buffer_append_char(&out, '\n');
    (void)fputs(lq_buffer_text(&out), stdout);
    (void)fflush(stdout);
    lq_buffer_fini(&out);
}

static void show(struct lq_hub_progress *progress)
{
    char line[LINE_BYTES];
    uint64_t now = lq_clock_ns();
    uint64_t pause = progress->mode == LQ_PROGRESS_LIVE   ? draw_ns
                     : progress->mode == LQ_PROGRESS_JSON ? event_ns
                                                          : line_ns;
    if (progress->mode == LQ_PROGRESS_NONE || now - progress->shown_ns < pause) {
        return;
    }
    progress->shown_ns = now;
    switch (progress->mode) {
    case LQ_PROGRESS_LIVE:
        draw(progress, now);
        break;
    case LQ_PROGRESS_JSON:
        print_event(progress, now);
        break;
    default:
        format_line(progress, now, line, sizeof line);
        (void)fprintf(stderr, "%s\n", line);
        break;
    }
}

void lq_hub_progress_begin(struct lq_hub_progress *progress, const char *name, uint64_t total_bytes,
                           uint64_t begun_bytes)
{
    uint64_t now = lq_clock_ns();
    progress->name = name;
    progress->total_bytes = total_bytes;
    progress->done_bytes = 0;
    progress->begun_bytes = begun_bytes;
    progress->started_ns = now;
    progress->shown_ns = now;
}

void lq_hub_progress_end(struct lq_hub_progress *progress)
{
    erase(progress);
}

void lq_hub_progress_move(struct lq_hub_progress *progress, int64_t bytes)
{
    (void)pthread_mutex_lock(&progress->mutex);
    progress->done_bytes += (uint64_t)bytes;
    show(progress);
    (void)pthread_mutex_unlock(&progress->mutex);
}

void lq_hub_progress_file_done(struct lq_hub_progress *progress, const char *path,
                               uint64_t size_bytes)
{
    char size[SIZE_BYTES];
    (void)pthread_mutex_lock(&progress->mutex);
    if (progress->mode == LQ_PROGRESS_PLAIN) {
        (void)fprintf(stderr, "%s: %s\n", path, lq_text_size(size_bytes, size, sizeof size));
    }
    (void)pthread_mutex_unlock(&progress->mutex);
}

void lq_hub_progress_note(struct lq_hub_progress *progress, const char *text)
{
    (void)pthread_mutex_lock(&progress->mutex);
    if (progress->mode == LQ_PROGRESS_PLAIN || progress->mode == LQ_PROGRESS_LIVE) {
        erase(progress);
        (void)fprintf(stderr, "%s\n", text);
    }
    (void)pthread_mutex_unlock(&progress->mutex);
}
