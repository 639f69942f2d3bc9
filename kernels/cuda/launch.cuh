/* Between the files of the CUDA module: what launches the kernels of tiles (blocks.cu; a thread
 * takes one block or value, numbered through the tile) and of operations (operations.cu), and
 * products (products.cu). Launchers return false for what they do not know; errors of a launch are
 * found by the caller with cudaGetLastError. Thread rule: any thread, with the stream's device
 * current; products belong to one stream. */
#ifndef LQ_KERNELS_CUDA_LAUNCH_CUH
#define LQ_KERNELS_CUDA_LAUNCH_CUH

#include <cuda_runtime.h>

#include "kernels/gpu_module.h"

bool lq_cuda_decode(cudaStream_t stream, const struct lq_gpu_work *work);
void lq_cuda_check(cudaStream_t stream, const struct lq_gpu_work *work);
bool lq_cuda_encode(cudaStream_t stream, const struct lq_gpu_work *work);
bool lq_cuda_launch(cudaStream_t stream, enum lq_gpu_operation operation, const void *args,
                    size_t block_count);

/* For the current device. NULL, or one sentence; so does lq_cuda_multiply. */
struct lq_cuda_products;
const char *lq_cuda_products_open(struct lq_cuda_products **products);
void lq_cuda_products_close(struct lq_cuda_products *products);
const char *lq_cuda_multiply(struct lq_cuda_products *products, cudaStream_t stream,
                             const struct lq_gpu_product *product);

/* For the current device. */
cudaError_t lq_cuda_set_near(enum lq_gpu_near which, const uint32_t *pairs, const uint16_t *index);

#endif
