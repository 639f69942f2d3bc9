#include <stdio.h>
#include <string.h>

#include "engine/base/checked.h"
#include "engine/base/limits.h"
#include "rules/format/gguf.h"
#include "rules/format/quote.h"

void lq_gguf_writer_init(struct lq_gguf_writer *writer)
{
    memset(writer, 0, sizeof *writer);
    lq_buffer_init(&writer->kvs);
    lq_buffer_init(&writer->infos);
}

void lq_gguf_writer_fini(struct lq_gguf_writer *writer)
{
    lq_buffer_fini(&writer->kvs);
    lq_buffer_fini(&writer->infos);
}

static void put_sized(struct lq_buffer *buffer, const char *text, size_t length)
{
    lq_buffer_append_u64(buffer, length);
    lq_buffer_append(buffer, text, length);
}

static void put_key(struct lq_gguf_writer *writer, const char *key, enum lq_gguf_type type)
{
    put_sized(&writer->kvs, key, strlen(key));
    lq_buffer_append_u32(&writer->kvs, (uint32_t)type);
    writer->kv_count++;
}

/* The alignment of what we write is fixed; a copied key would lie about it. */
static bool is_dropped(const char *key)
{
    return strcmp(key, "general.alignment") == 0;
}

static size_t number_bytes(enum lq_gguf_type type)
{
    switch (type) {
    case LQ_GGUF_U8:
    case LQ_GGUF_I8:
    case LQ_GGUF_BOOL:
        return 1;
    case LQ_GGUF_U16:
    case LQ_GGUF_I16:
        return 2;
    case LQ_GGUF_U64:
    case LQ_GGUF_I64:
    case LQ_GGUF_F64:
        return 8;
    case LQ_GGUF_U32:
    case LQ_GGUF_I32:
    case LQ_GGUF_F32:
        return 4;
    case LQ_GGUF_STRING:
    case LQ_GGUF_ARRAY:
        break;
    }
    return 0;
}

void lq_gguf_put_uint(struct lq_gguf_writer *writer, const char *key, enum lq_gguf_type type,
                      uint64_t value)
{
    if (is_dropped(key)) {
        return;
    }
    put_key(writer, key, type);
    switch (number_bytes(type)) {
    case 1:
        lq_buffer_append_u8(&writer->kvs, (uint8_t)value);
        break;
    case 2:
        lq_buffer_append_u16(&writer->kvs, (uint16_t)value);
        break;
    case 4:
        lq_buffer_append_u32(&writer->kvs, (uint32_t)value);
        break;
    default:
        lq_buffer_append_u64(&writer->kvs, value);
        break;
    }
}

void lq_gguf_put_u32(struct lq_gguf_writer *writer, const char *key, uint32_t value)
{
    lq_gguf_put_uint(writer, key, LQ_GGUF_U32, value);
}

void lq_gguf_put_f32(struct lq_gguf_writer *writer, const char *key, float value)
{
    put_key(writer, key, LQ_GGUF_F32);
    lq_buffer_append_f32(&writer->kvs, value);
}

void lq_gguf_put_bool(struct lq_gguf_writer *writer, const char *key, bool value)
{
    lq_gguf_put_uint(writer, key, LQ_GGUF_BOOL, value ? 1 : 0);
}

void lq_gguf_put_string(struct lq_gguf_writer *writer, const char *key, const char *text)
{
    put_key(writer, key, LQ_GGUF_STRING);
    put_sized(&writer->kvs, text, strlen(text));
}

static void put_array_head(struct lq_gguf_writer *writer, const char *key, enum lq_gguf_type type,
                           uint64_t count)
{
    put_key(writer, key, LQ_GGUF_ARRAY);
    lq_buffer_append_u32(&writer->kvs, (uint32_t)type);
    lq_buffer_append_u64(&writer->kvs, count);
}

void lq_gguf_put_strings(struct lq_gguf_writer *writer, const char *key,
                         const struct lq_gguf_string *strings, uint64_t count)
{
    put_array_head(writer, key, LQ_GGUF_STRING, count);
    for (uint64_t i = 0; i < count; i++) {
        put_sized(&writer->kvs, strings[i].data, strings[i].length);
    }
}

void lq_gguf_put_array(struct lq_gguf_writer *writer, const char *key, enum lq_gguf_type type,
                       const void *elements, uint64_t count)
{
    size_t size_bytes = 0;
    put_array_head(writer, key, type, count);
    if (lq_mul_size((size_t)count, number_bytes(type), &size_bytes)) {
        lq_buffer_append(&writer->kvs, elements, size_bytes);
    } else {
        writer->kvs.failed = true;
    }
}

void lq_gguf_put_value(struct lq_gguf_writer *writer, const char *key,
                       const struct lq_gguf_value *value)
{
    uint64_t bits = value->integer;
    switch (value->type) {
    case LQ_GGUF_ARRAY:
        if (value->element_type == LQ_GGUF_STRING) {
            lq_gguf_put_strings(writer, key, value->strings, value->count);
        } else {
            lq_gguf_put_array(writer, key, value->element_type, value->elements, value->count);
        }
        break;
    case LQ_GGUF_STRING:
        put_key(writer, key, LQ_GGUF_STRING);
        put_sized(&writer->kvs, value->string.data, value->string.length);
        break;
    case LQ_GGUF_F32:
        lq_gguf_put_f32(writer, key, (float)value->number);
        break;
    case LQ_GGUF_F64:
        memcpy(&bits, &value->number, sizeof bits);
        lq_gguf_put_uint(writer, key, LQ_GGUF_F64, bits);
        break;
    default:
        lq_gguf_put_uint(writer, key, value->type, bits);
        break;
    }
}

enum lq_status lq_gguf_put_tensor(struct lq_gguf_writer *writer, const char *name,
                                  enum lq_dtype dtype, uint32_t dim_count, const uint64_t ne[4],
                                  struct lq_error *err)
{
    char quoted[LQ_QUOTE_BYTES];
    size_t length = strlen(name);
    if (length > LQ_GGUF_NAME_BYTES_MAX) {
        return lq_error_set(err, LQ_EFORMAT,
                            "tensor '%s': the name has %zu bytes, GGUF allows at most %d",
                            lq_quote_string(name, quoted), length, LQ_GGUF_NAME_BYTES_MAX);
    }
    const struct lq_dtype_info *info = lq_dtype_info((uint32_t)dtype);
    if (info == NULL || dim_count > LQ_TENSOR_DIMS_MAX) {
        return lq_error_set(err, LQ_EFORMAT, "tensor '%s': type %u with %u dimensions is no GGUF",
                            lq_quote_string(name, quoted), (unsigned)dtype, dim_count);
    }
    uint64_t elements = 1;
    bool fits = true;
    for (uint32_t i = 0; i < dim_count; i++) {
        fits = fits && lq_mul_u64(elements, ne[i], &elements);
    }
    if (dim_count > 0 && ne[0] % info->block_elems != 0) {
        return lq_error_set(err, LQ_EFORMAT,
                            "tensor '%s': rows of %llu elements are no multiple of %u, the block "
                            "of %s; choose another type",
                            lq_quote_string(name, quoted), (unsigned long long)ne[0],
                            info->block_elems, info->name);
    }
    uint64_t size_bytes = 0;
    uint64_t end = 0;
    fits = fits && lq_mul_u64(elements / info->block_elems, info->block_bytes, &size_bytes) &&
           lq_add_u64(writer->data_bytes, size_bytes, &end) &&
           lq_align_u64(end, LQ_GGUF_ALIGNMENT, &end);
    if (!fits) {
        return lq_error_set(err, LQ_EFORMAT, "tensor '%s': its size overflows 64 bits",
                            lq_quote_string(name, quoted));
    }
    put_sized(&writer->infos, name, length);
    lq_buffer_append_u32(&writer->infos, dim_count);
    for (uint32_t i = 0; i < dim_count; i++) {
        lq_buffer_append_u64(&writer->infos, ne[i]);
    }
    lq_buffer_append_u32(&writer->infos, (uint32_t)dtype);
    lq_buffer_append_u64(&writer->infos, writer->data_bytes);
    writer->data_bytes = end;
    writer->tensor_count++;
    return LQ_OK;
}

enum lq_status lq_gguf_writer_header(const struct lq_gguf_writer *writer, struct lq_buffer *out,
                                     struct lq_error *err)
{
    if (writer->kvs.failed || writer->infos.failed) {
        return lq_error_nomem(err, "the GGUF header");
    }
    struct lq_buffer header;
    struct lq_arena arena;
    struct lq_gguf check;
    lq_buffer_init(&header);
    lq_arena_init(&arena);
    lq_buffer_append(&header, "GGUF", 4);
    lq_buffer_append_u32(&header, 3);
    lq_buffer_append_u64(&header, writer->tensor_count);
    lq_buffer_append_u64(&header, writer->kv_count);
    lq_buffer_append(&header, writer->kvs.data, writer->kvs.size_bytes);
    lq_buffer_append(&header, writer->infos.data, writer->infos.size_bytes);
    if (writer->tensor_count > 0) {
        lq_buffer_pad(&header, LQ_GGUF_ALIGNMENT);
    }
    enum lq_status status = LQ_OK;
    if (header.failed) {
        status = lq_error_nomem(err, "the GGUF header");
        goto out;
    }
    status = lq_gguf_parse(header.data, header.size_bytes, header.size_bytes + writer->data_bytes,
                           "new GGUF header", LQ_EFORMAT, &arena, &check, NULL, err);
    if (status != LQ_OK) {
        goto out;
    }
    lq_buffer_append(out, header.data, header.size_bytes);
    status = out->failed ? lq_error_nomem(err, "the GGUF header") : LQ_OK;
out:
    lq_arena_fini(&arena);
    lq_buffer_fini(&header);
    return status;
}
