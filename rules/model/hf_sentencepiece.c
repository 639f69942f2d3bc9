/* tokenizer.model: SentencePiece's pieces and scores as they are, with the tokens that
 * added_tokens.json and tokenizer_config.json (added_tokens_decoder) add behind or put over them.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/base/limits.h"
#include "rules/model/hf_tokenizer.h"
#include "rules/model/sentencepiece.h"
#include "rules/model/vocab.h"

#define FILE_NAME "tokenizer.model"

/* Scores of tokens that no merge makes, as llama.cpp's converter writes them. */
static const float added_score = -1000.0f;
static const float unused_score = -10000.0f;

/* One token of the two files. */
struct added {
    int64_t id;
    const char *text;
    const cJSON *token; /* may be NULL: nothing more is known about it */
    const char *where;
};

typedef enum lq_status (*added_fn)(void *user, const struct added *added, struct lq_error *err);

static enum lq_status bad_id(const struct added *added, struct lq_error *err)
{
    return lq_error_set(err, LQ_EFORMAT,
                        "%s: the id of token '%.80s' is not a whole number below %d", added->where,
                        added->text, LQ_VOCAB_MAX);
}

/* added_tokens.json: {"text": id, ...}. */
static enum lq_status each_listed(const cJSON *list, added_fn call, void *user,
                                  struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, list)
    {
        double value = cJSON_IsNumber(item) ? item->valuedouble : -1;
        struct added added = {.text = item->string, .where = "added_tokens.json"};
        if (!(value >= 0) || value >= LQ_VOCAB_MAX || (double)(int64_t)value != value) {
            return bad_id(&added, err);
        }
        added.id = (int64_t)value;
        status = status == LQ_OK ? call(user, &added, err) : status;
    }
    return status;
}

/* tokenizer_config.json: "added_tokens_decoder": {"id": {"content": "text", ...}, ...}. */
static enum lq_status each_decoded(const cJSON *config, added_fn call, void *user,
                                   struct lq_error *err)
{
    const struct lq_json_scope scope = {.where = "tokenizer_config.json", .status = LQ_EFORMAT};
    const cJSON *list = NULL;
    bool found = false;
    enum lq_status status =
        lq_json_get_object(&scope, config, "added_tokens_decoder", &list, &found, err);
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, list)
    {
        struct added added = {.token = item, .where = scope.where};
        status = status == LQ_OK
                     ? lq_json_get_string(&scope, item, "content", &added.text, NULL, err)
                     : status;
        if (status != LQ_OK) {
            return lq_error_prefix(err, "added_tokens_decoder");
        }
        size_t digits = strspn(item->string, "0123456789");
        if (digits == 0 || digits > 8 || item->string[digits] != '\0') {
            return bad_id(&added, err);
        }
        added.id = strtol(item->string, NULL, 10);
        status = added.id < LQ_VOCAB_MAX ? call(user, &added, err) : bad_id(&added, err);
    }
    return status;
}

static enum lq_status each_added(const struct lq_hf_documents *documents, added_fn call, void *user,
                                 struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    if (documents->added_tokens != NULL) {
        status = each_listed(documents->added_tokens, call, user, err);
    }
    if (status == LQ_OK && documents->tokenizer_config != NULL) {
        status = each_decoded(documents->tokenizer_config, call, user, err);
    }
    return status;
}

static enum lq_status find_largest(void *user, const struct added *added, struct lq_error *err)
{
    int64_t *largest = user;
    (void)err;
    *largest = added->id > *largest ? added->id : *largest;
    return LQ_OK;
}

struct draft {
    struct lq_hf_vocab *vocab;
    struct lq_arena *arena;
};

static enum lq_status put_token(const struct draft *draft, int64_t id, const char *text,
                                size_t length, float score, int32_t type, struct lq_error *err)
{
    struct lq_gguf_string *slot = &draft->vocab->texts[id];
    *slot = (struct lq_gguf_string){.data = text, .length = length};
    draft->vocab->scores[id] = score;
    draft->vocab->types[id] = type;
    return type == LQ_TOKEN_USER_DEFINED ? lq_hf_unmark(slot, draft->arena, err) : LQ_OK;
}

static enum lq_status put_added(void *user, const struct added *added, struct lq_error *err)
{
    const struct draft *draft = user;
    if ((uint64_t)added->id >= draft->vocab->count) {
        return LQ_OK;
    }
    if (added->text[0] == '\0') {
        return lq_error_set(err, LQ_EFORMAT, "%s: token %lld has no text", added->where,
                            (long long)added->id);
    }
    int32_t before = draft->vocab->types[added->id];
    bool control = lq_hf_is_control(added->text, added->token);
    int32_t type = before == LQ_TOKEN_UNKNOWN ? LQ_TOKEN_UNKNOWN
                   : control                  ? LQ_TOKEN_CONTROL
                                              : LQ_TOKEN_USER_DEFINED;
    lq_hf_vocab_strip(draft->vocab, added->id, added->token);
    return put_token(draft, added->id, added->text, strlen(added->text), added_score, type, err);
}

static enum lq_status fill(const struct lq_hf_documents *documents,
                           const struct lq_sentencepiece_model *model, struct draft *draft,
                           struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < draft->vocab->count; i++) {
        draft->vocab->scores[i] = unused_score;
    }
    for (size_t i = 0; i < model->count && status == LQ_OK; i++) {
        const struct lq_sentencepiece *piece = &model->pieces[i];
        status = put_token(draft, (int64_t)i, piece->text, piece->length, piece->score, piece->type,
                           err);
    }
    if (status == LQ_OK) {
        status = each_added(documents, put_added, draft, err);
    }
    return status == LQ_OK ? lq_hf_vocab_pad(draft->vocab, draft->arena, err) : status;
}

/* The number of tokens: what the embedding has rows for, else one more than the largest id. */
static enum lq_status count_tokens(const struct lq_hf_documents *documents, size_t piece_count,
                                   uint64_t vocab_size, size_t *count, struct lq_error *err)
{
    int64_t largest = (int64_t)piece_count - 1;
    if (vocab_size != 0 && piece_count > vocab_size) {
        return lq_error_set(err, LQ_EFORMAT,
                            FILE_NAME ": the tokenizer has %zu pieces, but config.json says "
                                      "vocab_size %llu; the files belong to different models",
                            piece_count, (unsigned long long)vocab_size);
    }
    enum lq_status status = each_added(documents, find_largest, &largest, err);
    *count = vocab_size != 0 ? (size_t)vocab_size : (size_t)largest + 1;
    return status;
}

/* What GGUF has no key for in its "llama" models stands in our own key. */
static void take_normalizer(const struct lq_sentencepiece_model *model,
                            struct lq_hf_text_rules *rules)
{
    static const char *const steps[2][2] = {
        {NULL, "[{\"type\":\"ExtraBlanks\"}]"},
        {"[{\"type\":\"Precompiled\"}]", "[{\"type\":\"Precompiled\"},{\"type\":\"ExtraBlanks\"}]"},
    };
    bool unigram = model->kind == LQ_SENTENCEPIECE_UNIGRAM;
    rules->kind = unigram ? LQ_HF_UNIGRAM : LQ_HF_SENTENCE_PIECE;
    rules->map = (struct lq_hf_text){model->map, model->map_bytes};
    rules->squeezes_blanks = model->squeezes_blanks;
    if (!unigram) {
        rules->normalizer = steps[model->map != NULL][model->squeezes_blanks];
    }
}

static void take_roles(const struct lq_sentencepiece_model *model, const cJSON *config,
                       struct lq_hf_vocab *vocab)
{
    vocab->roles[LQ_HF_BOS] = model->bos;
    vocab->roles[LQ_HF_EOS] = model->eos;
    vocab->roles[LQ_HF_UNKNOWN] = model->unknown;
    vocab->roles[LQ_HF_PADDING] = model->pad;
    /* What these tokenizers do unless tokenizer_config.json has another word. */
    vocab->adds_bos = model->bos >= 0;
    vocab->rules.pre = "default";
    take_normalizer(model, &vocab->rules);
    const cJSON *prefix = config == NULL ? NULL : lq_json_find(config, "add_prefix_space");
    vocab->rules.add_space_prefix =
        cJSON_IsBool(prefix) ? cJSON_IsTrue(prefix) : model->add_dummy_prefix;
}

enum lq_status lq_hf_sentencepiece_read(const struct lq_hf_documents *documents,
                                        uint64_t vocab_size, struct lq_arena *arena,
                                        struct lq_hf_vocab *vocab, struct lq_error *err)
{
    struct lq_sentencepiece_model model;
    struct draft draft = {.vocab = vocab, .arena = arena};
    size_t count = 0;
    enum lq_status status =
        lq_sentencepiece_parse(documents->sentencepiece.data, documents->sentencepiece.size_bytes,
                               FILE_NAME, arena, &model, err);
    if (status == LQ_OK) {
        status = count_tokens(documents, model.count, vocab_size, &count, err);
    }
    if (status == LQ_OK) {
        status = lq_hf_vocab_init(vocab, count, arena, err);
    }
    if (status == LQ_OK) {
        status = fill(documents, &model, &draft, err);
    }
    if (status == LQ_OK) {
        take_roles(&model, documents->tokenizer_config, vocab);
    }
    return status;
}
