/* Perplexity by llama.cpp's protocol (docs/formats.md, "Perplexity protocol"): the text is cut into
 * chunks of `context` tokens, token 0 of each replaced by BOS; positions context/2 to context-2 of
 * each chunk are scored on their next token, each chunk on its own. ppl = exp(mean nll), plus_minus
 * = ppl * sqrt((mean nll^2 - (mean nll)^2) / (count - 1)). pass.h has the steps that run the model.
 * Thread rule: functions that take an expansion
 * run on its thread; measuring uses one thread and the pool. Limits: those of tokens.h. */
#ifndef LQ_RULES_QUALITY_PERPLEXITY_H
#define LQ_RULES_QUALITY_PERPLEXITY_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/json.h"
#include "engine/rule.h"
#include "rules/model/device_team.h"
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

/* Where a measurement gets its numbers from. */
struct lq_perplexity_source {
    const struct lq_tokens *tokens;
    size_t width; /* of hidden states */
    /* Hidden states behind the last layer at all scored positions of some samples. */
    enum lq_status (*read)(void *user, size_t first_sample, size_t samples, float *rows,
                           struct lq_error *err);
    /* nll[rows] of scored positions from number `first_row` on, in the order of the text. With
     * `lanes` several batches are scored at once, each by a lane of its own. */
    enum lq_status (*score)(void *user, size_t lane, size_t first_row, size_t rows,
                            const float *hidden, const int32_t *targets, double *nll,
                            struct lq_error *err);
    /* Tokens done and in total; may be NULL. */
    void (*report)(void *user, uint64_t done, uint64_t total);
    void *user;
    size_t lanes; /* at most LQ_TEAM_MAX; 0: one */
    struct lq_pool *pool;
};

/* Scored positions of a sample: from context / 2 on. */
uint32_t lq_perplexity_scored(uint32_t context);
/* LQ_ECALIBRATION for fewer than two chunks, or of fewer than 4 tokens. */
enum lq_status lq_perplexity_check(const struct lq_tokens *tokens, struct lq_error *err);
/* Samples of a checked text whose scored positions are read and scored at a time, at most. */
size_t lq_perplexity_batch_samples(const struct lq_tokens *tokens);
/* The measurement itself. Also LQ_EFAIL for values that are not finite. */
enum lq_status lq_perplexity_measure(const struct lq_perplexity_source *source,
                                     struct lq_perplexity *out, struct lq_error *err);

#endif
