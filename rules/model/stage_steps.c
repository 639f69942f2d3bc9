#include "rules/model/stage_steps.h"

#include <inttypes.h>
#include <stdio.h>

#include "engine/base/checked.h"
#include "rules/model/batch_flow.h"
#include "rules/model/calibrate_parts.h"
#include "rules/model/forward_run.h"
#include "rules/model/moments.h"
#include "rules/model/tensor_ref.h"

enum { STAGE_VERSION = 1 };

static const char *const stage_names[] = {
    [LQ_STAGE_WHOLE] = "whole",
    [LQ_STAGE_ATTN] = "attn",
    [LQ_STAGE_ATTN_OUTPUT] = "attn_output",
    [LQ_STAGE_FFN] = "ffn",
    [LQ_STAGE_FFN_DOWN] = "ffn_down",
    [LQ_STAGE_END] = "end",
};

struct lq_stages {
    struct lq_calibrate_request request;
    struct lq_calibrate_expansion expansion;
    struct lq_ref replaced[LQ_LAYER_WEIGHT_COUNT]; /* LQ_REF_NONE: the model's own */
    struct lq_ref rows;                            /* LQ_REF_NONE: embeddings */
};

/* ---- running ---- */

/* The state of a step. */
struct stage_state {
    struct lq_calibrate_layer layer;
    enum lq_forward_stage stage;
    bool embeds;
    bool keeps; /* its moments are not transient */
};

struct stage_run {
    struct lq_calibrate_io io;
    const struct stage_state *state;
    struct lq_forward *forward;
    struct lq_moments moments;
};

static bool moves_rows(enum lq_forward_stage stage)
{
    return stage == LQ_STAGE_FFN || stage == LQ_STAGE_END;
}

/* Columns of the input that a stage ends at; 0: none. */
static size_t measured_cols(const struct lq_hparams *hparams, enum lq_forward_stage stage)
{
    enum lq_layer_input input = lq_forward_stage_input(stage);
    return input == LQ_LAYER_INPUT_COUNT ? 0 : lq_layer_input_cols(hparams, input);
}

static enum lq_status read_batch(void *user, size_t sample, size_t count, float *hidden,
                                 struct lq_error *err)
{
    struct stage_run *stage_run = user;
    return lq_calibrate_read_rows(&stage_run->io, "hidden", sample, count, hidden, err);
}

static enum lq_status write_batch(void *user, size_t sample, size_t count, float *hidden,
                                  struct lq_error *err)
{
    struct stage_run *stage_run = user;
    (void)sample;
    return lq_calibrate_write_rows(&stage_run->io, "hidden", hidden,
                                   count * stage_run->io.sequence_length, err);
}

static enum lq_status run_batch(void *user, size_t sample, size_t count, float *hidden,
                                struct lq_error *err)
{
    struct stage_run *stage_run = user;
    struct lq_calibrate_io *io = &stage_run->io;
    size_t first_row = sample * io->sequence_length;
    size_t rows = count * io->sequence_length;
    enum lq_status status = LQ_OK;
    if (stage_run->state->embeds) {
        status =
            lq_forward_embed(stage_run->forward, io->tokens.tokens + first_row, rows, hidden, err);
    }
    if (status == LQ_OK) {
        status = lq_forward_layer(stage_run->forward, hidden, count, true, false, err);
    }
    lq_run_progress(io->run, first_row + rows, (uint64_t)io->sample_count * io->sequence_length,
                    "tokens");
    return status;
}

static void watch_input(void *user, enum lq_layer_input input, size_t col, const float *values,
                        size_t count)
{
    struct stage_run *stage_run = user;
    (void)input;
    (void)col;
    lq_moments_add(&stage_run->moments, lq_run_pool(stage_run->io.run), values, count);
}

static enum lq_status write_piece(void *user, const void *data, size_t size_bytes,
                                  struct lq_error *err)
{
    return lq_run_write(user, "moments", data, size_bytes, err);
}

static enum lq_status write_moments(struct stage_run *stage_run, struct lq_error *err)
{
    struct lq_run *run = stage_run->io.run;
    enum lq_status status = lq_moments_finish(&stage_run->moments, lq_run_pool(run), err);
    if (status == LQ_OK && !stage_run->state->keeps) {
        lq_run_hold(run, "moments");
    }
    return status == LQ_OK ? lq_moments_write(&stage_run->moments, write_piece, run, err) : status;
}

static enum lq_status stream_samples(struct stage_run *stage_run,
                                     const struct lq_forward_run *forward_run, struct lq_error *err)
{
    struct lq_calibrate_io *io = &stage_run->io;
    bool writes = moves_rows(stage_run->state->stage);
    const struct lq_batch_flow flow = {
        .pool = lq_run_pool(io->run),
        .sample_count = io->sample_count,
        .batch_samples = lq_forward_batch_samples(stage_run->forward),
        .sample_values = (size_t)io->sequence_length * io->layer->hparams.width,
        .read = stage_run->state->embeds ? NULL : read_batch,
        .compute = run_batch,
        .write = writes ? write_batch : NULL,
        .user = stage_run};
    enum lq_status status = lq_forward_load_layer(stage_run->forward, io->layer->layer, err);
    if (status == LQ_OK && writes) {
        lq_forward_run_hold(forward_run, "hidden");
        status = lq_calibrate_write_header(io, "hidden", err);
    }
    return status == LQ_OK ? lq_batch_flow_run(&flow, err) : status;
}

static enum lq_status run_stage(struct lq_run *run, struct lq_error *err)
{
    const struct stage_state *state = lq_run_state(run);
    struct stage_run stage_run = {.io = {.run = run, .layer = &state->layer}, .state = state};
    struct lq_forward_run forward_run = {0};
    enum lq_status status = state->embeds ? lq_calibrate_open_tokens(&stage_run.io, err)
                                          : lq_calibrate_open_rows(&stage_run.io, "hidden", err);
    if (status == LQ_OK) {
        size_t cols = measured_cols(&state->layer.hparams, state->stage);
        status = lq_moments_init(&stage_run.moments, cols, err);
    }
    if (status == LQ_OK) {
        status = lq_forward_run_open(&forward_run, run, err);
    }
    if (status == LQ_OK) {
        struct lq_weight_source weights = lq_calibrate_weights(&stage_run.io);
        struct lq_forward_env env = lq_forward_run_env(&forward_run, weights, LQ_EIMPORTANCE);
        env.only_products = true;
        env.stage = state->stage;
        env.watch = watch_input;
        env.watch_user = &stage_run;
        status = lq_forward_create(&stage_run.forward, &state->layer.hparams, &env,
                                   stage_run.io.sequence_length, err);
    }
    if (status == LQ_OK) {
        status = stream_samples(&stage_run, &forward_run, err);
    }
    if (status == LQ_OK && stage_run.moments.col_count > 0) {
        status = write_moments(&stage_run, err);
    }
    lq_moments_fini(&stage_run.moments);
    lq_forward_destroy(stage_run.forward);
    lq_forward_run_close(&forward_run);
    return status;
}

/* ---- the expansion ---- */

enum lq_status lq_stages_begin(struct lq_expand *expand, const struct lq_artifact *model,
                               const struct lq_artifact *calibration, struct lq_stages **out,
                               struct lq_error *err)
{
    struct lq_stages *stages = lq_arena_get(lq_expand_arena(expand), sizeof *stages);
    if (stages == NULL) {
        return lq_error_nomem(err, "the steps of a layer");
    }
    *stages = (struct lq_stages){.request = {.model = model, .calibration = calibration}};
    stages->expansion =
        (struct lq_calibrate_expansion){.expand = expand, .request = &stages->request};
    *out = stages;
    enum lq_status status = lq_calibrate_read_model(&stages->expansion, err);
    if (status == LQ_OK && stages->expansion.hparams.expert_count != 0) {
        status = lq_error_set(err, LQ_EUNSUPPORTED,
                              "%s: mixtures of experts cannot be quantized layer by layer here; "
                              "GGUF levels take them",
                              lq_tensor_model_name(expand, model));
    }
    return status;
}

const struct lq_hparams *lq_stages_hparams(const struct lq_stages *stages)
{
    return &stages->expansion.hparams;
}

const struct lq_tensor_index *lq_stages_index(const struct lq_stages *stages)
{
    return &stages->expansion.index;
}

/* Makes the newest tensor of the plan one of floats that `ref` gives. */
static enum lq_status replace_tensor(struct lq_stages *stages, struct lq_calibrate_plan *plan,
                                     const char *name, const struct lq_ref *ref,
                                     struct lq_error *err)
{
    struct lq_model_tensor *tensor = &plan->state->tensors[plan->state->tensor_count - 1];
    const char *text = lq_arena_printf(lq_expand_arena(stages->expansion.expand),
                                       "F32 %" PRIu64 "x%" PRIu64 " permute %u", tensor->ne[0],
                                       tensor->ne[1], (unsigned)tensor->permute_heads);
    uint64_t count = 0;
    if (text == NULL || !lq_mul_u64(tensor->ne[0], tensor->ne[1], &count) ||
        !lq_mul_u64(count, sizeof(float), &tensor->size_bytes)) {
        return lq_error_nomem(err, "a step");
    }
    tensor->dtype = LQ_DTYPE_F32;
    tensor->pieces = NULL;
    tensor->piece_count = 0;
    tensor->literal = NULL;
    plan->params[plan->param_count - 1].value = text;
    plan->inputs[plan->input_count++] = (struct lq_step_input){name, *ref};
    return LQ_OK;
}

static enum lq_status plan_weights(struct lq_stages *stages, uint32_t layer,
                                   enum lq_forward_stage stage, struct lq_calibrate_plan *plan,
                                   struct lq_error *err)
{
    struct lq_calibrate_expansion *expansion = &stages->expansion;
    enum lq_status status = lq_calibrate_plan_begin(expansion, layer, plan, err);
    for (int w = 0; status == LQ_OK && w < LQ_LAYER_WEIGHT_COUNT; w++) {
        enum lq_layer_weight weight = (enum lq_layer_weight)w;
        char path[LQ_WEIGHT_NAME_BYTES];
        const char *name = lq_layer_weight_name(weight);
        if (!lq_hparams_has(&expansion->hparams, weight) ||
            !lq_forward_stage_reads(stage, weight)) {
            continue;
        }
        size_t inputs = plan->input_count;
        status = lq_calibrate_plan_tensor(expansion, plan,
                                          lq_layer_weight_path(layer, weight, path), name, err);
        if (status == LQ_OK && stages->replaced[w].kind != LQ_REF_NONE) {
            plan->input_count = inputs;
            status = replace_tensor(stages, plan, name, &stages->replaced[w], err);
        }
    }
    return status;
}

static enum lq_status plan_rows(struct lq_stages *stages, struct lq_calibrate_plan *plan,
                                struct lq_error *err)
{
    if (stages->rows.kind != LQ_REF_NONE) {
        plan->inputs[plan->input_count++] = (struct lq_step_input){"hidden", stages->rows};
        return LQ_OK;
    }
    plan->inputs[plan->input_count++] =
        (struct lq_step_input){"tokens", lq_ref_artifact(stages->request.calibration, "main")};
    return lq_calibrate_plan_tensor(&stages->expansion, plan, "token_embd.weight", "token_embd",
                                    err);
}

static enum lq_status add_stage(struct lq_stages *stages, uint32_t layer,
                                enum lq_forward_stage stage, size_t *step, struct lq_error *err)
{
    struct lq_calibrate_expansion *expansion = &stages->expansion;
    struct lq_calibrate_plan plan;
    struct stage_state *state = lq_arena_get(lq_expand_arena(expansion->expand), sizeof *state);
    struct lq_step_output outputs[2];
    size_t output_count = 0;
    char label[2 * LQ_WEIGHT_NAME_BYTES];
    enum lq_status status = state == NULL ? lq_error_nomem(err, "a step")
                                          : plan_weights(stages, layer, stage, &plan, err);
    if (status == LQ_OK) {
        status = plan_rows(stages, &plan, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    uint64_t cols = measured_cols(&expansion->hparams, stage);
    *state = (struct stage_state){.layer = *plan.state,
                                  .stage = stage,
                                  .embeds = stages->rows.kind == LQ_REF_NONE,
                                  .keeps = layer == 0 && stage == LQ_STAGE_ATTN};
    plan.params[plan.param_count++] = (struct lq_step_param){"stage", stage_names[stage]};
    if (cols != 0) {
        outputs[output_count++] = (struct lq_step_output){"moments", !state->keeps};
    }
    if (moves_rows(stage)) {
        outputs[output_count++] = (struct lq_step_output){"hidden", true};
    }
    (void)snprintf(label, sizeof label, "blk.%u %s", (unsigned)layer, stage_names[stage]);
    const struct lq_step added = {
        .op = "forward.stage",
        .version = STAGE_VERSION,
        .label = label,
        .run = run_stage,
        .state = state,
        .params = plan.params,
        .param_count = plan.param_count,
        .inputs = plan.inputs,
        .input_count = plan.input_count,
        .outputs = outputs,
        .output_count = output_count,
        .parallel = true,
        .memory_bytes =
            lq_calibrate_guess_memory(expansion, lq_forward_layer_memory) + lq_moments_memory(cols),
        .cost = 1000 + expansion->cost / 2,
    };
    status = lq_expand_add_step(expansion->expand, &added, step, err);
    if (moves_rows(stage)) {
        stages->rows = lq_ref_step(*step, "hidden");
    }
    return status;
}

enum lq_status lq_stages_measure(struct lq_stages *stages, uint32_t layer,
                                 enum lq_layer_input input, size_t *step, struct lq_error *err)
{
    static const enum lq_forward_stage all[] = {LQ_STAGE_ATTN, LQ_STAGE_ATTN_OUTPUT, LQ_STAGE_FFN,
                                                LQ_STAGE_FFN_DOWN};
    for (size_t i = 0; i < LQ_COUNT_OF(all); i++) {
        if (lq_forward_stage_input(all[i]) == input) {
            return add_stage(stages, layer, all[i], step, err);
        }
    }
    return lq_error_set(err, LQ_EINTERNAL, "no part of a layer ends at input %d", (int)input);
}

void lq_stages_replace(struct lq_stages *stages, enum lq_layer_weight weight,
                       const struct lq_ref *ref)
{
    stages->replaced[weight] = *ref;
}

enum lq_status lq_stages_leave(struct lq_stages *stages, uint32_t layer, struct lq_error *err)
{
    size_t step = 0;
    enum lq_status status = layer + 1 == stages->expansion.hparams.layer_count
                                ? LQ_OK
                                : add_stage(stages, layer, LQ_STAGE_END, &step, err);
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        stages->replaced[w] = (struct lq_ref){.kind = LQ_REF_NONE};
    }
    return status;
}
