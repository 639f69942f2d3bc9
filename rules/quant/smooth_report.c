#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "engine/base/json.h"
#include "rules/model/layer_ranges.h"
#include "rules/quant/smooth.h"
#include "rules/quant/smooth_steps.h"

/* An input whose rounding may add more noise than this, relative to its mean square, is named: as
 * much as weights of about 4 bits have. The bound takes the largest magnitude of all tokens. */
#define NOISE_TOO_MUCH 0.01

static const struct {
    enum lq_layer_input input;
    const char *name;
} inputs_shown[] = {
    {LQ_INPUT_ATTN, "attention"},
    {LQ_INPUT_ATTN_OUTPUT, "attention output"},
    {LQ_INPUT_FFN, "feed-forward"},
    {LQ_INPUT_FFN_DOWN, "feed-forward down"},
};

/* What the summary says. */
struct findings {
    struct lq_buffer hard; /* a line for each input that is hard to round */
    size_t hard_count;
    double largest_before;
    double largest_after;
    double largest_weight_error;
};

static void put_array(struct lq_json_writer *writer, const char *key,
                      const struct lq_input_range *range,
                      double (*value)(const struct lq_input_range *range, size_t col))
{
    lq_json_key(writer, key);
    lq_json_begin_array(writer);
    for (uint32_t j = 0; j < range->col_count; j++) {
        lq_json_number(writer, value(range, j));
    }
    lq_json_end_array(writer);
}

static double size_at(const struct lq_input_range *range, size_t col)
{
    return (double)lq_input_range_size(range, col);
}

static double min_at(const struct lq_input_range *range, size_t col)
{
    return (double)range->min[col];
}

static double mean_at(const struct lq_input_range *range, size_t col)
{
    return range->sum[col] / (double)range->row_count;
}

static double deviation_at(const struct lq_input_range *range, size_t col)
{
    double mean = mean_at(range, col);
    return sqrt(fmax(0.0, range->squares[col] / (double)range->row_count - mean * mean));
}

/* The noise of an input whose columns are divided by `scales` (NULL: they are not). */
static double noise_of(const struct lq_input_range *range, const float *scales)
{
    double largest = 0.0;
    double squares = 0.0;
    for (uint32_t j = 0; j < range->col_count; j++) {
        double scale = scales == NULL ? 1.0 : (double)scales[j];
        largest = fmax(largest, size_at(range, j) / scale);
        squares += range->squares[j] / (double)range->row_count / (scale * scale);
    }
    return lq_smooth_noise(largest, squares / range->col_count);
}

static void put_input(struct lq_json_writer *writer, uint32_t layer, size_t number,
                      const struct lq_input_range *range, const float *scales,
                      struct findings *findings)
{
    double before = noise_of(range, NULL);
    double after = noise_of(range, scales);
    lq_json_begin_object(writer);
    lq_json_put_string(writer, "input", inputs_shown[number].name);
    lq_json_put_int(writer, "outlier_count", (int64_t)range->outlier_count);
    lq_json_put_number(writer, "noise_before", before);
    lq_json_put_number(writer, "noise_after", after);
    if (scales != NULL) {
        lq_json_key(writer, "per_channel_scales");
        lq_json_begin_array(writer);
        for (uint32_t j = 0; j < range->col_count; j++) {
            lq_json_number(writer, (double)scales[j]);
        }
        lq_json_end_array(writer);
        put_array(writer, "max_values", range, size_at);
        put_array(writer, "min_values", range, min_at);
        put_array(writer, "mean_values", range, mean_at);
        put_array(writer, "std_values", range, deviation_at);
    }
    lq_json_end_object(writer);
    findings->largest_before = fmax(findings->largest_before, before);
    findings->largest_after = fmax(findings->largest_after, after);
    if (after > NOISE_TOO_MUCH) {
        findings->hard_count++;
        lq_buffer_printf(&findings->hard, "  blk.%u %-18s noise %.2f%% of its mean square\n",
                         (unsigned)layer, inputs_shown[number].name, after * 100.0);
    }
}

static enum lq_status put_inputs(struct lq_run *run, uint32_t layer, struct lq_json_writer *writer,
                                 struct findings *findings, struct lq_error *err)
{
    char name[32];
    const void *data = NULL;
    uint64_t size_bytes = 0;
    struct lq_layer_ranges ranges;
    (void)snprintf(name, sizeof name, "ranges.%u", (unsigned)layer);
    enum lq_status status = lq_run_input_load(run, name, &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_layer_ranges_parse(data, size_bytes, lq_run_arena(run), &ranges, err);
    }
    (void)snprintf(name, sizeof name, "scales.%u", (unsigned)layer);
    if (status == LQ_OK) {
        status = lq_run_input_load(run, name, &data, &size_bytes, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    const float *scales = data;
    lq_json_key(writer, "activation_stats");
    lq_json_begin_array(writer);
    for (size_t i = 0; i < LQ_COUNT_OF(inputs_shown); i++) {
        const struct lq_input_range *range = &ranges.inputs[inputs_shown[i].input];
        bool is_smoothed =
            inputs_shown[i].input == LQ_INPUT_ATTN || inputs_shown[i].input == LQ_INPUT_FFN;
        if (range->col_count == 0 || range->row_count == 0) {
            continue;
        }
        put_input(writer, layer, i, range, is_smoothed ? scales : NULL, findings);
        scales += is_smoothed ? range->col_count : 0;
    }
    lq_json_end_array(writer);
    return LQ_OK;
}

static enum lq_status put_errors(struct lq_run *run, const struct lq_smooth_job *job,
                                 uint32_t layer, struct lq_json_writer *writer,
                                 struct findings *findings, struct lq_error *err)
{
    char prefix[32];
    enum lq_status status = LQ_OK;
    (void)snprintf(prefix, sizeof prefix, "blk.%u.", (unsigned)layer);
    lq_json_key(writer, "weight_errors");
    lq_json_begin_array(writer);
    for (size_t i = 0; status == LQ_OK && i < job->index.tensor_count; i++) {
        const struct lq_model_tensor *tensor = &job->index.tensors[i];
        double error = 0.0;
        char name[32];
        if (job->tensors[i] == SIZE_MAX || strncmp(tensor->name, prefix, strlen(prefix)) != 0) {
            continue;
        }
        (void)snprintf(name, sizeof name, "error.%zu", i);
        status = lq_run_input_read(run, name, 0, &error, sizeof error, err);
        lq_json_begin_object(writer);
        lq_json_put_string(writer, "layer_name", tensor->source_name);
        lq_json_put_number(writer, "relative_error", error);
        lq_json_put_int(writer, "bit_width", 8);
        lq_json_end_object(writer);
        findings->largest_weight_error = fmax(findings->largest_weight_error, error);
    }
    lq_json_end_array(writer);
    return status;
}

static enum lq_status write_summary(struct lq_run *run, const struct findings *findings,
                                    struct lq_error *err)
{
    struct lq_buffer text;
    lq_buffer_init(&text);
    lq_buffer_printf(&text,
                     "SmoothQuant with alpha %s: rounding activations to 8 bits adds at most "
                     "%.3f%% of noise to an input (%.3f%% without), weights %.3f%%\n",
                     lq_run_param(run, "alpha"), findings->largest_after * 100.0,
                     findings->largest_before * 100.0, findings->largest_weight_error * 100.0);
    if (findings->hard_count > 0) {
        lq_buffer_printf(&text,
                         "%zu input%s above %g%%; behind norms another alpha may help, elsewhere "
                         "scales for each channel, or 16 bits for these layers:\n",
                         findings->hard_count, findings->hard_count == 1 ? " is" : "s are",
                         NOISE_TOO_MUCH * 100.0);
        lq_buffer_append(&text, findings->hard.data, findings->hard.size_bytes);
    }
    enum lq_status status = text.failed || findings->hard.failed
                                ? lq_error_nomem(err, "a summary")
                                : lq_run_write(run, "summary", text.data, text.size_bytes, err);
    lq_buffer_fini(&text);
    return status;
}

static enum lq_status put_layers(struct lq_run *run, struct lq_json_writer *writer,
                                 struct findings *findings, struct lq_error *err)
{
    const struct lq_smooth_job *job = lq_run_state(run);
    enum lq_status status = LQ_OK;
    lq_json_key(writer, "layers");
    lq_json_begin_array(writer);
    for (uint32_t layer = 0; status == LQ_OK && layer < job->hparams.layer_count; layer++) {
        char name[32];
        (void)snprintf(name, sizeof name, "model.layers.%u", (unsigned)layer);
        lq_json_begin_object(writer);
        lq_json_put_string(writer, "layer_name", name);
        status = put_inputs(run, layer, writer, findings, err);
        if (status == LQ_OK) {
            status = put_errors(run, job, layer, writer, findings, err);
        }
        lq_json_end_object(writer);
    }
    lq_json_end_array(writer);
    return status;
}

static enum lq_status run_report(struct lq_run *run, struct lq_error *err)
{
    const struct lq_smooth_job *job = lq_run_state(run);
    struct findings findings = {.hard_count = 0};
    struct lq_buffer json;
    struct lq_json_writer writer;
    lq_buffer_init(&json);
    lq_buffer_init(&findings.hard);
    lq_json_writer_init(&writer, &json, false);
    lq_json_begin_object(&writer);
    lq_json_put_number(&writer, "alpha", job->alpha);
    lq_json_put_int(&writer, "weight_target_bits", 8);
    lq_json_put_int(&writer, "activation_target_bits", 8);
    lq_json_put_bool(&writer, "symmetric", true);
    enum lq_status status = put_layers(run, &writer, &findings, err);
    lq_json_end_object(&writer);
    lq_buffer_append_char(&json, '\n');
    if (status == LQ_OK) {
        status = json.failed ? lq_error_nomem(err, "the scales")
                             : lq_run_write(run, "scales", json.data, json.size_bytes, err);
    }
    if (status == LQ_OK) {
        status = write_summary(run, &findings, err);
    }
    lq_buffer_fini(&findings.hard);
    lq_buffer_fini(&json);
    return status;
}

enum lq_status lq_smooth_add_report(const struct lq_smooth_job *job, size_t *step,
                                    struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(job->expand);
    size_t room = job->index.tensor_count + 2 * (size_t)job->hparams.layer_count + 1;
    struct lq_step_input *inputs = lq_arena_get_array(arena, room, sizeof *inputs);
    size_t count = 0;
    bool has_names = inputs != NULL;
    for (uint32_t layer = 0; has_names && layer < job->hparams.layer_count; layer++) {
        inputs[count].name = lq_arena_printf(arena, "ranges.%u", (unsigned)layer);
        inputs[count++].ref = lq_ref_step(job->ranges[layer], "ranges");
        inputs[count].name = lq_arena_printf(arena, "scales.%u", (unsigned)layer);
        inputs[count++].ref = lq_ref_step(job->scales[layer], "scales");
        has_names = inputs[count - 1].name != NULL && inputs[count - 2].name != NULL;
    }
    struct lq_buffer names; /* which tensors these are is not in their bytes */
    lq_buffer_init(&names);
    for (size_t i = 0; has_names && i < job->index.tensor_count; i++) {
        if (job->tensors[i] != SIZE_MAX) {
            inputs[count].name = lq_arena_printf(arena, "error.%zu", i);
            inputs[count++].ref = lq_ref_step(job->tensors[i], "error");
            lq_buffer_printf(&names, "%s ", job->index.tensors[i].source_name);
            has_names = inputs[count - 1].name != NULL;
        }
    }
    const char *text =
        has_names && !names.failed ? lq_arena_dup_string(arena, lq_buffer_text(&names)) : NULL;
    lq_buffer_fini(&names);
    if (text == NULL) {
        return lq_error_nomem(err, "a step");
    }
    const struct lq_step_param params[] = {{"alpha", job->alpha_text}, {"tensors", text}};
    static const struct lq_step_output outputs[] = {{"scales", false}, {"summary", false}};
    const struct lq_step added = {.op = "smoothquant.report",
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
