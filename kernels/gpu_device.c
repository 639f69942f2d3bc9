#include "kernels/gpu_device.h"

#include <pthread.h>
#include <stdlib.h>

#include "kernels/gpu_device_parts.h"

/* ---- operations ---- */

void lq_gpu_run(struct lq_gpu_device *gpu, enum lq_gpu_operation operation, const void *args,
                size_t block_count)
{
    if (!gpu->has_failed && block_count != 0) {
        (void)lq_gpu_note(gpu, gpu->module->launch(gpu->stream, operation, args, block_count));
    }
}

struct lq_gpu_shape lq_gpu_shape_of(struct lq_gpu_device *gpu, size_t rows, size_t cols)
{
    struct lq_gpu_shape shape = {rows, (uint32_t)cols, 32};
    if (cols > INT32_MAX || rows > SIZE_MAX / LQ_GPU_THREADS) {
        (void)lq_gpu_note(gpu, "a matrix has a dimension of 2^31 or more");
    }
    while (shape.lanes < LQ_GPU_THREADS && shape.lanes * 8 < cols) {
        shape.lanes *= 2;
    }
    return shape;
}

size_t lq_gpu_blocks_of(const struct lq_gpu_shape *shape)
{
    return shape->cols == 0 ? 0 : lq_gpu_divide_up(shape->rows, LQ_GPU_THREADS / shape->lanes);
}

/* ---- single values ---- */

static size_t blocks_of_values(size_t count)
{
    return lq_gpu_divide_up(count, LQ_GPU_BLOCK_ELEMS);
}

static void gpu_add(struct lq_device *device, float *x, const float *y, size_t count)
{
    const struct lq_gpu_add op = {x, y, count};
    lq_gpu_written(lq_gpu_of(device), x, count * sizeof *x);
    lq_gpu_run(lq_gpu_of(device), LQ_GPU_OP_ADD, &op, blocks_of_values(count));
}

static void gpu_soft_cap(struct lq_device *device, float *x, size_t count, float cap)
{
    const struct lq_gpu_cap op = {x, count, cap};
    lq_gpu_written(lq_gpu_of(device), x, count * sizeof *x);
    lq_gpu_run(lq_gpu_of(device), LQ_GPU_OP_CAP, &op, blocks_of_values(count));
}

/* What comes out is the left side of a product. */
static void run_gate(struct lq_device *device, float *gate, const float *up, size_t count,
                     bool gelu)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    lq_gpu_written(gpu, gate, count * sizeof *gate);
    struct lq_gpu_gate op = {gate, up, count, gelu, lq_gpu_new_twin(gpu, gate, 1, count).to};
    lq_gpu_run(gpu, LQ_GPU_OP_GATE, &op, blocks_of_values(count));
}

static void gpu_silu_mul(struct lq_device *device, float *gate, const float *up, size_t count)
{
    run_gate(device, gate, up, count, false);
}

static void gpu_gelu_mul(struct lq_device *device, float *gate, const float *up, size_t count)
{
    run_gate(device, gate, up, count, true);
}

static void run_gate_back(struct lq_device *device, float *gate, float *up, const float *out_grad,
                          size_t count, bool gelu)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    const struct lq_gpu_gate_back op = {gate, up, out_grad, count, gelu};
    lq_gpu_written(gpu, gate, count * sizeof *gate);
    lq_gpu_written(gpu, up, count * sizeof *up);
    lq_gpu_run(gpu, LQ_GPU_OP_GATE_BACK, &op, blocks_of_values(count));
}

static void gpu_silu_mul_back(struct lq_device *device, float *gate, float *up,
                              const float *out_grad, size_t count)
{
    run_gate_back(device, gate, up, out_grad, count, false);
}

static void gpu_gelu_mul_back(struct lq_device *device, float *gate, float *up,
                              const float *out_grad, size_t count)
{
    run_gate_back(device, gate, up, out_grad, count, true);
}

/* ---- rows ---- */

static void gpu_add_bias(struct lq_device *device, float *x, const float *bias, size_t rows,
                         size_t cols)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    const struct lq_gpu_bias op = {lq_gpu_shape_of(gpu, rows, cols), x, bias};
    lq_gpu_written(gpu, x, rows * cols * sizeof *x);
    lq_gpu_run(gpu, LQ_GPU_OP_BIAS, &op, lq_gpu_blocks_of(&op.shape));
}

/* A norm that is not in place is the left side of a product. */
static void gpu_rms_norm(struct lq_device *device, const float *x, const float *weight, float *out,
                         size_t rows, size_t cols, float eps)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    struct lq_gpu_norm op = {.shape = lq_gpu_shape_of(gpu, rows, cols),
                             .x = x,
                             .weight = weight,
                             .out = out,
                             .eps = eps};
    lq_gpu_written(gpu, out, rows * cols * sizeof *out);
    if (out != x) {
        op.twin = lq_gpu_new_twin(gpu, out, rows, cols);
    }
    lq_gpu_run(gpu, LQ_GPU_OP_NORM, &op, lq_gpu_blocks_of(&op.shape));
}

static void gpu_rms_norm_back(struct lq_device *device, const float *x, const float *weight,
                              const float *out_grad, float *grad, size_t rows, size_t cols,
                              float eps)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    const struct lq_gpu_norm_back op = {
        lq_gpu_shape_of(gpu, rows, cols), x, weight, out_grad, grad, eps};
    lq_gpu_written(gpu, grad, rows * cols * sizeof *grad);
    lq_gpu_run(gpu, LQ_GPU_OP_NORM_BACK, &op, lq_gpu_blocks_of(&op.shape));
}

static void gpu_rope(struct lq_device *device, float *x, const float *table, size_t rows,
                     size_t sequence, size_t head_count, size_t head_dim, size_t pair_count,
                     bool halves)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    const struct lq_gpu_rope op = {
        .shape = lq_gpu_shape_of(gpu, rows, head_count * pair_count),
        .x = x,
        .table = table,
        .sequence = sequence,
        .row_elems = (uint32_t)(head_count * head_dim),
        .head_dim = (uint32_t)head_dim,
        .pair_count = (uint32_t)pair_count,
        .halves = halves,
    };
    lq_gpu_written(gpu, x, rows * head_count * head_dim * sizeof *x);
    lq_gpu_run(gpu, LQ_GPU_OP_ROPE, &op, lq_gpu_blocks_of(&op.shape));
}

/* ---- sums of columns ---- */

static size_t blocks_of_parts(size_t rows, size_t cols)
{
    return lq_gpu_divide_up(rows, LQ_GPU_PART_ROWS) * lq_gpu_divide_up(cols, LQ_GPU_THREADS);
}

/* Memory for the sums of parts of rows. */
static double *take_parts(struct lq_gpu_device *gpu, size_t rows, size_t cols)
{
    return lq_gpu_take_memory(gpu, lq_gpu_divide_up(rows, LQ_GPU_PART_ROWS) * cols, sizeof(double));
}

static void add_parts(struct lq_gpu_device *gpu, double *parts, size_t rows, size_t cols,
                      double *sums)
{
    const struct lq_gpu_columns op = {parts, lq_gpu_divide_up(rows, LQ_GPU_PART_ROWS),
                                      (uint32_t)cols, sums};
    lq_gpu_written(gpu, sums, cols * sizeof *sums);
    lq_gpu_run(gpu, LQ_GPU_OP_COLUMNS, &op, rows == 0 ? 0 : lq_gpu_divide_up(cols, LQ_GPU_THREADS));
    lq_gpu_give_memory(gpu, parts);
}

static void gpu_add_squares(struct lq_device *device, const float *x, size_t rows, size_t cols,
                            double *sums)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    struct lq_gpu_squares op = {x, rows, lq_gpu_shape_of(gpu, rows, cols).cols,
                                take_parts(gpu, rows, cols)};
    lq_gpu_run(gpu, LQ_GPU_OP_SQUARES, &op, blocks_of_parts(rows, cols));
    add_parts(gpu, op.parts, rows, cols, sums);
}

static void gpu_add_scores(struct lq_device *device, const float *grad, const float *weight,
                           const struct lq_score_shape *shape, double *sums, float *scores)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    size_t rows = shape->rows;
    size_t cols = shape->cols;
    struct lq_gpu_scores op = {
        .grad = grad,
        .weight = weight,
        .rows = rows,
        .cols = lq_gpu_shape_of(gpu, rows, cols).cols,
        .squares = shape->squares,
        .parts = take_parts(gpu, rows, cols),
        .scores = scores,
    };
    if (scores != NULL) {
        lq_gpu_written(gpu, scores, rows * cols * sizeof *scores);
    }
    lq_gpu_run(gpu, LQ_GPU_OP_SCORES, &op, blocks_of_parts(rows, cols));
    add_parts(gpu, op.parts, rows, cols, sums);
}

/* ---- losses ---- */

static void gpu_cross_entropy(struct lq_device *device, const float *logits, const int32_t *targets,
                              size_t rows, size_t cols, double *nll)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    const struct lq_gpu_entropy op = {lq_gpu_shape_of(gpu, rows, cols), logits, targets, nll};
    lq_gpu_written(gpu, nll, rows * sizeof *nll);
    lq_gpu_run(gpu, LQ_GPU_OP_ENTROPY, &op, lq_gpu_blocks_of(&op.shape));
}

static void gpu_cross_entropy_back(struct lq_device *device, float *logits, const int32_t *targets,
                                   size_t rows, size_t cols, float scale, float cap)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    const struct lq_gpu_entropy_back op = {lq_gpu_shape_of(gpu, rows, cols), logits, targets, scale,
                                           cap};
    lq_gpu_written(gpu, logits, rows * cols * sizeof *logits);
    lq_gpu_run(gpu, LQ_GPU_OP_ENTROPY_BACK, &op, lq_gpu_blocks_of(&op.shape));
}

static void gpu_compare_logits(struct lq_device *device, const float *original, const float *logits,
                               const int32_t *targets, size_t rows, size_t cols,
                               struct lq_logits_difference *out)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    const struct lq_gpu_difference op = {lq_gpu_shape_of(gpu, rows, cols), original, logits,
                                         targets, out};
    lq_gpu_written(gpu, out, rows * sizeof *out);
    lq_gpu_run(gpu, LQ_GPU_OP_DIFFERENCE, &op, lq_gpu_blocks_of(&op.shape));
}

/* ---- life ---- */

/* Devices that were destroyed in good order. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct lq_gpu_device *idle;

static struct lq_gpu_device *take_idle(const struct lq_gpu_module *module,
                                       const struct lq_gpu_context *context)
{
    (void)pthread_mutex_lock(&mutex);
    struct lq_gpu_device **at = &idle;
    while (*at != NULL && ((*at)->module != module || (*at)->context != context)) {
        at = &(*at)->next;
    }
    struct lq_gpu_device *found = *at;
    if (found != NULL) {
        *at = found->next;
        found->next = NULL;
    }
    (void)pthread_mutex_unlock(&mutex);
    return found;
}

static void destroy(struct lq_gpu_device *gpu)
{
    lq_gpu_end_ahead(gpu);
    if (gpu->stream != NULL) {
        (void)gpu->module->wait(gpu->stream);
    }
    for (size_t i = 0; i < gpu->block_count; i++) {
        gpu->module->release(gpu->context, gpu->blocks[i].memory);
    }
    if (gpu->staging != NULL) {
        gpu->module->release_host(gpu->context, gpu->staging);
    }
    if (gpu->stream != NULL) {
        gpu->module->stream_close(gpu->stream);
    }
    free(gpu->twins);
    free(gpu->blocks);
    free(gpu);
}

static void gpu_destroy(struct lq_device *device)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    lq_gpu_end_ahead(gpu);
    lq_gpu_give_claimed(gpu);
    lq_gpu_drop_twins(gpu);
    for (size_t i = 0; i < gpu->block_count; i++) {
        gpu->blocks[i].taken = gpu->blocks[i].memory == (char *)gpu->bad;
    }
    if (!lq_gpu_note(gpu, gpu->module->wait(gpu->stream))) {
        destroy(gpu);
        return;
    }
    (void)pthread_mutex_lock(&mutex);
    gpu->next = idle;
    idle = gpu;
    (void)pthread_mutex_unlock(&mutex);
}

void lq_gpu_device_trim(const struct lq_gpu_module *module, struct lq_gpu_context *context)
{
    for (struct lq_gpu_device *gpu = take_idle(module, context); gpu != NULL;
         gpu = take_idle(module, context)) {
        destroy(gpu);
    }
}

static const char *gpu_failure(const struct lq_device *device)
{
    const struct lq_gpu_device *gpu = (const struct lq_gpu_device *)device;
    return gpu->has_failed ? gpu->failure : NULL;
}

static const char *gpu_notice(const struct lq_device *device)
{
    (void)device;
    return NULL;
}

static const struct lq_device_ops gpu_ops = {
    .numerics = "cuda-bf16",
    .host_visible = false,
    .batch_rows = 8192,
    .destroy = gpu_destroy,
    .failure = gpu_failure,
    .notice = gpu_notice,
    .spare_bytes = lq_gpu_spare_bytes,
    .alloc = lq_gpu_alloc,
    .release = lq_gpu_release,
    .upload = lq_gpu_upload,
    .download = lq_gpu_download,
    .load = lq_gpu_load_weights,
    .expect = lq_gpu_expect,
    .claim = lq_gpu_claim,
    .settle = lq_gpu_settle,
    .zero = lq_gpu_zero,
    .copy = lq_gpu_copy,
    .matmul = lq_gpu_matmul,
    .rms_norm = gpu_rms_norm,
    .rope = gpu_rope,
    .attention = lq_gpu_attention,
    .silu_mul = gpu_silu_mul,
    .gelu_mul = gpu_gelu_mul,
    .soft_cap = gpu_soft_cap,
    .add_bias = gpu_add_bias,
    .add = gpu_add,
    .add_squares = gpu_add_squares,
    .cross_entropy = gpu_cross_entropy,
    .compare_logits = gpu_compare_logits,
    .route = lq_gpu_route,
    .gather_rows = lq_gpu_gather_rows,
    .combine_rows = lq_gpu_combine_rows,
    .matmul_plain = lq_gpu_matmul_plain,
    .matmul_outer = lq_gpu_matmul_outer,
    .rms_norm_back = gpu_rms_norm_back,
    .attention_back = lq_gpu_attention_back,
    .silu_mul_back = gpu_silu_mul_back,
    .gelu_mul_back = gpu_gelu_mul_back,
    .cross_entropy_back = gpu_cross_entropy_back,
    .route_back = lq_gpu_route_back,
    .weigh_rows = lq_gpu_weigh_rows,
    .add_scores = gpu_add_scores,
};

/* What makes a new device usable. */
static const char *prepare(struct lq_gpu_device *gpu)
{
    void *staging = NULL;
    const char *why = gpu->module->stream_open(gpu->context, &gpu->stream);
    why = why != NULL ? why : gpu->module->prepare_products(gpu->stream);
    why = why != NULL ? why
                      : gpu->module->alloc_host(
                            gpu->context, LQ_GPU_STAGING_SLOTS * LQ_GPU_STAGING_BYTES, &staging);
    if (why != NULL) {
        return why;
    }
    gpu->staging = staging;
    gpu->bad = lq_gpu_take_memory(gpu, 1, sizeof *gpu->bad);
    return gpu->bad == NULL ? "its memory is out" : NULL;
}

const char *lq_gpu_device_create(const struct lq_gpu_module *module, struct lq_gpu_context *context,
                                 struct lq_device **device)
{
    struct lq_gpu_device *gpu = take_idle(module, context);
    *device = NULL;
    if (gpu == NULL) {
        gpu = calloc(1, sizeof *gpu);
        if (gpu == NULL) {
            return "memory is out";
        }
        gpu->device.ops = &gpu_ops;
        gpu->module = module;
        gpu->context = context;
        gpu->scores_bytes = LQ_GPU_SCORES_BYTES;
    gpu->has_no_flash = getenv("LQBUILD_NO_FLASH") != NULL;
        const char *why = prepare(gpu);
        if (why != NULL) {
            destroy(gpu);
            return why;
        }
    }
    *device = &gpu->device;
    return NULL;
}
