#include "engine/lang/format_tokens.h"

#include <stdlib.h>
#include <string.h>

void lq_format_tokens_fini(struct lq_format_tokens *list)
{
    free(list->tokens);
    free(list->comments);
    memset(list, 0, sizeof *list);
}

static bool reserve(void **array, size_t count, size_t *capacity, size_t element_bytes)
{
    if (count < *capacity) {
        return true;
    }
    size_t larger = *capacity == 0 ? 256 : *capacity * 2;
    void *grown = realloc(*array, larger * element_bytes);
    if (grown != NULL) {
        *array = grown;
        *capacity = larger;
    }
    return grown != NULL;
}

static bool add_comment(struct lq_format_tokens *list, const struct lq_token *token)
{
    void *array = list->comments;
    bool fits =
        reserve(&array, list->comment_count, &list->comment_capacity, sizeof *list->comments);
    list->comments = array;
    if (fits) {
        uint32_t length = token->length;
        while (length > 0 && strchr(" \t\r", list->text[token->offset + length - 1]) != NULL) {
            length--;
        }
        list->comments[list->comment_count++] =
            (struct lq_format_comment){token->offset, length, token->newlines};
    }
    return fits;
}

static bool add_token(struct lq_format_tokens *list, const struct lq_token *token)
{
    void *array = list->tokens;
    bool fits = reserve(&array, list->count, &list->capacity, sizeof *list->tokens);
    list->tokens = array;
    if (fits) {
        list->tokens[list->count++] = (struct lq_format_token){
            .kind = token->kind,
            .offset = token->offset,
            .length = token->length,
            .line = token->position.line,
            .newlines = token->newlines,
            .comments_end = (uint32_t)list->comment_count,
        };
    }
    return fits;
}

static bool is_open(enum lq_token_kind kind)
{
    return kind == LQ_TOKEN_LEFT_BRACE || kind == LQ_TOKEN_LEFT_BRACKET ||
           kind == LQ_TOKEN_LEFT_PAREN;
}

static bool is_close(enum lq_token_kind kind)
{
    return kind == LQ_TOKEN_RIGHT_BRACE || kind == LQ_TOKEN_RIGHT_BRACKET ||
           kind == LQ_TOKEN_RIGHT_PAREN;
}

/* The text parses, so brackets are paired; `match` of an open one holds the one around it until its
 * partner is found, which makes the array its own stack. */
static void match_brackets(struct lq_format_tokens *list)
{
    uint32_t around = UINT32_MAX;
    for (uint32_t i = 0; i < list->count; i++) {
        if (is_open(list->tokens[i].kind)) {
            list->tokens[i].match = around;
            around = i;
        } else if (is_close(list->tokens[i].kind) && around != UINT32_MAX) {
            uint32_t outer = list->tokens[around].match;
            list->tokens[around].match = i;
            around = outer;
        }
    }
}

bool lq_format_tokens_read(struct lq_format_tokens *list, const struct lq_recipe_source *source,
                           struct lq_diagnostics *diagnostics)
{
    struct lq_lexer lexer;
    struct lq_token token;
    lq_lexer_init(&lexer, source, diagnostics);
    lexer.keep_comments = true;
    memset(list, 0, sizeof *list);
    list->text = source->text;
    do {
        lq_lexer_next(&lexer, &token);
        bool fits =
            token.kind == LQ_TOKEN_COMMENT ? add_comment(list, &token) : add_token(list, &token);
        if (!fits) {
            lq_diagnostics_nomem(diagnostics);
            return false;
        }
    } while (token.kind != LQ_TOKEN_END);
    match_brackets(list);
    return true;
}

size_t lq_format_tokens_comments(const struct lq_format_tokens *list, size_t token)
{
    return token == 0 ? 0 : list->tokens[token - 1].comments_end;
}

bool lq_format_tokens_commented(const struct lq_format_tokens *list, size_t first, size_t last)
{
    return list->tokens[last].comments_end > lq_format_tokens_comments(list, first);
}

static bool is_operator(enum lq_token_kind kind)
{
    return kind == LQ_TOKEN_PLUS || kind == LQ_TOKEN_MINUS || kind == LQ_TOKEN_STAR ||
           kind == LQ_TOKEN_SLASH;
}

size_t lq_format_tokens_expr_end(const struct lq_format_tokens *list, size_t start)
{
    size_t i = start;
    for (;;) {
        while (list->tokens[i].kind == LQ_TOKEN_MINUS) {
            i++;
        }
        i = is_open(list->tokens[i].kind) ? list->tokens[i].match + 1u : i + 1;
        if (i >= list->count || !is_operator(list->tokens[i].kind)) {
            return i;
        }
        i++;
    }
}
