/* What the files of the CPU device share: its state, how it spreads tiles over threads and which
 * product it uses. device_cpu_matmul.c has the products. Internal to device_cpu*.c. Thread rule: as
 * in device.h. Limits: none. */
#ifndef LQ_KERNELS_DEVICE_CPU_PARTS_H
#define LQ_KERNELS_DEVICE_CPU_PARTS_H

#include <math.h>

#include "kernels/blas/sgemm.h"
#include "kernels/device.h"
#include "kernels/device_rows.h"
#include "kernels/matmul.h"

struct lq_cpu_device {
    struct lq_device device;  /* first: the table's functions get a pointer to it */
    struct lq_device_ops ops; /* the table with this device's numerics */
    struct lq_parallel parallel;
    const struct lq_device_rows *rows;
    enum lq_cpu_blas blas;
    lq_sgemm_fn sgemm;                        /* NULL until the first product */
    const struct lq_matmul_tiles *tiles;      /* our vector tiles; NULL: sgemm does everything */
    const struct lq_short_tiles *short_tiles; /* integer tiles; NULL: floats */
    void *panels;                             /* packed sides of one product */
    size_t panels_bytes;
    const char *failure;
    const char *notice;
};

enum {
    LQ_CPU_TILE_COLS = 512, /* columns of a task: enough to pay for packing its rows */
    LQ_CPU_ALIGNMENT_BYTES = 64,
};

static inline struct lq_cpu_device *lq_cpu_of(struct lq_device *device)
{
    return (struct lq_cpu_device *)device;
}

static inline size_t lq_divide_up(size_t value, size_t by)
{
    return (value + by - 1) / by;
}

static inline size_t lq_min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* What is known of some logits of a row. Columns are cut into chunks, and these joined into strips,
 * in their order, whether logits lie in memory or come and go: the bits are the same. */
struct lq_cpu_row_entropy {
    double sum; /* of exp(logit - max) */
    float max;
};

enum {
    LQ_CPU_ENTROPY_CHUNK = 128,
    LQ_CPU_ENTROPY_STRIP = 256,
};

static inline struct lq_cpu_row_entropy lq_cpu_no_entropy(void)
{
    return (struct lq_cpu_row_entropy){.sum = 0.0, .max = -INFINITY};
}

static inline void lq_cpu_join_entropy(struct lq_cpu_row_entropy *to,
                                       const struct lq_cpu_row_entropy *from)
{
    double factor = exp(-fabs((double)to->max - (double)from->max));
    bool is_larger = from->max > to->max;
    to->sum = is_larger ? to->sum * factor + from->sum : to->sum + from->sum * factor;
    to->max = is_larger ? from->max : to->max;
}

/* `count` is 1 to LQ_CPU_ENTROPY_CHUNK. */
static inline void lq_cpu_add_entropy(const struct lq_device_rows *fn,
                                      struct lq_cpu_row_entropy *to, const float *logits,
                                      size_t count)
{
    struct lq_cpu_row_entropy chunk = {.max = fn->max(logits, count)};
    chunk.sum = fn->exp_sum(logits, count, chunk.max);
    lq_cpu_join_entropy(to, &chunk);
}

/* Aligned memory of undefined content, NULL when it is out. Big blocks lie in huge pages where the
 * system has them, and up to 256 MiB of what is given back is kept for the next taker. Any thread.
 */
void *lq_cpu_take_memory(size_t size_bytes);
void lq_cpu_give_memory(void *memory);
/* Calls body(user, i) for every i below `count`; nothing after a failure. Being cancelled is one.
 */
void lq_cpu_run_tiles(struct lq_cpu_device *cpu, size_t count,
                      void (*body)(void *user, size_t index), void *user);
/* Our vector tiles, or OpenBLAS, or our own loops. */
void lq_cpu_choose_sgemm(struct lq_cpu_device *cpu);
/* c[rows x cols] = a * b[depth x cols], where a is [rows x depth] or, turned, [depth x rows]. */
struct lq_cpu_product {
    const float *a;
    const float *b;
    float *c;
    size_t rows;
    size_t cols;
    size_t depth;
    bool a_turned;
};

/* The product by our vector tiles; false (and nothing done) without them. */
bool lq_cpu_multiply_tiles(struct lq_cpu_device *cpu, const struct lq_cpu_product *product);
/* The product of the table; see device.h. */
void lq_cpu_matmul(struct lq_device *device, const float *a, const float *b, float *c, size_t rows,
                   size_t out_cols, size_t in_cols);

/* Grows the scratch for packed sides; false (and a failure) when memory is out. */
bool lq_cpu_take_panels(struct lq_cpu_device *cpu, size_t size_bytes);
/* Columns that are packed at a time: whole tasks, at least one. */
size_t lq_cpu_part_columns(size_t out_cols, size_t column_bytes);
/* Groups of products, and right sides in the order of our tiles, for the table; see device.h. */
void lq_cpu_matmul_group(struct lq_device *device, const float *a, size_t rows, size_t in_cols,
                         const struct lq_product *products, size_t count, bool arranged);
void lq_cpu_product_gate(struct lq_device *device, const float *a, size_t rows, size_t in_cols,
                         const struct lq_product *products, bool gelu);
void lq_cpu_product_entropy(struct lq_device *device, const float *a, size_t rows, size_t in_cols,
                            const struct lq_product *product, float cap, const int32_t *targets,
                            double *nll);
void lq_cpu_arrange(const struct lq_device *device, const float *from, float *to, size_t rows,
                    size_t cols);
/* Puts `arrange` and what needs it into the table where products are our tiles'. */
void lq_cpu_offer_arrange(struct lq_cpu_device *cpu);

/* Attention, for the table; see device.h. */
void lq_cpu_attention(struct lq_device *device, const float *q, const float *k, const float *v,
                      float *out, const struct lq_attention_shape *shape);

/* Operations that only some architectures need, for the table; see device.h. */
void lq_cpu_gelu_mul(struct lq_device *device, float *gate, const float *up, size_t count);
void lq_cpu_soft_cap(struct lq_device *device, float *x, size_t count, float cap);
void lq_cpu_round_rows(struct lq_device *device, const float *x, float *out, size_t rows,
                       size_t cols);
void lq_cpu_add_bias(struct lq_device *device, float *x, const float *bias, size_t rows,
                     size_t cols);
void lq_cpu_route(struct lq_device *device, const float *logits, size_t rows, size_t expert_count,
                  size_t used, const struct lq_route *route);
void lq_cpu_gather_rows(struct lq_device *device, const float *x, const int32_t *sources,
                        float *out, size_t count, size_t cols);
void lq_cpu_combine_rows(struct lq_device *device, const float *x, const struct lq_route *route,
                         float *out, size_t rows, size_t used, size_t cols);

/* The backward twins, for the table; see device.h. */
void lq_cpu_matmul_plain(struct lq_device *device, const float *a, const float *b, float *c,
                         size_t rows, size_t out_cols, size_t in_cols);
void lq_cpu_matmul_outer(struct lq_device *device, const float *a, const float *b, float *c,
                         size_t rows, size_t a_cols, size_t b_cols);
void lq_cpu_rms_norm_back(struct lq_device *device, const float *x, const float *weight,
                          const float *out_grad, float *grad, size_t rows, size_t cols, float eps);
void lq_cpu_attention_back(struct lq_device *device, const struct lq_attention_grad *grad,
                           const struct lq_attention_shape *shape);
void lq_cpu_silu_mul_back(struct lq_device *device, float *gate, float *up, const float *out_grad,
                          size_t count);
void lq_cpu_gelu_mul_back(struct lq_device *device, float *gate, float *up, const float *out_grad,
                          size_t count);
void lq_cpu_cross_entropy_back(struct lq_device *device, float *logits, const int32_t *targets,
                               size_t rows, size_t cols, float scale, float cap);
void lq_cpu_route_back(struct lq_device *device, const float *x, const float *grad,
                       const struct lq_route *route, float *logits_grad, size_t rows,
                       size_t expert_count, size_t used, size_t cols);
void lq_cpu_weigh_rows(struct lq_device *device, float *x, const struct lq_route *route,
                       size_t rows, size_t used, size_t cols);
void lq_cpu_add_scores(struct lq_device *device, const float *grad, const float *weight,
                       const struct lq_score_shape *shape, double *sums, float *scores);

#endif
