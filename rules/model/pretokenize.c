#include "rules/model/pretokenize.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/compiler.h"

/* The expressions are facts about published models: they stand in the tokenizer.json of the model
 * that each row is named after. */
#define GPT2_EXPRESSION                                                                            \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define LLAMA3_TAIL "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define LLAMA3_HEAD "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define ENDING "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
#define DEEPSEEK_CJK "[\u4E00-\u9FA5\u0800-\u4E00\uAC00-\uD7FF]+"
#define DEEPSEEK_LETTERS                                                                           \
    "\\s?[A-Za-z\u00B5\u00C0-\u00D6\u00D8-\u00F6\u00F8-\u01BA\u01BC-\u01BF\u01C4-\u0293\u0295"     \
    "-\u02AF\u0370-\u0373\u0376\u0377\u037B-\u037D\u037F\u0386\u0388-\u038A\u038C\u038E-"          \
    "\u03A1\u03A3-\u03F5\u03F7-\u0481\u048A-\u052F\u0531-\u0556\u10A0-\u10C5\u13A0-\u13F5"         \
    "\u13F8-\u13FD\u1C90-\u1CBA\u1CBD-\u1CBF\u1D00-\u1D2B\u1D6B-\u1D77\u1D79-\u1D9A\u1E00-"        \
    "\u1F15\u1F18-\u1F1D\u1F20-\u1F45\u1F48-\u1F4D\u1F50-\u1F57\u1F59\u1F5B\u1F5D\u1F5F-"          \
    "\u1F7D\u1F80-\u1FB4\u1FB6-\u1FBC\u1FBE\u1FC2-\u1FC4\u1FC6-\u1FCC\u1FD0-\u1FD3\u1FD6-"         \
    "\u1FDB\u1FE0-\u1FEC\u1FF2-\u1FF4\u1FF6-\u1FFC\u2102\u2107\u210A-\u2113\u2115\u2119-"          \
    "\u211D\u2124\u2126\u2128\u212A-\u212D\u212F-\u2134\u2139\u213C-\u213F\u2145-\u2149\u214E"     \
    "\u2183\u2184\u2C00-\u2C7B\u2C7E-\u2CE4\u2CEB-\u2CEE\u2CF2\u2CF3\uA640-\uA66D\uA680-"          \
    "\uA69B\uA722-\uA76F\uA771-\uA787\uA78B-\uA78E\uAB70-\uABBF\uFB00-\uFB06\uFB13-\uFB17"         \
    "\uFF21-\uFF3A\uFF41-\uFF5A\U00010400-\U0001044F\U000104B0-\U000104D3\U000104D8-"              \
    "\U000104FB\U00010C80-\U00010CB2\U00010CC0-\U00010CF2\U000118A0-\U000118DF\U0001E900-"         \
    "\U0001E943]+"
#define DEEPSEEK_PUNCTUATION "\\s?[!-/:-~\uFF01-\uFF0F\uFF1A-\uFF5E\u2018-\u201F\u3000-\u3002]+"
#define DEEPSEEK3_CJK "[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+"
#define DEEPSEEK3_WORDS                                                                            \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}"    \
    "\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define TEKKEN_WORDS                                                                               \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*|"       \
    "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define GPT4O_WORDS                                                                                \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" ENDING "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER  \
    "*" ENDING "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

struct pre_row {
    const char *name;    /* written to GGUF */
    const char *aliases; /* other GGUF names that mean the same, separated by blanks */
    bool ignore_merges;
    bool adds_bos;
    const char *expressions[LQ_PRE_EXPRESSIONS_MAX];
};

static const struct pre_row pre_rows[] = {
    {"llama-bpe", "llama3 llama-v3", true, true, {LLAMA3_HEAD "\\p{N}{1,3}" LLAMA3_TAIL}},
    {"smaug-bpe", "dbrx", false, false, {LLAMA3_HEAD "\\p{N}{1,3}" LLAMA3_TAIL}},
    {"gpt-2", "phi-2 olmo mpt", false, false, {LQ_PRE_BYTE_LEVEL}},
    {"qwen2", "deepseek-r1-qwen stablelm2", false, false, {LLAMA3_HEAD "\\p{N}" LLAMA3_TAIL}},
    {"starcoder",
     "refact command-r smollm codeshell exaone minerva-7b",
     false,
     false,
     {"\\p{N}", LQ_PRE_BYTE_LEVEL}},
    {"deepseek-coder",
     "",
     false,
     false,
     {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", DEEPSEEK_CJK, "\\p{N}"}},
    {"deepseek-llm",
     "",
     false,
     false,
     {"[\\r\\n]", DEEPSEEK_LETTERS, DEEPSEEK_PUNCTUATION, "\\s+$", DEEPSEEK_CJK, "\\p{N}+"}},
    {"deepseek-v3", "", false, false, {"\\p{N}{1,3}", DEEPSEEK3_CJK, DEEPSEEK3_WORDS}},
    {"tekken", "", true, true, {TEKKEN_WORDS}},
    {"gpt-4o", "llama4", false, false, {GPT4O_WORDS}},
    {"default",
     "",
     false,
     false,
     {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2_EXPRESSION, "\\p{N}+", "[0-9][0-9][0-9]"}},
};

struct lq_pretokenizer {
    const struct pre_row *row;
    pcre2_code *codes[LQ_PRE_EXPRESSIONS_MAX];
    size_t code_count;
};

/* True when `name` is one of the blank-separated words of `list`. */
static bool list_has(const char *list, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = list; *at != '\0';) {
        size_t word = strcspn(at, " ");
        if (word == length && memcmp(at, name, length) == 0) {
            return true;
        }
        at += word;
        at += strspn(at, " ");
    }
    return false;
}

static const struct pre_row *find_row(const char *name)
{
    for (size_t i = 0; i < LQ_COUNT_OF(pre_rows); i++) {
        if (strcmp(pre_rows[i].name, name) == 0 || list_has(pre_rows[i].aliases, name)) {
            return &pre_rows[i];
        }
    }
    return NULL;
}

static enum lq_status unknown_name(const char *name, struct lq_error *err)
{
    struct lq_buffer names;
    lq_buffer_init(&names);
    for (size_t i = 0; i < LQ_COUNT_OF(pre_rows); i++) {
        lq_buffer_printf(&names, "%s%s%s%s", i == 0 ? "" : " ", pre_rows[i].name,
                         pre_rows[i].aliases[0] == '\0' ? "" : " ", pre_rows[i].aliases);
    }
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

/* Spells out \s and \S, inside and outside of brackets. */
static void spell_spaces(const char *expression, struct lq_buffer *out)
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
    const char *text = strcmp(expression, LQ_PRE_BYTE_LEVEL) == 0 ? GPT2_EXPRESSION : expression;
    struct lq_buffer spelled;
    lq_buffer_init(&spelled);
    spell_spaces(text, &spelled);
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
    const struct pre_row *row = find_row(name);
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

/* Line ends may stand in an expression as they are or as escapes; compare them as escapes. */
static bool same_expression(const char *known, const char *given)
{
    if (strcmp(known, LQ_PRE_BYTE_LEVEL) == 0 && strcmp(given, GPT2_EXPRESSION) == 0) {
        return true;
    }
    while (*known != '\0' && *given != '\0') {
        if ((*given == '\r' || *given == '\n') && known[0] == '\\') {
            if (known[1] != (*given == '\r' ? 'r' : 'n')) {
                return false;
            }
            known += 2;
            given++;
        } else if (*known++ != *given++) {
            return false;
        }
    }
    return *known == *given;
}

static bool same_expressions(const struct pre_row *row, const char *const *expressions,
                             size_t count)
{
    size_t same = 0;
    while (same < count && row->expressions[same] != NULL &&
           same_expression(row->expressions[same], expressions[same])) {
        same++;
    }
    bool ends = same == LQ_PRE_EXPRESSIONS_MAX || row->expressions[same] == NULL;
    return count > 0 && same == count && ends;
}

const char *lq_pretokenizer_name_of(const char *const *expressions, size_t count,
                                    bool ignore_merges)
{
    const char *name = NULL;
    for (size_t i = 0; i < LQ_COUNT_OF(pre_rows) && count <= LQ_PRE_EXPRESSIONS_MAX; i++) {
        const struct pre_row *row = &pre_rows[i];
        if (!same_expressions(row, expressions, count)) {
            continue;
        }
        if (row->ignore_merges == ignore_merges) {
            return row->name;
        }
        name = name == NULL ? row->name : name;
    }
    return name;
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
