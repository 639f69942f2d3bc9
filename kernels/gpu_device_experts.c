#include <limits.h>

#include "kernels/gpu_device_parts.h"

void lq_gpu_route(struct lq_device *device, const float *logits, size_t rows, size_t expert_count,
                  size_t used, const struct lq_route *route)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    if (used > expert_count || (used != 0 && rows > (size_t)INT_MAX / used) ||
        expert_count > INT_MAX) {
        (void)lq_gpu_note(gpu, "a batch has too many rows for its experts");
        return;
    }
    const struct lq_gpu_choose choose = {
        .logits = logits,
        .rows = rows,
        .expert_count = (uint32_t)expert_count,
        .used = (uint32_t)used,
        .chosen = lq_gpu_take_memory(gpu, rows * used, sizeof(int32_t)),
        .weights = route->weights,
        .all = route->all,
    };
    const struct lq_gpu_place place = {
        .chosen = choose.chosen,
        .total = (uint32_t)(rows * used),
        .expert_count = (uint32_t)expert_count,
        .used = (uint32_t)used,
        .slots = route->slots,
        .sources = route->sources,
        .starts = route->starts,
    };
    if (route->all != NULL) {
        lq_gpu_written(gpu, route->all, rows * expert_count * sizeof *route->all);
    }
    lq_gpu_run(gpu, LQ_GPU_OP_CHOOSE, &choose, lq_gpu_divide_up(rows, LQ_GPU_THREADS));
    lq_gpu_run(gpu, LQ_GPU_OP_PLACE, &place, 1);
    lq_gpu_give_memory(gpu, choose.chosen);
}

/* What comes out is the left side of products. */
void lq_gpu_gather_rows(struct lq_device *device, const float *x, const int32_t *sources,
                        float *out, size_t count, size_t cols)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    struct lq_gpu_gather op = {
        .shape = lq_gpu_shape_of(gpu, count, cols), .x = x, .sources = sources, .out = out};
    lq_gpu_written(gpu, out, count * cols * sizeof *out);
    op.twin = lq_gpu_new_twin(gpu, out, count, cols);
    lq_gpu_run(gpu, LQ_GPU_OP_GATHER, &op, lq_gpu_blocks_of(&op.shape));
}

void lq_gpu_combine_rows(struct lq_device *device, const float *x, const struct lq_route *route,
                         float *out, size_t rows, size_t used, size_t cols)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    const struct lq_gpu_combine op = {
        lq_gpu_shape_of(gpu, rows, cols), x, route->slots, route->weights, out, (uint32_t)used};
    lq_gpu_written(gpu, out, rows * cols * sizeof *out);
    lq_gpu_run(gpu, LQ_GPU_OP_COMBINE, &op, lq_gpu_blocks_of(&op.shape));
}

void lq_gpu_route_back(struct lq_device *device, const float *x, const float *grad,
                       const struct lq_route *route, float *logits_grad, size_t rows,
                       size_t expert_count, size_t used, size_t cols)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    const struct lq_gpu_route_back op = {
        .shape = lq_gpu_shape_of(gpu, rows, cols),
        .x = x,
        .grad = grad,
        .weights = route->weights,
        .slots = route->slots,
        .starts = route->starts,
        .all = route->all,
        .out = logits_grad,
        .expert_count = (uint32_t)expert_count,
        .used = (uint32_t)used,
    };
    lq_gpu_written(gpu, logits_grad, rows * expert_count * sizeof *logits_grad);
    lq_gpu_run(gpu, LQ_GPU_OP_ROUTE_BACK, &op, expert_count == 0 ? 0 : lq_gpu_blocks_of(&op.shape));
}

void lq_gpu_weigh_rows(struct lq_device *device, float *x, const struct lq_route *route,
                       size_t rows, size_t used, size_t cols)
{
    struct lq_gpu_device *gpu = lq_gpu_of(device);
    const struct lq_gpu_weigh op = {lq_gpu_shape_of(gpu, rows * used, cols), x, route->slots,
                                    route->weights};
    lq_gpu_written(gpu, x, rows * used * cols * sizeof *x);
    lq_gpu_run(gpu, LQ_GPU_OP_WEIGH, &op, lq_gpu_blocks_of(&op.shape));
}
