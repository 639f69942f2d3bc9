#include "rules/format/imatrix_merge.h"

#include <math.h>
#include <string.h>

#include "engine/base/limits.h"
#include "rules/format/quote.h"

/* ---- merge ---- */

struct merge {
    const struct lq_imatrix *matrices;
    const char *const *names;
    size_t count;
    bool allow_missing;
    struct lq_arena *arena;
    struct lq_imatrix *out;
    struct lq_error *err;
};

static enum lq_status check_method(const struct merge *merge)
{
    for (size_t i = 1; i < merge->count; i++) {
        if (merge->matrices[i].method != merge->matrices[0].method) {
            return lq_error_set(merge->err, LQ_EIMATRIX,
                                "%s: measures importance by another method than %s; only "
                                "matrices of one method add up",
                                merge->names[i], merge->names[0]);
        }
    }
    return LQ_OK;
}

static enum lq_status check_shape(const struct merge *merge, size_t number,
                                  const struct lq_imatrix_entry *entry,
                                  const struct lq_imatrix_entry *first, const char *first_name)
{
    char quoted[LQ_QUOTE_BYTES];
    if (entry->col_count == first->col_count && entry->mat_count == first->mat_count &&
        entry->count_count == first->count_count) {
        return LQ_OK;
    }
    return lq_error_set(merge->err, LQ_EIMATRIX,
                        "%s: entry '%s' has %zu columns, %zu matrices and %zu counts, in %s %zu, "
                        "%zu and %zu; they are of different models or formats",
                        merge->names[number], lq_quote_string(entry->name, quoted),
                        entry->col_count, entry->mat_count, entry->count_count, first_name,
                        first->col_count, first->mat_count, first->count_count);
}

static enum lq_status add_floats(const struct merge *merge, const char *name, const double *sums,
                                 size_t count, float *out)
{
    char quoted[LQ_QUOTE_BYTES];
    for (size_t i = 0; i < count; i++) {
        out[i] = (float)sums[i];
        if (!isfinite(out[i])) {
            return lq_error_set(merge->err, LQ_EIMATRIX,
                                "entry '%s': sum %zu is %g, more than a float holds",
                                lq_quote_string(name, quoted), i, sums[i]);
        }
    }
    return LQ_OK;
}

/* Adds up the entries called `name`; the one of matrix `first` is there. */
static enum lq_status merge_entry(const struct merge *merge, const char *name, size_t first)
{
    const struct lq_imatrix_entry *model = lq_imatrix_find(&merge->matrices[first], name);
    struct lq_imatrix_entry *out = &merge->out->entries[merge->out->entry_count++];
    size_t sum_count = model->mat_count * model->col_count;
    char quoted[LQ_QUOTE_BYTES];
    double *sums = lq_arena_get_array(merge->arena, sum_count, sizeof *sums);
    double *counts = lq_arena_get_array(merge->arena, model->count_count, sizeof *counts);
    *out = *model;
    out->sums = lq_arena_get_array(merge->arena, sum_count, sizeof *out->sums);
    out->counts = lq_arena_get_array(merge->arena, model->count_count, sizeof *out->counts);
    if (sums == NULL || counts == NULL || out->sums == NULL || out->counts == NULL) {
        return lq_error_nomem(merge->err, "an importance matrix");
    }
    for (size_t m = 0; m < merge->count; m++) {
        const struct lq_imatrix_entry *entry = lq_imatrix_find(&merge->matrices[m], name);
        if (entry == NULL && !merge->allow_missing) {
            return lq_error_set(merge->err, LQ_EIMATRIX,
                                "%s: entry '%s' is missing, and %s has it; they are of different "
                                "models, or allow it with --allow-missing",
                                merge->names[m], lq_quote_string(name, quoted),
                                merge->names[first]);
        }
        enum lq_status status =
            entry == NULL ? LQ_OK : check_shape(merge, m, entry, model, merge->names[first]);
        if (status != LQ_OK) {
            return status;
        }
        for (size_t i = 0; entry != NULL && i < sum_count; i++) {
            sums[i] += (double)entry->sums[i];
        }
        for (size_t i = 0; entry != NULL && i < entry->count_count; i++) {
            counts[i] += (double)entry->counts[i];
        }
    }
    enum lq_status status = add_floats(merge, name, sums, sum_count, out->sums);
    return status == LQ_OK ? add_floats(merge, name, counts, out->count_count, out->counts)
                           : status;
}

static enum lq_status merge_entries(const struct merge *merge, size_t *next)
{
    for (;;) {
        const char *name = NULL;
        size_t first = 0;
        for (size_t m = 0; m < merge->count; m++) {
            if (next[m] < merge->matrices[m].entry_count) {
                const char *candidate = merge->matrices[m].entries[next[m]].name;
                if (name == NULL || strcmp(candidate, name) < 0) {
                    name = candidate;
                    first = m;
                }
            }
        }
        if (name == NULL) {
            return LQ_OK;
        }
        enum lq_status status = merge_entry(merge, name, first);
        if (status != LQ_OK) {
            return status;
        }
        for (size_t m = 0; m < merge->count; m++) {
            const struct lq_imatrix *matrix = &merge->matrices[m];
            next[m] +=
                next[m] < matrix->entry_count && strcmp(matrix->entries[next[m]].name, name) == 0;
        }
    }
}

static void merge_datasets(const struct merge *merge, const char **list)
{
    for (size_t m = 0; m < merge->count; m++) {
        for (size_t i = 0; i < merge->matrices[m].dataset_count; i++) {
            bool seen = false;
            for (size_t k = 0; k < merge->out->dataset_count && !seen; k++) {
                seen = strcmp(list[k], merge->matrices[m].datasets[i]) == 0;
            }
            if (!seen) {
                list[merge->out->dataset_count++] = merge->matrices[m].datasets[i];
            }
        }
    }
    merge->out->datasets = list;
}

static void merge_chunks(const struct merge *merge)
{
    uint64_t size = merge->matrices[0].chunk_size;
    uint64_t tokens = 0;
    for (size_t m = 0; m < merge->count; m++) {
        tokens += (uint64_t)merge->matrices[m].chunk_count * merge->matrices[m].chunk_size;
    }
    uint64_t chunks = size == 0 ? 0 : (tokens + size - 1) / size;
    merge->out->chunk_size = (uint32_t)size;
    merge->out->chunk_count = chunks > UINT32_MAX ? UINT32_MAX : (uint32_t)chunks;
}

enum lq_status lq_imatrix_merge(const struct lq_imatrix *matrices, const char *const *names,
                                size_t count, bool allow_missing, struct lq_arena *arena,
                                struct lq_imatrix *out, struct lq_error *err)
{
    struct merge merge = {matrices, names, count, allow_missing, arena, out, err};
    size_t entries = 0;
    size_t datasets = 0;
    for (size_t m = 0; m < count; m++) {
        entries += matrices[m].entry_count;
        datasets += matrices[m].dataset_count;
    }
    *out = (struct lq_imatrix){.method = matrices[0].method};
    out->entries = lq_arena_get_array(arena, entries, sizeof *out->entries);
    const char **list = lq_arena_get_array(arena, datasets, sizeof *list);
    size_t *next = lq_arena_get_array(arena, count, sizeof *next);
    if (out->entries == NULL || list == NULL || next == NULL) {
        return lq_error_nomem(err, "an importance matrix");
    }
    enum lq_status status = check_method(&merge);
    if (status == LQ_OK) {
        merge_datasets(&merge, list);
        merge_chunks(&merge);
        status = merge_entries(&merge, next);
    }
    return status;
}

/* ---- compare ---- */

static enum lq_status compare_means(const struct lq_imatrix_entry *a,
                                    const struct lq_imatrix_entry *b, double floor,
                                    struct lq_arena *arena, struct lq_imatrix_difference *out,
                                    struct lq_error *err)
{
    /* A legacy file does not know how its columns are cut into matrices. */
    size_t total = a->mat_count * a->col_count;
    if (total != b->mat_count * b->col_count) {
        out->shapes_differ = true;
        return LQ_OK;
    }
    float *means_a = lq_arena_get_array(arena, total, sizeof *means_a);
    float *means_b = lq_arena_get_array(arena, total, sizeof *means_b);
    if (means_a == NULL || means_b == NULL) {
        return lq_error_nomem(err, "an importance matrix");
    }
    for (size_t m = 0; m < a->mat_count; m++) {
        lq_imatrix_means(a, m, means_a + m * a->col_count);
    }
    for (size_t m = 0; m < b->mat_count; m++) {
        lq_imatrix_means(b, m, means_b + m * b->col_count);
    }
    for (size_t i = 0; i < total; i++) {
        double difference = fabs((double)means_a[i] - (double)means_b[i]);
        double larger = fmax((double)means_a[i], (double)means_b[i]);
        out->absolute = fmax(out->absolute, difference);
        if (difference > floor && difference / larger > out->relative) {
            out->relative = difference / larger;
            out->column = i;
        }
    }
    return LQ_OK;
}

enum lq_status lq_imatrix_compare(const struct lq_imatrix *a, const struct lq_imatrix *b,
                                  double floor, struct lq_arena *arena,
                                  struct lq_imatrix_difference **out, size_t *count,
                                  struct lq_error *err)
{
    size_t i = 0;
    size_t k = 0;
    *count = 0;
    *out = lq_arena_get_array(arena, a->entry_count + b->entry_count, sizeof **out);
    if (*out == NULL) {
        return lq_error_nomem(err, "a comparison");
    }
    while (i < a->entry_count || k < b->entry_count) {
        struct lq_imatrix_difference *found = &(*out)[(*count)++];
        int order = i == a->entry_count   ? 1
                    : k == b->entry_count ? -1
                                          : strcmp(a->entries[i].name, b->entries[k].name);
        found->name = order <= 0 ? a->entries[i].name : b->entries[k].name;
        found->only_in_a = order < 0;
        found->only_in_b = order > 0;
        if (order == 0) {
            enum lq_status status =
                compare_means(&a->entries[i], &b->entries[k], floor, arena, found, err);
            if (status != LQ_OK) {
                return status;
            }
        }
        i += order <= 0;
        k += order >= 0;
    }
    return LQ_OK;
}
