#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/pool.h"
#include "rules/format/gguf.h"
#include "rules/model/hf_config.h"
#include "rules/model/hf_names.h"
#include "rules/model/model_describe.h"
#include "rules/model/model_scan.h"
#include "rules/model/vocab.h"

#define TINY LQ_SOURCE_DIR "/examples/tiny-llama/"

struct tiny {
    struct lq_arena arena;
    struct lq_map maps[5];
    struct lq_scanned_file file;
    struct lq_model_directory directory;
    struct lq_buffer description;
    struct lq_buffer meta;
    struct lq_buffer vocab;
    struct lq_buffer tensors;
};

static struct lq_map open_map(const char *name)
{
    struct lq_error err = {0};
    char path[512];
    struct lq_map map;
    (void)snprintf(path, sizeof path, TINY "%s", name);
    cr_assert_eq(lq_map_open(&map, path, LQ_EMODEL, &err), LQ_OK, "%s", err.message);
    return map;
}

static void setup(struct tiny *tiny)
{
    struct lq_error err = {0};
    static const char *const names[] = {"model.safetensors", "config.json", "tokenizer.json",
                                        "tokenizer_config.json", "generation_config.json"};
    memset(tiny, 0, sizeof *tiny);
    lq_arena_init(&tiny->arena);
    for (size_t i = 0; i < 5; i++) {
        tiny->maps[i] = open_map(names[i]);
    }
    cr_assert_eq(lq_tensor_source.index("m", &tiny->maps[0], NULL, &tiny->description, &err), LQ_OK,
                 "%s", err.message);
    cr_assert_eq(lq_scanned_file_parse(tiny->description.data, tiny->description.size_bytes, "m",
                                       &tiny->arena, &tiny->file, &err),
                 LQ_OK, "%s", err.message);
    /* In the order of lq_hf_file. */
    struct lq_hf_text *texts = tiny->directory.texts;
    tiny->directory.files = &tiny->file;
    tiny->directory.file_count = 1;
    for (size_t i = 0; i < 4; i++) {
        texts[i] = (struct lq_hf_text){tiny->maps[i + 1].data, tiny->maps[i + 1].size_bytes};
    }
}

static void teardown(struct tiny *tiny)
{
    lq_arena_fini(&tiny->arena);
    lq_buffer_fini(&tiny->description);
    lq_buffer_fini(&tiny->meta);
    lq_buffer_fini(&tiny->vocab);
    lq_buffer_fini(&tiny->tensors);
    for (size_t i = 0; i < 5; i++) {
        lq_map_close(&tiny->maps[i]);
    }
}

static enum lq_status describe(struct tiny *tiny, struct lq_error *err)
{
    struct lq_model_outputs out = {&tiny->meta, &tiny->vocab, &tiny->tensors};
    return lq_model_describe_directory(&tiny->directory, &tiny->arena, &out, err);
}

static struct lq_gguf parse_gguf(const struct lq_buffer *bytes, struct lq_arena *arena)
{
    struct lq_error err = {0};
    struct lq_gguf gguf;
    cr_assert_eq(lq_gguf_parse(bytes->data, bytes->size_bytes, bytes->size_bytes, "g", LQ_EFORMAT,
                               arena, &gguf, NULL, &err),
                 LQ_OK, "%s", err.message);
    return gguf;
}

Test(hf_model, tiny_llama_becomes_keys_and_an_index)
{
    struct tiny tiny;
    struct lq_error err = {0};
    setup(&tiny);
    cr_assert_eq(describe(&tiny, &err), LQ_OK, "%s", err.message);
    struct lq_gguf meta = parse_gguf(&tiny.meta, &tiny.arena);
    cr_assert_str_eq(lq_gguf_get_string(&meta, "general.architecture"), "llama");
    cr_assert_str_eq(lq_gguf_get_string(&meta, "general.type"), "model");
    cr_assert_str_eq(lq_gguf_get_string(&meta, "general.size_label"), "5.8M");
    static const struct {
        const char *key;
        uint64_t value;
    } numbers[] = {{"llama.context_length", 256},      {"llama.embedding_length", 256},
                   {"llama.block_count", 6},           {"llama.feed_forward_length", 768},
                   {"llama.attention.head_count", 4},  {"llama.attention.head_count_kv", 2},
                   {"llama.attention.key_length", 64}, {"llama.attention.value_length", 64},
                   {"llama.rope.dimension_count", 64}, {"llama.vocab_size", 4096}};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        const struct lq_gguf_value *value = lq_gguf_find(&meta, numbers[i].key);
        cr_assert_not_null(value, "%s", numbers[i].key);
        cr_assert_eq(value->type, LQ_GGUF_U32, "%s", numbers[i].key);
        cr_assert_eq(value->integer, numbers[i].value, "%s", numbers[i].key);
    }
    cr_assert_eq(lq_gguf_get_number(&meta, "llama.rope.freq_base", 0), 10000.0);
    cr_assert_float_eq(lq_gguf_get_number(&meta, "llama.attention.layer_norm_rms_epsilon", 0), 1e-5,
                       1e-12);
    struct lq_gguf vocab = parse_gguf(&tiny.vocab, &tiny.arena);
    for (size_t i = 0; i < vocab.kv_count; i++) {
        cr_assert_eq(strncmp(vocab.kvs[i].key, "tokenizer.", 10), 0, "%s", vocab.kvs[i].key);
    }
    cr_assert_eq(vocab.kv_count + 16, meta.kv_count);
    struct lq_tensor_index index;
    cr_assert_eq(lq_tensor_index_parse(tiny.tensors.data, tiny.tensors.size_bytes, &tiny.arena,
                                       &index, &err),
                 LQ_OK, "%s", err.message);
    /* Embedding, six blocks of nine, output norm; the output is tied. */
    cr_assert_eq(index.tensor_count, 56);
    cr_assert_str_eq(index.tensors[0].name, "token_embd.weight");
    cr_assert_str_eq(index.tensors[55].name, "output_norm.weight");
    const struct lq_model_tensor *q = lq_tensor_index_find(&index, "blk.5.attn_q.weight");
    const struct lq_model_tensor *k = lq_tensor_index_find(&index, "blk.5.attn_k.weight");
    const struct lq_model_tensor *v = lq_tensor_index_find(&index, "blk.5.attn_v.weight");
    const struct lq_model_tensor *down = lq_tensor_index_find(&index, "blk.5.ffn_down.weight");
    cr_assert_str_eq(q->source_name, "model.layers.5.self_attn.q_proj.weight");
    cr_assert(q->permute_heads == 4 && k->permute_heads == 2 && v->permute_heads == 0);
    cr_assert(k->ne[0] == 256 && k->ne[1] == 128 && k->dtype == LQ_DTYPE_BF16);
    cr_assert(down->ne[0] == 768 && down->ne[1] == 256);
    struct lq_digest digest;
    lq_digest_of(tiny.maps[0].data + down->offset, down->size_bytes, &digest);
    cr_assert(lq_digest_equal(&digest, &down->digest));
    teardown(&tiny);
}

Test(hf_model, a_gguf_file_keeps_its_keys_and_tensors)
{
    struct lq_error err = {0};
    struct lq_arena arena;
    struct lq_gguf_writer writer;
    struct lq_buffer file = {0};
    struct lq_buffer text = {0};
    struct lq_buffer meta = {0};
    struct lq_buffer vocab = {0};
    struct lq_buffer tensors = {0};
    lq_arena_init(&arena);
    lq_gguf_writer_init(&writer);
    lq_gguf_put_string(&writer, "general.architecture", "gemma");
    lq_gguf_put_u32(&writer, "general.file_type", 7);
    lq_gguf_put_u32(&writer, "general.quantization_version", 2);
    lq_gguf_put_string(&writer, "tokenizer.ggml.model", "llama");
    const uint64_t ne[4] = {32, 2, 1, 1};
    cr_assert_eq(lq_gguf_put_tensor(&writer, "b.weight", LQ_DTYPE_Q8_0, 2, ne, &err), LQ_OK);
    cr_assert_eq(lq_gguf_put_tensor(&writer, "a.weight", LQ_DTYPE_F32, 2, ne, &err), LQ_OK);
    cr_assert_eq(lq_gguf_writer_header(&writer, &file, &err), LQ_OK);
    unsigned char *data = lq_buffer_extend(&file, 96 + 256);
    for (size_t i = 0; i < 96 + 256; i++) {
        data[i] = (unsigned char)i;
    }
    const struct lq_map map = {.data = file.data, .size_bytes = file.size_bytes};
    cr_assert_eq(lq_tensor_source.index("f", &map, NULL, &text, &err), LQ_OK, "%s", err.message);
    struct lq_scanned_file scanned;
    cr_assert_eq(lq_scanned_file_parse(text.data, text.size_bytes, "f", &arena, &scanned, &err),
                 LQ_OK, "%s", err.message);
    cr_assert(scanned.is_gguf);
    struct lq_model_outputs out = {&meta, &vocab, &tensors};
    cr_assert_eq(lq_model_describe_gguf(file.data, file.size_bytes, file.size_bytes, "f", &scanned,
                                        &arena, &out, &err),
                 LQ_OK, "%s", err.message);
    struct lq_gguf keys = parse_gguf(&meta, &arena);
    cr_assert_eq(keys.kv_count, 2);
    cr_assert_eq(keys.tensor_count, 0);
    struct lq_tensor_index index;
    cr_assert_eq(lq_tensor_index_parse(tensors.data, tensors.size_bytes, &arena, &index, &err),
                 LQ_OK, "%s", err.message);
    cr_assert_eq(index.tensor_count, 2);
    cr_assert_str_eq(index.tensors[0].name, "b.weight");
    cr_assert_eq(index.tensors[0].dtype, LQ_DTYPE_Q8_0);
    cr_assert_eq(memcmp(file.data + index.tensors[1].offset, data + 96, 256), 0);
    /* Another key is another model; the same bytes elsewhere are not. */
    struct lq_buffer again = {0};
    cr_assert_eq(lq_tensor_source.index("other", &map, NULL, &again, &err), LQ_OK);
    cr_assert_str_eq(lq_buffer_text(&again), lq_buffer_text(&text));
    lq_buffer_clear(&again);
    size_t at = 24;
    while (memcmp(file.data + at, "gemma", 5) != 0) {
        at++;
    }
    file.data[at + 4] = 'b';
    cr_assert_eq(lq_tensor_source.index("f", &map, NULL, &again, &err), LQ_OK);
    cr_assert(strcmp(lq_buffer_text(&again), lq_buffer_text(&text)) != 0);
    lq_buffer_fini(&again);
    lq_gguf_writer_fini(&writer);
    lq_buffer_fini(&file);
    lq_buffer_fini(&text);
    lq_buffer_fini(&meta);
    lq_buffer_fini(&vocab);
    lq_buffer_fini(&tensors);
    lq_arena_fini(&arena);
}

Test(hf_model, the_index_is_the_same_on_any_number_of_threads)
{
    struct lq_error err = {0};
    struct tiny tiny;
    struct lq_pool *pool = NULL;
    struct lq_buffer out = {0};
    setup(&tiny);
    cr_assert_eq(lq_pool_create(&pool, 3, &err), LQ_OK);
    cr_assert_eq(lq_tensor_source.index("m", &tiny.maps[0], pool, &out, &err), LQ_OK);
    cr_assert_str_eq(lq_buffer_text(&out), lq_buffer_text(&tiny.description));
    lq_pool_destroy(pool);
    lq_buffer_fini(&out);
    teardown(&tiny);
}

static void expect_refused(struct tiny *tiny, enum lq_status status, const char *part)
{
    struct lq_error err = {0};
    lq_buffer_clear(&tiny->tensors);
    cr_assert_eq(describe(tiny, &err), status, "%s: %s", part, err.message);
    cr_assert_not_null(strstr(err.message, part), "'%s' is not in: %s", part, err.message);
}

/* config.json with one text replaced by another. */
static void expect_config_error(struct tiny *tiny, const char *from, const char *to,
                                enum lq_status status, const char *part)
{
    char text[4096];
    const char *config = (const char *)tiny->maps[1].data;
    size_t size = (size_t)tiny->maps[1].size_bytes;
    char copy[2048] = {0};
    cr_assert_lt(size, sizeof copy);
    memcpy(copy, config, size);
    char *at = strstr(copy, from);
    cr_assert_not_null(at, "%s", from);
    int length =
        snprintf(text, sizeof text, "%.*s%s%s", (int)(at - copy), copy, to, at + strlen(from));
    tiny->directory.texts[LQ_HF_CONFIG] = (struct lq_hf_text){text, (uint64_t)length};
    expect_refused(tiny, status, part);
    tiny->directory.texts[LQ_HF_CONFIG] = (struct lq_hf_text){config, size};
}

Test(hf_model, refuses_configurations_that_are_not_computed)
{
    struct tiny tiny;
    setup(&tiny);
    const enum lq_status format = LQ_EFORMAT;
    const enum lq_status unsupported = LQ_EUNSUPPORTED;
    expect_config_error(&tiny, "LlamaForCausalLM", "PhiForCausalLM", unsupported, "PhiForCausalLM");
    expect_config_error(&tiny, "\"hidden_size\": 256,", "", format, "hidden_size");
    expect_config_error(&tiny, "\"hidden_size\": 256", "\"hidden_size\": -1", format,
                        "hidden_size");
    expect_config_error(&tiny, "\"hidden_size\": 256", "\"hidden_size\": 256.5", format,
                        "hidden_size");
    expect_config_error(&tiny, "\"hidden_size\": 256", "\"hidden_size\": 1e300", format,
                        "hidden_size");
    expect_config_error(&tiny, "\"num_hidden_layers\": 6", "\"num_hidden_layers\": 10001", format,
                        "num_hidden_layers");
    expect_config_error(&tiny, "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", format,
                        "num_key_value_heads 3");
    expect_config_error(&tiny, "\"head_dim\": 64", "\"head_dim\": 63", format, "head_dim 63");
    expect_config_error(&tiny, "\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": 0", format,
                        "rms_norm_eps");
    expect_config_error(&tiny, "\"rope_scaling\": null",
                        "\"rope_scaling\": {\"rope_type\":\"dynamic\"}", unsupported, "dynamic");
    expect_config_error(&tiny, "\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"", unsupported,
                        "gelu");
    expect_config_error(&tiny, "\"attention_bias\": false", "\"attention_bias\": true", unsupported,
                        "attention_bias");
    expect_config_error(&tiny, "\"use_cache\": true", "\"sliding_window\": 64", unsupported,
                        "sliding_window");
    expect_config_error(&tiny, "\"use_cache\": true", "\"quantization_config\": {}", unsupported,
                        "quant_method' is 'missing'");
    teardown(&tiny);
}

Test(hf_model, checks_tensors_against_the_configuration)
{
    struct tiny tiny;
    setup(&tiny);
    expect_config_error(&tiny, "\"intermediate_size\": 768", "\"intermediate_size\": 512",
                        LQ_EFORMAT, "has shape 768x256, but config.json makes it 512x256");
    expect_config_error(&tiny, "\"num_hidden_layers\": 6", "\"num_hidden_layers\": 7", LQ_EFORMAT,
                        "model.layers.6.input_layernorm.weight' is missing");
    expect_config_error(&tiny, "\"num_hidden_layers\": 6", "\"num_hidden_layers\": 5",
                        LQ_EUNSUPPORTED, "model.layers.5.");
    expect_config_error(&tiny, "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false",
                        LQ_EFORMAT, "lm_head.weight' is missing");
    expect_config_error(&tiny, "\"vocab_size\": 4096", "\"vocab_size\": 4095", LQ_EFORMAT,
                        "model.embed_tokens.weight");
    struct lq_scanned_file twice[2] = {tiny.file, tiny.file};
    tiny.directory.files = twice;
    tiny.directory.file_count = 2;
    expect_refused(&tiny, LQ_EFORMAT, "is in two files");
    tiny.directory.file_count = 1;
    tiny.file.tensors[0].dtype_name = "F8_E4M3";
    tiny.file.tensors[0].has_dtype = false;
    expect_refused(&tiny, LQ_EUNSUPPORTED, "F8_E4M3");
    tiny.directory.texts[LQ_HF_TOKENIZER].data = NULL;
    expect_refused(&tiny, LQ_EMODEL, "tokenizer.json");
    teardown(&tiny);
}

Test(hf_model, two_shards_are_one_model)
{
    struct tiny tiny;
    struct lq_error err = {0};
    setup(&tiny);
    size_t half = tiny.file.tensor_count / 2;
    struct lq_scanned_file shards[2] = {tiny.file, tiny.file};
    shards[0].tensor_count = half;
    shards[1].tensors = tiny.file.tensors + half;
    shards[1].tensor_count = tiny.file.tensor_count - half;
    tiny.directory.files = shards;
    tiny.directory.file_count = 2;
    cr_assert_eq(describe(&tiny, &err), LQ_OK, "%s", err.message);
    struct lq_tensor_index index;
    cr_assert_eq(lq_tensor_index_parse(tiny.tensors.data, tiny.tensors.size_bytes, &tiny.arena,
                                       &index, &err),
                 LQ_OK);
    size_t second = 0;
    for (size_t i = 0; i < index.tensor_count; i++) {
        second += index.tensors[i].source == 1;
    }
    cr_assert_eq(index.tensor_count, 56);
    cr_assert_eq(second, tiny.file.tensor_count - half);
    teardown(&tiny);
}

Test(hf_model, linear_rotary_scaling_becomes_keys)
{
    struct lq_error err = {0};
    struct lq_hf_config config;
    struct lq_arena arena;
    struct lq_gguf_writer writer;
    struct lq_buffer bytes = {0};
    cJSON *root = NULL;
    const char *text =
        "{\"architectures\":[\"MistralForCausalLM\"],\"hidden_size\":64,\"num_hidden_layers\":1,"
        "\"num_attention_heads\":2,\"intermediate_size\":96,\"max_position_embeddings\":128,"
        "\"vocab_size\":10,\"rms_norm_eps\":1e-6,\"sliding_window\":null,"
        "\"rope_parameters\":{\"type\":\"linear\",\"factor\":4.0,\"rope_theta\":500000}}";
    cr_assert_eq(lq_json_parse(text, strlen(text), "c", LQ_EFORMAT, &root, &err), LQ_OK);
    lq_arena_init(&arena);
    cr_assert_eq(lq_hf_config_read(root, &arena, &config, &err), LQ_OK, "%s", err.message);
    lq_gguf_writer_init(&writer);
    lq_hf_config_put(&config, 1234567890, &writer);
    cr_assert_eq(lq_gguf_writer_header(&writer, &bytes, &err), LQ_OK);
    struct lq_gguf gguf = parse_gguf(&bytes, &arena);
    cr_assert_str_eq(lq_gguf_get_string(&gguf, "llama.rope.scaling.type"), "linear");
    cr_assert_eq(lq_gguf_get_number(&gguf, "llama.rope.scaling.factor", 0), 4.0);
    cr_assert_eq(lq_gguf_get_number(&gguf, "llama.rope.freq_base", 0), 500000.0);
    cr_assert_eq(lq_gguf_get_uint(&gguf, "llama.attention.head_count_kv", 0), 2);
    cr_assert_str_eq(lq_gguf_get_string(&gguf, "general.size_label"), "1.2B");
    cJSON_Delete(root);
    lq_gguf_writer_fini(&writer);
    lq_buffer_fini(&bytes);
    lq_arena_fini(&arena);
}

Test(hf_names, translate_both_ways)
{
    char name[LQ_HF_NAME_BYTES];
    cr_assert(lq_hf_name_of_gguf("blk.31.ffn_gate.weight", name));
    cr_assert_str_eq(name, "model.layers.31.mlp.gate_proj.weight");
    cr_assert(lq_gguf_name_of_hf("model.layers.31.mlp.gate_proj", name));
    cr_assert_str_eq(name, "blk.31.ffn_gate.weight");
    cr_assert(lq_gguf_name_of_hf("model.layers.0.self_attn.o_proj.weight", name));
    cr_assert_str_eq(name, "blk.0.attn_output.weight");
    cr_assert(lq_gguf_name_of_hf("lm_head", name));
    cr_assert_str_eq(name, "output.weight");
    cr_assert(lq_hf_name_of_gguf("token_embd.weight", name));
    cr_assert_str_eq(name, "model.embed_tokens.weight");
    cr_assert_not(lq_hf_name_of_gguf("blk.1.ffn_gate", name));
    cr_assert_not(lq_hf_name_of_gguf("blk.01.ffn_gate.weight", name));
    cr_assert_not(lq_hf_name_of_gguf("blk.99999999999.ffn_gate.weight", name));
    cr_assert_not(lq_gguf_name_of_hf("model.layers.x.mlp.gate_proj", name));
    cr_assert_not(lq_gguf_name_of_hf("model.layers.3.mlp.gat", name));
    cr_assert(lq_gguf_name_of_hf("model.layers.3.mlp.gate", name));
    cr_assert_str_eq(name, "blk.3.ffn_gate_inp.weight");
    cr_assert(lq_hf_name_of_gguf("blk.3.attn_q.bias", name));
    cr_assert_str_eq(name, "model.layers.3.self_attn.q_proj.bias");
    cr_assert_not(lq_hf_name_of_gguf("blk.3.ffn_gate_exps.weight", name));
    cr_assert_not(lq_gguf_name_of_hf("", name));
}
