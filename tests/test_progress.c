/* What people and programs see of a build: each drawing is fed with events and its streams are
 * read back. */
#define _XOPEN_SOURCE 700
#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/progress.h"

struct screen {
    FILE *out_stream;
    FILE *err_stream;
    char *out;
    char *err;
    size_t out_bytes;
    size_t err_bytes;
    struct lq_progress *progress;
};

static struct screen *open_screen(struct lq_progress_options options)
{
    struct screen *screen = calloc(1, sizeof *screen);
    cr_assert_not_null(screen);
    screen->out_stream = open_memstream(&screen->out, &screen->out_bytes);
    screen->err_stream = open_memstream(&screen->err, &screen->err_bytes);
    options.out = screen->out_stream;
    options.err = screen->err_stream;
    cr_assert_eq(lq_progress_create(&screen->progress, &options, NULL), LQ_OK);
    return screen;
}

static void sync_screen(struct screen *screen)
{
    fflush(screen->out_stream);
    fflush(screen->err_stream);
}

static void close_screen(struct screen *screen)
{
    lq_progress_destroy(screen->progress);
    fclose(screen->out_stream);
    fclose(screen->err_stream);
    free(screen->out);
    free(screen->err);
    free(screen);
}

static void send(struct screen *screen, struct lq_event event)
{
    event.steps_total = 12;
    lq_progress_event(screen->progress, &event);
}

static void start_step(struct screen *screen, uint64_t step, const char *label)
{
    send(screen, (struct lq_event){.kind = LQ_EVENT_STEP_STARTED,
                                   .step = step,
                                   .artifact = "small",
                                   .op = "gguf.tensor",
                                   .label = label,
                                   .eta_seconds = 4.0});
}

static void finish_step(struct screen *screen, uint64_t step, const char *label,
                        enum lq_outcome outcome)
{
    send(screen, (struct lq_event){.kind = LQ_EVENT_STEP_FINISHED,
                                   .step = step,
                                   .artifact = "small",
                                   .op = "gguf.tensor",
                                   .label = label,
                                   .outcome = outcome,
                                   .steps_finished = step,
                                   .seconds = 0.5});
}

static void send_text(struct screen *screen, enum lq_event_kind kind, const char *text)
{
    send(screen, (struct lq_event){.kind = kind, .text = text, .status = LQ_EMODEL});
}

static const struct lq_build_result result = {
    .steps = 78, .ran = 1, .cached = 76, .failed = 1, .would_run = 3, .wall_seconds = 0.014};

Test(progress, plain_lines_are_stable)
{
    struct screen *screen = open_screen((struct lq_progress_options){.mode = LQ_PROGRESS_PLAIN});
    send(screen, (struct lq_event){.kind = LQ_EVENT_PLAN});
    start_step(screen, 1, "blk.0.ffn_up.weight");
    send(screen,
         (struct lq_event){.kind = LQ_EVENT_STEP_PROGRESS, .step = 1, .done = 1, .total = 2});
    finish_step(screen, 1, "blk.0.ffn_up.weight", LQ_OUTCOME_RAN);
    finish_step(screen, 2, "blk.1.ffn_up.weight", LQ_OUTCOME_CACHED);
    send_text(screen, LQ_EVENT_WARNING, "the text is short");
    send_text(screen, LQ_EVENT_ERROR, "r.lq:3:4: unknown kind 'modle'\nmodle x {}\n^");
    send_text(screen, LQ_EVENT_SUMMARY_TEXT, "perplexity 43");
    lq_progress_finish(screen->progress, &result);
    sync_screen(screen);
    cr_expect_str_eq(screen->err, "[1/12] gguf.tensor blk.0.ffn_up.weight 500 ms\n"
                                  "lqbuild: warning: the text is short\n"
                                  "r.lq:3:4: unknown kind 'modle'\nmodle x {}\n^\n"
                                  "78 steps: 1 ran, 76 cached, 1 failed in 0.01 s\n");
    cr_expect_str_eq(screen->out, "perplexity 43\n");
    cr_expect_eq(lq_progress_error_count(screen->progress), 1);
    close_screen(screen);
}

Test(progress, explanations_stand_under_their_step)
{
    struct screen *screen = open_screen((struct lq_progress_options){.mode = LQ_PROGRESS_PLAIN});
    send(screen, (struct lq_event){.kind = LQ_EVENT_STEP_STARTED,
                                   .op = "gguf.tensor",
                                   .label = "blk.0",
                                   .explain = "type: Q4_K -> Q6_K\nversion: 1 -> 2"});
    sync_screen(screen);
    cr_expect_str_eq(screen->err, "gguf.tensor blk.0\n    type: Q4_K -> Q6_K\n"
                                  "    version: 1 -> 2\n");
    close_screen(screen);
}

Test(progress, dry_runs_list_what_would_run)
{
    struct screen *screen =
        open_screen((struct lq_progress_options){.mode = LQ_PROGRESS_PLAIN, .dry_run = true});
    finish_step(screen, 1, "blk.0.ffn_up.weight", LQ_OUTCOME_WOULD_RUN);
    lq_progress_finish(screen->progress, &result);
    sync_screen(screen);
    cr_expect_str_eq(screen->err, "would run: gguf.tensor blk.0.ffn_up.weight\n"
                                  "78 steps: 3 would run, 76 cached\n");
    close_screen(screen);
}

Test(progress, the_live_line_fits_and_is_erased)
{
    struct screen *screen =
        open_screen((struct lq_progress_options){.mode = LQ_PROGRESS_LIVE, .width_max = 60});
    finish_step(screen, 1, "cached", LQ_OUTCOME_CACHED);
    sync_screen(screen);
    cr_expect_eq(screen->err_bytes, 0, "nothing runs, so nothing is drawn");
    start_step(screen, 3,
               "blk.0.a_very_long_name_of_a_tensor_that_does_not_fit_into_the_line.weight");
    sync_screen(screen);
    cr_expect_eq(screen->err[0], '\r');
    size_t columns = screen->err_bytes - strlen("\r") - strlen("\x1b[K");
    cr_expect_leq(columns, 59);
    cr_expect(strstr(screen->err, "[0/12] 0% gguf.tensor blk.0.a_very") != NULL, "%s", screen->err);
    cr_expect(strstr(screen->err, "..  ETA 4") != NULL, "%s", screen->err);
    size_t before = screen->err_bytes;
    send_text(screen, LQ_EVENT_WARNING, "careful");
    sync_screen(screen);
    cr_expect(strncmp(screen->err + before, "\r\x1b[Klqbuild: warning: careful\n", 30) == 0, "%s",
              screen->err + before);
    finish_step(screen, 3, "x", LQ_OUTCOME_RAN);
    before = screen->err_bytes;
    lq_progress_finish(screen->progress, &result);
    sync_screen(screen);
    cr_expect(strncmp(screen->err + before, "\r\x1b[K78 steps", 12) == 0, "%s",
              screen->err + before);
    close_screen(screen);
}

Test(progress, the_live_line_is_drawn_ten_times_a_second_at_most)
{
    struct screen *screen =
        open_screen((struct lq_progress_options){.mode = LQ_PROGRESS_LIVE, .width_max = 60});
    start_step(screen, 1, "blk.0");
    for (uint64_t i = 0; i < 1000; i++) {
        send(screen, (struct lq_event){.kind = LQ_EVENT_STEP_PROGRESS,
                                       .step = 1,
                                       .done = i,
                                       .total = 1000,
                                       .unit = "rows"});
    }
    sync_screen(screen);
    size_t drawn = 0;
    for (size_t i = 0; i < screen->err_bytes; i++) {
        drawn += screen->err[i] == '\r';
    }
    cr_expect_leq(drawn, 5, "%zu drawings", drawn);
    close_screen(screen);
}

Test(progress, more_steps_than_the_display_holds)
{
    struct screen *screen =
        open_screen((struct lq_progress_options){.mode = LQ_PROGRESS_LIVE, .width_max = 5});
    for (uint64_t i = 1; i <= 500; i++) {
        start_step(screen, i, "blk");
    }
    for (uint64_t i = 500; i >= 1; i--) {
        finish_step(screen, i, "blk", LQ_OUTCOME_RAN);
    }
    lq_progress_finish(screen->progress, &result);
    close_screen(screen);
}

/* Every line is one object; returns the number of lines and hands each to the caller's checks. */
static cJSON *read_line(char **text)
{
    char *end = strchr(*text, '\n');
    if (end == NULL) {
        return NULL;
    }
    *end = '\0';
    cJSON *object = cJSON_Parse(*text);
    cr_assert_not_null(object, "not JSON: %s", *text);
    *text = end + 1;
    return object;
}

static const char *string_of(const cJSON *object, const char *key)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(object, key));
    return text == NULL ? "" : text;
}

static double number_of(const cJSON *object, const char *key)
{
    return cJSON_GetNumberValue(cJSON_GetObjectItem(object, key));
}

Test(progress, json_is_one_object_a_line_and_ends_with_a_summary)
{
    struct screen *screen = open_screen((struct lq_progress_options){.mode = LQ_PROGRESS_JSON});
    start_step(screen, 1, "blk.0 \"quoted\" \xff line\nbreak");
    finish_step(screen, 1, "blk.0", LQ_OUTCOME_RAN);
    send_text(screen, LQ_EVENT_ERROR, "tiny: no such model; give a folder");
    lq_progress_finish(screen->progress, &result);
    sync_screen(screen);
    cr_expect_eq(screen->err_bytes, 0);
    char *at = screen->out;
    cJSON *line = read_line(&at);
    cr_expect_str_eq(string_of(line, "event"), "step-started");
    cr_expect_str_eq(string_of(line, "artifact"), "small");
    cr_expect_eq(number_of(line, "step"), 1);
    cJSON_Delete(line);
    line = read_line(&at);
    cr_expect_str_eq(string_of(line, "event"), "step-finished");
    cr_expect_str_eq(string_of(line, "outcome"), "ran");
    cr_expect_eq(number_of(line, "seconds"), 0.5);
    cJSON_Delete(line);
    line = read_line(&at);
    cr_expect_str_eq(string_of(line, "event"), "error");
    cr_expect_eq(number_of(line, "error_code"), 3);
    cr_expect_str_eq(string_of(line, "error_type"), "ModelNotFound");
    cr_expect_str_eq(string_of(line, "message"), "tiny: no such model");
    cr_expect_str_eq(string_of(line, "suggestion"), "give a folder");
    cJSON_Delete(line);
    line = read_line(&at);
    cr_expect_str_eq(string_of(line, "event"), "summary");
    cr_expect_eq(number_of(line, "steps"), 78);
    cr_expect_eq(number_of(line, "ran"), 1);
    cr_expect_eq(number_of(line, "cached"), 76);
    cr_expect_eq(number_of(line, "failed"), 1);
    cr_expect_eq(number_of(line, "wall_seconds"), 0.014);
    cJSON_Delete(line);
    cr_expect_null(read_line(&at));
    close_screen(screen);
}

Test(progress, quiet_shows_only_messages_and_data)
{
    struct screen *screen = open_screen((struct lq_progress_options){.mode = LQ_PROGRESS_NONE});
    start_step(screen, 1, "blk.0");
    finish_step(screen, 1, "blk.0", LQ_OUTCOME_RAN);
    send_text(screen, LQ_EVENT_ERROR, "broken");
    send_text(screen, LQ_EVENT_SUMMARY_TEXT, "table\n");
    lq_progress_finish(screen->progress, &result);
    sync_screen(screen);
    cr_expect_str_eq(screen->err, "lqbuild: error: broken\n");
    cr_expect_str_eq(screen->out, "table\n");
    close_screen(screen);
}

/* A rate is shown once a step is a second old. */
Test(progress, steps_that_take_long_show_their_rate_and_what_is_left)
{
    const struct timespec pause = {1, 50 * 1000 * 1000};
    struct lq_event half = {.kind = LQ_EVENT_STEP_PROGRESS,
                            .step = 1,
                            .op = "imatrix.layer",
                            .label = "blk.0",
                            .done = 4000,
                            .total = 40000,
                            .unit = "tokens"};
    struct screen *live =
        open_screen((struct lq_progress_options){.mode = LQ_PROGRESS_LIVE, .width_max = 120});
    struct screen *json = open_screen((struct lq_progress_options){.mode = LQ_PROGRESS_JSON});
    start_step(live, 1, "blk.0");
    start_step(json, 1, "blk.0");
    nanosleep(&pause, NULL);
    send(live, half);
    send(json, half);
    sync_screen(live);
    sync_screen(json);
    cr_expect_not_null(strstr(live->err, "(4000/40000 tokens, 3"), "%s", live->err);
    cr_expect_not_null(strstr(live->err, "/s, "), "%s", live->err);
    cr_expect_not_null(strstr(live->err, " left)"), "%s", live->err);
    cr_expect_not_null(strstr(json->out, "\"per_second\":3"), "%s", json->out);
    cr_expect_not_null(strstr(json->out, "\"seconds_left\":"), "%s", json->out);
    close_screen(live);
    close_screen(json);
}
