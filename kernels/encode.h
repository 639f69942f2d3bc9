/* Encoders of the block types at each CPU level; signatures as lq_encode_fn. All levels of a type
 * are one source (kernels/search/) built with different lanes. Internal to the kernels. Pure. */
#ifndef LQ_KERNELS_ENCODE_H
#define LQ_KERNELS_ENCODE_H

#include <stddef.h>

#include "kernels/block_types.h"
#include "kernels/device_fn.h"

#define LQ_ENCODER(name)                                                                           \
    LQ_DEVICE_FN void name(const float *row, void *blocks, size_t col_count,                       \
                           const float *importance)
#define LQ_ENCODER_LEVELS(upper, lower)                                                            \
    LQ_ENCODER(lq_encode_##lower##_ref);                                                           \
    LQ_ENCODER(lq_encode_##lower##_avx2);                                                          \
    LQ_ENCODER(lq_encode_##lower##_avx512);

LQ_BLOCK_TYPES(LQ_ENCODER_LEVELS)

#undef LQ_ENCODER_LEVELS
#undef LQ_ENCODER

#endif
