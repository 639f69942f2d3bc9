/* The body of every table in matmul.h; included once by each file that compiles it for one CPU
 * level, after it has defined MATMUL_TABLE (the table's name), VEC (a vector of floats), VEC_LANES,
 * VEC_ZERO, VEC_LOAD, VEC_STORE (unaligned), VEC_SET (all lanes equal), VEC_FMA (a * b + c),
 * VEC_MUL, VEC_ADD, PREFETCH (of one cache line) and SLIVER_ROWS: SLIVER_ROWS x 2 sums, two vectors
 * of B and one of A must fit the registers. Where vectors turn matrices, it also defines TURN_DEPTH
 * and turn_rows(from, k, out): out[j * SLIVER_ROWS + i] = from[i][k + j] for j below TURN_DEPTH;
 * SLIVER_SLACK floats behind these may be written; and TURN_COLS and turn_cols(out, out_stride, in,
 * stride): out[j * out_stride + i] = in[i * stride + j] for i and j below TURN_COLS. Thread rule:
 * pure functions. Limits: those of matmul.h. */
#ifndef LQ_KERNELS_MATMUL_BODY_H
#define LQ_KERNELS_MATMUL_BODY_H

#include <string.h>

#include "kernels/matmul.h"

#if !defined(SLIVER_SLACK)
#define SLIVER_SLACK 0
#endif

enum {
    PANEL_COLS = 2 * VEC_LANES,
    SLIVERS = LQ_MATMUL_ROWS / SLIVER_ROWS,
    CACHE_LINE_BYTES = 64,
    TRANSPOSE_DEPTH = 16, /* depth of B that is turned at a time: a cache line of each column */
};

/* What becomes of a partial sum: c = alpha * sum + keep * c, where keep 0 never reads c. */
struct finish {
    float *c;
    size_t ldc;
    float alpha;
    float keep;
};

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* ---- packing ---- */

static void pack_depth(bool transpose_b, const struct lq_sgemm_args *args, size_t col, size_t k0,
                       size_t depth, float *panel)
{
    size_t cols = smaller(PANEL_COLS, args->n - col);
    if (cols < PANEL_COLS) {
        memset(panel, 0, depth * PANEL_COLS * sizeof *panel);
    }
    if (!transpose_b) {
        const float *from = args->b + k0 * args->ldb + col;
        for (size_t k = 0; k < depth; k++) {
            float *to = panel + k * PANEL_COLS;
            if (cols == PANEL_COLS) {
                memcpy(to, from + k * args->ldb, PANEL_COLS * sizeof *to);
            } else {
                memcpy(to, from + k * args->ldb, cols * sizeof *to);
            }
        }
        return;
    }
    for (size_t first = 0; first < depth; first += TRANSPOSE_DEPTH) {
        size_t end = smaller(first + TRANSPOSE_DEPTH, depth);
        size_t j = 0;
#if defined(TURN_COLS)
        for (; end - first == TRANSPOSE_DEPTH && j + TURN_COLS <= cols; j += TURN_COLS) {
            const float *from = args->b + (col + j) * args->ldb + k0 + first;
            for (size_t k = 0; k < TRANSPOSE_DEPTH; k += TURN_COLS) {
                turn_cols(panel + (first + k) * PANEL_COLS + j, PANEL_COLS, from + k, args->ldb);
            }
        }
#endif
        for (; j < cols; j++) {
            const float *from = args->b + (col + j) * args->ldb + k0;
            for (size_t k = first; k < end; k++) {
                panel[k * PANEL_COLS + j] = from[k];
            }
        }
    }
}

static void pack_panel(bool transpose_b, const struct lq_sgemm_args *args, size_t col, float *panel)
{
    pack_depth(transpose_b, args, col, 0, args->k, panel);
}

/* Rows of A, SLIVER_ROWS side by side: slivers[row / SLIVER_ROWS][k][row % SLIVER_ROWS]. */
static void pack_left(const struct lq_sgemm_args *args, size_t row, size_t rows, size_t k0,
                      size_t depth, float *slivers)
{
    for (size_t r = 0; r < rows; r += SLIVER_ROWS) {
        float *sliver = slivers + r * depth;
        const float *from[SLIVER_ROWS];
        for (size_t i = 0; i < SLIVER_ROWS; i++) {
            /* Rows beyond the matrix repeat the last one; their sums are dropped. */
            from[i] = args->a + (row + smaller(r + i, rows - 1)) * args->lda + k0;
        }
        size_t k = 0;
#if defined(TURN_DEPTH)
        for (; k + TURN_DEPTH <= depth; k += TURN_DEPTH) {
            turn_rows(from, k, sliver + k * SLIVER_ROWS);
        }
#endif
        for (; k < depth; k++) {
            for (size_t i = 0; i < SLIVER_ROWS; i++) {
                sliver[k * SLIVER_ROWS + i] = from[i][k];
            }
        }
    }
}

/* The same of a left side that is stored as k x m. */
static void pack_left_turned(const struct lq_sgemm_args *args, size_t row, size_t rows, size_t k0,
                             size_t depth, float *slivers)
{
    for (size_t r = 0; r < rows; r += SLIVER_ROWS) {
        float *sliver = slivers + r * depth;
        const float *from = args->a + k0 * args->lda + row + r;
        for (size_t k = 0; k < depth; k++, from += args->lda) {
            if (rows - r >= SLIVER_ROWS) {
                memcpy(sliver + k * SLIVER_ROWS, from, SLIVER_ROWS * sizeof *sliver);
                continue;
            }
            for (size_t i = 0; i < SLIVER_ROWS; i++) {
                sliver[k * SLIVER_ROWS + i] = from[smaller(i, rows - r - 1)];
            }
        }
    }
}

/* ---- tiles ---- */

static inline void finish_vector(VEC sum, float *c, const struct finish *finish)
{
    sum = VEC_MUL(VEC_SET(finish->alpha), sum);
    if (finish->keep != 0.0f) {
        sum = VEC_ADD(VEC_MUL(VEC_SET(finish->keep), VEC_LOAD(c)), sum);
    }
    VEC_STORE(c, sum);
}

static inline void finish_edge(VEC (*sums)[2], size_t rows, size_t cols,
                               const struct finish *finish)
{
    for (size_t i = 0; i < rows; i++) {
        float row[PANEL_COLS];
        float *c = finish->c + i * finish->ldc;
        VEC_STORE(row, sums[i][0]);
        VEC_STORE(row + VEC_LANES, sums[i][1]);
        for (size_t j = 0; j < cols; j++) {
            float sum = finish->alpha * row[j];
            c[j] = finish->keep != 0.0f ? finish->keep * c[j] + sum : sum;
        }
    }
}

static void multiply_sliver(const float *sliver, const float *panel, size_t depth, size_t rows,
                            size_t cols, const struct finish *finish)
{
    VEC sums[SLIVER_ROWS][2];
    for (size_t i = 0; i < SLIVER_ROWS; i++) {
        sums[i][0] = VEC_ZERO();
        sums[i][1] = VEC_ZERO();
    }
#pragma GCC unroll 8
    for (size_t k = 0; k < depth; k++) {
        VEC left = VEC_LOAD(panel + k * PANEL_COLS);
        VEC right = VEC_LOAD(panel + k * PANEL_COLS + VEC_LANES);
        for (size_t i = 0; i < SLIVER_ROWS; i++) {
            VEC a = VEC_SET(sliver[k * SLIVER_ROWS + i]);
            sums[i][0] = VEC_FMA(a, left, sums[i][0]);
            sums[i][1] = VEC_FMA(a, right, sums[i][1]);
        }
    }
    if (rows < SLIVER_ROWS || cols < PANEL_COLS) {
        finish_edge(sums, rows, cols, finish);
        return;
    }
    for (size_t i = 0; i < SLIVER_ROWS; i++) {
        float *c = finish->c + i * finish->ldc;
        finish_vector(sums[i][0], c, finish);
        finish_vector(sums[i][1], c + VEC_LANES, finish);
    }
}

/* Rows of A that are packed, LQ_MATMUL_DEPTH factors deep at most. */
struct left_block {
    size_t row;
    size_t rows;
    size_t k0;
    size_t depth;
    const float *slivers;
};

/* What comes after sliver `r`: its share of the panel behind this one, and where its own sums go.
 */
static inline void prefetch_next(const float *next, size_t r, size_t depth,
                                 const struct finish *finish)
{
    const char *from = (const char *)(next + r * depth * PANEL_COLS / LQ_MATMUL_ROWS);
    size_t size_bytes = depth * PANEL_COLS * sizeof *next * SLIVER_ROWS / LQ_MATMUL_ROWS;
    for (size_t i = 0; i < size_bytes; i += CACHE_LINE_BYTES) {
        PREFETCH(from + i);
    }
    for (size_t i = 0; i < SLIVER_ROWS; i++) {
        PREFETCH((const char *)(finish->c + i * finish->ldc));
    }
}

/* All slivers of a block against one panel; `next` is the panel that follows, or this one. */
static void multiply_panel(const struct lq_sgemm_args *args, const struct left_block *left,
                           const float *panel, const float *next, size_t col)
{
    for (size_t r = 0; r < left->rows; r += SLIVER_ROWS) {
        struct finish finish = {
            .c = args->c + (left->row + r) * args->ldc + col,
            .ldc = args->ldc,
            .alpha = args->alpha,
            .keep = left->k0 == 0 ? args->beta : 1.0f,
        };
        prefetch_next(next, r, left->depth, &finish);
        multiply_sliver(left->slivers + r * left->depth, panel, left->depth,
                        smaller(SLIVER_ROWS, left->rows - r), smaller(PANEL_COLS, args->n - col),
                        &finish);
    }
}

static void pack_left_whole(const struct lq_sgemm_args *args, float *left)
{
    size_t padded = (args->m + SLIVER_ROWS - 1) / SLIVER_ROWS * SLIVER_ROWS;
    for (size_t k0 = 0; k0 < args->k; k0 += LQ_MATMUL_DEPTH) {
        pack_left(args, 0, args->m, k0, smaller(LQ_MATMUL_DEPTH, args->k - k0), left + k0 * padded);
    }
}

/* Panels of all columns against one block of the left side. */
static void multiply_panels(const struct lq_sgemm_args *args, const struct left_block *left,
                            const float *panels)
{
    for (size_t col = 0; col < args->n; col += PANEL_COLS) {
        const float *panel = panels + col * args->k + left->k0 * PANEL_COLS;
        bool is_last = args->n - col <= PANEL_COLS;
        multiply_panel(args, left, panel, panel + (is_last ? 0 : PANEL_COLS * args->k), col);
    }
}

static void multiply_packed(const struct lq_sgemm_args *args, const float *packed,
                            const float *panels)
{
    size_t padded = (args->m + SLIVER_ROWS - 1) / SLIVER_ROWS * SLIVER_ROWS;
    struct left_block left = {.rows = args->m};
    do {
        left.depth = smaller(LQ_MATMUL_DEPTH, args->k - left.k0);
        left.slivers = packed + left.k0 * padded;
        multiply_panels(args, &left, panels);
        left.k0 += left.depth;
    } while (left.k0 < args->k);
}

static void multiply(bool transpose_a, const struct lq_sgemm_args *args, const float *panels)
{
    float slivers[SLIVERS * SLIVER_ROWS * LQ_MATMUL_DEPTH + SLIVER_SLACK];
    struct left_block left = {.slivers = slivers};
    for (left.row = 0; left.row < args->m; left.row += LQ_MATMUL_ROWS) {
        left.rows = smaller(LQ_MATMUL_ROWS, args->m - left.row);
        left.k0 = 0;
        do {
            left.depth = smaller(LQ_MATMUL_DEPTH, args->k - left.k0);
            (transpose_a ? pack_left_turned : pack_left)(args, left.row, left.rows, left.k0,
                                                         left.depth, slivers);
            multiply_panels(args, &left, panels);
            left.k0 += left.depth;
        } while (left.k0 < args->k);
    }
}

static void sgemm(bool transpose_b, const struct lq_sgemm_args *args)
{
    float slivers[SLIVERS * SLIVER_ROWS * LQ_MATMUL_DEPTH + SLIVER_SLACK];
    float panel[LQ_MATMUL_DEPTH * PANEL_COLS];
    struct left_block left = {.slivers = slivers};
    for (left.row = 0; left.row < args->m; left.row += LQ_MATMUL_ROWS) {
        left.rows = smaller(LQ_MATMUL_ROWS, args->m - left.row);
        left.k0 = 0;
        do {
            left.depth = smaller(LQ_MATMUL_DEPTH, args->k - left.k0);
            pack_left(args, left.row, left.rows, left.k0, left.depth, slivers);
            for (size_t col = 0; col < args->n; col += PANEL_COLS) {
                pack_depth(transpose_b, args, col, left.k0, left.depth, panel);
                multiply_panel(args, &left, panel, panel, col);
            }
            left.k0 += left.depth;
        } while (left.k0 < args->k);
    }
}

const struct lq_matmul_tiles MATMUL_TABLE = {
    .panel_cols = PANEL_COLS,
    .pack_left = pack_left_whole,
    .multiply_packed = multiply_packed,
    .pack_panel = pack_panel,
    .multiply = multiply,
    .sgemm = sgemm,
};

#endif
