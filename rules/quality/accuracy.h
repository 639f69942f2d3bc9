/* Accuracy on multiple-choice tasks, scored as llama-perplexity does: of each choice the mean
 * log-probability of its tokens, from the first token in which the choices of the task differ; the
 * largest wins, the first of several. Of winogrande sentences what follows the choice is scored, if
 * more than three tokens differ in both, and the last token is left out if it is not the only one
 * (where the choice is scored too, llama-perplexity reads the second choice's first token at the
 * wrong place; here it is the right one). Intervals are Wilson's at 95 %. Each choice is run on its
 * own, in batches of about equal length (questions.h), a step each. Thread rule: as evaluate.h.
 * Limits: those of tasks.h; sequences no longer than the model's context. */
#ifndef LQ_RULES_QUALITY_ACCURACY_H
#define LQ_RULES_QUALITY_ACCURACY_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/buffer.h"
#include "engine/base/error.h"
#include "engine/rule.h"
#include "rules/model/hparams.h"

struct lq_accuracy {
    uint64_t task_count;
    uint64_t right_count;
    double accuracy_pct;
    double low_pct; /* ends of the interval */
    double high_pct;
    double chance_pct; /* of guessing */
};

void lq_accuracy_make(uint64_t task_count, uint64_t right_count, double chance_pct,
                      struct lq_accuracy *out);

/* Tasks as they are asked, the same for all models. */
struct lq_accuracy_request {
    const struct lq_artifact *original; /* kind "model": has the tokenizer */
    const struct lq_artifact *tasks;    /* kind "tasks" */
    struct lq_hparams hparams;          /* the original's */
    size_t questions;                   /* the step that made them */
    size_t batch_count;
    const char *batches_text; /* the same, written out */
    uint32_t sequence;        /* the longest question, at most */
};

/* Adds the step "quality.questions", which tokenizes the tasks and cuts them into batches. */
enum lq_status lq_accuracy_add_questions(struct lq_expand *expand,
                                         const struct lq_artifact *original,
                                         const struct lq_artifact *tasks,
                                         struct lq_accuracy_request *out, struct lq_error *err);
/* Adds a step "quality.answers" for each batch that `model` (kind "model" or "gguf") is asked, and
 * the step "quality.tasks" that counts; its output "main" is what lq_accuracy_parse reads. */
enum lq_status lq_accuracy_add_step(struct lq_expand *expand,
                                    const struct lq_accuracy_request *request,
                                    const struct lq_artifact *model, size_t *step,
                                    struct lq_error *err);

enum lq_status lq_accuracy_parse(const void *data, uint64_t size_bytes, struct lq_accuracy *out,
                                 struct lq_error *err);

#endif
