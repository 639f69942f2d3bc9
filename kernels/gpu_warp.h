/* The instructions of NVIDIA GPUs that gpu_flash.h is written with, as inline PTX: a warp's matrix
 * units, values from other lanes, and copies into shared memory beside other work. Each is one
 * instruction; the words of the PTX ISA say what its lanes hold ("Matrix fragments for
 * mma.m16n8k16", "ldmatrix", "cp.async"). All lanes of a warp enter those that say so together.
 * Only for GPUs; tests bring functions of the same names that do the same with threads of the CPU
 * (tests/gpu_simt.h). Internal to the kernels and their modules. Thread rule: pure but for the
 * memory that is named. Limits: compute capability 8.0 or more. */
#ifndef LQ_KERNELS_GPU_WARP_H
#define LQ_KERNELS_GPU_WARP_H

#include <stdint.h>

#ifdef __CUDACC__

/* Two floats as bf16, to nearest even. */
static __device__ __forceinline__ uint32_t lq_gpu_warp_round(float low, float high)
{
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

static __device__ __forceinline__ float lq_gpu_warp_exp(float x)
{
    return __expf(x);
}

/* All lanes: what lane (own ^ other) has. */
static __device__ __forceinline__ float lq_gpu_warp_swap(float value, int other)
{
    return __shfl_xor_sync(0xffffffffu, value, other);
}

/* All lanes: c += a b. */
static __device__ __forceinline__ void lq_gpu_warp_multiply(float c[4], const uint32_t a[4],
                                                            const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* All lanes: four transposed matrices of 8 x 8; lane 8 i + r brings row r of matrix i, 16 bytes of
 * shared memory. */
static __device__ __forceinline__ void lq_gpu_warp_load_turned(const uint16_t *row, uint32_t to[4])
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(at)
                 : "memory");
}

/* 16 bytes into shared memory, of which the first `count` are copied and the others zero; on their
 * way until they are waited for. Both are aligned to 16 bytes. */
static __device__ __forceinline__ void lq_gpu_warp_fetch(uint16_t *to, const uint16_t *from,
                                                         int count)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(count)
                 : "memory");
}

/* What this thread fetched since the last time is one group. */
static __device__ __forceinline__ void lq_gpu_warp_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* For all groups of this thread but the newest. */
static __device__ __forceinline__ void lq_gpu_warp_wait(void)
{
    asm volatile("cp.async.wait_group 1;" ::: "memory");
}

#endif

#endif
