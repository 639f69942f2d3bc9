/* Encoders of the blocks of 32 with linear levels and a half scale (Q4_0, Q5_0, Q8_0) or a half
 * scale and offset (Q4_1, Q5_1). Included once per CPU level after the lanes. Thread rule: pure. */
#ifndef LQ_KERNELS_SEARCH_ENCODE_SMALL_H
#define LQ_KERNELS_SEARCH_ENCODE_SMALL_H

#include "kernels/encode.h"
#include "kernels/search/small.h"

LANE_FN void small_put_nibbles(unsigned char *out, const uint8_t *codes)
{
    for (size_t j = 0; j < 16; j++) {
        out[j] = (unsigned char)((codes[j] & 15) | codes[j + 16] << 4);
    }
}

LANE_FN void small_put_fifth_bits(unsigned char *out, const uint8_t *codes)
{
    uint32_t high = 0;
    for (size_t j = 0; j < 32; j++) {
        high |= (uint32_t)(codes[j] >> 4) << j;
    }
    lq_store_u32(out, high);
}

LANE_FN void put_q4_0(unsigned char *out, const struct small_batch *batch, size_t p)
{
    lq_store_u16(out, lq_f32_to_f16(batch->scale[p]));
    small_put_nibbles(out + 2, batch->codes + p * 32);
}

LQ_DEVICE_FN void LANE_NAME(lq_encode_q4_0)(const float *row, void *blocks, size_t col_count,
                                            const float *importance)
{
    static const struct small_type type = {
        .elem_count = 32,
        .problems = 1,
        .block_bytes = 18,
        .search = small_symmetric_search,
        .put = put_q4_0,
        .stretch = {0.0078f, 0.5f, true},
        .range = {-8.0f, 7.0f, -1.0f, 0.4f, 6, 2, true, NULL, false},
    };
    small_encode(&type, row, blocks, col_count, importance);
}

LANE_FN void put_q5_0(unsigned char *out, const struct small_batch *batch, size_t p)
{
    const uint8_t *codes = batch->codes + p * 32;
    lq_store_u16(out, lq_f32_to_f16(batch->scale[p]));
    small_put_fifth_bits(out + 2, codes);
    small_put_nibbles(out + 6, codes);
}

LQ_DEVICE_FN void LANE_NAME(lq_encode_q5_0)(const float *row, void *blocks, size_t col_count,
                                            const float *importance)
{
    static const struct small_type type = {
        .elem_count = 32,
        .problems = 1,
        .block_bytes = 22,
        .search = small_symmetric_search,
        .put = put_q5_0,
        .stretch = {0.0078f, 0.5f, true},
        .range = {-16.0f, 15.0f, -2.0f, 0.6f, 6, 2, true, NULL, false},
    };
    small_encode(&type, row, blocks, col_count, importance);
}

LANE_FN void put_q8_0(unsigned char *out, const struct small_batch *batch, size_t p)
{
    const uint8_t *codes = batch->codes + p * 32;
    lq_store_u16(out, lq_f32_to_f16(batch->scale[p]));
    for (size_t j = 0; j < 32; j++) {
        out[2 + j] = (unsigned char)(codes[j] - 127);
    }
}

/* -128 is left out: the other end has no partner for it, and some readers negate codes. */
LQ_DEVICE_FN void LANE_NAME(lq_encode_q8_0)(const float *row, void *blocks, size_t col_count,
                                            const float *importance)
{
    static const struct small_type type = {
        .elem_count = 32,
        .problems = 1,
        .block_bytes = 34,
        .search = small_fine_search,
        .put = put_q8_0,
        .range = {-127.0f, 127.0f, -5.0f, 1.0f, 6, 0, false, NULL, false},
    };
    small_encode(&type, row, blocks, col_count, importance);
}

LANE_FN void put_q4_1(unsigned char *out, const struct small_batch *batch, size_t p)
{
    lq_store_u16(out, lq_f32_to_f16(batch->scale[p]));
    lq_store_u16(out + 2, lq_f32_to_f16(batch->offset[p]));
    small_put_nibbles(out + 4, batch->codes + p * 32);
}

LQ_DEVICE_FN void LANE_NAME(lq_encode_q4_1)(const float *row, void *blocks, size_t col_count,
                                            const float *importance)
{
    static const struct small_type type = {
        .elem_count = 32,
        .problems = 1,
        .block_bytes = 20,
        .search = small_affine_search,
        .put = put_q4_1,
        .stretch = {0.0039f, 0.5f, true},
        .trials = {15.0f, true, 3},
    };
    small_encode(&type, row, blocks, col_count, importance);
}

LANE_FN void put_q5_1(unsigned char *out, const struct small_batch *batch, size_t p)
{
    const uint8_t *codes = batch->codes + p * 32;
    lq_store_u16(out, lq_f32_to_f16(batch->scale[p]));
    lq_store_u16(out + 2, lq_f32_to_f16(batch->offset[p]));
    small_put_fifth_bits(out + 4, codes);
    small_put_nibbles(out + 8, codes);
}

LQ_DEVICE_FN void LANE_NAME(lq_encode_q5_1)(const float *row, void *blocks, size_t col_count,
                                            const float *importance)
{
    static const struct small_type type = {
        .elem_count = 32,
        .problems = 1,
        .block_bytes = 24,
        .search = small_affine_search,
        .put = put_q5_1,
        .stretch = {0.001f, 0.5f, true},
        .trials = {31.0f, true, 3},
    };
    small_encode(&type, row, blocks, col_count, importance);
}

#endif
