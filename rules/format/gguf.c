#include "rules/format/gguf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/checked.h"
#include "engine/base/limits.h"
#include "engine/base/reader.h"
#include "rules/format/quote.h"

enum {
    KV_BYTES_MIN = 8 + 4 + 1,     /* key length, type, one byte of value */
    TENSOR_BYTES_MIN = 8 + 4 + 12 /* name length, dimension count, type and offset */
};

/* Where the parser stands. `record` and `number` say which key or tensor is being read; `name` is
 * NULL until it is known. `is_short` is set when the bytes at hand end before the header does,
 * although the file goes on: the one failure that is no fault of the file. */
struct parser {
    struct lq_reader reader;
    uint64_t file_bytes;
    const char *where;
    enum lq_status status;
    struct lq_arena *arena;
    const char *record;
    uint64_t number;
    const char *name;
    bool is_short;
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
    unsigned long long offset = (unsigned long long)p->reader.offset;
    if (p->record == NULL) {
        return lq_error_set(p->err, p->status, "%s: GGUF header at byte %llu: %s", p->where, offset,
                            words);
    }
    unsigned long long number = (unsigned long long)p->number;
    if (p->name == NULL) {
        return lq_error_set(p->err, p->status, "%s: GGUF %s %llu at byte %llu: %s", p->where,
                            p->record, number, offset, words);
    }
    char quoted[LQ_QUOTE_BYTES];
    return lq_error_set(p->err, p->status, "%s: GGUF %s %llu '%s' at byte %llu: %s", p->where,
                        p->record, number, lq_quote_string(p->name, quoted), offset, words);
}

/* Makes sure that `size_bytes` more bytes can be read. */
static enum lq_status need(struct parser *p, uint64_t size_bytes, const char *what)
{
    if (size_bytes <= lq_reader_left(&p->reader)) {
        return LQ_OK;
    }
    uint64_t left = p->file_bytes - p->reader.offset;
    if (size_bytes > left) {
        return fail(p,
                    "%s needs %llu bytes, the file ends after %llu more; it is truncated or the "
                    "length is wrong",
                    what, (unsigned long long)size_bytes, (unsigned long long)left);
    }
    p->is_short = true;
    return fail(p, "%s lies behind the %llu bytes that were read", what,
                (unsigned long long)p->reader.size_bytes);
}

/* A string of at most `length_max` bytes, copied with a NUL behind it. */
static enum lq_status read_string(struct parser *p, const char *what, uint64_t length_max,
                                  struct lq_gguf_string *out)
{
    enum lq_status status = need(p, 8, what);
    if (status != LQ_OK) {
        return status;
    }
    uint64_t length = lq_read_u64(&p->reader);
    if (length > length_max) {
        return fail(p, "%s is %llu bytes long, the limit is %llu", what, (unsigned long long)length,
                    (unsigned long long)length_max);
    }
    status = need(p, length, what);
    if (status != LQ_OK) {
        return status;
    }
    const void *bytes = lq_read_bytes(&p->reader, length);
    out->data = lq_arena_dup(p->arena, bytes, (size_t)length);
    out->length = (size_t)length;
    return out->data == NULL ? lq_error_nomem(p->err, "a GGUF string") : LQ_OK;
}

/* A string that serves as a name: not empty and without NUL, so that C strings compare right. */
static enum lq_status read_name(struct parser *p, const char *what, uint64_t length_max,
                                const char **out)
{
    struct lq_gguf_string string = {0};
    enum lq_status status = read_string(p, what, length_max, &string);
    if (status != LQ_OK) {
        return status;
    }
    if (string.length == 0) {
        return fail(p, "%s is empty", what);
    }
    if (memchr(string.data, 0, string.length) != NULL) {
        return fail(p, "%s contains a NUL byte", what);
    }
    *out = string.data;
    p->name = string.data;
    return LQ_OK;
}

/* Bytes of one number; 0 for strings, arrays and what is no type. */
static uint64_t number_bytes(uint32_t type)
{
    switch (type) {
    case LQ_GGUF_U8:
    case LQ_GGUF_I8:
    case LQ_GGUF_BOOL:
        return 1;
    case LQ_GGUF_U16:
    case LQ_GGUF_I16:
        return 2;
    case LQ_GGUF_U32:
    case LQ_GGUF_I32:
    case LQ_GGUF_F32:
        return 4;
    case LQ_GGUF_U64:
    case LQ_GGUF_I64:
    case LQ_GGUF_F64:
        return 8;
    default:
        return 0;
    }
}

static void read_number(struct lq_reader *reader, struct lq_gguf_value *value)
{
    int64_t integer = 0;
    switch (value->type) {
    case LQ_GGUF_F32:
        value->number = (double)lq_read_f32(reader);
        return;
    case LQ_GGUF_F64:
        value->number = lq_read_f64(reader);
        return;
    case LQ_GGUF_U64:
        value->integer = lq_read_u64(reader);
        value->number = (double)value->integer;
        return;
    case LQ_GGUF_U8:
        integer = lq_read_u8(reader);
        break;
    case LQ_GGUF_BOOL:
        integer = lq_read_u8(reader) != 0;
        break;
    case LQ_GGUF_I8:
        integer = (int8_t)lq_read_u8(reader);
        break;
    case LQ_GGUF_U16:
        integer = lq_read_u16(reader);
        break;
    case LQ_GGUF_I16:
        integer = (int16_t)lq_read_u16(reader);
        break;
    case LQ_GGUF_U32:
        integer = lq_read_u32(reader);
        break;
    case LQ_GGUF_I32:
        integer = lq_read_i32(reader);
        break;
    case LQ_GGUF_I64:
        integer = lq_read_i64(reader);
        break;
    case LQ_GGUF_STRING:
    case LQ_GGUF_ARRAY:
        break;
    }
    value->integer = (uint64_t)integer;
    value->number = (double)integer;
}

static enum lq_status read_strings(struct parser *p, struct lq_gguf_value *value)
{
    struct lq_gguf_string *strings =
        lq_arena_get_array(p->arena, (size_t)value->count, sizeof *strings);
    if (strings == NULL) {
        return lq_error_nomem(p->err, "a GGUF array");
    }
    value->strings = strings;
    for (uint64_t i = 0; i < value->count; i++) {
        enum lq_status status =
            read_string(p, "a string of the array", LQ_GGUF_STRING_BYTES_MAX, &strings[i]);
        if (status != LQ_OK) {
            return status;
        }
    }
    return LQ_OK;
}

static enum lq_status read_array(struct parser *p, struct lq_gguf_value *value)
{
    enum lq_status status = need(p, 12, "the array's type and count");
    if (status != LQ_OK) {
        return status;
    }
    uint32_t type = lq_read_u32(&p->reader);
    uint64_t count = lq_read_u64(&p->reader);
    if (type == LQ_GGUF_ARRAY) {
        return fail(p, "arrays of arrays are not allowed");
    }
    bool is_string = type == LQ_GGUF_STRING;
    uint64_t element_bytes = is_string ? 8 : number_bytes(type);
    if (element_bytes == 0) {
        return fail(p, "array element type is %u, expected 0 to 12", type);
    }
    if (count > LQ_GGUF_ARRAY_MAX) {
        return fail(p, "array has %llu elements, the limit is %d", (unsigned long long)count,
                    LQ_GGUF_ARRAY_MAX);
    }
    /* The product cannot overflow: count is at most 2^30. For strings it is the least they take,
     * and it is at hand before anything of that size is allocated. */
    status = need(p, count * element_bytes, "the array");
    if (status != LQ_OK) {
        return status;
    }
    value->element_type = (enum lq_gguf_type)type;
    value->count = count;
    if (is_string) {
        return read_strings(p, value);
    }
    const void *bytes = lq_read_bytes(&p->reader, count * element_bytes);
    value->elements = lq_arena_dup(p->arena, bytes, (size_t)(count * element_bytes));
    return value->elements == NULL ? lq_error_nomem(p->err, "a GGUF array") : LQ_OK;
}

static enum lq_status read_kv(struct parser *p, struct lq_gguf_kv *kv)
{
    enum lq_status status = read_name(p, "the key", LQ_GGUF_KEY_BYTES_MAX, &kv->key);
    if (status == LQ_OK) {
        status = need(p, 4, "the value's type");
    }
    if (status != LQ_OK) {
        return status;
    }
    uint32_t type = lq_read_u32(&p->reader);
    struct lq_gguf_value *value = &kv->value;
    value->type = (enum lq_gguf_type)type;
    value->count = 1;
    if (type == LQ_GGUF_ARRAY) {
        return read_array(p, value);
    }
    if (type == LQ_GGUF_STRING) {
        return read_string(p, "the string", LQ_GGUF_STRING_BYTES_MAX, &value->string);
    }
    uint64_t size_bytes = number_bytes(type);
    if (size_bytes == 0) {
        return fail(p, "value type is %u, expected 0 to 12", type);
    }
    status = need(p, size_bytes, "the value");
    if (status == LQ_OK) {
        read_number(&p->reader, value);
    }
    return status;
}

/* The size of a tensor of this shape and type; `why` says what is wrong with the shape. */
static bool tensor_bytes(const uint64_t ne[4], const struct lq_dtype_info *info, uint64_t *out,
                         const char **why)
{
    uint64_t elements = 1;
    bool fits = true;
    for (int i = 0; i < 4; i++) {
        fits = fits && ne[i] <= INT64_MAX && lq_mul_u64(elements, ne[i], &elements);
    }
    fits = fits && elements <= INT64_MAX;
    *why = "the product of its dimensions overflows 63 bits";
    if (!fits) {
        return false;
    }
    *why = "the size in bytes overflows 64 bits";
    return lq_mul_u64(elements / info->block_elems, info->block_bytes, out);
}

static enum lq_status read_tensor(struct parser *p, struct lq_gguf_tensor *tensor)
{
    enum lq_status status =
        read_name(p, "the tensor name", LQ_TENSOR_NAME_BYTES_MAX, &tensor->name);
    if (status == LQ_OK) {
        status = need(p, 4, "the number of dimensions");
    }
    if (status != LQ_OK) {
        return status;
    }
    tensor->dim_count = lq_read_u32(&p->reader);
    if (tensor->dim_count > LQ_TENSOR_DIMS_MAX) {
        return fail(p, "%u dimensions, the limit is %d", tensor->dim_count, LQ_TENSOR_DIMS_MAX);
    }
    status = need(p, 8 * (uint64_t)tensor->dim_count + 12, "the dimensions, type and offset");
    if (status != LQ_OK) {
        return status;
    }
    for (uint32_t i = 0; i < 4; i++) {
        tensor->ne[i] = i < tensor->dim_count ? lq_read_u64(&p->reader) : 1;
    }
    uint32_t type = lq_read_u32(&p->reader);
    tensor->offset = lq_read_u64(&p->reader);
    const struct lq_dtype_info *info = lq_dtype_info(type);
    if (info == NULL) {
        return fail(p, "tensor type %u is unknown or retired", type);
    }
    tensor->dtype = (enum lq_dtype)type;
    if (tensor->ne[0] % info->block_elems != 0) {
        return fail(p, "rows have %llu elements, expected a multiple of %u, the block of %s",
                    (unsigned long long)tensor->ne[0], info->block_elems, info->name);
    }
    const char *why = "";
    if (!tensor_bytes(tensor->ne, info, &tensor->size_bytes, &why)) {
        return fail(p, "%s", why);
    }
    return LQ_OK;
}

struct named {
    const char *name;
    uint32_t number;
};

static int compare_named(const void *a, const void *b)
{
    const struct named *x = a;
    const struct named *y = b;
    int order = strcmp(x->name, y->name);
    return order != 0 ? order : (x->number > y->number) - (x->number < y->number);
}

/* Sorts the names, refuses double ones, and leaves the numbers in sorted order for lookups. */
static enum lq_status sort_names(struct parser *p, struct named *names, size_t count,
                                 const uint32_t **order)
{
    uint32_t *numbers = lq_arena_get_array(p->arena, count, sizeof *numbers);
    if (numbers == NULL) {
        return lq_error_nomem(p->err, "the names of a GGUF file");
    }
    if (count != 0) {
        qsort(names, count, sizeof *names, compare_named);
    }
    for (size_t i = 0; i < count; i++) {
        numbers[i] = names[i].number;
        if (i > 0 && strcmp(names[i - 1].name, names[i].name) == 0) {
            p->number = names[i].number;
            p->name = names[i].name;
            return fail(p, "the name occurs twice, first as %s %u", p->record, names[i - 1].number);
        }
    }
    *order = numbers;
    return LQ_OK;
}

static enum lq_status read_kvs(struct parser *p, uint64_t count, struct lq_gguf *out)
{
    p->record = "key";
    out->kv_count = (size_t)count;
    out->kvs = lq_arena_get_array(p->arena, (size_t)count, sizeof *out->kvs);
    struct named *names = lq_arena_get_array(p->arena, (size_t)count, sizeof *names);
    if (out->kvs == NULL || names == NULL) {
        return lq_error_nomem(p->err, "the keys of a GGUF file");
    }
    for (uint64_t i = 0; i < count; i++) {
        p->number = i;
        p->name = NULL;
        enum lq_status status = read_kv(p, &out->kvs[i]);
        if (status != LQ_OK) {
            return status;
        }
        names[i] = (struct named){out->kvs[i].key, (uint32_t)i};
    }
    return sort_names(p, names, (size_t)count, &out->kv_order);
}

static enum lq_status read_tensors(struct parser *p, uint64_t count, struct lq_gguf *out)
{
    p->record = "tensor";
    out->tensor_count = (size_t)count;
    out->tensors = lq_arena_get_array(p->arena, (size_t)count, sizeof *out->tensors);
    struct named *names = lq_arena_get_array(p->arena, (size_t)count, sizeof *names);
    if (out->tensors == NULL || names == NULL) {
        return lq_error_nomem(p->err, "the tensors of a GGUF file");
    }
    uint64_t expected = 0;
    for (uint64_t i = 0; i < count; i++) {
        p->number = i;
        p->name = NULL;
        struct lq_gguf_tensor *tensor = &out->tensors[i];
        enum lq_status status = read_tensor(p, tensor);
        if (status != LQ_OK) {
            return status;
        }
        if (tensor->offset != expected) {
            return fail(p, "data offset is %llu, expected %llu, where the tensor before it ends",
                        (unsigned long long)tensor->offset, (unsigned long long)expected);
        }
        uint64_t end = 0;
        if (!lq_add_u64(expected, tensor->size_bytes, &end) ||
            !lq_align_u64(end, out->alignment, &expected)) {
            return fail(p, "its data ends beyond 64 bits");
        }
        names[i] = (struct named){tensor->name, (uint32_t)i};
    }
    return sort_names(p, names, (size_t)count, &out->tensor_order);
}

/* Turns relative offsets into offsets in the file and checks that the data is inside it. */
static enum lq_status place_tensors(struct parser *p, struct lq_gguf *out)
{
    for (size_t i = 0; i < out->tensor_count; i++) {
        struct lq_gguf_tensor *tensor = &out->tensors[i];
        uint64_t start = 0;
        uint64_t end = 0;
        bool fits = lq_add_u64(out->data_offset, tensor->offset, &start) &&
                    lq_add_u64(start, tensor->size_bytes, &end);
        if (!fits || end > p->file_bytes) {
            p->number = i;
            p->name = tensor->name;
            return fail(p,
                        "its %llu bytes of data at %llu lie outside the file of %llu bytes; the "
                        "file is truncated",
                        (unsigned long long)tensor->size_bytes, (unsigned long long)start,
                        (unsigned long long)p->file_bytes);
        }
        tensor->offset = start;
    }
    return LQ_OK;
}

static enum lq_status read_alignment(struct parser *p, struct lq_gguf *out)
{
    out->alignment = LQ_GGUF_ALIGNMENT;
    const struct lq_gguf_value *value = lq_gguf_find(out, "general.alignment");
    if (value == NULL) {
        return LQ_OK;
    }
    uint64_t alignment = value->integer;
    p->record = NULL;
    if (value->type != LQ_GGUF_U32 || alignment == 0 || (alignment & (alignment - 1)) != 0) {
        return fail(p, "general.alignment is %.17g, expected a u32 that is a power of two",
                    value->number);
    }
    out->alignment = alignment;
    return LQ_OK;
}

static enum lq_status read_version(struct parser *p, struct lq_gguf *out)
{
    enum lq_status status = need(p, 4, "the magic 'GGUF'");
    if (status != LQ_OK) {
        return status;
    }
    const char *magic = lq_read_bytes(&p->reader, 4);
    if (memcmp(magic, "GGUF", 4) != 0) {
        char quoted[LQ_QUOTE_BYTES];
        p->reader.offset = 0;
        return fail(p, "magic is '%s', expected 'GGUF'; this is no GGUF file",
                    lq_quote(magic, 4, quoted));
    }
    status = need(p, 4, "the version");
    if (status != LQ_OK) {
        return status;
    }
    out->version = lq_read_u32(&p->reader);
    if (out->version == 2 || out->version == 3) {
        return LQ_OK;
    }
    if (out->version == 0) {
        return fail(p, "version is 0, expected 2 or 3");
    }
    if ((out->version & 0xffff) == 0) {
        return fail(p, "version is 0x%08x: the file is big-endian; convert it to little-endian",
                    out->version);
    }
    if (out->version == 1) {
        return fail(p, "version 1 is no longer read, expected 2 or 3; convert the model again");
    }
    return fail(p, "version is %u, expected 2 or 3; the file is newer than this program",
                out->version);
}

/* A count that the rest of the file could hold. */
static enum lq_status check_count(struct parser *p, const char *what, uint64_t count,
                                  uint64_t limit, uint64_t record_bytes)
{
    uint64_t left = p->file_bytes - p->reader.offset;
    if (count > limit) {
        return fail(p, "%llu %s, the limit is %llu", (unsigned long long)count, what,
                    (unsigned long long)limit);
    }
    if (count > left / record_bytes) {
        return fail(p, "%llu %s cannot fit into the %llu bytes that follow",
                    (unsigned long long)count, what, (unsigned long long)left);
    }
    return LQ_OK;
}

static enum lq_status read_header(struct parser *p, struct lq_gguf *out)
{
    enum lq_status status = read_version(p, out);
    if (status == LQ_OK) {
        status = need(p, 16, "the tensor and key counts");
    }
    if (status != LQ_OK) {
        return status;
    }
    uint64_t tensor_count = lq_read_u64(&p->reader);
    uint64_t kv_count = lq_read_u64(&p->reader);
    status = check_count(p, "keys", kv_count, LQ_GGUF_KV_MAX, KV_BYTES_MIN);
    if (status == LQ_OK) {
        status = check_count(p, "tensors", tensor_count, LQ_MODEL_TENSORS_MAX, TENSOR_BYTES_MIN);
    }
    if (status == LQ_OK) {
        status = read_kvs(p, kv_count, out);
    }
    if (status == LQ_OK) {
        status = read_alignment(p, out);
    }
    if (status == LQ_OK) {
        status = read_tensors(p, tensor_count, out);
    }
    if (status != LQ_OK) {
        return status;
    }
    /* A file without tensors need not be padded. */
    if (!lq_align_u64(p->reader.offset, out->alignment, &out->data_offset)) {
        return fail(p, "the data section starts beyond 64 bits");
    }
    if (tensor_count == 0 && out->data_offset > p->file_bytes) {
        out->data_offset = p->file_bytes;
    }
    return place_tensors(p, out);
}

enum lq_status lq_gguf_parse(const void *data, uint64_t size_bytes, uint64_t file_bytes,
                             const char *where, enum lq_status status, struct lq_arena *arena,
                             struct lq_gguf *out, bool *need_more, struct lq_error *err)
{
    struct parser p = {.file_bytes = file_bytes < size_bytes ? size_bytes : file_bytes,
                       .where = where,
                       .status = status,
                       .arena = arena,
                       .err = err};
    lq_reader_init(&p.reader, data, size_bytes);
    struct lq_gguf gguf = {0};
    enum lq_status result = read_header(&p, &gguf);
    if (need_more != NULL) {
        *need_more = p.is_short;
        if (p.is_short) {
            lq_error_clear(err);
            return LQ_OK;
        }
    }
    if (result == LQ_OK) {
        *out = gguf;
    }
    return result;
}

const struct lq_gguf_value *lq_gguf_find(const struct lq_gguf *gguf, const char *key)
{
    size_t low = 0;
    size_t high = gguf->kv_order == NULL ? 0 : gguf->kv_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct lq_gguf_kv *kv = &gguf->kvs[gguf->kv_order[middle]];
        int order = strcmp(key, kv->key);
        if (order == 0) {
            return &kv->value;
        }
        if (order < 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return NULL;
}

const struct lq_gguf_tensor *lq_gguf_find_tensor(const struct lq_gguf *gguf, const char *name)
{
    size_t low = 0;
    size_t high = gguf->tensor_order == NULL ? 0 : gguf->tensor_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct lq_gguf_tensor *tensor = &gguf->tensors[gguf->tensor_order[middle]];
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

static bool is_signed(enum lq_gguf_type type)
{
    return type == LQ_GGUF_I8 || type == LQ_GGUF_I16 || type == LQ_GGUF_I32 || type == LQ_GGUF_I64;
}

static bool is_unsigned(enum lq_gguf_type type)
{
    return type == LQ_GGUF_U8 || type == LQ_GGUF_U16 || type == LQ_GGUF_U32 || type == LQ_GGUF_U64;
}

uint64_t lq_gguf_get_uint(const struct lq_gguf *gguf, const char *key, uint64_t fallback)
{
    const struct lq_gguf_value *value = lq_gguf_find(gguf, key);
    if (value == NULL) {
        return fallback;
    }
    bool fits =
        is_unsigned(value->type) || (is_signed(value->type) && (int64_t)value->integer >= 0);
    return fits ? value->integer : fallback;
}

double lq_gguf_get_number(const struct lq_gguf *gguf, const char *key, double fallback)
{
    const struct lq_gguf_value *value = lq_gguf_find(gguf, key);
    if (value == NULL) {
        return fallback;
    }
    bool is_float = value->type == LQ_GGUF_F32 || value->type == LQ_GGUF_F64;
    return is_float || is_signed(value->type) || is_unsigned(value->type) ? value->number
                                                                          : fallback;
}

bool lq_gguf_get_bool(const struct lq_gguf *gguf, const char *key, bool fallback)
{
    const struct lq_gguf_value *value = lq_gguf_find(gguf, key);
    return value != NULL && value->type == LQ_GGUF_BOOL ? value->integer != 0 : fallback;
}

const char *lq_gguf_get_string(const struct lq_gguf *gguf, const char *key)
{
    const struct lq_gguf_value *value = lq_gguf_find(gguf, key);
    return value != NULL && value->type == LQ_GGUF_STRING ? value->string.data : NULL;
}
