/* Pre-tokenizers: how byte-level BPE vocabularies cut text into words before merging. GGUF files
 * name them (tokenizer.ggml.pre), tokenizer.json spells out regular expressions; one table here
 * knows both. The expressions run in PCRE2's UTF mode on whole code points. Bytes that are not
 * valid UTF-8 take part as U+FFFD and come out unchanged. Thread rule: a pre-tokenizer is immutable
 * after creation; any number of threads may split with it. Limit: LQ_TEXT_BYTES_MAX. */
#ifndef LQ_RULES_MODEL_PRETOKENIZE_H
#define LQ_RULES_MODEL_PRETOKENIZE_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/error.h"

struct lq_pretokenizer;

enum { LQ_PRE_EXPRESSIONS_MAX = 6 };

/* By its GGUF name. An unknown name gives LQ_EUNSUPPORTED with the names that are known. */
enum lq_status lq_pretokenizer_create(struct lq_pretokenizer **out, const char *name,
                                      struct lq_error *err);
void lq_pretokenizer_destroy(struct lq_pretokenizer *pre);
/* Whole words of the vocabulary win over merges. */
bool lq_pretokenizer_ignores_merges(const struct lq_pretokenizer *pre);
/* Whether BOS is added when the file does not say. */
bool lq_pretokenizer_adds_bos(const struct lq_pretokenizer *pre);

/* Called once per word, in order; the words are consecutive slices of the text and cover it. */
typedef enum lq_status (*lq_word_fn)(void *user, const char *word, size_t length,
                                     struct lq_error *err);

/* Stops at the first status that is not LQ_OK and returns it. */
enum lq_status lq_pretokenizer_split(const struct lq_pretokenizer *pre, const char *text,
                                     size_t length, lq_word_fn word, void *user,
                                     struct lq_error *err);

/* The GGUF name for the expressions of a tokenizer.json, in order; NULL when they are unknown. The
 * ByteLevel step's own expression is spelled LQ_PRE_BYTE_LEVEL, a Digits step is "\\p{N}" or
 * "\\p{N}+", and a Punctuation step LQ_PRE_PUNCTUATION, with "+" when it is contiguous. Of two
 * names with the same expressions the one with the same `ignore_merges` wins. */
#define LQ_PRE_BYTE_LEVEL "ByteLevel"
/* Unicode's punctuation and all of ASCII's. */
#define LQ_PRE_PUNCTUATION "[\\p{P}\\$\\+<=>\\^~\\|`]"
const char *lq_pretokenizer_name_of(const char *const *expressions, size_t count,
                                    bool ignore_merges);

/* The length of the valid UTF-8 sequence at `text` (1 to 4), or 0 when the first byte does not
 * start one. */
size_t lq_utf8_length(const char *text, size_t length);
/* The length of the white space character (Unicode's White_Space) at `text`, or 0. */
size_t lq_utf8_space_length(const char *text, size_t length);
/* Where the white space begins that text[0, length) ends with. */
size_t lq_utf8_strip_end(const char *text, size_t length);

#endif
