#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "rules/format/logits_file.h"

enum { VOCAB = 7, CONTEXT = 8, CHUNKS = 2, SCORED = 3 };

static struct lq_error err;

static void make_file(struct lq_buffer *out)
{
    int32_t tokens[CHUNKS * CONTEXT];
    for (int i = 0; i < CHUNKS * CONTEXT; i++) {
        tokens[i] = i % VOCAB;
    }
    lq_logits_header_write(CONTEXT, VOCAB, CHUNKS, tokens, out);
    for (int r = 0; r < CHUNKS * SCORED; r++) {
        float logits[VOCAB];
        unsigned char row[24];
        for (int i = 0; i < VOCAB; i++) {
            logits[i] = (float)((i * 5 + r) % VOCAB) - 3.0f;
        }
        lq_logits_row_encode(logits, VOCAB, row);
        lq_buffer_append(out, row, sizeof row);
    }
}

Test(logits_file, header_says_where_everything_is)
{
    struct lq_buffer file;
    struct lq_logits_header header;
    lq_buffer_init(&file);
    make_file(&file);
    cr_assert_eq(
        lq_logits_header_read(file.data, file.size_bytes, file.size_bytes, "f", &header, &err),
        LQ_OK, "%s", err.message);
    cr_expect_eq(header.context, CONTEXT);
    cr_expect_eq(header.vocab_size, VOCAB);
    cr_expect_eq(header.chunk_count, CHUNKS);
    cr_expect_eq(header.row_bytes, 24); /* 4 + 8 numbers of 2 bytes: 7 tokens and one to spare */
    cr_expect_eq(header.row_count, CHUNKS * SCORED);
    cr_expect_eq(header.rows_offset + header.row_bytes * header.row_count, file.size_bytes);
    for (size_t size = 0; size < file.size_bytes; size++) {
        cr_expect_eq(lq_logits_header_read(file.data, size, size, "f", &header, &err), LQ_EFORMAT,
                     "%zu", size);
    }
    lq_buffer_fini(&file);
}

Test(logits_file, absurd_headers_are_refused)
{
    static const struct {
        size_t place;
        uint32_t value;
    } lies[] = {{0, 0},           {8, 0},         {8, 3},  {8, 0xffffffffu}, {12, 0},
                {12, 0xffffffff}, {12, 1u << 24}, {16, 0}, {16, 0xffffffff}, {16, 1u << 20}};
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        struct lq_buffer file;
        struct lq_logits_header header;
        lq_buffer_init(&file);
        make_file(&file);
        memcpy(file.data + lies[i].place, &lies[i].value, 4);
        cr_expect_eq(
            lq_logits_header_read(file.data, file.size_bytes, file.size_bytes, "f", &header, &err),
            LQ_EFORMAT, "%zu", i);
        lq_buffer_fini(&file);
    }
}

Test(logits_file, rows_read_back_within_half_a_step)
{
    float logits[VOCAB] = {3.0f, -1.5f, 0.0f, 2.25f, -9.0f, -20.0f, 1.0f};
    float log_probs[VOCAB];
    unsigned char row[24];
    double sum = 0.0;
    lq_logits_row_encode(logits, VOCAB, row);
    cr_assert_eq(lq_logits_row_decode(row, VOCAB, log_probs, &err), LQ_OK, "%s", err.message);
    for (int i = 0; i < VOCAB; i++) {
        sum += exp((double)logits[i]);
    }
    for (int i = 0; i < VOCAB; i++) {
        /* What is more than 16 below the first is as likely as that; steps are 16 / 65535. */
        double expected = fmax((double)logits[i], 3.0 - 16.0) - log(sum);
        cr_expect_float_eq((double)log_probs[i], expected, 8.0 / 65535.0 + 2e-6, "%d", i);
    }
    /* All tokens alike: the scale is 0. */
    float flat[VOCAB] = {1, 1, 1, 1, 1, 1, 1};
    lq_logits_row_encode(flat, VOCAB, row);
    cr_assert_eq(lq_logits_row_decode(row, VOCAB, log_probs, &err), LQ_OK);
    cr_expect_float_eq((double)log_probs[3], -log(7.0), 2e-6);
}

Test(logits_file, rows_that_are_no_probabilities_are_refused)
{
    static const float lies[][2] = {
        {NAN, 0.0f}, {1.0f, INFINITY}, {-1.0f, 0.0f}, {0.001f, 0.0f}, {0.0f, 1.0f}};
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        unsigned char row[24];
        float log_probs[VOCAB];
        memset(row, 0xff, sizeof row);
        memcpy(row, lies[i], 8);
        cr_expect_eq(lq_logits_row_decode(row, VOCAB, log_probs, &err), LQ_EFORMAT, "%zu", i);
    }
}
