/* How far a model's predictions are from the original's, token by token: llama-perplexity's
 * statistics of --kl-divergence. For a position with the original's probabilities p and the model's
 * q, KLD = sum p ln(p/q), and delta p is what the model gives the token that really follows, minus
 * what the original gives it. Percentiles interpolate between neighbours. Everything is summed in
 * doubles in the order of tokens. Thread rule: rows are pure; the list belongs to one thread.
 * Limits: those of tokens.h. */
#ifndef LQ_RULES_QUALITY_DIVERGENCE_H
#define LQ_RULES_QUALITY_DIVERGENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buffer.h"
#include "engine/base/error.h"
#include "engine/base/json.h"

/* One position. */
struct lq_divergence_row {
    double kld;
    double nll; /* -ln q of the target */
    double nll_original;
    bool same_top; /* both have the same most likely token */
};

/* Both as logits, which are used up. Not finite when a logit is not. */
void lq_divergence_of_logits(float *original, float *logits, size_t vocab, int32_t target,
                             struct lq_divergence_row *out);
/* The original as natural logarithms of probabilities, as a base logits file has them; those of at
 * most -16 stand for nothing, as in llama-perplexity. */
void lq_divergence_of_log_probs(const float *original, const float *logits, size_t vocab,
                                int32_t target, struct lq_divergence_row *out);

enum { LQ_PERCENTILE_COUNT = 13 };
/* 0 (the least), 0.1, 1, 5, 10, 25, 50 (the median), 75, 90, 95, 99, 99.9, 100 (the largest). */
extern const double lq_percentiles[LQ_PERCENTILE_COUNT];
/* "p0", "p0_1", "p1", ..., "p99_9", "p100": their names in files. */
const char *lq_percentile_name(size_t index);

struct lq_divergence {
    uint64_t tokens;
    double kld_mean;
    double kld_plus_minus; /* standard error, as all of them */
    double kld[LQ_PERCENTILE_COUNT];
    double delta_p_mean; /* in percent, as all of them */
    double delta_p_plus_minus;
    double delta_p_rms;
    double delta_p_rms_plus_minus;
    double delta_p[LQ_PERCENTILE_COUNT];
    double same_top_pct;
    double same_top_plus_minus;
    double log_ratio; /* ln(perplexity / the original's) */
    double log_ratio_plus_minus;
    double correlation_pct; /* of both negative log-likelihoods */
};

/* Every number NaN. */
void lq_divergence_init(struct lq_divergence *out);
/* LQ_ENOMEM; LQ_EINTERNAL for no rows. */
enum lq_status lq_divergence_make(const struct lq_divergence_row *rows, size_t count,
                                  struct lq_divergence *out, struct lq_error *err);

/* Members of an open JSON object: "kl_divergence", "delta_p" and so on (docs/formats.md). */
void lq_divergence_put(const struct lq_divergence *divergence, struct lq_json_writer *writer);
/* Back from the object; what is missing is NaN. */
enum lq_status lq_divergence_get(const struct lq_json_scope *scope, const cJSON *object,
                                 struct lq_divergence *out, struct lq_error *err);

#endif
