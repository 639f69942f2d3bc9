/* Undoes a part of the shrinking that least squares brings. The scale with the smallest weighted
 * error makes decoded values smaller than the values, the more so the fewer the levels: with E the
 * error over the weighted square sum, values shrink by 1 - E on average. A weight per column
 * supposes inputs without correlation. Real inputs lie along few directions and the rows of a model
 * along the same, so an error along the row itself weighs LQ_STRETCH_KAPPA times more than one
 * across it. The scale that minimises the error under both is the least-squares one times
 * 1 / (1 - E (kappa - 1) / kappa). docs/numerics.md has the derivation and the figures. E is taken
 * for at most `share_max`: 2^(4 - 2 bits per weight), 0.6 or 0.3 (IQ1_S), four times the amplitude
 * of the smallest error that any code of that size can have, or a quarter of it (Q3_K, Q4_0, Q4_1,
 * Q4_K, Q5_1): a larger one comes from a few dominating weights or values, and stretching would
 * only hurt the rest. Where one element has a large part of the weighted square sum nothing is
 * stretched: the errors of the others say nothing of it. Grids fit such an element badly when it is
 * an outlier and keep stretching there, unless its weight is what makes it large. Included once per
 * CPU level after the lanes.
 * Thread rule: pure. */
#ifndef LQ_KERNELS_SEARCH_STRETCH_H
#define LQ_KERNELS_SEARCH_STRETCH_H

#include <stdbool.h>

#include "kernels/search/tile.h"

#define LQ_STRETCH_KAPPA 4.0f

/* How far a type stretches. */
struct stretch_limits {
    float share_max; /* of the weighted square sum that may count as error; 0: not at all */
    float peak_max;  /* of it that one element may have */
    bool any_peak; /* also where its value makes it so, and not its weight (tile_find_dominated) */
};

/* The factor for a fit that leaves `error` of the weighted square sum `square`; 1 for zeros. */
LANE_FN lane_f stretch_factor(lane_f error, lane_f square, float share_max)
{
    lane_f one = lane_set(1.0f);
    lane_m usable = lane_less(lane_set(0x1p-80f), square);
    lane_f share = lane_select(usable, error / lane_select(usable, square, one), lane_set(0.0f));
    share = lane_max(lane_min(share, lane_set(share_max)), lane_set(0.0f));
    return one / (one - share * lane_set((LQ_STRETCH_KAPPA - 1.0f) / LQ_STRETCH_KAPPA));
}

/* Whether a scale has eight bits of precision as a half. One that has not was rounded or clamped
 * to something that is no fit, so there is nothing to undo. Zero is left alone likewise. */
LANE_FN bool stretch_applies(uint16_t scale_bits)
{
    unsigned magnitude = scale_bits & 0x7FFFu;
    return magnitude >= 0x0100 && magnitude < 0x7BFF;
}

/* Sum of w x^2 of LANES problems, and the largest of these squares. */
struct stretch_squares {
    lane_f sum, peak;
};

LANE_FN struct stretch_squares stretch_square(const float *x, const float *w, size_t elem_count)
{
    struct stretch_squares squares = {lane_set(0.0f), lane_set(0.0f)};
    for (size_t i = 0; i < elem_count * LANES; i += LANES) {
        lane_f value = lane_load(x + i);
        lane_f square = lane_load(w + i) * value * value;
        squares.sum = squares.sum + square;
        squares.peak = lane_max(square, squares.peak);
    }
    return squares;
}

/* The factor for each super-block of a tile, from the errors of its problems. */
LANE_FN void stretch_tile(const struct tile *tile, const float *errors,
                          struct stretch_limits limits, float factors[TILE_SUPERS_MAX])
{
    float squares[TILE_PROBLEMS_MAX];
    float peaks[TILE_PROBLEMS_MAX];
    for (size_t p = 0; p < tile->problem_count; p += LANES) {
        size_t at = p * tile->elem_count;
        struct stretch_squares lanes = stretch_square(tile->x + at, tile->w + at, tile->elem_count);
        lane_store(squares + p, lanes.sum);
        lane_store(peaks + p, lanes.peak);
    }
    for (size_t s = 0; s * tile->group_size < tile->problem_count; s++) {
        float error = 0.0f;
        float square = 0.0f;
        float peak = 0.0f;
        for (size_t p = s * tile->group_size; p < (s + 1) * tile->group_size; p++) {
            error += errors[p];
            square += squares[p];
            peak = peaks[p] > peak ? peaks[p] : peak;
        }
        float factor[LANES];
        lane_store(factor, stretch_factor(lane_set(error), lane_set(square), limits.share_max));
        bool stops = (limits.any_peak || tile->dominated[s]) && peak > limits.peak_max * square;
        factors[s] = stops ? 1.0f : factor[0];
    }
}

#endif
