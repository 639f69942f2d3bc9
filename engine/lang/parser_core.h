/* What the parts of the parser share: the text with its current token, and the words for what is
 * missing. Private to parser.c, expr_parser.c and parser_core.c. Functions that return a pointer
 * return NULL, and those that return bool false, after they have added a diagnostic. Thread rule:
 * one thread. */
#ifndef LQ_ENGINE_LANG_PARSER_CORE_H
#define LQ_ENGINE_LANG_PARSER_CORE_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/buffer.h"
#include "engine/lang/lexer.h"
#include "engine/lang/parser.h"

enum { LQ_PARSER_DESCRIPTION_BYTES = 96 };

struct lq_parser {
    const struct lq_parse_options *options;
    struct lq_recipe_source *source;
    struct lq_lexer lexer;
    struct lq_token token;
    struct lq_buffer text; /* of the string that is being decoded */
    unsigned brace_depth;
    unsigned expr_depth;
    unsigned loop_depth;
};

struct lq_diagnostics *lq_parser_diagnostics(const struct lq_parser *parser);
/* The text of a token; its length is in the token. */
const char *lq_parser_text(const struct lq_parser *parser, const struct lq_token *token);
/* To the next token; to END once the diagnostics say stop. */
void lq_parser_advance(struct lq_parser *parser);
bool lq_parser_is_at(const struct lq_parser *parser, enum lq_token_kind kind);
/* Moves behind the token if it is of this kind. No diagnostic. */
bool lq_parser_accept(struct lq_parser *parser, enum lq_token_kind kind);
/* The same with a diagnostic: "expected WHAT, got the token". */
bool lq_parser_expect(struct lq_parser *parser, enum lq_token_kind kind, const char *what);
/* Adds that diagnostic and returns NULL. The lexer has spoken already about an ERROR token. */
void *lq_parser_expected(struct lq_parser *parser, const char *what);
/* True at `let`, `for`, `include`, `default` and `rule name {` as items begin. No diagnostic. */
bool lq_parser_is_item_start(const struct lq_parser *parser);

/* Zeroed memory from the arena. */
void *lq_parser_get(struct lq_parser *parser, size_t size_bytes);
struct lq_symbol *lq_parser_symbol(struct lq_parser *parser, const char *text, size_t length,
                                   const struct lq_position *position);
/* The symbol of the current token. */
struct lq_symbol *lq_parser_token_symbol(struct lq_parser *parser);
struct lq_expr *lq_parser_new_expr(struct lq_parser *parser, enum lq_expr_kind kind,
                                   const struct lq_position *position);

/* Expressions, in expr_parser.c. */
struct lq_expr *lq_parse_expr(struct lq_parser *parser);
/* A string token: STRING or TEMPLATE. */
struct lq_expr *lq_parse_string(struct lq_parser *parser);
/* A name token: NAME. */
struct lq_expr *lq_parse_name(struct lq_parser *parser);

#endif
