#include "rules/quant/awq_steps.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "rules/model/calibrate.h"
#include "rules/model/moments.h"
#include "rules/model/tensor_ref.h"
#include "rules/quant/awq_parts.h"
#include "rules/quant/hf_folder.h"
#include "rules/quant/levels.h"

enum {
    PART_VERSION = 1,
    TENSOR_VERSION = 1,
    STEP_INPUTS_MAX = LQ_LAYER_WEIGHT_COUNT + 3,
    STEP_PARAMS_MAX = LQ_LAYER_WEIGHT_COUNT + 9,
};

/* Matrices that share an input, and what makes it: a norm, or rows of the matrix before. */
static const struct {
    const char *name;
    const char *label;
    enum lq_layer_input input;
    enum lq_layer_weight norm; /* LQ_LAYER_WEIGHT_COUNT: the last rows of `before` or, where they
                                  are one matrix, of `fused`, and its bias */
    enum lq_layer_weight before;
    enum lq_layer_weight fused;
    enum lq_layer_weight bias;
} parts[LQ_AWQ_PART_COUNT] = {
    {"attention", "attn", LQ_INPUT_ATTN, LQ_WEIGHT_ATTN_NORM, LQ_LAYER_WEIGHT_COUNT,
     LQ_LAYER_WEIGHT_COUNT, LQ_LAYER_WEIGHT_COUNT},
    {"attention output", "attn_output", LQ_INPUT_ATTN_OUTPUT, LQ_LAYER_WEIGHT_COUNT,
     LQ_WEIGHT_ATTN_V, LQ_WEIGHT_ATTN_QKV, LQ_WEIGHT_ATTN_V_BIAS},
    {"feed-forward", "ffn", LQ_INPUT_FFN, LQ_WEIGHT_FFN_NORM, LQ_LAYER_WEIGHT_COUNT,
     LQ_LAYER_WEIGHT_COUNT, LQ_LAYER_WEIGHT_COUNT},
    {"feed-forward down", "ffn_down", LQ_INPUT_FFN_DOWN, LQ_LAYER_WEIGHT_COUNT, LQ_WEIGHT_FFN_UP,
     LQ_WEIGHT_FFN_GATE_UP, LQ_WEIGHT_FFN_UP_BIAS},
};

const char *lq_awq_part_name(size_t part)
{
    return parts[part].name;
}

static size_t part_of(enum lq_layer_weight weight)
{
    size_t part = 0;
    while (part < LQ_AWQ_PART_COUNT && lq_layer_weight_input(weight) != parts[part].input) {
        part++;
    }
    return part;
}

/* A tensor of a layer, with rows as the checkpoint has them; NULL: the layers have none. */
static const struct lq_model_tensor *find_tensor(const struct lq_awq_job *job, uint32_t layer,
                                                 enum lq_layer_weight weight)
{
    char name[LQ_WEIGHT_NAME_BYTES];
    if (weight == LQ_LAYER_WEIGHT_COUNT || !lq_hparams_has(&job->hparams, weight)) {
        return NULL;
    }
    return lq_tensor_index_find(&job->index, lq_layer_weight_path(layer, weight, name));
}

/* Whether the part's scales have a place to go. Where several heads of queries share one of values,
 * a row of values meets several columns of the output's matrix, and there is none. */
static bool has_scales(const struct lq_awq_job *job, size_t part)
{
    const struct lq_hparams *hparams = &job->hparams;
    bool fused = lq_hparams_has(hparams, LQ_WEIGHT_ATTN_QKV_BIAS);
    return parts[part].input != LQ_INPUT_ATTN_OUTPUT ||
           (hparams->kv_head_count == hparams->head_count && !fused);
}

/* ---- steps in the making ---- */

struct plan {
    struct lq_step_input inputs[STEP_INPUTS_MAX];
    struct lq_step_param params[STEP_PARAMS_MAX];
    size_t input_count;
    size_t param_count;
};

static void add_input(struct plan *plan, const char *name, struct lq_ref ref)
{
    plan->inputs[plan->input_count++] = (struct lq_step_input){name, ref};
}

static void add_param(struct plan *plan, const char *name, const char *value)
{
    plan->params[plan->param_count++] = (struct lq_step_param){name, value};
}

/* A tensor as an input of a step, with type and shape as a parameter of the same name. */
static enum lq_status add_tensor_input(const struct lq_awq_job *job, struct plan *plan,
                                       const char *name, const struct lq_model_tensor *tensor,
                                       struct lq_error *err)
{
    struct lq_ref ref;
    const char *shape = lq_arena_printf(lq_expand_arena(job->expand), "%s %" PRIu64 "x%" PRIu64,
                                        lq_dtype_name(tensor->dtype), tensor->ne[0], tensor->ne[1]);
    enum lq_status status = shape == NULL
                                ? lq_error_nomem(err, "a step")
                                : lq_tensor_ref(job->expand, job->model, tensor, &ref, err);
    if (status == LQ_OK) {
        add_param(plan, name, shape);
        add_input(plan, name, ref);
    }
    return status;
}

static enum lq_status add_grid(const struct lq_awq_job *job, const struct lq_awq_grid *grid,
                               struct plan *plan, struct lq_error *err)
{
    const char *size = lq_arena_printf(lq_expand_arena(job->expand), "%zu", grid->group_size);
    add_param(plan, "group_size", size);
    add_param(plan, "symmetric", grid->symmetric ? "true" : "false");
    add_param(plan, "scale_type", lq_dtype_name(grid->scale_type));
    return size == NULL ? lq_error_nomem(err, "a step") : LQ_OK;
}

/* AWQ's scales are halves; compressed-tensors' have the type of the model. */
static struct lq_awq_grid grid_of(const struct lq_awq_job *job,
                                  const struct lq_model_tensor *tensor)
{
    return (struct lq_awq_grid){.group_size = job->group_size,
                                .symmetric = job->symmetric,
                                .scale_type =
                                    job->format == LQ_AWQ_GEMM ? LQ_DTYPE_F16 : tensor->dtype};
}

static struct lq_ref moments_ref(const struct lq_awq_job *job, uint32_t layer, size_t part)
{
    return lq_ref_step(job->layers[layer], lq_calibrate_moments_output(parts[part].input));
}

/* ---- a part ---- */

static enum lq_status plan_part(const struct lq_awq_job *job, uint32_t layer, size_t part,
                                struct lq_awq_part_state *state, struct plan *plan,
                                struct lq_error *err)
{
    enum lq_layer_weight front =
        parts[part].norm == LQ_LAYER_WEIGHT_COUNT ? parts[part].bias : parts[part].norm;
    const struct lq_model_tensor *tensor = find_tensor(job, layer, front);
    enum lq_status status = LQ_OK;
    add_input(plan, "moments", moments_ref(job, layer, part));
    if (tensor != NULL) {
        state->has_front = true;
        state->front = *tensor;
        status = add_tensor_input(job, plan, "front", tensor, err);
    }
    for (int w = 0; status == LQ_OK && w < LQ_LAYER_WEIGHT_COUNT; w++) {
        enum lq_layer_weight weight = (enum lq_layer_weight)w;
        tensor = find_tensor(job, layer, weight);
        if (tensor == NULL || part_of(weight) != part) {
            continue;
        }
        size_t at = state->tensor_count++;
        state->grid = grid_of(job, tensor);
        state->tensors[at] = *tensor;
        state->tensors[at].permute_heads = 0;
        state->inputs[at] = lq_layer_weight_name(weight);
        status = add_tensor_input(job, plan, state->inputs[at], tensor, err);
    }
    return status == LQ_OK ? add_grid(job, &state->grid, plan, err) : status;
}

static uint64_t part_memory(const struct lq_awq_part_state *state, uint64_t *operations)
{
    uint64_t cols = state->tensors[0].ne[0];
    uint64_t values = 0;
    for (size_t i = 0; i < state->tensor_count; i++) {
        values += state->tensors[i].ne[0] * state->tensors[i].ne[1];
    }
    *operations = values * cols * LQ_AWQ_TRIALS;
    return (values + cols * cols + cols * LQ_AWQ_STRIP_ROWS * (LQ_AWQ_TRIALS + 1) * 2) *
           sizeof(float);
}

static enum lq_status add_part(struct lq_awq_job *job, uint32_t layer, size_t part,
                               struct lq_error *err)
{
    struct lq_awq_part_state *state = lq_arena_get(lq_expand_arena(job->expand), sizeof *state);
    struct plan plan = {.input_count = 0};
    struct lq_step_output outputs[3] = {{"scales", false}, {"trials", false}, {"divided", false}};
    char label[LQ_WEIGHT_NAME_BYTES];
    size_t *step = &job->parts[layer * LQ_AWQ_PART_COUNT + part];
    *step = SIZE_MAX;
    if (!has_scales(job, part)) {
        return LQ_OK;
    }
    if (state == NULL) {
        return lq_error_nomem(err, "a step");
    }
    *state = (struct lq_awq_part_state){.tensor_count = 0};
    enum lq_status status = plan_part(job, layer, part, state, &plan, err);
    if (status != LQ_OK) {
        return status;
    }
    uint64_t operations = 0;
    uint64_t memory_bytes = part_memory(state, &operations);
    (void)snprintf(label, sizeof label, "blk.%u.%s", (unsigned)layer, parts[part].label);
    const struct lq_step added = {.op = "awq.scales",
                                  .version = PART_VERSION,
                                  .label = label,
                                  .run = lq_awq_run_part,
                                  .state = state,
                                  .params = plan.params,
                                  .param_count = plan.param_count,
                                  .inputs = plan.inputs,
                                  .input_count = plan.input_count,
                                  .outputs = outputs,
                                  .output_count = state->has_front ? 3 : 2,
                                  .parallel = true,
                                  .memory_bytes = memory_bytes,
                                  .cost = 1000 + operations / 50000};
    status = lq_expand_add_step(job->expand, &added, step, err);
    if (status == LQ_OK && state->has_front) {
        const struct lq_model_tensor *front = lq_tensor_index_find(&job->index, state->front.name);
        job->divided[front - job->index.tensors] = lq_ref_step(*step, "divided");
    }
    return status;
}

/* ---- a matrix ---- */

/* The part whose scales divide rows of this matrix; LQ_AWQ_PART_COUNT: none do. */
static size_t part_behind(const struct lq_awq_job *job, enum lq_layer_weight weight)
{
    for (size_t part = 0; part < LQ_AWQ_PART_COUNT; part++) {
        bool is_before = weight == parts[part].before || weight == parts[part].fused;
        if (parts[part].norm == LQ_LAYER_WEIGHT_COUNT && is_before && has_scales(job, part)) {
            return part;
        }
    }
    return LQ_AWQ_PART_COUNT;
}

static enum lq_status plan_tensor(const struct lq_awq_job *job, uint32_t layer,
                                  enum lq_layer_weight weight, struct lq_awq_tensor_state *state,
                                  struct plan *plan, struct lq_error *err)
{
    const size_t *steps = job->parts + layer * LQ_AWQ_PART_COUNT;
    size_t own = part_of(weight);
    size_t behind = part_behind(job, weight);
    enum lq_status status = add_tensor_input(job, plan, "weights", &state->tensor, err);
    add_input(plan, "moments", moments_ref(job, layer, own));
    add_param(plan, "cut", state->cut ? "true" : "false");
    add_param(plan, "format", state->format == LQ_AWQ_GEMM ? "awq" : "compressed-tensors");
    if (steps[own] != SIZE_MAX) {
        add_input(plan, "scales", lq_ref_step(steps[own], "scales"));
    }
    if (status == LQ_OK && behind != LQ_AWQ_PART_COUNT) {
        state->row_count = lq_layer_input_cols(&job->hparams, parts[behind].input);
        state->row_first = state->tensor.ne[1] - state->row_count;
        const char *first =
            lq_arena_printf(lq_expand_arena(job->expand), "%" PRIu64, state->row_first);
        add_input(plan, "row_scales", lq_ref_step(steps[behind], "scales"));
        add_param(plan, "row_scales", first);
        status = first == NULL ? lq_error_nomem(err, "a step") : LQ_OK;
    }
    return status == LQ_OK ? add_grid(job, &state->grid, plan, err) : status;
}

/* Queries and keys meet in products of their own, where an error of the range grows: their groups
 * keep all of it, as in the reference. */
static bool is_cut(const struct lq_awq_job *job, enum lq_layer_weight weight)
{
    return job->cut && weight != LQ_WEIGHT_ATTN_Q && weight != LQ_WEIGHT_ATTN_K &&
           weight != LQ_WEIGHT_ATTN_QKV;
}

static enum lq_status add_tensor(struct lq_awq_job *job, uint32_t layer,
                                 enum lq_layer_weight weight, const struct lq_model_tensor *tensor,
                                 struct lq_error *err)
{
    struct lq_awq_tensor_state *state = lq_arena_get(lq_expand_arena(job->expand), sizeof *state);
    struct plan plan = {.input_count = 0};
    size_t number = (size_t)(tensor - job->index.tensors);
    if (state == NULL) {
        return lq_error_nomem(err, "a step");
    }
    *state = (struct lq_awq_tensor_state){.grid = grid_of(job, tensor),
                                          .tensor = *tensor,
                                          .format = job->format,
                                          .cut = is_cut(job, weight)};
    state->tensor.permute_heads = 0; /* rows stay where the checkpoint has them */
    job->scale_types[number] = state->grid.scale_type;
    enum lq_status status = plan_tensor(job, layer, weight, state, &plan, err);
    bool has_zeros = job->format == LQ_AWQ_GEMM || !job->symmetric;
    const struct lq_step_output outputs[] = {
        {"weights", false}, {"scale", false}, {"error", false}, {"zeros", false}};
    uint64_t values = tensor->ne[0] * tensor->ne[1];
    const struct lq_step added = {
        .op = "awq.tensor",
        .version = TENSOR_VERSION,
        .label = tensor->name,
        .run = lq_awq_run_tensor,
        .state = state,
        .params = plan.params,
        .param_count = plan.param_count,
        .inputs = plan.inputs,
        .input_count = plan.input_count,
        .outputs = outputs,
        .output_count = has_zeros ? LQ_COUNT_OF(outputs) : LQ_COUNT_OF(outputs) - 1,
        .parallel = true,
        .memory_bytes = values * 2 + tensor->ne[0] * tensor->ne[0] * sizeof(float),
        .cost = 100 + values * (tensor->ne[0] * 2 + job->group_size * 10) / 50000};
    return status == LQ_OK ? lq_expand_add_step(job->expand, &added, &job->tensors[number], err)
                           : status;
}

/* ---- all of them ---- */

static enum lq_status check_shape(const struct lq_awq_job *job,
                                  const struct lq_model_tensor *tensor, struct lq_error *err)
{
    if (tensor->ne[0] % job->group_size != 0) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            "%s: '%s' has %" PRIu64
                            " columns, which is no multiple of the group size %zu; a smaller "
                            "group_size may divide them",
                            lq_tensor_model_name(job->expand, job->model), tensor->name,
                            tensor->ne[0], job->group_size);
    }
    if (job->format == LQ_AWQ_GEMM && tensor->ne[1] % LQ_WORD_LEVELS != 0) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            "%s: '%s' has %" PRIu64
                            " rows, and the format awq packs eight of them into a word; the format "
                            "compressed-tensors takes any number",
                            lq_tensor_model_name(job->expand, job->model), tensor->name,
                            tensor->ne[1]);
    }
    return LQ_OK;
}

static enum lq_status check_layer(const struct lq_awq_job *job, uint32_t layer,
                                  struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    for (int w = 0; status == LQ_OK && w < LQ_LAYER_WEIGHT_COUNT; w++) {
        enum lq_layer_weight weight = (enum lq_layer_weight)w;
        char name[LQ_WEIGHT_NAME_BYTES];
        if (!lq_hparams_has(&job->hparams, weight)) {
            continue;
        }
        const struct lq_model_tensor *tensor = find_tensor(job, layer, weight);
        status = tensor == NULL
                     ? lq_error_set(err, LQ_EMODEL, "the tensor '%s' is missing",
                                    lq_layer_weight_path(layer, weight, name))
                     : lq_hf_folder_check(job->expand, job->model, tensor, "AWQ", "scale", err);
        if (status == LQ_OK && lq_layer_weight_input(weight) != LQ_LAYER_INPUT_COUNT) {
            status = check_shape(job, tensor, err);
        }
    }
    return status;
}

static enum lq_status add_layer(struct lq_awq_job *job, uint32_t layer, struct lq_error *err)
{
    enum lq_status status = check_layer(job, layer, err);
    for (size_t part = 0; status == LQ_OK && part < LQ_AWQ_PART_COUNT; part++) {
        status = add_part(job, layer, part, err);
    }
    for (int w = 0; status == LQ_OK && w < LQ_LAYER_WEIGHT_COUNT; w++) {
        enum lq_layer_weight weight = (enum lq_layer_weight)w;
        const struct lq_model_tensor *tensor = find_tensor(job, layer, weight);
        if (tensor != NULL && lq_layer_weight_input(weight) != LQ_LAYER_INPUT_COUNT) {
            status = add_tensor(job, layer, weight, tensor, err);
        }
    }
    return status;
}

enum lq_status lq_awq_add_steps(struct lq_awq_job *job, struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(job->expand);
    const struct lq_calibrate_request request = {
        .model = job->model, .calibration = job->calibration, .moments = true};
    enum lq_status status =
        lq_calibrate_ranges(job->expand, &request, &job->index, &job->hparams, &job->layers, err);
    if (status != LQ_OK) {
        return status;
    }
    if (job->hparams.expert_count > 0) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            "%s: AWQ is for models of dense layers, and not for mixtures of "
                            "experts",
                            lq_tensor_model_name(job->expand, job->model));
    }
    size_t count = job->index.tensor_count;
    job->parts = lq_arena_get_array(arena, (size_t)job->hparams.layer_count * LQ_AWQ_PART_COUNT,
                                    sizeof *job->parts);
    job->tensors = lq_arena_get_array(arena, count + 1, sizeof *job->tensors);
    job->divided = lq_arena_get_array(arena, count + 1, sizeof *job->divided);
    job->scale_types = lq_arena_get_array(arena, count + 1, sizeof *job->scale_types);
    if (job->parts == NULL || job->tensors == NULL || job->divided == NULL ||
        job->scale_types == NULL) {
        return lq_error_nomem(err, "the steps of AWQ");
    }
    for (size_t i = 0; i < count; i++) {
        job->tensors[i] = SIZE_MAX;
        job->divided[i] = (struct lq_ref){.kind = LQ_REF_NONE};
    }
    for (uint32_t layer = 0; status == LQ_OK && layer < job->hparams.layer_count; layer++) {
        status = add_layer(job, layer, err);
    }
    return status;
}
