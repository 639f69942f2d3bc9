#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "rules/format/imatrix_merge.h"
#include "rules/format/imatrix_stats.h"

static struct lq_arena arena;
static struct lq_error err;

static void set_up(void)
{
    lq_arena_init(&arena);
    lq_error_clear(&err);
}

static void tear_down(void)
{
    lq_arena_fini(&arena);
}

TestSuite(imatrix_merge, .init = set_up, .fini = tear_down);

static float a_q[] = {1, 2, 3, 4};
static float a_x[] = {1, 1, 5, 5};
static float a_x_counts[] = {1, 0};
static float a_count[] = {2};
static struct lq_imatrix_entry a_entries[] = {{"blk.0.q", 4, 1, 1, a_q, a_count},
                                              {"blk.0.x", 2, 2, 2, a_x, a_x_counts}};
static const char *const a_sets[] = {"one", "two"};
static float b_q[] = {10, 20, 30, 40};
static float b_x[] = {3, 3, 7, 9};
static float b_x_counts[] = {1, 4};
static float b_count[] = {6};
static struct lq_imatrix_entry b_entries[] = {{"blk.0.q", 4, 1, 1, b_q, b_count},
                                              {"blk.0.x", 2, 2, 2, b_x, b_x_counts}};
static const char *const b_sets[] = {"two"};
static const char *const names[] = {"a", "b"};

static void make_two(struct lq_imatrix two[2])
{
    two[0] = (struct lq_imatrix){a_entries, 2, a_sets, 2, 3, 8, LQ_IMPORTANCE_ACTIVATION};
    two[1] = (struct lq_imatrix){b_entries, 2, b_sets, 1, 2, 16, LQ_IMPORTANCE_ACTIVATION};
}

Test(imatrix_merge, adds_sums_and_counts)
{
    struct lq_imatrix two[2];
    struct lq_imatrix sum;
    make_two(two);
    cr_assert_eq(lq_imatrix_merge(two, names, 2, false, &arena, &sum, &err), LQ_OK, "%s",
                 err.message);
    cr_assert_eq(sum.entry_count, 2);
    const struct lq_imatrix_entry *q = lq_imatrix_find(&sum, "blk.0.q");
    cr_expect_eq(q->sums[0], 11.0f);
    cr_expect_eq(q->sums[3], 44.0f);
    cr_expect_eq(q->counts[0], 8.0f);
    const struct lq_imatrix_entry *x = lq_imatrix_find(&sum, "blk.0.x");
    cr_expect_eq(x->sums[3], 14.0f);
    cr_expect_eq(x->counts[0], 2.0f);
    cr_expect_eq(x->counts[1], 4.0f);
    cr_expect_eq(sum.dataset_count, 2);
    cr_expect_eq(sum.chunk_size, 8);
    cr_expect_eq(sum.chunk_count, 7); /* 24 + 32 tokens */
    cr_expect_eq(a_q[0], 1.0f);
}

Test(imatrix_merge, refuses_what_does_not_belong_together)
{
    struct lq_imatrix two[2];
    struct lq_imatrix sum;
    make_two(two);
    two[1].method = LQ_IMPORTANCE_FISHER;
    cr_expect_eq(lq_imatrix_merge(two, names, 2, false, &arena, &sum, &err), LQ_EIMATRIX);
    make_two(two);
    two[1].entry_count = 1;
    cr_expect_eq(lq_imatrix_merge(two, names, 2, false, &arena, &sum, &err), LQ_EIMATRIX);
    cr_expect_not_null(strstr(err.message, "blk.0.x"));
    cr_assert_eq(lq_imatrix_merge(two, names, 2, true, &arena, &sum, &err), LQ_OK);
    cr_expect_eq(sum.entry_count, 2);
    cr_expect_eq(lq_imatrix_find(&sum, "blk.0.x")->counts[1], 0.0f);

    struct lq_imatrix_entry narrow[] = {{"blk.0.q", 2, 2, 1, b_q, b_count}, b_entries[1]};
    make_two(two);
    two[1].entries = narrow;
    cr_expect_eq(lq_imatrix_merge(two, names, 2, true, &arena, &sum, &err), LQ_EIMATRIX);
    float huge[] = {FLT_MAX, 1, 1, 1};
    struct lq_imatrix_entry large[] = {{"blk.0.q", 4, 1, 1, huge, b_count}, b_entries[1]};
    two[0].entries = large;
    two[1].entries = large;
    cr_expect_eq(lq_imatrix_merge(two, names, 2, true, &arena, &sum, &err), LQ_EIMATRIX);
}

Test(imatrix_merge, compares_means)
{
    struct lq_imatrix two[2];
    struct lq_imatrix_difference *found = NULL;
    size_t count = 0;
    make_two(two);
    cr_assert_eq(lq_imatrix_compare(&two[0], &two[1], 1e-6, &arena, &found, &count, &err), LQ_OK);
    cr_assert_eq(count, 2);
    /* Means 0.5 .. 2 against 10/6 .. 40/6: every column differs by 70 %. */
    cr_expect_float_eq(found[0].relative, 0.7, 1e-6);
    cr_expect_float_eq(found[0].absolute, 40.0 / 6.0 - 2.0, 1e-5);
    two[0].entry_count = 1;
    cr_assert_eq(lq_imatrix_compare(&two[0], &two[1], 1e-6, &arena, &found, &count, &err), LQ_OK);
    cr_assert_eq(count, 2);
    cr_expect(found[1].only_in_b);
    /* A floor above every difference: equal. */
    cr_assert_eq(lq_imatrix_compare(&two[0], &two[1], 10.0, &arena, &found, &count, &err), LQ_OK);
    cr_expect_eq(found[0].relative, 0.0);
}

Test(imatrix_merge, statistics_by_hand)
{
    struct lq_imatrix_stats *stats = NULL;
    float next[] = {2, 4, 6, 8};
    struct lq_imatrix_entry entries[] = {
        a_entries[0], a_entries[1], {"blk.1.q", 4, 1, 1, next, a_count}};
    struct lq_imatrix imatrix = {.entries = entries, .entry_count = 3};
    cr_assert_eq(lq_imatrix_stats_make(&imatrix, &arena, &stats, &err), LQ_OK);
    cr_expect_float_eq(stats[0].sum, 5.0, 1e-6);
    cr_expect_float_eq(stats[0].mean, 1.25, 1e-6);
    cr_expect_float_eq(stats[0].deviation, sqrt(0.3125), 1e-6);
    cr_expect_float_eq(stats[0].outlier_pct, 25.0, 1e-9);
    cr_expect_float_eq(stats[0].entropy, 1.8464393, 1e-6); /* of 0.1 0.2 0.3 0.4 */
    cr_expect_float_eq(stats[0].entropy_pct, 92.3219651, 1e-5);
    cr_expect(isnan(stats[0].previous_cosine));
    /* The expert that saw no token does not count. */
    cr_expect_eq(stats[1].columns, 2);
    cr_expect_float_eq(stats[1].max, 1.0, 1e-9);
    cr_expect_float_eq(stats[2].previous_cosine, 1.0, 1e-9);
}
