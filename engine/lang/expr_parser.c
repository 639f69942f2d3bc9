#include "engine/base/limits.h"
#include "engine/lang/literal.h"
#include "engine/lang/parser_core.h"

/* Where a byte inside the string token stands. Pieces come in order, so each walk goes on where the
 * last one ended and a long string costs its length once. */
struct inside {
    const char *text;
    size_t offset;
    struct lq_position position;
};

static const struct lq_position *move_inside(struct inside *inside, size_t offset)
{
    for (; inside->offset < offset; inside->offset++) {
        unsigned char c = (unsigned char)inside->text[inside->offset];
        inside->position.column += (c & 0xc0u) != 0x80u;
    }
    return &inside->position;
}

static struct lq_expr *text_expr(struct lq_parser *parser, const struct lq_position *position)
{
    struct lq_expr *expr = lq_parser_new_expr(parser, LQ_EXPR_STRING, position);
    if (expr != NULL) {
        expr->is.string = lq_arena_dup(parser->options->arena, lq_buffer_text(&parser->text),
                                       parser->text.size_bytes);
        if (expr->is.string == NULL || parser->text.failed) {
            lq_diagnostics_nomem(lq_parser_diagnostics(parser));
            return NULL;
        }
    }
    lq_buffer_clear(&parser->text);
    return expr;
}

static struct lq_expr *name_piece(struct lq_parser *parser, const struct lq_string_reader *reader,
                                  const struct lq_position *position)
{
    struct lq_expr *expr = lq_parser_new_expr(parser, LQ_EXPR_NAME, position);
    if (expr != NULL) {
        expr->is.symbol =
            lq_parser_symbol(parser, reader->text + reader->offset, reader->name_length, position);
        expr = expr->is.symbol == NULL ? NULL : expr;
    }
    return expr;
}

struct lq_expr *lq_parse_string(struct lq_parser *parser)
{
    struct lq_position position = parser->token.position;
    struct lq_string_reader reader;
    lq_string_reader_init(&reader, lq_parser_text(parser, &parser->token) + 1,
                          parser->token.length - 2);
    struct inside inside = {.text = reader.text, .position = position};
    inside.position.column++;
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
            lq_diagnostics_add(lq_parser_diagnostics(parser), move_inside(&inside, reader.offset),
                               LQ_ERECIPE, "%s", reader.problem);
            return NULL;
        }
        *link = piece == LQ_PIECE_TEXT
                    ? text_expr(parser, &position)
                    : name_piece(parser, &reader, move_inside(&inside, reader.offset));
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
        expr = lq_parser_new_expr(parser, LQ_EXPR_TEMPLATE, &position);
        if (expr != NULL) {
            expr->is.children = first;
            expr->child_count = count;
        }
    }
    lq_parser_advance(parser);
    return expr;
}

static struct lq_expr *parse_number(struct lq_parser *parser)
{
    struct lq_expr *expr = lq_parser_new_expr(parser, LQ_EXPR_NUMBER, &parser->token.position);
    const char *problem = NULL;
    const char *text = lq_parser_text(parser, &parser->token);
    if (expr != NULL &&
        !lq_literal_number(text, parser->token.length, &expr->is.number, &problem)) {
        lq_diagnostics_add(lq_parser_diagnostics(parser), &parser->token.position, LQ_ERECIPE,
                           "%s: '%.*s'", problem,
                           parser->token.length > 60 ? 60 : (int)parser->token.length, text);
        return NULL;
    }
    lq_parser_advance(parser);
    return expr;
}

static struct lq_expr *parse_list(struct lq_parser *parser)
{
    struct lq_expr *list = lq_parser_new_expr(parser, LQ_EXPR_LIST, &parser->token.position);
    lq_parser_advance(parser);
    struct lq_expr **link = list == NULL ? NULL : &list->is.children;
    while (list != NULL && !lq_parser_is_at(parser, LQ_TOKEN_RIGHT_BRACKET)) {
        *link = lq_parse_expr(parser);
        if (*link == NULL) {
            return NULL;
        }
        link = &(*link)->next;
        list->child_count++;
        if (!lq_parser_accept(parser, LQ_TOKEN_COMMA) &&
            !lq_parser_is_at(parser, LQ_TOKEN_RIGHT_BRACKET)) {
            return lq_parser_expected(parser, "',' or ']' in the list");
        }
    }
    lq_parser_advance(parser);
    return list;
}

static struct lq_expr *parse_map(struct lq_parser *parser)
{
    struct lq_expr *map = lq_parser_new_expr(parser, LQ_EXPR_MAP, &parser->token.position);
    lq_parser_advance(parser);
    struct lq_expr **link = map == NULL ? NULL : &map->is.children;
    while (map != NULL && !lq_parser_is_at(parser, LQ_TOKEN_RIGHT_BRACE)) {
        if (!lq_parser_is_at(parser, LQ_TOKEN_STRING)) {
            return lq_parser_expected(parser, "a key in quotes or '}' in the map");
        }
        *link = lq_parse_string(parser);
        if (*link == NULL || !lq_parser_expect(parser, LQ_TOKEN_EQUALS, "'=' after the key")) {
            return NULL;
        }
        link = &(*link)->next;
        *link = lq_parse_expr(parser);
        if (*link == NULL) {
            return NULL;
        }
        link = &(*link)->next;
        map->child_count += 2;
        (void)lq_parser_accept(parser, LQ_TOKEN_COMMA);
    }
    lq_parser_advance(parser);
    return map;
}

static struct lq_expr *parse_paren(struct lq_parser *parser)
{
    lq_parser_advance(parser);
    struct lq_expr *expr = lq_parse_expr(parser);
    if (expr != NULL && !lq_parser_expect(parser, LQ_TOKEN_RIGHT_PAREN, "')'")) {
        return NULL;
    }
    return expr;
}

struct lq_expr *lq_parse_name(struct lq_parser *parser)
{
    struct lq_expr *expr = lq_parser_new_expr(parser, LQ_EXPR_NAME, &parser->token.position);
    if (expr != NULL) {
        expr->is.symbol = lq_parser_token_symbol(parser);
        expr = expr->is.symbol == NULL ? NULL : expr;
    }
    if (expr != NULL) {
        lq_parser_advance(parser);
    }
    return expr;
}

static struct lq_expr *parse_primary(struct lq_parser *parser)
{
    /* A value that is missing at the end of a line must not eat the item that follows. */
    if (parser->token.newlines > 0 && lq_parser_is_item_start(parser)) {
        return lq_parser_expected(parser, "a value");
    }
    switch (parser->token.kind) {
    case LQ_TOKEN_STRING:
        return lq_parse_string(parser);
    case LQ_TOKEN_NUMBER:
        return parse_number(parser);
    case LQ_TOKEN_NAME:
        return lq_parse_name(parser);
    case LQ_TOKEN_LEFT_BRACKET:
        return parse_list(parser);
    case LQ_TOKEN_LEFT_BRACE:
        return parse_map(parser);
    case LQ_TOKEN_LEFT_PAREN:
        return parse_paren(parser);
    case LQ_TOKEN_TRUE:
    case LQ_TOKEN_FALSE: {
        struct lq_expr *expr = lq_parser_new_expr(parser, LQ_EXPR_BOOL, &parser->token.position);
        if (expr != NULL) {
            expr->boolean = lq_parser_is_at(parser, LQ_TOKEN_TRUE);
            lq_parser_advance(parser);
        }
        return expr;
    }
    default:
        return lq_parser_expected(parser, "a value");
    }
}

static struct lq_expr *parse_unary(struct lq_parser *parser)
{
    struct lq_position position = parser->token.position;
    bool negative = false;
    while (lq_parser_accept(parser, LQ_TOKEN_MINUS)) {
        negative = !negative;
    }
    struct lq_expr *operand = parse_primary(parser);
    if (operand == NULL || !negative) {
        return operand;
    }
    struct lq_expr *expr = lq_parser_new_expr(parser, LQ_EXPR_NEGATE, &position);
    if (expr != NULL) {
        expr->is.children = operand;
        expr->child_count = 1;
    }
    return expr;
}

/* Operands of one precedence become the children of one node, so a long chain is not deep. */
static struct lq_expr *parse_chain(struct lq_parser *parser, enum lq_expr_kind kind)
{
    bool is_sum = kind == LQ_EXPR_SUM;
    enum lq_token_kind plus = is_sum ? LQ_TOKEN_PLUS : LQ_TOKEN_STAR;
    enum lq_token_kind minus = is_sum ? LQ_TOKEN_MINUS : LQ_TOKEN_SLASH;
    struct lq_expr *first = is_sum ? parse_chain(parser, LQ_EXPR_PRODUCT) : parse_unary(parser);
    if (first == NULL || (!lq_parser_is_at(parser, plus) && !lq_parser_is_at(parser, minus))) {
        return first;
    }
    struct lq_expr *chain = lq_parser_new_expr(parser, kind, &first->position);
    if (chain == NULL) {
        return NULL;
    }
    chain->is.children = first;
    chain->child_count = 1;
    struct lq_expr *last = first;
    while (lq_parser_is_at(parser, plus) || lq_parser_is_at(parser, minus)) {
        char sign = *lq_parser_text(parser, &parser->token);
        lq_parser_advance(parser);
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

struct lq_expr *lq_parse_expr(struct lq_parser *parser)
{
    if (parser->expr_depth == LQ_RECIPE_DEPTH_MAX) {
        lq_diagnostics_stop(lq_parser_diagnostics(parser), &parser->token.position, LQ_ERECIPE,
                            "the expression is nested deeper than the limit of %d levels",
                            LQ_RECIPE_DEPTH_MAX);
        return NULL;
    }
    parser->expr_depth++;
    struct lq_expr *expr = parse_chain(parser, LQ_EXPR_SUM);
    parser->expr_depth--;
    return expr;
}
