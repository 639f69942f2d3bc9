/* The shipped model, for tests: its tensors as an index over the mapped safetensors file, its
 * hyperparameters as GGUF keys, and a weight source for the forward pass. Thread rule: one test. */
#ifndef LQ_TESTS_TINY_LLAMA_H
#define LQ_TESTS_TINY_LLAMA_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/fs.h"
#include "rules/format/gguf.h"
#include "rules/format/safetensors.h"
#include "rules/model/forward.h"
#include "rules/model/hparams.h"

struct tiny_llama {
    struct lq_arena arena;
    struct lq_map map;
    struct lq_buffer meta_bytes;
    struct lq_gguf meta;
    struct lq_tensor_index index;
    struct lq_hparams hparams;
};

static inline void tiny_add(struct tiny_llama *tiny, const struct lq_safetensors *file,
                            const char *name, const char *source_name, uint32_t permute_heads)
{
    const struct lq_safetensor *from = lq_safetensors_find(file, source_name);
    cr_assert_not_null(from, "%s", source_name);
    struct lq_model_tensor *to = &tiny->index.tensors[tiny->index.tensor_count++];
    to->name = lq_arena_dup_string(&tiny->arena, name);
    to->source_name = lq_arena_dup_string(&tiny->arena, source_name);
    to->dtype = from->dtype;
    to->dim_count = from->dim_count;
    for (uint32_t i = 0; i < LQ_TENSOR_DIMS_MAX; i++) {
        to->ne[i] = i < from->dim_count ? from->shape[from->dim_count - 1 - i] : 1;
    }
    to->offset = from->offset;
    to->size_bytes = from->size_bytes;
    to->permute_heads = permute_heads;
    lq_digest_of(tiny->map.data + to->offset, to->size_bytes, &to->digest);
}

static inline void tiny_write_meta(struct lq_gguf_writer *writer)
{
    lq_gguf_put_string(writer, "general.architecture", "llama");
    lq_gguf_put_u32(writer, "llama.context_length", 256);
    lq_gguf_put_u32(writer, "llama.embedding_length", 256);
    lq_gguf_put_u32(writer, "llama.block_count", 6);
    lq_gguf_put_u32(writer, "llama.feed_forward_length", 768);
    lq_gguf_put_u32(writer, "llama.attention.head_count", 4);
    lq_gguf_put_u32(writer, "llama.attention.head_count_kv", 2);
    lq_gguf_put_f32(writer, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    lq_gguf_put_f32(writer, "llama.rope.freq_base", 10000.0f);
    lq_gguf_put_u32(writer, "llama.rope.dimension_count", 64);
    lq_gguf_put_u32(writer, "llama.vocab_size", 4096);
}

static inline void tiny_index(struct tiny_llama *tiny)
{
    static const char *const names[][2] = {
        {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
        {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
        {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
        {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
        {"ffn_down", "mlp.down_proj"},
    };
    struct lq_safetensors file;
    struct lq_error err;
    cr_assert_eq(lq_safetensors_parse(tiny->map.data, tiny->map.size_bytes, tiny->map.size_bytes,
                                      "model", LQ_EMODEL, &tiny->arena, &file, NULL, &err),
                 LQ_OK, "%s", err.message);
    tiny->index.tensors = lq_arena_get_array(&tiny->arena, 6 * 9 + 2, sizeof *tiny->index.tensors);
    tiny_add(tiny, &file, "token_embd.weight", "model.embed_tokens.weight", 0);
    tiny_add(tiny, &file, "output_norm.weight", "model.norm.weight", 0);
    for (int layer = 0; layer < 6; layer++) {
        for (size_t i = 0; i < 9; i++) {
            char name[64];
            char source[128];
            snprintf(name, sizeof name, "blk.%d.%s.weight", layer, names[i][0]);
            snprintf(source, sizeof source, "model.layers.%d.%s.weight", layer, names[i][1]);
            uint32_t heads = i == 1 ? 4 : i == 2 ? 2 : 0;
            tiny_add(tiny, &file, name, source, heads);
        }
    }
}

static inline void tiny_open(struct tiny_llama *tiny)
{
    struct lq_error err;
    lq_error_clear(&err);
    memset(tiny, 0, sizeof *tiny);
    lq_arena_init(&tiny->arena);
    cr_assert_eq(lq_map_open(&tiny->map, LQ_SOURCE_DIR "/examples/tiny-llama/model.safetensors",
                             LQ_EMODEL, &err),
                 LQ_OK, "%s", err.message);
    tiny_index(tiny);
    struct lq_gguf_writer writer;
    lq_gguf_writer_init(&writer);
    tiny_write_meta(&writer);
    lq_buffer_init(&tiny->meta_bytes);
    cr_assert_eq(lq_gguf_writer_header(&writer, &tiny->meta_bytes, &err), LQ_OK);
    lq_gguf_writer_fini(&writer);
    cr_assert_eq(lq_gguf_parse(tiny->meta_bytes.data, tiny->meta_bytes.size_bytes,
                               tiny->meta_bytes.size_bytes, "meta", LQ_EFORMAT, &tiny->arena,
                               &tiny->meta, NULL, &err),
                 LQ_OK, "%s", err.message);
    cr_assert_eq(
        lq_hparams_read(&tiny->meta, &tiny->index, "tiny", LQ_EMODEL, &tiny->hparams, &err), LQ_OK,
        "%s", err.message);
}

static inline void tiny_close(struct tiny_llama *tiny)
{
    lq_map_close(&tiny->map);
    lq_buffer_fini(&tiny->meta_bytes);
    lq_arena_fini(&tiny->arena);
}

static inline enum lq_status tiny_get(void *user, const char *name,
                                      const struct lq_model_tensor **tensor, const void **data,
                                      struct lq_error *err)
{
    struct tiny_llama *tiny = user;
    *tensor = lq_tensor_index_find(&tiny->index, name);
    if (*tensor == NULL) {
        return lq_error_set(err, LQ_EMODEL, "no tensor '%s'", name);
    }
    *data = tiny->map.data + (*tensor)->offset;
    return LQ_OK;
}

#endif
