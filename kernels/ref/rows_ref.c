#include "kernels/ref/rows_ref.h"

#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"

LQ_DEVICE_FN size_t lq_find_nonfinite_ref(const float *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        if ((bits & 0x7f800000u) == 0x7f800000u) {
            return i;
        }
    }
    return count;
}

LQ_DEVICE_FN void lq_add_squares_ref(const float *rows, size_t row_count, size_t col_count,
                                     float *sums)
{
    for (size_t i = 0; i < row_count; i++) {
        const float *row = rows + i * col_count;
        for (size_t j = 0; j < col_count; j++) {
            sums[j] += row[j] * row[j];
        }
    }
}

LQ_DEVICE_FN void lq_decode_f32_ref(const void *blocks, float *out, size_t elem_count)
{
    memcpy(out, blocks, elem_count * sizeof *out);
}

LQ_DEVICE_FN void lq_decode_f16_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i++) {
        uint16_t half;
        memcpy(&half, in + 2 * i, sizeof half);
        out[i] = lq_f16_to_f32(half);
    }
}

LQ_DEVICE_FN void lq_decode_bf16_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i++) {
        uint16_t bits;
        memcpy(&bits, in + 2 * i, sizeof bits);
        out[i] = lq_bf16_to_f32(bits);
    }
}

LQ_DEVICE_FN void lq_encode_f32_ref(const float *row, void *blocks, size_t col_count,
                                    const float *importance)
{
    (void)importance;
    memcpy(blocks, row, col_count * sizeof *row);
}

LQ_DEVICE_FN void lq_encode_f16_ref(const float *row, void *blocks, size_t col_count,
                                    const float *importance)
{
    (void)importance;
    unsigned char *out = (unsigned char *)blocks;
    for (size_t i = 0; i < col_count; i++) {
        uint16_t half = lq_f32_to_f16(row[i]);
        if ((half & 0x7fffu) == 0x7c00u) {
            half--; /* 65504, the largest finite half */
        }
        memcpy(out + 2 * i, &half, sizeof half);
    }
}

LQ_DEVICE_FN void lq_encode_bf16_ref(const float *row, void *blocks, size_t col_count,
                                     const float *importance)
{
    (void)importance;
    unsigned char *out = (unsigned char *)blocks;
    for (size_t i = 0; i < col_count; i++) {
        uint16_t bits = lq_f32_to_bf16(row[i]);
        if ((bits & 0x7fffu) == 0x7f80u) {
            bits--;
        }
        memcpy(out + 2 * i, &bits, sizeof bits);
    }
}
