/* From a Hugging Face tokenizer to GGUF keys: tokenizer.json, or tokenizer.model (SentencePiece)
 * where there is none, becomes the tokenizer.* keys that llama.cpp knows; tokenizer_config.json,
 * config.json and other files say which tokens play which role. Three kinds can be
 * expressed: byte-level BPE behind a known pre-tokenizer ("gpt2"), SentencePiece's BPE with byte
 * fallback ("llama"), whose scores stand in tokenizer.model or are made from the order of the
 * merges, and SentencePiece's unigram models ("t5"). What
 * GGUF cannot say stands in keys of our own, which llama.cpp steps over: the normalizer, and that
 * an added token takes the blanks around it, counts as a whole word only, or is looked for after
 * the others. Thread rule: pure. Limits: LQ_VOCAB_MAX, LQ_MERGES_MAX,
 * LQ_JSON_BYTES_MAX. */
#ifndef LQ_RULES_MODEL_HF_TOKENIZER_H
#define LQ_RULES_MODEL_HF_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/error.h"
#include "engine/base/json.h"
#include "rules/format/gguf.h"
#include "rules/model/hf_documents.h"

/* Puts all tokenizer.* keys. `vocab_size` is the number of rows of the embedding: missing ids up to
 * it become unused tokens "[PAD<id>]"; 0 means as many as the tokenizer has. Scratch memory comes
 * from the arena. Errors: LQ_EFORMAT for a malformed file, LQ_EUNSUPPORTED for a kind of tokenizer
 * that cannot be expressed, by name. */
enum lq_status lq_hf_tokenizer_put(const struct lq_hf_documents *documents, uint64_t vocab_size,
                                   struct lq_arena *arena, struct lq_gguf_writer *writer,
                                   struct lq_error *err);

/* The parts, in files of their own. */

enum lq_hf_tokenizer_kind { LQ_HF_BYTE_LEVEL, LQ_HF_SENTENCE_PIECE, LQ_HF_UNIGRAM };

struct lq_hf_text_rules {
    enum lq_hf_tokenizer_kind kind;
    const char *pre;        /* GGUF name of the pre-tokenizer */
    const char *normalizer; /* JSON for normalize.h; NULL: none */
    struct lq_hf_text map;  /* what its step "Precompiled" means; data NULL: none */
    bool add_space_prefix;  /* not BYTE_LEVEL */
    bool squeezes_blanks;   /* UNIGRAM, for other programs: the normalizer does it here */
};

enum lq_hf_role {
    LQ_HF_BOS,
    LQ_HF_EOS,
    LQ_HF_UNKNOWN,
    LQ_HF_PADDING,
    LQ_HF_ROLE_COUNT,
};

/* A vocabulary on its way to GGUF; the arrays are by token id. */
struct lq_hf_vocab {
    struct lq_hf_text_rules rules;
    size_t count;
    struct lq_gguf_string *texts; /* end with NUL */
    int32_t *types;
    float *scores;   /* not BYTE_LEVEL */
    uint8_t *strips; /* lq_token_strip of added tokens */
    bool has_strips;
    struct lq_gguf_string *merges; /* BYTE_LEVEL */
    size_t merge_count;
    /* What the tokenizer itself says, when no other file does; -1: nothing. */
    int64_t roles[LQ_HF_ROLE_COUNT];
    bool adds_bos;
    bool adds_eos;
};

/* Arrays for `count` tokens that are all still missing (a text with data NULL). */
enum lq_status lq_hf_vocab_init(struct lq_hf_vocab *vocab, size_t count, struct lq_arena *arena,
                                struct lq_error *err);
/* Missing tokens become unused ones. */
enum lq_status lq_hf_vocab_pad(struct lq_hf_vocab *vocab, struct lq_arena *arena,
                               struct lq_error *err);
/* The token with this text, or -1. */
int64_t lq_hf_vocab_find(const struct lq_hf_vocab *vocab, const char *text);
/* Turns U+2581 into blanks: tokens that are looked for in the text as it is have blanks. */
enum lq_status lq_hf_unmark(struct lq_gguf_string *text, struct lq_arena *arena,
                            struct lq_error *err);
/* Whether an added token is a control token: some files do not call theirs special. */
bool lq_hf_is_control(const char *text, const cJSON *token);

/* Takes "lstrip", "rstrip" and "single_word" of an added token (NULL: none). */
void lq_hf_vocab_strip(struct lq_hf_vocab *vocab, int64_t id, const cJSON *token);

/* "<0x0A>", the byte tokens of SentencePiece. */
bool lq_hf_is_byte_text(const char *text);
/* Takes "normalized" of added tokens, once the text rules are known. */
void lq_hf_mark_second(struct lq_hf_vocab *vocab, const cJSON *added);

/* tokenizer.json: BPE, and unigram models. */
bool lq_hf_is_unigram(const cJSON *model);
enum lq_status lq_hf_unigram_read(const struct lq_hf_documents *documents, uint64_t vocab_size,
                                  struct lq_arena *arena, struct lq_hf_vocab *vocab,
                                  struct lq_error *err);
enum lq_status lq_hf_json_read(const struct lq_hf_documents *documents, uint64_t vocab_size,
                               struct lq_arena *arena, struct lq_hf_vocab *vocab,
                               struct lq_error *err);
/* tokenizer.model. Added tokens without a row in the embedding are left out. */
enum lq_status lq_hf_sentencepiece_read(const struct lq_hf_documents *documents,
                                        uint64_t vocab_size, struct lq_arena *arena,
                                        struct lq_hf_vocab *vocab, struct lq_error *err);
/* Recognises the normalizer and pre-tokenizer of tokenizer.json. */
enum lq_status lq_hf_text_rules_find(const cJSON *tokenizer, struct lq_arena *arena,
                                     struct lq_hf_text_rules *rules, struct lq_error *err);
/* Puts ids of special tokens, add_bos_token, add_eos_token and chat templates. */
enum lq_status lq_hf_specials_put(const struct lq_hf_documents *documents,
                                  const struct lq_hf_vocab *vocab, struct lq_arena *arena,
                                  struct lq_gguf_writer *writer, struct lq_error *err);

#endif
