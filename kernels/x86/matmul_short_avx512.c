#include <immintrin.h>

#define SHORT_TABLE lq_short_tiles_avx512
#define INTS_DOT(sum, a, b) _mm512_add_epi32(sum, _mm512_madd_epi16(a, b))

#include "kernels/x86/matmul_short_wide.h"
