#include "engine/lang/parser_core.h"

#include <stdio.h>

#include "engine/base/limits.h"

struct lq_diagnostics *lq_parser_diagnostics(const struct lq_parser *parser)
{
    return parser->options->diagnostics;
}

const char *lq_parser_text(const struct lq_parser *parser, const struct lq_token *token)
{
    return parser->source->text + token->offset;
}

void lq_parser_advance(struct lq_parser *parser)
{
    if (parser->token.kind == LQ_TOKEN_LEFT_BRACE) {
        parser->brace_depth++;
    } else if (parser->token.kind == LQ_TOKEN_RIGHT_BRACE && parser->brace_depth > 0) {
        parser->brace_depth--;
    }
    if (lq_parser_diagnostics(parser)->stop) {
        parser->token.kind = LQ_TOKEN_END;
    } else {
        lq_lexer_next(&parser->lexer, &parser->token);
    }
}

bool lq_parser_is_at(const struct lq_parser *parser, enum lq_token_kind kind)
{
    return parser->token.kind == kind;
}

bool lq_parser_accept(struct lq_parser *parser, enum lq_token_kind kind)
{
    bool found = lq_parser_is_at(parser, kind);
    if (found) {
        lq_parser_advance(parser);
    }
    return found;
}

void *lq_parser_expected(struct lq_parser *parser, const char *what)
{
    const struct lq_token *token = &parser->token;
    char got[LQ_PARSER_DESCRIPTION_BYTES];
    int shown = token->length > 60 ? 60 : (int)token->length;
    const char *dots = token->length > 60 ? "..." : "";
    if (token->kind == LQ_TOKEN_ERROR) {
        return NULL;
    }
    if (token->kind == LQ_TOKEN_END) {
        (void)snprintf(got, sizeof got, "the end of the file");
    } else if (token->kind == LQ_TOKEN_STRING) {
        (void)snprintf(got, sizeof got, "%.*s%s", shown, lq_parser_text(parser, token), dots);
    } else {
        (void)snprintf(got, sizeof got, "'%.*s%s'", shown, lq_parser_text(parser, token), dots);
    }
    lq_diagnostics_add(lq_parser_diagnostics(parser), &token->position, LQ_ERECIPE,
                       "expected %s, got %s", what, got);
    return NULL;
}

bool lq_parser_expect(struct lq_parser *parser, enum lq_token_kind kind, const char *what)
{
    if (lq_parser_accept(parser, kind)) {
        return true;
    }
    (void)lq_parser_expected(parser, what);
    return false;
}

void *lq_parser_get(struct lq_parser *parser, size_t size_bytes)
{
    void *memory = lq_arena_get(parser->options->arena, size_bytes);
    if (memory == NULL) {
        lq_diagnostics_nomem(lq_parser_diagnostics(parser));
    }
    return memory;
}

struct lq_symbol *lq_parser_symbol(struct lq_parser *parser, const char *text, size_t length,
                                   const struct lq_position *position)
{
    if (length > LQ_NAME_BYTES_MAX) {
        lq_diagnostics_add(lq_parser_diagnostics(parser), position, LQ_ERECIPE,
                           "the name is longer than the limit of %d bytes", LQ_NAME_BYTES_MAX);
        return NULL;
    }
    struct lq_symbol *symbol = lq_symbols_get(parser->options->symbols, text, length);
    if (symbol == NULL) {
        lq_diagnostics_nomem(lq_parser_diagnostics(parser));
    }
    return symbol;
}

struct lq_symbol *lq_parser_token_symbol(struct lq_parser *parser)
{
    return lq_parser_symbol(parser, lq_parser_text(parser, &parser->token), parser->token.length,
                            &parser->token.position);
}

struct lq_expr *lq_parser_new_expr(struct lq_parser *parser, enum lq_expr_kind kind,
                                   const struct lq_position *position)
{
    struct lq_expr *expr = lq_parser_get(parser, sizeof *expr);
    if (expr != NULL) {
        expr->kind = kind;
        expr->position = *position;
    }
    return expr;
}

bool lq_parser_is_item_start(const struct lq_parser *parser)
{
    struct lq_lexer ahead = parser->lexer;
    struct lq_token next = {.kind = LQ_TOKEN_END};
    ahead.quiet = true;
    switch (parser->token.kind) {
    case LQ_TOKEN_LET:
    case LQ_TOKEN_FOR:
    case LQ_TOKEN_INCLUDE:
    case LQ_TOKEN_DEFAULT:
        lq_lexer_next(&ahead, &next);
        return next.kind == LQ_TOKEN_NAME || next.kind == LQ_TOKEN_STRING;
    case LQ_TOKEN_NAME:
        lq_lexer_next(&ahead, &next);
        if (next.kind == LQ_TOKEN_NAME || next.kind == LQ_TOKEN_STRING) {
            lq_lexer_next(&ahead, &next);
            return next.kind == LQ_TOKEN_LEFT_BRACE;
        }
        return false;
    default:
        return false;
    }
}
