/* Runs the step that quantizes the matrices of one input. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/checked.h"
#include "engine/base/pool.h"
#include "kernels/factor.h"
#include "kernels/kernels.h"
#include "rules/model/forward.h"
#include "rules/model/moments.h"
#include "rules/quant/bit_words.h"
#include "rules/quant/gptq_parts.h"

/* When the factor does not exist, damping grows by this (GPTQModel does so), up to 1. */
#define DAMP_STEP 0.01

enum { SAMPLE_ROWS = 32 }; /* that are compared with rounding */

/* What the matrices share. */
struct shared {
    struct lq_run *run;
    const struct lq_gptq_group *group;
    size_t cols;
    float *u;
    uint32_t *order; /* NULL: columns as they are */
    double damp;     /* that it took */
    size_t dead;
};

/* A matrix at work. */
struct matrix {
    const struct shared *shared;
    const struct lq_model_tensor *tensor;
    const void *data;
    size_t rows;
    size_t groups; /* of a row */
    float *weights;
    uint8_t *levels;
    uint16_t *scales;
    uint8_t *zeros;
    double *losses;
    enum lq_status *failed; /* of each strip */
};

/* ---- the factor ---- */

static enum lq_status read_moments(struct shared *shared, struct lq_mean_moments *moments,
                                   struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_run_input_load(shared->run, "moments", &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_mean_moments_parse(data, size_bytes, moments, err);
    }
    if (status == LQ_OK && moments->col_count != shared->cols) {
        status = lq_error_set(err, LQ_EINTERNAL, "the moments of a layer's input have %zu columns",
                              moments->col_count);
    }
    return status;
}

static enum lq_status find_order(struct shared *shared, const float *products, struct lq_error *err)
{
    if (!shared->group->desc_act) {
        return LQ_OK;
    }
    shared->order = malloc(shared->cols * sizeof *shared->order);
    return shared->order != NULL && lq_gptq_order(products, shared->cols, shared->order)
               ? LQ_OK
               : lq_error_nomem(err, "the order of columns");
}

static enum lq_status find_factor(struct shared *shared, struct lq_error *err)
{
    size_t cols = shared->cols;
    struct lq_mean_moments moments = {.col_count = 0};
    const struct lq_parallel parallel = lq_forward_parallel(lq_run_pool(shared->run));
    enum lq_status status = read_moments(shared, &moments, err);
    if (status == LQ_OK) {
        status = find_order(shared, moments.means, err);
    }
    float *scratch = malloc(lq_factor_scratch(cols) * sizeof *scratch);
    shared->u = malloc(cols * cols * sizeof *shared->u);
    if (status == LQ_OK && (scratch == NULL || shared->u == NULL)) {
        status = lq_error_nomem(err, "the products of a layer's input");
    }
    size_t column = 0;
    for (shared->damp = shared->group->damp; status == LQ_OK; shared->damp += DAMP_STEP) {
        shared->dead = lq_gptq_hessian(moments.means, cols, shared->damp, shared->order, shared->u);
        column = lq_factor_inverse(&parallel, shared->u, cols, scratch);
        if (column == cols) {
            break;
        }
        if (lq_run_cancelled(shared->run)) {
            status = lq_error_set(err, LQ_ECANCELLED, "cancelled");
        } else if (shared->damp + DAMP_STEP > 1.0) {
            status = lq_error_set(err, LQ_EIMPORTANCE,
                                  "the inputs of '%s' have products that are not positive definite "
                                  "at column %zu, whatever the damping; another calibration text "
                                  "may help",
                                  shared->group->tensors[0].name, column);
        }
    }
    free(scratch);
    lq_mean_moments_fini(&moments);
    return status;
}

/* ---- strips of rows ---- */

static void permute(const uint32_t *order, size_t cols, float *row, float *copy)
{
    memcpy(copy, row, cols * sizeof *row);
    for (size_t j = 0; j < cols; j++) {
        row[j] = copy[order[j]];
    }
}

static void permute_back(const uint32_t *order, size_t cols, float *row, uint8_t *levels,
                         float *copy)
{
    uint8_t *level_copy = (uint8_t *)(void *)copy;
    memcpy(copy, row, cols * sizeof *row);
    for (size_t j = 0; j < cols; j++) {
        row[order[j]] = copy[j];
    }
    memcpy(level_copy, levels, cols);
    for (size_t j = 0; j < cols; j++) {
        levels[order[j]] = level_copy[j];
    }
}

static enum lq_status read_rows(const struct matrix *matrix, size_t row, size_t count, float *out,
                                struct lq_error *err)
{
    size_t cols = matrix->shared->cols;
    enum lq_status status =
        lq_model_tensor_rows(matrix->tensor, matrix->data, row, count, out, err);
    if (status == LQ_OK && lq_kernels()->find_nonfinite(out, count * cols) < count * cols) {
        size_t at = lq_kernels()->find_nonfinite(out, count * cols);
        status = lq_error_set(err, LQ_EFORMAT,
                              "tensor '%s' holds NaN or infinity in row %zu, column %zu; weights "
                              "must be finite, so the model file is damaged",
                              matrix->tensor->name, row + at / cols, at % cols);
    }
    return status;
}

static struct lq_gptq_strip strip_of(const struct matrix *matrix, size_t row, size_t count)
{
    size_t cols = matrix->shared->cols;
    return (struct lq_gptq_strip){.rows = count,
                                  .cols = cols,
                                  .weights = matrix->weights + row * cols,
                                  .levels = matrix->levels + row * cols,
                                  .scales = matrix->scales + row * matrix->groups,
                                  .zeros = matrix->zeros + row * matrix->groups,
                                  .losses = matrix->losses + row};
}

static bool losses_are_finite(const struct lq_gptq_strip *strip)
{
    double sum = 0.0;
    for (size_t r = 0; r < strip->rows; r++) {
        sum += strip->losses[r];
    }
    return isfinite(sum);
}

/* LQ_EFAIL stands for weights that grew beyond half precision, LQ_EFORMAT for rows that were not
 * finite; who waits finds the words. */
static void run_strip(void *user, size_t index)
{
    struct matrix *matrix = user;
    const struct shared *shared = matrix->shared;
    size_t cols = shared->cols;
    size_t row = index * LQ_GPTQ_STRIP_ROWS;
    size_t left = matrix->rows - row;
    size_t count = left < LQ_GPTQ_STRIP_ROWS ? left : (size_t)LQ_GPTQ_STRIP_ROWS;
    struct lq_gptq_strip strip = strip_of(matrix, row, count);
    if (lq_run_cancelled(shared->run)) {
        matrix->failed[index] = LQ_ECANCELLED;
        return;
    }
    float *copy = malloc(cols * sizeof *copy);
    matrix->failed[index] =
        copy == NULL ? LQ_ENOMEM : read_rows(matrix, row, count, strip.weights, NULL);
    for (size_t r = 0; matrix->failed[index] == LQ_OK && shared->order != NULL && r < count; r++) {
        permute(shared->order, cols, strip.weights + r * cols, copy);
    }
    if (matrix->failed[index] == LQ_OK) {
        bool fits = lq_gptq_quantize(&shared->group->grid, shared->u, &strip);
        matrix->failed[index] = fits && losses_are_finite(&strip) ? LQ_OK : LQ_EFAIL;
    }
    for (size_t r = 0; matrix->failed[index] == LQ_OK && shared->order != NULL && r < count; r++) {
        permute_back(shared->order, cols, strip.weights + r * cols, strip.levels + r * cols, copy);
    }
    free(copy);
}

static enum lq_status run_strips(struct matrix *matrix, struct lq_error *err)
{
    size_t strips = (matrix->rows + LQ_GPTQ_STRIP_ROWS - 1) / LQ_GPTQ_STRIP_ROWS;
    enum lq_status status = LQ_OK;
    matrix->failed = calloc(strips, sizeof *matrix->failed);
    if (matrix->failed == NULL) {
        return lq_error_nomem(err, "rows of a matrix");
    }
    lq_pool_for(lq_run_pool(matrix->shared->run), strips, run_strip, matrix);
    for (size_t i = 0; status == LQ_OK && i < strips; i++) {
        size_t row = i * LQ_GPTQ_STRIP_ROWS;
        size_t left = matrix->rows - row;
        size_t count = left < LQ_GPTQ_STRIP_ROWS ? left : (size_t)LQ_GPTQ_STRIP_ROWS;
        if (matrix->failed[i] == LQ_ECANCELLED) {
            status = lq_error_set(err, LQ_ECANCELLED, "cancelled");
        } else if (matrix->failed[i] == LQ_EFAIL) {
            status = lq_error_set(err, LQ_EIMPORTANCE,
                                  "the weights of '%s' grow beyond half precision while errors are "
                                  "passed on; more damping, or a longer calibration text, may help",
                                  matrix->tensor->name);
        } else if (matrix->failed[i] == LQ_ENOMEM) {
            status = lq_error_nomem(err, "rows of a matrix");
        } else if (matrix->failed[i] != LQ_OK) { /* once more, for the words */
            status =
                read_rows(matrix, row, count, matrix->weights + row * matrix->shared->cols, err);
        }
    }
    free(matrix->failed);
    return status;
}

/* ---- what was lost ---- */

/* Compares a sample of rows with what plain rounding would have made of them. */
static enum lq_status compare_rows(const struct matrix *matrix, double *values,
                                   struct lq_error *err)
{
    size_t cols = matrix->shared->cols;
    size_t count = matrix->rows < SAMPLE_ROWS ? matrix->rows : (size_t)SAMPLE_ROWS;
    double losses[SAMPLE_ROWS];
    float *rows = malloc(2 * count * cols * sizeof *rows);
    float *copies = rows == NULL ? NULL : rows + count * cols;
    uint8_t *levels = malloc(count * cols + count * matrix->groups);
    uint16_t *scales = malloc(count * matrix->groups * sizeof *scales);
    enum lq_status status = rows == NULL || levels == NULL || scales == NULL
                                ? lq_error_nomem(err, "rows of a matrix")
                                : LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < count; i++) {
        size_t row = i * matrix->rows / count;
        status = read_rows(matrix, row, 1, rows + i * cols, err);
        if (status == LQ_OK && matrix->shared->order != NULL) {
            permute(matrix->shared->order, cols, rows + i * cols, copies);
        }
        values[LQ_GPTQ_LOSS_SAMPLE] += matrix->losses[row] / 2.0;
    }
    if (status == LQ_OK) {
        struct lq_gptq_strip strip = {.rows = count,
                                      .cols = cols,
                                      .weights = copies,
                                      .levels = levels,
                                      .scales = scales,
                                      .zeros = levels + count * cols};
        memcpy(copies, rows, count * cols * sizeof *rows);
        (void)lq_gptq_quantize(&matrix->shared->group->grid, NULL, &strip);
        for (size_t i = 0; i < count * cols; i++) {
            copies[i] = rows[i] - copies[i];
        }
        lq_gptq_measure(matrix->shared->u, cols, copies, count, losses);
        for (size_t i = 0; i < count; i++) {
            values[LQ_GPTQ_LOSS_ROUNDING] += losses[i] / 2.0;
        }
        lq_gptq_measure(matrix->shared->u, cols, rows, count, losses);
        for (size_t i = 0; i < count; i++) {
            values[LQ_GPTQ_LOSS_SQUARE] += losses[i] / 2.0;
        }
    }
    free(rows);
    free(levels);
    free(scales);
    return status;
}

/* ---- writing ---- */

static enum lq_status write_output(const struct matrix *matrix, enum lq_gptq_output output,
                                   enum lq_layer_weight weight, const void *data, size_t size_bytes,
                                   struct lq_error *err)
{
    struct lq_run *run = matrix->shared->run;
    const char *name = lq_gptq_output_name(lq_run_arena(run), weight, output);
    if (name == NULL) {
        return lq_error_nomem(err, "an output");
    }
    if (output == LQ_GPTQ_WEIGHTS) {
        lq_run_hold(run, name);
    }
    return lq_run_write(run, name, data, size_bytes, err);
}

static enum lq_status write_levels(const struct matrix *matrix, enum lq_layer_weight weight,
                                   struct lq_error *err)
{
    size_t cols = matrix->shared->cols;
    unsigned bits = matrix->shared->group->grid.bits;
    size_t lines = lq_bit_words(cols, bits);
    uint32_t *words = malloc(lines * matrix->rows * sizeof *words);
    if (words == NULL) {
        return lq_error_nomem(err, "packed weights");
    }
    for (size_t r = 0; r < matrix->rows; r++) {
        lq_bit_words_pack(matrix->levels + r * cols, 1, cols, bits, words + r, matrix->rows);
    }
    enum lq_status status = write_output(matrix, LQ_GPTQ_QWEIGHT, weight, words,
                                         lines * matrix->rows * sizeof *words, err);
    free(words);
    return status;
}

/* Zero points and scales, group by group. */
static enum lq_status write_grids(const struct matrix *matrix, enum lq_layer_weight weight,
                                  struct lq_error *err)
{
    unsigned bits = matrix->shared->group->grid.bits;
    uint8_t level_max = (uint8_t)((1U << bits) - 1);
    size_t rows = matrix->rows;
    size_t line = lq_bit_words(rows, bits);
    uint32_t *words = malloc(line * matrix->groups * sizeof *words);
    uint16_t *scales = malloc(rows * matrix->groups * sizeof *scales);
    uint8_t *zeros = malloc(rows);
    enum lq_status status = words == NULL || scales == NULL || zeros == NULL
                                ? lq_error_nomem(err, "packed weights")
                                : LQ_OK;
    for (size_t g = 0; status == LQ_OK && g < matrix->groups; g++) {
        for (size_t r = 0; r < rows; r++) {
            unsigned zero = matrix->zeros[r * matrix->groups + g];
            zero -= matrix->shared->group->stores_less_one ? 1 : 0;
            zeros[r] = (uint8_t)(zero & level_max);
            scales[g * rows + r] = matrix->scales[r * matrix->groups + g];
        }
        lq_bit_words_pack(zeros, 1, rows, bits, words + g * line, 1);
    }
    if (status == LQ_OK) {
        status = write_output(matrix, LQ_GPTQ_QZEROS, weight, words,
                              line * matrix->groups * sizeof *words, err);
    }
    if (status == LQ_OK) {
        status = write_output(matrix, LQ_GPTQ_SCALES, weight, scales,
                              rows * matrix->groups * sizeof *scales, err);
    }
    free(words);
    free(scales);
    free(zeros);
    return status;
}

static enum lq_status write_matrix(const struct matrix *matrix, enum lq_layer_weight weight,
                                   struct lq_error *err)
{
    const struct shared *shared = matrix->shared;
    double values[LQ_GPTQ_LOSS_VALUES] = {0.0};
    values[LQ_GPTQ_LOSS_DAMP] = shared->damp;
    values[LQ_GPTQ_LOSS_DEAD] = (double)shared->dead;
    for (size_t r = 0; r < matrix->rows; r++) {
        values[LQ_GPTQ_LOSS_TOTAL] += matrix->losses[r] / 2.0;
    }
    enum lq_status status = compare_rows(matrix, values, err);
    if (status == LQ_OK) {
        status = write_levels(matrix, weight, err);
    }
    if (status == LQ_OK) {
        status = write_grids(matrix, weight, err);
    }
    if (status == LQ_OK) {
        status = write_output(matrix, LQ_GPTQ_LOSS, weight, values, sizeof values, err);
    }
    if (status == LQ_OK && shared->group->keeps_weights) {
        status = write_output(matrix, LQ_GPTQ_WEIGHTS, weight, matrix->weights,
                              matrix->rows * shared->cols * sizeof *matrix->weights, err);
    }
    return status;
}

/* ---- the step ---- */

static enum lq_status run_matrix(const struct shared *shared, size_t number, struct lq_error *err)
{
    const struct lq_model_tensor *tensor = &shared->group->tensors[number];
    enum lq_layer_weight weight = shared->group->weights[number];
    uint64_t size_bytes = 0;
    size_t elems = 0;
    struct matrix matrix = {.shared = shared, .tensor = tensor, .rows = (size_t)tensor->ne[1]};
    matrix.groups = shared->cols / shared->group->grid.group_size;
    if (!lq_mul_size(matrix.rows, shared->cols, &elems) || elems > SIZE_MAX / sizeof(float)) {
        return lq_error_nomem(err, "a matrix");
    }
    enum lq_status status = lq_run_input_load(shared->run, lq_layer_weight_name(weight),
                                              &matrix.data, &size_bytes, err);
    if (status == LQ_OK && size_bytes != tensor->size_bytes) {
        status = lq_error_set(err, LQ_EMODEL, "'%s' is cut off", tensor->name);
    }
    matrix.weights = malloc(elems * sizeof *matrix.weights);
    matrix.levels = malloc(elems);
    matrix.scales = malloc(matrix.rows * matrix.groups * sizeof *matrix.scales);
    matrix.zeros = malloc(matrix.rows * matrix.groups);
    matrix.losses = malloc(matrix.rows * sizeof *matrix.losses);
    bool has_room = matrix.weights != NULL && matrix.levels != NULL && matrix.scales != NULL &&
                    matrix.zeros != NULL && matrix.losses != NULL;
    if (status == LQ_OK) {
        status = has_room ? run_strips(&matrix, err) : lq_error_nomem(err, "a matrix");
    }
    if (status == LQ_OK) {
        status = write_matrix(&matrix, weight, err);
    }
    free(matrix.weights);
    free(matrix.levels);
    free(matrix.scales);
    free(matrix.zeros);
    free(matrix.losses);
    return status;
}

/* The group of each column. */
static enum lq_status write_g_idx(const struct shared *shared, struct lq_error *err)
{
    int32_t *g_idx = malloc(shared->cols * sizeof *g_idx);
    if (g_idx == NULL) {
        return lq_error_nomem(err, "the groups of columns");
    }
    for (size_t j = 0; j < shared->cols; j++) {
        size_t col = shared->order == NULL ? j : shared->order[j];
        g_idx[col] = (int32_t)(j / shared->group->grid.group_size);
    }
    enum lq_status status =
        lq_run_write(shared->run, "g_idx", g_idx, shared->cols * sizeof *g_idx, err);
    free(g_idx);
    return status;
}

enum lq_status lq_gptq_run_group(struct lq_run *run, struct lq_error *err)
{
    const struct lq_gptq_group *group = lq_run_state(run);
    struct shared shared = {.run = run, .group = group, .cols = (size_t)group->tensors[0].ne[0]};
    enum lq_status status = find_factor(&shared, err);
    if (status == LQ_OK && shared.damp > group->damp) {
        lq_run_warn(run,
                    "the inputs of '%s' needed a damping of %.2f instead of %g; a longer "
                    "calibration text would need less",
                    group->tensors[0].name, shared.damp, group->damp);
    }
    for (size_t i = 0; status == LQ_OK && i < group->matrix_count; i++) {
        status = run_matrix(&shared, i, err);
        lq_run_progress(run, i + 1, group->matrix_count, "matrices");
    }
    if (status == LQ_OK) {
        status = write_g_idx(&shared, err);
    }
    free(shared.u);
    free(shared.order);
    return status;
}
