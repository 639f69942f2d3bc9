/* AWQ of the shipped model and of synthetic ones of other kinds: the files are taken apart by the
 * definition of their formats and compared with the original, whatever the steps behind them were.
 */
#include <math.h>

#include "kernels/kernels.h"
#include "rules/format/safetensors.h"
#include "tests/e2e.h"
#include "tests/make_arch.h"

static void init(void)
{
    e2e_init();
    e2e_copy_text("calibration.txt", "words.txt", 60000);
}

TestSuite(e2e_awq, .init = init, .fini = e2e_fini, .timeout = 300);

#define CALIBRATION "--calibration-data words.txt --calibration-samples 128 --sequence 32"

/* ---- files taken apart ---- */

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
                        const char *type, uint64_t *rows, uint64_t *cols)
{
    char name[160];
    (void)snprintf(name, sizeof name, "%s%s", module, ending);
    const struct lq_safetensor *tensor = lq_safetensors_find(&weights->file, name);
    cr_assert_not_null(tensor, "%s", name);
    cr_assert_str_eq(tensor->dtype_name, type, "%s", name);
    *rows = tensor->shape[0];
    *cols = tensor->dim_count > 1 ? tensor->shape[1] : 1;
    return (const unsigned char *)weights->map.data + tensor->offset;
}

static float half_at(const void *data, uint64_t i)
{
    uint16_t bits = 0;
    memcpy(&bits, (const unsigned char *)data + 2 * i, sizeof bits);
    return lq_f16_to_f32(bits);
}

static float bf16_at(const void *data, uint64_t i)
{
    uint16_t bits = 0;
    memcpy(&bits, (const unsigned char *)data + 2 * i, sizeof bits);
    return lq_bf16_to_f32(bits);
}

static unsigned nibble_at(const void *data, uint64_t word, unsigned nibble)
{
    uint32_t bits = 0;
    memcpy(&bits, (const unsigned char *)data + 4 * word, sizeof bits);
    return bits >> (4 * nibble) & 15;
}

/* A matrix of either format: values, and the scales of their groups. */
struct matrix {
    uint64_t rows;
    uint64_t cols;
    float *values;
    float *steps;
};

static void read_gemm(const struct weights *weights, const char *module, struct matrix *out)
{
    static const unsigned nibble_of[] = {0, 4, 1, 5, 2, 6, 3, 7};
    uint64_t words = 0;
    uint64_t groups = 0;
    uint64_t count = 0;
    const void *levels = find(weights, module, ".qweight", "I32", &out->cols, &words);
    const void *zeros = find(weights, module, ".qzeros", "I32", &groups, &count);
    cr_assert_eq(count, words);
    const void *scales = find(weights, module, ".scales", "F16", &count, &out->rows);
    cr_assert(count == groups && out->rows == words * 8 && out->cols % groups == 0);
    out->values = malloc(out->rows * out->cols * sizeof(float));
    out->steps = malloc(out->rows * out->cols * sizeof(float));
    for (uint64_t r = 0; r < out->rows; r++) {
        for (uint64_t c = 0; c < out->cols; c++) {
            uint64_t group = c / (out->cols / groups);
            unsigned nibble = nibble_of[r % 8];
            unsigned level = nibble_at(levels, c * words + r / 8, nibble);
            unsigned zero = nibble_at(zeros, group * words + r / 8, nibble);
            float scale = half_at(scales, group * out->rows + r);
            out->values[r * out->cols + c] = ((float)level - (float)zero) * scale;
            out->steps[r * out->cols + c] = scale;
        }
    }
}

static void read_packed(const struct weights *weights, const char *module, bool has_zeros,
                        struct matrix *out)
{
    uint64_t words = 0;
    uint64_t groups = 0;
    uint64_t count = 0;
    uint64_t one = 0;
    int64_t shape[2];
    const void *levels = find(weights, module, ".weight_packed", "I32", &out->rows, &words);
    const void *scales = find(weights, module, ".weight_scale", "BF16", &count, &groups);
    cr_assert_eq(count, out->rows);
    memcpy(shape, find(weights, module, ".weight_shape", "I64", &count, &one), sizeof shape);
    out->cols = words * 8;
    cr_assert(count == 2 && shape[0] == (int64_t)out->rows && shape[1] == (int64_t)out->cols);
    const void *zeros = NULL;
    if (has_zeros) {
        zeros = find(weights, module, ".weight_zero_point", "I32", &count, &one);
        cr_assert(count == out->rows / 8 && one == groups);
    }
    out->values = malloc(out->rows * out->cols * sizeof(float));
    out->steps = malloc(out->rows * out->cols * sizeof(float));
    for (uint64_t r = 0; r < out->rows; r++) {
        for (uint64_t c = 0; c < out->cols; c++) {
            uint64_t group = c / (out->cols / groups);
            unsigned level = nibble_at(levels, r * words + c / 8, c % 8);
            unsigned zero = has_zeros ? nibble_at(zeros, r / 8 * groups + group, r % 8) : 8;
            float scale = bf16_at(scales, r * groups + group);
            out->values[r * out->cols + c] = ((float)level - (float)zero) * scale;
            out->steps[r * out->cols + c] = scale;
        }
    }
}

static void free_matrix(struct matrix *matrix)
{
    free(matrix->values);
    free(matrix->steps);
}

/* ---- what the report says ---- */

static cJSON *read_json(const char *path)
{
    struct lq_buffer file;
    struct lq_error err;
    lq_buffer_init(&file);
    cr_assert_eq(lq_file_read(path, 1 << 26, &file, &err), LQ_OK, "%s", err.message);
    cJSON *root = cJSON_Parse(lq_buffer_text(&file));
    lq_buffer_fini(&file);
    cr_assert_not_null(root);
    return root;
}

/* The scales of an input; NULL: it has none. */
static float *read_scales(const cJSON *root, int layer, const char *input, uint64_t cols)
{
    const cJSON *layers = cJSON_GetObjectItemCaseSensitive(root, "layers");
    const cJSON *parts =
        cJSON_GetObjectItemCaseSensitive(cJSON_GetArrayItem(layers, layer), "scales");
    const cJSON *part = NULL;
    cJSON_ArrayForEach(part, parts)
    {
        if (strcmp(cJSON_GetObjectItemCaseSensitive(part, "input")->valuestring, input) == 0) {
            const cJSON *list = cJSON_GetObjectItemCaseSensitive(part, "per_channel_scales");
            const cJSON *item = list->child;
            float *scales = malloc(cols * sizeof *scales);
            cr_assert_eq((uint64_t)cJSON_GetArraySize(list), cols);
            for (uint64_t j = 0; j < cols; j++, item = item->next) {
                scales[j] = (float)item->valuedouble;
            }
            double before = cJSON_GetObjectItemCaseSensitive(part, "loss_before")->valuedouble;
            double after = cJSON_GetObjectItemCaseSensitive(part, "loss_after")->valuedouble;
            cr_expect(after <= before && after > 0.0 && before < 0.1);
            return scales;
        }
    }
    return NULL;
}

/* ---- models of all kinds ---- */

/* Rows [first, first + rows of the next matrix's columns) are divided by that one's scales. */
struct expected {
    const char *module;
    const char *input;
    const char *behind; /* NULL: none */
};

/* Every weight is within half a step of the original's times the scale of its column, over that of
 * its row. With zero points rounded the first and the last level may miss by one more. */
static void expect_matrix(const struct weights *was, const struct weights *is, const cJSON *report,
                          int layer, const struct expected *expected)
{
    char module[128];
    struct matrix matrix;
    uint64_t rows = 0;
    uint64_t cols = 0;
    (void)snprintf(module, sizeof module, "model.layers.%d.%s", layer, expected->module);
    const void *original = find(was, module, ".weight", "BF16", &rows, &cols);
    read_gemm(is, module, &matrix);
    cr_assert(matrix.rows == rows && matrix.cols == cols);
    float *scales = read_scales(report, layer, expected->input, cols);
    float *row_scales = NULL;
    uint64_t behind = 0;
    if (expected->behind != NULL) {
        const cJSON *known = report;
        char next[128];
        uint64_t words = 0;
        (void)snprintf(next, sizeof next, "model.layers.%d.%s", layer,
                       strcmp(expected->behind, "attention output") == 0 ? "self_attn.o_proj"
                                                                         : "mlp.down_proj");
        (void)find(is, next, ".qweight", "I32", &behind, &words);
        row_scales = read_scales(known, layer, expected->behind, behind);
    }
    double worst = 0.0;
    for (uint64_t r = 0; r < rows; r++) {
        bool is_divided = row_scales != NULL && r >= rows - behind;
        double divisor = is_divided ? (double)row_scales[r - (rows - behind)] : 1.0;
        for (uint64_t c = 0; c < cols; c++) {
            double scale = scales == NULL ? 1.0 : (double)scales[c];
            double wanted = (double)bf16_at(original, r * cols + c) * scale / divisor;
            double off = fabs((double)matrix.values[r * cols + c] - wanted) /
                         (double)matrix.steps[r * cols + c];
            worst = off > worst ? off : worst;
        }
    }
    cr_expect_leq(worst, 1.01, "%s: %g", module, worst);
    cr_expect_geq(worst, 0.45, "%s: %g", module, worst);
    free(scales);
    free(row_scales);
    free_matrix(&matrix);
}

/* The norm or bias times the scales is the original's: nothing was lost. */
static void expect_front(const struct weights *was, const struct weights *is, const cJSON *report,
                         int layer, const char *tensor, const char *input)
{
    char name[128];
    uint64_t cols = 0;
    uint64_t one = 0;
    (void)snprintf(name, sizeof name, "model.layers.%d.%s", layer, tensor);
    const void *before = find(was, name, "", "BF16", &cols, &one);
    const void *after = find(is, name, "", "BF16", &cols, &one);
    float *scales = read_scales(report, layer, input, cols);
    cr_assert_not_null(scales, "%s", name);
    for (uint64_t j = 0; j < cols; j++) {
        float value = bf16_at(before, j);
        cr_expect_float_eq(bf16_at(after, j) * scales[j], value, fabsf(value) * 3e-7F, "%s", name);
    }
    free(scales);
}

Test(e2e_awq, every_weight_is_where_its_scales_put_it)
{
    static const struct expected matrices[] = {
        {"self_attn.q_proj", "attention", NULL},
        {"self_attn.k_proj", "attention", NULL},
        {"self_attn.v_proj", "attention", NULL},
        {"self_attn.o_proj", "attention output", NULL},
        {"mlp.gate_proj", "feed-forward", NULL},
        {"mlp.up_proj", "feed-forward", "feed-forward down"},
        {"mlp.down_proj", "feed-forward down", NULL},
    };
    struct weights was;
    struct weights is;
    cr_assert_eq(e2e_run("quantize model awq " CALIBRATION
                         " --no-clip -o out --progress none --format json"),
                 0, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stdout(), "\"format\": \"awq\""), "%s", e2e_stdout());
    cr_expect_not_null(strstr(e2e_stdout(), "\"group_size\": 128"), "%s", e2e_stdout());
    cJSON *report = read_json("out/awq.json");
    open_weights(&was, "model/model.safetensors");
    open_weights(&is, "out/model.safetensors");
    for (int layer = 0; layer < 6; layer++) {
        for (size_t m = 0; m < LQ_COUNT_OF(matrices); m++) {
            expect_matrix(&was, &is, report, layer, &matrices[m]);
        }
        expect_front(&was, &is, report, layer, "input_layernorm.weight", "attention");
        expect_front(&was, &is, report, layer, "post_attention_layernorm.weight", "feed-forward");
        /* Two heads of queries share one of values. */
        cr_expect_null(read_scales(report, layer, "attention output", 256));
    }
    close_weights(&was);
    close_weights(&is);
    cJSON_Delete(report);
    e2e_expect_same_file("out/tokenizer.json", "model/tokenizer.json");

    cJSON *config = read_json("out/config.json");
    const cJSON *how = cJSON_GetObjectItemCaseSensitive(config, "quantization_config");
    cr_expect_str_eq(cJSON_GetObjectItemCaseSensitive(how, "quant_method")->valuestring, "awq");
    cr_expect_str_eq(cJSON_GetObjectItemCaseSensitive(how, "version")->valuestring, "gemm");
    cr_expect_eq(cJSON_GetObjectItemCaseSensitive(how, "bits")->valueint, 4);
    cr_expect(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(how, "zero_point")));
    cr_expect_str_eq(cJSON_GetObjectItemCaseSensitive(config, "torch_dtype")->valuestring,
                     "float16");
    cr_expect_eq(cJSON_GetObjectItemCaseSensitive(config, "hidden_size")->valueint, 256);
    cJSON_Delete(config);
}

/* Biases that are not zero, so that dividing them shows. */
static bool fill_biases(void *user, const struct make_arch_tensor *tensor, float *values)
{
    (void)user;
    for (uint64_t j = 0; strstr(tensor->name, ".bias") != NULL && j < tensor->cols; j++) {
        values[j] = lq_bf16_to_f32(lq_f32_to_bf16((float)(j % 17) / 16.0F - 0.5F));
    }
    return true;
}

/* As many heads of values as of queries, and one matrix for what others have three of. */
static void check_kind(const char *config, const struct expected *matrices, size_t matrix_count,
                       bool has_bias)
{
    struct lq_error err = {0};
    struct weights was;
    struct weights is;
    cr_assert_eq(make_arch_write(config, "folder", fill_biases, NULL, &err), LQ_OK, "%s",
                 err.message);
    cr_assert_eq(e2e_run("quantize folder awq " CALIBRATION
                         " --group-size 64 --no-clip -o kind --progress none"),
                 0, "%s", e2e_stderr());
    cJSON *report = read_json("kind/awq.json");
    open_weights(&was, "folder/model.safetensors");
    open_weights(&is, "kind/model.safetensors");
    for (int layer = 0; layer < 2; layer++) {
        for (size_t m = 0; m < matrix_count; m++) {
            expect_matrix(&was, &is, report, layer, &matrices[m]);
        }
        expect_front(&was, &is, report, layer, "input_layernorm.weight", "attention");
        expect_front(&was, &is, report, layer, "post_attention_layernorm.weight", "feed-forward");
        if (has_bias) {
            expect_front(&was, &is, report, layer, "self_attn.v_proj.bias", "attention output");
        }
    }
    close_weights(&was);
    close_weights(&is);
    cJSON_Delete(report);
}

#define SIZES(class)                                                                               \
    "{\"architectures\": [\"" class "\"], \"hidden_size\": 256, \"intermediate_size\": 512, "      \
                                    "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, "       \
                                    "\"num_key_value_heads\": 4, "                                 \
                                    "\"max_position_embeddings\": 2048, \"vocab_size\": 512, "     \
                                    "\"rms_norm_eps\": 1e-5, "                                     \
                                    "\"bos_token_id\": 509, \"eos_token_id\": 510, "               \
                                    "\"hidden_act\": \"silu\", "

Test(e2e_awq, values_and_their_bias_take_the_scales_of_the_output)
{
    static const struct expected matrices[] = {
        {"self_attn.k_proj", "attention", NULL},
        {"self_attn.v_proj", "attention", "attention output"},
        {"self_attn.o_proj", "attention output", NULL},
        {"mlp.up_proj", "feed-forward", "feed-forward down"},
    };
    check_kind(SIZES("Qwen2ForCausalLM") "\"tie_word_embeddings\": true, \"rope_theta\": 1e6, "
                                         "\"use_sliding_window\": false}",
               matrices, LQ_COUNT_OF(matrices), true);
}

Test(e2e_awq, last_rows_of_joined_matrices_take_them)
{
    static const struct expected matrices[] = {
        {"self_attn.qkv_proj", "attention", "attention output"},
        {"self_attn.o_proj", "attention output", NULL},
        {"mlp.gate_up_proj", "feed-forward", "feed-forward down"},
        {"mlp.down_proj", "feed-forward down", NULL},
    };
    check_kind(SIZES("Phi3ForCausalLM") "\"tie_word_embeddings\": false, \"rope_theta\": 10000.0, "
                                        "\"sliding_window\": null, \"rope_scaling\": null, "
                                        "\"original_max_position_embeddings\": 2048}",
               matrices, LQ_COUNT_OF(matrices), false);
}

/* ---- the other format, and what is shared ---- */

Test(e2e_awq, both_formats_hold_the_same_model)
{
    static const char *const modules[] = {"self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"};
    struct weights gemm;
    struct weights packed;
    struct weights even;
    cr_assert_eq(e2e_run("quantize model awq " CALIBRATION " -o gemm --progress none"), 0);
    cr_assert_eq(e2e_run("quantize model awq " CALIBRATION
                         " --packing compressed-tensors -o packed --progress none"),
                 0, "%s", e2e_stderr());
    cr_assert_eq(e2e_run("quantize model awq " CALIBRATION " --symmetric --group-size 32 "
                         "--packing compressed-tensors -o even --progress none"),
                 0, "%s", e2e_stderr());
    open_weights(&gemm, "gemm/model.safetensors");
    open_weights(&packed, "packed/model.safetensors");
    open_weights(&even, "even/model.safetensors");
    for (size_t m = 0; m < LQ_COUNT_OF(modules); m++) {
        char module[96];
        struct matrix a;
        struct matrix b;
        struct matrix c;
        (void)snprintf(module, sizeof module, "model.layers.3.%s", modules[m]);
        read_gemm(&gemm, module, &a);
        read_packed(&packed, module, true, &b);
        read_packed(&even, module, false, &c);
        double off = 0.0;
        double size = 0.0;
        for (uint64_t i = 0; i < a.rows * a.cols; i++) {
            double difference = (double)a.values[i] - (double)b.values[i];
            off += difference * difference;
            size += (double)a.values[i] * (double)a.values[i];
        }
        /* Scales of 8 bits instead of 11 move levels a little. */
        cr_expect_lt(off / size, 0.01, "%s: %g", module, off / size);
        cr_expect(c.rows == a.rows && c.cols == a.cols);
        free_matrix(&a);
        free_matrix(&b);
        free_matrix(&c);
    }
    cr_expect_null(
        lq_safetensors_find(&even.file, "model.layers.3.mlp.down_proj.weight_zero_point"));
    close_weights(&gemm);
    close_weights(&packed);
    close_weights(&even);
    cJSON *config = read_json("packed/config.json");
    const cJSON *how = cJSON_GetObjectItemCaseSensitive(config, "quantization_config");
    const cJSON *weights = cJSON_GetObjectItemCaseSensitive(
        cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(how, "config_groups"),
                                         "group_0"),
        "weights");
    cr_expect_str_eq(cJSON_GetObjectItemCaseSensitive(how, "format")->valuestring,
                     "pack-quantized");
    cr_expect_eq(cJSON_GetObjectItemCaseSensitive(weights, "group_size")->valueint, 128);
    cr_expect(cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(weights, "symmetric")));
    cr_expect_str_eq(cJSON_GetObjectItemCaseSensitive(config, "torch_dtype")->valuestring,
                     "bfloat16");
    cJSON_Delete(config);
}

static const char recipe[] = "model base { source = \"model\" }\n"
                             "text words { path = \"words.txt\" }\n"
                             "calibration calib { model = base  text = words  samples = 128  "
                             "sequence = 32 }\n"
                             "let size = 128\n"
                             "awq q { model = base  calibration = calib  group_size = size  "
                             "path = \"q/model.safetensors\" }\n";

/* The model runs once; another group size begins at its moments. Threads change nothing. */
Test(e2e_awq, moments_are_measured_once)
{
    e2e_write("recipe.lq", "%s", recipe);
    cr_assert_eq(e2e_run("q --json -j 1"), 0, "%s", e2e_stderr());
    cr_expect_eq(e2e_count_events("step-finished", "\"op\":\"imatrix.layer\""), 6);
    cr_assert_eq(rename("q/model.safetensors", "one.safetensors"), 0);
    cr_assert_eq(e2e_run("q --json -j 3 --cache-dir other"), 0, "%s", e2e_stderr());
    e2e_expect_same_file("q/model.safetensors", "one.safetensors");
    cr_assert_eq(e2e_run("q --json -D size=32"), 0, "%s", e2e_stderr());
    cr_expect_eq(e2e_summary("ran"), 18 + 42 + 2);
    cr_assert_eq(e2e_run("q --json -D size=32"), 0, "%s", e2e_stderr());
    cr_expect_eq(e2e_summary("ran"), 0);
}

/* ---- what cannot be ---- */

static bool plant_nan(void *user, const struct make_arch_tensor *tensor, float *values)
{
    if (strcmp(tensor->name, user) == 0) {
        values[3 * tensor->cols + 5] = NAN;
    }
    return true;
}

Test(e2e_awq, what_cannot_be_is_said)
{
    static const struct {
        const char *arguments;
        int code;
        const char *said;
    } cases[] = {
        {"quantize model awq", 15, "--calibration-data"},
        {"quantize model awq -q Q4_K_M " CALIBRATION, 2, "4bit"},
        {"quantize model awq --group-size 100 " CALIBRATION, 2, "group-size"},
        {"quantize model awq --dynamic " CALIBRATION, 2, "--dynamic"},
        {"quantize model awq --alpha 0.5 " CALIBRATION, 2, "--alpha"},
        {"quantize model gguf -q Q8_0 --no-clip", 2, "--no-clip"},
        {"quantize model smoothquant --symmetric " CALIBRATION, 2, "--symmetric"},
        {"quantize g.gguf awq " CALIBRATION, 17, "needs the folder"},
    };
    cr_assert_eq(e2e_run("quantize model gguf -q F16 -o g.gguf"), 0);
    for (size_t i = 0; i < LQ_COUNT_OF(cases); i++) {
        cr_expect_eq(e2e_run("%s", cases[i].arguments), cases[i].code, "%s: %s", cases[i].arguments,
                     e2e_stderr());
        cr_expect_not_null(strstr(e2e_stderr(), cases[i].said), "%s", e2e_stderr());
        cr_expect_not(lq_path_exists("model-AWQ-4bit-g128"));
    }
    e2e_write("recipe.lq", "%s", recipe);
    cr_expect_eq(e2e_run("q -D size=96"), 7);
    cr_expect_not_null(strstr(e2e_stderr(), "32, 64, 128 or 256"), "%s", e2e_stderr());
    cr_expect_eq(e2e_run("q -D size=512"), 7);
}

static void expect_refused(const char *config, make_arch_edit_fn edit, void *user, int size,
                           int code, const char *said)
{
    struct lq_error err = {0};
    (void)system("rm -rf folder");
    cr_assert_eq(make_arch_write(config, "folder", edit, user, &err), LQ_OK, "%s", err.message);
    cr_expect_eq(e2e_run("quantize folder awq " CALIBRATION
                         " --group-size %d -o refused --progress none",
                         size),
                 code, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stderr(), said), "%s", e2e_stderr());
    cr_expect_not(lq_path_exists("refused/model.safetensors"));
}

#define ODD(class, width, ffn, kv)                                                                 \
    "{\"architectures\": [\"" class "\"], \"hidden_size\": " width ", \"intermediate_size\": " ffn \
                                    ", \"num_hidden_layers\": 1, \"num_attention_heads\": 4, "     \
                                    "\"num_key_value_heads\": " kv                                 \
                                    ", \"max_position_embeddings\": 256, \"vocab_size\": 512, "    \
                                    "\"rms_norm_eps\": 1e-5, "                                     \
                                    "\"bos_token_id\": 509, \"eos_token_id\": 510, "               \
                                    "\"hidden_act\": \"silu\", "                                   \
                                    "\"tie_word_embeddings\": false, \"rope_theta\": 10000.0"

Test(e2e_awq, models_of_other_kinds_are_refused)
{
    char down[] = "model.layers.0.mlp.down_proj.weight";
    expect_refused(ODD("LlamaForCausalLM", "256", "384", "4") "}", plant_nan, down, 128, 16, "NaN");
    expect_refused(ODD("LlamaForCausalLM", "256", "320", "4") "}", NULL, NULL, 128, 17,
                   "'blk.0.ffn_down.weight' has 320 columns");
    expect_refused("{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 256, "
                   "\"intermediate_size\": 384, \"num_hidden_layers\": 1, "
                   "\"num_attention_heads\": 8, \"num_key_value_heads\": 1, \"head_dim\": 36, "
                   "\"max_position_embeddings\": 256, \"vocab_size\": 512, \"rms_norm_eps\": 1e-5, "
                   "\"bos_token_id\": 509, \"eos_token_id\": 510, \"hidden_act\": \"silu\", "
                   "\"tie_word_embeddings\": false, \"rope_theta\": 10000.0}",
                   NULL, NULL, 32, 17, "'blk.0.attn_k.weight' has 36 rows");
    expect_refused(ODD("MixtralForCausalLM", "256", "256", "2") ", \"num_local_experts\": 4, "
                                                                "\"num_experts_per_tok\": 2, "
                                                                "\"sliding_window\": null}",
                   NULL, NULL, 128, 17, "mixtures of experts");
    expect_refused("{\"architectures\": [\"Gemma2ForCausalLM\"], \"hidden_size\": 256, "
                   "\"intermediate_size\": 512, \"num_hidden_layers\": 1, "
                   "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
                   "\"max_position_embeddings\": 256, \"vocab_size\": 512, \"rms_norm_eps\": 1e-5, "
                   "\"bos_token_id\": 509, \"eos_token_id\": 510, \"hidden_activation\": "
                   "\"gelu_pytorch_tanh\", \"tie_word_embeddings\": true, \"head_dim\": 64, "
                   "\"query_pre_attn_scalar\": 64, \"sliding_window\": 8, "
                   "\"attn_logit_softcapping\": 50.0, \"final_logit_softcapping\": 30.0}",
                   NULL, NULL, 128, 17, "Gemma");
}
