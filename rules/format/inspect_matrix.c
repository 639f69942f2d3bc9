#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rules/format/imatrix.h"
#include "rules/format/inspect_parts.h"
#include "rules/format/mask.h"

enum { POSITIONS_SHOWN = 4 };

static const char *method_name(enum lq_importance_method method)
{
    switch (method) {
    case LQ_IMPORTANCE_ACTIVATION:
        return "activation_magnitude";
    case LQ_IMPORTANCE_GRADIENT:
        return "gradient_sensitivity";
    case LQ_IMPORTANCE_FISHER:
        return "fisher_information";
    }
    return "?";
}

/* Running statistics of mean values. */
struct range {
    double min;
    double max;
    double sum;
    double count;
};

static void add_means(struct range *range, const float *means, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        double value = (double)means[i];
        range->min = range->count == 0 || value < range->min ? value : range->min;
        range->max = range->count == 0 || value > range->max ? value : range->max;
        range->sum += value;
        range->count += 1;
    }
}

static void put_entry(struct lq_view *view, const struct lq_imatrix_entry *entry, int width,
                      float *means, struct range *all)
{
    struct range range = {0};
    double tokens = 0;
    for (size_t k = 0; k < entry->mat_count; k++) {
        lq_imatrix_means(entry, k, means);
        add_means(&range, means, entry->col_count);
        add_means(all, means, entry->col_count);
    }
    for (size_t k = 0; k < entry->count_count; k++) {
        tokens += (double)entry->counts[k];
    }
    lq_view_begin_row(view);
    lq_view_cell_string(view, "name", -width, entry->name);
    lq_view_cell_uint(view, "columns", 7, entry->col_count);
    lq_view_cell_uint(view, "matrices", 4, entry->mat_count);
    lq_view_cell_number(view, "tokens", 9, tokens);
    lq_view_cell_number(view, "min", 12, range.min);
    lq_view_cell_number(view, "mean", 12, range.sum / range.count);
    lq_view_cell_number(view, "max", 12, range.max);
    lq_view_end_row(view);
}

static enum lq_status put_imatrix(struct lq_view *view, const struct lq_imatrix *imatrix,
                                  struct lq_error *err)
{
    struct range all = {0};
    size_t widest = 1;
    int width = 0;
    for (size_t i = 0; i < imatrix->entry_count; i++) {
        const struct lq_imatrix_entry *entry = &imatrix->entries[i];
        width = lq_inspect_width(width, entry->name);
        widest = entry->col_count > widest ? entry->col_count : widest;
    }
    float *means = calloc(widest, sizeof *means);
    if (means == NULL) {
        return lq_error_nomem(err, "an importance matrix");
    }
    lq_view_begin_table(
        view, "entries",
        "entries: name, columns, matrices, tokens, then least, mean and largest mean square");
    for (size_t i = 0; i < imatrix->entry_count; i++) {
        put_entry(view, &imatrix->entries[i], width, means, &all);
    }
    lq_view_end_table(view);
    if (!view->json) {
        lq_buffer_append_string(view->out, "\nall columns\n");
    }
    lq_view_number(view, "min", all.min);
    lq_view_number(view, "mean", all.sum / all.count);
    lq_view_number(view, "max", all.max);
    free(means);
    return LQ_OK;
}

enum lq_status lq_inspect_imatrix(const struct lq_inspection *in)
{
    static const char *const names[] = {"imatrix-gguf", "imatrix-imat", "imatrix-dat"};
    static const char *const titles[] = {"importance matrix, llama.cpp's GGUF",
                                         "importance matrix, IMAT",
                                         "importance matrix, llama.cpp's legacy format"};
    struct lq_imatrix imatrix;
    struct lq_view view;
    enum lq_imatrix_format format = LQ_IMATRIX_DAT;
    char id[LQ_DIGEST_HEX_BYTES];
    enum lq_status status =
        lq_imatrix_parse(in->data, in->size_bytes, in->name, in->arena, &imatrix, &format, in->err);
    if (status != LQ_OK) {
        return status;
    }
    lq_view_begin(&view, in->out, in->json, names[format], titles[format], in->size_bytes);
    /* Names that are too long for GGUF have no id. */
    lq_view_string(&view, "matrix_id", lq_imatrix_id(&imatrix, id, NULL) == LQ_OK ? id : "-");
    lq_view_string(&view, "method", method_name(imatrix.method));
    lq_view_uint(&view, "samples", imatrix.chunk_count);
    lq_view_uint(&view, "sequence", imatrix.chunk_size);
    lq_view_uint(&view, "entry_count", imatrix.entry_count);
    lq_view_uint(&view, "dataset_count", imatrix.dataset_count);
    if (imatrix.dataset_count > 0) {
        lq_view_string(&view, "dataset", imatrix.datasets[0]);
    }
    status = put_imatrix(&view, &imatrix, in->err);
    lq_view_end(&view);
    return status;
}

/* "(row, column) ..." */
static void put_positions(struct lq_view *view, const struct lq_mask_tensor *tensor)
{
    struct lq_buffer text;
    lq_buffer_init(&text);
    for (size_t i = 0; i < tensor->position_count && i < POSITIONS_SHOWN; i++) {
        lq_buffer_printf(&text, "%s(%llu, %llu)", i == 0 ? "" : " ",
                         (unsigned long long)(tensor->positions[i] / tensor->col_count),
                         (unsigned long long)(tensor->positions[i] % tensor->col_count));
    }
    if (tensor->position_count > POSITIONS_SHOWN) {
        lq_buffer_append_string(&text, " ...");
    }
    lq_view_cell_string(view, "positions", 0, lq_buffer_text(&text));
    lq_buffer_fini(&text);
}

enum lq_status lq_inspect_mask(const struct lq_inspection *in)
{
    struct lq_mask mask;
    struct lq_view view;
    int width = 0;
    enum lq_status status =
        lq_mask_parse(in->data, in->size_bytes, in->name, in->arena, &mask, in->err);
    if (status != LQ_OK) {
        return status;
    }
    lq_view_begin(&view, in->out, in->json, "mask", "super-weight mask", in->size_bytes);
    lq_view_string(&view, "mask_id", mask.mask_id);
    lq_view_string(&view, "source_matrix_id", mask.source_matrix_id);
    lq_view_number(&view, "coverage", mask.coverage);
    lq_view_uint(&view, "protection_precision", mask.protection_precision);
    lq_view_uint(&view, "total_protected", mask.total_protected);
    for (size_t i = 0; i < mask.tensor_count; i++) {
        width = lq_inspect_width(width, mask.tensors[i].name);
    }
    lq_view_begin_table(&view, "layer_masks",
                        "layer masks: name, rows x columns, positions, the first (row, column)");
    for (size_t i = 0; i < mask.tensor_count; i++) {
        const struct lq_mask_tensor *tensor = &mask.tensors[i];
        const uint64_t shape[2] = {tensor->row_count, tensor->col_count};
        lq_view_begin_row(&view);
        lq_view_cell_string(&view, "layer_name", -width, tensor->name);
        lq_view_cell_shape(&view, "shape", 16, shape, 2);
        lq_view_cell_uint(&view, "count", 8, tensor->position_count);
        put_positions(&view, tensor);
        lq_view_end_row(&view);
    }
    lq_view_end_table(&view);
    lq_view_end(&view);
    return LQ_OK;
}
