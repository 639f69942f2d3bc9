/* A quality report for people: a table of models and the tensors with the largest errors, as plain
 * text, as one HTML page that needs nothing else, or as CSV. Pure: a report in, bytes out; the same
 * report gives the same bytes. Thread rule: pure. */
#ifndef LQ_RULES_REPORT_REPORT_TEXT_H
#define LQ_RULES_REPORT_REPORT_TEXT_H

#include "engine/base/buffer.h"
#include "rules/format/qreport.h"

enum lq_report_format { LQ_REPORT_JSON, LQ_REPORT_TEXT, LQ_REPORT_HTML, LQ_REPORT_CSV };

/* By the extension of a path: .txt and .md text, .html and .htm HTML, .csv CSV, everything else
 * JSON. */
enum lq_report_format lq_report_format_of(const char *extension);
/* `limit` is NaN when there is no limit, else a ratio. `pictures` are elements of HTML that
 * show what the models were made with (report_pictures.h), "" for none. */
void lq_report_write_text(const struct lq_qreport *report, double limit, struct lq_buffer *out);
void lq_report_write_html(const struct lq_qreport *report, double limit, const char *pictures,
                          struct lq_buffer *out);
/* RFC 4180: a line of names, then the original and each model; empty is unknown. */
void lq_report_write_csv(const struct lq_qreport *report, struct lq_buffer *out);
/* The models' layers with the largest mean squared errors, largest first: at most `room` of them go
 * to `out`; returns how many. */
size_t lq_report_worst_layers(const struct lq_qreport_model *model,
                              const struct lq_qreport_layer **out, size_t room);

#endif
