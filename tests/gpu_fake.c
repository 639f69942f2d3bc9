/* A GPU module whose device is the CPU: the sources that kernels/cuda/ compiles for GPUs, compiled
 * as C, and one loop for each kernel. Work waits until the program waits for it, so that a program
 * that touches its buffers too early gets wrong bytes. LQ_FAKE_GPU holds words that change it:
 *   version     is of another version
 *   no-driver   cannot count devices
 *   none        has no device
 *   two         has two devices
 *   tiny        has no memory for a lease
 *   small       has memory for one lease
 *   fails       fails at its fourth encode
 * With LQ_FAKE_GPU_LOG each device that encodes appends a line to that file. */
#include "kernels/cuda/sources.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/ref/decode_book_ref.c"
#include "kernels/ref/decode_ref.c"
#include "kernels/ref/encode_ref.c"

#define WORKS_MAX 16
#define LEASE_BYTES ((size_t)150 << 20) /* a little more than the device memory of one lease */

struct lq_gpu_context {
    int device;
    size_t used_bytes;
    struct lq_near near[LQ_GPU_NEAR_COUNT]; /* its own; all have the same */
};

enum kind { UPLOAD_OR_DOWNLOAD, ZERO, DECODE, CHECK, ENCODE };

struct item {
    enum kind kind;
    void *to;
    const void *from;
    size_t size_bytes;
    struct lq_gpu_work work;
};

struct lq_gpu_stream {
    struct lq_gpu_context *context;
    size_t count;
    struct item items[WORKS_MAX];
};

static bool is_told(const char *word)
{
    const char *text = getenv("LQ_FAKE_GPU");
    return text != NULL && strstr(text, word) != NULL;
}

static const char *fake_count(int *device_count)
{
    *device_count = is_told("none") ? 0 : is_told("two") ? 2 : 1;
    return is_told("no-driver") ? "there is no driver" : NULL;
}

static const char *fake_open(int device, struct lq_gpu_context **context)
{
    *context = calloc(1, sizeof **context);
    (*context)->device = device;
    return NULL;
}

static void fake_close(struct lq_gpu_context *context)
{
    free(context);
}

static const char *fake_describe(struct lq_gpu_context *context, struct lq_gpu_info *info)
{
    (void)snprintf(info->name, sizeof info->name, "fake %d", context->device);
    info->memory_bytes = info->memory_free_bytes = LEASE_BYTES;
    return NULL;
}

/* The lists of near points take 4 MiB of what is not limited. */
static const char *fake_alloc(struct lq_gpu_context *context, size_t size_bytes, void **memory)
{
    size_t limit = is_told("tiny") ? LEASE_BYTES / 2 : is_told("small") ? LEASE_BYTES : SIZE_MAX;
    if (size_bytes > limit - context->used_bytes) {
        return "out of memory";
    }
    context->used_bytes += size_bytes;
    *memory = malloc(size_bytes);
    memset(*memory, 0xa5, size_bytes);
    return NULL;
}

static void fake_release(struct lq_gpu_context *context, void *memory)
{
    (void)context;
    free(memory);
}

static const char *fake_alloc_host(struct lq_gpu_context *context, size_t size_bytes, void **memory)
{
    (void)context;
    *memory = malloc(size_bytes);
    return NULL;
}

static const char *fake_set_near(struct lq_gpu_context *context, enum lq_gpu_near which,
                                 const uint32_t *pairs, const uint16_t *index)
{
    context->near[which] = near_lists[which] = (struct lq_near){pairs, index};
    return NULL;
}

static const char *fake_stream_open(struct lq_gpu_context *context, struct lq_gpu_stream **stream)
{
    *stream = calloc(1, sizeof **stream);
    (*stream)->context = context;
    return NULL;
}

static void fake_stream_close(struct lq_gpu_stream *stream)
{
    free(stream);
}

static const char *add(struct lq_gpu_stream *stream, struct item item)
{
    if (stream->count == WORKS_MAX) {
        return "too much work on a stream";
    }
    stream->items[stream->count++] = item;
    return NULL;
}

static const char *fake_copy(struct lq_gpu_stream *stream, void *to, const void *from,
                             size_t size_bytes)
{
    return add(stream, (struct item){UPLOAD_OR_DOWNLOAD, to, from, size_bytes, {0}});
}

static const char *fake_zero(struct lq_gpu_stream *stream, void *memory, size_t size_bytes)
{
    return add(stream, (struct item){ZERO, memory, NULL, size_bytes, {0}});
}

static const char *fake_decode(struct lq_gpu_stream *stream, const struct lq_gpu_work *work)
{
    return add(stream, (struct item){DECODE, NULL, NULL, 0, *work});
}

static const char *fake_check(struct lq_gpu_stream *stream, const struct lq_gpu_work *work)
{
    return add(stream, (struct item){CHECK, NULL, NULL, 0, *work});
}

static const char *fake_encode(struct lq_gpu_stream *stream, const struct lq_gpu_work *work)
{
    static int count;
    const char *log = getenv("LQ_FAKE_GPU_LOG");
    FILE *file = log == NULL ? NULL : fopen(log, "a");
    if (file != NULL) {
        (void)fprintf(file, "%d\n", stream->context->device);
        (void)fclose(file);
    }
    if (is_told("fails") && __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED) >= 4) {
        return "it fell off the bus";
    }
    return add(stream, (struct item){ENCODE, NULL, NULL, 0, *work});
}

#define ENCODER(upper, lower)                                                                      \
    case LQ_DTYPE_##upper:                                                                         \
        return lq_encode_##lower##_ref;
#define DECODER(upper, lower)                                                                      \
    case LQ_DTYPE_##upper:                                                                         \
        return lq_decode_##lower##_ref;

static lq_encode_fn encoder_of(uint32_t dtype)
{
    switch ((enum lq_dtype)dtype) {
        ENCODER(F16, f16)
        ENCODER(BF16, bf16)
        LQ_BLOCK_TYPES(ENCODER)
    default:
        return NULL;
    }
}

static lq_decode_fn decoder_of(uint32_t dtype)
{
    switch ((enum lq_dtype)dtype) {
        DECODER(F16, f16)
        DECODER(BF16, bf16)
        LQ_BLOCK_TYPES(DECODER)
    default:
        return NULL;
    }
}

static void perform(const struct item *item)
{
    const struct lq_gpu_work *work = &item->work;
    size_t elem_count = work->row_count * work->col_count;
    switch (item->kind) {
    case UPLOAD_OR_DOWNLOAD:
        memcpy(item->to, item->from, item->size_bytes);
        break;
    case ZERO:
        memset(item->to, 0, item->size_bytes);
        break;
    case DECODE:
        for (size_t i = 0; i < elem_count / work->in_elems; i++) {
            lq_gpu_decode_block(work, i, decoder_of(work->source));
        }
        break;
    case CHECK:
        for (size_t i = 0; i < elem_count; i++) {
            lq_gpu_check_value(work, i);
        }
        break;
    case ENCODE:
        for (size_t i = 0; i < elem_count / work->out_elems; i++) {
            lq_gpu_encode_block(work, i, encoder_of(work->target));
        }
        break;
    }
}

static const char *fake_wait(struct lq_gpu_stream *stream)
{
    for (size_t i = 0; i < stream->count; i++) {
        perform(&stream->items[i]);
    }
    stream->count = 0;
    return NULL;
}

static struct lq_gpu_module fake_module = {
    .version = LQ_GPU_MODULE_VERSION,
    .name = "cuda",
    .count = fake_count,
    .open = fake_open,
    .close = fake_close,
    .describe = fake_describe,
    .alloc = fake_alloc,
    .release = fake_release,
    .alloc_host = fake_alloc_host,
    .release_host = fake_release,
    .set_near = fake_set_near,
    .stream_open = fake_stream_open,
    .stream_close = fake_stream_close,
    .upload = fake_copy,
    .download = fake_copy,
    .zero = fake_zero,
    .decode = fake_decode,
    .check = fake_check,
    .encode = fake_encode,
    .wait = fake_wait,
};

__attribute__((visibility("default"))) const struct lq_gpu_module *lq_gpu_module_get(void)
{
    fake_module.version += is_told("version") ? 1 : 0;
    return &fake_module;
}
