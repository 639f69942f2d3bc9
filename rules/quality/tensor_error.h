/* How far a quantized tensor is from the original: both are decoded row by row and compared. Sums
 * are in double, in a fixed order of tiles, so results do not depend on the number of threads.
 * Thread rule: per call; the loop is spread over the pool. Limits: a tile is 64 Ki elements or one
 * row. */
#ifndef LQ_RULES_QUALITY_TENSOR_ERROR_H
#define LQ_RULES_QUALITY_TENSOR_ERROR_H

#include <stdint.h>

#include "engine/base/error.h"
#include "rules/model/tensor_index.h"

struct lq_pool;

struct lq_tensor_error {
    double mse;       /* mean of (original - quantized)^2 */
    double max_error; /* largest |original - quantized| */
    double signal;    /* mean of original^2 */
    uint64_t parameter_count;
};

/* Both tensors must have the same shape (LQ_EFORMAT else). `data` are the whole tensors. */
enum lq_status lq_tensor_error_measure(const struct lq_model_tensor *original,
                                       const void *original_data,
                                       const struct lq_model_tensor *quantized,
                                       const void *quantized_data, struct lq_pool *pool,
                                       struct lq_tensor_error *out, struct lq_error *err);

#endif
