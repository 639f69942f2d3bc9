/* Byte-level BPE ("gpt2"): tokens are strings of bytes, written in the file with one printable
 * character per byte (the table of GPT-2's encoder); merges are pairs in order of rank. */
#include <string.h>

#include "engine/base/limits.h"
#include "rules/model/vocab_parts.h"

/* GPT-2's table: printable Latin-1 characters stand for themselves, the 68 other bytes for
 * U+0100... in ascending order. */
static bool byte_is_printable(unsigned byte)
{
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

struct byte_map {
    int16_t bytes[0x144]; /* by code point; -1 none */
};

static void make_byte_map(struct byte_map *map)
{
    memset(map->bytes, 0xff, sizeof map->bytes);
    unsigned next = 0x100;
    for (unsigned byte = 0; byte < 256; byte++) {
        map->bytes[byte_is_printable(byte) ? byte : next] = (int16_t)byte;
        next += byte_is_printable(byte) ? 0 : 1;
    }
}

/* Decodes text to the bytes it stands for; false when a character stands for no byte. The result is
 * never longer than the text. */
static bool decode(const struct byte_map *map, const char *text, size_t length, char *out,
                   size_t *out_length)
{
    size_t count = 0;
    for (size_t i = 0; i < length;) {
        unsigned char first = (unsigned char)text[i];
        unsigned point = first;
        size_t step = 1;
        if (first >= 0x80) {
            if (first > 0xdf || lq_utf8_length(text + i, length - i) != 2) {
                return false;
            }
            point = (first & 0x1fu) << 6 | ((unsigned char)text[i + 1] & 0x3fu);
            step = 2;
        }
        if (point >= 0x144 || map->bytes[point] < 0) {
            return false;
        }
        out[count++] = (char)map->bytes[point];
        i += step;
    }
    *out_length = count;
    return true;
}

static enum lq_status add_tokens(struct lq_vocab *vocab, const struct byte_map *map,
                                 const char *where, struct lq_error *err)
{
    for (size_t i = 0; i < vocab->size; i++) {
        const struct lq_token_bytes *text = &vocab->texts[i];
        struct lq_token_bytes *piece = &vocab->pieces[i];
        char *bytes = lq_arena_get(&vocab->arena, text->length + 1);
        if (bytes == NULL) {
            return lq_error_nomem(err, "vocabulary");
        }
        bool decodes =
            text->length > 0 && decode(map, text->data, text->length, bytes, &piece->length);
        bool is_plain = vocab->types[i] == LQ_TOKEN_NORMAL || vocab->types[i] == LQ_TOKEN_UNUSED;
        int32_t existing = -1;
        (void)lq_token_table_add(&vocab->table, bytes, piece->length, decodes, &existing);
        if (existing >= 0) {
            return lq_error_set(err, LQ_EFORMAT, "%s: tokens %d and %zu are both '%.80s'", where,
                                existing, i, text->data);
        }
        /* Added tokens stand for their own text. */
        *piece = decodes && is_plain ? (struct lq_token_bytes){bytes, piece->length} : *text;
    }
    return LQ_OK;
}

/* The symbol of one half of a merge; halves that are no tokens get numbers of their own. */
static enum lq_status find_half(struct lq_vocab *vocab, const char *bytes, size_t length,
                                int32_t *symbol, struct lq_error *err)
{
    *symbol = lq_token_table_find(&vocab->table, bytes, length);
    if (*symbol >= 0) {
        return LQ_OK;
    }
    char *copy = lq_arena_dup(&vocab->arena, bytes, length);
    int32_t existing = -1;
    *symbol = copy == NULL ? -1 : lq_token_table_add(&vocab->table, copy, length, true, &existing);
    return *symbol >= 0 ? LQ_OK : lq_error_nomem(err, "vocabulary");
}

static enum lq_status add_merge(struct lq_vocab *vocab, const struct byte_map *map,
                                const struct lq_gguf_string *merge, uint32_t rank, char *scratch,
                                const char *where, struct lq_error *err)
{
    const char *blank = merge->length < 3 ? NULL : memchr(merge->data + 1, ' ', merge->length - 2);
    if (blank == NULL) {
        return lq_error_set(err, LQ_EFORMAT,
                            "%s: merge %u '%.80s' is not two tokens separated by a blank", where,
                            rank, merge->data);
    }
    size_t left_text = (size_t)(blank - merge->data);
    size_t left_length = 0;
    size_t right_length = 0;
    /* What stands for no bytes can never occur in a text. */
    if (!decode(map, merge->data, left_text, scratch, &left_length) ||
        !decode(map, blank + 1, merge->length - left_text - 1, scratch + left_length,
                &right_length)) {
        return LQ_OK;
    }
    int32_t left = -1;
    int32_t right = -1;
    int32_t merged = -1;
    enum lq_status status = find_half(vocab, scratch, left_length, &left, err);
    if (status == LQ_OK) {
        status = find_half(vocab, scratch + left_length, right_length, &right, err);
    }
    if (status == LQ_OK) {
        status = find_half(vocab, scratch, left_length + right_length, &merged, err);
    }
    if (status == LQ_OK) {
        lq_pair_table_add(&vocab->merges, left, right, rank, merged);
    }
    return status;
}

static enum lq_status add_merges(struct lq_vocab *vocab, const struct byte_map *map,
                                 const struct lq_gguf_value *merges, const char *where,
                                 struct lq_error *err)
{
    size_t longest = 0;
    for (uint64_t i = 0; i < merges->count; i++) {
        longest = merges->strings[i].length > longest ? merges->strings[i].length : longest;
    }
    char *scratch = lq_arena_get(&vocab->arena, longest + 1);
    if (scratch == NULL || !lq_pair_table_init(&vocab->merges, (size_t)merges->count)) {
        return lq_error_nomem(err, "vocabulary");
    }
    for (uint64_t i = 0; i < merges->count; i++) {
        enum lq_status status =
            add_merge(vocab, map, &merges->strings[i], (uint32_t)i, scratch, where, err);
        if (status != LQ_OK) {
            return status;
        }
    }
    return LQ_OK;
}

enum lq_status lq_bpe_load(struct lq_vocab *vocab, const struct lq_gguf *gguf, const char *where,
                           struct lq_error *err)
{
    const struct lq_gguf_value *merges = lq_gguf_find(gguf, "tokenizer.ggml.merges");
    if (merges == NULL || merges->type != LQ_GGUF_ARRAY || merges->element_type != LQ_GGUF_STRING ||
        merges->count == 0) {
        return lq_error_set(err, LQ_EFORMAT,
                            "%s: the byte-level tokenizer has no merges (tokenizer.ggml.merges); "
                            "convert the model again with a tokenizer.json that has them",
                            where);
    }
    if (merges->count > LQ_MERGES_MAX) {
        return lq_error_set(err, LQ_EFORMAT, "%s: %llu merges exceed the limit of %d", where,
                            (unsigned long long)merges->count, LQ_MERGES_MAX);
    }
    const char *name = lq_gguf_get_string(gguf, "tokenizer.ggml.pre");
    enum lq_status status =
        lq_pretokenizer_create(&vocab->pre, name == NULL ? "default" : name, err);
    if (status != LQ_OK) {
        return lq_error_prefix(err, "%s", where);
    }
    /* A merge adds at most three symbols, a byte at most one. */
    if (!lq_token_table_init(&vocab->table, vocab->size + 3 * (size_t)merges->count + 256)) {
        return lq_error_nomem(err, "vocabulary");
    }
    struct byte_map map;
    make_byte_map(&map);
    status = add_tokens(vocab, &map, where, err);
    if (status == LQ_OK) {
        status = add_merges(vocab, &map, merges, where, err);
    }
    for (unsigned byte = 0; byte < 256 && status == LQ_OK; byte++) {
        char c = (char)byte;
        status = find_half(vocab, &c, 1, &vocab->byte_symbols[byte], err);
    }
    vocab->add_bos = lq_pretokenizer_adds_bos(vocab->pre);
    return status;
}

bool lq_bpe_find_merge(const struct lq_vocab *vocab, const struct lq_symbol *left,
                       const struct lq_symbol *right, uint32_t *priority, int32_t *merged)
{
    const struct lq_token_pair *pair = lq_pair_table_find(&vocab->merges, left->id, right->id);
    if (pair == NULL) {
        return false;
    }
    *priority = pair->rank;
    *merged = pair->merged;
    return true;
}
