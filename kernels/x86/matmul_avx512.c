#include <immintrin.h>

#define MATMUL_TABLE lq_matmul_tiles_avx512
#define VEC __m512
#define VEC_LANES 16
#define VEC_ZERO _mm512_setzero_ps
#define VEC_LOAD _mm512_loadu_ps
#define VEC_STORE _mm512_storeu_ps
#define VEC_SET _mm512_set1_ps
#define VEC_FMA _mm512_fmadd_ps
#define VEC_MUL _mm512_mul_ps
#define VEC_ADD _mm512_add_ps
#define PREFETCH(from) _mm_prefetch(from, _MM_HINT_T0)
#define SLIVER_ROWS 12

#include "kernels/matmul_body.h"
