#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "engine/base/json.h"
#include "engine/base/limits.h"
#include "rules/format/gguf.h"
#include "rules/model/forward_run.h"
#include "rules/model/vocab.h"
#include "rules/quality/coherence.h"
#include "rules/quality/continuation.h"
#include "rules/quality/model_reader.h"
#include "rules/quality/perplexity.h"
#include "rules/quality/prompts.h"

enum {
    PROMPTS_VERSION = 1,
    CONTINUE_VERSION = 2,
    READ_VERSION = 1,
    RESULT_VERSION = 2,
    PASS_STEPS_MAX =
        256, /* of one model and group: longer continuations take several passes each */
};

/* ---- prompts ---- */

static enum lq_status load_vocab(struct lq_run *run, struct lq_vocab **out, struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size_bytes = 0;
    struct lq_gguf gguf;
    enum lq_status status = lq_run_input_load(run, "vocab", &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_gguf_parse(data, size_bytes, size_bytes, "vocabulary", LQ_EFORMAT,
                               lq_run_arena(run), &gguf, NULL, err);
    }
    return status == LQ_OK ? lq_vocab_load(out, &gguf, "vocabulary", err) : status;
}

static uint32_t number_param(const struct lq_run *run, const char *name)
{
    return (uint32_t)strtoul(lq_run_param(run, name), NULL, 10);
}

static enum lq_status write_texts(struct lq_run *run, const struct lq_continuation *texts,
                                  struct lq_error *err)
{
    struct lq_buffer out;
    lq_buffer_init(&out);
    lq_continuation_format(texts, &out);
    enum lq_status status = out.failed ? lq_error_nomem(err, "continuations")
                                       : lq_run_write(run, "main", out.data, out.size_bytes, err);
    lq_buffer_fini(&out);
    return status;
}

static enum lq_status run_prompts(struct lq_run *run, struct lq_error *err)
{
    struct lq_vocab *vocab = NULL;
    struct lq_continuation texts = {0};
    const void *data = NULL;
    uint64_t size_bytes = 0;
    size_t count = 0;
    struct lq_token_list *lists = calloc(LQ_PROMPTS_MAX, sizeof *lists);
    enum lq_status status =
        lists == NULL ? lq_error_nomem(err, "prompts") : load_vocab(run, &vocab, err);
    if (status == LQ_OK) {
        status = lq_run_input_load(run, "prompts", &data, &size_bytes, err);
    }
    if (status == LQ_OK) {
        status = lq_prompts_tokenize(data, size_bytes, vocab, lists, &count, err);
    }
    if (status == LQ_OK) {
        status = lq_continuation_init(&texts, vocab, lists, count, number_param(run, "length"),
                                      number_param(run, "first"), err);
    }
    if (status == LQ_OK) {
        status = write_texts(run, &texts, err);
    }
    for (size_t i = 0; lists != NULL && i < LQ_PROMPTS_MAX; i++) {
        lq_token_list_fini(&lists[i]);
    }
    free(lists);
    lq_continuation_fini(&texts);
    lq_vocab_destroy(vocab);
    return status;
}

/* ---- a model reads and writes ---- */

static enum lq_status load_texts(struct lq_run *run, const char *input,
                                 struct lq_continuation *texts, struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_run_input_load(run, input, &data, &size_bytes, err);
    return status == LQ_OK ? lq_continuation_parse(texts, data, size_bytes, err) : status;
}

/* Passes until nothing changes, at most `passes`; 0 stands for one that only reads. */
static enum lq_status use_model(struct lq_run *run, uint32_t passes, struct lq_continuation *texts,
                                struct lq_error *err)
{
    struct lq_model_reader reader = {.bytes = NULL};
    struct lq_forward_run forward_run = {0};
    struct lq_pen pen = {.run = run};
    enum lq_status status = lq_model_reader_open(&reader, run, "", err);
    if (status == LQ_OK) {
        status = lq_forward_run_open(&forward_run, run, err);
    }
    if (status == LQ_OK) {
        status = lq_pen_open(&pen, run, &reader, &forward_run, texts, err);
    }
    if (status == LQ_OK && passes == 0) {
        status = lq_pen_read(&pen, texts, err);
    }
    for (uint32_t i = 0; status == LQ_OK && i < passes && !texts->settled; i++) {
        status = lq_pen_write(&pen, texts, err);
        lq_run_progress(run, i + 1, passes, "passes");
    }
    lq_pen_close(&pen);
    lq_forward_run_close(&forward_run);
    lq_model_reader_close(&reader);
    return status;
}

/* Some passes of a model over "texts", or the first ones over a "guess" that somebody else wrote.
 */
static enum lq_status run_continue(struct lq_run *run, struct lq_error *err)
{
    struct lq_continuation texts = {0};
    bool begins = lq_run_has_input(run, "guess");
    enum lq_status status = load_texts(run, begins ? "guess" : "texts", &texts, err);
    texts.settled = texts.settled && !begins;
    if (status == LQ_OK && texts.settled) {
        lq_continuation_fini(&texts);
        return lq_run_write_input(run, "main", "texts", err);
    }
    if (status == LQ_OK) {
        status = use_model(run, number_param(run, "passes"), &texts, err);
    }
    if (status == LQ_OK) {
        status = write_texts(run, &texts, err);
    }
    lq_continuation_fini(&texts);
    return status;
}

static enum lq_status run_read(struct lq_run *run, struct lq_error *err)
{
    struct lq_continuation texts = {0};
    enum lq_status status = load_texts(run, "texts", &texts, err);
    if (status == LQ_OK && !texts.settled) {
        status = lq_error_set(err, LQ_EINTERNAL, "continuations do not settle");
    }
    if (status == LQ_OK) {
        status = use_model(run, 0, &texts, err);
    }
    if (status == LQ_OK) {
        status = write_texts(run, &texts, err);
    }
    lq_continuation_fini(&texts);
    return status;
}

/* ---- the judgement ---- */

/* What one group of prompts was continued with. */
struct judged {
    struct lq_continuation model;    /* log-probabilities by the original */
    struct lq_continuation original; /* the same */
};

static void put_text(struct lq_json_writer *writer, const char *key, const struct lq_vocab *vocab,
                     const struct lq_continuation *texts, size_t index)
{
    struct lq_buffer text;
    lq_buffer_init(&text);
    for (size_t i = 0; i < lq_continuation_written_count(texts, index); i++) {
        size_t length = 0;
        const char *piece =
            lq_vocab_piece(vocab, lq_continuation_written(texts, index)[i], &length);
        lq_buffer_append(&text, piece == NULL ? "" : piece, piece == NULL ? 0 : length);
    }
    lq_json_key(writer, key);
    lq_json_string_sized(writer, lq_buffer_text(&text), text.size_bytes);
    lq_buffer_fini(&text);
}

static void put_scores(struct lq_json_writer *writer, const struct lq_coherence *coherence)
{
    lq_json_put_number(writer, "score", coherence->score);
    lq_json_put_number(writer, "likelihood", coherence->likelihood);
    lq_json_put_number(writer, "repetition", coherence->repetition);
    lq_json_put_number(writer, "agreement", coherence->agreement);
}

/* One of `count` prompts; its share goes to the mean. */
static void judge_text(const struct judged *judged, size_t index, const struct lq_vocab *vocab,
                       double count, struct lq_coherence *mean, struct lq_json_writer *writer)
{
    const struct lq_continuation *model = &judged->model;
    const struct lq_continuation *original = &judged->original;
    struct lq_coherence one;
    lq_coherence_judge(
        lq_continuation_written(model, index), lq_continuation_written_count(model, index),
        lq_continuation_mean_log_prob(model, index), lq_continuation_written(original, index),
        lq_continuation_written_count(original, index),
        lq_continuation_mean_log_prob(original, index), &one);
    mean->score += one.score / count;
    mean->likelihood += one.likelihood / count;
    mean->repetition += one.repetition / count;
    mean->agreement += one.agreement / count;
    lq_json_begin_object(writer);
    put_scores(writer, &one);
    put_text(writer, "original", vocab, original, index);
    put_text(writer, "model", vocab, model, index);
    lq_json_end_object(writer);
}

static void judge_groups(const struct judged *groups, size_t group_count,
                         const struct lq_vocab *vocab, struct lq_buffer *out)
{
    struct lq_coherence mean = {0};
    struct lq_json_writer writer;
    size_t count = 0;
    for (size_t g = 0; g < group_count; g++) {
        count += groups[g].model.count;
    }
    lq_json_writer_init(&writer, out, false);
    lq_json_begin_object(&writer);
    lq_json_key(&writer, "prompts");
    lq_json_begin_array(&writer);
    for (size_t g = 0; g < group_count; g++) {
        for (size_t i = 0; i < groups[g].model.count; i++) {
            judge_text(&groups[g], i, vocab, (double)count, &mean, &writer);
        }
    }
    lq_json_end_array(&writer);
    /* Sums of shares may end a bit above the whole. */
    mean.score = fmin(1.0, mean.score);
    mean.likelihood = fmin(1.0, mean.likelihood);
    mean.repetition = fmin(1.0, mean.repetition);
    mean.agreement = fmin(1.0, mean.agreement);
    put_scores(&writer, &mean);
    lq_json_end_object(&writer);
}

static enum lq_status load_judged(struct lq_run *run, size_t group, struct judged *judged,
                                  struct lq_error *err)
{
    char name[40];
    (void)snprintf(name, sizeof name, "model.%zu", group);
    enum lq_status status = load_texts(run, name, &judged->model, err);
    if (status == LQ_OK) {
        (void)snprintf(name, sizeof name, "original.%zu", group);
        status = load_texts(run, name, &judged->original, err);
    }
    if (status == LQ_OK && (judged->model.count != judged->original.count ||
                            judged->model.length != judged->original.length)) {
        status = lq_error_set(err, LQ_EFORMAT, "continuations of other prompts than expected");
    }
    return status;
}

static enum lq_status run_coherence(struct lq_run *run, struct lq_error *err)
{
    struct lq_vocab *vocab = NULL;
    size_t count = number_param(run, "groups");
    struct judged *groups = calloc(count, sizeof *groups);
    struct lq_buffer out;
    lq_buffer_init(&out);
    enum lq_status status =
        groups == NULL ? lq_error_nomem(err, "continuations") : load_vocab(run, &vocab, err);
    for (size_t g = 0; status == LQ_OK && g < count; g++) {
        status = load_judged(run, g, &groups[g], err);
    }
    if (status == LQ_OK) {
        judge_groups(groups, count, vocab, &out);
        status = out.failed ? lq_error_nomem(err, "continuations")
                            : lq_run_write(run, "main", out.data, out.size_bytes, err);
    }
    for (size_t g = 0; groups != NULL && g < count; g++) {
        lq_continuation_fini(&groups[g].model);
        lq_continuation_fini(&groups[g].original);
    }
    free(groups);
    lq_vocab_destroy(vocab);
    lq_buffer_fini(&out);
    return status;
}

/* ---- expansion ---- */

/* Texts are small, and passes that change nothing hand on the same bytes: all of them are kept. */
static const struct lq_step_output main_output[] = {{"main", false}};

/* `inputs` has the model; the rest of a step that runs it on the texts of a group. */
static enum lq_status add_use(struct lq_expand *expand, const struct lq_coherence_plan *plan,
                              const struct lq_model_inputs *inputs, struct lq_step *step,
                              size_t *index, struct lq_error *err)
{
    step->params = inputs->params;
    step->param_count = inputs->param_count;
    step->inputs = inputs->inputs;
    step->input_count = inputs->input_count;
    step->output_count = 1;
    step->parallel = true;
    step->memory_bytes = lq_forward_memory(&plan->hparams, plan->sequence, true);
    step->cost = 1000000;
    return step->label == NULL ? lq_error_nomem(err, "a step")
                               : lq_expand_add_step(expand, step, index, err);
}

/* A model continues a group: `texts` is the step that made the prompts or the guess. */
static enum lq_status add_passes(struct lq_expand *expand, const struct lq_coherence_plan *plan,
                                 const struct lq_artifact *model, struct lq_model_inputs inputs,
                                 size_t group, size_t texts, size_t *step, struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expand);
    uint32_t steps = (plan->request.length + plan->passes) / plan->passes;
    const char *passes = lq_arena_printf(arena, "%u", (unsigned)plan->passes);
    enum lq_status status = passes == NULL ? lq_error_nomem(err, "a step") : LQ_OK;
    *step = texts;
    for (uint32_t i = 0; status == LQ_OK && i < steps; i++) {
        struct lq_model_inputs all = inputs;
        lq_model_inputs_set(&all, "passes", passes);
        lq_model_inputs_put(&all, i == 0 ? "guess" : "texts", lq_ref_step(*step, "main"));
        struct lq_step added = {.op = "quality.continue",
                                .version = CONTINUE_VERSION,
                                .label =
                                    lq_arena_printf(arena, "%s/prompts.%zu/pass.%u",
                                                    lq_artifact_name(model), group, (unsigned)i),
                                .run = run_continue,
                                .outputs = main_output};
        status = add_use(expand, plan, &all, &added, step, err);
    }
    return status;
}

static enum lq_status open_model(struct lq_expand *expand, const struct lq_artifact *model,
                                 struct lq_model_inputs *inputs, struct lq_error *err)
{
    enum lq_status status = lq_model_inputs_init(inputs, expand, &model, 1, 2, err);
    return status == LQ_OK ? lq_model_inputs_add(inputs, expand, model, "", err) : status;
}

static enum lq_status add_prompts(struct lq_expand *expand, const struct lq_coherence_plan *plan,
                                  size_t group, size_t *step, struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expand);
    const struct lq_prompt_group *prompts = &plan->prompts.groups[group];
    const struct lq_step_param params[] = {
        {"length", lq_arena_printf(arena, "%u", (unsigned)plan->request.length)},
        {"first", lq_arena_printf(arena, "%zu", prompts->first + 1)}};
    const struct lq_step_input inputs[] = {
        {"vocab", lq_ref_artifact(plan->request.original, "vocab")}, {"prompts", prompts->bytes}};
    const struct lq_step added = {.op = "quality.prompts",
                                  .version = PROMPTS_VERSION,
                                  .label = lq_arena_printf(arena, "prompts.%zu", group),
                                  .run = run_prompts,
                                  .params = params,
                                  .param_count = LQ_COUNT_OF(params),
                                  .inputs = inputs,
                                  .input_count = LQ_COUNT_OF(inputs),
                                  .outputs = main_output,
                                  .output_count = LQ_COUNT_OF(main_output),
                                  .memory_bytes = (uint64_t)64 << 20,
                                  .cost = 10000};
    return params[0].value == NULL || params[1].value == NULL || added.label == NULL
               ? lq_error_nomem(err, "a step")
               : lq_expand_add_step(expand, &added, step, err);
}

enum lq_status lq_coherence_add_reference(struct lq_expand *expand,
                                          const struct lq_coherence_request *request,
                                          struct lq_coherence_plan *plan, struct lq_error *err)
{
    struct lq_model_inputs inputs;
    *plan = (struct lq_coherence_plan){.request = *request,
                                       .passes = 1 + request->length / PASS_STEPS_MAX};
    enum lq_status status = lq_perplexity_hparams(expand, request->original, &plan->hparams, err);
    if (status == LQ_OK) {
        status = lq_prompts_group(expand, request->text, request->prompts, request->prompt_count,
                                  request->length, &plan->prompts, err);
    }
    if (status == LQ_OK) {
        status = open_model(expand, request->original, &inputs, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    /* A token is a byte at least. */
    size_t longest = plan->prompts.longest_bytes < LQ_SEQUENCE_MAX ? plan->prompts.longest_bytes
                                                                   : LQ_SEQUENCE_MAX;
    plan->sequence = (uint32_t)longest + request->length;
    plan->written = lq_arena_get_array(lq_expand_arena(expand), plan->prompts.group_count,
                                       sizeof *plan->written);
    if (plan->written == NULL) {
        return lq_error_nomem(err, "prompts");
    }
    for (size_t g = 0; status == LQ_OK && g < plan->prompts.group_count; g++) {
        size_t prompts = 0;
        status = add_prompts(expand, plan, g, &prompts, err);
        if (status == LQ_OK) {
            status = add_passes(expand, plan, request->original, inputs, g, prompts,
                                &plan->written[g], err);
        }
    }
    return status;
}

/* The original reads what a model wrote. */
static enum lq_status add_reading(struct lq_expand *expand, const struct lq_coherence_plan *plan,
                                  const struct lq_artifact *model, struct lq_model_inputs original,
                                  size_t group, size_t written, size_t *step, struct lq_error *err)
{
    lq_model_inputs_put(&original, "texts", lq_ref_step(written, "main"));
    struct lq_step added = {.op = "quality.read",
                            .version = READ_VERSION,
                            .label = lq_arena_printf(lq_expand_arena(expand), "%s/prompts.%zu/read",
                                                     lq_artifact_name(model), group),
                            .run = run_read,
                            .outputs = main_output};
    return add_use(expand, plan, &original, &added, step, err);
}

static enum lq_status add_judgement(struct lq_expand *expand, const struct lq_coherence_plan *plan,
                                    const struct lq_artifact *model,
                                    const struct lq_step_input *inputs, size_t *step,
                                    struct lq_error *err)
{
    size_t groups = plan->prompts.group_count;
    const struct lq_step_param params[] = {
        {"groups", lq_arena_printf(lq_expand_arena(expand), "%zu", groups)}};
    const struct lq_step added = {.op = "quality.coherence",
                                  .version = RESULT_VERSION,
                                  .label = lq_artifact_name(model),
                                  .run = run_coherence,
                                  .params = params,
                                  .param_count = LQ_COUNT_OF(params),
                                  .inputs = inputs,
                                  .input_count = 2 * groups + 1,
                                  .outputs = main_output,
                                  .output_count = LQ_COUNT_OF(main_output),
                                  .memory_bytes = (uint64_t)64 << 20,
                                  .cost = 10000};
    return params[0].value == NULL ? lq_error_nomem(err, "a step")
                                   : lq_expand_add_step(expand, &added, step, err);
}

enum lq_status lq_coherence_add_step(struct lq_expand *expand, const struct lq_coherence_plan *plan,
                                     const struct lq_artifact *model, size_t *step,
                                     struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expand);
    size_t groups = plan->prompts.group_count;
    struct lq_model_inputs writer;
    struct lq_model_inputs reader;
    struct lq_step_input *inputs = lq_arena_get_array(arena, 2 * groups + 1, sizeof *inputs);
    enum lq_status status = inputs == NULL ? lq_error_nomem(err, "a step") : LQ_OK;
    if (status == LQ_OK) {
        status = open_model(expand, model, &writer, err);
    }
    if (status == LQ_OK) {
        status = open_model(expand, plan->request.original, &reader, err);
    }
    for (size_t g = 0; status == LQ_OK && g < groups; g++) {
        size_t written = 0;
        size_t read = 0;
        /* A good model writes what the original wrote: that is the guess. */
        status = add_passes(expand, plan, model, writer, g, plan->written[g], &written, err);
        if (status == LQ_OK) {
            status = add_reading(expand, plan, model, reader, g, written, &read, err);
        }
        if (status == LQ_OK) {
            inputs[2 * g] = (struct lq_step_input){lq_arena_printf(arena, "model.%zu", g),
                                                   lq_ref_step(read, "main")};
            inputs[2 * g + 1] = (struct lq_step_input){lq_arena_printf(arena, "original.%zu", g),
                                                       lq_ref_step(plan->written[g], "main")};
            status = inputs[2 * g].name == NULL || inputs[2 * g + 1].name == NULL
                         ? lq_error_nomem(err, "a step")
                         : LQ_OK;
        }
    }
    if (status != LQ_OK) {
        return status;
    }
    inputs[2 * groups] =
        (struct lq_step_input){"vocab", lq_ref_artifact(plan->request.original, "vocab")};
    return add_judgement(expand, plan, model, inputs, step, err);
}
