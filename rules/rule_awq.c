/* The rule `awq`: a Hugging Face model with weights of 4 bits, for activations of 16, whose columns
 * and ranges were chosen by what flows through them. Two formats of files: that of AWQ's own tools
 * ("gemm"), and compressed-tensors'. The file of weights is put together (hf_folder.h) from steps
 * (awq_steps.h) and from tensors of the source; config.json says how it is to be read. */
#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/json.h"
#include "rules/quant/awq_steps.h"
#include "rules/quant/hf_folder.h"
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
    {.name = "group_size",
     .type = LQ_ATTR_INT,
     .default_text = "128",
     .min = 32,
     .max = LQ_AWQ_GROUP_MAX,
     .help = "weights of a row that share a scale: 32, 64, 128 or 256"},
    {.name = "zero_point",
     .type = LQ_ATTR_BOOL,
     .default_text = "true",
     .help = "groups have a zero point of their own; else levels are even on both sides of 0"},
    {.name = "clip",
     .type = LQ_ATTR_BOOL,
     .default_text = "true",
     .help = "cut the range of a group where that lowers the error"},
    {.name = "format",
     .type = LQ_ATTR_ENUM,
     .default_text = "awq",
     .choices = "awq compressed-tensors",
     .help = "how the weights are stored: as AWQ's own tools do, or packed as vLLM's"},
    {.name = "path", .type = LQ_ATTR_OUT_PATH, .help = "where model.safetensors is put"},
    {.name = "config",
     .type = LQ_ATTR_OUT_PATH,
     .output = "config",
     .help = "where config.json is put"},
    {.name = "scales",
     .type = LQ_ATTR_OUT_PATH,
     .output = "scales",
     .help = "where the scales and what is lost are put, as JSON"},
};

static enum lq_status check_awq(const struct lq_artifact *artifact, struct lq_error *err)
{
    int64_t size = lq_attr_int(artifact, "group_size");
    return (size & (size - 1)) == 0
               ? LQ_OK
               : lq_attr_error(artifact, "group_size", err, LQ_ERECIPE,
                               "group_size is %lld, expected 32, 64, 128 or 256", (long long)size);
}

/* ---- the file of weights ---- */

static enum lq_status add_entry(struct lq_awq_job *job, struct lq_hf_folder *folder, size_t number,
                                const char *ending, const char *output,
                                struct lq_safetensors_entry entry, struct lq_error *err)
{
    const struct lq_model_tensor *tensor = &job->index.tensors[number];
    struct lq_ref ref = lq_ref_step(job->tensors[number], output);
    entry.name = lq_hf_folder_name(lq_expand_arena(job->expand), tensor, ending);
    entry.dim_count = 2;
    entry.size_bytes = entry.shape[0] * entry.shape[1] * entry.size_bytes;
    return entry.name == NULL ? lq_error_nomem(err, "a file of weights")
                              : lq_hf_folder_add(folder, &entry, &ref, err);
}

/* Of entries, the size is that of one value here. */
static enum lq_status add_gemm(struct lq_awq_job *job, struct lq_hf_folder *folder, size_t number,
                               struct lq_error *err)
{
    uint64_t in = job->index.tensors[number].ne[0];
    uint64_t out = job->index.tensors[number].ne[1];
    uint64_t groups = in / job->group_size;
    const struct lq_safetensors_entry weights = {
        .dtype = "I32", .shape = {in, out / LQ_WORD_LEVELS}, .size_bytes = sizeof(uint32_t)};
    const struct lq_safetensors_entry zeros = {
        .dtype = "I32", .shape = {groups, out / LQ_WORD_LEVELS}, .size_bytes = sizeof(uint32_t)};
    const struct lq_safetensors_entry scales = {
        .dtype = "F16", .shape = {groups, out}, .size_bytes = sizeof(uint16_t)};
    enum lq_status status = add_entry(job, folder, number, ".qweight", "weights", weights, err);
    if (status == LQ_OK) {
        status = add_entry(job, folder, number, ".qzeros", "zeros", zeros, err);
    }
    return status == LQ_OK ? add_entry(job, folder, number, ".scales", "scale", scales, err)
                           : status;
}

static enum lq_status add_shape(struct lq_awq_job *job, struct lq_hf_folder *folder, size_t number,
                                struct lq_error *err)
{
    const struct lq_model_tensor *tensor = &job->index.tensors[number];
    struct lq_arena *arena = lq_expand_arena(job->expand);
    const uint64_t shape[] = {tensor->ne[1], tensor->ne[0]};
    const void *bytes = lq_arena_dup(arena, shape, sizeof shape);
    const struct lq_safetensors_entry entry = {
        .name = lq_hf_folder_name(arena, tensor, ".weight_shape"),
        .dtype = "I64",
        .dim_count = 1,
        .shape = {2},
        .size_bytes = sizeof shape};
    struct lq_ref ref = lq_ref_bytes(bytes, sizeof shape);
    return bytes == NULL || entry.name == NULL ? lq_error_nomem(err, "a file of weights")
                                               : lq_hf_folder_add(folder, &entry, &ref, err);
}

static enum lq_status add_packed(struct lq_awq_job *job, struct lq_hf_folder *folder, size_t number,
                                 struct lq_error *err)
{
    uint64_t in = job->index.tensors[number].ne[0];
    uint64_t out = job->index.tensors[number].ne[1];
    uint64_t groups = in / job->group_size;
    enum lq_dtype type = job->scale_types[number];
    const struct lq_safetensors_entry weights = {
        .dtype = "I32", .shape = {out, in / LQ_WORD_LEVELS}, .size_bytes = sizeof(uint32_t)};
    const struct lq_safetensors_entry scales = {.dtype = lq_dtype_name(type),
                                                .shape = {out, groups},
                                                .size_bytes = lq_dtype_row_bytes(type, 1)};
    const struct lq_safetensors_entry zeros = {
        .dtype = "I32",
        .shape = {(out + LQ_WORD_LEVELS - 1) / LQ_WORD_LEVELS, groups},
        .size_bytes = sizeof(uint32_t)};
    enum lq_status status =
        add_entry(job, folder, number, ".weight_packed", "weights", weights, err);
    if (status == LQ_OK) {
        status = add_entry(job, folder, number, ".weight_scale", "scale", scales, err);
    }
    if (status == LQ_OK && !job->symmetric) {
        status = add_entry(job, folder, number, ".weight_zero_point", "zeros", zeros, err);
    }
    return status == LQ_OK ? add_shape(job, folder, number, err) : status;
}

static enum lq_status add_file(struct lq_awq_job *job, struct lq_error *err)
{
    struct lq_hf_folder *folder = NULL;
    enum lq_status status =
        lq_hf_folder_begin(job->expand, job->model, 4 * job->index.tensor_count, &folder, err);
    for (size_t i = 0; status == LQ_OK && i < job->index.tensor_count; i++) {
        const struct lq_ref *divided = &job->divided[i];
        if (job->tensors[i] != SIZE_MAX) {
            status = (job->format == LQ_AWQ_GEMM ? add_gemm : add_packed)(job, folder, i, err);
        } else {
            status = lq_hf_folder_add_source(folder, &job->index.tensors[i],
                                             divided->kind == LQ_REF_NONE ? NULL : divided, err);
        }
    }
    return status == LQ_OK ? lq_hf_folder_end(folder, "awq.assemble", 1, err) : status;
}

/* ---- config.json ---- */

/* Readers want zero points whether groups have different ones or not. */
static cJSON *describe_gemm(const struct lq_awq_job *job)
{
    cJSON *quantization = cJSON_CreateObject();
    (void)cJSON_AddStringToObject(quantization, "quant_method", "awq");
    (void)cJSON_AddNumberToObject(quantization, "bits", 4);
    (void)cJSON_AddNumberToObject(quantization, "group_size", (double)job->group_size);
    (void)cJSON_AddBoolToObject(quantization, "zero_point", true);
    (void)cJSON_AddStringToObject(quantization, "version", "gemm");
    (void)cJSON_AddNullToObject(quantization, "modules_to_not_convert");
    return quantization;
}

static cJSON *describe_packed(const struct lq_awq_job *job)
{
    static const char *const ignored[] = {"lm_head"};
    static const char *const targets[] = {"Linear"};
    cJSON *quantization = cJSON_CreateObject();
    (void)cJSON_AddStringToObject(quantization, "quant_method", "compressed-tensors");
    (void)cJSON_AddStringToObject(quantization, "format", "pack-quantized");
    (void)cJSON_AddStringToObject(quantization, "quantization_status", "compressed");
    cJSON *groups = cJSON_AddObjectToObject(quantization, "config_groups");
    cJSON *group = cJSON_AddObjectToObject(groups, "group_0");
    (void)cJSON_AddItemToObject(group, "targets", cJSON_CreateStringArray(targets, 1));
    cJSON *weights = cJSON_AddObjectToObject(group, "weights");
    (void)cJSON_AddNumberToObject(weights, "num_bits", 4);
    (void)cJSON_AddStringToObject(weights, "type", "int");
    (void)cJSON_AddBoolToObject(weights, "symmetric", job->symmetric);
    (void)cJSON_AddStringToObject(weights, "strategy", "group");
    (void)cJSON_AddNumberToObject(weights, "group_size", (double)job->group_size);
    (void)cJSON_AddBoolToObject(weights, "dynamic", false);
    (void)cJSON_AddItemToObject(quantization, "ignore", cJSON_CreateStringArray(ignored, 1));
    return quantization;
}

/* ---- the rule ---- */

static enum lq_status expand_awq(struct lq_expand *expand, struct lq_error *err)
{
    const struct lq_artifact *artifact = lq_expand_artifact(expand);
    struct lq_awq_job *job = lq_arena_get(lq_expand_arena(expand), sizeof *job);
    size_t step = 0;
    if (job == NULL) {
        return lq_error_nomem(err, "AWQ");
    }
    bool is_gemm = strcmp(lq_attr_string(artifact, "format"), "awq") == 0;
    *job = (struct lq_awq_job){.expand = expand,
                               .model = lq_attr_ref(artifact, "model", 0),
                               .calibration = lq_attr_ref(artifact, "calibration", 0),
                               .group_size = (size_t)lq_attr_int(artifact, "group_size"),
                               .symmetric = !lq_attr_bool(artifact, "zero_point"),
                               .cut = lq_attr_bool(artifact, "clip"),
                               .format = is_gemm ? LQ_AWQ_GEMM : LQ_AWQ_PACKED};
    enum lq_status status = lq_awq_add_steps(job, err);
    if (status == LQ_OK) {
        status = add_file(job, err);
    }
    if (status == LQ_OK) {
        status = is_gemm
                     ? lq_hf_folder_bind_half_config(expand, job->model, describe_gemm(job), err)
                     : lq_hf_folder_bind_config(expand, job->model, describe_packed(job), err);
    }
    if (status == LQ_OK) {
        status = lq_awq_add_report(job, &step, err);
    }
    static const char *const outputs[] = {"scales", "summary"};
    for (size_t i = 0; status == LQ_OK && i < LQ_COUNT_OF(outputs); i++) {
        struct lq_ref ref = lq_ref_step(step, outputs[i]);
        status = lq_expand_bind_output(expand, outputs[i], &ref, err);
    }
    return status;
}

const struct lq_rule lq_rule_awq = {
    .kind = "awq",
    .version = 1,
    .help = "a Hugging Face model with weights of 4 bits by AWQ",
    .attrs = attrs,
    .attr_count = LQ_COUNT_OF(attrs),
    .outputs = "config (config.json), scales (the scales and what is lost, JSON), summary",
    .check = check_awq,
    .expand = expand_awq,
    .shows_summary = true,
};
