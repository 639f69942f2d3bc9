/* Vector decoders of the block types; signatures as lq_decode_fn, layouts as in kernels/ref. Both
 * levels are one source, decode_body.h. Internal to the kernels. Thread rule: pure. */
#ifndef LQ_KERNELS_X86_DECODE_X86_H
#define LQ_KERNELS_X86_DECODE_X86_H

#include <stddef.h>

#include "kernels/block_types.h"

#define LQ_DECODER_LEVELS(upper, lower)                                                            \
    void lq_decode_##lower##_avx2(const void *blocks, float *out, size_t elem_count);              \
    void lq_decode_##lower##_avx512(const void *blocks, float *out, size_t elem_count);

LQ_BLOCK_TYPES(LQ_DECODER_LEVELS)

#undef LQ_DECODER_LEVELS

#endif
