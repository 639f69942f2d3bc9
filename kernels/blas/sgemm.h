/* Single-threaded matrix products of one tile, C = alpha A op(B) + beta C, row-major, with leading
 * dimensions: OpenBLAS, loaded at run time, or our own loops. Thread rule: after lq_openblas_load
 * the functions may be called from any number of threads. Limits: every size fits an int. */
#ifndef LQ_KERNELS_BLAS_SGEMM_H
#define LQ_KERNELS_BLAS_SGEMM_H

#include <stdbool.h>
#include <stddef.h>

struct lq_sgemm_args {
    size_t m;
    size_t n;
    size_t k;
    float alpha;
    const float *a; /* m x k */
    size_t lda;
    const float *b; /* n x k when transposed, else k x n */
    size_t ldb;
    float beta; /* 0: C is only written */
    float *c;   /* m x n */
    size_t ldc;
};

typedef void (*lq_sgemm_fn)(bool transpose_b, const struct lq_sgemm_args *args);

/* Our own loops. Each element is summed in the order of k. */
void lq_sgemm_own(bool transpose_b, const struct lq_sgemm_args *args);
/* OpenBLAS's product, or NULL when the library is not there. Loads it once per process, after
 * choosing its core type from the CPU (OPENBLAS_CORETYPE set by the user wins) and one thread. It
 * changes the environment of the process, so no other thread may use getenv at that moment. */
lq_sgemm_fn lq_openblas_load(void);
/* The core type for OPENBLAS_CORETYPE, or NULL to let OpenBLAS decide. */
const char *lq_openblas_core_type(void);

#endif
