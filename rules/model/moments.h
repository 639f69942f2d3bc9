/* The second moments of a matrix's input: the sum of x^T x over the rows x of a calibration, which
 * tells exactly what an error in the weights does to their product: the squares of x e^T add up to
 * e M e^T. Also the sum of magnitudes of each column. Rows are taken LQ_MOMENT_ROWS at a time, so
 * that neither threads nor the pieces in which they come change a bit. Products and sums are 32-bit
 * floats, magnitudes double. The bytes, little-endian: u32 magic "LQMM", u32 version 1, u64
 * columns, u64 rows, then f64 magnitudes, then the upper triangle of the sums row by row, f32.
 * Ownership: init takes heap memory, 4 bytes for each pair of columns. Thread rule: one thread at a
 * time; work is spread over the pool. Limits: LQ_MODEL_DIM_MAX. */
#ifndef LQ_RULES_MODEL_MOMENTS_H
#define LQ_RULES_MODEL_MOMENTS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/pool.h"

enum { LQ_MOMENT_ROWS = 256 };

struct lq_moments {
    size_t col_count; /* 0: nothing is taken */
    uint64_t row_count;
    double *sizes;      /* sums of |x_j| */
    float *sums;        /* [col_count x col_count], the upper triangle */
    float *rows;        /* the newest ones, [LQ_MOMENT_ROWS x col_count] */
    float *turned;      /* and turned */
    size_t value_count; /* in `rows` */
};

/* With nothing seen yet; col_count may be 0. */
enum lq_status lq_moments_init(struct lq_moments *moments, size_t col_count, struct lq_error *err);
void lq_moments_fini(struct lq_moments *moments);
/* Adds values that follow those before, row by row. `pool` may be NULL. */
void lq_moments_add(struct lq_moments *moments, struct lq_pool *pool, const float *values,
                    size_t count);
/* Counts the rows that wait for more of them; between init and fini, once, before the sums are
 * read. LQ_EIMPORTANCE when a sum is not finite. */
enum lq_status lq_moments_finish(struct lq_moments *moments, struct lq_pool *pool,
                                 struct lq_error *err);
/* About the memory of one input's moments. */
uint64_t lq_moments_memory(uint64_t col_count);

/* Gives the bytes to `write`, piece by piece. */
typedef enum lq_status (*lq_moments_write_fn)(void *user, const void *data, size_t size_bytes,
                                              struct lq_error *err);
enum lq_status lq_moments_write(const struct lq_moments *moments, lq_moments_write_fn write,
                                void *user, struct lq_error *err);

/* Means over the rows. */
struct lq_mean_moments {
    size_t col_count;
    uint64_t row_count;
    float *sizes; /* mean |x_j| */
    float *means; /* of x_i x_j, [col_count x col_count], both triangles */
};

/* From the bytes, on the heap; fini frees it. LQ_EFORMAT for malformed bytes. */
enum lq_status lq_mean_moments_parse(const void *data, uint64_t size_bytes,
                                     struct lq_mean_moments *out, struct lq_error *err);
void lq_mean_moments_fini(struct lq_mean_moments *moments);

#endif
