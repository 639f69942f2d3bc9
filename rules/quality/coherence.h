/* Coherence: does a quantized model still write as the original does? Both continue the same
 * prompts greedily, and the original judges. For a prompt let c be the model's continuation and o
 * the original's own:
 *
 *   likelihood = min(1, exp(mean ln p(c) - mean ln p(o))), p by the original
 *   repetition = 1 - max(0, r(c) - r(o)), r the part of 4-grams that occurred before
 *   agreement  = tokens that c and o have in common from the start on, as a part of the longer
 *   score      = likelihood * repetition * (0.8 + 0.2 * agreement)
 *
 * The coherence score is the mean over prompts: 1 for a model that writes what the original writes,
 * near 0 for one whose text the original would never write, or that repeats itself. A continuation
 * ends behind an end-of-text token. Continuations are exact: guesses for all tokens are checked in
 * one pass, what holds is kept, and predictions are the next guesses (Jacobi iteration; Santilli
 * and others, "Accelerating Transformer Inference for Translation via Parallel Decoding", 2023), so
 * at most `length` passes are needed and few when the guess is good. Thread rule: as evaluate.h.
 * Limits: LQ_PROMPTS_MAX, LQ_CONTINUATION_MAX. */
#ifndef LQ_RULES_QUALITY_COHERENCE_H
#define LQ_RULES_QUALITY_COHERENCE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/buffer.h"
#include "engine/base/error.h"
#include "engine/rule.h"
#include "rules/model/hparams.h"
#include "rules/quality/prompts.h"

/* The parts of a score, as above; of a set of prompts their means. */
struct lq_coherence {
    double score;
    double likelihood;
    double repetition;
    double agreement;
};

/* The part of n-grams (n = 4) of `tokens` that occurred before; 0 for fewer than 5 tokens. */
double lq_coherence_repeated(const int32_t *tokens, size_t count);
/* One prompt. Means of log-probabilities are the original's. */
void lq_coherence_judge(const int32_t *model, size_t model_count, double model_log_prob,
                        const int32_t *original, size_t original_count, double original_log_prob,
                        struct lq_coherence *out);

/* Prompts that ship with the tool. */
extern const char *const lq_coherence_prompts[];
extern const size_t lq_coherence_prompt_count;

struct lq_coherence_request {
    const struct lq_artifact *original; /* kind "model" */
    const char *const *prompts;
    size_t prompt_count;
    const struct lq_artifact *text; /* its lines are the prompts instead; NULL: none */
    uint32_t length;                /* tokens to write */
};

/* The original's part, which all models share; in the expansion's arena. */
struct lq_coherence_plan {
    struct lq_coherence_request request;
    struct lq_hparams hparams; /* the original's */
    struct lq_prompts prompts;
    size_t *written;   /* the step behind which a group is continued by the original */
    uint32_t passes;   /* in a step */
    uint32_t sequence; /* the longest prompt and what is written behind it, at most */
};

/* Adds a step "quality.prompts" for each group of prompts, and the steps "quality.continue" in
 * which the original writes, one for each pass, so that a killed run repeats one pass. When nothing
 * changes any more the rest of the passes hand on what they got. */
enum lq_status lq_coherence_add_reference(struct lq_expand *expand,
                                          const struct lq_coherence_request *request,
                                          struct lq_coherence_plan *plan, struct lq_error *err);
/* Adds the same passes for a model (kind "model" or "gguf"), "quality.read", in which the original
 * reads what it wrote, and "quality.coherence", whose output "main" is what lq_coherence_parse
 * reads. */
enum lq_status lq_coherence_add_step(struct lq_expand *expand, const struct lq_coherence_plan *plan,
                                     const struct lq_artifact *model, size_t *step,
                                     struct lq_error *err);

enum lq_status lq_coherence_parse(const void *data, uint64_t size_bytes, struct lq_coherence *out,
                                  struct lq_error *err);

#endif
