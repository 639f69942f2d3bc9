/* Scale and offset of x ~ scale * code + offset with codes 0..code_max, minimising the weighted
 * squared error; the offset is free or at most 0. Included once per CPU level after the lanes.
 * Thread rule: pure. */
#ifndef LQ_KERNELS_SEARCH_AFFINE_H
#define LQ_KERNELS_SEARCH_AFFINE_H

#include <stdbool.h>

#include "kernels/search/tile.h"

/* Weighted sums over the elements of a problem, l the code and t the value. */
struct affine_sums {
    lane_f w, l, ll, t, tl;
};

struct affine_fit {
    lane_f scale, offset;
    lane_f error; /* without the constant part */
};

/* The code nearest to `value` (already divided by the scale). */
static inline lane_f affine_code(lane_f value, lane_f code_max)
{
    return lane_round(lane_max(lane_min(value, code_max), lane_set(0.0f)));
}

/* Least squares of t ~ scale * l + offset for fixed codes. An offset above offset_max, or one that
 * the codes do not determine, becomes `bound`. */
static inline struct affine_fit affine_solve(const struct affine_sums *s, lane_f offset_max,
                                             lane_f bound)
{
    lane_f zero = lane_set(0.0f);
    lane_f det = s->w * s->ll - s->l * s->l;
    lane_m regular = lane_less(lane_set(0x1p-20f) * s->w * s->ll, det);
    lane_f inverse = lane_set(1.0f) / lane_select(regular, det, lane_set(1.0f));
    lane_f scale = (s->w * s->tl - s->t * s->l) * inverse;
    lane_f offset = (s->ll * s->t - s->l * s->tl) * inverse;
    /* On the bound, or with all codes equal, only the scale is free. */
    lane_m free_offset = lane_and(regular, lane_less(offset, offset_max));
    lane_m has_codes = lane_less(zero, s->ll);
    lane_f bound_scale = (s->tl - bound * s->l) / lane_select(has_codes, s->ll, lane_set(1.0f));
    scale = lane_select(free_offset, scale, bound_scale);
    offset = lane_select(free_offset, offset, bound);
    scale = lane_max(scale, zero);
    struct affine_fit fit = {.scale = scale, .offset = offset};
    lane_f two = lane_set(2.0f);
    fit.error = scale * (scale * s->ll - two * s->tl) +
                offset * (offset * s->w - two * s->t + two * scale * s->l);
    return fit;
}

struct affine_trials {
    float code_max;
    bool free_offset;  /* else the offset is at most 0 */
    float first, step; /* trials put the range of values on code_max + first + step * k */
    size_t step_count;
    size_t repeat_count; /* codes and fit again from the best so far */
};

static inline struct affine_fit affine_search(const float *x, const float *w, size_t elem_count,
                                              const struct affine_trials *trials)
{
    lane_f high = lane_load(x);
    lane_f low = high;
    if (!trials->free_offset) {
        low = lane_min(high, lane_set(0.0f));
    }
    struct affine_sums sums = {.w = lane_set(0.0f), .t = lane_set(0.0f)};
    for (size_t i = 0; i < elem_count * LANES; i += LANES) {
        lane_f value = lane_load(x + i);
        lane_f weight = lane_load(w + i);
        low = lane_min(low, value);
        high = lane_max(high, value);
        sums.w = sums.w + weight;
        sums.t = sums.t + weight * value;
    }
    /* From here t = x - low >= 0, so its offset may be at most -low. */
    sums.t = sums.t - sums.w * low;
    lane_f bound = lane_set(0.0f);
    lane_f offset_max = lane_set(0x1p60f);
    if (!trials->free_offset) {
        bound = lane_set(0.0f) - low;
        offset_max = bound;
    }
    lane_f range = high - low;
    lane_m flat = lane_less(range, lane_set(0x1p-60f));
    lane_f range_inverse =
        lane_select(flat, lane_set(0.0f), lane_set(1.0f) / lane_max(range, lane_set(0x1p-60f)));
    lane_f top = lane_set(trials->code_max);
    struct affine_fit best = {.scale = lane_set(0.0f), .offset = lane_set(0.0f)};
    best.error = lane_set(0.0f);
    lane_f shift = lane_set(0.0f);
    for (size_t k = 0; k < trials->step_count + trials->repeat_count; k++) {
        lane_f inverse =
            lane_set(trials->code_max + trials->first + trials->step * (float)k) * range_inverse;
        if (k >= trials->step_count) {
            lane_m usable = lane_less(lane_set(0x1p-80f), best.scale);
            inverse = lane_select(usable, lane_set(1.0f) / lane_max(best.scale, lane_set(0x1p-80f)),
                                  lane_set(0.0f));
            shift = best.offset;
        }
        sums.l = lane_set(0.0f);
        sums.ll = lane_set(0.0f);
        sums.tl = lane_set(0.0f);
        for (size_t i = 0; i < elem_count * LANES; i += LANES) {
            lane_f t = lane_load(x + i) - low;
            lane_f l = affine_code((t - shift) * inverse, top);
            lane_f wl = lane_load(w + i) * l;
            sums.l = sums.l + wl;
            sums.ll = sums.ll + wl * l;
            sums.tl = sums.tl + wl * t;
        }
        struct affine_fit fit = affine_solve(&sums, offset_max, bound);
        lane_m better = lane_less(fit.error, best.error);
        best.scale = lane_select(better, fit.scale, best.scale);
        best.offset = lane_select(better, fit.offset, best.offset);
        best.error = lane_select(better, fit.error, best.error);
    }
    best.offset = best.offset + low;
    return best;
}

#endif
