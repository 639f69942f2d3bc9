#include "engine/lang/parser.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/limits.h"
#include "engine/lang/lexer.h"
#include "engine/lang/literal.h"

struct parser {
    const struct lq_parse_options *options;
    struct lq_recipe_source *source;
    struct lq_lexer lexer;
    struct lq_token token;
    struct lq_buffer text; /* of the string that is being decoded */
    unsigned brace_depth;
    unsigned expr_depth;
    unsigned loop_depth;
};

enum { DESCRIPTION_BYTES = 96 };

static struct lq_diagnostics *diagnostics_of(const struct parser *parser)
{
    return parser->options->diagnostics;
}

static const char *token_text(const struct parser *parser, const struct lq_token *token)
{
    return parser->source->text + token->offset;
}

static void advance(struct parser *parser)
{
    if (parser->token.kind == LQ_TOKEN_LEFT_BRACE) {
        parser->brace_depth++;
    } else if (parser->token.kind == LQ_TOKEN_RIGHT_BRACE && parser->brace_depth > 0) {
        parser->brace_depth--;
    }
    if (diagnostics_of(parser)->stop) {
        parser->token.kind = LQ_TOKEN_END;
    } else {
        lq_lexer_next(&parser->lexer, &parser->token);
    }
}

static bool is_at(const struct parser *parser, enum lq_token_kind kind)
{
    return parser->token.kind == kind;
}

static bool accept(struct parser *parser, enum lq_token_kind kind)
{
    bool found = is_at(parser, kind);
    if (found) {
        advance(parser);
    }
    return found;
}

/* "expected WHAT, got the token"; the lexer has spoken already about an ERROR token. */
static void *expected(struct parser *parser, const char *what)
{
    const struct lq_token *token = &parser->token;
    char got[DESCRIPTION_BYTES];
    int shown = token->length > 60 ? 60 : (int)token->length;
    const char *dots = token->length > 60 ? "..." : "";
    if (token->kind == LQ_TOKEN_ERROR) {
        return NULL;
    }
    if (token->kind == LQ_TOKEN_END) {
        (void)snprintf(got, sizeof got, "the end of the file");
    } else if (token->kind == LQ_TOKEN_STRING) {
        (void)snprintf(got, sizeof got, "%.*s%s", shown, token_text(parser, token), dots);
    } else {
        (void)snprintf(got, sizeof got, "'%.*s%s'", shown, token_text(parser, token), dots);
    }
    lq_diagnostics_add(diagnostics_of(parser), &token->position, LQ_ERECIPE, "expected %s, got %s",
                       what, got);
    return NULL;
}

static bool expect(struct parser *parser, enum lq_token_kind kind, const char *what)
{
    if (accept(parser, kind)) {
        return true;
    }
    (void)expected(parser, what);
    return false;
}

static void *get(struct parser *parser, size_t size_bytes)
{
    void *memory = lq_arena_get(parser->options->arena, size_bytes);
    if (memory == NULL) {
        lq_diagnostics_nomem(diagnostics_of(parser));
    }
    return memory;
}

static struct lq_symbol *symbol_of(struct parser *parser, const char *text, size_t length,
                                   const struct lq_position *position)
{
    if (length > LQ_NAME_BYTES_MAX) {
        lq_diagnostics_add(diagnostics_of(parser), position, LQ_ERECIPE,
                           "the name is longer than the limit of %d bytes", LQ_NAME_BYTES_MAX);
        return NULL;
    }
    struct lq_symbol *symbol = lq_symbols_get(parser->options->symbols, text, length);
    if (symbol == NULL) {
        lq_diagnostics_nomem(diagnostics_of(parser));
    }
    return symbol;
}

static struct lq_symbol *token_symbol(struct parser *parser)
{
    return symbol_of(parser, token_text(parser, &parser->token), parser->token.length,
                     &parser->token.position);
}

static struct lq_expr *new_expr(struct parser *parser, enum lq_expr_kind kind,
                                const struct lq_position *position)
{
    struct lq_expr *expr = get(parser, sizeof *expr);
    if (expr != NULL) {
        expr->kind = kind;
        expr->position = *position;
    }
    return expr;
}

/* True at `let`, `for`, `include`, `default` and `rule name {` as items begin. */
static bool is_item_start(const struct parser *parser)
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

/* ------------------------------------------------------------- expressions ---- */

static struct lq_expr *parse_expr(struct parser *parser);

/* The position of a byte inside the string token that is being decoded. */
static struct lq_position inside_position(const struct parser *parser, size_t offset)
{
    const char *inside = token_text(parser, &parser->token) + 1;
    struct lq_position position = parser->token.position;
    position.column++;
    for (size_t i = 0; i < offset; i++) {
        position.column += ((unsigned char)inside[i] & 0xc0u) != 0x80u;
    }
    return position;
}

static struct lq_expr *text_expr(struct parser *parser, const struct lq_position *position)
{
    struct lq_expr *expr = new_expr(parser, LQ_EXPR_STRING, position);
    if (expr != NULL) {
        expr->is.string = lq_arena_dup(parser->options->arena, lq_buffer_text(&parser->text),
                                       parser->text.size_bytes);
        if (expr->is.string == NULL || parser->text.failed) {
            lq_diagnostics_nomem(diagnostics_of(parser));
            return NULL;
        }
    }
    lq_buffer_clear(&parser->text);
    return expr;
}

static struct lq_expr *name_piece(struct parser *parser, const struct lq_string_reader *reader)
{
    struct lq_position position = inside_position(parser, reader->offset);
    struct lq_expr *expr = new_expr(parser, LQ_EXPR_NAME, &position);
    if (expr != NULL) {
        expr->is.symbol =
            symbol_of(parser, reader->text + reader->offset, reader->name_length, &position);
        expr = expr->is.symbol == NULL ? NULL : expr;
    }
    return expr;
}

static struct lq_expr *parse_string(struct parser *parser)
{
    struct lq_position position = parser->token.position;
    struct lq_string_reader reader;
    lq_string_reader_init(&reader, token_text(parser, &parser->token) + 1,
                          parser->token.length - 2);
    struct lq_expr *first = NULL;
    struct lq_expr **link = &first;
    uint32_t count = 0;
    bool only_text = true;
    lq_buffer_clear(&parser->text);
    for (;;) {
        enum lq_piece_kind piece = lq_string_reader_next(&reader, &parser->text);
        if (piece == LQ_PIECE_END) {
            break;
        }
        if (piece == LQ_PIECE_BAD) {
            struct lq_position bad = inside_position(parser, reader.offset);
            lq_diagnostics_add(diagnostics_of(parser), &bad, LQ_ERECIPE, "%s", reader.problem);
            return NULL;
        }
        *link = piece == LQ_PIECE_TEXT ? text_expr(parser, &position) : name_piece(parser, &reader);
        if (*link == NULL) {
            return NULL;
        }
        only_text = only_text && piece == LQ_PIECE_TEXT;
        link = &(*link)->next;
        count++;
    }
    struct lq_expr *expr = first;
    if (count == 0) {
        expr = text_expr(parser, &position);
    } else if (count > 1 || !only_text) {
        expr = new_expr(parser, LQ_EXPR_TEMPLATE, &position);
        if (expr != NULL) {
            expr->is.children = first;
            expr->child_count = count;
        }
    }
    advance(parser);
    return expr;
}

static struct lq_expr *parse_number(struct parser *parser)
{
    struct lq_expr *expr = new_expr(parser, LQ_EXPR_NUMBER, &parser->token.position);
    const char *problem = NULL;
    const char *text = token_text(parser, &parser->token);
    if (expr != NULL &&
        !lq_literal_number(text, parser->token.length, &expr->is.number, &problem)) {
        lq_diagnostics_add(diagnostics_of(parser), &parser->token.position, LQ_ERECIPE,
                           "%s: '%.*s'", problem,
                           parser->token.length > 60 ? 60 : (int)parser->token.length, text);
        return NULL;
    }
    advance(parser);
    return expr;
}

static struct lq_expr *parse_list(struct parser *parser)
{
    struct lq_expr *list = new_expr(parser, LQ_EXPR_LIST, &parser->token.position);
    advance(parser);
    struct lq_expr **link = list == NULL ? NULL : &list->is.children;
    while (list != NULL && !is_at(parser, LQ_TOKEN_RIGHT_BRACKET)) {
        *link = parse_expr(parser);
        if (*link == NULL) {
            return NULL;
        }
        link = &(*link)->next;
        list->child_count++;
        if (!accept(parser, LQ_TOKEN_COMMA) && !is_at(parser, LQ_TOKEN_RIGHT_BRACKET)) {
            return expected(parser, "',' or ']' in the list");
        }
    }
    advance(parser);
    return list;
}

static struct lq_expr *parse_map(struct parser *parser)
{
    struct lq_expr *map = new_expr(parser, LQ_EXPR_MAP, &parser->token.position);
    advance(parser);
    struct lq_expr **link = map == NULL ? NULL : &map->is.children;
    while (map != NULL && !is_at(parser, LQ_TOKEN_RIGHT_BRACE)) {
        if (!is_at(parser, LQ_TOKEN_STRING)) {
            return expected(parser, "a key in quotes or '}' in the map");
        }
        *link = parse_string(parser);
        if (*link == NULL || !expect(parser, LQ_TOKEN_EQUALS, "'=' after the key")) {
            return NULL;
        }
        link = &(*link)->next;
        *link = parse_expr(parser);
        if (*link == NULL) {
            return NULL;
        }
        link = &(*link)->next;
        map->child_count += 2;
        (void)accept(parser, LQ_TOKEN_COMMA);
    }
    advance(parser);
    return map;
}

static struct lq_expr *parse_paren(struct parser *parser)
{
    advance(parser);
    struct lq_expr *expr = parse_expr(parser);
    if (expr != NULL && !expect(parser, LQ_TOKEN_RIGHT_PAREN, "')'")) {
        return NULL;
    }
    return expr;
}

static struct lq_expr *parse_name(struct parser *parser)
{
    struct lq_expr *expr = new_expr(parser, LQ_EXPR_NAME, &parser->token.position);
    if (expr != NULL) {
        expr->is.symbol = token_symbol(parser);
        expr = expr->is.symbol == NULL ? NULL : expr;
    }
    if (expr != NULL) {
        advance(parser);
    }
    return expr;
}

static struct lq_expr *parse_primary(struct parser *parser)
{
    /* A value that is missing at the end of a line must not eat the item that follows. */
    if (parser->token.newlines > 0 && is_item_start(parser)) {
        return expected(parser, "a value");
    }
    switch (parser->token.kind) {
    case LQ_TOKEN_STRING:
        return parse_string(parser);
    case LQ_TOKEN_NUMBER:
        return parse_number(parser);
    case LQ_TOKEN_NAME:
        return parse_name(parser);
    case LQ_TOKEN_LEFT_BRACKET:
        return parse_list(parser);
    case LQ_TOKEN_LEFT_BRACE:
        return parse_map(parser);
    case LQ_TOKEN_LEFT_PAREN:
        return parse_paren(parser);
    case LQ_TOKEN_TRUE:
    case LQ_TOKEN_FALSE: {
        struct lq_expr *expr = new_expr(parser, LQ_EXPR_BOOL, &parser->token.position);
        if (expr != NULL) {
            expr->boolean = is_at(parser, LQ_TOKEN_TRUE);
            advance(parser);
        }
        return expr;
    }
    default:
        return expected(parser, "a value");
    }
}

static struct lq_expr *parse_unary(struct parser *parser)
{
    struct lq_position position = parser->token.position;
    bool negative = false;
    while (accept(parser, LQ_TOKEN_MINUS)) {
        negative = !negative;
    }
    struct lq_expr *operand = parse_primary(parser);
    if (operand == NULL || !negative) {
        return operand;
    }
    struct lq_expr *expr = new_expr(parser, LQ_EXPR_NEGATE, &position);
    if (expr != NULL) {
        expr->is.children = operand;
        expr->child_count = 1;
    }
    return expr;
}

/* Operands of one precedence become the children of one node, so a long chain is not deep. */
static struct lq_expr *parse_chain(struct parser *parser, enum lq_expr_kind kind)
{
    bool is_sum = kind == LQ_EXPR_SUM;
    enum lq_token_kind plus = is_sum ? LQ_TOKEN_PLUS : LQ_TOKEN_STAR;
    enum lq_token_kind minus = is_sum ? LQ_TOKEN_MINUS : LQ_TOKEN_SLASH;
    struct lq_expr *first = is_sum ? parse_chain(parser, LQ_EXPR_PRODUCT) : parse_unary(parser);
    if (first == NULL || (!is_at(parser, plus) && !is_at(parser, minus))) {
        return first;
    }
    struct lq_expr *chain = new_expr(parser, kind, &first->position);
    if (chain == NULL) {
        return NULL;
    }
    chain->is.children = first;
    chain->child_count = 1;
    struct lq_expr *last = first;
    while (is_at(parser, plus) || is_at(parser, minus)) {
        char sign = *token_text(parser, &parser->token);
        advance(parser);
        last->next = is_sum ? parse_chain(parser, LQ_EXPR_PRODUCT) : parse_unary(parser);
        last = last->next;
        if (last == NULL) {
            return NULL;
        }
        last->sign = sign;
        chain->child_count++;
    }
    return chain;
}

static struct lq_expr *parse_expr(struct parser *parser)
{
    if (parser->expr_depth == LQ_RECIPE_DEPTH_MAX) {
        lq_diagnostics_stop(diagnostics_of(parser), &parser->token.position, LQ_ERECIPE,
                            "the expression is nested deeper than the limit of %d levels",
                            LQ_RECIPE_DEPTH_MAX);
        return NULL;
    }
    parser->expr_depth++;
    struct lq_expr *expr = parse_chain(parser, LQ_EXPR_SUM);
    parser->expr_depth--;
    return expr;
}

/* ------------------------------------------------------------------- items ---- */

static struct lq_item *parse_list_of_items(struct parser *parser, bool nested);

static struct lq_item *new_item(struct parser *parser, enum lq_item_kind kind)
{
    struct lq_item *item = get(parser, sizeof *item);
    if (item != NULL) {
        item->kind = kind;
        item->position = parser->token.position;
    }
    return item;
}

/* The name behind `let` and `for`. */
static bool take_variable(struct parser *parser, struct lq_item *item, const char *what)
{
    if (!is_at(parser, LQ_TOKEN_NAME)) {
        (void)expected(parser, what);
        return false;
    }
    item->position = parser->token.position;
    item->symbol = token_symbol(parser);
    advance(parser);
    return item->symbol != NULL;
}

static struct lq_item *parse_let(struct parser *parser)
{
    struct lq_item *item = new_item(parser, LQ_ITEM_LET);
    advance(parser);
    if (item == NULL || !take_variable(parser, item, "a name after 'let'") ||
        !expect(parser, LQ_TOKEN_EQUALS, "'=' after the name of the let")) {
        return NULL;
    }
    item->expr = parse_expr(parser);
    if (item->expr == NULL) {
        return NULL;
    }
    if (parser->loop_depth == 0) {
        item->let = get(parser, sizeof *item->let);
        if (item->let == NULL) {
            return NULL;
        }
        item->let->symbol = item->symbol;
        item->let->position = item->position;
        item->let->expr = item->expr;
    }
    return item;
}

static void missing_brace(struct parser *parser, const char *what, const struct lq_position *open)
{
    if (!is_at(parser, LQ_TOKEN_ERROR)) {
        lq_diagnostics_add(diagnostics_of(parser), &parser->token.position, LQ_ERECIPE,
                           "expected '}' to close the block of %s that opens at line %u", what,
                           open->line);
    }
}

static struct lq_item *parse_for(struct parser *parser)
{
    struct lq_item *item = new_item(parser, LQ_ITEM_FOR);
    advance(parser);
    if (item == NULL || !take_variable(parser, item, "a name after 'for'") ||
        !expect(parser, LQ_TOKEN_IN, "'in' after the loop variable")) {
        return NULL;
    }
    item->expr = parse_expr(parser);
    struct lq_position open = parser->token.position;
    if (item->expr == NULL ||
        !expect(parser, LQ_TOKEN_LEFT_BRACE, "'{' after the list of the loop")) {
        return NULL;
    }
    if (parser->loop_depth == LQ_RECIPE_DEPTH_MAX) {
        lq_diagnostics_stop(diagnostics_of(parser), &item->position, LQ_ERECIPE,
                            "loops are nested deeper than the limit of %d levels",
                            LQ_RECIPE_DEPTH_MAX);
        return NULL;
    }
    parser->loop_depth++;
    item->items = parse_list_of_items(parser, true);
    parser->loop_depth--;
    if (!is_at(parser, LQ_TOKEN_RIGHT_BRACE)) {
        missing_brace(parser, "'for'", &open);
        return NULL;
    }
    advance(parser);
    return item;
}

static struct lq_item *parse_default(struct parser *parser)
{
    struct lq_item *item = new_item(parser, LQ_ITEM_DEFAULT);
    advance(parser);
    if (item == NULL) {
        return NULL;
    }
    struct lq_expr **link = &item->expr;
    do {
        if (is_at(parser, LQ_TOKEN_STRING)) {
            *link = parse_string(parser);
        } else if (is_at(parser, LQ_TOKEN_NAME)) {
            *link = parse_name(parser);
        } else {
            return expected(parser, "the name of an artifact after 'default'");
        }
        if (*link == NULL) {
            return NULL;
        }
        link = &(*link)->next;
    } while (accept(parser, LQ_TOKEN_COMMA));
    return item;
}

static bool parse_attrs(struct parser *parser, struct lq_item *item, const struct lq_position *open)
{
    struct lq_attr_node **link = &item->attrs;
    while (!is_at(parser, LQ_TOKEN_RIGHT_BRACE)) {
        if (is_at(parser, LQ_TOKEN_END) || (parser->token.newlines > 0 && is_item_start(parser))) {
            char what[DESCRIPTION_BYTES];
            (void)snprintf(what, sizeof what, "'%.60s'", item->symbol->text);
            missing_brace(parser, what, open);
            return false;
        }
        if (!is_at(parser, LQ_TOKEN_NAME) && !lq_token_is_keyword(parser->token.kind)) {
            (void)expected(parser, "an attribute name or '}'");
            return false;
        }
        struct lq_attr_node *attr = get(parser, sizeof *attr);
        if (attr == NULL) {
            return false;
        }
        attr->position = parser->token.position;
        attr->symbol = token_symbol(parser);
        advance(parser);
        if (attr->symbol == NULL || !expect(parser, LQ_TOKEN_EQUALS, "'=' after the attribute")) {
            return false;
        }
        attr->expr = parse_expr(parser);
        if (attr->expr == NULL) {
            return false;
        }
        *link = attr;
        link = &attr->next;
        (void)accept(parser, LQ_TOKEN_COMMA);
    }
    advance(parser);
    return true;
}

static struct lq_item *parse_artifact(struct parser *parser)
{
    struct lq_item *item = new_item(parser, LQ_ITEM_ARTIFACT);
    if (item == NULL) {
        return NULL;
    }
    item->symbol = token_symbol(parser);
    advance(parser);
    if (item->symbol == NULL) {
        return NULL;
    }
    if (is_at(parser, LQ_TOKEN_EQUALS)) {
        lq_diagnostics_add(diagnostics_of(parser), &item->position, LQ_ERECIPE,
                           "'%s = ...' stands outside of an artifact; write 'let %s = ...' for a "
                           "variable",
                           item->symbol->text, item->symbol->text);
        return NULL;
    }
    if (is_at(parser, LQ_TOKEN_STRING)) {
        item->expr = parse_string(parser);
    } else if (is_at(parser, LQ_TOKEN_NAME)) {
        item->expr = new_expr(parser, LQ_EXPR_STRING, &parser->token.position);
        const struct lq_symbol *name = token_symbol(parser);
        if (item->expr != NULL && name != NULL) {
            item->expr->is.string = name->text;
        }
        advance(parser);
    } else {
        char what[DESCRIPTION_BYTES];
        (void)snprintf(what, sizeof what, "a name for the artifact after '%.60s'",
                       item->symbol->text);
        return expected(parser, what);
    }
    struct lq_position open = parser->token.position;
    if (item->expr == NULL ||
        (item->expr->kind == LQ_EXPR_STRING && item->expr->is.string == NULL) ||
        !expect(parser, LQ_TOKEN_LEFT_BRACE, "'{' after the name of the artifact")) {
        return NULL;
    }
    return parse_attrs(parser, item, &open) ? item : NULL;
}

/* "a.lq -> b.lq -> a.lq" */
static void report_include_cycle(struct parser *parser, const struct lq_recipe_source *again,
                                 const struct lq_position *position)
{
    const struct lq_recipe_source *path[LQ_RECIPE_DEPTH_MAX + 1];
    size_t count = 0;
    for (const struct lq_recipe_source *source = parser->source; source != NULL;
         source = source->includer) {
        path[count++] = source;
        if (source == again || count > LQ_RECIPE_DEPTH_MAX) {
            break;
        }
    }
    struct lq_buffer text;
    lq_buffer_init(&text);
    for (size_t i = count; i > 0; i--) {
        lq_buffer_printf(&text, "%s -> ", path[i - 1]->name);
    }
    lq_buffer_append_string(&text, again->name);
    lq_diagnostics_add(diagnostics_of(parser), position, LQ_ERECIPE, "include cycle: %s",
                       lq_buffer_text(&text));
    lq_buffer_fini(&text);
}

static bool include_file(struct parser *parser, struct lq_item *item, const char *written)
{
    const struct lq_parse_options *options = parser->options;
    unsigned depth = 1;
    for (const struct lq_recipe_source *up = parser->source; up != NULL; up = up->includer) {
        depth++;
    }
    if (depth > LQ_RECIPE_DEPTH_MAX) {
        lq_diagnostics_stop(options->diagnostics, &item->position, LQ_ERECIPE,
                            "includes are nested deeper than the limit of %d levels",
                            LQ_RECIPE_DEPTH_MAX);
        return false;
    }
    const char *path = lq_path_join(options->arena, parser->source->dir, written);
    if (path == NULL) {
        lq_diagnostics_nomem(options->diagnostics);
        return false;
    }
    struct lq_recipe_source *source = NULL;
    bool known = false;
    struct lq_error err = {0};
    enum lq_status status = lq_recipe_sources_open(options->sources, path, &source, &known, &err);
    if (status != LQ_OK) {
        lq_diagnostics_add(options->diagnostics, &item->position, status, "cannot include %s",
                           err.message);
        return false;
    }
    if (known) {
        if (source->is_open) {
            report_include_cycle(parser, source, &item->position);
        }
        return !source->is_open;
    }
    source->includer = parser->source;
    item->items = lq_parse_items(options, source);
    return true;
}

static struct lq_item *parse_include(struct parser *parser)
{
    struct lq_item *item = new_item(parser, LQ_ITEM_INCLUDE);
    advance(parser);
    if (item == NULL || !is_at(parser, LQ_TOKEN_STRING)) {
        return item == NULL ? NULL : expected(parser, "a file name in quotes after 'include'");
    }
    struct lq_position start = item->position;
    item->position = parser->token.position;
    const struct lq_expr *path = parse_string(parser);
    if (path == NULL) {
        return NULL;
    }
    if (parser->loop_depth > 0) {
        lq_diagnostics_add(diagnostics_of(parser), &start, LQ_ERECIPE,
                           "'include' cannot stand in a loop; move it to the top level");
        return NULL;
    }
    if (path->kind != LQ_EXPR_STRING || path->is.string[0] == '\0') {
        lq_diagnostics_add(diagnostics_of(parser), &item->position, LQ_ERECIPE,
                           "'include' needs a plain file name, without {names} and not empty");
        return NULL;
    }
    if (parser->options->sources != NULL && !include_file(parser, item, path->is.string)) {
        return NULL;
    }
    return item;
}

static struct lq_item *parse_item(struct parser *parser)
{
    switch (parser->token.kind) {
    case LQ_TOKEN_LET:
        return parse_let(parser);
    case LQ_TOKEN_FOR:
        return parse_for(parser);
    case LQ_TOKEN_INCLUDE:
        return parse_include(parser);
    case LQ_TOKEN_DEFAULT:
        return parse_default(parser);
    case LQ_TOKEN_NAME:
        return parse_artifact(parser);
    default:
        return expected(parser, "a rule, let, for, include or default");
    }
}

/* Skips to where the next item seems to begin: behind the brace that closes the broken item, or at
 * a line that starts like an item. A '}' that belongs to the loop around stays. */
static void recover(struct parser *parser, unsigned depth, uint32_t start_offset, bool nested)
{
    if (parser->token.offset == start_offset && !is_at(parser, LQ_TOKEN_END)) {
        advance(parser);
    }
    while (!is_at(parser, LQ_TOKEN_END)) {
        if (parser->token.newlines > 0 && is_item_start(parser)) {
            parser->brace_depth = depth;
            return;
        }
        if (is_at(parser, LQ_TOKEN_RIGHT_BRACE)) {
            if (parser->brace_depth <= depth && nested) {
                return;
            }
            bool closes = parser->brace_depth <= depth + 1;
            advance(parser);
            if (closes) {
                parser->brace_depth = depth;
                return;
            }
            continue;
        }
        advance(parser);
    }
}

static struct lq_item *parse_list_of_items(struct parser *parser, bool nested)
{
    struct lq_item *first = NULL;
    struct lq_item **link = &first;
    while (!is_at(parser, LQ_TOKEN_END) && !(nested && is_at(parser, LQ_TOKEN_RIGHT_BRACE))) {
        unsigned depth = parser->brace_depth;
        uint32_t start_offset = parser->token.offset;
        struct lq_item *item = parse_item(parser);
        if (item == NULL) {
            parser->lexer.quiet = true;
            recover(parser, depth, start_offset, nested);
            parser->lexer.quiet = false;
        } else {
            *link = item;
            link = &item->next;
        }
    }
    return first;
}

static bool open_parser(struct parser *parser, const struct lq_parse_options *options,
                        struct lq_recipe_source *source)
{
    size_t valid = lq_recipe_utf8_check(source->text, source->size_bytes);
    if (valid < source->size_bytes) {
        struct lq_position position = lq_recipe_source_position(source, valid);
        lq_diagnostics_add(options->diagnostics, &position, LQ_ERECIPE,
                           "byte 0x%02x is no UTF-8 text; save the file as UTF-8",
                           (unsigned char)source->text[valid]);
        return false;
    }
    memset(parser, 0, sizeof *parser);
    parser->options = options;
    parser->source = source;
    lq_buffer_init(&parser->text);
    lq_lexer_init(&parser->lexer, source, options->diagnostics);
    lq_lexer_next(&parser->lexer, &parser->token);
    return true;
}

struct lq_item *lq_parse_items(const struct lq_parse_options *options,
                               struct lq_recipe_source *source)
{
    struct parser parser;
    if (!open_parser(&parser, options, source)) {
        return NULL;
    }
    source->is_open = true;
    struct lq_item *items = parse_list_of_items(&parser, false);
    source->is_open = false;
    lq_buffer_fini(&parser.text);
    return items;
}

struct lq_expr *lq_parse_expression(const struct lq_parse_options *options,
                                    struct lq_recipe_source *source)
{
    struct parser parser;
    if (!open_parser(&parser, options, source)) {
        return NULL;
    }
    struct lq_expr *expr = parse_expr(&parser);
    if (expr != NULL && !is_at(&parser, LQ_TOKEN_END)) {
        expr = expected(&parser, "nothing more behind the value");
    }
    lq_buffer_fini(&parser.text);
    return expr;
}
