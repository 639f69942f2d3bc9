#include "rules/model/hf_names.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/text.h"

enum size_name { NONE, HIDDEN, VOCAB, FEED_FORWARD, HEADS, HEADS_KV };
enum permutation { KEEP, PERMUTE_Q, PERMUTE_K };

struct name_row {
    const char *hf;   /* behind "model.layers.<n>." for tensors of blocks */
    const char *gguf; /* behind "blk.<n>." for tensors of blocks */
    enum size_name cols;
    enum size_name rows;
    enum permutation permutation;
};

static const struct name_row block_rows[] = {
    {"input_layernorm.weight", "attn_norm.weight", HIDDEN, NONE, KEEP},
    {"self_attn.q_proj.weight", "attn_q.weight", HIDDEN, HEADS, PERMUTE_Q},
    {"self_attn.k_proj.weight", "attn_k.weight", HIDDEN, HEADS_KV, PERMUTE_K},
    {"self_attn.v_proj.weight", "attn_v.weight", HIDDEN, HEADS_KV, KEEP},
    {"self_attn.o_proj.weight", "attn_output.weight", HEADS, HIDDEN, KEEP},
    {"post_attention_layernorm.weight", "ffn_norm.weight", HIDDEN, NONE, KEEP},
    {"mlp.gate_proj.weight", "ffn_gate.weight", HIDDEN, FEED_FORWARD, KEEP},
    {"mlp.up_proj.weight", "ffn_up.weight", HIDDEN, FEED_FORWARD, KEEP},
    {"mlp.down_proj.weight", "ffn_down.weight", FEED_FORWARD, HIDDEN, KEEP},
};

static const struct name_row embedding_row = {"model.embed_tokens.weight", "token_embd.weight",
                                              HIDDEN, VOCAB, KEEP};
static const struct name_row tail_rows[] = {
    {"model.norm.weight", "output_norm.weight", HIDDEN, NONE, KEEP},
    {"lm_head.weight", "output.weight", HIDDEN, VOCAB, KEEP},
};

#define HF_BLOCK "model.layers."
#define GGUF_BLOCK "blk."

/* Reads "<prefix><number>.": returns what follows, or NULL. */
static const char *skip_block(const char *name, const char *prefix, unsigned long *number)
{
    if (!lq_text_starts_with(name, prefix)) {
        return NULL;
    }
    const char *digits = name + strlen(prefix);
    size_t count = strspn(digits, "0123456789");
    if (count == 0 || count > 6 || digits[count] != '.' || (digits[0] == '0' && count > 1)) {
        return NULL;
    }
    *number = strtoul(digits, NULL, 10);
    return digits + count + 1;
}

/* True when `name` is `full`, or `full` without ".weight" if that is allowed. */
static bool same_name(const char *name, const char *full, bool bare)
{
    size_t length = strlen(name);
    return strcmp(name, full) == 0 ||
           (bare && strncmp(name, full, length) == 0 && strcmp(full + length, ".weight") == 0);
}

static const struct name_row *find_top(const char *name, bool is_hf)
{
    if (same_name(name, is_hf ? embedding_row.hf : embedding_row.gguf, is_hf)) {
        return &embedding_row;
    }
    for (size_t i = 0; i < LQ_COUNT_OF(tail_rows); i++) {
        if (same_name(name, is_hf ? tail_rows[i].hf : tail_rows[i].gguf, is_hf)) {
            return &tail_rows[i];
        }
    }
    return NULL;
}

static const struct name_row *find_block(const char *rest, bool is_hf)
{
    for (size_t i = 0; i < LQ_COUNT_OF(block_rows); i++) {
        if (same_name(rest, is_hf ? block_rows[i].hf : block_rows[i].gguf, is_hf)) {
            return &block_rows[i];
        }
    }
    return NULL;
}

static bool translate(const char *name, bool is_hf, char *out)
{
    const struct name_row *top = find_top(name, is_hf);
    if (top != NULL) {
        (void)snprintf(out, LQ_HF_NAME_BYTES, "%s", is_hf ? top->gguf : top->hf);
        return true;
    }
    unsigned long number = 0;
    const char *rest = skip_block(name, is_hf ? HF_BLOCK : GGUF_BLOCK, &number);
    const struct name_row *row = rest == NULL ? NULL : find_block(rest, is_hf);
    if (row == NULL) {
        return false;
    }
    (void)snprintf(out, LQ_HF_NAME_BYTES, "%s%lu.%s", is_hf ? GGUF_BLOCK : HF_BLOCK, number,
                   is_hf ? row->gguf : row->hf);
    return true;
}

bool lq_hf_name_of_gguf(const char *gguf_name, char *out)
{
    return translate(gguf_name, false, out);
}

bool lq_gguf_name_of_hf(const char *hf_name, char *out)
{
    return translate(hf_name, true, out);
}

static uint64_t size_of(const struct lq_hf_config *config, enum size_name name)
{
    switch (name) {
    case HIDDEN:
        return config->hidden_size;
    case VOCAB:
        return config->vocab_size;
    case FEED_FORWARD:
        return config->feed_forward;
    case HEADS:
        return (uint64_t)config->head_count * config->head_dim;
    case HEADS_KV:
        return (uint64_t)config->head_count_kv * config->head_dim;
    case NONE:
        break;
    }
    return 1;
}

/* Tensors of all files by name, sorted. */
struct found {
    const struct lq_scanned_tensor *tensor;
    size_t file;
    bool used;
};

struct finder {
    struct found *found;
    size_t count;
};

static int compare_found(const void *a, const void *b)
{
    const struct found *x = a;
    const struct found *y = b;
    return strcmp(x->tensor->name, y->tensor->name);
}

static enum lq_status make_finder(const struct lq_scanned_file *files, size_t file_count,
                                  struct lq_arena *arena, struct finder *out, struct lq_error *err)
{
    size_t total = 0;
    for (size_t f = 0; f < file_count; f++) {
        if (files[f].is_gguf) {
            return lq_error_set(err, LQ_EFORMAT,
                                "a model directory must hold safetensors files, but one is GGUF");
        }
        total += files[f].tensor_count;
    }
    if (total > LQ_MODEL_TENSORS_MAX) {
        return lq_error_set(err, LQ_EFORMAT, "%zu tensors exceed the limit of %d", total,
                            LQ_MODEL_TENSORS_MAX);
    }
    out->found = lq_arena_get_array(arena, total + 1, sizeof *out->found);
    if (out->found == NULL) {
        return lq_error_nomem(err, "tensor index");
    }
    for (size_t f = 0; f < file_count; f++) {
        for (size_t i = 0; i < files[f].tensor_count; i++) {
            out->found[out->count++] = (struct found){.tensor = &files[f].tensors[i], .file = f};
        }
    }
    qsort(out->found, out->count, sizeof *out->found, compare_found);
    for (size_t i = 1; i < out->count; i++) {
        if (compare_found(&out->found[i - 1], &out->found[i]) == 0) {
            return lq_error_set(err, LQ_EFORMAT, "tensor '%.200s' is in two files",
                                out->found[i].tensor->name);
        }
    }
    return LQ_OK;
}

static struct found *find_tensor(const struct finder *finder, const char *name)
{
    const struct lq_scanned_tensor wanted = {.name = name};
    const struct found key = {.tensor = &wanted};
    return bsearch(&key, finder->found, finder->count, sizeof *finder->found, compare_found);
}

enum { SHAPE_BYTES = 128 };

/* "4096x256": the file's order, the fastest-varying size last. */
static void format_shape(uint32_t dim_count, const uint64_t *shape, char out[SHAPE_BYTES])
{
    size_t at = 0;
    (void)snprintf(out, SHAPE_BYTES, "()");
    for (uint32_t d = dim_count; d-- > 0 && at < SHAPE_BYTES;) {
        int length = snprintf(out + at, SHAPE_BYTES - at, "%s%llu", at == 0 ? "" : "x",
                              (unsigned long long)shape[d]);
        at += length > 0 ? (size_t)length : 0;
    }
}

static enum lq_status check_tensor(const struct lq_scanned_tensor *tensor, uint64_t cols,
                                   uint64_t rows, bool is_matrix, struct lq_error *err)
{
    uint32_t dims = is_matrix ? 2 : 1;
    if (tensor->dim_count != dims || tensor->shape[0] != cols || tensor->shape[1] != rows) {
        char expected[SHAPE_BYTES];
        char got[SHAPE_BYTES];
        const uint64_t wanted[LQ_TENSOR_DIMS_MAX] = {cols, rows, 1, 1};
        format_shape(dims, wanted, expected);
        format_shape(tensor->dim_count, tensor->shape, got);
        return lq_error_set(err, LQ_EFORMAT,
                            "tensor '%.200s' has shape %s, but config.json makes it %s",
                            tensor->name, got, expected);
    }
    bool known =
        tensor->has_dtype && (tensor->dtype == LQ_DTYPE_F32 || tensor->dtype == LQ_DTYPE_F16 ||
                              tensor->dtype == LQ_DTYPE_BF16);
    if (!known) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            "tensor '%.200s' has type %.40s; F32, F16 and BF16 are supported",
                            tensor->name, tensor->dtype_name);
    }
    return LQ_OK;
}

struct builder {
    const struct lq_hf_config *config;
    struct finder finder;
    struct lq_arena *arena;
    struct lq_tensor_index *out;
};

static enum lq_status add_row(struct builder *builder, const struct name_row *row,
                              const char *hf_name, const char *gguf_name, struct lq_error *err)
{
    const struct lq_hf_config *config = builder->config;
    struct found *found = find_tensor(&builder->finder, hf_name);
    if (found == NULL) {
        return lq_error_set(err, LQ_EFORMAT, "tensor '%s' is missing in the model", hf_name);
    }
    found->used = true;
    const struct lq_scanned_tensor *from = found->tensor;
    enum lq_status status = check_tensor(from, size_of(config, row->cols),
                                         size_of(config, row->rows), row->rows != NONE, err);
    if (status != LQ_OK) {
        return status;
    }
    struct lq_model_tensor *to = &builder->out->tensors[builder->out->tensor_count++];
    to->name = lq_arena_dup_string(builder->arena, gguf_name);
    to->source_name = from->name;
    to->dtype = from->dtype;
    to->dim_count = from->dim_count;
    memcpy(to->ne, from->shape, sizeof to->ne);
    to->source = found->file;
    to->offset = from->offset;
    to->size_bytes = from->size_bytes;
    to->digest = from->digest;
    to->permute_heads = row->permutation == PERMUTE_Q   ? config->head_count
                        : row->permutation == PERMUTE_K ? config->head_count_kv
                                                        : 0;
    return to->name == NULL ? lq_error_nomem(err, "tensor index") : LQ_OK;
}

static enum lq_status add_blocks(struct builder *builder, struct lq_error *err)
{
    for (uint32_t layer = 0; layer < builder->config->layer_count; layer++) {
        for (size_t i = 0; i < LQ_COUNT_OF(block_rows); i++) {
            char hf[LQ_HF_NAME_BYTES];
            char gguf[LQ_HF_NAME_BYTES];
            (void)snprintf(hf, sizeof hf, HF_BLOCK "%u.%s", layer, block_rows[i].hf);
            (void)snprintf(gguf, sizeof gguf, GGUF_BLOCK "%u.%s", layer, block_rows[i].gguf);
            enum lq_status status = add_row(builder, &block_rows[i], hf, gguf, err);
            if (status != LQ_OK) {
                return status;
            }
        }
    }
    return LQ_OK;
}

/* What is left over must be something that needs no place in the file. */
static enum lq_status check_unused(const struct builder *builder, struct lq_error *err)
{
    for (size_t i = 0; i < builder->finder.count; i++) {
        const struct found *found = &builder->finder.found[i];
        const char *name = found->tensor->name;
        bool tied_output = builder->config->tied_embeddings && strcmp(name, "lm_head.weight") == 0;
        if (!found->used && !tied_output && !lq_text_ends_with(name, "rotary_emb.inv_freq")) {
            return lq_error_set(err, LQ_EUNSUPPORTED,
                                "tensor '%.200s' has no place in a Llama model of %u layers", name,
                                builder->config->layer_count);
        }
    }
    return LQ_OK;
}

enum lq_status lq_hf_tensor_index(const struct lq_hf_config *config,
                                  const struct lq_scanned_file *files, size_t file_count,
                                  struct lq_arena *arena, struct lq_tensor_index *out,
                                  struct lq_error *err)
{
    struct builder builder = {.config = config, .arena = arena, .out = out};
    memset(out, 0, sizeof *out);
    enum lq_status status = make_finder(files, file_count, arena, &builder.finder, err);
    if (status != LQ_OK) {
        return status;
    }
    size_t capacity = (size_t)config->layer_count * LQ_COUNT_OF(block_rows) + 3;
    out->tensors = lq_arena_get_array(arena, capacity, sizeof *out->tensors);
    if (out->tensors == NULL) {
        return lq_error_nomem(err, "tensor index");
    }
    status = add_row(&builder, &embedding_row, embedding_row.hf, embedding_row.gguf, err);
    if (status == LQ_OK) {
        status = add_blocks(&builder, err);
    }
    for (size_t i = 0; i < LQ_COUNT_OF(tail_rows) && status == LQ_OK; i++) {
        bool is_output = tail_rows[i].rows == VOCAB;
        if (!is_output || !config->tied_embeddings) {
            status = add_row(&builder, &tail_rows[i], tail_rows[i].hf, tail_rows[i].gguf, err);
        }
    }
    return status == LQ_OK ? check_unused(&builder, err) : status;
}
