#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "rules/model/layer_stats.h"

static struct lq_arena arena;
static struct lq_buffer bytes;
static struct lq_error err;
static struct lq_layer_stats stats;

enum { HEADER_BYTES = 16 + 2 * 4 * LQ_LAYER_INPUT_COUNT };

static void set_up(void)
{
    lq_arena_init(&arena);
    lq_buffer_init(&bytes);
    lq_error_clear(&err);
    /* The last input belongs to 3 experts; the layer does not have the one before. */
    stats = (struct lq_layer_stats){.sample_count = 3,
                                    .sequence_length = 5,
                                    .cols = {2, 3, 1, 4, 0, 2},
                                    .mats = {1, 1, 1, 1, 0, 3}};
    cr_assert_eq(lq_layer_stats_alloc(&stats, &arena, &err), LQ_OK);
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        for (uint32_t m = 0; m < stats.mats[i]; m++) {
            stats.counts[i][m] = m * (uint64_t)7;
        }
        for (uint32_t j = 0; j < stats.mats[i] * stats.cols[i]; j++) {
            stats.sums[i][j] = 0.1 * i + j;
        }
    }
    cr_assert_eq(lq_layer_stats_format(&stats, &bytes, &err), LQ_OK);
}

static void tear_down(void)
{
    lq_buffer_fini(&bytes);
    lq_arena_fini(&arena);
}

TestSuite(layer_stats, .init = set_up, .fini = tear_down);

static enum lq_status parse(size_t size_bytes, struct lq_layer_stats *out)
{
    return lq_layer_stats_parse(bytes.data, size_bytes, &arena, out, &err);
}

Test(layer_stats, round_trip)
{
    struct lq_layer_stats out;
    cr_assert_eq(parse(bytes.size_bytes, &out), LQ_OK, "%s", err.message);
    cr_expect_eq(out.sample_count, 3);
    cr_expect_eq(out.sequence_length, 5);
    for (int i = 0; i < LQ_LAYER_INPUT_COUNT; i++) {
        size_t mats = stats.mats[i];
        cr_assert_eq(out.cols[i], stats.cols[i]);
        cr_assert_eq(out.mats[i], mats);
        cr_expect_eq(memcmp(out.counts[i], stats.counts[i], mats * sizeof(uint64_t)), 0);
        cr_expect_eq(memcmp(out.sums[i], stats.sums[i], mats * stats.cols[i] * sizeof(double)), 0);
    }
}

Test(layer_stats, refuses_truncation_and_excess)
{
    struct lq_layer_stats out;
    for (size_t size = 0; size < bytes.size_bytes; size++) {
        cr_expect_eq(parse(size, &out), LQ_EFORMAT, "%zu", size);
    }
    lq_buffer_append_u8(&bytes, 0);
    cr_expect_eq(parse(bytes.size_bytes, &out), LQ_EFORMAT);
}

Test(layer_stats, refuses_lying_counts)
{
    struct lq_layer_stats out;
    static const size_t fields[] = {0, 4, 8, 12, 16, 20, 24, 28, 36, 40, 44, 48, 52, 60};
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        unsigned char old[4];
        memcpy(old, bytes.data + fields[i], 4);
        memset(bytes.data + fields[i], 0xff, 4);
        cr_expect_eq(parse(bytes.size_bytes, &out), LQ_EFORMAT, "field %zu", fields[i]);
        memset(bytes.data + fields[i], 0, 4);
        cr_expect_eq(parse(bytes.size_bytes, &out), LQ_EFORMAT, "field %zu", fields[i]);
        memcpy(bytes.data + fields[i], old, 4);
    }
}

Test(layer_stats, refuses_sums_that_no_squares_have)
{
    static const double bad[] = {NAN, INFINITY, -1e-300};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct lq_layer_stats out;
        memcpy(bytes.data + HEADER_BYTES + 16, &bad[i], sizeof bad[i]);
        cr_expect_eq(parse(bytes.size_bytes, &out), LQ_EIMPORTANCE, "%g", bad[i]);
    }
}
