/* Lanes: the vector of independent problems that the encoders search at once. One lane is one
 * sub-block with its own scale search, sums run over the elements of a lane in their order and
 * never across lanes, so builds with 1 lane (the reference), 8 and 16 give the same bytes by
 * construction: every operation below is a single correctly rounded IEEE operation per lane and the
 * compiler may not contract them (-ffp-contract=off). Arithmetic on lane_f uses the plain
 * operators. The including .c file picks the width by defining LQ_LANES_AVX2 or LQ_LANES_AVX512.
 * Internal to the kernels; pure. */
#ifndef LQ_KERNELS_LANES_H
#define LQ_KERNELS_LANES_H

#if defined(LQ_LANES_AVX512) && defined(__AVX512BW__)
#include "kernels/x86/lanes_avx512.h"
#elif defined(LQ_LANES_AVX2) && defined(__AVX2__)
#include "kernels/x86/lanes_avx2.h"
#else
#include "kernels/ref/lanes_ref.h"
#endif

#endif
