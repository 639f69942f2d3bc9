/* AVX2 decoders; signatures as lq_decode_fn, layouts as in kernels/ref/decode_ref.h. Thread rule:
 * pure. */
#ifndef LQ_KERNELS_X86_DECODE_AVX2_H
#define LQ_KERNELS_X86_DECODE_AVX2_H

#include <stddef.h>

void lq_decode_q4_0_avx2(const void *blocks, float *out, size_t elem_count);
void lq_decode_q4_1_avx2(const void *blocks, float *out, size_t elem_count);
void lq_decode_q5_0_avx2(const void *blocks, float *out, size_t elem_count);
void lq_decode_q5_1_avx2(const void *blocks, float *out, size_t elem_count);
void lq_decode_q8_0_avx2(const void *blocks, float *out, size_t elem_count);
void lq_decode_q2_k_avx2(const void *blocks, float *out, size_t elem_count);
void lq_decode_q3_k_avx2(const void *blocks, float *out, size_t elem_count);
void lq_decode_q4_k_avx2(const void *blocks, float *out, size_t elem_count);
void lq_decode_q5_k_avx2(const void *blocks, float *out, size_t elem_count);
void lq_decode_q6_k_avx2(const void *blocks, float *out, size_t elem_count);

#endif
