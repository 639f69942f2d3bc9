#include <immintrin.h>

#define SHORT_TABLE lq_short_tiles_avx2
#define A_ROWS 6
#define B_ROWS 16
#define EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)
#define LANES 8
#define INTS __m256i
#define INTS_ZERO _mm256_setzero_si256
#define INTS_LOAD(from) _mm256_loadu_si256((const __m256i *)(const void *)(from))
#define INTS_SET _mm256_set1_epi32
#define INTS_DOT(sum, a, b) _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
#define INTS_TO_FLOATS _mm256_cvtepi32_ps
#define FLOATS __m256
#define FLOATS_SET _mm256_set1_ps
#define FLOATS_LOAD _mm256_loadu_ps
#define FLOATS_STORE _mm256_storeu_ps
#define FLOATS_MUL _mm256_mul_ps
#define FLOATS_FMA _mm256_fmadd_ps

#include "kernels/x86/matmul_short_body.h"
