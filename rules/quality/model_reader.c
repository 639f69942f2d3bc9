#include "rules/quality/model_reader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "rules/format/gguf.h"
#include "rules/model/tensor_ref.h"
#include "rules/quality/perplexity.h"

enum {
    NAME_BYTES = 64,
    HEADER_BYTES_FIRST = 1 << 20, /* of a GGUF file; doubled until the header is whole */
};

/* ---- run ---- */

static const char *input_name(const struct lq_model_reader *reader, const char *what,
                              char name[NAME_BYTES])
{
    (void)snprintf(name, NAME_BYTES, "%s%s", reader->prefix, what);
    return name;
}

static enum lq_status read_header(struct lq_model_reader *reader, struct lq_gguf *gguf,
                                  struct lq_error *err)
{
    char name[NAME_BYTES];
    input_name(reader, "gguf", name);
    uint64_t file_bytes = lq_run_input_size(reader->run, name);
    uint64_t size_bytes = HEADER_BYTES_FIRST;
    for (;;) {
        bool need_more = false;
        size_bytes = size_bytes < file_bytes ? size_bytes : file_bytes;
        free(reader->bytes);
        reader->bytes = size_bytes >= SIZE_MAX ? NULL : malloc((size_t)size_bytes + 1);
        if (reader->bytes == NULL) {
            return lq_error_nomem(err, "a GGUF header");
        }
        enum lq_status status =
            lq_run_input_read(reader->run, name, 0, reader->bytes, (size_t)size_bytes, err);
        if (status == LQ_OK) {
            status = lq_gguf_parse(reader->bytes, size_bytes, file_bytes, "quantized model",
                                   LQ_EFORMAT, lq_run_arena(reader->run), gguf,
                                   size_bytes < file_bytes ? &need_more : NULL, err);
        }
        if (status != LQ_OK || !need_more) {
            return status;
        }
        size_bytes *= 2;
    }
}

static enum lq_status open_file(struct lq_model_reader *reader, struct lq_error *err)
{
    struct lq_gguf gguf = {0};
    enum lq_status status = read_header(reader, &gguf, err);
    if (status == LQ_OK) {
        status = lq_hparams_index_gguf(&gguf, lq_run_arena(reader->run), &reader->index, err);
    }
    if (status == LQ_OK) {
        status = lq_hparams_read(&gguf, &reader->index, "quantized model", LQ_EFORMAT,
                                 &reader->hparams, err);
    }
    return status;
}

enum lq_status lq_model_reader_open(struct lq_model_reader *reader, struct lq_run *run,
                                    const char *prefix, struct lq_error *err)
{
    char name[NAME_BYTES];
    *reader = (struct lq_model_reader){.run = run, .prefix = prefix};
    reader->is_gguf = lq_run_has_input(run, input_name(reader, "gguf", name));
    if (reader->is_gguf) {
        return open_file(reader, err);
    }
    const void *json = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status =
        lq_run_input_load(run, input_name(reader, "tensors", name), &json, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_tensor_index_parse(json, size_bytes, lq_run_arena(run), &reader->index, err);
    }
    if (status == LQ_OK) {
        status = lq_hparams_parse(lq_run_param(run, input_name(reader, "hparams", name)),
                                  &reader->hparams, err);
    }
    return status;
}

enum lq_status lq_model_reader_open_part(struct lq_model_reader *reader, struct lq_run *run,
                                         const char *prefix, const struct lq_model_part *part,
                                         struct lq_error *err)
{
    char name[NAME_BYTES];
    *reader = (struct lq_model_reader){.run = run, .prefix = prefix};
    if (lq_run_has_input(run, input_name(reader, "gguf", name))) {
        return lq_model_reader_open(reader, run, prefix, err);
    }
    reader->part = part;
    reader->hparams = part->hparams;
    return LQ_OK;
}

void lq_model_reader_close(struct lq_model_reader *reader)
{
    free(reader->bytes);
    reader->bytes = NULL;
}

static enum lq_status read_tensor(struct lq_model_reader *reader,
                                  const struct lq_model_tensor *tensor, const void **data,
                                  struct lq_error *err)
{
    char name[NAME_BYTES];
    free(reader->bytes);
    reader->bytes = tensor->size_bytes >= SIZE_MAX ? NULL : malloc((size_t)tensor->size_bytes + 1);
    if (reader->bytes == NULL) {
        return lq_error_nomem(err, tensor->name);
    }
    *data = reader->bytes;
    return lq_run_input_read(reader->run, input_name(reader, "gguf", name), tensor->offset,
                             reader->bytes, (size_t)tensor->size_bytes, err);
}

static enum lq_status get_source(void *user, size_t source, const void **data, uint64_t *size_bytes,
                                 struct lq_error *err)
{
    const struct lq_model_reader *reader = user;
    char input[NAME_BYTES];
    (void)snprintf(input, sizeof input, "%ssource.%zu", reader->prefix, source);
    return lq_run_input_load(reader->run, input, data, size_bytes, err);
}

static enum lq_status get_part(struct lq_model_reader *reader, const char *name,
                               const struct lq_model_tensor **tensor, const void **data,
                               struct lq_error *err)
{
    const struct lq_model_part *part = reader->part;
    for (size_t i = 0; i < part->tensor_count; i++) {
        if (strcmp(part->tensors[i].name, name) == 0) {
            uint64_t size_bytes = 0;
            *tensor = &part->tensors[i];
            enum lq_status status =
                lq_run_input_load(reader->run, part->inputs[i], data, &size_bytes, err);
            if (status == LQ_OK && size_bytes != part->tensors[i].size_bytes) {
                status =
                    lq_error_set(err, LQ_EINTERNAL, "the tensor '%s' has %llu bytes, expected %llu",
                                 name, (unsigned long long)size_bytes,
                                 (unsigned long long)part->tensors[i].size_bytes);
            }
            return status;
        }
    }
    return lq_error_set(err, LQ_EINTERNAL, "the tensor '%s' is no input of this step", name);
}

static enum lq_status get_weight(void *user, const char *name,
                                 const struct lq_model_tensor **tensor, const void **data,
                                 struct lq_error *err)
{
    struct lq_model_reader *reader = user;
    if (reader->part != NULL) {
        return get_part(reader, name, tensor, data, err);
    }
    const struct lq_model_tensor *found = lq_tensor_index_find(&reader->index, name);
    if (found == NULL) {
        return lq_error_set(err, LQ_EFORMAT, "the tensor '%s' is missing", name);
    }
    *tensor = found;
    if (reader->is_gguf) {
        return read_tensor(reader, found, data, err);
    }
    return lq_tensor_data(found, get_source, reader, &reader->bytes, data, err);
}

struct lq_weight_source lq_model_reader_weights(struct lq_model_reader *reader)
{
    struct lq_weight_source source = {get_weight, reader};
    return source;
}

/* ---- expansion ---- */

enum lq_status lq_model_inputs_init(struct lq_model_inputs *out, struct lq_expand *expand,
                                    const struct lq_artifact *const *models, size_t model_count,
                                    size_t room, struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expand);
    *out = (struct lq_model_inputs){.input_room = room, .param_room = room + model_count};
    for (size_t i = 0; i < model_count; i++) {
        out->input_room += 2 + lq_expand_source_count(expand, models[i]);
    }
    out->inputs = lq_arena_get_array(arena, out->input_room, sizeof *out->inputs);
    out->params = lq_arena_get_array(arena, out->param_room, sizeof *out->params);
    return out->inputs == NULL || out->params == NULL ? lq_error_nomem(err, "a step") : LQ_OK;
}

void lq_model_inputs_put(struct lq_model_inputs *out, const char *name, struct lq_ref ref)
{
    out->inputs[out->input_count++] = (struct lq_step_input){name, ref};
}

void lq_model_inputs_set(struct lq_model_inputs *out, const char *name, const char *value)
{
    out->params[out->param_count++] = (struct lq_step_param){name, value};
}

/* The index, and each file that has any tensor. */
static enum lq_status add_sources(struct lq_model_inputs *out, struct lq_expand *expand,
                                  const struct lq_artifact *model, const char *prefix,
                                  struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expand);
    struct lq_ref ref = lq_ref_artifact(model, "tensors");
    struct lq_tensor_index index;
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_expand_read(expand, &ref, &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_tensor_index_parse(data, size_bytes, arena, &index, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    size_t sources = lq_expand_source_count(expand, model);
    bool *used = lq_arena_get_array(arena, sources + 1, sizeof *used);
    const char *name = lq_arena_printf(arena, "%stensors", prefix);
    if (used == NULL || name == NULL) {
        return lq_error_nomem(err, "the inputs of a step");
    }
    lq_model_inputs_put(out, name, ref);
    for (size_t i = 0; i < index.tensor_count; i++) {
        if (!lq_tensor_mark_sources(&index.tensors[i], used, sources)) {
            return lq_error_set(err, LQ_EINTERNAL,
                                "tensor '%s' is in none of the model's %zu files",
                                index.tensors[i].name, sources);
        }
    }
    for (size_t i = 0; i < sources; i++) {
        name = used[i] ? lq_arena_printf(arena, "%ssource.%zu", prefix, i) : "";
        if (name == NULL) {
            return lq_error_nomem(err, "the inputs of a step");
        }
        if (used[i]) {
            lq_model_inputs_put(out, name, lq_ref_source(model, i));
        }
    }
    return LQ_OK;
}

static enum lq_status add_hparams(struct lq_model_inputs *out, struct lq_expand *expand,
                                  const struct lq_hparams *hparams, const char *prefix,
                                  struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expand);
    struct lq_buffer text;
    lq_buffer_init(&text);
    lq_hparams_format(hparams, &text);
    const char *name = lq_arena_printf(arena, "%shparams", prefix);
    const char *value = text.failed ? NULL : lq_arena_dup_string(arena, lq_buffer_text(&text));
    lq_buffer_fini(&text);
    if (name == NULL || value == NULL) {
        return lq_error_nomem(err, "the hyperparameters");
    }
    lq_model_inputs_set(out, name, value);
    return LQ_OK;
}

static enum lq_status add_file(struct lq_model_inputs *out, struct lq_expand *expand,
                               const struct lq_artifact *model, const char *prefix,
                               struct lq_error *err)
{
    const char *name = lq_arena_printf(lq_expand_arena(expand), "%sgguf", prefix);
    if (name == NULL) {
        return lq_error_nomem(err, "the inputs of a step");
    }
    lq_model_inputs_put(out, name, lq_ref_artifact(model, "main"));
    return LQ_OK;
}

static bool is_gguf(const struct lq_artifact *model)
{
    return strcmp(lq_artifact_kind(model), "gguf") == 0;
}

enum lq_status lq_model_inputs_add(struct lq_model_inputs *out, struct lq_expand *expand,
                                   const struct lq_artifact *model, const char *prefix,
                                   struct lq_error *err)
{
    struct lq_hparams hparams;
    if (is_gguf(model)) {
        return add_file(out, expand, model, prefix, err);
    }
    enum lq_status status = lq_perplexity_hparams(expand, model, &hparams, err);
    if (status == LQ_OK) {
        status = add_hparams(out, expand, &hparams, prefix, err);
    }
    return status == LQ_OK ? add_sources(out, expand, model, prefix, err) : status;
}

/* ---- parts ---- */

enum lq_status lq_model_view_open(struct lq_model_view *view, struct lq_expand *expand,
                                  const struct lq_artifact *model, struct lq_error *err)
{
    *view = (struct lq_model_view){.model = model, .is_gguf = is_gguf(model)};
    const struct lq_artifact *base = view->is_gguf ? lq_attr_ref(model, "model", 0) : model;
    struct lq_ref ref = lq_ref_artifact(base, "tensors");
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_perplexity_hparams(expand, base, &view->hparams, err);
    if (status == LQ_OK && !view->is_gguf) {
        status = lq_expand_read(expand, &ref, &data, &size_bytes, err);
        if (status == LQ_OK) {
            status =
                lq_tensor_index_parse(data, size_bytes, lq_expand_arena(expand), &view->index, err);
        }
    }
    return status;
}

/* Type, shape and order of rows are not in a tensor's bytes, so they become a parameter. */
static enum lq_status add_tensor(struct lq_model_inputs *out, struct lq_expand *expand,
                                 const struct lq_model_view *view, const char *prefix,
                                 const struct lq_model_tensor *tensor, const char **input,
                                 struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expand);
    const char *name = lq_arena_printf(arena, "%s%s", prefix, tensor->name);
    const char *text =
        lq_arena_printf(arena, "%s %llux%llux%llu permute %u%s", lq_dtype_name(tensor->dtype),
                        (unsigned long long)tensor->ne[0], (unsigned long long)tensor->ne[1],
                        (unsigned long long)tensor->ne[2], (unsigned)tensor->permute_heads,
                        tensor->add_one ? " add 1" : "");
    if (name == NULL || text == NULL) {
        return lq_error_nomem(err, "the inputs of a step");
    }
    struct lq_ref ref;
    enum lq_status status = lq_tensor_ref(expand, view->model, tensor, &ref, err);
    if (status == LQ_OK) {
        *input = name;
        lq_model_inputs_put(out, name, ref);
        lq_model_inputs_set(out, name, text);
    }
    return status;
}

enum lq_status lq_model_inputs_add_part(struct lq_model_inputs *out, struct lq_expand *expand,
                                        const struct lq_model_view *view, const char *prefix,
                                        const char *const *names, size_t name_count,
                                        struct lq_model_part *part, struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expand);
    *part = (struct lq_model_part){.hparams = view->hparams};
    if (view->is_gguf) {
        return add_file(out, expand, view->model, prefix, err);
    }
    enum lq_status status = add_hparams(out, expand, &view->hparams, prefix, err);
    struct lq_model_tensor *tensors = lq_arena_get_array(arena, name_count, sizeof *tensors);
    const char **inputs = lq_arena_get_array(arena, name_count, sizeof *inputs);
    if (status == LQ_OK && (tensors == NULL || inputs == NULL)) {
        status = lq_error_nomem(err, "the inputs of a step");
    }
    for (size_t i = 0; status == LQ_OK && i < name_count; i++) {
        const struct lq_model_tensor *found = lq_tensor_index_find(&view->index, names[i]);
        if (found == NULL) {
            return lq_error_set(err, LQ_EMODEL, "the tensor '%s' is missing", names[i]);
        }
        tensors[i] = *found;
        status = add_tensor(out, expand, view, prefix, found, &inputs[i], err);
    }
    part->tensors = tensors;
    part->inputs = inputs;
    part->tensor_count = name_count;
    return status;
}
