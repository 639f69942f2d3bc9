#include "engine/lang/artifact.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/lang/diagnostic.h"
#include "engine/lang/recipe_store.h"

const struct lq_rule *lq_registry_find(const struct lq_registry *registry, const char *kind)
{
    for (size_t i = 0; i < registry->rule_count; i++) {
        if (strcmp(registry->rules[i]->kind, kind) == 0) {
            return registry->rules[i];
        }
    }
    return NULL;
}

const char *lq_artifact_name(const struct lq_artifact *artifact)
{
    return artifact->name;
}

const char *lq_artifact_kind(const struct lq_artifact *artifact)
{
    return artifact->rule->kind;
}

const char *lq_artifact_dir(const struct lq_artifact *artifact)
{
    return artifact->dir;
}

const struct lq_value *lq_artifact_slot(const struct lq_artifact *artifact, const char *name)
{
    const struct lq_rule *rule = artifact->rule;
    for (size_t i = 0; artifact->values != NULL && i < rule->attr_count; i++) {
        if (strcmp(rule->attrs[i].name, name) == 0) {
            return &artifact->values[i];
        }
    }
    return NULL;
}

const struct lq_value *lq_artifact_value(const struct lq_artifact *artifact, const char *name)
{
    const struct lq_value *value = lq_artifact_slot(artifact, name);
    return value == NULL || value->type == LQ_VALUE_NONE ? NULL : value;
}

bool lq_attr_is_set(const struct lq_artifact *artifact, const char *name)
{
    const struct lq_value *value = lq_artifact_value(artifact, name);
    return value != NULL && !value->is_default;
}

const char *lq_attr_string(const struct lq_artifact *artifact, const char *name)
{
    const struct lq_value *value = lq_artifact_value(artifact, name);
    return value == NULL ? NULL : value->string;
}

const char *lq_attr_path(const struct lq_artifact *artifact, const char *name)
{
    const struct lq_value *value = lq_artifact_value(artifact, name);
    return value == NULL ? NULL : value->path;
}

int64_t lq_attr_int(const struct lq_artifact *artifact, const char *name)
{
    /* The schema check lets only whole numbers up to 2^53 pass as INT; a NUMBER may be anything. */
    const double whole_max = 9007199254740992.0;
    double number = lq_attr_number(artifact, name);
    return number >= -whole_max && number <= whole_max ? (int64_t)number : 0;
}

double lq_attr_number(const struct lq_artifact *artifact, const char *name)
{
    const struct lq_value *value = lq_artifact_value(artifact, name);
    return value == NULL ? 0 : value->number;
}

bool lq_attr_bool(const struct lq_artifact *artifact, const char *name)
{
    const struct lq_value *value = lq_artifact_value(artifact, name);
    return value != NULL && value->boolean;
}

/* The items of a list or map; a single reference is a list of one. */
static const struct lq_value *find_item(const struct lq_artifact *artifact, const char *name,
                                        size_t index)
{
    const struct lq_value *value = lq_artifact_value(artifact, name);
    if (value == NULL) {
        return NULL;
    }
    if (value->type == LQ_VALUE_LIST || value->type == LQ_VALUE_MAP) {
        return index < value->count ? &value->items[index] : NULL;
    }
    return index == 0 ? value : NULL;
}

size_t lq_attr_count(const struct lq_artifact *artifact, const char *name)
{
    const struct lq_value *value = lq_artifact_value(artifact, name);
    if (value == NULL) {
        return 0;
    }
    return value->type == LQ_VALUE_LIST || value->type == LQ_VALUE_MAP ? value->count : 1;
}

const struct lq_artifact *lq_attr_ref(const struct lq_artifact *artifact, const char *name,
                                      size_t index)
{
    const struct lq_value *item = find_item(artifact, name, index);
    return item == NULL ? NULL : item->ref;
}

const char *lq_attr_item(const struct lq_artifact *artifact, const char *name, size_t index)
{
    const struct lq_value *item = find_item(artifact, name, index);
    return item == NULL ? NULL : item->string;
}

const char *lq_attr_item_key(const struct lq_artifact *artifact, const char *name, size_t index)
{
    const struct lq_value *value = lq_artifact_value(artifact, name);
    bool has_keys = value != NULL && value->type == LQ_VALUE_MAP && index < value->count;
    return has_keys ? value->keys[index] : NULL;
}

enum lq_status lq_attr_error(const struct lq_artifact *artifact, const char *name,
                             struct lq_error *err, enum lq_status status, const char *format, ...)
{
    char message[LQ_ERROR_BYTES];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(message, sizeof message, format, args);
    va_end(args);
    const struct lq_value *value = name == NULL ? NULL : lq_artifact_slot(artifact, name);
    bool placed = value != NULL && value->position.file != NULL;
    struct lq_buffer text;
    lq_buffer_init(&text);
    lq_diagnostic_render(&text, &artifact->store->sources,
                         placed ? &value->position : &artifact->position, message);
    /* Without memory for the place, the sentence alone is still worth having. */
    status = lq_error_set(err, status, "%s", text.failed ? message : lq_buffer_text(&text));
    lq_buffer_fini(&text);
    return status;
}
