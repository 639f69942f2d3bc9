#include "rules/model/hf_names.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/text.h"
#include "rules/model/hf_tensors.h"

enum size_name { NONE, VOCAB };

/* Tensors outside of layers. */
struct top_row {
    const char *hf;
    const char *gguf;
    enum size_name rows;
};

static const struct top_row embedding_row = {"model.embed_tokens.weight", "token_embd.weight",
                                             VOCAB};
static const struct top_row tail_rows[] = {
    {"model.norm.weight", "output_norm.weight", NONE},
    {"lm_head.weight", "output.weight", VOCAB},
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

static const struct top_row *find_top(const char *name, bool is_hf)
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

static void gguf_name(unsigned long layer, enum lq_layer_weight weight, char *out)
{
    char name[LQ_WEIGHT_NAME_BYTES];
    (void)snprintf(out, LQ_HF_NAME_BYTES, "%s",
                   lq_layer_weight_path((uint32_t)layer, weight, name));
}

/* "%u" becomes the number of an expert. */
static void hf_name(unsigned long layer, const char *row, size_t expert, char *out)
{
    const char *mark = strstr(row, "%u");
    if (mark == NULL) {
        (void)snprintf(out, LQ_HF_NAME_BYTES, HF_BLOCK "%lu.%s", layer, row);
    } else {
        (void)snprintf(out, LQ_HF_NAME_BYTES, HF_BLOCK "%lu.%.*s%zu%s", layer, (int)(mark - row),
                       row, expert, mark + 2);
    }
}

static bool translate(const char *name, bool is_hf, char *out)
{
    const struct top_row *top = find_top(name, is_hf);
    if (top != NULL) {
        (void)snprintf(out, LQ_HF_NAME_BYTES, "%s", is_hf ? top->gguf : top->hf);
        return true;
    }
    unsigned long number = 0;
    const char *rest = skip_block(name, is_hf ? HF_BLOCK : GGUF_BLOCK, &number);
    for (size_t i = 0; rest != NULL && i < lq_hf_row_count; i++) {
        char gguf[LQ_HF_NAME_BYTES];
        gguf_name(number, lq_hf_rows[i].weight, gguf);
        if (strstr(lq_hf_rows[i].hf, "%u") != NULL) {
            continue;
        }
        if (is_hf && same_name(rest, lq_hf_rows[i].hf, true)) {
            (void)snprintf(out, LQ_HF_NAME_BYTES, "%s", gguf);
            return true;
        }
        if (!is_hf && strcmp(name, gguf) == 0) {
            hf_name(number, lq_hf_rows[i].hf, 0, out);
            return true;
        }
    }
    return false;
}

bool lq_hf_name_of_gguf(const char *name, char *out)
{
    return translate(name, false, out);
}

bool lq_gguf_name_of_hf(const char *name, char *out)
{
    return translate(name, true, out);
}

struct builder {
    const struct lq_hf_config *config;
    struct lq_hf_tensors tensors;
    struct lq_arena *arena;
    struct lq_tensor_index *out;
};

static struct lq_tensor_piece piece_of(const struct lq_hf_found *found)
{
    const struct lq_scanned_tensor *from = found->tensor;
    return (struct lq_tensor_piece){found->file, from->offset, from->size_bytes, from->digest};
}

/* The tensor that is stored so, of `cols` x `rows`. Parts become pieces. */
static enum lq_status add_stored(struct builder *builder, const struct lq_hf_stored *stored,
                                 const char *name, uint64_t cols, uint64_t rows,
                                 struct lq_error *err)
{
    const struct lq_hf_found *found = stored->parts[0];
    const struct lq_scanned_tensor *from = found->tensor;
    struct lq_model_tensor *to = &builder->out->tensors[builder->out->tensor_count++];
    to->name = lq_arena_dup_string(builder->arena, name);
    to->source_name = from->name;
    to->packing = stored->packing;
    if (to->name == NULL) {
        return lq_error_nomem(err, "tensor index");
    }
    if (stored->packing != NULL) {
        to->dtype = LQ_DTYPE_F32;
        to->dim_count = 2;
        to->ne[0] = cols;
        to->ne[1] = rows;
        to->ne[2] = to->ne[3] = 1;
        return LQ_OK;
    }
    to->dtype = from->dtype;
    to->dim_count = from->dim_count;
    memcpy(to->ne, from->shape, sizeof to->ne);
    to->source = found->file;
    to->offset = from->offset;
    to->size_bytes = from->size_bytes;
    to->digest = from->digest;
    to->add_one = builder->config->arch->norms_add_one && from->dim_count == 1;
    return LQ_OK;
}

/* The pieces of the newest tensor: those of each matrix, one behind the other. */
static enum lq_status set_pieces(struct builder *builder, const struct lq_hf_stored *matrices,
                                 size_t count, struct lq_error *err)
{
    struct lq_model_tensor *to = &builder->out->tensors[builder->out->tensor_count - 1];
    size_t total = count * matrices[0].part_count;
    struct lq_tensor_piece *pieces = lq_arena_get_array(builder->arena, total, sizeof *pieces);
    struct lq_buffer digests;
    if (pieces == NULL) {
        return lq_error_nomem(err, "tensor index");
    }
    lq_buffer_init(&digests);
    to->size_bytes = 0;
    for (size_t i = 0; i < total; i++) {
        size_t part = i % matrices[0].part_count;
        pieces[i] = piece_of(matrices[i / matrices[0].part_count].parts[part]);
        to->size_bytes += pieces[i].size_bytes;
        lq_buffer_append(&digests, &pieces[i].digest, sizeof pieces[i].digest);
    }
    to->source = 0;
    to->offset = 0;
    to->pieces = pieces;
    to->piece_count = total;
    lq_digest_of(digests.data, digests.size_bytes, &to->digest);
    bool failed = digests.failed;
    lq_buffer_fini(&digests);
    return failed ? lq_error_nomem(err, "tensor index") : LQ_OK;
}

static enum lq_status add_matrix(struct builder *builder, const char *hf, const char *name,
                                 uint64_t cols, uint64_t rows, bool is_matrix, struct lq_error *err)
{
    struct lq_hf_stored stored;
    enum lq_status status =
        lq_hf_tensors_take(&builder->tensors, hf, cols, rows, is_matrix, &stored, err);
    if (status == LQ_OK) {
        status = add_stored(builder, &stored, name, cols, rows, err);
    }
    return status == LQ_OK && stored.packing != NULL ? set_pieces(builder, &stored, 1, err)
                                                     : status;
}

static enum lq_status add_top(struct builder *builder, const struct top_row *row,
                              struct lq_error *err)
{
    const struct lq_hparams *hparams = &builder->config->hparams;
    bool is_matrix = row->rows == VOCAB;
    return add_matrix(builder, row->hf, row->gguf, hparams->width,
                      is_matrix ? hparams->vocab_size : 1, is_matrix, err);
}

/* All experts of a layer are stored in the same way. */
static enum lq_status check_alike(const struct lq_hf_stored *one, const struct lq_hf_stored *first,
                                  struct lq_error *err)
{
    const struct lq_packing *a = one->packing;
    const struct lq_packing *b = first->packing;
    bool alike = (a == NULL) == (b == NULL) &&
                 one->parts[0]->tensor->dtype == first->parts[0]->tensor->dtype;
    if (alike && a != NULL) {
        alike = a->scale_dtype == b->scale_dtype && a->has_zeros == b->has_zeros &&
                a->has_groups == b->has_groups;
    }
    return alike ? LQ_OK
                 : lq_error_set(err, LQ_EUNSUPPORTED,
                                "tensor '%s' has another type than '%s', but all experts of a "
                                "layer must have one",
                                one->parts[0]->tensor->name, first->parts[0]->tensor->name);
}

/* Experts stand one by one in the checkpoint and side by side in GGUF. */
static enum lq_status add_experts(struct builder *builder, uint32_t layer,
                                  const struct lq_hf_row *row, const char *name,
                                  struct lq_error *err)
{
    const struct lq_hparams *hparams = &builder->config->hparams;
    size_t count = hparams->expert_count;
    struct lq_hf_stored *experts = lq_arena_get_array(builder->arena, count, sizeof *experts);
    uint64_t cols = 0;
    uint64_t rows = 0;
    enum lq_status status = experts == NULL ? lq_error_nomem(err, "tensor index") : LQ_OK;
    lq_layer_weight_shape(hparams, row->weight, &cols, &rows);
    for (size_t e = 0; status == LQ_OK && e < count; e++) {
        char hf[LQ_HF_NAME_BYTES];
        hf_name(layer, row->hf, e, hf);
        status = lq_hf_tensors_take(&builder->tensors, hf, cols, rows, true, &experts[e], err);
        if (status == LQ_OK) {
            status = check_alike(&experts[e], &experts[0], err);
        }
    }
    if (status == LQ_OK) {
        status = add_stored(builder, &experts[0], name, cols, rows, err);
    }
    if (status == LQ_OK) {
        struct lq_model_tensor *to = &builder->out->tensors[builder->out->tensor_count - 1];
        to->dim_count = 3;
        to->ne[2] = count;
        status = set_pieces(builder, experts, count, err);
    }
    return status;
}

static enum lq_status add_weight(struct builder *builder, uint32_t layer,
                                 const struct lq_hf_row *row, struct lq_error *err)
{
    const struct lq_hf_config *config = builder->config;
    const struct lq_hparams *hparams = &config->hparams;
    char hf[LQ_HF_NAME_BYTES];
    char name[LQ_HF_NAME_BYTES];
    uint64_t cols = 0;
    uint64_t rows = 0;
    gguf_name(layer, row->weight, name);
    if (strstr(row->hf, "%u") != NULL) {
        return add_experts(builder, layer, row, name, err);
    }
    hf_name(layer, row->hf, 0, hf);
    lq_layer_weight_shape(hparams, row->weight, &cols, &rows);
    bool is_matrix = lq_layer_weight_input(row->weight) != LQ_LAYER_INPUT_COUNT;
    enum lq_status status = add_matrix(builder, hf, name, cols, rows, is_matrix, err);
    if (status == LQ_OK && config->arch->permutes) {
        struct lq_model_tensor *to = &builder->out->tensors[builder->out->tensor_count - 1];
        to->permute_heads = row->weight == LQ_WEIGHT_ATTN_Q   ? hparams->head_count
                            : row->weight == LQ_WEIGHT_ATTN_K ? hparams->kv_head_count
                                                              : 0;
    }
    return status;
}

static enum lq_status add_blocks(struct builder *builder, struct lq_error *err)
{
    const struct lq_hf_config *config = builder->config;
    for (uint32_t layer = 0; layer < config->hparams.layer_count; layer++) {
        for (size_t i = 0; i < lq_hf_row_count; i++) {
            if ((lq_hf_rows[i].families & (unsigned)config->arch->family) == 0) {
                continue;
            }
            enum lq_status status = add_weight(builder, layer, &lq_hf_rows[i], err);
            if (status != LQ_OK) {
                return status;
            }
        }
    }
    return LQ_OK;
}

/* Divisors of frequencies, which no file of the checkpoint holds. */
static enum lq_status add_literal(struct builder *builder, const char *name, const float *values,
                                  struct lq_error *err)
{
    size_t pairs = builder->config->hparams.rope_dim / 2;
    if (values == NULL) {
        return LQ_OK;
    }
    struct lq_buffer bytes;
    lq_buffer_init(&bytes);
    for (size_t i = 0; i < pairs; i++) {
        uint32_t bits = 0;
        memcpy(&bits, &values[i], sizeof bits);
        lq_buffer_append_u32(&bytes, bits);
    }
    void *literal = lq_arena_get(builder->arena, pairs * sizeof(float) + 1);
    enum lq_status status =
        bytes.failed || literal == NULL ? lq_error_nomem(err, "tensor index") : LQ_OK;
    if (status == LQ_OK) {
        struct lq_model_tensor *to = &builder->out->tensors[builder->out->tensor_count++];
        memcpy(literal, bytes.data, bytes.size_bytes);
        *to = (struct lq_model_tensor){.name = name,
                                       .source_name = "config.json",
                                       .dtype = LQ_DTYPE_F32,
                                       .dim_count = 1,
                                       .ne = {pairs, 1, 1, 1},
                                       .size_bytes = bytes.size_bytes,
                                       .literal = literal};
        lq_digest_of(bytes.data, bytes.size_bytes, &to->digest);
    }
    lq_buffer_fini(&bytes);
    return status;
}

/* What is left over must be something that needs no place in the file. */
static enum lq_status check_unused(const struct builder *builder, struct lq_error *err)
{
    const struct lq_hf_tensors *tensors = &builder->tensors;
    const struct lq_hf_quantization *quantization = tensors->quantization;
    if (quantization->method != NULL && tensors->packed_count == 0) {
        return lq_error_set(err, LQ_EFORMAT,
                            "%s: config.json says that matrices are quantized (%s), but none has a "
                            "tensor '<module>%s'; check that config.json belongs to these weights",
                            tensors->files[0].name, quantization->method->title,
                            quantization->method->parts[LQ_PACKED_SCALES].suffix);
    }
    for (size_t i = 0; i < tensors->count; i++) {
        const struct lq_hf_found *found = &tensors->found[i];
        const char *name = found->tensor->name;
        bool tied_output =
            builder->config->hparams.tied_output && strcmp(name, "lm_head.weight") == 0;
        if (!found->used && !tied_output && !lq_text_ends_with(name, "rotary_emb.inv_freq") &&
            !lq_hf_tensors_is_idle(tensors, found)) {
            return lq_error_set(err, LQ_EUNSUPPORTED,
                                "%s: tensor '%.200s' has no place in a %s model of %u layers; it "
                                "would be lost, so check that config.json belongs to these weights",
                                tensors->files[found->file].name, name,
                                builder->config->arch->title, builder->config->hparams.layer_count);
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
    enum lq_status status =
        lq_hf_tensors_open(&builder.tensors, files, file_count, &config->quantization, arena, err);
    if (status != LQ_OK) {
        return status;
    }
    size_t capacity = (size_t)config->hparams.layer_count * lq_hf_row_count + 6;
    out->tensors = lq_arena_get_array(arena, capacity, sizeof *out->tensors);
    if (out->tensors == NULL) {
        return lq_error_nomem(err, "tensor index");
    }
    status = add_top(&builder, &embedding_row, err);
    const struct {
        const char *name;
        const float *values;
    } literals[] = {{"rope_freqs.weight", config->rope_freqs},
                    {"rope_factors_long.weight", config->rope_long},
                    {"rope_factors_short.weight", config->rope_short}};
    for (size_t i = 0; status == LQ_OK && i < LQ_COUNT_OF(literals); i++) {
        status = add_literal(&builder, literals[i].name, literals[i].values, err);
    }
    if (status == LQ_OK) {
        status = add_blocks(&builder, err);
    }
    for (size_t i = 0; i < LQ_COUNT_OF(tail_rows) && status == LQ_OK; i++) {
        bool is_output = tail_rows[i].rows == VOCAB;
        if (!is_output || !config->hparams.tied_output) {
            status = add_top(&builder, &tail_rows[i], err);
        }
    }
    return status == LQ_OK ? check_unused(&builder, err) : status;
}
