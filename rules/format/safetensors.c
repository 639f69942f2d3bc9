#include "rules/format/safetensors.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/checked.h"
#include "engine/base/json.h"
#include "engine/base/reader.h"
#include "rules/format/quote.h"

struct scalar {
    const char *name;
    uint32_t bits;
    bool has_dtype;
    enum lq_dtype dtype;
};

/* The element types of the safetensors format (its documentation and the dtype list of the
 * library). Those without a GGUF number can be listed but not converted. */
static const struct scalar scalars[] = {
    {"F64", 64, true, LQ_DTYPE_F64},       {"F32", 32, true, LQ_DTYPE_F32},
    {"F16", 16, true, LQ_DTYPE_F16},       {"BF16", 16, true, LQ_DTYPE_BF16},
    {"I64", 64, true, LQ_DTYPE_I64},       {"I32", 32, true, LQ_DTYPE_I32},
    {"I16", 16, true, LQ_DTYPE_I16},       {"I8", 8, true, LQ_DTYPE_I8},
    {"U64", 64, false, LQ_DTYPE_COUNT},    {"U32", 32, false, LQ_DTYPE_COUNT},
    {"U16", 16, false, LQ_DTYPE_COUNT},    {"U8", 8, false, LQ_DTYPE_COUNT},
    {"BOOL", 8, false, LQ_DTYPE_COUNT},    {"C64", 64, false, LQ_DTYPE_COUNT},
    {"F8_E4M3", 8, false, LQ_DTYPE_COUNT}, {"F8_E5M2", 8, false, LQ_DTYPE_COUNT},
    {"F8_E8M0", 8, false, LQ_DTYPE_COUNT}, {"F6_E2M3", 6, false, LQ_DTYPE_COUNT},
    {"F6_E3M2", 6, false, LQ_DTYPE_COUNT}, {"F4", 4, false, LQ_DTYPE_COUNT},
};

struct parser {
    const char *where;
    enum lq_status status;
    struct lq_arena *arena;
    uint64_t data_bytes; /* of the data section */
    const char *name;    /* the tensor that is being read, or NULL */
    struct lq_error *err;
};

static enum lq_status fail(struct parser *p, const char *format, ...) LQ_PRINTF(2, 3);

static enum lq_status fail(struct parser *p, const char *format, ...)
{
    char words[512];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(words, sizeof words, format, args);
    va_end(args);
    if (p->name == NULL) {
        return lq_error_set(p->err, p->status, "%s: %s", p->where, words);
    }
    char quoted[LQ_QUOTE_BYTES];
    return lq_error_set(p->err, p->status, "%s: tensor '%s': %s", p->where,
                        lq_quote_string(p->name, quoted), words);
}

/* A whole number from 0 to 2^53, where doubles are still exact. */
static bool read_uint(const cJSON *item, uint64_t *out)
{
    const double exact_max = 9007199254740992.0;
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= exact_max)) {
        return false;
    }
    *out = (uint64_t)item->valuedouble;
    return (double)*out == item->valuedouble;
}

static enum lq_status read_shape(struct parser *p, const cJSON *list, struct lq_safetensor *tensor)
{
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, list)
    {
        if (tensor->dim_count == LQ_SAFETENSORS_DIMS_MAX) {
            return fail(p, "field 'shape' has more than %d dimensions", LQ_SAFETENSORS_DIMS_MAX);
        }
        if (!read_uint(item, &tensor->shape[tensor->dim_count])) {
            return fail(p, "field 'shape' holds something that is no whole number from 0 to 2^53");
        }
        tensor->dim_count++;
    }
    return LQ_OK;
}

/* data_offsets: begin and end within the data section, whose difference must be the size that dtype
 * and shape ask for. */
static enum lq_status read_place(struct parser *p, const cJSON *list, const struct scalar *scalar,
                                 struct lq_safetensor *tensor)
{
    uint64_t begin = 0;
    uint64_t end = 0;
    if (cJSON_GetArraySize(list) != 2 || !read_uint(list->child, &begin) ||
        !read_uint(list->child->next, &end)) {
        return fail(p, "field 'data_offsets' is not two whole numbers");
    }
    if (begin > end || end > p->data_bytes) {
        return fail(p,
                    "data_offsets are [%llu, %llu], expected an ascending pair within the %llu "
                    "bytes of data; the file is truncated or its header is wrong",
                    (unsigned long long)begin, (unsigned long long)end,
                    (unsigned long long)p->data_bytes);
    }
    uint64_t bits = scalar->bits;
    bool fits = true;
    for (uint32_t i = 0; i < tensor->dim_count; i++) {
        fits = fits && lq_mul_u64(bits, tensor->shape[i], &bits);
    }
    if (!fits || bits % 8 != 0) {
        return fail(p, "a tensor of type %s cannot have this shape: %s", scalar->name,
                    fits ? "it does not end at a byte" : "its size overflows 64 bits");
    }
    if (bits / 8 != end - begin) {
        return fail(p, "data_offsets span %llu bytes, expected %llu for its type and shape",
                    (unsigned long long)(end - begin), (unsigned long long)(bits / 8));
    }
    tensor->offset = begin;
    tensor->size_bytes = end - begin;
    return LQ_OK;
}

static enum lq_status read_tensor(struct parser *p, const cJSON *item, struct lq_safetensor *tensor)
{
    p->name = item->string;
    size_t length = strlen(item->string);
    if (length == 0 || length > LQ_TENSOR_NAME_BYTES_MAX) {
        return fail(p, "the name has %zu bytes, expected 1 to %d", length,
                    LQ_TENSOR_NAME_BYTES_MAX);
    }
    const cJSON *dtype = lq_json_find(item, "dtype");
    const cJSON *shape = lq_json_find(item, "shape");
    const cJSON *offsets = lq_json_find(item, "data_offsets");
    if (!cJSON_IsObject(item) || !cJSON_IsString(dtype) || !cJSON_IsArray(shape) ||
        !cJSON_IsArray(offsets)) {
        return fail(p, "expected an object with a string 'dtype' and lists 'shape' and "
                       "'data_offsets'");
    }
    const struct scalar *scalar = NULL;
    for (size_t i = 0; i < LQ_COUNT_OF(scalars) && scalar == NULL; i++) {
        scalar = strcmp(scalars[i].name, dtype->valuestring) == 0 ? &scalars[i] : NULL;
    }
    if (scalar == NULL) {
        char quoted[LQ_QUOTE_BYTES];
        return fail(p, "dtype is '%s', which is unknown",
                    lq_quote_string(dtype->valuestring, quoted));
    }
    tensor->dtype_name = scalar->name;
    tensor->has_dtype = scalar->has_dtype;
    tensor->dtype = scalar->dtype;
    enum lq_status status = read_shape(p, shape, tensor);
    if (status == LQ_OK) {
        status = read_place(p, offsets, scalar, tensor);
    }
    if (status != LQ_OK) {
        return status;
    }
    tensor->name = lq_arena_dup(p->arena, item->string, length);
    return tensor->name == NULL ? lq_error_nomem(p->err, "the tensor table") : LQ_OK;
}

/* By place; empty tensors come before the one that starts where they stand; then by name. */
static int compare_places(const void *a, const void *b)
{
    const struct lq_safetensor *x = a;
    const struct lq_safetensor *y = b;
    if (x->offset != y->offset) {
        return x->offset < y->offset ? -1 : 1;
    }
    if (x->size_bytes != y->size_bytes) {
        return x->size_bytes < y->size_bytes ? -1 : 1;
    }
    return strcmp(x->name, y->name);
}

/* Sorts by place and demands that the data section is covered exactly. */
static enum lq_status check_places(struct parser *p, struct lq_safetensors *out)
{
    uint64_t position = 0;
    if (out->tensor_count > 0) {
        qsort(out->tensors, out->tensor_count, sizeof *out->tensors, compare_places);
    }
    for (size_t i = 0; i < out->tensor_count; i++) {
        struct lq_safetensor *tensor = &out->tensors[i];
        p->name = tensor->name;
        if (tensor->offset != position) {
            return fail(p, "its data starts at %llu, expected %llu: %s the tensor before it",
                        (unsigned long long)tensor->offset, (unsigned long long)position,
                        tensor->offset < position ? "it overlaps" : "there is a gap behind");
        }
        position += tensor->size_bytes;
        tensor->offset += out->data_offset;
    }
    p->name = NULL;
    if (position != p->data_bytes) {
        return fail(p, "%llu bytes of data, but the tensors end after %llu",
                    (unsigned long long)p->data_bytes, (unsigned long long)position);
    }
    return LQ_OK;
}

struct named {
    const char *name;
    uint32_t number;
};

static int compare_named(const void *a, const void *b)
{
    return strcmp(((const struct named *)a)->name, ((const struct named *)b)->name);
}

/* Names are unique: they were keys of one JSON object. */
static enum lq_status sort_names(struct parser *p, struct lq_safetensors *out)
{
    size_t count = out->tensor_count;
    struct named *names = lq_arena_get_array(p->arena, count, sizeof *names);
    uint32_t *order = lq_arena_get_array(p->arena, count, sizeof *order);
    if (names == NULL || order == NULL) {
        return lq_error_nomem(p->err, "the tensor table");
    }
    for (size_t i = 0; i < count; i++) {
        names[i] = (struct named){out->tensors[i].name, (uint32_t)i};
    }
    if (count > 0) {
        qsort(names, count, sizeof *names, compare_named);
    }
    for (size_t i = 0; i < count; i++) {
        order[i] = names[i].number;
    }
    out->name_order = order;
    return LQ_OK;
}

static enum lq_status read_header(struct parser *p, const cJSON *root, struct lq_safetensors *out)
{
    if (!cJSON_IsObject(root)) {
        return fail(p, "the safetensors header is not a JSON object");
    }
    int count = cJSON_GetArraySize(root);
    if (count > LQ_MODEL_TENSORS_MAX) {
        return fail(p, "%d tensors, the limit is %d", count, LQ_MODEL_TENSORS_MAX);
    }
    out->tensors = lq_arena_get_array(p->arena, (size_t)count, sizeof *out->tensors);
    if (out->tensors == NULL) {
        return lq_error_nomem(p->err, "the tensor table");
    }
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, root)
    {
        if (strcmp(item->string, "__metadata__") == 0) {
            continue;
        }
        enum lq_status status = read_tensor(p, item, &out->tensors[out->tensor_count]);
        if (status != LQ_OK) {
            return status;
        }
        out->tensor_count++;
    }
    enum lq_status status = check_places(p, out);
    return status == LQ_OK ? sort_names(p, out) : status;
}

/* Checks the length field and finds the JSON text. */
static enum lq_status find_header(struct parser *p, const void *data, uint64_t size_bytes,
                                  uint64_t file_bytes, uint64_t *header_bytes, uint64_t *need_more)
{
    if (file_bytes < 8) {
        return fail(p, "%llu bytes are too few for a safetensors file",
                    (unsigned long long)file_bytes);
    }
    *need_more = 8;
    if (size_bytes < 8) {
        return fail(p, "only %llu bytes of the header were read", (unsigned long long)size_bytes);
    }
    struct lq_reader reader;
    lq_reader_init(&reader, data, size_bytes);
    *need_more = 0;
    *header_bytes = lq_read_u64(&reader);
    if (*header_bytes > LQ_SAFETENSORS_HEADER_BYTES_MAX) {
        return fail(p, "the safetensors header says to be %llu bytes long, the limit is %llu",
                    (unsigned long long)*header_bytes,
                    (unsigned long long)LQ_SAFETENSORS_HEADER_BYTES_MAX);
    }
    if (*header_bytes > file_bytes - 8) {
        return fail(p,
                    "the safetensors header says to be %llu bytes long, the file has only %llu "
                    "more; it is truncated",
                    (unsigned long long)*header_bytes, (unsigned long long)(file_bytes - 8));
    }
    if (*header_bytes > size_bytes - 8) {
        *need_more = 8 + *header_bytes;
        return fail(p, "the safetensors header lies behind the %llu bytes that were read",
                    (unsigned long long)size_bytes);
    }
    return LQ_OK;
}

enum lq_status lq_safetensors_parse(const void *data, uint64_t size_bytes, uint64_t file_bytes,
                                    const char *where, enum lq_status status,
                                    struct lq_arena *arena, struct lq_safetensors *out,
                                    uint64_t *need_more, struct lq_error *err)
{
    struct parser p = {.where = where, .status = status, .arena = arena, .err = err};
    struct lq_safetensors file = {0};
    uint64_t header_bytes = 0;
    uint64_t wanted = 0;
    if (file_bytes < size_bytes) {
        file_bytes = size_bytes;
    }
    enum lq_status result = find_header(&p, data, size_bytes, file_bytes, &header_bytes, &wanted);
    if (need_more != NULL) {
        *need_more = wanted;
        if (wanted != 0) {
            lq_error_clear(err);
            return LQ_OK;
        }
    }
    if (result != LQ_OK) {
        return result;
    }
    cJSON *root = NULL;
    file.data_offset = 8 + header_bytes;
    p.data_bytes = file_bytes - file.data_offset;
    result = lq_json_parse((const unsigned char *)data + 8, (size_t)header_bytes, where, status,
                           &root, err);
    if (result == LQ_OK) {
        result = read_header(&p, root, &file);
    }
    cJSON_Delete(root);
    if (result == LQ_OK) {
        *out = file;
    }
    return result;
}

const struct lq_safetensor *lq_safetensors_find(const struct lq_safetensors *file, const char *name)
{
    size_t low = 0;
    size_t high = file->name_order == NULL ? 0 : file->tensor_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct lq_safetensor *tensor = &file->tensors[file->name_order[middle]];
        int order = strcmp(name, tensor->name);
        if (order == 0) {
            return tensor;
        }
        if (order < 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return NULL;
}
