#include "rules/quality/tensors_step.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/checked.h"
#include "rules/format/qreport.h"
#include "rules/model/hparams.h"
#include "rules/model/packing.h"
#include "rules/model/tensor_index.h"
#include "rules/model/tensor_ref.h"
#include "rules/quality/made_model.h"
#include "rules/quality/tensor_error.h"
#include "rules/quant/levels.h"

enum { NAME_BYTES = 40 };

/* One of the two models: an index, and where the bytes are. */
struct side {
    struct lq_run *run;
    const char *prefix; /* of the inputs' names */
    bool is_made;       /* by an artifact, in the input "<prefix>.file" */
    struct lq_made_model made;
    char file[NAME_BYTES]; /* that input's name */
    struct lq_tensor_index index;
    uint64_t file_bytes;
    uint64_t protected_count;
    void *bytes; /* what was read last */
};

static const char *input_name(const struct side *side, const char *what, size_t number,
                              char name[NAME_BYTES])
{
    if (number == SIZE_MAX) {
        (void)snprintf(name, NAME_BYTES, "%s.%s", side->prefix, what);
    } else {
        (void)snprintf(name, NAME_BYTES, "%s.%s%zu", side->prefix, what, number);
    }
    return name;
}

static enum lq_status open_side(struct side *side, struct lq_error *err)
{
    char name[NAME_BYTES];
    side->is_made = lq_run_has_input(side->run, input_name(side, "file", SIZE_MAX, side->file));
    if (side->is_made) {
        enum lq_status opened = lq_made_model_open(&side->made, side->run, side->file, err);
        side->index = side->made.index;
        side->file_bytes = side->made.file_bytes;
        side->protected_count =
            opened != LQ_OK || side->made.is_folder
                ? 0
                : lq_gguf_get_uint(&side->made.keys, "lqbuild.protected_weights", 0);
        return opened;
    }
    const void *json = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_run_input_load(
        side->run, input_name(side, "tensors", SIZE_MAX, name), &json, &size_bytes, err);
    if (status == LQ_OK) {
        status =
            lq_tensor_index_parse(json, size_bytes, lq_run_arena(side->run), &side->index, err);
    }
    for (size_t i = 0; status == LQ_OK; i++) {
        if (!lq_run_has_input(side->run, input_name(side, "source", i, name))) {
            break;
        }
        side->file_bytes += lq_run_input_size(side->run, name);
    }
    return status;
}

static enum lq_status get_source(void *user, size_t source, const void **data, uint64_t *size_bytes,
                                 struct lq_error *err)
{
    struct side *side = user;
    char name[NAME_BYTES];
    return lq_run_input_load(side->run, input_name(side, "source", source, name), data, size_bytes,
                             err);
}

static enum lq_status get_data(struct side *side, const struct lq_model_tensor *tensor,
                               const void **data, struct lq_error *err)
{
    if (side->is_made) {
        return lq_made_model_read(&side->made, tensor, 0, tensor->ne[2], data, err);
    }
    return lq_tensor_data(tensor, get_source, side, &side->bytes, data, err);
}

static enum lq_status measure_tensor(struct side *original, struct side *quantized,
                                     const struct lq_model_tensor *tensor,
                                     struct lq_qreport_layer *layer, struct lq_error *err)
{
    const struct lq_model_tensor *source = lq_tensor_index_find(&original->index, tensor->name);
    if (source == NULL) {
        return lq_error_set(err, LQ_EFORMAT,
                            "the original model has no tensor '%s'; they are different models",
                            tensor->name);
    }
    const void *original_data = NULL;
    const void *quantized_data = NULL;
    struct lq_tensor_error error;
    enum lq_status status = get_data(original, source, &original_data, err);
    if (status == LQ_OK) {
        status = get_data(quantized, tensor, &quantized_data, err);
    }
    if (status == LQ_OK) {
        status = lq_tensor_error_measure(source, original_data, tensor, quantized_data,
                                         lq_run_pool(original->run), &error, err);
    }
    const struct lq_packing *packing = tensor->packing;
    double bits = packing == NULL
                      ? lq_dtype_bpw(tensor->dtype)
                      : 8.0 * (double)tensor->size_bytes / (double)lq_level_tensor_elems(tensor);
    const char *type = packing == NULL ? lq_dtype_name((uint32_t)tensor->dtype)
                                       : lq_packing_type(packing, lq_run_arena(original->run));
    if (status == LQ_OK && type == NULL) {
        status = lq_error_nomem(err, "a report");
    }
    if (status == LQ_OK) {
        *layer = (struct lq_qreport_layer){.layer_name = tensor->name,
                                           .type = type,
                                           .mse = error.mse,
                                           .max_error = error.max_error,
                                           .bit_width = bits,
                                           .parameter_count = error.parameter_count};
    }
    return status;
}

static enum lq_status measure_all(struct side *original, struct side *quantized,
                                  struct lq_qreport_model *model, struct lq_error *err)
{
    struct lq_run *run = original->run;
    uint64_t data_bytes = 0;
    uint64_t elems = 0;
    uint64_t quantizable = 0;
    size_t total = quantized->index.tensor_count;
    model->layers = lq_arena_get_array(lq_run_arena(run), total + 1, sizeof *model->layers);
    if (model->layers == NULL) {
        return lq_error_nomem(err, "a report");
    }
    for (size_t i = 0; i < total; i++) {
        const struct lq_model_tensor *tensor = &quantized->index.tensors[i];
        data_bytes += tensor->size_bytes;
        elems += lq_level_tensor_elems(tensor);
        if (!lq_level_is_quantizable(tensor)) {
            continue;
        }
        quantizable += lq_level_tensor_elems(tensor);
        if (lq_run_cancelled(run)) {
            return lq_error_set(err, LQ_ECANCELLED, "cancelled");
        }
        enum lq_status status =
            measure_tensor(original, quantized, tensor, &model->layers[model->layer_count++], err);
        if (status != LQ_OK) {
            return status;
        }
        lq_run_progress(run, i + 1, total, "tensors");
    }
    model->effective_bpw = elems == 0 ? (double)NAN : 8.0 * (double)data_bytes / (double)elems;
    if (quantized->protected_count > 0 && quantizable > 0) {
        model->super_weight_coverage = (double)quantized->protected_count / (double)quantizable;
    }
    model->file_size_bytes = quantized->file_bytes;
    if (original->file_bytes > 0) {
        model->compression_ratio = (double)quantized->file_bytes / (double)original->file_bytes;
    }
    return LQ_OK;
}

static enum lq_status run_tensors(struct lq_run *run, struct lq_error *err)
{
    struct side original = {.run = run, .prefix = "original"};
    struct side quantized = {.run = run, .prefix = "quantized"};
    struct lq_qreport_model model;
    struct lq_buffer out;
    lq_buffer_init(&out);
    lq_qreport_model_init(&model);
    model.quantized_path = "quantized";
    enum lq_status status = open_side(&original, err);
    if (status == LQ_OK) {
        status = open_side(&quantized, err);
    }
    if (status == LQ_OK) {
        status = measure_all(&original, &quantized, &model, err);
    }
    if (status == LQ_OK) {
        struct lq_qreport report = {.model_path = "original",
                                    .perplexity = (double)NAN,
                                    .plus_minus = (double)NAN,
                                    .file_size_bytes = original.file_bytes,
                                    .models = &model,
                                    .model_count = 1};
        status = lq_qreport_format(&report, NULL, &out, err);
    }
    if (status == LQ_OK) {
        status = lq_run_write(run, "main", out.data, out.size_bytes, err);
    }
    free(original.bytes);
    free(quantized.bytes);
    lq_made_model_close(&original.made);
    lq_made_model_close(&quantized.made);
    lq_buffer_fini(&out);
    return status;
}

/* ------------------------------------------------------------------ expand ---- */

struct input_list {
    struct lq_step_input *items;
    size_t count;
};

static enum lq_status add_side(struct lq_expand *expand, const struct lq_artifact *artifact,
                               const char *prefix, struct input_list *inputs, uint64_t *cost,
                               struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expand);
    if (lq_made_model_is(artifact)) {
        const char *file = lq_arena_printf(arena, "%s.file", prefix);
        return file == NULL
                   ? lq_error_nomem(err, "a step")
                   : lq_made_model_put(expand, artifact, file, inputs->items, &inputs->count, err);
    }
    struct lq_ref ref = lq_ref_artifact(artifact, "tensors");
    const void *data = NULL;
    uint64_t size_bytes = 0;
    struct lq_tensor_index index;
    enum lq_status status = lq_expand_read(expand, &ref, &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_tensor_index_parse(data, size_bytes, arena, &index, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    size_t source_max = lq_expand_source_count(expand, artifact);
    bool *used = lq_arena_get_array(arena, source_max + 1, sizeof *used);
    if (used == NULL) {
        return lq_error_nomem(err, "a step");
    }
    for (size_t i = 0; i < index.tensor_count; i++) {
        if (!lq_tensor_mark_sources(&index.tensors[i], used, source_max)) {
            return lq_error_set(err, LQ_EINTERNAL, "tensor '%s' is in no file of the model",
                                index.tensors[i].name);
        }
        *cost += lq_level_tensor_elems(&index.tensors[i]) / 100;
    }
    size_t source_count = source_max;
    while (source_count > 0 && !used[source_count - 1]) {
        source_count--;
    }
    char *name = lq_arena_printf(arena, "%s.tensors", prefix);
    bool failed = name == NULL;
    inputs->items[inputs->count++] = (struct lq_step_input){name, ref};
    for (size_t i = 0; i < source_count; i++) {
        name = lq_arena_printf(arena, "%s.source%zu", prefix, i);
        failed = failed || name == NULL;
        inputs->items[inputs->count++] = (struct lq_step_input){name, lq_ref_source(artifact, i)};
    }
    return failed ? lq_error_nomem(err, "a step") : LQ_OK;
}

enum lq_status lq_tensors_add_step(struct lq_expand *expand, const struct lq_artifact *original,
                                   const struct lq_artifact *quantized, size_t *index,
                                   struct lq_error *err)
{
    size_t room = 2 * (size_t)LQ_MADE_INPUTS_MAX + 2 + lq_expand_source_count(expand, original) +
                  lq_expand_source_count(expand, quantized);
    struct input_list inputs = {
        .items = lq_arena_get_array(lq_expand_arena(expand), room, sizeof *inputs.items)};
    if (inputs.items == NULL) {
        return lq_error_nomem(err, "a step");
    }
    uint64_t cost = 1000;
    enum lq_status status = add_side(expand, original, "original", &inputs, &cost, err);
    if (status == LQ_OK) {
        status = add_side(expand, quantized, "quantized", &inputs, &cost, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    struct lq_step_output output = {.name = "main"};
    struct lq_step step = {.op = "quality.tensors",
                           .version = 1,
                           .label = lq_artifact_name(quantized),
                           .run = run_tensors,
                           .inputs = inputs.items,
                           .input_count = inputs.count,
                           .outputs = &output,
                           .output_count = 1,
                           .memory_bytes = (uint64_t)64 << 20,
                           .cost = cost};
    return lq_expand_add_step(expand, &step, index, err);
}
