/* The rules gguf, mask, profile, report and command, built by the engine on the shipped model. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/cache.h"
#include "engine/base/fs.h"
#include "engine/base/pool.h"
#include "engine/build.h"
#include "engine/lang/recipe.h"
#include "kernels/kernels.h"
#include "rules/format/dqprofile.h"
#include "rules/format/gguf.h"
#include "rules/format/mask.h"
#include "rules/format/qreport.h"
#include "rules/quant/encode_tensor.h"
#include "rules/quant/levels.h"
#include "rules/registry.h"

#define TINY LQ_SOURCE_DIR "/examples/tiny-llama"
#define TEXTS LQ_SOURCE_DIR "/examples/text/"
#define IMATRIX LQ_SOURCE_DIR "/tests/golden/tiny-llama/imatrix-128x256.gguf"
#define MODEL "model base { source = \"" TINY "\" }\n"
#define EVAL "text eval { path = \"" TEXTS "eval.txt\" }\n"
/* A small matrix of our own: the golden one is only compared with. */
#define CALIBRATION                                                                                \
    "text wiki { path = \"" TEXTS "calibration.txt\" }\n"                                          \
    "calibration c { model = base text = wiki samples = 128 sequence = 64 }\n"                     \
    "imatrix im { model = base calibration = c }\n"

enum { TENSORS = 56, MATRICES = 43 }; /* of tiny-llama; the rest are norms */

static char folder[64];
static struct lq_cache *cache;
static struct lq_build_result result;
static struct lq_error err;
static struct lq_arena arena;
static unsigned ran_ops; /* steps that ran whose op is `watched` */
static const char *watched;
static char ran_label[128];
static char summary[8192];

static void setup(void)
{
    char dir[128];
    strcpy(folder, "/tmp/lqbuild-test-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    (void)snprintf(dir, sizeof dir, "%s/cache", folder);
    const struct lq_cache_options options = {.dir = dir};
    cr_assert_eq(lq_cache_open(&cache, &options, &err), LQ_OK, "%s", err.message);
    lq_arena_init(&arena);
}

static void teardown(void)
{
    char command[128];
    lq_cache_close(cache);
    lq_arena_fini(&arena);
    (void)snprintf(command, sizeof command, "rm -rf '%s'", folder);
    cr_assert_eq(system(command), 0);
}

static void put_file(const char *name, const char *text)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    char *name_at = strrchr(path, '/');
    *name_at = '\0';
    cr_assert_eq(lq_make_dirs(path, &err), LQ_OK, "%s", err.message);
    *name_at = '/';
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

static void on_event(void *user, const struct lq_event *event)
{
    (void)user;
    if (event->kind == LQ_EVENT_STEP_FINISHED && event->outcome == LQ_OUTCOME_RAN &&
        watched != NULL && strcmp(event->op, watched) == 0) {
        ran_ops++;
        (void)snprintf(ran_label, sizeof ran_label, "%s", event->label);
    }
    if (event->kind == LQ_EVENT_SUMMARY_TEXT) {
        (void)snprintf(summary, sizeof summary, "%s", event->text);
    }
}

static enum lq_status build_on(const char *text, unsigned threads)
{
    struct lq_recipe *recipe = NULL;
    struct lq_pool *pool = NULL;
    lq_error_clear(&err);
    ran_ops = 0;
    enum lq_status status = lq_recipe_parse(&recipe, text, strlen(text), "r.lq", folder,
                                            lq_rules_registry(), NULL, 0, &err);
    if (status != LQ_OK) {
        return status;
    }
    cr_assert_eq(lq_pool_create(&pool, threads, &err), LQ_OK);
    const struct lq_build_options options = {.on_event = on_event};
    lq_error_clear(&err);
    status = lq_build_run(recipe, lq_rules_registry(), cache, pool, &options, &result, &err);
    lq_pool_destroy(pool);
    lq_recipe_destroy(recipe);
    return status;
}

static void expect_built(const char *text)
{
    cr_assert_eq(build_on(text, 2), LQ_OK, "%s", err.message);
}

static void expect_refused(const char *text, enum lq_status status, const char *part)
{
    cr_assert_eq(build_on(text, 2), status, "%s: got %d, %s", part, (int)err.status, err.message);
    cr_assert_not_null(strstr(err.message, part), "'%s' is not in: %s", part, err.message);
}

static struct lq_gguf parse_gguf(const struct lq_map *map)
{
    struct lq_gguf gguf;
    cr_assert_eq(lq_gguf_parse(map->data, map->size_bytes, map->size_bytes, "out.gguf", LQ_EFORMAT,
                               &arena, &gguf, NULL, &err),
                 LQ_OK, "%s", err.message);
    return gguf;
}

TestSuite(rules_e2e, .init = setup, .fini = teardown);

Test(rules_e2e, kinds_are_sorted_and_complete)
{
    const struct lq_registry *registry = lq_rules_registry();
    cr_expect_geq(registry->rule_count, 12);
    for (size_t i = 0; i < registry->rule_count; i++) {
        const struct lq_rule *rule = registry->rules[i];
        cr_expect_not_null(rule->help);
        cr_expect_not_null(rule->expand);
        if (i > 0) {
            cr_expect_lt(strcmp(registry->rules[i - 1]->kind, rule->kind), 0);
        }
        for (size_t a = 0; a < rule->attr_count; a++) {
            cr_expect_not_null(rule->attrs[a].help, "%s.%s", rule->kind, rule->attrs[a].name);
        }
    }
}

/* The data of the golden files: their size less a header that depends on the converter's keys. */
static uint64_t golden_data_bytes(const char *level)
{
    struct lq_buffer text;
    uint64_t bytes = 0;
    uint64_t f32 = 0;
    lq_buffer_init(&text);
    cr_assert_eq(
        lq_file_read(LQ_SOURCE_DIR "/tests/golden/tiny-llama/perplexity.tsv", 1 << 20, &text, &err),
        LQ_OK);
    for (const char *at = lq_buffer_text(&text); *at != 0; at = strchr(at, '\n') + 1) {
        char name[32], imatrix[8];
        unsigned long long size = 0;
        if (sscanf(at, "%31s %*s %*s %7s %llu", name, imatrix, &size) == 3 &&
            strcmp(imatrix, "no") == 0) {
            f32 = strcmp(name, "F32") == 0 ? size : f32;
            bytes = strcmp(name, level) == 0 ? size : bytes;
        }
    }
    lq_buffer_fini(&text);
    cr_assert_gt(bytes, 0);
    const uint64_t f32_data = 5770496 * 4;
    const uint64_t version_key = strcmp(level, "F32") == 0 ? 0 : 32;
    return bytes - (f32 - f32_data) - version_key;
}

Test(rules_e2e, levels_give_files_of_the_golden_sizes_and_nothing_runs_twice)
{
    const char *recipe =
        MODEL "for q in [\"F32\", \"Q8_0\", \"Q4_K_M\", \"Q6_K\", \"Q2_K\", \"Q4_0\"] {\n"
              "  gguf \"g-{q}\" { model = base level = q path = \"{q}.gguf\" }\n"
              "}\n";
    expect_built(recipe);
    static const char *const levels[] = {"F32", "Q8_0", "Q4_K_M", "Q6_K", "Q2_K", "Q4_0"};
    for (size_t i = 0; i < 6; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "%s.gguf", levels[i]);
        struct lq_map map = get_file(name);
        struct lq_gguf gguf = parse_gguf(&map);
        cr_expect_eq(gguf.tensor_count, TENSORS);
        cr_expect_eq(map.size_bytes - gguf.data_offset, golden_data_bytes(levels[i]), "%s", name);
        cr_expect_eq(lq_gguf_get_uint(&gguf, "general.file_type", 999),
                     lq_level_file_type(lq_level_find(levels[i])));
        cr_expect_eq(lq_gguf_get_uint(&gguf, "general.quantization_version", 0), 2);
        cr_expect_not_null(lq_gguf_find(&gguf, "tokenizer.ggml.tokens"));
        cr_expect_str_eq(lq_gguf_get_string(&gguf, "general.architecture"), "llama");
        cr_expect_eq(lq_gguf_find_tensor(&gguf, "blk.0.attn_norm.weight")->dtype, LQ_DTYPE_F32);
        lq_map_close(&map);
    }
    expect_built(recipe);
    cr_expect_eq(result.ran, 0);
}

/* The scale of one block of the last row is not a number. */
static void encode_a_bad_scale(const float *row, void *blocks, size_t col_count,
                               const float *importance)
{
    lq_kernels_at(LQ_CPU_REF)->encode[LQ_DTYPE_Q5_K](row, blocks, col_count, importance);
    ((unsigned char *)blocks)[1] |= 0x7C;
}

Test(rules_e2e, what_a_broken_encoder_writes_is_never_published)
{
    const char *recipe = MODEL "gguf g { model = base level = \"Q4_K_S\" path = \"g.gguf\"\n"
                               "  tensors = { \"blk.3.ffn_down.weight\" = \"Q5_K\" } }\n";
    struct lq_kernels broken = *lq_kernels();
    broken.encode[LQ_DTYPE_Q5_K] = encode_a_bad_scale;
    lq_kernels_replace(&broken);
    char path[256];
    char beside[256];
    (void)snprintf(path, sizeof path, "%s/g.gguf", folder);
    (void)snprintf(beside, sizeof beside, "%s/g.gguf.intoto.json", folder);
    for (int again = 0; again < 2; again++) {
        expect_refused(recipe, LQ_EINTERNAL, "as Q5_K gave no finite scale for the block in row 0");
        cr_expect_eq(lq_status_exit_code(err.status), 70);
        cr_expect_neq(access(path, F_OK), 0, "a damaged file was published");
        cr_expect_neq(access(beside, F_OK), 0, "its statement was published");
    }
    /* Nor is it in the cache: with the right encoder the file is what it is without this past. */
    lq_kernels_replace(NULL);
    expect_built(recipe);
    struct lq_map map = get_file("g.gguf");
    struct lq_gguf gguf = parse_gguf(&map);
    const struct lq_gguf_tensor *tensor = lq_gguf_find_tensor(&gguf, "blk.3.ffn_down.weight");
    cr_assert_eq(tensor->dtype, LQ_DTYPE_Q5_K);
    size_t block_count = (size_t)(tensor->size_bytes / lq_dtype_info(LQ_DTYPE_Q5_K)->block_bytes);
    cr_expect_eq(lq_encode_find_bad_block(LQ_DTYPE_Q5_K, map.data + tensor->offset, block_count),
                 block_count);
    lq_map_close(&map);
}

Test(rules_e2e, files_are_the_same_for_any_number_of_threads)
{
    const char *recipe = MODEL "gguf g { model = base level = \"Q4_K_M\" path = \"g.gguf\" }\n";
    struct lq_digest digests[2];
    for (unsigned i = 0; i < 2; i++) {
        cr_assert_eq(build_on(recipe, i == 0 ? 1 : 3), LQ_OK, "%s", err.message);
        cr_assert_gt(result.ran, 0);
        struct lq_map map = get_file("g.gguf");
        lq_digest_of(map.data, map.size_bytes, &digests[i]);
        lq_map_close(&map);
        cr_assert_eq(lq_cache_clear(cache, &err), LQ_OK);
    }
    cr_expect(lq_digest_equal(&digests[0], &digests[1]));
}

#define PROFILE_OF(bits)                                                                           \
    "{\"profile_id\":\"00000000-0000-4000-8000-000000000000\",\"profile_name\":\"mine\","          \
    "\"strategy\":\"custom\",\"layer_assignments\":["                                              \
    "{\"layer_name\":\"model.layers.3.mlp.down_proj\",\"bit_width\":" bits "},"                    \
    "{\"layer_name\":\"blk.*.attn_*\",\"bit_width\":4}]}"

Test(rules_e2e, one_changed_layer_is_one_step_and_an_assembly)
{
    const char *recipe =
        MODEL "profile p { model = base file = \"p.dqprofile\" }\n"
              "gguf g { model = base profile = p level = \"Q4_K_S\" path = \"g.gguf\" }\n";
    put_file("p.dqprofile", PROFILE_OF("6"));
    expect_built(recipe);
    struct lq_map map = get_file("g.gguf");
    struct lq_gguf gguf = parse_gguf(&map);
    cr_expect_eq(lq_gguf_find_tensor(&gguf, "blk.3.ffn_down.weight")->dtype, LQ_DTYPE_Q6_K);
    cr_expect_eq(lq_gguf_find_tensor(&gguf, "blk.2.attn_v.weight")->dtype, LQ_DTYPE_Q4_K);
    lq_map_close(&map);
    put_file("p.dqprofile", PROFILE_OF("3"));
    watched = "gguf.tensor";
    expect_built(recipe);
    cr_expect_eq(ran_ops, 1);
    cr_expect_str_eq(ran_label, "blk.3.ffn_down.weight");
    cr_expect_eq(result.ran, 3); /* the tensor, the assembly, the statement */
    put_file("p.dqprofile",
             "{\"profile_id\":\"x\",\"profile_name\":\"mine\",\"strategy\":\"custom\","
             "\"layer_assignments\":[{\"layer_name\":\"model.layers.3.mlp.dwon_proj\","
             "\"bit_width\":4}]}");
    expect_refused(recipe, LQ_EPROFILE, "did you mean 'model.layers.3.mlp.down_proj'");
}

Test(rules_e2e, masks_protect_and_promote)
{
    const char *recipe = MODEL CALIBRATION
        "mask m { model = base imatrix = im coverage = 0.001 path = \"m.mask\" }\n"
        "gguf plain { model = base imatrix = im level = \"Q3_K_S\" path = \"plain.gguf\" }\n"
        "gguf kept { model = base imatrix = im level = \"Q3_K_S\" protect = m path = \"kept.gguf\" "
        "}\n"
        "gguf raised { model = base imatrix = im level = \"Q3_K_S\" protect = m\n"
        "  promote = [\"blk.0.ffn_down.weight\"] path = \"raised.gguf\" }\n";
    expect_built(recipe);
    struct lq_map map = get_file("m.mask");
    struct lq_mask mask;
    cr_assert_eq(lq_mask_parse(map.data, map.size_bytes, "m.mask", &arena, &mask, &err), LQ_OK,
                 "%s", err.message);
    cr_expect_eq(mask.total_protected, 4718); /* of 4718592 weights in layers */
    cr_expect_eq(mask.protection_precision, 16);
    lq_map_close(&map);
    map = get_file("kept.gguf");
    struct lq_map plain = get_file("plain.gguf");
    struct lq_gguf gguf = parse_gguf(&map);
    cr_expect_eq(lq_gguf_get_uint(&gguf, "lqbuild.protected_weights", 0), 4718);
    const struct lq_gguf_value *names = lq_gguf_find(&gguf, "lqbuild.protected_tensors");
    cr_assert_not_null(names);
    cr_expect_eq(names->count, mask.tensor_count);
    for (size_t i = 0; i < names->count; i++) {
        cr_expect_not_null(lq_mask_find(&mask, names->strings[i].data));
    }
    cr_expect_eq(lq_gguf_get_uint(&gguf, "quantize.imatrix.chunks_count", 0), 128);
    cr_expect_eq(lq_gguf_get_uint(&gguf, "quantize.imatrix.entries_count", 0), 42);
    struct lq_gguf other = parse_gguf(&plain);
    size_t differing = 0;
    for (size_t i = 0; i < gguf.tensor_count; i++) {
        const struct lq_gguf_tensor *a = &gguf.tensors[i];
        const struct lq_gguf_tensor *b = &other.tensors[i];
        cr_assert_eq(a->size_bytes, b->size_bytes);
        bool differs = memcmp(map.data + a->offset, plain.data + b->offset, a->size_bytes) != 0;
        cr_expect_eq(differs, lq_mask_find(&mask, a->name) != NULL, "%s", a->name);
        differing += differs;
    }
    cr_expect_eq(differing, mask.tensor_count);
    lq_map_close(&map);
    lq_map_close(&plain);
    map = get_file("raised.gguf");
    gguf = parse_gguf(&map);
    cr_expect_eq(lq_gguf_find_tensor(&gguf, "blk.0.ffn_down.weight")->dtype, LQ_DTYPE_F16);
    lq_map_close(&map);
}

Test(rules_e2e, profiles_meet_their_targets)
{
    const char *recipe =
        MODEL "profile a { model = base strategy = \"balanced\" target_bpw = 3.5 path = "
              "\"a.dqprofile\" }\n"
              "profile b { model = base strategy = \"compression-max\" path = \"b.dqprofile\" }\n"
              "profile h { model = base strategy = \"attention-high\" path = \"h.dqprofile\" }\n"
              "gguf g { model = base profile = a path = \"g.gguf\" }\n";
    expect_built(recipe);
    struct lq_map map = get_file("g.gguf");
    struct lq_gguf gguf = parse_gguf(&map);
    uint64_t bits = 0;
    uint64_t weights = 0;
    for (size_t i = 0; i < gguf.tensor_count; i++) {
        const struct lq_gguf_tensor *tensor = &gguf.tensors[i];
        if (tensor->dim_count == 2) {
            bits += 8 * tensor->size_bytes;
            weights += tensor->ne[0] * tensor->ne[1];
        }
    }
    double bpw = (double)bits / (double)weights;
    /* The smallest step is one attn_k from Q2_K to Q3_K: 0.005 bits of the average. */
    cr_expect_leq(bpw, 3.5);
    cr_expect_geq(bpw, 3.5 - 0.02);
    lq_map_close(&map);
    map = get_file("b.dqprofile");
    struct lq_dqprofile profile;
    cr_assert_eq(lq_dqprofile_parse(map.data, map.size_bytes, "b", &arena, &profile, &err), LQ_OK,
                 "%s", err.message);
    cr_expect_eq(profile.layer_count, MATRICES);
    cr_expect_eq(profile.target_bpw, 3.0);
    lq_map_close(&map);
    map = get_file("h.dqprofile");
    cr_assert_eq(lq_dqprofile_parse(map.data, map.size_bytes, "h", &arena, &profile, &err), LQ_OK);
    cr_expect_eq(profile.layer_count, MATRICES);
    lq_map_close(&map);
    /* Another target measures nothing again. */
    watched = "profile.measure";
    expect_built(MODEL "profile a { model = base strategy = \"balanced\" target_bpw = 5 }\n");
    cr_expect_eq(ran_ops, 0);
    expect_refused(MODEL "profile a { model = base target_bpw = 1 }\n", LQ_EPROFILE,
                   "its tensors allow 2.625 to 8.5");
}

Test(rules_e2e, reports_measure_and_judge)
{
    const char *recipe = MODEL EVAL "gguf g { model = base level = \"Q8_0\" }\n"
                                    "gguf h { model = base level = \"Q2_K\" }\n"
                                    "report r { original = base quantized = [g, h] text = eval "
                                    "chunks = 4 path = \"r.qreport\" }\n";
    expect_built(recipe);
    struct lq_map map = get_file("r.qreport");
    struct lq_qreport report;
    cr_assert_eq(lq_qreport_parse(map.data, map.size_bytes, "r", &arena, &report, &err), LQ_OK,
                 "%s", err.message);
    lq_map_close(&map);
    cr_assert_eq(report.model_count, 2);
    cr_expect_eq(report.context, 256);
    cr_expect_eq(report.chunk_count, 4);
    cr_expect_eq(report.token_count, 4 * 127);
    cr_expect_eq(report.models[0].layer_count, MATRICES);
    cr_expect_str_eq(report.models[0].quantized_path, "g");
    cr_expect_lt(fabs(report.models[0].delta_pct), 0.5);
    cr_expect_gt(report.models[1].delta_pct, 1.0);
    cr_expect_lt(report.models[1].delta_pct, 12.0);
    cr_expect_gt(report.models[1].layers[3].mse, report.models[0].layers[3].mse);
    cr_expect_float_eq(report.models[0].effective_bpw, 8.5135, 0.001);
    cr_expect_not_null(strstr(summary, "bits/weight"), "%s", summary);
    /* A text of fewer chunks than asked for is measured whole. */
    struct lq_map words;
    struct lq_buffer text;
    cr_assert_eq(lq_map_open(&words, TEXTS "eval.txt", LQ_EIO, &err), LQ_OK);
    lq_buffer_init(&text);
    lq_buffer_append(&text, words.data, 4000);
    put_file("short.txt", lq_buffer_text(&text));
    lq_map_close(&words);
    lq_buffer_fini(&text);
    expect_built(MODEL "text short { path = \"short.txt\" }\n"
                       "gguf g { model = base level = \"Q8_0\" }\n"
                       "report r { original = base quantized = [g] text = short chunks = 500\n"
                       "  path = \"short.qreport\" }\n");
    map = get_file("short.qreport");
    cr_assert_eq(lq_qreport_parse(map.data, map.size_bytes, "r", &arena, &report, &err), LQ_OK);
    lq_map_close(&map);
    cr_expect_geq(report.chunk_count, 2);
    cr_expect_leq(report.chunk_count, 20);
    /* A limit reruns the judgement only, and the failure is cached. */
    const char *strict = MODEL EVAL
        "gguf g { model = base level = \"Q8_0\" }\n"
        "gguf h { model = base level = \"Q2_K\" }\n"
        "report r { original = base quantized = [g, h] text = eval chunks = 4 fail_above = 0.5%\n"
        "  path = \"r.html\" }\n";
    expect_refused(strict, LQ_EQUALITY, "exceeds threshold (0.5%)");
    cr_expect_eq(result.ran, 1);
    map = get_file("r.html");
    cr_expect_not_null(strstr((const char *)map.data, "<!DOCTYPE html>"));
    lq_map_close(&map);
    expect_refused(strict, LQ_EQUALITY, "of 'h'");
    cr_expect_eq(result.ran, 0);
}

Test(rules_e2e, commands_run_declared_and_cached)
{
    put_file("count.sh", "#!/bin/sh\nwc -c < \"$1\" | tr -d ' ' > \"$2\"\n"
                         "ls > listing; env | sort | cut -d= -f1 >> \"$2\"\n");
    const char *recipe =
        MODEL "gguf g { model = base level = \"Q8_0\" path = \"g.gguf\" }\n"
              "command c { run = \"./count.sh $in $out\" inputs = [g]\n"
              "  outputs = [\"sub/size.txt\"] }\n"
              "command d { run = \"cat $in1 > $out1; test -f in1-c\" inputs = [c]\n"
              "  outputs = [\"again.txt\"] }\n";
    expect_built(recipe);
    expect_built(recipe);
    cr_expect_eq(result.ran, 0);
    struct lq_map map = get_file("sub/size.txt");
    struct lq_map model = get_file("g.gguf");
    cr_expect_eq(strtoull((const char *)map.data, NULL, 10), model.size_bytes);
    /* PATH, LC_ALL and what the shell itself sets; nothing of the test's environment. */
    cr_expect_not_null(strstr((const char *)map.data, "LC_ALL\n"));
    cr_expect_null(strstr((const char *)map.data, "HOME\n"));
    lq_map_close(&map);
    lq_map_close(&model);
    put_file("count.sh", "#!/bin/sh\necho other > \"$2\"\n");
    watched = "command.run";
    expect_built(recipe);
    cr_expect_eq(ran_ops, 2);
    expect_refused("command c { run = \"echo first >&2; echo last words >&2; exit 3\" outputs = "
                   "[\"x\"] }\n",
                   LQ_ECOMMAND, "exited with 3: first\nlast words");
    expect_refused("command c { run = \"true\" outputs = [\"x\"] }\n", LQ_ECOMMAND,
                   "did not write its output 'x'");
    expect_refused("command c { run = \"echo $in2\" outputs = [\"x\"] }\n", LQ_ERECIPE, "$in2");
    expect_refused("command c { run = \"true\" outputs = [\"../x\"] }\n", LQ_ERECIPE, "'../x'");
    expect_refused("command c { run = \"./none.sh\" outputs = [\"x\"] }\n", LQ_EIO, "none.sh");
}

/* Whatever a command leaves in its folder goes: links are not followed, and neither many levels nor
 * a path that is longer than PATH_MAX stays. */
Test(rules_e2e, the_folder_of_a_command_is_removed)
{
    put_file("kept", "kept");
    put_file("tmp/other", "another one's");
    char temporary[128];
    (void)snprintf(temporary, sizeof temporary, "%s/tmp", folder);
    cr_assert_eq(setenv("TMPDIR", temporary, 1), 0);
    char recipe[1024];
    (void)snprintf(
        recipe, sizeof recipe,
        "command c { run = \"ln -s %s/kept file; ln -s %s away; i=0; word=%0200d; "
        "while [ $i -lt 30 ]; do mkdir $word; cd -P $word; i=$((i + 1)); done; echo deep > x\""
        " outputs = [\"a/b\"] }\n",
        folder, folder, 0);
    expect_refused(recipe, LQ_ECOMMAND, "did not write its output 'a/b'");
    struct lq_map map = get_file("kept");
    lq_map_close(&map);
    map = get_file("tmp/other");
    lq_map_close(&map);
    char command[256];
    (void)snprintf(command, sizeof command, "test \"$(ls -A %s)\" = other", temporary);
    cr_expect_eq(system(command), 0);
    (void)unsetenv("TMPDIR");
}

Test(rules_e2e, variables_are_part_of_a_commands_key)
{
    const char *recipe = "command c { run = \"printf %s \\\"$LQ_TEST_WORD\\\" > $out\" outputs = "
                         "[\"x\"] env = [\"LQ_TEST_WORD\"] }\n";
    watched = "command.run";
    cr_assert_eq(setenv("LQ_TEST_WORD", "one", 1), 0);
    expect_built(recipe);
    cr_expect_eq(ran_ops, 1);
    expect_built(recipe);
    cr_expect_eq(ran_ops, 0);
    cr_assert_eq(setenv("LQ_TEST_WORD", "two", 1), 0);
    expect_built(recipe);
    cr_expect_eq(ran_ops, 1);
}

Test(rules_e2e, nonsense_is_refused_with_a_sentence)
{
    expect_refused(MODEL "gguf g { model = base }\n", LQ_ERECIPE, "needs a level or a profile");
    expect_refused(MODEL "gguf g { model = base level = \"Q4_KM\" }\n", LQ_ERECIPE,
                   "did you mean 'Q4_K_M'");
    expect_refused(
        MODEL "gguf g { model = base level = \"Q4_0\" tensors = { \"blk.9.*\" = \"Q8_0\" } }\n",
        LQ_ERECIPE, "blk.9.*");
    expect_refused(MODEL
                   "gguf g { model = base level = \"Q4_0\" tensors = { \"blk.0.*\" = \"Q8\" } }\n",
                   LQ_ERECIPE, "unknown tensor type 'Q8'");
    expect_refused(MODEL "gguf g { model = base level = \"Q2_K_S\" }\n", LQ_EIMATRIX,
                   "importance matrix");
    expect_refused(MODEL "gguf g { model = base level = \"IQ2_M\" }\n", LQ_EIMATRIX, "calibration");
    expect_refused(MODEL "gguf g { model = base level = \"Q4_0\" promote = [\"masked\"] }\n",
                   LQ_ERECIPE, "protect");
    expect_refused(MODEL CALIBRATION "mask m { model = base imatrix = im coverage = 2% }\n",
                   LQ_ERECIPE, "coverage is 0.02");
    expect_refused(MODEL CALIBRATION "mask m { model = base imatrix = im precision = 4 }\n",
                   LQ_ERECIPE, "precision is 4");
    expect_refused(MODEL "profile p { model = base strategy = \"custom\" }\n", LQ_EPROFILE, "file");
    expect_refused(MODEL
                   "profile p { model = base strategy = \"attention-high\" target_bpw = 3 }\n",
                   LQ_EPROFILE, "fixed types");
    expect_refused(MODEL "profile p { model = base file = \"none.dqprofile\" }\n", LQ_EPROFILE,
                   "none.dqprofile");
}

Test(rules_e2e, quantizing_twice_has_to_be_allowed)
{
    expect_built(MODEL "gguf g { model = base level = \"Q8_0\" path = \"g.gguf\" }\n");
    expect_refused("model q { source = \"g.gguf\" }\n"
                   "gguf h { model = q level = \"Q4_0\" path = \"h.gguf\" }\n",
                   LQ_ERECIPE, "allow_requantize");
    expect_built("model q { source = \"g.gguf\" }\n"
                 "gguf h { model = q level = \"Q4_0\" allow_requantize = true path = \"h.gguf\" }\n"
                 "gguf same { model = q level = \"Q8_0\" path = \"same.gguf\" }\n");
    struct lq_map first = get_file("g.gguf");
    struct lq_map second = get_file("same.gguf");
    cr_assert_eq(first.size_bytes, second.size_bytes);
    /* All but the key that names the source: the model there, its first file here. */
    struct lq_gguf gguf = parse_gguf(&first);
    size_t start = (size_t)gguf.data_offset;
    cr_expect_eq(memcmp(first.data + start, second.data + start, first.size_bytes - start), 0);
    const char *key = "lqbuild.source.model.sha256";
    struct lq_gguf other = parse_gguf(&second);
    cr_expect_str_neq(lq_gguf_get_string(&gguf, key), lq_gguf_get_string(&other, key));
    lq_map_close(&first);
    lq_map_close(&second);
}
