/* Q3_K, Q6_K, IQ4_XS: x ~ d * scale * code with one half d per 256 values and a small signed
 * integer scale per 16 or 32. Real scales first (symmetric.h), then d, then the integers by trial
 * with the true error, then d again by least squares. Included once per CPU level after the lanes.
 * Thread rule: pure. */
#ifndef LQ_KERNELS_SEARCH_K_SYMMETRIC_H
#define LQ_KERNELS_SEARCH_K_SYMMETRIC_H

#include "kernels/search/stretch.h"
#include "kernels/search/super.h"
#include "kernels/search/symmetric.h"

struct k_symmetric_shape {
    size_t problem_count; /* of a super-block */
    size_t elem_count;
    struct symmetric_range codes;
    float small_low, small_high; /* range of the integer scales */
    struct stretch_limits stretch;
};

/* Of a tile's super-blocks; scales and errors per problem. */
struct k_symmetric {
    struct super_half d[TILE_SUPERS_MAX];
    float scale[TILE_PROBLEMS_MAX]; /* integers in floats */
    float error[TILE_PROBLEMS_MAX];
};

/* How far integers are tried where one weight dominates. */
#define K_SYMMETRIC_REACH 8

/* The integers nearest to real scales. */
LANE_FN lane_f k_symmetric_small(const struct tile *tile, const struct k_symmetric_shape *shape,
                                 size_t p, lane_f scale, const struct super_half *d)
{
    lane_f small = scale * symmetric_inverse(super_lanes(tile, p, d));
    return lane_round(
        lane_max(lane_min(small, lane_set(shape->small_high)), lane_set(shape->small_low)));
}

/* Chooses d by the true error of every step with the nearest integers, in super-blocks that one
 * weight dominates. fit->scale are real scales. */
LANE_FN void k_symmetric_choose(const struct tile *tile, const struct k_symmetric_shape *shape,
                                const struct super_steps *steps, struct k_symmetric *fit)
{
    size_t count = shape->problem_count;
    float best[TILE_SUPERS_MAX];
    for (size_t k = 0; k < SUPER_TRIALS; k += SYMMETRIC_ABREAST) {
        struct super_half d[SYMMETRIC_ABREAST][TILE_SUPERS_MAX];
        float errors[SYMMETRIC_ABREAST][TILE_PROBLEMS_MAX];
        for (size_t s = 0; s * count < tile->problem_count; s++) {
            for (size_t j = 0; j < SYMMETRIC_ABREAST; j++) {
                size_t at = k + j < SUPER_TRIALS ? k + j : SUPER_TRIALS - 1;
                d[j][s] = super_half_of(steps[s].step[at], tile->scale.unit[s * count]);
            }
        }
        for (size_t p = 0; p < tile->problem_count; p += LANES) {
            lane_f scales[SYMMETRIC_ABREAST];
            lane_f error[SYMMETRIC_ABREAST];
            for (size_t j = 0; j < SYMMETRIC_ABREAST; j++) {
                lane_f real = lane_load(fit->scale + p);
                scales[j] =
                    super_lanes(tile, p, d[j]) * k_symmetric_small(tile, shape, p, real, d[j]);
            }
            symmetric_errors(tile->x + p * shape->elem_count, tile->w + p * shape->elem_count,
                             shape->elem_count, scales, &shape->codes, error);
            for (size_t j = 0; j < SYMMETRIC_ABREAST; j++) {
                lane_store(errors[j] + p, error[j]);
            }
        }
        for (size_t s = 0; s * count < tile->problem_count; s++) {
            for (size_t j = 0; tile->dominated[s] && j < SYMMETRIC_ABREAST; j++) {
                float error = 0.0f;
                for (size_t p = s * count; p < (s + 1) * count; p++) {
                    error += errors[j][p];
                }
                if (k + j == 0 || error < best[s]) {
                    best[s] = error;
                    fit->d[s] = d[j][s];
                }
            }
        }
    }
}

LANE_FN void k_symmetric_start(const struct tile *tile, const struct k_symmetric_shape *shape,
                               struct k_symmetric *fit)
{
    float weight[TILE_PROBLEMS_MAX];
    for (size_t p = 0; p < tile->problem_count; p += LANES) {
        struct symmetric_fit real = symmetric_search(tile, p, &shape->codes);
        lane_f scale = real.scale;
        lane_store(fit->scale + p, scale);
        /* The gain is scale^2 * sum w code^2, so this is the curvature of the error. */
        lane_f square = lane_max(scale * scale, lane_set(0x1p-100f));
        lane_store(weight + p, real.gain / square);
    }
    size_t count = shape->problem_count;
    struct super_steps steps[TILE_SUPERS_MAX];
    for (size_t s = 0; s * count < tile->problem_count; s++) {
        super_find_steps(fit->scale + s * count, weight + s * count, count, shape->small_low,
                         shape->small_high, &steps[s]);
        fit->d[s] = super_half_of(super_best_step(&steps[s]), tile->scale.unit[s * count]);
    }
    if (super_any_dominated(tile)) {
        k_symmetric_choose(tile, shape, steps, fit);
    }
    for (size_t p = 0; p < tile->problem_count; p += LANES) {
        lane_f scale = lane_load(fit->scale + p);
        lane_store(fit->scale + p, k_symmetric_small(tile, shape, p, scale, fit->d));
    }
}

/* Tries the integers `reach` away from the present ones on either side, in the lanes of `where`. */
LANE_FN void k_symmetric_trials(const struct tile *tile, const struct k_symmetric_shape *shape,
                                struct k_symmetric *fit, size_t p, lane_f start, lane_f reach,
                                const lane_m *where)
{
    const float *x = tile->x + p * shape->elem_count;
    const float *w = tile->w + p * shape->elem_count;
    lane_f d = super_lanes(tile, p, fit->d);
    lane_f low = lane_set(shape->small_low);
    lane_f high = lane_set(shape->small_high);
    lane_f best = lane_load(fit->scale + p);
    lane_f below = lane_max(lane_min(start - reach, high), low);
    lane_f above = lane_max(lane_min(start + reach, high), low);
    lane_f scales[SYMMETRIC_ABREAST] = {d * best, d * below, d * above};
    lane_f error[SYMMETRIC_ABREAST];
    symmetric_errors(x, w, shape->elem_count, scales, &shape->codes, error);
    lane_m better = lane_less(error[1], error[0]);
    better = where == NULL ? better : lane_and(better, *where);
    best = lane_select(better, below, best);
    lane_f best_error = lane_select(better, error[1], error[0]);
    better = lane_less(error[2], best_error);
    better = where == NULL ? better : lane_and(better, *where);
    best = lane_select(better, above, best);
    best_error = lane_select(better, error[2], best_error);
    lane_store(fit->scale + p, best);
    lane_store(fit->error + p, best_error);
}

/* How far each d should move: least squares over the residuals of the present codes. */
LANE_FN void k_symmetric_move(const struct tile *tile, const struct k_symmetric_shape *shape,
                              const struct k_symmetric *fit, float moves[TILE_SUPERS_MAX])
{
    float cross_of[TILE_PROBLEMS_MAX];
    float square_of[TILE_PROBLEMS_MAX];
    for (size_t p = 0; p < tile->problem_count; p += LANES) {
        const float *x = tile->x + p * shape->elem_count;
        const float *w = tile->w + p * shape->elem_count;
        lane_f small = lane_load(fit->scale + p);
        lane_f scale = super_lanes(tile, p, fit->d) * small;
        lane_f inverse = symmetric_inverse(scale);
        lane_f cross = lane_set(0.0f);
        lane_f square = lane_set(0.0f);
        for (size_t i = 0; i < shape->elem_count * LANES; i += LANES) {
            lane_f value = lane_load(x + i);
            lane_f code = symmetric_code(value * inverse, &shape->codes);
            lane_f weighted = lane_load(w + i) * code;
            cross = cross + weighted * (value - scale * code);
            square = square + weighted * code;
        }
        lane_store(cross_of + p, small * cross);
        lane_store(square_of + p, small * small * square);
    }
    for (size_t s = 0; s * shape->problem_count < tile->problem_count; s++) {
        float cross = 0.0f;
        float square = 0.0f;
        for (size_t p = s * shape->problem_count; p < (s + 1) * shape->problem_count; p++) {
            cross += cross_of[p];
            square += square_of[p];
        }
        moves[s] = square > 0x1p-80f ? cross / square : 0.0f;
    }
}

LANE_FN struct k_symmetric k_symmetric_search(const struct tile *tile,
                                              const struct k_symmetric_shape *shape)
{
    struct k_symmetric fit = {.scale = {0.0f}};
    k_symmetric_start(tile, shape, &fit);
    for (size_t p = 0; p < tile->problem_count; p += LANES) {
        lane_f start = lane_load(fit.scale + p);
        k_symmetric_trials(tile, shape, &fit, p, start, lane_set(1.0f), NULL);
        if (super_any_dominated(tile)) {
            lane_m where = super_dominated_lanes(tile, p);
            lane_f step = lane_max(lane_round(lane_abs(start) * lane_set(0x1p-4f)), lane_set(1.0f));
            for (int reach = 1; reach <= K_SYMMETRIC_REACH; reach++) {
                k_symmetric_trials(tile, shape, &fit, p, start, step * lane_set((float)reach),
                                   &where);
            }
        }
    }
    float moves[TILE_SUPERS_MAX];
    k_symmetric_move(tile, shape, &fit, moves);
    for (size_t s = 0; s * shape->problem_count < tile->problem_count; s++) {
        float unit = tile->scale.unit[s * shape->problem_count];
        fit.d[s] = super_half_of(fit.d[s].value + moves[s], unit);
    }
    return fit;
}

/* Codes minus their lowest, or their indices, in element order. */
LANE_FN void k_symmetric_codes(const struct tile *tile, const struct k_symmetric_shape *shape,
                               const struct k_symmetric *fit, const float *row, uint8_t *codes)
{
    float inverse[TILE_PROBLEMS_MAX];
    for (size_t p = 0; p < tile->problem_count; p += LANES) {
        lane_f scale = super_lanes(tile, p, fit->d) * lane_load(fit->scale + p);
        lane_store(inverse + p, symmetric_inverse(scale));
    }
    for (size_t p = 0; p < tile->problem_count; p++) {
        size_t at = p * shape->elem_count;
        symmetric_put_codes(&shape->codes, inverse[p], row + at, tile->scale.unit[p],
                            shape->elem_count, codes + at);
    }
}

#endif
