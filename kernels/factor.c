#include "kernels/factor.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "kernels/matmul.h"

/* Sizes of tiles; they decide the last bits of results. */
enum {
    BLOCK = 128,    /* columns that are factored at a time */
    TILE_ROWS = 96, /* rows of a task beside a block */
    TILE_SIDE = 192 /* rows and columns of a task of the rest */
};

struct factor {
    const struct lq_parallel *parallel;
    lq_sgemm_fn sgemm;
    float *matrix;
    size_t n;
    float *inverses; /* [blocks x BLOCK x BLOCK]: of the blocks on the diagonal */
    float *column;   /* [n x BLOCK] */
    size_t first;    /* of the block at hand */
    size_t count;
};

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t tiles_of(size_t count, size_t tile)
{
    return (count + tile - 1) / tile;
}

size_t lq_factor_scratch(size_t n)
{
    return tiles_of(n, BLOCK) * BLOCK * BLOCK + n * BLOCK;
}

static void run(const struct factor *factor, size_t count, void (*body)(void *user, size_t index))
{
    if (factor->parallel->run != NULL) {
        factor->parallel->run(factor->parallel->context, count, body, (void *)factor);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        body((void *)factor, i);
    }
}

static float *block_inverse(const struct factor *factor)
{
    return factor->inverses + factor->first / BLOCK * BLOCK * BLOCK;
}

/* Factors the block on the diagonal, from its last column back, and inverts what comes of it.
 * Returns `count`, or the column that has no root. */
static size_t factor_block(const struct factor *factor)
{
    double r[BLOCK][BLOCK];
    size_t count = factor->count;
    float *matrix = factor->matrix + factor->first * factor->n + factor->first;
    float *inverse = block_inverse(factor);
    for (size_t i = 0; i < count; i++) {
        for (size_t j = i; j < count; j++) {
            r[i][j] = (double)matrix[i * factor->n + j];
        }
    }
    for (size_t j = count; j-- > 0;) {
        if (!(r[j][j] > 0.0) || !isfinite(r[j][j])) {
            return j;
        }
        r[j][j] = sqrt(r[j][j]);
        for (size_t i = 0; i < j; i++) {
            r[i][j] /= r[j][j];
        }
        for (size_t i = 0; i < j; i++) {
            for (size_t k = i; k < j; k++) {
                r[i][k] -= r[i][j] * r[k][j];
            }
        }
    }
    memset(inverse, 0, BLOCK * BLOCK * sizeof *inverse);
    for (size_t j = 0; j < count; j++) {
        double column[BLOCK];
        column[j] = 1.0 / r[j][j];
        for (size_t i = j; i-- > 0;) {
            double sum = 0.0;
            for (size_t k = i + 1; k <= j; k++) {
                sum += r[i][k] * column[k];
            }
            column[i] = -sum / r[i][i];
        }
        for (size_t i = 0; i <= j; i++) {
            inverse[i * BLOCK + j] = (float)column[i];
        }
    }
    return count;
}

/* R = H transpose(inverse of the block) above the block, by way of `column`. */
static void solve_rows(void *user, size_t index)
{
    const struct factor *factor = user;
    size_t row = index * TILE_ROWS;
    size_t rows = min_size(TILE_ROWS, factor->first - row);
    float *matrix = factor->matrix + row * factor->n + factor->first;
    float *copy = factor->column + row * BLOCK;
    for (size_t r = 0; r < rows; r++) {
        memcpy(copy + r * BLOCK, matrix + r * factor->n, factor->count * sizeof *copy);
    }
    const struct lq_sgemm_args args = {.m = rows,
                                       .n = factor->count,
                                       .k = factor->count,
                                       .alpha = 1.0F,
                                       .a = copy,
                                       .lda = BLOCK,
                                       .b = block_inverse(factor),
                                       .ldb = BLOCK,
                                       .beta = 0.0F,
                                       .c = matrix,
                                       .ldc = factor->n};
    factor->sgemm(true, &args);
}

/* H -= R transpose(R) for a tile in front of the block, unless it lies below the diagonal. */
static void update_tile(void *user, size_t index)
{
    const struct factor *factor = user;
    size_t side = tiles_of(factor->first, TILE_SIDE);
    size_t row = index / side * TILE_SIDE;
    size_t col = index % side * TILE_SIDE;
    if (col < row) {
        return;
    }
    const float *left = factor->matrix + factor->first;
    const struct lq_sgemm_args args = {.m = min_size(TILE_SIDE, factor->first - row),
                                       .n = min_size(TILE_SIDE, factor->first - col),
                                       .k = factor->count,
                                       .alpha = -1.0F,
                                       .a = left + row * factor->n,
                                       .lda = factor->n,
                                       .b = left + col * factor->n,
                                       .ldb = factor->n,
                                       .beta = 1.0F,
                                       .c = factor->matrix + row * factor->n + col,
                                       .ldc = factor->n};
    factor->sgemm(true, &args);
}

/* column = R times the block's inverse. */
static void scale_rows(void *user, size_t index)
{
    const struct factor *factor = user;
    size_t row = index * TILE_ROWS;
    const struct lq_sgemm_args args = {.m = min_size(TILE_ROWS, factor->first - row),
                                       .n = factor->count,
                                       .k = factor->count,
                                       .alpha = 1.0F,
                                       .a = factor->matrix + row * factor->n + factor->first,
                                       .lda = factor->n,
                                       .b = block_inverse(factor),
                                       .ldb = BLOCK,
                                       .beta = 0.0F,
                                       .c = factor->column + row * BLOCK,
                                       .ldc = BLOCK};
    factor->sgemm(false, &args);
}

/* The block's column of U = -(U in front of it) column. */
static void invert_rows(void *user, size_t index)
{
    const struct factor *factor = user;
    size_t row = index * TILE_ROWS;
    const struct lq_sgemm_args args = {.m = min_size(TILE_ROWS, factor->first - row),
                                       .n = factor->count,
                                       .k = factor->first - row,
                                       .alpha = -1.0F,
                                       .a = factor->matrix + row * factor->n + row,
                                       .lda = factor->n,
                                       .b = factor->column + row * BLOCK,
                                       .ldb = BLOCK,
                                       .beta = 0.0F,
                                       .c = factor->matrix + row * factor->n + factor->first,
                                       .ldc = factor->n};
    factor->sgemm(false, &args);
}

static void place_block(const struct factor *factor)
{
    const float *inverse = block_inverse(factor);
    for (size_t r = 0; r < factor->count; r++) {
        float *row = factor->matrix + (factor->first + r) * factor->n;
        memset(row, 0, factor->first * sizeof *row);
        memcpy(row + factor->first, inverse + r * BLOCK, factor->count * sizeof *row);
    }
}

size_t lq_factor_inverse(const struct lq_parallel *parallel, float *matrix, size_t n,
                         float *scratch)
{
    size_t blocks = tiles_of(n, BLOCK);
    struct factor factor = {.parallel = parallel,
                            .sgemm = lq_matmul_sgemm(),
                            .matrix = matrix,
                            .n = n,
                            .inverses = scratch,
                            .column = scratch + blocks * BLOCK * BLOCK};
    for (size_t b = blocks; b-- > 0;) {
        factor.first = b * BLOCK;
        factor.count = min_size(BLOCK, n - factor.first);
        size_t bad = factor_block(&factor);
        if (bad < factor.count) {
            return factor.first + bad;
        }
        size_t side = tiles_of(factor.first, TILE_SIDE);
        run(&factor, tiles_of(factor.first, TILE_ROWS), solve_rows);
        run(&factor, side * side, update_tile);
    }
    for (size_t b = 0; b < blocks; b++) {
        factor.first = b * BLOCK;
        factor.count = min_size(BLOCK, n - factor.first);
        run(&factor, tiles_of(factor.first, TILE_ROWS), scale_rows);
        run(&factor, tiles_of(factor.first, TILE_ROWS), invert_rows);
        place_block(&factor);
    }
    return n;
}
