/* Shows people and programs what a build does. One sink takes the engine's events and draws them
 * in one of four ways: a live status line on a terminal, stable plain lines, JSON lines on stdout,
 * or nothing but errors. Data goes to `out`, progress and messages to `err`, except that JSON
 * replaces both. The caller owns the sink and the streams. Thread rule: one thread, which is what
 * the engine promises. Limits: a status line shows one of at most 64 running steps. */
#ifndef LQ_ENGINE_PROGRESS_H
#define LQ_ENGINE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "engine/base/error.h"
#include "engine/build.h"

enum lq_progress_mode {
    LQ_PROGRESS_NONE, /* errors and warnings only */
    LQ_PROGRESS_PLAIN,
    LQ_PROGRESS_LIVE,
    LQ_PROGRESS_JSON,
};

struct lq_progress_options {
    enum lq_progress_mode mode;
    FILE *out;
    FILE *err;
    bool color;
    bool verbose;       /* also cached steps, files read, outputs in place */
    bool dry_run;       /* the last line says what would run */
    unsigned width_max; /* columns of the live line; 0: ask the terminal */
};

struct lq_progress;

enum lq_status lq_progress_create(struct lq_progress **out,
                                  const struct lq_progress_options *options, struct lq_error *err);
/* An lq_event_fn: `user` is the sink. */
void lq_progress_event(void *user, const struct lq_event *event);
/* Erases the live line, so that the caller may print. */
void lq_progress_pause(struct lq_progress *progress);
/* The last line of a build. */
void lq_progress_finish(struct lq_progress *progress, const struct lq_build_result *result);
/* Errors shown so far: who has shown one need not print the build's status again. */
uint64_t lq_progress_error_count(const struct lq_progress *progress);
void lq_progress_destroy(struct lq_progress *progress);

/* "lqbuild: error: MESSAGE", or the message alone when it starts with file:line:column as
 * diagnostics of a recipe do. */
void lq_progress_print_message(FILE *stream, bool color, const char *severity, const char *message);
/* Cuts a message into what happened and what to do about it, at its last "; ". */
size_t lq_progress_split_suggestion(const char *message, const char **suggestion);

#endif
