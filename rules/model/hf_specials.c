/* The roles of tokens: which id begins and ends a text, whether they are added, and the chat
 * template. tokenizer_config.json names tokens by their text, config.json and
 * generation_config.json by id, special_tokens_map.json by text; the first that says something
 * wins, in this order. The tokenizer's own word comes last. */
#include <string.h>

#include "rules/model/hf_tokenizer.h"

static const struct lq_json_scope tokenizer_scope = {.where = "tokenizer.json",
                                                     .status = LQ_EFORMAT};

struct role {
    const char *token_key; /* in tokenizer_config.json */
    const char *id_key;    /* in config.json and generation_config.json */
    const char *gguf_key;
};

static const struct role roles[LQ_HF_ROLE_COUNT] = {
    [LQ_HF_BOS] = {"bos_token", "bos_token_id", "tokenizer.ggml.bos_token_id"},
    [LQ_HF_EOS] = {"eos_token", "eos_token_id", "tokenizer.ggml.eos_token_id"},
    [LQ_HF_UNKNOWN] = {"unk_token", "unk_token_id", "tokenizer.ggml.unknown_token_id"},
    [LQ_HF_PADDING] = {"pad_token", "pad_token_id", "tokenizer.ggml.padding_token_id"},
};

/* A token is given as its text or as an object with "content"; NULL when it is absent. */
static const char *token_text(const cJSON *config, const char *key)
{
    const cJSON *item = config == NULL ? NULL : lq_json_find(config, key);
    if (cJSON_IsObject(item)) {
        item = lq_json_find(item, "content");
    }
    return cJSON_IsString(item) ? item->valuestring : NULL;
}

/* The id under a key; the first one when it is a list; -1 when there is none. */
static int64_t id_of_config(const cJSON *config, const char *key)
{
    const cJSON *item = config == NULL ? NULL : lq_json_find(config, key);
    if (cJSON_IsArray(item)) {
        item = item->child;
    }
    bool whole = cJSON_IsNumber(item) && item->valuedouble >= 0 && item->valuedouble < 1e9;
    return whole ? (int64_t)item->valuedouble : -1;
}

static int64_t id_of_text(const struct lq_hf_vocab *vocab, const char *text)
{
    return text == NULL ? -1 : lq_hf_vocab_find(vocab, text);
}

static int64_t find_role(const struct lq_hf_documents *documents, const struct lq_hf_vocab *vocab,
                         enum lq_hf_role number)
{
    const struct role *role = &roles[number];
    int64_t id = id_of_text(vocab, token_text(documents->tokenizer_config, role->token_key));
    if (id < 0) {
        id = id_of_config(documents->config, role->id_key);
    }
    if (id < 0) {
        id = id_of_config(documents->generation_config, role->id_key);
    }
    if (id < 0) {
        id = id_of_text(vocab, token_text(documents->special_tokens, role->token_key));
    }
    return id < 0 ? vocab->roles[number] : id;
}

/* True when the item of a template is the special token with this id. */
static bool is_special_item(const struct lq_hf_vocab *vocab, const cJSON *item, int64_t id)
{
    const cJSON *special = lq_json_find(item, "SpecialToken");
    const cJSON *name = special == NULL ? NULL : lq_json_find(special, "id");
    return id >= 0 && cJSON_IsString(name) && id_of_text(vocab, name->valuestring) == id;
}

/* Looks into a post-processor for a template that puts BOS before or EOS behind a single text. */
static void scan_processor(const struct lq_hf_vocab *vocab, const cJSON *node, const int64_t *ids,
                           bool adds[2])
{
    const cJSON *type = node == NULL ? NULL : lq_json_find(node, "type");
    if (!cJSON_IsString(type)) {
        return;
    }
    if (strcmp(type->valuestring, "Sequence") == 0) {
        const cJSON *child = NULL;
        cJSON_ArrayForEach(child, lq_json_find(node, "processors"))
        {
            scan_processor(vocab, child, ids, adds);
        }
    }
    const cJSON *single = lq_json_find(node, "single");
    if (strcmp(type->valuestring, "TemplateProcessing") == 0 && cJSON_IsArray(single)) {
        const cJSON *last = single->child;
        while (last != NULL && last->next != NULL) {
            last = last->next;
        }
        adds[0] = last != NULL && is_special_item(vocab, single->child, ids[LQ_HF_BOS]);
        adds[1] = last != NULL && is_special_item(vocab, last, ids[LQ_HF_EOS]);
    }
}

/* The word of tokenizer_config.json wins over the post-processor. */
static void read_switch(const cJSON *config, const char *key, bool *value)
{
    const cJSON *item = config == NULL ? NULL : lq_json_find(config, key);
    if (cJSON_IsBool(item)) {
        *value = cJSON_IsTrue(item);
    }
}

/* A template is a text, or a list of named ones of which "default" is the main one; newer models
 * have a file for it. */
static enum lq_status put_templates(const struct lq_hf_documents *documents, struct lq_arena *arena,
                                    struct lq_gguf_writer *writer, struct lq_error *err)
{
    const cJSON *config = documents->tokenizer_config;
    const cJSON *templates = config == NULL ? NULL : lq_json_find(config, "chat_template");
    if (templates == NULL && documents->chat_template != NULL) {
        lq_gguf_put_string(writer, "tokenizer.chat_template", documents->chat_template);
    }
    if (cJSON_IsString(templates)) {
        lq_gguf_put_string(writer, "tokenizer.chat_template", templates->valuestring);
    }
    if (!cJSON_IsArray(templates)) {
        return LQ_OK;
    }
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, templates)
    {
        const cJSON *name = lq_json_find(item, "name");
        const cJSON *text = lq_json_find(item, "template");
        if (!cJSON_IsString(name) || !cJSON_IsString(text)) {
            return lq_error_set(err, LQ_EFORMAT,
                                "tokenizer_config.json: every chat_template needs a name and a "
                                "template");
        }
        bool is_default = strcmp(name->valuestring, "default") == 0;
        const char *key =
            is_default ? "tokenizer.chat_template"
                       : lq_arena_printf(arena, "tokenizer.chat_template.%s", name->valuestring);
        if (key == NULL) {
            return lq_error_nomem(err, "chat template");
        }
        lq_gguf_put_string(writer, key, text->valuestring);
    }
    return LQ_OK;
}

static enum lq_status put_ids(const struct lq_hf_documents *documents,
                              const struct lq_hf_vocab *vocab, struct lq_gguf_writer *writer,
                              int64_t *ids, struct lq_error *err)
{
    for (size_t i = 0; i < LQ_HF_ROLE_COUNT; i++) {
        ids[i] = find_role(documents, vocab, (enum lq_hf_role)i);
        if (ids[i] >= (int64_t)vocab->count) {
            return lq_error_set(err, LQ_EFORMAT,
                                "the tokenizer's %s is %lld, but there are only %zu tokens; the "
                                "files belong to different models",
                                roles[i].id_key, (long long)ids[i], vocab->count);
        }
        if (ids[i] >= 0) {
            lq_gguf_put_u32(writer, roles[i].gguf_key, (uint32_t)ids[i]);
        }
    }
    return LQ_OK;
}

enum lq_status lq_hf_specials_put(const struct lq_hf_documents *documents,
                                  const struct lq_hf_vocab *vocab, struct lq_arena *arena,
                                  struct lq_gguf_writer *writer, struct lq_error *err)
{
    int64_t ids[LQ_HF_ROLE_COUNT];
    bool adds[] = {vocab->adds_bos, vocab->adds_eos};
    const cJSON *processor = NULL;
    bool found = false;
    enum lq_status status = put_ids(documents, vocab, writer, ids, err);
    if (status == LQ_OK && documents->tokenizer != NULL) {
        status = lq_json_get_object(&tokenizer_scope, documents->tokenizer, "post_processor",
                                    &processor, &found, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    scan_processor(vocab, found ? processor : NULL, ids, adds);
    read_switch(documents->tokenizer_config, "add_bos_token", &adds[LQ_HF_BOS]);
    read_switch(documents->tokenizer_config, "add_eos_token", &adds[LQ_HF_EOS]);
    for (size_t i = LQ_HF_BOS; i <= LQ_HF_EOS; i++) {
        if (adds[i] && ids[i] < 0) {
            return lq_error_set(err, LQ_EFORMAT,
                                "the tokenizer adds %s, but no file says which token that is (%s)",
                                i == LQ_HF_BOS ? "BOS" : "EOS", roles[i].id_key);
        }
    }
    lq_gguf_put_bool(writer, "tokenizer.ggml.add_bos_token", adds[LQ_HF_BOS]);
    lq_gguf_put_bool(writer, "tokenizer.ggml.add_eos_token", adds[LQ_HF_EOS]);
    return put_templates(documents, arena, writer, err);
}
