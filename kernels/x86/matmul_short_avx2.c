#include "kernels/matmul_short.h"

#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "kernels/x86/transpose.h"

enum {
    A_ROWS = 6,
    B_ROWS = 16,
    PAIRS = LQ_SHORT_BLOCK / 2,
    DEPTH_BLOCKS = 4, /* blocks of B that stay in the first-level cache: 16 KiB */
    LANES = 8,
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
    for (size_t i = 0; i < LQ_SHORT_BLOCK; i += LANES) {
        __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(x + i));
        best = _mm256_max_epi32(best, _mm256_and_si256(bits, magnitude));
    }
    int32_t lanes[LANES];
    _mm256_storeu_si256((__m256i *)(void *)lanes, best);
    int32_t result = 0;
    for (size_t i = 0; i < LANES; i++) {
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
    for (size_t i = 0; i < LQ_SHORT_BLOCK; i += 2 * LANES) {
        __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), factor));
        __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + LANES), factor));
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
    static const int32_t all[2 * LANES] = {-1, -1, -1, -1, -1, -1, -1, -1};
    const __m256i mask = _mm256_loadu_si256((const __m256i *)(const void *)(all + LANES - rows));
    for (size_t p = 0; p < PAIRS; p += LANES) {
        float turned[LANES * LANES];
        (void)lane_transpose(turned, LANES, (const float *)(const void *)&pairs[0][p], PAIRS);
        for (size_t j = 0; j < LANES; j++) {
            __m256i column = _mm256_castps_si256(_mm256_loadu_ps(turned + j * LANES));
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
        for (size_t r = 0; r < strip_rows; r += LANES) {
            interleave((const int32_t(*)[PAIRS])pairs + r, smaller(LANES, strip_rows - r),
                       strip_rows, values + 2 * r);
        }
    }
}

/* ---- tiles ---- */

static inline void add_sums(__m256i sums, __m256 scale, float *c, bool first)
{
    __m256 product = _mm256_cvtepi32_ps(sums);
    if (first) {
        _mm256_storeu_ps(c, _mm256_mul_ps(product, scale));
    } else {
        _mm256_storeu_ps(c, _mm256_fmadd_ps(product, scale, _mm256_loadu_ps(c)));
    }
}

static inline __m256i load_pair(const int16_t *values)
{
    int32_t pair;
    memcpy(&pair, values, sizeof pair);
    return _mm256_set1_epi32(pair);
}

/* Sums with names of their own, because gcc leaves an array of these in memory, at half the speed.
 */
#define EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)
#define START_ROW(i)                                                                               \
    __m256i left_sum##i = _mm256_setzero_si256();                                                  \
    __m256i right_sum##i = _mm256_setzero_si256();
#define MULTIPLY_ROW(i)                                                                            \
    {                                                                                              \
        __m256i pair = load_pair(a_pairs + 2 * (i));                                               \
        left_sum##i = _mm256_add_epi32(left_sum##i, _mm256_madd_epi16(pair, left));                \
        right_sum##i = _mm256_add_epi32(right_sum##i, _mm256_madd_epi16(pair, right));             \
    }
#define FINISH_ROW(i)                                                                              \
    {                                                                                              \
        __m256 scale = _mm256_set1_ps(a.scales[i]);                                                \
        add_sums(left_sum##i, _mm256_mul_ps(scale, left_scale), c + (i)*ldc, first);               \
        add_sums(right_sum##i, _mm256_mul_ps(scale, right_scale), c + (i)*ldc + LANES, first);     \
    }

/* One block of a strip of A and one of a strip of B; the sums stay in registers. */
static void multiply_block(struct lq_short_strip a, struct lq_short_strip b, float *c, size_t ldc,
                           bool first)
{
    EACH_ROW(START_ROW)
    for (size_t p = 0; p < PAIRS; p++) {
        const int16_t *a_pairs = a.values + p * A_ROWS * 2;
        const __m256i *b_pairs = (const __m256i *)(const void *)(b.values + p * B_ROWS * 2);
        __m256i left = _mm256_loadu_si256(b_pairs);
        __m256i right = _mm256_loadu_si256(b_pairs + 1);
        EACH_ROW(MULTIPLY_ROW)
    }
    __m256 left_scale = _mm256_loadu_ps(b.scales);
    __m256 right_scale = _mm256_loadu_ps(b.scales + LANES);
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
            struct lq_short_strip b = {args->b.values + col * values +
                                           block * LQ_SHORT_BLOCK * B_ROWS,
                                       args->b.scales + col * blocks + block * B_ROWS};
            size_t cols = smaller(B_ROWS, args->cols - col);
            for (size_t row = 0; row < args->rows; row += A_ROWS) {
                struct lq_short_strip a = {args->a.values + row * values +
                                               block * LQ_SHORT_BLOCK * A_ROWS,
                                           args->a.scales + row * blocks + block * A_ROWS};
                size_t rows = smaller(A_ROWS, args->rows - row);
                float *c = args->c + row * args->ldc + col;
                if (rows == A_ROWS && cols == B_ROWS) {
                    multiply_strips(a, b, depth, c, args->ldc, block == 0);
                } else {
                    multiply_edge(a, b, depth, c, args->ldc, block == 0, rows, cols);
                }
            }
        }
    }
}

const struct lq_short_tiles lq_short_tiles_avx2 = {
    .a_rows = A_ROWS,
    .b_rows = B_ROWS,
    .pack = pack,
    .multiply = multiply,
};
