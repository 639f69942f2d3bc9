/* Running the steps of a normalizer. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "rules/model/normalize_parts.h"
#include "rules/model/pretokenize.h"
#include "rules/model/pretokenize_parts.h"

#define BLANK_MARK "\xe2\x96\x81"

enum { BLANK_MARK_BYTES = 3, CHARACTER_BYTES_MAX = 4 };

struct lq_pattern {
    pcre2_code *code;
};

enum lq_status lq_pattern_create(struct lq_pattern **out, const char *expression, const char *where,
                                 struct lq_error *err)
{
    struct lq_buffer spelled;
    int error = 0;
    PCRE2_SIZE offset = 0;
    *out = calloc(1, sizeof **out);
    if (*out == NULL) {
        return lq_error_nomem(err, "normalizer");
    }
    lq_buffer_init(&spelled);
    lq_pre_spell_spaces(expression, &spelled);
    /* The library of tokenizer.json has Ruby's expressions, in which ^ and $ are those of lines. */
    (*out)->code = spelled.failed
                       ? NULL
                       : pcre2_compile((PCRE2_SPTR)lq_buffer_text(&spelled), spelled.size_bytes,
                                       PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF |
                                           PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                                       &error, &offset, NULL);
    bool nomem = spelled.failed || error == PCRE2_ERROR_HEAP_FAILED;
    lq_buffer_fini(&spelled);
    if ((*out)->code != NULL) {
        return LQ_OK;
    }
    lq_pattern_destroy(*out);
    *out = NULL;
    return nomem ? lq_error_nomem(err, "normalizer")
                 : lq_error_set(err, LQ_EFORMAT,
                                "%s: the expression '%.200s' of the normalizer 'Replace' is not "
                                "understood at character %zu",
                                where, expression, (size_t)offset);
}

void lq_pattern_destroy(struct lq_pattern *pattern)
{
    if (pattern != NULL) {
        pcre2_code_free(pattern->code);
        free(pattern);
    }
}

static size_t length_at(const char *text, size_t length)
{
    return (unsigned char)*text < 0x80 ? 1 : lq_utf8_length(text, length);
}

/* ---- Unicode's forms ---- */

static utf8proc_option_t form_options(enum lq_normalizer_kind kind)
{
    int options = UTF8PROC_STABLE;
    bool composes = kind == LQ_NORMALIZE_NFC || kind == LQ_NORMALIZE_NFKC;
    bool compatible = kind == LQ_NORMALIZE_NFKC || kind == LQ_NORMALIZE_NFKD;
    options |= composes ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
    options |= compatible ? UTF8PROC_COMPAT : 0;
    return (utf8proc_option_t)options;
}

static void append_point(utf8proc_int32_t point, struct lq_buffer *out)
{
    utf8proc_uint8_t bytes[CHARACTER_BYTES_MAX];
    lq_buffer_append(out, bytes, (size_t)utf8proc_encode_char(point, bytes));
}

/* Valid UTF-8 of any length. */
static enum lq_status append_form(utf8proc_option_t options, const char *text, size_t length,
                                  struct lq_buffer *out, struct lq_error *err)
{
    const utf8proc_uint8_t *bytes = (const utf8proc_uint8_t *)text;
    utf8proc_ssize_t count = (utf8proc_ssize_t)length + 1;
    utf8proc_ssize_t room = 0;
    utf8proc_int32_t *points = NULL;
    /* A character may become more of them than it has bytes: then the first try says how many. */
    while (count > room) {
        free(points);
        room = count;
        points = (size_t)room > SIZE_MAX / 2 / sizeof *points
                     ? NULL
                     : malloc((size_t)room * sizeof *points);
        if (points == NULL) {
            return lq_error_nomem(err, "text");
        }
        count = utf8proc_decompose(bytes, (utf8proc_ssize_t)length, points, room, options);
    }
    if (count > 0) {
        count = utf8proc_normalize_utf32(points, count, options);
    }
    for (utf8proc_ssize_t i = 0; i < count; i++) {
        append_point(points[i], out);
    }
    free(points);
    return count >= 0 ? LQ_OK
                      : lq_error_set(err, LQ_EINTERNAL, "text cannot be normalized: %s",
                                     utf8proc_errmsg(count));
}

/* U+11A7 is no letter of Hangul though it stands just before the last ones: nothing composes with
 * it, and utf8proc 2.8 must not see it behind a syllable. */
static bool is_before_finals(const char *text, size_t length)
{
    return length >= 3 && memcmp(text, "\xe1\x86\xa7", 3) == 0;
}

/* ASCII stays what it is in every form, and combines with what follows only: so the text is cut
 * before the last ASCII character of each stretch. */
static enum lq_status run_form(utf8proc_option_t options, const char *text, size_t length,
                               struct lq_buffer *out, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < length && status == LQ_OK;) {
        size_t end = i;
        while (end < length && (unsigned char)text[end] < 0x80) {
            end++;
        }
        size_t start = end > i && end < length ? end - 1 : end;
        size_t step = 1;
        lq_buffer_append(out, text + i, start - i);
        while (end < length && (unsigned char)text[end] >= 0x80 && step > 0 &&
               (end == start || !is_before_finals(text + end, length - end))) {
            step = lq_utf8_length(text + end, length - end);
            end += step;
        }
        if (end > start) {
            status = append_form(options, text + start, end - start, out, err);
        }
        if (step == 0) {
            lq_buffer_append_char(out, text[end]);
            end++;
        }
        i = end;
    }
    return status;
}

/* ---- single characters ---- */

/* What Google's NMT models drop and take for blanks. */
static bool nmt_drops(utf8proc_int32_t point)
{
    return (point >= 0x01 && point <= 0x08) || point == 0x0b || (point >= 0x0e && point <= 0x1f) ||
           point == 0x7f || point == 0x8f || point == 0x9f;
}

static bool nmt_is_blank(utf8proc_int32_t point)
{
    static const utf8proc_int32_t blanks[] = {0x09,   0x0a,   0x0c,   0x0d,   0x1680,
                                              0x2028, 0x2029, 0x2581, 0xfeff, 0xfffd};
    bool found = point >= 0x200b && point <= 0x200f;
    for (size_t i = 0; i < sizeof blanks / sizeof *blanks; i++) {
        found = found || blanks[i] == point;
    }
    return found;
}

static bool is_mark(utf8proc_int32_t point)
{
    utf8proc_category_t category = utf8proc_category(point);
    return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
           category == UTF8PROC_CATEGORY_ME;
}

static void append_mapped(enum lq_normalizer_kind kind, utf8proc_int32_t point,
                          struct lq_buffer *out)
{
    if (kind == LQ_NORMALIZE_LOWERCASE) {
        append_point(utf8proc_tolower(point), out);
        if (point == 0x130) { /* the one letter whose small form has two characters */
            lq_buffer_append_string(out, "\xcc\x87");
        }
    } else if (kind == LQ_NORMALIZE_STRIP_ACCENTS) {
        if (!is_mark(point)) {
            append_point(point, out);
        }
    } else if (!nmt_drops(point)) {
        append_point(nmt_is_blank(point) ? ' ' : point, out);
    }
}

static void run_characters(enum lq_normalizer_kind kind, const char *text, size_t length,
                           struct lq_buffer *out)
{
    for (size_t i = 0; i < length;) {
        size_t step = length_at(text + i, length - i);
        utf8proc_int32_t point = -1;
        if (step > 0) {
            (void)utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)step,
                                   &point);
        }
        if (point >= 0) {
            append_mapped(kind, point, out);
        } else {
            lq_buffer_append_char(out, text[i]);
        }
        i += step == 0 ? 1 : step;
    }
}

static void run_map(const struct lq_charsmap *map, const char *text, size_t length,
                    struct lq_buffer *out)
{
    for (size_t i = 0; i < length;) {
        const char *replacement = NULL;
        size_t replacement_length = 0;
        size_t step =
            lq_charsmap_match(map, text + i, length - i, &replacement, &replacement_length);
        if (step > 0) {
            lq_buffer_append(out, replacement, replacement_length);
        } else {
            step = length_at(text + i, length - i);
            step = step == 0 ? 1 : step;
            lq_buffer_append(out, text + i, step);
        }
        i += step;
    }
}

/* ---- white space ---- */

static void run_strip(const struct lq_normalizer_step *step, const char *text, size_t length,
                      struct lq_buffer *out)
{
    size_t start = 0;
    size_t space = step->left ? 1 : 0;
    while (space > 0) {
        space = lq_utf8_space_length(text + start, length - start);
        start += space;
    }
    size_t rest = length - start;
    lq_buffer_append(out, text + start, step->right ? lq_utf8_strip_end(text + start, rest) : rest);
}

/* Runs of blanks become one each, between words only. */
static void run_extra_blanks(const char *text, size_t length, struct lq_buffer *out)
{
    bool pending = false;
    bool begun = false;
    for (size_t i = 0; i < length; i++) {
        if (text[i] == ' ') {
            pending = begun;
            continue;
        }
        if (pending) {
            lq_buffer_append_char(out, ' ');
        }
        lq_buffer_append_char(out, text[i]);
        pending = false;
        begun = true;
    }
}

/* Likewise with any white space. */
static void run_words(const char *text, size_t length, struct lq_buffer *out)
{
    bool pending = false;
    bool begun = false;
    for (size_t i = 0; i < length;) {
        size_t space = lq_utf8_space_length(text + i, length - i);
        if (space > 0) {
            pending = begun;
            i += space;
            continue;
        }
        if (pending) {
            lq_buffer_append_char(out, ' ');
        }
        lq_buffer_append_char(out, text[i++]);
        pending = false;
        begun = true;
    }
}

static void run_metaspace(const struct lq_normalizer_step *step, bool begins, const char *text,
                          size_t length, struct lq_buffer *out)
{
    bool marked = length > 0 && (*text == ' ' || (length >= BLANK_MARK_BYTES &&
                                                  memcmp(text, BLANK_MARK, BLANK_MARK_BYTES) == 0));
    if (length > 0 && !marked && (step->always || (step->first && begins))) {
        lq_buffer_append_string(out, BLANK_MARK);
    }
    for (size_t i = 0; i < length; i++) {
        if (text[i] == ' ') {
            lq_buffer_append_string(out, BLANK_MARK);
        } else {
            lq_buffer_append_char(out, text[i]);
        }
    }
}

/* ---- replacing ---- */

static void run_replace(const struct lq_normalizer_step *step, const char *text, size_t length,
                        struct lq_buffer *out)
{
    size_t done = 0;
    for (size_t i = 0; i + step->from_length <= length;) {
        if (text[i] != step->from[0] || memcmp(text + i, step->from, step->from_length) != 0) {
            i++;
            continue;
        }
        lq_buffer_append(out, text + done, i - done);
        lq_buffer_append(out, step->to, step->to_length);
        i += step->from_length;
        done = i;
    }
    lq_buffer_append(out, text + done, length - done);
}

static enum lq_status run_pattern(const struct lq_normalizer_step *step, const char *text,
                                  size_t length, struct lq_buffer *out, struct lq_error *err)
{
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    size_t done = 0;
    int rc = match == NULL ? PCRE2_ERROR_NOMEMORY : 0;
    for (size_t from = 0; rc >= 0 && from < length;) {
        rc = pcre2_match(step->pattern->code, (PCRE2_SPTR)text, length, from, 0, match, NULL);
        const PCRE2_SIZE *bounds = rc < 0 ? NULL : pcre2_get_ovector_pointer(match);
        if (bounds == NULL) {
            continue;
        }
        if (bounds[1] <= bounds[0]) { /* nothing was found at this place */
            size_t size = bounds[0] < length ? length_at(text + bounds[0], length - bounds[0]) : 1;
            from = bounds[0] + (size == 0 ? 1 : size);
            continue;
        }
        lq_buffer_append(out, text + done, bounds[0] - done);
        lq_buffer_append(out, step->to, step->to_length);
        done = bounds[1];
        from = done;
    }
    pcre2_match_data_free(match);
    lq_buffer_append(out, text + done, length - done);
    if (rc >= 0 || rc == PCRE2_ERROR_NOMATCH) {
        return LQ_OK;
    }
    return rc == PCRE2_ERROR_NOMEMORY || rc == PCRE2_ERROR_HEAPLIMIT
               ? lq_error_nomem(err, "text")
               : lq_error_set(
                     err, LQ_EUNSUPPORTED,
                     "the normalizer 'Replace' gives up on the text behind byte %zu (PCRE2 "
                     "error %d); is it really text?",
                     done, rc);
}

enum lq_status lq_normalizer_step_run(const struct lq_normalizer_step *step, bool begins,
                                      const char *text, size_t length, struct lq_buffer *out,
                                      struct lq_error *err)
{
    switch (step->kind) {
    case LQ_NORMALIZE_NFC:
    case LQ_NORMALIZE_NFD:
    case LQ_NORMALIZE_NFKC:
    case LQ_NORMALIZE_NFKD:
        return run_form(form_options(step->kind), text, length, out, err);
    case LQ_NORMALIZE_LOWERCASE:
    case LQ_NORMALIZE_STRIP_ACCENTS:
    case LQ_NORMALIZE_NMT:
        run_characters(step->kind, text, length, out);
        return LQ_OK;
    case LQ_NORMALIZE_STRIP:
        run_strip(step, text, length, out);
        return LQ_OK;
    case LQ_NORMALIZE_REPLACE:
        if (step->pattern != NULL) {
            return run_pattern(step, text, length, out, err);
        }
        run_replace(step, text, length, out);
        return LQ_OK;
    case LQ_NORMALIZE_PREPEND:
        lq_buffer_append(out, step->to, length > 0 ? step->to_length : 0);
        lq_buffer_append(out, text, length);
        return LQ_OK;
    case LQ_NORMALIZE_PRECOMPILED:
        run_map(&step->map, text, length, out);
        return LQ_OK;
    case LQ_NORMALIZE_EXTRA_BLANKS:
        run_extra_blanks(text, length, out);
        return LQ_OK;
    case LQ_NORMALIZE_WORDS:
        run_words(text, length, out);
        return LQ_OK;
    case LQ_NORMALIZE_METASPACE:
        run_metaspace(step, begins, text, length, out);
        return LQ_OK;
    }
    return LQ_OK;
}
