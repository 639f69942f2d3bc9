#include "kernels/ref/decode_ref.h"

#include "kernels/bytes.h"
#include "kernels/pack.h"

LQ_DEVICE_FN void lq_decode_q4_0_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i += 32, in += 18) {
        float d = lq_load_f16(in);
        for (size_t j = 0; j < 16; j++) {
            out[i + j] = (float)((in[2 + j] & 15) - 8) * d;
            out[i + j + 16] = (float)((in[2 + j] >> 4) - 8) * d;
        }
    }
}

LQ_DEVICE_FN void lq_decode_q4_1_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i += 32, in += 20) {
        float d = lq_load_f16(in);
        float m = lq_load_f16(in + 2);
        for (size_t j = 0; j < 16; j++) {
            out[i + j] = (float)(in[4 + j] & 15) * d + m;
            out[i + j + 16] = (float)(in[4 + j] >> 4) * d + m;
        }
    }
}

LQ_DEVICE_FN void lq_decode_q5_0_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i += 32, in += 22) {
        float d = lq_load_f16(in);
        uint32_t high = lq_load_u32(in + 2);
        for (size_t j = 0; j < 16; j++) {
            int low_q = (in[6 + j] & 15) | (int)((high >> j & 1) << 4);
            int high_q = (in[6 + j] >> 4) | (int)((high >> (j + 16) & 1) << 4);
            out[i + j] = (float)(low_q - 16) * d;
            out[i + j + 16] = (float)(high_q - 16) * d;
        }
    }
}

LQ_DEVICE_FN void lq_decode_q5_1_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i += 32, in += 24) {
        float d = lq_load_f16(in);
        float m = lq_load_f16(in + 2);
        uint32_t high = lq_load_u32(in + 4);
        for (size_t j = 0; j < 16; j++) {
            int low_q = (in[8 + j] & 15) | (int)((high >> j & 1) << 4);
            int high_q = (in[8 + j] >> 4) | (int)((high >> (j + 16) & 1) << 4);
            out[i + j] = (float)low_q * d + m;
            out[i + j + 16] = (float)high_q * d + m;
        }
    }
}

LQ_DEVICE_FN void lq_decode_q8_0_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i += 32, in += 34) {
        float d = lq_load_f16(in);
        for (size_t j = 0; j < 32; j++) {
            out[i + j] = (float)(int8_t)in[2 + j] * d;
        }
    }
}

LQ_DEVICE_FN void lq_decode_q2_k_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 84) {
        float d = lq_load_f16(in + 80);
        float dmin = lq_load_f16(in + 82);
        for (size_t j = 0; j < 256; j++) {
            unsigned scale = in[j / 16];
            /* 128 values lie in 32 bytes: the first 32 of them in the lowest bit pairs. */
            unsigned q = in[16 + j / 128 * 32 + j % 32] >> (j % 128 / 32 * 2) & 3;
            out[i + j] = d * (float)(scale & 15) * (float)q - dmin * (float)(scale >> 4);
        }
    }
}

LQ_DEVICE_FN void lq_decode_q3_k_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 110) {
        float d = lq_load_f16(in + 108);
        int8_t scales[16];
        lq_unpack_scales_q3_k(in + 96, scales);
        for (size_t j = 0; j < 256; j++) {
            int low = in[32 + j / 128 * 32 + j % 32] >> (j % 128 / 32 * 2) & 3;
            int high = in[j % 32] >> (j / 32) & 1;
            out[i + j] = d * (float)scales[j / 16] * (float)(low + 4 * high - 4);
        }
    }
}

LQ_DEVICE_FN void lq_decode_q4_k_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 144) {
        float d = lq_load_f16(in);
        float dmin = lq_load_f16(in + 2);
        uint8_t scales[8];
        uint8_t mins[8];
        lq_unpack_scales_q4_k(in + 4, scales, mins);
        for (size_t j = 0; j < 256; j++) {
            /* Two sub-blocks of 32 share 32 bytes, the first one the low nibbles. */
            unsigned q = in[16 + j / 64 * 32 + j % 32] >> (j / 32 % 2 * 4) & 15;
            out[i + j] = d * (float)scales[j / 32] * (float)q - dmin * (float)mins[j / 32];
        }
    }
}

LQ_DEVICE_FN void lq_decode_q5_k_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 176) {
        float d = lq_load_f16(in);
        float dmin = lq_load_f16(in + 2);
        uint8_t scales[8];
        uint8_t mins[8];
        lq_unpack_scales_q4_k(in + 4, scales, mins);
        for (size_t j = 0; j < 256; j++) {
            unsigned low = (unsigned)in[48 + j / 64 * 32 + j % 32] >> (j / 32 % 2 * 4) & 15u;
            unsigned q = low | ((unsigned)in[16 + j % 32] >> (j / 32) & 1u) << 4;
            out[i + j] = d * (float)scales[j / 32] * (float)q - dmin * (float)mins[j / 32];
        }
    }
}

LQ_DEVICE_FN void lq_decode_q6_k_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 210) {
        float d = lq_load_f16(in + 208);
        for (size_t j = 0; j < 256; j++) {
            size_t half = j / 128;
            size_t quarter = j % 128 / 32;
            int low = in[half * 64 + quarter % 2 * 32 + j % 32] >> (quarter / 2 * 4) & 15;
            int high = in[128 + half * 32 + j % 32] >> (quarter * 2) & 3;
            int8_t scale = (int8_t)in[192 + j / 16];
            out[i + j] = d * (float)scale * (float)((low | high << 4) - 32);
        }
    }
}
