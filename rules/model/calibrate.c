#include "rules/model/calibrate.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/limits.h"
#include "rules/format/gguf.h"
#include "rules/model/calibrate_parts.h"
#include "rules/model/forward.h"
#include "rules/model/moments.h"
#include "rules/model/packing.h"
#include "rules/model/tensor_ref.h"

enum {
    LAYER_VERSION = 3,
    ASSEMBLE_VERSION = 3,
    LOAD_VERSION = 2,
    SEQUENCE_GUESS = 512, /* when the calibration does not say */
};

/* Guess for a first estimate of time: float operations a microsecond of a small machine. */
#define OPS_PER_MICROSECOND 50000.0

static const char *format_name(enum lq_imatrix_format format)
{
    switch (format) {
    case LQ_IMATRIX_GGUF:
        return "gguf";
    case LQ_IMATRIX_DAT:
        return "dat";
    default:
        return "imat";
    }
}

/* ---- one layer ---- */

enum lq_status lq_calibrate_plan_tensor(struct lq_calibrate_expansion *expansion,
                                        struct lq_calibrate_plan *plan, const char *tensor_name,
                                        const char *input_name, struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expansion->expand);
    const struct lq_model_tensor *tensor = lq_tensor_index_find(&expansion->index, tensor_name);
    if (tensor == NULL) {
        return lq_error_set(err, LQ_EMODEL, "the tensor '%s' is missing", tensor_name);
    }
    const char *text = lq_model_tensor_form(tensor, arena);
    if (text == NULL) {
        return lq_error_nomem(err, "a calibration step");
    }
    struct lq_calibrate_layer *state = plan->state;
    state->tensors[state->tensor_count] = *tensor;
    state->inputs[state->tensor_count] = input_name;
    state->tensor_count++;
    plan->params[plan->param_count++] = (struct lq_step_param){input_name, text};
    /* Joining the pieces of experts would copy most of a model. */
    return lq_tensor_put_inputs(expansion->expand, expansion->request->model, tensor, input_name,
                                plan->inputs, &plan->input_count, err);
}

enum lq_status lq_calibrate_plan_begin(struct lq_calibrate_expansion *expansion, uint32_t layer,
                                       struct lq_calibrate_plan *plan, struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expansion->expand);
    const char *number = lq_arena_printf(arena, "%u", (unsigned)layer);
    memset(plan, 0, sizeof *plan);
    plan->state = lq_arena_get(arena, sizeof *plan->state);
    /* Experts may be an input each, and parts of quantized matrices. */
    size_t room = (LQ_CALIBRATE_INPUTS_MAX + (size_t)3 * expansion->hparams.expert_count) *
                  LQ_PACKED_PART_COUNT;
    plan->inputs = lq_arena_get_array(arena, room, sizeof *plan->inputs);
    if (plan->state == NULL || number == NULL || plan->inputs == NULL) {
        return lq_error_nomem(err, "a calibration step");
    }
    plan->state->hparams = expansion->hparams;
    plan->state->layer = layer;
    plan->params[plan->param_count++] = (struct lq_step_param){"hparams", expansion->hparams_text};
    plan->params[plan->param_count++] = (struct lq_step_param){"layer", number};
    enum lq_status status = LQ_OK;
    if (expansion->hparams.rope_factors) {
        status = lq_calibrate_plan_tensor(expansion, plan, "rope_freqs.weight", "rope_freqs", err);
    }
    if (status == LQ_OK && expansion->hparams.rope_scaling == LQ_ROPE_LONGROPE) {
        status =
            lq_calibrate_plan_tensor(expansion, plan, "rope_factors_long.weight", "rope_long", err);
        if (status == LQ_OK) {
            status = lq_calibrate_plan_tensor(expansion, plan, "rope_factors_short.weight",
                                              "rope_short", err);
        }
    }
    return status;
}

enum lq_status lq_calibrate_plan_layer(struct lq_calibrate_expansion *expansion, uint32_t layer,
                                       struct lq_calibrate_plan *plan, struct lq_error *err)
{
    enum lq_status status = lq_calibrate_plan_begin(expansion, layer, plan, err);
    for (int w = 0; status == LQ_OK && w < LQ_LAYER_WEIGHT_COUNT; w++) {
        char name[LQ_WEIGHT_NAME_BYTES];
        if (lq_hparams_has(&expansion->hparams, (enum lq_layer_weight)w)) {
            lq_layer_weight_path(layer, (enum lq_layer_weight)w, name);
            status = lq_calibrate_plan_tensor(expansion, plan, name,
                                              lq_layer_weight_name((enum lq_layer_weight)w), err);
        }
    }
    if (status == LQ_OK && layer == 0) {
        status = lq_calibrate_plan_tensor(expansion, plan, "token_embd.weight", "token_embd", err);
        plan->inputs[plan->input_count++] = (struct lq_step_input){
            "tokens", lq_ref_artifact(expansion->request->calibration, "main")};
    }
    return status;
}

uint64_t lq_calibrate_guess_memory(const struct lq_calibrate_expansion *expansion,
                                   uint64_t (*memory)(const struct lq_hparams *hparams,
                                                      uint32_t sequence))
{
    int64_t sequence = lq_attr_int(expansion->request->calibration, "sequence");
    uint32_t tokens =
        sequence > 0 && sequence <= LQ_SEQUENCE_MAX ? (uint32_t)sequence : (uint32_t)SEQUENCE_GUESS;
    return memory(&expansion->hparams, tokens);
}

const char *lq_calibrate_moments_output(enum lq_layer_input input)
{
    switch (input) {
    case LQ_INPUT_ATTN:
        return "moments.attn";
    case LQ_INPUT_ATTN_OUTPUT:
        return "moments.attn_output";
    case LQ_INPUT_FFN:
        return "moments.ffn";
    case LQ_INPUT_FFN_DOWN:
        return "moments.ffn_down";
    default:
        return NULL;
    }
}

/* Adds outputs for the moments of a layer's inputs; returns the memory that they take. */
static uint64_t add_moments(const struct lq_hparams *hparams, struct lq_step_output *outputs,
                            size_t *output_count)
{
    uint64_t memory_bytes = 0;
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        enum lq_layer_input input = (enum lq_layer_input)i;
        const char *name = lq_calibrate_moments_output(input);
        size_t cols = lq_layer_input_cols(hparams, input);
        if (name != NULL && cols > 0) {
            outputs[(*output_count)++] = (struct lq_step_output){name, false};
            memory_bytes += lq_moments_memory(cols);
        }
    }
    return memory_bytes;
}

static enum lq_status add_layer(struct lq_calibrate_expansion *expansion, uint32_t layer,
                                bool whole, size_t *step, struct lq_error *err)
{
    struct lq_step_output outputs[3 + LQ_LAYER_INPUT_COUNT] = {{"stats", false}};
    size_t output_count = 1;
    struct lq_calibrate_plan plan;
    bool is_last = layer + 1 == expansion->hparams.layer_count;
    enum lq_status status = lq_calibrate_plan_layer(expansion, layer, &plan, err);
    if (status != LQ_OK) {
        return status;
    }
    if (layer != 0) {
        plan.inputs[plan.input_count++] =
            (struct lq_step_input){"hidden", lq_ref_step(*step, "hidden")};
    }
    /* Parameters only where they matter: steps are shared between methods. */
    if (is_last && whole) {
        plan.state->whole = true;
        plan.params[plan.param_count++] = (struct lq_step_param){"whole", "true"};
    }
    if (expansion->request->skip_first && expansion->request->method == LQ_IMPORTANCE_ACTIVATION) {
        plan.state->skip_first = true;
        plan.params[plan.param_count++] = (struct lq_step_param){"skip_first", "true"};
    }
    if (expansion->request->hidden_bf16 && (!is_last || whole)) {
        plan.state->hidden_bf16 = true;
        plan.params[plan.param_count++] = (struct lq_step_param){"hidden", "bf16"};
    }
    if (!is_last || whole) {
        outputs[output_count++] = (struct lq_step_output){"hidden", true};
    }
    if (expansion->request->ranges) {
        plan.state->ranges = true;
        plan.params[plan.param_count++] = (struct lq_step_param){"ranges", "true"};
        outputs[output_count++] = (struct lq_step_output){"ranges", false};
    }
    uint64_t memory_bytes = lq_calibrate_guess_memory(expansion, lq_forward_layer_memory);
    if (expansion->request->moments) {
        plan.state->moments = true;
        plan.params[plan.param_count++] = (struct lq_step_param){"moments", "true"};
        memory_bytes += add_moments(&expansion->hparams, outputs, &output_count);
    }
    char label[LQ_WEIGHT_NAME_BYTES];
    (void)snprintf(label, sizeof label, "blk.%u", (unsigned)layer);
    struct lq_step added = {
        .op = "imatrix.layer",
        .version = LAYER_VERSION,
        .label = label,
        .run = lq_calibrate_run_layer,
        .state = plan.state,
        .params = plan.params,
        .param_count = plan.param_count,
        .inputs = plan.inputs,
        .input_count = plan.input_count,
        .outputs = outputs,
        .output_count = output_count,
        .parallel = true,
        .memory_bytes = memory_bytes,
        .cost = expansion->cost,
    };
    return lq_expand_add_step(expansion->expand, &added, step, err);
}

/* ---- the whole ---- */

static void guess_cost(struct lq_calibrate_expansion *expansion)
{
    const struct lq_hparams *hparams = &expansion->hparams;
    const struct lq_artifact *calibration = expansion->request->calibration;
    double parts = hparams->expert_count == 0 ? 1.0 : (double)hparams->expert_used;
    double params =
        (double)hparams->width * (4.0 * hparams->width + 3.0 * parts * hparams->ffn_width);
    int64_t samples = lq_attr_int(calibration, "samples");
    int64_t sequence = lq_attr_int(calibration, "sequence");
    double tokens = samples > 0 && sequence > 0 ? (double)samples * (double)sequence : 65536.0;
    expansion->cost = (uint64_t)(2.0 * params * tokens / OPS_PER_MICROSECOND);
}

enum lq_status lq_calibrate_read_model(struct lq_calibrate_expansion *expansion,
                                       struct lq_error *err)
{
    struct lq_expand *expand = expansion->expand;
    struct lq_arena *arena = lq_expand_arena(expand);
    const struct lq_artifact *model = expansion->request->model;
    struct lq_ref tensors_ref = lq_ref_artifact(model, "tensors");
    struct lq_ref meta_ref = lq_ref_artifact(model, "meta");
    struct lq_gguf meta;
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_expand_read(expand, &tensors_ref, &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_tensor_index_parse(data, size_bytes, arena, &expansion->index, err);
    }
    if (status == LQ_OK) {
        status = lq_expand_read(expand, &meta_ref, &data, &size_bytes, err);
    }
    const char *where = lq_tensor_model_name(expand, model);
    if (status == LQ_OK) {
        status =
            lq_gguf_parse(data, size_bytes, size_bytes, where, LQ_EMODEL, arena, &meta, NULL, err);
    }
    if (status == LQ_OK) {
        status =
            lq_hparams_read(&meta, &expansion->index, where, LQ_EMODEL, &expansion->hparams, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    guess_cost(expansion);
    struct lq_buffer text;
    lq_buffer_init(&text);
    lq_hparams_format(&expansion->hparams, &text);
    expansion->hparams_text =
        text.failed ? NULL : lq_arena_dup_string(arena, lq_buffer_text(&text));
    lq_buffer_fini(&text);
    return expansion->hparams_text == NULL ? lq_error_nomem(err, "hyperparameters") : LQ_OK;
}

/* The name that the file carries for its data: the text's file, without its folder. */
static const char *dataset_name(struct lq_expand *expand, const struct lq_artifact *calibration)
{
    const struct lq_artifact *text =
        lq_attr_count(calibration, "text") > 0 ? lq_attr_ref(calibration, "text", 0) : NULL;
    if (text != NULL && lq_expand_source_count(expand, text) > 0) {
        return lq_expand_source_name(expand, text, 0);
    }
    return lq_artifact_name(calibration);
}

enum lq_status lq_calibrate_add_assemble(struct lq_calibrate_expansion *expansion,
                                         const struct lq_calibrate_assembly *assembly,
                                         const size_t *layers, size_t *step, struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expansion->expand);
    uint32_t count = expansion->hparams.layer_count;
    struct lq_step_input *inputs = lq_arena_get_array(arena, count, sizeof *inputs);
    if (inputs == NULL) {
        return lq_error_nomem(err, "a calibration step");
    }
    for (uint32_t i = 0; i < count; i++) {
        inputs[i].name = lq_arena_printf(arena, "stats.%u", (unsigned)i);
        inputs[i].ref = lq_ref_step(layers[i], "stats");
        if (inputs[i].name == NULL) {
            return lq_error_nomem(err, "a calibration step");
        }
    }
    const struct lq_step_param params[] = {
        {"hparams", expansion->hparams_text},
        {"format", format_name(expansion->request->format)},
        {"dataset", dataset_name(expansion->expand, expansion->request->calibration)},
        {"method", assembly->method},
    };
    static const struct lq_step_output outputs[] = {{"main", false}, {"gguf", false}};
    struct lq_step added = {
        .op = assembly->op,
        .version = assembly->version,
        .label = lq_artifact_name(lq_expand_artifact(expansion->expand)),
        .run = assembly->run,
        .params = params,
        .param_count = LQ_COUNT_OF(params) - (assembly->method == NULL ? 1 : 0),
        .inputs = inputs,
        .input_count = count,
        .outputs = outputs,
        .output_count = LQ_COUNT_OF(outputs),
    };
    return lq_expand_add_step(expansion->expand, &added, step, err);
}

enum lq_status lq_calibrate_forward(struct lq_calibrate_expansion *expansion, bool whole,
                                    size_t **layers, struct lq_error *err)
{
    enum lq_status status = lq_calibrate_read_model(expansion, err);
    if (status != LQ_OK) {
        return status;
    }
    uint32_t count = expansion->hparams.layer_count;
    *layers = lq_arena_get_array(lq_expand_arena(expansion->expand), count, sizeof **layers);
    if (*layers == NULL) {
        return lq_error_nomem(err, "calibration steps");
    }
    size_t newest = 0;
    for (uint32_t layer = 0; status == LQ_OK && layer < count; layer++) {
        status = add_layer(expansion, layer, whole, &newest, err);
        (*layers)[layer] = newest;
    }
    return status;
}

enum lq_status lq_calibrate_layers(struct lq_expand *expand,
                                   const struct lq_calibrate_request *request, size_t *step,
                                   struct lq_error *err)
{
    static const struct lq_calibrate_assembly assembly = {
        .op = "imatrix.assemble", .version = ASSEMBLE_VERSION, .run = lq_calibrate_run_assemble};
    struct lq_calibrate_expansion expansion = {.expand = expand, .request = request};
    size_t *layers = NULL;
    enum lq_status status = lq_calibrate_forward(&expansion, false, &layers, err);
    return status == LQ_OK ? lq_calibrate_add_assemble(&expansion, &assembly, layers, step, err)
                           : status;
}

enum lq_status lq_calibrate_ranges(struct lq_expand *expand,
                                   const struct lq_calibrate_request *request,
                                   struct lq_tensor_index *index, struct lq_hparams *hparams,
                                   const size_t **layers, struct lq_error *err)
{
    struct lq_calibrate_expansion expansion = {.expand = expand, .request = request};
    size_t *steps = NULL;
    enum lq_status status = lq_calibrate_forward(&expansion, false, &steps, err);
    *layers = steps;
    *index = expansion.index;
    *hparams = expansion.hparams;
    return status;
}

enum lq_status lq_calibrate_load(struct lq_expand *expand,
                                 const struct lq_calibrate_request *request,
                                 const struct lq_artifact *artifact, size_t *step,
                                 struct lq_error *err)
{
    const struct lq_step_input inputs[] = {
        {"file", lq_ref_source(artifact, 0)},
        {"tensors", lq_ref_artifact(request->model, "tensors")},
    };
    const struct lq_step_param params[] = {
        {"format", format_name(request->format)},
        {"name", lq_expand_source_name(expand, artifact, 0)},
    };
    static const struct lq_step_output outputs[] = {{"main", false}, {"gguf", false}};
    struct lq_step added = {
        .op = "imatrix.load",
        .version = LOAD_VERSION,
        .label = lq_artifact_name(artifact),
        .run = lq_calibrate_run_load,
        .params = params,
        .param_count = LQ_COUNT_OF(params),
        .inputs = inputs,
        .input_count = LQ_COUNT_OF(inputs),
        .outputs = outputs,
        .output_count = LQ_COUNT_OF(outputs),
    };
    return lq_expand_add_step(expand, &added, step, err);
}
