#include "engine/progress.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/progress_sink.h"

static void draw_nothing(struct lq_progress *progress, const struct lq_event *event)
{
    bool message = event->kind == LQ_EVENT_WARNING || event->kind == LQ_EVENT_ERROR ||
                   event->kind == LQ_EVENT_SUMMARY_TEXT;
    if (message) {
        lq_progress_print_lasting(progress, event);
    }
}

static void finish_nothing(struct lq_progress *progress, const struct lq_build_result *result)
{
    (void)progress;
    (void)result;
}

enum lq_status lq_progress_create(struct lq_progress **out,
                                  const struct lq_progress_options *options, struct lq_error *err)
{
    *out = NULL;
    struct lq_progress *progress = calloc(1, sizeof *progress);
    if (progress == NULL) {
        return lq_error_nomem(err, "the progress display");
    }
    progress->options = *options;
    progress->started_ns = lq_clock_ns();
    progress->eta_seconds = -1.0;
    switch (options->mode) {
    case LQ_PROGRESS_PLAIN:
        progress->event = lq_progress_plain_event;
        progress->finish = lq_progress_plain_finish;
        break;
    case LQ_PROGRESS_LIVE:
        progress->event = lq_progress_live_event;
        progress->pause = lq_progress_live_pause;
        progress->finish = lq_progress_live_finish;
        break;
    case LQ_PROGRESS_JSON:
        progress->event = lq_progress_json_event;
        progress->finish = lq_progress_json_finish;
        break;
    case LQ_PROGRESS_NONE:
        progress->event = draw_nothing;
        progress->finish = finish_nothing;
        break;
    }
    *out = progress;
    return LQ_OK;
}

static struct lq_running_step *find_running(struct lq_progress *progress, uint64_t step)
{
    for (size_t i = 0; i < progress->running_count; i++) {
        if (progress->running[i].step == step) {
            return &progress->running[i];
        }
    }
    return NULL;
}

static void note_started(struct lq_progress *progress, const struct lq_event *event)
{
    if (progress->running_count == LQ_PROGRESS_RUNNING_MAX) {
        return;
    }
    struct lq_running_step *running = &progress->running[progress->running_count++];
    *running = (struct lq_running_step){.step = event->step, .started_ns = lq_clock_ns()};
    (void)snprintf(running->label, sizeof running->label, "%s %s",
                   event->op == NULL ? "" : event->op, event->label == NULL ? "" : event->label);
}

static void note_finished(struct lq_progress *progress, const struct lq_event *event)
{
    struct lq_running_step *running = find_running(progress, event->step);
    if (running != NULL) {
        size_t index = (size_t)(running - progress->running);
        memmove(running, running + 1,
                (progress->running_count - index - 1) * sizeof progress->running[0]);
        progress->running_count--;
    }
    progress->ran_count += event->outcome == LQ_OUTCOME_RAN;
}

static void note_progress(struct lq_progress *progress, const struct lq_event *event)
{
    struct lq_running_step *running = find_running(progress, event->step);
    if (running != NULL) {
        running->done = event->done;
        running->total = event->total;
        (void)snprintf(running->unit, sizeof running->unit, "%s",
                       event->unit == NULL ? "" : event->unit);
    }
}

double lq_progress_rate(const struct lq_running_step *step)
{
    double seconds = (double)(lq_clock_ns() - step->started_ns) * 1e-9;
    return seconds < 1.0 ? 0.0 : (double)step->done / seconds;
}

double lq_progress_time_left(const struct lq_running_step *step)
{
    double rate = lq_progress_rate(step);
    return rate > 0.0 && step->total >= step->done ? (double)(step->total - step->done) / rate
                                                   : -1.0;
}

void lq_progress_event(void *user, const struct lq_event *event)
{
    struct lq_progress *progress = user;
    if (event->steps_total > 0) {
        progress->steps_total = event->steps_total;
        progress->steps_finished = event->steps_finished;
        progress->eta_seconds = event->eta_seconds;
    }
    switch (event->kind) {
    case LQ_EVENT_STEP_STARTED:
        note_started(progress, event);
        break;
    case LQ_EVENT_STEP_FINISHED:
        note_finished(progress, event);
        break;
    case LQ_EVENT_STEP_PROGRESS:
        note_progress(progress, event);
        break;
    case LQ_EVENT_ERROR:
        progress->error_count++;
        break;
    default:
        break;
    }
    progress->event(progress, event);
}

void lq_progress_pause(struct lq_progress *progress)
{
    if (progress->pause != NULL) {
        progress->pause(progress);
    }
}

void lq_progress_finish(struct lq_progress *progress, const struct lq_build_result *result)
{
    progress->finish(progress, result);
}

uint64_t lq_progress_error_count(const struct lq_progress *progress)
{
    return progress->error_count;
}

void lq_progress_destroy(struct lq_progress *progress)
{
    free(progress);
}
