#include "rules/model/word_class.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>

#include "rules/model/pretokenize.h"

struct lq_word_class {
    pcre2_code *code;
};

/* Alphabetic characters besides \p{L}, \p{M} and \p{Nl} are circled and squared letters. */
#define WORD                                                                                       \
    "[\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{200c}\\x{200d}\\x{24b6}-\\x{24e9}"                      \
    "\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}]"

enum { CHARACTER_BYTES_MAX = 4 };

enum lq_status lq_word_class_create(struct lq_word_class **out, struct lq_error *err)
{
    int error = 0;
    PCRE2_SIZE offset = 0;
    struct lq_word_class *words = calloc(1, sizeof *words);
    *out = words;
    if (words == NULL) {
        return lq_error_nomem(err, "vocabulary");
    }
    words->code = pcre2_compile((PCRE2_SPTR)WORD, PCRE2_ZERO_TERMINATED,
                                PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &offset, NULL);
    if (words->code == NULL) {
        lq_word_class_destroy(words);
        *out = NULL;
        return error == PCRE2_ERROR_HEAP_FAILED
                   ? lq_error_nomem(err, "vocabulary")
                   : lq_error_set(err, LQ_EINTERNAL, "PCRE2 refuses '%s' at %zu", WORD,
                                  (size_t)offset);
    }
    return LQ_OK;
}

void lq_word_class_destroy(struct lq_word_class *words)
{
    if (words != NULL) {
        pcre2_code_free(words->code);
        free(words);
    }
}

bool lq_word_class_begins(const struct lq_word_class *words, const char *text, size_t length)
{
    size_t size = lq_utf8_length(text, length);
    pcre2_match_data *match = size == 0 ? NULL : pcre2_match_data_create(1, NULL);
    bool found = match != NULL && pcre2_match(words->code, (PCRE2_SPTR)text, size, 0,
                                              PCRE2_NO_UTF_CHECK, match, NULL) >= 0;
    pcre2_match_data_free(match);
    return found;
}

bool lq_word_class_ends(const struct lq_word_class *words, const char *text, size_t length)
{
    for (size_t size = 1; size <= CHARACTER_BYTES_MAX && size <= length; size++) {
        if (lq_utf8_length(text + length - size, size) == size) {
            return lq_word_class_begins(words, text + length - size, size);
        }
    }
    return false;
}
