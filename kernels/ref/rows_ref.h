/* Reference kernels without blocks: plain float types, the search for NaN, sums of squares.
 * Signatures as in kernels.h. Thread rule: pure. */
#ifndef LQ_KERNELS_REF_ROWS_REF_H
#define LQ_KERNELS_REF_ROWS_REF_H

#include <stddef.h>

#include "kernels/device_fn.h"

LQ_DEVICE_FN size_t lq_find_nonfinite_ref(const float *values, size_t count);
LQ_DEVICE_FN void lq_add_squares_ref(const float *rows, size_t row_count, size_t col_count,
                                     float *sums);

LQ_DEVICE_FN void lq_decode_f32_ref(const void *blocks, float *out, size_t elem_count);
LQ_DEVICE_FN void lq_decode_f16_ref(const void *blocks, float *out, size_t elem_count);
LQ_DEVICE_FN void lq_decode_bf16_ref(const void *blocks, float *out, size_t elem_count);
/* The importance is not used: these types have no freedom. A value beyond the largest half becomes
 * that half, never an infinity. */
LQ_DEVICE_FN void lq_encode_f32_ref(const float *row, void *blocks, size_t col_count,
                                    const float *importance);
LQ_DEVICE_FN void lq_encode_f16_ref(const float *row, void *blocks, size_t col_count,
                                    const float *importance);
LQ_DEVICE_FN void lq_encode_bf16_ref(const float *row, void *blocks, size_t col_count,
                                     const float *importance);

#endif
