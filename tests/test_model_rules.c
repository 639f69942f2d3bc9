/* The rules model, text and calibration, built by the engine on the shipped model. A small rule
 * "dump" puts any output of an artifact into a file, so that the tests can look at it. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/cache.h"
#include "engine/base/fs.h"
#include "engine/base/pool.h"
#include "engine/build.h"
#include "engine/lang/recipe.h"
#include "rules/format/gguf.h"
#include "rules/model/corpus.h"
#include "rules/model/tokens.h"
#include "rules/registry.h"

#define TINY LQ_SOURCE_DIR "/examples/tiny-llama"
#define TEXTS LQ_SOURCE_DIR "/examples/text/"

static enum lq_status dump_expand(struct lq_expand *expand, struct lq_error *err)
{
    const struct lq_artifact *artifact = lq_expand_artifact(expand);
    const char *output = lq_attr_string(artifact, "output");
    struct lq_ref ref = lq_ref_artifact(lq_attr_ref(artifact, "of", 0), output);
    if (strcmp(output, "chunks") == 0) {
        size_t index = 0;
        enum lq_status status =
            lq_corpus_add_chunks_step(expand, lq_attr_ref(artifact, "of", 0),
                                      lq_attr_ref(artifact, "text", 0), 256, &index, err);
        if (status != LQ_OK) {
            return status;
        }
        ref = lq_ref_step(index, "main");
    }
    return lq_expand_bind_output(expand, "main", &ref, err);
}

static const struct lq_attr_spec dump_attrs[] = {
    {.name = "of", .type = LQ_ATTR_REF, .required = true, .choices = "model text calibration"},
    {.name = "text", .type = LQ_ATTR_REF, .choices = "text"},
    {.name = "output", .type = LQ_ATTR_STRING, .default_text = "main"},
    {.name = "path", .type = LQ_ATTR_OUT_PATH},
};
static const struct lq_rule dump_rule = {.kind = "dump",
                                         .version = 1,
                                         .help = "an output as a file",
                                         .attrs = dump_attrs,
                                         .attr_count = 4,
                                         .expand = dump_expand};
static const struct lq_rule *const test_rules[] = {&lq_rule_calibration, &dump_rule, &lq_rule_model,
                                                   &lq_rule_text};
static const struct lq_registry registry = {test_rules, 4};

static char folder[64];
static struct lq_cache *cache;
static struct lq_build_result result;
static struct lq_error err;

static void setup(void)
{
    char dir[128];
    strcpy(folder, "/tmp/lqbuild-test-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    (void)snprintf(dir, sizeof dir, "%s/cache", folder);
    const struct lq_cache_options options = {.dir = dir};
    cr_assert_eq(lq_cache_open(&cache, &options, &err), LQ_OK, "%s", err.message);
}

static void teardown(void)
{
    char command[128];
    lq_cache_close(cache);
    (void)snprintf(command, sizeof command, "rm -rf '%s'", folder);
    cr_assert_eq(system(command), 0);
}

static void put_file(const char *name, const char *text)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    cr_assert_eq(lq_file_write(path, text, strlen(text), &err), LQ_OK, "%s", err.message);
}

static struct lq_map get_file(const char *name)
{
    char path[256];
    struct lq_map map;
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    cr_assert_eq(lq_map_open(&map, path, LQ_EIO, &err), LQ_OK, "%s", err.message);
    return map;
}

static enum lq_status build(const char *text)
{
    struct lq_recipe *recipe = NULL;
    struct lq_pool *pool = NULL;
    lq_error_clear(&err);
    enum lq_status status =
        lq_recipe_parse(&recipe, text, strlen(text), "r.lq", folder, &registry, NULL, 0, &err);
    if (status != LQ_OK) {
        return status;
    }
    cr_assert_eq(lq_pool_create(&pool, 2, &err), LQ_OK);
    const struct lq_build_options options = {0};
    lq_error_clear(&err);
    status = lq_build_run(recipe, &registry, cache, pool, &options, &result, &err);
    lq_pool_destroy(pool);
    lq_recipe_destroy(recipe);
    return status;
}

static void expect_built(const char *text)
{
    cr_assert_eq(build(text), LQ_OK, "%s", err.message);
}

static void expect_refused(const char *text, enum lq_status status, const char *part)
{
    cr_assert_eq(build(text), status, "%s: %s", part, err.message);
    cr_assert_not_null(strstr(err.message, part), "'%s' is not in: %s", part, err.message);
}

#define MODEL "model base { source = \"" TINY "\" }\n"
#define TEXT "text wiki { path = \"" TEXTS "calibration.txt\" }\n"

TestSuite(model_rules, .init = setup, .fini = teardown);

Test(model_rules, calibration_takes_the_first_chunks_and_nothing_runs_twice)
{
    const char *recipe = MODEL TEXT "calibration c { model = base text = wiki samples = 128 }\n"
                                    "dump d { of = c path = \"c.bin\" }\n";
    expect_built(recipe);
    /* model.describe and calibration.tokens. */
    cr_assert_eq(result.ran, 2);
    struct lq_arena arena;
    struct lq_tokens tokens;
    struct lq_map map = get_file("c.bin");
    lq_arena_init(&arena);
    cr_assert_eq(lq_tokens_parse(map.data, map.size_bytes, "c", 4096, &arena, &tokens, &err), LQ_OK,
                 "%s", err.message);
    cr_assert_eq(tokens.sample_count, 128);
    cr_assert_eq(tokens.sequence_length, 256);
    cr_assert_eq(tokens.bos, 4093);
    for (size_t i = 0; i < 128; i++) {
        cr_assert_eq(tokens.tokens[i * 256], 4093);
    }
    lq_arena_fini(&arena);
    lq_map_close(&map);
    expect_built(recipe);
    cr_assert_eq(result.ran, 0);
    /* A seed that is not used changes nothing; a random order does. */
    expect_built(MODEL TEXT "calibration c { model = base text = wiki samples = 128 seed = 4 }\n");
    cr_assert_eq(result.ran, 0);
    expect_built(MODEL TEXT
                 "calibration c { model = base text = wiki samples = 128 order = \"random\" }\n");
    cr_assert_eq(result.ran, 1);
}

Test(model_rules, chunks_for_evaluation_are_those_of_the_reference)
{
    expect_built(MODEL "text eval { path = \"" TEXTS "eval.txt\" }\n"
                       "dump d { of = base text = eval output = \"chunks\" path = \"e.bin\" }\n");
    struct lq_arena arena;
    struct lq_tokens tokens;
    struct lq_map map = get_file("e.bin");
    lq_arena_init(&arena);
    cr_assert_eq(lq_tokens_parse(map.data, map.size_bytes, "e", 4096, &arena, &tokens, &err),
                 LQ_OK);
    cr_assert_eq(tokens.sample_count, 249);
    lq_arena_fini(&arena);
    lq_map_close(&map);
}

Test(model_rules, a_gguf_model_gives_the_same_vocabulary)
{
    expect_built(MODEL "dump d { of = base output = \"meta\" path = \"meta.gguf\" }\n");
    /* One tensor makes a model of the keys. */
    struct lq_map map = get_file("meta.gguf");
    struct lq_arena arena;
    struct lq_gguf gguf;
    struct lq_gguf_writer writer;
    struct lq_buffer file = {0};
    lq_arena_init(&arena);
    lq_gguf_writer_init(&writer);
    cr_assert_eq(lq_gguf_parse(map.data, map.size_bytes, map.size_bytes, "m", LQ_EFORMAT, &arena,
                               &gguf, NULL, &err),
                 LQ_OK, "%s", err.message);
    for (size_t i = 0; i < gguf.kv_count; i++) {
        lq_gguf_put_value(&writer, gguf.kvs[i].key, &gguf.kvs[i].value);
    }
    const uint64_t ne[4] = {32, 1, 1, 1};
    cr_assert_eq(lq_gguf_put_tensor(&writer, "x.weight", LQ_DTYPE_F32, 2, ne, &err), LQ_OK);
    cr_assert_eq(lq_gguf_writer_header(&writer, &file, &err), LQ_OK);
    (void)lq_buffer_extend(&file, 128);
    char path[256];
    (void)snprintf(path, sizeof path, "%s/m.gguf", folder);
    cr_assert_eq(lq_file_write(path, file.data, file.size_bytes, &err), LQ_OK);
    lq_buffer_fini(&file);
    lq_gguf_writer_fini(&writer);
    lq_arena_fini(&arena);
    lq_map_close(&map);
    expect_built(MODEL TEXT
                 "model g { source = \"m.gguf\" }\n"
                 "calibration a { model = base text = wiki samples = 128 sequence = 64 }\n"
                 "calibration b { model = g text = wiki samples = 128 sequence = 64 }\n"
                 "dump d { of = g output = \"vocab\" path = \"v.gguf\" }\n"
                 "dump e { of = base output = \"vocab\" path = \"w.gguf\" }\n");
    /* The second calibration has the same vocabulary and is not made again: what runs is the
     * description of the file and one calibration. */
    cr_assert_eq(result.ran, 2);
    struct lq_map v = get_file("v.gguf");
    struct lq_map w = get_file("w.gguf");
    cr_assert_eq(v.size_bytes, w.size_bytes);
    cr_assert_eq(memcmp(v.data, w.data, v.size_bytes), 0);
    lq_map_close(&v);
    lq_map_close(&w);
}

Test(model_rules, texts_come_from_json_too)
{
    put_file("t.jsonl", "{\"text\":\"one\"}\n{\"text\":\"two\"}\n");
    put_file("t.json", "{\"items\":[\"three\"]}");
    put_file("t.txt", "four");
    expect_built("text a { path = \"t.jsonl\" }\ntext b { path = \"t.json\" }\n"
                 "text c { path = \"t.txt\" }\n"
                 "dump x { of = a path = \"a\" }\ndump y { of = b path = \"b\" }\n"
                 "dump z { of = c path = \"c\" }\n");
    struct lq_map a = get_file("a");
    struct lq_map b = get_file("b");
    struct lq_map c = get_file("c");
    cr_assert(a.size_bytes == 7 && memcmp(a.data, "one\ntwo", 7) == 0);
    cr_assert(b.size_bytes == 5 && memcmp(b.data, "three", 5) == 0);
    cr_assert(c.size_bytes == 4 && memcmp(c.data, "four", 4) == 0);
    lq_map_close(&a);
    lq_map_close(&b);
    lq_map_close(&c);
    put_file("bad.jsonl", "{\"text\":\"one\"}\noops\n");
    expect_refused("text a { path = \"bad.jsonl\" }\ndump x { of = a path = \"a\" }\n",
                   LQ_ECALIBRATION, "bad.jsonl:2");
    expect_refused("text a { path = \"t.parquet\" }\n", LQ_ECALIBRATION, "'.parquet'");
    expect_refused("text a { path = \"none.txt\" }\n", LQ_ECALIBRATION, "none.txt");
    expect_refused("text a { path = \"t.txt\" field = \"x\" }\n", LQ_ERECIPE, "field is for");
}

Test(model_rules, models_that_are_not_there_are_refused_by_name)
{
    expect_refused("model m { source = \"nowhere\" }\n", LQ_EMODEL, "does not exist");
    expect_refused("model m { source = \"hf:org/name@main\" }\n", LQ_EMODEL,
                   "`lqbuild fetch hf:org/name@main`");
    char path[256];
    (void)snprintf(path, sizeof path, "%s/dir", folder);
    cr_assert_eq(mkdir(path, 0777), 0);
    expect_refused("model m { source = \"dir\" }\n", LQ_EMODEL, "neither model.safetensors nor");
    put_file("dir/model.safetensors.index.json",
             "{\"weight_map\":{\"a\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\"}}");
    expect_refused("model m { source = \"dir\" }\n", LQ_EMODEL, "no config.json");
    put_file("dir/config.json", "{}");
    expect_refused("model m { source = \"dir\" }\n", LQ_EMODEL,
                   "neither tokenizer.json nor tokenizer.model");
    put_file("dir/tokenizer.json", "{}");
    expect_refused("model m { source = \"dir\" }\n", LQ_EMODEL, "m-1.safetensors");
    put_file("dir/model.safetensors", "\x02\0\0\0\0\0\0\0{}");
    expect_refused("model m { source = \"dir\" }\n", LQ_EFORMAT, "model.safetensors");
    put_file("x.gguf", "GGUF");
    expect_refused("model m { source = \"x.gguf\" }\n", LQ_EFORMAT, "x.gguf");
}

Test(model_rules, calibration_refuses_what_is_too_long_or_too_short)
{
    expect_refused(MODEL TEXT "calibration c { model = base text = wiki samples = 127 }\n",
                   LQ_ECALIBRATION, "samples");
    expect_refused(MODEL TEXT "calibration c { model = base text = wiki samples = 1025 }\n",
                   LQ_ECALIBRATION, "samples");
    expect_refused(MODEL TEXT "calibration c { model = base text = wiki sequence = 0 }\n",
                   LQ_ECALIBRATION, "sequence");
    expect_refused(MODEL TEXT "calibration c { model = base text = wiki sequence = 257 }\n",
                   LQ_ECALIBRATION, "257");
    put_file("short.txt", "only a few words");
    expect_refused(MODEL "text s { path = \"short.txt\" }\n"
                         "calibration c { model = base text = s samples = 128 sequence = 64 }\n",
                   LQ_ECALIBRATION, "8192 are needed");
}
