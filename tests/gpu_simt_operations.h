/* An operation of gpu_operations.h by gpu_simt.h. A fault is left in gpu_shadow.h. Thread rule: one
 * at a time. */
#ifndef LQ_TESTS_GPU_SIMT_OPERATIONS_H
#define LQ_TESTS_GPU_SIMT_OPERATIONS_H

#include "kernels/gpu_operations.h"
#include "tests/gpu_simt.h"

void gpu_simt_operation(enum lq_gpu_operation operation, const void *args, size_t block_count,
                        enum gpu_simt_order order);

#endif
