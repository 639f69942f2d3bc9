/* Few levels: scales of x ~ d * code with codes -1..1 (the ternary types) or -1..2 (Q2_0), by
 * weighted least squares. With so few levels a trial needs no rounding: a value counts when its
 * magnitude is above half of d, and doubly when it is above 3/2 of d on the side of the code 2.
 * Included once per CPU level after the lanes.
 * Thread rule: pure. */
#ifndef LQ_KERNELS_SEARCH_COARSE_H
#define LQ_KERNELS_SEARCH_COARSE_H

#include "kernels/search/small.h"

/* The weighted mean magnitude of LANES problems. */
LANE_FN lane_f coarse_mean(const float *x, const float *w, size_t elem_count)
{
    lane_f sum = lane_set(0.0f);
    lane_f sum_w = lane_set(0.0f);
    for (size_t i = 0; i < elem_count * LANES; i += LANES) {
        lane_f weight = lane_load(w + i);
        sum = sum + weight * lane_abs(lane_load(x + i));
        sum_w = sum_w + weight;
    }
    return sum / sum_w;
}

/* Codes -1, 0, 1: the sums over the values above `threshold`. */
struct coarse_sums {
    lane_f threshold, cross, square;
};

LANE_INLINE struct coarse_sums coarse_sums_of(lane_f threshold)
{
    return (struct coarse_sums){threshold, lane_set(0.0f), lane_set(0x1p-100f)};
}

LANE_INLINE void coarse_count(struct coarse_sums *sums, lane_f magnitude, lane_f weight,
                              lane_f weighted)
{
    lane_m counts = lane_less(sums->threshold, magnitude);
    sums->cross = sums->cross + lane_keep(counts, weighted);
    sums->square = sums->square + lane_keep(counts, weight);
}

#define COARSE_ABREAST 3

/* Thresholds `middle` times each of `factors`; the best fit, or what was there. */
LANE_FN void coarse_try(const float *x, const float *w, size_t elem_count, lane_f middle,
                        const float factors[COARSE_ABREAST], struct symmetric_fit *best)
{
    struct coarse_sums first = coarse_sums_of(middle * lane_set(factors[0]));
    struct coarse_sums second = coarse_sums_of(middle * lane_set(factors[1]));
    struct coarse_sums third = coarse_sums_of(middle * lane_set(factors[2]));
    for (size_t i = 0; i < elem_count * LANES; i += LANES) {
        lane_f magnitude = lane_abs(lane_load(x + i));
        lane_f weight = lane_load(w + i);
        lane_f weighted = weight * magnitude;
        coarse_count(&first, magnitude, weight, weighted);
        coarse_count(&second, magnitude, weight, weighted);
        coarse_count(&third, magnitude, weight, weighted);
    }
    const struct coarse_sums *all[COARSE_ABREAST] = {&first, &second, &third};
    for (size_t k = 0; k < COARSE_ABREAST; k++) {
        struct symmetric_sums sums = {lane_set(0.0f), all[k]->cross, all[k]->square};
        struct symmetric_fit fit = symmetric_fit_of(&sums);
        symmetric_keep(best, &fit);
    }
}

/* Codes -1, 0, 1. */
LANE_FN void small_ternary_search(struct small_batch *batch, const struct small_type *type)
{
    static const float wide[2][COARSE_ABREAST] = {{0.45f, 0.8f, 1.3f}, {2.1f, 3.6f, 6.4f}};
    static const float near[COARSE_ABREAST] = {0.5f, 0.44f, 0.57f};
    for (size_t p = 0; p < batch->tile.problem_count; p += LANES) {
        const float *x = batch->tile.x + p * type->elem_count;
        const float *w = batch->tile.w + p * type->elem_count;
        lane_f mean = coarse_mean(x, w, type->elem_count);
        struct symmetric_fit best = {lane_set(0.0f), lane_set(0.0f)};
        for (size_t k = 0; k < 2; k++) {
            coarse_try(x, w, type->elem_count, mean, wide[k], &best);
        }
        coarse_try(x, w, type->elem_count, best.scale, near, &best);
        small_keep_half(batch, type, p, &best);
    }
    small_symmetric_codes(batch, type);
}

/* Codes -1, 0, 1, 2 with d of either sign: of `size`, the magnitude of d. */
LANE_FN void coarse_try_signs(const float *x, const float *w, size_t elem_count, lane_f size,
                              struct symmetric_fit *best)
{
    lane_f zero = lane_set(0.0f);
    struct coarse_sums single = coarse_sums_of(size * lane_set(0.5f));
    struct coarse_sums up = {size * lane_set(1.5f), zero, zero};
    struct coarse_sums down = {zero - up.threshold, zero, zero};
    for (size_t i = 0; i < elem_count * LANES; i += LANES) {
        lane_f value = lane_load(x + i);
        lane_f weight = lane_load(w + i);
        lane_f magnitude = lane_abs(value);
        lane_f weighted = weight * magnitude;
        coarse_count(&single, magnitude, weight, weighted);
        coarse_count(&up, value, weight, weighted);
        lane_m below = lane_less(value, down.threshold);
        down.cross = down.cross + lane_keep(below, weighted);
        down.square = down.square + lane_keep(below, weight);
    }
    /* Those that count doubly: 2 of the cross sum, 4 of the square. */
    lane_f three = lane_set(3.0f);
    struct symmetric_sums plus = {zero, single.cross + up.cross, single.square + three * up.square};
    struct symmetric_sums minus = {zero, zero - (single.cross + down.cross),
                                   single.square + three * down.square};
    struct symmetric_fit fit = symmetric_fit_of(&plus);
    symmetric_keep(best, &fit);
    fit = symmetric_fit_of(&minus);
    symmetric_keep(best, &fit);
}

/* Codes -1, 0, 1, 2: a size from the mean, which suits most values, and two from the peak, where
 * the code 2 (or a value beyond it) lies. Sizes from both are worth more than many from either. */
LANE_FN void small_two_bit_search(struct small_batch *batch, const struct small_type *type)
{
    for (size_t p = 0; p < batch->tile.problem_count; p += LANES) {
        const float *x = batch->tile.x + p * type->elem_count;
        const float *w = batch->tile.w + p * type->elem_count;
        lane_f peak = lane_abs(tile_peak(&batch->tile, p));
        lane_f mean = coarse_mean(x, w, type->elem_count);
        lane_f sizes[3] = {mean * lane_set(1.2f), peak * lane_set(0.31f), peak * lane_set(0.43f)};
        struct symmetric_fit best = {lane_set(0.0f), lane_set(0.0f)};
        for (size_t k = 0; k < 3; k++) {
            coarse_try_signs(x, w, type->elem_count, sizes[k], &best);
        }
        small_keep_half(batch, type, p, &best);
    }
    small_symmetric_codes(batch, type);
}

#endif
