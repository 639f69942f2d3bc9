/* Finds the module that drives GPUs: the file that LQBUILD_CUDA_MODULE names, else
 * liblqbuild_cuda.so in the folder of the program, else in ../lib/lqbuild beside that folder.
 * Internal to the kernels. Thread rule: one thread at a time. */
#ifndef LQ_KERNELS_GPU_LOAD_H
#define LQ_KERNELS_GPU_LOAD_H

#include "kernels/gpu_module.h"

#define LQ_GPU_WHY_BYTES 512

/* NULL with one sentence in `why` when there is none, or it is of another version. */
const struct lq_gpu_module *lq_gpu_load(char why[LQ_GPU_WHY_BYTES]);

#endif
