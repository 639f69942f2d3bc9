#include <stdlib.h>
#include <string.h>

#include "engine/base/pool.h"
#include "kernels/kernels.h"
#include "rules/model/moments.h"
#include "rules/quant/awq_parts.h"

/* A strip of rows of the matrix. */
struct strip {
    struct lq_error err;
    double lost[2];  /* squares of errors: of weights, of products */
    double total[2]; /* and of what they are errors of */
};

struct rounding {
    struct lq_run *run;
    const struct lq_awq_tensor_state *state;
    size_t rows;
    size_t cols;
    size_t groups; /* of a row */
    const void *data;
    const float *scales;     /* of columns; NULL: 1 */
    const float *row_scales; /* of the rows that the state names; NULL: none */
    struct lq_mean_moments moments;
    struct lq_group *group; /* [rows x groups] */
    uint8_t *levels;        /* [rows x cols] */
    struct strip *strips;
};

static float row_scale(const struct rounding *rounding, size_t row)
{
    const struct lq_awq_tensor_state *state = rounding->state;
    bool is_scaled = rounding->row_scales != NULL && row >= state->row_first &&
                     row - state->row_first < state->row_count;
    return is_scaled ? rounding->row_scales[row - state->row_first] : 1.0F;
}

/* The row of `weights` as it is rounded. */
static void scale_row(const struct rounding *rounding, size_t row, const float *weights, float *out)
{
    float divisor = row_scale(rounding, row);
    for (size_t j = 0; j < rounding->cols; j++) {
        float scale = rounding->scales == NULL ? 1.0F : rounding->scales[j];
        out[j] = weights[j] * scale / divisor;
    }
}

/* What rounding changed in the row, seen from its inputs and outputs as they were. */
static void find_errors(const struct rounding *rounding, size_t row, const float *weights,
                        float *errors)
{
    size_t size = rounding->state->grid.group_size;
    float divisor = row_scale(rounding, row);
    for (size_t g = 0; g < rounding->groups; g++) {
        lq_group_values(rounding->levels + row * rounding->cols + g * size, size,
                        rounding->group[row * rounding->groups + g], errors + g * size);
    }
    for (size_t j = 0; j < rounding->cols; j++) {
        float scale = rounding->scales == NULL ? 1.0F : rounding->scales[j];
        errors[j] = errors[j] / scale * divisor - weights[j];
    }
}

static void add_squares(const float *values, size_t count, double *sum)
{
    for (size_t i = 0; i < count; i++) {
        *sum += (double)values[i] * (double)values[i];
    }
}

/* `errors` has twice the rows of the strip: their errors, then the weights. */
static void measure(const struct rounding *rounding, struct strip *strip, size_t count,
                    const float *errors, float *scratch)
{
    double losses[2 * LQ_AWQ_STRIP_ROWS] = {0};
    size_t cols = rounding->cols;
    add_squares(errors, count * cols, &strip->lost[0]);
    add_squares(errors + count * cols, count * cols, &strip->total[0]);
    lq_awq_add_losses(rounding->moments.means, cols, cols, errors, 2 * count, scratch, losses);
    for (size_t r = 0; r < count; r++) {
        strip->lost[1] += losses[r];
        strip->total[1] += losses[count + r];
    }
}

static enum lq_status round_rows(struct rounding *rounding, size_t row, size_t count, float *values,
                                 float *scaled, float *scratch, struct strip *strip,
                                 struct lq_error *err)
{
    const struct lq_awq_tensor_state *state = rounding->state;
    size_t cols = rounding->cols;
    float *weights = values + count * cols; /* behind the errors */
    enum lq_status status =
        lq_model_tensor_rows(&state->tensor, rounding->data, row, count, weights, err);
    if (status != LQ_OK) {
        return status;
    }
    size_t bad = lq_kernels()->find_nonfinite(weights, count * cols);
    if (bad < count * cols) {
        return lq_error_set(err, LQ_EFORMAT,
                            "tensor '%s' holds NaN or infinity in row %zu, column %zu; weights "
                            "must be finite, so the model file is damaged",
                            state->tensor.name, row + bad / cols, bad % cols);
    }
    for (size_t r = 0; r < count; r++) {
        scale_row(rounding, row + r, weights + r * cols, scaled + r * cols);
    }
    struct lq_awq_strip part = {.rows = scaled,
                                .scales = rounding->scales,
                                .row_count = count,
                                .cols = cols,
                                .cut = state->cut,
                                .means = rounding->moments.means,
                                .groups = rounding->group + row * rounding->groups,
                                .levels = rounding->levels + row * cols};
    if (!lq_awq_round_strip(&state->grid, &part, scratch)) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            "'%s' has weights from column %zu on, in row %zu, that are too large "
                            "for a scale of %s",
                            state->tensor.name, part.bad_col, row + part.bad_row,
                            lq_dtype_name(state->grid.scale_type));
    }
    for (size_t r = 0; r < count; r++) {
        find_errors(rounding, row + r, weights + r * cols, values + r * cols);
    }
    measure(rounding, strip, count, values, scratch);
    return LQ_OK;
}

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

static void round_task(void *user, size_t index)
{
    struct rounding *rounding = user;
    struct strip *strip = &rounding->strips[index];
    size_t row = index * LQ_AWQ_STRIP_ROWS;
    size_t left = rounding->rows - row;
    size_t count = left < LQ_AWQ_STRIP_ROWS ? left : (size_t)LQ_AWQ_STRIP_ROWS;
    size_t scratch_size = max_size(lq_awq_strip_scratch(rounding->state->grid.group_size),
                                   lq_awq_loss_scratch(2 * LQ_AWQ_STRIP_ROWS));
    float *values = malloc(2 * count * rounding->cols * sizeof *values);
    float *scaled = malloc(count * rounding->cols * sizeof *scaled);
    float *scratch = malloc(scratch_size * sizeof *scratch);
    if (lq_run_cancelled(rounding->run)) {
        (void)lq_error_set(&strip->err, LQ_ECANCELLED, "cancelled");
    } else if (values == NULL || scaled == NULL || scratch == NULL) {
        (void)lq_error_nomem(&strip->err, "rows of a tensor");
    } else {
        (void)round_rows(rounding, row, count, values, scaled, scratch, strip, &strip->err);
    }
    free(values);
    free(scaled);
    free(scratch);
}

/* ---- what files have ---- */

static enum lq_status write_words(const struct rounding *rounding, const char *output,
                                  enum lq_nibble_layout layout, const uint8_t *order,
                                  const uint8_t *levels, size_t cols, struct lq_error *err)
{
    size_t count = lq_nibbles_words(layout, rounding->rows, cols);
    uint32_t *words = malloc(count * sizeof *words);
    if (words == NULL) {
        return lq_error_nomem(err, "a matrix");
    }
    lq_nibbles_pack(layout, order, levels, rounding->rows, cols, words);
    enum lq_status status = lq_run_write(rounding->run, output, words, count * sizeof *words, err);
    free(words);
    return status;
}

/* Scales and zero points, turned where the format has a group's scales of all rows side by side. */
static enum lq_status write_groups(const struct rounding *rounding, struct lq_error *err)
{
    const struct lq_awq_tensor_state *state = rounding->state;
    bool turned = state->format == LQ_AWQ_GEMM;
    size_t count = rounding->rows * rounding->groups;
    enum lq_dtype type = state->grid.scale_type;
    size_t size_bytes = lq_dtype_row_bytes(type, count);
    float *scales = malloc(count * sizeof *scales);
    uint8_t *zeros = malloc(count);
    void *bytes = malloc(size_bytes);
    bool has_room = scales != NULL && zeros != NULL && bytes != NULL;
    enum lq_status status = has_room ? LQ_OK : lq_error_nomem(err, "scales of a matrix");
    for (size_t i = 0; has_room && i < count; i++) {
        size_t row = i / rounding->groups;
        size_t group = i % rounding->groups;
        scales[turned ? group * rounding->rows + row : i] = rounding->group[i].scale;
        zeros[i] = rounding->group[i].zero;
    }
    if (status == LQ_OK) {
        lq_kernels()->encode[type](scales, bytes, count, NULL);
        status = lq_run_write(rounding->run, "scale", bytes, size_bytes, err);
    }
    if (status == LQ_OK && (turned || !state->grid.symmetric)) {
        status =
            write_words(rounding, "zeros", turned ? LQ_NIBBLES_ACROSS_TURNED : LQ_NIBBLES_ACROSS,
                        turned ? lq_nibbles_awq : lq_nibbles_plain, zeros, rounding->groups, err);
    }
    free(scales);
    free(zeros);
    free(bytes);
    return status;
}

static enum lq_status write_tensor(const struct rounding *rounding, struct lq_error *err)
{
    struct strip sums = {.lost = {0}};
    size_t strip_count = (rounding->rows + LQ_AWQ_STRIP_ROWS - 1) / LQ_AWQ_STRIP_ROWS;
    for (size_t s = 0; s < strip_count; s++) {
        const struct strip *strip = &rounding->strips[s];
        if (strip->err.status != LQ_OK) {
            *err = strip->err;
            return strip->err.status;
        }
        for (size_t i = 0; i < 2; i++) {
            sums.lost[i] += strip->lost[i];
            sums.total[i] += strip->total[i];
        }
    }
    const struct lq_awq_error error = {
        .weights = sums.total[0] > 0.0 ? sums.lost[0] / sums.total[0] : 0.0,
        .products = sums.total[1] > 0.0 ? sums.lost[1] / sums.total[1] : 0.0};
    bool is_gemm = rounding->state->format == LQ_AWQ_GEMM;
    enum lq_status status = write_words(
        rounding, "weights", is_gemm ? LQ_NIBBLES_ACROSS_TURNED : LQ_NIBBLES_ALONG,
        is_gemm ? lq_nibbles_awq : lq_nibbles_plain, rounding->levels, rounding->cols, err);
    if (status == LQ_OK) {
        status = write_groups(rounding, err);
    }
    return status == LQ_OK ? lq_run_write(rounding->run, "error", &error, sizeof error, err)
                           : status;
}

/* ---- the step ---- */

static enum lq_status load_scales(struct lq_run *run, const char *input, size_t count,
                                  const float **out, struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size_bytes = 0;
    *out = NULL;
    if (!lq_run_has_input(run, input)) {
        return LQ_OK;
    }
    enum lq_status status = lq_run_input_load(run, input, &data, &size_bytes, err);
    if (status == LQ_OK && size_bytes != count * sizeof **out) {
        status = lq_error_set(err, LQ_EINTERNAL, "the scales of a layer are cut off");
    }
    *out = data;
    return status;
}

static enum lq_status load_inputs(struct rounding *rounding, struct lq_error *err)
{
    const struct lq_awq_tensor_state *state = rounding->state;
    struct lq_run *run = rounding->run;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_run_input_load(run, "weights", &rounding->data, &size_bytes, err);
    if (status == LQ_OK) {
        status = load_scales(run, "scales", rounding->cols, &rounding->scales, err);
    }
    if (status == LQ_OK) {
        status =
            load_scales(run, "row_scales", (size_t)state->row_count, &rounding->row_scales, err);
    }
    return status == LQ_OK ? lq_awq_load_moments(run, rounding->cols, &rounding->moments, err)
                           : status;
}

enum lq_status lq_awq_run_tensor(struct lq_run *run, struct lq_error *err)
{
    const struct lq_awq_tensor_state *state = lq_run_state(run);
    struct rounding rounding = {.run = run,
                                .state = state,
                                .rows = (size_t)state->tensor.ne[1],
                                .cols = (size_t)state->tensor.ne[0]};
    size_t strip_count = (rounding.rows + LQ_AWQ_STRIP_ROWS - 1) / LQ_AWQ_STRIP_ROWS;
    rounding.groups = rounding.cols / state->grid.group_size;
    rounding.group = calloc(rounding.rows * rounding.groups, sizeof *rounding.group);
    rounding.levels = malloc(rounding.rows * rounding.cols);
    rounding.strips = calloc(strip_count, sizeof *rounding.strips);
    bool has_room = rounding.group != NULL && rounding.levels != NULL && rounding.strips != NULL;
    enum lq_status status =
        has_room ? load_inputs(&rounding, err) : lq_error_nomem(err, "a matrix");
    if (status == LQ_OK) {
        lq_pool_for(lq_run_pool(run), strip_count, round_task, &rounding);
        status = write_tensor(&rounding, err);
    }
    lq_mean_moments_fini(&rounding.moments);
    free(rounding.group);
    free(rounding.levels);
    free(rounding.strips);
    return status;
}
