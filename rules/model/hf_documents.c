#include "rules/model/hf_documents.h"

#include <string.h>

static const char *const file_names[LQ_HF_FILE_COUNT] = {
    [LQ_HF_CONFIG] = "config.json",
    [LQ_HF_TOKENIZER] = "tokenizer.json",
    [LQ_HF_TOKENIZER_CONFIG] = "tokenizer_config.json",
    [LQ_HF_GENERATION_CONFIG] = "generation_config.json",
    [LQ_HF_CHAT_TEMPLATE] = "chat_template.jinja",
    [LQ_HF_QUANTIZE_CONFIG] = "quantize_config.json",
    [LQ_HF_SENTENCEPIECE] = "tokenizer.model",
    [LQ_HF_ADDED_TOKENS] = "added_tokens.json",
    [LQ_HF_SPECIAL_TOKENS] = "special_tokens_map.json",
};

const char *lq_hf_file_name(enum lq_hf_file number)
{
    return file_names[number];
}

bool lq_hf_file_is_read(enum lq_hf_file number, bool has_tokenizer_json)
{
    return !has_tokenizer_json || number < LQ_HF_SENTENCEPIECE;
}

static enum lq_status parse_object(const struct lq_hf_text *text, const char *where, cJSON **out,
                                   struct lq_error *err)
{
    const char *data = text->data;
    uint64_t size_bytes = text->size_bytes;
    if (data == NULL) {
        return LQ_OK;
    }
    /* Tokenizer files of real models have a byte order mark now and then. */
    if (size_bytes >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0) {
        data += 3;
        size_bytes -= 3;
    }
    enum lq_status status = lq_json_parse(data, (size_t)size_bytes, where, LQ_EFORMAT, out, err);
    if (status == LQ_OK && !cJSON_IsObject(*out)) {
        return lq_error_set(err, LQ_EFORMAT, "%s: not a JSON object", where);
    }
    return status;
}

enum lq_status lq_hf_documents_parse(const struct lq_hf_text texts[LQ_HF_FILE_COUNT],
                                     struct lq_arena *arena, struct lq_hf_documents *out,
                                     struct lq_error *err)
{
    *out = (struct lq_hf_documents){.sentencepiece = texts[LQ_HF_SENTENCEPIECE]};
    cJSON **const slots[LQ_HF_FILE_COUNT] = {
        [LQ_HF_CONFIG] = &out->config,
        [LQ_HF_TOKENIZER] = &out->tokenizer,
        [LQ_HF_TOKENIZER_CONFIG] = &out->tokenizer_config,
        [LQ_HF_GENERATION_CONFIG] = &out->generation_config,
        [LQ_HF_QUANTIZE_CONFIG] = &out->quantize_config,
        [LQ_HF_ADDED_TOKENS] = &out->added_tokens,
        [LQ_HF_SPECIAL_TOKENS] = &out->special_tokens,
    };
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < LQ_HF_FILE_COUNT && status == LQ_OK; i++) {
        if (slots[i] != NULL) {
            status = parse_object(&texts[i], file_names[i], slots[i], err);
        }
    }
    const struct lq_hf_text *template = &texts[LQ_HF_CHAT_TEMPLATE];
    if (status == LQ_OK && template->data != NULL) {
        if (memchr(template->data, 0, (size_t) template->size_bytes) != NULL) {
            return lq_error_set(err, LQ_EFORMAT, "%s: not a text: it holds a NUL byte",
                                file_names[LQ_HF_CHAT_TEMPLATE]);
        }
        out->chat_template = lq_arena_dup(arena, template->data, (size_t) template->size_bytes);
        status = out->chat_template == NULL ? lq_error_nomem(err, "chat template") : LQ_OK;
    }
    return status;
}

void lq_hf_documents_fini(struct lq_hf_documents *documents)
{
    cJSON_Delete(documents->config);
    cJSON_Delete(documents->tokenizer);
    cJSON_Delete(documents->tokenizer_config);
    cJSON_Delete(documents->generation_config);
    cJSON_Delete(documents->quantize_config);
    cJSON_Delete(documents->added_tokens);
    cJSON_Delete(documents->special_tokens);
    *documents = (struct lq_hf_documents){0};
}
