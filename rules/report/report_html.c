#include <inttypes.h>
#include <math.h>
#include <stdbool.h>

#include "engine/base/text.h"
#include "rules/report/report_text.h"

static const char style[] =
    ":root{color-scheme:light dark;--fg:#1c1f24;--bg:#fff;--dim:#667;--line:#d8dbe0;--bar:#4a7fb5;"
    "--bad:#b3402e}\n"
    "@media(prefers-color-scheme:dark){:root{--fg:#e6e8eb;--bg:#16181c;--dim:#9aa;--line:#333840;"
    "--bar:#6a9fd5;--bad:#e07a66}}\n"
    "body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:70rem;"
    "margin:2rem auto;padding:0 1rem}\n"
    "h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}\n"
    "table{border-collapse:collapse;width:100%}\n"
    "th,td{padding:.3rem .6rem;border-bottom:1px solid var(--line);text-align:right;"
    "font-variant-numeric:tabular-nums}\n"
    "th:first-child,td:first-child{text-align:left}\n"
    "th{color:var(--dim);font-weight:600}\n"
    ".dim{color:var(--dim)}.bad{color:var(--bad)}\n"
    ".bar{display:inline-block;height:.7em;background:var(--bar);min-width:1px}\n"
    "td.wide{width:30%;text-align:left}\n"
    ".pic{overflow-x:auto}\n";

static void append_escaped(struct lq_buffer *out, const char *text)
{
    for (; *text != '\0'; text++) {
        switch (*text) {
        case '<':
            lq_buffer_append_string(out, "&lt;");
            break;
        case '>':
            lq_buffer_append_string(out, "&gt;");
            break;
        case '&':
            lq_buffer_append_string(out, "&amp;");
            break;
        case '"':
            lq_buffer_append_string(out, "&quot;");
            break;
        default:
            lq_buffer_append_char(out, *text);
        }
    }
}

static bool append_unknown(struct lq_buffer *out, double value)
{
    if (isnan(value)) {
        lq_buffer_append_string(out, "<td>&ndash;</td>");
    }
    return isnan(value);
}

static void append_number(struct lq_buffer *out, double value)
{
    if (!append_unknown(out, value)) {
        lq_buffer_printf(out, "<td>%.4f</td>", value);
    }
}

static void append_change(struct lq_buffer *out, double value)
{
    if (!append_unknown(out, value)) {
        lq_buffer_printf(out, "<td>%+.2f%%</td>", value);
    }
}

static void append_percent(struct lq_buffer *out, double value)
{
    if (!append_unknown(out, value)) {
        lq_buffer_printf(out, "<td>%.2f%%</td>", value);
    }
}

static void append_small(struct lq_buffer *out, double value)
{
    if (!append_unknown(out, value)) {
        lq_buffer_printf(out, "<td>%.6f</td>", value);
    }
}

static void append_error(struct lq_buffer *out, double value)
{
    if (!append_unknown(out, value)) {
        lq_buffer_printf(out, "<td>%.3e</td>", value);
    }
}

static void append_size(struct lq_buffer *out, uint64_t size_bytes)
{
    char text[64];
    lq_buffer_append_string(out, "<td>");
    lq_buffer_append_string(out, size_bytes == 0 ? "&ndash;"
                                                 : lq_text_size(size_bytes, text, sizeof text));
    lq_buffer_append_string(out, "</td>");
}

static void append_model(const struct lq_qreport_model *model, double limit, double scale,
                         struct lq_buffer *out)
{
    bool is_bad = !isnan(limit) && model->delta_pct > 100.0 * limit;
    lq_buffer_append_string(out, is_bad ? "<tr class=\"bad\"><td>" : "<tr><td>");
    append_escaped(out, model->quantized_path);
    lq_buffer_append_string(out, "</td>");
    append_size(out, model->file_size_bytes);
    append_number(out, model->effective_bpw);
    append_number(out, model->perplexity);
    append_number(out, model->plus_minus);
    append_change(out, model->delta_pct);
    append_small(out, model->divergence.kld_mean);
    append_percent(out, model->divergence.same_top_pct);
    double width = model->delta_pct > 0.0 && scale > 0.0 ? 100.0 * model->delta_pct / scale : 0.0;
    lq_buffer_printf(
        out, "<td class=\"wide\"><span class=\"bar\" style=\"width:%.1f%%\"></span></td></tr>\n",
        width);
}

static void append_models(const struct lq_qreport *report, double limit, struct lq_buffer *out)
{
    double scale = 0.0;
    for (size_t i = 0; i < report->model_count; i++) {
        scale = report->models[i].delta_pct > scale ? report->models[i].delta_pct : scale;
    }
    lq_buffer_append_string(
        out, "<table>\n<tr><th>model</th><th>size</th><th>bits/weight</th>"
             "<th>perplexity</th><th>&plusmn;</th><th>change</th><th>KL divergence</th>"
             "<th>same top</th><th></th></tr>\n<tr><td>");
    append_escaped(out, report->model_path);
    lq_buffer_append_string(out, " <span class=\"dim\">(original)</span></td>");
    append_size(out, report->file_size_bytes);
    append_number(out, (double)NAN);
    append_number(out, report->perplexity);
    append_number(out, report->plus_minus);
    lq_buffer_append_string(out, "<td></td><td></td><td></td><td></td></tr>\n");
    for (size_t i = 0; i < report->model_count; i++) {
        append_model(&report->models[i], limit, scale, out);
    }
    lq_buffer_append_string(out, "</table>\n");
}

static void append_percentiles(const struct lq_qreport *report, struct lq_buffer *out)
{
    lq_buffer_append_string(out, "<h2>KL divergence of tokens</h2>\n<table>\n<tr><th>model</th>"
                                 "<th>mean</th><th>&plusmn;</th>");
    for (size_t i = 0; i < LQ_PERCENTILE_COUNT; i++) {
        lq_buffer_printf(out, "<th>%g%%</th>", lq_percentiles[i]);
    }
    lq_buffer_append_string(out, "</tr>\n");
    for (size_t m = 0; m < report->model_count; m++) {
        const struct lq_divergence *divergence = &report->models[m].divergence;
        lq_buffer_append_string(out, "<tr><td>");
        append_escaped(out, report->models[m].quantized_path);
        lq_buffer_append_string(out, "</td>");
        append_small(out, divergence->kld_mean);
        append_small(out, divergence->kld_plus_minus);
        for (size_t i = 0; i < LQ_PERCENTILE_COUNT; i++) {
            append_small(out, divergence->kld[i]);
        }
        lq_buffer_append_string(out, "</tr>\n");
    }
    lq_buffer_append_string(out, "</table>\n");
}

/* A row for each layer, a column for each model. */
static void append_hidden(const struct lq_qreport *report, struct lq_buffer *out)
{
    size_t layers = 0;
    for (size_t m = 0; m < report->model_count; m++) {
        size_t count = report->models[m].hidden_count;
        layers = count > layers ? count : layers;
    }
    if (layers == 0) {
        return;
    }
    lq_buffer_append_string(out, "<h2>Errors of hidden states</h2>\n<p class=\"dim\">Of each "
                                 "layer's output, relative to the original's.</p>\n<table>\n"
                                 "<tr><th>layer</th>");
    for (size_t m = 0; m < report->model_count; m++) {
        lq_buffer_append_string(out, "<th>");
        append_escaped(out, report->models[m].quantized_path);
        lq_buffer_append_string(out, "</th>");
    }
    lq_buffer_append_string(out, "</tr>\n");
    for (size_t i = 0; i < layers; i++) {
        lq_buffer_printf(out, "<tr><td>%zu</td>", i);
        for (size_t m = 0; m < report->model_count; m++) {
            const struct lq_qreport_model *model = &report->models[m];
            append_percent(out,
                           i < model->hidden_count ? 100.0 * model->hidden_errors[i] : (double)NAN);
        }
        lq_buffer_append_string(out, "</tr>\n");
    }
    lq_buffer_append_string(out, "</table>\n");
}

static void append_coherence(const struct lq_qreport *report, struct lq_buffer *out)
{
    bool any = false;
    for (size_t m = 0; m < report->model_count; m++) {
        any = any || !isnan(report->models[m].coherence.score);
    }
    if (!any) {
        return;
    }
    lq_buffer_append_string(out, "<h2>Coherence of continuations</h2>\n<table>\n<tr><th>model</th>"
                                 "<th>score</th><th>likelihood</th><th>repetition</th>"
                                 "<th>agreement</th></tr>\n");
    for (size_t m = 0; m < report->model_count; m++) {
        const struct lq_coherence *coherence = &report->models[m].coherence;
        lq_buffer_append_string(out, "<tr><td>");
        append_escaped(out, report->models[m].quantized_path);
        lq_buffer_append_string(out, "</td>");
        append_number(out, coherence->score);
        append_number(out, coherence->likelihood);
        append_number(out, coherence->repetition);
        append_number(out, coherence->agreement);
        lq_buffer_append_string(out, "</tr>\n");
    }
    lq_buffer_append_string(out, "</table>\n");
}

static void append_task(const char *model, const struct lq_qreport_task *task,
                        struct lq_buffer *out)
{
    lq_buffer_append_string(out, "<tr><td>");
    append_escaped(out, model);
    lq_buffer_append_string(out, "</td><td>");
    append_escaped(out, task->name);
    lq_buffer_printf(out, "</td><td>%" PRIu64 "</td>", task->accuracy.task_count);
    append_percent(out, task->accuracy.accuracy_pct);
    append_percent(out, task->accuracy.low_pct);
    append_percent(out, task->accuracy.high_pct);
    append_percent(out, task->accuracy.chance_pct);
    lq_buffer_append_string(out, "</tr>\n");
}

static void append_tasks(const struct lq_qreport *report, struct lq_buffer *out)
{
    if (report->task_count == 0) {
        return;
    }
    lq_buffer_append_string(out, "<h2>Accuracy on tasks</h2>\n<table>\n<tr><th>model</th>"
                                 "<th>tasks</th><th>number</th><th>accuracy</th><th>at least</th>"
                                 "<th>at most</th><th>guessing</th></tr>\n");
    for (size_t i = 0; i < report->task_count; i++) {
        append_task(report->model_path, &report->tasks[i], out);
    }
    for (size_t m = 0; m < report->model_count; m++) {
        for (size_t i = 0; i < report->models[m].task_count; i++) {
            append_task(report->models[m].quantized_path, &report->models[m].tasks[i], out);
        }
    }
    lq_buffer_append_string(out, "</table>\n");
}

static void append_layers(const struct lq_qreport_model *model, struct lq_buffer *out)
{
    if (model->layer_count == 0) {
        return;
    }
    double scale = 0.0;
    for (size_t i = 0; i < model->layer_count; i++) {
        scale = model->layers[i].mse > scale ? model->layers[i].mse : scale;
    }
    lq_buffer_append_string(out, "<details><summary>tensors of ");
    append_escaped(out, model->quantized_path);
    lq_buffer_append_string(out,
                            "</summary>\n<table>\n<tr><th>tensor</th><th>type</th>"
                            "<th>parameters</th><th>mse</th><th>max error</th><th></th></tr>\n");
    for (size_t i = 0; i < model->layer_count; i++) {
        const struct lq_qreport_layer *layer = &model->layers[i];
        lq_buffer_append_string(out, "<tr><td>");
        append_escaped(out, layer->layer_name);
        lq_buffer_append_string(out, "</td><td>");
        append_escaped(out, layer->type == NULL ? "?" : layer->type);
        lq_buffer_printf(out, "</td><td>%" PRIu64 "</td>", layer->parameter_count);
        append_error(out, layer->mse);
        append_error(out, layer->max_error);
        double width = layer->mse > 0.0 && scale > 0.0 ? 100.0 * layer->mse / scale : 0.0;
        lq_buffer_printf(
            out,
            "<td class=\"wide\"><span class=\"bar\" style=\"width:%.1f%%\"></span></td></tr>\n",
            width);
    }
    lq_buffer_append_string(out, "</table></details>\n");
}

void lq_report_write_html(const struct lq_qreport *report, double limit, const char *pictures,
                          struct lq_buffer *out)
{
    lq_buffer_append_string(out,
                            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
                            "<meta name=\"viewport\" content=\"width=device-width\">\n<title>"
                            "Quality of ");
    append_escaped(out, report->model_path);
    lq_buffer_append_string(out, "</title>\n<style>\n");
    lq_buffer_append_string(out, style);
    lq_buffer_append_string(out, "</style></head><body>\n<h1>Quality of ");
    append_escaped(out, report->model_path);
    lq_buffer_printf(out,
                     "</h1>\n<p class=\"dim\">Perplexity of %" PRIu64 " tokens in %" PRIu64
                     " chunks of %" PRIu64 ".</p>\n",
                     report->token_count, report->chunk_count, report->context);
    append_models(report, limit, out);
    for (size_t i = 0; i < report->model_count; i++) {
        const struct lq_qreport_model *model = &report->models[i];
        if (!isnan(model->super_weight_coverage)) {
            lq_buffer_append_string(out, "<p>");
            append_escaped(out, model->quantized_path);
            lq_buffer_printf(out, " protects %.4g%% of its weights.</p>\n",
                             100.0 * model->super_weight_coverage);
        }
    }
    append_percentiles(report, out);
    append_hidden(report, out);
    append_coherence(report, out);
    append_tasks(report, out);
    if (pictures[0] != '\0') {
        lq_buffer_append_string(out, "<h2>Importance and super weights</h2>\n<div class=\"pic\">");
        lq_buffer_append_string(out, pictures);
        lq_buffer_append_string(out, "</div>\n");
    }
    lq_buffer_append_string(out, "<h2>Errors of tensors</h2>\n");
    for (size_t i = 0; i < report->model_count; i++) {
        append_layers(&report->models[i], out);
    }
    lq_buffer_append_string(out, "</body></html>\n");
}
