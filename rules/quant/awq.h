/* The arithmetic of AWQ (Lin and others, "AWQ: Activation-aware Weight Quantization", arXiv
 * 2306.00978): columns of weights that large activations meet are multiplied by a scale before they
 * are rounded, and what makes the activations is divided by it; then the range of each group is cut
 * where that lowers the error. Scales are tried on a grid of exponents; an error is that of the
 * product, exactly, by the moments of the input (moments.h). A row of weights w has the error
 * e = rounded(w s) / s - w, and its loss is e M e^T. Thread rule: pure functions. Limits: columns
 * are a multiple of the group. */
#ifndef LQ_RULES_QUANT_AWQ_H
#define LQ_RULES_QUANT_AWQ_H

#include <stdbool.h>
#include <stddef.h>

#include "rules/quant/group_pack.h"

enum {
    LQ_AWQ_RATIOS = 20,                /* 0, 0.05 ... 0.95 */
    LQ_AWQ_TRIALS = 1 + LQ_AWQ_RATIOS, /* trial 0 has no scales, trial t the ratio (t - 1) / 20 */
    LQ_AWQ_GROUP_MAX = 256,
    LQ_AWQ_STRIP_ROWS = 16, /* rows of weights that are tried at a time */
};

struct lq_awq_grid {
    size_t group_size;
    bool symmetric;
    enum lq_dtype scale_type;
};

/* The exponent of a trial; 0 for trial 0 as well. */
double lq_awq_ratio(size_t trial);
/* Adds to sizes[j] what |w_j| is of the largest magnitude in its group. */
void lq_awq_add_sizes(const float *row, size_t cols, size_t group_size, double *sizes);
/* The scales of a trial: x^ratio / (w^(1 - ratio) + 1e-4), divided by the root of the largest times
 * the smallest; x is the mean magnitude of the activations, w that of the weights in their groups.
 * A column of which nothing is known (x or w are 0, or the result is no positive number) has the
 * scale 1. */
void lq_awq_scales(size_t trial, const float *inputs, const float *weights, size_t cols,
                   float *scales);
/* Moves the scales to where dividing `values` (a norm, or a bias) by them gives numbers of their
 * type, which go to `divided`: so that nothing is lost by the division. Where that would be 0 or
 * infinite the scale is 1. */
void lq_awq_settle(const float *values, enum lq_dtype type, size_t cols, float *scales,
                   float *divided);

/* The errors of a row, with `scales` (NULL: 1). False when a group of it has no finite scale; then
 * *bad_col is the first column of the group. */
bool lq_awq_errors(const struct lq_awq_grid *grid, const float *row, const float *scales,
                   size_t cols, float *errors, size_t *bad_col);
/* losses[r] += e M e^T for each of the rows of `errors`, [rows x cols]. M is symmetric, its rows
 * `stride` apart. `scratch` has room for lq_awq_loss_scratch(rows). */
size_t lq_awq_loss_scratch(size_t rows);
void lq_awq_add_losses(const float *means, size_t stride, size_t cols, const float *errors,
                       size_t rows, float *scratch, double *losses);

/* Groups of a strip of rows: for each the best of ten cuts, of nothing down to 0.55 of the largest
 * magnitude, by its own block of the moments; without `cut` the whole range. groups[rows][cols /
 * group_size] and levels[rows][cols] are written; *bad as in lq_awq_errors, with the row. `rows` is
 * at most LQ_AWQ_STRIP_ROWS, `scratch` has room for lq_awq_strip_scratch(group_size). */
struct lq_awq_strip {
    const float *rows;   /* w s, [row_count x cols] */
    const float *scales; /* s; NULL: 1 */
    size_t row_count;
    size_t cols;
    bool cut;
    const float *means; /* [cols x cols]; NULL without `cut` */
    struct lq_group *groups;
    uint8_t *levels;
    size_t bad_row;
    size_t bad_col;
};
size_t lq_awq_strip_scratch(size_t group_size);
bool lq_awq_round_strip(const struct lq_awq_grid *grid, struct lq_awq_strip *strip, float *scratch);

#endif
