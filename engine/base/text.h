/* Small questions about strings: suggestions for typing errors, glob patterns, sizes and durations
 * for people. Thread rule: pure, except that callers own the buffers. */
#ifndef LQ_BASE_TEXT_H
#define LQ_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool lq_text_starts_with(const char *text, const char *prefix);
bool lq_text_ends_with(const char *text, const char *suffix);
/* ASCII, whatever the locale. */
bool lq_text_equal_nocase(const char *a, const char *b);
/* '*' any run, '?' one character, everything else literal; the whole text must match. */
bool lq_text_glob(const char *pattern, const char *text);
/* The candidate nearest to `text` by edits (insert, delete, replace, swap neighbours; case is
 * free), or NULL when none is near enough to be a likely typing error. */
const char *lq_text_nearest(const char *text, const char *const *candidates, size_t count);
/* How many of the bytes at the beginning are a control character, which a terminal would obey: 0,
 * 1, or 2 for those of UTF-8 (U+0080 to U+009F). Tabs and line ends are none. */
size_t lq_text_control(const char *text, size_t length);
/* "1.2 MiB", "15 s": at least 32 bytes of room each; return `out`. */
char *lq_text_size(uint64_t size_bytes, char *out, size_t out_bytes);
/* "50 GB", "1.5GiB", "4096": a number and K, M, G or T, by 1000 (KB) or by 1024 (K, KiB). False
 * for anything else, and for what does not fit. */
bool lq_text_size_parse(const char *text, uint64_t *size_bytes);
char *lq_text_duration(double seconds, char *out, size_t out_bytes);

#endif
