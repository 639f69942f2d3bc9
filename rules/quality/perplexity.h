/* Perplexity by llama.cpp's protocol (docs/formats.md, "Perplexity protocol"): the text is cut into
 * chunks of `context` tokens, token 0 of each replaced by BOS; positions context/2 to context-2 of
 * each chunk are scored on their next token, each chunk on its own. ppl = exp(mean nll), plus_minus
 * = ppl * sqrt((mean nll^2 - (mean nll)^2) / (count - 1)). Layers stream: one layer's weights are
 * resident, hidden states of up to 1 GiB at a time. Thread rule: functions that take an expansion
 * run on its thread; measuring uses one thread and the pool. Limits: those of tokens.h. */
#ifndef LQ_RULES_QUALITY_PERPLEXITY_H
#define LQ_RULES_QUALITY_PERPLEXITY_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/json.h"
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

enum lq_status lq_perplexity_parse(const void *data, uint64_t size_bytes, struct lq_perplexity *out,
                                   struct lq_error *err);
void lq_perplexity_format(const struct lq_perplexity *perplexity, struct lq_buffer *out);

/* The same as members of an open JSON object. */
void lq_perplexity_put(const struct lq_perplexity *perplexity, struct lq_json_writer *writer);
enum lq_status lq_perplexity_get(const struct lq_json_scope *scope, const cJSON *object,
                                 struct lq_perplexity *out, struct lq_error *err);

/* What else happens during a measurement; members may be NULL. */
struct lq_perplexity_hooks {
    /* Tokens done and in total: a token is done when it has passed every layer and the output. */
    void (*report)(void *user, uint64_t done, uint64_t total);
    /* After a layer, with the hidden states of whole samples; samples come in order. */
    enum lq_status (*layer)(void *user, uint32_t layer, size_t first_sample, size_t samples,
                            const float *hidden, struct lq_error *err);
    /* In place of lq_forward_score, with the output loaded: `hidden` are the scored positions from
     * number `first_row` on, in the order of the text; fills nll[rows]. */
    enum lq_status (*score)(void *user, size_t first_row, size_t rows, const float *hidden,
                            const int32_t *targets, double *nll, struct lq_error *err);
    void *user;
};

/* Scored positions of a sample. */
uint32_t lq_perplexity_scored(uint32_t context);

/* The measurement itself, on any forward pass made for samples of tokens->sequence_length. `hooks`
 * may be NULL. LQ_ECALIBRATION for fewer than two chunks, LQ_EFAIL for values that are not finite.
 */
enum lq_status lq_perplexity_measure(struct lq_forward *forward, const struct lq_hparams *hparams,
                                     const struct lq_tokens *tokens,
                                     const struct lq_perplexity_hooks *hooks,
                                     struct lq_perplexity *out, struct lq_error *err);

#endif
