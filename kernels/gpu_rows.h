/* Operations of GPUs on rows of floats: elementwise, norms, rotation, sums of columns and losses.
 * Written as gpu_threads.h says; what they compute is in device.h, what they take in
 * gpu_operations.h. Precisions are those of the CPU's row loops. Internal to the kernels and their
 * modules. Thread rule: pure; different blocks write to different memory. */
#ifndef LQ_KERNELS_GPU_ROWS_H
#define LQ_KERNELS_GPU_ROWS_H

#include <math.h>
#include <string.h>

#include "kernels/device.h"
#include "kernels/exp_inline.h"
#include "kernels/gpu_operations.h"
#include "kernels/gpu_threads.h"

/* ---- places ---- */

/* Thread t of a block has this row of the shape, which may be beyond the last. */
LQ_DEVICE_FN static inline size_t lq_gpu_row_of(const struct lq_gpu_shape *shape, size_t block,
                                                unsigned t)
{
    return block * (LQ_GPU_THREADS / shape->lanes) + t / shape->lanes;
}

LQ_DEVICE_FN static inline uint32_t lq_gpu_lane_of(const struct lq_gpu_shape *shape, unsigned t)
{
    return t & (shape->lanes - 1);
}

/* To nearest even; a NaN stays one. */
LQ_DEVICE_FN static inline uint16_t lq_gpu_bf16_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)((bits >> 16) | 0x40u);
    }
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

LQ_DEVICE_FN static inline float lq_gpu_float_of(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

LQ_DEVICE_FN static inline void lq_gpu_leave_twin(const struct lq_gpu_twin *twin, size_t row,
                                                  uint32_t col, float value)
{
    if (twin->to != NULL) {
        twin->to[row * twin->stride + col] = lq_gpu_bf16_of(value);
    }
}

/* ---- single values ---- */

/* Calls body(op, i) for the values of a block. */
#define LQ_GPU_EACH_VALUE(op, block, i)                                                            \
    for (size_t i = (block)*LQ_GPU_BLOCK_ELEMS + t;                                                \
         i < ((block) + 1) * LQ_GPU_BLOCK_ELEMS && i < (op)->count; i += LQ_GPU_THREADS)

LQ_DEVICE_FN static inline void lq_gpu_add_block(const struct lq_gpu_add *op, size_t block)
{
    LQ_GPU_EACH_THREAD(t)
    {
        LQ_GPU_EACH_VALUE(op, block, i)
        {
            op->x[i] += op->y[i];
        }
    }
}

/* cap * tanh(x * factor), by the exponential of a negative number, which neither overflows nor
 * cancels much. */
LQ_DEVICE_FN static inline float lq_gpu_cap_value(float x, float factor, float cap)
{
    float y = x * factor;
    float e = lq_exp_f32(-2.0f * (y < 0.0f ? -y : y));
    float size = (1.0f - e) / (1.0f + e);
    return cap * (y < 0.0f ? -size : size);
}

LQ_DEVICE_FN static inline void lq_gpu_cap_block(const struct lq_gpu_cap *op, size_t block)
{
    float factor = 1.0f / op->cap;
    LQ_GPU_EACH_THREAD(t)
    {
        LQ_GPU_EACH_VALUE(op, block, i)
        {
            op->x[i] = lq_gpu_cap_value(op->x[i], factor, op->cap);
        }
    }
}

/* 2 sqrt(2 / pi): gelu by tanh is x * sigmoid of this times (x + 0.044715 x^3). */
#define LQ_GPU_GELU_FACTOR 1.5957691216057308f

LQ_DEVICE_FN static inline void lq_gpu_gate_block(const struct lq_gpu_gate *op, size_t block)
{
    LQ_GPU_EACH_THREAD(t)
    {
        LQ_GPU_EACH_VALUE(op, block, i)
        {
            float x = op->gate[i];
            float inner = op->gelu ? LQ_GPU_GELU_FACTOR * (x + 0.044715f * x * x * x) : x;
            float value = x / (1.0f + lq_exp_f32(-inner)) * op->up[i];
            op->gate[i] = value;
            if (op->twin != NULL) {
                op->twin[i] = lq_gpu_bf16_of(value);
            }
        }
    }
}

LQ_DEVICE_FN static inline void lq_gpu_gate_back_block(const struct lq_gpu_gate_back *op,
                                                       size_t block)
{
    LQ_GPU_EACH_THREAD(t)
    {
        LQ_GPU_EACH_VALUE(op, block, i)
        {
            float x = op->gate[i];
            float square = 0.044715f * x * x;
            float inner = op->gelu ? LQ_GPU_GELU_FACTOR * (x + square * x) : x;
            float slope = op->gelu ? LQ_GPU_GELU_FACTOR * (1.0f + 3.0f * square) : 1.0f;
            float sigmoid = 1.0f / (1.0f + lq_exp_f32(-inner));
            float out_grad = op->out_grad[i];
            op->gate[i] = out_grad * op->up[i] * sigmoid * (1.0f + x * (1.0f - sigmoid) * slope);
            op->up[i] = out_grad * x * sigmoid;
        }
    }
}

/* ---- rows ---- */

LQ_DEVICE_FN static inline void lq_gpu_round_block(const struct lq_gpu_round *op, size_t block)
{
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(&op->shape, block, t);
        if (row >= op->shape.rows) {
            continue;
        }
        const float *x = op->x + row * op->shape.cols;
        for (uint32_t j = lq_gpu_lane_of(&op->shape, t); j < op->shape.cols; j += op->shape.lanes) {
            lq_gpu_leave_twin(&op->twin, row, j, x[j]);
        }
    }
}

LQ_DEVICE_FN static inline void lq_gpu_bias_block(const struct lq_gpu_bias *op, size_t block)
{
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(&op->shape, block, t);
        if (row >= op->shape.rows) {
            continue;
        }
        float *x = op->x + row * op->shape.cols;
        for (uint32_t j = lq_gpu_lane_of(&op->shape, t); j < op->shape.cols; j += op->shape.lanes) {
            x[j] += op->bias[j];
        }
    }
}

LQ_DEVICE_FN static inline void lq_gpu_norm_block(const struct lq_gpu_norm *op, size_t block)
{
    LQ_GPU_SHARED double squares[LQ_GPU_THREADS];
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(&op->shape, block, t);
        const float *x = op->x + row * op->shape.cols;
        double sum = 0.0;
        for (uint32_t j = lq_gpu_lane_of(&op->shape, t); row < op->shape.rows && j < op->shape.cols;
             j += op->shape.lanes) {
            sum += (double)x[j] * (double)x[j];
        }
        squares[t] = sum;
    }
    lq_gpu_sum_lanes(squares, op->shape.lanes);
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(&op->shape, block, t);
        uint32_t lane = lq_gpu_lane_of(&op->shape, t);
        if (row >= op->shape.rows) {
            continue;
        }
        double mean = squares[t - lane] / (double)op->shape.cols;
        float scale = (float)(1.0 / sqrt(mean + (double)op->eps));
        const float *x = op->x + row * op->shape.cols;
        float *out = op->out + row * op->shape.cols;
        for (uint32_t j = lane; j < op->shape.cols; j += op->shape.lanes) {
            float value = x[j] * scale * op->weight[j];
            out[j] = value;
            lq_gpu_leave_twin(&op->twin, row, j, value);
        }
    }
}

/* With s = 1 / sqrt(mean(x^2) + eps), the gradient is s w g - x s^3 mean(x w g). */
LQ_DEVICE_FN static inline void lq_gpu_norm_back_block(const struct lq_gpu_norm_back *op,
                                                       size_t block)
{
    LQ_GPU_SHARED double squares[LQ_GPU_THREADS];
    LQ_GPU_SHARED double products[LQ_GPU_THREADS];
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(&op->shape, block, t);
        const float *x = op->x + row * op->shape.cols;
        const float *out_grad = op->out_grad + row * op->shape.cols;
        double square_sum = 0.0;
        double product_sum = 0.0;
        for (uint32_t j = lq_gpu_lane_of(&op->shape, t); row < op->shape.rows && j < op->shape.cols;
             j += op->shape.lanes) {
            square_sum += (double)x[j] * (double)x[j];
            product_sum += (double)x[j] * (double)out_grad[j] * (double)op->weight[j];
        }
        squares[t] = square_sum;
        products[t] = product_sum;
    }
    lq_gpu_sum_lanes(squares, op->shape.lanes);
    lq_gpu_sum_lanes(products, op->shape.lanes);
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(&op->shape, block, t);
        uint32_t lane = lq_gpu_lane_of(&op->shape, t);
        if (row >= op->shape.rows) {
            continue;
        }
        double cols = (double)op->shape.cols;
        double scale = 1.0 / sqrt(squares[t - lane] / cols + (double)op->eps);
        float factor = (float)(scale * scale * scale * products[t - lane] / cols);
        const float *x = op->x + row * op->shape.cols;
        const float *out_grad = op->out_grad + row * op->shape.cols;
        float *grad = op->grad + row * op->shape.cols;
        for (uint32_t j = lane; j < op->shape.cols; j += op->shape.lanes) {
            grad[j] = out_grad[j] * op->weight[j] * (float)scale - x[j] * factor;
        }
    }
}

LQ_DEVICE_FN static inline void lq_gpu_rope_block(const struct lq_gpu_rope *op, size_t block)
{
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(&op->shape, block, t);
        if (row >= op->shape.rows) {
            continue;
        }
        const float *table = op->table + row % op->sequence * op->pair_count * 2;
        float *heads = op->x + row * op->row_elems;
        for (uint32_t j = lq_gpu_lane_of(&op->shape, t); j < op->shape.cols; j += op->shape.lanes) {
            uint32_t pair = j % op->pair_count;
            float *head = heads + (size_t)(j / op->pair_count) * op->head_dim;
            float *x = head + (op->halves ? pair : 2 * pair);
            float *y = op->halves ? x + op->pair_count : x + 1;
            float cosine = table[2 * pair];
            float sine = table[2 * pair + 1];
            float first = *x;
            float second = *y;
            *x = first * cosine - second * sine;
            *y = first * sine + second * cosine;
        }
    }
}

/* ---- sums of columns ---- */

/* Blocks go through the columns first: thread t of a block has this column, which may be beyond
 * the last, of part `part`. */
LQ_DEVICE_FN static inline size_t lq_gpu_column_blocks(uint32_t cols)
{
    return (cols + LQ_GPU_THREADS - 1) / LQ_GPU_THREADS;
}

LQ_DEVICE_FN static inline size_t lq_gpu_part_end(size_t part, size_t rows)
{
    size_t end = (part + 1) * LQ_GPU_PART_ROWS;
    return end < rows ? end : rows;
}

LQ_DEVICE_FN static inline void lq_gpu_squares_block(const struct lq_gpu_squares *op, size_t block)
{
    size_t part = block / lq_gpu_column_blocks(op->cols);
    size_t first = block % lq_gpu_column_blocks(op->cols) * LQ_GPU_THREADS;
    size_t end = lq_gpu_part_end(part, op->rows);
    LQ_GPU_EACH_THREAD(t)
    {
        size_t col = first + t;
        double sum = 0.0;
        if (col >= op->cols) {
            continue;
        }
        for (size_t r = part * LQ_GPU_PART_ROWS; r < end; r++) {
            double x = (double)op->x[r * op->cols + col];
            sum += x * x;
        }
        op->parts[part * op->cols + col] = sum;
    }
}

LQ_DEVICE_FN static inline void lq_gpu_scores_block(const struct lq_gpu_scores *op, size_t block)
{
    size_t part = block / lq_gpu_column_blocks(op->cols);
    size_t first = block % lq_gpu_column_blocks(op->cols) * LQ_GPU_THREADS;
    size_t end = lq_gpu_part_end(part, op->rows);
    LQ_GPU_EACH_THREAD(t)
    {
        size_t col = first + t;
        double sum = 0.0;
        if (col >= op->cols) {
            continue;
        }
        for (size_t r = part * LQ_GPU_PART_ROWS; r < end; r++) {
            size_t at = r * op->cols + col;
            float grad = op->grad[at];
            float score = grad * op->weight[at];
            score = op->squares ? score * score : score < 0.0f ? -score : score;
            sum += op->squares ? (double)grad * (double)grad : (double)score;
            if (op->scores != NULL) {
                op->scores[at] += score;
            }
        }
        op->parts[part * op->cols + col] = sum;
    }
}

LQ_DEVICE_FN static inline void lq_gpu_columns_block(const struct lq_gpu_columns *op, size_t block)
{
    LQ_GPU_EACH_THREAD(t)
    {
        size_t col = block * LQ_GPU_THREADS + t;
        double sum = 0.0;
        if (col >= op->cols) {
            continue;
        }
        for (size_t p = 0; p < op->part_count; p++) {
            sum += op->parts[p * op->cols + col];
        }
        op->sums[col] += sum;
    }
}

/* ---- losses ---- */

/* best[first of each group] = the largest logit of its row. */
LQ_DEVICE_FN static inline void lq_gpu_row_max(const struct lq_gpu_shape *shape,
                                               const float *logits, size_t block, float *best)
{
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(shape, block, t);
        const float *x = logits + row * shape->cols;
        float largest = -INFINITY;
        for (uint32_t j = lq_gpu_lane_of(shape, t); row < shape->rows && j < shape->cols;
             j += shape->lanes) {
            largest = x[j] > largest ? x[j] : largest;
        }
        best[t] = largest;
    }
    lq_gpu_max_lanes(best, shape->lanes);
}

/* sums[first of each group] = the sum of exp(logit - best) of its row. */
LQ_DEVICE_FN static inline void lq_gpu_row_exp_sum(const struct lq_gpu_shape *shape,
                                                   const float *logits, size_t block,
                                                   const float *best, double *sums)
{
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(shape, block, t);
        uint32_t lane = lq_gpu_lane_of(shape, t);
        const float *x = logits + row * shape->cols;
        double sum = 0.0;
        for (uint32_t j = lane; row < shape->rows && j < shape->cols; j += shape->lanes) {
            sum += (double)lq_exp_f32(x[j] - best[t - lane]);
        }
        sums[t] = sum;
    }
    lq_gpu_sum_lanes(sums, shape->lanes);
}

LQ_DEVICE_FN static inline void lq_gpu_entropy_block(const struct lq_gpu_entropy *op, size_t block)
{
    LQ_GPU_SHARED float best[LQ_GPU_THREADS];
    LQ_GPU_SHARED double sums[LQ_GPU_THREADS];
    lq_gpu_row_max(&op->shape, op->logits, block, best);
    lq_gpu_row_exp_sum(&op->shape, op->logits, block, best, sums);
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(&op->shape, block, t);
        if (row < op->shape.rows && lq_gpu_lane_of(&op->shape, t) == 0) {
            float logit = op->logits[row * op->shape.cols + (size_t)op->targets[row]];
            op->nll[row] = log(sums[t]) - (double)(logit - best[t]);
        }
    }
}

LQ_DEVICE_FN static inline void lq_gpu_entropy_back_block(const struct lq_gpu_entropy_back *op,
                                                          size_t block)
{
    LQ_GPU_SHARED float best[LQ_GPU_THREADS];
    LQ_GPU_SHARED double sums[LQ_GPU_THREADS];
    lq_gpu_row_max(&op->shape, op->logits, block, best);
    lq_gpu_row_exp_sum(&op->shape, op->logits, block, best, sums);
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(&op->shape, block, t);
        uint32_t lane = lq_gpu_lane_of(&op->shape, t);
        if (row >= op->shape.rows) {
            continue;
        }
        int32_t target = op->targets[row];
        float *logits = op->logits + row * op->shape.cols;
        float factor = (float)((double)op->scale / sums[t - lane]);
        for (uint32_t j = lane; j < op->shape.cols; j += op->shape.lanes) {
            float logit = logits[j];
            float slope = lq_exp_f32(logit - best[t - lane]) * factor;
            if ((int64_t)j == (int64_t)target) {
                slope -= op->scale;
            }
            if (op->cap != 0.0f) {
                float ratio = logit * (1.0f / op->cap);
                slope *= 1.0f - ratio * ratio;
            }
            logits[j] = target < 0 ? 0.0f : slope;
        }
    }
}

/* places[first of each group] = the first column that has the value in `best`; all of them, when
 * none has. */
LQ_DEVICE_FN static inline void lq_gpu_row_place(const struct lq_gpu_shape *shape,
                                                 const float *logits, size_t block,
                                                 const float *best, uint32_t *places)
{
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(shape, block, t);
        uint32_t lane = lq_gpu_lane_of(shape, t);
        const float *x = logits + row * shape->cols;
        uint32_t place = shape->cols;
        for (uint32_t j = lane; row < shape->rows && place == shape->cols && j < shape->cols;
             j += shape->lanes) {
            place = x[j] == best[t - lane] ? j : place;
        }
        places[t] = place;
    }
    for (unsigned stride = shape->lanes / 2; stride > 0; stride /= 2) {
        LQ_GPU_EACH_THREAD(t)
        {
            if ((t & (shape->lanes - 1)) < stride && places[t + stride] < places[t]) {
                places[t] = places[t + stride];
            }
        }
    }
}

/* totals[first of each group] = the sum of e = exp(original - best), sums[...] = that of e times
 * the difference of both logits. */
LQ_DEVICE_FN static inline void lq_gpu_row_difference(const struct lq_gpu_difference *op,
                                                      size_t block, const float *best,
                                                      double *totals, double *sums)
{
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(&op->shape, block, t);
        uint32_t lane = lq_gpu_lane_of(&op->shape, t);
        const float *p = op->original + row * op->shape.cols;
        const float *q = op->logits + row * op->shape.cols;
        double total = 0.0;
        double sum = 0.0;
        for (uint32_t j = lane; row < op->shape.rows && j < op->shape.cols; j += op->shape.lanes) {
            float e = lq_exp_f32(p[j] - best[t - lane]);
            total += (double)e;
            sum += (double)e * (double)(p[j] - q[j]);
        }
        totals[t] = total;
        sums[t] = sum;
    }
    lq_gpu_sum_lanes(totals, op->shape.lanes);
    lq_gpu_sum_lanes(sums, op->shape.lanes);
}

/* With e and its sum t, sum p ln(p / q) = sum e (logit_p - logit_q) / t - (ln of both sums'
 * difference). */
LQ_DEVICE_FN static inline void lq_gpu_difference_block(const struct lq_gpu_difference *op,
                                                        size_t block)
{
    LQ_GPU_SHARED float best_p[LQ_GPU_THREADS];
    LQ_GPU_SHARED float best_q[LQ_GPU_THREADS];
    LQ_GPU_SHARED uint32_t place_p[LQ_GPU_THREADS];
    LQ_GPU_SHARED uint32_t place_q[LQ_GPU_THREADS];
    LQ_GPU_SHARED double totals_p[LQ_GPU_THREADS];
    LQ_GPU_SHARED double totals_q[LQ_GPU_THREADS];
    LQ_GPU_SHARED double sums[LQ_GPU_THREADS];
    lq_gpu_row_max(&op->shape, op->original, block, best_p);
    lq_gpu_row_max(&op->shape, op->logits, block, best_q);
    lq_gpu_row_place(&op->shape, op->original, block, best_p, place_p);
    lq_gpu_row_place(&op->shape, op->logits, block, best_q, place_q);
    lq_gpu_row_exp_sum(&op->shape, op->logits, block, best_q, totals_q);
    lq_gpu_row_difference(op, block, best_p, totals_p, sums);
    LQ_GPU_EACH_THREAD(t)
    {
        size_t row = lq_gpu_row_of(&op->shape, block, t);
        if (row >= op->shape.rows || lq_gpu_lane_of(&op->shape, t) != 0) {
            continue;
        }
        size_t target = row * op->shape.cols + (size_t)op->targets[row];
        double log_p = (double)best_p[t] + log(totals_p[t]);
        double log_q = (double)best_q[t] + log(totals_q[t]);
        struct lq_logits_difference *out = &op->out[row];
        out->kld = sums[t] / totals_p[t] - (log_p - log_q);
        out->nll = log_q - (double)op->logits[target];
        out->nll_original = log_p - (double)op->original[target];
        out->same_top = place_p[t] == place_q[t] ? 1.0 : 0.0;
    }
}

#endif
