#include "rules/format/dqprofile.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/base/limits.h"
#include "engine/base/text.h"
#include "rules/format/quote.h"
#include "rules/format/uuid.h"

static const double BIT_WIDTHS[] = {1.5, 2, 3, 4, 5, 6, 8, 16};

static const char *const STRATEGIES[LQ_STRATEGY_COUNT] = {"attention_high", "balanced",
                                                          "compression_max", "custom"};

static const char *const METHODS[LQ_QUANT_METHOD_COUNT] = {"auto", "k_quants", "gptq", "awq"};

static const char *const PROFILE_FIELDS[] = {
    "profile_id", "profile_name",       "description",      "strategy",
    "target_bpw", "target_compression", "layer_assignments"};

static const char *const LAYER_FIELDS[] = {"layer_name",   "bit_width",        "quant_method",
                                           "is_protected", "importance_score", "estimated_error",
                                           "type"};

bool lq_bit_width_is_allowed(double bit_width)
{
    for (size_t i = 0; i < LQ_COUNT_OF(BIT_WIDTHS); i++) {
        if (BIT_WIDTHS[i] == bit_width) {
            return true;
        }
    }
    return false;
}

/* Names are written with '_'; users also know the command line's '-'. */
static bool find_name(const char *const *names, size_t count, const char *name, size_t *out)
{
    for (size_t i = 0; i < count; i++) {
        const char *a = names[i];
        const char *b = name;
        while (*a != '\0' && (*a == *b || (*a == '_' && *b == '-'))) {
            a++;
            b++;
        }
        if (*a == '\0' && *b == '\0') {
            *out = i;
            return true;
        }
    }
    return false;
}

const char *lq_profile_strategy_name(enum lq_profile_strategy strategy)
{
    return (size_t)strategy < LQ_STRATEGY_COUNT ? STRATEGIES[strategy] : "?";
}

bool lq_profile_strategy_find(const char *name, enum lq_profile_strategy *out)
{
    size_t found = 0;
    if (!find_name(STRATEGIES, LQ_STRATEGY_COUNT, name, &found)) {
        return false;
    }
    *out = (enum lq_profile_strategy)found;
    return true;
}

const char *lq_quant_method_name(enum lq_quant_method method)
{
    return (size_t)method < LQ_QUANT_METHOD_COUNT ? METHODS[method] : "?";
}

bool lq_quant_method_find(const char *name, enum lq_quant_method *out)
{
    size_t found = 0;
    if (!find_name(METHODS, LQ_QUANT_METHOD_COUNT, name, &found)) {
        return false;
    }
    *out = (enum lq_quant_method)found;
    return true;
}

/* Fields of other tools are ignored, but one that looks like a slip of ours is an error: an
 * optional field with a typing error would else be lost in silence. */
static enum lq_status check_fields(const struct lq_json_scope *scope, const cJSON *object,
                                   const char *const *fields, size_t count, struct lq_error *err)
{
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, object)
    {
        bool is_known = false;
        for (size_t i = 0; i < count; i++) {
            is_known = is_known || strcmp(item->string, fields[i]) == 0;
        }
        const char *nearest = is_known ? NULL : lq_text_nearest(item->string, fields, count);
        if (nearest != NULL) {
            char quoted[LQ_QUOTE_BYTES];
            return lq_error_set(err, scope->status, "%s: unknown field '%s'; did you mean '%s'?",
                                scope->where, lq_quote_string(item->string, quoted), nearest);
        }
    }
    return LQ_OK;
}

/* An optional number; NaN when absent. */
static enum lq_status get_optional(const struct lq_json_scope *scope, const cJSON *object,
                                   const char *key, double *out, struct lq_error *err)
{
    bool found = false;
    *out = (double)NAN;
    return lq_json_get_number(scope, object, key, out, &found, err);
}

static enum lq_status dup_string(struct lq_arena *arena, const char *text, const char **out,
                                 struct lq_error *err)
{
    *out = text == NULL ? NULL : lq_arena_dup_string(arena, text);
    return text != NULL && *out == NULL ? lq_error_nomem(err, "a profile") : LQ_OK;
}

static enum lq_status read_type(const struct lq_json_scope *scope, const cJSON *object,
                                struct lq_dqprofile_layer *layer, struct lq_error *err)
{
    const char *name = NULL;
    enum lq_status status = lq_json_get_string(scope, object, "type", &name, &layer->has_type, err);
    if (status != LQ_OK || !layer->has_type) {
        return status;
    }
    bool is_weight = lq_dtype_find(name, &layer->type) && layer->type != LQ_DTYPE_I8 &&
                     layer->type != LQ_DTYPE_I16 && layer->type != LQ_DTYPE_I32 &&
                     layer->type != LQ_DTYPE_I64 && layer->type != LQ_DTYPE_F64;
    if (!is_weight) {
        char quoted[LQ_QUOTE_BYTES];
        return lq_error_set(err, scope->status,
                            "%s: field 'type' is '%s', expected a GGUF tensor type such as 'Q4_K'",
                            scope->where, lq_quote_string(name, quoted));
    }
    return LQ_OK;
}

static enum lq_status read_numbers(const struct lq_json_scope *scope, const cJSON *object,
                                   struct lq_dqprofile_layer *layer, struct lq_error *err)
{
    enum lq_status status =
        lq_json_get_number(scope, object, "bit_width", &layer->bit_width, NULL, err);
    if (status == LQ_OK && !lq_bit_width_is_allowed(layer->bit_width)) {
        status = lq_error_set(err, scope->status,
                              "%s: field 'bit_width' is %g, expected one of 1.5, 2, 3, 4, 5, 6, 8, "
                              "16",
                              scope->where, layer->bit_width);
    }
    if (status == LQ_OK) {
        status = get_optional(scope, object, "importance_score", &layer->importance_score, err);
    }
    if (status == LQ_OK && layer->importance_score < 0) {
        status = lq_error_set(err, scope->status,
                              "%s: field 'importance_score' is %g, expected at least 0",
                              scope->where, layer->importance_score);
    }
    if (status == LQ_OK) {
        status = get_optional(scope, object, "estimated_error", &layer->estimated_error, err);
    }
    return status;
}

static enum lq_status read_layer(const char *where, size_t number, const cJSON *item,
                                 struct lq_arena *arena, struct lq_dqprofile_layer *layer,
                                 struct lq_error *err)
{
    char place[512];
    (void)snprintf(place, sizeof place, "%.400s: layer_assignments entry %zu", where, number);
    struct lq_json_scope scope = {place, LQ_EPROFILE};
    if (!cJSON_IsObject(item)) {
        return lq_error_set(err, LQ_EPROFILE, "%s is not an object", place);
    }
    const char *name = NULL;
    const char *method = NULL;
    bool found = false;
    enum lq_status status = lq_json_get_string(&scope, item, "layer_name", &name, NULL, err);
    if (status != LQ_OK) {
        return status;
    }
    size_t length = strlen(name);
    if (length == 0 || length > LQ_TENSOR_NAME_BYTES_MAX) {
        return lq_error_set(err, LQ_EPROFILE,
                            "%s: field 'layer_name' has %zu bytes, expected 1 to %d", place, length,
                            LQ_TENSOR_NAME_BYTES_MAX);
    }
    status = dup_string(arena, name, &layer->layer_name, err);
    if (status == LQ_OK) {
        status = read_numbers(&scope, item, layer, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_string(&scope, item, "quant_method", &method, &found, err);
    }
    if (status == LQ_OK && found && !lq_quant_method_find(method, &layer->quant_method)) {
        char quoted[LQ_QUOTE_BYTES];
        status = lq_error_set(err, LQ_EPROFILE,
                              "%s: field 'quant_method' is '%s', expected 'auto', 'k_quants', "
                              "'gptq' or 'awq'",
                              place, lq_quote_string(method, quoted));
    }
    if (status == LQ_OK) {
        status = lq_json_get_bool(&scope, item, "is_protected", &layer->is_protected, &found, err);
    }
    if (status == LQ_OK) {
        status = read_type(&scope, item, layer, err);
    }
    return status == LQ_OK
               ? check_fields(&scope, item, LAYER_FIELDS, LQ_COUNT_OF(LAYER_FIELDS), err)
               : status;
}

struct named {
    const char *name;
    size_t number;
};

static int compare_named(const void *a, const void *b)
{
    const struct named *x = a;
    const struct named *y = b;
    int order = strcmp(x->name, y->name);
    return order != 0 ? order : (x->number > y->number) - (x->number < y->number);
}

/* Two assignments of one name could contradict each other. */
static enum lq_status check_names(const char *where, const struct lq_dqprofile *profile,
                                  struct lq_error *err)
{
    size_t count = profile->layer_count;
    struct named *names = count < 2 ? NULL : calloc(count, sizeof *names);
    if (count < 2) {
        return LQ_OK;
    }
    if (names == NULL) {
        return lq_error_nomem(err, "a profile");
    }
    for (size_t i = 0; i < count; i++) {
        names[i] = (struct named){profile->layers[i].layer_name, i};
    }
    qsort(names, count, sizeof *names, compare_named);
    enum lq_status status = LQ_OK;
    for (size_t i = 1; i < count && status == LQ_OK; i++) {
        if (strcmp(names[i - 1].name, names[i].name) == 0) {
            char quoted[LQ_QUOTE_BYTES];
            status = lq_error_set(err, LQ_EPROFILE,
                                  "%s: layer_assignments entry %zu: field 'layer_name' is '%s' as "
                                  "in entry %zu, expected each name once",
                                  where, names[i].number, lq_quote_string(names[i].name, quoted),
                                  names[i - 1].number);
        }
    }
    free(names);
    return status;
}

static enum lq_status read_targets(const struct lq_json_scope *scope, const cJSON *root,
                                   struct lq_dqprofile *out, struct lq_error *err)
{
    enum lq_status status = get_optional(scope, root, "target_bpw", &out->target_bpw, err);
    if (status == LQ_OK && (out->target_bpw <= 0 || out->target_bpw > 32)) {
        status = lq_error_set(err, scope->status,
                              "%s: field 'target_bpw' is %g, expected more than 0 and at most 32",
                              scope->where, out->target_bpw);
    }
    if (status == LQ_OK) {
        status = get_optional(scope, root, "target_compression", &out->target_compression, err);
    }
    if (status == LQ_OK && (out->target_compression <= 0 || out->target_compression > 1)) {
        status = lq_error_set(err, scope->status,
                              "%s: field 'target_compression' is %g, expected more than 0 and at "
                              "most 1, the size of the result over that of the original",
                              scope->where, out->target_compression);
    }
    return status;
}

static enum lq_status read_strings(const struct lq_json_scope *scope, const cJSON *root,
                                   struct lq_arena *arena, struct lq_dqprofile *out,
                                   struct lq_error *err)
{
    const char *id = NULL;
    const char *name = NULL;
    const char *description = NULL;
    const char *strategy = NULL;
    bool found = false;
    enum lq_status status = lq_json_get_string(scope, root, "profile_id", &id, NULL, err);
    if (status == LQ_OK) {
        status = lq_json_get_string(scope, root, "profile_name", &name, NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_string(scope, root, "description", &description, &found, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_string(scope, root, "strategy", &strategy, NULL, err);
    }
    if (status == LQ_OK && !lq_profile_strategy_find(strategy, &out->strategy)) {
        char quoted[LQ_QUOTE_BYTES];
        status = lq_error_set(err, scope->status,
                              "%s: field 'strategy' is '%s', expected 'attention_high', "
                              "'balanced', 'compression_max' or 'custom'",
                              scope->where, lq_quote_string(strategy, quoted));
    }
    if (status == LQ_OK) {
        status = dup_string(arena, id, &out->profile_id, err);
    }
    if (status == LQ_OK) {
        status = dup_string(arena, name, &out->profile_name, err);
    }
    return status == LQ_OK ? dup_string(arena, description, &out->description, err) : status;
}

static enum lq_status read_profile(const struct lq_json_scope *scope, const cJSON *root,
                                   struct lq_arena *arena, struct lq_dqprofile *out,
                                   struct lq_error *err)
{
    const cJSON *layers = NULL;
    if (!cJSON_IsObject(root)) {
        return lq_error_set(err, scope->status, "%s: the profile is not a JSON object",
                            scope->where);
    }
    enum lq_status status = read_strings(scope, root, arena, out, err);
    if (status == LQ_OK) {
        status = read_targets(scope, root, out, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_array(scope, root, "layer_assignments", &layers, NULL, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    int count = cJSON_GetArraySize(layers);
    if (count > LQ_PROFILE_LAYERS_MAX) {
        return lq_error_set(err, scope->status, "%s: %d layer assignments, the limit is %d",
                            scope->where, count, LQ_PROFILE_LAYERS_MAX);
    }
    out->layers = lq_arena_get_array(arena, (size_t)count, sizeof *out->layers);
    if (out->layers == NULL) {
        return lq_error_nomem(err, "a profile");
    }
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, layers)
    {
        size_t number = out->layer_count;
        status = read_layer(scope->where, number, item, arena, &out->layers[number], err);
        if (status != LQ_OK) {
            return status;
        }
        out->layer_count++;
    }
    status = check_names(scope->where, out, err);
    return status == LQ_OK
               ? check_fields(scope, root, PROFILE_FIELDS, LQ_COUNT_OF(PROFILE_FIELDS), err)
               : status;
}

enum lq_status lq_dqprofile_parse(const void *data, uint64_t size_bytes, const char *where,
                                  struct lq_arena *arena, struct lq_dqprofile *out,
                                  struct lq_error *err)
{
    cJSON *root = NULL;
    struct lq_dqprofile profile = {0};
    struct lq_json_scope scope = {where, LQ_EPROFILE};
    enum lq_status status = lq_json_parse(data, (size_t)size_bytes, where, LQ_EPROFILE, &root, err);
    if (status == LQ_OK) {
        status = read_profile(&scope, root, arena, &profile, err);
    }
    cJSON_Delete(root);
    if (status == LQ_OK) {
        *out = profile;
    }
    return status;
}

static void put_optional(struct lq_json_writer *json, const char *key, double value)
{
    if (!isnan(value)) {
        lq_json_put_number(json, key, value);
    }
}

static void put_layer(struct lq_json_writer *json, const struct lq_dqprofile_layer *layer)
{
    lq_json_begin_object(json);
    lq_json_put_string(json, "layer_name", layer->layer_name);
    lq_json_put_number(json, "bit_width", layer->bit_width);
    lq_json_put_string(json, "quant_method", lq_quant_method_name(layer->quant_method));
    lq_json_put_bool(json, "is_protected", layer->is_protected);
    if (layer->has_type) {
        lq_json_put_string(json, "type", lq_dtype_name((uint32_t)layer->type));
    }
    put_optional(json, "importance_score", layer->importance_score);
    put_optional(json, "estimated_error", layer->estimated_error);
    lq_json_end_object(json);
}

static void put_profile(const struct lq_dqprofile *profile, const char *id, struct lq_buffer *out)
{
    struct lq_json_writer json;
    lq_json_writer_init(&json, out, true);
    lq_json_begin_object(&json);
    lq_json_put_string(&json, "profile_id", id);
    lq_json_put_string(&json, "profile_name", profile->profile_name);
    if (profile->description != NULL) {
        lq_json_put_string(&json, "description", profile->description);
    }
    lq_json_put_string(&json, "strategy", lq_profile_strategy_name(profile->strategy));
    put_optional(&json, "target_bpw", profile->target_bpw);
    put_optional(&json, "target_compression", profile->target_compression);
    lq_json_key(&json, "layer_assignments");
    lq_json_begin_array(&json);
    for (size_t i = 0; i < profile->layer_count; i++) {
        put_layer(&json, &profile->layers[i]);
    }
    lq_json_end_array(&json);
    lq_json_end_object(&json);
}

enum lq_status lq_dqprofile_format(const struct lq_dqprofile *profile, struct lq_buffer *out,
                                   struct lq_error *err)
{
    struct lq_buffer text;
    struct lq_arena arena;
    struct lq_dqprofile check;
    char id[LQ_UUID_BYTES] = "";
    lq_buffer_init(&text);
    lq_arena_init(&arena);
    const char *given = profile->profile_id;
    bool is_derived = given == NULL || given[0] == '\0';
    put_profile(profile, is_derived ? "" : given, &text);
    if (is_derived && !text.failed) {
        struct lq_digest digest;
        lq_digest_of(text.data, text.size_bytes, &digest);
        lq_buffer_clear(&text);
        put_profile(profile, lq_uuid_of(&digest, id), &text);
    }
    /* What the reader would refuse is never written. */
    enum lq_status status = text.failed ? lq_error_nomem(err, "a profile")
                                        : lq_dqprofile_parse(text.data, text.size_bytes,
                                                             "new profile", &arena, &check, err);
    if (status == LQ_OK) {
        lq_buffer_append(out, text.data, text.size_bytes);
        status = out->failed ? lq_error_nomem(err, "a profile") : LQ_OK;
    }
    lq_arena_fini(&arena);
    lq_buffer_fini(&text);
    return status;
}
