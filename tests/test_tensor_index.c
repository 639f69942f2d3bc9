#include <criterion/criterion.h>
#include <string.h>

#include "kernels/kernels.h"
#include "tests/tiny_llama.h"

static struct tiny_llama tiny;
static struct lq_error err;
static struct lq_buffer text;

static void set_up(void)
{
    lq_error_clear(&err);
    lq_buffer_init(&text);
    tiny_open(&tiny);
    cr_assert_eq(lq_tensor_index_format(&tiny.index, &text, &err), LQ_OK);
}

static void tear_down(void)
{
    lq_buffer_fini(&text);
    tiny_close(&tiny);
}

TestSuite(tensor_index, .init = set_up, .fini = tear_down);

static enum lq_status parse(const char *json, struct lq_tensor_index *out)
{
    return lq_tensor_index_parse(json, strlen(json), &tiny.arena, out, &err);
}

Test(tensor_index, reads_back_what_it_wrote)
{
    struct lq_tensor_index out;
    cr_assert_eq(parse(lq_buffer_text(&text), &out), LQ_OK, "%s", err.message);
    cr_assert_eq(out.tensor_count, tiny.index.tensor_count);
    for (size_t i = 0; i < out.tensor_count; i++) {
        const struct lq_model_tensor *a = &tiny.index.tensors[i];
        const struct lq_model_tensor *b = &out.tensors[i];
        cr_expect_str_eq(a->name, b->name);
        cr_expect_str_eq(a->source_name, b->source_name);
        cr_expect_eq(a->dtype, b->dtype);
        cr_expect_eq(a->dim_count, b->dim_count);
        cr_expect_eq(memcmp(a->ne, b->ne, sizeof a->ne), 0);
        cr_expect_eq(a->offset, b->offset);
        cr_expect_eq(a->size_bytes, b->size_bytes);
        cr_expect_eq(a->permute_heads, b->permute_heads);
        cr_expect(lq_digest_equal(&a->digest, &b->digest));
    }
    struct lq_buffer again;
    lq_buffer_init(&again);
    cr_assert_eq(lq_tensor_index_format(&out, &again, &err), LQ_OK);
    cr_expect_str_eq(lq_buffer_text(&text), lq_buffer_text(&again));
    lq_buffer_fini(&again);
    cr_expect_not_null(lq_tensor_index_find(&out, "blk.5.ffn_down.weight"));
    cr_expect_null(lq_tensor_index_find(&out, "blk.6.ffn_down.weight"));
}

#define DIGEST "0123456789012345678901234567890123456789012345678901234567890123"

Test(tensor_index, refuses_lies)
{
    static const char *const lies[] = {
        "",
        "[]",
        "{\"tensors\":3}",
        "{\"tensors\":[3]}",
        "{\"tensors\":[{\"name\":\"a\"}]}",
        /* size does not fit the shape */
        "{\"tensors\":[{\"name\":\"a\",\"source_name\":\"a\",\"dtype\":\"F32\",\"ne\":[4],"
        "\"source\":0,\"offset\":0,\"size_bytes\":15,\"digest\":\"" DIGEST "\"}]}",
        /* the product of the shape overflows to the size */
        "{\"tensors\":[{\"name\":\"a\",\"source_name\":\"a\",\"dtype\":\"F32\","
        "\"ne\":[4294967296,4294967296],"
        "\"source\":0,\"offset\":0,\"size_bytes\":0,\"digest\":\"" DIGEST "\"}]}",
        /* half a block */
        "{\"tensors\":[{\"name\":\"a\",\"source_name\":\"a\",\"dtype\":\"Q8_0\",\"ne\":[16],"
        "\"source\":0,\"offset\":0,\"size_bytes\":17,\"digest\":\"" DIGEST "\"}]}",
        "{\"tensors\":[{\"name\":\"a\",\"source_name\":\"a\",\"dtype\":\"Q8_9\",\"ne\":[16],"
        "\"source\":0,\"offset\":0,\"size_bytes\":17,\"digest\":\"" DIGEST "\"}]}",
        "{\"tensors\":[{\"name\":\"a\",\"source_name\":\"a\",\"dtype\":\"F32\",\"ne\":[-4],"
        "\"source\":0,\"offset\":0,\"size_bytes\":16,\"digest\":\"" DIGEST "\"}]}",
        "{\"tensors\":[{\"name\":\"a\",\"source_name\":\"a\",\"dtype\":\"F32\",\"ne\":[4],"
        "\"source\":-1,\"offset\":0,\"size_bytes\":16,\"digest\":\"" DIGEST "\"}]}",
        "{\"tensors\":[{\"name\":\"a\",\"source_name\":\"a\",\"dtype\":\"F32\",\"ne\":[4],"
        "\"source\":0,\"offset\":0,\"size_bytes\":16,\"digest\":\"12\"}]}",
        "{\"tensors\":[{\"name\":\"a\",\"source_name\":\"a\",\"dtype\":\"F32\",\"ne\":[1,1,1,1,4],"
        "\"source\":0,\"offset\":0,\"size_bytes\":16,\"digest\":\"" DIGEST "\"}]}",
        /* three rows in two heads */
        "{\"tensors\":[{\"name\":\"a\",\"source_name\":\"a\",\"dtype\":\"F32\",\"ne\":[1,3],"
        "\"permute_heads\":2,"
        "\"source\":0,\"offset\":0,\"size_bytes\":12,\"digest\":\"" DIGEST "\"}]}",
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        struct lq_tensor_index out;
        cr_expect_eq(parse(lies[i], &out), LQ_EFORMAT, "lie %zu", i);
    }
}

Test(tensor_index, permutes_rows_within_heads)
{
    struct lq_model_tensor q = {.ne = {1, 16, 1, 1}, .permute_heads = 2};
    static const uint64_t expected[] = {0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15};
    for (uint64_t row = 0; row < 16; row++) {
        cr_expect_eq(lq_model_tensor_source_row(&q, row), expected[row]);
    }
    q.permute_heads = 0;
    cr_expect_eq(lq_model_tensor_source_row(&q, 5), 5);
}

Test(tensor_index, decodes_rows)
{
    static const float data[] = {0.f, 0.5f, 1.f, 1.5f, 2.f, 2.5f, 3.f, 3.5f};
    struct lq_model_tensor t = {.name = "t",
                                .dtype = LQ_DTYPE_F32,
                                .dim_count = 2,
                                .ne = {2, 4, 1, 1},
                                .size_bytes = sizeof data};
    float out[4];
    cr_assert_eq(lq_model_tensor_rows(&t, data, 1, 2, out, &err), LQ_OK, "%s", err.message);
    cr_expect_eq(out[0], 1.f);
    cr_expect_eq(out[3], 2.5f);
    t.permute_heads = 1;
    cr_assert_eq(lq_model_tensor_rows(&t, data, 1, 2, out, &err), LQ_OK);
    cr_expect_eq(out[0], 2.f);
    cr_expect_eq(out[2], 1.f);
    cr_expect_eq(lq_model_tensor_rows(&t, data, 3, 2, out, &err), LQ_EINTERNAL);
    cr_expect_eq(lq_model_tensor_rows(&t, data, UINT64_MAX, 2, out, &err), LQ_EINTERNAL);
    t.dtype = LQ_DTYPE_I32;
    cr_expect_eq(lq_model_tensor_rows(&t, data, 0, 1, out, &err), LQ_EUNSUPPORTED);
}
