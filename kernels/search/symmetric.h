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
    bool fp4;                   /* levels are doubled 4-bit floats; low and high are -12 and 12 */
};

struct symmetric_fit {
    lane_f scale;
    lane_f gain; /* how much of the weighted square sum the fit explains */
};

/* 1 / scale, or 0 where the scale is too small to divide by. */
LANE_FN lane_f symmetric_inverse(lane_f scale)
{
    lane_m usable = lane_less(lane_set(0x1p-80f), lane_abs(scale));
    return lane_select(usable, lane_set(1.0f) / lane_select(usable, scale, lane_set(1.0f)),
                       lane_set(0.0f));
}

/* The kinds of levels. Loops over elements are built once for each. SYMMETRIC_INSIDE are whole
 * numbers where no value lies beyond the ends. */
enum symmetric_levels { SYMMETRIC_WHOLE, SYMMETRIC_INSIDE, SYMMETRIC_FP4, SYMMETRIC_BOOK };

LANE_FN enum symmetric_levels symmetric_levels_of(const struct symmetric_range *range)
{
    return range->book != NULL ? SYMMETRIC_BOOK : range->fp4 ? SYMMETRIC_FP4 : SYMMETRIC_WHOLE;
}

/* The level nearest to `value`. */
LANE_INLINE lane_f symmetric_level(lane_f value, const struct symmetric_range *range,
                                   enum symmetric_levels levels)
{
    if (levels == SYMMETRIC_BOOK) {
        return lane_nearest(value, range->book);
    }
    if (levels == SYMMETRIC_INSIDE) {
        return lane_round(value);
    }
    lane_f inside = lane_max(lane_min(value, lane_set(range->high)), lane_set(range->low));
    return levels == SYMMETRIC_FP4 ? lane_round_fp4(inside) : lane_round(inside);
}

LANE_FN lane_f symmetric_code(lane_f value, const struct symmetric_range *range)
{
    return symmetric_level(value, range, symmetric_levels_of(range));
}

/* The codes of one problem in element order: levels minus the lowest, or their indices. `inverse`
 * is the symmetric_inverse of its scale. */
LANE_FN void symmetric_put_codes(const struct symmetric_range *range, float inverse,
                                 const float *row, float unit, size_t elem_count, uint8_t *codes)
{
    enum symmetric_levels levels = symmetric_levels_of(range);
    for (size_t i = 0; i < elem_count; i += LANES) {
        lane_f value = lane_load(row + i) * lane_set(unit) * lane_set(inverse);
        lane_f code;
        if (levels == SYMMETRIC_BOOK) {
            code = lane_nearest_index(value, range->book);
        } else if (levels == SYMMETRIC_FP4) {
            code = symmetric_level(value, range, SYMMETRIC_FP4) - lane_set(range->low);
        } else {
            code = symmetric_level(value, range, SYMMETRIC_WHOLE) - lane_set(range->low);
        }
        lane_store_bytes(codes + i, code);
    }
}

struct symmetric_sums {
    lane_f inverse, cross, square;
};

LANE_INLINE struct symmetric_sums symmetric_sums_of(lane_f inverse)
{
    return (struct symmetric_sums){inverse, lane_set(0.0f), lane_set(0x1p-100f)};
}

LANE_INLINE void symmetric_count(struct symmetric_sums *sums, lane_f value, lane_f weight,
                                 const struct symmetric_range *range, enum symmetric_levels levels)
{
    lane_f code = symmetric_level(value * sums->inverse, range, levels);
    lane_f weighted = weight * code;
    sums->cross = sums->cross + weighted * value;
    sums->square = sums->square + weighted * code;
}

LANE_FN struct symmetric_fit symmetric_fit_of(const struct symmetric_sums *sums)
{
    struct symmetric_fit fit = {.scale = sums->cross / sums->square};
    fit.gain = fit.scale * sums->cross;
    return fit;
}

LANE_INLINE void symmetric_sum(const float *x, const float *w, size_t elem_count,
                               struct symmetric_sums *sums, const struct symmetric_range *range,
                               enum symmetric_levels levels)
{
    struct symmetric_sums now = *sums;
    for (size_t i = 0; i < elem_count * LANES; i += LANES) {
        symmetric_count(&now, lane_load(x + i), lane_load(w + i), range, levels);
    }
    *sums = now;
}

/* The least-squares scale for the codes that 1 / inverse gives. */
LANE_FN struct symmetric_fit symmetric_try(const float *x, const float *w, size_t elem_count,
                                           lane_f inverse, const struct symmetric_range *range)
{
    struct symmetric_sums sums = symmetric_sums_of(inverse);
    enum symmetric_levels levels = symmetric_levels_of(range);
    if (levels == SYMMETRIC_WHOLE) {
        symmetric_sum(x, w, elem_count, &sums, range, SYMMETRIC_WHOLE);
    } else if (levels == SYMMETRIC_FP4) {
        symmetric_sum(x, w, elem_count, &sums, range, SYMMETRIC_FP4);
    } else {
        symmetric_sum(x, w, elem_count, &sums, range, SYMMETRIC_BOOK);
    }
    return symmetric_fit_of(&sums);
}

/* Trials that go through a problem side by side, so that their sums do not wait for each other;
 * with three the sums no longer fit the registers of AVX2. */
#define SYMMETRIC_PAIR 2
/* Scales whose errors are measured side by side. */
#define SYMMETRIC_ABREAST 3

LANE_INLINE void symmetric_sum_pair(const float *x, const float *w, size_t elem_count,
                                    struct symmetric_sums sums[SYMMETRIC_PAIR],
                                    const struct symmetric_range *range,
                                    enum symmetric_levels levels)
{
    struct symmetric_sums first = sums[0];
    struct symmetric_sums second = sums[1];
    for (size_t i = 0; i < elem_count * LANES; i += LANES) {
        lane_f value = lane_load(x + i);
        lane_f weight = lane_load(w + i);
        symmetric_count(&first, value, weight, range, levels);
        symmetric_count(&second, value, weight, range, levels);
    }
    sums[0] = first;
    sums[1] = second;
}

LANE_FN void symmetric_try_pair(const float *x, const float *w, size_t elem_count,
                                const lane_f inverse[SYMMETRIC_PAIR],
                                const struct symmetric_range *range,
                                struct symmetric_fit fit[SYMMETRIC_PAIR])
{
    struct symmetric_sums sums[SYMMETRIC_PAIR] = {symmetric_sums_of(inverse[0]),
                                                  symmetric_sums_of(inverse[1])};
    enum symmetric_levels levels = symmetric_levels_of(range);
    if (levels == SYMMETRIC_WHOLE) {
        symmetric_sum_pair(x, w, elem_count, sums, range, SYMMETRIC_WHOLE);
    } else if (levels == SYMMETRIC_FP4) {
        symmetric_sum_pair(x, w, elem_count, sums, range, SYMMETRIC_FP4);
    } else {
        symmetric_sum_pair(x, w, elem_count, sums, range, SYMMETRIC_BOOK);
    }
    fit[0] = symmetric_fit_of(&sums[0]);
    fit[1] = symmetric_fit_of(&sums[1]);
}

/* Takes `fit` where it is better by more than rounding: of equal ones the first stays. */
LANE_FN void symmetric_keep(struct symmetric_fit *best, const struct symmetric_fit *fit)
{
    lane_m better = lane_less(best->gain * lane_set(1.0f + 0x1p-20f), fit->gain);
    best->scale = lane_select(better, fit->scale, best->scale);
    best->gain = lane_select(better, fit->gain, best->gain);
}

/* Trials wait here until there are SYMMETRIC_PAIR of them. */
struct symmetric_queue {
    const float *x, *w;
    size_t elem_count;
    const struct symmetric_range *range;
    size_t count;
    lane_f inverse[SYMMETRIC_PAIR];
    struct symmetric_fit best;
};

LANE_FN struct symmetric_queue symmetric_queue_of(const float *x, const float *w, size_t elem_count,
                                                  const struct symmetric_range *range)
{
    struct symmetric_queue queue = {.x = x, .w = w, .elem_count = elem_count, .range = range};
    queue.best.scale = lane_set(0.0f);
    queue.best.gain = lane_set(0.0f);
    return queue;
}

/* Runs what waits. */
LANE_FN void symmetric_flush(struct symmetric_queue *queue)
{
    struct symmetric_fit fit[SYMMETRIC_PAIR];
    if (queue->count == SYMMETRIC_PAIR) {
        symmetric_try_pair(queue->x, queue->w, queue->elem_count, queue->inverse, queue->range,
                           fit);
    }
    for (size_t k = 0; k < queue->count; k++) {
        if (queue->count < SYMMETRIC_PAIR) {
            fit[k] = symmetric_try(queue->x, queue->w, queue->elem_count, queue->inverse[k],
                                   queue->range);
        }
        symmetric_keep(&queue->best, &fit[k]);
    }
    queue->count = 0;
}

LANE_FN void symmetric_add(struct symmetric_queue *queue, lane_f inverse)
{
    queue->inverse[queue->count++] = inverse;
    if (queue->count == SYMMETRIC_PAIR) {
        symmetric_flush(queue);
    }
}

/* Codes for the best scale so far, a new scale for those, and so on. */
LANE_FN struct symmetric_fit symmetric_repeat(struct symmetric_queue *queue)
{
    symmetric_flush(queue);
    for (size_t k = 0; k < queue->range->repeat_count; k++) {
        symmetric_add(queue, symmetric_inverse(queue->best.scale));
        symmetric_flush(queue);
    }
    return queue->best;
}

/* The problems of `tile` from `p` on. */
LANE_FN struct symmetric_fit symmetric_search(const struct tile *tile, size_t p,
                                              const struct symmetric_range *range)
{
    const float *x = tile->x + p * tile->elem_count;
    const float *w = tile->w + p * tile->elem_count;
    lane_f peak_inverse = symmetric_inverse(tile_peak(tile, p));
    struct symmetric_queue queue = symmetric_queue_of(x, w, tile->elem_count, range);
    /* The smallest scales first. A value that dwarfs all others is fitted alike by each code; the
     * largest code leaves the finest steps of d to other problems. */
    for (size_t k = range->step_count; k-- > 0;) {
        float beyond = range->first + range->step * (float)k;
        symmetric_add(&queue, lane_set(range->low - beyond) * peak_inverse);
        if (range->both_signs) {
            symmetric_add(&queue, lane_set(range->high + beyond) * peak_inverse);
        }
    }
    return symmetric_repeat(&queue);
}

/* As symmetric_search for ends that differ in the sign alone and trials that put the peak less than
 * half a level beyond them, SYMMETRIC_ABREAST of them side by side. */
LANE_FN struct symmetric_fit symmetric_search_inside(const struct tile *tile, size_t p,
                                                     const struct symmetric_range *range)
{
    const float *x = tile->x + p * tile->elem_count;
    const float *w = tile->w + p * tile->elem_count;
    lane_f peak_inverse = symmetric_inverse(tile_peak(tile, p));
    struct symmetric_fit best = {lane_set(0.0f), lane_set(0.0f)};
    for (size_t k = 0; k < range->step_count; k += SYMMETRIC_ABREAST) {
        struct symmetric_sums sums[SYMMETRIC_ABREAST];
        for (size_t j = 0; j < SYMMETRIC_ABREAST; j++) {
            float beyond = range->first + range->step * (float)(k + j);
            sums[j] = symmetric_sums_of(lane_set(range->high + beyond) * peak_inverse);
        }
        struct symmetric_sums first = sums[0];
        struct symmetric_sums second = sums[1];
        struct symmetric_sums third = sums[2];
        for (size_t i = 0; i < tile->elem_count * LANES; i += LANES) {
            lane_f value = lane_load(x + i);
            lane_f weight = lane_load(w + i);
            symmetric_count(&first, value, weight, range, SYMMETRIC_INSIDE);
            symmetric_count(&second, value, weight, range, SYMMETRIC_INSIDE);
            symmetric_count(&third, value, weight, range, SYMMETRIC_INSIDE);
        }
        struct symmetric_fit fit[SYMMETRIC_ABREAST] = {
            symmetric_fit_of(&first), symmetric_fit_of(&second), symmetric_fit_of(&third)};
        for (size_t j = 0; j < SYMMETRIC_ABREAST; j++) {
            symmetric_keep(&best, &fit[j]);
        }
    }
    return best;
}

/* A scale under trial: the true weighted squared error when every value takes the nearest code. */
struct symmetric_trial {
    lane_f scale, inverse, error;
};

LANE_INLINE struct symmetric_trial symmetric_trial_of(lane_f scale)
{
    return (struct symmetric_trial){scale, symmetric_inverse(scale), lane_set(0.0f)};
}

LANE_INLINE void symmetric_miss(struct symmetric_trial *trial, lane_f value, lane_f weight,
                                const struct symmetric_range *range, enum symmetric_levels levels)
{
    lane_f code = symmetric_level(value * trial->inverse, range, levels);
    lane_f residual = value - trial->scale * code;
    trial->error = trial->error + weight * residual * residual;
}

LANE_INLINE void symmetric_measure(const float *x, const float *w, size_t elem_count,
                                   struct symmetric_trial trials[SYMMETRIC_ABREAST],
                                   const struct symmetric_range *range,
                                   enum symmetric_levels levels)
{
    struct symmetric_trial first = trials[0];
    struct symmetric_trial second = trials[1];
    struct symmetric_trial third = trials[2];
    for (size_t i = 0; i < elem_count * LANES; i += LANES) {
        lane_f value = lane_load(x + i);
        lane_f weight = lane_load(w + i);
        symmetric_miss(&first, value, weight, range, levels);
        symmetric_miss(&second, value, weight, range, levels);
        symmetric_miss(&third, value, weight, range, levels);
    }
    trials[0] = first;
    trials[1] = second;
    trials[2] = third;
}

LANE_FN void symmetric_errors(const float *x, const float *w, size_t elem_count,
                              const lane_f scale[SYMMETRIC_ABREAST],
                              const struct symmetric_range *range, lane_f error[SYMMETRIC_ABREAST])
{
    struct symmetric_trial trials[SYMMETRIC_ABREAST];
    for (size_t k = 0; k < SYMMETRIC_ABREAST; k++) {
        trials[k] = symmetric_trial_of(scale[k]);
    }
    enum symmetric_levels levels = symmetric_levels_of(range);
    if (levels == SYMMETRIC_WHOLE) {
        symmetric_measure(x, w, elem_count, trials, range, SYMMETRIC_WHOLE);
    } else if (levels == SYMMETRIC_FP4) {
        symmetric_measure(x, w, elem_count, trials, range, SYMMETRIC_FP4);
    } else {
        symmetric_measure(x, w, elem_count, trials, range, SYMMETRIC_BOOK);
    }
    for (size_t k = 0; k < SYMMETRIC_ABREAST; k++) {
        error[k] = trials[k].error;
    }
}

/* The better of two scales of 4-bit floats by true error, the first where they are equal; also its
 * error. */
LANE_FN lane_f symmetric_better(const float *x, const float *w, size_t elem_count,
                                const lane_f scale[SYMMETRIC_PAIR],
                                const struct symmetric_range *range, lane_f *error)
{
    struct symmetric_trial first = symmetric_trial_of(scale[0]);
    struct symmetric_trial second = symmetric_trial_of(scale[1]);
    for (size_t i = 0; i < elem_count * LANES; i += LANES) {
        lane_f value = lane_load(x + i);
        lane_f weight = lane_load(w + i);
        symmetric_miss(&first, value, weight, range, SYMMETRIC_FP4);
        symmetric_miss(&second, value, weight, range, SYMMETRIC_FP4);
    }
    lane_m better = lane_less(second.error, first.error);
    *error = lane_select(better, second.error, first.error);
    return lane_select(better, scale[1], scale[0]);
}

/* The best scale of those by true error, the first of equal ones; also its error. */
LANE_FN lane_f symmetric_best(const float *x, const float *w, size_t elem_count,
                              const lane_f scale[SYMMETRIC_ABREAST],
                              const struct symmetric_range *range, lane_f *best_error)
{
    lane_f error[SYMMETRIC_ABREAST];
    symmetric_errors(x, w, elem_count, scale, range, error);
    lane_f best = scale[0];
    *best_error = error[0];
    for (size_t k = 1; k < SYMMETRIC_ABREAST; k++) {
        lane_m better = lane_less(error[k], *best_error);
        best = lane_select(better, scale[k], best);
        *best_error = lane_select(better, error[k], *best_error);
    }
    return best;
}

#endif
