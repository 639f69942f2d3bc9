/* Eight rows of eight floats, turned. Internal to the kernels. Thread rule: pure. */
#ifndef LQ_KERNELS_X86_TRANSPOSE_H
#define LQ_KERNELS_X86_TRANSPOSE_H

#if defined(__AVX2__)

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>

#include "kernels/lane_inline.h"

/* Turns eight rows of eight, read from in[i * stride], into columns. */
LANE_INLINE void lane_turn(__m256 rows[8], const float *in, size_t stride)
{
    for (size_t i = 0; i < 8; i++) {
        rows[i] = _mm256_loadu_ps(in + i * stride);
    }
    __m256 pairs[8];
    for (int i = 0; i < 4; i++) {
        pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
    }
    __m256 quads[8];
    for (int i = 0; i < 8; i += 4) {
        quads[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
        quads[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
        quads[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
        quads[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        rows[i] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
        rows[i + 4] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
    }
}

/* out[j * out_stride + i] = in[i * stride + j] for i and j below 8. */
LANE_INLINE void lane_transpose(float *out, size_t out_stride, const float *in, size_t stride)
{
    __m256 rows[8];
    lane_turn(rows, in, stride);
    for (size_t j = 0; j < 8; j++) {
        _mm256_storeu_ps(out + j * out_stride, rows[j]);
    }
}

/* The same, and `low` and `high` take in the smallest and the largest value of each row, or begin
 * with them. */
LANE_INLINE void lane_transpose_ends(float *out, size_t out_stride, const float *in, size_t stride,
                                     __m256 *low, __m256 *high, bool begin)
{
    __m256 rows[8];
    lane_turn(rows, in, stride);
    __m256 least = begin ? rows[0] : *low;
    __m256 most = begin ? rows[0] : *high;
    for (size_t j = 0; j < 8; j++) {
        _mm256_storeu_ps(out + j * out_stride, rows[j]);
        least = _mm256_min_ps(least, rows[j]);
        most = _mm256_max_ps(most, rows[j]);
    }
    *low = least;
    *high = most;
}

#endif
#endif
