#include "rules/model/hf_config.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/limits.h"

#define FILE_NAME "config.json"

static const struct lq_json_scope scope = {.where = FILE_NAME, .status = LQ_EFORMAT};

static enum lq_status refuse(const char *what, const char *value, struct lq_error *err)
{
    return lq_error_set(err, LQ_EUNSUPPORTED, FILE_NAME ": %s '%.100s' is not supported", what,
                        value);
}

/* The first entry of "architectures". */
static enum lq_status check_architecture(const cJSON *config, struct lq_error *err)
{
    const cJSON *list = NULL;
    enum lq_status status = lq_json_get_array(&scope, config, "architectures", &list, NULL, err);
    if (status != LQ_OK) {
        return status;
    }
    if (!cJSON_IsString(list->child)) {
        return lq_error_set(err, LQ_EFORMAT, FILE_NAME ": architectures must list a name");
    }
    const char *name = list->child->valuestring;
    if (strcmp(name, "LlamaForCausalLM") == 0 || strcmp(name, "MistralForCausalLM") == 0) {
        return LQ_OK;
    }
    return lq_error_set(err, LQ_EUNSUPPORTED,
                        FILE_NAME ": architecture '%.100s' is not supported; known are "
                                  "LlamaForCausalLM and MistralForCausalLM",
                        name);
}

static enum lq_status read_count(const cJSON *config, const char *key, int64_t max, bool *found,
                                 uint32_t *out, struct lq_error *err)
{
    int64_t value = 0;
    enum lq_status status = lq_json_get_int(&scope, config, key, 1, max, &value, found, err);
    if (status == LQ_OK && (found == NULL || *found)) {
        *out = (uint32_t)value;
    }
    return status;
}

static enum lq_status read_positive(const cJSON *object, const char *key, bool *found, double *out,
                                    struct lq_error *err)
{
    double value = 1;
    enum lq_status status = lq_json_get_number(&scope, object, key, &value, found, err);
    if (status == LQ_OK && (found == NULL || *found)) {
        if (!(value > 0) || value > 1e30) {
            return lq_error_set(err, LQ_EFORMAT, FILE_NAME ": %s must be positive, it is %g", key,
                                value);
        }
        *out = value;
    }
    return status;
}

static enum lq_status read_sizes(const cJSON *config, struct lq_hf_config *out,
                                 struct lq_error *err)
{
    const struct {
        const char *key;
        int64_t max;
        uint32_t *value;
    } sizes[] = {
        {"hidden_size", LQ_MODEL_DIM_MAX, &out->hidden_size},
        {"num_hidden_layers", LQ_MODEL_LAYERS_MAX, &out->layer_count},
        {"num_attention_heads", LQ_MODEL_DIM_MAX, &out->head_count},
        {"intermediate_size", LQ_MODEL_DIM_MAX, &out->feed_forward},
        {"max_position_embeddings", INT32_MAX, &out->context_length},
        {"vocab_size", LQ_VOCAB_MAX, &out->vocab_size},
    };
    for (size_t i = 0; i < LQ_COUNT_OF(sizes); i++) {
        enum lq_status status =
            read_count(config, sizes[i].key, sizes[i].max, NULL, sizes[i].value, err);
        if (status != LQ_OK) {
            return status;
        }
    }
    out->head_count_kv = out->head_count;
    bool found = false;
    enum lq_status status = read_count(config, "num_key_value_heads", LQ_MODEL_DIM_MAX, &found,
                                       &out->head_count_kv, err);
    if (status != LQ_OK) {
        return status;
    }
    if (out->head_count % out->head_count_kv != 0) {
        return lq_error_set(err, LQ_EFORMAT,
                            FILE_NAME ": num_attention_heads %u is not a multiple of "
                                      "num_key_value_heads %u",
                            out->head_count, out->head_count_kv);
    }
    return LQ_OK;
}

static enum lq_status read_head_dim(const cJSON *config, struct lq_hf_config *out,
                                    struct lq_error *err)
{
    bool found = false;
    enum lq_status status =
        read_count(config, "head_dim", LQ_MODEL_DIM_MAX, &found, &out->head_dim, err);
    if (status != LQ_OK) {
        return status;
    }
    if (!found) {
        if (out->hidden_size % out->head_count != 0) {
            return lq_error_set(err, LQ_EFORMAT,
                                FILE_NAME ": hidden_size %u is not a multiple of "
                                          "num_attention_heads %u",
                                out->hidden_size, out->head_count);
        }
        out->head_dim = out->hidden_size / out->head_count;
    }
    if (out->head_dim % 2 != 0) {
        return lq_error_set(err, LQ_EFORMAT,
                            FILE_NAME ": head_dim %u is odd, rotary embeddings need pairs",
                            out->head_dim);
    }
    if ((uint64_t)out->head_dim * out->head_count > LQ_MODEL_DIM_MAX) {
        return lq_error_set(err, LQ_EFORMAT,
                            FILE_NAME ": %u heads of %u exceed the limit of %d columns",
                            out->head_count, out->head_dim, LQ_MODEL_DIM_MAX);
    }
    return LQ_OK;
}

/* rope_theta stands on its own or, in newer files, within rope_parameters. */
static enum lq_status read_rope(const cJSON *config, struct lq_hf_config *out, struct lq_error *err)
{
    out->rope_theta = 10000.0;
    out->rope_factor = 1.0;
    bool found = false;
    enum lq_status status = read_positive(config, "rope_theta", &found, &out->rope_theta, err);
    const char *const keys[] = {"rope_scaling", "rope_parameters"};
    for (size_t i = 0; i < LQ_COUNT_OF(keys) && status == LQ_OK; i++) {
        const cJSON *rope = NULL;
        status = lq_json_get_object(&scope, config, keys[i], &rope, &found, err);
        if (status != LQ_OK || !found) {
            continue;
        }
        const char *type = "default";
        status = lq_json_get_string(&scope, rope, "rope_type", &type, &found, err);
        if (status == LQ_OK && !found) {
            status = lq_json_get_string(&scope, rope, "type", &type, &found, err);
        }
        bool linear = status == LQ_OK && strcmp(type, "linear") == 0;
        if (linear) {
            status = read_positive(rope, "factor", NULL, &out->rope_factor, err);
        } else if (status == LQ_OK && strcmp(type, "default") != 0) {
            status = refuse("rotary scaling of type", type, err);
        }
        if (status == LQ_OK) {
            status = read_positive(rope, "rope_theta", &found, &out->rope_theta, err);
        }
    }
    return status;
}

/* Options that would change the result of a layer. */
static enum lq_status check_options(const cJSON *config, const struct lq_hf_config *sizes,
                                    struct lq_error *err)
{
    bool found = false;
    const char *act = "silu";
    enum lq_status status = lq_json_get_string(&scope, config, "hidden_act", &act, &found, err);
    if (status == LQ_OK && strcmp(act, "silu") != 0) {
        return refuse("hidden_act", act, err);
    }
    const char *const biases[] = {"attention_bias", "mlp_bias"};
    for (size_t i = 0; i < LQ_COUNT_OF(biases) && status == LQ_OK; i++) {
        bool bias = false;
        status = lq_json_get_bool(&scope, config, biases[i], &bias, &found, err);
        if (status == LQ_OK && bias) {
            return refuse(biases[i], "true", err);
        }
    }
    int64_t window = 0;
    if (status == LQ_OK) {
        status =
            lq_json_get_int(&scope, config, "sliding_window", 0, INT32_MAX, &window, &found, err);
    }
    if (status == LQ_OK && found && window > 0 && window < sizes->context_length) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            FILE_NAME ": a sliding_window of %lld tokens is not supported",
                            (long long)window);
    }
    if (status == LQ_OK && lq_json_find(config, "quantization_config") != NULL) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            FILE_NAME
                            ": the model is quantized already (quantization_config); give "
                            "the original weights");
    }
    return status;
}

static const char *last_part(const cJSON *config)
{
    const cJSON *item = lq_json_find(config, "_name_or_path");
    if (!cJSON_IsString(item)) {
        return NULL;
    }
    const char *slash = strrchr(item->valuestring, '/');
    const char *name = slash == NULL ? item->valuestring : slash + 1;
    return name[0] == '\0' || name[0] == '.' ? NULL : name;
}

enum lq_status lq_hf_config_read(const cJSON *config, struct lq_hf_config *out,
                                 struct lq_error *err)
{
    memset(out, 0, sizeof *out);
    enum lq_status status = check_architecture(config, err);
    if (status == LQ_OK) {
        status = read_sizes(config, out, err);
    }
    if (status == LQ_OK) {
        status = read_head_dim(config, out, err);
    }
    if (status == LQ_OK) {
        status = read_positive(config, "rms_norm_eps", NULL, &out->norm_epsilon, err);
    }
    if (status == LQ_OK) {
        status = read_rope(config, out, err);
    }
    if (status == LQ_OK) {
        status = check_options(config, out, err);
    }
    bool found = false;
    if (status == LQ_OK) {
        status = lq_json_get_bool(&scope, config, "tie_word_embeddings", &out->tied_embeddings,
                                  &found, err);
    }
    out->name = status == LQ_OK ? last_part(config) : NULL;
    return status;
}

/* "5.8M", "7B": two digits, as GGUF's general.size_label has it. */
static void size_label(uint64_t parameter_count, char *out, size_t out_bytes)
{
    static const struct {
        double unit;
        char letter;
    } units[] = {{1e12, 'T'}, {1e9, 'B'}, {1e6, 'M'}, {1e3, 'K'}};
    size_t i = 0;
    while (i + 1 < LQ_COUNT_OF(units) && (double)parameter_count < units[i].unit) {
        i++;
    }
    /* Tenths are formatted as integers: no locale can put a comma there. */
    double value = (double)parameter_count / units[i].unit;
    unsigned long tenths = (unsigned long)(value * 10.0 + 0.5);
    if (tenths < 100 && tenths % 10 != 0) {
        (void)snprintf(out, out_bytes, "%lu.%lu%c", tenths / 10, tenths % 10, units[i].letter);
    } else {
        (void)snprintf(out, out_bytes, "%lu%c", (unsigned long)(value + 0.5), units[i].letter);
    }
}

void lq_hf_config_put(const struct lq_hf_config *config, uint64_t parameter_count,
                      struct lq_gguf_writer *writer)
{
    char label[32];
    char name[64];
    size_label(parameter_count, label, sizeof label);
    (void)snprintf(name, sizeof name, "Llama %s", label);
    lq_gguf_put_string(writer, "general.architecture", "llama");
    lq_gguf_put_string(writer, "general.type", "model");
    lq_gguf_put_string(writer, "general.name", config->name == NULL ? name : config->name);
    lq_gguf_put_string(writer, "general.size_label", label);
    lq_gguf_put_u32(writer, "llama.vocab_size", config->vocab_size);
    lq_gguf_put_u32(writer, "llama.context_length", config->context_length);
    lq_gguf_put_u32(writer, "llama.embedding_length", config->hidden_size);
    lq_gguf_put_u32(writer, "llama.block_count", config->layer_count);
    lq_gguf_put_u32(writer, "llama.feed_forward_length", config->feed_forward);
    lq_gguf_put_u32(writer, "llama.attention.head_count", config->head_count);
    lq_gguf_put_u32(writer, "llama.attention.head_count_kv", config->head_count_kv);
    lq_gguf_put_u32(writer, "llama.attention.key_length", config->head_dim);
    lq_gguf_put_u32(writer, "llama.attention.value_length", config->head_dim);
    lq_gguf_put_f32(writer, "llama.attention.layer_norm_rms_epsilon", (float)config->norm_epsilon);
    lq_gguf_put_u32(writer, "llama.rope.dimension_count", config->head_dim);
    lq_gguf_put_f32(writer, "llama.rope.freq_base", (float)config->rope_theta);
    if (config->rope_factor != 1.0) {
        lq_gguf_put_string(writer, "llama.rope.scaling.type", "linear");
        lq_gguf_put_f32(writer, "llama.rope.scaling.factor", (float)config->rope_factor);
    }
}
