/* The rule imatrix with the methods "gradient" and "fisher", built by the engine on the shipped
 * model with little text, and masks made from them. What the gradients are worth is checked in
 * test_backward.c; here it is what becomes of them. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/cache.h"
#include "engine/base/fs.h"
#include "engine/base/pool.h"
#include "engine/build.h"
#include "engine/lang/recipe.h"
#include "rules/format/imatrix.h"
#include "rules/format/mask.h"
#include "rules/registry.h"

static char folder[64];
static struct lq_build_result result;
static struct lq_error err;
static struct lq_arena arena;
/* What the events of a build said. */
static atomic_bool cancel;
static const char *cancel_op; /* cancel when this step starts */
static const char *cancel_label;
static unsigned ran_layers;
static unsigned ran_gradients;

static void set_up(void)
{
    strcpy(folder, "/tmp/lqbuild-test-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    lq_arena_init(&arena);
    lq_error_clear(&err);
    cancel_op = NULL;
}

static void tear_down(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    cr_assert_eq(system(command), 0);
    lq_arena_fini(&arena);
}

TestSuite(rule_gradient, .init = set_up, .fini = tear_down, .timeout = 900);

static void on_event(void *user, const struct lq_event *event)
{
    if (event->kind == LQ_EVENT_STEP_STARTED && cancel_op != NULL &&
        strcmp(event->op, cancel_op) == 0 && strcmp(event->label, cancel_label) == 0) {
        atomic_store(&cancel, true);
    }
    if (event->kind == LQ_EVENT_STEP_FINISHED && event->outcome == LQ_OUTCOME_RAN) {
        ran_layers += strcmp(event->op, "imatrix.layer") == 0;
        ran_gradients += strcmp(event->op, "imatrix.gradient") == 0;
    }
}

static enum lq_status build(const char *cache_name, unsigned threads, const char *artifacts)
{
    static const char base[] =
        "model base { source = \"" LQ_SOURCE_DIR "/examples/tiny-llama\" }\n"
        "text eval { path = \"" LQ_SOURCE_DIR "/examples/text/eval.txt\" }\n"
        "calibration calib { model = base  text = eval  samples = 128  sequence = 6 }\n";
    char text[4096];
    char dir[128];
    struct lq_cache *cache = NULL;
    struct lq_recipe *recipe = NULL;
    struct lq_pool *pool = NULL;
    snprintf(text, sizeof text, "%s%s", base, artifacts);
    snprintf(dir, sizeof dir, "%s/%s", folder, cache_name);
    const struct lq_cache_options cache_options = {.dir = dir};
    lq_error_clear(&err);
    enum lq_status status = lq_recipe_parse(&recipe, text, strlen(text), "recipe.lq", folder,
                                            lq_rules_registry(), NULL, 0, &err);
    if (status != LQ_OK) {
        return status;
    }
    cr_assert_eq(lq_cache_open(&cache, &cache_options, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_pool_create(&pool, threads, &err), LQ_OK);
    ran_layers = 0;
    ran_gradients = 0;
    atomic_store(&cancel, false);
    struct lq_build_options options = {.on_event = on_event, .cancel = &cancel};
    status = lq_build_run(recipe, lq_rules_registry(), cache, pool, &options, &result, &err);
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

static bool same_outputs(const char *a, const char *b)
{
    struct lq_map x = read_output(a);
    struct lq_map y = read_output(b);
    bool same = x.size_bytes == y.size_bytes && memcmp(x.data, y.data, x.size_bytes) == 0;
    lq_map_close(&x);
    lq_map_close(&y);
    return same;
}

static struct lq_imatrix read_imatrix(const char *name)
{
    struct lq_imatrix imatrix;
    enum lq_imatrix_format format;
    struct lq_map map = read_output(name);
    cr_assert_eq(lq_imatrix_parse(map.data, map.size_bytes, name, &arena, &imatrix, &format, &err),
                 LQ_OK, "%s", err.message);
    lq_map_close(&map);
    return imatrix;
}

#define FISHER(name)                                                                               \
    "imatrix im { model = base  calibration = calib  method = \"fisher\"  path = \"" name          \
    "\" }\ndefault im\n"

Test(rule_gradient, methods_give_their_own_importance)
{
    cr_assert_eq(build("cache", 2,
                       "imatrix a { model = base  calibration = calib  path = \"a.gguf\" }\n"
                       "imatrix g { model = base  calibration = calib  method = \"gradient\"  "
                       "path = \"g.gguf\" }\n"
                       "imatrix f { model = base  calibration = calib  method = \"fisher\"  "
                       "path = \"f.imatrix\" }\n"),
                 LQ_OK, "%s", err.message);
    struct lq_imatrix activation = read_imatrix("a.gguf");
    struct lq_imatrix gradient = read_imatrix("g.gguf");
    struct lq_imatrix fisher = read_imatrix("f.imatrix");
    cr_expect_eq(gradient.method, LQ_IMPORTANCE_GRADIENT);
    cr_expect_eq(fisher.method, LQ_IMPORTANCE_FISHER);
    cr_assert_eq(gradient.entry_count, activation.entry_count);
    cr_assert_eq(fisher.entry_count, activation.entry_count);
    for (size_t i = 0; i < fisher.entry_count; i++) {
        const struct lq_imatrix_entry *entry = &fisher.entries[i];
        cr_expect_str_eq(entry->name, activation.entries[i].name);
        cr_expect_eq(entry->col_count, activation.entries[i].col_count);
        cr_expect_eq(entry->counts[0], 128.0f); /* samples, not tokens */
        for (size_t j = 0; j < entry->col_count; j++) {
            cr_expect(entry->sums[j] > 0.0f && isfinite(entry->sums[j]));
        }
    }
    /* q and k read the same activations, but their weights do not matter equally. */
    const struct lq_imatrix_entry *q = lq_imatrix_find(&fisher, "blk.2.attn_q.weight");
    const struct lq_imatrix_entry *k = lq_imatrix_find(&fisher, "blk.2.attn_k.weight");
    cr_expect_neq(memcmp(q->sums, k->sums, q->col_count * sizeof *q->sums), 0);
}

Test(rule_gradient, bytes_do_not_depend_on_threads)
{
    cr_assert_eq(build("cache1", 1, FISHER("one.gguf")), LQ_OK, "%s", err.message);
    cr_assert_eq(build("cache2", 3, FISHER("three.gguf")), LQ_OK, "%s", err.message);
    cr_expect(same_outputs("one.gguf", "three.gguf"));
}

Test(rule_gradient, goes_on_where_it_was_stopped)
{
    cr_assert_eq(build("whole", 2, FISHER("whole.gguf")), LQ_OK, "%s", err.message);
    cr_expect_eq(ran_layers, 6);
    cr_expect_eq(ran_gradients, 6);
    cancel_op = "imatrix.gradient";
    cancel_label = "blk.3";
    cr_assert_eq(build("cut", 2, FISHER("cut.gguf")), LQ_ECANCELLED, "%s", err.message);
    cr_expect_eq(ran_layers, 6);
    cr_expect_eq(ran_gradients, 2);
    cancel_op = NULL;
    cr_assert_eq(build("cut", 2, FISHER("cut.gguf")), LQ_OK, "%s", err.message);
    cr_expect_eq(ran_layers, 0, "%u", ran_layers);
    cr_expect_eq(ran_gradients, 4, "%u", ran_gradients);
    cr_expect(same_outputs("whole.gguf", "cut.gguf"));
    /* And in the middle of the way forward. */
    cancel_op = "imatrix.layer";
    cancel_label = "blk.4";
    cr_assert_eq(build("early", 2, FISHER("cut.gguf")), LQ_ECANCELLED, "%s", err.message);
    cr_expect_eq(ran_layers, 4);
    cancel_op = NULL;
    cr_assert_eq(build("early", 2, FISHER("cut.gguf")), LQ_OK, "%s", err.message);
    cr_expect_eq(ran_layers, 2, "%u", ran_layers);
    cr_expect(same_outputs("whole.gguf", "cut.gguf"));
}

Test(rule_gradient, the_first_token_can_be_left_out)
{
    cr_assert_eq(build("cache", 2,
                       "imatrix a { model = base  calibration = calib  path = \"a.gguf\" }\n"
                       "imatrix b { model = base  calibration = calib  skip_first = true  "
                       "path = \"b.gguf\" }\n"
                       "imatrix f { model = base  calibration = calib  method = \"fisher\"  "
                       "skip_first = true  path = \"f.gguf\" }\n"),
                 LQ_OK, "%s", err.message);
    struct lq_imatrix all = read_imatrix("a.gguf");
    struct lq_imatrix rest = read_imatrix("b.gguf");
    struct lq_imatrix fisher = read_imatrix("f.gguf");
    /* Every sample starts with the same token, so its part of the first input can be told. */
    const struct lq_imatrix_entry *with = lq_imatrix_find(&all, "blk.3.ffn_down.weight");
    const struct lq_imatrix_entry *without = lq_imatrix_find(&rest, "blk.3.ffn_down.weight");
    cr_expect_eq(with->counts[0], 128.0f * 6.0f);
    cr_expect_eq(without->counts[0], 128.0f * 5.0f);
    for (size_t j = 0; j < with->col_count; j++) {
        cr_expect(without->sums[j] < with->sums[j] * 1.000001f);
    }
    cr_expect_eq(lq_imatrix_find(&fisher, "blk.3.ffn_down.weight")->counts[0], 128.0f);
}

Test(rule_gradient, contradictions_are_refused)
{
    cr_expect_eq(
        build("cache", 1, "imatrix im { model = base  file = \"x\"  method = \"fisher\" }"),
        LQ_ERECIPE);
    cr_expect_not_null(strstr(err.message, "'method'"), "%s", err.message);
    cr_expect_eq(build("cache", 1, "imatrix im { model = base  file = \"x\"  skip_first = true }"),
                 LQ_ERECIPE);
    cr_expect_eq(
        build("cache", 1,
              "calibration one { model = base  text = eval  samples = 128  sequence = 1 }\n"
              "imatrix im { model = base  calibration = one  method = \"gradient\" }\n"),
        LQ_ECALIBRATION);
    cr_expect_not_null(strstr(err.message, "at least 2 tokens"), "%s", err.message);
}
