/* Encoders of the block types at each CPU level; signatures as lq_encode_fn. All levels of a type
 * are one source (kernels/search/) built with different lanes. Internal to the kernels. Pure. */
#ifndef LQ_KERNELS_ENCODE_H
#define LQ_KERNELS_ENCODE_H

#include <stddef.h>

#define LQ_ENCODER(name)                                                                           \
    void name(const float *row, void *blocks, size_t col_count, const float *importance)
#define LQ_ENCODER_LEVELS(type)                                                                    \
    LQ_ENCODER(lq_encode_##type##_ref);                                                            \
    LQ_ENCODER(lq_encode_##type##_avx2)

LQ_ENCODER_LEVELS(q4_0);
LQ_ENCODER_LEVELS(q4_1);
LQ_ENCODER_LEVELS(q5_0);
LQ_ENCODER_LEVELS(q5_1);
LQ_ENCODER_LEVELS(q8_0);
LQ_ENCODER_LEVELS(q2_k);
LQ_ENCODER_LEVELS(q3_k);
LQ_ENCODER_LEVELS(q4_k);
LQ_ENCODER_LEVELS(q5_k);
LQ_ENCODER_LEVELS(q6_k);
LQ_ENCODER_LEVELS(iq4_nl);
LQ_ENCODER_LEVELS(iq4_xs);
LQ_ENCODER_LEVELS(iq3_s);
LQ_ENCODER_LEVELS(iq3_xxs);
LQ_ENCODER_LEVELS(iq2_s);
LQ_ENCODER_LEVELS(iq2_xs);
LQ_ENCODER_LEVELS(iq2_xxs);
LQ_ENCODER_LEVELS(iq1_s);
LQ_ENCODER_LEVELS(iq1_m);
LQ_ENCODER_LEVELS(mxfp4);
LQ_ENCODER_LEVELS(nvfp4);
LQ_ENCODER_LEVELS(tq1_0);
LQ_ENCODER_LEVELS(tq2_0);
LQ_ENCODER_LEVELS(q2_0);
LQ_ENCODER_LEVELS(q1_0);

#undef LQ_ENCODER_LEVELS
#undef LQ_ENCODER

#endif
