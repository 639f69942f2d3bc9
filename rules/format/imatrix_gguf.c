#include <string.h>

#include "engine/base/checked.h"
#include "engine/base/limits.h"
#include "engine/base/text.h"
#include "rules/format/gguf.h"
#include "rules/format/imatrix_parts.h"
#include "rules/format/quote.h"

static const char SUMS[] = ".in_sum2";
static const char COUNTS[] = ".counts";
/* Our own key: llama.cpp knows activations only and ignores it. */
static const char METHOD_KEY[] = "lqbuild.imatrix.method";

static enum lq_status read_u32_key(struct lq_imatrix_reader *in, const struct lq_gguf *gguf,
                                   const char *key, uint32_t *out)
{
    const struct lq_gguf_value *value = lq_gguf_find(gguf, key);
    if (value == NULL || value->type != LQ_GGUF_U32) {
        return lq_error_set(in->err, LQ_EIMATRIX, "%s: missing key '%s', a u32", in->where, key);
    }
    *out = (uint32_t)value->integer;
    return LQ_OK;
}

static enum lq_status read_keys(struct lq_imatrix_reader *in, const struct lq_gguf *gguf,
                                struct lq_imatrix *out)
{
    const char *type = lq_gguf_get_string(gguf, "general.type");
    if (type == NULL || strcmp(type, "imatrix") != 0) {
        char quoted[LQ_QUOTE_BYTES];
        return lq_error_set(in->err, LQ_EIMATRIX,
                            "%s: general.type is '%s', expected 'imatrix'; this GGUF file is no "
                            "importance matrix",
                            in->where, type == NULL ? "" : lq_quote_string(type, quoted));
    }
    const struct lq_gguf_value *datasets = lq_gguf_find(gguf, "imatrix.datasets");
    if (datasets == NULL || datasets->type != LQ_GGUF_ARRAY ||
        datasets->element_type != LQ_GGUF_STRING || datasets->count > LQ_IMATRIX_DATASETS_MAX) {
        return lq_error_set(in->err, LQ_EIMATRIX,
                            "%s: missing key 'imatrix.datasets', a list of at most %d strings",
                            in->where, LQ_IMATRIX_DATASETS_MAX);
    }
    out->dataset_count = (size_t)datasets->count;
    const char **names = lq_arena_get_array(in->arena, out->dataset_count, sizeof *names);
    if (names == NULL) {
        return lq_error_nomem(in->err, "an importance matrix");
    }
    for (size_t i = 0; i < out->dataset_count; i++) {
        names[i] = datasets->strings[i].data;
    }
    out->datasets = names;
    uint64_t method = lq_gguf_get_uint(gguf, METHOD_KEY, LQ_IMPORTANCE_ACTIVATION);
    if (method > LQ_IMPORTANCE_FISHER) {
        return lq_error_set(in->err, LQ_EIMATRIX, "%s: key '%s' is %llu, expected 0 to 2",
                            in->where, METHOD_KEY, (unsigned long long)method);
    }
    out->method = (enum lq_importance_method)method;
    enum lq_status status = read_u32_key(in, gguf, "imatrix.chunk_count", &out->chunk_count);
    return status == LQ_OK ? read_u32_key(in, gguf, "imatrix.chunk_size", &out->chunk_size)
                           : status;
}

/* The tensor that belongs to `name` by suffix. */
static const struct lq_gguf_tensor *find_partner(struct lq_imatrix_reader *in,
                                                 const struct lq_gguf *gguf, const char *name,
                                                 size_t name_length, const char *suffix)
{
    const char *wanted = lq_arena_printf(in->arena, "%.*s%s", (int)name_length, name, suffix);
    return wanted == NULL ? NULL : lq_gguf_find_tensor(gguf, wanted);
}

static enum lq_status read_pair(struct lq_imatrix_reader *in, const struct lq_gguf *gguf,
                                const unsigned char *data, const struct lq_gguf_tensor *sums,
                                struct lq_imatrix_entry *entry)
{
    char quoted[LQ_QUOTE_BYTES];
    size_t length = strlen(sums->name) - strlen(SUMS);
    const struct lq_gguf_tensor *counts = find_partner(in, gguf, sums->name, length, COUNTS);
    if (counts == NULL) {
        return lq_error_set(in->err, LQ_EIMATRIX, "%s: tensor '%s' has no counts beside it",
                            in->where, lq_quote_string(sums->name, quoted));
    }
    uint64_t count_count = counts->size_bytes / 4;
    bool shapes_fit = sums->ne[2] == 1 && sums->ne[3] == 1 && sums->size_bytes > 0 &&
                      (count_count == 1 || count_count == sums->ne[1]);
    if (sums->dtype != LQ_DTYPE_F32 || counts->dtype != LQ_DTYPE_F32 || !shapes_fit ||
        length == 0) {
        return lq_error_set(in->err, LQ_EIMATRIX,
                            "%s: tensor '%s' is %s of %llu x %llu with %llu counts of %s, expected "
                            "F32 sums with one count or one for each matrix",
                            in->where, lq_quote_string(sums->name, quoted),
                            lq_dtype_name(sums->dtype), (unsigned long long)sums->ne[0],
                            (unsigned long long)sums->ne[1], (unsigned long long)count_count,
                            lq_dtype_name(counts->dtype));
    }
    entry->name = lq_arena_dup(in->arena, sums->name, length);
    if (entry->name == NULL) {
        return lq_error_nomem(in->err, "an importance matrix");
    }
    entry->col_count = (size_t)sums->ne[0];
    entry->mat_count = (size_t)sums->ne[1];
    entry->count_count = (size_t)count_count;
    enum lq_status status =
        lq_imatrix_copy_floats(in, entry->name, "sum", data + sums->offset,
                               entry->mat_count * entry->col_count, &entry->sums);
    return status != LQ_OK ? status
                           : lq_imatrix_copy_floats(in, entry->name, "count", data + counts->offset,
                                                    entry->count_count, &entry->counts);
}

static enum lq_status read_entries(struct lq_imatrix_reader *in, const struct lq_gguf *gguf,
                                   const unsigned char *data, struct lq_imatrix *out)
{
    out->entries = lq_arena_get_array(in->arena, gguf->tensor_count, sizeof *out->entries);
    if (out->entries == NULL) {
        return lq_error_nomem(in->err, "an importance matrix");
    }
    for (size_t i = 0; i < gguf->tensor_count; i++) {
        const struct lq_gguf_tensor *tensor = &gguf->tensors[i];
        if (lq_text_ends_with(tensor->name, SUMS)) {
            enum lq_status status =
                read_pair(in, gguf, data, tensor, &out->entries[out->entry_count]);
            if (status != LQ_OK) {
                return status;
            }
            out->entry_count++;
        } else if (lq_text_ends_with(tensor->name, COUNTS) &&
                   find_partner(in, gguf, tensor->name, strlen(tensor->name) - strlen(COUNTS),
                                SUMS) == NULL) {
            char quoted[LQ_QUOTE_BYTES];
            return lq_error_set(in->err, LQ_EIMATRIX, "%s: tensor '%s' has no sums beside it",
                                in->where, lq_quote_string(tensor->name, quoted));
        }
    }
    return LQ_OK;
}

enum lq_status lq_imatrix_parse_gguf(const void *data, uint64_t size_bytes,
                                     struct lq_imatrix_reader *in, struct lq_imatrix *out)
{
    struct lq_gguf gguf;
    enum lq_status status = lq_gguf_parse(data, size_bytes, size_bytes, in->where, LQ_EIMATRIX,
                                          in->arena, &gguf, NULL, in->err);
    if (status == LQ_OK) {
        status = read_keys(in, &gguf, out);
    }
    return status == LQ_OK ? read_entries(in, &gguf, data, out) : status;
}

/* Trailing dimensions of one are dropped, as ggml does. */
static enum lq_status put_floats(struct lq_gguf_writer *writer, const char *name,
                                 const char *suffix, uint64_t ne0, uint64_t ne1,
                                 struct lq_error *err)
{
    char full[LQ_TENSOR_NAME_BYTES_MAX + 16];
    char quoted[LQ_QUOTE_BYTES];
    const uint64_t ne[4] = {ne0, ne1, 1, 1};
    size_t length = strlen(name);
    if (length + strlen(suffix) > LQ_GGUF_NAME_BYTES_MAX) {
        return lq_error_set(err, LQ_EIMATRIX,
                            "entry '%s': the name and '%s' take %zu bytes, a GGUF file allows %d; "
                            "write an .imatrix file instead",
                            lq_quote_string(name, quoted), suffix, length + strlen(suffix),
                            LQ_GGUF_NAME_BYTES_MAX);
    }
    memcpy(full, name, length);
    memcpy(full + length, suffix, strlen(suffix) + 1);
    return lq_gguf_put_tensor(writer, full, LQ_DTYPE_F32, ne1 == 1 ? 1 : 2, ne, err);
}

static enum lq_status put_header(const struct lq_imatrix *imatrix, struct lq_gguf_writer *writer,
                                 struct lq_error *err)
{
    struct lq_arena arena;
    lq_arena_init(&arena);
    struct lq_gguf_string *names =
        lq_arena_get_array(&arena, imatrix->dataset_count, sizeof *names);
    if (names == NULL) {
        return lq_error_nomem(err, "an importance matrix file");
    }
    for (size_t i = 0; i < imatrix->dataset_count; i++) {
        names[i] = (struct lq_gguf_string){imatrix->datasets[i], strlen(imatrix->datasets[i])};
    }
    lq_gguf_put_string(writer, "general.type", "imatrix");
    lq_gguf_put_strings(writer, "imatrix.datasets", names, imatrix->dataset_count);
    lq_gguf_put_u32(writer, "imatrix.chunk_count", imatrix->chunk_count);
    lq_gguf_put_u32(writer, "imatrix.chunk_size", imatrix->chunk_size);
    if (imatrix->method != LQ_IMPORTANCE_ACTIVATION) {
        lq_gguf_put_u32(writer, METHOD_KEY, (uint32_t)imatrix->method);
    }
    lq_arena_fini(&arena);
    for (size_t i = 0; i < imatrix->entry_count; i++) {
        const struct lq_imatrix_entry *entry = &imatrix->entries[i];
        enum lq_status status =
            put_floats(writer, entry->name, SUMS, entry->col_count, entry->mat_count, err);
        if (status == LQ_OK) {
            status = put_floats(writer, entry->name, COUNTS, 1, entry->count_count, err);
        }
        if (status != LQ_OK) {
            return status;
        }
    }
    return LQ_OK;
}

static void append_floats(struct lq_buffer *out, size_t start, const float *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        lq_buffer_append_f32(out, values[i]);
    }
    size_t rest = (out->size_bytes - start) % LQ_GGUF_ALIGNMENT;
    if (rest != 0) {
        (void)lq_buffer_extend(out, LQ_GGUF_ALIGNMENT - rest);
    }
}

enum lq_status lq_imatrix_format_gguf(const struct lq_imatrix *imatrix, struct lq_buffer *out,
                                      struct lq_error *err)
{
    struct lq_gguf_writer writer;
    size_t start = out->size_bytes;
    lq_gguf_writer_init(&writer);
    enum lq_status status = put_header(imatrix, &writer, err);
    if (status == LQ_OK) {
        status = lq_gguf_writer_header(&writer, out, err);
    }
    for (size_t i = 0; status == LQ_OK && i < imatrix->entry_count; i++) {
        const struct lq_imatrix_entry *entry = &imatrix->entries[i];
        append_floats(out, start, entry->sums, entry->mat_count * entry->col_count);
        append_floats(out, start, entry->counts, entry->count_count);
    }
    lq_gguf_writer_fini(&writer);
    return status;
}
