#include "engine/cli/hub/hub_wanted.h"

#include <string.h>

#include "engine/base/fs.h"
#include "rules/format/safetensors.h"
#include "rules/model/hf_documents.h"
#include "rules/model/hub_cache.h"

static bool has(const char *folder, const char *file, struct lq_arena *arena)
{
    const char *path = lq_path_join(arena, folder, file);
    return path != NULL && lq_path_exists(path);
}

static bool has_shards(const char *folder, struct lq_arena *arena)
{
    struct lq_map map;
    struct lq_shard_index index;
    const char *path = lq_path_join(arena, folder, "model.safetensors.index.json");
    if (path == NULL || lq_map_open(&map, path, LQ_EMODEL, NULL) != LQ_OK) {
        return false;
    }
    bool whole = lq_shard_index_parse(map.data, map.size_bytes, path, LQ_EFORMAT, arena, &index,
                                      NULL) == LQ_OK;
    lq_map_close(&map);
    for (size_t i = 0; whole && i < index.file_count; i++) {
        whole = has(folder, index.files[i], arena);
    }
    return whole;
}

/* Other tools leave folders in the cache that have some files only. */
static bool is_whole(const char *path, struct lq_arena *arena)
{
    return !lq_path_is_dir(path) ||
           (has(path, lq_hf_file_name(LQ_HF_CONFIG), arena) &&
            (has(path, lq_hf_file_name(LQ_HF_TOKENIZER), arena) ||
             has(path, lq_hf_file_name(LQ_HF_SENTENCEPIECE), arena)) &&
            (has(path, "model.safetensors", arena) || has_shards(path, arena)));
}

static void add(struct lq_hub_wanted *wanted, const char *name)
{
    for (size_t i = 0; i < wanted->count; i++) {
        if (strcmp(wanted->names[i], name) == 0) {
            return;
        }
    }
    wanted->names[wanted->count++] = name;
}

static enum lq_status look_at(const struct lq_artifact *artifact, struct lq_arena *arena,
                              struct lq_hub_wanted *wanted, struct lq_error *err)
{
    bool is_model = strcmp(artifact->rule->kind, "model") == 0;
    bool is_text = strcmp(artifact->rule->kind, "text") == 0;
    const char *attr = is_model ? "source" : "path";
    const char *text = is_model || is_text ? lq_attr_string(artifact, attr) : NULL;
    struct lq_hub_place place;
    struct lq_error own;
    if (text == NULL || !(is_model ? lq_hub_is_name(text) : lq_hub_is_text(text))) {
        return LQ_OK;
    }
    const char *path = lq_attr_path(artifact, attr);
    lq_error_clear(&own);
    enum lq_status status = is_model ? lq_hub_resolve(text, path, arena, &place, &own)
                                     : lq_hub_resolve_text(text, arena, &place, &own);
    if (status == LQ_EUSAGE) {
        return lq_attr_error(artifact, attr, err, LQ_ERECIPE, "%s", own.message);
    }
    if (status == LQ_ENOMEM) {
        return lq_error_nomem(err, "the recipe");
    }
    if (status == LQ_OK && place.path == path) {
        return LQ_OK; /* a folder of that name */
    }
    if (status == LQ_OK && is_whole(place.path, arena)) {
        wanted->there_count++;
    } else {
        add(wanted, text);
    }
    return LQ_OK;
}

enum lq_status lq_hub_find_wanted(const struct lq_recipe *recipe, struct lq_arena *arena,
                                  struct lq_hub_wanted *out, struct lq_error *err)
{
    enum lq_status status = LQ_OK;
    *out = (struct lq_hub_wanted){
        .names = lq_arena_get_array(arena, recipe->artifact_count + 1, sizeof out->names[0])};
    if (out->names == NULL) {
        return lq_error_nomem(err, "the recipe");
    }
    for (size_t i = 0; i < recipe->artifact_count && status == LQ_OK; i++) {
        status = look_at(&recipe->artifacts[i], arena, out, err);
    }
    return status;
}
