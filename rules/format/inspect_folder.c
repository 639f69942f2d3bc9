#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/fs.h"
#include "rules/format/inspect_parts.h"
#include "rules/format/safetensors.h"

/* Models that see or hear keep what the language part is in an object of its own. */
static const cJSON *find_member(const cJSON *root, const char *name)
{
    const cJSON *item = lq_json_find(root, name);
    return item != NULL ? item : lq_json_find(lq_json_find(root, "text_config"), name);
}

static void put_config(struct lq_view *view, const cJSON *root)
{
    static const struct {
        const char *key; /* what we call it */
        const char *member;
    } numbers[] = {
        {"hidden_size", "hidden_size"},
        {"feed_forward_size", "intermediate_size"},
        {"num_layers", "num_hidden_layers"},
        {"num_heads", "num_attention_heads"},
        {"num_kv_heads", "num_key_value_heads"},
        {"num_experts", "num_local_experts"},
        {"num_experts", "num_experts"},
        {"vocab_size", "vocab_size"},
        {"max_position_embeddings", "max_position_embeddings"},
    };
    const cJSON *names = lq_json_find(root, "architectures");
    const cJSON *name = cJSON_IsArray(names) ? names->child : NULL;
    lq_view_string(view, "architecture", cJSON_IsString(name) ? name->valuestring : "-");
    for (size_t i = 0; i < LQ_COUNT_OF(numbers); i++) {
        const cJSON *item = find_member(root, numbers[i].member);
        if (cJSON_IsNumber(item)) {
            lq_view_number(view, numbers[i].key, item->valuedouble);
        }
    }
    const cJSON *dtype = find_member(root, "torch_dtype");
    dtype = dtype != NULL ? dtype : find_member(root, "dtype"); /* since transformers 5 */
    if (cJSON_IsString(dtype)) {
        lq_view_string(view, "torch_dtype", dtype->valuestring);
    }
}

static uint64_t count_elements(const struct lq_safetensor *tensor)
{
    uint64_t count = 1;
    for (uint32_t d = 0; d < tensor->dim_count; d++) {
        count *= tensor->shape[d];
    }
    return count;
}

static enum lq_status count_weights(const struct lq_inspect_file *file, struct lq_arena *arena,
                                    struct lq_inspect_type types[LQ_INSPECT_TYPES_MAX],
                                    struct lq_inspect_quantized *quantized, struct lq_error *err)
{
    struct lq_safetensors weights;
    enum lq_status status = lq_safetensors_parse(file->data, file->size_bytes, file->size_bytes,
                                                 file->name, LQ_EMODEL, arena, &weights, NULL, err);
    for (size_t i = 0; status == LQ_OK && i < weights.tensor_count; i++) {
        const struct lq_safetensor *tensor = &weights.tensors[i];
        uint64_t count = lq_inspect_quantized_count(quantized, tensor, count_elements(tensor));
        lq_inspect_count(types, tensor->dtype_name, count, tensor->size_bytes);
        lq_inspect_quantized_add(quantized, tensor);
    }
    return status;
}

static void write_folder(const char *path, const cJSON *root, const struct lq_inspect_type *types,
                         const struct lq_inspect_quantized *quantized, uint64_t weight_bytes,
                         size_t weight_count, bool json, struct lq_buffer *out)
{
    struct lq_view view;
    const cJSON *given = lq_json_find(root, "_name_or_path");
    bool has_name = cJSON_IsString(given) && given->valuestring[0] != '\0';
    lq_view_begin(&view, out, json, "huggingface-folder", "Hugging Face model", weight_bytes);
    lq_view_string(&view, "model_path", path);
    lq_view_string(&view, "model_name",
                   has_name ? lq_path_base(given->valuestring) : lq_path_base(path));
    put_config(&view, root);
    lq_inspect_quantized_put(quantized, &view);
    lq_view_uint(&view, "weight_file_count", weight_count);
    if (weight_count > 0) {
        lq_inspect_put_types(&view, types);
    }
    lq_view_end(&view);
}

enum lq_status lq_inspect_folder(const char *path, const struct lq_inspect_file *config,
                                 const struct lq_inspect_file *weights, size_t weight_count,
                                 bool json, struct lq_buffer *out, struct lq_error *err)
{
    cJSON *root = NULL;
    struct lq_arena arena;
    struct lq_inspect_type types[LQ_INSPECT_TYPES_MAX] = {{0}};
    struct lq_inspect_quantized quantized;
    uint64_t weight_bytes = 0;
    enum lq_status status = lq_json_parse(config->data, (size_t)config->size_bytes, config->name,
                                          LQ_EMODEL, &root, err);
    lq_arena_init(&arena);
    if (status == LQ_OK && !cJSON_IsObject(root)) {
        status = lq_error_set(err, LQ_EMODEL, "%s: is no JSON object", config->name);
    }
    lq_inspect_quantized_init(&quantized, status == LQ_OK ? root : NULL);
    for (size_t i = 0; status == LQ_OK && i < weight_count; i++) {
        weight_bytes += weights[i].size_bytes;
        status = count_weights(&weights[i], &arena, types, &quantized, err);
    }
    if (status == LQ_OK) {
        write_folder(path, root, types, &quantized, weight_bytes, weight_count, json, out);
    }
    if (status == LQ_OK && out->failed) {
        status = lq_error_nomem(err, "the summary of a model");
    }
    lq_inspect_quantized_fini(&quantized);
    lq_arena_fini(&arena);
    cJSON_Delete(root);
    return status;
}
