#include "rules/format/qreport.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/base/limits.h"
#include "rules/format/quote.h"
#include "rules/format/uuid.h"

enum { VERSION = 1 };

void lq_qreport_model_init(struct lq_qreport_model *model)
{
    const double unknown = (double)NAN;
    *model = (struct lq_qreport_model){.perplexity = unknown,
                                       .plus_minus = unknown,
                                       .delta_pct = unknown,
                                       .effective_bpw = unknown,
                                       .super_weight_coverage = unknown,
                                       .coherence = {unknown, unknown, unknown, unknown},
                                       .compression_ratio = unknown};
    lq_divergence_init(&model->divergence);
}

/* One number of a report: where it is kept and what it may be. */
struct field {
    const char *key;
    double *value;
    double min;
    double max;
};

/* null and a missing field both mean that nobody measured it. */
static enum lq_status read_numbers(const struct lq_json_scope *scope, const cJSON *object,
                                   const struct field *fields, size_t count, struct lq_error *err)
{
    for (size_t i = 0; i < count; i++) {
        const struct field *field = &fields[i];
        bool found = false;
        *field->value = (double)NAN;
        enum lq_status status =
            lq_json_get_number(scope, object, field->key, field->value, &found, err);
        if (status != LQ_OK) {
            return status;
        }
        if (*field->value < field->min || *field->value > field->max) {
            return lq_error_set(err, scope->status, "%s: field '%s' is %g, expected %g to %g",
                                scope->where, field->key, *field->value, field->min, field->max);
        }
    }
    return LQ_OK;
}

static enum lq_status read_count(const struct lq_json_scope *scope, const cJSON *object,
                                 const char *key, uint64_t *out, struct lq_error *err)
{
    bool found = false;
    int64_t value = 0;
    enum lq_status status = lq_json_get_int(scope, object, key, 0, INT64_MAX, &value, &found, err);
    *out = (uint64_t)value;
    return status;
}

static enum lq_status read_string(const struct lq_json_scope *scope, const cJSON *object,
                                  const char *key, struct lq_arena *arena, const char **out,
                                  struct lq_error *err)
{
    const char *text = NULL;
    enum lq_status status = lq_json_get_string(scope, object, key, &text, NULL, err);
    if (status == LQ_OK) {
        *out = lq_arena_dup_string(arena, text);
        status = *out == NULL ? lq_error_nomem(err, "a report") : LQ_OK;
    }
    return status;
}

static enum lq_status read_layer(const struct lq_json_scope *scope, const cJSON *item,
                                 struct lq_arena *arena, struct lq_qreport_layer *layer,
                                 struct lq_error *err)
{
    const char *type = NULL;
    bool found = false;
    const struct field fields[] = {{"mse", &layer->mse, 0, HUGE_VAL},
                                   {"max_error", &layer->max_error, 0, HUGE_VAL},
                                   {"bit_width", &layer->bit_width, 0, 64}};
    if (!cJSON_IsObject(item)) {
        return lq_error_set(err, scope->status, "%s is not an object", scope->where);
    }
    enum lq_status status = read_string(scope, item, "layer_name", arena, &layer->layer_name, err);
    if (status == LQ_OK) {
        status = read_numbers(scope, item, fields, LQ_COUNT_OF(fields), err);
    }
    if (status == LQ_OK) {
        status = read_count(scope, item, "parameter_count", &layer->parameter_count, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_string(scope, item, "type", &type, &found, err);
    }
    if (status == LQ_OK && found) {
        layer->type = lq_arena_dup_string(arena, type);
        status = layer->type == NULL ? lq_error_nomem(err, "a report") : LQ_OK;
    }
    return status;
}

static enum lq_status read_layers(const struct lq_json_scope *scope, const cJSON *object,
                                  struct lq_arena *arena, struct lq_qreport_model *model,
                                  struct lq_error *err)
{
    const cJSON *list = NULL;
    enum lq_status status = lq_json_get_array(scope, object, "layer_errors", &list, NULL, err);
    if (status != LQ_OK) {
        return status;
    }
    int count = cJSON_GetArraySize(list);
    if (count > LQ_MODEL_TENSORS_MAX) {
        return lq_error_set(err, scope->status, "%s: %d layer errors, the limit is %d",
                            scope->where, count, LQ_MODEL_TENSORS_MAX);
    }
    model->layers = lq_arena_get_array(arena, (size_t)count, sizeof *model->layers);
    if (model->layers == NULL) {
        return lq_error_nomem(err, "a report");
    }
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, list)
    {
        char place[512];
        (void)snprintf(place, sizeof place, "%.400s: layer_errors entry %zu", scope->where,
                       model->layer_count);
        struct lq_json_scope inner = {place, scope->status};
        status = read_layer(&inner, item, arena, &model->layers[model->layer_count], err);
        if (status != LQ_OK) {
            return status;
        }
        model->layer_count++;
    }
    return LQ_OK;
}

static enum lq_status read_hidden(const struct lq_json_scope *scope, const cJSON *object,
                                  struct lq_arena *arena, struct lq_qreport_model *model,
                                  struct lq_error *err)
{
    const cJSON *list = NULL;
    bool found = false;
    enum lq_status status = lq_json_get_array(scope, object, "hidden_errors", &list, &found, err);
    if (status != LQ_OK || !found) {
        return status;
    }
    int count = cJSON_GetArraySize(list);
    if (count > LQ_MODEL_LAYERS_MAX) {
        return lq_error_set(err, scope->status, "%s: %d hidden errors, the limit is %d",
                            scope->where, count, LQ_MODEL_LAYERS_MAX);
    }
    model->hidden_errors = lq_arena_get_array(arena, (size_t)count, sizeof *model->hidden_errors);
    if (model->hidden_errors == NULL) {
        return lq_error_nomem(err, "a report");
    }
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, list)
    {
        double value = cJSON_IsNumber(item) ? item->valuedouble : (double)NAN;
        if (!(value >= 0.0) && !cJSON_IsNull(item)) {
            return lq_error_set(err, scope->status,
                                "%s: entry %zu of hidden_errors is no number of at least 0",
                                scope->where, model->hidden_count);
        }
        model->hidden_errors[model->hidden_count++] = value;
    }
    return LQ_OK;
}

static enum lq_status read_task(const struct lq_json_scope *scope, const cJSON *item,
                                struct lq_arena *arena, struct lq_qreport_task *task,
                                struct lq_error *err)
{
    int64_t count = 0;
    int64_t right = 0;
    double chance = 0.0;
    if (!cJSON_IsObject(item)) {
        return lq_error_set(err, scope->status, "%s: an entry of tasks is not an object",
                            scope->where);
    }
    enum lq_status status = read_string(scope, item, "name", arena, &task->name, err);
    if (status == LQ_OK) {
        status = lq_json_get_int(scope, item, "tasks", 1, LQ_TASKS_MAX, &count, NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_int(scope, item, "right", 0, count, &right, NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_number(scope, item, "chance_pct", &chance, NULL, err);
    }
    if (status == LQ_OK) {
        lq_accuracy_make((uint64_t)count, (uint64_t)right, chance, &task->accuracy);
    }
    return status;
}

static enum lq_status read_tasks(const struct lq_json_scope *scope, const cJSON *object,
                                 const char *key, struct lq_arena *arena,
                                 struct lq_qreport_task **tasks, size_t *task_count,
                                 struct lq_error *err)
{
    const cJSON *list = NULL;
    bool found = false;
    enum lq_status status = lq_json_get_array(scope, object, key, &list, &found, err);
    if (status != LQ_OK || !found) {
        return status;
    }
    int count = cJSON_GetArraySize(list);
    if (count > LQ_REPORT_TASK_FILES_MAX) {
        return lq_error_set(err, scope->status, "%s: %d sets of tasks, the limit is %d",
                            scope->where, count, LQ_REPORT_TASK_FILES_MAX);
    }
    *tasks = lq_arena_get_array(arena, (size_t)count, sizeof **tasks);
    if (*tasks == NULL) {
        return lq_error_nomem(err, "a report");
    }
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, list)
    {
        status = read_task(scope, item, arena, &(*tasks)[*task_count], err);
        if (status != LQ_OK) {
            return status;
        }
        (*task_count)++;
    }
    return LQ_OK;
}

static enum lq_status read_model(const struct lq_json_scope *scope, const cJSON *object,
                                 struct lq_arena *arena, struct lq_qreport_model *model,
                                 struct lq_error *err)
{
    const struct field fields[] = {
        {"perplexity_quantized", &model->perplexity, 0, HUGE_VAL},
        {"perplexity_quantized_plus_minus", &model->plus_minus, 0, HUGE_VAL},
        {"perplexity_delta_pct", &model->delta_pct, -100, HUGE_VAL},
        {"effective_bpw", &model->effective_bpw, 0, 64},
        {"super_weight_coverage", &model->super_weight_coverage, 0, 1},
        {"coherence_score", &model->coherence.score, 0, 1},
        {"coherence_likelihood", &model->coherence.likelihood, 0, 1},
        {"coherence_repetition", &model->coherence.repetition, 0, 1},
        {"coherence_agreement", &model->coherence.agreement, 0, 1},
        {"compression_ratio", &model->compression_ratio, 0, HUGE_VAL}};
    enum lq_status status =
        read_string(scope, object, "quantized_path", arena, &model->quantized_path, err);
    if (status == LQ_OK) {
        status = read_numbers(scope, object, fields, LQ_COUNT_OF(fields), err);
    }
    if (status == LQ_OK) {
        status = read_count(scope, object, "file_size_quantized", &model->file_size_bytes, err);
    }
    if (status == LQ_OK) {
        status = lq_divergence_get(scope, object, &model->divergence, err);
    }
    if (status == LQ_OK) {
        status = read_hidden(scope, object, arena, model, err);
    }
    if (status == LQ_OK) {
        status = read_tasks(scope, object, "task_accuracy", arena, &model->tasks,
                            &model->task_count, err);
    }
    return status == LQ_OK ? read_layers(scope, object, arena, model, err) : status;
}

static enum lq_status read_original(const struct lq_json_scope *scope, const cJSON *root,
                                    struct lq_arena *arena, struct lq_qreport *out,
                                    struct lq_error *err)
{
    const struct field fields[] = {
        {"perplexity_original", &out->perplexity, 0, HUGE_VAL},
        {"perplexity_original_plus_minus", &out->plus_minus, 0, HUGE_VAL}};
    const struct {
        const char *key;
        uint64_t *value;
    } counts[] = {{"file_size_original", &out->file_size_bytes},
                  {"context", &out->context},
                  {"chunks", &out->chunk_count},
                  {"tokens", &out->token_count}};
    enum lq_status status = read_string(scope, root, "report_id", arena, &out->report_id, err);
    if (status == LQ_OK) {
        status = read_string(scope, root, "model_path", arena, &out->model_path, err);
    }
    if (status == LQ_OK) {
        status = read_numbers(scope, root, fields, LQ_COUNT_OF(fields), err);
    }
    for (size_t i = 0; status == LQ_OK && i < LQ_COUNT_OF(counts); i++) {
        status = read_count(scope, root, counts[i].key, counts[i].value, err);
    }
    if (status == LQ_OK) {
        status = read_tasks(scope, root, "task_accuracy_original", arena, &out->tasks,
                            &out->task_count, err);
    }
    return status;
}

static enum lq_status read_report(const struct lq_json_scope *scope, const cJSON *root,
                                  struct lq_arena *arena, struct lq_qreport *out,
                                  struct lq_error *err)
{
    const cJSON *others = NULL;
    bool has_others = false;
    if (!cJSON_IsObject(root)) {
        return lq_error_set(err, scope->status, "%s: the report is not a JSON object",
                            scope->where);
    }
    enum lq_status status = read_original(scope, root, arena, out, err);
    if (status == LQ_OK) {
        status = lq_json_get_array(scope, root, "others", &others, &has_others, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    int count = 1 + (has_others ? cJSON_GetArraySize(others) : 0);
    if (count > LQ_REPORT_MODELS_MAX) {
        return lq_error_set(err, scope->status, "%s: %d models, the limit is %d", scope->where,
                            count, LQ_REPORT_MODELS_MAX);
    }
    out->models = lq_arena_get_array(arena, (size_t)count, sizeof *out->models);
    if (out->models == NULL) {
        return lq_error_nomem(err, "a report");
    }
    const cJSON *item = root;
    for (int i = 0; i < count && status == LQ_OK; i++) {
        char place[512];
        (void)snprintf(place, sizeof place, i == 0 ? "%.400s" : "%.400s: others entry %d",
                       scope->where, i - 1);
        struct lq_json_scope inner = {place, scope->status};
        status = read_model(&inner, item, arena, &out->models[i], err);
        out->model_count++;
        item = i == 0 ? (has_others ? others->child : NULL) : item->next;
    }
    return status;
}

enum lq_status lq_qreport_parse(const void *data, uint64_t size_bytes, const char *where,
                                struct lq_arena *arena, struct lq_qreport *out,
                                struct lq_error *err)
{
    cJSON *root = NULL;
    struct lq_qreport report = {0};
    struct lq_json_scope scope = {where, LQ_EFORMAT};
    enum lq_status status = lq_json_parse(data, (size_t)size_bytes, where, LQ_EFORMAT, &root, err);
    if (status == LQ_OK) {
        status = read_report(&scope, root, arena, &report, err);
    }
    cJSON_Delete(root);
    if (status == LQ_OK) {
        *out = report;
    }
    return status;
}

static void put_count(struct lq_json_writer *json, const char *key, uint64_t value)
{
    lq_json_key(json, key);
    if (value == 0) {
        lq_json_null(json);
    } else {
        lq_json_uint(json, value);
    }
}

static void put_layers(struct lq_json_writer *json, const struct lq_qreport_model *model)
{
    lq_json_key(json, "layer_errors");
    lq_json_begin_array(json);
    for (size_t i = 0; i < model->layer_count; i++) {
        const struct lq_qreport_layer *layer = &model->layers[i];
        lq_json_begin_object(json);
        lq_json_put_string(json, "layer_name", layer->layer_name);
        lq_json_put_number(json, "mse", layer->mse);
        lq_json_put_number(json, "max_error", layer->max_error);
        lq_json_put_number(json, "bit_width", layer->bit_width);
        lq_json_key(json, "parameter_count");
        lq_json_uint(json, layer->parameter_count);
        if (layer->type != NULL) {
            lq_json_put_string(json, "type", layer->type);
        }
        lq_json_end_object(json);
    }
    lq_json_end_array(json);
}

static void put_tasks(struct lq_json_writer *json, const char *key,
                      const struct lq_qreport_task *tasks, size_t count)
{
    lq_json_key(json, key);
    lq_json_begin_array(json);
    for (size_t i = 0; i < count; i++) {
        const struct lq_accuracy *accuracy = &tasks[i].accuracy;
        lq_json_begin_object(json);
        lq_json_put_string(json, "name", tasks[i].name);
        lq_json_put_int(json, "tasks", (int64_t)accuracy->task_count);
        lq_json_put_int(json, "right", (int64_t)accuracy->right_count);
        lq_json_put_number(json, "accuracy_pct", accuracy->accuracy_pct);
        lq_json_put_number(json, "low_pct", accuracy->low_pct);
        lq_json_put_number(json, "high_pct", accuracy->high_pct);
        lq_json_put_number(json, "chance_pct", accuracy->chance_pct);
        lq_json_end_object(json);
    }
    lq_json_end_array(json);
}

static void put_model(struct lq_json_writer *json, const struct lq_qreport_model *model)
{
    lq_json_put_string(json, "quantized_path", model->quantized_path);
    lq_json_put_number(json, "perplexity_quantized", model->perplexity);
    lq_json_put_number(json, "perplexity_quantized_plus_minus", model->plus_minus);
    lq_json_put_number(json, "perplexity_delta_pct", model->delta_pct);
    lq_json_put_number(json, "effective_bpw", model->effective_bpw);
    lq_json_put_number(json, "super_weight_coverage", model->super_weight_coverage);
    lq_json_put_number(json, "coherence_score", model->coherence.score);
    lq_json_put_number(json, "coherence_likelihood", model->coherence.likelihood);
    lq_json_put_number(json, "coherence_repetition", model->coherence.repetition);
    lq_json_put_number(json, "coherence_agreement", model->coherence.agreement);
    lq_divergence_put(&model->divergence, json);
    put_count(json, "file_size_quantized", model->file_size_bytes);
    lq_json_put_number(json, "compression_ratio", model->compression_ratio);
    lq_json_key(json, "hidden_errors");
    lq_json_begin_array(json);
    for (size_t i = 0; i < model->hidden_count; i++) {
        lq_json_number(json, model->hidden_errors[i]);
    }
    lq_json_end_array(json);
    put_tasks(json, "task_accuracy", model->tasks, model->task_count);
    put_layers(json, model);
}

static void put_report(const struct lq_qreport *report, const char *id, const char *timestamp,
                       struct lq_buffer *out)
{
    struct lq_json_writer json;
    lq_json_writer_init(&json, out, true);
    lq_json_begin_object(&json);
    lq_json_put_int(&json, "version", VERSION);
    lq_json_put_string(&json, "report_id", id);
    lq_json_key(&json, "timestamp");
    if (timestamp == NULL) {
        lq_json_null(&json);
    } else {
        lq_json_string(&json, timestamp);
    }
    lq_json_put_string(&json, "model_path", report->model_path);
    lq_json_put_number(&json, "perplexity_original", report->perplexity);
    lq_json_put_number(&json, "perplexity_original_plus_minus", report->plus_minus);
    put_count(&json, "file_size_original", report->file_size_bytes);
    put_count(&json, "context", report->context);
    put_count(&json, "chunks", report->chunk_count);
    put_count(&json, "tokens", report->token_count);
    put_tasks(&json, "task_accuracy_original", report->tasks, report->task_count);
    put_model(&json, &report->models[0]);
    if (report->model_count > 1) {
        lq_json_key(&json, "others");
        lq_json_begin_array(&json);
        for (size_t i = 1; i < report->model_count; i++) {
            lq_json_begin_object(&json);
            put_model(&json, &report->models[i]);
            lq_json_end_object(&json);
        }
        lq_json_end_array(&json);
    }
    lq_json_end_object(&json);
}

enum lq_status lq_qreport_format(const struct lq_qreport *report, const char *timestamp,
                                 struct lq_buffer *out, struct lq_error *err)
{
    struct lq_buffer text;
    struct lq_arena arena;
    struct lq_qreport check;
    char id[LQ_UUID_BYTES] = "";
    if (report->model_count == 0) {
        return lq_error_set(err, LQ_EFORMAT, "a report needs at least one quantized model");
    }
    lq_buffer_init(&text);
    lq_arena_init(&arena);
    const char *given = report->report_id;
    bool is_derived = given == NULL || given[0] == '\0';
    put_report(report, is_derived ? "" : given, is_derived ? NULL : timestamp, &text);
    if (is_derived && !text.failed) {
        struct lq_digest digest;
        lq_digest_of(text.data, text.size_bytes, &digest);
        lq_buffer_clear(&text);
        put_report(report, lq_uuid_of(&digest, id), timestamp, &text);
    }
    /* What the reader would refuse is never written. */
    enum lq_status status = text.failed ? lq_error_nomem(err, "a report")
                                        : lq_qreport_parse(text.data, text.size_bytes, "new report",
                                                           &arena, &check, err);
    if (status == LQ_OK) {
        lq_buffer_append(out, text.data, text.size_bytes);
        status = out->failed ? lq_error_nomem(err, "a report") : LQ_OK;
    }
    lq_arena_fini(&arena);
    lq_buffer_fini(&text);
    return status;
}
