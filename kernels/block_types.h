/* The block types that every CPU level encodes and decodes, for declarations and tables. X gets the
 * name as in enum lq_dtype and the same in lower case. Internal to the kernels. */
#ifndef LQ_KERNELS_BLOCK_TYPES_H
#define LQ_KERNELS_BLOCK_TYPES_H

#define LQ_BLOCK_TYPES(X)                                                                          \
    X(Q4_0, q4_0)                                                                                  \
    X(Q4_1, q4_1)                                                                                  \
    X(Q5_0, q5_0)                                                                                  \
    X(Q5_1, q5_1)                                                                                  \
    X(Q8_0, q8_0)                                                                                  \
    X(Q2_K, q2_k)                                                                                  \
    X(Q3_K, q3_k)                                                                                  \
    X(Q4_K, q4_k)                                                                                  \
    X(Q5_K, q5_k)                                                                                  \
    X(Q6_K, q6_k)                                                                                  \
    X(IQ4_NL, iq4_nl)                                                                              \
    X(IQ4_XS, iq4_xs)                                                                              \
    X(IQ3_S, iq3_s)                                                                                \
    X(IQ3_XXS, iq3_xxs)                                                                            \
    X(IQ2_S, iq2_s)                                                                                \
    X(IQ2_XS, iq2_xs)                                                                              \
    X(IQ2_XXS, iq2_xxs)                                                                            \
    X(IQ1_S, iq1_s)                                                                                \
    X(IQ1_M, iq1_m)                                                                                \
    X(MXFP4, mxfp4)                                                                                \
    X(NVFP4, nvfp4)                                                                                \
    X(TQ1_0, tq1_0)                                                                                \
    X(TQ2_0, tq2_0)                                                                                \
    X(Q1_0, q1_0)                                                                                  \
    X(Q2_0, q2_0)

#endif
