#include "rules/quant/tensor_inputs.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "engine/base/checked.h"
#include "rules/model/packing.h"
#include "rules/model/tensor_ref.h"
#include "rules/quant/levels.h"

enum lq_status lq_inputs_read_model(struct lq_expand *expand, const struct lq_artifact *model,
                                    struct lq_tensor_index *index, struct lq_gguf *meta,
                                    struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expand);
    const void *data = NULL;
    uint64_t size_bytes = 0;
    struct lq_ref ref = lq_ref_artifact(model, "tensors");
    enum lq_status status = lq_expand_read(expand, &ref, &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_tensor_index_parse(data, size_bytes, arena, index, err);
    }
    if (status != LQ_OK || meta == NULL) {
        return status;
    }
    ref = lq_ref_artifact(model, "meta");
    status = lq_expand_read(expand, &ref, &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_gguf_parse(data, size_bytes, size_bytes, lq_artifact_name(model), LQ_EFORMAT,
                               arena, meta, NULL, err);
    }
    return status;
}

enum lq_status lq_inputs_read_imatrix(struct lq_expand *expand, const struct lq_artifact *artifact,
                                      struct lq_imatrix *imatrix, struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_imatrix_format format = LQ_IMATRIX_GGUF;
    struct lq_ref ref = lq_ref_artifact(artifact, "gguf");
    enum lq_status status = lq_expand_read(expand, &ref, &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_imatrix_parse(data, size_bytes, lq_artifact_name(artifact),
                                  lq_expand_arena(expand), imatrix, &format, err);
    }
    return status;
}

enum lq_status lq_inputs_importance(const struct lq_imatrix *imatrix,
                                    const struct lq_model_tensor *tensor, struct lq_arena *arena,
                                    struct lq_importance *out, struct lq_error *err)
{
    *out = (struct lq_importance){0};
    const struct lq_imatrix_entry *entry =
        imatrix == NULL ? NULL : lq_imatrix_find(imatrix, tensor->name);
    if (entry == NULL) {
        return LQ_OK;
    }
    if (entry->col_count != tensor->ne[0] ||
        (entry->mat_count != 1 && entry->mat_count != tensor->ne[2])) {
        return lq_error_set(err, LQ_EIMATRIX,
                            "the importance matrix has %zu x %zu values for tensor '%s', expected "
                            "%" PRIu64 " columns; it was made from another model",
                            entry->mat_count, entry->col_count, tensor->name, tensor->ne[0]);
    }
    size_t count = 0;
    float *values = NULL;
    if (lq_mul_size(entry->mat_count, entry->col_count, &count)) {
        values = lq_arena_get_array(arena, count, sizeof *values);
    }
    if (values == NULL) {
        return lq_error_nomem(err, "the importance of a tensor");
    }
    for (size_t m = 0; m < entry->mat_count; m++) {
        lq_imatrix_means(entry, m, values + m * entry->col_count);
    }
    *out = (struct lq_importance){values, entry->mat_count};
    return LQ_OK;
}

static enum lq_status run_square_norm(struct lq_run *run, struct lq_error *err)
{
    const struct lq_model_tensor *norm = lq_run_state(run);
    const void *data = NULL;
    uint64_t size_bytes = 0;
    float *values = lq_arena_get_array(lq_run_arena(run), norm->ne[0], sizeof *values);
    if (values == NULL) {
        return lq_error_nomem(err, "a norm");
    }
    enum lq_status status = lq_run_input_load(run, "weights", &data, &size_bytes, err);
    if (status == LQ_OK && size_bytes != norm->size_bytes) {
        status = lq_error_set(err, LQ_EFORMAT,
                              "tensor '%s' has %" PRIu64 " bytes of data, expected %" PRIu64,
                              norm->name, size_bytes, norm->size_bytes);
    }
    if (status == LQ_OK) {
        status = lq_model_tensor_rows(norm, data, 0, 1, values, err);
    }
    for (size_t i = 0; status == LQ_OK && i < norm->ne[0]; i++) {
        values[i] *= values[i];
        if (!isfinite(values[i])) {
            status = lq_error_set(err, LQ_EFORMAT,
                                  "tensor '%s' has a value in column %zu whose square is not "
                                  "finite; norms must be finite",
                                  norm->name, i);
        }
    }
    return status == LQ_OK
               ? lq_run_write(run, "importance", values, norm->ne[0] * sizeof *values, err)
               : status;
}

enum lq_status lq_inputs_output_importance(struct lq_expand *expand,
                                           const struct lq_artifact *model,
                                           const struct lq_tensor_index *index,
                                           const struct lq_model_tensor *tensor, struct lq_ref *ref,
                                           bool *found, struct lq_error *err)
{
    const char *output = lq_tensor_index_find(index, "output.weight") != NULL ? "output.weight"
                                                                              : "token_embd.weight";
    const struct lq_model_tensor *norm = lq_tensor_index_find(index, "output_norm.weight");
    *found = norm != NULL && strcmp(tensor->name, output) == 0 && norm->dim_count == 1 &&
             norm->ne[0] == tensor->ne[0] && !lq_level_is_quantized(norm);
    if (!*found) {
        return LQ_OK;
    }
    struct lq_arena *arena = lq_expand_arena(expand);
    struct lq_model_tensor *state = lq_arena_get(arena, sizeof *state);
    if (state == NULL) {
        return lq_error_nomem(err, "a step");
    }
    *state = *norm;
    struct lq_step_param params[LQ_TENSOR_PARAMS_MAX];
    struct lq_step_input input = {.name = "weights"};
    struct lq_step_output step_output = {.name = "importance"};
    struct lq_step step = {.op = "quant.square_norm",
                           .version = 1,
                           .label = norm->name,
                           .run = run_square_norm,
                           .state = state,
                           .params = params,
                           .inputs = &input,
                           .input_count = 1,
                           .outputs = &step_output,
                           .output_count = 1,
                           .cost = 10};
    size_t step_index = 0;
    enum lq_status status = lq_inputs_tensor_params(norm, arena, params, &step.param_count, err);
    if (status == LQ_OK) {
        status = lq_tensor_ref(expand, model, norm, &input.ref, err);
    }
    if (status == LQ_OK) {
        status = lq_expand_add_step(expand, &step, &step_index, err);
    }
    *ref = lq_ref_step(step_index, "importance");
    return status;
}

struct lq_ref lq_inputs_importance_ref(const struct lq_importance *importance,
                                       const struct lq_model_tensor *tensor)
{
    uint64_t count = importance->mat_count * tensor->ne[0];
    return lq_ref_bytes(importance->values, count * sizeof *importance->values);
}

enum lq_status lq_inputs_tensor_params(const struct lq_model_tensor *tensor, struct lq_arena *arena,
                                       struct lq_step_param *params, size_t *count,
                                       struct lq_error *err)
{
    char *ne = lq_arena_printf(arena, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64, tensor->ne[0],
                               tensor->ne[1], tensor->ne[2], tensor->ne[3]);
    char *permute = lq_arena_printf(arena, "%" PRIu32, tensor->permute_heads);
    if (ne == NULL || permute == NULL) {
        return lq_error_nomem(err, "the parameters of a step");
    }
    *count = 0;
    params[(*count)++] = (struct lq_step_param){"dtype", lq_dtype_name((uint32_t)tensor->dtype)};
    params[(*count)++] = (struct lq_step_param){"ne", ne};
    if (tensor->permute_heads != 0) {
        params[(*count)++] = (struct lq_step_param){"permute", permute};
    }
    if (tensor->add_one) {
        params[(*count)++] = (struct lq_step_param){"add", "1"};
    }
    if (tensor->packing != NULL) {
        const char *packing = lq_packing_form(tensor->packing, arena);
        if (packing == NULL) {
            return lq_error_nomem(err, "the parameters of a step");
        }
        params[(*count)++] = (struct lq_step_param){"packing", packing};
    }
    return LQ_OK;
}

enum lq_status lq_run_load_importance(struct lq_run *run, const char *input,
                                      const struct lq_model_tensor *tensor,
                                      struct lq_importance *out, struct lq_error *err)
{
    *out = (struct lq_importance){0};
    if (!lq_run_has_input(run, input)) {
        return LQ_OK;
    }
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_run_input_load(run, input, &data, &size_bytes, err);
    if (status != LQ_OK) {
        return status;
    }
    uint64_t row_bytes = tensor->ne[0] * sizeof(float);
    if (row_bytes == 0 || size_bytes == 0 || size_bytes % row_bytes != 0) {
        return lq_error_set(err, LQ_EINTERNAL, "tensor '%s' got %" PRIu64 " bytes of importance",
                            tensor->name, size_bytes);
    }
    *out = (struct lq_importance){data, (size_t)(size_bytes / row_bytes)};
    return LQ_OK;
}

bool lq_run_cancelled_user(void *run)
{
    return lq_run_cancelled(run);
}
