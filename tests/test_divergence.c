#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "rules/quality/divergence.h"

enum { VOCAB = 1003 };

static struct lq_error err;

/* Numbers between -8 and 8 that look random and are the same everywhere. */
static void fill(float *x, unsigned seed)
{
    for (int i = 0; i < VOCAB; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(seed >> 8) / (float)(1 << 20) - 8.0f;
    }
}

static double log_sum(const float *x)
{
    double sum = 0.0;
    for (int i = 0; i < VOCAB; i++) {
        sum += exp((double)x[i]);
    }
    return log(sum);
}

static double direct_kld(const float *p, const float *q)
{
    double log_p = log_sum(p);
    double log_q = log_sum(q);
    double sum = 0.0;
    for (int i = 0; i < VOCAB; i++) {
        double lp = (double)p[i] - log_p;
        sum += exp(lp) * (lp - ((double)q[i] - log_q));
    }
    return sum;
}

/* The exponential's error is 2 units in the last place of a float, differences are up to 16. */
#define ROW_TOLERANCE (16.0 * 2.5e-7)

Test(divergence, a_position_by_the_definition)
{
    for (unsigned seed = 1; seed < 20; seed++) {
        float p[VOCAB];
        float q[VOCAB];
        float p_used[VOCAB];
        float q_used[VOCAB];
        struct lq_divergence_row row;
        fill(p, seed);
        fill(q, seed * 7);
        for (int i = 0; i < VOCAB; i++) {
            q[i] = p[i] + (seed % 2 == 0 ? 0.01f : 1.0f) * q[i];
        }
        memcpy(p_used, p, sizeof p);
        memcpy(q_used, q, sizeof q);
        lq_divergence_of_logits(p_used, q_used, VOCAB, 17, &row);
        cr_expect_float_eq(row.kld, direct_kld(p, q), ROW_TOLERANCE, "seed %u: %g, %g", seed,
                           row.kld, direct_kld(p, q));
        cr_expect_float_eq(row.nll, log_sum(q) - (double)q[17], ROW_TOLERANCE);
        cr_expect_float_eq(row.nll_original, log_sum(p) - (double)p[17], ROW_TOLERANCE);

        /* The same from log-probabilities: what lies below -16 has next to no weight. */
        double shift = log_sum(p);
        memcpy(q_used, q, sizeof q);
        for (int i = 0; i < VOCAB; i++) {
            p_used[i] = (float)((double)p[i] - shift);
        }
        struct lq_divergence_row other;
        lq_divergence_of_log_probs(p_used, q_used, VOCAB, 17, &other);
        cr_expect_float_eq(other.kld, row.kld, 1e-3);
        cr_expect_eq(other.same_top, row.same_top);
    }
}

Test(divergence, equal_models_do_not_differ)
{
    float p[VOCAB];
    float q[VOCAB];
    struct lq_divergence_row row;
    fill(p, 5);
    memcpy(q, p, sizeof p);
    lq_divergence_of_logits(p, q, VOCAB, 3, &row);
    cr_expect_float_eq(row.kld, 0.0, 1e-7);
    cr_expect(row.same_top);
    cr_expect_float_eq(row.nll, row.nll_original, 1e-6);
}

Test(divergence, logits_that_are_no_numbers_show)
{
    float p[VOCAB];
    float q[VOCAB];
    struct lq_divergence_row row;
    fill(p, 5);
    fill(q, 6);
    q[100] = (float)NAN;
    lq_divergence_of_logits(p, q, VOCAB, 3, &row);
    cr_expect_not(isfinite(row.kld));
    fill(p, 5);
    fill(q, 6);
    p[0] = (float)INFINITY;
    lq_divergence_of_logits(p, q, VOCAB, 3, &row);
    cr_expect_not(isfinite(row.kld));
}

Test(divergence, statistics_by_hand)
{
    struct lq_divergence got;
    struct lq_divergence_row rows[101];
    for (int i = 0; i < 101; i++) {
        rows[(i * 37) % 101] = (struct lq_divergence_row){
            .kld = i, .nll = log(2.0), .nll_original = log(4.0), .same_top = i < 30};
    }
    cr_assert_eq(lq_divergence_make(rows, 101, &got, &err), LQ_OK);
    cr_expect_float_eq(got.kld_mean, 50.0, 1e-12);
    /* Of 0 to 100 the variance is 850. */
    cr_expect_float_eq(got.kld_plus_minus, sqrt(850.0 / 100.0), 1e-9);
    for (size_t i = 0; i < LQ_PERCENTILE_COUNT; i++) {
        cr_expect_float_eq(got.kld[i], lq_percentiles[i], 1e-9, "%s", lq_percentile_name(i));
        cr_expect_float_eq(got.delta_p[i], 25.0, 1e-9);
    }
    cr_expect_float_eq(got.delta_p_mean, 25.0, 1e-9);
    cr_expect_float_eq(got.delta_p_rms, 25.0, 1e-9);
    cr_expect_float_eq(got.same_top_pct, 3000.0 / 101.0, 1e-9);
    cr_expect_float_eq(got.log_ratio, -log(2.0), 1e-12);
    cr_expect_eq(lq_divergence_make(rows, 0, &got, &err), LQ_EINTERNAL);
    cr_assert_eq(lq_divergence_make(rows, 1, &got, &err), LQ_OK);
    cr_expect_eq(got.kld_plus_minus, 0.0);
}

Test(divergence, reads_back)
{
    struct lq_divergence in;
    struct lq_divergence out;
    struct lq_buffer text;
    struct lq_json_writer writer;
    static const struct lq_json_scope scope = {"test", LQ_EFORMAT};
    struct lq_divergence_row rows[] = {{0.1, 1.0, 1.1, true}, {0.3, 2.0, 1.5, false}};
    cr_assert_eq(lq_divergence_make(rows, 2, &in, &err), LQ_OK);
    lq_buffer_init(&text);
    lq_json_writer_init(&writer, &text, false);
    lq_json_begin_object(&writer);
    lq_divergence_put(&in, &writer);
    lq_json_end_object(&writer);
    cJSON *root = NULL;
    cr_assert_eq(lq_json_parse(text.data, text.size_bytes, "t", LQ_EFORMAT, &root, &err), LQ_OK);
    cr_assert_eq(lq_divergence_get(&scope, root, &out, &err), LQ_OK, "%s", err.message);
    in.tokens = out.tokens;
    cr_expect_eq(memcmp(&in, &out, sizeof in), 0);
    cJSON_Delete(root);
    root = cJSON_Parse("{\"same_top_pct\":101}");
    cr_expect_eq(lq_divergence_get(&scope, root, &out, &err), LQ_EFORMAT);
    cJSON_Delete(root);
    lq_buffer_fini(&text);
}
