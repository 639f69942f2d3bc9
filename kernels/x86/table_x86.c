#include "kernels/encode.h"
#include "kernels/table.h"
#include "kernels/x86/decode_x86.h"
#include "kernels/x86/rows_x86.h"

#define FILL_AVX2(upper, lower)                                                                    \
    table->encode[LQ_DTYPE_##upper] = lq_encode_##lower##_avx2;                                    \
    table->decode[LQ_DTYPE_##upper] = lq_decode_##lower##_avx2;

#define FILL_AVX512(upper, lower)                                                                  \
    table->encode[LQ_DTYPE_##upper] = lq_encode_##lower##_avx512;                                  \
    table->decode[LQ_DTYPE_##upper] = lq_decode_##lower##_avx512;

void lq_kernels_fill_avx2(struct lq_kernels *table)
{
    table->find_nonfinite = lq_find_nonfinite_avx2;
    table->add_squares = lq_add_squares_avx2;
    table->decode[LQ_DTYPE_F16] = lq_decode_f16_avx2;
    table->decode[LQ_DTYPE_BF16] = lq_decode_bf16_avx2;
    table->encode[LQ_DTYPE_F16] = lq_encode_f16_avx2;
    table->encode[LQ_DTYPE_BF16] = lq_encode_bf16_avx2;
    LQ_BLOCK_TYPES(FILL_AVX2)
}

void lq_kernels_fill_avx512(struct lq_kernels *table)
{
    table->find_nonfinite = lq_find_nonfinite_avx512;
    table->add_squares = lq_add_squares_avx512;
    table->decode[LQ_DTYPE_F16] = lq_decode_f16_avx512;
    table->decode[LQ_DTYPE_BF16] = lq_decode_bf16_avx512;
    table->encode[LQ_DTYPE_F16] = lq_encode_f16_avx512;
    table->encode[LQ_DTYPE_BF16] = lq_encode_bf16_avx512;
    LQ_BLOCK_TYPES(FILL_AVX512)
}
