#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/json.h"
#include "rules/model/hf_tokenizer.h"
#include "rules/model/pretokenize.h"

#define GOLDEN LQ_SOURCE_DIR "/tests/golden/tokenizer/pretokenize.json"

/* Where the Hugging Face library cuts, for the pre-tokenizers of published models as their
 * tokenizer.json spells them; see make_pretokenize_vectors.py. */

static cJSON *golden;

static void setup(void)
{
    struct lq_error err = {0};
    struct lq_map map;
    cr_assert_eq(lq_map_open(&map, GOLDEN, LQ_EIO, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_json_parse(map.data, map.size_bytes, GOLDEN, LQ_EFORMAT, &golden, &err), LQ_OK,
                 "%s", err.message);
    lq_map_close(&map);
}

static void teardown(void)
{
    cJSON_Delete(golden);
}

TestSuite(pretokenize, .init = setup, .fini = teardown);

struct cuts {
    const cJSON *next; /* the next expected offset */
    size_t at;
    const char *name;
    const char *text;
};

static enum lq_status expect_cut(void *user, const char *word, size_t length, struct lq_error *err)
{
    struct cuts *cuts = user;
    (void)err;
    cr_assert_eq(word, cuts->text + cuts->at);
    cuts->at += length;
    cr_assert_not_null(cuts->next, "%s: '%s' has too many words", cuts->name, cuts->text);
    cr_assert_eq(cuts->at, (size_t)cuts->next->valuedouble, "%s: '%s' is cut at %zu instead of %g",
                 cuts->name, cuts->text, cuts->at, cuts->next->valuedouble);
    cuts->next = cuts->next->next;
    return LQ_OK;
}

/* The GGUF name of the row's pre-tokenizer. */
static const char *recognise(const cJSON *row)
{
    struct lq_error err = {0};
    struct lq_hf_text_rules rules;
    struct lq_arena arena;
    lq_arena_init(&arena);
    cJSON *tokenizer = cJSON_CreateObject();
    cJSON *model = cJSON_AddObjectToObject(tokenizer, "model");
    cJSON_AddBoolToObject(model, "ignore_merges", cJSON_IsTrue(lq_json_find(row, "ignore_merges")));
    cJSON_AddItemToObject(tokenizer, "pre_tokenizer",
                          cJSON_Duplicate(lq_json_find(row, "pre_tokenizer"), true));
    cr_assert_eq(lq_hf_text_rules_find(tokenizer, &arena, &rules, &err), LQ_OK, "%s", err.message);
    cJSON_Delete(tokenizer);
    lq_arena_fini(&arena);
    return rules.pre;
}

Test(pretokenize, cuts_where_the_hugging_face_library_does)
{
    size_t count = 0;
    const cJSON *row = NULL;
    cJSON_ArrayForEach(row, lq_json_find(golden, "rows"))
    {
        struct lq_error err = {0};
        struct lq_pretokenizer *pre = NULL;
        const char *name = lq_json_find(row, "pre")->valuestring;
        cr_assert_str_eq(recognise(row), name);
        cr_assert_eq(lq_pretokenizer_create(&pre, name, &err), LQ_OK, "%s", err.message);
        cr_expect_eq(lq_pretokenizer_ignores_merges(pre),
                     cJSON_IsTrue(lq_json_find(row, "ignore_merges")), "%s", name);
        const cJSON *text = lq_json_find(golden, "strings")->child;
        const cJSON *list = NULL;
        cJSON_ArrayForEach(list, lq_json_find(row, "cuts"))
        {
            /* Null: the library cuts inside of characters. */
            if (cJSON_IsNull(list)) {
                text = text->next;
                continue;
            }
            struct cuts cuts = {.next = list->child, .name = name, .text = text->valuestring};
            cr_assert_eq(lq_pretokenizer_split(pre, text->valuestring, strlen(text->valuestring),
                                               expect_cut, &cuts, &err),
                         LQ_OK, "%s", err.message);
            cr_assert_null(cuts.next, "%s: '%s' has too few words", name, cuts.text);
            text = text->next;
        }
        cr_assert_null(text);
        lq_pretokenizer_destroy(pre);
        count++;
    }
    cr_assert_eq(count, 22);
}
