/* Encoders of the blocks of 32 with a half scale (Q4_0, Q5_0, Q8_0) or a half scale and offset
 * (Q4_1, Q5_1): LANES blocks at a time. Real fit first, then the halves next to it by trial with
 * the true error. Included once per CPU level after the lanes. Thread rule: pure. */
#ifndef LQ_KERNELS_SEARCH_ENCODE_SMALL_H
#define LQ_KERNELS_SEARCH_ENCODE_SMALL_H

#include "kernels/bytes.h"
#include "kernels/encode.h"
#include "kernels/search/affine.h"
#include "kernels/search/symmetric.h"

#define SMALL_ELEMS 32

/* LANES blocks and what was found for them: x ~ scale * code + offset in real units. */
struct small_blocks {
    struct tile tile;
    float row[LANES * SMALL_ELEMS];
    float scale[LANES], offset[LANES];
    uint8_t codes[LANES * SMALL_ELEMS];
};

/* Loads up to LANES blocks, the missing ones as zeros; returns how many there were. */
static inline size_t small_load(struct small_blocks *blocks, const float *row,
                                const float *importance, size_t block_count)
{
    float weights[LANES * SMALL_ELEMS];
    size_t count = block_count < LANES ? block_count : LANES;
    if (count < LANES) {
        memset(blocks->row, 0, sizeof blocks->row);
        memset(weights, 0, sizeof weights);
    }
    memcpy(blocks->row, row, count * SMALL_ELEMS * sizeof *row);
    if (importance != NULL) {
        memcpy(weights, importance, count * SMALL_ELEMS * sizeof *importance);
    }
    blocks->tile.problem_count = LANES;
    blocks->tile.elem_count = SMALL_ELEMS;
    blocks->tile.group_size = 1;
    tile_load(&blocks->tile, blocks->row, importance == NULL ? NULL : weights, 0.0f);
    return count;
}

/* The half nearest to `value`, both in tile units. */
static inline lane_f small_half(lane_f value, lane_f unit)
{
    return lane_to_half(value / unit) * unit;
}

static inline void small_symmetric_search(struct small_blocks *blocks,
                                          const struct symmetric_range *range)
{
    const float *x = blocks->tile.x;
    const float *w = blocks->tile.w;
    lane_f unit = lane_load(blocks->tile.unit);
    lane_f low = lane_set(range->low);
    lane_f high = lane_set(range->high);
    struct symmetric_fit fit = symmetric_search(x, w, SMALL_ELEMS, range);
    lane_f best = small_half(fit.scale, unit);
    lane_f best_error = symmetric_error(x, w, SMALL_ELEMS, best, low, high);
    static const float nearby[2] = {1.0f - 0x1p-11f, 1.0f + 0x1p-10f};
    lane_f middle = best;
    for (size_t k = 0; k < 2; k++) {
        lane_f scale = small_half(middle * lane_set(nearby[k]), unit);
        lane_f error = symmetric_error(x, w, SMALL_ELEMS, scale, low, high);
        lane_m better = lane_less(error, best_error);
        best = lane_select(better, scale, best);
        best_error = lane_select(better, error, best_error);
    }
    lane_store(blocks->scale, best / unit);
    for (size_t b = 0; b < LANES; b++) {
        lane_f inverse = symmetric_inverse(lane_set(blocks->scale[b] * blocks->tile.unit[b]));
        for (size_t i = b * SMALL_ELEMS; i < (b + 1) * SMALL_ELEMS; i += LANES) {
            lane_f value = lane_load(blocks->row + i) * lane_set(blocks->tile.unit[b]);
            float out[LANES];
            lane_store(out, symmetric_code(value * inverse, low, high) - low);
            for (size_t k = 0; k < LANES; k++) {
                blocks->codes[i + k] = (uint8_t)out[k];
            }
        }
    }
}

static inline void small_affine_search(struct small_blocks *blocks,
                                       const struct affine_trials *trials)
{
    const float *x = blocks->tile.x;
    const float *w = blocks->tile.w;
    lane_f unit = lane_load(blocks->tile.unit);
    lane_f zero = lane_set(0.0f);
    lane_f top = lane_set(trials->code_max);
    struct affine_fit fit = affine_search(x, w, SMALL_ELEMS, trials);
    lane_f middle = small_half(fit.scale, unit);
    lane_f start_offset = small_half(fit.offset, unit);
    lane_f best = zero, best_offset = zero, best_error = lane_set(0x1p100f);
    static const float nearby[3] = {1.0f, 1.0f - 0x1p-11f, 1.0f + 0x1p-10f};
    for (size_t k = 0; k < 3; k++) {
        lane_f scale = small_half(middle * lane_set(nearby[k]), unit);
        lane_f inverse = symmetric_inverse(scale);
        lane_f sum_w = zero, sum_r = zero, sum_rr = zero;
        for (size_t i = 0; i < SMALL_ELEMS * LANES; i += LANES) {
            lane_f weight = lane_load(w + i);
            lane_f shifted = lane_load(x + i) - start_offset;
            lane_f residual = shifted - scale * affine_code(shifted * inverse, top);
            lane_f weighted = weight * residual;
            sum_w = sum_w + weight;
            sum_r = sum_r + weighted;
            sum_rr = sum_rr + weighted * residual;
        }
        /* With these codes the error is a parabola in the offset. */
        lane_f offset = small_half(start_offset + sum_r / sum_w, unit);
        lane_f shift = start_offset - offset;
        lane_f error = sum_rr + shift * (sum_r + sum_r + shift * sum_w);
        lane_m better = lane_less(error, best_error);
        best = lane_select(better, scale, best);
        best_offset = lane_select(better, offset, best_offset);
        best_error = lane_select(better, error, best_error);
    }
    lane_store(blocks->scale, best / unit);
    lane_store(blocks->offset, best_offset / unit);
    for (size_t b = 0; b < LANES; b++) {
        lane_f factor = lane_set(blocks->tile.unit[b]);
        lane_f inverse = symmetric_inverse(lane_set(blocks->scale[b]) * factor);
        lane_f offset = lane_set(blocks->offset[b]) * factor;
        for (size_t i = b * SMALL_ELEMS; i < (b + 1) * SMALL_ELEMS; i += LANES) {
            lane_f value = lane_load(blocks->row + i) * factor - offset;
            float out[LANES];
            lane_store(out, affine_code(value * inverse, top));
            for (size_t k = 0; k < LANES; k++) {
                blocks->codes[i + k] = (uint8_t)out[k];
            }
        }
    }
}

static inline void small_put_nibbles(unsigned char *out, const uint8_t *codes)
{
    for (size_t j = 0; j < 16; j++) {
        out[j] = (unsigned char)((codes[j] & 15) | codes[j + 16] << 4);
    }
}

static inline void small_put_fifth_bits(unsigned char *out, const uint8_t *codes)
{
    uint32_t high = 0;
    for (size_t j = 0; j < 32; j++) {
        high |= (uint32_t)(codes[j] >> 4) << j;
    }
    lq_store_u32(out, high);
}

void LANE_NAME(lq_encode_q4_0)(const float *row, void *blocks, size_t col_count,
                               const float *importance)
{
    static const struct symmetric_range range = {-8.0f, 7.0f, -0.9f, 0.2f, 10, 2, true};
    unsigned char *out = blocks;
    for (size_t i = 0; i < col_count; i += LANES * SMALL_ELEMS) {
        struct small_blocks found;
        size_t count = small_load(&found, row + i, importance == NULL ? NULL : importance + i,
                                  (col_count - i) / SMALL_ELEMS);
        small_symmetric_search(&found, &range);
        for (size_t b = 0; b < count; b++, out += 18) {
            lq_store_u16(out, lq_f32_to_f16(found.scale[b]));
            small_put_nibbles(out + 2, found.codes + b * SMALL_ELEMS);
        }
    }
}

void LANE_NAME(lq_encode_q5_0)(const float *row, void *blocks, size_t col_count,
                               const float *importance)
{
    static const struct symmetric_range range = {-16.0f, 15.0f, -0.9f, 0.2f, 10, 2, true};
    unsigned char *out = blocks;
    for (size_t i = 0; i < col_count; i += LANES * SMALL_ELEMS) {
        struct small_blocks found;
        size_t count = small_load(&found, row + i, importance == NULL ? NULL : importance + i,
                                  (col_count - i) / SMALL_ELEMS);
        small_symmetric_search(&found, &range);
        for (size_t b = 0; b < count; b++, out += 22) {
            const uint8_t *codes = found.codes + b * SMALL_ELEMS;
            lq_store_u16(out, lq_f32_to_f16(found.scale[b]));
            small_put_fifth_bits(out + 2, codes);
            small_put_nibbles(out + 6, codes);
        }
    }
}

void LANE_NAME(lq_encode_q8_0)(const float *row, void *blocks, size_t col_count,
                               const float *importance)
{
    /* -128 is left out: the other end has no partner for it, and some readers negate codes. */
    static const struct symmetric_range range = {-127.0f, 127.0f, 0.0f, 0.2f, 3, 0, false};
    unsigned char *out = blocks;
    for (size_t i = 0; i < col_count; i += LANES * SMALL_ELEMS) {
        struct small_blocks found;
        size_t count = small_load(&found, row + i, importance == NULL ? NULL : importance + i,
                                  (col_count - i) / SMALL_ELEMS);
        small_symmetric_search(&found, &range);
        for (size_t b = 0; b < count; b++, out += 34) {
            lq_store_u16(out, lq_f32_to_f16(found.scale[b]));
            for (size_t j = 0; j < SMALL_ELEMS; j++) {
                out[2 + j] = (unsigned char)(found.codes[b * SMALL_ELEMS + j] - 127);
            }
        }
    }
}

void LANE_NAME(lq_encode_q4_1)(const float *row, void *blocks, size_t col_count,
                               const float *importance)
{
    static const struct affine_trials trials = {15.0f, true, -1.5f, 0.333f, 8, 4, 3};
    unsigned char *out = blocks;
    for (size_t i = 0; i < col_count; i += LANES * SMALL_ELEMS) {
        struct small_blocks found;
        size_t count = small_load(&found, row + i, importance == NULL ? NULL : importance + i,
                                  (col_count - i) / SMALL_ELEMS);
        small_affine_search(&found, &trials);
        for (size_t b = 0; b < count; b++, out += 20) {
            lq_store_u16(out, lq_f32_to_f16(found.scale[b]));
            lq_store_u16(out + 2, lq_f32_to_f16(found.offset[b]));
            small_put_nibbles(out + 4, found.codes + b * SMALL_ELEMS);
        }
    }
}

void LANE_NAME(lq_encode_q5_1)(const float *row, void *blocks, size_t col_count,
                               const float *importance)
{
    static const struct affine_trials trials = {31.0f, true, -1.5f, 0.333f, 8, 4, 3};
    unsigned char *out = blocks;
    for (size_t i = 0; i < col_count; i += LANES * SMALL_ELEMS) {
        struct small_blocks found;
        size_t count = small_load(&found, row + i, importance == NULL ? NULL : importance + i,
                                  (col_count - i) / SMALL_ELEMS);
        small_affine_search(&found, &trials);
        for (size_t b = 0; b < count; b++, out += 24) {
            const uint8_t *codes = found.codes + b * SMALL_ELEMS;
            lq_store_u16(out, lq_f32_to_f16(found.scale[b]));
            lq_store_u16(out + 2, lq_f32_to_f16(found.offset[b]));
            small_put_fifth_bits(out + 4, codes);
            small_put_nibbles(out + 8, codes);
        }
    }
}

#endif
