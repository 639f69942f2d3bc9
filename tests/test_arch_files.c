/* Every architecture through the built program: a tiny random Hugging Face folder becomes a GGUF
 * file, which is read back and must be the same model; importance matrices of both agree; a mixture
 * with experts that no token goes to is said to be one, and is quantized. */
#include "e2e.h"

#include <criterion/parameterized.h>
#include <math.h>

#include "rules/format/gguf.h"
#include "rules/format/imatrix.h"
#include "tests/arch_configs.h"
#include "tests/make_arch.h"

enum { CONTEXT = 64, TEXT_BYTES = 3000, WORDS_BYTES = 16000, NAME_BYTES = 32 };

/* The same weights in both; only norm_eps passes through a 32-bit float on its way to a file. */
#define SAME_PERPLEXITY 1e-7
#define SAME_IMPORTANCE "1e-6"
#define SAMPLES "--calibration-data words.txt --calibration-samples 128 --sequence 32"

static void init(void)
{
    e2e_init();
    e2e_copy_text("eval.txt", "text.txt", TEXT_BYTES);
    e2e_copy_text("calibration.txt", "words.txt", WORDS_BYTES);
}

TestSuite(arch_files, .timeout = 600);

struct case_name {
    char name[NAME_BYTES];
};

static struct criterion_test_params all_cases(void)
{
    static struct case_name cases[ARCH_CONFIG_COUNT];
    for (size_t i = 0; i < ARCH_CONFIG_COUNT; i++) {
        (void)snprintf(cases[i].name, NAME_BYTES, "%s", arch_configs[i].name);
    }
    return cr_make_param_array(struct case_name, cases, ARCH_CONFIG_COUNT);
}

static void make_folder(const char *name, make_arch_edit_fn edit, void *user)
{
    struct lq_error err = {0};
    const struct arch_config *config = arch_config_find(name);
    cr_assert_not_null(config);
    cr_assert_eq(make_arch_write(config->text, "folder", edit, user, &err), LQ_OK, "%s",
                 err.message);
}

static void expect_run(const char *arguments)
{
    cr_assert_eq(e2e_run("%s", arguments), 0, "%s: %s", arguments, e2e_stderr());
}

/* The n-th number of that name in a JSON text. */
static double number_of(const char *text, const char *name, int which)
{
    char key[64];
    (void)snprintf(key, sizeof key, "\"%s\": ", name);
    for (int i = 0; i <= which; i++) {
        text = strstr(text, key);
        cr_assert_not_null(text, "no %s %d", name, which);
        text += strlen(key);
    }
    return strtod(text, NULL);
}

/* ---- files ---- */

struct expected_key {
    const char *name; /* of arch_configs.h */
    const char *key;
    double value;
};

/* What llama.cpp reads, besides the sizes that all have. */
static const struct expected_key expected_keys[] = {
    {"llama3", "llama.rope.freq_base", 500000.0},
    {"llama-linear", "llama.rope.scaling.factor", 4.0},
    {"llama-yarn", "llama.rope.scaling.factor", 4.0},
    {"llama-yarn", "llama.rope.scaling.original_context_length", 512.0},
    {"mistral", "llama.attention.key_length", 64.0},
    {"mixtral", "llama.expert_count", 6.0},
    {"mixtral", "llama.expert_used_count", 2.0},
    {"qwen3", "qwen3.attention.key_length", 128.0},
    {"qwen3", "qwen3.attention.value_length", 128.0},
    {"qwen3moe", "qwen3moe.expert_count", 8.0},
    {"qwen3moe", "qwen3moe.expert_used_count", 3.0},
    {"qwen3moe", "qwen3moe.expert_feed_forward_length", 256.0},
    {"phi3", "phi3.attention.sliding_window", 2047.0},
    {"phi3-longrope", "phi3.rope.scaling.original_context_length", 64.0},
    {"gemma2", "gemma2.attention.sliding_window", 8.0},
    {"gemma2", "gemma2.attn_logit_softcapping", 50.0},
    {"gemma2", "gemma2.final_logit_softcapping", 30.0},
    {"gemma3", "gemma3.attention.sliding_window", 8.0},
    {"gemma3", "gemma3.rope.freq_base", 1000000.0},
    {"gemma3", "gemma3.rope.scaling.factor", 8.0},
};

struct expected_tensor {
    const char *name; /* of arch_configs.h */
    const char *tensor;
    uint64_t ne[3];
};

static const struct expected_tensor expected_tensors[] = {
    {"llama3", "rope_freqs.weight", {32, 1, 1}},
    {"mixtral", "blk.1.ffn_gate_inp.weight", {256, 6, 1}},
    {"mixtral", "blk.1.ffn_down_exps.weight", {256, 256, 6}},
    {"qwen2", "blk.1.attn_q.bias", {256, 1, 1}},
    {"qwen3", "blk.1.attn_k_norm.weight", {128, 1, 1}},
    {"qwen3moe", "blk.1.ffn_up_exps.weight", {256, 256, 8}},
    {"phi3", "blk.1.attn_qkv.weight", {256, 512, 1}},
    {"phi3", "blk.1.ffn_up.weight", {256, 1024, 1}},
    {"phi3-longrope", "rope_factors_long.weight", {32, 1, 1}},
    {"phi3-longrope", "rope_factors_short.weight", {32, 1, 1}},
    {"gemma2", "blk.2.post_attention_norm.weight", {256, 1, 1}},
    {"gemma3", "blk.6.post_ffw_norm.weight", {256, 1, 1}},
};

static void check_keys(const char *name, const struct lq_gguf *gguf)
{
    static const char *const common[] = {"context_length",
                                         "embedding_length",
                                         "block_count",
                                         "feed_forward_length",
                                         "attention.head_count",
                                         "attention.head_count_kv",
                                         "attention.layer_norm_rms_epsilon",
                                         "rope.dimension_count",
                                         "rope.freq_base",
                                         "vocab_size"};
    char key[128];
    for (size_t i = 0; i < sizeof common / sizeof common[0]; i++) {
        (void)snprintf(key, sizeof key, "%s.%s", lq_gguf_get_string(gguf, "general.architecture"),
                       common[i]);
        cr_expect_not_null(lq_gguf_find(gguf, key), "%s lacks %s", name, key);
    }
    for (size_t i = 0; i < sizeof expected_keys / sizeof expected_keys[0]; i++) {
        const struct expected_key *expected = &expected_keys[i];
        if (strcmp(expected->name, name) == 0) {
            cr_expect_eq(lq_gguf_get_number(gguf, expected->key, -1.0), expected->value, "%s: %s",
                         name, expected->key);
        }
    }
    for (size_t i = 0; i < sizeof expected_tensors / sizeof expected_tensors[0]; i++) {
        const struct expected_tensor *expected = &expected_tensors[i];
        bool found = strcmp(expected->name, name) != 0;
        for (size_t t = 0; !found && t < gguf->tensor_count; t++) {
            found = strcmp(gguf->tensors[t].name, expected->tensor) == 0 &&
                    memcmp(gguf->tensors[t].ne, expected->ne, sizeof expected->ne) == 0;
        }
        cr_expect(found, "%s lacks %s, or it has another shape", name, expected->tensor);
    }
}

static void check_file(const char *name, const char *path)
{
    struct lq_error err = {0};
    struct lq_arena arena;
    struct lq_gguf gguf;
    struct lq_map map;
    lq_arena_init(&arena);
    cr_assert_eq(lq_map_open(&map, path, LQ_EIO, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_gguf_parse(map.data, map.size_bytes, map.size_bytes, path, LQ_EFORMAT, &arena,
                               &gguf, NULL, &err),
                 LQ_OK, "%s", err.message);
    check_keys(name, &gguf);
    lq_arena_fini(&arena);
    lq_map_close(&map);
}

ParameterizedTestParameters(arch_files, a_file_is_the_model_of_its_folder)
{
    return all_cases();
}

ParameterizedTest(struct case_name *param, arch_files, a_file_is_the_model_of_its_folder,
                  .init = init, .fini = e2e_fini)
{
    make_folder(param->name, NULL, NULL);
    e2e_write("make.lq", "model base { source = \"folder\" }\n"
                         "gguf f { model = base level = \"F32\" path = \"f.gguf\" }\n"
                         "gguf q { model = base level = \"Q8_0\" path = \"q.gguf\" }\n");
    expect_run("-f make.lq");
    bool warns = strcmp(param->name, "qwen3moe-share") == 0;
    cr_expect_eq(strstr(e2e_stderr(), "warning") != NULL, warns, "%s", e2e_stderr());
    check_file(param->name, "f.gguf");
    check_file(param->name, "q.gguf");
    e2e_write("read.lq",
              "model base { source = \"folder\" }\n"
              "model f { source = \"f.gguf\" }\n"
              "model q { source = \"q.gguf\" }\n"
              "text words { path = \"text.txt\" }\n"
              "report r { original = base quantized = [f, q] text = words context = %d "
              "path = \"r.json\" }\n",
              CONTEXT);
    expect_run("-f read.lq");
    struct lq_buffer report = {0};
    struct lq_error err = {0};
    cr_assert_eq(lq_file_read("r.json", 1 << 24, &report, &err), LQ_OK, "%s", err.message);
    const char *text = lq_buffer_text(&report);
    double base = number_of(text, "perplexity_original", 0);
    double same = number_of(text, "perplexity_quantized", 0);
    double close = number_of(text, "perplexity_quantized", 1);
    printf("%s: perplexity %.6f, of the F32 file %.1e off, of Q8_0 %.1e, its divergence %.1e\n",
           param->name, base, same / base - 1.0, close / base - 1.0,
           number_of(text, "kl_divergence_mean", 1));
    cr_expect(isfinite(base) && base > 1.0, "%s: %g", param->name, base);
    cr_expect_lt(fabs(same / base - 1.0), SAME_PERPLEXITY, "%s: %.9g and %.9g", param->name, base,
                 same);
    cr_expect_lt(number_of(text, "kl_divergence_mean", 0), 1e-9);
    /* Rounding to 8 bits is seen, and is small. */
    cr_expect_lt(fabs(close / base - 1.0), 0.02, "%s: %g and %g", param->name, base, close);
    cr_expect_gt(number_of(text, "kl_divergence_mean", 1), 1e-6);
    cr_expect_lt(number_of(text, "kl_divergence_mean", 1), 0.05);
    lq_buffer_fini(&report);
    expect_run("analyze folder -o a.gguf " SAMPLES);
    expect_run("analyze f.gguf -o b.gguf " SAMPLES);
    expect_run("imatrix compare a.gguf b.gguf --max-relative " SAME_IMPORTANCE);
}

/* ---- experts ---- */

/* Experts 0 and the last one get a router row of zeros, the others come in pairs of opposite rows:
 * one of each pair is above zero for any token, so as many experts as there are pairs never include
 * the two. */
static bool plant_router(void *user, const struct make_arch_tensor *tensor, float *values)
{
    const char *router = user;
    if (strstr(tensor->name, router) == NULL) {
        return true;
    }
    memset(values, 0, tensor->cols * sizeof *values);
    memset(values + (tensor->rows - 1) * tensor->cols, 0, tensor->cols * sizeof *values);
    for (uint64_t row = 2; row + 1 < tensor->rows; row += 2) {
        for (uint64_t i = 0; i < tensor->cols; i++) {
            values[row * tensor->cols + i] = -values[(row - 1) * tensor->cols + i];
        }
    }
    return true;
}

static void check_counts(const char *path, uint64_t experts, uint64_t used)
{
    struct lq_error err = {0};
    struct lq_arena arena;
    struct lq_map map;
    struct lq_imatrix imatrix;
    enum lq_imatrix_format format;
    lq_arena_init(&arena);
    cr_assert_eq(lq_map_open(&map, path, LQ_EIO, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_imatrix_parse(map.data, map.size_bytes, path, &arena, &imatrix, &format, &err),
                 LQ_OK, "%s", err.message);
    size_t seen = 0;
    for (size_t i = 0; i < imatrix.entry_count; i++) {
        const struct lq_imatrix_entry *entry = &imatrix.entries[i];
        float total = 0.0f;
        if (strstr(entry->name, "_exps") == NULL) {
            cr_expect_eq(entry->count_count, 1);
            cr_expect_eq(entry->counts[0], 128.0f * 32.0f);
            continue;
        }
        seen++;
        cr_assert_eq(entry->mat_count, experts);
        cr_assert_eq(entry->count_count, experts);
        for (size_t e = 0; e < experts; e++) {
            bool idle = e == 0 || e + 1 == experts;
            total += entry->counts[e];
            cr_expect_eq(entry->counts[e] == 0.0f, idle, "%s: expert %zu", entry->name, e);
            for (size_t c = 0; c < entry->col_count; c++) {
                cr_assert_eq(entry->sums[e * entry->col_count + c] == 0.0f, idle);
            }
        }
        cr_expect_eq(total, (float)used * 128.0f * 32.0f);
    }
    cr_expect_eq(seen, 6);
    lq_arena_fini(&arena);
    lq_map_close(&map);
}

static void check_idle(const char *name, const char *router, uint64_t experts, uint64_t used)
{
    char router_name[64];
    char said[160];
    (void)snprintf(router_name, sizeof router_name, "%s", router);
    make_folder(name, plant_router, router_name);
    expect_run("analyze folder -o a.gguf " SAMPLES);
    (void)snprintf(said, sizeof said,
                   "warning: no token of the calibration went to 4 of %llu experts (layer 0: 0, "
                   "%llu; layer 1: 0, %llu); all columns of these count the same",
                   (unsigned long long)(2 * experts), (unsigned long long)(experts - 1),
                   (unsigned long long)(experts - 1));
    cr_expect_not_null(strstr(e2e_stderr(), said), "'%s' is not in %s", said, e2e_stderr());
    check_counts("a.gguf", experts, used);
    expect_run("quantize folder gguf -q IQ2_XXS --imatrix a.gguf -o iq2.gguf");
    check_file(name, "iq2.gguf");
    /* The file can be read and run. */
    expect_run("analyze iq2.gguf -o b.gguf " SAMPLES);
    cr_expect_neq(e2e_run("quantize folder gguf -q IQ2_XXS -o none.gguf"), 0);
    cr_expect_neq(access("none.gguf", F_OK), 0);
}

Test(arch_files, idle_experts_of_mixtral_are_said_and_quantized, .init = init, .fini = e2e_fini)
{
    check_idle("mixtral", "block_sparse_moe.gate.", 6, 2);
}

Test(arch_files, idle_experts_of_qwen3moe_are_said_and_quantized, .init = init, .fini = e2e_fini)
{
    check_idle("qwen3moe", "mlp.gate.", 8, 3);
}

/* Everything behind the keys of two files is the same. */
static void expect_same_tensors(const char *left, const char *right)
{
    const char *const paths[2] = {left, right};
    struct lq_error err = {0};
    struct lq_arena arena;
    struct lq_gguf gguf[2];
    struct lq_map map[2];
    lq_arena_init(&arena);
    for (size_t i = 0; i < 2; i++) {
        cr_assert_eq(lq_map_open(&map[i], paths[i], LQ_EIO, &err), LQ_OK, "%s", err.message);
        cr_assert_eq(lq_gguf_parse(map[i].data, map[i].size_bytes, map[i].size_bytes, paths[i],
                                   LQ_EFORMAT, &arena, &gguf[i], NULL, &err),
                     LQ_OK, "%s", err.message);
    }
    cr_assert_eq(gguf[0].tensor_count, gguf[1].tensor_count);
    for (size_t t = 0; t < gguf[0].tensor_count; t++) {
        const struct lq_gguf_tensor *a = &gguf[0].tensors[t];
        const struct lq_gguf_tensor *b = &gguf[1].tensors[t];
        cr_assert_str_eq(a->name, b->name);
        cr_assert_eq(a->dtype, b->dtype, "%s", a->name);
        cr_assert_eq(a->size_bytes, b->size_bytes);
        cr_expect_eq(memcmp(map[0].data + a->offset, map[1].data + b->offset, a->size_bytes), 0,
                     "%s differs", a->name);
    }
    lq_arena_fini(&arena);
    lq_map_close(&map[0]);
    lq_map_close(&map[1]);
}

/* A folder has the experts one by one, a file has them joined; nothing needs to join them. */
static void check_pieces(const char *name)
{
    make_folder(name, NULL, NULL);
    expect_run("quantize folder gguf -q BF16 -o f.gguf");
    expect_run("analyze folder -o im.gguf " SAMPLES);
    e2e_write("pieces.lq",
              "model base { source = \"folder\" }\n"
              "model f { source = \"f.gguf\" }\n"
              "imatrix im { model = base file = \"im.gguf\" }\n"
              "mask super { model = base imatrix = im coverage = 1%% }\n"
              "for q in [\"Q4_K_M\", \"IQ2_XXS\"] {\n"
              "  gguf \"a-{q}\" { model = base imatrix = im protect = super level = q\n"
              "                 path = \"a-{q}.gguf\" }\n"
              "  gguf \"b-{q}\" { model = f imatrix = im protect = super level = q\n"
              "                 path = \"b-{q}.gguf\" }\n"
              "}\n"
              "gguf plain { model = base level = \"Q8_0\" path = \"plain.gguf\" }\n"
              "gguf joined { model = f level = \"Q8_0\" path = \"joined.gguf\" }\n");
    expect_run("-f pieces.lq --json");
    cr_expect_gt(e2e_count_events("step-finished", "\"op\":\"gguf.tensor\""), 0);
    cr_expect_eq(e2e_count_events("step-finished", "\"op\":\"tensor.join\""), 0);
    expect_same_tensors("a-Q4_K_M.gguf", "b-Q4_K_M.gguf");
    expect_same_tensors("a-IQ2_XXS.gguf", "b-IQ2_XXS.gguf");
    expect_same_tensors("plain.gguf", "joined.gguf");
}

Test(arch_files, experts_of_a_folder_are_encoded_one_by_one, .init = init, .fini = e2e_fini)
{
    check_pieces("mixtral");
    check_pieces("qwen3moe");
}

static bool plant_nan(void *user, const struct make_arch_tensor *tensor, float *values)
{
    if (strcmp(tensor->name, user) == 0) {
        values[3 * tensor->cols + 5] = NAN;
    }
    return true;
}

Test(arch_files, a_nan_in_an_expert_is_named_when_it_is_quantized, .init = init, .fini = e2e_fini)
{
    char name[] = "model.layers.1.mlp.experts.6.down_proj.weight";
    make_folder("qwen3moe", plant_nan, name);
    cr_expect_eq(e2e_run("quantize folder gguf -q Q4_K_M -o q.gguf"), 9);
    cr_expect_not_null(strstr(e2e_stderr(), "expert 6: tensor 'blk.1.ffn_down_exps.weight' has the "
                                            "value nan in row 3, column 5"),
                       "%s", e2e_stderr());
    cr_expect_neq(access("q.gguf", F_OK), 0);
}
