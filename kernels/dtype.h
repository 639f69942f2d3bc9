/* Tensor element types as GGUF numbers them, with their block geometry. The numbers are those of
 * the GGUF file format (docs/numerics.md). Thread rule: pure. */
#ifndef LQ_KERNELS_DTYPE_H
#define LQ_KERNELS_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum lq_dtype {
    LQ_DTYPE_F32 = 0,
    LQ_DTYPE_F16 = 1,
    LQ_DTYPE_Q4_0 = 2,
    LQ_DTYPE_Q4_1 = 3,
    LQ_DTYPE_Q5_0 = 6,
    LQ_DTYPE_Q5_1 = 7,
    LQ_DTYPE_Q8_0 = 8,
    LQ_DTYPE_Q2_K = 10,
    LQ_DTYPE_Q3_K = 11,
    LQ_DTYPE_Q4_K = 12,
    LQ_DTYPE_Q5_K = 13,
    LQ_DTYPE_Q6_K = 14,
    LQ_DTYPE_IQ2_XXS = 16,
    LQ_DTYPE_IQ2_XS = 17,
    LQ_DTYPE_IQ3_XXS = 18,
    LQ_DTYPE_IQ1_S = 19,
    LQ_DTYPE_IQ4_NL = 20,
    LQ_DTYPE_IQ3_S = 21,
    LQ_DTYPE_IQ2_S = 22,
    LQ_DTYPE_IQ4_XS = 23,
    LQ_DTYPE_I8 = 24,
    LQ_DTYPE_I16 = 25,
    LQ_DTYPE_I32 = 26,
    LQ_DTYPE_I64 = 27,
    LQ_DTYPE_F64 = 28,
    LQ_DTYPE_IQ1_M = 29,
    LQ_DTYPE_BF16 = 30,
    LQ_DTYPE_TQ1_0 = 34,
    LQ_DTYPE_TQ2_0 = 35,
    LQ_DTYPE_MXFP4 = 39,
    LQ_DTYPE_NVFP4 = 40,
    LQ_DTYPE_Q1_0 = 41,
    LQ_DTYPE_Q2_0 = 42,
    LQ_DTYPE_COUNT = 43,
};

struct lq_dtype_info {
    const char *name; /* "Q4_K" */
    uint32_t block_elems;
    uint32_t block_bytes;
};

/* NULL for a number that is no type (also for the retired ones). */
const struct lq_dtype_info *lq_dtype_info(uint32_t dtype);
/* By name, case-sensitive; false when there is none. */
bool lq_dtype_find(const char *name, enum lq_dtype *dtype);
/* "Q4_K"; "?" for what is no type. */
const char *lq_dtype_name(uint32_t dtype);
/* Bits per weight. */
double lq_dtype_bpw(enum lq_dtype dtype);
/* Bytes of one row of `col_count` elements, a multiple of the block. */
size_t lq_dtype_row_bytes(enum lq_dtype dtype, size_t col_count);

#endif
