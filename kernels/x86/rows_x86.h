/* Vector kernels without blocks; what each does is said at its reference in kernels/ref/rows_ref.h.
 * Internal to the kernels. Thread rule: pure. */
#ifndef LQ_KERNELS_X86_ROWS_X86_H
#define LQ_KERNELS_X86_ROWS_X86_H

#include <stddef.h>

size_t lq_find_nonfinite_avx2(const float *values, size_t count);
void lq_add_squares_avx2(const float *rows, size_t row_count, size_t col_count, float *sums);
void lq_decode_f16_avx2(const void *blocks, float *out, size_t elem_count);
void lq_decode_bf16_avx2(const void *blocks, float *out, size_t elem_count);
void lq_encode_f16_avx2(const float *row, void *blocks, size_t col_count, const float *importance);
void lq_encode_bf16_avx2(const float *row, void *blocks, size_t col_count, const float *importance);

size_t lq_find_nonfinite_avx512(const float *values, size_t count);
void lq_add_squares_avx512(const float *rows, size_t row_count, size_t col_count, float *sums);
void lq_decode_f16_avx512(const void *blocks, float *out, size_t elem_count);
void lq_decode_bf16_avx512(const void *blocks, float *out, size_t elem_count);
void lq_encode_f16_avx512(const float *row, void *blocks, size_t col_count,
                          const float *importance);
void lq_encode_bf16_avx512(const float *row, void *blocks, size_t col_count,
                           const float *importance);

#endif
