#include "rules/quant/gptq_steps.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "engine/base/json.h"
#include "kernels/factor.h"
#include "rules/model/tensor_ref.h"
#include "rules/quant/gptq_parts.h"
#include "rules/quant/hf_folder.h"

enum {
    GROUP_VERSION = 1,
    GROUP_PARAMS_MAX = LQ_GPTQ_MATRICES_MAX + 7,
    GROUP_OUTPUTS_MAX = LQ_GPTQ_MATRICES_MAX * 5 + 1,
};

static const enum lq_layer_input inputs_in_order[] = {LQ_INPUT_ATTN, LQ_INPUT_ATTN_OUTPUT,
                                                      LQ_INPUT_FFN, LQ_INPUT_FFN_DOWN};

const char *lq_gptq_output_name(struct lq_arena *arena, enum lq_layer_weight weight,
                                enum lq_gptq_output output)
{
    static const char *const endings[] = {
        [LQ_GPTQ_QWEIGHT] = "qweight", [LQ_GPTQ_QZEROS] = "qzeros", [LQ_GPTQ_SCALES] = "scales",
        [LQ_GPTQ_G_IDX] = "g_idx",     [LQ_GPTQ_LOSS] = "loss",     [LQ_GPTQ_WEIGHTS] = "weights",
    };
    return output == LQ_GPTQ_G_IDX
               ? endings[output]
               : lq_arena_printf(arena, "%s.%s", lq_layer_weight_name(weight), endings[output]);
}

/* A step in the making. */
struct plan {
    struct lq_gptq_group *group;
    struct lq_step_input inputs[LQ_GPTQ_MATRICES_MAX + 1];
    size_t input_count;
    struct lq_step_param params[GROUP_PARAMS_MAX];
    size_t param_count;
    struct lq_step_output outputs[GROUP_OUTPUTS_MAX];
    size_t output_count;
    uint64_t elem_count;
    char label[256];
};

static enum lq_status check_shape(const struct lq_gptq_job *job,
                                  const struct lq_model_tensor *tensor, uint64_t group_size,
                                  struct lq_error *err)
{
    const char *where = lq_tensor_model_name(job->expand, job->model);
    if (tensor->ne[0] % LQ_GPTQ_COLS_STEP != 0 || tensor->ne[1] % LQ_GPTQ_COLS_STEP != 0) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            "%s: '%s' has %" PRIu64 " columns and %" PRIu64
                            " rows; GPTQ files pack 32 of either, and who reads them expects "
                            "multiples of that",
                            where, tensor->name, tensor->ne[0], tensor->ne[1]);
    }
    if (tensor->ne[0] % group_size != 0) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            "%s: '%s' has %" PRIu64 " columns, which groups of %" PRIu64
                            " do not divide; a smaller group_size, or -1, does",
                            where, tensor->name, tensor->ne[0], group_size);
    }
    return LQ_OK;
}

static void add_output(struct plan *plan, const char *name, bool transient)
{
    plan->outputs[plan->output_count++] = (struct lq_step_output){name, transient};
}

static enum lq_status plan_matrix(const struct lq_gptq_job *job, enum lq_layer_weight weight,
                                  const struct lq_model_tensor *tensor, struct plan *plan,
                                  struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(job->expand);
    struct lq_gptq_group *group = plan->group;
    size_t group_size = job->group_size < 0 ? (size_t)tensor->ne[0] : (size_t)job->group_size;
    enum lq_status status =
        lq_hf_folder_check(job->expand, job->model, tensor, "GPTQ", "quantize", err);
    if (status == LQ_OK) {
        status = check_shape(job, tensor, group_size, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    const char *shape =
        lq_arena_printf(arena, "%s %" PRIu64 "x%" PRIu64, lq_dtype_name((uint32_t)tensor->dtype),
                        tensor->ne[0], tensor->ne[1]);
    static const enum lq_gptq_output own[] = {LQ_GPTQ_QWEIGHT, LQ_GPTQ_QZEROS, LQ_GPTQ_SCALES,
                                              LQ_GPTQ_LOSS, LQ_GPTQ_WEIGHTS};
    size_t count = LQ_COUNT_OF(own) - (group->keeps_weights ? 0 : 1);
    for (size_t i = 0; i < count; i++) {
        const char *name = lq_gptq_output_name(arena, weight, own[i]);
        if (name == NULL || shape == NULL) {
            return lq_error_nomem(err, "a step");
        }
        add_output(plan, name, own[i] == LQ_GPTQ_WEIGHTS);
    }
    group->grid.group_size = group_size;
    group->weights[group->matrix_count] = weight;
    group->tensors[group->matrix_count] = *tensor;
    group->tensors[group->matrix_count].permute_heads = 0;
    group->matrix_count++;
    plan->elem_count += tensor->ne[0] * tensor->ne[1];
    size_t length = strlen(plan->label);
    (void)snprintf(plan->label + length, sizeof plan->label - length, " %s",
                   lq_layer_weight_name(weight));
    plan->params[plan->param_count++] = (struct lq_step_param){lq_layer_weight_name(weight), shape};
    plan->inputs[plan->input_count].name = lq_layer_weight_name(weight);
    return lq_tensor_ref(job->expand, job->model, tensor, &plan->inputs[plan->input_count++].ref,
                         err);
}

static enum lq_status plan_params(const struct lq_gptq_job *job, struct plan *plan,
                                  struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(job->expand);
    struct lq_buffer damp;
    lq_buffer_init(&damp);
    lq_json_format_number(&damp, job->damp);
    const struct lq_step_param params[] = {
        {"bits", lq_arena_printf(arena, "%u", job->bits)},
        {"group_size", lq_arena_printf(arena, "%lld", (long long)job->group_size)},
        {"symmetric", job->symmetric ? "true" : "false"},
        {"desc_act", job->desc_act ? "true" : "false"},
        {"zeros", job->stores_less_one ? "less one" : "as they are"},
        {"damp", damp.failed ? NULL : lq_arena_dup_string(arena, lq_buffer_text(&damp))},
        {"weights", plan->group->keeps_weights ? "kept" : "not kept"},
    };
    lq_buffer_fini(&damp);
    for (size_t i = 0; i < LQ_COUNT_OF(params); i++) {
        if (params[i].value == NULL) {
            return lq_error_nomem(err, "a step");
        }
        plan->params[plan->param_count++] = params[i];
    }
    return LQ_OK;
}

/* Hands what was quantized to the steps behind. */
static enum lq_status replace_matrices(struct lq_gptq_job *job, const struct plan *plan,
                                       size_t step, struct lq_error *err)
{
    const struct lq_tensor_index *index = lq_stages_index(job->stages);
    for (size_t i = 0; i < plan->group->matrix_count; i++) {
        enum lq_layer_weight weight = plan->group->weights[i];
        const char *name =
            lq_gptq_output_name(lq_expand_arena(job->expand), weight, LQ_GPTQ_WEIGHTS);
        if (name == NULL) {
            return lq_error_nomem(err, "a step");
        }
        const struct lq_model_tensor *tensor =
            lq_tensor_index_find(index, plan->group->tensors[i].name);
        job->matrices[tensor - index->tensors] =
            (struct lq_gptq_matrix){step, weight, plan->group->grid.group_size};
        struct lq_ref ref = lq_ref_step(step, name);
        lq_stages_replace(job->stages, weight, &ref);
    }
    return LQ_OK;
}

static enum lq_status add_group(struct lq_gptq_job *job, struct plan *plan, size_t *step,
                                struct lq_error *err)
{
    const struct lq_gptq_group *group = plan->group;
    uint64_t cols = group->tensors[0].ne[0];
    add_output(plan, lq_gptq_output_name(NULL, group->weights[0], LQ_GPTQ_G_IDX), false);
    const struct lq_step added = {
        .op = "gptq.matrices",
        .version = GROUP_VERSION,
        .label = plan->label,
        .run = lq_gptq_run_group,
        .state = group,
        .params = plan->params,
        .param_count = plan->param_count,
        .inputs = plan->inputs,
        .input_count = plan->input_count,
        .outputs = plan->outputs,
        .output_count = plan->output_count,
        .parallel = true,
        .memory_bytes = (2 * cols * cols + lq_factor_scratch((size_t)cols)) * sizeof(float) +
                        plan->elem_count / group->matrix_count * 7,
        /* Products of cols * cols for the factor and cols / 2 for each weight, at 20 a nanosecond.
         */
        .cost = 1000 + (cols * cols * cols + plan->elem_count * cols) / 20000,
    };
    return lq_expand_add_step(job->expand, &added, step, err);
}

static enum lq_status add_input(struct lq_gptq_job *job, uint32_t layer, enum lq_layer_input input,
                                struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(job->expand);
    const struct lq_hparams *hparams = lq_stages_hparams(job->stages);
    bool is_last = layer + 1 == hparams->layer_count && input == LQ_INPUT_FFN_DOWN;
    struct plan plan = {.group = lq_arena_get(arena, sizeof *plan.group)};
    size_t measured = 0;
    size_t step = 0;
    if (plan.group == NULL) {
        return lq_error_nomem(err, "a step");
    }
    *plan.group = (struct lq_gptq_group){.grid = {.bits = job->bits, .symmetric = job->symmetric},
                                         .desc_act = job->desc_act,
                                         .stores_less_one = job->stores_less_one,
                                         .keeps_weights = !is_last,
                                         .damp = job->damp};
    (void)snprintf(plan.label, sizeof plan.label, "blk.%u", (unsigned)layer);
    enum lq_status status = lq_stages_measure(job->stages, layer, input, &measured, err);
    plan.inputs[plan.input_count++] =
        (struct lq_step_input){"moments", lq_ref_step(measured, "moments")};
    for (int w = 0; status == LQ_OK && w < LQ_LAYER_WEIGHT_COUNT; w++) {
        enum lq_layer_weight weight = (enum lq_layer_weight)w;
        char name[LQ_WEIGHT_NAME_BYTES];
        if (lq_layer_weight_input(weight) != input || !lq_hparams_has(hparams, weight)) {
            continue;
        }
        const struct lq_model_tensor *tensor = lq_tensor_index_find(
            lq_stages_index(job->stages), lq_layer_weight_path(layer, weight, name));
        status = tensor == NULL ? lq_error_set(err, LQ_EMODEL, "the tensor '%s' is missing", name)
                                : plan_matrix(job, weight, tensor, &plan, err);
    }
    if (status == LQ_OK) {
        status = plan_params(job, &plan, err);
    }
    if (status == LQ_OK) {
        status = add_group(job, &plan, &step, err);
    }
    return status == LQ_OK ? replace_matrices(job, &plan, step, err) : status;
}

enum lq_status lq_gptq_add_steps(struct lq_gptq_job *job, struct lq_error *err)
{
    enum lq_status status =
        lq_stages_begin(job->expand, job->model, job->calibration, &job->stages, err);
    if (status != LQ_OK) {
        return status;
    }
    size_t count = lq_stages_index(job->stages)->tensor_count;
    job->matrices =
        lq_arena_get_array(lq_expand_arena(job->expand), count + 1, sizeof *job->matrices);
    if (job->matrices == NULL) {
        return lq_error_nomem(err, "the steps of GPTQ");
    }
    for (size_t i = 0; i < count; i++) {
        job->matrices[i] = (struct lq_gptq_matrix){.step = SIZE_MAX};
    }
    uint32_t layers = lq_stages_hparams(job->stages)->layer_count;
    for (uint32_t layer = 0; status == LQ_OK && layer < layers; layer++) {
        for (size_t i = 0; status == LQ_OK && i < LQ_COUNT_OF(inputs_in_order); i++) {
            status = add_input(job, layer, inputs_in_order[i], err);
        }
        if (status == LQ_OK) {
            status = lq_stages_leave(job->stages, layer, err);
        }
    }
    return status;
}
