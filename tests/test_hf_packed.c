/* Folders of quantized models as config.json and the tensors' names, types and shapes describe
 * them: what is taken for which matrix, and what is refused with which words. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "rules/model/hf_config.h"
#include "rules/model/hf_names.h"
#include "rules/model/packing.h"

enum { TENSORS_MAX = 128, COLS = 64, FFN = 128, VOCAB = 64, NAME_BYTES = 128 };

static struct lq_arena arena;
static struct lq_error err;

/* A folder in the making. */
struct folder {
    struct lq_scanned_tensor tensors[TENSORS_MAX];
    char names[TENSORS_MAX][NAME_BYTES];
    struct lq_scanned_file file;
    const char *quantization;
};

static struct folder folder;

static void init(void)
{
    lq_arena_init(&arena);
}

static void fini(void)
{
    lq_arena_fini(&arena);
}

TestSuite(hf_packed, .init = init, .fini = fini);

static struct lq_scanned_tensor *add(const char *name, const char *dtype, uint64_t first,
                                     uint64_t second)
{
    size_t at = folder.file.tensor_count++;
    struct lq_scanned_tensor *tensor = &folder.tensors[at];
    snprintf(folder.names[at], NAME_BYTES, "%s", name);
    *tensor = (struct lq_scanned_tensor){
        .name = folder.names[at],
        .dtype_name = dtype,
        .dim_count = second == 0 ? 1 : 2,
        .shape = {second == 0 ? first : second, second == 0 ? 1 : first, 1, 1}};
    tensor->has_dtype = lq_dtype_find(dtype, &tensor->dtype);
    tensor->size_bytes = first * (second == 0 ? 1 : second) *
                         (tensor->has_dtype ? lq_dtype_row_bytes(tensor->dtype, 1) : 1);
    snprintf((char *)tensor->digest.bytes, sizeof tensor->digest.bytes, "%zu", at);
    return tensor;
}

static struct lq_scanned_tensor *part(const char *module, const char *suffix, const char *dtype,
                                      uint64_t first, uint64_t second)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%s%s", module, suffix);
    return add(name, dtype, first, second);
}

static void add_gptq(const char *module, uint64_t rows, uint64_t cols)
{
    part(module, ".qweight", "I32", cols / 8, rows);
    part(module, ".qzeros", "I32", cols / 32, rows / 8);
    part(module, ".scales", "F16", cols / 32, rows);
    part(module, ".g_idx", "I32", cols, 0);
}

static void add_awq(const char *module, uint64_t rows, uint64_t cols)
{
    part(module, ".qweight", "I32", cols, rows / 8);
    part(module, ".qzeros", "I32", cols / 32, rows / 8);
    part(module, ".scales", "F16", cols / 32, rows);
}

static void add_int8(const char *module, uint64_t rows, uint64_t cols)
{
    part(module, ".weight", "I8", rows, cols);
    part(module, ".weight_scale", "BF16", rows, 1);
}

static void add_packed(const char *module, uint64_t rows, uint64_t cols)
{
    unsigned char shape[16] = {(unsigned char)rows, 0, 0, 0, 0, 0, 0, 0, (unsigned char)cols};
    part(module, ".weight_packed", "I32", rows, cols / 8);
    part(module, ".weight_scale", "BF16", rows, cols / 32);
    lq_digest_of(shape, sizeof shape, &part(module, ".weight_shape", "I64", 2, 0)->digest);
}

#define ARGS(bits, more)                                                                           \
    "{\"num_bits\": " bits ", \"type\": \"int\", \"symmetric\": true, \"dynamic\": false" more "}"
#define INPUTS                                                                                     \
    "{\"num_bits\": 8, \"type\": \"int\", \"symmetric\": true, \"dynamic\": true, \"strategy\": "  \
    "\"token\"}"
#define COMPRESSED(format, weights, inputs)                                                        \
    "{\"quant_method\": \"compressed-tensors\", \"format\": \"" format                             \
    "\", \"quantization_status\": \"compressed\", \"kv_cache_scheme\": null, \"config_groups\": "  \
    "{\"group_0\": {\"targets\": [\"Linear\"], \"weights\": " weights                              \
    ", \"input_activations\": " inputs ", \"output_activations\": null}}}"

static const struct format {
    const char *name;
    const char *quantization;
    void (*add)(const char *module, uint64_t rows, uint64_t cols);
} formats[] = {
    {"gptq",
     "{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 32, \"desc_act\": false, \"sym\": "
     "true, \"checkpoint_format\": \"gptq\"}",
     add_gptq},
    {"awq",
     "{\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 32, \"zero_point\": true, "
     "\"version\": \"GEMM\"}",
     add_awq},
    {"int-quantized", COMPRESSED("int-quantized", ARGS("8", ", \"strategy\": \"channel\""), INPUTS),
     add_int8},
    {"pack-quantized",
     COMPRESSED("pack-quantized", ARGS("4", ", \"strategy\": \"group\", \"group_size\": 32"),
                "null"),
     add_packed},
};

/* A model of one layer; everything but o_proj is quantized. */
static void make(const struct format *format)
{
    static const struct {
        const char *name;
        uint64_t rows;
        uint64_t cols;
    } matrices[] = {{"self_attn.q_proj", COLS, COLS}, {"self_attn.k_proj", COLS, COLS},
                    {"self_attn.v_proj", COLS, COLS}, {"mlp.gate_proj", FFN, COLS},
                    {"mlp.up_proj", FFN, COLS},       {"mlp.down_proj", COLS, FFN}};
    memset(&folder, 0, sizeof folder);
    folder.file.name = "model.safetensors";
    folder.file.tensors = folder.tensors;
    folder.quantization = format->quantization;
    add("model.embed_tokens.weight", "BF16", VOCAB, COLS);
    add("model.norm.weight", "BF16", COLS, 0);
    add("model.layers.0.input_layernorm.weight", "BF16", COLS, 0);
    add("model.layers.0.post_attention_layernorm.weight", "BF16", COLS, 0);
    add("model.layers.0.self_attn.o_proj.weight", "BF16", COLS, COLS);
    for (size_t i = 0; i < LQ_COUNT_OF(matrices); i++) {
        char module[NAME_BYTES];
        snprintf(module, sizeof module, "model.layers.0.%s", matrices[i].name);
        format->add(module, matrices[i].rows, matrices[i].cols);
    }
}

static enum lq_status describe(const char *other, struct lq_tensor_index *index)
{
    char text[2048];
    struct lq_hf_config config;
    cJSON *json = NULL;
    cJSON *second = NULL;
    snprintf(text, sizeof text,
             "{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": %d, "
             "\"intermediate_size\": %d, \"num_hidden_layers\": 1, \"num_attention_heads\": 2, "
             "\"num_key_value_heads\": 2, \"vocab_size\": %d, \"max_position_embeddings\": 64, "
             "\"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"tie_word_embeddings\": true%s%s}",
             COLS, FFN, VOCAB, folder.quantization == NULL ? "" : ", \"quantization_config\": ",
             folder.quantization == NULL ? "" : folder.quantization);
    lq_error_clear(&err);
    cr_assert_eq(lq_json_parse(text, strlen(text), "config.json", LQ_EFORMAT, &json, &err), LQ_OK,
                 "%s", err.message);
    if (other != NULL) {
        cr_assert_eq(
            lq_json_parse(other, strlen(other), "quantize_config.json", LQ_EFORMAT, &second, &err),
            LQ_OK, "%s", err.message);
    }
    enum lq_status status = lq_hf_config_read(json, &arena, &config, &err);
    if (status == LQ_OK) {
        status = lq_hf_quantization_find(json, second, &config.quantization, &err);
    }
    if (status == LQ_OK) {
        status = lq_hf_tensor_index(&config, &folder.file, 1, &arena, index, &err);
    }
    cJSON_Delete(json);
    cJSON_Delete(second);
    return status;
}

static struct lq_scanned_tensor *find(const char *name)
{
    for (size_t i = 0; i < folder.file.tensor_count; i++) {
        if (strcmp(folder.names[i], name) == 0) {
            return &folder.tensors[i];
        }
    }
    cr_assert(false, "no tensor %s", name);
    return NULL;
}

static void rename_tensor(const char *from, const char *to)
{
    size_t at = (size_t)(find(from) - folder.tensors);
    snprintf(folder.names[at], NAME_BYTES, "%s", to);
}

Test(hf_packed, parts_become_pieces_of_one_tensor)
{
    for (size_t f = 0; f < LQ_COUNT_OF(formats); f++) {
        struct lq_tensor_index index;
        struct lq_tensor_index again;
        struct lq_buffer text;
        make(&formats[f]);
        cr_assert_eq(describe(NULL, &index), LQ_OK, "%s: %s", formats[f].name, err.message);
        lq_buffer_init(&text);
        cr_assert_eq(lq_tensor_index_format(&index, &text, &err), LQ_OK);
        cr_assert_eq(lq_tensor_index_parse(text.data, text.size_bytes, &arena, &again, &err), LQ_OK,
                     "%s: %s", formats[f].name, err.message);
        lq_buffer_fini(&text);
        const struct lq_model_tensor *down = lq_tensor_index_find(&again, "blk.0.ffn_down.weight");
        cr_assert_not_null(down);
        cr_assert_not_null(down->packing);
        cr_expect_str_eq(down->packing->method->name, formats[f].name);
        cr_expect(down->ne[0] == FFN && down->ne[1] == COLS && down->ne[2] == 1);
        cr_expect_eq(down->packing->group_cols, f == 2 ? FFN : 32);
        cr_expect_eq(down->packing->rounds_inputs, f == 2);
        cr_expect_eq(down->packing->has_groups, f == 0);
        cr_expect_eq(down->piece_count, lq_packing_part_count(down->packing));
        cr_expect_str_eq(
            lq_model_tensor_form(down, &arena),
            lq_model_tensor_form(lq_tensor_index_find(&index, "blk.0.ffn_down.weight"), &arena));
        const struct lq_model_tensor *q = lq_tensor_index_find(&again, "blk.0.attn_q.weight");
        cr_expect_eq(q->permute_heads, 2);
        const struct lq_model_tensor *o = lq_tensor_index_find(&again, "blk.0.attn_output.weight");
        cr_expect_null(o->packing, "a module that is left out stays what it is");
        cr_expect_eq(o->dtype, LQ_DTYPE_BF16);
    }
}

static void expect_error(const char *other, enum lq_status status, const char *words)
{
    struct lq_tensor_index index;
    cr_expect_eq(describe(other, &index), status, "%s: %s", words, err.message);
    cr_expect_not_null(strstr(err.message, words), "%s: %s", words, err.message);
}

struct config_case {
    size_t format;
    const char *from;
    const char *to;
    enum lq_status status;
    const char *words;
};

static const struct config_case config_cases[] = {
    {0, "\"gptq\", \"bits\"", "\"bitnet\", \"bits\"", LQ_EUNSUPPORTED,
     "'quant_method' is 'bitnet', which lqbuild cannot read; expected gptq, awq or "
     "compressed-tensors"},
    {0, "\"quant_method\": \"gptq\"", "\"quant_method\": 7", LQ_EFORMAT, "quant_method"},
    {0, "\"bits\": 4", "\"bits\": 5", LQ_EUNSUPPORTED,
     "'bits' is 5; of GPTQ lqbuild reads 2, 3, 4 "
     "or 8 bits"},
    {0, "\"bits\": 4", "\"bits\": \"4\"", LQ_EFORMAT, "bits"},
    {0, "\"bits\": 4, ", "", LQ_EFORMAT, "bits"},
    {0, "\"group_size\": 32", "\"group_size\": 0", LQ_EFORMAT, "'group_size' is 0"},
    {0, "\"group_size\": 32", "\"group_size\": -2", LQ_EFORMAT, "group_size"},
    {0, "\"group_size\": 32", "\"group_size\": 1e99", LQ_EFORMAT, "group_size"},
    {0, "\"group_size\": 32", "\"group_size\": 48", LQ_EFORMAT,
     "has 64 columns, which groups of 48 do not divide"},
    {0, "\"group_size\": 32", "\"group_size\": 64", LQ_EFORMAT, "config.json makes it 1x64"},
    {0, "\"bits\": 4", "\"bits\": 8", LQ_EFORMAT,
     "qweight' has shape 8x64, but config.json makes "
     "it 16x64"},
    {0, "\"checkpoint_format\": \"gptq\"", "\"checkpoint_format\": \"marlin\"", LQ_EUNSUPPORTED,
     "'marlin'"},
    {0, "\"sym\": true", "\"is_marlin_format\": true", LQ_EUNSUPPORTED, "is_marlin_format"},
    {0, "\"sym\": true", "\"dynamic\": {\"-:.*\": {}}", LQ_EUNSUPPORTED, "'dynamic'"},
    {0, "\"sym\": true", "\"pack_dtype\": \"int16\"", LQ_EUNSUPPORTED, "pack_dtype"},
    {1, "\"GEMM\"", "\"gemv\"", LQ_EUNSUPPORTED, "'version' is 'gemv'"},
    {1, "\"bits\": 4", "\"bits\": 3", LQ_EUNSUPPORTED, "of AWQ lqbuild reads 4 bits"},
    {1, "\"zero_point\": true", "\"zero_point\": false", LQ_EUNSUPPORTED, "zero_point"},
    {2, "\"format\": \"int-quantized\"", "\"format\": \"float-quantized\"", LQ_EUNSUPPORTED,
     "float-quantized"},
    {2, "\"quantization_status\": \"compressed\"", "\"quantization_status\": \"frozen\"",
     LQ_EUNSUPPORTED, "frozen"},
    {2, "\"kv_cache_scheme\": null", "\"kv_cache_scheme\": {\"num_bits\": 8}", LQ_EUNSUPPORTED,
     "kv_cache_scheme"},
    {2, "\"strategy\": \"channel\"", "\"strategy\": \"tensor\"", LQ_EUNSUPPORTED,
     "'strategy' is 'tensor'"},
    {2, "\"dynamic\": true", "\"dynamic\": false", LQ_EUNSUPPORTED, "'dynamic' is 'false'"},
    {2, "\"strategy\": \"token\"", "\"strategy\": \"tensor\"", LQ_EUNSUPPORTED, "expected token"},
    {2, "\"output_activations\": null", "\"output_activations\": {\"num_bits\": 8}",
     LQ_EUNSUPPORTED, "output_activations"},
    {2, "\"group_0\"", "\"group_1\": 7, \"group_0\"", LQ_EFORMAT, "no object"},
    {2, "{\"group_0\"",
     "{\"a\": {\"weights\": " ARGS("8", ", \"strategy\": \"channel\"") "}, \"group_0\"",
     LQ_EUNSUPPORTED, "several ways"},
    {3, "\"group_size\": 32", "\"group_size\": 128", LQ_EFORMAT, "which groups of 128 do not"},
    {3, "\"symmetric\": true", "\"symmetric\": false", LQ_EFORMAT, "weight_zero_point' is missing"},
};

static char *replaced(const char *text, const char *from, const char *to)
{
    static char out[2048];
    const char *at = strstr(text, from);
    cr_assert_not_null(at, "%s in %s", from, text);
    snprintf(out, sizeof out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    return out;
}

Test(hf_packed, configurations_that_are_refused)
{
    for (size_t i = 0; i < LQ_COUNT_OF(config_cases); i++) {
        const struct config_case *c = &config_cases[i];
        make(&formats[c->format]);
        folder.quantization = replaced(folder.quantization, c->from, c->to);
        expect_error(NULL, c->status, c->words);
    }
}

#define LAYER "model.layers.0."

Test(hf_packed, tensors_that_are_refused)
{
    make(&formats[0]);
    rename_tensor(LAYER "mlp.up_proj.scales", "x.scales");
    expect_error(NULL, LQ_EFORMAT, "mlp.up_proj.scales' is missing");
    make(&formats[0]);
    find(LAYER "mlp.up_proj.scales")->dtype_name = "I16";
    find(LAYER "mlp.up_proj.scales")->dtype = LQ_DTYPE_I16;
    expect_error(NULL, LQ_EFORMAT, "has type I16; for GPTQ it must be F16, BF16 or F32");
    make(&formats[0]);
    find(LAYER "mlp.up_proj.qweight")->dtype_name = "U8";
    find(LAYER "mlp.up_proj.qweight")->has_dtype = false;
    expect_error(NULL, LQ_EFORMAT, "has type U8; for GPTQ it must be I32");
    make(&formats[0]);
    find(LAYER "mlp.down_proj.g_idx")->shape[0] = 64;
    expect_error(NULL, LQ_EFORMAT, "g_idx' has shape 64, but config.json makes it 128");
    make(&formats[1]);
    find(LAYER "mlp.down_proj.qzeros")->shape[0] = 64;
    expect_error(NULL, LQ_EFORMAT, "qzeros' has shape 4x64");
    make(&formats[2]);
    rename_tensor(LAYER "mlp.up_proj.weight_scale", "x");
    expect_error(NULL, LQ_EFORMAT, "mlp.up_proj.weight_scale' is missing");
    make(&formats[2]);
    find(LAYER "mlp.up_proj.weight")->dtype = LQ_DTYPE_BF16;
    find(LAYER "mlp.up_proj.weight")->dtype_name = "BF16";
    expect_error(NULL, LQ_EFORMAT,
                 "has type BF16; for compressed-tensors int-quantized it must be "
                 "I8");
    make(&formats[3]);
    find(LAYER "mlp.up_proj.weight_shape")->digest.bytes[0]++;
    expect_error(NULL, LQ_EFORMAT, "weight_shape' does not say 128 rows and 64 columns");
    make(&formats[0]);
    add(LAYER "mlp.up_proj.weight", "BF16", FFN, COLS);
    expect_error(NULL, LQ_EFORMAT, "is there twice");
    make(&formats[0]);
    folder.quantization = NULL;
    expect_error(NULL, LQ_EFORMAT, "self_attn.q_proj.weight' is missing");
    make(&formats[1]); /* AWQ's tensors, GPTQ's configuration */
    folder.quantization = formats[0].quantization;
    expect_error(NULL, LQ_EFORMAT, "has shape 64x8, but config.json makes it 8x64");
    make(&formats[3]);
    folder.quantization = formats[0].quantization;
    expect_error(NULL, LQ_EFORMAT, "is missing");
    make(&formats[0]);
    part(LAYER "self_attn.o_proj", ".qzeros", "I32", 2, 8);
    expect_error(NULL, LQ_EUNSUPPORTED, "o_proj.qzeros' has no place");
}

/* Rows that do not fill their words: 36 of 4 bits. */
Test(hf_packed, rows_must_fill_words)
{
    struct lq_packing packing = {.method = lq_packing_find("awq"),
                                 .bits = 4,
                                 .group_cols = 32,
                                 .scale_dtype = LQ_DTYPE_F16,
                                 .has_zeros = true};
    uint64_t shape[2];
    uint64_t size_bytes = 0;
    uint32_t dims = 0;
    cr_expect_not(lq_packing_shape(&packing, LQ_PACKED_LEVELS, 64, 36, shape, &dims, &size_bytes));
    cr_expect(lq_packing_shape(&packing, LQ_PACKED_LEVELS, 64, 40, shape, &dims, &size_bytes));
    cr_expect(shape[0] == 64 && shape[1] == 5 && size_bytes == 64 * 5 * 4);
    cr_expect_not(lq_packing_shape(&packing, LQ_PACKED_SCALES, (uint64_t)1 << 40, (uint64_t)1 << 40,
                                   shape, &dims, &size_bytes));
    packing.group_cols = 0;
    cr_expect_not(lq_packing_shape(&packing, LQ_PACKED_SCALES, 64, 40, shape, &dims, &size_bytes));
}

/* Writers of GPTQ folders put zeros where the model has no bias. */
Test(hf_packed, biases_of_zeros_are_left_out)
{
    static const unsigned char zeros[2 * FFN];
    struct lq_tensor_index index;
    make(&formats[0]);
    struct lq_scanned_tensor *bias = part(LAYER "mlp.up_proj", ".bias", "F16", FFN, 0);
    lq_digest_of(zeros, sizeof zeros, &bias->digest);
    cr_expect_eq(describe(NULL, &index), LQ_OK, "%s", err.message);
    bias->digest.bytes[3]++;
    expect_error(NULL, LQ_EUNSUPPORTED, "up_proj.bias' has no place");
}

Test(hf_packed, older_folders_say_it_in_a_file_of_its_own)
{
    struct lq_tensor_index index;
    make(&formats[0]);
    folder.quantization = NULL;
    cr_expect_eq(describe("{\"bits\": 4, \"group_size\": 32, \"desc_act\": true}", &index), LQ_OK,
                 "%s", err.message);
    expect_error("{\"bits\": 9, \"group_size\": 32}", LQ_EUNSUPPORTED,
                 "quantize_config.json: 'bits' is 9");
    make(&formats[0]);
    cr_expect_eq(describe("{\"bits\": 4, \"group_size\": 32}", &index), LQ_OK, "%s", err.message);
    expect_error("{\"bits\": 8, \"group_size\": 32}", LQ_EFORMAT,
                 "quantize_config.json says 8 bits and groups of 32, config.json 4 and 32");
}
