#include "rules/model/hf_tokenizer.h"

#include <string.h>

#include "rules/model/normalize.h"
#include "rules/model/vocab.h"

#define BLANK_MARK "\xe2\x96\x81"
enum { BLANK_MARK_BYTES = 3 };

enum lq_status lq_hf_vocab_init(struct lq_hf_vocab *vocab, size_t count, struct lq_arena *arena,
                                struct lq_error *err)
{
    *vocab = (struct lq_hf_vocab){.count = count};
    vocab->texts = lq_arena_get_array(arena, count, sizeof *vocab->texts);
    vocab->types = lq_arena_get_array(arena, count, sizeof *vocab->types);
    vocab->scores = lq_arena_get_array(arena, count, sizeof *vocab->scores);
    vocab->strips = lq_arena_get_array(arena, count, sizeof *vocab->strips);
    for (size_t i = 0; i < LQ_HF_ROLE_COUNT; i++) {
        vocab->roles[i] = -1;
    }
    bool fits = vocab->texts != NULL && vocab->types != NULL && vocab->scores != NULL &&
                vocab->strips != NULL;
    return fits ? LQ_OK : lq_error_nomem(err, "tokenizer");
}

enum lq_status lq_hf_vocab_pad(struct lq_hf_vocab *vocab, struct lq_arena *arena,
                               struct lq_error *err)
{
    for (size_t i = 0; i < vocab->count; i++) {
        if (vocab->texts[i].data != NULL) {
            continue;
        }
        const char *text = lq_arena_printf(arena, "[PAD%zu]", i);
        if (text == NULL) {
            return lq_error_nomem(err, "tokenizer");
        }
        vocab->texts[i] = (struct lq_gguf_string){.data = text, .length = strlen(text)};
        vocab->types[i] = LQ_TOKEN_UNUSED;
    }
    return LQ_OK;
}

void lq_hf_vocab_strip(struct lq_hf_vocab *vocab, int64_t id, const cJSON *token)
{
    bool left = token != NULL && cJSON_IsTrue(lq_json_find(token, "lstrip"));
    bool right = token != NULL && cJSON_IsTrue(lq_json_find(token, "rstrip"));
    bool word = token != NULL && cJSON_IsTrue(lq_json_find(token, "single_word"));
    vocab->strips[id] =
        (uint8_t)((left ? LQ_TOKEN_STRIPS_LEFT : 0) | (right ? LQ_TOKEN_STRIPS_RIGHT : 0) |
                  (word ? LQ_TOKEN_WHOLE_WORD : 0));
    vocab->has_strips = vocab->has_strips || left || right || word;
}

int64_t lq_hf_vocab_find(const struct lq_hf_vocab *vocab, const char *text)
{
    size_t length = strlen(text);
    for (size_t i = 0; i < vocab->count; i++) {
        const struct lq_gguf_string *known = &vocab->texts[i];
        if (known->length == length && memcmp(known->data, text, length) == 0) {
            return (int64_t)i;
        }
    }
    return -1;
}

enum lq_status lq_hf_unmark(struct lq_gguf_string *text, struct lq_arena *arena,
                            struct lq_error *err)
{
    char *copy = lq_arena_get(arena, text->length + 1);
    if (copy == NULL) {
        return lq_error_nomem(err, "tokenizer");
    }
    size_t at = 0;
    for (size_t i = 0; i < text->length;) {
        bool mark = text->length - i >= BLANK_MARK_BYTES &&
                    memcmp(text->data + i, BLANK_MARK, BLANK_MARK_BYTES) == 0;
        copy[at++] = mark ? ' ' : text->data[i];
        i += mark ? BLANK_MARK_BYTES : 1;
    }
    *text = (struct lq_gguf_string){.data = copy, .length = at};
    return LQ_OK;
}

static bool is_between(const char *text, const char *begin, const char *end)
{
    size_t length = strlen(text);
    size_t begin_length = strlen(begin);
    size_t end_length = strlen(end);
    return length >= begin_length + end_length && memcmp(text, begin, begin_length) == 0 &&
           memcmp(text + length - end_length, end, end_length) == 0;
}

/* The forms are those that llama.cpp's converter takes for control tokens, too: tokens of
 * command-r, deepseek-coder and gemma whose files call them ordinary. */
bool lq_hf_is_control(const char *text, const cJSON *token)
{
    static const char *const known[] = {"<pad>", "<mask>", "<2mass>", "[@BOS@]"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(text, known[i]) == 0) {
            return true;
        }
    }
    const cJSON *special = token == NULL ? NULL : lq_json_find(token, "special");
    return cJSON_IsTrue(special) || is_between(text, "<|", "|>") ||
           is_between(text, "<\xef\xbd\x9c", "\xef\xbd\x9c>") || is_between(text, "<unused", ">");
}

static void put_vocab(const struct lq_hf_vocab *vocab, struct lq_gguf_writer *writer)
{
    static const char *const models[] = {
        [LQ_HF_BYTE_LEVEL] = "gpt2", [LQ_HF_SENTENCE_PIECE] = "llama", [LQ_HF_UNIGRAM] = "t5"};
    const struct lq_hf_text_rules *rules = &vocab->rules;
    bool has_scores = rules->kind != LQ_HF_BYTE_LEVEL;
    lq_gguf_put_string(writer, "tokenizer.ggml.model", models[rules->kind]);
    lq_gguf_put_string(writer, "tokenizer.ggml.pre", rules->pre);
    lq_gguf_put_strings(writer, "tokenizer.ggml.tokens", vocab->texts, vocab->count);
    if (has_scores) {
        lq_gguf_put_array(writer, "tokenizer.ggml.scores", LQ_GGUF_F32, vocab->scores,
                          vocab->count);
    }
    lq_gguf_put_array(writer, "tokenizer.ggml.token_type", LQ_GGUF_I32, vocab->types, vocab->count);
    if (rules->normalizer != NULL) {
        lq_gguf_put_string(writer, LQ_VOCAB_NORMALIZER_KEY, rules->normalizer);
    }
    if (rules->map.data != NULL) {
        lq_gguf_put_array(writer, LQ_VOCAB_CHARSMAP_KEY, LQ_GGUF_U8, rules->map.data,
                          rules->map.size_bytes);
    }
    if (vocab->has_strips) {
        lq_gguf_put_array(writer, LQ_VOCAB_STRIPS_KEY, LQ_GGUF_U8, vocab->strips, vocab->count);
    }
    if (rules->kind == LQ_HF_UNIGRAM) {
        lq_gguf_put_bool(writer, "tokenizer.ggml.remove_extra_whitespaces", rules->squeezes_blanks);
    }
    if (has_scores) {
        lq_gguf_put_bool(writer, "tokenizer.ggml.add_space_prefix", rules->add_space_prefix);
    } else {
        lq_gguf_put_strings(writer, "tokenizer.ggml.merges", vocab->merges, vocab->merge_count);
    }
}

enum lq_status lq_hf_tokenizer_put(const struct lq_hf_documents *documents, uint64_t vocab_size,
                                   struct lq_arena *arena, struct lq_gguf_writer *writer,
                                   struct lq_error *err)
{
    struct lq_hf_vocab vocab;
    enum lq_status status =
        documents->tokenizer != NULL
            ? lq_hf_json_read(documents, vocab_size, arena, &vocab, err)
            : lq_hf_sentencepiece_read(documents, vocab_size, arena, &vocab, err);
    if (status != LQ_OK) {
        return status;
    }
    put_vocab(&vocab, writer);
    return lq_hf_specials_put(documents, &vocab, arena, writer, err);
}
