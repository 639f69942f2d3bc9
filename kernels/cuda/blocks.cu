/* The kernels: encoders and decoders of every type, and the check of values. One file, because the
 * functions of its sources are not static and would meet again when files are linked. */
#include "kernels/cuda/sources.h"

#include "kernels/ref/decode_book_ref.c"
#include "kernels/ref/decode_ref.c"
#include "kernels/ref/encode_ref.c"

#include "kernels/cuda/launch.cuh"

/* An encoder keeps some kilobytes for each thread, so few threads share a multiprocessor's cache.
 */
#define ENCODE_THREADS 64
#define DECODE_THREADS 128

/* The number of the calling thread in its grid. Grids are not empty: that would be an error. */
#define THREAD ((size_t)blockIdx.x * blockDim.x + threadIdx.x)

static unsigned grid_of(size_t count, unsigned threads)
{
    return (unsigned)((count + threads - 1) / threads);
}

#define KERNELS(upper, lower)                                                                      \
    static __global__ void encode_##lower(struct lq_gpu_work work, size_t count)                   \
    {                                                                                              \
        if (THREAD < count) {                                                                      \
            lq_gpu_encode_block(&work, THREAD, lq_encode_##lower##_ref);                           \
        }                                                                                          \
    }                                                                                              \
    static __global__ void decode_##lower(struct lq_gpu_work work, size_t count)                   \
    {                                                                                              \
        if (THREAD < count) {                                                                      \
            lq_gpu_decode_block(&work, THREAD, lq_decode_##lower##_ref);                           \
        }                                                                                          \
    }

KERNELS(F16, f16)
KERNELS(BF16, bf16)
LQ_BLOCK_TYPES(KERNELS)

static __global__ void check_values(struct lq_gpu_work work, size_t count)
{
    if (THREAD < count) {
        lq_gpu_check_value(&work, THREAD);
    }
}

#define ENCODE_CASE(upper, lower)                                                                  \
    case LQ_DTYPE_##upper:                                                                         \
        encode_##lower<<<grid_of(count, ENCODE_THREADS), ENCODE_THREADS, 0, stream>>>(*work,       \
                                                                                      count);      \
        return true;
#define DECODE_CASE(upper, lower)                                                                  \
    case LQ_DTYPE_##upper:                                                                         \
        decode_##lower<<<grid_of(count, DECODE_THREADS), DECODE_THREADS, 0, stream>>>(*work,       \
                                                                                      count);      \
        return true;

bool lq_cuda_encode(cudaStream_t stream, const struct lq_gpu_work *work)
{
    size_t count = work->row_count * work->col_count / work->out_elems;
    if (count == 0) {
        return true;
    }
    switch ((enum lq_dtype)work->target) {
        ENCODE_CASE(F16, f16)
        ENCODE_CASE(BF16, bf16)
        LQ_BLOCK_TYPES(ENCODE_CASE)
    default:
        return false;
    }
}

bool lq_cuda_decode(cudaStream_t stream, const struct lq_gpu_work *work)
{
    size_t count = work->row_count * work->col_count / work->in_elems;
    if (count == 0) {
        return true;
    }
    switch ((enum lq_dtype)work->source) {
        DECODE_CASE(F16, f16)
        DECODE_CASE(BF16, bf16)
        LQ_BLOCK_TYPES(DECODE_CASE)
    default:
        return false;
    }
}

void lq_cuda_check(cudaStream_t stream, const struct lq_gpu_work *work)
{
    size_t count = work->row_count * work->col_count;
    if (count != 0) {
        check_values<<<grid_of(count, DECODE_THREADS), DECODE_THREADS, 0, stream>>>(*work, count);
    }
}

cudaError_t lq_cuda_set_near(enum lq_gpu_near which, const uint32_t *pairs, const uint16_t *index)
{
    struct lq_near lists = {pairs, index};
    cudaError_t error =
        cudaMemcpyToSymbol(near_lists, &lists, sizeof lists, (size_t)which * sizeof lists);
    /* Such a copy may return when the bytes are staged, and streams here do not wait for it. */
    return error != cudaSuccess ? error : cudaDeviceSynchronize();
}
