/* Encoders of the grid types: IQ1, IQ2 and IQ3 with all their sizes. Included once per CPU level
 * after the lanes. Thread rule: pure. */
#ifndef LQ_KERNELS_SEARCH_ENCODE_GRID_H
#define LQ_KERNELS_SEARCH_ENCODE_GRID_H

#include "kernels/bytes.h"
#include "kernels/encode.h"
#include "kernels/search/grid.h"

#define GRID_LEVELS_IQ2                                                                            \
    {                                                                                              \
        8, 25, 43, 43, 8, 25, 43, 43                                                               \
    }

LANE_FN const float *grid_importance(const float *importance, size_t at)
{
    return importance == NULL ? NULL : importance + at;
}

/* Four 7-bit sign codes and a 4-bit s: the last four bytes per 32 values of IQ2_XXS and IQ3_XXS. */
LANE_FN uint32_t grid_sign_word(const uint8_t *signs, uint8_t small)
{
    uint32_t word = (uint32_t)small << 28;
    for (size_t k = 0; k < 4; k++) {
        word |= (uint32_t)(signs[k] & 127u) << (7 * k);
    }
    return word;
}

LANE_FN void grid_put_iq3_s(unsigned char *out, const struct grid_block *block)
{
    memset(out, 0, 110);
    lq_store_u16(out, block->d_bits);
    for (size_t g = 0; g < 64; g++) {
        out[2 + g] = (unsigned char)block->points[g];
        out[66 + g / 8] |= (unsigned char)(block->points[g] >> 8 << (g % 8));
    }
    memcpy(out + 74, block->signs, 32);
    for (size_t p = 0; p < 8; p++) {
        out[106 + p / 2] |= (unsigned char)(block->small[p] << (p % 2 * 4));
    }
}

LQ_DEVICE_FN void LANE_NAME(lq_encode_iq3_s)(const float *row, void *blocks, size_t col_count,
                                             const float *importance)
{
    static const struct grid_shape shape = {
        .problem_count = 8,
        .elem_count = 32,
        .dims = 4,
        .digit_bits = 3,
        .radix = 8.0f,
        .levels = {1, 3, 5, 7, 9, 11, 13, 15},
        .top = 15.0f,
        .digit_base = 1.0f,
        .digit_per_unit = 0.5f,
        .signs = GRID_SIGNS_FREE,
        .shift = GRID_SHIFT_NONE,
        .d_factor = 1.0f,
        .small_max = 15.0f,
        .first = 0.7f,
        .step = 0.16f,
        .step_count = 5,
        .repeat_count = 2,
        .search_pairs = 3,
        .final_pairs = 8,
        .trial_reach = 1,
        .round_count = 1,
        .stretch = {0.136f, 0.25f, false},
    };
    struct lq_near near = lq_near_iq3s();
    unsigned char *out = (unsigned char *)blocks;
    for (size_t i = 0, count; i < col_count; i += 256 * count) {
        struct grid_block supers[TILE_SUPERS_MAX];
        count = grid_encode(&shape, &near, row + i, grid_importance(importance, i),
                            (col_count - i) / 256, supers);
        for (size_t s = 0; s < count; s++, out += 110) {
            grid_put_iq3_s(out, &supers[s]);
        }
    }
}

LANE_FN void grid_put_iq3_xxs(unsigned char *out, const struct grid_block *block)
{
    lq_store_u16(out, block->d_bits);
    for (size_t g = 0; g < 64; g++) {
        out[2 + g] = (unsigned char)block->points[g];
    }
    for (size_t p = 0; p < 8; p++) {
        lq_store_u32(out + 66 + 4 * p, grid_sign_word(block->signs + 4 * p, block->small[p]));
    }
}

LQ_DEVICE_FN void LANE_NAME(lq_encode_iq3_xxs)(const float *row, void *blocks, size_t col_count,
                                               const float *importance)
{
    static const struct grid_shape shape = {
        .problem_count = 8,
        .elem_count = 32,
        .dims = 4,
        .digit_bits = 3,
        .radix = 8.0f,
        .levels = {4, 12, 20, 28, 36, 44, 52, 62},
        .top = 62.0f,
        .digit_base = 4.0f,
        .digit_per_unit = 0.125f,
        .signs = GRID_SIGNS_EVEN,
        .shift = GRID_SHIFT_NONE,
        .d_factor = 4.0f,
        .small_max = 15.0f,
        .first = 0.7f,
        .step = 0.16f,
        .step_count = 5,
        .repeat_count = 2,
        .search_pairs = 3,
        .final_pairs = 8,
        .trial_reach = 1,
        .round_count = 1,
        .stretch = {0.229f, 0.25f, false},
    };
    struct lq_near near = lq_near_iq3xxs();
    unsigned char *out = (unsigned char *)blocks;
    for (size_t i = 0, count; i < col_count; i += 256 * count) {
        struct grid_block supers[TILE_SUPERS_MAX];
        count = grid_encode(&shape, &near, row + i, grid_importance(importance, i),
                            (col_count - i) / 256, supers);
        for (size_t s = 0; s < count; s++, out += 98) {
            grid_put_iq3_xxs(out, &supers[s]);
        }
    }
}

LANE_FN void grid_put_iq2_s(unsigned char *out, const struct grid_block *block)
{
    memset(out, 0, 82);
    lq_store_u16(out, block->d_bits);
    for (size_t g = 0; g < 32; g++) {
        out[2 + g] = (unsigned char)block->points[g];
        out[66 + g / 4] |= (unsigned char)(block->points[g] >> 8 << (g % 4 * 2));
    }
    memcpy(out + 34, block->signs, 32);
    for (size_t p = 0; p < 16; p++) {
        out[74 + p / 2] |= (unsigned char)(block->small[p] << (p % 2 * 4));
    }
}

LQ_DEVICE_FN void LANE_NAME(lq_encode_iq2_s)(const float *row, void *blocks, size_t col_count,
                                             const float *importance)
{
    static const struct grid_shape shape = {
        .problem_count = 16,
        .elem_count = 16,
        .dims = 8,
        .digit_bits = 2,
        .radix = 3.0f,
        .levels = GRID_LEVELS_IQ2,
        .top = 43.0f,
        .digit_base = 8.0f,
        .digit_per_unit = 0x1p0f / 17.25f,
        .signs = GRID_SIGNS_FREE,
        .shift = GRID_SHIFT_NONE,
        .d_factor = 8.0f,
        .small_max = 15.0f,
        .first = 0.7f,
        .step = 0.2f,
        .step_count = 5,
        .repeat_count = 2,
        .search_pairs = 3,
        .final_pairs = 8,
        .trial_reach = 1,
        .round_count = 1,
        .stretch = {0.6f, 0.25f, false},
    };
    struct lq_near near = lq_near_iq2s();
    unsigned char *out = (unsigned char *)blocks;
    for (size_t i = 0, count; i < col_count; i += 256 * count) {
        struct grid_block supers[TILE_SUPERS_MAX];
        count = grid_encode(&shape, &near, row + i, grid_importance(importance, i),
                            (col_count - i) / 256, supers);
        for (size_t s = 0; s < count; s++, out += 82) {
            grid_put_iq2_s(out, &supers[s]);
        }
    }
}

LANE_FN void grid_put_iq2_xs(unsigned char *out, const struct grid_block *block)
{
    lq_store_u16(out, block->d_bits);
    for (size_t g = 0; g < 32; g++) {
        unsigned code = block->points[g] | (block->signs[g] & 127u) << 9;
        lq_store_u16(out + 2 + 2 * g, (uint16_t)code);
    }
    for (size_t p = 0; p < 16; p += 2) {
        out[66 + p / 2] = (unsigned char)(block->small[p] | block->small[p + 1] << 4);
    }
}

LQ_DEVICE_FN void LANE_NAME(lq_encode_iq2_xs)(const float *row, void *blocks, size_t col_count,
                                              const float *importance)
{
    static const struct grid_shape shape = {
        .problem_count = 16,
        .elem_count = 16,
        .dims = 8,
        .digit_bits = 2,
        .radix = 3.0f,
        .levels = GRID_LEVELS_IQ2,
        .top = 43.0f,
        .digit_base = 8.0f,
        .digit_per_unit = 0x1p0f / 17.25f,
        .signs = GRID_SIGNS_EVEN,
        .shift = GRID_SHIFT_NONE,
        .d_factor = 8.0f,
        .small_max = 15.0f,
        .first = 0.7f,
        .step = 0.2f,
        .step_count = 5,
        .repeat_count = 2,
        .search_pairs = 4,
        .final_pairs = 12,
        .trial_reach = 1,
        .round_count = 1,
        .stretch = {0.6f, 0.25f, false},
    };
    struct lq_near near = lq_near_iq2xs();
    unsigned char *out = (unsigned char *)blocks;
    for (size_t i = 0, count; i < col_count; i += 256 * count) {
        struct grid_block supers[TILE_SUPERS_MAX];
        count = grid_encode(&shape, &near, row + i, grid_importance(importance, i),
                            (col_count - i) / 256, supers);
        for (size_t s = 0; s < count; s++, out += 74) {
            grid_put_iq2_xs(out, &supers[s]);
        }
    }
}

LANE_FN void grid_put_iq2_xxs(unsigned char *out, const struct grid_block *block)
{
    lq_store_u16(out, block->d_bits);
    for (size_t p = 0; p < 8; p++) {
        unsigned char *part = out + 2 + 8 * p;
        for (size_t k = 0; k < 4; k++) {
            part[k] = (unsigned char)block->points[4 * p + k];
        }
        lq_store_u32(part + 4, grid_sign_word(block->signs + 4 * p, block->small[p]));
    }
}

LQ_DEVICE_FN void LANE_NAME(lq_encode_iq2_xxs)(const float *row, void *blocks, size_t col_count,
                                               const float *importance)
{
    static const struct grid_shape shape = {
        .problem_count = 8,
        .elem_count = 32,
        .dims = 8,
        .digit_bits = 2,
        .radix = 3.0f,
        .levels = GRID_LEVELS_IQ2,
        .top = 43.0f,
        .digit_base = 8.0f,
        .digit_per_unit = 0x1p0f / 17.25f,
        .signs = GRID_SIGNS_EVEN,
        .shift = GRID_SHIFT_NONE,
        .d_factor = 8.0f,
        .small_max = 15.0f,
        .first = 0.7f,
        .step = 0.2f,
        .step_count = 5,
        .repeat_count = 2,
        .search_pairs = 4,
        .final_pairs = 12,
        .trial_reach = 1,
        .round_count = 1,
        .stretch = {0.6f, 0.25f, false},
    };
    struct lq_near near = lq_near_iq2xxs();
    unsigned char *out = (unsigned char *)blocks;
    for (size_t i = 0, count; i < col_count; i += 256 * count) {
        struct grid_block supers[TILE_SUPERS_MAX];
        count = grid_encode(&shape, &near, row + i, grid_importance(importance, i),
                            (col_count - i) / 256, supers);
        for (size_t s = 0; s < count; s++, out += 66) {
            grid_put_iq2_xxs(out, &supers[s]);
        }
    }
}

LANE_FN void grid_put_iq1_s(unsigned char *out, const struct grid_block *block)
{
    lq_store_u16(out, block->d_bits);
    for (size_t p = 0; p < 8; p++) {
        unsigned head = (unsigned)block->small[p] << 12 | (unsigned)block->down[p] << 15;
        for (size_t k = 0; k < 4; k++) {
            uint32_t point = block->points[4 * p + k];
            out[2 + 4 * p + k] = (unsigned char)point;
            head |= point >> 8 << (3 * k);
        }
        lq_store_u16(out + 34 + 2 * p, (uint16_t)head);
    }
}

LQ_DEVICE_FN void LANE_NAME(lq_encode_iq1_s)(const float *row, void *blocks, size_t col_count,
                                             const float *importance)
{
    static const struct grid_shape shape = {
        .problem_count = 8,
        .elem_count = 32,
        .dims = 8,
        .digit_bits = 2,
        .radix = 3.0f,
        .levels = {-1, 0, 1, 1, -1, 0, 1, 1},
        .top = 1.0f,
        .digit_base = -1.0f,
        .digit_per_unit = 1.0f,
        .signs = GRID_SIGNS_NONE,
        .shift = GRID_SHIFT_PROBLEM,
        .d_factor = 1.0f,
        .small_max = 7.0f,
        .first = 0.8f,
        .step = 0.4f,
        .step_count = 5,
        .repeat_count = 2,
        .search_pairs = 3,
        .final_pairs = 8,
        .trial_reach = 1,
        .round_count = 1,
        .stretch = {0.3f, 0.25f, false},
    };
    struct lq_near near = lq_near_iq1s();
    unsigned char *out = (unsigned char *)blocks;
    for (size_t i = 0, count; i < col_count; i += 256 * count) {
        struct grid_block supers[TILE_SUPERS_MAX];
        count = grid_encode(&shape, &near, row + i, grid_importance(importance, i),
                            (col_count - i) / 256, supers);
        for (size_t s = 0; s < count; s++, out += 50) {
            grid_put_iq1_s(out, &supers[s]);
        }
    }
}

LANE_FN void grid_put_iq1_m(unsigned char *out, const struct grid_block *block)
{
    memset(out, 0, 56);
    for (size_t g = 0; g < 32; g++) {
        unsigned high =
            (block->points[g] >> 8 & 7u) | (block->points[g] & GRID_SHIFT_DOWN ? 8u : 0u);
        out[g] = (unsigned char)block->points[g];
        out[32 + g / 2] |= (unsigned char)(high << (g % 2 * 4));
    }
    for (size_t k = 0; k < 4; k++) {
        unsigned word = (unsigned)(block->d_bits >> (4 * k) & 15) << 12;
        for (size_t p = 0; p < 4; p++) {
            word |= (unsigned)block->small[4 * k + p] << (3 * p);
        }
        lq_store_u16(out + 48 + 2 * k, (uint16_t)word);
    }
}

LQ_DEVICE_FN void LANE_NAME(lq_encode_iq1_m)(const float *row, void *blocks, size_t col_count,
                                             const float *importance)
{
    static const struct grid_shape shape = {
        .problem_count = 16,
        .elem_count = 16,
        .dims = 8,
        .digit_bits = 2,
        .radix = 3.0f,
        .levels = {-1, 0, 1, 1, -1, 0, 1, 1},
        .top = 1.0f,
        .digit_base = -1.0f,
        .digit_per_unit = 1.0f,
        .signs = GRID_SIGNS_NONE,
        .shift = GRID_SHIFT_GROUP,
        .d_factor = 1.0f,
        .small_max = 7.0f,
        .first = 0.8f,
        .step = 0.4f,
        .step_count = 5,
        .repeat_count = 2,
        .search_pairs = 3,
        .final_pairs = 8,
        .trial_reach = 1,
        .round_count = 1,
        .stretch = {0.6f, 0.25f, false},
    };
    struct lq_near near = lq_near_iq1s();
    unsigned char *out = (unsigned char *)blocks;
    for (size_t i = 0, count; i < col_count; i += 256 * count) {
        struct grid_block supers[TILE_SUPERS_MAX];
        count = grid_encode(&shape, &near, row + i, grid_importance(importance, i),
                            (col_count - i) / 256, supers);
        for (size_t s = 0; s < count; s++, out += 56) {
            grid_put_iq1_m(out, &supers[s]);
        }
    }
}

#endif
