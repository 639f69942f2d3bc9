#include <criterion/criterion.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/json.h"
#include "engine/base/limits.h"
#include "rules/model/hf_tokenizer.h"
#include "rules/model/normalize.h"

#define GOLDEN LQ_SOURCE_DIR "/tests/golden/tokenizer/normalize.json"

/* What the Hugging Face library makes of strings; see make_normalize_vectors.py. */
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

TestSuite(normalize, .init = setup, .fini = teardown);

static struct lq_normalizer *create(const char *json)
{
    struct lq_error err = {0};
    struct lq_normalizer *normalizer = NULL;
    cr_assert_eq(lq_normalizer_create(&normalizer, json, strlen(json), NULL, "test", &err), LQ_OK,
                 "%s", err.message);
    return normalizer;
}

/* As tokenizer.json says it; NULL: there is nothing to do. */
static struct lq_normalizer *create_row(const cJSON *row)
{
    struct lq_error err = {0};
    struct lq_hf_text_rules rules;
    struct lq_arena arena;
    lq_arena_init(&arena);
    cJSON *tokenizer = cJSON_CreateObject();
    cJSON_AddObjectToObject(tokenizer, "model");
    cJSON_AddItemToObject(tokenizer, "normalizer",
                          cJSON_Duplicate(lq_json_find(row, "normalizer"), true));
    cJSON *pre = cJSON_AddObjectToObject(tokenizer, "pre_tokenizer");
    cJSON_AddStringToObject(pre, "type", "ByteLevel");
    cJSON_AddBoolToObject(pre, "add_prefix_space", false);
    cr_assert_eq(lq_hf_text_rules_find(tokenizer, &arena, &rules, &err), LQ_OK, "%s", err.message);
    struct lq_normalizer *normalizer = rules.normalizer == NULL ? NULL : create(rules.normalizer);
    cJSON_Delete(tokenizer);
    lq_arena_fini(&arena);
    return normalizer;
}

static void run(const struct lq_normalizer *normalizer, const char *text, size_t length,
                struct lq_buffer *out)
{
    struct lq_error err = {0};
    lq_buffer_clear(out);
    cr_assert_eq(lq_normalizer_run(normalizer, true, text, length, out, &err), LQ_OK, "%s",
                 err.message);
    cr_assert(!out->failed);
}

Test(normalize, makes_what_the_hugging_face_library_makes)
{
    struct lq_buffer out;
    size_t count = 0;
    const cJSON *row = NULL;
    lq_buffer_init(&out);
    cJSON_ArrayForEach(row, lq_json_find(golden, "rows"))
    {
        struct lq_normalizer *normalizer = create_row(row);
        char *name = cJSON_PrintUnformatted(lq_json_find(row, "normalizer"));
        const cJSON *text = lq_json_find(golden, "strings")->child;
        const cJSON *expected = NULL;
        cJSON_ArrayForEach(expected, lq_json_find(row, "texts"))
        {
            const char *made = text->valuestring;
            if (normalizer != NULL) {
                run(normalizer, made, strlen(made), &out);
                made = lq_buffer_text(&out);
            }
            cr_expect_str_eq(made, expected->valuestring, "%s makes '%s' of '%s', not '%s'", name,
                             made, text->valuestring, expected->valuestring);
            text = text->next;
            count++;
        }
        cr_assert_null(text);
        free(name);
        lq_normalizer_destroy(normalizer);
    }
    cr_expect_gt(count, 400);
    lq_buffer_fini(&out);
}

/* No character combines across a byte that is no UTF-8, so what is around it is normalized as if it
 * stood alone. */
Test(normalize, bytes_that_are_no_text_come_out_as_they_were)
{
    static const char *const steps[] = {
        "[{\"type\":\"NFC\"}]",
        "[{\"type\":\"NFKD\"}]",
        "[{\"type\":\"Lowercase\"}]",
        "[{\"type\":\"StripAccents\"},{\"type\":\"Nmt\"}]",
        "[{\"type\":\"Replace\",\"pattern\":{\"String\":\"e\"},\"content\":\"xy\"}]",
        "[{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"\\\\w\"},\"content\":\"_\"}]",
    };
    static const char *const bad[] = {"\xff",     "\xcc",         "\x81\x81",        "\xc0\xaf",
                                      "\xe2\x96", "\xed\xa0\x80", "\xf4\x90\x80\x80"};
    static const char before[] = "Cafe\xcc\x81 e";
    static const char after[] = "\xcc\x81 \xea\xb0\x80\xe1\x86\xa8 Z";
    struct lq_buffer text;
    struct lq_buffer out;
    struct lq_buffer expected;
    struct lq_buffer part;
    lq_buffer_init(&text);
    lq_buffer_init(&out);
    lq_buffer_init(&expected);
    lq_buffer_init(&part);
    for (size_t s = 0; s < sizeof steps / sizeof *steps; s++) {
        struct lq_normalizer *normalizer = create(steps[s]);
        for (size_t b = 0; b < sizeof bad / sizeof *bad; b++) {
            lq_buffer_clear(&text);
            lq_buffer_append_string(&text, before);
            lq_buffer_append_string(&text, bad[b]);
            lq_buffer_append_string(&text, after);
            run(normalizer, lq_buffer_text(&text), text.size_bytes, &out);
            run(normalizer, before, sizeof before - 1, &expected);
            lq_buffer_append_string(&expected, bad[b]);
            run(normalizer, after, sizeof after - 1, &part);
            lq_buffer_append(&expected, part.data, part.size_bytes);
            cr_expect_str_eq(lq_buffer_text(&out), lq_buffer_text(&expected), "%s, bytes %zu",
                             steps[s], b);
        }
        lq_normalizer_destroy(normalizer);
    }
    lq_buffer_fini(&text);
    lq_buffer_fini(&out);
    lq_buffer_fini(&expected);
    lq_buffer_fini(&part);
}

static void expect_error(const char *json, enum lq_status status, const char *part)
{
    struct lq_error err = {0};
    struct lq_normalizer *normalizer = NULL;
    cr_expect_eq(lq_normalizer_create(&normalizer, json, strlen(json), NULL, "test", &err), status,
                 "%s", json);
    cr_expect_null(normalizer);
    cr_expect_not_null(strstr(err.message, part), "%s: %s", json, err.message);
}

Test(normalize, refuses_what_it_does_not_know)
{
    struct lq_buffer many;
    expect_error("[{\"type\":\"BertNormalizer\"}]", LQ_EUNSUPPORTED,
                 "'BertNormalizer' is not supported; known are NFC");
    expect_error("[{\"type\":\"\"}]", LQ_EUNSUPPORTED, "''");
    expect_error("[{\"typ\":\"NFC\"}]", LQ_EFORMAT, "type");
    expect_error("[1]", LQ_EFORMAT, "type");
    expect_error("{\"type\":\"NFC\"}", LQ_EFORMAT, "no list");
    expect_error("[", LQ_EFORMAT, "test");
    expect_error("", LQ_EFORMAT, "test");
    expect_error("[{\"type\":\"Replace\",\"content\":\"a\"}]", LQ_EFORMAT, "pattern");
    expect_error("[{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"}}]", LQ_EFORMAT, "content");
    expect_error("[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"a\"}]",
                 LQ_EFORMAT, "looks for nothing");
    expect_error("[{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a(\"},\"content\":\"a\"}]",
                 LQ_EFORMAT, "'a('");
    expect_error("[{\"type\":\"Strip\",\"strip_left\":1}]", LQ_EFORMAT, "strip_left");
    expect_error("[{\"type\":\"Prepend\"}]", LQ_EFORMAT, "prepend");
    expect_error("[{\"type\":\"Precompiled\"}]", LQ_EFORMAT, "no character map");
    lq_buffer_init(&many);
    lq_buffer_append_string(&many, "[{\"type\":\"NFC\"}");
    for (size_t i = 0; i < LQ_NORMALIZER_STEPS_MAX; i++) {
        lq_buffer_append_string(&many, ",{\"type\":\"NFC\"}");
    }
    lq_buffer_append_string(&many, "]");
    expect_error(lq_buffer_text(&many), LQ_EFORMAT, "at most 64 steps");
    lq_buffer_fini(&many);
}

Test(normalize, an_expression_that_takes_forever_is_an_error)
{
    struct lq_error err = {0};
    struct lq_buffer out;
    char text[64];
    struct lq_normalizer *normalizer = create("[{\"type\":\"Replace\",\"pattern\":{\"Regex\":"
                                              "\"(a+)+$\"},\"content\":\"\"}]");
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = 'b';
    lq_buffer_init(&out);
    cr_expect_eq(lq_normalizer_run(normalizer, true, text, sizeof text, &out, &err),
                 LQ_EUNSUPPORTED);
    cr_expect_not_null(strstr(err.message, "is it really text?"), "%s", err.message);
    lq_buffer_fini(&out);
    lq_normalizer_destroy(normalizer);
}

static void put_u32(unsigned char *at, uint32_t value)
{
    for (size_t i = 0; i < 4; i++) {
        at[i] = (unsigned char)(value >> (8 * i));
    }
}

/* A trie whose root leads to unit 1 xor 'a', where a key ends whose value is `value`. */
static size_t make_map(unsigned char *bytes, uint32_t value)
{
    enum { UNITS = 512 };
    memset(bytes, 0, 4 + 4 * UNITS + 3);
    put_u32(bytes, 4 * UNITS);
    put_u32(bytes + 4, 1u << 10);
    size_t node = 1 ^ 'a';
    put_u32(bytes + 4 + 4 * node, 'a' | 0x100u | 256u << 10);
    put_u32(bytes + 4 + 4 * (node ^ 256), 0x80000000u | value);
    memcpy(bytes + 4 + 4 * UNITS, "zz", 3);
    return 4 + 4 * UNITS + 3;
}

Test(normalize, a_character_map_is_believed_nothing)
{
    static const char step[] = "[{\"type\":\"Precompiled\"}]";
    unsigned char bytes[4096];
    struct lq_error err = {0};
    struct lq_normalizer *normalizer = NULL;
    struct lq_buffer out;
    struct lq_normalizer_map map = {bytes, make_map(bytes, 1)};
    lq_buffer_init(&out);
    cr_assert_eq(lq_normalizer_create(&normalizer, step, sizeof step - 1, &map, "t", &err), LQ_OK,
                 "%s", err.message);
    run(normalizer, "bab", 3, &out);
    cr_expect_str_eq(lq_buffer_text(&out), "bzb");
    lq_normalizer_destroy(normalizer);

    /* A value behind the texts, children behind the units: no such key. */
    (void)make_map(bytes, 3);
    cr_assert_eq(lq_normalizer_create(&normalizer, step, sizeof step - 1, &map, "t", &err), LQ_OK);
    run(normalizer, "bab", 3, &out);
    cr_expect_str_eq(lq_buffer_text(&out), "bab");
    lq_normalizer_destroy(normalizer);
    put_u32(bytes + 4, 0xffffffffu);
    cr_assert_eq(lq_normalizer_create(&normalizer, step, sizeof step - 1, &map, "t", &err), LQ_OK);
    run(normalizer, "bab", 3, &out);
    cr_expect_str_eq(lq_buffer_text(&out), "bab");
    lq_normalizer_destroy(normalizer);

    /* Sizes that cannot be, and texts without an end. */
    const uint32_t sizes[] = {0, 1, 4 * 512 + 3, 0x7fffffff, 0xffffffff};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        (void)make_map(bytes, 0);
        put_u32(bytes, sizes[i]);
        cr_expect_eq(lq_normalizer_create(&normalizer, step, sizeof step - 1, &map, "t", &err),
                     LQ_EFORMAT, "%zu", i);
        cr_expect_not_null(strstr(err.message, "is damaged"), "%s", err.message);
    }
    map.size_bytes = make_map(bytes, 0) - 1;
    cr_expect_eq(lq_normalizer_create(&normalizer, step, sizeof step - 1, &map, "t", &err),
                 LQ_EFORMAT);
    map.size_bytes = 3;
    cr_expect_eq(lq_normalizer_create(&normalizer, step, sizeof step - 1, &map, "t", &err),
                 LQ_EFORMAT);
    lq_buffer_fini(&out);
}
