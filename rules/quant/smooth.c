#include "rules/quant/smooth.h"

#include <inttypes.h>
#include <math.h>

#include "kernels/kernels.h"

#define SCALE_MIN 1e-5
enum { LEVEL_MAX = 127 };

/* The nearest value that the type has. */
static float round_to(float value, enum lq_dtype dtype)
{
    if (dtype == LQ_DTYPE_F16) {
        return lq_f16_to_f32(lq_f32_to_f16(value));
    }
    return dtype == LQ_DTYPE_BF16 ? lq_bf16_to_f32(lq_f32_to_bf16(value)) : value;
}

enum lq_status lq_smooth_scales(double alpha, const float *inputs, const float *weights,
                                const float *norm, enum lq_dtype dtype, size_t count,
                                const char *name, float *scales, float *smoothed,
                                struct lq_error *err)
{
    for (size_t j = 0; j < count; j++) {
        scales[j] = 1.0F;
        smoothed[j] = norm[j];
        double size = (double)inputs[j];
        double weight = (double)weights[j];
        bool is_finite = isfinite(size) && isfinite(weight) && isfinite(norm[j]);
        if (is_finite && !(size > 0.0 && weight > 0.0 && norm[j] != 0.0F)) {
            continue;
        }
        double scale = fmax(pow(size, alpha) / pow(weight, 1.0 - alpha), SCALE_MIN);
        float divided = round_to((float)((double)norm[j] / scale), dtype);
        if (!is_finite || !isfinite(scale) || !isfinite(divided)) {
            return lq_error_set(err, LQ_ESMOOTH,
                                "channel %zu behind '%s' has no finite scale (activations up to "
                                "%g, weights up to %g, norm %g); another alpha may have one",
                                j, name, size, weight, (double)norm[j]);
        }
        if (divided != 0.0F) {
            scales[j] = norm[j] / divided;
            smoothed[j] = divided;
        }
    }
    return LQ_OK;
}

float lq_smooth_round_row(const float *row, const float *scales, size_t count, int8_t *out,
                          double *error, double *square)
{
    float largest = 0.0F;
    for (size_t j = 0; j < count; j++) {
        float value = fabsf(scales == NULL ? row[j] : row[j] * scales[j]);
        largest = value > largest ? value : largest;
    }
    float scale = largest / (float)LEVEL_MAX;
    scale = scale > 0.0F ? scale : 1.0F;
    for (size_t j = 0; j < count; j++) {
        float value = scales == NULL ? row[j] : row[j] * scales[j];
        float level = rintf(value / scale);
        level = fminf(fmaxf(level, -(float)LEVEL_MAX), (float)LEVEL_MAX);
        out[j] = (int8_t)level;
        double difference = (double)value - (double)level * (double)scale;
        *error += difference * difference;
        *square += (double)value * (double)value;
    }
    return scale;
}

double lq_smooth_noise(double largest, double mean_square)
{
    double step = largest / LEVEL_MAX;
    return mean_square > 0.0 ? step * step / 12.0 / mean_square : 0.0;
}
