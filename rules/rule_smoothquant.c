/* The rule `smoothquant`: a Hugging Face model with weights and activations of 8 bits (W8A8) in the
 * format of compressed-tensors, which vLLM and others load. The file of weights is put together
 * (hf_folder.h) from steps (smooth_steps.h) and from tensors of the source; config.json says how it
 * is to be read. */
#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "engine/base/json.h"
#include "rules/quant/hf_folder.h"
#include "rules/quant/smooth_steps.h"
#include "rules/registry.h"

static const struct lq_attr_spec attrs[] = {
    {.name = "model",
     .type = LQ_ATTR_REF,
     .required = true,
     .choices = "model",
     .help = "what to quantize: a Hugging Face folder"},
    {.name = "calibration",
     .type = LQ_ATTR_REF,
     .required = true,
     .choices = "calibration",
     .help = "the samples whose activations are measured"},
    {.name = "alpha",
     .type = LQ_ATTR_NUMBER,
     .default_text = "0.5",
     .min = 0.0,
     .max = 1.0,
     .help = "how much of the difficulty moves from activations to weights, 0 to 1"},
    {.name = "path", .type = LQ_ATTR_OUT_PATH, .help = "where model.safetensors is put"},
    {.name = "config",
     .type = LQ_ATTR_OUT_PATH,
     .output = "config",
     .help = "where config.json is put"},
    {.name = "scales",
     .type = LQ_ATTR_OUT_PATH,
     .output = "scales",
     .help = "where statistics of activations and the scales are put, as JSON"},
};

/* ---- the file of weights ---- */

/* A matrix of whole numbers, and the number that each row is multiplied by. */
static enum lq_status add_rounded(struct lq_smooth_job *job, struct lq_hf_folder *folder,
                                  size_t number, struct lq_error *err)
{
    const struct lq_model_tensor *tensor = &job->index.tensors[number];
    struct lq_ref data = lq_ref_step(job->tensors[number], "data");
    struct lq_ref scale = lq_ref_step(job->tensors[number], "scale");
    const struct lq_safetensors_entry levels = {.name = tensor->source_name,
                                                .dtype = "I8",
                                                .dim_count = 2,
                                                .shape = {tensor->ne[1], tensor->ne[0]},
                                                .size_bytes = tensor->ne[0] * tensor->ne[1]};
    const struct lq_safetensors_entry scales = {
        .name = lq_hf_folder_name(lq_expand_arena(job->expand), tensor, ".weight_scale"),
        .dtype = "F32",
        .dim_count = 2,
        .shape = {tensor->ne[1], 1},
        .size_bytes = tensor->ne[1] * sizeof(float)};
    enum lq_status status = scales.name == NULL ? lq_error_nomem(err, "a file of weights")
                                                : lq_hf_folder_add(folder, &levels, &data, err);
    return status == LQ_OK ? lq_hf_folder_add(folder, &scales, &scale, err) : status;
}

static enum lq_status add_tensor(struct lq_smooth_job *job, struct lq_hf_folder *folder,
                                 size_t number, struct lq_error *err)
{
    const struct lq_model_tensor *tensor = &job->index.tensors[number];
    uint32_t layer = 0;
    const char *output = NULL;
    if (job->tensors[number] != SIZE_MAX) {
        return add_rounded(job, folder, number, err);
    }
    if (lq_smooth_find_norm(job, tensor->name, &layer, &output)) {
        struct lq_ref ref = lq_ref_step(job->scales[layer], output);
        return lq_hf_folder_add_source(folder, tensor, &ref, err);
    }
    return lq_hf_folder_add_source(folder, tensor, NULL, err);
}

static enum lq_status add_file(struct lq_smooth_job *job, struct lq_error *err)
{
    struct lq_hf_folder *folder = NULL;
    enum lq_status status =
        lq_hf_folder_begin(job->expand, job->model, 2 * job->index.tensor_count, &folder, err);
    for (size_t i = 0; status == LQ_OK && i < job->index.tensor_count; i++) {
        status = add_tensor(job, folder, i, err);
    }
    return status == LQ_OK ? lq_hf_folder_end(folder, "smoothquant.assemble", 1, err) : status;
}

/* ---- config.json ---- */

static cJSON *describe_numbers(const char *strategy, bool is_dynamic)
{
    cJSON *numbers = cJSON_CreateObject();
    (void)cJSON_AddNumberToObject(numbers, "num_bits", 8);
    (void)cJSON_AddStringToObject(numbers, "type", "int");
    (void)cJSON_AddBoolToObject(numbers, "symmetric", true);
    (void)cJSON_AddStringToObject(numbers, "strategy", strategy);
    (void)cJSON_AddBoolToObject(numbers, "dynamic", is_dynamic);
    return numbers;
}

/* What readers of compressed-tensors ask for: whole numbers, a scale for each row of weights, and
 * one for each token of activations that is found while it runs. */
static cJSON *describe_quantization(void)
{
    static const char *const ignored[] = {"lm_head"};
    static const char *const targets[] = {"Linear"};
    cJSON *quantization = cJSON_CreateObject();
    (void)cJSON_AddStringToObject(quantization, "quant_method", "compressed-tensors");
    (void)cJSON_AddStringToObject(quantization, "format", "int-quantized");
    (void)cJSON_AddStringToObject(quantization, "quantization_status", "compressed");
    cJSON *groups = cJSON_AddObjectToObject(quantization, "config_groups");
    cJSON *group = cJSON_AddObjectToObject(groups, "group_0");
    (void)cJSON_AddItemToObject(group, "targets", cJSON_CreateStringArray(targets, 1));
    (void)cJSON_AddItemToObject(group, "weights", describe_numbers("channel", false));
    (void)cJSON_AddItemToObject(group, "input_activations", describe_numbers("token", true));
    (void)cJSON_AddItemToObject(quantization, "ignore", cJSON_CreateStringArray(ignored, 1));
    return quantization;
}

/* ---- the rule ---- */

static enum lq_status expand_smoothquant(struct lq_expand *expand, struct lq_error *err)
{
    const struct lq_artifact *artifact = lq_expand_artifact(expand);
    struct lq_arena *arena = lq_expand_arena(expand);
    struct lq_smooth_job *job = lq_arena_get(arena, sizeof *job);
    struct lq_buffer alpha;
    size_t step = 0;
    if (job == NULL) {
        return lq_error_nomem(err, "SmoothQuant");
    }
    *job = (struct lq_smooth_job){.expand = expand,
                                  .model = lq_attr_ref(artifact, "model", 0),
                                  .calibration = lq_attr_ref(artifact, "calibration", 0),
                                  .alpha = lq_attr_number(artifact, "alpha")};
    lq_buffer_init(&alpha);
    lq_json_format_number(&alpha, job->alpha);
    job->alpha_text = alpha.failed ? NULL : lq_arena_dup_string(arena, lq_buffer_text(&alpha));
    lq_buffer_fini(&alpha);
    enum lq_status status = job->alpha_text == NULL ? lq_error_nomem(err, "SmoothQuant")
                                                    : lq_smooth_add_steps(job, err);
    if (status == LQ_OK) {
        status = add_file(job, err);
    }
    if (status == LQ_OK) {
        status = lq_hf_folder_bind_config(expand, job->model, describe_quantization(), err);
    }
    if (status == LQ_OK) {
        status = lq_smooth_add_report(job, &step, err);
    }
    static const char *const outputs[] = {"scales", "summary"};
    for (size_t i = 0; status == LQ_OK && i < LQ_COUNT_OF(outputs); i++) {
        struct lq_ref ref = lq_ref_step(step, outputs[i]);
        status = lq_expand_bind_output(expand, outputs[i], &ref, err);
    }
    return status;
}

const struct lq_rule lq_rule_smoothquant = {
    .kind = "smoothquant",
    .version = 1,
    .help = "a Hugging Face model with weights and activations of 8 bits",
    .attrs = attrs,
    .attr_count = LQ_COUNT_OF(attrs),
    .outputs = "config (config.json), scales (statistics of activations and the scales, JSON), "
               "summary",
    .expand = expand_smoothquant,
    .shows_summary = true,
};
