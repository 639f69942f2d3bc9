/* The rule `smoothquant`: a Hugging Face model with weights and activations of 8 bits (W8A8) in the
 * format of compressed-tensors, which vLLM and others load. The file of weights is put together
 * from steps (smooth_steps.h) and from tensors of the source; config.json says how it is to be
 * read. */
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "engine/base/json.h"
#include "engine/base/text.h"
#include "rules/format/safetensors_write.h"
#include "rules/model/tensor_ref.h"
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

struct parts {
    struct lq_safetensors_entry *entries;
    struct lq_step_input *inputs; /* one more: the header comes first */
    size_t count;
};

static enum lq_status add_part(struct lq_smooth_job *job, struct parts *parts,
                               const struct lq_safetensors_entry *entry, const struct lq_ref *ref,
                               struct lq_error *err)
{
    struct lq_step_input *input = &parts->inputs[parts->count + 1];
    input->name = lq_arena_printf(lq_expand_arena(job->expand), "part%zu", parts->count);
    input->ref = *ref;
    parts->entries[parts->count++] = *entry;
    return input->name == NULL ? lq_error_nomem(err, "a file of weights") : LQ_OK;
}

static const char *scale_name(struct lq_arena *arena, const char *name)
{
    static const char end[] = ".weight";
    return lq_text_ends_with(name, end) ? lq_arena_printf(arena, "%s_scale", name)
                                        : lq_arena_printf(arena, "%s.weight_scale", name);
}

/* A matrix of whole numbers, and the number that each row is multiplied by. */
static enum lq_status add_rounded(struct lq_smooth_job *job, struct parts *parts, size_t number,
                                  struct lq_error *err)
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
        .name = scale_name(lq_expand_arena(job->expand), tensor->source_name),
        .dtype = "F32",
        .dim_count = 2,
        .shape = {tensor->ne[1], 1},
        .size_bytes = tensor->ne[1] * sizeof(float)};
    enum lq_status status = scales.name == NULL ? lq_error_nomem(err, "a file of weights")
                                                : add_part(job, parts, &levels, &data, err);
    return status == LQ_OK ? add_part(job, parts, &scales, &scale, err) : status;
}

static enum lq_status add_tensor(struct lq_smooth_job *job, struct parts *parts, size_t number,
                                 struct lq_error *err)
{
    const struct lq_model_tensor *tensor = &job->index.tensors[number];
    uint32_t layer = 0;
    const char *output = NULL;
    if (job->tensors[number] != SIZE_MAX) {
        return add_rounded(job, parts, number, err);
    }
    if (tensor->literal != NULL) { /* out of config.json, which has it still */
        return LQ_OK;
    }
    struct lq_safetensors_entry entry = {.name = tensor->source_name,
                                         .dtype = lq_dtype_name((uint32_t)tensor->dtype),
                                         .dim_count = tensor->dim_count,
                                         .size_bytes = tensor->size_bytes};
    for (uint32_t d = 0; d < tensor->dim_count; d++) {
        entry.shape[d] = tensor->ne[tensor->dim_count - 1 - d];
    }
    struct lq_ref ref;
    enum lq_status status = LQ_OK;
    if (lq_smooth_find_norm(job, tensor->name, &layer, &output)) {
        ref = lq_ref_step(job->scales[layer], output);
    } else {
        status = lq_tensor_ref(job->expand, job->model, tensor, &ref, err);
    }
    return status == LQ_OK ? add_part(job, parts, &entry, &ref, err) : status;
}

static enum lq_status run_assemble(struct lq_run *run, struct lq_error *err)
{
    const struct parts *parts = lq_run_state(run);
    enum lq_status status = LQ_OK;
    for (size_t i = 0; status == LQ_OK && i <= parts->count; i++) {
        const char *name = parts->inputs[i].name;
        bool fits = i == 0 || lq_run_input_size(run, name) == parts->entries[i - 1].size_bytes;
        status = fits ? lq_run_write_input(run, "main", name, err)
                      : lq_error_set(err, LQ_EINTERNAL,
                                     "'%s' came out in another size; please report it",
                                     parts->entries[i - 1].name);
        if (status == LQ_OK && lq_run_cancelled(run)) {
            status = lq_error_set(err, LQ_ECANCELLED, "cancelled");
        }
    }
    return status;
}

static enum lq_status make_header(struct lq_smooth_job *job, struct parts *parts,
                                  struct lq_error *err)
{
    struct lq_buffer header;
    lq_buffer_init(&header);
    enum lq_status status = lq_safetensors_header(parts->entries, parts->count, &header, err);
    if (status == LQ_OK) {
        char *copy = lq_arena_dup(lq_expand_arena(job->expand), header.data, header.size_bytes);
        parts->inputs[0].name = "header";
        parts->inputs[0].ref = lq_ref_bytes(copy == NULL ? "" : copy, header.size_bytes);
        status = copy == NULL ? lq_error_nomem(err, "a file of weights") : LQ_OK;
    }
    lq_buffer_fini(&header);
    return status;
}

static enum lq_status add_file(struct lq_smooth_job *job, struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(job->expand);
    size_t room = 2 * job->index.tensor_count + 1;
    struct parts *parts = lq_arena_get(arena, sizeof *parts);
    if (parts == NULL) {
        return lq_error_nomem(err, "a file of weights");
    }
    *parts = (struct parts){.entries = lq_arena_get_array(arena, room, sizeof *parts->entries),
                            .inputs = lq_arena_get_array(arena, room, sizeof *parts->inputs)};
    enum lq_status status = parts->entries == NULL || parts->inputs == NULL
                                ? lq_error_nomem(err, "a file of weights")
                                : LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < job->index.tensor_count; i++) {
        status = add_tensor(job, parts, i, err);
    }
    if (status == LQ_OK) {
        status = make_header(job, parts, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    static const struct lq_step_output output = {.name = "main"};
    const struct lq_step step = {.op = "smoothquant.assemble",
                                 .version = 1,
                                 .label = lq_artifact_name(lq_expand_artifact(job->expand)),
                                 .run = run_assemble,
                                 .state = parts,
                                 .inputs = parts->inputs,
                                 .input_count = parts->count + 1,
                                 .outputs = &output,
                                 .output_count = 1,
                                 .cost = 1000 + parts->count * 20};
    size_t index = 0;
    status = lq_expand_add_step(job->expand, &step, &index, err);
    struct lq_ref ref = lq_ref_step(index, "main");
    return status == LQ_OK ? lq_expand_bind_output(job->expand, "main", &ref, err) : status;
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
static void add_quantization(cJSON *config)
{
    static const char *const ignored[] = {"lm_head"};
    static const char *const targets[] = {"Linear"};
    cJSON_DeleteItemFromObjectCaseSensitive(config, "quantization_config");
    cJSON *quantization = cJSON_AddObjectToObject(config, "quantization_config");
    (void)cJSON_AddStringToObject(quantization, "quant_method", "compressed-tensors");
    (void)cJSON_AddStringToObject(quantization, "format", "int-quantized");
    (void)cJSON_AddStringToObject(quantization, "quantization_status", "compressed");
    cJSON *groups = cJSON_AddObjectToObject(quantization, "config_groups");
    cJSON *group = cJSON_AddObjectToObject(groups, "group_0");
    (void)cJSON_AddItemToObject(group, "targets", cJSON_CreateStringArray(targets, 1));
    (void)cJSON_AddItemToObject(group, "weights", describe_numbers("channel", false));
    (void)cJSON_AddItemToObject(group, "input_activations", describe_numbers("token", true));
    (void)cJSON_AddItemToObject(quantization, "ignore", cJSON_CreateStringArray(ignored, 1));
}

static enum lq_status add_config(struct lq_smooth_job *job, struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size_bytes = 0;
    cJSON *config = NULL;
    size_t number = 0;
    size_t count = lq_expand_source_count(job->expand, job->model);
    while (number < count &&
           strcmp(lq_expand_source_name(job->expand, job->model, number), "config.json") != 0) {
        number++;
    }
    if (number == count) {
        return lq_error_set(err, LQ_EUNSUPPORTED, "the model has no config.json");
    }
    struct lq_ref ref = lq_ref_source(job->model, number);
    enum lq_status status = lq_expand_read(job->expand, &ref, &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_json_parse(data, (size_t)size_bytes, "config.json", LQ_EMODEL, &config, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    add_quantization(config);
    char *text = cJSON_Print(config);
    const char *copy =
        text == NULL ? NULL : lq_arena_printf(lq_expand_arena(job->expand), "%s\n", text);
    cJSON_free(text);
    cJSON_Delete(config);
    if (copy == NULL) {
        return lq_error_nomem(err, "config.json");
    }
    ref = lq_ref_bytes(copy, strlen(copy));
    return lq_expand_bind_output(job->expand, "config", &ref, err);
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
        status = add_config(job, err);
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
