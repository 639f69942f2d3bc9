/* A GPU module whose device is the CPU: the sources that kernels/cuda/ compiles for GPUs, compiled
 * as C, and one loop for each kernel. Work waits until the program waits for it, so that a program
 * that touches its buffers too early gets wrong bytes; and copies, decoders and checks on several
 * streams that meet in memory without an order fail (gpu_races.h). LQ_FAKE_GPU holds words that
 * change it:
 *   version     is of another version
 *   no-driver   cannot count devices
 *   none        has no device
 *   two         has two devices
 *   three       has three
 *   narrow      all but the first have next to no memory free
 *   tiny        has no memory for a lease
 *   small       has memory for one lease
 *   fails       fails at its fourth encode
 *   no-products has no library of products
 *   breaks      fails at its twentieth product
 *   backwards   runs threads and blocks from the last to the first
 *   eager       does the work of all streams but the first at once
 *   threads     runs operations as a GPU does, each thread by itself (gpu_simt.h), and watches all
 *               accesses of device memory (gpu_shadow.h): a fault is printed and ends the program
 *   mixed       runs those threads and blocks in neither order
 * With LQ_FAKE_GPU_LOG each device that encodes, or is made to run models, appends a line to that
 * file. */
#include "kernels/cuda/sources.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/ref/decode_book_ref.c"
#include "kernels/ref/decode_ref.c"
#include "kernels/ref/encode_ref.c"

#include "kernels/gpu_experts.h"
#include "kernels/gpu_flash.h"
#include "kernels/gpu_flash_back.h"
#include "kernels/gpu_heads.h"
#include "kernels/gpu_rows.h"
#include "tests/gpu_races.h"
#include "tests/gpu_shadow.h"
#include "tests/gpu_simt_operations.h"

#define LEASE_BYTES ((size_t)150 << 20) /* a little more than the device memory of one lease */

struct lq_gpu_context {
    int device;
    size_t used_bytes;
    struct lq_near near[LQ_GPU_NEAR_COUNT]; /* its own; all have the same */
};

enum kind { COPY, UPLOAD, DOWNLOAD, ZERO, DECODE, CHECK, ENCODE, LAUNCH, MULTIPLY, FOLLOW };

/* What operations take. */
union args {
#define MEMBER(upper, lower) struct lq_gpu_##lower lower;
    LQ_GPU_OPERATIONS(MEMBER)
#undef MEMBER
};

struct item {
    enum kind kind;
    void *to;
    const void *from;
    size_t size_bytes;
    struct lq_gpu_work work;
    enum lq_gpu_operation operation;
    union args args;
    size_t block_count;
    struct lq_gpu_product product;
    struct lq_gpu_stream *other; /* FOLLOW: does `turn` items of it first */
    uint64_t turn;
};

struct mark {
    uint64_t turn; /* items in front of it, ever */
    struct race_clock clock;
};

/* A stream that is closed stays, for those that follow it. */
struct lq_gpu_stream {
    struct lq_gpu_stream *next;
    struct lq_gpu_context *context;
    unsigned number;
    struct item *items;
    size_t count;
    size_t room;
    uint64_t added, done; /* items, ever */
    struct race_clock clock;
    struct mark marks[LQ_GPU_MARKS];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct lq_gpu_stream *all_streams;
static unsigned stream_count;
static struct race_clock host_clock; /* what some thread has waited for */

static bool is_told(const char *word)
{
    const char *text = getenv("LQ_FAKE_GPU");
    return text != NULL && strstr(text, word) != NULL;
}

static const char *fake_count(int *device_count)
{
    *device_count = is_told("none") ? 0 : is_told("two") ? 2 : is_told("three") ? 3 : 1;
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
    if (is_told("narrow") && context->device > 0) {
        info->memory_free_bytes = 1024;
    }
    return NULL;
}

/* In front of each block of memory; its size keeps blocks aligned like a GPU's. */
struct header {
    size_t size_bytes;
    char padding[248];
};

/* The lists of near points take 4 MiB of what is not limited. */
static const char *fake_alloc(struct lq_gpu_context *context, size_t size_bytes, void **memory)
{
    size_t limit = is_told("tiny") ? LEASE_BYTES / 2 : is_told("small") ? LEASE_BYTES : SIZE_MAX;
    if (context->used_bytes > limit || size_bytes > limit - context->used_bytes ||
        size_bytes > SIZE_MAX / 2) {
        return "out of memory";
    }
    size_t room = (size_bytes / sizeof(struct header) + 2) * sizeof(struct header);
    struct header *header = aligned_alloc(sizeof *header, room);
    if (header == NULL) {
        return "out of memory";
    }
    header->size_bytes = size_bytes;
    *memory = header + 1;
    memset(*memory, 0xa5, size_bytes);
    (void)pthread_mutex_lock(&lock);
    context->used_bytes += size_bytes;
    if (is_told("threads")) {
        shadow_add(*memory, size_bytes);
    }
    (void)pthread_mutex_unlock(&lock);
    return NULL;
}

static void fake_release(struct lq_gpu_context *context, void *memory)
{
    struct header *header = (struct header *)memory - 1;
    (void)pthread_mutex_lock(&lock);
    context->used_bytes -= header->size_bytes;
    shadow_remove(memory);
    race_forget(memory, header->size_bytes);
    (void)pthread_mutex_unlock(&lock);
    free(header);
}

static const char *fake_alloc_host(struct lq_gpu_context *context, size_t size_bytes, void **memory)
{
    (void)context;
    struct header *header = malloc(sizeof *header + size_bytes);
    header->size_bytes = size_bytes;
    *memory = header + 1;
    return NULL;
}

static void fake_release_host(struct lq_gpu_context *context, void *memory)
{
    struct header *header = (struct header *)memory - 1;
    (void)context;
    (void)pthread_mutex_lock(&lock);
    race_forget(memory, header->size_bytes);
    (void)pthread_mutex_unlock(&lock);
    free(header);
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
    (void)pthread_mutex_lock(&lock);
    (*stream)->number = stream_count++;
    (*stream)->next = all_streams;
    all_streams = *stream;
    (void)pthread_mutex_unlock(&lock);
    return NULL;
}

static void perform_until(struct lq_gpu_stream *stream, uint64_t turn);

static void fake_stream_close(struct lq_gpu_stream *stream)
{
    (void)pthread_mutex_lock(&lock);
    perform_until(stream, stream->added);
    free(stream->items);
    stream->items = NULL;
    stream->room = 0;
    (void)pthread_mutex_unlock(&lock);
}

/* The memory that an item reads and writes, as far as one knows; false for a race. */
static bool touch(struct lq_gpu_stream *stream, const struct item *item)
{
    const struct lq_gpu_work *work = &item->work;
    const size_t values = work->row_count * work->col_count;
    const void *reads = NULL;
    const void *writes = NULL;
    size_t read_bytes = 0;
    size_t write_bytes = 0;
    switch (item->kind) {
    case COPY:
    case UPLOAD:
    case DOWNLOAD:
        reads = item->from;
        read_bytes = item->size_bytes;
        writes = item->to;
        write_bytes = item->size_bytes;
        break;
    case ZERO:
        writes = item->to;
        write_bytes = item->size_bytes;
        break;
    case DECODE:
        reads = work->in;
        read_bytes = values / work->in_elems * work->in_bytes;
        writes = work->values;
        write_bytes = values * sizeof(float);
        break;
    case CHECK:
        reads = work->values;
        read_bytes = values * sizeof(float);
        break;
    case ENCODE:
        reads = work->values;
        read_bytes = values * sizeof(float);
        writes = work->out;
        write_bytes = values / work->out_elems * work->out_bytes;
        break;
    default:
        break;
    }
    bool good = race_touch(stream->number, &stream->clock, stream->added, reads, read_bytes, false);
    return race_touch(stream->number, &stream->clock, stream->added, writes, write_bytes, true) &&
           good;
}

static const char *add(struct lq_gpu_stream *stream, struct item item)
{
    (void)pthread_mutex_lock(&lock);
    if (stream->count == stream->room) {
        stream->room = 2 * stream->room + 16;
        stream->items = realloc(stream->items, stream->room * sizeof *stream->items);
    }
    stream->items[stream->count++] = item;
    stream->added++;
    race_join(&stream->clock, &host_clock);
    bool good = touch(stream, &item);
    if (stream->number < RACE_STREAMS_MAX) {
        stream->clock.of[stream->number] = stream->added;
    }
    if (stream->number != 0 && is_told("eager")) {
        perform_until(stream, stream->added);
    }
    (void)pthread_mutex_unlock(&lock);
    return good ? NULL : "a race: streams meet in memory and neither waits for the other";
}

static const char *fake_follow(struct lq_gpu_stream *stream, struct lq_gpu_stream *other,
                               unsigned mark)
{
    (void)pthread_mutex_lock(&lock);
    struct item item = {.kind = FOLLOW, .other = other, .turn = other->marks[mark].turn};
    race_join(&stream->clock, &other->marks[mark].clock);
    (void)pthread_mutex_unlock(&lock);
    return add(stream, item);
}

#define COPIER(name, what)                                                                         \
    static const char *name(struct lq_gpu_stream *stream, void *to, const void *from,              \
                            size_t size_bytes)                                                     \
    {                                                                                              \
        return add(stream,                                                                         \
                   (struct item){.kind = what, .to = to, .from = from, .size_bytes = size_bytes}); \
    }
COPIER(fake_copy, COPY)
COPIER(fake_upload, UPLOAD)
COPIER(fake_download, DOWNLOAD)

static const char *fake_zero(struct lq_gpu_stream *stream, void *memory, size_t size_bytes)
{
    return add(stream, (struct item){.kind = ZERO, .to = memory, .size_bytes = size_bytes});
}

static const char *fake_decode(struct lq_gpu_stream *stream, const struct lq_gpu_work *work)
{
    return add(stream, (struct item){.kind = DECODE, .work = *work});
}

static const char *fake_check(struct lq_gpu_stream *stream, const struct lq_gpu_work *work)
{
    return add(stream, (struct item){.kind = CHECK, .work = *work});
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
    return add(stream, (struct item){.kind = ENCODE, .work = *work});
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

static void run_operation(const struct item *item)
{
    size_t count = item->block_count;
    lq_gpu_backwards = is_told("backwards");
    if (is_told("threads")) {
        gpu_simt_operation(item->operation, &item->args, count,
                           lq_gpu_backwards   ? GPU_SIMT_BACKWARDS
                           : is_told("mixed") ? GPU_SIMT_MIXED
                                              : GPU_SIMT_FORWARDS);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        size_t block = lq_gpu_backwards ? count - 1 - i : i;
        switch (item->operation) {
#define RUN(upper, lower)                                                                          \
    case LQ_GPU_OP_##upper:                                                                        \
        lq_gpu_##lower##_block(&item->args.lower, block);                                          \
        break;
            LQ_GPU_OPERATIONS(RUN)
#undef RUN
        case LQ_GPU_OP_COUNT:
            break;
        }
    }
}

/* Products of bf16 values are exact in floats, sums are in the order of k. */
static void run_product(const struct lq_gpu_product *p)
{
    float *b = malloc((p->k * p->n + 1) * sizeof *b);
    for (size_t i = 0; i < p->batch; i++) {
        const uint16_t *from = p->b + i * p->b_step;
        for (size_t k = 0; k < p->k; k++) {
            for (size_t n = 0; n < p->n; n++) {
                b[k * p->n + n] =
                    lq_gpu_float_of(from[p->b_turned ? n * p->b_row + k : k * p->b_row + n]);
            }
        }
        for (size_t m = 0; m < p->m; m++) {
            const uint16_t *a = p->a + i * p->a_step;
            float *c = p->c + i * p->c_step + m * p->c_row;
            if (!p->add) {
                memset(c, 0, p->n * sizeof *c);
            }
            for (size_t k = 0; k < p->k; k++) {
                float factor =
                    lq_gpu_float_of(a[p->a_turned ? k * p->a_row + m : m * p->a_row + k]);
                const float *row = b + k * p->n;
                for (size_t n = 0; n < p->n; n++) {
                    c[n] += factor * row[n];
                }
            }
        }
    }
    free(b);
}

/* What gpu_shadow.h has to know of products: the rows of a side, of all matrices. */
static void watch_rows(const void *first, size_t element_bytes, size_t rows, size_t cols,
                       size_t stride, size_t batch, size_t step, bool reads, bool writes)
{
    for (size_t i = 0; i < batch * rows; i++) {
        const char *row =
            (const char *)first + (i / rows * step + i % rows * stride) * element_bytes;
        if (reads) {
            shadow_reads(row, cols * element_bytes);
        }
        if (writes) {
            shadow_writes(row, cols * element_bytes);
        }
    }
}

static void watch_product(const struct lq_gpu_product *p)
{
    watch_rows(p->a, sizeof *p->a, p->a_turned ? p->k : p->m, p->a_turned ? p->m : p->k, p->a_row,
               p->batch, p->a_step, true, false);
    watch_rows(p->b, sizeof *p->b, p->b_turned ? p->n : p->k, p->b_turned ? p->k : p->n, p->b_row,
               p->batch, p->b_step, true, false);
    watch_rows(p->c, sizeof *p->c, p->m, p->n, p->c_row, p->batch, p->c_step, p->add, true);
}

/* What everything but operations touches. */
static void watch(const struct item *item)
{
    const struct lq_gpu_work *work = &item->work;
    size_t count = work->row_count * work->col_count;
    switch (item->kind) {
    case UPLOAD:
        shadow_of_host(item->from);
        shadow_writes(item->to, item->size_bytes);
        break;
    case DOWNLOAD:
        shadow_reads(item->from, item->size_bytes);
        shadow_of_host(item->to);
        break;
    case COPY:
        shadow_reads(item->from, item->size_bytes);
        shadow_writes(item->to, item->size_bytes);
        break;
    case ZERO:
        shadow_writes(item->to, item->size_bytes);
        break;
    case DECODE:
        shadow_reads(work->in, count / work->in_elems * work->in_bytes);
        shadow_writes(work->values, count * sizeof(float));
        break;
    case CHECK:
        shadow_reads(work->values, count * sizeof(float));
        shadow_reads(work->bad, sizeof *work->bad);
        break;
    case ENCODE:
        shadow_reads(work->values, count * sizeof(float));
        shadow_reads(work->importance, work->importance_rows * work->col_count * sizeof(float));
        shadow_writes(work->out, count / work->out_elems * work->out_bytes);
        break;
    case MULTIPLY:
        watch_product(&item->product);
        break;
    case LAUNCH:
    case FOLLOW:
        break;
    }
}

static void perform(const struct item *item)
{
    const struct lq_gpu_work *work = &item->work;
    size_t elem_count = work->row_count * work->col_count;
    switch (item->kind) {
    case COPY:
    case UPLOAD:
    case DOWNLOAD:
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
    case LAUNCH:
        run_operation(item);
        break;
    case MULTIPLY:
        run_product(&item->product);
        break;
    case FOLLOW:
        break;
    }
}

/* Does items until so many were done, ever; the others move up. Those that follow a stream do its
 * items first, which may follow this one in turn. */
static void perform_until(struct lq_gpu_stream *stream, uint64_t turn)
{
    static unsigned depth;
    depth++;
    while (stream->done < turn && stream->done < stream->added) {
        struct item item = stream->items[stream->count - (size_t)(stream->added - stream->done)];
        stream->done++;
        if (item.kind == FOLLOW) {
            perform_until(item.other, item.turn);
            continue;
        }
        if (is_told("threads")) {
            watch(&item);
        }
        perform(&item);
        if (shadow_fault() != NULL) {
            (void)fprintf(stderr, "gpu_fake: %s\n", shadow_fault());
            abort();
        }
    }
    depth--;
    size_t left = (size_t)(stream->added - stream->done);
    if (depth == 0 && left < stream->count) {
        memmove(stream->items, stream->items + (stream->count - left),
                left * sizeof *stream->items);
        stream->count = left;
    }
}

static const char *fake_wait(struct lq_gpu_stream *stream)
{
    (void)pthread_mutex_lock(&lock);
    perform_until(stream, stream->added);
    race_join(&host_clock, &stream->clock);
    (void)pthread_mutex_unlock(&lock);
    return NULL;
}

static const char *fake_set_mark(struct lq_gpu_stream *stream, unsigned mark)
{
    (void)pthread_mutex_lock(&lock);
    stream->marks[mark] = (struct mark){stream->added, stream->clock};
    (void)pthread_mutex_unlock(&lock);
    return NULL;
}

static const char *fake_wait_mark(struct lq_gpu_stream *stream, unsigned mark)
{
    (void)pthread_mutex_lock(&lock);
    perform_until(stream, stream->marks[mark].turn);
    race_join(&host_clock, &stream->marks[mark].clock);
    (void)pthread_mutex_unlock(&lock);
    return NULL;
}

static const char *fake_launch(struct lq_gpu_stream *stream, enum lq_gpu_operation operation,
                               const void *args, size_t block_count)
{
    struct item item = {.kind = LAUNCH, .operation = operation, .block_count = block_count};
    switch (operation) {
#define TAKE(upper, lower)                                                                         \
    case LQ_GPU_OP_##upper:                                                                        \
        item.args.lower = *(const struct lq_gpu_##lower *)args;                                    \
        break;
        LQ_GPU_OPERATIONS(TAKE)
#undef TAKE
    case LQ_GPU_OP_COUNT:
        return "there is no such operation";
    }
    return add(stream, item);
}

static const char *fake_prepare_products(struct lq_gpu_stream *stream)
{
    const char *log = getenv("LQ_FAKE_GPU_LOG");
    FILE *file = log == NULL ? NULL : fopen(log, "a");
    if (file != NULL) {
        (void)fprintf(file, "model on %d\n", stream->context->device);
        (void)fclose(file);
    }
    return is_told("no-products") ? "there is no library of products" : NULL;
}

static const char *fake_multiply(struct lq_gpu_stream *stream, const struct lq_gpu_product *product)
{
    static int count;
    if (is_told("breaks") && __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED) >= 20) {
        return "it fell off the bus";
    }
    return add(stream, (struct item){.kind = MULTIPLY, .product = *product});
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
    .release_host = fake_release_host,
    .set_near = fake_set_near,
    .stream_open = fake_stream_open,
    .stream_close = fake_stream_close,
    .upload = fake_upload,
    .download = fake_download,
    .zero = fake_zero,
    .decode = fake_decode,
    .check = fake_check,
    .encode = fake_encode,
    .wait = fake_wait,
    .copy = fake_copy,
    .set_mark = fake_set_mark,
    .wait_mark = fake_wait_mark,
    .follow = fake_follow,
    .launch = fake_launch,
    .prepare_products = fake_prepare_products,
    .multiply = fake_multiply,
};

__attribute__((visibility("default"))) const struct lq_gpu_module *lq_gpu_module_get(void)
{
    fake_module.version = LQ_GPU_MODULE_VERSION + (is_told("version") ? 1 : 0);
    return &fake_module;
}
