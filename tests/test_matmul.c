/* The vector tiles of matrix products against their definition, bit for bit. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/matmul.h"

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
        tiles->multiply(&p.args, packed);
        check_problem(&p, transpose_b);
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
