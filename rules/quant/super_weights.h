/* Super weights by rank: the few weights whose product of magnitude and input importance, |w| times
 * the mean squared activation of its column, or whose own score is largest in the whole model.
 * Found in two steps: the best candidates of each tensor, then the best of all. Ties go to the
 * earlier tensor, then the earlier position, so the result does not depend on who works when.
 * Thread rule: per call. Limits: memory is 16 bytes a candidate. */
#ifndef LQ_RULES_QUANT_SUPER_WEIGHTS_H
#define LQ_RULES_QUANT_SUPER_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "rules/model/tensor_index.h"

/* A weight with its rank. As bytes: score as a little-endian double, position as a u64. */
struct lq_weight_rank {
    double score;
    uint64_t position; /* row * ne[0] + column */
};
enum { LQ_WEIGHT_RANK_BYTES = 16 };

struct lq_super_job {
    const struct lq_model_tensor *tensor;
    const void *data;
    const void *const *matrices; /* instead of data: those of each of the ne[2] matrices */
    uint64_t size_bytes;
    const float *importance; /* mat_count x ne[0]; mat_count is 1 or ne[2] */
    size_t mat_count;
    uint64_t keep; /* how many candidates to keep at most */
    void *user;
    bool (*cancelled)(void *user); /* may be NULL */
};

/* How many weights a coverage keeps: floor(coverage * total), at least 1. */
uint64_t lq_super_keep_count(double coverage, uint64_t total);
/* The best `keep` weights of a tensor, best first, as bytes appended to `out`. Errors: LQ_EFORMAT
 * (not finite, wrong size), LQ_ECANCELLED, LQ_ENOMEM. */
struct lq_buffer;
enum lq_status lq_super_candidates(const struct lq_super_job *job, struct lq_buffer *out,
                                   struct lq_error *err);

/* The best `keep` of `count` scores that are known already, each times `scale`, in the same form.
 * Errors: LQ_EIMPORTANCE (not finite), LQ_ENOMEM. */
enum lq_status lq_super_rank_scores(const float *scores, uint64_t count, double scale,
                                    uint64_t keep, struct lq_buffer *out, struct lq_error *err);

/* Where lq_super_select reads candidates from: `read` copies the `count` candidates from number
 * `first` of list `list` as bytes. */
struct lq_super_lists {
    size_t list_count;
    const uint64_t *counts; /* candidates in each list */
    void *user;
    enum lq_status (*read)(void *user, size_t list, uint64_t first, void *out, size_t count,
                           struct lq_error *err);
};
/* The best `keep` of all lists: taken[i] is how many of list i's first candidates are among them.
 */
enum lq_status lq_super_select(const struct lq_super_lists *lists, uint64_t keep, uint64_t *taken,
                               struct lq_error *err);
struct lq_weight_rank lq_weight_rank_read(const void *bytes);

#endif
