#include "rules/format/quote.h"

#include <string.h>

const char *lq_quote(const char *text, size_t length, char out[LQ_QUOTE_BYTES])
{
    static const char dots[] = "...";
    size_t room = LQ_QUOTE_BYTES - sizeof dots;
    size_t shown = length > room ? room : length;
    /* Do not cut a UTF-8 character in two. */
    while (shown > 0 && shown < length && ((unsigned char)text[shown] & 0xc0) == 0x80) {
        shown--;
    }
    for (size_t i = 0; i < shown; i++) {
        unsigned char c = (unsigned char)text[i];
        out[i] = c < 0x20 || c == 0x7f ? '?' : text[i];
    }
    out[shown] = '\0';
    if (shown < length) {
        memcpy(out + shown, dots, sizeof dots);
    }
    return out;
}

const char *lq_quote_string(const char *text, char out[LQ_QUOTE_BYTES])
{
    return lq_quote(text, strlen(text), out);
}
