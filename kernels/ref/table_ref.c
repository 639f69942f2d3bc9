#include "kernels/encode.h"
#include "kernels/ref/decode_book_ref.h"
#include "kernels/ref/decode_ref.h"
#include "kernels/ref/rows_ref.h"
#include "kernels/table.h"

#define FILL_REF(upper, lower)                                                                     \
    table->encode[LQ_DTYPE_##upper] = lq_encode_##lower##_ref;                                     \
    table->decode[LQ_DTYPE_##upper] = lq_decode_##lower##_ref;

void lq_kernels_fill_ref(struct lq_kernels *table)
{
    table->find_nonfinite = lq_find_nonfinite_ref;
    table->add_squares = lq_add_squares_ref;
    table->decode[LQ_DTYPE_F32] = lq_decode_f32_ref;
    table->decode[LQ_DTYPE_F16] = lq_decode_f16_ref;
    table->decode[LQ_DTYPE_BF16] = lq_decode_bf16_ref;
    table->encode[LQ_DTYPE_F32] = lq_encode_f32_ref;
    table->encode[LQ_DTYPE_F16] = lq_encode_f16_ref;
    table->encode[LQ_DTYPE_BF16] = lq_encode_bf16_ref;
    LQ_BLOCK_TYPES(FILL_REF)
}
