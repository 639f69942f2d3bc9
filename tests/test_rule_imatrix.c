/* The rule imatrix and the perplexity step, built by the engine on the shipped model and compared
 * with what llama.cpp computed (tests/golden/tiny-llama). A small rule "score" puts a perplexity
 * into a file. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/cache.h"
#include "engine/base/fs.h"
#include "engine/base/pool.h"
#include "engine/build.h"
#include "engine/lang/recipe.h"
#include "rules/format/imatrix.h"
#include "rules/model/tokens.h"
#include "rules/quality/evaluate.h"
#include "rules/registry.h"

/* The project's requirement; 4e-4 is seen, for llama.cpp keeps keys and values of attention in half
 * precision (docs/numerics-model.md). */
#define MEAN_SQUARE_RELATIVE 0.01
#define MEAN_SQUARE_ABSOLUTE 1e-6
/* The first 8 chunks of 256 tokens of text/eval.txt: the double-precision NumPy pass of
 * tests/golden/tiny-llama/README.md, and the running estimate that llama-perplexity prints after 8
 * chunks with the F32 file named there. A score of ours carries a rounding error below 4e-4
 * (test_forward.c) of either sign, so the mean of 1016 is off by less than 4e-4 / sqrt(1016). */
#define PPL_EXACT 55.477453792570245
#define PPL_EXACT_RELATIVE 1.3e-5
#define PPL_LLAMA 55.4772
#define PPL_LLAMA_RELATIVE 0.0005
#define PLUS_MINUS_EXACT 4.874465767375875

/* ---- a rule that scores ---- */

static enum lq_status cut_tokens(struct lq_expand *expand, const struct lq_artifact *artifact,
                                 struct lq_ref *out, struct lq_error *err)
{
    struct lq_ref ref = lq_ref_artifact(lq_attr_ref(artifact, "tokens", 0), "main");
    struct lq_arena *arena = lq_expand_arena(expand);
    struct lq_tokens tokens;
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_expand_read(expand, &ref, &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_tokens_parse(data, size_bytes, "tokens", 0, arena, &tokens, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    struct lq_buffer bytes;
    lq_buffer_init(&bytes);
    tokens.sample_count = (uint32_t)lq_attr_int(artifact, "chunks");
    status = lq_tokens_format(&tokens, &bytes, err);
    *out = lq_ref_bytes(lq_arena_dup(arena, bytes.data, bytes.size_bytes), bytes.size_bytes);
    lq_buffer_fini(&bytes);
    return status;
}

/* Of the newest score that does not say how long its chunks are, and of the newest that does. */
static struct lq_pass passes[2];

static enum lq_status expand_score(struct lq_expand *expand, struct lq_error *err)
{
    const struct lq_artifact *artifact = lq_expand_artifact(expand);
    struct lq_pass original;
    struct lq_evaluate_request request = {
        .model = lq_attr_ref(artifact, "candidate", 0),
        .original = &original,
        .options = {.hidden_bf16 = lq_attr_bool(artifact, "bf16"),
                    .sequence = (uint32_t)lq_attr_int(artifact, "guess")}};
    size_t step = 0;
    enum lq_status status = cut_tokens(expand, artifact, &request.options.tokens, err);
    if (status == LQ_OK) {
        status = lq_evaluate_add_reference(expand, lq_attr_ref(artifact, "original", 0),
                                           &request.options, &original, &step, err);
    }
    if (status == LQ_OK) {
        status = lq_evaluate_add_step(expand, &request, &step, err);
    }
    passes[request.options.sequence != 0] = original;
    struct lq_ref main_ref = lq_ref_step(step, "main");
    return status == LQ_OK ? lq_expand_bind_output(expand, "main", &main_ref, err) : status;
}

static const struct lq_attr_spec score_attrs[] = {
    {.name = "original", .type = LQ_ATTR_REF, .required = true, .choices = "model"},
    {.name = "candidate", .type = LQ_ATTR_REF, .required = true, .choices = "model gguf"},
    {.name = "tokens", .type = LQ_ATTR_REF, .required = true, .choices = "calibration"},
    {.name = "chunks", .type = LQ_ATTR_INT, .default_text = "8"},
    {.name = "bf16", .type = LQ_ATTR_BOOL, .default_text = "false"},
    {.name = "guess", .type = LQ_ATTR_INT, .default_text = "0"},
    {.name = "path", .type = LQ_ATTR_OUT_PATH},
};
static const struct lq_rule score_rule = {.kind = "score",
                                          .version = 1,
                                          .help = "a perplexity as a file",
                                          .attrs = score_attrs,
                                          .attr_count = sizeof score_attrs / sizeof score_attrs[0],
                                          .expand = expand_score};
static const struct lq_rule *const test_rules[] = {
    &lq_rule_calibration, &lq_rule_gguf,    &lq_rule_imatrix, &lq_rule_mask,
    &lq_rule_model,       &lq_rule_profile, &score_rule,      &lq_rule_text};
static const struct lq_registry registry = {test_rules, 8};

/* ---- building ---- */

static char folder[64];
static struct lq_build_result result;
static struct lq_error err;
static struct lq_arena arena;

static void set_up(void)
{
    strcpy(folder, "/tmp/lqbuild-test-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    lq_arena_init(&arena);
    lq_error_clear(&err);
}

static void tear_down(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    cr_assert_eq(system(command), 0);
    lq_arena_fini(&arena);
}

TestSuite(rule_imatrix, .init = set_up, .fini = tear_down, .timeout = 900);

static lq_event_fn on_event;
static void *event_user;

static enum lq_status build(const char *cache_name, unsigned threads, const char *artifacts)
{
    static const char base[] =
        "model base { source = \"" LQ_SOURCE_DIR "/examples/tiny-llama\" }\n"
        "text eval { path = \"" LQ_SOURCE_DIR "/examples/text/eval.txt\" }\n"
        "calibration calib { model = base  text = eval  samples = 128  sequence = 256 }\n"
        "calibration short { model = base  text = eval  samples = 128  sequence = 32 }\n";
    char text[4096];
    char dir[128];
    struct lq_cache *cache = NULL;
    struct lq_recipe *recipe = NULL;
    struct lq_pool *pool = NULL;
    snprintf(text, sizeof text, "%s%s", base, artifacts);
    snprintf(dir, sizeof dir, "%s/%s", folder, cache_name);
    const struct lq_cache_options cache_options = {.dir = dir};
    lq_error_clear(&err);
    enum lq_status status =
        lq_recipe_parse(&recipe, text, strlen(text), "recipe.lq", folder, &registry, NULL, 0, &err);
    if (status != LQ_OK) {
        return status;
    }
    cr_assert_eq(lq_cache_open(&cache, &cache_options, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_pool_create(&pool, threads, &err), LQ_OK);
    struct lq_build_options options = {.on_event = on_event, .event_user = event_user};
    status = lq_build_run(recipe, &registry, cache, pool, &options, &result, &err);
    lq_pool_destroy(pool);
    lq_recipe_destroy(recipe);
    lq_cache_close(cache);
    return status;
}

static struct lq_map read_output(const char *name)
{
    char path[128];
    struct lq_map map;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    cr_assert_eq(lq_map_open(&map, path, LQ_EIO, &err), LQ_OK, "%s", err.message);
    return map;
}

static struct lq_imatrix read_imatrix(const char *path, enum lq_imatrix_format *format)
{
    struct lq_map map;
    struct lq_imatrix imatrix;
    cr_assert_eq(lq_map_open(&map, path, LQ_EIO, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_imatrix_parse(map.data, map.size_bytes, path, &arena, &imatrix, format, &err),
                 LQ_OK, "%s", err.message);
    lq_map_close(&map);
    return imatrix;
}

static struct lq_imatrix read_built_imatrix(const char *name, enum lq_imatrix_format *format)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return read_imatrix(path, format);
}

static void expect_same(const struct lq_imatrix *a, const struct lq_imatrix *b)
{
    cr_assert_eq(a->entry_count, b->entry_count);
    for (size_t i = 0; i < a->entry_count; i++) {
        const struct lq_imatrix_entry *x = &a->entries[i];
        const struct lq_imatrix_entry *y = &b->entries[i];
        cr_expect_str_eq(x->name, y->name);
        cr_assert_eq(x->col_count, y->col_count);
        cr_assert_eq(x->mat_count, y->mat_count);
        cr_expect_eq(x->counts[0], y->counts[0]);
        for (size_t j = 0; j < x->col_count; j++) {
            double mean = (double)x->sums[j] / (double)x->counts[0];
            double other = (double)y->sums[j] / (double)y->counts[0];
            double difference = fabs(mean - other);
            cr_expect(difference <= MEAN_SQUARE_RELATIVE * other ||
                          difference <= MEAN_SQUARE_ABSOLUTE,
                      "%s column %zu: %g, expected %g", x->name, j, mean, other);
        }
    }
}

/* ---- computing ---- */

#define GOLDEN LQ_SOURCE_DIR "/tests/golden/tiny-llama/"

Test(rule_imatrix, agrees_with_llama_imatrix_on_the_golden_text)
{
    enum lq_imatrix_format format;
    cr_assert_eq(build("cache", 2,
                       "imatrix im { model = base  calibration = calib  path = \"im.gguf\" }\n"
                       "default im\n"),
                 LQ_OK, "%s", err.message);
    struct lq_imatrix ours = read_built_imatrix("im.gguf", &format);
    cr_expect_eq(format, LQ_IMATRIX_GGUF);
    struct lq_imatrix theirs = read_imatrix(GOLDEN "imatrix-128x256.gguf", &format);
    expect_same(&ours, &theirs);
    cr_expect_eq(ours.chunk_count, 128);
    cr_expect_eq(ours.chunk_size, 256);
    cr_assert_eq(ours.dataset_count, 1);
    cr_expect_str_eq(ours.datasets[0], "eval.txt");
}

Test(rule_imatrix, bytes_do_not_depend_on_threads)
{
    static const char one[] =
        "imatrix im { model = base  calibration = short  path = \"one.gguf\" }\ndefault im\n";
    static const char two[] =
        "imatrix im { model = base  calibration = short  path = \"two.gguf\" }\ndefault im\n";
    cr_assert_eq(build("cache1", 1, one), LQ_OK, "%s", err.message);
    cr_assert_eq(build("cache2", 2, two), LQ_OK, "%s", err.message);
    struct lq_map a = read_output("one.gguf");
    struct lq_map b = read_output("two.gguf");
    cr_assert_eq(a.size_bytes, b.size_bytes);
    cr_expect_eq(memcmp(a.data, b.data, a.size_bytes), 0);
    lq_map_close(&a);
    lq_map_close(&b);
}

Test(rule_imatrix, another_format_only_assembles_again)
{
    enum lq_imatrix_format format;
    static const char gguf[] =
        "imatrix im { model = base  calibration = short  path = \"im.gguf\" }\ndefault im\n";
    static const char imat[] =
        "imatrix im { model = base  calibration = short  path = \"im.imatrix\" }\ndefault im\n";
    cr_assert_eq(build("cache", 2, gguf), LQ_OK, "%s", err.message);
    cr_expect_gt(result.ran, 6);
    cr_assert_eq(build("cache", 2, gguf), LQ_OK, "%s", err.message);
    cr_expect_eq(result.ran, 0);
    cr_assert_eq(build("cache", 2, imat), LQ_OK, "%s", err.message);
    cr_expect_eq(result.ran, 1);
    struct lq_imatrix first = read_built_imatrix("im.gguf", &format);
    struct lq_imatrix second = read_built_imatrix("im.imatrix", &format);
    cr_expect_eq(format, LQ_IMATRIX_IMAT);
    expect_same(&second, &first);
}

/* ---- loading ---- */

Test(rule_imatrix, loads_a_legacy_file)
{
    enum lq_imatrix_format format;
    cr_assert_eq(build("cache", 1,
                       "imatrix im { model = base  file = \"" GOLDEN
                       "imatrix-calibration-128x256.dat\"  path = \"im.gguf\" }\ndefault im\n"),
                 LQ_OK, "%s", err.message);
    struct lq_imatrix ours = read_built_imatrix("im.gguf", &format);
    struct lq_imatrix theirs = read_imatrix(GOLDEN "imatrix-calibration-128x256.gguf", &format);
    expect_same(&ours, &theirs);
}

static void put_file(const char *name, const void *data, size_t size_bytes)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    cr_assert_eq(lq_file_write(path, data, size_bytes, &err), LQ_OK, "%s", err.message);
}

Test(rule_imatrix, bad_files_are_refused)
{
    static const char recipe[] =
        "imatrix im { model = base  file = \"in.gguf\"  path = \"out.gguf\" }\ndefault im\n";
    struct lq_map golden;
    cr_expect_eq(build("cache", 1, recipe), LQ_EIMATRIX, "missing: %s", err.message);
    put_file("in.gguf", "", 0);
    cr_expect_eq(build("cache", 1, recipe), LQ_EIMATRIX, "empty: %s", err.message);
    cr_assert_eq(lq_map_open(&golden, GOLDEN "imatrix-128x256.gguf", LQ_EIO, &err), LQ_OK);
    put_file("in.gguf", golden.data, golden.size_bytes / 2);
    cr_expect_eq(build("cache", 1, recipe), LQ_EIMATRIX, "half: %s", err.message);
    lq_map_close(&golden);
    char out[128];
    snprintf(out, sizeof out, "%s/out.gguf", folder);
    cr_expect_not(lq_path_exists(out));
}

static void put_imatrix(const char *name, size_t col_count)
{
    float sums[256];
    for (size_t i = 0; i < sizeof sums / sizeof sums[0]; i++) {
        sums[i] = 1;
    }
    float count = 1;
    struct lq_imatrix_entry entry = {name, col_count, 1, 1, sums, &count};
    const char *dataset = "x";
    struct lq_imatrix imatrix = {&entry, 1, &dataset, 1, 1, 1, LQ_IMPORTANCE_ACTIVATION};
    struct lq_buffer bytes;
    lq_buffer_init(&bytes);
    cr_assert_eq(lq_imatrix_format(&imatrix, LQ_IMATRIX_GGUF, &bytes, &err), LQ_OK);
    put_file("in.gguf", bytes.data, bytes.size_bytes);
    lq_buffer_fini(&bytes);
}

Test(rule_imatrix, files_of_another_model_are_refused)
{
    static const char recipe[] =
        "imatrix im { model = base  file = \"in.gguf\"  path = \"out.gguf\" }\ndefault im\n";
    put_imatrix("blk.0.attn_q.weight", 8);
    cr_expect_eq(build("cache", 1, recipe), LQ_EIMATRIX, "%s", err.message);
    cr_expect(strstr(err.message, "another model") != NULL, "%s", err.message);
    put_imatrix("blk.77.attn_q.weight", 8);
    cr_expect_eq(build("cache", 1, recipe), LQ_EIMATRIX, "%s", err.message);
}

static void keep_warning(void *user, const struct lq_event *event)
{
    if (event->kind == LQ_EVENT_WARNING) {
        (void)snprintf(user, LQ_ERROR_BYTES, "%s", event->text);
    }
}

Test(rule_imatrix, a_file_that_leaves_layers_out_is_taken_with_a_warning)
{
    static const char recipe[] =
        "imatrix im { model = base  file = \"in.gguf\"  path = \"out.gguf\" }\ndefault im\n";
    static char warning[LQ_ERROR_BYTES];
    put_imatrix("blk.0.attn_q.weight", 256);
    on_event = keep_warning;
    event_user = warning;
    cr_expect_eq(build("cache", 1, recipe), LQ_OK, "%s", err.message);
    cr_expect(strstr(warning, "41 of 42 matrices") != NULL, "%s", warning);
    cr_expect(strstr(warning, "'blk.0.attn_k.weight' first") != NULL, "%s", warning);
}

Test(rule_imatrix, contradictions_are_refused_before_anything_runs)
{
    cr_expect_eq(build("cache", 1, "imatrix im { model = base }\ndefault im\n"), LQ_ERECIPE);
    cr_expect(strstr(err.message, "calibration") != NULL, "%s", err.message);
    cr_expect_eq(build("cache", 1,
                       "imatrix im { model = base  calibration = calib  file = \"x.gguf\" }\n"
                       "default im\n"),
                 LQ_ERECIPE);
}

/* ---- perplexity ---- */

Test(rule_imatrix, perplexity_is_llama_perplexitys)
{
    struct lq_perplexity model;
    cr_assert_eq(build("cache", 2,
                       "gguf full { model = base  level = \"F32\" }\n"
                       "score a { original = base  candidate = base  tokens = calib "
                       "path = \"a.json\" }\n"
                       "score b { original = base  candidate = full  tokens = calib "
                       "path = \"b.json\" }\n"
                       "default a, b\n"),
                 LQ_OK, "%s", err.message);
    struct lq_map a = read_output("a.json");
    struct lq_map b = read_output("b.json");
    cr_assert_eq(lq_perplexity_parse(a.data, a.size_bytes, &model, &err), LQ_OK);
    cr_expect_float_eq(model.ppl, PPL_EXACT, PPL_EXACT_RELATIVE * PPL_EXACT, "%.10g", model.ppl);
    cr_expect_float_eq(model.ppl, PPL_LLAMA, PPL_LLAMA_RELATIVE * PPL_LLAMA, "%.10g", model.ppl);
    cr_expect_float_eq(model.plus_minus, PLUS_MINUS_EXACT, 1e-4 * PLUS_MINUS_EXACT);
    cr_expect_eq(model.chunks, 8);
    cr_expect_eq(model.context, 256);
    cr_expect_eq(model.tokens, 8 * 127);
    /* The F32 file holds the same numbers, so not a bit may differ, and nothing diverges. */
    struct lq_evaluation evaluation;
    cr_assert_eq(lq_evaluation_parse(a.data, a.size_bytes, &arena, &evaluation, &err), LQ_OK);
    cr_expect_float_eq(evaluation.divergence.kld_mean, 0.0, 1e-7);
    cr_expect_eq(evaluation.divergence.same_top_pct, 100.0);
    cr_expect_eq(evaluation.divergence.log_ratio, 0.0, "%g", evaluation.divergence.log_ratio);
    cr_assert_eq(evaluation.layer_count, 6);
    cr_expect_eq(evaluation.hidden_errors[5], 0.0);
    cr_assert_eq(a.size_bytes, b.size_bytes);
    cr_expect_eq(memcmp(a.data, b.data, a.size_bytes), 0);
    lq_map_close(&a);
    lq_map_close(&b);
}

/* Rounding to 8 bits is off by 2^-9 / sqrt(3) = 1.1e-3 of a value in the mean square. Over the 5
 * borders between 6 layers that is 2.5e-3 of a token's hidden state; a mean square over 4096 tokens
 * moves by twice that / sqrt(4096) = 8e-5 where tokens count alike, and by more in columns of which
 * a few tokens make up most: ten times as much in the root mean square over columns. No column
 * may move by more than the project allows against other tools. */
#define BF16_SUM_RELATIVE 8e-4
#define BF16_SUM_RELATIVE_MAX 0.01
/* The same for the mean of 1016 scores, each of which moves by about 2.5e-3 of the spread of logits
 * (near 3): 2.5e-3 * 3 / sqrt(1016). */
#define BF16_PPL_RELATIVE 2.4e-4

/* Memory is guessed from the length of the chunks, or where it is not known from the usual one. */
Test(rule_imatrix, a_pass_needs_memory_for_its_own_chunks)
{
    cr_assert_eq(build("cache", 2,
                       "score a { original = base  candidate = base  tokens = calib }\n"
                       "score b { original = base  candidate = base  tokens = calib  "
                       "guess = 3000 }\n"
                       "default a, b\n"),
                 LQ_OK, "%s", err.message);
    uint64_t usual = passes[0].layer_memory_bytes;
    const struct lq_hparams *hparams = &passes[0].view.hparams;
    cr_expect_eq(passes[0].sequence, hparams->context_length < 512 ? hparams->context_length : 512);
    cr_expect_eq(passes[1].sequence, 3000);
    cr_expect_eq(usual, lq_forward_layer_memory(hparams, passes[0].sequence));
    cr_expect_eq(passes[1].layer_memory_bytes, lq_forward_layer_memory(hparams, 3000));
    cr_expect_gt(passes[1].layer_memory_bytes, usual);
}

Test(rule_imatrix, hidden_states_of_bf16_change_little)
{
    enum lq_imatrix_format format;
    cr_assert_eq(build("cache", 2,
                       "imatrix a { model = base  calibration = short  path = \"a.gguf\" }\n"
                       "imatrix b { model = base  calibration = short  hidden = \"bf16\"  "
                       "path = \"b.gguf\" }\n"
                       "score c { original = base  candidate = base  tokens = calib "
                       "path = \"c.json\" }\n"
                       "score d { original = base  candidate = base  tokens = calib  bf16 = true  "
                       "path = \"d.json\" }\n"
                       "default a, b, c, d\n"),
                 LQ_OK, "%s", err.message);
    char path[128];
    snprintf(path, sizeof path, "%s/a.gguf", folder);
    struct lq_imatrix a = read_imatrix(path, &format);
    snprintf(path, sizeof path, "%s/b.gguf", folder);
    struct lq_imatrix b = read_imatrix(path, &format);
    double worst = 0.0;
    double squares = 0.0;
    size_t count = 0;
    cr_assert_eq(a.entry_count, b.entry_count);
    for (size_t i = 0; i < a.entry_count; i++) {
        for (size_t j = 0; j < a.entries[i].col_count; j++) {
            double x = (double)a.entries[i].sums[j];
            double y = (double)b.entries[i].sums[j];
            worst = fmax(worst, fabs(x - y) / x);
            squares += (x - y) / x * ((x - y) / x);
            count++;
        }
    }
    cr_expect_gt(worst, 0.0);
    cr_expect_lt(worst, BF16_SUM_RELATIVE_MAX, "%g", worst);
    double middle = sqrt(squares / (double)count);
    cr_expect_lt(middle, BF16_SUM_RELATIVE, "%g", middle);
    struct lq_perplexity c;
    struct lq_perplexity d;
    struct lq_map map = read_output("c.json");
    cr_assert_eq(lq_perplexity_parse(map.data, map.size_bytes, &c, &err), LQ_OK);
    lq_map_close(&map);
    map = read_output("d.json");
    cr_assert_eq(lq_perplexity_parse(map.data, map.size_bytes, &d, &err), LQ_OK);
    lq_map_close(&map);
    cr_expect_neq(c.ppl, d.ppl);
    cr_expect_float_eq(c.ppl, d.ppl, BF16_PPL_RELATIVE * c.ppl, "%.8g %.8g", c.ppl, d.ppl);
    fprintf(stderr, "sums %.2g, at most %.2g, perplexity %.2g\n", middle, worst,
            fabs(c.ppl - d.ppl) / c.ppl);
}

Test(rule_imatrix, perplexity_wants_two_chunks)
{
    cr_expect_eq(build("cache", 1,
                       "score a { original = base  candidate = base  tokens = calib  chunks = 1 }\n"
                       "default a\n"),
                 LQ_ECALIBRATION, "%s", err.message);
}
