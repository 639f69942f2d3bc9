/* The body of every table in matmul_short.h; included once by each file that compiles it for one
 * CPU level, after it has defined SHORT_TABLE (the table's name), A_ROWS and B_ROWS, EACH_ROW(DO)
 * (DO(0) to DO(A_ROWS - 1)), INTS and FLOATS (vectors of LANES, B_ROWS is 2 * LANES), INTS_ZERO,
 * INTS_LOAD (unaligned), INTS_SET (all lanes equal), INTS_DOT (sums + products of pairs of 16-bit
 * integers), INTS_TO_FLOATS, FLOATS_SET, FLOATS_LOAD, FLOATS_STORE, FLOATS_MUL and FLOATS_FMA
 * (a * b + c). A_ROWS x 2 sums, two vectors of B and one of A must fit the registers. Packing is
 * written in AVX2 at every level. Thread rule: pure functions. Limits: those of matmul_short.h. */
#ifndef LQ_KERNELS_X86_MATMUL_SHORT_BODY_H
#define LQ_KERNELS_X86_MATMUL_SHORT_BODY_H

#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "kernels/matmul_short.h"
#include "kernels/x86/transpose.h"

enum {
    PAIRS = LQ_SHORT_BLOCK / 2,
    DEPTH_BLOCKS = 64 / B_ROWS, /* blocks of B that stay in the first-level cache: 16 KiB */
    PACK_LANES = 8,
    CACHE_LINE_BYTES = 64,
    PREFETCH_ROWS = 96, /* rows of a task: over these a strip of B is fetched ahead */
    INFINITE_BITS = 0x7f800000,
};

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* ---- packing ---- */

/* Bits of non-negative floats are ordered as the floats are, NaN above infinity. */
static int32_t largest_bits(const float *x)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i best = _mm256_setzero_si256();
    for (size_t i = 0; i < LQ_SHORT_BLOCK; i += PACK_LANES) {
        __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(x + i));
        best = _mm256_max_epi32(best, _mm256_and_si256(bits, magnitude));
    }
    int32_t lanes[PACK_LANES];
    _mm256_storeu_si256((__m256i *)(void *)lanes, best);
    int32_t result = 0;
    for (size_t i = 0; i < PACK_LANES; i++) {
        result = lanes[i] > result ? lanes[i] : result;
    }
    return result;
}

/* One block of one row: integers to pairs[PAIRS], its scale returned. */
static float round_block(const float *x, int32_t *pairs)
{
    int32_t bits = largest_bits(x);
    float max = 0.0f;
    memcpy(&max, &bits, sizeof max);
    if (bits >= INFINITE_BITS || max < LQ_SHORT_TINY) {
        memset(pairs, 0, PAIRS * sizeof *pairs);
        return bits >= INFINITE_BITS ? NAN : 0.0f;
    }
    const __m256 factor = _mm256_set1_ps((float)LQ_SHORT_MAX / max);
    for (size_t i = 0; i < LQ_SHORT_BLOCK; i += 2 * PACK_LANES) {
        __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), factor));
        __m256i high =
            _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + PACK_LANES), factor));
        /* Packing works within halves; the permutation puts the four quarters in order. */
        __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
        _mm256_storeu_si256((__m256i *)(void *)(pairs + i / 2), both);
    }
    return max / (float)LQ_SHORT_MAX;
}

/* values[pair][row] = pairs[row][pair] for up to 8 rows, 8 pairs at a time. */
static void interleave(const int32_t (*pairs)[PAIRS], size_t rows, size_t strip_rows,
                       int16_t *values)
{
    static const int32_t all[2 * PACK_LANES] = {-1, -1, -1, -1, -1, -1, -1, -1};
    const __m256i mask =
        _mm256_loadu_si256((const __m256i *)(const void *)(all + PACK_LANES - rows));
    for (size_t p = 0; p < PAIRS; p += PACK_LANES) {
        float turned[PACK_LANES * PACK_LANES];
        lane_transpose(turned, PACK_LANES, (const float *)(const void *)&pairs[0][p], PAIRS);
        for (size_t j = 0; j < PACK_LANES; j++) {
            __m256i column = _mm256_castps_si256(_mm256_loadu_ps(turned + j * PACK_LANES));
            _mm256_maskstore_epi32((int32_t *)(void *)(values + (p + j) * strip_rows * 2), mask,
                                   column);
        }
    }
}

static void pack(const float *rows, size_t stride, size_t count, size_t k, size_t strip_rows,
                 struct lq_short_strip strip)
{
    int32_t pairs[B_ROWS][PAIRS] = {{0}};
    float tail[LQ_SHORT_BLOCK];
    size_t blocks = lq_short_blocks(k);
    for (size_t block = 0; block < blocks; block++) {
        int16_t *values = strip.values + block * PAIRS * strip_rows * 2;
        float *scales = strip.scales + block * strip_rows;
        size_t first = block * LQ_SHORT_BLOCK;
        size_t length = smaller(LQ_SHORT_BLOCK, k - first);
        for (size_t r = 0; r < strip_rows; r++) {
            const float *x = rows + r * stride + first;
            if (r >= count || length < LQ_SHORT_BLOCK) {
                memset(tail, 0, sizeof tail);
                memcpy(tail, x, (r < count ? length : 0) * sizeof *tail);
                x = tail;
            }
            scales[r] = round_block(x, pairs[r]);
        }
        for (size_t r = 0; r < strip_rows; r += PACK_LANES) {
            interleave((const int32_t(*)[PAIRS])pairs + r, smaller(PACK_LANES, strip_rows - r),
                       strip_rows, values + 2 * r);
        }
    }
}

/* ---- tiles ---- */

static inline void add_sums(INTS sums, FLOATS scale, float *c, bool first)
{
    FLOATS product = INTS_TO_FLOATS(sums);
    if (first) {
        FLOATS_STORE(c, FLOATS_MUL(product, scale));
    } else {
        FLOATS_STORE(c, FLOATS_FMA(product, scale, FLOATS_LOAD(c)));
    }
}

static inline INTS load_pair(const int16_t *values)
{
    int32_t pair;
    memcpy(&pair, values, sizeof pair);
    return INTS_SET(pair);
}

/* Sums with names of their own, because gcc leaves an array of these in memory, at half the speed.
 */
#define START_ROW(i)                                                                               \
    INTS left_sum##i = INTS_ZERO();                                                                \
    INTS right_sum##i = INTS_ZERO();
#define MULTIPLY_ROW(i)                                                                            \
    {                                                                                              \
        INTS pair = load_pair(a_pairs + 2 * (i));                                                  \
        left_sum##i = INTS_DOT(left_sum##i, pair, left);                                           \
        right_sum##i = INTS_DOT(right_sum##i, pair, right);                                        \
    }
#define FINISH_ROW(i)                                                                              \
    {                                                                                              \
        FLOATS scale = FLOATS_SET(a.scales[i]);                                                    \
        add_sums(left_sum##i, FLOATS_MUL(scale, left_scale), c + (i)*ldc, first);                  \
        add_sums(right_sum##i, FLOATS_MUL(scale, right_scale), c + (i)*ldc + LANES, first);        \
    }

/* One block of a strip of A and one of a strip of B; the sums stay in registers. */
static void multiply_block(struct lq_short_strip a, struct lq_short_strip b, float *c, size_t ldc,
                           bool first)
{
    EACH_ROW(START_ROW)
#pragma GCC unroll 8
    for (size_t p = 0; p < PAIRS; p++) {
        const int16_t *a_pairs = a.values + p * A_ROWS * 2;
        const int16_t *b_pairs = b.values + p * B_ROWS * 2;
        INTS left = INTS_LOAD(b_pairs);
        INTS right = INTS_LOAD(b_pairs + 2 * LANES);
        EACH_ROW(MULTIPLY_ROW)
    }
    FLOATS left_scale = FLOATS_LOAD(b.scales);
    FLOATS right_scale = FLOATS_LOAD(b.scales + LANES);
    EACH_ROW(FINISH_ROW)
}

/* One strip of A against one strip of B over `blocks` blocks. A tile at the edge of C goes through
 * a whole one. */
static void multiply_strips(struct lq_short_strip a, struct lq_short_strip b, size_t blocks,
                            float *c, size_t ldc, bool first)
{
    for (size_t block = 0; block < blocks; block++) {
        struct lq_short_strip left = {a.values + block * PAIRS * A_ROWS * 2,
                                      a.scales + block * A_ROWS};
        struct lq_short_strip right = {b.values + block * PAIRS * B_ROWS * 2,
                                       b.scales + block * B_ROWS};
        multiply_block(left, right, c, ldc, first && block == 0);
    }
}

static void multiply_edge(struct lq_short_strip a, struct lq_short_strip b, size_t blocks, float *c,
                          size_t ldc, bool first, size_t rows, size_t cols)
{
    float tile[A_ROWS * B_ROWS] = {0};
    for (size_t i = 0; i < rows && !first; i++) {
        memcpy(tile + i * B_ROWS, c + i * ldc, cols * sizeof *c);
    }
    multiply_strips(a, b, blocks, tile, B_ROWS, first);
    for (size_t i = 0; i < rows; i++) {
        memcpy(c + i * ldc, tile + i * B_ROWS, cols * sizeof *c);
    }
}

/* While strips meet: where the sums go, and this strip's share of the next strip of B. */
static inline void prefetch_next(const int16_t *next, size_t row, size_t blocks, const float *c,
                                 size_t ldc)
{
    const char *from =
        (const char *)(next + row * blocks * LQ_SHORT_BLOCK * B_ROWS / PREFETCH_ROWS);
    size_t size_bytes = blocks * LQ_SHORT_BLOCK * B_ROWS * sizeof *next * A_ROWS / PREFETCH_ROWS;
    for (size_t i = 0; i < size_bytes; i += CACHE_LINE_BYTES) {
        _mm_prefetch(from + i, _MM_HINT_T0);
    }
    for (size_t i = 0; i < A_ROWS; i++) {
        _mm_prefetch((const char *)(c + i * ldc), _MM_HINT_T0);
    }
}

static void multiply(const struct lq_short_args *args)
{
    size_t blocks = lq_short_blocks(args->k);
    size_t values = lq_short_values(args->k);
    for (size_t i = 0; args->k == 0 && i < args->rows; i++) {
        memset(args->c + i * args->ldc, 0, args->cols * sizeof *args->c);
    }
    for (size_t block = 0; block < blocks; block += DEPTH_BLOCKS) {
        size_t depth = smaller(DEPTH_BLOCKS, blocks - block);
        for (size_t col = 0; col < args->cols; col += B_ROWS) {
            struct lq_short_strip b = {args->b.values + col / B_ROWS * args->b_value_step +
                                           block * LQ_SHORT_BLOCK * B_ROWS,
                                       args->b.scales + col / B_ROWS * args->b_scale_step +
                                           block * B_ROWS};
            size_t cols = smaller(B_ROWS, args->cols - col);
            for (size_t row = 0; row < args->rows; row += A_ROWS) {
                struct lq_short_strip a = {args->a.values + row * values +
                                               block * LQ_SHORT_BLOCK * A_ROWS,
                                           args->a.scales + row * blocks + block * A_ROWS};
                size_t rows = smaller(A_ROWS, args->rows - row);
                float *c = args->c + row * args->ldc + col;
                if (rows == A_ROWS && cols == B_ROWS) {
                    bool is_last = args->cols - col <= B_ROWS;
                    prefetch_next(b.values + (is_last ? 0 : args->b_value_step), row, depth, c,
                                  args->ldc);
                    multiply_strips(a, b, depth, c, args->ldc, block == 0);
                } else {
                    multiply_edge(a, b, depth, c, args->ldc, block == 0, rows, cols);
                }
            }
        }
    }
}

const struct lq_short_tiles SHORT_TABLE = {
    .a_rows = A_ROWS,
    .b_rows = B_ROWS,
    .pack = pack,
    .multiply = multiply,
};

#endif
