#include "rules/model/gradient.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "rules/model/backward.h"
#include "rules/model/calibrate_parts.h"
#include "rules/model/forward.h"

enum {
    LOSS_VERSION = 2,
    BACK_VERSION = 2,
    ASSEMBLE_VERSION = 1,
    RANKS_MIN = 4096,
    RANKS_FRACTION = 1000,
    /* The backward pass has twice the products of the forward pass, and makes that again. */
    BACK_COST = 3,
};

uint64_t lq_gradient_rank_count(uint64_t elems)
{
    uint64_t count = elems / RANKS_FRACTION < RANKS_MIN ? RANKS_MIN : elems / RANKS_FRACTION;
    return count < elems ? count : elems;
}

const char *lq_gradient_ranks_name(struct lq_arena *arena, const char *tensor_name)
{
    return lq_arena_printf(arena, "ranks.%s", tensor_name);
}

struct gradient_plan {
    struct lq_calibrate_expansion expansion;
    size_t *layers; /* the steps of the forward pass */
    size_t newest;  /* the step whose "grad" comes in */
    size_t *back;   /* the steps of the backward pass, by layer */
};

/* ---- the loss ---- */

static enum lq_status add_loss(struct gradient_plan *plan, struct lq_error *err)
{
    static const struct lq_step_output outputs[] = {{"grad", true}};
    struct lq_calibrate_expansion *expansion = &plan->expansion;
    const struct lq_hparams *hparams = &expansion->hparams;
    struct lq_calibrate_plan step_plan;
    enum lq_status status =
        lq_calibrate_plan_begin(expansion, hparams->layer_count, &step_plan, err);
    if (status == LQ_OK) {
        status = lq_calibrate_plan_tensor(expansion, &step_plan, "output_norm.weight",
                                          "output_norm", err);
    }
    if (status == LQ_OK) {
        status = lq_calibrate_plan_tensor(
            expansion, &step_plan, hparams->tied_output ? "token_embd.weight" : "output.weight",
            "output", err);
    }
    if (status != LQ_OK) {
        return status;
    }
    step_plan.inputs[step_plan.input_count++] =
        (struct lq_step_input){"tokens", lq_ref_artifact(expansion->request->calibration, "main")};
    step_plan.inputs[step_plan.input_count++] = (struct lq_step_input){
        "hidden", lq_ref_step(plan->layers[hparams->layer_count - 1], "hidden")};
    uint64_t layer_params = (uint64_t)hparams->width *
                            (4 * (uint64_t)hparams->width + 3 * (uint64_t)hparams->ffn_width);
    struct lq_step added = {
        .op = "imatrix.loss",
        .version = LOSS_VERSION,
        .label = "loss",
        .run = lq_gradient_run_loss,
        .state = step_plan.state,
        .params = step_plan.params,
        .param_count = step_plan.param_count,
        .inputs = step_plan.inputs,
        .input_count = step_plan.input_count,
        .outputs = outputs,
        .output_count = LQ_COUNT_OF(outputs),
        .parallel = true,
        .memory_bytes = lq_calibrate_guess_memory(expansion, lq_backward_memory),
        .cost = 2 * expansion->cost * ((uint64_t)hparams->vocab_size * hparams->width) /
                (layer_params + 1),
    };
    return lq_expand_add_step(expansion->expand, &added, &plan->newest, err);
}

/* ---- one layer ---- */

/* "stats", the ranks of each matrix, and the gradient for the layer before. */
static enum lq_status plan_outputs(const struct lq_calibrate_expansion *expansion, uint32_t layer,
                                   struct lq_step_output *outputs, size_t *count,
                                   struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expansion->expand);
    outputs[(*count)++] = (struct lq_step_output){"stats", false};
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        enum lq_layer_weight weight = (enum lq_layer_weight)w;
        if (!lq_hparams_has_matrix(&expansion->hparams, weight)) {
            continue;
        }
        const char *name = lq_gradient_ranks_name(arena, lq_layer_weight_name(weight));
        if (name == NULL) {
            return lq_error_nomem(err, "a calibration step");
        }
        outputs[(*count)++] = (struct lq_step_output){name, false};
    }
    if (layer != 0) {
        outputs[(*count)++] = (struct lq_step_output){"grad", true};
    }
    return LQ_OK;
}

static enum lq_status bind_ranks(struct gradient_plan *plan, uint32_t layer, struct lq_error *err)
{
    struct lq_expand *expand = plan->expansion.expand;
    struct lq_arena *arena = lq_expand_arena(expand);
    enum lq_status status = LQ_OK;
    for (int w = 0; status == LQ_OK && w < LQ_LAYER_WEIGHT_COUNT; w++) {
        enum lq_layer_weight weight = (enum lq_layer_weight)w;
        char path[LQ_WEIGHT_NAME_BYTES];
        if (!lq_hparams_has_matrix(&plan->expansion.hparams, weight)) {
            continue;
        }
        const char *name = lq_gradient_ranks_name(arena, lq_layer_weight_path(layer, weight, path));
        const char *output = lq_gradient_ranks_name(arena, lq_layer_weight_name(weight));
        struct lq_ref ref = lq_ref_step(plan->back[layer], output);
        status = name == NULL || output == NULL ? lq_error_nomem(err, "a calibration step")
                                                : lq_expand_bind_output(expand, name, &ref, err);
    }
    return status;
}

static enum lq_status add_back(struct gradient_plan *plan, uint32_t layer, struct lq_error *err)
{
    struct lq_calibrate_expansion *expansion = &plan->expansion;
    const struct lq_calibrate_request *request = expansion->request;
    struct lq_calibrate_plan step_plan;
    struct lq_step_output outputs[LQ_LAYER_WEIGHT_COUNT + 2];
    size_t output_count = 0;
    enum lq_status status = lq_calibrate_plan_layer(expansion, layer, &step_plan, err);
    if (status == LQ_OK) {
        status = plan_outputs(expansion, layer, outputs, &output_count, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    bool fisher = request->method == LQ_IMPORTANCE_FISHER;
    step_plan.state->options = (struct lq_gradient_options){
        .method = fisher ? LQ_GRADIENT_FISHER : LQ_GRADIENT_PRODUCT,
        .skip_first = request->skip_first,
        .scores = true,
    };
    step_plan.params[step_plan.param_count++] =
        (struct lq_step_param){"method", fisher ? "fisher" : "gradient"};
    step_plan.params[step_plan.param_count++] =
        (struct lq_step_param){"skip_first", request->skip_first ? "true" : "false"};
    if (layer != 0) {
        step_plan.inputs[step_plan.input_count++] =
            (struct lq_step_input){"hidden", lq_ref_step(plan->layers[layer - 1], "hidden")};
    }
    step_plan.inputs[step_plan.input_count++] =
        (struct lq_step_input){"grad", lq_ref_step(plan->newest, "grad")};
    char label[LQ_WEIGHT_NAME_BYTES];
    (void)snprintf(label, sizeof label, "blk.%u", (unsigned)layer);
    struct lq_step added = {
        .op = "imatrix.gradient",
        .version = BACK_VERSION,
        .label = label,
        .run = lq_gradient_run_layer,
        .state = step_plan.state,
        .params = step_plan.params,
        .param_count = step_plan.param_count,
        .inputs = step_plan.inputs,
        .input_count = step_plan.input_count,
        .outputs = outputs,
        .output_count = output_count,
        .parallel = true,
        .memory_bytes = lq_calibrate_guess_memory(expansion, lq_backward_memory),
        .cost = BACK_COST * expansion->cost,
    };
    status = lq_expand_add_step(expansion->expand, &added, &plan->back[layer], err);
    plan->newest = plan->back[layer];
    return status == LQ_OK ? bind_ranks(plan, layer, err) : status;
}

/* ---- the whole ---- */

enum lq_status lq_gradient_layers(struct lq_expand *expand,
                                  const struct lq_calibrate_request *request, size_t *step,
                                  struct lq_error *err)
{
    struct gradient_plan plan = {.expansion = {.expand = expand, .request = request}};
    enum lq_status status = lq_calibrate_forward(&plan.expansion, true, &plan.layers, err);
    if (status != LQ_OK) {
        return status;
    }
    uint32_t count = plan.expansion.hparams.layer_count;
    plan.back = lq_arena_get_array(lq_expand_arena(expand), count, sizeof *plan.back);
    if (plan.back == NULL) {
        return lq_error_nomem(err, "calibration steps");
    }
    status = add_loss(&plan, err);
    for (uint32_t layer = count; status == LQ_OK && layer-- > 0;) {
        status = add_back(&plan, layer, err);
    }
    const struct lq_calibrate_assembly assembly = {
        .op = "imatrix.assemble_gradient",
        .version = ASSEMBLE_VERSION,
        .run = lq_gradient_run_assemble,
        .method = request->method == LQ_IMPORTANCE_FISHER ? "fisher" : "gradient",
    };
    return status == LQ_OK
               ? lq_calibrate_add_assemble(&plan.expansion, &assembly, plan.back, step, err)
               : status;
}
