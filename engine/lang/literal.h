/* What number and string tokens mean. Numbers: decimal, with an exponent, with a unit (% KB MB GB
 * KiB MiB GiB); they are read without regard to the locale and rounded once, so 0.7% is the double
 * nearest to 0.007. Strings: escapes \n \t \" \\ \{ \} and names in braces. Pure functions. */
#ifndef LQ_ENGINE_LANG_LITERAL_H
#define LQ_ENGINE_LANG_LITERAL_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/buffer.h"

/* On failure *problem is static text for people, e.g. "malformed number". */
bool lq_literal_number(const char *text, size_t length, double *out, const char **problem);
/* Appends the shortest text that reads back as the same number; whole numbers without exponent. */
void lq_literal_format_number(struct lq_buffer *out, double value);

enum lq_piece_kind {
    LQ_PIECE_END,
    LQ_PIECE_TEXT, /* bytes were appended to the buffer */
    LQ_PIECE_NAME, /* offset and length tell where it is */
    LQ_PIECE_BAD,  /* offset tells where, problem tells why */
};

/* Walks through the inside of a string token. */
struct lq_string_reader {
    const char *text;
    size_t length;
    size_t next;
    /* of the last piece */
    size_t offset;
    size_t name_length;
    const char *problem;
};

void lq_string_reader_init(struct lq_string_reader *reader, const char *inside, size_t length);
enum lq_piece_kind lq_string_reader_next(struct lq_string_reader *reader, struct lq_buffer *text);

#endif
