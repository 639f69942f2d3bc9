#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/limits.h"
#include "rules/format/gguf.h"
#include "rules/model/pretokenize.h"
#include "rules/model/vocab.h"

#define GOLDEN LQ_SOURCE_DIR "/tests/golden/tokenizer/ggml-vocab-"
#define SEPARATOR "\n__ggml_vocab_test__\n"

static struct lq_vocab *load_file(const char *path)
{
    struct lq_error err = {0};
    struct lq_map map;
    cr_assert_eq(lq_map_open(&map, path, LQ_EIO, &err), LQ_OK, "%s", err.message);
    struct lq_arena arena;
    lq_arena_init(&arena);
    struct lq_gguf gguf;
    cr_assert_eq(lq_gguf_parse(map.data, map.size_bytes, map.size_bytes, path, LQ_EFORMAT, &arena,
                               &gguf, NULL, &err),
                 LQ_OK, "%s", err.message);
    struct lq_vocab *vocab = NULL;
    cr_assert_eq(lq_vocab_load(&vocab, &gguf, path, &err), LQ_OK, "%s", err.message);
    lq_arena_fini(&arena);
    lq_map_close(&map);
    return vocab;
}

/* Compares ids with one line of numbers; returns where the next line starts. */
static const char *expect_line(const char *line, const struct lq_token_list *list, const char *name,
                               size_t number)
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

static void check_golden(const char *name)
{
    char path[512];
    struct lq_error err = {0};
    (void)snprintf(path, sizeof path, GOLDEN "%s.gguf", name);
    struct lq_vocab *vocab = load_file(path);
    struct lq_buffer inp;
    struct lq_buffer out;
    lq_buffer_init(&inp);
    lq_buffer_init(&out);
    (void)snprintf(path, sizeof path, GOLDEN "%s.gguf.inp", name);
    cr_assert_eq(lq_file_read(path, 1 << 20, &inp, &err), LQ_OK, "%s", err.message);
    (void)snprintf(path, sizeof path, GOLDEN "%s.gguf.out", name);
    cr_assert_eq(lq_file_read(path, 1 << 20, &out, &err), LQ_OK, "%s", err.message);
    const char *text = lq_buffer_text(&inp);
    const char *line = lq_buffer_text(&out);
    size_t number = 0;
    for (;; number++) {
        const char *end = strstr(text, SEPARATOR);
        if (end == NULL) {
            break;
        }
        struct lq_token_list list;
        lq_token_list_init(&list);
        cr_assert_eq(lq_tokenize(vocab, text, (size_t)(end - text), false, false, &list, &err),
                     LQ_OK, "%s", err.message);
        line = expect_line(line, &list, name, number);
        lq_token_list_fini(&list);
        text = end + strlen(SEPARATOR);
    }
    cr_assert_eq(*line, '\0', "%s: more lines of ids than strings", name);
    cr_assert_gt(number, 40, "only %zu strings in the golden file", number);
    lq_buffer_fini(&inp);
    lq_buffer_fini(&out);
    lq_vocab_destroy(vocab);
}

Test(vocab, golden_gpt2)
{
    check_golden("gpt-2");
}

Test(vocab, golden_deepseek_coder)
{
    check_golden("deepseek-coder");
}

Test(vocab, golden_llama_spm)
{
    check_golden("llama-spm");
}

Test(vocab, golden_phi3)
{
    check_golden("phi-3");
}
