/* Turns a .qreport file into the result objects of the command line contract. Nothing is borrowed
 * afterwards. Thread rule: pure. */
#ifndef LQ_ENGINE_CLI_QUALITY_RESULT_H
#define LQ_ENGINE_CLI_QUALITY_RESULT_H

#include <stdbool.h>

#include "engine/base/json.h"

/* Puts the metrics of the first quantized model into the object that is open: perplexities, delta,
 * bits per weight, and coherence where it was measured. What was not measured is null. *delta_pct:
 * the growth of its perplexity. Errors: LQ_EIO, LQ_EFORMAT. */
enum lq_status lq_quality_metrics_write(const char *path, struct lq_json_writer *writer,
                                        double *delta_pct, struct lq_error *err);
/* The whole result: models, metrics, errors of layers when wanted, the time of printing. */
enum lq_status lq_quality_result_write(const char *path, const char *original,
                                       const char *quantized, bool with_layers,
                                       struct lq_json_writer *writer, double *delta_pct,
                                       struct lq_error *err);

#endif
