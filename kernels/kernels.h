/* Numeric kernels of the quantizers: rows of floats to blocks and back. One table of function
 * pointers, chosen once from what the CPU has, lowered by a mask; every variant gives the same
 * bytes. Kernels neither allocate nor log; scratch comes from the caller. Rows must be finite:
 * callers check with lq_kernels()->find_nonfinite first. Thread rule: pure functions; call
 * lq_kernels_init before the first worker starts. */
#ifndef LQ_KERNELS_KERNELS_H
#define LQ_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/device_fn.h"
#include "kernels/dtype.h"

enum lq_cpu_level {
    LQ_CPU_REF,
    LQ_CPU_AVX2,   /* AVX2, FMA and F16C */
    LQ_CPU_AVX512, /* F, BW, DQ, VL */
    LQ_CPU_LEVEL_COUNT,
};

/* `elem_count` decoded floats from blocks; a multiple of the block. */
typedef void (*lq_decode_fn)(const void *blocks, float *out, size_t elem_count);
/* Encodes one row of `col_count` finite floats. `importance`, col_count non-negative finite values
 * or NULL, weighs the squared error of each column. Always writes lq_dtype_row_bytes bytes. */
typedef void (*lq_encode_fn)(const float *row, void *blocks, size_t col_count,
                             const float *importance);

struct lq_kernels {
    enum lq_cpu_level level;
    lq_decode_fn decode[LQ_DTYPE_COUNT]; /* NULL: the type cannot be decoded */
    lq_encode_fn encode[LQ_DTYPE_COUNT]; /* NULL: the type cannot be encoded */
    /* Index of the first NaN or infinity, or `count`. */
    size_t (*find_nonfinite)(const float *values, size_t count);
    /* sums[j] += row[j] * row[j], in row order. rows x cols, row-major. */
    void (*add_squares)(const float *rows, size_t row_count, size_t col_count, float *sums);
};

/* Chooses the table: the best level of this CPU, but not above `level_max`. */
void lq_kernels_init(enum lq_cpu_level level_max);
/* The chosen table (the best level when init was never called). */
const struct lq_kernels *lq_kernels(void);
/* Uses `table` instead of the chosen one until it is called with NULL: how tests put in encoders
 * that go wrong. The caller owns it; not while workers run. */
void lq_kernels_replace(const struct lq_kernels *table);
/* The table of one level, for tests and benchmarks; NULL when the CPU cannot run it. */
const struct lq_kernels *lq_kernels_at(enum lq_cpu_level level);
/* "ref", "avx2", "avx512". */
const char *lq_cpu_level_name(enum lq_cpu_level level);
/* The best level that this CPU runs. */
enum lq_cpu_level lq_cpu_level_best(void);

/* Half-precision conversions, round to nearest even; reference code, bit-exact everywhere. */
LQ_DEVICE_FN float lq_f16_to_f32(uint16_t half);
LQ_DEVICE_FN uint16_t lq_f32_to_f16(float value);
LQ_DEVICE_FN float lq_bf16_to_f32(uint16_t bits);
LQ_DEVICE_FN uint16_t lq_f32_to_bf16(float value);

#endif
