/* The exponential of activations and softmax, for the row loops of the CPU and the operations of
 * GPUs: C that is also CUDA C++ (kernels/device_fn.h), without fused multiply-add, so that all give
 * the same bits. Thread rule: pure. */
#ifndef LQ_KERNELS_EXP_INLINE_H
#define LQ_KERNELS_EXP_INLINE_H

#include <stdint.h>
#include <string.h>

#include "kernels/device_fn.h"

/* exp(x) for x in [-87, 88], relative error below 2.5e-7; outside, the value at the nearer end, so
 * that the result is never zero, denormal or infinite. NaN stays NaN. x = n ln 2 + r with
 * |r| <= ln 2 / 2 (ln 2 in two parts, the first with 9 trailing zero bits: Cody and Waite, Software
 * Manual for the Elementary Functions, 1980), then Taylor's series to the 7th power, whose
 * remainder is below 6e-9. Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits. */
LQ_DEVICE_FN static inline float lq_exp_f32(float x)
{
    const float round_constant = 12582912.0f;
    float low = x < -87.0f ? -87.0f : x;
    float y = low > 88.0f ? 88.0f : low;
    float shifted = y * 1.44269504f + round_constant;
    float n = shifted - round_constant;
    float r = (y - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = (p * r) * r + r;
    p = p + 1.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 23) + 0x3f800000u;
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

#endif
