/* Blocks of one to four problems with a scale of their own each, a batch of whole lanes at a time:
 * the walk over a row, and the searches that end in a half scale (and a half offset). Real fit
 * first, then the halves next to it by trial with the true error. Included once per CPU level after
 * the lanes. Thread rule: pure. */
#ifndef LQ_KERNELS_SEARCH_SMALL_H
#define LQ_KERNELS_SEARCH_SMALL_H

#include "kernels/bytes.h"
#include "kernels/search/affine.h"
#include "kernels/search/stretch.h"
#include "kernels/search/symmetric.h"

struct small_batch {
    struct tile tile;
    const float *row;
    /* Per problem: x ~ scale * code + offset in real units. */
    float scale[TILE_PROBLEMS_MAX];
    float offset[TILE_PROBLEMS_MAX];
    float error[TILE_PROBLEMS_MAX]; /* in tile units */
    uint8_t codes[TILE_ELEMS_MAX];
};

/* One type: the geometry, the search over a batch and the packing of the block that starts at
 * problem p. */
struct small_type {
    size_t elem_count; /* per problem */
    size_t problems;   /* per block: 1, 2 or 4 */
    size_t block_bytes;
    void (*search)(struct small_batch *batch, const struct small_type *type);
    void (*put)(unsigned char *out, const struct small_batch *batch, size_t p);
    struct stretch_limits stretch;
    struct symmetric_range range;
    struct affine_trials trials;
};

LANE_FN void small_encode(const struct small_type *type, const float *row, void *blocks,
                          size_t col_count, const float *importance)
{
    unsigned char *out = (unsigned char *)blocks;
    size_t block_elems = type->elem_count * type->problems;
    size_t batch_blocks = type->problems >= LANES ? 1 : LANES / type->problems;
    struct small_batch batch;
    batch.tile.problem_count = batch_blocks * type->problems;
    batch.tile.elem_count = type->elem_count;
    batch.tile.group_size = 1;
    float padded_row[TILE_ELEMS_MAX];
    float padded_importance[TILE_ELEMS_MAX];
    size_t step = batch_blocks * block_elems;
    for (size_t i = 0; i < col_count; i += step) {
        size_t left = col_count - i;
        const float *weights = importance == NULL ? NULL : importance + i;
        batch.row = row + i;
        if (LANES > 1 && left < step) {
            /* The missing blocks of the last batch are zeros. */
            memset(padded_row, 0, sizeof padded_row);
            memcpy(padded_row, row + i, left * sizeof *row);
            batch.row = padded_row;
            if (weights != NULL) {
                memset(padded_importance, 0, sizeof padded_importance);
                memcpy(padded_importance, weights, left * sizeof *weights);
                weights = padded_importance;
            }
        }
        tile_load(&batch.tile, batch.row, weights);
        type->search(&batch, type);
        size_t block_count = left < step ? left / block_elems : batch_blocks;
        for (size_t b = 0; b < block_count; b++, out += type->block_bytes) {
            type->put(out, &batch, b * type->problems);
        }
    }
}

/* The half nearest to `value`, both in tile units. */
LANE_FN lane_f small_half(lane_f value, lane_f unit)
{
    return lane_to_half(value / unit) * unit;
}

/* Codes of all problems under the scales found. */
LANE_FN void small_symmetric_codes(struct small_batch *batch, const struct small_type *type)
{
    float inverse[TILE_PROBLEMS_MAX];
    for (size_t p = 0; p < batch->tile.problem_count; p += LANES) {
        lane_f scale = lane_load(batch->scale + p) * lane_load(batch->tile.scale.unit + p);
        lane_store(inverse + p, symmetric_inverse(scale));
    }
    for (size_t p = 0; p < batch->tile.problem_count; p++) {
        size_t at = p * type->elem_count;
        symmetric_put_codes(&type->range, inverse[p], batch->row + at, batch->tile.scale.unit[p],
                            type->elem_count, batch->codes + at);
    }
}

/* As stretch_applies. */
LANE_FN lane_m small_is_ordinary(lane_f half)
{
    lane_f magnitude = lane_abs(half);
    lane_m inside = lane_less(magnitude, lane_set(65504.0f));
    return lane_and(inside, lane_less(lane_set(0x1.fep-17f), magnitude));
}

/* Stretches scales and offsets, once the codes are chosen. */
LANE_FN void small_stretch(struct small_batch *batch, const struct small_type *type)
{
    lane_f one = lane_set(1.0f);
    for (size_t p = 0; type->stretch.share_max > 0.0f && p < batch->tile.problem_count;
         p += LANES) {
        size_t at = p * type->elem_count;
        struct stretch_squares squares =
            stretch_square(batch->tile.x + at, batch->tile.w + at, type->elem_count);
        lane_f scale = lane_load(batch->scale + p);
        lane_f offset = lane_load(batch->offset + p);
        lane_m none = lane_less(lane_abs(offset), lane_set(0x1p-24f));
        lane_f checked = lane_select(none, one, offset);
        lane_m applies = lane_and(small_is_ordinary(scale), small_is_ordinary(checked));
        lane_m spread = lane_less(squares.peak, squares.sum * lane_set(type->stretch.peak_max));
        applies = lane_and(applies, spread);
        lane_f factor =
            stretch_factor(lane_load(batch->error + p), squares.sum, type->stretch.share_max);
        factor = lane_select(applies, factor, one);
        lane_store(batch->scale + p, lane_to_half(scale * factor));
        lane_store(batch->offset + p, lane_to_half(offset * factor));
    }
}

/* Rounds a real scale to a half: the nearest is the best one for its codes, and its neighbours
 * would hardly change those. The error is what the fit leaves. */
LANE_FN void small_keep_half(struct small_batch *batch, const struct small_type *type, size_t p,
                             const struct symmetric_fit *fit)
{
    lane_f unit = lane_load(batch->tile.scale.unit + p);
    lane_store(batch->scale + p, lane_to_half(fit->scale / unit));
    lane_store(batch->offset + p, lane_set(0.0f));
    if (type->stretch.share_max > 0.0f) {
        size_t at = p * type->elem_count;
        struct stretch_squares squares =
            stretch_square(batch->tile.x + at, batch->tile.w + at, type->elem_count);
        lane_store(batch->error + p, squares.sum - fit->gain);
    }
}

LANE_FN void small_symmetric_search(struct small_batch *batch, const struct small_type *type)
{
    for (size_t p = 0; p < batch->tile.problem_count; p += LANES) {
        struct symmetric_fit fit = symmetric_search(&batch->tile, p, &type->range);
        small_keep_half(batch, type, p, &fit);
    }
    small_symmetric_codes(batch, type);
    small_stretch(batch, type);
}

/* Many levels, as many on either side. */
LANE_FN void small_fine_search(struct small_batch *batch, const struct small_type *type)
{
    for (size_t p = 0; p < batch->tile.problem_count; p += LANES) {
        struct symmetric_fit fit = symmetric_search_inside(&batch->tile, p, &type->range);
        small_keep_half(batch, type, p, &fit);
    }
    small_symmetric_codes(batch, type);
}

LANE_FN void small_affine_codes(struct small_batch *batch, const struct small_type *type)
{
    lane_f top = lane_set(type->trials.code_max);
    for (size_t p = 0; p < batch->tile.problem_count; p++) {
        lane_f factor = lane_set(batch->tile.scale.unit[p]);
        lane_f inverse = symmetric_inverse(lane_set(batch->scale[p]) * factor);
        lane_f offset = lane_set(batch->offset[p]) * factor;
        for (size_t i = p * type->elem_count; i < (p + 1) * type->elem_count; i += LANES) {
            lane_f value = lane_load(batch->row + i) * factor - offset;
            lane_store_bytes(batch->codes + i, affine_code(value * inverse, top));
        }
    }
}

/* Rounds scale and offset to the best halves near them. */
LANE_FN void small_keep_halves(struct small_batch *batch, const struct small_type *type, size_t p,
                               const struct affine_fit *fit)
{
    const float *x = batch->tile.x + p * type->elem_count;
    const float *w = batch->tile.w + p * type->elem_count;
    lane_f unit = lane_load(batch->tile.scale.unit + p);
    lane_f middle = small_half(fit->scale, unit);
    lane_f start_offset = small_half(fit->offset, unit);
    static const float nearby[AFFINE_ABREAST] = {1.0f, 1.0f - 0x1p-11f, 1.0f + 0x1p-10f};
    struct affine_misses misses[AFFINE_ABREAST];
    for (size_t k = 0; k < AFFINE_ABREAST; k++) {
        misses[k] = affine_misses_of(small_half(middle * lane_set(nearby[k]), unit));
    }
    affine_miss_abreast(x, w, type->elem_count, start_offset, type->trials.code_max, misses);
    lane_f zero = lane_set(0.0f);
    lane_f best = zero, best_offset = zero, best_error = lane_set(0x1p100f);
    for (size_t k = 0; k < AFFINE_ABREAST; k++) {
        /* With these codes the error is a parabola in the offset. */
        lane_f sum_r = misses[k].r;
        lane_f offset = small_half(start_offset + sum_r / fit->weight, unit);
        lane_f shift = start_offset - offset;
        lane_f error = misses[k].rr + shift * (sum_r + sum_r + shift * fit->weight);
        lane_m better = lane_less(error, best_error);
        best = lane_select(better, misses[k].scale, best);
        best_offset = lane_select(better, offset, best_offset);
        best_error = lane_select(better, error, best_error);
    }
    lane_store(batch->scale + p, best / unit);
    lane_store(batch->offset + p, best_offset / unit);
    lane_store(batch->error + p, best_error);
}

LANE_FN void small_affine_search(struct small_batch *batch, const struct small_type *type)
{
    for (size_t p = 0; p < batch->tile.problem_count; p += LANES) {
        struct affine_fit fit = affine_search(&batch->tile, p, &type->trials);
        small_keep_halves(batch, type, p, &fit);
    }
    small_affine_codes(batch, type);
    small_stretch(batch, type);
}

#endif
