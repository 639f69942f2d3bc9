#include "rules/quality/model_reader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "rules/model/tensor_ref.h"
#include "rules/quality/perplexity.h"

enum { NAME_BYTES = LQ_MODEL_INPUT_BYTES };

/* ---- run ---- */

static const char *input_name(const struct lq_model_reader *reader, const char *what,
                              char name[NAME_BYTES])
{
    (void)snprintf(name, NAME_BYTES, "%s%s", reader->prefix, what);
    return name;
}

/* A file has its own hyperparameters, a folder those of the model that it was made of. */
static enum lq_status open_made(struct lq_model_reader *reader, struct lq_error *err)
{
    char name[NAME_BYTES];
    struct lq_made_model *made = &reader->made;
    enum lq_status status = lq_made_model_open(made, reader->run, reader->file, err);
    reader->index = made->index;
    if (status != LQ_OK) {
        return status;
    }
    return made->is_folder
               ? lq_hparams_parse(lq_run_param(reader->run, input_name(reader, "hparams", name)),
                                  &reader->hparams, err)
               : lq_hparams_read(&made->keys, &reader->index, "quantized model", LQ_EFORMAT,
                                 &reader->hparams, err);
}

enum lq_status lq_model_reader_open(struct lq_model_reader *reader, struct lq_run *run,
                                    const char *prefix, struct lq_error *err)
{
    char name[NAME_BYTES];
    *reader = (struct lq_model_reader){.run = run, .prefix = prefix};
    reader->is_made = lq_run_has_input(run, input_name(reader, "gguf", reader->file));
    if (reader->is_made) {
        return open_made(reader, err);
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
    lq_made_model_close(&reader->made);
}

static enum lq_status get_source(void *user, size_t source, const void **data, uint64_t *size_bytes,
                                 struct lq_error *err)
{
    const struct lq_model_reader *reader = user;
    char input[NAME_BYTES];
    (void)snprintf(input, sizeof input, "%ssource.%zu", reader->prefix, source);
    return lq_run_input_load(reader->run, input, data, size_bytes, err);
}

static enum lq_status find_tensor(const struct lq_model_reader *reader, const char *name,
                                  const struct lq_model_tensor **tensor, struct lq_error *err)
{
    *tensor = lq_tensor_index_find(&reader->index, name);
    return *tensor == NULL ? lq_error_set(err, LQ_EFORMAT, "the tensor '%s' is missing", name)
                           : LQ_OK;
}

static enum lq_status find_part(const struct lq_model_part *part, const char *name, size_t *number,
                                struct lq_error *err)
{
    for (size_t i = 0; i < part->tensor_count; i++) {
        if (strcmp(part->tensors[i].name, name) == 0) {
            *number = i;
            return LQ_OK;
        }
    }
    return lq_error_set(err, LQ_EINTERNAL, "the tensor '%s' is no input of this step", name);
}

static enum lq_status get_weight(void *user, const char *name,
                                 const struct lq_model_tensor **tensor, const void **data,
                                 struct lq_error *err)
{
    struct lq_model_reader *reader = user;
    const struct lq_model_part *part = reader->part;
    if (part != NULL) {
        size_t number = 0;
        enum lq_status found = find_part(part, name, &number, err);
        *tensor = &part->tensors[number];
        return found == LQ_OK
                   ? lq_tensor_load(reader->run, *tensor, part->inputs[number], data, err)
                   : found;
    }
    enum lq_status status = find_tensor(reader, name, tensor, err);
    if (status != LQ_OK) {
        return status;
    }
    return reader->is_made
               ? lq_made_model_read(&reader->made, *tensor, 0, (*tensor)->ne[2], data, err)
               : lq_tensor_data(*tensor, get_source, reader, &reader->bytes, data, err);
}

static enum lq_status get_matrix(void *user, const char *name, uint64_t matrix,
                                 const struct lq_model_tensor **tensor, const void **data,
                                 struct lq_error *err)
{
    struct lq_model_reader *reader = user;
    const struct lq_model_part *part = reader->part;
    if (part != NULL) {
        size_t number = 0;
        enum lq_status found = find_part(part, name, &number, err);
        *tensor = &part->tensors[number];
        return found == LQ_OK ? lq_tensor_load_matrix(reader->run, *tensor, part->inputs[number],
                                                      matrix, data, err)
                              : found;
    }
    enum lq_status status = find_tensor(reader, name, tensor, err);
    if (status != LQ_OK) {
        return status;
    }
    return reader->is_made
               ? lq_made_model_read(&reader->made, *tensor, matrix, 1, data, err)
               : lq_tensor_matrix(*tensor, matrix, get_source, reader, &reader->bytes, data, err);
}

static bool get_digest(void *user, const char *name, struct lq_digest *digest)
{
    const struct lq_model_reader *reader = user;
    size_t number = 0;
    return reader->part != NULL && find_part(reader->part, name, &number, NULL) == LQ_OK &&
           lq_run_input_digest(reader->run, reader->part->inputs[number], digest);
}

struct lq_weight_source lq_model_reader_weights(struct lq_model_reader *reader)
{
    struct lq_weight_source source = {get_weight, reader, get_matrix, get_digest};
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

static enum lq_status add_made(struct lq_model_inputs *out, struct lq_expand *expand,
                               const struct lq_artifact *model, const struct lq_hparams *hparams,
                               const char *prefix, struct lq_error *err)
{
    const char *name = lq_arena_printf(lq_expand_arena(expand), "%sgguf", prefix);
    if (name == NULL) {
        return lq_error_nomem(err, "the inputs of a step");
    }
    enum lq_status status =
        lq_made_model_put(expand, model, name, out->inputs, &out->input_count, err);
    return status == LQ_OK && lq_made_model_is_folder(model)
               ? add_hparams(out, expand, hparams, prefix, err)
               : status;
}

/* The artifact that says what the model is. */
static const struct lq_artifact *base_of(const struct lq_artifact *model)
{
    return lq_made_model_is(model) ? lq_attr_ref(model, "model", 0) : model;
}

enum lq_status lq_model_inputs_add(struct lq_model_inputs *out, struct lq_expand *expand,
                                   const struct lq_artifact *model, const char *prefix,
                                   struct lq_error *err)
{
    struct lq_hparams hparams = {0};
    bool is_made = lq_made_model_is(model);
    enum lq_status status = is_made && !lq_made_model_is_folder(model)
                                ? LQ_OK
                                : lq_perplexity_hparams(expand, base_of(model), &hparams, err);
    if (status == LQ_OK && is_made) {
        return add_made(out, expand, model, &hparams, prefix, err);
    }
    if (status == LQ_OK) {
        status = add_hparams(out, expand, &hparams, prefix, err);
    }
    return status == LQ_OK ? add_sources(out, expand, model, prefix, err) : status;
}

/* ---- parts ---- */

enum lq_status lq_model_view_open(struct lq_model_view *view, struct lq_expand *expand,
                                  const struct lq_artifact *model, struct lq_error *err)
{
    *view = (struct lq_model_view){.model = model, .is_made = lq_made_model_is(model)};
    const struct lq_artifact *base = base_of(model);
    struct lq_ref ref = lq_ref_artifact(base, "tensors");
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_perplexity_hparams(expand, base, &view->hparams, err);
    if (status == LQ_OK && !view->is_made) {
        status = lq_expand_read(expand, &ref, &data, &size_bytes, err);
        if (status == LQ_OK) {
            status =
                lq_tensor_index_parse(data, size_bytes, lq_expand_arena(expand), &view->index, err);
        }
    }
    return status;
}

/* Experts of a checkpoint are an input each. */
static enum lq_status make_room(struct lq_model_inputs *out, struct lq_arena *arena, size_t more,
                                struct lq_error *err)
{
    if (more == 0) {
        return LQ_OK;
    }
    struct lq_step_input *inputs =
        lq_arena_get_array(arena, out->input_room + more, sizeof *inputs);
    if (inputs == NULL) {
        return lq_error_nomem(err, "the inputs of a step");
    }
    memcpy(inputs, out->inputs, out->input_count * sizeof *inputs);
    out->inputs = inputs;
    out->input_room += more;
    return LQ_OK;
}

/* Type, shape and order of rows are not in a tensor's bytes, so they become a parameter. */
static enum lq_status add_tensor(struct lq_model_inputs *out, struct lq_expand *expand,
                                 const struct lq_model_view *view, const char *prefix,
                                 const struct lq_model_tensor *tensor, const char **input,
                                 struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expand);
    const char *name = lq_arena_printf(arena, "%s%s", prefix, tensor->name);
    const char *text = lq_model_tensor_form(tensor, arena);
    if (name == NULL || text == NULL) {
        return lq_error_nomem(err, "the inputs of a step");
    }
    *input = name;
    lq_model_inputs_set(out, name, text);
    return lq_tensor_put_inputs(expand, view->model, tensor, name, out->inputs, &out->input_count,
                                err);
}

enum lq_status lq_model_inputs_add_part(struct lq_model_inputs *out, struct lq_expand *expand,
                                        const struct lq_model_view *view, const char *prefix,
                                        const char *const *names, size_t name_count,
                                        struct lq_model_part *part, struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expand);
    *part = (struct lq_model_part){.hparams = view->hparams};
    if (view->is_made) {
        return add_made(out, expand, view->model, &view->hparams, prefix, err);
    }
    enum lq_status status = add_hparams(out, expand, &view->hparams, prefix, err);
    struct lq_model_tensor *tensors = lq_arena_get_array(arena, name_count, sizeof *tensors);
    const char **inputs = lq_arena_get_array(arena, name_count, sizeof *inputs);
    if (status == LQ_OK && (tensors == NULL || inputs == NULL)) {
        status = lq_error_nomem(err, "the inputs of a step");
    }
    size_t more = 0;
    for (size_t i = 0; status == LQ_OK && i < name_count; i++) {
        const struct lq_model_tensor *found = lq_tensor_index_find(&view->index, names[i]);
        if (found == NULL) {
            return lq_error_set(err, LQ_EMODEL, "the tensor '%s' is missing", names[i]);
        }
        tensors[i] = *found;
        more += lq_tensor_input_count(found) - 1;
    }
    if (status == LQ_OK) {
        status = make_room(out, arena, more, err);
    }
    for (size_t i = 0; status == LQ_OK && i < name_count; i++) {
        status = add_tensor(out, expand, view, prefix, &tensors[i], &inputs[i], err);
    }
    part->tensors = tensors;
    part->inputs = inputs;
    part->tensor_count = name_count;
    return status;
}
