/* Texts between the passes of a continuation: what is written, and bytes that were tampered with.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "engine/base/limits.h"
#include "rules/quality/continuation.h"

static struct lq_error err;

static struct lq_continuation make(void)
{
    static uint32_t prompt_counts[] = {2, 1};
    static int32_t tokens[] = {7, 8, 1, 2, 3, 9, 4, 2, 5, 0};
    static double log_probs[] = {-1.0, -3.0, -100.0, -1.0 / 3.0, 0.0, -0.5};
    return (struct lq_continuation){.count = 2,
                                    .length = 3,
                                    .sequence = 5,
                                    .vocab_size = 10,
                                    .eos = 2,
                                    .settled = true,
                                    .prompt_counts = prompt_counts,
                                    .tokens = tokens,
                                    .log_probs = log_probs};
}

Test(continuation, ends_behind_the_end_of_text)
{
    struct lq_continuation texts = make();
    cr_expect_eq(lq_continuation_written_count(&texts, 0), 2);
    cr_expect_eq(lq_continuation_mean_log_prob(&texts, 0), -2.0);
    cr_expect_eq(lq_continuation_written(&texts, 1)[0], 4);
    texts.eos = -1;
    cr_expect_eq(lq_continuation_written_count(&texts, 0), 3);
}

Test(continuation, bytes_hold_every_bit)
{
    struct lq_continuation texts = make();
    struct lq_continuation got;
    struct lq_buffer bytes;
    lq_buffer_init(&bytes);
    lq_continuation_format(&texts, &bytes);
    cr_assert_eq(lq_continuation_parse(&got, bytes.data, bytes.size_bytes, &err), LQ_OK, "%s",
                 err.message);
    cr_expect_eq(got.count, 2);
    cr_expect_eq(got.length, 3);
    cr_expect_eq(got.sequence, 5);
    cr_expect_eq(got.vocab_size, 10);
    cr_expect_eq(got.eos, 2);
    cr_expect(got.settled);
    cr_expect_arr_eq(got.prompt_counts, texts.prompt_counts, 2 * sizeof(uint32_t));
    cr_expect_arr_eq(got.tokens, texts.tokens, 10 * sizeof(int32_t));
    cr_expect_arr_eq(got.log_probs, texts.log_probs, 6 * sizeof(double));
    lq_continuation_fini(&got);
    lq_buffer_fini(&bytes);
}

Test(continuation, bytes_that_lie_are_refused)
{
    enum { HEADER_FIELDS = 7, EOS_FIELD = 5, VOCAB_FIELD = 4, LOG_PROB_AT = 4 * 7 + 4 + 4 * 5 };
    struct lq_continuation texts = make();
    struct lq_continuation got;
    struct lq_buffer bytes;
    lq_buffer_init(&bytes);
    lq_continuation_format(&texts, &bytes);
    for (size_t size = 0; size < bytes.size_bytes; size++) {
        cr_assert_eq(lq_continuation_parse(&got, bytes.data, size, &err), LQ_EFORMAT, "%zu", size);
        lq_continuation_fini(&got);
    }
    /* Every count, the first prompt's too, far too large and zero. */
    for (size_t field = 0; field <= HEADER_FIELDS; field++) {
        unsigned char kept[4];
        memcpy(kept, bytes.data + 4 * field, sizeof kept);
        for (int value = 0; value < 256; value += 255) {
            memset(bytes.data + 4 * field, value, sizeof kept);
            bool free_field = field == EOS_FIELD ||
                              ((field == VOCAB_FIELD || field == HEADER_FIELDS - 1) && value == 0);
            cr_expect_eq(lq_continuation_parse(&got, bytes.data, bytes.size_bytes, &err),
                         free_field ? LQ_OK : LQ_EFORMAT, "%zu %d", field, value);
            lq_continuation_fini(&got);
        }
        memcpy(bytes.data + 4 * field, kept, sizeof kept);
    }
    memset(bytes.data + LOG_PROB_AT, 0xff, sizeof(double));
    cr_expect_eq(lq_continuation_parse(&got, bytes.data, bytes.size_bytes, &err), LQ_EFORMAT);
    lq_continuation_fini(&got);
    lq_buffer_fini(&bytes);
}
