/* Multiple-choice tasks: a context, continuations of it, and which one is right. They are read from
 * JSON lines or from the three files that llama-perplexity takes: hellaswag (six lines a task),
 * winogrande (comma-separated) and multiple-choice (binary). Malformed input gives LQ_EFORMAT with
 * the line or task. All memory from the arena. Thread rule: pure. Limits: LQ_TASKS_MAX tasks,
 * LQ_TASK_CHOICES_MAX choices. */
#ifndef LQ_RULES_FORMAT_TASKS_H
#define LQ_RULES_FORMAT_TASKS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/error.h"

enum lq_task_format {
    LQ_TASKS_JSONL,
    LQ_TASKS_HELLASWAG,
    LQ_TASKS_WINOGRANDE,
    LQ_TASKS_MULTIPLE_CHOICE,
    LQ_TASK_FORMAT_COUNT,
};

struct lq_task {
    const char *context;
    /* Whole texts, context and all, one for each choice. */
    const char **texts;
    /* Of winogrande the text up to the end of the choice, whose tokens are not scored when enough
     * follow; else NULL. */
    const char **beginnings;
    size_t choice_count;
    const uint8_t *is_right; /* one for each choice */
};

struct lq_task_list {
    struct lq_task *tasks;
    size_t count;
};

/* "jsonl", "hellaswag", "winogrande", "multiple-choice". */
extern const char lq_task_format_choices[];
/* The format of a name; LQ_TASK_FORMAT_COUNT for none. */
enum lq_task_format lq_task_format_of(const char *name);

/* A JSON line is an object with the context ("context", "question", "ctx" or "prompt"), a list of
 * strings ("choices", "endings" or "answers") and the number of the right one, from 0 ("answer",
 * "label" or "gold"; a number or a string with one). A space stands between context and choice. */
enum lq_status lq_tasks_parse(const void *data, uint64_t size_bytes, const char *where,
                              enum lq_task_format format, struct lq_arena *arena,
                              struct lq_task_list *out, struct lq_error *err);

#endif
