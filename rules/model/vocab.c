#include "rules/model/vocab.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/limits.h"
#include "rules/model/vocab_parts.h"

static enum lq_status load_texts(struct lq_vocab *vocab, const struct lq_gguf *gguf,
                                 const char *where, struct lq_error *err)
{
    const struct lq_gguf_value *tokens = lq_gguf_find(gguf, "tokenizer.ggml.tokens");
    if (tokens == NULL || tokens->type != LQ_GGUF_ARRAY || tokens->element_type != LQ_GGUF_STRING ||
        tokens->count == 0) {
        return lq_error_set(err, LQ_EFORMAT,
                            "%s: no tokens (tokenizer.ggml.tokens); the file has no vocabulary",
                            where);
    }
    if (tokens->count > LQ_VOCAB_MAX) {
        return lq_error_set(err, LQ_EFORMAT, "%s: %llu tokens exceed the limit of %d", where,
                            (unsigned long long)tokens->count, LQ_VOCAB_MAX);
    }
    vocab->size = (size_t)tokens->count;
    vocab->texts = lq_arena_get_array(&vocab->arena, vocab->size, sizeof *vocab->texts);
    vocab->pieces = lq_arena_get_array(&vocab->arena, vocab->size, sizeof *vocab->pieces);
    vocab->types = lq_arena_get(&vocab->arena, vocab->size);
    if (vocab->texts == NULL || vocab->pieces == NULL || vocab->types == NULL) {
        return lq_error_nomem(err, "vocabulary");
    }
    for (size_t i = 0; i < vocab->size; i++) {
        const struct lq_gguf_string *text = &tokens->strings[i];
        char *copy = lq_arena_dup(&vocab->arena, text->data, text->length);
        if (copy == NULL) {
            return lq_error_nomem(err, "vocabulary");
        }
        vocab->texts[i] = (struct lq_token_bytes){.data = copy, .length = text->length};
        vocab->types[i] = LQ_TOKEN_NORMAL;
    }
    return LQ_OK;
}

static enum lq_status load_types(struct lq_vocab *vocab, const struct lq_gguf *gguf,
                                 const char *where, struct lq_error *err)
{
    const struct lq_gguf_value *types = lq_gguf_find(gguf, "tokenizer.ggml.token_type");
    if (types == NULL) {
        return LQ_OK;
    }
    if (types->type != LQ_GGUF_ARRAY || types->count != vocab->size ||
        (types->element_type != LQ_GGUF_I32 && types->element_type != LQ_GGUF_U32)) {
        return lq_error_set(
            err, LQ_EFORMAT,
            "%s: tokenizer.ggml.token_type must be an array of %zu integers, one per token", where,
            vocab->size);
    }
    for (size_t i = 0; i < vocab->size; i++) {
        int32_t type = 0;
        memcpy(&type, (const char *)types->elements + i * sizeof type, sizeof type);
        if (type < LQ_TOKEN_NORMAL || type > LQ_TOKEN_BYTE) {
            type = LQ_TOKEN_UNUSED;
        }
        vocab->types[i] = (uint8_t)type;
    }
    return LQ_OK;
}

static enum lq_status load_strips(struct lq_vocab *vocab, const struct lq_gguf *gguf,
                                  const char *where, struct lq_error *err)
{
    const struct lq_gguf_value *strips = lq_gguf_find(gguf, LQ_VOCAB_STRIPS_KEY);
    if (strips == NULL) {
        return LQ_OK;
    }
    if (strips->type != LQ_GGUF_ARRAY || strips->element_type != LQ_GGUF_U8 ||
        strips->count != vocab->size) {
        return lq_error_set(err, LQ_EFORMAT,
                            "%s: " LQ_VOCAB_STRIPS_KEY
                            " must be an array of %zu bytes, one per token",
                            where, vocab->size);
    }
    vocab->strips = (uint8_t *)lq_arena_dup(&vocab->arena, strips->elements, vocab->size);
    if (vocab->strips == NULL) {
        return lq_error_nomem(err, "vocabulary");
    }
    uint8_t all = 0;
    for (size_t i = 0; i < vocab->size; i++) {
        all |= vocab->strips[i];
    }
    vocab->two_passes = (all & LQ_TOKEN_SECOND) != 0;
    return (all & LQ_TOKEN_WHOLE_WORD) != 0 ? lq_word_class_create(&vocab->words, err) : LQ_OK;
}

static enum lq_status load_id(const struct lq_vocab *vocab, const struct lq_gguf *gguf,
                              const char *key, const char *where, int32_t *id, struct lq_error *err)
{
    uint64_t value = lq_gguf_get_uint(gguf, key, UINT64_MAX);
    *id = -1;
    if (value == UINT64_MAX) {
        return LQ_OK;
    }
    if (value >= vocab->size) {
        return lq_error_set(err, LQ_EFORMAT, "%s: %s is %llu, but there are only %zu tokens", where,
                            key, (unsigned long long)value, vocab->size);
    }
    *id = (int32_t)value;
    return LQ_OK;
}

static enum lq_status load_ids(struct lq_vocab *vocab, const struct lq_gguf *gguf,
                               const char *where, struct lq_error *err)
{
    enum lq_status status =
        load_id(vocab, gguf, "tokenizer.ggml.bos_token_id", where, &vocab->bos, err);
    if (status == LQ_OK) {
        status = load_id(vocab, gguf, "tokenizer.ggml.eos_token_id", where, &vocab->eos, err);
    }
    if (status == LQ_OK) {
        status =
            load_id(vocab, gguf, "tokenizer.ggml.unknown_token_id", where, &vocab->unknown, err);
    }
    return status;
}

/* Flags that the file states win over what is usual for the kind. */
static enum lq_status load_flags(struct lq_vocab *vocab, const struct lq_gguf *gguf,
                                 const char *where, struct lq_error *err)
{
    bool states_bos = lq_gguf_find(gguf, "tokenizer.ggml.add_bos_token") != NULL;
    vocab->add_bos = lq_gguf_get_bool(gguf, "tokenizer.ggml.add_bos_token", vocab->add_bos);
    vocab->add_eos = lq_gguf_get_bool(gguf, "tokenizer.ggml.add_eos_token", vocab->add_eos);
    if (!states_bos && vocab->bos < 0) {
        vocab->add_bos = false;
    }
    if (lq_gguf_find(gguf, "tokenizer.ggml.add_eos_token") == NULL && vocab->eos < 0) {
        vocab->add_eos = false;
    }
    if ((vocab->add_bos && vocab->bos < 0) || (vocab->add_eos && vocab->eos < 0)) {
        return lq_error_set(err, LQ_EFORMAT,
                            "%s: the tokenizer adds %s, but tokenizer.ggml.%s_token_id is missing",
                            where, vocab->add_bos && vocab->bos < 0 ? "BOS" : "EOS",
                            vocab->add_bos && vocab->bos < 0 ? "bos" : "eos");
    }
    return LQ_OK;
}

/* qsort has no user argument, so the entries carry what is compared. */
struct special {
    const struct lq_token_bytes *text;
    int32_t id;
};

static int compare_specials(const void *a, const void *b)
{
    const struct special *x = a;
    const struct special *y = b;
    unsigned char first_x = (unsigned char)x->text->data[0];
    unsigned char first_y = (unsigned char)y->text->data[0];
    if (first_x != first_y) {
        return first_x < first_y ? -1 : 1;
    }
    if (x->text->length != y->text->length) {
        return x->text->length > y->text->length ? -1 : 1;
    }
    return x->id < y->id ? -1 : 1;
}

static bool is_special(const struct lq_vocab *vocab, size_t id)
{
    uint8_t type = vocab->types[id];
    return vocab->texts[id].length > 0 &&
           (type == LQ_TOKEN_CONTROL || type == LQ_TOKEN_USER_DEFINED || type == LQ_TOKEN_UNKNOWN);
}

static enum lq_status load_specials(struct lq_vocab *vocab, struct lq_error *err)
{
    size_t count = 0;
    for (size_t i = 0; i < vocab->size; i++) {
        count += is_special(vocab, i);
    }
    struct special *specials = lq_arena_get_array(&vocab->arena, count + 1, sizeof *specials);
    vocab->special_ids = lq_arena_get_array(&vocab->arena, count + 1, sizeof *vocab->special_ids);
    if (specials == NULL || vocab->special_ids == NULL) {
        return lq_error_nomem(err, "vocabulary");
    }
    count = 0;
    for (size_t i = 0; i < vocab->size; i++) {
        if (is_special(vocab, i)) {
            specials[count++] = (struct special){.text = &vocab->texts[i], .id = (int32_t)i};
        }
    }
    qsort(specials, count, sizeof *specials, compare_specials);
    size_t next = 0;
    for (size_t byte = 0; byte < 256; byte++) {
        vocab->special_start[byte] = next;
        while (next < count && (unsigned char)specials[next].text->data[0] == byte) {
            vocab->special_ids[next] = specials[next].id;
            next++;
        }
    }
    vocab->special_start[256] = next;
    return LQ_OK;
}

static enum lq_status load_kind(struct lq_vocab *vocab, const struct lq_gguf *gguf,
                                const char *where, struct lq_error *err)
{
    const char *model = lq_gguf_get_string(gguf, "tokenizer.ggml.model");
    if (model == NULL) {
        return lq_error_set(err, LQ_EFORMAT,
                            "%s: no tokenizer (tokenizer.ggml.model); the file has no vocabulary",
                            where);
    }
    if (strcmp(model, "gpt2") == 0) {
        vocab->kind = LQ_VOCAB_BPE;
        return lq_bpe_load(vocab, gguf, where, err);
    }
    if (strcmp(model, "llama") == 0) {
        vocab->kind = LQ_VOCAB_SPM;
        return lq_spm_load(vocab, gguf, where, err);
    }
    if (strcmp(model, "t5") == 0) {
        vocab->kind = LQ_VOCAB_UNIGRAM;
        return lq_unigram_load(vocab, gguf, where, err);
    }
    return lq_error_set(err, LQ_EUNSUPPORTED,
                        "%s: tokenizer model '%.100s' is not supported; known are gpt2 (byte-level "
                        "BPE), llama (SentencePiece BPE) and t5 (SentencePiece unigram)",
                        where, model);
}

/* Tokens that are looked for in normalized text are so as normalized text. */
static enum lq_status normalize_tokens(struct lq_vocab *vocab, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < vocab->size && vocab->two_passes && status == LQ_OK; i++) {
        struct lq_token_bytes *text = &vocab->texts[i];
        struct lq_buffer normalized;
        if ((vocab->strips[i] & LQ_TOKEN_SECOND) == 0) {
            continue;
        }
        lq_buffer_init(&normalized);
        status =
            lq_normalizer_run(vocab->normalizer, true, text->data, text->length, &normalized, err);
        if (status == LQ_OK) {
            text->length = normalized.size_bytes;
            text->data =
                lq_arena_dup(&vocab->arena, lq_buffer_text(&normalized), normalized.size_bytes);
            status = text->data == NULL ? lq_error_nomem(err, "vocabulary") : LQ_OK;
        }
        lq_buffer_fini(&normalized);
    }
    return status;
}

/* The bytes of a character map; whether they are signed is as the writer liked. */
static void find_map(const struct lq_gguf *gguf, struct lq_normalizer_map *map)
{
    const struct lq_gguf_value *value = lq_gguf_find(gguf, LQ_VOCAB_CHARSMAP_KEY);
    bool is_bytes = value != NULL && value->type == LQ_GGUF_ARRAY &&
                    (value->element_type == LQ_GGUF_U8 || value->element_type == LQ_GGUF_I8);
    *map = (struct lq_normalizer_map){.data = is_bytes && value->count > 0 ? value->elements : NULL,
                                      .size_bytes = is_bytes ? (size_t)value->count : 0};
}

/* Our own key says it all; without it a unigram model is what llama.cpp takes it for. */
static enum lq_status load_normalizer(struct lq_vocab *vocab, const struct lq_gguf *gguf,
                                      const char *where, struct lq_error *err)
{
    static const char *const usual[2][2] = {
        {NULL, "[{\"type\":\"ExtraBlanks\"}]"},
        {"[{\"type\":\"Precompiled\"}]", "[{\"type\":\"Precompiled\"},{\"type\":\"ExtraBlanks\"}]"},
    };
    struct lq_normalizer_map map;
    const char *steps = lq_gguf_get_string(gguf, LQ_VOCAB_NORMALIZER_KEY);
    find_map(gguf, &map);
    if (steps == NULL && vocab->kind == LQ_VOCAB_UNIGRAM) {
        bool squeezes = lq_gguf_get_bool(gguf, "tokenizer.ggml.remove_extra_whitespaces", false);
        steps = usual[map.data != NULL][squeezes];
    }
    if (steps == NULL) {
        return LQ_OK;
    }
    enum lq_status status =
        lq_normalizer_create(&vocab->normalizer, steps, strlen(steps), &map, where, err);
    return status == LQ_OK ? normalize_tokens(vocab, err) : status;
}

enum lq_status lq_vocab_load(struct lq_vocab **out, const struct lq_gguf *gguf, const char *where,
                             struct lq_error *err)
{
    *out = NULL;
    struct lq_vocab *vocab = calloc(1, sizeof *vocab);
    if (vocab == NULL) {
        return lq_error_nomem(err, "vocabulary");
    }
    lq_arena_init(&vocab->arena);
    memset(vocab->byte_symbols, 0xff, sizeof vocab->byte_symbols);
    enum lq_status status = load_texts(vocab, gguf, where, err);
    if (status == LQ_OK) {
        status = load_types(vocab, gguf, where, err);
    }
    if (status == LQ_OK) {
        status = load_strips(vocab, gguf, where, err);
    }
    if (status == LQ_OK) {
        status = load_ids(vocab, gguf, where, err);
    }
    if (status == LQ_OK) {
        status = load_kind(vocab, gguf, where, err);
    }
    if (status == LQ_OK) {
        status = load_normalizer(vocab, gguf, where, err);
    }
    if (status == LQ_OK) {
        status = load_flags(vocab, gguf, where, err);
    }
    if (status == LQ_OK) {
        status = load_specials(vocab, err);
    }
    if (status != LQ_OK) {
        lq_vocab_destroy(vocab);
        return status;
    }
    *out = vocab;
    return LQ_OK;
}

void lq_vocab_destroy(struct lq_vocab *vocab)
{
    if (vocab == NULL) {
        return;
    }
    lq_pretokenizer_destroy(vocab->pre);
    lq_normalizer_destroy(vocab->normalizer);
    lq_word_class_destroy(vocab->words);
    lq_pair_table_fini(&vocab->merges);
    lq_token_table_fini(&vocab->table);
    lq_arena_fini(&vocab->arena);
    free(vocab);
}

size_t lq_vocab_size(const struct lq_vocab *vocab)
{
    return vocab->size;
}

int32_t lq_vocab_bos(const struct lq_vocab *vocab)
{
    return vocab->bos;
}

int32_t lq_vocab_eos(const struct lq_vocab *vocab)
{
    return vocab->eos;
}

bool lq_vocab_adds_bos(const struct lq_vocab *vocab)
{
    return vocab->add_bos;
}

bool lq_vocab_adds_eos(const struct lq_vocab *vocab)
{
    return vocab->add_eos;
}

const char *lq_vocab_piece(const struct lq_vocab *vocab, int32_t id, size_t *length)
{
    *length = 0;
    if (id < 0 || (size_t)id >= vocab->size) {
        return NULL;
    }
    *length = vocab->pieces[id].length;
    return vocab->pieces[id].data;
}

enum lq_token_type lq_vocab_type(const struct lq_vocab *vocab, int32_t id)
{
    bool known = id >= 0 && (size_t)id < vocab->size;
    return known ? (enum lq_token_type)vocab->types[id] : LQ_TOKEN_UNUSED;
}
