/* Encodes one tensor: rows are decoded to floats strip by strip, checked, encoded, validated and
 * handed to a sink in order, so that memory stays small whatever the tensor's size. Tiles are cut
 * the same way everywhere and rows do not depend on each other: the bytes are the same for any
 * number of threads. Protected weights get an importance that dominates their block, which makes
 * the block search reproduce them first. With a GPU the rows are encoded there (encode_gpu.h). The
 * caller owns everything in the job. Thread rule: one job per thread; its loop is spread over the
 * job's pool. Limits: 16 tiles of 64 Ki values or one row at a time, of
 * which the blocks are kept, and of each 8 Ki values or one row as floats. */
#ifndef LQ_RULES_QUANT_ENCODE_TENSOR_H
#define LQ_RULES_QUANT_ENCODE_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "kernels/dtype.h"
#include "rules/model/tensor_index.h"

struct lq_pool;

/* A protected weight's importance, relative to the largest in its block. Chosen by measurement
 * (tests/test_encode_tensor.c): the squared error of the protected weights falls to between 1e-2
 * and 1e-6 of what it was and that of the rest grows by 3 %; a factor of 1e6 gains nothing more and
 * drowns the other weights in the rounding of the fits (Q5_K: 2.5 times their error). */
#define LQ_PROTECT_FACTOR 4096.0F

struct lq_encode_job {
    const struct lq_model_tensor *tensor;
    const void *data; /* the tensor as it is in the source */
    uint64_t size_bytes;
    enum lq_dtype dtype; /* what to encode to */
    /* mat_count x ne[0] finite non-negative values, or NULL. mat_count is 1 or ne[2]. */
    const float *importance;
    size_t mat_count;
    /* Elements to protect, ascending: row * ne[0] + column. */
    const uint64_t *positions;
    size_t position_count;
    struct lq_pool *pool; /* may be NULL */
    void *user;
    enum lq_status (*write)(void *user, const void *data, size_t size_bytes, struct lq_error *err);
    bool (*cancelled)(void *user);                               /* may be NULL */
    void (*progress)(void *user, uint64_t done, uint64_t total); /* rows; may be NULL */
    /* Called with the name of a kind of GPU ("cuda") that computed part of it; may be NULL. */
    void (*computed_on)(void *user, const char *name);
};

/* Errors: LQ_EFORMAT (a NaN or infinity, named by tensor, row and column; a value that the type
 * cannot hold; data of the wrong size), LQ_EUNSUPPORTED (no decoder or encoder), LQ_ECANCELLED,
 * what `write` returns, LQ_ENOMEM. */
enum lq_status lq_encode_tensor(const struct lq_encode_job *job, struct lq_error *err);

/* True when importance can change what an encoder of this type writes. */
bool lq_encode_uses_importance(enum lq_dtype dtype);
/* False for the ternary types: with one scale for 256 values and three levels, a single weight that
 * leads its block would cost all others. */
bool lq_encode_can_protect(enum lq_dtype dtype);
/* Bytes that lq_encode_tensor allocates at its peak. */
uint64_t lq_encode_memory(const struct lq_model_tensor *tensor, enum lq_dtype dtype);
/* The importance of a row, NULL for none. `copy`, ne[0] values, is used where the row has protected
 * weights; it may be NULL when the job has none. */
const float *lq_encode_row_importance(const struct lq_encode_job *job, uint64_t row, float *copy);
/* The largest magnitude that values of a tensor of this type may have. */
float lq_encode_limit(enum lq_dtype dtype);
/* Index of the first block whose scales are not finite, or `block_count`. */
size_t lq_encode_find_bad_block(enum lq_dtype dtype, const void *blocks, size_t block_count);

#endif
