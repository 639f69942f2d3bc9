/* Every operation of a GPU as a device against the CPU's, on shapes that fit and shapes that do
 * not. The module is the one that LQBUILD_CUDA_MODULE names, or that lies beside the program: the
 * real one, or tests/gpu_fake.c, which runs the same sources on the CPU.
 *   checkdevice             compare, and print the worst error of each operation
 *   checkdevice --quick     on a few small shapes, for compute-sanitizer
 *   checkdevice --threads   the same on a fake GPU that watches each thread, and with memory that
 * is never larger than it need be, nor kept checkdevice --bits      print a hash of what operations
 * give that have the same bits everywhere checkdevice --turns     compare those of a fake GPU whose
 * threads take turns both ways checkdevice --bench     time them Exits with 77 where there is no
 * GPU. */
#include "tests/checkdevice.h"

#include "kernels/exp_inline.h"
#include "kernels/gpu_device_parts.h"
#include "tests/checkdevice_bench.h"

/* The same formulas in the same precisions; sums have other orders: at most some thousand terms,
 * each off by 2^-24. */
#define ROW_TOLERANCE 4e-6
/* Sums of doubles in another order. */
#define SUM_TOLERANCE 1e-12
/* Weights of attention, and gradients of scores, are rounded to bf16: off by at most 2^-8 each, by
 * 1.65e-3 in the root mean square, and sums of them, which are compared, likewise. Queries, keys
 * and values come rounded. */
#define HEADS_TOLERANCE 0x1p-8

/* Sums of k products in [-1, 1] in 32 bits, eight times what random signs give. */
static double product_tolerance(size_t k)
{
    return 8.0 * (double)(k + 1) * 0x1p-24;
}

static bool quick;
static bool is_watched;
static char shape_text[96];

static const char *shape3(size_t a, size_t b, size_t c)
{
    (void)snprintf(shape_text, sizeof shape_text, "%zu x %zu x %zu", a, b, c);
    return shape_text;
}

/* ---- products ---- */

static void check_products(size_t m, size_t n, size_t k)
{
    struct both a = both_random(m * k, 1.0f, true);
    struct both turned = both_random(n * k, 1.0f, true); /* [n x k], or [k x n] */
    struct both upright = both_random(k * m, 1.0f, true);
    struct both c = both_poison(m * n * sizeof(float));
    const char *shape = shape3(m, n, k);
    double tolerance = product_tolerance(k);
    cpu->ops->matmul(cpu, host_of(&a), host_of(&turned), host_of(&c), m, n, k);
    gpu->ops->matmul(gpu, device_of(&a), device_of(&turned), device_of(&c), m, n, k);
    compare_floats("matmul", shape, &c, tolerance, 1.0);
    cpu->ops->matmul_plain(cpu, host_of(&a), host_of(&turned), host_of(&c), m, n, k);
    gpu->ops->matmul_plain(gpu, device_of(&a), device_of(&turned), device_of(&c), m, n, k);
    compare_floats("matmul_plain", shape, &c, tolerance, 1.0);
    cpu->ops->matmul_outer(cpu, host_of(&upright), host_of(&turned), host_of(&c), k, m, n);
    gpu->ops->matmul_outer(gpu, device_of(&upright), device_of(&turned), device_of(&c), k, m, n);
    compare_floats("matmul_outer", shape, &c, tolerance, 1.0);
    both_free(&a);
    both_free(&turned);
    both_free(&upright);
    both_free(&c);
}

/* Sides that were rounded before are not rounded again until somebody writes to them: in part, by
 * an operation, by a copy, by another who takes the memory. And parts of a side are found. */
static void check_twins(void)
{
    enum { M = 24, N = 40, K = 32 };
    struct both a = both_random(M * K, 1.0f, true);
    struct both b = both_random(2 * N * K, 1.0f, true);
    struct both c = both_poison(M * N * sizeof(float));
    struct both row = both_random(K, 1.0f, true);
    double tolerance = product_tolerance(K);
    for (size_t step = 0; step < 6; step++) {
        size_t first = step % 3 * N / 2;
        if (step == 2) {
            gpu->ops->upload(gpu, device_of(&a) + 3 * K, row.host, K * sizeof(float));
            memcpy(host_of(&a) + 3 * K, row.host, K * sizeof(float));
        } else if (step == 3) {
            gpu->ops->copy(gpu, device_of(&b) + K, device_of(&row), K);
            memcpy(host_of(&b) + K, row.host, K * sizeof(float));
        } else if (step == 4) {
            gpu->ops->zero(gpu, device_of(&a), K * sizeof(float));
            memset(a.host, 0, K * sizeof(float));
        } else if (step == 5) {
            both_free(&b);
            b = both_random(2 * N * K, 1.0f, true);
        }
        cpu->ops->matmul(cpu, host_of(&a), host_of(&b) + first * K, host_of(&c), M, N, K);
        gpu->ops->matmul(gpu, device_of(&a), device_of(&b) + first * K, device_of(&c), M, N, K);
        compare_floats("twins", shape3(step, first, 0), &c, tolerance, 1.0);
        cpu->ops->matmul(cpu, host_of(&a) + 4 * K, host_of(&b) + first * K, host_of(&c), M - 4, N,
                         K);
        gpu->ops->matmul(gpu, device_of(&a) + 4 * K, device_of(&b) + first * K, device_of(&c),
                         M - 4, N, K);
        compare_floats("twins", shape3(step, first, 4), &c, tolerance, 1.0);
    }
    both_free(&a);
    both_free(&b);
    both_free(&c);
    both_free(&row);
}

/* Operations that leave a twin of what they give: it must be what rounding gives. */
static void check_left_twins(size_t rows, size_t cols)
{
    struct both x = both_random(rows * cols, 1.0f, false);
    struct both weight = both_random(cols, 1.0f, false);
    struct both out = both_poison(rows * cols * sizeof(float));
    struct both same = both_poison(rows * cols * sizeof(float));
    struct both c = both_poison(rows * cols * sizeof(float));
    struct both again = both_poison(rows * cols * sizeof(float));
    struct both side = both_random(cols * cols, 1.0f, true);
    for (int way = 0; way < 2; way++) {
        if (way == 0) {
            gpu->ops->rms_norm(gpu, device_of(&x), device_of(&weight), device_of(&out), rows, cols,
                               1e-5f);
        } else {
            gpu->ops->copy(gpu, device_of(&out), device_of(&x), rows * cols);
            gpu->ops->silu_mul(gpu, device_of(&out), device_of(&x), rows * cols);
        }
        gpu->ops->matmul(gpu, device_of(&out), device_of(&side), device_of(&c), rows, cols, cols);
        gpu->ops->copy(gpu, device_of(&same), device_of(&out), rows * cols);
        gpu->ops->matmul(gpu, device_of(&same), device_of(&side), device_of(&again), rows, cols,
                         cols);
        gpu->ops->download(gpu, again.host, device_of(&again), again.size_bytes);
        memcpy(c.host, again.host, c.size_bytes);
        compare_bytes("left twins", shape3(rows, cols, (size_t)way), &c);
    }
    struct both *const all[] = {&x, &weight, &out, &same, &c, &again, &side};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        both_free(all[i]);
    }
}

/* ---- single values and rows ---- */

static void check_values(size_t count)
{
    struct both x = both_random(count, 20.0f, false);
    struct both y = both_random(count, 2.0f, false);
    struct both z = both_random(count, 2.0f, false);
    const char *shape = shape3(count, 0, 0);
    const struct lq_device_ops *const all[] = {cpu->ops, gpu->ops};
    for (size_t i = 0; i < 2; i++) {
        struct lq_device *device = i == 0 ? cpu : gpu;
        float *const xs = i == 0 ? host_of(&x) : device_of(&x);
        float *const ys = i == 0 ? host_of(&y) : device_of(&y);
        float *const zs = i == 0 ? host_of(&z) : device_of(&z);
        all[i]->silu_mul(device, xs, ys, count);
        all[i]->add(device, xs, zs, count);
        all[i]->soft_cap(device, xs, count, 7.0f);
        all[i]->gelu_mul(device, xs, zs, count);
        all[i]->silu_mul_back(device, xs, ys, zs, count);
        all[i]->gelu_mul_back(device, ys, xs, zs, count);
    }
    compare_floats("gates, caps, sums", shape, &x, ROW_TOLERANCE, 1.0);
    compare_floats("gates, caps, sums", shape, &y, ROW_TOLERANCE, 1.0);
    both_free(&x);
    both_free(&y);
    both_free(&z);
}

static void check_rows(size_t rows, size_t cols)
{
    struct both x = both_random(rows * cols, 3.0f, false);
    struct both weight = both_random(cols, 1.0f, false);
    struct both out = both_poison(rows * cols * sizeof(float));
    struct both grad = both_random(rows * cols, 1.0f, false);
    const char *shape = shape3(rows, cols, 0);
    if (rows > 1) {
        memset(x.host, 0, cols * sizeof(float)); /* a row of zeros stays zero */
        gpu->ops->zero(gpu, x.device, cols * sizeof(float));
    }
    for (size_t i = 0; i < 2; i++) {
        struct lq_device *device = i == 0 ? cpu : gpu;
        float *const xs = i == 0 ? host_of(&x) : device_of(&x);
        float *const ws = i == 0 ? host_of(&weight) : device_of(&weight);
        float *const outs = i == 0 ? host_of(&out) : device_of(&out);
        float *const grads = i == 0 ? host_of(&grad) : device_of(&grad);
        device->ops->rms_norm(device, xs, ws, outs, rows, cols, 1e-5f);
        device->ops->rms_norm_back(device, outs, ws, grads, grads, rows, cols, 1e-5f);
        device->ops->add_bias(device, xs, ws, rows, cols);
        device->ops->rms_norm(device, xs, ws, xs, rows, cols, 1e-5f);
    }
    compare_floats("rms_norm", shape, &out, ROW_TOLERANCE, 1.0);
    compare_floats("rms_norm_back", shape, &grad, 4.0 * ROW_TOLERANCE, 1.0);
    compare_floats("rms_norm", shape, &x, ROW_TOLERANCE, 1.0);
    both_free(&x);
    both_free(&weight);
    both_free(&out);
    both_free(&grad);
}

static void check_rope(size_t rows, size_t sequence, size_t heads, size_t dim, size_t pairs,
                       bool halves)
{
    struct both x = both_random(rows * heads * dim, 1.0f, false);
    struct both table = both_random(sequence * pairs * 2, 1.0f, false);
    cpu->ops->rope(cpu, host_of(&x), host_of(&table), rows, sequence, heads, dim, pairs, halves);
    gpu->ops->rope(gpu, device_of(&x), device_of(&table), rows, sequence, heads, dim, pairs,
                   halves);
    compare_bytes("rope", shape3(rows, heads, dim), &x);
    both_free(&x);
    both_free(&table);
}

static void check_sums(size_t rows, size_t cols)
{
    struct both x = both_random(rows * cols, 2.0f, false);
    struct both weight = both_random(rows * cols, 2.0f, false);
    struct both scores = both_random(rows * cols, 2.0f, false);
    double *start = take(cols * sizeof *start);
    for (size_t j = 0; j < cols; j++) {
        start[j] = (double)j;
    }
    struct both sums = both_of(start, cols * sizeof *start);
    for (size_t i = 0; i < 2; i++) {
        struct lq_device *device = i == 0 ? cpu : gpu;
        float *const xs = i == 0 ? host_of(&x) : device_of(&x);
        float *const ws = i == 0 ? host_of(&weight) : device_of(&weight);
        float *const all = i == 0 ? host_of(&scores) : device_of(&scores);
        double *const to = i == 0 ? sums.host : sums.device;
        const struct lq_score_shape products = {rows, cols, false};
        const struct lq_score_shape squares = {rows, cols, true};
        device->ops->add_squares(device, xs, rows, cols, to);
        device->ops->add_scores(device, xs, ws, &products, to, all);
        device->ops->add_scores(device, xs, ws, &squares, to, all);
        device->ops->add_scores(device, xs, ws, &squares, to, NULL);
    }
    compare_doubles("add_squares, add_scores", shape3(rows, cols, 0), &sums, SUM_TOLERANCE);
    compare_bytes("scores", shape3(rows, cols, 0), &scores);
    free(start);
    both_free(&x);
    both_free(&weight);
    both_free(&scores);
    both_free(&sums);
}

static double entropy_of(const float *x, size_t cols, size_t target)
{
    float largest = x[0];
    double sum = 0.0;
    for (size_t j = 1; j < cols; j++) {
        largest = x[j] > largest ? x[j] : largest;
    }
    for (size_t j = 0; j < cols; j++) {
        sum += (double)lq_exp_f32(x[j] - largest);
    }
    return log(sum) - (double)(x[target] - largest);
}

static void check_entropy(size_t rows, size_t cols, float cap)
{
    int32_t *chosen = take(rows * sizeof *chosen);
    struct both logits = both_random(rows * cols, 12.0f, false);
    struct both nll = both_poison(rows * sizeof(double));
    for (size_t r = 0; r < rows; r++) {
        chosen[r] = (int32_t)(random_bits() % cols);
    }
    struct both targets = both_of(chosen, rows * sizeof *chosen);
    /* By the formula: the CPU joins strips, whose exponentials are others. */
    for (size_t r = 0; r < rows; r++) {
        ((double *)nll.host)[r] = entropy_of(host_of(&logits) + r * cols, cols, (size_t)chosen[r]);
    }
    gpu->ops->cross_entropy(gpu, device_of(&logits), targets.device, rows, cols, nll.device);
    /* The logarithm is the device's own: its last bit is not everywhere the same. */
    if (!wants_bits) {
        compare_doubles("cross_entropy", shape3(rows, cols, 0), &nll, SUM_TOLERANCE);
    }
    for (size_t r = 2; r < rows; r += 5) {
        chosen[r] = -1;
    }
    memcpy(targets.host, chosen, rows * sizeof *chosen);
    gpu->ops->upload(gpu, targets.device, chosen, rows * sizeof *chosen);
    cpu->ops->cross_entropy_back(cpu, host_of(&logits), targets.host, rows, cols, 0.25f, cap);
    gpu->ops->cross_entropy_back(gpu, device_of(&logits), targets.device, rows, cols, 0.25f, cap);
    compare_floats("cross_entropy_back", shape3(rows, cols, (size_t)cap), &logits, ROW_TOLERANCE,
                   0.25);
    free(chosen);
    both_free(&logits);
    both_free(&nll);
    both_free(&targets);
}

/* The formula, in one sum after another. */
static void difference_of(const float *p, const float *q, size_t cols, size_t target,
                          struct lq_logits_difference *out)
{
    size_t top_p = 0;
    size_t top_q = 0;
    double total_p = 0.0;
    double total_q = 0.0;
    double sum = 0.0;
    for (size_t j = 1; j < cols; j++) {
        top_p = p[j] > p[top_p] ? j : top_p;
        top_q = q[j] > q[top_q] ? j : top_q;
    }
    for (size_t j = 0; j < cols; j++) {
        double e = (double)lq_exp_f32(p[j] - p[top_p]);
        total_p += e;
        total_q += (double)lq_exp_f32(q[j] - q[top_q]);
        sum += e * (double)(p[j] - q[j]);
    }
    double log_p = (double)p[top_p] + log(total_p);
    double log_q = (double)q[top_q] + log(total_q);
    *out = (struct lq_logits_difference){sum / total_p - (log_p - log_q), log_q - (double)q[target],
                                         log_p - (double)p[target], top_p == top_q ? 1.0 : 0.0};
}

static void check_difference(size_t rows, size_t cols)
{
    int32_t *chosen = take(rows * sizeof *chosen);
    struct both original = both_random(rows * cols, 12.0f, false);
    struct both logits = both_random(rows * cols, 0.5f, false);
    struct both out = both_poison(rows * sizeof(struct lq_logits_difference));
    for (size_t i = 0; i < rows * cols; i++) {
        host_of(&logits)[i] += host_of(&original)[i];
    }
    for (size_t r = 0; r < rows; r++) {
        chosen[r] = (int32_t)(random_bits() % cols);
        if (cols > 2 && r % 3 == 0) { /* of equal ones the first counts */
            host_of(&original)[r * cols + cols / 2] = host_of(&original)[r * cols + cols - 1] =
                13.0f;
        }
    }
    gpu->ops->upload(gpu, original.device, original.host, original.size_bytes);
    gpu->ops->upload(gpu, logits.device, logits.host, logits.size_bytes);
    struct both targets = both_of(chosen, rows * sizeof *chosen);
    for (size_t r = 0; r < rows; r++) {
        difference_of(host_of(&original) + r * cols, host_of(&logits) + r * cols, cols,
                      (size_t)chosen[r], (struct lq_logits_difference *)out.host + r);
    }
    gpu->ops->compare_logits(gpu, device_of(&original), device_of(&logits), targets.device, rows,
                             cols, out.device);
    if (!wants_bits) { /* logarithms again */
        compare_doubles("compare_logits", shape3(rows, cols, 0), &out, SUM_TOLERANCE);
    }
    free(chosen);
    both_free(&original);
    both_free(&logits);
    both_free(&out);
    both_free(&targets);
}

/* ---- mixtures ---- */

struct both_route {
    struct both weights, slots, sources, starts;
};

static struct lq_route route_on(const struct both_route *route, bool host)
{
    return (struct lq_route){
        .weights = host ? route->weights.host : route->weights.device,
        .slots = host ? route->slots.host : route->slots.device,
        .sources = host ? route->sources.host : route->sources.device,
        .starts = host ? route->starts.host : route->starts.device,
    };
}

static void check_moves(const struct both_route *route, size_t rows, size_t experts, size_t used,
                        size_t cols)
{
    struct both x = both_random(rows * cols, 1.0f, false);
    struct both slots = both_poison(rows * used * cols * sizeof(float));
    struct both grad = both_random(rows * used * cols, 1.0f, false);
    struct both logits = both_poison(rows * experts * sizeof(float));
    struct both out = both_poison(rows * cols * sizeof(float));
    struct both plain = both_poison(rows * cols * sizeof(float));
    const char *shape = shape3(rows, experts, used);
    for (size_t i = 0; i < 2; i++) {
        bool host = i == 0;
        struct lq_device *device = host ? cpu : gpu;
        struct lq_route to = route_on(route, host);
        float *const xs = host ? host_of(&x) : device_of(&x);
        float *const all = host ? host_of(&slots) : device_of(&slots);
        float *const grads = host ? host_of(&grad) : device_of(&grad);
        device->ops->gather_rows(device, xs, to.sources, all, rows * used, cols);
        device->ops->route_back(device, all, grads, &to,
                                host ? host_of(&logits) : device_of(&logits), rows, experts, used,
                                cols);
        device->ops->combine_rows(device, all, &to, host ? host_of(&out) : device_of(&out), rows,
                                  used, cols);
        device->ops->weigh_rows(device, all, &to, rows, used, cols);
        to.weights = NULL;
        device->ops->combine_rows(device, all, &to, host ? host_of(&plain) : device_of(&plain),
                                  rows, used, cols);
    }
    compare_floats("route_back", shape, &logits, ROW_TOLERANCE, 1.0);
    compare_floats("combine_rows", shape, &out, ROW_TOLERANCE, 1.0);
    compare_floats("weigh_rows", shape, &plain, ROW_TOLERANCE, 1.0);
    struct both *const all[] = {&x, &slots, &grad, &logits, &out, &plain};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        both_free(all[i]);
    }
}

static void check_route(size_t rows, size_t experts, size_t used, size_t cols)
{
    struct both logits = both_random(rows * experts, 3.0f, false);
    struct both_route route = {
        both_poison(rows * used * sizeof(float)), both_poison(rows * used * sizeof(int32_t)),
        both_poison(rows * used * sizeof(int32_t)), both_poison((experts + 1) * sizeof(int32_t))};
    for (size_t r = 0; r + 1 < rows && experts > 2; r += 3) { /* equal ones */
        host_of(&logits)[r * experts + 2] = host_of(&logits)[r * experts];
    }
    gpu->ops->upload(gpu, logits.device, logits.host, logits.size_bytes);
    struct lq_route host = route_on(&route, true);
    struct lq_route device = route_on(&route, false);
    cpu->ops->route(cpu, host_of(&logits), rows, experts, used, &host);
    gpu->ops->route(gpu, device_of(&logits), rows, experts, used, &device);
    const char *shape = shape3(rows, experts, used);
    compare_bytes("route", shape, &route.slots);
    compare_bytes("route", shape, &route.sources);
    compare_bytes("route", shape, &route.starts);
    compare_floats("route", shape, &route.weights, ROW_TOLERANCE, 1e-3);
    if (rows > 0) {
        check_moves(&route, rows, experts, used, cols);
    }
    both_free(&logits);
    both_free(&route.weights);
    both_free(&route.slots);
    both_free(&route.sources);
    both_free(&route.starts);
}

/* ---- attention ---- */

static void check_attention(struct lq_attention_shape shape, float amplitude)
{
    size_t rows = shape.sample_count * shape.sequence;
    size_t q_count = rows * shape.head_count * shape.head_dim;
    size_t kv_count = rows * shape.kv_head_count * shape.head_dim;
    struct both q = both_random(q_count, amplitude, true);
    struct both k = both_random(kv_count, 1.0f, true);
    struct both v = both_random(kv_count, 1.0f, true);
    struct both grad = both_random(q_count, 1.0f, true);
    struct both out = both_poison(q_count * sizeof(float));
    struct both q_grad = both_poison(q_count * sizeof(float));
    struct both k_grad = both_poison(kv_count * sizeof(float));
    struct both v_grad = both_poison(kv_count * sizeof(float));
    char text[96];
    const int first_way = lq_gpu_of(gpu)->has_no_flash ? 1 : 0; /* LQBUILD_NO_FLASH */
    (void)snprintf(text, sizeof text, "%zu samples of %zu, %zu/%zu heads of %zu, window %zu",
                   shape.sample_count, shape.sequence, shape.head_count, shape.kv_head_count,
                   shape.head_dim, shape.window);
    cpu->ops->attention(cpu, q.host, k.host, v.host, out.host, &shape);
    /* In one operation where it can be, and as products of tiles, which must give the same. */
    for (int way = first_way; way < 2; way++) {
        lq_gpu_of(gpu)->has_no_flash = way == 1;
        gpu->ops->zero(gpu, out.device, out.size_bytes);
        gpu->ops->attention(gpu, q.device, k.device, v.device, out.device, &shape);
        compare_norms(way == 0 ? "attention" : "attention in tiles", text, &out, HEADS_TOLERANCE);
    }
    /* The gradients of both start from the same numbers. */
    gpu->ops->upload(gpu, out.device, out.host, out.size_bytes);
    gpu->ops->upload(gpu, grad.device, grad.host, grad.size_bytes);
    struct lq_attention_grad host = {q.host,    k.host,      v.host,      out.host,
                                     grad.host, q_grad.host, k_grad.host, v_grad.host};
    struct lq_attention_grad device = {q.device,    k.device,      v.device,      out.device,
                                       grad.device, q_grad.device, k_grad.device, v_grad.device};
    cpu->ops->attention_back(cpu, &host, &shape);
    for (int way = first_way; way < 2; way++) {
        const char *name = way == 0 ? "attention_back" : "attention_back in tiles";
        lq_gpu_of(gpu)->has_no_flash = way == 1;
        gpu->ops->zero(gpu, q_grad.device, q_grad.size_bytes);
        gpu->ops->zero(gpu, k_grad.device, k_grad.size_bytes);
        gpu->ops->zero(gpu, v_grad.device, v_grad.size_bytes);
        gpu->ops->attention_back(gpu, &device, &shape);
        compare_norms(name, text, &q_grad, HEADS_TOLERANCE);
        compare_norms(name, text, &k_grad, HEADS_TOLERANCE);
        compare_norms(name, text, &v_grad, HEADS_TOLERANCE);
    }
    lq_gpu_of(gpu)->has_no_flash = first_way == 1;
    struct both *const all[] = {&q, &k, &v, &grad, &out, &q_grad, &k_grad, &v_grad};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        both_free(all[i]);
    }
}

/* ---- weights and copies ---- */

static void check_load(enum lq_dtype dtype, size_t rows, size_t cols)
{
    const struct lq_kernels *ref = lq_kernels_at(LQ_CPU_REF);
    size_t row_bytes = lq_dtype_row_bytes(dtype, cols);
    unsigned char *bytes = take(rows * row_bytes);
    float *row = take(cols * sizeof *row);
    struct both values = both_poison(rows * cols * sizeof(float));
    bool finite = false;
    for (size_t r = 0; r < rows; r++) {
        for (size_t j = 0; j < cols; j++) {
            row[j] = random_value();
        }
        if (dtype == LQ_DTYPE_F32) {
            memcpy(bytes + r * row_bytes, row, row_bytes);
            memcpy(host_of(&values) + r * cols, row, row_bytes);
        } else {
            ref->encode[dtype](row, bytes + r * row_bytes, cols, NULL);
            ref->decode[dtype](bytes + r * row_bytes, host_of(&values) + r * cols, cols);
        }
    }
    gpu->ops->load(gpu, dtype, bytes, rows, cols, device_of(&values), &finite);
    compare_bytes("load", lq_dtype_name((uint32_t)dtype), &values);
    record("load", finite ? 0.0 : INFINITY, "finite weights");
    if (dtype == LQ_DTYPE_F32 || dtype == LQ_DTYPE_F16) {
        memset(bytes + rows * row_bytes - 4, 0xff, 4);
        gpu->ops->load(gpu, dtype, bytes, rows, cols, device_of(&values), &finite);
        record("load", finite ? INFINITY : 0.0, "a NaN");
    }
    free(bytes);
    free(row);
    both_free(&values);
}

static void check_copies(size_t count)
{
    struct both x = both_random(count, 1.0f, false);
    struct both y = both_poison(count * sizeof(float));
    gpu->ops->copy(gpu, device_of(&y) + 3, device_of(&x), count - 3);
    memcpy(host_of(&y) + 3, x.host, (count - 3) * sizeof(float));
    gpu->ops->zero(gpu, y.device, 2 * sizeof(float));
    memset(y.host, 0, 2 * sizeof(float));
    compare_bytes("copies", shape3(count, 0, 0), &x);
    compare_bytes("copies", shape3(count, 0, 0), &y);
    both_free(&x);
    both_free(&y);
}

/* Nothing happens for empty shapes, not even a failure; a product without depth is zero. */
static void check_empty(void)
{
    struct lq_attention_shape shape = {0, 5, 1, 1, 4, 0, 0.0f, 0.0f, 0, 0};
    struct both c = both_poison(6 * sizeof(float));
    bool finite = false;
    gpu->ops->matmul(gpu, NULL, NULL, NULL, 0, 3, 2);
    gpu->ops->matmul_outer(gpu, NULL, NULL, device_of(&c), 0, 2, 3);
    memset(c.host, 0, c.size_bytes);
    gpu->ops->attention(gpu, NULL, NULL, NULL, NULL, &shape);
    gpu->ops->add(gpu, NULL, NULL, 0);
    gpu->ops->rms_norm(gpu, NULL, NULL, NULL, 0, 8, 1e-5f);
    gpu->ops->add_squares(gpu, NULL, 0, 8, NULL);
    gpu->ops->cross_entropy(gpu, NULL, NULL, 0, 8, NULL);
    gpu->ops->gather_rows(gpu, NULL, NULL, NULL, 0, 8);
    gpu->ops->upload(gpu, NULL, NULL, 0);
    gpu->ops->download(gpu, NULL, NULL, 0);
    gpu->ops->load(gpu, LQ_DTYPE_BF16, NULL, 0, 8, NULL, &finite);
    void *memory = gpu->ops->alloc(gpu, 0);
    record("empty shapes", memory == NULL ? INFINITY : 0.0, "alloc");
    gpu->ops->release(gpu, memory);
    compare_bytes("empty shapes", "outer product of no rows", &c);
    both_free(&c);
}

/* ---- all ---- */

static void check_exact(void)
{
    static const size_t counts[] = {1, 255, 1024, 1025, 5000};
    static const size_t shapes[][2] = {{1, 1},    {3, 5},     {2, 32},   {37, 100},
                                       {64, 256}, {33, 1000}, {5, 2049}, {70, 768}};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        check_values(counts[i]);
    }
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        check_rows(shapes[i][0], shapes[i][1]);
        check_sums(shapes[i][0], shapes[i][1]);
        check_entropy(shapes[i][0], shapes[i][1], 0.0f);
        check_entropy(shapes[i][0], shapes[i][1], 30.0f);
        check_difference(shapes[i][0], shapes[i][1]);
    }
    check_rope(6, 3, 2, 8, 3, false);
    check_rope(40, 20, 3, 64, 32, true);
    check_rope(12, 12, 5, 10, 5, false);
    check_route(0, 4, 2, 8);
    check_route(1, 1, 1, 3);
    check_route(37, 8, 2, 40);
    check_route(300, 300, 7, 70);
    check_route(90, 64, 64, 33);
    for (int dtype = 0; dtype < LQ_DTYPE_COUNT; dtype++) {
        if (dtype == LQ_DTYPE_F32 || lq_kernels_at(LQ_CPU_REF)->encode[dtype] != NULL) {
            check_load((enum lq_dtype)dtype, 3, 512);
        }
    }
    check_copies(5000);
    check_empty();
}

static void check_sums_of_products(void)
{
    static const size_t sizes[][3] = {{1, 1, 1},      {3, 5, 7},       {4, 16, 256}, {5, 17, 257},
                                      {64, 128, 64},  {130, 300, 513}, {1, 900, 33}, {256, 8, 72},
                                      {17, 24, 1000}, {2, 3, 0}};
    static const struct lq_attention_shape shapes[] = {
        {1, 1, 1, 1, 4, 0, 0.0f, 0.0f, 0, 0},       {2, 7, 4, 2, 8, 0, 0.0f, 0.0f, 0, 0},
        {1, 128, 2, 2, 64, 0, 0.0f, 0.0f, 0, 0},    {1, 300, 6, 2, 64, 0, 0.0f, 0.0f, 0, 0},
        {2, 150, 4, 1, 32, 40, 0.0f, 0.0f, 0, 0},   {1, 260, 3, 3, 128, 129, 0.0f, 20.0f, 0, 0},
        {3, 40, 4, 4, 256, 40, 0.2f, 0.0f, 0, 0},   {1, 200, 2, 1, 10, 1, 0.0f, 0.0f, 0, 0},
        {1, 129, 8, 8, 80, 1000, 0.0f, 5.0f, 0, 0}, {1, 257, 2, 2, 96, 0, 0.0f, 0.0f, 0, 0},
        {2, 300, 2, 1, 128, 20, 0.0f, 0.0f, 0, 0},  {1, 140, 2, 1, 192, 0, 0.0f, 0.0f, 0, 0},
        {1, 400, 1, 1, 256, 150, 0.1f, 3.0f, 0, 0}, {5, 17, 3, 1, 104, 3, 0.0f, 0.0f, 0, 0},
    };
    size_t count = quick ? 6 : sizeof sizes / sizeof sizes[0];
    for (size_t i = 0; i < count; i++) {
        check_products(sizes[i][0], sizes[i][1], sizes[i][2]);
    }
    check_twins();
    check_left_twins(9, 24);
    check_left_twins(5, 33);
    count = quick && !is_watched ? 3 : sizeof shapes / sizeof shapes[0];
    for (size_t i = 0; i < count; i++) {
        check_attention(shapes[i], 1.0f);
    }
    if (quick) {
        return;
    }
    check_attention(shapes[3], 8.0f);
    /* Fewer heads at a time, and smaller tiles of queries. */
    static const size_t bytes[] = {200000, 40000, 1};
    for (size_t i = 0; i < 3 * (sizeof bytes / sizeof bytes[0]); i++) {
        lq_gpu_of(gpu)->scores_bytes = bytes[i / 3];
        check_attention(shapes[3 + i % 3], 1.0f);
    }
    lq_gpu_of(gpu)->scores_bytes = LQ_GPU_SCORES_BYTES;
}

static void print_hashes(uint64_t hashes[VERDICTS_MAX])
{
    for (size_t i = 0; i < verdict_count; i++) {
        printf("%-24s %016llx\n", verdicts[i].name, (unsigned long long)verdicts[i].hash);
        hashes[i] = verdicts[i].hash;
    }
}

static void restart(void)
{
    verdict_count = 0;
    random_state = 20240117;
}

static void check_bits(bool turns)
{
    uint64_t hashes[VERDICTS_MAX];
    uint64_t turned[VERDICTS_MAX];
    wants_bits = true;
    check_exact();
    if (turns) {
        check_sums_of_products();
    }
    print_hashes(hashes);
    if (turns && setenv("LQ_FAKE_GPU", "backwards", 1) == 0) {
        size_t count = verdict_count;
        restart();
        check_exact();
        check_sums_of_products();
        print_hashes(turned);
        has_failed = has_failed || memcmp(hashes, turned, count * sizeof *hashes) != 0;
    }
}

static int open_devices(void)
{
    char why_not[LQ_GPU_WHY_BYTES];
    const struct lq_gpu_module *module = lq_gpu_load(why_not);
    struct lq_gpu_context *context = NULL;
    struct lq_gpu_info info;
    int count = 0;
    if (module == NULL) {
        printf("SKIP checkdevice: %s\n", why_not);
        return 77;
    }
    const char *why = module->count(&count);
    if (why != NULL || count == 0) {
        printf("SKIP checkdevice: %s\n", why != NULL ? why : "there is no GPU");
        return 77;
    }
    why = module->open(0, &context);
    why = why != NULL ? why : module->describe(context, &info);
    why = why != NULL ? why : lq_gpu_device_create(module, context, &gpu);
    if (why != NULL) {
        printf("checkdevice: %s\n", why);
        return 1;
    }
    cpu = lq_device_cpu_create((struct lq_parallel){.run = NULL}, LQ_CPU_BLAS_OWN);
    printf("%s, %s\n", info.name, gpu->ops->numerics);
    return cpu == NULL ? 1 : 0;
}

int main(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "";
    if (strcmp(word, "--threads") == 0) {
        (void)setenv("LQ_FAKE_GPU", "threads,mixed", 1);
    }
    int status = open_devices();
    if (status != 0) {
        return status;
    }
    is_watched = strcmp(word, "--threads") == 0;
    quick = is_watched || strcmp(word, "--quick") == 0;
    lq_gpu_of(gpu)->has_no_pool = is_watched;
    if (strcmp(word, "--bench") == 0) {
        bench_all();
    } else if (strcmp(word, "--bits") == 0 || strcmp(word, "--turns") == 0) {
        check_bits(strcmp(word, "--turns") == 0);
    } else {
        check_exact();
        check_sums_of_products();
        for (size_t i = 0; i < verdict_count; i++) {
            printf("%-24s %6zu checks, worst error %.3f of the tolerance\n", verdicts[i].name,
                   verdicts[i].checks, verdicts[i].worst);
        }
    }
    expect_no_failure("the end");
    gpu->ops->destroy(gpu);
    cpu->ops->destroy(cpu);
    printf("checkdevice: %s\n", has_failed ? "FAILED" : "all passed");
    return has_failed ? 1 : 0;
}
