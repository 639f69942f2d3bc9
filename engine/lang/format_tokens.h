/* The tokens of a recipe as the formatter wants them: in one array, each with the comments before
 * it and the place of the bracket that belongs to it. Only for texts that parse. Memory is on the
 * heap; lq_format_tokens_fini frees it. Thread rule: one thread. Limit: LQ_RECIPE_BYTES_MAX of
 * text bounds the number of tokens. */
#ifndef LQ_ENGINE_LANG_FORMAT_TOKENS_H
#define LQ_ENGINE_LANG_FORMAT_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/lang/lexer.h"

struct lq_format_token {
    enum lq_token_kind kind;
    uint32_t offset;
    uint32_t length;
    uint32_t line;
    uint32_t newlines;     /* since the token or comment before */
    uint32_t comments_end; /* comments before this token: from the comments_end of the one before */
    uint32_t match;        /* of an opening bracket: index of the closing one */
};

struct lq_format_comment {
    uint32_t offset;
    uint32_t length; /* without white space at the end */
    uint32_t newlines;
};

struct lq_format_tokens {
    const char *text;
    struct lq_format_token *tokens; /* the last one is END */
    size_t count;
    size_t capacity;
    struct lq_format_comment *comments;
    size_t comment_count;
    size_t comment_capacity;
};

/* False when memory is out. */
bool lq_format_tokens_read(struct lq_format_tokens *list, const struct lq_recipe_source *source,
                           struct lq_diagnostics *diagnostics);
void lq_format_tokens_fini(struct lq_format_tokens *list);
/* Index of the first comment before a token. */
size_t lq_format_tokens_comments(const struct lq_format_tokens *list, size_t token);
/* True when a comment stands before one of the tokens from `first` to `last`, both included. */
bool lq_format_tokens_commented(const struct lq_format_tokens *list, size_t first, size_t last);
/* Index behind the expression that starts at a token. */
size_t lq_format_tokens_expr_end(const struct lq_format_tokens *list, size_t start);

#endif
