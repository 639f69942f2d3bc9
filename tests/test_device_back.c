#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/pool.h"
#include "kernels/blas/sgemm.h"
#include "kernels/device.h"

/* Every gradient is compared with central differences of the operation in double precision. With
 * values below 1 and a step of 1e-5 these are off by about 1e-10; what is left is the float
 * arithmetic of the device: sums of at most 300 terms (300 * 2^-24 = 1.8e-5). */
#define STEP 1e-5
#define TOLERANCE 4e-5

static uint64_t random_state;
static struct lq_device *device;
static struct lq_pool *pool;

static double random_value(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 40) / (double)(1u << 23) - 1.0;
}

static float *random_values(size_t count)
{
    float *values = malloc((count + 1) * sizeof *values);
    for (size_t i = 0; i < count; i++) {
        values[i] = (float)random_value();
    }
    return values;
}

static double *widen(const float *values, size_t count)
{
    double *wide = malloc((count + 1) * sizeof *wide);
    for (size_t i = 0; i < count; i++) {
        wide[i] = (double)values[i];
    }
    return wide;
}

static void pool_run(void *context, size_t count, void (*body)(void *user, size_t index),
                     void *user)
{
    lq_pool_for(context, count, body, user);
}

static void set_up(void)
{
    struct lq_error err;
    random_state = 4;
    cr_assert_eq(lq_pool_create(&pool, 3, &err), LQ_OK);
    device = lq_device_cpu_create((struct lq_parallel){.run = pool_run, .context = pool},
                                  LQ_CPU_BLAS_AUTO);
    cr_assert_not_null(device);
}

static void tear_down(void)
{
    cr_expect_null(device->ops->failure(device));
    device->ops->destroy(device);
    lq_pool_destroy(pool);
}

TestSuite(device_back, .init = set_up, .fini = tear_down);

/* A function of several vectors: the sum of its outputs, each times a fixed weight. */
struct subject {
    double (*value)(const struct subject *subject);
    double *in[3];
    const double *weights; /* of the outputs: the gradient that comes in */
    struct lq_attention_shape shape;
    size_t rows;
    size_t cols;
};

static double slope(struct subject *subject, size_t input, size_t index)
{
    double *at = &subject->in[input][index];
    double kept = *at;
    *at = kept + STEP;
    double above = subject->value(subject);
    *at = kept - STEP;
    double below = subject->value(subject);
    *at = kept;
    return (above - below) / (2.0 * STEP);
}

static void check_slopes(struct subject *subject, size_t input, const float *grad, size_t count,
                         const char *what)
{
    /* All of a small one, a few hundred of a large one. */
    size_t stride = count < 400 ? 1 : count / 397;
    for (size_t i = 0; i < count; i += stride) {
        double expected = slope(subject, input, i);
        cr_expect_float_eq((double)grad[i], expected, TOLERANCE * (1.0 + fabs(expected)),
                           "%s %zu: %g, expected %g", what, i, (double)grad[i], expected);
    }
}

static void check_products(size_t m, size_t n, size_t k)
{
    float *a = random_values(m * k);
    float *b = random_values(k * n);
    float *turned = random_values(m * k);
    float *plain = random_values(m * n);
    float *outer = random_values(m * n);
    for (size_t i = 0; i < m * k; i++) {
        turned[i % k * m + i / k] = a[i];
    }
    device->ops->matmul_plain(device, a, b, plain, m, n, k);
    device->ops->matmul_outer(device, turned, b, outer, k, m, n);
    for (size_t i = 0; i < m * n; i++) {
        double sum = 0.0;
        for (size_t l = 0; l < k; l++) {
            sum += (double)a[i / n * k + l] * (double)b[l * n + i % n];
        }
        /* Eight times what random signs give; see test_device.c. */
        double tolerance = 8.0 * (double)k * 0x1p-24;
        cr_assert_float_eq(plain[i], sum, tolerance, "plain %zu x %zu x %zu", m, n, k);
        cr_assert_float_eq(outer[i], sum, tolerance, "outer %zu x %zu x %zu", m, n, k);
    }
    free(a);
    free(b);
    free(turned);
    free(plain);
    free(outer);
}

Test(device_back, products)
{
    static const size_t sizes[][3] = {{1, 1, 1}, {3, 5, 7}, {65, 257, 300}, {300, 17, 513}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        check_products(sizes[i][0], sizes[i][1], sizes[i][2]);
    }
}

Test(device_back, an_outer_product_of_no_rows_is_zero)
{
    float c[6] = {1, 2, 3, 4, 5, 6};
    float none[1] = {0};
    device->ops->matmul_outer(device, none, none, c, 0, 2, 3);
    for (size_t i = 0; i < 6; i++) {
        cr_expect_eq(c[i], 0.0f);
    }
}

#define NORM_EPS 1e-5

static double norm_value(const struct subject *subject)
{
    double total = 0.0;
    for (size_t r = 0; r < subject->rows; r++) {
        const double *x = subject->in[0] + r * subject->cols;
        double squares = 0.0;
        for (size_t j = 0; j < subject->cols; j++) {
            squares += x[j] * x[j];
        }
        double scale = 1.0 / sqrt(squares / (double)subject->cols + NORM_EPS);
        for (size_t j = 0; j < subject->cols; j++) {
            total += x[j] * scale * subject->in[1][j] * subject->weights[r * subject->cols + j];
        }
    }
    return total;
}

Test(device_back, rms_norm)
{
    enum { ROWS = 19, COLS = 21 };
    float *x = random_values(ROWS * COLS);
    float *w = random_values(COLS);
    float *grad = random_values(ROWS * COLS);
    struct subject subject = {.value = norm_value,
                              .in = {widen(x, ROWS * COLS), widen(w, COLS)},
                              .weights = widen(grad, ROWS * COLS),
                              .rows = ROWS,
                              .cols = COLS};
    device->ops->rms_norm_back(device, x, w, grad, grad, ROWS, COLS, (float)NORM_EPS);
    check_slopes(&subject, 0, grad, ROWS * COLS, "x");
    free(subject.in[0]);
    free(subject.in[1]);
    free((void *)subject.weights);
    free(x);
    free(w);
    free(grad);
}

static double silu_value(const struct subject *subject)
{
    double total = 0.0;
    for (size_t i = 0; i < subject->cols; i++) {
        double gate = subject->in[0][i];
        total += gate / (1.0 + exp(-gate)) * subject->in[1][i] * subject->weights[i];
    }
    return total;
}

static double gelu_value(const struct subject *subject)
{
    double total = 0.0;
    for (size_t i = 0; i < subject->cols; i++) {
        double x = subject->in[0][i];
        double inner = sqrt(2.0 / 3.14159265358979323846) * (x + 0.044715 * x * x * x);
        total += x / 2.0 * (1.0 + tanh(inner)) * subject->in[1][i] * subject->weights[i];
    }
    return total;
}

static void check_gate(double (*value)(const struct subject *subject),
                       void (*back)(struct lq_device *device, float *gate, float *up,
                                    const float *out_grad, size_t count))
{
    enum { COUNT = 333 };
    float *gate = random_values(COUNT);
    float *up = random_values(COUNT);
    float *grad = random_values(COUNT);
    for (size_t i = 0; i < COUNT; i++) {
        gate[i] *= 8.0f;
    }
    struct subject subject = {.value = value,
                              .in = {widen(gate, COUNT), widen(up, COUNT)},
                              .weights = widen(grad, COUNT),
                              .cols = COUNT};
    back(device, gate, up, grad, COUNT);
    check_slopes(&subject, 0, gate, COUNT, "gate");
    check_slopes(&subject, 1, up, COUNT, "up");
    free(subject.in[0]);
    free(subject.in[1]);
    free((void *)subject.weights);
    free(gate);
    free(up);
    free(grad);
}

Test(device_back, gates)
{
    check_gate(silu_value, device->ops->silu_mul_back);
    check_gate(gelu_value, device->ops->gelu_mul_back);
}

/* in[0] holds what a cap of shape.cap took, if there is one. */
static double capped_logit(const struct subject *subject, size_t i)
{
    double cap = (double)subject->shape.cap;
    double logit = subject->in[0][i];
    return cap == 0.0 ? logit : cap * tanh(logit / cap);
}

static double entropy_value(const struct subject *subject)
{
    double total = 0.0;
    for (size_t r = 0; r < subject->rows; r++) {
        if (subject->weights[r] >= 0.0) {
            size_t first = r * subject->cols;
            double sum = 0.0;
            for (size_t j = 0; j < subject->cols; j++) {
                sum += exp(capped_logit(subject, first + j));
            }
            total += log(sum) - capped_logit(subject, first + (size_t)subject->weights[r]);
        }
    }
    return total * 0.25;
}

/* More logits than are kept at a time. */
static void check_entropy(float cap)
{
    enum { ROWS = 18, COLS = 283 };
    float *logits = random_values(ROWS * COLS);
    int32_t targets[ROWS];
    double wide[ROWS];
    for (int r = 0; r < ROWS; r++) {
        targets[r] = r % 5 == 4 ? -1 : r * 16;
        wide[r] = targets[r];
    }
    struct subject subject = {.value = entropy_value,
                              .in = {widen(logits, ROWS * COLS)},
                              .weights = wide,
                              .shape = {.cap = cap},
                              .rows = ROWS,
                              .cols = COLS};
    if (cap != 0.0f) {
        device->ops->soft_cap(device, logits, ROWS * COLS, cap);
    }
    device->ops->cross_entropy_back(device, logits, targets, ROWS, COLS, 0.25f, cap);
    check_slopes(&subject, 0, logits, ROWS * COLS, "logit");
    free(subject.in[0]);
    free(logits);
}

Test(device_back, cross_entropy)
{
    check_entropy(0.0f);
    check_entropy(0.75f);
}

/* ---- attention ---- */

static double attention_value(const struct subject *subject)
{
    const struct lq_attention_shape *shape = &subject->shape;
    size_t q_stride = shape->head_count * shape->head_dim;
    size_t kv_stride = shape->kv_head_count * shape->head_dim;
    double total = 0.0;
    double *scores = malloc(shape->sequence * sizeof *scores);
    for (size_t at = 0; at < shape->sample_count * shape->sequence * shape->head_count; at++) {
        size_t head = at % shape->head_count;
        size_t row = at / shape->head_count;
        size_t position = row % shape->sequence;
        size_t first = row - position;
        size_t start =
            shape->window != 0 && position >= shape->window ? position + 1 - shape->window : 0;
        double scale =
            shape->scale != 0.0f ? (double)shape->scale : 1.0 / sqrt((double)shape->head_dim);
        double cap = (double)shape->cap;
        size_t kv_head = head / (shape->head_count / shape->kv_head_count);
        const double *q = subject->in[0] + row * q_stride + head * shape->head_dim;
        const double *weights = subject->weights + row * q_stride + head * shape->head_dim;
        double sum = 0.0;
        for (size_t key = start; key <= position; key++) {
            const double *k =
                subject->in[1] + (first + key) * kv_stride + kv_head * shape->head_dim;
            double score = 0.0;
            for (size_t d = 0; d < shape->head_dim; d++) {
                score += q[d] * k[d];
            }
            score *= scale;
            scores[key] = exp(cap == 0.0 ? score : cap * tanh(score / cap));
            sum += scores[key];
        }
        for (size_t key = start; key <= position; key++) {
            const double *v =
                subject->in[2] + (first + key) * kv_stride + kv_head * shape->head_dim;
            for (size_t d = 0; d < shape->head_dim; d++) {
                total += scores[key] / sum * v[d] * weights[d];
            }
        }
    }
    free(scores);
    return total;
}

static void check_attention(struct lq_attention_shape shape)
{
    size_t rows = shape.sample_count * shape.sequence;
    size_t q_count = rows * shape.head_count * shape.head_dim;
    size_t kv_count = rows * shape.kv_head_count * shape.head_dim;
    float *q = random_values(q_count);
    float *k = random_values(kv_count);
    float *v = random_values(kv_count);
    float *out = random_values(q_count);
    float *out_grad = random_values(q_count);
    float *q_grad = random_values(q_count);
    float *k_grad = random_values(kv_count);
    float *v_grad = random_values(kv_count);
    device->ops->attention(device, q, k, v, out, &shape);
    struct lq_attention_grad grad = {q, k, v, out, out_grad, q_grad, k_grad, v_grad};
    device->ops->attention_back(device, &grad, &shape);
    struct subject subject = {.value = attention_value,
                              .in = {widen(q, q_count), widen(k, kv_count), widen(v, kv_count)},
                              .weights = widen(out_grad, q_count),
                              .shape = shape};
    check_slopes(&subject, 0, q_grad, q_count, "q");
    check_slopes(&subject, 1, k_grad, kv_count, "k");
    check_slopes(&subject, 2, v_grad, kv_count, "v");
    for (int i = 0; i < 3; i++) {
        free(subject.in[i]);
    }
    free((void *)subject.weights);
    float *const all[] = {q, k, v, out, out_grad, q_grad, k_grad, v_grad};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        free(all[i]);
    }
}

Test(device_back, attention)
{
    check_attention((struct lq_attention_shape){2, 5, 4, 2, 6, 0, 0.0f, 0.0f, 0, 0});
    check_attention((struct lq_attention_shape){1, 1, 2, 2, 4, 0, 0.0f, 0.0f, 0, 0});
    /* More than one tile of queries and of keys. */
    check_attention((struct lq_attention_shape){1, 150, 2, 1, 4, 0, 0.0f, 0.0f, 0, 0});
}

/* Windows that end within a tile of keys, at its edge, and before the first key of most queries. */
Test(device_back, attention_with_windows_caps_and_scales)
{
    check_attention((struct lq_attention_shape){1, 150, 2, 1, 4, 7, 0.0f, 0.0f, 0, 0});
    check_attention((struct lq_attention_shape){1, 290, 1, 1, 2, 128, 0.3f, 0.0f, 0, 0});
    check_attention((struct lq_attention_shape){2, 9, 4, 2, 6, 1, 0.0f, 0.0f, 0, 0});
    check_attention((struct lq_attention_shape){2, 11, 4, 2, 6, 0, 0.9f, 0.8f, 0, 0});
    check_attention((struct lq_attention_shape){1, 150, 2, 2, 4, 33, 0.7f, 1.5f, 0, 0});
}

/* ---- experts ---- */

enum { TOKENS = 21, EXPERTS = 5, USED = 2, FFN = 9, SLOTS = TOKENS * USED };

/* in[0]: logits of the router, in[1]: values of slots, weights: those that they are multiplied by.
 * Who goes where is that of `experts_of`. */
static size_t experts_of[SLOTS];
static int32_t slots_of[SLOTS];
static bool over_all; /* weights are a softmax over all experts */

static double mixture_value(const struct subject *subject)
{
    double total = 0.0;
    for (size_t r = 0; r < TOKENS; r++) {
        double sum = 0.0;
        for (size_t k = 0; k < (over_all ? EXPERTS : USED); k++) {
            size_t expert = over_all ? k : experts_of[r * USED + k];
            sum += exp(subject->in[0][r * EXPERTS + expert]);
        }
        for (size_t k = 0; k < USED; k++) {
            double weight = exp(subject->in[0][r * EXPERTS + experts_of[r * USED + k]]) / sum;
            size_t slot = (size_t)slots_of[r * USED + k];
            for (size_t j = 0; j < FFN; j++) {
                total += weight * subject->in[1][slot * FFN + j] * subject->weights[slot * FFN + j];
            }
        }
    }
    return total;
}

/* Expert 3 is never chosen: it has no slots. Its logits have no gradient unless weights are shares
 * of all experts. */
static void check_routes(bool shares)
{
    float *logits = random_values(TOKENS * EXPERTS);
    float *x = random_values(SLOTS * FFN);
    float *grad = random_values(SLOTS * FFN);
    float *logits_grad = random_values(TOKENS * EXPERTS);
    float all[TOKENS * EXPERTS];
    float weights[SLOTS];
    int32_t sources[SLOTS];
    int32_t starts[EXPERTS + 1];
    struct lq_route route = {weights, slots_of, sources, starts, shares ? all : NULL};
    over_all = shares;
    for (size_t r = 0; r < TOKENS; r++) {
        logits[r * EXPERTS + 3] = shares ? -2.0f : -9.0f;
    }
    device->ops->route(device, logits, TOKENS, EXPERTS, USED, &route);
    for (size_t i = 0; i < SLOTS; i++) {
        for (size_t e = 0; e < EXPERTS; e++) {
            bool own = slots_of[i] >= starts[e] && slots_of[i] < starts[e + 1];
            experts_of[i] = own ? e : experts_of[i];
        }
    }
    struct subject subject = {.value = mixture_value,
                              .in = {widen(logits, TOKENS * EXPERTS), widen(x, SLOTS * FFN)},
                              .weights = widen(grad, SLOTS * FFN)};
    device->ops->route_back(device, x, grad, &route, logits_grad, TOKENS, EXPERTS, USED, FFN);
    check_slopes(&subject, 0, logits_grad, TOKENS * EXPERTS, "router");
    device->ops->weigh_rows(device, grad, &route, TOKENS, USED, FFN);
    check_slopes(&subject, 1, grad, SLOTS * FFN, "slot");
    free(subject.in[0]);
    free(subject.in[1]);
    free((void *)subject.weights);
    free(logits);
    free(x);
    free(grad);
    free(logits_grad);
}

Test(device_back, routes)
{
    check_routes(false);
}

Test(device_back, routes_by_shares_of_all_experts)
{
    check_routes(true);
}

Test(device_back, shares_of_all_experts_may_replace_the_logits)
{
    float logits[] = {1.0f, 3.0f, -1.0f, 2.0f};
    float weights[2];
    int32_t slots[2];
    int32_t sources[2];
    int32_t starts[5];
    struct lq_route route = {weights, slots, sources, starts, logits};
    device->ops->route(device, logits, 1, 4, 2, &route);
    double sum = exp(1.0) + exp(3.0) + exp(-1.0) + exp(2.0);
    cr_expect_float_eq(weights[0], exp(3.0) / sum, 1e-6);
    cr_expect_float_eq(weights[1], exp(2.0) / sum, 1e-6);
    cr_expect_float_eq(logits[2], exp(-1.0) / sum, 1e-6);
    cr_expect_float_eq(logits[0] + logits[1] + logits[2] + logits[3], 1.0, 1e-6);
}

Test(device_back, slots_add_up_without_weights)
{
    float x[] = {1, 2, 3, 4, 5, 6};
    int32_t slots[] = {2, 0};
    float out[2];
    struct lq_route route = {NULL, slots, NULL, NULL, NULL};
    device->ops->combine_rows(device, x, &route, out, 1, 2, 2);
    cr_expect_eq(out[0], 6.0f);
    cr_expect_eq(out[1], 8.0f);
}

/* ---- scores ---- */

Test(device_back, scores)
{
    enum { ROWS = 7, COLS = 130 };
    float *grad = random_values(ROWS * COLS);
    float *weight = random_values(ROWS * COLS);
    for (int squares = 0; squares < 2; squares++) {
        double sums[COLS] = {0};
        float scores[ROWS * COLS] = {0};
        struct lq_score_shape shape = {ROWS, COLS, squares != 0};
        device->ops->add_scores(device, grad, weight, &shape, sums, scores);
        device->ops->add_scores(device, grad, weight, &shape, sums, NULL);
        for (size_t j = 0; j < COLS; j++) {
            double expected = 0.0;
            for (size_t r = 0; r < ROWS; r++) {
                double g = (double)grad[r * COLS + j];
                double product = fabs(g * (double)weight[r * COLS + j]);
                expected += squares != 0 ? g * g : product;
                cr_expect_float_eq(scores[r * COLS + j], squares != 0 ? product * product : product,
                                   1e-6);
            }
            cr_expect_float_eq(sums[j], 2.0 * expected, 1e-6, "column %zu", j);
        }
    }
    free(grad);
    free(weight);
}

Test(device_back, not_a_number_reaches_the_sums)
{
    float grad[2] = {NAN, 1.0f};
    float weight[2] = {1.0f, 1.0f};
    double sums[2] = {0};
    struct lq_score_shape shape = {1, 2, false};
    device->ops->add_scores(device, grad, weight, &shape, sums, NULL);
    cr_expect(isnan(sums[0]));
    cr_expect_eq(sums[1], 1.0);
}
