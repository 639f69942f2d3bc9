/* Steps around llama-perplexity's base file: writing one, and taking the tokens out of one. Thread
 * rule: called on the expanding thread. Limits: those of logits_file.h. */
#ifndef LQ_RULES_QUALITY_LOGITS_STEP_H
#define LQ_RULES_QUALITY_LOGITS_STEP_H

#include <stddef.h>

#include "engine/base/error.h"
#include "engine/rule.h"

/* Adds the model's pass and the step "quality.logits": output "main" is the base file of `model`
 * (kind "model") on a token set of `sequence` tokens. At run time LQ_ECALIBRATION for fewer than
 * two chunks, LQ_EFAIL for values that are not finite. */
enum lq_status lq_logits_add_step(struct lq_expand *expand, const struct lq_artifact *model,
                                  struct lq_ref tokens, uint32_t sequence, size_t *step,
                                  struct lq_error *err);
/* Adds the step "logits.tokens": the token set of a base file for `model`, whose vocabulary says
 * whether chunks start with BOS. LQ_EFORMAT when the file is of another vocabulary. */
enum lq_status lq_logits_add_tokens_step(struct lq_expand *expand, const struct lq_artifact *model,
                                         const struct lq_artifact *logits, size_t *step,
                                         struct lq_error *err);

#endif
