/* The grid types: x ~ d (2 s + 1) (+-point), one half d per 256 values, a small integer s per 16 or
 * 32, a point of a grid per 4 or 8. Signs come first: they are those of the values, where the
 * format wants an even number of minus signs per eight the cheapest value is turned. Then, for
 * trial scales, each group of values takes the best of the points near its cell (tables/near.h) by
 * weighted error; the scale follows by least squares; then d, then the integers by trial with the
 * true error and d again. Included once per CPU level after the lanes. Thread rule: pure. */
#ifndef LQ_KERNELS_SEARCH_GRID_H
#define LQ_KERNELS_SEARCH_GRID_H

#include "kernels/search/stretch.h"
#include "kernels/search/super.h"
#include "kernels/search/symmetric.h"
#include "kernels/tables/near.h"

/* Pairs of candidates while the real scales are searched; a few nearest tell scales apart. */
#define GRID_START_PAIRS 2

/* What a turned value costs over w x grows with x: three times as much at the peak, where the
 * nearest level is far away. */
#define GRID_TURN_STEEP 2.0f

/* The point word of a group that is shifted down has this bit. */
#define GRID_SHIFT_DOWN 0x10000u

enum grid_signs { GRID_SIGNS_NONE, GRID_SIGNS_FREE, GRID_SIGNS_EVEN };
enum grid_shift { GRID_SHIFT_NONE, GRID_SHIFT_PROBLEM, GRID_SHIFT_GROUP };

struct grid_shape {
    size_t problem_count, elem_count; /* problems of a super-block */
    unsigned dims, digit_bits;        /* coordinates of a point, bits of each */
    float radix;
    float levels[8];
    float top;                        /* the largest level */
    float digit_base, digit_per_unit; /* digit = round((t - base) * per unit) */
    enum grid_signs signs;
    enum grid_shift shift; /* by 1/8, of a problem or of each group */
    float d_factor;        /* the stored d is this times d as above */
    float small_max;       /* of s */
    float first, step;     /* trials put the peak on top * (first + step * k) */
    size_t step_count, repeat_count;
    unsigned search_pairs, final_pairs; /* candidates, in pairs */
    int trial_reach, round_count;
    struct stretch_limits stretch;
};

/* Of a tile's super-blocks; the rest per problem. */
struct grid_fit {
    struct super_half d[TILE_SUPERS_MAX];
    float odd[TILE_PROBLEMS_MAX];   /* 2 s + 1 */
    float shift[TILE_PROBLEMS_MAX]; /* of a problem */
    float error[TILE_PROBLEMS_MAX];
};

struct grid_sums {
    lane_f cross, square;
};

/* Turns the value that has its bit in `which`, none for 0. */
LANE_FN void grid_turn(float *x, lane_f which)
{
    for (size_t k = 0; k < 8; k++) {
        lane_f gap = lane_abs(which - lane_set((float)(1 << k)));
        lane_m turn = lane_less(gap, lane_set(0.5f));
        lane_f value = lane_load(x + k * LANES);
        lane_store(x + k * LANES, lane_select(turn, lane_set(0.0f) - value, value));
    }
}

/* Turns values into targets for the points: magnitudes, or negative where the sign is not the
 * value's own; the minus signs of each eight go to `signs` as bits, indexed as in the row. */
LANE_FN void grid_take_signs(struct tile *tile, const struct grid_shape *shape, uint8_t *signs)
{
    size_t octets = shape->elem_count / 8;
    for (size_t p = 0; p < tile->problem_count; p += LANES) {
        lane_f peak = lane_abs(tile_peak(tile, p));
        lane_f steep = lane_set(GRID_TURN_STEEP) * symmetric_inverse(peak);
        for (size_t o = 0; o < octets; o++) {
            float *x = tile->x + p * shape->elem_count + o * 8 * LANES;
            const float *w = tile->w + p * shape->elem_count + o * 8 * LANES;
            lane_f zero = lane_set(0.0f);
            lane_f one = lane_set(1.0f);
            lane_f bits = zero;
            lane_f count = zero;
            lane_f cost_min = lane_set(0x1p100f);
            lane_f cheapest = zero; /* as a bit */
            for (size_t k = 0; k < 8; k++) {
                lane_f value = lane_load(x + k * LANES);
                lane_m minus = lane_less(value, zero);
                value = lane_abs(value);
                lane_f cost = lane_load(w + k * LANES) * value * (one + value * steep);
                lane_m cheaper = lane_less(cost, cost_min);
                cost_min = lane_select(cheaper, cost, cost_min);
                cheapest = lane_select(cheaper, lane_set((float)(1 << k)), cheapest);
                bits = bits + lane_select(minus, lane_set((float)(1 << k)), zero);
                count = count + lane_select(minus, one, zero);
                lane_store(x + k * LANES, value);
            }
            uint8_t turned[LANES] = {0};
            if (shape->signs == GRID_SIGNS_EVEN) {
                lane_f rest = count - lane_set(2.0f) * lane_round(count * lane_set(0.5f));
                lane_m odd = lane_less(lane_set(0.5f), lane_abs(rest));
                cheapest = lane_select(odd, cheapest, zero);
                grid_turn(x, cheapest);
                lane_store_bytes(turned, cheapest);
            }
            uint8_t bytes[LANES];
            lane_store_bytes(bytes, bits);
            for (size_t lane = 0; lane < LANES && p + lane < tile->problem_count; lane++) {
                signs[(p + lane) * octets + o] = (uint8_t)(bytes[lane] ^ turned[lane]);
            }
        }
    }
}

struct grid_choice {
    lane_i point;
    lane_f error; /* over scale^2 */
};

/* The best point for one group among the candidates of its cell. */
LANE_FN struct grid_choice grid_choose(const struct grid_shape *shape, const struct lq_near *near,
                                       unsigned pairs, const float *x, const float *w,
                                       lane_f inverse, lane_f shift)
{
    lane_f target[8];
    lane_f weight[8];
    lane_f cell = lane_set(0.0f);
    lane_f limit = lane_set(4.0f * shape->top);
    for (size_t k = shape->dims; k-- > 0;) {
        lane_f t = lane_load(x + k * LANES) * inverse;
        t = lane_max(lane_min(t, limit), lane_set(0.0f) - limit) - shift;
        lane_f digit = (t - lane_set(shape->digit_base)) * lane_set(shape->digit_per_unit);
        digit = lane_max(lane_min(digit, lane_set(shape->radix - 1.0f)), lane_set(0.0f));
        cell = cell * lane_set(shape->radix) + lane_round(digit);
        target[k] = t;
        weight[k] = lane_load(w + k * LANES);
    }
    lane_levels levels = lane_load_levels(shape->levels);
    lane_i at = lane_to_int(cell * lane_set((float)LQ_NEAR_PAIRS));
    struct grid_choice best = {.error = lane_set(INFINITY)};
    best.point = lane_and_int(at, 0);
    for (unsigned i = 0; i < pairs; i++) {
        lane_i pair = lane_gather(near->pairs + i, at);
        for (unsigned half = 0; half < 32; half += 16) {
            lane_f error = lane_set(0.0f);
            for (unsigned k = 0; k < shape->dims; k++) {
                lane_i digit = lane_shift_right(pair, half + k * shape->digit_bits);
                lane_f gap = lane_level(levels, digit) - target[k];
                error = error + weight[k] * gap * gap;
            }
            lane_m better = lane_less(error, best.error);
            best.error = lane_select(better, error, best.error);
            best.point = lane_select_int(better, lane_shift_right(pair, half), best.point);
        }
    }
    best.point = lane_and_int(best.point, 0xffffu);
    return best;
}

/* The point of one group, with its shift: either sign of it where groups have their own. */
LANE_FN lane_i grid_choose_shifted(const struct grid_shape *shape, const struct lq_near *near,
                                   unsigned pairs, const float *x, const float *w, lane_f inverse,
                                   lane_f *shift)
{
    if (shape->shift != GRID_SHIFT_GROUP) {
        return grid_choose(shape, near, pairs, x, w, inverse, *shift).point;
    }
    lane_f eighth = lane_set(0.125f);
    struct grid_choice up = grid_choose(shape, near, pairs, x, w, inverse, eighth);
    struct grid_choice down =
        grid_choose(shape, near, pairs, x, w, inverse, lane_set(0.0f) - eighth);
    lane_m better = lane_less(down.error, up.error);
    *shift = lane_select(better, lane_set(0.0f) - eighth, eighth);
    return lane_select_int(better, lane_or_int(down.point, GRID_SHIFT_DOWN), up.point);
}

/* Least-squares sums of a problem with the points that `inverse` gives. With `residual_scale` the
 * values are counted from what that scale decodes them to, and `error` gets the true error. The
 * points go to `points`, where that is not NULL. */
LANE_FN struct grid_sums grid_pass(const struct grid_shape *shape, const struct lq_near *near,
                                   unsigned pairs, const float *x, const float *w, lane_f inverse,
                                   lane_f shift, lane_f residual_scale, lane_f *error,
                                   uint32_t *points)
{
    struct grid_sums sums = {.cross = lane_set(0.0f), .square = lane_set(0x1p-100f)};
    lane_f total = lane_set(0.0f);
    lane_levels levels = lane_load_levels(shape->levels);
    for (size_t i = 0; i < shape->elem_count; i += shape->dims) {
        const float *group_x = x + i * LANES;
        const float *group_w = w + i * LANES;
        lane_f moved = shift;
        lane_i point = grid_choose_shifted(shape, near, pairs, group_x, group_w, inverse, &moved);
        for (unsigned k = 0; k < shape->dims; k++) {
            lane_f level = lane_level(levels, lane_shift_right(point, k * shape->digit_bits));
            level = level + moved;
            lane_f rest = lane_load(group_x + k * LANES) - residual_scale * level;
            lane_f weight = lane_load(group_w + k * LANES);
            lane_f weighted = weight * level;
            sums.cross = sums.cross + weighted * rest;
            sums.square = sums.square + weighted * level;
            total = total + weight * rest * rest;
        }
        if (points != NULL) {
            lane_store_int(points + i / shape->dims * LANES, point);
        }
    }
    *error = total;
    return sums;
}

/* A real scale of a problem. */
struct grid_real {
    lane_f scale, gain, shift;
};

/* Keeps the scale that the points of 1 / inverse lead to where it is better, in the lanes of
 * `where`, all of them for NULL. */
LANE_FN void grid_try(const struct grid_shape *shape, const struct lq_near *near, const float *x,
                      const float *w, lane_f inverse, const lane_m *where, struct grid_real *best)
{
    lane_f zero = lane_set(0.0f);
    lane_f shift = lane_set(shape->shift == GRID_SHIFT_PROBLEM ? 0.125f : 0.0f);
    for (int sign = 0; sign < (shape->shift == GRID_SHIFT_PROBLEM ? 2 : 1); sign++) {
        lane_f error;
        struct grid_sums sums =
            grid_pass(shape, near, GRID_START_PAIRS, x, w, inverse, shift, zero, &error, NULL);
        lane_f cross = lane_max(sums.cross, zero);
        lane_f scale = cross / sums.square;
        lane_f gain = scale * cross;
        lane_m better = lane_less(best->gain, gain);
        better = where == NULL ? better : lane_and(better, *where);
        best->scale = lane_select(better, scale, best->scale);
        best->gain = lane_select(better, gain, best->gain);
        best->shift = lane_select(better, shift, best->shift);
        shift = zero - shift;
    }
}

/* Scales that put the value with the largest weighted square on each of the levels: where one
 * weight dominates, no other value matters as much as how near that one comes to a level. */
LANE_FN void grid_try_heaviest(const struct grid_shape *shape, const struct lq_near *near,
                               const float *x, const float *w, lane_m where, struct grid_real *best)
{
    static const float shifted[3] = {0.125f, 0.875f, 1.125f};
    lane_f square = lane_set(0.0f);
    lane_f heaviest = lane_set(0.0f);
    for (size_t i = 0; i < shape->elem_count * LANES; i += LANES) {
        lane_f magnitude = lane_abs(lane_load(x + i));
        lane_f its_square = lane_load(w + i) * magnitude * magnitude;
        lane_m heavier = lane_less(square, its_square);
        square = lane_select(heavier, its_square, square);
        heaviest = lane_select(heavier, magnitude, heaviest);
    }
    lane_f inverse = symmetric_inverse(heaviest);
    const float *levels = shape->shift == GRID_SHIFT_NONE ? shape->levels : shifted;
    size_t level_count = shape->shift == GRID_SHIFT_NONE ? (size_t)shape->radix : 3;
    for (size_t k = 0; k < level_count; k++) {
        grid_try(shape, near, x, w, lane_set(levels[k]) * inverse, &where, best);
    }
}

LANE_FN struct grid_real grid_search(const struct grid_shape *shape, const struct lq_near *near,
                                     const struct tile *tile, size_t p)
{
    const float *x = tile->x + p * shape->elem_count;
    const float *w = tile->w + p * shape->elem_count;
    lane_f peak = lane_set(0.0f);
    for (size_t i = 0; i < shape->elem_count * LANES; i += LANES) {
        peak = lane_max(peak, lane_abs(lane_load(x + i)));
    }
    lane_f peak_inverse = symmetric_inverse(peak) * lane_set(shape->top);
    struct grid_real best = {lane_set(0.0f), lane_set(0.0f), lane_set(0.0f)};
    best.shift = lane_set(shape->shift == GRID_SHIFT_PROBLEM ? 0.125f : 0.0f);
    for (size_t k = 0; k < shape->step_count; k++) {
        float anchor = shape->first + shape->step * (float)k;
        grid_try(shape, near, x, w, lane_set(anchor) * peak_inverse, NULL, &best);
    }
    if (super_any_dominated(tile)) {
        grid_try_heaviest(shape, near, x, w, super_dominated_lanes(tile, p), &best);
    }
    for (size_t k = 0; k < shape->repeat_count; k++) {
        grid_try(shape, near, x, w, symmetric_inverse(best.scale), NULL, &best);
    }
    return best;
}

/* The odd number from 1 to 2 s_max + 1 nearest to `ratio`. */
LANE_FN lane_f grid_odd(lane_f ratio, float small_max)
{
    lane_f half = (ratio - lane_set(1.0f)) * lane_set(0.5f);
    half = lane_round(lane_max(lane_min(half, lane_set(small_max)), lane_set(0.0f)));
    return half + half + lane_set(1.0f);
}

#define GRID_STEPS 16

/* The step D that represents scales[p] ~ D * odd number best. */
LANE_FN float grid_step(const float *scales, const float *weights, size_t count, float small_max)
{
    float peak = 0.0f;
    for (size_t p = 0; p < count; p++) {
        peak = scales[p] > peak ? scales[p] : peak;
    }
    if (peak < 0x1p-80f) {
        return 0.0f;
    }
    float offsets[GRID_STEPS];
    float steps[GRID_STEPS];
    float gains[GRID_STEPS];
    float top = 2.0f * small_max + 1.0f;
    for (size_t k = 0; k < GRID_STEPS; k++) {
        offsets[k] = top * (1.1f - 0.04f * (float)k) / peak;
    }
    for (size_t k = 0; k < GRID_STEPS; k += LANES) {
        lane_f inverse = lane_load(offsets + k);
        lane_f cross = lane_set(0.0f);
        lane_f square = lane_set(0x1p-100f);
        for (size_t p = 0; p < count; p++) {
            lane_f scale = lane_set(scales[p]);
            lane_f odd = grid_odd(scale * inverse, small_max);
            lane_f weighted = lane_set(weights[p]) * odd;
            cross = cross + weighted * scale;
            square = square + weighted * odd;
        }
        lane_f step = cross / square;
        lane_store(steps + k, step);
        lane_store(gains + k, step * cross);
    }
    size_t best = 0;
    for (size_t k = 1; k < GRID_STEPS; k++) {
        best = gains[k] > gains[best] ? k : best;
    }
    return steps[best];
}

/* The stored half nearest to a d of the tile, and what it stands for there. */
LANE_FN struct super_half grid_half(const struct grid_shape *shape, float d, float unit)
{
    struct super_half half = super_half_of(d * shape->d_factor, unit);
    half.value = half.value / shape->d_factor;
    return half;
}

LANE_FN void grid_start(const struct tile *tile, const struct grid_shape *shape,
                        const struct lq_near *near, struct grid_fit *fit)
{
    float weight[TILE_PROBLEMS_MAX];
    for (size_t p = 0; p < tile->problem_count; p += LANES) {
        struct grid_real real = grid_search(shape, near, tile, p);
        lane_store(fit->odd + p, real.scale);
        lane_store(fit->shift + p, real.shift);
        lane_f square = lane_max(real.scale * real.scale, lane_set(0x1p-100f));
        lane_store(weight + p, real.gain / square);
    }
    size_t count = shape->problem_count;
    for (size_t s = 0; s * count < tile->problem_count; s++) {
        float step = grid_step(fit->odd + s * count, weight + s * count, count, shape->small_max);
        fit->d[s] = grid_half(shape, step, tile->scale.unit[s * count]);
    }
    for (size_t p = 0; p < tile->problem_count; p += LANES) {
        lane_f inverse = symmetric_inverse(super_lanes(tile, p, fit->d));
        lane_store(fit->odd + p, grid_odd(lane_load(fit->odd + p) * inverse, shape->small_max));
    }
}

/* One trial of the integers; returns by `moves` how d would be refitted. */
struct grid_moves {
    lane_f cross, square;
};

/* What grid_trials walks with. */
struct grid_walk {
    lane_f start, d, shift;
    lane_f best, error;
};

/* Tries the integer k / 2 away from the start, odd k above and even k below. */
LANE_FN void grid_trial(const struct tile *tile, const struct grid_shape *shape,
                        const struct lq_near *near, size_t p, int k, struct grid_walk *walk,
                        struct grid_moves *moves)
{
    const float *x = tile->x + p * shape->elem_count;
    const float *w = tile->w + p * shape->elem_count;
    float delta = (float)(k % 2 == 1 ? k / 2 + 1 : -(k / 2));
    lane_f odd =
        lane_min(walk->start + lane_set(2.0f * delta), lane_set(2.0f * shape->small_max + 1.0f));
    odd = lane_max(odd, lane_set(1.0f));
    lane_f scale = walk->d * odd;
    lane_f error;
    struct grid_sums sums = grid_pass(shape, near, shape->search_pairs, x, w,
                                      symmetric_inverse(scale), walk->shift, scale, &error, NULL);
    lane_m better = lane_less(error, walk->error);
    walk->best = lane_select(better, odd, walk->best);
    walk->error = lane_select(better, error, walk->error);
    moves->cross = lane_select(better, sums.cross * odd, moves->cross);
    moves->square = lane_select(better, sums.square * odd * odd, moves->square);
}

LANE_FN void grid_trials(const struct tile *tile, const struct grid_shape *shape,
                         const struct lq_near *near, struct grid_fit *fit, size_t p,
                         struct grid_moves *moves)
{
    lane_f start = lane_load(fit->odd + p);
    struct grid_walk walk = {.start = start, .d = super_lanes(tile, p, fit->d), .best = start};
    walk.shift = lane_load(fit->shift + p);
    walk.error = lane_set(INFINITY);
    for (int k = 0; k <= 2 * shape->trial_reach; k++) {
        grid_trial(tile, shape, near, p, k, &walk, moves);
    }
    lane_store(fit->odd + p, walk.best);
    lane_store(fit->error + p, walk.error);
}

/* Integers for the present d; `moves` gets how far each d should move, by least squares over the
 * residuals. */
LANE_FN void grid_round(const struct tile *tile, const struct grid_shape *shape,
                        const struct lq_near *near, struct grid_fit *fit,
                        float moves[TILE_SUPERS_MAX])
{
    float crosses[TILE_PROBLEMS_MAX];
    float squares[TILE_PROBLEMS_MAX];
    for (size_t p = 0; p < tile->problem_count; p += LANES) {
        struct grid_moves lanes = {lane_set(0.0f), lane_set(0.0f)};
        grid_trials(tile, shape, near, fit, p, &lanes);
        lane_store(crosses + p, lanes.cross);
        lane_store(squares + p, lanes.square);
    }
    for (size_t s = 0; s * shape->problem_count < tile->problem_count; s++) {
        float cross = 0.0f;
        float square = 0.0f;
        for (size_t p = s * shape->problem_count; p < (s + 1) * shape->problem_count; p++) {
            cross += crosses[p];
            square += squares[p];
        }
        moves[s] = square > 0x1p-80f ? cross / square : 0.0f;
    }
}

LANE_FN float grid_total(const struct grid_fit *fit, size_t first, size_t count)
{
    float total = 0.0f;
    for (size_t p = first; p < first + count; p++) {
        total += fit->error[p];
    }
    return total;
}

/* Takes over each super-block that became better. */
LANE_FN void grid_keep(const struct tile *tile, const struct grid_shape *shape,
                       struct grid_fit *best, const struct grid_fit *fit)
{
    size_t count = shape->problem_count;
    for (size_t s = 0; s * count < tile->problem_count; s++) {
        if (grid_total(fit, s * count, count) < grid_total(best, s * count, count)) {
            best->d[s] = fit->d[s];
            for (size_t p = s * count; p < (s + 1) * count; p++) {
                best->odd[p] = fit->odd[p];
                best->shift[p] = fit->shift[p];
                best->error[p] = fit->error[p];
            }
        }
    }
}

LANE_FN struct grid_fit grid_fit_scales(const struct tile *tile, const struct grid_shape *shape,
                                        const struct lq_near *near)
{
    struct grid_fit fit = {.odd = {0.0f}};
    float moves[TILE_SUPERS_MAX];
    grid_start(tile, shape, near, &fit);
    grid_round(tile, shape, near, &fit, moves);
    struct grid_fit best = fit;
    for (int round = 0; round < shape->round_count; round++) {
        for (size_t s = 0; s * shape->problem_count < tile->problem_count; s++) {
            fit.d[s] = grid_half(shape, fit.d[s].value + moves[s],
                                 tile->scale.unit[s * shape->problem_count]);
        }
        grid_round(tile, shape, near, &fit, moves);
        grid_keep(tile, shape, &best, &fit);
    }
    return best;
}

/* d by least squares over the residuals of all problems of a super-block, and their errors with
 * it. */
LANE_FN void grid_refit(const struct grid_shape *shape, struct grid_fit *fit, size_t super,
                        float unit, const float *crosses, const float *squares)
{
    size_t first = super * shape->problem_count;
    float cross = 0.0f;
    float square = 0.0f;
    for (size_t p = first; p < first + shape->problem_count; p++) {
        cross += crosses[p];
        square += squares[p];
    }
    if (square > 0x1p-80f) {
        struct super_half d = grid_half(shape, fit->d[super].value + cross / square, unit);
        float move = d.value - fit->d[super].value;
        for (size_t p = first; d.value > 0.0f && p < first + shape->problem_count; p++) {
            fit->error[p] += move * (move * squares[p] - 2.0f * crosses[p]);
        }
        fit->d[super] = d.value > 0.0f ? d : fit->d[super];
    }
}

/* The points in the order of the row; then d once more, by least squares for these points, and the
 * errors. */
LANE_FN void grid_put_points(const struct tile *tile, const struct grid_shape *shape,
                             const struct lq_near *near, struct grid_fit *fit, uint32_t *points)
{
    size_t groups = shape->elem_count / shape->dims;
    float crosses[TILE_PROBLEMS_MAX];
    float squares[TILE_PROBLEMS_MAX];
    for (size_t p = 0; p < tile->problem_count; p += LANES) {
        size_t at = p * shape->elem_count;
        uint32_t found[8 * LANES];
        lane_f odd = lane_load(fit->odd + p);
        lane_f scale = super_lanes(tile, p, fit->d) * odd;
        lane_f error;
        struct grid_sums sums =
            grid_pass(shape, near, shape->final_pairs, tile->x + at, tile->w + at,
                      symmetric_inverse(scale), lane_load(fit->shift + p), scale, &error, found);
        lane_store(fit->error + p, error);
        lane_store(crosses + p, sums.cross * odd);
        lane_store(squares + p, sums.square * odd * odd);
        for (size_t lane = 0; lane < LANES && p + lane < tile->problem_count; lane++) {
            for (size_t g = 0; g < groups; g++) {
                points[(p + lane) * groups + g] = found[g * LANES + lane];
            }
        }
    }
    for (size_t s = 0; s * shape->problem_count < tile->problem_count; s++) {
        grid_refit(shape, fit, s, tile->scale.unit[s * shape->problem_count], crosses, squares);
    }
}

/* Position in the grid of a point. */
LANE_FN unsigned grid_index(const struct grid_shape *shape, const struct lq_near *near,
                            uint32_t point)
{
    unsigned cell = 0;
    for (unsigned k = shape->dims; k-- > 0;) {
        unsigned digit = point >> (k * shape->digit_bits) & ((1u << shape->digit_bits) - 1);
        cell = cell * (unsigned)shape->radix + digit;
    }
    return near->index[cell];
}

/* Everything of one super-block that a format stores. */
struct grid_block {
    uint16_t d_bits;
    uint8_t small[16];   /* s, per problem */
    uint8_t down[16];    /* shift, per problem */
    uint32_t points[64]; /* per group: position in the grid, and GRID_SHIFT_DOWN */
    uint8_t signs[32];   /* per eight values */
};

/* The next super-blocks of a row, as many as fill the lanes: `left` of them follow. Returns how
 * many there are in `blocks`, which has TILE_SUPERS_MAX. */
LANE_FN size_t grid_encode(const struct grid_shape *shape, const struct lq_near *near,
                           const float *row, const float *importance, size_t left,
                           struct grid_block *blocks)
{
    struct tile tile;
    size_t super_count = tile_super_count(shape->problem_count, left);
    tile.problem_count = shape->problem_count * super_count;
    tile.elem_count = shape->elem_count;
    tile.group_size = shape->problem_count;
    tile_load(&tile, row, importance);
    uint8_t signs[32 * TILE_SUPERS_MAX];
    if (shape->signs != GRID_SIGNS_NONE) {
        grid_take_signs(&tile, shape, signs);
    }
    struct grid_fit fit = grid_fit_scales(&tile, shape, near);
    uint32_t points[64 * TILE_SUPERS_MAX];
    grid_put_points(&tile, shape, near, &fit, points);
    float factors[TILE_SUPERS_MAX];
    stretch_tile(&tile, fit.error, shape->stretch, factors);
    for (size_t s = 0; s < super_count; s++) {
        struct grid_block *block = &blocks[s];
        size_t first = s * shape->problem_count;
        block->d_bits = fit.d[s].bits;
        if (stretch_applies(block->d_bits)) {
            block->d_bits =
                grid_half(shape, fit.d[s].value * factors[s], tile.scale.unit[first]).bits;
        }
        for (size_t p = 0; p < shape->problem_count; p++) {
            block->small[p] = (uint8_t)((int)fit.odd[first + p] / 2);
            block->down[p] = fit.shift[first + p] < 0.0f;
        }
        for (size_t g = 0; g < 256 / shape->dims; g++) {
            uint32_t point = points[s * (256 / shape->dims) + g];
            block->points[g] = grid_index(shape, near, point & 0xffffu) | (point & GRID_SHIFT_DOWN);
        }
        if (shape->signs != GRID_SIGNS_NONE) {
            memcpy(block->signs, signs + 32 * s, 32);
        }
    }
    return super_count;
}

#endif
