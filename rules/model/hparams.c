#include "rules/model/hparams.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/base/limits.h"
#include "engine/base/text.h"

#define ADVICE "it can still be quantized without an imatrix"

static const char *const weight_names[LQ_LAYER_WEIGHT_COUNT] = {
    "attn_norm", "attn_q",   "attn_k", "attn_v",   "attn_output",
    "ffn_norm",  "ffn_gate", "ffn_up", "ffn_down",
};

const char *lq_layer_weight_name(enum lq_layer_weight weight)
{
    return weight_names[weight];
}

char *lq_layer_weight_path(uint32_t layer, enum lq_layer_weight weight, char *name)
{
    (void)snprintf(name, LQ_WEIGHT_NAME_BYTES, "blk.%u.%s.weight", (unsigned)layer,
                   weight_names[weight]);
    return name;
}

void lq_layer_weight_shape(const struct lq_hparams *hparams, enum lq_layer_weight weight,
                           uint64_t *cols, uint64_t *rows)
{
    uint64_t width = hparams->width;
    uint64_t q_width = (uint64_t)hparams->head_count * hparams->head_dim;
    uint64_t kv_width = (uint64_t)hparams->kv_head_count * hparams->head_dim;
    *cols = width;
    *rows = 1;
    switch (weight) {
    case LQ_WEIGHT_ATTN_Q:
        *rows = q_width;
        break;
    case LQ_WEIGHT_ATTN_K:
    case LQ_WEIGHT_ATTN_V:
        *rows = kv_width;
        break;
    case LQ_WEIGHT_ATTN_OUTPUT:
        *cols = q_width;
        *rows = width;
        break;
    case LQ_WEIGHT_FFN_GATE:
    case LQ_WEIGHT_FFN_UP:
        *rows = hparams->ffn_width;
        break;
    case LQ_WEIGHT_FFN_DOWN:
        *cols = hparams->ffn_width;
        *rows = width;
        break;
    default:
        break;
    }
}

/* ---- keys ---- */

struct key_scope {
    const struct lq_gguf *meta;
    const char *where;
    enum lq_status status;
    struct lq_error *err;
};

static const struct lq_gguf_value *find_key(const struct key_scope *scope, const char *name,
                                            char key[LQ_WEIGHT_NAME_BYTES])
{
    (void)snprintf(key, LQ_WEIGHT_NAME_BYTES, "llama.%s", name);
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

/* `fallback` 0: the key is required. */
static enum lq_status read_count(const struct key_scope *scope, const char *name, uint64_t max,
                                 uint32_t fallback, uint32_t *out)
{
    char key[LQ_WEIGHT_NAME_BYTES];
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
    char key[LQ_WEIGHT_NAME_BYTES];
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

static enum lq_status read_scaling(const struct key_scope *scope, struct lq_hparams *out)
{
    out->rope_scale = 1.0;
    const char *type = lq_gguf_get_string(scope->meta, "llama.rope.scaling.type");
    if (type == NULL || strcmp(type, "none") == 0) {
        return LQ_OK;
    }
    if (strcmp(type, "linear") != 0) {
        return lq_error_set(scope->err, LQ_EUNSUPPORTED,
                            "%s: rope scaling '%s' is not known to the forward pass (none and "
                            "linear are); " ADVICE,
                            scope->where, type);
    }
    return read_positive(scope, "rope.scaling.factor", 1.0, &out->rope_scale);
}

static enum lq_status read_sizes(const struct key_scope *scope, struct lq_hparams *out)
{
    enum lq_status status =
        read_count(scope, "block_count", LQ_MODEL_LAYERS_MAX, 0, &out->layer_count);
    if (status == LQ_OK) {
        status = read_count(scope, "embedding_length", LQ_MODEL_DIM_MAX, 0, &out->width);
    }
    if (status == LQ_OK) {
        status = read_count(scope, "feed_forward_length", LQ_MODEL_DIM_MAX, 0, &out->ffn_width);
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

static enum lq_status read_numbers(const struct key_scope *scope, struct lq_hparams *out)
{
    enum lq_status status =
        read_positive(scope, "attention.layer_norm_rms_epsilon", 0.0, &out->norm_eps);
    if (status == LQ_OK) {
        status = read_positive(scope, "rope.freq_base", 10000.0, &out->rope_freq_base);
    }
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
                            "%s: 'llama.rope.dimension_count' is %u, expected an even number up to "
                            "the head size %u",
                            scope->where, (unsigned)hparams->rope_dim, (unsigned)hparams->head_dim);
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

static enum lq_status check_architecture(const struct key_scope *scope)
{
    const char *architecture = lq_gguf_get_string(scope->meta, "general.architecture");
    if (architecture == NULL) {
        return lq_error_set(scope->err, scope->status,
                            "%s: the key 'general.architecture' is missing", scope->where);
    }
    if (strcmp(architecture, "llama") != 0) {
        return lq_error_set(scope->err, LQ_EUNSUPPORTED,
                            "%s: the forward pass does not know the architecture '%s' yet (llama "
                            "only); " ADVICE,
                            scope->where, architecture);
    }
    if (lq_gguf_get_uint(scope->meta, "llama.expert_count", 0) > 0) {
        return lq_error_set(scope->err, LQ_EUNSUPPORTED,
                            "%s: the forward pass does not know mixtures of experts yet; " ADVICE,
                            scope->where);
    }
    return LQ_OK;
}

/* ---- tensors ---- */

static enum lq_status check_shape(const struct key_scope *scope,
                                  const struct lq_tensor_index *index, const char *name,
                                  uint64_t cols, uint64_t rows)
{
    const struct lq_model_tensor *tensor = lq_tensor_index_find(index, name);
    if (tensor == NULL) {
        return lq_error_set(scope->err, scope->status, "%s: the tensor '%s' is missing",
                            scope->where, name);
    }
    if (tensor->ne[0] != cols || tensor->ne[1] != rows || tensor->ne[2] != 1 ||
        tensor->ne[3] != 1) {
        return lq_error_set(scope->err, scope->status,
                            "%s: the tensor '%s' has %llu columns and %llu rows, expected %llu and "
                            "%llu from the model's keys",
                            scope->where, name, (unsigned long long)tensor->ne[0],
                            (unsigned long long)tensor->ne[1], (unsigned long long)cols,
                            (unsigned long long)rows);
    }
    return LQ_OK;
}

static bool is_layer_weight(const char *suffix)
{
    for (int i = 0; i < LQ_LAYER_WEIGHT_COUNT; i++) {
        size_t length = strlen(weight_names[i]);
        if (strncmp(suffix, weight_names[i], length) == 0 &&
            strcmp(suffix + length, ".weight") == 0) {
            return true;
        }
    }
    return false;
}

/* A tensor that the forward pass would silently leave out (a bias, a norm of the keys) would give
 * wrong statistics, so it is refused. Old files repeat the rotary frequencies in every layer. */
static enum lq_status check_known(const struct key_scope *scope,
                                  const struct lq_tensor_index *index)
{
    static const char *const globals[] = {"token_embd.weight", "output_norm.weight",
                                          "output.weight", "rope_freqs.weight"};
    for (size_t i = 0; i < index->tensor_count; i++) {
        const char *name = index->tensors[i].name;
        const char *suffix = NULL;
        if (lq_text_starts_with(name, "blk.")) {
            suffix = strchr(name + strlen("blk."), '.');
        }
        bool known = suffix != NULL && (is_layer_weight(suffix + 1) ||
                                        strcmp(suffix + 1, "attn_rot_embd.weight") == 0);
        for (size_t g = 0; g < LQ_COUNT_OF(globals); g++) {
            known = known || strcmp(name, globals[g]) == 0;
        }
        if (!known) {
            return lq_error_set(scope->err, LQ_EUNSUPPORTED,
                                "%s: the forward pass does not know the tensor '%s' of a llama "
                                "model; " ADVICE,
                                scope->where, name);
        }
    }
    return LQ_OK;
}

static enum lq_status check_tensors(const struct key_scope *scope,
                                    const struct lq_tensor_index *index, struct lq_hparams *out)
{
    enum lq_status status = check_known(scope, index);
    if (status == LQ_OK) {
        status = check_shape(scope, index, "token_embd.weight", out->width, out->vocab_size);
    }
    if (status == LQ_OK) {
        status = check_shape(scope, index, "output_norm.weight", out->width, 1);
    }
    out->tied_output = lq_tensor_index_find(index, "output.weight") == NULL;
    if (status == LQ_OK && !out->tied_output) {
        status = check_shape(scope, index, "output.weight", out->width, out->vocab_size);
    }
    out->rope_factors = lq_tensor_index_find(index, "rope_freqs.weight") != NULL;
    if (status == LQ_OK && out->rope_factors) {
        status = check_shape(scope, index, "rope_freqs.weight", out->rope_dim / 2, 1);
    }
    for (uint32_t layer = 0; status == LQ_OK && layer < out->layer_count; layer++) {
        for (int w = 0; status == LQ_OK && w < LQ_LAYER_WEIGHT_COUNT; w++) {
            char name[LQ_WEIGHT_NAME_BYTES];
            uint64_t cols = 0;
            uint64_t rows = 0;
            lq_layer_weight_shape(out, (enum lq_layer_weight)w, &cols, &rows);
            lq_layer_weight_path(layer, (enum lq_layer_weight)w, name);
            status = check_shape(scope, index, name, cols, rows);
        }
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
    return read_count(scope, "vocab_size", LQ_VOCAB_MAX, (uint32_t)embedding->ne[1],
                      &out->vocab_size);
}

enum lq_status lq_hparams_read(const struct lq_gguf *meta, const struct lq_tensor_index *index,
                               const char *where, enum lq_status failure, struct lq_hparams *out,
                               struct lq_error *err)
{
    struct key_scope scope = {meta, where, failure, err};
    struct lq_hparams hparams;
    memset(&hparams, 0, sizeof hparams);
    enum lq_status status = check_architecture(&scope);
    if (status == LQ_OK) {
        status = read_sizes(&scope, &hparams);
    }
    if (status == LQ_OK) {
        status = read_numbers(&scope, &hparams);
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

enum lq_status lq_hparams_index_gguf(const struct lq_gguf *gguf, struct lq_arena *arena,
                                     struct lq_tensor_index *out, struct lq_error *err)
{
    size_t count = gguf->tensor_count;
    struct lq_model_tensor *tensors =
        lq_arena_get_array(arena, count == 0 ? 1 : count, sizeof *tensors);
    if (tensors == NULL) {
        return lq_error_nomem(err, "the tensor index");
    }
    for (size_t i = 0; i < count; i++) {
        const struct lq_gguf_tensor *from = &gguf->tensors[i];
        tensors[i].name = from->name;
        tensors[i].source_name = from->name;
        tensors[i].dtype = from->dtype;
        tensors[i].dim_count = from->dim_count;
        memcpy(tensors[i].ne, from->ne, sizeof tensors[i].ne);
        tensors[i].offset = from->offset;
        tensors[i].size_bytes = from->size_bytes;
    }
    out->tensors = tensors;
    out->tensor_count = count;
    return LQ_OK;
}

/* ---- text ---- */

struct count_field {
    const char *name;
    size_t offset;
    int64_t max;
};

static const struct count_field count_fields[] = {
    {"layers", offsetof(struct lq_hparams, layer_count), LQ_MODEL_LAYERS_MAX},
    {"width", offsetof(struct lq_hparams, width), LQ_MODEL_DIM_MAX},
    {"ffn_width", offsetof(struct lq_hparams, ffn_width), LQ_MODEL_DIM_MAX},
    {"heads", offsetof(struct lq_hparams, head_count), LQ_MODEL_DIM_MAX},
    {"kv_heads", offsetof(struct lq_hparams, kv_head_count), LQ_MODEL_DIM_MAX},
    {"head_dim", offsetof(struct lq_hparams, head_dim), LQ_MODEL_DIM_MAX},
    {"rope_dim", offsetof(struct lq_hparams, rope_dim), LQ_MODEL_DIM_MAX},
    {"vocab_size", offsetof(struct lq_hparams, vocab_size), LQ_VOCAB_MAX},
    {"context", offsetof(struct lq_hparams, context_length), LQ_SEQUENCE_MAX},
};

static const struct count_field number_fields[] = {
    {"norm_eps", offsetof(struct lq_hparams, norm_eps), 0},
    {"rope_base", offsetof(struct lq_hparams, rope_freq_base), 0},
    {"rope_scale", offsetof(struct lq_hparams, rope_scale), 0},
};

void lq_hparams_format(const struct lq_hparams *hparams, struct lq_buffer *out)
{
    struct lq_json_writer writer;
    lq_json_writer_init(&writer, out, false);
    lq_json_begin_object(&writer);
    for (size_t i = 0; i < LQ_COUNT_OF(count_fields); i++) {
        uint32_t value = 0;
        memcpy(&value, (const char *)hparams + count_fields[i].offset, sizeof value);
        lq_json_put_int(&writer, count_fields[i].name, (int64_t)value);
    }
    for (size_t i = 0; i < LQ_COUNT_OF(number_fields); i++) {
        double value = 0.0;
        memcpy(&value, (const char *)hparams + number_fields[i].offset, sizeof value);
        lq_json_put_number(&writer, number_fields[i].name, value);
    }
    lq_json_put_bool(&writer, "tied_output", hparams->tied_output);
    lq_json_put_bool(&writer, "rope_factors", hparams->rope_factors);
    lq_json_end_object(&writer);
}

static enum lq_status parse_fields(const cJSON *root, struct lq_hparams *out, struct lq_error *err)
{
    static const struct lq_json_scope scope = {"hyperparameters", LQ_EINTERNAL};
    enum lq_status status = LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < LQ_COUNT_OF(count_fields); i++) {
        int64_t value = 0;
        status = lq_json_get_int(&scope, root, count_fields[i].name, 1, count_fields[i].max, &value,
                                 NULL, err);
        uint32_t narrow = (uint32_t)value;
        memcpy((char *)out + count_fields[i].offset, &narrow, sizeof narrow);
    }
    for (size_t i = 0; status == LQ_OK && i < LQ_COUNT_OF(number_fields); i++) {
        double value = 0.0;
        status = lq_json_get_number(&scope, root, number_fields[i].name, &value, NULL, err);
        memcpy((char *)out + number_fields[i].offset, &value, sizeof value);
    }
    if (status == LQ_OK) {
        status = lq_json_get_bool(&scope, root, "tied_output", &out->tied_output, NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_bool(&scope, root, "rope_factors", &out->rope_factors, NULL, err);
    }
    return status;
}

enum lq_status lq_hparams_parse(const char *text, struct lq_hparams *out, struct lq_error *err)
{
    memset(out, 0, sizeof *out);
    if (text == NULL) {
        return lq_error_set(err, LQ_EINTERNAL, "hyperparameters are missing");
    }
    cJSON *root = NULL;
    enum lq_status status =
        lq_json_parse(text, strlen(text), "hyperparameters", LQ_EINTERNAL, &root, err);
    if (status == LQ_OK) {
        status = parse_fields(root, out, err);
        cJSON_Delete(root);
    }
    return status;
}
