/* Reference decoders of the block types whose levels are equidistant; the bit layouts are listed in
 * docs/numerics.md. Signatures as lq_decode_fn. Thread rule: pure. */
#ifndef LQ_KERNELS_REF_DECODE_REF_H
#define LQ_KERNELS_REF_DECODE_REF_H

#include <stddef.h>

#include "kernels/device_fn.h"

LQ_DEVICE_FN void lq_decode_q4_0_ref(const void *blocks, float *out, size_t elem_count);
LQ_DEVICE_FN void lq_decode_q4_1_ref(const void *blocks, float *out, size_t elem_count);
LQ_DEVICE_FN void lq_decode_q5_0_ref(const void *blocks, float *out, size_t elem_count);
LQ_DEVICE_FN void lq_decode_q5_1_ref(const void *blocks, float *out, size_t elem_count);
LQ_DEVICE_FN void lq_decode_q8_0_ref(const void *blocks, float *out, size_t elem_count);
LQ_DEVICE_FN void lq_decode_q2_k_ref(const void *blocks, float *out, size_t elem_count);
LQ_DEVICE_FN void lq_decode_q3_k_ref(const void *blocks, float *out, size_t elem_count);
LQ_DEVICE_FN void lq_decode_q4_k_ref(const void *blocks, float *out, size_t elem_count);
LQ_DEVICE_FN void lq_decode_q5_k_ref(const void *blocks, float *out, size_t elem_count);
LQ_DEVICE_FN void lq_decode_q6_k_ref(const void *blocks, float *out, size_t elem_count);

#endif
