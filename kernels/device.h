/* A device: the small table of operations on 32-bit floats that a transformer needs. The forward
 * pass is written once against it; each backend fills the table. Pointers from `alloc` belong to
 * the device: only its operations may look behind them, unless `host_visible` says that the host
 * may too; adding offsets to them is always allowed. Matrices are row-major and dense.
 *
 * Errors are sticky: after a failure operations do nothing and `failure` gives one sentence, so a
 * caller checks once per batch. Sizes may be zero. Operations are in order; a download waits.
 *
 * Determinism: work is cut into tiles whose size depends on nothing but the shapes, and every sum
 * has one fixed order, so results do not depend on the number of threads. They may differ between
 * backends and between CPU types within the tolerances of docs/numerics-model.md.
 *
 * Thread rule: one thread at a time per device; operations spread over `parallel` by themselves.
 * Limits: a dimension of a matrix fits an int. */
#ifndef LQ_KERNELS_DEVICE_H
#define LQ_KERNELS_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/dtype.h"

/* How a device spreads work: `run` calls body(user, i) for every i in [0, count) and returns when
 * all are done. `run` NULL: a plain loop. `cancelled`, NULL or asked before every tile on any
 * thread, ends an operation early; that is a failure of the device like any other. */
struct lq_parallel {
    void (*run)(void *context, size_t count, void (*body)(void *user, size_t index), void *user);
    void *context;
    bool (*cancelled)(void *user);
    void *cancelled_user;
};

struct lq_device;

/* Shapes of one attention call: `sample_count` sequences of `sequence` rows each, all starting at
 * position 0. q and out: rows x (head_count * head_dim); k and v: rows x (kv_head_count *
 * head_dim). head_count is a multiple of kv_head_count. A score is scale * (q . k), then, with a
 * cap, cap * tanh(score / cap). Where the device picks queries, q and out may have the rows
 * [first_query, first_query + query_count) of each sequence alone, side by side. */
struct lq_attention_shape {
    size_t sample_count;
    size_t sequence;
    size_t head_count;
    size_t kv_head_count;
    size_t head_dim;
    size_t window; /* keys that a query sees, the one of its own position included; 0: all */
    float scale;   /* 0: 1 / sqrt(head_dim) */
    float cap;     /* 0: none */
    size_t first_query;
    size_t query_count; /* 0: all rows */
};

/* Which rows go to which experts of a mixture. A row has `used` slots; slots are grouped by expert
 * and, within one, in the order of rows. All members are device memory. */
struct lq_route {
    float *weights;   /* [rows x used]: of a row's experts, from the most probable on */
    int32_t *slots;   /* [rows x used]: their slots */
    int32_t *sources; /* [rows x used]: the row of every slot */
    int32_t *starts; /* [expert_count + 1]: expert e has the slots starts[e] to starts[e + 1] - 1 */
    /* NULL: the weights of a row are the softmax over its own experts and add up to 1. Otherwise
     * they are the softmax over all experts, which goes here, [rows x expert_count]; this may be
     * the logits themselves. */
    float *all;
};

/* One attention call and its gradients: those with respect to q, k and v are written. */
struct lq_attention_grad {
    const float *q;
    const float *k;
    const float *v;
    const float *out;
    const float *out_grad;
    float *q_grad;
    float *k_grad;
    float *v_grad;
};

/* One of several products with the same left side a: c[rows x out_cols] = a * transpose(b[out_cols
 * x in_cols]). */
struct lq_product {
    const float *b;
    float *c;
    size_t out_cols;
};

enum { LQ_PRODUCTS_MAX = 3 }; /* of one group */

/* Bytes of the host that will be loaded soon, and what they are known by: equal keys, equal bytes.
 */
enum { LQ_EXPECTED_KEY_BYTES = 32 };
struct lq_expected {
    unsigned char key[LQ_EXPECTED_KEY_BYTES];
    const void *bytes;
    size_t size_bytes;
};

/* What a model predicts for a token next to what the original does; q and p are their
 * probabilities. */
struct lq_logits_difference {
    double kld;          /* sum p ln(p / q) */
    double nll;          /* -ln q of the target */
    double nll_original; /* -ln p of it */
    double same_top;     /* 1 when the first of the largest logits is the same, else 0 */
};

/* How a weight's gradient g becomes a score of it: |g w|, or (g w)^2 with g^2 for its column. */
struct lq_score_shape {
    size_t rows;
    size_t cols;
    bool squares;
};

struct lq_device_ops {
    const char *numerics; /* "cpu-f32": what a result is marked with */
    bool host_visible;
    /* Rows that a product should have for the device to be busy; 0: LQ_DEVICE_BATCH_ROWS. */
    size_t batch_rows;
    void (*destroy)(struct lq_device *device);
    /* NULL while all is well. */
    const char *(*failure)(const struct lq_device *device);
    /* One sentence for the user, or NULL: the device works, but not as it could. */
    const char *(*notice)(const struct lq_device *device);

    /* May be NULL. Bytes that were given back and that the device has kept for the next taker. */
    size_t (*spare_bytes)(const struct lq_device *device);
    /* Aligned for any vector unit, content undefined; NULL (and a failure) when memory is out. */
    void *(*alloc)(struct lq_device *device, size_t size_bytes);
    void (*release)(struct lq_device *device, void *memory);
    void (*upload)(struct lq_device *device, void *to, const void *from, size_t size_bytes);
    void (*download)(struct lq_device *device, void *to, const void *from, size_t size_bytes);
    /* Rows of a type of files, in host memory, become floats at `to`, decoded by the device;
     * `finite` tells whether all are. NULL: the caller decodes and uploads. Waits. */
    void (*load)(struct lq_device *device, enum lq_dtype dtype, const void *bytes, size_t rows,
                 size_t cols, float *to, bool *finite);
    /* All three may be NULL. `expect` begins to copy what `load` will be given soon, in the order
     * of the list and as far as there is memory for it, beside other work; what was expected before
     * is given up. The bytes must stay until `settle`, which returns when none is read any more:
     * what is copied by then counts. `claim`: the next `load` is of these bytes. No result changes.
     */
    void (*expect)(struct lq_device *device, const struct lq_expected *list, size_t count);
    void (*claim)(struct lq_device *device, const unsigned char *key);
    void (*settle)(struct lq_device *device);
    void (*zero)(struct lq_device *device, void *memory, size_t size_bytes);
    /* Within the device; the parts do not overlap. */
    void (*copy)(struct lq_device *device, float *to, const float *from, size_t count);

    /* c[rows x out_cols] = a[rows x in_cols] * transpose(b[out_cols x in_cols]). */
    void (*matmul)(struct lq_device *device, const float *a, const float *b, float *c, size_t rows,
                   size_t out_cols, size_t in_cols);
    /* Several products at once, with the bits of matmul; NULL: call matmul for each. `arranged`:
     * every b lies as `arrange` left it. */
    void (*matmul_group)(struct lq_device *device, const float *a, size_t rows, size_t in_cols,
                         const struct lq_product *products, size_t count, bool arranged);
    /* Copies a right side, [rows x cols] in host memory, into the order in which this device
     * multiplies, so that a product need not pack it. Pure: parts of a matrix whose first rows are
     * multiples of arrange_rows may be copied by any thread, each to its place. NULL: the device
     * has no such order. */
    void (*arrange)(const struct lq_device *device, const float *from, float *to, size_t rows,
                    size_t cols);
    size_t arrange_rows;
    /* matmul_group of two products of the same shape whose b lie as `arrange` left them, then
     * silu_mul or gelu_mul of what they give. NULL: those do it. */
    void (*product_gate)(struct lq_device *device, const float *a, size_t rows, size_t in_cols,
                         const struct lq_product *products, bool gelu);
    /* out = x / sqrt(mean(x^2) + eps) * weight, row by row; out may be x. */
    void (*rms_norm)(struct lq_device *device, const float *x, const float *weight, float *out,
                     size_t rows, size_t cols, float eps);
    /* Turns the first 2 * pair_count values of each head: pair i of the row at position p, (x, y) =
     * (x[2i], x[2i+1]), or with `halves` (x[i], x[i + pair_count]), becomes (x cos - y sin, x sin +
     * y cos). `table` holds cos and sin side by side, [sequence x pair_count x 2]; the position of
     * row r is r % sequence. In place. */
    void (*rope)(struct lq_device *device, float *x, const float *table, size_t rows,
                 size_t sequence, size_t head_count, size_t head_dim, size_t pair_count,
                 bool halves);
    /* Whether `attention` takes a part of the queries, and gives the bits that it gives for all. */
    bool picks_queries;
    /* out = softmax(scores, causal) * v per head; query head h reads key-value head
     * h / (head_count / kv_head_count). Only one tile of scores exists at a time. */
    void (*attention)(struct lq_device *device, const float *q, const float *k, const float *v,
                      float *out, const struct lq_attention_shape *shape);
    /* gate = gate / (1 + exp(-gate)) * up. */
    void (*silu_mul)(struct lq_device *device, float *gate, const float *up, size_t count);
    /* gate = gelu(gate) * up, with gelu(x) = x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
     * (Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016). */
    void (*gelu_mul)(struct lq_device *device, float *gate, const float *up, size_t count);
    /* x = cap * tanh(x / cap). */
    void (*soft_cap)(struct lq_device *device, float *x, size_t count, float cap);
    /* Each row of `out`, which may be x, is that of x rounded to whole multiples of its largest
     * magnitude / 127, halves to even: what 8 bits hold of it. NULL: the caller does it. */
    void (*round_rows)(struct lq_device *device, const float *x, float *out, size_t rows,
                       size_t cols);
    /* x[r][j] += bias[j]. */
    void (*add_bias)(struct lq_device *device, float *x, const float *bias, size_t rows,
                     size_t cols);
    /* x += y. */
    void (*add)(struct lq_device *device, float *x, const float *y, size_t count);
    /* sums[j] += x[r][j]^2 over all rows in row order, products and sums in double. */
    void (*add_squares)(struct lq_device *device, const float *x, size_t rows, size_t cols,
                        double *sums);
    /* nll[r] = log(sum exp(logit - max)) - (logits[r][targets[r]] - max): exp in float, sum and log
     * in double. Targets are below cols. A row with a NaN gives NaN. */
    void (*cross_entropy)(struct lq_device *device, const float *logits, const int32_t *targets,
                          size_t rows, size_t cols, double *nll);
    /* cross_entropy of soft_cap (cap 0: none) of a product whose b lies as `arrange` left it,
     * without logits that are whole anywhere; its c is not used. NULL: those three do it. */
    void (*product_entropy)(struct lq_device *device, const float *a, size_t rows, size_t in_cols,
                            const struct lq_product *product, float cap, const int32_t *targets,
                            double *nll);

    /* out[r] from both models' logits, exponentials in float, sums and logarithms in double;
     * targets are below cols. A row with a NaN gives NaN. NULL: who wants it downloads the logits.
     */
    void (*compare_logits)(struct lq_device *device, const float *original, const float *logits,
                           const int32_t *targets, size_t rows, size_t cols,
                           struct lq_logits_difference *out);

    /* Mixtures of experts. */

    /* From the router's logits [rows x expert_count]: the `used` largest of each row (of equal ones
     * the first) and their weights. rows * used fits an int. */
    void (*route)(struct lq_device *device, const float *logits, size_t rows, size_t expert_count,
                  size_t used, const struct lq_route *route);
    /* out[i] = x[sources[i]]. */
    void (*gather_rows)(struct lq_device *device, const float *x, const int32_t *sources,
                        float *out, size_t count, size_t cols);
    /* out[r] = the sum over the experts of row r of weight * x[slot], in the order of `slots`;
     * weights NULL: the plain sum. */
    void (*combine_rows)(struct lq_device *device, const float *x, const struct lq_route *route,
                         float *out, size_t rows, size_t used, size_t cols);

    /* Backward twins: from the gradient of a number with respect to what an operation gave, that
     * with respect to what it took. */

    /* c[rows x out_cols] = a[rows x in_cols] * b[in_cols x out_cols]: the gradient of a product's
     * left side. */
    void (*matmul_plain)(struct lq_device *device, const float *a, const float *b, float *c,
                         size_t rows, size_t out_cols, size_t in_cols);
    /* c[a_cols x b_cols] = transpose(a[rows x a_cols]) * b[rows x b_cols]: that of its weights. */
    void (*matmul_outer)(struct lq_device *device, const float *a, const float *b, float *c,
                         size_t rows, size_t a_cols, size_t b_cols);
    /* `grad` may be out_grad. */
    void (*rms_norm_back)(struct lq_device *device, const float *x, const float *weight,
                          const float *out_grad, float *grad, size_t rows, size_t cols, float eps);
    void (*attention_back)(struct lq_device *device, const struct lq_attention_grad *grad,
                           const struct lq_attention_shape *shape);
    /* Replaces gate and up, as they were before silu_mul, by their gradients. */
    void (*silu_mul_back)(struct lq_device *device, float *gate, float *up, const float *out_grad,
                          size_t count);
    void (*gelu_mul_back)(struct lq_device *device, float *gate, float *up, const float *out_grad,
                          size_t count);
    /* logits = scale * (softmax(logits) - 1 at the target); a row whose target is negative becomes
     * zero. With a cap the logits are those that soft_cap gave, the result is for what it took. */
    void (*cross_entropy_back)(struct lq_device *device, float *logits, const int32_t *targets,
                               size_t rows, size_t cols, float scale, float cap);
    /* From `x` of every slot and the gradients that it would get were its row's weight for it 1,
     * both [slots x cols], to those of the router's logits, [rows x expert_count]. */
    void (*route_back)(struct lq_device *device, const float *x, const float *grad,
                       const struct lq_route *route, float *logits_grad, size_t rows,
                       size_t expert_count, size_t used, size_t cols);
    /* x[slot] *= its weight. */
    void (*weigh_rows)(struct lq_device *device, float *x, const struct lq_route *route,
                       size_t rows, size_t used, size_t cols);
    /* sums[j] += the sum over rows, in their order, of |g w| (or g^2) of column j, in double;
     * scores[i] += |g w| (or (g w)^2). `scores` may be NULL. */
    void (*add_scores)(struct lq_device *device, const float *grad, const float *weight,
                       const struct lq_score_shape *shape, double *sums, float *scores);
};

struct lq_device {
    const struct lq_device_ops *ops;
};

/* Rows of a batch where a device does not say otherwise. */
enum { LQ_DEVICE_BATCH_ROWS = 2048 };

enum lq_cpu_blas {
    LQ_CPU_BLAS_AUTO,  /* with AVX-512 OpenBLAS; our AVX2 tiles; OpenBLAS; our loops and a notice */
    LQ_CPU_BLAS_OPEN,  /* OpenBLAS when it can be loaded, else our own loops and a notice */
    LQ_CPU_BLAS_OWN,   /* our own loops */
    LQ_CPU_BLAS_SHORT, /* 16-bit integers for matmul (kernels/matmul_short.h), else as AUTO */
};

/* The CPU. NULL when memory is out. OpenBLAS is loaded at the first matmul that needs it. */
struct lq_device *lq_device_cpu_create(struct lq_parallel parallel, enum lq_cpu_blas blas);
/* What forward passes of this process use; AUTO unless it was set, before the first worker. */
void lq_device_cpu_prefer(enum lq_cpu_blas blas);
enum lq_cpu_blas lq_device_cpu_preferred(void);

#endif
