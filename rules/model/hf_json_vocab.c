/* tokenizer.json: its vocabulary, added tokens and merges. */
#include <string.h>

#include "engine/base/limits.h"
#include "rules/model/hf_tokenizer.h"
#include "rules/model/token_table.h"
#include "rules/model/vocab.h"

#define FILE_NAME "tokenizer.json"

static const struct lq_json_scope scope = {.where = FILE_NAME, .status = LQ_EFORMAT};

static enum lq_status check_model(const cJSON *model, struct lq_error *err)
{
    const char *type = "BPE";
    bool found = false;
    enum lq_status status = lq_json_get_string(&scope, model, "type", &type, &found, err);
    if (status != LQ_OK) {
        return status;
    }
    if (found && strcmp(type, "BPE") != 0) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            FILE_NAME ": tokenizers of type '%.100s' are not supported; BPE and "
                                      "Unigram are",
                            type);
    }
    const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < LQ_COUNT_OF(affixes); i++) {
        const cJSON *affix = lq_json_find(model, affixes[i]);
        if (cJSON_IsString(affix) && affix->valuestring[0] != '\0') {
            return lq_error_set(err, LQ_EUNSUPPORTED,
                                FILE_NAME ": model.%s '%.50s' is not supported: GGUF has no name "
                                          "for it",
                                affixes[i], affix->valuestring);
        }
    }
    return LQ_OK;
}

/* An id as JSON has it; -1 when it is no whole number within the limit. */
static int64_t read_id(const cJSON *item)
{
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0) || item->valuedouble >= LQ_VOCAB_MAX) {
        return -1;
    }
    int64_t id = (int64_t)item->valuedouble;
    return (double)id == item->valuedouble ? id : -1;
}

static enum lq_status bad_id(const char *text, struct lq_error *err)
{
    return lq_error_set(err, LQ_EFORMAT,
                        FILE_NAME ": the id of token '%.80s' is not a whole number below %d", text,
                        LQ_VOCAB_MAX);
}

/* The number of tokens: what the embedding has rows for, else one more than the largest id. */
static enum lq_status count_tokens(const cJSON *vocab, const cJSON *added, uint64_t vocab_size,
                                   size_t *count, struct lq_error *err)
{
    int64_t largest = -1;
    const char *largest_text = "";
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, vocab)
    {
        int64_t id = read_id(item);
        if (id < 0) {
            return bad_id(item->string, err);
        }
        largest_text = id > largest ? item->string : largest_text;
        largest = id > largest ? id : largest;
    }
    cJSON_ArrayForEach(item, added)
    {
        const char *text = NULL;
        enum lq_status status = lq_json_get_string(&scope, item, "content", &text, NULL, err);
        if (status != LQ_OK) {
            return lq_error_prefix(err, "added_tokens");
        }
        int64_t id = read_id(lq_json_find(item, "id"));
        if (id < 0) {
            return bad_id(text, err);
        }
        largest_text = id > largest ? text : largest_text;
        largest = id > largest ? id : largest;
    }
    if (largest < 0) {
        return lq_error_set(err, LQ_EFORMAT, FILE_NAME ": model.vocab is empty");
    }
    if (vocab_size != 0 && (uint64_t)largest >= vocab_size) {
        return lq_error_set(err, LQ_EFORMAT,
                            FILE_NAME
                            ": token '%.80s' has id %lld, but config.json says vocab_size "
                            "%llu; the files belong to different models",
                            largest_text, (long long)largest, (unsigned long long)vocab_size);
    }
    *count = vocab_size != 0 ? (size_t)vocab_size : (size_t)largest + 1;
    return LQ_OK;
}

static enum lq_status put_text(struct lq_hf_vocab *draft, int64_t id, const char *text,
                               int32_t type, struct lq_error *err)
{
    struct lq_gguf_string *slot = &draft->texts[id];
    if (slot->data != NULL && strcmp(slot->data, text) != 0) {
        return lq_error_set(err, LQ_EFORMAT,
                            FILE_NAME ": tokens '%.80s' and '%.80s' both have id %lld", slot->data,
                            text, (long long)id);
    }
    *slot = (struct lq_gguf_string){.data = text, .length = strlen(text)};
    draft->types[id] = type;
    return LQ_OK;
}

bool lq_hf_is_byte_text(const char *text)
{
    return strlen(text) == 6 && memcmp(text, "<0x", 3) == 0 && text[5] == '>' &&
           strspn(text + 3, "0123456789ABCDEF") == 2;
}

/* Added tokens that are "normalized" are looked for in what the others leave of the text, once that
 * is normalized. Where no order and no normalizer make a difference there is nothing to say. */
void lq_hf_mark_second(struct lq_hf_vocab *draft, const cJSON *added)
{
    size_t normalized = 0;
    size_t count = 0;
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, added)
    {
        normalized += cJSON_IsTrue(lq_json_find(item, "normalized")) ? 1 : 0;
        count++;
    }
    if (normalized == 0 || (normalized == count && draft->rules.normalizer == NULL)) {
        return;
    }
    draft->has_strips = true;
    cJSON_ArrayForEach(item, added)
    {
        if (cJSON_IsTrue(lq_json_find(item, "normalized"))) {
            draft->strips[read_id(lq_json_find(item, "id"))] |= LQ_TOKEN_SECOND;
        }
    }
}

static enum lq_status fill_texts(struct lq_hf_vocab *draft, const cJSON *model, const cJSON *vocab,
                                 const cJSON *added, struct lq_arena *arena, struct lq_error *err)
{
    const cJSON *unknown = lq_json_find(model, "unk_token");
    const char *unknown_text = cJSON_IsString(unknown) ? unknown->valuestring : NULL;
    bool spm = draft->rules.kind == LQ_HF_SENTENCE_PIECE;
    enum lq_status status = LQ_OK;
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, vocab)
    {
        bool is_unknown = spm && unknown_text != NULL && strcmp(unknown_text, item->string) == 0;
        int32_t type = spm && lq_hf_is_byte_text(item->string) ? LQ_TOKEN_BYTE
                       : is_unknown                            ? LQ_TOKEN_UNKNOWN
                                                               : LQ_TOKEN_NORMAL;
        status = status == LQ_OK ? put_text(draft, read_id(item), item->string, type, err) : status;
    }
    cJSON_ArrayForEach(item, added)
    {
        const char *text = lq_json_find(item, "content")->valuestring;
        bool is_unknown = spm && unknown_text != NULL && strcmp(unknown_text, text) == 0;
        int32_t type = is_unknown                     ? LQ_TOKEN_UNKNOWN
                       : lq_hf_is_control(text, item) ? LQ_TOKEN_CONTROL
                                                      : LQ_TOKEN_USER_DEFINED;
        int64_t id = read_id(lq_json_find(item, "id"));
        status = status == LQ_OK ? put_text(draft, id, text, type, err) : status;
        lq_hf_vocab_strip(draft, id, item);
        if (status == LQ_OK && spm && type == LQ_TOKEN_USER_DEFINED) {
            status = lq_hf_unmark(&draft->texts[id], arena, err);
        }
    }
    if (status == LQ_OK) {
        lq_hf_mark_second(draft, added);
    }
    return status == LQ_OK ? lq_hf_vocab_pad(draft, arena, err) : status;
}

/* A merge as GGUF has it, "left right"; newer files have a list of two. */
static const char *merge_text(const cJSON *item, struct lq_arena *arena)
{
    if (cJSON_IsString(item)) {
        const char *blank =
            item->valuestring[0] == '\0' ? NULL : strchr(item->valuestring + 1, ' ');
        return blank == NULL || blank[1] == '\0' ? NULL : item->valuestring;
    }
    const cJSON *left = cJSON_IsArray(item) ? item->child : NULL;
    const cJSON *right = left == NULL ? NULL : left->next;
    if (right == NULL || right->next != NULL || !cJSON_IsString(left) || !cJSON_IsString(right) ||
        left->valuestring[0] == '\0' || right->valuestring[0] == '\0' ||
        strchr(left->valuestring, ' ') != NULL || strchr(right->valuestring, ' ') != NULL) {
        return NULL;
    }
    return lq_arena_printf(arena, "%s %s", left->valuestring, right->valuestring);
}

static enum lq_status fill_merges(struct lq_hf_vocab *draft, const cJSON *model,
                                  struct lq_arena *arena, struct lq_error *err)
{
    const cJSON *merges = lq_json_find(model, "merges");
    int count = cJSON_IsArray(merges) ? cJSON_GetArraySize(merges) : 0;
    if (count == 0) {
        return lq_error_set(err, LQ_EFORMAT,
                            FILE_NAME ": model.merges is missing or empty; a BPE tokenizer cannot "
                                      "work without its merges, get the complete file");
    }
    if (count > LQ_MERGES_MAX) {
        return lq_error_set(err, LQ_EFORMAT, FILE_NAME ": %d merges exceed the limit of %d", count,
                            LQ_MERGES_MAX);
    }
    draft->merges = lq_arena_get_array(arena, (size_t)count, sizeof *draft->merges);
    if (draft->merges == NULL) {
        return lq_error_nomem(err, "tokenizer");
    }
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, merges)
    {
        const char *text = merge_text(item, arena);
        if (text == NULL) {
            return lq_error_set(err, LQ_EFORMAT,
                                FILE_NAME ": model.merges[%zu] is not a pair of tokens",
                                draft->merge_count);
        }
        draft->merges[draft->merge_count++] =
            (struct lq_gguf_string){.data = text, .length = strlen(text)};
    }
    return LQ_OK;
}

/* Scores that make the merges happen in the order of their ranks: a token gets minus the first rank
 * that makes it; what no merge makes comes after all of them. */
static enum lq_status fill_scores(struct lq_hf_vocab *draft, struct lq_arena *arena,
                                  struct lq_error *err)
{
    struct lq_token_table table;
    draft->scores = lq_arena_get_array(arena, draft->count, sizeof *draft->scores);
    if (draft->scores == NULL || !lq_token_table_init(&table, draft->count)) {
        return lq_error_nomem(err, "tokenizer");
    }
    for (size_t i = 0; i < draft->count; i++) {
        int32_t existing = -1;
        bool normal =
            draft->types[i] == LQ_TOKEN_NORMAL || draft->types[i] == LQ_TOKEN_USER_DEFINED;
        (void)lq_token_table_add(&table, draft->texts[i].data, draft->texts[i].length, normal,
                                 &existing);
        draft->scores[i] = normal ? -(float)(draft->merge_count + 1) : 0.0f;
    }
    enum lq_status status = LQ_OK;
    for (size_t rank = draft->merge_count; rank-- > 0 && status == LQ_OK;) {
        const struct lq_gguf_string *merge = &draft->merges[rank];
        const char *blank = memchr(merge->data + 1, ' ', merge->length - 1);
        size_t left = (size_t)(blank - merge->data);
        struct lq_buffer joined;
        lq_buffer_init(&joined);
        lq_buffer_append(&joined, merge->data, left);
        lq_buffer_append(&joined, blank + 1, merge->length - left - 1);
        int32_t id = joined.failed
                         ? -1
                         : lq_token_table_find(&table, lq_buffer_text(&joined), joined.size_bytes);
        if (id >= 0) {
            draft->scores[id] = -(float)rank;
        }
        status = joined.failed ? lq_error_nomem(err, "tokenizer") : LQ_OK;
        lq_buffer_fini(&joined);
    }
    lq_token_table_fini(&table);
    return status;
}

/* What the file says about unknown characters, when no other file names the token. */
static int64_t find_unknown(const struct lq_hf_vocab *draft, const cJSON *model)
{
    const cJSON *text = lq_json_find(model, "unk_token");
    return cJSON_IsString(text) ? lq_hf_vocab_find(draft, text->valuestring) : -1;
}

enum lq_status lq_hf_json_read(const struct lq_hf_documents *documents, uint64_t vocab_size,
                               struct lq_arena *arena, struct lq_hf_vocab *draft,
                               struct lq_error *err)
{
    const cJSON *tokenizer = documents->tokenizer;
    const cJSON *model = NULL;
    const cJSON *vocab = NULL;
    const cJSON *added = NULL;
    bool has_added = false;
    size_t count = 0;
    enum lq_status status = lq_json_get_object(&scope, tokenizer, "model", &model, NULL, err);
    if (status == LQ_OK && lq_hf_is_unigram(model)) {
        return lq_hf_unigram_read(documents, vocab_size, arena, draft, err);
    }
    if (status == LQ_OK) {
        status = check_model(model, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_object(&scope, model, "vocab", &vocab, NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_array(&scope, tokenizer, "added_tokens", &added, &has_added, err);
    }
    if (status == LQ_OK) {
        status = count_tokens(vocab, has_added ? added : NULL, vocab_size, &count, err);
    }
    if (status == LQ_OK) {
        status = lq_hf_vocab_init(draft, count, arena, err);
    }
    if (status == LQ_OK) {
        status = fill_merges(draft, model, arena, err);
    }
    if (status == LQ_OK) {
        status = lq_hf_text_rules_find(tokenizer, arena, &draft->rules, err);
    }
    if (status == LQ_OK) {
        status = fill_texts(draft, model, vocab, has_added ? added : NULL, arena, err);
    }
    if (status == LQ_OK) {
        draft->roles[LQ_HF_UNKNOWN] = find_unknown(draft, model);
    }
    return status == LQ_OK && draft->rules.kind == LQ_HF_SENTENCE_PIECE
               ? fill_scores(draft, arena, err)
               : status;
}
