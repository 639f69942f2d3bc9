/* The table of pre-tokenizers, for pretokenize.c. Expressions are as tokenizer.json has them: \s
 * means Unicode's White_Space property. Thread rule: constant. */
#ifndef LQ_RULES_MODEL_PRETOKENIZE_PARTS_H
#define LQ_RULES_MODEL_PRETOKENIZE_PARTS_H

#include <stdbool.h>

#include "engine/base/buffer.h"
#include "rules/model/pretokenize.h"

/* What LQ_PRE_BYTE_LEVEL stands for. */
#define LQ_PRE_GPT2_EXPRESSION                                                                     \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

struct lq_pre_row {
    const char *name;    /* written to GGUF */
    const char *aliases; /* other GGUF names that mean the same, separated by blanks */
    bool ignore_merges;
    bool adds_bos;
    const char *expressions[LQ_PRE_EXPRESSIONS_MAX]; /* the last ones may be NULL */
};

/* By name or alias; NULL when it is unknown. */
const struct lq_pre_row *lq_pre_row_find(const char *name);
/* Appends an expression with \s and \S spelled out, inside and outside of brackets. */
void lq_pre_spell_spaces(const char *expression, struct lq_buffer *out);
/* Appends all names and aliases, separated by blanks. */
void lq_pre_row_list(struct lq_buffer *out);

#endif
