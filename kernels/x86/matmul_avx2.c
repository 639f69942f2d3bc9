#include <immintrin.h>

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
#define SLIVER_ROWS 6

#include "kernels/matmul_body.h"
