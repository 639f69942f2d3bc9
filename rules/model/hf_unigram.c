/* tokenizer.json of a unigram model: its vocabulary is a list of texts and scores. */
#include <math.h>
#include <string.h>

#include "engine/base/limits.h"
#include "rules/model/hf_tokenizer.h"
#include "rules/model/vocab.h"

#define FILE_NAME "tokenizer.json"

bool lq_hf_is_unigram(const cJSON *model)
{
    const cJSON *type = lq_json_find(model, "type");
    return cJSON_IsString(type) && strcmp(type->valuestring, "Unigram") == 0;
}

static enum lq_status put_piece(struct lq_hf_vocab *vocab, size_t id, const cJSON *piece,
                                bool byte_fallback, struct lq_error *err)
{
    const cJSON *text = cJSON_IsArray(piece) ? piece->child : NULL;
    const cJSON *score = text == NULL ? NULL : text->next;
    if (score == NULL || score->next != NULL || !cJSON_IsString(text) ||
        text->valuestring[0] == '\0' || !cJSON_IsNumber(score) || !isfinite(score->valuedouble)) {
        return lq_error_set(err, LQ_EFORMAT,
                            FILE_NAME ": model.vocab[%zu] is not a text and its score", id);
    }
    bool is_byte = byte_fallback && lq_hf_is_byte_text(text->valuestring);
    vocab->texts[id] = (struct lq_gguf_string){text->valuestring, strlen(text->valuestring)};
    vocab->scores[id] = (float)score->valuedouble;
    vocab->types[id] = is_byte ? LQ_TOKEN_BYTE : LQ_TOKEN_NORMAL;
    return LQ_OK;
}

static enum lq_status put_added(struct lq_hf_vocab *vocab, const cJSON *token,
                                struct lq_arena *arena, struct lq_error *err)
{
    const struct lq_json_scope scope = {.where = FILE_NAME, .status = LQ_EFORMAT};
    const char *text = NULL;
    int64_t id = 0;
    enum lq_status status = lq_json_get_string(&scope, token, "content", &text, NULL, err);
    if (status == LQ_OK) {
        status = lq_json_get_int(&scope, token, "id", 0, (int64_t)vocab->count - 1, &id, NULL, err);
    }
    if (status != LQ_OK) {
        return lq_error_prefix(err, "added_tokens");
    }
    bool unknown = id == vocab->roles[LQ_HF_UNKNOWN];
    vocab->texts[id] = (struct lq_gguf_string){text, strlen(text)};
    vocab->types[id] = unknown                         ? LQ_TOKEN_UNKNOWN
                       : lq_hf_is_control(text, token) ? LQ_TOKEN_CONTROL
                                                       : LQ_TOKEN_USER_DEFINED;
    lq_hf_vocab_strip(vocab, id, token);
    return vocab->types[id] == LQ_TOKEN_USER_DEFINED ? lq_hf_unmark(&vocab->texts[id], arena, err)
                                                     : LQ_OK;
}

/* The rows of the embedding, or what the tokenizer has where nothing says. */
static enum lq_status count_tokens(const cJSON *pieces, const cJSON *added, uint64_t vocab_size,
                                   size_t *count, struct lq_error *err)
{
    int64_t needed = cJSON_GetArraySize(pieces);
    const cJSON *token = NULL;
    if (needed == 0) {
        return lq_error_set(err, LQ_EFORMAT, FILE_NAME ": model.vocab is empty");
    }
    cJSON_ArrayForEach(token, added)
    {
        const cJSON *id = lq_json_find(token, "id");
        bool larger = cJSON_IsNumber(id) && id->valuedouble >= (double)needed &&
                      id->valuedouble < LQ_VOCAB_MAX;
        needed = larger ? (int64_t)id->valuedouble + 1 : needed;
    }
    if (needed > LQ_VOCAB_MAX || (vocab_size != 0 && (uint64_t)needed > vocab_size)) {
        return lq_error_set(err, LQ_EFORMAT,
                            FILE_NAME ": %lld tokens, but there is room for %llu; the files belong "
                                      "to different models",
                            (long long)needed,
                            (unsigned long long)(vocab_size != 0 ? vocab_size : LQ_VOCAB_MAX));
    }
    *count = vocab_size != 0 ? (size_t)vocab_size : (size_t)needed;
    return LQ_OK;
}

static enum lq_status fill(const cJSON *model, const cJSON *pieces, const cJSON *added,
                           struct lq_arena *arena, struct lq_hf_vocab *vocab, struct lq_error *err)
{
    const cJSON *unknown = lq_json_find(model, "unk_id");
    bool fallback = cJSON_IsTrue(lq_json_find(model, "byte_fallback"));
    enum lq_status status = LQ_OK;
    size_t id = 0;
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, pieces)
    {
        status = status == LQ_OK ? put_piece(vocab, id++, item, fallback, err) : status;
    }
    if (cJSON_IsNumber(unknown) && unknown->valuedouble >= 0 && unknown->valuedouble < (double)id) {
        vocab->roles[LQ_HF_UNKNOWN] = (int64_t)unknown->valuedouble;
        vocab->types[vocab->roles[LQ_HF_UNKNOWN]] = LQ_TOKEN_UNKNOWN;
    }
    cJSON_ArrayForEach(item, added)
    {
        status = status == LQ_OK ? put_added(vocab, item, arena, err) : status;
    }
    if (status == LQ_OK) {
        lq_hf_mark_second(vocab, added);
    }
    return status == LQ_OK ? lq_hf_vocab_pad(vocab, arena, err) : status;
}

enum lq_status lq_hf_unigram_read(const struct lq_hf_documents *documents, uint64_t vocab_size,
                                  struct lq_arena *arena, struct lq_hf_vocab *vocab,
                                  struct lq_error *err)
{
    const struct lq_json_scope scope = {.where = FILE_NAME, .status = LQ_EFORMAT};
    const cJSON *model = NULL;
    const cJSON *pieces = NULL;
    const cJSON *added = NULL;
    bool has_added = false;
    size_t count = 0;
    enum lq_status status =
        lq_json_get_object(&scope, documents->tokenizer, "model", &model, NULL, err);
    if (status == LQ_OK) {
        status = lq_json_get_array(&scope, model, "vocab", &pieces, NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_array(&scope, documents->tokenizer, "added_tokens", &added, &has_added,
                                   err);
    }
    if (status == LQ_OK) {
        status = count_tokens(pieces, added, vocab_size, &count, err);
    }
    if (status == LQ_OK) {
        status = lq_hf_vocab_init(vocab, count, arena, err);
    }
    if (status == LQ_OK) {
        status = lq_hf_text_rules_find(documents->tokenizer, arena, &vocab->rules, err);
    }
    return status == LQ_OK ? fill(model, pieces, added, arena, vocab, err) : status;
}
