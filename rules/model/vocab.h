/* The tokenizer of a model, loaded from the tokenizer.ggml.* keys of a GGUF file or of the model
 * artifact's output "vocab". Three kinds: "gpt2", byte-level BPE with ranked merges behind a
 * pre-tokenizer, "llama", SentencePiece's BPE by scores with byte fallback, and "t5",
 * SentencePiece's unigram model. Any bytes can be tokenized; bytes that are not valid UTF-8 become
 * byte tokens, or the unknown token of a vocabulary that has none. The file's bytes are copied: the
 * GGUF may go away. Thread rule: a vocabulary is immutable after loading; any number of threads may
 * tokenize with it. Limits: LQ_VOCAB_MAX tokens, LQ_MERGES_MAX merges, words below 2 GiB. */
#ifndef LQ_RULES_MODEL_VOCAB_H
#define LQ_RULES_MODEL_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "rules/format/gguf.h"

struct lq_vocab;

/* tokenizer.ggml.token_type. */
enum lq_token_type {
    LQ_TOKEN_NORMAL = 1,
    LQ_TOKEN_UNKNOWN = 2,
    LQ_TOKEN_CONTROL = 3,
    LQ_TOKEN_USER_DEFINED = 4,
    LQ_TOKEN_UNUSED = 5,
    LQ_TOKEN_BYTE = 6,
};

/* What is said about an added token besides its text: it takes the white space before it, behind
 * it; it counts only where no character of a word is beside it; it is looked for when the tokens
 * without this flag are cut out. GGUF has no key for this; ours is an array of one u8 per token,
 * which llama.cpp steps over. */
enum lq_token_strip {
    LQ_TOKEN_STRIPS_LEFT = 1,
    LQ_TOKEN_STRIPS_RIGHT = 2,
    LQ_TOKEN_WHOLE_WORD = 4,
    LQ_TOKEN_SECOND = 8,
};
#define LQ_VOCAB_STRIPS_KEY "tokenizer.lqbuild.token_strips"

/* `where` names the file in messages. Errors: LQ_EFORMAT for missing or contradicting keys (a
 * byte-level vocabulary without merges, arrays of different lengths, duplicate tokens, ids beyond
 * the vocabulary), LQ_EUNSUPPORTED for another tokenizer model or pre-tokenizer. */
enum lq_status lq_vocab_load(struct lq_vocab **out, const struct lq_gguf *gguf, const char *where,
                             struct lq_error *err);
void lq_vocab_destroy(struct lq_vocab *vocab);

size_t lq_vocab_size(const struct lq_vocab *vocab);
/* -1 when there is none. */
int32_t lq_vocab_bos(const struct lq_vocab *vocab);
int32_t lq_vocab_eos(const struct lq_vocab *vocab);
/* Whether texts start with BOS; then there is one. */
bool lq_vocab_adds_bos(const struct lq_vocab *vocab);
bool lq_vocab_adds_eos(const struct lq_vocab *vocab);
/* The bytes that a token stands for, e.g. " the"; NULL when `id` is no token. */
const char *lq_vocab_piece(const struct lq_vocab *vocab, int32_t id, size_t *length);
enum lq_token_type lq_vocab_type(const struct lq_vocab *vocab, int32_t id);

/* Growing list of ids on the heap; the owner calls lq_token_list_fini. */
struct lq_token_list {
    int32_t *ids;
    size_t count;
    size_t capacity;
    /* Not 0: tokenizing may stop once the list holds at least so many ids; those up to the limit
     * are the same as without it. */
    size_t limit;
    /* May be NULL. Asked now and then; true ends tokenizing with LQ_ECANCELLED. */
    bool (*cancelled)(const void *user);
    const void *cancelled_user;
};

void lq_token_list_init(struct lq_token_list *list);
void lq_token_list_fini(struct lq_token_list *list);

/* Appends the ids of `length` bytes. `add_special`: BOS before and EOS behind, if the vocabulary
 * adds them. `parse_special`: control tokens written out in the text are recognised; without it
 * they are plain text. User-defined tokens are recognised always. */
enum lq_status lq_tokenize(const struct lq_vocab *vocab, const char *text, size_t length,
                           bool add_special, bool parse_special, struct lq_token_list *out,
                           struct lq_error *err);

#endif
