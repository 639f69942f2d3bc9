#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/json.h"
#include "rules/format/gguf.h"
#include "rules/model/hf_tokenizer.h"
#include "rules/model/vocab.h"

#define TINY LQ_SOURCE_DIR "/examples/tiny-llama/"

/* What tokenizer.json texts become, through a GGUF file in memory. */
struct converted {
    struct lq_arena arena;
    struct lq_gguf gguf;
};

static cJSON *parse(const char *text)
{
    struct lq_error err = {0};
    cJSON *root = NULL;
    cr_assert_eq(lq_json_parse(text, strlen(text), "test", LQ_EFORMAT, &root, &err), LQ_OK, "%s",
                 err.message);
    return root;
}

static enum lq_status convert(const char *tokenizer, const char *config, uint64_t vocab_size,
                              struct converted *out, struct lq_error *err)
{
    struct lq_gguf_writer writer;
    struct lq_buffer bytes;
    lq_gguf_writer_init(&writer);
    lq_buffer_init(&bytes);
    lq_arena_init(&out->arena);
    cJSON *tokenizer_json = parse(tokenizer);
    cJSON *config_json = config == NULL ? NULL : parse(config);
    struct lq_hf_documents documents = {.tokenizer = tokenizer_json,
                                        .tokenizer_config = config_json};
    enum lq_status status = lq_hf_tokenizer_put(&documents, vocab_size, &out->arena, &writer, err);
    if (status == LQ_OK) {
        cr_assert_eq(lq_gguf_writer_header(&writer, &bytes, err), LQ_OK, "%s", err->message);
        cr_assert_eq(lq_gguf_parse(bytes.data, bytes.size_bytes, bytes.size_bytes, "test",
                                   LQ_EFORMAT, &out->arena, &out->gguf, NULL, err),
                     LQ_OK, "%s", err->message);
    }
    cJSON_Delete(tokenizer_json);
    cJSON_Delete(config_json);
    lq_gguf_writer_fini(&writer);
    lq_buffer_fini(&bytes);
    return status;
}

static char *read_text(const char *path)
{
    struct lq_error err = {0};
    struct lq_buffer buffer;
    lq_buffer_init(&buffer);
    cr_assert_eq(lq_file_read(path, 64 << 20, &buffer, &err), LQ_OK, "%s", err.message);
    return (char *)buffer.data; /* the caller frees */
}

static void expect_ids(const struct lq_vocab *vocab, const char *text, bool add_special,
                       bool parse_special, const int32_t *ids, size_t count)
{
    struct lq_error err = {0};
    struct lq_token_list list;
    lq_token_list_init(&list);
    cr_assert_eq(lq_tokenize(vocab, text, strlen(text), add_special, parse_special, &list, &err),
                 LQ_OK, "%s", err.message);
    cr_assert_eq(list.count, count, "'%s' gives %zu ids instead of %zu", text, list.count, count);
    for (size_t i = 0; i < count; i++) {
        cr_assert_eq(list.ids[i], ids[i], "'%s', id %zu: %d instead of %d", text, i, list.ids[i],
                     ids[i]);
    }
    lq_token_list_fini(&list);
}

/* The pieces of all ids put together must be the text again: nothing may get lost. */
static void expect_round_trip(const struct lq_vocab *vocab, const char *text, size_t length)
{
    struct lq_error err = {0};
    struct lq_token_list list;
    struct lq_buffer joined;
    lq_token_list_init(&list);
    lq_buffer_init(&joined);
    cr_assert_eq(lq_tokenize(vocab, text, length, false, false, &list, &err), LQ_OK, "%s",
                 err.message);
    for (size_t i = 0; i < list.count; i++) {
        size_t piece_length = 0;
        const char *piece = lq_vocab_piece(vocab, list.ids[i], &piece_length);
        cr_assert_not_null(piece);
        lq_buffer_append(&joined, piece, piece_length);
    }
    cr_assert_eq(joined.size_bytes, length);
    cr_assert(length == 0 || memcmp(joined.data, text, length) == 0);
    lq_buffer_fini(&joined);
    lq_token_list_fini(&list);
}

static struct lq_vocab *tiny_llama(struct converted *converted)
{
    struct lq_error err = {0};
    char *tokenizer = read_text(TINY "tokenizer.json");
    char *config = read_text(TINY "tokenizer_config.json");
    cr_assert_eq(convert(tokenizer, config, 4096, converted, &err), LQ_OK, "%s", err.message);
    free(tokenizer);
    free(config);
    struct lq_vocab *vocab = NULL;
    cr_assert_eq(lq_vocab_load(&vocab, &converted->gguf, "tiny", &err), LQ_OK, "%s", err.message);
    return vocab;
}

Test(hf_tokenizer, tiny_llama_has_the_keys_that_llama_cpp_reads)
{
    struct converted converted;
    struct lq_vocab *vocab = tiny_llama(&converted);
    const struct lq_gguf *gguf = &converted.gguf;
    cr_assert_str_eq(lq_gguf_get_string(gguf, "tokenizer.ggml.model"), "gpt2");
    cr_assert_str_eq(lq_gguf_get_string(gguf, "tokenizer.ggml.pre"), "llama-bpe");
    cr_assert_eq(lq_gguf_find(gguf, "tokenizer.ggml.tokens")->count, 4096);
    cr_assert_eq(lq_gguf_find(gguf, "tokenizer.ggml.token_type")->count, 4096);
    cr_assert_eq(lq_gguf_find(gguf, "tokenizer.ggml.merges")->count, 3837);
    cr_assert_eq(lq_gguf_get_uint(gguf, "tokenizer.ggml.bos_token_id", 0), 4093);
    cr_assert_eq(lq_gguf_get_uint(gguf, "tokenizer.ggml.eos_token_id", 0), 4094);
    cr_assert_eq(lq_gguf_get_uint(gguf, "tokenizer.ggml.padding_token_id", 0), 4095);
    cr_assert(lq_gguf_get_bool(gguf, "tokenizer.ggml.add_bos_token", false));
    cr_assert_not(lq_gguf_get_bool(gguf, "tokenizer.ggml.add_eos_token", true));
    cr_assert_eq(lq_vocab_size(vocab), 4096);
    cr_assert_eq(lq_vocab_bos(vocab), 4093);
    cr_assert(lq_vocab_adds_bos(vocab));
    cr_assert_eq(lq_vocab_type(vocab, 4093), LQ_TOKEN_CONTROL);
    lq_vocab_destroy(vocab);
    lq_arena_fini(&converted.arena);
}

/* llama.cpp's perplexity tool cuts this text into 249 chunks of 256. */
Test(hf_tokenizer, tiny_llama_gives_249_chunks_of_the_evaluation_text)
{
    struct lq_error err = {0};
    struct converted converted;
    struct lq_vocab *vocab = tiny_llama(&converted);
    struct lq_map map;
    cr_assert_eq(lq_map_open(&map, LQ_SOURCE_DIR "/examples/text/eval.txt", LQ_EIO, &err), LQ_OK);
    struct lq_token_list list;
    lq_token_list_init(&list);
    cr_assert_eq(
        lq_tokenize(vocab, (const char *)map.data, map.size_bytes, true, false, &list, &err),
        LQ_OK);
    cr_assert_eq(list.ids[0], 4093);
    cr_assert_eq(list.count / 256, 249);
    lq_token_list_fini(&list);
    expect_round_trip(vocab, (const char *)map.data, map.size_bytes);
    lq_map_close(&map);
    lq_vocab_destroy(vocab);
    lq_arena_fini(&converted.arena);
}

Test(hf_tokenizer, control_tokens_need_parse_special)
{
    struct converted converted;
    struct lq_vocab *vocab = tiny_llama(&converted);
    const int32_t parsed[] = {4093, 4094};
    expect_ids(vocab, "<|begin_of_text|><|end_of_text|>", false, true, parsed, 2);
    struct lq_error err = {0};
    struct lq_token_list list;
    lq_token_list_init(&list);
    cr_assert_eq(lq_tokenize(vocab, "<|end_of_text|>", 15, false, false, &list, &err), LQ_OK);
    cr_assert_gt(list.count, 2);
    for (size_t i = 0; i < list.count; i++) {
        cr_assert_lt(list.ids[i], 4093);
    }
    lq_token_list_fini(&list);
    lq_vocab_destroy(vocab);
    lq_arena_fini(&converted.arena);
}

Test(hf_tokenizer, any_bytes_survive)
{
    struct converted converted;
    struct lq_vocab *vocab = tiny_llama(&converted);
    char bytes[1024];
    uint32_t state = 12345;
    for (size_t i = 0; i < sizeof bytes; i++) {
        state = state * 1664525u + 1013904223u;
        bytes[i] = (char)(i < 256 ? i : state >> 24);
    }
    for (size_t length = 0; length <= sizeof bytes; length += 37) {
        expect_round_trip(vocab, bytes, length);
        expect_round_trip(vocab, bytes + length / 2, length / 2);
    }
    /* Cut code points, overlong forms, surrogates, too large, lone continuation. */
    const char *const broken[] = {"a\xe2\x96",        "\xc0\x80",   "\xed\xa0\x80z",
                                  "\xf4\x90\x80\x80", "\x80\x80 x", "\xf0\x9f\xa6",
                                  "ok \xff\xfe end\n"};
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        expect_round_trip(vocab, broken[i], strlen(broken[i]));
    }
    lq_vocab_destroy(vocab);
    lq_arena_fini(&converted.arena);
}

#define SPM_HEAD                                                                                   \
    "{\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true},"                        \
    "{\"id\":1,\"content\":\"<s>\",\"special\":true}],"                                            \
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":"    \
    "\"\xe2\x96\x81\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":"          \
    "\"\xe2\x96\x81\"}]},\"pre_tokenizer\":null,"                                                  \
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"byte_fallback\":true,\"vocab\":"        \
    "{\"<unk>\":0,\"<s>\":1,\"<0x0A>\":2,\"<0xC3>\":3,\"<0xA9>\":4,\"\xe2\x96\x81\":5,\"a\":6,"    \
    "\"b\":7,\"ab\":8,\"\xe2\x96\x81"                                                              \
    "a\":9,\"ba\":10},"

Test(hf_tokenizer, sentence_piece_merges_happen_in_the_order_of_their_ranks)
{
    struct lq_error err = {0};
    struct converted converted;
    /* "ba" before "ab": in " abab" the inner pair goes first. */
    const char *text = SPM_HEAD "\"merges\":[\"b a\",\"a b\",[\"\xe2\x96\x81\",\"a\"]]}}";
    cr_assert_eq(
        convert(text, "{\"bos_token\":\"<s>\",\"add_bos_token\":true}", 0, &converted, &err), LQ_OK,
        "%s", err.message);
    cr_assert_str_eq(lq_gguf_get_string(&converted.gguf, "tokenizer.ggml.model"), "llama");
    cr_assert(lq_gguf_get_bool(&converted.gguf, "tokenizer.ggml.add_space_prefix", false));
    cr_assert_eq(lq_gguf_get_uint(&converted.gguf, "tokenizer.ggml.unknown_token_id", 9), 0);
    struct lq_vocab *vocab = NULL;
    cr_assert_eq(lq_vocab_load(&vocab, &converted.gguf, "spm", &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_vocab_type(vocab, 0), LQ_TOKEN_UNKNOWN);
    cr_assert_eq(lq_vocab_type(vocab, 1), LQ_TOKEN_CONTROL);
    cr_assert_eq(lq_vocab_type(vocab, 2), LQ_TOKEN_BYTE);
    const int32_t inner[] = {1, 9, 10, 7};
    expect_ids(vocab, "abab", true, false, inner, 4);
    const int32_t accent[] = {5, 3, 4, 2, 5, 8};
    expect_ids(vocab, "\xc3\xa9\n ab", false, false, accent, 6);
    lq_vocab_destroy(vocab);
    lq_arena_fini(&converted.arena);
}

/* Gemma's: a Split by blanks that the normalizer has taken away, runs of blanks as added tokens
 * that are not special, and control tokens that are not called so. */
Test(hf_tokenizer, added_tokens_with_marks_stand_for_blanks)
{
    struct lq_error err = {0};
    struct converted converted;
    const char *text =
        "{\"added_tokens\":[{\"id\":0,\"content\":\"<pad>\",\"special\":false},"
        "{\"id\":4,\"content\":\"\xe2\x96\x81\xe2\x96\x81\",\"special\":false},"
        "{\"id\":5,\"content\":\"<unused1>\",\"special\":false}],"
        "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":"
        "\"\xe2\x96\x81\"},\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\" \"},"
        "\"behavior\":\"MergedWithPrevious\",\"invert\":false},"
        "\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"<pad>\":0,\"a\":1,\"b\":2,"
        "\"\xe2\x96\x81\":3,\"\xe2\x96\x81\xe2\x96\x81\":4,\"<unused1>\":5,"
        "\"\xe2\x96\x81"
        "b\":6},\"merges\":[\"\xe2\x96\x81 b\",\"\xe2\x96\x81 \xe2\x96\x81\"]}}";
    cr_assert_eq(convert(text, NULL, 0, &converted, &err), LQ_OK, "%s", err.message);
    struct lq_vocab *vocab = NULL;
    cr_assert_eq(lq_vocab_load(&vocab, &converted.gguf, "gemma", &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_vocab_type(vocab, 0), LQ_TOKEN_CONTROL);
    cr_assert_eq(lq_vocab_type(vocab, 4), LQ_TOKEN_USER_DEFINED);
    cr_assert_eq(lq_vocab_type(vocab, 5), LQ_TOKEN_CONTROL);
    const int32_t runs[] = {1, 4, 6, 6};
    expect_ids(vocab, "a   b b", false, false, runs, 4);
    lq_vocab_destroy(vocab);
    lq_arena_fini(&converted.arena);
}

static void expect_error(const char *tokenizer, const char *config, uint64_t vocab_size,
                         enum lq_status status, const char *part)
{
    struct lq_error err = {0};
    struct converted converted;
    cr_assert_eq(convert(tokenizer, config, vocab_size, &converted, &err), status, "%s: %s", part,
                 err.message);
    cr_assert_not_null(strstr(err.message, part), "'%s' is not in: %s", part, err.message);
    lq_arena_fini(&converted.arena);
}

#define BYTE_LEVEL                                                                                 \
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}"
#define MODEL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},"

Test(hf_tokenizer, refuses_what_it_cannot_express)
{
    expect_error("{" MODEL "\"merges\":[]}," BYTE_LEVEL "}", NULL, 0, LQ_EFORMAT, "model.merges");
    expect_error("{" MODEL "\"dropout\":null}," BYTE_LEVEL "}", NULL, 0, LQ_EFORMAT,
                 "model.merges");
    expect_error("{" MODEL "\"merges\":[\"ab\"]}," BYTE_LEVEL "}", NULL, 0, LQ_EFORMAT,
                 "model.merges[0]");
    expect_error("{" MODEL "\"merges\":[[\"a\"]]}," BYTE_LEVEL "}", NULL, 0, LQ_EFORMAT,
                 "model.merges[0]");
    expect_error("{}", NULL, 0, LQ_EFORMAT, "model");
    expect_error("[]", NULL, 0, LQ_EFORMAT, "model");
    expect_error("{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", NULL, 0, LQ_EUNSUPPORTED,
                 "'WordPiece' are not supported; BPE and Unigram are");
    expect_error("{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", NULL, 0, LQ_EFORMAT, "empty");
    expect_error("{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\"]]}}", NULL, 0, LQ_EFORMAT,
                 "model.vocab[0]");
    expect_error("{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",\"b\"]]}}", NULL, 0,
                 LQ_EFORMAT, "model.vocab[0]");
    expect_error("{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",1],[\"b\",2]]}}", NULL, 1,
                 LQ_EFORMAT, "room for 1");
    expect_error("{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",1]]},\"added_tokens\":"
                 "[{\"id\":1e9,\"content\":\"x\"}]}",
                 NULL, 0, LQ_EFORMAT, "added_tokens");
    expect_error("{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",1]]},\"pre_tokenizer\":"
                 "{\"type\":\"Digits\"}}",
                 NULL, 0, LQ_EUNSUPPORTED, "Digits");
    expect_error("{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",1]]},\"normalizer\":"
                 "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"a*b\"}}",
                 NULL, 0, LQ_EFORMAT, "no base64 at character 1");
    expect_error("{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",1]]},\"normalizer\":"
                 "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"/////w==\"}}",
                 NULL, 0, LQ_EFORMAT, "damaged");
    expect_error("{\"model\":{\"vocab\":{},\"merges\":[\"a b\"]}}", NULL, 0, LQ_EFORMAT, "empty");
    expect_error("{\"model\":{\"vocab\":{\"a\":-1},\"merges\":[\"a b\"]}}", NULL, 0, LQ_EFORMAT,
                 "'a'");
    expect_error("{\"model\":{\"vocab\":{\"a\":1e300},\"merges\":[\"a b\"]}}", NULL, 0, LQ_EFORMAT,
                 "'a'");
    expect_error("{\"model\":{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[\"a b\"]}," BYTE_LEVEL "}",
                 NULL, 0, LQ_EFORMAT, "both have id 0");
    expect_error("{" MODEL "\"merges\":[\"a b\"]}," BYTE_LEVEL "}", NULL, 2, LQ_EFORMAT,
                 "vocab_size 2");
    expect_error("{" MODEL "\"merges\":[\"a b\"]}}", NULL, 0, LQ_EUNSUPPORTED,
                 "neither byte-level");
    expect_error("{" MODEL "\"merges\":[\"a b\"]},\"pre_tokenizer\":{\"type\":\"Whitespace\"}}",
                 NULL, 0, LQ_EUNSUPPORTED, "Whitespace");
    expect_error("{" MODEL
                 "\"merges\":[\"a b\"]},\"normalizer\":{\"type\":\"BertNormalizer\"}," BYTE_LEVEL
                 "}",
                 NULL, 0, LQ_EUNSUPPORTED, "BertNormalizer");
    expect_error("{" MODEL "\"merges\":[\"a b\"]},\"pre_tokenizer\":{\"type\":\"Sequence\","
                 "\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"x+y\"},"
                 "\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\","
                 "\"add_prefix_space\":false,\"use_regex\":false}]}}",
                 NULL, 0, LQ_EUNSUPPORTED, "'x+y'");
    expect_error("{" MODEL "\"merges\":[\"a b\"]}," BYTE_LEVEL "}", "{\"add_bos_token\":true}", 0,
                 LQ_EFORMAT, "adds BOS");
}

Test(hf_tokenizer, pads_to_the_rows_of_the_embedding)
{
    struct lq_error err = {0};
    struct converted converted;
    cr_assert_eq(
        convert("{" MODEL "\"merges\":[\"a b\"]}," BYTE_LEVEL "}", NULL, 5, &converted, &err),
        LQ_OK, "%s", err.message);
    const struct lq_gguf_value *tokens = lq_gguf_find(&converted.gguf, "tokenizer.ggml.tokens");
    cr_assert_eq(tokens->count, 5);
    cr_assert_str_eq(tokens->strings[4].data, "[PAD4]");
    cr_assert_str_eq(lq_gguf_get_string(&converted.gguf, "tokenizer.ggml.pre"), "gpt-2");
    lq_arena_fini(&converted.arena);
}

/* The rest of a tokenizer.json behind its added tokens: a vocabulary that has the 256 bytes as
 * tokens 0 to 255, by GPT-2's table, and "aa". */
static void put_bytes(struct lq_buffer *out, unsigned aa)
{
    unsigned next = 256;
    lq_buffer_printf(out,
                     "],\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
                     "\"model\":{\"type\":\"BPE\",\"merges\":[\"a a\"],\"vocab\":{\"aa\":%u",
                     aa);
    for (unsigned byte = 0; byte < 256; byte++) {
        bool printable =
            (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
        lq_buffer_printf(out, ",\"\\u%04x\":%u", printable ? byte : next, byte);
        next += printable ? 0 : 1;
    }
    lq_buffer_append_string(out, "}}}");
}

/* Added tokens that take the white space before, behind, or around them. */
static void put_strip_tokenizer(struct lq_buffer *out)
{
    static const char *const texts[] = {"<l>", "<r>", "<b>", "<n>", "<r> x"};
    lq_buffer_append_string(out, "{\"added_tokens\":[");
    for (size_t i = 0; i < 5; i++) {
        lq_buffer_printf(out,
                         "%s{\"id\":%zu,\"content\":\"%s\",\"special\":true,\"lstrip\":%s,"
                         "\"rstrip\":%s}",
                         i == 0 ? "" : ",", 256 + i, texts[i], i == 0 || i == 2 ? "true" : "false",
                         i == 1 || i == 2 ? "true" : "false");
    }
    put_bytes(out, 261);
}

/* The ids are those of the Hugging Face tokenizers library 0.23.3. */
Test(hf_tokenizer, added_tokens_take_the_blanks_around_them)
{
    static const struct {
        const char *text;
        size_t count;
        int32_t ids[12];
    } cases[] = {
        {"a  <l>  b", 5, {97, 256, 32, 32, 98}},
        {"a  <r> \n b", 5, {97, 32, 32, 257, 98}},
        {"a \t<b>\n\n b", 3, {97, 258, 98}},
        {"a  <n>  b", 7, {97, 32, 32, 259, 32, 32, 98}},
        {"a <r> x <r>  <l>  <b>b", 8, {97, 32, 260, 32, 257, 256, 258, 98}},
        {"\u3000<l>\u00a0\u3000a<r>\u2003\u2028b", 9, {256, 194, 160, 227, 128, 128, 97, 257, 98}},
        {"x<r>  ", 2, {120, 257}},
        {"   <l>", 1, {256}},
    };
    struct lq_error err = {0};
    struct converted converted;
    struct lq_buffer text;
    lq_buffer_init(&text);
    put_strip_tokenizer(&text);
    cr_assert_eq(convert(lq_buffer_text(&text), NULL, 0, &converted, &err), LQ_OK, "%s",
                 err.message);
    struct lq_vocab *vocab = NULL;
    cr_assert_eq(lq_vocab_load(&vocab, &converted.gguf, "strip", &err), LQ_OK, "%s", err.message);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_ids(vocab, cases[i].text, false, true, cases[i].ids, cases[i].count);
    }
    /* Written out but not looked for, they are text like any other. */
    const int32_t plain[] = {32, 60, 108, 62};
    expect_ids(vocab, " <l>", false, false, plain, 4);
    lq_vocab_destroy(vocab);
    lq_buffer_fini(&text);
    lq_arena_fini(&converted.arena);
}

/* One added token is looked for in normalized text, one in the text as it is. The ids are those of
 * the Hugging Face tokenizers library 0.23.3. */
Test(hf_tokenizer, text_is_normalized_before_it_is_cut)
{
    static const struct {
        const char *text;
        size_t count;
        int32_t ids[12];
    } cases[] = {
        {"e\u0301", 2, {195, 169}},
        {"E\u0301", 2, {195, 169}},
        {"AA", 1, {256}},
        {"aA<R>Aa", 3, {256, 258, 256}},
        {"<r>", 3, {60, 114, 62}},
        {"<E\u0301>", 1, {257}},
        {"<\u00e9>", 1, {257}},
        {"x<\u00c9>y<R>", 4, {120, 257, 121, 258}},
        {"\u1112\u1161\u11ab", 3, {237, 149, 156}},
        {"<R\u0301>", 4, {60, 197, 149, 62}},
        {"E\xff\u0301", 4, {101, 255, 204, 129}}, /* the library takes no such text */
    };
    struct lq_error err = {0};
    struct converted converted;
    struct lq_buffer text;
    struct lq_vocab *vocab = NULL;
    lq_buffer_init(&text);
    lq_buffer_append_string(
        &text, "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},"
               "{\"type\":\"Lowercase\"}]},\"added_tokens\":["
               "{\"id\":257,\"content\":\"<\u00c9>\",\"normalized\":true,\"special\":false},"
               "{\"id\":258,\"content\":\"<R>\",\"normalized\":false,\"special\":false}");
    put_bytes(&text, 256);
    cr_assert_eq(convert(lq_buffer_text(&text), NULL, 0, &converted, &err), LQ_OK, "%s",
                 err.message);
    cr_expect_str_eq(lq_gguf_get_string(&converted.gguf, "tokenizer.lqbuild.normalizer"),
                     "[{\"type\":\"NFC\"},{\"type\":\"Lowercase\"}]");
    cr_assert_eq(lq_vocab_load(&vocab, &converted.gguf, "nfc", &err), LQ_OK, "%s", err.message);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_ids(vocab, cases[i].text, false, true, cases[i].ids, cases[i].count);
    }
    lq_vocab_destroy(vocab);
    lq_buffer_fini(&text);
    lq_arena_fini(&converted.arena);
}

/* The ids are those of the Hugging Face tokenizers library 0.23.3. */
Test(hf_tokenizer, unigram_models_take_the_cut_with_the_best_sum)
{
    static const struct {
        const char *text;
        size_t count;
        int32_t ids[12];
    } cases[] = {
        {"ab", 2, {4, 3}},
        {"abab", 3, {4, 1, 8}},
        {" ab", 2, {4, 3}},
        {"ABAB b", 5, {4, 1, 8, 4, 2}},
        {"a<x>ab<x> ab", 7, {4, 1, 7, 3, 7, 4, 3}},
        {"zz", 2, {4, 0}},
        {"azzb  qa", 8, {4, 1, 0, 2, 4, 4, 0, 1}},
        {"ba bab", 5, {4, 2, 1, 4, 8}},
        {"\u00e9\u00e9 \u00e9a", 5, {4, 0, 4, 0, 1}},
        {"<X>", 2, {4, 7}},
    };
    struct lq_error err = {0};
    struct converted converted;
    struct lq_vocab *vocab = NULL;
    const char *text =
        "{\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true},"
        "{\"id\":7,\"content\":\"<x>\",\"special\":false,\"normalized\":false}],"
        "\"normalizer\":{\"type\":\"Lowercase\"},"
        "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\u2581\","
        "\"prepend_scheme\":\"first\"},"
        "\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"<unk>\",0],[\"a\",-2],"
        "[\"b\",-2.5],[\"ab\",-3],[\"\u2581\",-1.5],[\"\u2581ab\",-7],[\"abab\",-6],"
        "[\"<x>\",-1],[\"bab\",-2]]}}";
    cr_assert_eq(convert(text, NULL, 0, &converted, &err), LQ_OK, "%s", err.message);
    cr_expect_str_eq(lq_gguf_get_string(&converted.gguf, "tokenizer.ggml.model"), "t5");
    cr_assert_eq(lq_vocab_load(&vocab, &converted.gguf, "unigram", &err), LQ_OK, "%s", err.message);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_ids(vocab, cases[i].text, false, true, cases[i].ids, cases[i].count);
    }
    lq_vocab_destroy(vocab);
    lq_arena_fini(&converted.arena);
}

/* Two tokens that count as whole words only, one that is looked for after the others, and two that
 * overlap with it. The ids are those of the Hugging Face tokenizers library 0.23.3. */
Test(hf_tokenizer, added_tokens_may_be_whole_words_only_or_come_second)
{
    static const struct {
        const char *text;
        size_t count;
        int32_t ids[12];
    } cases[] = {
        {"a<w>b", 5, {97, 60, 119, 62, 98}},
        {"a <w> b", 5, {97, 32, 257, 32, 98}},
        {"<w>", 1, {257}},
        {"\u00e9<w>", 5, {195, 169, 60, 119, 62}},
        {"\u24b6<w>", 6, {226, 146, 182, 60, 119, 62}},
        {"\u00bd<w>", 3, {194, 189, 257}},
        {"\xc3<w>", 2, {195, 257}},
        {"a tok b", 5, {97, 32, 258, 32, 98}},
        {"atok", 4, {97, 116, 111, 107}},
        {"tok-tok", 3, {258, 45, 258}},
        {"tok_tok", 7, {116, 111, 107, 95, 116, 111, 107}},
        {"toktok", 6, {116, 111, 107, 116, 111, 107}},
        {"tok\u00b2", 3, {258, 194, 178}},
        {"tok\u200d", 6, {116, 111, 107, 226, 128, 141}},
        {"a\u0301tok", 6, {97, 204, 129, 116, 111, 107}},
        {"x tokx tok", 8, {120, 32, 116, 111, 107, 120, 32, 258}},
        {"tok\u0663", 5, {116, 111, 107, 217, 163}},
        {"\u2460tok\u2460", 7, {226, 145, 160, 258, 226, 145, 160}},
        {"\u2167tok", 6, {226, 133, 167, 116, 111, 107}},
        {"<n>>", 1, {261}},
        {"<<n>", 3, {260, 110, 62}},
        {"a<n>b", 3, {97, 259, 98}},
        {"<<<n>>>", 3, {260, 261, 62}},
    };
    struct lq_error err = {0};
    struct converted converted;
    struct lq_buffer text;
    lq_buffer_init(&text);
    lq_buffer_append_string(
        &text, "{\"added_tokens\":[{\"id\":257,\"content\":\"<w>\",\"single_word\":true},"
               "{\"id\":258,\"content\":\"tok\",\"single_word\":true},"
               "{\"id\":259,\"content\":\"<n>\",\"normalized\":true},"
               "{\"id\":260,\"content\":\"<<\",\"normalized\":false},"
               "{\"id\":261,\"content\":\"<n>>\",\"normalized\":false}");
    put_bytes(&text, 256);
    cr_assert_eq(convert(lq_buffer_text(&text), NULL, 0, &converted, &err), LQ_OK, "%s",
                 err.message);
    struct lq_vocab *vocab = NULL;
    cr_assert_eq(lq_vocab_load(&vocab, &converted.gguf, "word", &err), LQ_OK, "%s", err.message);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_ids(vocab, cases[i].text, false, true, cases[i].ids, cases[i].count);
    }
    lq_vocab_destroy(vocab);
    lq_buffer_fini(&text);
    lq_arena_fini(&converted.arena);
}
