/* Compares a vocabulary with ids that another program gave: strings in one file, separated by
 * LQ_GOLDEN_SEPARATOR with one more behind the last, their ids line by line in another, without
 * special tokens. For tests only: failures end the test. Thread rule: pure. */
#ifndef LQ_TESTS_VOCAB_GOLDEN_H
#define LQ_TESTS_VOCAB_GOLDEN_H

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/fs.h"
#include "rules/model/vocab.h"

#define LQ_GOLDEN_SEPARATOR "\n__ggml_vocab_test__\n"

/* Compares ids with one line of numbers; returns where the next line starts. */
static const char *golden_expect_line(const char *line, const struct lq_token_list *list,
                                      const char *name, size_t number)
{
    char *end = NULL;
    for (size_t i = 0; i < list->count; i++) {
        long id = strtol(line, &end, 10);
        cr_assert(end != line && memchr(line, '\n', (size_t)(end - line)) == NULL,
                  "%s string %zu: %zu ids instead of %zu", name, number, list->count, i);
        cr_assert_eq(id, list->ids[i], "%s string %zu, id %zu: %d instead of %ld", name, number, i,
                     list->ids[i], id);
        line = end;
    }
    line += strspn(line, " ");
    cr_assert(*line == '\n' || *line == '\0', "%s string %zu: too few ids (%zu)", name, number,
              list->count);
    return *line == '\0' ? line : line + 1;
}

/* Returns the number of strings. */
static size_t golden_expect_ids(const struct lq_vocab *vocab, const char *strings, const char *ids)
{
    struct lq_error err = {0};
    struct lq_buffer inp;
    struct lq_buffer out;
    lq_buffer_init(&inp);
    lq_buffer_init(&out);
    cr_assert_eq(lq_file_read(strings, 1 << 20, &inp, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_file_read(ids, 1 << 20, &out, &err), LQ_OK, "%s", err.message);
    const char *text = lq_buffer_text(&inp);
    const char *line = lq_buffer_text(&out);
    size_t number = 0;
    for (;; number++) {
        const char *end = strstr(text, LQ_GOLDEN_SEPARATOR);
        if (end == NULL) {
            break;
        }
        struct lq_token_list list;
        lq_token_list_init(&list);
        cr_assert_eq(lq_tokenize(vocab, text, (size_t)(end - text), false, false, &list, &err),
                     LQ_OK, "%s", err.message);
        line = golden_expect_line(line, &list, ids, number);
        lq_token_list_fini(&list);
        text = end + strlen(LQ_GOLDEN_SEPARATOR);
    }
    cr_assert_eq(*text, '\0', "%s: a string without a separator behind it", strings);
    cr_assert_eq(*line, '\0', "%s: more lines of ids than strings", ids);
    lq_buffer_fini(&inp);
    lq_buffer_fini(&out);
    return number;
}

#endif
