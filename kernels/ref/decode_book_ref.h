/* Reference decoders of the types with code books, ternary and one-bit types; the bit layouts are
 * listed in docs/numerics.md. Signatures as lq_decode_fn. Thread rule: pure. */
#ifndef LQ_KERNELS_REF_DECODE_BOOK_REF_H
#define LQ_KERNELS_REF_DECODE_BOOK_REF_H

#include <stddef.h>

#include "kernels/device_fn.h"

LQ_DEVICE_FN void lq_decode_iq4_nl_ref(const void *blocks, float *out, size_t elem_count);
LQ_DEVICE_FN void lq_decode_iq4_xs_ref(const void *blocks, float *out, size_t elem_count);
LQ_DEVICE_FN void lq_decode_iq3_xxs_ref(const void *blocks, float *out, size_t elem_count);
LQ_DEVICE_FN void lq_decode_iq3_s_ref(const void *blocks, float *out, size_t elem_count);
LQ_DEVICE_FN void lq_decode_iq2_xxs_ref(const void *blocks, float *out, size_t elem_count);
LQ_DEVICE_FN void lq_decode_iq2_xs_ref(const void *blocks, float *out, size_t elem_count);
LQ_DEVICE_FN void lq_decode_iq2_s_ref(const void *blocks, float *out, size_t elem_count);
LQ_DEVICE_FN void lq_decode_iq1_s_ref(const void *blocks, float *out, size_t elem_count);
LQ_DEVICE_FN void lq_decode_iq1_m_ref(const void *blocks, float *out, size_t elem_count);
LQ_DEVICE_FN void lq_decode_mxfp4_ref(const void *blocks, float *out, size_t elem_count);
LQ_DEVICE_FN void lq_decode_nvfp4_ref(const void *blocks, float *out, size_t elem_count);
LQ_DEVICE_FN void lq_decode_tq1_0_ref(const void *blocks, float *out, size_t elem_count);
LQ_DEVICE_FN void lq_decode_tq2_0_ref(const void *blocks, float *out, size_t elem_count);
LQ_DEVICE_FN void lq_decode_q1_0_ref(const void *blocks, float *out, size_t elem_count);
LQ_DEVICE_FN void lq_decode_q2_0_ref(const void *blocks, float *out, size_t elem_count);

#endif
