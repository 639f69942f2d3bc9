/* Names out of foreign files, made safe for messages and terminals: control bytes become '?' and
 * long names are cut with "...". Thread rule: pure, the caller owns the buffer. Limit:
 * LQ_QUOTE_BYTES with the NUL. */
#ifndef LQ_RULES_FORMAT_QUOTE_H
#define LQ_RULES_FORMAT_QUOTE_H

#include <stddef.h>

enum { LQ_QUOTE_BYTES = 96 };

/* Returns `out`, always NUL-terminated. `text` may be NULL when `length` is 0. */
const char *lq_quote(const char *text, size_t length, char out[LQ_QUOTE_BYTES]);
/* The same for a C string. */
const char *lq_quote_string(const char *text, char out[LQ_QUOTE_BYTES]);

#endif
