#include "rules/model/hf_quantization.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "engine/base/compiler.h"
#include "engine/base/limits.h"

#define CONFIG_WHERE "config.json: quantization_config"

/* What is read: an object, and what messages call it. */
struct source {
    struct lq_json_scope scope;
    const cJSON *object;
};

static enum lq_status refuse(const struct source *from, const char *key, const char *value,
                             const char *expected, struct lq_error *err)
{
    return lq_error_set(err, LQ_EUNSUPPORTED,
                        "%s: '%s' is '%.60s', which lqbuild cannot read; expected %s (or give the "
                        "original weights)",
                        from->scope.where, key, value, expected);
}

/* "4, 5 or 8" */
static void list_bits(unsigned bits, char *out, size_t size)
{
    size_t at = 0;
    out[0] = '\0';
    for (unsigned b = 1; b <= 8; b++) {
        if ((bits >> b & 1) != 0 && at < size) {
            bool last = bits >> (b + 1) == 0;
            int length = snprintf(out + at, size - at, "%s%u",
                                  at == 0 ? ""
                                  : last  ? " or "
                                          : ", ",
                                  b);
            at += length > 0 ? (size_t)length : 0;
        }
    }
}

static enum lq_status read_bits(const struct source *from, const char *key,
                                struct lq_hf_quantization *out, struct lq_error *err)
{
    int64_t bits = 0;
    enum lq_status status =
        lq_json_get_int(&from->scope, from->object, key, 1, 64, &bits, NULL, err);
    if (status != LQ_OK) {
        return status;
    }
    out->bits = (unsigned)bits;
    if (bits > 8 || (out->method->bits >> bits & 1) == 0) {
        char known[40];
        list_bits(out->method->bits, known, sizeof known);
        return lq_error_set(err, LQ_EUNSUPPORTED, "%s: '%s' is %lld; of %s lqbuild reads %s bits",
                            from->scope.where, key, (long long)bits, out->method->title, known);
    }
    return LQ_OK;
}

/* -1 is a whole row. */
static enum lq_status read_group(const struct source *from, const char *key,
                                 struct lq_hf_quantization *out, struct lq_error *err)
{
    int64_t group = 0;
    enum lq_status status =
        lq_json_get_int(&from->scope, from->object, key, -1, LQ_MODEL_DIM_MAX, &group, NULL, err);
    if (status == LQ_OK && group == 0) {
        return lq_error_set(err, LQ_EFORMAT,
                            "%s: '%s' is 0, expected the number of columns that share a scale, or "
                            "-1 for a whole row",
                            from->scope.where, key);
    }
    out->group_cols = group < 0 ? 0 : (uint64_t)group;
    return status;
}

/* The member's value must be `wanted` where it is there at all. */
static enum lq_status want_text(const struct source *from, const char *key, const char *wanted,
                                const char *expected, struct lq_error *err)
{
    const char *value = wanted;
    bool found = false;
    enum lq_status status =
        lq_json_get_string(&from->scope, from->object, key, &value, &found, err);
    return status == LQ_OK && strcasecmp(value, wanted) != 0
               ? refuse(from, key, value, expected, err)
               : status;
}

static enum lq_status want_bool(const struct source *from, const char *key, bool wanted,
                                struct lq_error *err)
{
    bool value = wanted;
    bool found = false;
    enum lq_status status = lq_json_get_bool(&from->scope, from->object, key, &value, &found, err);
    return status == LQ_OK && value != wanted
               ? refuse(from, key, value ? "true" : "false", wanted ? "true" : "false", err)
               : status;
}

/* Neither there nor with anything in it. */
static enum lq_status want_nothing(const struct source *from, const char *key, struct lq_error *err)
{
    const cJSON *item = lq_json_find(from->object, key);
    bool empty = item == NULL || cJSON_IsFalse(item) ||
                 ((cJSON_IsObject(item) || cJSON_IsArray(item)) && item->child == NULL);
    return empty ? LQ_OK : refuse(from, key, "set", "it left out", err);
}

static const char *first_key(const struct source *from, const char *a, const char *b)
{
    return lq_json_find(from->object, a) == NULL && lq_json_find(from->object, b) != NULL ? b : a;
}

/* ---- GPTQ ---- */

static enum lq_status read_gptq(const struct source *from, struct lq_hf_quantization *out,
                                struct lq_error *err)
{
    const char *key = first_key(from, "checkpoint_format", "format");
    const char *format = "gptq";
    bool found = false;
    enum lq_status status =
        lq_json_get_string(&from->scope, from->object, key, &format, &found, err);
    if (status != LQ_OK) {
        return status;
    }
    bool known = strcmp(format, "gptq") == 0 || strcmp(format, "gptq_v2") == 0;
    out->method = known ? lq_packing_find(format) : NULL;
    if (out->method == NULL) {
        return refuse(from, key, format, "gptq or gptq_v2", err);
    }
    status = read_bits(from, "bits", out, err);
    if (status == LQ_OK) {
        status = read_group(from, "group_size", out, err);
    }
    if (status == LQ_OK) {
        status = want_text(from, "pack_dtype", "int32", "int32", err);
    }
    /* Other layouts of the same words, and modules with numbers of bits of their own. */
    static const char *const others[] = {"is_marlin_format", "dynamic", "lora", "adapter"};
    for (size_t i = 0; status == LQ_OK && i < LQ_COUNT_OF(others); i++) {
        status = want_nothing(from, others[i], err);
    }
    return status;
}

/* ---- AWQ ---- */

static enum lq_status read_awq(const struct source *from, struct lq_hf_quantization *out,
                               struct lq_error *err)
{
    out->method = lq_packing_find("awq");
    enum lq_status status = want_text(from, "version", "gemm", "gemm", err);
    if (status == LQ_OK) {
        status = read_bits(from, first_key(from, "bits", "w_bit"), out, err);
    }
    if (status == LQ_OK) {
        status = read_group(from, first_key(from, "group_size", "q_group_size"), out, err);
    }
    return status == LQ_OK ? want_bool(from, "zero_point", true, err) : status;
}

/* ---- compressed-tensors ---- */

static enum lq_status read_inputs(const struct lq_json_scope *scope, const cJSON *inputs,
                                  struct lq_hf_quantization *out, struct lq_error *err)
{
    const struct source from = {*scope, inputs};
    bool dynamic = false;
    bool found = false;
    int64_t bits = 0;
    enum lq_status status = lq_json_get_int(scope, inputs, "num_bits", 1, 64, &bits, NULL, err);
    if (status == LQ_OK && bits != 8) {
        return refuse(&from, "num_bits", "not 8", "8", err);
    }
    if (status == LQ_OK) {
        status = want_text(&from, "type", "int", "int", err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_bool(scope, inputs, "dynamic", &dynamic, &found, err);
    }
    if (status == LQ_OK && !dynamic) {
        return refuse(&from, "dynamic", "false", "true: scales that are found for each token", err);
    }
    if (status == LQ_OK) {
        status = want_text(&from, "strategy", "token", "token", err);
    }
    if (status == LQ_OK) {
        status = want_bool(&from, "symmetric", true, err);
    }
    out->rounds_inputs = true;
    return status;
}

static enum lq_status read_weights(const struct lq_json_scope *scope, const cJSON *weights,
                                   struct lq_hf_quantization *out, struct lq_error *err)
{
    const struct source from = {*scope, weights};
    const char *strategy = NULL;
    bool found = false;
    enum lq_status status = read_bits(&from, "num_bits", out, err);
    if (status == LQ_OK) {
        status = want_text(&from, "type", "int", "int", err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_string(scope, weights, "strategy", &strategy, NULL, err);
    }
    if (status == LQ_OK && strcmp(strategy, "group") == 0) {
        status = read_group(&from, "group_size", out, err);
    } else if (status == LQ_OK && strcmp(strategy, "channel") != 0) {
        return refuse(&from, "strategy", strategy, "channel or group", err);
    }
    out->symmetric = true;
    return status == LQ_OK
               ? lq_json_get_bool(scope, weights, "symmetric", &out->symmetric, &found, err)
               : status;
}

static enum lq_status read_one_group(const struct source *all, const cJSON *group,
                                     struct lq_hf_quantization *out, struct lq_error *err)
{
    char where[160];
    const cJSON *weights = NULL;
    const cJSON *inputs = NULL;
    bool found = false;
    (void)snprintf(where, sizeof where, "%.60s: config_groups '%.40s'", all->scope.where,
                   group->string == NULL ? "?" : group->string);
    const struct source from = {{where, all->scope.status}, group};
    enum lq_status status = lq_json_get_object(&from.scope, group, "weights", &weights, NULL, err);
    if (status == LQ_OK) {
        status = read_weights(&from.scope, weights, out, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_object(&from.scope, group, "input_activations", &inputs, &found, err);
    }
    if (status == LQ_OK && found) {
        status = read_inputs(&from.scope, inputs, out, err);
    }
    return status == LQ_OK ? want_nothing(&from, "output_activations", err) : status;
}

static bool same_quantization(const struct lq_hf_quantization *a,
                              const struct lq_hf_quantization *b)
{
    return a->method == b->method && a->bits == b->bits && a->group_cols == b->group_cols &&
           a->symmetric == b->symmetric && a->rounds_inputs == b->rounds_inputs;
}

static enum lq_status read_groups(const struct source *from, struct lq_hf_quantization *out,
                                  struct lq_error *err)
{
    const struct lq_hf_quantization empty = *out;
    const cJSON *groups = NULL;
    bool first = true;
    enum lq_status status =
        lq_json_get_object(&from->scope, from->object, "config_groups", &groups, NULL, err);
    if (status == LQ_OK && groups->child == NULL) {
        return lq_error_set(err, LQ_EFORMAT, "%s: 'config_groups' is empty", from->scope.where);
    }
    const cJSON *group = NULL;
    for (group = status == LQ_OK ? groups->child : NULL; group != NULL; group = group->next) {
        struct lq_hf_quantization one = empty;
        status = cJSON_IsObject(group)
                     ? read_one_group(from, group, &one, err)
                     : lq_error_set(err, LQ_EFORMAT, "%s: 'config_groups' holds what is no object",
                                    from->scope.where);
        if (status != LQ_OK) {
            return status;
        }
        if (!first && !same_quantization(out, &one)) {
            return refuse(from, "config_groups", "several ways", "one for all matrices", err);
        }
        first = false;
        *out = one;
    }
    return status;
}

static enum lq_status read_compressed(const struct source *from, struct lq_hf_quantization *out,
                                      struct lq_error *err)
{
    const char *format = NULL;
    enum lq_status status =
        lq_json_get_string(&from->scope, from->object, "format", &format, NULL, err);
    if (status != LQ_OK) {
        return status;
    }
    bool known = strcmp(format, "int-quantized") == 0 || strcmp(format, "pack-quantized") == 0;
    out->method = known ? lq_packing_find(format) : NULL;
    if (out->method == NULL) {
        return refuse(from, "format", format, "int-quantized or pack-quantized", err);
    }
    status = want_text(from, "quantization_status", "compressed", "compressed", err);
    static const char *const others[] = {"kv_cache_scheme", "sparsity_config", "transform_config"};
    for (size_t i = 0; status == LQ_OK && i < LQ_COUNT_OF(others); i++) {
        status = want_nothing(from, others[i], err);
    }
    return status == LQ_OK ? read_groups(from, out, err) : status;
}

/* ---- all of them ---- */

static const struct {
    const char *name;
    enum lq_status (*read)(const struct source *from, struct lq_hf_quantization *out,
                           struct lq_error *err);
} readers[] = {{"gptq", read_gptq}, {"awq", read_awq}, {"compressed-tensors", read_compressed}};

enum lq_status lq_hf_quantization_read(const cJSON *quantization, const char *where,
                                       struct lq_hf_quantization *out, struct lq_error *err)
{
    const struct source from = {{where, LQ_EFORMAT}, quantization};
    const char *method = "missing";
    bool found = false;
    *out = (struct lq_hf_quantization){.method = NULL};
    if (!cJSON_IsObject(quantization)) {
        return lq_error_set(err, LQ_EFORMAT, "%s: is no object", where);
    }
    enum lq_status status =
        lq_json_get_string(&from.scope, quantization, "quant_method", &method, &found, err);
    if (status == LQ_OK && !found && lq_json_find(quantization, "bits") != NULL) {
        method = "gptq"; /* older files of AutoGPTQ */
    }
    for (size_t i = 0; status == LQ_OK && i < LQ_COUNT_OF(readers); i++) {
        if (strcmp(readers[i].name, method) == 0) {
            return readers[i].read(&from, out, err);
        }
    }
    return status == LQ_OK
               ? refuse(&from, "quant_method", method, "gptq, awq or compressed-tensors", err)
               : status;
}

enum lq_status lq_hf_quantization_find(const cJSON *config, const cJSON *other,
                                       struct lq_hf_quantization *out, struct lq_error *err)
{
    const cJSON *own = lq_json_find(config, "quantization_config");
    *out = (struct lq_hf_quantization){.method = NULL};
    if (own == NULL) {
        own = lq_json_find(config, "compression_config"); /* older compressed-tensors */
    }
    if (own == NULL) {
        return other == NULL ? LQ_OK
                             : lq_hf_quantization_read(other, "quantize_config.json", out, err);
    }
    enum lq_status status = lq_hf_quantization_read(own, CONFIG_WHERE, out, err);
    struct lq_hf_quantization second;
    if (status != LQ_OK || other == NULL) {
        return status;
    }
    status = lq_hf_quantization_read(other, "quantize_config.json", &second, err);
    if (status == LQ_OK && (second.bits != out->bits || second.group_cols != out->group_cols)) {
        return lq_error_set(err, LQ_EFORMAT,
                            "quantize_config.json says %u bits and groups of %lld, config.json %u "
                            "and %lld; one of them is of another model",
                            second.bits,
                            second.group_cols == 0 ? -1LL : (long long)second.group_cols, out->bits,
                            out->group_cols == 0 ? -1LL : (long long)out->group_cols);
    }
    return status;
}
