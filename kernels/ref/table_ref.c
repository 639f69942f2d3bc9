#include "kernels/encode.h"
#include "kernels/ref/decode_book_ref.h"
#include "kernels/ref/decode_ref.h"
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
    table->decode[LQ_DTYPE_Q4_0] = lq_decode_q4_0_ref;
    table->decode[LQ_DTYPE_Q4_1] = lq_decode_q4_1_ref;
    table->decode[LQ_DTYPE_Q5_0] = lq_decode_q5_0_ref;
    table->decode[LQ_DTYPE_Q5_1] = lq_decode_q5_1_ref;
    table->decode[LQ_DTYPE_Q8_0] = lq_decode_q8_0_ref;
    table->decode[LQ_DTYPE_Q2_K] = lq_decode_q2_k_ref;
    table->decode[LQ_DTYPE_Q3_K] = lq_decode_q3_k_ref;
    table->decode[LQ_DTYPE_Q4_K] = lq_decode_q4_k_ref;
    table->decode[LQ_DTYPE_Q5_K] = lq_decode_q5_k_ref;
    table->decode[LQ_DTYPE_Q6_K] = lq_decode_q6_k_ref;
    table->encode[LQ_DTYPE_Q4_0] = lq_encode_q4_0_ref;
    table->encode[LQ_DTYPE_Q4_1] = lq_encode_q4_1_ref;
    table->encode[LQ_DTYPE_Q5_0] = lq_encode_q5_0_ref;
    table->encode[LQ_DTYPE_Q5_1] = lq_encode_q5_1_ref;
    table->encode[LQ_DTYPE_Q8_0] = lq_encode_q8_0_ref;
    table->encode[LQ_DTYPE_Q2_K] = lq_encode_q2_k_ref;
    table->encode[LQ_DTYPE_Q3_K] = lq_encode_q3_k_ref;
    table->encode[LQ_DTYPE_Q4_K] = lq_encode_q4_k_ref;
    table->encode[LQ_DTYPE_Q5_K] = lq_encode_q5_k_ref;
    table->encode[LQ_DTYPE_Q6_K] = lq_encode_q6_k_ref;
    table->decode[LQ_DTYPE_IQ4_NL] = lq_decode_iq4_nl_ref;
    table->decode[LQ_DTYPE_IQ4_XS] = lq_decode_iq4_xs_ref;
    table->decode[LQ_DTYPE_IQ3_XXS] = lq_decode_iq3_xxs_ref;
    table->decode[LQ_DTYPE_IQ3_S] = lq_decode_iq3_s_ref;
    table->decode[LQ_DTYPE_IQ2_XXS] = lq_decode_iq2_xxs_ref;
    table->decode[LQ_DTYPE_IQ2_XS] = lq_decode_iq2_xs_ref;
    table->decode[LQ_DTYPE_IQ2_S] = lq_decode_iq2_s_ref;
    table->decode[LQ_DTYPE_IQ1_S] = lq_decode_iq1_s_ref;
    table->decode[LQ_DTYPE_IQ1_M] = lq_decode_iq1_m_ref;
    table->decode[LQ_DTYPE_MXFP4] = lq_decode_mxfp4_ref;
    table->decode[LQ_DTYPE_NVFP4] = lq_decode_nvfp4_ref;
    table->decode[LQ_DTYPE_TQ1_0] = lq_decode_tq1_0_ref;
    table->decode[LQ_DTYPE_TQ2_0] = lq_decode_tq2_0_ref;
    table->decode[LQ_DTYPE_Q1_0] = lq_decode_q1_0_ref;
    table->decode[LQ_DTYPE_Q2_0] = lq_decode_q2_0_ref;
    table->encode[LQ_DTYPE_IQ4_NL] = lq_encode_iq4_nl_ref;
    table->encode[LQ_DTYPE_IQ4_XS] = lq_encode_iq4_xs_ref;
    table->encode[LQ_DTYPE_IQ3_S] = lq_encode_iq3_s_ref;
    table->encode[LQ_DTYPE_IQ3_XXS] = lq_encode_iq3_xxs_ref;
    table->encode[LQ_DTYPE_IQ2_S] = lq_encode_iq2_s_ref;
    table->encode[LQ_DTYPE_IQ2_XS] = lq_encode_iq2_xs_ref;
    table->encode[LQ_DTYPE_IQ2_XXS] = lq_encode_iq2_xxs_ref;
    table->encode[LQ_DTYPE_IQ1_S] = lq_encode_iq1_s_ref;
    table->encode[LQ_DTYPE_IQ1_M] = lq_encode_iq1_m_ref;
    table->encode[LQ_DTYPE_MXFP4] = lq_encode_mxfp4_ref;
    table->encode[LQ_DTYPE_NVFP4] = lq_encode_nvfp4_ref;
    table->encode[LQ_DTYPE_TQ1_0] = lq_encode_tq1_0_ref;
    table->encode[LQ_DTYPE_TQ2_0] = lq_encode_tq2_0_ref;
    table->encode[LQ_DTYPE_Q2_0] = lq_encode_q2_0_ref;
    table->encode[LQ_DTYPE_Q1_0] = lq_encode_q1_0_ref;
}
