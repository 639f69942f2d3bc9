/* The exact words of messages about wrong recipes. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "engine/lang/recipe.h"
#include "tests/recipe_fake.h"

static void expect_status(const char *text, enum lq_status wanted, const char *message)
{
    struct lq_recipe *recipe = NULL;
    struct lq_error err = {0};
    enum lq_status status = lq_recipe_parse(&recipe, text, strlen(text), "recipe.lq", ".",
                                            &fake_registry, NULL, 0, &err);
    cr_expect_str_eq(err.message, message, "got:\n%s\nexpected:\n%s", err.message, message);
    cr_expect_eq(status, wanted, "got %s", lq_status_name(status));
    cr_expect_eq(err.status, status);
    cr_expect_null(recipe);
}

static void expect(const char *text, const char *message)
{
    expect_status(text, LQ_ERECIPE, message);
}

Test(recipe_messages, unknown_names_are_met_with_suggestions)
{
    expect("modle a { source = \"x\" }",
           "recipe.lq:1:1: unknown rule 'modle'; did you mean 'model'?\n"
           "    modle a { source = \"x\" }\n"
           "    ^");
    expect("zebra a {}", "recipe.lq:1:1: unknown rule 'zebra'; 'lqbuild rules' lists them\n"
                         "    zebra a {}\n"
                         "    ^");
    expect("model a { sorce = \"x\" }",
           "recipe.lq:1:11: unknown attribute 'sorce' of model; did you mean 'source'?\n"
           "    model a { sorce = \"x\" }\n"
           "              ^");
    expect("model a { source = \"x\"  height = 3 }",
           "recipe.lq:1:25: unknown attribute 'height' of model; 'lqbuild rules model' lists them\n"
           "    model a { source = \"x\"  height = 3 }\n"
           "                            ^");
    expect("model base { source = \"x\" }\ngguf g { model = bsae }",
           "recipe.lq:2:18: unknown name 'bsae'; did you mean 'base'?\n"
           "    gguf g { model = bsae }\n"
           "                     ^");
    expect("model base { source = \"x\" }\ngguf g { model = \"zzzzzz\" }",
           "recipe.lq:2:18: unknown name 'zzzzzz'\n"
           "    gguf g { model = \"zzzzzz\" }\n"
           "                     ^");
    expect("default nothing", "recipe.lq:1:9: unknown name 'nothing'\n"
                              "    default nothing\n"
                              "            ^");
    expect("let level = 1\nmodel m { source = \"{levle}\" }",
           "recipe.lq:2:22: unknown variable 'levle' in a string; did you mean 'level'?\n"
           "    model m { source = \"{levle}\" }\n"
           "                         ^");
    expect("model m { source = \"{m}\" }",
           "recipe.lq:1:22: unknown variable 'm' in a string; only names of let and for can stand "
           "in braces\n"
           "    model m { source = \"{m}\" }\n"
           "                         ^");
    expect("let unused = somewhere", "recipe.lq:1:14: unknown name 'somewhere'\n"
                                     "    let unused = somewhere\n"
                                     "                 ^");
}

Test(recipe_messages, values_of_the_wrong_type_name_both_types)
{
    expect("model a { source = 3 }",
           "recipe.lq:1:20: attribute 'source' expects a path in quotes, got a number\n"
           "    model a { source = 3 }\n"
           "                       ^");
    expect("model a { source = \"\" }",
           "recipe.lq:1:20: attribute 'source' expects a path, got an empty string\n"
           "    model a { source = \"\" }\n"
           "                       ^");
    expect("text t { path = tmp }", "recipe.lq:1:17: unknown name 'tmp'; text stands in quotes\n"
                                    "    text t { path = tmp }\n"
                                    "                    ^");
    expect("model m { source = \"x\" }\ntext t { path = m }",
           "recipe.lq:2:17: attribute 'path' expects a path in quotes, got the artifact 'm'\n"
           "    text t { path = m }\n"
           "                    ^");
    expect("model m { source = \"x\" }\ngguf g { model = m  imatrix = m }",
           "recipe.lq:2:31: attribute 'imatrix' expects an artifact of kind imatrix, but 'm' is of "
           "kind model\n"
           "    gguf g { model = m  imatrix = m }\n"
           "                                  ^");
    expect(
        "text t { path = \"x\" }\ngguf g { model = t }",
        "recipe.lq:2:18: attribute 'model' expects an artifact of kind model or gguf, but 't' is "
        "of kind text\n"
        "    gguf g { model = t }\n"
        "                     ^");
    expect("model m { source = \"x\" }\ncommand c { run = \"x\"  outputs = [\"o\"]  inputs = m }",
           "recipe.lq:2:50: attribute 'inputs' expects a list of artifacts in brackets, got the "
           "artifact 'm'\n"
           "    command c { run = \"x\"  outputs = [\"o\"]  inputs = m }\n"
           "                                                     ^");
    expect("command c { run = \"x\"  outputs = [\"o\", 1] }",
           "recipe.lq:1:40: attribute 'outputs' expects strings in the list, got a number\n"
           "    command c { run = \"x\"  outputs = [\"o\", 1] }\n"
           "                                           ^");
    expect("command c { run = \"x\"  outputs = [\"o\"]  environment = [\"A\"] }",
           "recipe.lq:1:55: attribute 'environment' expects a map { \"key\" = \"value\" }, got a "
           "list\n"
           "    command c { run = \"x\"  outputs = [\"o\"]  environment = [\"A\"] }\n"
           "                                                          ^");
    expect("command c { run = \"x\"  outputs = [\"o\"]  quiet = 1 }",
           "recipe.lq:1:49: attribute 'quiet' expects true or false, got a number\n"
           "    command c { run = \"x\"  outputs = [\"o\"]  quiet = 1 }\n"
           "                                                    ^");
}

static const char calibration[] = "model m { source = \"x\" }\ntext t { path = \"x\" }\n"
                                  "calibration c { model = m  text = t  ";

static void expect_calibration(const char *rest, enum lq_status status, const char *message)
{
    char text[512];
    (void)snprintf(text, sizeof text, "%s%s }", calibration, rest);
    expect_status(text, status, message);
}

Test(recipe_messages, ranges_and_choices_come_with_the_status_of_the_schema)
{
    expect_calibration("samples = 0", LQ_ECALIBRATION,
                       "recipe.lq:3:48: attribute 'samples' must be from 1 to 1024, got 0\n"
                       "    calibration c { model = m  text = t  samples = 0 }\n"
                       "                                                   ^");
    expect_calibration("samples = 4KiB", LQ_ECALIBRATION,
                       "recipe.lq:3:48: attribute 'samples' must be from 1 to 1024, got 4096\n"
                       "    calibration c { model = m  text = t  samples = 4KiB }\n"
                       "                                                   ^");
    expect_calibration("samples = 1.5", LQ_ERECIPE,
                       "recipe.lq:3:48: attribute 'samples' expects a whole number, got 1.5\n"
                       "    calibration c { model = m  text = t  samples = 1.5 }\n"
                       "                                                   ^");
    expect_calibration("order = \"radnom\"", LQ_ERECIPE,
                       "recipe.lq:3:46: attribute 'order' cannot be 'radnom'; did you mean "
                       "'random'?\n"
                       "    calibration c { model = m  text = t  order = \"radnom\" }\n"
                       "                                                 ^");
    expect_calibration("order = \"sideways\"", LQ_ERECIPE,
                       "recipe.lq:3:46: attribute 'order' cannot be 'sideways'; expected first or "
                       "random\n"
                       "    calibration c { model = m  text = t  order = \"sideways\" }\n"
                       "                                                 ^");
    expect_calibration("order = random", LQ_ERECIPE,
                       "recipe.lq:3:46: unknown name 'random'; did you mean \"random\" in quotes?\n"
                       "    calibration c { model = m  text = t  order = random }\n"
                       "                                                 ^");
    expect_status(
        "model m { source = \"x\" }\ngguf g { model = m  level = \"Q9\" }", LQ_EUNSUPPORTED,
        "recipe.lq:2:29: attribute 'level' cannot be 'Q9'; expected F32, F16, Q8_0, Q6_K, "
        "Q5_K_M, Q4_K_M or Q2_K\n"
        "    gguf g { model = m  level = \"Q9\" }\n"
        "                                ^");
}

Test(recipe_messages, missing_and_repeated_things)
{
    expect("gguf g {}", "recipe.lq:1:6: gguf 'g' lacks the attribute 'model'\n"
                        "    gguf g {}\n"
                        "         ^");
    expect("command c {}", "recipe.lq:1:9: command 'c' lacks the attributes 'run', 'outputs'\n"
                           "    command c {}\n"
                           "            ^");
    expect("model a { source = \"x\"  source = \"y\" }",
           "recipe.lq:1:25: attribute 'source' is set twice; first at recipe.lq:1:11\n"
           "    model a { source = \"x\"  source = \"y\" }\n"
           "                            ^");
    expect("model a { source = \"x\" }\ntext a { path = \"x\" }",
           "recipe.lq:2:6: artifact 'a' is declared twice; first at recipe.lq:1:7\n"
           "    text a { path = \"x\" }\n"
           "         ^");
    expect("for q in [1, 2] {\n  model a { source = \"x\" }\n}",
           "recipe.lq:2:9: artifact 'a' is declared in several rounds of the loop; put the loop "
           "variable into its name\n"
           "      model a { source = \"x\" }\n"
           "            ^");
    expect("let a = 1\nlet a = 2",
           "recipe.lq:2:5: let 'a' is defined twice; first at recipe.lq:1:5\n"
           "    let a = 2\n"
           "        ^");
    expect("let a = 1\nmodel a { source = \"x\" }",
           "recipe.lq:1:5: let 'a' has the same name as artifact 'a' at recipe.lq:2:7\n"
           "    let a = 1\n"
           "        ^");
    expect("let a = 1\nfor a in [1] {}",
           "recipe.lq:2:5: loop variable 'a' has the same name as let 'a' at recipe.lq:1:5\n"
           "    for a in [1] {}\n"
           "        ^");
    expect("for a in [1] { for a in [2] {} }",
           "recipe.lq:1:20: loop variable 'a' has the same name as a variable of a loop around it\n"
           "    for a in [1] { for a in [2] {} }\n"
           "                       ^");
    expect("model m { source = \"x\" }\ngguf a { model = m  path = \"out/x\" }\n"
           "gguf b { model = m  path = \"./out//x\" }",
           "recipe.lq:3:28: the path './out//x' is the output of 'a' at recipe.lq:2:6 already\n"
           "    gguf b { model = m  path = \"./out//x\" }\n"
           "                               ^");
    expect("command c { run = \"x\"  outputs = [\"o\"]  environment = { \"A\" = \"1\", \"A\" = "
           "\"2\" } }",
           "recipe.lq:1:74: the key 'A' stands twice in the map\n"
           "    command c { run = \"x\"  outputs = [\"o\"]  environment = { \"A\" = \"1\", \"A\" = "
           "\"2\" } }"
           "\n"
           "                                                                             ^");
}

Test(recipe_messages, cycles_are_shown_as_a_path)
{
    expect("gguf a { model = a }", "recipe.lq:1:18: artifacts depend on themselves: a -> a\n"
                                   "    gguf a { model = a }\n"
                                   "                     ^");
    expect("gguf start { model = c }\ngguf a { model = b }\ngguf b { model = c }\n"
           "gguf c { model = a }",
           "recipe.lq:2:18: artifacts depend on themselves: a -> b -> c -> a\n"
           "    gguf a { model = b }\n"
           "                     ^");
    expect("let a = b\nlet b = \"{a}\"", "recipe.lq:2:11: the value of let 'a' depends on itself\n"
                                         "    let b = \"{a}\"\n"
                                         "              ^");
}

Test(recipe_messages, syntax_errors_say_what_was_expected)
{
    expect("model a { source = }", "recipe.lq:1:20: expected a value, got '}'\n"
                                   "    model a { source = }\n"
                                   "                       ^");
    expect("model a { source \"x\" }",
           "recipe.lq:1:18: expected '=' after the attribute, got \"x\"\n"
           "    model a { source \"x\" }\n"
           "                     ^");
    expect("model { source = \"x\" }",
           "recipe.lq:1:7: expected a name for the artifact after 'model', got '{'\n"
           "    model { source = \"x\" }\n"
           "          ^");
    expect("source = \"x\"",
           "recipe.lq:1:1: 'source = ...' stands outside of an artifact; write 'let source = ...' "
           "for a variable\n"
           "    source = \"x\"\n"
           "    ^");
    expect("model a {\n  source = \"x\"\ntext t { path = \"y\" }",
           "recipe.lq:3:1: expected '}' to close the block of 'model' that opens at line 1\n"
           "    text t { path = \"y\" }\n"
           "    ^");
    expect("for q in [1] {\n  model \"m{q}\" { source = \"x\" }\n",
           "recipe.lq:2:32: expected '}' to close the block of 'for' that opens at line 1\n"
           "      model \"m{q}\" { source = \"x\" }\n"
           "                                   ^");
    expect("let a = [1 2]", "recipe.lq:1:12: expected ',' or ']' in the list, got '2'\n"
                            "    let a = [1 2]\n"
                            "               ^");
    expect("let a =\nmodel m { source = \"x\" }", "recipe.lq:2:1: expected a value, got 'model'\n"
                                                  "    model m { source = \"x\" }\n"
                                                  "    ^");
    expect("let a = (1", "recipe.lq:1:11: expected ')', got the end of the file\n"
                         "    let a = (1\n"
                         "              ^");
    expect("for x in 3 {}", "recipe.lq:1:10: 'for' expects a list, got a number\n"
                            "    for x in 3 {}\n"
                            "             ^");
    expect("for x in [1] { include \"x.lq\" }",
           "recipe.lq:1:16: 'include' cannot stand in a loop; move it to the top level\n"
           "    for x in [1] { include \"x.lq\" }\n"
           "                   ^");
    expect("let x = 'a'", "recipe.lq:1:9: unexpected character '; strings stand in double quotes\n"
                          "    let x = 'a'\n"
                          "            ^");
    expect("let x = é", "recipe.lq:1:9: unexpected character 'é'\n"
                        "    let x = é\n"
                        "            ^");
}

Test(recipe_messages, literals_say_what_is_wrong_with_them)
{
    expect("let x = \"abc", "recipe.lq:1:9: the string is not closed before the end of the line\n"
                            "    let x = \"abc\n"
                            "            ^");
    expect("let x = \"a\\q\"",
           "recipe.lq:1:11: unknown escape in a string; known are \\n \\t \\\" \\\\ \\{ \\}\n"
           "    let x = \"a\\q\"\n"
           "              ^");
    expect("let x = \"€{\"",
           "recipe.lq:1:11: expected one name between { and }; write \\{ for a brace that is meant "
           "as text\n"
           "    let x = \"€{\"\n"
           "              ^");
    expect("let x = \"a}\"",
           "recipe.lq:1:11: '}' without '{' in a string; write \\} for a brace that is meant as "
           "text\n"
           "    let x = \"a}\"\n"
           "              ^");
    expect("let x = 4kib",
           "recipe.lq:1:9: unknown unit behind a number; known are % KB MB GB KiB MiB GiB: '4kib'\n"
           "    let x = 4kib\n"
           "            ^");
    expect("let x = 1.", "recipe.lq:1:9: malformed number: '1.'\n"
                         "    let x = 1.\n"
                         "            ^");
    expect("let x = 1e999", "recipe.lq:1:9: number is too large: '1e999'\n"
                            "    let x = 1e999\n"
                            "            ^");
    expect("let x = 1 / 0", "recipe.lq:1:13: division by zero\n"
                            "    let x = 1 / 0\n"
                            "                ^");
    expect("let x = \"a\" + 1", "recipe.lq:1:15: '+' does not work between a string and a number\n"
                                "    let x = \"a\" + 1\n"
                                "                  ^");
    expect("let l = [1]\nlet x = \"{l}\"",
           "recipe.lq:2:11: 'l' is a list, which cannot stand in a string\n"
           "    let x = \"{l}\"\n"
           "              ^");
}

Test(recipe_messages, several_errors_are_shown_in_one_run)
{
    expect("let = 1\nmodel a { source = }\ntext t { path = \"x\" }\n}\nlet b 2\n",
           "recipe.lq:1:5: expected a name after 'let', got '='\n"
           "    let = 1\n"
           "        ^\n"
           "recipe.lq:2:20: expected a value, got '}'\n"
           "    model a { source = }\n"
           "                       ^\n"
           "recipe.lq:4:1: expected a rule, let, for, include or default, got '}'\n"
           "    }\n"
           "    ^\n"
           "recipe.lq:5:7: expected '=' after the name of the let, got '2'\n"
           "    let b 2\n"
           "          ^");
    expect_status("modle a { source = \"x\" }\nmodel b { sorce = \"x\" }\n"
                  "text t { path = \"x\" }\ncalibration c { model = a  text = t  samples = 0 }\n",
                  LQ_ERECIPE,
                  "recipe.lq:1:1: unknown rule 'modle'; did you mean 'model'?\n"
                  "    modle a { source = \"x\" }\n"
                  "    ^\n"
                  "recipe.lq:2:11: unknown attribute 'sorce' of model; did you mean 'source'?\n"
                  "    model b { sorce = \"x\" }\n"
                  "              ^\n"
                  "recipe.lq:4:48: attribute 'samples' must be from 1 to 1024, got 0\n"
                  "    calibration c { model = a  text = t  samples = 0 }\n"
                  "                                                   ^");
}

Test(recipe_messages, more_errors_than_there_is_room_for_are_counted)
{
    char text[8192] = "";
    for (int i = 0; i < 40; i++) {
        (void)snprintf(text + strlen(text), sizeof text - strlen(text),
                       "model m%d { sorce = \"some path that makes the line longer\" }\n", i);
    }
    struct lq_recipe *recipe = NULL;
    struct lq_error err = {0};
    cr_assert_eq(lq_recipe_parse(&recipe, text, strlen(text), "recipe.lq", ".", &fake_registry,
                                 NULL, 0, &err),
                 LQ_ERECIPE);
    cr_assert(strlen(err.message) < LQ_ERROR_BYTES - 1);
    const char *last = strrchr(err.message, '\n');
    cr_assert_not_null(last);
    int left_out = 0;
    cr_assert_eq(sscanf(last, "\nand %d more errors", &left_out), 1, "%s", last);
    int shown = 0;
    for (const char *at = err.message; (at = strstr(at, "unknown attribute")) != NULL; at++) {
        shown++;
    }
    cr_assert_eq(shown + left_out, 20);
}

Test(recipe_messages, the_caret_stands_right_with_tabs_wide_text_and_long_lines)
{
    expect("model\ta\t{ source = 3 }",
           "recipe.lq:1:20: attribute 'source' expects a path in quotes, got a number\n"
           "    model\ta\t{ source = 3 }\n"
           "         \t \t           ^");
    expect("text t { path = \"é€😀\" }  modle é", "recipe.lq:1:32: unexpected character 'é'\n"
                                                 "    text t { path = \"é€😀\" }  modle é\n"
                                                 "                                   ^");
    char text[400];
    char wanted[400];
    (void)snprintf(text, sizeof text, "let a = \"%0120d\"  let b = ?  let c = \"%0120d\"", 0, 0);
    (void)snprintf(wanted, sizeof wanted,
                   "recipe.lq:1:141: unexpected character '?'\n"
                   "    ...%059d\"  let b = ?  let c = \"%028d...\n"
                   "       %70s^",
                   0, 0, "");
    expect(text, wanted);
}

Test(recipe_messages, bytes_that_are_no_text_never_reach_the_terminal)
{
    expect("let a = \"\xff\"",
           "recipe.lq:1:10: byte 0xff is no UTF-8 text; save the file as UTF-8\n"
           "    let a = \"?\"\n"
           "             ^");
    expect("# \xed\xa0\x80", "recipe.lq:1:3: byte 0xed is no UTF-8 text; save the file as UTF-8\n"
                             "    # ???\n"
                             "      ^");
    expect("let a = \"\x1b[31m\"", "recipe.lq:1:10: control character in a string\n"
                                   "    let a = \"?[31m\"\n"
                                   "             ^");
    expect("let a = \x01", "recipe.lq:1:9: unexpected control character 0x01\n"
                           "    let a = ?\n"
                           "            ^");
    expect("model \"a\\nb\" { source = \"x\" }",
           "recipe.lq:1:7: the name of the artifact has a control character\n"
           "    model \"a\\nb\" { source = \"x\" }\n"
           "          ^");
    struct lq_recipe *recipe = NULL;
    struct lq_error err = {0};
    cr_expect_eq(
        lq_recipe_parse(&recipe, "let a\0= 1", 9, "recipe.lq", ".", &fake_registry, NULL, 0, &err),
        LQ_ERECIPE);
    cr_expect_str_eq(err.message, "recipe.lq:1:6: byte 0x00 is no UTF-8 text; save the file as "
                                  "UTF-8\n    let a?= 1\n         ^");
}

Test(recipe_messages, checks_of_rules_are_located)
{
    expect_status("model m { source = \"x\" }\nlet l = \"Q2_K\"\ngguf g { model = m  level = l }",
                  LQ_EIMATRIX,
                  "recipe.lq:3:29: level 'Q2_K' needs an imatrix; set 'imatrix'\n"
                  "    gguf g { model = m  level = l }\n"
                  "                                ^");
    expect_status("model m { source = \"x\" }\ngguf refused { model = m }", LQ_EFAIL,
                  "recipe.lq:2:6: refused by name\n"
                  "    gguf refused { model = m }\n"
                  "         ^");
}
