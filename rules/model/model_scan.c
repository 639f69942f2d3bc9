#include "rules/model/model_scan.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/fs.h"
#include "engine/base/json.h"
#include "engine/base/pool.h"
#include "engine/base/text.h"
#include "rules/format/gguf.h"
#include "rules/format/safetensors.h"

struct hash_job {
    const struct lq_map *map;
    struct lq_scanned_tensor *tensors;
};

/* A model is read from end to end here: what is hashed leaves the process's memory. */
static void hash_tensor(void *user, size_t index)
{
    const struct hash_job *job = user;
    struct lq_scanned_tensor *tensor = &job->tensors[index];
    lq_digest_of(job->map->data + tensor->offset, (size_t)tensor->size_bytes, &tensor->digest);
    lq_map_release(job->map, tensor->offset, tensor->size_bytes);
}

static bool is_gguf(const void *data, uint64_t size_bytes)
{
    return size_bytes >= 4 && memcmp(data, "GGUF", 4) == 0;
}

/* Eight bytes of length, then JSON. */
static bool begins_header(const void *data, uint64_t size_bytes)
{
    return size_bytes > 8 && ((const char *)data)[8] == '{';
}

static enum lq_status scan_gguf(const void *data, uint64_t size_bytes, const char *where,
                                struct lq_arena *arena, struct lq_scanned_file *out,
                                struct lq_error *err)
{
    struct lq_gguf gguf;
    enum lq_status status =
        lq_gguf_parse(data, size_bytes, size_bytes, where, LQ_EFORMAT, arena, &gguf, NULL, err);
    if (status != LQ_OK) {
        return status;
    }
    uint64_t split_count = lq_gguf_get_uint(&gguf, "split.count", 1);
    if (split_count > 1) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            "%s: one of %llu parts of a split GGUF file; join the parts first "
                            "(llama-gguf-split --merge)",
                            where, (unsigned long long)split_count);
    }
    out->is_gguf = true;
    out->header_bytes = gguf.data_offset < size_bytes ? gguf.data_offset : size_bytes;
    out->tensor_count = gguf.tensor_count;
    out->tensors = lq_arena_get_array(arena, gguf.tensor_count + 1, sizeof *out->tensors);
    if (out->tensors == NULL) {
        return lq_error_nomem(err, "tensor index");
    }
    for (size_t i = 0; i < gguf.tensor_count; i++) {
        const struct lq_gguf_tensor *from = &gguf.tensors[i];
        struct lq_scanned_tensor *to = &out->tensors[i];
        to->name = from->name;
        to->dtype_name = lq_dtype_name(from->dtype);
        to->has_dtype = true;
        to->dtype = from->dtype;
        to->dim_count = from->dim_count;
        memcpy(to->shape, from->ne, sizeof to->shape);
        to->offset = from->offset;
        to->size_bytes = from->size_bytes;
    }
    return LQ_OK;
}

enum lq_status lq_scanned_file_header(const void *data, uint64_t size_bytes, uint64_t file_bytes,
                                      const char *where, struct lq_arena *arena,
                                      struct lq_scanned_file *out, uint64_t *need_more,
                                      struct lq_error *err)
{
    struct lq_safetensors file;
    enum lq_status status = lq_safetensors_parse(data, size_bytes, file_bytes, where, LQ_EFORMAT,
                                                 arena, &file, need_more, err);
    if (status != LQ_OK || (need_more != NULL && *need_more != 0)) {
        return status;
    }
    *out = (struct lq_scanned_file){.name = where};
    out->tensor_count = file.tensor_count;
    out->tensors = lq_arena_get_array(arena, file.tensor_count + 1, sizeof *out->tensors);
    if (out->tensors == NULL) {
        return lq_error_nomem(err, "tensor index");
    }
    for (size_t i = 0; i < file.tensor_count; i++) {
        const struct lq_safetensor *from = &file.tensors[i];
        struct lq_scanned_tensor *to = &out->tensors[i];
        if (from->dim_count > LQ_TENSOR_DIMS_MAX) {
            return lq_error_set(err, LQ_EUNSUPPORTED,
                                "%s: tensor '%.200s' has %u dimensions; at most %d are supported",
                                where, from->name, from->dim_count, LQ_TENSOR_DIMS_MAX);
        }
        to->name = from->name;
        to->dtype_name = from->dtype_name;
        to->has_dtype = from->has_dtype;
        to->dtype = from->dtype;
        to->dim_count = from->dim_count;
        for (uint32_t d = 0; d < LQ_TENSOR_DIMS_MAX; d++) {
            to->shape[d] = d < from->dim_count ? from->shape[from->dim_count - 1 - d] : 1;
        }
        to->offset = from->offset;
        to->size_bytes = from->size_bytes;
    }
    return LQ_OK;
}

static void put_digest(struct lq_json_writer *json, const char *key, const struct lq_digest *digest)
{
    char hex[LQ_DIGEST_HEX_BYTES];
    lq_json_put_string(json, key, lq_digest_to_hex(digest, hex));
}

static void write_tensor(struct lq_json_writer *json, const struct lq_scanned_tensor *tensor)
{
    lq_json_begin_object(json);
    lq_json_put_string(json, "name", tensor->name);
    lq_json_put_string(json, "dtype", tensor->dtype_name);
    lq_json_key(json, "ne");
    lq_json_begin_array(json);
    for (uint32_t d = 0; d < tensor->dim_count; d++) {
        lq_json_uint(json, tensor->shape[d]);
    }
    lq_json_end_array(json);
    lq_json_key(json, "offset");
    lq_json_uint(json, tensor->offset);
    lq_json_key(json, "size");
    lq_json_uint(json, tensor->size_bytes);
    put_digest(json, "sha256", &tensor->digest);
    lq_json_end_object(json);
}

static void write_description(const struct lq_scanned_file *file, const void *data,
                              struct lq_buffer *out)
{
    struct lq_json_writer json;
    lq_json_writer_init(&json, out, false);
    lq_json_begin_object(&json);
    lq_json_put_string(&json, "format", file->is_gguf ? "gguf" : "safetensors");
    if (file->is_gguf) {
        struct lq_digest digest;
        lq_digest_of(data, (size_t)file->header_bytes, &digest);
        lq_json_key(&json, "header_size");
        lq_json_uint(&json, file->header_bytes);
        put_digest(&json, "header_sha256", &digest);
    }
    lq_json_key(&json, "tensors");
    lq_json_begin_array(&json);
    for (size_t i = 0; i < file->tensor_count; i++) {
        write_tensor(&json, &file->tensors[i]);
    }
    lq_json_end_array(&json);
    lq_json_end_object(&json);
}

static enum lq_status index_tensors(const char *path, const struct lq_map *map,
                                    struct lq_pool *pool, struct lq_buffer *out,
                                    struct lq_error *err)
{
    const void *data = map->data;
    uint64_t size_bytes = map->size_bytes;
    struct lq_arena arena;
    lq_arena_init(&arena);
    struct lq_scanned_file file = {0};
    enum lq_status status = LQ_OK;
    if (is_gguf(data, size_bytes) || lq_text_ends_with(path, ".gguf")) {
        status = scan_gguf(data, size_bytes, path, &arena, &file, err);
    } else if (lq_text_ends_with(path, ".safetensors") || begins_header(data, size_bytes)) {
        status =
            lq_scanned_file_header(data, size_bytes, size_bytes, path, &arena, &file, NULL, err);
    } else {
        status = lq_error_set(err, LQ_EFORMAT,
                              "%s: is no model; give a Hugging Face folder or a GGUF file", path);
    }
    if (status == LQ_OK) {
        struct hash_job job = {.map = map, .tensors = file.tensors};
        lq_pool_for(pool, file.tensor_count, hash_tensor, &job);
        write_description(&file, data, out);
        status = out->failed ? lq_error_nomem(err, "tensor index") : LQ_OK;
    }
    lq_arena_fini(&arena);
    return status;
}

const struct lq_source_kind lq_tensor_source = {.name = "tensors/1", .index = index_tensors};

static enum lq_status read_shape(const struct lq_json_scope *scope, const cJSON *item,
                                 struct lq_scanned_tensor *out, struct lq_error *err)
{
    const cJSON *list = NULL;
    enum lq_status status = lq_json_get_array(scope, item, "ne", &list, NULL, err);
    if (status != LQ_OK) {
        return status;
    }
    for (size_t d = 0; d < LQ_TENSOR_DIMS_MAX; d++) {
        out->shape[d] = 1;
    }
    const cJSON *size = NULL;
    cJSON_ArrayForEach(size, list)
    {
        if (out->dim_count == LQ_TENSOR_DIMS_MAX || !cJSON_IsNumber(size) ||
            !(size->valuedouble >= 0) || size->valuedouble > 9e15) {
            return lq_error_set(err, scope->status, "%s: bad shape of '%.200s'", scope->where,
                                out->name);
        }
        out->shape[out->dim_count++] = (uint64_t)size->valuedouble;
    }
    return LQ_OK;
}

static enum lq_status read_tensor(const struct lq_json_scope *scope, const cJSON *item,
                                  struct lq_arena *arena, struct lq_scanned_tensor *out,
                                  struct lq_error *err)
{
    const int64_t max = (int64_t)1 << 53;
    const char *name = NULL;
    const char *dtype = NULL;
    const char *hex = NULL;
    int64_t offset = 0;
    int64_t size = 0;
    enum lq_status status = lq_json_get_string(scope, item, "name", &name, NULL, err);
    if (status == LQ_OK) {
        status = lq_json_get_string(scope, item, "dtype", &dtype, NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_int(scope, item, "offset", 0, max, &offset, NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_int(scope, item, "size", 0, max, &size, NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_string(scope, item, "sha256", &hex, NULL, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    if (!lq_digest_from_hex(hex, strlen(hex), &out->digest)) {
        return lq_error_set(err, scope->status, "%s: bad digest of '%.200s'", scope->where, name);
    }
    out->name = lq_arena_dup_string(arena, name);
    out->dtype_name = lq_arena_dup_string(arena, dtype);
    if (out->name == NULL || out->dtype_name == NULL) {
        return lq_error_nomem(err, "tensor index");
    }
    out->has_dtype = lq_dtype_find(dtype, &out->dtype);
    out->offset = (uint64_t)offset;
    out->size_bytes = (uint64_t)size;
    return read_shape(scope, item, out, err);
}

enum lq_status lq_scanned_file_parse(const void *data, uint64_t size_bytes, const char *where,
                                     struct lq_arena *arena, struct lq_scanned_file *out,
                                     struct lq_error *err)
{
    const struct lq_json_scope scope = {.where = where, .status = LQ_EFORMAT};
    const char *format = NULL;
    const cJSON *list = NULL;
    cJSON *root = NULL;
    int64_t header_bytes = 0;
    bool found = false;
    memset(out, 0, sizeof *out);
    out->name = where;
    enum lq_status status = lq_json_parse(data, (size_t)size_bytes, where, LQ_EFORMAT, &root, err);
    if (status == LQ_OK) {
        status = lq_json_get_string(&scope, root, "format", &format, NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_int(&scope, root, "header_size", 0, (int64_t)1 << 53, &header_bytes,
                                 &found, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_array(&scope, root, "tensors", &list, NULL, err);
    }
    if (status != LQ_OK) {
        goto out;
    }
    out->is_gguf = strcmp(format, "gguf") == 0;
    out->header_bytes = (uint64_t)header_bytes;
    size_t count = (size_t)cJSON_GetArraySize(list);
    out->tensors = lq_arena_get_array(arena, count + 1, sizeof *out->tensors);
    if (out->tensors == NULL) {
        status = lq_error_nomem(err, "tensor index");
        goto out;
    }
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, list)
    {
        if (status == LQ_OK) {
            status = read_tensor(&scope, item, arena, &out->tensors[out->tensor_count], err);
            out->tensor_count += status == LQ_OK;
        }
    }
out:
    cJSON_Delete(root);
    return status;
}
