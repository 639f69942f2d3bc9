/* Scale of x ~ scale * code with codes low..high, minimising the weighted squared error; the scale
 * may have either sign, which matters because the range of codes is lopsided. Included once per CPU
 * level after the lanes. Thread rule: pure. */
#ifndef LQ_KERNELS_SEARCH_SYMMETRIC_H
#define LQ_KERNELS_SEARCH_SYMMETRIC_H

#include <stdbool.h>

#include "kernels/search/tile.h"
#include "kernels/tables/books.h"

struct symmetric_range {
    float low, high;   /* of the codes; low < 0 */
    float first, step; /* trials put the largest magnitude on low - (first + step * k) */
    size_t step_count, repeat_count;
    bool both_signs;            /* also the largest magnitude on `high` */
    const struct lq_book *book; /* levels that are not integers in a row, or NULL */
};

struct symmetric_fit {
    lane_f scale;
    lane_f gain; /* how much of the weighted square sum the fit explains */
};

/* 1 / scale, or 0 where the scale is too small to divide by. */
static inline lane_f symmetric_inverse(lane_f scale)
{
    lane_m usable = lane_less(lane_set(0x1p-80f), lane_abs(scale));
    return lane_select(usable, lane_set(1.0f) / lane_select(usable, scale, lane_set(1.0f)),
                       lane_set(0.0f));
}

/* The level nearest to `value`. */
static inline lane_f symmetric_code(lane_f value, const struct symmetric_range *range)
{
    if (range->book != NULL) {
        return lane_nearest(value, range->book);
    }
    return lane_round(lane_max(lane_min(value, lane_set(range->high)), lane_set(range->low)));
}

/* The codes of one problem in element order: levels minus the lowest, or their indices. */
static inline void symmetric_put_codes(const struct symmetric_range *range, float scale,
                                       const float *row, float unit, size_t elem_count,
                                       uint8_t *codes)
{
    lane_f inverse = symmetric_inverse(lane_set(scale));
    for (size_t i = 0; i < elem_count; i += LANES) {
        lane_f value = lane_load(row + i) * lane_set(unit) * inverse;
        if (range->book != NULL) {
            lane_store_bytes(codes + i, lane_nearest_index(value, range->book));
        } else {
            lane_store_bytes(codes + i, symmetric_code(value, range) - lane_set(range->low));
        }
    }
}

/* The least-squares scale for the codes that 1 / inverse gives. */
static inline struct symmetric_fit symmetric_try(const float *x, const float *w, size_t elem_count,
                                                 lane_f inverse,
                                                 const struct symmetric_range *range)
{
    lane_f cross = lane_set(0.0f);
    lane_f square = lane_set(0x1p-100f);
    for (size_t i = 0; i < elem_count * LANES; i += LANES) {
        lane_f value = lane_load(x + i);
        lane_f code = symmetric_code(value * inverse, range);
        lane_f weighted = lane_load(w + i) * code;
        cross = cross + weighted * value;
        square = square + weighted * code;
    }
    struct symmetric_fit fit = {.scale = cross / square};
    fit.gain = fit.scale * cross;
    return fit;
}

static inline void symmetric_keep(struct symmetric_fit *best, const struct symmetric_fit *fit)
{
    lane_m better = lane_less(best->gain, fit->gain);
    best->scale = lane_select(better, fit->scale, best->scale);
    best->gain = lane_select(better, fit->gain, best->gain);
}

static inline struct symmetric_fit symmetric_search(const float *x, const float *w,
                                                    size_t elem_count,
                                                    const struct symmetric_range *range)
{
    lane_f zero = lane_set(0.0f);
    lane_f peak = zero;
    for (size_t i = 0; i < elem_count * LANES; i += LANES) {
        lane_f value = lane_load(x + i);
        peak = lane_select(lane_less(lane_abs(peak), lane_abs(value)), value, peak);
    }
    lane_f peak_inverse = symmetric_inverse(peak);
    struct symmetric_fit best = {.scale = zero, .gain = zero};
    for (size_t k = 0; k < range->step_count; k++) {
        float anchor = range->low - (range->first + range->step * (float)k);
        struct symmetric_fit fit =
            symmetric_try(x, w, elem_count, lane_set(anchor) * peak_inverse, range);
        symmetric_keep(&best, &fit);
        if (!range->both_signs) {
            continue;
        }
        anchor = range->high + (range->first + range->step * (float)k);
        fit = symmetric_try(x, w, elem_count, lane_set(anchor) * peak_inverse, range);
        symmetric_keep(&best, &fit);
    }
    for (size_t k = 0; k < range->repeat_count; k++) {
        lane_f inverse = symmetric_inverse(best.scale);
        struct symmetric_fit fit = symmetric_try(x, w, elem_count, inverse, range);
        symmetric_keep(&best, &fit);
    }
    return best;
}

/* True weighted squared error when every value takes the code nearest under `scale`. */
static inline lane_f symmetric_error(const float *x, const float *w, size_t elem_count,
                                     lane_f scale, const struct symmetric_range *range)
{
    lane_f inverse = symmetric_inverse(scale);
    lane_f error = lane_set(0.0f);
    for (size_t i = 0; i < elem_count * LANES; i += LANES) {
        lane_f value = lane_load(x + i);
        lane_f residual = value - scale * symmetric_code(value * inverse, range);
        error = error + lane_load(w + i) * residual * residual;
    }
    return error;
}

#endif
