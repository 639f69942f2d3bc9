#include "rules/quant/promotion.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/text.h"
#include "rules/quality/tensor_error.h"
#include "rules/quant/encode_tensor.h"
#include "rules/quant/levels.h"
#include "rules/quant/tensor_inputs.h"

struct promotion_state {
    struct lq_model_tensor tensor;
    enum lq_dtype from;
    enum lq_dtype to;
    size_t spike_count;
};

/* ---- one tensor ---- */

static enum lq_status append_blocks(void *user, const void *data, size_t size_bytes,
                                    struct lq_error *err)
{
    struct lq_buffer *blocks = user;
    lq_buffer_append(blocks, data, size_bytes);
    return blocks->failed ? lq_error_nomem(err, "an encoded tensor") : LQ_OK;
}

/* The mean squared error of the tensor in one type. */
static enum lq_status measure(struct lq_run *run, const struct lq_model_tensor *tensor,
                              enum lq_dtype dtype, double *mse, struct lq_error *err)
{
    struct lq_importance importance;
    struct lq_tensor_error error;
    struct lq_buffer blocks;
    struct lq_encode_job job = {.tensor = tensor,
                                .dtype = dtype,
                                .pool = lq_run_pool(run),
                                .user = &blocks,
                                .write = append_blocks};
    lq_buffer_init(&blocks);
    enum lq_status status = lq_run_input_load(run, "weights", &job.data, &job.size_bytes, err);
    if (status == LQ_OK) {
        status = lq_run_load_importance(run, "importance", tensor, &importance, err);
    }
    if (status == LQ_OK && lq_encode_uses_importance(dtype)) {
        job.importance = importance.values;
        job.mat_count = importance.mat_count;
    }
    if (status == LQ_OK) {
        status = lq_encode_tensor(&job, err);
    }
    if (status == LQ_OK) {
        struct lq_model_tensor encoded = *tensor;
        encoded.dtype = dtype;
        encoded.permute_heads = 0;
        encoded.add_one = false;
        encoded.size_bytes = blocks.size_bytes;
        status = lq_tensor_error_measure(tensor, job.data, &encoded, blocks.data, lq_run_pool(run),
                                         &error, err);
        *mse = error.mse;
    }
    lq_buffer_fini(&blocks);
    return status;
}

static uint64_t extra_bytes(const struct lq_model_tensor *tensor, enum lq_dtype from,
                            enum lq_dtype to)
{
    return lq_level_tensor_bytes(tensor, to) - lq_level_tensor_bytes(tensor, from);
}

static enum lq_status run_promotion(struct lq_run *run, struct lq_error *err)
{
    const struct promotion_state *state = lq_run_state(run);
    double before = 0.0;
    double after = 0.0;
    enum lq_status status = measure(run, &state->tensor, state->from, &before, err);
    if (status == LQ_OK) {
        status = measure(run, &state->tensor, state->to, &after, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    char size[32];
    struct lq_buffer line;
    lq_buffer_init(&line);
    lq_buffer_printf(
        &line, "  %s: %s instead of %s for %zu super weight%s, +%s, mse %.3g -> %.3g\n",
        state->tensor.name, lq_dtype_name((uint32_t)state->to),
        lq_dtype_name((uint32_t)state->from), state->spike_count,
        state->spike_count == 1 ? "" : "s",
        lq_text_size(extra_bytes(&state->tensor, state->from, state->to), size, sizeof size),
        before, after);
    status = line.failed ? lq_error_nomem(err, "a summary")
                         : lq_run_write(run, "line", line.data, line.size_bytes, err);
    lq_buffer_fini(&line);
    return status;
}

static enum lq_status add_tensor(struct lq_expand *expand, const struct lq_promotion *promotion,
                                 struct lq_ref *ref, struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expand);
    struct promotion_state *state = lq_arena_get(arena, sizeof *state);
    char *spikes = lq_arena_printf(arena, "%zu", promotion->spike_count);
    if (state == NULL || spikes == NULL) {
        return lq_error_nomem(err, "a step");
    }
    const struct lq_model_tensor *tensor = promotion->tensor;
    *state =
        (struct promotion_state){*tensor, promotion->from, promotion->to, promotion->spike_count};
    struct lq_step_param params[LQ_TENSOR_PARAMS_MAX + 4];
    struct lq_step_input inputs[2] = {{"weights", promotion->weights},
                                      {"importance", promotion->importance}};
    struct lq_step_output output = {.name = "line"};
    struct lq_step step = {
        .op = "gguf.promotion",
        .version = 5,
        .label = tensor->name,
        .run = run_promotion,
        .state = state,
        .params = params,
        .inputs = inputs,
        .input_count = promotion->importance.kind == LQ_REF_NONE ? 1 : 2,
        .outputs = &output,
        .output_count = 1,
        .memory_bytes =
            lq_encode_memory(tensor, promotion->to) + lq_level_tensor_bytes(tensor, promotion->to),
        .cost = 100 + lq_level_tensor_elems(tensor) / 8,
    };
    enum lq_status status = lq_inputs_tensor_params(tensor, arena, params, &step.param_count, err);
    params[step.param_count++] = (struct lq_step_param){"name", tensor->name};
    params[step.param_count++] =
        (struct lq_step_param){"from", lq_dtype_name((uint32_t)promotion->from)};
    params[step.param_count++] =
        (struct lq_step_param){"to", lq_dtype_name((uint32_t)promotion->to)};
    params[step.param_count++] = (struct lq_step_param){"spikes", spikes};
    size_t index = 0;
    if (status == LQ_OK) {
        status = lq_expand_add_step(expand, &step, &index, err);
    }
    *ref = lq_ref_step(index, "line");
    return status;
}

/* ---- the text ---- */

static enum lq_status run_summary(struct lq_run *run, struct lq_error *err)
{
    enum lq_status status = lq_run_write_input(run, "summary", "head", err);
    char name[32];
    for (size_t i = 0; status == LQ_OK; i++) {
        (void)snprintf(name, sizeof name, "line%zu", i);
        if (!lq_run_has_input(run, name)) {
            break;
        }
        status = lq_run_write_input(run, "summary", name, err);
    }
    return status;
}

static const char *make_head(struct lq_expand *expand, const struct lq_promotion *promotions,
                             size_t count)
{
    uint64_t extra = 0;
    for (size_t i = 0; i < count; i++) {
        extra += extra_bytes(promotions[i].tensor, promotions[i].from, promotions[i].to);
    }
    char size[32];
    return lq_arena_printf(lq_expand_arena(expand),
                           "%s: %zu tensor%s kept in higher precision for super weights, +%s\n",
                           lq_artifact_name(lq_expand_artifact(expand)), count,
                           count == 1 ? "" : "s", lq_text_size(extra, size, sizeof size));
}

enum lq_status lq_promotion_add_summary(struct lq_expand *expand,
                                        const struct lq_promotion *promotions, size_t count,
                                        struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expand);
    if (count == 0) {
        return LQ_OK;
    }
    struct lq_step_input *inputs = lq_arena_get_array(arena, count + 1, sizeof *inputs);
    const char *head = make_head(expand, promotions, count);
    if (inputs == NULL || head == NULL) {
        return lq_error_nomem(err, "a step");
    }
    enum lq_status status = LQ_OK;
    inputs[0] = (struct lq_step_input){"head", lq_ref_bytes(head, strlen(head))};
    for (size_t i = 0; status == LQ_OK && i < count; i++) {
        inputs[i + 1].name = lq_arena_printf(arena, "line%zu", i);
        status = inputs[i + 1].name == NULL
                     ? lq_error_nomem(err, "a step")
                     : add_tensor(expand, &promotions[i], &inputs[i + 1].ref, err);
    }
    struct lq_step_output output = {.name = "summary"};
    struct lq_step step = {.op = "gguf.summary",
                           .version = 1,
                           .label = lq_artifact_name(lq_expand_artifact(expand)),
                           .run = run_summary,
                           .inputs = inputs,
                           .input_count = count + 1,
                           .outputs = &output,
                           .output_count = 1};
    size_t index = 0;
    if (status == LQ_OK) {
        status = lq_expand_add_step(expand, &step, &index, err);
    }
    struct lq_ref ref = lq_ref_step(index, "summary");
    return status == LQ_OK ? lq_expand_bind_output(expand, "summary", &ref, err) : status;
}
