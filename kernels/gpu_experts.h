/* Operations of GPUs for mixtures of experts: choosing experts, sorting rows by expert, moving rows
 * to their slots and back. Written as gpu_threads.h says; what they compute is in device.h, what
 * they take in gpu_operations.h. Internal to the kernels and their modules. Thread rule: pure;
 * different blocks write to different memory. */
#ifndef LQ_KERNELS_GPU_EXPERTS_H
#define LQ_KERNELS_GPU_EXPERTS_H

#include "kernels/gpu_rows.h"

/* The softmax over all experts; `out` may be `logits`. */
LQ_DEVICE_FN static inline void lq_gpu_spread_experts(const float *logits, uint32_t count,
                                                      float largest, float *out)
{
    float sum = 0.0f;
    for (uint32_t e = 0; e < count; e++) {
        out[e] = lq_exp_f32(logits[e] - largest);
        sum += out[e];
    }
    for (uint32_t e = 0; e < count; e++) {
        out[e] /= sum;
    }
}

/* The largest logit among those of experts that are not yet chosen; of equal ones the first. */
LQ_DEVICE_FN static inline uint32_t lq_gpu_next_expert(const float *logits, uint32_t expert_count,
                                                       const int32_t *chosen, uint32_t count)
{
    uint32_t best = expert_count;
    for (uint32_t e = 0; e < expert_count; e++) {
        bool taken = false;
        for (uint32_t i = 0; i < count && !taken; i++) {
            taken = (uint32_t)chosen[i] == e;
        }
        if (!taken && (best == expert_count || logits[e] > logits[best])) {
            best = e;
        }
    }
    return best;
}

LQ_DEVICE_FN static inline void lq_gpu_choose_block(const struct lq_gpu_choose *op, size_t block)
{
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = block * LQ_GPU_THREADS + t;
        if (row >= op->rows) {
            continue;
        }
        const float *logits = op->logits + row * op->expert_count;
        int32_t *chosen = op->chosen + row * op->used;
        float *weights = op->weights + row * op->used;
        float sum = 0.0f;
        for (uint32_t k = 0; k < op->used; k++) {
            uint32_t expert = lq_gpu_next_expert(logits, op->expert_count, chosen, k);
            chosen[k] = (int32_t)expert;
            weights[k] = lq_exp_f32(logits[expert] - logits[chosen[0]]);
            sum += weights[k];
        }
        float *all = op->all == NULL ? NULL : op->all + row * op->expert_count;
        if (all != NULL && op->used != 0) {
            lq_gpu_spread_experts(logits, op->expert_count, logits[chosen[0]], all);
        }
        for (uint32_t k = 0; k < op->used; k++) {
            weights[k] = all != NULL ? all[chosen[k]] : weights[k] / sum;
        }
    }
}

/* A thread looks after an expert: it counts its rows, and when all counts are known places them. */
LQ_DEVICE_FN static inline void lq_gpu_place_block(const struct lq_gpu_place *op, size_t block)
{
    (void)block;
    LQ_GPU_EACH_THREAD(t)
    {
        for (uint32_t e = t; e < op->expert_count; e += LQ_GPU_THREADS) {
            int32_t count = 0;
            for (uint32_t i = 0; i < op->total; i++) {
                count += (uint32_t)op->chosen[i] == e ? 1 : 0;
            }
            op->starts[e + 1] = count;
        }
    }
    LQ_GPU_EACH_THREAD(t)
    {
        if (t != 0) {
            continue;
        }
        op->starts[0] = 0;
        for (uint32_t e = 0; e < op->expert_count; e++) {
            op->starts[e + 1] += op->starts[e];
        }
    }
    LQ_GPU_EACH_THREAD(t)
    {
        for (uint32_t e = t; e < op->expert_count; e += LQ_GPU_THREADS) {
            int32_t slot = op->starts[e];
            for (uint32_t i = 0; i < op->total; i++) {
                if ((uint32_t)op->chosen[i] == e) {
                    op->slots[i] = slot;
                    op->sources[slot] = (int32_t)(i / op->used);
                    slot++;
                }
            }
        }
    }
}

LQ_DEVICE_FN static inline void lq_gpu_gather_block(const struct lq_gpu_gather *op, size_t block)
{
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(&op->shape, block, t);
        if (row >= op->shape.rows) {
            continue;
        }
        const float *x = op->x + (size_t)op->sources[row] * op->shape.cols;
        float *out = op->out + row * op->shape.cols;
        for (uint32_t j = lq_gpu_lane_of(&op->shape, t); j < op->shape.cols; j += op->shape.lanes) {
            out[j] = x[j];
            lq_gpu_leave_twin(&op->twin, row, j, x[j]);
        }
    }
}

LQ_DEVICE_FN static inline void lq_gpu_combine_block(const struct lq_gpu_combine *op, size_t block)
{
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(&op->shape, block, t);
        if (row >= op->shape.rows) {
            continue;
        }
        float *out = op->out + row * op->shape.cols;
        for (uint32_t j = lq_gpu_lane_of(&op->shape, t); j < op->shape.cols; j += op->shape.lanes) {
            float sum = 0.0f;
            for (uint32_t k = 0; k < op->used; k++) {
                size_t at = row * op->used + k;
                float weight = op->weights == NULL ? 1.0f : op->weights[at];
                sum += weight * op->x[(size_t)op->slots[at] * op->shape.cols + j];
            }
            out[j] = sum;
        }
    }
}

LQ_DEVICE_FN static inline void lq_gpu_weigh_block(const struct lq_gpu_weigh *op, size_t block)
{
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(&op->shape, block, t);
        if (row >= op->shape.rows) {
            continue;
        }
        float *x = op->x + (size_t)op->slots[row] * op->shape.cols;
        for (uint32_t j = lq_gpu_lane_of(&op->shape, t); j < op->shape.cols; j += op->shape.lanes) {
            x[j] *= op->weights[row];
        }
    }
}

/* The expert of a slot: the last whose slots begin at or before it. */
LQ_DEVICE_FN static inline uint32_t lq_gpu_expert_of_slot(const struct lq_gpu_route_back *op,
                                                          int32_t slot)
{
    uint32_t low = 0;
    uint32_t high = op->expert_count - 1;
    while (low < high) {
        uint32_t middle = (low + high + 1) / 2;
        if (op->starts[middle] <= slot) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

/* products[first of each group] = x . grad of slot k of its row. */
LQ_DEVICE_FN static inline void lq_gpu_slot_product(const struct lq_gpu_route_back *op,
                                                    size_t block, uint32_t k, double *products)
{
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(&op->shape, block, t);
        double sum = 0.0;
        if (row < op->shape.rows) {
            size_t first = (size_t)op->slots[row * op->used + k] * op->shape.cols;
            for (uint32_t j = lq_gpu_lane_of(&op->shape, t); j < op->shape.cols;
                 j += op->shape.lanes) {
                sum += (double)op->x[first + j] * (double)op->grad[first + j];
            }
        }
        products[t] = sum;
    }
    lq_gpu_sum_lanes(products, op->shape.lanes);
}

/* With s_k = x_k . grad_k for the experts of a row, the gradient of expert k's logit is
 * w_k (s_k - sum of w_j s_j). Where weights are a softmax over all experts, those that the row does
 * not use have s = 0 and share in it. */
LQ_DEVICE_FN static inline void lq_gpu_route_back_block(const struct lq_gpu_route_back *op,
                                                        size_t block)
{
    LQ_GPU_SHARED double products[LQ_GPU_THREADS];
    LQ_GPU_SHARED float means[LQ_GPU_THREADS];
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(&op->shape, block, t);
        means[t] = 0.0f;
        for (uint32_t e = lq_gpu_lane_of(&op->shape, t);
             row < op->shape.rows && e < op->expert_count; e += op->shape.lanes) {
            op->out[row * op->expert_count + e] = 0.0f;
        }
    }
    for (uint32_t k = 0; k < op->used; k++) {
        lq_gpu_slot_product(op, block, k, products);
        LQ_GPU_EACH_THREAD(t)
        {
            size_t row = lq_gpu_row_of(&op->shape, block, t);
            if (row < op->shape.rows && lq_gpu_lane_of(&op->shape, t) == 0) {
                size_t at = row * op->used + k;
                float slope = (float)products[t];
                op->out[row * op->expert_count + lq_gpu_expert_of_slot(op, op->slots[at])] = slope;
                means[t] += op->weights[at] * slope;
            }
        }
    }
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(&op->shape, block, t);
        if (row >= op->shape.rows || lq_gpu_lane_of(&op->shape, t) != 0) {
            continue;
        }
        const float *all = op->all == NULL ? NULL : op->all + row * op->expert_count;
        for (uint32_t e = 0; all != NULL && e < op->expert_count; e++) {
            float *slope = &op->out[row * op->expert_count + e];
            *slope = all[e] * (*slope - means[t]);
        }
        for (uint32_t k = 0; all == NULL && k < op->used; k++) {
            size_t at = row * op->used + k;
            float *slope =
                &op->out[row * op->expert_count + lq_gpu_expert_of_slot(op, op->slots[at])];
            *slope = op->weights[at] * (*slope - means[t]);
        }
    }
}

#endif
