#include "rules/quality/evaluate.h"

#include <math.h>

#include "engine/base/json.h"
#include "engine/base/limits.h"

void lq_evaluation_format(const struct lq_evaluation *evaluation, struct lq_buffer *out)
{
    struct lq_json_writer writer;
    lq_json_writer_init(&writer, out, false);
    lq_json_begin_object(&writer);
    lq_perplexity_put(&evaluation->perplexity, &writer);
    lq_divergence_put(&evaluation->divergence, &writer);
    lq_json_key(&writer, "hidden_errors");
    lq_json_begin_array(&writer);
    for (size_t i = 0; i < evaluation->layer_count; i++) {
        lq_json_number(&writer, evaluation->hidden_errors[i]);
    }
    lq_json_end_array(&writer);
    lq_json_end_object(&writer);
}

static enum lq_status get_errors(const struct lq_json_scope *scope, const cJSON *root,
                                 struct lq_arena *arena, struct lq_evaluation *out,
                                 struct lq_error *err)
{
    const cJSON *list = NULL;
    enum lq_status status = lq_json_get_array(scope, root, "hidden_errors", &list, NULL, err);
    if (status != LQ_OK) {
        return status;
    }
    int count = cJSON_GetArraySize(list);
    if (count > LQ_MODEL_LAYERS_MAX) {
        return lq_error_set(err, scope->status, "%s: %d layers, the limit is %d", scope->where,
                            count, LQ_MODEL_LAYERS_MAX);
    }
    out->hidden_errors = lq_arena_get_array(arena, (size_t)count, sizeof *out->hidden_errors);
    if (out->hidden_errors == NULL) {
        return lq_error_nomem(err, "an evaluation");
    }
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, list)
    {
        if (!cJSON_IsNumber(item) && !cJSON_IsNull(item)) {
            return lq_error_set(err, scope->status,
                                "%s: hidden_errors has something else than numbers", scope->where);
        }
        out->hidden_errors[out->layer_count++] =
            cJSON_IsNull(item) ? (double)NAN : item->valuedouble;
    }
    return LQ_OK;
}

enum lq_status lq_evaluation_parse(const void *data, uint64_t size_bytes, struct lq_arena *arena,
                                   struct lq_evaluation *out, struct lq_error *err)
{
    static const struct lq_json_scope scope = {"evaluation", LQ_EFORMAT};
    cJSON *root = NULL;
    *out = (struct lq_evaluation){.hidden_errors = NULL};
    enum lq_status status =
        lq_json_parse(data, (size_t)size_bytes, scope.where, scope.status, &root, err);
    if (status == LQ_OK) {
        status = lq_perplexity_get(&scope, root, &out->perplexity, err);
    }
    if (status == LQ_OK) {
        status = lq_divergence_get(&scope, root, &out->divergence, err);
    }
    if (status == LQ_OK) {
        status = get_errors(&scope, root, arena, out, err);
    }
    cJSON_Delete(root);
    return status;
}
