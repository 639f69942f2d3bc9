/* What a rule may do while it expands an artifact into steps. */
#include <string.h>

#include "engine/base/checked.h"
#include "engine/build_state.h"

struct lq_expand {
    struct lq_build *build;
    struct lq_node *node;
    bool lost; /* a blob that was to be read is gone: what made it must be made again */
};

struct lq_ref lq_ref_step(size_t step_index, const char *output_name)
{
    return (struct lq_ref){.kind = LQ_REF_STEP, .index = step_index, .name = output_name};
}

struct lq_ref lq_ref_artifact(const struct lq_artifact *artifact, const char *output_name)
{
    return (struct lq_ref){.kind = LQ_REF_ARTIFACT, .artifact = artifact, .name = output_name};
}

struct lq_ref lq_ref_source(const struct lq_artifact *artifact, size_t source_index)
{
    return (struct lq_ref){.kind = LQ_REF_SOURCE, .artifact = artifact, .index = source_index};
}

struct lq_ref lq_ref_slice(const struct lq_artifact *artifact, size_t source_index, uint64_t offset,
                           uint64_t size_bytes, const struct lq_digest *digest)
{
    return (struct lq_ref){.kind = LQ_REF_SLICE,
                           .artifact = artifact,
                           .index = source_index,
                           .offset = offset,
                           .size_bytes = size_bytes,
                           .digest = *digest};
}

struct lq_ref lq_ref_bytes(const void *data, uint64_t size_bytes)
{
    struct lq_ref ref = {.kind = LQ_REF_BYTES, .data = data, .size_bytes = size_bytes};
    lq_digest_of(size_bytes == 0 ? "" : data, (size_t)size_bytes, &ref.digest);
    return ref;
}

const struct lq_artifact *lq_expand_artifact(const struct lq_expand *expand)
{
    return expand->node->artifact;
}

struct lq_arena *lq_expand_arena(struct lq_expand *expand)
{
    return &expand->build->arena;
}

bool lq_expand_is_large(const struct lq_expand *expand, uint64_t size_bytes)
{
    return lq_early_is_large(expand->build, size_bytes);
}

bool lq_expand_digest(const struct lq_expand *expand, const struct lq_artifact *artifact,
                      const char *output, struct lq_digest *digest, uint64_t *size_bytes)
{
    const struct lq_node_output *found =
        lq_plan_output(lq_plan_node(expand->build, artifact), output);
    if (found == NULL) {
        return false;
    }
    *digest = found->digest;
    if (size_bytes != NULL) {
        *size_bytes = found->size_bytes;
    }
    return true;
}

size_t lq_expand_source_count(const struct lq_expand *expand, const struct lq_artifact *artifact)
{
    return lq_plan_node(expand->build, artifact)->source_count;
}

const char *lq_expand_source_name(const struct lq_expand *expand,
                                  const struct lq_artifact *artifact, size_t source_index)
{
    const struct lq_node *node = lq_plan_node(expand->build, artifact);
    return source_index < node->source_count ? lq_path_base(node->sources[source_index]->path) : "";
}

/* ---- reading small inputs ---- */

static enum lq_status read_blob(struct lq_expand *expand, const struct lq_digest *digest,
                                const void **data, uint64_t *size_bytes, struct lq_error *err)
{
    struct lq_blob_reader *reader = NULL;
    enum lq_status status = lq_blob_open(expand->build->cache, digest, true, &reader, err);
    if (status != LQ_OK) {
        return status;
    }
    if (reader == NULL) {
        expand->lost = true;
        return lq_error_set(err, LQ_ECACHE, "an input is no longer in the cache");
    }
    *size_bytes = lq_blob_size(reader);
    void *memory = *size_bytes > SIZE_MAX / 2
                       ? NULL
                       : lq_arena_get(&expand->build->arena, (size_t)*size_bytes + 1);
    if (memory == NULL) {
        status = lq_error_nomem(err, "an input of a rule");
    } else {
        status = lq_blob_read(reader, 0, memory, (size_t)*size_bytes, err);
        expand->lost = status == LQ_ECACHE;
    }
    *data = memory;
    lq_blob_close(reader);
    return status;
}

static enum lq_status read_source(struct lq_expand *expand, struct lq_source *source,
                                  const void **data, uint64_t *size_bytes, struct lq_error *err)
{
    if (source->kind != NULL) {
        return read_blob(expand, &source->digest, data, size_bytes, err);
    }
    const struct lq_map *map = NULL;
    enum lq_status status = lq_source_map(expand->build, source, &map, err);
    if (status == LQ_OK) {
        *data = map->data;
        *size_bytes = map->size_bytes;
    }
    return status;
}

enum lq_status lq_expand_read(struct lq_expand *expand, const struct lq_ref *ref, const void **data,
                              uint64_t *size_bytes, struct lq_error *err)
{
    *data = NULL;
    *size_bytes = 0;
    if (ref->kind == LQ_REF_BYTES) {
        *data = ref->data;
        *size_bytes = ref->size_bytes;
        return LQ_OK;
    }
    if (ref->kind != LQ_REF_ARTIFACT && ref->kind != LQ_REF_SOURCE) {
        return lq_error_set(err, LQ_EINTERNAL, "a rule reads an input that does not exist yet");
    }
    struct lq_node *node = lq_plan_node(expand->build, ref->artifact);
    if (ref->kind == LQ_REF_SOURCE) {
        return ref->index < node->source_count
                   ? read_source(expand, node->sources[ref->index], data, size_bytes, err)
                   : lq_error_set(err, LQ_EINTERNAL, "artifact '%s' has no source %zu",
                                  node->artifact->name, ref->index);
    }
    const struct lq_node_output *output = lq_plan_output(node, ref->name);
    if (output == NULL) {
        return lq_error_set(err, LQ_EINTERNAL, "artifact '%s' has no output '%s'",
                            node->artifact->name, ref->name);
    }
    uint64_t stored = 0;
    if (!lq_blob_exists(expand->build->cache, &output->digest, &stored)) {
        struct lq_source *source = lq_source_by_digest(expand->build, &output->digest);
        if (source != NULL) {
            return read_source(expand, source, data, size_bytes, err);
        }
        /* Nobody needed it so far; no reason to warn. */
        expand->lost = true;
        return lq_error_set(err, LQ_ECACHE, "an input is no longer in the cache");
    }
    return read_blob(expand, &output->digest, data, size_bytes, err);
}

/* ---- adding steps ---- */

static enum lq_status check_ref(const struct lq_expand *expand, const struct lq_ref *ref,
                                struct lq_error *err)
{
    const struct lq_node *node = expand->node;
    if (ref->kind == LQ_REF_STEP) {
        const struct lq_task *task = ref->index < node->task_count ? node->tasks[ref->index] : NULL;
        for (size_t i = 0; task != NULL && i < task->spec.output_count; i++) {
            if (strcmp(task->outputs[i].name, ref->name) == 0) {
                return LQ_OK;
            }
        }
        return lq_error_set(err, LQ_EINTERNAL,
                            "rule '%s' refers to output '%s' of unknown step %zu",
                            node->artifact->rule->kind, ref->name, ref->index);
    }
    if (ref->kind == LQ_REF_ARTIFACT) {
        const struct lq_node *other = lq_plan_node(expand->build, ref->artifact);
        if (lq_plan_output(other, ref->name) == NULL) {
            return lq_error_set(err, LQ_EINTERNAL, "artifact '%s' has no output '%s'",
                                other->artifact->name, ref->name);
        }
    }
    if (ref->kind == LQ_REF_SOURCE || ref->kind == LQ_REF_SLICE) {
        const struct lq_node *other = lq_plan_node(expand->build, ref->artifact);
        const struct lq_source *source =
            ref->index < other->source_count ? other->sources[ref->index] : NULL;
        uint64_t end = 0;
        if (source == NULL || !lq_add_u64(ref->offset, ref->size_bytes, &end) ||
            end > source->sig.size_bytes) {
            return lq_error_set(err, LQ_EFORMAT,
                                "artifact '%s': source %zu does not hold %llu "
                                "bytes at %llu",
                                other->artifact->name, ref->index,
                                (unsigned long long)ref->size_bytes,
                                (unsigned long long)ref->offset);
        }
    }
    return LQ_OK;
}

/* Copies the step's lists into the arena; false when memory is out. */
static bool copy_spec(struct lq_arena *arena, const struct lq_step *step, struct lq_step *spec)
{
    struct lq_step_param *params =
        lq_arena_get_array(arena, step->param_count, sizeof(struct lq_step_param));
    struct lq_step_input *inputs =
        lq_arena_get_array(arena, step->input_count, sizeof(struct lq_step_input));
    struct lq_step_output *outputs =
        lq_arena_get_array(arena, step->output_count, sizeof(struct lq_step_output));
    *spec = *step;
    spec->op = lq_arena_dup_string(arena, step->op);
    spec->label = lq_arena_dup_string(arena, step->label == NULL ? "" : step->label);
    if (params == NULL || inputs == NULL || outputs == NULL || spec->op == NULL ||
        spec->label == NULL) {
        return false;
    }
    bool complete = true;
    for (size_t i = 0; i < step->param_count; i++) {
        params[i].name = lq_arena_dup_string(arena, step->params[i].name);
        params[i].value = lq_arena_dup_string(arena, step->params[i].value);
        complete = complete && params[i].name != NULL && params[i].value != NULL;
    }
    for (size_t i = 0; i < step->input_count; i++) {
        inputs[i] = step->inputs[i];
        inputs[i].name = lq_arena_dup_string(arena, step->inputs[i].name);
        complete = complete && inputs[i].name != NULL;
        if (inputs[i].ref.name != NULL) {
            inputs[i].ref.name = lq_arena_dup_string(arena, inputs[i].ref.name);
            complete = complete && inputs[i].ref.name != NULL;
        }
    }
    for (size_t i = 0; i < step->output_count; i++) {
        outputs[i] = step->outputs[i];
        outputs[i].name = lq_arena_dup_string(arena, step->outputs[i].name);
        complete = complete && outputs[i].name != NULL;
    }
    spec->params = params;
    spec->inputs = inputs;
    spec->outputs = outputs;
    return complete;
}

static bool append_task(struct lq_arena *arena, struct lq_node *node, struct lq_task *task)
{
    if (node->task_count == node->task_capacity) {
        size_t capacity = node->task_capacity == 0 ? 16 : node->task_capacity * 2;
        struct lq_task **tasks = lq_arena_get_array(arena, capacity, sizeof(struct lq_task *));
        if (tasks == NULL) {
            return false;
        }
        if (node->task_count != 0) {
            memcpy(tasks, node->tasks, node->task_count * sizeof(struct lq_task *));
        }
        node->tasks = tasks;
        node->task_capacity = capacity;
    }
    task->index = node->task_count;
    node->tasks[node->task_count++] = task;
    return true;
}

/* The task's output that an input of the same node reads. */
static struct lq_task_output *step_output(const struct lq_node *node, const struct lq_ref *ref)
{
    struct lq_task *task = node->tasks[ref->index];
    for (size_t i = 0; i < task->spec.output_count; i++) {
        if (strcmp(task->outputs[i].name, ref->name) == 0) {
            return &task->outputs[i];
        }
    }
    return NULL;
}

enum lq_status lq_expand_add_step(struct lq_expand *expand, const struct lq_step *step,
                                  size_t *index, struct lq_error *err)
{
    struct lq_arena *arena = &expand->build->arena;
    struct lq_node *node = expand->node;
    if (step->output_count == 0 || step->output_count > LQ_STEP_OUTPUTS_MAX) {
        return lq_error_set(err, LQ_EINTERNAL, "step '%s' has %zu outputs, expected 1 to %d",
                            step->op, step->output_count, LQ_STEP_OUTPUTS_MAX);
    }
    for (size_t i = 0; i < step->input_count; i++) {
        enum lq_status status = check_ref(expand, &step->inputs[i].ref, err);
        if (status != LQ_OK) {
            return status;
        }
    }
    struct lq_task *task = lq_arena_get(arena, sizeof *task);
    if (task == NULL || !copy_spec(arena, step, &task->spec)) {
        return lq_error_nomem(err, "a step");
    }
    task->outputs = lq_arena_get_array(arena, step->output_count, sizeof(struct lq_task_output));
    if (task->outputs == NULL || !append_task(arena, node, task)) {
        return lq_error_nomem(err, "a step");
    }
    for (size_t i = 0; i < step->output_count; i++) {
        task->outputs[i].name = task->spec.outputs[i].name;
        task->outputs[i].transient = task->spec.outputs[i].transient;
    }
    for (size_t i = 0; i < step->input_count; i++) {
        const struct lq_ref *ref = &task->spec.inputs[i].ref;
        if (ref->kind == LQ_REF_STEP) {
            step_output(node, ref)->readers_left++;
        }
    }
    task->node = node;
    task->number = ++expand->build->task_numbers;
    task->eta_cost = lq_timing_cost(expand->build, step->op, step->cost);
    task->state = LQ_TASK_WAITING;
    if (index != NULL) {
        *index = task->index;
    }
    return LQ_OK;
}

enum lq_status lq_expand_bind_output(struct lq_expand *expand, const char *name,
                                     const struct lq_ref *ref, struct lq_error *err)
{
    struct lq_node *node = expand->node;
    enum lq_status status = check_ref(expand, ref, err);
    if (status != LQ_OK) {
        return status;
    }
    if (node->output_count == LQ_STEP_OUTPUTS_MAX || lq_plan_output(node, name) != NULL) {
        return lq_error_set(err, LQ_EINTERNAL, "rule '%s' binds output '%s' twice or has too many",
                            node->artifact->rule->kind, name);
    }
    struct lq_node_output *output = lq_plan_add_output(expand->build, node);
    if (output == NULL) {
        return lq_error_nomem(err, "an output");
    }
    output->ref = *ref;
    output->bound = true;
    output->name = lq_arena_dup_string(&expand->build->arena, name);
    if (ref->name != NULL) {
        output->ref.name = lq_arena_dup_string(&expand->build->arena, ref->name);
    }
    if (output->name == NULL || (ref->name != NULL && output->ref.name == NULL)) {
        return lq_error_nomem(err, "an output");
    }
    return LQ_OK;
}

enum lq_status lq_expand_node(struct lq_build *build, struct lq_node *node, bool *lost,
                              struct lq_error *err)
{
    struct lq_expand expand = {.build = build, .node = node};
    node->output_count = 0;
    node->task_count = 0;
    enum lq_status status = node->artifact->rule->expand(&expand, err);
    *lost = expand.lost;
    if (status == LQ_OK && lq_plan_output(node, "main") == NULL) {
        status = lq_error_set(err, LQ_EINTERNAL, "rule '%s' binds no output 'main'",
                              node->artifact->rule->kind);
    }
    return status;
}
