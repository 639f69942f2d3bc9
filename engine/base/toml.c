#include "engine/base/toml.h"

#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/limits.h"

struct parser {
    const char *at;
    const char *end;
    const char *where;
    unsigned line;
    struct lq_arena *arena;
    struct lq_toml *out;
    size_t table_capacity;
    size_t item_capacity;
    struct lq_buffer text; /* the string being read */
    struct lq_error *err;
};

static enum lq_status fail(struct parser *p, const char *what)
{
    return lq_error_set(p->err, LQ_EUSAGE, "%s:%u: %s", p->where, p->line, what);
}

const char *lq_toml_type_name(enum lq_toml_type type)
{
    static const char *const names[] = {"string", "integer", "boolean", "array of strings"};
    return names[type];
}

static bool at_end(const struct parser *p)
{
    return p->at == p->end;
}

static char peek(const struct parser *p)
{
    return at_end(p) ? '\n' : *p->at;
}

static void skip_blanks(struct parser *p)
{
    while (!at_end(p) && (*p->at == ' ' || *p->at == '\t')) {
        p->at++;
    }
}

static void skip_comment(struct parser *p)
{
    if (peek(p) == '#') {
        while (!at_end(p) && *p->at != '\n') {
            p->at++;
        }
    }
}

/* Blanks, a comment, and the end of the line. */
static enum lq_status end_line(struct parser *p)
{
    skip_blanks(p);
    skip_comment(p);
    if (at_end(p)) {
        return LQ_OK;
    }
    if (*p->at == '\r' && p->end - p->at > 1 && p->at[1] == '\n') {
        p->at++;
    }
    if (*p->at != '\n') {
        return fail(p, "something stands behind the value; expected the end of the line");
    }
    p->at++;
    p->line++;
    return LQ_OK;
}

/* ---- strings ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static void append_code_point(struct lq_buffer *text, uint32_t point)
{
    if (point < 0x80) {
        lq_buffer_append_char(text, (char)point);
        return;
    }
    unsigned extra = point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
    static const uint32_t leads[] = {0, 0xc0, 0xe0, 0xf0};
    lq_buffer_append_u8(text, (uint8_t)(leads[extra] | point >> (6 * extra)));
    while (extra-- > 0) {
        lq_buffer_append_u8(text, (uint8_t)(0x80 | (point >> (6 * extra) & 0x3f)));
    }
}

static enum lq_status read_code_point(struct parser *p, int digits)
{
    uint32_t point = 0;
    for (int i = 0; i < digits; i++) {
        int digit = hex_digit(peek(p));
        if (digit < 0) {
            return fail(p, "\\u needs 4 and \\U 8 hexadecimal digits");
        }
        point = point << 4 | (uint32_t)digit;
        p->at++;
    }
    if (point == 0 || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) {
        return fail(p, "that escape is not a character that may stand in a string");
    }
    append_code_point(&p->text, point);
    return LQ_OK;
}

static enum lq_status read_escape(struct parser *p)
{
    static const char letters[] = "btnfr\"\\";
    static const char meanings[] = "\b\t\n\f\r\"\\";
    char c = peek(p);
    const char *found = c == '\0' ? NULL : strchr(letters, c);
    if (found != NULL) {
        p->at++;
        lq_buffer_append_char(&p->text, meanings[found - letters]);
        return LQ_OK;
    }
    if (c == 'u' || c == 'U') {
        p->at++;
        return read_code_point(p, c == 'u' ? 4 : 8);
    }
    return fail(p, "unknown escape in a string; write a backslash as \\\\, or use 'single quotes'");
}

static enum lq_status read_string(struct parser *p, const char **out)
{
    char quote = *p->at;
    if (p->end - p->at >= 3 && p->at[1] == quote && p->at[2] == quote) {
        return fail(p, "multi-line strings are not supported here");
    }
    p->at++;
    lq_buffer_clear(&p->text);
    enum lq_status status = LQ_OK;
    while (status == LQ_OK && peek(p) != quote) {
        unsigned char c = (unsigned char)peek(p);
        if (c == '\n') {
            return fail(p, "a string has no closing quote on its line");
        }
        if ((c < 0x20 && c != '\t') || c == 0x7f) {
            return fail(p, "a control character in a string");
        }
        p->at++;
        if (c == '\\' && quote == '"') {
            status = read_escape(p);
        } else {
            lq_buffer_append_u8(&p->text, c);
        }
    }
    if (status != LQ_OK) {
        return status;
    }
    p->at++;
    *out = p->text.failed ? NULL : lq_arena_dup_string(p->arena, lq_buffer_text(&p->text));
    return *out == NULL ? lq_error_nomem(p->err, p->where) : LQ_OK;
}

/* ---- keys ---- */

static bool is_bare(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
}

static enum lq_status read_key(struct parser *p, const char **out)
{
    char c = peek(p);
    if (c == '"' || c == '\'') {
        return read_string(p, out);
    }
    const char *begin = p->at;
    while (!at_end(p) && is_bare(*p->at)) {
        p->at++;
    }
    if (p->at == begin) {
        return fail(p, "expected a key, a [table] or a # comment");
    }
    *out = lq_arena_dup(p->arena, begin, (size_t)(p->at - begin));
    return *out == NULL ? lq_error_nomem(p->err, p->where) : LQ_OK;
}

/* ---- values ---- */

static enum lq_status read_number(struct parser *p, struct lq_toml_item *item)
{
    bool negative = *p->at == '-';
    if (*p->at == '-' || *p->at == '+') {
        p->at++;
    }
    uint64_t value = 0;
    unsigned digits = 0;
    bool after_digit = false;
    while (!at_end(p) && ((*p->at >= '0' && *p->at <= '9') || *p->at == '_')) {
        if (*p->at == '_') {
            if (!after_digit) {
                break;
            }
            after_digit = false;
        } else {
            uint64_t digit = (uint64_t)(*p->at - '0');
            if (value > (INT64_MAX - digit) / 10 || (digits == 1 && value == 0)) {
                return fail(p, "not an integer that fits 64 bits without leading zeros");
            }
            value = value * 10 + digit;
            digits++;
            after_digit = true;
        }
        p->at++;
    }
    if (!after_digit || is_bare(peek(p)) || peek(p) == '.' || peek(p) == ':') {
        return fail(p, "expected a string in quotes, an integer, true, false or an array of "
                       "strings; floats and dates are not supported here");
    }
    item->type = LQ_TOML_INT;
    item->integer = negative ? -(int64_t)value : (int64_t)value;
    return LQ_OK;
}

static enum lq_status skip_lines(struct parser *p)
{
    for (;;) {
        skip_blanks(p);
        char c = peek(p);
        if (at_end(p) || (c != '#' && c != '\n' && c != '\r')) {
            return LQ_OK;
        }
        enum lq_status status = end_line(p);
        if (status != LQ_OK) {
            return status;
        }
    }
}

static enum lq_status read_list(struct parser *p, struct lq_toml_item *item)
{
    size_t capacity = 0;
    item->type = LQ_TOML_LIST;
    p->at++;
    for (;;) {
        enum lq_status status = skip_lines(p);
        if (status != LQ_OK) {
            return status;
        }
        if (peek(p) == ']') {
            p->at++;
            return LQ_OK;
        }
        if (at_end(p) || (*p->at != '"' && *p->at != '\'')) {
            return fail(p, "expected a string or ']' in an array");
        }
        if (item->string_count == LQ_CONFIG_ITEMS_MAX) {
            return fail(p, "an array has more than 65536 strings");
        }
        if (item->string_count == capacity) {
            capacity = capacity == 0 ? 4 : capacity * 2;
            const char **grown = lq_arena_get_array(p->arena, capacity, sizeof *grown);
            if (grown == NULL) {
                return lq_error_nomem(p->err, p->where);
            }
            if (item->string_count > 0) {
                memcpy(grown, item->strings, item->string_count * sizeof *grown);
            }
            item->strings = grown;
        }
        status = read_string(p, &item->strings[item->string_count]);
        if (status == LQ_OK) {
            item->string_count++;
            status = skip_lines(p);
        }
        if (status != LQ_OK) {
            return status;
        }
        if (peek(p) == ',') {
            p->at++;
        } else if (peek(p) != ']') {
            return fail(p, "expected ',' or ']' in an array");
        }
    }
}

static bool read_word(struct parser *p, const char *word)
{
    size_t length = strlen(word);
    if ((size_t)(p->end - p->at) < length || memcmp(p->at, word, length) != 0 ||
        (p->at + length < p->end && is_bare(p->at[length]))) {
        return false;
    }
    p->at += length;
    return true;
}

static enum lq_status read_value(struct parser *p, struct lq_toml_item *item)
{
    char c = peek(p);
    if (c == '"' || c == '\'') {
        item->type = LQ_TOML_STRING;
        return read_string(p, &item->string);
    }
    if (c == '[') {
        return read_list(p, item);
    }
    if (c == '{') {
        return fail(p, "inline tables are not supported here; write a [table]");
    }
    if (read_word(p, "true") || read_word(p, "false")) {
        item->type = LQ_TOML_BOOL;
        item->boolean = p->at[-2] == 'u';
        return LQ_OK;
    }
    return at_end(p) ? fail(p, "a value is missing") : read_number(p, item);
}

/* ---- tables and items ---- */

static enum lq_status add_table(struct parser *p, const struct lq_toml_table *table)
{
    struct lq_toml *out = p->out;
    if (out->table_count == LQ_CONFIG_KEYS_MAX) {
        return fail(p, "more than 4095 tables");
    }
    for (size_t i = 0; i < out->table_count; i++) {
        const struct lq_toml_table *other = &out->tables[i];
        bool same_tail = (other->parts[1] == NULL) == (table->parts[1] == NULL) &&
                         (table->parts[1] == NULL || strcmp(other->parts[1], table->parts[1]) == 0);
        if (same_tail && strcmp(other->parts[0], table->parts[0]) == 0) {
            return lq_error_set(p->err, LQ_EUSAGE, "%s:%u: table [%s%s%s] stands on line %u too",
                                p->where, p->line, table->parts[0],
                                table->parts[1] == NULL ? "" : ".",
                                table->parts[1] == NULL ? "" : table->parts[1], other->line);
        }
    }
    if (out->table_count == p->table_capacity) {
        size_t capacity = p->table_capacity == 0 ? 8 : p->table_capacity * 2;
        struct lq_toml_table *grown = lq_arena_get_array(p->arena, capacity, sizeof *grown);
        if (grown == NULL) {
            return lq_error_nomem(p->err, p->where);
        }
        if (out->table_count > 0) {
            memcpy(grown, out->tables, out->table_count * sizeof *grown);
        }
        out->tables = grown;
        p->table_capacity = capacity;
    }
    out->tables[out->table_count++] = *table;
    return LQ_OK;
}

static enum lq_status read_table(struct parser *p)
{
    struct lq_toml_table table = {.line = p->line};
    p->at++;
    if (peek(p) == '[') {
        return fail(p, "arrays of tables are not supported here");
    }
    for (size_t depth = 0;; depth++) {
        skip_blanks(p);
        if (depth == LQ_TOML_DEPTH_MAX) {
            return fail(p, "a table name has more than two parts");
        }
        enum lq_status status = read_key(p, &table.parts[depth]);
        if (status != LQ_OK) {
            return status;
        }
        if (table.parts[depth][0] == '\0') {
            return fail(p, "a table has an empty name");
        }
        skip_blanks(p);
        if (peek(p) == ']') {
            p->at++;
            status = end_line(p);
            return status == LQ_OK ? add_table(p, &table) : status;
        }
        if (peek(p) != '.') {
            return fail(p, "expected ']' behind the table's name");
        }
        p->at++;
    }
}

static enum lq_status add_item(struct parser *p, const struct lq_toml_item *item)
{
    struct lq_toml *out = p->out;
    for (size_t i = 0; i < out->item_count; i++) {
        const struct lq_toml_item *other = &out->items[i];
        if (other->table == item->table && strcmp(other->key, item->key) == 0) {
            return lq_error_set(p->err, LQ_EUSAGE, "%s:%u: '%s' stands on line %u too", p->where,
                                item->line, item->key, other->line);
        }
    }
    if (out->item_count == p->item_capacity) {
        size_t capacity = p->item_capacity == 0 ? 16 : p->item_capacity * 2;
        struct lq_toml_item *grown = lq_arena_get_array(p->arena, capacity, sizeof *grown);
        if (grown == NULL) {
            return lq_error_nomem(p->err, p->where);
        }
        if (out->item_count > 0) {
            memcpy(grown, out->items, out->item_count * sizeof *grown);
        }
        out->items = grown;
        p->item_capacity = capacity;
    }
    out->items[out->item_count++] = *item;
    return LQ_OK;
}

static enum lq_status read_item(struct parser *p)
{
    struct lq_toml_item item = {.table = p->out->table_count - 1, .line = p->line};
    if (p->out->item_count == LQ_CONFIG_KEYS_MAX) {
        return fail(p, "more than 4096 keys");
    }
    enum lq_status status = read_key(p, &item.key);
    if (status != LQ_OK) {
        return status;
    }
    skip_blanks(p);
    if (peek(p) == '.') {
        return fail(p, "dotted keys are not supported here; write a [table]");
    }
    if (peek(p) != '=') {
        return fail(p, "expected '=' behind the key");
    }
    p->at++;
    skip_blanks(p);
    status = read_value(p, &item);
    if (status == LQ_OK) {
        status = end_line(p);
    }
    return status == LQ_OK ? add_item(p, &item) : status;
}

enum lq_status lq_toml_parse(const void *data, size_t size_bytes, const char *where,
                             struct lq_arena *arena, struct lq_toml *out, struct lq_error *err)
{
    *out = (struct lq_toml){.tables = NULL};
    struct parser p = {.at = data,
                       .end = (const char *)data + size_bytes,
                       .where = where,
                       .line = 1,
                       .arena = arena,
                       .out = out,
                       .err = err};
    if (size_bytes > LQ_CONFIG_BYTES_MAX) {
        return lq_error_set(err, LQ_EUSAGE, "%s: %zu bytes, expected at most %d", where, size_bytes,
                            (int)LQ_CONFIG_BYTES_MAX);
    }
    lq_buffer_init(&p.text);
    struct lq_toml_table root = {.parts = {""}, .line = 1};
    enum lq_status status = add_table(&p, &root);
    while (status == LQ_OK) {
        status = skip_lines(&p);
        if (status != LQ_OK || at_end(&p)) {
            break;
        }
        status = *p.at == '[' ? read_table(&p) : read_item(&p);
    }
    lq_buffer_fini(&p.text);
    return status;
}
