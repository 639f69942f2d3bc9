#include "rules/model/hparams.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/base/limits.h"

/* ---- weights ---- */

/* Sizes of a weight's matrix, in terms of the hyperparameters. */
enum dim { ONE, WIDTH, FFN, FFN_TWICE, HEAD, Q_WIDTH, KV_WIDTH, QKV_WIDTH, EXPERTS };

struct weight_row {
    const char *name; /* without ".weight" */
    enum dim cols;
    enum dim rows;
    enum dim mats;
    enum lq_layer_input input;
};

#define NO_INPUT LQ_LAYER_INPUT_COUNT

static const struct weight_row weight_rows[LQ_LAYER_WEIGHT_COUNT] = {
    [LQ_WEIGHT_ATTN_NORM] = {"attn_norm", WIDTH, ONE, ONE, NO_INPUT},
    [LQ_WEIGHT_ATTN_Q] = {"attn_q", WIDTH, Q_WIDTH, ONE, LQ_INPUT_ATTN},
    [LQ_WEIGHT_ATTN_K] = {"attn_k", WIDTH, KV_WIDTH, ONE, LQ_INPUT_ATTN},
    [LQ_WEIGHT_ATTN_V] = {"attn_v", WIDTH, KV_WIDTH, ONE, LQ_INPUT_ATTN},
    [LQ_WEIGHT_ATTN_OUTPUT] = {"attn_output", Q_WIDTH, WIDTH, ONE, LQ_INPUT_ATTN_OUTPUT},
    [LQ_WEIGHT_FFN_NORM] = {"ffn_norm", WIDTH, ONE, ONE, NO_INPUT},
    [LQ_WEIGHT_FFN_GATE] = {"ffn_gate", WIDTH, FFN, ONE, LQ_INPUT_FFN},
    [LQ_WEIGHT_FFN_UP] = {"ffn_up", WIDTH, FFN, ONE, LQ_INPUT_FFN},
    [LQ_WEIGHT_FFN_DOWN] = {"ffn_down", FFN, WIDTH, ONE, LQ_INPUT_FFN_DOWN},
    [LQ_WEIGHT_ATTN_QKV] = {"attn_qkv", WIDTH, QKV_WIDTH, ONE, LQ_INPUT_ATTN},
    [LQ_WEIGHT_FFN_GATE_UP] = {"ffn_up", WIDTH, FFN_TWICE, ONE, LQ_INPUT_FFN},
    [LQ_WEIGHT_ATTN_Q_BIAS] = {"attn_q.bias", Q_WIDTH, ONE, ONE, NO_INPUT},
    [LQ_WEIGHT_ATTN_K_BIAS] = {"attn_k.bias", KV_WIDTH, ONE, ONE, NO_INPUT},
    [LQ_WEIGHT_ATTN_V_BIAS] = {"attn_v.bias", KV_WIDTH, ONE, ONE, NO_INPUT},
    [LQ_WEIGHT_ATTN_QKV_BIAS] = {"attn_qkv.bias", QKV_WIDTH, ONE, ONE, NO_INPUT},
    [LQ_WEIGHT_ATTN_OUTPUT_BIAS] = {"attn_output.bias", WIDTH, ONE, ONE, NO_INPUT},
    [LQ_WEIGHT_FFN_GATE_BIAS] = {"ffn_gate.bias", FFN, ONE, ONE, NO_INPUT},
    [LQ_WEIGHT_FFN_UP_BIAS] = {"ffn_up.bias", FFN, ONE, ONE, NO_INPUT},
    [LQ_WEIGHT_FFN_DOWN_BIAS] = {"ffn_down.bias", WIDTH, ONE, ONE, NO_INPUT},
    [LQ_WEIGHT_ATTN_Q_NORM] = {"attn_q_norm", HEAD, ONE, ONE, NO_INPUT},
    [LQ_WEIGHT_ATTN_K_NORM] = {"attn_k_norm", HEAD, ONE, ONE, NO_INPUT},
    [LQ_WEIGHT_ATTN_POST_NORM] = {"post_attention_norm", WIDTH, ONE, ONE, NO_INPUT},
    [LQ_WEIGHT_FFN_POST_NORM] = {"post_ffw_norm", WIDTH, ONE, ONE, NO_INPUT},
    [LQ_WEIGHT_FFN_ROUTER] = {"ffn_gate_inp", WIDTH, EXPERTS, ONE, LQ_INPUT_FFN},
    [LQ_WEIGHT_FFN_GATE_EXPS] = {"ffn_gate_exps", WIDTH, FFN, EXPERTS, LQ_INPUT_FFN_EXPS},
    [LQ_WEIGHT_FFN_UP_EXPS] = {"ffn_up_exps", WIDTH, FFN, EXPERTS, LQ_INPUT_FFN_EXPS},
    [LQ_WEIGHT_FFN_DOWN_EXPS] = {"ffn_down_exps", FFN, WIDTH, EXPERTS, LQ_INPUT_FFN_DOWN_EXPS},
};

static uint64_t size_of(const struct lq_hparams *hparams, enum dim dim)
{
    uint64_t q_width = (uint64_t)hparams->head_count * hparams->head_dim;
    uint64_t kv_width = (uint64_t)hparams->kv_head_count * hparams->head_dim;
    switch (dim) {
    case WIDTH:
        return hparams->width;
    case FFN:
        return hparams->ffn_width;
    case FFN_TWICE:
        return 2 * (uint64_t)hparams->ffn_width;
    case HEAD:
        return hparams->head_dim;
    case Q_WIDTH:
        return q_width;
    case KV_WIDTH:
        return kv_width;
    case QKV_WIDTH:
        return q_width + 2 * kv_width;
    case EXPERTS:
        return hparams->expert_count;
    case ONE:
        break;
    }
    return 1;
}

const char *lq_layer_weight_name(enum lq_layer_weight weight)
{
    return weight_rows[weight].name;
}

char *lq_layer_weight_path(uint32_t layer, enum lq_layer_weight weight, char *name)
{
    const char *own = weight_rows[weight].name;
    (void)snprintf(name, LQ_WEIGHT_NAME_BYTES, "blk.%u.%s%s", (unsigned)layer, own,
                   strchr(own, '.') == NULL ? ".weight" : "");
    return name;
}

void lq_layer_weight_shape(const struct lq_hparams *hparams, enum lq_layer_weight weight,
                           uint64_t *cols, uint64_t *rows)
{
    *cols = size_of(hparams, weight_rows[weight].cols);
    *rows = size_of(hparams, weight_rows[weight].rows);
}

bool lq_layer_weight_is_expert(enum lq_layer_weight weight)
{
    return weight_rows[weight].mats == EXPERTS;
}

uint64_t lq_layer_weight_mats(const struct lq_hparams *hparams, enum lq_layer_weight weight)
{
    return size_of(hparams, weight_rows[weight].mats);
}

enum lq_layer_input lq_layer_weight_input(enum lq_layer_weight weight)
{
    return weight_rows[weight].input;
}

bool lq_hparams_has_matrix(const struct lq_hparams *hparams, enum lq_layer_weight weight)
{
    return lq_hparams_has(hparams, weight) && lq_layer_weight_input(weight) != LQ_LAYER_INPUT_COUNT;
}

size_t lq_layer_input_cols(const struct lq_hparams *hparams, enum lq_layer_input input)
{
    for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
        if (weight_rows[w].input == input && lq_hparams_has(hparams, (enum lq_layer_weight)w)) {
            return (size_t)size_of(hparams, weight_rows[w].cols);
        }
    }
    return 0;
}

size_t lq_layer_input_mats(const struct lq_hparams *hparams, enum lq_layer_input input)
{
    bool by_expert = input == LQ_INPUT_FFN_EXPS || input == LQ_INPUT_FFN_DOWN_EXPS;
    return by_expert ? hparams->expert_count : 1;
}

bool lq_hparams_is_windowed(const struct lq_hparams *hparams, uint32_t layer)
{
    uint32_t period = hparams->window_period;
    return hparams->window != 0 && (period == 0 || (layer + 1) % period != 0);
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

struct field {
    const char *name;
    size_t offset;
    int64_t min;
    int64_t max;
};

#define COUNT(name, member, min, max)                                                              \
    {                                                                                              \
        name, offsetof(struct lq_hparams, member), min, max                                        \
    }

static const struct field count_fields[] = {
    COUNT("layers", layer_count, 1, LQ_MODEL_LAYERS_MAX),
    COUNT("width", width, 1, LQ_MODEL_DIM_MAX),
    COUNT("ffn_width", ffn_width, 1, LQ_MODEL_DIM_MAX),
    COUNT("heads", head_count, 1, LQ_MODEL_DIM_MAX),
    COUNT("kv_heads", kv_head_count, 1, LQ_MODEL_DIM_MAX),
    COUNT("head_dim", head_dim, 1, LQ_MODEL_DIM_MAX),
    COUNT("rope_dim", rope_dim, 1, LQ_MODEL_DIM_MAX),
    COUNT("vocab_size", vocab_size, 1, LQ_VOCAB_MAX),
    COUNT("context", context_length, 1, INT32_MAX),
    COUNT("weights", weights, 1, LQ_WEIGHT_BIT(LQ_LAYER_WEIGHT_COUNT) - 1),
    COUNT("experts", expert_count, 0, LQ_MODEL_EXPERTS_MAX),
    COUNT("experts_used", expert_used, 0, LQ_MODEL_EXPERTS_MAX),
    COUNT("window", window, 0, INT32_MAX),
    COUNT("window_period", window_period, 0, LQ_MODEL_LAYERS_MAX),
    COUNT("activation", activation, 0, LQ_ACTIVATION_GELU_TANH),
    COUNT("rope_scaling", rope_scaling, 0, LQ_ROPE_LONGROPE),
    COUNT("rope_original_context", rope_original_context, 0, INT32_MAX),
};

#define FIELD(name, member)                                                                        \
    {                                                                                              \
        name, offsetof(struct lq_hparams, member), 0, 0                                            \
    }

static const struct field number_fields[] = {
    FIELD("norm_eps", norm_eps),
    FIELD("rope_base", rope_freq_base),
    FIELD("rope_scale", rope_scale),
    FIELD("rope_attn_factor", rope_attn_factor),
    FIELD("rope_beta_fast", rope_beta_fast),
    FIELD("rope_beta_slow", rope_beta_slow),
    FIELD("rope_local_base", rope_local_base),
    FIELD("embedding_scale", embedding_scale),
    FIELD("attention_scale", attention_scale),
    FIELD("attention_cap", attention_cap),
    FIELD("logit_cap", logit_cap),
};

static const struct field flag_fields[] = {
    FIELD("router_over_all", router_over_all), FIELD("rope_halves", rope_halves),
    FIELD("rope_local", rope_local),           FIELD("rope_factors", rope_factors),
    FIELD("tied_output", tied_output),
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
    for (size_t i = 0; i < LQ_COUNT_OF(flag_fields); i++) {
        bool value = false;
        memcpy(&value, (const char *)hparams + flag_fields[i].offset, sizeof value);
        lq_json_put_bool(&writer, flag_fields[i].name, value);
    }
    lq_json_end_object(&writer);
}

static enum lq_status parse_fields(const cJSON *root, struct lq_hparams *out, struct lq_error *err)
{
    static const struct lq_json_scope scope = {"hyperparameters", LQ_EINTERNAL};
    enum lq_status status = LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < LQ_COUNT_OF(count_fields); i++) {
        int64_t value = 0;
        status = lq_json_get_int(&scope, root, count_fields[i].name, count_fields[i].min,
                                 count_fields[i].max, &value, NULL, err);
        uint32_t narrow = (uint32_t)value;
        memcpy((char *)out + count_fields[i].offset, &narrow, sizeof narrow);
    }
    for (size_t i = 0; status == LQ_OK && i < LQ_COUNT_OF(number_fields); i++) {
        double value = 0.0;
        status = lq_json_get_number(&scope, root, number_fields[i].name, &value, NULL, err);
        memcpy((char *)out + number_fields[i].offset, &value, sizeof value);
    }
    for (size_t i = 0; status == LQ_OK && i < LQ_COUNT_OF(flag_fields); i++) {
        bool value = false;
        status = lq_json_get_bool(&scope, root, flag_fields[i].name, &value, NULL, err);
        memcpy((char *)out + flag_fields[i].offset, &value, sizeof value);
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
