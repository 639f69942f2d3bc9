#include "engine/lang/literal.h"

#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/json.h"

enum { NUMBER_BYTES_MAX = 64, EXPONENT_MAX = 99999 };

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static struct {
    const char *text;
    int exponent10;
    double factor;
} const units[] = {
    {"", 0, 1},
    {"%", -2, 1},
    {"KB", 3, 1},
    {"MB", 6, 1},
    {"GB", 9, 1},
    {"KiB", 0, 1024},
    {"MiB", 0, 1024.0 * 1024},
    {"GiB", 0, 1024.0 * 1024 * 1024},
};

/* strtod wants the decimal point of the locale. `length` digits and points stand at `text`. */
static double read_decimal(const char *text, size_t length, int exponent)
{
    char copy[NUMBER_BYTES_MAX + 32];
    const char *point = localeconv()->decimal_point;
    size_t used = 0;
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '.') {
            used += (size_t)snprintf(copy + used, sizeof copy - used, "%.8s", point);
        } else {
            copy[used++] = text[i];
        }
    }
    (void)snprintf(copy + used, sizeof copy - used, "e%d", exponent);
    return strtod(copy, NULL);
}

static size_t skip_digits(const char *text, size_t i, size_t length)
{
    while (i < length && is_digit(text[i])) {
        i++;
    }
    return i;
}

bool lq_literal_number(const char *text, size_t length, double *out, const char **problem)
{
    *out = 0;
    *problem = "malformed number";
    size_t end = skip_digits(text, 0, length);
    if (end == 0) {
        return false;
    }
    if (end < length && text[end] == '.') {
        size_t fraction = end + 1;
        end = skip_digits(text, fraction, length);
        if (end == fraction) {
            return false;
        }
    }
    size_t mantissa = end;
    int exponent = 0;
    if (end < length && (text[end] == 'e' || text[end] == 'E')) {
        bool negative = end + 1 < length && text[end + 1] == '-';
        size_t digits = end + 1 + (negative || (end + 1 < length && text[end + 1] == '+') ? 1 : 0);
        end = skip_digits(text, digits, length);
        if (end == digits) {
            return false;
        }
        for (size_t i = digits; i < end && exponent < EXPONENT_MAX; i++) {
            exponent = exponent * 10 + (text[i] - '0');
        }
        exponent = negative ? -exponent : exponent;
    }
    if (mantissa > NUMBER_BYTES_MAX) {
        *problem = "number with too many digits";
        return false;
    }
    for (size_t i = 0; i < LQ_COUNT_OF(units); i++) {
        if (strlen(units[i].text) == length - end &&
            memcmp(units[i].text, text + end, length - end) == 0) {
            *out = read_decimal(text, mantissa, exponent + units[i].exponent10) * units[i].factor;
            *problem = "number is too large";
            return isfinite(*out) != 0;
        }
    }
    *problem = "unknown unit behind a number; known are % KB MB GB KiB MiB GiB";
    return false;
}

void lq_literal_format_number(struct lq_buffer *out, double value)
{
    const double whole_max = 9007199254740992.0; /* 2^53 */
    if (value >= 0 && value < 10) {
        int digit = (int)value;
        if (value == digit) {
            lq_buffer_append_char(out, (char)('0' + digit));
            return;
        }
    }
    if (value == floor(value) && fabs(value) <= whole_max) {
        lq_buffer_printf(out, "%.0f", value + 0.0); /* + 0.0 makes -0 a plain 0 */
    } else {
        lq_json_format_number(out, value);
    }
}

void lq_string_reader_init(struct lq_string_reader *reader, const char *inside, size_t length)
{
    memset(reader, 0, sizeof *reader);
    reader->text = inside;
    reader->length = length;
}

static enum lq_piece_kind bad(struct lq_string_reader *reader, size_t offset, const char *problem)
{
    reader->offset = offset;
    reader->problem = problem;
    return LQ_PIECE_BAD;
}

static bool is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || is_digit(c);
}

static enum lq_piece_kind read_name(struct lq_string_reader *reader)
{
    static const char *const hint =
        "expected one name between { and }; write \\{ for a brace that is meant as text";
    size_t open = reader->next;
    size_t i = open + 1;
    while (i < reader->length && reader->text[i] == ' ') {
        i++;
    }
    size_t start = i;
    while (i < reader->length && is_name_char(reader->text[i])) {
        i++;
    }
    size_t end = i;
    while (i < reader->length && reader->text[i] == ' ') {
        i++;
    }
    if (end == start || is_digit(reader->text[start]) || i == reader->length ||
        reader->text[i] != '}') {
        return bad(reader, open, hint);
    }
    reader->offset = start;
    reader->name_length = end - start;
    reader->next = i + 1;
    return LQ_PIECE_NAME;
}

static bool read_escape(struct lq_string_reader *reader, struct lq_buffer *text)
{
    char c = reader->next + 1 < reader->length ? reader->text[reader->next + 1] : '\0';
    switch (c) {
    case 'n':
        c = '\n';
        break;
    case 't':
        c = '\t';
        break;
    case '"':
    case '\\':
    case '{':
    case '}':
        break;
    default:
        return false;
    }
    lq_buffer_append_char(text, c);
    reader->next += 2;
    return true;
}

static bool is_plain(char c)
{
    return (unsigned char)c >= 0x20 && c != 0x7f && c != '\\' && c != '{' && c != '}';
}

enum lq_piece_kind lq_string_reader_next(struct lq_string_reader *reader, struct lq_buffer *text)
{
    size_t start = reader->next;
    while (reader->next < reader->length) {
        unsigned char c = (unsigned char)reader->text[reader->next];
        if (c == '{') {
            return reader->next > start ? LQ_PIECE_TEXT : read_name(reader);
        }
        if (c == '}') {
            return bad(reader, reader->next,
                       "'}' without '{' in a string; write \\} for a brace "
                       "that is meant as text");
        }
        if (c == '\\') {
            if (!read_escape(reader, text)) {
                return bad(reader, reader->next,
                           "unknown escape in a string; known are \\n \\t \\\" \\\\ \\{ \\}");
            }
            continue;
        }
        if ((c < 0x20 && c != '\t') || c == 0x7f) {
            return bad(reader, reader->next, "control character in a string");
        }
        size_t run = reader->next + 1;
        while (run < reader->length && is_plain(reader->text[run])) {
            run++;
        }
        lq_buffer_append(text, reader->text + reader->next, run - reader->next);
        reader->next = run;
    }
    return reader->next > start ? LQ_PIECE_TEXT : LQ_PIECE_END;
}
