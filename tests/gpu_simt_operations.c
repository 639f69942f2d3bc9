/* The operations of a GPU as gpu_simt.h runs them; see there for how this file is compiled. */
#include "tests/gpu_simt_operations.h"

#include "tests/gpu_simt_device.h"

#include "kernels/gpu_experts.h"
#include "kernels/gpu_flash.h"
#include "kernels/gpu_flash_back.h"
#include "kernels/gpu_heads.h"
#include "kernels/gpu_rows.h"

#define RUN(upper, lower)                                                                          \
    static void run_##lower(const void *args, size_t block)                                        \
    {                                                                                              \
        lq_gpu_##lower##_block(args, block);                                                       \
    }
LQ_GPU_OPERATIONS(RUN)
#undef RUN

void gpu_simt_operation(enum lq_gpu_operation operation, const void *args, size_t block_count,
                        enum gpu_simt_order order)
{
    switch (operation) {
#define CASE(upper, lower)                                                                         \
    case LQ_GPU_OP_##upper:                                                                        \
        gpu_simt_launch(#lower, run_##lower, args, sizeof(struct lq_gpu_##lower), block_count,     \
                        order);                                                                    \
        break;
        LQ_GPU_OPERATIONS(CASE)
#undef CASE
    case LQ_GPU_OP_COUNT:
        break;
    }
}
