/* Eight lanes in an AVX2 register. See kernels/lanes.h. Min and max return their second operand
 * when both compare equal, as the comparisons of the reference do. */
#ifndef LQ_KERNELS_X86_LANES_AVX2_H
#define LQ_KERNELS_X86_LANES_AVX2_H

#if defined(__AVX2__)

#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/lane_inline.h"
#include "kernels/tables/books.h"
#include "kernels/x86/transpose.h"

#define LANES 8
#define LANE_NAME(name) name##_avx2

typedef __m256 lane_f;
typedef __m256 lane_m;
typedef __m256i lane_i;
typedef __m256 lane_levels;

LANE_INLINE lane_f lane_set(float value)
{
    return _mm256_set1_ps(value);
}

LANE_INLINE lane_f lane_load(const float *in)
{
    return _mm256_loadu_ps(in);
}

LANE_INLINE void lane_store(float *out, lane_f value)
{
    _mm256_storeu_ps(out, value);
}

LANE_INLINE lane_f lane_min(lane_f a, lane_f b)
{
    return _mm256_min_ps(a, b);
}

LANE_INLINE lane_f lane_max(lane_f a, lane_f b)
{
    return _mm256_max_ps(a, b);
}

LANE_INLINE lane_f lane_abs(lane_f a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}

LANE_INLINE lane_f lane_sqrt(lane_f a)
{
    return _mm256_sqrt_ps(a);
}

LANE_INLINE void lane_store_bytes(uint8_t *out, lane_f value)
{
    __m256i words = _mm256_cvttps_epi32(value);
    __m128i halves =
        _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storel_epi64((__m128i *)(void *)out, _mm_packus_epi16(halves, halves));
}

LANE_INLINE lane_m lane_less(lane_f a, lane_f b)
{
    return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
}

LANE_INLINE lane_m lane_and(lane_m a, lane_m b)
{
    return _mm256_and_ps(a, b);
}

LANE_INLINE bool lane_all(lane_m mask)
{
    return _mm256_movemask_ps(mask) == 0xff;
}

LANE_INLINE lane_f lane_select(lane_m mask, lane_f yes, lane_f no)
{
    return _mm256_blendv_ps(no, yes, mask);
}

LANE_INLINE lane_f lane_keep(lane_m mask, lane_f value)
{
    return _mm256_and_ps(mask, value);
}

LANE_INLINE lane_f lane_power(lane_f a)
{
    return _mm256_and_ps(a, lane_set(INFINITY));
}

LANE_INLINE lane_f lane_round(lane_f a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

LANE_INLINE lane_f lane_round_fp4(lane_f a)
{
    lane_f magnitude = lane_max(lane_abs(a), lane_set(2.0f));
    /* The exponent alone is the leading power of two. */
    lane_f power = _mm256_and_ps(magnitude, lane_set(INFINITY));
    lane_f shift = power * lane_set(6291456.0f);
    return (a + shift) - shift;
}

LANE_INLINE lane_f lane_ue4m3(lane_f code)
{
    return _mm256_i32gather_ps(lq_ue4m3_values, _mm256_cvttps_epi32(code), 4);
}

LANE_INLINE lane_f lane_to_half(lane_f a)
{
    lane_f limit = lane_set(65504.0f);
    lane_f inside = lane_max(lane_min(a, limit), lane_set(-65504.0f));
    return _mm256_cvtph_ps(_mm256_cvtps_ph(inside, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

LANE_INLINE __m256i lane_book_index(lane_f a, const struct lq_book *book)
{
    __m256 step = _mm256_cmp_ps(a, lane_set(book->middle3), _CMP_GE_OQ);
    __m256i index = _mm256_and_si256(_mm256_castps_si256(step), _mm256_set1_epi32(8));
    __m256 middle = lane_select(step, lane_set(book->middle2[1]), lane_set(book->middle2[0]));
    step = _mm256_cmp_ps(a, middle, _CMP_GE_OQ);
    index =
        _mm256_or_si256(index, _mm256_and_si256(_mm256_castps_si256(step), _mm256_set1_epi32(4)));
    middle = _mm256_permutevar8x32_ps(lane_load(book->middle1), _mm256_srli_epi32(index, 2));
    step = _mm256_cmp_ps(a, middle, _CMP_GE_OQ);
    index =
        _mm256_or_si256(index, _mm256_and_si256(_mm256_castps_si256(step), _mm256_set1_epi32(2)));
    middle = _mm256_permutevar8x32_ps(lane_load(book->middle0), _mm256_srli_epi32(index, 1));
    step = _mm256_cmp_ps(a, middle, _CMP_GE_OQ);
    return _mm256_or_si256(index,
                           _mm256_and_si256(_mm256_castps_si256(step), _mm256_set1_epi32(1)));
}

LANE_INLINE lane_f lane_nearest(lane_f a, const struct lq_book *book)
{
    __m256i index = lane_book_index(a, book);
    __m256 low = _mm256_permutevar8x32_ps(lane_load(book->levels), index);
    __m256 high = _mm256_permutevar8x32_ps(lane_load(book->levels + 8), index);
    /* Bit 3 of the index in the place of the sign chooses the half of the table. */
    return lane_select(_mm256_castsi256_ps(_mm256_slli_epi32(index, 28)), high, low);
}

LANE_INLINE lane_f lane_nearest_index(lane_f a, const struct lq_book *book)
{
    return _mm256_cvtepi32_ps(lane_book_index(a, book));
}

LANE_INLINE lane_i lane_to_int(lane_f a)
{
    return _mm256_cvttps_epi32(a);
}

LANE_INLINE lane_i lane_gather(const uint32_t *table, lane_i index)
{
    return _mm256_i32gather_epi32((const int *)(const void *)table, index, 4);
}

LANE_INLINE lane_i lane_select_int(lane_m mask, lane_i yes, lane_i no)
{
    return _mm256_blendv_epi8(no, yes, _mm256_castps_si256(mask));
}

LANE_INLINE void lane_store_int(uint32_t *out, lane_i value)
{
    _mm256_storeu_si256((__m256i *)(void *)out, value);
}

LANE_INLINE lane_i lane_shift_right(lane_i a, unsigned count)
{
    return _mm256_srli_epi32(a, (int)count);
}

LANE_INLINE lane_i lane_and_int(lane_i a, uint32_t bits)
{
    return _mm256_and_si256(a, _mm256_set1_epi32((int)bits));
}

LANE_INLINE lane_i lane_or_int(lane_i a, uint32_t bits)
{
    return _mm256_or_si256(a, _mm256_set1_epi32((int)bits));
}

LANE_INLINE lane_levels lane_load_levels(const float levels[8])
{
    return _mm256_loadu_ps(levels);
}

LANE_INLINE lane_f lane_level(lane_levels levels, lane_i a)
{
    return _mm256_permutevar8x32_ps(levels, a);
}

struct lane_ends {
    lane_f low, high;
};

LANE_INLINE struct lane_ends lane_load_tile(float *out, const float *in, size_t stride,
                                            size_t count, size_t lanes)
{
    (void)lanes;
    struct lane_ends ends;
    lane_transpose_ends(out, LANES, in, stride, &ends.low, &ends.high, true);
    for (size_t i = 8; i < count; i += 8) {
        lane_transpose_ends(out + i * LANES, LANES, in + i, stride, &ends.low, &ends.high, false);
    }
    return ends;
}

#endif
#endif
