#include "engine/cli/quality_result.h"

#include <math.h>
#include <time.h>

#include "engine/base/arena.h"
#include "engine/base/fs.h"
#include "rules/format/qreport.h"

static enum lq_status read_report(const char *path, struct lq_arena *arena,
                                  struct lq_qreport *report, struct lq_error *err)
{
    struct lq_map map;
    enum lq_status status = lq_map_open(&map, path, LQ_EIO, err);
    if (status != LQ_OK) {
        return status;
    }
    status = lq_qreport_parse(map.data, map.size_bytes, path, arena, report, err);
    lq_map_close(&map);
    if (status == LQ_OK && report->model_count == 0) {
        return lq_error_set(err, LQ_EFORMAT, "%s: the report compares no model", path);
    }
    return status;
}

static void put_metrics(const struct lq_qreport *report, struct lq_json_writer *writer)
{
    const struct lq_qreport_model *model = &report->models[0];
    lq_json_put_number(writer, "perplexity_original", report->perplexity);
    lq_json_put_number(writer, "perplexity_quantized", model->perplexity);
    lq_json_put_number(writer, "perplexity_delta_pct", model->delta_pct);
    lq_json_put_number(writer, "kl_divergence_mean", model->divergence.kld_mean);
    lq_json_put_number(writer, "same_top_pct", model->divergence.same_top_pct);
    lq_json_put_number(writer, "effective_bpw", model->effective_bpw);
    lq_json_put_number(writer, "compression_ratio", model->compression_ratio);
    if (!isnan(model->super_weight_coverage)) {
        lq_json_put_number(writer, "super_weight_coverage", model->super_weight_coverage);
    }
}

static void put_layers(const struct lq_qreport_model *model, struct lq_json_writer *writer)
{
    lq_json_key(writer, "layer_errors");
    lq_json_begin_array(writer);
    for (size_t i = 0; i < model->layer_count; i++) {
        const struct lq_qreport_layer *layer = &model->layers[i];
        lq_json_begin_object(writer);
        lq_json_put_string(writer, "layer_name", layer->layer_name);
        lq_json_put_number(writer, "mse", layer->mse);
        lq_json_put_number(writer, "max_error", layer->max_error);
        lq_json_put_number(writer, "bit_width", layer->bit_width);
        lq_json_put_int(writer, "parameter_count", (int64_t)layer->parameter_count);
        lq_json_end_object(writer);
    }
    lq_json_end_array(writer);
}

/* A result on the terminal may say when; an artifact may not. */
static void put_time(struct lq_json_writer *writer)
{
    char text[32] = "";
    struct tm tm;
    time_t now = time(NULL);
    if (gmtime_r(&now, &tm) != NULL && strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm) > 0) {
        lq_json_put_string(writer, "timestamp", text);
    }
}

enum lq_status lq_quality_metrics_write(const char *path, struct lq_json_writer *writer,
                                        double *delta_pct, struct lq_error *err)
{
    struct lq_qreport report;
    struct lq_arena arena;
    lq_arena_init(&arena);
    enum lq_status status = read_report(path, &arena, &report, err);
    if (status == LQ_OK) {
        put_metrics(&report, writer);
        if (!isnan(report.models[0].coherence.score)) {
            lq_json_put_number(writer, "coherence_score", report.models[0].coherence.score);
        }
        *delta_pct = report.models[0].delta_pct;
    }
    lq_arena_fini(&arena);
    return status;
}

enum lq_status lq_quality_result_write(const char *path, const char *original,
                                       const char *quantized, bool with_layers,
                                       struct lq_json_writer *writer, double *delta_pct,
                                       struct lq_error *err)
{
    struct lq_qreport report;
    struct lq_arena arena;
    lq_arena_init(&arena);
    enum lq_status status = read_report(path, &arena, &report, err);
    if (status == LQ_OK) {
        lq_json_put_string(writer, "original_model", original);
        lq_json_put_string(writer, "quantized_model", quantized);
        lq_json_key(writer, "metrics");
        lq_json_begin_object(writer);
        put_metrics(&report, writer);
        lq_json_end_object(writer);
        if (with_layers) {
            put_layers(&report.models[0], writer);
        }
        if (!isnan(report.models[0].coherence.score)) {
            lq_json_put_number(writer, "coherence_score", report.models[0].coherence.score);
        }
        put_time(writer);
        *delta_pct = report.models[0].delta_pct;
    }
    lq_arena_fini(&arena);
    return status;
}
