#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "engine/base/json.h"
#include "rules/quant/awq_parts.h"

/* What the summary says. */
struct findings {
    double before; /* sums over the parts */
    double after;
    double products; /* sums over the matrices */
    size_t tensor_count;
    double worst;
    const char *worst_name;
};

static enum lq_status put_part(struct lq_run *run, uint32_t layer, size_t part,
                               struct lq_json_writer *writer, struct findings *findings,
                               struct lq_error *err)
{
    char name[48];
    struct lq_awq_trials trials;
    const void *scales = NULL;
    uint64_t size_bytes = 0;
    (void)snprintf(name, sizeof name, "trials.%u.%zu", (unsigned)layer, part);
    enum lq_status status = lq_run_input_read(run, name, 0, &trials, sizeof trials, err);
    (void)snprintf(name, sizeof name, "scales.%u.%zu", (unsigned)layer, part);
    if (status == LQ_OK) {
        status = lq_run_input_load(run, name, &scales, &size_bytes, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    size_t best = trials.best >= 1.0 && trials.best < LQ_AWQ_TRIALS ? (size_t)trials.best : 0;
    lq_json_begin_object(writer);
    lq_json_put_string(writer, "input", lq_awq_part_name(part));
    lq_json_key(writer, "ratio");
    lq_json_number(writer, best == 0 ? (double)NAN : lq_awq_ratio(best));
    lq_json_put_number(writer, "loss_before", trials.losses[0]);
    lq_json_put_number(writer, "loss_after", trials.losses[best]);
    lq_json_key(writer, "per_channel_scales");
    lq_json_begin_array(writer);
    for (size_t j = 0; j < size_bytes / sizeof(float); j++) {
        lq_json_number(writer, (double)((const float *)scales)[j]);
    }
    lq_json_end_array(writer);
    lq_json_end_object(writer);
    findings->before += trials.losses[0];
    findings->after += trials.losses[best];
    return LQ_OK;
}

static enum lq_status put_errors(struct lq_run *run, const struct lq_awq_job *job, uint32_t layer,
                                 struct lq_json_writer *writer, struct findings *findings,
                                 struct lq_error *err)
{
    char prefix[32];
    enum lq_status status = LQ_OK;
    (void)snprintf(prefix, sizeof prefix, "blk.%u.", (unsigned)layer);
    lq_json_key(writer, "weight_errors");
    lq_json_begin_array(writer);
    for (size_t i = 0; status == LQ_OK && i < job->index.tensor_count; i++) {
        const struct lq_model_tensor *tensor = &job->index.tensors[i];
        struct lq_awq_error error = {0};
        char name[32];
        if (job->tensors[i] == SIZE_MAX || strncmp(tensor->name, prefix, strlen(prefix)) != 0) {
            continue;
        }
        (void)snprintf(name, sizeof name, "error.%zu", i);
        status = lq_run_input_read(run, name, 0, &error, sizeof error, err);
        lq_json_begin_object(writer);
        lq_json_put_string(writer, "layer_name", tensor->source_name);
        lq_json_put_number(writer, "relative_error", error.weights);
        lq_json_put_number(writer, "relative_output_error", error.products);
        lq_json_put_int(writer, "bit_width", 4);
        lq_json_end_object(writer);
        findings->products += error.products;
        findings->tensor_count++;
        if (error.products > findings->worst) {
            findings->worst = error.products;
            findings->worst_name = tensor->source_name;
        }
    }
    lq_json_end_array(writer);
    return status;
}

static enum lq_status put_layers(struct lq_run *run, const struct lq_awq_job *job,
                                 struct lq_json_writer *writer, struct findings *findings,
                                 struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    lq_json_key(writer, "layers");
    lq_json_begin_array(writer);
    for (uint32_t layer = 0; status == LQ_OK && layer < job->hparams.layer_count; layer++) {
        char name[32];
        (void)snprintf(name, sizeof name, "model.layers.%u", (unsigned)layer);
        lq_json_begin_object(writer);
        lq_json_put_string(writer, "layer_name", name);
        lq_json_key(writer, "scales");
        lq_json_begin_array(writer);
        for (size_t part = 0; status == LQ_OK && part < LQ_AWQ_PART_COUNT; part++) {
            if (job->parts[layer * LQ_AWQ_PART_COUNT + part] != SIZE_MAX) {
                status = put_part(run, layer, part, writer, findings, err);
            }
        }
        lq_json_end_array(writer);
        if (status == LQ_OK) {
            status = put_errors(run, job, layer, writer, findings, err);
        }
        lq_json_end_object(writer);
    }
    lq_json_end_array(writer);
    return status;
}

static enum lq_status write_summary(struct lq_run *run, const struct lq_awq_job *job,
                                    const struct findings *findings, struct lq_error *err)
{
    struct lq_buffer text;
    double tensors = findings->tensor_count == 0 ? 1.0 : (double)findings->tensor_count;
    lq_buffer_init(&text);
    lq_buffer_printf(&text,
                     "AWQ in groups of %zu: rounding to 4 bits changes products of matrices by "
                     "%.2f%% of their mean square on average; scales took %.0f%% off what it would "
                     "change without them\n",
                     job->group_size, findings->products / tensors * 100.0,
                     findings->before > 0.0 ? (1.0 - findings->after / findings->before) * 100.0
                                            : 0.0);
    if (findings->worst_name != NULL) {
        lq_buffer_printf(&text, "most in %s: %.2f%%\n", findings->worst_name,
                         findings->worst * 100.0);
    }
    enum lq_status status = text.failed
                                ? lq_error_nomem(err, "a summary")
                                : lq_run_write(run, "summary", text.data, text.size_bytes, err);
    lq_buffer_fini(&text);
    return status;
}

static enum lq_status run_report(struct lq_run *run, struct lq_error *err)
{
    const struct lq_awq_job *job = lq_run_state(run);
    struct findings findings = {.tensor_count = 0};
    struct lq_buffer json;
    struct lq_json_writer writer;
    lq_buffer_init(&json);
    lq_json_writer_init(&writer, &json, false);
    lq_json_begin_object(&writer);
    lq_json_put_int(&writer, "bits", 4);
    lq_json_put_int(&writer, "group_size", (int64_t)job->group_size);
    lq_json_put_bool(&writer, "zero_point", !job->symmetric);
    lq_json_put_bool(&writer, "clip", job->cut);
    enum lq_status status = put_layers(run, job, &writer, &findings, err);
    lq_json_end_object(&writer);
    lq_buffer_append_char(&json, '\n');
    if (status == LQ_OK) {
        status = json.failed ? lq_error_nomem(err, "the scales")
                             : lq_run_write(run, "scales", json.data, json.size_bytes, err);
    }
    if (status == LQ_OK) {
        status = write_summary(run, job, &findings, err);
    }
    lq_buffer_fini(&json);
    return status;
}

/* The inputs of the report; `names` says which tensors they are, which is not in their bytes. */
static size_t list_inputs(const struct lq_awq_job *job, struct lq_step_input *inputs,
                          struct lq_buffer *names)
{
    struct lq_arena *arena = lq_expand_arena(job->expand);
    size_t count = 0;
    for (uint32_t layer = 0; layer < job->hparams.layer_count; layer++) {
        for (size_t part = 0; part < LQ_AWQ_PART_COUNT; part++) {
            size_t step = job->parts[layer * LQ_AWQ_PART_COUNT + part];
            if (step != SIZE_MAX) {
                inputs[count].name = lq_arena_printf(arena, "trials.%u.%zu", (unsigned)layer, part);
                inputs[count++].ref = lq_ref_step(step, "trials");
                inputs[count].name = lq_arena_printf(arena, "scales.%u.%zu", (unsigned)layer, part);
                inputs[count++].ref = lq_ref_step(step, "scales");
            }
        }
    }
    for (size_t i = 0; i < job->index.tensor_count; i++) {
        if (job->tensors[i] != SIZE_MAX) {
            inputs[count].name = lq_arena_printf(arena, "error.%zu", i);
            inputs[count++].ref = lq_ref_step(job->tensors[i], "error");
            lq_buffer_printf(names, "%s ", job->index.tensors[i].source_name);
        }
    }
    return count;
}

enum lq_status lq_awq_add_report(const struct lq_awq_job *job, size_t *step, struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(job->expand);
    size_t room =
        job->index.tensor_count + 2 * LQ_AWQ_PART_COUNT * (size_t)job->hparams.layer_count + 1;
    struct lq_step_input *inputs = lq_arena_get_array(arena, room, sizeof *inputs);
    if (inputs == NULL) {
        return lq_error_nomem(err, "a step");
    }
    struct lq_buffer names;
    lq_buffer_init(&names);
    size_t count = list_inputs(job, inputs, &names);
    bool has_names = !names.failed;
    for (size_t i = 0; i < count; i++) {
        has_names = has_names && inputs[i].name != NULL;
    }
    const char *text = has_names ? lq_arena_dup_string(arena, lq_buffer_text(&names)) : NULL;
    const char *size = lq_arena_printf(arena, "%zu", job->group_size);
    lq_buffer_fini(&names);
    if (text == NULL || size == NULL) {
        return lq_error_nomem(err, "a step");
    }
    const struct lq_step_param params[] = {{"tensors", text},
                                           {"group_size", size},
                                           {"symmetric", job->symmetric ? "true" : "false"},
                                           {"cut", job->cut ? "true" : "false"}};
    static const struct lq_step_output outputs[] = {{"scales", false}, {"summary", false}};
    const struct lq_step added = {.op = "awq.report",
                                  .version = 1,
                                  .label = lq_artifact_name(lq_expand_artifact(job->expand)),
                                  .run = run_report,
                                  .state = job,
                                  .params = params,
                                  .param_count = LQ_COUNT_OF(params),
                                  .inputs = inputs,
                                  .input_count = count,
                                  .outputs = outputs,
                                  .output_count = LQ_COUNT_OF(outputs),
                                  .cost = 10000};
    return lq_expand_add_step(job->expand, &added, step, err);
}
