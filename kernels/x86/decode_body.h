/* The vector decoders, written once: codes are unpacked to signed bytes with AVX2, then widened,
 * scaled and stored as wide as the CPU level allows. The including .c file defines LQ_DECODE_AVX512
 * for 16 floats at a time instead of 8. Each value is one product, or one product and one sum, of
 * the same floats as in kernels/ref: the same bits. Internal to the kernels. Thread rule: pure. */
#ifndef LQ_KERNELS_X86_DECODE_BODY_H
#define LQ_KERNELS_X86_DECODE_BODY_H

#if defined(__AVX2__)

#include <immintrin.h>

#include "kernels/bytes.h"
#include "kernels/pack.h"
#include "kernels/tables/books.h"
#include "kernels/tables/grids.h"
#include "kernels/x86/decode_x86.h"

#if defined(LQ_DECODE_AVX512) && defined(__AVX512BW__)

#define DECODE_NAME(name) name##_avx512

typedef __m512 wide_f;

static inline wide_f wide_set(float value)
{
    return _mm512_set1_ps(value);
}

/* out[i] = (float)codes[i] * scale for 16 signed bytes. */
static inline void put_scaled(float *out, __m128i codes, wide_f scale)
{
    __m512 values = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
    _mm512_storeu_ps(out, _mm512_mul_ps(values, scale));
}

/* out[i] = (float)codes[i] * scale + offset. */
static inline void put_shifted(float *out, __m128i codes, wide_f scale, wide_f offset)
{
    __m512 values = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
    _mm512_storeu_ps(out, _mm512_add_ps(_mm512_mul_ps(values, scale), offset));
}

#else

#define DECODE_NAME(name) name##_avx2

typedef __m256 wide_f;

static inline wide_f wide_set(float value)
{
    return _mm256_set1_ps(value);
}

/* out[i] = (float)codes[i] * scale for 16 signed bytes. */
static inline void put_scaled(float *out, __m128i codes, wide_f scale)
{
    __m256i low = _mm256_cvtepi8_epi32(codes);
    __m256i high = _mm256_cvtepi8_epi32(_mm_srli_si128(codes, 8));
    _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_cvtepi32_ps(low), scale));
    _mm256_storeu_ps(out + 8, _mm256_mul_ps(_mm256_cvtepi32_ps(high), scale));
}

/* out[i] = (float)codes[i] * scale + offset. */
static inline void put_shifted(float *out, __m128i codes, wide_f scale, wide_f offset)
{
    __m256 low = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes));
    __m256 high = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(codes, 8)));
    _mm256_storeu_ps(out, _mm256_add_ps(_mm256_mul_ps(low, scale), offset));
    _mm256_storeu_ps(out + 8, _mm256_add_ps(_mm256_mul_ps(high, scale), offset));
}

#endif

static inline __m128i load16(const unsigned char *in)
{
    return _mm_loadu_si128((const __m128i *)(const void *)in);
}

static inline __m256i load32(const unsigned char *in)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)in);
}

static inline float half_value(const unsigned char *in)
{
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(lq_load_u16(in))));
}

/* The half at `in`, in all lanes. */
static inline wide_f half_lanes(const unsigned char *in)
{
    return wide_set(half_value(in));
}

static __m128i low_half(__m256i codes)
{
    return _mm256_castsi256_si128(codes);
}

static inline __m128i high_half(__m256i codes)
{
    return _mm256_extracti128_si256(codes, 1);
}

/* 32 codes from 16 bytes of nibbles: the low ones, then the high ones. */
static inline __m256i nibbles(const unsigned char *in)
{
    __m128i bytes = load16(in);
    __m256i both = _mm256_set_m128i(_mm_srli_epi16(bytes, 4), bytes);
    return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

/* Byte i is 0xff where bit i of `bits` is set, else 0. */
static inline __m256i bit_mask(uint32_t bits)
{
    const __m256i spread =
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i select = _mm256_set1_epi64x((long long)0x8040201008040201u);
    __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), spread);
    return _mm256_cmpeq_epi8(_mm256_and_si256(bytes, select), select);
}

/* Bit i of `bits` as 16 in byte i. */
static inline __m256i fifth_bits(uint32_t bits)
{
    return _mm256_and_si256(bit_mask(bits), _mm256_set1_epi8(16));
}

void DECODE_NAME(lq_decode_q4_0)(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    for (size_t i = 0; i < elem_count; i += 32, in += 18) {
        wide_f d = half_lanes(in);
        __m256i codes = _mm256_sub_epi8(nibbles(in + 2), _mm256_set1_epi8(8));
        put_scaled(out + i, low_half(codes), d);
        put_scaled(out + i + 16, high_half(codes), d);
    }
}

void DECODE_NAME(lq_decode_q4_1)(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    for (size_t i = 0; i < elem_count; i += 32, in += 20) {
        wide_f d = half_lanes(in);
        wide_f m = half_lanes(in + 2);
        __m256i codes = nibbles(in + 4);
        put_shifted(out + i, low_half(codes), d, m);
        put_shifted(out + i + 16, high_half(codes), d, m);
    }
}

void DECODE_NAME(lq_decode_q5_0)(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    for (size_t i = 0; i < elem_count; i += 32, in += 22) {
        wide_f d = half_lanes(in);
        __m256i codes = _mm256_or_si256(nibbles(in + 6), fifth_bits(lq_load_u32(in + 2)));
        codes = _mm256_sub_epi8(codes, _mm256_set1_epi8(16));
        put_scaled(out + i, low_half(codes), d);
        put_scaled(out + i + 16, high_half(codes), d);
    }
}

void DECODE_NAME(lq_decode_q5_1)(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    for (size_t i = 0; i < elem_count; i += 32, in += 24) {
        wide_f d = half_lanes(in);
        wide_f m = half_lanes(in + 2);
        __m256i codes = _mm256_or_si256(nibbles(in + 8), fifth_bits(lq_load_u32(in + 4)));
        put_shifted(out + i, low_half(codes), d, m);
        put_shifted(out + i + 16, high_half(codes), d, m);
    }
}

void DECODE_NAME(lq_decode_q8_0)(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    for (size_t i = 0; i < elem_count; i += 32, in += 34) {
        wide_f d = half_lanes(in);
        put_scaled(out + i, load16(in + 2), d);
        put_scaled(out + i + 16, load16(in + 18), d);
    }
}

/* Bits shift and shift + 1 of each byte. */
static inline __m256i bit_pairs(__m256i bytes, int shift)
{
    return _mm256_and_si256(_mm256_srli_epi16(bytes, shift), _mm256_set1_epi8(3));
}

void DECODE_NAME(lq_decode_q2_k)(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 84) {
        float d = half_value(in + 80);
        float dmin = half_value(in + 82);
        for (size_t p = 0; p < 8; p++) {
            __m256i codes = bit_pairs(load32(in + 16 + p / 4 * 32), (int)(p % 4 * 2));
            for (size_t h = 0; h < 2; h++) {
                unsigned scale = in[2 * p + h];
                wide_f step = wide_set(d * (float)(scale & 15));
                wide_f min = wide_set(-(dmin * (float)(scale >> 4)));
                __m128i half = h == 0 ? low_half(codes) : high_half(codes);
                put_shifted(out + i + 32 * p + 16 * h, half, step, min);
            }
        }
    }
}

void DECODE_NAME(lq_decode_q3_k)(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 110) {
        float d = half_value(in + 108);
        int8_t scales[16];
        lq_unpack_scales_q3_k(in + 96, scales);
        __m256i high = load32(in);
        for (size_t p = 0; p < 8; p++) {
            __m256i low = bit_pairs(load32(in + 32 + p / 4 * 32), (int)(p % 4 * 2));
            __m256i mask = _mm256_set1_epi8((char)(1u << p));
            __m256i unset = _mm256_cmpeq_epi8(_mm256_and_si256(high, mask), _mm256_setzero_si256());
            __m256i codes = _mm256_sub_epi8(low, _mm256_and_si256(unset, _mm256_set1_epi8(4)));
            put_scaled(out + i + 32 * p, low_half(codes), wide_set(d * scales[2 * p]));
            put_scaled(out + i + 32 * p + 16, high_half(codes), wide_set(d * scales[2 * p + 1]));
        }
    }
}

void DECODE_NAME(lq_decode_q4_k)(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 144) {
        float d = half_value(in);
        float dmin = half_value(in + 2);
        uint8_t scales[8];
        uint8_t mins[8];
        lq_unpack_scales_q4_k(in + 4, scales, mins);
        for (size_t p = 0; p < 8; p++) {
            __m256i bytes = load32(in + 16 + p / 2 * 32);
            __m256i codes =
                _mm256_and_si256(_mm256_srli_epi16(bytes, (int)(p % 2 * 4)), _mm256_set1_epi8(15));
            wide_f step = wide_set(d * (float)scales[p]);
            wide_f min = wide_set(-(dmin * (float)mins[p]));
            put_shifted(out + i + 32 * p, low_half(codes), step, min);
            put_shifted(out + i + 32 * p + 16, high_half(codes), step, min);
        }
    }
}

void DECODE_NAME(lq_decode_q5_k)(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 176) {
        float d = half_value(in);
        float dmin = half_value(in + 2);
        uint8_t scales[8];
        uint8_t mins[8];
        lq_unpack_scales_q4_k(in + 4, scales, mins);
        __m256i high = load32(in + 16);
        for (size_t p = 0; p < 8; p++) {
            __m256i bytes = load32(in + 48 + p / 2 * 32);
            __m256i codes =
                _mm256_and_si256(_mm256_srli_epi16(bytes, (int)(p % 2 * 4)), _mm256_set1_epi8(15));
            __m256i mask = _mm256_set1_epi8((char)(1u << p));
            __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(high, mask), mask);
            codes = _mm256_or_si256(codes, _mm256_and_si256(set, _mm256_set1_epi8(16)));
            wide_f step = wide_set(d * (float)scales[p]);
            wide_f min = wide_set(-(dmin * (float)mins[p]));
            put_shifted(out + i + 32 * p, low_half(codes), step, min);
            put_shifted(out + i + 32 * p + 16, high_half(codes), step, min);
        }
    }
}

void DECODE_NAME(lq_decode_q6_k)(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 210) {
        float d = half_value(in + 208);
        for (size_t p = 0; p < 8; p++) {
            size_t half = p / 4;
            size_t quarter = p % 4;
            __m256i low = load32(in + half * 64 + quarter % 2 * 32);
            low = _mm256_and_si256(_mm256_srli_epi16(low, (int)(quarter / 2 * 4)),
                                   _mm256_set1_epi8(15));
            __m256i high = bit_pairs(load32(in + 128 + half * 32), (int)(quarter * 2));
            __m256i codes = _mm256_or_si256(low, _mm256_slli_epi16(high, 4));
            codes = _mm256_sub_epi8(codes, _mm256_set1_epi8(32));
            wide_f first = wide_set(d * (float)(int8_t)in[192 + 2 * p]);
            wide_f second = wide_set(d * (float)(int8_t)in[193 + 2 * p]);
            put_scaled(out + i + 32 * p, low_half(codes), first);
            put_scaled(out + i + 32 * p + 16, high_half(codes), second);
        }
    }
}

#endif
#endif
