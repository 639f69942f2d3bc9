#include "rules/quant/gptq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/matmul.h"
#include "rules/quant/group_pack.h"

/* ---- the matrix of products ---- */

size_t lq_gptq_hessian(const float *products, size_t cols, double damp, const uint32_t *order,
                       float *h)
{
    double mean = 0.0;
    size_t dead = 0;
    for (size_t i = 0; i < cols; i++) {
        mean += 2.0 * (double)products[i * cols + i] / (double)cols;
        dead += products[i * cols + i] == 0.0F ? 1 : 0;
    }
    mean = mean > 0.0 ? mean : 1.0;
    for (size_t i = 0; i < cols; i++) {
        const float *from = products + (order == NULL ? i : order[i]) * cols;
        float *to = h + i * cols;
        for (size_t j = 0; j < cols; j++) {
            to[j] = 2.0F * from[order == NULL ? j : order[j]];
        }
        double own = to[i] == 0.0F ? mean : (double)to[i];
        to[i] = (float)(own + damp * mean);
    }
    return dead;
}

struct ranked {
    float product;
    uint32_t col;
};

static int compare_ranked(const void *a, const void *b)
{
    const struct ranked *left = a;
    const struct ranked *right = b;
    if (left->product != right->product) {
        return left->product > right->product ? -1 : 1;
    }
    return left->col < right->col ? -1 : left->col > right->col;
}

bool lq_gptq_order(const float *products, size_t cols, uint32_t *order)
{
    struct ranked *all = malloc((cols + 1) * sizeof *all);
    for (size_t i = 0; all != NULL && i < cols; i++) {
        all[i] = (struct ranked){products[i * cols + i], (uint32_t)i};
    }
    if (all != NULL) {
        qsort(all, cols, sizeof *all, compare_ranked);
    }
    for (size_t i = 0; all != NULL && i < cols; i++) {
        order[i] = all[i].col;
    }
    free(all);
    return all != NULL;
}

/* ---- rows ---- */

/* Fits the groups of a strip that begin at column `col`. */
static bool fit_groups(const struct lq_gptq_grid *grid, struct lq_gptq_strip *strip, size_t col)
{
    size_t groups = strip->cols / grid->group_size;
    unsigned level_max = (1U << grid->bits) - 1;
    for (size_t r = 0; r < strip->rows; r++) {
        const float *weights = strip->weights + r * strip->cols + col;
        size_t at = r * groups + col / grid->group_size;
        struct lq_group group;
        float low = 0.0F;
        float high = 0.0F;
        for (size_t i = 0; i < grid->group_size; i++) {
            low = weights[i] < low ? weights[i] : low;
            high = weights[i] > high ? weights[i] : high;
        }
        if (!lq_group_fit_levels(low, high, grid->symmetric, level_max, LQ_DTYPE_F16, &group)) {
            return false;
        }
        strip->scales[at] = lq_f32_to_f16(group.scale);
        strip->zeros[at] = group.zero;
    }
    return true;
}

/* Quantizes the columns [col, col + LQ_GPTQ_COLS_STEP) of a row, which are of one group; errors go
 * to `errors`, if there is a U. */
static double quantize_row(const struct lq_gptq_grid *grid, const float *u,
                           const struct lq_gptq_strip *strip, size_t row, size_t col, float *errors)
{
    size_t at = row * (strip->cols / grid->group_size) + col / grid->group_size;
    float *weights = strip->weights + row * strip->cols + col;
    uint8_t *levels = strip->levels + row * strip->cols + col;
    float scale = lq_f16_to_f32(strip->scales[at]);
    float zero = (float)strip->zeros[at];
    float level_max = (float)((1U << grid->bits) - 1);
    double loss = 0.0;
    for (size_t i = 0; i < LQ_GPTQ_COLS_STEP; i++) {
        float level = rintf(weights[i] / scale) + zero;
        level = level > 0.0F ? level : 0.0F;
        level = level < level_max ? level : level_max;
        float value = (level - zero) * scale;
        float off = weights[i] - value;
        levels[i] = (uint8_t)level;
        weights[i] = value;
        if (u != NULL) {
            const float *factor = u + (col + i) * strip->cols + col;
            float error = off / factor[i];
            for (size_t j = i + 1; j < LQ_GPTQ_COLS_STEP; j++) {
                weights[j] -= error * factor[j];
            }
            errors[i] = error;
            loss += (double)error * (double)error;
        }
    }
    return loss;
}

/* Passes the errors of columns [from, from + count), which begin at `errors`, on to the columns
 * [to, end). */
static void pass_on(const float *u, const struct lq_gptq_strip *strip, const float *errors,
                    size_t from, size_t count, size_t to, size_t end)
{
    const struct lq_sgemm_args args = {.m = strip->rows,
                                       .n = end - to,
                                       .k = count,
                                       .alpha = -1.0F,
                                       .a = errors,
                                       .lda = LQ_GPTQ_BLOCK,
                                       .b = u + from * strip->cols + to,
                                       .ldb = strip->cols,
                                       .beta = 1.0F,
                                       .c = strip->weights + to,
                                       .ldc = strip->cols};
    if (to < end) {
        lq_matmul_sgemm()(false, &args);
    }
}

bool lq_gptq_quantize(const struct lq_gptq_grid *grid, const float *u, struct lq_gptq_strip *strip)
{
    float errors[LQ_GPTQ_STRIP_ROWS * LQ_GPTQ_BLOCK];
    for (size_t r = 0; u != NULL && strip->losses != NULL && r < strip->rows; r++) {
        strip->losses[r] = 0.0;
    }
    for (size_t block = 0; block < strip->cols; block += LQ_GPTQ_BLOCK) {
        size_t left = strip->cols - block;
        size_t end = block + (left < LQ_GPTQ_BLOCK ? left : (size_t)LQ_GPTQ_BLOCK);
        for (size_t col = block; col < end; col += LQ_GPTQ_COLS_STEP) {
            float *own = errors + (col - block);
            if (col % grid->group_size == 0 && !fit_groups(grid, strip, col)) {
                return false;
            }
            for (size_t r = 0; r < strip->rows; r++) {
                double loss = quantize_row(grid, u, strip, r, col, own + r * LQ_GPTQ_BLOCK);
                if (u != NULL && strip->losses != NULL) {
                    strip->losses[r] += loss;
                }
            }
            if (u != NULL) {
                pass_on(u, strip, own, col, LQ_GPTQ_COLS_STEP, col + LQ_GPTQ_COLS_STEP, end);
            }
        }
        if (u != NULL) {
            pass_on(u, strip, errors, block, end - block, end, strip->cols);
        }
    }
    return true;
}

/* e H transpose(e) is the square of e U^-1, whose parts come out from the first column on: the
 * quotient of what is left of e there and the diagonal, which times its row is then taken away. */
void lq_gptq_measure(const float *u, size_t cols, float *rows, size_t row_count, double *losses)
{
    memset(losses, 0, row_count * sizeof *losses);
    for (size_t i = 0; i < cols; i++) {
        const float *factor = u + i * cols;
        for (size_t r = 0; r < row_count; r++) {
            float *row = rows + r * cols;
            float part = row[i] / factor[i];
            losses[r] += (double)part * (double)part;
            for (size_t j = i + 1; j < cols; j++) {
                row[j] -= part * factor[j];
            }
        }
    }
}
