#include "engine/cli/quantize_report.h"

#include "engine/cli/quality_job.h"
#include "engine/cli/quality_result.h"
#include "engine/cli/quick_recipe.h"

/* The first option that asks for a report, or NULL. */
static const char *find_wish(const struct lq_args *args)
{
    static const char *const wishes[] = {"quality-report", "coherence-check", "fail-above"};
    for (size_t i = 0; i < sizeof wishes / sizeof wishes[0]; i++) {
        if (lq_args_has(args, wishes[i])) {
            return wishes[i];
        }
    }
    return NULL;
}

enum lq_status lq_quantize_report_check(struct lq_cli *cli, struct lq_quantize_report *out,
                                        struct lq_error *err)
{
    const char *wish = find_wish(&cli->args);
    const char *evaluation = lq_args_get(&cli->args, "evaluation-data");
    *out = (struct lq_quantize_report){.cli = cli};
    if (wish == NULL) {
        return evaluation == NULL ? LQ_OK
                                  : lq_error_set(err, LQ_EUSAGE,
                                                 "--evaluation-data means nothing without "
                                                 "--quality-report");
    }
    out->evaluation = evaluation != NULL ? evaluation : lq_quick_calibration_data(cli);
    return out->evaluation != NULL
               ? LQ_OK
               : lq_error_set(err, LQ_ECALIBRATION,
                              "--%s needs a text to measure with; give --evaluation-data FILE, or "
                              "name one in LQBUILD_CALIBRATION_DATA",
                              wish);
}

enum lq_status lq_quantize_report_place(struct lq_quantize_report *report, const char *output,
                                        struct lq_error *err)
{
    if (report->evaluation == NULL) {
        return LQ_OK;
    }
    report->path = lq_arena_printf(&report->cli->arena, "%s.qreport", output);
    return report->path == NULL ? lq_error_nomem(err, "the command") : LQ_OK;
}

enum lq_status lq_quantize_report_add(const struct lq_quantize_report *report,
                                      struct lq_recipe_text *text, struct lq_error *err)
{
    if (report->path == NULL) {
        return LQ_OK;
    }
    lq_recipe_text_begin(text, "text", "measured");
    lq_recipe_text_string(text, "path", report->evaluation);
    lq_recipe_text_end(text);
    lq_recipe_text_begin(text, "report", "quality");
    lq_recipe_text_word(text, "original", "original");
    lq_recipe_text_word(text, "quantized", "[quantized]");
    lq_recipe_text_word(text, "text", "measured");
    lq_recipe_text_string(text, "path", report->path);
    enum lq_status status = lq_quality_put_limits(report->cli, text, err);
    lq_recipe_text_end(text);
    return status;
}

size_t lq_quantize_report_targets(const struct lq_quantize_report *report,
                                  const char *const **targets)
{
    static const char *const all[] = {"quantized", "quality"};
    *targets = all;
    return report->path == NULL ? 1 : 2;
}

enum lq_status lq_quantize_report_print(const struct lq_quantize_report *report, const char *output,
                                        struct lq_json_writer *writer, struct lq_error *err)
{
    if (report->path == NULL || writer == NULL) {
        return LQ_OK;
    }
    double delta_pct = 0.0;
    lq_json_key(writer, "quality_report");
    lq_json_begin_object(writer);
    enum lq_status status = lq_quality_metrics_write(report->path, writer, &delta_pct, err);
    lq_json_end_object(writer);
    return status == LQ_OK ? lq_quality_warn(report->cli, output, delta_pct, err) : status;
}
