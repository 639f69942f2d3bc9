#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/pool.h"
#include "kernels/factor.h"
#include "kernels/kernels.h"

static const struct lq_parallel alone = {.run = NULL};

static float unit(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)(*state >> 40) / 8388608.0F - 1.0F;
}

/* X transpose(X) / k plus a part of its diagonal: what GPTQ hands over. */
static float *make_matrix(size_t n, uint64_t seed, double damp)
{
    size_t k = n / 2 + 1;
    float *x = malloc(n * k * sizeof *x);
    float *h = malloc(n * n * sizeof *h);
    cr_assert(x != NULL && h != NULL);
    for (size_t i = 0; i < n * k; i++) {
        x[i] = unit(&seed);
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            double sum = i == j ? damp : 0.0;
            for (size_t t = 0; t < k; t++) {
                sum += (double)x[i * k + t] * (double)x[j * k + t] / (double)k;
            }
            h[i * n + j] = (float)sum;
        }
    }
    free(x);
    return h;
}

/* U H transpose(U) is the unit matrix, as far as floats go: entries of U reach 1 / sqrt(damp), and
 * a row of products sums up n rounding errors of 2^-24. */
static void expect_inverse(const float *h, const float *u, size_t n, double tolerance)
{
    double worst = 0.0;
    double *uh = calloc(n, sizeof *uh);
    cr_assert_not_null(uh);
    for (size_t i = 0; i<n; i += n> 200 ? 17 : 1) {
        for (size_t j = 0; j < n; j++) {
            uh[j] = 0.0;
            for (size_t k = i; k < n; k++) {
                uh[j] += (double)u[i * n + k] * (double)h[k * n + j];
            }
        }
        for (size_t j = 0; j < n; j++) {
            double sum = 0.0;
            for (size_t k = j; k < n; k++) {
                sum += uh[k] * (double)u[j * n + k];
            }
            worst = fmax(worst, fabs(sum - (i == j ? 1.0 : 0.0)));
            cr_expect(j >= i || u[i * n + j] == 0.0F, "below the diagonal at %zu, %zu", i, j);
        }
    }
    cr_expect_lt(worst, tolerance, "%zu columns: %g", n, worst);
    free(uh);
}

Test(factor, gives_the_factor_of_the_inverse)
{
    static const size_t sizes[] = {1, 2, 31, 127, 128, 129, 256, 300, 520};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        size_t n = sizes[s];
        float *h = make_matrix(n, 5 + s, 0.05);
        float *u = malloc(n * n * sizeof *u);
        float *scratch = malloc(lq_factor_scratch(n) * sizeof *scratch);
        cr_assert(u != NULL && scratch != NULL);
        memcpy(u, h, n * n * sizeof *u);
        for (size_t i = 0; i < n; i++) { /* the lower triangle is not read */
            for (size_t j = 0; j < i; j++) {
                u[i * n + j] = NAN;
            }
        }
        cr_assert_eq(lq_factor_inverse(&alone, u, n, scratch), n);
        expect_inverse(h, u, n, 1e-4);
        free(h);
        free(u);
        free(scratch);
    }
}

static void run_on_pool(void *context, size_t count, void (*body)(void *user, size_t index),
                        void *user)
{
    lq_pool_for(context, count, body, user);
}

Test(factor, threads_change_no_bit)
{
    enum { N = 700 };
    struct lq_error err;
    struct lq_pool *pool = NULL;
    cr_assert_eq(lq_pool_create(&pool, 3, &err), LQ_OK);
    const struct lq_parallel many = {.run = run_on_pool, .context = pool};
    float *one = make_matrix(N, 3, 0.01);
    float *other = malloc(N * N * sizeof *other);
    float *scratch = malloc(lq_factor_scratch(N) * sizeof *scratch);
    memcpy(other, one, N * N * sizeof *other);
    cr_assert_eq(lq_factor_inverse(&alone, one, N, scratch), N);
    cr_assert_eq(lq_factor_inverse(&many, other, N, scratch), N);
    cr_expect_eq(memcmp(one, other, N * N * sizeof *other), 0);
    lq_pool_destroy(pool);
    free(one);
    free(other);
    free(scratch);
}

Test(factor, a_matrix_that_is_not_positive_definite_is_named_by_a_column)
{
    enum { N = 260 };
    float *scratch = malloc(lq_factor_scratch(N) * sizeof *scratch);
    static const float bad[] = {0.0F, -1.0F, NAN, INFINITY};
    static const size_t places[] = {0, 127, 130, N - 1};
    for (size_t b = 0; b < 4; b++) {
        for (size_t p = 0; p < 4; p++) {
            float *h = calloc((size_t)N * N, sizeof *h);
            for (size_t i = 0; i < N; i++) {
                h[i * N + i] = 2.0F;
            }
            h[places[p] * N + places[p]] = bad[b];
            cr_expect_eq(lq_factor_inverse(&alone, h, N, scratch), places[p]);
            free(h);
        }
    }
    /* Rank one: the last column is a root, the one before it has nothing left. */
    float *h = malloc((size_t)N * N * sizeof *h);
    for (size_t i = 0; i < (size_t)N * N; i++) {
        h[i] = 1.0F;
    }
    cr_expect_eq(lq_factor_inverse(&alone, h, N, scratch), N - 2);
    free(h);
    free(scratch);
}
