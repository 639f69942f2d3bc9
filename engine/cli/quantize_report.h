/* The report that `quantize` makes of what it made, for every output format: asked for with
 * --quality-report, --coherence-check or --fail-above, measured on --evaluation-data, else on the
 * text that calibrates. Ownership: strings are of cli->arena. Thread rule: the main thread. */
#ifndef LQ_ENGINE_CLI_QUANTIZE_REPORT_H
#define LQ_ENGINE_CLI_QUANTIZE_REPORT_H

#include "engine/base/json.h"
#include "engine/cli/command.h"
#include "engine/cli/recipe_text.h"

struct lq_quantize_report {
    struct lq_cli *cli;
    const char *evaluation; /* the text; NULL: no report is wanted */
    const char *path;       /* of the .qreport file; NULL likewise */
};

/* Reads the options. LQ_EUSAGE for a text without a report, LQ_ECALIBRATION for a report without a
 * text. */
enum lq_status lq_quantize_report_check(struct lq_cli *cli, struct lq_quantize_report *out,
                                        struct lq_error *err);
/* Names the report after what is made: "<output>.qreport". */
enum lq_status lq_quantize_report_place(struct lq_quantize_report *report, const char *output,
                                        struct lq_error *err);
/* Appends the artifacts `measured` and `quality`, which compares `quantized` to `original`, if a
 * report is wanted. */
enum lq_status lq_quantize_report_add(const struct lq_quantize_report *report,
                                      struct lq_recipe_text *text, struct lq_error *err);
/* What to build: `quantized`, and `quality` if a report is wanted. The count; *targets is static.
 */
size_t lq_quantize_report_targets(const struct lq_quantize_report *report,
                                  const char *const **targets);
/* Puts "quality_report" into the open object, and warns when `output` is much worse than the
 * original. Nothing without a report, or where people read (`writer` is NULL). */
enum lq_status lq_quantize_report_print(const struct lq_quantize_report *report, const char *output,
                                        struct lq_json_writer *writer, struct lq_error *err);

#endif
