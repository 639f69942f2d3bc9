#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/limits.h"
#include "rules/format/gguf.h"
#include "rules/model/pretokenize.h"
#include "rules/model/vocab.h"
#include "tests/vocab_golden.h"

#define GOLDEN LQ_SOURCE_DIR "/tests/golden/tokenizer/ggml-vocab-"

static struct lq_vocab *load_file(const char *path)
{
    struct lq_error err = {0};
    struct lq_map map;
    cr_assert_eq(lq_map_open(&map, path, LQ_EIO, &err), LQ_OK, "%s", err.message);
    struct lq_arena arena;
    lq_arena_init(&arena);
    struct lq_gguf gguf;
    cr_assert_eq(lq_gguf_parse(map.data, map.size_bytes, map.size_bytes, path, LQ_EFORMAT, &arena,
                               &gguf, NULL, &err),
                 LQ_OK, "%s", err.message);
    struct lq_vocab *vocab = NULL;
    cr_assert_eq(lq_vocab_load(&vocab, &gguf, path, &err), LQ_OK, "%s", err.message);
    lq_arena_fini(&arena);
    lq_map_close(&map);
    return vocab;
}

static void check_golden(const char *name)
{
    char path[512];
    char strings[512];
    char ids[512];
    (void)snprintf(path, sizeof path, GOLDEN "%s.gguf", name);
    (void)snprintf(strings, sizeof strings, GOLDEN "%s.gguf.inp", name);
    (void)snprintf(ids, sizeof ids, GOLDEN "%s.gguf.out", name);
    struct lq_vocab *vocab = load_file(path);
    cr_assert_gt(golden_expect_ids(vocab, strings, ids), 40);
    lq_vocab_destroy(vocab);
}

Test(vocab, golden_gpt2)
{
    check_golden("gpt-2");
}

Test(vocab, golden_deepseek_coder)
{
    check_golden("deepseek-coder");
}

Test(vocab, golden_llama_spm)
{
    check_golden("llama-spm");
}

Test(vocab, golden_phi3)
{
    check_golden("phi-3");
}

/* A small vocabulary made key by key, so that each test can break one of them. */
struct draft {
    const char *model;
    const char *pre;
    const char *tokens[8];
    int32_t types[8];
    size_t token_count;
    size_t type_count;
    size_t strip_count; /* 0: no such key */
    const char *merges[4];
    size_t merge_count;
    float scores[8];
    size_t score_count;
    int32_t bos;
};

static struct draft small_bpe(void)
{
    return (struct draft){.model = "gpt2",
                          .pre = "gpt-2",
                          .tokens = {"a", "b", "ab", "\xc4\xa0", "<s>", "<pad>", "x"},
                          .types = {1, 1, 1, 1, 3, 4, 1},
                          .token_count = 7,
                          .type_count = 7,
                          .merges = {"a b"},
                          .merge_count = 1,
                          .bos = 4};
}

static enum lq_status load_draft(const struct draft *draft, struct lq_vocab **vocab,
                                 struct lq_error *err)
{
    struct lq_gguf_writer writer;
    struct lq_gguf_string strings[8];
    struct lq_buffer bytes;
    struct lq_arena arena;
    struct lq_gguf gguf;
    lq_gguf_writer_init(&writer);
    lq_buffer_init(&bytes);
    lq_arena_init(&arena);
    if (draft->model != NULL) {
        lq_gguf_put_string(&writer, "tokenizer.ggml.model", draft->model);
    }
    lq_gguf_put_string(&writer, "tokenizer.ggml.pre", draft->pre);
    for (size_t i = 0; i < draft->token_count; i++) {
        strings[i] = (struct lq_gguf_string){draft->tokens[i], strlen(draft->tokens[i])};
    }
    lq_gguf_put_strings(&writer, "tokenizer.ggml.tokens", strings, draft->token_count);
    if (draft->strip_count > 0) {
        static const uint8_t strips[16] = {0};
        lq_gguf_put_array(&writer, LQ_VOCAB_STRIPS_KEY, LQ_GGUF_U8, strips, draft->strip_count);
    }
    lq_gguf_put_array(&writer, "tokenizer.ggml.token_type", LQ_GGUF_I32, draft->types,
                      draft->type_count);
    for (size_t i = 0; i < draft->merge_count; i++) {
        strings[i] = (struct lq_gguf_string){draft->merges[i], strlen(draft->merges[i])};
    }
    if (draft->merge_count > 0) {
        lq_gguf_put_strings(&writer, "tokenizer.ggml.merges", strings, draft->merge_count);
    }
    if (draft->score_count > 0) {
        lq_gguf_put_array(&writer, "tokenizer.ggml.scores", LQ_GGUF_F32, draft->scores,
                          draft->score_count);
    }
    if (draft->bos >= 0) {
        lq_gguf_put_u32(&writer, "tokenizer.ggml.bos_token_id", (uint32_t)draft->bos);
    } else {
        lq_gguf_put_bool(&writer, "tokenizer.ggml.add_bos_token", true);
    }
    cr_assert_eq(lq_gguf_writer_header(&writer, &bytes, err), LQ_OK, "%s", err->message);
    cr_assert_eq(lq_gguf_parse(bytes.data, bytes.size_bytes, bytes.size_bytes, "x.gguf", LQ_EFORMAT,
                               &arena, &gguf, NULL, err),
                 LQ_OK, "%s", err->message);
    enum lq_status status = lq_vocab_load(vocab, &gguf, "x.gguf", err);
    lq_gguf_writer_fini(&writer);
    lq_buffer_fini(&bytes);
    lq_arena_fini(&arena);
    return status;
}

static void expect_refused(const struct draft *draft, enum lq_status status, const char *part)
{
    struct lq_error err = {0};
    struct lq_vocab *vocab = NULL;
    cr_assert_eq(load_draft(draft, &vocab, &err), status, "%s: %s", part, err.message);
    cr_assert_null(vocab);
    cr_assert_not_null(strstr(err.message, part), "'%s' is not in: %s", part, err.message);
    cr_assert_not_null(strstr(err.message, "x.gguf"), "no file in: %s", err.message);
}

Test(vocab, refuses_contradicting_keys)
{
    struct draft draft = small_bpe();
    draft.model = NULL;
    expect_refused(&draft, LQ_EFORMAT, "tokenizer.ggml.model");
    draft.model = "bert";
    expect_refused(&draft, LQ_EUNSUPPORTED, "'bert'");
    draft = small_bpe();
    draft.pre = "no-such";
    expect_refused(&draft, LQ_EUNSUPPORTED, "'no-such'; known are: llama-bpe");
    draft = small_bpe();
    draft.merge_count = 0;
    expect_refused(&draft, LQ_EFORMAT, "no merges");
    draft = small_bpe();
    draft.merges[0] = "ab";
    expect_refused(&draft, LQ_EFORMAT, "merge 0 'ab'");
    draft = small_bpe();
    draft.type_count = 6;
    expect_refused(&draft, LQ_EFORMAT, "token_type");
    draft = small_bpe();
    draft.strip_count = 6;
    expect_refused(&draft, LQ_EFORMAT, LQ_VOCAB_STRIPS_KEY);
    draft = small_bpe();
    draft.tokens[1] = "a";
    expect_refused(&draft, LQ_EFORMAT, "tokens 0 and 1");
    draft = small_bpe();
    draft.bos = 7;
    expect_refused(&draft, LQ_EFORMAT, "bos_token_id is 7");
    draft.bos = -1;
    expect_refused(&draft, LQ_EFORMAT, "adds BOS");
    draft = small_bpe();
    draft.model = "llama";
    expect_refused(&draft, LQ_EFORMAT, "scores");
    draft.score_count = 7;
    draft.scores[3] = NAN;
    expect_refused(&draft, LQ_EFORMAT, "score of token 3");
    draft.score_count = 6;
    expect_refused(&draft, LQ_EFORMAT, "scores");
}

Test(vocab, user_defined_tokens_are_cut_out_first_and_the_longest_wins)
{
    struct lq_error err = {0};
    struct lq_vocab *vocab = NULL;
    struct draft draft = small_bpe();
    draft.tokens[6] = "<pad>a";
    draft.types[6] = LQ_TOKEN_USER_DEFINED;
    cr_assert_eq(load_draft(&draft, &vocab, &err), LQ_OK, "%s", err.message);
    struct lq_token_list list;
    lq_token_list_init(&list);
    const char *text = "ab<pad>b<pad>ab<s>";
    cr_assert_eq(lq_tokenize(vocab, text, strlen(text), false, true, &list, &err), LQ_OK);
    const int32_t expected[] = {2, 5, 1, 6, 1, 4};
    cr_assert_eq(list.count, 6);
    cr_assert_arr_eq(list.ids, expected, sizeof expected);
    lq_token_list_fini(&list);
    lq_vocab_destroy(vocab);
}

Test(vocab, bytes_without_a_token_are_left_out_when_nothing_stands_for_them)
{
    struct lq_error err = {0};
    struct lq_vocab *vocab = NULL;
    struct draft draft = small_bpe();
    cr_assert_eq(load_draft(&draft, &vocab, &err), LQ_OK, "%s", err.message);
    struct lq_token_list list;
    lq_token_list_init(&list);
    cr_assert_eq(lq_tokenize(vocab, "azb", 3, false, false, &list, &err), LQ_OK);
    const int32_t expected[] = {0, 1};
    cr_assert_eq(list.count, 2);
    cr_assert_arr_eq(list.ids, expected, sizeof expected);
    lq_token_list_fini(&list);
    lq_vocab_destroy(vocab);
}

static bool always(const void *user)
{
    return user == NULL;
}

Test(vocab, stops_at_the_limit_and_when_cancelled)
{
    struct lq_error err = {0};
    struct lq_vocab *vocab = load_file(GOLDEN "gpt-2.gguf");
    struct lq_map map;
    cr_assert_eq(lq_map_open(&map, LQ_SOURCE_DIR "/examples/text/eval.txt", LQ_EIO, &err), LQ_OK);
    const char *text = (const char *)map.data;
    struct lq_token_list all;
    struct lq_token_list some;
    lq_token_list_init(&all);
    lq_token_list_init(&some);
    some.limit = 1000;
    cr_assert_eq(lq_tokenize(vocab, text, map.size_bytes, false, false, &all, &err), LQ_OK);
    cr_assert_eq(lq_tokenize(vocab, text, map.size_bytes, false, false, &some, &err), LQ_OK);
    cr_assert(some.count >= 1000 && some.count < 1100 && all.count > 10000);
    cr_assert_arr_eq(all.ids, some.ids, 1000 * sizeof *all.ids);
    some.limit = 0;
    some.cancelled = always;
    cr_assert_eq(lq_tokenize(vocab, text, map.size_bytes, false, false, &some, &err),
                 LQ_ECANCELLED);
    lq_token_list_fini(&all);
    lq_token_list_fini(&some);
    lq_map_close(&map);
    lq_vocab_destroy(vocab);
}

/* Long runs must neither overflow a stack nor take quadratic time. */
Test(vocab, long_runs_of_one_character, .timeout = 60)
{
    static const char *const names[] = {"gpt-2", "deepseek-coder", "llama-spm"};
    const size_t length = 1 << 20;
    char *text = malloc(length);
    cr_assert_not_null(text);
    for (size_t n = 0; n < sizeof names / sizeof names[0]; n++) {
        char path[512];
        (void)snprintf(path, sizeof path, GOLDEN "%s.gguf", names[n]);
        struct lq_vocab *vocab = load_file(path);
        for (const char *c = " a\n.7\xff"; *c != '\0'; c++) {
            struct lq_error err = {0};
            struct lq_token_list list;
            lq_token_list_init(&list);
            memset(text, *c, length);
            cr_assert_eq(lq_tokenize(vocab, text, length, false, false, &list, &err), LQ_OK, "%s",
                         err.message);
            cr_assert_gt(list.count, 0);
            lq_token_list_fini(&list);
        }
        lq_vocab_destroy(vocab);
    }
    free(text);
}

Test(pretokenize, knows_the_patterns_of_published_tokenizers)
{
    const char *const llama3 = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
                               "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
                               "\\s+(?!\\S)|\\s+";
    cr_assert_str_eq(lq_pretokenizer_name_of(&llama3, 1, true), "llama-bpe");
    cr_assert_str_eq(lq_pretokenizer_name_of(&llama3, 1, false), "smaug-bpe");
    const char *const starcoder[] = {"\\p{N}", LQ_PRE_BYTE_LEVEL};
    cr_assert_str_eq(lq_pretokenizer_name_of(starcoder, 2, false), "starcoder");
    cr_assert_null(lq_pretokenizer_name_of(starcoder, 1, false));
    const char *const coder[] = {"[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+",
                                 "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", "\\p{N}"};
    cr_assert_str_eq(lq_pretokenizer_name_of(coder, 5, false), "deepseek-coder");
    cr_assert_null(lq_pretokenizer_name_of(coder, 0, false));
}
