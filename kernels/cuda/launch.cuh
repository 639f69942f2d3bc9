/* Between the two files of the CUDA module: what launches the kernels. A kernel's threads take one
 * block (or value) each, numbered through the tile. Launchers return false for a type that they do
 * not know; errors of a launch are found by the caller with cudaGetLastError. Thread rule: any
 * thread, with the stream's device current. */
#ifndef LQ_KERNELS_CUDA_LAUNCH_CUH
#define LQ_KERNELS_CUDA_LAUNCH_CUH

#include <cuda_runtime.h>

#include "kernels/gpu_module.h"

bool lq_cuda_decode(cudaStream_t stream, const struct lq_gpu_work *work);
void lq_cuda_check(cudaStream_t stream, const struct lq_gpu_work *work);
bool lq_cuda_encode(cudaStream_t stream, const struct lq_gpu_work *work);
/* For the current device. */
cudaError_t lq_cuda_set_near(enum lq_gpu_near which, const uint32_t *pairs, const uint16_t *index);

#endif
