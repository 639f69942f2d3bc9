/* SmoothQuant of the shipped model: the file is taken apart again and compared with the original,
 * whatever the steps behind it were. */
#include <math.h>

#include "kernels/kernels.h"
#include "rules/format/imatrix.h"
#include "rules/format/safetensors.h"
#include "tests/e2e.h"

static void init(void)
{
    e2e_init();
    e2e_copy_text("calibration.txt", "words.txt", 60000);
}

TestSuite(e2e_smoothquant, .init = init, .fini = e2e_fini, .timeout = 300);

static const char command[] =
    "quantize model smoothquant --smoothquant --calibration-data words.txt "
    "--calibration-samples 128 --sequence 32 -o out --progress none ";

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

static const void *find(const struct weights *weights, const char *name, const char *type,
                        uint64_t *rows, uint64_t *cols)
{
    const struct lq_safetensor *tensor = lq_safetensors_find(&weights->file, name);
    cr_assert_not_null(tensor, "%s", name);
    cr_assert_str_eq(tensor->dtype_name, type, "%s", name);
    *rows = tensor->shape[0];
    *cols = tensor->dim_count > 1 ? tensor->shape[1] : 1;
    return (const unsigned char *)weights->map.data + tensor->offset;
}

static float bf16_at(const void *data, uint64_t i)
{
    uint16_t bits = 0;
    memcpy(&bits, (const unsigned char *)data + 2 * i, sizeof bits);
    return lq_bf16_to_f32(bits);
}

/* Every number of the rounded matrix is within half a level of the original's, times the scale of
 * its column, which is what the norm in front was divided by. */
static void expect_matrix(const struct weights *was, const struct weights *is, const char *name,
                          const char *norm)
{
    uint64_t rows = 0;
    uint64_t cols = 0;
    uint64_t count = 0;
    uint64_t one = 0;
    char scale_name[128];
    snprintf(scale_name, sizeof scale_name, "%s_scale", name);
    const void *original = find(was, name, "BF16", &rows, &cols);
    const int8_t *levels = find(is, name, "I8", &rows, &cols);
    const void *scale_bytes = find(is, scale_name, "F32", &count, &one);
    cr_assert(count == rows && one == 1);
    const void *before = norm == NULL ? NULL : find(was, norm, "BF16", &count, &one);
    const void *after = norm == NULL ? NULL : find(is, norm, "BF16", &count, &one);
    bool differs = false;
    double worst = 0.0;
    for (uint64_t r = 0; r < rows; r++) {
        float scale = 0.0F;
        memcpy(&scale, (const unsigned char *)scale_bytes + 4 * r, sizeof scale);
        for (uint64_t c = 0; c < cols; c++) {
            double smooth =
                norm == NULL ? 1.0 : (double)bf16_at(before, c) / (double)bf16_at(after, c);
            differs = differs || fabs(smooth - 1.0) > 0.01;
            double wanted = (double)bf16_at(original, r * cols + c) * smooth;
            double off =
                fabs((double)levels[r * cols + c] * (double)scale - wanted) / (double)scale;
            worst = off > worst ? off : worst;
        }
    }
    cr_expect_leq(worst, 0.501, "%s", name);
    cr_expect_eq(differs, norm != NULL, "%s", name);
}

Test(e2e_smoothquant, the_product_stays_what_it_was)
{
    struct weights was;
    struct weights is;
    cr_assert_eq(e2e_run("%s --format json", command), 0, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stdout(), "\"format\": \"smoothquant\""), "%s", e2e_stdout());
    open_weights(&was, "model/model.safetensors");
    open_weights(&is, "out/model.safetensors");
    for (int layer = 0; layer < 6; layer++) {
        static const char *const matrices[][2] = {
            {"self_attn.q_proj", "input_layernorm"},
            {"self_attn.k_proj", "input_layernorm"},
            {"self_attn.v_proj", "input_layernorm"},
            {"self_attn.o_proj", NULL},
            {"mlp.gate_proj", "post_attention_layernorm"},
            {"mlp.up_proj", "post_attention_layernorm"},
            {"mlp.down_proj", NULL},
        };
        for (size_t m = 0; m < LQ_COUNT_OF(matrices); m++) {
            char name[96];
            char norm[96];
            snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, matrices[m][0]);
            snprintf(norm, sizeof norm, "model.layers.%d.%s.weight", layer,
                     matrices[m][1] == NULL ? "" : matrices[m][1]);
            expect_matrix(&was, &is, name, matrices[m][1] == NULL ? NULL : norm);
        }
    }
    uint64_t rows = 0;
    uint64_t cols = 0;
    const void *embedding = find(&was, "model.embed_tokens.weight", "BF16", &rows, &cols);
    cr_expect(memcmp(embedding, find(&is, "model.embed_tokens.weight", "BF16", &rows, &cols),
                     rows * cols * 2) == 0);
    lq_map_close(&was.map);
    lq_map_close(&is.map);
    lq_arena_fini(&was.arena);
    lq_arena_fini(&is.arena);

    e2e_expect_same_file("out/tokenizer.json", "model/tokenizer.json");
    cr_assert_eq(e2e_run("%s --json", command), 0);
    cr_expect_eq(e2e_summary("ran"), 0);
}

/* What programs are told: how to read the folder, and what the activations were like. */
Test(e2e_smoothquant, config_and_statistics)
{
    struct lq_buffer file;
    struct lq_error err;
    lq_buffer_init(&file);
    cr_assert_eq(e2e_run("%s --alpha 0.75", command), 0, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stdout(), "alpha 0.75"), "%s", e2e_stdout());
    cr_expect_not_null(strstr(e2e_stdout(), "above 1%"), "%s", e2e_stdout());
    cr_assert_eq(lq_file_read("out/config.json", 1 << 20, &file, &err), LQ_OK, "%s", err.message);
    cJSON *config = cJSON_Parse(lq_buffer_text(&file));
    const cJSON *how = cJSON_GetObjectItemCaseSensitive(config, "quantization_config");
    const cJSON *group = cJSON_GetObjectItemCaseSensitive(
        cJSON_GetObjectItemCaseSensitive(how, "config_groups"), "group_0");
    const cJSON *inputs = cJSON_GetObjectItemCaseSensitive(group, "input_activations");
    cr_assert_not_null(inputs);
    cr_expect_str_eq(cJSON_GetObjectItemCaseSensitive(inputs, "strategy")->valuestring, "token");
    cr_expect_str_eq(cJSON_GetObjectItemCaseSensitive(how, "format")->valuestring, "int-quantized");
    cr_expect_eq(cJSON_GetObjectItemCaseSensitive(config, "hidden_size")->valueint, 256);
    cJSON_Delete(config);

    lq_buffer_clear(&file);
    cr_assert_eq(lq_file_read("out/smoothquant.json", 1 << 24, &file, &err), LQ_OK);
    cJSON *root = cJSON_Parse(lq_buffer_text(&file));
    const cJSON *layer = cJSON_GetObjectItemCaseSensitive(root, "layers")->child;
    const cJSON *stats = cJSON_GetObjectItemCaseSensitive(layer, "activation_stats")->child;
    const cJSON *means = cJSON_GetObjectItemCaseSensitive(stats, "mean_values");
    const cJSON *deviations = cJSON_GetObjectItemCaseSensitive(stats, "std_values");
    cr_assert_eq(cJSON_GetArraySize(means), 256);

    /* The squares are those of an importance matrix of the same samples. */
    struct lq_map map;
    struct lq_arena arena;
    struct lq_imatrix imatrix;
    enum lq_imatrix_format format;
    float values[256];
    lq_arena_init(&arena);
    cr_assert_eq(e2e_run("analyze model --calibration-data words.txt --calibration-samples 128 "
                         "--sequence 32 -o x.gguf --progress none"),
                 0);
    cr_assert_eq(lq_map_open(&map, "x.gguf", LQ_EIO, &err), LQ_OK);
    cr_assert_eq(lq_imatrix_parse(map.data, map.size_bytes, "x", &arena, &imatrix, &format, &err),
                 LQ_OK);
    lq_imatrix_means(lq_imatrix_find(&imatrix, "blk.0.attn_q.weight"), 0, values);
    for (int j = 0; j < 256; j++) {
        double mean = cJSON_GetArrayItem(means, j)->valuedouble;
        double deviation = cJSON_GetArrayItem(deviations, j)->valuedouble;
        cr_expect_float_eq(mean * mean + deviation * deviation, (double)values[j],
                           (double)values[j] * 1e-5);
    }
    lq_map_close(&map);
    lq_arena_fini(&arena);
    cJSON_Delete(root);
    lq_buffer_fini(&file);
}

/* The folder is measured like a GGUF file, rounding of activations included. */
Test(e2e_smoothquant, a_report_comes_with_it)
{
    e2e_copy_text("eval.txt", "other.txt", 8000);
    cr_assert_eq(e2e_run("%s --format json --quality-report --evaluation-data other.txt", command),
                 0, "%s", e2e_stderr());
    cJSON *root = cJSON_Parse(e2e_stdout());
    const cJSON *report = cJSON_GetObjectItemCaseSensitive(root, "quality_report");
    const cJSON *divergence = cJSON_GetObjectItemCaseSensitive(report, "kl_divergence_mean");
    cr_assert_not_null(divergence, "%s", e2e_stdout());
    cr_expect(divergence->valuedouble > 1e-5 && divergence->valuedouble < 2e-3, "%g",
              divergence->valuedouble);
    cJSON_Delete(root);
    cr_expect(lq_path_exists("out.qreport"));
    cr_expect_eq(e2e_run("%s --evaluation-data words.txt", command), 2);
}

Test(e2e_smoothquant, what_cannot_be_is_said)
{
    static const struct {
        const char *arguments;
        int code;
        const char *said;
    } cases[] = {
        {"quantize model smoothquant", 15, "--calibration-data"},
        {"quantize model smoothquant --alpha 1.5 --calibration-data words.txt", 2, "from 0 to 1"},
        {"quantize model smoothquant --alpha -1 --calibration-data words.txt", 2, "from 0 to 1"},
        {"quantize model smoothquant -q Q4_K_M --calibration-data words.txt", 2, "W8A8"},
        {"quantize model smoothquant --dynamic --calibration-data words.txt", 2, "--dynamic"},
        {"quantize model gguf -q Q8_0 --smoothquant", 17, "format smoothquant"},
        {"quantize g.gguf smoothquant --calibration-data words.txt --calibration-samples 128 "
         "--sequence 32",
         17, "needs the folder"},
    };
    cr_assert_eq(e2e_run("quantize model gguf -q F16 -o g.gguf"), 0);
    for (size_t i = 0; i < LQ_COUNT_OF(cases); i++) {
        cr_expect_eq(e2e_run("%s", cases[i].arguments), cases[i].code, "%s: %s", cases[i].arguments,
                     e2e_stderr());
        cr_expect_not_null(strstr(e2e_stderr(), cases[i].said), "%s", e2e_stderr());
        cr_expect_not(lq_path_exists("model-W8A8"));
    }
}
