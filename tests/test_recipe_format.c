/* The canonical layout: golden texts, nothing lost, formatting twice changes nothing, and the same
 * meaning before and after. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/fs.h"
#include "engine/lang/recipe.h"
#include "tests/recipe_fake.h"

static enum lq_status format(const char *text, size_t size_bytes, struct lq_buffer *out,
                             struct lq_error *err)
{
    lq_buffer_init(out);
    return lq_recipe_format(text, size_bytes, "recipe.lq", out, err);
}

static void expect(const char *text, const char *wanted)
{
    struct lq_buffer once;
    struct lq_buffer twice;
    struct lq_error err = {0};
    cr_assert_eq(format(text, strlen(text), &once, &err), LQ_OK, "%s", err.message);
    const char *got = lq_buffer_text(&once);
    cr_expect_str_eq(got, wanted, "got:\n%s\nexpected:\n%s", got, wanted);
    cr_assert_eq(format(got, once.size_bytes, &twice, &err), LQ_OK, "%s", err.message);
    cr_expect_str_eq(lq_buffer_text(&twice), got, "twice:\n%s\nonce:\n%s", lq_buffer_text(&twice),
                     got);
    lq_buffer_fini(&once);
    lq_buffer_fini(&twice);
}

Test(recipe_format, items_have_one_look)
{
    expect("", "");
    expect("\n\n  \n", "");
    expect("let   a=1", "let a = 1\n");
    expect("let a=1 let b = 2 include\"x.lq\" default a ,b,\"c\"",
           "let a = 1\nlet b = 2\ninclude \"x.lq\"\ndefault a, b, \"c\"\n");
    expect("model a{source=\"x\"}", "model a { source = \"x\" }\n");
    expect("gguf a{model=b,level=\"F32\"   path=\"x\",}",
           "gguf a { model = b  level = \"F32\"  path = \"x\" }\n");
    expect("model a {\n}", "model a {}\n");
    expect("model a { source = \"x\"\n}", "model a {\n  source = \"x\"\n}\n");
    expect("for q in[1,2]{model \"a{q}\"{source=\"x\"} for p in [3] {} }",
           "for q in [1, 2] {\n  model \"a{q}\" { source = \"x\" }\n  for p in [3] {}\n}\n");
    expect("\xef\xbb\xbflet a = 1\r\n# é\r\nlet b = 2\r\n", "let a = 1\n# é\nlet b = 2\n");
}

Test(recipe_format, expressions_have_one_look)
{
    expect("let a=1+2 * -( 3-4 )/ - -5", "let a = 1 + 2 * -(3 - 4) / --5\n");
    expect("let a = 20% - 4KiB -1", "let a = 20% - 4KiB - 1\n");
    expect("let a = [ 1,2 , ]+[]+[ ]", "let a = [1, 2] + [] + []\n");
    expect("let a = {\"k\"=\"v\" \"l\"=[1] ,}", "let a = { \"k\" = \"v\", \"l\" = [1] }\n");
    expect("let a = { }", "let a = {}\n");
    expect("let a = [-1, -x]", "let a = [-1, -x]\n");
    expect("let a = [1,\n2]", "let a = [\n  1,\n  2,\n]\n");
    expect("let a = [\n]", "let a = []\n");
    expect("let a = [{\"k\"=\n[1,2]}]", "let a = [\n  {\n    \"k\" = [1, 2],\n  },\n]\n");
    expect("let a = \"  kept {x}\\t\"", "let a = \"  kept {x}\\t\"\n");
}

Test(recipe_format, long_lines_are_broken)
{
    expect("let names = [\"aaaaaaaaaaaaaaaaaaaaaaaa\", \"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\", "
           "\"cccccccccccccccccccccccccccc\"]",
           "let names = [\n  \"aaaaaaaaaaaaaaaaaaaaaaaa\",\n  \"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\",\n"
           "  \"cccccccccccccccccccccccccccc\",\n]\n");
    /* 100 columns stay, 101 do not. */
    expect("model m { source = "
           "\"01234567890123456789012345678901234567890123456789012345678901234567890123456\" }",
           "model m { source = "
           "\"01234567890123456789012345678901234567890123456789012345678901234567890123456\" }\n");
    expect(
        "model mm { source = "
        "\"01234567890123456789012345678901234567890123456789012345678901234567890123456\" }",
        "model mm {\n  source = "
        "\"01234567890123456789012345678901234567890123456789012345678901234567890123456\"\n}\n");
}

Test(recipe_format, comments_stay_with_what_they_are_about)
{
    expect("#head\n\n\n\n# second  \nlet a = 1#tail\n", "#head\n\n# second\nlet a = 1  #tail\n");
    expect("# only", "# only\n");
    expect("let a = # why\n 1 # what", "# why\nlet a = 1  # what\n");
    expect(
        "model # k\n a # n\n { # open\n # lead\n source # s\n = # e\n \"x\" # x\n # last\n } # end",
        "# k\n# n\nmodel a {  # open\n  # lead\n  # s\n  # e\n  source = \"x\"  # x\n  # last\n}  "
        "# end\n");
    expect("for x in [1] { # a\n# b\n}", "for x in [1] {  # a\n  # b\n}\n");
    expect("let a = [ # o\n1 # one\n, # comma\n2 # two\n]",
           "let a = [  # o\n  1,  # one\n  # comma\n  2,  # two\n]\n");
    expect("gguf a { model = b # c1\n, # c2\n level = \"F32\" }",
           "gguf a {\n  model = b  # c1\n  # c2\n  level = \"F32\"\n}\n");
    expect("let a = ( # p\n1 + # q\n2 )", "# p\n# q\nlet a = (1 + 2)\n");
    expect("model a {\n # nothing yet\n}", "model a {\n  # nothing yet\n}\n");
    expect("default a # one\n , b", "# one\ndefault a, b\n");
}

Test(recipe_format, empty_lines_group_but_never_double)
{
    expect("\n\nlet a = 1\n\n\n\nlet b = 2\nmodel m {\n\n source = \"x\"\n\n\n}\n\n",
           "let a = 1\n\nlet b = 2\nmodel m {\n  source = \"x\"\n}\n");
    expect("gguf g {\n model = a\n\n level = \"F32\"\n}",
           "gguf g {\n  model = a\n\n  level = \"F32\"\n}\n");
    expect("let a = [\n\n 1,\n\n 2\n\n]", "let a = [\n  1,\n\n  2,\n]\n");
    expect("let a = 1\n\n# about b\nlet b = 2\n\n# end",
           "let a = 1\n\n# about b\nlet b = 2\n\n# end\n");
}

Test(recipe_format, syntax_errors_are_reported_and_nothing_is_written)
{
    struct lq_buffer out;
    struct lq_error err = {0};
    cr_expect_eq(format("let a = ", 8, &out, &err), LQ_ERECIPE);
    cr_expect_str_eq(err.message, "recipe.lq:1:8: expected a value, got the end of the file\n"
                                  "    let a = \n"
                                  "           ^");
    cr_expect_eq(out.size_bytes, 0);
    lq_buffer_fini(&out);
    cr_expect_eq(format("let a = \xff", 9, &out, &err), LQ_ERECIPE);
    lq_buffer_fini(&out);
}

/* Unknown rules, names and files are no matter of layout. */
Test(recipe_format, only_syntax_matters)
{
    expect("nonsense x { a = nowhere }\ninclude \"missing.lq\"\n",
           "nonsense x { a = nowhere }\ninclude \"missing.lq\"\n");
}

static bool same_value(const struct lq_value *a, const struct lq_value *b)
{
    bool has_items = a->type == LQ_VALUE_LIST || a->type == LQ_VALUE_MAP;
    if (a->type != b->type || a->number != b->number || a->boolean != b->boolean ||
        a->is_default != b->is_default || a->count != b->count ||
        (a->string == NULL) != (b->string == NULL) ||
        (a->string != NULL && strcmp(a->string, b->string) != 0)) {
        return false;
    }
    for (size_t i = 0; has_items && i < a->count; i++) {
        if (!same_value(&a->items[i], &b->items[i]) ||
            (a->keys != NULL && strcmp(a->keys[i], b->keys[i]) != 0)) {
            return false;
        }
    }
    return true;
}

static void expect_same_meaning(const char *a_text, size_t a_size, const char *b_text,
                                size_t b_size, const char *what)
{
    struct lq_recipe *a = NULL;
    struct lq_recipe *b = NULL;
    struct lq_error err = {0};
    enum lq_status a_status =
        lq_recipe_parse(&a, a_text, a_size, "a", ".", &fake_registry, NULL, 0, &err);
    enum lq_status b_status =
        lq_recipe_parse(&b, b_text, b_size, "b", ".", &fake_registry, NULL, 0, &err);
    cr_expect_eq(a_status, b_status, "%s: %s", what, err.message);
    if (a != NULL && b != NULL) {
        cr_assert_eq(a->artifact_count, b->artifact_count, "%s", what);
        cr_assert_eq(a->default_count, b->default_count, "%s", what);
        for (size_t i = 0; i < a->artifact_count; i++) {
            cr_expect_str_eq(a->artifacts[i].name, b->artifacts[i].name);
            cr_expect_eq(a->artifacts[i].rule, b->artifacts[i].rule);
            for (size_t j = 0; j < a->artifacts[i].rule->attr_count; j++) {
                cr_expect(same_value(&a->artifacts[i].values[j], &b->artifacts[i].values[j]),
                          "%s: %s", what, a->artifacts[i].name);
            }
        }
        for (size_t i = 0; i < a->default_count; i++) {
            cr_expect_eq(a->defaults[i]->index, b->defaults[i]->index, "%s", what);
        }
    }
    lq_recipe_destroy(a);
    lq_recipe_destroy(b);
}

Test(recipe_format, the_corpus_keeps_its_meaning)
{
    const char *folder = LQ_SOURCE_DIR "/tests/corpus/recipe";
    DIR *dir = opendir(folder);
    cr_assert_not_null(dir);
    int formatted = 0;
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
        char path[4096];
        struct lq_buffer text;
        struct lq_buffer once;
        struct lq_error err = {0};
        (void)snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        lq_buffer_init(&text);
        if (entry->d_name[0] == '.' || lq_file_read(path, 1 << 20, &text, &err) != LQ_OK) {
            continue;
        }
        if (format(lq_buffer_text(&text), text.size_bytes, &once, &err) == LQ_OK) {
            formatted++;
            expect_same_meaning(lq_buffer_text(&text), text.size_bytes, lq_buffer_text(&once),
                                once.size_bytes, entry->d_name);
        }
        lq_buffer_fini(&once);
        lq_buffer_fini(&text);
    }
    (void)closedir(dir);
    cr_expect(formatted >= 8, "%d formatted", formatted);
}

/* Random sequences of tokens: most are wrong, the right ones must keep their meaning and every
 * comment. */
static const char *const pieces[] = {
    "let a =",
    "1",
    "+",
    "-",
    "[",
    "]",
    "{",
    "}",
    "(",
    ")",
    ",",
    "\"s\"",
    "\n",
    "# c1\n",
    "# c2\n",
    " ",
    "model m",
    "source =",
    "\"k\" =",
    "for x in [1] {",
    "default m",
    "\n\n",
    "text \"t{x}\" {",
    "path = \"p\"",
    "a",
    "20%",
    "*",
};

static unsigned next_random(unsigned *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 16;
}

Test(recipe_format, random_texts_keep_their_meaning_and_comments)
{
    unsigned state = 12345;
    int formatted = 0;
    cr_log_info("seed %u", state);
    for (int round = 0; round < 150000; round++) {
        char text[512] = "";
        static const char *const starts[] = {"let z = ", "model m { source = ", "let y = [", "",
                                             "for x in [1] { "};
        strcat(text, starts[next_random(&state) % LQ_COUNT_OF(starts)]);
        unsigned count = 1 + next_random(&state) % 8;
        for (unsigned i = 0; i < count; i++) {
            strcat(text, pieces[next_random(&state) % LQ_COUNT_OF(pieces)]);
        }
        static const char *const ends[] = {"", "\"x\" }", "]", " }", "1 # end"};
        strcat(text, ends[next_random(&state) % LQ_COUNT_OF(ends)]);
        struct lq_buffer once;
        struct lq_buffer twice;
        struct lq_error err = {0};
        if (format(text, strlen(text), &once, &err) == LQ_OK && once.size_bytes > 0) {
            formatted++;
            const char *got = lq_buffer_text(&once);
            cr_assert_eq(format(got, once.size_bytes, &twice, &err), LQ_OK, "%s\n%s", text, got);
            cr_assert_str_eq(lq_buffer_text(&twice), got, "from:\n%s", text);
            lq_buffer_fini(&twice);
            expect_same_meaning(text, strlen(text), got, once.size_bytes, text);
            size_t before = 0;
            size_t after = 0;
            for (const char *c = text; *c != '\0'; c++) {
                before += *c == '#';
            }
            for (const char *c = got; *c != '\0'; c++) {
                after += *c == '#';
            }
            cr_assert_eq(before, after, "from:\n%s\nto:\n%s", text, got);
        }
        lq_buffer_fini(&once);
    }
    cr_expect(formatted > 1000, "%d formatted", formatted);
}
