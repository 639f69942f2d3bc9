#include <math.h>
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

enum {
    STEP_VERSION = 1,
    LENGTH_STEP = 32, /* sequences are padded to a multiple of this */
    TRAILING_MIN = 3, /* of llama-perplexity --winogrande */
    GUESS_SEQUENCE = 512,
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

/* ---- sequences ---- */

/* One choice of one task. Tokens [from, to) are scored. */
struct sequence {
    struct lq_token_list list;
    size_t task;
    size_t choice;
    size_t from;
    size_t to;
    double score; /* mean log-probability */
};

struct exam {
    struct lq_run *run;
    struct lq_task_list tasks;
    struct lq_vocab *vocab;
    struct lq_model_reader reader;
    struct lq_forward_run forward_run;
    struct sequence *sequences; /* in the order of tasks */
    size_t count;
    size_t *order; /* by padded length */
};

static void free_exam(struct exam *exam)
{
    for (size_t i = 0; exam->sequences != NULL && i < exam->count; i++) {
        lq_token_list_fini(&exam->sequences[i].list);
    }
    free(exam->sequences);
    free(exam->order);
    lq_forward_run_close(&exam->forward_run);
    lq_model_reader_close(&exam->reader);
    lq_vocab_destroy(exam->vocab);
}

static enum lq_status load_exam(struct exam *exam, struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size_bytes = 0;
    struct lq_gguf gguf;
    struct lq_arena *arena = lq_run_arena(exam->run);
    enum lq_status status = lq_run_input_load(exam->run, "tasks", &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_tasks_parse(data, size_bytes, "tasks",
                                lq_task_format_of(lq_run_param(exam->run, "format")), arena,
                                &exam->tasks, err);
    }
    if (status == LQ_OK) {
        status = lq_run_input_load(exam->run, "vocab", &data, &size_bytes, err);
    }
    if (status == LQ_OK) {
        status = lq_gguf_parse(data, size_bytes, size_bytes, "vocabulary", LQ_EFORMAT, arena, &gguf,
                               NULL, err);
    }
    return status == LQ_OK ? lq_vocab_load(&exam->vocab, &gguf, "vocabulary", err) : status;
}

static size_t common_prefix(const struct sequence *first, size_t count)
{
    size_t prefix = 0;
    for (;; prefix++) {
        for (size_t i = 0; i < count; i++) {
            if (prefix >= first[i].list.count ||
                first[i].list.ids[prefix] != first[0].list.ids[prefix]) {
                return prefix;
            }
        }
    }
}

static enum lq_status count_tokens(const struct exam *exam, const char *text, size_t *count,
                                   struct lq_error *err)
{
    struct lq_token_list list;
    lq_token_list_init(&list);
    enum lq_status status = lq_tokenize(exam->vocab, text, strlen(text), true, false, &list, err);
    *count = list.count;
    lq_token_list_fini(&list);
    return status;
}

/* Where scoring starts and ends; `first` is the first of the task's sequences. */
static enum lq_status set_range(const struct exam *exam, const struct lq_task *task,
                                struct sequence *first, struct lq_error *err)
{
    size_t prefix = common_prefix(first, task->choice_count);
    bool skip = task->beginnings != NULL;
    for (size_t i = 0; i < task->choice_count; i++) {
        skip = skip && first[i].list.count - prefix > TRAILING_MIN;
    }
    for (size_t i = 0; i < task->choice_count; i++) {
        struct sequence *one = &first[i];
        size_t context = exam->reader.hparams.context_length;
        one->from = prefix;
        one->to = one->list.count;
        enum lq_status status =
            skip ? count_tokens(exam, task->beginnings[i], &one->from, err) : LQ_OK;
        if (status != LQ_OK) {
            return status;
        }
        one->from = one->from == 0 ? 1 : one->from;
        if (task->beginnings != NULL && one->to > one->from + 1) {
            one->to--;
        }
        if (one->to <= one->from) {
            return lq_error_set(err, LQ_EFORMAT,
                                "task %zu: choice %zu has no token of its own to score; choices "
                                "must differ, and none may begin another",
                                one->task + 1, i + 1);
        }
        if (one->list.count > context) {
            return lq_error_set(err, LQ_EFORMAT,
                                "task %zu has %zu tokens with choice %zu, and the model's context "
                                "is %zu",
                                one->task + 1, one->list.count, i + 1, context);
        }
    }
    return LQ_OK;
}

static enum lq_status make_sequences(struct exam *exam, struct lq_error *err)
{
    size_t count = 0;
    for (size_t t = 0; t < exam->tasks.count; t++) {
        count += exam->tasks.tasks[t].choice_count;
    }
    exam->sequences = calloc(count + 1, sizeof *exam->sequences);
    exam->order = calloc(count + 1, sizeof *exam->order);
    if (exam->sequences == NULL || exam->order == NULL) {
        return lq_error_nomem(err, "tasks");
    }
    for (size_t t = 0; t < exam->tasks.count; t++) {
        const struct lq_task *task = &exam->tasks.tasks[t];
        struct sequence *first = &exam->sequences[exam->count];
        if (lq_run_cancelled(exam->run)) {
            return lq_error_set(err, LQ_ECANCELLED, "cancelled");
        }
        for (size_t i = 0; i < task->choice_count; i++) {
            struct sequence *one = &exam->sequences[exam->count++];
            one->task = t;
            one->choice = i;
            enum lq_status status = lq_tokenize(exam->vocab, task->texts[i], strlen(task->texts[i]),
                                                true, false, &one->list, err);
            if (status != LQ_OK) {
                return status;
            }
        }
        enum lq_status status = set_range(exam, task, first, err);
        if (status != LQ_OK) {
            return status;
        }
    }
    return LQ_OK;
}

static size_t padded(const struct sequence *sequence)
{
    return (sequence->list.count + LENGTH_STEP - 1) / LENGTH_STEP * LENGTH_STEP;
}

/* A counting order: every length from the shortest on, sequences as they are. */
static void sort_sequences(struct exam *exam)
{
    size_t longest = 0;
    size_t used = 0;
    for (size_t i = 0; i < exam->count; i++) {
        size_t length = padded(&exam->sequences[i]);
        longest = length > longest ? length : longest;
    }
    for (size_t length = LENGTH_STEP; length <= longest; length += LENGTH_STEP) {
        for (size_t i = 0; i < exam->count; i++) {
            if (padded(&exam->sequences[i]) == length) {
                exam->order[used++] = i;
            }
        }
    }
}

/* ---- running ---- */

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
        const struct sequence *one = &exam->sequences[exam->order[first + i]];
        total += one->to - one->from;
    }
    group->tokens = calloc(count * length, sizeof *group->tokens);
    group->probes = calloc(total, sizeof *group->probes);
    group->results = calloc(total, sizeof *group->results);
    if (group->tokens == NULL || group->probes == NULL || group->results == NULL) {
        return lq_error_nomem(err, "tasks");
    }
    for (size_t i = 0; i < count; i++) {
        const struct sequence *one = &exam->sequences[exam->order[first + i]];
        memcpy(group->tokens + i * length, one->list.ids, one->list.count * sizeof *one->list.ids);
        for (size_t k = one->from; k < one->to; k++) {
            group->probes[group->probe_count++] =
                (struct lq_probe){i, (uint32_t)k - 1, one->list.ids[k]};
        }
    }
    return LQ_OK;
}

/* Sequences order[first, first + count), all padded to `length`. */
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
        struct sequence *one = &exam->sequences[exam->order[first + i]];
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
    sort_sequences(exam);
    for (size_t first = 0; status == LQ_OK && first < exam->count;) {
        size_t length = padded(&exam->sequences[exam->order[first]]);
        size_t count = 1;
        while (first + count < exam->count &&
               padded(&exam->sequences[exam->order[first + count]]) == length) {
            count++;
        }
        status = run_group(exam, first, count, length, err);
        first += count;
        lq_run_progress(exam->run, first, exam->count, "choices");
    }
    return status;
}

static enum lq_status check_vocab(const struct exam *exam, struct lq_error *err)
{
    size_t size = lq_vocab_size(exam->vocab);
    if (exam->reader.hparams.vocab_size < size) {
        return lq_error_set(
            err, LQ_EFORMAT,
            "the model has %u tokens in its vocabulary and the original's tokenizer "
            "%zu: it cannot read the tasks",
            (unsigned)exam->reader.hparams.vocab_size, size);
    }
    return LQ_OK;
}

static void format_result(const struct exam *exam, struct lq_buffer *out)
{
    struct lq_json_writer writer;
    size_t right = 0;
    double chance = 0.0;
    const struct sequence *one = exam->sequences;
    for (size_t t = 0; t < exam->tasks.count; t++) {
        const struct lq_task *task = &exam->tasks.tasks[t];
        size_t best = 0;
        size_t right_choices = 0;
        for (size_t i = 0; i < task->choice_count; i++) {
            best = one[i].score > one[best].score ? i : best;
            right_choices += task->is_right[i];
        }
        right += task->is_right[best];
        chance += (double)right_choices / (double)task->choice_count;
        one += task->choice_count;
    }
    lq_json_writer_init(&writer, out, false);
    lq_json_begin_object(&writer);
    lq_json_put_int(&writer, "tasks", (int64_t)exam->tasks.count);
    lq_json_put_int(&writer, "right", (int64_t)right);
    lq_json_put_number(&writer, "chance_pct", 100.0 * chance / (double)exam->tasks.count);
    lq_json_key(&writer, "scores");
    lq_json_begin_array(&writer);
    for (size_t i = 0; i < exam->count; i++) {
        lq_json_number(&writer, exam->sequences[i].score);
    }
    lq_json_end_array(&writer);
    lq_json_end_object(&writer);
}

static enum lq_status run_tasks(struct lq_run *run, struct lq_error *err)
{
    struct exam exam = {.run = run};
    struct lq_buffer out;
    lq_buffer_init(&out);
    enum lq_status status = load_exam(&exam, err);
    if (status == LQ_OK) {
        status = lq_model_reader_open(&exam.reader, run, "", err);
    }
    if (status == LQ_OK) {
        status = check_vocab(&exam, err);
    }
    if (status == LQ_OK) {
        status = make_sequences(&exam, err);
    }
    if (status == LQ_OK) {
        status = lq_forward_run_open(&exam.forward_run, run, err);
    }
    if (status == LQ_OK) {
        status = run_groups(&exam, err);
    }
    if (status == LQ_OK) {
        format_result(&exam, &out);
        status = out.failed ? lq_error_nomem(err, "task results")
                            : lq_run_write(run, "main", out.data, out.size_bytes, err);
    }
    free_exam(&exam);
    lq_buffer_fini(&out);
    return status;
}

enum lq_status lq_accuracy_add_step(struct lq_expand *expand, const struct lq_artifact *original,
                                    const struct lq_artifact *model,
                                    const struct lq_artifact *tasks, size_t *step,
                                    struct lq_error *err)
{
    static const struct lq_step_output outputs[] = {{"main", false}};
    struct lq_model_inputs inputs;
    struct lq_hparams hparams;
    enum lq_status status = lq_perplexity_hparams(expand, original, &hparams, err);
    if (status == LQ_OK) {
        status = lq_model_inputs_init(&inputs, expand, &model, 1, 2, err);
    }
    if (status == LQ_OK) {
        status = lq_model_inputs_add(&inputs, expand, model, "", err);
    }
    if (status != LQ_OK) {
        return status;
    }
    lq_model_inputs_set(&inputs, "format", lq_attr_string(tasks, "format"));
    lq_model_inputs_put(&inputs, "tasks", lq_ref_artifact(tasks, "main"));
    lq_model_inputs_put(&inputs, "vocab", lq_ref_artifact(original, "vocab"));
    struct lq_step added = {.op = "quality.tasks",
                            .version = STEP_VERSION,
                            .label = lq_artifact_name(model),
                            .run = run_tasks,
                            .params = inputs.params,
                            .param_count = inputs.param_count,
                            .inputs = inputs.inputs,
                            .input_count = inputs.input_count,
                            .outputs = outputs,
                            .output_count = LQ_COUNT_OF(outputs),
                            .parallel = true,
                            .memory_bytes = lq_forward_memory(&hparams, GUESS_SEQUENCE, true),
                            .cost = 1000000};
    return lq_expand_add_step(expand, &added, step, err);
}
