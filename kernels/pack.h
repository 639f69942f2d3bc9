/* Packed fields of the block types: the six-bit scales of the K types, and whole blocks from one
 * code per byte in element order. Internal to the kernels; shared by all CPU levels, so that a
 * search only has to produce codes. Thread rule: pure. */
#ifndef LQ_KERNELS_PACK_H
#define LQ_KERNELS_PACK_H

#include <stdint.h>

#include "kernels/device_fn.h"

/* Twelve bytes to sixteen scales of -32..31, and back. */
LQ_DEVICE_FN void lq_unpack_scales_q3_k(const unsigned char *in, int8_t scales[16]);
LQ_DEVICE_FN void lq_pack_scales_q3_k(unsigned char *out, const int8_t scales[16]);
/* Twelve bytes to eight scales and eight mins of 0..63, and back. */
LQ_DEVICE_FN void lq_unpack_scales_q4_k(const unsigned char *in, uint8_t scales[8],
                                        uint8_t mins[8]);
LQ_DEVICE_FN void lq_pack_scales_q4_k(unsigned char *out, const uint8_t scales[8],
                                      const uint8_t mins[8]);

/* Eight signs from seven: the eighth makes the number of set bits even. */
LQ_DEVICE_FN unsigned lq_even_signs(unsigned seven);
/* An unsigned float of 4 exponent and 3 mantissa bits; 127, its NaN, counts as zero. */
LQ_DEVICE_FN float lq_ue4m3_value(unsigned char code);

#endif
