/* Loops over rows of floats behind the CPU device: exponentials, norms, sums, and what
 * their gradients need. One source, compiled
 * once per CPU level, without fused multiply-add, and with sums in fixed lanes, so every level
 * gives the same bits. Thread rule: pure functions. Limits: none. */
#ifndef LQ_KERNELS_DEVICE_ROWS_H
#define LQ_KERNELS_DEVICE_ROWS_H

#include <stddef.h>

struct lq_device_rows {
    /* The largest value; NaN values are passed over. `count` is at least 1. */
    float (*max)(const float *x, size_t count);
    /* x[i] = exp(x[i] * scale - max); returns their sum. */
    float (*exp_scaled)(float *x, size_t count, float scale, float max);
    /* The sum of exp(x[i] - max), exponentials in float, sum in double. */
    double (*exp_sum)(const float *x, size_t count, float max);
    /* The sum of squares in double. */
    double (*sum_squares)(const float *x, size_t count);
    /* out = x * scale * weight, in this order; out may be x. */
    void (*scale_weighted)(const float *x, const float *weight, float *out, size_t count,
                           float scale);
    /* x *= scale. */
    void (*scale)(float *x, size_t count, float scale);
    /* gate = gate / (1 + exp(-gate)) * up. */
    void (*silu_mul)(float *gate, const float *up, size_t count);
    /* gate = gate / (1 + exp(-2 c (gate + 0.044715 gate^3))) * up, c = sqrt(2 / pi): gelu by tanh.
     */
    void (*gelu_mul)(float *gate, const float *up, size_t count);
    /* x = cap * tanh(x * scale / cap). */
    void (*soft_cap)(float *x, size_t count, float scale, float cap);
    /* out = x rounded to whole multiples of its largest magnitude / 127, halves to even; out may be
     * x. */
    void (*round_levels)(const float *x, float *out, size_t count);
    /* sums[j] += x[r * stride + j]^2 for every row r in order. */
    void (*add_squares)(const float *x, size_t rows, size_t cols, size_t stride, double *sums);
    /* x += y. */
    void (*add)(float *x, const float *y, size_t count);
    /* (x, y) = (x[2i], x[2i+1]), or (x[i], x[i + count]), becomes (x cos - y sin, x sin + y cos)
     * with cos = table[2i], sin = table[2i+1]. */
    void (*rotate_pairs)(float *x, const float *table, size_t count);
    void (*rotate_halves)(float *x, const float *table, size_t count);
    /* The sum of x * y * w in double; w NULL stands for ones. */
    double (*dot)(const float *x, const float *y, const float *w, size_t count);
    /* out = y * w * scale - x * factor; out may be y. */
    void (*norm_back)(const float *x, const float *y, const float *w, float *out, size_t count,
                      float scale, float factor);
    /* slope = weight * (slope - mean) * scale: from gradients of softmax weights to those of scores
     * before they were scaled. */
    void (*softmax_back)(const float *weight, float *slope, size_t count, float mean, float scale);
    /* gate and up become their gradients. */
    void (*silu_mul_back)(float *gate, float *up, const float *out_grad, size_t count);
    void (*gelu_mul_back)(float *gate, float *up, const float *out_grad, size_t count);
    /* slope *= 1 - (capped / cap)^2: from gradients of what soft_cap gave to those of what it took,
     * but for the scale. */
    void (*soft_cap_back)(const float *capped, float *slope, size_t count, float cap);
    /* sums[j] += |g w|, scores[j] += |g w|; scores may be NULL. */
    void (*add_scores)(const float *grad, const float *weight, size_t count, double *sums,
                       float *scores);
    /* sums[j] += g^2, scores[j] += (g w)^2; scores may be NULL. */
    void (*add_square_scores)(const float *grad, const float *weight, size_t count, double *sums,
                              float *scores);
};

/* The table for the CPU level that lq_kernels() chose. */
const struct lq_device_rows *lq_device_rows(void);

extern const struct lq_device_rows lq_device_rows_ref;
extern const struct lq_device_rows lq_device_rows_avx2;
extern const struct lq_device_rows lq_device_rows_avx512;

#endif
