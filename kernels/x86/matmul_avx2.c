#include <immintrin.h>

#include "kernels/x86/transpose.h"

#define MATMUL_TABLE lq_matmul_tiles_avx2
#define VEC __m256
#define VEC_LANES 8
#define VEC_ZERO _mm256_setzero_ps
#define VEC_LOAD _mm256_loadu_ps
#define VEC_STORE _mm256_storeu_ps
#define VEC_SET _mm256_set1_ps
#define VEC_FMA _mm256_fmadd_ps
#define VEC_MUL _mm256_mul_ps
#define VEC_ADD _mm256_add_ps
#define PREFETCH(from) _mm_prefetch(from, _MM_HINT_T0)
#define SLIVER_ROWS 6

#define TURN_COLS 8
#define turn_cols lane_transpose
#define TURN_DEPTH 8
#define SLIVER_SLACK 2

/* Eight values of six rows; two lanes of each store are overwritten by the next. */
static inline void turn_rows(const float *const *from, size_t k, float *out)
{
    __m256 a = _mm256_loadu_ps(from[0] + k);
    __m256 b = _mm256_loadu_ps(from[1] + k);
    __m256 c = _mm256_loadu_ps(from[2] + k);
    __m256 d = _mm256_loadu_ps(from[3] + k);
    __m256 e = _mm256_loadu_ps(from[4] + k);
    __m256 f = _mm256_loadu_ps(from[5] + k);
    __m256 ab_low = _mm256_unpacklo_ps(a, b);
    __m256 ab_high = _mm256_unpackhi_ps(a, b);
    __m256 cd_low = _mm256_unpacklo_ps(c, d);
    __m256 cd_high = _mm256_unpackhi_ps(c, d);
    __m256 ef_low = _mm256_unpacklo_ps(e, f);
    __m256 ef_high = _mm256_unpackhi_ps(e, f);
    __m256 fours[4] = {
        _mm256_shuffle_ps(ab_low, cd_low, 0x44), _mm256_shuffle_ps(ab_low, cd_low, 0xee),
        _mm256_shuffle_ps(ab_high, cd_high, 0x44), _mm256_shuffle_ps(ab_high, cd_high, 0xee)};
    __m256 twos[4] = {ef_low, _mm256_permute_ps(ef_low, 0xee), ef_high,
                      _mm256_permute_ps(ef_high, 0xee)};
    for (int j = 0; j < 4; j++) {
        _mm256_storeu_ps(out + j * SLIVER_ROWS, _mm256_permute2f128_ps(fours[j], twos[j], 0x20));
    }
    for (int j = 0; j < 4; j++) {
        _mm256_storeu_ps(out + (j + 4) * SLIVER_ROWS,
                         _mm256_permute2f128_ps(fours[j], twos[j], 0x31));
    }
}

#include "kernels/matmul_body.h"
