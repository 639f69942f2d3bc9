#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "rules/model/weight_stats.h"

static struct lq_arena arena;
static struct lq_error err;
static struct lq_buffer bytes;

static void set_up(void)
{
    lq_arena_init(&arena);
    lq_buffer_init(&bytes);
    lq_error_clear(&err);
}

static void tear_down(void)
{
    lq_buffer_fini(&bytes);
    lq_arena_fini(&arena);
}

TestSuite(weight_stats, .init = set_up, .fini = tear_down);

static void make(struct lq_weight_stats *stats)
{
    *stats = (struct lq_weight_stats){.sample_count = 128, .sequence_length = 64};
    cr_assert_eq(lq_weight_stats_add(stats, "attn_q", 1, 5, &arena, &err), LQ_OK);
    cr_assert_eq(lq_weight_stats_add(stats, "ffn_down_exps", 3, 4, &arena, &err), LQ_OK);
    for (size_t i = 0; i < 2; i++) {
        struct lq_weight_stats_matrix *matrix = &stats->matrices[i];
        for (size_t m = 0; m < matrix->mats; m++) {
            matrix->counts[m] = 128 - m;
        }
        for (size_t j = 0; j < (size_t)matrix->mats * matrix->cols; j++) {
            matrix->sums[j] = (double)j / 3.0;
        }
    }
    cr_assert_eq(lq_weight_stats_format(stats, &bytes, &err), LQ_OK);
}

Test(weight_stats, reads_what_it_wrote)
{
    struct lq_weight_stats stats;
    struct lq_weight_stats again;
    make(&stats);
    cr_assert_eq(lq_weight_stats_parse(bytes.data, bytes.size_bytes, &arena, &again, &err), LQ_OK,
                 "%s", err.message);
    cr_expect_eq(again.sample_count, 128);
    cr_expect_eq(again.sequence_length, 64);
    cr_assert_eq(again.matrix_count, 2);
    cr_expect_str_eq(again.matrices[1].name, "ffn_down_exps");
    cr_expect_eq(again.matrices[1].counts[2], 126);
    cr_expect_eq(memcmp(again.matrices[1].sums, stats.matrices[1].sums, 12 * sizeof(double)), 0);
}

Test(weight_stats, refuses_every_truncation)
{
    struct lq_weight_stats stats;
    struct lq_weight_stats again;
    make(&stats);
    for (size_t size = 0; size < bytes.size_bytes; size++) {
        cr_expect_eq(lq_weight_stats_parse(bytes.data, size, &arena, &again, &err), LQ_EFORMAT,
                     "%zu bytes", size);
    }
    lq_buffer_append_u8(&bytes, 0);
    cr_expect_eq(lq_weight_stats_parse(bytes.data, bytes.size_bytes, &arena, &again, &err),
                 LQ_EFORMAT);
}

Test(weight_stats, refuses_huge_counts_and_bad_numbers)
{
    static const struct {
        size_t at;
        uint32_t value;
    } wrong[] = {{0, 1},
                 {4, 2},
                 {8, 0},
                 {16, 0xffffffffu},
                 {20, 0},
                 {20, 64},
                 {20, 0xffffffffu},
                 {30, 0xffffffffu},
                 {34, 0xffffffffu}};
    struct lq_weight_stats stats;
    struct lq_weight_stats again;
    make(&stats);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        char *copy = lq_arena_dup(&arena, bytes.data, bytes.size_bytes);
        memcpy(copy + wrong[i].at, &wrong[i].value, sizeof wrong[i].value);
        cr_expect_eq(lq_weight_stats_parse(copy, bytes.size_bytes, &arena, &again, &err),
                     LQ_EFORMAT, "case %zu", i);
    }
    static const double values[] = {NAN, INFINITY, -1.0};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        char *copy = lq_arena_dup(&arena, bytes.data, bytes.size_bytes);
        memcpy(copy + bytes.size_bytes - 8, &values[i], 8);
        cr_expect_eq(lq_weight_stats_parse(copy, bytes.size_bytes, &arena, &again, &err),
                     LQ_EIMPORTANCE, "case %zu", i);
        cr_expect_not_null(strstr(err.message, "ffn_down_exps"), "%s", err.message);
    }
}
