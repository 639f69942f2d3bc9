#include <math.h>
#include <stdio.h>
#include <string.h>

#include "rules/format/dqprofile.h"
#include "rules/format/inspect_parts.h"
#include "rules/format/qreport.h"
#include "rules/format/quote.h"
#include "rules/format/safetensors.h"

static enum lq_status inspect_profile(const struct lq_inspection *in)
{
    struct lq_dqprofile profile;
    struct lq_view view;
    int width = 0;
    enum lq_status status =
        lq_dqprofile_parse(in->data, in->size_bytes, in->name, in->arena, &profile, in->err);
    if (status != LQ_OK) {
        return status;
    }
    lq_view_begin(&view, in->out, in->json, "dqprofile", "quantization profile", in->size_bytes);
    lq_view_string(&view, "profile_id", profile.profile_id);
    lq_view_string(&view, "profile_name", profile.profile_name);
    if (profile.description != NULL) {
        lq_view_string(&view, "description", profile.description);
    }
    lq_view_string(&view, "strategy", lq_profile_strategy_name(profile.strategy));
    lq_view_number(&view, "target_bpw", profile.target_bpw);
    lq_view_number(&view, "target_compression", profile.target_compression);
    for (size_t i = 0; i < profile.layer_count; i++) {
        width = lq_inspect_width(width, profile.layers[i].layer_name);
    }
    lq_view_begin_table(
        &view, "layer_assignments",
        "layer assignments: name, bits, type, method, protection, importance, error");
    for (size_t i = 0; i < profile.layer_count; i++) {
        const struct lq_dqprofile_layer *layer = &profile.layers[i];
        lq_view_begin_row(&view);
        lq_view_cell_string(&view, "layer_name", -width, layer->layer_name);
        lq_view_cell_number(&view, "bit_width", 4, layer->bit_width);
        lq_view_cell_string(&view, "type", -8,
                            layer->has_type ? lq_dtype_name((uint32_t)layer->type) : "-");
        lq_view_cell_string(&view, "quant_method", -8, lq_quant_method_name(layer->quant_method));
        lq_view_cell_string(&view, "protected", -9, layer->is_protected ? "protected" : "-");
        lq_view_cell_number(&view, "importance_score", 10, layer->importance_score);
        lq_view_cell_number(&view, "estimated_error", 10, layer->estimated_error);
        lq_view_end_row(&view);
    }
    lq_view_end_table(&view);
    lq_view_end(&view);
    return LQ_OK;
}

static void put_model(struct lq_view *view, const struct lq_qreport_model *model, int width)
{
    lq_view_begin_row(view);
    lq_view_cell_string(view, "quantized_path", -width, model->quantized_path);
    lq_view_cell_number(view, "perplexity", 10, model->perplexity);
    lq_view_cell_number(view, "plus_minus", 10, model->plus_minus);
    lq_view_cell_number(view, "delta_pct", 10, model->delta_pct);
    lq_view_cell_number(view, "bpw", 8, model->effective_bpw);
    if (model->file_size_bytes == 0) {
        lq_view_cell_number(view, "size", 10, (double)NAN);
    } else {
        lq_view_cell_size(view, "size", 10, model->file_size_bytes);
    }
    lq_view_cell_uint(view, "layers", 6, model->layer_count);
    lq_view_end_row(view);
}

/* JSON keys count the models: "layer_errors_0" belongs to the first. */
static void put_layers(struct lq_view *view, const struct lq_qreport_model *model, size_t number)
{
    char quoted[LQ_QUOTE_BYTES];
    char key[40];
    char heading[LQ_QUOTE_BYTES + 80];
    int width = 0;
    (void)snprintf(key, sizeof key, "layer_errors_%zu", number);
    (void)snprintf(heading, sizeof heading,
                   "%s: layer, type, bits, mean squared and largest error, parameters",
                   lq_quote_string(model->quantized_path, quoted));
    lq_view_begin_table(view, key, heading);
    for (size_t i = 0; i < model->layer_count; i++) {
        width = lq_inspect_width(width, model->layers[i].layer_name);
    }
    for (size_t i = 0; i < model->layer_count; i++) {
        const struct lq_qreport_layer *layer = &model->layers[i];
        lq_view_begin_row(view);
        lq_view_cell_string(view, "layer_name", -width, layer->layer_name);
        lq_view_cell_string(view, "type", -8, layer->type == NULL ? "-" : layer->type);
        lq_view_cell_number(view, "bit_width", 8, layer->bit_width);
        lq_view_cell_number(view, "mse", 12, layer->mse);
        lq_view_cell_number(view, "max_error", 12, layer->max_error);
        lq_view_cell_uint(view, "parameter_count", 12, layer->parameter_count);
        lq_view_end_row(view);
    }
    lq_view_end_table(view);
}

static enum lq_status inspect_report(const struct lq_inspection *in)
{
    struct lq_qreport report;
    struct lq_view view;
    int width = 0;
    enum lq_status status =
        lq_qreport_parse(in->data, in->size_bytes, in->name, in->arena, &report, in->err);
    if (status != LQ_OK) {
        return status;
    }
    lq_view_begin(&view, in->out, in->json, "qreport", "quality report", in->size_bytes);
    lq_view_string(&view, "report_id", report.report_id);
    lq_view_string(&view, "model_path", report.model_path);
    lq_view_number(&view, "perplexity_original", report.perplexity);
    lq_view_number(&view, "plus_minus", report.plus_minus);
    lq_view_uint(&view, "context", report.context);
    lq_view_uint(&view, "chunks", report.chunk_count);
    lq_view_uint(&view, "tokens", report.token_count);
    for (size_t i = 0; i < report.model_count; i++) {
        width = lq_inspect_width(width, report.models[i].quantized_path);
    }
    lq_view_begin_table(&view, "models",
                        "models: path, perplexity, plus or minus, change in percent, bits per "
                        "weight, size, layers");
    for (size_t i = 0; i < report.model_count; i++) {
        put_model(&view, &report.models[i], width);
    }
    lq_view_end_table(&view);
    for (size_t i = 0; i < report.model_count; i++) {
        put_layers(&view, &report.models[i], i);
    }
    lq_view_end(&view);
    return LQ_OK;
}

static enum lq_status inspect_shards(const struct lq_inspection *in)
{
    struct lq_shard_index index;
    struct lq_view view;
    enum lq_status status = lq_shard_index_parse(in->data, in->size_bytes, in->name, LQ_EFORMAT,
                                                 in->arena, &index, in->err);
    if (status != LQ_OK) {
        return status;
    }
    uint64_t *counts = lq_arena_get_array(in->arena, index.file_count, sizeof *counts);
    if (counts == NULL) {
        return lq_error_nomem(in->err, "the shard index");
    }
    for (size_t i = 0; i < index.entry_count; i++) {
        counts[index.entries[i].file]++;
    }
    lq_view_begin(&view, in->out, in->json, "safetensors-index", "index of safetensors files",
                  in->size_bytes);
    lq_view_uint(&view, "tensor_count", index.entry_count);
    lq_view_uint(&view, "file_count", index.file_count);
    lq_view_begin_table(&view, "files", "files: name, tensors");
    for (size_t i = 0; i < index.file_count; i++) {
        lq_view_begin_row(&view);
        lq_view_cell_string(&view, "file", -40, index.files[i]);
        lq_view_cell_uint(&view, "tensors", 7, counts[i]);
        lq_view_end_row(&view);
    }
    lq_view_end_table(&view);
    lq_view_end(&view);
    return LQ_OK;
}

static uint64_t count_of(const cJSON *container)
{
    return container == NULL ? 0 : (uint64_t)cJSON_GetArraySize(container);
}

static void put_tokenizer(struct lq_view *view, const cJSON *root)
{
    static const char *const parts[] = {"normalizer", "pre_tokenizer", "post_processor", "decoder"};
    const cJSON *model = lq_json_find(root, "model");
    const cJSON *type = lq_json_find(model, "type");
    lq_view_string(view, "model", cJSON_IsString(type) ? type->valuestring : "-");
    lq_view_uint(view, "vocabulary", count_of(lq_json_find(model, "vocab")));
    lq_view_uint(view, "merges", count_of(lq_json_find(model, "merges")));
    lq_view_uint(view, "added_tokens", count_of(lq_json_find(root, "added_tokens")));
    for (size_t i = 0; i < LQ_COUNT_OF(parts); i++) {
        const cJSON *part = lq_json_find(root, parts[i]);
        const cJSON *name = part == NULL ? NULL : lq_json_find(part, "type");
        lq_view_string(view, parts[i], cJSON_IsString(name) ? name->valuestring : "-");
    }
}

/* Containers are counted, not shown. */
static void put_member_json(struct lq_json_writer *json, const cJSON *item)
{
    lq_json_begin_object(json);
    lq_json_put_string(json, "name", item->string);
    if (cJSON_IsArray(item) || cJSON_IsObject(item)) {
        lq_json_put_string(json, "kind", cJSON_IsArray(item) ? "list" : "object");
        lq_json_put_int(json, "count", (int64_t)count_of(item));
    } else if (cJSON_IsString(item)) {
        lq_json_put_string(json, "value", item->valuestring);
    } else if (cJSON_IsNumber(item)) {
        lq_json_put_number(json, "value", item->valuedouble);
    } else if (cJSON_IsBool(item)) {
        lq_json_put_bool(json, "value", cJSON_IsTrue(item) != 0);
    } else {
        lq_json_key(json, "value");
        lq_json_null(json);
    }
    lq_json_end_object(json);
}

static void put_member_text(struct lq_view *view, const cJSON *item)
{
    char text[64];
    if (cJSON_IsString(item)) {
        lq_view_string(view, item->string, item->valuestring);
    } else if (cJSON_IsNumber(item)) {
        lq_view_number(view, item->string, item->valuedouble);
    } else if (cJSON_IsBool(item)) {
        lq_view_string(view, item->string, cJSON_IsTrue(item) ? "true" : "false");
    } else if (cJSON_IsNull(item)) {
        lq_view_string(view, item->string, "null");
    } else {
        (void)snprintf(text, sizeof text, "%s of %llu", cJSON_IsArray(item) ? "list" : "object",
                       (unsigned long long)count_of(item));
        lq_view_string(view, item->string, text);
    }
}

static void put_members(struct lq_view *view, const cJSON *root)
{
    const cJSON *item = NULL;
    lq_view_begin_table(view, "members", "members");
    cJSON_ArrayForEach(item, root)
    {
        if (view->json) {
            put_member_json(&view->writer, item);
        } else {
            put_member_text(view, item);
        }
    }
    lq_view_end_table(view);
}

static enum lq_status inspect_other(const struct lq_inspection *in, const cJSON *root)
{
    struct lq_view view;
    const cJSON *model = lq_json_find(root, "model");
    if (cJSON_IsObject(model) && lq_json_find(model, "vocab") != NULL) {
        lq_view_begin(&view, in->out, in->json, "tokenizer-json", "tokenizer.json", in->size_bytes);
        put_tokenizer(&view, root);
    } else if (lq_json_find(root, "architectures") != NULL ||
               lq_json_find(root, "model_type") != NULL) {
        const cJSON *names = lq_json_find(root, "architectures");
        const cJSON *name = cJSON_IsArray(names) ? names->child : NULL;
        lq_view_begin(&view, in->out, in->json, "config-json", "model config.json", in->size_bytes);
        lq_view_string(&view, "architecture", cJSON_IsString(name) ? name->valuestring : "-");
        put_members(&view, root);
    } else {
        lq_view_begin(&view, in->out, in->json, "json", cJSON_IsArray(root) ? "JSON list" : "JSON",
                      in->size_bytes);
        lq_view_uint(&view, "member_count", count_of(root));
        if (cJSON_IsObject(root)) {
            put_members(&view, root);
        }
    }
    lq_view_end(&view);
    return LQ_OK;
}

enum lq_status lq_inspect_json(const struct lq_inspection *in)
{
    cJSON *root = NULL;
    enum lq_status status =
        lq_json_parse(in->data, (size_t)in->size_bytes, in->name, LQ_EFORMAT, &root, in->err);
    if (status != LQ_OK) {
        return status;
    }
    if (lq_json_find(root, "weight_map") != NULL) {
        status = inspect_shards(in);
    } else if (lq_json_find(root, "layer_assignments") != NULL) {
        status = inspect_profile(in);
    } else if (lq_json_find(root, "layer_errors") != NULL) {
        status = inspect_report(in);
    } else {
        status = inspect_other(in, root);
    }
    cJSON_Delete(root);
    return status;
}
