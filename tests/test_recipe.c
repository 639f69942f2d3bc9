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
