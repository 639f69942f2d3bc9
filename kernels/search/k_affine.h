/* Q2_K, Q4_K, Q5_K: x ~ d * scale * code - dmin * min, with one half d and dmin per 256 values and
 * small integers scale and min per problem. Real fits first (affine.h), then d and dmin, then the
 * integers by trial: each trial re-quantizes every value and measures the true error. Last d and
 * dmin again by least squares. Included once per CPU level after the lanes. Thread rule: pure. */
#ifndef LQ_KERNELS_SEARCH_K_AFFINE_H
#define LQ_KERNELS_SEARCH_K_AFFINE_H

#include "kernels/search/affine.h"
#include "kernels/search/stretch.h"
#include "kernels/search/super.h"

struct k_affine_shape {
    size_t problem_count; /* of a super-block */
    size_t elem_count;
    float small_max; /* largest integer scale and min */
    struct affine_trials trials;
    int min_reach; /* integer mins tried on either side */
    struct stretch_limits stretch;
};

/* The parameters of a tile's super-blocks; scales, mins and errors per problem. */
struct k_affine {
    struct super_half d[TILE_SUPERS_MAX], dmin[TILE_SUPERS_MAX];
    float scale[TILE_PROBLEMS_MAX]; /* integers in floats */
    float min[TILE_PROBLEMS_MAX];
    float error[TILE_PROBLEMS_MAX];
    float weight[TILE_PROBLEMS_MAX]; /* sum of the weights */
};

/* Sums that the refit of d and dmin needs. */
struct k_affine_normal {
    float ss[TILE_PROBLEMS_MAX], sm[TILE_PROBLEMS_MAX], mm[TILE_PROBLEMS_MAX];
    float xs[TILE_PROBLEMS_MAX], xm[TILE_PROBLEMS_MAX];
};

/* What k_affine_trials walks with: the present best of each lane. */
struct k_affine_best {
    lane_f d, dmin; /* of the lane's super-block */
    lane_f scale, min, error;
};

/* Trials of the integers `start_scale` and its neighbours with `start_min`: codes for each, then
 * the min that suits those codes, and the true error with it. */
LANE_FN void k_affine_trial(const struct tile *tile, const struct k_affine_shape *shape, size_t p,
                            lane_f sum_w, lane_f start_scale, lane_f start_min,
                            struct k_affine_best *best)
{
    const float *x = tile->x + p * shape->elem_count;
    const float *w = tile->w + p * shape->elem_count;
    lane_f dmin = best->dmin;
    lane_f zero = lane_set(0.0f);
    lane_f small_max = lane_set(shape->small_max);
    static const float deltas[AFFINE_ABREAST] = {0.0f, -1.0f, 1.0f};
    struct affine_misses misses[AFFINE_ABREAST];
    lane_f small[AFFINE_ABREAST];
    for (size_t k = 0; k < AFFINE_ABREAST; k++) {
        small[k] = lane_max(lane_min(start_scale + lane_set(deltas[k]), small_max), zero);
        misses[k] = affine_misses_of(best->d * small[k]);
    }
    affine_miss_abreast(x, w, shape->elem_count, zero - dmin * start_min, shape->trials.code_max,
                        misses);
    lane_m has_min = lane_less(lane_set(0x1p-80f), dmin);
    lane_f limit = lane_set(64.0f);
    lane_f curvature = sum_w * lane_select(has_min, dmin, lane_set(1.0f));
    for (size_t k = 0; k < AFFINE_ABREAST; k++) {
        /* With these codes the error is a parabola in the min. */
        lane_f sum_r = misses[k].r;
        lane_f move = zero - sum_r / curvature;
        move = lane_round(lane_max(lane_min(move, limit), zero - limit));
        move = lane_select(has_min, move, zero);
        lane_f new_min = lane_max(lane_min(start_min + move, small_max), zero);
        lane_f shift = (new_min - start_min) * dmin;
        lane_f error = misses[k].rr + shift * (sum_r + sum_r + shift * sum_w);
        lane_m better = lane_less(error, best->error);
        best->scale = lane_select(better, small[k], best->scale);
        best->min = lane_select(better, new_min, best->min);
        best->error = lane_select(better, error, best->error);
    }
}

/* Tries the integers next to the present ones. */
LANE_FN void k_affine_trials(const struct tile *tile, const struct k_affine_shape *shape,
                             struct k_affine *fit, size_t p)
{
    lane_f zero = lane_set(0.0f);
    lane_f small_max = lane_set(shape->small_max);
    lane_f start_scale = lane_load(fit->scale + p);
    lane_f start_min = lane_load(fit->min + p);
    lane_f sum_w = lane_load(fit->weight + p);
    struct k_affine_best best = {super_lanes(tile, p, fit->d), super_lanes(tile, p, fit->dmin),
                                 start_scale, start_min, lane_set(0x1p100f)};
    k_affine_trial(tile, shape, p, sum_w, start_scale, start_min, &best);
    for (int step = -shape->min_reach; step <= shape->min_reach; step++) {
        lane_f min = lane_max(lane_min(start_min + lane_set((float)step), small_max), zero);
        if (step != 0) {
            k_affine_trial(tile, shape, p, sum_w, start_scale, min, &best);
        }
    }
    lane_store(fit->scale + p, best.scale);
    lane_store(fit->min + p, best.min);
    lane_store(fit->error + p, best.error);
}

/* The error and the sums for the refit, with the codes of the present integers. */
LANE_FN void k_affine_measure(const struct tile *tile, const struct k_affine_shape *shape,
                              struct k_affine *fit, struct k_affine_normal *normal, size_t p)
{
    const float *x = tile->x + p * shape->elem_count;
    const float *w = tile->w + p * shape->elem_count;
    lane_f zero = lane_set(0.0f);
    lane_f top = lane_set(shape->trials.code_max);
    lane_f small_scale = lane_load(fit->scale + p);
    lane_f small_min = lane_load(fit->min + p);
    lane_f scale = super_lanes(tile, p, fit->d) * small_scale;
    lane_f min = super_lanes(tile, p, fit->dmin) * small_min;
    lane_f inverse = affine_inverse(scale);
    lane_f sum_l = zero, sum_ll = zero, sum_r = zero, sum_rl = zero, sum_rr = zero;
    for (size_t i = 0; i < shape->elem_count * LANES; i += LANES) {
        lane_f weight = lane_load(w + i);
        lane_f shifted = lane_load(x + i) + min;
        lane_f code = affine_code(shifted * inverse, top);
        lane_f residual = shifted - scale * code;
        lane_f weighted = weight * residual;
        lane_f weighted_code = weight * code;
        sum_l = sum_l + weighted_code;
        sum_ll = sum_ll + weighted_code * code;
        sum_r = sum_r + weighted;
        sum_rl = sum_rl + weighted * code;
        sum_rr = sum_rr + weighted * residual;
    }
    lane_store(fit->error + p, sum_rr);
    lane_store(normal->ss + p, small_scale * small_scale * sum_ll);
    lane_store(normal->sm + p, zero - small_scale * small_min * sum_l);
    lane_store(normal->mm + p, small_min * small_min * lane_load(fit->weight + p));
    lane_store(normal->xs + p, small_scale * sum_rl);
    lane_store(normal->xm + p, zero - small_min * sum_r);
}

/* d and dmin of super-block `super` by least squares on the residuals of the present codes. */
LANE_FN void k_affine_refit(const struct k_affine_shape *shape,
                            const struct k_affine_normal *normal, struct k_affine *fit,
                            size_t super, float unit)
{
    float ss = 0.0f, sm = 0.0f, mm = 0.0f, xs = 0.0f, xm = 0.0f;
    size_t first = super * shape->problem_count;
    for (size_t p = first; p < first + shape->problem_count; p++) {
        ss += normal->ss[p];
        sm += normal->sm[p];
        mm += normal->mm[p];
        xs += normal->xs[p];
        xm += normal->xm[p];
    }
    float det = ss * mm - sm * sm;
    float d_move = 0.0f;
    float dmin_move = 0.0f;
    if (det > 0x1p-18f * ss * mm) {
        d_move = (mm * xs - sm * xm) / det;
        dmin_move = (ss * xm - sm * xs) / det;
    } else if (ss > 0x1p-80f) {
        d_move = xs / ss;
    }
    float d = fit->d[super].value + d_move;
    float dmin = fit->dmin[super].value + dmin_move;
    if (d > 0.0f && dmin >= 0.0f) {
        fit->d[super] = super_half_of(d, unit);
        fit->dmin[super] = super_half_of(dmin, unit);
    }
}

LANE_FN void k_affine_start(const struct tile *tile, const struct k_affine_shape *shape,
                            struct k_affine *fit)
{
    for (size_t p = 0; p < tile->problem_count; p += LANES) {
        struct affine_fit real = affine_search(tile, p, &shape->trials);
        lane_store(fit->scale + p, real.scale);
        lane_store(fit->min + p, lane_set(0.0f) - real.offset);
        lane_store(fit->weight + p, real.weight);
    }
    size_t count = shape->problem_count;
    float d_inverse[TILE_SUPERS_MAX] = {0.0f};
    float dmin_inverse[TILE_SUPERS_MAX] = {0.0f};
    for (size_t s = 0; s * count < tile->problem_count; s++) {
        const float *weights = fit->weight + s * count;
        float d = super_step(fit->scale + s * count, weights, count, 0.0f, shape->small_max);
        float dmin = super_step(fit->min + s * count, weights, count, 0.0f, shape->small_max);
        fit->d[s] = super_half_of(d, tile->scale.unit[s * count]);
        fit->dmin[s] = super_half_of(dmin, tile->scale.unit[s * count]);
        d_inverse[s] = fit->d[s].value > 0.0f ? 1.0f / fit->d[s].value : 0.0f;
        dmin_inverse[s] = fit->dmin[s].value > 0.0f ? 1.0f / fit->dmin[s].value : 0.0f;
    }
    for (size_t p = 0; p < tile->problem_count; p += LANES) {
        lane_f top = lane_set(shape->small_max);
        lane_f scale = lane_load(fit->scale + p) * tile_super_lanes(tile, p, d_inverse);
        lane_f min = lane_load(fit->min + p) * tile_super_lanes(tile, p, dmin_inverse);
        lane_store(fit->scale + p, affine_code(scale, top));
        lane_store(fit->min + p, affine_code(min, top));
    }
}

LANE_FN struct k_affine k_affine_search(const struct tile *tile, const struct k_affine_shape *shape)
{
    struct k_affine fit = {.scale = {0.0f}};
    struct k_affine_normal normal;
    size_t count = shape->problem_count;
    k_affine_start(tile, shape, &fit);
    for (size_t p = 0; p < tile->problem_count; p += LANES) {
        k_affine_trials(tile, shape, &fit, p);
        k_affine_measure(tile, shape, &fit, &normal, p);
    }
    for (size_t s = 0; s * count < tile->problem_count; s++) {
        k_affine_refit(shape, &normal, &fit, s, tile->scale.unit[s * count]);
    }
    return fit;
}

/* The codes of all problems in element order. */
LANE_FN void k_affine_codes(const struct tile *tile, const struct k_affine_shape *shape,
                            const struct k_affine *fit, const float *row, uint8_t *codes)
{
    for (size_t p = 0; p < tile->problem_count; p++) {
        float scale = fit->d[p / shape->problem_count].value * fit->scale[p];
        float min = fit->dmin[p / shape->problem_count].value * fit->min[p];
        float inverse = scale > 0x1p-80f ? 1.0f / scale : 0.0f;
        for (size_t i = p * shape->elem_count; i < (p + 1) * shape->elem_count; i += LANES) {
            lane_f value = lane_load(row + i) * lane_set(tile->scale.unit[p]) + lane_set(min);
            lane_store_bytes(codes + i, affine_code(value * lane_set(inverse),
                                                    lane_set(shape->trials.code_max)));
        }
    }
}

#endif
