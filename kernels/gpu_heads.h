/* Operations of GPUs for attention: rows of heads to bf16 tiles, the softmax of a tile of scores,
 * its gradients, and the way back to rows. Products stand between them (gpu_device_heads.c).
 * Written as gpu_threads.h says; what they take is in gpu_operations.h. Internal to the kernels and
 * their modules. Thread rule: pure; different blocks write to different memory. */
#ifndef LQ_KERNELS_GPU_HEADS_H
#define LQ_KERNELS_GPU_HEADS_H

#include "kernels/gpu_rows.h"

/* A row of the shape is a position of a sample. */
LQ_DEVICE_FN static inline void lq_gpu_split_block(const struct lq_gpu_split *op, size_t block)
{
    const struct lq_gpu_heads *heads = &op->heads;
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(&op->shape, block, t);
        if (row >= op->shape.rows) {
            continue;
        }
        size_t sample = row / heads->sequence;
        uint32_t position = (uint32_t)(row % heads->sequence);
        uint32_t first = position / heads->tile_rows * heads->tile_rows;
        uint32_t left = (uint32_t)heads->sequence - first;
        uint32_t tile_rows = left < heads->tile_rows ? left : heads->tile_rows;
        const float *x = op->x + row * op->shape.cols;
        for (uint32_t j = lq_gpu_lane_of(&op->shape, t); j < op->shape.cols; j += op->shape.lanes) {
            uint32_t head = j / heads->head_dim;
            uint32_t in_group = head % heads->group;
            size_t band = sample * heads->kv_head_count + head / heads->group;
            size_t line = (band * heads->sequence + first) * heads->group +
                          (size_t)in_group * tile_rows + (position - first);
            op->to[line * heads->head_dim + (j - head * heads->head_dim)] = lq_gpu_bf16_of(x[j]);
        }
    }
}

/* Where a row of a tile comes from. */
struct lq_gpu_query {
    size_t sample;
    uint32_t position;
    uint32_t head;
    uint32_t first, end; /* of the tile's keys, those that it sees */
};

LQ_DEVICE_FN static inline struct lq_gpu_query
lq_gpu_query_of(const struct lq_gpu_tile_of_scores *tile, size_t row, uint32_t keys)
{
    uint32_t line = (uint32_t)row;
    uint32_t band_rows = tile->heads.group * tile->query_count;
    uint32_t band = tile->band + line / band_rows;
    uint32_t in_band = line % band_rows;
    struct lq_gpu_query query;
    query.sample = band / tile->heads.kv_head_count;
    query.position = tile->query + in_band % tile->query_count;
    query.head = band % tile->heads.kv_head_count * tile->heads.group + in_band / tile->query_count;
    uint32_t end = query.position + 1;
    uint32_t start = tile->window != 0 && end > tile->window ? end - tile->window : 0;
    query.end = end < tile->first_key ? 0 : end - tile->first_key;
    query.end = query.end < keys ? query.end : keys;
    query.first = start < tile->first_key ? 0 : start - tile->first_key;
    return query;
}

/* The place of a query's head in rows of heads. */
LQ_DEVICE_FN static inline size_t lq_gpu_place_of_query(const struct lq_gpu_tile_of_scores *tile,
                                                        const struct lq_gpu_query *query)
{
    size_t row = query->sample * tile->heads.sequence + query->position;
    size_t head_count = (size_t)tile->heads.kv_head_count * tile->heads.group;
    return (row * head_count + query->head) * tile->heads.head_dim;
}

LQ_DEVICE_FN static inline float lq_gpu_scaled_score(const struct lq_gpu_tile_of_scores *tile,
                                                     float product)
{
    return tile->cap == 0.0f ? product * tile->scale
                             : lq_gpu_cap_value(product, tile->scale / tile->cap, tile->cap);
}

/* best[first of each group] = the largest score that its query sees. */
LQ_DEVICE_FN static inline void lq_gpu_score_max(const struct lq_gpu_shape *shape,
                                                 const struct lq_gpu_tile_of_scores *tile,
                                                 const float *scores, size_t block, float *best)
{
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(shape, block, t);
        float largest = -INFINITY;
        if (row < shape->rows) {
            struct lq_gpu_query query = lq_gpu_query_of(tile, row, shape->cols);
            const float *x = scores + row * tile->stride;
            for (uint32_t j = query.first + lq_gpu_lane_of(shape, t); j < query.end;
                 j += shape->lanes) {
                float score = lq_gpu_scaled_score(tile, x[j]);
                largest = score > largest ? score : largest;
            }
        }
        best[t] = largest;
    }
    lq_gpu_max_lanes(best, shape->lanes);
}

LQ_DEVICE_FN static inline void lq_gpu_softmax_block(const struct lq_gpu_softmax *op, size_t block)
{
    LQ_GPU_SHARED float best[LQ_GPU_THREADS];
    LQ_GPU_SHARED double sums[LQ_GPU_THREADS];
    lq_gpu_score_max(&op->shape, &op->tile, op->scores, block, best);
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(&op->shape, block, t);
        uint32_t lane = lq_gpu_lane_of(&op->shape, t);
        double sum = 0.0;
        if (row < op->shape.rows) {
            struct lq_gpu_query query = lq_gpu_query_of(&op->tile, row, op->shape.cols);
            const float *x = op->scores + row * op->tile.stride;
            uint16_t *weights = op->weights + row * op->tile.stride;
            for (uint32_t j = lane; j < op->shape.cols; j += op->shape.lanes) {
                uint16_t weight = 0;
                if (j >= query.first && j < query.end) {
                    weight = lq_gpu_bf16_of(
                        lq_exp_f32(lq_gpu_scaled_score(&op->tile, x[j]) - best[t - lane]));
                    sum += (double)lq_gpu_float_of(weight);
                }
                weights[j] = weight;
            }
        }
        sums[t] = sum;
    }
    lq_gpu_sum_lanes(sums, op->shape.lanes);
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(&op->shape, block, t);
        if (row < op->shape.rows && lq_gpu_lane_of(&op->shape, t) == 0) {
            op->sums[row] = (float)sums[t];
        }
    }
}

/* sums[first of each group] = the sum of exponentials of its row, means[...] = out . out_grad. */
LQ_DEVICE_FN static inline void lq_gpu_measure_row(const struct lq_gpu_spread *op, size_t block,
                                                   const float *best, double *sums, double *means)
{
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(&op->shape, block, t);
        uint32_t lane = lq_gpu_lane_of(&op->shape, t);
        double sum = 0.0;
        double mean = 0.0;
        if (row < op->shape.rows) {
            struct lq_gpu_query query = lq_gpu_query_of(&op->tile, row, op->shape.cols);
            const float *x = op->scores + row * op->tile.stride;
            for (uint32_t j = query.first + lane; j < query.end; j += op->shape.lanes) {
                sum += (double)lq_exp_f32(lq_gpu_scaled_score(&op->tile, x[j]) - best[t - lane]);
            }
            size_t place = lq_gpu_place_of_query(&op->tile, &query);
            for (uint32_t d = lane; d < op->tile.heads.head_dim; d += op->shape.lanes) {
                mean += (double)op->out[place + d] * (double)op->out_grad[place + d];
            }
        }
        sums[t] = sum;
        means[t] = mean;
    }
    lq_gpu_sum_lanes(sums, op->shape.lanes);
    lq_gpu_sum_lanes(means, op->shape.lanes);
}

/* With weights w, their gradients g and m the mean of g under w, the gradient of a score is
 * w (g - m); a cap's slope is 1 - (score / cap)^2. */
LQ_DEVICE_FN static inline void lq_gpu_spread_block(const struct lq_gpu_spread *op, size_t block)
{
    LQ_GPU_SHARED float best[LQ_GPU_THREADS];
    LQ_GPU_SHARED double sums[LQ_GPU_THREADS];
    LQ_GPU_SHARED double means[LQ_GPU_THREADS];
    lq_gpu_score_max(&op->shape, &op->tile, op->scores, block, best);
    lq_gpu_measure_row(op, block, best, sums, means);
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(&op->shape, block, t);
        uint32_t lane = lq_gpu_lane_of(&op->shape, t);
        if (row >= op->shape.rows) {
            continue;
        }
        struct lq_gpu_query query = lq_gpu_query_of(&op->tile, row, op->shape.cols);
        float factor = (float)(1.0 / sums[t - lane]);
        float mean = (float)means[t - lane];
        size_t at = row * op->tile.stride;
        for (uint32_t j = lane; j < op->shape.cols; j += op->shape.lanes) {
            float weight = 0.0f;
            float slope = 0.0f;
            if (j >= query.first && j < query.end) {
                float score = lq_gpu_scaled_score(&op->tile, op->scores[at + j]);
                weight = lq_exp_f32(score - best[t - lane]) * factor;
                slope = weight * (op->weight_grads[at + j] - mean) * op->tile.scale;
                if (op->tile.cap != 0.0f) {
                    float ratio = score / op->tile.cap;
                    slope *= 1.0f - ratio * ratio;
                }
            }
            op->weights[at + j] = lq_gpu_bf16_of(weight);
            op->slopes[at + j] = lq_gpu_bf16_of(slope);
        }
    }
}

LQ_DEVICE_FN static inline void lq_gpu_join_block(const struct lq_gpu_join *op, size_t block)
{
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(&op->shape, block, t);
        if (row >= op->shape.rows) {
            continue;
        }
        struct lq_gpu_query query = lq_gpu_query_of(&op->tile, row, 0);
        size_t place = lq_gpu_place_of_query(&op->tile, &query);
        uint32_t row_elems =
            op->tile.heads.kv_head_count * op->tile.heads.group * op->tile.heads.head_dim;
        float factor = op->sums == NULL ? 1.0f : 1.0f / op->sums[row];
        const float *x = op->x + row * op->shape.cols;
        for (uint32_t d = lq_gpu_lane_of(&op->shape, t); d < op->shape.cols; d += op->shape.lanes) {
            float value = x[d] * factor;
            op->to[place + d] = value;
            lq_gpu_leave_twin(&op->twin, place / row_elems, (uint32_t)(place % row_elems) + d,
                              value);
        }
    }
}

#endif
