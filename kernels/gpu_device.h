/* A GPU as a device for the passes of a model: the table of device.h by the operations and products
 * of a module (gpu_module.h). Numerics are "cuda-bf16": both sides of a product are rounded to
 * bf16, sums are 32-bit floats, everything else has the precisions of the CPU device. Results
 * depend on the shapes, the kind of GPU and the version of its library of products, on nothing
 * else.
 *
 * Ownership: the device owns a stream and memory of the context. Memory that is given back, by
 * `release` and by `destroy`, is kept for the next taker of the same context, as the steps of a
 * model take the same again. Thread rule: any thread; a device is used by one at a time, several
 * devices of a context at once. Limits: a dimension of a matrix, and the rows of a batch times
 * heads, fit an int. */
#ifndef LQ_KERNELS_GPU_DEVICE_H
#define LQ_KERNELS_GPU_DEVICE_H

#include "kernels/device.h"
#include "kernels/gpu_module.h"

/* NULL, or one sentence: memory is out, or the library of products is missing. */
const char *lq_gpu_device_create(const struct lq_gpu_module *module, struct lq_gpu_context *context,
                                 struct lq_device **device);
/* Gives the memory that destroyed devices of the context left back to the context: for who needs it
 * for something else. */
void lq_gpu_device_trim(const struct lq_gpu_module *module, struct lq_gpu_context *context);

#endif
