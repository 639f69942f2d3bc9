/* Perplexity by llama.cpp's protocol (docs/formats.md, "Perplexity protocol"): the text is cut into
 * chunks of `context` tokens, token 0 of each replaced by BOS; positions context/2 to context-2 of
 * each chunk are scored on their next token, each chunk on its own. ppl = exp(mean nll), plus_minus
 * = ppl * sqrt((mean nll^2 - (mean nll)^2) / (count - 1)). Layers stream: one layer's weights are
 * resident, hidden states of up to 2 GiB at a time. Thread rule: functions that take an expansion
 * run on its thread; measuring uses one thread and the pool. Limits: those of tokens.h. */
#ifndef LQ_RULES_QUALITY_PERPLEXITY_H
#define LQ_RULES_QUALITY_PERPLEXITY_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/rule.h"
#include "rules/model/forward.h"
#include "rules/model/hparams.h"
#include "rules/model/tokens.h"

struct lq_perplexity {
    double ppl;
    double plus_minus;
    double nll;      /* mean negative log-likelihood of a scored token */
    uint64_t tokens; /* scored */
    uint32_t chunks;
    uint32_t context;
};

/* The chunk length to use: `asked`, or when that is 0 the smaller of 512 and the model's context.
 */
uint32_t lq_perplexity_context(uint32_t context_length, uint32_t asked);

/* Reads and checks the hyperparameters of an artifact of kind "model" from its outputs "meta" and
 * "tensors". LQ_EUNSUPPORTED when the forward pass does not know the model. */
enum lq_status lq_perplexity_hparams(struct lq_expand *expand, const struct lq_artifact *model,
                                     struct lq_hparams *out, struct lq_error *err);

struct lq_perplexity_request {
    const struct lq_artifact *model;   /* kind "model" or "gguf" */
    const struct lq_hparams *original; /* of the model that the tokens were made for */
    struct lq_ref tokens;              /* a token set (tokens.h) with chunks as samples */
    const char *label;                 /* shown to people */
};

/* Adds a step "quality.perplexity" whose output "main" is what lq_perplexity_parse reads. At run
 * time it gives LQ_ECALIBRATION for fewer than two chunks or foreign tokens, LQ_EFORMAT when a
 * GGUF's vocabulary has another size than the original's, LQ_EFAIL for values that are not finite.
 */
enum lq_status lq_perplexity_add_step(struct lq_expand *expand,
                                      const struct lq_perplexity_request *request, size_t *step,
                                      struct lq_error *err);

enum lq_status lq_perplexity_parse(const void *data, uint64_t size_bytes, struct lq_perplexity *out,
                                   struct lq_error *err);
void lq_perplexity_format(const struct lq_perplexity *perplexity, struct lq_buffer *out);

/* The measurement itself, on any forward pass made for samples of tokens->sequence_length. `report`
 * may be NULL; it gets tokens x layers done and in total. */
enum lq_status lq_perplexity_measure(struct lq_forward *forward, const struct lq_hparams *hparams,
                                     const struct lq_tokens *tokens,
                                     void (*report)(void *user, uint64_t done, uint64_t total),
                                     void *report_user, struct lq_perplexity *out,
                                     struct lq_error *err);

#endif
