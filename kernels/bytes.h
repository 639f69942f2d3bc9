/* Little-endian fields of blocks, by value. Internal to the kernels. Thread rule: pure. */
#ifndef LQ_KERNELS_BYTES_H
#define LQ_KERNELS_BYTES_H

#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"

LQ_DEVICE_FN static inline uint16_t lq_load_u16(const unsigned char *in)
{
    return (uint16_t)(in[0] | in[1] << 8);
}

LQ_DEVICE_FN static inline uint32_t lq_load_u32(const unsigned char *in)
{
    return lq_load_u16(in) | (uint32_t)lq_load_u16(in + 2) << 16;
}

LQ_DEVICE_FN static inline float lq_load_f16(const unsigned char *in)
{
    return lq_f16_to_f32(lq_load_u16(in));
}

LQ_DEVICE_FN static inline void lq_store_u16(unsigned char *out, uint16_t value)
{
    out[0] = (unsigned char)value;
    out[1] = (unsigned char)(value >> 8);
}

LQ_DEVICE_FN static inline void lq_store_u32(unsigned char *out, uint32_t value)
{
    lq_store_u16(out, (uint16_t)value);
    lq_store_u16(out + 2, (uint16_t)(value >> 16));
}

#endif
