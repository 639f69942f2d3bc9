#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "engine/base/json.h"
#include "rules/quant/gptq_steps.h"

/* What the summary says. */
struct findings {
    size_t matrix_count;
    double ratio_sum; /* of logarithms of what is lost next to what rounding loses */
    double share_sum;
    double worst_share;
    const char *worst;
};

static void put_matrix(struct lq_json_writer *writer, const struct lq_gptq_job *job,
                       const struct lq_model_tensor *tensor, const struct lq_gptq_matrix *matrix,
                       const double *values, struct findings *findings)
{
    double square = values[LQ_GPTQ_LOSS_SQUARE];
    double rounding = values[LQ_GPTQ_LOSS_ROUNDING];
    double share = square > 0.0 ? values[LQ_GPTQ_LOSS_SAMPLE] / square : 0.0;
    double rounding_share = square > 0.0 ? rounding / square : 0.0;
    lq_json_begin_object(writer);
    lq_json_put_string(writer, "layer_name", tensor->source_name);
    lq_json_put_int(writer, "bit_width", (int64_t)job->bits);
    lq_json_put_int(writer, "group_size", (int64_t)matrix->group_size);
    lq_json_put_number(writer, "loss", values[LQ_GPTQ_LOSS_TOTAL]);
    lq_json_put_number(writer, "relative_loss", share);
    lq_json_put_number(writer, "relative_loss_rounding", rounding_share);
    lq_json_put_number(writer, "damp_percent", values[LQ_GPTQ_LOSS_DAMP]);
    lq_json_put_int(writer, "dead_columns", (int64_t)values[LQ_GPTQ_LOSS_DEAD]);
    lq_json_end_object(writer);
    if (share > 0.0 && rounding_share > 0.0) {
        findings->matrix_count++;
        findings->share_sum += log(share);
        findings->ratio_sum += log(share / rounding_share);
    }
    if (findings->worst == NULL || share > findings->worst_share) {
        findings->worst = tensor->source_name;
        findings->worst_share = share;
    }
}

static enum lq_status put_matrices(struct lq_run *run, struct lq_json_writer *writer,
                                   struct findings *findings, struct lq_error *err)
{
    const struct lq_gptq_job *job = lq_run_state(run);
    const struct lq_tensor_index *index = lq_stages_index(job->stages);
    enum lq_status status = LQ_OK;
    lq_json_key(writer, "layers");
    lq_json_begin_array(writer);
    for (size_t i = 0; status == LQ_OK && i < index->tensor_count; i++) {
        double values[LQ_GPTQ_LOSS_VALUES];
        char name[32];
        if (job->matrices[i].step == SIZE_MAX) {
            continue;
        }
        (void)snprintf(name, sizeof name, "loss.%zu", i);
        status = lq_run_input_read(run, name, 0, values, sizeof values, err);
        if (status == LQ_OK) {
            put_matrix(writer, job, &index->tensors[i], &job->matrices[i], values, findings);
        }
    }
    lq_json_end_array(writer);
    return status;
}

static enum lq_status write_summary(struct lq_run *run, const struct findings *findings,
                                    struct lq_error *err)
{
    const struct lq_gptq_job *job = lq_run_state(run);
    double count = findings->matrix_count == 0 ? 1.0 : (double)findings->matrix_count;
    struct lq_buffer text;
    lq_buffer_init(&text);
    lq_buffer_printf(&text,
                     "GPTQ to %u bits: the outputs of matrices change by %.3g%% of their squares "
                     "(%.3g%% by rounding to nearest)",
                     job->bits, 100.0 * exp(findings->share_sum / count),
                     100.0 * exp((findings->share_sum - findings->ratio_sum) / count));
    if (findings->worst != NULL) {
        lq_buffer_printf(&text, ", most %s with %.3g%%", findings->worst,
                         100.0 * findings->worst_share);
    }
    lq_buffer_append_char(&text, '\n');
    enum lq_status status = text.failed
                                ? lq_error_nomem(err, "a summary")
                                : lq_run_write(run, "summary", text.data, text.size_bytes, err);
    lq_buffer_fini(&text);
    return status;
}

static enum lq_status run_report(struct lq_run *run, struct lq_error *err)
{
    const struct lq_gptq_job *job = lq_run_state(run);
    struct findings findings = {.matrix_count = 0};
    struct lq_buffer json;
    struct lq_json_writer writer;
    lq_buffer_init(&json);
    lq_json_writer_init(&writer, &json, true);
    lq_json_begin_object(&writer);
    lq_json_put_int(&writer, "bits", (int64_t)job->bits);
    lq_json_put_int(&writer, "group_size", job->group_size);
    lq_json_put_bool(&writer, "symmetric", job->symmetric);
    lq_json_put_bool(&writer, "desc_act", job->desc_act);
    lq_json_put_number(&writer, "damp_percent", job->damp);
    enum lq_status status = put_matrices(run, &writer, &findings, err);
    lq_json_end_object(&writer);
    lq_buffer_append_char(&json, '\n');
    if (status == LQ_OK) {
        status = json.failed ? lq_error_nomem(err, "the losses")
                             : lq_run_write(run, "losses", json.data, json.size_bytes, err);
    }
    if (status == LQ_OK) {
        status = write_summary(run, &findings, err);
    }
    lq_buffer_fini(&json);
    return status;
}

/* What the text says besides the losses. */
static const char *describe(const struct lq_gptq_job *job)
{
    struct lq_arena *arena = lq_expand_arena(job->expand);
    const struct lq_tensor_index *index = lq_stages_index(job->stages);
    struct lq_buffer text;
    lq_buffer_init(&text);
    lq_buffer_printf(&text, "%u %lld %d %d ", job->bits, (long long)job->group_size,
                     job->symmetric ? 1 : 0, job->desc_act ? 1 : 0);
    lq_json_format_number(&text, job->damp);
    for (size_t i = 0; i < index->tensor_count; i++) {
        if (job->matrices[i].step != SIZE_MAX) {
            lq_buffer_printf(&text, " %s:%zu", index->tensors[i].source_name,
                             job->matrices[i].group_size);
        }
    }
    const char *copy = text.failed ? NULL : lq_arena_dup_string(arena, lq_buffer_text(&text));
    lq_buffer_fini(&text);
    return copy;
}

enum lq_status lq_gptq_add_report(const struct lq_gptq_job *job, size_t *step, struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(job->expand);
    const struct lq_tensor_index *index = lq_stages_index(job->stages);
    struct lq_step_input *inputs =
        lq_arena_get_array(arena, index->tensor_count + 1, sizeof *inputs);
    const struct lq_step_param param = {"matrices", describe(job)};
    size_t count = 0;
    bool has_names = inputs != NULL && param.value != NULL;
    for (size_t i = 0; has_names && i < index->tensor_count; i++) {
        const struct lq_gptq_matrix *matrix = &job->matrices[i];
        if (matrix->step != SIZE_MAX) {
            const char *output = lq_gptq_output_name(arena, matrix->weight, LQ_GPTQ_LOSS);
            inputs[count].name = lq_arena_printf(arena, "loss.%zu", i);
            inputs[count].ref = lq_ref_step(matrix->step, output);
            has_names = inputs[count].name != NULL && output != NULL;
            count++;
        }
    }
    if (!has_names) {
        return lq_error_nomem(err, "a step");
    }
    static const struct lq_step_output outputs[] = {{"losses", false}, {"summary", false}};
    const struct lq_step added = {.op = "gptq.report",
                                  .version = 1,
                                  .label = lq_artifact_name(lq_expand_artifact(job->expand)),
                                  .run = run_report,
                                  .state = job,
                                  .params = &param,
                                  .param_count = 1,
                                  .inputs = inputs,
                                  .input_count = count,
                                  .outputs = outputs,
                                  .output_count = LQ_COUNT_OF(outputs),
                                  .cost = 10000};
    return lq_expand_add_step(job->expand, &added, step, err);
}
