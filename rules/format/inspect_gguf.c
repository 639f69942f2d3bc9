#include <math.h>
#include <stdio.h>
#include <string.h>

#include "rules/format/gguf.h"
#include "rules/format/inspect_parts.h"
#include "rules/format/quote.h"
#include "rules/format/safetensors.h"

enum { ARRAY_SHOWN = 6 };

static const char *type_name(enum lq_gguf_type type)
{
    static const char *const names[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                        "bool", "string", "array", "u64", "i64", "f64"};
    return (size_t)type < LQ_COUNT_OF(names) ? names[type] : "?";
}

static size_t number_bytes(enum lq_gguf_type type)
{
    static const unsigned char sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return (size_t)type < LQ_COUNT_OF(sizes) ? sizes[type] : 0;
}

/* Element `i` of an array of numbers, as a scalar value. */
static struct lq_gguf_value element_at(const struct lq_gguf_value *array, uint64_t i)
{
    struct lq_gguf_value value = {.type = array->element_type, .count = 1};
    size_t size = number_bytes(array->element_type);
    uint64_t bits = 0;
    float f32 = 0;
    memcpy(&bits, (const unsigned char *)array->elements + i * size, size);
    switch (array->element_type) {
    case LQ_GGUF_F32:
        memcpy(&f32, &bits, sizeof f32);
        value.number = (double)f32;
        return value;
    case LQ_GGUF_F64:
        memcpy(&value.number, &bits, sizeof bits);
        return value;
    case LQ_GGUF_I8:
        bits = (uint64_t)(int8_t)bits;
        break;
    case LQ_GGUF_I16:
        bits = (uint64_t)(int16_t)bits;
        break;
    case LQ_GGUF_I32:
        bits = (uint64_t)(int32_t)bits;
        break;
    default:
        break;
    }
    value.integer = bits;
    return value;
}

static void append_scalar(struct lq_buffer *out, const struct lq_gguf_value *value)
{
    char quoted[LQ_QUOTE_BYTES];
    switch (value->type) {
    case LQ_GGUF_STRING:
        lq_buffer_printf(out, "\"%s\"", lq_quote(value->string.data, value->string.length, quoted));
        break;
    case LQ_GGUF_BOOL:
        lq_buffer_append_string(out, value->integer != 0 ? "true" : "false");
        break;
    case LQ_GGUF_F32:
        lq_buffer_printf(out, "%.7g", value->number);
        break;
    case LQ_GGUF_F64:
        lq_buffer_printf(out, "%.15g", value->number);
        break;
    case LQ_GGUF_I8:
    case LQ_GGUF_I16:
    case LQ_GGUF_I32:
    case LQ_GGUF_I64:
        lq_buffer_printf(out, "%lld", (long long)value->integer);
        break;
    default:
        lq_buffer_printf(out, "%llu", (unsigned long long)value->integer);
        break;
    }
}

/* The value as one short line; long arrays show their first elements. */
static void append_value(struct lq_buffer *out, const struct lq_gguf_value *value)
{
    if (value->type != LQ_GGUF_ARRAY) {
        append_scalar(out, value);
        return;
    }
    lq_buffer_append_char(out, '[');
    for (uint64_t i = 0; i < value->count && i < ARRAY_SHOWN; i++) {
        struct lq_gguf_value element = {.type = LQ_GGUF_STRING};
        if (value->element_type == LQ_GGUF_STRING) {
            element.string = value->strings[i];
        } else {
            element = element_at(value, i);
        }
        lq_buffer_append_string(out, i == 0 ? "" : ", ");
        append_scalar(out, &element);
    }
    lq_buffer_append_string(out, value->count > ARRAY_SHOWN ? ", ...]" : "]");
}

static void put_json_value(struct lq_json_writer *json, const struct lq_gguf_value *value)
{
    switch (value->type) {
    case LQ_GGUF_STRING:
        lq_json_string_sized(json, value->string.data, value->string.length);
        break;
    case LQ_GGUF_BOOL:
        lq_json_bool(json, value->integer != 0);
        break;
    case LQ_GGUF_F32:
    case LQ_GGUF_F64:
        lq_json_number(json, value->number);
        break;
    case LQ_GGUF_I8:
    case LQ_GGUF_I16:
    case LQ_GGUF_I32:
    case LQ_GGUF_I64:
        lq_json_int(json, (int64_t)value->integer);
        break;
    default:
        lq_json_uint(json, value->integer);
        break;
    }
}

static void put_kv_json(struct lq_view *view, const struct lq_gguf_kv *kv)
{
    const struct lq_gguf_value *value = &kv->value;
    lq_json_begin_object(&view->writer);
    lq_json_put_string(&view->writer, "key", kv->key);
    lq_json_put_string(&view->writer, "type", type_name(value->type));
    if (value->type == LQ_GGUF_ARRAY) {
        lq_json_put_string(&view->writer, "element_type", type_name(value->element_type));
        lq_json_key(&view->writer, "count");
        lq_json_uint(&view->writer, value->count);
    } else {
        lq_json_key(&view->writer, "value");
        put_json_value(&view->writer, value);
    }
    lq_json_end_object(&view->writer);
}

static void put_kv_text(struct lq_view *view, const struct lq_gguf_kv *kv, int width)
{
    const struct lq_gguf_value *value = &kv->value;
    char quoted[LQ_QUOTE_BYTES];
    char type[40];
    if (value->type == LQ_GGUF_ARRAY) {
        (void)snprintf(type, sizeof type, "%s[%llu]", type_name(value->element_type),
                       (unsigned long long)value->count);
    } else {
        (void)snprintf(type, sizeof type, "%s", type_name(value->type));
    }
    lq_buffer_printf(view->out, "  %-*s  %-12s  ", width, lq_quote_string(kv->key, quoted), type);
    append_value(view->out, value);
    lq_buffer_append_char(view->out, '\n');
}

static void put_kvs(struct lq_view *view, const struct lq_gguf *gguf)
{
    int width = 0;
    for (size_t i = 0; i < gguf->kv_count; i++) {
        width = lq_inspect_width(width, gguf->kvs[i].key);
    }
    lq_view_begin_table(view, "keys", "keys: name, type, value");
    for (size_t i = 0; i < gguf->kv_count; i++) {
        if (view->json) {
            put_kv_json(view, &gguf->kvs[i]);
        } else {
            put_kv_text(view, &gguf->kvs[i], width);
        }
    }
    lq_view_end_table(view);
}

static void put_tensors(struct lq_view *view, const struct lq_gguf *gguf)
{
    struct lq_inspect_type types[LQ_INSPECT_TYPES_MAX] = {{0}};
    int width = 0;
    for (size_t i = 0; i < gguf->tensor_count; i++) {
        width = lq_inspect_width(width, gguf->tensors[i].name);
    }
    lq_view_begin_table(view, "tensors", "tensors: name, type, shape, size, bits per weight");
    for (size_t i = 0; i < gguf->tensor_count; i++) {
        const struct lq_gguf_tensor *tensor = &gguf->tensors[i];
        /* The reader has checked that this product fits. */
        uint64_t elements = tensor->ne[0] * tensor->ne[1] * tensor->ne[2] * tensor->ne[3];
        const char *type = lq_dtype_name((uint32_t)tensor->dtype);
        lq_view_begin_row(view);
        lq_view_cell_string(view, "name", -width, tensor->name);
        lq_view_cell_string(view, "type", -8, type);
        lq_view_cell_shape(view, "shape", 20, tensor->ne, tensor->dim_count);
        lq_view_cell_size(view, "size", 10, tensor->size_bytes);
        lq_view_cell_number(view, "bpw", 8, lq_dtype_bpw(tensor->dtype));
        lq_view_end_row(view);
        lq_inspect_count(types, type, elements, tensor->size_bytes);
    }
    lq_view_end_table(view);
    lq_inspect_put_types(view, types);
}

enum lq_status lq_inspect_gguf(const struct lq_inspection *in)
{
    struct lq_gguf gguf;
    struct lq_view view;
    enum lq_status status = lq_gguf_parse(in->data, in->size_bytes, in->size_bytes, in->name,
                                          LQ_EFORMAT, in->arena, &gguf, NULL, in->err);
    if (status != LQ_OK) {
        return status;
    }
    const char *type = lq_gguf_get_string(&gguf, "general.type");
    if (type != NULL && strcmp(type, "imatrix") == 0) {
        return lq_inspect_imatrix(in);
    }
    lq_view_begin(&view, in->out, in->json, "gguf", "GGUF", in->size_bytes);
    lq_view_uint(&view, "version", gguf.version);
    lq_view_uint(&view, "alignment", gguf.alignment);
    lq_view_uint(&view, "data_offset", gguf.data_offset);
    lq_view_uint(&view, "key_count", gguf.kv_count);
    lq_view_uint(&view, "tensor_count", gguf.tensor_count);
    put_kvs(&view, &gguf);
    if (gguf.tensor_count > 0) {
        put_tensors(&view, &gguf);
    }
    lq_view_end(&view);
    return LQ_OK;
}

enum lq_status lq_inspect_safetensors(const struct lq_inspection *in)
{
    struct lq_safetensors file;
    struct lq_view view;
    struct lq_inspect_type types[LQ_INSPECT_TYPES_MAX] = {{0}};
    int width = 0;
    enum lq_status status = lq_safetensors_parse(in->data, in->size_bytes, in->size_bytes, in->name,
                                                 LQ_EFORMAT, in->arena, &file, NULL, in->err);
    if (status != LQ_OK) {
        return status;
    }
    lq_view_begin(&view, in->out, in->json, "safetensors", "safetensors", in->size_bytes);
    lq_view_uint(&view, "data_offset", file.data_offset);
    lq_view_uint(&view, "tensor_count", file.tensor_count);
    for (size_t i = 0; i < file.tensor_count; i++) {
        width = lq_inspect_width(width, file.tensors[i].name);
    }
    lq_view_begin_table(&view, "tensors", "tensors: name, type, shape, size");
    for (size_t i = 0; i < file.tensor_count; i++) {
        const struct lq_safetensor *tensor = &file.tensors[i];
        uint64_t elements = 1;
        for (uint32_t k = 0; k < tensor->dim_count; k++) {
            elements *= tensor->shape[k];
        }
        lq_view_begin_row(&view);
        lq_view_cell_string(&view, "name", -width, tensor->name);
        lq_view_cell_string(&view, "type", -8, tensor->dtype_name);
        lq_view_cell_shape(&view, "shape", 20, tensor->shape, tensor->dim_count);
        lq_view_cell_size(&view, "size", 10, tensor->size_bytes);
        lq_view_end_row(&view);
        lq_inspect_count(types, tensor->dtype_name, elements, tensor->size_bytes);
    }
    lq_view_end_table(&view);
    lq_inspect_put_types(&view, types);
    lq_view_end(&view);
    return LQ_OK;
}
