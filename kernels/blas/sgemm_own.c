#include <string.h>

#include "kernels/blas/sgemm.h"

/* A block of C: ROWS x COLS sums in registers, B packed so that COLS values lie side by side. */
enum { ROWS = 4, COLS = 16, DEPTH = 256 };

/* Copies b's columns [col, col + cols) for k in [k0, k0 + depth) to packed[depth][COLS], with zeros
 * beyond the matrix. */
static void pack_b(bool transpose_b, const struct lq_sgemm_args *args, size_t col, size_t cols,
                   size_t k0, size_t depth, float packed[DEPTH][COLS])
{
    for (size_t k = 0; k < depth; k++) {
        memset(packed[k], 0, sizeof packed[k]);
    }
    for (size_t j = 0; j < cols; j++) {
        for (size_t k = 0; k < depth; k++) {
            packed[k][j] = transpose_b ? args->b[(col + j) * args->ldb + k0 + k]
                                       : args->b[(k0 + k) * args->ldb + col + j];
        }
    }
}

static void multiply_block(const struct lq_sgemm_args *args, size_t row, size_t rows, size_t k0,
                           size_t depth, float packed[DEPTH][COLS], float sums[ROWS][COLS])
{
    const float *a[ROWS];
    for (size_t i = 0; i < ROWS; i++) {
        /* Rows beyond the matrix repeat the last one; their sums are dropped. */
        a[i] = args->a + (row + (i < rows ? i : rows - 1)) * args->lda + k0;
    }
    for (size_t k = 0; k < depth; k++) {
        for (size_t i = 0; i < ROWS; i++) {
            float factor = a[i][k];
            for (size_t j = 0; j < COLS; j++) {
                sums[i][j] += factor * packed[k][j];
            }
        }
    }
}

/* One pass over k in [k0, k0 + depth) for COLS columns and every row. The first pass applies beta,
 * so that partial sums add up in C in the order of k. */
static void multiply_panel(const struct lq_sgemm_args *args, size_t col, size_t cols, size_t k0,
                           size_t depth, float packed[DEPTH][COLS])
{
    float keep = k0 == 0 ? args->beta : 1.0f;
    for (size_t row = 0; row < args->m; row += ROWS) {
        size_t rows = args->m - row < ROWS ? args->m - row : ROWS;
        float sums[ROWS][COLS] = {{0}};
        multiply_block(args, row, rows, k0, depth, packed, sums);
        for (size_t i = 0; i < rows; i++) {
            float *c = args->c + (row + i) * args->ldc + col;
            for (size_t j = 0; j < cols; j++) {
                float old = keep == 0.0f ? 0.0f : keep * c[j];
                c[j] = old + args->alpha * sums[i][j];
            }
        }
    }
}

void lq_sgemm_own(bool transpose_b, const struct lq_sgemm_args *args)
{
    float packed[DEPTH][COLS];
    for (size_t col = 0; col < args->n; col += COLS) {
        size_t cols = args->n - col < COLS ? args->n - col : COLS;
        size_t k0 = 0;
        do {
            size_t depth = args->k - k0 < DEPTH ? args->k - k0 : DEPTH;
            pack_b(transpose_b, args, col, cols, k0, depth, packed);
            multiply_panel(args, col, cols, k0, depth, packed);
            k0 += depth;
        } while (k0 < args->k);
    }
}
