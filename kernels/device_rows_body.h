/* The body of every table in device_rows.h; included once by each file that compiles it for one CPU
 * level, after it has defined LQ_DEVICE_ROWS_TABLE as the name of its table. Lanes are arrays of
 * fixed length so that compilers may use vectors of any width without changing a sum's order.
 * Thread rule: pure functions. Limits: none. */
#ifndef LQ_KERNELS_DEVICE_ROWS_BODY_H
#define LQ_KERNELS_DEVICE_ROWS_BODY_H

#include <stddef.h>

#include "kernels/device_rows.h"
#include "kernels/exp_inline.h"

enum {
    LANES = 16,
    BLOCK = 256, /* values between two passes over them */
};

static float rows_max(const float *x, size_t count)
{
    float best[LANES];
    for (size_t l = 0; l < LANES; l++) {
        best[l] = x[0];
    }
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (size_t l = 0; l < LANES; l++) {
            best[l] = x[i + l] > best[l] ? x[i + l] : best[l];
        }
    }
    float result = best[0];
    for (size_t l = 1; l < LANES; l++) {
        result = best[l] > result ? best[l] : result;
    }
    for (; i < count; i++) {
        result = x[i] > result ? x[i] : result;
    }
    return result;
}

static float rows_exp_scaled(float *x, size_t count, float scale, float max)
{
    float sums[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (size_t l = 0; l < LANES; l++) {
            float e = lq_exp_f32(x[i + l] * scale - max);
            x[i + l] = e;
            sums[l] += e;
        }
    }
    for (; i < count; i++) {
        x[i] = lq_exp_f32(x[i] * scale - max);
        sums[i % LANES] += x[i];
    }
    float sum = 0.0f;
    for (size_t l = 0; l < LANES; l++) {
        sum += sums[l];
    }
    return sum;
}

static double sum_lanes(const double *sums)
{
    double sum = 0.0;
    for (size_t l = 0; l < LANES; l++) {
        sum += sums[l];
    }
    return sum;
}

static double rows_exp_sum(const float *x, size_t count, float max)
{
    double sums[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        float e[LANES];
        for (size_t l = 0; l < LANES; l++) {
            e[l] = lq_exp_f32(x[i + l] - max);
        }
        for (size_t l = 0; l < LANES; l++) {
            sums[l] += (double)e[l];
        }
    }
    for (; i < count; i++) {
        sums[i % LANES] += (double)lq_exp_f32(x[i] - max);
    }
    return sum_lanes(sums);
}

static double rows_sum_squares(const float *x, size_t count)
{
    double sums[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (size_t l = 0; l < LANES; l++) {
            sums[l] += (double)x[i + l] * (double)x[i + l];
        }
    }
    for (; i < count; i++) {
        sums[i % LANES] += (double)x[i] * (double)x[i];
    }
    return sum_lanes(sums);
}

static void rows_scale_weighted(const float *x, const float *weight, float *out, size_t count,
                                float scale)
{
    for (size_t i = 0; i < count; i++) {
        out[i] = x[i] * scale * weight[i];
    }
}

static void rows_scale(float *x, size_t count, float scale)
{
    for (size_t i = 0; i < count; i++) {
        x[i] *= scale;
    }
}

/* Exponentials come first, in a place of their own: else compilers divide by the largest of them
 * beforehand, wherever it is not wanted, and denormal quotients take a hundred cycles. */
static void rows_silu_mul(float *restrict gate, const float *restrict up, size_t count)
{
    float e[BLOCK];
    for (size_t i = 0; i < count; i += BLOCK) {
        size_t left = count - i < BLOCK ? count - i : BLOCK;
        for (size_t l = 0; l < left; l++) {
            e[l] = lq_exp_f32(-gate[i + l]);
        }
        for (size_t l = 0; l < left; l++) {
            gate[i + l] = gate[i + l] / (1.0f + e[l]) * up[i + l];
        }
    }
}

static void rows_gelu_mul(float *restrict gate, const float *restrict up, size_t count)
{
    const float twice_root = 1.5957691216057308f; /* 2 sqrt(2 / pi) */
    float e[BLOCK];
    for (size_t i = 0; i < count; i += BLOCK) {
        size_t left = count - i < BLOCK ? count - i : BLOCK;
        for (size_t l = 0; l < left; l++) {
            float x = gate[i + l];
            e[l] = lq_exp_f32(-(twice_root * (x + 0.044715f * x * x * x)));
        }
        for (size_t l = 0; l < left; l++) {
            gate[i + l] = gate[i + l] / (1.0f + e[l]) * up[i + l];
        }
    }
}

/* tanh by the exponential of a negative number, which neither overflows nor cancels much. */
static void rows_soft_cap(float *x, size_t count, float scale, float cap)
{
    float factor = scale / cap;
    for (size_t i = 0; i < count; i++) {
        float y = x[i] * factor;
        float size = y < 0.0f ? -y : y;
        float e = lq_exp_f32(-2.0f * size);
        float t = (1.0f - e) / (1.0f + e);
        x[i] = cap * (y < 0.0f ? -t : t);
    }
}

static void rows_add_squares(const float *restrict x, size_t rows, size_t cols, size_t stride,
                             double *restrict sums)
{
    for (size_t r = 0; r < rows; r++) {
        const float *row = x + r * stride;
        for (size_t j = 0; j < cols; j++) {
            sums[j] += (double)row[j] * (double)row[j];
        }
    }
}

static void rows_rotate_pairs(float *restrict x, const float *restrict table, size_t pair_count)
{
    for (size_t i = 0; i < pair_count; i++) {
        float cosine = table[2 * i];
        float sine = table[2 * i + 1];
        float first = x[2 * i];
        float second = x[2 * i + 1];
        x[2 * i] = first * cosine - second * sine;
        x[2 * i + 1] = first * sine + second * cosine;
    }
}

static void rows_rotate_halves(float *restrict x, const float *restrict table, size_t pair_count)
{
    for (size_t i = 0; i < pair_count; i++) {
        float cosine = table[2 * i];
        float sine = table[2 * i + 1];
        float first = x[i];
        float second = x[i + pair_count];
        x[i] = first * cosine - second * sine;
        x[i + pair_count] = first * sine + second * cosine;
    }
}

static void rows_add(float *restrict x, const float *restrict y, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        x[i] += y[i];
    }
}

static double rows_dot(const float *x, const float *y, const float *w, size_t count)
{
    double sums[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (size_t l = 0; l < LANES; l++) {
            float factor = w == NULL ? 1.0f : w[i + l];
            sums[l] += (double)x[i + l] * (double)y[i + l] * (double)factor;
        }
    }
    for (; i < count; i++) {
        sums[i % LANES] += (double)x[i] * (double)y[i] * (double)(w == NULL ? 1.0f : w[i]);
    }
    return sum_lanes(sums);
}

static void rows_norm_back(const float *x, const float *y, const float *w, float *out, size_t count,
                           float scale, float factor)
{
    for (size_t i = 0; i < count; i++) {
        out[i] = y[i] * w[i] * scale - x[i] * factor;
    }
}

static void rows_softmax_back(const float *restrict weight, float *restrict slope, size_t count,
                              float mean, float scale)
{
    for (size_t i = 0; i < count; i++) {
        slope[i] = weight[i] * (slope[i] - mean) * scale;
    }
}

static void rows_silu_mul_back(float *restrict gate, float *restrict up,
                               const float *restrict out_grad, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        float g = gate[i];
        float sigmoid = 1.0f / (1.0f + lq_exp_f32(-g));
        gate[i] = out_grad[i] * up[i] * sigmoid * (1.0f + g * (1.0f - sigmoid));
        up[i] = out_grad[i] * g * sigmoid;
    }
}

static void rows_gelu_mul_back(float *restrict gate, float *restrict up,
                               const float *restrict out_grad, size_t count)
{
    const float twice_root = 1.5957691216057308f; /* 2 sqrt(2 / pi), as in rows_gelu_mul */
    for (size_t i = 0; i < count; i++) {
        float x = gate[i];
        float square = 0.044715f * x * x;
        float sigmoid = 1.0f / (1.0f + lq_exp_f32(-(twice_root * (x + square * x))));
        float slope = twice_root * (1.0f + 3.0f * square);
        gate[i] = out_grad[i] * up[i] * sigmoid * (1.0f + x * (1.0f - sigmoid) * slope);
        up[i] = out_grad[i] * x * sigmoid;
    }
}

static void rows_soft_cap_back(const float *restrict capped, float *restrict slope, size_t count,
                               float cap)
{
    float factor = 1.0f / cap;
    for (size_t i = 0; i < count; i++) {
        float t = capped[i] * factor;
        slope[i] *= 1.0f - t * t;
    }
}

static void rows_add_scores(const float *restrict grad, const float *restrict weight, size_t count,
                            double *restrict sums, float *restrict scores)
{
    for (size_t i = 0; i < count; i++) {
        float score = grad[i] * weight[i];
        score = score < 0.0f ? -score : score;
        sums[i] += (double)score;
        if (scores != NULL) {
            scores[i] += score;
        }
    }
}

static void rows_add_square_scores(const float *restrict grad, const float *restrict weight,
                                   size_t count, double *restrict sums, float *restrict scores)
{
    for (size_t i = 0; i < count; i++) {
        sums[i] += (double)grad[i] * (double)grad[i];
        if (scores != NULL) {
            float score = grad[i] * weight[i];
            scores[i] += score * score;
        }
    }
}

/* 1.5 * 2^23: added to a float below 2^22 it leaves no room for a fraction, and addition rounds
 * halves to even. */
#define ROUNDER 12582912.0f

static void rows_round_levels(const float *x, float *out, size_t count)
{
    float best[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (size_t l = 0; l < LANES; l++) {
            float size = x[i + l] < 0.0f ? -x[i + l] : x[i + l];
            best[l] = size > best[l] ? size : best[l];
        }
    }
    float largest = 0.0f;
    for (size_t l = 0; l < LANES; l++) {
        largest = best[l] > largest ? best[l] : largest;
    }
    for (; i < count; i++) {
        float size = x[i] < 0.0f ? -x[i] : x[i];
        largest = size > largest ? size : largest;
    }
    float scale = largest / 127.0f;
    /* Zeros, and what is so small that nothing is left to round. */
    float divisor = scale > 0.0f ? scale : 1.0f;
    float factor = scale > 0.0f ? scale : 0.0f;
    for (i = 0; i < count; i++) {
        out[i] = ((x[i] / divisor + ROUNDER) - ROUNDER) * factor;
    }
}

const struct lq_device_rows LQ_DEVICE_ROWS_TABLE = {
    .max = rows_max,
    .exp_scaled = rows_exp_scaled,
    .exp_sum = rows_exp_sum,
    .sum_squares = rows_sum_squares,
    .scale_weighted = rows_scale_weighted,
    .scale = rows_scale,
    .silu_mul = rows_silu_mul,
    .gelu_mul = rows_gelu_mul,
    .soft_cap = rows_soft_cap,
    .round_levels = rows_round_levels,
    .add_squares = rows_add_squares,
    .add = rows_add,
    .rotate_pairs = rows_rotate_pairs,
    .rotate_halves = rows_rotate_halves,
    .dot = rows_dot,
    .norm_back = rows_norm_back,
    .softmax_back = rows_softmax_back,
    .silu_mul_back = rows_silu_mul_back,
    .gelu_mul_back = rows_gelu_mul_back,
    .soft_cap_back = rows_soft_cap_back,
    .add_scores = rows_add_scores,
    .add_square_scores = rows_add_square_scores,
};

#endif
