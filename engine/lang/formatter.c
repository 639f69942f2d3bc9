/* The one canonical layout; docs/recipe-language.md says what it is. The text is parsed first, so
 * the walk over its tokens relies on the grammar. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/lang/format_tokens.h"
#include "engine/lang/parser.h"
#include "engine/lang/recipe.h"

enum { WIDTH_MAX = 100, INDENT = 2 };

struct formatter {
    const struct lq_format_tokens *list;
    struct lq_buffer *out;
    size_t start;   /* of our part of `out` */
    size_t indent;  /* in characters */
    size_t column;  /* characters on the current line */
    bool commented; /* the current line ends with a comment */
    bool at_start;  /* of a block: no empty line here */
    bool measuring; /* write nothing, only count columns, everything on one line */
};

static const struct lq_format_token *token_at(const struct formatter *f, size_t i)
{
    return &f->list->tokens[i];
}

static enum lq_token_kind kind_at(const struct formatter *f, size_t i)
{
    return f->list->tokens[i].kind;
}

static bool is_overfull(const struct formatter *f)
{
    return f->measuring && f->column > WIDTH_MAX;
}

/* ------------------------------------------------------------------- lines ---- */

static void put(struct formatter *f, const char *text, size_t length)
{
    if (!f->measuring) {
        lq_buffer_append(f->out, text, length);
    }
    for (size_t i = 0; i < length; i++) {
        f->column += ((unsigned char)text[i] & 0xc0u) != 0x80u;
    }
}

static void put_text(struct formatter *f, const char *text)
{
    put(f, text, strlen(text));
}

static void put_token(struct formatter *f, size_t i)
{
    put(f, f->list->text + token_at(f, i)->offset, token_at(f, i)->length);
}

static void begin_line(struct formatter *f, bool blank)
{
    if (f->out->size_bytes > f->start) {
        lq_buffer_append_char(f->out, '\n');
        if (blank && !f->at_start) {
            lq_buffer_append_char(f->out, '\n');
        }
    }
    f->column = 0;
    for (size_t i = 0; i < f->indent; i++) {
        put(f, " ", 1);
    }
    f->commented = false;
    f->at_start = false;
}

static void put_comment(struct formatter *f, const struct lq_format_comment *comment)
{
    put(f, f->list->text + comment->offset, comment->length);
    f->commented = true;
}

/* The comments before a token: at the end of the line if they were there, else on their own. */
static void put_comments(struct formatter *f, size_t token)
{
    for (size_t i = lq_format_tokens_comments(f->list, token); i < token_at(f, token)->comments_end;
         i++) {
        const struct lq_format_comment *comment = &f->list->comments[i];
        if (comment->newlines == 0 && !f->commented && f->out->size_bytes > f->start) {
            put_text(f, "  ");
        } else {
            begin_line(f, comment->newlines > 1);
        }
        put_comment(f, comment);
    }
}

/* Starts the line of an item, attribute or element that begins at `first`. Comments within its
 * head, up to `last` but not inside brackets, have no place on the line and go before it. */
static void begin_unit(struct formatter *f, size_t first, size_t last)
{
    put_comments(f, first);
    bool blank = token_at(f, first)->newlines > 1;
    for (size_t i = first; i <= last; i++) {
        size_t comment = lq_format_tokens_comments(f->list, i);
        for (; i > first && comment < token_at(f, i)->comments_end; comment++) {
            begin_line(f, blank);
            blank = false;
            put_comment(f, &f->list->comments[comment]);
        }
        bool opens = kind_at(f, i) == LQ_TOKEN_LEFT_BRACKET || kind_at(f, i) == LQ_TOKEN_LEFT_BRACE;
        if (i < last && opens) {
            i = token_at(f, i)->match; /* its own comments are inside as well */
        }
    }
    begin_line(f, blank);
}

/* ------------------------------------------------------------- expressions ---- */

static void put_range(struct formatter *f, size_t first, size_t end);

/* A '-' with no value before it is a sign. */
static bool is_sign(const struct formatter *f, size_t i)
{
    if (kind_at(f, i) != LQ_TOKEN_MINUS || i == 0) {
        return false;
    }
    switch (kind_at(f, i - 1)) {
    case LQ_TOKEN_EQUALS:
    case LQ_TOKEN_LEFT_BRACKET:
    case LQ_TOKEN_LEFT_PAREN:
    case LQ_TOKEN_COMMA:
    case LQ_TOKEN_PLUS:
    case LQ_TOKEN_MINUS:
    case LQ_TOKEN_STAR:
    case LQ_TOKEN_SLASH:
    case LQ_TOKEN_IN:
        return true;
    default:
        return false;
    }
}

static bool wants_space(const struct formatter *f, size_t first, size_t i)
{
    return i > first && kind_at(f, i) != LQ_TOKEN_COMMA && kind_at(f, i) != LQ_TOKEN_RIGHT_PAREN &&
           kind_at(f, i - 1) != LQ_TOKEN_LEFT_PAREN && !is_sign(f, i - 1);
}

static size_t element_end(const struct formatter *f, size_t open, size_t start)
{
    bool is_map = kind_at(f, open) == LQ_TOKEN_LEFT_BRACE;
    return lq_format_tokens_expr_end(f->list, is_map ? start + 2 : start);
}

static void put_flat_bracket(struct formatter *f, size_t open, size_t close)
{
    const char *inside = kind_at(f, open) == LQ_TOKEN_LEFT_BRACE && close > open + 1 ? " " : "";
    put_token(f, open);
    put_text(f, inside);
    for (size_t i = open + 1; i < close && !is_overfull(f);) {
        size_t end = element_end(f, open, i);
        put_text(f, i > open + 1 ? ", " : "");
        put_range(f, i, end);
        i = kind_at(f, end) == LQ_TOKEN_COMMA ? end + 1 : end;
    }
    put_text(f, inside);
    put_token(f, close);
}

/* One element per line, each with a comma behind it. */
static void put_broken_bracket(struct formatter *f, size_t open, size_t close)
{
    put_token(f, open);
    f->indent += INDENT;
    f->at_start = true;
    for (size_t i = open + 1; i < close;) {
        size_t end = element_end(f, open, i);
        begin_unit(f, i, end - 1);
        put_range(f, i, end);
        put_text(f, ",");
        i = end;
        if (kind_at(f, end) == LQ_TOKEN_COMMA) {
            put_comments(f, end);
            i = end + 1;
        }
    }
    put_comments(f, close);
    f->indent -= INDENT;
    begin_line(f, false);
    put_token(f, close);
}

/* True when the tokens fit behind what is on the line already. */
static bool fits(const struct formatter *f, size_t open, size_t close)
{
    struct formatter measure = *f;
    measure.measuring = true;
    put_flat_bracket(&measure, open, close);
    return measure.column <= WIDTH_MAX;
}

static void put_bracket(struct formatter *f, size_t open, size_t close)
{
    bool commented = lq_format_tokens_commented(f->list, open + 1, close);
    bool spans_lines = close > open + 1 && token_at(f, open)->line != token_at(f, close)->line;
    if (f->measuring || (!commented && !spans_lines && fits(f, open, close))) {
        put_flat_bracket(f, open, close);
    } else if (commented || close > open + 1) {
        put_broken_bracket(f, open, close);
    } else {
        put_flat_bracket(f, open, close);
    }
}

static void put_range(struct formatter *f, size_t first, size_t end)
{
    for (size_t i = first; i < end && !is_overfull(f); i++) {
        put_text(f, wants_space(f, first, i) ? " " : "");
        if (kind_at(f, i) == LQ_TOKEN_LEFT_BRACKET || kind_at(f, i) == LQ_TOKEN_LEFT_BRACE) {
            put_bracket(f, i, token_at(f, i)->match);
            i = token_at(f, i)->match;
        } else {
            put_token(f, i);
        }
    }
}

/* ------------------------------------------------------------------- items ---- */

static void put_items(struct formatter *f, size_t first, size_t end);

static void put_flat_artifact(struct formatter *f, size_t first, size_t close)
{
    size_t open = first + 2;
    put_range(f, first, open);
    put_text(f, " {");
    for (size_t i = open + 1; i < close && !is_overfull(f);) {
        size_t end = lq_format_tokens_expr_end(f->list, i + 2);
        put_text(f, i == open + 1 ? " " : "  ");
        put_range(f, i, end);
        i = kind_at(f, end) == LQ_TOKEN_COMMA ? end + 1 : end;
    }
    put_text(f, close > open + 1 ? " }" : "}");
}

static void close_block(struct formatter *f, size_t close)
{
    put_comments(f, close);
    f->indent -= INDENT;
    begin_line(f, false);
    put_text(f, "}");
}

static void put_broken_artifact(struct formatter *f, size_t first, size_t close)
{
    size_t open = first + 2;
    put_range(f, first, open);
    put_text(f, " {");
    f->indent += INDENT;
    f->at_start = true;
    for (size_t i = open + 1; i < close;) {
        size_t end = lq_format_tokens_expr_end(f->list, i + 2);
        begin_unit(f, i, end - 1);
        put_range(f, i, end);
        i = end;
        if (kind_at(f, end) == LQ_TOKEN_COMMA) {
            put_comments(f, end);
            i = end + 1;
        }
    }
    close_block(f, close);
}

/* On one line when it was on one line and has room there; else one attribute per line. */
static size_t put_artifact(struct formatter *f, size_t first)
{
    size_t open = first + 2;
    size_t close = token_at(f, open)->match;
    begin_unit(f, first, open);
    bool commented = lq_format_tokens_commented(f->list, open + 1, close);
    bool one_line = token_at(f, first)->line == token_at(f, close)->line;
    struct formatter measure = *f;
    measure.measuring = true;
    put_flat_artifact(&measure, first, close);
    if (!commented && (close == open + 1 || (one_line && measure.column <= WIDTH_MAX))) {
        put_flat_artifact(f, first, close);
    } else {
        put_broken_artifact(f, first, close);
    }
    return close + 1;
}

static size_t put_loop(struct formatter *f, size_t first)
{
    size_t open = lq_format_tokens_expr_end(f->list, first + 3);
    size_t close = token_at(f, open)->match;
    begin_unit(f, first, open);
    put_range(f, first, open);
    if (close == open + 1 && !lq_format_tokens_commented(f->list, close, close)) {
        put_text(f, " {}");
        return close + 1;
    }
    put_text(f, " {");
    f->indent += INDENT;
    f->at_start = true;
    put_items(f, open + 1, close);
    close_block(f, close);
    return close + 1;
}

static size_t line_item_end(const struct formatter *f, size_t first)
{
    size_t end = first + 2;
    switch (kind_at(f, first)) {
    case LQ_TOKEN_LET:
        return lq_format_tokens_expr_end(f->list, first + 3);
    case LQ_TOKEN_DEFAULT:
        while (kind_at(f, end) == LQ_TOKEN_COMMA) {
            end += 2;
        }
        return end;
    case LQ_TOKEN_INCLUDE:
    default:
        return end;
    }
}

static void put_items(struct formatter *f, size_t first, size_t end)
{
    for (size_t i = first; i < end;) {
        if (kind_at(f, i) == LQ_TOKEN_FOR) {
            i = put_loop(f, i);
        } else if (kind_at(f, i) == LQ_TOKEN_NAME) {
            i = put_artifact(f, i);
        } else {
            size_t item_end = line_item_end(f, i);
            begin_unit(f, i, item_end - 1);
            put_range(f, i, item_end);
            i = item_end;
        }
    }
}

static void put_recipe(const struct lq_format_tokens *list, struct lq_buffer *out)
{
    struct formatter f = {.list = list, .out = out, .start = out->size_bytes, .at_start = true};
    put_items(&f, 0, list->count - 1);
    put_comments(&f, list->count - 1);
    if (out->size_bytes > f.start) {
        lq_buffer_append_char(out, '\n');
    }
}

enum lq_status lq_recipe_format(const char *text, size_t size_bytes, const char *name,
                                struct lq_buffer *out, struct lq_error *err)
{
    struct lq_arena arena;
    struct lq_recipe_sources sources;
    struct lq_recipe_source *source = NULL;
    struct lq_symbols symbols;
    lq_arena_init(&arena);
    lq_recipe_sources_init(&sources, &arena);
    enum lq_status status =
        lq_recipe_sources_add(&sources, name, ".", text, size_bytes, &source, err);
    if (status == LQ_OK && !lq_symbols_init(&symbols, &arena)) {
        status = lq_error_nomem(err, name);
    }
    if (status == LQ_OK) {
        struct lq_diagnostics diagnostics;
        struct lq_format_tokens list = {0};
        lq_diagnostics_init(&diagnostics, &sources);
        const struct lq_parse_options options = {&arena, &diagnostics, &symbols, NULL};
        (void)lq_parse_items(&options, source);
        if (diagnostics.count == 0 && lq_format_tokens_read(&list, source, &diagnostics)) {
            put_recipe(&list, out);
        }
        status = lq_diagnostics_finish(&diagnostics, err);
        if (status == LQ_OK && out->failed) {
            status = lq_error_nomem(err, name);
        }
        lq_format_tokens_fini(&list);
        lq_diagnostics_fini(&diagnostics);
    }
    lq_arena_fini(&arena);
    return status;
}
