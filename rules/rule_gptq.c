/* The rule `gptq`: a Hugging Face model whose layers' matrices have 2 to 8 bits, in the format that
 * GPTQ tools write and vLLM, transformers and others load. The file of weights is put together
 * (hf_folder.h) from steps (gptq_steps.h) and from tensors of the source; config.json and
 * quantize_config.json say how it is to be read. */
#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/json.h"
#include "engine/base/version.h"
#include "rules/quant/bit_words.h"
#include "rules/quant/gptq_steps.h"
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
    {.name = "bits",
     .type = LQ_ATTR_INT,
     .default_text = "4",
     .min = 2,
     .max = 8,
     .help = "bits of a weight: 2, 3, 4 or 8"},
    {.name = "group_size",
     .type = LQ_ATTR_INT,
     .default_text = "128",
     .min = -1,
     .max = 256,
     .help = "weights of a row that share a scale: 32, 64, 128, 256, or -1 for the whole row"},
    {.name = "sym",
     .type = LQ_ATTR_BOOL,
     .default_text = "true",
     .help = "groups reach as far below zero as above; false: each has a zero point"},
    {.name = "desc_act",
     .type = LQ_ATTR_BOOL,
     .default_text = "false",
     .help = "take columns in the order of their activations; slower to run"},
    {.name = "damp",
     .type = LQ_ATTR_NUMBER,
     .default_text = "0.05",
     .min = 0.0001,
     .max = 1.0,
     .help = "part of the mean square of activations that is added to each, against overfitting"},
    {.name = "format",
     .type = LQ_ATTR_ENUM,
     .choices = "gptq gptq_v2",
     .help = "gptq stores zero points less one, gptq_v2 as they are (gptq if sym, else gptq_v2)"},
    {.name = "path", .type = LQ_ATTR_OUT_PATH, .help = "where model.safetensors is put"},
    {.name = "config",
     .type = LQ_ATTR_OUT_PATH,
     .output = "config",
     .help = "where config.json is put"},
    {.name = "quantize_config",
     .type = LQ_ATTR_OUT_PATH,
     .output = "quantize_config",
     .help = "where quantize_config.json is put, for older readers"},
    {.name = "losses",
     .type = LQ_ATTR_OUT_PATH,
     .output = "losses",
     .help = "where the losses of matrices are put, as JSON"},
};

static enum lq_status check_gptq(const struct lq_artifact *artifact, struct lq_error *err)
{
    int64_t bits = lq_attr_int(artifact, "bits");
    int64_t group_size = lq_attr_int(artifact, "group_size");
    const char *format = lq_attr_string(artifact, "format");
    if (bits != 2 && bits != 3 && bits != 4 && bits != 8) {
        return lq_attr_error(artifact, "bits", err, LQ_ERECIPE,
                             "bits is %lld, expected 2, 3, 4 or 8", (long long)bits);
    }
    if (group_size != -1 && group_size != 32 && group_size != 64 && group_size != 128 &&
        group_size != 256) {
        return lq_attr_error(artifact, "group_size", err, LQ_ERECIPE,
                             "group_size is %lld, expected 32, 64, 128, 256, or -1 for whole rows",
                             (long long)group_size);
    }
    if (format != NULL && strcmp(format, "gptq") == 0 && !lq_attr_bool(artifact, "sym")) {
        return lq_attr_error(artifact, "format", err, LQ_ERECIPE,
                             "the format gptq cannot hold a zero point of 0, which groups may have "
                             "without sym; use gptq_v2");
    }
    return LQ_OK;
}

/* ---- the file of weights ---- */

static enum lq_status add_part(struct lq_hf_folder *folder, const struct lq_gptq_job *job,
                               const struct lq_model_tensor *tensor,
                               const struct lq_gptq_matrix *matrix, enum lq_gptq_output output,
                               struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(job->expand);
    uint64_t cols = tensor->ne[0];
    uint64_t rows = tensor->ne[1];
    uint64_t groups = cols / matrix->group_size;
    uint64_t col_words = lq_bit_words((size_t)cols, job->bits);
    uint64_t row_words = lq_bit_words((size_t)rows, job->bits);
    const struct {
        const char *ending;
        const char *dtype;
        uint32_t dim_count;
        uint64_t shape[2];
        uint64_t element_bytes;
    } parts[] = {
        [LQ_GPTQ_QWEIGHT] = {".qweight", "I32", 2, {col_words, rows}, 4},
        [LQ_GPTQ_QZEROS] = {".qzeros", "I32", 2, {groups, row_words}, 4},
        [LQ_GPTQ_SCALES] = {".scales", "F16", 2, {groups, rows}, 2},
        [LQ_GPTQ_G_IDX] = {".g_idx", "I32", 1, {cols, 1}, 4},
    };
    const struct lq_safetensors_entry entry = {
        .name = lq_hf_folder_name(arena, tensor, parts[output].ending),
        .dtype = parts[output].dtype,
        .dim_count = parts[output].dim_count,
        .shape = {parts[output].shape[0], parts[output].shape[1]},
        .size_bytes =
            parts[output].shape[0] * parts[output].shape[1] * parts[output].element_bytes};
    const char *name = lq_gptq_output_name(arena, matrix->weight, output);
    if (entry.name == NULL || name == NULL) {
        return lq_error_nomem(err, "a file of weights");
    }
    struct lq_ref ref = lq_ref_step(matrix->step, name);
    return lq_hf_folder_add(folder, &entry, &ref, err);
}

static enum lq_status add_file(const struct lq_gptq_job *job, struct lq_error *err)
{
    static const enum lq_gptq_output parts[] = {LQ_GPTQ_QWEIGHT, LQ_GPTQ_QZEROS, LQ_GPTQ_SCALES,
                                                LQ_GPTQ_G_IDX};
    const struct lq_tensor_index *index = lq_stages_index(job->stages);
    struct lq_hf_folder *folder = NULL;
    enum lq_status status = lq_hf_folder_begin(
        job->expand, job->model, LQ_COUNT_OF(parts) * index->tensor_count, &folder, err);
    for (size_t i = 0; status == LQ_OK && i < index->tensor_count; i++) {
        const struct lq_model_tensor *tensor = &index->tensors[i];
        if (job->matrices[i].step == SIZE_MAX) {
            status = lq_hf_folder_add_source(folder, tensor, NULL, err);
            continue;
        }
        for (size_t p = 0; status == LQ_OK && p < LQ_COUNT_OF(parts); p++) {
            status = add_part(folder, job, tensor, &job->matrices[i], parts[p], err);
        }
    }
    return status == LQ_OK ? lq_hf_folder_end(folder, "gptq.assemble", 1, err) : status;
}

/* ---- how it is to be read ---- */

static cJSON *describe_quantization(const struct lq_gptq_job *job, const char *format)
{
    cJSON *quantization = cJSON_CreateObject();
    (void)cJSON_AddNumberToObject(quantization, "bits", job->bits);
    (void)cJSON_AddNumberToObject(quantization, "group_size", (double)job->group_size);
    (void)cJSON_AddBoolToObject(quantization, "desc_act", job->desc_act);
    (void)cJSON_AddBoolToObject(quantization, "sym", job->symmetric);
    (void)cJSON_AddBoolToObject(quantization, "lm_head", false);
    (void)cJSON_AddStringToObject(quantization, "quant_method", "gptq");
    (void)cJSON_AddStringToObject(quantization, "checkpoint_format", format);
    (void)cJSON_AddStringToObject(quantization, "pack_dtype", "int32");
    cJSON *meta = cJSON_AddObjectToObject(quantization, "meta");
    cJSON *quantizers = cJSON_AddArrayToObject(meta, "quantizer");
    const char *quantizer = lq_arena_printf(lq_expand_arena(job->expand), "lqbuild:%s", lq_version);
    (void)cJSON_AddItemToArray(quantizers,
                               cJSON_CreateString(quantizer == NULL ? "lqbuild" : quantizer));
    (void)cJSON_AddNumberToObject(meta, "damp_percent", job->damp);
    (void)cJSON_AddNumberToObject(meta, "damp_auto_increment", 0.01);
    (void)cJSON_AddBoolToObject(meta, "true_sequential", true);
    (void)cJSON_AddBoolToObject(meta, "static_groups", false);
    (void)cJSON_AddNumberToObject(meta, "mse", 0.0);
    return quantization;
}

/* ---- the rule ---- */

static enum lq_status add_outputs(struct lq_gptq_job *job, const char *format, struct lq_error *err)
{
    size_t step = 0;
    enum lq_status status = add_file(job, err);
    if (status == LQ_OK) {
        status = lq_hf_folder_bind_config(job->expand, job->model,
                                          describe_quantization(job, format), err);
    }
    if (status == LQ_OK) {
        status = lq_hf_folder_bind_json(job->expand, "quantize_config",
                                        describe_quantization(job, format), err);
    }
    if (status == LQ_OK) {
        status = lq_gptq_add_report(job, &step, err);
    }
    static const char *const outputs[] = {"losses", "summary"};
    for (size_t i = 0; status == LQ_OK && i < LQ_COUNT_OF(outputs); i++) {
        struct lq_ref ref = lq_ref_step(step, outputs[i]);
        status = lq_expand_bind_output(job->expand, outputs[i], &ref, err);
    }
    return status;
}

static enum lq_status expand_gptq(struct lq_expand *expand, struct lq_error *err)
{
    const struct lq_artifact *artifact = lq_expand_artifact(expand);
    struct lq_gptq_job *job = lq_arena_get(lq_expand_arena(expand), sizeof *job);
    const char *format = lq_attr_string(artifact, "format");
    if (job == NULL) {
        return lq_error_nomem(err, "GPTQ");
    }
    *job = (struct lq_gptq_job){.expand = expand,
                                .model = lq_attr_ref(artifact, "model", 0),
                                .calibration = lq_attr_ref(artifact, "calibration", 0),
                                .bits = (unsigned)lq_attr_int(artifact, "bits"),
                                .group_size = lq_attr_int(artifact, "group_size"),
                                .symmetric = lq_attr_bool(artifact, "sym"),
                                .desc_act = lq_attr_bool(artifact, "desc_act"),
                                .damp = lq_attr_number(artifact, "damp")};
    if (format == NULL) {
        format = job->symmetric ? "gptq" : "gptq_v2";
    }
    job->stores_less_one = strcmp(format, "gptq") == 0;
    enum lq_status status = lq_gptq_add_steps(job, err);
    return status == LQ_OK ? add_outputs(job, format, err) : status;
}

const struct lq_rule lq_rule_gptq = {
    .kind = "gptq",
    .version = 1,
    .program_version = lq_version,
    .help = "a Hugging Face model with weights of 2 to 8 bits in groups, by GPTQ",
    .attrs = attrs,
    .attr_count = LQ_COUNT_OF(attrs),
    .outputs = "config (config.json), quantize_config (quantize_config.json), losses (what each "
               "matrix lost, JSON), summary",
    .check = check_gptq,
    .expand = expand_gptq,
    .shows_summary = true,
};
