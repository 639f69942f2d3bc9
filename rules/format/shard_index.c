#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/base/text.h"
#include "rules/format/quote.h"
#include "rules/format/safetensors.h"

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int compare_entries(const void *a, const void *b)
{
    return strcmp(((const struct lq_shard_entry *)a)->tensor,
                  ((const struct lq_shard_entry *)b)->tensor);
}

/* A name of a file beside the index: anything else could read what the model does not own. */
static bool is_plain(const char *name)
{
    size_t length = strlen(name);
    for (size_t i = 0; i < length; i++) {
        if (name[i] == '/' || name[i] == '\\' || (unsigned char)name[i] < 0x20) {
            return false;
        }
    }
    return length <= LQ_NAME_BYTES_MAX && name[0] != '.' && lq_text_ends_with(name, ".safetensors");
}

static enum lq_status read_map(const cJSON *map, const char *where, enum lq_status status,
                               struct lq_arena *arena, struct lq_shard_index *out,
                               const char **files, struct lq_error *err)
{
    char quoted[LQ_QUOTE_BYTES];
    char tensor[LQ_QUOTE_BYTES];
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, map)
    {
        size_t length = strlen(item->string);
        if (length == 0 || length > LQ_TENSOR_NAME_BYTES_MAX) {
            return lq_error_set(err, status,
                                "%s: weight_map has a tensor name of %zu bytes, expected 1 to %d",
                                where, length, LQ_TENSOR_NAME_BYTES_MAX);
        }
        if (!cJSON_IsString(item) || !is_plain(item->valuestring)) {
            return lq_error_set(err, status,
                                "%s: weight_map of '%s' is '%s', expected a plain file name that "
                                "ends in .safetensors",
                                where, lq_quote_string(item->string, tensor),
                                cJSON_IsString(item) ? lq_quote_string(item->valuestring, quoted)
                                                     : "no string");
        }
        char *name = lq_arena_dup(arena, item->string, length);
        char *file = lq_arena_dup_string(arena, item->valuestring);
        if (name == NULL || file == NULL) {
            return lq_error_nomem(err, "the shard index");
        }
        out->entries[out->entry_count].tensor = name;
        files[out->entry_count++] = file;
    }
    return LQ_OK;
}

/* Numbers the different file names and puts the numbers into the entries. */
static enum lq_status number_files(const char **files, const char *where, enum lq_status status,
                                   struct lq_arena *arena, struct lq_shard_index *out,
                                   struct lq_error *err)
{
    size_t count = out->entry_count;
    const char **sorted = lq_arena_get_array(arena, count, sizeof *sorted);
    if (sorted == NULL) {
        return lq_error_nomem(err, "the shard index");
    }
    memcpy(sorted, files, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, compare_strings);
    size_t unique = 0;
    for (size_t i = 0; i < count; i++) {
        if (unique == 0 || strcmp(sorted[unique - 1], sorted[i]) != 0) {
            sorted[unique++] = sorted[i];
        }
    }
    if (unique > LQ_MODEL_SHARDS_MAX) {
        return lq_error_set(err, status, "%s: %zu shard files, the limit is %d", where, unique,
                            LQ_MODEL_SHARDS_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        const char **found = bsearch(&files[i], sorted, unique, sizeof *sorted, compare_strings);
        out->entries[i].file = (size_t)(found - sorted);
    }
    out->files = sorted;
    out->file_count = unique;
    return LQ_OK;
}

static enum lq_status read_index(const cJSON *root, const char *where, enum lq_status status,
                                 struct lq_arena *arena, struct lq_shard_index *out,
                                 struct lq_error *err)
{
    const cJSON *map = lq_json_find(root, "weight_map");
    if (!cJSON_IsObject(root) || !cJSON_IsObject(map)) {
        return lq_error_set(err, status, "%s: missing field 'weight_map', an object", where);
    }
    int count = cJSON_GetArraySize(map);
    if (count == 0 || count > LQ_MODEL_TENSORS_MAX) {
        return lq_error_set(err, status, "%s: weight_map has %d tensors, expected 1 to %d", where,
                            count, LQ_MODEL_TENSORS_MAX);
    }
    const char **files = lq_arena_get_array(arena, (size_t)count, sizeof *files);
    out->entries = lq_arena_get_array(arena, (size_t)count, sizeof *out->entries);
    if (files == NULL || out->entries == NULL) {
        return lq_error_nomem(err, "the shard index");
    }
    enum lq_status result = read_map(map, where, status, arena, out, files, err);
    if (result == LQ_OK) {
        result = number_files(files, where, status, arena, out, err);
    }
    if (result == LQ_OK) {
        qsort(out->entries, out->entry_count, sizeof *out->entries, compare_entries);
    }
    return result;
}

enum lq_status lq_shard_index_parse(const void *data, uint64_t size_bytes, const char *where,
                                    enum lq_status status, struct lq_arena *arena,
                                    struct lq_shard_index *out, struct lq_error *err)
{
    cJSON *root = NULL;
    struct lq_shard_index index = {0};
    enum lq_status result = lq_json_parse(data, (size_t)size_bytes, where, status, &root, err);
    if (result == LQ_OK) {
        result = read_index(root, where, status, arena, &index, err);
    }
    cJSON_Delete(root);
    if (result == LQ_OK) {
        *out = index;
    }
    return result;
}

size_t lq_shard_index_find(const struct lq_shard_index *index, const char *tensor)
{
    struct lq_shard_entry wanted = {.tensor = tensor};
    const struct lq_shard_entry *found = index->entry_count == 0
                                             ? NULL
                                             : bsearch(&wanted, index->entries, index->entry_count,
                                                       sizeof *index->entries, compare_entries);
    return found == NULL ? SIZE_MAX : found->file;
}
