/* The pictures of an HTML report: the importance matrix and the mask that each quantized model was
 * made with (picture.h), one picture for all models that share them. Planned while the report
 * expands, drawn when it is written. Ownership: the expand arena. Thread rule: that of the
 * expansion or the run. Limits: LQ_REPORT_MODELS_MAX pictures. */
#ifndef LQ_RULES_REPORT_REPORT_PICTURES_H
#define LQ_RULES_REPORT_REPORT_PICTURES_H

#include <stddef.h>

#include "engine/base/buffer.h"
#include "engine/rule.h"

/* One picture; a name that is NULL: none. */
struct lq_report_picture {
    const char *imatrix;
    const char *mask;
};

struct lq_report_pictures {
    struct lq_report_picture *items;
    size_t count;
};

/* Finds what the artifacts under the attribute "quantized" were made with, and adds inputs of the
 * writing step for it: "picture<i>.imatrix", "picture<i>.mask". `inputs` has room for two a model.
 */
enum lq_status lq_report_pictures_plan(struct lq_expand *expand, const struct lq_artifact *report,
                                       struct lq_report_pictures *out, struct lq_step_input *inputs,
                                       size_t *input_count, struct lq_error *err);
/* Appends the pictures as SVG elements, for lq_report_write_html. */
enum lq_status lq_report_pictures_draw(struct lq_run *run,
                                       const struct lq_report_pictures *pictures,
                                       struct lq_buffer *out, struct lq_error *err);

#endif
