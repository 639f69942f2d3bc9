#include "kernels/pack.h"

#include <math.h>
#include <string.h>

LQ_DEVICE_FN void lq_unpack_scales_q3_k(const unsigned char *in, int8_t scales[16])
{
    /* Low four bits: nibbles of the first eight bytes. High two: bit pairs of the last four. */
    for (unsigned j = 0; j < 16; j++) {
        int low = in[j % 8] >> (j / 8 * 4) & 15;
        int high = in[8 + j % 4] >> (j / 4 * 2) & 3;
        scales[j] = (int8_t)((low | high << 4) - 32);
    }
}

LQ_DEVICE_FN void lq_pack_scales_q3_k(unsigned char *out, const int8_t scales[16])
{
    memset(out, 0, 12);
    for (unsigned j = 0; j < 16; j++) {
        unsigned code = (unsigned)(scales[j] + 32);
        out[j % 8] = (unsigned char)(out[j % 8] | (code & 15) << (j / 8 * 4));
        out[8 + j % 4] = (unsigned char)(out[8 + j % 4] | code >> 4 << (j / 4 * 2));
    }
}

LQ_DEVICE_FN void lq_unpack_scales_q4_k(const unsigned char *in, uint8_t scales[8], uint8_t mins[8])
{
    for (unsigned j = 0; j < 4; j++) {
        scales[j] = in[j] & 63;
        mins[j] = in[j + 4] & 63;
        scales[j + 4] = (uint8_t)((in[j + 8] & 15) | in[j] >> 6 << 4);
        mins[j + 4] = (uint8_t)(in[j + 8] >> 4 | in[j + 4] >> 6 << 4);
    }
}

LQ_DEVICE_FN void lq_pack_scales_q4_k(unsigned char *out, const uint8_t scales[8],
                                      const uint8_t mins[8])
{
    for (unsigned j = 0; j < 4; j++) {
        out[j] = (unsigned char)(scales[j] | scales[j + 4] >> 4 << 6);
        out[j + 4] = (unsigned char)(mins[j] | mins[j + 4] >> 4 << 6);
        out[j + 8] = (unsigned char)((scales[j + 4] & 15) | mins[j + 4] << 4);
    }
}

LQ_DEVICE_FN unsigned lq_even_signs(unsigned seven)
{
    unsigned parity = seven ^ seven >> 4;
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    return seven | (parity & 1u) << 7;
}

LQ_DEVICE_FN float lq_ue4m3_value(unsigned char code)
{
    int exponent = code >> 3 & 15;
    int mantissa = code & 7;
    if (code == 0x7f) {
        return 0.0f;
    }
    return exponent == 0 ? ldexpf((float)mantissa, -9)
                         : ldexpf((float)(8 + mantissa), exponent - 10);
}
