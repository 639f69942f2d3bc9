#include "engine/base/text.h"

#include <stdio.h>
#include <string.h>

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

bool lq_text_starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

bool lq_text_ends_with(const char *text, const char *suffix)
{
    size_t length = strlen(text);
    size_t tail = strlen(suffix);
    return length >= tail && strcmp(text + length - tail, suffix) == 0;
}

bool lq_text_equal_nocase(const char *a, const char *b)
{
    while (*a != '\0' && lower(*a) == lower(*b)) {
        a++;
        b++;
    }
    return lower(*a) == lower(*b);
}

bool lq_text_glob(const char *pattern, const char *text)
{
    /* Greedy with one point to return to: linear for sane patterns, never exponential. */
    const char *star = NULL;
    const char *resume = NULL;
    while (*text != '\0') {
        if (*pattern == '*') {
            star = pattern++;
            resume = text;
        } else if (*pattern == '?' || *pattern == *text) {
            pattern++;
            text++;
        } else if (star != NULL) {
            pattern = star + 1;
            text = ++resume;
        } else {
            return false;
        }
    }
    while (*pattern == '*') {
        pattern++;
    }
    return *pattern == '\0';
}

enum { NEAREST_LENGTH_MAX = 64 };

static size_t min3(size_t a, size_t b, size_t c)
{
    size_t least = a < b ? a : b;
    return least < c ? least : c;
}

/* Optimal string alignment distance. */
static size_t distance(const char *a, size_t a_length, const char *b, size_t b_length)
{
    size_t rows[3][NEAREST_LENGTH_MAX + 1];
    for (size_t j = 0; j <= b_length; j++) {
        rows[0][j] = j;
    }
    for (size_t i = 1; i <= a_length; i++) {
        size_t *now = rows[i % 3];
        const size_t *last = rows[(i + 2) % 3];
        const size_t *before = rows[(i + 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= b_length; j++) {
            size_t cost = lower(a[i - 1]) == lower(b[j - 1]) ? 0 : 1;
            now[j] = min3(last[j] + 1, now[j - 1] + 1, last[j - 1] + cost);
            if (i > 1 && j > 1 && lower(a[i - 1]) == lower(b[j - 2]) &&
                lower(a[i - 2]) == lower(b[j - 1]) && before[j - 2] + 1 < now[j]) {
                now[j] = before[j - 2] + 1;
            }
        }
    }
    return rows[a_length % 3][b_length];
}

const char *lq_text_nearest(const char *text, const char *const *candidates, size_t count)
{
    size_t length = strlen(text);
    if (length == 0 || length > NEAREST_LENGTH_MAX) {
        return NULL;
    }
    const char *best = NULL;
    size_t best_distance = length < 4 ? 2 : length / 3 + 2; /* one more than what is accepted */
    for (size_t i = 0; i < count; i++) {
        size_t other = strlen(candidates[i]);
        if (other > NEAREST_LENGTH_MAX) {
            continue;
        }
        size_t d = distance(text, length, candidates[i], other);
        size_t longer = other > length ? other : length;
        if (d < best_distance && d < longer) { /* something of what was typed must be there */
            best_distance = d;
            best = candidates[i];
        }
    }
    return best;
}

char *lq_text_size(uint64_t size_bytes, char *out, size_t out_bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)size_bytes;
    size_t unit = 0;
    while (value >= 1024 && unit < 5) {
        value /= 1024;
        unit++;
    }
    (void)snprintf(out, out_bytes, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return out;
}

char *lq_text_duration(double seconds, char *out, size_t out_bytes)
{
    if (seconds < 1) {
        (void)snprintf(out, out_bytes, "%.0f ms", seconds * 1000);
    } else if (seconds < 100) {
        (void)snprintf(out, out_bytes, "%.1f s", seconds);
    } else if (seconds < 6000) {
        (void)snprintf(out, out_bytes, "%d min %02d s", (int)(seconds / 60), (int)seconds % 60);
    } else {
        (void)snprintf(out, out_bytes, "%d h %02d min", (int)(seconds / 3600),
                       (int)(seconds / 60) % 60);
    }
    return out;
}

bool lq_text_size_parse(const char *text, uint64_t *size_bytes)
{
    /* Thousandths keep three digits behind the point without floating point. */
    uint64_t milli = 0;
    unsigned decimals = 0;
    bool any = false;
    bool point = false;
    for (; (*text >= '0' && *text <= '9') || (*text == '.' && !point); text++) {
        if (*text == '.') {
            point = true;
            continue;
        }
        if (milli > (UINT64_MAX - 9) / 10 || decimals == 3) {
            return false;
        }
        milli = milli * 10 + (uint64_t)(*text - '0');
        decimals += point;
        any = true;
    }
    for (; decimals < 3; decimals++) {
        if (milli > UINT64_MAX / 10) {
            return false;
        }
        milli *= 10;
    }
    while (*text == ' ') {
        text++;
    }
    static const char units[] = "KMGT";
    const char *unit = *text == '\0' ? NULL : strchr(units, lower(*text) - 32);
    uint64_t factor = 1;
    if (unit != NULL) {
        text++;
        bool decimal = lower(*text) == 'b';
        text += lower(*text) == 'i';
        for (long i = 0; i <= unit - units; i++) {
            factor *= decimal ? 1000 : 1024;
        }
    }
    text += lower(*text) == 'b';
    if (!any || *text != '\0' || milli > UINT64_MAX / factor) {
        return false;
    }
    *size_bytes = milli * factor / 1000;
    return true;
}

size_t lq_text_control(const char *text, size_t length)
{
    unsigned char first = length > 0 ? (unsigned char)text[0] : ' ';
    unsigned char second = length > 1 ? (unsigned char)text[1] : ' ';
    if (first == 0xC2 && second >= 0x80 && second <= 0x9F) {
        return 2;
    }
    bool ends_line = first == '\n' || (first == '\r' && second == '\n');
    return (first < 0x20 && first != '\t' && !ends_line) || first == 0x7F ? 1 : 0;
}
