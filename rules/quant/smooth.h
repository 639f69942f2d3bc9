/* The arithmetic of SmoothQuant (Xiao and others, arXiv 2211.10438): a column of activations that
 * is large is divided by a scale, and the same column of the weights behind it multiplied by it, so
 * that the product stays and both are easier to round to 8 bits. The division goes into the norm in
 * front. Thread rule: pure. */
#ifndef LQ_RULES_QUANT_SMOOTH_H
#define LQ_RULES_QUANT_SMOOTH_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "kernels/dtype.h"

/* scales[j] is about inputs[j]^alpha / weights[j]^(1 - alpha) (equation 4; `inputs` and `weights`
 * are the largest magnitudes of column j), at least 1e-5, and such that norm[j] / scales[j] is a
 * number of the norm's type: what the norm is replaced by (`smoothed`) loses nothing. A column that
 * is zero anywhere keeps the scale 1. `dtype` is F32, F16 or BF16. LQ_ESMOOTH when a scale is not
 * finite; `name` is that of the norm. */
enum lq_status lq_smooth_scales(double alpha, const float *inputs, const float *weights,
                                const float *norm, enum lq_dtype dtype, size_t count,
                                const char *name, float *scales, float *smoothed,
                                struct lq_error *err);
/* Rounds a row of weights, times `scales` (NULL: 1), to whole numbers from -127 to 127; returns
 * what these are to be multiplied by, 1 for a row of zeros. `error` and `square` grow by the
 * squared error and the squares of the row. */
float lq_smooth_round_row(const float *row, const float *scales, size_t count, int8_t *out,
                          double *error, double *square);
/* The noise that rounding an input to 8 bits adds, relative to its mean square, where each row is
 * scaled by its largest magnitude and that is nowhere above `largest`. */
double lq_smooth_noise(double largest, double mean_square);

#endif
