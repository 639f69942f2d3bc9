/* Figures about each entry of an importance matrix, of the kind that llama-imatrix
 * --show-statistics prints: they tell which tensors and layers quantization will hurt. Of experts
 * only those that saw tokens count. Thread rule: pure. Limits: those of imatrix.h. */
#ifndef LQ_RULES_FORMAT_IMATRIX_STATS_H
#define LQ_RULES_FORMAT_IMATRIX_STATS_H

#include <stddef.h>

#include "engine/base/arena.h"
#include "engine/base/error.h"
#include "rules/format/imatrix.h"

struct lq_imatrix_stats {
    const char *name;
    int layer; /* of "blk.<layer>."; -1 when it is no part of a layer */
    size_t columns;
    double sum; /* of the mean squares of all columns */
    double min;
    double max;
    double mean;
    double deviation;       /* standard deviation */
    double active_pct;      /* columns above 1e-5 */
    double entropy;         /* of the columns as shares of the sum, in bits */
    double entropy_pct;     /* of log2(columns) */
    double outlier_pct;     /* columns more than one deviation above the mean */
    double previous_cosine; /* with the same tensor one layer below; NaN when there is none */
};

/* One for each entry, in the order of names. NaN everywhere for an entry without tokens. Memory
 * from the arena. */
enum lq_status lq_imatrix_stats_make(const struct lq_imatrix *imatrix, struct lq_arena *arena,
                                     struct lq_imatrix_stats **out, struct lq_error *err);

#endif
