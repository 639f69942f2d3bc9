/* What steps cost. How long a unit of a step's cost takes is remembered for each operation, so that
 * priorities and remaining times come from this machine's own past; and the longest chain of steps
 * that ran one after the other is found, which is what a build cannot be faster than. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/build_state.h"

enum { RATE_LABEL_BYTES = 128, CHAIN_SHOWN = 12 };

/* Seconds per unit of cost that are beyond belief are not kept: a clock that jumped. */
static const double RATE_MIN = 1e-12;
static const double RATE_MAX = 1e3;

static const char *rate_label(const char *op, char label[RATE_LABEL_BYTES])
{
    (void)snprintf(label, RATE_LABEL_BYTES, "rate|%.100s", op);
    return label;
}

static double read_rate(struct lq_build *build, const char *op)
{
    char label[RATE_LABEL_BYTES];
    char *text = NULL;
    struct lq_error err;
    if (lq_history_get(build->cache, rate_label(op, label), &build->arena, &text, &err) != LQ_OK ||
        text == NULL) {
        return 0.0;
    }
    double rate = strtod(text, NULL);
    return rate > RATE_MIN && rate < RATE_MAX ? rate : 0.0;
}

static struct lq_rate *find_rate(struct lq_build *build, const char *op)
{
    for (size_t i = 0; i < build->rate_count; i++) {
        if (strcmp(build->rates[i].op, op) == 0) {
            return &build->rates[i];
        }
    }
    if (build->rate_count == LQ_BUILD_RATES_MAX) {
        return NULL;
    }
    struct lq_rate *rate = &build->rates[build->rate_count];
    *rate = (struct lq_rate){.op = lq_arena_dup_string(&build->arena, op)};
    if (rate->op == NULL) {
        return NULL;
    }
    rate->known = read_rate(build, op);
    build->rate_count++;
    return rate;
}

uint64_t lq_timing_cost(struct lq_build *build, const char *op, uint64_t cost)
{
    const struct lq_rate *rate = find_rate(build, op);
    double guess = (double)(cost == 0 ? 1000 : cost);
    double microseconds = rate == NULL || rate->known == 0.0 ? guess : guess * rate->known * 1e6;
    return microseconds < 1.0 ? 1 : microseconds > 1e15 ? (uint64_t)1e15 : (uint64_t)microseconds;
}

static struct lq_task *longer(struct lq_task *a, struct lq_task *b)
{
    return a == NULL || (b != NULL && b->chain_seconds > a->chain_seconds) ? b : a;
}

void lq_timing_note(struct lq_build *build, struct lq_task *task, double seconds)
{
    struct lq_task *before = NULL;
    for (size_t i = 0; i < task->spec.input_count; i++) {
        const struct lq_ref *ref = &task->spec.inputs[i].ref;
        if (ref->kind == LQ_REF_STEP) {
            before = longer(before, task->node->tasks[ref->index]);
        }
    }
    /* An artifact is expanded when everything that it refers to is done. */
    for (const struct lq_node_link *link = task->node->deps; link != NULL; link = link->next) {
        before = longer(before, link->node->longest);
    }
    task->own_seconds = seconds;
    task->chain_seconds = seconds + (before == NULL ? 0.0 : before->chain_seconds);
    task->chain_before = before;
    task->node->longest = longer(task->node->longest, task);
    struct lq_rate *rate = seconds > 0.0 ? find_rate(build, task->spec.op) : NULL;
    if (rate != NULL) {
        rate->cost += (double)(task->spec.cost == 0 ? 1000 : task->spec.cost);
        rate->seconds += seconds;
    }
}

/* A rate follows what was measured half way, so that one disturbed build does not rule the next. */
static void store_rates(struct lq_build *build)
{
    for (size_t i = 0; i < build->rate_count; i++) {
        const struct lq_rate *rate = &build->rates[i];
        if (rate->cost <= 0.0) {
            continue;
        }
        double measured = rate->seconds / rate->cost;
        double kept = rate->known == 0.0 ? measured : (rate->known + measured) / 2.0;
        bool near = rate->known > 0.0 && kept > 0.8 * rate->known && kept < 1.25 * rate->known;
        if (near || !(kept > RATE_MIN && kept < RATE_MAX)) {
            continue;
        }
        char label[RATE_LABEL_BYTES];
        char text[32];
        struct lq_error err;
        (void)snprintf(text, sizeof text, "%.6g", kept);
        (void)lq_history_put(build->cache, rate_label(rate->op, label), text, &err);
    }
}

static void report_chain(struct lq_build *build)
{
    struct lq_task *last = NULL;
    for (size_t i = 0; i < build->node_count; i++) {
        last = longer(last, build->nodes[i].longest);
    }
    if (last == NULL || last->chain_seconds <= 0.0) {
        return;
    }
    /* Links that took no time were taken from the cache: they are not shown. */
    struct lq_buffer text;
    const struct lq_task *chain[CHAIN_SHOWN];
    size_t count = 0;
    size_t left_out = 0;
    for (const struct lq_task *task = last; task != NULL; task = task->chain_before) {
        if (task->own_seconds > 0.0 && count < CHAIN_SHOWN) {
            chain[count++] = task;
        } else if (task->own_seconds > 0.0) {
            left_out++;
        }
    }
    lq_buffer_init(&text);
    if (left_out > 0) {
        lq_buffer_printf(&text, "(%zu more) > ", left_out);
    }
    while (count > 0) {
        count--;
        lq_buffer_printf(&text, "%s %s%s", chain[count]->spec.op, chain[count]->spec.label,
                         count > 0 ? " > " : "");
    }
    struct lq_event event = {.kind = LQ_EVENT_CRITICAL_PATH,
                             .text = lq_buffer_text(&text),
                             .seconds = last->chain_seconds};
    if (!text.failed) {
        lq_build_event(build, &event);
    }
    lq_buffer_fini(&text);
}

void lq_timing_finish(struct lq_build *build)
{
    if (build->result->ran > 0 && !build->options->dry_run) {
        report_chain(build);
        store_rates(build);
    }
}
