#include "engine/lang/parser.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/limits.h"
#include "engine/lang/parser_core.h"
#include "engine/lang/recipe_library.h"

static struct lq_item *parse_list_of_items(struct lq_parser *parser, bool nested);

static struct lq_item *new_item(struct lq_parser *parser, enum lq_item_kind kind)
{
    struct lq_item *item = lq_parser_get(parser, sizeof *item);
    if (item != NULL) {
        item->kind = kind;
        item->position = parser->token.position;
    }
    return item;
}

/* The name behind `let` and `for`. */
static bool take_variable(struct lq_parser *parser, struct lq_item *item, const char *what)
{
    if (!lq_parser_is_at(parser, LQ_TOKEN_NAME)) {
        (void)lq_parser_expected(parser, what);
        return false;
    }
    item->position = parser->token.position;
    item->symbol = lq_parser_token_symbol(parser);
    lq_parser_advance(parser);
    return item->symbol != NULL;
}

static struct lq_item *parse_let(struct lq_parser *parser)
{
    struct lq_item *item = new_item(parser, LQ_ITEM_LET);
    lq_parser_advance(parser);
    if (item == NULL || !take_variable(parser, item, "a name after 'let'") ||
        !lq_parser_expect(parser, LQ_TOKEN_EQUALS, "'=' after the name of the let")) {
        return NULL;
    }
    item->expr = lq_parse_expr(parser);
    if (item->expr == NULL) {
        return NULL;
    }
    if (parser->loop_depth == 0) {
        item->let = lq_parser_get(parser, sizeof *item->let);
        if (item->let == NULL) {
            return NULL;
        }
        item->let->symbol = item->symbol;
        item->let->position = item->position;
        item->let->expr = item->expr;
    }
    return item;
}

static void missing_brace(struct lq_parser *parser, const char *what,
                          const struct lq_position *open)
{
    if (!lq_parser_is_at(parser, LQ_TOKEN_ERROR)) {
        lq_diagnostics_add(lq_parser_diagnostics(parser), &parser->token.position, LQ_ERECIPE,
                           "expected '}' to close the block of %s that opens at line %u", what,
                           open->line);
    }
}

static struct lq_item *parse_for(struct lq_parser *parser)
{
    struct lq_item *item = new_item(parser, LQ_ITEM_FOR);
    lq_parser_advance(parser);
    if (item == NULL || !take_variable(parser, item, "a name after 'for'") ||
        !lq_parser_expect(parser, LQ_TOKEN_IN, "'in' after the loop variable")) {
        return NULL;
    }
    item->expr = lq_parse_expr(parser);
    struct lq_position open = parser->token.position;
    if (item->expr == NULL ||
        !lq_parser_expect(parser, LQ_TOKEN_LEFT_BRACE, "'{' after the list of the loop")) {
        return NULL;
    }
    if (parser->loop_depth == LQ_RECIPE_DEPTH_MAX) {
        lq_diagnostics_stop(lq_parser_diagnostics(parser), &item->position, LQ_ERECIPE,
                            "loops are nested deeper than the limit of %d levels",
                            LQ_RECIPE_DEPTH_MAX);
        return NULL;
    }
    parser->loop_depth++;
    item->items = parse_list_of_items(parser, true);
    parser->loop_depth--;
    if (!lq_parser_is_at(parser, LQ_TOKEN_RIGHT_BRACE)) {
        missing_brace(parser, "'for'", &open);
        return NULL;
    }
    lq_parser_advance(parser);
    return item;
}

static struct lq_item *parse_default(struct lq_parser *parser)
{
    struct lq_item *item = new_item(parser, LQ_ITEM_DEFAULT);
    lq_parser_advance(parser);
    if (item == NULL) {
        return NULL;
    }
    struct lq_expr **link = &item->expr;
    do {
        if (lq_parser_is_at(parser, LQ_TOKEN_STRING)) {
            *link = lq_parse_string(parser);
        } else if (lq_parser_is_at(parser, LQ_TOKEN_NAME)) {
            *link = lq_parse_name(parser);
        } else {
            return lq_parser_expected(parser, "the name of an artifact after 'default'");
        }
        if (*link == NULL) {
            return NULL;
        }
        link = &(*link)->next;
    } while (lq_parser_accept(parser, LQ_TOKEN_COMMA));
    return item;
}

static bool parse_attrs(struct lq_parser *parser, struct lq_item *item,
                        const struct lq_position *open)
{
    struct lq_attr_node **link = &item->attrs;
    while (!lq_parser_is_at(parser, LQ_TOKEN_RIGHT_BRACE)) {
        if (lq_parser_is_at(parser, LQ_TOKEN_END) ||
            (parser->token.newlines > 0 && lq_parser_is_item_start(parser))) {
            char what[LQ_PARSER_DESCRIPTION_BYTES];
            (void)snprintf(what, sizeof what, "'%.60s'", item->symbol->text);
            missing_brace(parser, what, open);
            return false;
        }
        if (!lq_parser_is_at(parser, LQ_TOKEN_NAME) && !lq_token_is_keyword(parser->token.kind)) {
            (void)lq_parser_expected(parser, "an attribute name or '}'");
            return false;
        }
        struct lq_attr_node *attr = lq_parser_get(parser, sizeof *attr);
        if (attr == NULL) {
            return false;
        }
        attr->position = parser->token.position;
        attr->symbol = lq_parser_token_symbol(parser);
        lq_parser_advance(parser);
        if (attr->symbol == NULL ||
            !lq_parser_expect(parser, LQ_TOKEN_EQUALS, "'=' after the attribute")) {
            return false;
        }
        attr->expr = lq_parse_expr(parser);
        if (attr->expr == NULL) {
            return false;
        }
        *link = attr;
        link = &attr->next;
        (void)lq_parser_accept(parser, LQ_TOKEN_COMMA);
    }
    lq_parser_advance(parser);
    return true;
}

static struct lq_item *parse_artifact(struct lq_parser *parser)
{
    struct lq_item *item = new_item(parser, LQ_ITEM_ARTIFACT);
    if (item == NULL) {
        return NULL;
    }
    item->symbol = lq_parser_token_symbol(parser);
    lq_parser_advance(parser);
    if (item->symbol == NULL) {
        return NULL;
    }
    if (lq_parser_is_at(parser, LQ_TOKEN_EQUALS)) {
        lq_diagnostics_add(lq_parser_diagnostics(parser), &item->position, LQ_ERECIPE,
                           "'%s = ...' stands outside of an artifact; write 'let %s = ...' for a "
                           "variable",
                           item->symbol->text, item->symbol->text);
        return NULL;
    }
    if (lq_parser_is_at(parser, LQ_TOKEN_STRING)) {
        item->expr = lq_parse_string(parser);
    } else if (lq_parser_is_at(parser, LQ_TOKEN_NAME)) {
        item->expr = lq_parser_new_expr(parser, LQ_EXPR_STRING, &parser->token.position);
        const struct lq_symbol *name = lq_parser_token_symbol(parser);
        if (item->expr != NULL && name != NULL) {
            item->expr->is.string = name->text;
        }
        lq_parser_advance(parser);
    } else {
        char what[LQ_PARSER_DESCRIPTION_BYTES];
        (void)snprintf(what, sizeof what, "a name for the artifact after '%.60s'",
                       item->symbol->text);
        return lq_parser_expected(parser, what);
    }
    struct lq_position open = parser->token.position;
    if (item->expr == NULL ||
        (item->expr->kind == LQ_EXPR_STRING && item->expr->is.string == NULL) ||
        !lq_parser_expect(parser, LQ_TOKEN_LEFT_BRACE, "'{' after the name of the artifact")) {
        return NULL;
    }
    return parse_attrs(parser, item, &open) ? item : NULL;
}

/* "a.lq -> b.lq -> a.lq" */
static void report_include_cycle(struct lq_parser *parser, const struct lq_recipe_source *again,
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
    lq_diagnostics_add(lq_parser_diagnostics(parser), position, LQ_ERECIPE, "include cycle: %s",
                       lq_buffer_text(&text));
    lq_buffer_fini(&text);
}

static bool include_file(struct lq_parser *parser, struct lq_item *item, const char *written)
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
    const char *path = NULL;
    struct lq_recipe_source *source = NULL;
    bool known = false;
    struct lq_error err = {0};
    enum lq_status status =
        lq_recipe_library_resolve(options->arena, parser->source->dir, written, &path, &err);
    if (status == LQ_OK) {
        status = lq_recipe_sources_open(options->sources, path, &source, &known, &err);
    }
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

static struct lq_item *parse_include(struct lq_parser *parser)
{
    struct lq_item *item = new_item(parser, LQ_ITEM_INCLUDE);
    lq_parser_advance(parser);
    if (item == NULL || !lq_parser_is_at(parser, LQ_TOKEN_STRING)) {
        return item == NULL ? NULL
                            : lq_parser_expected(parser, "a file name in quotes after 'include'");
    }
    struct lq_position start = item->position;
    item->position = parser->token.position;
    const struct lq_expr *path = lq_parse_string(parser);
    if (path == NULL) {
        return NULL;
    }
    if (parser->loop_depth > 0) {
        lq_diagnostics_add(lq_parser_diagnostics(parser), &start, LQ_ERECIPE,
                           "'include' cannot stand in a loop; move it to the top level");
        return NULL;
    }
    if (path->kind != LQ_EXPR_STRING || path->is.string[0] == '\0') {
        lq_diagnostics_add(lq_parser_diagnostics(parser), &item->position, LQ_ERECIPE,
                           "'include' needs a plain file name, without {names} and not empty");
        return NULL;
    }
    if (parser->options->sources != NULL && !include_file(parser, item, path->is.string)) {
        return NULL;
    }
    return item;
}

static struct lq_item *parse_item(struct lq_parser *parser)
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
        return lq_parser_expected(parser, "a rule, let, for, include or default");
    }
}

/* Skips to where the next item seems to begin: behind the brace that closes the broken item, or at
 * a line that starts like an item. A '}' that belongs to the loop around stays. */
static void recover(struct lq_parser *parser, unsigned depth, uint32_t start_offset, bool nested)
{
    if (parser->token.offset == start_offset && !lq_parser_is_at(parser, LQ_TOKEN_END)) {
        lq_parser_advance(parser);
    }
    while (!lq_parser_is_at(parser, LQ_TOKEN_END)) {
        if (parser->token.newlines > 0 && lq_parser_is_item_start(parser)) {
            parser->brace_depth = depth;
            return;
        }
        if (lq_parser_is_at(parser, LQ_TOKEN_RIGHT_BRACE)) {
            if (parser->brace_depth <= depth && nested) {
                return;
            }
            bool closes = parser->brace_depth <= depth + 1;
            lq_parser_advance(parser);
            if (closes) {
                parser->brace_depth = depth;
                return;
            }
            continue;
        }
        lq_parser_advance(parser);
    }
}

static struct lq_item *parse_list_of_items(struct lq_parser *parser, bool nested)
{
    struct lq_item *first = NULL;
    struct lq_item **link = &first;
    while (!lq_parser_is_at(parser, LQ_TOKEN_END) &&
           !(nested && lq_parser_is_at(parser, LQ_TOKEN_RIGHT_BRACE))) {
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

static bool open_parser(struct lq_parser *parser, const struct lq_parse_options *options,
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
    struct lq_parser parser;
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
    struct lq_parser parser;
    if (!open_parser(&parser, options, source)) {
        return NULL;
    }
    struct lq_expr *expr = lq_parse_expr(&parser);
    if (expr != NULL && !lq_parser_is_at(&parser, LQ_TOKEN_END)) {
        expr = lq_parser_expected(&parser, "nothing more behind the value");
    }
    lq_buffer_fini(&parser.text);
    return expr;
}
