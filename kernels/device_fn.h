/* Functions and tables that run on the CPU and on a GPU. Encoders, decoders and what they need are
 * written once, as C that is also CUDA C++: kernels/cuda/blocks.cu includes the very sources that
 * the reference is built from, so tests of the reference are tests of what a GPU runs. For that
 * they cast void pointers, give designated initialisers in the order of their members, mark
 * functions and tables as below, and call nothing but memcpy, memset, fabsf, sqrtf, sqrt, frexpf
 * and ldexpf, which are exact on both (and log in losses and the exponential of gpu_flash.h, which
 * are not). Internal to the kernels. Pure. */
#ifndef LQ_KERNELS_DEVICE_FN_H
#define LQ_KERNELS_DEVICE_FN_H

#ifdef __CUDACC__
#define LQ_DEVICE_FN __device__
#define LQ_DEVICE_TABLE __device__
#else
#define LQ_DEVICE_FN
#define LQ_DEVICE_TABLE
#endif

#endif
