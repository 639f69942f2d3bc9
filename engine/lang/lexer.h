/* Cuts a recipe text into tokens. The text has been checked to be UTF-8 without NUL. Errors go to
 * the diagnostics and give a token of kind ERROR, so the parser knows that there was a message. A
 * lexer is a small value: copying it is how the parser looks ahead. Thread rule: one thread. */
#ifndef LQ_ENGINE_LANG_LEXER_H
#define LQ_ENGINE_LANG_LEXER_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/lang/diagnostic.h"

enum lq_token_kind {
    LQ_TOKEN_END,
    LQ_TOKEN_ERROR,
    LQ_TOKEN_COMMENT, /* only when the lexer keeps them */
    LQ_TOKEN_NAME,
    LQ_TOKEN_NUMBER,
    LQ_TOKEN_STRING, /* with its quotes */
    LQ_TOKEN_LET,
    LQ_TOKEN_INCLUDE,
    LQ_TOKEN_FOR,
    LQ_TOKEN_IN,
    LQ_TOKEN_DEFAULT,
    LQ_TOKEN_TRUE,
    LQ_TOKEN_FALSE,
    LQ_TOKEN_LEFT_BRACE,
    LQ_TOKEN_RIGHT_BRACE,
    LQ_TOKEN_LEFT_BRACKET,
    LQ_TOKEN_RIGHT_BRACKET,
    LQ_TOKEN_LEFT_PAREN,
    LQ_TOKEN_RIGHT_PAREN,
    LQ_TOKEN_EQUALS,
    LQ_TOKEN_COMMA,
    LQ_TOKEN_PLUS,
    LQ_TOKEN_MINUS,
    LQ_TOKEN_STAR,
    LQ_TOKEN_SLASH,
};

struct lq_token {
    enum lq_token_kind kind;
    uint32_t offset;
    uint32_t length;
    uint32_t newlines; /* line ends between the token before and this one */
    struct lq_position position;
};

struct lq_lexer {
    const struct lq_recipe_source *source;
    struct lq_diagnostics *diagnostics;
    uint32_t offset;
    uint32_t line;
    uint32_t column;
    struct lq_position last_end; /* behind the last token: where a missing one is reported */
    bool keep_comments;
    bool quiet; /* ERROR tokens without a message: in text that is looked at or skipped */
};

void lq_lexer_init(struct lq_lexer *lexer, const struct lq_recipe_source *source,
                   struct lq_diagnostics *diagnostics);
void lq_lexer_next(struct lq_lexer *lexer, struct lq_token *token);
/* True for the words that cannot be names. */
bool lq_token_is_keyword(enum lq_token_kind kind);
/* True when the whole text could stand as a NAME token. */
bool lq_lexer_is_name(const char *text);

#endif
