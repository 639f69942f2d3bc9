#include "rules/quality/divergence.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "kernels/device_rows.h"

enum { LANES = 8 };

/* Below this a base logits file says nothing: what it can hold begins 16 under the most likely. */
#define LOG_PROB_MIN (-16.0f)

const double lq_percentiles[LQ_PERCENTILE_COUNT] = {0.0,  0.1,  1.0,  5.0,  10.0, 25.0, 50.0,
                                                    75.0, 90.0, 95.0, 99.0, 99.9, 100.0};

const char *lq_percentile_name(size_t index)
{
    static const char *const names[LQ_PERCENTILE_COUNT] = {
        "p0", "p0_1", "p1", "p5", "p10", "p25", "p50", "p75", "p90", "p95", "p99", "p99_9", "p100"};
    return names[index];
}

/* ---- one position ---- */

static size_t index_of(const float *x, size_t count, float value)
{
    for (size_t i = 0; i < count; i++) {
        if (x[i] == value) {
            return i;
        }
    }
    return count;
}

/* sum e d, in lanes of doubles that have one order. *total gets sum e. */
static double weighted_sum(const float *e, const float *d, size_t count, double *total)
{
    double sums[LANES] = {0};
    double weights[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (size_t l = 0; l < LANES; l++) {
            sums[l] += (double)e[i + l] * (double)d[i + l];
            weights[l] += (double)e[i + l];
        }
    }
    for (; i < count; i++) {
        sums[i % LANES] += (double)e[i] * (double)d[i];
        weights[i % LANES] += (double)e[i];
    }
    double sum = 0.0;
    *total = 0.0;
    for (size_t l = 0; l < LANES; l++) {
        sum += sums[l];
        *total += weights[l];
    }
    return sum;
}

void lq_divergence_of_logits(float *original, float *logits, size_t vocab, int32_t target,
                             struct lq_divergence_row *out)
{
    const struct lq_device_rows *rows = lq_device_rows();
    float max_p = rows->max(original, vocab);
    float max_q = rows->max(logits, vocab);
    double target_p = (double)original[target];
    double target_q = (double)logits[target];
    double log_q = (double)max_q + log(rows->exp_sum(logits, vocab, max_q));
    out->same_top = index_of(original, vocab, max_p) == index_of(logits, vocab, max_q);
    for (size_t i = 0; i < vocab; i++) {
        logits[i] = original[i] - logits[i];
    }
    double total = 0.0;
    (void)rows->exp_scaled(original, vocab, 1.0f, max_p);
    double sum = weighted_sum(original, logits, vocab, &total);
    double log_p = (double)max_p + log(total);
    out->kld = sum / total - (log_p - log_q);
    out->nll = log_q - target_q;
    out->nll_original = log_p - target_p;
}

void lq_divergence_of_log_probs(const float *original, const float *logits, size_t vocab,
                                int32_t target, struct lq_divergence_row *out)
{
    const struct lq_device_rows *rows = lq_device_rows();
    float max_q = rows->max(logits, vocab);
    double log_q = (double)max_q + log(rows->exp_sum(logits, vocab, max_q));
    out->kld = 0.0;
    for (size_t i = 0; i < vocab; i++) {
        if (original[i] > LOG_PROB_MIN) {
            double log_p = (double)original[i];
            out->kld += (double)expf(original[i]) * (log_p - (double)logits[i] + log_q);
        }
    }
    out->nll = log_q - (double)logits[target];
    out->nll_original = -(double)original[target];
    out->same_top =
        index_of(original, vocab, rows->max(original, vocab)) == index_of(logits, vocab, max_q);
}

/* ---- all positions ---- */

void lq_divergence_init(struct lq_divergence *out)
{
    const double unknown = (double)NAN;
    *out = (struct lq_divergence){.kld_mean = unknown,
                                  .kld_plus_minus = unknown,
                                  .delta_p_mean = unknown,
                                  .delta_p_plus_minus = unknown,
                                  .delta_p_rms = unknown,
                                  .delta_p_rms_plus_minus = unknown,
                                  .same_top_pct = unknown,
                                  .same_top_plus_minus = unknown,
                                  .log_ratio = unknown,
                                  .log_ratio_plus_minus = unknown,
                                  .correlation_pct = unknown};
    for (size_t i = 0; i < LQ_PERCENTILE_COUNT; i++) {
        out->kld[i] = unknown;
        out->delta_p[i] = unknown;
    }
}

/* Mean and standard error out of a sum and a sum of squares. */
static double mean_of(double sum, double squares, size_t count, double *plus_minus)
{
    double mean = sum / (double)count;
    double variance = squares / (double)count - mean * mean;
    *plus_minus = variance > 0.0 && count > 1 ? sqrt(variance / (double)(count - 1)) : 0.0;
    return mean;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Sorts `values`. */
static void find_percentiles(double *values, size_t count, double *out)
{
    qsort(values, count, sizeof *values, compare_doubles);
    for (size_t i = 0; i < LQ_PERCENTILE_COUNT; i++) {
        double place = lq_percentiles[i] / 100.0 * (double)(count - 1);
        size_t below = (size_t)place;
        size_t above = below + 1 < count ? below + 1 : below;
        double part = place - (double)below;
        out[i] = (1.0 - part) * values[below] + part * values[above];
    }
}

static void compare_perplexities(const struct lq_divergence_row *rows, size_t count,
                                 struct lq_divergence *out)
{
    double sums[5] = {0}; /* q, q^2, p, p^2, q p */
    double error_q = 0.0;
    double error_p = 0.0;
    for (size_t i = 0; i < count; i++) {
        double q = rows[i].nll;
        double p = rows[i].nll_original;
        sums[0] += q;
        sums[1] += q * q;
        sums[2] += p;
        sums[3] += p * p;
        sums[4] += q * p;
    }
    double mean_q = mean_of(sums[0], sums[1], count, &error_q);
    double mean_p = mean_of(sums[2], sums[3], count, &error_p);
    double covariance =
        count > 1 ? (sums[4] / (double)count - mean_q * mean_p) / (double)(count - 1) : 0.0;
    double variance = error_q * error_q + error_p * error_p - 2.0 * covariance;
    out->log_ratio = mean_q - mean_p;
    out->log_ratio_plus_minus = variance > 0.0 ? sqrt(variance) : 0.0;
    out->correlation_pct =
        error_q > 0.0 && error_p > 0.0 ? 100.0 * covariance / (error_q * error_p) : (double)NAN;
}

static void compare_top(const struct lq_divergence_row *rows, size_t count,
                        struct lq_divergence *out)
{
    size_t same = 0;
    for (size_t i = 0; i < count; i++) {
        same += rows[i].same_top;
    }
    double share = (double)same / (double)count;
    out->same_top_pct = 100.0 * share;
    out->same_top_plus_minus =
        count > 1 ? 100.0 * sqrt(share * (1.0 - share) / (double)(count - 1)) : 0.0;
}

enum lq_status lq_divergence_make(const struct lq_divergence_row *rows, size_t count,
                                  struct lq_divergence *out, struct lq_error *err)
{
    double kld[2] = {0};   /* sums of x and x^2 */
    double delta[3] = {0}; /* of x, x^2 and x^4 */
    double *values = count == 0 ? NULL : calloc(count, sizeof *values);
    if (values == NULL) {
        return count == 0 ? lq_error_set(err, LQ_EINTERNAL, "a comparison of no tokens")
                          : lq_error_nomem(err, "statistics");
    }
    lq_divergence_init(out);
    out->tokens = count;
    for (size_t i = 0; i < count; i++) {
        values[i] = rows[i].kld;
        kld[0] += rows[i].kld;
        kld[1] += rows[i].kld * rows[i].kld;
    }
    out->kld_mean = mean_of(kld[0], kld[1], count, &out->kld_plus_minus);
    find_percentiles(values, count, out->kld);
    for (size_t i = 0; i < count; i++) {
        double x = 100.0 * (exp(-rows[i].nll) - exp(-rows[i].nll_original));
        values[i] = x;
        delta[0] += x;
        delta[1] += x * x;
        delta[2] += x * x * x * x;
    }
    out->delta_p_mean = mean_of(delta[0], delta[1], count, &out->delta_p_plus_minus);
    double square_error = 0.0;
    out->delta_p_rms = sqrt(mean_of(delta[1], delta[2], count, &square_error));
    out->delta_p_rms_plus_minus =
        out->delta_p_rms > 0.0 ? 0.5 * square_error / out->delta_p_rms : 0.0;
    find_percentiles(values, count, out->delta_p);
    free(values);
    compare_perplexities(rows, count, out);
    compare_top(rows, count, out);
    return LQ_OK;
}

/* ---- files ---- */

static void put_percentiles(const double *values, struct lq_json_writer *writer)
{
    for (size_t i = 0; i < LQ_PERCENTILE_COUNT; i++) {
        lq_json_put_number(writer, lq_percentile_name(i), values[i]);
    }
}

void lq_divergence_put(const struct lq_divergence *divergence, struct lq_json_writer *writer)
{
    lq_json_put_number(writer, "kl_divergence_mean", divergence->kld_mean);
    lq_json_put_number(writer, "same_top_pct", divergence->same_top_pct);
    lq_json_put_number(writer, "same_top_plus_minus", divergence->same_top_plus_minus);
    lq_json_put_number(writer, "log_ratio", divergence->log_ratio);
    lq_json_put_number(writer, "log_ratio_plus_minus", divergence->log_ratio_plus_minus);
    lq_json_put_number(writer, "correlation_pct", divergence->correlation_pct);
    lq_json_key(writer, "kl_divergence");
    lq_json_begin_object(writer);
    lq_json_put_number(writer, "plus_minus", divergence->kld_plus_minus);
    put_percentiles(divergence->kld, writer);
    lq_json_end_object(writer);
    lq_json_key(writer, "delta_p_pct");
    lq_json_begin_object(writer);
    lq_json_put_number(writer, "mean", divergence->delta_p_mean);
    lq_json_put_number(writer, "plus_minus", divergence->delta_p_plus_minus);
    lq_json_put_number(writer, "rms", divergence->delta_p_rms);
    lq_json_put_number(writer, "rms_plus_minus", divergence->delta_p_rms_plus_minus);
    put_percentiles(divergence->delta_p, writer);
    lq_json_end_object(writer);
}

struct member {
    const char *key;
    double *value;
};

static enum lq_status get_members(const struct lq_json_scope *scope, const cJSON *object,
                                  const struct member *members, size_t count, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < count; i++) {
        bool found = false;
        *members[i].value = (double)NAN;
        status = lq_json_get_number(scope, object, members[i].key, members[i].value, &found, err);
    }
    return status;
}

static enum lq_status get_list(const struct lq_json_scope *scope, const cJSON *object,
                               const char *key, const struct member *members, size_t count,
                               double *percentiles, struct lq_error *err)
{
    struct member places[LQ_PERCENTILE_COUNT];
    const cJSON *inner = NULL;
    bool found = false;
    enum lq_status status = lq_json_get_object(scope, object, key, &inner, &found, err);
    if (status != LQ_OK || !found) {
        return status;
    }
    for (size_t i = 0; i < LQ_PERCENTILE_COUNT; i++) {
        places[i] = (struct member){lq_percentile_name(i), &percentiles[i]};
    }
    status = get_members(scope, inner, members, count, err);
    return status == LQ_OK ? get_members(scope, inner, places, LQ_PERCENTILE_COUNT, err) : status;
}

enum lq_status lq_divergence_get(const struct lq_json_scope *scope, const cJSON *object,
                                 struct lq_divergence *out, struct lq_error *err)
{
    lq_divergence_init(out);
    const struct member flat[] = {{"kl_divergence_mean", &out->kld_mean},
                                  {"same_top_pct", &out->same_top_pct},
                                  {"same_top_plus_minus", &out->same_top_plus_minus},
                                  {"log_ratio", &out->log_ratio},
                                  {"log_ratio_plus_minus", &out->log_ratio_plus_minus},
                                  {"correlation_pct", &out->correlation_pct}};
    const struct member kld[] = {{"plus_minus", &out->kld_plus_minus}};
    const struct member delta[] = {{"mean", &out->delta_p_mean},
                                   {"plus_minus", &out->delta_p_plus_minus},
                                   {"rms", &out->delta_p_rms},
                                   {"rms_plus_minus", &out->delta_p_rms_plus_minus}};
    enum lq_status status = get_members(scope, object, flat, LQ_COUNT_OF(flat), err);
    if (status == LQ_OK) {
        status = get_list(scope, object, "kl_divergence", kld, LQ_COUNT_OF(kld), out->kld, err);
    }
    if (status == LQ_OK) {
        status =
            get_list(scope, object, "delta_p_pct", delta, LQ_COUNT_OF(delta), out->delta_p, err);
    }
    if (status == LQ_OK && (out->same_top_pct < 0.0 || out->same_top_pct > 100.0)) {
        status = lq_error_set(err, scope->status,
                              "%s: field 'same_top_pct' is %g, expected 0 to "
                              "100",
                              scope->where, out->same_top_pct);
    }
    return status;
}
