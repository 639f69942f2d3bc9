/* What one GPU thread does with one block of a tile of rows: arithmetic of addresses around the
 * encoders and decoders. C that is also CUDA C++ (kernels/device_fn.h), so that a module for GPUs
 * and the one that tests build for the CPU run the same. A tile's blocks are numbered through its
 * rows; rows consist of whole blocks of both types. Internal to the kernels and their modules.
 * Thread rule: pure; different blocks write to different memory, except `bad`, where all that write
 * write the same. */
#ifndef LQ_KERNELS_GPU_WORK_H
#define LQ_KERNELS_GPU_WORK_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/device_fn.h"
#include "kernels/kernels.h"

/* All pointers are device memory. */
struct lq_gpu_work {
    size_t row_count, col_count;
    size_t importance_rows;        /* 0: none, 1: one for all rows, row_count: one for each */
    uint32_t source, target;       /* enum lq_dtype */
    uint32_t in_elems, in_bytes;   /* of a block of the source type */
    uint32_t out_elems, out_bytes; /* of a block of the target type */
    const unsigned char *in;
    float *values; /* `in` as floats */
    const float *importance;
    unsigned char *out;
    uint32_t *bad; /* becomes 1 when a value is not finite or above `limit` */
    float limit;   /* largest magnitude */
};

LQ_DEVICE_FN static inline void lq_gpu_decode_block(const struct lq_gpu_work *work, size_t block,
                                                    lq_decode_fn decode)
{
    decode(work->in + block * work->in_bytes, work->values + block * work->in_elems,
           work->in_elems);
}

LQ_DEVICE_FN static inline void lq_gpu_check_value(const struct lq_gpu_work *work, size_t index)
{
    uint32_t bits;
    uint32_t limit_bits;
    memcpy(&bits, work->values + index, sizeof bits);
    memcpy(&limit_bits, &work->limit, sizeof limit_bits);
    /* Without their signs floats compare like their bits; infinities and NaNs are above all. */
    if ((bits & 0x7fffffffu) > limit_bits) {
        *work->bad = 1;
    }
}

LQ_DEVICE_FN static inline void lq_gpu_encode_block(const struct lq_gpu_work *work, size_t block,
                                                    lq_encode_fn encode)
{
    size_t at = block * work->out_elems;
    const float *importance = NULL;
    if (work->importance_rows > 0) {
        importance = work->importance + (work->importance_rows == 1 ? at % work->col_count : at);
    }
    encode(work->values + at, work->out + block * work->out_bytes, work->out_elems, importance);
}

#endif
