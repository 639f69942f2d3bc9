#include "rules/quant/smooth_steps.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "kernels/kernels.h"
#include "rules/model/calibrate.h"
#include "rules/model/layer_ranges.h"
#include "rules/model/tensor_ref.h"
#include "rules/quant/hf_folder.h"
#include "rules/quant/levels.h"
#include "rules/quant/smooth.h"
#include "rules/quant/tensor_inputs.h"

/* What a norm feeds, in the order of the output "scales". */
static const struct {
    enum lq_layer_weight norm;
    enum lq_layer_input input;
    const char *output;
} parts[] = {
    {LQ_WEIGHT_ATTN_NORM, LQ_INPUT_ATTN, "attn_norm"},
    {LQ_WEIGHT_FFN_NORM, LQ_INPUT_FFN, "ffn_norm"},
};

enum { STRIP_VALUES = 1 << 16, STEP_INPUTS_MAX = LQ_LAYER_WEIGHT_COUNT + 2 };

/* A layer's step: which tensors it reads, by their weight; NULL: it has none. */
struct scales_state {
    const struct lq_smooth_job *job;
    const struct lq_model_tensor *tensors[LQ_LAYER_WEIGHT_COUNT];
};

struct tensor_state {
    struct lq_model_tensor tensor;
    size_t scale_first; /* where its columns begin in the scales; SIZE_MAX: they have none */
};

static size_t part_of(enum lq_layer_weight weight)
{
    for (size_t p = 0; p < LQ_COUNT_OF(parts); p++) {
        if (lq_layer_weight_input(weight) == parts[p].input) {
            return p;
        }
    }
    return SIZE_MAX;
}

static size_t strip_rows(const struct lq_model_tensor *tensor)
{
    return tensor->ne[0] >= STRIP_VALUES ? 1 : (size_t)(STRIP_VALUES / tensor->ne[0]);
}

/* ---- scales ---- */

static enum lq_status add_column_sizes(struct lq_run *run, const struct lq_model_tensor *tensor,
                                       const char *input, float *sizes, struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size_bytes = 0;
    size_t cols = (size_t)tensor->ne[0];
    size_t step = strip_rows(tensor);
    float *rows = malloc(step * cols * sizeof *rows);
    enum lq_status status = rows == NULL ? lq_error_nomem(err, "rows of a tensor")
                                         : lq_run_input_load(run, input, &data, &size_bytes, err);
    for (uint64_t row = 0; status == LQ_OK && row < tensor->ne[1]; row += step) {
        size_t count = tensor->ne[1] - row < step ? (size_t)(tensor->ne[1] - row) : step;
        status = lq_model_tensor_rows(tensor, data, row, count, rows, err);
        for (size_t i = 0; status == LQ_OK && i < count * cols; i++) {
            float size = rows[i] < 0.0F ? -rows[i] : rows[i];
            size_t j = i % cols;
            sizes[j] = size <= sizes[j] ? sizes[j] : size; /* NaN stays */
        }
    }
    free(rows);
    return status;
}

static enum lq_status write_norm(struct lq_run *run, const struct lq_model_tensor *norm,
                                 const char *output, const float *values, struct lq_error *err)
{
    size_t count = (size_t)norm->ne[0];
    size_t size_bytes = lq_dtype_row_bytes(norm->dtype, count);
    void *bytes = lq_arena_get(lq_run_arena(run), size_bytes);
    if (bytes == NULL) {
        return lq_error_nomem(err, "a norm");
    }
    lq_kernels()->encode[norm->dtype](values, bytes, count, NULL);
    return lq_run_write(run, output, bytes, size_bytes, err);
}

static enum lq_status run_part(struct lq_run *run, const struct scales_state *state, size_t part,
                               const struct lq_layer_ranges *ranges, struct lq_error *err)
{
    const struct lq_model_tensor *norm = state->tensors[parts[part].norm];
    size_t cols = (size_t)norm->ne[0];
    float *arrays = lq_arena_get_array(lq_run_arena(run), cols * 5, sizeof *arrays);
    const void *data = NULL;
    uint64_t size_bytes = 0;
    if (arrays == NULL || ranges->inputs[parts[part].input].col_count != cols) {
        return lq_error_nomem(err, "the scales of a layer");
    }
    float *inputs = arrays;
    float *weights = arrays + cols;
    float *values = arrays + 2 * cols;
    float *scales = arrays + 3 * cols;
    float *smoothed = arrays + 4 * cols;
    enum lq_status status = lq_run_input_load(run, parts[part].output, &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_model_tensor_rows(norm, data, 0, 1, values, err);
    }
    for (size_t j = 0; j < cols; j++) {
        inputs[j] = lq_input_range_size(&ranges->inputs[parts[part].input], j);
        weights[j] = 0.0F;
    }
    for (int w = 0; status == LQ_OK && w < LQ_LAYER_WEIGHT_COUNT; w++) {
        if (state->tensors[w] != NULL && part_of((enum lq_layer_weight)w) == part) {
            status = add_column_sizes(run, state->tensors[w],
                                      lq_layer_weight_name((enum lq_layer_weight)w), weights, err);
        }
    }
    if (status == LQ_OK) {
        status = lq_smooth_scales(state->job->alpha, inputs, weights, values, norm->dtype, cols,
                                  norm->name, scales, smoothed, err);
    }
    if (status == LQ_OK) {
        status = write_norm(run, norm, parts[part].output, smoothed, err);
    }
    return status == LQ_OK ? lq_run_write(run, "scales", scales, cols * sizeof *scales, err)
                           : status;
}

static enum lq_status run_scales(struct lq_run *run, struct lq_error *err)
{
    const struct scales_state *state = lq_run_state(run);
    struct lq_layer_ranges ranges;
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_run_input_load(run, "ranges", &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_layer_ranges_parse(data, size_bytes, lq_run_arena(run), &ranges, err);
    }
    for (size_t p = 0; status == LQ_OK && p < LQ_COUNT_OF(parts); p++) {
        status = run_part(run, state, p, &ranges, err);
    }
    return status;
}

/* Type and shape of every tensor that the step reads, since bytes do not say. */
static enum lq_status add_tensor_input(const struct lq_smooth_job *job, const char *name,
                                       const struct lq_model_tensor *tensor,
                                       struct lq_step_input *inputs, size_t *input_count,
                                       struct lq_step_param *params, size_t *param_count,
                                       struct lq_error *err)
{
    const char *shape =
        lq_arena_printf(lq_expand_arena(job->expand), "%s %" PRIu64 "x%" PRIu64,
                        lq_dtype_name((uint32_t)tensor->dtype), tensor->ne[0], tensor->ne[1]);
    if (shape == NULL) {
        return lq_error_nomem(err, "a step");
    }
    params[(*param_count)++] = (struct lq_step_param){name, shape};
    inputs[*input_count].name = name;
    return lq_tensor_ref(job->expand, job->model, tensor, &inputs[(*input_count)++].ref, err);
}

static enum lq_status add_scales(const struct lq_smooth_job *job, uint32_t layer, size_t *step,
                                 struct lq_error *err)
{
    struct scales_state *state = lq_arena_get(lq_expand_arena(job->expand), sizeof *state);
    struct lq_step_input inputs[STEP_INPUTS_MAX] = {
        {"ranges", lq_ref_step(job->ranges[layer], "ranges")}};
    struct lq_step_param params[STEP_INPUTS_MAX] = {{"alpha", job->alpha_text}};
    size_t input_count = 1;
    size_t param_count = 1;
    char label[LQ_WEIGHT_NAME_BYTES];
    if (state == NULL) {
        return lq_error_nomem(err, "a step");
    }
    *state = (struct scales_state){.job = job};
    enum lq_status status = LQ_OK;
    for (int w = 0; status == LQ_OK && w < LQ_LAYER_WEIGHT_COUNT; w++) {
        enum lq_layer_weight weight = (enum lq_layer_weight)w;
        char name[LQ_WEIGHT_NAME_BYTES];
        bool is_norm = weight == LQ_WEIGHT_ATTN_NORM || weight == LQ_WEIGHT_FFN_NORM;
        if (!lq_hparams_has(&job->hparams, weight) || !(is_norm || part_of(weight) != SIZE_MAX)) {
            continue;
        }
        state->tensors[w] =
            lq_tensor_index_find(&job->index, lq_layer_weight_path(layer, weight, name));
        status = state->tensors[w] == NULL
                     ? lq_error_set(err, LQ_EMODEL, "the tensor '%s' is missing", name)
                     : add_tensor_input(job, lq_layer_weight_name(weight), state->tensors[w],
                                        inputs, &input_count, params, &param_count, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    static const struct lq_step_output outputs[] = {
        {"attn_norm", false}, {"ffn_norm", false}, {"scales", false}};
    (void)snprintf(label, sizeof label, "blk.%u", (unsigned)layer);
    const struct lq_step added = {.op = "smoothquant.scales",
                                  .version = 1,
                                  .label = label,
                                  .run = run_scales,
                                  .state = state,
                                  .params = params,
                                  .param_count = param_count,
                                  .inputs = inputs,
                                  .input_count = input_count,
                                  .outputs = outputs,
                                  .output_count = LQ_COUNT_OF(outputs),
                                  .memory_bytes = (uint64_t)64 << 20,
                                  .cost = 10000};
    return lq_expand_add_step(job->expand, &added, step, err);
}

/* ---- one matrix ---- */

struct rounding {
    float *rows;
    int8_t *levels;
    float *row_scales;
    double error;
    double square;
};

static enum lq_status round_rows(struct lq_run *run, const struct tensor_state *state,
                                 const void *data, const float *scales, struct rounding *rounding,
                                 struct lq_error *err)
{
    const struct lq_model_tensor *tensor = &state->tensor;
    size_t cols = (size_t)tensor->ne[0];
    size_t step = strip_rows(tensor);
    enum lq_status status = LQ_OK;
    for (uint64_t row = 0; status == LQ_OK && row < tensor->ne[1]; row += step) {
        size_t count = tensor->ne[1] - row < step ? (size_t)(tensor->ne[1] - row) : step;
        status = lq_model_tensor_rows(tensor, data, row, count, rounding->rows, err);
        size_t bad = status == LQ_OK ? lq_kernels()->find_nonfinite(rounding->rows, count * cols)
                                     : count * cols;
        if (bad < count * cols) {
            return lq_error_set(err, LQ_EFORMAT,
                                "tensor '%s' holds NaN or infinity in column %zu; weights must be "
                                "finite, so the model file is damaged",
                                tensor->name, bad % cols);
        }
        for (size_t r = 0; status == LQ_OK && r < count; r++) {
            rounding->row_scales[row + r] = lq_smooth_round_row(
                rounding->rows + r * cols, scales, cols, rounding->levels + r * cols,
                &rounding->error, &rounding->square);
        }
        if (status == LQ_OK && lq_run_cancelled(run)) {
            status = lq_error_set(err, LQ_ECANCELLED, "cancelled");
        }
        if (status == LQ_OK) {
            status = lq_run_write(run, "data", rounding->levels, count * cols, err);
        }
    }
    return status;
}

static enum lq_status run_tensor(struct lq_run *run, struct lq_error *err)
{
    const struct tensor_state *state = lq_run_state(run);
    const void *data = NULL;
    const void *scales = NULL;
    uint64_t size_bytes = 0;
    size_t cols = (size_t)state->tensor.ne[0];
    size_t rows = (size_t)state->tensor.ne[1];
    size_t strip = strip_rows(&state->tensor) * cols;
    struct rounding rounding = {.rows = malloc(strip * sizeof(float)),
                                .levels = malloc(strip),
                                .row_scales = malloc(rows * sizeof(float))};
    bool has_room = rounding.rows != NULL && rounding.levels != NULL && rounding.row_scales != NULL;
    enum lq_status status = has_room ? lq_run_input_load(run, "weights", &data, &size_bytes, err)
                                     : lq_error_nomem(err, "rows of a tensor");
    if (status == LQ_OK && state->scale_first != SIZE_MAX) {
        status = lq_run_input_load(run, "scales", &scales, &size_bytes, err);
        if (status == LQ_OK && size_bytes / sizeof(float) < state->scale_first + cols) {
            status = lq_error_set(err, LQ_EINTERNAL, "the scales of a layer are cut off");
        }
    }
    if (status == LQ_OK) {
        const float *first = scales == NULL ? NULL : (const float *)scales + state->scale_first;
        status = round_rows(run, state, data, first, &rounding, err);
    }
    if (status == LQ_OK) {
        status = lq_run_write(run, "scale", rounding.row_scales, rows * sizeof(float), err);
    }
    if (status == LQ_OK) {
        double relative = rounding.square > 0.0 ? rounding.error / rounding.square : 0.0;
        status = lq_run_write(run, "error", &relative, sizeof relative, err);
    }
    free(rounding.rows);
    free(rounding.levels);
    free(rounding.row_scales);
    return status;
}

static enum lq_status add_matrix(const struct lq_smooth_job *job, uint32_t layer,
                                 enum lq_layer_weight weight, const struct lq_model_tensor *tensor,
                                 size_t *step, struct lq_error *err)
{
    struct tensor_state *state = lq_arena_get(lq_expand_arena(job->expand), sizeof *state);
    struct lq_step_input inputs[2];
    struct lq_step_param params[2];
    size_t input_count = 0;
    size_t param_count = 0;
    size_t part = part_of(weight);
    if (state == NULL) {
        return lq_error_nomem(err, "a step");
    }
    *state = (struct tensor_state){*tensor, part == SIZE_MAX ? SIZE_MAX : part * tensor->ne[0]};
    state->tensor.permute_heads = 0; /* rows stay where the checkpoint has them */
    enum lq_status status =
        add_tensor_input(job, "weights", tensor, inputs, &input_count, params, &param_count, err);
    if (part != SIZE_MAX) {
        inputs[input_count++] =
            (struct lq_step_input){"scales", lq_ref_step(job->scales[layer], "scales")};
        params[param_count++] = (struct lq_step_param){"part", parts[part].output};
    }
    static const struct lq_step_output outputs[] = {
        {"data", false}, {"scale", false}, {"error", false}};
    const struct lq_step added = {.op = "smoothquant.tensor",
                                  .version = 1,
                                  .label = tensor->name,
                                  .run = run_tensor,
                                  .state = state,
                                  .params = params,
                                  .param_count = param_count,
                                  .inputs = inputs,
                                  .input_count = input_count,
                                  .outputs = outputs,
                                  .output_count = LQ_COUNT_OF(outputs),
                                  .memory_bytes = tensor->ne[1] * sizeof(float) +
                                                  (tensor->ne[0] + STRIP_VALUES) * 5,
                                  .cost = 100 + lq_level_tensor_elems(tensor) / 500};
    return status == LQ_OK ? lq_expand_add_step(job->expand, &added, step, err) : status;
}

/* ---- all of them ---- */

static enum lq_status add_layer(struct lq_smooth_job *job, uint32_t layer, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    for (int w = 0; status == LQ_OK && w < LQ_LAYER_WEIGHT_COUNT; w++) {
        char name[LQ_WEIGHT_NAME_BYTES];
        enum lq_layer_weight weight = (enum lq_layer_weight)w;
        bool is_norm = weight == LQ_WEIGHT_ATTN_NORM || weight == LQ_WEIGHT_FFN_NORM;
        bool is_matrix = lq_layer_weight_input(weight) != LQ_LAYER_INPUT_COUNT;
        if (!lq_hparams_has(&job->hparams, weight) || !(is_norm || is_matrix)) {
            continue;
        }
        const struct lq_model_tensor *tensor =
            lq_tensor_index_find(&job->index, lq_layer_weight_path(layer, weight, name));
        status = tensor == NULL ? lq_error_set(err, LQ_EMODEL, "the tensor '%s' is missing", name)
                                : lq_hf_folder_check(job->expand, job->model, tensor, "SmoothQuant",
                                                     "smooth", err);
    }
    if (status == LQ_OK) {
        status = add_scales(job, layer, &job->scales[layer], err);
    }
    for (int w = 0; status == LQ_OK && w < LQ_LAYER_WEIGHT_COUNT; w++) {
        char name[LQ_WEIGHT_NAME_BYTES];
        enum lq_layer_weight weight = (enum lq_layer_weight)w;
        bool is_matrix = lq_layer_weight_input(weight) != LQ_LAYER_INPUT_COUNT;
        if (lq_hparams_has(&job->hparams, weight) && is_matrix) {
            const struct lq_model_tensor *tensor =
                lq_tensor_index_find(&job->index, lq_layer_weight_path(layer, weight, name));
            status = add_matrix(job, layer, weight, tensor,
                                &job->tensors[tensor - job->index.tensors], err);
        }
    }
    return status;
}

enum lq_status lq_smooth_add_steps(struct lq_smooth_job *job, struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(job->expand);
    const struct lq_calibrate_request request = {
        .model = job->model, .calibration = job->calibration, .ranges = true};
    enum lq_status status =
        lq_calibrate_ranges(job->expand, &request, &job->index, &job->hparams, &job->ranges, err);
    if (status != LQ_OK) {
        return status;
    }
    job->scales = lq_arena_get_array(arena, job->hparams.layer_count, sizeof *job->scales);
    job->tensors = lq_arena_get_array(arena, job->index.tensor_count + 1, sizeof *job->tensors);
    if (job->scales == NULL || job->tensors == NULL) {
        return lq_error_nomem(err, "the steps of SmoothQuant");
    }
    for (size_t i = 0; i < job->index.tensor_count; i++) {
        job->tensors[i] = SIZE_MAX;
    }
    for (uint32_t layer = 0; status == LQ_OK && layer < job->hparams.layer_count; layer++) {
        status = add_layer(job, layer, err);
    }
    return status;
}

bool lq_smooth_find_norm(const struct lq_smooth_job *job, const char *name, uint32_t *layer,
                         const char **output)
{
    for (uint32_t l = 0; l < job->hparams.layer_count; l++) {
        for (size_t p = 0; p < LQ_COUNT_OF(parts); p++) {
            char path[LQ_WEIGHT_NAME_BYTES];
            if (strcmp(lq_layer_weight_path(l, parts[p].norm, path), name) == 0) {
                *layer = l;
                *output = parts[p].output;
                return true;
            }
        }
    }
    return false;
}
