#include "rules/quant/awq.h"

#include <math.h>
#include <string.h>

#include "kernels/matmul.h"

#define SCALE_MIN 1e-4

enum {
    LANES = 8,
    PANEL_COLS = 256, /* of the moments, in a loss */
    CUTS = 10,        /* 1, 0.95 ... 0.55 of the largest magnitude */
    CUT_STEPS = 20,
    CUT_ROWS = CUTS * LQ_AWQ_STRIP_ROWS,
};

/* Added and taken away again, it leaves the nearest whole number of a float below 2^22, and of two
 * equally near the even one: vectors of every CPU can add. */
#define ROUNDING 12582912.0F

/* ---- scales ---- */

double lq_awq_ratio(size_t trial)
{
    return trial == 0 ? 0.0 : (double)(trial - 1) / LQ_AWQ_RATIOS;
}

/* The smallest and the largest of a group's values and 0. */
static void find_range(const float *values, size_t count, float *low, float *high)
{
    float lows[LANES] = {0};
    float highs[LANES] = {0};
    for (size_t i = 0; i < count; i += LANES) {
        for (size_t j = 0; j < LANES; j++) {
            lows[j] = values[i + j] < lows[j] ? values[i + j] : lows[j];
            highs[j] = values[i + j] > highs[j] ? values[i + j] : highs[j];
        }
    }
    *low = 0.0F;
    *high = 0.0F;
    for (size_t j = 0; j < LANES; j++) {
        *low = lows[j] < *low ? lows[j] : *low;
        *high = highs[j] > *high ? highs[j] : *high;
    }
}

void lq_awq_add_sizes(const float *row, size_t cols, size_t group_size, double *sizes)
{
    for (size_t first = 0; first < cols; first += group_size) {
        float low = 0.0F;
        float high = 0.0F;
        find_range(row + first, group_size, &low, &high);
        float largest = -low > high ? -low : high;
        for (size_t j = first; largest > 0.0F && j < first + group_size; j++) {
            sizes[j] += (double)(fabsf(row[j]) / largest);
        }
    }
}

void lq_awq_scales(size_t trial, const float *inputs, const float *weights, size_t cols,
                   float *scales)
{
    double ratio = lq_awq_ratio(trial);
    double smallest = INFINITY;
    double largest = 0.0;
    for (size_t j = 0; j < cols; j++) {
        double scale =
            pow((double)inputs[j], ratio) / (pow((double)weights[j], 1.0 - ratio) + SCALE_MIN);
        bool is_known = inputs[j] > 0.0F && weights[j] > 0.0F && isfinite(scale) && trial > 0;
        scale = scale < SCALE_MIN ? SCALE_MIN : scale;
        scales[j] = is_known ? (float)scale : 0.0F;
        smallest = is_known && scale < smallest ? scale : smallest;
        largest = is_known && scale > largest ? scale : largest;
    }
    double middle = sqrt(smallest) * sqrt(largest);
    for (size_t j = 0; j < cols; j++) {
        float scale = (float)((double)scales[j] / middle);
        scales[j] = scales[j] > 0.0F && scale > 0.0F && isfinite(scale) ? scale : 1.0F;
    }
}

void lq_awq_settle(const float *values, enum lq_dtype type, size_t cols, float *scales,
                   float *divided)
{
    for (size_t j = 0; j < cols; j++) {
        float nearest = lq_group_round_scale(values[j] / scales[j], type);
        float settled = values[j] / nearest;
        bool is_usable =
            nearest != 0.0F && isfinite(nearest) && settled > 0.0F && isfinite(settled);
        if (is_usable) {
            scales[j] = settled;
        } else if (values[j] != 0.0F) {
            scales[j] = 1.0F; /* 0 stays 0, whatever the scale */
        }
        divided[j] = is_usable ? nearest : values[j];
    }
}

/* ---- errors and losses ---- */

/* What the values come out as; levels beyond the ends are moved to these. */
static void round_values(const float *values, size_t count, struct lq_group group, float *out)
{
    float low = -(float)group.zero;
    float high = (float)(LQ_GROUP_LEVEL_MAX - group.zero);
    for (size_t i = 0; i < count; i++) {
        float level = values[i] / group.scale;
        level = level < low ? low : level;
        level = level > high ? high : level;
        out[i] = (level + ROUNDING - ROUNDING) * group.scale;
    }
}

bool lq_awq_errors(const struct lq_awq_grid *grid, const float *row, const float *scales,
                   size_t cols, float *errors, size_t *bad_col)
{
    for (size_t first = 0; first < cols; first += grid->group_size) {
        float values[LQ_AWQ_GROUP_MAX];
        float rounded[LQ_AWQ_GROUP_MAX];
        struct lq_group group;
        float low = 0.0F;
        float high = 0.0F;
        for (size_t i = 0; i < grid->group_size; i++) {
            values[i] = scales == NULL ? row[first + i] : row[first + i] * scales[first + i];
        }
        find_range(values, grid->group_size, &low, &high);
        if (!lq_group_fit_range(low, high, grid->symmetric, grid->scale_type, &group)) {
            *bad_col = first;
            return false;
        }
        round_values(values, grid->group_size, group, rounded);
        for (size_t i = 0; i < grid->group_size; i++) {
            float value = scales == NULL ? rounded[i] : rounded[i] / scales[first + i];
            errors[first + i] = value - row[first + i];
        }
    }
    return true;
}

size_t lq_awq_loss_scratch(size_t rows)
{
    return rows * PANEL_COLS;
}

void lq_awq_add_losses(const float *means, size_t stride, size_t cols, const float *errors,
                       size_t rows, float *scratch, double *losses)
{
    lq_sgemm_fn multiply = lq_matmul_sgemm();
    for (size_t col = 0; col < cols; col += PANEL_COLS) {
        size_t count = cols - col < PANEL_COLS ? cols - col : PANEL_COLS;
        /* M is symmetric: what is above the diagonal counts twice. */
        struct lq_sgemm_args args = {.m = rows,
                                     .n = count,
                                     .k = col,
                                     .alpha = 2.0F,
                                     .a = errors,
                                     .lda = cols,
                                     .b = means + col * stride,
                                     .ldb = stride,
                                     .c = scratch,
                                     .ldc = PANEL_COLS};
        if (col > 0) {
            multiply(true, &args);
        }
        args.k = count;
        args.alpha = 1.0F;
        args.beta = col > 0 ? 1.0F : 0.0F;
        args.a = errors + col;
        args.b += col;
        multiply(true, &args);
        for (size_t r = 0; r < rows; r++) {
            double loss = 0.0;
            for (size_t j = 0; j < count; j++) {
                loss += (double)scratch[r * PANEL_COLS + j] * (double)errors[r * cols + col + j];
            }
            losses[r] += loss;
        }
    }
}

/* ---- groups ---- */

size_t lq_awq_strip_scratch(size_t group_size)
{
    return CUT_ROWS * group_size + lq_awq_loss_scratch(CUT_ROWS);
}

static float cut_limit(float largest, size_t cut)
{
    return largest * (1.0F - (float)cut / (float)CUT_STEPS);
}

static bool fit_cut(const struct lq_awq_grid *grid, const float *values, float limit,
                    struct lq_group *group)
{
    float low = 0.0F;
    float high = 0.0F;
    find_range(values, grid->group_size, &low, &high);
    low = low < -limit ? -limit : low;
    high = high > limit ? limit : high;
    return lq_group_fit_range(low, high, grid->symmetric, grid->scale_type, group);
}

static float find_largest(const float *values, size_t count)
{
    float low = 0.0F;
    float high = 0.0F;
    find_range(values, count, &low, &high);
    return -low > high ? -low : high;
}

/* The cut of each row's group that begins in column `first`. */
static void choose_cuts(const struct lq_awq_grid *grid, const struct lq_awq_strip *strip,
                        size_t first, float *scratch, size_t *cuts)
{
    size_t size = grid->group_size;
    double losses[CUT_ROWS] = {0};
    float *errors = scratch;
    for (size_t r = 0; r < strip->row_count; r++) {
        const float *values = strip->rows + r * strip->cols + first;
        float largest = find_largest(values, size);
        for (size_t cut = 0; cut < CUTS; cut++) {
            float *error = errors + (r * CUTS + cut) * size;
            struct lq_group group = {.scale = 1.0F};
            (void)fit_cut(grid, values, cut_limit(largest, cut), &group);
            round_values(values, size, group, error);
            for (size_t i = 0; i < size; i++) {
                float scale = strip->scales == NULL ? 1.0F : strip->scales[first + i];
                error[i] = (error[i] - values[i]) / scale;
            }
        }
    }
    lq_awq_add_losses(strip->means + first * strip->cols + first, strip->cols, size, errors,
                      strip->row_count * CUTS, scratch + CUT_ROWS * size, losses);
    for (size_t r = 0; r < strip->row_count; r++) {
        cuts[r] = 0;
        for (size_t cut = 1; cut < CUTS; cut++) {
            cuts[r] = losses[r * CUTS + cut] < losses[r * CUTS + cuts[r]] ? cut : cuts[r];
        }
    }
}

bool lq_awq_round_strip(const struct lq_awq_grid *grid, struct lq_awq_strip *strip, float *scratch)
{
    size_t size = grid->group_size;
    size_t group_count = strip->cols / size;
    for (size_t g = 0; g < group_count; g++) {
        size_t cuts[LQ_AWQ_STRIP_ROWS] = {0};
        if (strip->cut) {
            choose_cuts(grid, strip, g * size, scratch, cuts);
        }
        for (size_t r = 0; r < strip->row_count; r++) {
            const float *values = strip->rows + r * strip->cols + g * size;
            struct lq_group *group = &strip->groups[r * group_count + g];
            float limit = cut_limit(find_largest(values, size), cuts[r]);
            if (!fit_cut(grid, values, limit, group)) {
                strip->bad_row = r;
                strip->bad_col = g * size;
                return false;
            }
            lq_group_round(values, size, *group, strip->levels + r * strip->cols + g * size);
        }
    }
    return true;
}
