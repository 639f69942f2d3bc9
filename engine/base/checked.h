/* Arithmetic on sizes that come from files: each function says whether the result is right instead
 * of wrapping. Thread rule: pure. */
#ifndef LQ_BASE_CHECKED_H
#define LQ_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool lq_add_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    *out = a + b;
    return *out >= a;
}

static inline bool lq_mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    if (a != 0 && b > UINT64_MAX / a) {
        *out = 0;
        return false;
    }
    *out = a * b;
    return true;
}

static inline bool lq_mul_size(size_t a, size_t b, size_t *out)
{
    uint64_t wide = 0;
    if (!lq_mul_u64(a, b, &wide) || wide > SIZE_MAX) {
        *out = 0;
        return false;
    }
    *out = (size_t)wide;
    return true;
}

/* Rounds up to a multiple of a power of two; false when that does not fit. */
static inline bool lq_align_u64(uint64_t value, uint64_t alignment, uint64_t *out)
{
    uint64_t sum = 0;
    bool fits = lq_add_u64(value, alignment - 1, &sum);
    *out = sum & ~(alignment - 1);
    return fits;
}

#endif
