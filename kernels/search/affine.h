/* Scale and offset of x ~ scale * code + offset with codes 0..code_max, minimising the weighted
 * squared error; the offset is free or at most 0. Included once per CPU level after the lanes.
 * Thread rule: pure. */
#ifndef LQ_KERNELS_SEARCH_AFFINE_H
#define LQ_KERNELS_SEARCH_AFFINE_H

#include <stdbool.h>

#include "kernels/search/tile.h"

/* Weighted sums over the elements of a problem. Values and codes are counted from their weighted
 * middle: then a single dominating weight does not drown the others in rounding. */
struct affine_sums {
    lane_f w, l, ll, t, tl;
    lane_f code_middle, value_middle;
};

struct affine_fit {
    lane_f scale, offset;
    lane_f error; /* without the constant part */
};

struct affine_trials {
    float code_max;
    bool free_offset;  /* else the offset is at most 0 */
    float first, step; /* trials put the range of values on code_max + first + step * k */
    size_t step_count;
    size_t phase_count;  /* trials of the lowest level per step, around the smallest value; even */
    size_t repeat_count; /* codes and fit again from the best so far */
};

/* The code nearest to `value` (already divided by the scale). */
LANE_INLINE lane_f affine_code(lane_f value, lane_f code_max)
{
    return lane_round(lane_max(lane_min(value, code_max), lane_set(0.0f)));
}

/* Least squares of value ~ scale * code + offset for fixed codes. A positive offset that is not
 * allowed becomes 0; one that the codes do not determine is taken from `offset`. */
LANE_FN struct affine_fit affine_solve(const struct affine_sums *s, bool free_offset, lane_f offset)
{
    lane_f zero = lane_set(0.0f);
    lane_f one = lane_set(1.0f);
    lane_f det = s->w * s->ll - s->l * s->l;
    lane_m regular = lane_less(lane_set(0x1p-20f) * s->w * s->ll, det);
    lane_f inverse = one / lane_select(regular, det, one);
    lane_f scale = (s->w * s->tl - s->t * s->l) * inverse;
    lane_f middle = (s->ll * s->t - s->l * s->tl) * inverse;
    lane_f new_offset = s->value_middle + middle - scale * s->code_middle;
    lane_m allowed = regular;
    if (!free_offset) {
        allowed = lane_and(regular, lane_less(new_offset, zero));
        offset = lane_select(regular, zero, offset);
    }
    /* With the offset given only the scale is free. */
    lane_f target = s->value_middle - offset;
    lane_f ll = s->ll + s->code_middle * (s->l + s->l + s->code_middle * s->w);
    lane_f tl = s->tl + s->code_middle * s->t + target * (s->l + s->code_middle * s->w);
    lane_m has_codes = lane_less(zero, ll);
    lane_f bound_scale = tl / lane_select(has_codes, ll, one);
    scale = lane_max(lane_select(allowed, scale, bound_scale), zero);
    middle = lane_select(allowed, middle, scale * s->code_middle - target);
    struct affine_fit fit = {.scale = scale};
    fit.offset = lane_select(allowed, new_offset, offset);
    lane_f two = lane_set(2.0f);
    fit.error = scale * (scale * s->ll - two * s->tl) +
                middle * (middle * s->w - two * s->t + two * scale * s->l);
    return fit;
}

/* One way to number the values: codes are (value - value_middle) * inverse + code_middle. */
struct affine_codes {
    lane_f inverse, code_middle;
    lane_f l, ll, tl;
};

LANE_INLINE struct affine_codes affine_codes_of(lane_f inverse, lane_f code_middle)
{
    lane_f zero = lane_set(0.0f);
    return (struct affine_codes){inverse, code_middle, zero, zero, zero};
}

LANE_INLINE void affine_count(struct affine_codes *codes, lane_f t, lane_f weight, lane_f top)
{
    lane_f l = affine_code(t * codes->inverse + codes->code_middle, top) - codes->code_middle;
    lane_f wl = weight * l;
    codes->l = codes->l + wl;
    codes->ll = codes->ll + wl * l;
    codes->tl = codes->tl + wl * t;
}

LANE_FN struct affine_fit affine_fit_of(const struct affine_codes *codes,
                                        const struct affine_trials *trials,
                                        struct affine_sums *sums, lane_f offset)
{
    sums->code_middle = codes->code_middle;
    sums->l = codes->l;
    sums->ll = codes->ll;
    sums->tl = codes->tl;
    return affine_solve(sums, trials->free_offset, offset);
}

LANE_FN struct affine_fit affine_try(const float *x, const float *w, size_t elem_count,
                                     const struct affine_trials *trials, struct affine_sums *sums,
                                     lane_f inverse, lane_f offset)
{
    lane_f top = lane_set(trials->code_max);
    lane_f value_middle = sums->value_middle;
    struct affine_codes codes = affine_codes_of(inverse, (value_middle - offset) * inverse);
    for (size_t i = 0; i < elem_count * LANES; i += LANES) {
        affine_count(&codes, lane_load(x + i) - value_middle, lane_load(w + i), top);
    }
    return affine_fit_of(&codes, trials, sums, offset);
}

/* Two offsets with the same distance of levels, side by side: their sums do not wait for each
 * other. */
LANE_FN void affine_try_pair(const float *x, const float *w, size_t elem_count,
                             const struct affine_trials *trials, struct affine_sums *sums,
                             lane_f inverse, const lane_f offset[2], struct affine_fit fit[2])
{
    lane_f top = lane_set(trials->code_max);
    lane_f value_middle = sums->value_middle;
    struct affine_codes first = affine_codes_of(inverse, (value_middle - offset[0]) * inverse);
    struct affine_codes second = affine_codes_of(inverse, (value_middle - offset[1]) * inverse);
    for (size_t i = 0; i < elem_count * LANES; i += LANES) {
        lane_f t = lane_load(x + i) - value_middle;
        lane_f weight = lane_load(w + i);
        affine_count(&first, t, weight, top);
        affine_count(&second, t, weight, top);
    }
    fit[0] = affine_fit_of(&first, trials, sums, offset[0]);
    fit[1] = affine_fit_of(&second, trials, sums, offset[1]);
}

LANE_FN void affine_keep(struct affine_fit *best, const struct affine_fit *fit)
{
    lane_m better = lane_less(fit->error, best->error);
    best->scale = lane_select(better, fit->scale, best->scale);
    best->offset = lane_select(better, fit->offset, best->offset);
    best->error = lane_select(better, fit->error, best->error);
}

LANE_FN struct affine_fit affine_search(const float *x, const float *w, size_t elem_count,
                                        const struct affine_trials *trials)
{
    lane_f zero = lane_set(0.0f);
    lane_f high = lane_load(x);
    lane_f low = high;
    if (!trials->free_offset) {
        low = lane_min(high, zero);
    }
    struct affine_sums sums = {.w = zero, .t = zero};
    lane_f sum_x = zero;
    for (size_t i = 0; i < elem_count * LANES; i += LANES) {
        lane_f value = lane_load(x + i);
        lane_f weight = lane_load(w + i);
        low = lane_min(low, value);
        high = lane_max(high, value);
        sums.w = sums.w + weight;
        sum_x = sum_x + weight * value;
    }
    sums.value_middle = sum_x / sums.w;
    for (size_t i = 0; i < elem_count * LANES; i += LANES) {
        /* Zero but for rounding. */
        sums.t = sums.t + lane_load(w + i) * (lane_load(x + i) - sums.value_middle);
    }
    lane_f range = high - low;
    lane_m flat = lane_less(range, lane_set(0x1p-60f));
    lane_f range_inverse =
        lane_select(flat, zero, lane_set(1.0f) / lane_max(range, lane_set(0x1p-60f)));
    /* To begin with everything is `low`. */
    lane_f middle = low - sums.value_middle;
    struct affine_fit best = {.scale = zero, .offset = low};
    best.error = middle * (middle * sums.w - lane_set(2.0f) * sums.t);
    for (size_t k = 0; k < trials->step_count; k++) {
        float span = trials->code_max + trials->first + trials->step * (float)k;
        lane_f inverse = lane_set(span) * range_inverse;
        /* Where the levels lie between the ends matters as much as their distance. */
        for (size_t j = 0; j < trials->phase_count; j += 2) {
            lane_f offset[2];
            struct affine_fit fit[2];
            for (size_t i = 0; i < 2; i++) {
                float phase = ((float)(j + i) + 0.5f) / (float)trials->phase_count - 0.5f;
                offset[i] = low - lane_set(phase / span) * range;
            }
            affine_try_pair(x, w, elem_count, trials, &sums, inverse, offset, fit);
            affine_keep(&best, &fit[0]);
            affine_keep(&best, &fit[1]);
        }
    }
    for (size_t k = 0; k < trials->repeat_count; k++) {
        lane_m usable = lane_less(lane_set(0x1p-80f), best.scale);
        lane_f inverse = lane_set(1.0f) / lane_select(usable, best.scale, lane_set(1.0f));
        inverse = lane_select(usable, inverse, zero);
        struct affine_fit fit = affine_try(x, w, elem_count, trials, &sums, inverse, best.offset);
        affine_keep(&best, &fit);
    }
    return best;
}

#endif
