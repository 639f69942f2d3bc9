/* The vector decoders of the types with code books, grids and few levels: their levels, signed, fit
 * into bytes, so they end in the same products as the others. See decode_body.h. Internal to the
 * kernels. Thread rule: pure. */
#ifndef LQ_KERNELS_X86_DECODE_BOOK_BODY_H
#define LQ_KERNELS_X86_DECODE_BOOK_BODY_H

#if defined(__AVX2__)

#include <string.h>

#include "kernels/x86/decode_body.h"

/* Sixteen levels in bytes, twice, to be looked up by the low four bits. */
static inline __m256i book_of(const int8_t levels[16])
{
    return _mm256_broadcastsi128_si256(load16((const unsigned char *)levels));
}

/* Eight levels twice, or four four times. */
static inline __m256i book_of_eight(const int8_t levels[8])
{
    uint64_t all;
    memcpy(&all, levels, sizeof all);
    return _mm256_set1_epi64x((long long)all);
}

/* Thirty-two two-bit codes, the lowest bits first. */
static inline __m256i two_bit_codes(uint64_t bits)
{
    const __m128i three = _mm_set1_epi8(3);
    __m128i bytes = _mm_cvtsi64_si128((long long)bits);
    __m128i first = _mm_and_si128(bytes, three);
    __m128i second = _mm_and_si128(_mm_srli_epi16(bytes, 2), three);
    __m128i third = _mm_and_si128(_mm_srli_epi16(bytes, 4), three);
    __m128i fourth = _mm_and_si128(_mm_srli_epi16(bytes, 6), three);
    __m128i even = _mm_unpacklo_epi8(first, second);
    __m128i odd = _mm_unpacklo_epi8(third, fourth);
    return _mm256_set_m128i(_mm_unpackhi_epi16(even, odd), _mm_unpacklo_epi16(even, odd));
}

/* Minus where bit i of `bits` is set. */
static inline __m256i with_signs(__m256i codes, uint32_t bits)
{
    __m256i minus = bit_mask(bits);
    return _mm256_sub_epi8(_mm256_xor_si256(codes, minus), minus);
}

static inline void put_32(float *out, __m256i codes, wide_f first, wide_f second)
{
    put_scaled(out, low_half(codes), first);
    put_scaled(out + 16, high_half(codes), second);
}

void DECODE_NAME(lq_decode_iq4_nl)(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    __m256i book = book_of(lq_levels_iq4);
    for (size_t i = 0; i < elem_count; i += 32, in += 18) {
        wide_f d = half_lanes(in);
        put_32(out + i, _mm256_shuffle_epi8(book, nibbles(in + 2)), d, d);
    }
}

void DECODE_NAME(lq_decode_iq4_xs)(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    __m256i book = book_of(lq_levels_iq4);
    for (size_t i = 0; i < elem_count; i += 256, in += 136) {
        float d = half_value(in);
        unsigned high = lq_load_u16(in + 2);
        uint32_t low = lq_load_u32(in + 4);
        for (size_t p = 0; p < 8; p++) {
            int scale = (int)((low >> (4 * p) & 15u) | (high >> (2 * p) & 3u) << 4) - 32;
            wide_f step = wide_set(d * (float)scale);
            __m256i codes = _mm256_shuffle_epi8(book, nibbles(in + 8 + 16 * p));
            put_32(out + i + 32 * p, codes, step, step);
        }
    }
}

void DECODE_NAME(lq_decode_mxfp4)(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    __m256i book = book_of(lq_levels_fp4);
    for (size_t i = 0; i < elem_count; i += 32, in += 17) {
        /* 2^(e - 128) by its bits; the two smallest are denormal. */
        uint32_t e = in[0];
        uint32_t bits = e < 2 ? 0x00200000u << e : (e - 1) << 23;
        float d;
        memcpy(&d, &bits, sizeof d);
        put_32(out + i, _mm256_shuffle_epi8(book, nibbles(in + 1)), wide_set(d), wide_set(d));
    }
}

void DECODE_NAME(lq_decode_nvfp4)(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    __m256i book = book_of(lq_levels_fp4);
    for (size_t i = 0; i < elem_count; i += 64, in += 36) {
        for (size_t p = 0; p < 4; p += 2) {
            wide_f d[2];
            for (size_t k = 0; k < 2; k++) {
                /* Only 0x7f is no number; bit 7 counts for nothing else. */
                unsigned char code = in[p + k];
                float value = code == 0xff ? 480.0f : lq_ue4m3_values[code & 127];
                d[k] = wide_set(value * 0.5f);
            }
            /* Eight bytes per sub-block; each half gets its low nibbles, then its high ones. */
            __m128i bytes = load16(in + 4 + 8 * p);
            __m128i low = _mm_and_si128(bytes, _mm_set1_epi8(15));
            __m128i high = _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15));
            __m256i codes =
                _mm256_set_m128i(_mm_unpackhi_epi64(low, high), _mm_unpacklo_epi64(low, high));
            put_32(out + i + 16 * p, _mm256_shuffle_epi8(book, codes), d[0], d[1]);
        }
    }
}

/* The highest base-3 digit, minus 1, of bytes that hold fractions of 256. */
static inline __m128i trits(__m128i bytes)
{
    __m128i one = _mm_cmpeq_epi8(_mm_max_epu8(bytes, _mm_set1_epi8(86)), bytes);
    __m128i two = _mm_cmpeq_epi8(_mm_max_epu8(bytes, _mm_set1_epi8((char)171)), bytes);
    return _mm_sub_epi8(_mm_set1_epi8(-1), _mm_add_epi8(one, two));
}

static inline __m128i three_times(__m128i bytes)
{
    return _mm_add_epi8(bytes, _mm_add_epi8(bytes, bytes));
}

void DECODE_NAME(lq_decode_tq1_0)(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 54) {
        wide_f d = half_lanes(in + 52);
        __m128i first = load16(in);
        __m128i second = load16(in + 16);
        __m128i third = load16(in + 32);
        for (size_t n = 0; n < 5; n++) {
            put_scaled(out + i + 32 * n, trits(first), d);
            put_scaled(out + i + 32 * n + 16, trits(second), d);
            put_scaled(out + i + 160 + 16 * n, trits(third), d);
            first = three_times(first);
            second = three_times(second);
            third = three_times(third);
        }
        /* The last four bytes hold four digits each: one power of 3 per 32-bit lane. */
        __m128i one = _mm_set1_epi32((int)lq_load_u32(in + 48));
        __m128i three = three_times(one);
        __m128i nine = three_times(three);
        __m128i last = _mm_blend_epi32(_mm_blend_epi32(one, three, 2),
                                       _mm_blend_epi32(nine, three_times(nine), 8), 12);
        put_scaled(out + i + 240, trits(last), d);
    }
}

void DECODE_NAME(lq_decode_tq2_0)(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 66) {
        wide_f d = half_lanes(in + 64);
        for (size_t p = 0; p < 8; p++) {
            __m256i codes = bit_pairs(load32(in + p / 4 * 32), (int)(p % 4 * 2));
            put_32(out + i + 32 * p, _mm256_sub_epi8(codes, _mm256_set1_epi8(1)), d, d);
        }
    }
}

void DECODE_NAME(lq_decode_q1_0)(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    for (size_t i = 0; i < elem_count; i += 128, in += 18) {
        wide_f d = half_lanes(in);
        for (size_t p = 0; p < 4; p++) {
            uint32_t minus = ~lq_load_u32(in + 2 + 4 * p);
            put_32(out + i + 32 * p, with_signs(_mm256_set1_epi8(1), minus), d, d);
        }
    }
}

void DECODE_NAME(lq_decode_q2_0)(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    for (size_t i = 0; i < elem_count; i += 64, in += 18) {
        wide_f d = half_lanes(in);
        for (size_t p = 0; p < 2; p++) {
            uint64_t bits = lq_load_u32(in + 2 + 8 * p);
            bits |= (uint64_t)lq_load_u32(in + 6 + 8 * p) << 32;
            __m256i codes = _mm256_sub_epi8(two_bit_codes(bits), _mm256_set1_epi8(1));
            put_32(out + i + 32 * p, codes, d, d);
        }
    }
}

/* Four points of eight coordinates in a row. */
static inline uint64_t four_points(uint16_t a, uint16_t b, uint16_t c, uint16_t d)
{
    return a | (uint64_t)b << 16 | (uint64_t)c << 32 | (uint64_t)d << 48;
}

/* Levels of 32 two-bit digits; the fourth level is not used. */
static inline __m256i grid_levels(uint64_t digits, const int8_t levels[3])
{
    const int8_t book[8] = {levels[0], levels[1], levels[2], 0, levels[0], levels[1], levels[2], 0};
    return _mm256_shuffle_epi8(book_of_eight(book), two_bit_codes(digits));
}

void DECODE_NAME(lq_decode_iq2_xxs)(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 66) {
        float d = half_value(in);
        for (size_t p = 0; p < 8; p++) {
            const unsigned char *part = in + 2 + 8 * p;
            uint32_t word = lq_load_u32(part + 4);
            wide_f scale = wide_set(d * (0.5f + (float)(word >> 28)) * 0.25f);
            uint32_t signs = 0;
            for (unsigned k = 0; k < 4; k++) {
                signs |= lq_even_signs(word >> (7 * k) & 127u) << (8 * k);
            }
            uint64_t digits = four_points(lq_grid_iq2xxs[part[0]], lq_grid_iq2xxs[part[1]],
                                          lq_grid_iq2xxs[part[2]], lq_grid_iq2xxs[part[3]]);
            put_32(out + i + 32 * p, with_signs(grid_levels(digits, lq_levels_iq2), signs), scale,
                   scale);
        }
    }
}

/* The scale of IQ2_XS and IQ2_S for one nibble. */
static inline wide_f iq2_scale(float d, unsigned nibble)
{
    return wide_set(d * (0.5f + (float)nibble) * 0.25f);
}

void DECODE_NAME(lq_decode_iq2_xs)(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 74) {
        float d = half_value(in);
        for (size_t p = 0; p < 8; p++) {
            uint64_t digits = 0;
            uint32_t signs = 0;
            for (unsigned k = 0; k < 4; k++) {
                unsigned code = lq_load_u16(in + 2 + 8 * p + 2 * k);
                digits |= (uint64_t)lq_grid_iq2xs[code & 511u] << (16 * k);
                signs |= lq_even_signs(code >> 9) << (8 * k);
            }
            put_32(out + i + 32 * p, with_signs(grid_levels(digits, lq_levels_iq2), signs),
                   iq2_scale(d, in[66 + p] & 15u), iq2_scale(d, in[66 + p] >> 4));
        }
    }
}

void DECODE_NAME(lq_decode_iq2_s)(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 82) {
        float d = half_value(in);
        for (size_t p = 0; p < 8; p++) {
            uint64_t digits = 0;
            for (unsigned k = 0; k < 4; k++) {
                unsigned index = in[2 + 4 * p + k] | ((unsigned)in[66 + p] >> (2 * k) & 3u) << 8;
                digits |= (uint64_t)lq_grid_iq2s[index] << (16 * k);
            }
            uint32_t signs = lq_load_u32(in + 34 + 4 * p);
            put_32(out + i + 32 * p, with_signs(grid_levels(digits, lq_levels_iq2), signs),
                   iq2_scale(d, in[74 + p] & 15u), iq2_scale(d, in[74 + p] >> 4));
        }
    }
}

/* The four three-bit digits of eight points, one byte each. */
static inline __m256i three_bit_codes(const uint32_t points[8])
{
    __m256i all = _mm256_loadu_si256((const __m256i *)(const void *)points);
    const __m256i seven = _mm256_set1_epi32(7);
    __m256i codes = _mm256_and_si256(all, seven);
    for (int k = 1; k < 4; k++) {
        /* Digit k lies at bit 3k and goes to bit 8k. */
        __m256i digit = _mm256_and_si256(_mm256_srli_epi32(all, 3 * k), seven);
        codes = _mm256_or_si256(codes, _mm256_slli_epi32(digit, 8 * k));
    }
    return codes;
}

void DECODE_NAME(lq_decode_iq3_xxs)(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    __m256i book = book_of_eight(lq_levels_iq3xxs);
    for (size_t i = 0; i < elem_count; i += 256, in += 98) {
        float d = half_value(in);
        for (size_t p = 0; p < 8; p++) {
            uint32_t word = lq_load_u32(in + 66 + 4 * p);
            wide_f scale = wide_set(d * (0.5f + (float)(word >> 28)) * 0.5f);
            uint32_t signs = 0;
            for (unsigned k = 0; k < 4; k++) {
                signs |= lq_even_signs(word >> (7 * k) & 127u) << (8 * k);
            }
            uint32_t points[8];
            for (size_t k = 0; k < 8; k++) {
                points[k] = lq_grid_iq3xxs[in[2 + 8 * p + k]];
            }
            __m256i codes = _mm256_shuffle_epi8(book, three_bit_codes(points));
            put_32(out + i + 32 * p, with_signs(codes, signs), scale, scale);
        }
    }
}

void DECODE_NAME(lq_decode_iq3_s)(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 110) {
        float d = half_value(in);
        for (size_t p = 0; p < 8; p++) {
            unsigned nibble = (unsigned)in[106 + p / 2] >> (p % 2 * 4) & 15u;
            wide_f scale = wide_set(d * (float)(1 + 2 * nibble));
            uint32_t points[8];
            for (size_t k = 0; k < 8; k++) {
                unsigned index = in[2 + 8 * p + k] | ((unsigned)in[66 + p] >> k & 1u) << 8;
                points[k] = lq_grid_iq3s[index];
            }
            /* The levels are the odd numbers. */
            __m256i digits = three_bit_codes(points);
            __m256i codes = _mm256_add_epi8(_mm256_add_epi8(digits, digits), _mm256_set1_epi8(1));
            put_32(out + i + 32 * p, with_signs(codes, lq_load_u32(in + 74 + 4 * p)), scale, scale);
        }
    }
}

/* Digits minus 1, shifted up by 1/8, or down where `down` has the group's bit; all in eighths. */
static inline __m256i grid_eighths(uint64_t digits, const uint8_t down[4])
{
    static const int8_t eighths[3] = {-8, 0, 8};
    long long shift[4];
    for (size_t k = 0; k < 4; k++) {
        shift[k] = down[k] != 0 ? -1 : 0x0101010101010101;
    }
    __m256i shifts = _mm256_setr_epi64x(shift[0], shift[1], shift[2], shift[3]);

    return _mm256_add_epi8(grid_levels(digits, eighths), shifts);
}

void DECODE_NAME(lq_decode_iq1_s)(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 50) {
        float d = half_value(in);
        for (size_t p = 0; p < 8; p++) {
            unsigned head = lq_load_u16(in + 34 + 2 * p);
            wide_f scale = wide_set(d * (float)(2 * (head >> 12 & 7u) + 1) * 0.125f);
            uint64_t digits = 0;
            uint8_t down[4];
            for (unsigned k = 0; k < 4; k++) {
                unsigned index = in[2 + 4 * p + k] | (head >> (3 * k) & 7u) << 8;
                digits |= (uint64_t)lq_grid_iq1s[index] << (16 * k);
                down[k] = (uint8_t)(head >> 15);
            }
            put_32(out + i + 32 * p, grid_eighths(digits, down), scale, scale);
        }
    }
}

void DECODE_NAME(lq_decode_iq1_m)(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 56) {
        unsigned char bits[2];
        unsigned half = 0;
        for (size_t k = 0; k < 4; k++) {
            half |= (unsigned)lq_load_u16(in + 48 + 2 * k) >> 12 << (4 * k);
        }
        lq_store_u16(bits, (uint16_t)half);
        float d = half_value(bits);
        for (size_t p = 0; p < 8; p++) {
            unsigned scales = lq_load_u16(in + 48 + p / 2 * 2) >> (p % 2 * 6);
            uint64_t digits = 0;
            uint8_t down[4];
            for (unsigned k = 0; k < 4; k++) {
                unsigned high = (unsigned)in[32 + 2 * p + k / 2] >> (k % 2 * 4) & 15u;
                digits |= (uint64_t)lq_grid_iq1s[in[4 * p + k] | (high & 7u) << 8] << (16 * k);
                down[k] = (uint8_t)(high >> 3);
            }
            put_32(out + i + 32 * p, grid_eighths(digits, down),
                   wide_set(d * (float)(2 * (scales & 7u) + 1) * 0.125f),
                   wide_set(d * (float)(2 * (scales >> 3 & 7u) + 1) * 0.125f));
        }
    }
}

#endif
#endif
