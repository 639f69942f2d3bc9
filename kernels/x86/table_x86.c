#include "kernels/encode.h"
#include "kernels/table.h"
#include "kernels/x86/decode_avx2.h"
#include "kernels/x86/rows_avx2.h"

void lq_kernels_fill_avx2(struct lq_kernels *table)
{
    table->find_nonfinite = lq_find_nonfinite_avx2;
    table->add_squares = lq_add_squares_avx2;
    table->decode[LQ_DTYPE_F16] = lq_decode_f16_avx2;
    table->decode[LQ_DTYPE_BF16] = lq_decode_bf16_avx2;
    table->encode[LQ_DTYPE_F16] = lq_encode_f16_avx2;
    table->encode[LQ_DTYPE_BF16] = lq_encode_bf16_avx2;
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
    table->decode[LQ_DTYPE_Q4_0] = lq_decode_q4_0_avx2;
    table->decode[LQ_DTYPE_Q4_1] = lq_decode_q4_1_avx2;
    table->decode[LQ_DTYPE_Q5_0] = lq_decode_q5_0_avx2;
    table->decode[LQ_DTYPE_Q5_1] = lq_decode_q5_1_avx2;
    table->decode[LQ_DTYPE_Q8_0] = lq_decode_q8_0_avx2;
    table->decode[LQ_DTYPE_Q2_K] = lq_decode_q2_k_avx2;
    table->decode[LQ_DTYPE_Q3_K] = lq_decode_q3_k_avx2;
    table->decode[LQ_DTYPE_Q4_K] = lq_decode_q4_k_avx2;
    table->decode[LQ_DTYPE_Q5_K] = lq_decode_q5_k_avx2;
    table->decode[LQ_DTYPE_Q6_K] = lq_decode_q6_k_avx2;
    table->encode[LQ_DTYPE_IQ4_NL] = lq_encode_iq4_nl_avx2;
    table->encode[LQ_DTYPE_IQ4_XS] = lq_encode_iq4_xs_avx2;
    table->encode[LQ_DTYPE_IQ3_S] = lq_encode_iq3_s_avx2;
    table->encode[LQ_DTYPE_IQ3_XXS] = lq_encode_iq3_xxs_avx2;
    table->encode[LQ_DTYPE_IQ2_S] = lq_encode_iq2_s_avx2;
    table->encode[LQ_DTYPE_IQ2_XS] = lq_encode_iq2_xs_avx2;
    table->encode[LQ_DTYPE_IQ2_XXS] = lq_encode_iq2_xxs_avx2;
    table->encode[LQ_DTYPE_IQ1_S] = lq_encode_iq1_s_avx2;
    table->encode[LQ_DTYPE_IQ1_M] = lq_encode_iq1_m_avx2;
    table->encode[LQ_DTYPE_MXFP4] = lq_encode_mxfp4_avx2;
    table->encode[LQ_DTYPE_NVFP4] = lq_encode_nvfp4_avx2;
    table->encode[LQ_DTYPE_TQ1_0] = lq_encode_tq1_0_avx2;
    table->encode[LQ_DTYPE_TQ2_0] = lq_encode_tq2_0_avx2;
    table->encode[LQ_DTYPE_Q2_0] = lq_encode_q2_0_avx2;
    table->encode[LQ_DTYPE_Q1_0] = lq_encode_q1_0_avx2;
}
