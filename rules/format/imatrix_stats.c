#include "rules/format/imatrix_stats.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/text.h"

/* llama.cpp's threshold for a column that hardly ever sees anything. */
#define ACTIVE_ABOVE 1e-5

/* Means of all matrices that saw tokens; their number of columns. */
static size_t collect_means(const struct lq_imatrix_entry *entry, float *means)
{
    size_t columns = 0;
    for (size_t m = 0; m < entry->mat_count; m++) {
        if (entry->counts[entry->count_count == 1 ? 0 : m] > 0.0f) {
            lq_imatrix_means(entry, m, means + columns);
            columns += entry->col_count;
        }
    }
    return columns;
}

static void describe(const float *means, size_t columns, struct lq_imatrix_stats *stats)
{
    double squares = 0.0;
    size_t active = 0;
    size_t outliers = 0;
    stats->min = HUGE_VAL;
    stats->max = 0.0;
    stats->sum = 0.0;
    stats->entropy = 0.0;
    for (size_t i = 0; i < columns; i++) {
        double value = (double)means[i];
        stats->sum += value;
        squares += value * value;
        stats->min = fmin(stats->min, value);
        stats->max = fmax(stats->max, value);
        active += value > ACTIVE_ABOVE;
    }
    double count = (double)columns;
    stats->mean = stats->sum / count;
    stats->deviation = sqrt(fmax(0.0, squares / count - stats->mean * stats->mean));
    for (size_t i = 0; i < columns; i++) {
        double share = stats->sum > 0.0 ? (double)means[i] / stats->sum : 0.0;
        stats->entropy -= share > 0.0 ? share * log2(share) : 0.0;
        outliers += stats->deviation > 0.0 && (double)means[i] > stats->mean + stats->deviation;
    }
    stats->columns = columns;
    stats->active_pct = 100.0 * (double)active / count;
    stats->entropy_pct = columns > 1 ? 100.0 * stats->entropy / log2(count) : 100.0;
    stats->outlier_pct = 100.0 * (double)outliers / count;
}

/* "blk.12.attn_q.weight": 12, and what is before and behind it. */
static int layer_of(const char *name, const char **rest)
{
    char *end = NULL;
    if (!lq_text_starts_with(name, "blk.") || name[4] < '0' || name[4] > '9') {
        return -1;
    }
    unsigned long layer = strtoul(name + 4, &end, 10);
    if (*end != '.' || layer > LQ_MODEL_LAYERS_MAX) {
        return -1;
    }
    *rest = end;
    return (int)layer;
}

static double cosine_below(const struct lq_imatrix *imatrix, const struct lq_imatrix_entry *entry)
{
    char name[LQ_TENSOR_NAME_BYTES_MAX + 32];
    const char *rest = "";
    int layer = layer_of(entry->name, &rest);
    if (layer < 1) {
        return (double)NAN;
    }
    (void)snprintf(name, sizeof name, "blk.%d%s", layer - 1, rest);
    const struct lq_imatrix_entry *below = lq_imatrix_find(imatrix, name);
    size_t count = entry->mat_count * entry->col_count;
    if (below == NULL || below->mat_count * below->col_count != count) {
        return (double)NAN;
    }
    double product = 0.0;
    double squares = 0.0;
    double squares_below = 0.0;
    for (size_t i = 0; i < count; i++) {
        double x = (double)entry->sums[i];
        double y = (double)below->sums[i];
        product += x * y;
        squares += x * x;
        squares_below += y * y;
    }
    return squares > 0.0 && squares_below > 0.0 ? product / sqrt(squares * squares_below)
                                                : (double)NAN;
}

static void set_unknown(struct lq_imatrix_stats *stats)
{
    const double unknown = (double)NAN;
    stats->sum = unknown;
    stats->min = unknown;
    stats->max = unknown;
    stats->mean = unknown;
    stats->deviation = unknown;
    stats->active_pct = unknown;
    stats->entropy = unknown;
    stats->entropy_pct = unknown;
    stats->outlier_pct = unknown;
}

enum lq_status lq_imatrix_stats_make(const struct lq_imatrix *imatrix, struct lq_arena *arena,
                                     struct lq_imatrix_stats **out, struct lq_error *err)
{
    size_t widest = 1;
    for (size_t i = 0; i < imatrix->entry_count; i++) {
        size_t columns = imatrix->entries[i].mat_count * imatrix->entries[i].col_count;
        widest = columns > widest ? columns : widest;
    }
    float *means = calloc(widest, sizeof *means);
    struct lq_imatrix_stats *all = lq_arena_get_array(arena, imatrix->entry_count, sizeof *all);
    if (means == NULL || all == NULL) {
        free(means);
        return lq_error_nomem(err, "statistics");
    }
    for (size_t i = 0; i < imatrix->entry_count; i++) {
        const struct lq_imatrix_entry *entry = &imatrix->entries[i];
        const char *rest = NULL;
        size_t columns = collect_means(entry, means);
        all[i].name = entry->name;
        all[i].layer = layer_of(entry->name, &rest);
        if (columns == 0) {
            set_unknown(&all[i]);
        } else {
            describe(means, columns, &all[i]);
        }
        all[i].previous_cosine = cosine_below(imatrix, entry);
    }
    free(means);
    *out = all;
    return LQ_OK;
}
