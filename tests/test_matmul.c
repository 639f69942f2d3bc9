/* The vector tiles of matrix products against their definition, bit for bit. */
#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/matmul.h"
#include "kernels/matmul_short.h"

static uint64_t random_state = 20240117;

static float random_value(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(random_state >> 40) / (double)(1u << 23) - 1.0);
}

static float *random_values(size_t count)
{
    float *values = malloc((count == 0 ? 1 : count) * sizeof *values);
    for (size_t i = 0; i < count; i++) {
        values[i] = random_value();
    }
    return values;
}

/* Fused chains of LQ_MATMUL_DEPTH factors, added up in their order. */
static float reference(const struct lq_sgemm_args *args, bool transpose_b, size_t i, size_t j,
                       float before)
{
    float c = before;
    size_t k0 = 0;
    do {
        float sum = 0.0f;
        size_t end = k0 + LQ_MATMUL_DEPTH < args->k ? k0 + LQ_MATMUL_DEPTH : args->k;
        for (size_t k = k0; k < end; k++) {
            float b = transpose_b ? args->b[j * args->ldb + k] : args->b[k * args->ldb + j];
            sum = fmaf(args->a[i * args->lda + k], b, sum);
        }
        float keep = k0 == 0 ? args->beta : 1.0f;
        c = keep == 0.0f ? args->alpha * sum : keep * c + args->alpha * sum;
        k0 = end;
    } while (k0 < args->k);
    return c;
}

struct problem {
    struct lq_sgemm_args args;
    float *before; /* C */
    size_t c_count;
};

static struct problem make_problem(size_t m, size_t n, size_t k, float alpha, float beta)
{
    enum { SLACK = 3 };
    struct problem p = {.args = {.m = m,
                                 .n = n,
                                 .k = k,
                                 .alpha = alpha,
                                 .lda = k + SLACK,
                                 .ldb = (n > k ? n : k) + SLACK,
                                 .beta = beta,
                                 .ldc = n + SLACK}};
    p.c_count = m * p.args.ldc;
    p.args.a = random_values(m * p.args.lda);
    p.args.b = random_values((n > k ? n : k) * p.args.ldb);
    p.args.c = random_values(p.c_count);
    p.before = malloc(p.c_count * sizeof *p.before);
    memcpy(p.before, p.args.c, p.c_count * sizeof *p.before);
    return p;
}

static void check_problem(const struct problem *p, bool transpose_b)
{
    for (size_t i = 0; i < p->args.m; i++) {
        for (size_t j = 0; j < p->args.ldc; j++) {
            float before = p->before[i * p->args.ldc + j];
            float expected =
                j < p->args.n ? reference(&p->args, transpose_b, i, j, before) : before;
            cr_assert_eq(p->args.c[i * p->args.ldc + j], expected, "%zu x %zu x %zu at %zu, %zu",
                         p->args.m, p->args.n, p->args.k, i, j);
        }
    }
}

static void free_problem(struct problem *p)
{
    free((void *)p->args.a);
    free((void *)p->args.b);
    free(p->args.c);
    free(p->before);
}

static void check_tiles(const struct lq_matmul_tiles *tiles)
{
    static const size_t sizes[][3] = {{1, 1, 1},     {6, 16, 256},   {7, 17, 257}, {97, 33, 64},
                                      {5, 100, 513}, {200, 48, 300}, {2, 3, 0},    {96, 1, 7}};
    for (size_t i = 0; i < 2 * sizeof sizes / sizeof sizes[0]; i++) {
        const size_t *size = sizes[i / 2];
        bool transpose_b = i % 2 == 0;
        float alpha = i % 3 == 0 ? 0.5f : 1.0f;
        float beta = i % 4 < 2 ? 0.0f : 2.0f;
        struct problem p = make_problem(size[0], size[1], size[2], alpha, beta);
        tiles->sgemm(transpose_b, &p.args);
        check_problem(&p, transpose_b);
        memcpy(p.args.c, p.before, p.c_count * sizeof *p.before);
        size_t panels = (size[1] + tiles->panel_cols - 1) / tiles->panel_cols;
        float *packed = malloc((panels * tiles->panel_cols * size[2] + 1) * sizeof *packed);
        for (size_t panel = 0; panel < panels; panel++) {
            size_t col = panel * tiles->panel_cols;
            tiles->pack_panel(transpose_b, &p.args, col, packed + col * size[2]);
        }
        tiles->multiply(false, &p.args, packed);
        check_problem(&p, transpose_b);
        memcpy(p.args.c, p.before, p.c_count * sizeof *p.before);
        struct lq_sgemm_args turned = p.args;
        turned.lda = size[0] + 3;
        float *columns = malloc((turned.lda * size[2] + 1) * sizeof *columns);
        for (size_t k = 0; k < turned.lda * size[2]; k++) {
            size_t row = k % turned.lda;
            columns[k] = row < size[0] ? p.args.a[row * p.args.lda + k / turned.lda] : (float)NAN;
        }
        turned.a = columns;
        tiles->multiply(true, &turned, packed);
        check_problem(&p, transpose_b);
        free(columns);
        free(packed);
        free_problem(&p);
    }
}

Test(matmul, tiles_are_exact_to_the_bit)
{
    const struct lq_matmul_tiles *tiles = lq_matmul_tiles();
    if (tiles == NULL) {
        cr_skip_test("this CPU has no vector tiles");
    }
    check_tiles(tiles);
}

Test(matmul, every_level_gives_the_same_bits)
{
    unsigned tried = 0;
    for (int level = LQ_CPU_AVX2; level <= (int)lq_cpu_level_best(); level++) {
        lq_kernels_init((enum lq_cpu_level)level);
        check_tiles(lq_matmul_tiles());
        tried++;
    }
    if (tried == 0) {
        cr_skip_test("this CPU has no vector tiles");
    }
}

Test(matmul, beta_zero_does_not_read_and_nan_stays_in_its_row)
{
    const struct lq_matmul_tiles *tiles = lq_matmul_tiles();
    if (tiles == NULL) {
        cr_skip_test("this CPU has no vector tiles");
    }
    struct problem p = make_problem(13, 40, 70, 1.0f, 0.0f);
    for (size_t i = 0; i < p.c_count; i++) {
        p.args.c[i] = NAN;
    }
    float *a = (float *)p.args.a;
    a[5 * p.args.lda + 3] = NAN;
    a[7 * p.args.lda + 3] = INFINITY;
    tiles->sgemm(true, &p.args);
    for (size_t i = 0; i < p.args.m; i++) {
        for (size_t j = 0; j < p.args.n; j++) {
            bool finite = isfinite(p.args.c[i * p.args.ldc + j]);
            cr_expect_eq(finite, i != 5 && i != 7);
        }
    }
    free_problem(&p);
}

/* ---- 16-bit integers ---- */

struct packed {
    struct lq_short_strip strips;
    size_t rows;
};

static struct packed pack_all(const struct lq_short_tiles *tiles, const float *x, size_t stride,
                              size_t rows, size_t k, size_t strip_rows)
{
    struct packed packed = {.rows = (rows + strip_rows - 1) / strip_rows * strip_rows};
    packed.strips.values = malloc((packed.rows * lq_short_values(k) + 1) * sizeof(int16_t));
    packed.strips.scales = malloc((packed.rows * lq_short_blocks(k) + 1) * sizeof(float));
    for (size_t row = 0; row < rows; row += strip_rows) {
        struct lq_short_strip strip = {packed.strips.values + row * lq_short_values(k),
                                       packed.strips.scales + row * lq_short_blocks(k)};
        size_t count = rows - row < strip_rows ? rows - row : strip_rows;
        tiles->pack(x + row * stride, stride, count, k, strip_rows, strip);
    }
    return packed;
}

/* A block by the definition in matmul_short.h. */
static float short_block(const float *x, size_t length, int *values)
{
    float max = 0.0f;
    for (size_t i = 0; i < length; i++) {
        max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
    }
    if (max < LQ_SHORT_TINY) {
        memset(values, 0, length * sizeof *values);
        return 0.0f;
    }
    for (size_t i = 0; i < length; i++) {
        values[i] = (int)nearbyintf(x[i] * ((float)LQ_SHORT_MAX / max));
    }
    return max / (float)LQ_SHORT_MAX;
}

static float short_reference(const float *a, const float *b, size_t k)
{
    float c = 0.0f;
    for (size_t k0 = 0; k0 < k; k0 += LQ_SHORT_BLOCK) {
        size_t length = k - k0 < LQ_SHORT_BLOCK ? k - k0 : LQ_SHORT_BLOCK;
        int left[LQ_SHORT_BLOCK];
        int right[LQ_SHORT_BLOCK];
        float scale = short_block(a + k0, length, left) * short_block(b + k0, length, right);
        int sum = 0;
        for (size_t i = 0; i < length; i++) {
            sum += left[i] * right[i];
        }
        c = k0 == 0 ? (float)sum * scale : fmaf((float)sum, scale, c);
    }
    return c;
}

static void check_short(const struct lq_short_tiles *tiles, size_t m, size_t n, size_t k)
{
    enum { SLACK = 3 };
    float *a = random_values(m * (k + SLACK));
    float *b = random_values(n * (k + SLACK));
    float *c = random_values(m * (n + SLACK));
    struct packed left = pack_all(tiles, a, k + SLACK, m, k, tiles->a_rows);
    struct packed right = pack_all(tiles, b, k + SLACK, n, k, tiles->b_rows);
    struct lq_short_args args = {.rows = m,
                                 .cols = n,
                                 .k = k,
                                 .a = left.strips,
                                 .b = right.strips,
                                 .b_value_step = lq_short_values(k) * tiles->b_rows,
                                 .b_scale_step = lq_short_blocks(k) * tiles->b_rows,
                                 .c = c,
                                 .ldc = n + SLACK};
    tiles->multiply(&args);
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++) {
            float expected = short_reference(a + i * (k + SLACK), b + j * (k + SLACK), k);
            cr_assert_eq(c[i * (n + SLACK) + j], expected, "%zu x %zu x %zu at %zu, %zu", m, n, k,
                         i, j);
        }
    }
    free(a);
    free(b);
    free(c);
    free(left.strips.values);
    free(left.strips.scales);
    free(right.strips.values);
    free(right.strips.scales);
}

static const struct lq_short_tiles *short_tiles_or_skip(void)
{
    const struct lq_short_tiles *tiles = lq_short_tiles();
    if (tiles == NULL) {
        cr_skip_test("this CPU has no integer tiles");
    }
    return tiles;
}

Test(matmul, integer_tiles_are_exact_to_the_bit)
{
    const struct lq_short_tiles *tiles = short_tiles_or_skip();
    static const size_t sizes[][3] = {{1, 1, 1},    {6, 16, 128},   {7, 17, 129}, {97, 33, 64},
                                      {5, 40, 700}, {13, 16, 1100}, {2, 3, 0}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        check_short(tiles, sizes[i][0], sizes[i][1], sizes[i][2]);
    }
}

/* The root of the mean squared error relative to that of rounding one side to bf16. */
static double short_error_over_bf16(const struct lq_short_tiles *tiles, const float *a,
                                    const float *b, size_t m, size_t n, size_t k)
{
    float *c = malloc(m * n * sizeof *c);
    struct packed left = pack_all(tiles, a, k, m, k, tiles->a_rows);
    struct packed right = pack_all(tiles, b, k, n, k, tiles->b_rows);
    struct lq_short_args args = {.rows = m,
                                 .cols = n,
                                 .k = k,
                                 .a = left.strips,
                                 .b = right.strips,
                                 .b_value_step = lq_short_values(k) * tiles->b_rows,
                                 .b_scale_step = lq_short_blocks(k) * tiles->b_rows,
                                 .c = c,
                                 .ldc = n};
    tiles->multiply(&args);
    double ours = 0.0;
    double rounded = 0.0;
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++) {
            double exact = 0.0;
            double bf16 = 0.0;
            for (size_t l = 0; l < k; l++) {
                double right_value = (double)b[j * k + l];
                exact += (double)a[i * k + l] * right_value;
                bf16 += (double)lq_bf16_to_f32(lq_f32_to_bf16(a[i * k + l])) * right_value;
            }
            double error = (double)c[i * n + j] - exact;
            ours += error * error;
            rounded += (bf16 - exact) * (bf16 - exact);
        }
    }
    free(c);
    free(left.strips.values);
    free(left.strips.scales);
    free(right.strips.values);
    free(right.strips.scales);
    return sqrt(ours / rounded);
}

Test(matmul, integer_tiles_stay_below_the_error_of_bf16)
{
    const struct lq_short_tiles *tiles = short_tiles_or_skip();
    enum { M = 12, N = 32, K = 1024 };
    float *a = random_values((size_t)M * K);
    float *b = random_values((size_t)N * K);
    for (size_t i = 0; i < (size_t)N * K; i++) {
        b[i] = lq_bf16_to_f32(lq_f32_to_bf16(b[i])); /* as weights are stored */
    }
    double even = short_error_over_bf16(tiles, a, b, M, N, K);
    cr_expect_lt(even, 0.5, "%g", even);
    /* Outliers of both sides, a hundred times the rest, as models have them. */
    for (size_t i = 0; i < (size_t)M * K; i += 97) {
        a[i] *= 100.0f;
    }
    for (size_t i = 0; i < (size_t)N * K; i += 89) {
        b[i] *= 16.0f;
    }
    double spiked = short_error_over_bf16(tiles, a, b, M, N, K);
    cr_expect_lt(spiked, 1.0, "%g", spiked);
    free(a);
    free(b);
}

Test(matmul, integer_tiles_pass_nan_on_and_drop_what_is_tiny)
{
    const struct lq_short_tiles *tiles = short_tiles_or_skip();
    enum { M = 8, N = 20, K = 300 };
    float *a = random_values((size_t)M * K);
    float *b = random_values((size_t)N * K);
    float c[M * N];
    a[2 * K + 290] = NAN;
    a[3 * K + 7] = -INFINITY;
    for (size_t i = 0; i < K; i++) {
        a[4 * K + i] = FLT_TRUE_MIN * (float)i;
        a[5 * K + i] = FLT_MAX * (a[5 * K + i] > 0.0f ? 1.0f : -1.0f) * 1e-20f;
    }
    struct packed left = pack_all(tiles, a, K, M, K, tiles->a_rows);
    struct packed right = pack_all(tiles, b, K, N, K, tiles->b_rows);
    struct lq_short_args args = {.rows = M,
                                 .cols = N,
                                 .k = K,
                                 .a = left.strips,
                                 .b = right.strips,
                                 .b_value_step = lq_short_values(K) * tiles->b_rows,
                                 .b_scale_step = lq_short_blocks(K) * tiles->b_rows,
                                 .c = c,
                                 .ldc = N};
    tiles->multiply(&args);
    for (size_t j = 0; j < N; j++) {
        cr_expect(isfinite(c[j]));
        cr_expect(isnan(c[2 * N + j]));
        cr_expect(isnan(c[3 * N + j]));
        cr_expect_eq(c[4 * N + j], 0.0f);
        cr_expect(isfinite(c[5 * N + j]));
    }
    free(a);
    free(b);
    free(left.strips.values);
    free(left.strips.scales);
    free(right.strips.values);
    free(right.strips.scales);
}
