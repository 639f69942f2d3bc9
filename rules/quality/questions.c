#include "rules/quality/questions.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/reader.h"

#define MAGIC 0x5551514cu /* "LQQU" */

enum {
    TRAILING_MIN = 3, /* of llama-perplexity --winogrande */
    HEADER_BYTES = 16,
    QUESTION_BYTES = 20,
    ANSWER_BYTES = 16,
};

size_t lq_question_length(const struct lq_question *question)
{
    return (question->count + LQ_QUESTION_LENGTH_STEP - 1) / LQ_QUESTION_LENGTH_STEP *
           LQ_QUESTION_LENGTH_STEP;
}

/* ---- asking ---- */

struct asking {
    const struct lq_questions_request *request;
    struct lq_question *questions; /* in the order of tasks */
    size_t count;
    size_t *order; /* by length */
};

static enum lq_status tokenize(const struct asking *asking, const char *text, int32_t **ids,
                               size_t *count, struct lq_error *err)
{
    struct lq_token_list list;
    lq_token_list_init(&list);
    enum lq_status status =
        lq_tokenize(asking->request->vocab, text, strlen(text), true, false, &list, err);
    *count = list.count;
    if (ids != NULL) {
        *ids = list.ids;
    } else {
        lq_token_list_fini(&list);
    }
    return status;
}

static size_t common_prefix(const struct lq_question *first, size_t count)
{
    for (size_t prefix = 0;; prefix++) {
        for (size_t i = 0; i < count; i++) {
            if (prefix >= first[i].count || first[i].ids[prefix] != first[0].ids[prefix]) {
                return prefix;
            }
        }
    }
}

static enum lq_status check_range(const struct asking *asking, const struct lq_question *one,
                                  struct lq_error *err)
{
    if (one->to <= one->from) {
        return lq_error_set(err, LQ_EFORMAT,
                            "task %zu: choice %zu has no token of its own to score; choices must "
                            "differ, and none may begin another",
                            one->task + 1, one->choice + 1);
    }
    if (one->count > asking->request->context) {
        return lq_error_set(err, LQ_EFORMAT,
                            "task %zu has %zu tokens with choice %zu, and the model's context is "
                            "%zu",
                            one->task + 1, one->count, one->choice + 1, asking->request->context);
    }
    return LQ_OK;
}

/* Where scoring starts and ends; `first` is the first of the task's questions. */
static enum lq_status set_ranges(const struct asking *asking, const struct lq_task *task,
                                 struct lq_question *first, struct lq_error *err)
{
    size_t prefix = common_prefix(first, task->choice_count);
    bool skip = task->beginnings != NULL;
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < task->choice_count; i++) {
        skip = skip && first[i].count - prefix > TRAILING_MIN;
    }
    for (size_t i = 0; status == LQ_OK && i < task->choice_count; i++) {
        struct lq_question *one = &first[i];
        one->from = prefix;
        one->to = one->count;
        if (skip) {
            status = tokenize(asking, task->beginnings[i], NULL, &one->from, err);
        }
        one->from = one->from == 0 ? 1 : one->from;
        if (task->beginnings != NULL && one->to > one->from + 1) {
            one->to--;
        }
        status = status == LQ_OK ? check_range(asking, one, err) : status;
    }
    return status;
}

static enum lq_status ask_task(struct asking *asking, size_t number, struct lq_error *err)
{
    const struct lq_questions_request *request = asking->request;
    const struct lq_task *task = &request->tasks->tasks[number];
    struct lq_question *first = &asking->questions[asking->count];
    if (request->cancelled != NULL && request->cancelled(request->cancelled_user)) {
        return lq_error_set(err, LQ_ECANCELLED, "cancelled");
    }
    for (size_t i = 0; i < task->choice_count; i++) {
        struct lq_question *one = &asking->questions[asking->count++];
        int32_t *ids = NULL;
        enum lq_status status = tokenize(asking, task->texts[i], &ids, &one->count, err);
        one->ids = ids;
        one->task = number;
        one->choice = i;
        if (status != LQ_OK) {
            return status;
        }
    }
    return set_ranges(asking, task, first, err);
}

/* A counting order: every length from the shortest on, questions as they are. */
static void sort_questions(struct asking *asking)
{
    size_t longest = 0;
    size_t used = 0;
    for (size_t i = 0; i < asking->count; i++) {
        size_t length = lq_question_length(&asking->questions[i]);
        longest = length > longest ? length : longest;
    }
    for (size_t length = 0; length <= longest; length += LQ_QUESTION_LENGTH_STEP) {
        for (size_t i = 0; i < asking->count; i++) {
            if (lq_question_length(&asking->questions[i]) == length) {
                asking->order[used++] = i;
            }
        }
    }
}

/* ---- bytes ---- */

static void put_u64(unsigned char *at, uint64_t value)
{
    for (size_t i = 0; i < sizeof value; i++) {
        at[i] = (unsigned char)(value >> (8 * i));
    }
}

static void format_question(const struct lq_question *one, struct lq_buffer *out)
{
    lq_buffer_append_u32(out, (uint32_t)one->task);
    lq_buffer_append_u32(out, (uint32_t)one->choice);
    lq_buffer_append_u32(out, (uint32_t)one->from);
    lq_buffer_append_u32(out, (uint32_t)one->to);
    lq_buffer_append_u32(out, (uint32_t)one->count);
    for (size_t i = 0; i < one->count; i++) {
        lq_buffer_append_u32(out, (uint32_t)one->ids[i]);
    }
}

/* A batch is full when it has its share of all tokens, padding included. */
static void format_batches(const struct asking *asking, struct lq_buffer *out)
{
    size_t start = out->size_bytes;
    size_t batch_count = asking->request->batch_count;
    size_t table = start + HEADER_BYTES;
    double total = 0.0;
    double done = 0.0;
    size_t next = 0;
    for (size_t i = 0; i < asking->count; i++) {
        total += (double)lq_question_length(&asking->questions[i]);
    }
    lq_buffer_append_u32(out, MAGIC);
    lq_buffer_append_u32(out, (uint32_t)batch_count);
    lq_buffer_append_u32(out, (uint32_t)lq_vocab_size(asking->request->vocab));
    lq_buffer_append_u32(out, 0);
    (void)lq_buffer_extend(out, (batch_count + 1) * sizeof(uint64_t));
    for (size_t b = 0; !out->failed && b < batch_count; b++) {
        double share = total * (double)(b + 1) / (double)batch_count;
        put_u64(out->data + table + b * sizeof(uint64_t), out->size_bytes - start);
        while (next < asking->count && (done < share || b + 1 == batch_count)) {
            const struct lq_question *one = &asking->questions[asking->order[next++]];
            done += (double)lq_question_length(one);
            format_question(one, out);
        }
    }
    if (!out->failed) {
        put_u64(out->data + table + batch_count * sizeof(uint64_t), out->size_bytes - start);
    }
}

enum lq_status lq_questions_format(const struct lq_questions_request *request,
                                   struct lq_buffer *out, struct lq_error *err)
{
    struct asking asking = {.request = request};
    size_t room = 1;
    for (size_t t = 0; t < request->tasks->count; t++) {
        room += request->tasks->tasks[t].choice_count;
    }
    asking.questions = calloc(room, sizeof *asking.questions);
    asking.order = calloc(room, sizeof *asking.order);
    enum lq_status status =
        asking.questions == NULL || asking.order == NULL ? lq_error_nomem(err, "tasks") : LQ_OK;
    for (size_t t = 0; status == LQ_OK && t < request->tasks->count; t++) {
        status = ask_task(&asking, t, err);
    }
    if (status == LQ_OK) {
        sort_questions(&asking);
        format_batches(&asking, out);
        status = out->failed ? lq_error_nomem(err, "tasks") : LQ_OK;
    }
    for (size_t i = 0; i < asking.count; i++) {
        free((void *)(uintptr_t)asking.questions[i].ids);
    }
    free(asking.questions);
    free(asking.order);
    return status;
}

static enum lq_status malformed(struct lq_error *err, const char *what)
{
    return lq_error_set(err, LQ_EFORMAT, "task questions: %s", what);
}

uint64_t lq_questions_head_bytes(size_t batch)
{
    return HEADER_BYTES + ((uint64_t)batch + 2) * sizeof(uint64_t);
}

enum lq_status lq_questions_find(const void *head, uint64_t head_bytes, size_t batch,
                                 uint64_t size_bytes, struct lq_questions_batch *out,
                                 struct lq_error *err)
{
    struct lq_reader reader;
    lq_reader_init(&reader, head, head_bytes);
    uint32_t magic = lq_read_u32(&reader);
    uint32_t batch_count = lq_read_u32(&reader);
    out->vocab_size = lq_read_u32(&reader);
    if (reader.failed || magic != MAGIC || lq_read_u32(&reader) != 0 || batch >= batch_count) {
        return malformed(err, "no such batch");
    }
    lq_read_skip(&reader, batch * sizeof(uint64_t));
    out->begin = lq_read_u64(&reader);
    out->end = lq_read_u64(&reader);
    return reader.failed || out->begin > out->end || out->end > size_bytes
               ? malformed(err, "a batch lies outside of them")
               : LQ_OK;
}

static enum lq_status read_question(struct lq_reader *reader, struct lq_arena *arena,
                                    struct lq_question *out, struct lq_error *err)
{
    out->task = lq_read_u32(reader);
    out->choice = lq_read_u32(reader);
    out->from = lq_read_u32(reader);
    out->to = lq_read_u32(reader);
    out->count = lq_read_u32(reader);
    if (reader->failed || out->task >= LQ_TASKS_MAX || out->choice >= LQ_TASK_CHOICES_MAX ||
        out->count > LQ_SEQUENCE_MAX || out->from == 0 || out->from >= out->to ||
        out->to > out->count || out->count > lq_reader_left(reader) / sizeof(uint32_t)) {
        return malformed(err, "a question is none");
    }
    int32_t *ids = lq_arena_get_array(arena, out->count, sizeof *ids);
    for (size_t i = 0; ids != NULL && i < out->count; i++) {
        ids[i] = lq_read_i32(reader);
    }
    out->ids = ids;
    return ids == NULL ? lq_error_nomem(err, "tasks") : LQ_OK;
}

enum lq_status lq_questions_parse(const void *data, uint64_t size_bytes, struct lq_arena *arena,
                                  struct lq_question **out, size_t *count, struct lq_error *err)
{
    struct lq_reader reader;
    size_t room = (size_t)(size_bytes / QUESTION_BYTES);
    lq_reader_init(&reader, data, size_bytes);
    *count = 0;
    *out = lq_arena_get_array(arena, room + 1, sizeof **out);
    enum lq_status status = *out == NULL ? lq_error_nomem(err, "tasks") : LQ_OK;
    while (status == LQ_OK && lq_reader_left(&reader) > 0) {
        status = read_question(&reader, arena, &(*out)[*count], err);
        *count += status == LQ_OK;
    }
    return status;
}

/* ---- answers ---- */

void lq_answers_format(const struct lq_question *questions, size_t count, struct lq_buffer *out)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t bits = 0;
        memcpy(&bits, &questions[i].score, sizeof bits);
        lq_buffer_append_u32(out, (uint32_t)questions[i].task);
        lq_buffer_append_u32(out, (uint32_t)questions[i].choice);
        lq_buffer_append_u64(out, bits);
    }
}

enum lq_status lq_answers_parse(const void *data, uint64_t size_bytes,
                                const struct lq_task_list *tasks, const size_t *first_choice,
                                double *scores, struct lq_error *err)
{
    struct lq_reader reader;
    lq_reader_init(&reader, data, size_bytes);
    for (uint64_t left = size_bytes / ANSWER_BYTES; left > 0; left--) {
        size_t task = lq_read_u32(&reader);
        size_t choice = lq_read_u32(&reader);
        double score = lq_read_f64(&reader);
        if (task >= tasks->count || choice >= tasks->tasks[task].choice_count || !isfinite(score)) {
            return malformed(err, "an answer to no question");
        }
        double *place = &scores[first_choice[task] + choice];
        if (!isnan(*place)) {
            return malformed(err, "two answers to one question");
        }
        *place = score;
    }
    return lq_reader_left(&reader) != 0 ? malformed(err, "a cut answer") : LQ_OK;
}
