/* What can be done with importance matrices that exist: adding up several, and saying how far two
 * are apart. Sums and counts add, so a merged matrix is what one run over all texts would have
 * given. Thread rule: pure. Limits: those of imatrix.h. */
#ifndef LQ_RULES_FORMAT_IMATRIX_MERGE_H
#define LQ_RULES_FORMAT_IMATRIX_MERGE_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/arena.h"
#include "engine/base/error.h"
#include "rules/format/imatrix.h"

/* Adds up `count` matrices into *out, whose memory comes from the arena; strings are borrowed from
 * the inputs. `names` are for messages. The length of a sample is the first matrix's. LQ_EIMATRIX
 * when methods, names or shapes differ, or when a sum is beyond floats. With `allow_missing` an
 * entry may be absent from some of the matrices. */
enum lq_status lq_imatrix_merge(const struct lq_imatrix *matrices, const char *const *names,
                                size_t count, bool allow_missing, struct lq_arena *arena,
                                struct lq_imatrix *out, struct lq_error *err);

/* One entry of two matrices. Mean values are compared, so counts may differ. */
struct lq_imatrix_difference {
    const char *name;
    bool only_in_a;
    bool only_in_b;
    bool shapes_differ;
    double relative; /* the largest |a - b| / max(a, b) of its columns, 0 to 1 */
    double absolute; /* the largest |a - b| */
    size_t column;   /* where `relative` is: counted over all matrices of the entry */
};

/* Entries of both by name, in order. Columns that differ by at most `floor` count as equal for
 * `relative`. Memory from the arena. */
enum lq_status lq_imatrix_compare(const struct lq_imatrix *a, const struct lq_imatrix *b,
                                  double floor, struct lq_arena *arena,
                                  struct lq_imatrix_difference **out, size_t *count,
                                  struct lq_error *err);

#endif
