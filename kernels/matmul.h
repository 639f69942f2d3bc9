/* Tiles of matrix products in 32-bit floats with fused multiply-add, C = alpha A op(B) + beta C,
 * row-major with leading dimensions. B is packed into panels of a few columns, whole depth, once
 * for any number of rows; A is packed block by block on the stack. Each element is a chain of fused
 * multiply-adds over LQ_MATMUL_DEPTH factors in the order of k, and these partial sums are added in
 * their order: neither the shape of a tile nor the width of the vectors nor the rest of the matrix
 * changes a bit of it. Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication",
 * ACM Transactions on Mathematical Software 34 (2008). Thread rule: pure functions. Limits: up to
 * 128 KiB of stack. */
#ifndef LQ_KERNELS_MATMUL_H
#define LQ_KERNELS_MATMUL_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/blas/sgemm.h"

enum {
    LQ_MATMUL_DEPTH = 256,     /* factors of a partial sum */
    LQ_MATMUL_ROWS = 96,       /* rows of A that are packed at a time */
    LQ_MATMUL_LEFT_SLACK = 16, /* floats behind packed rows, for stores that reach too far */
};

struct lq_matmul_tiles {
    size_t panel_cols;
    /* Packs columns [col, col + panel_cols) of op(B) for every k into panel[k][panel_cols], with
     * zeros beyond the matrix; uses n, k, b and ldb of `args`. */
    void (*pack_panel)(bool transpose_b, const struct lq_sgemm_args *args, size_t col,
                       float *panel);
    /* Packs up to LQ_MATMUL_ROWS rows of A, m of them, whole depth: lq_matmul_left_size floats of
     * `left`, of which the last ones may be overwritten with anything; uses m, k, a and lda. */
    void (*pack_left)(const struct lq_sgemm_args *args, float *left);
    /* The product of rows that pack_left has packed, out of packed panels; a, lda, b and ldb are
     * not used. */
    void (*multiply_packed)(const struct lq_sgemm_args *args, const float *left,
                            const float *panels);
    /* The product with n columns out of packed panels; b and ldb are not used. With transpose_a the
     * left side is stored as k x m. */
    void (*multiply)(bool transpose_a, const struct lq_sgemm_args *args, const float *panels);
    /* The whole of it, B as it is. */
    lq_sgemm_fn sgemm;
};

/* Floats of LQ_MATMUL_ROWS packed rows, a whole number of cache lines. */
static inline size_t lq_matmul_left_size(size_t k)
{
    return LQ_MATMUL_ROWS * k + LQ_MATMUL_LEFT_SLACK;
}

/* The tiles of the CPU level that lq_kernels() chose; NULL when it has none. */
const struct lq_matmul_tiles *lq_matmul_tiles(void);
/* A product on one thread: these tiles, else OpenBLAS, else our own loops. */
lq_sgemm_fn lq_matmul_sgemm(void);

extern const struct lq_matmul_tiles lq_matmul_tiles_avx2;
extern const struct lq_matmul_tiles lq_matmul_tiles_avx512;

#endif
