#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "tests/tiny_llama.h"

static struct tiny_llama tiny;
static struct lq_error err;

static void set_up(void)
{
    lq_error_clear(&err);
    tiny_open(&tiny);
}

static void tear_down(void)
{
    tiny_close(&tiny);
}

TestSuite(hparams, .init = set_up, .fini = tear_down);

static struct lq_gguf_value *key(const char *name)
{
    return (struct lq_gguf_value *)lq_gguf_find(&tiny.meta, name);
}

static struct lq_model_tensor *tensor(const char *name)
{
    return (struct lq_model_tensor *)lq_tensor_index_find(&tiny.index, name);
}

static enum lq_status read_tiny(struct lq_hparams *out)
{
    return lq_hparams_read(&tiny.meta, &tiny.index, "tiny", LQ_EMODEL, out, &err);
}

static void expect_failure(enum lq_status status, const char *part)
{
    struct lq_hparams out;
    cr_expect_eq(read_tiny(&out), status, "%s", err.message);
    cr_expect(strstr(err.message, part) != NULL, "'%s' is not in: %s", part, err.message);
}

Test(hparams, reads_the_shipped_model)
{
    const struct lq_hparams *h = &tiny.hparams;
    cr_expect_eq(h->layer_count, 6);
    cr_expect_eq(h->width, 256);
    cr_expect_eq(h->ffn_width, 768);
    cr_expect_eq(h->head_count, 4);
    cr_expect_eq(h->kv_head_count, 2);
    cr_expect_eq(h->head_dim, 64);
    cr_expect_eq(h->rope_dim, 64);
    cr_expect_eq(h->vocab_size, 4096);
    cr_expect_eq(h->context_length, 256);
    cr_expect_eq(h->norm_eps, (double)1e-5f);
    cr_expect_eq(h->rope_freq_base, 10000.0);
    cr_expect_eq(h->rope_scale, 1.0);
    cr_expect(h->tied_output);
    cr_expect_not(h->rope_factors);
}

Test(hparams, text_reads_back)
{
    struct lq_buffer text;
    struct lq_buffer again;
    struct lq_hparams out;
    lq_buffer_init(&text);
    lq_buffer_init(&again);
    lq_hparams_format(&tiny.hparams, &text);
    cr_assert_eq(lq_hparams_parse(lq_buffer_text(&text), &out, &err), LQ_OK, "%s", err.message);
    lq_hparams_format(&out, &again);
    cr_expect_str_eq(lq_buffer_text(&text), lq_buffer_text(&again));
    cr_expect_eq(out.norm_eps, tiny.hparams.norm_eps);
    cr_expect_eq(lq_hparams_parse("{}", &out, &err), LQ_EINTERNAL);
    cr_expect_eq(lq_hparams_parse(NULL, &out, &err), LQ_EINTERNAL);
    lq_buffer_fini(&text);
    lq_buffer_fini(&again);
}

Test(hparams, other_architectures_are_unsupported_with_advice)
{
    key("general.architecture")->string.data = "mamba";
    expect_failure(LQ_EUNSUPPORTED, "quantized without an imatrix");
}

Test(hparams, per_layer_heads_are_unsupported)
{
    key("llama.attention.head_count_kv")->type = LQ_GGUF_ARRAY;
    expect_failure(LQ_EUNSUPPORTED, "head_count_kv");
}

Test(hparams, counts_must_be_integers_in_range)
{
    key("llama.block_count")->integer = 0;
    expect_failure(LQ_EMODEL, "block_count");
    key("llama.block_count")->integer = UINT64_MAX; /* -1 */
    expect_failure(LQ_EMODEL, "block_count");
    key("llama.block_count")->integer = 1u << 31;
    expect_failure(LQ_EMODEL, "block_count");
    key("llama.block_count")->integer = 6;
    key("llama.block_count")->type = LQ_GGUF_STRING;
    expect_failure(LQ_EMODEL, "block_count");
}

/* The keys of the model with a vocabulary of `count` tokens. */
static enum lq_status read_with_tokens(size_t count)
{
    static struct lq_gguf_string texts[5000];
    struct lq_arena arena;
    struct lq_gguf_writer writer;
    struct lq_buffer bytes = {0};
    struct lq_gguf meta;
    struct lq_hparams out;
    lq_arena_init(&arena);
    lq_gguf_writer_init(&writer);
    for (size_t i = 0; i < tiny.meta.kv_count; i++) {
        if (strcmp(tiny.meta.kvs[i].key, "tokenizer.ggml.tokens") != 0) {
            lq_gguf_put_value(&writer, tiny.meta.kvs[i].key, &tiny.meta.kvs[i].value);
        }
    }
    for (size_t i = 0; i < count; i++) {
        texts[i] = (struct lq_gguf_string){"x", 1};
    }
    lq_gguf_put_strings(&writer, "tokenizer.ggml.tokens", texts, count);
    cr_assert_eq(lq_gguf_writer_header(&writer, &bytes, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_gguf_parse(bytes.data, bytes.size_bytes, bytes.size_bytes, "tiny", LQ_EFORMAT,
                               &arena, &meta, NULL, &err),
                 LQ_OK, "%s", err.message);
    enum lq_status status = lq_hparams_read(&meta, &tiny.index, "tiny", LQ_EMODEL, &out, &err);
    lq_gguf_writer_fini(&writer);
    lq_buffer_fini(&bytes);
    lq_arena_fini(&arena);
    return status;
}

Test(hparams, every_token_needs_a_row)
{
    static const char said[] = "the vocabulary has 4097 tokens, but 'token_embd.weight' only 4096";
    cr_expect_eq(read_with_tokens(4096), LQ_OK, "%s", err.message);
    cr_expect_eq(read_with_tokens(4000), LQ_OK, "rows may be padded: %s", err.message);
    cr_expect_eq(read_with_tokens(4097), LQ_EMODEL);
    cr_expect(strstr(err.message, said) != NULL, "%s", err.message);
}

Test(hparams, numbers_must_be_finite_and_positive)
{
    key("llama.attention.layer_norm_rms_epsilon")->number = (double)NAN;
    expect_failure(LQ_EMODEL, "layer_norm_rms_epsilon");
    key("llama.attention.layer_norm_rms_epsilon")->number = 1e-5;
    key("llama.rope.freq_base")->number = (double)INFINITY;
    expect_failure(LQ_EMODEL, "rope.freq_base");
    key("llama.rope.freq_base")->number = 0.0;
    expect_failure(LQ_EMODEL, "rope.freq_base");
}

Test(hparams, heads_must_fit)
{
    key("llama.attention.head_count_kv")->integer = 3;
    expect_failure(LQ_EMODEL, "key-value heads");
    key("llama.attention.head_count_kv")->integer = 2;
    key("llama.rope.dimension_count")->integer = 66;
    expect_failure(LQ_EMODEL, "rope.dimension_count");
    key("llama.rope.dimension_count")->integer = 63;
    expect_failure(LQ_EMODEL, "rope.dimension_count");
}

Test(hparams, shapes_must_agree_with_keys)
{
    key("llama.feed_forward_length")->integer = 512;
    expect_failure(LQ_EMODEL, "ffn_gate");
    key("llama.feed_forward_length")->integer = 768;
    key("llama.block_count")->integer = 7;
    expect_failure(LQ_EMODEL, "blk.6.attn_norm.weight");
    key("llama.block_count")->integer = 6;
    tensor("token_embd.weight")->ne[1] = 4095;
    expect_failure(LQ_EMODEL, "token_embd.weight");
}

Test(hparams, tensors_that_would_be_ignored_are_refused)
{
    tensor("blk.3.attn_q.weight")->name = "blk.3.attn_q.bias";
    expect_failure(LQ_EUNSUPPORTED, "blk.3.attn_q.bias");
}

Test(hparams, unknown_rope_scaling_is_unsupported)
{
    key("llama.vocab_size")->type = LQ_GGUF_STRING;
    key("llama.vocab_size")->string.data = "dynamic";
    for (size_t i = 0; i < tiny.meta.kv_count; i++) {
        if (strcmp(tiny.meta.kvs[i].key, "llama.vocab_size") == 0) {
            tiny.meta.kvs[i].key = "llama.rope.scaling.type";
        }
    }
    expect_failure(LQ_EUNSUPPORTED, "dynamic");
    key("llama.rope.scaling.type")->string.data = "linear";
    struct lq_hparams out;
    cr_expect_eq(read_tiny(&out), LQ_OK, "%s", err.message);
    cr_expect_eq(out.vocab_size, 4096, "the embedding says it when the key is missing");
}

Test(hparams, an_untied_output_is_found)
{
    tensor("blk.5.attn_norm.weight")->name = "output.weight";
    expect_failure(LQ_EMODEL, "output.weight");
}
