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
#include "rules/format/safetensors.h"
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
static char warning[LQ_ERROR_BYTES];
static char summary[1024];

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
    if (event->kind == LQ_EVENT_WARNING) {
        snprintf(warning, sizeof warning, "%s", event->text);
    }
    if (event->kind == LQ_EVENT_SUMMARY_TEXT) {
        snprintf(summary, sizeof summary, "%s", event->text);
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

/* ---- masks ---- */

/* Copies the shipped model to `folder`/planted and gives its layer 2 a super weight: activation 101
 * is made 8 times larger, and ffn_down carries it to channel 33 with a weight of 64. */
static void plant_super_weight(void)
{
    char command[512];
    char path[128];
    struct lq_buffer file;
    struct lq_safetensors tensors;
    snprintf(command, sizeof command,
             "mkdir '%s/planted' && cp '" LQ_SOURCE_DIR "/examples/tiny-llama/'*.json '%s/planted'",
             folder, folder);
    cr_assert_eq(system(command), 0);
    lq_buffer_init(&file);
    cr_assert_eq(
        lq_file_read(LQ_SOURCE_DIR "/examples/tiny-llama/model.safetensors", 64 << 20, &file, &err),
        LQ_OK, "%s", err.message);
    cr_assert_eq(lq_safetensors_parse(file.data, file.size_bytes, file.size_bytes, "model",
                                      LQ_EMODEL, &arena, &tensors, NULL, &err),
                 LQ_OK);
    const struct lq_safetensor *up =
        lq_safetensors_find(&tensors, "model.layers.2.mlp.up_proj.weight");
    const struct lq_safetensor *down =
        lq_safetensors_find(&tensors, "model.layers.2.mlp.down_proj.weight");
    cr_assert(up != NULL && down != NULL);
    for (size_t j = 0; j < 256; j++) {
        /* bf16: the exponent is bits 7 to 14. */
        uint16_t bits;
        char *at = (char *)file.data + up->offset + (101 * 256 + j) * 2;
        memcpy(&bits, at, 2);
        bits = (uint16_t)((bits & 0x7fff) == 0 ? bits : bits + (3 << 7));
        memcpy(at, &bits, 2);
    }
    const uint16_t planted = 0x4280; /* 64 */
    memcpy((char *)file.data + down->offset + (33 * 768 + 101) * 2, &planted, 2);
    snprintf(path, sizeof path, "%s/planted/model.safetensors", folder);
    cr_assert_eq(lq_file_write(path, file.data, file.size_bytes, &err), LQ_OK);
    lq_buffer_fini(&file);
}

static struct lq_mask read_mask(const char *name)
{
    struct lq_mask mask;
    struct lq_map map = read_output(name);
    cr_assert_eq(lq_mask_parse(map.data, map.size_bytes, name, &arena, &mask, &err), LQ_OK, "%s",
                 err.message);
    lq_map_close(&map);
    return mask;
}

#define PLANTED                                                                                    \
    "model odd { source = \"planted\" }\n"                                                         \
    "calibration few { model = odd  text = eval  samples = 128  sequence = 64 }\n"

Test(rule_gradient, spikes_give_a_planted_super_weight_away)
{
    plant_super_weight();
    cr_assert_eq(build("cache", 2,
                       PLANTED "mask sw { model = odd  find = \"spikes\"  calibration = few  "
                               "path = \"sw.mask\" }\n"
                               "gguf small { model = odd  level = \"Q2_K\"  protect = sw  "
                               "path = \"small.gguf\" }\n"
                               "gguf plain { model = odd  level = \"Q2_K\"  protect = sw  "
                               "promote_spikes = false  path = \"plain.gguf\" }\n"
                               "default small, plain, sw\n"),
                 LQ_OK, "%s", err.message);
    struct lq_mask mask = read_mask("sw.mask");
    cr_assert_eq(mask.tensor_count, 1);
    cr_expect_str_eq(mask.tensors[0].name, "blk.2.ffn_down.weight");
    cr_assert_eq(mask.tensors[0].spike_count, 1);
    cr_expect_eq(mask.tensors[0].spikes[0], 33 * 768 + 101);
    cr_expect_eq(mask.tensors[0].positions[0], 33 * 768 + 101);
    cr_expect(mask.tensors[0].scores[0] > 50.0f);
    /* F16 instead of Q3_K, 16 bits instead of 110 / 32 for each of 256 x 768 weights. */
    struct lq_map small = read_output("small.gguf");
    struct lq_map plain = read_output("plain.gguf");
    cr_expect_eq(small.size_bytes - plain.size_bytes, 256 * 768 * 2 - 256 * 768 / 256 * 110);
    lq_map_close(&small);
    lq_map_close(&plain);
    cr_expect_not_null(strstr(summary, "small: 1 tensor kept in higher precision"), "%s", summary);
    cr_expect_not_null(
        strstr(summary, "blk.2.ffn_down.weight: F16 instead of Q3_K for 1 super weight"), "%s",
        summary);
}

Test(rule_gradient, without_spikes_the_mask_is_empty_and_says_so)
{
    cr_assert_eq(build("cache", 2,
                       "mask sw { model = base  find = \"spikes\"  calibration = calib  "
                       "path = \"sw.mask\" }\ndefault sw\n"),
                 LQ_OK, "%s", err.message);
    cr_expect_eq(read_mask("sw.mask").tensor_count, 0);
    cr_expect_not_null(strstr(warning, "no activation spike"), "%s", warning);
}

/* A mask of a matrix by gradients takes the weights whose own score is best. */
Test(rule_gradient, a_mask_takes_the_ranks_of_gradients)
{
    plant_super_weight();
    cr_assert_eq(build("cache", 2,
                       PLANTED "imatrix im { model = odd  calibration = few  method = \"gradient\" "
                               "}\n"
                               "mask sw { model = odd  find = \"both\"  imatrix = im  "
                               "calibration = few  path = \"sw.mask\" }\n"
                               "mask top { model = odd  imatrix = im  path = \"top.mask\" }\n"
                               "default sw, top\n"),
                 LQ_OK, "%s", err.message);
    struct lq_mask top = read_mask("top.mask");
    struct lq_mask both = read_mask("sw.mask");
    /* A ten thousandth of 6 * 786432 weights. */
    cr_expect_eq(top.total_protected, 471);
    const struct lq_mask_tensor *tensor = lq_mask_find(&both, "blk.2.ffn_down.weight");
    cr_assert_not_null(tensor);
    cr_assert_eq(tensor->spike_count, 1);
    cr_expect(both.total_protected == 471 || both.total_protected == 472);
    /* The planted weight carries the stream, so its own score is among the best, too. */
    tensor = lq_mask_find(&top, "blk.2.ffn_down.weight");
    cr_assert_not_null(tensor);
    bool found = false;
    for (size_t i = 0; i < tensor->position_count; i++) {
        found = found || tensor->positions[i] == 33 * 768 + 101;
    }
    cr_expect(found);
}

Test(rule_gradient, masks_need_what_they_are_found_by)
{
    cr_expect_eq(build("cache", 1, "mask m { model = base }"), LQ_ERECIPE);
    cr_expect_not_null(strstr(err.message, "needs 'imatrix'"), "%s", err.message);
    cr_expect_eq(build("cache", 1, "mask m { model = base  find = \"spikes\" }"), LQ_ERECIPE);
    cr_expect_not_null(strstr(err.message, "needs 'calibration'"), "%s", err.message);
    cr_expect_eq(build("cache", 1,
                       "mask m { model = base  find = \"spikes\"  calibration = calib  "
                       "threshold = 0 }"),
                 LQ_ERECIPE);
    cr_expect_not_null(strstr(err.message, "threshold"), "%s", err.message);
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
