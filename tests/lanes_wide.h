/* Sixteen lanes in plain C, as kernels/lanes.h describes them, each operation written out per lane.
 * Slow; it lets every CPU check what the encoders do with as many lanes as AVX-512 has. Included
 * before the search instead of kernels/lanes.h. Thread rule: pure. */
#ifndef LQ_KERNELS_LANES_H
#define LQ_KERNELS_LANES_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>

#include "kernels/kernels.h"
#include "kernels/lane_inline.h"
#include "kernels/tables/books.h"

#define LANES 16
#define LANE_NAME(name) name##_wide

typedef float lane_f __attribute__((vector_size(64)));
typedef int32_t lane_m __attribute__((vector_size(64))); /* all ones or zero */
typedef uint32_t lane_i __attribute__((vector_size(64)));
typedef const float *lane_levels;

#define WIDE_EACH for (size_t lane = 0; lane < LANES; lane++)

LANE_INLINE lane_f lane_set(float value)
{
    lane_f out;
    WIDE_EACH out[lane] = value;
    return out;
}

LANE_INLINE lane_f lane_load(const float *in)
{
    lane_f out;
    WIDE_EACH out[lane] = in[lane];
    return out;
}

LANE_INLINE void lane_store(float *out, lane_f value)
{
    WIDE_EACH out[lane] = value[lane];
}

LANE_INLINE lane_m lane_less(lane_f a, lane_f b)
{
    return a < b;
}

LANE_INLINE lane_m lane_and(lane_m a, lane_m b)
{
    return a & b;
}

LANE_INLINE bool lane_all(lane_m mask)
{
    bool all = true;
    WIDE_EACH all = all && mask[lane] != 0;
    return all;
}

LANE_INLINE lane_f lane_select(lane_m mask, lane_f yes, lane_f no)
{
    WIDE_EACH no[lane] = mask[lane] ? yes[lane] : no[lane];
    return no;
}

LANE_INLINE lane_i lane_select_int(lane_m mask, lane_i yes, lane_i no)
{
    WIDE_EACH no[lane] = mask[lane] ? yes[lane] : no[lane];
    return no;
}

LANE_INLINE lane_f lane_min(lane_f a, lane_f b)
{
    return lane_select(a < b, a, b);
}

LANE_INLINE lane_f lane_max(lane_f a, lane_f b)
{
    return lane_select(a > b, a, b);
}

LANE_INLINE lane_f lane_abs(lane_f a)
{
    WIDE_EACH a[lane] = fabsf(a[lane]);
    return a;
}

LANE_INLINE lane_f lane_sqrt(lane_f a)
{
    WIDE_EACH a[lane] = sqrtf(a[lane]);
    return a;
}

LANE_INLINE lane_f lane_keep(lane_m mask, lane_f value)
{
    return lane_select(mask, value, lane_set(0.0f));
}

LANE_INLINE lane_f lane_power(lane_f a)
{
    return (lane_f)((lane_i)a & 0x7f800000u);
}

LANE_INLINE lane_f lane_ue4m3(lane_f code)
{
    WIDE_EACH code[lane] = lq_ue4m3_values[(int)code[lane]];
    return code;
}

LANE_INLINE lane_f lane_to_half(lane_f a)
{
    WIDE_EACH
    {
        float inside = fminf(fmaxf(a[lane], -65504.0f), 65504.0f);
        a[lane] = lq_f16_to_f32(lq_f32_to_f16(inside));
    }
    return a;
}

LANE_INLINE void lane_store_bytes(uint8_t *out, lane_f value)
{
    WIDE_EACH out[lane] = (uint8_t)value[lane];
}

LANE_INLINE lane_f lane_round(lane_f a)
{
    return (a + 12582912.0f) - 12582912.0f;
}

/* As in kernels/ref/lanes_ref.h. */
LANE_INLINE lane_f lane_round_fp4(lane_f a)
{
    lane_f magnitude = lane_max(lane_abs(a), lane_set(2.0f));
    lane_f shift;
    WIDE_EACH
    {
        float power = magnitude[lane] < 4.0f ? 2.0f : magnitude[lane] < 8.0f ? 4.0f : 8.0f;
        shift[lane] = power * 6291456.0f;
    }
    return (a + shift) - shift;
}

/* The level nearest by a search over the middles; on a middle, the upper one. */
LANE_INLINE unsigned wide_book_index(float a, const struct lq_book *book)
{
    unsigned index = a >= book->middle3 ? 8 : 0;
    index |= a >= book->middle2[index / 8] ? 4 : 0;
    index |= a >= book->middle1[index / 4] ? 2 : 0;
    index |= a >= book->middle0[index / 2] ? 1 : 0;
    return index;
}

LANE_INLINE lane_f lane_nearest(lane_f a, const struct lq_book *book)
{
    WIDE_EACH a[lane] = book->levels[wide_book_index(a[lane], book)];
    return a;
}

LANE_INLINE lane_f lane_nearest_index(lane_f a, const struct lq_book *book)
{
    WIDE_EACH a[lane] = (float)wide_book_index(a[lane], book);
    return a;
}

LANE_INLINE lane_i lane_to_int(lane_f a)
{
    lane_i out;
    WIDE_EACH out[lane] = (uint32_t)a[lane];
    return out;
}

LANE_INLINE lane_i lane_gather(const uint32_t *table, lane_i index)
{
    WIDE_EACH index[lane] = table[index[lane]];
    return index;
}

LANE_INLINE void lane_store_int(uint32_t *out, lane_i value)
{
    WIDE_EACH out[lane] = value[lane];
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

LANE_INLINE lane_f lane_level(lane_levels levels, lane_i a)
{
    lane_f out;
    WIDE_EACH out[lane] = levels[a[lane] & 7u];
    return out;
}

struct lane_ends {
    lane_f low, high;
};

LANE_INLINE struct lane_ends lane_load_tile(float *out, const float *in, size_t stride,
                                            size_t count, size_t lanes)
{
    for (size_t i = 0; i < count; i++) {
        for (size_t lane = 0; lane < LANES; lane++) {
            out[i * LANES + lane] = lane < lanes ? in[lane * stride + i] : 0.0f;
        }
    }
    struct lane_ends ends = {lane_load(out), lane_load(out)};
    for (size_t i = 0; i < count; i++) {
        lane_f value = lane_load(out + i * LANES);
        ends.low = lane_min(ends.low, value);
        ends.high = lane_max(ends.high, value);
    }
    return ends;
}

#endif
