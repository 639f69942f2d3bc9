/* SentencePiece's BPE ("llama"): tokens are texts with blanks written as U+2581; of two neighbours
 * whose union is a token, the pair with the highest score merges first; characters that are no
 * token become their bytes, which have tokens "<0x00>" to "<0xFF>". */
#include <math.h>
#include <string.h>

#include "rules/model/vocab_parts.h"

#define BLANK_MARK "\xe2\x96\x81"
enum { BLANK_MARK_BYTES = 3 };

static bool is_mark(const char *text, size_t length)
{
    return length >= BLANK_MARK_BYTES && memcmp(text, BLANK_MARK, BLANK_MARK_BYTES) == 0;
}

/* True when a mark stands behind another character: then a token spans two words. */
static bool spans_words(const struct lq_token_bytes *text)
{
    bool other_seen = false;
    for (size_t i = 0; i < text->length;) {
        bool mark = is_mark(text->data + i, text->length - i);
        if (mark && other_seen) {
            return true;
        }
        other_seen = other_seen || !mark;
        i += mark ? BLANK_MARK_BYTES : 1;
    }
    return false;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte of "<0x0A>", or -1. */
static int byte_of_text(const struct lq_token_bytes *text)
{
    if (text->length != 6 || memcmp(text->data, "<0x", 3) != 0 || text->data[5] != '>') {
        return -1;
    }
    int high = hex_digit(text->data[3]);
    int low = hex_digit(text->data[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* The bytes a normal token stands for: marks become blanks. */
static bool make_piece(struct lq_vocab *vocab, size_t id)
{
    const struct lq_token_bytes *text = &vocab->texts[id];
    char *bytes = lq_arena_get(&vocab->arena, text->length + 1);
    if (bytes == NULL) {
        return false;
    }
    size_t count = 0;
    for (size_t i = 0; i < text->length;) {
        bool mark = is_mark(text->data + i, text->length - i);
        bytes[count++] = mark ? ' ' : text->data[i];
        i += mark ? BLANK_MARK_BYTES : 1;
    }
    vocab->pieces[id] = (struct lq_token_bytes){.data = bytes, .length = count};
    return true;
}

static enum lq_status add_token(struct lq_vocab *vocab, size_t id, const char *where,
                                struct lq_error *err)
{
    const struct lq_token_bytes *text = &vocab->texts[id];
    uint8_t type = vocab->types[id];
    bool merges = type != LQ_TOKEN_CONTROL && type != LQ_TOKEN_BYTE && type != LQ_TOKEN_UNKNOWN &&
                  text->length > 0;
    int32_t existing = -1;
    (void)lq_token_table_add(&vocab->table, text->data, text->length, merges, &existing);
    if (existing >= 0) {
        return lq_error_set(err, LQ_EFORMAT, "%s: tokens %d and %zu are both '%.80s'", where,
                            existing, id, text->data);
    }
    vocab->words_are_closed = vocab->words_are_closed && !(merges && spans_words(text));
    int byte = type == LQ_TOKEN_BYTE ? byte_of_text(text) : -1;
    if (byte >= 0) {
        vocab->byte_symbols[byte] = (int32_t)id;
        char c = (char)byte;
        char *copy = lq_arena_dup(&vocab->arena, &c, 1);
        vocab->pieces[id] = (struct lq_token_bytes){.data = copy, .length = 1};
        return copy == NULL ? lq_error_nomem(err, "vocabulary") : LQ_OK;
    }
    vocab->pieces[id] = *text;
    bool plain = type == LQ_TOKEN_NORMAL || type == LQ_TOKEN_UNUSED;
    return !plain || make_piece(vocab, id) ? LQ_OK : lq_error_nomem(err, "vocabulary");
}

static enum lq_status load_scores(struct lq_vocab *vocab, const struct lq_gguf *gguf,
                                  const char *where, struct lq_error *err)
{
    const struct lq_gguf_value *scores = lq_gguf_find(gguf, "tokenizer.ggml.scores");
    if (scores == NULL || scores->type != LQ_GGUF_ARRAY || scores->element_type != LQ_GGUF_F32 ||
        scores->count != vocab->size) {
        return lq_error_set(
            err, LQ_EFORMAT,
            "%s: tokenizer.ggml.scores must be an array of %zu numbers, one per token", where,
            vocab->size);
    }
    vocab->scores = lq_arena_get_array(&vocab->arena, vocab->size, sizeof *vocab->scores);
    if (vocab->scores == NULL) {
        return lq_error_nomem(err, "vocabulary");
    }
    memcpy(vocab->scores, scores->elements, vocab->size * sizeof *vocab->scores);
    for (size_t i = 0; i < vocab->size; i++) {
        if (isnan(vocab->scores[i])) {
            return lq_error_set(err, LQ_EFORMAT, "%s: the score of token %zu is not a number",
                                where, i);
        }
    }
    return LQ_OK;
}

enum lq_status lq_spm_load(struct lq_vocab *vocab, const struct lq_gguf *gguf, const char *where,
                           struct lq_error *err)
{
    enum lq_status status = load_scores(vocab, gguf, where, err);
    if (status != LQ_OK) {
        return status;
    }
    if (!lq_token_table_init(&vocab->table, vocab->size)) {
        return lq_error_nomem(err, "vocabulary");
    }
    vocab->words_are_closed = true;
    for (size_t i = 0; i < vocab->size; i++) {
        status = add_token(vocab, i, where, err);
        if (status != LQ_OK) {
            return status;
        }
    }
    vocab->add_bos = true;
    vocab->add_space_prefix = lq_gguf_get_bool(gguf, "tokenizer.ggml.add_space_prefix", true);
    return LQ_OK;
}

/* Turns a score into a number that is smaller for a higher score. */
static uint32_t priority_of(float score)
{
    /* Adding zero makes one zero of two. */
    float value = score + 0.0f;
    uint32_t bits = 0;
    memcpy(&bits, &value, sizeof bits);
    uint32_t ascending = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
    return ~ascending;
}

bool lq_spm_find_merge(const struct lq_vocab *vocab, const char *word, const struct lq_symbol *left,
                       const struct lq_symbol *right, uint32_t *priority, int32_t *merged)
{
    int32_t id = lq_token_table_find(&vocab->table, word + left->start,
                                     (size_t)left->length + right->length);
    if (id < 0) {
        return false;
    }
    *priority = priority_of(vocab->scores[id]);
    *merged = id;
    return true;
}
