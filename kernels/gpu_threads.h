/* How an operation of a GPU is written, as C that is also CUDA C++. An operation works on blocks of
 * LQ_GPU_THREADS threads; block b is `void lq_gpu_<name>_block(const struct lq_gpu_<name> *, size_t
 * b)`. What its threads do between two barriers stands in a loop over them:
 *
 *     LQ_GPU_EACH_THREAD(t) { ... }
 *
 * On a GPU all threads enter such a loop at once, each with its own t, and wait for each other at
 * its end; on the CPU it is a loop. So `continue` is allowed in it, `break` and `return` are not.
 * Values that threads leave for each other are LQ_GPU_SHARED arrays; others are the same for all
 * threads. Within one loop no thread reads what another writes: tests run threads and blocks in
 * both directions and compare bits (lq_gpu_backwards), and once more as a GPU does, each thread by
 * itself, with a record of who touches what (tests/gpu_simt.h, which then brings the macros).
 *
 * Sums are trees whose shape depends on the number of lanes alone: LQ_GPU_THREADS threads are
 * groups of `lanes`, a power of two, and a group has one row. Thread rule: pure. */
#ifndef LQ_KERNELS_GPU_THREADS_H
#define LQ_KERNELS_GPU_THREADS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/device_fn.h"
#include "kernels/gpu_operations.h"

#ifdef __CUDACC__
#define LQ_GPU_BY_THREAD
#define LQ_GPU_SHARED __shared__
#define LQ_GPU_ALIGNED __align__(16)
#define LQ_GPU_THREAD threadIdx.x
#define LQ_GPU_BARRIER() __syncthreads()
#endif

/* With LQ_GPU_BY_THREAD this is the code of one thread. */
#ifdef LQ_GPU_BY_THREAD
#define LQ_GPU_EACH_THREAD(t)                                                                      \
    for (unsigned t = LQ_GPU_THREAD, t##_once = 1; t##_once != 0; t##_once = 0, LQ_GPU_BARRIER())
#else
#define LQ_GPU_SHARED
#define LQ_GPU_ALIGNED
#define LQ_GPU_BARRIER() (void)0
#define LQ_GPU_EACH_THREAD(t)                                                                      \
    for (unsigned t##_n = 0, t = lq_gpu_turn(0, LQ_GPU_THREADS); t##_n < LQ_GPU_THREADS;           \
         t = lq_gpu_turn(++t##_n, LQ_GPU_THREADS))
/* Threads and blocks take turns from the last to the first. */
static bool lq_gpu_backwards;

static inline unsigned lq_gpu_turn(unsigned n, unsigned count)
{
    return lq_gpu_backwards ? count - 1 - n : n;
}
#endif

/* part[first of each group] = the sum over its lanes; the others are used up. */
LQ_DEVICE_FN static inline void lq_gpu_sum_lanes(double *part, unsigned lanes)
{
    for (unsigned stride = lanes / 2; stride > 0; stride /= 2) {
        LQ_GPU_EACH_THREAD(t)
        {
            if ((t & (lanes - 1)) < stride) {
                part[t] += part[t + stride];
            }
        }
    }
}

/* The same with the maximum. A NaN is passed over, unless it is the first. */
LQ_DEVICE_FN static inline void lq_gpu_max_lanes(float *part, unsigned lanes)
{
    for (unsigned stride = lanes / 2; stride > 0; stride /= 2) {
        LQ_GPU_EACH_THREAD(t)
        {
            if ((t & (lanes - 1)) < stride && part[t + stride] > part[t]) {
                part[t] = part[t + stride];
            }
        }
    }
}

#endif
