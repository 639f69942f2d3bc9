/* Matrix products by 16-bit integers, C = A transpose(B): about twice as fast as 32-bit floats
 * where a CPU multiplies and adds pairs of them. Each row of A and each row of B is cut into blocks
 * of LQ_SHORT_BLOCK values; a block becomes integers of up to LQ_SHORT_MAX and one scale, its
 * largest magnitude / LQ_SHORT_MAX. The products of two blocks add up exactly in 32 bits, and are
 * then added to C, in their order, by a fused multiply-add with the product of the scales. So, as
 * with floats, an element depends on its row and its column alone, and every CPU gives the same
 * bits.
 *
 * Error: rounding a block costs at most max / (2 LQ_SHORT_MAX) a value, in the mean square max /
 * (3.46 LQ_SHORT_MAX), and the maximum of 128 values is at most 11.3 times their root mean square:
 * 8e-4 of it where rounding errors are spread evenly, for normally distributed values 2e-4. Both
 * sides together stay at or below the 1.1e-3 that rounding one side to bf16 costs. A block whose
 * maximum is below LQ_SHORT_TINY counts as zero; one with NaN or infinity makes its products NaN.
 *
 * Thread rule: pure functions. Limits: none. */
#ifndef LQ_KERNELS_MATMUL_SHORT_H
#define LQ_KERNELS_MATMUL_SHORT_H

#include <stddef.h>
#include <stdint.h>

enum {
    LQ_SHORT_BLOCK = 128,
    LQ_SHORT_MAX = 4095, /* 128 * 4095^2 < 2^31 */
};
#define LQ_SHORT_TINY 1e-30f

/* Some rows side by side: values[k / 2][row][k % 2] and scales[k / LQ_SHORT_BLOCK][row], with zeros
 * for rows and values beyond the matrix. */
struct lq_short_strip {
    int16_t *values;
    float *scales;
};

struct lq_short_args {
    size_t rows;
    size_t cols;
    size_t k;
    /* The first strips of packed A (rows) and B (columns). Those of A follow each other, values
     * lq_short_values(k) * strip rows apart, scales lq_short_blocks(k) * strip rows apart; of B the
     * steps say how far they are apart. */
    struct lq_short_strip a;
    struct lq_short_strip b;
    size_t b_value_step;
    size_t b_scale_step;
    float *c;
    size_t ldc;
};

struct lq_short_tiles {
    size_t a_rows; /* rows of a strip of A */
    size_t b_rows; /* and of B */
    /* Packs `count` rows of k floats, `stride` apart, into a strip of `strip_rows`. */
    void (*pack)(const float *rows, size_t stride, size_t count, size_t k, size_t strip_rows,
                 struct lq_short_strip strip);
    void (*multiply)(const struct lq_short_args *args);
};

static inline size_t lq_short_blocks(size_t k)
{
    return (k + LQ_SHORT_BLOCK - 1) / LQ_SHORT_BLOCK;
}

static inline size_t lq_short_values(size_t k)
{
    return lq_short_blocks(k) * LQ_SHORT_BLOCK;
}

/* The tiles of the CPU level that lq_kernels() chose; NULL when it has none. */
const struct lq_short_tiles *lq_short_tiles(void);

extern const struct lq_short_tiles lq_short_tiles_avx2;
extern const struct lq_short_tiles lq_short_tiles_avx512;
extern const struct lq_short_tiles lq_short_tiles_vnni; /* AVX-512 with AVX512_VNNI */

#endif
