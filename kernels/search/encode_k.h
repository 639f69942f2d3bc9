/* Encoders of the K types. Included once per CPU level after the lanes. Thread rule: pure. */
#ifndef LQ_KERNELS_SEARCH_ENCODE_K_H
#define LQ_KERNELS_SEARCH_ENCODE_K_H

#include "kernels/bytes.h"
#include "kernels/encode.h"
#include "kernels/pack.h"
#include "kernels/search/k_affine.h"
#include "kernels/search/k_symmetric.h"
#include "kernels/search/stretch.h"

/* The next super-blocks of a row, as many as fill the lanes: `left` of them follow. Returns how
 * many there are in `fit` and `codes`. */
LANE_FN size_t k_affine_encode(const struct k_affine_shape *shape, const float *row,
                               const float *importance, size_t left, struct k_affine *fit,
                               uint8_t *codes)
{
    struct tile tile;
    size_t super_count = tile_super_count(shape->problem_count, left);
    tile.problem_count = shape->problem_count * super_count;
    tile.elem_count = shape->elem_count;
    tile.group_size = shape->problem_count;
    tile_load(&tile, row, importance);
    *fit = k_affine_search(&tile, shape);
    k_affine_codes(&tile, shape, fit, row, codes);
    float factors[TILE_SUPERS_MAX];
    stretch_tile(&tile, fit->error, shape->stretch, factors);
    for (size_t s = 0; s < super_count; s++) {
        struct super_half *d = &fit->d[s];
        struct super_half *dmin = &fit->dmin[s];
        float unit = tile.scale.unit[s * shape->problem_count];
        if (stretch_applies(d->bits) && (dmin->bits == 0 || stretch_applies(dmin->bits))) {
            *d = super_half_of(d->value * factors[s], unit);
            *dmin = super_half_of(dmin->value * factors[s], unit);
        }
    }
    return super_count;
}

/* The lower four bits of two codes in a byte. */
LANE_FN void k_put_nibbles(unsigned char *out, const uint8_t *low, const uint8_t *high,
                           size_t count)
{
    for (size_t j = 0; j < count; j++) {
        out[j] = (unsigned char)((low[j] & 15) | high[j] << 4);
    }
}

/* One bit of 256 codes, which is their highest: byte j has value j lowest, then j + 32 ... */
LANE_FN void k_put_high_bits(unsigned char *out, const uint8_t *codes, int bit)
{
    uint8_t high[32] = {0};
    for (size_t p = 0; p < 8; p++) {
        for (size_t j = 0; j < 32; j++) {
            high[j] = (uint8_t)(high[j] | codes[p * 32 + j] >> bit << p);
        }
    }
    memcpy(out, high, sizeof high);
}

/* The scales and mins of Q4_K and Q5_K, behind d and dmin. */
LANE_FN void k_affine_put_head(unsigned char *out, const struct k_affine *fit, size_t super)
{
    uint8_t scales[8];
    uint8_t mins[8];
    for (size_t p = 0; p < 8; p++) {
        scales[p] = (uint8_t)fit->scale[8 * super + p];
        mins[p] = (uint8_t)fit->min[8 * super + p];
    }
    lq_store_u16(out, fit->d[super].bits);
    lq_store_u16(out + 2, fit->dmin[super].bits);
    lq_pack_scales_q4_k(out + 4, scales, mins);
}

LANE_FN void k_put_q4_k(unsigned char *out, const struct k_affine *fit, size_t super,
                        const uint8_t *codes)
{
    k_affine_put_head(out, fit, super);
    for (size_t p = 0; p < 8; p += 2) {
        k_put_nibbles(out + 16 + 16 * p, codes + 32 * p, codes + 32 * p + 32, 32);
    }
}

LQ_DEVICE_FN void LANE_NAME(lq_encode_q4_k)(const float *row, void *blocks, size_t col_count,
                                            const float *importance)
{
    static const struct k_affine_shape shape = {
        .problem_count = 8,
        .elem_count = 32,
        .small_max = 63.0f,
        .trials = {15.0f, false, 2},
        .min_reach = 1,
        .stretch = {0.0078f, 0.25f, true},
    };
    unsigned char *out = (unsigned char *)blocks;
    for (size_t i = 0, count; i < col_count; i += 256 * count) {
        struct k_affine fit;
        uint8_t codes[256 * TILE_SUPERS_MAX];
        count = k_affine_encode(&shape, row + i, importance == NULL ? NULL : importance + i,
                                (col_count - i) / 256, &fit, codes);
        for (size_t s = 0; s < count; s++, out += 144) {
            k_put_q4_k(out, &fit, s, codes + 256 * s);
        }
    }
}

LANE_FN void k_put_q5_k(unsigned char *out, const struct k_affine *fit, size_t super,
                        const uint8_t *codes)
{
    k_affine_put_head(out, fit, super);
    k_put_high_bits(out + 16, codes, 4);
    for (size_t p = 0; p < 8; p += 2) {
        k_put_nibbles(out + 48 + 16 * p, codes + 32 * p, codes + 32 * p + 32, 32);
    }
}

LQ_DEVICE_FN void LANE_NAME(lq_encode_q5_k)(const float *row, void *blocks, size_t col_count,
                                            const float *importance)
{
    static const struct k_affine_shape shape = {
        .problem_count = 8,
        .elem_count = 32,
        .small_max = 63.0f,
        .trials = {31.0f, false, 2},
        .min_reach = 3,
        .stretch = {0.0078f, 0.25f, true},
    };
    unsigned char *out = (unsigned char *)blocks;
    for (size_t i = 0, count; i < col_count; i += 256 * count) {
        struct k_affine fit;
        uint8_t codes[256 * TILE_SUPERS_MAX];
        count = k_affine_encode(&shape, row + i, importance == NULL ? NULL : importance + i,
                                (col_count - i) / 256, &fit, codes);
        for (size_t s = 0; s < count; s++, out += 176) {
            k_put_q5_k(out, &fit, s, codes + 256 * s);
        }
    }
}

/* Bit pairs of 256 codes: 128 values share 32 bytes, the first 32 of them the lowest pairs. */
LANE_FN void k_put_pairs(unsigned char *out, const uint8_t *codes)
{
    for (size_t half = 0; half < 2; half++) {
        const uint8_t *from = codes + 128 * half;
        unsigned char *pairs = out + 32 * half;
        for (size_t j = 0; j < 32; j++) {
            pairs[j] = (unsigned char)((from[j] & 3) | (from[32 + j] & 3) << 2 |
                                       (from[64 + j] & 3) << 4 | (from[96 + j] & 3) << 6);
        }
    }
}

LANE_FN void k_put_q2_k(unsigned char *out, const struct k_affine *fit, size_t super,
                        const uint8_t *codes)
{
    for (size_t p = 0; p < 16; p++) {
        out[p] = (unsigned char)((unsigned)fit->scale[16 * super + p] |
                                 (unsigned)fit->min[16 * super + p] << 4);
    }
    k_put_pairs(out + 16, codes);
    lq_store_u16(out + 80, fit->d[super].bits);
    lq_store_u16(out + 82, fit->dmin[super].bits);
}

LQ_DEVICE_FN void LANE_NAME(lq_encode_q2_k)(const float *row, void *blocks, size_t col_count,
                                            const float *importance)
{
    static const struct k_affine_shape shape = {
        .problem_count = 16,
        .elem_count = 16,
        .small_max = 15.0f,
        .trials = {3.0f, false, 2},
        .min_reach = 1,
        .stretch = {0.42f, 0.25f, true},
    };
    unsigned char *out = (unsigned char *)blocks;
    for (size_t i = 0, count; i < col_count; i += 256 * count) {
        struct k_affine fit;
        uint8_t codes[256 * TILE_SUPERS_MAX];
        count = k_affine_encode(&shape, row + i, importance == NULL ? NULL : importance + i,
                                (col_count - i) / 256, &fit, codes);
        for (size_t s = 0; s < count; s++, out += 84) {
            k_put_q2_k(out, &fit, s, codes + 256 * s);
        }
    }
}

LANE_FN size_t k_symmetric_encode(const struct k_symmetric_shape *shape, const float *row,
                                  const float *importance, size_t left, struct k_symmetric *fit,
                                  uint8_t *codes)
{
    struct tile tile;
    size_t super_count = tile_super_count(shape->problem_count, left);
    tile.problem_count = shape->problem_count * super_count;
    tile.elem_count = shape->elem_count;
    tile.group_size = shape->problem_count;
    tile_load(&tile, row, importance);
    *fit = k_symmetric_search(&tile, shape);
    k_symmetric_codes(&tile, shape, fit, row, codes);
    float factors[TILE_SUPERS_MAX];
    stretch_tile(&tile, fit->error, shape->stretch, factors);
    for (size_t s = 0; s < super_count; s++) {
        if (stretch_applies(fit->d[s].bits)) {
            fit->d[s] = super_half_of(fit->d[s].value * factors[s],
                                      tile.scale.unit[s * shape->problem_count]);
        }
    }
    return super_count;
}

LANE_FN void k_put_q3_k(unsigned char *out, const struct k_symmetric *fit, size_t super,
                        const uint8_t *codes)
{
    int8_t scales[16];
    for (size_t p = 0; p < 16; p++) {
        scales[p] = (int8_t)fit->scale[16 * super + p];
    }
    k_put_high_bits(out, codes, 2);
    k_put_pairs(out + 32, codes);
    lq_pack_scales_q3_k(out + 96, scales);
    lq_store_u16(out + 108, fit->d[super].bits);
}

LQ_DEVICE_FN void LANE_NAME(lq_encode_q3_k)(const float *row, void *blocks, size_t col_count,
                                            const float *importance)
{
    static const struct k_symmetric_shape shape = {
        .problem_count = 16,
        .elem_count = 16,
        .codes = {-4.0f, 3.0f, -1.2f, 0.4f, 7, 1, true, NULL, false},
        .small_low = -32.0f,
        .small_high = 31.0f,
        .stretch = {0.03f, 0.125f, true},
    };
    unsigned char *out = (unsigned char *)blocks;
    for (size_t i = 0, count; i < col_count; i += 256 * count) {
        struct k_symmetric fit;
        uint8_t codes[256 * TILE_SUPERS_MAX];
        count = k_symmetric_encode(&shape, row + i, importance == NULL ? NULL : importance + i,
                                   (col_count - i) / 256, &fit, codes);
        for (size_t s = 0; s < count; s++, out += 110) {
            k_put_q3_k(out, &fit, s, codes + 256 * s);
        }
    }
}

LANE_FN void k_put_q6_k(unsigned char *out, const struct k_symmetric *fit, size_t super,
                        const uint8_t *codes)
{
    for (size_t half = 0; half < 2; half++) {
        const uint8_t *from = codes + 128 * half;
        k_put_nibbles(out + 64 * half, from, from + 64, 64);
        unsigned char *high = out + 128 + 32 * half;
        for (size_t j = 0; j < 32; j++) {
            high[j] = (unsigned char)(from[j] >> 4 | (from[32 + j] & 48) >> 2 |
                                      (from[64 + j] & 48) | (from[96 + j] & 48) << 2);
        }
    }
    for (size_t p = 0; p < 16; p++) {
        out[192 + p] = (unsigned char)(int8_t)fit->scale[16 * super + p];
    }
    lq_store_u16(out + 208, fit->d[super].bits);
}

LQ_DEVICE_FN void LANE_NAME(lq_encode_q6_k)(const float *row, void *blocks, size_t col_count,
                                            const float *importance)
{
    static const struct k_symmetric_shape shape = {
        .problem_count = 16,
        .elem_count = 16,
        .codes = {-32.0f, 31.0f, -5.0f, 1.0f, 6, 0, false, NULL, false},
        .small_low = -128.0f,
        .small_high = 127.0f,
        .stretch = {0.0018f, 0.25f, true},
    };
    unsigned char *out = (unsigned char *)blocks;
    for (size_t i = 0, count; i < col_count; i += 256 * count) {
        struct k_symmetric fit;
        uint8_t codes[256 * TILE_SUPERS_MAX];
        count = k_symmetric_encode(&shape, row + i, importance == NULL ? NULL : importance + i,
                                   (col_count - i) / 256, &fit, codes);
        for (size_t s = 0; s < count; s++, out += 210) {
            k_put_q6_k(out, &fit, s, codes + 256 * s);
        }
    }
}

LANE_FN void k_put_iq4_xs(unsigned char *out, const struct k_symmetric *fit, size_t super,
                          const uint8_t *codes)
{
    unsigned high = 0;
    unsigned low = 0;
    for (size_t p = 0; p < 8; p++) {
        unsigned code = (unsigned)((int)fit->scale[8 * super + p] + 32);
        low |= (code & 15u) << (4 * p);
        high |= code >> 4 << (2 * p);
    }
    lq_store_u16(out, fit->d[super].bits);
    lq_store_u16(out + 2, (uint16_t)high);
    lq_store_u32(out + 4, low);
    for (size_t p = 0; p < 8; p++) {
        k_put_nibbles(out + 8 + 16 * p, codes + 32 * p, codes + 32 * p + 16, 16);
    }
}

LQ_DEVICE_FN void LANE_NAME(lq_encode_iq4_xs)(const float *row, void *blocks, size_t col_count,
                                              const float *importance)
{
    static const struct k_symmetric_shape shape = {
        .problem_count = 8,
        .elem_count = 32,
        .codes = {-127.0f, 113.0f, -24.0f, 8.0f, 7, 1, true, &lq_book_iq4, false},
        .small_low = -32.0f,
        .small_high = 31.0f,
        .stretch = {0.0442f, 0.25f, true},
    };
    unsigned char *out = (unsigned char *)blocks;
    for (size_t i = 0, count; i < col_count; i += 256 * count) {
        struct k_symmetric fit;
        uint8_t codes[256 * TILE_SUPERS_MAX];
        count = k_symmetric_encode(&shape, row + i, importance == NULL ? NULL : importance + i,
                                   (col_count - i) / 256, &fit, codes);
        for (size_t s = 0; s < count; s++, out += 136) {
            k_put_iq4_xs(out, &fit, s, codes + 256 * s);
        }
    }
}

#endif
