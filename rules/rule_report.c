/* The rule `report`: what quantization cost. One step makes the tokens, one for each layer runs the
 * original and each quantized model, one measures what came out, one compares each quantized
 * model's tensors with the original's, and the last one writes the report and judges it. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "engine/base/fs.h"
#include "engine/base/json.h"
#include "engine/base/limits.h"
#include "rules/format/qreport.h"
#include "rules/model/corpus.h"
#include "rules/quality/accuracy.h"
#include "rules/quality/coherence.h"
#include "rules/quality/evaluate.h"
#include "rules/quality/logits_step.h"
#include "rules/quality/perplexity.h"
#include "rules/quality/tensors_step.h"
#include "rules/registry.h"
#include "rules/report/report_pictures.h"
#include "rules/report/report_text.h"

static const struct lq_attr_spec attrs[] = {
    {.name = "original",
     .type = LQ_ATTR_REF,
     .required = true,
     .choices = "model",
     .help = "the model before quantization"},
    {.name = "quantized",
     .type = LQ_ATTR_REF_LIST,
     .required = true,
     .choices = "gguf model smoothquant gptq awq",
     .help = "one or more models to compare with it"},
    {.name = "text",
     .type = LQ_ATTR_REF,
     .choices = "text",
     .help = "text on which perplexity is measured; required unless logits is given"},
    {.name = "logits",
     .type = LQ_ATTR_REF,
     .choices = "logits",
     .help = "take the text and the original's predictions from this base file"},
    {.name = "context",
     .type = LQ_ATTR_INT,
     .default_text = "0",
     .min = 0,
     .max = LQ_SEQUENCE_MAX,
     .help = "tokens in a chunk; 0 means 512, or the model's maximum if that is smaller"},
    {.name = "chunks",
     .type = LQ_ATTR_INT,
     .default_text = "0",
     .min = 0,
     .max = LQ_SAMPLES_MAX,
     .help = "chunks to measure at most; 0 means all"},
    {.name = "hidden",
     .type = LQ_ATTR_ENUM,
     .default_text = LQ_HIDDEN_DEFAULT,
     .choices = LQ_HIDDEN_CHOICES,
     .help = "type of the hidden states between layers; bf16 halves the space they take while it "
             "runs"},
    {.name = "fail_above",
     .type = LQ_ATTR_NUMBER,
     .min = 0,
     .max = 1e9,
     .help = "fail when perplexity grows by more than this ratio, for example 20%"},
    {.name = "warn_above",
     .type = LQ_ATTR_NUMBER,
     .min = 0,
     .max = 1e9,
     .help = "say so when perplexity grows by more than this ratio, and do not fail"},
    {.name = "tasks",
     .type = LQ_ATTR_REF_LIST,
     .choices = "tasks",
     .help = "multiple-choice tasks on which accuracy is measured"},
    {.name = "coherence",
     .type = LQ_ATTR_BOOL,
     .default_text = "false",
     .help = "let the models continue prompts, and the original judge them"},
    {.name = "prompts",
     .type = LQ_ATTR_STRING_LIST,
     .help = "texts to continue; without it some that ship with lqbuild"},
    {.name = "prompts_from",
     .type = LQ_ATTR_REF,
     .choices = "text",
     .help = "take the prompts from a text, one a line; of JSON one a text"},
    {.name = "continuation",
     .type = LQ_ATTR_INT,
     .default_text = "32",
     .min = 1,
     .max = LQ_CONTINUATION_MAX,
     .help = "tokens to write behind each prompt"},
    {.name = "min_coherence",
     .type = LQ_ATTR_NUMBER,
     .default_text = "0.5",
     .min = 0,
     .max = 1,
     .help = "fail when a coherence score is below this"},
    {.name = "layers",
     .type = LQ_ATTR_BOOL,
     .default_text = "true",
     .help = "list the error of every tensor"},
    {.name = "path",
     .type = LQ_ATTR_OUT_PATH,
     .help = "where the report is put: .qreport or .json, .txt, .html, .csv"},
};

static enum lq_status check(const struct lq_artifact *artifact, struct lq_error *err)
{
    size_t count = lq_attr_count(artifact, "quantized");
    if (count == 0 || count > LQ_REPORT_MODELS_MAX) {
        return lq_attr_error(artifact, "quantized", err, LQ_ERECIPE,
                             "a report compares 1 to %d quantized models, got %zu",
                             LQ_REPORT_MODELS_MAX, count);
    }
    bool has_logits = lq_attr_count(artifact, "logits") != 0;
    if (has_logits == (lq_attr_count(artifact, "text") != 0)) {
        return lq_attr_error(artifact, has_logits ? "logits" : NULL, err, LQ_ERECIPE,
                             "a report needs either 'text' or 'logits'");
    }
    if (has_logits && (lq_attr_is_set(artifact, "context") || lq_attr_is_set(artifact, "chunks"))) {
        return lq_attr_error(artifact, "logits", err, LQ_ERECIPE,
                             "the file behind 'logits' says what 'context' and 'chunks' are; leave "
                             "them out");
    }
    static const char *const needs_coherence[] = {"prompts", "prompts_from", "continuation",
                                                  "min_coherence"};
    for (size_t i = 0; i < LQ_COUNT_OF(needs_coherence); i++) {
        if (lq_attr_is_set(artifact, needs_coherence[i]) && !lq_attr_bool(artifact, "coherence")) {
            return lq_attr_error(artifact, needs_coherence[i], err, LQ_ERECIPE,
                                 "'%s' needs 'coherence = true'", needs_coherence[i]);
        }
    }
    if (lq_attr_is_set(artifact, "prompts") && lq_attr_is_set(artifact, "prompts_from")) {
        return lq_attr_error(artifact, "prompts_from", err, LQ_ERECIPE,
                             "a report takes prompts from 'prompts' or from 'prompts_from', not "
                             "both");
    }
    if (lq_attr_count(artifact, "tasks") > LQ_REPORT_TASK_FILES_MAX) {
        return lq_attr_error(artifact, "tasks", err, LQ_ERECIPE,
                             "a report takes up to %d sets of tasks, got %zu",
                             LQ_REPORT_TASK_FILES_MAX, lq_attr_count(artifact, "tasks"));
    }
    size_t prompts = lq_attr_count(artifact, "prompts");
    if (prompts > LQ_PROMPTS_MAX || (prompts == 0 && lq_attr_is_set(artifact, "prompts"))) {
        return lq_attr_error(artifact, "prompts", err, LQ_ERECIPE,
                             "expected 1 to %d prompts, got %zu", LQ_PROMPTS_MAX, prompts);
    }
    return LQ_OK;
}

/* ------------------------------------------------------------------- writing ---- */

/* Follows from the parameters of the step. */
struct write_state {
    const char *original;
    const char *const *names;
    size_t count;
    const char *const *task_names;
    size_t task_count;
    double fail_above; /* NaN: no limit */
    double warn_above; /* likewise */
    double min_coherence;
    bool layers;
    enum lq_report_format format;
    struct lq_report_pictures pictures; /* HTML only */
};

static enum lq_status load_perplexity(struct lq_run *run, const char *input,
                                      struct lq_perplexity *out, struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_run_input_load(run, input, &data, &size_bytes, err);
    return status == LQ_OK ? lq_perplexity_parse(data, size_bytes, out, err) : status;
}

static enum lq_status load_evaluation(struct lq_run *run, size_t number, struct lq_evaluation *out,
                                      struct lq_error *err)
{
    char name[40];
    const void *data = NULL;
    uint64_t size_bytes = 0;
    (void)snprintf(name, sizeof name, "evaluation%zu", number);
    enum lq_status status = lq_run_input_load(run, name, &data, &size_bytes, err);
    return status == LQ_OK ? lq_evaluation_parse(data, size_bytes, lq_run_arena(run), out, err)
                           : status;
}

/* Nothing when coherence is not measured. */
static enum lq_status load_coherence(struct lq_run *run, size_t number,
                                     struct lq_qreport_model *model, struct lq_error *err)
{
    char name[40];
    const void *data = NULL;
    uint64_t size_bytes = 0;
    (void)snprintf(name, sizeof name, "coherence%zu", number);
    if (!lq_run_has_input(run, name)) {
        return LQ_OK;
    }
    enum lq_status status = lq_run_input_load(run, name, &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_coherence_parse(data, size_bytes, &model->coherence, err);
    }
    return status;
}

/* "accuracy3.1": the results of model 3, counting from 0, on set 1; those of the original are
 * "accuracy.1". */
static enum lq_status load_tasks(struct lq_run *run, const struct write_state *state,
                                 const char *prefix, struct lq_qreport_task **out, size_t *count,
                                 struct lq_error *err)
{
    *out = lq_arena_get_array(lq_run_arena(run), state->task_count, sizeof **out);
    if (*out == NULL) {
        return lq_error_nomem(err, "a report");
    }
    for (*count = 0; *count < state->task_count; (*count)++) {
        char name[64];
        const void *data = NULL;
        uint64_t size_bytes = 0;
        struct lq_qreport_task *task = &(*out)[*count];
        (void)snprintf(name, sizeof name, "%s.%zu", prefix, *count);
        task->name = state->task_names[*count];
        enum lq_status status = lq_run_input_load(run, name, &data, &size_bytes, err);
        if (status == LQ_OK) {
            status = lq_accuracy_parse(data, size_bytes, &task->accuracy, err);
        }
        if (status != LQ_OK) {
            return status;
        }
    }
    return LQ_OK;
}

static enum lq_status load_model(struct lq_run *run, const struct write_state *state, size_t number,
                                 struct lq_qreport *report, struct lq_error *err)
{
    char name[40];
    const void *data = NULL;
    uint64_t size_bytes = 0;
    struct lq_qreport part;
    struct lq_evaluation evaluation;
    struct lq_qreport_model *model = &report->models[number];
    (void)snprintf(name, sizeof name, "tensors%zu", number);
    enum lq_status status = lq_run_input_load(run, name, &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_qreport_parse(data, size_bytes, name, lq_run_arena(run), &part, err);
    }
    if (status == LQ_OK) {
        status = load_evaluation(run, number, &evaluation, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    *model = part.models[0];
    report->file_size_bytes = part.file_size_bytes;
    model->quantized_path = state->names[number];
    model->perplexity = evaluation.perplexity.ppl;
    model->plus_minus = evaluation.perplexity.plus_minus;
    model->delta_pct = 100.0 * (evaluation.perplexity.ppl / report->perplexity - 1.0);
    model->divergence = evaluation.divergence;
    model->hidden_errors = evaluation.hidden_errors;
    model->hidden_count = evaluation.layer_count;
    (void)snprintf(name, sizeof name, "accuracy%zu", number);
    status = load_tasks(run, state, name, &model->tasks, &model->task_count, err);
    return status == LQ_OK ? load_coherence(run, number, model, err) : status;
}

static enum lq_status load_report(struct lq_run *run, const struct write_state *state,
                                  struct lq_qreport *report, struct lq_error *err)
{
    struct lq_perplexity original;
    *report = (struct lq_qreport){.model_path = state->original, .model_count = state->count};
    report->models = lq_arena_get_array(lq_run_arena(run), state->count, sizeof *report->models);
    if (report->models == NULL) {
        return lq_error_nomem(err, "a report");
    }
    enum lq_status status = load_perplexity(run, "perplexity", &original, err);
    if (status != LQ_OK) {
        return status;
    }
    report->perplexity = original.ppl;
    report->plus_minus = original.plus_minus;
    report->context = original.context;
    report->chunk_count = original.chunks;
    report->token_count = original.tokens;
    status = load_tasks(run, state, "accuracy", &report->tasks, &report->task_count, err);
    for (size_t i = 0; status == LQ_OK && i < state->count; i++) {
        status = load_model(run, state, i, report, err);
    }
    return status;
}

static enum lq_status write_output(struct lq_run *run, const char *output,
                                   const struct lq_buffer *text, struct lq_error *err)
{
    return text->failed ? lq_error_nomem(err, "a report")
                        : lq_run_write(run, output, text->data, text->size_bytes, err);
}

static enum lq_status write_json(struct lq_run *run, const char *output,
                                 const struct lq_qreport *report, struct lq_error *err)
{
    struct lq_buffer out;
    lq_buffer_init(&out);
    enum lq_status status = lq_qreport_format(report, NULL, &out, err);
    if (status == LQ_OK) {
        status = write_output(run, output, &out, err);
    }
    lq_buffer_fini(&out);
    return status;
}

/* What people are shown as too much. */
static double limit_of(const struct write_state *state)
{
    return isnan(state->fail_above) ? state->warn_above : state->fail_above;
}

static enum lq_status write_html(struct lq_run *run, const struct write_state *state,
                                 const struct lq_qreport *report, struct lq_buffer *out,
                                 struct lq_error *err)
{
    struct lq_buffer pictures;
    lq_buffer_init(&pictures);
    enum lq_status status = lq_report_pictures_draw(run, &state->pictures, &pictures, err);
    if (status == LQ_OK && pictures.failed) {
        status = lq_error_nomem(err, "a report");
    }
    if (status == LQ_OK) {
        lq_report_write_html(report, limit_of(state), lq_buffer_text(&pictures), out);
    }
    lq_buffer_fini(&pictures);
    return status;
}

static enum lq_status write_for_people(struct lq_run *run, const char *output,
                                       const struct write_state *state,
                                       const struct lq_qreport *report,
                                       enum lq_report_format format, struct lq_error *err)
{
    struct lq_buffer out;
    enum lq_status status = LQ_OK;
    lq_buffer_init(&out);
    if (format == LQ_REPORT_HTML) {
        status = write_html(run, state, report, &out, err);
    } else if (format == LQ_REPORT_CSV) {
        lq_report_write_csv(report, &out);
    } else {
        lq_report_write_text(report, limit_of(state), &out);
    }
    if (status == LQ_OK) {
        status = write_output(run, output, &out, err);
    }
    lq_buffer_fini(&out);
    return status;
}

static void judge_perplexity(struct lq_run *run, const struct write_state *state,
                             const struct lq_qreport *report)
{
    const struct lq_qreport_model *worst = NULL;
    for (size_t i = 0; i < report->model_count; i++) {
        if (worst == NULL || report->models[i].delta_pct > worst->delta_pct) {
            worst = &report->models[i];
        }
    }
    if (isnan(state->fail_above) || !(worst->delta_pct > 100.0 * state->fail_above)) {
        return;
    }
    lq_run_verdict(run, LQ_EQUALITY,
                   "perplexity degradation (%.4g%%) of '%s' exceeds threshold (%.4g%%); try a less "
                   "aggressive level or profile, an importance matrix, or protect = MASK",
                   worst->delta_pct, worst->quantized_path, 100.0 * state->fail_above);
}

static void judge_coherence(struct lq_run *run, const struct write_state *state,
                            const struct lq_qreport *report)
{
    const struct lq_qreport_model *worst = NULL;
    for (size_t i = 0; i < report->model_count; i++) {
        const struct lq_qreport_model *model = &report->models[i];
        if (model->coherence.score < state->min_coherence &&
            (worst == NULL || model->coherence.score < worst->coherence.score)) {
            worst = model;
        }
    }
    if (worst != NULL) {
        lq_run_verdict(
            run, LQ_ECOHERENCE,
            "output coherence check of '%s' failed (score %.3g, expected at least %.3g); "
            "the quantization may be too aggressive: try a level with more bits, an "
            "importance matrix, or a dynamic profile",
            worst->quantized_path, worst->coherence.score, state->min_coherence);
    }
}

static enum lq_status run_write(struct lq_run *run, struct lq_error *err)
{
    const struct write_state *state = lq_run_state(run);
    struct lq_qreport report;
    enum lq_status status = load_report(run, state, &report, err);
    if (status == LQ_OK) {
        status = write_for_people(run, "summary", state, &report, LQ_REPORT_TEXT, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    for (size_t i = 0; !state->layers && i < report.model_count; i++) {
        report.models[i].layer_count = 0;
    }
    status = write_json(run, "qreport", &report, err);
    if (status == LQ_OK && state->format == LQ_REPORT_JSON) {
        status = write_json(run, "main", &report, err);
    } else if (status == LQ_OK) {
        status = write_for_people(run, "main", state, &report, state->format, err);
    }
    if (status == LQ_OK) {
        judge_coherence(run, state, &report);
        judge_perplexity(run, state, &report);
    }
    return status;
}

/* -------------------------------------------------------------------- expand ---- */

struct report_plan {
    struct lq_expand *expand;
    const struct lq_artifact *artifact;
    const struct lq_artifact *original;
    struct lq_arena *arena;
    struct lq_hparams hparams;
    struct lq_pass_options options;
    const struct lq_artifact *logits; /* NULL: none */
    bool has_coherence;
    struct lq_coherence_plan coherence;
    struct lq_accuracy_request *tasks; /* state->task_count */
    size_t continued;                  /* step in which the original continues the prompts */
    struct lq_step_input *inputs;      /* of the last step */
    size_t input_count;
    struct write_state *state;
};

static enum lq_status add_tokens(struct report_plan *plan, struct lq_error *err)
{
    if (lq_attr_count(plan->artifact, "logits") != 0) {
        size_t step = 0;
        plan->logits = lq_attr_ref(plan->artifact, "logits", 0);
        enum lq_status status =
            lq_logits_add_tokens_step(plan->expand, plan->original, plan->logits, &step, err);
        plan->options.tokens = lq_ref_step(step, "main");
        plan->options.sequence = (uint32_t)lq_attr_int(plan->logits, "context");
        return status;
    }
    const struct lq_artifact *text = lq_attr_ref(plan->artifact, "text", 0);
    uint32_t context = lq_perplexity_context(plan->hparams.context_length,
                                             (uint32_t)lq_attr_int(plan->artifact, "context"));
    if (context < 4) {
        return lq_attr_error(plan->artifact, "context", err, LQ_ERECIPE,
                             "context is %" PRIu32 ", expected at least 4", context);
    }
    int64_t chunks = lq_attr_int(plan->artifact, "chunks");
    if (chunks == 1) {
        return lq_attr_error(plan->artifact, "chunks", err, LQ_ERECIPE,
                             "chunks is 1, expected at least 2, or 0 for all");
    }
    size_t index = 0;
    enum lq_status status;
    if (chunks == 0) {
        status =
            lq_corpus_add_chunks_step(plan->expand, plan->original, text, context, &index, err);
    } else {
        struct lq_corpus_cut cut = {
            .sequence = context, .samples = (uint32_t)chunks, .at_most = true};
        status = lq_corpus_add_cut_step(plan->expand, "text.chunks", plan->original, text, &cut,
                                        &index, err);
    }
    plan->options.tokens = lq_ref_step(index, "main");
    plan->options.sequence = context;
    return status;
}

static void add_input(struct report_plan *plan, const char *name, size_t step)
{
    plan->inputs[plan->input_count++] = (struct lq_step_input){name, lq_ref_step(step, "main")};
}

static enum lq_status add_coherence(struct report_plan *plan, size_t number,
                                    const struct lq_artifact *model, struct lq_error *err)
{
    const char *name = lq_arena_printf(plan->arena, "coherence%zu", number);
    size_t step = 0;
    if (name == NULL) {
        return lq_error_nomem(err, "a report");
    }
    enum lq_status status =
        lq_coherence_add_step(plan->expand, &plan->coherence, model, &step, err);
    if (status == LQ_OK) {
        add_input(plan, name, step);
    }
    return status;
}

static enum lq_status add_prompts(struct report_plan *plan, struct lq_error *err)
{
    size_t count = lq_attr_count(plan->artifact, "prompts");
    const char **prompts = lq_arena_get_array(plan->arena, count + 1, sizeof *prompts);
    if (prompts == NULL) {
        return lq_error_nomem(err, "prompts");
    }
    for (size_t i = 0; i < count; i++) {
        prompts[i] = lq_attr_item(plan->artifact, "prompts", i);
    }
    const struct lq_coherence_request request = {
        .original = plan->original,
        .prompts = count > 0 ? prompts : lq_coherence_prompts,
        .prompt_count = count > 0 ? count : lq_coherence_prompt_count,
        .text = lq_attr_ref(plan->artifact, "prompts_from", 0),
        .length = (uint32_t)lq_attr_int(plan->artifact, "continuation")};
    return lq_coherence_add_reference(plan->expand, &request, &plan->coherence, err);
}

/* `number` SIZE_MAX stands for the original. */
static enum lq_status add_tasks(struct report_plan *plan, size_t number,
                                const struct lq_artifact *model, struct lq_error *err)
{
    for (size_t i = 0; i < plan->state->task_count; i++) {
        const char *name = number == SIZE_MAX
                               ? lq_arena_printf(plan->arena, "accuracy.%zu", i)
                               : lq_arena_printf(plan->arena, "accuracy%zu.%zu", number, i);
        size_t step = 0;
        enum lq_status status =
            name == NULL ? lq_error_nomem(err, "a report")
                         : lq_accuracy_add_step(plan->expand, &plan->tasks[i], model, &step, err);
        if (status != LQ_OK) {
            return status;
        }
        add_input(plan, name, step);
    }
    return LQ_OK;
}

static enum lq_status add_questions(struct report_plan *plan, struct lq_error *err)
{
    size_t count = plan->state->task_count;
    plan->tasks = lq_arena_get_array(plan->arena, count + 1, sizeof *plan->tasks);
    enum lq_status status = plan->tasks == NULL ? lq_error_nomem(err, "a report") : LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < count; i++) {
        status = lq_accuracy_add_questions(plan->expand, plan->original,
                                           lq_attr_ref(plan->artifact, "tasks", i), &plan->tasks[i],
                                           err);
    }
    return status;
}

/* The steps that look at one model. */
static enum lq_status add_model(struct report_plan *plan, size_t number,
                                const struct lq_pass *original, struct lq_error *err)
{
    struct lq_evaluate_request request = {.model = lq_attr_ref(plan->artifact, "quantized", number),
                                          .original = original,
                                          .options = plan->options,
                                          .logits = plan->logits};
    const char *evaluation = lq_arena_printf(plan->arena, "evaluation%zu", number);
    const char *tensors = lq_arena_printf(plan->arena, "tensors%zu", number);
    if (evaluation == NULL || tensors == NULL) {
        return lq_error_nomem(err, "a report");
    }
    size_t step = 0;
    enum lq_status status = lq_evaluate_add_step(plan->expand, &request, &step, err);
    if (status == LQ_OK) {
        add_input(plan, evaluation, step);
        status = lq_tensors_add_step(plan->expand, plan->original, request.model, &step, err);
    }
    if (status == LQ_OK) {
        add_input(plan, tensors, step);
    }
    if (status == LQ_OK) {
        status = add_tasks(plan, number, request.model, err);
    }
    return status == LQ_OK && plan->has_coherence ? add_coherence(plan, number, request.model, err)
                                                  : status;
}

static enum lq_status add_models(struct report_plan *plan, const char **names, struct lq_error *err)
{
    size_t reference = 0;
    struct lq_pass original;
    enum lq_status status = lq_evaluate_add_reference(plan->expand, plan->original, &plan->options,
                                                      &original, &reference, err);
    if (status == LQ_OK) {
        add_input(plan, "perplexity", reference);
        status = add_questions(plan, err);
    }
    if (status == LQ_OK) {
        status = add_tasks(plan, SIZE_MAX, plan->original, err);
    }
    if (status == LQ_OK && plan->has_coherence) {
        status = add_prompts(plan, err);
    }
    for (size_t i = 0; status == LQ_OK && i < plan->state->count; i++) {
        names[i] = lq_artifact_name(lq_attr_ref(plan->artifact, "quantized", i));
        status = add_model(plan, i, &original, err);
    }
    return status;
}

static char *list_names(const struct report_plan *plan, const char *const *names, size_t count)
{
    struct lq_buffer text;
    lq_buffer_init(&text);
    for (size_t i = 0; i < count; i++) {
        lq_buffer_printf(&text, "%s\n", names[i]);
    }
    char *copy = text.failed ? NULL : lq_arena_dup_string(plan->arena, lq_buffer_text(&text));
    lq_buffer_fini(&text);
    return copy;
}

/* Names are titles of pictures. */
static char *list_pictures(const struct report_plan *plan)
{
    const struct lq_report_pictures *pictures = &plan->state->pictures;
    struct lq_buffer text;
    lq_buffer_init(&text);
    for (size_t i = 0; i < pictures->count; i++) {
        const struct lq_report_picture *item = &pictures->items[i];
        lq_buffer_printf(&text, "%s\n%s\n", item->imatrix == NULL ? "" : item->imatrix,
                         item->mask == NULL ? "" : item->mask);
    }
    char *copy = text.failed ? NULL : lq_arena_dup_string(plan->arena, lq_buffer_text(&text));
    lq_buffer_fini(&text);
    return copy;
}

static const char *format_limit(const struct report_plan *plan, double limit)
{
    return isnan(limit) ? "none" : lq_arena_printf(plan->arena, "%.17g", limit);
}

static double read_limit(const struct lq_artifact *artifact, const char *name)
{
    return lq_attr_is_set(artifact, name) ? lq_attr_number(artifact, name) : (double)NAN;
}

static enum lq_status add_writing(struct report_plan *plan, const char *const *names,
                                  struct lq_error *err)
{
    static const struct lq_step_output outputs[] = {
        {.name = "main"}, {.name = "qreport"}, {.name = "summary"}};
    static const char *const format_names[] = {"json", "text", "html", "csv"};
    struct write_state *state = plan->state;
    struct lq_step_param params[] = {
        {"original", state->original},
        {"quantized", list_names(plan, names, state->count)},
        {"tasks", list_names(plan, state->task_names, state->task_count)},
        {"fail_above", format_limit(plan, state->fail_above)},
        {"warn_above", format_limit(plan, state->warn_above)},
        {"min_coherence", lq_arena_printf(plan->arena, "%.17g", state->min_coherence)},
        {"layers", state->layers ? "true" : "false"},
        {"format", format_names[state->format]},
        {"pictures", list_pictures(plan)},
    };
    /* Only where there are any: other reports keep their keys. */
    size_t param_count = LQ_COUNT_OF(params) - (state->pictures.count == 0 ? 1 : 0);
    for (size_t i = 0; i < param_count; i++) {
        if (params[i].value == NULL) {
            return lq_error_nomem(err, "a report");
        }
    }
    struct lq_step step = {.op = "report.write",
                           .version = 5,
                           .label = lq_artifact_name(plan->artifact),
                           .run = run_write,
                           .state = state,
                           .params = params,
                           .param_count = param_count,
                           .inputs = plan->inputs,
                           .input_count = plan->input_count,
                           .outputs = outputs,
                           .output_count = LQ_COUNT_OF(outputs),
                           .cost = 2000};
    size_t index = 0;
    enum lq_status status = lq_expand_add_step(plan->expand, &step, &index, err);
    for (size_t i = 0; status == LQ_OK && i < LQ_COUNT_OF(outputs); i++) {
        struct lq_ref ref = lq_ref_step(index, outputs[i].name);
        status = lq_expand_bind_output(plan->expand, outputs[i].name, &ref, err);
    }
    return status;
}

static enum lq_status expand(struct lq_expand *expand, struct lq_error *err)
{
    struct report_plan plan = {
        .expand = expand, .artifact = lq_expand_artifact(expand), .arena = lq_expand_arena(expand)};
    plan.original = lq_attr_ref(plan.artifact, "original", 0);
    plan.options.hidden_bf16 = strcmp(lq_attr_string(plan.artifact, "hidden"), "bf16") == 0;
    plan.has_coherence = lq_attr_bool(plan.artifact, "coherence");
    size_t count = lq_attr_count(plan.artifact, "quantized");
    size_t tasks = lq_attr_count(plan.artifact, "tasks");
    const char **names = lq_arena_get_array(plan.arena, count, sizeof *names);
    const char **task_names = lq_arena_get_array(plan.arena, tasks + 1, sizeof *task_names);
    plan.state = lq_arena_get(plan.arena, sizeof *plan.state);
    plan.inputs =
        lq_arena_get_array(plan.arena, 1 + tasks + (5 + tasks) * count, sizeof *plan.inputs);
    if (names == NULL || task_names == NULL || plan.state == NULL || plan.inputs == NULL) {
        return lq_error_nomem(err, "a report");
    }
    for (size_t i = 0; i < tasks; i++) {
        task_names[i] = lq_artifact_name(lq_attr_ref(plan.artifact, "tasks", i));
    }
    const char *path = lq_attr_string(plan.artifact, "path");
    *plan.state = (struct write_state){
        .original = lq_artifact_name(plan.original),
        .names = names,
        .count = count,
        .task_names = task_names,
        .task_count = tasks,
        .fail_above = read_limit(plan.artifact, "fail_above"),
        .warn_above = read_limit(plan.artifact, "warn_above"),
        .min_coherence = lq_attr_number(plan.artifact, "min_coherence"),
        .layers = lq_attr_bool(plan.artifact, "layers"),
        .format = path == NULL ? LQ_REPORT_JSON : lq_report_format_of(lq_path_extension(path))};
    enum lq_status status = lq_perplexity_hparams(expand, plan.original, &plan.hparams, err);
    if (status == LQ_OK) {
        status = add_tokens(&plan, err);
    }
    if (status == LQ_OK) {
        status = add_models(&plan, names, err);
    }
    if (status == LQ_OK && plan.state->format == LQ_REPORT_HTML) {
        status = lq_report_pictures_plan(expand, plan.artifact, &plan.state->pictures, plan.inputs,
                                         &plan.input_count, err);
    }
    return status == LQ_OK ? add_writing(&plan, names, err) : status;
}

const struct lq_rule lq_rule_report = {
    .kind = "report",
    .version = 9,
    .help = "perplexity, divergence and errors of quantized models against the original",
    .attrs = attrs,
    .attr_count = LQ_COUNT_OF(attrs),
    .outputs = "qreport summary",
    .check = check,
    .expand = expand,
    .shows_summary = true,
};
