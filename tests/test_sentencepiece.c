#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/json.h"
#include "rules/format/gguf.h"
#include "rules/model/hf_tokenizer.h"
#include "rules/model/sentencepiece.h"
#include "rules/model/vocab_file.h"
#include "tests/vocab_golden.h"

#define GOLDEN LQ_SOURCE_DIR "/tests/golden/tokenizer/sentencepiece-"

/* tokenizer.model files, those of SentencePiece itself and hand-made ones. */

static struct lq_vocab *load_golden(const char *name)
{
    char path[512];
    struct lq_error err = {0};
    struct lq_vocab *vocab = NULL;
    (void)snprintf(path, sizeof path, GOLDEN "%s.model", name);
    cr_assert_eq(lq_vocab_file_load(path, &vocab, &err), LQ_OK, "%s", err.message);
    return vocab;
}

static void check_golden(const char *name)
{
    char strings[512];
    char ids[512];
    (void)snprintf(strings, sizeof strings, GOLDEN "%s.model.inp", name);
    (void)snprintf(ids, sizeof ids, GOLDEN "%s.model.out", name);
    struct lq_vocab *vocab = load_golden(name);
    cr_assert_gt(golden_expect_ids(vocab, strings, ids), 60);
    lq_vocab_destroy(vocab);
}

Test(sentencepiece, the_ids_of_the_library_with_a_blank_before_the_text)
{
    check_golden("prefix");
}

Test(sentencepiece, the_ids_of_the_library_with_pieces_of_the_user_and_no_blank)
{
    check_golden("plain");
}

Test(sentencepiece, the_ids_of_the_library_for_unigram_models)
{
    check_golden("unigram");
    check_golden("bytes");
}

Test(sentencepiece, the_ids_of_the_library_behind_a_character_map)
{
    check_golden("map");
}

Test(sentencepiece, bytes_that_are_no_text_are_unknown_or_bytes_in_unigram_models)
{
    static const char text[] = "a\xff\xfe b";
    struct lq_error err = {0};
    struct lq_token_list list;
    struct lq_vocab *vocab = load_golden("unigram");
    lq_token_list_init(&list);
    cr_assert_eq(lq_tokenize(vocab, text, sizeof text - 1, false, false, &list, &err), LQ_OK);
    size_t unknown = 0;
    for (size_t i = 0; i < list.count; i++) {
        unknown += lq_vocab_type(vocab, list.ids[i]) == LQ_TOKEN_UNKNOWN ? 1 : 0;
    }
    cr_expect_eq(unknown, 1, "two in a row are one");
    lq_vocab_destroy(vocab);
    vocab = load_golden("bytes");
    list.count = 0;
    cr_assert_eq(lq_tokenize(vocab, text, sizeof text - 1, false, false, &list, &err), LQ_OK);
    size_t bytes = 0;
    for (size_t i = 0; i < list.count; i++) {
        bytes += lq_vocab_type(vocab, list.ids[i]) == LQ_TOKEN_BYTE ? 1 : 0;
    }
    cr_expect_eq(bytes, 2);
    lq_vocab_destroy(vocab);
    lq_token_list_fini(&list);
}

Test(sentencepiece, broken_utf8_comes_back_as_it_was)
{
    static const char text[] = "a \xff\xfe\xc3( \xf0\x9f\xa6 \xed\xa0\x80 z\0y";
    struct lq_vocab *vocab = load_golden("plain");
    struct lq_error err = {0};
    struct lq_token_list list;
    struct lq_buffer joined;
    lq_token_list_init(&list);
    lq_buffer_init(&joined);
    cr_assert_eq(lq_tokenize(vocab, text, sizeof text - 1, false, false, &list, &err), LQ_OK);
    for (size_t i = 0; i < list.count; i++) {
        size_t length = 0;
        const char *piece = lq_vocab_piece(vocab, list.ids[i], &length);
        lq_buffer_append(&joined, piece, length);
    }
    cr_assert_eq(joined.size_bytes, sizeof text - 1);
    cr_assert_eq(memcmp(joined.data, text, sizeof text - 1), 0);
    lq_buffer_fini(&joined);
    lq_token_list_fini(&list);
    lq_vocab_destroy(vocab);
}

Test(sentencepiece, the_model_says_which_tokens_begin_and_end_a_text)
{
    struct lq_vocab *plain = load_golden("plain");
    cr_assert_eq(lq_vocab_bos(plain), 2);
    cr_assert_eq(lq_vocab_eos(plain), 1);
    cr_assert(lq_vocab_adds_bos(plain));
    cr_assert(!lq_vocab_adds_eos(plain));
    lq_vocab_destroy(plain);
    struct lq_vocab *prefix = load_golden("prefix");
    cr_assert_eq(lq_vocab_bos(prefix), 1);
    cr_assert_eq(lq_vocab_eos(prefix), 2);
    cr_assert_eq(lq_vocab_size(prefix), 480);
    lq_vocab_destroy(prefix);
}

/* A writer of protocol buffers, as far as these files need one. */

static void put_varint(struct lq_buffer *out, uint64_t value)
{
    while (value >= 0x80) {
        lq_buffer_append_char(out, (char)(value | 0x80));
        value >>= 7;
    }
    lq_buffer_append_char(out, (char)value);
}

static void put_bytes(struct lq_buffer *out, unsigned field, const void *data, size_t size)
{
    put_varint(out, field << 3 | 2);
    put_varint(out, size);
    lq_buffer_append(out, data, size);
}

static void put_number(struct lq_buffer *out, unsigned field, uint64_t value)
{
    put_varint(out, field << 3);
    put_varint(out, value);
}

static void put_piece(struct lq_buffer *out, const char *text, float score, unsigned type)
{
    struct lq_buffer piece;
    lq_buffer_init(&piece);
    put_bytes(&piece, 1, text, strlen(text));
    put_varint(&piece, 2 << 3 | 5);
    lq_buffer_append(&piece, &score, sizeof score);
    put_number(&piece, 3, type);
    put_bytes(out, 1, piece.data, piece.size_bytes);
    lq_buffer_fini(&piece);
}

static void put_byte_pieces(struct lq_buffer *out)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        char text[8];
        (void)snprintf(text, sizeof text, "<0x%02X>", byte);
        put_piece(out, text, 0, 6);
    }
}

/* trainer_spec with model_type and one more field. */
static void put_trainer(struct lq_buffer *out, unsigned kind, unsigned field, uint64_t value)
{
    struct lq_buffer spec;
    lq_buffer_init(&spec);
    put_number(&spec, 3, kind);
    if (field != 0) {
        put_number(&spec, field, value);
    }
    put_bytes(out, 2, spec.data, spec.size_bytes);
    lq_buffer_fini(&spec);
}

/* "<unk>", "<s>", "</s>", the bytes, and "a". */
static void put_small(struct lq_buffer *out)
{
    put_piece(out, "<unk>", 0, 2);
    put_piece(out, "<s>", 0, 3);
    put_piece(out, "</s>", 0, 3);
    put_byte_pieces(out);
    put_piece(out, "a", -1, 1);
}

static enum lq_status parse(const struct lq_buffer *bytes, struct lq_error *err)
{
    struct lq_arena arena;
    struct lq_sentencepiece_model model;
    lq_arena_init(&arena);
    enum lq_status status =
        lq_sentencepiece_parse(bytes->data, bytes->size_bytes, "t", &arena, &model, err);
    lq_arena_fini(&arena);
    return status;
}

static void expect(struct lq_buffer *bytes, enum lq_status status, const char *words)
{
    struct lq_error err = {0};
    cr_assert_eq(parse(bytes, &err), status, "%s: %s", words, err.message);
    cr_assert(status == LQ_OK || strstr(err.message, words) != NULL, "'%s' is not in '%s'", words,
              err.message);
    lq_buffer_fini(bytes);
    lq_buffer_init(bytes);
}

Test(sentencepiece, refuses_pieces_that_cannot_be)
{
    struct lq_buffer bytes;
    lq_buffer_init(&bytes);
    expect(&bytes, LQ_EFORMAT, "no pieces");
    put_piece(&bytes, "", 0, 1);
    expect(&bytes, LQ_EFORMAT, "piece 0 has no text");
    put_piece(&bytes, "a", 0, 1);
    put_piece(&bytes, "\xff", 0, 1);
    expect(&bytes, LQ_EFORMAT, "piece 1 is not UTF-8");
    put_piece(&bytes, "a", NAN, 1);
    expect(&bytes, LQ_EFORMAT, "score of piece 0 'a'");
    put_piece(&bytes, "a", -INFINITY, 1);
    expect(&bytes, LQ_EFORMAT, "score of piece 0 'a'");
    put_piece(&bytes, "a", 0, 7);
    expect(&bytes, LQ_EFORMAT, "known types are 1 to 6");
    put_piece(&bytes, "a", 0, 1);
    put_piece(&bytes, "b", 0, 1);
    put_piece(&bytes, "a", 0, 1);
    expect(&bytes, LQ_EFORMAT, "pieces 0 and 2 are both 'a'");
    put_small(&bytes);
    put_trainer(&bytes, 2, 41, 260);
    expect(&bytes, LQ_EFORMAT, "trainer_spec.bos_id is 260, but there are only 260 pieces");
    put_small(&bytes);
    put_trainer(&bytes, 9, 0, 0);
    expect(&bytes, LQ_EFORMAT, "model_type is 9");
}

Test(sentencepiece, refuses_kinds_that_gguf_cannot_say)
{
    struct lq_buffer bytes;
    lq_buffer_init(&bytes);
    put_small(&bytes);
    expect(&bytes, LQ_EFORMAT, "no trainer_spec");
    /* What it leaves out is unigram, which needs no bytes. */
    put_piece(&bytes, "a", 0, 1);
    put_bytes(&bytes, 2, "", 0);
    expect(&bytes, LQ_OK, "");
    put_small(&bytes);
    put_trainer(&bytes, 3, 0, 0);
    expect(&bytes, LQ_EUNSUPPORTED, "'word'");
    put_small(&bytes);
    put_trainer(&bytes, 2, 24, 1);
    expect(&bytes, LQ_EUNSUPPORTED, "treat_whitespace_as_suffix");
    put_small(&bytes);
    put_trainer(&bytes, 2, 0, 0);
    put_bytes(&bytes, 3, "\x28\x00", 2);
    expect(&bytes, LQ_EUNSUPPORTED, "escape_whitespaces");
    put_piece(&bytes, "a", 0, 1);
    put_trainer(&bytes, 2, 0, 0);
    expect(&bytes, LQ_EUNSUPPORTED, "byte_fallback");
    put_small(&bytes);
    put_trainer(&bytes, 2, 0, 0);
    expect(&bytes, LQ_OK, "");
}

Test(sentencepiece, steps_over_what_it_does_not_know)
{
    struct lq_buffer bytes;
    lq_buffer_init(&bytes);
    put_number(&bytes, 99, UINT64_MAX);
    put_varint(&bytes, 1000 << 3 | 1);
    lq_buffer_append(&bytes, "12345678", 8);
    put_bytes(&bytes, 4, "anything", 8);
    put_small(&bytes);
    put_trainer(&bytes, 2, 7, 3);
    expect(&bytes, LQ_OK, "");
}

Test(sentencepiece, damaged_bytes_are_an_error)
{
    struct lq_buffer bytes;
    lq_buffer_init(&bytes);
    /* A varint of more than 64 bits, a length beyond the end, field 0, a group. */
    lq_buffer_append(&bytes, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11);
    expect(&bytes, LQ_EFORMAT, "cut off");
    lq_buffer_append(&bytes, "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11);
    expect(&bytes, LQ_EFORMAT, "cut off");
    lq_buffer_append(&bytes, "\x02\x00", 2);
    expect(&bytes, LQ_EFORMAT, "cut off");
    lq_buffer_append(&bytes, "\x0b\x0c", 2);
    expect(&bytes, LQ_EFORMAT, "cut off");
    /* A text in a piece that says it is longer than the piece. */
    lq_buffer_append(&bytes,
                     "\x0a\x04\x0a\x7f"
                     "ab",
                     6);
    expect(&bytes, LQ_EFORMAT, "a piece cannot be read");
    lq_buffer_append(&bytes, "{\"a\": 1}", 8);
    expect(&bytes, LQ_EFORMAT, "not a SentencePiece model");
}

Test(sentencepiece, a_file_that_ends_early_is_never_taken)
{
    struct lq_error err = {0};
    struct lq_map map;
    cr_assert_eq(lq_map_open(&map, GOLDEN "prefix.model", LQ_EIO, &err), LQ_OK);
    for (uint64_t size = 0; size < map.size_bytes; size += size < 64 ? 1 : 7) {
        struct lq_buffer bytes;
        lq_buffer_init(&bytes);
        lq_buffer_append(&bytes, map.data, (size_t)size);
        enum lq_status status = parse(&bytes, &err);
        /* Without trainer_spec, which comes last but one, the kind is unigram. */
        cr_assert(status == LQ_EFORMAT || status == LQ_EUNSUPPORTED || size > 6900, "%llu: %s",
                  (unsigned long long)size, err.message);
        lq_buffer_fini(&bytes);
    }
    lq_map_close(&map);
}

/* Whole folders: what the other files add. */

struct folder {
    struct lq_arena arena;
    struct lq_hf_documents documents;
    struct lq_buffer model;
    struct lq_gguf gguf;
};

static void open_folder(struct folder *folder, const char *config, const char *added)
{
    struct lq_error err = {0};
    struct lq_hf_text texts[LQ_HF_FILE_COUNT] = {0};
    memset(folder, 0, sizeof *folder);
    lq_arena_init(&folder->arena);
    lq_buffer_init(&folder->model);
    put_small(&folder->model);
    put_piece(&folder->model, "\xe2\x96\x81\xe2\x96\x81", 0, 4);
    put_trainer(&folder->model, 2, 0, 0);
    texts[LQ_HF_SENTENCEPIECE] = (struct lq_hf_text){folder->model.data, folder->model.size_bytes};
    if (config != NULL) {
        texts[LQ_HF_TOKENIZER_CONFIG] = (struct lq_hf_text){config, strlen(config)};
    }
    if (added != NULL) {
        texts[LQ_HF_ADDED_TOKENS] = (struct lq_hf_text){added, strlen(added)};
    }
    texts[LQ_HF_CHAT_TEMPLATE] = (struct lq_hf_text){"{{ chat }}", 10};
    cr_assert_eq(lq_hf_documents_parse(texts, &folder->arena, &folder->documents, &err), LQ_OK,
                 "%s", err.message);
}

static void close_folder(struct folder *folder)
{
    lq_hf_documents_fini(&folder->documents);
    lq_buffer_fini(&folder->model);
    lq_arena_fini(&folder->arena);
}

static enum lq_status convert(struct folder *folder, uint64_t rows, struct lq_error *err)
{
    struct lq_gguf_writer writer;
    struct lq_buffer bytes;
    lq_gguf_writer_init(&writer);
    lq_buffer_init(&bytes);
    enum lq_status status =
        lq_hf_tokenizer_put(&folder->documents, rows, &folder->arena, &writer, err);
    if (status == LQ_OK) {
        cr_assert_eq(lq_gguf_writer_header(&writer, &bytes, err), LQ_OK);
        cr_assert_eq(lq_gguf_parse(bytes.data, bytes.size_bytes, bytes.size_bytes, "g", LQ_EFORMAT,
                                   &folder->arena, &folder->gguf, NULL, err),
                     LQ_OK);
    }
    lq_buffer_fini(&bytes);
    lq_gguf_writer_fini(&writer);
    return status;
}

static void expect_token(const struct lq_gguf *gguf, size_t id, const char *text, int32_t type,
                         float score)
{
    const struct lq_gguf_value *tokens = lq_gguf_find(gguf, "tokenizer.ggml.tokens");
    const struct lq_gguf_value *types = lq_gguf_find(gguf, "tokenizer.ggml.token_type");
    const struct lq_gguf_value *scores = lq_gguf_find(gguf, "tokenizer.ggml.scores");
    cr_assert_lt(id, tokens->count);
    cr_assert_str_eq(tokens->strings[id].data, text);
    int32_t type_there = 0;
    float score_there = 0;
    memcpy(&type_there, (const char *)types->elements + id * sizeof type_there, sizeof type_there);
    memcpy(&score_there, (const char *)scores->elements + id * sizeof score_there,
           sizeof score_there);
    cr_assert_eq(type_there, type, "%s", text);
    cr_assert_eq(score_there, score, "%s", text);
}

Test(sentencepiece, other_files_add_tokens_and_say_their_roles)
{
    static const char config[] =
        "{\"bos_token\": {\"content\": \"<go>\"}, \"add_eos_token\": true,"
        " \"add_prefix_space\": false, \"added_tokens_decoder\": {"
        "\"0\": {\"content\": \"<unk>\", \"special\": true},"
        "\"261\": {\"content\": \"<go>\", \"special\": true},"
        "\"262\": {\"content\": \"two\xe2\x96\x81words\", \"special\": false},"
        "\"263\": {\"content\": \"<|end|>\", \"special\": false},"
        "\"99999\": {\"content\": \"no row\"}}}";
    struct folder folder;
    struct lq_error err = {0};
    open_folder(&folder, config, "{\"early\": 264, \"far\": 700}");
    cr_assert_eq(convert(&folder, 266, &err), LQ_OK, "%s", err.message);
    const struct lq_gguf *gguf = &folder.gguf;
    cr_assert_str_eq(lq_gguf_get_string(gguf, "tokenizer.ggml.model"), "llama");
    cr_assert_eq(lq_gguf_find(gguf, "tokenizer.ggml.tokens")->count, 266);
    expect_token(gguf, 0, "<unk>", 2, -1000);
    expect_token(gguf, 1, "<s>", 3, 0);
    expect_token(gguf, 3, "<0x00>", 6, 0);
    expect_token(gguf, 259, "a", 1, -1);
    expect_token(gguf, 260, "  ", 4, 0);
    expect_token(gguf, 261, "<go>", 3, -1000);
    expect_token(gguf, 262, "two words", 4, -1000);
    expect_token(gguf, 263, "<|end|>", 3, -1000);
    expect_token(gguf, 264, "early", 4, -1000);
    expect_token(gguf, 265, "[PAD265]", 5, -10000);
    cr_assert_eq(lq_gguf_get_uint(gguf, "tokenizer.ggml.bos_token_id", 0), 261);
    cr_assert_eq(lq_gguf_get_uint(gguf, "tokenizer.ggml.eos_token_id", 0), 2);
    cr_assert_eq(lq_gguf_get_uint(gguf, "tokenizer.ggml.unknown_token_id", 9), 0);
    cr_assert(lq_gguf_get_bool(gguf, "tokenizer.ggml.add_bos_token", false));
    cr_assert(lq_gguf_get_bool(gguf, "tokenizer.ggml.add_eos_token", false));
    cr_assert(!lq_gguf_get_bool(gguf, "tokenizer.ggml.add_space_prefix", true));
    cr_assert_str_eq(lq_gguf_get_string(gguf, "tokenizer.chat_template"), "{{ chat }}");
    close_folder(&folder);
}

Test(sentencepiece, without_other_files_the_model_speaks_for_itself)
{
    struct folder folder;
    struct lq_error err = {0};
    open_folder(&folder, NULL, NULL);
    cr_assert_eq(convert(&folder, 0, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_gguf_find(&folder.gguf, "tokenizer.ggml.tokens")->count, 261);
    cr_assert_eq(lq_gguf_get_uint(&folder.gguf, "tokenizer.ggml.bos_token_id", 0), 1);
    cr_assert(lq_gguf_get_bool(&folder.gguf, "tokenizer.ggml.add_bos_token", false));
    cr_assert(lq_gguf_get_bool(&folder.gguf, "tokenizer.ggml.add_space_prefix", false));
    close_folder(&folder);
}

Test(sentencepiece, files_of_different_models_do_not_go_together)
{
    static const struct {
        const char *config;
        const char *added;
        uint64_t rows;
        const char *words;
    } cases[] = {
        {NULL, NULL, 200, "261 pieces, but config.json says vocab_size 200"},
        {NULL, "{\"x\": -1}", 300, "added_tokens.json: the id of token 'x'"},
        {NULL, "{\"x\": 1.5}", 300, "added_tokens.json: the id of token 'x'"},
        {NULL, "{\"x\": \"7\"}", 300, "added_tokens.json: the id of token 'x'"},
        {NULL, "{\"x\": 1e12}", 0, "added_tokens.json: the id of token 'x'"},
        {NULL, "{\"\": 7}", 300, "token 7 has no text"},
        {"{\"added_tokens_decoder\": {\"x\": {\"content\": \"y\"}}}", NULL, 300,
         "tokenizer_config.json: the id of token 'y'"},
        {"{\"added_tokens_decoder\": {\"99999999\": {\"content\": \"y\"}}}", NULL, 300,
         "tokenizer_config.json: the id of token 'y'"},
        {"{\"added_tokens_decoder\": {\"5\": {\"special\": true}}}", NULL, 300, "content"},
        {"{\"added_tokens_decoder\": {\"5\": 3}}", NULL, 300, "content"},
        {"{\"added_tokens_decoder\": []}", NULL, 300, "added_tokens_decoder"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct folder folder;
        struct lq_error err = {0};
        open_folder(&folder, cases[i].config, cases[i].added);
        cr_assert_eq(convert(&folder, cases[i].rows, &err), LQ_EFORMAT, "case %zu", i);
        cr_assert(strstr(err.message, cases[i].words) != NULL, "%s", err.message);
        close_folder(&folder);
    }
}
