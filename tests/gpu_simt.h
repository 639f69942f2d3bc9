/* The threads of a GPU, one by one, on the CPU: what gpu_threads.h and gpu_warp.h leave to a GPU,
 * so that the code that nvcc compiles runs where there is none. Each of the LQ_GPU_THREADS threads
 * of a block has a stack of its own and goes on until it comes to a barrier or to an instruction of
 * its warp; what it touches is watched by gpu_shadow.h. Instructions do what the PTX ISA says,
 * written from its pages and not from gpu_flash.h; copies into shared memory arrive when they are
 * waited for, and not before. Threads that miss a barrier which others wait at, and lanes of a warp
 * that do not come to an instruction together, are faults.
 *
 * Operations are written with gpu_simt_device.h. Thread rule: one launch at a time. */
#ifndef LQ_TESTS_GPU_SIMT_H
#define LQ_TESTS_GPU_SIMT_H

#include <stddef.h>

enum gpu_simt_order { GPU_SIMT_FORWARDS, GPU_SIMT_BACKWARDS, GPU_SIMT_MIXED };

typedef void (*gpu_simt_run_fn)(const void *args, size_t block);

/* All blocks of an operation, blocks and threads in the order. After a fault (shadow_fault) it does
 * nothing more. */
void gpu_simt_launch(const char *name, gpu_simt_run_fn run, const void *args, size_t args_bytes,
                     size_t block_count, enum gpu_simt_order order);

/* From now on no thread waits at its barrier of this number, counted from 0 in each block;
 * UINT_MAX: all wait. So that tests can see whether a missing barrier is found. */
void gpu_simt_drop_barrier(unsigned number);

#endif
