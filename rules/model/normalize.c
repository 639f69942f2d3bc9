#include "rules/model/normalize.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/arena.h"
#include "engine/base/compiler.h"
#include "engine/base/limits.h"
#include "rules/model/normalize_parts.h"

struct lq_normalizer {
    struct lq_arena arena;
    struct lq_normalizer_step *steps;
    size_t count;
};

static const struct {
    const char *name;
    enum lq_normalizer_kind kind;
} kinds[] = {
    {"NFC", LQ_NORMALIZE_NFC},
    {"NFD", LQ_NORMALIZE_NFD},
    {"NFKC", LQ_NORMALIZE_NFKC},
    {"NFKD", LQ_NORMALIZE_NFKD},
    {"Lowercase", LQ_NORMALIZE_LOWERCASE},
    {"StripAccents", LQ_NORMALIZE_STRIP_ACCENTS},
    {"Nmt", LQ_NORMALIZE_NMT},
    {"Strip", LQ_NORMALIZE_STRIP},
    {"Replace", LQ_NORMALIZE_REPLACE},
    {"Prepend", LQ_NORMALIZE_PREPEND},
    {"Precompiled", LQ_NORMALIZE_PRECOMPILED},
    {"ExtraBlanks", LQ_NORMALIZE_EXTRA_BLANKS},
    {"WhitespaceSplit", LQ_NORMALIZE_WORDS},
    {"Metaspace", LQ_NORMALIZE_METASPACE},
};

/* What one step is read from. */
struct source {
    const struct lq_json_scope *scope;
    const struct lq_normalizer_map *map;
    struct lq_arena *arena;
};

static enum lq_status copy_text(const struct source *source, const cJSON *node, const char *key,
                                const char **text, size_t *length, struct lq_error *err)
{
    const char *found = NULL;
    enum lq_status status = lq_json_get_string(source->scope, node, key, &found, NULL, err);
    if (status == LQ_OK) {
        *text = lq_arena_dup_string(source->arena, found);
        *length = strlen(found);
        status = *text == NULL ? lq_error_nomem(err, "normalizer") : LQ_OK;
    }
    return status;
}

static enum lq_status read_replace(const struct source *source, const cJSON *node,
                                   struct lq_normalizer_step *step, struct lq_error *err)
{
    const cJSON *pattern = NULL;
    const char *expression = NULL;
    bool is_regex = false;
    enum lq_status status = copy_text(source, node, "content", &step->to, &step->to_length, err);
    if (status == LQ_OK) {
        status = lq_json_get_object(source->scope, node, "pattern", &pattern, NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_string(source->scope, pattern, "Regex", &expression, &is_regex, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    if (is_regex) {
        return lq_pattern_create(&step->pattern, expression, source->scope->where, err);
    }
    status = copy_text(source, pattern, "String", &step->from, &step->from_length, err);
    return status == LQ_OK && step->from_length == 0
               ? lq_error_set(err, LQ_EFORMAT, "%s: the normalizer 'Replace' looks for nothing",
                              source->scope->where)
               : status;
}

static enum lq_status read_map(const struct source *source, struct lq_normalizer_step *step,
                               struct lq_error *err)
{
    const struct lq_normalizer_map *map = source->map;
    if (map == NULL || map->data == NULL) {
        return lq_error_set(err, LQ_EFORMAT,
                            "%s: the normalizer 'Precompiled' has no character map (%s)",
                            source->scope->where, LQ_VOCAB_CHARSMAP_KEY);
    }
    char *copy = lq_arena_dup(source->arena, map->data, map->size_bytes);
    return copy == NULL
               ? lq_error_nomem(err, "normalizer")
               : lq_charsmap_parse(copy, map->size_bytes, source->scope->where, &step->map, err);
}

static enum lq_status read_metaspace(const struct source *source, const cJSON *node,
                                     struct lq_normalizer_step *step, struct lq_error *err)
{
    const char *scheme = "always";
    bool found = false;
    enum lq_status status =
        lq_json_get_string(source->scope, node, "prepend_scheme", &scheme, &found, err);
    step->always = status == LQ_OK && strcmp(scheme, "always") == 0;
    step->first = step->always || (status == LQ_OK && strcmp(scheme, "first") == 0);
    return status;
}

static enum lq_status read_members(const struct source *source, const cJSON *node,
                                   struct lq_normalizer_step *step, struct lq_error *err)
{
    bool found = false;
    enum lq_status status = LQ_OK;
    switch (step->kind) {
    case LQ_NORMALIZE_REPLACE:
        return read_replace(source, node, step, err);
    case LQ_NORMALIZE_PREPEND:
        return copy_text(source, node, "prepend", &step->to, &step->to_length, err);
    case LQ_NORMALIZE_PRECOMPILED:
        return read_map(source, step, err);
    case LQ_NORMALIZE_METASPACE:
        return read_metaspace(source, node, step, err);
    case LQ_NORMALIZE_STRIP:
        step->left = true;
        step->right = true;
        status = lq_json_get_bool(source->scope, node, "strip_left", &step->left, &found, err);
        return status == LQ_OK
                   ? lq_json_get_bool(source->scope, node, "strip_right", &step->right, &found, err)
                   : status;
    default:
        return LQ_OK;
    }
}

static enum lq_status read_step(const struct source *source, const cJSON *node,
                                struct lq_normalizer_step *step, struct lq_error *err)
{
    const char *type = NULL;
    enum lq_status status = lq_json_get_string(source->scope, node, "type", &type, NULL, err);
    for (size_t i = 0; status == LQ_OK && i < LQ_COUNT_OF(kinds); i++) {
        if (strcmp(kinds[i].name, type) == 0) {
            step->kind = kinds[i].kind;
            return read_members(source, node, step, err);
        }
    }
    return status == LQ_OK
               ? lq_error_set(err, LQ_EUNSUPPORTED,
                              "%s: the normalizer '%.100s' is not supported; known are NFC, NFD, "
                              "NFKC, NFKD, Lowercase, StripAccents, Nmt, Strip, Replace, Prepend, "
                              "Precompiled and a Sequence of them",
                              source->scope->where, type)
               : status;
}

static enum lq_status read_steps(struct lq_normalizer *normalizer, const cJSON *list,
                                 struct source *source, struct lq_error *err)
{
    int count = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : -1;
    if (count < 0 || count > LQ_NORMALIZER_STEPS_MAX) {
        return lq_error_set(err, LQ_EFORMAT,
                            "%s: the normalizer is no list of at most %d steps (" //
                            LQ_VOCAB_NORMALIZER_KEY ")",
                            source->scope->where, LQ_NORMALIZER_STEPS_MAX);
    }
    source->arena = &normalizer->arena;
    normalizer->steps =
        lq_arena_get_array(&normalizer->arena, (size_t)count + 1, sizeof *normalizer->steps);
    if (normalizer->steps == NULL) {
        return lq_error_nomem(err, "normalizer");
    }
    enum lq_status status = LQ_OK;
    const cJSON *node = NULL;
    cJSON_ArrayForEach(node, list)
    {
        struct lq_normalizer_step *step = &normalizer->steps[normalizer->count];
        if (status == LQ_OK) {
            memset(step, 0, sizeof *step);
            normalizer->count++;
            status = read_step(source, node, step, err);
        }
    }
    return status;
}

enum lq_status lq_normalizer_create(struct lq_normalizer **out, const char *json, size_t length,
                                    const struct lq_normalizer_map *map, const char *where,
                                    struct lq_error *err)
{
    const struct lq_json_scope scope = {.where = where, .status = LQ_EFORMAT};
    struct source source = {.scope = &scope, .map = map};
    cJSON *list = NULL;
    struct lq_normalizer *normalizer = calloc(1, sizeof *normalizer);
    *out = NULL;
    if (normalizer == NULL) {
        return lq_error_nomem(err, "normalizer");
    }
    lq_arena_init(&normalizer->arena);
    enum lq_status status = lq_json_parse(json, length, where, LQ_EFORMAT, &list, err);
    if (status == LQ_OK) {
        status = read_steps(normalizer, list, &source, err);
    }
    cJSON_Delete(list);
    if (status != LQ_OK) {
        lq_normalizer_destroy(normalizer);
        return status;
    }
    *out = normalizer;
    return LQ_OK;
}

void lq_normalizer_destroy(struct lq_normalizer *normalizer)
{
    if (normalizer == NULL) {
        return;
    }
    for (size_t i = 0; i < normalizer->count; i++) {
        lq_pattern_destroy(normalizer->steps[i].pattern);
    }
    lq_arena_fini(&normalizer->arena);
    free(normalizer);
}

enum lq_status lq_normalizer_run(const struct lq_normalizer *normalizer, bool begins,
                                 const char *text, size_t length, struct lq_buffer *out,
                                 struct lq_error *err)
{
    struct lq_buffer between[2];
    enum lq_status status = LQ_OK;
    lq_buffer_init(&between[0]);
    lq_buffer_init(&between[1]);
    for (size_t i = 0; i < normalizer->count && status == LQ_OK; i++) {
        bool last = i + 1 == normalizer->count;
        struct lq_buffer *to = last ? out : &between[i % 2];
        if (!last) {
            lq_buffer_clear(to);
        }
        status = lq_normalizer_step_run(&normalizer->steps[i], begins, text, length, to, err);
        if (status == LQ_OK && to->failed) {
            status = lq_error_nomem(err, "text");
        }
        text = lq_buffer_text(to);
        length = to->size_bytes;
    }
    if (normalizer->count == 0) {
        lq_buffer_append(out, text, length);
    }
    lq_buffer_fini(&between[0]);
    lq_buffer_fini(&between[1]);
    return status;
}
