/* Encoders of the types with few or uneven levels: IQ4_NL, MXFP4, NVFP4, the ternary and the one-
 * and two-bit types. Included once per CPU level after the lanes. Thread rule: pure. */
#ifndef LQ_KERNELS_SEARCH_ENCODE_BOOK_H
#define LQ_KERNELS_SEARCH_ENCODE_BOOK_H

#include "kernels/encode.h"
#include "kernels/search/coarse.h"

LANE_FN void put_iq4_nl(unsigned char *out, const struct small_batch *batch, size_t p)
{
    lq_store_u16(out, lq_f32_to_f16(batch->scale[p]));
    const uint8_t *codes = batch->codes + p * 32;
    for (size_t j = 0; j < 16; j++) {
        out[2 + j] = (unsigned char)(codes[j] | codes[j + 16] << 4);
    }
}

LQ_DEVICE_FN void LANE_NAME(lq_encode_iq4_nl)(const float *row, void *blocks, size_t col_count,
                                              const float *importance)
{
    static const struct small_type type = {
        .elem_count = 32,
        .problems = 1,
        .block_bytes = 18,
        .search = small_symmetric_search,
        .put = put_iq4_nl,
        .stretch = {0.0312f, 0.5f, true},
        .range = {-127.0f, 113.0f, -24.0f, 8.0f, 7, 2, true, &lq_book_iq4, false},
    };
    small_encode(&type, row, blocks, col_count, importance);
}

/* The 4-bit float whose doubled value is i - 12. */
LQ_DEVICE_TABLE static const uint8_t fp4_codes[25] = {15, 0, 0, 0, 14, 0, 13, 0, 12, 11, 10, 9, 0,
                                                      1,  2, 3, 4, 0,  5, 0,  6, 0,  0,  0,  7};

/* The scale is a power of two: values lie in [1, 2) at the peak, levels reach 12, so one of
 * 2^-5 .. 2^-2 is the best; 2^-128 is the format's smallest, and above 2^124 the largest level
 * would not be finite. */
LANE_FN void small_power_search(struct small_batch *batch, const struct small_type *type)
{
    for (size_t p = 0; p < batch->tile.problem_count; p += LANES) {
        const float *x = batch->tile.x + p * type->elem_count;
        const float *w = batch->tile.w + p * type->elem_count;
        lane_f unit = lane_load(batch->tile.scale.unit + p);
        lane_f best = lane_set(0.0f);
        lane_f best_error = lane_set(0x1p100f);
        for (int k = 0; k < 4; k += 2) {
            lane_f scales[SYMMETRIC_PAIR];
            for (int j = 0; j < SYMMETRIC_PAIR; j++) {
                scales[j] =
                    lane_max(lane_set(0x1p-5f * (float)(1 << (k + j))), lane_set(0x1p-128f) * unit);
                scales[j] = lane_min(scales[j], lane_set(0x1p124f) * unit);
            }
            lane_f error;
            lane_f scale = symmetric_better(x, w, type->elem_count, scales, &type->range, &error);
            lane_m better = lane_less(error, best_error);
            best = lane_select(better, scale, best);
            best_error = lane_select(better, error, best_error);
        }
        lane_store(batch->scale + p, best / unit);
    }
    small_symmetric_codes(batch, type);
}

LANE_FN void put_mxfp4(unsigned char *out, const struct small_batch *batch, size_t p)
{
    const uint8_t *codes = batch->codes + p * 32;
    /* scale = 2^(e - 128), and frexp gives a fraction of 1/2. */
    int exponent;
    frexpf(batch->scale[p], &exponent);
    out[0] = (unsigned char)(exponent + 127);
    for (size_t j = 0; j < 16; j++) {
        out[1 + j] = (unsigned char)(fp4_codes[codes[j]] | fp4_codes[codes[j + 16]] << 4);
    }
}

LQ_DEVICE_FN void LANE_NAME(lq_encode_mxfp4)(const float *row, void *blocks, size_t col_count,
                                             const float *importance)
{
    static const struct small_type type = {
        .elem_count = 32,
        .problems = 1,
        .block_bytes = 17,
        .search = small_power_search,
        .put = put_mxfp4,
        .range = {-12.0f, 12.0f, 0.0f, 0.0f, 0, 0, false, NULL, true},
    };
    small_encode(&type, row, blocks, col_count, importance);
}

#define UE4M3_BEFORE 5
#define UE4M3_TRIALS 9

/* The largest code up to 126 whose value is at most `value`, which is not negative. */
LANE_FN int ue4m3_floor(float value)
{
    if (value < 0x1p-6f) {
        return (int)(value * 0x1p9f);
    }
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    /* Exponents are counted from -7 instead of -127, and three bits follow. */
    int code = (int)(bits >> 20) - 8 * 120;
    return code < 126 ? code : 126;
}

/* The scale is one of 127 small floats: trials around the one that fits the peak. */
LANE_FN void small_float_search(struct small_batch *batch, const struct small_type *type)
{
    for (size_t p = 0; p < batch->tile.problem_count; p += LANES) {
        const float *x = batch->tile.x + p * type->elem_count;
        const float *w = batch->tile.w + p * type->elem_count;
        lane_f peak = lane_abs(tile_peak(&batch->tile, p));
        float peaks[LANES];
        float starts[LANES];
        lane_store(peaks, peak);
        for (size_t k = 0; k < LANES; k++) {
            int code = ue4m3_floor(peaks[k] / batch->tile.scale.unit[p + k] * (1.0f / 6.0f));
            starts[k] = (float)(code - UE4M3_BEFORE);
        }
        lane_f start = lane_load(starts);
        /* Half, because the levels are doubled. */
        lane_f half_unit = lane_load(batch->tile.scale.unit + p) * lane_set(0.5f);
        lane_f best = lane_set(0.0f);
        lane_f best_error = lane_set(0x1p100f);
        for (int trial = 0; trial < UE4M3_TRIALS; trial += SYMMETRIC_ABREAST) {
            lane_f abreast[SYMMETRIC_ABREAST];
            for (int j = 0; j < SYMMETRIC_ABREAST; j++) {
                lane_f code = start + lane_set((float)(trial + j));
                code = lane_max(lane_min(code, lane_set(126.0f)), lane_set(0.0f));
                abreast[j] = lane_ue4m3(code) * half_unit;
            }
            lane_f error;
            lane_f scale = symmetric_best(x, w, type->elem_count, abreast, &type->range, &error);
            lane_m better = lane_less(error, best_error);
            best = lane_select(better, scale, best);
            best_error = lane_select(better, error, best_error);
        }
        lane_store(batch->scale + p, best / lane_load(batch->tile.scale.unit + p));
    }
    small_symmetric_codes(batch, type);
}

LANE_FN void put_nvfp4(unsigned char *out, const struct small_batch *batch, size_t p)
{
    for (size_t q = 0; q < 4; q++) {
        const uint8_t *codes = batch->codes + (p + q) * 16;
        out[q] = (unsigned char)ue4m3_floor(batch->scale[p + q] * 2.0f);
        for (size_t j = 0; j < 8; j++) {
            out[4 + 8 * q + j] =
                (unsigned char)(fp4_codes[codes[j]] | fp4_codes[codes[j + 8]] << 4);
        }
    }
}

LQ_DEVICE_FN void LANE_NAME(lq_encode_nvfp4)(const float *row, void *blocks, size_t col_count,
                                             const float *importance)
{
    static const struct small_type type = {
        .elem_count = 16,
        .problems = 4,
        .block_bytes = 36,
        .search = small_float_search,
        .put = put_nvfp4,
        .range = {-12.0f, 12.0f, 0.0f, 0.0f, 0, 0, false, NULL, true},
    };
    small_encode(&type, row, blocks, col_count, importance);
}

/* Five base-3 digits, the first the highest, as a fraction of 256. */
LANE_FN unsigned char trits_byte(unsigned value)
{
    return (unsigned char)((value * 256 + 242) / 243);
}

LANE_FN void put_tq1_0(unsigned char *out, const struct small_batch *batch, size_t p)
{
    const uint8_t *codes = batch->codes + p * 256;
    for (size_t j = 0; j < 48; j++) {
        size_t stride = j < 32 ? 32 : 16;
        const uint8_t *from = j < 32 ? codes + j : codes + 160 + (j - 32);
        unsigned value = 0;
        for (size_t n = 0; n < 5; n++) {
            value = 3 * value + from[n * stride];
        }
        out[j] = trits_byte(value);
    }
    for (size_t j = 0; j < 4; j++) {
        unsigned value = 0;
        for (size_t n = 0; n < 4; n++) {
            value = 3 * value + codes[240 + j + 4 * n];
        }
        out[48 + j] = trits_byte(3 * value);
    }
    lq_store_u16(out + 52, lq_f32_to_f16(batch->scale[p]));
}

LQ_DEVICE_FN void LANE_NAME(lq_encode_tq1_0)(const float *row, void *blocks, size_t col_count,
                                             const float *importance)
{
    static const struct small_type type = {
        .elem_count = 256,
        .problems = 1,
        .block_bytes = 54,
        .search = small_ternary_search,
        .put = put_tq1_0,
        .range = {-1.0f, 1.0f, 0.0f, 0.0f, 0, 0, false, NULL, false},
    };
    small_encode(&type, row, blocks, col_count, importance);
}

LANE_FN void put_tq2_0(unsigned char *out, const struct small_batch *batch, size_t p)
{
    for (size_t j = 0; j < 64; j++) {
        const uint8_t *from = batch->codes + p * 256 + j / 32 * 128 + j % 32;
        out[j] = (unsigned char)(from[0] | from[32] << 2 | from[64] << 4 | from[96] << 6);
    }
    lq_store_u16(out + 64, lq_f32_to_f16(batch->scale[p]));
}

LQ_DEVICE_FN void LANE_NAME(lq_encode_tq2_0)(const float *row, void *blocks, size_t col_count,
                                             const float *importance)
{
    static const struct small_type type = {
        .elem_count = 256,
        .problems = 1,
        .block_bytes = 66,
        .search = small_ternary_search,
        .put = put_tq2_0,
        .range = {-1.0f, 1.0f, 0.0f, 0.0f, 0, 0, false, NULL, false},
    };
    small_encode(&type, row, blocks, col_count, importance);
}

LANE_FN void put_q2_0(unsigned char *out, const struct small_batch *batch, size_t p)
{
    lq_store_u16(out, lq_f32_to_f16(batch->scale[p]));
    const uint8_t *codes = batch->codes + p * 64;
    uint8_t pairs[32];
    for (size_t j = 0; j < 32; j++) {
        pairs[j] = (uint8_t)(codes[2 * j] | codes[2 * j + 1] << 2);
    }
    for (size_t j = 0; j < 16; j++) {
        out[2 + j] = (unsigned char)(pairs[2 * j] | pairs[2 * j + 1] << 4);
    }
}

LQ_DEVICE_FN void LANE_NAME(lq_encode_q2_0)(const float *row, void *blocks, size_t col_count,
                                            const float *importance)
{
    static const struct small_type type = {
        .elem_count = 64,
        .problems = 1,
        .block_bytes = 18,
        .search = small_two_bit_search,
        .put = put_q2_0,
        .range = {-1.0f, 2.0f, 0.0f, 0.0f, 0, 0, true, NULL, false},
    };
    small_encode(&type, row, blocks, col_count, importance);
}

/* One bit per value: the best scale is the weighted mean magnitude. */
LANE_FN void small_sign_search(struct small_batch *batch, const struct small_type *type)
{
    for (size_t p = 0; p < batch->tile.problem_count; p += LANES) {
        const float *x = batch->tile.x + p * type->elem_count;
        const float *w = batch->tile.w + p * type->elem_count;
        lane_f sum = lane_set(0.0f);
        lane_f sum_w = lane_set(0.0f);
        for (size_t i = 0; i < type->elem_count * LANES; i += LANES) {
            lane_f weight = lane_load(w + i);
            sum = sum + weight * lane_abs(lane_load(x + i));
            sum_w = sum_w + weight;
        }
        lane_f unit = lane_load(batch->tile.scale.unit + p);
        lane_store(batch->scale + p, small_half(sum / sum_w, unit) / unit);
    }
    for (size_t i = 0; i < batch->tile.problem_count * type->elem_count; i++) {
        batch->codes[i] = batch->row[i] >= 0.0f;
    }
}

LANE_FN void put_q1_0(unsigned char *out, const struct small_batch *batch, size_t p)
{
    lq_store_u16(out, lq_f32_to_f16(batch->scale[p]));
    for (size_t j = 0; j < 16; j++) {
        unsigned bits = 0;
        for (size_t k = 0; k < 8; k++) {
            bits |= (unsigned)batch->codes[p * 128 + 8 * j + k] << k;
        }
        out[2 + j] = (unsigned char)bits;
    }
}

LQ_DEVICE_FN void LANE_NAME(lq_encode_q1_0)(const float *row, void *blocks, size_t col_count,
                                            const float *importance)
{
    static const struct small_type type = {
        .elem_count = 128,
        .problems = 1,
        .block_bytes = 18,
        .search = small_sign_search,
        .put = put_q1_0,
    };
    small_encode(&type, row, blocks, col_count, importance);
}

#endif
