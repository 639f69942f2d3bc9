/* Q3_K, Q6_K: x ~ d * scale * code with one half d per 256 values and a small signed integer scale
 * per 16. Real scales first (symmetric.h), then d, then the integers by trial with the true error,
 * then d again by least squares. Included once per CPU level after the lanes. Thread rule: pure. */
#ifndef LQ_KERNELS_SEARCH_K_SYMMETRIC_H
#define LQ_KERNELS_SEARCH_K_SYMMETRIC_H

#include "kernels/search/super.h"
#include "kernels/search/symmetric.h"

#define K_SYMMETRIC_PROBLEMS 16
#define K_SYMMETRIC_ELEMS 16

struct k_symmetric_shape {
    struct symmetric_range codes;
    float small_low, small_high; /* range of the integer scales */
    int trial_reach;             /* integers tried on either side */
    int round_count;             /* refits of d */
    float spread;                /* of tile_load's weights */
};

struct k_symmetric {
    struct super_half d;
    float scale[K_SYMMETRIC_PROBLEMS]; /* integers in floats */
    float error[K_SYMMETRIC_PROBLEMS];
};

static inline void k_symmetric_start(const struct tile *tile, const struct k_symmetric_shape *shape,
                                     struct k_symmetric *fit)
{
    float weight[K_SYMMETRIC_PROBLEMS];
    for (size_t p = 0; p < K_SYMMETRIC_PROBLEMS; p += LANES) {
        const float *x = tile->x + p * K_SYMMETRIC_ELEMS;
        const float *w = tile->w + p * K_SYMMETRIC_ELEMS;
        struct symmetric_fit real = symmetric_search(x, w, K_SYMMETRIC_ELEMS, &shape->codes);
        lane_f scale = real.scale;
        lane_store(fit->scale + p, scale);
        /* The gain is scale^2 * sum w code^2, so this is the curvature of the error. */
        lane_f square = lane_max(scale * scale, lane_set(0x1p-100f));
        lane_store(weight + p, real.gain / square);
    }
    float step =
        super_step(fit->scale, weight, K_SYMMETRIC_PROBLEMS, shape->small_low, shape->small_high);
    fit->d = super_half_of(step, tile->unit[0]);
    for (size_t p = 0; p < K_SYMMETRIC_PROBLEMS; p += LANES) {
        lane_f inverse = symmetric_inverse(lane_set(fit->d.value));
        lane_store(fit->scale + p,
                   symmetric_code(lane_load(fit->scale + p) * inverse, lane_set(shape->small_low),
                                  lane_set(shape->small_high)));
    }
}

static inline void k_symmetric_trials(const struct tile *tile,
                                      const struct k_symmetric_shape *shape,
                                      struct k_symmetric *fit, size_t p)
{
    const float *x = tile->x + p * K_SYMMETRIC_ELEMS;
    const float *w = tile->w + p * K_SYMMETRIC_ELEMS;
    lane_f low = lane_set(shape->codes.low);
    lane_f high = lane_set(shape->codes.high);
    lane_f d = lane_set(fit->d.value);
    lane_f start = lane_load(fit->scale + p);
    lane_f best = start;
    lane_f best_error = symmetric_error(x, w, K_SYMMETRIC_ELEMS, d * start, low, high);
    for (int delta = -shape->trial_reach; delta <= shape->trial_reach; delta++) {
        if (delta == 0) {
            continue;
        }
        lane_f small = lane_min(start + lane_set((float)delta), lane_set(shape->small_high));
        small = lane_max(small, lane_set(shape->small_low));
        lane_f error = symmetric_error(x, w, K_SYMMETRIC_ELEMS, d * small, low, high);
        lane_m better = lane_less(error, best_error);
        best = lane_select(better, small, best);
        best_error = lane_select(better, error, best_error);
    }
    lane_store(fit->scale + p, best);
    lane_store(fit->error + p, best_error);
}

/* How far d should move: least squares over the residuals of the present codes. */
static inline float k_symmetric_move(const struct tile *tile, const struct k_symmetric_shape *shape,
                                     const struct k_symmetric *fit)
{
    float cross_of[K_SYMMETRIC_PROBLEMS];
    float square_of[K_SYMMETRIC_PROBLEMS];
    for (size_t p = 0; p < K_SYMMETRIC_PROBLEMS; p += LANES) {
        const float *x = tile->x + p * K_SYMMETRIC_ELEMS;
        const float *w = tile->w + p * K_SYMMETRIC_ELEMS;
        lane_f small = lane_load(fit->scale + p);
        lane_f scale = lane_set(fit->d.value) * small;
        lane_f inverse = symmetric_inverse(scale);
        lane_f cross = lane_set(0.0f);
        lane_f square = lane_set(0.0f);
        for (size_t i = 0; i < K_SYMMETRIC_ELEMS * LANES; i += LANES) {
            lane_f value = lane_load(x + i);
            lane_f code = symmetric_code(value * inverse, lane_set(shape->codes.low),
                                         lane_set(shape->codes.high));
            lane_f weighted = lane_load(w + i) * code;
            cross = cross + weighted * (value - scale * code);
            square = square + weighted * code;
        }
        lane_store(cross_of + p, small * cross);
        lane_store(square_of + p, small * small * square);
    }
    float cross = 0.0f;
    float square = 0.0f;
    for (size_t p = 0; p < K_SYMMETRIC_PROBLEMS; p++) {
        cross += cross_of[p];
        square += square_of[p];
    }
    return square > 0x1p-80f ? cross / square : 0.0f;
}

static inline float k_symmetric_total(const struct k_symmetric *fit)
{
    float total = 0.0f;
    for (size_t p = 0; p < K_SYMMETRIC_PROBLEMS; p++) {
        total += fit->error[p];
    }
    return total;
}

static inline struct k_symmetric k_symmetric_search(const struct tile *tile,
                                                    const struct k_symmetric_shape *shape)
{
    struct k_symmetric fit;
    k_symmetric_start(tile, shape, &fit);
    for (size_t p = 0; p < K_SYMMETRIC_PROBLEMS; p += LANES) {
        k_symmetric_trials(tile, shape, &fit, p);
    }
    struct k_symmetric best = fit;
    for (int round = 0; round < shape->round_count; round++) {
        float move = k_symmetric_move(tile, shape, &fit);
        fit.d = super_half_of(fit.d.value + move, tile->unit[0]);
        for (size_t p = 0; p < K_SYMMETRIC_PROBLEMS; p += LANES) {
            k_symmetric_trials(tile, shape, &fit, p);
        }
        if (k_symmetric_total(&fit) < k_symmetric_total(&best)) {
            best = fit;
        }
    }
    return best;
}

/* Codes minus their lowest, in element order. */
static inline void k_symmetric_codes(const struct k_symmetric_shape *shape,
                                     const struct k_symmetric *fit, const float *row, float unit,
                                     uint8_t *codes)
{
    for (size_t p = 0; p < K_SYMMETRIC_PROBLEMS; p++) {
        lane_f inverse = symmetric_inverse(lane_set(fit->d.value * fit->scale[p]));
        for (size_t i = p * K_SYMMETRIC_ELEMS; i < (p + 1) * K_SYMMETRIC_ELEMS; i += LANES) {
            lane_f value = lane_load(row + i) * lane_set(unit);
            float out[LANES];
            lane_store(out, symmetric_code(value * inverse, lane_set(shape->codes.low),
                                           lane_set(shape->codes.high)) -
                                lane_set(shape->codes.low));
            for (size_t k = 0; k < LANES; k++) {
                codes[i + k] = (uint8_t)out[k];
            }
        }
    }
}

#endif
