/* What tasks ask of a model: each choice of each task as token ids, with the range that is scored,
 * sorted by length and cut into batches, so that weights are read once for many tokens and a killed
 * run repeats one batch at most. Batches follow from the tasks and the vocabulary alone. The bytes,
 * little-endian: u32 magic "LQQU", u32 batch_count, u32 tokens in the vocabulary, u32 zero, u64
 * begin of each batch and the end of the last one, then the questions: u32 task, choice, from, to,
 * token_count and i32 ids. A model's answers are u32 task, u32 choice and f64 score each.
 * Ownership: the bytes belong to the caller, ids to the arena. Thread rule: pure. Limits: those of
 * tasks.h and LQ_SEQUENCE_MAX. */
#ifndef LQ_RULES_QUALITY_QUESTIONS_H
#define LQ_RULES_QUALITY_QUESTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/buffer.h"
#include "engine/base/error.h"
#include "rules/format/tasks.h"
#include "rules/model/vocab.h"

/* Questions are padded to a multiple of this. */
enum { LQ_QUESTION_LENGTH_STEP = 32 };

/* One choice of one task. Tokens [from, to) are scored. */
struct lq_question {
    const int32_t *ids;
    size_t count;
    size_t from;
    size_t to;
    size_t task;
    size_t choice;
    double score; /* mean log-probability; an answer */
};

/* As it is padded. */
size_t lq_question_length(const struct lq_question *question);

struct lq_questions_request {
    const struct lq_task_list *tasks;
    const struct lq_vocab *vocab;
    size_t context;     /* the most tokens that a model takes */
    size_t batch_count; /* at least 1; batches may be empty */
    bool (*cancelled)(const void *user);
    const void *cancelled_user;
};

/* Appends the bytes. LQ_EFORMAT for a task that cannot be asked, with its number. */
enum lq_status lq_questions_format(const struct lq_questions_request *request,
                                   struct lq_buffer *out, struct lq_error *err);

/* Where a batch lies in the bytes, found in the first lq_questions_head_bytes of them. */
struct lq_questions_batch {
    uint64_t begin;
    uint64_t end;
    size_t vocab_size;
};

uint64_t lq_questions_head_bytes(size_t batch);
/* `size_bytes` is the size of the whole. */
enum lq_status lq_questions_find(const void *head, uint64_t head_bytes, size_t batch,
                                 uint64_t size_bytes, struct lq_questions_batch *out,
                                 struct lq_error *err);
/* The questions of a batch, whose bytes these are. LQ_EFORMAT for malformed ones. */
enum lq_status lq_questions_parse(const void *data, uint64_t size_bytes, struct lq_arena *arena,
                                  struct lq_question **out, size_t *count, struct lq_error *err);

void lq_answers_format(const struct lq_question *questions, size_t count, struct lq_buffer *out);
/* Puts answers where they belong: scores[first_choice[task] + choice]. Each score must be NAN
 * before, and is finite then. LQ_EFORMAT for answers that nobody asked for, and second ones. */
enum lq_status lq_answers_parse(const void *data, uint64_t size_bytes,
                                const struct lq_task_list *tasks, const size_t *first_choice,
                                double *scores, struct lq_error *err);

#endif
