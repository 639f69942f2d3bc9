/* Provenance statements: what is written reads back the same; everything else is refused with a
 * sentence; keys of a file that do not agree are found. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "rules/format/gguf.h"
#include "rules/format/statement.h"
#include "rules/quant/provenance.h"

static struct lq_arena arena;

static void set_up(void)
{
    lq_arena_init(&arena);
}

static void tear_down(void)
{
    lq_arena_fini(&arena);
}

TestSuite(statement, .init = set_up, .fini = tear_down);

static struct lq_statement_source sources[] = {{"model", {{1, 2}}}, {"imatrix", {{3}}}};
static struct lq_statement_parameter parameters[] = {{"level", "Q4_K_M"},
                                                     {"tensors", "blk.\"0\"*=Q6_K"}};
static const struct lq_statement example = {.subject = "small \"one\"",
                                            .digest = {{0xab, 0xcd}},
                                            .version = "1.2.3",
                                            .parameters = parameters,
                                            .parameter_count = 2,
                                            .sources = sources,
                                            .source_count = 2};

static enum lq_status parse(const char *text, size_t size, struct lq_statement *out,
                            struct lq_error *err)
{
    lq_error_clear(err);
    return lq_statement_parse(text, size, "s.json", &arena, out, err);
}

Test(statement, reads_back)
{
    struct lq_buffer text;
    struct lq_buffer again;
    struct lq_statement read;
    struct lq_error err;
    lq_buffer_init(&text);
    lq_buffer_init(&again);
    lq_statement_write(&example, &text);
    cr_assert_eq(parse(lq_buffer_text(&text), text.size_bytes, &read, &err), LQ_OK, "%s",
                 err.message);
    cr_assert_str_eq(read.subject, example.subject);
    cr_assert(lq_digest_equal(&read.digest, &example.digest));
    cr_assert_str_eq(read.version, "1.2.3");
    cr_assert_eq(read.source_count, 2);
    cr_assert(lq_digest_equal(&lq_statement_find(&read, "imatrix")->digest, &sources[1].digest));
    cr_assert_str_eq(read.parameters[1].value, parameters[1].value);
    lq_statement_write(&read, &again);
    cr_assert_str_eq(lq_buffer_text(&again), lq_buffer_text(&text));
    /* Cut anywhere it is refused, and never taken for whole. */
    for (size_t size = 0; size + 1 < text.size_bytes; size++) {
        cr_assert_eq(parse(lq_buffer_text(&text), size, &read, &err), LQ_EFORMAT, "%zu", size);
        cr_assert_str_neq(err.message, "");
    }
    lq_buffer_fini(&again);
    lq_buffer_fini(&text);
}

/* The example with one piece of its text replaced. */
static void expect_refused(const char *from, const char *to, const char *words)
{
    struct lq_buffer text;
    struct lq_buffer changed;
    struct lq_statement read;
    struct lq_error err;
    lq_buffer_init(&text);
    lq_buffer_init(&changed);
    lq_statement_write(&example, &text);
    const char *at = strstr(lq_buffer_text(&text), from);
    cr_assert_not_null(at, "%s", from);
    lq_buffer_append(&changed, text.data, (size_t)(at - lq_buffer_text(&text)));
    lq_buffer_append_string(&changed, to);
    lq_buffer_append_string(&changed, at + strlen(from));
    cr_expect_eq(parse(lq_buffer_text(&changed), changed.size_bytes, &read, &err), LQ_EFORMAT,
                 "%s -> %s", from, to);
    cr_expect_not_null(strstr(err.message, words), "'%s' lacks '%s'", err.message, words);
    lq_buffer_fini(&changed);
    lq_buffer_fini(&text);
}

Test(statement, refuses_what_is_something_else)
{
    expect_refused("Statement/v1", "Statement/v2", "_type is");
    expect_refused("provenance/v1", "provenance/v0.2", "predicateType is");
    expect_refused("urn:lqbuild:gguf:v1", "urn:other", "buildType is");
    expect_refused("abcd0000", "abcd", "no SHA-256");
    expect_refused("abcd0000", "xyzz0000", "no SHA-256");
    expect_refused("\"imatrix\"", "\"model\"", "named twice");
    expect_refused("\"lqbuild\": \"1.2.3\"", "\"lqbuild\": 1", "lqbuild");
    expect_refused("\"subject\": [", "\"subject\": [ {}, ", "2 items");
    expect_refused("\"level\": \"Q4_K_M\"", "\"level\": 4", "level");
}

Test(statement, refuses_too_many_items)
{
    struct lq_buffer many;
    lq_buffer_init(&many);
    for (int i = 0; i < LQ_STATEMENT_ITEMS_MAX; i++) {
        lq_buffer_printf(&many, "\"p%d\": \"x\", ", i);
    }
    lq_buffer_append_string(&many, "\"level\"");
    expect_refused("\"level\"", lq_buffer_text(&many), "externalParameters has 66 items");
    lq_buffer_fini(&many);
}

static enum lq_status check_keys(const struct lq_statement *in_file, struct lq_error *err)
{
    struct lq_gguf_writer writer;
    struct lq_buffer header;
    struct lq_gguf gguf;
    lq_gguf_writer_init(&writer);
    lq_buffer_init(&header);
    lq_gguf_put_string(&writer, "general.name", "x");
    lq_provenance_put_keys(in_file, &writer);
    cr_assert_eq(lq_gguf_writer_header(&writer, &header, err), LQ_OK);
    char *copy = lq_arena_dup(&arena, header.data, header.size_bytes);
    cr_assert_eq(lq_gguf_parse(copy, header.size_bytes, header.size_bytes, "m.gguf", LQ_EFORMAT,
                               &arena, &gguf, NULL, err),
                 LQ_OK);
    lq_gguf_writer_fini(&writer);
    lq_buffer_fini(&header);
    lq_error_clear(err);
    return lq_provenance_check(&gguf, "m.gguf", &example, "s.json", err);
}

Test(statement, keys_of_the_file_must_agree)
{
    struct lq_error err;
    struct lq_statement_source other[] = {{"model", {{1, 2}}}, {"imatrix", {{4}}}, {"mask", {{5}}}};
    struct lq_statement file = example;
    cr_assert_eq(check_keys(&file, &err), LQ_OK, "%s", err.message);
    file.sources = other;
    cr_expect_eq(check_keys(&file, &err), LQ_EFORMAT);
    cr_expect_not_null(strstr(err.message, "lqbuild.source.imatrix.sha256 is '04"), "%s",
                       err.message);
    file.source_count = 1;
    cr_expect_eq(check_keys(&file, &err), LQ_EFORMAT);
    cr_expect_not_null(strstr(err.message, "imatrix.sha256 is missing"), "%s", err.message);
    other[1] = sources[1];
    file.source_count = 3;
    cr_expect_eq(check_keys(&file, &err), LQ_EFORMAT);
    cr_expect_not_null(strstr(err.message, "mask.sha256"), "%s", err.message);
    cr_expect_not_null(strstr(err.message, "nothing of it"), "%s", err.message);
    file = example;
    file.version = "1.2.4";
    cr_expect_eq(check_keys(&file, &err), LQ_EFORMAT);
    cr_expect_not_null(strstr(err.message, "lqbuild.version is '1.2.4'"), "%s", err.message);
}
