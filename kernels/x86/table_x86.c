#include "kernels/encode.h"
#include "kernels/table.h"

void lq_kernels_fill_avx2(struct lq_kernels *table)
{
    table->encode[LQ_DTYPE_Q4_0] = lq_encode_q4_0_avx2;
    table->encode[LQ_DTYPE_Q4_1] = lq_encode_q4_1_avx2;
    table->encode[LQ_DTYPE_Q5_0] = lq_encode_q5_0_avx2;
    table->encode[LQ_DTYPE_Q5_1] = lq_encode_q5_1_avx2;
    table->encode[LQ_DTYPE_Q8_0] = lq_encode_q8_0_avx2;
    table->encode[LQ_DTYPE_Q2_K] = lq_encode_q2_k_avx2;
    table->encode[LQ_DTYPE_Q3_K] = lq_encode_q3_k_avx2;
    table->encode[LQ_DTYPE_Q4_K] = lq_encode_q4_k_avx2;
    table->encode[LQ_DTYPE_Q5_K] = lq_encode_q5_k_avx2;
    table->encode[LQ_DTYPE_Q6_K] = lq_encode_q6_k_avx2;
}
