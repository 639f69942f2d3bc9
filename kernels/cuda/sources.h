/* The sources that encoders and decoders share, in the order that C++ needs: tables before their
 * use. Included by the file that is compiled for GPUs, and by the module that tests build for the
 * CPU. What belongs to a device is set by the module: the lists of near points. Thread rule: pure
 * but for the lists, which are set before the first encode. */
#ifndef LQ_KERNELS_CUDA_SOURCES_H
#define LQ_KERNELS_CUDA_SOURCES_H

/* First the tables. */
#include "kernels/tables/books.c"
#include "kernels/tables/grids.c"
#include "kernels/tables/levels.c"

#include "kernels/half.c"
#include "kernels/pack.c"
#include "kernels/ref/rows_ref.c"

#include "kernels/block_types.h"
#include "kernels/gpu_module.h"
#include "kernels/tables/near.h"

LQ_DEVICE_TABLE static struct lq_near near_lists[LQ_GPU_NEAR_COUNT];

LQ_DEVICE_FN struct lq_near lq_near_iq2xxs(void)
{
    return near_lists[LQ_GPU_NEAR_IQ2XXS];
}

LQ_DEVICE_FN struct lq_near lq_near_iq2xs(void)
{
    return near_lists[LQ_GPU_NEAR_IQ2XS];
}

LQ_DEVICE_FN struct lq_near lq_near_iq2s(void)
{
    return near_lists[LQ_GPU_NEAR_IQ2S];
}

LQ_DEVICE_FN struct lq_near lq_near_iq3xxs(void)
{
    return near_lists[LQ_GPU_NEAR_IQ3XXS];
}

LQ_DEVICE_FN struct lq_near lq_near_iq3s(void)
{
    return near_lists[LQ_GPU_NEAR_IQ3S];
}

LQ_DEVICE_FN struct lq_near lq_near_iq1s(void)
{
    return near_lists[LQ_GPU_NEAR_IQ1S];
}

#endif
