/* Sixteen lanes in an AVX-512 register (F, BW, DQ, VL). See kernels/lanes.h. Comparisons give bit
 * masks; min and max return their second operand when both compare equal, as the comparisons of the
 * reference do. */
#ifndef LQ_KERNELS_X86_LANES_AVX512_H
#define LQ_KERNELS_X86_LANES_AVX512_H

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/lane_inline.h"
#include "kernels/tables/books.h"
#include "kernels/x86/transpose.h"

#define LANES 16
#define LANE_NAME(name) name##_avx512

typedef __m512 lane_f;
typedef __mmask16 lane_m;
typedef __m512i lane_i;
typedef __m512 lane_levels; /* the eight levels twice: an index has four bits */

LANE_INLINE lane_f lane_set(float value)
{
    return _mm512_set1_ps(value);
}

LANE_INLINE lane_f lane_load(const float *in)
{
    return _mm512_loadu_ps(in);
}

LANE_INLINE void lane_store(float *out, lane_f value)
{
    _mm512_storeu_ps(out, value);
}

LANE_INLINE lane_f lane_min(lane_f a, lane_f b)
{
    return _mm512_min_ps(a, b);
}

LANE_INLINE lane_f lane_max(lane_f a, lane_f b)
{
    return _mm512_max_ps(a, b);
}

LANE_INLINE lane_f lane_abs(lane_f a)
{
    return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a);
}

LANE_INLINE lane_f lane_sqrt(lane_f a)
{
    return _mm512_sqrt_ps(a);
}

LANE_INLINE void lane_store_bytes(uint8_t *out, lane_f value)
{
    __m128i bytes = _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(value));
    _mm_storeu_si128((__m128i *)(void *)out, bytes);
}

LANE_INLINE lane_m lane_less(lane_f a, lane_f b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}

LANE_INLINE lane_m lane_and(lane_m a, lane_m b)
{
    return (lane_m)(a & b);
}

LANE_INLINE bool lane_all(lane_m mask)
{
    return mask == 0xffff;
}

LANE_INLINE lane_f lane_select(lane_m mask, lane_f yes, lane_f no)
{
    return _mm512_mask_blend_ps(mask, no, yes);
}

LANE_INLINE lane_f lane_keep(lane_m mask, lane_f value)
{
    return _mm512_maskz_mov_ps(mask, value);
}

LANE_INLINE lane_f lane_power(lane_f a)
{
    return _mm512_and_ps(a, lane_set(INFINITY));
}

LANE_INLINE lane_f lane_round(lane_f a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

LANE_INLINE lane_f lane_round_fp4(lane_f a)
{
    lane_f magnitude = lane_max(lane_abs(a), lane_set(2.0f));
    /* The exponent alone is the leading power of two. */
    lane_f power = _mm512_and_ps(magnitude, lane_set(INFINITY));
    lane_f shift = power * lane_set(6291456.0f);
    return (a + shift) - shift;
}

LANE_INLINE lane_f lane_ue4m3(lane_f code)
{
    return _mm512_i32gather_ps(_mm512_cvttps_epi32(code), lq_ue4m3_values, 4);
}

LANE_INLINE lane_f lane_to_half(lane_f a)
{
    lane_f limit = lane_set(65504.0f);
    lane_f inside = lane_max(lane_min(a, limit), lane_set(-65504.0f));
    return _mm512_cvtph_ps(_mm512_cvtps_ph(inside, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

/* Adds `bit` to the indices of the lanes where a >= middle. */
LANE_INLINE __m512i lane_book_step(__m512i index, lane_f a, lane_f middle, int bit)
{
    __mmask16 above = _mm512_cmp_ps_mask(a, middle, _CMP_GE_OQ);
    return _mm512_mask_or_epi32(index, above, index, _mm512_set1_epi32(bit));
}

LANE_INLINE __m512i lane_book_index(lane_f a, const struct lq_book *book)
{
    const __m512 middle1 = _mm512_castps256_ps512(_mm256_loadu_ps(book->middle1));
    const __m512 middle0 = _mm512_castps256_ps512(_mm256_loadu_ps(book->middle0));
    __mmask16 upper = _mm512_cmp_ps_mask(a, lane_set(book->middle3), _CMP_GE_OQ);
    __m512i index = _mm512_maskz_set1_epi32(upper, 8);
    lane_f middle = lane_select(upper, lane_set(book->middle2[1]), lane_set(book->middle2[0]));
    index = lane_book_step(index, a, middle, 4);
    middle = _mm512_permutexvar_ps(_mm512_srli_epi32(index, 2), middle1);
    index = lane_book_step(index, a, middle, 2);
    middle = _mm512_permutexvar_ps(_mm512_srli_epi32(index, 1), middle0);
    return lane_book_step(index, a, middle, 1);
}

LANE_INLINE lane_f lane_nearest(lane_f a, const struct lq_book *book)
{
    return _mm512_permutexvar_ps(lane_book_index(a, book), _mm512_loadu_ps(book->levels));
}

LANE_INLINE lane_f lane_nearest_index(lane_f a, const struct lq_book *book)
{
    return _mm512_cvtepi32_ps(lane_book_index(a, book));
}

LANE_INLINE lane_i lane_to_int(lane_f a)
{
    return _mm512_cvttps_epi32(a);
}

LANE_INLINE lane_i lane_gather(const uint32_t *table, lane_i index)
{
    return _mm512_i32gather_epi32(index, table, 4);
}

LANE_INLINE lane_i lane_select_int(lane_m mask, lane_i yes, lane_i no)
{
    return _mm512_mask_blend_epi32(mask, no, yes);
}

LANE_INLINE void lane_store_int(uint32_t *out, lane_i value)
{
    _mm512_storeu_si512(out, value);
}

LANE_INLINE lane_i lane_shift_right(lane_i a, unsigned count)
{
    return _mm512_srli_epi32(a, count);
}

LANE_INLINE lane_i lane_and_int(lane_i a, uint32_t bits)
{
    return _mm512_and_si512(a, _mm512_set1_epi32((int)bits));
}

LANE_INLINE lane_i lane_or_int(lane_i a, uint32_t bits)
{
    return _mm512_or_si512(a, _mm512_set1_epi32((int)bits));
}

LANE_INLINE lane_levels lane_load_levels(const float levels[8])
{
    return _mm512_broadcast_f32x8(_mm256_loadu_ps(levels));
}

LANE_INLINE lane_f lane_level(lane_levels levels, lane_i a)
{
    return _mm512_permutexvar_ps(a, levels);
}

struct lane_ends {
    lane_f low, high;
};

LANE_INLINE lane_f lane_join(__m256 lower, __m256 upper)
{
    return _mm512_insertf32x8(_mm512_castps256_ps512(lower), upper, 1);
}

LANE_INLINE struct lane_ends lane_load_tile(float *out, const float *in, size_t stride,
                                            size_t count, size_t lanes)
{
    __m256 low[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    __m256 high[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t i = 0; i < count; i += 8) {
        float *to = out + i * LANES;
        lane_transpose_ends(to, LANES, in + i, stride, &low[0], &high[0], i == 0);
        if (lanes == LANES) {
            const float *upper = in + 8 * stride + i;
            lane_transpose_ends(to + 8, LANES, upper, stride, &low[1], &high[1], i == 0);
            continue;
        }
        for (size_t j = 0; j < 8; j++) {
            _mm256_storeu_ps(to + j * LANES + 8, _mm256_setzero_ps());
        }
    }
    return (struct lane_ends){lane_join(low[0], low[1]), lane_join(high[0], high[1])};
}

#endif
#endif
