#include "kernels/x86/rows_x86.h"

#include <immintrin.h>

#include "kernels/ref/rows_ref.h"

size_t lq_find_nonfinite_avx2(const float *values, size_t count)
{
    const __m256i exponent = _mm256_set1_epi32(0x7f800000);
    size_t i = 0;
    for (; i + 32 <= count; i += 32) {
        __m256i any = _mm256_setzero_si256();
        for (size_t j = 0; j < 32; j += 8) {
            __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(values + i + j));
            __m256i bad = _mm256_cmpeq_epi32(_mm256_and_si256(bits, exponent), exponent);
            any = _mm256_or_si256(any, bad);
        }
        if (!_mm256_testz_si256(any, any)) {
            break;
        }
    }
    return i + lq_find_nonfinite_ref(values + i, count - i);
}

void lq_add_squares_avx2(const float *rows, size_t row_count, size_t col_count, float *sums)
{
    size_t j = 0;
    /* A strip of 32 columns stays in registers over all rows; each sum still takes its rows in
     * order. */
    for (; j + 32 <= col_count; j += 32) {
        __m256 strip[4];
        for (size_t k = 0; k < 4; k++) {
            strip[k] = _mm256_loadu_ps(sums + j + 8 * k);
        }
        for (size_t i = 0; i < row_count; i++) {
            const float *row = rows + i * col_count + j;
            for (size_t k = 0; k < 4; k++) {
                __m256 value = _mm256_loadu_ps(row + 8 * k);
                strip[k] = _mm256_add_ps(strip[k], _mm256_mul_ps(value, value));
            }
        }
        for (size_t k = 0; k < 4; k++) {
            _mm256_storeu_ps(sums + j + 8 * k, strip[k]);
        }
    }
    for (; j < col_count; j++) {
        for (size_t i = 0; i < row_count; i++) {
            float value = rows[i * col_count + j];
            sums[j] += value * value;
        }
    }
}

void lq_decode_f16_avx2(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    size_t i = 0;
    for (; i + 8 <= elem_count; i += 8) {
        __m128i halves = _mm_loadu_si128((const __m128i *)(const void *)(in + 2 * i));
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(halves));
    }
    lq_decode_f16_ref(in + 2 * i, out + i, elem_count - i);
}

void lq_decode_bf16_avx2(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    size_t i = 0;
    for (; i + 8 <= elem_count; i += 8) {
        __m128i halves = _mm_loadu_si128((const __m128i *)(const void *)(in + 2 * i));
        __m256i bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16);
        _mm256_storeu_ps(out + i, _mm256_castsi256_ps(bits));
    }
    lq_decode_bf16_ref(in + 2 * i, out + i, elem_count - i);
}

void lq_encode_f16_avx2(const float *row, void *blocks, size_t col_count, const float *importance)
{
    unsigned char *out = blocks;
    const __m256 limit = _mm256_set1_ps(65504.0f);
    const __m256 lower = _mm256_set1_ps(-65504.0f);
    size_t i = 0;
    for (; i + 8 <= col_count; i += 8) {
        __m256 value = _mm256_max_ps(_mm256_min_ps(_mm256_loadu_ps(row + i), limit), lower);
        __m128i halves = _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm_storeu_si128((__m128i *)(void *)(out + 2 * i), halves);
    }
    lq_encode_f16_ref(row + i, out + 2 * i, col_count - i, importance);
}

/* The upper halves of eight floats, rounded to even and kept finite, each in 32 bits. */
static __m256i bf16_bits(__m256 value)
{
    const __m256i one = _mm256_set1_epi32(1);
    __m256i bits = _mm256_castps_si256(value);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), one);
    bits = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    bits = _mm256_srli_epi32(bits, 16);
    __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fff));
    /* The comparison gives -1 where rounding reached infinity. */
    return _mm256_add_epi32(bits, _mm256_cmpeq_epi32(magnitude, _mm256_set1_epi32(0x7f80)));
}

void lq_encode_bf16_avx2(const float *row, void *blocks, size_t col_count, const float *importance)
{
    unsigned char *out = blocks;
    size_t i = 0;
    for (; i + 16 <= col_count; i += 16) {
        __m256i low = bf16_bits(_mm256_loadu_ps(row + i));
        __m256i high = bf16_bits(_mm256_loadu_ps(row + i + 8));
        __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
        _mm256_storeu_si256((__m256i *)(void *)(out + 2 * i), packed);
    }
    lq_encode_bf16_ref(row + i, out + 2 * i, col_count - i, importance);
}
