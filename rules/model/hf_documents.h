/* The small files of a Hugging Face folder: config.json and what describes the tokenizer. Needed
 * are config.json (not for a tokenizer alone) and one of tokenizer.json and tokenizer.model; where
 * there is tokenizer.json, the files that belong to tokenizer.model are not read. Thread rule:
 * pure. Limits: LQ_JSON_BYTES_MAX. */
#ifndef LQ_RULES_MODEL_HF_DOCUMENTS_H
#define LQ_RULES_MODEL_HF_DOCUMENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/error.h"
#include "engine/base/json.h"

enum lq_hf_file {
    LQ_HF_CONFIG,
    LQ_HF_TOKENIZER,
    LQ_HF_TOKENIZER_CONFIG,
    LQ_HF_GENERATION_CONFIG,
    LQ_HF_CHAT_TEMPLATE,
    LQ_HF_QUANTIZE_CONFIG,
    LQ_HF_SENTENCEPIECE,
    LQ_HF_ADDED_TOKENS,
    LQ_HF_SPECIAL_TOKENS,
    LQ_HF_FILE_COUNT,
};

/* "config.json" and so on. */
const char *lq_hf_file_name(enum lq_hf_file number);
/* Whether the file counts in a folder that has, or has not, a tokenizer.json. */
bool lq_hf_file_is_read(enum lq_hf_file number, bool has_tokenizer_json);

struct lq_hf_text {
    const void *data; /* NULL: the file is not there */
    uint64_t size_bytes;
};

/* The files, parsed where they are JSON; NULL: not there. */
struct lq_hf_documents {
    cJSON *config;
    cJSON *tokenizer;
    cJSON *tokenizer_config;
    cJSON *generation_config;
    const char *chat_template;       /* chat_template.jinja */
    cJSON *quantize_config;          /* quantize_config.json, of older GPTQ folders */
    struct lq_hf_text sentencepiece; /* tokenizer.model; borrowed */
    cJSON *added_tokens;             /* added_tokens.json */
    cJSON *special_tokens;           /* special_tokens_map.json */
};

/* Parses the texts, by lq_hf_file; a byte order mark is stepped over. Texts that are not JSON stay
 * borrowed or go to the arena. Errors: LQ_EFORMAT for what is no JSON object. */
enum lq_status lq_hf_documents_parse(const struct lq_hf_text texts[LQ_HF_FILE_COUNT],
                                     struct lq_arena *arena, struct lq_hf_documents *out,
                                     struct lq_error *err);
/* Also after an error. */
void lq_hf_documents_fini(struct lq_hf_documents *documents);

#endif
