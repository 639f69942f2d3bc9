/* What a word is made of for added tokens that only count as whole words: letters, marks, decimal
 * and letter-like numbers, connectors and joiners, as \w of Unicode's regular expressions (UTS 18,
 * Annex C) has it. Thread rule: immutable after creation; any number of threads may ask. Limits:
 * none. */
#ifndef LQ_RULES_MODEL_WORD_CLASS_H
#define LQ_RULES_MODEL_WORD_CLASS_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/error.h"

struct lq_word_class;

enum lq_status lq_word_class_create(struct lq_word_class **out, struct lq_error *err);
void lq_word_class_destroy(struct lq_word_class *words);
/* Whether the text begins, or ends, with a character of a word. Bytes that are no UTF-8 are none;
 * neither is anything when memory is out. */
bool lq_word_class_begins(const struct lq_word_class *words, const char *text, size_t length);
bool lq_word_class_ends(const struct lq_word_class *words, const char *text, size_t length);

#endif
