/* A tile: the problems of one or two super-blocks (or of several small blocks) laid out for lanes,
 * scaled to a safe range. Element i of problem p lies at x[(p / LANES * elems + i) * LANES + p %
 * LANES]. Values are scaled by a power of two per group of problems so that the largest magnitude
 * is in [1, 2) (up to 4 beyond 2^127), weights likewise: squares then neither overflow nor vanish,
 * whatever the input. Included once per CPU level after the lanes. Thread rule: pure. */
#ifndef LQ_KERNELS_SEARCH_TILE_H
#define LQ_KERNELS_SEARCH_TILE_H

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "kernels/lanes.h"

#define TILE_ELEMS_MAX (256 * LANES)
#define TILE_PROBLEMS_MAX 16
#define TILE_SUPERS_MAX 2 /* super-blocks in a tile */

/* A power of two for each problem, and the ends of its values times that. */
struct tile_scale {
    float unit[TILE_PROBLEMS_MAX];
    float low[TILE_PROBLEMS_MAX], high[TILE_PROBLEMS_MAX];
};

struct tile {
    size_t problem_count; /* a multiple of LANES, or 8: the other lanes then idle on zeros */
    size_t elem_count;    /* per problem, a multiple of 8 */
    size_t group_size;    /* problems that share one power of two: divides problem_count */
    float x[TILE_ELEMS_MAX];
    float w[TILE_ELEMS_MAX];
    struct tile_scale scale; /* of x, which has been multiplied by the units */
    /* Per group, where that has several problems: whether one weight is a large part of all
     * (tile_find_dominated). */
    bool dominated[TILE_PROBLEMS_MAX];
};

/* How many super-blocks of `problem_count` problems go into a tile when `left` of them follow: as
 * many as fill the lanes. */
LANE_FN size_t tile_super_count(size_t problem_count, size_t left)
{
    size_t room = LANES > problem_count ? LANES / problem_count : 1;
    return room < left ? room : left;
}

/* The value of each lane's super-block, for the problems from `p` on; `of` has TILE_SUPERS_MAX. */
LANE_FN lane_f tile_super_lanes(const struct tile *tile, size_t p, const float *of)
{
    if (LANES <= tile->group_size) {
        return lane_set(of[p / tile->group_size]);
    }
    float values[LANES];
    for (size_t lane = 0; lane < LANES; lane++) {
        values[lane] = of[(p + lane) / tile->group_size];
    }
    return lane_load(values);
}

/* Added to every normalised weight: an element without importance still gets its nearest code, and
 * a problem without any falls back to equal weights. */
#define TILE_WEIGHT_FLOOR 0x1p-40f

/* The power of two that brings `magnitude` to [1, 2); 1 for zero. */
LANE_FN float tile_unit(float magnitude)
{
    uint32_t bits;
    memcpy(&bits, &magnitude, sizeof bits);
    if (bits == 0) {
        return 1.0f;
    }
    uint32_t exponent = bits >> 23;
    exponent = exponent < 1 ? 1 : exponent > 253 ? 253 : exponent;
    bits = (254 - exponent) << 23;
    float unit;
    memcpy(&unit, &bits, sizeof unit);
    return unit;
}

/* The same for each lane; `magnitude` is not negative. */
LANE_FN lane_f tile_unit_lanes(lane_f magnitude)
{
    lane_f power =
        lane_max(lane_min(lane_power(magnitude), lane_set(0x1p126f)), lane_set(0x1p-126f));
    lane_f one = lane_set(1.0f);
    return lane_select(lane_less(lane_set(0.0f), magnitude), one / power, one);
}

/* The units, from the ends of each problem. */
LANE_FN void tile_set_units(const struct tile *tile, struct tile_scale *scale)
{
    if (tile->group_size == 1) {
        for (size_t p = 0; p < tile->problem_count; p += LANES) {
            lane_f zero = lane_set(0.0f);
            lane_f depth = zero - lane_load(scale->low + p);
            lane_f peak = lane_max(lane_max(lane_load(scale->high + p), depth), zero);
            lane_store(scale->unit + p, tile_unit_lanes(peak));
        }
        return;
    }
    for (size_t g = 0; g < tile->problem_count; g += tile->group_size) {
        float peak = 0.0f;
        for (size_t p = g; p < g + tile->group_size; p++) {
            peak = scale->high[p] > peak ? scale->high[p] : peak;
            peak = -scale->low[p] > peak ? -scale->low[p] : peak;
        }
        float group_unit = tile_unit(peak);
        for (size_t p = g; p < g + tile->group_size; p++) {
            scale->unit[p] = group_unit;
        }
    }
}

/* Loads problems, multiplies the values of each group by its unit and adds `floor`. `sums` gets
 * what each problem then has in all, where that is not NULL. */
LANE_FN void tile_load_values(const struct tile *tile, const float *in, lane_f floor, float *values,
                              struct tile_scale *scale, float *sums)
{
    size_t elems = tile->elem_count;
    size_t lanes = tile->problem_count < LANES ? tile->problem_count : LANES;
    for (size_t p = 0; p < tile->problem_count; p += LANES) {
        size_t at = p * elems;
        struct lane_ends ends = lane_load_tile(values + at, in + at, elems, elems, lanes);
        lane_store(scale->unit + p, lane_set(0.0f));
        lane_store(scale->low + p, ends.low);
        lane_store(scale->high + p, ends.high);
    }
    tile_set_units(tile, scale);
    for (size_t p = 0; p < tile->problem_count; p += LANES) {
        float *batch = values + p * elems;
        lane_f factor = lane_load(scale->unit + p);
        lane_store(scale->low + p, lane_load(scale->low + p) * factor);
        lane_store(scale->high + p, lane_load(scale->high + p) * factor);
        /* Two sums, which do not wait for each other; elems is even. */
        lane_f even_sum = lane_set(0.0f), odd_sum = lane_set(0.0f);
        for (size_t i = 0; i < elems * LANES; i += 2 * LANES) {
            lane_f even = lane_load(batch + i) * factor + floor;
            lane_f odd = lane_load(batch + i + LANES) * factor + floor;
            lane_store(batch + i, even);
            lane_store(batch + i + LANES, odd);
            even_sum = even_sum + even;
            odd_sum = odd_sum + odd;
        }
        if (sums != NULL) {
            lane_store(sums + p, even_sum + odd_sum);
        }
    }
}

/* A weight dominates its group when it is at least this part of all. What suits the others then
 * hardly matters, and searches that start from them need wider trials. */
#define TILE_DOMINANT 0.125f

/* Fills `dominated`, from the sum and the ends of the weights of each problem. */
LANE_FN void tile_find_dominated(struct tile *tile, const float *sums,
                                 const struct tile_scale *weights)
{
    for (size_t g = 0; g < tile->problem_count; g += tile->group_size) {
        float sum = 0.0f;
        float peak = 0.0f;
        for (size_t p = g; p < g + tile->group_size; p++) {
            sum += sums[p];
            peak = weights->high[p] > peak ? weights->high[p] : peak;
        }
        tile->dominated[g / tile->group_size] = peak > TILE_DOMINANT * sum;
    }
}

/* Loads values and weights. */
LANE_FN void tile_load(struct tile *tile, const float *row, const float *importance)
{
    tile_load_values(tile, row, lane_set(-0.0f), tile->x, &tile->scale, NULL);
    if (importance == NULL) {
        size_t total = tile->problem_count * tile->elem_count;
        for (size_t i = 0; i < total || i < tile->elem_count * LANES; i += LANES) {
            lane_store(tile->w + i, lane_set(1.0f));
        }
        memset(tile->dominated, 0, sizeof tile->dominated);
    } else {
        struct tile_scale weights;
        float sums[TILE_PROBLEMS_MAX];
        tile_load_values(tile, importance, lane_set(TILE_WEIGHT_FLOOR), tile->w, &weights, sums);
        if (tile->group_size > 1) {
            tile_find_dominated(tile, sums, &weights);
        }
    }
}

/* The value of the largest magnitude of each problem from `p` on, with its sign. */
LANE_FN lane_f tile_peak(const struct tile *tile, size_t p)
{
    lane_f low = lane_load(tile->scale.low + p);
    lane_f high = lane_load(tile->scale.high + p);
    return lane_select(lane_less(high, lane_set(0.0f) - low), low, high);
}

#endif
