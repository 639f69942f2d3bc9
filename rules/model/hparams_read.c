#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/limits.h"
#include "engine/base/text.h"
#include "rules/model/arch.h"
#include "rules/model/hparams.h"

#define ADVICE "it can still be quantized without an imatrix"

enum { KEY_BYTES = 96 };

/* ---- keys ---- */

struct key_scope {
    const struct lq_gguf *meta;
    const struct lq_arch *arch;
    const char *where;
    enum lq_status status;
    struct lq_error *err;
};

static const struct lq_gguf_value *find_key(const struct key_scope *scope, const char *name,
                                            char key[KEY_BYTES])
{
    (void)snprintf(key, KEY_BYTES, "%s.%s", scope->arch->name, name);
    return lq_gguf_find(scope->meta, key);
}

static bool is_integer(const struct lq_gguf_value *value)
{
    switch (value->type) {
    case LQ_GGUF_U8:
    case LQ_GGUF_I8:
    case LQ_GGUF_U16:
    case LQ_GGUF_I16:
    case LQ_GGUF_U32:
    case LQ_GGUF_I32:
    case LQ_GGUF_U64:
    case LQ_GGUF_I64:
        return true;
    default:
        return false;
    }
}

/* An integer from 1 to max; without the key it is `fallback`, or an error when that is 0. */
static enum lq_status read_count(const struct key_scope *scope, const char *name, uint64_t max,
                                 uint32_t fallback, uint32_t *out)
{
    char key[KEY_BYTES];
    const struct lq_gguf_value *value = find_key(scope, name, key);
    if (value == NULL && fallback != 0) {
        *out = fallback;
        return LQ_OK;
    }
    if (value == NULL) {
        return lq_error_set(scope->err, scope->status, "%s: the key '%s' is missing", scope->where,
                            key);
    }
    if (value->type == LQ_GGUF_ARRAY) {
        return lq_error_set(scope->err, LQ_EUNSUPPORTED,
                            "%s: '%s' differs between layers, which the forward pass does not know "
                            "yet; " ADVICE,
                            scope->where, key);
    }
    if (!is_integer(value) || value->integer < 1 || value->integer > max) {
        return lq_error_set(scope->err, scope->status,
                            "%s: '%s' is out of range, expected an integer from 1 to %llu",
                            scope->where, key, (unsigned long long)max);
    }
    *out = (uint32_t)value->integer;
    return LQ_OK;
}

/* A positive finite number; `fallback` 0: required. */
static enum lq_status read_positive(const struct key_scope *scope, const char *name,
                                    double fallback, double *out)
{
    char key[KEY_BYTES];
    const struct lq_gguf_value *value = find_key(scope, name, key);
    if (value == NULL && fallback > 0.0) {
        *out = fallback;
        return LQ_OK;
    }
    if (value == NULL) {
        return lq_error_set(scope->err, scope->status, "%s: the key '%s' is missing", scope->where,
                            key);
    }
    bool is_number = value->type != LQ_GGUF_STRING && value->type != LQ_GGUF_ARRAY;
    if (!is_number || !isfinite(value->number) || !(value->number > 0.0)) {
        return lq_error_set(scope->err, scope->status, "%s: '%s' is not a finite number above 0",
                            scope->where, key);
    }
    *out = value->number;
    return LQ_OK;
}

/* As read_positive, but 0 may stand for "none". */
static enum lq_status read_optional(const struct key_scope *scope, const char *name, double *out)
{
    char key[KEY_BYTES];
    const struct lq_gguf_value *value = find_key(scope, name, key);
    bool is_number = value != NULL && value->type != LQ_GGUF_STRING && value->type != LQ_GGUF_ARRAY;
    *out = 0.0;
    if (value == NULL || (is_number && value->number == 0.0)) {
        return LQ_OK;
    }
    return read_positive(scope, name, 0.0, out);
}

static enum lq_status read_sizes(const struct key_scope *scope, struct lq_hparams *out)
{
    enum lq_status status =
        read_count(scope, "block_count", LQ_MODEL_LAYERS_MAX, 0, &out->layer_count);
    if (status == LQ_OK) {
        status = read_count(scope, "embedding_length", LQ_MODEL_DIM_MAX, 0, &out->width);
    }
    if (status == LQ_OK) {
        status = read_count(scope, "attention.head_count", LQ_MODEL_DIM_MAX, 0, &out->head_count);
    }
    if (status == LQ_OK) {
        status = read_count(scope, "attention.head_count_kv", LQ_MODEL_DIM_MAX, out->head_count,
                            &out->kv_head_count);
    }
    if (status == LQ_OK) {
        uint32_t head_dim = out->width / out->head_count;
        status = read_count(scope, "attention.key_length", LQ_MODEL_DIM_MAX,
                            head_dim == 0 ? 1 : head_dim, &out->head_dim);
    }
    if (status == LQ_OK) {
        status = read_count(scope, "rope.dimension_count", LQ_MODEL_DIM_MAX, out->head_dim,
                            &out->rope_dim);
    }
    if (status == LQ_OK) {
        status = read_count(scope, "context_length", LQ_SEQUENCE_MAX, 0, &out->context_length);
    }
    return status;
}

/* A file that does not say so means what llama.cpp takes all files of these architectures to mean:
 * weights of a token's experts add up to 1. */
static enum lq_status read_router(const struct key_scope *scope, struct lq_hparams *out)
{
    char key[KEY_BYTES];
    const struct lq_gguf_value *value = find_key(scope, "expert_weights_norm", key);
    if (value != NULL && value->type != LQ_GGUF_BOOL) {
        return lq_error_set(scope->err, scope->status, "%s: '%s' is not true or false",
                            scope->where, key);
    }
    out->router_over_all = value != NULL && value->integer == 0;
    return LQ_OK;
}

/* Experts, and the width of one feed-forward part. */
static enum lq_status read_experts(const struct key_scope *scope, struct lq_hparams *out)
{
    char key[KEY_BYTES];
    const struct lq_gguf_value *value = find_key(scope, "expert_count", key);
    bool dense = value == NULL || (is_integer(value) && value->integer == 0);
    enum lq_status status = LQ_OK;
    if (dense) {
        return read_count(scope, "feed_forward_length", LQ_MODEL_DIM_MAX, 0, &out->ffn_width);
    }
    if (!scope->arch->experts) {
        return lq_error_set(scope->err, LQ_EUNSUPPORTED,
                            "%s: the forward pass does not know a mixture of experts of the "
                            "architecture '%s'; " ADVICE,
                            scope->where, scope->arch->name);
    }
    status = read_count(scope, "expert_count", LQ_MODEL_EXPERTS_MAX, 0, &out->expert_count);
    if (status == LQ_OK) {
        status = read_count(scope, "expert_used_count", out->expert_count, 0, &out->expert_used);
    }
    if (status == LQ_OK) {
        status = read_router(scope, out);
    }
    bool own_width = find_key(scope, "expert_feed_forward_length", key) != NULL;
    return status != LQ_OK
               ? status
               : read_count(scope, own_width ? "expert_feed_forward_length" : "feed_forward_length",
                            LQ_MODEL_DIM_MAX, 0, &out->ffn_width);
}

static enum lq_status read_window(const struct key_scope *scope, struct lq_hparams *out)
{
    char key[KEY_BYTES];
    const struct lq_gguf_value *value = find_key(scope, "attention.sliding_window", key);
    out->window = scope->arch->window;
    if (value != NULL && is_integer(value) && value->integer == 0) {
        out->window = 0;
    } else if (value != NULL) {
        enum lq_status status =
            read_count(scope, "attention.sliding_window", INT32_MAX, 0, &out->window);
        if (status != LQ_OK) {
            return status;
        }
    }
    if (out->window == 0 || scope->arch->window_period == 0) {
        return LQ_OK;
    }
    return read_count(scope, "attention.sliding_window_pattern", LQ_MODEL_LAYERS_MAX,
                      scope->arch->window_period, &out->window_period);
}

static enum lq_status read_yarn(const struct key_scope *scope, struct lq_hparams *out)
{
    enum lq_status status = read_count(scope, "rope.scaling.original_context_length", INT32_MAX,
                                       out->context_length, &out->rope_original_context);
    if (status == LQ_OK) {
        status = read_positive(scope, "rope.scaling.yarn_beta_fast", 32.0, &out->rope_beta_fast);
    }
    return status == LQ_OK
               ? read_positive(scope, "rope.scaling.yarn_beta_slow", 1.0, &out->rope_beta_slow)
               : status;
}

static enum lq_status read_scaling(const struct key_scope *scope, struct lq_hparams *out)
{
    char key[KEY_BYTES];
    const struct lq_gguf_value *value = find_key(scope, "rope.scaling.type", key);
    const char *type = value != NULL && value->type == LQ_GGUF_STRING ? value->string.data : "none";
    out->rope_scale = 1.0;
    enum lq_status status =
        read_positive(scope, "rope.scaling.attn_factor", 1.0, &out->rope_attn_factor);
    if (status != LQ_OK) {
        return status;
    }
    if (strcmp(type, "linear") == 0) {
        out->rope_scaling = LQ_ROPE_LINEAR;
    } else if (strcmp(type, "yarn") == 0) {
        out->rope_scaling = LQ_ROPE_YARN;
        status = read_yarn(scope, out);
    } else if (strcmp(type, "none") != 0 && strcmp(type, "longrope") != 0) {
        return lq_error_set(scope->err, LQ_EUNSUPPORTED,
                            "%s: rope scaling '%s' is not known to the forward pass (none, "
                            "linear, yarn and longrope are); " ADVICE,
                            scope->where, type);
    }
    return status == LQ_OK && out->rope_scaling != LQ_ROPE_PLAIN
               ? read_positive(scope, "rope.scaling.factor", 1.0, &out->rope_scale)
               : status;
}

static enum lq_status read_numbers(const struct key_scope *scope, struct lq_hparams *out)
{
    const struct lq_arch *arch = scope->arch;
    enum lq_status status =
        read_positive(scope, "attention.layer_norm_rms_epsilon", 0.0, &out->norm_eps);
    if (status == LQ_OK) {
        status = read_positive(scope, "rope.freq_base", 10000.0, &out->rope_freq_base);
    }
    if (status == LQ_OK && arch->caps) {
        status = read_optional(scope, "attn_logit_softcapping", &out->attention_cap);
    }
    if (status == LQ_OK && arch->caps) {
        status = read_optional(scope, "final_logit_softcapping", &out->logit_cap);
    }
    out->rope_local_base = out->rope_freq_base;
    if (status == LQ_OK && arch->rope_local) {
        status = read_positive(scope, "rope.freq_base_swa", 10000.0, &out->rope_local_base);
    }
    out->activation = arch->activation;
    out->rope_halves = arch->rope_halves;
    out->rope_local = arch->rope_local;
    out->embedding_scale = arch->scale_embedding ? sqrt((double)out->width) : 1.0;
    bool large = arch->large_layers != 0 && out->layer_count == arch->large_layers;
    uint32_t share = large ? out->width / out->head_count : out->head_dim;
    out->attention_scale = 1.0 / sqrt((double)(share == 0 ? 1 : share));
    return status == LQ_OK ? read_scaling(scope, out) : status;
}

static enum lq_status check_heads(const struct key_scope *scope, const struct lq_hparams *hparams)
{
    uint64_t q_width = (uint64_t)hparams->head_count * hparams->head_dim;
    if (hparams->head_count % hparams->kv_head_count != 0 || q_width > LQ_MODEL_DIM_MAX) {
        return lq_error_set(scope->err, scope->status,
                            "%s: %u heads of %u values with %u key-value heads do not fit together",
                            scope->where, (unsigned)hparams->head_count,
                            (unsigned)hparams->head_dim, (unsigned)hparams->kv_head_count);
    }
    if (hparams->rope_dim % 2 != 0 || hparams->rope_dim > hparams->head_dim) {
        return lq_error_set(scope->err, scope->status,
                            "%s: '%s.rope.dimension_count' is %u, expected an even number up to "
                            "the head size %u",
                            scope->where, scope->arch->name, (unsigned)hparams->rope_dim,
                            (unsigned)hparams->head_dim);
    }
    uint32_t value_length = hparams->head_dim;
    enum lq_status status = read_count(scope, "attention.value_length", LQ_MODEL_DIM_MAX,
                                       hparams->head_dim, &value_length);
    if (status == LQ_OK && value_length != hparams->head_dim) {
        status = lq_error_set(scope->err, LQ_EUNSUPPORTED,
                              "%s: keys have %u values and values %u, which the forward pass does "
                              "not know yet; " ADVICE,
                              scope->where, (unsigned)hparams->head_dim, (unsigned)value_length);
    }
    return status;
}

static enum lq_status find_architecture(struct key_scope *scope)
{
    const char *architecture = lq_gguf_get_string(scope->meta, "general.architecture");
    if (architecture == NULL) {
        return lq_error_set(scope->err, scope->status,
                            "%s: the key 'general.architecture' is missing", scope->where);
    }
    scope->arch = lq_arch_find(architecture);
    if (scope->arch == NULL) {
        return lq_error_set(scope->err, LQ_EUNSUPPORTED,
                            "%s: the forward pass does not know the architecture '%s' (known are "
                            "%s); " ADVICE,
                            scope->where, architecture, lq_arch_names());
    }
    return LQ_OK;
}

/* ---- tensors ---- */

static enum lq_status check_shape(const struct key_scope *scope,
                                  const struct lq_tensor_index *index, const char *name,
                                  const uint64_t shape[3])
{
    const struct lq_model_tensor *tensor = lq_tensor_index_find(index, name);
    if (tensor == NULL) {
        return lq_error_set(scope->err, scope->status, "%s: the tensor '%s' is missing",
                            scope->where, name);
    }
    const uint64_t *ne = tensor->ne;
    if (ne[0] == shape[0] && ne[1] == shape[1] && ne[2] == shape[2] && ne[3] == 1) {
        return LQ_OK;
    }
    if (shape[2] == 1 && ne[2] == 1 && ne[3] == 1) {
        return lq_error_set(scope->err, scope->status,
                            "%s: the tensor '%s' has %llu columns and %llu rows, expected %llu and "
                            "%llu from the model's keys",
                            scope->where, name, (unsigned long long)ne[0],
                            (unsigned long long)ne[1], (unsigned long long)shape[0],
                            (unsigned long long)shape[1]);
    }
    return lq_error_set(scope->err, scope->status,
                        "%s: the tensor '%s' has the shape %llu x %llu x %llu x %llu, expected "
                        "%llu x %llu x %llu x 1 from the model's keys",
                        scope->where, name, (unsigned long long)ne[0], (unsigned long long)ne[1],
                        (unsigned long long)ne[2], (unsigned long long)ne[3],
                        (unsigned long long)shape[0], (unsigned long long)shape[1],
                        (unsigned long long)shape[2]);
}

static enum lq_status check_matrix(const struct key_scope *scope,
                                   const struct lq_tensor_index *index, const char *name,
                                   uint64_t cols, uint64_t rows)
{
    const uint64_t shape[3] = {cols, rows, 1};
    return check_shape(scope, index, name, shape);
}

/* True when layer 0 has the weight with the shape that the keys give it. */
static bool has_shape(const struct lq_tensor_index *index, const struct lq_hparams *hparams,
                      enum lq_layer_weight weight)
{
    char name[LQ_WEIGHT_NAME_BYTES];
    uint64_t cols = 0;
    uint64_t rows = 0;
    const struct lq_model_tensor *tensor =
        lq_tensor_index_find(index, lq_layer_weight_path(0, weight, name));
    lq_layer_weight_shape(hparams, weight, &cols, &rows);
    return tensor != NULL && tensor->ne[0] == cols && tensor->ne[1] == rows;
}

#define BIT LQ_WEIGHT_BIT

/* Which weights the layers have: what every layer must have, and of the optional ones what the
 * first layer has. */
static uint32_t find_weights(const struct key_scope *scope, const struct lq_tensor_index *index,
                             const struct lq_hparams *hparams)
{
    uint32_t optional = scope->arch->optional;
    uint32_t weights = BIT(LQ_WEIGHT_ATTN_NORM) | BIT(LQ_WEIGHT_ATTN_OUTPUT) |
                       BIT(LQ_WEIGHT_FFN_NORM) | scope->arch->required;
    bool qkv =
        (optional & BIT(LQ_WEIGHT_ATTN_QKV)) != 0 && has_shape(index, hparams, LQ_WEIGHT_ATTN_QKV);
    bool gate_up = (optional & BIT(LQ_WEIGHT_FFN_GATE_UP)) != 0 &&
                   has_shape(index, hparams, LQ_WEIGHT_FFN_GATE_UP);
    weights |= qkv ? BIT(LQ_WEIGHT_ATTN_QKV)
                   : BIT(LQ_WEIGHT_ATTN_Q) | BIT(LQ_WEIGHT_ATTN_K) | BIT(LQ_WEIGHT_ATTN_V);
    if (hparams->expert_count != 0) {
        weights |= BIT(LQ_WEIGHT_FFN_ROUTER) | BIT(LQ_WEIGHT_FFN_GATE_EXPS) |
                   BIT(LQ_WEIGHT_FFN_UP_EXPS) | BIT(LQ_WEIGHT_FFN_DOWN_EXPS);
    } else {
        weights |=
            BIT(LQ_WEIGHT_FFN_DOWN) | (gate_up ? BIT(LQ_WEIGHT_FFN_GATE_UP)
                                               : BIT(LQ_WEIGHT_FFN_GATE) | BIT(LQ_WEIGHT_FFN_UP));
    }
    optional &= ~(BIT(LQ_WEIGHT_ATTN_QKV) | BIT(LQ_WEIGHT_FFN_GATE_UP));
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        char name[LQ_WEIGHT_NAME_BYTES];
        lq_layer_weight_path(0, (enum lq_layer_weight)w, name);
        if ((optional & BIT(w)) != 0 && lq_tensor_index_find(index, name) != NULL) {
            weights |= BIT(w);
        }
    }
    return weights;
}

/* "attn_q.weight" behind "blk.3.": one of the weights that the layers have? */
static bool is_layer_weight(const struct lq_hparams *hparams, const char *suffix)
{
    char name[LQ_WEIGHT_NAME_BYTES];
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        if (lq_hparams_has(hparams, (enum lq_layer_weight)w)) {
            (void)lq_layer_weight_path(0, (enum lq_layer_weight)w, name);
            if (strcmp(suffix, name + strlen("blk.0.")) == 0) {
                return true;
            }
        }
    }
    return false;
}

/* A tensor that the forward pass would silently leave out would give wrong statistics, so it is
 * refused. Old files repeat the rotary frequencies in every layer. */
static enum lq_status check_known(const struct key_scope *scope,
                                  const struct lq_tensor_index *index,
                                  const struct lq_hparams *hparams)
{
    static const char *const globals[] = {
        "token_embd.weight", "output_norm.weight",       "output.weight",
        "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"};
    for (size_t i = 0; i < index->tensor_count; i++) {
        const char *name = index->tensors[i].name;
        const char *suffix = NULL;
        if (lq_text_starts_with(name, "blk.")) {
            suffix = strchr(name + strlen("blk."), '.');
        }
        bool known = suffix != NULL && (is_layer_weight(hparams, suffix + 1) ||
                                        strcmp(suffix + 1, "attn_rot_embd.weight") == 0);
        for (size_t g = 0; g < LQ_COUNT_OF(globals); g++) {
            known = known || strcmp(name, globals[g]) == 0;
        }
        if (!known) {
            return lq_error_set(scope->err, LQ_EUNSUPPORTED,
                                "%s: the forward pass does not know the tensor '%s' of a %s "
                                "model; " ADVICE,
                                scope->where, name, scope->arch->name);
        }
    }
    return LQ_OK;
}

static enum lq_status check_positions(const struct key_scope *scope,
                                      const struct lq_tensor_index *index, struct lq_hparams *out)
{
    uint64_t pairs = out->rope_dim / 2;
    enum lq_status status = LQ_OK;
    out->rope_factors = lq_tensor_index_find(index, "rope_freqs.weight") != NULL;
    if (out->rope_factors) {
        status = check_matrix(scope, index, "rope_freqs.weight", pairs, 1);
    }
    if (status == LQ_OK && lq_tensor_index_find(index, "rope_factors_long.weight") != NULL) {
        out->rope_scaling = LQ_ROPE_LONGROPE;
        status = check_matrix(scope, index, "rope_factors_long.weight", pairs, 1);
        if (status == LQ_OK) {
            status = check_matrix(scope, index, "rope_factors_short.weight", pairs, 1);
        }
        if (status == LQ_OK) {
            status = read_count(scope, "rope.scaling.original_context_length", INT32_MAX,
                                out->context_length, &out->rope_original_context);
        }
    }
    return status;
}

static enum lq_status check_layer(const struct key_scope *scope,
                                  const struct lq_tensor_index *index,
                                  const struct lq_hparams *hparams, uint32_t layer)
{
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        enum lq_layer_weight weight = (enum lq_layer_weight)w;
        char name[LQ_WEIGHT_NAME_BYTES];
        uint64_t shape[3];
        if (!lq_hparams_has(hparams, weight)) {
            continue;
        }
        lq_layer_weight_shape(hparams, weight, &shape[0], &shape[1]);
        shape[2] = lq_layer_weight_mats(hparams, weight);
        lq_layer_weight_path(layer, weight, name);
        enum lq_status status = check_shape(scope, index, name, shape);
        if (status != LQ_OK) {
            return status;
        }
    }
    return LQ_OK;
}

static enum lq_status check_tensors(const struct key_scope *scope,
                                    const struct lq_tensor_index *index, struct lq_hparams *out)
{
    out->weights = find_weights(scope, index, out);
    enum lq_status status = check_known(scope, index, out);
    if (status == LQ_OK) {
        status = check_matrix(scope, index, "token_embd.weight", out->width, out->vocab_size);
    }
    if (status == LQ_OK) {
        status = check_matrix(scope, index, "output_norm.weight", out->width, 1);
    }
    out->tied_output = lq_tensor_index_find(index, "output.weight") == NULL;
    if (status == LQ_OK && !out->tied_output) {
        status = check_matrix(scope, index, "output.weight", out->width, out->vocab_size);
    }
    if (status == LQ_OK) {
        status = check_positions(scope, index, out);
    }
    for (uint32_t layer = 0; status == LQ_OK && layer < out->layer_count; layer++) {
        status = check_layer(scope, index, out, layer);
    }
    return status;
}

static enum lq_status read_vocab_size(const struct key_scope *scope,
                                      const struct lq_tensor_index *index, struct lq_hparams *out)
{
    const struct lq_model_tensor *embedding = lq_tensor_index_find(index, "token_embd.weight");
    if (embedding == NULL || embedding->ne[1] < 1 || embedding->ne[1] > LQ_VOCAB_MAX) {
        return lq_error_set(
            scope->err, scope->status,
            "%s: the tensor 'token_embd.weight' is missing or does not have 1 to %d "
            "rows",
            scope->where, LQ_VOCAB_MAX);
    }
    const struct lq_gguf_value *tokens = lq_gguf_find(scope->meta, "tokenizer.ggml.tokens");
    if (tokens != NULL && tokens->type == LQ_GGUF_ARRAY && tokens->count > embedding->ne[1]) {
        return lq_error_set(scope->err, scope->status,
                            "%s: the vocabulary has %llu tokens, but 'token_embd.weight' only %llu "
                            "rows; they belong to different models",
                            scope->where, (unsigned long long)tokens->count,
                            (unsigned long long)embedding->ne[1]);
    }
    return read_count(scope, "vocab_size", LQ_VOCAB_MAX, (uint32_t)embedding->ne[1],
                      &out->vocab_size);
}

enum lq_status lq_hparams_read(const struct lq_gguf *meta, const struct lq_tensor_index *index,
                               const char *where, enum lq_status failure, struct lq_hparams *out,
                               struct lq_error *err)
{
    struct key_scope scope = {.meta = meta, .where = where, .status = failure, .err = err};
    struct lq_hparams hparams;
    memset(&hparams, 0, sizeof hparams);
    enum lq_status status = find_architecture(&scope);
    enum lq_status (*const readers[])(const struct key_scope *, struct lq_hparams *) = {
        read_sizes, read_experts, read_window, read_numbers};
    for (size_t i = 0; status == LQ_OK && i < LQ_COUNT_OF(readers); i++) {
        status = readers[i](&scope, &hparams);
    }
    if (status == LQ_OK) {
        status = check_heads(&scope, &hparams);
    }
    if (status == LQ_OK) {
        status = read_vocab_size(&scope, index, &hparams);
    }
    if (status == LQ_OK) {
        status = check_tensors(&scope, index, &hparams);
    }
    if (status == LQ_OK) {
        *out = hparams;
    }
    return status;
}
