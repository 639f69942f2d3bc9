#include "kernels/ref/decode_book_ref.h"

#include <math.h>

#include "kernels/bytes.h"
#include "kernels/pack.h"
#include "kernels/tables/grids.h"

LQ_DEVICE_FN void lq_decode_iq4_nl_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i += 32, in += 18) {
        float d = lq_load_f16(in);
        for (size_t j = 0; j < 16; j++) {
            out[i + j] = d * (float)lq_levels_iq4[in[2 + j] & 15];
            out[i + j + 16] = d * (float)lq_levels_iq4[in[2 + j] >> 4];
        }
    }
}

LQ_DEVICE_FN void lq_decode_iq4_xs_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 136) {
        float d = lq_load_f16(in);
        unsigned scales_high = lq_load_u16(in + 2);
        for (size_t j = 0; j < 256; j++) {
            size_t p = j / 32;
            unsigned low = (unsigned)in[4 + p / 2] >> (p % 2 * 4) & 15u;
            int scale = (int)(low | (scales_high >> (2 * p) & 3u) << 4) - 32;
            /* 32 values in 16 bytes, the first half in the low nibbles. */
            unsigned q = (unsigned)in[8 + p * 16 + j % 16] >> (j % 32 / 16 * 4) & 15u;
            out[i + j] = d * (float)scale * (float)lq_levels_iq4[q];
        }
    }
}

/* -1 where bit k of the sign byte is set. */
LQ_DEVICE_FN static float sign_of(unsigned signs, size_t k)
{
    return signs >> k & 1u ? -1.0f : 1.0f;
}

/* Eight values of a grid of eight coordinates. */
LQ_DEVICE_FN static void put_grid8(float *out, float scale, uint16_t point, unsigned signs)
{
    for (size_t k = 0; k < 8; k++) {
        float level = (float)lq_levels_iq2[(unsigned)point >> (2 * k) & 3u];
        out[k] = scale * level * sign_of(signs, k);
    }
}

LQ_DEVICE_FN void lq_decode_iq2_xxs_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 66) {
        float d = lq_load_f16(in);
        for (size_t g = 0; g < 32; g++) {
            const unsigned char *part = in + 2 + g / 4 * 8;
            uint32_t word = lq_load_u32(part + 4);
            float scale = d * (0.5f + (float)(word >> 28)) * 0.25f;
            unsigned signs = lq_even_signs(word >> (7 * (g % 4)) & 127u);
            put_grid8(out + i + 8 * g, scale, lq_grid_iq2xxs[part[g % 4]], signs);
        }
    }
}

LQ_DEVICE_FN void lq_decode_iq2_xs_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 74) {
        float d = lq_load_f16(in);
        for (size_t g = 0; g < 32; g++) {
            unsigned code = lq_load_u16(in + 2 + 2 * g);
            unsigned nibble = (unsigned)in[66 + g / 4] >> (g / 2 % 2 * 4) & 15u;
            float scale = d * (0.5f + (float)nibble) * 0.25f;
            put_grid8(out + i + 8 * g, scale, lq_grid_iq2xs[code & 511u], lq_even_signs(code >> 9));
        }
    }
}

LQ_DEVICE_FN void lq_decode_iq2_s_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 82) {
        float d = lq_load_f16(in);
        for (size_t g = 0; g < 32; g++) {
            unsigned high = (unsigned)in[66 + g / 4] >> (g % 4 * 2) & 3u;
            unsigned nibble = (unsigned)in[74 + g / 4] >> (g / 2 % 2 * 4) & 15u;
            float scale = d * (0.5f + (float)nibble) * 0.25f;
            put_grid8(out + i + 8 * g, scale, lq_grid_iq2s[in[2 + g] | high << 8], in[34 + g]);
        }
    }
}

LQ_DEVICE_FN void lq_decode_iq3_xxs_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 98) {
        float d = lq_load_f16(in);
        for (size_t j = 0; j < 256; j++) {
            uint32_t word = lq_load_u32(in + 66 + j / 32 * 4);
            float scale = d * (0.5f + (float)(word >> 28)) * 0.5f;
            unsigned signs = lq_even_signs(word >> (7 * (j / 8 % 4)) & 127u);
            unsigned digit = (unsigned)lq_grid_iq3xxs[in[2 + j / 4]] >> (3 * (j % 4)) & 7u;
            out[i + j] = scale * (float)lq_levels_iq3xxs[digit] * sign_of(signs, j % 8);
        }
    }
}

LQ_DEVICE_FN void lq_decode_iq3_s_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 110) {
        float d = lq_load_f16(in);
        for (size_t j = 0; j < 256; j++) {
            unsigned nibble = (unsigned)in[106 + j / 64] >> (j / 32 % 2 * 4) & 15u;
            float scale = d * (float)(1 + 2 * nibble);
            unsigned index = in[2 + j / 4] | ((unsigned)in[66 + j / 32] >> (j / 4 % 8) & 1u) << 8;
            unsigned digit = (unsigned)lq_grid_iq3s[index] >> (3 * (j % 4)) & 7u;
            out[i + j] = scale * (float)(1 + 2 * digit) * sign_of(in[74 + j / 8], j % 8);
        }
    }
}

LQ_DEVICE_FN static void put_grid_ternary(float *out, float scale, uint16_t point, float shift)
{
    for (size_t k = 0; k < 8; k++) {
        out[k] = scale * ((float)(int)((unsigned)point >> (2 * k) & 3u) - 1.0f + shift);
    }
}

LQ_DEVICE_FN void lq_decode_iq1_s_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 50) {
        float d = lq_load_f16(in);
        for (size_t g = 0; g < 32; g++) {
            unsigned head = lq_load_u16(in + 34 + g / 4 * 2);
            float scale = d * (float)(2 * (head >> 12 & 7u) + 1);
            unsigned index = in[2 + g] | (head >> (3 * (g % 4)) & 7u) << 8;
            put_grid_ternary(out + i + 8 * g, scale, lq_grid_iq1s[index],
                             head & 0x8000u ? -0.125f : 0.125f);
        }
    }
}

LQ_DEVICE_FN void lq_decode_iq1_m_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 56) {
        uint16_t bits = 0;
        for (size_t k = 0; k < 4; k++) {
            bits = (uint16_t)(bits | lq_load_u16(in + 48 + 2 * k) >> 12 << (4 * k));
        }
        float d = lq_f16_to_f32(bits);
        for (size_t g = 0; g < 32; g++) {
            unsigned scales = lq_load_u16(in + 48 + g / 8 * 2);
            float scale = d * (float)(2 * (scales >> (3 * (g / 2 % 4)) & 7u) + 1);
            unsigned high = (unsigned)in[32 + g / 2] >> (g % 2 * 4) & 15u;
            put_grid_ternary(out + i + 8 * g, scale, lq_grid_iq1s[in[g] | (high & 7u) << 8],
                             high & 8u ? -0.125f : 0.125f);
        }
    }
}

LQ_DEVICE_FN void lq_decode_mxfp4_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i += 32, in += 17) {
        /* The exponent's bias is 127; one more because the levels are doubled. */
        float d = ldexpf(1.0f, in[0] - 128);
        for (size_t j = 0; j < 16; j++) {
            out[i + j] = d * (float)lq_levels_fp4[in[1 + j] & 15];
            out[i + j + 16] = d * (float)lq_levels_fp4[in[1 + j] >> 4];
        }
    }
}

LQ_DEVICE_FN void lq_decode_nvfp4_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i += 64, in += 36) {
        for (size_t p = 0; p < 4; p++) {
            float d = lq_ue4m3_value(in[p]) * 0.5f;
            for (size_t j = 0; j < 8; j++) {
                unsigned char byte = in[4 + 8 * p + j];
                out[i + 16 * p + j] = d * (float)lq_levels_fp4[byte & 15];
                out[i + 16 * p + j + 8] = d * (float)lq_levels_fp4[byte >> 4];
            }
        }
    }
}

/* Digit n of a byte that holds a base-3 fraction in 256ths. */
LQ_DEVICE_FN static float trit_of(unsigned char byte, size_t n)
{
    static const uint8_t powers[5] = {1, 3, 9, 27, 81};
    uint8_t shifted = (uint8_t)(byte * powers[n]);
    return (float)((shifted * 3) >> 8) - 1.0f;
}

LQ_DEVICE_FN void lq_decode_tq1_0_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 54) {
        float d = lq_load_f16(in + 52);
        for (size_t j = 0; j < 160; j++) {
            out[i + j] = trit_of(in[j % 32], j / 32) * d;
        }
        for (size_t j = 0; j < 80; j++) {
            out[i + 160 + j] = trit_of(in[32 + j % 16], j / 16) * d;
        }
        for (size_t j = 0; j < 16; j++) {
            out[i + 240 + j] = trit_of(in[48 + j % 4], j / 4) * d;
        }
    }
}

LQ_DEVICE_FN void lq_decode_tq2_0_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i += 256, in += 66) {
        float d = lq_load_f16(in + 64);
        for (size_t j = 0; j < 256; j++) {
            int q = in[j / 128 * 32 + j % 32] >> (j % 128 / 32 * 2) & 3;
            out[i + j] = (float)(q - 1) * d;
        }
    }
}

LQ_DEVICE_FN void lq_decode_q1_0_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i += 128, in += 18) {
        float d = lq_load_f16(in);
        for (size_t j = 0; j < 128; j++) {
            out[i + j] = in[2 + j / 8] >> (j % 8) & 1 ? d : -d;
        }
    }
}

LQ_DEVICE_FN void lq_decode_q2_0_ref(const void *blocks, float *out, size_t elem_count)
{
    const unsigned char *in = (const unsigned char *)blocks;
    for (size_t i = 0; i < elem_count; i += 64, in += 18) {
        float d = lq_load_f16(in);
        for (size_t j = 0; j < 64; j++) {
            out[i + j] = (float)((in[2 + j / 4] >> (j % 4 * 2) & 3) - 1) * d;
        }
    }
}
