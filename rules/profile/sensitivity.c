#include "rules/profile/sensitivity.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "engine/base/json.h"
#include "engine/base/pool.h"
#include "kernels/kernels.h"
#include "rules/quant/encode_tensor.h"
#include "rules/quant/levels.h"

struct row_result {
    double signal;
    double squares;
    double errors[LQ_SENSITIVITY_TYPES_MAX];
    enum lq_status status;
    struct lq_error err;
};

struct trial {
    const struct lq_sensitivity_job *job;
    uint64_t row_total;
    uint64_t row_count;
    struct row_result *results;
};

size_t lq_sensitivity_candidates(uint64_t col_count, enum lq_dtype types[LQ_SENSITIVITY_TYPES_MAX])
{
    static const enum lq_dtype large[] = {LQ_DTYPE_Q2_K, LQ_DTYPE_Q3_K, LQ_DTYPE_Q4_K,
                                          LQ_DTYPE_Q5_K, LQ_DTYPE_Q6_K, LQ_DTYPE_Q8_0};
    static const enum lq_dtype small[] = {LQ_DTYPE_Q4_0, LQ_DTYPE_Q5_0, LQ_DTYPE_Q5_1,
                                          LQ_DTYPE_Q8_0};
    static const enum lq_dtype odd[] = {LQ_DTYPE_F16};
    const enum lq_dtype *from = odd;
    size_t from_count = LQ_COUNT_OF(odd);
    if (col_count % 256 == 0) {
        from = large;
        from_count = LQ_COUNT_OF(large);
    } else if (col_count % 32 == 0) {
        from = small;
        from_count = LQ_COUNT_OF(small);
    }
    size_t count = 0;
    for (size_t i = 0; i < from_count; i++) {
        if (lq_kernels()->encode[from[i]] != NULL && lq_kernels()->decode[from[i]] != NULL) {
            types[count++] = from[i];
        }
    }
    return count;
}

static double weighted_square(const float *a, const float *b, size_t count, const float *weight)
{
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        double value = (double)a[i] - (b == NULL ? 0.0 : (double)b[i]);
        sum += value * value * (weight == NULL ? 1.0 : (double)weight[i]);
    }
    return sum;
}

static enum lq_status try_row(const struct lq_sensitivity_job *job, uint64_t row, float *values,
                              float *decoded, void *blocks, struct row_result *result)
{
    size_t cols = (size_t)job->tensor->ne[0];
    enum lq_status status =
        job->matrices == NULL
            ? lq_model_tensor_rows(job->tensor, job->data, row, 1, values, &result->err)
            : lq_model_tensor_rows_of(job->tensor, job->matrices, row, 1, values, &result->err);
    if (status != LQ_OK) {
        return status;
    }
    size_t bad = lq_kernels()->find_nonfinite(values, cols);
    if (bad < cols) {
        return lq_error_set(&result->err, LQ_EFORMAT,
                            "tensor '%s' has the value %g in row %" PRIu64
                            ", column %zu; weights must be finite",
                            job->tensor->name, (double)values[bad], row, bad);
    }
    const float *importance = job->importance;
    if (importance != NULL && job->mat_count > 1) {
        importance += row / job->tensor->ne[1] * cols;
    }
    result->signal = weighted_square(values, NULL, cols, importance);
    result->squares = weighted_square(values, NULL, cols, NULL);
    for (size_t t = 0; t < job->type_count; t++) {
        enum lq_dtype type = job->types[t];
        lq_kernels()->encode[type](values, blocks, cols,
                                   lq_encode_uses_importance(type) ? importance : NULL);
        lq_kernels()->decode[type](blocks, decoded, cols);
        result->errors[t] = weighted_square(values, decoded, cols, importance);
    }
    return LQ_OK;
}

static void run_row(void *user, size_t index)
{
    struct trial *trial = user;
    const struct lq_sensitivity_job *job = trial->job;
    struct row_result *result = &trial->results[index];
    size_t cols = (size_t)job->tensor->ne[0];
    /* The largest candidate has 16 bits a weight, so a row of floats has room for its blocks. */
    float *values = malloc(3 * cols * sizeof *values);
    if (values == NULL) {
        result->status = lq_error_nomem(&result->err, "a trial encoding");
        return;
    }
    uint64_t row = index * trial->row_total / trial->row_count;
    result->status = try_row(job, row, values, values + cols, (void *)(values + 2 * cols), result);
    free(values);
}

enum lq_status lq_sensitivity_measure(const struct lq_sensitivity_job *job,
                                      struct lq_sensitivity *out, struct lq_error *err)
{
    uint64_t elems = lq_level_tensor_elems(job->tensor);
    uint64_t want = lq_level_stored_bytes(job->tensor);
    if (want == 0 || want != job->size_bytes || job->type_count > LQ_SENSITIVITY_TYPES_MAX) {
        return lq_error_set(err, LQ_EFORMAT,
                            "tensor '%s' has %" PRIu64 " bytes of data, expected %" PRIu64,
                            job->tensor->name, job->size_bytes, want);
    }
    struct trial trial = {.job = job, .row_total = elems / job->tensor->ne[0]};
    trial.row_count = trial.row_total < job->row_count_max ? trial.row_total : job->row_count_max;
    trial.results = calloc((size_t)trial.row_count + 1, sizeof *trial.results);
    if (trial.results == NULL) {
        return lq_error_nomem(err, "trial encodings");
    }
    lq_pool_for(job->pool, (size_t)trial.row_count, run_row, &trial);
    *out = (struct lq_sensitivity){.type_count = job->type_count};
    enum lq_status status = LQ_OK;
    for (uint64_t r = 0; r < trial.row_count && status == LQ_OK; r++) {
        status = trial.results[r].status;
        if (status != LQ_OK) {
            (void)lq_error_set(err, status, "%s", trial.results[r].err.message);
        }
        out->signal += trial.results[r].signal;
        out->squares += trial.results[r].squares;
        for (size_t t = 0; t < job->type_count; t++) {
            out->errors[t] += trial.results[r].errors[t];
        }
    }
    double scale = trial.row_count > 0 ? (double)trial.row_total / (double)trial.row_count : 0.0;
    out->signal *= scale;
    out->squares *= scale;
    for (size_t t = 0; t < job->type_count; t++) {
        out->types[t] = job->types[t];
        out->errors[t] *= scale;
    }
    free(trial.results);
    return status;
}

void lq_sensitivity_format(const struct lq_sensitivity *sensitivity, struct lq_buffer *out)
{
    struct lq_json_writer writer;
    lq_json_writer_init(&writer, out, false);
    lq_json_begin_object(&writer);
    lq_json_put_number(&writer, "signal", sensitivity->signal);
    lq_json_put_number(&writer, "squares", sensitivity->squares);
    lq_json_key(&writer, "errors");
    lq_json_begin_object(&writer);
    for (size_t t = 0; t < sensitivity->type_count; t++) {
        lq_json_put_number(&writer, lq_dtype_name((uint32_t)sensitivity->types[t]),
                           sensitivity->errors[t]);
    }
    lq_json_end_object(&writer);
    lq_json_end_object(&writer);
}

enum lq_status lq_sensitivity_parse(const void *data, uint64_t size_bytes,
                                    struct lq_sensitivity *out, struct lq_error *err)
{
    const struct lq_json_scope scope = {"sensitivity", LQ_EPROFILE};
    *out = (struct lq_sensitivity){0};
    cJSON *root = NULL;
    const cJSON *errors = NULL;
    enum lq_status status =
        lq_json_parse(data, (size_t)size_bytes, scope.where, scope.status, &root, err);
    if (status == LQ_OK) {
        status = lq_json_get_number(&scope, root, "signal", &out->signal, NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_number(&scope, root, "squares", &out->squares, NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_object(&scope, root, "errors", &errors, NULL, err);
    }
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, errors)
    {
        enum lq_dtype type = LQ_DTYPE_F32;
        double value = cJSON_GetNumberValue(item);
        if (status == LQ_OK && (out->type_count == LQ_SENSITIVITY_TYPES_MAX || isnan(value) ||
                                value < 0.0 || !lq_dtype_find(item->string, &type))) {
            status = lq_error_set(err, LQ_EPROFILE, "sensitivity: bad entry '%s'", item->string);
        }
        if (status == LQ_OK) {
            out->types[out->type_count] = type;
            out->errors[out->type_count++] = value;
        }
    }
    cJSON_Delete(root);
    return status;
}
