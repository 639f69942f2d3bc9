#include "kernels/ref/rows_ref.h"
#include "kernels/table.h"

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
}
