/* The module that drives NVIDIA GPUs: kernels/gpu_module.h by the CUDA runtime, which is linked
 * statically, so that only the driver is needed where it runs. */
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/launch.cuh"

/* The oldest compute capability that there are kernels for. */
#define CAPABILITY_MAJOR_MIN 8

struct lq_gpu_context {
    int device;
    char name[LQ_GPU_NAME_BYTES];
};

struct lq_gpu_stream {
    struct lq_gpu_context *context;
    cudaStream_t stream;
    cudaEvent_t marks[LQ_GPU_MARKS];
    struct lq_cuda_products *products; /* NULL until they are prepared */
};

/* The runtime also keeps an error as the last one of the thread, where the next launch would find
 * it: memory that is short is an error that callers get over. */
static const char *sentence(cudaError_t error)
{
    if (error == cudaSuccess) {
        return NULL;
    }
    (void)cudaGetLastError();
    return cudaGetErrorString(error);
}

/* The runtime works on the current device of the calling thread. */
static const char *enter(const struct lq_gpu_context *context)
{
    return sentence(cudaSetDevice(context->device));
}

static const char *cuda_count(int *device_count)
{
    cudaError_t error = cudaGetDeviceCount(device_count);
    if (error != cudaSuccess) {
        *device_count = 0;
    }
    if (error == cudaErrorInsufficientDriver) {
        (void)sentence(error);
        return "there is no NVIDIA driver, or it is older than CUDA 13 needs";
    }
    if (error == cudaErrorNoDevice) {
        (void)sentence(error);
        return "there is no NVIDIA GPU";
    }
    return sentence(error);
}

/* Without its context, which a GPU that is too old need not have. */
static const char *learn(struct lq_gpu_context *context)
{
    cudaDeviceProp properties;
    const char *why = sentence(cudaGetDeviceProperties(&properties, context->device));
    if (why != NULL) {
        return why;
    }
    (void)snprintf(context->name, sizeof context->name, "%.*s", LQ_GPU_NAME_BYTES - 1,
                   properties.name);
    return properties.major >= CAPABILITY_MAJOR_MIN
               ? NULL
               : "the GPU is too old: it needs compute capability 8.0 (Ampere) or more";
}

static const char *cuda_open(int device, struct lq_gpu_context **context)
{
    struct lq_gpu_context *opened = (struct lq_gpu_context *)calloc(1, sizeof *opened);
    if (opened == NULL) {
        return "memory is out";
    }
    opened->device = device;
    const char *why = learn(opened);
    why = why != NULL ? why : enter(opened);
    /* Makes the driver's context now. */
    why = why != NULL ? why : sentence(cudaFree(NULL));
    if (why != NULL) {
        free(opened);
        return why;
    }
    *context = opened;
    return NULL;
}

static void cuda_close(struct lq_gpu_context *context)
{
    free(context);
}

static const char *cuda_describe(struct lq_gpu_context *context, struct lq_gpu_info *info)
{
    const char *why = enter(context);
    memcpy(info->name, context->name, sizeof info->name);
    return why != NULL ? why
                       : sentence(cudaMemGetInfo(&info->memory_free_bytes, &info->memory_bytes));
}

static const char *cuda_alloc(struct lq_gpu_context *context, size_t size_bytes, void **memory)
{
    const char *why = enter(context);
    return why != NULL ? why : sentence(cudaMalloc(memory, size_bytes));
}

static void cuda_release(struct lq_gpu_context *context, void *memory)
{
    if (enter(context) == NULL) {
        (void)sentence(cudaFree(memory));
    }
}

static const char *cuda_alloc_host(struct lq_gpu_context *context, size_t size_bytes, void **memory)
{
    const char *why = enter(context);
    return why != NULL ? why : sentence(cudaHostAlloc(memory, size_bytes, cudaHostAllocDefault));
}

static void cuda_release_host(struct lq_gpu_context *context, void *memory)
{
    if (enter(context) == NULL) {
        (void)sentence(cudaFreeHost(memory));
    }
}

static const char *cuda_set_near(struct lq_gpu_context *context, enum lq_gpu_near which,
                                 const uint32_t *pairs, const uint16_t *index)
{
    const char *why = enter(context);
    return why != NULL ? why : sentence(lq_cuda_set_near(which, pairs, index));
}

static void cuda_stream_close(struct lq_gpu_stream *stream)
{
    if (enter(stream->context) == NULL) {
        lq_cuda_products_close(stream->products);
        for (size_t i = 0; i < LQ_GPU_MARKS; i++) {
            if (stream->marks[i] != NULL) {
                (void)sentence(cudaEventDestroy(stream->marks[i]));
            }
        }
        if (stream->stream != NULL) {
            (void)sentence(cudaStreamDestroy(stream->stream));
        }
    }
    free(stream);
}

static const char *cuda_stream_open(struct lq_gpu_context *context, struct lq_gpu_stream **stream)
{
    struct lq_gpu_stream *opened = (struct lq_gpu_stream *)calloc(1, sizeof *opened);
    if (opened == NULL) {
        return "memory is out";
    }
    opened->context = context;
    const char *why = enter(context);
    why = why != NULL ? why
                      : sentence(cudaStreamCreateWithFlags(&opened->stream, cudaStreamNonBlocking));
    for (size_t i = 0; i < LQ_GPU_MARKS && why == NULL; i++) {
        why = sentence(cudaEventCreateWithFlags(&opened->marks[i], cudaEventDisableTiming));
    }
    if (why != NULL) {
        cuda_stream_close(opened);
        return why;
    }
    *stream = opened;
    return NULL;
}

static const char *copy(struct lq_gpu_stream *stream, void *to, const void *from, size_t size_bytes,
                        enum cudaMemcpyKind kind)
{
    const char *why = enter(stream->context);
    return why != NULL ? why
                       : sentence(cudaMemcpyAsync(to, from, size_bytes, kind, stream->stream));
}

static const char *cuda_upload(struct lq_gpu_stream *stream, void *to, const void *from,
                               size_t size_bytes)
{
    return copy(stream, to, from, size_bytes, cudaMemcpyHostToDevice);
}

static const char *cuda_download(struct lq_gpu_stream *stream, void *to, const void *from,
                                 size_t size_bytes)
{
    return copy(stream, to, from, size_bytes, cudaMemcpyDeviceToHost);
}

static const char *cuda_zero(struct lq_gpu_stream *stream, void *memory, size_t size_bytes)
{
    const char *why = enter(stream->context);
    return why != NULL ? why : sentence(cudaMemsetAsync(memory, 0, size_bytes, stream->stream));
}

static const char *cuda_decode(struct lq_gpu_stream *stream, const struct lq_gpu_work *work)
{
    const char *why = enter(stream->context);
    if (why != NULL) {
        return why;
    }
    return lq_cuda_decode(stream->stream, work) ? sentence(cudaGetLastError())
                                                : "there is no decoder for this type";
}

static const char *cuda_check(struct lq_gpu_stream *stream, const struct lq_gpu_work *work)
{
    const char *why = enter(stream->context);
    if (why != NULL) {
        return why;
    }
    lq_cuda_check(stream->stream, work);
    return sentence(cudaGetLastError());
}

static const char *cuda_encode(struct lq_gpu_stream *stream, const struct lq_gpu_work *work)
{
    const char *why = enter(stream->context);
    if (why != NULL) {
        return why;
    }
    return lq_cuda_encode(stream->stream, work) ? sentence(cudaGetLastError())
                                                : "there is no encoder for this type";
}

static const char *cuda_wait(struct lq_gpu_stream *stream)
{
    const char *why = enter(stream->context);
    return why != NULL ? why : sentence(cudaStreamSynchronize(stream->stream));
}

static const char *cuda_copy(struct lq_gpu_stream *stream, void *to, const void *from,
                             size_t size_bytes)
{
    return copy(stream, to, from, size_bytes, cudaMemcpyDeviceToDevice);
}

static const char *cuda_set_mark(struct lq_gpu_stream *stream, unsigned mark)
{
    const char *why = enter(stream->context);
    return why != NULL ? why : sentence(cudaEventRecord(stream->marks[mark], stream->stream));
}

/* An event that was never recorded is over. */
static const char *cuda_wait_mark(struct lq_gpu_stream *stream, unsigned mark)
{
    const char *why = enter(stream->context);
    return why != NULL ? why : sentence(cudaEventSynchronize(stream->marks[mark]));
}

static const char *cuda_follow(struct lq_gpu_stream *stream, struct lq_gpu_stream *other,
                               unsigned mark)
{
    const char *why = enter(stream->context);
    return why != NULL ? why : sentence(cudaStreamWaitEvent(stream->stream, other->marks[mark], 0));
}

static const char *cuda_launch(struct lq_gpu_stream *stream, enum lq_gpu_operation operation,
                               const void *args, size_t block_count)
{
    const char *why = enter(stream->context);
    if (why != NULL) {
        return why;
    }
    return lq_cuda_launch(stream->stream, operation, args, block_count)
               ? sentence(cudaGetLastError())
               : "there is no such operation";
}

static const char *cuda_prepare_products(struct lq_gpu_stream *stream)
{
    const char *why = enter(stream->context);
    return why != NULL || stream->products != NULL ? why : lq_cuda_products_open(&stream->products);
}

static const char *cuda_multiply(struct lq_gpu_stream *stream, const struct lq_gpu_product *product)
{
    const char *why = enter(stream->context);
    return why != NULL ? why : lq_cuda_multiply(stream->products, stream->stream, product);
}

static const struct lq_gpu_module cuda_module = {
    .version = LQ_GPU_MODULE_VERSION,
    .name = "cuda",
    .count = cuda_count,
    .open = cuda_open,
    .close = cuda_close,
    .describe = cuda_describe,
    .alloc = cuda_alloc,
    .release = cuda_release,
    .alloc_host = cuda_alloc_host,
    .release_host = cuda_release_host,
    .set_near = cuda_set_near,
    .stream_open = cuda_stream_open,
    .stream_close = cuda_stream_close,
    .upload = cuda_upload,
    .download = cuda_download,
    .zero = cuda_zero,
    .decode = cuda_decode,
    .check = cuda_check,
    .encode = cuda_encode,
    .wait = cuda_wait,
    .copy = cuda_copy,
    .set_mark = cuda_set_mark,
    .wait_mark = cuda_wait_mark,
    .follow = cuda_follow,
    .launch = cuda_launch,
    .prepare_products = cuda_prepare_products,
    .multiply = cuda_multiply,
};

extern "C" __attribute__((visibility("default"))) const struct lq_gpu_module *
lq_gpu_module_get(void)
{
    return &cuda_module;
}
