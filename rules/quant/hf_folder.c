#include "rules/quant/hf_folder.h"

#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "engine/base/text.h"
#include "kernels/dtype.h"
#include "rules/model/tensor_ref.h"

struct lq_hf_folder {
    struct lq_expand *expand;
    const struct lq_artifact *model;
    struct lq_safetensors_entry *entries;
    struct lq_step_input *inputs; /* one more: the header comes first */
    size_t count;
    size_t tensor_max;
};

enum lq_status lq_hf_folder_begin(struct lq_expand *expand, const struct lq_artifact *model,
                                  size_t tensor_max, struct lq_hf_folder **out,
                                  struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expand);
    struct lq_hf_folder *folder = lq_arena_get(arena, sizeof *folder);
    if (folder == NULL || tensor_max == SIZE_MAX) {
        return lq_error_nomem(err, "a file of weights");
    }
    *folder = (struct lq_hf_folder){
        .expand = expand,
        .model = model,
        .entries = lq_arena_get_array(arena, tensor_max + 1, sizeof *folder->entries),
        .inputs = lq_arena_get_array(arena, tensor_max + 1, sizeof *folder->inputs),
        .tensor_max = tensor_max};
    *out = folder;
    return folder->entries == NULL || folder->inputs == NULL
               ? lq_error_nomem(err, "a file of weights")
               : LQ_OK;
}

enum lq_status lq_hf_folder_add(struct lq_hf_folder *folder,
                                const struct lq_safetensors_entry *entry, const struct lq_ref *ref,
                                struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(folder->expand);
    if (folder->count == folder->tensor_max) {
        return lq_error_set(err, LQ_EINTERNAL,
                            "a file of weights has more tensors than the %zu that were announced; "
                            "please report it",
                            folder->tensor_max);
    }
    struct lq_step_input *input = &folder->inputs[folder->count + 1];
    struct lq_safetensors_entry *kept = &folder->entries[folder->count];
    input->name = lq_arena_printf(arena, "part%zu", folder->count);
    input->ref = *ref;
    *kept = *entry;
    kept->name = lq_arena_dup_string(arena, entry->name);
    folder->count++;
    return input->name == NULL || kept->name == NULL ? lq_error_nomem(err, "a file of weights")
                                                     : LQ_OK;
}

enum lq_status lq_hf_folder_add_source(struct lq_hf_folder *folder,
                                       const struct lq_model_tensor *tensor,
                                       const struct lq_ref *ref, struct lq_error *err)
{
    struct lq_safetensors_entry entry = {.name = tensor->source_name,
                                         .dtype = lq_dtype_name((uint32_t)tensor->dtype),
                                         .dim_count = tensor->dim_count,
                                         .size_bytes = tensor->size_bytes};
    struct lq_ref own;
    enum lq_status status = LQ_OK;
    if (tensor->literal != NULL) { /* out of config.json, which has it still */
        return LQ_OK;
    }
    for (uint32_t d = 0; d < tensor->dim_count; d++) {
        entry.shape[d] = tensor->ne[tensor->dim_count - 1 - d];
    }
    if (ref == NULL) {
        status = lq_tensor_ref(folder->expand, folder->model, tensor, &own, err);
    }
    return status == LQ_OK ? lq_hf_folder_add(folder, &entry, ref == NULL ? &own : ref, err)
                           : status;
}

static enum lq_status run_assemble(struct lq_run *run, struct lq_error *err)
{
    const struct lq_hf_folder *folder = lq_run_state(run);
    enum lq_status status = LQ_OK;
    for (size_t i = 0; status == LQ_OK && i <= folder->count; i++) {
        const char *name = folder->inputs[i].name;
        bool fits = i == 0 || lq_run_input_size(run, name) == folder->entries[i - 1].size_bytes;
        status = fits ? lq_run_write_input(run, "main", name, err)
                      : lq_error_set(err, LQ_EINTERNAL,
                                     "'%s' came out in another size; please report it",
                                     folder->entries[i - 1].name);
        if (status == LQ_OK && lq_run_cancelled(run)) {
            status = lq_error_set(err, LQ_ECANCELLED, "cancelled");
        }
    }
    return status;
}

static enum lq_status make_header(struct lq_hf_folder *folder, struct lq_error *err)
{
    struct lq_buffer header;
    lq_buffer_init(&header);
    enum lq_status status = lq_safetensors_header(folder->entries, folder->count, &header, err);
    if (status == LQ_OK) {
        char *copy = lq_arena_dup(lq_expand_arena(folder->expand), header.data, header.size_bytes);
        folder->inputs[0].name = "header";
        folder->inputs[0].ref = lq_ref_bytes(copy == NULL ? "" : copy, header.size_bytes);
        status = copy == NULL ? lq_error_nomem(err, "a file of weights") : LQ_OK;
    }
    lq_buffer_fini(&header);
    return status;
}

enum lq_status lq_hf_folder_end(struct lq_hf_folder *folder, const char *op, unsigned version,
                                struct lq_error *err)
{
    static const struct lq_step_output output = {.name = "main"};
    size_t index = 0;
    enum lq_status status = make_header(folder, err);
    if (status != LQ_OK) {
        return status;
    }
    const struct lq_step step = {.op = op,
                                 .version = version,
                                 .label = lq_artifact_name(lq_expand_artifact(folder->expand)),
                                 .run = run_assemble,
                                 .state = folder,
                                 .inputs = folder->inputs,
                                 .input_count = folder->count + 1,
                                 .outputs = &output,
                                 .output_count = 1,
                                 .cost = 1000 + folder->count * 20};
    status = lq_expand_add_step(folder->expand, &step, &index, err);
    struct lq_ref ref = lq_ref_step(index, "main");
    return status == LQ_OK ? lq_expand_bind_output(folder->expand, "main", &ref, err) : status;
}

enum lq_status lq_hf_folder_bind_json(struct lq_expand *expand, const char *output, cJSON *document,
                                      struct lq_error *err)
{
    char *text = document == NULL ? NULL : cJSON_Print(document);
    const char *copy = text == NULL ? NULL : lq_arena_printf(lq_expand_arena(expand), "%s\n", text);
    cJSON_free(text);
    cJSON_Delete(document);
    if (copy == NULL) {
        return lq_error_nomem(err, "a file of a model");
    }
    struct lq_ref ref = lq_ref_bytes(copy, strlen(copy));
    return lq_expand_bind_output(expand, output, &ref, err);
}

static enum lq_status read_config(struct lq_expand *expand, const struct lq_artifact *model,
                                  cJSON **config, struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size_bytes = 0;
    size_t number = 0;
    size_t count = lq_expand_source_count(expand, model);
    while (number < count &&
           strcmp(lq_expand_source_name(expand, model, number), "config.json") != 0) {
        number++;
    }
    if (number == count) {
        return lq_error_set(err, LQ_EUNSUPPORTED, "the model has no config.json");
    }
    struct lq_ref ref = lq_ref_source(model, number);
    enum lq_status status = lq_expand_read(expand, &ref, &data, &size_bytes, err);
    return status == LQ_OK
               ? lq_json_parse(data, (size_t)size_bytes, "config.json", LQ_EMODEL, config, err)
               : status;
}

/* "torch_dtype" was the name before "dtype". */
static bool say_halves(cJSON *config)
{
    static const char *const names[] = {"torch_dtype", "dtype"};
    bool said = false;
    bool good = true;
    for (size_t i = 0; i < LQ_COUNT_OF(names); i++) {
        bool is_there = cJSON_HasObjectItem(config, names[i]);
        if (is_there || (i == LQ_COUNT_OF(names) - 1 && !said)) {
            cJSON *value = cJSON_CreateString("float16");
            said = true;
            good = is_there ? cJSON_ReplaceItemInObjectCaseSensitive(config, names[i], value)
                            : cJSON_AddItemToObject(config, names[i], value);
        }
    }
    return good;
}

static enum lq_status bind_config(struct lq_expand *expand, const struct lq_artifact *model,
                                  cJSON *quantization, bool halves, struct lq_error *err)
{
    cJSON *config = NULL;
    enum lq_status status = quantization == NULL ? lq_error_nomem(err, "config.json")
                                                 : read_config(expand, model, &config, err);
    if (status != LQ_OK) {
        cJSON_Delete(quantization);
        return status;
    }
    cJSON_DeleteItemFromObjectCaseSensitive(config, "quantization_config");
    if (!cJSON_AddItemToObject(config, "quantization_config", quantization)) {
        cJSON_Delete(quantization);
        cJSON_Delete(config);
        return lq_error_nomem(err, "config.json");
    }
    if (halves && !say_halves(config)) {
        cJSON_Delete(config);
        return lq_error_nomem(err, "config.json");
    }
    return lq_hf_folder_bind_json(expand, "config", config, err);
}

enum lq_status lq_hf_folder_bind_config(struct lq_expand *expand, const struct lq_artifact *model,
                                        cJSON *quantization, struct lq_error *err)
{
    return bind_config(expand, model, quantization, false, err);
}

enum lq_status lq_hf_folder_bind_half_config(struct lq_expand *expand,
                                             const struct lq_artifact *model, cJSON *quantization,
                                             struct lq_error *err)
{
    return bind_config(expand, model, quantization, true, err);
}

const char *lq_hf_folder_name(struct lq_arena *arena, const struct lq_model_tensor *tensor,
                              const char *ending)
{
    static const char usual[] = ".weight";
    size_t length = strlen(tensor->source_name);
    if (lq_text_ends_with(tensor->source_name, usual)) {
        length -= sizeof usual - 1;
    }
    char *name = lq_arena_get(arena, length + strlen(ending) + 1);
    if (name != NULL) {
        memcpy(name, tensor->source_name, length);
        memcpy(name + length, ending, strlen(ending) + 1);
    }
    return name;
}

enum lq_status lq_hf_folder_check(const struct lq_expand *expand, const struct lq_artifact *model,
                                  const struct lq_model_tensor *tensor, const char *method,
                                  const char *verb, struct lq_error *err)
{
    const char *where = lq_tensor_model_name(expand, model);
    bool is_float = tensor->dtype == LQ_DTYPE_F32 || tensor->dtype == LQ_DTYPE_F16 ||
                    tensor->dtype == LQ_DTYPE_BF16;
    if (tensor->source_name == NULL || strcmp(tensor->source_name, tensor->name) == 0) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            "%s: %s writes a Hugging Face model, so it needs the folder of one and "
                            "no GGUF file",
                            where, method);
    }
    if (!is_float || tensor->add_one || tensor->packing != NULL || tensor->ne[2] != 1) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            "%s: '%s' is of a kind that %s cannot %s here (models of the Gemma "
                            "family, mixtures of experts and quantized ones)",
                            where, tensor->name, method, verb);
    }
    return LQ_OK;
}
