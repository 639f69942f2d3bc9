/* What the drawings of a build have in common: private to engine/progress*.c. A drawing is three
 * functions; the sink holds its state. Ownership and thread rule as in progress.h. */
#ifndef LQ_ENGINE_PROGRESS_SINK_H
#define LQ_ENGINE_PROGRESS_SINK_H

#include "engine/progress.h"

enum { LQ_PROGRESS_RUNNING_MAX = 64, LQ_PROGRESS_LABEL_BYTES = 160 };

struct lq_running_step {
    uint64_t step;
    uint64_t done;
    uint64_t total;
    uint64_t started_ns;
    char label[LQ_PROGRESS_LABEL_BYTES]; /* "op label" */
    char unit[16];
};

struct lq_progress {
    struct lq_progress_options options;
    void (*event)(struct lq_progress *progress, const struct lq_event *event);
    void (*pause)(struct lq_progress *progress); /* may be NULL */
    void (*finish)(struct lq_progress *progress, const struct lq_build_result *result);
    uint64_t error_count;
    uint64_t steps_total;
    uint64_t steps_finished;
    uint64_t ran_count;
    double eta_seconds;
    uint64_t started_ns;
    uint64_t drawn_ns; /* when the live line was last drawn */
    bool line_shown;
    struct lq_running_step running[LQ_PROGRESS_RUNNING_MAX];
    size_t running_count;
};

/* Units of a running step done in a second since it started; 0 when it is too early to say. */
double lq_progress_rate(const struct lq_running_step *step);
/* Its seconds left at that rate; negative when unknown. */
double lq_progress_time_left(const struct lq_running_step *step);

/* Drawings. */
void lq_progress_plain_event(struct lq_progress *progress, const struct lq_event *event);
void lq_progress_plain_finish(struct lq_progress *progress, const struct lq_build_result *result);
void lq_progress_live_event(struct lq_progress *progress, const struct lq_event *event);
void lq_progress_live_pause(struct lq_progress *progress);
void lq_progress_live_finish(struct lq_progress *progress, const struct lq_build_result *result);
void lq_progress_json_event(struct lq_progress *progress, const struct lq_event *event);
void lq_progress_json_finish(struct lq_progress *progress, const struct lq_build_result *result);

/* Words for people, shared by the plain and the live drawing: lines that stay. */
bool lq_progress_is_lasting(const struct lq_progress *progress, const struct lq_event *event);
void lq_progress_print_lasting(const struct lq_progress *progress, const struct lq_event *event);
void lq_progress_print_result(const struct lq_progress *progress,
                              const struct lq_build_result *result);

#endif
