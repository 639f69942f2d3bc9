/* One lane: plain floats. See kernels/lanes.h. */
#ifndef LQ_KERNELS_REF_LANES_REF_H
#define LQ_KERNELS_REF_LANES_REF_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/lane_inline.h"
#include "kernels/tables/books.h"

#define LANES 1
#define LANE_NAME(name) name##_ref

typedef float lane_f;
typedef bool lane_m;
typedef uint32_t lane_i;          /* whole numbers below 2^31, or bit fields */
typedef const float *lane_levels; /* eight floats to choose from */

LANE_INLINE lane_f lane_set(float value)
{
    return value;
}

LANE_INLINE lane_f lane_load(const float *in)
{
    return *in;
}

LANE_INLINE void lane_store(float *out, lane_f value)
{
    *out = value;
}

LANE_INLINE lane_f lane_min(lane_f a, lane_f b)
{
    return a < b ? a : b;
}

LANE_INLINE lane_f lane_max(lane_f a, lane_f b)
{
    return a > b ? a : b;
}

LANE_INLINE lane_f lane_abs(lane_f a)
{
    return fabsf(a);
}

LANE_INLINE lane_f lane_sqrt(lane_f a)
{
    return sqrtf(a);
}

/* Whole numbers of 0..255 as bytes. */
LANE_INLINE void lane_store_bytes(uint8_t *out, lane_f value)
{
    *out = (uint8_t)value;
}

LANE_INLINE lane_m lane_less(lane_f a, lane_f b)
{
    return a < b;
}

LANE_INLINE lane_m lane_and(lane_m a, lane_m b)
{
    return a && b;
}

/* Whether it is so in every lane. */
LANE_INLINE bool lane_all(lane_m mask)
{
    return mask;
}

LANE_INLINE lane_f lane_select(lane_m mask, lane_f yes, lane_f no)
{
    return mask ? yes : no;
}

/* `value` where the mask holds, else zero. */
LANE_INLINE lane_f lane_keep(lane_m mask, lane_f value)
{
    return mask ? value : 0.0f;
}

/* The leading power of two of a value that is not negative; zero below the smallest normal one. */
LANE_INLINE lane_f lane_power(lane_f a)
{
    uint32_t bits;
    memcpy(&bits, &a, sizeof bits);
    bits &= 0x7f800000u;
    memcpy(&a, &bits, sizeof a);
    return a;
}

/* To the nearest integer, ties to even, for magnitudes below 2^22: adding 1.5 * 2^23 leaves no
 * fraction bits. */
LANE_INLINE lane_f lane_round(lane_f a)
{
    return (a + 12582912.0f) - 12582912.0f;
}

/* To the nearest of 0, 1, 2, 3, 4, 6, 8, 12 with either sign, for magnitudes up to 12: from 2 on
 * that is one bit behind the first, which adding 1.5 * 2^22 times the leading power of two leaves.
 */
LANE_INLINE lane_f lane_round_fp4(lane_f a)
{
    float magnitude = lane_max(lane_abs(a), 2.0f);
    float power = magnitude < 4.0f ? 2.0f : magnitude < 8.0f ? 4.0f : 8.0f;
    float shift = power * 6291456.0f;
    return (a + shift) - shift;
}

/* The value of the unsigned 4-bit-exponent float with this code, 0..126. */
LANE_INLINE lane_f lane_ue4m3(lane_f code)
{
    return lq_ue4m3_values[(int)code];
}

/* To the nearest half; magnitudes beyond the largest half become that. */
LANE_INLINE lane_f lane_to_half(lane_f a)
{
    return lq_f16_to_f32(lq_f32_to_f16(lane_max(lane_min(a, 65504.0f), -65504.0f)));
}

/* Index of the level nearest to `a`; on a middle, the upper one. */
LANE_INLINE unsigned lane_book_index(lane_f a, const struct lq_book *book)
{
    unsigned index = a >= book->middle3 ? 8 : 0;
    index |= a >= book->middle2[index / 8] ? 4 : 0;
    index |= a >= book->middle1[index / 4] ? 2 : 0;
    index |= a >= book->middle0[index / 2] ? 1 : 0;
    return index;
}

LANE_INLINE lane_f lane_nearest(lane_f a, const struct lq_book *book)
{
    return book->levels[lane_book_index(a, book)];
}

LANE_INLINE lane_f lane_nearest_index(lane_f a, const struct lq_book *book)
{
    return (lane_f)lane_book_index(a, book);
}

/* Whole numbers below 2^24, not negative. */
LANE_INLINE lane_i lane_to_int(lane_f a)
{
    return (lane_i)a;
}

LANE_INLINE lane_i lane_gather(const uint32_t *table, lane_i index)
{
    return table[index];
}

LANE_INLINE lane_i lane_select_int(lane_m mask, lane_i yes, lane_i no)
{
    return mask ? yes : no;
}

LANE_INLINE void lane_store_int(uint32_t *out, lane_i value)
{
    *out = value;
}

LANE_INLINE lane_i lane_shift_right(lane_i a, unsigned count)
{
    return a >> count;
}

LANE_INLINE lane_i lane_and_int(lane_i a, uint32_t bits)
{
    return a & bits;
}

LANE_INLINE lane_i lane_or_int(lane_i a, uint32_t bits)
{
    return a | bits;
}

LANE_INLINE lane_levels lane_load_levels(const float levels[8])
{
    return levels;
}

/* The level that the lowest three bits of `a` choose. */
LANE_INLINE lane_f lane_level(lane_levels levels, lane_i a)
{
    return levels[a & 7u];
}

/* The smallest and the largest value of each lane. */
struct lane_ends {
    lane_f low, high;
};

/* out[i * LANES + lane] = in[lane * stride + i]; count is a multiple of 8. Of the lanes, `lanes`
 * are in use: 8 at least, or all; the others become zero. */
LANE_INLINE struct lane_ends lane_load_tile(float *out, const float *in, size_t stride,
                                            size_t count, size_t lanes)
{
    (void)stride;
    (void)lanes;
    struct lane_ends ends = {in[0], in[0]};
    for (size_t i = 0; i < count; i++) {
        out[i] = in[i];
        ends.low = lane_min(ends.low, in[i]);
        ends.high = lane_max(ends.high, in[i]);
    }
    return ends;
}

#endif
