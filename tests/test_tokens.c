#include <criterion/criterion.h>
#include <string.h>

#include "rules/model/tokens.h"

static const int32_t ids[] = {7, 1, 2, 7, 3, 4};
static const struct lq_tokens sample = {
    .sample_count = 2, .sequence_length = 3, .bos = 7, .tokens = ids};

static struct lq_arena arena;
static struct lq_buffer bytes;
static struct lq_error err;

static void set_up(void)
{
    lq_arena_init(&arena);
    lq_buffer_init(&bytes);
    lq_error_clear(&err);
    cr_assert_eq(lq_tokens_format(&sample, &bytes, &err), LQ_OK);
}

static void tear_down(void)
{
    lq_buffer_fini(&bytes);
    lq_arena_fini(&arena);
}

TestSuite(tokens, .init = set_up, .fini = tear_down);

static enum lq_status parse(uint64_t vocab_size, struct lq_tokens *out)
{
    return lq_tokens_parse(bytes.data, bytes.size_bytes, "set", vocab_size, &arena, out, &err);
}

static void put_u32(size_t offset, uint32_t value)
{
    for (size_t i = 0; i < 4; i++) {
        bytes.data[offset + i] = (unsigned char)(value >> (8 * i));
    }
}

Test(tokens, round_trip)
{
    struct lq_tokens out;
    cr_assert_eq(bytes.size_bytes, LQ_TOKENS_HEADER_BYTES + sizeof ids);
    cr_assert_eq(memcmp(bytes.data, "LQTK", 4), 0);
    cr_assert_eq(parse(8, &out), LQ_OK, "%s", err.message);
    cr_expect_eq(out.sample_count, 2);
    cr_expect_eq(out.sequence_length, 3);
    cr_expect_eq(out.bos, 7);
    cr_expect_eq(memcmp(out.tokens, ids, sizeof ids), 0);
}

Test(tokens, refuses_every_truncation)
{
    for (size_t size = 0; size < bytes.size_bytes; size++) {
        struct lq_tokens out;
        cr_expect_eq(lq_tokens_parse(bytes.data, size, "set", 0, &arena, &out, &err),
                     LQ_ECALIBRATION, "%zu bytes", size);
    }
}

Test(tokens, refuses_more_bytes_than_ids)
{
    struct lq_tokens out;
    lq_buffer_append_u32(&bytes, 0);
    cr_expect_eq(parse(0, &out), LQ_ECALIBRATION);
    lq_buffer_append_u8(&bytes, 0);
    cr_expect_eq(parse(0, &out), LQ_ECALIBRATION);
}

Test(tokens, refuses_ids_outside_the_vocabulary)
{
    struct lq_tokens out;
    cr_expect_eq(parse(7, &out), LQ_ECALIBRATION);
    cr_expect(strstr(err.message, "id 7") != NULL, "%s", err.message);
    put_u32(LQ_TOKENS_HEADER_BYTES + 8, 0xffffffffu);
    cr_expect_eq(parse(0, &out), LQ_ECALIBRATION);
}

Test(tokens, refuses_lying_headers)
{
    static const struct {
        size_t offset;
        uint32_t value;
    } lies[] = {{0, 1},           {4, 2},          {8, 0},  {8, 3},
                {8, 0xffffffffu}, {12, 0},         {12, 2}, {12, 0xffffffffu},
                {20, 1},          {8, 0x40000000u}};
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        struct lq_tokens out;
        lq_buffer_clear(&bytes);
        cr_assert_eq(lq_tokens_format(&sample, &bytes, &err), LQ_OK);
        put_u32(lies[i].offset, lies[i].value);
        cr_expect_eq(parse(0, &out), LQ_ECALIBRATION, "lie %zu", i);
    }
}

Test(tokens, refuses_to_write_an_empty_set)
{
    struct lq_tokens none = sample;
    none.sample_count = 0;
    cr_expect_eq(lq_tokens_format(&none, &bytes, &err), LQ_ECALIBRATION);
    none.sample_count = 2;
    none.sequence_length = 0;
    cr_expect_eq(lq_tokens_format(&none, &bytes, &err), LQ_ECALIBRATION);
}
