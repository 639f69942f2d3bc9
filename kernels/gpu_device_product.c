#include <limits.h>
#include <stdint.h>
#include <stdlib.h>

#include "kernels/gpu_device_parts.h"

/* Twins of activations that are there at a time: more than the operations of a layer go back. */
#define PASSING_TWINS 8

/* ---- twins ---- */

static void drop(struct lq_gpu_device *gpu, size_t index)
{
    lq_gpu_give_memory(gpu, gpu->twins[index].to);
    gpu->twins[index] = gpu->twins[--gpu->twin_count];
}

void lq_gpu_drop_twins(struct lq_gpu_device *gpu)
{
    while (gpu->twin_count > 0) {
        drop(gpu, gpu->twin_count - 1);
    }
}

void lq_gpu_drop_old_twins(struct lq_gpu_device *gpu)
{
    for (size_t i = gpu->twin_count; i-- > 0;) {
        if (gpu->twins[i].used_at != gpu->now) {
            drop(gpu, i);
        }
    }
}

void lq_gpu_written(struct lq_gpu_device *gpu, const void *memory, size_t size_bytes)
{
    uintptr_t first = (uintptr_t)memory;
    for (size_t i = gpu->twin_count; i-- > 0;) {
        uintptr_t x = (uintptr_t)gpu->twins[i].x;
        if (x < first + size_bytes && first < x + gpu->twins[i].count * sizeof(float)) {
            drop(gpu, i);
        }
    }
}

/* The least recently used of those that make room goes when there are too many. */
static void make_room(struct lq_gpu_device *gpu)
{
    size_t passing = 0;
    size_t oldest = SIZE_MAX;
    for (size_t i = 0; i < gpu->twin_count; i++) {
        if (!gpu->twins[i].is_kept) {
            passing++;
            oldest = oldest == SIZE_MAX || gpu->twins[i].used_at < gpu->twins[oldest].used_at
                         ? i
                         : oldest;
        }
    }
    if (passing >= PASSING_TWINS) {
        drop(gpu, oldest);
    }
}

/* Rows are padded to 16 bytes, which tensor cores want. */
static size_t stride_of(size_t cols)
{
    return lq_gpu_divide_up(cols, 8) * 8;
}

static struct lq_gpu_range_twin *add_twin(struct lq_gpu_device *gpu, const float *x, size_t rows,
                                          size_t cols, bool is_kept)
{
    make_room(gpu);
    if (gpu->twin_count == gpu->twin_room) {
        size_t room = 2 * gpu->twin_room + 64;
        struct lq_gpu_range_twin *twins = realloc(gpu->twins, room * sizeof *twins);
        if (twins == NULL) {
            (void)lq_gpu_note(gpu, "memory is out");
            return NULL;
        }
        gpu->twins = twins;
        gpu->twin_room = room;
    }
    uint16_t *to = lq_gpu_take_memory(gpu, rows * stride_of(cols), sizeof *to);
    if (to == NULL) {
        return NULL;
    }
    struct lq_gpu_range_twin *twin = &gpu->twins[gpu->twin_count++];
    *twin = (struct lq_gpu_range_twin){.x = x,
                                       .count = rows * cols,
                                       .cols = cols,
                                       .stride = stride_of(cols),
                                       .to = to,
                                       .is_kept = is_kept,
                                       .used_at = gpu->now};
    return twin;
}

struct lq_gpu_twin lq_gpu_new_twin(struct lq_gpu_device *gpu, const float *x, size_t rows,
                                   size_t cols)
{
    struct lq_gpu_twin none = {NULL, 0};
    if (gpu->has_failed || rows * cols == 0 || stride_of(cols) > UINT32_MAX) {
        return none;
    }
    /* One row of any length is rows of any length when it is whole: see find_twin. */
    const struct lq_gpu_range_twin *twin = add_twin(gpu, x, rows, cols, false);
    return twin == NULL ? none : (struct lq_gpu_twin){twin->to, (uint32_t)twin->stride};
}

/* The place of rows in a twin that has them all; NULL when it has not. */
static const uint16_t *find_in(const struct lq_gpu_range_twin *twin, const float *x, size_t rows,
                               size_t cols)
{
    uintptr_t first = (uintptr_t)twin->x;
    uintptr_t at = (uintptr_t)x;
    size_t offset = (at - first) / sizeof *x;
    if (at < first || offset > twin->count || rows * cols > twin->count - offset) {
        return NULL;
    }
    if (twin->stride == twin->cols && cols % 8 == 0) {
        return twin->to + offset;
    }
    return twin->cols == cols && offset % cols == 0 ? twin->to + offset / cols * twin->stride
                                                    : NULL;
}

/* Rows of floats as bf16, stride_of(cols) apart: what is there, or rounded now. */
static const uint16_t *side(struct lq_gpu_device *gpu, const float *x, size_t rows, size_t cols,
                            bool is_kept)
{
    for (size_t i = 0; i < gpu->twin_count; i++) {
        const uint16_t *found = find_in(&gpu->twins[i], x, rows, cols);
        if (found != NULL) {
            gpu->twins[i].used_at = gpu->now;
            return found;
        }
    }
    struct lq_gpu_round op = {.shape = lq_gpu_shape_of(gpu, rows, cols), .x = x};
    const struct lq_gpu_range_twin *twin =
        gpu->has_failed ? NULL : add_twin(gpu, x, rows, cols, is_kept);
    if (twin == NULL) {
        return NULL;
    }
    op.twin = (struct lq_gpu_twin){twin->to, (uint32_t)twin->stride};
    lq_gpu_run(gpu, LQ_GPU_OP_ROUND, &op, lq_gpu_blocks_of(&op.shape));
    return op.twin.to;
}

/* ---- products ---- */

void lq_gpu_multiply(struct lq_gpu_device *gpu, const struct lq_gpu_product *product)
{
    if (!gpu->has_failed) {
        (void)lq_gpu_note(gpu, gpu->module->multiply(gpu->stream, product));
    }
}

/* Whether there is something to multiply. Without a depth the result is zero. */
static bool begin(struct lq_gpu_device *gpu, float *c, size_t m, size_t n, size_t k)
{
    if (m > INT_MAX || n > INT_MAX || k > INT_MAX) {
        (void)lq_gpu_note(gpu, "a matrix has a dimension of 2^31 or more");
    }
    if (gpu->has_failed || m == 0 || n == 0) {
        return false;
    }
    lq_gpu_written(gpu, c, m * n * sizeof *c);
    gpu->now++;
    if (k == 0) {
        (void)lq_gpu_note(gpu, gpu->module->zero(gpu->stream, c, m * n * sizeof *c));
    }
    return k != 0;
}

void lq_gpu_matmul(struct lq_device *device, const float *a, const float *b, float *c, size_t rows,
                   size_t out_cols, size_t in_cols)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    if (!begin(gpu, c, rows, out_cols, in_cols)) {
        return;
    }
    const struct lq_gpu_product product = {
        .a = side(gpu, a, rows, in_cols, false),
        .b = side(gpu, b, out_cols, in_cols, true),
        .c = c,
        .m = rows,
        .n = out_cols,
        .k = in_cols,
        .a_row = stride_of(in_cols),
        .b_row = stride_of(in_cols),
        .c_row = out_cols,
        .batch = 1,
        .b_turned = true,
    };
    lq_gpu_multiply(gpu, &product);
}

void lq_gpu_matmul_plain(struct lq_device *device, const float *a, const float *b, float *c,
                         size_t rows, size_t out_cols, size_t in_cols)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    if (!begin(gpu, c, rows, out_cols, in_cols)) {
        return;
    }
    const struct lq_gpu_product product = {
        .a = side(gpu, a, rows, in_cols, false),
        .b = side(gpu, b, in_cols, out_cols, true),
        .c = c,
        .m = rows,
        .n = out_cols,
        .k = in_cols,
        .a_row = stride_of(in_cols),
        .b_row = stride_of(out_cols),
        .c_row = out_cols,
        .batch = 1,
    };
    lq_gpu_multiply(gpu, &product);
}

void lq_gpu_matmul_outer(struct lq_device *device, const float *a, const float *b, float *c,
                         size_t rows, size_t a_cols, size_t b_cols)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    if (!begin(gpu, c, a_cols, b_cols, rows)) {
        return;
    }
    const struct lq_gpu_product product = {
        .a = side(gpu, a, rows, a_cols, false),
        .b = side(gpu, b, rows, b_cols, false),
        .c = c,
        .m = a_cols,
        .n = b_cols,
        .k = rows,
        .a_row = stride_of(a_cols),
        .b_row = stride_of(b_cols),
        .c_row = b_cols,
        .batch = 1,
        .a_turned = true,
    };
    lq_gpu_multiply(gpu, &product);
}
