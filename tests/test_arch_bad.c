/* Models that lqbuild cannot run, and damaged ones, through the built program: what still works
 * works, what does not says what is missing and where, with its exit code. */
#define _GNU_SOURCE
#include "e2e.h"

#include <math.h>

#include "tests/arch_configs.h"
#include "tests/make_arch.h"

enum { MODEL_NOT_FOUND = 3, FORMAT = 9, IMATRIX = 10, IMPORTANCE = 16, UNSUPPORTED = 17 };

#define SAMPLES "--calibration-data words.txt --calibration-samples 128 --sequence 32"

static void init(void)
{
    e2e_init();
    e2e_copy_text("calibration.txt", "words.txt", 16000);
}

TestSuite(arch_bad, .init = init, .fini = e2e_fini, .timeout = 600);

/* Runs it; every fragment up to NULL must be in stderr. */
static void expect_said(int code, const char *arguments, ...)
{
    cr_expect_eq(e2e_run("%s", arguments), code, "%s: expected exit code %d: %s", arguments, code,
                 e2e_stderr());
    va_list args;
    va_start(args, arguments);
    for (const char *part = va_arg(args, const char *); part != NULL;
         part = va_arg(args, const char *)) {
        cr_expect_not_null(strstr(e2e_stderr(), part), "%s: '%s' is not in: %s", arguments, part,
                           e2e_stderr());
    }
    va_end(args);
}

static void make_folder(const char *name, make_arch_edit_fn edit, void *user)
{
    struct lq_error err = {0};
    cr_assert_eq(make_arch_write(arch_config_find(name)->text, "folder", edit, user, &err), LQ_OK,
                 "%s", err.message);
}

/* Writes `to` in place of the only `from`, of the same length, in a file. */
static void patch(const char *path, const void *from, const void *to, size_t size_bytes)
{
    struct lq_buffer bytes = {0};
    struct lq_error err = {0};
    cr_assert_eq(lq_file_read(path, 1 << 26, &bytes, &err), LQ_OK, "%s", err.message);
    char *at = memmem(bytes.data, bytes.size_bytes, from, size_bytes);
    cr_assert_not_null(at, "%s lacks what is to be replaced", path);
    size_t rest = bytes.size_bytes - (size_t)(at + 1 - (char *)bytes.data);
    cr_assert_null(memmem(at + 1, rest, from, size_bytes));
    memcpy(at, to, size_bytes);
    cr_assert_eq(lq_file_write(path, bytes.data, bytes.size_bytes, &err), LQ_OK, "%s", err.message);
    lq_buffer_fini(&bytes);
}

/* A u32 key of a GGUF file. */
static void patch_u32(const char *path, const char *key, uint32_t from, uint32_t to)
{
    char old[128];
    char new[128];
    const uint32_t type = LQ_GGUF_U32;
    size_t length = strlen(key);
    memcpy(old, key, length);
    memcpy(old + length, &type, sizeof type);
    memcpy(old + length + sizeof type, &from, sizeof from);
    memcpy(new, old, length + sizeof type);
    memcpy(new + length + sizeof type, &to, sizeof to);
    patch(path, old, new, length + sizeof type + sizeof from);
}

static void patch_config(const char *from, const char *to)
{
    cr_assert_eq(strlen(from), strlen(to));
    patch("folder/config.json", from, to, strlen(from));
}

/* ---- unknown architectures ---- */

/* A Llama file that says it is a zebra: its tensors have the usual names. */
static void make_zebra(void)
{
    make_folder("llama", NULL, NULL);
    cr_assert_eq(e2e_run("quantize folder gguf -q F32 -o zebra.gguf"), 0, "%s", e2e_stderr());
    static const char from[] = "general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0llama";
    static const char to[] = "general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0zebra";
    patch("zebra.gguf", from, to, sizeof from - 1);
}

Test(arch_bad, a_file_of_an_unknown_architecture_is_quantized_and_says_what_it_lacks)
{
    make_zebra();
    expect_said(0, "quantize zebra.gguf gguf -q Q4_K_M -o z4.gguf", "warning: zebra.gguf: ",
                "the architecture 'zebra' has no forward pass here: it can be quantized", "imatrix",
                "perplexity", NULL);
    expect_said(0, "inspect z4.gguf", NULL);
    cr_expect_not_null(strstr(e2e_stdout(), "zebra"), "%s", e2e_stdout());
    cr_expect_not_null(strstr(e2e_stdout(), "Q4_K"), "%s", e2e_stdout());
    /* Once is enough. */
    expect_said(0, "quantize zebra.gguf gguf -q Q8_0 -o z8.gguf", NULL);
    cr_expect_null(strstr(e2e_stderr(), "warning"), "%s", e2e_stderr());
}

Test(arch_bad, an_unknown_architecture_takes_an_imatrix_that_others_made)
{
    make_zebra();
    expect_said(IMATRIX, "quantize zebra.gguf gguf -q IQ2_XXS -o z.gguf", "imatrix", NULL);
    cr_assert_eq(e2e_run("analyze folder -o im.gguf " SAMPLES), 0, "%s", e2e_stderr());
    expect_said(0, "quantize zebra.gguf gguf -q IQ2_XXS --imatrix im.gguf -o z.gguf", NULL);
    cr_expect_eq(access("z.gguf", F_OK), 0);
}

Test(arch_bad, nothing_is_run_of_an_unknown_architecture)
{
    make_zebra();
    static const char said[] =
        "zebra.gguf: the forward pass does not know the architecture 'zebra' (known are llama, ";
    static const char advice[] = "it can still be quantized without an imatrix";
    expect_said(UNSUPPORTED, "analyze zebra.gguf -o im.gguf " SAMPLES, said, advice, NULL);
    expect_said(UNSUPPORTED, "quantize zebra.gguf gguf -q Q4_K_M -o z.gguf " SAMPLES, said, NULL);
    e2e_write("r.lq", "model base { source = \"zebra.gguf\" }\n"
                      "gguf g { model = base level = \"Q8_0\" path = \"g.gguf\" }\n"
                      "text words { path = \"words.txt\" }\n"
                      "report r { original = base quantized = [g] text = words context = 64 "
                      "path = \"r.json\" }\n");
    expect_said(UNSUPPORTED, "-f r.lq", said, advice, NULL);
    cr_expect_neq(access("im.gguf", F_OK), 0);
    cr_expect_neq(access("z.gguf", F_OK), 0);
    cr_expect_neq(access("r.json", F_OK), 0);
}

Test(arch_bad, a_folder_of_an_unknown_class_is_refused_with_a_way_out)
{
    make_folder("llama", NULL, NULL);
    patch_config("LlamaForCausalLM", "ZebraForCausalLM");
    static const char *const commands[] = {"quantize folder gguf -q Q8_0 -o z.gguf",
                                           "analyze folder -o im.gguf " SAMPLES};
    for (int i = 0; i < 2; i++) {
        expect_said(UNSUPPORTED, commands[i], "config.json: architecture 'ZebraForCausalLM'",
                    "LlamaForCausalLM", "Gemma3ForCausalLM",
                    "A GGUF file of it can be quantized without an imatrix", NULL);
    }
    cr_expect_neq(access("z.gguf", F_OK), 0);
}

/* ---- damaged folders ---- */

struct damage {
    const char *tensor;
    float value;  /* written to one place */
    float factor; /* of all values; 0: the tensor is left out */
};

static bool spoil(void *user, const struct make_arch_tensor *tensor, float *values)
{
    const struct damage *damage = user;
    uint64_t count = tensor->cols * (tensor->rows == 0 ? 1 : tensor->rows);
    if (strcmp(tensor->name, damage->tensor) != 0) {
        return true;
    }
    for (uint64_t i = 0; i < count; i++) {
        values[i] *= damage->factor;
    }
    if (damage->factor == 1.0f) {
        for (uint64_t i = tensor->cols - 1; i < count; i += tensor->cols) {
            values[i] = damage->value;
        }
    }
    return damage->factor != 0.0f;
}

Test(arch_bad, a_missing_tensor_is_named_with_its_file)
{
    static const struct {
        const char *config;
        const char *tensor;
    } cases[] = {
        {"llama", "model.layers.1.mlp.up_proj.weight"},
        {"llama", "model.embed_tokens.weight"},
        {"qwen2", "model.layers.0.self_attn.k_proj.bias"},
        {"phi3", "model.layers.1.self_attn.qkv_proj.weight"},
        {"gemma3", "model.layers.6.post_feedforward_layernorm.weight"},
        {"mixtral", "model.layers.1.block_sparse_moe.experts.3.w2.weight"},
        {"qwen3moe", "model.layers.0.mlp.gate.weight"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct damage damage = {cases[i].tensor, 0.0f, 0.0f};
        char said[160];
        make_folder(cases[i].config, spoil, &damage);
        (void)snprintf(said, sizeof said,
                       "error: folder: model.safetensors: tensor '%s' is missing", cases[i].tensor);
        expect_said(FORMAT, "quantize folder gguf -q Q8_0 -o z.gguf", said, NULL);
        cr_expect_neq(access("z.gguf", F_OK), 0);
    }
}

Test(arch_bad, odd_shapes_are_named_with_both_sizes)
{
    make_folder("llama", NULL, NULL);
    patch_config("\"intermediate_size\": 512", "\"intermediate_size\": 500");
    expect_said(
        FORMAT, "quantize folder gguf -q Q8_0 -o z.gguf",
        "model.safetensors: tensor 'model.layers.0.mlp.gate_proj.weight' has shape 512x256, "
        "but config.json makes it 500x256",
        NULL);
    make_folder("mixtral", NULL, NULL);
    patch_config("\"num_local_experts\": 6", "\"num_local_experts\": 5");
    expect_said(FORMAT, "quantize folder gguf -q Q8_0 -o z.gguf", "gate.weight", "6x256", "5x256",
                NULL);
    make_folder("qwen3", NULL, NULL);
    patch_config("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
    expect_said(UNSUPPORTED, "quantize folder gguf -q Q8_0 -o z.gguf",
                "has no place in a Qwen3 model of 1 layers", "model.layers.1.", NULL);
}

Test(arch_bad, keys_and_tensors_of_a_file_that_disagree_are_named)
{
    make_folder("llama", NULL, NULL);
    cr_assert_eq(e2e_run("quantize folder gguf -q F32 -o a.gguf"), 0, "%s", e2e_stderr());
    patch_u32("a.gguf", "llama.feed_forward_length", 512, 500);
    expect_said(MODEL_NOT_FOUND, "analyze a.gguf -o im.gguf " SAMPLES,
                "a.gguf: the tensor 'blk.0.ffn_gate.weight' has 256 columns and 512 rows, expected "
                "256 and 500 from the model's keys",
                NULL);
    patch_u32("a.gguf", "llama.feed_forward_length", 500, 512);
    patch_u32("a.gguf", "llama.block_count", 2, 3);
    expect_said(MODEL_NOT_FOUND, "analyze a.gguf -o im.gguf " SAMPLES,
                "a.gguf: the tensor 'blk.2.attn_norm.weight' is missing", NULL);
    patch_u32("a.gguf", "llama.block_count", 3, 1);
    patch_u32("a.gguf", "llama.attention.head_count_kv", 2, 3);
    expect_said(MODEL_NOT_FOUND, "analyze a.gguf -o im.gguf " SAMPLES,
                "a.gguf: 4 heads of 64 values with 3 key-value heads do not fit together", NULL);
    cr_expect_neq(access("im.gguf", F_OK), 0);
}

Test(arch_bad, an_incomplete_file_is_quantized_with_a_warning)
{
    make_folder("llama", NULL, NULL);
    cr_assert_eq(e2e_run("quantize folder gguf -q F32 -o a.gguf"), 0, "%s", e2e_stderr());
    patch_u32("a.gguf", "llama.block_count", 2, 3);
    expect_said(0, "quantize a.gguf gguf -q Q8_0 -o z.gguf",
                "warning: a.gguf: the tensor 'blk.2.attn_norm.weight' is missing; it can be "
                "quantized as it stands, but not run",
                NULL);
}

/* Names of the file that was given, of the model, and what to do. */
Test(arch_bad, texts_and_vocabularies_are_named)
{
    make_folder("llama", NULL, NULL);
    e2e_copy_text("calibration.txt", "short.txt", 500);
    expect_said(15, "analyze folder -o im.gguf --calibration-data short.txt",
                "text 'words' (short.txt): the text has ", "512 samples of 512", "give more text",
                NULL);
    cr_assert_eq(e2e_run("quantize folder gguf -q F32 -o a.gguf"), 0, "%s", e2e_stderr());
    patch_u32("a.gguf", "tokenizer.ggml.bos_token_id", 509, 512);
    expect_said(FORMAT, "analyze a.gguf -o im.gguf " SAMPLES,
                "the vocabulary of model 'a.gguf': tokenizer.ggml.bos_token_id is 512, but there "
                "are only 512 tokens",
                NULL);
    cr_assert_eq(e2e_run("quantize model gguf -q Q8_0 -o tiny.gguf"), 0, "%s", e2e_stderr());
    expect_said(FORMAT, "quality report folder tiny.gguf --calibration-data words.txt",
                "model 'tiny.gguf' has 4096 tokens in its vocabulary and the original 512", NULL);
}

/* ---- values that are not finite ---- */

Test(arch_bad, nan_in_weights_names_the_tensor)
{
    static const struct {
        const char *config;
        struct damage damage;
        const char *said;
    } cases[] = {
        {"llama",
         {"model.layers.1.mlp.down_proj.weight", NAN, 1.0f},
         "the tensor 'blk.1.ffn_down.weight' holds NaN or infinity"},
        {"llama",
         {"model.layers.0.input_layernorm.weight", INFINITY, 1.0f},
         "the tensor 'blk.0.attn_norm.weight' holds NaN or infinity"},
        {"qwen2",
         {"model.embed_tokens.weight", NAN, 1.0f},
         "the tensor 'token_embd.weight' holds NaN or infinity"},
        {"qwen2",
         {"model.layers.1.self_attn.v_proj.bias", -INFINITY, 1.0f},
         "the tensor 'blk.1.attn_v.bias' holds NaN or infinity"},
        {"qwen3moe",
         {"model.layers.1.mlp.experts.2.up_proj.weight", NAN, 1.0f},
         "expert 2: the tensor 'blk.1.ffn_up_exps.weight' holds NaN or infinity"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct damage damage = cases[i].damage;
        make_folder(cases[i].config, spoil, &damage);
        expect_said(IMPORTANCE, "analyze folder -o im.gguf " SAMPLES, cases[i].said, NULL);
        cr_expect_neq(access("im.gguf", F_OK), 0);
    }
}

Test(arch_bad, overflow_in_activations_names_layer_and_tensor)
{
    static const struct {
        const char *config;
        const char *tensor;
        const char *said;
    } cases[] = {
        {"llama", "model.layers.0.self_attn.q_proj.weight",
         "layer 0 gives activations that are NaN or infinite, first behind 'blk.0.attn_q.weight'"},
        {"llama", "model.layers.0.mlp.up_proj.weight",
         "layer 0 gives activations that are NaN or infinite, first behind 'blk.0.ffn_up.weight'"},
        {"llama", "model.layers.0.mlp.down_proj.weight",
         "layer 0 gives activations that are NaN or infinite, first behind "
         "'blk.0.ffn_down.weight'"},
        {"phi3", "model.layers.0.self_attn.qkv_proj.weight",
         "layer 0 gives activations that are NaN or infinite, first behind "
         "'blk.0.attn_qkv.weight'"},
        {"mixtral", "model.layers.0.block_sparse_moe.experts.1.w3.weight",
         "layer 0 gives activations that are NaN or infinite, first behind "
         "'blk.0.ffn_up_exps.weight'"},
        {"llama", "model.layers.1.mlp.up_proj.weight",
         "of the input of 'blk.1.ffn_down.weight' is "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct damage damage = {cases[i].tensor, 0.0f, 2e38f};
        make_folder(cases[i].config, spoil, &damage);
        expect_said(IMPORTANCE, "analyze folder -o im.gguf " SAMPLES, cases[i].said, NULL);
        cr_expect_neq(access("im.gguf", F_OK), 0);
    }
}

Test(arch_bad, a_report_names_the_layer_too)
{
    struct damage damage = {"model.layers.1.mlp.up_proj.weight", 0.0f, 2e38f};
    make_folder("llama", spoil, &damage);
    e2e_write("r.lq", "model base { source = \"folder\" }\n"
                      "gguf g { model = base level = \"F32\" path = \"g.gguf\" }\n"
                      "text words { path = \"words.txt\" }\n"
                      "report r { original = base quantized = [g] text = words context = 64 "
                      "path = \"r.json\" }\n");
    expect_said(1, "-f r.lq",
                "layer 1 gives activations that are NaN or infinite, first behind "
                "'blk.1.ffn_up.weight'",
                NULL);
    cr_expect_neq(access("r.json", F_OK), 0);
}
