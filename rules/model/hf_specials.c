/* The roles of tokens: which id begins and ends a text, whether they are added, and the chat
 * template. tokenizer_config.json names tokens by their text, config.json and
 * generation_config.json by id; the first that says something wins, in this order. */
#include <string.h>

#include "rules/model/hf_tokenizer.h"

static const struct lq_json_scope tokenizer_scope = {.where = "tokenizer.json",
                                                     .status = LQ_EFORMAT};

struct role {
    const char *token_key; /* in tokenizer_config.json */
    const char *id_key;    /* in config.json and generation_config.json */
    const char *gguf_key;
};

enum { ROLE_BOS, ROLE_EOS, ROLE_COUNT_OF_ENDS, ROLE_COUNT = 4 };

static const struct role roles[ROLE_COUNT] = {
    [ROLE_BOS] = {"bos_token", "bos_token_id", "tokenizer.ggml.bos_token_id"},
    [ROLE_EOS] = {"eos_token", "eos_token_id", "tokenizer.ggml.eos_token_id"},
    {"unk_token", "unk_token_id", "tokenizer.ggml.unknown_token_id"},
    {"pad_token", "pad_token_id", "tokenizer.ggml.padding_token_id"},
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

/* The id of a token by its text: among the added tokens, then in the model's vocabulary; -1. */
static int64_t id_of_text(const cJSON *tokenizer, const char *text)
{
    const cJSON *token = NULL;
    cJSON_ArrayForEach(token, lq_json_find(tokenizer, "added_tokens"))
    {
        const cJSON *content = lq_json_find(token, "content");
        const cJSON *id = lq_json_find(token, "id");
        if (cJSON_IsString(content) && cJSON_IsNumber(id) &&
            strcmp(content->valuestring, text) == 0) {
            return (int64_t)id->valuedouble;
        }
    }
    const cJSON *model = lq_json_find(tokenizer, "model");
    const cJSON *vocab = model == NULL ? NULL : lq_json_find(model, "vocab");
    const cJSON *id = vocab == NULL ? NULL : lq_json_find(vocab, text);
    return cJSON_IsNumber(id) ? (int64_t)id->valuedouble : -1;
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

static int64_t find_role(const struct lq_hf_documents *documents, const struct role *role)
{
    const char *text = token_text(documents->tokenizer_config, role->token_key);
    int64_t id = text == NULL ? -1 : id_of_text(documents->tokenizer, text);
    if (id < 0) {
        id = id_of_config(documents->config, role->id_key);
    }
    if (id < 0) {
        id = id_of_config(documents->generation_config, role->id_key);
    }
    if (id < 0 && strcmp(role->token_key, "unk_token") == 0) {
        text = token_text(lq_json_find(documents->tokenizer, "model"), "unk_token");
        id = text == NULL ? -1 : id_of_text(documents->tokenizer, text);
    }
    return id;
}

/* True when the item of a template is the special token with this id. */
static bool is_special_item(const cJSON *tokenizer, const cJSON *item, int64_t id)
{
    const cJSON *special = lq_json_find(item, "SpecialToken");
    const cJSON *name = special == NULL ? NULL : lq_json_find(special, "id");
    return id >= 0 && cJSON_IsString(name) && id_of_text(tokenizer, name->valuestring) == id;
}

/* Looks into a post-processor for a template that puts BOS before or EOS behind a single text. */
static void scan_processor(const cJSON *tokenizer, const cJSON *node, const int64_t ids[2],
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
            scan_processor(tokenizer, child, ids, adds);
        }
    }
    const cJSON *single = lq_json_find(node, "single");
    if (strcmp(type->valuestring, "TemplateProcessing") == 0 && cJSON_IsArray(single)) {
        const cJSON *last = single->child;
        while (last != NULL && last->next != NULL) {
            last = last->next;
        }
        adds[0] = last != NULL && is_special_item(tokenizer, single->child, ids[0]);
        adds[1] = last != NULL && is_special_item(tokenizer, last, ids[1]);
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

/* A template is a text, or a list of named ones of which "default" is the main one. */
static enum lq_status put_templates(const cJSON *config, struct lq_arena *arena,
                                    struct lq_gguf_writer *writer, struct lq_error *err)
{
    const cJSON *templates = config == NULL ? NULL : lq_json_find(config, "chat_template");
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

enum lq_status lq_hf_specials_put(const struct lq_hf_documents *documents, uint64_t token_count,
                                  struct lq_arena *arena, struct lq_gguf_writer *writer,
                                  struct lq_error *err)
{
    int64_t ids[ROLE_COUNT];
    for (size_t i = 0; i < ROLE_COUNT; i++) {
        ids[i] = find_role(documents, &roles[i]);
        if (ids[i] >= (int64_t)token_count) {
            return lq_error_set(
                err, LQ_EFORMAT, "tokenizer.json: %s is %lld, but there are only %llu tokens",
                roles[i].id_key, (long long)ids[i], (unsigned long long)token_count);
        }
        if (ids[i] >= 0) {
            lq_gguf_put_u32(writer, roles[i].gguf_key, (uint32_t)ids[i]);
        }
    }
    bool adds[ROLE_COUNT_OF_ENDS] = {false, false};
    const cJSON *processor = NULL;
    bool found = false;
    enum lq_status status = lq_json_get_object(&tokenizer_scope, documents->tokenizer,
                                               "post_processor", &processor, &found, err);
    if (status != LQ_OK) {
        return status;
    }
    scan_processor(documents->tokenizer, found ? processor : NULL, ids, adds);
    read_switch(documents->tokenizer_config, "add_bos_token", &adds[ROLE_BOS]);
    read_switch(documents->tokenizer_config, "add_eos_token", &adds[ROLE_EOS]);
    for (size_t i = 0; i < ROLE_COUNT_OF_ENDS; i++) {
        if (adds[i] && ids[i] < 0) {
            return lq_error_set(err, LQ_EFORMAT,
                                "tokenizer.json: the tokenizer adds %s, but no file says which "
                                "token that is (%s)",
                                i == ROLE_BOS ? "BOS" : "EOS", roles[i].id_key);
        }
    }
    lq_gguf_put_bool(writer, "tokenizer.ggml.add_bos_token", adds[ROLE_BOS]);
    lq_gguf_put_bool(writer, "tokenizer.ggml.add_eos_token", adds[ROLE_EOS]);
    return put_templates(documents->tokenizer_config, arena, writer, err);
}
