/* The contract between the program and a module that drives GPUs: a shared object, loaded at run
 * time, that exports `lq_gpu_module_get`. kernels/cuda/ builds liblqbuild_cuda.so; tests build one
 * whose device is the CPU. The module offers memory, streams, three kernels for tiles of rows, the
 * operations of gpu_operations.h and products; what is done with them in which order is C of the
 * program (kernels/gpu.c for tiles, kernels/gpu_device.c for the passes of a model).
 *
 * Functions that can fail return NULL, or one sentence of static text (for the calling thread until
 * its next call). Work on a stream is in order and asynchronous; memory that it uses must stay
 * until `wait`. Thread rule: any thread, several at once, one at a time for each stream. */
#ifndef LQ_KERNELS_GPU_MODULE_H
#define LQ_KERNELS_GPU_MODULE_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/gpu_operations.h"
#include "kernels/gpu_work.h"

/* Raised with every change of the structures here, in gpu_work.h and in gpu_operations.h. */
#define LQ_GPU_MODULE_VERSION 7
#define LQ_GPU_NAME_BYTES 64
/* Points of a stream's work that can be waited for. */
#define LQ_GPU_MARKS 5

/* The lists of tables/near.h that encoders of grid types read, in the order of lq_gpu_set_near. */
enum lq_gpu_near {
    LQ_GPU_NEAR_IQ2XXS,
    LQ_GPU_NEAR_IQ2XS,
    LQ_GPU_NEAR_IQ2S,
    LQ_GPU_NEAR_IQ3XXS,
    LQ_GPU_NEAR_IQ3S,
    LQ_GPU_NEAR_IQ1S,
    LQ_GPU_NEAR_COUNT,
};

struct lq_gpu_info {
    char name[LQ_GPU_NAME_BYTES]; /* "NVIDIA H100 80GB HBM3" */
    size_t memory_bytes, memory_free_bytes;
};

struct lq_gpu_context; /* a device in use */
struct lq_gpu_stream;

struct lq_gpu_module {
    uint32_t version; /* LQ_GPU_MODULE_VERSION; the other members count only if it is */
    const char *name; /* "cuda": what a result is marked with */
    const char *(*count)(int *device_count);
    const char *(*open)(int device, struct lq_gpu_context **context);
    void (*close)(struct lq_gpu_context *context);
    const char *(*describe)(struct lq_gpu_context *context, struct lq_gpu_info *info);

    const char *(*alloc)(struct lq_gpu_context *context, size_t size_bytes, void **memory);
    void (*release)(struct lq_gpu_context *context, void *memory);
    /* Memory of the host that the device can copy from and to while it computes. */
    const char *(*alloc_host)(struct lq_gpu_context *context, size_t size_bytes, void **memory);
    void (*release_host)(struct lq_gpu_context *context, void *memory);
    /* Device copies of one of the lists; before the first encode. */
    const char *(*set_near)(struct lq_gpu_context *context, enum lq_gpu_near which,
                            const uint32_t *pairs, const uint16_t *index);

    const char *(*stream_open)(struct lq_gpu_context *context, struct lq_gpu_stream **stream);
    void (*stream_close)(struct lq_gpu_stream *stream);
    const char *(*upload)(struct lq_gpu_stream *stream, void *to, const void *from,
                          size_t size_bytes);
    const char *(*download)(struct lq_gpu_stream *stream, void *to, const void *from,
                            size_t size_bytes);
    const char *(*zero)(struct lq_gpu_stream *stream, void *memory, size_t size_bytes);
    /* Of all blocks or values of the tile; decode and encode read the types from it. */
    const char *(*decode)(struct lq_gpu_stream *stream, const struct lq_gpu_work *work);
    const char *(*check)(struct lq_gpu_stream *stream, const struct lq_gpu_work *work);
    const char *(*encode)(struct lq_gpu_stream *stream, const struct lq_gpu_work *work);
    const char *(*wait)(struct lq_gpu_stream *stream);

    /* Within the device; the parts do not overlap. */
    const char *(*copy)(struct lq_gpu_stream *stream, void *to, const void *from,
                        size_t size_bytes);
    /* Sets mark `mark`, below LQ_GPU_MARKS, behind the work so far; waits for that work. A mark
     * that was never set is no wait. */
    const char *(*set_mark)(struct lq_gpu_stream *stream, unsigned mark);
    const char *(*wait_mark)(struct lq_gpu_stream *stream, unsigned mark);
    /* What the stream does from here on comes behind mark `mark` of another stream of the context,
     * as it is set now. Nobody may use either meanwhile. */
    const char *(*follow)(struct lq_gpu_stream *stream, struct lq_gpu_stream *other, unsigned mark);
    /* `args` is the structure of the operation; it is copied. `block_count` is not 0. */
    const char *(*launch)(struct lq_gpu_stream *stream, enum lq_gpu_operation operation,
                          const void *args, size_t block_count);
    /* Once for a stream, before its first product. Fails where the library is missing. */
    const char *(*prepare_products)(struct lq_gpu_stream *stream);
    /* The same way of summing for the same sizes, strides and alignments, whatever else runs. */
    const char *(*multiply)(struct lq_gpu_stream *stream, const struct lq_gpu_product *product);
};

typedef const struct lq_gpu_module *(*lq_gpu_module_get_fn)(void);
#define LQ_GPU_MODULE_SYMBOL "lq_gpu_module_get"

#endif
