/* From a Hugging Face tokenizer to GGUF keys: tokenizer.json (with tokenizer_config.json,
 * config.json and generation_config.json for the roles of tokens) becomes the tokenizer.* keys that
 * llama.cpp knows. Two kinds can be expressed: byte-level BPE behind a known pre-tokenizer
 * ("gpt2"), and SentencePiece-style BPE with byte fallback ("llama"), whose scores are made from
 * the order of the merges. What GGUF cannot say (NFC normalisation, stripping around added tokens)
 * is left out, as llama.cpp's converter does. Thread rule: pure. Limits: LQ_VOCAB_MAX,
 * LQ_MERGES_MAX, LQ_JSON_BYTES_MAX. */
#ifndef LQ_RULES_MODEL_HF_TOKENIZER_H
#define LQ_RULES_MODEL_HF_TOKENIZER_H

#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/error.h"
#include "engine/base/json.h"
#include "rules/format/gguf.h"

/* The parsed files; optional ones may be NULL. Borrowed. */
struct lq_hf_documents {
    const cJSON *tokenizer;         /* tokenizer.json */
    const cJSON *tokenizer_config;  /* optional */
    const cJSON *config;            /* optional */
    const cJSON *generation_config; /* optional */
};

/* Puts all tokenizer.* keys. `vocab_size` is the number of rows of the embedding: missing ids up to
 * it become unused tokens "[PAD<id>]"; 0 means as many as the tokenizer has. Scratch memory comes
 * from the arena. Errors: LQ_EFORMAT for a malformed file, LQ_EUNSUPPORTED for a kind of tokenizer
 * that cannot be expressed, by name. */
enum lq_status lq_hf_tokenizer_put(const struct lq_hf_documents *documents, uint64_t vocab_size,
                                   struct lq_arena *arena, struct lq_gguf_writer *writer,
                                   struct lq_error *err);

/* The parts, in files of their own. */

enum lq_hf_tokenizer_kind { LQ_HF_BYTE_LEVEL, LQ_HF_SENTENCE_PIECE };

struct lq_hf_text_rules {
    enum lq_hf_tokenizer_kind kind;
    const char *pre;       /* GGUF name of the pre-tokenizer */
    bool add_space_prefix; /* SENTENCE_PIECE */
};

/* Recognises the normalizer and pre-tokenizer of tokenizer.json. */
enum lq_status lq_hf_text_rules_find(const cJSON *tokenizer, struct lq_hf_text_rules *rules,
                                     struct lq_error *err);
/* Puts ids of special tokens, add_bos_token, add_eos_token and chat templates. `token_count` bounds
 * the ids. */
enum lq_status lq_hf_specials_put(const struct lq_hf_documents *documents, uint64_t token_count,
                                  struct lq_arena *arena, struct lq_gguf_writer *writer,
                                  struct lq_error *err);

#endif
