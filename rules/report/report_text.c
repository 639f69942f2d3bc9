#include "rules/report/report_text.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/text.h"

enum {
    WORST_LAYERS = 5,
    CELL_BYTES = 64,
    COLUMNS = 7,
    COLUMNS_WITHOUT_DIVERGENCE = 5,
    NAME_WIDTH_MAX = 48
};

enum lq_report_format lq_report_format_of(const char *extension)
{
    if (lq_text_equal_nocase(extension, ".html") || lq_text_equal_nocase(extension, ".htm")) {
        return LQ_REPORT_HTML;
    }
    if (lq_text_equal_nocase(extension, ".txt") || lq_text_equal_nocase(extension, ".md")) {
        return LQ_REPORT_TEXT;
    }
    return lq_text_equal_nocase(extension, ".csv") ? LQ_REPORT_CSV : LQ_REPORT_JSON;
}

size_t lq_report_worst_layers(const struct lq_qreport_model *model,
                              const struct lq_qreport_layer **out, size_t room)
{
    size_t count = 0;
    for (size_t i = 0; i < model->layer_count; i++) {
        const struct lq_qreport_layer *layer = &model->layers[i];
        if (!(layer->mse > 0.0)) {
            continue;
        }
        size_t at = count < room ? count++ : room;
        while (at > 0 && out[at - 1]->mse < layer->mse) {
            if (at < room) {
                out[at] = out[at - 1];
            }
            at--;
        }
        if (at < room) {
            out[at] = layer;
        }
    }
    return count;
}

/* One line of the table; text cells, the first left-aligned, the rest right. */
struct row {
    char cells[COLUMNS][CELL_BYTES];
};

static void number_cell(char cell[CELL_BYTES], const char *format, double value)
{
    if (isnan(value)) {
        strcpy(cell, "-");
    } else {
        (void)snprintf(cell, CELL_BYTES, format, value);
    }
}

static void perplexity_cell(char cell[CELL_BYTES], double perplexity, double plus_minus)
{
    if (isnan(perplexity)) {
        strcpy(cell, "-");
    } else if (isnan(plus_minus)) {
        (void)snprintf(cell, CELL_BYTES, "%.4f", perplexity);
    } else {
        (void)snprintf(cell, CELL_BYTES, "%.4f +/- %.4f", perplexity, plus_minus);
    }
}

static void model_row(const struct lq_qreport_model *model, struct row *row)
{
    (void)snprintf(row->cells[0], CELL_BYTES, "%.*s", NAME_WIDTH_MAX, model->quantized_path);
    strcpy(row->cells[1], "-");
    if (model->file_size_bytes > 0) {
        lq_text_size(model->file_size_bytes, row->cells[1], CELL_BYTES);
    }
    number_cell(row->cells[2], "%.3f", model->effective_bpw);
    perplexity_cell(row->cells[3], model->perplexity, model->plus_minus);
    number_cell(row->cells[4], "%+.2f%%", model->delta_pct);
    number_cell(row->cells[5], "%.6f", model->divergence.kld_mean);
    number_cell(row->cells[6], "%.2f%%", model->divergence.same_top_pct);
}

static void append_row(struct lq_buffer *out, const struct row *row, const int widths[COLUMNS],
                       int columns)
{
    for (int c = 0; c < columns; c++) {
        lq_buffer_printf(out, "%s%*s", c > 0 ? "  " : "", c == 0 ? -widths[c] : widths[c],
                         row->cells[c]);
    }
    while (out->size_bytes > 0 && out->data[out->size_bytes - 1] == ' ') {
        out->size_bytes--;
    }
    lq_buffer_append_char(out, '\n');
}

static void append_table(const struct lq_qreport *report, struct lq_buffer *out)
{
    struct row head = {
        {"model", "size", "bits/weight", "perplexity", "change", "KL divergence", "same top"}};
    struct row original = {{"", "", "", "", "", "", ""}};
    (void)snprintf(original.cells[0], CELL_BYTES, "%.*s", NAME_WIDTH_MAX, report->model_path);
    strcpy(original.cells[1], "-");
    if (report->file_size_bytes > 0) {
        lq_text_size(report->file_size_bytes, original.cells[1], CELL_BYTES);
    }
    perplexity_cell(original.cells[3], report->perplexity, report->plus_minus);
    int widths[COLUMNS] = {0};
    int columns = COLUMNS_WITHOUT_DIVERGENCE;
    for (size_t i = 0; i < report->model_count; i++) {
        columns = isnan(report->models[i].divergence.kld_mean) ? columns : COLUMNS;
    }
    for (size_t i = 0; i < report->model_count + 2; i++) {
        struct row row = i == 0 ? head : original;
        if (i >= 2) {
            model_row(&report->models[i - 2], &row);
        }
        for (int c = 0; c < COLUMNS; c++) {
            int width = (int)strlen(row.cells[c]);
            widths[c] = width > widths[c] ? width : widths[c];
        }
    }
    append_row(out, &head, widths, columns);
    append_row(out, &original, widths, columns);
    for (size_t i = 0; i < report->model_count; i++) {
        struct row row;
        model_row(&report->models[i], &row);
        append_row(out, &row, widths, columns);
    }
}

static void append_worst(const struct lq_qreport_model *model, struct lq_buffer *out)
{
    const struct lq_qreport_layer *worst[WORST_LAYERS];
    size_t count = lq_report_worst_layers(model, worst, WORST_LAYERS);
    if (count == 0) {
        return;
    }
    lq_buffer_printf(out, "\nlargest tensor errors of %s\n", model->quantized_path);
    for (size_t i = 0; i < count; i++) {
        lq_buffer_printf(out, "  %-28s %-7s  mse %.3e  max %.3e\n", worst[i]->layer_name,
                         worst[i]->type == NULL ? "?" : worst[i]->type, worst[i]->mse,
                         worst[i]->max_error);
    }
}

/* Errors of hidden states, where there are any: the first layer's, the largest and the last. */
static void append_hidden(const struct lq_qreport_model *model, struct lq_buffer *out)
{
    size_t largest = 0;
    if (model->hidden_count == 0) {
        return;
    }
    for (size_t i = 1; i < model->hidden_count; i++) {
        largest = model->hidden_errors[i] > model->hidden_errors[largest] ? i : largest;
    }
    lq_buffer_printf(out,
                     "  hidden states are off by %.3g%% after layer 0, %.3g%% after layer %zu, at "
                     "most %.3g%% after layer %zu\n",
                     100.0 * model->hidden_errors[0],
                     100.0 * model->hidden_errors[model->hidden_count - 1], model->hidden_count - 1,
                     100.0 * model->hidden_errors[largest], largest);
}

static void append_divergence(const struct lq_qreport_model *model, struct lq_buffer *out)
{
    enum { MEDIAN = 6, P99 = 10, MOST = 12 };
    const struct lq_divergence *divergence = &model->divergence;
    if (isnan(divergence->kld_mean)) {
        return;
    }
    lq_buffer_printf(out, "\nagainst the original: %s\n", model->quantized_path);
    lq_buffer_printf(out,
                     "  KL divergence  mean %.6f +/- %.6f  median %.6f  99%% %.6f  largest %.6f\n",
                     divergence->kld_mean, divergence->kld_plus_minus, divergence->kld[MEDIAN],
                     divergence->kld[P99], divergence->kld[MOST]);
    lq_buffer_printf(out, "  delta p        mean %+.3f%% +/- %.3f%%  rms %.3f%% +/- %.3f%%\n",
                     divergence->delta_p_mean, divergence->delta_p_plus_minus,
                     divergence->delta_p_rms, divergence->delta_p_rms_plus_minus);
    lq_buffer_printf(out, "  ln(ppl ratio)  %+.6f +/- %.6f  correlation %.2f%%\n",
                     divergence->log_ratio, divergence->log_ratio_plus_minus,
                     divergence->correlation_pct);
    append_hidden(model, out);
    if (!isnan(model->coherence.score)) {
        lq_buffer_printf(
            out, "  coherence      %.3f: likelihood %.3f, repetition %.3f, agreement %.3f\n",
            model->coherence.score, model->coherence.likelihood, model->coherence.repetition,
            model->coherence.agreement);
    }
}

static void append_task(const char *model, const struct lq_qreport_task *task,
                        struct lq_buffer *out)
{
    lq_buffer_printf(out, "  %-24s %6.2f%%  [%.2f%%, %.2f%%]\n", model, task->accuracy.accuracy_pct,
                     task->accuracy.low_pct, task->accuracy.high_pct);
}

/* For each set of tasks the original and the models; sets are in the same order everywhere. */
static void append_tasks(const struct lq_qreport *report, struct lq_buffer *out)
{
    for (size_t i = 0; i < report->task_count; i++) {
        const struct lq_qreport_task *task = &report->tasks[i];
        lq_buffer_printf(out, "\naccuracy on %" PRIu64 " tasks of %s (guessing gives %.2f%%)\n",
                         task->accuracy.task_count, task->name, task->accuracy.chance_pct);
        append_task(report->model_path, task, out);
        for (size_t m = 0; m < report->model_count; m++) {
            const struct lq_qreport_model *model = &report->models[m];
            if (i < model->task_count) {
                append_task(model->quantized_path, &model->tasks[i], out);
            }
        }
    }
}

void lq_report_write_text(const struct lq_qreport *report, double limit, struct lq_buffer *out)
{
    lq_buffer_printf(out,
                     "perplexity of %" PRIu64 " tokens in %" PRIu64 " chunks of %" PRIu64 "\n\n",
                     report->token_count, report->chunk_count, report->context);
    append_table(report, out);
    for (size_t i = 0; i < report->model_count; i++) {
        append_divergence(&report->models[i], out);
    }
    append_tasks(report, out);
    for (size_t i = 0; i < report->model_count; i++) {
        append_worst(&report->models[i], out);
    }
    for (size_t i = 0; i < report->model_count; i++) {
        const struct lq_qreport_model *model = &report->models[i];
        if (!isnan(model->super_weight_coverage)) {
            lq_buffer_printf(out, "\n%s protects %.4g%% of its weights\n", model->quantized_path,
                             100.0 * model->super_weight_coverage);
        }
        if (!isnan(limit) && model->delta_pct > 100.0 * limit) {
            lq_buffer_printf(out,
                             "\n%s is %.2f%% worse: above the limit of %.4g%%; an importance "
                             "matrix, a dynamic profile or more bits would help\n",
                             model->quantized_path, model->delta_pct, 100.0 * limit);
        }
    }
}
