#include "rules/model/hf_config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/limits.h"
#include "rules/model/arch.h"

#define FILE_NAME "config.json"

static const struct lq_json_scope scope = {.where = FILE_NAME, .status = LQ_EFORMAT};

static enum lq_status refuse(const char *what, const char *value, struct lq_error *err)
{
    return lq_error_set(err, LQ_EUNSUPPORTED, FILE_NAME ": %s '%.100s' is not supported", what,
                        value);
}

/* The first entry of "architectures". */
static enum lq_status find_architecture(const cJSON *config, const struct lq_hf_arch **out,
                                        struct lq_error *err)
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
    char known[512] = "";
    size_t at = 0;
    for (size_t i = 0; i < lq_hf_arch_count; i++) {
        if (strcmp(name, lq_hf_archs[i].class_name) == 0) {
            *out = &lq_hf_archs[i];
            return LQ_OK;
        }
        int length = snprintf(known + at, sizeof known - at, "%s%s", i == 0 ? "" : ", ",
                              lq_hf_archs[i].class_name);
        at += length > 0 && (size_t)length < sizeof known - at ? (size_t)length : 0;
    }
    return lq_error_set(err, LQ_EUNSUPPORTED,
                        FILE_NAME ": architecture '%.100s' is not supported; known are %s. A GGUF "
                                  "file of it can be quantized without an imatrix",
                        name, known);
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
    struct lq_hparams *hparams = &out->hparams;
    const struct {
        const char *key;
        int64_t max;
        uint32_t *value;
    } sizes[] = {
        {"hidden_size", LQ_MODEL_DIM_MAX, &hparams->width},
        {"num_hidden_layers", LQ_MODEL_LAYERS_MAX, &hparams->layer_count},
        {"num_attention_heads", LQ_MODEL_DIM_MAX, &hparams->head_count},
        {"intermediate_size", LQ_MODEL_DIM_MAX, &out->feed_forward},
        {"max_position_embeddings", INT32_MAX, &hparams->context_length},
        {"vocab_size", LQ_VOCAB_MAX, &hparams->vocab_size},
    };
    for (size_t i = 0; i < LQ_COUNT_OF(sizes); i++) {
        enum lq_status status =
            read_count(config, sizes[i].key, sizes[i].max, NULL, sizes[i].value, err);
        if (status != LQ_OK) {
            return status;
        }
    }
    hparams->ffn_width = out->feed_forward;
    hparams->kv_head_count = hparams->head_count;
    bool found = false;
    enum lq_status status = read_count(config, "num_key_value_heads", LQ_MODEL_DIM_MAX, &found,
                                       &hparams->kv_head_count, err);
    if (status != LQ_OK) {
        return status;
    }
    if (hparams->head_count % hparams->kv_head_count != 0) {
        return lq_error_set(err, LQ_EFORMAT,
                            FILE_NAME ": num_attention_heads %u is not a multiple of "
                                      "num_key_value_heads %u",
                            hparams->head_count, hparams->kv_head_count);
    }
    return LQ_OK;
}

static enum lq_status read_head_dim(const cJSON *config, struct lq_hparams *out,
                                    struct lq_error *err)
{
    bool found = false;
    enum lq_status status =
        read_count(config, "head_dim", LQ_MODEL_DIM_MAX, &found, &out->head_dim, err);
    if (status != LQ_OK) {
        return status;
    }
    if (!found) {
        if (out->width % out->head_count != 0) {
            return lq_error_set(err, LQ_EFORMAT,
                                FILE_NAME ": hidden_size %u is not a multiple of "
                                          "num_attention_heads %u",
                                out->width, out->head_count);
        }
        out->head_dim = out->width / out->head_count;
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

static enum lq_status read_experts(const cJSON *config, struct lq_hf_config *out,
                                   struct lq_error *err)
{
    struct lq_hparams *hparams = &out->hparams;
    bool is_qwen = out->arch->family == LQ_HF_QWEN3_MOE;
    bool found = false;
    if (!is_qwen && out->arch->family != LQ_HF_MIXTRAL) {
        return LQ_OK;
    }
    enum lq_status status = read_count(config, "num_experts", LQ_MODEL_EXPERTS_MAX, &found,
                                       &hparams->expert_count, err);
    if (status == LQ_OK && !found) {
        status = read_count(config, "num_local_experts", LQ_MODEL_EXPERTS_MAX, NULL,
                            &hparams->expert_count, err);
    }
    if (status == LQ_OK) {
        status = read_count(config, "num_experts_per_tok", hparams->expert_count, NULL,
                            &hparams->expert_used, err);
    }
    if (status != LQ_OK || !is_qwen) {
        return status;
    }
    bool norm = false; /* as Qwen3MoeConfig has it */
    int64_t step = 1;
    const cJSON *dense = NULL;
    status = read_count(config, "moe_intermediate_size", LQ_MODEL_DIM_MAX, NULL,
                        &hparams->ffn_width, err);
    if (status == LQ_OK) {
        status = lq_json_get_bool(&scope, config, "norm_topk_prob", &norm, &found, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_int(&scope, config, "decoder_sparse_step", 1, LQ_MODEL_LAYERS_MAX,
                                 &step, &found, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_array(&scope, config, "mlp_only_layers", &dense, &found, err);
    }
    hparams->router_over_all = !norm;
    if (status == LQ_OK && (step != 1 || (dense != NULL && dense->child != NULL))) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            FILE_NAME ": layers without experts (decoder_sparse_step, "
                                      "mlp_only_layers) are not supported");
    }
    return status;
}

/* "layer_types" must be what the architecture does anyway: GGUF says no more than a period. */
static enum lq_status check_layer_types(const cJSON *config, const struct lq_hparams *hparams,
                                        struct lq_error *err)
{
    const cJSON *types = NULL;
    bool found = false;
    enum lq_status status = lq_json_get_array(&scope, config, "layer_types", &types, &found, err);
    uint32_t layer = 0;
    const cJSON *item = status == LQ_OK && found ? types->child : NULL;
    for (; item != NULL; item = item->next, layer++) {
        const char *wanted =
            lq_hparams_is_windowed(hparams, layer) ? "sliding_attention" : "full_attention";
        if (!cJSON_IsString(item) || strcmp(item->valuestring, wanted) != 0) {
            return lq_error_set(err, LQ_EUNSUPPORTED,
                                FILE_NAME ": layer_types[%u] is not '%s'; other patterns of "
                                          "windows are not supported",
                                (unsigned)layer, wanted);
        }
    }
    return status;
}

static enum lq_status read_window(const cJSON *config, struct lq_hf_config *out,
                                  struct lq_error *err)
{
    struct lq_hparams *hparams = &out->hparams;
    const struct lq_arch *arch = lq_arch_find(out->arch->gguf);
    int64_t window = 0;
    int64_t period = arch->window_period;
    bool found = false;
    bool use = out->arch->always_window;
    enum lq_status status = LQ_OK;
    if (!use) {
        status = lq_json_get_bool(&scope, config, "use_sliding_window", &use, &found, err);
        if (status == LQ_OK && use) {
            return refuse("use_sliding_window", "true", err);
        }
        /* A window that is not asked for counts for nothing, except where no key asks. */
        use = out->arch->family == LQ_HF_LLAMA;
    }
    if (status == LQ_OK && use) {
        status =
            lq_json_get_int(&scope, config, "sliding_window", 0, INT32_MAX, &window, &found, err);
    }
    if (status == LQ_OK && use && !out->arch->always_window && window > 0 &&
        window < hparams->context_length) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            FILE_NAME ": a sliding_window of %lld tokens is not supported for %s",
                            (long long)window, out->arch->class_name);
    }
    if (status == LQ_OK && arch->window_period != 0) {
        status = lq_json_get_int(&scope, config, "sliding_window_pattern", 1, LQ_MODEL_LAYERS_MAX,
                                 &period, &found, err);
    }
    if (status == LQ_OK && period != arch->window_period) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            FILE_NAME ": a sliding_window_pattern of %lld is not supported, "
                                      "expected %u",
                            (long long)period, (unsigned)arch->window_period);
    }
    hparams->window = out->arch->always_window ? (uint32_t)window : 0;
    hparams->window_period = hparams->window == 0 ? 0 : arch->window_period;
    return status == LQ_OK ? check_layer_types(config, hparams, err) : status;
}

/* A cap or another number above 0; null and 0 are none. */
static enum lq_status read_optional(const cJSON *config, const char *key, double *out,
                                    struct lq_error *err)
{
    bool found = false;
    double value = 0.0;
    *out = 0.0;
    enum lq_status status = lq_json_get_number(&scope, config, key, &value, &found, err);
    if (status == LQ_OK && found && value != 0.0) {
        status = read_positive(config, key, &found, out, err);
    }
    return status;
}

static enum lq_status read_scales(const cJSON *config, struct lq_hf_config *out,
                                  struct lq_error *err)
{
    struct lq_hparams *hparams = &out->hparams;
    const struct lq_arch *arch = lq_arch_find(out->arch->gguf);
    bool large = arch->large_layers != 0 && hparams->layer_count == arch->large_layers;
    uint32_t share = large ? hparams->width / hparams->head_count : hparams->head_dim;
    hparams->attention_scale = 1.0 / sqrt((double)(share == 0 ? 1 : share));
    hparams->embedding_scale = arch->scale_embedding ? sqrt((double)hparams->width) : 1.0;
    hparams->activation = arch->activation;
    hparams->rope_halves = arch->rope_halves;
    hparams->rope_local = arch->rope_local;
    if (!arch->caps) {
        return LQ_OK;
    }
    double scalar = 0.0;
    enum lq_status status =
        read_optional(config, "attn_logit_softcapping", &hparams->attention_cap, err);
    if (status == LQ_OK) {
        status = read_optional(config, "final_logit_softcapping", &hparams->logit_cap, err);
    }
    if (status == LQ_OK) {
        status = read_optional(config, "query_pre_attn_scalar", &scalar, err);
    }
    if (status == LQ_OK && scalar != 0.0 && scalar != (double)share) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            FILE_NAME ": query_pre_attn_scalar is %g, but a GGUF file of this "
                                      "architecture has no key for it and stands for %u",
                            scalar, (unsigned)share);
    }
    return status;
}

/* Options that would change the result of a layer. */
static enum lq_status check_options(const cJSON *config, const struct lq_hf_arch *arch,
                                    struct lq_error *err)
{
    static const char *const acts[] = {"hidden_act", "hidden_activation"};
    static const char *const flags[] = {"attention_bias", "mlp_bias",
                                        "use_bidirectional_attention"};
    bool found = false;
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < LQ_COUNT_OF(acts) && status == LQ_OK; i++) {
        const char *act = arch->activation;
        status = lq_json_get_string(&scope, config, acts[i], &act, &found, err);
        /* Gemma 2 was published with "gelu" for what is computed by tanh. */
        bool alias = strcmp(act, "gelu") == 0 && strcmp(arch->activation, "silu") != 0;
        if (status == LQ_OK && strcmp(act, arch->activation) != 0 && !alias) {
            return refuse(acts[i], act, err);
        }
    }
    for (size_t i = 0; i < LQ_COUNT_OF(flags) && status == LQ_OK; i++) {
        bool value = false;
        status = lq_json_get_bool(&scope, config, flags[i], &value, &found, err);
        if (status == LQ_OK && value) {
            return refuse(flags[i], "true", err);
        }
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

static uint32_t weights_of(enum lq_hf_family family)
{
    uint32_t weights = 0;
    for (size_t i = 0; i < lq_hf_row_count; i++) {
        if ((lq_hf_rows[i].families & (unsigned)family) != 0) {
            weights |= LQ_WEIGHT_BIT(lq_hf_rows[i].weight);
        }
    }
    return weights;
}

enum lq_status lq_hf_config_read(const cJSON *config, struct lq_arena *arena,
                                 struct lq_hf_config *out, struct lq_error *err)
{
    memset(out, 0, sizeof *out);
    struct lq_hparams *hparams = &out->hparams;
    enum lq_status status = find_architecture(config, &out->arch, err);
    if (status == LQ_OK) {
        status = read_sizes(config, out, err);
    }
    if (status == LQ_OK) {
        status = read_head_dim(config, hparams, err);
    }
    if (status == LQ_OK) {
        status = read_positive(config, "rms_norm_eps", NULL, &hparams->norm_eps, err);
    }
    if (status == LQ_OK) {
        status = read_experts(config, out, err);
    }
    if (status == LQ_OK) {
        status = read_window(config, out, err);
    }
    if (status == LQ_OK) {
        status = read_scales(config, out, err);
    }
    if (status == LQ_OK) {
        status = lq_hf_rope_read(config, arena, out, err);
    }
    if (status == LQ_OK) {
        status = check_options(config, out->arch, err);
    }
    bool found = false;
    if (status == LQ_OK) {
        hparams->weights = weights_of(out->arch->family);
        hparams->tied_output = out->arch->tied;
        status = lq_json_get_bool(&scope, config, "tie_word_embeddings", &hparams->tied_output,
                                  &found, err);
    }
    if (status == LQ_OK) {
        status = lq_hf_quantization_find(config, NULL, &out->quantization, err);
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

/* Keys of one architecture: "llama." and what follows. */
struct key_writer {
    struct lq_gguf_writer *to;
    const char *prefix;
};

enum { KEY_BYTES = 96 };

static void put_u32(const struct key_writer *writer, const char *name, uint32_t value)
{
    char key[KEY_BYTES];
    (void)snprintf(key, sizeof key, "%s.%s", writer->prefix, name);
    lq_gguf_put_u32(writer->to, key, value);
}

static void put_f32(const struct key_writer *writer, const char *name, double value)
{
    char key[KEY_BYTES];
    (void)snprintf(key, sizeof key, "%s.%s", writer->prefix, name);
    lq_gguf_put_f32(writer->to, key, (float)value);
}

static void put_bool(const struct key_writer *writer, const char *name, bool value)
{
    char key[KEY_BYTES];
    (void)snprintf(key, sizeof key, "%s.%s", writer->prefix, name);
    lq_gguf_put_bool(writer->to, key, value);
}

static void put_rope(const struct key_writer *writer, const struct lq_hparams *hparams)
{
    char key[KEY_BYTES];
    put_u32(writer, "rope.dimension_count", hparams->rope_dim);
    put_f32(writer, "rope.freq_base", hparams->rope_freq_base);
    if (hparams->rope_local) {
        put_f32(writer, "rope.freq_base_swa", hparams->rope_local_base);
    }
    bool scaled = hparams->rope_scaling == LQ_ROPE_LINEAR || hparams->rope_scaling == LQ_ROPE_YARN;
    if (scaled) {
        (void)snprintf(key, sizeof key, "%s.rope.scaling.type", writer->prefix);
        lq_gguf_put_string(writer->to, key,
                           hparams->rope_scaling == LQ_ROPE_LINEAR ? "linear" : "yarn");
        put_f32(writer, "rope.scaling.factor", hparams->rope_scale);
    }
    if (hparams->rope_scaling == LQ_ROPE_YARN || hparams->rope_scaling == LQ_ROPE_LONGROPE) {
        put_u32(writer, "rope.scaling.original_context_length", hparams->rope_original_context);
    }
    if (hparams->rope_scaling == LQ_ROPE_YARN) {
        put_f32(writer, "rope.scaling.yarn_beta_fast", hparams->rope_beta_fast);
        put_f32(writer, "rope.scaling.yarn_beta_slow", hparams->rope_beta_slow);
    }
    if (hparams->rope_attn_factor != 1.0) {
        put_f32(writer, "rope.scaling.attn_factor", hparams->rope_attn_factor);
    }
}

static void put_parts(const struct key_writer *writer, const struct lq_hf_config *config)
{
    const struct lq_hparams *hparams = &config->hparams;
    if (hparams->window != 0) {
        put_u32(writer, "attention.sliding_window", hparams->window);
    }
    if (hparams->attention_cap != 0.0) {
        put_f32(writer, "attn_logit_softcapping", hparams->attention_cap);
    }
    if (hparams->logit_cap != 0.0) {
        put_f32(writer, "final_logit_softcapping", hparams->logit_cap);
    }
    if (hparams->expert_count != 0) {
        put_u32(writer, "expert_count", hparams->expert_count);
        put_u32(writer, "expert_used_count", hparams->expert_used);
        if (hparams->ffn_width != config->feed_forward) {
            put_u32(writer, "expert_feed_forward_length", hparams->ffn_width);
        }
        if (hparams->router_over_all) {
            put_bool(writer, "expert_weights_norm", false);
        }
    }
}

void lq_hf_config_put(const struct lq_hf_config *config, uint64_t parameter_count,
                      struct lq_gguf_writer *to)
{
    const struct lq_hparams *hparams = &config->hparams;
    const struct key_writer writer = {to, config->arch->gguf};
    char label[32];
    char name[64];
    size_label(parameter_count, label, sizeof label);
    (void)snprintf(name, sizeof name, "%s %s", config->arch->title, label);
    lq_gguf_put_string(to, "general.architecture", config->arch->gguf);
    lq_gguf_put_string(to, "general.type", "model");
    lq_gguf_put_string(to, "general.name", config->name == NULL ? name : config->name);
    lq_gguf_put_string(to, "general.size_label", label);
    put_u32(&writer, "vocab_size", hparams->vocab_size);
    put_u32(&writer, "context_length", hparams->context_length);
    put_u32(&writer, "embedding_length", hparams->width);
    put_u32(&writer, "block_count", hparams->layer_count);
    put_u32(&writer, "feed_forward_length", config->feed_forward);
    put_u32(&writer, "attention.head_count", hparams->head_count);
    put_u32(&writer, "attention.head_count_kv", hparams->kv_head_count);
    put_u32(&writer, "attention.key_length", hparams->head_dim);
    put_u32(&writer, "attention.value_length", hparams->head_dim);
    put_f32(&writer, "attention.layer_norm_rms_epsilon", hparams->norm_eps);
    put_parts(&writer, config);
    put_rope(&writer, hparams);
}
