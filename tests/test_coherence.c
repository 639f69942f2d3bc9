#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "rules/quality/coherence.h"

static struct lq_error err;

Test(coherence, repeated_grams)
{
    static const int32_t cycle[] = {1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3};
    static const int32_t same[] = {7, 7, 7, 7, 7, 7, 7, 7};
    static const int32_t fresh[] = {1, 2, 3, 4, 5, 6, 7, 8};
    /* Eight 4-grams, of which four differ. */
    cr_expect_float_eq(lq_coherence_repeated(cycle, 11), 0.5, 1e-12);
    cr_expect_float_eq(lq_coherence_repeated(same, 8), 0.8, 1e-12);
    cr_expect_eq(lq_coherence_repeated(fresh, 8), 0.0);
    cr_expect_eq(lq_coherence_repeated(same, 4), 0.0);
    cr_expect_eq(lq_coherence_repeated(same, 0), 0.0);
}

Test(coherence, scores_by_the_formula)
{
    static const int32_t original[] = {1, 2, 3, 4, 5, 6, 7, 8};
    static const int32_t model[] = {1, 2, 7, 7, 7, 7, 7, 7};
    struct lq_coherence got;
    lq_coherence_judge(original, 8, -1.0, original, 8, -1.0, &got);
    cr_expect_eq(got.score, 1.0);
    lq_coherence_judge(model, 8, -3.0, original, 8, -1.0, &got);
    cr_expect_float_eq(got.likelihood, exp(-2.0), 1e-12);
    cr_expect_float_eq(got.repetition, 1.0 - 0.4, 1e-12);
    cr_expect_float_eq(got.agreement, 0.25, 1e-12);
    cr_expect_float_eq(got.score, exp(-2.0) * 0.6 * 0.85, 1e-12);
    /* Better than greedy is possible over many tokens, and no more than fine. */
    lq_coherence_judge(original, 8, -0.5, model, 8, -1.0, &got);
    cr_expect_eq(got.likelihood, 1.0);
    cr_expect_eq(got.repetition, 1.0);
    /* Nothing but gibberish. */
    lq_coherence_judge(model, 8, -2000.0, original, 8, -1.0, &got);
    cr_expect_lt(got.score, 1e-9);
    cr_expect_geq(got.score, 0.0);
}

Test(coherence, results_that_are_no_scores_are_refused)
{
    static const char *const lies[] = {
        "",
        "{}",
        "[]",
        "{\"score\":2,\"likelihood\":1,\"repetition\":1,\"agreement\":1}",
        "{\"score\":null,\"likelihood\":1,\"repetition\":1,\"agreement\":1}",
        "{\"score\":0.5,\"likelihood\":-1,\"repetition\":1,\"agreement\":1}",
    };
    struct lq_coherence got;
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        cr_expect_eq(lq_coherence_parse(lies[i], strlen(lies[i]), &got, &err), LQ_EFORMAT, "%zu",
                     i);
    }
    static const char good[] =
        "{\"score\":0.5,\"likelihood\":0.75,\"repetition\":1,\"agreement\":0}";
    cr_assert_eq(lq_coherence_parse(good, strlen(good), &got, &err), LQ_OK, "%s", err.message);
    cr_expect_eq(got.likelihood, 0.75);
}
