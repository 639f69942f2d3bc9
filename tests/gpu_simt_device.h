/* What operations are written with where gpu_simt.h runs them: the macros of kernels/gpu_threads.h
 * and the instructions of kernels/gpu_warp.h. A file of operations includes this header before
 * those, is compiled with -fsanitize=thread -fno-strict-aliasing, and linked without that
 * sanitizer. Thread rule: for threads of a launch. */
#ifndef LQ_TESTS_GPU_SIMT_DEVICE_H
#define LQ_TESTS_GPU_SIMT_DEVICE_H

#include <stdint.h>

#define LQ_GPU_BY_THREAD
#define LQ_GPU_SHARED static __attribute__((section("gpu_simt_shared")))
#define LQ_GPU_ALIGNED __attribute__((aligned(16)))
#define LQ_GPU_THREAD gpu_simt_thread()
#define LQ_GPU_BARRIER() gpu_simt_barrier(__LINE__)

unsigned gpu_simt_thread(void);
void gpu_simt_barrier(int line);

/* As in gpu_warp.h. */
uint32_t lq_gpu_warp_round(float low, float high);
float lq_gpu_warp_exp(float x);
float lq_gpu_warp_swap(float value, int other);
void lq_gpu_warp_multiply(float c[4], const uint32_t a[4], const uint32_t b[2]);
void lq_gpu_warp_load_turned(const uint16_t *row, uint32_t to[4]);
void lq_gpu_warp_fetch(uint16_t *to, const uint16_t *from, int count);
void lq_gpu_warp_commit(void);
void lq_gpu_warp_wait(void);

#endif
