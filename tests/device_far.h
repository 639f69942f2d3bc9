/* A device whose memory the host cannot touch, for tests of code that runs models on GPUs: the
 * CPU's operations behind addresses that no process has, so that whoever looks behind one without
 * asking the device is killed at once. It computes what the CPU does, bit for bit, says
 * "cuda-bf16", and can fail: at the operation or the allocation of a given number, and when its
 * memory is spent. far_make makes one for `far_module`, a GPU module that encodes nothing. Header
 * only. Thread rule: one thread. */
#ifndef LQ_TESTS_DEVICE_FAR_H
#define LQ_TESTS_DEVICE_FAR_H

#include <stdlib.h>
#include <string.h>

#include "kernels/device.h"
#include "kernels/gpu_module.h"
#include "kernels/kernels.h"

enum { FAR_EXPECTED_MAX = 64 };

/* Beyond what x86-64 and AArch64 give a process. */
#define FAR_SHIFT ((uintptr_t)1 << 47)

/* Set before a device is made; counted over all devices. */
static struct {
    size_t batch_rows;
    size_t memory_bytes; /* 0: no end */
    size_t fail_op;      /* counted from 1; 0: none */
    size_t fail_alloc;
    bool no_load;
    bool is_full;          /* while there is a model there is no memory for leases */
    const char *no_device; /* why none can be made */
    size_t total_bytes;    /* that it says it has; 0: memory_bytes */
    size_t moved_bytes;    /* up and down */
    size_t used_bytes;
    size_t ops;
    size_t allocs;
    size_t expected; /* bytes that were announced */
    size_t claimed;  /* of them those that were loaded */
    size_t mistaken; /* claims of other bytes than what was loaded */
    size_t devices;  /* alive */
    size_t made;
} far_state;

struct far_device {
    struct lq_device device;
    struct lq_device_ops ops;
    struct lq_device *cpu;
    const char *failure;
    struct lq_expected expected[FAR_EXPECTED_MAX]; /* with bytes of their own */
    size_t expected_count;
    const struct lq_expected *claimed;
};

static void *far_in(const void *memory)
{
    return memory == NULL ? NULL : (void *)((uintptr_t)memory - FAR_SHIFT);
}

static void *far_out(void *memory)
{
    return memory == NULL ? NULL : (void *)((uintptr_t)memory + FAR_SHIFT);
}

/* The CPU behind it; NULL when the operation is not to be done. */
static struct lq_device *far_begin(struct lq_device *device)
{
    struct far_device *self = (struct far_device *)device;
    far_state.ops++;
    if (self->failure == NULL && far_state.ops == far_state.fail_op) {
        self->failure = "the GPU failed: it fell off the bus";
    }
    return self->failure == NULL ? self->cpu : NULL;
}

static const char *far_failure(const struct lq_device *device)
{
    const struct far_device *self = (const struct far_device *)device;
    return self->failure != NULL ? self->failure : self->cpu->ops->failure(self->cpu);
}

static const char *far_notice(const struct lq_device *device)
{
    (void)device;
    return NULL;
}

static void far_forget(struct far_device *self);

static void far_destroy(struct lq_device *device)
{
    struct far_device *self = (struct far_device *)device;
    far_forget(self);
    self->cpu->ops->destroy(self->cpu);
    free(self);
    far_state.devices--;
}

/* The size stands in front. */
enum { FAR_HEAD_BYTES = 64 };

static void *far_alloc(struct lq_device *device, size_t size_bytes)
{
    struct far_device *self = (struct far_device *)device;
    size_t limit = far_state.memory_bytes == 0 ? SIZE_MAX / 2 : far_state.memory_bytes;
    far_state.allocs++;
    bool fails = far_state.allocs == far_state.fail_alloc || size_bytes > limit ||
                 far_state.used_bytes > limit - size_bytes;
    size_t rounded =
        fails ? 0 : (size_bytes + FAR_HEAD_BYTES - 1) / FAR_HEAD_BYTES * FAR_HEAD_BYTES;
    unsigned char *memory = fails ? NULL : aligned_alloc(FAR_HEAD_BYTES, rounded + FAR_HEAD_BYTES);
    if (memory == NULL) {
        self->failure = "the GPU failed: out of memory";
        return NULL;
    }
    memset(memory, 0xa5, rounded + FAR_HEAD_BYTES);
    memcpy(memory, &size_bytes, sizeof size_bytes);
    far_state.used_bytes += size_bytes;
    return far_out(memory + FAR_HEAD_BYTES);
}

static void far_release(struct lq_device *device, void *memory)
{
    (void)device;
    unsigned char *near = (unsigned char *)far_in(memory) - FAR_HEAD_BYTES;
    size_t size_bytes = 0;
    memcpy(&size_bytes, near, sizeof size_bytes);
    far_state.used_bytes -= size_bytes;
    free(near);
}

/* An operation of the table: what it takes, and what the CPU gets for it. */
#define FAR_OP(name, takes, gives)                                                                 \
    static void far_##name takes                                                                   \
    {                                                                                              \
        struct lq_device *cpu = far_begin(d);                                                      \
        if (cpu != NULL) {                                                                         \
            cpu->ops->name gives;                                                                  \
        }                                                                                          \
    }

static void far_upload(struct lq_device *d, void *to, const void *from, size_t n)
{
    struct lq_device *cpu = far_begin(d);
    far_state.moved_bytes += n;
    if (cpu != NULL) {
        cpu->ops->upload(cpu, far_in(to), from, n);
    }
}

static void far_download(struct lq_device *d, void *to, const void *from, size_t n)
{
    struct lq_device *cpu = far_begin(d);
    far_state.moved_bytes += n;
    if (cpu != NULL) {
        cpu->ops->download(cpu, to, far_in(from), n);
    }
}

FAR_OP(zero, (struct lq_device * d, void *memory, size_t n), (cpu, far_in(memory), n))
FAR_OP(copy, (struct lq_device * d, float *to, const float *from, size_t n),
       (cpu, far_in(to), far_in(from), n))
FAR_OP(matmul,
       (struct lq_device * d, const float *a, const float *b, float *c, size_t rows,
        size_t out_cols, size_t in_cols),
       (cpu, far_in(a), far_in(b), far_in(c), rows, out_cols, in_cols))
FAR_OP(matmul_plain,
       (struct lq_device * d, const float *a, const float *b, float *c, size_t rows,
        size_t out_cols, size_t in_cols),
       (cpu, far_in(a), far_in(b), far_in(c), rows, out_cols, in_cols))
FAR_OP(matmul_outer,
       (struct lq_device * d, const float *a, const float *b, float *c, size_t rows, size_t a_cols,
        size_t b_cols),
       (cpu, far_in(a), far_in(b), far_in(c), rows, a_cols, b_cols))
FAR_OP(rms_norm,
       (struct lq_device * d, const float *x, const float *weight, float *out, size_t rows,
        size_t cols, float eps),
       (cpu, far_in(x), far_in(weight), far_in(out), rows, cols, eps))
FAR_OP(rms_norm_back,
       (struct lq_device * d, const float *x, const float *weight, const float *out_grad,
        float *grad, size_t rows, size_t cols, float eps),
       (cpu, far_in(x), far_in(weight), far_in(out_grad), far_in(grad), rows, cols, eps))
FAR_OP(rope,
       (struct lq_device * d, float *x, const float *table, size_t rows, size_t sequence,
        size_t head_count, size_t head_dim, size_t pair_count, bool halves),
       (cpu, far_in(x), far_in(table), rows, sequence, head_count, head_dim, pair_count, halves))
FAR_OP(attention,
       (struct lq_device * d, const float *q, const float *k, const float *v, float *out,
        const struct lq_attention_shape *shape),
       (cpu, far_in(q), far_in(k), far_in(v), far_in(out), shape))
FAR_OP(silu_mul, (struct lq_device * d, float *gate, const float *up, size_t n),
       (cpu, far_in(gate), far_in(up), n))
FAR_OP(gelu_mul, (struct lq_device * d, float *gate, const float *up, size_t n),
       (cpu, far_in(gate), far_in(up), n))
FAR_OP(silu_mul_back,
       (struct lq_device * d, float *gate, float *up, const float *out_grad, size_t n),
       (cpu, far_in(gate), far_in(up), far_in(out_grad), n))
FAR_OP(gelu_mul_back,
       (struct lq_device * d, float *gate, float *up, const float *out_grad, size_t n),
       (cpu, far_in(gate), far_in(up), far_in(out_grad), n))
FAR_OP(soft_cap, (struct lq_device * d, float *x, size_t n, float cap), (cpu, far_in(x), n, cap))
FAR_OP(add_bias, (struct lq_device * d, float *x, const float *bias, size_t rows, size_t cols),
       (cpu, far_in(x), far_in(bias), rows, cols))
FAR_OP(add, (struct lq_device * d, float *x, const float *y, size_t n),
       (cpu, far_in(x), far_in(y), n))
FAR_OP(add_squares, (struct lq_device * d, const float *x, size_t rows, size_t cols, double *sums),
       (cpu, far_in(x), rows, cols, far_in(sums)))
FAR_OP(cross_entropy,
       (struct lq_device * d, const float *logits, const int32_t *targets, size_t rows, size_t cols,
        double *nll),
       (cpu, far_in(logits), far_in(targets), rows, cols, far_in(nll)))
FAR_OP(cross_entropy_back,
       (struct lq_device * d, float *logits, const int32_t *targets, size_t rows, size_t cols,
        float scale, float cap),
       (cpu, far_in(logits), far_in(targets), rows, cols, scale, cap))
FAR_OP(gather_rows,
       (struct lq_device * d, const float *x, const int32_t *sources, float *out, size_t count,
        size_t cols),
       (cpu, far_in(x), far_in(sources), far_in(out), count, cols))
FAR_OP(add_scores,
       (struct lq_device * d, const float *grad, const float *weight,
        const struct lq_score_shape *shape, double *sums, float *scores),
       (cpu, far_in(grad), far_in(weight), shape, far_in(sums), far_in(scores)))

static struct lq_route far_route_in(const struct lq_route *route)
{
    return (struct lq_route){.weights = far_in(route->weights),
                             .slots = far_in(route->slots),
                             .sources = far_in(route->sources),
                             .starts = far_in(route->starts)};
}

FAR_OP(route,
       (struct lq_device * d, const float *logits, size_t rows, size_t expert_count, size_t used,
        const struct lq_route *route),
       (cpu, far_in(logits), rows, expert_count, used,
        &(struct lq_route){far_route_in(route).weights, far_route_in(route).slots,
                           far_route_in(route).sources, far_route_in(route).starts}))
FAR_OP(combine_rows,
       (struct lq_device * d, const float *x, const struct lq_route *route, float *out, size_t rows,
        size_t used, size_t cols),
       (cpu, far_in(x), (struct lq_route[]){far_route_in(route)}, far_in(out), rows, used, cols))
FAR_OP(route_back,
       (struct lq_device * d, const float *x, const float *grad, const struct lq_route *route,
        float *logits_grad, size_t rows, size_t expert_count, size_t used, size_t cols),
       (cpu, far_in(x), far_in(grad), (struct lq_route[]){far_route_in(route)}, far_in(logits_grad),
        rows, expert_count, used, cols))
FAR_OP(weigh_rows,
       (struct lq_device * d, float *x, const struct lq_route *route, size_t rows, size_t used,
        size_t cols),
       (cpu, far_in(x), (struct lq_route[]){far_route_in(route)}, rows, used, cols))

static void far_attention_back(struct lq_device *d, const struct lq_attention_grad *grad,
                               const struct lq_attention_shape *shape)
{
    struct lq_device *cpu = far_begin(d);
    const struct lq_attention_grad near = {
        .q = far_in(grad->q),
        .k = far_in(grad->k),
        .v = far_in(grad->v),
        .out = far_in(grad->out),
        .out_grad = far_in(grad->out_grad),
        .q_grad = far_in(grad->q_grad),
        .k_grad = far_in(grad->k_grad),
        .v_grad = far_in(grad->v_grad),
    };
    if (cpu != NULL) {
        cpu->ops->attention_back(cpu, &near, shape);
    }
}

static void far_load(struct lq_device *d, enum lq_dtype dtype, const void *rows, size_t row_count,
                     size_t cols, float *to, bool *finite)
{
    if (far_begin(d) == NULL) {
        return;
    }
    size_t row_bytes = lq_dtype_row_bytes(dtype, cols);
    float *values = far_in(to);
    const struct lq_expected *claimed = ((struct far_device *)d)->claimed;
    if (claimed != NULL) {
        bool same = claimed->size_bytes == row_count * row_bytes &&
                    memcmp(claimed->bytes, rows, claimed->size_bytes) == 0;
        far_state.claimed += claimed->size_bytes;
        far_state.mistaken += same ? 0 : 1;
        ((struct far_device *)d)->claimed = NULL;
    }
    for (size_t r = 0; r < row_count; r++) {
        lq_kernels()->decode[dtype]((const unsigned char *)rows + r * row_bytes, values + r * cols,
                                    cols);
    }
    *finite = lq_kernels()->find_nonfinite(values, row_count * cols) == row_count * cols;
}

static void far_forget(struct far_device *self)
{
    for (size_t i = 0; i < self->expected_count; i++) {
        free((void *)(uintptr_t)self->expected[i].bytes);
    }
    self->expected_count = 0;
    self->claimed = NULL;
}

static void far_expect(struct lq_device *d, const struct lq_expected *list, size_t count)
{
    struct far_device *self = (struct far_device *)d;
    far_forget(self);
    for (size_t i = 0; i < count && i < FAR_EXPECTED_MAX; i++) {
        void *bytes = malloc(list[i].size_bytes);
        memcpy(bytes, list[i].bytes, list[i].size_bytes);
        self->expected[i] = list[i];
        self->expected[i].bytes = bytes;
        self->expected_count++;
        far_state.expected += list[i].size_bytes;
    }
}

static void far_claim(struct lq_device *d, const unsigned char *key)
{
    struct far_device *self = (struct far_device *)d;
    self->claimed = NULL;
    for (size_t i = 0; i < self->expected_count; i++) {
        if (memcmp(self->expected[i].key, key, LQ_EXPECTED_KEY_BYTES) == 0) {
            self->claimed = &self->expected[i];
        }
    }
}

static void far_settle(struct lq_device *d)
{
    (void)d;
}

static struct lq_device *far_create(void)
{
    struct far_device *self = calloc(1, sizeof *self);
    self->ops = (struct lq_device_ops){
        .numerics = "cuda-bf16",
        .batch_rows = far_state.batch_rows,
        .destroy = far_destroy,
        .failure = far_failure,
        .notice = far_notice,
        .alloc = far_alloc,
        .release = far_release,
        .upload = far_upload,
        .download = far_download,
        .zero = far_zero,
        .load = far_state.no_load ? NULL : far_load,
        .expect = far_expect,
        .claim = far_claim,
        .settle = far_settle,
        .copy = far_copy,
        .matmul = far_matmul,
        .rms_norm = far_rms_norm,
        .rope = far_rope,
        .attention = far_attention,
        .silu_mul = far_silu_mul,
        .gelu_mul = far_gelu_mul,
        .soft_cap = far_soft_cap,
        .add_bias = far_add_bias,
        .add = far_add,
        .add_squares = far_add_squares,
        .cross_entropy = far_cross_entropy,
        .route = far_route,
        .gather_rows = far_gather_rows,
        .combine_rows = far_combine_rows,
        .matmul_plain = far_matmul_plain,
        .matmul_outer = far_matmul_outer,
        .rms_norm_back = far_rms_norm_back,
        .attention_back = far_attention_back,
        .silu_mul_back = far_silu_mul_back,
        .gelu_mul_back = far_gelu_mul_back,
        .cross_entropy_back = far_cross_entropy_back,
        .route_back = far_route_back,
        .weigh_rows = far_weigh_rows,
        .add_scores = far_add_scores,
    };
    self->device.ops = &self->ops;
    self->cpu = lq_device_cpu_create((struct lq_parallel){.run = NULL}, LQ_CPU_BLAS_AUTO);
    far_state.devices++;
    far_state.made++;
    return &self->device;
}

/* ---- the module ---- */

static const char *far_count(int *device_count)
{
    *device_count = 1;
    return NULL;
}

static const char *far_open(int device, struct lq_gpu_context **context)
{
    (void)device;
    *context = NULL;
    return NULL;
}

static void far_close(struct lq_gpu_context *context)
{
    (void)context;
}

static const char *far_describe(struct lq_gpu_context *context, struct lq_gpu_info *info)
{
    (void)context;
    size_t limit = far_state.memory_bytes == 0 ? (size_t)1 << 40 : far_state.memory_bytes;
    *info = (struct lq_gpu_info){.name = "far",
                                 .memory_bytes =
                                     far_state.total_bytes == 0 ? limit : far_state.total_bytes,
                                 .memory_free_bytes = limit - far_state.used_bytes};
    return NULL;
}

/* Of leases: none while a model is there, if so told. */
static const char *far_no_alloc(struct lq_gpu_context *context, size_t size_bytes, void **memory)
{
    (void)context;
    if (far_state.is_full && far_state.devices > 0) {
        return "out of memory";
    }
    *memory = malloc(size_bytes);
    return NULL;
}

static void far_no_release(struct lq_gpu_context *context, void *memory)
{
    (void)context;
    free(memory);
}

static const char *far_set_near(struct lq_gpu_context *context, enum lq_gpu_near which,
                                const uint32_t *pairs, const uint16_t *index)
{
    (void)context;
    (void)which;
    free((void *)(uintptr_t)pairs);
    free((void *)(uintptr_t)index);
    return NULL;
}

static const char *far_stream_open(struct lq_gpu_context *context, struct lq_gpu_stream **stream)
{
    (void)context;
    *stream = NULL;
    return NULL;
}

static void far_stream_close(struct lq_gpu_stream *stream)
{
    (void)stream;
}

static const char *far_move(struct lq_gpu_stream *stream, void *to, const void *from, size_t n)
{
    (void)stream;
    memcpy(to, from, n);
    return NULL;
}

static const char *far_wait(struct lq_gpu_stream *stream)
{
    (void)stream;
    return NULL;
}

/* Encodes are not its business. */
static const char *far_refuse(struct lq_gpu_stream *stream, const struct lq_gpu_work *work)
{
    (void)stream;
    (void)work;
    return "it only runs models";
}

static const char *far_refuse_zero(struct lq_gpu_stream *stream, void *memory, size_t n)
{
    (void)stream;
    (void)memory;
    (void)n;
    return "it only runs models";
}

static const char *far_make(const struct lq_gpu_module *module, struct lq_gpu_context *context,
                            struct lq_device **device)
{
    (void)module;
    (void)context;
    if (far_state.no_device != NULL) {
        return far_state.no_device;
    }
    *device = far_create();
    return NULL;
}

static const struct lq_gpu_module far_module = {
    .version = LQ_GPU_MODULE_VERSION,
    .name = "far",
    .count = far_count,
    .open = far_open,
    .close = far_close,
    .describe = far_describe,
    .alloc = far_no_alloc,
    .release = far_no_release,
    .alloc_host = far_no_alloc,
    .release_host = far_no_release,
    .set_near = far_set_near,
    .stream_open = far_stream_open,
    .stream_close = far_stream_close,
    .upload = far_move,
    .download = far_move,
    .zero = far_refuse_zero,
    .decode = far_refuse,
    .check = far_refuse,
    .encode = far_refuse,
    .wait = far_wait,
};

#endif
