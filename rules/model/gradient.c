#include "rules/model/gradient.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "rules/model/backward.h"
#include "rules/model/calibrate_parts.h"
#include "rules/model/forward.h"

enum {
    LOSS_VERSION = 2,
    BACK_VERSION = 3,
    ASSEMBLE_VERSION = 2,
    /* The backward pass has twice the products of the forward pass, and makes that again. */
    BACK_COST = 3,
};

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

static enum lq_status add_back(struct gradient_plan *plan, uint32_t layer, struct lq_error *err)
{
    struct lq_calibrate_expansion *expansion = &plan->expansion;
    const struct lq_calibrate_request *request = expansion->request;
    struct lq_calibrate_plan step_plan;
    /* The last for the layer before. */
    static const struct lq_step_output outputs[] = {
        {"stats", false}, {"ranks", false}, {"grad", true}};
    enum lq_status status = lq_calibrate_plan_layer(expansion, layer, &step_plan, err);
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
        .output_count = LQ_COUNT_OF(outputs) - (layer == 0 ? 1 : 0),
        .parallel = true,
        .memory_bytes = lq_calibrate_guess_memory(expansion, lq_backward_memory),
        .cost = BACK_COST * expansion->cost,
    };
    status = lq_expand_add_step(expansion->expand, &added, &plan->back[layer], err);
    plan->newest = plan->back[layer];
    return status;
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
    if (status == LQ_OK) {
        status = lq_gradient_join_ranks(&plan.expansion, plan.back, err);
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
