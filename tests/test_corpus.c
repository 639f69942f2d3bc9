#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/fs.h"
#include "rules/format/gguf.h"
#include "rules/model/corpus.h"
#include "rules/model/tokens.h"

static void expect_text(const char *json, bool lines, const char *field, const char *text)
{
    struct lq_error err = {0};
    struct lq_buffer out;
    lq_buffer_init(&out);
    cr_assert_eq(lq_corpus_extract(json, strlen(json), "t", lines, field, &out, &err), LQ_OK, "%s",
                 err.message);
    cr_assert_str_eq(lq_buffer_text(&out), text);
    lq_buffer_fini(&out);
}

static void expect_error(const char *json, bool lines, const char *field, const char *part)
{
    struct lq_error err = {0};
    struct lq_buffer out;
    lq_buffer_init(&out);
    cr_assert_eq(lq_corpus_extract(json, strlen(json), "t.json", lines, field, &out, &err),
                 LQ_ECALIBRATION);
    cr_assert_not_null(strstr(err.message, part), "'%s' is not in: %s", part, err.message);
    lq_buffer_fini(&out);
}

Test(corpus, takes_texts_out_of_json)
{
    expect_text("[\"a\",\"b c\"]", false, NULL, "a\nb c");
    expect_text("[{\"text\":\"a\"},{\"content\":\"b\"},{\"prompt\":\"c\"}]", false, NULL,
                "a\nb\nc");
    expect_text("{\"version\":1,\"data\":[\"x\"]}", false, NULL, "x");
    expect_text("[{\"body\":\"a\",\"text\":\"no\"}]", false, "body", "a");
    expect_text("\xef\xbb\xbf[\"a\"]", false, NULL, "a");
}

Test(corpus, takes_texts_out_of_json_lines)
{
    expect_text("{\"text\":\"a\"}\n\n  \r\n\"b\"\r\n{\"content\":\"c\\nd\"}", true, NULL,
                "a\nb\nc\nd");
    expect_text("{\"q\":\"1\"}\n{\"q\":\"2\"}\n", true, "q", "1\n2");
}

Test(corpus, names_the_place_of_what_is_no_text)
{
    expect_error("[\"a\",3]", false, NULL, "t.json: item 2");
    expect_error("[{\"txt\":\"a\"}]", false, NULL, "name another with field");
    expect_error("[{\"text\":\"a\"}]", false, "body", "'body'");
    expect_error("{\"a\":[\"x\"],\"b\":[\"y\"]}", false, NULL, "one list");
    expect_error("{\"a\":1}", false, NULL, "one list");
    expect_error("[\"a\"", false, NULL, "t.json: invalid JSON");
    expect_error("[]", false, NULL, "no text");
    expect_error("", false, NULL, "t.json");
    expect_error("\"a\"\n{bad}\n", true, NULL, "t.json:2:");
    expect_error("\"a\"\n\n{\"txt\":1}\n", true, NULL, "t.json: line 3");
    expect_error("\n \n", true, NULL, "no text");
}

/* Byte tokens only, so that ids are bytes and every count is known beforehand. */
static struct lq_vocab *byte_vocab(bool add_bos)
{
    struct lq_error err = {0};
    struct lq_gguf_writer writer;
    struct lq_buffer bytes;
    struct lq_arena arena;
    struct lq_gguf gguf;
    char texts[256][8];
    struct lq_gguf_string tokens[257];
    int32_t types[257];
    float scores[257] = {0};
    for (size_t i = 0; i < 256; i++) {
        (void)snprintf(texts[i], sizeof texts[i], "<0x%02zX>", i);
        tokens[i] = (struct lq_gguf_string){texts[i], 6};
        types[i] = LQ_TOKEN_BYTE;
    }
    tokens[256] = (struct lq_gguf_string){"<s>", 3};
    types[256] = LQ_TOKEN_CONTROL;
    lq_gguf_writer_init(&writer);
    lq_buffer_init(&bytes);
    lq_arena_init(&arena);
    lq_gguf_put_string(&writer, "tokenizer.ggml.model", "llama");
    lq_gguf_put_strings(&writer, "tokenizer.ggml.tokens", tokens, 257);
    lq_gguf_put_array(&writer, "tokenizer.ggml.token_type", LQ_GGUF_I32, types, 257);
    lq_gguf_put_array(&writer, "tokenizer.ggml.scores", LQ_GGUF_F32, scores, 257);
    lq_gguf_put_u32(&writer, "tokenizer.ggml.bos_token_id", 256);
    lq_gguf_put_bool(&writer, "tokenizer.ggml.add_bos_token", add_bos);
    lq_gguf_put_bool(&writer, "tokenizer.ggml.add_space_prefix", false);
    cr_assert_eq(lq_gguf_writer_header(&writer, &bytes, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_gguf_parse(bytes.data, bytes.size_bytes, bytes.size_bytes, "v", LQ_EFORMAT,
                               &arena, &gguf, NULL, &err),
                 LQ_OK, "%s", err.message);
    struct lq_vocab *vocab = NULL;
    cr_assert_eq(lq_vocab_load(&vocab, &gguf, "v", &err), LQ_OK, "%s", err.message);
    lq_gguf_writer_fini(&writer);
    lq_buffer_fini(&bytes);
    lq_arena_fini(&arena);
    return vocab;
}

static struct lq_tokens cut(const struct lq_vocab *vocab, const char *text,
                            const struct lq_corpus_cut *how, struct lq_arena *arena)
{
    struct lq_error err = {0};
    struct lq_buffer out;
    struct lq_tokens tokens;
    lq_buffer_init(&out);
    cr_assert_eq(lq_corpus_cut(vocab, text, strlen(text), how, "t", NULL, NULL, &out, &err), LQ_OK,
                 "%s", err.message);
    cr_assert_eq(lq_tokens_parse(out.data, out.size_bytes, "t", 257, arena, &tokens, &err), LQ_OK,
                 "%s", err.message);
    lq_buffer_fini(&out);
    return tokens;
}

Test(corpus, cuts_whole_chunks_and_puts_bos_first)
{
    struct lq_arena arena;
    lq_arena_init(&arena);
    struct lq_vocab *vocab = byte_vocab(true);
    const struct lq_corpus_cut all = {.sequence = 3};
    /* BOS a b | c d e | f g h | i: the remainder is dropped. */
    struct lq_tokens tokens = cut(vocab, "abcdefghi", &all, &arena);
    const int32_t expected[] = {256, 'a', 'b', 256, 'd', 'e', 256, 'g', 'h'};
    cr_assert_eq(tokens.sample_count, 3);
    cr_assert_eq(tokens.bos, 256);
    cr_assert_arr_eq(tokens.tokens, expected, sizeof expected);
    const struct lq_corpus_cut two = {.sequence = 3, .samples = 2};
    tokens = cut(vocab, "abcdefghi", &two, &arena);
    cr_assert_eq(tokens.sample_count, 2);
    cr_assert_arr_eq(tokens.tokens, expected, 6 * sizeof *expected);
    lq_vocab_destroy(vocab);
    vocab = byte_vocab(false);
    tokens = cut(vocab, "abcdefghi", &all, &arena);
    cr_assert_eq(tokens.bos, LQ_TOKENS_NO_BOS);
    cr_assert_eq(tokens.tokens[0], 'a');
    cr_assert_eq(tokens.tokens[8], 'i');
    lq_vocab_destroy(vocab);
    lq_arena_fini(&arena);
}

Test(corpus, random_chunks_are_distinct_ascending_and_follow_the_seed)
{
    struct lq_arena arena;
    lq_arena_init(&arena);
    struct lq_vocab *vocab = byte_vocab(false);
    char text[201];
    for (size_t i = 0; i < 200; i++) {
        text[i] = (char)(i / 2 + 40); /* no blank, which is written as another character */
    }
    text[200] = '\0';
    struct lq_corpus_cut how = {.sequence = 2, .samples = 10, .random = true, .seed = 7};
    struct lq_tokens first = cut(vocab, text, &how, &arena);
    struct lq_tokens again = cut(vocab, text, &how, &arena);
    cr_assert_arr_eq(first.tokens, again.tokens, 20 * sizeof(int32_t));
    for (size_t i = 0; i < 10; i++) {
        cr_assert_eq(first.tokens[2 * i], first.tokens[2 * i + 1]);
        cr_assert(i == 0 || first.tokens[2 * i] > first.tokens[2 * i - 2]);
    }
    how.seed = 8;
    struct lq_tokens other = cut(vocab, text, &how, &arena);
    cr_assert(memcmp(first.tokens, other.tokens, 20 * sizeof(int32_t)) != 0);
    how.samples = 100;
    struct lq_tokens all = cut(vocab, text, &how, &arena);
    for (size_t i = 0; i < 100; i++) {
        cr_assert_eq(all.tokens[2 * i], (int32_t)(i + 40));
    }
    lq_vocab_destroy(vocab);
    lq_arena_fini(&arena);
}

Test(corpus, says_how_many_tokens_are_missing)
{
    struct lq_vocab *vocab = byte_vocab(true);
    struct lq_error err = {0};
    struct lq_buffer out;
    lq_buffer_init(&out);
    struct lq_corpus_cut how = {.sequence = 4, .samples = 3};
    cr_assert_eq(lq_corpus_cut(vocab, "abcdefghij", 10, &how, "text 'w'", NULL, NULL, &out, &err),
                 LQ_ECALIBRATION);
    cr_assert_not_null(strstr(err.message, "text 'w': the text has 11 tokens, but 12 are needed"),
                       "%s", err.message);
    how.samples = 0;
    cr_assert_eq(lq_corpus_cut(vocab, "", 0, &how, "t", NULL, NULL, &out, &err), LQ_ECALIBRATION);
    how.sequence = 0;
    cr_assert_eq(lq_corpus_cut(vocab, "abc", 3, &how, "t", NULL, NULL, &out, &err),
                 LQ_ECALIBRATION);
    cr_assert_eq(out.size_bytes, 0);
    lq_buffer_fini(&out);
    lq_vocab_destroy(vocab);
}
