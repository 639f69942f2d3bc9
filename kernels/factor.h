/* The triangular factor of the inverse of a symmetric positive definite matrix: U with H^-1 =
 * transpose(U) U, upper triangular, which GPTQ and its kin walk along. H is factored from its last
 * column back, H = R transpose(R) with R upper triangular, and U = R^-1: one factorization and one
 * triangular inverse, both in blocks (Golub and Van Loan, "Matrix Computations", 4.2) whose
 * diagonal is worked on in double and the rest of which is matrix products (matmul.h). Tiles depend
 * on nothing but the size, so that threads change no bit. Thread rule: the object given is the
 * caller's; work is spread over `parallel`. Limits: n fits an int. */
#ifndef LQ_KERNELS_FACTOR_H
#define LQ_KERNELS_FACTOR_H

#include <stddef.h>

#include "kernels/device.h"

/* Floats of scratch for a matrix of n columns. */
size_t lq_factor_scratch(size_t n);
/* Replaces the matrix, n x n and row-major, of which only the upper triangle is read, by U, with
 * zeros below. Returns n, or the first column from the back that is no multiple of a positive
 * number any more: then the matrix is not positive definite (or has a NaN) and is left undefined.
 */
size_t lq_factor_inverse(const struct lq_parallel *parallel, float *matrix, size_t n,
                         float *scratch);

#endif
