/* How much a tensor suffers from each type: trial encodings of rows taken evenly over the tensor,
 * with the squared error weighed by the importance of the columns and scaled to the whole tensor.
 * With mean squared activations as importance this is the expected squared error of the tensor's
 * output for one token. Thread rule: per call, rows spread over the pool; results do not depend on
 * the number of threads. Limits: LQ_SENSITIVITY_TYPES_MAX types. */
#ifndef LQ_RULES_PROFILE_SENSITIVITY_H
#define LQ_RULES_PROFILE_SENSITIVITY_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "kernels/dtype.h"
#include "rules/model/tensor_index.h"

struct lq_buffer;
struct lq_pool;

enum { LQ_SENSITIVITY_TYPES_MAX = 16, LQ_SENSITIVITY_ROWS = 64 };

struct lq_sensitivity_job {
    const struct lq_model_tensor *tensor;
    const void *data;
    const void *const *matrices; /* instead of data: those of each of the ne[2] matrices */
    uint64_t size_bytes;
    const float *importance; /* mat_count x ne[0], or NULL for 1 everywhere */
    size_t mat_count;
    uint64_t row_count_max; /* rows to try */
    const enum lq_dtype *types;
    size_t type_count;
    struct lq_pool *pool;
};

struct lq_sensitivity {
    double signal;  /* weighted sum of squares of the whole tensor */
    double squares; /* the same without weights */
    double errors[LQ_SENSITIVITY_TYPES_MAX];
    enum lq_dtype types[LQ_SENSITIVITY_TYPES_MAX];
    size_t type_count;
};

enum lq_status lq_sensitivity_measure(const struct lq_sensitivity_job *job,
                                      struct lq_sensitivity *out, struct lq_error *err);
/* The types that are tried for rows of `col_count` columns, smallest first; returns how many. Types
 * without an encoder or decoder are left out. */
size_t lq_sensitivity_candidates(uint64_t col_count, enum lq_dtype types[LQ_SENSITIVITY_TYPES_MAX]);
/* Canonical JSON and back; LQ_EPROFILE for anything else. */
void lq_sensitivity_format(const struct lq_sensitivity *sensitivity, struct lq_buffer *out);
enum lq_status lq_sensitivity_parse(const void *data, uint64_t size_bytes,
                                    struct lq_sensitivity *out, struct lq_error *err);

#endif
