/* Multiplies and adds pairs with one instruction; only called where the CPU has AVX512_VNNI. */
#include <immintrin.h>

#define SHORT_TABLE lq_short_tiles_vnni
#define INTS_DOT _mm512_dpwssd_epi32

#include "kernels/x86/matmul_short_wide.h"
