#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/json.h"
#include "engine/base/limits.h"
#include "rules/format/gguf.h"
#include "rules/format/tasks.h"
#include "rules/model/forward_run.h"
#include "rules/model/vocab.h"
#include "rules/quality/accuracy.h"
#include "rules/quality/model_reader.h"
#include "rules/quality/perplexity.h"
#include "rules/quality/probe.h"
#include "rules/quality/questions.h"

enum {
    QUESTIONS_VERSION = 1,
    ANSWERS_VERSION = 1,
    RESULT_VERSION = 2,
    /* Of texts in a batch: about 8192 tokens, which on two threads keep a model of 7 billion
     * weights busy for minutes, and its weights are decoded in seconds. */
    BATCH_BYTES = 32 * 1024,
    SPECIAL_TOKENS = 2, /* that a vocabulary puts around a text, at most */
};

/* ---- results ---- */

void lq_accuracy_make(uint64_t task_count, uint64_t right_count, double chance_pct,
                      struct lq_accuracy *out)
{
    /* The 97.5 % quantile of the normal distribution, squared; Wilson, "Probable Inference, the Law
     * of Succession, and Statistical Inference", 1927. */
    const double z = 1.95996398454 * 1.95996398454;
    double n = (double)task_count;
    double share = (double)right_count / n;
    double middle = (share + z / (2.0 * n)) / (1.0 + z / n);
    double half = sqrt(z / n * (share * (1.0 - share) + z / (4.0 * n))) / (1.0 + z / n);
    *out = (struct lq_accuracy){.task_count = task_count,
                                .right_count = right_count,
                                .accuracy_pct = 100.0 * share,
                                .low_pct = 100.0 * fmax(0.0, middle - half),
                                .high_pct = 100.0 * fmin(1.0, middle + half),
                                .chance_pct = chance_pct};
}

enum lq_status lq_accuracy_parse(const void *data, uint64_t size_bytes, struct lq_accuracy *out,
                                 struct lq_error *err)
{
    static const struct lq_json_scope scope = {"task result", LQ_EFORMAT};
    cJSON *root = NULL;
    int64_t count = 0;
    int64_t right = 0;
    double chance = 0.0;
    enum lq_status status =
        lq_json_parse(data, (size_t)size_bytes, scope.where, scope.status, &root, err);
    if (status == LQ_OK) {
        status = lq_json_get_int(&scope, root, "tasks", 1, LQ_TASKS_MAX, &count, NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_int(&scope, root, "right", 0, count, &right, NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_number(&scope, root, "chance_pct", &chance, NULL, err);
    }
    cJSON_Delete(root);
    if (status == LQ_OK) {
        lq_accuracy_make((uint64_t)count, (uint64_t)right, chance, out);
    }
    return status;
}

/* ---- questions ---- */

static enum lq_status load_tasks(struct lq_run *run, struct lq_task_list *tasks,
                                 struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_run_input_load(run, "tasks", &data, &size_bytes, err);
    return status == LQ_OK ? lq_tasks_parse(data, size_bytes, "tasks",
                                            lq_task_format_of(lq_run_param(run, "format")),
                                            lq_run_arena(run), tasks, err)
                           : status;
}

static enum lq_status load_vocab(struct lq_run *run, struct lq_vocab **vocab, struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size_bytes = 0;
    struct lq_gguf gguf;
    enum lq_status status = lq_run_input_load(run, "vocab", &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_gguf_parse(data, size_bytes, size_bytes, "vocabulary", LQ_EFORMAT,
                               lq_run_arena(run), &gguf, NULL, err);
    }
    return status == LQ_OK ? lq_vocab_load(vocab, &gguf, "vocabulary", err) : status;
}

static size_t size_param(const struct lq_run *run, const char *name)
{
    return (size_t)strtoul(lq_run_param(run, name), NULL, 10);
}

static bool is_cancelled(const void *user)
{
    return lq_run_cancelled(user);
}

static enum lq_status run_questions(struct lq_run *run, struct lq_error *err)
{
    struct lq_task_list tasks;
    struct lq_vocab *vocab = NULL;
    struct lq_buffer out;
    lq_buffer_init(&out);
    enum lq_status status = load_tasks(run, &tasks, err);
    if (status == LQ_OK) {
        status = load_vocab(run, &vocab, err);
    }
    if (status == LQ_OK) {
        const struct lq_questions_request request = {.tasks = &tasks,
                                                     .vocab = vocab,
                                                     .context = size_param(run, "context"),
                                                     .batch_count = size_param(run, "batches"),
                                                     .cancelled = is_cancelled,
                                                     .cancelled_user = run};
        status = lq_questions_format(&request, &out, err);
    }
    if (status == LQ_OK) {
        status = lq_run_write(run, "main", out.data, out.size_bytes, err);
    }
    lq_vocab_destroy(vocab);
    lq_buffer_fini(&out);
    return status;
}

/* ---- answers ---- */

/* A model before a batch of questions. */
struct exam {
    struct lq_run *run;
    struct lq_model_reader reader;
    struct lq_forward_run forward_run;
    struct lq_question *questions;
    size_t count;
    size_t vocab_size; /* of who asks */
};

/* Bytes [begin, end) of the questions, in the run's arena. */
static enum lq_status read_part(struct lq_run *run, uint64_t begin, uint64_t end, void **data,
                                struct lq_error *err)
{
    *data = lq_arena_get(lq_run_arena(run), (size_t)(end - begin) + 1);
    return *data == NULL
               ? lq_error_nomem(err, "tasks")
               : lq_run_input_read(run, "questions", begin, *data, (size_t)(end - begin), err);
}

static enum lq_status read_questions(struct exam *exam, struct lq_error *err)
{
    size_t number = size_param(exam->run, "batch");
    uint64_t size_bytes = lq_run_input_size(exam->run, "questions");
    uint64_t head_bytes = lq_questions_head_bytes(number);
    struct lq_questions_batch batch;
    void *data = NULL;
    head_bytes = head_bytes < size_bytes ? head_bytes : size_bytes;
    enum lq_status status = read_part(exam->run, 0, head_bytes, &data, err);
    if (status == LQ_OK) {
        status = lq_questions_find(data, head_bytes, number, size_bytes, &batch, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    exam->vocab_size = batch.vocab_size;
    status = read_part(exam->run, batch.begin, batch.end, &data, err);
    return status == LQ_OK
               ? lq_questions_parse(data, batch.end - batch.begin, lq_run_arena(exam->run),
                                    &exam->questions, &exam->count, err)
               : status;
}

static enum lq_status check_questions(const struct exam *exam, struct lq_error *err)
{
    const struct lq_hparams *hparams = &exam->reader.hparams;
    if (hparams->vocab_size < exam->vocab_size) {
        return lq_error_set(
            err, LQ_EFORMAT,
            "the model has %u tokens in its vocabulary and the original's tokenizer "
            "%zu: it cannot read the tasks",
            (unsigned)hparams->vocab_size, exam->vocab_size);
    }
    for (size_t i = 0; i < exam->count; i++) {
        const struct lq_question *one = &exam->questions[i];
        if (one->count > hparams->context_length) {
            return lq_error_set(err, LQ_EFORMAT,
                                "task %zu has %zu tokens with choice %zu, and the model's context "
                                "is %u",
                                one->task + 1, one->count, one->choice + 1,
                                (unsigned)hparams->context_length);
        }
        for (size_t k = 0; k < one->count; k++) {
            if (one->ids[k] < 0 || (uint32_t)one->ids[k] >= hparams->vocab_size) {
                return lq_error_set(err, LQ_EFORMAT,
                                    "task %zu has token %d with choice %zu, and the model's "
                                    "vocabulary %u",
                                    one->task + 1, (int)one->ids[k], one->choice + 1,
                                    (unsigned)hparams->vocab_size);
            }
        }
    }
    return LQ_OK;
}

struct group {
    int32_t *tokens;
    struct lq_probe *probes;
    struct lq_probe_result *results;
    size_t probe_count;
};

static enum lq_status fill_group(const struct exam *exam, size_t first, size_t count, size_t length,
                                 struct group *group, struct lq_error *err)
{
    size_t total = 0;
    for (size_t i = 0; i < count; i++) {
        const struct lq_question *one = &exam->questions[first + i];
        total += one->to - one->from;
    }
    group->tokens = calloc(count * length, sizeof *group->tokens);
    group->probes = calloc(total, sizeof *group->probes);
    group->results = calloc(total, sizeof *group->results);
    if (group->tokens == NULL || group->probes == NULL || group->results == NULL) {
        return lq_error_nomem(err, "tasks");
    }
    for (size_t i = 0; i < count; i++) {
        const struct lq_question *one = &exam->questions[first + i];
        memcpy(group->tokens + i * length, one->ids, one->count * sizeof *one->ids);
        for (size_t k = one->from; k < one->to; k++) {
            group->probes[group->probe_count++] =
                (struct lq_probe){i, (uint32_t)k - 1, one->ids[k]};
        }
    }
    return LQ_OK;
}

/* Questions [first, first + count), all padded to `length`. */
static enum lq_status run_group(struct exam *exam, size_t first, size_t count, size_t length,
                                struct lq_error *err)
{
    struct group group = {.tokens = NULL};
    struct lq_forward *forward = NULL;
    struct lq_forward_env env =
        lq_forward_run_env(&exam->forward_run, lq_model_reader_weights(&exam->reader), LQ_EFAIL);
    env.only_products = true;
    enum lq_status status = fill_group(exam, first, count, length, &group, err);
    if (status == LQ_OK) {
        status = lq_forward_create(&forward, &exam->reader.hparams, &env, (uint32_t)length, err);
    }
    if (status == LQ_OK) {
        status = lq_probe_run(forward, &exam->reader.hparams, lq_run_pool(exam->run), group.tokens,
                              count, (uint32_t)length, group.probes, group.probe_count,
                              group.results, err);
    }
    size_t probe = 0;
    for (size_t i = 0; status == LQ_OK && i < count; i++) {
        struct lq_question *one = &exam->questions[first + i];
        double sum = 0.0;
        for (size_t k = one->from; k < one->to; k++) {
            sum += group.results[probe++].log_prob;
        }
        one->score = sum / (double)(one->to - one->from);
    }
    lq_forward_destroy(forward);
    free(group.tokens);
    free(group.probes);
    free(group.results);
    return status;
}

static enum lq_status run_groups(struct exam *exam, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    for (size_t first = 0; status == LQ_OK && first < exam->count;) {
        size_t length = lq_question_length(&exam->questions[first]);
        size_t count = 1;
        while (first + count < exam->count &&
               lq_question_length(&exam->questions[first + count]) == length) {
            count++;
        }
        status = run_group(exam, first, count, length, err);
        first += count;
        lq_run_progress(exam->run, first, exam->count, "choices");
    }
    return status;
}

static enum lq_status run_answers(struct lq_run *run, struct lq_error *err)
{
    struct exam exam = {.run = run};
    struct lq_buffer out;
    lq_buffer_init(&out);
    enum lq_status status = read_questions(&exam, err);
    if (status == LQ_OK) {
        status = lq_model_reader_open(&exam.reader, run, "", err);
    }
    if (status == LQ_OK) {
        status = check_questions(&exam, err);
    }
    if (status == LQ_OK) {
        status = lq_forward_run_open(&exam.forward_run, run, err);
    }
    if (status == LQ_OK) {
        status = run_groups(&exam, err);
    }
    if (status == LQ_OK) {
        lq_answers_format(exam.questions, exam.count, &out);
        status = out.failed ? lq_error_nomem(err, "task results")
                            : lq_run_write(run, "main", out.data, out.size_bytes, err);
    }
    lq_forward_run_close(&exam.forward_run);
    lq_model_reader_close(&exam.reader);
    lq_buffer_fini(&out);
    return status;
}

/* ---- the result ---- */

/* Scores of all choices, one task's behind the other's. */
struct marks {
    struct lq_task_list tasks;
    size_t *first_choice; /* of each task, and their number */
    double *scores;
};

static enum lq_status load_marks(struct lq_run *run, struct marks *marks, struct lq_error *err)
{
    struct lq_arena *arena = lq_run_arena(run);
    enum lq_status status = load_tasks(run, &marks->tasks, err);
    if (status != LQ_OK) {
        return status;
    }
    size_t count = 0;
    marks->first_choice =
        lq_arena_get_array(arena, marks->tasks.count + 1, sizeof *marks->first_choice);
    for (size_t t = 0; marks->first_choice != NULL && t < marks->tasks.count; t++) {
        marks->first_choice[t] = count;
        count += marks->tasks.tasks[t].choice_count;
    }
    marks->scores = lq_arena_get_array(arena, count + 1, sizeof *marks->scores);
    if (marks->first_choice == NULL || marks->scores == NULL) {
        return lq_error_nomem(err, "tasks");
    }
    marks->first_choice[marks->tasks.count] = count;
    for (size_t i = 0; i < count; i++) {
        marks->scores[i] = (double)NAN;
    }
    for (size_t b = 0; status == LQ_OK && b < size_param(run, "batches"); b++) {
        char name[40];
        const void *data = NULL;
        uint64_t size_bytes = 0;
        (void)snprintf(name, sizeof name, "answers.%zu", b);
        status = lq_run_input_load(run, name, &data, &size_bytes, err);
        if (status == LQ_OK) {
            status = lq_answers_parse(data, size_bytes, &marks->tasks, marks->first_choice,
                                      marks->scores, err);
        }
    }
    for (size_t i = 0; status == LQ_OK && i < count; i++) {
        if (isnan(marks->scores[i])) {
            status = lq_error_set(err, LQ_EFORMAT, "a question of the tasks was not answered");
        }
    }
    return status;
}

static void format_result(const struct marks *marks, struct lq_buffer *out)
{
    struct lq_json_writer writer;
    size_t right = 0;
    double chance = 0.0;
    for (size_t t = 0; t < marks->tasks.count; t++) {
        const struct lq_task *task = &marks->tasks.tasks[t];
        const double *scores = marks->scores + marks->first_choice[t];
        size_t best = 0;
        size_t right_choices = 0;
        for (size_t i = 0; i < task->choice_count; i++) {
            best = scores[i] > scores[best] ? i : best;
            right_choices += task->is_right[i];
        }
        right += task->is_right[best];
        chance += (double)right_choices / (double)task->choice_count;
    }
    lq_json_writer_init(&writer, out, false);
    lq_json_begin_object(&writer);
    lq_json_put_int(&writer, "tasks", (int64_t)marks->tasks.count);
    lq_json_put_int(&writer, "right", (int64_t)right);
    lq_json_put_number(&writer, "chance_pct", 100.0 * chance / (double)marks->tasks.count);
    lq_json_key(&writer, "scores");
    lq_json_begin_array(&writer);
    for (size_t i = 0; i < marks->first_choice[marks->tasks.count]; i++) {
        lq_json_number(&writer, marks->scores[i]);
    }
    lq_json_end_array(&writer);
    lq_json_end_object(&writer);
}

static enum lq_status run_result(struct lq_run *run, struct lq_error *err)
{
    struct marks marks;
    struct lq_buffer out;
    lq_buffer_init(&out);
    enum lq_status status = load_marks(run, &marks, err);
    if (status == LQ_OK) {
        format_result(&marks, &out);
        status = out.failed ? lq_error_nomem(err, "task results")
                            : lq_run_write(run, "main", out.data, out.size_bytes, err);
    }
    lq_buffer_fini(&out);
    return status;
}

/* ---- expansion ---- */

static const struct lq_step_output main_output[] = {{"main", false}};

/* Every text of every choice. */
static enum lq_status measure_texts(struct lq_expand *expand, const struct lq_artifact *tasks,
                                    uint64_t *all_bytes, size_t *longest_bytes,
                                    struct lq_error *err)
{
    struct lq_ref file = lq_ref_artifact(tasks, "main");
    struct lq_task_list list = {0};
    struct lq_arena arena;
    const void *data = NULL;
    uint64_t size_bytes = 0;
    lq_arena_init(&arena);
    *all_bytes = 0;
    *longest_bytes = 0;
    enum lq_status status = lq_expand_read(expand, &file, &data, &size_bytes, err);
    if (status == LQ_OK) {
        status =
            lq_tasks_parse(data, size_bytes, lq_artifact_name(tasks),
                           lq_task_format_of(lq_attr_string(tasks, "format")), &arena, &list, err);
    }
    for (size_t t = 0; status == LQ_OK && t < list.count; t++) {
        for (size_t i = 0; i < list.tasks[t].choice_count; i++) {
            size_t length = strlen(list.tasks[t].texts[i]);
            *all_bytes += length;
            *longest_bytes = length > *longest_bytes ? length : *longest_bytes;
        }
    }
    lq_arena_fini(&arena);
    return status;
}

/* A token is a byte at least. */
static uint32_t guess_sequence(size_t longest_bytes, uint32_t context)
{
    size_t tokens = longest_bytes + SPECIAL_TOKENS;
    return tokens < context ? (uint32_t)tokens : context;
}

enum lq_status lq_accuracy_add_questions(struct lq_expand *expand,
                                         const struct lq_artifact *original,
                                         const struct lq_artifact *tasks,
                                         struct lq_accuracy_request *out, struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expand);
    uint64_t all_bytes = 0;
    size_t longest_bytes = 0;
    *out = (struct lq_accuracy_request){.original = original, .tasks = tasks};
    enum lq_status status = lq_perplexity_hparams(expand, original, &out->hparams, err);
    if (status == LQ_OK) {
        status = measure_texts(expand, tasks, &all_bytes, &longest_bytes, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    out->batch_count = 1 + (size_t)(all_bytes / BATCH_BYTES);
    out->sequence = guess_sequence(longest_bytes, out->hparams.context_length);
    out->batches_text = lq_arena_printf(arena, "%zu", out->batch_count);
    const char *context = lq_arena_printf(arena, "%u", (unsigned)out->hparams.context_length);
    if (out->batches_text == NULL || context == NULL) {
        return lq_error_nomem(err, "tasks");
    }
    const struct lq_step_param params[] = {{"format", lq_attr_string(tasks, "format")},
                                           {"context", context},
                                           {"batches", out->batches_text}};
    const struct lq_step_input inputs[] = {{"tasks", lq_ref_artifact(tasks, "main")},
                                           {"vocab", lq_ref_artifact(original, "vocab")}};
    const struct lq_step step = {.op = "quality.questions",
                                 .version = QUESTIONS_VERSION,
                                 .label = lq_artifact_name(tasks),
                                 .run = run_questions,
                                 .params = params,
                                 .param_count = LQ_COUNT_OF(params),
                                 .inputs = inputs,
                                 .input_count = LQ_COUNT_OF(inputs),
                                 .outputs = main_output,
                                 .output_count = LQ_COUNT_OF(main_output),
                                 .memory_bytes = ((uint64_t)64 << 20) + 4 * all_bytes,
                                 .cost = 100000};
    return lq_expand_add_step(expand, &step, &out->questions, err);
}

/* A model's answers to one batch. `inputs` has the model and room for two more. */
static enum lq_status add_answers(struct lq_expand *expand,
                                  const struct lq_accuracy_request *request,
                                  const struct lq_artifact *model, struct lq_model_inputs inputs,
                                  size_t batch, size_t *step, struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expand);
    const char *number = lq_arena_printf(arena, "%zu", batch);
    const char *label = lq_arena_printf(arena, "%s/%s.%zu", lq_artifact_name(model),
                                        lq_artifact_name(request->tasks), batch);
    if (number == NULL || label == NULL) {
        return lq_error_nomem(err, "tasks");
    }
    lq_model_inputs_set(&inputs, "batch", number);
    lq_model_inputs_put(&inputs, "questions", lq_ref_step(request->questions, "main"));
    const struct lq_step added = {.op = "quality.answers",
                                  .version = ANSWERS_VERSION,
                                  .label = label,
                                  .run = run_answers,
                                  .params = inputs.params,
                                  .param_count = inputs.param_count,
                                  .inputs = inputs.inputs,
                                  .input_count = inputs.input_count,
                                  .outputs = main_output,
                                  .output_count = LQ_COUNT_OF(main_output),
                                  .parallel = true,
                                  .memory_bytes =
                                      lq_forward_memory(&request->hparams, request->sequence, true),
                                  .cost = 1000000};
    return lq_expand_add_step(expand, &added, step, err);
}

enum lq_status lq_accuracy_add_step(struct lq_expand *expand,
                                    const struct lq_accuracy_request *request,
                                    const struct lq_artifact *model, size_t *step,
                                    struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expand);
    struct lq_model_inputs inputs;
    enum lq_status status = lq_model_inputs_init(&inputs, expand, &model, 1, 2, err);
    if (status == LQ_OK) {
        status = lq_model_inputs_add(&inputs, expand, model, "", err);
    }
    struct lq_step_input *results =
        lq_arena_get_array(arena, request->batch_count + 1, sizeof *results);
    if (status == LQ_OK && results == NULL) {
        status = lq_error_nomem(err, "tasks");
    }
    for (size_t b = 0; status == LQ_OK && b < request->batch_count; b++) {
        size_t answers = 0;
        const char *name = lq_arena_printf(arena, "answers.%zu", b);
        status = name == NULL ? lq_error_nomem(err, "tasks")
                              : add_answers(expand, request, model, inputs, b, &answers, err);
        if (status == LQ_OK) {
            results[b] = (struct lq_step_input){name, lq_ref_step(answers, "main")};
        }
    }
    if (status != LQ_OK) {
        return status;
    }
    results[request->batch_count] =
        (struct lq_step_input){"tasks", lq_ref_artifact(request->tasks, "main")};
    const struct lq_step_param params[] = {{"format", lq_attr_string(request->tasks, "format")},
                                           {"batches", request->batches_text}};
    const struct lq_step added = {.op = "quality.tasks",
                                  .version = RESULT_VERSION,
                                  .label = lq_artifact_name(model),
                                  .run = run_result,
                                  .params = params,
                                  .param_count = LQ_COUNT_OF(params),
                                  .inputs = results,
                                  .input_count = request->batch_count + 1,
                                  .outputs = main_output,
                                  .output_count = LQ_COUNT_OF(main_output),
                                  .memory_bytes = (uint64_t)64 << 20,
                                  .cost = 10000};
    return lq_expand_add_step(expand, &added, step, err);
}
