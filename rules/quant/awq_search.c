#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/checked.h"
#include "engine/base/pool.h"
#include "kernels/kernels.h"
#include "rules/model/moments.h"
#include "rules/quant/awq_parts.h"

enum {
    TRIAL_ROWS = LQ_AWQ_TRIALS + 1, /* the trials' errors, and the row itself */
    STRIP_ERRORS = TRIAL_ROWS * LQ_AWQ_STRIP_ROWS,
    DECODE_ROWS = 64,
};

/* ---- weights ---- */

struct decoding {
    struct lq_run *run;
    const struct lq_model_tensor *tensor;
    const void *data;
    float *rows;
    struct lq_error *errors; /* of each task */
};

static void decode_task(void *user, size_t index)
{
    const struct decoding *decoding = user;
    const struct lq_model_tensor *tensor = decoding->tensor;
    struct lq_error *err = &decoding->errors[index];
    size_t cols = (size_t)tensor->ne[0];
    size_t row = index * DECODE_ROWS;
    size_t left = (size_t)tensor->ne[1] - row;
    size_t count = left < DECODE_ROWS ? left : (size_t)DECODE_ROWS;
    float *rows = decoding->rows + row * cols;
    enum lq_status status =
        lq_run_cancelled(decoding->run)
            ? lq_error_set(err, LQ_ECANCELLED, "cancelled")
            : lq_model_tensor_rows(tensor, decoding->data, row, count, rows, err);
    size_t bad = status == LQ_OK ? lq_kernels()->find_nonfinite(rows, count * cols) : count * cols;
    if (bad < count * cols) {
        (void)lq_error_set(err, LQ_EFORMAT,
                           "tensor '%s' holds NaN or infinity in row %zu, column %zu; weights must "
                           "be finite, so the model file is damaged",
                           tensor->name, row + bad / cols, bad % cols);
    }
}

enum lq_status lq_awq_decode(struct lq_run *run, const struct lq_model_tensor *tensor,
                             const void *data, float *rows, struct lq_error *err)
{
    size_t count = ((size_t)tensor->ne[1] + DECODE_ROWS - 1) / DECODE_ROWS;
    struct decoding decoding = {run, tensor, data, rows, calloc(count, sizeof *decoding.errors)};
    if (decoding.errors == NULL) {
        return lq_error_nomem(err, "rows of a tensor");
    }
    lq_pool_for(lq_run_pool(run), count, decode_task, &decoding);
    enum lq_status status = LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < count; i++) {
        status = decoding.errors[i].status;
        if (status != LQ_OK) {
            *err = decoding.errors[i];
        }
    }
    free(decoding.errors);
    return status;
}

enum lq_status lq_awq_load_moments(struct lq_run *run, uint64_t cols, struct lq_mean_moments *out,
                                   struct lq_error *err)
{
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_run_input_load(run, "moments", &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_mean_moments_parse(data, size_bytes, out, err);
    }
    if (status == LQ_OK && out->col_count != cols) {
        lq_mean_moments_fini(out);
        status = lq_error_set(err, LQ_EINTERNAL, "moments of %zu columns where %llu are",
                              out->col_count, (unsigned long long)cols);
    }
    return status;
}

/* ---- trials ---- */

/* A strip of rows of one matrix. */
struct strip {
    size_t tensor;
    size_t row;
    size_t row_count;
    double losses[TRIAL_ROWS];
    bool failed;    /* no memory */
    size_t bad_col; /* SIZE_MAX: none */
};

struct search {
    struct lq_run *run;
    const struct lq_awq_part_state *state;
    size_t cols;
    struct lq_mean_moments moments;
    float *rows[LQ_LAYER_WEIGHT_COUNT]; /* of each matrix */
    float *scales;                      /* [LQ_AWQ_TRIALS x cols] */
    float *divided;                     /* [LQ_AWQ_TRIALS x cols] */
    struct strip *strips;
    size_t strip_count;
};

static void run_strip(void *user, size_t index)
{
    const struct search *search = user;
    struct strip *strip = &search->strips[index];
    size_t cols = search->cols;
    const float *rows = search->rows[strip->tensor] + strip->row * cols;
    float *errors = malloc(STRIP_ERRORS * cols * sizeof *errors);
    float *scratch = malloc(lq_awq_loss_scratch(STRIP_ERRORS) * sizeof *scratch);
    double losses[STRIP_ERRORS] = {0};
    size_t count = strip->row_count;
    strip->failed = errors == NULL || scratch == NULL;
    strip->bad_col = SIZE_MAX;
    bool good = !strip->failed && !lq_run_cancelled(search->run);
    for (size_t t = 0; good && t < LQ_AWQ_TRIALS; t++) {
        for (size_t r = 0; good && r < count; r++) {
            good = lq_awq_errors(&search->state->grid, rows + r * cols, search->scales + t * cols,
                                 cols, errors + (t * count + r) * cols, &strip->bad_col);
        }
    }
    if (good) {
        memcpy(errors + LQ_AWQ_TRIALS * count * cols, rows, count * cols * sizeof *errors);
        lq_awq_add_losses(search->moments.means, cols, cols, errors, TRIAL_ROWS * count, scratch,
                          losses);
        for (size_t i = 0; i < TRIAL_ROWS * count; i++) {
            strip->losses[i / count] += losses[i];
        }
    }
    free(errors);
    free(scratch);
}

static enum lq_status check_strips(const struct search *search, struct lq_error *err)
{
    if (lq_run_cancelled(search->run)) {
        return lq_error_set(err, LQ_ECANCELLED, "cancelled");
    }
    for (size_t s = 0; s < search->strip_count; s++) {
        const struct strip *strip = &search->strips[s];
        if (strip->failed) {
            return lq_error_nomem(err, "rows of a tensor");
        }
        if (strip->bad_col != SIZE_MAX) {
            return lq_error_set(err, LQ_EUNSUPPORTED,
                                "'%s' has weights from column %zu on, in rows %zu to %zu, that are "
                                "too large for a scale of %s",
                                search->state->tensors[strip->tensor].name, strip->bad_col,
                                strip->row, strip->row + strip->row_count - 1,
                                lq_dtype_name(search->state->grid.scale_type));
        }
    }
    return LQ_OK;
}

/* The losses of each matrix relative to what its product is, and the mean of these: a matrix counts
 * as much as another one whatever its size is. */
static void sum_losses(const struct search *search, struct lq_awq_trials *out)
{
    size_t tensor_count = search->state->tensor_count;
    memset(out, 0, sizeof *out);
    for (size_t tensor = 0; tensor < tensor_count; tensor++) {
        double sums[TRIAL_ROWS] = {0};
        for (size_t s = 0; s < search->strip_count; s++) {
            for (size_t t = 0; search->strips[s].tensor == tensor && t < TRIAL_ROWS; t++) {
                sums[t] += search->strips[s].losses[t];
            }
        }
        for (size_t t = 0; sums[LQ_AWQ_TRIALS] > 0.0 && t < LQ_AWQ_TRIALS; t++) {
            out->losses[t] += sums[t] / sums[LQ_AWQ_TRIALS] / (double)tensor_count;
        }
    }
    size_t best = 0;
    for (size_t t = 1; t < LQ_AWQ_TRIALS; t++) {
        best = out->losses[t] < out->losses[best] ? t : best;
    }
    out->best = (double)best;
}

/* ---- the step ---- */

static enum lq_status load_matrices(struct search *search, struct lq_error *err)
{
    const struct lq_awq_part_state *state = search->state;
    enum lq_status status = LQ_OK;
    size_t strip_count = 0;
    for (size_t i = 0; status == LQ_OK && i < state->tensor_count; i++) {
        const struct lq_model_tensor *tensor = &state->tensors[i];
        const void *data = NULL;
        uint64_t size_bytes = 0;
        size_t count = 0;
        bool fits = lq_mul_size((size_t)tensor->ne[1], search->cols * sizeof(float), &count);
        search->rows[i] = fits ? malloc(count) : NULL;
        status = search->rows[i] == NULL
                     ? lq_error_nomem(err, "a matrix")
                     : lq_run_input_load(search->run, state->inputs[i], &data, &size_bytes, err);
        if (status == LQ_OK) {
            status = lq_awq_decode(search->run, tensor, data, search->rows[i], err);
        }
        strip_count += (size_t)tensor->ne[1] / LQ_AWQ_STRIP_ROWS + 1;
    }
    search->strips = status == LQ_OK ? calloc(strip_count, sizeof *search->strips) : NULL;
    if (status == LQ_OK && search->strips == NULL) {
        status = lq_error_nomem(err, "a matrix");
    }
    for (size_t i = 0; status == LQ_OK && i < state->tensor_count; i++) {
        size_t rows = (size_t)state->tensors[i].ne[1];
        for (size_t row = 0; row < rows; row += LQ_AWQ_STRIP_ROWS) {
            size_t left = rows - row;
            search->strips[search->strip_count++] = (struct strip){
                .tensor = i,
                .row = row,
                .row_count = left < LQ_AWQ_STRIP_ROWS ? left : (size_t)LQ_AWQ_STRIP_ROWS};
        }
    }
    return status;
}

static enum lq_status make_scales(struct search *search, struct lq_error *err)
{
    const struct lq_awq_part_state *state = search->state;
    size_t cols = search->cols;
    struct lq_arena *arena = lq_run_arena(search->run);
    double *sums = lq_arena_get_array(arena, cols, sizeof *sums);
    float *sizes = lq_arena_get_array(arena, cols, sizeof *sizes);
    float *front = lq_arena_get_array(arena, cols, sizeof *front);
    search->scales = lq_arena_get_array(arena, LQ_AWQ_TRIALS * cols, sizeof *search->scales);
    search->divided = lq_arena_get_array(arena, LQ_AWQ_TRIALS * cols, sizeof *search->divided);
    const void *data = NULL;
    uint64_t size_bytes = 0;
    bool has_room = sums != NULL && sizes != NULL && front != NULL && search->scales != NULL &&
                    search->divided != NULL;
    enum lq_status status = has_room ? LQ_OK : lq_error_nomem(err, "the scales of a layer");
    if (status == LQ_OK && state->has_front) {
        status = lq_run_input_load(search->run, "front", &data, &size_bytes, err);
        if (status == LQ_OK) {
            status = lq_awq_decode(search->run, &state->front, data, front, err);
        }
    }
    if (status != LQ_OK) {
        return status;
    }
    memset(sums, 0, cols * sizeof *sums);
    double rows = 0.0;
    for (size_t i = 0; i < state->tensor_count; i++) {
        for (size_t r = 0; r < state->tensors[i].ne[1]; r++) {
            lq_awq_add_sizes(search->rows[i] + r * cols, cols, state->grid.group_size, sums);
        }
        rows += (double)state->tensors[i].ne[1];
    }
    for (size_t j = 0; j < cols; j++) {
        sizes[j] = (float)(sums[j] / rows);
    }
    for (size_t t = 0; t < LQ_AWQ_TRIALS; t++) {
        float *scales = search->scales + t * cols;
        lq_awq_scales(t, search->moments.sizes, sizes, cols, scales);
        if (state->has_front) {
            lq_awq_settle(front, state->front.dtype, cols, scales, search->divided + t * cols);
        }
    }
    return LQ_OK;
}

static enum lq_status write_part(const struct search *search, const struct lq_awq_trials *trials,
                                 struct lq_error *err)
{
    const struct lq_awq_part_state *state = search->state;
    size_t first = (size_t)trials->best * search->cols;
    enum lq_status status = lq_run_write(search->run, "scales", search->scales + first,
                                         search->cols * sizeof(float), err);
    if (status == LQ_OK) {
        status = lq_run_write(search->run, "trials", trials, sizeof *trials, err);
    }
    if (status == LQ_OK && state->has_front) {
        size_t size_bytes = lq_dtype_row_bytes(state->front.dtype, search->cols);
        void *bytes = lq_arena_get(lq_run_arena(search->run), size_bytes);
        if (bytes == NULL) {
            return lq_error_nomem(err, "a norm");
        }
        lq_kernels()->encode[state->front.dtype](search->divided + first, bytes, search->cols,
                                                 NULL);
        status = lq_run_write(search->run, "divided", bytes, size_bytes, err);
    }
    return status;
}

enum lq_status lq_awq_run_part(struct lq_run *run, struct lq_error *err)
{
    const struct lq_awq_part_state *state = lq_run_state(run);
    struct search search = {.run = run, .state = state, .cols = (size_t)state->tensors[0].ne[0]};
    struct lq_awq_trials trials;
    enum lq_status status = lq_awq_load_moments(run, search.cols, &search.moments, err);
    if (status == LQ_OK) {
        status = load_matrices(&search, err);
    }
    if (status == LQ_OK) {
        status = make_scales(&search, err);
    }
    if (status == LQ_OK) {
        lq_pool_for(lq_run_pool(run), search.strip_count, run_strip, &search);
        status = check_strips(&search, err);
    }
    if (status == LQ_OK) {
        sum_losses(&search, &trials);
        status = write_part(&search, &trials, err);
    }
    for (size_t i = 0; i < state->tensor_count; i++) {
        free(search.rows[i]);
    }
    free(search.strips);
    lq_mean_moments_fini(&search.moments);
    return status;
}
