/* The synthetic vocabulary of make_model: byte-level BPE behind Llama 3's pre-tokenizer. The 256
 * byte tokens come first, then words of lower-case letters by length and by frequency of their
 * letters, each made from the word without its last letter and that letter, so every merge is
 * reachable; the last three ids are begin, end and padding. English text comes to about three
 * letters a token. Memory from the arena. Thread rule: pure, per object. Limits: MAKE_VOCAB_MIN to
 * MAKE_VOCAB_MAX. */
#ifndef LQ_TESTS_MAKE_MODEL_VOCAB_H
#define LQ_TESTS_MAKE_MODEL_VOCAB_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "engine/base/arena.h"
#include "engine/base/json.h"
#include "rules/format/gguf.h"

enum {
    MAKE_BYTE_COUNT = 256,
    MAKE_SPECIAL_COUNT = 3,
    MAKE_VOCAB_MIN = MAKE_BYTE_COUNT + MAKE_SPECIAL_COUNT + 1,
    MAKE_VOCAB_MAX = 500000,
    MAKE_LETTERS = 26,
    MAKE_TEXT_BYTES = 16,
};

#define MAKE_PATTERN                                                                               \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "                     \
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

struct make_vocab {
    struct lq_gguf_string *tokens; /* in the byte-level alphabet */
    struct lq_gguf_string *merges; /* "left right" */
    uint32_t *types;
    uint32_t token_count;
    uint32_t merge_count;
};

static const char *const make_specials[MAKE_SPECIAL_COUNT] = {"<|begin_of_text|>",
                                                              "<|end_of_text|>", "<|pad|>"};

/* The character that stands for a byte: printable ones for themselves, the others for the code
 * points from 256 on, in order (GPT-2's alphabet). */
static inline size_t make_byte_text(unsigned byte, char *out)
{
    unsigned code = byte;
    bool printable = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
    if (!printable) {
        code = 256 + (byte <= 32 ? byte : byte <= 160 ? byte - 127 + 33 : 67);
    }
    if (code < 128) {
        out[0] = (char)code;
        return 1;
    }
    out[0] = (char)(0xc0 | code >> 6);
    out[1] = (char)(0x80 | (code & 63));
    return 2;
}

static inline struct lq_gguf_string make_text(struct lq_arena *arena, const char *text,
                                              size_t length)
{
    char *copy = lq_arena_get(arena, length + 1);
    if (copy != NULL) {
        memcpy(copy, text, length);
    }
    return (struct lq_gguf_string){copy, copy == NULL ? 0 : length};
}

/* Adds all words of one length, with or without a space in front, until the vocabulary is full. */
static inline void make_words(struct make_vocab *vocab, struct lq_arena *arena, bool space,
                              unsigned length, uint32_t room)
{
    static const char letters[] = "etaoinshrdlcumwfgypbvkjxqz";
    uint64_t count = 1;
    for (unsigned i = 0; i < length; i++) {
        count *= MAKE_LETTERS;
    }
    for (uint64_t word = 0; word < count && vocab->merge_count < room; word++) {
        char text[MAKE_TEXT_BYTES];
        size_t start = space ? make_byte_text(' ', text) : 0;
        uint64_t rest = word;
        for (unsigned i = length; i > 0; i--) {
            text[start + i - 1] = letters[rest % MAKE_LETTERS];
            rest /= MAKE_LETTERS;
        }
        size_t end = start + length;
        vocab->tokens[vocab->token_count] = make_text(arena, text, end);
        vocab->types[vocab->token_count++] = 1;
        text[end] = text[end - 1];
        text[end - 1] = ' ';
        vocab->merges[vocab->merge_count++] = make_text(arena, text, end + 1);
    }
}

static inline bool make_vocab_init(struct make_vocab *vocab, struct lq_arena *arena, uint32_t size)
{
    static const struct {
        bool space;
        unsigned length;
    } levels[] = {{true, 1}, {true, 2}, {true, 3}, {false, 2}, {false, 3}, {true, 4}};
    memset(vocab, 0, sizeof *vocab);
    vocab->tokens = lq_arena_get_array(arena, size, sizeof *vocab->tokens);
    vocab->merges = lq_arena_get_array(arena, size, sizeof *vocab->merges);
    vocab->types = lq_arena_get_array(arena, size, sizeof *vocab->types);
    if (vocab->tokens == NULL || vocab->merges == NULL || vocab->types == NULL) {
        return false;
    }
    for (unsigned byte = 0; byte < MAKE_BYTE_COUNT; byte++) {
        char text[MAKE_TEXT_BYTES];
        size_t length = make_byte_text(byte, text);
        vocab->tokens[vocab->token_count] = make_text(arena, text, length);
        vocab->types[vocab->token_count++] = 1;
    }
    for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++) {
        make_words(vocab, arena, levels[i].space, levels[i].length,
                   size - MAKE_BYTE_COUNT - MAKE_SPECIAL_COUNT);
    }
    for (int i = 0; i < MAKE_SPECIAL_COUNT; i++) {
        vocab->tokens[vocab->token_count] =
            make_text(arena, make_specials[i], strlen(make_specials[i]));
        vocab->types[vocab->token_count++] = 3;
    }
    for (uint32_t i = 0; i < vocab->token_count; i++) {
        if (vocab->tokens[i].data == NULL ||
            (i < vocab->merge_count && vocab->merges[i].data == NULL)) {
            return false;
        }
    }
    return vocab->token_count == size;
}

static inline void make_vocab_put(const struct make_vocab *vocab, struct lq_gguf_writer *writer)
{
    uint32_t first_special = vocab->token_count - MAKE_SPECIAL_COUNT;
    lq_gguf_put_string(writer, "tokenizer.ggml.model", "gpt2");
    lq_gguf_put_string(writer, "tokenizer.ggml.pre", "llama-bpe");
    lq_gguf_put_strings(writer, "tokenizer.ggml.tokens", vocab->tokens, vocab->token_count);
    lq_gguf_put_array(writer, "tokenizer.ggml.token_type", LQ_GGUF_I32, vocab->types,
                      vocab->token_count);
    lq_gguf_put_strings(writer, "tokenizer.ggml.merges", vocab->merges, vocab->merge_count);
    lq_gguf_put_u32(writer, "tokenizer.ggml.bos_token_id", first_special);
    lq_gguf_put_u32(writer, "tokenizer.ggml.eos_token_id", first_special + 1);
    lq_gguf_put_u32(writer, "tokenizer.ggml.padding_token_id", first_special + 2);
    lq_gguf_put_bool(writer, "tokenizer.ggml.add_bos_token", true);
    lq_gguf_put_bool(writer, "tokenizer.ggml.add_eos_token", false);
}

static inline void make_vocab_specials(const struct make_vocab *vocab,
                                       struct lq_json_writer *writer)
{
    lq_json_key(writer, "added_tokens");
    lq_json_begin_array(writer);
    for (uint32_t i = 0; i < MAKE_SPECIAL_COUNT; i++) {
        lq_json_begin_object(writer);
        lq_json_put_int(writer, "id", (int64_t)vocab->token_count - MAKE_SPECIAL_COUNT + i);
        lq_json_put_string(writer, "content", make_specials[i]);
        lq_json_put_bool(writer, "single_word", false);
        lq_json_put_bool(writer, "lstrip", false);
        lq_json_put_bool(writer, "rstrip", false);
        lq_json_put_bool(writer, "normalized", false);
        lq_json_put_bool(writer, "special", true);
        lq_json_end_object(writer);
    }
    lq_json_end_array(writer);
}

static inline void make_vocab_splitter(struct lq_json_writer *writer)
{
    lq_json_key(writer, "pre_tokenizer");
    lq_json_begin_object(writer);
    lq_json_put_string(writer, "type", "Sequence");
    lq_json_key(writer, "pretokenizers");
    lq_json_begin_array(writer);
    lq_json_begin_object(writer);
    lq_json_put_string(writer, "type", "Split");
    lq_json_key(writer, "pattern");
    lq_json_begin_object(writer);
    lq_json_put_string(writer, "Regex", MAKE_PATTERN);
    lq_json_end_object(writer);
    lq_json_put_string(writer, "behavior", "Isolated");
    lq_json_put_bool(writer, "invert", false);
    lq_json_end_object(writer);
    lq_json_begin_object(writer);
    lq_json_put_string(writer, "type", "ByteLevel");
    lq_json_put_bool(writer, "add_prefix_space", false);
    lq_json_put_bool(writer, "trim_offsets", true);
    lq_json_put_bool(writer, "use_regex", false);
    lq_json_end_object(writer);
    lq_json_end_array(writer);
    lq_json_end_object(writer);
}

/* tokenizer.json of the Hugging Face folder. */
static inline void make_vocab_json(const struct make_vocab *vocab, struct lq_buffer *out)
{
    struct lq_json_writer writer;
    lq_json_writer_init(&writer, out, true);
    lq_json_begin_object(&writer);
    lq_json_put_string(&writer, "version", "1.0");
    make_vocab_specials(vocab, &writer);
    lq_json_key(&writer, "normalizer");
    lq_json_null(&writer);
    make_vocab_splitter(&writer);
    lq_json_key(&writer, "model");
    lq_json_begin_object(&writer);
    lq_json_put_string(&writer, "type", "BPE");
    lq_json_key(&writer, "vocab");
    lq_json_begin_object(&writer);
    for (uint32_t i = 0; i + MAKE_SPECIAL_COUNT < vocab->token_count; i++) {
        lq_json_put_int(&writer, vocab->tokens[i].data, i);
    }
    lq_json_end_object(&writer);
    lq_json_key(&writer, "merges");
    lq_json_begin_array(&writer);
    for (uint32_t i = 0; i < vocab->merge_count; i++) {
        lq_json_string(&writer, vocab->merges[i].data);
    }
    lq_json_end_array(&writer);
    lq_json_end_object(&writer);
    lq_json_end_object(&writer);
}

#endif
