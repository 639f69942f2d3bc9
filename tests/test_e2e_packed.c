/* Folders of quantized models through the built program: a folder that this file writes, in GPTQ's
 * format with columns in an order of their own, measures what its twin of floats does; what
 * lqbuild writes is measured in the recipe that makes it; such folders are inspected, calibrated,
 * and quantized again. */
#include <math.h>

#include "kernels/kernels.h"
#include "rules/format/safetensors.h"
#include "rules/format/safetensors_write.h"
#include "tests/e2e.h"

enum { GROUP = 64, TENSORS_MAX = 512, NAME_BYTES = 128, TEXT_BYTES = 12000 };

/* The logits are the same; the original's losses are summed over tiles of logits that are never
 * whole, the other's beside them: 2^-24 a value, less by the mean of hundreds (measured 8e-9). */
#define SAME_PERPLEXITY 1e-7
/* Divergence of a model from itself: what is left of sums in double. */
#define NO_DIVERGENCE 1e-12

static void init(void)
{
    e2e_init();
    e2e_copy_text("eval.txt", "text.txt", TEXT_BYTES);
    e2e_copy_text("calibration.txt", "words.txt", 60000);
}

TestSuite(e2e_packed, .init = init, .fini = e2e_fini, .timeout = 300);

/* A file of weights in the making. */
struct output {
    struct lq_safetensors_entry entries[TENSORS_MAX];
    char names[TENSORS_MAX][NAME_BYTES];
    size_t count;
    struct lq_buffer data;
};

static struct output packed;
static struct output plain;

static void add(struct output *out, const char *name, const char *suffix, const char *dtype,
                uint64_t first, uint64_t second, const void *data, size_t size_bytes)
{
    char *to = out->names[out->count];
    snprintf(to, NAME_BYTES, "%s%s", name, suffix);
    out->entries[out->count++] = (struct lq_safetensors_entry){.name = to,
                                                               .dtype = dtype,
                                                               .dim_count = second == 0 ? 1 : 2,
                                                               .shape = {first, second},
                                                               .size_bytes = size_bytes};
    lq_buffer_append(&out->data, data, size_bytes);
}

static void finish(struct output *out, const char *folder, const char *quantization)
{
    struct lq_error err;
    struct lq_buffer file;
    struct lq_map config;
    char path[NAME_BYTES];
    char command[4 * NAME_BYTES];
    snprintf(command, sizeof command, "mkdir %s && cp model/*token*.json model/*gen*.json %s",
             folder, folder);
    cr_assert_eq(system(command), 0);
    lq_buffer_init(&file);
    cr_assert_eq(lq_safetensors_header(out->entries, out->count, &file, &err), LQ_OK, "%s",
                 err.message);
    lq_buffer_append(&file, out->data.data, out->data.size_bytes);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    cr_assert_eq(lq_file_write(path, file.data, file.size_bytes, &err), LQ_OK);
    lq_buffer_fini(&file);
    lq_buffer_fini(&out->data);
    cr_assert_eq(lq_map_open(&config, "model/config.json", LQ_EIO, &err), LQ_OK);
    const char *text = (const char *)config.data;
    snprintf(path, sizeof path, "%s/config.json", folder);
    e2e_write(path, "{%s%.*s", quantization, (int)config.size_bytes - 1, text + 1);
    lq_map_close(&config);
}

/* One row of four bits at a time: column c is in group c * 5 % groups. */
static void quantize(const char *module, const unsigned char *from, uint64_t rows, uint64_t cols)
{
    uint64_t groups = cols / GROUP;
    uint32_t *words = calloc(cols / 8 * rows, sizeof *words);
    uint32_t *zeros = calloc(groups * rows / 8, sizeof *zeros);
    uint16_t *scales = calloc(groups * rows, sizeof *scales);
    int32_t *group_of = calloc(cols, sizeof *group_of);
    float *values = calloc(rows * cols, sizeof *values);
    for (uint64_t c = 0; c < cols; c++) {
        group_of[c] = (int32_t)(c * 5 % groups);
    }
    memset(zeros, 0x77, groups * rows / 8 * sizeof *zeros);
    for (uint64_t r = 0; r < rows; r++) {
        float largest[64] = {0};
        for (uint64_t c = 0; c < cols; c++) {
            uint16_t bits = 0;
            memcpy(&bits, from + 2 * (r * cols + c), sizeof bits);
            float *value = &values[r * cols + c];
            *value = lq_bf16_to_f32(bits);
            largest[group_of[c]] = fmaxf(largest[group_of[c]], fabsf(*value));
        }
        for (uint64_t c = 0; c < cols; c++) {
            uint16_t half = lq_f32_to_f16(2.0f * largest[group_of[c]] / 15.0f);
            float scale = lq_f16_to_f32(half);
            float *value = &values[r * cols + c];
            int level = (int)lrintf(*value / scale) + 8;
            level = level < 0 ? 0 : level > 15 ? 15 : level;
            *value = (float)(level - 8) * scale;
            scales[(uint64_t)group_of[c] * rows + r] = half;
            words[c / 8 * rows + r] |= (uint32_t)level << (4 * (c % 8));
        }
    }
    add(&packed, module, ".qweight", "I32", cols / 8, rows, words, cols / 8 * rows * 4);
    add(&packed, module, ".qzeros", "I32", groups, rows / 8, zeros, groups * rows / 8 * 4);
    add(&packed, module, ".scales", "F16", groups, rows, scales, groups * rows * 2);
    add(&packed, module, ".g_idx", "I32", cols, 0, group_of, cols * 4);
    add(&plain, module, ".weight", "F32", rows, cols, values, rows * cols * 4);
    free(words);
    free(zeros);
    free(scales);
    free(group_of);
    free(values);
}

static void make_folders(void)
{
    struct lq_error err;
    struct lq_map map;
    struct lq_arena arena;
    struct lq_safetensors file;
    lq_arena_init(&arena);
    lq_buffer_init(&packed.data);
    lq_buffer_init(&plain.data);
    cr_assert_eq(lq_map_open(&map, "model/model.safetensors", LQ_EIO, &err), LQ_OK);
    cr_assert_eq(lq_safetensors_parse(map.data, map.size_bytes, map.size_bytes, "m", LQ_EFORMAT,
                                      &arena, &file, NULL, &err),
                 LQ_OK, "%s", err.message);
    for (size_t i = 0; i < file.tensor_count; i++) {
        const struct lq_safetensor *tensor = &file.tensors[i];
        const unsigned char *data = (const unsigned char *)map.data + tensor->offset;
        const char *mark = strstr(tensor->name, "_proj.weight");
        uint64_t second = tensor->dim_count > 1 ? tensor->shape[1] : 0;
        if (mark != NULL) {
            char module[NAME_BYTES];
            snprintf(module, sizeof module, "%.*s", (int)(mark - tensor->name) + 5, tensor->name);
            quantize(module, data, tensor->shape[0], second);
            continue;
        }
        add(&packed, tensor->name, "", "BF16", tensor->shape[0], second, data, tensor->size_bytes);
        add(&plain, tensor->name, "", "BF16", tensor->shape[0], second, data, tensor->size_bytes);
    }
    finish(&packed, "packed",
           "\"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 64, "
           "\"desc_act\": true, \"sym\": true},");
    finish(&plain, "plain", "");
    lq_map_close(&map);
    lq_arena_fini(&arena);
}

/* The n-th number of that name in what was printed. */
static double number(const char *key, int which)
{
    const char *at = e2e_stdout();
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\": ", key);
    for (int i = 0; i <= which; i++) {
        at = strstr(at, quoted);
        cr_assert_not_null(at, "no %s in %s", key, e2e_stdout());
        at += strlen(quoted);
    }
    return strtod(at, NULL);
}

Test(e2e_packed, a_packed_folder_is_its_twin_of_floats)
{
    make_folders();
    cr_assert_eq(e2e_run("quality report plain packed --calibration-data text.txt "
                         "--calibration-samples 3 --include-layers --format json --progress none"),
                 0, "%s", e2e_stderr());
    cr_expect_float_eq(number("perplexity_delta_pct", 0), 0.0, 100.0 * SAME_PERPLEXITY);
    cr_expect_float_eq(number("kl_divergence_mean", 0), 0.0, NO_DIVERGENCE);
    /* Four bits, and for 64 of them a scale and a zero point; g_idx for 256 rows. */
    cr_expect_float_eq(number("bit_width", 1), 4.0 + 20.0 / 64 + 32.0 / 256, 1e-9);
    cr_expect_eq(number("mse", 0), 0.0);
    cr_assert_eq(e2e_run("inspect packed"), 0, "%s", e2e_stderr());
    cr_expect_not_null(strstr(e2e_stdout(), "GPTQ"), "%s", e2e_stdout());
    cr_expect_not_null(strstr(e2e_stdout(), "quantized matrices      42"), "%s", e2e_stdout());
    /* As an original, and compared with what it was made of. */
    cr_assert_eq(e2e_run("quality report packed model --calibration-data text.txt "
                         "--calibration-samples 3 --format json --progress none"),
                 0, "%s", e2e_stderr());
}

Test(e2e_packed, quantizing_again_must_be_allowed)
{
    make_folders();
    cr_expect_eq(e2e_run("quantize packed gguf -q Q4_0 -o again.gguf --progress none"), 2);
    cr_expect_not_null(strstr(e2e_stderr(), "is already GPTQ, 4 bits, groups of 64, columns by "
                                            "g_idx; quantizing it again to Q4_0 loses quality"),
                       "%s", e2e_stderr());
    static const char *const folders[] = {"packed", "plain"};
    for (size_t i = 0; i < 2; i++) {
        cr_expect_eq(e2e_run("quantize %s gguf -q IQ4_XS --allow-requantize --calibration-data "
                             "words.txt --calibration-samples 128 --sequence 32 -o %s.gguf "
                             "--progress none",
                             folders[i], folders[i]),
                     0, "%s", e2e_stderr());
    }
    /* All but the names of their sources. */
    cr_expect_eq(system("tail -c 2000000 packed.gguf > a && tail -c 2000000 plain.gguf > b && "
                        "cmp a b"),
                 0);
    cr_expect_eq(e2e_run("quantize packed smoothquant --calibration-data words.txt "
                         "--calibration-samples 128 --sequence 32 -o w --progress none"),
                 17, "%s", e2e_stderr());
}

/* A folder is measured by the recipe that makes it, and again where it lies; one changed scale
 * measures again. */
Test(e2e_packed, reports_take_what_the_recipe_makes)
{
    e2e_write("recipe.lq",
              "model base { source = \"model\" }\n"
              "text words { path = \"words.txt\" }\n"
              "text eval { path = \"text.txt\" }\n"
              "calibration cal { model = base  text = words  samples = 128  sequence = 32 }\n"
              "smoothquant w8a8 { model = base  calibration = cal  path = "
              "\"out/model.safetensors\"  config = \"out/config.json\" }\n"
              "report made { original = base  quantized = [w8a8]  text = eval  chunks = 3  path = "
              "\"made.json\" }\n"
              "model again { source = \"out\" }\n"
              "report read { original = base  quantized = [again]  text = eval  chunks = 3  path = "
              "\"read.json\" }\n");
    cr_assert_eq(e2e_run("build made --progress none"), 0, "%s", e2e_stderr());
    cr_assert_eq(system("cp model/*token*.json model/*gen*.json out"), 0);
    cr_assert_eq(e2e_run("build read --progress none"), 0, "%s", e2e_stderr());
    static const char *const wanted = "grep -E 'perplexity_quantized|kl_divergence|mse|bit_width'";
    char command[256];
    snprintf(command, sizeof command, "%s made.json > a && %s read.json > b && cmp a b", wanted,
             wanted);
    cr_expect_eq(system(command), 0);
    cr_expect_eq(system("grep -q INT8 made.json"), 0);
    cr_assert_eq(e2e_run("build read --json --progress none"), 0);
    cr_expect_eq(e2e_summary("ran"), 0);
}
