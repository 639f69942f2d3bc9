#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/pool.h"
#include "kernels/blas/sgemm.h"
#include "kernels/device.h"
#include "kernels/device_rows.h"
#include "kernels/kernels.h"

/* A sum of k products of values in [-1, 1] in any order and with or without fused operations
 * differs from the exact one by at most about k * 2^-24 * k in theory; for random signs it stays
 * near sqrt(k) * 2^-24 * sqrt(k). Eight times that is never reached by a right product. */
static double product_tolerance(size_t k)
{
    return 8.0 * (double)k * 0x1p-24;
}

/* Softmax weights and norms: relative error of the exponential (2.5e-7) and of sums of positive
 * values in 16 lanes (length / 16 * 2^-24 at most), on values below 1. */
#define ROW_TOLERANCE 4e-6

static uint64_t random_state;

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

static void pool_run(void *context, size_t count, void (*body)(void *user, size_t index),
                     void *user)
{
    lq_pool_for(context, count, body, user);
}

static struct lq_device *plain_device(enum lq_cpu_blas blas)
{
    struct lq_parallel none = {.run = NULL};
    struct lq_device *device = lq_device_cpu_create(none, blas);
    cr_assert_not_null(device);
    return device;
}

static void set_up(void)
{
    random_state = 20240117;
}

TestSuite(device, .init = set_up);

/* ---- products ---- */

static void check_product(struct lq_device *device, size_t m, size_t n, size_t k)
{
    float *a = random_values(m * k);
    float *b = random_values(n * k);
    float *c = random_values(m * n);
    device->ops->matmul(device, a, b, c, m, n, k);
    cr_assert_null(device->ops->failure(device));
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++) {
            double sum = 0.0;
            for (size_t l = 0; l < k; l++) {
                sum += (double)a[i * k + l] * (double)b[j * k + l];
            }
            cr_assert_float_eq(c[i * n + j], sum, product_tolerance(k), "%zu x %zu x %zu", m, n, k);
        }
    }
    free(a);
    free(b);
    free(c);
}

static void check_products(enum lq_cpu_blas blas)
{
    struct lq_device *device = plain_device(blas);
    static const size_t sizes[][3] = {{1, 1, 1},       {3, 5, 7},      {4, 16, 256}, {5, 17, 257},
                                      {257, 300, 513}, {256, 256, 64}, {1, 4096, 33}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        check_product(device, sizes[i][0], sizes[i][1], sizes[i][2]);
    }
    device->ops->destroy(device);
}

Test(device, products_with_own_loops)
{
    check_products(LQ_CPU_BLAS_OWN);
}

Test(device, products_with_openblas)
{
    if (lq_openblas_load() == NULL) {
        cr_skip_test("libopenblas.so.0 is not on this machine");
    }
    check_products(LQ_CPU_BLAS_OPEN);
}

/* Groups and arranged right sides against products one at a time, bit for bit. */
static void check_group(struct lq_device *device, size_t m, const size_t *cols, size_t count,
                        size_t k)
{
    const struct lq_device_ops *ops = device->ops;
    float *a = random_values(m * k);
    struct lq_product products[LQ_PRODUCTS_MAX];
    struct lq_product arranged[LQ_PRODUCTS_MAX];
    float *expected[LQ_PRODUCTS_MAX];
    for (size_t p = 0; p < count; p++) {
        float *b = random_values(cols[p] * k);
        float *order = random_values(cols[p] * k);
        /* In two parts, as threads do. */
        size_t part =
            ops->arrange == NULL ? 0 : cols[p] / 2 / ops->arrange_rows * ops->arrange_rows;
        if (ops->arrange != NULL) {
            ops->arrange(device, b + part * k, order + part * k, cols[p] - part, k);
            ops->arrange(device, b, order, part, k);
        }
        products[p] = (struct lq_product){b, random_values(m * cols[p]), cols[p]};
        arranged[p] = (struct lq_product){order, random_values(m * cols[p]), cols[p]};
        expected[p] = random_values(m * cols[p]);
        ops->matmul(device, a, b, expected[p], m, cols[p], k);
    }
    ops->matmul_group(device, a, m, k, products, count, false);
    if (ops->arrange != NULL) {
        ops->matmul_group(device, a, m, k, arranged, count, true);
    }
    cr_assert_null(ops->failure(device));
    for (size_t p = 0; p < count; p++) {
        for (size_t i = 0; i < m * cols[p]; i++) {
            cr_assert_eq(products[p].c[i], expected[p][i], "%zu x %zu x %zu", m, cols[p], k);
            cr_assert(ops->arrange == NULL || arranged[p].c[i] == expected[p][i],
                      "arranged %zu x %zu x %zu", m, cols[p], k);
        }
        free((void *)(uintptr_t)products[p].b);
        free((void *)(uintptr_t)arranged[p].b);
        free(products[p].c);
        free(arranged[p].c);
        free(expected[p]);
    }
    free(a);
}

Test(device, groups_of_products_give_the_bits_of_one_at_a_time)
{
    static const enum lq_cpu_blas paths[] = {LQ_CPU_BLAS_AUTO, LQ_CPU_BLAS_SHORT, LQ_CPU_BLAS_OWN};
    static const size_t cols[][LQ_PRODUCTS_MAX] = {{48, 16, 16}, {600, 33, 7}, {1, 1025, 64}};
    /* Depths whose integers do not fit where the floats were, and others. */
    static const size_t depths[] = {1, 63, 65, 128, 129, 300};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        struct lq_device *device = plain_device(paths[i]);
        for (size_t c = 0; c < sizeof cols / sizeof cols[0]; c++) {
            for (size_t d = 0; d < sizeof depths / sizeof depths[0]; d++) {
                check_group(device, c == 1 ? 97 : 5 + c, cols[c], LQ_PRODUCTS_MAX - c, depths[d]);
            }
        }
        device->ops->destroy(device);
    }
}

/* One operation that keeps what lies between in the cache against those that it stands for. */
static void check_gate(struct lq_device *device, size_t m, size_t n, size_t k, bool gelu)
{
    const struct lq_device_ops *ops = device->ops;
    float *a = random_values(m * k);
    float *b[2] = {random_values(n * k), random_values(n * k)};
    float *order[2] = {random_values(n * k), random_values(n * k)};
    float *c[4];
    for (size_t i = 0; i < 4; i++) {
        c[i] = random_values(m * n);
    }
    for (size_t i = 0; i < 2; i++) {
        ops->arrange(device, b[i], order[i], n, k);
        ops->matmul(device, a, b[i], c[2 + i], m, n, k);
    }
    const struct lq_product products[] = {{order[0], c[0], n}, {order[1], c[1], n}};
    ops->product_gate(device, a, m, k, products, gelu);
    (gelu ? ops->gelu_mul : ops->silu_mul)(device, c[2], c[3], m * n);
    cr_assert_null(ops->failure(device));
    for (size_t i = 0; i < m * n; i++) {
        cr_assert_eq(c[0][i], c[2][i], "%zu x %zu x %zu at %zu", m, n, k, i);
    }
    for (size_t i = 0; i < 4; i++) {
        free(c[i]);
        free(i < 2 ? b[i] : order[i - 2]);
    }
    free(a);
}

static void check_entropy(struct lq_device *device, size_t m, size_t n, size_t k, float cap)
{
    const struct lq_device_ops *ops = device->ops;
    float *a = random_values(m * k);
    float *b = random_values(n * k);
    float *order = random_values(n * k);
    float *logits = random_values(m * n);
    int32_t *targets = malloc(m * sizeof *targets);
    double *nll = malloc(2 * m * sizeof *nll);
    for (size_t i = 0; i < m; i++) {
        targets[i] = (int32_t)(i * 7919 % n);
    }
    targets[m - 1] = (int32_t)n - 1;
    a[(m / 2) * k] = NAN;
    ops->arrange(device, b, order, n, k);
    ops->product_entropy(device, a, m, k, &(struct lq_product){.b = order, .out_cols = n}, cap,
                         targets, nll);
    ops->matmul(device, a, b, logits, m, n, k);
    if (cap != 0.0f) {
        ops->soft_cap(device, logits, m * n, cap);
    }
    ops->cross_entropy(device, logits, targets, m, n, nll + m);
    cr_assert_null(ops->failure(device));
    for (size_t i = 0; i < m; i++) {
        cr_assert(nll[i] == nll[m + i] || (isnan(nll[i]) && isnan(nll[m + i])),
                  "%zu x %zu x %zu at %zu: %g, %g", m, n, k, i, nll[i], nll[m + i]);
        cr_assert_eq(isnan(nll[i]), i == m / 2);
    }
    free(a);
    free(b);
    free(order);
    free(logits);
    free(targets);
    free(nll);
}

Test(device, operations_around_products_give_the_bits_of_their_parts)
{
    static const enum lq_cpu_blas paths[] = {LQ_CPU_BLAS_AUTO, LQ_CPU_BLAS_SHORT};
    static const size_t sizes[][3] = {{2, 1, 1},      {7, 16, 65},    {97, 33, 128},
                                      {200, 300, 70}, {11, 1025, 64}, {100, 512, 300}};
    unsigned tried = 0;
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        struct lq_device *device = plain_device(paths[i]);
        bool has = device->ops->product_gate != NULL && device->ops->product_entropy != NULL;
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0] && has; s++) {
            check_gate(device, sizes[s][0], sizes[s][1], sizes[s][2], s % 2 == 0);
            check_entropy(device, sizes[s][0], sizes[s][1], sizes[s][2], s % 2 == 0 ? 0.0f : 2.0f);
            tried++;
        }
        device->ops->destroy(device);
    }
    if (tried == 0) {
        cr_skip_test("this CPU has no vector tiles");
    }
}

Test(device, products_with_the_best_path)
{
    check_products(LQ_CPU_BLAS_AUTO);
    /* More columns than one task and than one set of panels take. */
    struct lq_device *device = plain_device(LQ_CPU_BLAS_AUTO);
    check_product(device, 2, 2100, 16500);
    device->ops->destroy(device);
}

/* Rounding to integers of 12 bits and a sign: 2.7e-4 of the root of the sum of squares for values
 * like these, times six for the worst of many. */
Test(device, products_with_integers)
{
    enum { M = 200, N = 1300, K = 300 };
    struct lq_device *device = plain_device(LQ_CPU_BLAS_SHORT);
    float *a = random_values(M * K);
    float *b = random_values(N * K);
    float *c = random_values(M * N);
    device->ops->matmul(device, a, b, c, M, N, K);
    cr_assert_null(device->ops->failure(device));
    for (size_t i = 0; i < M; i++) {
        for (size_t j = 0; j < N; j++) {
            double sum = 0.0;
            double squares = 0.0;
            for (size_t l = 0; l < K; l++) {
                double product = (double)a[i * K + l] * (double)b[j * K + l];
                sum += product;
                squares += product * product;
            }
            cr_assert_float_eq(c[i * N + j], sum, 6 * 2.7e-4 * sqrt(squares));
        }
    }
    free(a);
    free(b);
    free(c);
    device->ops->destroy(device);
}

Test(device, openblas_core_type_follows_cpu_and_user)
{
    const char *expected = lq_openblas_core_type();
    if (lq_openblas_load() == NULL || expected == NULL) {
        cr_skip_test("no OpenBLAS or no core type for this CPU");
    }
    cr_expect_str_eq(getenv("OPENBLAS_CORETYPE"), expected);
    cr_expect_str_eq(getenv("OPENBLAS_NUM_THREADS"), "1");
}

Test(device, openblas_core_type_of_the_user_wins)
{
    if (lq_openblas_core_type() == NULL) {
        cr_skip_test("no core type for this CPU");
    }
    setenv("OPENBLAS_CORETYPE", "Haswell", 1);
    (void)lq_openblas_load();
    cr_expect_str_eq(getenv("OPENBLAS_CORETYPE"), "Haswell");
}

static void check_sgemm_scalars(lq_sgemm_fn sgemm, bool transpose_b)
{
    enum { M = 5, N = 19, K = 300, LD = 320 };
    float *a = random_values(M * LD);
    float *b = random_values(LD * LD);
    float *c = random_values(M * LD);
    float *before = malloc(M * LD * sizeof *before);
    memcpy(before, c, M * LD * sizeof *before);
    struct lq_sgemm_args args = {M, N, K, 0.5f, a, LD, b, LD, 2.0f, c, LD};
    sgemm(transpose_b, &args);
    for (size_t i = 0; i < M; i++) {
        for (size_t j = 0; j < LD; j++) {
            double sum = 0.0;
            for (size_t l = 0; l < K; l++) {
                double right = transpose_b ? (double)b[j * LD + l] : (double)b[l * LD + j];
                sum += (double)a[i * LD + l] * right;
            }
            double expected = 2.0 * (double)before[i * LD + j] + 0.5 * sum;
            if (j >= N) {
                expected = (double)before[i * LD + j];
            }
            cr_assert_float_eq(c[i * LD + j], expected, product_tolerance(K));
        }
    }
    args.beta = 0.0f;
    c[0] = NAN;
    sgemm(transpose_b, &args);
    cr_expect(isfinite(c[0]), "beta 0 must not read C");
    free(a);
    free(b);
    free(c);
    free(before);
}

Test(device, sgemm_scales_and_leading_dimensions)
{
    check_sgemm_scalars(lq_sgemm_own, true);
    check_sgemm_scalars(lq_sgemm_own, false);
    lq_sgemm_fn openblas = lq_openblas_load();
    if (openblas != NULL) {
        check_sgemm_scalars(openblas, true);
        check_sgemm_scalars(openblas, false);
    }
}

/* ---- rows ---- */

static double ulp_of(float value)
{
    return (double)nextafterf(value, INFINITY) - (double)value;
}

Test(device, exponential_is_within_two_ulp)
{
    const struct lq_device_rows *fn = &lq_device_rows_ref;
    double worst = 0.0;
    for (float x = -87.0f; x <= 88.0f; x += 0.00137f) {
        float e = x;
        fn->exp_scaled(&e, 1, 1.0f, 0.0f);
        double exact = exp((double)x);
        double error = fabs((double)e - exact) / ulp_of((float)exact);
        worst = error > worst ? error : worst;
    }
    cr_expect_lt(worst, 2.0, "worst error %g ulp", worst);
}

Test(device, exponential_of_extremes)
{
    const struct lq_device_rows *fn = &lq_device_rows_ref;
    float values[] = {0.0f, -0.0f, FLT_TRUE_MIN, -INFINITY, INFINITY, -FLT_MAX, FLT_MAX, NAN};
    fn->exp_scaled(values, sizeof values / sizeof values[0], 1.0f, 0.0f);
    cr_expect_eq(values[0], 1.0f);
    cr_expect_eq(values[1], 1.0f);
    cr_expect_eq(values[2], 1.0f);
    cr_expect(values[3] > 0.0f && values[3] < 1e-37f);
    cr_expect(values[4] > 1e38f && isfinite(values[4]));
    cr_expect(values[5] > 0.0f && values[5] < 1e-37f);
    cr_expect(isfinite(values[6]));
    cr_expect(isnan(values[7]));
}

typedef void (*gate_back)(float *gate, float *up, const float *out_grad, size_t count);

static void check_gates_back(gate_back ref, gate_back fast, size_t n)
{
    float *values = random_values(3 * n);
    float *same = malloc(3 * n * sizeof *same);
    for (size_t i = 0; i < n; i++) {
        values[i] *= 9.0f;
    }
    memcpy(same, values, 3 * n * sizeof *same);
    ref(values, values + n, values + 2 * n, n);
    fast(same, same + n, same + 2 * n, n);
    cr_expect_eq(memcmp(values, same, 3 * n * sizeof *same), 0);
    free(values);
    free(same);
}

/* Every CPU level must give the same bits: they reach cached artifacts. */
Test(device, row_loops_agree_bit_for_bit)
{
#if defined(__x86_64__)
    if (lq_cpu_level_best() < LQ_CPU_AVX2) {
        cr_skip_test("this CPU has no AVX2");
    }
    const struct lq_device_rows *ref = &lq_device_rows_ref;
    const struct lq_device_rows *fast = &lq_device_rows_avx2;
    static const size_t counts[] = {1, 2, 15, 16, 17, 31, 255, 256, 1000};
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        size_t n = counts[c];
        float *x = random_values(n);
        float *y = random_values(n);
        float *x2 = malloc(n * sizeof *x2);
        x[n / 2] = 60.0f;
        x[n / 3] = FLT_TRUE_MIN;
        memcpy(x2, x, n * sizeof *x);
        cr_expect_eq(ref->max(x, n), fast->max(x2, n));
        cr_expect_eq(ref->exp_sum(x, n, 60.0f), fast->exp_sum(x2, n, 60.0f));
        cr_expect_eq(ref->sum_squares(x, n), fast->sum_squares(x2, n));
        ref->silu_mul(x, y, n);
        fast->silu_mul(x2, y, n);
        cr_expect_eq(memcmp(x, x2, n * sizeof *x), 0);
        cr_expect_eq(ref->exp_scaled(x, n, 0.25f, 3.0f), fast->exp_scaled(x2, n, 0.25f, 3.0f));
        cr_expect_eq(memcmp(x, x2, n * sizeof *x), 0);
        ref->round_levels(x, x, n);
        fast->round_levels(x2, x2, n);
        cr_expect_eq(memcmp(x, x2, n * sizeof *x), 0);
        ref->scale_weighted(x, y, x, n, 1.7f);
        fast->scale_weighted(x2, y, x2, n, 1.7f);
        ref->add(x, y, n);
        fast->add(x2, y, n);
        cr_expect_eq(memcmp(x, x2, n * sizeof *x), 0);
        ref->soft_cap_back(y, x, n, 1.3f);
        fast->soft_cap_back(y, x2, n, 1.3f);
        cr_expect_eq(memcmp(x, x2, n * sizeof *x), 0);
        check_gates_back(ref->silu_mul_back, fast->silu_mul_back, n);
        check_gates_back(ref->gelu_mul_back, fast->gelu_mul_back, n);
        free(x);
        free(y);
        free(x2);
    }
#else
    cr_skip_test("only one level on this machine");
#endif
}

/* What 8 bits hold of a row: whole multiples of its largest magnitude / 127, halves to even. */
Test(device, round_rows_keeps_whole_levels)
{
    enum { ROWS = 5, COLS = 77 };
    struct lq_device *device = plain_device(LQ_CPU_BLAS_OWN);
    float x[ROWS * COLS];
    float out[ROWS * COLS];
    srand(21);
    for (size_t i = 0; i < ROWS * COLS; i++) {
        x[i] = (float)(rand() % 20001 - 10000) / 777.0f;
    }
    x[2] = -100.0f;
    memset(x + COLS, 0, COLS * sizeof *x);
    for (size_t j = 0; j < COLS; j++) {
        x[2 * COLS + j] = j % 2 == 0 ? FLT_TRUE_MIN : -FLT_TRUE_MIN;
        x[3 * COLS + j] = j == 0 ? 127.0f : (float)j + 0.5f;
    }
    x[4 * COLS + 9] = NAN;
    device->ops->round_rows(device, x, out, ROWS, COLS);
    float scale = 100.0f / 127.0f;
    for (size_t j = 0; j < COLS; j++) {
        cr_expect_float_eq(out[j], nearbyintf(x[j] / scale) * scale, 0.0f, "column %zu", j);
        cr_expect_eq(out[COLS + j], 0.0f);
        cr_expect(fabsf(out[2 * COLS + j]) <= 2 * FLT_TRUE_MIN);
        float even = j == 0 ? 127.0f : (float)(j % 2 == 0 ? j : j + 1);
        cr_expect_eq(out[3 * COLS + j], even, "column %zu", j);
    }
    cr_expect(isnan(out[4 * COLS + 9]));
    device->ops->round_rows(device, x, x, 4, COLS);
    cr_expect_eq(memcmp(x, out, sizeof x / ROWS * 4), 0);
    device->ops->destroy(device);
}

Test(device, rms_norm_divides_by_the_root_mean_square)
{
    struct lq_device *device = plain_device(LQ_CPU_BLAS_OWN);
    enum { ROWS = 37, COLS = 100 };
    float *x = random_values(ROWS * COLS);
    float *weight = random_values(COLS);
    float *out = random_values(ROWS * COLS);
    memset(x, 0, COLS * sizeof *x); /* a row of zeros stays zero: eps */
    device->ops->rms_norm(device, x, weight, out, ROWS, COLS, 1e-5f);
    for (size_t r = 0; r < ROWS; r++) {
        double sum = 0.0;
        for (size_t j = 0; j < COLS; j++) {
            sum += (double)x[r * COLS + j] * (double)x[r * COLS + j];
        }
        for (size_t j = 0; j < COLS; j++) {
            double expected =
                (double)x[r * COLS + j] / sqrt(sum / COLS + (double)1e-5f) * (double)weight[j];
            cr_assert_float_eq(out[r * COLS + j], expected, ROW_TOLERANCE);
        }
    }
    free(x);
    free(weight);
    free(out);
    device->ops->destroy(device);
}

Test(device, rope_turns_pairs_by_position_and_leaves_the_rest)
{
    struct lq_device *device = plain_device(LQ_CPU_BLAS_OWN);
    enum { ROWS = 6, SEQUENCE = 3, HEADS = 2, DIM = 8, PAIRS = 3 };
    float *x = random_values(ROWS * HEADS * DIM);
    float before[ROWS * HEADS * DIM];
    memcpy(before, x, sizeof before);
    float table[SEQUENCE * PAIRS * 2];
    for (size_t p = 0; p < SEQUENCE; p++) {
        for (size_t i = 0; i < PAIRS; i++) {
            double angle = (double)p * pow(100.0, -(double)i / PAIRS);
            table[(p * PAIRS + i) * 2] = (float)cos(angle);
            table[(p * PAIRS + i) * 2 + 1] = (float)sin(angle);
        }
    }
    device->ops->rope(device, x, table, ROWS, SEQUENCE, HEADS, DIM, PAIRS, false);
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t h = 0; h < HEADS; h++) {
            const float *old = before + (r * HEADS + h) * DIM;
            const float *new = x + (r * HEADS + h) * DIM;
            for (size_t i = 0; i < PAIRS; i++) {
                double angle = (double)(r % SEQUENCE) * pow(100.0, -(double)i / PAIRS);
                double c = cos(angle);
                double s = sin(angle);
                cr_expect_float_eq(new[2 * i], old[2 * i] * c - old[2 * i + 1] * s, 1e-6);
                cr_expect_float_eq(new[2 * i + 1], old[2 * i] * s + old[2 * i + 1] * c, 1e-6);
            }
            cr_expect_eq(new[6], old[6]);
            cr_expect_eq(new[7], old[7]);
        }
    }
    free(x);
    device->ops->destroy(device);
}

/* ---- attention ---- */

static void attention_reference(const float *q, const float *k, const float *v, double *out,
                                const struct lq_attention_shape *s, size_t sample, size_t head,
                                size_t position)
{
    size_t kv_head = head / (s->head_count / s->kv_head_count);
    size_t kv_width = s->kv_head_count * s->head_dim;
    const float *query =
        q + ((sample * s->sequence + position) * s->head_count + head) * s->head_dim;
    double *weights = malloc((position + 1) * sizeof *weights);
    double max = -INFINITY;
    for (size_t t = 0; t <= position; t++) {
        const float *key = k + (sample * s->sequence + t) * kv_width + kv_head * s->head_dim;
        weights[t] = 0.0;
        for (size_t d = 0; d < s->head_dim; d++) {
            weights[t] += (double)query[d] * (double)key[d] / sqrt((double)s->head_dim);
        }
        max = weights[t] > max ? weights[t] : max;
    }
    double sum = 0.0;
    for (size_t t = 0; t <= position; t++) {
        weights[t] = exp(weights[t] - max);
        sum += weights[t];
    }
    for (size_t d = 0; d < s->head_dim; d++) {
        out[d] = 0.0;
        for (size_t t = 0; t <= position; t++) {
            const float *value = v + (sample * s->sequence + t) * kv_width + kv_head * s->head_dim;
            out[d] += weights[t] / sum * (double)value[d];
        }
    }
    free(weights);
}

static void check_attention(enum lq_cpu_blas blas, struct lq_attention_shape s, float amplitude)
{
    struct lq_device *device = plain_device(blas);
    size_t rows = s.sample_count * s.sequence;
    float *q = random_values(rows * s.head_count * s.head_dim);
    float *k = random_values(rows * s.kv_head_count * s.head_dim);
    float *v = random_values(rows * s.kv_head_count * s.head_dim);
    float *out = random_values(rows * s.head_count * s.head_dim);
    for (size_t i = 0; i < rows * s.head_count * s.head_dim; i++) {
        q[i] *= amplitude;
    }
    device->ops->attention(device, q, k, v, out, &s);
    double *expected = malloc(s.head_dim * sizeof *expected);
    for (size_t sample = 0; sample < s.sample_count; sample++) {
        for (size_t head = 0; head < s.head_count; head++) {
            for (size_t p = 0; p < s.sequence; p += p + 3 < s.sequence ? 3 : 1) {
                attention_reference(q, k, v, expected, &s, sample, head, p);
                const float *got =
                    out + ((sample * s.sequence + p) * s.head_count + head) * s.head_dim;
                for (size_t d = 0; d < s.head_dim; d++) {
                    /* A score of up to amplitude * head_dim^0.5 carries its own rounding into the
                     * exponent. */
                    cr_assert_float_eq(got[d], expected[d], ROW_TOLERANCE * (double)amplitude,
                                       "position %zu", p);
                }
            }
        }
    }
    free(q);
    free(k);
    free(v);
    free(out);
    free(expected);
    device->ops->destroy(device);
}

static void check_attentions(enum lq_cpu_blas blas)
{
    check_attention(blas, (struct lq_attention_shape){1, 1, 1, 1, 2, 0, 0.0f, 0.0f, 0, 0}, 1.0f);
    check_attention(blas, (struct lq_attention_shape){2, 65, 4, 2, 8, 0, 0.0f, 0.0f, 0, 0}, 1.0f);
    check_attention(blas, (struct lq_attention_shape){1, 64, 6, 1, 16, 0, 0.0f, 0.0f, 0, 0}, 1.0f);
    /* More than one tile of keys, so the running softmax rescales. */
    check_attention(blas, (struct lq_attention_shape){1, 700, 2, 1, 16, 0, 0.0f, 0.0f, 0, 0}, 1.0f);
    check_attention(blas, (struct lq_attention_shape){1, 300, 1, 1, 16, 0, 0.0f, 0.0f, 0, 0},
                    50.0f);
}

/* Some queries of each sample give what they give among all of them. */
static void check_picked_queries(enum lq_cpu_blas blas, struct lq_attention_shape s)
{
    struct lq_device *device = plain_device(blas);
    if (!device->ops->picks_queries) {
        device->ops->destroy(device);
        cr_skip_test("products are not those of our own tiles");
    }
    size_t width = s.head_count * s.head_dim;
    size_t rows = s.sample_count * s.sequence;
    float *q = random_values(rows * width);
    float *k = random_values(rows * s.kv_head_count * s.head_dim);
    float *v = random_values(rows * s.kv_head_count * s.head_dim);
    float *all = random_values(rows * width);
    float *picked_q = malloc(s.sample_count * s.query_count * width * sizeof *picked_q);
    float *picked = random_values(s.sample_count * s.query_count * width);
    struct lq_attention_shape whole = s;
    whole.first_query = 0;
    whole.query_count = 0;
    size_t part_bytes = s.query_count * width * sizeof *picked;
    for (size_t i = 0; i < s.sample_count; i++) {
        memcpy(picked_q + i * s.query_count * width, q + (i * s.sequence + s.first_query) * width,
               part_bytes);
    }
    device->ops->attention(device, q, k, v, all, &whole);
    device->ops->attention(device, picked_q, k, v, picked, &s);
    for (size_t i = 0; i < s.sample_count; i++) {
        cr_expect_eq(memcmp(picked + i * s.query_count * width,
                            all + (i * s.sequence + s.first_query) * width, part_bytes),
                     0, "sample %zu", i);
    }
    free(q);
    free(k);
    free(v);
    free(all);
    free(picked_q);
    free(picked);
    device->ops->destroy(device);
}

Test(device, attention_of_some_queries)
{
    static const struct lq_attention_shape shapes[] = {
        {2, 65, 4, 2, 8, 0, 0.0f, 0.0f, 32, 32},   {3, 700, 2, 1, 16, 0, 0.0f, 0.0f, 350, 349},
        {2, 300, 2, 2, 16, 40, 0.3f, 0.0f, 7, 1},  {1, 300, 2, 2, 16, 40, 0.3f, 2.0f, 299, 1},
        {2, 90, 1, 1, 300, 0, 0.0f, 0.0f, 45, 44},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        check_picked_queries(LQ_CPU_BLAS_AUTO, shapes[i]);
        check_picked_queries(LQ_CPU_BLAS_SHORT, shapes[i]);
    }
}

Test(device, attention_with_own_loops)
{
    check_attentions(LQ_CPU_BLAS_OWN);
}

Test(device, attention_with_openblas)
{
    if (lq_openblas_load() == NULL) {
        cr_skip_test("libopenblas.so.0 is not on this machine");
    }
    check_attentions(LQ_CPU_BLAS_OPEN);
}

Test(device, attention_with_the_best_path)
{
    check_attentions(LQ_CPU_BLAS_AUTO);
}

/* ---- sums ---- */

Test(device, add_squares_continues_the_sums)
{
    struct lq_device *device = plain_device(LQ_CPU_BLAS_OWN);
    enum { ROWS = 11, COLS = 130 };
    float *x = random_values(ROWS * COLS);
    double sums[COLS];
    for (size_t j = 0; j < COLS; j++) {
        sums[j] = (double)j;
    }
    x[5] = 3e38f; /* its square is no float */
    device->ops->add_squares(device, x, ROWS, COLS, sums);
    for (size_t j = 0; j < COLS; j++) {
        double expected = (double)j;
        for (size_t r = 0; r < ROWS; r++) {
            expected += (double)x[r * COLS + j] * (double)x[r * COLS + j];
        }
        cr_expect_eq(sums[j], expected);
    }
    free(x);
    device->ops->destroy(device);
}

Test(device, cross_entropy_of_known_rows)
{
    struct lq_device *device = plain_device(LQ_CPU_BLAS_OWN);
    enum { COLS = 1000 };
    float *logits = random_values(4 * COLS);
    memset(logits, 0, COLS * sizeof *logits);
    logits[2 * COLS + 3] = 2e38f;
    logits[3 * COLS + 999] = NAN;
    int32_t targets[] = {17, 999, 3, 0};
    double nll[4];
    device->ops->cross_entropy(device, logits, targets, 4, COLS, nll);
    cr_expect_float_eq(nll[0], log(1000.0), 1e-12);
    double sum = 0.0;
    for (size_t j = 0; j < COLS; j++) {
        sum += exp((double)logits[COLS + j]);
    }
    cr_expect_float_eq(nll[1], log(sum) - (double)logits[COLS + 999], 1e-6);
    cr_expect_float_eq(nll[2], 0.0, 1e-12);
    cr_expect(isnan(nll[3]));
    free(logits);
    device->ops->destroy(device);
}

/* ---- determinism ---- */

static void run_everything(struct lq_device *device, float *x, const float *w, float *out,
                           double *sums)
{
    enum { SEQUENCE = 150, ROWS = 2 * SEQUENCE, HEADS = 4, DIM = 32, COLS = HEADS * DIM };
    struct lq_attention_shape shape = {2, SEQUENCE, HEADS, 2, DIM, 0, 0.0f, 0.0f, 0, 0};
    const struct lq_device_ops *ops = device->ops;
    ops->rms_norm(device, x, w, x, ROWS, COLS, 1e-5f);
    ops->matmul(device, x, w, out, ROWS, 3 * COLS, COLS);
    ops->rope(device, out, w, ROWS, SEQUENCE, 3 * HEADS, DIM, DIM / 2, false);
    ops->attention(device, out, out + ROWS * COLS, out + 2 * ROWS * COLS, x, &shape);
    ops->silu_mul(device, x, out, ROWS * COLS);
    ops->add(device, out, x, ROWS * COLS);
    ops->add_squares(device, out, ROWS, COLS, sums);
    cr_assert_null(ops->failure(device));
}

Test(device, results_do_not_depend_on_threads)
{
    enum { VALUES = 300 * 128 };
    float *start = random_values(VALUES);
    float *w = random_values(3 * 128 * 128);
    float *x[3];
    float *out[3];
    double sums[3][128] = {{0}};
    for (size_t run = 0; run < 3; run++) {
        struct lq_pool *pool = NULL;
        cr_assert_eq(lq_pool_create(&pool, (unsigned)run + 1, NULL), LQ_OK);
        struct lq_parallel parallel = {.run = pool_run, .context = pool};
        struct lq_device *device = lq_device_cpu_create(parallel, LQ_CPU_BLAS_AUTO);
        x[run] = malloc(VALUES * sizeof(float));
        memcpy(x[run], start, VALUES * sizeof(float));
        out[run] = calloc(3 * VALUES, sizeof(float));
        run_everything(device, x[run], w, out[run], sums[run]);
        device->ops->destroy(device);
        lq_pool_destroy(pool);
    }
    for (size_t run = 1; run < 3; run++) {
        cr_expect_eq(memcmp(x[0], x[run], VALUES * sizeof(float)), 0);
        cr_expect_eq(memcmp(out[0], out[run], 3 * VALUES * sizeof(float)), 0);
        cr_expect_eq(memcmp(sums[0], sums[run], sizeof sums[0]), 0);
    }
    for (size_t run = 0; run < 3; run++) {
        free(x[run]);
        free(out[run]);
    }
    free(start);
    free(w);
}

Test(device, failures_stick)
{
    struct lq_device *device = plain_device(LQ_CPU_BLAS_OWN);
    cr_expect_null(device->ops->alloc(device, SIZE_MAX));
    cr_expect_not_null(device->ops->failure(device));
    float x = 1.0f;
    float y = 2.0f;
    device->ops->add(device, &x, &y, 1);
    cr_expect_eq(x, 1.0f);
    device->ops->destroy(device);
}

Test(device, empty_shapes_do_nothing)
{
    struct lq_device *device = plain_device(LQ_CPU_BLAS_AUTO);
    struct lq_attention_shape shape = {0, 5, 1, 1, 4, 0, 0.0f, 0.0f, 0, 0};
    device->ops->matmul(device, NULL, NULL, NULL, 0, 3, 2);
    device->ops->attention(device, NULL, NULL, NULL, NULL, &shape);
    device->ops->add(device, NULL, NULL, 0);
    device->ops->upload(device, NULL, NULL, 0);
    void *memory = device->ops->alloc(device, 0);
    cr_expect_not_null(memory);
    device->ops->release(device, memory);
    cr_expect_null(device->ops->failure(device));
    device->ops->destroy(device);
}

/* Cancelled within a product: the tiles that are left are not computed, and the device says so ever
 * after, so that nobody takes what is there for a result. */
static bool cancel_after_ten(void *user)
{
    unsigned *asked = user;
    return ++*asked > 10;
}

Test(device, a_product_stops_between_tiles)
{
    enum { ROWS = 2048, COLS = 2048, DEPTH = 64 };
    static const enum lq_cpu_blas kinds[] = {LQ_CPU_BLAS_AUTO, LQ_CPU_BLAS_SHORT, LQ_CPU_BLAS_OWN};
    float *a = calloc((size_t)ROWS * DEPTH, sizeof *a);
    float *c = calloc((size_t)ROWS * COLS, sizeof *c);
    for (size_t i = 0; i < (size_t)ROWS * DEPTH; i++) {
        a[i] = 1.0f;
    }
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        unsigned asked = 0;
        struct lq_parallel parallel = {.cancelled = cancel_after_ten, .cancelled_user = &asked};
        struct lq_device *cpu = lq_device_cpu_create(parallel, kinds[k]);
        memset(c, 0, (size_t)ROWS * COLS * sizeof *c);
        cpu->ops->matmul(cpu, a, a, c, ROWS, COLS, DEPTH);
        cr_expect_str_eq(cpu->ops->failure(cpu), "cancelled");
        cr_expect_eq(c[(size_t)ROWS * COLS - 1], 0.0f, "%g", (double)c[(size_t)ROWS * COLS - 1]);
        cpu->ops->zero(cpu, a, sizeof *a);
        cr_expect_eq(a[0], 1.0f);
        cpu->ops->destroy(cpu);
    }
    free(a);
    free(c);
}
