#include "kernels/x86/rows_x86.h"

#include <immintrin.h>
#include <stdint.h>

#include "kernels/ref/rows_ref.h"

size_t lq_find_nonfinite_avx512(const float *values, size_t count)
{
    const __m512i exponent = _mm512_set1_epi32(0x7f800000);
    size_t i = 0;
    for (; i + 64 <= count; i += 64) {
        __mmask16 any = 0;
        for (size_t j = 0; j < 64; j += 16) {
            __m512i bits = _mm512_castps_si512(_mm512_loadu_ps(values + i + j));
            any |= _mm512_cmpeq_epi32_mask(_mm512_and_si512(bits, exponent), exponent);
        }
        if (any != 0) {
            break;
        }
    }
    return i + lq_find_nonfinite_ref(values + i, count - i);
}

void lq_add_squares_avx512(const float *rows, size_t row_count, size_t col_count, float *sums)
{
    size_t j = 0;
    /* A strip of 64 columns stays in registers over all rows; each sum still takes its rows in
     * order. */
    for (; j + 64 <= col_count; j += 64) {
        __m512 strip[4];
        for (size_t k = 0; k < 4; k++) {
            strip[k] = _mm512_loadu_ps(sums + j + 16 * k);
        }
        for (size_t i = 0; i < row_count; i++) {
            const float *row = rows + i * col_count + j;
            for (size_t k = 0; k < 4; k++) {
                __m512 value = _mm512_loadu_ps(row + 16 * k);
                strip[k] = _mm512_add_ps(strip[k], _mm512_mul_ps(value, value));
            }
        }
        for (size_t k = 0; k < 4; k++) {
            _mm512_storeu_ps(sums + j + 16 * k, strip[k]);
        }
    }
    for (; j < col_count; j += 16) {
        size_t left = col_count - j;
        __mmask16 mask = (__mmask16)(left >= 16 ? 0xffffu : (1u << left) - 1u);
        __m512 sum = _mm512_maskz_loadu_ps(mask, sums + j);
        for (size_t i = 0; i < row_count; i++) {
            __m512 value = _mm512_maskz_loadu_ps(mask, rows + i * col_count + j);
            sum = _mm512_add_ps(sum, _mm512_mul_ps(value, value));
        }
        _mm512_mask_storeu_ps(sums + j, mask, sum);
    }
}

void lq_decode_f16_avx512(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    size_t i = 0;
    for (; i + 16 <= elem_count; i += 16) {
        __m256i halves = _mm256_loadu_si256((const __m256i *)(const void *)(in + 2 * i));
        _mm512_storeu_ps(out + i, _mm512_cvtph_ps(halves));
    }
    lq_decode_f16_ref(in + 2 * i, out + i, elem_count - i);
}

void lq_decode_bf16_avx512(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = blocks;
    size_t i = 0;
    for (; i + 16 <= elem_count; i += 16) {
        __m256i halves = _mm256_loadu_si256((const __m256i *)(const void *)(in + 2 * i));
        __m512i bits = _mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
        _mm512_storeu_ps(out + i, _mm512_castsi512_ps(bits));
    }
    lq_decode_bf16_ref(in + 2 * i, out + i, elem_count - i);
}

void lq_encode_f16_avx512(const float *row, void *blocks, size_t col_count, const float *importance)
{
    unsigned char *out = blocks;
    const __m512 limit = _mm512_set1_ps(65504.0f);
    const __m512 lower = _mm512_set1_ps(-65504.0f);
    size_t i = 0;
    for (; i + 16 <= col_count; i += 16) {
        __m512 value = _mm512_max_ps(_mm512_min_ps(_mm512_loadu_ps(row + i), limit), lower);
        __m256i halves = _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm256_storeu_si256((__m256i *)(void *)(out + 2 * i), halves);
    }
    lq_encode_f16_ref(row + i, out + 2 * i, col_count - i, importance);
}

void lq_encode_bf16_avx512(const float *row, void *blocks, size_t col_count,
                           const float *importance)
{
    unsigned char *out = blocks;
    const __m512i one = _mm512_set1_epi32(1);
    const __m512i infinity = _mm512_set1_epi32(0x7f80);
    size_t i = 0;
    for (; i + 16 <= col_count; i += 16) {
        __m512i bits = _mm512_castps_si512(_mm512_loadu_ps(row + i));
        __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
        bits = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        bits = _mm512_srli_epi32(bits, 16);
        /* One less where rounding reached infinity. */
        __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fff));
        __mmask16 over = _mm512_cmpeq_epi32_mask(magnitude, infinity);
        bits = _mm512_mask_sub_epi32(bits, over, bits, one);
        _mm256_storeu_si256((__m256i *)(void *)(out + 2 * i), _mm512_cvtepi32_epi16(bits));
    }
    lq_encode_bf16_ref(row + i, out + 2 * i, col_count - i, importance);
}
