#include "rules/model/spike_steps.h"

#include <stdio.h>
#include <stdlib.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "engine/base/reader.h"
#include "rules/model/calibrate_parts.h"
#include "rules/model/forward_run.h"

enum { SPIKES_VERSION = 1 };

struct lq_spike lq_spike_read(const void *bytes)
{
    struct lq_reader reader;
    lq_reader_init(&reader, bytes, LQ_SPIKE_BYTES);
    struct lq_spike spike = {.position = lq_read_u64(&reader)};
    spike.weight = lq_read_f32(&reader);
    spike.input = lq_read_f32(&reader);
    spike.output = lq_read_f32(&reader);
    spike.token = lq_read_u32(&reader);
    return spike;
}

/* ---- one layer ---- */

static enum lq_status write_spikes(struct lq_run *run, const struct lq_spike *spikes, size_t count,
                                   struct lq_error *err)
{
    struct lq_buffer out;
    lq_buffer_init(&out);
    for (size_t i = 0; i < count; i++) {
        lq_buffer_append_u64(&out, spikes[i].position);
        lq_buffer_append_f32(&out, spikes[i].weight);
        lq_buffer_append_f32(&out, spikes[i].input);
        lq_buffer_append_f32(&out, spikes[i].output);
        lq_buffer_append_u32(&out, spikes[i].token);
    }
    enum lq_status status = out.failed ? lq_error_nomem(err, "spikes")
                                       : lq_run_write(run, "spikes", out.data, out.size_bytes, err);
    lq_buffer_fini(&out);
    return status;
}

/* Reads the first samples, passes them through the layer and writes what comes out. */
static enum lq_status pass_batch(struct lq_calibrate_io *io, struct lq_forward *forward,
                                 struct lq_error *err)
{
    const struct lq_hparams *hparams = &io->layer->hparams;
    size_t first = lq_forward_first_samples(io->sequence_length);
    size_t count = io->sample_count < first ? io->sample_count : first;
    if (count > lq_forward_batch_samples(forward)) {
        return lq_error_set(err, LQ_ENOMEM,
                            "%zu samples of %u tokens do not fit the device's memory", count,
                            (unsigned)io->sequence_length);
    }
    size_t rows = count * io->sequence_length;
    float *hidden = calloc(rows, hparams->width * sizeof *hidden);
    struct lq_spike spikes[LQ_SPIKES_MAX];
    size_t spike_count = 0;
    enum lq_status status = hidden == NULL ? lq_error_nomem(err, "hidden states") : LQ_OK;
    if (status == LQ_OK && io->layer->layer == 0) {
        status = lq_forward_embed(forward, io->tokens.tokens, rows, hidden, err);
    } else if (status == LQ_OK) {
        status = lq_calibrate_read_rows(io, "hidden", 0, count, hidden, err);
    }
    if (status == LQ_OK) {
        status = lq_forward_load_layer(forward, io->layer->layer, err);
    }
    if (status == LQ_OK) {
        status =
            lq_spikes_pass(forward, hidden, count, io->layer->threshold, spikes, &spike_count, err);
    }
    if (status == LQ_OK) {
        status = write_spikes(io->run, spikes, spike_count, err);
    }
    if (status == LQ_OK && io->layer->layer + 1 != hparams->layer_count) {
        io->sample_count = (uint32_t)count;
        status = lq_calibrate_write_header(io, "hidden", err);
        if (status == LQ_OK) {
            status = lq_calibrate_write_rows(io, "hidden", hidden, rows, err);
        }
    }
    free(hidden);
    return status;
}

static enum lq_status run_spikes(struct lq_run *run, struct lq_error *err)
{
    struct lq_calibrate_io io = {.run = run, .layer = lq_run_state(run)};
    struct lq_forward_run forward_run = {0};
    struct lq_forward *forward = NULL;
    enum lq_status status = io.layer->layer == 0 ? lq_calibrate_open_tokens(&io, err)
                                                 : lq_calibrate_open_rows(&io, "hidden", err);
    if (status == LQ_OK) {
        status = lq_forward_run_open(&forward_run, run, err);
    }
    if (status == LQ_OK) {
        struct lq_weight_source weights = lq_calibrate_weights(&io);
        struct lq_forward_env env = lq_forward_run_env(&forward_run, weights, LQ_EIMPORTANCE);
        status = lq_forward_create(&forward, &io.layer->hparams, &env, io.sequence_length, err);
    }
    if (status == LQ_OK) {
        status = pass_batch(&io, forward, err);
    }
    lq_forward_destroy(forward);
    lq_forward_run_close(&forward_run);
    return status;
}

/* ---- the expansion ---- */

static enum lq_status add_layer(struct lq_calibrate_expansion *expansion, uint32_t layer,
                                struct lq_spike_plan *plan, struct lq_error *err)
{
    static const struct lq_step_output outputs[] = {{"spikes", false}, {"hidden", true}};
    struct lq_calibrate_plan step_plan;
    char label[LQ_WEIGHT_NAME_BYTES];
    char path[LQ_WEIGHT_NAME_BYTES];
    enum lq_status status = lq_calibrate_plan_layer(expansion, layer, &step_plan, err);
    if (status != LQ_OK) {
        return status;
    }
    const char *threshold =
        lq_arena_printf(lq_expand_arena(expansion->expand), "%.17g", plan->threshold);
    if (threshold == NULL) {
        return lq_error_nomem(err, "a step");
    }
    step_plan.state->threshold = plan->threshold;
    step_plan.params[step_plan.param_count++] = (struct lq_step_param){"threshold", threshold};
    if (layer != 0) {
        step_plan.inputs[step_plan.input_count++] =
            (struct lq_step_input){"hidden", lq_ref_step(plan->steps[layer - 1], "hidden")};
    }
    (void)snprintf(label, sizeof label, "blk.%u", (unsigned)layer);
    struct lq_step added = {
        .op = "mask.spikes",
        .version = SPIKES_VERSION,
        .label = label,
        .run = run_spikes,
        .state = step_plan.state,
        .params = step_plan.params,
        .param_count = step_plan.param_count,
        .inputs = step_plan.inputs,
        .input_count = step_plan.input_count,
        .outputs = outputs,
        .output_count = layer + 1 == expansion->hparams.layer_count ? 1 : 2,
        .parallel = true,
        .memory_bytes = lq_calibrate_guess_memory(expansion, lq_forward_layer_memory),
        .cost = 1000 + expansion->cost / 64,
    };
    lq_layer_weight_path(layer, lq_spikes_weight(&expansion->hparams), path);
    plan->tensors[layer] = *lq_tensor_index_find(&expansion->index, path);
    return lq_expand_add_step(expansion->expand, &added, &plan->steps[layer], err);
}

enum lq_status lq_spike_layers(struct lq_expand *expand, struct lq_spike_plan *plan,
                               struct lq_error *err)
{
    const struct lq_calibrate_request request = {.model = plan->model,
                                                 .calibration = plan->calibration};
    struct lq_calibrate_expansion expansion = {.expand = expand, .request = &request};
    struct lq_arena *arena = lq_expand_arena(expand);
    enum lq_status status = lq_calibrate_read_model(&expansion, err);
    if (status != LQ_OK) {
        return status;
    }
    plan->layer_count = expansion.hparams.layer_count;
    plan->steps = lq_arena_get_array(arena, plan->layer_count, sizeof *plan->steps);
    plan->tensors = lq_arena_get_array(arena, plan->layer_count, sizeof *plan->tensors);
    if (plan->steps == NULL || plan->tensors == NULL) {
        return lq_error_nomem(err, "steps");
    }
    for (uint32_t layer = 0; status == LQ_OK && layer < plan->layer_count; layer++) {
        status = add_layer(&expansion, layer, plan, err);
    }
    return status;
}
