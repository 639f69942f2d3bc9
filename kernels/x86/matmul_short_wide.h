/* Vectors of 16 for matmul_short_body.h; whoever includes it has defined SHORT_TABLE and INTS_DOT.
 * Internal to the AVX-512 files of the integer tiles. Thread rule: pure. Limits: none. */
#ifndef LQ_KERNELS_X86_MATMUL_SHORT_WIDE_H
#define LQ_KERNELS_X86_MATMUL_SHORT_WIDE_H

#if defined(__AVX512F__)

#include <immintrin.h>

#define A_ROWS 12
#define B_ROWS 32
#define EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#define LANES 16
#define INTS __m512i
#define INTS_ZERO _mm512_setzero_si512
#define INTS_LOAD _mm512_loadu_si512
#define INTS_SET _mm512_set1_epi32
#define INTS_TO_FLOATS _mm512_cvtepi32_ps
#define FLOATS __m512
#define FLOATS_SET _mm512_set1_ps
#define FLOATS_LOAD _mm512_loadu_ps
#define FLOATS_STORE _mm512_storeu_ps
#define FLOATS_MUL _mm512_mul_ps
#define FLOATS_FMA _mm512_fmadd_ps

#include "kernels/x86/matmul_short_body.h"

#endif
#endif
