/* The shared half-precision scale of a super-block: from the real scales of its problems to one
 * half and a small integer per problem. Included once per CPU level after the lanes. Pure. */
#ifndef LQ_KERNELS_SEARCH_SUPER_H
#define LQ_KERNELS_SEARCH_SUPER_H

#include "kernels/search/tile.h"

#define SUPER_TRIALS 16

/* A half and what it stands for in the units of the tile. */
struct super_half {
    uint16_t bits;
    float value;
};

/* The value of each lane's super-block, for the problems of the tile from `p` on. */
LANE_FN lane_f super_lanes(const struct tile *tile, size_t p, const struct super_half *halves)
{
    float values[TILE_SUPERS_MAX] = {0.0f};
    for (size_t s = 0; s * tile->group_size < tile->problem_count; s++) {
        values[s] = halves[s].value;
    }
    return tile_super_lanes(tile, p, values);
}

/* The half nearest to `value` (in tile units), never infinite. */
LANE_FN struct super_half super_half_of(float value, float unit)
{
    float real = value / unit;
    real = real > 65504.0f ? 65504.0f : real < -65504.0f ? -65504.0f : real;
    struct super_half half = {.bits = lq_f32_to_f16(real)};
    half.value = lq_f16_to_f32(half.bits) * unit;
    return half;
}

/* Candidates for the step, and what each explains of the scales. */
struct super_steps {
    float step[SUPER_TRIALS], gain[SUPER_TRIALS];
};

/* Steps D that represent scales[p] ~ D * code, codes low..high, around peak / high. A scale of
 * either sign is allowed when low < 0; then the largest magnitude gets the code `low`, and D takes
 * the sign that makes it so. */
LANE_FN void super_find_steps(const float *scales, const float *weights, size_t count, float low,
                              float high, struct super_steps *steps)
{
    memset(steps, 0, sizeof *steps);
    float peak = 0.0f;
    for (size_t p = 0; p < count; p++) {
        peak = fabsf(scales[p]) > fabsf(peak) ? scales[p] : peak;
    }
    if (fabsf(peak) < 0x1p-80f) {
        return;
    }
    float anchor = low < 0.0f ? low : high;
    float offsets[SUPER_TRIALS];
    for (size_t k = 0; k < SUPER_TRIALS; k++) {
        float shrink = 0.5f - 0.5f * (float)k;
        offsets[k] = (anchor < 0.0f ? anchor - shrink : anchor + shrink) / peak;
    }
    lane_f cross[SUPER_TRIALS / LANES];
    lane_f square[SUPER_TRIALS / LANES];
    for (size_t k = 0; k < SUPER_TRIALS / LANES; k++) {
        cross[k] = lane_set(0.0f);
        square[k] = lane_set(0x1p-100f);
    }
    for (size_t p = 0; p < count; p++) {
        lane_f scale = lane_set(scales[p]);
        lane_f weight = lane_set(weights[p]);
        for (size_t k = 0; k < SUPER_TRIALS / LANES; k++) {
            lane_f code = lane_min(scale * lane_load(offsets + k * LANES), lane_set(high));
            code = lane_round(lane_max(code, lane_set(low)));
            lane_f weighted = weight * code;
            cross[k] = cross[k] + weighted * scale;
            square[k] = square[k] + weighted * code;
        }
    }
    for (size_t k = 0; k < SUPER_TRIALS / LANES; k++) {
        lane_f step = cross[k] / square[k];
        lane_store(steps->step + k * LANES, step);
        lane_store(steps->gain + k * LANES, step * cross[k]);
    }
}

/* The one that explains most. */
LANE_FN float super_best_step(const struct super_steps *steps)
{
    size_t best = 0;
    for (size_t k = 1; k < SUPER_TRIALS; k++) {
        best = steps->gain[k] > steps->gain[best] ? k : best;
    }
    return steps->step[best];
}

LANE_FN float super_step(const float *scales, const float *weights, size_t count, float low,
                         float high)
{
    struct super_steps steps;
    super_find_steps(scales, weights, count, low, high, &steps);
    return super_best_step(&steps);
}

/* Whether a super-block of the tile is dominated by one weight; and for each lane. */
LANE_FN bool super_any_dominated(const struct tile *tile)
{
    bool any = false;
    for (size_t s = 0; s * tile->group_size < tile->problem_count; s++) {
        any = any || tile->dominated[s];
    }
    return any;
}

LANE_FN lane_m super_dominated_lanes(const struct tile *tile, size_t p)
{
    float values[TILE_SUPERS_MAX] = {0.0f};
    for (size_t s = 0; s * tile->group_size < tile->problem_count; s++) {
        values[s] = tile->dominated[s] ? 1.0f : 0.0f;
    }
    return lane_less(lane_set(0.5f), tile_super_lanes(tile, p, values));
}

#endif
