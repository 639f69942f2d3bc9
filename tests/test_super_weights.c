/* Super weights: candidates of a tensor, and the best of several tensors. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "rules/quant/super_weights.h"

static struct lq_model_tensor tensor_of(uint64_t cols, uint64_t rows, uint64_t mats)
{
    return (struct lq_model_tensor){.name = "blk.0.ffn_down.weight",
                                    .dtype = LQ_DTYPE_F32,
                                    .dim_count = mats > 1 ? 3 : 2,
                                    .ne = {cols, rows, mats, 1}};
}

static struct lq_weight_rank at(const struct lq_buffer *buffer, size_t i)
{
    return lq_weight_rank_read(buffer->data + i * LQ_WEIGHT_RANK_BYTES);
}

Test(super_weights, counts)
{
    cr_expect_eq(lq_super_keep_count(0.0001, 4718592), 471);
    cr_expect_eq(lq_super_keep_count(0.0001, 100), 1);
    cr_expect_eq(lq_super_keep_count(0.01, 1000), 10);
}

Test(super_weights, candidates_are_the_best_products_best_first)
{
    float data[4 * 8];
    float importance[8] = {1, 1, 1, 100, 1, 1, 1, 0};
    for (int i = 0; i < 32; i++) {
        data[i] = 0.01f;
    }
    data[1 * 8 + 2] = -5.0f;   /* 5 */
    data[2 * 8 + 3] = 0.2f;    /* 20 */
    data[3 * 8 + 7] = 1000.0f; /* 0 */
    struct lq_model_tensor tensor = tensor_of(8, 4, 1);
    struct lq_super_job job = {.tensor = &tensor,
                               .data = data,
                               .size_bytes = sizeof data,
                               .importance = importance,
                               .mat_count = 1,
                               .keep = 4};
    struct lq_buffer out;
    struct lq_error err;
    lq_buffer_init(&out);
    cr_assert_eq(lq_super_candidates(&job, &out, &err), LQ_OK);
    cr_assert_eq(out.size_bytes, 4 * LQ_WEIGHT_RANK_BYTES);
    cr_expect_eq(at(&out, 0).position, 2 * 8 + 3);
    cr_expect_float_eq(at(&out, 0).score, 20.0, 1e-5);
    cr_expect_eq(at(&out, 1).position, 1 * 8 + 2);
    /* Ties go to the earlier position. */
    cr_expect_eq(at(&out, 2).position, 0 * 8 + 3);
    cr_expect_eq(at(&out, 3).position, 1 * 8 + 3);
    lq_buffer_fini(&out);
}

Test(super_weights, experts_have_their_own_importance)
{
    float data[2 * 2 * 2] = {1, 1, 1, 1, 1, 1, 1, 1};
    float importance[4] = {1, 2, 3, 4};
    struct lq_model_tensor tensor = tensor_of(2, 2, 2);
    struct lq_super_job job = {.tensor = &tensor,
                               .data = data,
                               .size_bytes = sizeof data,
                               .importance = importance,
                               .mat_count = 2,
                               .keep = 100};
    struct lq_buffer out;
    struct lq_error err;
    lq_buffer_init(&out);
    cr_assert_eq(lq_super_candidates(&job, &out, &err), LQ_OK);
    cr_assert_eq(out.size_bytes, 8 * LQ_WEIGHT_RANK_BYTES);
    cr_expect_eq(at(&out, 0).position, 5);
    cr_expect_eq(at(&out, 1).position, 7);
    cr_expect_eq(at(&out, 7).position, 2);
    lq_buffer_fini(&out);
}

Test(super_weights, hostile_tensors_are_refused)
{
    float data[8] = {0, 1, 2, NAN, 4, 5, 6, 7};
    float importance[4] = {1, 1, 1, 1};
    struct lq_model_tensor tensor = tensor_of(4, 2, 1);
    struct lq_super_job job = {.tensor = &tensor,
                               .data = data,
                               .size_bytes = sizeof data,
                               .importance = importance,
                               .mat_count = 1,
                               .keep = 2};
    struct lq_buffer out;
    struct lq_error err;
    lq_buffer_init(&out);
    cr_expect_eq(lq_super_candidates(&job, &out, &err), LQ_EFORMAT);
    cr_expect_not_null(strstr(err.message, "row 0, column 3"));
    job.size_bytes = 31;
    cr_expect_eq(lq_super_candidates(&job, &out, &err), LQ_EFORMAT);
    lq_buffer_fini(&out);
}

/* Lists in memory, read through the callback. */
static enum lq_status read_list(void *user, size_t list, uint64_t first, void *out, size_t count,
                                struct lq_error *err)
{
    (void)err;
    struct lq_buffer *lists = user;
    memcpy(out, lists[list].data + first * LQ_WEIGHT_RANK_BYTES, count * LQ_WEIGHT_RANK_BYTES);
    return LQ_OK;
}

static void add_rank(struct lq_buffer *buffer, double score, uint64_t position)
{
    uint64_t bits = 0;
    memcpy(&bits, &score, sizeof bits);
    lq_buffer_append_u64(buffer, bits);
    lq_buffer_append_u64(buffer, position);
}

Test(super_weights, the_best_of_all_lists)
{
    struct lq_buffer buffers[3];
    for (int i = 0; i < 3; i++) {
        lq_buffer_init(&buffers[i]);
    }
    uint64_t counts[3] = {5000, 3000, 0};
    for (uint64_t i = 0; i < 5000; i++) {
        add_rank(&buffers[0], (double)(10000 - i), i);
    }
    for (uint64_t i = 0; i < 3000; i++) {
        add_rank(&buffers[1], (double)(10000 - 2 * i), i);
    }
    struct lq_super_lists lists = {
        .list_count = 3, .counts = counts, .user = buffers, .read = read_list};
    uint64_t taken[3];
    struct lq_error err;
    /* 10000 twice, 9999, 9998 twice, ...: two thirds come from the first list. */
    cr_assert_eq(lq_super_select(&lists, 3000, taken, &err), LQ_OK);
    cr_expect_eq(taken[0] + taken[1], 3000);
    cr_expect_eq(taken[0], 2000);
    cr_expect_eq(taken[2], 0);
    /* An equal score at the edge goes to the earlier list. */
    cr_assert_eq(lq_super_select(&lists, 1, taken, &err), LQ_OK);
    cr_expect_eq(taken[0], 1);
    cr_expect_eq(taken[1], 0);
    /* More than there are. */
    cr_assert_eq(lq_super_select(&lists, 1000000, taken, &err), LQ_OK);
    cr_expect_eq(taken[0], 5000);
    cr_expect_eq(taken[1], 3000);
    for (int i = 0; i < 3; i++) {
        lq_buffer_fini(&buffers[i]);
    }
}
