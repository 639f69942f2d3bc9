/* The grids of the IQ1, IQ2 and IQ3 formats, packed: a point is 16 bits of digits, coordinate k at
 * bits 2k (eight coordinates) or 3k (four coordinates). What a digit stands for is in lq_levels_*.
 * The 7-bit sign codes of IQ2_XXS, IQ2_XS and IQ3_XXS need no table: the eighth sign makes the
 * number of minus signs even. Read-only. */
#ifndef LQ_KERNELS_TABLES_GRIDS_H
#define LQ_KERNELS_TABLES_GRIDS_H

#include <stdint.h>

/* On a GPU the definitions come before their use instead: C++ has no declarations of constants. */
#ifndef __CUDACC__
extern const uint16_t lq_grid_iq2xxs[256];
extern const uint16_t lq_grid_iq2xs[512];
extern const uint16_t lq_grid_iq2s[1024];
extern const uint16_t lq_grid_iq3xxs[256];
extern const uint16_t lq_grid_iq3s[512];
extern const uint16_t lq_grid_iq1s[2048];

extern const int8_t lq_levels_iq2[3];
extern const int8_t lq_levels_iq3xxs[8];
/* IQ4_NL and IQ4_XS. */
extern const int8_t lq_levels_iq4[16];
/* MXFP4 and NVFP4: twice the value of a 4-bit float with 2 exponent bits and 1 mantissa bit. */
extern const int8_t lq_levels_fp4[16];
#endif

#endif
