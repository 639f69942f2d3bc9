/* Loading recipes: values, names, loops, includes, limits, speed. Messages are in
 * test_recipe_messages.c. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/buffer.h"
#include "engine/base/fs.h"
#include "engine/base/limits.h"
#include "engine/lang/recipe.h"
#include "tests/recipe_fake.h"

static struct lq_error last_error;

static struct lq_recipe *parse_with(const char *text, const struct lq_define *defines, size_t count)
{
    struct lq_recipe *recipe = NULL;
    lq_error_clear(&last_error);
    enum lq_status status = lq_recipe_parse(&recipe, text, strlen(text), "recipe.lq", "dir",
                                            &fake_registry, defines, count, &last_error);
    cr_assert_eq(status, last_error.status);
    cr_assert_eq(status == LQ_OK, recipe != NULL);
    return recipe;
}

static struct lq_recipe *parse(const char *text)
{
    struct lq_recipe *recipe = parse_with(text, NULL, 0);
    cr_assert_not_null(recipe, "%s", last_error.message);
    return recipe;
}

static const struct lq_artifact *find(const struct lq_recipe *recipe, const char *name)
{
    const struct lq_artifact *artifact = lq_recipe_find(recipe, name);
    cr_assert_not_null(artifact, "no artifact %s", name);
    return artifact;
}

static const char example[] =
    "let level = \"Q4_K_M\"\n"
    "model        base   { source = \"models/tiny-llama\" }   # a folder\n"
    "text         wiki   { path = \"text/calibration.txt\" }\n"
    "calibration  calib  { model = base  text = wiki  samples = 64  sequence = 256 }\n"
    "imatrix      im     { model = base  calibration = calib  method = \"activation\" }\n"
    "gguf         small  { model = base  imatrix = im\n"
    "                      path = \"out/tiny-dynamic.gguf\" }\n"
    "gguf         plain  { model = base  imatrix = im  level = level  path = "
    "\"out/tiny-{level}.gguf\" }\n"
    "for q in [\"Q6_K\", \"Q2_K\"] {\n"
    "  gguf \"tiny-{q}\"   { model = base  imatrix = im  level = q  path = \"out/tiny-{q}.gguf\" "
    "}\n"
    "}\n"
    "text         eval   { path = \"text/eval.txt\" }\n"
    "report       q      { original = base  quantized = [small, plain, \"tiny-Q2_K\"]  text = "
    "eval\n"
    "                      fail_above = 20%  path = \"out/quality.html\" }\n"
    "command      bench  { run = \"./score.sh $in $out\"  inputs = [small]  outputs = "
    "[\"out/score.json\"] }\n"
    "default      q\n";

Test(recipe, loads_the_example_of_the_language)
{
    struct lq_recipe *recipe = parse(example);
    cr_assert_eq(recipe->artifact_count, 11);
    cr_assert_eq(recipe->default_count, 1);
    cr_assert_str_eq(lq_artifact_name(recipe->defaults[0]), "q");
    const struct lq_artifact *plain = find(recipe, "plain");
    cr_assert_str_eq(lq_artifact_kind(plain), "gguf");
    cr_assert_str_eq(lq_attr_string(plain, "level"), "Q4_K_M");
    cr_assert_str_eq(lq_attr_string(plain, "path"), "out/tiny-Q4_K_M.gguf");
    cr_assert_str_eq(lq_attr_path(plain, "path"), "dir/out/tiny-Q4_K_M.gguf");
    cr_assert_eq(lq_attr_ref(plain, "imatrix", 0), find(recipe, "im"));
    const struct lq_artifact *report = find(recipe, "q");
    cr_assert_eq(lq_attr_count(report, "quantized"), 3);
    cr_assert_eq(lq_attr_ref(report, "quantized", 2), find(recipe, "tiny-Q2_K"));
    cr_assert_null(lq_attr_ref(report, "quantized", 3));
    cr_assert_float_eq(lq_attr_number(report, "fail_above"), 0.2, 0);
    cr_assert_eq(lq_attr_int(find(recipe, "calib"), "samples"), 64);
    cr_assert_str_eq(lq_attr_string(find(recipe, "tiny-Q6_K"), "path"), "out/tiny-Q6_K.gguf");
    lq_recipe_destroy(recipe);
}

Test(recipe, finds_artifacts_by_name_and_by_output_path)
{
    struct lq_recipe *recipe = parse(example);
    cr_expect_eq(lq_recipe_find(recipe, "out/tiny-Q6_K.gguf"), find(recipe, "tiny-Q6_K"));
    cr_expect_eq(lq_recipe_find(recipe, "./out//tiny-Q6_K.gguf"), find(recipe, "tiny-Q6_K"));
    cr_expect_null(lq_recipe_find(recipe, "models/tiny-llama"), "an input is no target");
    cr_expect_null(lq_recipe_find(recipe, "level"), "a let is no target");
    cr_expect_null(lq_recipe_find(recipe, ""));
    cr_expect_str_eq(lq_recipe_suggest(recipe, "smal"), "small");
    cr_expect_str_eq(lq_recipe_suggest(recipe, "out/tiny-Q6K.gguf"), "out/tiny-Q6_K.gguf");
    cr_expect_null(lq_recipe_suggest(recipe, "something-else-entirely"));
    lq_recipe_destroy(recipe);
}

Test(recipe, fills_in_defaults_and_tells_them_from_what_is_written)
{
    struct lq_recipe *recipe =
        parse("calibration c { model = m  text = t  sequence = 512 }\n"
              "model m { source = \"/abs/olute\" }\ntext t { path = \"x\" }");
    const struct lq_artifact *c = find(recipe, "c");
    cr_expect_eq(lq_attr_int(c, "samples"), 128);
    cr_expect_not(lq_attr_is_set(c, "samples"));
    cr_expect(lq_attr_is_set(c, "sequence"));
    cr_expect_str_eq(lq_attr_string(c, "order"), "first");
    cr_expect(lq_artifact_value(c, "samples")->is_default);
    cr_expect_not(lq_artifact_value(c, "sequence")->is_default);
    cr_expect_null(lq_artifact_value(find(recipe, "m"), "nonsense"));
    cr_expect_str_eq(lq_attr_path(find(recipe, "m"), "source"), "/abs/olute");
    cr_expect_str_eq(lq_artifact_dir(c), "dir");
    cr_expect_eq(recipe->default_count, 3, "without `default` it is every artifact");
    cr_expect_eq(recipe->defaults[0], c);
    lq_recipe_destroy(recipe);
}

Test(recipe, unset_attributes_give_nothing)
{
    struct lq_recipe *recipe = parse("model m { source = \"x\" }\ngguf g { model = m }");
    const struct lq_artifact *g = find(recipe, "g");
    cr_expect_null(lq_attr_string(g, "level"));
    cr_expect_null(lq_attr_path(g, "path"));
    cr_expect_null(lq_attr_ref(g, "imatrix", 0));
    cr_expect_eq(lq_attr_count(g, "promote"), 0);
    cr_expect_null(lq_attr_item(g, "promote", 0));
    cr_expect_not(lq_attr_is_set(g, "level"));
    cr_expect_null(lq_artifact_value(g, "level"));
    cr_expect_eq(lq_attr_count(g, "model"), 1, "a reference is a list of one");
    cr_expect_eq(lq_attr_ref(g, "model", 0), find(recipe, "m"));
    lq_recipe_destroy(recipe);
}

static double number_of(const char *expression)
{
    char text[256];
    (void)snprintf(text, sizeof text,
                   "model m { source = \"x\" }\ntext t { path = \"x\" }\n"
                   "report r { original = m  quantized = []  text = t  fail_above = %s }",
                   expression);
    struct lq_recipe *recipe = parse(text);
    double number = lq_attr_number(find(recipe, "r"), "fail_above");
    lq_recipe_destroy(recipe);
    return number;
}

Test(recipe, numbers_are_rounded_once_and_units_are_exact)
{
    cr_expect_eq(number_of("20%"), 0.2);
    cr_expect_eq(number_of("0.7%"), 0.007);
    cr_expect_eq(number_of("1e-4"), 1e-4);
    cr_expect_eq(number_of("2.5e+0"), 2.5);
    cr_expect_eq(number_of("1e3%"), 10.0);
    cr_expect_eq(number_of("0.1 + 0.2"), 0.1 + 0.2);
    cr_expect_eq(number_of("10 - 2 * 4 - 1"), 1.0);
    cr_expect_eq(number_of("(10 - 4) / 2 / 3"), 1.0);
    cr_expect_eq(number_of("--3"), 3.0);
    cr_expect_eq(number_of("-(1 - 3)"), 2.0);
    cr_expect_eq(number_of("1MiB / 1KiB / 1024"), 1.0);
    cr_expect_eq(number_of("1GB / 1MB / 1KB"), 1.0);
    cr_expect_eq(number_of("1GiB / 1MiB / 512"), 2.0);
    cr_expect_eq(number_of("1e-400"), 0.0);
}

static char *text_of(const char *lets, const char *expression)
{
    char text[512];
    (void)snprintf(text, sizeof text, "%s\ncommand cmd { run = %s  outputs = [] }", lets,
                   expression);
    struct lq_recipe *recipe = parse(text);
    char *copy = strdup(lq_attr_string(find(recipe, "cmd"), "run"));
    lq_recipe_destroy(recipe);
    return copy;
}

static void expect_text(const char *lets, const char *expression, const char *wanted)
{
    char *got = text_of(lets, expression);
    cr_expect_str_eq(got, wanted, "%s gives '%s', expected '%s'", expression, got, wanted);
    free(got);
}

Test(recipe, strings_have_escapes_and_variables)
{
    expect_text("", "\"a\\n\\t\\\"\\\\\\{\\}z\"", "a\n\t\"\\{}z");
    expect_text("", "\"\"", "");
    expect_text("let n = 3", "\"{n}\"", "3");
    expect_text("let n = 3", "\"a{n}{ n }z\"", "a33z");
    expect_text("let n = 20%", "\"{n}\"", "0.2");
    expect_text("let n = 0.1 + 0.2", "\"{n}\"", "0.30000000000000004");
    expect_text("let n = 100000", "\"{n}\"", "100000");
    expect_text("let n = 0 * -1", "\"{n}\"", "0");
    expect_text("let n = -1e300", "\"{n}\"", "-1e+300");
    expect_text("let b = true", "\"{b}\"", "true");
    expect_text("let s = \"x\"", "\"{s}\" + s + \"é€\"", "xxé€");
    expect_text("let a = \"{b}!\"  let b = \"{c}?\"  let c = \"z\"", "a", "z?!");
    expect_text("let a = cmd\nlet b = a", "\"{b}\"", "cmd"); /* an artifact stands for its name */
}

Test(recipe, lists_and_maps_keep_their_order)
{
    struct lq_recipe *recipe =
        parse("let more = [\"x\", \"y\",]\n"
              "command c { run = \"r\", outputs = [\"a\"] + more + [], inputs = [],\n"
              "  environment = { \"Z\" = \"1\" \"A\" = \"{s}\", \"\" = s } quiet = true }\n"
              "let s = \"v\"\n");
    const struct lq_artifact *c = find(recipe, "c");
    cr_assert_eq(lq_attr_count(c, "outputs"), 3);
    cr_expect_str_eq(lq_attr_item(c, "outputs", 0), "a");
    cr_expect_str_eq(lq_attr_item(c, "outputs", 2), "y");
    cr_expect_null(lq_attr_item(c, "outputs", 3));
    cr_assert_eq(lq_attr_count(c, "environment"), 3);
    cr_expect_str_eq(lq_attr_item_key(c, "environment", 0), "Z");
    cr_expect_str_eq(lq_attr_item_key(c, "environment", 2), "");
    cr_expect_str_eq(lq_attr_item(c, "environment", 1), "v");
    cr_expect_null(lq_attr_item_key(c, "environment", 3));
    cr_expect_null(lq_attr_item_key(c, "outputs", 0));
    cr_expect(lq_attr_is_set(c, "inputs"));
    cr_expect_eq(lq_attr_count(c, "inputs"), 0);
    cr_expect(lq_attr_bool(c, "quiet"));
    lq_recipe_destroy(recipe);
}

Test(recipe, loops_nest_and_have_variables_of_their_own)
{
    struct lq_recipe *recipe = parse("for m in [a, \"b\"] {\n"
                                     "  for n in [1, 2] {\n"
                                     "    let id = \"{m}-{n}\"\n"
                                     "    gguf \"g-{id}\" { model = m  path = \"out/\" + id }\n"
                                     "    default \"g-{id}\"\n"
                                     "  }\n"
                                     "}\n"
                                     "for n in [] { gguf never { model = a } }\n"
                                     "for n in [3] { model \"m{n}\" { source = \"{n}\" } }\n"
                                     "model a { source = \"x\" }\nmodel b { source = \"y\" }\n");
    cr_expect_eq(recipe->artifact_count, 7);
    cr_expect_eq(recipe->default_count, 4);
    cr_expect_str_eq(recipe->defaults[2]->name, "g-b-1");
    cr_expect_str_eq(lq_attr_string(find(recipe, "g-b-2"), "path"), "out/b-2");
    cr_expect_eq(lq_attr_ref(find(recipe, "g-b-2"), "model", 0), find(recipe, "b"));
    cr_expect_null(lq_recipe_find(recipe, "never"));
    for (size_t i = 0; i < recipe->artifact_count; i++) {
        cr_expect_eq(recipe->artifacts[i].index, i);
    }
    lq_recipe_destroy(recipe);
}

Test(recipe, keywords_can_be_attributes_and_quoted_names)
{
    struct lq_recipe *recipe =
        parse("model \"for\" { source = \"x\" }\ngguf \"in\" { model = \"for\" }\n"
              "default \"in\", \"for\", \"in\"\n");
    cr_expect_eq(recipe->default_count, 2);
    cr_expect_eq(lq_attr_ref(find(recipe, "in"), "model", 0), find(recipe, "for"));
    lq_recipe_destroy(recipe);
}

Test(recipe, definitions_replace_lets)
{
    const char *text = "let s = \"a\"\nlet derived = \"{s}/b\"\n"
                       "command c { run = derived  outputs = [] }";
    static const struct {
        const char *value;
        const char *wanted;
    } cases[] = {
        {"Q5_K_M", "Q5_K_M/b"}, {"12", "12/b"},          {"-0.5", "-0.5/b"}, {"true", "true/b"},
        {"\"12\"", "12/b"},     {"4KiB", "4096/b"},      {"", "/b"},         {"[1, 2]", "[1, 2]/b"},
        {"{x}", "{x}/b"},       {"\"a\\tb\"", "a\tb/b"}, {"a\"b", "a\"b/b"},
    };
    for (size_t i = 0; i < LQ_COUNT_OF(cases); i++) {
        const struct lq_define define = {"s", cases[i].value};
        struct lq_recipe *recipe = parse_with(text, &define, 1);
        cr_assert_not_null(recipe, "%s", last_error.message);
        cr_expect_str_eq(lq_attr_string(find(recipe, "c"), "run"), cases[i].wanted);
        lq_recipe_destroy(recipe);
    }
    const struct lq_define unknown = {"drived", "1"};
    cr_expect_null(parse_with(text, &unknown, 1));
    cr_expect_str_eq(last_error.message,
                     "-D drived: the recipe has no let of this name; did you mean 'derived'?");
    const struct lq_define broken = {"s", "\"x"};
    cr_expect_null(parse_with(text, &broken, 1));
    cr_expect_str_eq(last_error.message,
                     "-D s:1:1: the string is not closed before the end of the line\n"
                     "    \"x\n    ^");
    const struct lq_define binary = {"s", "\xff"};
    cr_expect_null(parse_with(text, &binary, 1));
    const struct lq_define artifact = {"c", "1"};
    cr_expect_null(parse_with(text, &artifact, 1));
}

Test(recipe, errors_of_rules_point_at_the_attribute)
{
    struct lq_recipe *recipe =
        parse("model m { source = \"x\" }\ngguf g {\n\tmodel = m\n\tlevel =   \"F32\"\n}");
    const struct lq_artifact *g = find(recipe, "g");
    struct lq_error err = {0};
    cr_expect_eq(lq_attr_error(g, "level", &err, LQ_EPROFILE, "no '%s' here", "F32"), LQ_EPROFILE);
    cr_expect_str_eq(err.message,
                     "recipe.lq:4:12: no 'F32' here\n    \tlevel =   \"F32\"\n    \t          ^");
    cr_expect_eq(lq_attr_error(g, NULL, &err, LQ_EMODEL, "gone"), LQ_EMODEL);
    cr_expect_str_eq(err.message, "recipe.lq:2:6: gone\n    gguf g {\n         ^");
    (void)lq_attr_error(g, "imatrix", &err, LQ_EMODEL, "unset");
    cr_expect_str_eq(err.message, "recipe.lq:2:6: unset\n    gguf g {\n         ^");
    cr_expect_eq(lq_attr_error(g, NULL, NULL, LQ_EMODEL, "nobody listens"), LQ_EMODEL);
    lq_recipe_destroy(recipe);
}

/* ---------------------------------------------------------------- includes ---- */

static char folder[256];

static void write_file(const char *name, const char *text)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    cr_assert_eq(lq_file_write(path, text, strlen(text), &last_error), LQ_OK, "%s",
                 last_error.message);
}

static void make_folder(void)
{
    (void)snprintf(folder, sizeof folder, "/tmp/lq-recipe-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
}

static void remove_folder(void)
{
    char command[512];
    (void)snprintf(command, sizeof command, "rm -rf %s", folder);
    cr_assert_eq(system(command), 0);
}

static struct lq_recipe *load(const char *name)
{
    char path[512];
    struct lq_recipe *recipe = NULL;
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    lq_error_clear(&last_error);
    (void)lq_recipe_load(&recipe, path, &fake_registry, NULL, 0, &last_error);
    return recipe;
}

/* The message with the folder left out. */
static void expect_load_error(const char *name, const char *message)
{
    char shown[LQ_ERROR_BYTES] = "";
    size_t used = 0;
    cr_expect_null(load(name));
    size_t length = strlen(folder) + 1;
    for (const char *at = last_error.message; *at != '\0';) {
        if (strncmp(at, folder, length - 1) == 0) {
            at += length;
        } else {
            shown[used++] = *at++;
        }
    }
    cr_expect_str_eq(shown, message, "got:\n%s\nexpected:\n%s", shown, message);
    cr_expect_eq(last_error.status, LQ_ERECIPE);
}

Test(recipe, includes_are_relative_to_the_including_file_and_happen_once, .init = make_folder,
     .fini = remove_folder)
{
    write_file("recipe.lq", "include \"sub/a.lq\"\ninclude \"sub/b.lq\"\ngguf g { model = m }\n");
    write_file("sub/a.lq", "include \"common.lq\"\ntext a { path = \"{where}/a\" }\n");
    write_file("sub/b.lq", "include \"../sub/common.lq\"\ntext b { path = where }\n");
    write_file("sub/common.lq", "let where = \"w\"\nmodel m { source = where }\n");
    struct lq_recipe *recipe = load("recipe.lq");
    cr_assert_not_null(recipe, "%s", last_error.message);
    cr_expect_eq(recipe->artifact_count, 4);
    char wanted[512];
    (void)snprintf(wanted, sizeof wanted, "%s/w/a", folder);
    cr_expect_str_eq(lq_attr_path(find(recipe, "a"), "path"), wanted,
                     "paths are relative to the recipe, also in included files");
    lq_recipe_destroy(recipe);
}

Test(recipe, include_errors_show_the_way, .init = make_folder, .fini = remove_folder)
{
    write_file("a.lq", "include \"b.lq\"\n");
    write_file("b.lq", "# comment\n  include \"sub/../a.lq\"\n");
    write_file("sub/x", "");
    expect_load_error("a.lq", "b.lq:2:11: include cycle: a.lq -> b.lq -> a.lq\n"
                              "      include \"sub/../a.lq\"\n"
                              "              ^");
    write_file("self.lq", "include \"self.lq\"");
    expect_load_error("self.lq", "self.lq:1:9: include cycle: self.lq -> self.lq\n"
                                 "    include \"self.lq\"\n"
                                 "            ^");
    write_file("missing.lq", "include \"nowhere.lq\"");
    expect_load_error("missing.lq", "missing.lq:1:9: cannot include nowhere.lq: no such file\n"
                                    "    include \"nowhere.lq\"\n"
                                    "            ^");
    write_file("template.lq", "let x = \"a\"\ninclude \"{x}.lq\"");
    expect_load_error("template.lq",
                      "template.lq:2:9: 'include' needs a plain file name, without {names} and not "
                      "empty\n"
                      "    include \"{x}.lq\"\n"
                      "            ^");
    write_file("outer.lq", "include \"inner.lq\"\nlet x = 1");
    write_file("inner.lq", "let x = 2\n");
    expect_load_error("outer.lq", "outer.lq:2:5: let 'x' is defined twice; first at inner.lq:1:5\n"
                                  "    let x = 1\n"
                                  "        ^");
    expect_load_error("no.lq", "no.lq: no such file");
}

Test(recipe, includes_do_not_nest_without_end, .init = make_folder, .fini = remove_folder)
{
    for (int i = 0; i < LQ_RECIPE_DEPTH_MAX + 2; i++) {
        char name[64];
        char text[64];
        (void)snprintf(name, sizeof name, "%d.lq", i);
        (void)snprintf(text, sizeof text, "include \"%d.lq\"\n", i + 1);
        write_file(name, i == LQ_RECIPE_DEPTH_MAX + 1 ? "" : text);
    }
    cr_expect_null(load("0.lq"));
    cr_expect(strstr(last_error.message, "deeper than the limit of 64") != NULL, "%s",
              last_error.message);
    struct lq_recipe *recipe = load("2.lq");
    cr_expect_not_null(recipe, "%s", last_error.message);
    lq_recipe_destroy(recipe);
}

Test(recipe, a_folder_or_a_device_is_no_recipe, .init = make_folder, .fini = remove_folder)
{
    cr_expect_null(load("."));
    cr_expect_eq(last_error.status, LQ_EIO);
    write_file("zero.lq", "include \"/dev/zero\"");
    cr_expect_null(load("zero.lq"));
    cr_expect(strstr(last_error.message, "regular file") != NULL, "%s", last_error.message);
}

/* ------------------------------------------------------------------ limits ---- */

/* `count` copies of `piece`, with a number in it where it has %d. */
static char *repeat(const char *head, const char *piece, int count, const char *tail)
{
    struct lq_buffer text;
    lq_buffer_init(&text);
    lq_buffer_append_string(&text, head);
    const char *number = strstr(piece, "%d");
    for (int i = 0; i < count; i++) {
        if (number == NULL) {
            lq_buffer_append_string(&text, piece);
        } else {
            lq_buffer_append(&text, piece, (size_t)(number - piece));
            lq_buffer_printf(&text, "%d", i);
            lq_buffer_append_string(&text, number + 2);
        }
    }
    lq_buffer_append_string(&text, tail);
    cr_assert_not(text.failed);
    return (char *)text.data;
}

static void expect_limit(char *text, const char *words)
{
    cr_expect_null(parse_with(text, NULL, 0));
    cr_expect_eq(last_error.status, LQ_ERECIPE);
    cr_expect(strstr(last_error.message, words) != NULL, "%.300s", last_error.message);
    free(text);
}

Test(recipe, loops_that_explode_end_at_a_limit)
{
    const char *ten = "let d = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n";
    expect_limit(repeat(ten, "for v%d in d {", 12, "}}}}}}}}}}}}"), "50000000 evaluations");
    char *loops = repeat(ten, "for v%d in d {", 8,
                         "model \"{v0}{v1}{v2}{v3}{v4}{v5}{v6}{v7}\" "
                         "{ source = \"x\" }}}}}}}}}");
    expect_limit(loops, "1000000 artifacts");
}

Test(recipe, values_that_double_end_at_a_limit)
{
    struct lq_buffer text;
    lq_buffer_init(&text);
    lq_buffer_append_string(&text, "let a0 = \"0123456789\"\n");
    for (int i = 1; i < 60; i++) {
        lq_buffer_printf(&text, "let a%d = \"{a%d}{a%d}\"\n", i, i - 1, i - 1);
    }
    expect_limit((char *)text.data, "268435456 bytes");
    lq_buffer_init(&text);
    lq_buffer_append_string(&text, "let a0 = [0]\n");
    for (int i = 1; i < 60; i++) {
        lq_buffer_printf(&text, "let a%d = a%d + a%d\n", i, i - 1, i - 1);
    }
    expect_limit((char *)text.data, "268435456 bytes");
}

Test(recipe, depth_is_bounded)
{
    expect_limit(repeat("let a = ", "[", 100000, ""), "deeper than the limit of 64");
    expect_limit(repeat("let a = ", "{ \"k\" = ", 100000, ""), "deeper than the limit of 64");
    expect_limit(repeat("let a = ", "(", 100000, ""), "deeper than the limit of 64");
    expect_limit(repeat("", "for v%d in [1] {", 100000, ""), "deeper than the limit of 64");
    expect_limit(repeat("", "let a%d = b", 1, ""), "unknown name");
    struct lq_buffer text;
    lq_buffer_init(&text);
    for (int i = 0; i < 1000; i++) {
        lq_buffer_printf(&text, "let a%d = a%d\n", i, i + 1);
    }
    lq_buffer_append_string(&text, "let a1000 = 1\n");
    expect_limit((char *)text.data, "more than 64 lets wait");
    /* The same the other way round is fine, and so are long chains of operators. */
    lq_buffer_init(&text);
    lq_buffer_append_string(&text, "let a0 = 1\n");
    for (int i = 1; i < 1000; i++) {
        lq_buffer_printf(&text, "let a%d = a%d\n", i, i - 1);
    }
    lq_recipe_destroy(parse((char *)text.data));
    lq_buffer_fini(&text);
    char *chain = repeat("let a = 1", " + 1", 100000, "");
    lq_recipe_destroy(parse(chain));
    free(chain);
    char *minus = repeat("let a = ", "-", 100000, "1");
    lq_recipe_destroy(parse(minus));
    free(minus);
}

Test(recipe, names_and_files_are_bounded)
{
    expect_limit(repeat("let ", "x", 256, " = 1"), "limit of 255 bytes");
    expect_limit(repeat("model \"", "x", 256, "\" { source = \"x\" }"), "longer than 255 bytes");
    expect_limit(repeat("model \"", "", 1, "\" { source = \"x\" }"), "is empty");
    expect_limit(repeat("#", "0123456789abcdef", LQ_RECIPE_BYTES_MAX / 16, ""), "larger than");
    char *longest = repeat("model ", "x", 255, " { source = \"x\" }");
    lq_recipe_destroy(parse(longest));
    free(longest);
}

Test(recipe, hundred_thousand_artifacts_load_in_a_moment)
{
    struct lq_buffer text;
    lq_buffer_init(&text);
    lq_buffer_append_string(&text, "model g0 { source = \"x\" }\nlet level = \"Q6_K\"\n");
    for (int i = 1; i < 100000; i++) {
        /* References forwards, the worst order for a look-up without a table. */
        lq_buffer_printf(&text,
                         "gguf g%d { model = g%d  level = level  path = \"out/{level}/%d\" }\n", i,
                         i < 50000 ? i + 50000 : 0, i);
    }
    uint64_t start = lq_clock_ns();
    struct lq_recipe *recipe = parse((char *)text.data);
    double seconds = (double)(lq_clock_ns() - start) / 1e9;
    cr_expect_eq(recipe->artifact_count, 100000);
    /* Ten times what it takes, so that a busy machine is no failure but a square is. */
    cr_expect(seconds < 5, "%.2f s", seconds);
    lq_recipe_destroy(recipe);
    lq_buffer_fini(&text);
}

Test(recipe, a_long_chain_of_references_is_no_deep_recursion)
{
    char *chain = repeat("gguf \"g100000\" { model = m }\nmodel m { source = \"x\" }\n",
                         "gguf \"h%d\" { model = m }\n", 10, "");
    lq_recipe_destroy(parse(chain));
    free(chain);
    struct lq_buffer text;
    lq_buffer_init(&text);
    for (int i = 0; i < 100000; i++) {
        lq_buffer_printf(&text, "gguf g%d { model = g%d }\n", i, (i + 1) % 100000);
    }
    cr_expect_null(parse_with((char *)text.data, NULL, 0));
    cr_expect(strstr(last_error.message, "g0 -> g1 -> g2 -> ") != NULL, "%s", last_error.message);
    cr_expect(strstr(last_error.message, "-> ... -> g0\n") != NULL, "%s", last_error.message);
    lq_buffer_fini(&text);
}

Test(recipe, one_long_line_or_string_costs_its_length_once)
{
    uint64_t start = lq_clock_ns();
    char *names = repeat("let n = 1 let s = \"", "{n}", 1000000, "\"");
    lq_recipe_destroy(parse(names));
    free(names);
    char *line = repeat("", "model m%d { source = \"x\" } ", 100000, "");
    lq_recipe_destroy(parse(line));
    free(line);
    char *wrong = repeat("", "model m%d { sorce = \"x\" } ", 100000, "");
    cr_expect_null(parse_with(wrong, NULL, 0));
    free(wrong);
    char *keys = repeat("let m = {", " \"k%d\" = 1", 100000, "}");
    lq_recipe_destroy(parse(keys));
    free(keys);
    double seconds = (double)(lq_clock_ns() - start) / 1e9;
    cr_expect(seconds < 10, "%.2f s", seconds);
}

static const struct lq_attr_spec lying_attrs[] = {
    {.name = "a", .type = LQ_ATTR_INT, .default_text = "\"text\""},
};
static const struct lq_rule lying_rule = {.kind = "lying", .attrs = lying_attrs, .attr_count = 1};
static const struct lq_rule *const lying_rules[] = {&lying_rule};
static const struct lq_registry lying_registry = {lying_rules, 1};

Test(recipe, a_default_that_does_not_fit_is_reported_as_our_mistake)
{
    struct lq_recipe *recipe = NULL;
    struct lq_error err = {0};
    cr_expect_eq(
        lq_recipe_parse(&recipe, "lying x {}", 10, "r", ".", &lying_registry, NULL, 0, &err),
        LQ_EINTERNAL);
    cr_expect(strstr(err.message, "does not fit its schema") != NULL, "%s", err.message);
}
