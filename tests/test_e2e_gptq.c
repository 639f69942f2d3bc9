/* GPTQ of the shipped model: the folder is taken apart again by the definition of the format and
 * compared with the original. */
#include <math.h>

#include "kernels/kernels.h"
#include "rules/format/safetensors.h"
#include "rules/quant/bit_words.h"
#include "tests/arch_configs.h"
#include "tests/e2e.h"
#include "tests/make_arch.h"

static void init(void)
{
    e2e_init();
    e2e_copy_text("calibration.txt", "words.txt", 60000);
}

TestSuite(e2e_gptq, .init = init, .fini = e2e_fini, .timeout = 300);

static const char command[] = "quantize model gptq --calibration-data words.txt "
                              "--calibration-samples 128 --sequence 32 --progress none ";

struct weights {
    struct lq_map map;
    struct lq_arena arena;
    struct lq_safetensors file;
};

static void open_weights(struct weights *weights, const char *path)
{
    struct lq_error err;
    lq_arena_init(&weights->arena);
    cr_assert_eq(lq_map_open(&weights->map, path, LQ_EIO, &err), LQ_OK, "%s", err.message);
    cr_assert_eq(lq_safetensors_parse(weights->map.data, weights->map.size_bytes,
                                      weights->map.size_bytes, path, LQ_EFORMAT, &weights->arena,
                                      &weights->file, NULL, &err),
                 LQ_OK, "%s", err.message);
}

static void close_weights(struct weights *weights)
{
    lq_map_close(&weights->map);
    lq_arena_fini(&weights->arena);
}

static const void *find(const struct weights *weights, const char *module, const char *ending,
                        const char *type, uint64_t rows, uint64_t cols)
{
    char name[128];
    snprintf(name, sizeof name, "%s.%s", module, ending);
    const struct lq_safetensor *tensor = lq_safetensors_find(&weights->file, name);
    cr_assert_not_null(tensor, "%s", name);
    cr_assert_str_eq(tensor->dtype_name, type, "%s", name);
    cr_assert_eq(tensor->shape[0], rows, "%s", name);
    cr_assert_eq(tensor->dim_count, cols == 0 ? 1 : 2, "%s", name);
    cr_assert(cols == 0 || tensor->shape[1] == cols, "%s", name);
    return (const unsigned char *)weights->map.data + tensor->offset;
}

struct settings {
    unsigned bits;
    size_t group_size;
    bool symmetric;
    bool in_order; /* --desc-act */
    int less;      /* zero points are stored with this subtracted */
};

/* The mean square of what the numbers of the files differ from the original by, next to the
 * original's own. */
static double compare(const struct weights *was, const struct weights *is, const char *module,
                      size_t rows, size_t cols, const struct settings *settings)
{
    unsigned bits = settings->bits;
    size_t groups = cols / settings->group_size;
    const uint16_t *original = find(was, module, "weight", "BF16", rows, cols);
    const uint32_t *qweight = find(is, module, "qweight", "I32", cols * bits / 32, rows);
    const uint32_t *qzeros = find(is, module, "qzeros", "I32", groups, rows * bits / 32);
    const uint16_t *scales = find(is, module, "scales", "F16", groups, rows);
    const int32_t *g_idx = find(is, module, "g_idx", "I32", cols, 0);
    uint8_t levels[768];
    uint8_t zeros[768];
    double error = 0.0;
    double square = 0.0;
    bool in_order = true;
    for (size_t r = 0; r < rows; r++) {
        lq_bit_words_unpack(qweight + r, rows, cols, bits, levels, 1);
        for (size_t c = 0; c < cols; c++) {
            size_t g = (size_t)g_idx[c];
            cr_assert_lt(g, groups);
            in_order = in_order && g == c / settings->group_size;
            if (r == 0 || c == 0 || g_idx[c] != g_idx[c - 1]) {
                lq_bit_words_unpack(qzeros + g * (rows * bits / 32), 1, rows, bits, zeros, 1);
            }
            int zero = zeros[r] + settings->less;
            cr_assert(!settings->symmetric || zero == 1 << (bits - 1));
            double value =
                (double)((int)levels[c] - zero) * (double)lq_f16_to_f32(scales[g * rows + r]);
            double wanted = (double)lq_bf16_to_f32(original[r * cols + c]);
            error += (value - wanted) * (value - wanted);
            square += wanted * wanted;
        }
    }
    cr_expect_eq(in_order, !settings->in_order || groups == 1, "%s", module);
    return error / square;
}

static cJSON *read_json(const char *path)
{
    struct lq_buffer file;
    struct lq_error err;
    lq_buffer_init(&file);
    cr_assert_eq(lq_file_read(path, 1 << 24, &file, &err), LQ_OK, "%s", err.message);
    cJSON *root = cJSON_Parse(lq_buffer_text(&file));
    cr_assert_not_null(root, "%s", path);
    lq_buffer_fini(&file);
    return root;
}

static const cJSON *member(const cJSON *object, const char *name)
{
    return cJSON_GetObjectItemCaseSensitive(object, name);
}

/* Every matrix changes less at the outputs than rounding would change it. */
static void expect_gains(const char *path, size_t matrix_count)
{
    cJSON *report = read_json(path);
    const cJSON *matrix = NULL;
    size_t count = 0;
    cJSON_ArrayForEach(matrix, member(report, "layers"))
    {
        const char *name = member(matrix, "layer_name")->valuestring;
        double share = member(matrix, "relative_loss")->valuedouble;
        double rounding = member(matrix, "relative_loss_rounding")->valuedouble;
        cr_expect(share > 0.0 && share < rounding, "%s: %g, by rounding %g", name, share, rounding);
        count++;
    }
    cr_expect_eq(count, matrix_count);
    cJSON_Delete(report);
}

static const struct {
    const char *module;
    size_t rows;
    size_t cols;
} modules[] = {
    {"self_attn.q_proj", 256, 256}, {"self_attn.k_proj", 128, 256}, {"self_attn.v_proj", 128, 256},
    {"self_attn.o_proj", 256, 256}, {"mlp.gate_proj", 768, 256},    {"mlp.up_proj", 768, 256},
    {"mlp.down_proj", 256, 768},
};

Test(e2e_gptq, files_hold_what_the_model_was)
{
    static const struct {
        const char *arguments;
        struct settings settings;
        const char *format;
        double error_max; /* half a step of a uniform grid, squared and doubled by what moves */
    } cases[] = {
        {"-o out", {4, 128, true, false, 1}, "gptq", 0.03},
        {"--bits 3 --group-size 32 --asymmetric --desc-act -o out3",
         {3, 32, false, true, 0},
         "gptq_v2",
         0.1},
        {"-q 8bit --group-size -1 -o out8", {8, 0, true, false, 1}, "gptq", 0.001},
    };
    struct weights was;
    open_weights(&was, "model/model.safetensors");
    for (size_t c = 0; c < LQ_COUNT_OF(cases); c++) {
        struct weights is;
        char path[64];
        const char *folder = strstr(cases[c].arguments, "-o ") + 3;
        cr_assert_eq(e2e_run("%s %s", command, cases[c].arguments), 0, "%s", e2e_stderr());
        snprintf(path, sizeof path, "%s/model.safetensors", folder);
        open_weights(&is, path);
        for (size_t i = 0; i < 6 * LQ_COUNT_OF(modules); i++) {
            char module[96];
            size_t m = i % LQ_COUNT_OF(modules);
            struct settings settings = cases[c].settings;
            settings.group_size = settings.group_size == 0 ? modules[m].cols : settings.group_size;
            snprintf(module, sizeof module, "model.layers.%zu.%s", i / LQ_COUNT_OF(modules),
                     modules[m].module);
            double error = compare(&was, &is, module, modules[m].rows, modules[m].cols, &settings);
            cr_expect_lt(error, cases[c].error_max, "%s: %g", module, error);
        }
        size_t embedding_bytes = (size_t)4096 * 256 * 2;
        cr_expect(memcmp(find(&was, "model.embed_tokens", "weight", "BF16", 4096, 256),
                         find(&is, "model.embed_tokens", "weight", "BF16", 4096, 256),
                         embedding_bytes) == 0);
        close_weights(&is);
        snprintf(path, sizeof path, "%s/config.json", folder);
        cJSON *config = read_json(path);
        const cJSON *how = member(config, "quantization_config");
        snprintf(path, sizeof path, "%s/quantize_config.json", folder);
        cJSON *alone = read_json(path);
        cr_expect(cJSON_Compare(how, alone, true));
        cr_expect_str_eq(member(how, "checkpoint_format")->valuestring, cases[c].format);
        cr_expect_eq(member(how, "bits")->valueint, (int)cases[c].settings.bits);
        cr_expect_eq(member(config, "hidden_size")->valueint, 256);
        cJSON_Delete(config);
        cJSON_Delete(alone);
        snprintf(path, sizeof path, "%s/gptq.json", folder);
        expect_gains(path, 42);
        snprintf(path, sizeof path, "%s/tokenizer.json", folder);
        e2e_expect_same_file(path, "model/tokenizer.json");
    }
    close_weights(&was);
    /* And it is a model again. */
    cr_expect_eq(e2e_run("%s %s --fail-above 0.1%% --evaluation-data words.txt", command,
                         cases[1].arguments),
                 11, "%s", e2e_stdout());
    cr_expect_eq(e2e_run("quantize out3 gguf -q F16 --allow-requantize -o back.gguf"), 0, "%s",
                 e2e_stderr());
}

/* Threads change no byte; another group size finds the first products, and nothing else runs again
 * when nothing changed. */
Test(e2e_gptq, the_cache_and_threads)
{
    cr_assert_eq(e2e_run("%s -o out -j1", command), 0, "%s", e2e_stderr());
    cr_assert_eq(e2e_run("%s -o out --json", command), 0);
    cr_expect_eq(e2e_summary("ran"), 0);
    cr_assert_eq(e2e_run("%s -o other --json", "quantize model gptq --calibration-data words.txt "
                                               "--calibration-samples 128 --sequence 32 "
                                               "--group-size 64"),
                 0);
    long ran = e2e_summary("ran");
    cr_assert_eq(e2e_run("%s -o third -j3 --cache-dir cache2 --json", command), 0);
    cr_expect_eq(e2e_summary("ran") - ran, 3, "the tokens, the model and the first products");
    e2e_expect_same_file("out/model.safetensors", "third/model.safetensors");
}

Test(e2e_gptq, what_cannot_be_is_said)
{
    static const struct {
        const char *arguments;
        int code;
        const char *said;
    } cases[] = {
        {"quantize model gptq", 15, "--calibration-data"},
        {"quantize model gptq --bits 5 --calibration-data words.txt", 2, "--bits"},
        {"quantize model gptq --bits 4 -q 3bit --calibration-data words.txt", 2, "contradict"},
        {"quantize model gptq -q Q4_K_M --calibration-data words.txt", 2, "4bit"},
        {"quantize model gptq --group-size 100 --calibration-data words.txt", 2, "--group-size"},
        {"quantize model gptq --damp 0 --calibration-data words.txt", 2, "--damp"},
        {"quantize model gptq --alpha 1 --calibration-data words.txt", 2, "--alpha"},
        {"quantize model gguf -q Q8_0 --group-size 32", 2, "--group-size"},
        {"quantize g.gguf gptq --calibration-data words.txt --calibration-samples 128 "
         "--sequence 32",
         17, "needs the folder"},
        {"-f format.lq", 7, "gptq_v2"},
        {"-f bits.lq", 7, "expected 2, 3, 4 or 8"},
    };
    static const char recipe[] = "model m { source = \"model\" }\n"
                                 "text t { path = \"words.txt\" }\n"
                                 "calibration c { text = t  model = m  samples = 128 }\n"
                                 "gptq q { model = m  calibration = c  %s }\n";
    e2e_write("format.lq", recipe, "sym = false  format = \"gptq\"");
    e2e_write("bits.lq", recipe, "bits = 5");
    cr_assert_eq(e2e_run("quantize model gguf -q F16 -o g.gguf"), 0);
    for (size_t i = 0; i < LQ_COUNT_OF(cases); i++) {
        cr_expect_eq(e2e_run("%s", cases[i].arguments), cases[i].code, "%s: %s", cases[i].arguments,
                     e2e_stderr());
        cr_expect_not_null(strstr(e2e_stderr(), cases[i].said), "%s", e2e_stderr());
        cr_expect_not(lq_path_exists("model-GPTQ-4bit-g128"));
    }
}

/* ---- other models ---- */

static const char folder_command[] =
    "quantize folder gptq --calibration-data words.txt --calibration-samples 128 --sequence 16 "
    "-o out --progress none ";

static void make_folder(const char *config, make_arch_edit_fn edit)
{
    struct lq_error err = {0};
    cr_assert_eq(make_arch_write(config, "folder", edit, NULL, &err), LQ_OK, "%s", err.message);
}

/* Biases, norms of heads, fused matrices, windows, norms behind, long positions. */
Test(e2e_gptq, architectures_of_dense_layers)
{
    static const struct {
        const char *name;
        size_t matrix_count; /* of a layer */
    } cases[] = {{"qwen2", 7}, {"qwen3", 7}, {"phi3", 4}, {"gemma2", 7}, {"gemma3", 7}};
    for (size_t c = 0; c < LQ_COUNT_OF(cases); c++) {
        make_folder(arch_config_find(cases[c].name)->text, NULL);
        cr_assert_eq(e2e_run("%s --bits 3 --group-size 32", folder_command), 0, "%s: %s",
                     cases[c].name, e2e_stderr());
        cJSON *config = read_json("folder/config.json");
        size_t layers = (size_t)member(config, "num_hidden_layers")->valueint;
        cJSON_Delete(config);
        expect_gains("out/gptq.json", layers * cases[c].matrix_count);
    }
}

static const char odd_config[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 128, \"intermediate_size\": %d, "
    "\"num_hidden_layers\": 1, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
    "\"max_position_embeddings\": 2048, \"vocab_size\": 512, \"rms_norm_eps\": 1e-5, "
    "\"bos_token_id\": 509, \"eos_token_id\": 510, \"hidden_act\": \"silu\", "
    "\"tie_word_embeddings\": false}";

Test(e2e_gptq, shapes_that_do_not_fit)
{
    char config[640];
    snprintf(config, sizeof config, odd_config, 200); /* no multiple of 32 */
    make_folder(config, NULL);
    cr_expect_eq(e2e_run("%s --group-size 32", folder_command), 17, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), "multiples of that"), "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), "200"), "%s", e2e_stderr());
    snprintf(config, sizeof config, odd_config, 224); /* one, but not of 64 */
    make_folder(config, NULL);
    cr_expect_eq(e2e_run("%s --group-size 64", folder_command), 17, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), "a smaller group_size"), "%s", e2e_stderr());
    cr_expect_eq(e2e_run("%s --group-size 32", folder_command), 0, "%s", e2e_stderr());
    cr_expect_eq(e2e_run("%s --group-size -1", folder_command), 0, "%s", e2e_stderr());
}

Test(e2e_gptq, mixtures_are_refused)
{
    make_folder(arch_config_find("mixtral")->text, NULL);
    cr_expect_eq(e2e_run("%s", folder_command), 17, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), "mixtures of experts"), "%s", e2e_stderr());
    cr_expect_not(lq_path_exists("out"));
}

static bool poison(void *user, const struct make_arch_tensor *tensor, float *values)
{
    (void)user;
    if (strstr(tensor->name, "layers.0.self_attn.o_proj") != NULL) {
        values[3 * tensor->cols + 5] = NAN;
    }
    return true;
}

static bool grow(void *user, const struct make_arch_tensor *tensor, float *values)
{
    (void)user;
    if (strstr(tensor->name, "layers.0.mlp.down_proj") != NULL) {
        values[7] = 1e7F;
    }
    return true;
}

static bool silence(void *user, const struct make_arch_tensor *tensor, float *values)
{
    (void)user;
    for (uint64_t j = 0; strstr(tensor->name, "input_layernorm") != NULL && j < tensor->cols; j++) {
        values[j] = 0.0F;
    }
    return true;
}

Test(e2e_gptq, weights_that_are_damaged_too_large_or_not_used)
{
    char config[640];
    snprintf(config, sizeof config, odd_config, 256);
    make_folder(config, poison);
    cr_expect_eq(e2e_run("%s", folder_command), 9, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), "'blk.0.attn_output.weight' holds NaN"), "%s",
                       e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), "row 3, column 5"), "%s", e2e_stderr());
    make_folder(config, grow);
    cr_expect_eq(e2e_run("%s", folder_command), 16, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), "half precision"), "%s", e2e_stderr());
    cr_expect_not(lq_path_exists("out/model.safetensors"));
    make_folder(config, silence); /* q, k, v and the attention's output see zeros only */
    cr_assert_eq(e2e_run("%s", folder_command), 0, "%s", e2e_stderr());
    cJSON *report = read_json("out/gptq.json");
    const cJSON *matrix = NULL;
    cJSON_ArrayForEach(matrix, member(report, "layers"))
    {
        bool is_dead = strstr(member(matrix, "layer_name")->valuestring, "self_attn") != NULL;
        cr_expect_eq(member(matrix, "dead_columns")->valueint, is_dead ? 128 : 0);
    }
    cJSON_Delete(report);
}

/* 256 tokens, most of them the same, are no measure of 768 columns. */
Test(e2e_gptq, too_little_text_takes_more_damping)
{
    cr_assert_eq(e2e_run("quantize model gptq --calibration-data words.txt --calibration-samples "
                         "128 --sequence 2 --damp 0.0001 -o out --progress none"),
                 0, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), "needed a damping of"), "%s", e2e_stderr());
}
