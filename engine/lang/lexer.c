#include "engine/lang/lexer.h"

#include <string.h>

void lq_lexer_init(struct lq_lexer *lexer, const struct lq_recipe_source *source,
                   struct lq_diagnostics *diagnostics)
{
    memset(lexer, 0, sizeof *lexer);
    lexer->source = source;
    lexer->diagnostics = diagnostics;
    lexer->line = 1;
    lexer->column = 1;
    lexer->last_end = (struct lq_position){source->name, 1, 1};
    /* The byte order mark that some editors write is no part of the text. */
    if (source->size_bytes >= 3 && memcmp(source->text, "\xef\xbb\xbf", 3) == 0) {
        lexer->offset = 3;
    }
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_name_start(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool is_name_part(char c)
{
    return is_name_start(c) || is_digit(c);
}

static struct {
    const char *text;
    enum lq_token_kind kind;
} const keywords[] = {
    {"let", LQ_TOKEN_LET},     {"include", LQ_TOKEN_INCLUDE}, {"for", LQ_TOKEN_FOR},
    {"in", LQ_TOKEN_IN},       {"default", LQ_TOKEN_DEFAULT}, {"true", LQ_TOKEN_TRUE},
    {"false", LQ_TOKEN_FALSE},
};

static enum lq_token_kind name_kind(const char *text, size_t length)
{
    for (size_t i = 0; i < LQ_COUNT_OF(keywords); i++) {
        if (keywords[i].text[0] == text[0] && strlen(keywords[i].text) == length &&
            memcmp(keywords[i].text, text, length) == 0) {
            return keywords[i].kind;
        }
    }
    return LQ_TOKEN_NAME;
}

bool lq_token_is_keyword(enum lq_token_kind kind)
{
    return kind >= LQ_TOKEN_LET && kind <= LQ_TOKEN_FALSE;
}

bool lq_lexer_is_name(const char *text)
{
    size_t length = strlen(text);
    if (length == 0 || !is_name_start(text[0]) || name_kind(text, length) != LQ_TOKEN_NAME) {
        return false;
    }
    size_t i = 1;
    while (i < length && is_name_part(text[i])) {
        i++;
    }
    return i == length;
}

static struct lq_position here(const struct lq_lexer *lexer)
{
    return (struct lq_position){lexer->source->name, lexer->line, lexer->column};
}

/* Skips white space; the return value counts the line ends. */
static uint32_t skip_space(struct lq_lexer *lexer)
{
    const char *text = lexer->source->text;
    uint32_t newlines = 0;
    for (;; lexer->offset++) {
        char c = text[lexer->offset];
        if (c == '\n') {
            newlines++;
            lexer->line++;
            lexer->column = 1;
        } else if (c == ' ' || c == '\t' || (c == '\r' && text[lexer->offset + 1] == '\n')) {
            lexer->column++;
        } else {
            return newlines;
        }
    }
}

static void skip_comment(struct lq_lexer *lexer)
{
    const char *start = lexer->source->text + lexer->offset;
    size_t left = lexer->source->size_bytes - lexer->offset;
    const char *newline = memchr(start, '\n', left);
    lexer->offset += (uint32_t)(newline == NULL ? left : (size_t)(newline - start));
}

/* Moves behind `length` bytes of one line. */
static void take(struct lq_lexer *lexer, struct lq_token *token, enum lq_token_kind kind,
                 uint32_t length)
{
    const char *text = lexer->source->text + lexer->offset;
    uint32_t characters = 0;
    for (uint32_t i = 0; i < length; i++) {
        characters += ((unsigned char)text[i] & 0xc0u) != 0x80u;
    }
    token->kind = kind;
    token->length = length;
    lexer->offset += length;
    lexer->column += characters;
    lexer->last_end = here(lexer);
}

/* Digits, a fraction, an exponent, and letters or % for a unit. What they mean is for literal.h. */
static void take_number(struct lq_lexer *lexer, struct lq_token *token)
{
    const char *text = lexer->source->text + lexer->offset;
    uint32_t i = 0;
    while (is_digit(text[i])) {
        i++;
    }
    if (text[i] == '.') {
        i++;
        while (is_digit(text[i])) {
            i++;
        }
    }
    if (text[i] == 'e' || text[i] == 'E') {
        uint32_t sign = text[i + 1] == '+' || text[i + 1] == '-' ? 1 : 0;
        if (is_digit(text[i + 1 + sign])) {
            i += 1 + sign;
        }
    }
    while (is_name_part(text[i]) || text[i] == '.') {
        i++;
    }
    if (text[i] == '%') {
        i++;
    }
    take(lexer, token, LQ_TOKEN_NUMBER, i);
}

static void take_string(struct lq_lexer *lexer, struct lq_token *token)
{
    const char *text = lexer->source->text + lexer->offset;
    uint32_t left = lexer->source->size_bytes - lexer->offset;
    uint32_t i = 1;
    while (i < left && text[i] != '"' && text[i] != '\n') {
        i += text[i] == '\\' && i + 1 < left && text[i + 1] != '\n' ? 2 : 1;
    }
    if (i < left && text[i] == '"') {
        take(lexer, token, LQ_TOKEN_STRING, i + 1);
        return;
    }
    if (!lexer->quiet) {
        lq_diagnostics_add(lexer->diagnostics, &token->position, LQ_ERECIPE,
                           "the string is not closed before the end of the line");
    }
    take(lexer, token, LQ_TOKEN_ERROR, i);
}

static void take_unknown(struct lq_lexer *lexer, struct lq_token *token)
{
    const char *text = lexer->source->text + lexer->offset;
    size_t length = lq_recipe_utf8_length(text, lexer->source->size_bytes - lexer->offset);
    length = length == 0 ? 1 : length;
    unsigned char c = (unsigned char)text[0];
    if (lexer->quiet) {
        take(lexer, token, LQ_TOKEN_ERROR, (uint32_t)length);
        return;
    }
    if (c == '\'') {
        lq_diagnostics_add(lexer->diagnostics, &token->position, LQ_ERECIPE,
                           "unexpected character '; strings stand in double quotes");
    } else if (c == ';') {
        lq_diagnostics_add(lexer->diagnostics, &token->position, LQ_ERECIPE,
                           "unexpected character ';'; a space or a new line is enough between "
                           "attributes");
    } else if (c < 0x20 || c == 0x7f) {
        lq_diagnostics_add(lexer->diagnostics, &token->position, LQ_ERECIPE,
                           "unexpected control character 0x%02x", c);
    } else {
        lq_diagnostics_add(lexer->diagnostics, &token->position, LQ_ERECIPE,
                           "unexpected character '%.*s'", (int)length, text);
    }
    take(lexer, token, LQ_TOKEN_ERROR, (uint32_t)length);
}

static enum lq_token_kind punctuation_kind(char c)
{
    switch (c) {
    case '{':
        return LQ_TOKEN_LEFT_BRACE;
    case '}':
        return LQ_TOKEN_RIGHT_BRACE;
    case '[':
        return LQ_TOKEN_LEFT_BRACKET;
    case ']':
        return LQ_TOKEN_RIGHT_BRACKET;
    case '(':
        return LQ_TOKEN_LEFT_PAREN;
    case ')':
        return LQ_TOKEN_RIGHT_PAREN;
    case '=':
        return LQ_TOKEN_EQUALS;
    case ',':
        return LQ_TOKEN_COMMA;
    case '+':
        return LQ_TOKEN_PLUS;
    case '-':
        return LQ_TOKEN_MINUS;
    case '*':
        return LQ_TOKEN_STAR;
    case '/':
        return LQ_TOKEN_SLASH;
    default:
        return LQ_TOKEN_ERROR;
    }
}

static void take_comment(struct lq_lexer *lexer, struct lq_token *token)
{
    token->kind = LQ_TOKEN_COMMENT;
    skip_comment(lexer);
    token->length = lexer->offset - token->offset;
}

void lq_lexer_next(struct lq_lexer *lexer, struct lq_token *token)
{
    token->newlines = skip_space(lexer);
    const char *text = lexer->source->text;
    while (text[lexer->offset] == '#' && !lexer->keep_comments) {
        skip_comment(lexer);
        token->newlines += skip_space(lexer);
    }
    token->offset = lexer->offset;
    token->position = here(lexer);
    char c = text[lexer->offset];
    enum lq_token_kind punctuation = punctuation_kind(c);
    if (lexer->offset >= lexer->source->size_bytes) {
        token->kind = LQ_TOKEN_END;
        token->length = 0;
        token->position = lexer->last_end;
    } else if (is_name_start(c)) {
        uint32_t length = 1;
        while (is_name_part(text[lexer->offset + length])) {
            length++;
        }
        take(lexer, token, name_kind(text + lexer->offset, length), length);
    } else if (is_digit(c)) {
        take_number(lexer, token);
    } else if (c == '"') {
        take_string(lexer, token);
    } else if (c == '#') {
        take_comment(lexer, token);
    } else if (punctuation != LQ_TOKEN_ERROR) {
        take(lexer, token, punctuation, 1);
    } else {
        take_unknown(lexer, token);
    }
}
