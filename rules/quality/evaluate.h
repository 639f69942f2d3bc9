/* Steps that measure models on one text: the original once, then each quantized model against it.
 * pass.h runs their layers; here is what happens behind the last one. A model's step makes its
 * logits and the original's side by side, one tile of positions at a time, and compares them; so
 * there is no file of logits, a changed model is measured alone, and memory does not grow with the
 * number of models or tokens. Thread rule: functions that take an expansion run on its thread.
 * Limits: those of tokens.h. */
#ifndef LQ_RULES_QUALITY_EVALUATE_H
#define LQ_RULES_QUALITY_EVALUATE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/error.h"
#include "engine/rule.h"
#include "rules/model/hparams.h"
#include "rules/quality/divergence.h"
#include "rules/quality/pass.h"
#include "rules/quality/perplexity.h"

/* What a model's step finds. */
struct lq_evaluation {
    struct lq_perplexity perplexity;
    struct lq_divergence divergence;
    /* By layer: |h - original h| / |original h| of its outputs over the kept positions. None when
     * the model has other layers than the original. */
    double *hidden_errors;
    size_t layer_count;
};

/* Adds the pass of the model that everything is compared with, and the step "quality.perplexity",
 * whose output "main" is what lq_perplexity_parse reads. At run time LQ_ECALIBRATION for fewer than
 * two chunks or foreign tokens, LQ_EFAIL for values that are not finite. */
enum lq_status lq_evaluate_add_reference(struct lq_expand *expand, const struct lq_artifact *model,
                                         const struct lq_pass_options *options,
                                         struct lq_pass *pass, size_t *step, struct lq_error *err);

struct lq_evaluate_request {
    const struct lq_artifact *model;  /* as model_reader.h takes it */
    const struct lq_pass *original;   /* from lq_evaluate_add_reference */
    struct lq_pass_options options;   /* the same */
    const struct lq_artifact *logits; /* kind "logits", NULL: the original's own predictions */
};

/* Adds the model's pass and the step "quality.compare", whose output "main" is what
 * lq_evaluation_parse reads. At run time as above, and LQ_EFORMAT when the vocabulary has another
 * size than the original's. */
enum lq_status lq_evaluate_add_step(struct lq_expand *expand,
                                    const struct lq_evaluate_request *request, size_t *step,
                                    struct lq_error *err);

void lq_evaluation_format(const struct lq_evaluation *evaluation, struct lq_buffer *out);
enum lq_status lq_evaluation_parse(const void *data, uint64_t size_bytes, struct lq_arena *arena,
                                   struct lq_evaluation *out, struct lq_error *err);

#endif
