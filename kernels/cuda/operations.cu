/* The operations of a model's passes as kernels: a thread block for each block of an operation. */
#include "kernels/cuda/launch.cuh"

#include "kernels/gpu_experts.h"
#include "kernels/gpu_flash.h"
#include "kernels/gpu_flash_back.h"
#include "kernels/gpu_heads.h"
#include "kernels/gpu_rows.h"

#define KERNEL(upper, lower)                                                                       \
    static __global__ void __launch_bounds__(LQ_GPU_THREADS)                                       \
        run_##lower(const __grid_constant__ struct lq_gpu_##lower op)                              \
    {                                                                                              \
        lq_gpu_##lower##_block(&op, blockIdx.x);                                                   \
    }
LQ_GPU_OPERATIONS(KERNEL)

bool lq_cuda_launch(cudaStream_t stream, enum lq_gpu_operation operation, const void *args,
                    size_t block_count)
{
    if (block_count > 0x7fffffffu) {
        return false;
    }
    switch (operation) {
#define CASE(upper, lower)                                                                         \
    case LQ_GPU_OP_##upper:                                                                        \
        run_##lower<<<(unsigned)block_count, LQ_GPU_THREADS, 0, stream>>>(                         \
            *(const struct lq_gpu_##lower *)args);                                                 \
        return true;
        LQ_GPU_OPERATIONS(CASE)
#undef CASE
    default:
        return false;
    }
}
