/* Scale and offset of x ~ scale * code + offset with codes 0..code_max, minimising the weighted
 * squared error; the offset is free or at most 0. Included once per CPU level after the lanes.
 * Thread rule: pure. */
#ifndef LQ_KERNELS_SEARCH_AFFINE_H
#define LQ_KERNELS_SEARCH_AFFINE_H

#include <stdbool.h>

#include "kernels/search/tile.h"

#define AFFINE_ELEMS_MAX 32 /* of a problem */

/* Weighted sums over the elements of a problem. Values and codes are counted from their weighted
 * middle: then a single dominating weight does not drown the others in rounding. */
struct affine_sums {
    lane_f w, l, ll, t, tl;
    lane_f code_middle, value_middle;
};

struct affine_fit {
    lane_f scale, offset;
    lane_f error;  /* without the constant part */
    lane_f weight; /* sum of the weights */
};

/* Two trials: the range of values is put on code_max + beyond levels, and its lower end by either
 * of `at` beside the lowest level. */
struct affine_place {
    float beyond, at[2];
};

/* The places that a greedy search over 735 was left with: ends that are clamped, low (at < -1/2) or
 * high, are worth more than finer steps between. The narrowest levels come first:
 * where several fit alike (a lone outlier), the smallest scale leaves most to its neighbours. */
LQ_DEVICE_TABLE static const struct affine_place affine_places[] = {
    {1.125f, {-0.8125f, -0.3125f}}, {1.0f, {-0.375f, 0.125f}},      {0.5f, {-0.75f, -0.25f}},
    {0.5f, {-0.3125f, 0.1875f}},    {0.25f, {-0.4375f, 0.0625f}},   {0.0f, {-0.125f, 0.125f}},
    {-0.5f, {-0.25f, 0.25f}},       {-0.875f, {-0.1875f, 0.0625f}}, {-1.75f, {-0.25f, 0.0f}},
};

#define AFFINE_PLACE_COUNT (sizeof affine_places / sizeof affine_places[0])

struct affine_trials {
    float code_max;
    bool free_offset;    /* else the offset is at most 0 */
    size_t repeat_count; /* codes and fit again from the best so far */
};

/* 1 / scale, or 0 where the scale is too small to divide by; scales are not negative. */
LANE_FN lane_f affine_inverse(lane_f scale)
{
    lane_m usable = lane_less(lane_set(0x1p-80f), scale);
    return lane_select(usable, lane_set(1.0f) / lane_select(usable, scale, lane_set(1.0f)),
                       lane_set(0.0f));
}

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
    lane_m allowed = free_offset ? regular : lane_and(regular, lane_less(new_offset, zero));
    if (!lane_all(allowed)) {
        /* With the offset given only the scale is free. */
        if (!free_offset) {
            offset = lane_select(regular, zero, offset);
        }
        lane_f target = s->value_middle - offset;
        lane_f ll = s->ll + s->code_middle * (s->l + s->l + s->code_middle * s->w);
        lane_f tl = s->tl + s->code_middle * s->t + target * (s->l + s->code_middle * s->w);
        lane_m has_codes = lane_less(zero, ll);
        lane_f bound_scale = lane_max(tl / lane_select(has_codes, ll, one), zero);
        scale = lane_select(allowed, scale, bound_scale);
        middle = lane_select(allowed, middle, bound_scale * s->code_middle - target);
        new_offset = lane_select(allowed, new_offset, offset);
    }
    struct affine_fit fit = {.scale = lane_max(scale, zero), .offset = new_offset};
    scale = fit.scale;
    lane_f two = lane_set(2.0f);
    fit.error = scale * (scale * s->ll - two * s->tl) +
                middle * (middle * s->w - two * s->t + two * scale * s->l);
    return fit;
}

/* One way to number the values. A code is round(t * inverse + rest) + code_middle with t the
 * value and code_middle the whole code at the weighted middle: counting codes from a whole one
 * costs nothing. */
struct affine_codes {
    lane_f code_middle, rest;
    lane_f l, ll, tl;
};

/* `middle` is the code at the weighted middle, not rounded. */
LANE_INLINE struct affine_codes affine_codes_of(lane_f middle)
{
    lane_f zero = lane_set(0.0f);
    lane_f whole = lane_round(middle);
    return (struct affine_codes){whole, middle - whole, zero, zero, zero};
}

LANE_INLINE void affine_count(struct affine_codes *codes, lane_f l, lane_f t, lane_f weight)
{
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

/* `t` are the values minus their weighted middle. */
LANE_FN struct affine_fit affine_try(const float *t, const float *w, size_t elem_count,
                                     const struct affine_trials *trials, struct affine_sums *sums,
                                     lane_f inverse, lane_f offset)
{
    struct affine_codes codes = affine_codes_of((sums->value_middle - offset) * inverse);
    lane_f bottom = lane_set(0.0f) - codes.code_middle;
    lane_f top = lane_set(trials->code_max) - codes.code_middle;
    for (size_t i = 0; i < elem_count * LANES; i += LANES) {
        lane_f value = lane_load(t + i);
        lane_f l = lane_max(lane_min(value * inverse + codes.rest, top), bottom);
        affine_count(&codes, lane_round(l), value, lane_load(w + i));
    }
    return affine_fit_of(&codes, trials, sums, offset);
}

/* Two numberings with the same distance of levels, side by side: their sums do not wait for each
 * other. `top` is the largest t * inverse of any code. */
LANE_FN void affine_try_pair(const float *t, const float *w, size_t elem_count, lane_f inverse,
                             lane_f bottom, lane_f top, struct affine_codes pair[2])
{
    struct affine_codes first = pair[0];
    struct affine_codes second = pair[1];
    for (size_t i = 0; i < elem_count * LANES; i += LANES) {
        lane_f value = lane_load(t + i);
        lane_f weight = lane_load(w + i);
        lane_f level = lane_max(lane_min(value * inverse, top), bottom);
        affine_count(&first, lane_round(level + first.rest), value, weight);
        affine_count(&second, lane_round(level + second.rest), value, weight);
    }
    pair[0] = first;
    pair[1] = second;
}

LANE_FN void affine_keep(struct affine_fit *best, const struct affine_fit *fit)
{
    lane_m better = lane_less(fit->error, best->error);
    best->scale = lane_select(better, fit->scale, best->scale);
    best->offset = lane_select(better, fit->offset, best->offset);
    best->error = lane_select(better, fit->error, best->error);
}

/* What the trials of a problem share. */
struct affine_problem {
    struct affine_sums sums;
    lane_f low, range, range_inverse;
    float t[AFFINE_ELEMS_MAX * LANES]; /* the values minus their weighted middle */
};

LANE_FN void affine_prepare(struct affine_problem *problem, const struct tile *tile, size_t p,
                            bool free_offset)
{
    const float *x = tile->x + p * tile->elem_count;
    const float *w = tile->w + p * tile->elem_count;
    size_t elem_count = tile->elem_count;
    lane_f zero = lane_set(0.0f);
    lane_f sum_w = zero, sum_x = zero, sum_t = zero;
    for (size_t i = 0; i < elem_count * LANES; i += LANES) {
        lane_f weight = lane_load(w + i);
        sum_w = sum_w + weight;
        sum_x = sum_x + weight * lane_load(x + i);
    }
    lane_f middle = sum_x / sum_w;
    for (size_t i = 0; i < elem_count * LANES; i += LANES) {
        lane_f t = lane_load(x + i) - middle;
        lane_store(problem->t + i, t);
        /* Zero but for rounding. */
        sum_t = sum_t + lane_load(w + i) * t;
    }
    problem->sums = (struct affine_sums){.w = sum_w, .t = sum_t, .value_middle = middle};
    lane_f low = lane_load(tile->scale.low + p);
    low = free_offset ? low : lane_min(low, zero);
    lane_f range = lane_load(tile->scale.high + p) - low;
    lane_m flat = lane_less(range, lane_set(0x1p-60f));
    lane_f range_inverse = lane_set(1.0f) / lane_max(range, lane_set(0x1p-60f));
    problem->low = low;
    problem->range = range;
    problem->range_inverse = lane_select(flat, zero, range_inverse);
}

/* How far a code may lie from the end it is clamped to: less than half a level, so that it is
 * rounded there, in both trials of a place. */
#define AFFINE_CLAMP 0.49f

LANE_FN void affine_try_all(struct affine_problem *problem, const float *w, size_t elem_count,
                            const struct affine_trials *trials, struct affine_fit *best)
{
    for (size_t k = 0; k < AFFINE_PLACE_COUNT; k++) {
        const struct affine_place *place = &affine_places[k];
        float span = trials->code_max + place->beyond;
        lane_f inverse = lane_set(span) * problem->range_inverse;
        lane_f middle = (problem->sums.value_middle - problem->low) * inverse;
        lane_f bottom = lane_set(-AFFINE_CLAMP - place->at[0]) - middle;
        lane_f top = lane_set(trials->code_max + AFFINE_CLAMP - place->at[1]) - middle;
        struct affine_codes codes[2];
        for (size_t i = 0; i < 2; i++) {
            codes[i] = affine_codes_of(middle + lane_set(place->at[i]));
        }
        affine_try_pair(problem->t, w, elem_count, inverse, bottom, top, codes);
        for (size_t i = 0; i < 2; i++) {
            lane_f offset = problem->low - lane_set(place->at[i] / span) * problem->range;
            struct affine_fit fit = affine_fit_of(&codes[i], trials, &problem->sums, offset);
            affine_keep(best, &fit);
        }
    }
}

/* The problems of `tile` from `p` on. */
LANE_FN struct affine_fit affine_search(const struct tile *tile, size_t p,
                                        const struct affine_trials *trials)
{
    const float *w = tile->w + p * tile->elem_count;
    size_t elem_count = tile->elem_count;
    struct affine_problem problem;
    affine_prepare(&problem, tile, p, trials->free_offset);
    struct affine_sums *sums = &problem.sums;
    /* To begin with everything is the lowest value. */
    lane_f middle = problem.low - sums->value_middle;
    struct affine_fit best = {.scale = lane_set(0.0f), .offset = problem.low, .weight = sums->w};
    best.error = middle * (middle * sums->w - lane_set(2.0f) * sums->t);
    affine_try_all(&problem, w, elem_count, trials, &best);
    for (size_t k = 0; k < trials->repeat_count; k++) {
        lane_f inverse = affine_inverse(best.scale);
        struct affine_fit fit =
            affine_try(problem.t, w, elem_count, trials, sums, inverse, best.offset);
        affine_keep(&best, &fit);
    }
    return best;
}

/* A scale under trial: with one offset given, the sums of the residuals of the nearest codes. */
struct affine_misses {
    lane_f scale, inverse;
    lane_f r, rr;
};

LANE_INLINE struct affine_misses affine_misses_of(lane_f scale)
{
    return (struct affine_misses){scale, affine_inverse(scale), lane_set(0.0f), lane_set(0.0f)};
}

LANE_INLINE void affine_miss(struct affine_misses *misses, lane_f shifted, lane_f weight,
                             lane_f top)
{
    lane_f residual = shifted - misses->scale * affine_code(shifted * misses->inverse, top);
    lane_f weighted = weight * residual;
    misses->r = misses->r + weighted;
    misses->rr = misses->rr + weighted * residual;
}

#define AFFINE_ABREAST 3

LANE_FN void affine_miss_abreast(const float *x, const float *w, size_t elem_count, lane_f offset,
                                 float code_max, struct affine_misses misses[AFFINE_ABREAST])
{
    struct affine_misses first = misses[0];
    struct affine_misses second = misses[1];
    struct affine_misses third = misses[2];
    lane_f top = lane_set(code_max);
    for (size_t i = 0; i < elem_count * LANES; i += LANES) {
        lane_f shifted = lane_load(x + i) - offset;
        lane_f weight = lane_load(w + i);
        affine_miss(&first, shifted, weight, top);
        affine_miss(&second, shifted, weight, top);
        affine_miss(&third, shifted, weight, top);
    }
    misses[0] = first;
    misses[1] = second;
    misses[2] = third;
}

#endif
