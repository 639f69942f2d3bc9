#include "rules/model/pretokenize.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"
#include "rules/model/pretokenize_parts.h"

struct lq_pretokenizer {
    const struct lq_pre_row *row;
    pcre2_code *codes[LQ_PRE_EXPRESSIONS_MAX];
    size_t code_count;
};

static enum lq_status unknown_name(const char *name, struct lq_error *err)
{
    struct lq_buffer names;
    lq_buffer_init(&names);
    lq_pre_row_list(&names);
    enum lq_status status =
        lq_error_set(err, LQ_EUNSUPPORTED, "unknown pre-tokenizer '%.100s'; known are: %s", name,
                     lq_buffer_text(&names));
    lq_buffer_fini(&names);
    return status;
}

/* White space as Unicode's White_Space property has it. PCRE2's \s would add U+180E. */
#define SPACES                                                                                     \
    "\\t-\\r\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}"   \
    "\\x{3000}"

void lq_pre_spell_spaces(const char *expression, struct lq_buffer *out)
{
    bool in_class = false;
    for (const char *at = expression; *at != '\0'; at++) {
        if (at[0] == '\\' && at[1] == 's') {
            lq_buffer_append_string(out, in_class ? SPACES : "[" SPACES "]");
            at++;
        } else if (at[0] == '\\' && at[1] == 'S') {
            lq_buffer_append_string(out, "[^" SPACES "]");
            at++;
        } else if (at[0] == '\\') {
            lq_buffer_append(out, at, 2);
            at++;
        } else {
            in_class = *at == '[' ? true : *at == ']' ? false : in_class;
            lq_buffer_append_char(out, *at);
        }
    }
}

static enum lq_status compile(const char *expression, pcre2_code **code, struct lq_error *err)
{
    const char *text =
        strcmp(expression, LQ_PRE_BYTE_LEVEL) == 0 ? LQ_PRE_GPT2_EXPRESSION : expression;
    struct lq_buffer spelled;
    lq_buffer_init(&spelled);
    lq_pre_spell_spaces(text, &spelled);
    int error = 0;
    PCRE2_SIZE offset = 0;
    *code =
        spelled.failed
            ? NULL
            : pcre2_compile((PCRE2_SPTR)lq_buffer_text(&spelled), PCRE2_ZERO_TERMINATED,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_DOLLAR_ENDONLY, &error, &offset, NULL);
    bool nomem = spelled.failed || error == PCRE2_ERROR_HEAP_FAILED;
    lq_buffer_fini(&spelled);
    if (*code == NULL) {
        return nomem ? lq_error_nomem(err, "pre-tokenizer")
                     : lq_error_set(err, LQ_EINTERNAL,
                                    "PCRE2 refuses the pre-tokenizer expression '%s' at %zu", text,
                                    (size_t)offset);
    }
    /* Without a JIT for this machine matching falls back to the interpreter. */
    (void)pcre2_jit_compile(*code, PCRE2_JIT_COMPLETE);
    return LQ_OK;
}

enum lq_status lq_pretokenizer_create(struct lq_pretokenizer **out, const char *name,
                                      struct lq_error *err)
{
    *out = NULL;
    const struct lq_pre_row *row = lq_pre_row_find(name);
    if (row == NULL) {
        return unknown_name(name, err);
    }
    struct lq_pretokenizer *pre = calloc(1, sizeof *pre);
    if (pre == NULL) {
        return lq_error_nomem(err, "pre-tokenizer");
    }
    pre->row = row;
    for (size_t i = 0; i < LQ_PRE_EXPRESSIONS_MAX && row->expressions[i] != NULL; i++) {
        enum lq_status status = compile(row->expressions[i], &pre->codes[i], err);
        if (status != LQ_OK) {
            lq_pretokenizer_destroy(pre);
            return status;
        }
        pre->code_count++;
    }
    *out = pre;
    return LQ_OK;
}

void lq_pretokenizer_destroy(struct lq_pretokenizer *pre)
{
    if (pre == NULL) {
        return;
    }
    for (size_t i = 0; i < LQ_PRE_EXPRESSIONS_MAX; i++) {
        pcre2_code_free(pre->codes[i]);
    }
    free(pre);
}

bool lq_pretokenizer_ignores_merges(const struct lq_pretokenizer *pre)
{
    return pre->row->ignore_merges;
}

bool lq_pretokenizer_adds_bos(const struct lq_pretokenizer *pre)
{
    return pre->row->adds_bos;
}

size_t lq_utf8_length(const char *text, size_t length)
{
    const unsigned char *byte = (const unsigned char *)text;
    if (length == 0) {
        return 0;
    }
    if (byte[0] < 0x80) {
        return 1;
    }
    size_t size = byte[0] >= 0xf0 ? 4 : byte[0] >= 0xe0 ? 3 : 2;
    if (byte[0] < 0xc2 || byte[0] > 0xf4 || size > length) {
        return 0;
    }
    for (size_t i = 1; i < size; i++) {
        if ((byte[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    /* Overlong forms, surrogates, and what lies beyond U+10FFFF. */
    if ((byte[0] == 0xe0 && byte[1] < 0xa0) || (byte[0] == 0xed && byte[1] > 0x9f) ||
        (byte[0] == 0xf0 && byte[1] < 0x90) || (byte[0] == 0xf4 && byte[1] > 0x8f)) {
        return 0;
    }
    return size;
}

size_t lq_utf8_space_length(const char *text, size_t length)
{
    static const char *const wide[] = {"\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80",
                                       "\xe2\x80\xa8", "\xe2\x80\xa9", "\xe2\x80\xaf",
                                       "\xe2\x81\x9f", "\xe3\x80\x80"};
    if (length > 0 && (*text == ' ' || (*text >= '\t' && *text <= '\r'))) {
        return 1;
    }
    for (size_t i = 0; i < LQ_COUNT_OF(wide); i++) {
        size_t size = strlen(wide[i]);
        if (length >= size && memcmp(text, wide[i], size) == 0) {
            return size;
        }
    }
    /* U+2000 to U+200A. */
    bool is_quad = length >= 3 && memcmp(text, "\xe2\x80", 2) == 0 &&
                   (unsigned char)text[2] >= 0x80 && (unsigned char)text[2] <= 0x8a;
    return is_quad ? 3 : 0;
}

size_t lq_utf8_strip_end(const char *text, size_t length)
{
    size_t end = 0;
    for (size_t i = 0; i < length;) {
        size_t space = lq_utf8_space_length(text + i, length - i);
        i += space == 0 ? 1 : space;
        end = space == 0 ? i : end;
    }
    return end;
}

struct split {
    const struct lq_pretokenizer *pre;
    pcre2_match_data *match;
    const char *subject;  /* valid UTF-8 */
    const char *original; /* the caller's text; equal to `subject` when that was valid */
    /* Offsets in `subject` of the stand-ins for invalid bytes, ascending; each is three bytes long
     * where the original has one. */
    const size_t *replaced;
    size_t replaced_count;
    size_t replaced_next;
    size_t original_at;
    lq_word_fn word;
    void *user;
};

/* Hands on the word subject[start, end), which follows the previous one. */
static enum lq_status emit(struct split *split, size_t start, size_t end, struct lq_error *err)
{
    size_t length = end - start;
    while (split->replaced_next < split->replaced_count &&
           split->replaced[split->replaced_next] < end) {
        split->replaced_next++;
        length -= 2;
    }
    const char *word = split->original + split->original_at;
    split->original_at += length;
    return split->word(split->user, word, length, err);
}

static enum lq_status split_level(struct split *split, size_t level, size_t start, size_t end,
                                  struct lq_error *err);

/* One match within subject[start, end), searched from `from`. *found false: none. */
static enum lq_status match_once(struct split *split, size_t level, size_t start, size_t end,
                                 size_t from, size_t *match_start, size_t *match_end, bool *found,
                                 struct lq_error *err)
{
    const pcre2_code *code = split->pre->codes[level];
    PCRE2_SPTR subject = (PCRE2_SPTR)(split->subject + start);
    int rc = pcre2_match(code, subject, end - start, from - start, PCRE2_NO_UTF_CHECK, split->match,
                         NULL);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
        rc = pcre2_match(code, subject, end - start, from - start,
                         PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, split->match, NULL);
    }
    *found = rc >= 0;
    if (rc == PCRE2_ERROR_NOMATCH) {
        return LQ_OK;
    }
    if (rc == PCRE2_ERROR_NOMEMORY || rc == PCRE2_ERROR_HEAPLIMIT) {
        return lq_error_nomem(err, "pre-tokenizer");
    }
    if (rc < 0) {
        return lq_error_set(
            err, LQ_EUNSUPPORTED,
            "the pre-tokenizer '%s' gives up on the text near byte %zu (PCRE2 error "
            "%d); is it really text?",
            split->pre->row->name, split->original_at, rc);
    }
    const PCRE2_SIZE *bounds = pcre2_get_ovector_pointer(split->match);
    *match_start = start + bounds[0];
    *match_end = start + bounds[1];
    return LQ_OK;
}

/* Cuts subject[start, end) at the matches of expression `level`, and each part by the next ones. */
static enum lq_status split_level(struct split *split, size_t level, size_t start, size_t end,
                                  struct lq_error *err)
{
    if (start == end) {
        return LQ_OK;
    }
    if (level == split->pre->code_count) {
        return emit(split, start, end, err);
    }
    size_t done = start;
    size_t from = start;
    while (from < end) {
        size_t match_start = end;
        size_t match_end = end;
        bool found = false;
        enum lq_status status =
            match_once(split, level, start, end, from, &match_start, &match_end, &found, err);
        if (status != LQ_OK) {
            return status;
        }
        if (!found) {
            break;
        }
        if (match_end == match_start) {
            from = match_end + lq_utf8_length(split->subject + match_end, end - match_end);
            from = from == match_end ? end : from;
            continue;
        }
        status = split_level(split, level + 1, done, match_start, err);
        status =
            status == LQ_OK ? split_level(split, level + 1, match_start, match_end, err) : status;
        if (status != LQ_OK) {
            return status;
        }
        done = match_end;
        from = match_end;
    }
    return split_level(split, level + 1, done, end, err);
}

static size_t count_invalid(const char *text, size_t length)
{
    size_t count = 0;
    for (size_t i = 0; i < length;) {
        size_t step = (unsigned char)text[i] < 0x80 ? 1 : lq_utf8_length(text + i, length - i);
        count += step == 0;
        i += step == 0 ? 1 : step;
    }
    return count;
}

/* Writes a copy where each invalid byte became U+FFFD; `copy` has room for length + 2 * count. */
static void replace_invalid(const char *text, size_t length, char *copy, size_t *replaced)
{
    size_t at = 0;
    size_t count = 0;
    for (size_t i = 0; i < length;) {
        size_t step = lq_utf8_length(text + i, length - i);
        if (step == 0) {
            replaced[count++] = at;
            memcpy(copy + at, "\xef\xbf\xbd", 3);
            at += 3;
            i++;
        } else {
            memcpy(copy + at, text + i, step);
            at += step;
            i += step;
        }
    }
}

enum lq_status lq_pretokenizer_split(const struct lq_pretokenizer *pre, const char *text,
                                     size_t length, lq_word_fn word, void *user,
                                     struct lq_error *err)
{
    struct split split = {
        .pre = pre, .subject = text, .original = text, .word = word, .user = user};
    enum lq_status status = LQ_OK;
    char *copy = NULL;
    size_t *replaced = NULL;
    size_t subject_length = length;
    size_t invalid = count_invalid(text, length);
    if (invalid > 0) {
        if (invalid > (SIZE_MAX - length) / sizeof(size_t)) {
            return lq_error_nomem(err, "text");
        }
        subject_length = length + 2 * invalid;
        copy = malloc(subject_length);
        replaced = malloc(invalid * sizeof *replaced);
        if (copy == NULL || replaced == NULL) {
            status = lq_error_nomem(err, "text");
            goto out;
        }
        replace_invalid(text, length, copy, replaced);
        split.subject = copy;
        split.replaced = replaced;
        split.replaced_count = invalid;
    }
    /* Only the bounds of the whole match are used. */
    split.match = pcre2_match_data_create(1, NULL);
    if (split.match == NULL) {
        status = lq_error_nomem(err, "pre-tokenizer");
        goto out;
    }
    status = split_level(&split, 0, 0, subject_length, err);
out:
    pcre2_match_data_free(split.match);
    free(copy);
    free(replaced);
    return status;
}
